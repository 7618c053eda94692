//! For tests: a whole cluster without any outside.
//!
//! Parcels between nodes arrive at once and in order, unless the test has cut the link. Like a
//! [`Node`], it does nothing but what a call of the test makes happen.

use crate::config::{Cluster as Members, Config};
use crate::event::{ConnId, Event, WorkerId};
use crate::peer;
use crate::shard::Durability;
use crate::testing::Node;
use quorate_base::ids::NodeId;
use quorate_base::{Millis, ShardId};
use std::collections::BTreeSet;

/// Deliveries after which a cluster that does not come to rest is said to hang.
const DELIVERIES_MAX: usize = 200_000;

/// Nodes 1, 2, … with a replica of every shard on each.
pub struct Cluster {
    /// The nodes; the first has the id 1.
    pub nodes: Vec<Node>,
    up: Vec<bool>,
    cut: BTreeSet<(NodeId, NodeId)>,
    linked: BTreeSet<(NodeId, NodeId)>,
}

impl Cluster {
    /// A cluster of so many nodes of so many workers.
    pub fn new(nodes: usize, workers: WorkerId, shards: u32) -> Self {
        Self::with(nodes, &Node::config(workers, shards, Durability::Sync))
    }

    /// A cluster of nodes of this configuration.
    pub fn with(nodes: usize, config: &Config) -> Self {
        let ids: Vec<NodeId> = (1..=nodes as NodeId).collect();
        let node = |&node: &NodeId| {
            let cluster = Some(Members { node, nodes: ids.clone() });
            Node::with_config(Config { cluster, ..config.clone() })
        };
        let mut cluster = Self {
            nodes: ids.iter().map(node).collect(),
            up: vec![true; nodes],
            cut: BTreeSet::new(),
            linked: BTreeSet::new(),
        };
        cluster.settle();
        cluster
    }

    /// Waits until every shard has a leader.
    pub fn elect(&mut self) {
        for _ in 0..200 {
            let shards = self.nodes[0].tables.len() as ShardId;
            if (0..shards).all(|shard| self.leader(shard).is_some()) {
                return;
            }
            self.advance(20);
        }
        panic!("no leaders");
    }

    /// The node that leads a shard and may execute commands.
    pub fn leader(&self, shard: ShardId) -> Option<usize> {
        (0..self.nodes.len()).filter(|&at| self.up[at]).find(|&at| {
            let workers = self.nodes[at].workers.iter();
            let mut replicas = workers.flat_map(crate::Worker::replicas);
            replicas.any(|r| r.shard == shard && r.leads && r.serving)
        })
    }

    /// Cuts or heals the link between two nodes.
    pub fn cut(&mut self, a: usize, b: usize, cut: bool) {
        let pair = pair(a as NodeId + 1, b as NodeId + 1);
        if cut {
            self.cut.insert(pair);
        } else {
            self.cut.remove(&pair);
        }
        self.settle();
    }

    /// Cuts a node off from all others, or heals all its links.
    pub fn isolate(&mut self, at: usize, cut: bool) {
        for other in (0..self.nodes.len()).filter(|&other| other != at) {
            self.cut(at, other, cut);
        }
    }

    /// A node crashes.
    pub fn crash(&mut self, at: usize) {
        self.up[at] = false;
        self.settle();
    }

    /// A crashed node starts again.
    pub fn restart(&mut self, at: usize) {
        self.nodes[at].restart();
        self.up[at] = true;
        self.settle();
    }

    /// A client sends an inline command to a node; everything that follows at once happens.
    pub fn run(&mut self, at: usize, conn: ConnId, line: &str) -> String {
        self.nodes[at].feed(conn, format!("{line}\r\n").as_bytes());
        self.settle();
        self.nodes[at].text(conn)
    }

    /// The same, waiting up to so long for an answer.
    pub fn wait(&mut self, at: usize, conn: ConnId, line: &str, ms: Millis) -> String {
        let mut text = self.run(at, conn, line);
        let mut waited = 0;
        while text.is_empty() && waited < ms {
            self.advance(10);
            waited += 10;
            text = self.nodes[at].text(conn);
        }
        text
    }

