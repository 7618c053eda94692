//! Lists. An element's name is its position (see `position.rs`) and its value the element, so
//! the order of the collection is the order of the list.

use crate::command::{Ctx, FIRST, FIRST_TWO, Keys, Spec, flag};
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::logged::element_bytes;
use crate::parse;
use crate::sorted::Sub;
use edit::{ListMut, Shrink};

mod edit;
mod position;
mod transfer;

pub(crate) use edit::value;

const READ: u32 = flag::READONLY;
const WRITE: u32 = flag::WRITE;
const GROW: u32 = flag::WRITE | flag::DENYOOM;
const FAST: u32 = flag::FAST;
const BLOCKING: u32 = flag::BLOCKING;
const MOVABLE: u32 = flag::MOVABLE_KEYS;

const KEYS_BEFORE_TIMEOUT: Keys = Keys::Range { first: 1, last: -2, step: 1 };

/// The family's commands.
#[rustfmt::skip]
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "lpush", arity: -3, flags: GROW | FAST, keys: FIRST, run: lpush },
    Spec { name: "rpush", arity: -3, flags: GROW | FAST, keys: FIRST, run: rpush },
    Spec { name: "lpushx", arity: -3, flags: GROW | FAST, keys: FIRST, run: lpushx },
    Spec { name: "rpushx", arity: -3, flags: GROW | FAST, keys: FIRST, run: rpushx },
    Spec { name: "lpop", arity: -2, flags: WRITE | FAST, keys: FIRST, run: lpop },
    Spec { name: "rpop", arity: -2, flags: WRITE | FAST, keys: FIRST, run: rpop },
    Spec { name: "llen", arity: 2, flags: READ | FAST, keys: FIRST, run: llen },
    Spec { name: "lrange", arity: 4, flags: READ, keys: FIRST, run: lrange },
    Spec { name: "lindex", arity: 3, flags: READ, keys: FIRST, run: lindex },
    Spec { name: "lset", arity: 4, flags: GROW, keys: FIRST, run: lset },
    Spec { name: "linsert", arity: 5, flags: GROW, keys: FIRST, run: linsert },
    Spec { name: "lrem", arity: 4, flags: WRITE, keys: FIRST, run: lrem },
    Spec { name: "ltrim", arity: 4, flags: WRITE, keys: FIRST, run: ltrim },
    Spec { name: "lpos", arity: -3, flags: READ, keys: FIRST, run: lpos },
    Spec { name: "lmove", arity: 5, flags: GROW, keys: FIRST_TWO, run: transfer::lmove },
    Spec { name: "rpoplpush", arity: 3, flags: GROW, keys: FIRST_TWO, run: transfer::rpoplpush },
    Spec { name: "lmpop", arity: -4, flags: WRITE | MOVABLE, keys: Keys::Counted { at: 1, fixed: 0 }, run: transfer::lmpop },
    Spec { name: "blpop", arity: -3, flags: WRITE | BLOCKING, keys: KEYS_BEFORE_TIMEOUT, run: transfer::blpop },
    Spec { name: "brpop", arity: -3, flags: WRITE | BLOCKING, keys: KEYS_BEFORE_TIMEOUT, run: transfer::brpop },
    Spec { name: "blmove", arity: 6, flags: GROW | BLOCKING, keys: FIRST_TWO, run: transfer::blmove },
    Spec { name: "brpoplpush", arity: 4, flags: GROW | BLOCKING, keys: FIRST_TWO, run: transfer::brpoplpush },
    Spec { name: "blmpop", arity: -5, flags: WRITE | BLOCKING | MOVABLE, keys: Keys::Counted { at: 2, fixed: 0 }, run: transfer::blmpop },
];

/// One end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn parse(word: &[u8]) -> Result<Self, Error> {
        if parse::is_word(word, "LEFT") {
            Ok(Self::Left)
        } else if parse::is_word(word, "RIGHT") {
            Ok(Self::Right)
        } else {
            Err(Error::Syntax)
        }
    }
}

// --- the ends --------------------------------------------------------------------------------

fn lpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    push(ctx, args[1], &args[2..], End::Left)
}

fn rpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    push(ctx, args[1], &args[2..], End::Right)
}

fn lpushx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    push_existing(ctx, args, End::Left)
}

