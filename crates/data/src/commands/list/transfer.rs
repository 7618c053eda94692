//! Commands that move elements between lists or wait for them: LMOVE, LMPOP, BLPOP and kin.

use super::edit::{ListMut, Shrink};
use super::{End, reply_and_drop};
use crate::command::{Ctx, OnTimeout};
use crate::entry::Kind;
use crate::error::Error;
use crate::parse;
use crate::sorted::Val;

/// LMOVE source destination LEFT|RIGHT LEFT|RIGHT
pub(super) fn lmove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (from, to) = (End::parse(args[3])?, End::parse(args[4])?);
    move_or_null(ctx, (args[1], from), (args[2], to))
}

/// RPOPLPUSH source destination
pub(super) fn rpoplpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    move_or_null(ctx, (args[1], End::Right), (args[2], End::Left))
}

/// BLMOVE source destination LEFT|RIGHT LEFT|RIGHT timeout
pub(super) fn blmove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (from, to) = (End::parse(args[3])?, End::parse(args[4])?);
    let timeout = parse::timeout_seconds(args[5])?;
    move_or_block(ctx, (args[1], from), (args[2], to), timeout)
}

/// BRPOPLPUSH source destination timeout
pub(super) fn brpoplpush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let timeout = parse::timeout_seconds(args[3])?;
    move_or_block(ctx, (args[1], End::Right), (args[2], End::Left), timeout)
}

/// LMPOP numkeys key … LEFT|RIGHT [COUNT count]
pub(super) fn lmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (keys, end, count) = parse_mpop(args, 1)?;
    if !pop_first_list(ctx, keys, end, count)? {
        ctx.reply.null_array();
    }
    Ok(())
}

/// BLMPOP timeout numkeys key … LEFT|RIGHT [COUNT count]
pub(super) fn blmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (keys, end, count) = parse_mpop(args, 2)?;
    let timeout = parse::timeout_seconds(args[1])?;
    if !pop_first_list(ctx, keys, end, count)? {
        ctx.block(timeout, OnTimeout::NullArray, None);
    }
    Ok(())
}

/// BLPOP key … timeout
pub(super) fn blpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_or_block(ctx, args, End::Left)
}

/// BRPOP key … timeout
pub(super) fn brpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_or_block(ctx, args, End::Right)
}

fn pop_or_block(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> Result<(), Error> {
    let (timeout, keys) = args[1..].split_last().expect("the arity is at least three");
    let timeout = parse::timeout_seconds(timeout)?;
    for key in keys {
        if !has_list(ctx, key)? {
            continue;
        }
        let mut list = ListMut::open(ctx.db, key)?;
        let element = list.pop(end).expect("a list has elements");
        list.close(ctx.settings, Shrink::Half);
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        ctx.reply.bulk(&element);
        return Ok(());
    }
    ctx.block(timeout, OnTimeout::NullArray, None);
    Ok(())
}

/// The keys, the end and the count of an LMPOP whose number of keys is argument `at`.
fn parse_mpop<'a>(args: &'a [&'a [u8]], at: usize) -> Result<(&'a [&'a [u8]], End, usize), Error> {
    const KEYS: Error = Error::text("ERR numkeys should be greater than 0");
    const COUNT: Error = Error::text("ERR count should be greater than 0");
    let keys = parse::integer(args[at]).filter(|&n| n > 0).ok_or(KEYS)?;
    let end_at = usize::try_from(keys).unwrap_or(usize::MAX).saturating_add(at + 1);
    let end = End::parse(args.get(end_at).ok_or(Error::Syntax)?)?;
    let count = match &args[end_at + 1..] {
        [] => 1,
        [word, value, rest @ ..] if parse::is_word(word, "COUNT") => {
            let count = parse::integer(value).filter(|&n| n > 0).ok_or(COUNT)?;
            if !rest.is_empty() {
                return Err(Error::Syntax);
            }
            count
        }
        _ => return Err(Error::Syntax),
    };
    Ok((&args[at + 1..end_at], end, usize::try_from(count).unwrap_or(usize::MAX)))
}

/// Pops up to `count` elements of the first key that holds a list; false if none does.
fn pop_first_list(
    ctx: &mut Ctx<'_>,
    keys: &[&[u8]],
    end: End,
    count: usize,
) -> Result<bool, Error> {
    for key in keys {
        if has_list(ctx, key)? {
            ctx.reply.array(2);
            ctx.reply.bulk(key);
            reply_and_drop(ctx, key, end, count)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if `key` holds a list. A blocked command passes over a key that has got another type
/// while it waited.
fn has_list(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<bool, Error> {
    match ctx.db.coll(key, Kind::List) {
        Err(Error::WrongType) if ctx.retried => Ok(false),
        found => Ok(found?.is_some()),
    }
}

/// A key and which end of its list.
type Place<'a> = (&'a [u8], End);

fn move_or_null(ctx: &mut Ctx<'_>, from: Place<'_>, to: Place<'_>) -> Result<(), Error> {
    match move_element(ctx, from, to)? {
        Some(element) => ctx.reply.bulk(&element),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn move_or_block(
    ctx: &mut Ctx<'_>,
    from: Place<'_>,
    to: Place<'_>,
    timeout_ms: u64,
) -> Result<(), Error> {
    if has_list(ctx, from.0)? || ctx.in_transaction {
        return move_or_null(ctx, from, to);
    }
    ctx.block(timeout_ms, OnTimeout::NullArray, None);
    Ok(())
}

/// Moves one element; `None` if there is no source.
fn move_element(
    ctx: &mut Ctx<'_>,
    (source, from): Place<'_>,
    (destination, to): Place<'_>,
) -> Result<Option<Val>, Error> {
    if ctx.db.coll(source, Kind::List)?.is_none() {
        return Ok(None);
    }
    if source != destination {
        ctx.db.coll(destination, Kind::List)?;
    }
    let mut list = ListMut::open(ctx.db, source)?;
    let element = list.pop(from).expect("a list has elements");
    if source != destination {
        list.close(ctx.settings, Shrink::Half);
        list = ListMut::open(ctx.db, destination)?;
    }
    list.grow(ctx.settings, 1, element.len());
    list.push(to, &element);
    list.close(ctx.settings, Shrink::Never);
    Ok(Some(element))
}
