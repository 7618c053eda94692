//! The entries of one shard in memory, as the engine's storage.
//!
//! The engine itself only ever sees terms and positions: its entries carry no payload, so
//! that its habit of copying entries costs nothing. Payloads live here, are shared with the
//! journal's records, and join a message when it is encoded.
//!
//! Invariant: after every call into the engine, this mirrors the engine's log position by
//! position, including what the engine still calls unstable. Only during a call may positions
//! at or above its unstable offset be stale, and those it never looks up here.

use super::members::is_change;
use quorate_base::{Index, Term};
use raft::eraftpb::{Entry as Slip, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes one entry weighs beside its payload: bounds memory for floods of empty entries.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// One position.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) term: Term,
    pub(super) payload: Arc<Vec<u8>>,
}

/// All positions from `first` on; the one before it is known by its term alone.
#[derive(Debug)]
pub(super) struct Store {
    first: Index,
    before_first: Term,
    slots: VecDeque<Slot>,
    bytes: usize,
    /// Where entries change members, as far as [`Store::pop_change`] has left them.
    changes: VecDeque<Index>,
    empty: Arc<Vec<u8>>,
    /// What the engine starts from.
    initial: RaftState,
    /// Peers for which the engine asked for a snapshot.
    wanted: RefCell<Vec<u64>>,
}

impl Store {
    /// A store whose entries up to `applied` are gone.
    pub(super) fn new(applied: Index, applied_term: Term) -> Self {
        Self {
            first: applied + 1,
            before_first: applied_term,
            slots: VecDeque::new(),
            bytes: 0,
            changes: VecDeque::new(),
            empty: Arc::default(),
            initial: RaftState::default(),
            wanted: RefCell::default(),
        }
    }

    pub(super) fn set_initial(&mut self, initial: RaftState) {
        self.initial = initial;
    }

    pub(super) fn first(&self) -> Index {
        self.first
    }

    pub(super) fn last(&self) -> Index {
        self.first + self.slots.len() as u64 - 1
    }

    /// Payload bytes held, with an allowance per entry.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, index: Index) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    #[inline]
    pub(super) fn push(&mut self, term: Term, payload: Arc<Vec<u8>>) {
        self.bytes += payload.len() + ENTRY_OVERHEAD_BYTES;
        if is_change(&payload) {
            self.changes.push_back(self.last() + 1);
        }
        self.slots.push_back(Slot { term, payload });
    }

    /// The first entry that changes members and was not popped.
    pub(super) fn first_change(&self) -> Option<Index> {
        self.changes.front().copied()
    }

    /// All entries that change members and were not popped.
    pub(super) fn changes(&self) -> impl Iterator<Item = Index> {
        self.changes.iter().copied()
    }

    pub(super) fn pop_change(&mut self) {
        self.changes.pop_front();
    }

    /// Forgets everything: entries up to `applied` are gone and none follow.
    pub(super) fn restart(&mut self, applied: Index, applied_term: Term) {
        (self.first, self.before_first, self.bytes) = (applied + 1, applied_term, 0);
        self.slots.clear();
        self.changes.clear();
    }

    pub(super) fn push_empty(&mut self, term: Term) {
        self.push(term, Arc::clone(&self.empty));
    }

    /// Drops `index` and all after it.
    pub(super) fn truncate_from(&mut self, index: Index) {
        assert!(index >= self.first, "entry {index} is compacted (first {})", self.first);
        while self.last() >= index {
            let slot = self.slots.pop_back().expect("last() counts the slots");
            self.bytes -= slot.payload.len() + ENTRY_OVERHEAD_BYTES;
        }
        while self.changes.pop_back_if(|change| *change >= index).is_some() {}
    }

    /// Drops the first entry.
    #[inline]
    pub(super) fn pop_first(&mut self) {
        let slot = self.slots.pop_front().expect("the caller asked for no more than there is");
        self.bytes -= slot.payload.len() + ENTRY_OVERHEAD_BYTES;
        self.first += 1;
        self.before_first = slot.term;
    }

    /// Moves the peers that need a snapshot into `out`.
    pub(super) fn take_wanted(&mut self, out: &mut Vec<u64>) {
        out.append(self.wanted.get_mut());
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    /// `max_size` limits the payload bytes, not the engine's payload-free entries.
    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Slip>> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} of {} asked for", self.last());
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut slips = Vec::with_capacity((high - low) as usize);
        for index in low..high {
            let slot = self.get(index).expect("first ≤ index ≤ last, checked above");
            bytes += slot.payload.len() as u64;
            if bytes > limit && !slips.is_empty() {
                break;
            }
            slips.push(slip(index, slot.term));
        }
        Ok(slips)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first {
            return Ok(self.before_first);
        }
        if index < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.get(index).map(|slot| slot.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let mut wanted = self.wanted.borrow_mut();
        if !wanted.contains(&to) {
            wanted.push(to);
        }
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

/// The engine's view of an entry: a position without its payload.
pub(super) fn slip(index: Index, term: Term) -> Slip {
    Slip { index, term, ..Slip::default() }
}
