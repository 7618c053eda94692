//! Ziplists, which listpacks replaced in Redis 7.
//!
//! ```text
//! bytes u32 │ offset of the last entry u32 │ count u16, 65535: unknown │ entries … │ 255
//!
//! entry: length of the previous entry (u8 below 254, or 254 and u32), head, data
//!   00nnnnnn                  n bytes
//!   01nnnnnn nnnnnnnn         n bytes
//!   128 n u32 BE              n bytes
//!   192 │ 208 │ 224           a signed number of 2, 4 or 8 bytes, little-endian
//!   240 │ 254                 a signed number of 3 or 1 bytes
//!   1111nnnn                  n - 1, n from 1 to 13
//! ```

use super::packed::{Element, signed};
use quorate_base::codec::Reader;

const HEADER: usize = 10;
const END: u8 = 255;
const LONG: u8 = 254;
const COUNT_UNKNOWN: u16 = u16::MAX;

/// The entries of a ziplist; `None` if anything about it is not as it must be.
pub(super) fn elements(list: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut reader = Reader::new(list);
    let (bytes, last) = (reader.u32()? as usize, reader.u32()? as usize);
    let count = u16::from_le_bytes(reader.take(2)?.try_into().expect("two bytes were taken"));
    if bytes != list.len() {
        return None;
    }
    let mut elements = Vec::new();
    let (mut previous, mut at) = (0, HEADER);
    while reader.rest() != [END] {
        at = list.len() - reader.rest().len();
        let claimed = match reader.u8()? {
            END => return None,
            LONG => reader.u32()? as usize,
            len => usize::from(len),
        };
        if claimed != previous {
            return None;
        }
        elements.push(element(&mut reader)?);
        previous = list.len() - reader.rest().len() - at;
    }
    let counted = count == COUNT_UNKNOWN || elements.len() == usize::from(count);
    (counted && last == at).then_some(elements)
}

fn element<'a>(reader: &mut Reader<'a>) -> Option<Element<'a>> {
    let head = reader.u8()?;
    let number_bytes = match head {
        0..0x40 => return Some(Element::Text(reader.take(usize::from(head))?)),
        0x40..0x80 => {
            let len = usize::from(head & 0x3f) << 8 | usize::from(reader.u8()?);
            return Some(Element::Text(reader.take(len)?));
        }
        0x80 => {
            let len = reader.u32()?.swap_bytes() as usize;
            return Some(Element::Text(reader.take(len)?));
        }
        0xf1..0xfe => return Some(Element::Number(i64::from(head & 0x0f) - 1)),
        0xfe => 1,
        0xc0 => 2,
        0xf0 => 3,
        0xd0 => 4,
        0xe0 => 8,
        _ => return None,
    };
    Some(Element::Number(signed(reader.take(number_bytes)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&[u8]]) -> Vec<u8> {
        let mut list = vec![0; HEADER];
        let (mut previous, mut last) = (0, HEADER);
        for entry in entries {
            last = list.len();
            if previous < usize::from(LONG) {
                list.push(previous as u8);
            } else {
                list.push(LONG);
                list.extend_from_slice(&(previous as u32).to_le_bytes());
            }
            list.extend_from_slice(entry);
            previous = list.len() - last;
        }
        list.push(END);
        let bytes = list.len() as u32;
        list[..4].copy_from_slice(&bytes.to_le_bytes());
        list[4..8].copy_from_slice(&(last as u32).to_le_bytes());
        list[8..10].copy_from_slice(&(entries.len() as u16).to_le_bytes());
        list
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let mut long = vec![0x41, 0x2c];
        long.extend([b'y'; 300]);
        let entries: [&[u8]; 10] = [
            b"\x03abc",
            &long,
            b"\x80\0\0\0\x02zz",
            &[0xc0, 0xfe, 0xff],
            &[0xd0, 0, 0, 1, 0],
            &[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80],
            &[0xf0, 0xff, 0xff, 0xff],
            &[0xfe, 0x80],
            &[0xf1],
            &[0xfd],
        ];
        use Element::{Number, Text};
        let want = vec![
            Text(b"abc"),
            Text(&long[2..]),
            Text(b"zz"),
            Number(-2),
            Number(65_536),
            Number(i64::MIN),
            Number(-1),
            Number(-128),
            Number(0),
            Number(12),
        ];
        let good = list(&entries);
        assert_eq!(elements(&good), Some(want));
        // Length, last entry, count, the length of a previous entry, and the end.
        for at in [0, 4, 8, 15, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(elements(&bad), None, "byte {at}");
        }
        assert_eq!(elements(&list(&[])), Some(Vec::new()));
        assert_eq!(elements(&list(&[&[0xff]])), None);
        assert_eq!(elements(&list(&[&[0x81]])), None);
    }
}
