//! Unions, intersections and differences of sorted sets and plain sets.

use super::element::{Members, sortable};
use super::pairs_reply;
use super::range::store;
use crate::command::Ctx;
use crate::db::Db;
use crate::entry::{Coll, Entry, Kind};
use crate::error::Error;
use crate::parse::{self, is_word};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => zero_if_nan(a + b),
            Self::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
            Self::Max => {
                if b > a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

/// `inf - inf` and `0 * inf` count as 0.
fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// One input, and the weight its scores are multiplied by.
struct Source<'a> {
    input: Input<'a>,
    weight: f64,
}

#[derive(Clone, Copy)]
enum Input<'a> {
    Absent,
    Set(&'a Coll),
    Zset(Members<'a>),
}

impl<'a> Input<'a> {
    fn of(coll: Option<&'a Coll>) -> Self {
        match coll {
            None => Self::Absent,
            Some(coll) if coll.kind() == Kind::Set => Self::Set(coll),
            Some(coll) => Self::Zset(Members::of(coll)),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Absent => 0,
            Self::Set(coll) => coll.len(),
            Self::Zset(members) => members.len(),
        }
    }

    /// The score of `member`; 1 in a plain set.
    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Absent => None,
            Self::Set(coll) => coll.get(member).map(|_| 1.0),
            Self::Zset(members) => members.score(member),
        }
    }

    /// Members in bytewise order with their scores.
    fn iter(self) -> impl Iterator<Item = (&'a [u8], f64)> {
        let (set, zset) = match self {
            Self::Absent => (None, None),
            Self::Set(coll) => (Some(coll), None),
            Self::Zset(members) => (None, Some(members)),
        };
        let set = set.into_iter().flat_map(|coll| coll.elements().iter());
        let zset = zset.into_iter().flat_map(Members::by_name);
        set.map(|(member, _)| (member, 1.0)).chain(zset)
    }
}

/// A parsed command.
struct Query {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// 0: none.
    limit: usize,
}

/// Which options a command takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Reply,
    Store,
    Count,
}

/// The keys of a command, and its other options.
type Split<'a, 'b> = (&'b [&'a [u8]], &'b [&'a [u8]]);

impl Query {
    /// Splits `numkeys key … options …`.
    fn keys<'a, 'b>(args: &'b [&'a [u8]], name: &[u8]) -> Result<Split<'a, 'b>, Error> {
        let numkeys = parse::int(args[0])?;
        if numkeys < 1 {
            let name = String::from_utf8_lossy(name).to_lowercase();
            return Err(Error::owned(format!(
                "ERR at least 1 input key is needed for '{name}' command"
            )));
        }
        let rest = &args[1..];
        usize::try_from(numkeys)
            .ok()
            .and_then(|numkeys| rest.split_at_checked(numkeys))
            .ok_or(Error::Syntax)
    }

    fn parse(
        keys: usize,
        mut args: &[&[u8]],
        operation: Operation,
        form: Form,
    ) -> Result<Self, Error> {
        let mut query = Self {
            weights: vec![1.0; keys],
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: 0,
        };
        let scored = operation != Operation::Diff && form != Form::Count;
        while let [word, rest @ ..] = args {
            if scored && rest.len() >= keys && is_word(word, "weights") {
                let (weights, after) = rest.split_at(keys);
                for (weight, text) in query.weights.iter_mut().zip(weights) {
                    *weight = parse::number(text)
                        .ok_or(Error::text("ERR weight value is not a float"))?;
                }
                args = after;
            } else if scored && !rest.is_empty() && is_word(word, "aggregate") {
                query.aggregate = match rest[0] {
                    word if is_word(word, "sum") => Aggregate::Sum,
                    word if is_word(word, "min") => Aggregate::Min,
                    word if is_word(word, "max") => Aggregate::Max,
                    _ => return Err(Error::Syntax),
                };
                args = &rest[1..];
            } else if form == Form::Reply && is_word(word, "withscores") {
                query.with_scores = true;
                args = rest;
            } else if form == Form::Count && !rest.is_empty() && is_word(word, "limit") {
                query.limit = parse::integer(rest[0])
                    .and_then(|limit| usize::try_from(limit).ok())
                    .ok_or(Error::text("ERR LIMIT can't be negative"))?;
                args = &rest[1..];
            } else {
                return Err(Error::Syntax);
            }
        }
        Ok(query)
    }
}

/// Parses `numkeys key … options …` and checks the types of the keys, which come before the options.
fn prepare<'a, 'b>(
    db: &mut Db,
    name: &[u8],
    args: &'b [&'a [u8]],
    operation: Operation,
    form: Form,
) -> Result<(&'b [&'a [u8]], Query), Error> {
    let (keys, options) = Query::keys(args, name)?;
    for key in keys {
        check_type(db, key)?;
    }
    Ok((keys, Query::parse(keys.len(), options, operation, form)?))
}

