//! A shard between memory and its table: records, loading, flushing, forgetting.
//!
//! ```text
//! table key                                    value
//! place u64 BE │ 0 │ key                       kind u8 │ flags u8 (1 raw, 2 expires) │ version u64
//!                                              │ [expiry u64] │ string value
//!                                              … or for a collection
//!                                              │ encoding u8 │ generation u64 │ aux
//! place u64 BE │ 1 │ generation u64 BE │ sub   val
//! 0x80                                         the requests executed (`requests.rs`)
//! ```
//!
//! Place hashes are below 2^63, so keys that start with 0x80 and more are free: 0xff is the table's
//! own.

use crate::entry::{Coll, Cycle, EXPIRES, Entry, Kind, RAW, STORED, TOMB};
use crate::keys::{StoredKey, group};
use crate::keyspace::{Keyspace, seconds};
use crate::sorted::Sorted;
use crate::table::{Flush, Mark, TableError, TableOp};
use quorate_base::codec::Reader;
use quorate_base::{Index, Millis, Term};

pub(crate) const RECORD: u8 = 0;
const ELEMENT: u8 = 1;

/// Where the table keeps which requests were executed.
pub const REQUESTS_KEY: &[u8] = &[0x80];

/// A flush under way: what it still has to look at, and what it has written.
///
/// An entry that it has not written yet and that is about to change is written first
/// ([`Cutting::settle`]), so the flush shows the shard as it was when it was begun.
#[derive(Debug)]
pub(crate) struct Cutting {
    /// Where the entries are that changed before it was begun; ascending.
    places: Vec<u64>,
    /// The first place it has not looked at.
    next: usize,
    ops: Vec<TableOp>,
    /// Tombstones that it makes unnecessary.
    tombs: Vec<u64>,
    mark: Mark,
    clear: bool,
}

impl Cutting {
    /// Writes `entry` if this flush still has to.
    #[inline]
    pub(crate) fn settle(&mut self, cycle: Cycle, place: u64, entry: &mut Entry) {
        let flags = entry.flags();
        if flags & cycle.due() == 0 {
            return;
        }
        entry.set_flags(flags & !cycle.due() | STORED);
        if flags & TOMB != 0 {
            self.ops.push(TableOp::Delete(record_key(place, entry.key())));
            self.tombs.push(place);
        } else {
            write_entry(place, entry, &mut self.ops);
        }
    }
}

impl Keyspace {
    /// About how many bytes the next flush would write.
    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// How much of the log the table contains.
    pub fn durable(&self) -> Mark {
        self.durable
    }

    /// True between [`Keyspace::begin_cut`] and [`Keyspace::flushed`].
    pub fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Begins a flush of everything that changed since the last one was begun. `applied` and
    /// `term` are of the last entry whose effects memory holds. Only one flush runs at a time.
    pub fn begin_cut(&mut self, applied: Index, term: Term) {
        assert!(self.flushing.is_none(), "shard {} is being flushed already", self.shard);
        let mut places = std::mem::take(&mut self.dirty);
        // In order, the entries of one segment follow each other, and so do the pairs written.
        places.sort_unstable();
        places.dedup();
        let mut ops = Vec::with_capacity(places.len() + self.dead.len());
        for (place, generation) in self.dead.drain(..) {
            ops.push(TableOp::DeletePrefix(element_key(place, generation, b"")));
        }
        self.cycle.swap();
        self.dirty_bytes = 0;
        self.flushing = Some(Vec::new());
        let mark = Mark { applied, term, keys: self.keys };
        let clear = std::mem::take(&mut self.cleared);
        if let Some(record) = self.requests.record(clear) {
            ops.push(TableOp::Put(REQUESTS_KEY.to_vec(), record));
        }
        self.cutting = Some(Cutting { places, next: 0, ops, tombs: Vec::new(), mark, clear });
    }

