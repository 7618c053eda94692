//! The sans-IO node: events in, effects out.
//!
//! A node is a set of [`Worker`]s, one for each thread that the outside gives it. Each owns the
//! shards at home with it and the clients that connected to it. The outside hands a worker what
//! happened ([`Event`]), ends the turn, and carries out what it wants done ([`Effect`]); messages
//! between workers are events and effects too. Nothing in here knows a socket, a file, a thread
//! or a clock, so the same node runs in production and in a simulator.
//!
//! ```text
//! worker.rs       the event match and the end of a turn: propose, persist, reply
//! dispatch.rs     from a request to its command and shards
//! acquire.rs      commands over several shards, and shards of other workers
//! blocked.rs      commands that wait for a key
//! transaction.rs  MULTI and WATCH            pubsub.rs   channels
//! session/        commands about connection and server
//! upkeep.rs       expiry, flushes, memory
//! replica.rs      shards that other nodes share: leading, following, requests and their fate
//! timed.rs        how long clients wait for their replies
//! status.rs       what a node can tell of itself
//! peer.rs         what nodes say to each other
//! link.rs         one session between two nodes
//! output.rs       replies in order, held until they are committed
//! testing.rs      a whole node for tests
//! ```

mod acquire;
mod ask;
mod blocked;
#[cfg(test)]
mod compatibility;
pub mod config;
mod conn;
mod dispatch;
mod event;
mod histogram;
mod job;
pub mod link;
mod message;
mod output;
pub mod peer;
mod pubsub;
mod replica;
mod script;
mod session;
mod shard;
mod stats;
pub mod status;
pub mod testing;
mod timed;
mod transaction;
mod upkeep;
mod worker;

pub use config::Config;
pub use event::{ConnId, Effect, Event, Frame, Time, WorkerId};
pub use histogram::Histogram;
pub use job::JobId;
pub use message::{ClientFilter, Message, home};
pub use replica::ReplicaView;
pub use session::info::CLIENTS_MAX;
pub use shard::Durability;
pub use stats::{Gauges, Stats};
pub use worker::{ShardStart, Worker, turn_bytes_bound};
