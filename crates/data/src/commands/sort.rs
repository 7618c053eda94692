//! SORT and SORT_RO: the elements of a list, set or sorted set in order, or what they refer to.

use super::list;
use crate::command::{Ctx, KeyPositions, Keys, Spec, flag};
use crate::db::Db;
use crate::entry::Kind;
use crate::error::Error;
use crate::parse;
use crate::sorted::Sub;
use std::cmp::Ordering;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec {
        name: "sort",
        arity: -2,
        flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
        keys: Keys::CustomOrAll(keys),
        run: sort,
    },
    Spec {
        name: "sort_ro",
        arity: -2,
        flags: flag::READONLY | flag::MOVABLE_KEYS,
        keys: Keys::CustomOrAll(keys),
        run: sort_ro,
    },
];

/// What stands in a zset's elements by score in front of the member.
const SCORE_PREFIX: &[u8] = b"s";
const SCORE_PREFIX_BYTES: usize = 1 + 8;

/// A BY or GET pattern.
#[derive(Clone, Copy)]
enum Pattern<'a> {
    /// `#`: the element itself.
    Element,
    /// No `*` in it: refers to nothing.
    Nothing,
    /// The key is `before`, the element, `after`; `field` names a field of the hash there.
    Key { before: &'a [u8], after: &'a [u8], field: Option<&'a [u8]> },
}

impl<'a> Pattern<'a> {
    fn parse(text: &'a [u8]) -> Self {
        if text == b"#" {
            return Self::Element;
        }
        let Some(star) = text.iter().position(|&b| b == b'*') else { return Self::Nothing };
        let (before, after) = (&text[..star], &text[star + 1..]);
        let arrow = after.windows(2).position(|pair| pair == b"->");
        match arrow.filter(|&at| at + 2 < after.len()) {
            Some(at) => Self::Key { before, after: &after[..at], field: Some(&after[at + 2..]) },
            None => Self::Key { before, after, field: None },
        }
    }

    /// What the pattern refers to for one element.
    fn resolve<'d>(self, db: &'d mut Db, element: &'d [u8]) -> Result<Option<&'d [u8]>, Error> {
        let (before, after, field) = match self {
            Self::Element => return Ok(Some(element)),
            Self::Nothing => return Ok(None),
            Self::Key { before, after, field } => (before, after, field),
        };
        let key = [before, element, after].concat();
        let Some(entry) = db.entry(&key)? else { return Ok(None) };
        Ok(match field {
            None => entry.value(),
            Some(field) => {
                entry.coll().filter(|coll| coll.kind() == Kind::Hash).and_then(|h| h.get(field))
            }
        })
    }

    fn is_key(self) -> bool {
        matches!(self, Self::Key { .. })
    }
}

/// The arguments behind the key.
#[derive(Default)]
struct Options<'a> {
    /// `None` without BY.
    by: Option<Pattern<'a>>,
    gets: Vec<Pattern<'a>>,
    limit: Option<(i64, i64)>,
    store: Option<&'a [u8]>,
    descending: bool,
    alpha: bool,
}