    /// Lets time pass, in small steps.
    pub fn advance(&mut self, ms: Millis) {
        for _ in 0..ms.div_ceil(10) {
            for at in 0..self.nodes.len() {
                if self.up[at] {
                    self.nodes[at].advance(10);
                } else {
                    self.nodes[at].now.mono += 10;
                    self.nodes[at].now.wall += 10;
                }
                self.settle();
            }
        }
    }

    fn is_linked(&self, a: NodeId, b: NodeId) -> bool {
        let up = |node: NodeId| self.up[node as usize - 1];
        up(a) && up(b) && !self.cut.contains(&pair(a, b))
    }

    fn tell(&mut self, at: NodeId, event: impl Fn() -> Event<'static>) {
        if self.up[at as usize - 1] {
            let node = &mut self.nodes[at as usize - 1];
            for worker in 0..node.workers.len() as WorkerId {
                node.turn(worker, vec![event()]);
            }
        }
    }

    /// Delivers until nothing is under way any more.
    pub fn settle(&mut self) {
        let count = self.nodes.len() as NodeId;
        for a in 1..=count {
            for b in a + 1..=count {
                let wanted = self.is_linked(a, b);
                if wanted == self.linked.contains(&(a, b)) {
                    continue;
                }
                for (at, node) in [(a, b), (b, a)] {
                    if wanted {
                        self.linked.insert((a, b));
                        self.tell(at, || Event::PeerUp { node });
                    } else {
                        self.linked.remove(&(a, b));
                        self.tell(at, || Event::PeerDown { node });
                    }
                }
            }
        }
        for _ in 0..DELIVERIES_MAX {
            let mut moved = false;
            for at in 0..self.nodes.len() {
                if !self.up[at] {
                    continue;
                }
                self.nodes[at].settle();
                while let Some((to, parcel)) = self.nodes[at].parcels.pop_front() {
                    moved = true;
                    self.deliver(at as NodeId + 1, to, &parcel);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, parcel: &[u8]) {
        if !self.is_linked(from, to) {
            return;
        }
        let node = &mut self.nodes[to as usize - 1];
        let parts = peer::split(parcel, node.workers.len() as WorkerId);
        for (worker, bytes) in parts.expect("nodes send parcels that make sense") {
            node.turn(worker, vec![Event::Peer { from, bytes: &bytes }]);
        }
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_base::rare::RarePath;
    use quorate_data::table::Table as _;

    #[test]
    fn any_node_serves_any_key() {
        for workers in [1, 2] {
            let mut cluster = Cluster::new(3, workers, 4);
            cluster.elect();
            let clients: Vec<ConnId> = (0..3).map(|at| cluster.nodes[at].client()).collect();
            for key in 0..20 {
                let at = key % 3;
                let set = format!("SET k{key} v{key}");
                assert_eq!(cluster.wait(at, clients[at], &set, 1000), "+OK|", "{set}");
                for (at, &client) in clients.iter().enumerate() {
                    let reply = cluster.wait(at, client, &format!("GET k{key}"), 1000);
                    assert_eq!(reply, format!("${}|v{key}|", 1 + key.to_string().len()));
                }
            }
            assert_eq!(cluster.wait(1, clients[1], "DBSIZE", 1000), ":20|");
            assert_eq!(cluster.wait(1, clients[1], "INCR n{t}", 1000), ":1|");
            assert_eq!(cluster.wait(2, clients[2], "MSET a{t} 1 b{t} 2", 1000), "+OK|");
            let crossed = cluster.wait(2, clients[2], "MGET 1 2 3 4 5 6", 1000);
            assert!(crossed.starts_with("-CROSSSLOT"), "{crossed}");
            assert_eq!(cluster.wait(0, clients[0], "FLUSHALL", 1000), "+OK|");
            assert_eq!(cluster.wait(1, clients[1], "DBSIZE", 1000), ":0|");
        }
    }

    #[test]
    fn transactions_and_watches_work_at_any_node() {
        let mut cluster = Cluster::new(3, 2, 4);
        cluster.elect();
        let (a, b) = (cluster.nodes[0].client(), cluster.nodes[1].client());
        cluster.wait(0, a, "SET x{t} 1", 1000);
        for (at, client) in [(0, a), (1, b)] {
            assert_eq!(cluster.wait(at, client, "WATCH x{t}", 1000), "+OK|");
        }
        for (at, client, reply) in [(0, a, "*2|+OK|:6|"), (1, b, "*-1|")] {
            assert_eq!(cluster.wait(at, client, "MULTI", 1000), "+OK|");
            assert_eq!(cluster.wait(at, client, "SET x{t} 5", 1000), "+QUEUED|");
            assert_eq!(cluster.wait(at, client, "INCR x{t}", 1000), "+QUEUED|");
            assert_eq!(cluster.wait(at, client, "EXEC", 1000), reply);
        }
    }

    #[test]
    fn a_blocked_client_is_served_from_another_node() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let (a, b) = (cluster.nodes[1].client(), cluster.nodes[2].client());
        assert_eq!(cluster.run(1, a, "BLPOP list 0"), "");
        cluster.advance(100);
        assert_eq!(cluster.wait(2, b, "RPUSH list x", 1000), ":1|");
        cluster.advance(50);
        assert_eq!(cluster.nodes[1].text(a), "*2|$4|list|$1|x|");
    }

    #[test]
    fn another_node_leads_when_the_leader_crashes_and_what_was_acknowledged_is_there() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        for round in 0..6 {
            let leader = cluster.leader(0).unwrap();
            let other = (leader + 1) % 3;
            let client = cluster.nodes[other].client();
            let reply = cluster.wait(other, client, "INCR n", 3000);
            assert_eq!(reply, format!(":{}|", 2 * round + 1));
            cluster.crash(leader);
            let reply = cluster.wait(other, client, "INCR n", 3000);
            assert_eq!(reply, format!(":{}|", 2 * round + 2));
            cluster.restart(leader);
            cluster.advance(500);
        }
    }

    #[test]
    fn the_minority_says_so_at_once_and_the_majority_goes_on() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let other = (leader + 1) % 3;
        let (here, there) = (cluster.nodes[leader].client(), cluster.nodes[other].client());
        assert_eq!(cluster.wait(leader, here, "SET k 1", 1000), "+OK|");
        cluster.isolate(leader, true);
        assert!(cluster.run(leader, here, "SET k 2").starts_with("-NOQUORUM"));
        assert!(cluster.run(leader, here, "GET k").starts_with("-NOQUORUM"));
        assert_eq!(cluster.wait(other, there, "SET k 3", 3000), "+OK|");
        cluster.isolate(leader, false);
        cluster.advance(500);
        assert_eq!(cluster.wait(leader, here, "GET k", 1000), "$1|3|");
    }

    #[test]
    fn a_write_whose_outcome_is_open_is_unknown_and_can_be_asked_for() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let other = (leader + 1) % 3;
        let client = cluster.nodes[leader].client();
        assert_eq!(cluster.wait(leader, client, "INCR n", 1000), ":1|");
        // It is executed, but nobody else learns of it before the leader is cut off.
        cluster.nodes[leader].feed(client, b"INCR n\r\n");
        cluster.nodes[leader].parcels.clear();
        cluster.isolate(leader, true);
        cluster.advance(6_000);
        let text = cluster.nodes[leader].text(client);
        assert!(text.starts_with("-UNKNOWN "), "{text}");
        let id = text.split(' ').nth(1).unwrap().to_owned();
        cluster.isolate(leader, false);
        cluster.advance(1_000);
        let there = cluster.nodes[other].client();
        let outcome = cluster.wait(other, there, &format!("QUORATE OUTCOME {id}"), 1000);
        let count = cluster.wait(other, there, "GET n", 1000);
        match outcome.as_str() {
            "*1|$12|NOT-EXECUTED|" => assert_eq!(count, "$1|1|"),
            "*2|$8|EXECUTED|:2|" => assert_eq!(count, "$1|2|"),
            other => panic!("{other}"),
        }
    }

