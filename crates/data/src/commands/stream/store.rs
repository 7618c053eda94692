//! How a stream lies in its collection: reading it ([`View`]) and changing it ([`Editor`]).
//!
//! ```text
//! element                                   value
//! 'C' │ group u32 BE │ consumer's name  →   number u32 │ seen u64 ms │ active i64 ms, -1 never
//! 'G' │ group's name                    →   number u32 │ last id 16 B BE │ entries read i64, -1 unknown
//! 'O' │ consumer u32 BE │ id 16 B BE    →   (empty): the entry is pending for this consumer
//! 'P' │ group u32 BE │ id 16 B BE       →   consumer varint │ delivered varint ms │ deliveries varint
//! 'e' │ id 16 B BE                      →   count varint, then fields and values, each with its length
//!
//! aux: last id, greatest deleted id (each two varints), entries ever added, length,
//!      the next number (varints)
//! ```
//!
//! Groups and consumers are referred to by numbers, which are given once per stream. Every 'P' has
//! its 'O' and the other way round. The entries sort last, so that XADD appends at the very end.

use super::id::Id;
use crate::coll_mut::CollMut;
use crate::db::Db;
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::sorted::{Span, Sub};
use quorate_base::Millis;
use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_resp::Reply;
use std::collections::BTreeMap;
use std::ops::Bound;

pub(crate) mod portable;

const CONSUMER: u8 = b'C';
const GROUP: u8 = b'G';
const OWNED: u8 = b'O';
const PENDING: u8 = b'P';
const ENTRY: u8 = b'e';

/// The length of an entry's name.
pub(super) const ENTRY_SUB_BYTES: usize = 17;

/// What making an entry pending for another consumer records, or releasing it, at most.
pub(super) const PENDING_BYTES: usize = 128;

/// What is kept beside the elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// The greatest id ever added, or what XSETID made of it.
    pub(super) last: Id,
    /// The greatest id that XDEL deleted.
    pub(super) max_deleted: Id,
    /// How many entries were ever added.
    pub(super) added: u64,
    /// How many entries there are.
    pub(super) len: u64,
    /// The number that the next group or consumer gets.
    next_number: u32,
}

/// A consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    number: u32,
    /// The last id that was delivered.
    pub(super) last: Id,
    /// How many of the entries ever added have been delivered, if that is known.
    pub(super) entries_read: Option<u64>,
}

/// A consumer of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    number: u32,
    /// When it last asked for anything.
    pub(super) seen: Millis,
    /// When it last got anything.
    pub(super) active: Option<Millis>,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    owner: u32,
    /// When it was last delivered.
    pub(super) delivered: Millis,
    /// How often it was delivered.
    pub(super) deliveries: u64,
}

/// The names of a group's consumers by number.
pub(super) struct Names<'a>(BTreeMap<u32, &'a [u8]>);

impl Names<'_> {
    pub(super) fn owner(&self, pending: &Pending) -> &[u8] {
        self.0.get(&pending.owner).expect("a pending entry has a consumer")
    }
}

/// A stream to read.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    coll: &'a Coll,
}

impl<'a> View<'a> {
    pub(super) fn new(coll: &'a Coll) -> Self {
        Self { coll }
    }

    /// The stream at `key`, or `WRONGTYPE`.
    pub(super) fn open(db: &'a mut Db, key: &[u8]) -> Result<Option<Self>, Error> {
        Ok(db.coll(key, Kind::Stream)?.map(Self::new))
    }

    pub(super) fn header(self) -> Header {
        Header::decode(self.coll.aux())
    }

    /// The entries from `from` to `to`, both included, with their encoded fields.
    pub(super) fn entries(
        self,
        from: Id,
        to: Id,
    ) -> impl DoubleEndedIterator<Item = (Id, &'a [u8])> {
        let (low, high) = (entry_sub(from), entry_sub(to));
        // The entries sort last.
        let to = if to == Id::MAX { Bound::Unbounded } else { Bound::Included(&high[..]) };
        self.coll
            .elements()
            .span(Bound::Included(&low), to)
            .map(|(sub, value)| (Id::from_bytes(&sub[1..]), value))
    }

