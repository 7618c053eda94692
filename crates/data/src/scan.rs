//! HSCAN, SSCAN and ZSCAN: walking one collection with a 64-bit cursor while elements come and go.
//!
//! The promise is Redis': an element that is there during the whole walk is returned at least
//! once, and a walk ends. What Redis would keep in a compact encoding is returned whole, with
//! cursor 0, whatever cursor came in.
//!
//! A larger collection is walked in its own order, `COUNT` elements a call, so a cursor must name
//! a place between two elements of any length. No function of one element to 64 bits keeps their
//! order: its first eight bytes do not tell elements with a long common prefix apart, a rank
//! moves when smaller elements come or go, and the order of a hash costs a pass over all elements
//! for every call. So a cursor is the *hash of the first element not yet returned*, and
//! [`Cursors`] remembers which element that was. The place is exact even if the element has been
//! removed since. What was forgotten (the memory is bounded, and it stays behind when the shard
//! moves) is found again by one pass over the collection; if the element is gone as well, the
//! walk starts over, which repeats elements but leaves none out. The same place always has the
//! same cursor, so a call can be repeated.

use crate::command::Ctx;
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::parse;
use crate::settings::Settings;
use crate::sorted::{Iter, Sub, prefix_end};
use quorate_base::hash::hash64;
use quorate_resp::Reply;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// The most places that are remembered.
const CURSORS_MAX: usize = 4096;
/// The most bytes of elements that are remembered.
const CURSOR_BYTES_MAX: usize = 1 << 20;
/// Elements a call looks at unless COUNT says otherwise.
const COUNT_DEFAULT: usize = 10;

/// What MATCH and COUNT said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    /// How many elements to look at.
    pub(crate) count: usize,
    /// The glob an element's name must match.
    pub(crate) pattern: Option<&'a [u8]>,
}

/// How a family's elements are walked.
pub(crate) struct Walk {
    /// The type of the collection.
    pub(crate) kind: Kind,
    /// What the names of the elements to return start with; it is taken off.
    pub(crate) prefix: &'static [u8],
    /// Replies per element: 1 for names alone, 2 with a value.
    pub(crate) width: usize,
    /// True if Redis would have the collection in a compact encoding.
    pub(crate) is_compact: fn(&Coll, &Settings) -> bool,
    /// Writes the replies of the element with this name, without the prefix, and value.
    pub(crate) emit: fn(&mut Reply<'_>, &[u8], &[u8]),
}

/// Executes HSCAN, SSCAN or ZSCAN: `args` are the command's. As in Redis the cursor is checked
/// first, then the key, and the options only if there is something to walk.
pub(crate) fn collection(ctx: &mut Ctx<'_>, args: &[&[u8]], walk: &Walk) -> Result<(), Error> {
    let key = args[1];
    let cursor = cursor(args[2])?;
    let seed = hash64(0, key);
    let place = ctx.db.cursors.get(cursor).cloned();
    let Some(coll) = ctx.db.coll(key, walk.kind)? else {
        ctx.reply.raw(b"*2\r\n$1\r\n0\r\n*0\r\n");
        return Ok(());
    };
    let options = options(&args[3..])?;
    let whole = (walk.is_compact)(coll, ctx.settings);
    let elements = coll.elements();
    let place = match place {
        _ if whole || cursor == 0 => None,
        None => find(elements.prefixed(walk.prefix), seed, cursor),
        remembered => remembered,
    };
    let end = prefix_end(walk.prefix);
    let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut iter = elements.span(Bound::Included(place.as_deref().unwrap_or(walk.prefix)), to);
    let count = if whole { usize::MAX } else { options.count };
    let (mut buffer, mut found) = (Vec::new(), 0);
    let mut replies = Reply::new(&mut buffer, ctx.reply.proto());
    for (sub, val) in iter.by_ref().take(count) {
        let name = &sub[walk.prefix.len()..];
        if options.pattern.is_none_or(|pattern| parse::glob(pattern, name)) {
            (walk.emit)(&mut replies, name, val);
            found += walk.width;
        }
    }
    let next = iter.next().map(|(sub, _)| Sub::from_slice(sub));
    let cursor = next.map_or(0, |sub| {
        let cursor = cursor_of(seed, &sub);
        ctx.db.cursors.remember(cursor, sub);
        cursor
    });
    ctx.reply.array(2);
    ctx.reply.bulk(cursor.to_string().as_bytes());
    ctx.reply.array(found);
    ctx.reply.raw(&buffer);
    Ok(())
}

/// A cursor as Redis reads it (`strtoul`): decimal with an optional sign, no spaces; the empty
/// text is 0 and a minus sign wraps around.
pub(crate) fn cursor(text: &[u8]) -> Result<u64, Error> {
    let (negative, digits) = match text {
        [] => return Ok(0),
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let magnitude = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok())
        .ok_or(Error::text("ERR invalid cursor"))?;
    Ok(if negative { magnitude.wrapping_neg() } else { magnitude })
}

/// MATCH and COUNT, in any order, the last of each kind counts.
pub(crate) fn options<'a>(mut args: &[&'a [u8]]) -> Result<Options<'a>, Error> {
    let mut options = Options { count: COUNT_DEFAULT, pattern: None };
    loop {
        match args {
            [] => return Ok(options),
            [word, count, rest @ ..] if parse::is_word(word, "count") => {
                let count = parse::int(count)?;
                options.count =
                    usize::try_from(count).ok().filter(|&n| n > 0).ok_or(Error::Syntax)?;
                args = rest;
            }
            [word, pattern, rest @ ..] if parse::is_word(word, "match") => {
                options.pattern = Some(pattern);
                args = rest;
            }
            _ => return Err(Error::Syntax),
        }
    }
}

