//! Walking the keys of shards in place order, for SCAN, KEYS and RANDOMKEY.
//!
//! ```text
//! cursor u64 = 0 (1 bit) │ rank of the space by id (8) │ slot (14) │ high bits of the hash (41)
//! ```
//!
//! A cursor is a place hash without its low bits, in front of which the walk has returned every
//! key. All keys of one cursor (a *group*) come in the same call, so a key that exists during the
//! whole walk is returned, however shards split memory and table, and whatever else changes. The
//! cursor says everything: any node can go on with it.

use crate::db::Db;
use crate::entry::Kind;
use crate::error::Error;
use crate::keyspace::Keyspace;
use crate::place::{HASH_BITS, SpaceShards};
use crate::table::TableError;
use quorate_base::{Millis, Prng, ShardId};

/// Bits of a place that its group leaves out.
const GROUP_BITS: u32 = 8;
/// Bits of a cursor below the space.
const PLACE_BITS: u32 = 63 - GROUP_BITS;
/// Keys that one step of a whole walk looks at.
const STEP_KEYS: usize = 1024;
/// How often RANDOMKEY draws before it looks for any live key.
const DRAWS_MAX: usize = 16;

/// A key that only a table holds.
#[derive(Debug)]
pub(crate) struct StoredKey {
    pub(crate) place: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) expiry: Option<Millis>,
}

/// Called with each live key and its type.
pub(crate) type VisitKey<'a> = dyn FnMut(&[u8], Kind) + 'a;

/// All keys of one group have the same cursor.
pub(crate) fn group(place: u64) -> u64 {
    place >> GROUP_BITS
}

impl Keyspace {
    /// Hands the live keys from the group of `from` on to `visit`, looking at about `limit` keys,
    /// at least 1, and at whole groups. Returns the number looked at, and a place in the group to
    /// go on from unless none is left.
    pub(crate) fn walk(
        &self,
        from: u64,
        limit: usize,
        visit: &mut VisitKey<'_>,
    ) -> Result<(usize, Option<u64>), TableError> {
        let from = group(from) << GROUP_BITS;
        let now = self.recorder.now();
        let (stored, stored_next) =
            if self.resident { (Vec::new(), None) } else { self.table_keys(from, limit)? };
        let (mut held, mut held_next) = (Vec::new(), Some(from));
        while let Some(start) = held_next {
            let open = held.last().map_or(group(from), |&(place, _)| group(place));
            if held.len() > limit && group(start) > open {
                break;
            }
            held_next = self.index.some_from(start, limit, GROUP_BITS, &mut held);
        }
        // Below this group everything is known.
        let known = [stored_next, held_next].into_iter().flatten().min();
        let mut keys: Vec<(u64, &[u8], Option<Kind>)> = Vec::with_capacity(held.len());
        keys.extend(
            held.iter().map(|&(place, entry)| {
                (place, entry.key(), entry.is_live(now).then(|| entry.kind()))
            }),
        );
        for key in &stored {
            // Memory wins: it holds a newer value or a tombstone.
            if self.index.get(key.place, &key.name).is_none() {
                let live = key.expiry.is_none_or(|at| at > now);
                keys.push((key.place, &key.name, live.then_some(key.kind)));
            }
        }
        if !stored.is_empty() {
            keys.sort_unstable_by_key(|&(place, ..)| place);
        }
        let mut looked = 0;
        let mut last = None;
        for (place, name, kind) in keys {
            if known.is_some_and(|known| group(place) >= group(known)) {
                break;
            }
            if looked >= limit && last.is_some_and(|last| group(last) < group(place)) {
                return Ok((looked, Some(place)));
            }
            (looked, last) = (looked + 1, Some(place));
            if let Some(kind) = kind {
                visit(name, kind);
            }
        }
        Ok((looked, known))
    }

    fn walk_all(&self, visit: &mut VisitKey<'_>) -> Result<(), TableError> {
        let mut from = Some(0);
        while let Some(place) = from {
            (_, from) = self.walk(place, STEP_KEYS, visit)?;
        }
        Ok(())
    }

    /// A live key at or behind a random place of `from..to`, else one before it.
    fn key_near(&self, from: u64, to: u64, prng: &mut Prng) -> Result<Option<Vec<u8>>, TableError> {
        let start = from + prng.below(to - from);
        let mut keys = Vec::new();
        for (mut place, until) in [(start, u64::MAX), (from, start)] {
            while keys.is_empty() && place < until {
                let (_, next) = self.walk(place, 1, &mut |name, _| keys.push(name.to_vec()))?;
                place = next.unwrap_or(u64::MAX);
            }
        }
        let nth = prng.below(keys.len().max(1) as u64) as usize;
        Ok(keys.into_iter().nth(nth))
    }
}

impl Db {
    /// The number of keys, expired ones included until they are removed.
    pub fn keys(&self) -> u64 {
        self.seen().inspect(|k| k.observe_all()).map(Keyspace::keys).sum()
    }