fn rpushx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    push_existing(ctx, args, End::Right)
}

fn push_existing(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> Result<(), Error> {
    if ctx.db.coll(args[1], Kind::List)?.is_none() {
        ctx.reply.int(0);
        return Ok(());
    }
    push(ctx, args[1], &args[2..], end)
}

fn push(ctx: &mut Ctx<'_>, key: &[u8], elements: &[&[u8]], end: End) -> Result<(), Error> {
    let mut list = ListMut::open(ctx.db, key)?;
    list.grow(ctx.settings, elements.len(), elements.iter().map(|e| e.len()).sum());
    for element in elements {
        list.push(end, element);
    }
    ctx.reply.int(list.close(ctx.settings, Shrink::Never) as i64);
    Ok(())
}

/// Sets `key` to the list of `elements`, whatever it held before; without elements the key is
/// gone. For SORT with STORE.
pub(crate) fn store(ctx: &mut Ctx<'_>, key: &[u8], elements: &[&[u8]]) -> Result<(), Error> {
    // The positions of elements that are appended are short.
    ctx.settings.check_logged(elements.iter().map(|e| element_bytes(&[0; 9], e)).sum())?;
    ctx.db.delete(key)?;
    if elements.is_empty() {
        return Ok(());
    }
    let mut list = ListMut::open(ctx.db, key)?;
    list.grow(ctx.settings, elements.len(), elements.iter().map(|e| e.len()).sum());
    elements.iter().for_each(|element| list.push(End::Right, element));
    list.close(ctx.settings, Shrink::Never);
    Ok(())
}

fn lpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop(ctx, args, End::Left)
}

fn rpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop(ctx, args, End::Right)
}

