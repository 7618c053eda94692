//! Ranges of members by rank, score or name: reading, counting, storing and removing them.

use super::element::{Members, check_ranks, remove_ranks, sortable, value};
use super::pairs_reply;
use crate::command::Ctx;
use crate::entry::Kind;
use crate::error::Error;
use crate::parse::{self, is_word};

/// What the ends of a range are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// The ends of a range, both inclusive unless they say otherwise.
enum Range<'a> {
    /// Ranks, negative ones from the end.
    Rank(i64, i64),
    Score(Score, Score),
    Name(Name<'a>, Name<'a>),
}

#[derive(Clone, Copy)]
struct Score {
    score: f64,
    exclusive: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    First,
    Last,
    Included(&'a [u8]),
    Excluded(&'a [u8]),
}

impl<'a> Range<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self, Error> {
        match by {
            By::Rank => Ok(Self::Rank(parse::int(min)?, parse::int(max)?)),
            By::Score => match (Score::parse(min), Score::parse(max)) {
                (Some(min), Some(max)) => Ok(Self::Score(min, max)),
                _ => Err(Error::text("ERR min or max is not a float")),
            },
            By::Name => match (Name::parse(min), Name::parse(max)) {
                (Some(min), Some(max)) => Ok(Self::Name(min, max)),
                _ => Err(Error::text("ERR min or max not valid string range item")),
            },
        }
    }

    /// The ranks of the range, from the first up to, not including, the last; equal if it is
    /// empty. `reverse` matters for ranks, which then count from the end, and for a range of
    /// names over members whose scores differ, whose result is then Redis' all the same.
    fn ranks(&self, members: Members<'_>, reverse: bool) -> (usize, usize) {
        let (from, to) = match self {
            Self::Rank(first, last) => {
                let (from, to) = rank_range(*first, *last, members.len());
                if reverse { (members.len() - to, members.len() - from) } else { (from, to) }
            }
            Self::Score(min, max) => (
                members.below(sortable(min.score) + u64::from(min.exclusive), b""),
                members.below(sortable(max.score) + u64::from(!max.exclusive), b""),
            ),
            Self::Name(min, max) => name_ranks(members, *min, *max, reverse),
        };
        (from, to.max(from))
    }
}

impl Score {
    /// As `strtod` reads it, which unlike the other commands' numbers takes the empty text for 0,
    /// spaces before the number, and an overflow for infinity.
    fn parse(text: &[u8]) -> Option<Self> {
        let (exclusive, text) = match text {
            [b'(', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        if text.is_empty() {
            return Some(Self { score: 0.0, exclusive });
        }
        let text = text.trim_ascii_start();
        let score = parse::number(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok())?;
        (!score.is_nan()).then_some(Self { score, exclusive })
    }
}

impl<'a> Name<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        match text {
            b"-" => Some(Self::First),
            b"+" => Some(Self::Last),
            [b'[', rest @ ..] => Some(Self::Included(rest)),
            [b'(', rest @ ..] => Some(Self::Excluded(rest)),
            _ => None,
        }
    }

    fn above(self, member: &[u8]) -> bool {
        match self {
            Self::First => true,
            Self::Last => false,
            Self::Included(name) => member >= name,
            Self::Excluded(name) => member > name,
        }
    }

    fn below(self, member: &[u8]) -> bool {
        match self {
            Self::First => false,
            Self::Last => true,
            Self::Included(name) => member <= name,
            Self::Excluded(name) => member < name,
        }
    }
}

/// Ranks from `first` to `last`, negative ones from the end, as a half-open range within `len`.
fn rank_range(first: i64, last: i64, len: usize) -> (usize, usize) {
    let len = len as i64;
    let first = if first < 0 { first.saturating_add(len).max(0) } else { first };
    let last = if last < 0 { last.saturating_add(len) } else { last }.min(len - 1);
    if first > last || first >= len { (0, 0) } else { (first as usize, last as usize + 1) }
}

fn name_ranks(members: Members<'_>, min: Name<'_>, max: Name<'_>, reverse: bool) -> (usize, usize) {
    let (Some((first, low)), Some((last, high))) =
        (members.iter().next(), members.iter().next_back())
    else {
        return (0, 0);
    };
    if low == high {
        let score = sortable(low);
        let end = |name: Name<'_>, after: bool| match name {
            Name::First => 0,
            Name::Last => members.len(),
            Name::Included(name) | Name::Excluded(name) => {
                members.below(score, name) + usize::from(after && members.score(name).is_some())
            }
        };
        return (
            end(min, matches!(min, Name::Excluded(_))),
            end(max, matches!(max, Name::Included(_))),
        );
    }
    // The order by name does not hold. Redis walks from one end, and so does this.
    if !min.above(last) || !max.below(first) {
        return (0, 0);
    }
    let len = members.len();
    if reverse {
        let to = len - members.iter().rev().take_while(|(name, _)| !max.below(name)).count();
        let run = members.ranks(0, to).rev().take_while(|(name, _)| min.above(name)).count();
        (to - run, to)
    } else {
        let from = members.iter().take_while(|(name, _)| !min.above(name)).count();
        let run = members.ranks(from, len).take_while(|(name, _)| max.below(name)).count();
        (from, from + run)
    }
}

// --- ZRANGE and its older forms --------------------------------------------------------------

/// A parsed ZRANGE or one of its kind.
struct Query<'a> {
    range: Range<'a>,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    /// Negative: all.
    limit: i64,
}

