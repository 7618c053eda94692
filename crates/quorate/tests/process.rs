//! The process as its operator sees it: settings, refusals, signals, logs, a full disk.

mod common;

use common::node::{quorate, run_to_end};
use common::{Client, Exit, Node, PATIENCE, eventually, free_address};
use rustix::process::Signal;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn directory() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// A refusal to start ends with 1, and says what is wrong and what to do.
#[track_caller]
fn assert_refused(exit: &Exit, words: &[&str]) {
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    for word in words {
        assert!(exit.stderr.contains(word), "'{word}' is missing: {exit:?}");
    }
}

#[track_caller]
fn refused(data: &Path, args: &[&str], words: &[&str]) {
    assert_refused(&run_to_end(free_address(), data, args), words);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound");
    let data = directory();
    let exit = run_to_end(address, data.path(), &[]);
    assert_refused(&exit, &["cannot listen", &address.to_string(), "--listen"]);
    assert!(!data.path().join("node.json").exists(), "the directory was touched");
}

#[test]
fn a_directory_belongs_to_one_process() {
    let data = directory();
    let first = Node::start(data.path(), &[]);
    assert_eq!(first.client().line("SET a 1").bytes(), b"OK");
    let path = data.path().canonicalize().expect("it exists");
    refused(
        data.path(),
        &[],
        &["another process uses the data directory", &path.display().to_string(), "--data"],
    );
    assert_eq!(first.client().line("GET a").bytes(), b"1");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let data = directory();
    let dir = directory();
    let file = dir.path().join("quorate.toml");
    let check = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).expect("a file in a directory of ours");
        let path = file.to_str().expect("a plain path");
        refused(data.path(), &["--config", path], words);
    };
    check("durabilty = \"sync\"", &["durabilty"]);
    check("durability = \"maybe\"", &["maybe", "relaxed"]);
    check("workers = \"many\"", &["many"]);
    check("memory = \"5 parsecs\"", &["5 parsecs", "MiB"]);
    check("[[space]]\nname = \"a\"\nprefix = \"\"", &["empty prefix"]);
    check("[[space]]\nname = \"a\"\nprefix = \"a:\"\nshards = 0", &["0 shards"]);
    check("[[space]]\nname = \"a\"\nprefix = \"a:\"\ncolour = 1", &["colour"]);
    check("this is no TOML", &[]);
    refused(data.path(), &["--config", "/nosuch/file"], &["/nosuch/file", "--config"]);
    refused(data.path(), &["--log", "[["], &["[["]);
    assert!(!data.path().join("node.json").exists(), "the directory was touched");
}

