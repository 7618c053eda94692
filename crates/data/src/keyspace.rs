//! The data of one shard: entries in memory over a [`Table`], and the effects of what changed.
//!
//! Every change goes through the few primitives of this file. Each takes effect in memory at
//! once, is appended to the *batch* (the shard's next log entry, see `effects.rs`) and marks its
//! entry dirty for the next flush (`disk.rs`). Replaying a batch runs the same primitives, so a
//! replica that replays the log holds the same entries, versions and counts.
//!
//! Invariants: a key has at most one entry; where the shard is `resident`, a key without an entry
//! does not exist; otherwise its record may lie in the table. An entry that is neither dirty nor
//! part of a running flush equals its record.

use crate::coll_mut::CollMut;
use crate::disk::{Cutting, REQUESTS_KEY};
use crate::effects::Recorder;
use crate::entry::{Cycle, Entry, Kind, RAW, STORED, TOMB};
use crate::index::Index as KeyIndex;
use crate::interest::Interest;
use crate::requests::{Fate, Outcome, RequestId, Requests, outcome_of};
use crate::table::{Mark, Table, TableError};
use crate::undo::{Note, Undo};
use quorate_base::{Index, Millis, Prng, ShardId};
use std::cell::Cell;
use std::collections::BTreeSet;

/// Bits of a version that number the changes of one log entry.
const OPERATION_BITS: u32 = 20;

/// Bytes of effects after which no further expired keys are removed in one go: names may be long.
pub(crate) const EXPIRE_BYTES_MAX: usize = 4 << 20;

/// Deletions are remembered by place hash in this many cells, for [`Keyspace::observed`].
const DELETION_CELLS: usize = 256;

/// The data of one shard.
pub struct Keyspace {
    pub(crate) shard: ShardId,
    pub(crate) index: KeyIndex,
    pub(crate) table: Box<dyn Table>,
    /// Memory holds every key.
    pub(crate) resident: bool,
    /// Keys that exist, expired ones included until they are removed.
    pub(crate) keys: u64,
    pub(crate) expiries: BTreeSet<(Millis, u64)>,
    pub(crate) recorder: Recorder,
    /// Which flag marks the entries that changed since the last cut was begun.
    pub(crate) cycle: Cycle,
    /// Their places; may repeat.
    pub(crate) dirty: Vec<u64>,
    /// The cut under way.
    pub(crate) cutting: Option<Cutting>,
    pub(crate) dirty_bytes: usize,
    /// Collections whose elements the table may hold and that are gone: place and generation.
    pub(crate) dead: Vec<(u64, u64)>,
    /// Everything was dropped since the last cut.
    pub(crate) cleared: bool,
    /// Tombstones that a running flush makes unnecessary.
    pub(crate) flushing: Option<Vec<u64>>,
    pub(crate) durable: Mark,
    /// Where loading the table into memory goes on.
    pub(crate) load_from: Option<Vec<u8>>,
    /// Where looking for expired keys in the table goes on; empty: at the beginning.
    pub(crate) sweep_from: Vec<u8>,
    pub(crate) entry_bytes: usize,
    pub(crate) requests: Requests,
    /// What it takes to take back the changes of the script that runs.
    pub(crate) undo: Option<Undo>,
    interest: Interest,
    deletions: Box<[u64; DELETION_CELLS]>,
    /// The greatest version that was read since [`Keyspace::reset_observed`].
    observed: Cell<u64>,
}

/// What happens to a key's expiry when its value is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The key does not expire.
    Never,
    /// An existing expiry stays.
    Keep,
    /// The key expires at this time.
    At(Millis),
}

impl Keyspace {
    /// The data of `shard` as its table holds it. `seed` keys the place hash.
    pub fn new(shard: ShardId, seed: u64, table: Box<dyn Table>) -> Self {
        let durable = table.mark();
        let resident = durable.keys == 0;
        // What was deleted before is not known any more; it was not later than this.
        let deletions = Box::new([version(durable.applied, u32::MAX); DELETION_CELLS]);
        Self {
            shard,
            index: KeyIndex::new(seed),
            table,
            resident,
            keys: durable.keys,
            expiries: BTreeSet::new(),
            recorder: Recorder::default(),
            cycle: Cycle::default(),
            dirty: Vec::new(),
            cutting: None,
            dirty_bytes: 0,
            dead: Vec::new(),
            cleared: false,
            flushing: None,
            durable,
            load_from: (!resident).then(Vec::new),
            sweep_from: Vec::new(),
            entry_bytes: 0,
            requests: Requests::default(),
            undo: None,
            interest: Interest::default(),
            deletions,
            observed: Cell::new(0),
        }
    }

