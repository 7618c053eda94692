//! What only the threads outside the workers see: the journal's speed, the links, the process.
//!
//! They note it here as it happens, and whoever tells how the node is reads it. No lock is held
//! for longer than a copy takes.

use crate::config::Cluster;
use quorate_base::ids::NodeId;
use quorate_node::Histogram;
use quorate_node::status::{JournalFacts, LinkFacts, Outside};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What happened of late is what happened in the last one or two periods of this length.
const RECENT: Duration = Duration::from_secs(5);

/// Not looked at yet.
const UNKNOWN: u64 = u64::MAX;

/// What was seen so far.
pub(crate) struct Observed {
    journal: Mutex<SeenJournal>,
    links: Mutex<BTreeMap<NodeId, LinkFacts>>,
    disk_free_bytes: AtomicU64,
}

#[derive(Default)]
struct SeenJournal {
    bytes: u64,
    appended_bytes: u64,
    syncs: Histogram,
    /// Two earlier states of `syncs`, and when the later of them was kept.
    older: Histogram,
    newer: Histogram,
    kept: Option<Instant>,
}

impl Observed {
    pub(crate) fn new(cluster: Option<&Cluster>) -> Self {
        let peers = cluster
            .into_iter()
            .flat_map(|cluster| cluster.peers.iter().filter(|(peer, _)| **peer != cluster.node));
        let link = |(&node, address): (&NodeId, &String)| {
            (node, LinkFacts { node, address: address.clone(), ..LinkFacts::default() })
        };
        Self {
            journal: Mutex::default(),
            links: Mutex::new(peers.map(link).collect()),
            disk_free_bytes: AtomicU64::new(UNKNOWN),
        }
    }

    /// So many bytes of entries were appended; with a sync, all of it took so long.
    pub(crate) fn appended(&self, bytes: usize, sync: Option<Duration>) {
        let mut journal = locked(&self.journal);
        journal.appended_bytes += bytes as u64;
        if let Some(took) = sync {
            journal.age(Instant::now());
            journal.syncs.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), 1);
        }
    }

    /// The journal takes so many bytes.
    pub(crate) fn journal_bytes(&self, bytes: u64) {
        locked(&self.journal).bytes = bytes;
    }

    /// So many bytes of the disk are free.
    pub(crate) fn disk_free(&self, bytes: u64) {
        self.disk_free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A link is up.
    pub(crate) fn linked(&self, node: NodeId) {
        self.with_link(node, |link| {
            link.links += 1;
            (link.reason, link.round_trip_us) = (None, None);
        });
    }

    /// There is no link, and why.
    pub(crate) fn not_linked(&self, node: NodeId, reason: &str) {
        self.with_link(node, |link| link.reason = Some(reason.to_owned()));
    }

    /// A message to another node and its answer took so long.
    pub(crate) fn round_trip(&self, node: NodeId, us: u64) {
        self.with_link(node, |link| link.round_trip_us = Some(us));
    }

    fn with_link(&self, node: NodeId, note: impl FnOnce(&mut LinkFacts)) {
        if let Some(link) = locked(&self.links).get_mut(&node) {
            note(link);
        }
    }

    /// All of it.
    pub(crate) fn facts(&self) -> Outside {
        let disk_free_bytes = self.disk_free_bytes.load(Ordering::Relaxed);
        let journal = {
            let mut seen = locked(&self.journal);
            seen.age(Instant::now());
            JournalFacts {
                bytes: seen.bytes,
                appended_bytes: seen.appended_bytes,
                sync_latency: seen.syncs.clone(),
                recent_sync_latency: seen.syncs.since(&seen.older),
            }
        };
        Outside {
            links: locked(&self.links).values().cloned().collect(),
            journal,
            disk_free_bytes: Some(disk_free_bytes).filter(|bytes| *bytes != UNKNOWN),
            process_bytes: process_bytes(),
        }
    }
}

impl SeenJournal {
    /// Forgets what is not of late any more.
    fn age(&mut self, now: Instant) {
        let Some(kept) = self.kept else { return self.kept = Some(now) };
        let age = now.duration_since(kept);
        if age >= RECENT {
            self.older = std::mem::replace(&mut self.newer, self.syncs.clone());
            self.kept = Some(now);
        }
        if age >= 2 * RECENT {
            self.older = self.newer.clone();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// The memory of this process, as the kernel says.
fn process_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_of_late_is_forgotten() {
        let mut seen = SeenJournal::default();
        let start = Instant::now();
        let recent = |seen: &SeenJournal| seen.syncs.since(&seen.older).count();
        seen.age(start);
        seen.syncs.record(100, 1);
        seen.age(start + RECENT);
        seen.syncs.record(100, 1);
        assert_eq!(recent(&seen), 2);
        seen.age(start + 2 * RECENT);
        assert_eq!(recent(&seen), 1);
        seen.age(start + 10 * RECENT);
        assert_eq!(recent(&seen), 0);
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(process_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
