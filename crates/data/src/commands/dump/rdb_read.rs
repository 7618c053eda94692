//! Reads a value in any encoding that Redis up to 7.2 writes, from whatever comes: what is not a
//! value in every respect is refused, and memory is taken as the value turns out to be, never as
//! a length in the input claims.

use super::packed::{self, Element, signed};
use super::stream::{self, Layout};
use super::{kind, listpack, lzf, ziplist};
use crate::commands::stream::portable::PortableStream;
use crate::commands::{hash, list, set, zset};
use crate::db::Value;
use crate::parse;
use crate::settings::Settings;
use crate::sorted::{Sub, Val};
use quorate_base::codec::Reader;
use quorate_base::limits::VALUE_BYTES_MAX;
use std::borrow::Cow;

/// What a payload holds, its encoding forgotten.
enum Content {
    String(Vec<u8>),
    List(Vec<Val>),
    Set(Vec<Sub>),
    Hash(Vec<(Sub, Val)>),
    Zset(Vec<(Sub, f64)>),
    Stream(PortableStream<'static>),
}

/// The value that `bytes` are, without any rest; `None` if they are malformed.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Option<Value> {
    let mut source = Source(Reader::new(bytes));
    let kind = source.0.u8()?;
    let content = read_content(&mut source, kind, bytes.len())?;
    if !source.0.is_empty() {
        return None;
    }
    into_value(content, settings)
}

fn read_content(source: &mut Source<'_>, kind: u8, payload_bytes: usize) -> Option<Content> {
    Some(match kind {
        kind::STRING => Content::String(source.string()?.into_owned()),
        kind::LIST => Content::List(source.many(|s| Some(Val::from_slice(&s.string()?)))?),
        kind::SET => Content::Set(source.many(|s| Some(Sub::from_slice(&s.string()?)))?),
        kind::HASH => Content::Hash(source.many(|s| pair(&s.string()?, &s.string()?))?),
        kind::ZSET => {
            Content::Zset(source.many(|s| Some((Sub::from_slice(&s.string()?), s.text_score()?)))?)
        }
        kind::ZSET_2 => {
            Content::Zset(source.many(|s| Some((Sub::from_slice(&s.string()?), s.score()?)))?)
        }
        kind::LIST_ZIPLIST => Content::List(texts(&ziplist::elements(&source.string()?)?)),
        kind::LIST_QUICKLIST => Content::List(quicklist(source, |source, out| {
            out.extend(texts(&ziplist::elements(&source.string()?)?));
            Some(())
        })?),
        kind::LIST_QUICKLIST_2 => Content::List(quicklist(source, quicklist_node)?),
        kind::SET_INTSET => {
            let string = source.string()?;
            Content::Set(packed::intset(&string)?.map(decimal).collect())
        }
        kind::SET_LISTPACK => Content::Set(texts(&listpack::elements(&source.string()?)?)),
        kind::HASH_ZIPMAP => {
            let string = source.string()?;
            let pairs = packed::zipmap(&string)?;
            Content::Hash(pairs.into_iter().map(|(f, v)| pair(f, v)).collect::<Option<_>>()?)
        }
        kind::HASH_ZIPLIST => Content::Hash(fields(&ziplist::elements(&source.string()?)?)?),
        kind::HASH_LISTPACK => Content::Hash(fields(&listpack::elements(&source.string()?)?)?),
        kind::ZSET_ZIPLIST => Content::Zset(scores(&ziplist::elements(&source.string()?)?)?),
        kind::ZSET_LISTPACK => Content::Zset(scores(&listpack::elements(&source.string()?)?)?),
        kind::STREAM_LISTPACKS => {
            Content::Stream(stream::read(source, Layout::First, payload_bytes)?)
        }
        kind::STREAM_LISTPACKS_2 => {
            Content::Stream(stream::read(source, Layout::Counters, payload_bytes)?)
        }
        kind::STREAM_LISTPACKS_3 => {
            Content::Stream(stream::read(source, Layout::ActiveTimes, payload_bytes)?)
        }
        _ => return None,
    })
}

/// Nothing but a string and a stream may be empty, and nothing may be in a set, a sorted set or
/// the fields of a hash twice.
fn into_value(content: Content, settings: &Settings) -> Option<Value> {
    match content {
        Content::String(string) => Some(Value::String(string, false)),
        Content::List(elements) => (!elements.is_empty()).then(|| list::value(settings, &elements)),
        Content::Set(mut members) => {
            let unique = sort_unique(&mut members, |member| member);
            unique.then(|| set::value(settings, members))
        }
        Content::Hash(mut pairs) => {
            let unique = sort_unique(&mut pairs, |(field, _)| field);
            unique.then(|| hash::value(settings, pairs))
        }
        Content::Zset(mut pairs) => {
            let numbers = pairs.iter().all(|(_, score)| !score.is_nan());
            let unique = sort_unique(&mut pairs, |(member, _)| member);
            (numbers && unique).then(|| zset::element::value(settings, &pairs))
        }
        Content::Stream(stream) => stream.into_value(),
    }
}