    /// The shard whose data this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The number of keys, expired ones included until they are removed.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The number of keys in memory that expire.
    pub fn keys_with_expiry(&self) -> usize {
        self.expiries.len()
    }

    /// True while memory holds every key.
    pub fn resident(&self) -> bool {
        self.resident
    }

    /// True if everything was dropped since the last flush was begun.
    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// About how many bytes of memory the data takes.
    pub fn memory_bytes(&self) -> usize {
        self.entry_bytes + self.index.table_bytes() + self.expiries.len() * 24
    }

    /// The log index that the changes recorded from now on will get. Call it whenever a batch was
    /// taken and proposed.
    pub fn begin_batch(&mut self, index: Index, now: Millis) {
        self.recorder.begin(index, now);
    }

    /// The effects recorded since [`Keyspace::begin_batch`]; empty if nothing changed.
    pub fn batch(&self) -> &[u8] {
        self.recorder.batch()
    }

    /// Takes the batch to propose it.
    pub fn take_batch(&mut self) -> Vec<u8> {
        self.recorder.take()
    }

    /// Reads from the table which requests were executed. Call it once, before anything is replayed.
    pub fn load_requests(&mut self) -> Result<(), TableError> {
        let Some(record) = self.table.get(REQUESTS_KEY)? else { return Ok(()) };
        self.requests = Requests::decode(&record).ok_or_else(|| {
            TableError(format!(
                "shard {}: the record of executed requests makes no sense; it was written by a \
                 newer version, or it is damaged",
                self.shard
            ))
        })?;
        Ok(())
    }

    /// Its table holds nothing of worth: the first flush begins with dropping it all.
    pub fn distrust_table(&mut self) {
        self.cleared = true;
        (self.resident, self.load_from) = (true, None);
    }

    /// Gives up what is in memory and keeps the table.
    pub fn into_table(self) -> Box<dyn Table> {
        self.table
    }

    /// The table as it is now, for as long as the result lives.
    pub fn table_snapshot(&self) -> Box<dyn Table> {
        self.table.snapshot()
    }

    /// The time that the last change was logged with, or that commands see.
    pub fn now(&self) -> Millis {
        self.recorder.now()
    }

    /// What became of a request.
    pub fn fate(&self, id: RequestId) -> Fate {
        self.requests.fate(id)
    }

    /// Begins a session of requests; one that exists goes on.
    pub fn open_session(&mut self, session: u64) {
        self.recorder.session(session);
        self.requests.open(session, self.recorder.now());
    }

    /// Notes that a request was executed by the changes recorded last and answered with `reply`,
    /// and that all up to number `floor` of its session were answered.
    pub fn request_executed(&mut self, id: RequestId, floor: u64, reply: &[u8]) {
        self.request_done(id, floor, outcome_of(reply));
    }

    /// Notes that a request was not executed, so that it never will be.
    pub fn void_request(&mut self, id: RequestId) {
        self.request_done(id, 0, Outcome::Void);
    }

    fn request_done(&mut self, id: RequestId, floor: u64, outcome: Outcome) {
        self.recorder.done(id, floor, &outcome);
        let (index, now) = (self.recorder.index(), self.recorder.now());
        self.requests.done(id, floor, index, outcome, now);
    }

    /// What WATCH remembers of `key`, the same on every replica: whether it exists, and a number
    /// that is another one after every change.
    pub fn watch_token(&mut self, key: &[u8]) -> Result<(bool, u64), TableError> {
        let place = crate::place::place_hash(self.index.seed(), key);
        self.load(place, key)?;
        let live = self.peek(place, key).is_some();
        let version = match self.index.get(place, key) {
            Some(entry) if !entry.is_tomb() => entry.version(),
            _ => self.deletions[place as usize % DELETION_CELLS],
        };
        Ok((live, version))
    }

