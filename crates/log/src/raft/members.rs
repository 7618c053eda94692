//! Who votes and who only follows.
//!
//! A change of members is an entry like any other, whose payload says what the members are from
//! then on:
//!
//! ```text
//! 0xC0 │ voters │ outgoing │ learners │ learners to be     each: count │ count × id, in varints
//! ```
//!
//! When more than one voter changes, the entry makes the group *joint*: the voters before
//! (`outgoing`) and after must both agree to everything; voters that will only follow afterwards
//! are `learners to be` meanwhile. As soon as it has been agreed on, whoever leads proposes the
//! entry that ends it (Ongaro's thesis, 4.3). A leader proposes no change before it has agreed on
//! an entry of its own term and on all earlier changes.
//!
//! A configuration counts from the moment its entry is known to be agreed on, never before, so
//! none is ever taken back when entries are truncated. The last one and its index are part of the
//! state record. The record may reach the disk without the entry; the entry then comes again and,
//! being no later than the configuration, changes nothing. The entry may reach the disk without
//! the record; it is then found in the log, where it stays until the record is durable. Since a change is only proposed when the one before
//! was agreed on, all changes in a log but the last were agreed on, whether or not the replica
//! that restarts knew: so it is never more than one change behind its own log, and quorums of
//! neighbouring configurations meet. A replica whose log begins after a change, because it
//! got a snapshot, learns the configuration from the leader before it votes (`lost`).

use super::{INFLIGHT_MESSAGES_MAX, RaftLog};
use crate::Members;
use quorate_base::Index;
use quorate_base::codec::{Reader, put_varint};
use quorate_base::ids::NodeId;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfState};
use raft::{Changer, ProgressTracker, StateRole};

/// The first byte of an entry that changes members. Data entries begin with another.
pub(super) const MEMBERS_FORMAT: u8 = 0xC0;

/// Whether an entry changes members.
pub(super) fn is_change(payload: &[u8]) -> bool {
    payload.first() == Some(&MEMBERS_FORMAT)
}

/// A configuration. Each list is ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conf {
    voters: Vec<NodeId>,
    outgoing: Vec<NodeId>,
    learners: Vec<NodeId>,
    learners_next: Vec<NodeId>,
}

impl Conf {
    pub(super) fn of_voters(voters: &[NodeId]) -> Self {
        Self { voters: sorted(voters), ..Self::default() }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for list in [&self.voters, &self.outgoing, &self.learners, &self.learners_next] {
            put_varint(out, list.len() as u64);
            list.iter().for_each(|id| put_varint(out, *id));
        }
    }

    /// `None` for what no replica of ours would have written.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let mut lists: [Vec<NodeId>; 4] = Default::default();
        for list in &mut lists {
            let count = usize::try_from(reader.varint()?).ok()?;
            if count > reader.rest().len() {
                return None;
            }
            for _ in 0..count {
                let id = reader.varint()?;
                if id == 0 || list.last().is_some_and(|last| *last >= id) {
                    return None;
                }
                list.push(id);
            }
        }
        let [voters, outgoing, learners, learners_next] = lists;
        let conf = Self { voters, outgoing, learners, learners_next };
        let apart = conf.learners.iter().all(|id| !conf.votes(*id));
        let next = conf.learners_next.iter().all(|id| conf.outgoing.contains(id));
        (!conf.voters.is_empty() && apart && next).then_some(conf)
    }

    /// The configuration that an entry makes.
    pub(super) fn of_entry(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload.strip_prefix(&[MEMBERS_FORMAT])?);
        Self::decode(&mut reader).filter(|_| reader.is_empty())
    }

    pub(super) fn to_entry(&self) -> Vec<u8> {
        let mut payload = vec![MEMBERS_FORMAT];
        self.encode(&mut payload);
        payload
    }

    /// Whether `id` votes, before or after the change under way.
    pub(super) fn votes(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.votes(id) || self.learners.contains(&id)
    }

    /// Whether `id` has nobody beside it.
    pub(super) fn is_only(&self, id: NodeId) -> bool {
        self.voters == [id] && self.outgoing.is_empty() && self.learners.is_empty()
    }

    /// Whether those that `is_there` can agree to something.
    pub(super) fn is_quorum(&self, is_there: impl Fn(NodeId) -> bool) -> bool {
        let most = |ids: &[NodeId]| ids.iter().filter(|id| is_there(**id)).count() * 2 > ids.len();
        most(&self.voters) && (self.outgoing.is_empty() || most(&self.outgoing))
    }

    pub(super) fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// What comes first on the way from here to `members`.
    fn toward(&self, members: &Members) -> Self {
        let (voters, mut learners) = (sorted(&members.voters), sorted(&members.learners));
        learners.retain(|id| !voters.contains(id));
        let gone = self.voters.iter().filter(|id| !voters.contains(id)).count();
        let new = voters.iter().filter(|id| !self.voters.contains(id)).count();
        if gone + new <= 1 {
            return Self { voters, learners, ..Self::default() };
        }
        let (learners_next, learners) =
            learners.into_iter().partition(|id| self.voters.contains(id));
        Self { voters, outgoing: self.voters.clone(), learners, learners_next }
    }

    /// What comes after a joint configuration.
    fn left(&self) -> Self {
        let learners = sorted(&[&self.learners[..], &self.learners_next[..]].concat());
        Self { voters: self.voters.clone(), learners, ..Self::default() }
    }

    pub(super) fn members(&self) -> Members {
        let learners = self.left().learners;
        Members { voters: self.voters.clone(), learners, outgoing: self.outgoing.clone() }
    }

    pub(super) fn to_engine(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners_next: self.learners_next.clone(),
            ..ConfState::default()
        }
    }

    /// The engine's table of peers, all of them to be probed from `next` on.
    fn tracker(&self, next: Index) -> ProgressTracker {
        let change = |kind: ConfChangeType, id: &NodeId| {
            let mut change = ConfChangeSingle { node_id: *id, ..ConfChangeSingle::default() };
            change.set_change_type(kind);
            change
        };
        let add = |id| change(ConfChangeType::AddNode, id);
        let follow = |id| change(ConfChangeType::AddLearnerNode, id);
        let mut tracker = ProgressTracker::new(INFLIGHT_MESSAGES_MAX);
        let before = if self.is_joint() { &self.outgoing } else { &self.voters };
        for id in before {
            let step = Changer::new(&tracker).simple(&[add(id)]);
            let (conf, peers) = step.expect("one voter more is a simple change");
            tracker.apply_conf(conf, peers, next);
        }
        let learners = self.learners.iter().chain(&self.learners_next).map(follow);
        let step = if self.is_joint() {
            let mut changes: Vec<_> =
                before.iter().map(|id| change(ConfChangeType::RemoveNode, id)).collect();
            changes.extend(self.voters.iter().map(add));
            changes.extend(learners);
            Changer::new(&tracker).enter_joint(false, &changes)
        } else {
            Changer::new(&tracker).simple(&learners.collect::<Vec<_>>())
        };
        let (conf, peers) = step.expect("a configuration is checked when it is made and decoded");
        tracker.apply_conf(conf, peers, next);
        tracker
    }
}

