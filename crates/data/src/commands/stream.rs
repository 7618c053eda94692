//! Streams: logs of entries with consumer groups. How they lie in a collection is drawn in
//! `stream/store.rs`. A stream that has lost its entries stays, with its counters and groups.

use crate::command::{Ctx, FIRST, Keys, Spec, flag};
use crate::error::Error;
use crate::parse;
pub(super) use group::SUBCOMMANDS as GROUP;
use id::Id;
pub(super) use info::SUBCOMMANDS as INFO;
pub(crate) use store::portable;
use store::{View, reply_entry};

mod add;
mod group;
mod id;
mod info;
mod pending;
mod progress;
mod read;
mod store;

const READ: u32 = flag::READONLY;
const WRITE: u32 = flag::WRITE;
const GROW: u32 = flag::WRITE | flag::DENYOOM;
const FAST: u32 = flag::FAST;
const WAIT: u32 = flag::BLOCKING | flag::MOVABLE_KEYS;

/// The key of a command whose first argument is a subcommand.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

/// The family's commands.
#[rustfmt::skip]
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "xadd", arity: -5, flags: GROW | FAST, keys: FIRST, run: add::xadd },
    Spec { name: "xtrim", arity: -4, flags: WRITE, keys: FIRST, run: add::xtrim },
    Spec { name: "xdel", arity: -3, flags: WRITE | FAST, keys: FIRST, run: add::xdel },
    Spec { name: "xsetid", arity: -3, flags: GROW | FAST, keys: FIRST, run: add::xsetid },
    Spec { name: "xlen", arity: 2, flags: READ | FAST, keys: FIRST, run: xlen },
    Spec { name: "xrange", arity: -4, flags: READ, keys: FIRST, run: xrange },
    Spec { name: "xrevrange", arity: -4, flags: READ, keys: FIRST, run: xrevrange },
    Spec { name: "xread", arity: -4, flags: READ | WAIT, keys: Keys::Custom(read::keys), run: read::xread },
    Spec { name: "xreadgroup", arity: -7, flags: WRITE | WAIT, keys: Keys::Custom(read::keys), run: read::xreadgroup },
    Spec { name: "xgroup", arity: -2, flags: GROW, keys: SECOND, run: group::xgroup },
    Spec { name: "xack", arity: -4, flags: WRITE | FAST, keys: FIRST, run: group::xack },
    Spec { name: "xpending", arity: -3, flags: READ, keys: FIRST, run: pending::xpending },
    Spec { name: "xclaim", arity: -6, flags: WRITE | FAST, keys: FIRST, run: pending::xclaim },
    Spec { name: "xautoclaim", arity: -6, flags: WRITE | FAST, keys: FIRST, run: pending::xautoclaim },
    Spec { name: "xinfo", arity: -2, flags: READ, keys: SECOND, run: info::xinfo },
];

fn xlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let len = View::open(ctx.db, args[1])?.map_or(0, |stream| stream.header().len);
    ctx.reply.int(len as i64);
    Ok(())
}

/// XRANGE key start end [COUNT count]
fn xrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let interval = (Id::parse_start(args[2])?, Id::parse_end(args[3])?);
    reply_interval(ctx, args, interval, false)
}

/// XREVRANGE key end start [COUNT count]
fn xrevrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let interval = (Id::parse_start(args[3])?, Id::parse_end(args[2])?);
    reply_interval(ctx, args, interval, true)
}

fn reply_interval(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    (from, to): (Id, Id),
    reversed: bool,
) -> Result<(), Error> {
    let mut limit = usize::MAX;
    for option in args[4..].chunks(2) {
        match *option {
            [word, count] if parse::is_word(word, "COUNT") => {
                limit = usize::try_from(parse::int(count)?).unwrap_or(0);
            }
            _ => return Err(Error::Syntax),
        }
    }
    let Some(stream) = View::open(ctx.db, args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    if limit == 0 {
        ctx.reply.null_array();
        return Ok(());
    }
    let entries = || stream.entries(from, to);
    // Counting first is cheaper than writing the entries elsewhere and copying them.
    let count = entries().take(limit).count();
    ctx.reply.array(count);
    if reversed {
        entries().rev().take(limit).for_each(|(id, e)| reply_entry(&mut ctx.reply, id, e));
    } else {
        entries().take(limit).for_each(|(id, e)| reply_entry(&mut ctx.reply, id, e));
    }
    Ok(())
}

/// The error for options that a subcommand does not have.
fn subcommand_syntax(command: &str, subcommand: &[u8]) -> Error {
    Error::owned(format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {command} HELP.",
        String::from_utf8_lossy(subcommand)
    ))
}

/// Replies the lines of a HELP subcommand between those that are the same everywhere.
fn help(ctx: &mut Ctx<'_>, command: &str, lines: &[&str]) {
    ctx.reply.array(lines.len() + 3);
    ctx.reply
        .simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| ctx.reply.simple(line));
    ctx.reply.simple("HELP");
    ctx.reply.simple("    Prints this help.");
}

#[cfg(test)]
mod tests;
