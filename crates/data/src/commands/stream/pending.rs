//! Commands on entries that were delivered and not acknowledged: XPENDING, XCLAIM, XAUTOCLAIM.

use super::id::Id;
use super::store::{Editor, Group, PENDING_BYTES, Pending, View, reply_entry};
use crate::command::Ctx;
use crate::error::Error;
use crate::parse;
use quorate_base::Millis;
use quorate_resp::Reply;

fn no_group(key: &[u8], group: &[u8]) -> Error {
    Error::owned(format!(
        "NOGROUP No such key '{}' or consumer group '{}'",
        String::from_utf8_lossy(key),
        String::from_utf8_lossy(group)
    ))
}

fn require_group(ctx: &mut Ctx<'_>, key: &[u8], name: &[u8]) -> Result<Group, Error> {
    let group = View::open(ctx.db, key)?.and_then(|stream| stream.group(name));
    group.ok_or_else(|| no_group(key, name))
}

/// What XPENDING with a range asks for.
struct Filter<'a> {
    min_idle_ms: i64,
    from: Id,
    to: Id,
    count: usize,
    consumer: Option<&'a [u8]>,
}

/// XPENDING key group [[IDLE min-idle-ms] start end count [consumer]]
pub(super) fn xpending(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let filter = match args.len() {
        3 => None,
        6..=9 => Some(parse_filter(&args[3..])?),
        _ => return Err(Error::Syntax),
    };
    let group = require_group(ctx, args[1], args[2])?;
    let stream = View::open(ctx.db, args[1])?.expect("the group was seen in it");
    let reply = &mut ctx.reply;
    let Some(filter) = filter else {
        let mut pending = stream.pending(&group, Id::MIN, Id::MAX);
        reply.array(4);
        reply.int(stream.pending_count(&group) as i64);
        let Some((first, _)) = pending.next() else {
            reply.null();
            reply.null();
            reply.null_array();
            return Ok(());
        };
        first.reply(reply);
        pending.next_back().map_or(first, |(last, _)| last).reply(reply);
        let counts: Vec<(&[u8], usize)> = stream
            .consumers(&group)
            .map(|(name, consumer)| (name, stream.owned_count(&consumer)))
            .filter(|&(_, count)| count > 0)
            .collect();
        reply.array(counts.len());
        for (name, count) in counts {
            reply.array(2);
            reply.bulk(name);
            reply.bulk_int(count as i64);
        }
        return Ok(());
    };
    let idle = |pending: &Pending| ctx.now as i64 - pending.delivered as i64;
    let matches = |&(_, pending): &(Id, Pending)| {
        filter.min_idle_ms == 0 || idle(&pending) >= filter.min_idle_ms
    };
    let found: Vec<(Id, Pending)> = match filter.consumer {
        None => {
            let pending = stream.pending(&group, filter.from, filter.to);
            pending.filter(matches).take(filter.count).collect()
        }
        Some(name) => match stream.consumer(&group, name) {
            None => Vec::new(),
            Some(consumer) => stream
                .owned(&group, &consumer, filter.from)
                .take_while(|&(id, _)| id <= filter.to)
                .filter(matches)
                .take(filter.count)
                .collect(),
        },
    };
    let names = stream.names(&group);
    reply.array(found.len());
    for (id, pending) in &found {
        reply.array(4);
        id.reply(reply);
        reply.bulk(names.owner(pending));
        reply.int(idle(pending).max(0));
        reply.int(pending.deliveries as i64);
    }
    Ok(())
}

fn parse_filter<'a>(args: &[&'a [u8]]) -> Result<Filter<'a>, Error> {
    let (min_idle_ms, rest) = match args {
        [word, ms, rest @ ..] if parse::is_word(word, "IDLE") => {
            let ms = parse::int(ms)?;
            if rest.len() < 3 {
                return Err(Error::Syntax);
            }
            (ms, rest)
        }
        _ => (0, args),
    };
    let count = usize::try_from(parse::int(rest[2])?).unwrap_or(0);
    let from = Id::parse_start(rest[0])?;
    let to = Id::parse_end(rest[1])?;
    Ok(Filter { min_idle_ms, from, to, count, consumer: rest.get(3).copied() })
}

