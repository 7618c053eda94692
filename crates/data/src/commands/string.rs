//! Strings.
//!
//! Redis stores a short string that it built from an argument as `int` or `embstr` and one that
//! it changed in place as `raw`; commands here pass that on, and OBJECT ENCODING answers from it.

use crate::command::{Ctx, EVERY, FIRST, FIRST_TWO, Keys, Spec, flag};
use crate::error::Error;
use crate::keyspace::Expiry;
use crate::long_double::LongDouble;
use crate::parse::{int, is_word};
use quorate_base::Millis;

mod lcs;

const READ: u32 = flag::READONLY;
const FAST_READ: u32 = flag::READONLY | flag::FAST;
const WRITE: u32 = flag::WRITE | flag::DENYOOM;
const FAST_WRITE: u32 = flag::WRITE | flag::DENYOOM | flag::FAST;

/// Every second argument is a key.
const PAIRS: Keys = Keys::Range { first: 1, last: -1, step: 2 };

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "get", arity: 2, flags: FAST_READ, keys: FIRST, run: get },
    Spec { name: "set", arity: -3, flags: WRITE, keys: FIRST, run: set },
    Spec { name: "setnx", arity: 3, flags: FAST_WRITE, keys: FIRST, run: setnx },
    Spec { name: "setex", arity: 4, flags: WRITE, keys: FIRST, run: setex },
    Spec { name: "psetex", arity: 4, flags: WRITE, keys: FIRST, run: psetex },
    Spec { name: "getset", arity: 3, flags: FAST_WRITE, keys: FIRST, run: getset },
    Spec { name: "getdel", arity: 2, flags: flag::WRITE | flag::FAST, keys: FIRST, run: getdel },
    Spec { name: "getex", arity: -2, flags: flag::WRITE | flag::FAST, keys: FIRST, run: getex },
    Spec { name: "mget", arity: -2, flags: FAST_READ, keys: EVERY, run: mget },
    Spec { name: "mset", arity: -3, flags: WRITE, keys: PAIRS, run: mset },
    Spec { name: "msetnx", arity: -3, flags: WRITE, keys: PAIRS, run: msetnx },
    Spec { name: "append", arity: 3, flags: FAST_WRITE, keys: FIRST, run: append },
    Spec { name: "strlen", arity: 2, flags: FAST_READ, keys: FIRST, run: strlen },
    Spec { name: "incr", arity: 2, flags: FAST_WRITE, keys: FIRST, run: incr },
    Spec { name: "decr", arity: 2, flags: FAST_WRITE, keys: FIRST, run: decr },
    Spec { name: "incrby", arity: 3, flags: FAST_WRITE, keys: FIRST, run: incrby },
    Spec { name: "decrby", arity: 3, flags: FAST_WRITE, keys: FIRST, run: decrby },
    Spec { name: "incrbyfloat", arity: 3, flags: FAST_WRITE, keys: FIRST, run: incrbyfloat },
    Spec { name: "setrange", arity: 4, flags: WRITE, keys: FIRST, run: setrange },
    Spec { name: "getrange", arity: 4, flags: READ, keys: FIRST, run: getrange },
    Spec { name: "substr", arity: 4, flags: READ, keys: FIRST, run: getrange },
    Spec { name: "lcs", arity: -3, flags: READ, keys: FIRST_TWO, run: lcs::lcs },
];

// --- GET and SET -----------------------------------------------------------------------------

fn get(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply_value(ctx, args[1])
}

