//! Which requests a shard has executed, so that a repeated one is answered and not executed again.
//!
//! Where replicas share a shard, the fate of a write is unknown when its leader fails; whoever
//! holds the client's connection sends it again to the next leader. So each write carries a name:
//! a *session*, opened by an entry of the shard's log, and a sequence number within it. What was
//! executed is recorded in the same entry as its effects, with the reply, and is part of the
//! shard's state: replayed, flushed, and copied with a snapshot.
//!
//! The record is bounded. A session says with each request up to which number everything has been
//! answered; that is forgotten. Sessions that nobody used for [`IDLE_MS`] of logged time, and the
//! least recently used ones when there are too many, are dropped whole; a request of a session
//! that is not there is refused, never executed. Every bound is a function of the log, so that
//! all replicas drop the same.
//!
//! ```text
//! table record   format u8 = 1 │ count │ count × ( id u64 │ used u64, ms │ order │ floor │ count ×
//!                ( number │ index │ tag u8: 0 reply, 1 not kept, 2 void │ [reply] ) )
//! ```
//!
//! Numbers without a type are varints, the reply is a byte string with a varint length.

use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_base::{Index, Millis};
use std::collections::BTreeMap;

const FORMAT: u8 = 1;

/// A session that was not used for so long is dropped.
pub const IDLE_MS: Millis = 10 * 60 * 1000;
/// The most sessions of a shard.
pub const SESSIONS_MAX: usize = 1024;
/// The most executed requests that are remembered of a session.
pub const REMEMBERED_MAX: usize = 8192;
/// A longer reply is not kept: that it was executed is.
pub const REPLY_BYTES_MAX: usize = 4096;
/// What all sessions of a shard remember, in bytes.
pub const BYTES_MAX: usize = 16 << 20;

/// What one remembered request weighs beside its reply.
const OVERHEAD_BYTES: usize = 48;

/// The name of a request within its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Drawn at random by whoever opened it.
    pub session: u64,
    /// From 1, ascending, each once.
    pub number: u64,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not executed so far.
    New,
    /// Executed in the entry at this index, with this reply.
    Executed(Index, Outcome),
    /// Its session is not known: it was never opened, or dropped.
    NoSession,
    /// It was executed, or given up, long ago.
    Forgotten,
}

/// How an executed request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with this reply.
    Reply(Vec<u8>),
    /// It was executed; its reply was too long to keep.
    NotKept,
    /// It was not executed, and never will be.
    Void,
}

/// The sessions of a shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    sessions: BTreeMap<u64, Session>,
    /// Which session was used how long ago: by a counter of uses.
    by_use: BTreeMap<u64, u64>,
    bytes: usize,
    /// Something changed since the last record was written.
    changed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Session {
    used: Millis,
    order: u64,
    floor: u64,
    executed: BTreeMap<u64, (Index, Outcome)>,
}

impl Requests {
    pub(crate) fn fate(&self, id: RequestId) -> Fate {
        match self.sessions.get(&id.session) {
            None => Fate::NoSession,
            Some(session) => match session.executed.get(&id.number) {
                Some((index, outcome)) => Fate::Executed(*index, outcome.clone()),
                None if id.number <= session.floor => Fate::Forgotten,
                None => Fate::New,
            },
        }
    }

    pub(crate) fn open(&mut self, session: u64, now: Millis) {
        self.changed = true;
        self.touch(session, now);
        let idle = |s: &Session| s.used.saturating_add(IDLE_MS) < now;
        while let Some((_, &oldest)) = self.by_use.first_key_value()
            && (idle(&self.sessions[&oldest]) || self.sessions.len() > SESSIONS_MAX)
        {
            self.drop_session(oldest);
        }
    }

    /// Notes that `id` ended in the entry at `index`, and that everything up to `floor` was
    /// answered. Without its session nothing is noted.
    pub(crate) fn done(
        &mut self,
        id: RequestId,
        floor: u64,
        index: Index,
        outcome: Outcome,
        now: Millis,
    ) {
        if !self.sessions.contains_key(&id.session) {
            return;
        }
        self.changed = true;
        let session = self.touch(id.session, now);
        let added = weight(&outcome);
        session.executed.insert(id.number, (index, outcome));
        let mut freed = 0;
        // What is answered is known to be so by whoever asked: it will not ask again.
        session.floor = session.floor.max(floor);
        while let Some(entry) = session.executed.first_entry()
            && (*entry.key() <= session.floor || session.executed.len() > REMEMBERED_MAX)
        {
            let (number, (_, outcome)) = session.executed.pop_first().expect("it was just seen");
            session.floor = session.floor.max(number);
            freed += weight(&outcome);
        }
        self.bytes = self.bytes + added - freed;
        while self.bytes > BYTES_MAX
            && let Some((_, &oldest)) = self.by_use.first_key_value()
        {
            self.drop_session(oldest);
        }
    }

    fn touch(&mut self, id: u64, now: Millis) -> &mut Session {
        let order = self.by_use.last_key_value().map_or(0, |(order, _)| *order) + 1;
        let session = self.sessions.entry(id).or_default();
        self.by_use.remove(&session.order);
        (session.order, session.used) = (order, session.used.max(now));
        self.by_use.insert(order, id);
        session
    }

    fn drop_session(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.by_use.remove(&session.order);
        self.bytes -= session.executed.values().map(|(_, outcome)| weight(outcome)).sum::<usize>();
    }