/// The options of XCLAIM.
#[derive(Default)]
struct Claim {
    /// When the entries shall count as delivered; now if not given.
    delivered: Option<i64>,
    deliveries: Option<u64>,
    force: bool,
    just_id: bool,
    last: Id,
}

/// XCLAIM key group consumer min-idle-ms id … [IDLE ms] [TIME ms] [RETRYCOUNT n] [FORCE] [JUSTID]
/// [LASTID id]
pub(super) fn xclaim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const IDLE: Error = Error::text("ERR Invalid min-idle-time argument for XCLAIM");
    let mut group = require_group(ctx, args[1], args[2])?;
    let min_idle_ms = parse::integer(args[4]).ok_or(IDLE)?;
    let ids: Vec<Id> = args[5..].iter().map_while(|arg| Id::parse(arg).ok()).collect();
    let claim = parse_claim(&args[5 + ids.len()..], ctx.now)?;
    let now = ctx.now;
    let delivered = match claim.delivered.map(u64::try_from) {
        Some(Ok(at)) if at <= now => at,
        _ => now,
    };

    let mut stream = Editor::open_quietly(ctx.db, args[1])?;
    if claim.last > group.last {
        group.last = claim.last;
        stream.put_group(args[2], &group);
    }
    let consumer = stream.note_consumer(&group, args[3], now, false)?;
    let mut claimed = Vec::new();
    for id in ids {
        let pending = stream.view().pending_entry(&group, id);
        if stream.view().entry(id).is_none() {
            if let Some(pending) = pending {
                stream.release(&group, id, &pending);
            }
            continue;
        }
        let deliveries = match pending {
            // As in Redis, an entry made pending by force has been delivered once already.
            None if claim.force => 1,
            Some(pending) if is_idle(&pending, now, min_idle_ms) => pending.deliveries,
            _ => continue,
        };
        let counted = if claim.just_id { deliveries } else { deliveries.saturating_add(1) };
        let deliveries = claim.deliveries.unwrap_or(counted);
        stream.assign(&group, id, &consumer, delivered, deliveries);
        claimed.push(id);
    }
    if !claimed.is_empty() {
        stream.note_consumer(&group, args[3], now, true)?;
    }
    reply_claimed(&mut ctx.reply, stream.view(), &claimed, claim.just_id);
    stream.close();
    Ok(())
}

fn parse_claim(mut rest: &[&[u8]], now: Millis) -> Result<Claim, Error> {
    const IDLE: Error = Error::text("ERR Invalid IDLE option argument for XCLAIM");
    const TIME: Error = Error::text("ERR Invalid TIME option argument for XCLAIM");
    const COUNT: Error = Error::text("ERR Invalid RETRYCOUNT option argument for XCLAIM");
    let mut claim = Claim::default();
    loop {
        rest = match rest {
            [] => return Ok(claim),
            [word, after @ ..] if parse::is_word(word, "FORCE") => {
                claim.force = true;
                after
            }
            [word, after @ ..] if parse::is_word(word, "JUSTID") => {
                claim.just_id = true;
                after
            }
            [word, value, after @ ..] if parse::is_word(word, "IDLE") => {
                let idle = parse::integer(value).ok_or(IDLE)?;
                claim.delivered = Some((now as i64).wrapping_sub(idle));
                after
            }
            [word, value, after @ ..] if parse::is_word(word, "TIME") => {
                claim.delivered = Some(parse::integer(value).ok_or(TIME)?);
                after
            }
            [word, value, after @ ..] if parse::is_word(word, "RETRYCOUNT") => {
                // A negative count counts as not given.
                claim.deliveries = u64::try_from(parse::integer(value).ok_or(COUNT)?).ok();
                after
            }
            [word, value, after @ ..] if parse::is_word(word, "LASTID") => {
                claim.last = Id::parse(value)?;
                after
            }
            [word, ..] => {
                return Err(Error::owned(format!(
                    "ERR Unrecognized XCLAIM option '{}'",
                    String::from_utf8_lossy(word)
                )));
            }
        };
    }
}

