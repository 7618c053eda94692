//! Hashes: each field is an element of the same name.
//!
//! The encoding number is 0 while Redis would keep a listpack, then 1 for ever.

use super::sample;
use crate::coll_mut::CollMut;
use crate::command::{Ctx, FIRST, Spec, flag};
use crate::db::Value;
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::long_double::LongDouble;
use crate::parse;
use crate::scan::{self, Walk};
use crate::settings::Settings;
use crate::sorted::{Sub, Val};
use quorate_resp::Proto;

const READ: u32 = flag::READONLY;
const READ_FAST: u32 = flag::READONLY | flag::FAST;
const WRITE_FAST: u32 = flag::WRITE | flag::FAST;
const GROW_FAST: u32 = flag::WRITE | flag::DENYOOM | flag::FAST;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "hset", arity: -4, flags: GROW_FAST, keys: FIRST, run: hset },
    Spec { name: "hmset", arity: -4, flags: GROW_FAST, keys: FIRST, run: hmset },
    Spec { name: "hsetnx", arity: 4, flags: GROW_FAST, keys: FIRST, run: hsetnx },
    Spec { name: "hget", arity: 3, flags: READ_FAST, keys: FIRST, run: hget },
    Spec { name: "hmget", arity: -3, flags: READ_FAST, keys: FIRST, run: hmget },
    Spec { name: "hgetall", arity: 2, flags: READ, keys: FIRST, run: hgetall },
    Spec { name: "hkeys", arity: 2, flags: READ, keys: FIRST, run: hkeys },
    Spec { name: "hvals", arity: 2, flags: READ, keys: FIRST, run: hvals },
    Spec { name: "hdel", arity: -3, flags: WRITE_FAST, keys: FIRST, run: hdel },
    Spec { name: "hlen", arity: 2, flags: READ_FAST, keys: FIRST, run: hlen },
    Spec { name: "hstrlen", arity: 3, flags: READ_FAST, keys: FIRST, run: hstrlen },
    Spec { name: "hexists", arity: 3, flags: READ_FAST, keys: FIRST, run: hexists },
    Spec { name: "hincrby", arity: 4, flags: GROW_FAST, keys: FIRST, run: hincrby },
    Spec { name: "hincrbyfloat", arity: 4, flags: GROW_FAST, keys: FIRST, run: hincrbyfloat },
    Spec { name: "hrandfield", arity: -2, flags: READ, keys: FIRST, run: hrandfield },
    Spec { name: "hscan", arity: -3, flags: READ, keys: FIRST, run: hscan },
];

const LISTPACK: u8 = 0;
const HASHTABLE: u8 = 1;

fn hset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let created = put_pairs(ctx, args, "hset")?;
    ctx.reply.int(created);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    put_pairs(ctx, args, "hmset")?;
    ctx.reply.ok();
    Ok(())
}

/// Sets the fields in `args`; returns how many are new.
fn put_pairs(ctx: &mut Ctx<'_>, args: &[&[u8]], name: &str) -> Result<i64, Error> {
    let (pairs, []) = args[2..].as_chunks::<2>() else {
        return Err(Error::WrongArity(name.into()));
    };
    let mut hash = ctx.db.open(args[1], Kind::Hash)?;
    let mut created = 0;
    for [field, value] in pairs {
        created += i64::from(put(&mut hash, field, value, ctx.settings));
    }
    Ok(created)
}

/// A hash as a value for [`crate::Db::put_value`], from fields in order.
pub(crate) fn value(settings: &Settings, pairs: Vec<(Sub, Val)>) -> Value {
    let compact = pairs.len() <= settings.hash_max_listpack_entries
        && pairs.iter().all(|(f, v)| f.len().max(v.len()) <= settings.hash_max_listpack_value);
    let encoding = if compact { LISTPACK } else { HASHTABLE };
    Value::Coll { kind: Kind::Hash, encoding, aux: Vec::new(), elements: pairs }
}