impl<'a> Query<'a> {
    /// Parses from the lower end on; `by` and `reverse` are what the command itself says.
    fn parse(
        args: &[&'a [u8]],
        mut by: Option<By>,
        mut reverse: Option<bool>,
        store: bool,
    ) -> Result<Self, Error> {
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut options = &args[2..];
        loop {
            options = match options {
                [] => break,
                [word, rest @ ..] if !store && is_word(word, "withscores") => {
                    with_scores = true;
                    rest
                }
                [word, first, count, rest @ ..] if is_word(word, "limit") => {
                    (offset, limit) = (parse::int(first)?, parse::int(count)?);
                    rest
                }
                [word, rest @ ..] if reverse.is_none() && is_word(word, "rev") => {
                    reverse = Some(true);
                    rest
                }
                [word, rest @ ..] if by.is_none() && is_word(word, "bylex") => {
                    by = Some(By::Name);
                    rest
                }
                [word, rest @ ..] if by.is_none() && is_word(word, "byscore") => {
                    by = Some(By::Score);
                    rest
                }
                _ => return Err(Error::Syntax),
            };
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            return Err(Error::text(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Name {
            return Err(Error::text(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let swapped = reverse && by != By::Rank;
        let (min, max) = if swapped { (args[1], args[0]) } else { (args[0], args[1]) };
        let range = Range::parse(by, min, max)?;
        // LIMIT with count -1 is let through, and means nothing to a range of ranks.
        let offset = if by == By::Rank { 0 } else { offset };
        Ok(Self { range, reverse, with_scores, offset, limit })
    }

    /// The ranks that are asked for, LIMIT applied.
    fn ranks(&self, members: Members<'_>) -> (usize, usize) {
        let (from, to) = self.range.ranks(members, self.reverse);
        let Ok(offset) = usize::try_from(self.offset) else { return (from, from) };
        let offset = offset.min(to - from);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX).min(to - from - offset);
        if self.reverse {
            (to - offset - limit, to - offset)
        } else {
            (from + offset, from + offset + limit)
        }
    }
}

fn read(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    by: Option<By>,
    reverse: Option<bool>,
) -> Result<(), Error> {
    let query = Query::parse(&args[2..], by, reverse, false)?;
    let Some(coll) = ctx.db.coll(args[1], Kind::Zset)? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let members = Members::of(coll);
    let (from, to) = query.ranks(members);
    let pairs = members.ranks(from, to);
    if query.reverse {
        pairs_reply(&mut ctx.reply, pairs.rev(), query.with_scores);
    } else {
        pairs_reply(&mut ctx.reply, pairs, query.with_scores);
    }
    Ok(())
}

pub(super) fn zrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, None, None)
}

pub(super) fn zrevrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, Some(By::Rank), Some(true))
}

pub(super) fn zrangebyscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, Some(By::Score), Some(false))
}

pub(super) fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, Some(By::Score), Some(true))
}

pub(super) fn zrangebylex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, Some(By::Name), Some(false))
}

pub(super) fn zrevrangebylex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    read(ctx, args, Some(By::Name), Some(true))
}

pub(super) fn zrangestore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let query = Query::parse(&args[3..], None, None, true)?;
    let mut pairs: Vec<(Vec<u8>, f64)> = Vec::new();
    if let Some(coll) = ctx.db.coll(args[2], Kind::Zset)? {
        let members = Members::of(coll);
        let (from, to) = query.ranks(members);
        pairs.extend(members.ranks(from, to).map(|(member, score)| (member.to_vec(), score)));
    }
    store(ctx, args[1], &pairs)
}

/// Sets `key` to a sorted set of `pairs`, deletes it if there are none, and replies how many.
pub(crate) fn store<M: AsRef<[u8]>>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    pairs: &[(M, f64)],
) -> Result<(), Error> {
    if pairs.is_empty() {
        ctx.db.delete(key)?;
    } else {
        let value = value(ctx.settings, pairs);
        ctx.settings.check_logged(value.logged_bytes())?;
        ctx.db.put_value(key, &value, None)?;
    }
    ctx.reply.int(pairs.len() as i64);
    Ok(())
}

// --- counting and removing -------------------------------------------------------------------

fn count(ctx: &mut Ctx<'_>, args: &[&[u8]], by: By) -> Result<(), Error> {
    let range = Range::parse(by, args[2], args[3])?;
    let coll = ctx.db.coll(args[1], Kind::Zset)?;
    let (from, to) = coll.map_or((0, 0), |coll| range.ranks(Members::of(coll), false));
    ctx.reply.int((to - from) as i64);
    Ok(())
}

pub(super) fn zcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    count(ctx, args, By::Score)
}

pub(super) fn zlexcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    count(ctx, args, By::Name)
}

fn remove(ctx: &mut Ctx<'_>, args: &[&[u8]], by: By) -> Result<(), Error> {
    let range = Range::parse(by, args[2], args[3])?;
    let mut coll = ctx.db.open(args[1], Kind::Zset)?;
    let (from, to) = range.ranks(Members::of(&coll), false);
    let removed = to - from;
    if removed > 0 && removed * 2 == coll.len() {
        drop(coll);
        ctx.db.delete(args[1])?;
    } else {
        check_ranks(ctx.settings, &coll, from, to)?;
        remove_ranks(&mut coll, from, to);
        drop(coll);
    }
    ctx.reply.int(removed as i64);
    Ok(())
}

pub(super) fn zremrangebyrank(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    remove(ctx, args, By::Rank)
}

pub(super) fn zremrangebyscore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    remove(ctx, args, By::Score)
}

pub(super) fn zremrangebylex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    remove(ctx, args, By::Name)
}