    /// Goes on with a begun flush for about `limit` entries. Returns it once it is complete: the
    /// state as of [`Keyspace::begin_cut`], as one atomic change of the table.
    pub fn cut_some(&mut self, limit: usize) -> Option<Flush> {
        let cutting = self.cutting.as_mut()?;
        let to = cutting.next.saturating_add(limit).min(cutting.places.len());
        for at in cutting.next..to {
            let place = cutting.places[at];
            for entry in self.index.at_place_mut(place) {
                cutting.settle(self.cycle, place, entry);
            }
        }
        cutting.next = to;
        if to < cutting.places.len() {
            return None;
        }
        let Cutting { ops, tombs, mark, clear, .. } = self.cutting.take()?;
        // A clear may have come in between: then nothing of these is left.
        self.flushing = Some(tombs);
        Some(Flush { shard: self.shard, mark, clear, durable: false, ops })
    }

    /// Gives up a flush that was begun and not handed on. The shard must be dropped: what that flush
    /// would have written does not count as changed any more.
    pub fn drop_cut(&mut self) {
        (self.cutting, self.flushing) = (None, None);
    }

    /// True while a begun flush is not complete.
    pub fn is_cutting(&self) -> bool {
        self.cutting.is_some()
    }

    /// Begins and completes a flush at once.
    pub fn cut(&mut self, applied: Index, term: Term) -> Flush {
        self.begin_cut(applied, term);
        self.cut_some(usize::MAX).expect("a cut without a limit completes")
    }

    /// Writes all that the cut under way still has to, before everything is dropped.
    pub(crate) fn cut_rest(&mut self) {
        let Some(cutting) = &mut self.cutting else { return };
        for at in cutting.next..cutting.places.len() {
            let place = cutting.places[at];
            for entry in self.index.at_place_mut(place) {
                cutting.settle(self.cycle, place, entry);
            }
        }
        cutting.next = cutting.places.len();
        cutting.tombs.clear();
    }

    /// The flush that was cut is durable with this mark.
    pub fn flushed(&mut self, mark: Mark) {
        assert!(self.cutting.is_none(), "shard {} was flushed before it was cut", self.shard);
        let tombs = self.flushing.take().expect("a flush was cut before it completed");
        let dirty = self.cycle.dirty();
        for place in tombs {
            let gone: Vec<Vec<u8>> = self
                .index
                .at_place_mut(place)
                .filter(|e| e.flags() & (TOMB | dirty) == TOMB)
                .map(|e| e.key().to_vec())
                .collect();
            for key in gone {
                if let Some(tomb) = self.index.remove(place, &key) {
                    self.entry_bytes -= tomb.bytes();
                }
            }
        }
        self.durable = mark;
    }

    /// Forgets every entry that equals its record; what remains is dirty. The shard is served
    /// from its table from now on. Does nothing while a flush runs.
    pub fn evict(&mut self) {
        if self.flushing.is_some() || self.cleared {
            return;
        }
        let mut freed = 0;
        let expiries = &mut self.expiries;
        let seed = self.index.seed();
        let dirty = self.cycle.dirty();
        self.index.retain(|entry| {
            let keep = entry.flags() & dirty != 0;
            if !keep {
                freed += entry.bytes();
                if let Some(at) = entry.expiry() {
                    expiries.remove(&(at, crate::place::place_hash(seed, entry.key())));
                }
            }
            keep
        });
        self.entry_bytes -= freed;
        if self.keys > 0 || !self.index.is_empty() {
            (self.resident, self.load_from) = (false, Some(Vec::new()));
            // What stays may have been created while everything was in memory.
            let places: Vec<u64> = self.dirty.clone();
            for place in places {
                for entry in self.index.at_place_mut(place) {
                    entry.set_flags(entry.flags() | STORED);
                }
            }
        }
    }

