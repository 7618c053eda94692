//! (placeholder)
pub mod store;