/// Replies the string at `key` or null.
fn reply_value(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<(), Error> {
    match ctx.db.string(key)? {
        Some(value) => ctx.reply.bulk(value),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn set(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (key, value) = (args[1], args[2]);
    if args.len() == 3 {
        ctx.db.set_string(key, value, Expiry::Never, false)?;
        ctx.reply.ok();
        return Ok(());
    }
    let options = SetOptions::parse(&args[3..])?;
    let expiry = match options.lifetime {
        Lifetime::Unsaid => Expiry::Never,
        Lifetime::Keep => Expiry::Keep,
        Lifetime::Until(unit, text) => Expiry::At(unit.deadline(text, ctx.now, "set")?),
    };
    if options.get {
        reply_value(ctx, key)?;
    }
    if let Some(must_exist) = options.must_exist
        && ctx.db.exists(key)? != must_exist
    {
        if !options.get {
            ctx.reply.null();
        }
        return Ok(());
    }
    set_or_expire(ctx, key, value, expiry)?;
    if !options.get {
        ctx.reply.ok();
    }
    Ok(())
}

/// Sets the key; one that would be expired from the start is deleted instead.
fn set_or_expire(ctx: &mut Ctx<'_>, key: &[u8], value: &[u8], expiry: Expiry) -> Result<(), Error> {
    if matches!(expiry, Expiry::At(at) if at <= ctx.now) {
        ctx.db.delete(key)?;
        return Ok(());
    }
    ctx.db.set_string(key, value, expiry, false)
}

/// What SET's option words ask for.
struct SetOptions<'a> {
    /// NX: `Some(false)`, XX: `Some(true)`.
    must_exist: Option<bool>,
    get: bool,
    lifetime: Lifetime<'a>,
}

#[derive(Clone, Copy)]
enum Lifetime<'a> {
    /// No option mentions it.
    Unsaid,
    /// KEEPTTL for SET, PERSIST for GETEX.
    Keep,
    /// The unit and the number yet to be parsed.
    Until(TimeUnit, &'a [u8]),
}

impl<'a> SetOptions<'a> {
    fn parse(words: &[&'a [u8]]) -> Result<Self, Error> {
        let mut options = Self { must_exist: None, get: false, lifetime: Lifetime::Unsaid };
        let mut at = 0;
        while let Some(&word) = words.get(at) {
            if is_word(word, "NX") && options.must_exist != Some(true) {
                options.must_exist = Some(false);
            } else if is_word(word, "XX") && options.must_exist != Some(false) {
                options.must_exist = Some(true);
            } else if is_word(word, "GET") {
                options.get = true;
            } else {
                at += options.lifetime.take(&words[at..], "KEEPTTL")?;
            }
            at += 1;
        }
        Ok(options)
    }
}

impl<'a> Lifetime<'a> {
    /// Takes the option at the head of `words`: `keep` or a unit with its number. Returns how many
    /// words beyond the first it took. Options may repeat, but not mix.
    fn take(&mut self, words: &[&'a [u8]], keep: &str) -> Result<usize, Error> {
        if is_word(words[0], keep) && matches!(self, Self::Unsaid | Self::Keep) {
            *self = Self::Keep;
            return Ok(0);
        }
        let unit = TimeUnit::parse(words[0]).ok_or(Error::Syntax)?;
        let number = words.get(1).ok_or(Error::Syntax)?;
        match self {
            Self::Keep => return Err(Error::Syntax),
            Self::Until(earlier, _) if *earlier != unit => return Err(Error::Syntax),
            Self::Until(..) | Self::Unsaid => *self = Self::Until(unit, number),
        }
        Ok(1)
    }
}

/// How an option gives a time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TimeUnit {
    seconds: bool,
    absolute: bool,
}

impl TimeUnit {
    const EX: Self = Self { seconds: true, absolute: false };
    const PX: Self = Self { seconds: false, absolute: false };
    const EXAT: Self = Self { seconds: true, absolute: true };
    const PXAT: Self = Self { seconds: false, absolute: true };

    fn parse(word: &[u8]) -> Option<Self> {
        [("EX", Self::EX), ("PX", Self::PX), ("EXAT", Self::EXAT), ("PXAT", Self::PXAT)]
            .into_iter()
            .find_map(|(name, unit)| is_word(word, name).then_some(unit))
    }

    /// The time that `text` means, or the error that Redis replies for `command`.
    fn deadline(self, text: &[u8], now: Millis, command: &str) -> Result<Millis, Error> {
        let invalid = || Error::owned(format!("ERR invalid expire time in '{command}' command"));
        let number = int(text)?;
        if number <= 0 {
            return Err(invalid());
        }
        let ms = if self.seconds { number.checked_mul(1000) } else { Some(number) };
        let base = if self.absolute { 0 } else { now };
        let at = ms.and_then(|ms| ms.checked_add_unsigned(base)).ok_or_else(invalid)?;
        Ok(at.unsigned_abs())
    }
}

fn setnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let absent = !ctx.db.exists(args[1])?;
    if absent {
        ctx.db.set_string(args[1], args[2], Expiry::Never, false)?;
    }
    ctx.reply.int(i64::from(absent));
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set_with_lifetime(ctx, args, TimeUnit::EX, "setex")
}

fn psetex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set_with_lifetime(ctx, args, TimeUnit::PX, "psetex")
}

fn set_with_lifetime(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    unit: TimeUnit,
    command: &str,
) -> Result<(), Error> {
    let at = unit.deadline(args[2], ctx.now, command)?;
    ctx.db.set_string(args[1], args[3], Expiry::At(at), false)?;
    ctx.reply.ok();
    Ok(())
}

fn getset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply_value(ctx, args[1])?;
    ctx.db.set_string(args[1], args[2], Expiry::Never, false)
}

