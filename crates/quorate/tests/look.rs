//! Nodes looked at from outside: `quorate status`, and metrics and health over HTTP.

mod common;
#[allow(dead_code)]
mod cluster {
    pub(crate) mod network;
    pub(crate) mod nodes;
}

use cluster::nodes::{Cluster, NODES, ask};
use common::node::quorate;
use common::{Node, PATIENCE, eventually, free_address};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use tempfile::TempDir;

fn status(at: &str, args: &[&str]) -> Output {
    let output = quorate().args(["status", "--at", at]).args(args).output();
    output.expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json(at: SocketAddr) -> Value {
    let output = status(&at.to_string(), &["--json"]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn one_node_is_healthy_and_says_so() {
    let data = TempDir::new().expect("a temporary directory");
    let node = Node::start(data.path(), &["--workers", "2"]);
    for key in 0..30 {
        assert_eq!(node.client().line(&format!("SET key:{key} value")).bytes(), b"OK");
    }
    let output = status(&node.address.to_string(), &["--shards"]);
    let page = text(&output);
    assert!(output.status.success(), "{page}");
    assert!(page.starts_with("● healthy: 1 node, 16 shards\n"), "{page}");
    assert!(page.contains("\nShards\n") && page.contains("15360-16383"), "{page}");
    assert!(!page.contains('\x1b'), "there is no terminal to colour: {page}");
    assert!(!text(&status(&node.address.to_string(), &[])).contains("15360-16383"));
}

/// The names of the documented shape, with the type of each value.
const SHAPE: &[(&str, &str)] = &[
    ("/format", "number"),
    ("/healthy", "bool"),
    ("/health", "string"),
    ("/problems", "array"),
    ("/nodes/0/node", "number"),
    ("/nodes/0/address", "string"),
    ("/nodes/0/reachable", "bool"),
    ("/nodes/0/reason", "null"),
    ("/nodes/0/status/format", "number"),
    ("/nodes/0/status/node", "number"),
    ("/nodes/0/status/version", "string"),
    ("/nodes/0/status/uptime_ms", "number"),
    ("/nodes/0/status/quorum", "bool"),
    ("/nodes/0/status/peers/0/up", "bool"),
    ("/nodes/0/status/peers/0/since_ms", "number"),
    ("/nodes/0/status/peers/0/client_address", "string"),
    ("/nodes/0/status/peers/0/reason", "null"),
    ("/nodes/0/status/spaces/0/name", "string"),
    ("/nodes/0/status/shards/0/first_slot", "number"),
    ("/nodes/0/status/shards/0/role", "string"),
    ("/nodes/0/status/shards/0/state", "string"),
    ("/nodes/0/status/shards/0/leader", "number"),
    ("/nodes/0/status/shards/0/lag", "array"),
    ("/nodes/0/status/load/commands", "number"),
    ("/nodes/0/status/load/commands_per_second", "number"),
    ("/nodes/0/status/load/recent_latency/count", "number"),
    ("/nodes/0/status/memory/data_bytes", "number"),
    ("/nodes/0/status/memory/process_bytes", "number"),
    ("/nodes/0/status/journal/bytes", "number"),
    ("/nodes/0/status/journal/sync_latency/p99_us", "number"),
    ("/nodes/0/status/disk/free_bytes", "number"),
    ("/nodes/0/status/disk/full", "bool"),
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[test]
fn a_cluster_is_seen_whole_from_any_node_and_with_one_killed() {
    let mut cluster = Cluster::start(&["--workers", "1"]);
    let addresses = cluster.addresses();
    ask(&mut cluster.client(0), &["SET", "k", "v"]);
    for address in &addresses {
        let seen = eventually("the cluster is healthy", || {
            Some(json(*address)).filter(|seen| seen["healthy"] == true)
        });
        for (pointer, expected) in SHAPE {
            let value = seen.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
            assert_eq!(kind(value), *expected, "{pointer}: {value}");
        }
        let nodes = seen["nodes"].as_array().expect("nodes");
        let found: Vec<_> = nodes.iter().map(|n| n["address"].as_str().unwrap_or("")).collect();
        assert_eq!(found, addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>());
        let led = nodes.iter().flat_map(|n| n["status"]["shards"].as_array().expect("shards"));
        assert_eq!(led.filter(|shard| shard["role"] == "leader").count(), 16);
    }

    cluster.kill(1);
    let at = addresses[2].to_string();
    let output = eventually("the others lead what it led", || {
        let output = status(&at, &[]);
        text(&output).starts_with("▲ degraded: node 2").then_some(output)
    });
    let page = text(&output);
    assert_eq!(output.status.code(), Some(1), "{page}");
    let said = format!("node 2 at {} does not answer: nothing listens there\n", addresses[1]);
    assert!(page.contains(&said) && page.contains("→ start it again"), "{page}");
    assert!(page.contains("unreachable") && page.contains("down "), "{page}");

    // A node that cannot be asked first is passed over.
    let both = format!("{},{at}", addresses[1]);
    assert!(text(&status(&both, &[])).starts_with("▲ degraded: node 2"));
    cluster.restart(1);
    eventually("it is well again", || status(&both, &[]).status.success().then_some(()));

    // Two of three are too many.
    cluster.kill(0);
    cluster.kill(1);
    let page = eventually("the last one knows no leader any more", || {
        let page = text(&status(&at, &[]));
        page.starts_with("✖ down: 16 of 16 shards have no leader").then_some(page)
    });
    assert!(page.contains("bring back enough nodes"), "{page}");
}

#[test]
fn who_does_not_answer_is_told_with_the_reason() {
    let nowhere = free_address().to_string();
    let output = status(&nowhere, &[]);
    assert_eq!(output.status.code(), Some(1));
    let page = text(&output);
    assert!(page.starts_with("✖ down: no node answers at"), "{page}");
    assert!(page.contains("nothing listens there") && page.contains("--at"), "{page}");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let page = text(&status(&address, &[]));
    other.join().expect("it does not panic");
    assert!(page.contains("what answers there is no Quorate"), "{page}");
    assert!(text(&status("no-port", &[])).contains("HOST:PORT"));
    let top = quorate().arg("top").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&top.stderr).into_owned();
    assert!(!top.status.success() && said.contains("needs a terminal"), "{said}");
}

// --- HTTP ------------------------------------------------------------------------------------

fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(request).expect("it takes the request");
    stream
}

/// Everything that comes until the connection is closed.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The status code, the head and the body.
fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = rest(send(address, request.as_bytes()));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, head.to_lowercase(), body.to_owned())
}

