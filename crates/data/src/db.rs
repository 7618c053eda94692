//! The shards that are at hand, and keys looked up in them.
//!
//! The node sees to it that every shard of a command's keys is present before it executes.

use crate::coll_mut::CollMut;
use crate::entry::{Coll, Entry, Kind};
use crate::error::Error;
use crate::keyspace::{Expiry, Keyspace};
use crate::place::{Place, SpaceMap};
use crate::scan::Cursors;
use crate::sorted::{Sub, Val};
use quorate_base::{Millis, ShardId};
use smallvec::SmallVec;

/// How many places [`Db::warm`] takes at once; more would push each other out of the cache.
pub const WARM_MAX: usize = 64;

/// Shards by id, and the map from keys to them.
pub struct Db {
    map: SpaceMap,
    shards: Vec<Option<Box<Keyspace>>>,
    /// The only shard that commands over the whole keyspace see, where they execute shard by shard.
    only: Option<ShardId>,
    /// What the cursors of walks over collections mean.
    pub(crate) cursors: Cursors,
    /// The key that was routed last, and where it lives: executing asks for it again.
    routed: (SmallVec<[u8; 32]>, Place),
}

/// A whole value apart from any key, to move it between keys and shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string and whether its encoding is `raw`.
    String(Vec<u8>, bool),
    /// A collection.
    Coll {
        /// Its type.
        kind: Kind,
        /// The family's encoding number.
        encoding: u8,
        /// What the family keeps beside the elements.
        aux: Vec<u8>,
        /// The elements in order.
        elements: Vec<(Sub, Val)>,
    },
}

impl Db {
    /// Without any shard yet.
    pub fn new(map: SpaceMap) -> Self {
        let shards = (0..map.shards()).map(|_| None).collect();
        let routed = (SmallVec::new(), map.place(b""));
        Self { map, shards, only: None, cursors: Cursors::default(), routed }
    }

    /// The map from keys to shards.
    pub fn map(&self) -> &SpaceMap {
        &self.map
    }

    /// Hands in a shard.
    pub fn insert(&mut self, keyspace: Box<Keyspace>) {
        let at = keyspace.shard() as usize;
        assert!(self.shards[at].is_none(), "shard {at} is here already");
        self.shards[at] = Some(keyspace);
    }

    /// Takes a shard out.
    pub fn remove(&mut self, shard: ShardId) -> Option<Box<Keyspace>> {
        self.shards[shard as usize].take()
    }

    /// A shard, if it is here.
    #[inline]
    pub fn get(&self, shard: ShardId) -> Option<&Keyspace> {
        self.shards[shard as usize].as_deref()
    }

    /// A shard that must be here.
    #[inline]
    pub fn shard(&mut self, shard: ShardId) -> &mut Keyspace {
        match self.shards[shard as usize].as_deref_mut() {
            Some(keyspace) => keyspace,
            None => panic!("shard {shard} is needed and not here"),
        }
    }

    /// Has commands over the whole keyspace see only this shard, or all again.
    pub fn restrict(&mut self, only: Option<ShardId>) {
        self.only = only;
    }

    pub(crate) fn only(&self) -> Option<ShardId> {
        self.only
    }

    /// The shards that a command over the whole keyspace sees.
    pub(crate) fn seen(&self) -> impl Iterator<Item = &Keyspace> {
        self.iter().filter(|k| self.only.is_none_or(|only| only == k.shard()))
    }