fn getdel(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    reply_value(ctx, args[1])?;
    ctx.db.delete(args[1])?;
    Ok(())
}

fn getex(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let key = args[1];
    let mut lifetime = Lifetime::Unsaid;
    let mut at = 2;
    while at < args.len() {
        at += 1 + lifetime.take(&args[at..], "PERSIST")?;
    }
    let Some(entry) = ctx.db.entry(key)? else {
        ctx.reply.null();
        return Ok(());
    };
    let expires = entry.expiry().is_some();
    ctx.reply.bulk(entry.value().ok_or(Error::WrongType)?);
    match lifetime {
        Lifetime::Until(unit, text) => {
            let at = unit.deadline(text, ctx.now, "getex")?;
            ctx.db.set_expiry(key, Some(at))
        }
        Lifetime::Keep if expires => ctx.db.set_expiry(key, None),
        Lifetime::Keep | Lifetime::Unsaid => Ok(()),
    }
}

// --- several keys ----------------------------------------------------------------------------

fn mget(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    ctx.reply.array(args.len() - 1);
    for key in &args[1..] {
        match ctx.db.entry(key)?.and_then(|entry| entry.value()) {
            Some(value) => ctx.reply.bulk(value),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

fn mset(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set_pairs(ctx, pairs_of(args, "mset")?)?;
    ctx.reply.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let pairs = pairs_of(args, "msetnx")?;
    for [key, _] in pairs {
        if ctx.db.exists(key)? {
            ctx.reply.int(0);
            return Ok(());
        }
    }
    set_pairs(ctx, pairs)?;
    ctx.reply.int(1);
    Ok(())
}

fn pairs_of<'a, 'b>(args: &'a [&'b [u8]], command: &str) -> Result<&'a [[&'b [u8]; 2]], Error> {
    match args[1..].as_chunks() {
        (pairs, []) => Ok(pairs),
        _ => Err(Error::WrongArity(command.into())),
    }
}

fn set_pairs(ctx: &mut Ctx<'_>, pairs: &[[&[u8]; 2]]) -> Result<(), Error> {
    for [key, value] in pairs {
        ctx.db.set_string(key, value, Expiry::Never, false)?;
    }
    Ok(())
}

// --- numbers ---------------------------------------------------------------------------------

fn incr(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    add(ctx, args[1], 1)
}

fn decr(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    add(ctx, args[1], -1)
}

fn incrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    add(ctx, args[1], int(args[2])?)
}

fn decrby(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let decrement = int(args[2])?;
    let increment = decrement.checked_neg().ok_or(Error::text("ERR decrement would overflow"))?;
    add(ctx, args[1], increment)
}

fn add(ctx: &mut Ctx<'_>, key: &[u8], increment: i64) -> Result<(), Error> {
    let old = match ctx.db.string(key)? {
        Some(value) => int(value)?,
        None => 0,
    };
    let new = old
        .checked_add(increment)
        .ok_or(Error::text("ERR increment or decrement would overflow"))?;
    let mut room = [0; 20];
    ctx.db.set_string(key, decimal(new, &mut room), Expiry::Keep, false)?;
    ctx.reply.int(new);
    Ok(())
}

/// The decimal digits of `value`, written to the end of `room`.
fn decimal(value: i64, room: &mut [u8; 20]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        room[at] = b'-';
    }
    &room[at..]
}

