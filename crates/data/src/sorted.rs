//! The elements of one collection in memory: a sorted map of short byte strings that also
//! knows the rank of each element.
//!
//! A deque of chunks, each a deque of at most [`CHUNK_ITEMS_MAX`] items in order; no chunk is
//! empty. Finding is two binary searches; insertion moves at most half a chunk; iteration walks
//! contiguous memory; both ends grow in constant time. Ranks are found from
//! the lengths of the chunks, see [`crate::counts`]. Every item remembers whether it changed
//! since the last flush.

use crate::counts::Counts;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Bound;

/// An element's name, ordered bytewise; up to 32 bytes are stored in place: what orders a member of
/// 23 bytes in a sorted set.
pub type Sub = SmallVec<[u8; 32]>;

/// An element's value; up to 16 bytes are stored in place.
pub type Val = SmallVec<[u8; 16]>;

/// The most items one chunk holds.
const CHUNK_ITEMS_MAX: usize = 128;

#[derive(Clone, Debug)]
struct Item {
    sub: Sub,
    val: Val,
    dirty: bool,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// Greater than all items of the chunk before, and not greater than those of this one (but in
    /// the first chunk, where nothing depends on it): finding need not look into the chunks.
    head: Sub,
    items: VecDeque<Item>,
    dirty: bool,
}

/// A sorted map with ranks.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    chunks: VecDeque<Chunk>,
    /// Of the lengths of the chunks.
    counts: Counts,
    len: usize,
    heap: usize,
}

/// Where an element is, or where it would be inserted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    chunk: usize,
    item: usize,
}

