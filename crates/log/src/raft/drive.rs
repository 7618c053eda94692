//! What goes into the engine: messages and time, and how this module follows it afterwards.

use super::wire::{Incoming, Own};
use super::{ELECTION_TICKS, ELECTION_TICKS_MAX, RaftLog, TICK_MS};
use crate::{Leadership, Log};
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_base::{Index, Millis, Term};
use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};
use std::sync::Arc;

impl RaftLog {
    /// A new draw of the election timeout.
    pub(super) fn redraw(&mut self) {
        self.election_ticks = ELECTION_TICKS + self.prng.below(ELECTION_TICKS_MAX - ELECTION_TICKS);
        self.raft.set_randomized_election_timeout(self.election_ticks as usize);
    }

    /// A local message to the engine. It refuses some silently; each caller copes with that.
    pub(super) fn call(&mut self, message: Message) {
        let _ = self.raft.step(message);
        self.settle();
    }

    /// Follows the engine after a call that may have changed its log's end, its role or what is
    /// agreed on.
    pub(super) fn settle(&mut self) {
        self.follow();
        while self.follow_change() {
            self.follow();
        }
    }

    fn follow(&mut self) {
        let last = self.raft.raft_log.last_index();
        while self.raft.store().last() < last {
            // Only the entry that opens a leadership comes from the engine itself.
            let index = self.raft.store().last() + 1;
            let term = self.raft.raft_log.term(index).expect("the engine holds it");
            self.raft.mut_store().push_empty(term);
        }
        let now = (self.raft.term, self.raft.state, self.raft.leader_id);
        if now != self.seen {
            self.seen = now;
            self.reads.restart();
            self.lease.restart();
            self.patients.clear();
            self.redraw();
            let term = (now.1 == StateRole::Leader).then_some(now.0);
            if self.leading.map(|leading| leading.term) != term {
                if let Some(ended) = self.leading.filter(|_| !self.gained) {
                    self.ended = Some(ended.term);
                }
                self.gained = term.is_some();
                self.leading = term.map(|term| Leadership { term, start: last });
            }
        }
        self.raft.set_randomized_election_timeout(self.election_ticks as usize);
    }

    /// Moves the engine's time forward.
    pub(super) fn advance(&mut self, now: Millis) {
        if self.alone || self.sleep.asleep {
            return;
        }
        self.promise.begin(now);
        let clock = *self.clock.get_or_insert(now);
        let ticks = now.saturating_sub(clock) / TICK_MS;
        if ticks == 0 {
            return;
        }
        self.clock = Some(clock + ticks * TICK_MS);
        self.sleep.quiet_ticks += ticks;
        // Whoever slept through more than an election has nothing to gain from more ticks.
        for _ in 0..ticks.min(ELECTION_TICKS_MAX) {
            self.hold_back();
            let led = self.raft.state == StateRole::Leader;
            if self.raft.tick() {
                if self.raft.state != StateRole::Leader {
                    self.redraw();
                    if led {
                        self.reached.mark(RarePath::QuorumLost);
                    }
                }
                self.settle();
            }
        }
        if self.reads.retry_at().is_some_and(|retry| retry <= now) {
            self.reached.mark(RarePath::ReadRepeated);
            self.reads.retry();
        }
    }

    /// Appends what a leader has to append of its own.
    pub(super) fn append_own(&mut self) {
        if self.leading.is_some() && self.raft.lead_transferee.is_none() {
            self.append_markers();
            self.leave_joint();
        }
    }

    pub(super) fn on_own(&mut self, now: Millis, from: NodeId, own: Own) {
        let sleep = matches!(own, Own::Sleep { .. });
        if !sleep {
            self.wake();
        }
        self.advance(now);
        match own {
            Own::Lost { term, life, forgot_votes, last, agreed } => {
                if self.leading.is_some() && term == self.raft.term {
                    self.raft.raft_log.maybe_commit(agreed.0, agreed.1);
                    self.settle();
                    self.on_lost(from, life, forgot_votes, last);
                }
            }
            Own::Found { term, life, barrier, agreed, conf_index, conf } => {
                if (term, life) == (self.raft.term, self.life) && self.raft.leader_id == from {
                    self.on_found(barrier, agreed, (conf_index, conf));
                }
            }
            Own::Sleep { term, last } => self.on_sleep(from, term, last),
        }
        self.settle();
    }

    pub(super) fn on_engine_message(&mut self, now: Millis, incoming: Incoming) {
        let Incoming { mut message, payloads, floor } = incoming;
        if self.sleep.asleep && self.says_nothing_new(&message) {
            return;
        }
        self.wake();
        self.advance(now);
        let heartbeat = message.get_msg_type() == MessageType::MsgHeartbeat;
        let leader = heartbeat || message.get_msg_type() == MessageType::MsgAppend;
        let beyond = heartbeat && message.commit > self.last_index();
        if beyond && self.life == 0 {
            // The engine would stop.
            self.rejected += 1;
            return;
        }
        if beyond || (heartbeat && self.loss.is_some()) {
            // Meant for a life that held more, or other entries.
            message.commit = 0;
            self.reached.mark_if(beyond, RarePath::HeartbeatBeyond);
        }
        if self.is_stale_rejection(&message)
            || self.is_of_another_life(&message)
            || self.must_not_answer(&message)
            || !self.keeps_promise(now, &message)
        {
            return;
        }
        let told_to_campaign = message.get_msg_type() == MessageType::MsgTimeoutNow;
        self.reached.mark_if(told_to_campaign, RarePath::HandOverTaken);
        let (from, first) = (message.from, message.index + 1);
        self.floor = self.floor.max(floor);
        let _ = self.raft.step(message);
        self.adopt(first, payloads);
        self.settle();
        if leader {
            self.look_whole();
            if heartbeat {
                self.ask_barrier(from);
            }
        }
    }

    /// Whether a follower refused, before it caught up, a position that it holds by now. The engine
    /// would go back for it to entries that have left memory. (A follower that lost what it
    /// acknowledged says so first, see `lost`.)
    fn is_stale_rejection(&mut self, message: &Message) -> bool {
        let stale = message.reject
            && message.get_msg_type() == MessageType::MsgAppendResponse
            && message.term == self.raft.term
            && self.leading.is_some()
            && self.raft.prs().get(message.from).is_some_and(|peer| message.index <= peer.matched);
        self.reached.mark_if(stale, RarePath::StaleRejection);
        stale
    }

    /// Notes that a leader is heard; `false` for a request that the promise to it forbids.
    fn keeps_promise(&mut self, now: Millis, message: &Message) -> bool {
        match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => {
                if message.term >= self.raft.term {
                    self.promise.renew(now);
                }
                true
            }
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let free = *message.context == *CAMPAIGN_TRANSFER || !self.promise.holds(now);
                self.reached.mark_if(!free, RarePath::VotePromised);
                free
            }
            _ => true,
        }
    }

    /// Takes over the payloads of an append that the engine has just handled.
    fn adopt(&mut self, first: Index, payloads: Vec<(Term, Arc<Vec<u8>>)>) {
        for (index, (term, payload)) in (first..).zip(payloads) {
            if !self.raft.raft_log.match_term(index, term) {
                return;
            }
            let store = self.raft.mut_store();
            if index < store.first() || store.get(index).is_some_and(|slot| slot.term == term) {
                continue;
            }
            if index <= store.last() {
                store.truncate_from(index);
                self.reached.mark(RarePath::LogTruncated);
            }
            assert_eq!(index, store.last() + 1, "the log of shard {} has a gap", self.shard);
            store.push(term, payload);
        }
    }
}
