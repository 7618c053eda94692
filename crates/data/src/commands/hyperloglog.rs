//! HyperLogLogs: strings in Redis' own format (see `registers.rs`), byte for byte.
//!
//! PFCOUNT of one key stores the count in the string's header, as in Redis: a read that records a
//! change.

use crate::command::{Ctx, EVERY, FIRST, Spec, flag};
use crate::error::Error;
use crate::keyspace::Expiry;
use registers::{CACHE, HEADER_BYTES, Registers};
use smallvec::SmallVec;

mod registers;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec {
        name: "pfadd",
        arity: -2,
        flags: flag::WRITE | flag::DENYOOM | flag::FAST,
        keys: FIRST,
        run: pfadd,
    },
    Spec { name: "pfcount", arity: -2, flags: flag::READONLY, keys: EVERY, run: pfcount },
    Spec {
        name: "pfmerge",
        arity: -2,
        flags: flag::WRITE | flag::DENYOOM,
        keys: EVERY,
        run: pfmerge,
    },
];

/// The HyperLogLog at `key`, whose header has been checked.
fn hyperloglog<'a>(ctx: &'a mut Ctx<'_>, key: &[u8]) -> Result<Option<&'a [u8]>, Error> {
    let Some(value) = ctx.db.string(key)? else { return Ok(None) };
    if !registers::is_hyperloglog(value) {
        return Err(Error::text("WRONGTYPE Key is not a valid HyperLogLog string value."));
    }
    Ok(Some(value))
}

fn pfadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (key, elements) = (args[1], &args[2..]);
    let sparse_bytes_max = ctx.settings.hll_sparse_max_bytes;
    let (mut value, created) = match hyperloglog(ctx, key)? {
        Some(value) if registers::is_dense(value) => return add_dense(ctx, key, elements),
        Some(value) => (value.to_vec(), false),
        None => (registers::empty(), true),
    };
    let mut changed = created;
    for element in elements {
        let (register, count) = registers::observe(element);
        changed |= registers::raise(&mut value, register, count, sparse_bytes_max)?;
    }
    if changed {
        registers::forget_count(&mut value);
        ctx.db.set_string(key, &value, Expiry::Keep, true)?;
    }
    ctx.reply.int(i64::from(changed));
    Ok(())
}

/// Patches the few bytes that change of the 12 KiB of a dense HyperLogLog.
fn add_dense(ctx: &mut Ctx<'_>, key: &[u8], elements: &[&[u8]]) -> Result<(), Error> {
    let value = ctx.db.string(key)?.expect("the caller looked the key up");
    let cached = registers::cached_count(value).is_some();
    let raised: SmallVec<[(usize, u8); 8]> = elements
        .iter()
        .map(|element| registers::observe(element))
        .filter(|&(register, count)| registers::dense_register(value, register) < count)
        .collect();
    for &(register, count) in &raised {
        let value = ctx.db.string(key)?.expect("the caller looked the key up");
        if let Some((at, bytes)) = registers::dense_patch(value, register, count) {
            ctx.db.patch_string(key, at, &bytes)?;
        }
    }
    if cached && !raised.is_empty() {
        let value = ctx.db.string(key)?.expect("the caller looked the key up");
        let mut header: [u8; HEADER_BYTES] =
            *value.first_chunk().expect("a HyperLogLog has a header");
        registers::forget_count(&mut header);
        ctx.db.patch_string(key, CACHE.start, &header[CACHE])?;
    }
    ctx.reply.int(i64::from(!raised.is_empty()));
    Ok(())
}

fn pfcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    if let [_, key] = *args {
        return count_one(ctx, key);
    }
    let mut union = Registers::default();
    for key in &args[1..] {
        if let Some(value) = hyperloglog(ctx, key)? {
            union.merge(value)?;
        }
    }
    ctx.reply.int(union.count() as i64);
    Ok(())
}

fn count_one(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<(), Error> {
    let Some(value) = hyperloglog(ctx, key)? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let count = match registers::cached_count(value) {
        Some(count) => count,
        None => {
            let mut own = Registers::default();
            own.merge(value)?;
            let count = own.count();
            if ctx.settings.records_counts {
                ctx.db.patch_string(key, CACHE.start, &count.to_le_bytes())?;
            }
            count
        }
    };
    ctx.reply.int(count as i64);
    Ok(())
}

fn pfmerge(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let target = args[1];
    let mut union = Registers::default();
    let mut any_dense = false;
    for key in &args[1..] {
        if let Some(value) = hyperloglog(ctx, key)? {
            any_dense |= registers::is_dense(value);
            union.merge(value)?;
        }
    }
    let mut merged = match hyperloglog(ctx, target)? {
        Some(value) => value.to_vec(),
        None => registers::empty(),
    };
    if any_dense {
        registers::make_dense(&mut merged)?;
    }
    let sparse_bytes_max = ctx.settings.hll_sparse_max_bytes;
    for (register, count) in union.nonzero() {
        registers::raise(&mut merged, register, count, sparse_bytes_max)?;
    }
    registers::forget_count(&mut merged);
    ctx.db.set_string(target, &merged, Expiry::Keep, true)?;
    ctx.reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    fn get(h: &mut Harness, key: &str) -> Vec<u8> {
        let reply = h.run_args(&[b"GET", key.as_bytes()]);
        let head = reply.iter().position(|&b| b == b'\n').expect("a bulk string") + 1;
        reply[head..reply.len() - 2].to_vec()
    }

    #[test]
    fn the_bytes_are_those_of_redis() {
        let mut h = Harness::new(4);
        h.check("PFADD k", ":1|");
        assert_eq!(get(&mut h, "k"), b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x7f\xff");
        h.check("PFADD k a b c", ":1|");
        h.check("PFADD k a", ":0|");
        h.check("PFCOUNT k", ":3|");
        assert_eq!(
            get(&mut h, "k"),
            b"HYLL\x01\0\0\0\x03\0\0\0\0\0\0\0\x60\xf3\x80\x50\xb1\x84\x4b\xfb\x80\x42\x5a"
                .as_slice()
        );
    }

    #[test]
    fn counts_stay_close_when_the_string_becomes_dense() {
        let mut h = Harness::new(4);
        for i in 0..20_000 {
            let element = format!("element:{i}");
            h.run_args(&[b"PFADD", b"k", element.as_bytes()]);
        }
        assert_eq!(get(&mut h, "k").len(), 12_304);
        let reply = h.run("PFCOUNT k");
        let count: f64 = reply[1..reply.len() - 1].parse().expect("a count");
        assert!((count / 20_000.0 - 1.0).abs() < 0.03, "{count}");
        h.check("PFMERGE d k", "+OK|");
        assert_eq!(h.run("PFCOUNT d"), reply);
        assert_eq!(h.run("PFCOUNT d k"), reply);
    }

    #[test]
    fn other_strings_are_refused() {
        let mut h = Harness::new(4);
        h.check("SET s HYLL", "+OK|");
        let refused = "-WRONGTYPE Key is not a valid HyperLogLog string value.|";
        h.check("PFADD s a", refused);
        h.check("PFCOUNT s", refused);
        h.check("PFCOUNT absent s", refused);
        h.check("PFMERGE d s", refused);
        h.run_args(&[b"SET", b"s", b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80\x7f\xfe"]);
        let corrupted = "-INVALIDOBJ Corrupted HLL object detected|";
        h.check("PFCOUNT s", corrupted);
        h.check("PFMERGE d s", corrupted);
        h.check("GET d", "$-1|");
    }
}
