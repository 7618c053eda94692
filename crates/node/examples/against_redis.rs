//! Sends lines from standard input to a Redis server and to a node in this process, from several
//! clients, and prints where what they receive differs:
//! `cargo run -p quorate-node --example against_redis -- PORT [WORKERS] < script`.
//!
//! `b: GET k` is sent by client `b` (without a letter: by client `a`), as an inline command;
//! `sleep 100` lets so many milliseconds pass; `#` begins a comment.

use quorate_node::testing::Node;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server has for what a line makes it send.
const WAIT: Duration = Duration::from_millis(25);

struct Pair {
    theirs: TcpStream,
    ours: u64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let port = args.next().expect("usage: against_redis PORT [WORKERS] < script");
    let workers = args.next().map_or(2, |n| n.parse().expect("a number of workers"));
    let mut node = Node::new(workers);
    let mut clients = BTreeMap::<char, Pair>::new();
    let (mut sent, mut different) = (0, 0);
    for line in std::io::stdin().lines() {
        let line = line.expect("readable");
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(ms) = line.strip_prefix("sleep ") {
            let ms = ms.parse().expect("milliseconds");
            std::thread::sleep(Duration::from_millis(ms));
            node.advance(ms);
        } else {
            let (name, command) = match line.split_once(": ") {
                Some((name, command)) if name.len() == 1 => (name.as_bytes()[0], command),
                _ => (b'a', line),
            };
            let pair = clients.entry(char::from(name)).or_insert_with(|| {
                let theirs = TcpStream::connect(format!("127.0.0.1:{port}")).expect("a server");
                theirs.set_read_timeout(Some(WAIT)).expect("a timeout");
                Pair { theirs, ours: node.client() }
            });
            let bytes = format!("{command}\r\n");
            // A connection that the server closed shows in what is received.
            let _ = pair.theirs.write_all(bytes.as_bytes());
            node.feed(pair.ours, bytes.as_bytes());
            node.settle();
        }
        sent += 1;
        for (name, pair) in &mut clients {
            let (theirs, ours) = (received(&mut pair.theirs), node.text(pair.ours));
            if theirs != ours {
                different += 1;
                println!("{line}\n   {name} redis: {theirs}\n   {name} ours:  {ours}");
            }
        }
    }
    println!("{sent} lines, {different} differences");
}

fn received(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&all).replace("\r\n", "|")
}
