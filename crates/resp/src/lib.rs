//! The Redis serialization protocol, versions 2 and 3
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), without any I/O.

pub mod decode;
mod double;
mod inline;
pub mod reply;

pub use decode::{Decoder, Limits, ProtocolError, look_ahead};
pub use reply::{Proto, Reply};