/// Sets one field; true if it is new.
fn put(hash: &mut CollMut<'_>, field: &[u8], value: &[u8], settings: &Settings) -> bool {
    let created = hash.put(field, value).is_none();
    if hash.encoding() == LISTPACK
        && (hash.len() > settings.hash_max_listpack_entries
            || field.len().max(value.len()) > settings.hash_max_listpack_value)
    {
        hash.set_encoding(HASHTABLE);
    }
    created
}

fn hsetnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut hash = ctx.db.open(args[1], Kind::Hash)?;
    let absent = hash.get(args[2]).is_none();
    if absent {
        put(&mut hash, args[2], args[3], ctx.settings);
    }
    ctx.reply.int(i64::from(absent));
    Ok(())
}

fn hget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    match ctx.db.coll(args[1], Kind::Hash)?.and_then(|hash| hash.get(args[2])) {
        Some(value) => ctx.reply.bulk(value),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let hash = ctx.db.coll(args[1], Kind::Hash)?;
    ctx.reply.array(args.len() - 2);
    for field in &args[2..] {
        match hash.and_then(|hash| hash.get(field)) {
            Some(value) => ctx.reply.bulk(value),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let Some(hash) = ctx.db.coll(args[1], Kind::Hash)? else {
        ctx.reply.map(0);
        return Ok(());
    };
    ctx.reply.map(hash.len());
    for (field, value) in hash.elements().iter() {
        ctx.reply.bulk(field);
        ctx.reply.bulk(value);
    }
    Ok(())
}

fn hkeys(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    list(ctx, args[1], |field, _| field)
}

fn hvals(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    list(ctx, args[1], |_, value| value)
}

fn list(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    part: for<'a> fn(&'a [u8], &'a [u8]) -> &'a [u8],
) -> Result<(), Error> {
    let Some(hash) = ctx.db.coll(key, Kind::Hash)? else {
        ctx.reply.array(0);
        return Ok(());
    };
    ctx.reply.array(hash.len());
    hash.elements().iter().for_each(|(field, value)| ctx.reply.bulk(part(field, value)));
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let mut hash = ctx.db.open(args[1], Kind::Hash)?;
    let removed = args[2..].iter().filter(|field| hash.remove(field).is_some()).count();
    ctx.reply.int(removed as i64);
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let len = ctx.db.coll(args[1], Kind::Hash)?.map_or(0, Coll::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn hstrlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let hash = ctx.db.coll(args[1], Kind::Hash)?;
    let len = hash.and_then(|hash| hash.get(args[2])).map_or(0, <[u8]>::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let hash = ctx.db.coll(args[1], Kind::Hash)?;
    let exists = hash.is_some_and(|hash| hash.get(args[2]).is_some());
    ctx.reply.int(i64::from(exists));
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let by = parse::int(args[3])?;
    let mut hash = ctx.db.open(args[1], Kind::Hash)?;
    let old = match hash.get(args[2]) {
        Some(text) => {
            parse::integer(text).ok_or(Error::text("ERR hash value is not an integer"))?
        }
        None => 0,
    };
    let new =
        old.checked_add(by).ok_or(Error::text("ERR increment or decrement would overflow"))?;
    put(&mut hash, args[2], new.to_string().as_bytes(), ctx.settings);
    ctx.reply.int(new);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let by = LongDouble::parse(args[3]).ok_or(Error::NotFloat)?;
    if by.is_infinite() {
        return Err(Error::text("ERR value is NaN or Infinity"));
    }
    let mut hash = ctx.db.open(args[1], Kind::Hash)?;
    let old = match hash.get(args[2]) {
        Some(text) => {
            LongDouble::parse(text).ok_or(Error::text("ERR hash value is not a float"))?
        }
        None => LongDouble::ZERO,
    };
    let new =
        old.add(by).ok_or(Error::text("ERR increment would produce NaN or Infinity"))?.to_string();
    put(&mut hash, args[2], new.as_bytes(), ctx.settings);
    ctx.reply.bulk(new.as_bytes());
    Ok(())
}

fn hrandfield(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let Some(count) = args.get(2) else {
        let hash = ctx.db.coll(args[1], Kind::Hash)?;
        match hash.and_then(|h| h.elements().nth(ctx.prng.below(h.len() as u64) as usize)) {
            Some((field, _)) => ctx.reply.bulk(field),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let count = sample::count(count)?;
    let with_values = match &args[3..] {
        [] => false,
        [word] if parse::is_word(word, "withvalues") => true,
        _ => return Err(Error::Syntax),
    };
    if with_values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Error::text("ERR value is out of range"));
    }
    let Some(hash) = ctx.db.coll(args[1], Kind::Hash)? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let ranks = sample::ranks(ctx.prng, hash.len(), count)?;
    let in_pairs = with_values && ctx.reply.proto() == Proto::Resp3;
    ctx.reply.array(ranks.len() * if with_values && !in_pairs { 2 } else { 1 });
    for rank in ranks {
        let (field, value) = hash.elements().nth(rank).expect("the rank is below the length");
        if in_pairs {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(field);
        if with_values {
            ctx.reply.bulk(value);
        }
    }
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let walk = Walk {
        kind: Kind::Hash,
        prefix: b"",
        width: 2,
        is_compact: |hash, _| hash.encoding() == LISTPACK,
        emit: |reply, field, value| {
            reply.bulk(field);
            reply.bulk(value);
        },
    };
    scan::collection(ctx, args, &walk)
}

#[cfg(test)]
mod tests {
    use super::Proto;
    use crate::testing::Harness;

    #[test]
    fn fields_are_set_read_and_removed() {
        let mut h = Harness::new(2);
        h.check("HSET h b 1 a 2 b 3", ":2|");
        h.check("HGETALL h", "*4|$1|a|$1|2|$1|b|$1|3|");
        h.check("HMGET h a x", "*2|$1|2|$-1|");
        h.check("HSET h a", "-ERR wrong number of arguments for 'hset' command|");
        h.check("HMSET h a 1 b", "-ERR wrong number of arguments for 'hmset' command|");
        h.check("HDEL h a x", ":1|");
        h.check("HDEL h b", ":1|");
        h.check("EXISTS h", ":0|");
        h.proto = Proto::Resp3;
        h.check("HGETALL h", "%0|");
        h.check("HSET h a 1", ":1|");
        h.check("HRANDFIELD h 5 WITHVALUES", "*1|*2|$1|a|$1|1|");
    }

    #[test]
    fn failed_increments_change_nothing() {
        let mut h = Harness::new(2);
        h.check("HINCRBY h n x", "-ERR value is not an integer or out of range|");
        h.check("EXISTS h", ":0|");
        h.check("HSET h s text max 9223372036854775807", ":2|");
        h.check("HINCRBY h s 1", "-ERR hash value is not an integer|");
        h.check("HINCRBY h max 1", "-ERR increment or decrement would overflow|");
        h.check("HINCRBY h max -1", ":9223372036854775806|");
        h.check("HINCRBYFLOAT h s 1", "-ERR hash value is not a float|");
        h.check("HINCRBYFLOAT h f 0.1", "$3|0.1|");
        h.check("HINCRBYFLOAT h f 0.2", "$3|0.3|");
        h.check("HINCRBYFLOAT h f inf", "-ERR value is NaN or Infinity|");
    }

    #[test]
    fn an_encoding_never_turns_back() {
        let mut h = Harness::new(2);
        h.check("HSET h a 1", ":1|");
        h.check("OBJECT ENCODING h", "$8|listpack|");
        h.check(&format!("HSET h a {}", "x".repeat(65)), ":0|");
        h.check("OBJECT ENCODING h", "$9|hashtable|");
        h.check("HSET h a 1", ":0|");
        h.check("OBJECT ENCODING h", "$9|hashtable|");
    }
}
