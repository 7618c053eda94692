//! From what the disk held to an engine that goes on from there.
//!
//! The engine's state in a [`Body::State`](crate::Body::State) record, numbers in varints:
//!
//! ```text
//! format u8 = 2 │ flags u8 │ term │ vote │ commit │ life │ void │ bound term │ bound index │
//! index of the members │ members
//! ```
//!
//! It is written when anything but `commit` changed, which is a hint that may be old. Flags: 1 the
//! replica is lost, 2 its votes are lost too, 4 it may have missed changes of members; `life` names the time since its last loss, and
//! `bound` is where its log may have ended before (`lost`). Entries up to `void` in the journal are
//! not of this log: a snapshot replaced them, or damage brought an older branch to light.
//! `members` as in `members`, agreed on at their index. Format 1 has term, vote and commit only.

use super::members::{Conf, is_change};
use super::store::Store;
use crate::Entry;
use quorate_base::codec::{Reader, put_varint};
use quorate_base::ids::NodeId;
use quorate_base::{Index, Term};
use raft::eraftpb::HardState;
use raft::{RaftState, Storage};

const STATE_FORMAT: u8 = 2;
const STATE_FORMAT_1: u8 = 1;
const LOST: u8 = 1;
const FORGOT_VOTES: u8 = 2;
const MISSED_MEMBERS: u8 = 4;

/// What a replica knows when it starts.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last [`Body::State`](crate::Body::State) of the journal.
    pub state: Option<Vec<u8>>,
    /// The journal's entries in order. They may begin anywhere up to `applied + 1`; what comes
    /// before a gap is not used when the gap lies there.
    pub entries: Vec<Entry>,
    /// The store contains all entries up to this index.
    pub applied: Index,
    /// The term of the entry at `applied`.
    pub applied_term: Term,
    /// Something that was acknowledged may be missing: the journal or the store was damaged. Then
    /// `state` may be old or missing, and of `entries` those are kept that follow `applied`
    /// without a gap.
    pub lost: bool,
}

/// Why a replica cannot start from what it found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The engine's state makes no sense: it was written by a newer version, or is damaged.
    State,
    /// Entries exist but the engine's state is gone: who was voted for is forgotten.
    NoState,
    /// An entry is missing, or its term is smaller than its predecessor's.
    Gap {
        /// The index that should have come.
        expected: Index,
        /// The index that came.
        found: Index,
    },
    /// The entry at this index, the last one applied, is of another term in the log.
    AnotherLog(Index),
    /// This entry says something about members that makes no sense.
    Members(Index),
    /// The replica is not among the members.
    NotAVoter(NodeId),
    /// The replica lost something and is the only member: nobody can give it back.
    NobodyToAsk,
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State => write!(f, "the log's saved term and vote make no sense"),
            Self::NoState => write!(f, "the log has entries but its term and vote are missing"),
            Self::Gap { expected, found } => {
                write!(f, "the log goes on with entry {found} where {expected} belongs")
            }
            Self::AnotherLog(index) => {
                write!(f, "the store was made from another entry {index} than the log has")
            }
            Self::Members(index) => write!(f, "entry {index} names members that make no sense"),
            Self::NotAVoter(node) => write!(f, "node {node} is not among the members"),
            Self::NobodyToAsk => write!(f, "part of the log is lost and there is no other replica"),
        }
    }
}

impl std::error::Error for RestoreError {}

/// A state record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) term: Term,
    pub(super) vote: NodeId,
    pub(super) commit: Index,
    pub(super) lost: bool,
    pub(super) forgot_votes: bool,
    pub(super) life: u64,
    pub(super) void: Index,
    pub(super) bound: (Term, Index),
    pub(super) knows_members: bool,
    pub(super) conf_index: Index,
    /// `None` in records of format 1.
    pub(super) conf: Option<Conf>,
}

/// What a log begins with.
pub(super) struct Start {
    pub(super) store: Store,
    pub(super) hard: HardState,
    pub(super) state: State,
    pub(super) conf: Conf,
}

