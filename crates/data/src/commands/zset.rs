//! Sorted sets: the commands on single members, and the table of the family. `element` says how a
//! sorted set lies in its collection; ranges, pops and set operations have files of their own.

use super::sample;
use crate::coll_mut::CollMut;
use crate::command::{Ctx, FIRST, FIRST_TWO, Keys, Run, Spec, flag};
use crate::entry::Kind;
use crate::error::Error;
use crate::parse::{self, is_word};
use crate::scan::{self, Walk};
use quorate_resp::reply::{Proto, Reply, format_double};
use smallvec::SmallVec;

mod combine;
pub(super) mod element;
mod pop;
mod range;

pub(super) use element::Members;
use element::{LISTPACK, MEMBER, member_sub, put, remove, score_of};
pub(super) use range::store;

const READ: u32 = flag::READONLY;
const READ_FAST: u32 = flag::READONLY | flag::FAST;
const READ_MOVABLE: u32 = flag::READONLY | flag::MOVABLE_KEYS;
const WRITE: u32 = flag::WRITE;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const ADD: u32 = flag::WRITE | flag::DENYOOM;
const ADD_MOVABLE: u32 = ADD | flag::MOVABLE_KEYS;

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys, run: Run) -> Spec {
    Spec { name, arity, flags, keys, run }
}

const COUNTED: Keys = Keys::Counted { at: 1, fixed: 0 };
const COUNTED_STORE: Keys = Keys::Counted { at: 2, fixed: 1 };
const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    spec("zadd", -4, ADD | flag::FAST, FIRST, zadd),
    spec("zincrby", 4, ADD | flag::FAST, FIRST, zincrby),
    spec("zrem", -3, WRITE_FAST, FIRST, zrem),
    spec("zscore", 3, READ_FAST, FIRST, zscore),
    spec("zmscore", -3, READ_FAST, FIRST, zmscore),
    spec("zcard", 2, READ_FAST, FIRST, zcard),
    spec("zrank", -3, READ_FAST, FIRST, |ctx, args| rank(ctx, args, false)),
    spec("zrevrank", -3, READ_FAST, FIRST, |ctx, args| rank(ctx, args, true)),
    spec("zrandmember", -2, READ, FIRST, zrandmember),
    spec("zscan", -3, READ, FIRST, zscan),
    spec("zcount", 4, READ_FAST, FIRST, range::zcount),
    spec("zlexcount", 4, READ_FAST, FIRST, range::zlexcount),
    spec("zrange", -4, READ, FIRST, range::zrange),
    spec("zrangestore", -5, ADD, FIRST_TWO, range::zrangestore),
    spec("zrangebyscore", -4, READ, FIRST, range::zrangebyscore),
    spec("zrevrangebyscore", -4, READ, FIRST, range::zrevrangebyscore),
    spec("zrangebylex", -4, READ, FIRST, range::zrangebylex),
    spec("zrevrangebylex", -4, READ, FIRST, range::zrevrangebylex),
    spec("zrevrange", -4, READ, FIRST, range::zrevrange),
    spec("zremrangebyrank", 4, WRITE, FIRST, range::zremrangebyrank),
    spec("zremrangebyscore", 4, WRITE, FIRST, range::zremrangebyscore),
    spec("zremrangebylex", 4, WRITE, FIRST, range::zremrangebylex),
    spec("zpopmin", -2, WRITE_FAST, FIRST, pop::zpopmin),
    spec("zpopmax", -2, WRITE_FAST, FIRST, pop::zpopmax),
    spec("bzpopmin", -3, WRITE_FAST | flag::BLOCKING, ALL_BUT_LAST, pop::bzpopmin),
    spec("bzpopmax", -3, WRITE_FAST | flag::BLOCKING, ALL_BUT_LAST, pop::bzpopmax),
    spec("zmpop", -4, WRITE | flag::MOVABLE_KEYS, COUNTED, pop::zmpop),
    spec(
        "bzmpop",
        -5,
        WRITE | flag::BLOCKING | flag::MOVABLE_KEYS,
        Keys::Counted { at: 2, fixed: 0 },
        pop::bzmpop,
    ),
    spec("zunion", -3, READ_MOVABLE, COUNTED, combine::zunion),
    spec("zinter", -3, READ_MOVABLE, COUNTED, combine::zinter),
    spec("zdiff", -3, READ_MOVABLE, COUNTED, combine::zdiff),
    spec("zintercard", -3, READ_MOVABLE, COUNTED, combine::zintercard),
    spec("zunionstore", -4, ADD_MOVABLE, COUNTED_STORE, combine::zunionstore),
    spec("zinterstore", -4, ADD_MOVABLE, COUNTED_STORE, combine::zinterstore),
    spec("zdiffstore", -4, ADD_MOVABLE, COUNTED_STORE, combine::zdiffstore),
];