    /// One step of SCAN: hands live keys from `cursor` on to `visit`, looking at about `count`
    /// keys. Returns the next cursor, 0 at the end. Every shard must be here.
    pub(crate) fn scan(
        &self,
        cursor: u64,
        count: usize,
        visit: &mut VisitKey<'_>,
    ) -> Result<u64, Error> {
        let mut spaces: Vec<&SpaceShards> = self.map().spaces().iter().collect();
        spaces.sort_unstable_by_key(|space| space.id);
        let mut from = (cursor & ((1 << PLACE_BITS) - 1)) << GROUP_BITS;
        let mut left = count;
        let first = usize::try_from(cursor >> PLACE_BITS).unwrap_or(usize::MAX);
        for (rank, space) in spaces.iter().enumerate().skip(first) {
            let cursor_at = |place: u64| (rank as u64) << PLACE_BITS | group(place);
            for shard in space.shard_at((from >> HASH_BITS) as u16)..space.first + space.shards {
                from = from.max(space.places(shard).start);
                if left == 0 {
                    return Ok(cursor_at(from));
                }
                if self.only().is_some_and(|only| only != shard) {
                    return Ok(cursor_at(from));
                }
                let keyspace = self.get(shard).expect("SCAN has every shard");
                keyspace.observe_all();
                let (looked, next) = keyspace.walk(from, left, visit)?;
                if let Some(next) = next {
                    return Ok(cursor_at(next));
                }
                left = left.saturating_sub(looked);
            }
            from = 0;
            if left == 0 && rank + 1 < spaces.len() {
                return Ok((rank as u64 + 1) << PLACE_BITS);
            }
        }
        Ok(0)
    }

    /// The shard in which a walk goes on that has come to `cursor`.
    pub fn shard_at(&self, cursor: u64) -> ShardId {
        let mut spaces: Vec<&SpaceShards> = self.map().spaces().iter().collect();
        spaces.sort_unstable_by_key(|space| space.id);
        let rank = usize::try_from(cursor >> PLACE_BITS).unwrap_or(usize::MAX);
        let space = spaces[rank.min(spaces.len() - 1)];
        let place = (cursor & ((1 << PLACE_BITS) - 1)) << GROUP_BITS;
        space.shard_at((place >> HASH_BITS) as u16)
    }

    /// Hands every live key to `visit`, in order of shards and places.
    pub(crate) fn each_key(&self, visit: &mut VisitKey<'_>) -> Result<(), Error> {
        for keyspace in self.seen() {
            keyspace.observe_all();
            keyspace.walk_all(visit)?;
        }
        Ok(())
    }

