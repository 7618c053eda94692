//! Where shards live: a pure function from what is observed to the moves that mend it.
//!
//! [`plan`] looks at a [`State`] and says which [`Move`]s to make now; [`explain`] says about one
//! shard why it is where it is, what is wrong, and what happens next. Both are for whoever leads
//! the meta group: it gathers the state, calls [`plan`] from time to time (about once a second is
//! often enough), carries the moves out, and calls again. Nothing is remembered in between. A move
//! counts for the epoch of its shard only, so a plan that was overtaken does no harm.
//!
//! ```text
//! mend     replicas that are missing, misplaced, draining, too many, crowded
//! split    shards that are too big or too hot
//! prefer   leaders in the region that their space wants
//! balance  leaders, then replicas, by count, bytes and load
//! merge    small neighbours, brought together first
//! ```
//!
//! # What is promised
//!
//! Of the moves of one plan, carried out in any order and at any time while the epochs hold:
//!
//! - No two replicas of a shard are on one node, and none is added where its space may not be.
//! - A voter goes only if the others that are alive and have all entries are a majority of what is
//!   left, and never so that there are fewer of them than asked for.
//! - The number of voters is never even for longer than one step, unless that is asked for.
//! - The bounds of [`Limits`] hold, counting what is in flight already.
//! - From a state in which nothing else changes, repeated rounds come to rest (`balance.rs` says
//!   why), and a plan of the state at rest is empty.
//!
//! The same state gives the same plan on every machine: there is no clock, no randomness and no
//! hash map here.
//!
//! # What it must not know
//!
//! How moves are carried out, what is in a shard, how nodes are reached, and how the state is
//! gathered. `eventual` and `byzantine` spaces have other rules for quorums than the majority that
//! is assumed here.

mod balance;
mod explain;
mod hindrance;
mod limits;
mod mend;
mod moves;
mod planner;
mod resize;
mod seat;
mod state;
#[doc(hidden)]
pub mod testing;
mod text;

pub use explain::{Explanation, Next, Placed, Problem};
pub use hindrance::{Hindrance, Refusal, ZoneRefusal};
pub use limits::{Limits, MOVING_SHARDS_MIN};
pub use moves::{Action, Move, Plan, Urgency};
pub use state::{
    Health, Invalid, LeaderPreference, Name, Node, Replica, Role, Shard, Space, State,
};

use planner::Planner;
use quorate_base::ShardId;

/// What to do now, the most urgent first.
pub fn plan(state: &State, limits: &Limits) -> Result<Plan, Invalid> {
    let mut planner = Planner::new(state, limits, None)?;
    planner.run();
    Ok(planner.finish())
}

/// Why `shard` is where it is, what is wrong with that, and what happens next; `None` if there is
/// no such shard. It costs as much as a plan, because what others need decides what waits.
pub fn explain(
    state: &State,
    limits: &Limits,
    shard: ShardId,
) -> Result<Option<Explanation>, Invalid> {
    explain::explain(state, limits, shard)
}

impl Planner<'_> {
    fn run(&mut self) {
        let pairs = self.pair_up();
        self.mend();
        self.split();
        self.prefer_leaders();
        self.balance();
        self.merge(&pairs);
    }
}
