//! Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014)
//! behind [`Log`], over the engine `raft` 0.7.
//!
//! The engine decides; this module owns what it decides about: the entries (`store`), their
//! journey to the journal (`output`), the messages' form (`wire`), time (`drive`), reads (`reads`)
//! and the leases that spare them messages (`lease`), replicas that lost something and snapshots
//! (`lost`), members (`members`), and sleep (`sleep`). It drives the engine's `Raft` itself rather
//! than its `RawNode`, whose `Ready` copies every entry twice.
//!
//! What is kept here that the engine leaves to its user:
//!
//! - **Durability.** Each write handed out in [`Outputs::persist`] has a number. When it is
//!   durable the engine learns the last position it covered, unless a later write replaced
//!   entries at or below that position: then only the later one counts.
//! - **Messages before the sync.** Appends, heartbeats and their like may leave before the
//!   sender's own sync (Ongaro's thesis, 10.2.1), once its term and vote are durable; votes and
//!   what acknowledges entries wait for it.
//! - **Jitter.** The engine draws election timeouts from the thread's generator. They are
//!   overwritten with draws from our own seed after every call that may have drawn.
//! - **Groups of one** lead from construction on and need no time. All that was durable counts
//!   as committed.
//! - **Memory.** Entries leave memory when they are applied, allowed to go and, in a group of
//!   several, held by all voters (the leader's messages carry that index along) or too many.
//! - **Entries of the log's own.** A leader appends entries that are not the node's: the opening
//!   one, changes of members, and what lost peers wait for. After the opening one they are appended
//!   only within `step`, `tick` and `reconfigure`, so [`Log::next_index`] stands still between
//!   these. Replicas that follow get them with an empty payload.
//! - **Snapshots** travel outside. The engine's own way of dealing with them is not used: a
//!   follower that needs one is reported in [`Outputs::need_snapshot`], and its log begins anew at
//!   [`Log::install`].
//!
//! A leader's entry counts as agreed on here only when its own sync is done too, even if a quorum
//! of others has it before. It would be safe to acknowledge it then, but tables could get ahead
//! of the journal of their own node, and would be from another log after a crash and a failover
//! that is found out too late. The gain would be small: syncs run at the same time everywhere.

mod drive;
mod lease;
mod lost;
mod members;
mod output;
mod reads;
mod restore;
mod sleep;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use crate::{Follower, Leadership, Log, Members, NotLeader, Outputs};
pub use lease::{CLOCK_DRIFT_MAX_PERCENT, LEASE_MS};
use lease::{Lease, Promise};
use lost::{Loss, Patient};
use members::Conf;
use quorate_base::ids::NodeId;
use quorate_base::mutation::{Mutation, active};
use quorate_base::rare::{RarePath, Reached};
use quorate_base::{Index, Millis, Prng, ShardId, Term};
use raft::eraftpb::{Message, MessageType};
use raft::{Config, StateRole, Storage};
use reads::Reads;
pub use restore::{RestoreError, Restored};
use restore::{Start, restore};
use sleep::Sleep;
use std::collections::{BTreeMap, VecDeque};
use store::{Store, slip};

/// The engine's unit of time.
pub const TICK_MS: Millis = 10;
/// How often a leader shows that it is there.
pub const HEARTBEAT_MS: Millis = 60;
/// A follower that hears no leader for this long, and up to half as long again, starts an
/// election; a leader that hears no quorum for this long steps down.
pub const ELECTION_MS: Millis = 300;
/// How long a read waits for its answer before the question is put again; doubled each time, up to
/// eight times as long, so that a slow network gets to answer.
pub const READ_RETRY_MS: Millis = 200;
/// Payload bytes in one append, unless a single entry is larger.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Appends under way to one follower.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;
/// Memory one shard spends on entries for a follower that is behind. Past it the follower
/// needs a snapshot.
pub const RETAINED_BYTES_MAX: usize = 8 << 20;

const ELECTION_TICKS: u64 = ELECTION_MS / TICK_MS;
/// Election timeouts are below this.
const ELECTION_TICKS_MAX: u64 = ELECTION_TICKS + ELECTION_TICKS / 2;

/// A replica's Raft log of one shard.
pub struct RaftLog {
    shard: ShardId,
    id: NodeId,
    /// Nobody else is in the group: no time, no messages.
    alone: bool,
    raft: raft::Raft<Store>,

    // Durability: the journal's writes under way, oldest first.
    written: VecDeque<Written>,
    last_seq: u64,
    /// Term and vote as last handed to the journal, and the term as known durable.
    saved: (Term, NodeId),
    durable_term: Term,
    /// Something else of the state record changed since.
    state_changed: bool,

