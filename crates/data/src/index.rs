//! The keys of one shard in memory: a hash table whose buckets are also in hash order.
//!
//! A key's *place hash* is its slot (14 bits) and then 49 bits of a keyed hash, below 2^63. The
//! shard's range of place hashes is cut into segments, each a hash table of at most
//! [`SEGMENT_KEYS_MAX`] keys; a full segment is split at its median. So a lookup costs one
//! search among segment starts and one probe, growth never rehashes more than one segment, and
//! iteration by place hash (SCAN cursors, range copies, flushes) resumes anywhere without state.

use crate::entry::Entry;
use hashbrown::HashTable;
use quorate_base::Prng;

/// A segment splits when it reaches this many keys: seven eighths of 2,048 buckets.
const SEGMENT_KEYS_MAX: usize = 1792;

/// Keys in segments, ordered by place hash between segments.
#[derive(Debug)]
pub struct Index {
    /// The smallest place hash of each segment, ascending; the first is 0.
    starts: Vec<u64>,
    segments: Vec<HashTable<Entry>>,
    len: usize,
    /// Seed of the place hash, to rehash entries when a segment grows or splits.
    seed: u64,
}

impl Index {
    /// An empty index for place hashes made with `seed`.
    pub fn new(seed: u64) -> Self {
        Self { starts: vec![0], segments: vec![HashTable::new()], len: 0, seed }
    }

    /// The number of entries, tombstones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of `key`, whose place hash is `place`.
    #[inline]
    pub fn get(&self, place: u64, key: &[u8]) -> Option<&Entry> {
        self.segments[self.segment_of(place)].find(bucket_hash(place), |e| e.key() == key)
    }

    /// The same, to change in place.
    #[inline]
    pub fn get_mut(&mut self, place: u64, key: &[u8]) -> Option<&mut Entry> {
        let segment = self.segment_of(place);
        self.segments[segment].find_mut(bucket_hash(place), |e| e.key() == key)
    }

    /// The first entry at `place`, whichever key it has; for [`crate::Db::warm`].
    #[inline]
    pub(crate) fn first_at(&self, place: u64) -> Option<&Entry> {
        self.segments[self.segment_of(place)].iter_hash(bucket_hash(place)).next()
    }

    /// The seed of the place hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The slot that a collection being changed was taken from.
    pub(crate) fn placeholder_mut(&mut self, place: u64) -> &mut Entry {
        let segment = self.segment_of(place);
        self.segments[segment]
            .find_mut(bucket_hash(place), Entry::is_placeholder)
            .expect("a collection being changed leaves a placeholder")
    }

    /// Inserts an entry whose key is not present.
    pub fn insert(&mut self, place: u64, entry: Entry) {
        let mut at = self.segment_of(place);
        if self.segments[at].len() >= SEGMENT_KEYS_MAX {
            self.split(at);
            at = self.segment_of(place);
        }
        let seed = self.seed;
        let _ = self.segments[at].insert_unique(bucket_hash(place), entry, |e| {
            bucket_hash(crate::place::place_hash(seed, e.key()))
        });
        self.len += 1;
    }

    /// Removes and returns the entry of `key`.
    pub fn remove(&mut self, place: u64, key: &[u8]) -> Option<Entry> {
        let at = self.segment_of(place);
        let seed = self.seed;
        let segment = &mut self.segments[at];
        let found = segment.find_entry(bucket_hash(place), |e| e.key() == key).ok()?;
        let (entry, _) = found.remove();
        self.len -= 1;
        if segment.is_empty() {
            if self.segments.len() > 1 {
                self.segments.remove(at);
                self.starts.remove(at);
                self.starts[0] = 0;
            }
        } else if segment.len() * 8 < segment.capacity() {
            segment.shrink_to(segment.len() * 2, |e| {
                bucket_hash(crate::place::place_hash(seed, e.key()))
            });
        }
        Some(entry)
    }

    /// Every entry whose place hash is exactly `place` (more than one only by collision).
    pub fn at_place_mut(&mut self, place: u64) -> impl Iterator<Item = &mut Entry> {
        let segment = self.segment_of(place);
        let seed = self.seed;
        self.segments[segment]
            .iter_hash_mut(bucket_hash(place))
            .filter(move |e| crate::place::place_hash(seed, e.key()) == place)
    }

    /// Appends to `out` the first entries with place hashes from `from` on, in place order: a few
    /// more than `limit` if the segment that holds `from` has as many, in whole blocks of
    /// 2^`block_bits` places. Returns where to go on, unless nothing is left.
    pub(crate) fn some_from<'a>(
        &'a self,
        from: u64,
        limit: usize,
        block_bits: u32,
        out: &mut Vec<(u64, &'a Entry)>,
    ) -> Option<u64> {
        let at = self.segment_of(from);
        let next_segment = self.starts.get(at + 1).copied();
        let mut found: Vec<(u64, &Entry)> = self.segments[at]
            .iter()
            .map(|e| (crate::place::place_hash(self.seed, e.key()), e))
            .filter(|(place, _)| *place >= from)
            .collect();
        let mut next = next_segment;
        if found.len() > limit {
            let (_, &mut (last, _), _) = found.select_nth_unstable_by_key(limit, |(p, _)| *p);
            let end = ((last >> block_bits) + 1) << block_bits;
            if next_segment.is_none_or(|start| end < start) {
                found.retain(|(place, _)| *place < end);
                next = Some(end);
            }
        }
        found.sort_unstable_by(|a, b| (a.0, a.1.key()).cmp(&(b.0, b.1.key())));
        out.append(&mut found);
        next
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.segments.iter().flat_map(HashTable::iter)
    }

