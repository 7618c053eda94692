//! Scripts on a whole node of two workers, and on a cluster.

use super::SCRIPT_INSTRUCTIONS_MAX;
use crate::testing::Node;

/// RESP of a command.
fn resp(args: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    out
}

struct Bench {
    node: Node,
    /// One at each worker.
    clients: [u64; 2],
}

impl Bench {
    fn new() -> Self {
        let mut node = Node::new(2);
        let clients = [node.client(), node.client()];
        Self { node, clients }
    }

    fn ask(&mut self, worker: usize, args: &[&str]) -> String {
        self.node.feed(self.clients[worker], &resp(args));
        self.node.settle();
        self.node.text(self.clients[worker])
    }

    /// The same from the clients of both workers.
    #[track_caller]
    fn check(&mut self, args: &[&str], expected: &str) {
        for worker in [0, 1] {
            assert_eq!(self.ask(worker, args), expected, "{args:?} at worker {worker}");
        }
    }
}

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const SET: &str = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])";
const INCR: &str = "for i, key in ipairs(KEYS) do redis.call('INCR', key) end return #KEYS";

#[test]
fn a_script_executes_wherever_its_keys_are() {
    let mut bench = Bench::new();
    for key in KEYS {
        bench.check(&["EVAL", SET, "1", key, "v"], "$1|v|");
        bench.check(&["GET", key], "$1|v|");
        bench.ask(0, &["DEL", key]);
    }
    let all = ["EVAL", INCR, "6", "a", "b", "c", "d", "e", "f"];
    bench.check(&all, ":6|");
    let twos = ["$1|2|"; 6].concat();
    bench.check(&["MGET", "a", "b", "c", "d", "e", "f"], &format!("*6|{twos}"));
}

#[test]
fn keys_that_are_not_declared_are_found_as_well() {
    let mut bench = Bench::new();
    let undeclared = "redis.call('INCR', 'mine') for i = 1, 6 do \
                      redis.call('INCR', string.char(96 + i)) end return redis.call('DBSIZE')";
    bench.check(&["EVAL", undeclared, "0"], ":7|");
    // What it did before it was seen to need more was taken back.
    let twos = ["$1|2|"; 7].concat();
    bench.check(&["MGET", "mine", "a", "b", "c", "d", "e", "f"], &format!("*7|{twos}"));
    // It is known by now, so a transaction has the shards as well.
    let expected = "+OK|+QUEUED|*1|:7|";
    let mut said = bench.ask(0, &["MULTI"]);
    said += &bench.ask(0, &["EVAL", undeclared, "0"]);
    said += &bench.ask(0, &["EXEC"]);
    assert_eq!(said, expected);
}

#[test]
fn a_script_is_known_by_its_sha_at_every_worker() {
    let mut bench = Bench::new();
    let sha = quorate_script::sha1_hex(SET.as_bytes());
    let missing = "-NOSCRIPT No matching script. Please use EVAL.|";
    bench.check(&["EVALSHA", &sha, "1", "a", "v"], missing);
    bench.check(&["SCRIPT", "EXISTS", &sha], "*1|:0|");
    assert_eq!(bench.ask(0, &["SCRIPT", "LOAD", SET]), format!("$40|{sha}|"));
    bench.check(&["SCRIPT", "EXISTS", &sha, "x"], "*2|:1|:0|");
    for key in KEYS {
        bench.check(&["EVALSHA", &sha.to_uppercase(), "1", key, "v"], "$1|v|");
        bench.check(
            &["EVALSHA_RO", &sha, "1", key, "v"],
            &format!(
                "-ERR Write commands are not allowed from read-only scripts. script: {sha}, on \
             @user_script:1.|"
            ),
        );
    }
    bench.check(&["SCRIPT", "FLUSH"], "+OK|");
    bench.check(&["EVALSHA", &sha, "1", "a", "v"], missing);
    // EVAL makes it known too.
    assert_eq!(bench.ask(1, &["EVAL", SET, "1", "a", "v"]), "$1|v|");
    bench.check(&["EVALSHA", &sha, "1", "b", "v"], "$1|v|");
    bench.node.restart();
    bench.clients = [bench.node.client(), bench.node.client()];
    bench.check(&["EVALSHA", &sha, "1", "a", "v"], missing);
    bench.check(&["GET", "b"], "$1|v|");
}

