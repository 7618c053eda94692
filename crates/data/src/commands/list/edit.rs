//! A list opened for changes, and the encoding that Redis would give it.
//!
//! Redis keeps a list in one listpack until it outgrows `list-max-listpack-size`, and turns the
//! quicklist back once it has shrunk to half of that. To follow it, the collection's aux holds
//! how many bytes the entries would take in a listpack: a little-endian integer without its high
//! zero bytes. Redis wants its quicklist to be down to one node before it turns back; here the
//! size alone decides.

use super::{End, position};
use crate::coll_mut::CollMut;
use crate::db::{Db, Value};
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::parse;
use crate::settings::Settings;
use crate::sorted::{Sub, Val};
use std::ops::Deref;

/// The encoding number of a list that Redis would keep in a listpack.
pub(super) const LISTPACK: u8 = 0;
/// The encoding number of a list that Redis would keep in a quicklist.
pub(super) const QUICKLIST: u8 = 1;

/// What a listpack takes beside its entries, bytes.
const LISTPACK_FRAME: usize = 7;
/// The most bytes of one listpack when its entries are what is limited.
const SAFETY_BYTES_MAX: usize = 8192;

/// Changes one list. [`ListMut::grow`] precedes additions, [`ListMut::close`] ends everything.
pub(super) struct ListMut<'a> {
    coll: CollMut<'a>,
    packed_bytes: usize,
    encoding: u8,
}

/// When a quicklist turns back into a listpack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shrink {
    /// Not now: elements were only added.
    Never,
    /// When it is at most half as large as a listpack may be: elements were removed.
    Half,
    /// When it fits: an element was replaced.
    Whole,
}

impl Deref for ListMut<'_> {
    type Target = Coll;
    fn deref(&self) -> &Coll {
        &self.coll
    }
}

impl<'a> ListMut<'a> {
    /// Opens the list `key`, which may be absent.
    pub(super) fn open(db: &'a mut Db, key: &[u8]) -> Result<Self, Error> {
        let coll = db.open(key, Kind::List)?;
        let mut packed = [0; 8];
        packed[..coll.aux().len()].copy_from_slice(coll.aux());
        let encoding = coll.encoding();
        Ok(Self { coll, packed_bytes: u64::from_le_bytes(packed) as usize, encoding })
    }

    /// Says that `count` elements of `bytes` in total are about to be added.
    pub(super) fn grow(&mut self, settings: &Settings, count: usize, bytes: usize) {
        let size = LISTPACK_FRAME + self.packed_bytes + bytes;
        if self.encoding == LISTPACK && exceeds(settings, size, self.coll.len() + count) {
            self.encoding = QUICKLIST;
        }
    }

    /// Adds an element at one end.
    pub(super) fn push(&mut self, end: End, element: &[u8]) {
        let neighbour = self.at_end(end).map(|(sub, _)| sub);
        let sub = match (neighbour, end) {
            (None, _) => position::only(),
            (Some(first), End::Left) => position::before(first),
            (Some(last), End::Right) => position::after(last),
        };
        self.put(&sub, element);
    }

    /// Removes the element at one end.
    pub(super) fn pop(&mut self, end: End) -> Option<Val> {
        let sub = Sub::from_slice(self.at_end(end)?.0);
        self.remove(&sub)
    }

    /// Sets the element at position `sub`, a new one or not.
    pub(super) fn put(&mut self, sub: &[u8], element: &[u8]) {
        if let Some(old) = self.coll.put(sub, element) {
            self.packed_bytes -= packed_len(&old);
        }
        self.packed_bytes += packed_len(element);
    }

    /// Removes the element at position `sub`.
    pub(super) fn remove(&mut self, sub: &[u8]) -> Option<Val> {
        let old = self.coll.remove(sub)?;
        self.packed_bytes -= packed_len(&old);
        Some(old)
    }

    /// Ends the change, settles the encoding and returns the list's length.
    pub(super) fn close(mut self, settings: &Settings, shrink: Shrink) -> usize {
        if self.encoding == QUICKLIST && shrink != Shrink::Never {
            let times = if shrink == Shrink::Half { 2 } else { 1 };
            let size = (LISTPACK_FRAME + self.packed_bytes) * times;
            if !exceeds(settings, size, self.coll.len() * times) {
                self.encoding = LISTPACK;
            }
        }
        self.coll.set_aux(trim(&(self.packed_bytes as u64).to_le_bytes()));
        self.coll.set_encoding(self.encoding);
        self.coll.len()
    }

    fn at_end(&self, end: End) -> Option<(&[u8], &[u8])> {
        let mut elements = self.coll.elements().iter();
        match end {
            End::Left => elements.next(),
            End::Right => elements.next_back(),
        }
    }
}

/// A list of `elements` as a value for [`crate::Db::put_value`].
pub(crate) fn value(settings: &Settings, elements: &[Val]) -> Value {
    let packed_bytes: usize = elements.iter().map(|element| packed_len(element)).sum();
    let large = exceeds(settings, LISTPACK_FRAME + packed_bytes, elements.len());
    let mut named: Vec<(Sub, Val)> = Vec::with_capacity(elements.len());
    for element in elements {
        let sub = named.last().map_or_else(position::only, |(last, _)| position::after(last));
        named.push((sub, element.clone()));
    }
    Value::Coll {
        kind: Kind::List,
        encoding: if large { QUICKLIST } else { LISTPACK },
        aux: trim(&(packed_bytes as u64).to_le_bytes()).to_vec(),
        elements: named,
    }
}

/// A little-endian integer without its high zero bytes.
fn trim(number: &[u8; 8]) -> &[u8] {
    let len = number.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &number[..len]
}

/// True if a listpack of `bytes` with `entries` is larger than `list-max-listpack-size` allows.
fn exceeds(settings: &Settings, bytes: usize, entries: usize) -> bool {
    match settings.list_max_listpack_size {
        0 => bytes > SAFETY_BYTES_MAX || entries > 1,
        limit if limit > 0 => bytes > SAFETY_BYTES_MAX || entries as u64 > limit.unsigned_abs(),
        level => bytes > 4096 << (level.unsigned_abs() - 1).min(4),
    }
}

/// How many bytes an element takes in a listpack: the value, its head and its length again.
fn packed_len(element: &[u8]) -> usize {
    let data = match parse::integer(element) {
        Some(0..=127) => 1,
        Some(-4096..=4095) => 2,
        Some(n) if i16::try_from(n).is_ok() => 3,
        Some(-0x80_0000..=0x7f_ffff) => 4,
        Some(n) if i32::try_from(n).is_ok() => 5,
        Some(_) => 9,
        None => {
            element.len()
                + match element.len() {
                    0..64 => 1,
                    64..4096 => 2,
                    _ => 5,
                }
        }
    };
    data + match data {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}
