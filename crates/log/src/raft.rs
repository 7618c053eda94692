//! Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014)
//! behind [`Log`], over the engine `raft` 0.7.
//!
//! The engine decides; this module owns what it decides about: the entries (`store`), their
//! journey to the journal, the messages' form (`wire`), reads (`reads`) and time. It drives
//! the engine's `Raft` itself rather than its `RawNode`, whose `Ready` copies every entry twice.
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
//!
//! Not here yet: snapshots, changes of membership, learners, and letting idle groups sleep.

mod lease;
mod reads;
mod restore;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use crate::{Body, Entry, Leadership, Log, Members, NotLeader, Outputs, Record};
pub use lease::{CLOCK_DRIFT_MAX_PERCENT, LEASE_MS};
use lease::{Lease, Promise};
use quorate_base::ids::NodeId;
use quorate_base::mutation::{Mutation, active};
use quorate_base::{Index, Millis, Prng, ShardId, Term};
use raft::eraftpb::{Entry as Slip, Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, Config, StateRole, Storage};
use reads::{Question, Reads};
pub use restore::{RestoreError, Restored};
use restore::{encode_state, restore};
use std::collections::VecDeque;
use std::sync::Arc;
use store::{Store, slip};

/// The engine's unit of time.
pub const TICK_MS: Millis = 10;
/// How often a leader shows that it is there.
pub const HEARTBEAT_MS: Millis = 60;
/// A follower that hears no leader for this long, and up to half as long again, starts an
/// election; a leader that hears no quorum for this long steps down.
pub const ELECTION_MS: Millis = 300;
/// How long a read waits for its answer before the question is put again.
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
    alone: bool,
    raft: raft::Raft<Store>,

    // Durability: the journal's writes under way, oldest first.
    written: VecDeque<Written>,
    last_seq: u64,
    /// Term and vote as last handed to the journal, and the term as known durable.
    saved: (Term, NodeId),
    durable_term: Term,

    // How far the node is.
    delivered: Index,
    applied: Index,
    compactable: Index,
    /// All voters hold the log up to here durably, as far as known.
    floor: Index,

    // Leadership: the one in effect, and the role as last looked at.
    leading: Option<Leadership>,
    /// The term whose leadership ended, or whether one began, since the last [`Log::take`].
    lost: Option<Term>,
    gained: bool,
    seen: (Term, StateRole, NodeId),
    /// Proposals since the last append to the followers.
    unsent: bool,
    /// Leadership was lost and the node has not yet said where its state is.
    rebuilding: bool,
    lease: Lease,
    promise: Promise,

    // Time and chance.
    clock: Option<Millis>,
    prng: Prng,
    election_ticks: u64,
    next_question: u64,

    reads: Reads,
    rejected: u64,
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
    /// The replica of `shard` on node `id`, one of `voters`, as `restored` left it. `seed`
    /// decides its election jitter and must differ from the other replicas' and from that of
    /// earlier lives of this one.
    pub fn new(
        shard: ShardId,
        id: NodeId,
        voters: &[NodeId],
        restored: Restored,
        seed: u64,
    ) -> Result<Self, RestoreError> {
        if !voters.contains(&id) {
            return Err(RestoreError::NotAVoter(id));
        }
        let alone = voters.len() == 1;
        let applied = restored.applied;
        let (store, hard) = restore(voters, restored)?;
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
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = raft::Raft::new(&config, store, &logger).expect("the configuration is valid");
        let mut prng = Prng::new(seed);
        let mut log = Self {
            shard,
            id,
            alone,
            written: VecDeque::new(),
            last_seq: 0,
            saved,
            durable_term: saved.0,
            delivered: applied,
            applied,
            compactable: applied,
            floor: 0,
            leading: None,
            lost: None,
            gained: false,
            seen: (raft.term, raft.state, raft.leader_id),
            unsent: false,
            rebuilding: false,
            lease: Lease::default(),
            promise: Promise::new(saved.0 == 0),
            clock: None,
            election_ticks: ELECTION_TICKS,
            next_question: prng.next_u64(),
            prng,
            reads: Reads::default(),
            rejected: 0,
            raft,
        };
        log.redraw();
        log.trim();
        if saved.0 == 0 {
            // Nobody can have been heard.
            log.raft.election_elapsed = ELECTION_TICKS as usize;
        }
        if alone {
            log.campaign();
            assert!(log.is_leader(), "the only voter did not elect itself");
        }
        Ok(log)
    }

    /// A new draw of the election timeout.
    fn redraw(&mut self) {
        self.election_ticks = ELECTION_TICKS + self.prng.below(ELECTION_TICKS_MAX - ELECTION_TICKS);
        self.raft.set_randomized_election_timeout(self.election_ticks as usize);
    }

    /// Follows the engine after a call that may have changed its log's end or its role.
    fn settle(&mut self) {
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
            self.redraw();
            let term = (now.1 == StateRole::Leader).then_some(now.0);
            if self.leading.map(|leading| leading.term) != term {
                if let Some(ended) = self.leading.filter(|_| !self.gained) {
                    self.lost = Some(ended.term);
                }
                self.gained = term.is_some();
                self.leading = term.map(|term| Leadership { term, start: last });
            }
        }
        self.raft.set_randomized_election_timeout(self.election_ticks as usize);
    }

    /// Moves the engine's time forward.
    fn advance(&mut self, now: Millis) {
        if self.alone {
            return;
        }
        self.promise.begin(now);
        let clock = *self.clock.get_or_insert(now);
        let ticks = now.saturating_sub(clock) / TICK_MS;
        if ticks == 0 {
            return;
        }
        self.clock = Some(clock + ticks * TICK_MS);
        // Whoever slept through more than an election has nothing to gain from more ticks.
        for _ in 0..ticks.min(ELECTION_TICKS_MAX) {
            if self.raft.tick() {
                if self.raft.state != StateRole::Leader {
                    self.redraw();
                }
                self.settle();
            }
        }
        if self.reads.asked_at().is_some_and(|asked| now.saturating_sub(asked) >= READ_RETRY_MS) {
            self.reads.restart();
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
            }
            assert_eq!(index, store.last() + 1, "the log of shard {} has a gap", self.shard);
            store.push(term, payload);
        }
    }

    /// Hands new state and entries to the journal.
    fn write(&mut self, out: &mut Outputs) {
        let shard = self.shard;
        let (term, vote) = (self.raft.term, self.raft.vote);
        let state = (term, vote) != self.saved;
        if state {
            self.saved = (term, vote);
            let state = encode_state(term, vote, self.raft.raft_log.committed);
            out.persist.push(Record { shard, body: Body::State(state) });
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
                    Some((index, _)) if index >= first => written.last = None,
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

    /// Puts the question of a read round to the engine, if one should and can begin.
    fn ask(&mut self) {
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

    /// Encodes and sorts the engine's messages.
    fn send(&mut self, out: &mut Outputs) {
        if self.raft.msgs.is_empty() {
            return;
        }
        self.refresh_floor();
        let term_is_durable = self.durable_term == self.raft.term;
        let nothing_under_way = self.written.is_empty();
        for message in std::mem::take(&mut self.raft.msgs) {
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
    fn deliver(&mut self, out: &mut Outputs) {
        let commit = self.commit();
        out.commit = commit;
        if let Some(ended) = self.lost.take() {
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
            let payload = Arc::clone(&slot.payload);
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
    fn trim(&mut self) {
        let allowed = self.compactable.min(self.raft.raft_log.applied);
        if self.raft.store().first() > allowed {
            return;
        }
        if !self.alone {
            self.refresh_floor();
        }
        let needed_after = if self.alone { allowed } else { self.floor };
        let store = self.raft.mut_store();
        while store.first() <= allowed
            && (store.first() <= needed_after || store.bytes() > RETAINED_BYTES_MAX)
        {
            store.pop_first();
        }
    }

    /// Whether a follower refused, before it caught up, a position that it holds by now. The engine
    /// would go back for it to entries that have left memory. (A voter that lost what it
    /// acknowledged is another matter: it must not come back as the same voter.)
    fn is_stale_rejection(&self, message: &Message) -> bool {
        message.reject
            && message.get_msg_type() == MessageType::MsgAppendResponse
            && message.term == self.raft.term
            && self.leading.is_some()
            && self.raft.prs().get(message.from).is_some_and(|peer| message.index <= peer.matched)
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
                *message.context == *CAMPAIGN_TRANSFER || !self.promise.holds(now)
            }
            _ => true,
        }
    }

    /// A local message to the engine. It refuses some silently; each caller copes with that.
    fn call(&mut self, message: Message) {
        let _ = self.raft.step(message);
        self.settle();
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
        let (index, term) = (self.next_index(), self.raft.term);
        let taken = self.raft.append_entry(&mut [slip(index, term)]);
        assert!(taken, "the engine refused an entry though it has no size limit");
        self.raft.mut_store().push(term, Arc::new(payload));
        self.unsent = true;
        Ok(index)
    }

    fn read(&mut self, now: Millis, id: u64) {
        if self.leading.is_some() && self.lease.covers(now) && self.raft.commit_to_current_term() {
            self.reads.pass(self.raft.raft_log.committed, id);
            if self.lease.is_short(now) {
                self.reads.want_round();
            }
        } else {
            self.reads.push(id);
        }
    }

    fn forget_reads(&mut self) {
        self.reads.forget();
    }

    fn peer_gone(&mut self, _now: Millis, _peer: NodeId) {}

    fn begin_install(&mut self) {}

    fn install(&mut self, _applied: Index, _term: Term) {}

    fn is_lost(&self) -> bool {
        false
    }

    fn members(&self) -> Members {
        Members::default()
    }

    fn reconfigure(&mut self, _members: &Members) -> Result<Option<Index>, NotLeader> {
        Ok(None)
    }

    fn successor(&self) -> Option<NodeId> {
        None
    }

    fn step(&mut self, now: Millis, from: NodeId, message: &[u8]) {
        self.advance(now);
        let incoming = wire::decode(from, self.id, message).filter(|incoming| {
            // The engine would stop at a commit index beyond its log's end.
            let beyond = incoming.message.get_msg_type() == MessageType::MsgHeartbeat
                && incoming.message.commit > self.raft.store().last();
            from != self.id && self.raft.prs().get(from).is_some() && !beyond
        });
        let Some(incoming) = incoming else {
            self.rejected += 1;
            return;
        };
        if self.is_stale_rejection(&incoming.message) || !self.keeps_promise(now, &incoming.message)
        {
            return;
        }
        let first = incoming.message.index + 1;
        self.floor = self.floor.max(incoming.floor);
        let _ = self.raft.step(incoming.message);
        self.adopt(first, incoming.payloads);
        self.settle();
    }

    fn link_reset(&mut self, peer: NodeId) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgUnreachable);
        message.from = peer;
        self.call(message);
        self.reads.restart();
    }

    fn tick(&mut self, now: Millis) {
        self.advance(now);
    }

    fn next_deadline(&self) -> Option<Millis> {
        if self.alone {
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
        let retry = self.reads.asked_at().map(|asked| (asked + READ_RETRY_MS).max(clock + TICK_MS));
        Some(retry.map_or(deadline, |retry| retry.min(deadline)))
    }

    fn persisted(&mut self, seq: u64) {
        assert!(seq <= self.last_seq, "write {seq} was never asked for (last {})", self.last_seq);
        let mut end = None;
        while let Some(written) = self.written.pop_front_if(|written| written.seq <= seq) {
            end = written.last.or(end);
            self.durable_term = written.term.unwrap_or(self.durable_term);
        }
        if let Some((index, term)) = end {
            self.raft.on_persist_entries(index, term);
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
        if self.alone { first } else { first.saturating_sub(1).max(1) }
    }

    fn replay_after(&mut self, index: Index) {
        assert!(index >= self.compactable, "{index} is compacted (up to {})", self.compactable);
        self.delivered = self.delivered.min(index);
        self.applied = self.applied.min(index);
        self.rebuilding = false;
    }

    fn campaign(&mut self) {
        if !self.alone && self.promise.holds(self.clock.unwrap_or(0)) {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHup);
        self.call(message);
    }

    fn transfer(&mut self, to: NodeId) {
        if self.leading.is_some() && to != self.id {
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

    fn take(&mut self, out: &mut Outputs) {
        self.write(out);
        if !self.alone {
            // After the write, so that the engine fetches entries from the store, where the
            // limit on a message's size is known.
            if std::mem::take(&mut self.unsent) && self.leading.is_some() {
                self.raft.bcast_append();
            }
            self.ask();
            self.send(out);
            for read in std::mem::take(&mut self.raft.read_states) {
                let begun = self.reads.confirm(&read.request_ctx, read.index);
                if let Some(begun) = begun.filter(|_| self.leading.is_some()) {
                    self.lease.confirm(begun);
                }
            }
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
