//! One key in memory.
//!
//! A string is a single allocation, because most keys are strings and memory per key counts:
//!
//! ```text
//! flags u8 │ accessed u32 │ version u64 │ expiry u64, if EXPIRES │ key length varint │ key │ value
//! ```
//!
//! A collection is a boxed [`Coll`]. A deleted key whose table still holds a record stays as a
//! *tombstone* until the next flush has completed.

use crate::sorted::{Sorted, Sub};
use quorate_base::Millis;
use quorate_base::codec::put_varint;

/// A Redis type. HyperLogLogs and bitmaps are strings, geo sets are sorted sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A byte string.
    String = 0,
    /// A sequence.
    List = 1,
    /// A set of members.
    Set = 2,
    /// A set of members ordered by score.
    Zset = 3,
    /// A map from fields to values.
    Hash = 4,
    /// An append-only log with consumer groups.
    Stream = 5,
}

impl Kind {
    /// The name that TYPE answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
        }
    }

    /// The kind encoded as `tag`.
    pub fn from_tag(tag: u8) -> Option<Self> {
        [Self::String, Self::List, Self::Set, Self::Zset, Self::Hash, Self::Stream]
            .into_iter()
            .find(|&k| k as u8 == tag)
    }
}

/// The value was changed in place, so Redis would report its encoding as `raw`.
pub const RAW: u8 = 1;
/// The key expires.
pub const EXPIRES: u8 = 2;
/// Changed in a cycle of flushing with an even number; see [`Cycle`].
const DIRTY_EVEN: u8 = 4;
/// The table may hold a record of this key.
pub const STORED: u8 = 8;
/// Deleted; only remembered so that the next flush removes the record.
pub const TOMB: u8 = 16;
/// Changed in a cycle of flushing with an odd number.
const DIRTY_ODD: u8 = 32;

/// Which of two flags marks entries that changed since the last flush was begun. The other one
/// then marks those which that flush still has to write: beginning a flush swaps the two instead
/// of visiting every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cycle {
    odd: bool,
}

impl Cycle {
    /// Set on entries that changed since the last flush was begun.
    #[inline]
    pub(crate) fn dirty(self) -> u8 {
        if self.odd { DIRTY_ODD } else { DIRTY_EVEN }
    }

    /// Set on entries that the flush under way still has to write.
    #[inline]
    pub(crate) fn due(self) -> u8 {
        if self.odd { DIRTY_EVEN } else { DIRTY_ODD }
    }

    pub(crate) fn swap(&mut self) {
        self.odd = !self.odd;
    }
}

/// What the processor fetches from memory at once.
const CACHE_LINE_BYTES: usize = 64;

const ACCESSED: usize = 1;
const VERSION: usize = 5;
const EXPIRY: usize = 13;

/// A key with its value.
#[derive(Debug)]
pub enum Entry {
    /// A string or a tombstone, laid out as the module says.
    Flat(Box<[u8]>),
    /// A collection.
    Coll(Box<Coll>),
}

/// A list, set, sorted set, hash or stream.
#[derive(Clone, Debug)]
pub struct Coll {
    pub(crate) key: Box<[u8]>,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) encoding: u8,
    pub(crate) accessed: u32,
    pub(crate) version: u64,
    /// Distinguishes this collection's elements on disk from those of earlier ones of the same key.
    pub(crate) generation: u64,
    pub(crate) expiry: Millis,
    pub(crate) aux: Vec<u8>,
    pub(crate) elements: Sorted,
    /// Elements removed since the last flush.
    pub(crate) removed: Vec<Sub>,
}

impl Coll {
    /// The elements in order.
    pub fn elements(&self) -> &Sorted {
        &self.elements
    }

    /// The number of elements (for a sorted set twice the members, see its family).
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The value of one element.
    pub fn get(&self, sub: &[u8]) -> Option<&[u8]> {
        self.elements.get(sub)
    }

    /// What the family keeps beside the elements; empty at first.
    pub fn aux(&self) -> &[u8] {
        &self.aux
    }

    /// A number the family uses to remember which encoding Redis would show; 0 at first.
    pub fn encoding(&self) -> u8 {
        self.encoding
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// About how many bytes of memory the collection takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.aux.capacity() + self.elements.bytes()
    }
}

impl Entry {
    /// A string.
    pub fn string(
        key: &[u8],
        value: &[u8],
        version: u64,
        expiry: Option<Millis>,
        raw: bool,
        accessed: u32,
    ) -> Self {
        let flags = if raw { RAW } else { 0 };
        Self::flat(flags, key, &[value], version, expiry, accessed)
    }

    /// A tombstone.
    pub fn tomb(key: &[u8], version: u64) -> Self {
        Self::flat(TOMB, key, &[], version, None, 0)
    }

    /// What stands in the index while a collection is being changed; it has no key.
    pub(crate) fn placeholder() -> Self {
        Self::Flat(Box::default())
    }

