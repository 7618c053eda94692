//! What the journal remembers about its content without reading it: which segments there
//! are, which entries pin them, and each shard's latest state.
//!
//! Invariants: segment numbers rise without gaps; the last segment is the one that is
//! written; a pin is the highest index of a shard whose entry in that segment was not
//! replaced since (for the last segment it is kept only when the next one begins).

use super::frame::Item;
use quorate_base::{Index, ShardId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most shards one journal keeps, so that a segment's start frame stays below the
/// bound of a frame.
pub const SHARDS_MAX: usize = 128 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    segments: VecDeque<Segment>,
    shards: BTreeMap<ShardId, Known>,
}

/// A segment that holds frames.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pins: BTreeMap<ShardId, Index>,
}

#[derive(Debug, Default)]
struct Known {
    /// Empty: none.
    state: Vec<u8>,
    /// The index of the latest entry; 0: none.
    last: Index,
    /// The segment that holds it.
    last_in: u64,
    /// What trim was told last.
    trimmed: Index,
}

impl Ledger {
    /// The segment that is written.
    pub(crate) fn current(&self) -> Option<&Segment> {
        self.segments.back()
    }

    /// The number of the oldest segment that is kept.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.number)
    }

    /// The number of the segment that becomes the oldest when `count` have gone.
    pub(crate) fn oldest_after(&self, count: usize) -> u64 {
        self.segments[count].number
    }

    /// The bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// A new segment is written from now on.
    pub(crate) fn begin(&mut self, number: u64, bytes: u64) {
        if let Some(current) = self.segments.back_mut() {
            assert_eq!(current.number + 1, number, "segment numbers have no gaps");
            for (shard, pin) in &mut current.pins {
                *pin = self.shards[shard].last;
            }
        }
        self.segments.push_back(Segment { number, bytes, pins: BTreeMap::new() });
    }

    /// An item was written to, or read from, the current segment.
    #[inline]
    pub(crate) fn note(&mut self, item: &Item<'_>) {
        match *item {
            Item::Entry { shard, index, .. } => self.note_entry(shard, index),
            Item::State { shard, state } => {
                let known = self.known(shard);
                known.state.clear();
                known.state.extend_from_slice(state);
            }
            Item::Trimmed { shard, index } => self.known(shard).trimmed = index,
        }
    }

    #[inline]
    fn note_entry(&mut self, shard: ShardId, index: Index) {
        let current = self.segments.back().expect("an entry lies in a segment").number;
        let known = self.known(shard);
        let replaces = index <= known.last;
        let first_here = known.last_in != current;
        known.last = index;
        known.last_in = current;
        known.trimmed = known.trimmed.min(index.saturating_sub(1));
        if first_here {
            let segment = self.segments.back_mut().expect("checked above");
            segment.pins.insert(shard, index);
        }
        if replaces {
            let older = self.segments.len() - 1;
            for segment in self.segments.iter_mut().take(older) {
                if let Some(pin) = segment.pins.get_mut(&shard) {
                    *pin = (*pin).min(index.saturating_sub(1));
                }
            }
        }
    }

    fn known(&mut self, shard: ShardId) -> &mut Known {
        self.shards.entry(shard).or_default()
    }

    /// Asserts that records of these shards stay within [`SHARDS_MAX`].
    pub(crate) fn assert_takes(&self, shards: impl Iterator<Item = ShardId>) {
        let new: BTreeSet<ShardId> =
            shards.filter(|shard| !self.shards.contains_key(shard)).collect();
        let all = self.shards.len() + new.len();
        assert!(all <= SHARDS_MAX, "a journal keeps at most {SHARDS_MAX} shards, not {all}");
    }

    /// The index of the shard's latest entry; 0: none.
    pub(crate) fn last(&self, shard: ShardId) -> Index {
        self.shards.get(&shard).map_or(0, |known| known.last)
    }

    /// What the first frame of a new segment says.
    pub(crate) fn start_items(&self) -> impl Iterator<Item = Item<'_>> + Clone {
        self.shards.iter().flat_map(|(&shard, known)| {
            let state = Item::State { shard, state: &known.state };
            let trimmed = Item::Trimmed { shard, index: known.trimmed };
            let state = (!known.state.is_empty()).then_some(state);
            let trimmed = (known.trimmed > 0).then_some(trimmed);
            state.into_iter().chain(trimmed)
        })
    }

    /// Learns what the store has for good; returns how many of the oldest segments hold
    /// nothing else. The current one is never among them.
    pub(crate) fn learn(&mut self, durable: &dyn Fn(ShardId) -> Index) -> usize {
        let older = self.segments.len().saturating_sub(1);
        let shards = &mut self.shards;
        let pinned = self.segments.iter_mut().take(older).position(|segment| {
            segment.pins.retain(|&shard, pin| {
                let durable = durable(shard);
                if let Some(known) = shards.get_mut(&shard) {
                    known.trimmed = known.trimmed.max(durable.min(known.last));
                }
                *pin > durable
            });
            !segment.pins.is_empty()
        });
        pinned.unwrap_or(older)
    }

    /// Lets the oldest segment go.
    pub(crate) fn release(&mut self) -> Segment {
        assert!(self.segments.len() > 1, "the current segment stays");
        let segment = self.segments.pop_front().expect("checked above");
        let oldest = self.oldest().expect("the current segment stays");
        self.shards.retain(|_, known| !known.state.is_empty() || known.last_in >= oldest);
        segment
    }

    /// The shards that pin the oldest segment that any pins, none if that is the current one. What
    /// lies before it goes with the next trim, which comes when one of these shards was flushed.
    pub(crate) fn pins(&self) -> impl Iterator<Item = ShardId> + '_ {
        let older = self.segments.len().saturating_sub(1);
        let pinned = self.segments.iter().take(older).find(|segment| !segment.pins.is_empty());
        pinned.into_iter().flat_map(|segment| segment.pins.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_of_states_alone_does_not_hide_who_pins_the_next() {
        let mut ledger = Ledger::default();
        ledger.begin(1, 1);
        ledger.note(&Item::State { shard: 3, state: b"s" });
        ledger.begin(2, 1);
        ledger.note(&Item::Entry { shard: 7, term: 1, index: 1, payload: b"e" });
        ledger.begin(3, 1);
        assert_eq!(ledger.pins().collect::<Vec<_>>(), [7]);
    }
}
