//! Sets: each member is an element of the same name without a value.
//!
//! The encoding number only grows: 0 while Redis would keep an intset, 1 for a listpack, 2 for a
//! hash table.

use super::sample;
use crate::coll_mut::CollMut;
use crate::command::{Ctx, EVERY, FIRST, FIRST_TWO, Keys, Spec, flag};
use crate::db::{Db, Value};
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::logged::element_bytes;
use crate::parse;
use crate::scan::{self, Walk};
use crate::settings::Settings;
use crate::sorted::{Sub, Val};

const READ: u32 = flag::READONLY;
const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const GROW: u32 = flag::WRITE | flag::DENYOOM;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "sadd", arity: -3, flags: GROW | flag::FAST, keys: FIRST, run: sadd },
    Spec { name: "srem", arity: -3, flags: WRITE_FAST, keys: FIRST, run: srem },
    Spec { name: "sismember", arity: 3, flags: READ_FAST, keys: FIRST, run: sismember },
    Spec { name: "smismember", arity: -3, flags: READ_FAST, keys: FIRST, run: smismember },
    Spec { name: "scard", arity: 2, flags: READ_FAST, keys: FIRST, run: scard },
    Spec { name: "smembers", arity: 2, flags: READ, keys: FIRST, run: smembers },
    Spec { name: "spop", arity: -2, flags: WRITE_FAST, keys: FIRST, run: spop },
    Spec { name: "srandmember", arity: -2, flags: READ, keys: FIRST, run: srandmember },
    Spec { name: "smove", arity: 4, flags: WRITE_FAST, keys: FIRST_TWO, run: smove },
    Spec { name: "sinter", arity: -2, flags: READ, keys: EVERY, run: sinter },
    Spec { name: "sunion", arity: -2, flags: READ, keys: EVERY, run: sunion },
    Spec { name: "sdiff", arity: -2, flags: READ, keys: EVERY, run: sdiff },
    Spec { name: "sinterstore", arity: -3, flags: GROW, keys: EVERY, run: sinterstore },
    Spec { name: "sunionstore", arity: -3, flags: GROW, keys: EVERY, run: sunionstore },
    Spec { name: "sdiffstore", arity: -3, flags: GROW, keys: EVERY, run: sdiffstore },
    Spec {
        name: "sintercard",
        arity: -3,
        flags: READ | flag::MOVABLE_KEYS,
        keys: Keys::Counted { at: 1, fixed: 0 },
        run: sintercard,
    },
    Spec { name: "sscan", arity: -3, flags: READ, keys: FIRST, run: sscan },
];

const INTSET: u8 = 0;
const LISTPACK: u8 = 1;
const HASHTABLE: u8 = 2;

/// Adds members one by one and follows Redis' choice of encodings.
struct Adder<'a> {
    set: CollMut<'a>,
    encoding: u8,
    added: usize,
    settings: &'a Settings,
}

impl<'a> Adder<'a> {
    /// `first` is the first of about `expected` members to come.
    fn new(set: CollMut<'a>, first: &[u8], expected: usize, settings: &'a Settings) -> Self {
        let mut encoding = set.encoding();
        if encoding == INTSET && expected > settings.set_max_intset_entries {
            encoding = if set.is_empty() { LISTPACK } else { HASHTABLE };
        }
        if set.is_empty() && parse::integer(first).is_none() {
            encoding = LISTPACK;
        }
        if encoding == LISTPACK && expected > settings.set_max_listpack_entries {
            encoding = HASHTABLE;
        }
        Self { set, encoding, added: 0, settings }
    }

    fn add(&mut self, member: &[u8]) {
        let before = self.set.len();
        if !self.set.insert(member, b"") {
            return;
        }
        self.added += 1;
        let fits_listpack = before < self.settings.set_max_listpack_entries
            && member.len() <= self.settings.set_max_listpack_value;
        self.encoding = match self.encoding {
            INTSET if parse::integer(member).is_some() => {
                let fits = before < self.settings.set_max_intset_entries;
                if fits { INTSET } else { HASHTABLE }
            }
            INTSET | LISTPACK if fits_listpack => LISTPACK,
            _ => HASHTABLE,
        };
    }

