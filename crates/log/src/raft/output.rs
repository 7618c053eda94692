//! What comes out of the engine: records, messages, agreed entries; and what leaves memory.

use super::reads::Question;
use super::restore::{State, encode_state};
use super::{RaftLog, Written, members, wire};
use crate::{Body, Entry, Log, Outputs, Record};
use quorate_base::Index;
use quorate_base::rare::RarePath;
use raft::StateRole;
use raft::eraftpb::{Entry as Slip, Message, MessageType};
use std::sync::Arc;

impl RaftLog {
    /// Hands new state and entries to the journal.
    pub(super) fn write(&mut self, out: &mut Outputs) {
        let shard = self.shard;
        let (term, vote) = (self.raft.term, self.raft.vote);
        let state = (term, vote) != self.saved || self.state_changed;
        if state {
            (self.saved, self.state_changed) = ((term, vote), false);
            out.persist.push(Record { shard, body: Body::State(self.state()) });
        }
        let first = self.raft.raft_log.unstable.offset;
        let last = self.raft.raft_log.last_index();
        let mut end = None;
        if first <= last {
            let store = self.raft.store();
            for index in first..=last {
                let slot = store.get(index).expect("the store mirrors the engine's log");
                let payload = Arc::clone(&slot.payload);
                let entry = Entry { term: slot.term, index, payload };
                out.persist.push(Record { shard, body: Body::Entry(entry) });
            }
            let last_term = store.get(last).expect("just read").term;
            // A write under way whose end is replaced by this one no longer tells anything.
            for written in self.written.iter_mut().rev() {
                match written.last {
                    Some((index, _)) if index >= first => {
                        written.last = None;
                        self.reached.mark(RarePath::WriteReplaced);
                    }
                    Some(_) => break,
                    None => {}
                }
            }
            self.raft.raft_log.stable_entries(last, last_term);
            end = Some((last, last_term));
        }
        if state || end.is_some() {
            self.last_seq += 1;
            let term = state.then_some(term);
            self.written.push_back(Written { seq: self.last_seq, last: end, term });
        }
        out.seq = self.last_seq;
    }

    fn state(&self) -> Vec<u8> {
        // Not what is agreed on but not durable: it may be on its way behind this very record, and
        // the journal hold other entries in its place.
        let commit = self.raft.raft_log.committed.min(self.raft.raft_log.persisted);
        let state = State {
            term: self.raft.term,
            vote: self.raft.vote,
            commit,
            lost: self.loss.is_some(),
            forgot_votes: self.loss.as_ref().is_some_and(|loss| loss.forgot_votes),
            life: self.life,
            void: self.void,
            bound: self.loss.as_ref().map_or((0, 0), |loss| loss.bound),
            knows_members: self.loss.as_ref().is_none_or(|loss| loss.knows_members),
            conf_index: self.conf_index,
            conf: None,
        };
        encode_state(&state, &self.conf)
    }

    /// Puts the question of a read round to the engine, if one should and can begin.
    pub(super) fn ask(&mut self) {
        let leads = self.raft.state == StateRole::Leader;
        let can = if leads { self.raft.commit_to_current_term() } else { self.raft.leader_id != 0 };
        if !self.reads.wants_round() || !can {
            return;
        }
        let mut question = Question::default();
        question[..8].copy_from_slice(&self.id.to_le_bytes());
        question[8..].copy_from_slice(&self.next_question.to_le_bytes());
        self.next_question = self.next_question.wrapping_add(1);
        let entry = Slip { data: question.to_vec().into(), ..Slip::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgReadIndex);
        message.set_entries(vec![entry].into());
        self.reads.begin(question, self.clock.unwrap_or(0));
        self.call(message);
    }

    /// Encodes and sorts the engine's messages and those of this module.
    pub(super) fn send(&mut self, out: &mut Outputs) {
        let nothing_under_way = self.written.is_empty();
        out.send_now.append(&mut self.own_now);
        let waiting = if nothing_under_way { &mut out.send_now } else { &mut out.send_durable };
        waiting.append(&mut self.own_durable);
        if self.raft.msgs.is_empty() {
            return;
        }
        self.refresh_floor();
        let term_is_durable = self.durable_term == self.raft.term;
        for mut message in std::mem::take(&mut self.raft.msgs) {
            self.mark_answer(&mut message);
            let Some(bytes) = wire::encode(&message, self.floor, self.raft.store()) else {
                continue;
            };
            let waits = matches!(
                message.get_msg_type(),
                MessageType::MsgRequestVote
                    | MessageType::MsgRequestVoteResponse
                    | MessageType::MsgAppendResponse
            );
            if nothing_under_way || (term_is_durable && !waits) {
                out.send_now.push((message.to, bytes));
            } else {
                out.send_durable.push((message.to, bytes));
            }
        }
    }

    /// Hands out what was agreed on since the last time.
    pub(super) fn deliver(&mut self, out: &mut Outputs) {
        let commit = self.commit();
        out.commit = commit;
        let early = self.leading.is_some() && commit < self.raft.raft_log.committed;
        self.reached.mark_if(early, RarePath::CommitBeforeSync);
        if let Some(ended) = self.ended.take() {
            // The node's state is ahead of what was agreed on: nothing can be replayed on it
            // until the node has seen this. Entries that replaced own proposals, which `commit`
            // would wrongly acknowledge, are durable at a later call at the earliest.
            let last = self.raft.store().get(commit);
            assert!(
                last.is_none_or(|slot| slot.term <= ended),
                "entry {commit} of a later term than {ended} would pass for an own proposal"
            );
            self.delivered = self.delivered.max(commit);
            self.rebuilding = true;
            out.lost_leadership = true;
            return;
        }
        let own = self.leading.map_or(Index::MAX, |leading| leading.start);
        let store = self.raft.store();
        for index in self.delivered + 1..=commit.min(own - 1) {
            let slot = store.get(index).expect("entries stay until they are delivered");
            // What changes members is the log's own affair.
            let change = members::is_change(&slot.payload);
            let payload = if change { Arc::default() } else { Arc::clone(&slot.payload) };
            out.committed.push(Entry { term: slot.term, index, payload });
        }
        self.delivered = self.delivered.max(commit);
    }

    fn refresh_floor(&mut self) {
        if self.leading.is_some() {
            let matched = self.raft.prs().iter().map(|(_, progress)| progress.matched).min();
            self.floor = self.floor.max(matched.unwrap_or(0));
        }
    }

    /// Drops entries that nobody needs.
    pub(super) fn trim(&mut self) {
        let allowed = self.compactable.min(self.raft.raft_log.applied).min(self.delivered);
        if self.raft.store().first() > allowed {
            return;
        }
        if !self.alone {
            self.refresh_floor();
        }
        let needed_after = if self.alone { allowed } else { self.floor };
        let retained_max = self.retained_bytes_max;
        let store = self.raft.mut_store();
        while store.first() <= allowed
            && (store.first() <= needed_after || store.bytes() > retained_max)
        {
            self.reached.mark_if(store.first() > needed_after, RarePath::EntriesLetGo);
            store.pop_first();
        }
    }
}