fn incrbyfloat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let old = match ctx.db.string(args[1])? {
        Some(value) => LongDouble::parse(value).ok_or(Error::NotFloat)?,
        None => LongDouble::ZERO,
    };
    let increment = LongDouble::parse(args[2]).ok_or(Error::NotFloat)?;
    let sum = old
        .add(increment)
        .ok_or(Error::text("ERR increment would produce NaN or Infinity"))?
        .to_string();
    ctx.db.set_string(args[1], sum.as_bytes(), Expiry::Keep, false)?;
    ctx.reply.bulk(sum.as_bytes());
    Ok(())
}

// --- parts -----------------------------------------------------------------------------------

fn append(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (key, suffix) = (args[1], args[2]);
    let Some(len) = ctx.db.string(key)?.map(<[u8]>::len) else {
        ctx.db.set_string(key, suffix, Expiry::Never, false)?;
        ctx.reply.int(suffix.len() as i64);
        return Ok(());
    };
    check_len(ctx, len as u64, suffix.len())?;
    ctx.db.patch_string(key, len, suffix)?;
    ctx.reply.int((len + suffix.len()) as i64);
    Ok(())
}

fn strlen(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let len = ctx.db.string(args[1])?.map_or(0, <[u8]>::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (key, data) = (args[1], args[3]);
    let offset =
        u64::try_from(int(args[2])?).map_err(|_| Error::text("ERR offset is out of range"))?;
    let len = ctx.db.string(key)?.map_or(0, <[u8]>::len);
    if data.is_empty() {
        ctx.reply.int(len as i64);
        return Ok(());
    }
    check_len(ctx, offset, data.len())?;
    let offset = usize::try_from(offset).expect("the offset is within the limit on strings");
    ctx.db.patch_string(key, offset, data)?;
    ctx.reply.int(len.max(offset + data.len()) as i64);
    Ok(())
}

/// Refuses a string of `offset` and `len` more bytes where that is too long.
fn check_len(ctx: &Ctx<'_>, offset: u64, len: usize) -> Result<(), Error> {
    if offset.saturating_add(len as u64) > ctx.settings.proto_max_bulk_len as u64 {
        return Err(Error::TooLong);
    }
    Ok(())
}

fn getrange(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (start, end) = (int(args[2])?, int(args[3])?);
    let value = ctx.db.string(args[1])?.unwrap_or_default();
    ctx.reply.bulk(match inclusive_range(start, end, value.len() as u64) {
        Some((from, to)) => &value[from as usize..=to as usize],
        None => b"",
    });
    Ok(())
}

/// Resolves a range whose ends may count from the end, both inclusive, within `len` units; `None`
/// if nothing is in it. Ends before the first unit mean the first unit, except that two ends in
/// the wrong order are an empty range even there.
pub(super) fn inclusive_range(start: i64, end: i64, len: u64) -> Option<(u64, u64)> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    clamped_range(start, end, len)
}

