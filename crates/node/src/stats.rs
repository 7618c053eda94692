//! Counters of one worker, for INFO.

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
