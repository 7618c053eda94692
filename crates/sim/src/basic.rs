//! The simplest workload: each client counts, by INCR and GET on counters of its own and a shared
//! one. A counter of its own must show every acknowledged INCR and at most those sent.

use crate::load::{FinalView, Load, Violation};
use quorate_base::Prng;
use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub struct Counters {
    clients: Vec<Counter>,
    broken: Option<Violation>,
}

#[derive(Debug, Default)]
struct Counter {
    /// INCRs that were acknowledged, and that may have been executed.
    acknowledged: i64,
    possible: i64,
    asked: VecDeque<Asked>,
    received: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Incr,
    Get,
    Shared,
}

impl Counters {
    /// So many clients.
    pub fn new(clients: usize) -> Self {
        Self { clients: (0..clients).map(|_| Counter::default()).collect(), broken: None }
    }

    fn key(client: usize) -> String {
        format!("counter:{client}")
    }

    fn on_reply(&mut self, client: usize, line: &str) {
        let counter = &mut self.clients[client];
        let Some(asked) = counter.asked.pop_front() else { return };
        let own = asked != Asked::Shared;
        let value = match line.as_bytes().first() {
            Some(b':') => line[1..].parse::<i64>().ok(),
            Some(b'$') => Some(0),
            Some(b'0'..=b'9') => line.parse().ok(),
            _ => None,
        };
        let Some(value) = value.filter(|_| own) else { return };
        let (least, most) = match asked {
            Asked::Incr => (counter.acknowledged + 1, counter.possible),
            _ => (counter.acknowledged, counter.possible),
        };
        if !(least..=most).contains(&value) && self.broken.is_none() {
            self.broken = Some(Violation {
                what: format!("a counter shows {value}, and {least} to {most} are possible"),
                keys: vec![Self::key(client).into_bytes()],
                client: Some(client),
            });
        }
        counter.acknowledged = counter.acknowledged.max(value);
    }
}

fn request(out: &mut Vec<u8>, args: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
}

impl Load for Counters {
    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn next(&mut self, client: usize, _now_us: u64, prng: &mut Prng) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let key = Self::key(client);
        let counter = &mut self.clients[client];
        for _ in 0..=prng.below(3) {
            let asked = match prng.below(4) {
                0 => Asked::Get,
                1 => Asked::Shared,
                _ => Asked::Incr,
            };
            match asked {
                Asked::Get => request(&mut out, &["GET", &key]),
                Asked::Shared => request(&mut out, &["INCR", &format!("shared:{}", prng.below(9))]),
                Asked::Incr => {
                    counter.possible += 1;
                    request(&mut out, &["INCR", &key]);
                }
            }
            counter.asked.push_back(asked);
        }
        Some(out)
    }

    fn reply(&mut self, client: usize, _now_us: u64, bytes: &[u8]) {
        self.clients[client].received.extend_from_slice(bytes);
        loop {
            let received = &mut self.clients[client].received;
            let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") else { return };
            let line: Vec<u8> = received.drain(..end + 2).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            // The length of a value; the value follows.
            if !line.starts_with('$') || line == "$-1" {
                self.on_reply(client, &line);
            }
        }
    }

    fn disconnected(&mut self, client: usize, _now_us: u64) {
        let counter = &mut self.clients[client];
        counter.asked.clear();
        counter.received.clear();
    }

    fn finish(&mut self, view: &FinalView<'_>) -> Result<(), Violation> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        for (client, counter) in self.clients.iter().enumerate() {
            let key = Self::key(client).into_bytes();
            let entry = view.shards.iter().flat_map(|d| &d.entries).find(|e| e.key == key);
            let value = entry.and_then(|e| e.string.as_ref()).map_or(0, |(value, _)| {
                String::from_utf8_lossy(value).parse().unwrap_or(-1)
            });
            if !(counter.acknowledged..=counter.possible).contains(&value) {
                let (least, most) = (counter.acknowledged, counter.possible);
                return Err(Violation {
                    what: format!("a counter is {value} in the end, not {least} to {most}"),
                    keys: vec![key],
                    client: Some(client),
                });
            }
        }
        Ok(())
    }
}
