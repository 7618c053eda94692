//! Deliberate bugs, to prove that the simulator finds them.
//!
//! Each is a place in the code that asks [`active`] whether to be wrong. Without the feature
//! `mutations`, which only tests turn on, the answer is a constant and the question costs nothing.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// A write counts as durable before the journal has synced it.
    AckBeforeSync,
    /// A leader commits what only itself holds.
    SkipQuorum,
    /// A leader believes in its lease for ever.
    LeaseWithoutBound,
    /// A snapshot leaves out which requests were executed.
    ForgetRequests,
    /// After a restart, requests that the table knows to be executed are executed once more. (That
    /// entries are replayed twice would change nothing: they carry effects, not commands.)
    ApplyTwice,
    /// A damaged frame of a link or of the journal is taken for a good one.
    IgnoreChecksum,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AckBeforeSync,
        Self::SkipQuorum,
        Self::LeaseWithoutBound,
        Self::ForgetRequests,
        Self::ApplyTwice,
        Self::IgnoreChecksum,
    ];
}

#[cfg(feature = "mutations")]
mod switch {
    use super::Mutation;
    use std::cell::Cell;

    // Of the thread: tests of one process run side by side.
    std::thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Makes this thread's code wrong in this way, or right again.
    pub fn set(mutation: Option<Mutation>) {
        ACTIVE.with(|active| active.set(mutation));
    }

    /// Whether this thread's code is to be wrong in this way.
    pub fn active(mutation: Mutation) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutation))
    }
}

#[cfg(feature = "mutations")]
pub use switch::{active, set};

/// Whether the code is to be wrong in this way: never, in this build.
#[cfg(not(feature = "mutations"))]
#[inline]
pub const fn active(_: Mutation) -> bool {
    false
}