    /// Who waits for keys of this shard or watches them.
    pub fn interest(&mut self) -> &mut Interest {
        &mut self.interest
    }

    /// Forgets what was read so far.
    #[inline]
    pub fn reset_observed(&self) {
        self.observed.set(0);
    }

    /// The log index of the newest change that has been read since the last reset: a reply that
    /// depends on these reads must wait until that entry is committed.
    #[inline]
    pub fn observed(&self) -> Index {
        version_index(self.observed.get())
    }

    /// Says that a reply depends on everything in this shard (DBSIZE, SCAN).
    pub fn observe_all(&self) {
        self.observed.set(u64::MAX);
    }

    // --- reading -----------------------------------------------------------------------------

    /// Brings the entry of `key` into memory if only the table holds it.
    #[inline]
    pub(crate) fn load(&mut self, place: u64, key: &[u8]) -> Result<(), TableError> {
        if self.resident || self.cleared || self.index.get(place, key).is_some() {
            return Ok(());
        }
        self.load_record(place, key)
    }

    /// The live entry of `key` in memory: neither deleted nor expired.
    #[inline]
    pub(crate) fn peek(&self, place: u64, key: &[u8]) -> Option<&Entry> {
        let Some(entry) = self.index.get(place, key) else {
            self.observe(self.deletions[place as usize % DELETION_CELLS]);
            return None;
        };
        self.observe(entry.version());
        entry.is_live(self.recorder.now()).then_some(entry)
    }

    /// The same after loading; also notes the time of use.
    #[inline]
    pub(crate) fn fetch(&mut self, place: u64, key: &[u8]) -> Result<Option<&Entry>, TableError> {
        self.load(place, key)?;
        let now = self.recorder.now();
        let mut observed = self.deletions[place as usize % DELETION_CELLS];
        let mut live = None;
        if let Some(entry) = self.index.get_mut(place, key) {
            observed = entry.version();
            if entry.is_live(now) {
                entry.set_accessed(seconds(now));
                live = Some(&*entry);
            }
        }
        self.observed.set(self.observed.get().max(observed));
        Ok(live)
    }

    #[inline]
    fn observe(&self, version: u64) {
        self.observed.set(self.observed.get().max(version));
    }

    /// Removes `key` if it has expired.
    #[inline]
    pub(crate) fn purge(&mut self, place: u64, key: &[u8]) {
        let now = self.recorder.now();
        let dead = match self.index.get(place, key) {
            Some(e) if !e.is_tomb() && !e.is_live(now) => generation(e),
            _ => return,
        };
        self.recorder.delete(key, true, dead);
        self.place_delete(place, key, true, dead);
    }

    /// A random live key, if a few draws find one.
    pub(crate) fn random_key(&self, prng: &mut Prng) -> Option<Vec<u8>> {
        for _ in 0..100 {
            let key = self.index.random(prng)?.key();
            let place = crate::place::place_hash(self.index.seed(), key);
            if self.peek(place, key).is_some() {
                return Some(key.to_vec());
            }
        }
        None
    }

    // --- changing ----------------------------------------------------------------------------

