//! Counters of one worker, for INFO.

/// What a worker has counted since it started or since `CONFIG RESETSTAT`.
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
    /// Clients connected now.
    pub clients: u64,
    /// Keys, expired ones included until they are removed.
    pub keys: u64,
    /// Keys in memory that expire.
    pub keys_with_expiry: u64,
    /// Bytes of memory that data takes.
    pub memory_bytes: u64,
    /// Shards that are wholly in memory.
    pub resident_shards: u64,
    /// Shards at home here.
    pub shards: u64,
}
