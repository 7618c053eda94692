//! Settings that commands look at. `CONFIG SET` changes them at run time.

/// Thresholds below which Redis would use its compact encodings (`OBJECT ENCODING` answers as if
/// we did) and other limits, with Redis' names and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `hash-max-listpack-entries`
    pub hash_max_listpack_entries: usize,
    /// `hash-max-listpack-value`, bytes
    pub hash_max_listpack_value: usize,
    /// `list-max-listpack-size`: positive entries, or negative -1 to -5 for 4 to 64 KiB
    pub list_max_listpack_size: i64,
    /// `set-max-intset-entries`
    pub set_max_intset_entries: usize,
    /// `set-max-listpack-entries`
    pub set_max_listpack_entries: usize,
    /// `set-max-listpack-value`, bytes
    pub set_max_listpack_value: usize,
    /// `zset-max-listpack-entries`
    pub zset_max_listpack_entries: usize,
    /// `zset-max-listpack-value`, bytes
    pub zset_max_listpack_value: usize,
    /// `stream-node-max-entries`
    pub stream_node_max_entries: usize,
    /// `stream-node-max-bytes`
    pub stream_node_max_bytes: usize,
    /// `hll-sparse-max-bytes`
    pub hll_sparse_max_bytes: usize,
    /// `proto-max-bulk-len`: the largest string, bytes
    pub proto_max_bulk_len: usize,
    /// The most bytes of effects that a command may record of what keys hold; not one of Redis'
    pub command_bytes_max: usize,
    /// PFCOUNT records the count it has found; not one of Redis'
    pub records_counts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            list_max_listpack_size: -2,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            stream_node_max_entries: 100,
            stream_node_max_bytes: 4096,
            hll_sparse_max_bytes: 3000,
            proto_max_bulk_len: quorate_base::limits::VALUE_BYTES_MAX,
            command_bytes_max: quorate_base::limits::COMMAND_BYTES_MAX,
            records_counts: true,
        }
    }
}