/// The cursor that names the place before `sub`. Never 0 and, for clients that parse cursors as
/// signed numbers, never above `i64::MAX`.
fn cursor_of(seed: u64, sub: &[u8]) -> u64 {
    (hash64(seed, sub) >> 1).max(1)
}

/// The element that `cursor` names, if it is still there: one pass over the elements.
fn find(mut elements: Iter<'_>, seed: u64, cursor: u64) -> Option<Sub> {
    elements.find(|(sub, _)| cursor_of(seed, sub) == cursor).map(|(sub, _)| Sub::from_slice(sub))
}

/// The places that cursors name, the latest of them: forgetting one costs a pass, not correctness.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    places: BTreeMap<u64, Sub>,
    by_age: VecDeque<u64>,
    bytes: usize,
}

impl Cursors {
    fn get(&self, cursor: u64) -> Option<&Sub> {
        self.places.get(&cursor)
    }

    fn remember(&mut self, cursor: u64, sub: Sub) {
        if sub.len() > CURSOR_BYTES_MAX || self.places.contains_key(&cursor) {
            return;
        }
        self.bytes += sub.len();
        self.places.insert(cursor, sub);
        self.by_age.push_back(cursor);
        while self.by_age.len() > CURSORS_MAX || self.bytes > CURSOR_BYTES_MAX {
            let oldest = self.by_age.pop_front().expect("the bounds are above nothing");
            let sub = self.places.remove(&oldest).expect("every remembered cursor has a place");
            self.bytes -= sub.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Harness;
    use quorate_base::Prng;
    use std::collections::BTreeSet;

    const WALK: Walk = Walk {
        kind: Kind::Set,
        prefix: b"",
        width: 1,
        is_compact: |coll, settings| coll.len() <= settings.set_max_listpack_entries,
        emit: |reply, name, _| reply.bulk(name),
    };

    fn call(harness: &mut Harness, cursor: u64, count: u32) -> (u64, Vec<u32>) {
        let (mut out, mut prng) = (Vec::new(), Prng::new(1));
        let mut ctx = Ctx {
            db: &mut harness.db,
            prng: &mut prng,
            reply: Reply::new(&mut out, Default::default()),
            settings: &harness.settings,
            now: harness.now,
            in_transaction: false,
            retried: false,
            blocked: None,
        };
        let (cursor, count) = (cursor.to_string(), count.to_string());
        let args: [&[u8]; 5] = [b"sscan", b"key", cursor.as_bytes(), b"count", count.as_bytes()];
        collection(&mut ctx, &args, &WALK).expect("the walk goes on");
        let text = String::from_utf8(out).expect("text");
        let mut bulks = text.split("\r\n").filter(|l| !l.starts_with(['$', '*']) && !l.is_empty());
        let next = bulks.next().expect("a cursor").parse().expect("a number");
        (next, bulks.map(|b| b.trim_start_matches('x').parse().expect("a number")).collect())
    }

    fn change(harness: &mut Harness, n: u32, add: bool) {
        let now = harness.now;
        harness.db.iter_mut().for_each(|k| k.begin_batch(harness.index, now));
        // A common prefix longer than any cursor.
        let sub = format!("xxxxxxxxxxxxxxxxxxxx{n:06}");
        let mut coll = harness.db.open(b"key", Kind::Set).expect("a set");
        if add {
            coll.put(sub.as_bytes(), b"");
        } else {
            coll.remove(sub.as_bytes());
        }
        drop(coll);
        harness.db.iter_mut().for_each(|k| drop(k.take_batch()));
        harness.index += 1;
    }

    #[test]
    fn what_stays_is_returned_whatever_comes_and_goes() {
        for (seed, forget) in [(1, false), (2, false), (3, true), (4, true)] {
            let (mut harness, mut prng) = (Harness::new(1), Prng::new(seed));
            (0..1000).for_each(|n| change(&mut harness, n * 3, true));
            // Multiples of 9 stay.
            let mut missing: BTreeSet<u32> = (0..334).map(|n| n * 9).collect();
            let (mut cursor, mut calls) = (0, 0);
            loop {
                let (next, seen) = call(&mut harness, cursor, 10);
                missing.retain(|n| !seen.contains(n));
                for _ in 0..4 {
                    let n = prng.below(3000) as u32;
                    if !n.is_multiple_of(9) {
                        change(&mut harness, n, prng.below(2) == 0);
                    }
                }
                if forget && prng.below(20) == 0 {
                    harness.db.cursors = Cursors::default();
                }
                calls += 1;
                assert!(calls < 2000, "the walk does not end");
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            assert!(missing.is_empty(), "seed {seed} missed {missing:?}");
        }
    }

    #[test]
    fn small_collections_come_whole() {
        let mut harness = Harness::new(1);
        (0..128).for_each(|n| change(&mut harness, n, true));
        assert_eq!(call(&mut harness, 77, 1), (0, (0..128).collect()));
    }

    #[test]
    fn the_memory_of_cursors_is_bounded() {
        let mut cursors = Cursors::default();
        for n in 0..10_000u64 {
            cursors.remember(n, Sub::from_slice(&n.to_be_bytes()));
        }
        assert_eq!(cursors.places.len(), CURSORS_MAX);
        for n in 0..10u64 {
            cursors.remember(20_000 + n, Sub::from_slice(&vec![0; CURSOR_BYTES_MAX / 4]));
        }
        assert!(cursors.bytes <= CURSOR_BYTES_MAX && cursors.get(20_009).is_some());
        assert_eq!(cursors.places.len(), cursors.by_age.len());
    }

    #[test]
    fn cursors_are_read_as_strtoul_does() {
        for (text, want) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("+7", Some(7)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            (" 1", None),
            ("1x", None),
            ("-", None),
        ] {
            assert_eq!(cursor(text.as_bytes()).ok(), want, "{text}");
        }
    }
}