    /// Keeps only the entries for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        for segment in &mut self.segments {
            segment.retain(&mut keep);
        }
        self.len = self.segments.iter().map(HashTable::len).sum();
        if self.len == 0 {
            *self = Self::new(self.seed);
        }
    }

    /// An entry picked at random, each about as likely; may be a tombstone.
    pub fn random(&self, prng: &mut Prng) -> Option<&Entry> {
        if self.len == 0 {
            return None;
        }
        let mut nth = prng.below(self.len as u64) as usize;
        for segment in &self.segments {
            if nth < segment.len() {
                return segment.iter().nth(nth);
            }
            nth -= segment.len();
        }
        unreachable!("the segments hold {} entries together", self.len)
    }

    /// The bytes of the tables themselves, without what entries point to.
    pub fn table_bytes(&self) -> usize {
        self.segments.iter().map(HashTable::allocation_size).sum()
    }

    #[inline]
    fn segment_of(&self, place: u64) -> usize {
        self.starts.partition_point(|&start| start <= place) - 1
    }

    fn split(&mut self, at: usize) {
        let seed = self.seed;
        let place = |e: &Entry| crate::place::place_hash(seed, e.key());
        let mut places: Vec<u64> = self.segments[at].iter().map(place).collect();
        let half = places.len() / 2;
        let (_, &mut median, _) = places.select_nth_unstable(half);
        if median == self.starts[at] || places.iter().all(|&p| p >= median) {
            return; // All collide: the segment stays one and grows.
        }
        let keep = places.iter().filter(|&&p| p < median).count();
        let old = std::mem::take(&mut self.segments[at]);
        let mut left = HashTable::with_capacity(keep);
        let mut right = HashTable::with_capacity(old.len() - keep);
        for entry in old {
            let p = place(&entry);
            let side = if p < median { &mut left } else { &mut right };
            let _ = side.insert_unique(bucket_hash(p), entry, |e| bucket_hash(place(e)));
        }
        self.segments[at] = left;
        self.segments.insert(at + 1, right);
        self.starts.insert(at + 1, median);
    }
}

/// Place hashes of one segment share their high bits; the table takes its tag from the top bits
/// and its bucket from the bottom ones, so the varying bits move there.
#[inline]
fn bucket_hash(place: u64) -> u64 {
    place.rotate_right(20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::place_hash;

    fn entry(key: &[u8]) -> Entry {
        Entry::string(key, b"value", 1, None, false, 0)
    }

    fn filled(keys: u32) -> Index {
        let mut index = Index::new(7);
        for n in 0..keys {
            let key = format!("key:{n}");
            index.insert(place_hash(7, key.as_bytes()), entry(key.as_bytes()));
        }
        index
    }

    #[test]
    fn finds_and_removes_among_many_segments() {
        let mut index = filled(20_000);
        assert!(index.segments.len() > 10);
        for n in 0..20_000 {
            let key = format!("key:{n}");
            let place = place_hash(7, key.as_bytes());
            assert_eq!(index.get(place, key.as_bytes()).map(Entry::key), Some(key.as_bytes()));
            assert_eq!(index.at_place_mut(place).count(), 1);
            if n % 3 != 0 {
                assert!(index.remove(place, key.as_bytes()).is_some());
                assert!(index.get(place, key.as_bytes()).is_none());
            }
        }
        assert_eq!(index.len(), index.iter().count());
    }

    #[test]
    fn walking_by_place_meets_every_entry_once_in_order() {
        let index = filled(10_000);
        for (limit, block_bits) in [(1, 0), (10, 8), (100, 44), (usize::MAX / 2, 8)] {
            let (mut all, mut from) = (Vec::new(), Some(0));
            while let Some(start) = from {
                let seen = all.len();
                from = index.some_from(start, limit, block_bits, &mut all);
                assert!(all.len() - seen <= limit + 60, "{} at once", all.len() - seen);
            }
            assert_eq!(all.len(), 10_000);
            assert!(all.windows(2).all(|w| w[0].0 < w[1].0));
        }
    }

    #[test]
    fn one_hash_tag_still_splits() {
        let mut index = Index::new(7);
        for n in 0..10_000 {
            let key = format!("{{tag}}:{n}");
            index.insert(place_hash(7, key.as_bytes()), entry(key.as_bytes()));
        }
        assert!(index.segments.len() > 5, "{}", index.segments.len());
    }

    #[test]
    fn emptied_segments_go_away() {
        let mut index = filled(20_000);
        for n in 0..20_000 {
            let key = format!("key:{n}");
            index.remove(place_hash(7, key.as_bytes()), key.as_bytes());
        }
        assert_eq!((index.len(), index.segments.len()), (0, 1));
        index.insert(place_hash(7, b"a"), entry(b"a"));
        assert!(index.get(place_hash(7, b"a"), b"a").is_some());
    }
}