// --- adding ----------------------------------------------------------------------------------

/// When ZADD adds or changes a member, and what it replies.
#[derive(Clone, Copy, Default)]
pub(super) struct AddOptions {
    pub(super) nx: bool,
    pub(super) xx: bool,
    pub(super) gt: bool,
    pub(super) lt: bool,
    pub(super) ch: bool,
    pub(super) incr: bool,
}

impl AddOptions {
    /// Takes the option `word`; false if it is none.
    fn take(&mut self, word: &[u8]) -> bool {
        let option = match word.len() {
            2 if is_word(word, "nx") => &mut self.nx,
            2 if is_word(word, "xx") => &mut self.xx,
            2 if is_word(word, "ch") => &mut self.ch,
            2 if is_word(word, "gt") => &mut self.gt,
            2 if is_word(word, "lt") => &mut self.lt,
            4 if is_word(word, "incr") => &mut self.incr,
            _ => return false,
        };
        *option = true;
        true
    }
}

fn zadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    add(ctx, args, AddOptions::default())
}

fn zincrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    add(ctx, args, AddOptions { incr: true, ..AddOptions::default() })
}

fn add(ctx: &mut Ctx<'_>, args: &[&[u8]], mut options: AddOptions) -> Result<(), Error> {
    let first = 2 + args[2..].iter().take_while(|word| options.take(word)).count();
    let pairs = &args[first..];
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(Error::Syntax);
    }
    if options.nx && options.xx {
        return Err(Error::text("ERR XX and NX options at the same time are not compatible"));
    }
    if (options.gt || options.lt) && options.nx || options.gt && options.lt {
        return Err(Error::text(
            "ERR GT, LT, and/or NX options at the same time are not compatible",
        ));
    }
    if options.incr && pairs.len() > 2 {
        return Err(Error::text("ERR INCR option supports a single increment-element pair"));
    }
    // Every score is checked before the first change.
    let scores = pairs.chunks_exact(2).map(|pair| parse::float(pair[0]));
    let scores = scores.collect::<Result<SmallVec<[f64; 8]>, Error>>()?;
    let members = pairs.chunks_exact(2).map(|pair| pair[1]);
    add_pairs(ctx, args[1], scores.into_iter().zip(members), options)
}

/// Adds scores and members to `key` and replies as ZADD.
pub(super) fn add_pairs<'a>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    pairs: impl Iterator<Item = (f64, &'a [u8])>,
    options: AddOptions,
) -> Result<(), Error> {
    let mut coll = ctx.db.open(key, Kind::Zset)?;
    let (mut added, mut changed, mut result) = (0, 0, None);
    for (score, member) in pairs {
        match add_one(&mut coll, ctx.settings, member, score, options)? {
            Added::No => {}
            Added::Same(score) => result = Some(score),
            Added::Changed(score) => (changed, result) = (changed + 1, Some(score)),
            Added::New(score) => (added, result) = (added + 1, Some(score)),
        }
    }
    drop(coll);
    match (options.incr, result) {
        (true, Some(score)) => ctx.reply.double(score),
        (true, None) => ctx.reply.null(),
        (false, _) => ctx.reply.int(added + if options.ch { changed } else { 0 }),
    }
    Ok(())
}

/// What became of a member, with the score it has now.
enum Added {
    /// The options forbid it.
    No,
    /// It had the score already.
    Same(f64),
    /// It got another score.
    Changed(f64),
    /// It was not there.
    New(f64),
}

/// Adds one member or changes its score; an error if the sum is no number.
#[inline]
fn add_one(
    coll: &mut CollMut<'_>,
    settings: &crate::settings::Settings,
    member: &[u8],
    score: f64,
    options: AddOptions,
) -> Result<Added, Error> {
    let sub = member_sub(member);
    let Some(old) = coll.get(&sub).map(score_of) else {
        if options.xx {
            return Ok(Added::No);
        }
        put(coll, settings, &sub, None, score);
        return Ok(Added::New(score));
    };
    if options.nx {
        return Ok(Added::No);
    }
    let score = if options.incr { old + score } else { score };
    if score.is_nan() {
        return Err(Error::text("ERR resulting score is not a number (NaN)"));
    }
    if options.gt && score <= old || options.lt && score >= old {
        return Ok(Added::No);
    }
    if score == old {
        return Ok(Added::Same(score));
    }
    put(coll, settings, &sub, Some(old), score);
    Ok(Added::Changed(score))
}

