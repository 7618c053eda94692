//! All nodes asked, and what they say together.

use super::client;
use super::facts::{Facts, Peer, Shard};
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of asking nodes that others named.
const ROUNDS_MAX: usize = 3;

/// A node that was asked, or should have been.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Its number; 0 for one that stands alone, or whose number nobody knows.
    pub(super) node: u64,
    /// `HOST:PORT` where it was asked, if anybody knows.
    pub(super) address: Option<String>,
    /// What it answered, or why it did not.
    pub(super) answer: Result<Answer, String>,
}

/// What a node answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) facts: Facts,
    /// The same with everything it said.
    pub(super) raw: Value,
}

/// The nodes, ascending.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    pub(super) nodes: Vec<Asked>,
}

impl Asked {
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.answer.as_ref().ok().map(|answer| &answer.facts)
    }
}

impl Survey {
    /// Asks the first of `addresses` that answers, and all nodes that it and those name.
    pub(super) fn take(addresses: &[String]) -> Self {
        let first = addresses.iter().map(|address| ask(0, Some(address.clone())));
        let mut failed = Vec::new();
        let Some(first) = first.inspect(|asked| failed.push(asked.clone())).find(has_answered)
        else {
            return Self { nodes: failed };
        };
        let host = first.address.as_deref().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host);
        let host = host.unwrap_or("").to_owned();
        let mut nodes = BTreeMap::from([(first.node, first)]);
        for _ in 0..ROUNDS_MAX {
            let wanted = wanted(&nodes, &host);
            if wanted.is_empty() {
                break;
            }
            let asked: Vec<Asked> = std::thread::scope(|scope| {
                let ask = |(node, address)| scope.spawn(move || ask(node, address));
                let threads: Vec<_> = wanted.into_iter().map(ask).collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, Asked>| {
                    thread.join().expect("asking does not panic")
                };
                threads.into_iter().map(join).collect()
            });
            nodes.extend(asked.into_iter().map(|asked| (asked.node, asked)));
        }
        Self { nodes: nodes.into_values().collect() }
    }

    /// The nodes that answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = &Facts> {
        self.nodes.iter().filter_map(Asked::facts)
    }

    /// Whether these are nodes of a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.answers().any(|facts| facts.node != 0)
    }

    /// What a node says of the link to another one.
    pub(super) fn link(&self, from: u64, to: u64) -> Option<&Peer> {
        let facts = self.answers().find(|facts| facts.node == from)?;
        facts.peers.iter().find(|peer| peer.node == to)
    }

    /// Every shard as who leads it tells it, ascending, or as somebody else does if nobody that
    /// answered leads it.
    pub(super) fn shards(&self) -> Vec<Led<'_>> {
        let mut shards: BTreeMap<u64, Led<'_>> = BTreeMap::new();
        for facts in self.answers() {
            for shard in &facts.shards {
                let seen = Led { node: facts.node, shard, leader: None };
                let best = shards.entry(shard.shard).or_insert(seen);
                // A leader that was deposed may not know yet; the higher term does.
                if (shard.term, is_led(shard)) > (best.shard.term, is_led(best.shard)) {
                    *best = seen;
                }
            }
        }
        for led in shards.values_mut() {
            led.leader = self.leader_of(led);
        }
        shards.into_values().collect()
    }

    /// The leader of a shard, if it answered, or if whoever names it has a link to it.
    fn leader_of(&self, led: &Led<'_>) -> Option<u64> {
        if is_led(led.shard) {
            return Some(led.node);
        }
        let leader = led.shard.leader?;
        self.link(led.node, leader).is_some_and(|peer| peer.up).then_some(leader)
    }
}

/// A shard, and the node that tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Led<'a> {
    pub(super) node: u64,
    pub(super) shard: &'a Shard,
    /// Who serves it; 0 in a node that stands alone.
    pub(super) leader: Option<u64>,
}

impl Led<'_> {
    /// How many entries the copy that is farthest behind lacks.
    pub(super) fn lag(&self) -> u64 {
        self.shard.lag.iter().map(|lag| lag.entries).max().unwrap_or(0)
    }
}

fn is_led(shard: &Shard) -> bool {
    shard.role != "follower"
}

fn has_answered(asked: &Asked) -> bool {
    asked.answer.is_ok()
}

/// The nodes that somebody named and nobody asked at the address that is known now.
fn wanted(nodes: &BTreeMap<u64, Asked>, host: &str) -> BTreeMap<u64, Option<String>> {
    let mut wanted: BTreeMap<u64, Option<String>> = BTreeMap::new();
    for facts in nodes.values().filter_map(Asked::facts) {
        for peer in &facts.peers {
            let address = peer.client_address.clone();
            let known = wanted.entry(peer.node).or_default();
            *known = known.take().or(address);
        }
    }
    let news = |node: &u64, address: &Option<String>| match nodes.get(node) {
        None => true,
        Some(asked) => asked.address.is_none() && address.is_some(),
    };
    wanted.retain(|node, address| news(node, address));
    for address in wanted.values_mut().flatten() {
        // As the node told it; from another machine it is where the first one is.
        if let Some(port) = address.strip_prefix("0.0.0.0:").or(address.strip_prefix("[::]:")) {
            *address = format!("{host}:{port}");
        }
    }
    wanted
}