    pub(crate) fn is_placeholder(&self) -> bool {
        matches!(self, Self::Flat(bytes) if bytes.is_empty())
    }

    fn flat(
        flags: u8,
        key: &[u8],
        value: &[&[u8]],
        version: u64,
        expiry: Option<Millis>,
        accessed: u32,
    ) -> Self {
        let value_len: usize = value.iter().map(|part| part.len()).sum();
        let key_len = varint_len(key.len()) + key.len();
        let len = EXPIRY + if expiry.is_some() { 8 } else { 0 } + key_len + value_len;
        let mut bytes = Vec::with_capacity(len);
        bytes.push(flags | if expiry.is_some() { EXPIRES } else { 0 });
        bytes.extend_from_slice(&accessed.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        if let Some(at) = expiry {
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        put_varint(&mut bytes, key.len() as u64);
        bytes.extend_from_slice(key);
        for part in value {
            bytes.extend_from_slice(part);
        }
        Self::Flat(bytes.into_boxed_slice())
    }

    /// The key; empty for a placeholder.
    #[inline]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Flat(bytes) => {
                let (from, to) = key_range(bytes);
                &bytes[from..to]
            }
            Self::Coll(coll) => &coll.key,
        }
    }

    /// The value of a string; `None` for collections and tombstones.
    #[inline]
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Flat(bytes) if bytes[0] & TOMB == 0 => Some(&bytes[key_range(bytes).1..]),
            _ => None,
        }
    }

    /// The collection, if it is one.
    #[inline]
    pub fn coll(&self) -> Option<&Coll> {
        match self {
            Self::Coll(coll) => Some(coll),
            Self::Flat(_) => None,
        }
    }

    /// The type; that of a tombstone means nothing.
    pub fn kind(&self) -> Kind {
        self.coll().map_or(Kind::String, Coll::kind)
    }

    /// True for a string that was changed in place.
    pub fn is_raw(&self) -> bool {
        self.flags() & RAW != 0
    }

    pub(crate) fn flags(&self) -> u8 {
        match self {
            Self::Flat(bytes) => bytes.first().copied().unwrap_or(0),
            Self::Coll(coll) => coll.flags,
        }
    }

    pub(crate) fn set_flags(&mut self, flags: u8) {
        match self {
            Self::Flat(bytes) => bytes[0] = flags,
            Self::Coll(coll) => coll.flags = flags,
        }
    }

    /// True for a tombstone.
    #[inline]
    pub fn is_tomb(&self) -> bool {
        self.flags() & TOMB != 0
    }

    /// A collection that is deleted because its last element went.
    pub(crate) fn is_left_empty(&self) -> bool {
        self.coll().is_some_and(|coll| coll.is_empty() && coll.kind != Kind::Stream)
    }

    /// True unless deleted or expired at `now`.
    #[inline]
    pub fn is_live(&self, now: Millis) -> bool {
        let flags = self.flags();
        flags & (TOMB | EXPIRES) == 0
            || flags & TOMB == 0 && self.expiry().is_none_or(|at| at > now)
    }

    /// The version of the last change: log index in the high 44 bits, operation in the low 20.
    pub fn version(&self) -> u64 {
        match self {
            Self::Flat(bytes) => u64_at(bytes, VERSION),
            Self::Coll(coll) => coll.version,
        }
    }

    /// When the key expires.
    #[inline]
    pub fn expiry(&self) -> Option<Millis> {
        match self {
            Self::Flat(bytes) => (bytes[0] & EXPIRES != 0).then(|| u64_at(bytes, EXPIRY)),
            Self::Coll(coll) => (coll.flags & EXPIRES != 0).then_some(coll.expiry),
        }
    }

    /// When the key was last used, in seconds of node time (wrapping).
    pub fn accessed(&self) -> u32 {
        match self {
            Self::Flat(bytes) => u32::from_le_bytes(
                bytes[ACCESSED..VERSION].try_into().expect("the field has four bytes"),
            ),
            Self::Coll(coll) => coll.accessed,
        }
    }

    pub(crate) fn set_accessed(&mut self, seconds: u32) {
        match self {
            Self::Flat(bytes) => bytes[ACCESSED..VERSION].copy_from_slice(&seconds.to_le_bytes()),
            Self::Coll(coll) => coll.accessed = seconds,
        }
    }

    pub(crate) fn set_version(&mut self, version: u64) {
        match self {
            Self::Flat(bytes) => bytes[VERSION..EXPIRY].copy_from_slice(&version.to_le_bytes()),
            Self::Coll(coll) => coll.version = version,
        }
    }

    pub(crate) fn set_expiry(&mut self, expiry: Option<Millis>) {
        match self {
            Self::Coll(coll) => {
                coll.flags = coll.flags & !EXPIRES | if expiry.is_some() { EXPIRES } else { 0 };
                coll.expiry = expiry.unwrap_or(0);
            }
            Self::Flat(bytes) => {
                let (from, to) = key_range(bytes);
                let accessed = u32::from_le_bytes(
                    bytes[ACCESSED..VERSION].try_into().expect("the field has four bytes"),
                );
                *self = Self::flat(
                    bytes[0] & !EXPIRES,
                    &bytes[from..to],
                    &[&bytes[to..]],
                    u64_at(bytes, VERSION),
                    expiry,
                    accessed,
                );
            }
        }
    }

    /// Reads a byte of each part that a command is going to read.
    #[inline]
    pub(crate) fn warm(&self) -> u8 {
        match self {
            Self::Flat(bytes) => {
                bytes.first().unwrap_or(&0) ^ bytes.get(CACHE_LINE_BYTES).unwrap_or(&0)
            }
            Self::Coll(coll) => coll.flags,
        }
    }

    /// True for a live string that does not expire.
    #[inline]
    pub(crate) fn is_plain_string(&self) -> bool {
        matches!(self, Self::Flat(bytes) if bytes[0] & (TOMB | EXPIRES) == 0)
    }

    /// Replaces the value of a plain string, in place if it has the same length. `flags` are those
    /// besides [`RAW`].
    #[inline]
    pub(crate) fn replace_plain(
        &mut self,
        value: &[u8],
        version: u64,
        raw: bool,
        accessed: u32,
        flags: u8,
    ) {
        if !self.overwrite(value) {
            *self = Self::string(self.key(), value, version, None, raw, accessed);
        }
        self.set_version(version);
        self.set_accessed(accessed);
        self.set_flags(flags | if raw { RAW } else { 0 });
    }

    /// Replaces a string's value in place if it has the same length; false if it has not.
    #[inline]
    pub(crate) fn overwrite(&mut self, value: &[u8]) -> bool {
        let Self::Flat(bytes) = self else { return false };
        let (_, to) = key_range(bytes);
        if bytes.len() - to != value.len() {
            return false;
        }
        bytes[to..].copy_from_slice(value);
        true
    }

    /// Writes `data` at `offset` into a string's value, which grows with zeros as needed.
    pub(crate) fn patch(&mut self, offset: usize, data: &[u8]) {
        let Self::Flat(bytes) = self else { unreachable!("only strings are patched") };
        let from = key_range(bytes).1 + offset;
        let to = from + data.len();
        if to > bytes.len() {
            let mut grown = std::mem::take(bytes).into_vec();
            grown.reserve_exact(to - grown.len());
            grown.resize(to, 0);
            *bytes = grown.into_boxed_slice();
        }
        bytes[from..to].copy_from_slice(data);
    }

    /// About how many bytes of memory the key takes in all.
    pub fn memory_bytes(&self) -> usize {
        /// The allocator's header, and the entry's share of a table that is seven eighths full.
        const OVERHEAD: usize = 16 + (size_of::<Entry>() + 1) * 8 / 7;
        self.bytes() + OVERHEAD
    }

    /// About how many bytes of memory the entry takes, without its place in the index.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Flat(bytes) => bytes.len(),
            Self::Coll(coll) => coll.bytes(),
        }
    }
}