    /// All replicas hold the same.
    fn assert_equal(cluster: &mut Cluster) {
        let of = |cluster: &Cluster, at: usize| {
            let mut views: Vec<_> =
                cluster.nodes[at].workers.iter().flat_map(crate::Worker::replicas).collect();
            views.sort_by_key(|view| view.shard);
            views.into_iter().map(|view| (view.shard, view.memory, view.commit)).collect::<Vec<_>>()
        };
        let first = of(cluster, 0);
        for at in 1..cluster.nodes.len() {
            assert_eq!(of(cluster, at), first, "node {}", at + 1);
        }
    }

    fn small() -> Cluster {
        let config = Config { flush_bytes: 2_000, ..Node::config(1, 1, Durability::Sync) };
        Cluster::with(3, &config)
    }

    /// Writes, and cuts a follower off for more than its leader keeps for it. Returns both.
    fn leave_behind(cluster: &mut Cluster) -> (usize, usize) {
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let (away, client) = ((leader + 1) % 3, cluster.nodes[leader].client());
        let value = "x".repeat(50_000);
        for n in 0..400 {
            // What it has acknowledged before is in its table, and gone from its journal.
            if n == 20 {
                cluster.isolate(away, true);
            }
            cluster.wait(leader, client, &format!("SET k{n} {value}"), 1000);
        }
        (leader, away)
    }

