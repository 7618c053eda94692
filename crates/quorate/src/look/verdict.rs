//! Whether what the nodes say is healthy, and what to do if it is not.

use super::survey::{Survey, numbers};
use super::text::count;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A copy that lacks more entries than this of its shard is behind; each is all that one turn
/// changed in it.
const LAG_ENTRIES_MAX: u64 = 1_000;

/// A journal whose syncs take longer is on a slow disk.
const SYNC_US_MAX: u64 = 500_000;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    /// Nothing is wrong.
    Healthy,
    /// Everything is served, with less safety or speed than it should be.
    Degraded,
    /// Something is not served.
    Down,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) health: Health,
    /// What.
    pub(super) what: String,
    /// What to do.
    #[serde(rename = "do")]
    pub(super) advice: String,
}

impl Health {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What is wrong, the worst first.
pub(super) fn problems(survey: &Survey) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    found.silent_nodes(survey);
    if survey.answers().next().is_some() {
        found.shards(survey);
        found.nodes(survey);
        found.links(survey);
        found.copies(survey);
    }
    found.0.sort_by_key(|problem| std::cmp::Reverse(problem.health));
    found.0
}

/// The worst of it.
pub(super) fn health(problems: &[Problem]) -> Health {
    problems.iter().map(|problem| problem.health).max().unwrap_or(Health::Healthy)
}

struct Found(Vec<Problem>);

impl Found {
    fn say(&mut self, health: Health, what: String, advice: &str) {
        self.0.push(Problem { health, what, advice: advice.into() });
    }

    fn silent_nodes(&mut self, survey: &Survey) {
        let nobody = survey.answers().next().is_none();
        for asked in &survey.nodes {
            let Err(why) = &asked.answer else { continue };
            let address = asked.address.as_deref().map_or(String::new(), |a| format!(" at {a}"));
            if nobody {
                let what = format!("no node answers{address}: {why}");
                let advice = "start it with `quorate serve`, or name another node with --at";
                self.say(Health::Down, what, advice);
                continue;
            }
            let node = asked.node;
            let linked = survey
                .nodes
                .iter()
                .any(|other| survey.link(other.node, node).is_some_and(|peer| peer.up));
            let advice = if linked {
                "the other nodes have links with it, so it runs: look at the network between you \
                 and that address"
            } else {
                "start it again, or look at its log; if its data is lost, start it with --replace"
            };
            self.say(
                Health::Degraded,
                format!("node {node}{address} does not answer: {why}"),
                advice,
            );
        }
    }

    fn shards(&mut self, survey: &Survey) {
        let shards = survey.shards();
        let leaderless = shards.iter().filter(|led| led.leader.is_none()).count();
        let without = survey.answers().filter(|facts| !facts.quorum).map(|facts| facts.node);
        let without: Vec<String> = without.map(|node| node.to_string()).collect();
        if leaderless > 0 {
            let what = format!("{leaderless} of {} have no leader", count(shards.len(), "shard"));
            let advice = if without.is_empty() {
                "an election takes less than a second; if it lasts, look at the logs of the nodes"
            } else {
                "bring back enough nodes, or the links between them, for more than half"
            };
            self.say(Health::Down, what, advice);
        } else if !without.is_empty() {
            self.say(
                Health::Down,
                format!("node {} reaches no majority", without.join(", ")),
                "look at the links below; its clients get NOQUORUM until it does",
            );
        }
    }

    fn nodes(&mut self, survey: &Survey) {
        for facts in survey.answers() {
            let name = name(facts.node);
            if facts.disk.full {
                self.say(
                    Health::Down,
                    format!("the disk of {name} is full: writes are refused, reads go on"),
                    "make room in its data directory; writes go on by themselves",
                );
            }
            if facts.disk.throttled {
                self.say(
                    Health::Degraded,
                    format!("{name}: writes wait for the tables, the disk is too slow for them"),
                    "send fewer writes, or give it a faster disk",
                );
            }
            let sync = facts.journal.recent_sync_latency.as_ref().and_then(|l| l.p99_us);
            if sync.is_some_and(|us| us > SYNC_US_MAX) {
                self.say(
                    Health::Degraded,
                    format!("{name}: a sync of the journal takes more than half a second"),
                    "look after its disk: whatever else writes to it, or the disk itself",
                );
            }
            if facts.stopping {
                let what = format!("{name} is about to stop");
                self.say(Health::Degraded, what, "wait until it has, and start it again");
            }
            let mut states: BTreeMap<&str, usize> = BTreeMap::new();
            let unwell = facts.shards.iter().filter(|shard| shard.state != "serving");
            unwell.for_each(|shard| *states.entry(&shard.state).or_default() += 1);
            for (state, number) in states {
                let advice = if state == "damaged" {
                    "it waits for a leader's copy; look after its disk"
                } else {
                    "it gets what it lacks by itself; if it lasts, look at its log"
                };
                let copies = count(number, "copy");
                self.say(Health::Degraded, format!("{name}: {copies} {state}"), advice);
            }
        }
    }