fn ask(node: u64, address: Option<String>) -> Asked {
    let answer = match &address {
        None => Err("no node that answers knows where its clients connect".into()),
        Some(address) => client::ask(address).and_then(|raw| {
            let facts = Facts::deserialize(&raw)
                .map_err(|error| format!("its answer makes no sense: {error}"))?;
            Ok(Answer { facts, raw })
        }),
    };
    let told = answer.as_ref().map_or(node, |answer| answer.facts.node);
    // Whoever answers under another number than it was named by is not who was meant.
    if node != 0 && told != node {
        let answer = Err(format!("node {told} answers there"));
        return Asked { node, address, answer };
    }
    Asked { node: told, address, answer }
}

/// The nodes that answered, by number.
pub(super) fn numbers(survey: &Survey) -> BTreeSet<u64> {
    survey.answers().map(|facts| facts.node).collect()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use serde_json::json;

    /// What the nodes 1, 2, … answered, or in a text why they did not.
    pub(in crate::look) fn survey(answers: &[Value]) -> Survey {
        let asked = |(node, raw): (u64, &Value)| {
            let answer = match raw.as_str() {
                Some(why) => Err(why.to_owned()),
                None => Ok(Answer { facts: Facts::deserialize(raw).unwrap(), raw: raw.clone() }),
            };
            Asked { node, address: Some(format!("host{node}:6379")), answer }
        };
        Survey { nodes: (1..).zip(answers).map(asked).collect() }
    }

    /// Three nodes in order with two shards; the first two lead one each.
    pub(in crate::look) fn cluster() -> Vec<Value> {
        let node = |node: u64| {
            let peers = (1..=3).filter(|peer| *peer != node);
            let shard = |shard: u64| {
                let leads = shard + 1 == node;
                let others = (1..=3).filter(|peer| *peer != node);
                let lag: Vec<_> = others.map(|n| json!({"node": n, "entries": 0})).collect();
                json!({
                    "shard": shard, "space": 0, "first_slot": shard * 8_192,
                    "last_slot": shard * 8_192 + 8_191, "state": "serving", "leader": shard + 1,
                    "role": if leads { "leader" } else { "follower" }, "term": 2,
                    "lag": if leads { lag } else { Vec::new() },
                    "keys": 1_000 * (shard + 1), "memory_bytes": 1 << 20, "commands": 0,
                })
            };
            json!({
                "node": node, "version": "1.0.0", "run_id": "a", "uptime_ms": 60_000,
                "time_ms": 100_000, "quorum": true, "stopping": false,
                "peers": peers
                    .map(|peer| json!({"node": peer, "up": true, "round_trip_us": 250}))
                    .collect::<Vec<_>>(),
                "spaces": [{"name": "default", "prefix": "", "durability": "sync"}],
                "shards": [shard(0), shard(1)],
                "load": {"clients": 5, "commands": 0, "recent_latency": {"p50_us": 90, "p99_us": 1_500}},
                "memory": {"data_bytes": 3 << 20, "data_bytes_max": 1 << 30, "process_bytes": 50 << 20},
                "journal": {"bytes": 16 << 20, "recent_sync_latency": {"p99_us": 4_000}},
                "disk": {"full": false, "throttled": false},
            })
        };
        (1..=3).map(node).collect()
    }

    #[test]
    fn nodes_are_asked_once_and_where_they_are() {
        let mut answers = cluster();
        answers[0]["peers"] = json!([
            {"node": 2, "client_address": "0.0.0.0:7002"}, {"node": 3},
            {"node": 4, "client_address": "d:1"}
        ]);
        let seen = survey(&answers[..1]);
        let mut nodes: BTreeMap<u64, Asked> =
            seen.nodes.into_iter().map(|asked| (asked.node, asked)).collect();
        let address = |text: &str| Some(text.to_owned());
        let expected = [(2, address("h:7002")), (3, None), (4, address("d:1"))];
        assert_eq!(wanted(&nodes, "h"), expected.clone().into());
        // A node that nobody could name is asked as soon as somebody can.
        for (node, address) in expected {
            let answer = Err("no".into());
            nodes.insert(node, Asked { node, address, answer });
        }
        assert_eq!(wanted(&nodes, "h"), BTreeMap::new());
        let mut second = answers[1].clone();
        second["peers"] = json!([{"node": 3, "client_address": "c:1"}]);
        let facts = Facts::deserialize(&second).unwrap();
        nodes.get_mut(&2).unwrap().answer = Ok(Answer { facts, raw: second });
        assert_eq!(wanted(&nodes, "h"), [(3, address("c:1"))].into());
    }
}