/// The samples by name and labels; panics where the text is not as Prometheus wants it.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (word, rest) = rest.split_once(' ').expect("a word and more");
            let (name, rest) = rest.split_once(' ').expect("a name and more");
            assert!(name.starts_with("quorate_"), "{line}");
            match word {
                "TYPE" => assert_eq!(types.insert(name, rest), None, "{line}"),
                "HELP" => assert!(rest.ends_with('.'), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let family = name.split('{').next().expect("a name");
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| family.strip_suffix(suffix))
            .any(|family| types.get(family) == Some(&"histogram"));
        let kind = types.get(family).copied();
        assert!(of_histogram || kind.is_some(), "no TYPE before {line}");
        assert_eq!(kind == Some("counter"), family.ends_with("_total"), "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(samples.insert(name.to_owned(), value), None, "twice: {line}");
    }
    samples
}

#[test]
fn metrics_count_what_happens() {
    let (data, http) = (TempDir::new().expect("a temporary directory"), free_address());
    let node = Node::start(data.path(), &["--workers", "2", "--http", &http.to_string()]);
    let mut client = node.client();
    for key in 0..20 {
        assert_eq!(client.line(&format!("SET key:{key} value")).bytes(), b"OK");
    }
    assert!(client.line("NONSENSE").is_error());
    let (code, head, body) = get(http, "/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let seen = samples(&body);
    assert_eq!(seen["quorate_keys{space=\"default\"}"], 20.0);
    assert_eq!(seen["quorate_errors_total"], 1.0);
    assert!(seen["quorate_commands_total"] >= 21.0);
    assert_eq!(seen["quorate_shards{role=\"alone\"}"], 16.0);
    assert_eq!(seen["quorate_clients"], 1.0);
    for name in ["quorate_command_duration_seconds", "quorate_journal_sync_duration_seconds"] {
        let count = seen[&format!("{name}_count")];
        assert!(count >= 20.0, "{name}: {count}");
        assert_eq!(seen[&format!("{name}_bucket{{le=\"+Inf\"}}")], count);
        let buckets = body.lines().filter(|line| line.starts_with(&format!("{name}_bucket")));
        let counts: Vec<f64> =
            buckets.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(counts.windows(2).all(|two| two[0] <= two[1]), "{counts:?}");
    }
}

#[test]
fn bad_requests_and_slow_clients_hold_nothing_up() {
    let (data, http) = (TempDir::new().expect("a temporary directory"), free_address());
    let node = Node::start(data.path(), &["--http", &http.to_string()]);
    let (code, head, body) = get(http, "/health");
    assert_eq!((code, body.contains("\"status\":\"ok\"")), (200, true), "{head} {body}");
    assert_eq!(get(http, "/health/live").0, 200);
    assert_eq!(get(http, "/").0, 404);
    let post =
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let answer = rest(send(http, post));
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
    let garbage = rest(send(http, b"\x16\x03\x01 nonsense\r\n\r\n"));
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let long = [b"GET /".as_slice(), &[b'a'; 64 << 10]].concat();
    let answer = rest(send(http, &long));
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    // These never finish what they say, and keep nobody else from being answered.
    let slow: Vec<_> = (0..8).map(|_| send(http, b"GET /metrics HTT")).collect();
    assert_eq!(get(http, "/metrics").0, 200);
    assert_eq!(node.client().line("SET k v").bytes(), b"OK");
    for stream in slow {
        // In time they are told so, or just closed.
        let said = rest(stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }

    let other = TempDir::new().expect("a temporary directory");
    let taken = ["--http", &node.address.to_string()];
    let refused = common::node::run_to_end(free_address(), other.path(), &taken);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("cannot serve HTTP on"), "{refused:?}");
}

#[test]
fn a_node_without_a_majority_is_alive_and_not_ready() {
    let mut cluster = Cluster::start(&["--workers", "1"]);
    let http = free_address();
    cluster.terminate(0);
    cluster.restart_with(0, &["--http", &http.to_string()]);
    eventually("it is ready", || (get(http, "/health").0 == 200).then_some(()));
    assert_eq!(samples(&get(http, "/metrics").2)["quorate_quorum"], 1.0);
    cluster.kill(1);
    cluster.kill(NODES - 1);
    let body = eventually("it is not ready any more", || {
        let (code, _, body) = get(http, "/health");
        (code == 503).then_some(body)
    });
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&body["status"], &body["node"]), (&"unavailable".into(), &1.into()));
    assert!(body["reasons"].to_string().contains("reaches no majority"), "{body}");
    assert_eq!(get(http, "/health/live").0, 200);
    let seen = samples(&get(http, "/metrics").2);
    assert_eq!((seen["quorate_quorum"], seen["quorate_peer_up{peer=\"2\"}"]), (0.0, 0.0));
}
