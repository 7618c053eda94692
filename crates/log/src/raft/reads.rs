//! Pending linearizable reads.
//!
//! ```text
//! read(id) ─▶ waiting ─▶ round: one question to the leader and a quorum ─▶ confirmed at an index ─▶ readable
//! ```
//!
//! One round is under way at a time; what arrives meanwhile waits for the next, because a round
//! only vouches for reads that were there when it began. The engine forgets questions silently
//! at role changes and lost messages, so a round is begun anew then and after a time.

use quorate_base::{Index, Millis};
use std::collections::VecDeque;

/// Names a round; never used twice in a group, not even over restarts.
pub(super) type Question = [u8; 16];

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<u64>,
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
        self.round.is_none() && !self.waiting.is_empty()
    }

    pub(super) fn begin(&mut self, question: Question, now: Millis) {
        let ids = std::mem::take(&mut self.waiting);
        self.round = Some(Round { question, ids, asked_at: now });
    }

    /// Has the round under way, if any, begun anew.
    pub(super) fn restart(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.ids.append(&mut self.waiting);
            self.waiting = round.ids;
        }
    }

    /// When the round under way began.
    pub(super) fn asked_at(&self) -> Option<Millis> {
        self.round.as_ref().map(|round| round.asked_at)
    }

    /// `question` was answered: its reads may see the state from `index` on. Answers to rounds
    /// begun anew are ignored.
    pub(super) fn confirm(&mut self, question: &[u8], index: Index) {
        if let Some(round) = self.round.take_if(|round| round.question == *question) {
            self.confirmed.push_back((index, round.ids));
        }
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