    /// The encoded fields of one entry.
    pub(super) fn entry(self, id: Id) -> Option<&'a [u8]> {
        self.coll.get(&entry_sub(id))
    }

    pub(super) fn first(self) -> Option<Id> {
        self.entries(Id::MIN, Id::MAX).next().map(|(id, _)| id)
    }

    pub(super) fn last(self) -> Option<Id> {
        let (sub, _) = self.coll.elements().iter().next_back()?;
        (sub[0] == ENTRY).then(|| Id::from_bytes(&sub[1..]))
    }

    pub(super) fn groups(self) -> impl Iterator<Item = (&'a [u8], Group)> {
        self.prefixed(&[GROUP]).map(|(sub, value)| (&sub[1..], Group::decode(value)))
    }

    pub(super) fn group(self, name: &[u8]) -> Option<Group> {
        self.coll.get(&group_sub(name)).map(Group::decode)
    }

    pub(super) fn consumers(self, group: &Group) -> impl Iterator<Item = (&'a [u8], Consumer)> {
        self.prefixed(&numbered(CONSUMER, group.number))
            .map(|(sub, value)| (&sub[5..], Consumer::decode(value)))
    }

    pub(super) fn consumer(self, group: &Group, name: &[u8]) -> Option<Consumer> {
        self.coll.get(&consumer_sub(group, name)).map(Consumer::decode)
    }

    pub(super) fn names(self, group: &Group) -> Names<'a> {
        Names(self.consumers(group).map(|(name, consumer)| (consumer.number, name)).collect())
    }

    /// The pending entries of a group from `from` to `to`, both included.
    pub(super) fn pending(
        self,
        group: &Group,
        from: Id,
        to: Id,
    ) -> impl DoubleEndedIterator<Item = (Id, Pending)> {
        self.between(&numbered(PENDING, group.number), from, to)
            .map(|(sub, value)| (Id::from_bytes(&sub[5..]), Pending::decode(value)))
    }

    pub(super) fn pending_entry(self, group: &Group, id: Id) -> Option<Pending> {
        self.coll.get(&pending_sub(group, id)).map(Pending::decode)
    }

    pub(super) fn pending_count(self, group: &Group) -> usize {
        self.coll.elements().prefixed(&numbered(PENDING, group.number)).len()
    }

    /// The entries pending for one consumer from `from` on.
    pub(super) fn owned(
        self,
        group: &Group,
        consumer: &Consumer,
        from: Id,
    ) -> impl Iterator<Item = (Id, Pending)> {
        self.between(&numbered(OWNED, consumer.number), from, Id::MAX).map(move |(sub, _)| {
            let id = Id::from_bytes(&sub[5..]);
            (id, self.pending_entry(group, id).expect("an owned entry is pending in its group"))
        })
    }

    pub(super) fn owned_count(self, consumer: &Consumer) -> usize {
        self.coll.elements().prefixed(&numbered(OWNED, consumer.number)).len()
    }

    fn between(self, prefix: &[u8], from: Id, to: Id) -> Span<'a> {
        let (mut low, mut high) = (Sub::from_slice(prefix), Sub::from_slice(prefix));
        low.extend_from_slice(&from.to_bytes());
        high.extend_from_slice(&to.to_bytes());
        self.coll.elements().span(Bound::Included(&low), Bound::Included(&high))
    }

    fn prefixed(self, prefix: &[u8]) -> Span<'a> {
        let end = crate::sorted::prefix_end(prefix);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.coll.elements().span(Bound::Included(prefix), to)
    }
}

/// A stream to change. [`Editor::close`] must end it, or the header is lost.
pub(super) struct Editor<'a> {
    coll: CollMut<'a>,
    pub(super) header: Header,
}

impl<'a> Editor<'a> {
    /// Opens the stream at `key`, which may be absent, or `WRONGTYPE`.
    pub(super) fn open(db: &'a mut Db, key: &[u8]) -> Result<Self, Error> {
        let coll = db.open(key, Kind::Stream)?;
        let header = Header::decode(coll.aux());
        Ok(Self { coll, header })
    }

    /// The same for a change that WATCH does not see, as in Redis: of groups, or of what is kept
    /// beside the entries. Creating the stream is seen.
    pub(super) fn open_quietly(db: &'a mut Db, key: &[u8]) -> Result<Self, Error> {
        let mut stream = Self::open(db, key)?;
        stream.coll.be_quiet();
        Ok(stream)
    }