    fn links(&mut self, survey: &Survey) {
        let answered = numbers(survey);
        let mut seen = BTreeSet::new();
        for (&from, &to) in answered.iter().flat_map(|a| answered.iter().map(move |b| (a, b))) {
            let Some(peer) = survey.link(from, to).filter(|peer| !peer.up) else { continue };
            if !seen.insert((from.min(to), from.max(to))) {
                continue;
            }
            let other = survey.link(to, from).and_then(|peer| peer.reason.as_deref());
            let why = peer.reason.as_deref().or(other).unwrap_or("they do not say why");
            self.say(
                Health::Degraded,
                format!("nodes {from} and {to} have no link: {why}"),
                "both answer, so look at the network between their peer addresses",
            );
        }
    }

    fn copies(&mut self, survey: &Survey) {
        let answered = numbers(survey);
        let mut behind: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        for led in survey.shards() {
            for lag in &led.shard.lag {
                if lag.entries > LAG_ENTRIES_MAX && answered.contains(&lag.node) {
                    let (shards, most) = behind.entry(lag.node).or_default();
                    *shards += 1;
                    *most = lag.entries.max(*most);
                }
            }
        }
        for (node, (shards, most)) in behind {
            let shards = count(shards, "shard");
            self.say(
                Health::Degraded,
                format!("node {node} is behind in {shards}, by up to {most} entries"),
                "it catches up by itself; if the number grows, that node or its disk is too slow",
            );
        }
    }
}

/// A node in a sentence.
fn name(node: u64) -> String {
    if node == 0 { "the node".into() } else { format!("node {node}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::survey::testing::{cluster, survey};
    use serde_json::json;

    fn said(survey: &Survey) -> (Health, Vec<String>) {
        let problems = problems(survey);
        (health(&problems), problems.into_iter().map(|problem| problem.what).collect())
    }

    #[test]
    fn a_cluster_in_order_is_healthy() {
        assert_eq!(said(&survey(&cluster())), (Health::Healthy, vec![]));
    }

    #[test]
    fn a_node_that_does_not_answer_degrades() {
        let mut nodes = cluster();
        nodes[2] = json!("nothing listens there");
        for node in [0, 1] {
            nodes[node]["peers"] = json!([{"node": 3, "up": false}]);
        }
        let (health, said) = said(&survey(&nodes));
        assert_eq!(health, Health::Degraded);
        assert_eq!(said, ["node 3 at host3:6379 does not answer: nothing listens there"]);
    }

    #[test]
    fn a_shard_is_not_served_by_a_leader_that_is_gone() {
        let mut nodes = cluster();
        nodes[0] = json!("nothing listens there");
        for node in [1, 2] {
            nodes[node]["peers"] = json!([{"node": 1, "up": false}]);
        }
        let (health, said) = said(&survey(&nodes));
        assert_eq!((health, said[0].as_str()), (Health::Down, "1 of 2 shards have no leader"));
        // One that only this machine cannot reach still leads.
        for node in [1, 2] {
            nodes[node]["peers"] = json!([{"node": 1, "up": true}]);
        }
        let seen = survey(&nodes);
        let problems = problems(&seen);
        assert_eq!(super::health(&problems), Health::Degraded);
        assert!(problems[0].advice.contains("network between you"), "{problems:?}");
    }

    #[test]
    fn the_leader_of_the_higher_term_is_believed() {
        let mut nodes = cluster();
        nodes[2]["shards"][0] =
            json!({"shard": 0, "role": "leader", "state": "serving", "term": 9});
        assert_eq!(survey(&nodes).shards()[0].leader, Some(3));
    }

    #[test]
    fn each_trouble_is_named() {
        for (node, pointer, value, health, words) in [
            (0, "/quorum", json!(false), Health::Down, "node 1 reaches no majority"),
            (1, "/disk/full", json!(true), Health::Down, "the disk of node 2 is full"),
            (1, "/disk/throttled", json!(true), Health::Degraded, "node 2: writes wait"),
            (2, "/stopping", json!(true), Health::Degraded, "node 3 is about to stop"),
            (2, "/shards/1/state", json!("lost"), Health::Degraded, "node 3: 1 copy lost"),
            (0, "/peers/0/up", json!(false), Health::Degraded, "nodes 1 and 2 have no link"),
            (
                0,
                "/shards/0/lag",
                json!([{"node": 3, "entries": 1_001}]),
                Health::Degraded,
                "node 3 is behind in 1 shard, by up to 1001 entries",
            ),
            (
                1,
                "/journal/recent_sync_latency/p99_us",
                json!(600_000),
                Health::Degraded,
                "node 2: a sync of the journal takes more",
            ),
        ] {
            let mut nodes = cluster();
            *nodes[node].pointer_mut(pointer).unwrap() = value;
            let (seen, said) = said(&survey(&nodes));
            assert_eq!((seen, said.len()), (health, 1), "{pointer}: {said:?}");
            assert!(said[0].starts_with(words), "{pointer}: {said:?}");
        }
    }
}
