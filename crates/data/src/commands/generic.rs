//! Keys whatever their type: deleting, renaming, copying, walking, and what they are.

use crate::command::{Ctx, EVERY, FIRST, FIRST_TWO, Keys, Spec, Subcommands, flag, subcommand};
use crate::entry::{Entry, Kind};
use crate::error::Error;
use crate::keyspace::seconds;
use crate::parse;
use quorate_resp::Reply;

const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
/// A subcommand and then a key.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "del", arity: -2, flags: flag::WRITE, keys: EVERY, run: del },
    Spec { name: "unlink", arity: -2, flags: WRITE_FAST, keys: EVERY, run: del },
    Spec { name: "exists", arity: -2, flags: READ_FAST, keys: EVERY, run: exists },
    Spec { name: "touch", arity: -2, flags: READ_FAST, keys: EVERY, run: touch },
    Spec { name: "type", arity: 2, flags: READ_FAST, keys: FIRST, run: type_name },
    Spec { name: "rename", arity: 3, flags: flag::WRITE, keys: FIRST_TWO, run: rename },
    Spec { name: "renamenx", arity: 3, flags: WRITE_FAST, keys: FIRST_TWO, run: renamenx },
    Spec {
        name: "copy",
        arity: -3,
        flags: flag::WRITE | flag::DENYOOM,
        keys: FIRST_TWO,
        run: copy,
    },
    Spec { name: "move", arity: 3, flags: WRITE_FAST, keys: FIRST, run: move_key },
    Spec { name: "randomkey", arity: 1, flags: flag::READONLY, keys: Keys::All, run: randomkey },
    Spec { name: "keys", arity: 2, flags: flag::READONLY, keys: Keys::All, run: keys },
    Spec { name: "scan", arity: -2, flags: flag::READONLY, keys: Keys::All, run: scan },
    Spec { name: "dbsize", arity: 1, flags: READ_FAST, keys: Keys::All, run: dbsize },
    Spec { name: "flushdb", arity: -1, flags: flag::WRITE, keys: Keys::All, run: flush },
    Spec { name: "flushall", arity: -1, flags: flag::WRITE, keys: Keys::All, run: flush },
    Spec { name: "object", arity: -2, flags: flag::READONLY, keys: SECOND, run: object },
    Spec { name: "memory", arity: -2, flags: flag::READONLY, keys: SECOND, run: memory },
];

const SAME_OBJECT: Error = Error::text("ERR source and destination objects are the same");
const NO_SUCH_DB: Error = Error::text("ERR DB index is out of range");

fn del(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut deleted = 0;
    for key in &args[1..] {
        deleted += i64::from(ctx.db.delete(key)?);
    }
    ctx.reply.int(deleted);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut found = 0;
    for key in &args[1..] {
        found += i64::from(ctx.db.entry_untouched(key)?.is_some());
    }
    ctx.reply.int(found);
    Ok(())
}

fn touch(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut found = 0;
    for key in &args[1..] {
        found += i64::from(ctx.db.exists(key)?);
    }
    ctx.reply.int(found);
    Ok(())
}

fn type_name(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let name = ctx.db.entry_untouched(args[1])?.map_or("none", |entry| entry.kind().name());
    ctx.reply.simple(name);
    Ok(())
}

fn rename(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    if !ctx.db.exists(args[1])? {
        return Err(Error::NoSuchKey);
    }
    if args[1] != args[2] {
        check_rename(ctx, args[1], args[2])?;
        ctx.db.rename(args[1], args[2])?;
    }
    ctx.reply.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    if !ctx.db.exists(args[1])? {
        return Err(Error::NoSuchKey);
    }
    let free = !ctx.db.exists(args[2])?;
    if free {
        check_rename(ctx, args[1], args[2])?;
        ctx.db.rename(args[1], args[2])?;
    }
    ctx.reply.int(i64::from(free));
    Ok(())
}

/// Refuses to copy too much to another shard. Within a shard a value moves as it is.
fn check_rename(ctx: &mut Ctx<'_>, from: &[u8], to: &[u8]) -> Result<(), Error> {
    if ctx.db.map().place(from).shard == ctx.db.map().place(to).shard {
        return Ok(());
    }
    let bytes = ctx.db.entry_untouched(from)?.map_or(0, Entry::logged_bytes);
    ctx.settings.check_logged(bytes)
}

/// A database number; only 0 exists.
fn database(arg: &[u8]) -> Result<(), Error> {
    match i32::try_from(parse::int(arg)?) {
        Ok(0) => Ok(()),
        Ok(_) => Err(NO_SUCH_DB),
        Err(_) => Err(Error::owned(format!(
            "ERR value is out of range, value must between {} and {}",
            i32::MIN,
            i32::MAX
        ))),
    }
}

