//! What the whole-process tests share: a RESP client that keeps every byte it got, and guards that
//! end the processes they started, also when a test panics.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports)]

pub(crate) mod client;
pub(crate) mod journal;
pub(crate) mod node;
pub(crate) mod redis;

pub(crate) use client::{Client, Value};
pub(crate) use node::{Exit, Node};
pub(crate) use redis::Redis;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How long anything may take that must happen: far beyond what it needs on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An address of this machine that nothing listened on a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("a bound socket has an address")
}

/// Polls until `done` gives something; panics after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A number from the environment.
pub(crate) fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{name}='{text}' is no number")))
}

/// 64 bits that differ from run to run, for tests that print their seed when they fail.
pub(crate) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