    // How far the node is.
    delivered: Index,
    applied: Index,
    compactable: Index,
    /// All members hold the log up to here durably, as far as known.
    floor: Index,
    retained_bytes_max: usize,

    // Leadership: the one in effect, and the role as last looked at.
    leading: Option<Leadership>,
    /// The term whose leadership ended, or whether one began, since the last [`Log::take`].
    ended: Option<Term>,
    gained: bool,
    seen: (Term, StateRole, NodeId),
    /// Proposals since the last append to the followers.
    unsent: bool,
    /// Leadership was lost and the node has not yet said where its state is.
    rebuilding: bool,

    // Members, as of an index.
    conf: Conf,
    conf_index: Index,
    /// The write that makes them durable, and the index.
    unsaved_change: Option<(u64, Index)>,

    // Losses: of this replica, and of its peers while it leads.
    loss: Option<Loss>,
    /// Names the time since the last loss; 0 before the first.
    life: u64,
    /// The journal's entries up to here are of no use.
    void: Index,
    patients: BTreeMap<NodeId, Patient>,

    // Time and chance.
    clock: Option<Millis>,
    prng: Prng,
    election_ticks: u64,
    next_question: u64,
    lease: Lease,
    promise: Promise,
    sleep: Sleep,

    reads: Reads,
    /// Messages that the engine knows nothing of: to leave at once, or after the last write.
    own_now: Vec<(NodeId, Vec<u8>)>,
    own_durable: Vec<(NodeId, Vec<u8>)>,
    rejected: u64,
    reached: Reached,
}

/// One write under way to the journal.
#[derive(Debug)]
struct Written {
    seq: u64,
    /// The last position it contains, with its term; `None` once a later write replaced it.
    last: Option<(Index, Term)>,
    /// The term, when it contains the engine's state.
    term: Option<Term>,
}

impl RaftLog {
    /// The replica of `shard` on node `id` as `restored` left it. `voters` are the first members
    /// of the group; later ones are known from the log. `seed` decides its election jitter and
    /// must differ from the other replicas' and from that of earlier lives of this one.
    pub fn new(
        shard: ShardId,
        id: NodeId,
        voters: &[NodeId],
        restored: Restored,
        seed: u64,
    ) -> Result<Self, RestoreError> {
        let log = Self::joining(shard, id, voters, restored, seed)?;
        if log.conf.contains(id) { Ok(log) } else { Err(RestoreError::NotAVoter(id)) }
    }

    /// Like [`RaftLog::new`] for a replica that is, as far as known here, not a member, or not any
    /// more. It follows whoever leads the group and never campaigns before it is a voter.
    pub fn joining(
        shard: ShardId,
        id: NodeId,
        voters: &[NodeId],
        restored: Restored,
        seed: u64,
    ) -> Result<Self, RestoreError> {
        let applied = restored.applied;
        let Start { store, hard, state, conf } = restore(id, voters, restored)?;
        let saved = (hard.term, hard.vote);
        let config = Config {
            id,
            election_tick: ELECTION_TICKS as usize,
            max_election_tick: ELECTION_TICKS_MAX as usize,
            heartbeat_tick: (HEARTBEAT_MS / TICK_MS) as usize,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            // The next append or heartbeat tells them; nobody waits for a follower to apply.
            skip_bcast_commit: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = raft::Raft::new(&config, store, &logger).expect("the configuration is valid");
        let mut prng = Prng::new(seed);
        let mut log = Self {
            shard,
            id,
            alone: conf.is_only(id),
            written: VecDeque::new(),
            last_seq: 0,
            saved,
            durable_term: saved.0,
            state_changed: false,
            delivered: applied,
            applied,
            compactable: applied,
            floor: 0,
            retained_bytes_max: RETAINED_BYTES_MAX,
            leading: None,
            ended: None,
            gained: false,
            seen: (raft.term, raft.state, raft.leader_id),
            unsent: false,
            rebuilding: false,
            conf,
            conf_index: state.conf_index,
            unsaved_change: None,
            loss: None,
            life: state.life,
            void: state.void,
            patients: BTreeMap::new(),
            clock: None,
            election_ticks: ELECTION_TICKS,
            next_question: prng.next_u64(),
            prng,
            lease: Lease::default(),
            promise: Promise::new(saved.0 == 0),
            sleep: Sleep::default(),
            reads: Reads::default(),
            own_now: Vec::new(),
            own_durable: Vec::new(),
            rejected: 0,
            reached: Reached::default(),
            raft,
        };
        log.redraw();
        log.trim();
        if state.lost {
            log.start_lost(&state);
        } else if log.alone {
            log.campaign();
            assert!(log.is_leader(), "the only voter did not elect itself");
        } else if saved.0 == 0 {
            // Nobody can have been heard.
            log.raft.election_elapsed = ELECTION_TICKS as usize;
        }
        Ok(log)
    }

    /// Spends other than [`RETAINED_BYTES_MAX`] on entries for a follower that is behind.
    pub fn retain(&mut self, bytes_max: usize) {
        self.retained_bytes_max = bytes_max;
    }
}

impl Log for RaftLog {
    fn accepts(&self) -> bool {
        self.raft.lead_transferee.is_none()
            && self.leading.is_some_and(|leading| self.applied + 1 >= leading.start)
    }

