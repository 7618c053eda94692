//! The replicated log of one shard: the agreed order of its entries.
//!
//! [`Log`] is what the node sees of an engine, whichever it is: calls go in, and [`Outputs`]
//! say what to write, send, replay and answer. [`raft::RaftLog`] is the first engine. A node
//! holds one `Box<dyn Log>` per shard: engines differ in size by far, so an enum would be as
//! large as the largest or boxed all the same, and one indirect call is nothing beside the
//! work behind it.
//!
//! # The life of a proposal
//!
//! ```text
//! accepts()? ── the node executes the command at next_index() and has its effects
//! propose(effects) ─▶ index
//! take() ─▶ persist, seq ──▶ the journal ──sync──▶ persisted(seq)
//!        ─▶ send_now ──▶ peers, before that sync;   send_durable after it
//! take() ─▶ commit ≥ index: the reply may leave ──▶ applied(commit), later compact(durable)
//! ```
//!
//! A leader has applied what it proposes before it proposes it, so entries of its own are
//! never handed back; all others come out of `committed`, in order and without gaps, to be
//! replayed. At each moment `compacted ≤ applied ≤ commit ≤ last index`.
//!
//! This crate never reads a clock, draws randomness or does I/O: `now` is monotonic time that
//! the node hands in, and election jitter comes from a seed given at construction.

pub mod raft;
pub mod record;

pub use record::{Body, Entry, Record};

use quorate_base::ids::NodeId;
use quorate_base::rare::Reached;
use quorate_base::{Index, Millis, Term};

/// The agreed order of one shard's entries, seen from one replica.
pub trait Log: Send {
    /// Whether a command may be executed and proposed now: this replica leads, is not handing
    /// over, and the node has applied all that earlier leaders left.
    fn accepts(&self) -> bool;

    /// The index that the next proposal gets while [`Log::accepts`] holds.
    fn next_index(&self) -> Index;

    /// Appends `payload`, already applied by the caller, and returns its index. Its fate is
    /// known once `Outputs::commit` reaches the index, or leadership is lost before that.
    fn propose(&mut self, payload: Vec<u8>) -> Result<Index, NotLeader>;

    /// Asks for a linearizable read barrier. `id` comes out of `Outputs::readable` once the
    /// node's state contains every write acknowledged before this call, anywhere; at the next
    /// [`Log::take`] if this replica leads and its lease covers `now`. Without a reachable leader
    /// it stays pending: the caller keeps the time limit, and gives up with [`Log::forget_reads`].
    fn read(&mut self, now: Millis, id: u64);

    /// Drops all pending reads.
    fn forget_reads(&mut self);

    /// Handles a message of the peer `from`. Malformed ones are counted and dropped.
    fn step(&mut self, now: Millis, from: NodeId, message: &[u8]);

    /// Tells that messages to or from `peer` may have been lost.
    fn link_reset(&mut self, peer: NodeId);

    /// Tells that the node of `peer` cannot be reached any more: a group that sleeps wakes if
    /// `peer` leads it, or if this replica does.
    fn peer_gone(&mut self, now: Millis, peer: NodeId);

    /// Moves time forward to `now`.
    fn tick(&mut self, now: Millis);

    /// When [`Log::tick`] is wanted next; `None` when nothing depends on time: it stands alone, or
    /// all replicas agreed to sleep because nothing happens. Any other call but
    /// [`Log::link_reset`] wakes it.
    fn next_deadline(&self) -> Option<Millis>;

    /// Tells that everything up to and including `Outputs::seq` = `seq` is durable, or may be
    /// treated as if it were.
    fn persisted(&mut self, seq: u64);

    /// Tells that the node's state contains all committed entries up to `upto`. It may lag
    /// behind at no cost but memory and pending reads; it never passes `Outputs::commit`.
    fn applied(&mut self, upto: Index);

    /// Tells that entries up to `upto` will not be asked for again. They leave memory as soon
    /// as they are applied and no peer needs them.
    fn compact(&mut self, upto: Index);

    /// From where on the journal must keep this shard's entries: earlier ones are in the store,
    /// as [`Log::compact`] said, and no peer needs them.
    fn journal_from(&self) -> Index;

    /// Has the committed entries after `index` delivered again, own ones too. For a node that
    /// lost leadership and must rebuild its state without what was never agreed on. `index`
    /// must not lie before what [`Log::compact`] allowed to go.
    fn replay_after(&mut self, index: Index);

    /// The state of this replica is about to be replaced by a snapshot of a peer, or was lost: it
    /// neither votes nor leads until it has caught up with a leader. What makes that durable comes
    /// out of the next [`Log::take`]; only after it may the old state go.
    fn begin_install(&mut self);

