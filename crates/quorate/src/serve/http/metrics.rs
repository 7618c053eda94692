//! The snapshot of a node in Prometheus' text format (version 0.0.4).
//!
//! Names begin with `quorate_`, units are base units, and labels take few values: spaces, peers,
//! roles and states. There is nothing for a single shard, key, client or command.

use quorate_node::Histogram;
use quorate_node::status::{NodeStatus, ReplicaState, Role};
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// Bounds of histograms: powers of two, from 32 microseconds to 16.8 seconds.
const BOUNDS: std::ops::RangeInclusive<u32> = 5..=24;

/// The text for a node.
pub(super) fn text(status: &NodeStatus) -> String {
    let mut out = Metrics(String::with_capacity(16 << 10));
    about(status, &mut out);
    load(status, &mut out);
    data(status, &mut out);
    shards(status, &mut out);
    peers(status, &mut out);
    disk(status, &mut out);
    out.0
}

/// Metrics that are put together, family by family.
struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP quorate_{name} {help}\n# TYPE quorate_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "quorate_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, of: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for bound in BOUNDS {
            let us = 1 << bound;
            self.sample(&bucket, &[("le", &seconds(us).to_string())], of.below(us));
        }
        self.sample(&bucket, &[("le", "+Inf")], of.count());
        self.sample(&format!("{name}_sum"), &[], seconds(of.sum_us()));
        self.sample(&format!("{name}_count"), &[], of.count());
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn about(status: &NodeStatus, out: &mut Metrics) {
    let node = status.node().to_string();
    out.family("info", "gauge", "1; what runs here is in the labels.");
    out.sample("info", &[("version", &status.config.about.version), ("node", &node)], 1);
    let started = status.workers.started.wall as f64 / 1e3;
    out.gauge("start_time_seconds", "When the node started, since the Unix epoch.", started);
    let stopping = u8::from(status.workers.stopping);
    out.gauge("stopping", "1 while the node is about to stop.", stopping);
}

fn load(status: &NodeStatus, out: &mut Metrics) {
    let stats = &status.workers.stats;
    out.gauge("clients", "Clients connected.", stats.now.clients);
    out.gauge("blocked_clients", "Clients that wait for a key to change.", stats.blocked);
    out.counter("connections_total", "Connections accepted.", stats.connections);
    out.counter("commands_total", "Commands received from clients.", stats.commands);
    out.counter("errors_total", "Error replies.", stats.errors);
    out.counter("received_bytes_total", "Bytes received from clients.", stats.input_bytes);
    out.counter("sent_bytes_total", "Bytes sent to clients.", stats.output_bytes);
    out.histogram(
        "command_duration_seconds",
        "From the moment a command was read to the one its reply could leave.",
        &stats.latency,
    );
}

fn data(status: &NodeStatus, out: &mut Metrics) {
    let now = &status.workers.stats.now;
    out.family("keys", "gauge", "Keys, expired ones included until they are removed.");
    for (space, keys) in status.config.spaces.iter().zip(&now.keys) {
        out.sample("keys", &[("space", &space.name)], keys);
    }
    let expired = status.workers.stats.expired;
    out.counter("expired_keys_total", "Keys that expired and were removed.", expired);
    out.gauge("memory_data_bytes", "Memory that data takes.", now.memory_bytes);
    let max = status.config.memory_bytes_max;
    out.gauge("memory_data_max_bytes", "Memory that data may take.", max);
    out.gauge("unsent_bytes", "Replies that clients have not taken.", now.unsent_bytes);
    if let Some(bytes) = status.outside.as_ref().and_then(|outside| outside.process_bytes) {
        out.gauge("process_resident_memory_bytes", "Memory that the process takes.", bytes);
    }
}

fn shards(status: &NodeStatus, out: &mut Metrics) {
    let shards = &status.workers.shards;
    out.family("shards", "gauge", "Shards of this node by what it is to them.");
    for role in [Role::Alone, Role::Leader, Role::Follower] {
        let count = shards.iter().filter(|shard| shard.role == role).count();
        out.sample("shards", &[("role", role.name())], count);
    }
    out.family("replicas", "gauge", "Replicas of this node by what they do.");
    for state in ReplicaState::ALL {
        let count = shards.iter().filter(|shard| shard.state == state).count();
        out.sample("replicas", &[("state", state.name())], count);
    }
    let leaderless = status.leaderless();
    out.gauge("shards_without_leader", "Shards of which no leader is known.", leaderless);
    let resident = status.workers.stats.now.resident_shards;
    out.gauge("shards_in_memory", "Shards that are wholly in memory.", resident);
    let mut lag = BTreeMap::new();
    for shard in shards {
        for follower in &shard.followers {
            let most: &mut u64 = lag.entry(follower.node).or_default();
            *most = shard.last.saturating_sub(follower.matched).max(*most);
        }
    }
    out.family(
        "replica_lag_entries",
        "gauge",
        "Entries that a peer lacks of the shard led here in which it is farthest behind.",
    );
    for (node, entries) in lag {
        out.sample("replica_lag_entries", &[("peer", &node.to_string())], entries);
    }
    let unflushed = status.workers.stats.now.log_entries_unflushed;
    out.gauge("unflushed_entries", "Entries that a restart would replay.", unflushed);
}

fn peers(status: &NodeStatus, out: &mut Metrics) {
    let quorum = u8::from(status.has_quorum());
    out.gauge("quorum", "1 if the node reaches a majority of the nodes.", quorum);
    out.family("peer_up", "gauge", "1 if there is a link with that node.");
    for peer in &status.workers.peers {
        out.sample("peer_up", &[("peer", &peer.node.to_string())], u8::from(peer.up));
    }
    let links = status.outside.iter().flat_map(|outside| &outside.links);
    out.family("peer_links_total", "counter", "Links made with that node.");
    for link in links.clone() {
        out.sample("peer_links_total", &[("peer", &link.node.to_string())], link.links);
    }
    out.family(
        "peer_round_trip_seconds",
        "gauge",
        "From a worker here to one there and back, as last measured.",
    );
    for link in links {
        if let Some(us) = link.round_trip_us {
            let peer = link.node.to_string();
            out.sample("peer_round_trip_seconds", &[("peer", &peer)], seconds(us));
        }
    }
}

fn disk(status: &NodeStatus, out: &mut Metrics) {
    let (all, now) = (&status.workers, &status.workers.stats.now);
    out.gauge("disk_full", "1 while writes are refused for want of room.", u8::from(all.disk_full));
    let throttled = u8::from(all.throttled);
    out.gauge("writes_throttled", "1 while writes wait for the tables.", throttled);
    out.gauge("flush_pending_bytes", "Changes that no flush has taken yet.", now.dirty_bytes);
    out.gauge("journal_in_flight_bytes", "What waits for the journal.", now.bytes_in_flight);
    let Some(outside) = &status.outside else { return };
    if let Some(bytes) = outside.disk_free_bytes {
        out.gauge("disk_free_bytes", "Room on the disk of the data directory.", bytes);
    }
    let journal = &outside.journal;
    out.gauge("journal_bytes", "Bytes of the journal in use.", journal.bytes);
    let appended = journal.appended_bytes;
    out.counter("journal_appended_bytes_total", "Bytes of entries appended.", appended);
    out.histogram(
        "journal_sync_duration_seconds",
        "How long an append to the journal and its sync took.",
        &journal.sync_latency,
    );
}