#[test]
fn a_script_that_is_ended_leaves_nothing() {
    let mut bench = Bench::new();
    bench.ask(0, &["RPUSH", "a", "1", "2", "3"]);
    bench.ask(0, &["SET", "b", "before", "PX", "100000"]);
    let endless = "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[2], 'after') \
                   redis.call('HSET', KEYS[3], 'f', 'v') while true do end";
    let text = format!(
        "-ERR The script was ended: it may execute {SCRIPT_INSTRUCTIONS_MAX} instructions, and \
         did; nothing that it did was kept|"
    );
    bench.check(&["EVAL", endless, "3", "a", "b", "c"], &text);
    for restarted in [false, true] {
        if restarted {
            bench.node.restart();
            bench.clients = [bench.node.client(), bench.node.client()];
        }
        bench.check(&["LRANGE", "a", "0", "-1"], "*3|$1|1|$1|2|$1|3|");
        bench.check(&["GET", "b"], "$6|before|");
        bench.check(&["PTTL", "b"], ":100000|");
        bench.check(&["EXISTS", "c"], ":0|");
    }
    // One that fails keeps what it did, as in Redis.
    let failing = "redis.call('SET', KEYS[1], 'kept') error('x')";
    assert!(bench.ask(0, &["EVAL", failing, "1", "d"]).starts_with("-ERR user_script:1: x"));
    bench.check(&["GET", "d"], "$4|kept|");
}

#[test]
fn wrong_calls_get_redis_errors() {
    let mut bench = Bench::new();
    bench.check(&["EVAL", "return 1", "x"], "-ERR value is not an integer or out of range|");
    bench.check(&["EVAL", "return 1", "-1"], "-ERR Number of keys can't be negative|");
    bench.check(
        &["EVAL", "return 1", "2", "a"],
        "-ERR Number of keys can't be greater than number of args|",
    );
    bench.check(&["EVAL", "return", "0", "a"], "$-1|");
    bench.check(
        &["EVAL", "x =", "0"],
        "-ERR Error compiling script (new function): \
                user_script:1: unexpected symbol near '<eof>'|",
    );
    bench.check(
        &["SCRIPT", "LOAD", "x ="],
        "-ERR Error compiling script (new function): \
                user_script:1: unexpected symbol near '<eof>'|",
    );
    bench.check(&["SCRIPT", "FLUSH", "x"], "-ERR SCRIPT FLUSH only support SYNC|ASYNC option|");
    bench.check(&["SCRIPT", "KILL"], "-NOTBUSY No scripts in execution right now.|");
    bench.check(
        &["SCRIPT", "DEBUG", "YES"],
        "-ERR Scripts cannot be debugged on this server: try them on a Redis server|",
    );
    bench.check(
        &["EVAL", "#!lua flags=no-writes\nreturn redis.pcall('SET', KEYS[1], 1)", "1", "a"],
        "-ERR Write commands are not allowed from read-only scripts.|",
    );
    bench.check(
        &["EVAL_RO", "#!lua\nreturn 1", "0"],
        "-ERR Can not execute a script with write flag using *_ro command.|",
    );
    bench.check(
        &["EVAL", "return redis.pcall('MULTI')", "0"],
        "-ERR This Redis command is not allowed from script|",
    );
}

#[test]
fn commands_of_a_script_do_not_block() {
    let mut bench = Bench::new();
    bench.check(&["EVAL", "return redis.call('BLPOP', KEYS[1], 0)", "1", "list"], "$-1|");
    // Whom a script wakes is served after it.
    bench.node.feed(bench.clients[0], &resp(&["BLPOP", "list", "0"]));
    bench.node.settle();
    let push = "redis.call('RPUSH', KEYS[1], 'x') return redis.call('LLEN', KEYS[1])";
    assert_eq!(bench.ask(1, &["EVAL", push, "1", "list"]), ":1|");
    assert_eq!(bench.node.text(bench.clients[0]), "*2|$4|list|$1|x|");
}

#[test]
fn a_transaction_takes_scripts() {
    let mut bench = Bench::new();
    let mut said = bench.ask(0, &["MULTI"]);
    for key in KEYS {
        said += &bench.ask(0, &["EVAL", SET, "1", key, "v"]);
    }
    said += &bench.ask(0, &["EXEC"]);
    let (queued, values) = (["+QUEUED|"; 6].concat(), ["$1|v|"; 6].concat());
    assert_eq!(said, format!("+OK|{queued}*6|{values}"));
}

mod in_a_cluster {
    use crate::testing::cluster::Cluster;