    /// Sets a string, whatever the key held before.
    #[inline]
    pub(crate) fn set_string(
        &mut self,
        place: u64,
        key: &[u8],
        value: &[u8],
        expiry: Expiry,
        raw: bool,
    ) -> Result<(), TableError> {
        let now = self.recorder.now();
        if let Some(entry) = self.index.get_mut(place, key)
            && entry.is_plain_string()
            && !matches!(expiry, Expiry::At(_))
        {
            // By far the most frequent case gets by with one look-up.
            if let Some(cutting) = &mut self.cutting {
                cutting.settle(self.cycle, place, entry);
            }
            self.recorder.set(key, value, None, raw, false, 0);
            let version = self.recorder.bump();
            if !self.interest.is_empty() {
                self.interest.changed(key);
            }
            let dirty = self.cycle.dirty();
            let (flags, before) = (entry.flags(), entry.bytes());
            if let Some(undo) = &mut self.undo {
                let old = entry.value().expect("a plain string has a value");
                undo.push(Note::Whole(Entry::string(key, old, 0, None, entry.is_raw(), 0)));
            }
            entry.replace_plain(value, version, raw, seconds(now), flags & STORED | dirty);
            self.entry_bytes = self.entry_bytes + entry.bytes() - before;
            if flags & dirty == 0 {
                self.dirty.push(place);
                self.dirty_bytes += entry.bytes();
            }
            return Ok(());
        }
        self.load(place, key)?;
        self.purge(place, key);
        let old = self.index.get(place, key);
        let expiry = match expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
            Expiry::Keep => old.filter(|e| !e.is_tomb()).and_then(Entry::expiry),
        };
        let created = old.is_none_or(Entry::is_tomb);
        let dead = old.map_or(0, generation);
        self.recorder.set(key, value, expiry, raw, created, dead);
        self.place_string(place, key, value, expiry, raw, created, dead, seconds(now));
        Ok(())
    }

    /// The effect of a SET, with what the leader knew about the previous entry.
    #[expect(clippy::too_many_arguments, reason = "the fields of one recorded effect")]
    pub(crate) fn place_string(
        &mut self,
        place: u64,
        key: &[u8],
        value: &[u8],
        expiry: Option<Millis>,
        raw: bool,
        created: bool,
        dead: u64,
        accessed: u32,
    ) {
        self.settle(place, key);
        let version = self.bump(key);
        self.keys += u64::from(created);
        if dead != 0 {
            self.bury_replaced(place, key, dead);
        }
        let maybe_stored = if self.resident { 0 } else { STORED };
        let dirty = self.cycle.dirty();
        let Some(entry) = self.index.get_mut(place, key) else {
            self.note(|| Note::Absent(key.into()));
            let mut entry = Entry::string(key, value, version, expiry, raw, accessed);
            entry.set_flags(entry.flags() | dirty | maybe_stored);
            self.dirty.push(place);
            self.dirty_bytes += entry.bytes();
            self.entry_bytes += entry.bytes();
            if let Some(at) = expiry {
                self.expiries.insert((at, place));
            }
            self.index.insert(place, entry);
            return;
        };
        let flags = entry.flags();
        let old_expiry = entry.expiry();
        let before = entry.bytes();
        let new = Entry::string(key, value, version, expiry, raw, accessed);
        let old = std::mem::replace(entry, new);
        entry.set_flags(entry.flags() | flags & STORED | dirty);
        self.entry_bytes = self.entry_bytes + entry.bytes() - before;
        if flags & dirty == 0 {
            self.dirty.push(place);
            self.dirty_bytes += entry.bytes();
        }
        self.note(|| if old.is_tomb() { Note::Absent(key.into()) } else { Note::Whole(old) });
        if old_expiry != expiry {
            self.move_expiry(place, old_expiry, expiry);
        }
    }

    /// Writes `data` at `offset` into the string `key`, created empty if absent and grown with
    /// zeros. The caller has checked the type and the size.
    pub(crate) fn patch_string(
        &mut self,
        place: u64,
        key: &[u8],
        offset: usize,
        data: &[u8],
    ) -> Result<(), TableError> {
        self.load(place, key)?;
        self.purge(place, key);
        if self.index.get(place, key).is_none_or(Entry::is_tomb) {
            let mut value = vec![0; offset];
            value.extend_from_slice(data);
            return self.set_string(place, key, &value, Expiry::Never, true);
        }
        self.recorder.patch(key, offset, data);
        self.place_patch(place, key, offset, data);
        Ok(())
    }

    pub(crate) fn place_patch(&mut self, place: u64, key: &[u8], offset: usize, data: &[u8]) {
        let version = self.bump(key);
        if let Some(undo) = &mut self.undo {
            let entry = self.index.get(place, key).expect("the caller loaded the key");
            undo.push(patched(entry, offset, data.len()));
        }
        self.change(place, key, |entry| {
            entry.patch(offset, data);
            entry.set_flags(entry.flags() | RAW);
            entry.set_version(version);
        });
    }

    /// Sets or clears the expiry of a live key.
    pub(crate) fn set_expiry(&mut self, place: u64, key: &[u8], expiry: Option<Millis>) {
        self.recorder.expire(key, expiry);
        self.place_expiry(place, key, expiry);
    }

    pub(crate) fn place_expiry(&mut self, place: u64, key: &[u8], expiry: Option<Millis>) {
        let version = self.bump(key);
        let mut old = None;
        self.change(place, key, |entry| {
            old = entry.expiry();
            entry.set_expiry(expiry);
            entry.set_version(version);
        });
        self.note(|| Note::Expiry { key: key.into(), expiry: old });
        self.move_expiry(place, old, expiry);
    }

    /// Deletes `key`; false if it is absent or has expired.
    pub(crate) fn delete(&mut self, place: u64, key: &[u8]) -> Result<bool, TableError> {
        self.load(place, key)?;
        self.purge(place, key);
        let Some(entry) = self.index.get(place, key).filter(|e| !e.is_tomb()) else {
            return Ok(false);
        };
        let dead = generation(entry);
        self.recorder.delete(key, false, dead);
        self.place_delete(place, key, false, dead);
        Ok(true)
    }

    pub(crate) fn place_delete(
        &mut self,
        place: u64,
        key: &[u8],
        because_expired: bool,
        dead: u64,
    ) {
        self.settle(place, key);
        let version = if because_expired { self.recorder.bump() } else { self.bump(key) };
        self.deletions[place as usize % DELETION_CELLS] = version;
        self.keys = self.keys.checked_sub(1).expect("a deleted key was counted");
        if dead != 0 {
            self.bury_replaced(place, key, dead);
        }
        let Some(entry) = self.index.get_mut(place, key) else {
            assert!(!self.resident, "shard {} deletes a key that it does not hold", self.shard);
            self.insert_tomb(place, key, version);
            return;
        };
        let (flags, bytes, expiry) = (entry.flags(), entry.bytes(), entry.expiry());
        self.entry_bytes -= bytes;
        let old = if flags & STORED == 0 {
            self.index.remove(place, key)
        } else {
            let dirty = self.cycle.dirty();
            let old = std::mem::replace(entry, Entry::tomb(key, version));
            entry.set_flags(TOMB | STORED | dirty);
            self.entry_bytes += entry.bytes();
            if flags & dirty == 0 {
                self.dirty.push(place);
                self.dirty_bytes += bytes;
            }
            Some(old)
        };
        if let Some(old) = old.filter(|old| !because_expired && !old.is_left_empty()) {
            self.note(|| Note::Whole(old));
        }
        self.move_expiry(place, expiry, None);
    }

    /// Drops every key.
    pub(crate) fn clear(&mut self) {
        if self.keys == 0 {
            // That nothing is left to drop may be news that is not committed yet.
            self.observe_all();
            return;
        }
        self.recorder.clear();
        self.place_clear();
    }

    pub(crate) fn place_clear(&mut self) {
        self.note_cleared();
        self.tell_cleared();
        self.cut_rest();
        let version = self.recorder.bump();
        self.deletions.fill(version);
        self.index = KeyIndex::new(self.index.seed());
        self.expiries.clear();
        self.dirty.clear();
        self.dead.clear();
        (self.keys, self.dirty_bytes, self.entry_bytes) = (0, 0, 0);
        self.cleared = true;
        // Until the flush of this clear, memory alone holds what exists.
        (self.resident, self.load_from) = (true, None);
        if let Some(tombs) = &mut self.flushing {
            tombs.clear();
        }
    }

    /// Tells who is interested in keys that are about to be dropped.
    fn tell_cleared(&mut self) {
        let now = self.recorder.now();
        for key in self.interest.keys() {
            let place = crate::place::place_hash(self.index.seed(), &key);
            // What cannot be read may be there.
            let unknown = self.load(place, &key).is_err();
            if unknown || self.index.get(place, &key).is_some_and(|entry| entry.is_live(now)) {
                self.interest.changed(&key);
            }
        }
    }

    /// Moves the entry of `from` to `to` within this shard, replacing what `to` held.
    pub(crate) fn rename(
        &mut self,
        (from_place, from): (u64, &[u8]),
        (to_place, to): (u64, &[u8]),
    ) -> Result<(), TableError> {
        self.load(from_place, from)?;
        self.delete(to_place, to)?;
        self.recorder.rename(from, to);
        self.place_rename((from_place, from), (to_place, to));
        Ok(())
    }

    pub(crate) fn place_rename(
        &mut self,
        (from_place, from): (u64, &[u8]),
        (to_place, to): (u64, &[u8]),
    ) {
        self.note(|| Note::Renamed { from: from.into(), to: to.into() });
        self.settle(from_place, from);
        self.settle(to_place, to);
        let version = self.bump(to);
        let dirty = self.cycle.dirty();
        let old = self.index.get_mut(from_place, from).expect("the caller loaded the key");
        let (flags, expiry) = (old.flags(), old.expiry());
        let dead = stored_generation(old);
        let mut moved = std::mem::replace(old, Entry::tomb(from, version));
        old.set_flags(TOMB | dirty | STORED);
        self.entry_bytes += old.bytes();
        if flags & dirty == 0 {
            self.dirty.push(from_place);
        }
        if flags & STORED == 0 {
            self.index.remove(from_place, from);
            self.entry_bytes -= Entry::tomb(from, version).bytes();
        }
        self.entry_bytes -= moved.bytes();
        self.bury(from_place, dead);
        self.deletions[from_place as usize % DELETION_CELLS] = version;
        match &mut moved {
            Entry::Coll(coll) => {
                coll.key = to.into();
                coll.elements.mark_all_dirty();
                coll.removed.clear();
                (coll.version, coll.generation) = (version, version);
            }
            Entry::Flat(_) => {
                let value = moved.value().expect("a live entry was moved").to_vec();
                let raw = flags & RAW != 0;
                moved = Entry::string(to, &value, version, expiry, raw, moved.accessed());
            }
        }
        self.move_expiry(from_place, expiry, None);
        self.move_expiry(to_place, None, expiry);
        let stored = match self.index.remove(to_place, to) {
            Some(tomb) => {
                self.entry_bytes -= tomb.bytes();
                tomb.flags() & STORED
            }
            None => 0,
        };
        moved.set_flags(moved.flags() & !STORED | stored | dirty);
        self.dirty.push(to_place);
        self.dirty_bytes += moved.bytes();
        self.entry_bytes += moved.bytes();
        self.index.insert(to_place, moved);
    }

    /// Opens a collection for changes; the guard creates it at the first change if it is absent
    /// and deletes it if it is left empty (a stream stays). The key holds `kind` or nothing.
    pub(crate) fn open(
        &mut self,
        place: u64,
        key: &[u8],
        kind: Kind,
    ) -> Result<CollMut<'_>, TableError> {
        self.load(place, key)?;
        self.purge(place, key);
        Ok(CollMut::open(self, place, key, kind))
    }

    /// Removes up to `limit` keys that have expired; returns how many.
    pub fn expire_due(&mut self, limit: usize) -> usize {
        let now = self.recorder.now();
        let due: Vec<_> = self.expiries.range(..=(now, u64::MAX)).take(limit).copied().collect();
        let mut removed = 0;
        for (at, place) in due {
            if self.batch().len() >= EXPIRE_BYTES_MAX {
                break;
            }
            let keys: Vec<Vec<u8>> = self
                .index
                .at_place_mut(place)
                .filter(|e| e.expiry() == Some(at) && !e.is_tomb())
                .map(|e| e.key().to_vec())
                .collect();
            removed += keys.len();
            for key in keys {
                self.purge(place, &key);
            }
            self.expiries.remove(&(at, place));
        }
        removed
    }

    /// When the next key in memory expires.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.expiries.first().map(|&(at, _)| at)
    }

    // --- shared by the primitives ------------------------------------------------------------

    /// Numbers one change of `key` and tells who is interested.
    #[inline]
    pub(crate) fn bump(&mut self, key: &[u8]) -> u64 {
        let version = self.recorder.bump();
        if !self.interest.is_empty() {
            self.interest.changed(key);
        }
        version
    }

    /// The same for a change that watchers of the key do not see.
    pub(crate) fn bump_quietly(&mut self, key: &[u8]) -> u64 {
        self.interest.wake(key);
        self.recorder.bump()
    }

    /// Before an entry changes: if the cut under way still has to write it, writes it now.
    #[inline]
    pub(crate) fn settle(&mut self, place: u64, key: &[u8]) {
        if let Some(cutting) = &mut self.cutting
            && let Some(entry) = self.index.get_mut(place, key)
        {
            cutting.settle(self.cycle, place, entry);
        }
    }

    /// Applies `f` to an entry in memory and keeps the books.
    pub(crate) fn change(&mut self, place: u64, key: &[u8], f: impl FnOnce(&mut Entry)) {
        self.settle(place, key);
        let dirty = self.cycle.dirty();
        let entry = self.index.get_mut(place, key).expect("the caller loaded the key");
        let (before, flags) = (entry.bytes(), entry.flags());
        f(entry);
        self.entry_bytes = self.entry_bytes + entry.bytes() - before;
        entry.set_flags(entry.flags() | dirty);
        if flags & dirty == 0 {
            self.dirty.push(place);
            self.dirty_bytes += entry.bytes();
        }
    }

    pub(crate) fn move_expiry(&mut self, place: u64, old: Option<Millis>, new: Option<Millis>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            self.expiries.remove(&(at, place));
        }
        if let Some(at) = new {
            self.expiries.insert((at, place));
        }
    }

    pub(crate) fn insert_tomb(&mut self, place: u64, key: &[u8], version: u64) {
        let mut tomb = Entry::tomb(key, version);
        tomb.set_flags(TOMB | STORED | self.cycle.dirty());
        self.entry_bytes += tomb.bytes();
        self.dirty.push(place);
        self.index.insert(place, tomb);
    }

    /// Buries the collection at `key` with this generation, if the table may hold elements of it:
    /// what the log says of it does not depend on what which replica has flushed.
    fn bury_replaced(&mut self, place: u64, key: &[u8], generation: u64) {
        let stored = match self.index.get(place, key) {
            Some(entry) => stored_generation(entry),
            None if self.resident => 0,
            None => generation,
        };
        self.bury(place, stored);
    }

    /// Remembers that the elements of a dead collection must leave the table.
    pub(crate) fn bury(&mut self, place: u64, generation: u64) {
        if generation != 0 {
            self.dead.push((place, generation));
        }
    }
}