    fn has_installed(cluster: &Cluster, at: usize) -> bool {
        cluster.nodes[at].workers[0].reached().count(RarePath::SnapshotInstalled) > 0
    }

    #[test]
    fn a_replica_that_was_away_for_long_gets_a_snapshot() {
        let mut cluster = small();
        let (leader, away) = leave_behind(&mut cluster);
        cluster.isolate(away, false);
        cluster.advance(2_000);
        assert!(has_installed(&cluster, away));
        assert_equal(&mut cluster);
        // It can lead, with all that the snapshot brought.
        cluster.crash(leader);
        cluster.isolate((leader + 2) % 3, true);
        cluster.advance(100);
        cluster.isolate((leader + 2) % 3, false);
        let there = cluster.nodes[away].client();
        assert_eq!(cluster.wait(away, there, "INCR n", 3000), ":1|");
        assert_eq!(cluster.wait(away, there, "DBSIZE", 3000), ":401|");
        assert_eq!(cluster.wait(away, there, "STRLEN k399", 3000), ":50000|");
    }

    #[test]
    fn a_restart_in_the_middle_of_a_snapshot_begins_another() {
        let mut cluster = small();
        let (_, away) = leave_behind(&mut cluster);
        cluster.nodes[away].manual_sync = true;
        cluster.isolate(away, false);
        // Its log asks its journal to note that it is lost; without an answer nothing is written.
        for _ in 0..100 {
            if !cluster.nodes[away].workers[0].replicas()[0].serving {
                break;
            }
            cluster.nodes[away].sync();
            cluster.advance(10);
        }
        let view = cluster.nodes[away].workers[0].replicas().remove(0);
        assert!(view.lost && !view.serving, "it is in the middle of a snapshot: {view:?}");
        // The answer comes, and with it the first chunk; the leader is not heard from again.
        cluster.isolate(away, true);
        cluster.nodes[away].sync();
        assert!(!has_installed(&cluster, away));
        cluster.crash(away);
        cluster.nodes[away].manual_sync = false;
        cluster.restart(away);
        assert!(cluster.nodes[away].workers[0].replicas()[0].lost);
        cluster.isolate(away, false);
        cluster.advance(2_000);
        assert!(has_installed(&cluster, away));
        assert_equal(&mut cluster);
        let there = cluster.nodes[away].client();
        assert_eq!(cluster.wait(away, there, "DBSIZE", 3000), ":400|");
    }

