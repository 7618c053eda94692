//! Replicas that lost what they acknowledged, and how they come back as the same voters.
//!
//! A replica is *lost* when its journal or table was damaged, or while its state is replaced by a
//! snapshot. Its acknowledgements may have made up quorums; its votes may have made leaders. So
//! until it again holds everything that it may have helped to agree on, it does not campaign, and
//! if it may have forgotten votes it does not vote either. That it is lost is part of its durable
//! state.
//!
//! Each loss begins a new *life*, named by a random number which every later acknowledgement of
//! the replica carries.
//!
//! ```text
//! lost replica                                   leader of term t
//!   │ ◀───────────────── append or heartbeat ──────┤
//!   ├── Lost { life, last index } ────────────────▶│ forgets what that peer acknowledged in term t;
//!   │                                              │ acknowledgements of other lives count no more
//!   │ ◀───── Found { life, barrier, members } ─────┤ the barrier: once it has agreed on an entry
//!   ┊                                              ┊ of its term
//!   ┊  holds all up to the barrier, durably, and is still in term t
//!   whole
//! ```
//!
//! The question is repeated with every heartbeat until then, and put to each new leader anew.
//! Heartbeats tell how much is agreed on by what the leader believes the replica to hold, so a
//! lost one learns that from appends only.
//!
//! # Why this is safe
//!
//! *If term and vote are intact* (a snapshot was being installed), the barrier is the leader's
//! commit index when it answers. What the replica acknowledged in earlier terms and was agreed
//! on, the leader of term t holds, and has agreed on with its entry of term t. What it
//! acknowledged in term t and was agreed on lies at or before the barrier, for after the question
//! its former lives no longer count. In a later term than t it acknowledged nothing, because it
//! would not listen to this leader. A replica that holds all that votes like any other.
//!
//! Such a replica also knows where its log may have ended before (`bound`), which is all that the
//! rule of votes looks at. So it goes on voting, by that end; and when its log is again at least
//! as up to date as that, it is whole without being told, since a log as up to date as one that
//! contains an agreed entry contains it too. Otherwise a leader that restarts while most
//! followers get snapshots could never come back. Only when a snapshot has taken it over
//! entries which may have changed the members, it has to hear from a leader who they are, and
//! takes no entries before: who is needed to agree on something can then always campaign. The
//! leader can tell at once, because the replica tells it that the snapshot was agreed on.
//!
//! *If term and vote may be gone as well* (the journal was damaged), it may have voted in a term
//! after t, and acknowledged entries of that term. Therefore
//!
//! - the barrier is an empty entry that the leader appends after the question; and
//! - until it is whole, the replica acknowledges only what it knows to be agreed on, and does not
//!   vouch for leaders in read rounds. So it takes no part in agreeing on anything.
//!
//! The barrier was then agreed on in term t, after the loss, by a quorum of others. Had a leader
//! of a later term been elected, with the forgotten vote or before the loss, then one of that
//! quorum would have voted in the later term before it acknowledged the barrier (it would have
//! refused the barrier) or after (it would have refused the vote: the candidate's log ended
//! before the barrier existed). So no later term has had a leader that this vote or these
//! acknowledgements could matter to, nor can one arise from them. In term t itself the replica
//! counts as having voted for the leader.
//!
//! What this cannot do: when so many replicas are lost at a time, votes and all, that the others
//! are no quorum, nobody can know what was agreed on, and the group stands still.

use super::RaftLog;
use super::members::Conf;
use super::restore::State;
use super::wire::{Own, encode_own};
use crate::Log;
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_base::{Index, Term};
use raft::eraftpb::{Message, MessageType};
use raft::{StateRole, Storage as _};
use std::sync::Arc;

/// Lives of one process differ in these low bits only and grow.
const LIFE_COUNT_BITS: u32 = 16;

