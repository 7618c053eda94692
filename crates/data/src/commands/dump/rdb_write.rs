//! One value as Redis writes it into an RDB file: a type byte and then what the type says. Only
//! encodings that every Redis since 7.0 reads are written, and the plain ones among them: the
//! server that reads them chooses its own encodings.

use super::kind;
use super::stream;
use crate::commands::stream::portable::PortableStream;
use crate::commands::zset::Members;
use crate::entry::{Coll, Entry, Kind};
use crate::parse;

/// The longest text that may be a 32-bit number.
const NUMBER_TEXT_MAX: usize = 11;

/// Appends the value of a live entry.
pub(super) fn write(out: &mut Vec<u8>, entry: &Entry) {
    let Some(coll) = entry.coll() else {
        out.push(kind::STRING);
        put_string(out, entry.value().expect("a live entry has a value or elements"));
        return;
    };
    match coll.kind() {
        Kind::String => unreachable!("a collection is no string"),
        Kind::List => {
            put_header(out, kind::LIST, coll.len());
            coll.elements().iter().for_each(|(_, element)| put_string(out, element));
        }
        Kind::Set => {
            put_header(out, kind::SET, coll.len());
            coll.elements().iter().for_each(|(member, _)| put_string(out, member));
        }
        Kind::Hash => {
            put_header(out, kind::HASH, coll.len());
            for (field, value) in coll.elements().iter() {
                put_string(out, field);
                put_string(out, value);
            }
        }
        Kind::Zset => write_zset(out, coll),
        Kind::Stream => {
            out.push(kind::STREAM_LISTPACKS_2);
            stream::write(out, &PortableStream::of(coll));
        }
    }
}

/// From the greatest score down, as Redis does: it inserts at the head of its skiplist.
fn write_zset(out: &mut Vec<u8>, coll: &Coll) {
    let members = Members::of(coll);
    put_header(out, kind::ZSET_2, members.len());
    for (member, score) in members.iter().rev() {
        put_string(out, member);
        out.extend_from_slice(&score.to_le_bytes());
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    put_len(out, len as u64);
}

/// Appends a length of 1, 2, 5 or 9 bytes.
pub(super) fn put_len(out: &mut Vec<u8>, len: u64) {
    if len < 1 << 6 {
        out.push(len as u8);
    } else if len < 1 << 14 {
        out.extend_from_slice(&(len as u16 | 1 << 14).to_be_bytes());
    } else if let Ok(len) = u32::try_from(len) {
        out.push(0x80);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&len.to_be_bytes());
    }
}

/// Appends a string, as a number if it is one of up to 32 bits.
pub(super) fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    let number = if string.len() <= NUMBER_TEXT_MAX { parse::integer(string) } else { None };
    match number.and_then(|number| i32::try_from(number).ok()) {
        Some(number) => {
            let bytes = number.to_le_bytes();
            let (width, head) = match number {
                -0x80..0x80 => (1, 0xc0),
                -0x8000..0x8000 => (2, 0xc1),
                _ => (4, 0xc2),
            };
            out.push(head);
            out.extend_from_slice(&bytes[..width]);
        }
        None => {
            put_len(out, string.len() as u64);
            out.extend_from_slice(string);
        }
    }
}