    pub(super) fn close(mut self) {
        self.coll.set_aux(&self.header.encode());
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.coll)
    }

    /// Adds an entry of fields and values after all others.
    pub(super) fn add(&mut self, id: Id, strings: &[&[u8]]) {
        assert!(id > self.header.last, "{id} is not after {}", self.header.last);
        let bytes: usize = strings.iter().map(|s| s.len() + 2).sum();
        let mut value = Vec::with_capacity(bytes + 4);
        put_varint(&mut value, strings.len() as u64);
        for string in strings {
            put_bytes(&mut value, string);
        }
        self.coll.put(&entry_sub(id), &value);
        self.header.last = id;
        self.header.added += 1;
        self.header.len += 1;
    }

    /// Removes an entry; false if there is none.
    pub(super) fn remove(&mut self, id: Id) -> bool {
        let existed = self.coll.remove(&entry_sub(id)).is_some();
        self.header.len -= u64::from(existed);
        existed
    }

    /// Removes the first entry.
    pub(super) fn remove_first(&mut self) {
        let first = self.view().first().expect("the stream has entries");
        self.remove(first);
    }

    /// Creates a group, which does not exist.
    pub(super) fn create_group(
        &mut self,
        name: &[u8],
        last: Id,
        entries_read: Option<u64>,
    ) -> Result<(), Error> {
        let number = self.take_number()?;
        self.put_group(name, &Group { number, last, entries_read });
        Ok(())
    }

    pub(super) fn put_group(&mut self, name: &[u8], group: &Group) {
        self.coll.put(&group_sub(name), &group.encode());
    }

    /// Removes a group with its consumers and pending entries.
    pub(super) fn remove_group(&mut self, name: &[u8], group: &Group) {
        let consumers: Vec<(Vec<u8>, Consumer)> = self
            .view()
            .consumers(group)
            .map(|(name, consumer)| (name.to_vec(), consumer))
            .collect();
        for (name, consumer) in consumers {
            self.remove_consumer(group, &name, &consumer);
        }
        self.coll.remove(&group_sub(name));
    }

    /// Creates a consumer, which does not exist.
    pub(super) fn create_consumer(
        &mut self,
        group: &Group,
        name: &[u8],
        now: Millis,
    ) -> Result<(), Error> {
        let consumer = Consumer { number: self.take_number()?, seen: now, active: None };
        self.put_consumer(group, name, &consumer);
        Ok(())
    }

    /// Notes that the consumer `name`, created if absent, asks for something at `now`, and whether
    /// it gets anything.
    pub(super) fn note_consumer(
        &mut self,
        group: &Group,
        name: &[u8],
        now: Millis,
        served: bool,
    ) -> Result<Consumer, Error> {
        let mut consumer = match self.view().consumer(group, name) {
            Some(consumer) => consumer,
            None => Consumer { number: self.take_number()?, seen: now, active: None },
        };
        consumer.seen = now;
        if served {
            consumer.active = Some(now);
        }
        self.put_consumer(group, name, &consumer);
        Ok(consumer)
    }

    fn put_consumer(&mut self, group: &Group, name: &[u8], consumer: &Consumer) {
        self.coll.put(&consumer_sub(group, name), &consumer.encode());
    }

    /// Removes a consumer with its pending entries; returns how many these were.
    pub(super) fn remove_consumer(
        &mut self,
        group: &Group,
        name: &[u8],
        consumer: &Consumer,
    ) -> usize {
        let owned: Vec<(Id, Pending)> = self.view().owned(group, consumer, Id::MIN).collect();
        for (id, pending) in &owned {
            self.release(group, *id, pending);
        }
        self.coll.remove(&consumer_sub(group, name));
        owned.len()
    }

    /// Makes an entry pending for `consumer`, whoever had it before.
    pub(super) fn assign(
        &mut self,
        group: &Group,
        id: Id,
        consumer: &Consumer,
        delivered: Millis,
        deliveries: u64,
    ) {
        let pending = Pending { owner: consumer.number, delivered, deliveries };
        let old = self.coll.put(&pending_sub(group, id), &pending.encode());
        let old_owner = old.map(|value| Pending::decode(&value).owner);
        if old_owner == Some(consumer.number) {
            return;
        }
        if let Some(old_owner) = old_owner {
            self.coll.remove(&owned_sub(old_owner, id));
        }
        self.coll.put(&owned_sub(consumer.number, id), b"");
    }

    /// Ends that an entry is pending.
    pub(super) fn release(&mut self, group: &Group, id: Id, pending: &Pending) {
        self.coll.remove(&pending_sub(group, id));
        self.coll.remove(&owned_sub(pending.owner, id));
    }

    fn take_number(&mut self) -> Result<u32, Error> {
        const EXHAUSTED: Error =
            Error::text("ERR The stream has exhausted the numbers of its groups and consumers");
        let number = self.header.next_number;
        self.header.next_number = number.checked_add(1).ok_or(EXHAUSTED)?;
        Ok(number)
    }
}

