//! What a node answers to `QUORATE STATUS`, as far as it is shown.
//!
//! An older node may leave something out, a newer one tell more; both are understood.

use serde::Deserialize;

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// 0 if it stands alone.
    pub(super) node: u64,
    pub(super) version: String,
    pub(super) run_id: String,
    pub(super) client_address: String,
    pub(super) uptime_ms: u64,
    pub(super) time_ms: u64,
    pub(super) stopping: bool,
    pub(super) quorum: bool,
    pub(super) peers: Vec<Peer>,
    pub(super) spaces: Vec<Space>,
    pub(super) shards: Vec<Shard>,
    pub(super) load: Load,
    pub(super) memory: Memory,
    pub(super) journal: Journal,
    pub(super) disk: Disk,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Peer {
    pub(super) node: u64,
    pub(super) up: bool,
    pub(super) since_ms: u64,
    pub(super) address: Option<String>,
    pub(super) client_address: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) round_trip_us: Option<u64>,
}

/// A space.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Space {
    pub(super) name: String,
    pub(super) prefix: String,
    pub(super) durability: String,
}

/// A shard at the node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shard {
    pub(super) shard: u64,
    pub(super) space: usize,
    pub(super) first_slot: u64,
    pub(super) last_slot: u64,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) leader: Option<u64>,
    pub(super) term: u64,
    pub(super) committed: u64,
    pub(super) applied: u64,
    pub(super) lag: Vec<Lag>,
    pub(super) keys: u64,
    pub(super) memory_bytes: u64,
    pub(super) commands: u64,
}

/// How far another node is behind the leader of a shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lag {
    pub(super) node: u64,
    pub(super) entries: u64,
}

/// What clients do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Load {
    pub(super) clients: u64,
    pub(super) commands: u64,
    pub(super) input_bytes: u64,
    pub(super) output_bytes: u64,
    pub(super) commands_per_second: f64,
    pub(super) input_bytes_per_second: f64,
    pub(super) output_bytes_per_second: f64,
    pub(super) recent_latency: Latency,
}

/// How long something took.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    pub(super) p50_us: Option<u64>,
    pub(super) p99_us: Option<u64>,
}

/// Memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    pub(super) data_bytes: u64,
    pub(super) data_bytes_max: u64,
    pub(super) process_bytes: Option<u64>,
}

/// The journal.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Journal {
    pub(super) bytes: Option<u64>,
    pub(super) bytes_in_flight: u64,
    pub(super) recent_sync_latency: Option<Latency>,
}

/// The disk.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Disk {
    pub(super) free_bytes: Option<u64>,
    pub(super) full: bool,
    pub(super) throttled: bool,
}