#[inline]
fn key_range(bytes: &[u8]) -> (usize, usize) {
    let Some(&flags) = bytes.first() else { return (0, 0) };
    let mut at = if flags & EXPIRES == 0 { EXPIRY } else { EXPIRY + 8 };
    let mut len = usize::from(bytes[at]);
    at += 1;
    if len >= 0x80 {
        len &= 0x7f;
        for shift in (7..).step_by(7) {
            let byte = bytes[at];
            at += 1;
            len |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    (at, at + len)
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_two_words() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn strings_keep_their_parts() {
        for key_len in [0, 1, 127, 128, 20_000] {
            let key = vec![b'k'; key_len];
            let mut entry = Entry::string(&key, b"value", 9, Some(77), true, 5);
            assert_eq!((entry.key(), entry.value()), (key.as_slice(), Some(b"value".as_slice())));
            assert_eq!((entry.version(), entry.expiry(), entry.accessed()), (9, Some(77), 5));
            entry.set_expiry(None);
            assert_eq!((entry.expiry(), entry.flags()), (None, RAW));
            assert_eq!(entry.value(), Some(b"value".as_slice()));
            assert!(entry.overwrite(b"VALUE") && !entry.overwrite(b"longer"));
            entry.patch(7, b"!");
            assert_eq!(entry.value(), Some(b"VALUE\0\0!".as_slice()));
            assert_eq!(entry.key(), key.as_slice());
        }
    }

    #[test]
    fn tombstones_have_a_key_and_no_value() {
        let tomb = Entry::tomb(b"gone", 3);
        assert_eq!((tomb.key(), tomb.value(), tomb.is_tomb()), (b"gone".as_slice(), None, true));
    }
}
