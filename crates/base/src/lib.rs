//! What every layer shares: identifiers, hash slots, hashing, random numbers and
//! the binary codec. Pure functions and plain values; nothing here knows a clock,
//! a file, a socket or a thread.

pub mod codec;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod mutation;
pub mod prng;
pub mod rare;
pub mod slot;

pub use ids::{Index, Millis, ShardId, SpaceId, Term};
pub use prng::Prng;
