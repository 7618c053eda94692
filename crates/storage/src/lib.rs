//! (placeholder)
pub mod journal;
pub mod store;
