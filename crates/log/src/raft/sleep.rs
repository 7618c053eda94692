//! Groups in which nothing happens cost nothing.
//!
//! A leader goes to sleep when, for two heartbeats, nothing was asked of it, and everybody holds
//! and knows everything: each peer, in the session under way, acknowledged the last entry and
//! said that it knows it to be agreed on, the node has applied it, no read is pending and no
//! change or hand-over is under way. It tells the peers to sleep, and sends and times nothing any
//! more. A follower sleeps when told so by its leader in its term, if its log ends where the
//! leader says and it knows all of it to be agreed on. Losing that message is harmless: that
//! follower will ask for votes, and everybody wakes.
//!
//! Nothing but silence tells a sleeping follower that its leader is gone, so the node has to:
//! [`Log::peer_gone`](crate::Log::peer_gone) wakes followers of that peer, with a whole election
//! timeout before them. A sleeping leader wakes too, because it may be the one cut off. It goes
//! to sleep again without the peers that are gone, if it has a quorum without them. A peer is
//! back when anything comes from it or its session begins anew
//! ([`Log::link_reset`](crate::Log::link_reset), which must therefore not follow `peer_gone` for
//! the same end of a session); then a sleeping leader wakes and brings it up to date.
//!
//! Whoever wakes starts counting time from then, so that sleep is not taken for silence. A
//! leader asks its followers at once whether they are there. Leases end by the clock, asleep or
//! not. What wakes: proposals, reads, changes, hand-overs, campaigns, and each message except
//! one to sleep and late answers that say nothing new. `tick` and what the node tells about its
//! own progress do not.

use super::wire::{Own, encode_own};
use super::{HEARTBEAT_MS, RaftLog, TICK_MS};
use crate::Log;
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_base::{Index, Term};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// Ticks without anything to do before a leader sleeps.
const QUIET_TICKS: u64 = 2 * HEARTBEAT_MS / TICK_MS;

/// How awake a replica is.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    pub(super) asleep: bool,
    /// Ticks since something was asked of this replica.
    pub(super) quiet_ticks: u64,
    /// Peers whose nodes are known to be out of reach.
    gone: Vec<NodeId>,
    /// Peers that said nothing since their session began: what is known of them may be old.
    unheard: Vec<NodeId>,
}

impl RaftLog {
    /// Something is asked of this replica.
    pub(super) fn be_busy(&mut self) {
        self.sleep.quiet_ticks = 0;
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if !std::mem::take(&mut self.sleep.asleep) {
            return;
        }
        self.sleep.quiet_ticks = 0;
        self.clock = None;
        self.raft.election_elapsed = 0;
        if self.raft.state == StateRole::Leader {
            self.raft.ping();
        } else {
            self.redraw();
        }
    }

    pub(super) fn is_gone(&self, peer: NodeId) -> bool {
        self.sleep.gone.contains(&peer)
    }

    pub(super) fn lose_peer(&mut self, peer: NodeId) {
        if !self.is_gone(peer) {
            self.sleep.gone.push(peer);
        }
        if self.raft.leader_id == peer || self.leading.is_some() {
            self.reached.mark_if(self.sleep.asleep, RarePath::WokenByLoss);
            self.wake();
        }
    }

    /// A session with `peer` begins.
    pub(super) fn expect_peer(&mut self, peer: NodeId) {
        self.sleep.quiet_ticks = 0;
        if !self.sleep.unheard.contains(&peer) {
            self.sleep.unheard.push(peer);
        }
    }

    /// Something came from `peer`.
    pub(super) fn hear_peer(&mut self, peer: NodeId) {
        self.find_peer(peer);
        self.sleep.unheard.retain(|unheard| *unheard != peer);
    }

    /// `peer` is there, or there again; whether it was gone.
    pub(super) fn find_peer(&mut self, peer: NodeId) -> bool {
        let position = self.sleep.gone.iter().position(|gone| *gone == peer);
        position.map(|at| self.sleep.gone.swap_remove(at)).is_some()
    }

    /// Whether a message to a sleeping leader is a late answer that says nothing new.
    pub(super) fn says_nothing_new(&self, message: &Message) -> bool {
        if self.leading.is_none() || message.term != self.raft.term {
            return false;
        }
        match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => message.context.is_empty(),
            MessageType::MsgAppendResponse => {
                let peer = self.raft.prs().get(message.from);
                !message.reject && peer.is_some_and(|peer| message.index <= peer.matched)
            }
            _ => false,
        }
    }

    /// Lets the group sleep if there is nothing to do.
    pub(super) fn look_sleepy(&mut self) {
        if self.sleep.quiet_ticks < QUIET_TICKS || !self.is_settled() {
            return;
        }
        let last = self.last_index();
        let own = encode_own(&Own::Sleep { term: self.raft.term, last });
        let peers = self.raft.prs().iter().map(|(id, _)| *id);
        for peer in peers.filter(|id| *id != self.id && !self.sleep.gone.contains(id)) {
            self.own_now.push((peer, own.clone()));
        }
        // Heartbeats that were about to leave.
        self.raft.msgs.clear();
        self.sleep.asleep = true;
        self.reached.mark(RarePath::FellAsleep);
    }

    /// Whether this replica leads and everybody in reach holds and knows everything.
    fn is_settled(&self) -> bool {
        let last = self.last_index();
        let idle = self.leading.is_some()
            && self.raft.lead_transferee.is_none()
            && self.is_idle_at(last)
            && self.applied == last
            && !self.change_under_way();
        idle && self.conf.is_quorum(|id| !self.is_gone(id))
            && self.raft.prs().iter().all(|(id, peer)| {
                *id == self.id
                    || self.is_gone(*id)
                    || (peer.matched == last
                        && peer.committed_index == last
                        && !self.sleep.unheard.contains(id))
            })
    }

    /// Whether the log ends at `last`, agreed on and durable, and nothing is pending.
    fn is_idle_at(&self, last: Index) -> bool {
        self.last_index() == last
            && self.commit() == last
            && self.written.is_empty()
            && !self.unsent
            && self.raft.msgs.iter().all(|m| m.get_msg_type() == MessageType::MsgHeartbeat)
            && self.reads.is_empty()
    }

    pub(super) fn on_sleep(&mut self, leader: NodeId, term: Term, last: Index) {
        if term != self.raft.term || self.raft.leader_id != leader || leader == self.id {
            return;
        }
        if self.loss.is_some() {
            self.ask_barrier(leader);
        } else if self.is_idle_at(last) {
            self.sleep.asleep = true;
        } else {
            self.reached.mark(RarePath::StayedAwake);
        }
    }
}