/// Replies an entry: its id and its fields and values.
pub(super) fn reply_entry(reply: &mut Reply<'_>, id: Id, value: &[u8]) {
    reply.array(2);
    id.reply(reply);
    let mut reader = Reader::new(value);
    let count = reader.varint().expect(STORED);
    reply.array(count as usize);
    for _ in 0..count {
        reply.bulk(reader.bytes().expect(STORED));
    }
}

/// Why decoding what [`Editor`] stored cannot fail: stored bytes are checksummed below.
const STORED: &str = "what was stored has its layout";

impl Header {
    fn decode(aux: &[u8]) -> Self {
        if aux.is_empty() {
            return Self::default();
        }
        let mut reader = Reader::new(aux);
        let mut next = || reader.varint().expect(STORED);
        Self {
            last: Id { ms: next(), seq: next() },
            max_deleted: Id { ms: next(), seq: next() },
            added: next(),
            len: next(),
            next_number: next() as u32,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut aux = Vec::with_capacity(40);
        for value in [
            self.last.ms,
            self.last.seq,
            self.max_deleted.ms,
            self.max_deleted.seq,
            self.added,
            self.len,
            u64::from(self.next_number),
        ] {
            put_varint(&mut aux, value);
        }
        aux
    }
}

impl Group {
    fn decode(value: &[u8]) -> Self {
        let mut reader = Reader::new(value);
        let number = reader.u32().expect(STORED);
        let last = Id::from_bytes(reader.take(16).expect(STORED));
        let read = reader.u64().expect(STORED);
        Self { number, last, entries_read: (read != u64::MAX).then_some(read) }
    }

    fn encode(&self) -> [u8; 28] {
        let mut value = [0; 28];
        value[..4].copy_from_slice(&self.number.to_le_bytes());
        value[4..20].copy_from_slice(&self.last.to_bytes());
        value[20..].copy_from_slice(&self.entries_read.unwrap_or(u64::MAX).to_le_bytes());
        value
    }
}

impl Consumer {
    fn decode(value: &[u8]) -> Self {
        let mut reader = Reader::new(value);
        let number = reader.u32().expect(STORED);
        let seen = reader.u64().expect(STORED);
        let active = reader.u64().expect(STORED);
        Self { number, seen, active: (active != u64::MAX).then_some(active) }
    }

    fn encode(&self) -> [u8; 20] {
        let mut value = [0; 20];
        value[..4].copy_from_slice(&self.number.to_le_bytes());
        value[4..12].copy_from_slice(&self.seen.to_le_bytes());
        value[12..].copy_from_slice(&self.active.unwrap_or(u64::MAX).to_le_bytes());
        value
    }
}

impl Pending {
    fn decode(value: &[u8]) -> Self {
        let mut reader = Reader::new(value);
        let mut next = || reader.varint().expect(STORED);
        Self { owner: next() as u32, delivered: next(), deliveries: next() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16);
        put_varint(&mut value, u64::from(self.owner));
        put_varint(&mut value, self.delivered);
        put_varint(&mut value, self.deliveries);
        value
    }
}

fn entry_sub(id: Id) -> [u8; 17] {
    let mut sub = [ENTRY; 17];
    sub[1..].copy_from_slice(&id.to_bytes());
    sub
}

fn group_sub(name: &[u8]) -> Sub {
    let mut sub = Sub::from_slice(&[GROUP]);
    sub.extend_from_slice(name);
    sub
}

fn consumer_sub(group: &Group, name: &[u8]) -> Sub {
    let mut sub = Sub::from_slice(&numbered(CONSUMER, group.number));
    sub.extend_from_slice(name);
    sub
}

fn pending_sub(group: &Group, id: Id) -> [u8; 21] {
    numbered_id(PENDING, group.number, id)
}

fn owned_sub(consumer: u32, id: Id) -> [u8; 21] {
    numbered_id(OWNED, consumer, id)
}

fn numbered_id(prefix: u8, number: u32, id: Id) -> [u8; 21] {
    let mut sub = [0; 21];
    sub[..5].copy_from_slice(&numbered(prefix, number));
    sub[5..].copy_from_slice(&id.to_bytes());
    sub
}

fn numbered(prefix: u8, number: u32) -> [u8; 5] {
    let [a, b, c, d] = number.to_be_bytes();
    [prefix, a, b, c, d]
}