    /// Loads about `limit` more pairs of the table into memory; true when all are loaded.
    pub fn load_some(&mut self, limit: usize) -> Result<bool, TableError> {
        let Some(from) = self.load_from.clone() else { return Ok(true) };
        let mut strings = Vec::new();
        let mut colls = Vec::new();
        let mut next = None;
        let mut seen = 0;
        self.table.scan(&from, None, &mut |key, value| {
            if seen >= limit {
                next = Some(key.to_vec());
                return false;
            }
            seen += 1;
            match split_key(key) {
                Some((place, RECORD, name)) => {
                    if value.first() == Some(&(Kind::String as u8)) {
                        strings.push((place, name.to_vec(), value.to_vec()));
                    } else {
                        colls.push((place, name.to_vec()));
                    }
                    true
                }
                Some((place, ELEMENT, _)) => {
                    // Collections are loaded by key; go on behind the elements of this place.
                    next = Some((place + 1).to_be_bytes().to_vec());
                    false
                }
                _ => false,
            }
        })?;
        for (place, key, record) in strings {
            if self.index.get(place, &key).is_none() {
                self.insert_record(place, &key, &record)?;
            }
        }
        for (place, key) in colls {
            if self.index.get(place, &key).is_none() {
                self.load_record(place, &key)?;
            }
        }
        self.resident = next.is_none();
        self.load_from = next;
        Ok(self.resident)
    }

    /// Brings one key from the table into memory, if the table has it.
    pub(crate) fn load_record(&mut self, place: u64, key: &[u8]) -> Result<(), TableError> {
        if let Some(record) = self.table.get(&record_key(place, key))? {
            self.insert_record(place, key, &record)?;
        }
        Ok(())
    }

    fn insert_record(&mut self, place: u64, key: &[u8], record: &[u8]) -> Result<(), TableError> {
        let mut entry = decode_record(key, record).ok_or_else(|| self.damaged(key))?;
        if let Entry::Coll(coll) = &mut entry {
            let prefix = element_key(place, coll.generation, b"");
            let end = crate::sorted::prefix_end(&prefix);
            let elements = &mut coll.elements;
            self.table.scan(&prefix, end.as_deref(), &mut |key, val| {
                elements.put(&key[prefix.len()..], val, false);
                true
            })?;
        }
        entry.set_flags(entry.flags() | STORED);
        entry.set_accessed(seconds(self.recorder.now()));
        if let Some(at) = entry.expiry() {
            self.expiries.insert((at, place));
        }
        self.entry_bytes += entry.bytes();
        self.index.insert(place, entry);
        Ok(())
    }

