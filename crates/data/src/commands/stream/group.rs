//! XGROUP and XACK.

use super::add::parse_ids;
use super::id::Id;
use super::store::{Editor, PENDING_BYTES, View};
use super::{help, subcommand_syntax};
use crate::command::{Ctx, Subcommands, subcommand};
use crate::db::Db;
use crate::error::Error;
use crate::parse;

const HELP: &[&str] = &[
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
];

/// The subcommands with their arities.
pub(in crate::commands) const SUBCOMMANDS: Subcommands = &[
    ("create", -5),
    ("setid", -5),
    ("destroy", 4),
    ("createconsumer", 5),
    ("delconsumer", 5),
    ("help", 2),
];

/// XGROUP CREATE|SETID|DESTROY|CREATECONSUMER|DELCONSUMER|HELP …
pub(super) fn xgroup(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let name = subcommand("xgroup", SUBCOMMANDS, args)?;
    match name {
        "create" => create(ctx, args),
        "setid" => set_id(ctx, args),
        "destroy" => destroy(ctx, args),
        "createconsumer" => create_consumer(ctx, args),
        "delconsumer" => delete_consumer(ctx, args),
        _ => {
            help(ctx, "XGROUP", HELP);
            Ok(())
        }
    }
}

/// XGROUP CREATE key group id|$ [MKSTREAM] [ENTRIESREAD n]
fn create(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const BUSY: Error = Error::text("BUSYGROUP Consumer Group name already exists");
    let options = parse_options(args, true)?;
    let exists = View::open(ctx.db, args[2])?.is_some();
    if !exists && !options.make_stream {
        return Err(no_key());
    }
    if args.len() > 8 {
        return Err(subcommand_syntax("XGROUP", args[1]));
    }
    let mut stream = Editor::open_quietly(ctx.db, args[2])?;
    let id = match args[4] {
        b"$" => stream.header.last,
        id => Id::parse(id)?,
    };
    if stream.view().group(args[3]).is_some() {
        return Err(BUSY);
    }
    stream.create_group(args[3], id, options.entries_read)?;
    stream.close();
    ctx.reply.ok();
    Ok(())
}

/// XGROUP SETID key group id|$ [ENTRIESREAD n]
fn set_id(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let options = parse_options(args, false)?;
    let mut stream = open_with_group(ctx.db, args)?;
    if args.len() != 5 && args.len() != 7 {
        return Err(subcommand_syntax("XGROUP", args[1]));
    }
    let id = match args[4] {
        b"$" => stream.header.last,
        id => Id::parse_inclusive(id, 0)?,
    };
    let mut group = stream.view().group(args[3]).expect("the stream was opened with the group");
    (group.last, group.entries_read) = (id, options.entries_read);
    stream.put_group(args[3], &group);
    stream.close();
    ctx.reply.ok();
    Ok(())
}

/// XGROUP DESTROY key group
fn destroy(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    if View::open(ctx.db, args[2])?.is_none() {
        return Err(no_key());
    }
    let mut stream = Editor::open_quietly(ctx.db, args[2])?;
    let group = stream.view().group(args[3]);
    if let Some(group) = &group {
        ctx.settings.check_logged(stream.view().pending_count(group) * PENDING_BYTES)?;
        stream.remove_group(args[3], group);
        stream.close();
    }
    ctx.reply.int(i64::from(group.is_some()));
    Ok(())
}

/// XGROUP CREATECONSUMER key group consumer
fn create_consumer(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let now = ctx.now;
    let mut stream = open_with_group(ctx.db, args)?;
    let group = stream.view().group(args[3]).expect("the stream was opened with the group");
    let exists = stream.view().consumer(&group, args[4]).is_some();
    if !exists {
        stream.create_consumer(&group, args[4], now)?;
        stream.close();
    }
    ctx.reply.int(i64::from(!exists));
    Ok(())
}

/// XGROUP DELCONSUMER key group consumer
fn delete_consumer(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut stream = open_with_group(ctx.db, args)?;
    let group = stream.view().group(args[3]).expect("the stream was opened with the group");
    let mut pending = 0;
    if let Some(consumer) = stream.view().consumer(&group, args[4]) {
        ctx.settings.check_logged(stream.view().owned_count(&consumer) * PENDING_BYTES)?;
        pending = stream.remove_consumer(&group, args[4], &consumer);
        stream.close();
    }
    ctx.reply.int(pending as i64);
    Ok(())
}

#[derive(Default)]
struct Options {
    make_stream: bool,
    entries_read: Option<u64>,
}

fn parse_options(args: &[&[u8]], creates: bool) -> Result<Options, Error> {
    const READ: Error = Error::text("ERR value for ENTRIESREAD must be positive or -1");
    let mut options = Options::default();
    let mut rest = &args[5..];
    loop {
        rest = match rest {
            [] => return Ok(options),
            [word, after @ ..] if creates && parse::is_word(word, "MKSTREAM") => {
                options.make_stream = true;
                after
            }
            [word, value, after @ ..] if parse::is_word(word, "ENTRIESREAD") => {
                options.entries_read = match parse::int(value)? {
                    -1 => None,
                    read => Some(u64::try_from(read).map_err(|_| READ)?),
                };
                after
            }
            _ => return Err(subcommand_syntax("XGROUP", args[1])),
        };
    }
}

/// Opens the stream `args[2]`, which must have the group `args[3]`.
fn open_with_group<'a>(db: &'a mut Db, args: &[&[u8]]) -> Result<Editor<'a>, Error> {
    match View::open(db, args[2])? {
        None => return Err(no_key()),
        Some(stream) if stream.group(args[3]).is_none() => {
            return Err(no_group_for_key(args[3], args[2]));
        }
        Some(_) => {}
    }
    Editor::open_quietly(db, args[2])
}

fn no_key() -> Error {
    Error::text(
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want \
         to use the MKSTREAM option to create an empty stream automatically.",
    )
}

/// The error of commands that name a group of a stream which exists.
pub(super) fn no_group_for_key(group: &[u8], key: &[u8]) -> Error {
    Error::owned(format!(
        "NOGROUP No such consumer group '{}' for key name '{}'",
        String::from_utf8_lossy(group),
        String::from_utf8_lossy(key)
    ))
}

/// XACK key group id …
pub(super) fn xack(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let group = View::open(ctx.db, args[1])?.and_then(|stream| stream.group(args[2]));
    let Some(group) = group else {
        ctx.reply.int(0);
        return Ok(());
    };
    let ids = parse_ids(&args[3..])?;
    let mut stream = Editor::open_quietly(ctx.db, args[1])?;
    let mut acknowledged = 0;
    for id in ids {
        if let Some(pending) = stream.view().pending_entry(&group, id) {
            stream.release(&group, id, &pending);
            acknowledged += 1;
        }
    }
    stream.close();
    ctx.reply.int(acknowledged);
    Ok(())
}
