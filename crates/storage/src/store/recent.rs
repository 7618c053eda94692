//! What was written to a tree and is not in a table file yet: sorted runs of pairs in memory.
//!
//! A flush becomes one run, which never changes, so snapshots share it. Many small flushes are
//! merged as they come: see [`RUNS_MAX`]. Keys and values lie packed in chunks of [`CHUNK_BYTES`]
//! and not each in an allocation of its own.

use super::keys;
use byteview::ByteView;
use lsm_tree::{InternalValue, SeqNo, Slice, ValueType};
use quorate_data::table::TableOp;
use std::ops::Bound;
use std::sync::Arc;

/// Runs beyond which neighbours of similar size are merged. Every read looks through all.
const RUNS_MAX: usize = if cfg!(test) { 2 } else { 8 };
/// Small enough to be copied twice while the processor's cache holds it.
const CHUNK_BYTES: usize = 32 << 10;
/// Longer values have an allocation of their own.
const PACKED_MAX: usize = 4 << 10;

/// Pairs in the order of their keys, each key once.
type Run = Arc<Vec<InternalValue>>;

/// The runs, oldest first.
#[derive(Clone, Default)]
pub(super) struct Recent {
    runs: Vec<Run>,
    bytes: u64,
}

impl Recent {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The memory that the pairs take, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds pairs that hide all earlier pairs of the same keys.
    pub(super) fn push(&mut self, batch: Batch) {
        let (pairs, bytes) = batch.finish();
        if pairs.is_empty() {
            return;
        }
        self.bytes += bytes;
        self.runs.push(Arc::new(pairs));
        if self.runs.len() <= RUNS_MAX {
            return;
        }
        // A run takes part when what is merged with it is at least half as long, so each pair is
        // merged only a logarithmic number of times.
        let (mut first, mut len) = (self.runs.len(), 0);
        while first > 0 && (len == 0 || self.runs[first - 1].len() <= 2 * len) {
            first -= 1;
            len += self.runs[first].len();
        }
        if first + 1 < self.runs.len() {
            let merged = Merged::new(&self.runs[first..], b"", Bound::Unbounded);
            let merged = merged.cloned().collect();
            self.runs.truncate(first);
            self.runs.push(Arc::new(merged));
        }
    }

    /// The newest pair or tombstone of a key of the tree.
    pub(super) fn get(&self, key: &[u8]) -> Option<&InternalValue> {
        self.runs.iter().rev().find_map(|run| {
            let at = run.binary_search_by(|pair| (*pair.key.user_key).cmp(key)).ok()?;
            Some(&run[at])
        })
    }

    /// The newest pairs and tombstones of a range of keys, in key order.
    pub(super) fn range(&self, from: &[u8], to: Bound<&[u8]>) -> Merged<'_> {
        Merged::new(&self.runs, from, to)
    }
}

/// What is left of a run, with the head of its first key for quick comparisons.
struct Cursor<'a> {
    head: u64,
    rest: &'a [InternalValue],
}

/// The pairs of several runs in key order; of equal keys the one of the newest run.
pub(super) struct Merged<'a> {
    /// None is at its end. Newest first.
    cursors: Vec<Cursor<'a>>,
}

impl<'a> Merged<'a> {
    fn new(runs: &'a [Run], from: &[u8], to: Bound<&[u8]>) -> Self {
        let cursor = |run: &'a Run| {
            let start = run.partition_point(|pair| *pair.key.user_key < *from);
            let end = run.partition_point(|pair| match to {
                Bound::Included(to) => *pair.key.user_key <= *to,
                Bound::Excluded(to) => *pair.key.user_key < *to,
                Bound::Unbounded => true,
            });
            let rest = run.get(start..end)?;
            Some(Cursor { head: head(key_of(rest.first()?)), rest })
        };
        Self { cursors: runs.iter().rev().filter_map(cursor).collect() }
    }

    /// The position of the cursor that is to be read next.
    fn least(&self) -> Option<usize> {
        let (first, others) = self.cursors.split_first()?;
        let (mut at, mut least) = (0, first);
        for (i, cursor) in (1..).zip(others) {
            let less = cursor.head < least.head
                || cursor.head == least.head && key_of(&cursor.rest[0]) < key_of(&least.rest[0]);
            if less {
                (at, least) = (i, cursor);
            }
        }
        Some(at)
    }

    /// Moves a cursor on; true if it remains.
    fn advance(&mut self, at: usize) -> bool {
        let cursor = &mut self.cursors[at];
        cursor.rest = &cursor.rest[1..];
        let remains = !cursor.rest.is_empty();
        if remains {
            cursor.head = head(key_of(&cursor.rest[0]));
        } else {
            self.cursors.remove(at);
        }
        remains
    }

    /// The next pair, which stays.
    pub(super) fn peek(&self) -> Option<&'a InternalValue> {
        self.least().map(|at| &self.cursors[at].rest[0])
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = &'a InternalValue;

    fn next(&mut self) -> Option<&'a InternalValue> {
        let at = self.least()?;
        let (head, pair) = (self.cursors[at].head, &self.cursors[at].rest[0]);
        // Only older runs, which come later, can hold the same key.
        let mut older = if self.advance(at) { at + 1 } else { at };
        while older < self.cursors.len() {
            let cursor = &self.cursors[older];
            let same = cursor.head == head && key_of(&cursor.rest[0]) == key_of(pair);
            if !same || self.advance(older) {
                older += 1;
            }
        }
        Some(pair)
    }
}