impl Sorted {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how many bytes of memory the elements take.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<Item>() * 5 / 4 + self.heap
    }

    /// The value of `sub`.
    pub fn get(&self, sub: &[u8]) -> Option<&[u8]> {
        let at = self.find(sub).ok()?;
        Some(&self.chunks[at.chunk].items[at.item].val)
    }

    /// Sets the value of `sub`; returns the previous one. `dirty` marks it for the next flush.
    pub fn put(&mut self, sub: &[u8], val: &[u8], dirty: bool) -> Option<Val> {
        match self.find(sub) {
            Ok(at) => {
                let chunk = &mut self.chunks[at.chunk];
                let item = &mut chunk.items[at.item];
                self.heap -= heap(&item.val);
                let old = std::mem::replace(&mut item.val, Val::from_slice(val));
                self.heap += heap(&item.val);
                item.dirty |= dirty;
                chunk.dirty |= dirty;
                Some(old)
            }
            Err(at) => {
                let item = Item { sub: Sub::from_slice(sub), val: Val::from_slice(val), dirty };
                self.heap += heap(&item.sub) + heap(&item.val);
                self.insert(at, item);
                None
            }
        }
    }

    /// Adds `sub` with `val` unless it is there; true if it was not.
    pub fn insert_new(&mut self, sub: &[u8], val: &[u8], dirty: bool) -> bool {
        let Err(at) = self.find(sub) else { return false };
        let item = Item { sub: Sub::from_slice(sub), val: Val::from_slice(val), dirty };
        self.heap += heap(&item.sub) + heap(&item.val);
        self.insert(at, item);
        true
    }

    /// Removes `sub`; returns its value.
    pub fn remove(&mut self, sub: &[u8]) -> Option<Val> {
        let at = self.find(sub).ok()?;
        let items = &mut self.chunks[at.chunk].items;
        let item = items.remove(at.item).expect("find returned a place inside the chunk");
        if items.is_empty() {
            self.chunks.remove(at.chunk);
            let chunks = &self.chunks;
            self.counts.removed(at.chunk, chunks.len(), |at| chunks[at].items.len());
        } else {
            self.counts.decrement(at.chunk);
        }
        self.heap -= heap(&item.sub) + heap(&item.val);
        self.len -= 1;
        Some(item.val)
    }

    /// The element with exactly `rank` smaller ones.
    pub fn nth(&self, rank: usize) -> Option<(&[u8], &[u8])> {
        self.iter_from_rank(rank).next()
    }

    /// The number of elements smaller than `sub`, which need not exist.
    pub fn rank(&self, sub: &[u8]) -> usize {
        let at = match self.find(sub) {
            Ok(at) | Err(at) => at,
        };
        self.counts.before(at.chunk, |at| self.chunks[at].items.len()) + at.item
    }

    /// All elements in order; reversible.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from_rank(0)
    }

    /// The elements from the one with `rank` smaller ones to the last.
    pub fn iter_from_rank(&self, rank: usize) -> Iter<'_> {
        let front = self.locate(rank);
        Iter { map: self, front, back: self.end(), left: self.len.saturating_sub(rank) }
    }

    /// The elements with ranks from `from` up to, not including, `to`; reversible.
    pub fn iter_ranks(&self, from: usize, to: usize) -> Iter<'_> {
        let to = to.min(self.len);
        let from = from.min(to);
        Iter { map: self, front: self.locate(from), back: self.locate(to), left: to - from }
    }

    /// The elements between two bounds; reversible. Takes ranks of both ends.
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Iter<'_> {
        self.iter_ranks(self.lower_rank(from), self.upper_rank(to))
    }

    /// The same as [`Sorted::range`] in logarithmic time, but the iterator does not know its length.
    pub fn span(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Span<'_> {
        let front = match from {
            Bound::Unbounded => At { chunk: 0, item: 0 },
            Bound::Included(sub) => self.at_or_after(sub, 0),
            Bound::Excluded(sub) => self.at_or_after(sub, 1),
        };
        let back = match to {
            Bound::Unbounded => self.end(),
            Bound::Included(sub) => self.at_or_after(sub, 1),
            Bound::Excluded(sub) => self.at_or_after(sub, 0),
        };
        Span { map: self, front, back: back.max(front) }
    }

    /// The place of the first element not smaller than `sub`, `skip` places on if it is `sub`.
    fn at_or_after(&self, sub: &[u8], skip: usize) -> At {
        let at = match self.find(sub) {
            Ok(at) => At { item: at.item + skip, ..at },
            Err(at) => at,
        };
        match self.chunks.get(at.chunk) {
            Some(chunk) if at.item == chunk.items.len() => At { chunk: at.chunk + 1, item: 0 },
            _ => at,
        }
    }

    /// The rank of the first element within a lower bound.
    pub fn lower_rank(&self, from: Bound<&[u8]>) -> usize {
        match from {
            Bound::Unbounded => 0,
            Bound::Included(sub) => self.rank(sub),
            Bound::Excluded(sub) => self.rank(sub) + usize::from(self.find(sub).is_ok()),
        }
    }

    /// One past the rank of the last element within an upper bound.
    pub fn upper_rank(&self, to: Bound<&[u8]>) -> usize {
        match to {
            Bound::Unbounded => self.len,
            Bound::Included(sub) => self.rank(sub) + usize::from(self.find(sub).is_ok()),
            Bound::Excluded(sub) => self.rank(sub),
        }
    }

    /// The elements that start with `prefix`, in order; reversible.
    pub fn prefixed(&self, prefix: &[u8]) -> Iter<'_> {
        let end = prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.range(Bound::Included(prefix), to)
    }

    /// Hands every element that changed since the last call to `visit`.
    pub fn take_dirty(&mut self, mut visit: impl FnMut(&[u8], &[u8])) {
        for chunk in self.chunks.iter_mut().filter(|c| c.dirty) {
            chunk.dirty = false;
            for item in chunk.items.iter_mut().filter(|i| i.dirty) {
                item.dirty = false;
                visit(&item.sub, &item.val);
            }
        }
    }

    /// Marks every element as changed, as if all had just been put.
    pub fn mark_all_dirty(&mut self) {
        for chunk in &mut self.chunks {
            chunk.dirty = true;
            chunk.items.iter_mut().for_each(|i| i.dirty = true);
        }
    }

    fn insert(&mut self, at: At, item: Item) {
        self.len += 1;
        if at.chunk == self.chunks.len() {
            self.insert_chunk(at.chunk, VecDeque::from([item]));
            return;
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[at.chunk];
        if chunk.items.len() < CHUNK_ITEMS_MAX {
            chunk.dirty |= item.dirty;
            chunk.items.insert(at.item, item);
            self.counts.increment(at.chunk);
        } else if at.chunk == last && at.item == CHUNK_ITEMS_MAX {
            self.insert_chunk(at.chunk + 1, VecDeque::from([item]));
        } else if at.chunk == 0 && at.item == 0 {
            self.insert_chunk(0, VecDeque::from([item]));
        } else {
            let half = CHUNK_ITEMS_MAX / 2;
            let mut right = chunk.items.split_off(half);
            if at.item <= half {
                chunk.dirty |= item.dirty;
                chunk.items.insert(at.item, item);
            } else {
                right.insert(at.item - half, item);
            }
            self.insert_chunk(at.chunk + 1, right);
        }
    }

    fn insert_chunk(&mut self, at: usize, items: VecDeque<Item>) {
        let dirty = items.iter().any(|item| item.dirty);
        if at == 0
            && let Some(first) = self.chunks.front_mut()
        {
            first.head.clone_from(&first.items[0].sub);
        }
        self.chunks.insert(at, Chunk { head: items[0].sub.clone(), items, dirty });
        let chunks = &self.chunks;
        self.counts.inserted(at, chunks.len(), |at| chunks[at].items.len());
    }

    /// `Ok` with the place of `sub`, or `Err` with the place where it belongs.
    fn find(&self, sub: &[u8]) -> Result<At, At> {
        let (Some(first), Some(last)) = (self.chunks.front(), self.chunks.back()) else {
            return Err(At { chunk: 0, item: 0 });
        };
        // Lists and streams grow at their ends.
        if last.items[last.items.len() - 1].sub.as_slice() < sub {
            return Err(At { chunk: self.chunks.len() - 1, item: last.items.len() });
        }
        if first.items[0].sub.as_slice() > sub {
            return Err(At { chunk: 0, item: 0 });
        }
        let after = self.chunks.partition_point(|c| c.head.as_slice() <= sub);
        let chunk = after.saturating_sub(1);
        let items = &self.chunks[chunk].items;
        match items.binary_search_by(|i| i.sub.as_slice().cmp(sub)) {
            Ok(item) => Ok(At { chunk, item }),
            Err(item) => Err(At { chunk, item }),
        }
    }

    /// The place of the element with `rank` smaller ones, or the end.
    fn locate(&self, rank: usize) -> At {
        if rank >= self.len {
            return self.end();
        }
        let (chunk, item) = self.counts.find(rank, |at| self.chunks[at].items.len());
        At { chunk, item }
    }

    fn end(&self) -> At {
        At { chunk: self.chunks.len(), item: 0 }
    }
}