fn pop(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> Result<(), Error> {
    const RANGE: Error = Error::text("ERR value is out of range, must be positive");
    let key = args[1];
    let count = match &args[2..] {
        [] => None,
        [count] => {
            let count = parse::integer(count).filter(|&n| n >= 0).ok_or(RANGE)?;
            Some(usize::try_from(count).unwrap_or(usize::MAX))
        }
        _ => return Err(Error::WrongArity(String::from_utf8_lossy(args[0]).to_lowercase())),
    };
    let Some(count) = count else {
        let mut list = ListMut::open(ctx.db, key)?;
        match list.pop(end) {
            Some(element) => {
                list.close(ctx.settings, Shrink::Half);
                ctx.reply.bulk(&element);
            }
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    if ctx.db.coll(key, Kind::List)?.is_none() {
        ctx.reply.null_array();
        return Ok(());
    }
    reply_and_drop(ctx, key, end, count)
}

/// Replies up to `count` elements from one end of a list that exists, and removes them.
fn reply_and_drop(ctx: &mut Ctx<'_>, key: &[u8], end: End, count: usize) -> Result<(), Error> {
    let coll = ctx.db.coll(key, Kind::List)?.expect("the caller has seen the list");
    let count = count.min(coll.len());
    ctx.reply.array(count);
    let elements = coll.elements().iter();
    match end {
        End::Left => elements.take(count).for_each(|(_, e)| ctx.reply.bulk(e)),
        End::Right => elements.rev().take(count).for_each(|(_, e)| ctx.reply.bulk(e)),
    }
    if count == coll.len() {
        ctx.db.delete(key)?;
    } else if count > 0 {
        let mut list = ListMut::open(ctx.db, key)?;
        let names = list.elements().iter().map(|(sub, _)| sub);
        match end {
            End::Left => ctx.settings.check_removed(&list, names.take(count))?,
            End::Right => ctx.settings.check_removed(&list, names.rev().take(count))?,
        }
        for _ in 0..count {
            list.pop(end);
        }
        list.close(ctx.settings, Shrink::Half);
    }
    Ok(())
}

// --- by rank ---------------------------------------------------------------------------------

fn llen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let len = ctx.db.coll(args[1], Kind::List)?.map_or(0, Coll::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn lrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (start, stop) = (parse::int(args[2])?, parse::int(args[3])?);
    let Some(list) = ctx.db.coll(args[1], Kind::List)? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let (from, to) = ranks(start, stop, list.len());
    ctx.reply.array(to - from);
    for (_, element) in list.elements().iter_ranks(from, to) {
        ctx.reply.bulk(element);
    }
    Ok(())
}

/// The ranks from `start` to `stop`, both included and negative from the end, as a half-open
/// range within `len`.
fn ranks(start: i64, stop: i64, len: usize) -> (usize, usize) {
    let len = len as i64;
    let from = if start < 0 { start.saturating_add(len).max(0) } else { start.min(len) };
    let to = if stop < 0 { stop.saturating_add(len) } else { stop.min(len - 1) } + 1;
    (from as usize, to.max(from) as usize)
}

/// The rank that `index`, negative from the end, means in a list of `len`; `None` outside of it.
fn rank(index: i64, len: usize) -> Option<usize> {
    let rank = if index < 0 { index.saturating_add(len as i64) } else { index };
    usize::try_from(rank).ok().filter(|&rank| rank < len)
}

fn lindex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let Some(list) = ctx.db.coll(args[1], Kind::List)? else {
        ctx.reply.null();
        return Ok(());
    };
    match rank(parse::int(args[2])?, list.len()).and_then(|rank| list.elements().nth(rank)) {
        Some((_, element)) => ctx.reply.bulk(element),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn lset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut list = ListMut::open(ctx.db, args[1])?;
    if list.is_empty() {
        return Err(Error::NoSuchKey);
    }
    let rank = rank(parse::int(args[2])?, list.len()).ok_or(Error::IndexOutOfRange)?;
    let (sub, _) = list.elements().nth(rank).expect("the rank is inside the list");
    let sub = Sub::from_slice(sub);
    list.grow(ctx.settings, 1, args[3].len());
    list.put(&sub, args[3]);
    list.close(ctx.settings, Shrink::Whole);
    ctx.reply.ok();
    Ok(())
}

fn ltrim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (start, stop) = (parse::int(args[2])?, parse::int(args[3])?);
    let Some(list) = ctx.db.coll(args[1], Kind::List)? else {
        ctx.reply.ok();
        return Ok(());
    };
    let len = list.len();
    let (from, to) = ranks(start, stop, len);
    if from == to {
        ctx.db.delete(args[1])?;
    } else if to - from < len {
        let mut list = ListMut::open(ctx.db, args[1])?;
        let ends = list.elements().iter_ranks(0, from).chain(list.elements().iter_ranks(to, len));
        ctx.settings.check_removed(&list, ends.map(|(sub, _)| sub))?;
        for _ in 0..from {
            list.pop(End::Left);
        }
        for _ in to..len {
            list.pop(End::Right);
        }
        list.close(ctx.settings, Shrink::Half);
    }
    ctx.reply.ok();
    Ok(())
}

// --- by element ------------------------------------------------------------------------------

/// LINSERT key BEFORE|AFTER pivot element
fn linsert(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let after = match args[2] {
        word if parse::is_word(word, "AFTER") => true,
        word if parse::is_word(word, "BEFORE") => false,
        _ => return Err(Error::Syntax),
    };
    let mut list = ListMut::open(ctx.db, args[1])?;
    if list.is_empty() {
        ctx.reply.int(0);
        return Ok(());
    }
    let Some(sub) = beside(&list, args[3], after) else {
        ctx.reply.int(-1);
        return Ok(());
    };
    list.grow(ctx.settings, 1, args[4].len());
    list.put(&sub, args[4]);
    ctx.reply.int(list.close(ctx.settings, Shrink::Never) as i64);
    Ok(())
}

/// A position before or after the first `pivot`.
fn beside(list: &Coll, pivot: &[u8], after: bool) -> Option<Sub> {
    let mut elements = list.elements().iter();
    let mut previous = None;
    loop {
        let (sub, element) = elements.next()?;
        if element == pivot {
            let neighbours = if after {
                (Some(sub), elements.next().map(|(s, _)| s))
            } else {
                (previous, Some(sub))
            };
            return Some(match neighbours {
                (Some(low), Some(high)) => position::between(low, high),
                (Some(last), None) => position::after(last),
                (None, Some(first)) => position::before(first),
                (None, None) => unreachable!("the pivot is a neighbour"),
            });
        }
        previous = Some(sub);
    }
}

fn lrem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let count = int_above_min(args[2])?;
    let Some(list) = ctx.db.coll(args[1], Kind::List)? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let matching = list.elements().iter().filter(|(_, element)| *element == args[3]);
    let doomed: Vec<Sub> = if count < 0 {
        matching.rev().take(limit).map(|(sub, _)| Sub::from_slice(sub)).collect()
    } else {
        matching.take(limit).map(|(sub, _)| Sub::from_slice(sub)).collect()
    };
    if doomed.len() == list.len() {
        ctx.db.delete(args[1])?;
    } else if !doomed.is_empty() {
        let mut list = ListMut::open(ctx.db, args[1])?;
        ctx.settings.check_removed(&list, doomed.iter().map(Sub::as_slice))?;
        for sub in &doomed {
            list.remove(sub);
        }
        list.close(ctx.settings, Shrink::Half);
    }
    ctx.reply.int(doomed.len() as i64);
    Ok(())
}

/// An integer that can be negated.
fn int_above_min(arg: &[u8]) -> Result<i64, Error> {
    match parse::int(arg)? {
        i64::MIN => Err(Error::text(
            "ERR value is out of range, value must between \
             -9223372036854775807 and 9223372036854775807",
        )),
        n => Ok(n),
    }
}

/// What LPOS was asked for.
struct Search {
    /// Which match is the first to reply, counted from 1.
    skip_to: u64,
    from_end: bool,
    /// Up to how many matches; `None` for one, not in an array.
    count: Option<u64>,
    compare_max: u64,
}

/// LPOS key element [RANK rank] [COUNT count] [MAXLEN len]
fn lpos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let search = parse_search(&args[3..])?;
    let list = ctx.db.coll(args[1], Kind::List)?;
    let mut found: Vec<usize> = Vec::new();
    if let Some(list) = list {
        let len = list.len();
        let want = usize::try_from(search.count.unwrap_or(1)).unwrap_or(usize::MAX);
        let compared = usize::try_from(search.compare_max).unwrap_or(usize::MAX);
        let skip = usize::try_from(search.skip_to - 1).unwrap_or(usize::MAX);
        let elements = list.elements().iter();
        let is_match = |&(_, (_, element)): &(usize, (&[u8], &[u8]))| element == args[2];
        found = if search.from_end {
            let matches = elements.rev().enumerate().take(compared).filter(is_match);
            matches.skip(skip).take(want).map(|(at, _)| len - 1 - at).collect()
        } else {
            let matches = elements.enumerate().take(compared).filter(is_match);
            matches.skip(skip).take(want).map(|(at, _)| at).collect()
        };
    }
    match (search.count, found.first()) {
        (Some(_), _) => {
            ctx.reply.array(found.len());
            found.iter().for_each(|&at| ctx.reply.int(at as i64));
        }
        (None, Some(&at)) => ctx.reply.int(at as i64),
        (None, None) => ctx.reply.null(),
    }
    Ok(())
}

