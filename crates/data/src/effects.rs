//! Effects: what a shard's log entries say, and how they are replayed.
//!
//! A leader executes a command once, on arrival, and logs what it changed. Replaying needs no
//! clock, no randomness and, for plain sets and deletes, no read of the table. The payload of an
//! entry:
//!
//! ```text
//! format u8 = 1 │ time u64, ms │ operations …
//! 1 SET     flags u8 (1 raw, 2 expires, 4 created, 8 dead) │ [expiry u64] │ [dead varint] │ key │ value
//! 2 PATCH   key │ offset varint │ bytes
//! 3 DELETE  flags u8 (1 because expired, 8 dead) │ [dead varint] │ key
//! 4 EXPIRE  key │ expiry u64, 0 for none
//! 5 OPEN    kind u8 │ created u8 │ key          followed by any number of
//! 6   PUT     sub │ val
//! 7   REMOVE  sub                               and then one
//! 8   CLOSE   doomed u8 │ encoding u8 │ aux
//! 9 RENAME  from │ to
//! 10 CLEAR
//! 11 SESSION session u64                       a session of requests begins
//! 12 DONE    session u64 │ number varint │ floor varint │ outcome
//! ```
//!
//! The last two, and what an outcome looks like, are explained in `requests.rs`.
//!
//! Byte strings carry a varint length. *dead* is the generation of a replaced or deleted
//! collection, whose elements must leave the table of each replica that has flushed any. Nothing
//! in a batch depends on how its author splits the shard between memory and table.

use crate::entry::Kind;
use crate::keyspace::{Keyspace, seconds, version};
use crate::place::place_hash;
use crate::requests::{Outcome, RequestId, put_outcome, read_outcome};
use crate::table::TableError;
use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_base::{Index, Millis};

const FORMAT: u8 = 1;

const SET: u8 = 1;
const PATCH: u8 = 2;
const DELETE: u8 = 3;
const EXPIRE: u8 = 4;
const OPEN: u8 = 5;
const PUT: u8 = 6;
const REMOVE: u8 = 7;
const CLOSE: u8 = 8;
const RENAME: u8 = 9;
const CLEAR: u8 = 10;
const SESSION: u8 = 11;
const DONE: u8 = 12;

const FLAG_RAW: u8 = 1;
const FLAG_BECAUSE_EXPIRED: u8 = 1;
const FLAG_EXPIRES: u8 = 2;
const FLAG_CREATED: u8 = 4;
const FLAG_DEAD: u8 = 8;

/// Why a log entry could not be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// The payload is not one this version writes: the offset at which it stops making sense.
    Malformed(usize),
    /// The table could not be read.
    Table(TableError),
}

impl std::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(at) => write!(
                f,
                "the log entry makes no sense at byte {at}: it was written by a newer version, \
                 or it is damaged"
            ),
            Self::Table(error) => write!(f, "the table could not be read: {error}"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<TableError> for ReplayError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}

/// `flag` if `condition` holds, else no flag.
fn when(condition: bool, flag: u8) -> u8 {
    if condition { flag } else { 0 }
}

/// The batch of effects under construction, and the numbering of changes.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    batch: Vec<u8>,
    index: Index,
    operation: u32,
    now: Millis,
    replaying: bool,
}

impl Recorder {
    pub(crate) fn begin(&mut self, index: Index, now: Millis) {
        assert!(self.batch.is_empty(), "the batch for entry {} was not taken", self.index);
        if index != self.index {
            (self.index, self.operation) = (index, 0);
        }
        self.now = now;
    }

    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    pub(crate) fn index(&self) -> Index {
        self.index
    }