    /// Three nodes with a leader for each of four shards, and a client at each node.
    fn cluster() -> (Cluster, [u64; 3]) {
        let mut cluster = Cluster::new(3, 2, 4);
        cluster.elect();
        let clients = [0, 1, 2].map(|at| cluster.nodes[at].client());
        (cluster, clients)
    }

    const INCR: &str = "EVAL \"return redis.call('INCR', KEYS[1])\" 1";

    #[test]
    fn a_script_executes_at_the_leader() {
        let (mut cluster, clients) = cluster();
        for key in ["a", "b", "c", "d", "e"] {
            for at in [0, 1, 2] {
                let text = cluster.wait(at, clients[at], &format!("{INCR} {key}"), 5_000);
                assert_eq!(text, format!(":{}|", at + 1), "{key} at node {at}");
            }
        }
        // Where it was called, it can be called by its SHA-1.
        let sha = quorate_script::sha1_hex(b"return redis.call('INCR', KEYS[1])");
        for key in ["a", "b", "c", "d", "e"] {
            let text = cluster.wait(1, clients[1], &format!("EVALSHA {sha} 1 {key}"), 5_000);
            assert_eq!(text, ":4|", "{key}");
        }
        let mut said = String::new();
        for line in ["MULTI", &format!("EVALSHA {sha} 1 a"), "EXEC"] {
            said += &cluster.wait(2, clients[2], line, 5_000);
        }
        assert_eq!(said, "+OK|+QUEUED|*1|:5|");
    }

    #[test]
    fn the_keys_of_a_script_lie_in_one_shard() {
        let (mut cluster, clients) = cluster();
        let two = "EVAL \"return 1\" 2 a b";
        assert!(cluster.wait(0, clients[0], two, 5_000).starts_with("-CROSSSLOT"));
        let other = "EVAL \"return redis.pcall('GET', 'b').err\" 1 a";
        let text = cluster.wait(0, clients[0], other, 5_000);
        assert!(text.contains("name every key in KEYS"), "{text}");
        let whole = "EVAL \"return redis.pcall('DBSIZE').err\" 1 a";
        let text = cluster.wait(0, clients[0], whole, 5_000);
        assert!(text.contains("which a script of a cluster does not have"), "{text}");
        let no_cluster = "EVAL \"#!lua flags=no-cluster\\nreturn 1\" 0";
        let text = cluster.wait(0, clients[0], no_cluster, 5_000);
        assert_eq!(text, "-ERR Can not run script on cluster, 'no-cluster' flag is set.|");
    }

    #[test]
    fn what_a_script_did_outlives_its_leader() {
        let (mut cluster, clients) = cluster();
        let shard = cluster.nodes[0].workers[0].db.map().place(b"a").shard;
        let leader = cluster.leader(shard).unwrap();
        let at = (leader + 1) % 3;
        assert_eq!(cluster.wait(at, clients[at], &format!("{INCR} a"), 5_000), ":1|");
        cluster.crash(leader);
        assert_eq!(cluster.wait(at, clients[at], &format!("{INCR} a"), 20_000), ":2|");
        cluster.restart(leader);
        assert_eq!(cluster.wait(at, clients[at], "GET a", 20_000), "$1|2|");
    }

    #[test]
    fn a_script_whose_answer_is_lost_is_no_second_execution() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let clients = [0, 1, 2].map(|at| cluster.nodes[at].client());
        let leader = cluster.leader(0).unwrap();
        let (client, other) = (clients[leader], (leader + 1) % 3);
        assert_eq!(cluster.wait(leader, client, &format!("{INCR} a"), 5_000), ":1|");
        // It is executed, but nobody else learns of it before the leader is cut off.
        cluster.nodes[leader].feed(client, format!("{INCR} a\r\n").as_bytes());
        cluster.nodes[leader].parcels.clear();
        cluster.isolate(leader, true);
        cluster.advance(6_000);
        let text = cluster.nodes[leader].text(client);
        assert!(text.starts_with("-UNKNOWN "), "{text}");
        let id = text.split(' ').nth(1).unwrap().to_owned();
        cluster.isolate(leader, false);
        cluster.advance(1_000);
        let asked = format!("QUORATE OUTCOME {id}");
        let outcome = cluster.wait(other, clients[other], &asked, 5_000);
        let count = cluster.wait(other, clients[other], "GET a", 5_000);
        match outcome.as_str() {
            "*1|$12|NOT-EXECUTED|" => assert_eq!(count, "$1|1|"),
            "*2|$8|EXECUTED|:2|" => assert_eq!(count, "$1|2|"),
            other => panic!("{other}"),
        }
    }
}