fn is_idle(pending: &Pending, now: Millis, min_idle_ms: i64) -> bool {
    min_idle_ms <= 0 || now as i64 - pending.delivered as i64 >= min_idle_ms
}

/// How many pending entries XAUTOCLAIM looks at for each that it may claim.
const ATTEMPTS_PER_COUNT: usize = 10;

/// XAUTOCLAIM key group consumer min-idle-ms start [COUNT count] [JUSTID]
pub(super) fn xautoclaim(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const IDLE: Error = Error::text("ERR Invalid min-idle-time argument for XAUTOCLAIM");
    let min_idle_ms = parse::integer(args[4]).ok_or(IDLE)?;
    let from = Id::parse_start(args[5])?;
    let (count, just_id) = parse_autoclaim(&args[6..])?;
    let count = count.min(ctx.settings.records_max(PENDING_BYTES).max(1));
    let group = require_group(ctx, args[1], args[2])?;
    let now = ctx.now;

    let mut stream = Editor::open_quietly(ctx.db, args[1])?;
    let consumer = stream.note_consumer(&group, args[3], now, false)?;
    let (mut claimed, mut deleted) = (Vec::new(), Vec::new());
    let mut candidates = stream.view().pending(&group, from, Id::MAX);
    let mut attempts = count.saturating_mul(ATTEMPTS_PER_COUNT);
    while attempts > 0 && claimed.len() + deleted.len() < count {
        attempts -= 1;
        let Some((id, pending)) = candidates.next() else { break };
        if stream.view().entry(id).is_none() {
            deleted.push((id, pending));
        } else if is_idle(&pending, now, min_idle_ms) {
            claimed.push((id, pending));
        }
    }
    let cursor = candidates.next().map_or(Id::MIN, |(id, _)| id);
    drop(candidates);

    for (id, pending) in &deleted {
        stream.release(&group, *id, pending);
    }
    for (id, pending) in &claimed {
        let deliveries = pending.deliveries.saturating_add(u64::from(!just_id));
        stream.assign(&group, *id, &consumer, now, deliveries);
    }
    if !claimed.is_empty() {
        stream.note_consumer(&group, args[3], now, true)?;
    }
    let ids: Vec<Id> = claimed.iter().map(|&(id, _)| id).collect();
    ctx.reply.array(3);
    cursor.reply(&mut ctx.reply);
    reply_claimed(&mut ctx.reply, stream.view(), &ids, just_id);
    ctx.reply.array(deleted.len());
    deleted.iter().for_each(|(id, _)| id.reply(&mut ctx.reply));
    stream.close();
    Ok(())
}

fn parse_autoclaim(mut rest: &[&[u8]]) -> Result<(usize, bool), Error> {
    const COUNT: Error = Error::text("ERR COUNT must be > 0");
    /// Redis' bound: ids of sixteen bytes fill its address space.
    const COUNT_MAX: i64 = i64::MAX / 16;
    let (mut count, mut just_id) = (100, false);
    loop {
        rest = match rest {
            [] => return Ok((count, just_id)),
            [word, value, after @ ..] if parse::is_word(word, "COUNT") => {
                let value = parse::integer(value).filter(|n| (1..=COUNT_MAX).contains(n));
                count = value.ok_or(COUNT)? as usize;
                after
            }
            [word, after @ ..] if parse::is_word(word, "JUSTID") => {
                just_id = true;
                after
            }
            _ => return Err(Error::Syntax),
        };
    }
}

fn reply_claimed(reply: &mut Reply<'_>, stream: View<'_>, ids: &[Id], just_id: bool) {
    reply.array(ids.len());
    for &id in ids {
        if just_id {
            id.reply(reply);
        } else {
            reply_entry(reply, id, stream.entry(id).expect("only existing entries are claimed"));
        }
    }
}