/// Sorts `items`; false if there are none or two have the same name.
fn sort_unique<T>(items: &mut [T], name: impl Fn(&T) -> &Sub) -> bool {
    items.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    !items.is_empty() && items.is_sorted_by(|a, b| name(a) < name(b))
}

fn quicklist(
    source: &mut Source<'_>,
    node: impl Fn(&mut Source<'_>, &mut Vec<Val>) -> Option<()>,
) -> Option<Vec<Val>> {
    let mut elements = Vec::new();
    for _ in 0..source.len()? {
        node(source, &mut elements)?;
    }
    Some(elements)
}

/// A node of Redis 7: one large element as it is, or a listpack.
fn quicklist_node(source: &mut Source<'_>, out: &mut Vec<Val>) -> Option<()> {
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    match source.len()? {
        PLAIN => out.push(Val::from_slice(&source.string()?)),
        PACKED => out.extend(texts(&listpack::elements(&source.string()?)?)),
        _ => return None,
    }
    Some(())
}

fn texts<T: for<'t> From<&'t [u8]>>(elements: &[Element<'_>]) -> Vec<T> {
    elements.iter().map(|element| T::from(&element.text())).collect()
}

fn fields(elements: &[Element<'_>]) -> Option<Vec<(Sub, Val)>> {
    let (pairs, []) = elements.as_chunks::<2>() else { return None };
    pairs.iter().map(|[field, value]| pair(&field.text(), &value.text())).collect()
}

fn scores(elements: &[Element<'_>]) -> Option<Vec<(Sub, f64)>> {
    let (pairs, []) = elements.as_chunks::<2>() else { return None };
    let score = |element: &Element<'_>| match *element {
        Element::Number(number) => Some(number as f64),
        Element::Text(text) => parse::number(text),
    };
    pairs.iter().map(|[name, at]| Some((Sub::from_slice(&name.text()), score(at)?))).collect()
}

fn pair(field: &[u8], value: &[u8]) -> Option<(Sub, Val)> {
    Some((Sub::from_slice(field), Val::from_slice(value)))
}

fn decimal(number: i64) -> Sub {
    Sub::from_slice(&Element::Number(number).text())
}

/// The bytes of a payload from where reading is on.
pub(super) struct Source<'a>(Reader<'a>);

/// What the first byte of a string says.
enum Head {
    /// The string has this many bytes.
    Len(u64),
    /// A number of this many bytes.
    Number(usize),
    Compressed,
}

impl<'a> Source<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        self.0.take(len)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.u64()
    }

    /// A length or another number without a sign.
    pub(super) fn len(&mut self) -> Option<u64> {
        match self.head()? {
            Head::Len(len) => Some(len),
            Head::Number(_) | Head::Compressed => None,
        }
    }

    fn head(&mut self) -> Option<Head> {
        let head = self.0.u8()?;
        let low = u64::from(head & 0x3f);
        Some(match head {
            0..0x40 => Head::Len(low),
            0x40..0x80 => Head::Len(low << 8 | u64::from(self.0.u8()?)),
            0x80 => Head::Len(u64::from(self.0.u32()?.swap_bytes())),
            0x81 => Head::Len(self.0.u64()?.swap_bytes()),
            0xc0 => Head::Number(1),
            0xc1 => Head::Number(2),
            0xc2 => Head::Number(4),
            0xc3 => Head::Compressed,
            _ => return None,
        })
    }

    /// A string however it is encoded.
    pub(super) fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        match self.head()? {
            Head::Len(len) => Some(Cow::Borrowed(self.0.take(usize::try_from(len).ok()?)?)),
            Head::Number(width) => Some(Element::Number(signed(self.0.take(width)?)).text()),
            Head::Compressed => {
                let compressed = usize::try_from(self.len()?).ok()?;
                let len =
                    usize::try_from(self.len()?).ok().filter(|&len| len <= VALUE_BYTES_MAX)?;
                lzf::decompress(self.0.take(compressed)?, len).map(Cow::Owned)
            }
        }
    }

    /// As many items as the length before them says.
    fn many<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.len()?;
        // Every item takes a byte at least.
        if len > self.0.rest().len() as u64 {
            return None;
        }
        (0..len).map(|_| item(self)).collect()
    }

    /// A score in binary.
    fn score(&mut self) -> Option<f64> {
        self.0.u64().map(f64::from_bits)
    }

    /// A score as Redis before 4 wrote it: text after its length, or a length that stands for
    /// infinity.
    fn text_score(&mut self) -> Option<f64> {
        match self.0.u8()? {
            255 => Some(f64::NEG_INFINITY),
            254 => Some(f64::INFINITY),
            253 => None,
            len => parse::number(self.0.take(usize::from(len))?),
        }
    }
}
