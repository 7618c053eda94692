//! Commands that add and remove entries: XADD, XTRIM, XDEL, XSETID.
//!
//! Redis keeps entries in nodes of `stream-node-max-entries` and trims whole nodes only when asked
//! with `~`. The effect is reproduced with blocks of as many entries, counted from the first one;
//! Redis also closes a node at `stream-node-max-bytes`, so it may trim large entries a little
//! further.

use super::id::{Id, NewId};
use super::store::{ENTRY_SUB_BYTES, Editor, View};
use crate::command::Ctx;
use crate::error::Error;
use crate::logged::element_bytes;
use crate::parse;
use crate::settings::Settings;

/// The most entries that trimming with `~` removes at once, whatever the node size.
const LIMIT_MAX: u64 = 1_000_000;

/// What to trim a stream to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// At most so many entries.
    MaxLen(u64),
    /// No entry below an id.
    MinId(Id),
}

#[derive(Clone, Copy, Debug)]
struct Trim {
    keep: Keep,
    /// Whole nodes only.
    approximate: bool,
    /// The most entries to remove.
    limit: Option<u64>,
}

/// The options of XADD and XTRIM.
#[derive(Default)]
struct Options {
    trim: Option<Trim>,
    no_mkstream: bool,
    /// Where the first argument after the options is.
    end: usize,
}

/// XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] threshold [LIMIT count]] *|id field value …
pub(super) fn xadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const ZERO: Error = Error::text("ERR The ID specified in XADD must be greater than 0-0");
    const LAST: Error =
        Error::text("ERR The stream has exhausted the last possible ID, unable to add more items");
    const SMALL: Error = Error::text(
        "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    );
    let mut id = None;
    let options = parse_options(args, ctx.settings, |word| {
        id = Some(NewId::parse(word)?);
        Ok(())
    })?;
    let strings = args.get(options.end + 1..).unwrap_or_default();
    let Some(id) = id.filter(|_| !strings.is_empty() && strings.len().is_multiple_of(2)) else {
        return Err(Error::WrongArity("xadd".into()));
    };
    if id == NewId::Given(Id::MIN) {
        return Err(ZERO);
    }
    if options.no_mkstream && View::open(ctx.db, args[1])?.is_none() {
        ctx.reply.null();
        return Ok(());
    }
    let mut stream = Editor::open(ctx.db, args[1])?;
    if stream.header.last == Id::MAX {
        return Err(LAST);
    }
    let id = id.resolve(ctx.now, stream.header.last).ok_or(SMALL)?;
    if let Some(trim) = options.trim {
        check_trim(trim_count(&stream, trim, ctx.settings), ctx.settings)?;
    }
    stream.add(id, strings);
    if let Some(trim) = options.trim {
        let count = trim_count(&stream, trim, ctx.settings);
        trim_front(&mut stream, count);
    }
    stream.close();
    id.reply(&mut ctx.reply);
    Ok(())
}

/// XTRIM key MAXLEN|MINID [=|~] threshold [LIMIT count]
pub(super) fn xtrim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const STRATEGY: Error =
        Error::text("ERR syntax error, XTRIM must be called with a trimming strategy");
    let options = parse_options(args, ctx.settings, |_| Err(Error::Syntax))?;
    let trim = options.trim.ok_or(STRATEGY)?;
    let mut removed = 0;
    if View::open(ctx.db, args[1])?.is_some() {
        let mut stream = Editor::open(ctx.db, args[1])?;
        removed = trim_count(&stream, trim, ctx.settings);
        check_trim(removed, ctx.settings)?;
        trim_front(&mut stream, removed);
        stream.close();
    }
    ctx.reply.int(removed as i64);
    Ok(())
}