/// The smallest byte string greater than all that start with `prefix`; `None` if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&b| b != 0xff)? + 1;
    let mut end = prefix[..keep].to_vec();
    end[keep - 1] += 1;
    Some(end)
}

fn heap<const N: usize>(bytes: &SmallVec<[u8; N]>) -> usize {
    if bytes.spilled() { bytes.capacity() } else { 0 }
}

/// Elements in order, from either end.
#[derive(Clone)]
pub struct Iter<'a> {
    map: &'a Sorted,
    front: At,
    back: At,
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let chunk = &self.map.chunks[self.front.chunk];
        let item = &chunk.items[self.front.item];
        self.front.item += 1;
        if self.front.item == chunk.items.len() {
            self.front = At { chunk: self.front.chunk + 1, item: 0 };
        }
        Some((&item.sub, &item.val))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.back.item == 0 {
            self.back.chunk -= 1;
            self.back.item = self.map.chunks[self.back.chunk].items.len();
        }
        self.back.item -= 1;
        let item = &self.map.chunks[self.back.chunk].items[self.back.item];
        Some((&item.sub, &item.val))
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Elements in order, from either end, without a count of them.
#[derive(Clone)]
pub struct Span<'a> {
    map: &'a Sorted,
    front: At,
    back: At,
}

impl<'a> Iterator for Span<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        let chunk = &self.map.chunks[self.front.chunk];
        let item = &chunk.items[self.front.item];
        self.front.item += 1;
        if self.front.item == chunk.items.len() {
            self.front = At { chunk: self.front.chunk + 1, item: 0 };
        }
        Some((&item.sub, &item.val))
    }
}