    /// Returns how many members were new.
    fn finish(mut self) -> usize {
        if self.added > 0 {
            self.set.set_encoding(self.encoding);
        }
        self.added
    }
}

/// A set as a value for [`crate::Db::put_value`], from members in order.
pub(crate) fn value(settings: &Settings, members: Vec<Sub>) -> Value {
    let encoding = if members.len() <= settings.set_max_intset_entries
        && members.iter().all(|member| parse::integer(member).is_some())
    {
        INTSET
    } else if members.len() <= settings.set_max_listpack_entries
        && members.iter().all(|member| member.len() <= settings.set_max_listpack_value)
    {
        LISTPACK
    } else {
        HASHTABLE
    };
    let elements = members.into_iter().map(|member| (member, Val::new())).collect();
    Value::Coll { kind: Kind::Set, encoding, aux: Vec::new(), elements }
}

fn sadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let set = ctx.db.open(args[1], Kind::Set)?;
    let mut adder = Adder::new(set, args[2], args.len() - 2, ctx.settings);
    args[2..].iter().for_each(|member| adder.add(member));
    ctx.reply.int(adder.finish() as i64);
    Ok(())
}

fn srem(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut set = ctx.db.open(args[1], Kind::Set)?;
    let removed = args[2..].iter().filter(|member| set.remove(member).is_some()).count();
    ctx.reply.int(removed as i64);
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let set = ctx.db.coll(args[1], Kind::Set)?;
    ctx.reply.int(i64::from(set.is_some_and(|set| set.get(args[2]).is_some())));
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let set = ctx.db.coll(args[1], Kind::Set)?;
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        ctx.reply.int(i64::from(set.is_some_and(|set| set.get(member).is_some())));
    }
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let len = ctx.db.coll(args[1], Kind::Set)?.map_or(0, Coll::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let Some(set) = ctx.db.coll(args[1], Kind::Set)? else {
        ctx.reply.set(0);
        return Ok(());
    };
    ctx.reply.set(set.len());
    set.elements().iter().for_each(|(member, _)| ctx.reply.bulk(member));
    Ok(())
}

fn spop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let count = match &args[2..] {
        [] => None,
        [count] => {
            let count = parse::integer(count).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(Error::text("ERR value is out of range, must be positive"))?)
        }
        _ => return Err(Error::Syntax),
    };
    let mut set = ctx.db.open(args[1], Kind::Set)?;
    let Some(count) = count else {
        if set.is_empty() {
            ctx.reply.null();
            return Ok(());
        }
        let rank = ctx.prng.below(set.len() as u64) as usize;
        let (member, _) = set.elements().nth(rank).expect("the rank is below the length");
        let member = Sub::from_slice(member);
        set.remove(&member);
        ctx.reply.bulk(&member);
        return Ok(());
    };
    let ranks = sample::distinct(ctx.prng, set.len(), count);
    let member = |rank| set.elements().nth(rank).expect("the rank is below the length").0;
    let members: Vec<Sub> = ranks.into_iter().map(|rank| Sub::from_slice(member(rank))).collect();
    ctx.reply.set(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    if members.len() == set.len() {
        drop(set);
        ctx.db.delete(args[1])?;
        return Ok(());
    }
    ctx.settings.check_removed(&set, members.iter().map(Sub::as_slice))?;
    members.iter().for_each(|member| drop(set.remove(member)));
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let count = match &args[2..] {
        [] => None,
        [count] => Some(sample::count(count)?),
        _ => return Err(Error::Syntax),
    };
    let set = ctx.db.coll(args[1], Kind::Set)?;
    match (set, count) {
        (None, None) => ctx.reply.null(),
        (None, Some(_)) => ctx.reply.array(0),
        (Some(set), None) => {
            let rank = ctx.prng.below(set.len() as u64) as usize;
            ctx.reply.bulk(set.elements().nth(rank).expect("the rank is below the length").0);
        }
        (Some(set), Some(count)) => {
            let ranks = sample::ranks(ctx.prng, set.len(), count)?;
            ctx.reply.array(ranks.len());
            for rank in ranks {
                ctx.reply.bulk(set.elements().nth(rank).expect("the rank is below the length").0);
            }
        }
    }
    Ok(())
}