/// What it takes to take back a patch of so many bytes.
fn patched(entry: &Entry, offset: usize, len: usize) -> Note {
    let key = entry.key();
    let value = entry.value().expect("only strings are patched");
    match value.get(offset..offset + len) {
        Some(bytes) => Note::Patched { key: key.into(), offset, bytes: bytes.to_vec() },
        None => {
            let (expiry, raw) = (entry.expiry(), entry.is_raw());
            Note::Whole(Entry::string(key, value, 0, expiry, raw, 0))
        }
    }
}

/// The generation of a collection; 0 for a string or a tombstone.
pub(crate) fn generation(entry: &Entry) -> u64 {
    entry.coll().map_or(0, |coll| coll.generation)
}

/// The generation whose elements the table may hold; 0 if there are none.
pub(crate) fn stored_generation(entry: &Entry) -> u64 {
    match entry.coll() {
        Some(coll) if coll.flags & STORED != 0 => coll.generation,
        _ => 0,
    }
}

/// Times of use are kept in wrapping seconds.
pub(crate) fn seconds(now: Millis) -> u32 {
    (now / 1000) as u32
}

/// The version of change number `operation` of the entry at `index`.
pub(crate) fn version(index: Index, operation: u32) -> u64 {
    let operation = operation.min((1 << OPERATION_BITS) - 1);
    index << OPERATION_BITS | u64::from(operation)
}

/// The log index within a version.
pub fn version_index(version: u64) -> Index {
    version >> OPERATION_BITS
}

/// An empty collection that is in no index.
pub(crate) fn new_coll(key: &[u8], kind: Kind) -> Box<crate::entry::Coll> {
    Box::new(crate::entry::Coll {
        key: key.into(),
        kind,
        flags: 0,
        encoding: 0,
        accessed: 0,
        version: 0,
        generation: 0,
        expiry: 0,
        aux: Vec::new(),
        elements: Default::default(),
        removed: Vec::new(),
    })
}
