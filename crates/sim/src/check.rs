//! Judges what clients saw: whether a history of operations can be explained by a correct database.
//!
//! - [`History`] records operations as they are called and answered, by key.
//! - [`Search`] decides whether the operations on one key are linearizable with respect to a
//!   [`Model`]. Linearizability is local (Herlihy and Wing 1990, theorem 1), so keys are checked
//!   one by one. The search is bounded; a history that needs more steps is
//!   [`Verdict::Undecided`], which the caller counts and shows.
//! - [`exact`] has checks in linear time that are never undecided: acknowledged operations count
//!   once, unanswered ones at most once, and no acknowledged write is missing at the end.
//!
//! How an operation ends ([`Fate`]):
//!
//! ```text
//! answered, result known     took effect once, between call and return
//! answered, result unknown   the same, with any result (an outcome that was asked for later)
//! refused                    never takes effect; any sign of it is a violation
//! neither (lost, UNKNOWN)    takes effect once at any moment after its call, or never
//! ```
//!
//! # Why not an existing tester
//!
//! `LinearizabilityTester` of stateright 0.31 serves model checking of tiny histories. Its search is
//! recursive, clones the remaining history at every step and remembers no configuration, so a
//! history of some hundred concurrent operations already takes exponential time. It allows one
//! operation in flight per thread, which excludes pipelines and clients that go on after a lost
//! reply, and its specification sees neither times (expiry) nor operations without a result.

pub mod exact;
mod history;
mod models;
mod search;
#[cfg(test)]
mod tests;

pub use history::{Fate, History, Operation, OperationId};
pub use models::{
    Adds, Appends, Counter, ElementSet, Expiring, Expiry, List, ListState, MEMBERS_MAX, Members,
    Register, Registers, Seen,
};
pub use search::{Failure, Model, Search, Verdict};
