//! What Redis' compact encodings have in common, and the simplest of them.

use quorate_base::codec::Reader;
use std::borrow::Cow;

/// One entry of a listpack or ziplist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// A byte string.
    Text(&'a [u8]),
    /// The byte string that is this number in decimal.
    Number(i64),
}

impl<'a> Element<'a> {
    /// The byte string.
    pub(super) fn text(self) -> Cow<'a, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string().into_bytes()),
        }
    }

    /// The number, if it is one.
    pub(super) fn number(self) -> Option<i64> {
        match self {
            Self::Text(text) => crate::parse::integer(text),
            Self::Number(number) => Some(number),
        }
    }
}

/// A little-endian integer of at most 8 bytes with its sign.
pub(super) fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|high| high >> 7 == 1);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

/// The members of an intset: width u32, count u32, then the members in ascending order.
pub(super) fn intset(bytes: &[u8]) -> Option<impl Iterator<Item = i64>> {
    let mut reader = Reader::new(bytes);
    let (width, count) = (reader.u32()? as usize, reader.u32()? as usize);
    let members = reader.rest();
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(members.len()) {
        return None;
    }
    let numbers = || members.chunks(width).map(signed);
    numbers().is_sorted_by(|a, b| a < b).then(numbers)
}

/// The fields and values of a zipmap, as Redis wrote small hashes before 2.6.
///
/// ```text
/// count u8, 254 and more: unknown │ field length, field, value length, unused u8, value, unused bytes … │ 255
/// length: u8 below 254 or 254 and u32
/// ```
pub(super) fn zipmap(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    const LONG: u8 = 254;
    const END: u8 = 255;
    fn string_len(reader: &mut Reader<'_>) -> Option<usize> {
        match reader.u8()? {
            LONG => Some(reader.u32()? as usize),
            END => None,
            len => Some(usize::from(len)),
        }
    }
    let mut reader = Reader::new(bytes);
    let count = reader.u8()?;
    let mut pairs = Vec::new();
    while reader.rest() != [END] {
        let len = string_len(&mut reader)?;
        let field = reader.take(len)?;
        let len = string_len(&mut reader)?;
        let unused = usize::from(reader.u8()?);
        let value = reader.take(len)?;
        reader.take(unused)?;
        pairs.push((field, value));
    }
    (count >= LONG || pairs.len() == usize::from(count)).then_some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intsets_are_sorted() {
        let of = |bytes: &[u8]| intset(bytes).map(Iterator::collect::<Vec<_>>);
        assert_eq!(of(&[2, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 5, 0]), Some(vec![-1, 5]));
        assert_eq!(of(&[2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0xff, 0xff]), None);
        assert_eq!(of(&[2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 5, 0]), None);
        assert_eq!(of(&[2, 0, 0, 0, 1, 0, 0, 0, 5, 0, 6, 0]), None);
        assert_eq!(of(&[3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0]), None);
        assert_eq!(of(&[8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 5]), None);
    }

    #[test]
    fn zipmaps_skip_unused_bytes() {
        let map = b"\x02\x03foo\x03\x02bar__\x01x\x00\x00\xff";
        assert_eq!(zipmap(map), Some(vec![(&b"foo"[..], &b"bar"[..]), (b"x", b"")]));
        for bad in [&map[..map.len() - 1], b"\x01\xff", b"\x01\x03foo\xff", b"\x01\xfe\xff"] {
            assert_eq!(zipmap(bad), None, "{bad:?}");
        }
    }
}