    #[test]
    fn a_table_that_cannot_be_read_at_a_start_is_repaired_from_the_peers() {
        let mut cluster = small();
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let (victim, client) = ((leader + 1) % 3, cluster.nodes[leader].client());
        for n in 0..50 {
            let value = "x".repeat(200);
            cluster.wait(leader, client, &format!("SET k{n} {value}"), 1000);
        }
        cluster.advance(500);
        let table = cluster.nodes[victim].tables[0].clone();
        assert!(table.mark().applied > 0, "a follower flushes as well");
        cluster.crash(victim);
        table.damage();
        cluster.restart(victim);
        let reached =
            |cluster: &Cluster, path| cluster.nodes[victim].workers[0].reached().count(path);
        assert_eq!(reached(&cluster, RarePath::TableDamagedAtStart), 1);
        let view = cluster.nodes[victim].workers[0].replicas().remove(0);
        assert!(view.lost && !view.serving && !view.leads, "{view:?}");
        cluster.wait(leader, client, "SET k50 y", 1000);
        cluster.advance(2_000);
        assert!(has_installed(&cluster, victim));
        assert_equal(&mut cluster);
        // It can lead, and has it all after another start.
        cluster.crash(leader);
        let there = cluster.nodes[victim].client();
        assert_eq!(cluster.wait(victim, there, "DBSIZE", 3000), ":51|");
        cluster.crash(victim);
        cluster.restart(victim);
        assert_eq!(reached(&cluster, RarePath::TableDamagedAtStart), 0);
        let there = cluster.nodes[victim].client();
        assert_eq!(cluster.wait(victim, there, "STRLEN k49", 3000), ":200|");
    }

    #[test]
    fn what_a_deposed_leader_had_executed_is_gone_from_its_memory() {
        let mut cluster = small();
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let other = (leader + 1) % 3;
        let client = cluster.nodes[leader].client();
        assert_eq!(cluster.wait(leader, client, "SET k before", 1000), "+OK|");
        cluster.nodes[leader].feed(client, b"SET k never\r\nAPPEND k er\r\n");
        cluster.nodes[leader].parcels.clear();
        cluster.isolate(leader, true);
        cluster.nodes[leader].disconnect(client);
        let there = cluster.nodes[other].client();
        assert_eq!(cluster.wait(other, there, "GET k", 3000), "$6|before|");
        assert_eq!(cluster.wait(other, there, "SET k after", 3000), "+OK|");
        cluster.isolate(leader, false);
        cluster.advance(1_000);
        let here = cluster.nodes[leader].client();
        assert_eq!(cluster.wait(leader, here, "GET k", 3000), "$5|after|");
        assert!(cluster.nodes[leader].workers[0].reached().count(RarePath::Rebuilt) > 0);
        assert_equal(&mut cluster);
    }

    #[test]
    fn a_node_that_stops_hands_its_leaderships_over_first() {
        let mut cluster = Cluster::new(3, 1, 3);
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        cluster.nodes[leader].turn(0, vec![Event::Shutdown]);
        cluster.settle();
        cluster.advance(20);
        assert!(cluster.leader(0).is_some_and(|now| now != leader));
        assert!(cluster.nodes[leader].workers[0].is_stopped());
    }

    #[test]
    fn a_leader_whose_disk_stalls_hands_over() {
        let mut cluster = Cluster::new(3, 1, 1);
        cluster.elect();
        let leader = cluster.leader(0).unwrap();
        let client = cluster.nodes[leader].client();
        cluster.wait(leader, client, "SET k 1", 1000);
        cluster.nodes[leader].manual_sync = true;
        let reply = cluster.wait(leader, client, "INCR k", 3_000);
        assert_eq!(reply, ":2|");
        assert!(cluster.leader(0).is_some_and(|now| now != leader));
    }
}