/// The pairs of one flush, with its sequence number, on their way into a run.
pub(super) struct Batch {
    seqno: SeqNo,
    chunk: Vec<u8>,
    /// What the chunk holds, in order.
    packed: Vec<Packed>,
    pairs: Vec<InternalValue>,
    bytes: u64,
}

/// Where a key ends in the chunk; its value follows.
struct Packed {
    key_end: usize,
    value: Value,
}

enum Value {
    Tombstone,
    EndsAt(usize),
    Long(Slice),
}

impl Batch {
    pub(super) fn new(seqno: SeqNo) -> Self {
        let chunk = Vec::with_capacity(CHUNK_BYTES + PACKED_MAX);
        Self { seqno, chunk, packed: Vec::new(), pairs: Vec::new(), bytes: 0 }
    }

    /// Adds puts and deletes of keys of the table. Prefixes are not for it.
    pub(super) fn add_ops(&mut self, mut ops: Vec<TableOp>) {
        // In key order, so that sorting in the end finds little to do: sorting heads and positions
        // is much cheaper than sorting pairs.
        let count = u32::try_from(ops.len()).expect("a flush has less than 4 G operations");
        let mut order: Vec<(u64, u32)> =
            ops.iter().zip(0..count).map(|(op, i)| (head(op_key(op)), i)).collect();
        order.sort_unstable_by(|a, b| {
            let key = |i: u32| op_key(&ops[i as usize]);
            a.0.cmp(&b.0).then_with(|| key(a.1).cmp(key(b.1)))
        });
        self.pairs.reserve(ops.len() + 1);
        for (_, i) in order {
            match std::mem::replace(&mut ops[i as usize], TableOp::Delete(Vec::new())) {
                TableOp::Put(key, value) => {
                    self.put(&keys::stored(&key), keys::stored_value(&key, value));
                }
                TableOp::Delete(key) => self.delete(&keys::stored(&key)),
                TableOp::DeletePrefix(_) => unreachable!("prefixes were taken out before"),
            }
        }
    }

    /// Adds a pair of the tree.
    pub(super) fn put(&mut self, stored: &[u8], value: Vec<u8>) {
        if value.len() > PACKED_MAX {
            self.bytes += value.len() as u64;
            self.pack(stored, Value::Long(value.into()));
        } else {
            self.chunk.extend_from_slice(stored);
            let key_end = self.chunk.len();
            self.chunk.extend_from_slice(&value);
            let value = Value::EndsAt(self.chunk.len());
            self.packed.push(Packed { key_end, value });
            self.end_chunk(CHUNK_BYTES);
        }
    }

    /// Adds a tombstone of the tree.
    pub(super) fn delete(&mut self, stored: &[u8]) {
        self.pack(stored, Value::Tombstone);
    }

    fn pack(&mut self, stored: &[u8], value: Value) {
        self.chunk.extend_from_slice(stored);
        self.packed.push(Packed { key_end: self.chunk.len(), value });
        self.end_chunk(CHUNK_BYTES);
    }

    /// Turns what is packed into pairs if it has so many bytes.
    fn end_chunk(&mut self, bytes_min: usize) {
        if self.chunk.len() < bytes_min {
            return;
        }
        self.bytes += self.chunk.len() as u64;
        let chunk = ByteView::new(&self.chunk);
        self.chunk.clear();
        let mut start = 0;
        for Packed { key_end, value } in self.packed.drain(..) {
            let key = Slice::from(chunk.slice(start..key_end));
            let (end, kind, value) = match value {
                Value::Tombstone => (key_end, ValueType::Tombstone, Slice::new(&[])),
                Value::EndsAt(end) => {
                    (end, ValueType::Value, Slice::from(chunk.slice(key_end..end)))
                }
                Value::Long(value) => (key_end, ValueType::Value, value),
            };
            self.pairs.push(InternalValue::from_components(key, value, self.seqno, kind));
            start = end;
        }
    }

    /// The pairs in key order, and the memory they take.
    fn finish(mut self) -> (Vec<InternalValue>, u64) {
        self.end_chunk(0);
        if !self.pairs.is_sorted_by(|a, b| key_of(a) < key_of(b)) {
            self.pairs.sort_by(|a, b| key_of(a).cmp(key_of(b)));
            // Removing a key and a prefix of it leaves two tombstones.
            self.pairs.dedup_by(|a, b| key_of(a) == key_of(b));
        }
        let bytes = self.bytes + size_of_val(&self.pairs[..]) as u64;
        (self.pairs, bytes)
    }
}

fn key_of(pair: &InternalValue) -> &[u8] {
    &pair.key.user_key
}

fn op_key(op: &TableOp) -> &[u8] {
    match op {
        TableOp::Put(key, _) | TableOp::Delete(key) | TableOp::DeletePrefix(key) => key,
    }
}

/// The first eight bytes: keys whose heads differ compare as their heads do.
fn head(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}
