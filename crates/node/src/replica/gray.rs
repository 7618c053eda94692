//! Gray failures: a node whose disk or event loop is slow still answers, slowly, and would slow
//! down everything it leads. It notices by itself and hands over what it leads.

use crate::worker::Worker;
use quorate_base::rare::RarePath;
use quorate_base::{Millis, ShardId};

/// A frame that waits for the journal this long shows a slow disk.
const SLOW_SYNC_MS: Millis = 500;
/// A tick that comes so much later than it was wanted shows a slow event loop.
const LATE_TICK_MS: Millis = 200;
/// So many late ticks within [`FORGET_MS`] are not chance.
const LATE_TICKS: u32 = 3;
/// Lateness is forgotten after this time.
const FORGET_MS: Millis = 10_000;
/// How often a slow node looks for somebody to hand over to.
const RETRY_MS: Millis = 500;

/// What a worker knows of its own slowness.
#[derive(Debug, Default)]
pub(crate) struct Gray {
    /// When the last tick was wanted.
    wanted: Option<Millis>,
    late: u32,
    late_since: Millis,
    /// It is slow, and tries again to hand over at this time.
    next: Option<Millis>,
    until: Millis,
}

impl Worker {
    pub(crate) fn gray_deadline(&self) -> Option<Millis> {
        let slow = self.in_flight.front().map(|frame| frame.since + SLOW_SYNC_MS);
        // A frame that is late already is looked after by the retries.
        let slow = slow.filter(|at| *at > self.now.mono);
        [slow, self.peers.gray.next].into_iter().flatten().min()
    }

    /// Notes when the outside is to tick next, to see later whether it did.
    pub(crate) fn expect_tick(&mut self, at: Option<Millis>) {
        self.peers.gray.wanted = at.map(|at| at.max(self.now.mono));
    }

    /// Notes whether the turn that begins comes later than it should.
    pub(crate) fn note_lateness(&mut self) {
        let (now, gray) = (self.now.mono, &mut self.peers.gray);
        if gray.wanted.take().is_some_and(|at| now > at + LATE_TICK_MS) {
            gray.late += 1;
        }
    }

    pub(crate) fn look_for_gray_failures(&mut self) {
        let now = self.now.mono;
        let gray = &mut self.peers.gray;
        if now.saturating_sub(gray.late_since) > FORGET_MS {
            (gray.late, gray.late_since) = (0, now);
        }
        let stalled = self.in_flight.front().is_some_and(|f| now >= f.since + SLOW_SYNC_MS);
        if stalled || gray.late >= LATE_TICKS {
            gray.until = now + FORGET_MS;
            gray.next.get_or_insert(now);
        }
        if gray.next.is_none_or(|at| at > now) {
            return;
        }
        gray.next = (now < gray.until).then_some(now + RETRY_MS);
        self.hand_over(RarePath::SlowHandedOver);
    }

    /// Hands over every shard that this worker leads and somebody else can.
    pub(crate) fn hand_over(&mut self, why: RarePath) {
        for shard in 0..self.shards.len() as ShardId {
            if !self.leads(shard) {
                continue;
            }
            self.propose_one(shard);
            let slot = self.shards[shard as usize].as_mut().expect("it leads here");
            if let Some(to) = slot.log.successor() {
                slot.log.transfer(to);
                self.peers.mark(why);
                self.drain(shard);
            }
        }
    }
}
