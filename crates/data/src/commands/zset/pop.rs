//! Taking the members with the lowest or highest scores, blocking or not.

use super::element::{Members, check_ranks, remove_ranks};
use crate::coll_mut::CollMut;
use crate::command::{Ctx, OnTimeout};
use crate::entry::Kind;
use crate::error::Error;
use crate::parse::{self, is_word};
use crate::settings::Settings;
use quorate_resp::{Proto, Reply};

/// Which end is popped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Min,
    Max,
}

/// How popped members are replied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Members and scores in turn.
    Flat,
    /// An array of pairs.
    Pairs,
    /// The key, and then as `Flat`.
    KeyFlat,
    /// The key and an array of pairs.
    KeyPairs,
}

pub(super) fn zpopmin(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_one(ctx, args, End::Min)
}

pub(super) fn zpopmax(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_one(ctx, args, End::Max)
}

fn pop_one(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> Result<(), Error> {
    let count = match args[2..] {
        [] => None,
        [count] => Some(at_least(0, count, "ERR value is out of range, must be positive")?),
        _ => return Err(Error::Syntax),
    };
    let nested = count.is_some() && ctx.reply.proto() == Proto::Resp3;
    let shape = if nested { Shape::Pairs } else { Shape::Flat };
    let mut coll = ctx.db.open(args[1], Kind::Zset)?;
    pop(&mut ctx.reply, ctx.settings, args[1], &mut coll, end, count.unwrap_or(1), shape)?;
    Ok(())
}

pub(super) fn bzpopmin(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_blocking(ctx, args, End::Min)
}

pub(super) fn bzpopmax(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    pop_blocking(ctx, args, End::Max)
}

fn pop_blocking(ctx: &mut Ctx<'_>, args: &[&[u8]], end: End) -> Result<(), Error> {
    let (timeout, keys) = args[1..].split_last().expect("the arity asks for a key and a timeout");
    let timeout_ms = parse::timeout_seconds(timeout)?;
    match first_of(ctx, keys)? {
        Some(key) => {
            let mut coll = ctx.db.open(key, Kind::Zset)?;
            pop(&mut ctx.reply, ctx.settings, key, &mut coll, end, 1, Shape::KeyFlat)?;
        }
        None => ctx.block(timeout_ms, OnTimeout::NullArray, None),
    }
    Ok(())
}

pub(super) fn zmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (keys, end, count) = parse_mpop(&args[1..])?;
    match first_of(ctx, keys)? {
        Some(key) => {
            let mut coll = ctx.db.open(key, Kind::Zset)?;
            pop(&mut ctx.reply, ctx.settings, key, &mut coll, end, count, Shape::KeyPairs)?;
        }
        None => ctx.reply.null_array(),
    }
    Ok(())
}

pub(super) fn bzmpop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (keys, end, count) = parse_mpop(&args[2..])?;
    let timeout_ms = parse::timeout_seconds(args[1])?;
    match first_of(ctx, keys)? {
        Some(key) => {
            let mut coll = ctx.db.open(key, Kind::Zset)?;
            pop(&mut ctx.reply, ctx.settings, key, &mut coll, end, count, Shape::KeyPairs)?;
        }
        None => ctx.block(timeout_ms, OnTimeout::NullArray, None),
    }
    Ok(())
}

/// `numkeys key … MIN|MAX [COUNT count]`
fn parse_mpop<'a, 'b>(args: &'b [&'a [u8]]) -> Result<(&'b [&'a [u8]], End, usize), Error> {
    let numkeys = at_least(1, args[0], "ERR numkeys should be greater than 0")?;
    let rest = &args[1..];
    if numkeys >= rest.len() {
        return Err(Error::Syntax);
    }
    let (keys, rest) = rest.split_at(numkeys);
    let end = match rest[0] {
        word if is_word(word, "min") => End::Min,
        word if is_word(word, "max") => End::Max,
        _ => return Err(Error::Syntax),
    };
    let count = match rest[1..] {
        [] => 1,
        [word, count, ref rest @ ..] if is_word(word, "count") => {
            let count = at_least(1, count, "ERR count should be greater than 0")?;
            if !rest.is_empty() {
                return Err(Error::Syntax);
            }
            count
        }
        _ => return Err(Error::Syntax),
    };
    Ok((keys, end, count))
}

fn at_least(min: usize, text: &[u8], error: &'static str) -> Result<usize, Error> {
    let number = parse::integer(text).and_then(|n| usize::try_from(n).ok());
    number.filter(|&n| n >= min).ok_or(Error::text(error))
}

/// The first of `keys` that exists, which must be a sorted set. A command that has waited already
/// passes over other types, because only a sorted set can end its wait.
fn first_of<'a>(ctx: &mut Ctx<'_>, keys: &[&'a [u8]]) -> Result<Option<&'a [u8]>, Error> {
    for &key in keys {
        match ctx.db.coll(key, Kind::Zset) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(Some(key)),
            Err(Error::WrongType) if ctx.retried => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Pops up to `count` members of `coll`, the sorted set at `key`, and replies them.
fn pop(
    reply: &mut Reply<'_>,
    settings: &Settings,
    key: &[u8],
    coll: &mut CollMut<'_>,
    end: End,
    count: usize,
    shape: Shape,
) -> Result<(), Error> {
    let members = Members::of(coll);
    let len = members.len();
    let count = count.min(len);
    match shape {
        Shape::Flat => reply.array(count * 2),
        Shape::Pairs => reply.array(count),
        Shape::KeyFlat => {
            reply.array(count * 2 + 1);
            reply.bulk(key);
        }
        Shape::KeyPairs => {
            reply.array(2);
            reply.bulk(key);
            reply.array(count);
        }
    }
    let mut pair = |(member, score): (&[u8], f64)| {
        if matches!(shape, Shape::Pairs | Shape::KeyPairs) {
            reply.array(2);
        }
        reply.bulk(member);
        reply.double(score);
    };
    let (from, to) = if end == End::Min { (0, count) } else { (len - count, len) };
    match end {
        End::Min => members.ranks(from, to).for_each(&mut pair),
        End::Max => members.ranks(from, to).rev().for_each(&mut pair),
    }
    check_ranks(settings, coll, from, to)?;
    remove_ranks(coll, from, to);
    Ok(())
}
