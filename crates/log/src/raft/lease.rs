//! Leader leases: reads without messages, and the promise they rest on.
//!
//! A follower that hears a leader promises to vote for nobody for [`ELECTION_MS`] (unless that
//! very leader asks for it, by a transfer). When a quorum has answered a question that a leader
//! asked at time T, each of them heard it at T or later; so until T + [`ELECTION_MS`] no quorum
//! elects anybody else, and what this leader has committed is all there is. The lease ends
//! earlier than that, because
//!
//! - clocks may run fast or slow by [`CLOCK_DRIFT_MAX_PERCENT`], at both ends, and
//! - time is looked at in ticks, at both ends.
//!
//! ```text
//! LEASE_MS = ELECTION_MS × (1 − 2 × drift) − 2 × TICK_MS
//! ```
//!
//! A transfer makes a follower campaign against the promise, at once or much later; so the
//! leader that begins one has no lease for the rest of its term. A replica that restarts does not
//! know whom it heard: it keeps the promise from its first tick on, unless it has never been part
//! of any term. The engine keeps the promise as well, but forgets it when told to campaign.
//!
//! Only reads rest on clocks. What is agreed on never does.

use super::{ELECTION_MS, TICK_MS};
use quorate_base::Millis;
use quorate_base::mutation::{Mutation, active};

/// How much faster or slower than real time the clock of a node may run, in percent.
pub const CLOCK_DRIFT_MAX_PERCENT: Millis = 5;
/// How long after the start of a confirmed round a leader answers reads by itself.
pub const LEASE_MS: Millis = ELECTION_MS * (100 - 2 * CLOCK_DRIFT_MAX_PERCENT) / 100 - 2 * TICK_MS;

/// What a leader may rely on in its term.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until: Option<Millis>,
    revoked: bool,
}

impl Lease {
    /// Another term or role: nothing holds.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// No lease for the rest of this term.
    pub(super) fn revoke(&mut self) {
        *self = Self { until: None, revoked: true };
    }

    /// A quorum answered a question of this term that was asked no earlier than `begun`.
    pub(super) fn confirm(&mut self, begun: Millis) {
        if !self.revoked {
            self.until = self.until.max(Some(begun + LEASE_MS));
        }
    }

    /// Whether no other leader can have been elected before `now`.
    pub(super) fn covers(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| now < until) || active(Mutation::LeaseWithoutBound)
    }

    /// Whether less than a third of a lease is left.
    pub(super) fn is_short(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| until < now + LEASE_MS / 3)
    }
}

/// The promise to vote for nobody.
#[derive(Debug)]
pub(super) struct Promise {
    /// `None` until time is known, for a replica that may have heard a leader before.
    until: Option<Millis>,
}

impl Promise {
    /// `fresh`: the replica has never been part of any term.
    pub(super) fn new(fresh: bool) -> Self {
        Self { until: fresh.then_some(0) }
    }

    /// Time is known.
    pub(super) fn begin(&mut self, now: Millis) {
        self.until.get_or_insert(now + ELECTION_MS);
    }

    /// A leader was heard.
    pub(super) fn renew(&mut self, now: Millis) {
        self.until = self.until.max(Some(now + ELECTION_MS));
    }

    pub(super) fn holds(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}
