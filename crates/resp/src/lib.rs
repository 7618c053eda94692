//! The Redis serialization protocol, versions 2 and 3
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), without any I/O.

pub mod reply;

pub use reply::{Proto, Reply};