    /// The node's state now is a snapshot that contains everything up to `applied`, an entry of
    /// `term`, and the table holds it.
    fn install(&mut self, applied: Index, term: Term);

    /// Whether this replica has lost what it once acknowledged and has not caught up yet.
    fn is_lost(&self) -> bool;

    /// The voters and learners, as of the last change in the log here.
    fn members(&self) -> Members;

    /// Proposes other members, by joint consensus where more than one changes; `None` while an
    /// earlier change is under way. A learner gets everything and does not vote.
    fn reconfigure(&mut self, members: &Members) -> Result<Option<Index>, NotLeader>;

    /// The best one to hand leadership to: the voter, reachable of late, that holds most.
    fn successor(&self) -> Option<NodeId>;

    /// Starts an election now.
    fn campaign(&mut self);

    /// Hands leadership to `to`. Until it is done or given up, [`Log::accepts`] is false.
    fn transfer(&mut self, to: NodeId);

    /// The leader, as far as known.
    fn leader(&self) -> Option<NodeId>;

    /// Whether this replica leads.
    fn is_leader(&self) -> bool;

    /// While this replica leads: how far the others are, ascending by node.
    fn followers(&self) -> Vec<Follower>;

    /// The current term.
    fn term(&self) -> Term;

    /// The highest index that is agreed on and durable here.
    fn commit(&self) -> Index;

    /// The index of the last entry, agreed on or not.
    fn last_index(&self) -> Index;

    /// The term of the entry at `index`: known for those in memory and the one before them, so
    /// for all that [`Log::compact`] has not yet let go and the last that it has.
    fn term_at(&self, index: Index) -> Option<Term>;

    /// Messages of peers dropped so far because they made no sense.
    fn rejected_messages(&self) -> u64;

    /// The rare paths that this log came by.
    fn reached(&self) -> &Reached;

    /// Appends to `out` what there is to do since the last call.
    fn take(&mut self, out: &mut Outputs);
}

/// How far a replica is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Whose replica it is.
    pub node: NodeId,
    /// It holds durably what the leader has up to here.
    pub matched: Index,
}

/// Who holds replicas of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote, ascending.
    pub voters: Vec<NodeId>,
    /// Those that only follow, ascending.
    pub learners: Vec<NodeId>,
    /// Those that voted before the change under way; empty when there is none.
    pub outgoing: Vec<NodeId>,
}

/// What a log wants done. Its vectors are reused: [`Outputs::clear`] between logs, or drain them.
#[derive(Debug, Default)]
pub struct Outputs {
    /// To be made durable, in this order.
    pub persist: Vec<Record>,
    /// The number to hand to [`Log::persisted`] once `persist`, and all before it, is durable.
    /// Meaningful when `persist` or `send_durable` got something.
    pub seq: u64,
    /// Messages that may leave at once.
    pub send_now: Vec<(NodeId, Vec<u8>)>,
    /// Messages that may leave only after `seq` is durable.
    pub send_durable: Vec<(NodeId, Vec<u8>)>,
    /// The highest index that is agreed on and durable here: what may be acknowledged.
    pub commit: Index,
    /// Entries to replay: agreed on, in order, not proposed under the current leadership.
    pub committed: Vec<Entry>,
    /// Read barriers that have been passed.
    pub readable: Vec<u64>,
    /// Peers that need entries which are gone from memory.
    pub need_snapshot: Vec<NodeId>,
    /// Leadership ended. What this replica proposed up to `commit` was agreed on, the fate of the
    /// rest is unknown. The node must go back to a state without that rest and tell by
    /// [`Log::replay_after`] where it is; `committed` is empty this time.
    pub lost_leadership: bool,
    /// Leadership began. When both are set, it ended first.
    pub gained_leadership: Option<Leadership>,
}

/// A leadership that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Its term.
    pub term: Term,
    /// The index of its opening, empty entry. Own proposals follow it.
    pub start: Index,
}

impl Outputs {
    /// Empties everything, keeping the memory.
    pub fn clear(&mut self) {
        self.persist.clear();
        self.seq = 0;
        self.send_now.clear();
        self.send_durable.clear();
        self.commit = 0;
        self.committed.clear();
        self.readable.clear();
        self.need_snapshot.clear();
        self.lost_leadership = false;
        self.gained_leadership = None;
    }
}

/// This replica cannot take a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeader {
    /// Who probably can.
    pub leader: Option<NodeId>,
}

impl std::fmt::Display for NotLeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.leader {
            Some(node) => write!(f, "node {node} leads this shard, not this one"),
            None => write!(f, "this shard has no leader at the moment"),
        }
    }
}

impl std::error::Error for NotLeader {}
