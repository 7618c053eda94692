//! Bounds that more than one layer relies on, each with its unit in its name.

/// The largest string value and the largest bulk argument, as in Redis (`proto-max-bulk-len`).
pub const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// The most arguments one command may carry, as in Redis.
pub const ARGS_MAX: usize = 1024 * 1024;

/// The longest inline command or protocol line, as in Redis (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of effects that one command may record beyond what its arguments hold: what it
/// copies, stores or removes. All of a turn must fit one frame of the journal.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// The number of hash slots, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;
