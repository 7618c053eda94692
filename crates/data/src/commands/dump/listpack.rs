//! Listpacks: Redis' compact sequences of strings and integers.
//!
//! ```text
//! bytes u32 │ count u16, 65535: unknown │ entries … │ 255
//!
//! entry: head and data, then their length, so that a reader can walk backwards
//!   0nnnnnnn                  a number from 0 to 127
//!   10nnnnnn                  n bytes
//!   110nnnnn nnnnnnnn         a signed number of 13 bits
//!   1110nnnn nnnnnnnn         n bytes
//!   240 n u32                 n bytes
//!   241 │ 242 │ 243 │ 244     a signed number of 2, 3, 4 or 8 bytes, little-endian
//! length: 1 to 5 bytes of 7 bits, the highest first; all but the first byte have their high bit set
//! ```

use super::packed::{Element, signed};
use crate::parse;
use quorate_base::codec::Reader;

const HEADER: usize = 6;
const END: u8 = 255;
const COUNT_UNKNOWN: u16 = u16::MAX;

/// The entries of a listpack; `None` if anything about it is not as it must be.
pub(super) fn elements(pack: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut reader = Reader::new(pack);
    let bytes = reader.u32()? as usize;
    let count = u16::from_le_bytes(reader.take(2)?.try_into().expect("two bytes were taken"));
    if bytes != pack.len() {
        return None;
    }
    let mut elements = Vec::new();
    while reader.rest() != [END] {
        let before = reader.rest().len();
        elements.push(element(&mut reader)?);
        let (back, len) = back_length(before - reader.rest().len());
        if reader.take(len)? != &back[..len] {
            return None;
        }
    }
    (count == COUNT_UNKNOWN || elements.len() == usize::from(count)).then_some(elements)
}

fn element<'a>(reader: &mut Reader<'a>) -> Option<Element<'a>> {
    let head = reader.u8()?;
    let low = usize::from(head);
    Some(match head {
        0..0x80 => Element::Number(i64::from(head)),
        0x80..0xc0 => Element::Text(reader.take(low & 0x3f)?),
        0xc0..0xe0 => {
            let number = i64::from(head & 0x1f) << 8 | i64::from(reader.u8()?);
            // The highest of the 13 bits is the sign.
            Element::Number(number << 51 >> 51)
        }
        0xe0..0xf0 => {
            let len = (low & 0x0f) << 8 | usize::from(reader.u8()?);
            Element::Text(reader.take(len)?)
        }
        0xf0 => {
            let len = reader.u32()? as usize;
            Element::Text(reader.take(len)?)
        }
        0xf1..0xf4 => Element::Number(signed(reader.take(low - 0xf0 + 1)?)),
        0xf4 => Element::Number(signed(reader.take(8)?)),
        _ => return None,
    })
}

/// The encoded length of an entry's head and data, and how many bytes that takes.
fn back_length(len: usize) -> ([u8; 5], usize) {
    // Each step holds one less than its bits can.
    let count = match len {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    };
    let mut bytes = [0; 5];
    for (at, byte) in bytes[..count].iter_mut().enumerate() {
        let bits = (len >> (7 * (count - 1 - at)) & 0x7f) as u8;
        *byte = if at == 0 { bits } else { bits | 0x80 };
    }
    (bytes, count)
}

/// A listpack being written.
pub(super) struct Builder {
    pack: Vec<u8>,
    count: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { pack: vec![0; HEADER], count: 0 }
    }

    /// Appends a string, as a number if it is one.
    pub(super) fn text(&mut self, text: &[u8]) {
        if let Some(number) = parse::integer(text) {
            self.number(number);
            return;
        }
        let from = self.pack.len();
        let len = text.len();
        match len {
            0..64 => self.pack.push(0x80 | len as u8),
            64..4096 => self.pack.extend_from_slice(&[0xe0 | (len >> 8) as u8, len as u8]),
            _ => {
                let len = u32::try_from(len).expect("strings are far below 4 GiB");
                self.pack.push(0xf0);
                self.pack.extend_from_slice(&len.to_le_bytes());
            }
        }
        self.pack.extend_from_slice(text);
        self.end_entry(from);
    }

    /// Appends a number.
    pub(super) fn number(&mut self, number: i64) {
        let from = self.pack.len();
        let bytes = number.to_le_bytes();
        match number {
            0..128 => self.pack.push(bytes[0]),
            -4096..4096 => self.pack.extend_from_slice(&[0xc0 | bytes[1] & 0x1f, bytes[0]]),
            -0x8000..0x8000 => self.wide(0xf1, &bytes[..2]),
            -0x80_0000..0x80_0000 => self.wide(0xf2, &bytes[..3]),
            -0x8000_0000..0x8000_0000 => self.wide(0xf3, &bytes[..4]),
            _ => self.wide(0xf4, &bytes),
        }
        self.end_entry(from);
    }

    fn wide(&mut self, head: u8, bytes: &[u8]) {
        self.pack.push(head);
        self.pack.extend_from_slice(bytes);
    }

    fn end_entry(&mut self, from: usize) {
        let (back, len) = back_length(self.pack.len() - from);
        self.pack.extend_from_slice(&back[..len]);
        self.count += 1;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.pack.push(END);
        let bytes = u32::try_from(self.pack.len()).expect("a node is far below 4 GiB");
        let count = u16::try_from(self.count).unwrap_or(COUNT_UNKNOWN);
        self.pack[..4].copy_from_slice(&bytes.to_le_bytes());
        self.pack[4..HEADER].copy_from_slice(&count.to_le_bytes());
        self.pack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_of_every_width_come_back() {
        let mut numbers = vec![i64::MIN, i64::MAX];
        for bits in [0, 7, 12, 15, 23, 31, 40] {
            for off in -1..=1 {
                numbers.extend([(1 << bits) + off, -(1 << bits) + off]);
            }
        }
        let lens = [0, 1, 63, 64, 124, 125, 126, 127, 4095, 4096, 16_376, 16_377, 16_378, 70_000];
        let texts: Vec<Vec<u8>> = lens.iter().map(|&len| vec![b'x'; len]).collect();
        let mut pack = Builder::new();
        numbers.iter().for_each(|&number| pack.number(number));
        texts.iter().for_each(|text| pack.text(text));
        pack.text(b"12");
        let pack = pack.finish();
        let want: Vec<_> = (numbers.iter().map(|&number| Element::Number(number)))
            .chain(texts.iter().map(|text| Element::Text(text)))
            .chain([Element::Number(12)])
            .collect();
        assert_eq!(elements(&pack), Some(want));
    }

    #[test]
    fn frames_must_agree_with_what_they_frame() {
        let mut pack = Builder::new();
        pack.text(b"abc");
        pack.number(1000);
        let pack = pack.finish();
        assert!(elements(&pack).is_some());
        // Length, count, an entry's length, and the end.
        for at in [0, 4, 10, 13, pack.len() - 1] {
            let mut bad = pack.clone();
            bad[at] ^= 1;
            assert_eq!(elements(&bad), None, "byte {at}");
        }
        assert_eq!(elements(b"\x07\0\0\0\0\0\xff"), Some(Vec::new()));
        assert_eq!(elements(b"\x06\0\0\0\0\0"), None);
        assert_eq!(elements(b""), None);
    }
}