fn copy(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (from, to) = (args[1], args[2]);
    let mut replace = false;
    let mut options = &args[3..];
    loop {
        options = match options {
            [] => break,
            [word, rest @ ..] if parse::is_word(word, "replace") => {
                replace = true;
                rest
            }
            [word, number, rest @ ..] if parse::is_word(word, "db") => {
                database(number)?;
                rest
            }
            _ => return Err(Error::Syntax),
        };
    }
    if from == to {
        return Err(SAME_OBJECT);
    }
    let copied = ctx.db.exists(from)? && (replace || !ctx.db.exists(to)?);
    if copied {
        let bytes = ctx.db.entry_untouched(from)?.map_or(0, Entry::logged_bytes);
        ctx.settings.check_logged(bytes)?;
    }
    if copied && let Some((value, expiry)) = ctx.db.value(from)? {
        ctx.db.put_value(to, &value, expiry)?;
    }
    ctx.reply.int(i64::from(copied));
    Ok(())
}

fn move_key(_: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    database(args[2])?;
    Err(SAME_OBJECT)
}

fn randomkey(ctx: &mut Ctx<'_>, _: &[&[u8]]) -> Result<(), Error> {
    match ctx.db.random_key(ctx.prng)? {
        Some(key) => ctx.reply.bulk(&key),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn keys(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (mut names, mut count) = (Vec::new(), 0);
    let mut replies = Reply::new(&mut names, ctx.reply.proto());
    ctx.db.each_key(&mut |name, _| {
        if parse::glob(args[1], name) {
            replies.bulk(name);
            count += 1;
        }
    })?;
    ctx.reply.array(count);
    ctx.reply.raw(&names);
    Ok(())
}

fn scan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let cursor = crate::scan::cursor(args[1])?;
    // TYPE is SCAN's own; the other options are those of its siblings.
    let (mut others, mut kind) = (Vec::new(), None);
    for option in args[2..].chunks(2) {
        match option {
            [word, name] if parse::is_word(word, "type") => kind = Some(*name),
            _ => others.extend_from_slice(option),
        }
    }
    let options = crate::scan::options(&others)?;
    let (mut names, mut count) = (Vec::new(), 0);
    let mut replies = Reply::new(&mut names, ctx.reply.proto());
    let next = ctx.db.scan(cursor, options.count, &mut |name, its_kind| {
        if kind.is_none_or(|kind| parse::is_word(kind, its_kind.name()))
            && options.pattern.is_none_or(|pattern| parse::glob(pattern, name))
        {
            replies.bulk(name);
            count += 1;
        }
    })?;
    ctx.reply.array(2);
    ctx.reply.bulk(next.to_string().as_bytes());
    ctx.reply.array(count);
    ctx.reply.raw(&names);
    Ok(())
}

fn dbsize(ctx: &mut Ctx<'_>, _: &[&[u8]]) -> Result<(), Error> {
    ctx.reply.int(ctx.db.keys() as i64);
    Ok(())
}

/// Dropping a keyspace costs the same with ASYNC and SYNC.
fn flush(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    match &args[1..] {
        [] => {}
        [word] if parse::is_word(word, "async") || parse::is_word(word, "sync") => {}
        _ => return Err(Error::Syntax),
    }
    ctx.db.clear();
    ctx.reply.ok();
    Ok(())
}

/// The subcommands of OBJECT.
pub(super) const OBJECT: Subcommands =
    &[("encoding", 3), ("freq", 3), ("help", 2), ("idletime", 3), ("refcount", 3)];

fn object(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let name = subcommand("object", OBJECT, args)?.as_bytes();
    match name {
        b"help" => help(ctx, "OBJECT", OBJECT_HELP),
        b"encoding" | b"freq" | b"idletime" | b"refcount" => {
            let now = seconds(ctx.now);
            let Some(entry) = ctx.db.entry_untouched(args[2])? else {
                ctx.reply.null();
                return Ok(());
            };
            match name[0] {
                b'e' => ctx.reply.bulk(encoding(entry).as_bytes()),
                b'i' => ctx.reply.int(i64::from(now.wrapping_sub(entry.accessed()))),
                b'r' => ctx.reply.int(1),
                _ => {
                    return Err(Error::text(
                        "ERR An LFU maxmemory policy is not selected, access frequency not \
                         tracked. Please note that when switching between policies at runtime \
                         LRU and LFU data will take some time to adjust.",
                    ));
                }
            }
        }
        _ => unreachable!("the table has no other subcommands"),
    }
    Ok(())
}

const OBJECT_HELP: &[&str] = &[
    "ENCODING <key>",
    "    How the value of <key> would be encoded in Redis.",
    "FREQ <key>",
    "    How often <key> is used; needs an LFU policy.",
    "IDLETIME <key>",
    "    The seconds since <key> was last used.",
    "REFCOUNT <key>",
    "    The number of references to the value of <key>: always 1.",
];

/// The encoding that Redis 7.2 would have for the value.
fn encoding(entry: &Entry) -> &'static str {
    /// The longest string that Redis embeds in its object, bytes.
    const EMBEDDED_BYTES_MAX: usize = 44;
    let Some(coll) = entry.coll() else {
        let value = entry.value().unwrap_or_default();
        return match () {
            () if entry.is_raw() => "raw",
            () if parse::integer(value).is_some() => "int",
            () if value.len() <= EMBEDDED_BYTES_MAX => "embstr",
            () => "raw",
        };
    };
    match (coll.kind(), coll.encoding()) {
        (Kind::Stream, _) => "stream",
        (Kind::Set, 0) => "intset",
        (Kind::Set, 1) | (Kind::Hash | Kind::List | Kind::Zset, 0) => "listpack",
        (Kind::Set | Kind::Hash | Kind::String, _) => "hashtable",
        (Kind::List, _) => "quicklist",
        (Kind::Zset, _) => "skiplist",
    }
}