/// What a lost replica knows of its way back.
#[derive(Debug)]
pub(super) struct Loss {
    /// Term and vote may be gone too.
    pub(super) forgot_votes: bool,
    /// Term and index of the last entry that may have been acknowledged.
    pub(super) bound: (Term, Index),
    /// The leader of this term answered: this index must be held.
    pub(super) barrier: Option<(Term, Index)>,
    /// The node's state is being replaced.
    pub(super) installing: bool,
    /// No change of members has been passed over, or a leader has told them since.
    pub(super) knows_members: bool,
}

/// What a leader knows of a lost peer, in its term.
#[derive(Debug)]
pub(super) struct Patient {
    life: u64,
    /// For a peer without votes: the entry appended since, once it is.
    marker: Option<Index>,
    wants_marker: bool,
}

impl RaftLog {
    // --- the lost replica --------------------------------------------------------------------

    /// A replica starts that is lost; `life` is the last one that it remembers.
    pub(super) fn start_lost(&mut self, state: &State) {
        let State { forgot_votes, bound, knows_members, .. } = *state;
        self.loss =
            Some(Loss { forgot_votes, bound, barrier: None, installing: false, knows_members });
        if forgot_votes {
            // There may have been lives after the one remembered.
            self.life = 0;
            self.reached.mark(RarePath::VotesForgotten);
        }
        self.lose();
    }

    /// What was acknowledged before is gone, or about to go.
    pub(super) fn lose(&mut self) {
        self.reached.mark(RarePath::ReplicaLost);
        let end = (self.raft.raft_log.last_term(), self.last_index());
        let loss = self.loss.get_or_insert(Loss {
            forgot_votes: false,
            bound: end,
            barrier: None,
            installing: false,
            knows_members: true,
        });
        (loss.bound, loss.barrier) = (loss.bound.max(end), None);
        self.life = match self.life {
            0 => (self.prng.next_u64() >> LIFE_COUNT_BITS << LIFE_COUNT_BITS) + 1,
            life => life + 1,
        };
        self.state_changed = true;
        // Acknowledgements of the life that ends.
        self.raft.msgs.retain(|m| m.get_msg_type() != MessageType::MsgAppendResponse);
        if self.raft.state != StateRole::Follower {
            let term = self.raft.term;
            self.raft.become_follower(term, 0);
            self.settle();
        }
    }

