//! The replicated log of one shard: the agreed order of its entries.

pub mod record;

pub use record::{Body, Entry, Record};
