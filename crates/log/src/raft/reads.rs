//! Pending linearizable reads.
//!
//! ```text
//! read(id) ─▶ waiting ─▶ round: one question to the leader and a quorum ─▶ confirmed at an index ─▶ readable
//!          └─ under a lease (`lease`) ───────────────────────────────────────────┘
//! ```
//!
//! One round is under way at a time; what arrives meanwhile waits for the next, because a round
//! only vouches for reads that were there when it began. The engine forgets questions silently
//! at role changes and lost messages, so a round is begun anew then and after a time.
//!
//! A pending read costs its 8 bytes here; how many there are at a time is for the caller's own
//! table of them to bound.

use super::READ_RETRY_MS;
use quorate_base::{Index, Millis};
use std::collections::VecDeque;

/// Names a round; never used twice in a group, not even over restarts.
pub(super) type Question = [u8; 16];

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<u64>,
    /// A round should begin even if no read waits.
    wanted: bool,
    /// Rounds in a row that were not answered in time.
    retries: u32,
    round: Option<Round>,
    confirmed: VecDeque<(Index, Vec<u64>)>,
}

#[derive(Debug)]
struct Round {
    question: Question,
    ids: Vec<u64>,
    asked_at: Millis,
}

impl Reads {
    pub(super) fn push(&mut self, id: u64) {
        self.waiting.push(id);
    }

    /// Whether a round should begin as soon as somebody can be asked.
    pub(super) fn wants_round(&self) -> bool {
        self.round.is_none() && (self.wanted || !self.waiting.is_empty())
    }

    /// Has a round begun for its own sake.
    pub(super) fn want_round(&mut self) {
        self.wanted = self.round.is_none();
    }

    /// Adds a read that may see the state from `index` on. Indexes never decrease.
    pub(super) fn pass(&mut self, index: Index, id: u64) {
        match self.confirmed.back_mut() {
            Some((last, ids)) if *last >= index => ids.push(id),
            _ => self.confirmed.push_back((index, vec![id])),
        }
    }

    /// Whether nothing is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.wanted && self.round.is_none() && self.confirmed.is_empty()
    }

    /// Drops all reads.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn begin(&mut self, question: Question, now: Millis) {
        let ids = std::mem::take(&mut self.waiting);
        self.wanted = false;
        self.round = Some(Round { question, ids, asked_at: now });
    }

    /// Has the round under way, if any, begun anew.
    pub(super) fn restart(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.ids.append(&mut self.waiting);
            self.waiting = round.ids;
        }
    }

    /// When the question of the round under way should be put again.
    pub(super) fn retry_at(&self) -> Option<Millis> {
        let wait = READ_RETRY_MS << self.retries.min(3);
        self.round.as_ref().map(|round| round.asked_at + wait)
    }

    /// Has the round under way begun anew because its answer takes too long.
    pub(super) fn retry(&mut self) {
        self.retries += 1;
        self.restart();
    }

    /// `question` was answered: its reads may see the state from `index` on. Answers to rounds
    /// begun anew are ignored. Returns when the round began.
    pub(super) fn confirm(&mut self, question: &[u8], index: Index) -> Option<Millis> {
        let round = self.round.take_if(|round| round.question == *question)?;
        self.retries = 0;
        if !round.ids.is_empty() {
            self.confirmed.push_back((index, round.ids));
        }
        Some(round.asked_at)
    }

    /// Moves every waiting read into `out`: for a group of one.
    pub(super) fn release_waiting(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.waiting);
    }

    /// Moves into `out` the reads whose index the state has reached.
    pub(super) fn release(&mut self, reached: impl Fn(Index) -> bool, out: &mut Vec<u64>) {
        while let Some((index, mut ids)) = self.confirmed.pop_front() {
            if !reached(index) {
                self.confirmed.push_front((index, ids));
                return;
            }
            out.append(&mut ids);
        }
    }
}