#[test]
fn arguments_that_make_no_sense_are_named() {
    let run = |args: &[&str]| {
        let output = quorate().args(args).output().expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Exit { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    };
    for args in [
        &["serve", "--durability", "maybe"][..],
        &["serve", "--listen", "here"],
        &["serve", "--nosuch"],
        &["nosuch"],
        &[],
    ] {
        let exit = run(args);
        assert_eq!(exit.status.code(), Some(2), "{args:?}: {exit:?}");
        assert!(exit.stderr.contains("--help"), "{args:?}: {exit:?}");
    }
    assert!(run(&["serve", "--durability", "maybe"]).stderr.contains("relaxed"));
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stdout.contains("redis-cli"), "{help:?}");
    let help = run(&["serve", "--help"]);
    for word in ["Examples:", "[[space]]", "QUORATE_LISTEN", "--durability relaxed"] {
        assert!(help.stdout.contains(word), "'{word}' is missing: {help:?}");
    }
    assert!(run(&["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_setting_may_come_from_the_environment() {
    let data = directory();
    let refused = quorate()
        .arg("serve")
        .env("QUORATE_LISTEN", free_address().to_string())
        .env("QUORATE_DATA", data.path())
        .env("QUORATE_DURABILITY", "maybe")
        .output()
        .expect("the binary starts");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("maybe"), "{refused:?}");
}

#[test]
fn spaces_stay_as_the_data_was_written() {
    let data = directory();
    let dir = directory();
    let file = dir.path().join("quorate.toml");
    let path = file.to_str().expect("a plain path");
    let write = |text: &str| std::fs::write(&file, text).expect("a file in a directory of ours");
    let cache = "[[space]]\nname = \"cache\"\nprefix = \"cache:\"\nshards = 2\n";
    let hot = "[[space]]\nname = \"hot\"\nprefix = \"cache:hot:\"\n";
    write(&format!("{cache}durability = \"relaxed\"\n{hot}"));
    let mut node = Node::start(data.path(), &["--config", path]);
    let mut client = node.client();
    for key in ["a", "cache:a", "cache:hot:a", "cache", "cach"] {
        assert_eq!(client.call(&["SET", key, key]).bytes(), b"OK");
    }
    assert_eq!(client.line("DBSIZE").number(), Some(5));
    assert!(node.terminate().status.success());

    let there = |node: &Node| {
        let mut client = node.client();
        for key in ["a", "cache:a", "cache:hot:a", "cache", "cach"] {
            assert_eq!(client.call(&["GET", key]).bytes(), key.as_bytes());
        }
    };
    // The order and the durability may change.
    write(&format!("{hot}{cache}"));
    let mut node = Node::start(data.path(), &["--config", path]);
    there(&node);
    assert!(node.terminate().status.success());

    let refusal = |text: &str, words: &[&str]| {
        write(text);
        refused(data.path(), &["--config", path], words);
    };
    refusal(cache, &["hot", "cache:hot:", "lost from sight"]);
    refusal(&format!("{cache}{hot}{}", hot.replace("hot", "new")), &["new"]);
    refusal(&format!("{}{hot}", cache.replace("shards = 2", "shards = 3")), &["cache", "2 shards"]);
    refusal(&format!("{}{hot}", cache.replace("cache:", "store:")), &["cache:"]);
    refused(data.path(), &[], &["lost from sight"]);
    write(&format!("{cache}{hot}"));
    there(&Node::start(data.path(), &["--config", path]));
}

#[test]
fn a_directory_that_lost_its_identity_is_refused() {
    let data = directory();
    let mut node = Node::start(data.path(), &[]);
    assert_eq!(node.client().line("SET a 1").bytes(), b"OK");
    assert!(node.terminate().status.success());
    let identity = data.path().join("node.json");
    let text = std::fs::read_to_string(&identity).expect("a node writes its identity");
    std::fs::remove_file(&identity).expect("it was just there");
    refused(data.path(), &[], &["node.json", "restore"]);
    std::fs::write(&identity, &text[..text.len() / 2]).expect("a directory of ours");
    refused(data.path(), &[], &["node.json", "restore"]);
    std::fs::write(&identity, text.replace("\"format\": 1", "\"format\": 999")).expect("ours");
    refused(data.path(), &[], &["node.json", "999"]);
    std::fs::write(&identity, &text).expect("a directory of ours");
    assert_eq!(Node::start(data.path(), &[]).client().line("GET a").bytes(), b"1");
}

#[test]
fn signals_and_shutdown_stop_in_order() {
    let data = directory();
    let mut node = Node::start(data.path(), &[]);
    for (n, signal) in [Some(Signal::TERM), Some(Signal::INT), None].into_iter().enumerate() {
        let mut client = node.client();
        assert_eq!(client.line("INCR starts").number(), Some(n as i64 + 1));
        // Clients that wait for something do not hold it up.
        let mut waiting = node.client();
        waiting.queue(&["BLPOP", "nothing", "0"]);
        waiting.flush().expect("it listens");
        match signal {
            Some(signal) => node.signal(signal),
            None => {
                client.queue(&["SHUTDOWN"]);
                client.flush().expect("it listens");
            }
        }
        let exit = node.wait();
        assert!(exit.status.success(), "{signal:?}: {exit:?}");
        assert!(exit.stderr.contains("shutting down"), "{exit:?}");
        node = node.restart();
        assert!(!node.stdout().contains("replayed"), "a clean stop leaves nothing to replay");
    }
}

#[test]
fn json_logs_are_json() {
    let data = directory();
    let mut node = Node::start(data.path(), &["--log-format", "json"]);
    node.client().line("PING");
    let exit = node.terminate();
    assert!(exit.stderr.lines().count() >= 2, "{exit:?}");
    for line in exit.stderr.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "fields"] {
            assert!(value.get(field).is_some(), "{field} is missing: {line}");
        }
    }
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None, with a line that says so, where mounting is not permitted.
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = directory();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                println!("SKIPPED: a small disk cannot be mounted here (needs root)");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes room until so many bytes are left, or none.
    fn fill(&self, left: u64) -> PathBuf {
        const PIECE: usize = 1 << 20;
        let path = self.path().join("ballast");
        let mut file = File::create(&path).expect("a file on a disk of ours");
        let piece = vec![1; PIECE];
        while free_bytes(self.path()) > left && file.write_all(&piece).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).expect("it is mounted");
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    // What is left is below the reserve, and takes what flushes there are.
    fill_disk("k", 16, 40 << 20);
}

#[test]
fn a_full_disk_does_not_need_room_for_flushes() {
    fill_disk("{one}k", 200, 0);
}

