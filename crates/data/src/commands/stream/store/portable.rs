//! A stream apart from how it lies in its collection, to write it elsewhere and read it back.
//!
//! Ids are numbers: milliseconds in the high 64 bits, the number within them in the low 64.

use super::super::progress;
use super::{
    Consumer, Group, Header, OWNED, PENDING, Pending, STORED, View, consumer_sub, entry_sub,
    group_sub, numbered_id,
};
use crate::commands::stream::id::Id;
use crate::db::Value;
use crate::entry::{Coll, Kind};
use crate::sorted::{Sub, Val};
use quorate_base::codec::{Reader, put_bytes, put_varint};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The greatest counter and time; Redis keeps them as signed numbers.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// A whole stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortableStream<'a> {
    /// The greatest id ever added.
    pub(crate) last: u128,
    /// The greatest id that was deleted.
    pub(crate) max_deleted: u128,
    /// How many entries were ever added. `None` if the source is older than this counter: then it
    /// and the groups' counters are worked out from the rest.
    pub(crate) added: Option<u64>,
    /// The entries in ascending order, each with its [`fields`].
    pub(crate) entries: Vec<(u128, Cow<'a, [u8]>)>,
    /// The consumer groups.
    pub(crate) groups: Vec<PortableGroup<'a>>,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortableGroup<'a> {
    /// Its name.
    pub(crate) name: Cow<'a, [u8]>,
    /// The last id that was delivered.
    pub(crate) last: u128,
    /// How many of the entries ever added have been delivered, if that is known.
    pub(crate) entries_read: Option<u64>,
    /// Its consumers.
    pub(crate) consumers: Vec<PortableConsumer<'a>>,
    /// What was delivered and not acknowledged, in ascending order of ids.
    pub(crate) pending: Vec<PortablePending>,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortableConsumer<'a> {
    /// Its name.
    pub(crate) name: Cow<'a, [u8]>,
    /// When it last asked for anything, milliseconds.
    pub(crate) seen: u64,
    /// When it last got anything, milliseconds.
    pub(crate) active: Option<u64>,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortablePending {
    /// The entry, which may have been deleted.
    pub(crate) id: u128,
    /// Which of the group's consumers has it.
    pub(crate) owner: usize,
    /// When it was last delivered, milliseconds.
    pub(crate) delivered: u64,
    /// How often it was delivered.
    pub(crate) deliveries: u64,
}

/// The fields and values of an entry, alternating, as the store keeps them.
pub(crate) fn fields<T: AsRef<[u8]>>(strings: &[T]) -> Vec<u8> {
    let bytes: usize = strings.iter().map(|s| s.as_ref().len() + 2).sum();
    let mut value = Vec::with_capacity(bytes + 4);
    put_varint(&mut value, strings.len() as u64);
    strings.iter().for_each(|string| put_bytes(&mut value, string.as_ref()));
    value
}

/// The reverse of [`fields`].
pub(crate) fn strings(fields: &[u8]) -> Vec<&[u8]> {
    let mut reader = Reader::new(fields);
    let count = reader.varint().expect(STORED);
    (0..count).map(|_| reader.bytes().expect(STORED)).collect()
}

impl<'a> PortableStream<'a> {
    /// The content of a collection that is a stream.
    pub(crate) fn of(coll: &'a Coll) -> Self {
        let view = View::new(coll);
        let header = view.header();
        let entries = view.entries(Id::MIN, Id::MAX);
        Self {
            last: number(header.last),
            max_deleted: number(header.max_deleted),
            added: Some(header.added),
            entries: entries.map(|(id, fields)| (number(id), Cow::Borrowed(fields))).collect(),
            groups: view
                .groups()
                .map(|(name, group)| PortableGroup::of(view, name, &group))
                .collect(),
        }
    }

    /// The value with this content; `None` if no stream can have it.
    pub(crate) fn into_value(self) -> Option<Value> {
        let first = self.entries.first().map_or(0, |&(id, _)| id);
        let ascending = self.entries.is_sorted_by(|(a, _), (b, _)| a < b);
        let newest = self.entries.last().map_or(0, |&(id, _)| id).max(self.max_deleted);
        let len = self.entries.len() as u64;
        let added = self.added.unwrap_or(len);
        if !ascending || newest > self.last || added < len || added > NUMBER_MAX {
            return None;
        }
        let mut header = Header {
            last: id(self.last),
            max_deleted: id(self.max_deleted),
            added,
            len,
            next_number: 0,
        };
        let estimates = self.added.is_none();
        let mut elements: Vec<(Sub, Val)> = Vec::with_capacity(self.entries.len());
        for mut group in self.groups {
            if estimates {
                group.entries_read = progress::counter_at(&header, id(first), id(group.last));
            }
            group.put(&mut header.next_number, &mut elements)?;
        }
        for (number, fields) in self.entries {
            elements.push((Sub::from_slice(&entry_sub(id(number))), Val::from_slice(&fields)));
        }
        elements.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // Names and ids within a group are unique if the names of all elements are.
        if !elements.is_sorted_by(|(a, _), (b, _)| a < b) {
            return None;
        }
        Some(Value::Coll { kind: Kind::Stream, encoding: 0, aux: header.encode(), elements })
    }
}

impl<'a> PortableGroup<'a> {
    fn of(view: View<'a>, name: &'a [u8], group: &Group) -> Self {
        let mut places = BTreeMap::new();
        let mut consumers = Vec::new();
        for (name, consumer) in view.consumers(group) {
            places.insert(consumer.number, consumers.len());
            let Consumer { seen, active, .. } = consumer;
            consumers.push(PortableConsumer { name: Cow::Borrowed(name), seen, active });
        }
        let portable = |(id, pending): (Id, Pending)| PortablePending {
            id: number(id),
            owner: places[&pending.owner],
            delivered: pending.delivered,
            deliveries: pending.deliveries,
        };
        Self {
            name: Cow::Borrowed(name),
            last: number(group.last),
            entries_read: group.entries_read,
            pending: view.pending(group, Id::MIN, Id::MAX).map(portable).collect(),
            consumers,
        }
    }

    /// Appends the group's elements, with numbers from `next_number` on.
    fn put(self, next_number: &mut u32, elements: &mut Vec<(Sub, Val)>) -> Option<()> {
        let mut take_number = || {
            let number = *next_number;
            *next_number = number.checked_add(1)?;
            Some(number)
        };
        let group =
            Group { number: take_number()?, last: id(self.last), entries_read: self.entries_read };
        if self.entries_read.is_some_and(|read| read > NUMBER_MAX) {
            return None;
        }
        elements.push((group_sub(&self.name), Val::from_slice(&group.encode())));
        let mut owners = Vec::with_capacity(self.consumers.len());
        for PortableConsumer { name, seen, active } in self.consumers {
            if seen.max(active.unwrap_or(0)) > NUMBER_MAX {
                return None;
            }
            let consumer = Consumer { number: take_number()?, seen, active };
            owners.push(consumer.number);
            elements.push((consumer_sub(&group, &name), Val::from_slice(&consumer.encode())));
        }
        for PortablePending { id: number, owner, delivered, deliveries } in self.pending {
            if delivered.max(deliveries) > NUMBER_MAX {
                return None;
            }
            let pending = Pending { owner: *owners.get(owner)?, delivered, deliveries };
            let sub = numbered_id(PENDING, group.number, id(number));
            elements.push((Sub::from_slice(&sub), Val::from_slice(&pending.encode())));
            let sub = numbered_id(OWNED, pending.owner, id(number));
            elements.push((Sub::from_slice(&sub), Val::new()));
        }
        Some(())
    }
}

fn number(id: Id) -> u128 {
    u128::from(id.ms) << 64 | u128::from(id.seq)
}

fn id(number: u128) -> Id {
    Id { ms: (number >> 64) as u64, seq: number as u64 }
}
