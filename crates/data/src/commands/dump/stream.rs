//! Streams in RDB form. `len` is an RDB length, `string` an RDB string, and times are u64 LE, ms.
//!
//! ```text
//! nodes len, each: its master id 16 B BE as string │ listpack as string
//! entries len │ last id │ from 7.0: first id, greatest deleted id, entries added len
//! groups len, each:
//!   name string │ last id │ from 7.0: entries read len
//!   pending len, each: id 16 B BE │ delivered time │ deliveries len
//!   consumers len, each:
//!     name string │ seen time │ from 7.2: active time
//!     pending len, each: id 16 B BE
//! ids without a width: milliseconds len, number len
//!
//! listpack: entries, deleted ones │ number of fields │ fields … │ 0, then for each entry
//!   flags: 1 deleted, 2 the fields above │ id minus the master's: ms, number
//!   number of fields and fields with values, or only values │ how many elements since the flags
//! ```

use super::listpack::{self, Builder};
use super::packed::Element;
use super::rdb_read::Source;
use super::rdb_write::{put_len, put_string};
use crate::commands::stream::portable::{
    PortableConsumer, PortableGroup, PortablePending, PortableStream, fields, strings,
};
use std::borrow::Cow;

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// What one node holds at most, as by default in Redis.
const NODE_ENTRIES_MAX: usize = 100;
const NODE_BYTES_MAX: usize = 4096;

/// How many bytes a stream's entries may take for each byte of the payload. The fields that a
/// node names once are written out for each of its entries, and compression adds to that.
const EXPANSION_MAX: usize = 512;

/// Which of the layouts a stream has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// Redis 5 and 6.
    First,
    /// Redis 7.0, with counters.
    Counters,
    /// Redis 7.2, with the active times of consumers.
    ActiveTimes,
}

// --- writing ---------------------------------------------------------------------------------

/// Appends `stream` in [`Layout::Counters`].
pub(super) fn write(out: &mut Vec<u8>, stream: &PortableStream<'_>) {
    let nodes = nodes(&stream.entries);
    put_len(out, nodes.len() as u64);
    for node in nodes {
        put_string(out, &node[0].0.to_be_bytes());
        put_string(out, &write_node(node));
    }
    put_len(out, stream.entries.len() as u64);
    put_id(out, stream.last);
    put_id(out, stream.entries.first().map_or(0, |&(id, _)| id));
    put_id(out, stream.max_deleted);
    put_len(out, stream.added.unwrap_or(stream.entries.len() as u64));
    put_len(out, stream.groups.len() as u64);
    stream.groups.iter().for_each(|group| write_group(out, group));
}

type Entry<'a> = (u128, Cow<'a, [u8]>);

/// The entries cut into nodes.
fn nodes<'s, 'a>(entries: &'s [Entry<'a>]) -> Vec<&'s [Entry<'a>]> {
    let mut nodes = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, (_, fields)) in entries.iter().enumerate() {
        bytes += fields.len();
        if at > from && (bytes > NODE_BYTES_MAX || at - from == NODE_ENTRIES_MAX) {
            nodes.push(&entries[from..at]);
            (from, bytes) = (at, fields.len());
        }
    }
    if from < entries.len() {
        nodes.push(&entries[from..]);
    }
    nodes
}

fn write_node(entries: &[Entry<'_>]) -> Vec<u8> {
    let (master, first) = &entries[0];
    let first = strings(first);
    let master_fields = || first.iter().step_by(2);
    let mut pack = Builder::new();
    pack.number(entries.len() as i64);
    pack.number(0);
    pack.number(first.len() as i64 / 2);
    master_fields().for_each(|field| pack.text(field));
    pack.number(0);
    for (id, fields) in entries {
        let strings = strings(fields);
        let same = strings.iter().step_by(2).eq(master_fields());
        pack.number(if same { SAME_FIELDS } else { 0 });
        pack.number(((id >> 64) as i64).wrapping_sub((master >> 64) as i64));
        pack.number((*id as i64).wrapping_sub(*master as i64));
        if same {
            strings.iter().skip(1).step_by(2).for_each(|value| pack.text(value));
            pack.number(strings.len() as i64 / 2 + 3);
        } else {
            pack.number(strings.len() as i64 / 2);
            strings.iter().for_each(|string| pack.text(string));
            pack.number(strings.len() as i64 + 4);
        }
    }
    pack.finish()
}

fn write_group(out: &mut Vec<u8>, group: &PortableGroup<'_>) {
    put_string(out, &group.name);
    put_id(out, group.last);
    put_len(out, group.entries_read.unwrap_or(u64::MAX));
    put_len(out, group.pending.len() as u64);
    let mut owned = vec![Vec::new(); group.consumers.len()];
    for pending in &group.pending {
        out.extend_from_slice(&pending.id.to_be_bytes());
        out.extend_from_slice(&pending.delivered.to_le_bytes());
        put_len(out, pending.deliveries);
        owned[pending.owner].push(pending.id);
    }
    put_len(out, group.consumers.len() as u64);
    for (consumer, owned) in group.consumers.iter().zip(owned) {
        put_string(out, &consumer.name);
        out.extend_from_slice(&consumer.seen.to_le_bytes());
        put_len(out, owned.len() as u64);
        owned.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
    }
}

fn put_id(out: &mut Vec<u8>, id: u128) {
    put_len(out, (id >> 64) as u64);
    put_len(out, id as u64);
}

// --- reading ---------------------------------------------------------------------------------

/// A stream of a payload of `payload_bytes`.
pub(super) fn read(
    source: &mut Source<'_>,
    layout: Layout,
    payload_bytes: usize,
) -> Option<PortableStream<'static>> {
    let mut stream = PortableStream::default();
    let mut entries =
        Entries { entries: Vec::new(), budget: payload_bytes.saturating_mul(EXPANSION_MAX) };
    for _ in 0..source.len()? {
        let master = u128::from_be_bytes(source.string()?.as_ref().try_into().ok()?);
        entries.read_node(master, &source.string()?)?;
    }
    stream.entries = entries.entries;
    if source.len()? != stream.entries.len() as u64 {
        return None;
    }
    stream.last = id(source)?;
    if layout >= Layout::Counters {
        // The first id follows from the entries.
        id(source)?;
        stream.max_deleted = id(source)?;
        stream.added = Some(source.len()?);
    }
    for _ in 0..source.len()? {
        stream.groups.push(read_group(source, layout)?);
    }
    Some(stream)
}