    /// The keys of the table from place `from` on, about `limit` of them, whole groups only (see
    /// `keys.rs`), and the place to go on from.
    pub(crate) fn table_keys(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<(Vec<StoredKey>, Option<u64>), TableError> {
        let mut keys: Vec<StoredKey> = Vec::new();
        let mut start = from.to_be_bytes().to_vec();
        loop {
            let (mut skip, mut next, mut damaged) = (None, None, None);
            self.table.scan(&start, None, &mut |key, record| match split_key(key) {
                Some((place, RECORD, name)) => {
                    let another = keys.last().is_some_and(|k| group(k.place) != group(place));
                    if keys.len() >= limit && another {
                        next = Some(place);
                        return false;
                    }
                    match decode_head(record) {
                        Some((kind, expiry)) => {
                            keys.push(StoredKey { place, name: name.to_vec(), kind, expiry });
                        }
                        None => damaged = Some(self.damaged(name)),
                    }
                    damaged.is_none()
                }
                Some((place, _, _)) => {
                    skip = Some((place + 1).to_be_bytes().to_vec());
                    false
                }
                None => false,
            })?;
            match (damaged, skip) {
                (Some(error), _) => return Err(error),
                (None, Some(behind)) => start = behind,
                (None, None) => return Ok((keys, next)),
            }
        }
    }

    fn damaged(&self, key: &[u8]) -> TableError {
        TableError(format!(
            "shard {}: the record of key {:?} makes no sense; it was written by a newer version, \
             or it is damaged",
            self.shard,
            String::from_utf8_lossy(key)
        ))
    }
}

fn write_entry(place: u64, entry: &mut Entry, ops: &mut Vec<TableOp>) {
    let key = record_key(place, entry.key());
    let mut value = vec![entry.kind() as u8, entry.flags() & (RAW | EXPIRES)];
    value.extend_from_slice(&entry.version().to_le_bytes());
    if let Some(at) = entry.expiry() {
        value.extend_from_slice(&at.to_le_bytes());
    }
    match entry {
        Entry::Flat(_) => value.extend_from_slice(entry.value().expect("no tombstone here")),
        Entry::Coll(coll) => {
            value.push(coll.encoding);
            value.extend_from_slice(&coll.generation.to_le_bytes());
            value.extend_from_slice(&coll.aux);
            write_elements(place, coll, ops);
        }
    }
    ops.push(TableOp::Put(key, value));
}

fn write_elements(place: u64, coll: &mut Coll, ops: &mut Vec<TableOp>) {
    let generation = coll.generation;
    let mut removed = std::mem::take(&mut coll.removed);
    removed.sort_unstable();
    removed.dedup();
    for sub in removed {
        if coll.elements.get(&sub).is_none() {
            ops.push(TableOp::Delete(element_key(place, generation, &sub)));
        }
    }
    coll.elements.take_dirty(|sub, val| {
        ops.push(TableOp::Put(element_key(place, generation, sub), val.to_vec()));
    });
}

fn record_key(place: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + key.len());
    out.extend_from_slice(&place.to_be_bytes());
    out.push(RECORD);
    out.extend_from_slice(key);
    out
}

fn element_key(place: u64, generation: u64, sub: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(17 + sub.len());
    out.extend_from_slice(&place.to_be_bytes());
    out.push(ELEMENT);
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(sub);
    out
}

pub(crate) fn split_key(key: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (place, rest) = key.split_first_chunk::<8>()?;
    let (tag, name) = rest.split_first()?;
    let place = u64::from_be_bytes(*place);
    (place >> 63 == 0).then_some((place, *tag, name))
}

/// The type and expiry in a record.
fn decode_head(record: &[u8]) -> Option<(Kind, Option<Millis>)> {
    let mut reader = Reader::new(record);
    let (kind, flags, _version) = (Kind::from_tag(reader.u8()?)?, reader.u8()?, reader.u64()?);
    Some((kind, if flags & EXPIRES != 0 { Some(reader.u64()?) } else { None }))
}

/// The expiry in a record's value.
pub(crate) fn decode_expiry(record: &[u8]) -> Option<Millis> {
    let mut reader = Reader::new(record);
    let (_kind, flags, _version) = (reader.u8()?, reader.u8()?, reader.u64()?);
    if flags & EXPIRES != 0 { reader.u64() } else { None }
}

fn decode_record(key: &[u8], record: &[u8]) -> Option<Entry> {
    let mut reader = Reader::new(record);
    let (kind, flags) = (Kind::from_tag(reader.u8()?)?, reader.u8()?);
    let version = reader.u64()?;
    let expiry: Option<Millis> = if flags & EXPIRES != 0 { Some(reader.u64()?) } else { None };
    if kind == Kind::String {
        return Some(Entry::string(key, reader.rest(), version, expiry, flags & RAW != 0, 0));
    }
    let (encoding, generation) = (reader.u8()?, reader.u64()?);
    Some(Entry::Coll(Box::new(Coll {
        key: key.into(),
        kind,
        flags: flags & EXPIRES,
        encoding,
        accessed: 0,
        version,
        generation,
        expiry: expiry.unwrap_or(0),
        aux: reader.rest().to_vec(),
        elements: Sorted::default(),
        removed: Vec::new(),
    })))
}