/// The resulting members and scores in no particular order. The keys have been looked up.
fn combine<'d>(
    db: &'d Db,
    keys: &[&[u8]],
    query: &Query,
    operation: Operation,
) -> Vec<(&'d [u8], f64)> {
    let input = |key: &[u8]| Input::of(db.loaded(key).and_then(Entry::coll));
    let sources = keys.iter().zip(&query.weights);
    let mut sources: Vec<Source<'_>> =
        sources.map(|(key, &weight)| Source { input: input(key), weight }).collect();
    // The order in which scores are added shows in their last digits.
    if operation != Operation::Diff {
        sources.sort_by_key(|source| source.input.len());
    }
    match operation {
        Operation::Union => union(&sources, query.aggregate),
        Operation::Inter => inter(&sources, query.aggregate, query.limit),
        Operation::Diff => diff(&sources),
    }
}

fn check_type(db: &mut Db, key: &[u8]) -> Result<(), Error> {
    match db.entry(key)?.map(Entry::kind) {
        None | Some(Kind::Set | Kind::Zset) => Ok(()),
        Some(_) => Err(Error::WrongType),
    }
}

fn union<'a>(sources: &[Source<'a>], aggregate: Aggregate) -> Vec<(&'a [u8], f64)> {
    let mut result = BTreeMap::new();
    for source in sources {
        for (member, score) in source.input.iter() {
            let score = zero_if_nan(source.weight * score);
            match result.entry(member) {
                Slot::Vacant(slot) => {
                    slot.insert(score);
                }
                Slot::Occupied(mut slot) => {
                    let sum = aggregate.apply(*slot.get(), score);
                    slot.insert(sum);
                }
            }
        }
    }
    result.into_iter().collect()
}

/// The members in all sources, at most `limit` unless it is 0. The first source is the smallest.
fn inter<'a>(sources: &[Source<'a>], aggregate: Aggregate, limit: usize) -> Vec<(&'a [u8], f64)> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (first, others) = sources.split_first().expect("a command has at least one key");
    let common = first.input.iter().filter_map(|(member, score)| {
        let score = zero_if_nan(score * first.weight);
        let sum = others.iter().try_fold(score, |sum, other| {
            let score = other.input.score(member)?;
            Some(aggregate.apply(sum, score * other.weight))
        })?;
        Some((member, sum))
    });
    common.take(limit).collect()
}

fn diff<'a>(sources: &[Source<'a>]) -> Vec<(&'a [u8], f64)> {
    let (first, others) = sources.split_first().expect("a command has at least one key");
    let elsewhere = |member| others.iter().any(|other| other.input.score(member).is_some());
    first.input.iter().filter(|(member, _)| !elsewhere(member)).collect()
}

fn reply(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> Result<(), Error> {
    let (keys, query) = prepare(ctx.db, args[0], &args[1..], operation, Form::Reply)?;
    let mut pairs = combine(ctx.db, keys, &query, operation);
    pairs.sort_unstable_by(|a, b| sortable(a.1).cmp(&sortable(b.1)).then_with(|| a.0.cmp(b.0)));
    pairs_reply(&mut ctx.reply, pairs.into_iter(), query.with_scores);
    Ok(())
}

pub(super) fn zunion(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply(ctx, args, Operation::Union)
}

pub(super) fn zinter(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply(ctx, args, Operation::Inter)
}

pub(super) fn zdiff(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply(ctx, args, Operation::Diff)
}

pub(super) fn zintercard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (keys, query) = prepare(ctx.db, args[0], &args[1..], Operation::Inter, Form::Count)?;
    let common = combine(ctx.db, keys, &query, Operation::Inter).len();
    ctx.reply.int(common as i64);
    Ok(())
}

fn store_result(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> Result<(), Error> {
    let (keys, query) = prepare(ctx.db, args[0], &args[2..], operation, Form::Store)?;
    let pairs = combine(ctx.db, keys, &query, operation);
    // The target may be one of the sources.
    let pairs: Vec<(Vec<u8>, f64)> =
        pairs.into_iter().map(|(member, score)| (member.to_vec(), score)).collect();
    store(ctx, args[1], &pairs)
}

pub(super) fn zunionstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store_result(ctx, args, Operation::Union)
}

pub(super) fn zinterstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store_result(ctx, args, Operation::Inter)
}

pub(super) fn zdiffstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store_result(ctx, args, Operation::Diff)
}