impl DoubleEndedIterator for Span<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front == self.back {
            return None;
        }
        if self.back.item == 0 {
            self.back.chunk -= 1;
            self.back.item = self.map.chunks[self.back.chunk].items.len();
        }
        self.back.item -= 1;
        let item = &self.map.chunks[self.back.chunk].items[self.back.item];
        Some((&item.sub, &item.val))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorate_base::Prng;
    use std::collections::BTreeMap;

    fn pairs(map: &Sorted) -> Vec<(Vec<u8>, Vec<u8>)> {
        map.iter().map(|(s, v)| (s.to_vec(), v.to_vec())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_an_ordered_map_with_ranks(
            steps in prop::collection::vec((0u8..4, 0u32..400), 0..1200),
        ) {
            let mut map = Sorted::default();
            let mut model = BTreeMap::new();
            for (what, n) in steps {
                let key = n.to_be_bytes();
                if what == 0 {
                    let old = map.remove(&key).map(|v| v.to_vec());
                    prop_assert_eq!(old, model.remove(key.as_slice()));
                } else if what == 3 {
                    let absent = !model.contains_key(key.as_slice());
                    prop_assert_eq!(map.insert_new(&key, b"new", false), absent);
                    model.entry(key.to_vec()).or_insert_with(|| b"new".to_vec());
                } else {
                    let val = vec![what; n as usize % 40];
                    let old = map.put(&key, &val, false).map(|v| v.to_vec());
                    prop_assert_eq!(old, model.insert(key.to_vec(), val));
                }
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(pairs(&map), model.clone().into_iter().collect::<Vec<_>>());
            let backwards: Vec<_> = map.iter().rev().map(|(s, _)| s.to_vec()).collect();
            prop_assert_eq!(backwards, model.keys().rev().cloned().collect::<Vec<_>>());
            for (rank, (key, val)) in model.iter().enumerate() {
                prop_assert_eq!(map.rank(key), rank);
                prop_assert_eq!(map.nth(rank), Some((key.as_slice(), val.as_slice())));
            }
            for bound in [0u32, 7, 200, 399, 1000] {
                let key = bound.to_be_bytes();
                let got: Vec<_> = map.range(Bound::Excluded(&key), Bound::Unbounded)
                    .map(|(s, _)| s.to_vec()).collect();
                let want: Vec<_> = model
                    .range::<[u8], _>((Bound::Excluded(key.as_slice()), Bound::Unbounded))
                    .map(|(k, _)| k.clone()).collect();
                prop_assert_eq!(got, want);
                for end in [7u32, 399, 500] {
                    for (from, to) in [
                        (Bound::Included(key.as_slice()), Bound::Included(&end.to_be_bytes()[..])),
                        (Bound::Excluded(key.as_slice()), Bound::Excluded(&end.to_be_bytes()[..])),
                        (Bound::Unbounded, Bound::Excluded(&end.to_be_bytes()[..])),
                    ] {
                        prop_assert!(map.span(from, to).eq(map.range(from, to)));
                        prop_assert!(map.span(from, to).rev().eq(map.range(from, to).rev()));
                    }
                }
            }
        }
    }

    #[test]
    fn both_ends_grow_into_full_chunks() {
        let mut map = Sorted::default();
        for n in 0..10_000u32 {
            map.put(&(20_000 + n).to_be_bytes(), b"v", true);
            map.put(&(20_000 - 1 - n).to_be_bytes(), b"v", true);
        }
        assert!(map.chunks.len() <= 20_000 / CHUNK_ITEMS_MAX + 2, "{} chunks", map.chunks.len());
        let mut dirty = 0;
        map.take_dirty(|_, _| dirty += 1);
        assert_eq!(dirty, 20_000);
        map.take_dirty(|_, _| panic!("nothing changed since"));
    }

    #[test]
    fn ranks_are_right_in_large_maps() {
        let (mut map, mut model, mut prng) = (Sorted::default(), Vec::<u32>::new(), Prng::new(9));
        // Grows to many chunks and shrinks to few again.
        for step in 0..40_000u32 {
            let n = match step {
                0..10_000 => step * 2,
                _ => prng.below(20_000) as u32,
            };
            let found = model.binary_search(&n);
            if step < 20_000 {
                map.put(&n.to_be_bytes(), b"", false);
                if let Err(at) = found {
                    model.insert(at, n);
                }
            } else if let Some(&n) = model.get(found.unwrap_or_else(|at| at)) {
                map.remove(&n.to_be_bytes());
                model.retain(|&m| m != n);
            }
            if !step.is_multiple_of(7) {
                continue;
            }
            let rank = prng.below(model.len() as u64 + 1) as usize;
            let Some(n) = model.get(rank) else { continue };
            assert_eq!(map.rank(&n.to_be_bytes()), rank, "step {step}");
            assert_eq!(map.nth(rank).map(|(sub, _)| sub), Some(n.to_be_bytes().as_slice()));
        }
        assert!(map.len() == model.len() && model.len() < 1000, "{} are left", model.len());
    }

    #[test]
    fn prefix_end_skips_trailing_ff() {
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
    }
}