    /// The shards that are here, in order of their ids.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Keyspace> {
        self.shards.iter_mut().flatten().map(|k| &mut **k)
    }

    /// The shards that are here, in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Keyspace> {
        self.shards.iter().flatten().map(|k| &**k)
    }

    /// Brings the entries at `places` into the processor's cache: the look-ups of a pipeline, done
    /// side by side, wait for memory together, not one after the other.
    pub fn warm(&self, places: &[Place]) {
        let mut entries: SmallVec<[&Entry; WARM_MAX]> = SmallVec::new();
        for place in places {
            if let Some(keyspace) = self.get(place.shard) {
                entries.extend(keyspace.index.first_at(place.hash));
            }
        }
        let touched = entries.iter().fold(0, |sum, entry| sum ^ entry.warm());
        std::hint::black_box(touched);
    }

    /// Where `key` lives, for a command that is about to execute on it.
    #[inline]
    pub fn route(&mut self, key: &[u8]) -> Place {
        let place = self.map.place(key);
        if key.len() <= self.routed.0.inline_size() {
            self.routed.0.clear();
            self.routed.0.extend_from_slice(key);
            self.routed.1 = place;
        }
        place
    }

    #[inline]
    fn at(&mut self, key: &[u8]) -> (u64, &mut Keyspace) {
        let known = self.routed.0.as_slice() == key;
        let Place { shard, hash } = if known { self.routed.1 } else { self.map.place(key) };
        (hash, self.shard(shard))
    }

    // --- reading -----------------------------------------------------------------------------

    /// The live entry of `key`, whatever its type; counts as a use of it.
    #[inline]
    pub fn entry(&mut self, key: &[u8]) -> Result<Option<&Entry>, Error> {
        let (place, keyspace) = self.at(key);
        Ok(keyspace.fetch(place, key)?)
    }

    /// The same without counting as a use (OBJECT, TYPE, EXISTS as Redis has them with NOTOUCH).
    pub fn entry_untouched(&mut self, key: &[u8]) -> Result<Option<&Entry>, Error> {
        let (place, keyspace) = self.at(key);
        keyspace.load(place, key)?;
        Ok(keyspace.peek(place, key))
    }

    /// The entry of `key`, which a look-up in this step has brought into memory: unlike the other
    /// look-ups it lets several entries be read side by side.
    pub fn loaded(&self, key: &[u8]) -> Option<&Entry> {
        let Place { shard, hash } = self.map.place(key);
        self.get(shard)?.peek(hash, key)
    }

    /// True if `key` exists.
    pub fn exists(&mut self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.entry(key)?.is_some())
    }

    /// The string at `key`, or `WRONGTYPE`.
    #[inline]
    pub fn string(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        match self.entry(key)? {
            None => Ok(None),
            Some(entry) => entry.value().map(Some).ok_or(Error::WrongType),
        }
    }

    /// The collection of type `kind` at `key`, or `WRONGTYPE`.
    #[inline]
    pub fn coll(&mut self, key: &[u8], kind: Kind) -> Result<Option<&Coll>, Error> {
        match self.entry(key)? {
            None => Ok(None),
            Some(entry) => {
                entry.coll().filter(|c| c.kind() == kind).map(Some).ok_or(Error::WrongType)
            }
        }
    }

    // --- changing ----------------------------------------------------------------------------

    /// Sets a string, whatever the key held before. `raw` makes OBJECT ENCODING answer `raw`
    /// for a short string, as Redis does for strings changed in place.
    #[inline]
    pub fn set_string(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        raw: bool,
    ) -> Result<(), Error> {
        let (place, keyspace) = self.at(key);
        Ok(keyspace.set_string(place, key, value, expiry, raw)?)
    }

    /// Writes `data` at `offset` into the string `key`, created if absent, grown with zeros. The
    /// caller has checked type and size.
    pub fn patch_string(&mut self, key: &[u8], offset: usize, data: &[u8]) -> Result<(), Error> {
        let (place, keyspace) = self.at(key);
        Ok(keyspace.patch_string(place, key, offset, data)?)
    }

    /// Opens the collection `key` for changes, or `WRONGTYPE`; see [`CollMut`].
    #[inline]
    pub fn open(&mut self, key: &[u8], kind: Kind) -> Result<CollMut<'_>, Error> {
        let (place, keyspace) = self.at(key);
        if keyspace.fetch(place, key)?.is_some_and(|e| e.coll().is_none_or(|c| c.kind() != kind)) {
            return Err(Error::WrongType);
        }
        Ok(keyspace.open(place, key, kind)?)
    }

    /// Deletes `key`; false if it does not exist.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        let (place, keyspace) = self.at(key);
        Ok(keyspace.delete(place, key)?)
    }

    /// Sets or clears the expiry of `key`, which exists. A time in the past deletes it.
    pub fn set_expiry(&mut self, key: &[u8], expiry: Option<Millis>) -> Result<(), Error> {
        let (place, keyspace) = self.at(key);
        if expiry.is_some_and(|at| at <= keyspace.recorder.now()) {
            keyspace.delete(place, key)?;
        } else {
            keyspace.set_expiry(place, key, expiry);
        }
        Ok(())
    }

    /// Sets when `key`, which exists, counts as last used, in seconds of node time (wrapping). No
    /// replica learns of it.
    pub fn set_accessed(&mut self, key: &[u8], seconds: u32) {
        let (place, keyspace) = self.at(key);
        let entry = keyspace.index.get_mut(place, key).expect("the caller has put the key");
        entry.set_accessed(seconds);
    }

    /// Moves the value and expiry of `from`, which exists, to `to`, replacing what `to` held.
    /// The keys differ.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let (source, target) = (self.map.place(from), self.map.place(to));
        if source.shard == target.shard {
            let keyspace = self.shard(source.shard);
            return Ok(keyspace.rename((source.hash, from), (target.hash, to))?);
        }
        let Some((value, expiry)) = self.value(from)? else { return Err(Error::NoSuchKey) };
        self.put_value(to, &value, expiry)?;
        self.delete(from)?;
        Ok(())
    }

    /// A copy of the value of `key` with its expiry.
    pub fn value(&mut self, key: &[u8]) -> Result<Option<(Value, Option<Millis>)>, Error> {
        let Some(entry) = self.entry_untouched(key)? else { return Ok(None) };
        let value = match entry.coll() {
            None => {
                let bytes = entry.value().expect("a live entry has a value or elements");
                Value::String(bytes.to_vec(), entry.is_raw())
            }
            Some(coll) => Value::Coll {
                kind: coll.kind(),
                encoding: coll.encoding(),
                aux: coll.aux().to_vec(),
                elements: coll
                    .elements()
                    .iter()
                    .map(|(sub, val)| (Sub::from_slice(sub), Val::from_slice(val)))
                    .collect(),
            },
        };
        Ok(Some((value, entry.expiry())))
    }

    /// Sets `key` to a copy of `value`, whatever it held before.
    pub fn put_value(
        &mut self,
        key: &[u8],
        value: &Value,
        expiry: Option<Millis>,
    ) -> Result<(), Error> {
        match value {
            Value::String(bytes, raw) => {
                let expiry = expiry.map_or(Expiry::Never, Expiry::At);
                return self.set_string(key, bytes, expiry, *raw);
            }
            Value::Coll { kind, encoding, aux, elements } => {
                self.delete(key)?;
                let mut coll = self.open(key, *kind)?;
                coll.touch();
                for (sub, val) in elements {
                    coll.put(sub, val);
                }
                coll.set_encoding(*encoding);
                coll.set_aux(aux);
            }
        }
        if expiry.is_some() {
            self.set_expiry(key, expiry)?;
        }
        Ok(())
    }

    /// Drops every key of the shards that it sees.
    pub fn clear(&mut self) {
        let only = self.only;
        let seen = self.iter_mut().filter(|k| only.is_none_or(|only| only == k.shard()));
        seen.for_each(Keyspace::clear);
    }
}
