//! Redis data types on an ordered store: the data of a shard in memory over a table on disk, the
//! effects that its log carries, and the commands on it. Below the node: knows no sockets, no
//! clocks, no log.

pub mod coll_mut;
pub mod command;
pub mod commands;
mod counts;
pub mod db;
pub mod disk;
pub mod effects;
pub mod entry;
pub mod error;
pub mod index;
pub mod interest;
pub mod keys;
pub mod keyspace;
mod logged;
pub(crate) mod long_double;
pub mod parse;
pub mod place;
pub mod requests;
pub(crate) mod scan;
pub mod settings;
pub mod sorted;
mod sweep;
pub mod table;
pub mod testing;
mod undo;

pub use command::{Ctx, Spec};
pub use db::Db;
pub use error::Error;
pub use keyspace::{Expiry, Keyspace};