    fn next_index(&self) -> Index {
        self.raft.store().last() + 1
    }

    fn propose(&mut self, payload: Vec<u8>) -> Result<Index, NotLeader> {
        if !self.accepts() {
            return Err(NotLeader { leader: self.leader().filter(|leader| *leader != self.id) });
        }
        self.be_busy();
        Ok(self.append(payload))
    }

    fn read(&mut self, now: Millis, id: u64) {
        self.be_busy();
        self.clock.get_or_insert(now);
        if self.leading.is_some() && self.lease.covers(now) && self.raft.commit_to_current_term() {
            self.reads.pass(self.raft.raft_log.committed, id);
            if self.lease.is_short(now) {
                self.reads.want_round();
            }
        } else {
            if self.leading.is_some() {
                self.reached.mark(RarePath::LeaseRefused);
            }
            self.reads.push(id);
        }
    }

    fn forget_reads(&mut self) {
        self.reads.forget();
    }

    fn peer_gone(&mut self, now: Millis, peer: NodeId) {
        if peer != self.id {
            self.lose_peer(peer);
            self.clock.get_or_insert(now);
        }
    }

    fn begin_install(&mut self) {
        assert!(!self.alone, "there is nobody to get a snapshot from");
        self.be_busy();
        self.prepare_install();
    }

    fn install(&mut self, applied: Index, term: Term) {
        self.begin_after(applied, term);
    }

    fn is_lost(&self) -> bool {
        self.loss.is_some()
    }

    fn members(&self) -> Members {
        self.conf.members()
    }

    fn reconfigure(&mut self, members: &Members) -> Result<Option<Index>, NotLeader> {
        if !self.accepts() {
            return Err(NotLeader { leader: self.leader().filter(|leader| *leader != self.id) });
        }
        self.be_busy();
        Ok(self.change_members(members))
    }

    fn successor(&self) -> Option<NodeId> {
        self.best_successor()
    }

    fn step(&mut self, now: Millis, from: NodeId, message: &[u8]) {
        if from == self.id {
            self.rejected += 1;
        } else if wire::is_own(message) {
            match wire::decode_own(message) {
                Some(own) => self.on_own(now, from, own),
                None => self.rejected += 1,
            }
        } else {
            match wire::decode(from, self.id, message) {
                Some(incoming) => self.on_engine_message(now, incoming),
                None => self.rejected += 1,
            }
        }
        self.hear_peer(from);
        self.append_own();
    }

    fn link_reset(&mut self, peer: NodeId) {
        if self.find_peer(peer) && self.leading.is_some() {
            self.wake();
        }
        self.expect_peer(peer);
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgUnreachable);
        message.from = peer;
        self.call(message);
        self.reads.restart();
    }

    fn tick(&mut self, now: Millis) {
        self.advance(now);
        self.append_own();
        self.look_sleepy();
    }

    fn next_deadline(&self) -> Option<Millis> {
        if self.alone || self.sleep.asleep {
            return None;
        }
        let Some(clock) = self.clock else { return Some(0) };
        let raft = &self.raft;
        let ticks = if raft.state == StateRole::Leader {
            let heartbeat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
            heartbeat.min(raft.election_timeout().saturating_sub(raft.election_elapsed))
        } else {
            raft.randomized_election_timeout().saturating_sub(raft.election_elapsed)
        };
        let deadline = clock + ticks.max(1) as u64 * TICK_MS;
        let retry = self.reads.retry_at().map(|retry| retry.max(clock + TICK_MS));
        Some(retry.map_or(deadline, |retry| retry.min(deadline)))
    }