fn smove(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (from, to, member) = (args[1], args[2], args[3]);
    let Some(entry) = ctx.db.entry(from)? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let Some(set) = entry.coll().filter(|set| set.kind() == Kind::Set) else {
        return Err(Error::WrongType);
    };
    let there = set.get(member).is_some();
    ctx.db.coll(to, Kind::Set)?;
    if there && from != to {
        ctx.db.open(from, Kind::Set)?.remove(member);
        let mut adder = Adder::new(ctx.db.open(to, Kind::Set)?, member, 1, ctx.settings);
        adder.add(member);
        adder.finish();
    }
    ctx.reply.int(i64::from(there));
    Ok(())
}

/// What is computed from several sets.
#[derive(Clone, Copy)]
enum Operation {
    Inter,
    Union,
    Diff,
}

fn sinter(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    answer(ctx, args, Operation::Inter)
}

fn sunion(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    answer(ctx, args, Operation::Union)
}

fn sdiff(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    answer(ctx, args, Operation::Diff)
}

fn sinterstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store(ctx, args, Operation::Inter)
}

fn sunionstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store(ctx, args, Operation::Union)
}

fn sdiffstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    store(ctx, args, Operation::Diff)
}

fn answer(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> Result<(), Error> {
    let sets = sets(ctx.db, &args[1..])?;
    let members = compute(&sets, operation, usize::MAX);
    ctx.reply.set(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, args: &[&[u8]], operation: Operation) -> Result<(), Error> {
    let to = args[1];
    let sets = sets(ctx.db, &args[2..])?;
    let members = compute(&sets, operation, usize::MAX);
    // An intersection starts as its smallest set but never as a hash table, the others as intsets.
    let smallest = sets.iter().flatten().min_by_key(|set| set.len());
    let encoding = match operation {
        Operation::Inter => smallest.map_or(INTSET, |set| set.encoding().min(LISTPACK)),
        Operation::Union | Operation::Diff => INTSET,
    };
    let numbers = members.iter().all(|member| parse::integer(member).is_some());
    ctx.settings.check_logged(members.iter().map(|m| element_bytes(m, b"")).sum())?;
    let members: Vec<Sub> = members.into_iter().map(Sub::from_slice).collect();
    ctx.db.delete(to)?;
    if !members.is_empty() {
        let set = ctx.db.open(to, Kind::Set)?;
        let mut adder = Adder { set, encoding, added: 0, settings: ctx.settings };
        members.iter().for_each(|member| adder.add(member));
        if numbers && members.len() <= ctx.settings.set_max_intset_entries {
            adder.encoding = INTSET;
        }
        adder.finish();
    }
    ctx.reply.int(members.len() as i64);
    Ok(())
}

fn sintercard(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let count = parse::integer(args[1])
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or(Error::text("ERR numkeys should be greater than 0"))?;
    if count > args.len() - 2 {
        return Err(Error::text("ERR Number of keys can't be greater than number of args"));
    }
    let (keys, mut options) = args[2..].split_at(count);
    let mut limit = 0;
    while let [word, number, rest @ ..] = options {
        if !parse::is_word(word, "limit") {
            return Err(Error::Syntax);
        }
        limit = parse::integer(number)
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or(Error::text("ERR LIMIT can't be negative"))?;
        options = rest;
    }
    if !options.is_empty() {
        return Err(Error::Syntax);
    }
    let sets = sets(ctx.db, keys)?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    ctx.reply.int(compute(&sets, Operation::Inter, limit).len() as i64);
    Ok(())
}

/// The sets at `keys`, `None` where there is none.
fn sets<'a>(db: &'a mut Db, keys: &[&[u8]]) -> Result<Vec<Option<&'a Coll>>, Error> {
    for key in keys {
        db.coll(key, Kind::Set)?;
    }
    let db = &*db;
    Ok(keys.iter().map(|key| db.loaded(key)?.coll()).collect())
}

