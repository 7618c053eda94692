//! The load generator of the cluster families: one thread, any number of clients, one request in
//! flight on each, the same code for every protocol.
//!
//! Client *i* talks to node *i* modulo nodes; if there are fewer clients than nodes, each takes
//! the nodes in turn, request by request. Quorate's clients have a connection each. Etcd's are
//! streams of one HTTP/2 connection a node; `docs/benchmarks.md` says why.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::client::{VALUE_BYTES, key, mix, value};
use super::session::{Protocol, Session, runtime};
use crate::Outcome;

/// Room for latencies that a client starts with.
const LATENCIES_ROOM: usize = 4096;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Store 64 bytes under a random key.
    Put,
    /// Read a random key, which must be there.
    Get,
}

/// What a run measured.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Connected clients.
pub(crate) struct Driver {
    runtime: Runtime,
    clients: Vec<Client>,
}

struct Client {
    /// One, or one to each node.
    sessions: Vec<Session>,
    random: u64,
}

/// When a client stops.
#[derive(Clone)]
enum Until {
    Time(Instant),
    /// So many keys from 0 are stored, by all clients together.
    Stored(Rc<Cell<u64>>, u64),
}

impl Driver {
    /// Connects so many clients.
    pub(crate) fn connect(protocol: Protocol, ports: &[u16], clients: usize) -> Outcome<Self> {
        let runtime = runtime()?;
        let connected = runtime.block_on(connect(protocol, ports, clients));
        let clients = connected.map_err(|e| format!("cannot connect: {e}"))?;
        Ok(Self { runtime, clients })
    }

    /// Stores keys `0..count` once.
    pub(crate) fn fill(&mut self, count: u64) -> Outcome<()> {
        self.drive(Action::Put, &Until::Stored(Rc::new(Cell::new(0)), count), count).map(|_| ())
    }

    /// Works on keys `0..keys` for so long. Ends at the first failure.
    pub(crate) fn run(&mut self, action: Action, keys: u64, time: Duration) -> Outcome<Driven> {
        self.drive(action, &Until::Time(Instant::now() + time), keys)
    }

    fn drive(&mut self, action: Action, until: &Until, keys: u64) -> Outcome<Driven> {
        let start = Instant::now();
        let clients = std::mem::take(&mut self.clients);
        let until = until.clone();
        let all = LocalSet::new();
        let work = all.run_until(async move {
            let work = |client: Client| client.work(action, until.clone(), keys);
            let tasks: Vec<_> =
                clients.into_iter().map(work).map(tokio::task::spawn_local).collect();
            let mut ends = Vec::with_capacity(tasks.len());
            for task in tasks {
                ends.push(task.await);
            }
            ends
        });
        let ends = self.runtime.block_on(work);
        let seconds = start.elapsed().as_secs_f64();
        let mut latencies = Vec::new();
        for end in ends {
            let (client, own) = end.map_err(|e| format!("the load generator failed: {e}"))??;
            self.clients.push(client);
            latencies.extend(own);
        }
        latencies.sort_unstable();
        Ok(Driven {
            requests: latencies.len() as u64,
            seconds,
            p50_ms: percentile_ms(&latencies, 50),
            p99_ms: percentile_ms(&latencies, 99),
        })
    }
}

/// Where the given percentage of sorted nanoseconds is reached, in milliseconds.
fn percentile_ms(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |nanos| *nanos as f64 / 1e6)
}

async fn connect(
    protocol: Protocol,
    ports: &[u16],
    clients: usize,
) -> std::io::Result<Vec<Client>> {
    let mut open: Vec<Option<Session>> = ports.iter().map(|_| None).collect();
    let mut connected = Vec::with_capacity(clients);
    for index in 0..clients {
        let nodes = if clients < ports.len() {
            0..ports.len()
        } else {
            let node = index % ports.len();
            node..node + 1
        };
        let mut sessions = Vec::with_capacity(nodes.len());
        for node in nodes {
            if let Some(share) = open[node].as_ref().and_then(Session::share) {
                sessions.push(share);
                continue;
            }
            let session = Session::connect(protocol, ports[node]).await?;
            open[node] = session.share();
            sessions.push(session);
        }
        connected.push(Client { sessions, random: mix(index as u64 + 1) });
    }
    Ok(connected)
}

impl Client {
    /// Sends one request after another; the nanoseconds that each took.
    async fn work(mut self, action: Action, until: Until, keys: u64) -> Outcome<(Self, Vec<u64>)> {
        let mut latencies = Vec::with_capacity(LATENCIES_ROOM);
        let mut start = Instant::now();
        loop {
            let index = match &until {
                Until::Time(end) if start >= *end => break,
                Until::Time(_) => {
                    self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    mix(self.random) % keys
                }
                Until::Stored(next, count) => {
                    let index = next.get();
                    if index == *count {
                        break;
                    }
                    next.set(index + 1);
                    index
                }
            };
            let turn = latencies.len() % self.sessions.len();
            let session = &mut self.sessions[turn];
            let key = key(index);
            match action {
                Action::Put => {
                    let stored = session.put(key.as_bytes(), &value(index)).await;
                    stored.map_err(|e| format!("storing {key}: {}", e.text()))?;
                }
                Action::Get => {
                    let found = session.get(key.as_bytes()).await;
                    let found = found.map_err(|e| format!("reading {key}: {}", e.text()))?;
                    if found.is_none_or(|found| found.len() != VALUE_BYTES) {
                        return Err(format!("{key} is lost"));
                    }
                }
            }
            let end = Instant::now();
            latencies.push((end - start).as_nanos() as u64);
            start = end;
        }
        Ok((self, latencies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let millis: Vec<u64> = (1..=200).map(|ms| ms * 1_000_000).collect();
        assert_eq!(percentile_ms(&millis, 50), 100.0);
        assert_eq!(percentile_ms(&millis, 99), 198.0);
        assert_eq!(percentile_ms(&millis[..1], 99), 1.0);
        assert_eq!(percentile_ms(&[], 50), 0.0);
    }
}