    /// A random live key, each about as likely as any other.
    pub(crate) fn random_key(&self, prng: &mut Prng) -> Result<Option<Vec<u8>>, Error> {
        let total = self.keys();
        if total == 0 {
            return Ok(None);
        }
        for _ in 0..DRAWS_MAX {
            let mut nth = prng.below(total);
            let drawn = self.seen().find(|k| {
                let here = nth < k.keys();
                nth = nth.saturating_sub(k.keys());
                here
            });
            let keyspace = drawn.expect("the shards hold the total together");
            let key = if keyspace.resident() {
                keyspace.random_key(prng)
            } else {
                let places = self.map().places(keyspace.shard());
                keyspace.key_near(places.start, places.end, prng)?
            };
            if key.is_some() {
                return Ok(key);
            }
        }
        let mut any = None;
        self.each_key(&mut |name, _| any = any.take().or_else(|| Some(name.to_vec())))?;
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{SpaceMap, place_hash};
    use crate::testing::MemoryTable;
    use std::collections::BTreeSet;

    const SEED: u64 = 7;

    fn db() -> (Db, Vec<MemoryTable>) {
        let space = |id, prefix: &str, first, shards| SpaceShards {
            id,
            prefix: prefix.into(),
            first,
            shards,
        };
        let map = SpaceMap::new(vec![space(0, "", 0, 3), space(5, "s:", 3, 2)], SEED);
        let mut db = Db::new(map);
        let tables: Vec<_> = (0..5).map(|_| MemoryTable::default()).collect();
        for (shard, table) in tables.iter().enumerate() {
            db.insert(Box::new(Keyspace::new(shard as u32, SEED, Box::new(table.clone()))));
        }
        (db, tables)
    }

    fn change(db: &mut Db, index: u64, f: impl FnOnce(&mut Db)) {
        db.iter_mut().for_each(|k| k.begin_batch(index, 1000));
        f(db);
        db.iter_mut().for_each(|k| drop(k.take_batch()));
    }

    fn set(db: &mut Db, key: &str, expiry: crate::Expiry) {
        db.set_string(key.as_bytes(), b"v", expiry, false).expect("no table fails");
    }

    fn flush_and_evict(db: &mut Db, tables: &[MemoryTable], applied: u64) {
        for (keyspace, table) in db.iter_mut().zip(tables) {
            let flush = keyspace.cut(applied, 1);
            table.apply(&flush);
            keyspace.flushed(flush.mark);
            keyspace.evict();
        }
    }

    fn scan_all(db: &Db, count: usize) -> Vec<String> {
        let (mut cursor, mut keys) = (0, Vec::new());
        loop {
            let seen = keys.len();
            let next = db
                .scan(cursor, count, &mut |k, _| {
                    keys.push(String::from_utf8(k.to_vec()).expect("text"));
                })
                .expect("no table fails");
            assert!(keys.len() - seen <= count + 8, "{} keys at once", keys.len() - seen);
            assert!(next == 0 || next > cursor, "the cursor goes back from {cursor} to {next}");
            cursor = next;
            if cursor == 0 {
                return keys;
            }
        }
    }

    #[test]
    fn a_scan_meets_each_key_once_wherever_it_lies() {
        let (mut db, tables) = db();
        let name = |n: u32| if n.is_multiple_of(3) { format!("s:{n}") } else { format!("k{n}") };
        change(&mut db, 1, |db| (0..6000).for_each(|n| set(db, &name(n), crate::Expiry::Never)));
        let mut want: BTreeSet<String> = (0..6000).map(name).collect();
        for count in [1, 10, 333, 100_000] {
            let got = scan_all(&db, count);
            assert_eq!(got.len(), want.len(), "COUNT {count}");
            assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), want);
        }
        // Now most of it only in tables, with deletions and additions in memory alone.
        flush_and_evict(&mut db, &tables, 1);
        change(&mut db, 2, |db| {
            for n in 0..500 {
                db.delete(name(n).as_bytes()).expect("no table fails");
                want.remove(&name(n));
                set(db, &name(10_000 + n), crate::Expiry::Never);
                want.insert(name(10_000 + n));
                set(db, &name(20_000 + n), crate::Expiry::At(999));
            }
        });
        for count in [1, 10, 333, 100_000] {
            let got = scan_all(&db, count);
            assert_eq!(got.len(), want.len(), "COUNT {count}");
            assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), want);
        }
        let mut every = BTreeSet::new();
        db.each_key(&mut |k, _| {
            every.insert(String::from_utf8(k.to_vec()).expect("text"));
        })
        .expect("no table fails");
        assert_eq!(every, want);
        let mut prng = Prng::new(3);
        let drawn: BTreeSet<_> =
            (0..200).map(|_| db.random_key(&mut prng).expect("no table fails")).collect();
        assert!(drawn.len() > 100, "{} different keys in 200 draws", drawn.len());
        let live = |k: &Option<Vec<u8>>| {
            k.as_ref().is_some_and(|k| want.contains(std::str::from_utf8(k).expect("text")))
        };
        assert!(drawn.iter().all(live));
    }

    #[test]
    fn what_stays_is_returned_whatever_comes_and_goes() {
        for seed in 0..20 {
            let ((mut db, tables), mut prng) = (db(), Prng::new(seed));
            let name = |n: u64| if n % 4 == 1 { format!("s:{n}") } else { format!("{{t}}{n}") };
            change(&mut db, 1, |db| {
                (0..3000).for_each(|n| set(db, &name(n), crate::Expiry::Never));
            });
            let mut missing: BTreeSet<String> = (0..3000).step_by(5).map(name).collect();
            let (mut cursor, mut index) = (0, 1);
            loop {
                let count = 1 + prng.below(100) as usize;
                let mut visit = |key: &[u8], _| {
                    missing.remove(std::str::from_utf8(key).expect("text"));
                };
                cursor = db.scan(cursor, count, &mut visit).expect("no table fails");
                if cursor == 0 {
                    break;
                }
                index += 1;
                change(&mut db, index, |db| {
                    for _ in 0..prng.below(40) {
                        let (n, add) = (prng.below(3000), prng.below(2) == 0);
                        if n % 5 == 0 || add {
                            set(db, &name(n), crate::Expiry::Never);
                        } else {
                            db.delete(name(n).as_bytes()).expect("no table fails");
                        }
                    }
                });
                match prng.below(8) {
                    0 => flush_and_evict(&mut db, &tables, index),
                    1 => db.iter_mut().for_each(|keyspace| {
                        keyspace.load_some(500).expect("no table fails");
                    }),
                    _ => {}
                }
            }
            assert!(missing.is_empty(), "seed {seed} missed {missing:?}");
        }
    }

    #[test]
    fn groups_of_one_slot_are_walked_too() {
        let (mut db, _) = db();
        change(&mut db, 1, |db| {
            (0..5000).for_each(|n| set(db, &format!("{{t}}{n}"), crate::Expiry::Never));
        });
        assert_eq!(scan_all(&db, 7).len(), 5000);
        assert_ne!(group(place_hash(SEED, b"{t}1")), group(place_hash(SEED, b"{t}2")));
    }

    #[test]
    fn only_expired_keys_make_no_random_key() {
        let (mut db, _) = db();
        change(&mut db, 1, |db| set(db, "a", crate::Expiry::At(2000)));
        db.iter_mut().for_each(|k| k.begin_batch(2, 3000));
        assert_eq!(db.random_key(&mut Prng::new(1)), Ok(None));
        assert_eq!((db.keys(), db.scan(0, 10, &mut |_, _| panic!("expired"))), (1, Ok(0)));
    }
}