    /// Whether the engine must not see this message, because it asks for what only replicas with
    /// all their memory may do.
    pub(super) fn must_not_answer(&mut self, message: &Message) -> bool {
        let Some(loss) = &self.loss else { return false };
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                let refused = loss.forgot_votes || (message.log_term, message.index) < loss.bound;
                self.reached.mark_if(refused, RarePath::VoteRefusedLost);
                refused
            }
            MessageType::MsgTimeoutNow => {
                self.reached.mark(RarePath::HandOverRefused);
                true
            }
            MessageType::MsgAppend => !loss.knows_members && !message.entries.is_empty(),
            _ => false,
        }
    }

    /// Keeps the engine from campaigning while lost. To be called before each tick.
    pub(super) fn hold_back(&mut self) {
        if self.loss.is_some()
            && self.raft.election_elapsed + 1 >= self.raft.randomized_election_timeout()
        {
            let term = self.raft.term;
            self.raft.become_follower(term, 0);
            self.settle();
        }
    }

    /// Asks the leader, which was just heard.
    pub(super) fn ask_barrier(&mut self, leader: NodeId) {
        let term = self.raft.term;
        if let Some(loss) = self.loss.as_ref().filter(|_| self.raft.leader_id == leader) {
            let (life, forgot_votes) = (self.life, loss.forgot_votes);
            let (last, agreed) = (self.last_index(), self.raft.raft_log.committed);
            let agreed = (agreed, self.term_at(agreed).unwrap_or(0));
            let own = Own::Lost { term, life, forgot_votes, last, agreed };
            self.own_durable.push((leader, encode_own(&own)));
        }
    }

    /// The leader answers the question of this life.
    pub(super) fn on_found(
        &mut self,
        barrier: Option<Index>,
        agreed: Index,
        (conf_index, conf): (Index, Conf),
    ) {
        let term = self.raft.term;
        let Some(loss) = &mut self.loss else { return };
        // The first barrier of a term will do: later ones may lie ever further on.
        let known = loss.barrier.filter(|(of, _)| *of == term);
        loss.barrier = known.or(barrier.map(|barrier| (term, barrier)));
        if !loss.knows_members && agreed >= self.void {
            self.reached.mark(RarePath::MembersLearned);
            (loss.knows_members, self.state_changed) = (true, true);
        }
        if conf_index > self.conf_index {
            self.set_conf(conf_index, conf);
        }
        self.look_whole();
    }

    /// Ends the loss when everything is held again.
    pub(super) fn look_whole(&mut self) {
        let Some(loss) = self.loss.as_ref().filter(|loss| !loss.installing) else { return };
        let persisted = self.raft.raft_log.persisted;
        let end = (self.raft.raft_log.term(persisted).unwrap_or(0), persisted);
        let held = !loss.forgot_votes && loss.knows_members && end >= loss.bound;
        let told = loss
            .barrier
            .is_some_and(|(term, barrier)| term == self.raft.term && self.commit() >= barrier);
        if held || told {
            let path = if held { RarePath::WholeByItself } else { RarePath::WholeByLeader };
            self.reached.mark(path);
            if loss.forgot_votes && self.raft.vote == 0 {
                self.raft.vote = self.raft.leader_id;
            }
            self.loss = None;
            // What is in memory has been written anew if it had to be.
            self.void = self.void.min(self.raft.store().first() - 1);
            self.state_changed = true;
        }
    }

    /// What this life must add to, or leave out of, an answer of the engine.
    pub(super) fn mark_answer(&self, message: &mut Message) {
        let forgot_votes = self.loss.as_ref().is_some_and(|loss| loss.forgot_votes);
        match message.get_msg_type() {
            MessageType::MsgAppendResponse => {
                if self.life != 0 {
                    message.context = self.life.to_le_bytes().to_vec().into();
                }
                if forgot_votes && !message.reject {
                    message.index = message.index.min(self.raft.raft_log.committed);
                }
            }
            MessageType::MsgHeartbeatResponse if forgot_votes => {
                message.context = Vec::new().into();
            }
            _ => {}
        }
    }

    /// See [`Log::begin_install`](crate::Log::begin_install).
    pub(super) fn prepare_install(&mut self) {
        self.lose();
        if let Some(loss) = &mut self.loss {
            loss.installing = true;
        }
    }

    /// See [`Log::install`](crate::Log::install).
    pub(super) fn begin_after(&mut self, applied: Index, term: Term) {
        let prepared = self.loss.as_mut().map(|loss| std::mem::take(&mut loss.installing));
        assert_eq!(prepared, Some(true), "a snapshot was installed that nobody prepared for");
        if term > self.raft.term {
            self.raft.become_follower(term, 0);
            self.settle();
        }
        let log = &mut self.raft.raft_log;
        // The engine takes positions that left memory for those of term 0, where an empty snapshot
        // ends.
        if log.persisted >= applied && log.store.term(applied) == Ok(term) {
            log.committed = log.committed.max(applied);
            log.applied = log.applied.max(applied);
            self.reached.mark(RarePath::SnapshotKeptLog);
        } else {
            if log.last_index() > applied {
                self.reached.mark(RarePath::SnapshotCutLog);
                self.lose();
            }
            let log = &mut self.raft.raft_log;
            log.store.restart(applied, term);
            log.unstable.entries.clear();
            log.unstable.entries_size = 0;
            log.unstable.offset = applied + 1;
            (log.persisted, log.committed, log.applied) = (applied, applied, applied);
            self.written.iter_mut().for_each(|written| written.last = None);
            (self.void, self.state_changed) = (self.void.max(applied), true);
            if let Some(loss) = &mut self.loss {
                loss.knows_members = false;
            }
        }
        (self.delivered, self.applied, self.compactable) = (applied, applied, applied);
        (self.rebuilding, self.ended) = (false, None);
        self.settle();
        self.look_whole();
        if self.raft.leader_id != 0 {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgAppendResponse);
            (message.to, message.from) = (self.raft.leader_id, self.id);
            (message.term, message.index) = (self.raft.term, applied);
            message.commit = self.raft.raft_log.committed;
            self.raft.msgs.push(message);
        }
    }

    // --- its leader --------------------------------------------------------------------------

    /// A peer says that it is lost, in the term that this replica leads.
    pub(super) fn on_lost(&mut self, from: NodeId, life: u64, forgot_votes: bool, last: Index) {
        let known = self.patients.get(&from).map(|patient| patient.life);
        if known.is_some_and(|known| comes_after(known, life)) {
            return;
        }
        if known != Some(life) {
            self.begin_life(from, life, forgot_votes, last);
        }
        let Some(patient) = self.patients.get(&from) else { return };
        let commit = self.raft.raft_log.committed;
        let barrier = match patient.marker {
            Some(marker) => (commit >= marker).then_some(marker),
            None if patient.wants_marker => None,
            None => self.raft.commit_to_current_term().then_some(commit),
        };
        let (term, agreed, conf_index) = (self.raft.term, commit, self.conf_index);
        let conf = self.conf.clone();
        let own = Own::Found { term, life, barrier, agreed, conf_index, conf };
        self.own_now.push((from, encode_own(&own)));
        // Tells what is agreed on.
        self.unsent = true;
    }

    /// Appends the entry that lost peers without votes wait for.
    pub(super) fn append_markers(&mut self) {
        let wanted = |patient: &Patient| patient.wants_marker && patient.marker.is_none();
        if self.patients.values().any(wanted) {
            self.reached.mark(RarePath::MarkerAppended);
            let index = self.append(Vec::new());
            for patient in self.patients.values_mut().filter(|patient| wanted(patient)) {
                patient.marker = Some(index);
            }
        }
    }

    /// Forgets what a peer acknowledged before this life of it, whose log ends at `last`.
    fn begin_life(&mut self, peer: NodeId, life: u64, forgot_votes: bool, last: Index) {
        let end = self.last_index();
        let Some(progress) = self.raft.mut_prs().get_mut(peer) else { return };
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = last.min(end) + 1;
        progress.recent_active = true;
        self.patients.insert(peer, Patient { life, marker: None, wants_marker: forgot_votes });
        self.unsent = true;
    }

    /// Whether an acknowledgement comes from a life other than the one known. A later one that
    /// lost no votes may be whole already and never ask.
    pub(super) fn is_of_another_life(&mut self, message: &Message) -> bool {
        if message.get_msg_type() != MessageType::MsgAppendResponse {
            return false;
        }
        let Some(patient) = self.patients.get(&message.from) else { return false };
        let life = message.context.as_ref().try_into().map_or(0, u64::from_le_bytes);
        if life == patient.life {
            return false;
        }
        self.reached.mark(RarePath::OldLifeIgnored);
        if message.term == self.raft.term && comes_after(life, patient.life) {
            let last = if message.reject { message.reject_hint } else { message.index };
            self.begin_life(message.from, life, false, last);
        }
        true
    }

    /// Appends an entry of the log's own or of the node's, and returns its index.
    pub(super) fn append(&mut self, payload: Vec<u8>) -> Index {
        let (index, term) = (self.next_index(), self.raft.term);
        let taken = self.raft.append_entry(&mut [super::slip(index, term)]);
        assert!(taken, "the engine refused an entry though it has no size limit");
        self.raft.mut_store().push(term, Arc::new(payload));
        self.unsent = true;
        index
    }
}

/// Whether `life` is a later one of the same process or disk than `other`.
fn comes_after(life: u64, other: u64) -> bool {
    life >> LIFE_COUNT_BITS == other >> LIFE_COUNT_BITS && life > other
}