/// Checks what the disk held and turns it into the engine's storage and state.
pub(super) fn restore(
    id: NodeId,
    voters: &[NodeId],
    restored: Restored,
) -> Result<Start, RestoreError> {
    let Restored { state, entries, applied, applied_term, lost } = restored;
    let no_state = state.is_none();
    let mut state = match state {
        Some(bytes) => decode_state(&bytes).ok_or(RestoreError::State)?,
        None => State { knows_members: true, ..State::default() },
    };
    let mut conf = state.conf.take().unwrap_or_else(|| Conf::of_voters(voters));
    state.lost |= lost;
    state.forgot_votes |= lost;
    if state.lost && conf.is_only(id) {
        return Err(RestoreError::NobodyToAsk);
    }
    let mut store = if state.lost {
        let ends = entries.iter().map(|entry| (entry.term, entry.index));
        state.bound = ends.fold(state.bound, Ord::max);
        // What was agreed on up to `applied` is known only from a log that passes through there;
        // otherwise a snapshot may have come, or the journal may show an older branch.
        let passes = |entry: &Entry| (entry.index, entry.term) == (applied, applied_term);
        let end = entries.iter().position(passes);
        state.knows_members &= applied <= state.conf_index || end.is_some();
        if end.is_none() {
            // Nor may such a branch count once the replica is whole again.
            state.void = state.void.max(applied);
        }
        let run = &entries[..end.map_or(0, |end| end + 1)];
        let gap = |pair: &[Entry]| pair[1].index != pair[0].index + 1;
        let start = run.windows(2).rposition(gap).map_or(0, |position| position + 1);
        for entry in &run[start..] {
            let later = entry.index > state.void.max(state.conf_index);
            if let Some(members) = Conf::of_entry(&entry.payload).filter(|_| later) {
                (state.conf_index, conf) = (entry.index, members);
            }
        }
        remains(entries, state.void, (applied, applied_term))
    } else {
        history(entries, state.void, (applied, applied_term))?
    };
    for index in store.changes() {
        let entry = store.get(index).expect("the store counts its own entries");
        Conf::of_entry(&entry.payload).ok_or(RestoreError::Members(index))?;
    }
    let last = store.last();
    let last_term = store.term(last).expect("the last position is known");
    let mut hard = HardState { term: state.term, vote: state.vote, ..HardState::default() };
    if hard.term < last_term {
        if !no_state && !state.lost {
            return Err(RestoreError::State);
        }
        if no_state && !state.lost && !conf.is_only(id) {
            return Err(RestoreError::NoState);
        }
        (hard.term, hard.vote) = (last_term, 0);
    }
    hard.commit = applied;
    if !state.lost {
        hard.commit = state.commit.clamp(applied, last);
        catch_up_members(id, &mut store, &mut hard, (&mut state.conf_index, &mut conf));
    }
    store.set_initial(RaftState::new(hard.clone(), conf.to_engine()));
    Ok(Start { store, hard, state, conf })
}