fn sorted(ids: &[NodeId]) -> Vec<NodeId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl RaftLog {
    /// Whether an entry in the log that changes members has not been agreed on yet.
    pub(super) fn change_under_way(&self) -> bool {
        self.conf.is_joint() || self.raft.store().first_change().is_some()
    }

    /// Proposes what leads to `members`; `None` when a change is under way or too early.
    pub(super) fn change_members(&mut self, members: &Members) -> Option<Index> {
        assert!(!members.voters.is_empty(), "a group without voters was asked for");
        if self.change_under_way() || !self.raft.commit_to_current_term() {
            return None;
        }
        let conf = self.conf.toward(members);
        if conf == self.conf {
            return Some(self.conf_index);
        }
        Some(self.append(conf.to_entry()))
    }

    /// Ends a joint configuration as soon as it has been agreed on.
    pub(super) fn leave_joint(&mut self) {
        if self.conf.is_joint()
            && self.raft.store().first_change().is_none()
            && self.raft.commit_to_current_term()
        {
            self.append(self.conf.left().to_entry());
        }
    }

    /// Follows the next change that was agreed on; `false` when there is none.
    pub(super) fn follow_change(&mut self) -> bool {
        let agreed = self.raft.raft_log.committed;
        let store = self.raft.mut_store();
        let Some(index) = store.first_change().filter(|index| *index <= agreed) else {
            return false;
        };
        store.pop_change();
        if index > self.conf_index {
            let slot = store.get(index).expect("entries stay until they are agreed on");
            let conf = Conf::of_entry(&slot.payload).expect("checked when it joined the log");
            self.set_conf(index, conf);
        }
        true
    }

    /// Makes `conf`, agreed on at `index`, the configuration.
    pub(super) fn set_conf(&mut self, index: Index, conf: Conf) {
        let mut tracker = conf.tracker(self.raft.raft_log.last_index().max(1));
        for (id, progress) in tracker.iter_mut() {
            if let Some(known) = self.raft.prs().get(*id) {
                *progress = known.clone();
            }
        }
        *self.raft.mut_prs() = tracker;
        let stays = match self.raft.state {
            StateRole::Follower => true,
            StateRole::Leader => conf.votes(self.id),
            // Its votes were counted by another measure.
            StateRole::PreCandidate | StateRole::Candidate => false,
        };
        // A group that became small goes on like a large one until its replica restarts.
        self.alone &= conf.is_only(self.id);
        (self.conf, self.conf_index, self.state_changed) = (conf, index, true);
        self.unsaved_change = Some((self.last_seq + 1, index));
        if !stays {
            let term = self.raft.term;
            self.raft.become_follower(term, 0);
        }
        self.raft.post_conf_change();
    }

    /// The voter that holds most, of those heard of late, or else of all.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        self.leading?;
        let peers = self.raft.prs().iter().filter(|(id, _)| {
            **id != self.id && self.conf.voters.contains(id) && !self.is_gone(**id)
        });
        // One that was lost in this term may still be, and would not take over.
        let is_sound = |id: &NodeId| !self.patients.contains_key(id);
        peers
            .max_by_key(|(id, peer)| {
                (peer.recent_active, is_sound(id), peer.matched, std::cmp::Reverse(**id))
            })
            .map(|(id, _)| *id)
    }
}