/// Parses the options from argument 2 on. A word that is none of them goes to `other`, which ends
/// the parsing.
fn parse_options(
    args: &[&[u8]],
    settings: &Settings,
    mut other: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Options, Error> {
    const BOTH: Error = Error::text(
        "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
    );
    const ALONE: Error = Error::text(
        "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
    );
    const EXACT: Error =
        Error::text("ERR syntax error, LIMIT cannot be used without the special ~ option");
    const NEGATIVE_LEN: Error = Error::text("ERR The MAXLEN argument must be >= 0.");
    const NEGATIVE_LIMIT: Error = Error::text("ERR The LIMIT argument must be >= 0.");
    let mut options = Options { end: args.len(), ..Options::default() };
    let mut limit: Option<u64> = None;
    let mut at = 2;
    while let Some(&word) = args.get(at) {
        let more = args.len() - at - 1;
        let max_len = parse::is_word(word, "MAXLEN");
        if (max_len || parse::is_word(word, "MINID")) && more > 0 {
            if options.trim.is_some() {
                return Err(BOTH);
            }
            let sign = if more >= 2 { args[at + 1] } else { b"" };
            let approximate = sign == b"~";
            at += if approximate || sign == b"=" { 2 } else { 1 };
            let keep = if max_len {
                Keep::MaxLen(u64::try_from(parse::int(args[at])?).map_err(|_| NEGATIVE_LEN)?)
            } else {
                Keep::MinId(Id::parse(args[at])?)
            };
            options.trim = Some(Trim { keep, approximate, limit: None });
        } else if parse::is_word(word, "LIMIT") && more > 0 {
            at += 1;
            limit = Some(u64::try_from(parse::int(args[at])?).map_err(|_| NEGATIVE_LIMIT)?);
        } else if args[0].eq_ignore_ascii_case(b"XADD") && parse::is_word(word, "NOMKSTREAM") {
            options.no_mkstream = true;
        } else {
            other(word)?;
            options.end = at;
            break;
        }
        at += 1;
    }
    match (&mut options.trim, limit) {
        (None, Some(1..)) => return Err(ALONE),
        (None, Some(0)) | (Some(Trim { approximate: false, .. }), Some(_)) => return Err(EXACT),
        (Some(trim), Some(limit)) => trim.limit = (limit > 0).then_some(limit),
        (Some(trim), None) if trim.approximate => {
            let nodes = 100 * settings.stream_node_max_entries as u64;
            trim.limit = Some(if nodes == 0 { 10_000 } else { nodes.min(LIMIT_MAX) });
        }
        _ => {}
    }
    Ok(options)
}

/// How many entries are to be removed from the front.
fn trim_count(stream: &Editor<'_>, trim: Trim, settings: &Settings) -> u64 {
    match trim.keep {
        _ if trim.approximate => count_of_whole_nodes(stream, trim, settings),
        Keep::MaxLen(len) => stream.header.len.saturating_sub(len),
        Keep::MinId(Id::MIN) => 0,
        Keep::MinId(id) => {
            let before = id.previous().expect("the least id was handled above");
            stream.view().entries(Id::MIN, before).count() as u64
        }
    }
}

/// Refuses to remove so many entries if that is too much for one command.
fn check_trim(count: u64, settings: &Settings) -> Result<(), Error> {
    settings.check_logged(count as usize * element_bytes(&[0; ENTRY_SUB_BYTES], b""))
}

fn trim_front(stream: &mut Editor<'_>, count: u64) {
    for _ in 0..count {
        stream.remove_first();
    }
}

/// How many entries fill the nodes of which nothing is to be kept, within the limit.
fn count_of_whole_nodes(stream: &Editor<'_>, trim: Trim, settings: &Settings) -> u64 {
    let node = match settings.stream_node_max_entries {
        0 => u64::MAX,
        entries => entries as u64,
    };
    let len = stream.header.len;
    let mut entries = stream.view().entries(Id::MIN, Id::MAX);
    let mut count = 0;
    while count < len {
        let block = node.min(len - count);
        let goes = match trim.keep {
            Keep::MaxLen(max) => len - count - block >= max,
            Keep::MinId(id) => entries.nth(block as usize - 1).is_some_and(|(last, _)| last < id),
        };
        if !goes || trim.limit.is_some_and(|limit| count + block > limit) {
            break;
        }
        count += block;
    }
    count
}

/// XDEL key id …
pub(super) fn xdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut removed = 0;
    if View::open(ctx.db, args[1])?.is_some() {
        let ids = parse_ids(&args[2..])?;
        let mut stream = Editor::open(ctx.db, args[1])?;
        for id in ids {
            if stream.remove(id) {
                removed += 1;
                stream.header.max_deleted = stream.header.max_deleted.max(id);
            }
        }
        stream.close();
    }
    ctx.reply.int(removed);
    Ok(())
}

/// Every argument as an id.
pub(super) fn parse_ids(args: &[&[u8]]) -> Result<Vec<Id>, Error> {
    args.iter().map(|arg| Id::parse(arg)).collect()
}

/// XSETID key last-id [ENTRIESADDED n] [MAXDELETEDID id]
pub(super) fn xsetid(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const ADDED: Error = Error::text("ERR entries_added must be positive");
    const ABOVE_GIVEN: Error = Error::text(
        "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
    );
    const ABOVE_DELETED: Error =
        Error::text("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id");
    const ABOVE_TOP: Error =
        Error::text("ERR The ID specified in XSETID is smaller than the target stream top item");
    const ABOVE_LEN: Error = Error::text(
        "ERR The entries_added specified in XSETID is smaller than the target stream length",
    );
    let id = Id::parse(args[2])?;
    let (mut added, mut max_deleted) = (None, Id::MIN);
    for option in args[3..].chunks(2) {
        match *option {
            [word, value] if parse::is_word(word, "ENTRIESADDED") => {
                added = Some(u64::try_from(parse::int(value)?).map_err(|_| ADDED)?);
            }
            [word, value] if parse::is_word(word, "MAXDELETEDID") => {
                max_deleted = Id::parse(value)?;
                if id < max_deleted {
                    return Err(ABOVE_GIVEN);
                }
            }
            _ => return Err(Error::Syntax),
        }
    }
    if View::open(ctx.db, args[1])?.is_none() {
        return Err(Error::NoSuchKey);
    }
    let mut stream = Editor::open_quietly(ctx.db, args[1])?;
    if id < stream.header.max_deleted {
        return Err(ABOVE_DELETED);
    }
    if let Some(top) = stream.view().last() {
        if id < top {
            return Err(ABOVE_TOP);
        }
        if added.is_some_and(|added| added < stream.header.len) {
            return Err(ABOVE_LEN);
        }
    }
    let header = &mut stream.header;
    header.last = id;
    header.added = added.unwrap_or(header.added);
    if max_deleted != Id::MIN {
        header.max_deleted = max_deleted;
    }
    stream.close();
    ctx.reply.ok();
    Ok(())
}
