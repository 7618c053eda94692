//! What an operator may set, with defaults that suit most.

use crate::state::Invalid;
use quorate_base::Millis;

/// A cluster may always move this many shards at once, however few it has.
pub const MOVING_SHARDS_MIN: usize = 4;

/// Bounds and thresholds of planning. Shares are fractions of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a node must be gone before its replicas are replaced.
    pub repair_after_ms: Millis,
    /// Copies of shards that a node receives or, as leader, sends at one time.
    pub copies_per_node_max: u32,
    /// Hand-overs of leadership that a node takes part in at one time.
    pub transfers_per_node_max: u32,
    /// Share of all shards that are changed at one time (but [`MOVING_SHARDS_MIN`] always may).
    /// What is not urgent, from spreading on, may use half of it.
    pub moving_shards_share: f64,
    /// Share of all bytes, each shard's counted once, that are copied at one time. One copy may
    /// always go.
    pub moving_bytes_share: f64,
    /// Share of a disk that a copy must leave free.
    pub disk_reserve_share: f64,
    /// By how much of the mean two nodes may differ in replicas, leaders and bytes.
    pub balance_band: f64,
    /// By how much of the mean two nodes may differ in load, which is never still.
    pub load_band: f64,
    /// Means of bytes per weight are taken to be at least this, so that little data is not moved
    /// about because of few bytes.
    pub bytes_floor: u64,
    /// The same for requests per second.
    pub load_floor: u64,
    /// A shard with more bytes is split.
    pub split_bytes: u64,
    /// A shard with more requests per second is split.
    pub split_load: u64,
    /// Neighbours that have no more bytes together are merged.
    pub merge_bytes: u64,
    /// And no more requests per second.
    pub merge_load: u64,
    /// All shards there may be.
    pub shards_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            repair_after_ms: 300_000,
            copies_per_node_max: 2,
            transfers_per_node_max: 8,
            moving_shards_share: 0.01,
            moving_bytes_share: 0.02,
            disk_reserve_share: 0.1,
            balance_band: 0.1,
            load_band: 0.25,
            bytes_floor: 64 << 20,
            load_floor: 500,
            split_bytes: 512 << 20,
            split_load: 20_000,
            merge_bytes: 64 << 20,
            merge_load: 2_000,
            shards_max: 128 * 1024,
        }
    }
}

impl Limits {
    /// Checks that planning with these comes to rest.
    pub fn check(&self) -> Result<(), Invalid> {
        let rules = [
            (self.copies_per_node_max > 0, "copies_per_node_max is 0: nothing would ever move"),
            (self.transfers_per_node_max > 0, "transfers_per_node_max is 0: no node could drain"),
            (is_share(self.moving_shards_share), "moving_shards_share is not within 0 and 1"),
            (is_share(self.moving_bytes_share), "moving_bytes_share is not within 0 and 1"),
            (is_share(self.disk_reserve_share), "disk_reserve_share is not within 0 and 1"),
            (self.balance_band > 0.0, "balance_band is not above 0"),
            (self.load_band > 0.0, "load_band is not above 0"),
            (self.split_bytes > 0 && self.split_load > 0, "a limit for splitting is 0"),
            // The halves of a split, however uneven, must not be merged again.
            (
                self.merge_bytes <= self.split_bytes / 2,
                "merge_bytes is more than half of split_bytes",
            ),
            (self.merge_load <= self.split_load / 2, "merge_load is more than half of split_load"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, text)) => Err(Invalid((*text).into())),
            None => Ok(()),
        }
    }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}