/// The result of `operation` in order; at most the first `limit` of an intersection.
fn compute<'a>(sets: &[Option<&'a Coll>], operation: Operation, limit: usize) -> Vec<&'a [u8]> {
    let names = |set: &'a Coll| set.elements().iter().map(|(member, _)| member);
    match operation {
        Operation::Union => {
            let mut members: Vec<&[u8]> = sets.iter().flatten().flat_map(|s| names(s)).collect();
            if sets.len() > 1 {
                // Sorted runs in a row: the stable sort merges them.
                members.sort();
                members.dedup();
            }
            members
        }
        Operation::Diff => {
            let Some((Some(first), others)) = sets.split_first() else { return Vec::new() };
            let others: Vec<&Coll> = others.iter().flatten().copied().collect();
            names(first).filter(|m| others.iter().all(|set| set.get(m).is_none())).collect()
        }
        Operation::Inter => {
            let all: Option<Vec<&Coll>> = sets.iter().copied().collect();
            let Some(mut all) = all else { return Vec::new() };
            all.sort_by_key(|set| set.len());
            let Some((smallest, others)) = all.split_first() else { return Vec::new() };
            names(smallest)
                .filter(|m| others.iter().all(|set| set.get(m).is_some()))
                .take(limit)
                .collect()
        }
    }
}

fn sscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let walk = Walk {
        kind: Kind::Set,
        prefix: b"",
        width: 1,
        is_compact: |set, _| set.encoding() < HASHTABLE,
        emit: |reply, member, _| reply.bulk(member),
    };
    scan::collection(ctx, args, &walk)
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    fn encoding(h: &mut Harness, key: &str) -> String {
        h.run(&format!("OBJECT ENCODING {key}")).split('|').nth(1).expect("a bulk").into()
    }

    #[test]
    fn encodings_follow_what_was_added() {
        let mut h = Harness::new(2);
        h.check("SADD a 1 2", ":2|");
        assert_eq!(encoding(&mut h, "a"), "intset");
        h.check("SADD a x", ":1|");
        assert_eq!(encoding(&mut h, "a"), "listpack");
        h.check("SREM a x", ":1|");
        assert_eq!(encoding(&mut h, "a"), "listpack");
        h.check(&format!("SADD a {}", "x".repeat(65)), ":1|");
        assert_eq!(encoding(&mut h, "a"), "hashtable");
        for n in 0..512 {
            h.check(&format!("SADD n {n}"), ":1|");
        }
        assert_eq!(encoding(&mut h, "n"), "intset");
        h.check("SADD n 512", ":1|");
        assert_eq!(encoding(&mut h, "n"), "hashtable");
        h.check("SINTERSTORE i n a", ":2|");
        assert_eq!(encoding(&mut h, "i"), "intset");
    }

    #[test]
    fn stores_may_name_a_source_and_empty_results_delete() {
        let mut h = Harness::new(8);
        h.check("SADD a 1 2 3", ":3|");
        h.check("SADD b 2 3 4", ":3|");
        h.check("SDIFFSTORE a a b", ":1|");
        h.check("SMEMBERS a", "*1|$1|1|");
        h.check("SINTERSTORE a a b", ":0|");
        h.check("EXISTS a", ":0|");
        h.check("SET s x", "+OK|");
        h.check("SUNIONSTORE s b none", ":3|");
        h.check("SINTERCARD 2 b s LIMIT 2", ":2|");
        h.check("SINTERCARD 0 b", "-ERR numkeys should be greater than 0|");
        h.check("SINTERCARD 3 b s", "-ERR Number of keys can't be greater than number of args|");
        h.check("SMOVE b b 2", ":1|");
        h.check("SMOVE b new 2", ":1|");
        h.check("SMEMBERS b", "*2|$1|3|$1|4|");
    }

    #[test]
    fn pops_take_each_member_once() {
        let mut h = Harness::new(2);
        h.check("SPOP a", "$-1|");
        h.check("SPOP a 2", "*0|");
        h.check("SADD a 1 2 3", ":3|");
        h.check("SPOP a -1", "-ERR value is out of range, must be positive|");
        h.check("SPOP a 0", "*0|");
        h.check("SPOP a 9", "*3|$1|1|$1|2|$1|3|");
        h.check("EXISTS a", ":0|");
    }
}