    fn persisted(&mut self, seq: u64) {
        assert!(seq <= self.last_seq, "write {seq} was never asked for (last {})", self.last_seq);
        let mut end = None;
        while let Some(written) = self.written.pop_front_if(|written| written.seq <= seq) {
            end = written.last.or(end);
            self.durable_term = written.term.unwrap_or(self.durable_term);
        }
        self.unsaved_change.take_if(|(write, _)| *write <= seq);
        if let Some((index, term)) = end {
            self.raft.on_persist_entries(index, term);
        }
        if !self.alone {
            self.settle();
            self.look_whole();
        }
    }

    fn applied(&mut self, upto: Index) {
        assert!(upto <= self.delivered, "{upto} was applied but only {} given", self.delivered);
        if upto > self.applied {
            self.applied = upto;
            let agreed = self.raft.raft_log.committed.min(self.raft.raft_log.persisted);
            if upto.min(agreed) > self.raft.raft_log.applied {
                self.raft.commit_apply(upto.min(agreed));
                self.trim();
            }
        }
    }

    fn compact(&mut self, upto: Index) {
        if upto > self.compactable {
            self.compactable = upto;
            self.trim();
        }
    }

    fn journal_from(&self) -> Index {
        let first = self.raft.store().first();
        let from = if self.alone { first } else { first.saturating_sub(1).max(1) };
        self.unsaved_change.map_or(from, |(_, change)| from.min(change))
    }

    fn replay_after(&mut self, index: Index) {
        assert!(index >= self.compactable, "{index} is compacted (up to {})", self.compactable);
        self.delivered = self.delivered.min(index);
        self.applied = self.applied.min(index);
        self.rebuilding = false;
    }

    fn campaign(&mut self) {
        let bound = !self.alone && self.promise.holds(self.clock.unwrap_or(0));
        if self.loss.is_some() || !self.raft.promotable() {
            return;
        }
        if bound {
            return self.reached.mark(RarePath::CampaignPromised);
        }
        self.be_busy();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHup);
        self.call(message);
    }

    fn transfer(&mut self, to: NodeId) {
        if self.leading.is_some() && to != self.id {
            self.be_busy();
            self.lease.revoke();
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgTransferLeader);
            message.from = to;
            self.call(message);
        }
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.raft.leader_id).filter(|leader| *leader != 0)
    }

    fn is_leader(&self) -> bool {
        self.leading.is_some()
    }

    fn followers(&self) -> Vec<Follower> {
        if self.leading.is_none() {
            return Vec::new();
        }
        let peers = self.raft.prs().iter().filter(|(id, _)| **id != self.id);
        let mut all: Vec<_> =
            peers.map(|(id, peer)| Follower { node: *id, matched: peer.matched }).collect();
        all.sort_unstable_by_key(|follower| follower.node);
        all
    }

    fn term(&self) -> Term {
        self.raft.term
    }

    fn commit(&self) -> Index {
        if active(Mutation::SkipQuorum) && self.leading.is_some() {
            return self.raft.raft_log.persisted;
        }
        self.raft.raft_log.committed.min(self.raft.raft_log.persisted)
    }

    fn last_index(&self) -> Index {
        self.raft.store().last()
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        self.raft.store().term(index).ok()
    }

    fn rejected_messages(&self) -> u64 {
        self.rejected
    }

    fn reached(&self) -> &Reached {
        &self.reached
    }

    fn take(&mut self, out: &mut Outputs) {
        if self.raft.store().first_change().is_some() {
            self.settle();
        }
        self.write(out);
        if !self.alone {
            // After the write, so that the engine fetches entries from the store, where the
            // limit on a message's size is known.
            if std::mem::take(&mut self.unsent) && self.leading.is_some() {
                self.raft.bcast_append();
            }
            self.ask();
            for read in std::mem::take(&mut self.raft.read_states) {
                let begun = self.reads.confirm(&read.request_ctx, read.index);
                if let Some(begun) = begun.filter(|_| self.leading.is_some()) {
                    self.lease.confirm(begun);
                }
            }
            self.send(out);
            self.raft.mut_store().take_wanted(&mut out.need_snapshot);
        }
        self.deliver(out);
        if self.alone {
            self.reads.release_waiting(&mut out.readable);
        } else {
            let caught_up = self.leading.is_some_and(|leading| self.applied + 1 >= leading.start);
            if !self.rebuilding {
                self.reads.release(|index| caught_up || self.applied >= index, &mut out.readable);
            }
            self.trim();
        }
        if std::mem::take(&mut self.gained) {
            out.gained_leadership = self.leading;
        }
    }
}
