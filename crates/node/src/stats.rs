//! Counters of one worker, for INFO and for whoever watches the node.

use crate::histogram::Histogram;
use quorate_base::Millis;

/// What happened of late is what happened in the last one or two periods of this length.
const RECENT_MS: Millis = 5_000;

/// What a worker has counted since it started or since `CONFIG RESETSTAT`, and what it has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands received.
    pub commands: u64,
    /// Error replies.
    pub errors: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Bytes received from clients.
    pub input_bytes: u64,
    /// Bytes sent to clients.
    pub output_bytes: u64,
    /// Keys that expired and were removed.
    pub expired: u64,
    /// How long clients waited for their replies: from the turn that read a command to the one
    /// that let its reply go. Commands that wait for a key to change are not in it.
    pub latency: Histogram,
    /// Commands blocked now.
    pub blocked: u64,
    /// What else there is now; filled in when it is asked for.
    pub now: Gauges,
}

/// What a worker has at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Clients connected.
    pub clients: u64,
    /// Clients that have subscriptions.
    pub subscribers: u64,
    /// Clients that watch keys.
    pub watching: u64,
    /// Keys of each space by its id, expired ones included until they are removed.
    pub keys: Vec<u64>,
    /// Keys in memory that expire.
    pub keys_with_expiry: u64,
    /// Bytes of memory that data takes.
    pub memory_bytes: u64,
    /// Bytes of output that clients have not taken.
    pub unsent_bytes: u64,
    /// Shards that are here.
    pub shards: u64,
    /// Shards that are wholly in memory.
    pub resident_shards: u64,
    /// Shards that are being flushed.
    pub flushing_shards: u64,
    /// Bytes that the next flushes would write.
    pub dirty_bytes: u64,
    /// Frames on their way to the journal.
    pub frames_in_flight: u64,
    /// Their bytes.
    pub bytes_in_flight: u64,
    /// Entries ever proposed to the logs of these shards.
    pub log_entries: u64,
    /// Entries that a restart would have to replay.
    pub log_entries_unflushed: u64,
}

impl Stats {
    /// Adds the numbers of another worker.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.errors += other.errors;
        self.connections += other.connections;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        self.expired += other.expired;
        self.latency.add(&other.latency);
        self.blocked += other.blocked;
        let (now, other) = (&mut self.now, &other.now);
        now.clients += other.clients;
        now.subscribers += other.subscribers;
        now.watching += other.watching;
        now.keys.resize(now.keys.len().max(other.keys.len()), 0);
        now.keys.iter_mut().zip(&other.keys).for_each(|(all, keys)| *all += keys);
        now.keys_with_expiry += other.keys_with_expiry;
        now.memory_bytes += other.memory_bytes;
        now.unsent_bytes += other.unsent_bytes;
        now.shards += other.shards;
        now.resident_shards += other.resident_shards;
        now.flushing_shards += other.flushing_shards;
        now.dirty_bytes += other.dirty_bytes;
        now.frames_in_flight += other.frames_in_flight;
        now.bytes_in_flight += other.bytes_in_flight;
        now.log_entries += other.log_entries;
        now.log_entries_unflushed += other.log_entries_unflushed;
    }
}

/// Counters as they were a while ago.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    next: Millis,
    older: (Millis, Stats),
    newer: (Millis, Stats),
}

/// What happened of late.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// Commands each second.
    pub commands: f64,
    /// Error replies each second.
    pub errors: f64,
    /// Bytes from clients each second.
    pub input_bytes: f64,
    /// Bytes to clients each second.
    pub output_bytes: f64,
    /// See [`Stats::latency`].
    pub latency: Histogram,
}

impl Recent {
    /// Begins anew, as the counters do.
    pub(crate) fn reset(&mut self, now: Millis) {
        let none = || (now, Stats::default());
        *self = Self { next: now + RECENT_MS, older: none(), newer: none() };
    }

    /// Keeps the counters of now if it is time to.
    #[inline]
    pub(crate) fn look(&mut self, now: Millis, stats: &Stats) {
        if now >= self.next {
            self.keep(now, stats);
        }
    }

    #[cold]
    fn keep(&mut self, now: Millis, stats: &Stats) {
        let first = self.next == 0;
        self.next = now + RECENT_MS;
        self.older = std::mem::replace(&mut self.newer, (now, stats.clone()));
        if first {
            self.older = self.newer.clone();
        }
    }

    /// What happened since the older ones.
    pub(crate) fn rates(&self, now: Millis, stats: &Stats) -> Rates {
        let (since, old) = &self.older;
        let seconds = now.saturating_sub(*since).max(1) as f64 / 1_000.0;
        let rate = |now: u64, old: u64| now.saturating_sub(old) as f64 / seconds;
        Rates {
            commands: rate(stats.commands, old.commands),
            errors: rate(stats.errors, old.errors),
            input_bytes: rate(stats.input_bytes, old.input_bytes),
            output_bytes: rate(stats.output_bytes, old.output_bytes),
            latency: stats.latency.since(&old.latency),
        }
    }
}

impl Rates {
    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.errors += other.errors;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        self.latency.add(&other.latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_periods() {
        let (mut recent, mut stats) = (Recent::default(), Stats::default());
        recent.look(50_000, &stats);
        stats.commands = 500;
        stats.latency.record(8, 500);
        let rates = recent.rates(51_000, &stats);
        assert_eq!((rates.commands, rates.latency.count()), (500.0, 500));
        // Two periods later nothing of that counts any more.
        recent.look(50_000 + RECENT_MS, &stats);
        assert_eq!(recent.rates(55_000, &stats).commands, 100.0);
        recent.look(50_000 + 2 * RECENT_MS, &stats);
        let rates = recent.rates(61_000, &stats);
        assert_eq!((rates.commands, rates.latency.count()), (0.0, 0));
        recent.reset(70_000);
        stats = Stats { commands: 7, ..Stats::default() };
        assert_eq!(recent.rates(71_000, &stats).commands, 7.0);
    }
}