struct Entries {
    entries: Vec<(u128, Cow<'static, [u8]>)>,
    /// How many bytes more the entries may take.
    budget: usize,
}

impl Entries {
    /// Appends the entries of one node.
    fn read_node(&mut self, master: u128, pack: &[u8]) -> Option<()> {
        let elements = listpack::elements(pack)?;
        let mut elements = elements.into_iter();
        let number = |from: &mut std::vec::IntoIter<Element<'_>>| from.next()?.number();
        let claimed = usize::try_from(number(&mut elements)?).ok()?;
        let deleted = usize::try_from(number(&mut elements)?).ok()?;
        let width = usize::try_from(number(&mut elements)?).ok()?;
        if width > elements.len() {
            return None;
        }
        let master_fields: Vec<Cow<'_, [u8]>> =
            elements.by_ref().take(width).map(Element::text).collect();
        if number(&mut elements)? != 0 {
            return None;
        }
        let (mut live, mut dead) = (0, 0);
        while elements.len() > 0 {
            let before = elements.len();
            let flags = number(&mut elements)?;
            let (ms, seq) = (number(&mut elements)?, number(&mut elements)?);
            let same = flags & SAME_FIELDS != 0;
            let width = if same { width } else { usize::try_from(number(&mut elements)?).ok()? };
            let count = if same { width } else { width.checked_mul(2)? };
            if flags & !(DELETED | SAME_FIELDS) != 0 || width == 0 || count > elements.len() {
                return None;
            }
            let mut own = elements.by_ref().take(count).map(Element::text);
            let strings: Vec<Cow<'_, [u8]>> = if same {
                let fields = master_fields.iter().map(|field| Cow::Borrowed(&**field));
                fields.zip(own).flat_map(|(field, value)| [field, value]).collect()
            } else {
                own.by_ref().collect()
            };
            let read = before - elements.len();
            if number(&mut elements)? != read as i64 {
                return None;
            }
            if flags & DELETED != 0 {
                dead += 1;
                continue;
            }
            live += 1;
            let bytes: usize = strings.iter().map(|string| string.len()).sum();
            self.budget = self.budget.checked_sub(bytes)?;
            let ms = ((master >> 64) as u64).wrapping_add_signed(ms);
            let seq = (master as u64).wrapping_add_signed(seq);
            self.entries.push((u128::from(ms) << 64 | u128::from(seq), fields(&strings).into()));
        }
        (live == claimed && dead == deleted).then_some(())
    }
}

fn read_group(source: &mut Source<'_>, layout: Layout) -> Option<PortableGroup<'static>> {
    let name = source.string()?.into_owned().into();
    let last = id(source)?;
    let entries_read = match layout {
        Layout::First => None,
        _ => Some(source.len()?).filter(|&read| read != u64::MAX),
    };
    let mut pending = Vec::new();
    for _ in 0..source.len()? {
        pending.push(PortablePending {
            id: wide_id(source)?,
            // Until a consumer says that it has the entry.
            owner: usize::MAX,
            delivered: source.u64()?,
            deliveries: source.len()?,
        });
    }
    pending.sort_unstable_by_key(|pending| pending.id);
    if !pending.is_sorted_by(|a, b| a.id < b.id) {
        return None;
    }
    let mut consumers = Vec::new();
    for owner in 0..usize::try_from(source.len()?).ok()? {
        let name = source.string()?.into_owned().into();
        let seen = source.u64()?;
        let active = match layout {
            Layout::ActiveTimes => Some(source.u64()?).filter(|&active| active != u64::MAX),
            _ => Some(seen),
        };
        consumers.push(PortableConsumer { name, seen, active });
        for _ in 0..source.len()? {
            let id = wide_id(source)?;
            let at = pending.binary_search_by_key(&id, |pending| pending.id).ok()?;
            if pending[at].owner != usize::MAX {
                return None;
            }
            pending[at].owner = owner;
        }
    }
    // The owner of one that no consumer has is refused later.
    Some(PortableGroup { name, last, entries_read, consumers, pending })
}

fn id(source: &mut Source<'_>) -> Option<u128> {
    Some(u128::from(source.len()?) << 64 | u128::from(source.len()?))
}

fn wide_id(source: &mut Source<'_>) -> Option<u128> {
    Some(u128::from_be_bytes(source.take(16)?.try_into().expect("sixteen bytes were taken")))
}
