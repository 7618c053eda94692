//! Where a key lives: its space by prefix, its shard by slot, its place by hash.

use quorate_base::hash::hash64;
use quorate_base::limits::SLOTS;
use quorate_base::slot::slot_of;
use quorate_base::{ShardId, SpaceId};
use std::ops::Range;

/// Bits of a place hash below the slot.
pub const HASH_BITS: u32 = 49;

/// The place hash of `key`: its slot in the 14 high bits of 63, then 49 bits of a hash keyed by
/// `seed`. Keys sort by it in memory, on disk and under SCAN.
#[inline]
pub fn place_hash(seed: u64, key: &[u8]) -> u64 {
    u64::from(slot_of(key)) << HASH_BITS | hash64(seed, key) >> (64 - HASH_BITS)
}

/// A key's shard and place hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The shard that owns the key.
    pub shard: ShardId,
    /// See [`place_hash`].
    pub hash: u64,
}

/// One space's share of the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceShards {
    /// The space.
    pub id: SpaceId,
    /// Keys with this prefix belong to it, unless a longer prefix matches.
    pub prefix: Vec<u8>,
    /// Its first shard; the others follow.
    pub first: ShardId,
    /// How many shards cut its 16,384 slots into equal ranges; at least 1.
    pub shards: u32,
}

/// The map from keys to places.
#[derive(Clone, Debug)]
pub struct SpaceMap {
    /// Longest prefix first; the last has the empty prefix.
    spaces: Vec<SpaceShards>,
    seed: u64,
}

impl SpaceMap {
    /// A map of `spaces`, of which exactly one must have the empty prefix. `seed` keys the place
    /// hash and must never change for the same data.
    pub fn new(mut spaces: Vec<SpaceShards>, seed: u64) -> Self {
        spaces.sort_by(|a, b| b.prefix.len().cmp(&a.prefix.len()).then(a.id.cmp(&b.id)));
        let catch_all = spaces.iter().filter(|s| s.prefix.is_empty()).count();
        assert!(catch_all == 1, "{catch_all} spaces have the empty prefix, exactly one must");
        Self { spaces, seed }
    }

    /// The seed of the place hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The spaces, longest prefix first.
    pub fn spaces(&self) -> &[SpaceShards] {
        &self.spaces
    }

    /// The number of shards of all spaces.
    pub fn shards(&self) -> u32 {
        self.spaces.iter().map(|s| s.shards).sum()
    }

    /// The space that `key` belongs to.
    #[inline]
    pub fn space_of(&self, key: &[u8]) -> &SpaceShards {
        self.spaces
            .iter()
            .find(|s| key.starts_with(&s.prefix))
            .expect("the last space has the empty prefix, which every key starts with")
    }

    /// The place hashes that `shard` may hold.
    pub fn places(&self, shard: ShardId) -> Range<u64> {
        let space = self
            .spaces
            .iter()
            .find(|s| (s.first..s.first + s.shards).contains(&shard))
            .expect("every shard belongs to a space");
        space.places(shard)
    }

    /// Where `key` lives.
    #[inline]
    pub fn place(&self, key: &[u8]) -> Place {
        let hash = place_hash(self.seed, key);
        let space = self.space_of(key);
        Place { shard: space.shard_at((hash >> HASH_BITS) as u16), hash }
    }
}

impl SpaceShards {
    /// The shard of this space that holds `slot`.
    #[inline]
    pub fn shard_at(&self, slot: u16) -> ShardId {
        self.first + u32::from(slot) * self.shards / u32::from(SLOTS)
    }

    /// The place hashes that `shard` of this space may hold.
    pub fn places(&self, shard: ShardId) -> Range<u64> {
        let first_slot =
            |nth: u32| (u64::from(nth) * u64::from(SLOTS)).div_ceil(u64::from(self.shards));
        let nth = shard - self.first;
        first_slot(nth) << HASH_BITS..first_slot(nth + 1) << HASH_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> SpaceMap {
        let space = |id, prefix: &str, first, shards| SpaceShards {
            id,
            prefix: prefix.into(),
            first,
            shards,
        };
        SpaceMap::new(vec![space(0, "", 0, 16), space(1, "a:", 16, 4), space(2, "a:b:", 20, 1)], 9)
    }

    #[test]
    fn the_longest_prefix_wins() {
        let map = map();
        assert_eq!(map.space_of(b"a:b:c").id, 2);
        assert_eq!(map.space_of(b"a:c").id, 1);
        assert_eq!(map.space_of(b"b").id, 0);
        assert_eq!(map.space_of(b"").id, 0);
    }

    #[test]
    fn places_and_slots_agree_on_the_shard() {
        for shards in [1, 3, 7, 16, 1000] {
            let space = SpaceShards { id: 0, prefix: Vec::new(), first: 5, shards };
            for slot in 0..SLOTS {
                let places = space.places(space.shard_at(slot));
                assert!(places.contains(&(u64::from(slot) << HASH_BITS)), "{slot} of {shards}");
            }
            assert_eq!(space.places(5 + shards - 1).end, 1 << 63);
        }
    }

    #[test]
    fn shards_cut_the_slots_evenly() {
        let map = map();
        let default = map.space_of(b"x");
        assert_eq!((default.shard_at(0), default.shard_at(SLOTS - 1)), (0, 15));
        assert_eq!((default.shard_at(1023), default.shard_at(1024)), (0, 1));
        assert!((16..20).contains(&map.place(b"a:key").shard));
        assert!(map.place(b"x").hash < 1 << 63);
    }
}