    pub(crate) fn batch(&self) -> &[u8] {
        &self.batch
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.batch)
    }

    /// Numbers one change: the version its key gets.
    #[inline]
    pub(crate) fn bump(&mut self) -> u64 {
        self.operation += 1;
        version(self.index, self.operation)
    }

    #[inline]
    fn start(&mut self, operation: u8) -> Option<&mut Vec<u8>> {
        if self.replaying {
            return None;
        }
        if self.batch.is_empty() {
            self.batch.push(FORMAT);
            self.batch.extend_from_slice(&self.now.to_le_bytes());
        }
        self.batch.push(operation);
        Some(&mut self.batch)
    }

    #[inline]
    pub(crate) fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        expiry: Option<Millis>,
        raw: bool,
        created: bool,
        dead: u64,
    ) {
        let Some(out) = self.start(SET) else { return };
        out.push(
            when(raw, FLAG_RAW)
                | when(expiry.is_some(), FLAG_EXPIRES)
                | when(created, FLAG_CREATED)
                | when(dead != 0, FLAG_DEAD),
        );
        if let Some(at) = expiry {
            out.extend_from_slice(&at.to_le_bytes());
        }
        if dead != 0 {
            put_varint(out, dead);
        }
        put_bytes(out, key);
        put_bytes(out, value);
    }

    pub(crate) fn patch(&mut self, key: &[u8], offset: usize, data: &[u8]) {
        let Some(out) = self.start(PATCH) else { return };
        put_bytes(out, key);
        put_varint(out, offset as u64);
        put_bytes(out, data);
    }

    pub(crate) fn delete(&mut self, key: &[u8], because_expired: bool, dead: u64) {
        let Some(out) = self.start(DELETE) else { return };
        out.push(when(because_expired, FLAG_BECAUSE_EXPIRED) | when(dead != 0, FLAG_DEAD));
        if dead != 0 {
            put_varint(out, dead);
        }
        put_bytes(out, key);
    }

    pub(crate) fn expire(&mut self, key: &[u8], expiry: Option<Millis>) {
        let Some(out) = self.start(EXPIRE) else { return };
        put_bytes(out, key);
        out.extend_from_slice(&expiry.unwrap_or(0).to_le_bytes());
    }

    pub(crate) fn open(&mut self, key: &[u8], kind: Kind, created: bool) {
        let Some(out) = self.start(OPEN) else { return };
        out.extend_from_slice(&[kind as u8, u8::from(created)]);
        put_bytes(out, key);
    }

    pub(crate) fn put(&mut self, sub: &[u8], val: &[u8]) {
        let Some(out) = self.start(PUT) else { return };
        put_bytes(out, sub);
        put_bytes(out, val);
    }

    pub(crate) fn remove(&mut self, sub: &[u8]) {
        let Some(out) = self.start(REMOVE) else { return };
        put_bytes(out, sub);
    }

    pub(crate) fn close(&mut self, doomed: bool, encoding: u8, aux: &[u8]) {
        let Some(out) = self.start(CLOSE) else { return };
        out.extend_from_slice(&[u8::from(doomed), encoding]);
        put_bytes(out, aux);
    }

    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) {
        let Some(out) = self.start(RENAME) else { return };
        put_bytes(out, from);
        put_bytes(out, to);
    }

    pub(crate) fn clear(&mut self) {
        self.start(CLEAR);
    }

    pub(crate) fn session(&mut self, session: u64) {
        let Some(out) = self.start(SESSION) else { return };
        out.extend_from_slice(&session.to_le_bytes());
    }

    pub(crate) fn done(&mut self, id: RequestId, floor: u64, outcome: &Outcome) {
        let Some(out) = self.start(DONE) else { return };
        out.extend_from_slice(&id.session.to_le_bytes());
        put_varint(out, id.number);
        put_varint(out, floor);
        put_outcome(out, outcome);
    }
}

impl Keyspace {
    /// Replays the entry at `index`. An empty payload changes nothing.
    pub fn replay(&mut self, index: Index, payload: &[u8]) -> Result<(), ReplayError> {
        if payload.is_empty() {
            return Ok(());
        }
        let mut reader = Reader::new(payload);
        let malformed =
            |reader: &Reader<'_>| ReplayError::Malformed(payload.len() - reader.rest().len());
        if reader.u8() != Some(FORMAT) {
            return Err(ReplayError::Malformed(0));
        }
        let now = reader.u64().ok_or(ReplayError::Malformed(1))?;
        self.recorder.begin(index, now);
        self.recorder.replaying = true;
        let mut result = Ok(());
        while result.is_ok() && !reader.is_empty() {
            result = match self.replay_operation(&mut reader) {
                Some(done) => done.map_err(ReplayError::from),
                None => Err(malformed(&reader)),
            };
        }
        self.recorder.replaying = false;
        result
    }

