//! From what the disk held to an engine that goes on from there.
//!
//! The engine's state in a [`Body::State`](crate::Body::State) record, in varints:
//! `format u8 = 1 │ term │ vote │ commit`. It is written when term or vote changed; the commit
//! index in it is a hint that may be old.

use super::store::Store;
use crate::Entry;
use quorate_base::codec::{Reader, put_varint};
use quorate_base::ids::NodeId;
use quorate_base::{Index, Term};
use raft::eraftpb::{ConfState, HardState};
use raft::{RaftState, Storage};

const STATE_FORMAT: u8 = 1;

/// What a replica knows when it starts.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last [`Body::State`](crate::Body::State) of the journal.
    pub state: Option<Vec<u8>>,
    /// The journal's entries in order. They may begin anywhere up to `applied + 1`.
    pub entries: Vec<Entry>,
    /// The store contains all entries up to this index.
    pub applied: Index,
    /// The term of the entry at `applied`.
    pub applied_term: Term,
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
    /// The replica is not among the voters.
    NotAVoter(NodeId),
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
            Self::NotAVoter(node) => write!(f, "node {node} is not among the voters"),
        }
    }
}

impl std::error::Error for RestoreError {}

/// Checks what the disk held and turns it into the engine's storage and state.
pub(super) fn restore(
    voters: &[NodeId],
    restored: Restored,
) -> Result<(Store, HardState), RestoreError> {
    let Restored { state, mut entries, applied, applied_term } = restored;
    if entries.last().is_some_and(|entry| entry.index < applied) {
        // The store is ahead of the journal, which relaxed durability allows.
        entries.clear();
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
    let mut hard = HardState::default();
    match state {
        Some(state) => {
            (hard.term, hard.vote, hard.commit) =
                decode_state(&state).ok_or(RestoreError::State)?;
            if hard.term < term {
                return Err(RestoreError::State);
            }
        }
        None if voters.len() > 1 && term > 0 => return Err(RestoreError::NoState),
        None => hard.term = term,
    }
    let last = store.last();
    hard.commit = if voters.len() == 1 { last } else { hard.commit.clamp(applied, last) };
    let conf = ConfState::from((voters.to_vec(), Vec::new()));
    store.set_initial(RaftState::new(hard.clone(), conf));
    Ok((store, hard))
}

pub(super) fn encode_state(term: Term, vote: NodeId, commit: Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(31);
    out.push(STATE_FORMAT);
    put_varint(&mut out, term);
    put_varint(&mut out, vote);
    put_varint(&mut out, commit);
    out
}

pub(super) fn decode_state(bytes: &[u8]) -> Option<(Term, NodeId, Index)> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != STATE_FORMAT {
        return None;
    }
    let state = (reader.varint()?, reader.varint()?, reader.varint()?);
    reader.is_empty().then_some(state)
}
