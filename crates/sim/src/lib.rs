//! The simulator: whole clusters in one thread, with simulated time, network and disks.
//!
//! A run is decided by one number, its seed: the cluster's shape, its knobs, which faults happen
//! when, and every delay. The same seed gives the same run, event by event, which the hash of
//! its trace shows. The nodes are the production code from the worker down to the journal;
//! simulated are the event loops around the workers, the clocks, the disks below the journal, the
//! tables of the store, and the network below the links.
//!
//! ```text
//! run.rs      a seed from beginning to end; what it says; a smaller schedule that still fails
//! world.rs    the loop                    fault.rs    what goes wrong, when
//! machine.rs  clock, disks, process       shape.rs    what a seed decides before it begins
//! journal.rs  store.rs  table.rs          client.rs   connections and pipelines
//! net.rs      packets                     load.rs     what clients say and check
//! agree.rs    what replicas agree on      html.rs     a run as a picture
//! trace.rs    hash and story
//! ```
//!
//! This crate reads no clock, starts no thread and opens no file; whoever calls it may run many
//! seeds side by side.

mod agree;
mod chance;
pub mod check;
mod client;
mod clock;
pub mod fault;
mod html;
mod journal;
pub mod load;
mod machine;
mod net;
mod queue;
mod run;
mod shape;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use fault::{Fault, Kind, Planned};
pub use html::page;
pub use queue::{MILLISECOND, Micros, SECOND};
pub use run::{Failure, Options, Outcome, Stats, run_seed};
pub use shape::{NODES_MAX, Shape};
pub use trace::{Note, Story, Told};