impl<'a> Options<'a> {
    fn parse(mut args: &[&'a [u8]], may_store: bool) -> Result<Self, Error> {
        let mut it = Self::default();
        loop {
            args = match args {
                [] => return Ok(it),
                [word, rest @ ..] if parse::is_word(word, "asc") => {
                    it.descending = false;
                    rest
                }
                [word, rest @ ..] if parse::is_word(word, "desc") => {
                    it.descending = true;
                    rest
                }
                [word, rest @ ..] if parse::is_word(word, "alpha") => {
                    it.alpha = true;
                    rest
                }
                [word, start, count, rest @ ..] if parse::is_word(word, "limit") => {
                    it.limit = Some((parse::int(start)?, parse::int(count)?));
                    rest
                }
                [word, key, rest @ ..] if may_store && parse::is_word(word, "store") => {
                    it.store = Some(key);
                    rest
                }
                [word, pattern, rest @ ..] if parse::is_word(word, "by") => {
                    // As in Redis: without a `*`, as in `#`, no other BY makes it sort again.
                    it.by = Some(match (it.by, Pattern::parse(pattern)) {
                        (Some(Pattern::Nothing), _) | (_, Pattern::Element) => Pattern::Nothing,
                        (_, pattern) => pattern,
                    });
                    rest
                }
                [word, pattern, rest @ ..] if parse::is_word(word, "get") => {
                    it.gets.push(Pattern::parse(pattern));
                    rest
                }
                _ => return Err(Error::Syntax),
            };
        }
    }

    /// The ranks that LIMIT leaves of `len`.
    fn window(&self, len: usize) -> std::ops::Range<usize> {
        let Some((start, count)) = self.limit else { return 0..len };
        let start = usize::try_from(start).unwrap_or(0).min(len);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        start..start.saturating_add(count).min(len)
    }
}

fn keys(args: &[&[u8]], out: &mut KeyPositions) -> bool {
    out.push(1);
    let mut store = None;
    let mut bounded = true;
    let mut at = 2;
    while let Some(word) = args.get(at) {
        at += match () {
            () if parse::is_word(word, "limit") => 3,
            () if parse::is_word(word, "by") || parse::is_word(word, "get") => {
                bounded &= !args.get(at + 1).is_some_and(|text| Pattern::parse(text).is_key());
                2
            }
            () if parse::is_word(word, "store") => {
                store = Some(at + 1).filter(|&at| at < args.len());
                2
            }
            () => 1,
        };
    }
    out.extend(store);
    bounded
}

fn sort(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    run(ctx, args[1], &Options::parse(&args[2..], true)?)
}

fn sort_ro(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    run(ctx, args[1], &Options::parse(&args[2..], false)?)
}

fn run(ctx: &mut Ctx<'_>, key: &[u8], options: &Options<'_>) -> Result<(), Error> {
    let (mut elements, kind) = elements(ctx.db, key)?;
    match options.by {
        // A stored set needs an order that does not depend on how it lies in memory.
        Some(Pattern::Nothing) if kind == Kind::Set && options.store.is_some() => {
            elements.sort_unstable();
            if options.descending {
                elements.reverse();
            }
        }
        Some(Pattern::Nothing) if kind != Kind::Set && options.descending => elements.reverse(),
        Some(Pattern::Nothing) => {}
        by => elements = sorted(ctx.db, elements, by.unwrap_or(Pattern::Element), options)?,
    }
    let window = options.window(elements.len());
    let elements = &elements[window];
    match options.store {
        Some(to) => store(ctx, to, elements, options),
        None => reply(ctx, elements, options),
    }
}

/// The elements of the collection at `key` in its own order; a missing one is an empty list.
fn elements(db: &mut Db, key: &[u8]) -> Result<(Vec<Sub>, Kind), Error> {
    let Some(entry) = db.entry(key)? else { return Ok((Vec::new(), Kind::List)) };
    let coll = entry.coll().ok_or(Error::WrongType)?;
    let all = coll.elements();
    let elements = match coll.kind() {
        Kind::List => all.iter().map(|(_, element)| Sub::from_slice(element)).collect(),
        Kind::Set => all.iter().map(|(member, _)| Sub::from_slice(member)).collect(),
        Kind::Zset => all
            .prefixed(SCORE_PREFIX)
            .map(|(sub, _)| Sub::from_slice(&sub[SCORE_PREFIX_BYTES..]))
            .collect(),
        Kind::Hash | Kind::Stream | Kind::String => return Err(Error::WrongType),
    };
    Ok((elements, coll.kind()))
}

fn sorted(
    db: &mut Db,
    elements: Vec<Sub>,
    by: Pattern<'_>,
    options: &Options<'_>,
) -> Result<Vec<Sub>, Error> {
    let direction = |order: Ordering| if options.descending { order.reverse() } else { order };
    if options.alpha {
        let mut weighed = Vec::with_capacity(elements.len());
        for element in elements {
            let weight = by.resolve(db, &element)?.map(Sub::from_slice);
            weighed.push((weight, element));
        }
        weighed.sort_unstable_by(|a, b| direction(a.cmp(b)));
        return Ok(weighed.into_iter().map(|(_, element)| element).collect());
    }
    let mut weighed = Vec::with_capacity(elements.len());
    let mut all_numbers = true;
    for element in elements {
        let weight = by.resolve(db, &element)?.map_or(Some(0.0), score);
        all_numbers &= weight.is_some();
        weighed.push((weight.unwrap_or(0.0), element));
    }
    if !all_numbers {
        return Err(Error::text("ERR One or more scores can't be converted into double"));
    }
    // Minus zero equals zero.
    weighed.sort_unstable_by(|a, b| {
        let by_weight = a.0.partial_cmp(&b.0).expect("no score is NaN");
        direction(by_weight.then_with(|| a.1.cmp(&b.1)))
    });
    Ok(weighed.into_iter().map(|(_, element)| element).collect())
}

/// A weight as `strtod` reads it: spaces in front do no harm, and the empty text is zero.
fn score(text: &[u8]) -> Option<f64> {
    if text.is_empty() {
        return Some(0.0);
    }
    parse::number(text.trim_ascii_start())
}

fn reply(ctx: &mut Ctx<'_>, elements: &[Sub], options: &Options<'_>) -> Result<(), Error> {
    ctx.reply.array(elements.len() * options.gets.len().max(1));
    for element in elements {
        if options.gets.is_empty() {
            ctx.reply.bulk(element);
        }
        for get in &options.gets {
            match get.resolve(ctx.db, element)? {
                Some(value) => ctx.reply.bulk(value),
                None => ctx.reply.null(),
            }
        }
    }
    Ok(())
}

fn store(
    ctx: &mut Ctx<'_>,
    to: &[u8],
    elements: &[Sub],
    options: &Options<'_>,
) -> Result<(), Error> {
    let mut values: Vec<Sub> = Vec::new();
    let mut bytes = 0;
    for element in elements {
        for get in &options.gets {
            let value = get.resolve(ctx.db, element)?.unwrap_or_default();
            // Before so much is gathered: the same large value may be asked for many times.
            bytes += value.len();
            ctx.settings.check_logged(bytes)?;
            values.push(Sub::from_slice(value));
        }
    }
    let values = if options.gets.is_empty() { elements } else { &values };
    let slices: Vec<&[u8]> = values.iter().map(Sub::as_slice).collect();
    list::store(ctx, to, &slices)?;
    ctx.reply.int(values.len() as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Harness;

    #[test]
    fn elements_are_ordered_by_what_they_refer_to() {
        let mut h = Harness::new(8);
        h.check("SADD s 1 2 3", ":3|");
        h.check("SORT s DESC", "*3|$1|3|$1|2|$1|1|");
        h.check("SORT s LIMIT 1 1", "*1|$1|2|");
        h.check("SET w1 3", "+OK|");
        h.check("SET w2 1", "+OK|");
        h.check("SORT s BY w*", "*3|$1|3|$1|2|$1|1|");
        h.check("HSET h1 f x", ":1|");
        h.check(
            "SORT s BY nosort GET # GET h*->f GET none",
            "*9|$1|1|$1|x|$-1|$1|2|$-1|$-1|$1|3|$-1|$-1|",
        );
        h.check("SORT s GET h*->f STORE out", ":3|");
        h.check("LRANGE out 0 -1", "*3|$1|x|$0||$0||");
        h.check("SORT out BY nosort DESC LIMIT 0 1", "*1|$0||");
        h.check("SADD s x", ":1|");
        h.check("SORT s", "-ERR One or more scores can't be converted into double|");
        h.check("SORT s ALPHA LIMIT 0 -1", "*4|$1|1|$1|2|$1|3|$1|x|");
        h.check("SORT_RO s STORE out", "-ERR syntax error|");
        h.check("SORT none STORE out", ":0|");
        h.check("EXISTS out", ":0|");
    }

    #[test]
    fn patterns_with_a_star_need_every_shard() {
        let positions = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut out = KeyPositions::new();
            let bounded = keys(&args, &mut out);
            (bounded, out.to_vec())
        };
        assert_eq!(positions("SORT k STORE a STORE b"), (true, vec![1, 5]));
        assert_eq!(positions("SORT k BY nosort GET # LIMIT 0 1"), (true, vec![1]));
        assert_eq!(positions("SORT k BY w_* STORE b"), (false, vec![1, 5]));
        assert_eq!(positions("SORT k GET store STORE"), (true, vec![1]));
    }
}