/// The same without the exception.
pub(super) fn clamped_range(start: i64, end: i64, len: u64) -> Option<(u64, u64)> {
    let resolve = |position: i64| {
        if position < 0 {
            len.saturating_sub(position.unsigned_abs())
        } else {
            position.unsigned_abs()
        }
    };
    let (from, to) = (resolve(start), resolve(end).min(len.checked_sub(1)?));
    (from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[test]
    fn set_replies_as_its_options_ask() {
        let mut h = Harness::new(4);
        h.check("SET k 1 NX", "+OK|");
        h.check("SET k 2 NX", "$-1|");
        h.check("SET k 2 NX GET", "$1|1|");
        h.check("SET k 2 XX GET", "$1|1|");
        h.check("SET absent 2 XX GET", "$-1|");
        h.check("GET absent", "$-1|");
        h.check("SET k 3 NX XX", "-ERR syntax error|");
        h.check("SET k 3 EX 10 KEEPTTL", "-ERR syntax error|");
        h.check("SET k 3 EX 10 PX 10", "-ERR syntax error|");
        h.check("SET k 3 EX 10 EX 20", "+OK|");
        h.check("SET k 3 EX", "-ERR syntax error|");
        h.check("SET k 3 EX x", "-ERR value is not an integer or out of range|");
        h.check("SET k 3 PX 0", "-ERR invalid expire time in 'set' command|");
        h.check("SET k 3 EX 9223372036854775807", "-ERR invalid expire time in 'set' command|");
    }

    #[test]
    fn lifetimes_end() {
        let mut h = Harness::new(4);
        h.check("SET k v PX 100", "+OK|");
        h.check("SET k w KEEPTTL", "+OK|");
        h.check("INCRBY n 5", ":5|");
        h.check("GETEX n EX 1", "$1|5|");
        h.check("INCR n", ":6|");
        h.now += 100;
        h.check("MGET k n", "*2|$-1|$1|6|");
        h.check("GETEX n PERSIST", "$1|6|");
        h.now += 10_000;
        h.check("GET n", "$1|6|");
        h.check("SET n 1 PXAT 1", "+OK|");
        h.check("GET n", "$-1|");
    }

    #[test]
    fn numbers_stay_in_range() {
        let mut h = Harness::new(4);
        h.check("SET n 9223372036854775807", "+OK|");
        h.check("INCR n", "-ERR increment or decrement would overflow|");
        h.check("DECRBY n -9223372036854775808", "-ERR decrement would overflow|");
        h.check("DECRBY n 9223372036854775807", ":0|");
        h.check("DECRBY n 9223372036854775807", ":-9223372036854775807|");
        h.check("DECR n", ":-9223372036854775808|");
        h.check("GET n", "$20|-9223372036854775808|");
        h.check("INCRBYFLOAT f 10.5", "$4|10.5|");
        h.check("INCRBYFLOAT f 0.1", "$4|10.6|");
        h.check("INCRBYFLOAT f 5.0e3", "$22|5010.60000000000000009|");
        h.check("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity|");
        h.check("INCRBYFLOAT f nan", "-ERR value is not a valid float|");
    }

    #[test]
    fn parts_follow_redis() {
        let mut h = Harness::new(4);
        h.check("APPEND s Hello", ":5|");
        h.check("APPEND s !", ":6|");
        h.check("SETRANGE s 8 x", ":9|");
        h.check("GETRANGE s -4 -1", "$4|!\0\0x|");
        h.check("GETRANGE s -1 -4", "$0||");
        h.check("SUBSTR s 0 4", "$5|Hello|");
        h.check("SETRANGE s -1 x", "-ERR offset is out of range|");
        h.check("SETRANGE absent 3 \0", ":4|");
        h.check(
            "SETRANGE s 536870911 xx",
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)|",
        );
        h.check("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command|");
        h.check("MSETNX a 1 s 2", ":0|");
        h.check("MSETNX a 1 b 2", ":1|");
    }

    /// Strings, bitmaps and HyperLogLogs share keys here, so that each meets what the others made.
    #[test]
    fn replicas_follow() {
        let templates = [
            "SET K V",
            "SET K V PX 20",
            "SET K V KEEPTTL GET",
            "SETRANGE K % V",
            "APPEND K V",
            "GETEX K PX 30",
            "GETEX K PERSIST",
            "GETDEL K",
            "INCRBY K %",
            "INCRBYFLOAT K %.5",
            "MSET K V K V",
            "MSETNX K V K V",
            "SETBIT K % 1",
            "BITOP XOR K K K",
            "BITOP NOT K K",
            "BITFIELD K SET u7 % 99 OVERFLOW FAIL INCRBY i9 #3 200",
            "PFADD K V %",
            "PFADD h % V",
            "PFCOUNT h",
            "PFMERGE K h",
        ];
        let mut prng = quorate_base::Prng::new(11);
        let mut h = Harness::with_replica(4);
        for round in 0..4000 {
            let template = templates[prng.below(templates.len() as u64) as usize];
            let words = template.split(' ').map(|word| match word {
                "K" => format!("k{}", prng.below(4)),
                "V" => "v".repeat(prng.below(60) as usize),
                _ => word.replace('%', &prng.below(100).to_string()),
            });
            let words: Vec<String> = words.collect();
            let args: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            let reply = h.run_args(&args);
            assert!(!reply.starts_with(b"-ERR unknown"), "{words:?}");
            h.now += prng.below(5);
            if round % 16 == 0 {
                h.check_replica();
            }
        }
    }
}