    /// The record for the table, if it must be written anew.
    pub(crate) fn record(&mut self, cleared: bool) -> Option<Vec<u8>> {
        let wanted = self.changed || cleared && !self.sessions.is_empty();
        self.changed = false;
        wanted.then(|| self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_varint(&mut out, self.sessions.len() as u64);
        for (id, session) in &self.sessions {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&session.used.to_le_bytes());
            put_varint(&mut out, session.order);
            put_varint(&mut out, session.floor);
            put_varint(&mut out, session.executed.len() as u64);
            for (number, (index, outcome)) in &session.executed {
                put_varint(&mut out, *number);
                put_varint(&mut out, *index);
                put_outcome(&mut out, outcome);
            }
        }
        out
    }

    /// Reads a table's record; `None` if it makes no sense.
    pub(crate) fn decode(record: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(record);
        if reader.u8()? != FORMAT {
            return None;
        }
        let mut requests = Self::default();
        for _ in 0..reader.varint()? {
            let id = reader.u64()?;
            let mut session = Session {
                used: reader.u64()?,
                order: reader.varint()?,
                floor: reader.varint()?,
                executed: BTreeMap::new(),
            };
            for _ in 0..reader.varint()? {
                let (number, index) = (reader.varint()?, reader.varint()?);
                let outcome = read_outcome(&mut reader)?;
                requests.bytes += weight(&outcome);
                session.executed.insert(number, (index, outcome));
            }
            requests.by_use.insert(session.order, id);
            requests.sessions.insert(id, session);
        }
        reader.is_empty().then_some(requests)
    }
}

fn weight(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Reply(reply) => OVERHEAD_BYTES + reply.len(),
        Outcome::NotKept | Outcome::Void => OVERHEAD_BYTES,
    }
}

/// How a command that was answered with `reply` is remembered.
pub(crate) fn outcome_of(reply: &[u8]) -> Outcome {
    if reply.len() > REPLY_BYTES_MAX { Outcome::NotKept } else { Outcome::Reply(reply.to_vec()) }
}

pub(crate) fn put_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Reply(reply) => {
            out.push(0);
            put_bytes(out, reply);
        }
        Outcome::NotKept => out.push(1),
        Outcome::Void => out.push(2),
    }
}

pub(crate) fn read_outcome(reader: &mut Reader<'_>) -> Option<Outcome> {
    Some(match reader.u8()? {
        0 => Outcome::Reply(reader.bytes()?.to_vec()),
        1 => Outcome::NotKept,
        2 => Outcome::Void,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(session: u64, number: u64) -> RequestId {
        RequestId { session, number }
    }

    fn reply(text: &str) -> Outcome {
        Outcome::Reply(text.as_bytes().to_vec())
    }

    #[test]
    fn a_request_is_remembered_until_it_was_answered_and_refused_without_its_session() {
        let mut requests = Requests::default();
        assert_eq!(requests.fate(id(9, 1)), Fate::NoSession);
        requests.open(9, 1_000);
        assert_eq!(requests.fate(id(9, 1)), Fate::New);
        requests.done(id(9, 1), 0, 5, reply("+OK"), 1_000);
        requests.done(id(9, 3), 0, 6, Outcome::Void, 1_000);
        assert_eq!(requests.fate(id(9, 1)), Fate::Executed(5, reply("+OK")));
        assert_eq!(requests.fate(id(9, 2)), Fate::New);
        assert_eq!(requests.fate(id(9, 3)), Fate::Executed(6, Outcome::Void));
        requests.done(id(9, 4), 2, 7, reply(":1"), 1_000);
        assert_eq!(requests.fate(id(9, 1)), Fate::Forgotten);
        assert_eq!(requests.fate(id(9, 2)), Fate::Forgotten);
        assert_eq!(requests.fate(id(9, 3)), Fate::Executed(6, Outcome::Void));
        requests.open(10, 1_001 + IDLE_MS);
        assert_eq!(requests.fate(id(9, 4)), Fate::NoSession);
        assert_eq!(requests.bytes, 0);
    }

    #[test]
    fn the_bounds_drop_what_was_used_least_recently() {
        let mut requests = Requests::default();
        for session in 0..SESSIONS_MAX as u64 + 1 {
            requests.open(session + 1, 0);
        }
        assert_eq!(requests.fate(id(1, 1)), Fate::NoSession);
        assert_eq!(requests.fate(id(2, 1)), Fate::New);
        for number in 1..=REMEMBERED_MAX as u64 + 1 {
            requests.done(id(2, number), 0, number, reply("x"), 0);
        }
        assert_eq!(requests.fate(id(2, 1)), Fate::Forgotten);
        assert_eq!(requests.fate(id(2, 2)), Fate::Executed(2, reply("x")));
    }

    #[test]
    fn a_record_is_written_when_something_changed_and_reads_back_the_same() {
        let mut requests = Requests::default();
        assert_eq!(requests.record(true), None);
        requests.open(7, 1);
        requests.done(id(7, 1), 0, 5, reply("+OK\r\n"), 2);
        requests.done(id(7, 2), 1, 6, outcome_of(&vec![0; REPLY_BYTES_MAX + 1]), 2);
        let record = requests.record(false).unwrap();
        assert_eq!(requests.record(false), None);
        assert!(requests.record(true).is_some());
        assert_eq!(Requests::decode(&record), Some(requests));
        for len in 0..record.len() {
            assert_eq!(Requests::decode(&record[..len]), None);
        }
    }
}