    /// Replays one operation; `None` if it is malformed.
    fn replay_operation(&mut self, reader: &mut Reader<'_>) -> Option<Result<(), TableError>> {
        let seed = self.index.seed();
        let place = |key: &[u8]| place_hash(seed, key);
        match reader.u8()? {
            SET => {
                let flags = reader.u8()?;
                let expiry = if flags & FLAG_EXPIRES != 0 { Some(reader.u64()?) } else { None };
                let dead = if flags & FLAG_DEAD != 0 { reader.varint()? } else { 0 };
                let (key, value) = (reader.bytes()?, reader.bytes()?);
                let (raw, created) = (flags & FLAG_RAW != 0, flags & FLAG_CREATED != 0);
                let accessed = seconds(self.recorder.now());
                self.place_string(place(key), key, value, expiry, raw, created, dead, accessed);
                Some(Ok(()))
            }
            PATCH => {
                let (key, offset) = (reader.bytes()?, usize::try_from(reader.varint()?).ok()?);
                let data = reader.bytes()?;
                Some(self.load(place(key), key).map(|()| {
                    self.place_patch(place(key), key, offset, data);
                }))
            }
            DELETE => {
                let flags = reader.u8()?;
                let dead = if flags & FLAG_DEAD != 0 { reader.varint()? } else { 0 };
                let key = reader.bytes()?;
                self.place_delete(place(key), key, flags & FLAG_BECAUSE_EXPIRED != 0, dead);
                Some(Ok(()))
            }
            EXPIRE => {
                let (key, at) = (reader.bytes()?, reader.u64()?);
                Some(self.load(place(key), key).map(|()| {
                    self.place_expiry(place(key), key, (at != 0).then_some(at));
                }))
            }
            OPEN => self.replay_collection(reader),
            RENAME => {
                let (from, to) = (reader.bytes()?, reader.bytes()?);
                let loaded = self.load(place(from), from).and_then(|()| self.load(place(to), to));
                Some(loaded.map(|()| self.place_rename((place(from), from), (place(to), to))))
            }
            CLEAR => {
                self.place_clear();
                Some(Ok(()))
            }
            SESSION => {
                self.requests.open(reader.u64()?, self.recorder.now());
                Some(Ok(()))
            }
            DONE => {
                let id = RequestId { session: reader.u64()?, number: reader.varint()? };
                let (floor, outcome) = (reader.varint()?, read_outcome(reader)?);
                let (index, now) = (self.recorder.index(), self.recorder.now());
                self.requests.done(id, floor, index, outcome, now);
                Some(Ok(()))
            }
            _ => None,
        }
    }

    fn replay_collection(&mut self, reader: &mut Reader<'_>) -> Option<Result<(), TableError>> {
        let (kind, _created) = (Kind::from_tag(reader.u8()?)?, reader.u8()?);
        let key = reader.bytes()?;
        let place = place_hash(self.index.seed(), key);
        let mut coll = match self.open(place, key, kind) {
            Ok(coll) => coll,
            Err(error) => return Some(Err(error)),
        };
        coll.touch();
        loop {
            match reader.u8()? {
                PUT => {
                    let (sub, val) = (reader.bytes()?, reader.bytes()?);
                    coll.put(sub, val);
                }
                REMOVE => {
                    coll.remove(reader.bytes()?);
                }
                CLOSE => {
                    let (_doomed, encoding, aux) = (reader.u8()?, reader.u8()?, reader.bytes()?);
                    coll.set_encoding(encoding);
                    coll.set_aux(aux);
                    return Some(Ok(()));
                }
                _ => return None,
            }
        }
    }
}