fn zrem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut coll = ctx.db.open(args[1], Kind::Zset)?;
    let removed = args[2..].iter().filter(|member| remove(&mut coll, member)).count();
    drop(coll);
    ctx.reply.int(removed as i64);
    Ok(())
}

// --- looking at members ----------------------------------------------------------------------

fn zscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let coll = ctx.db.coll(args[1], Kind::Zset)?;
    match coll.and_then(|coll| Members::of(coll).score(args[2])) {
        Some(score) => ctx.reply.double(score),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn zmscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let members = ctx.db.coll(args[1], Kind::Zset)?.map(Members::of);
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        match members.and_then(|members| members.score(member)) {
            Some(score) => ctx.reply.double(score),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

fn zcard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let members = ctx.db.coll(args[1], Kind::Zset)?.map_or(0, |coll| Members::of(coll).len());
    ctx.reply.int(members as i64);
    Ok(())
}

fn rank(ctx: &mut Ctx<'_>, args: &[&[u8]], reverse: bool) -> Result<(), Error> {
    let with_score = match args[3..] {
        [] => false,
        [word] if is_word(word, "withscore") => true,
        [_] => return Err(Error::Syntax),
        _ => return Err(Error::WrongArity(String::from_utf8_lossy(args[0]).to_lowercase())),
    };
    let members = ctx.db.coll(args[1], Kind::Zset)?.map(Members::of);
    let found = members.and_then(|m| {
        m.rank(args[2])
            .map(|(rank, score)| (if reverse { m.len() - 1 - rank } else { rank }, score))
    });
    match (found, with_score) {
        (Some((rank, _)), false) => ctx.reply.int(rank as i64),
        (Some((rank, score)), true) => {
            ctx.reply.array(2);
            ctx.reply.int(rank as i64);
            ctx.reply.double(score);
        }
        (None, false) => ctx.reply.null(),
        (None, true) => ctx.reply.null_array(),
    }
    Ok(())
}

fn zscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const WALK: Walk = Walk {
        kind: Kind::Zset,
        prefix: &[MEMBER],
        width: 2,
        is_compact: |coll, _| coll.encoding() == LISTPACK,
        emit: |reply, member, score| {
            reply.bulk(member);
            reply.bulk(format_double(score_of(score)).as_bytes());
        },
    };
    scan::collection(ctx, args, &WALK)
}

// --- ZRANDMEMBER -----------------------------------------------------------------------------

fn zrandmember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    if args.len() == 2 {
        let members = ctx.db.coll(args[1], Kind::Zset)?.map(Members::of);
        match members.map(|m| nth(m, ctx.prng.below(m.len() as u64) as usize)) {
            Some((member, _)) => ctx.reply.bulk(member),
            None => ctx.reply.null(),
        }
        return Ok(());
    }
    let count = sample::count(args[2])?;
    let with_scores = match args[3..] {
        [] => false,
        [word] if is_word(word, "withscores") => true,
        _ => return Err(Error::Syntax),
    };
    if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Error::text("ERR value is out of range"));
    }
    let Some(members) = ctx.db.coll(args[1], Kind::Zset)?.map(Members::of) else {
        ctx.reply.array(0);
        return Ok(());
    };
    if count >= members.len() as i64 {
        pairs_reply(&mut ctx.reply, members.iter().rev(), with_scores);
        return Ok(());
    }
    let ranks = sample::ranks(ctx.prng, members.len(), count)?;
    let pairs = ranks.iter().map(|&rank| nth(members, rank));
    pairs_reply(&mut ctx.reply, pairs, with_scores);
    Ok(())
}

fn nth(members: Members<'_>, rank: usize) -> (&[u8], f64) {
    members.ranks(rank, rank + 1).next().expect("the rank is below the number of members")
}

// --- replies ---------------------------------------------------------------------------------

/// Members, with scores if wanted: in RESP3 pairs, in RESP2 flat.
pub(super) fn pairs_reply<'a>(
    reply: &mut Reply<'_>,
    pairs: impl ExactSizeIterator<Item = (&'a [u8], f64)>,
    with_scores: bool,
) {
    let nested = with_scores && reply.proto() == Proto::Resp3;
    let flat = with_scores && !nested;
    reply.array(if flat { pairs.len() * 2 } else { pairs.len() });
    for (member, score) in pairs {
        if nested {
            reply.array(2);
        }
        reply.bulk(member);
        if with_scores {
            reply.double(score);
        }
    }
}

#[cfg(test)]
mod tests;