/// The subcommands of MEMORY.
pub(super) const MEMORY: Subcommands = &[("help", 2), ("usage", -3)];

fn memory(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    match subcommand("memory", MEMORY, args)? {
        "help" => help(ctx, "MEMORY", MEMORY_HELP),
        "usage" => {
            let mut options = &args[3..];
            while let [word, samples, rest @ ..] = options {
                if !parse::is_word(word, "samples") {
                    return Err(Error::Syntax);
                }
                if parse::int(samples)? < 0 {
                    return Err(Error::Syntax);
                }
                options = rest;
            }
            if !options.is_empty() {
                return Err(Error::Syntax);
            }
            match ctx.db.entry_untouched(args[2])? {
                Some(entry) => {
                    let bytes = entry.memory_bytes();
                    ctx.reply.int(bytes as i64);
                }
                None => ctx.reply.null(),
            }
        }
        _ => unreachable!("the table has no other subcommands"),
    }
    Ok(())
}

const MEMORY_HELP: &[&str] = &[
    "USAGE <key> [SAMPLES <count>]",
    "    About how many bytes of memory <key> and its value take; nothing is sampled.",
];

fn help(ctx: &mut Ctx<'_>, command: &str, lines: &[&str]) {
    ctx.reply.array(lines.len() + 3);
    ctx.reply
        .simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| ctx.reply.simple(line));
    ctx.reply.simple("HELP");
    ctx.reply.simple("    Print this help.");
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[test]
    fn keys_are_renamed_within_and_across_shards() {
        let mut h = Harness::new(16);
        for (from, to) in [("a", "b"), ("{t}a", "{t}b")] {
            h.check(&format!("SET {from} 1"), "+OK|");
            h.check(&format!("EXPIRE {from} 100"), ":1|");
            h.check(&format!("SET {to} 2"), "+OK|");
            h.check(&format!("RENAMENX {from} {to}"), ":0|");
            h.check(&format!("RENAME {from} {to}"), "+OK|");
            h.check(&format!("GET {to}"), "$1|1|");
            h.check(&format!("TTL {to}"), ":100|");
            h.check(&format!("RENAME {from} {to}"), "-ERR no such key|");
            h.check(&format!("RENAMENX {to} {to}"), ":0|");
            h.check(&format!("RENAME {to} {to}"), "+OK|");
            h.check(&format!("COPY {to} {from}"), ":1|");
            h.check(&format!("COPY {to} {from}"), ":0|");
            h.check(&format!("COPY {to} {from} REPLACE DB 0"), ":1|");
            h.check(&format!("TTL {from}"), ":100|");
        }
        h.check("COPY a b DB 1", "-ERR DB index is out of range|");
        h.check("COPY a a", "-ERR source and destination objects are the same|");
        h.check("MOVE a 0", "-ERR source and destination objects are the same|");
        h.check("MOVE a 1", "-ERR DB index is out of range|");
    }

    #[test]
    fn scans_filter_by_name_and_type() {
        let mut h = Harness::new(16);
        h.check("SET a 1", "+OK|");
        h.check("SCAN 0 COUNT 100", "*2|$1|0|*1|$1|a|");
        h.check("SCAN 0 TYPE string COUNT 100 MATCH a*", "*2|$1|0|*1|$1|a|");
        h.check("SCAN 0 TYPE hash COUNT 100", "*2|$1|0|*0|");
        h.check("SCAN 0 TYPE", "-ERR syntax error|");
        h.check("SCAN 0 COUNT 0", "-ERR syntax error|");
        h.check("SCAN x COUNT 0", "-ERR invalid cursor|");
        h.check("KEYS b*", "*0|");
        h.check("RANDOMKEY", "$1|a|");
        h.check("FLUSHALL nosync", "-ERR syntax error|");
        h.check("FLUSHALL ASYNC", "+OK|");
        h.check("RANDOMKEY", "$-1|");
        h.check("DBSIZE", ":0|");
    }

    #[test]
    fn objects_tell_encoding_and_idle_time() {
        let mut h = Harness::new(2);
        h.check("SET a 12", "+OK|");
        h.check("OBJECT ENCODING a", "$3|int|");
        h.check("SET a 012", "+OK|");
        h.check("object encoding a", "$6|embstr|");
        h.now += 5000;
        h.check("OBJECT IDLETIME a", ":5|");
        h.check("TOUCH a", ":1|");
        h.check("OBJECT IDLETIME a", ":0|");
        h.check("OBJECT ENCODING none", "$-1|");
        h.check("OBJECT ENCODING", "-ERR wrong number of arguments for 'object|encoding' command|");
        h.check("OBJECT X a", "-ERR unknown subcommand 'X'. Try OBJECT HELP.|");
    }
}