fn parse_search(options: &[&[u8]]) -> Result<Search, Error> {
    const RANK: Error = Error::text(
        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
         or use negative to start from the end of the list",
    );
    const COUNT: Error = Error::text("ERR COUNT can't be negative");
    const MAXLEN: Error = Error::text("ERR MAXLEN can't be negative");
    let mut search = Search { skip_to: 1, from_end: false, count: None, compare_max: u64::MAX };
    // Zero means no limit for both COUNT and MAXLEN.
    let limit = |value: &[u8], error: Error| -> Result<u64, Error> {
        let value = parse::integer(value).and_then(|n| u64::try_from(n).ok()).ok_or(error)?;
        Ok(if value == 0 { u64::MAX } else { value })
    };
    for pair in options.chunks(2) {
        match *pair {
            [word, value] if parse::is_word(word, "RANK") => {
                let rank = int_above_min(value)?;
                if rank == 0 {
                    return Err(RANK);
                }
                (search.skip_to, search.from_end) = (rank.unsigned_abs(), rank < 0);
            }
            [word, value] if parse::is_word(word, "COUNT") => {
                search.count = Some(limit(value, COUNT)?);
            }
            [word, value] if parse::is_word(word, "MAXLEN") => {
                search.compare_max = limit(value, MAXLEN)?;
            }
            _ => return Err(Error::Syntax),
        }
    }
    Ok(search)
}

#[cfg(test)]
mod tests;