/// The log of a replica that remembers everything.
fn history(
    mut entries: Vec<Entry>,
    void: Index,
    (applied, applied_term): (Index, Term),
) -> Result<Store, RestoreError> {
    entries.retain(|entry| entry.index > void);
    if entries.last().is_some_and(|entry| entry.index < applied) {
        // The store is ahead of the journal, which relaxed durability allows.
        entries.clear();
    }
    // The store was ahead of the journal once, or a snapshot came.
    let gap = |pair: &[Entry]| pair[1].index != pair[0].index + 1;
    let old = entries.windows(2).rposition(|pair| gap(pair) && pair[1].index <= applied + 1);
    entries.drain(..old.map_or(0, |position| position + 1));
    // What a snapshot replaced beyond its own end, and nothing has been written over yet.
    if let Some(entry) = entries.iter().find(|entry| entry.index > applied)
        && void > 0
        && (entry.term < applied_term || (applied == void && entry.index > applied + 1))
    {
        entries.retain(|entry| entry.index <= applied);
    }
    // Entries up to `applied` are kept for voters that are behind. The first serves as the
    // position before the log, unless it is the very first.
    let (base, mut term) = match entries.first() {
        Some(entry) if entry.index == 1 => (0, 0),
        Some(entry) if entry.index <= applied => (entry.index, entry.term),
        _ => (applied, applied_term),
    };
    let mut store = Store::new(base, term);
    for entry in entries.into_iter().skip_while(|entry| entry.index <= base) {
        let expected = store.last() + 1;
        if entry.index != expected || entry.term < term {
            return Err(RestoreError::Gap { expected, found: entry.index });
        }
        term = entry.term;
        store.push(entry.term, entry.payload);
    }
    if store.term(applied) != Ok(applied_term) {
        return Err(RestoreError::AnotherLog(applied));
    }
    Ok(store)
}

/// What can be used of the log of a replica that is lost.
fn remains(entries: Vec<Entry>, void: Index, (applied, mut term): (Index, Term)) -> Store {
    let mut store = Store::new(applied, term);
    let other = entries.iter().any(|entry| entry.index == applied && entry.term != term);
    for entry in entries.into_iter().skip_while(|entry| entry.index <= applied.max(void)) {
        if other || entry.index != store.last() + 1 || entry.term < term {
            break;
        }
        if is_change(&entry.payload) && Conf::of_entry(&entry.payload).is_none() {
            break;
        }
        term = entry.term;
        store.push(entry.term, entry.payload);
    }
    store
}

/// Follows the changes of members in the log that were agreed on: all that come before another
/// one, and all that `id` could agree on by itself.
fn catch_up_members(
    id: NodeId,
    store: &mut Store,
    hard: &mut HardState,
    (conf_index, conf): (&mut Index, &mut Conf),
) {
    while let Some(index) = store.first_change() {
        if index > hard.commit && store.changes().count() == 1 && !conf.is_only(id) {
            break;
        }
        hard.commit = hard.commit.max(index);
        if index > *conf_index {
            let payload = &store.get(index).expect("the store counts its own entries").payload;
            (*conf_index, *conf) = (index, Conf::of_entry(payload).expect("checked before"));
        }
        store.pop_change();
    }
    if conf.is_only(id) {
        hard.commit = store.last();
    }
}

pub(super) fn encode_state(state: &State, conf: &Conf) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(STATE_FORMAT);
    out.push(
        u8::from(state.lost) * LOST
            + u8::from(state.forgot_votes) * FORGOT_VOTES
            + u8::from(!state.knows_members) * MISSED_MEMBERS,
    );
    for number in
        [state.term, state.vote, state.commit, state.life, state.void, state.bound.0, state.bound.1]
    {
        put_varint(&mut out, number);
    }
    put_varint(&mut out, state.conf_index);
    conf.encode(&mut out);
    out
}

pub(super) fn decode_state(bytes: &[u8]) -> Option<State> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    let flags = match format {
        STATE_FORMAT => reader.u8().filter(|flags| *flags < 2 * MISSED_MEMBERS)?,
        STATE_FORMAT_1 => 0,
        _ => return None,
    };
    let (term, vote, commit) = (reader.varint()?, reader.varint()?, reader.varint()?);
    let mut state = State { term, vote, commit, ..State::default() };
    (state.lost, state.forgot_votes) = (flags & LOST != 0, flags & FORGOT_VOTES != 0);
    state.knows_members = flags & MISSED_MEMBERS == 0;
    if format == STATE_FORMAT {
        (state.life, state.void) = (reader.varint()?, reader.varint()?);
        state.bound = (reader.varint()?, reader.varint()?);
        state.conf_index = reader.varint()?;
        state.conf = Some(Conf::decode(&mut reader)?);
    }
    reader.is_empty().then_some(state)
}