#[test]
fn a_full_disk_has_room_again_once_keys_are_deleted() {
    const MEGABYTES: u32 = 512;
    const KEYS: u64 = 1200;
    let Some(disk) = SmallDisk::mount(MEGABYTES) else { return };
    let mut node = Node::start(&disk.path().join("data"), &[]);
    let mut client = node.client();
    let value = "v".repeat(100 << 10);
    for n in 0..KEYS {
        assert_eq!(client.call(&["SET", &format!("k{n}"), &value]).bytes(), b"OK", "there is room");
    }
    disk.fill(50 << 20);
    eventually("the disk is full", || {
        client.call(&["SET", "k3", "1"]).text().starts_with("MISCONF").then_some(())
    });
    assert_eq!(client.line("STRLEN k1").number(), Some(value.len() as i64));
    assert_eq!(client.line("DEL k0 k1").number(), Some(2));
    assert_eq!(client.line("EXPIRE k2 0").number(), Some(1));
    assert_eq!(client.line("DBSIZE").number(), Some(KEYS as i64 - 3));
    assert_eq!(client.line("FLUSHALL").bytes(), b"OK");
    // Nobody makes room but the node itself.
    eventually("writes are accepted again", || {
        (client.call(&["SET", "more", "1"]).bytes() == b"OK").then_some(())
    });
    node.kill();
    let mut node = node.restart();
    let mut client = node.client();
    assert_eq!(client.line("DBSIZE").number(), Some(1));
    assert_eq!(client.line("GET more").bytes(), b"1");
    assert!(node.terminate().status.success());
}

#[test]
fn a_node_whose_journal_may_be_short_takes_all_writes_and_stops_cleanly() {
    let data = directory();
    let config = data.path().join("quorate.toml");
    std::fs::write(&config, "journal = \"64 MiB\"\n").expect("a file in a directory of ours");
    let config = config.display().to_string();
    let mut node = Node::start(&data.path().join("data"), &["--config", &config, "--workers", "2"]);
    let mut client = node.client();
    let value = "v".repeat(1 << 20);
    for n in 0..400 {
        assert_eq!(client.call(&["SET", &format!("k{}", n % 100), &value]).bytes(), b"OK");
    }
    let bytes: u64 = std::fs::read_dir(data.path().join("data/journal"))
        .expect("a node has a journal")
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    // Besides what writes wait for there are segments to be used again, and the current one.
    assert!(bytes < (64 + 400) << 20, "{bytes}");
    assert!(node.terminate().status.success());

    std::fs::write(&config, "journal = \"1 MiB\"\n").expect("a file in a directory of ours");
    let other = data.path().join("other");
    refused(&other, &["--config", &config], &["journal = '1 MiB' is no size of at least 64 MiB"]);
}

/// Fills the disk until `left` bytes are left, while `keys` keys are written over and over.
fn fill_disk(prefix: &str, keys: u64, left: u64) {
    const MEGABYTES: u32 = 512;
    /// Far more than the prepared journal holds, of values of this size.
    const WRITES_MAX: u64 = 4000;
    const VALUE_BYTES: usize = 100 << 10;
    let Some(disk) = SmallDisk::mount(MEGABYTES) else { return };
    let data = disk.path().join("data");
    let mut node = Node::start(&data, &[]);
    let mut client = node.client();
    let value = "v".repeat(VALUE_BYTES);
    let mut acknowledged: Vec<u64> = Vec::new();
    let mut set = |client: &mut Client, n: u64| {
        // The same keys again: the data stays small, and what fills the disk is the journal.
        let reply =
            client.call(&["SET", &format!("{prefix}{}", n % keys), &format!("{n}:{value}")]);
        match reply.bytes() {
            b"OK" => acknowledged.push(n),
            _ => assert!(reply.text().starts_with("MISCONF"), "{reply:?}"),
        }
        reply.is_error()
    };
    for n in 0..keys {
        assert!(!set(&mut client, n), "there is room");
    }
    let ballast = disk.fill(left);
    let refused = (keys..WRITES_MAX).find(|&n| set(&mut client, n)).expect("the disk gets full");
    let strlen = format!("STRLEN {prefix}0");
    let reply = client.line("MULTI");
    assert_eq!(reply.bytes(), b"OK");
    assert!(client.line("INCR n").text().starts_with("MISCONF"));
    assert!(client.line("EXEC").text().starts_with("EXECABORT"));
    assert_eq!(client.line(&strlen).number().map(|len| len > VALUE_BYTES as i64), Some(true));
    assert_eq!(client.line("GET nosuch").bytes(), b"");

    // It stops and starts on a full disk as on any other.
    assert!(node.terminate().status.success());
    let mut node = node.restart();
    let mut client = node.client();
    assert_eq!(client.line(&strlen).number().map(|len| len > VALUE_BYTES as i64), Some(true));

    std::fs::remove_file(ballast).expect("it is ours");
    eventually("writes are accepted again", || (!set(&mut client, refused)).then_some(()));
    for n in refused + 1..refused + 100 {
        assert!(!set(&mut client, n), "there is room");
    }
    node.kill();
    let mut node = node.restart();
    let mut client = Client::connect(node.address, PATIENCE).expect("it listens");
    for key in 0..keys {
        let last = acknowledged.iter().rev().find(|n| *n % keys == key).expect("all were written");
        let got = client.call(&["GET", &format!("{prefix}{key}")]).text();
        assert!(got.starts_with(&format!("{last}:")), "{key}: {last} was acknowledged last");
    }
    assert!(node.terminate().status.success());
}
