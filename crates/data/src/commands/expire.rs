//! Expiry of keys: setting, asking and clearing it.

use crate::command::{Ctx, FIRST, Spec, flag};
use crate::error::Error;
use crate::parse;

const CHANGE: u32 = flag::WRITE | flag::FAST;
const READ: u32 = flag::READONLY | flag::FAST;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "expire", arity: -3, flags: CHANGE, keys: FIRST, run: expire },
    Spec { name: "pexpire", arity: -3, flags: CHANGE, keys: FIRST, run: pexpire },
    Spec { name: "expireat", arity: -3, flags: CHANGE, keys: FIRST, run: expireat },
    Spec { name: "pexpireat", arity: -3, flags: CHANGE, keys: FIRST, run: pexpireat },
    Spec { name: "ttl", arity: 2, flags: READ, keys: FIRST, run: ttl },
    Spec { name: "pttl", arity: 2, flags: READ, keys: FIRST, run: pttl },
    Spec { name: "expiretime", arity: 2, flags: READ, keys: FIRST, run: expiretime },
    Spec { name: "pexpiretime", arity: 2, flags: READ, keys: FIRST, run: pexpiretime },
    Spec { name: "persist", arity: 2, flags: CHANGE, keys: FIRST, run: persist },
];

/// Milliseconds in the unit of a command.
const SECONDS: i64 = 1000;
const MILLIS: i64 = 1;

fn expire(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set(ctx, args, "expire", ctx.now as i64, SECONDS)
}

fn pexpire(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set(ctx, args, "pexpire", ctx.now as i64, MILLIS)
}

fn expireat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set(ctx, args, "expireat", 0, SECONDS)
}

fn pexpireat(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    set(ctx, args, "pexpireat", 0, MILLIS)
}

/// NX, XX, GT and LT.
#[derive(Default)]
struct Conditions {
    absent: bool,
    present: bool,
    later: bool,
    sooner: bool,
}

impl Conditions {
    fn parse(args: &[&[u8]]) -> Result<Self, Error> {
        let mut it = Self::default();
        for arg in args {
            match () {
                () if parse::is_word(arg, "nx") => it.absent = true,
                () if parse::is_word(arg, "xx") => it.present = true,
                () if parse::is_word(arg, "gt") => it.later = true,
                () if parse::is_word(arg, "lt") => it.sooner = true,
                () => {
                    let option = String::from_utf8_lossy(arg);
                    return Err(Error::owned(format!("ERR Unsupported option {option}")));
                }
            }
        }
        if it.absent && (it.present || it.later || it.sooner) {
            return Err(Error::text(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if it.later && it.sooner {
            return Err(Error::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(it)
    }

    /// A key that does not expire counts as one that expires at the end of time.
    fn allow(&self, current: Option<i64>, at: i64) -> bool {
        !(self.absent && current.is_some()
            || self.present && current.is_none()
            || self.later && current.is_none_or(|current| at <= current)
            || self.sooner && current.is_some_and(|current| at >= current))
    }
}

fn set(ctx: &mut Ctx<'_>, args: &[&[u8]], name: &str, base: i64, unit: i64) -> Result<(), Error> {
    let conditions = Conditions::parse(&args[3..])?;
    let at = parse::int(args[2])?
        .checked_mul(unit)
        .and_then(|ms| ms.checked_add(base))
        .ok_or_else(|| Error::owned(format!("ERR invalid expire time in '{name}' command")))?;
    let Some(entry) = ctx.db.entry(args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let allowed = conditions.allow(entry.expiry().map(|ms| ms as i64), at);
    if allowed {
        // A time before 1970 has passed like any other.
        ctx.db.set_expiry(args[1], Some(at.max(0) as u64))?;
    }
    ctx.reply.int(i64::from(allowed));
    Ok(())
}

fn ttl(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let now = ctx.now as i64;
    ask(ctx, args[1], |at| (at - now + SECONDS / 2) / SECONDS)
}

fn pttl(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let now = ctx.now as i64;
    ask(ctx, args[1], |at| at - now)
}

fn expiretime(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    ask(ctx, args[1], |at| at / SECONDS + i64::from(at % SECONDS >= SECONDS / 2))
}

fn pexpiretime(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    ask(ctx, args[1], |at| at)
}

/// Replies `answer` of the time at which `key` expires, -1 if it never does, -2 without key.
fn ask(ctx: &mut Ctx<'_>, key: &[u8], answer: impl FnOnce(i64) -> i64) -> Result<(), Error> {
    let reply = match ctx.db.entry_untouched(key)? {
        None => -2,
        Some(entry) => entry.expiry().map_or(-1, |at| answer(at as i64)),
    };
    ctx.reply.int(reply);
    Ok(())
}

fn persist(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let expires = ctx.db.entry(args[1])?.is_some_and(|entry| entry.expiry().is_some());
    if expires {
        ctx.db.set_expiry(args[1], None)?;
    }
    ctx.reply.int(i64::from(expires));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[test]
    fn conditions_compare_with_the_expiry_there_is() {
        let mut h = Harness::new(2);
        h.check("SET k v", "+OK|");
        h.check("EXPIRE k 100 XX", ":0|");
        h.check("EXPIRE k 100 GT", ":0|");
        h.check("EXPIRE k 100 LT", ":1|");
        h.check("EXPIRE k 50 NX", ":0|");
        h.check("EXPIRE k 50 GT", ":0|");
        h.check("EXPIRE k 200 XX GT", ":1|");
        h.check("TTL k", ":200|");
        h.check("PERSIST k", ":1|");
        h.check("PERSIST k", ":0|");
        h.check("TTL k", ":-1|");
        h.check("EXPIRE k 1 gt lt", "-ERR GT and LT options at the same time are not compatible|");
        h.check("EXPIRE k x what", "-ERR Unsupported option what|");
    }

    #[test]
    fn keys_are_gone_at_their_time() {
        let mut h = Harness::new(2);
        h.check("SET k v", "+OK|");
        h.check("PEXPIRE k 1500", ":1|");
        h.check("TTL k", ":2|");
        h.now += 1499;
        h.check("PTTL k", ":1|");
        h.now += 1;
        h.check("PTTL k", ":-2|");
        h.check("DBSIZE", ":1|");
        h.check("DEL k", ":0|");
        h.check("DBSIZE", ":0|");
        h.check("SET k v", "+OK|");
        h.check("EXPIRE k -1", ":1|");
        h.check("EXISTS k", ":0|");
        h.check("EXPIRE k 9223372036854775807", "-ERR invalid expire time in 'expire' command|");
    }
}
