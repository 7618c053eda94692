//! XINFO.

use super::group::no_group_for_key;
use super::id::Id;
use super::progress::Progress;
use super::store::{Group, View, reply_entry};
use super::{help, subcommand_syntax};
use crate::command::{Ctx, Subcommands, subcommand};
use crate::error::Error;
use crate::parse;
use crate::settings::Settings;
use quorate_resp::Reply;

const HELP: &[&str] = &[
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
];

pub(in crate::commands) const SUBCOMMANDS: Subcommands =
    &[("stream", -3), ("groups", 3), ("consumers", 4), ("help", 2)];

/// How many entries `XINFO STREAM key FULL` shows of each kind.
const FULL_COUNT: usize = 10;

/// XINFO STREAM|GROUPS|CONSUMERS|HELP …
pub(super) fn xinfo(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let name = subcommand("xinfo", SUBCOMMANDS, args)?;
    if name == "help" {
        help(ctx, "XINFO", HELP);
        return Ok(());
    }
    let stream = View::open(ctx.db, args[2])?.ok_or(Error::NoSuchKey)?;
    let reply = &mut ctx.reply;
    match name {
        "stream" => match &args[3..] {
            [] => summary(reply, stream, ctx.settings),
            [full] if parse::is_word(full, "FULL") => {
                everything(reply, stream, ctx.settings, FULL_COUNT);
            }
            [full, word, count]
                if parse::is_word(full, "FULL") && parse::is_word(word, "COUNT") =>
            {
                let count = match parse::int(count)? {
                    0 => usize::MAX,
                    count => usize::try_from(count).unwrap_or(FULL_COUNT),
                };
                everything(reply, stream, ctx.settings, count);
            }
            _ => return Err(subcommand_syntax("XINFO", args[1])),
        },
        "groups" => groups(reply, stream),
        _ => {
            let group = stream.group(args[3]).ok_or_else(|| no_group_for_key(args[3], args[2]))?;
            consumers(reply, stream, &group, ctx.now);
        }
    }
    Ok(())
}

fn field(reply: &mut Reply<'_>, name: &str) {
    reply.bulk(name.as_bytes());
}

fn int_field(reply: &mut Reply<'_>, name: &str, value: i64) {
    field(reply, name);
    reply.int(value);
}

fn id_field(reply: &mut Reply<'_>, name: &str, id: Id) {
    field(reply, name);
    id.reply(reply);
}

fn int_or_null_field(reply: &mut Reply<'_>, name: &str, value: Option<i64>) {
    field(reply, name);
    match value {
        Some(value) => reply.int(value),
        None => reply.null(),
    }
}

/// The seven fields that both forms of XINFO STREAM begin with.
fn counters(reply: &mut Reply<'_>, stream: View<'_>, settings: &Settings) {
    let header = stream.header();
    // There is no radix tree here; these are the sizes of one that is filled in order.
    let keys = header.len.div_ceil(settings.stream_node_max_entries.max(1) as u64);
    int_field(reply, "length", header.len as i64);
    int_field(reply, "radix-tree-keys", keys as i64);
    int_field(reply, "radix-tree-nodes", keys as i64 + 1);
    id_field(reply, "last-generated-id", header.last);
    id_field(reply, "max-deleted-entry-id", header.max_deleted);
    int_field(reply, "entries-added", header.added as i64);
    id_field(reply, "recorded-first-entry-id", stream.first().unwrap_or_default());
}

fn summary(reply: &mut Reply<'_>, stream: View<'_>, settings: &Settings) {
    reply.map(10);
    counters(reply, stream, settings);
    int_field(reply, "groups", stream.groups().count() as i64);
    let mut entries = stream.entries(Id::MIN, Id::MAX);
    let first = entries.next();
    let last = entries.next_back().or(first);
    for (name, entry) in [("first-entry", first), ("last-entry", last)] {
        field(reply, name);
        match entry {
            Some((id, value)) => reply_entry(reply, id, value),
            None => reply.null(),
        }
    }
}

fn everything(reply: &mut Reply<'_>, stream: View<'_>, settings: &Settings, count: usize) {
    reply.map(9);
    counters(reply, stream, settings);
    field(reply, "entries");
    reply.array(count.min(stream.header().len as usize));
    for (id, value) in stream.entries(Id::MIN, Id::MAX).take(count) {
        reply_entry(reply, id, value);
    }
    field(reply, "groups");
    reply.array(stream.groups().count());
    let progress = Progress::of(stream);
    for (name, group) in stream.groups() {
        reply.map(7);
        field(reply, "name");
        reply.bulk(name);
        delivered_fields(reply, &progress, &group);
        let pending = stream.pending_count(&group);
        int_field(reply, "pel-count", pending as i64);
        field(reply, "pending");
        reply.array(pending.min(count));
        let names = stream.names(&group);
        for (id, pending) in stream.pending(&group, Id::MIN, Id::MAX).take(count) {
            reply.array(4);
            id.reply(reply);
            reply.bulk(names.owner(&pending));
            reply.int(pending.delivered as i64);
            reply.int(pending.deliveries as i64);
        }
        field(reply, "consumers");
        full_consumers(reply, stream, &group, count);
    }
}

fn full_consumers(reply: &mut Reply<'_>, stream: View<'_>, group: &Group, count: usize) {
    reply.array(stream.consumers(group).count());
    for (name, consumer) in stream.consumers(group) {
        reply.map(5);
        field(reply, "name");
        reply.bulk(name);
        int_field(reply, "seen-time", consumer.seen as i64);
        int_field(reply, "active-time", consumer.active.map_or(-1, |at| at as i64));
        let pending = stream.owned_count(&consumer);
        int_field(reply, "pel-count", pending as i64);
        field(reply, "pending");
        reply.array(pending.min(count));
        for (id, pending) in stream.owned(group, &consumer, Id::MIN).take(count) {
            reply.array(3);
            id.reply(reply);
            reply.int(pending.delivered as i64);
            reply.int(pending.deliveries as i64);
        }
    }
}

fn delivered_fields(reply: &mut Reply<'_>, progress: &Progress, group: &Group) {
    id_field(reply, "last-delivered-id", group.last);
    int_or_null_field(reply, "entries-read", group.entries_read.map(|read| read as i64));
    int_or_null_field(reply, "lag", progress.lag(group));
}

fn groups(reply: &mut Reply<'_>, stream: View<'_>) {
    reply.array(stream.groups().count());
    let progress = Progress::of(stream);
    for (name, group) in stream.groups() {
        reply.map(6);
        field(reply, "name");
        reply.bulk(name);
        int_field(reply, "consumers", stream.consumers(&group).count() as i64);
        int_field(reply, "pending", stream.pending_count(&group) as i64);
        delivered_fields(reply, &progress, &group);
    }
}

fn consumers(reply: &mut Reply<'_>, stream: View<'_>, group: &Group, now: u64) {
    reply.array(stream.consumers(group).count());
    let since = |at: u64| now.saturating_sub(at) as i64;
    for (name, consumer) in stream.consumers(group) {
        reply.map(4);
        field(reply, "name");
        reply.bulk(name);
        int_field(reply, "pending", stream.owned_count(&consumer) as i64);
        int_field(reply, "idle", since(consumer.seen));
        int_field(reply, "inactive", consumer.active.map_or(-1, since));
    }
}
