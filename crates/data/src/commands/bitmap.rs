//! Bitmaps: strings seen as bits. Bit 0 is the highest bit of the first byte.

use crate::command::{Ctx, FIRST, Keys, Spec, flag};
use crate::commands::string::{clamped_range, inclusive_range};
use crate::error::Error;
use crate::keyspace::Expiry;
use crate::parse::{int, integer, is_word};

mod bitfield;

const WRITE: u32 = flag::WRITE | flag::DENYOOM;
const FAST_READ: u32 = flag::READONLY | flag::FAST;

/// BITOP: the destination and the sources.
const FROM_SECOND: Keys = Keys::Range { first: 2, last: -1, step: 1 };

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "setbit", arity: 4, flags: WRITE, keys: FIRST, run: setbit },
    Spec { name: "getbit", arity: 3, flags: FAST_READ, keys: FIRST, run: getbit },
    Spec { name: "bitcount", arity: -2, flags: flag::READONLY, keys: FIRST, run: bitcount },
    Spec { name: "bitpos", arity: -3, flags: flag::READONLY, keys: FIRST, run: bitpos },
    Spec { name: "bitop", arity: -4, flags: WRITE, keys: FROM_SECOND, run: bitop },
    Spec { name: "bitfield", arity: -2, flags: WRITE, keys: FIRST, run: bitfield::bitfield },
    Spec {
        name: "bitfield_ro",
        arity: -2,
        flags: FAST_READ,
        keys: FIRST,
        run: bitfield::read_only,
    },
];

/// A bit's position. With `field_bits` a leading `#` counts in fields of that many bits.
fn bit_offset(ctx: &Ctx<'_>, text: &[u8], field_bits: Option<u32>) -> Result<u64, Error> {
    let offset = match (text, field_bits) {
        ([b'#', number @ ..], Some(bits)) => {
            integer(number).and_then(|n| n.checked_mul(i64::from(bits)))
        }
        _ => integer(text),
    };
    offset
        .and_then(|offset| u64::try_from(offset).ok())
        .filter(|offset| offset / 8 < ctx.settings.proto_max_bulk_len as u64)
        .ok_or(Error::text("ERR bit offset is not an integer or out of range"))
}

fn setbit(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let key = args[1];
    let offset = bit_offset(ctx, args[2], None)?;
    let on = match integer(args[3]) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Error::text("ERR bit is not an integer or out of range")),
    };
    let (at, mask) = ((offset / 8) as usize, 0x80 >> (offset % 8));
    let old = ctx.db.string(key)?.unwrap_or_default().get(at).copied();
    let byte = old.unwrap_or(0);
    let new = if on { byte | mask } else { byte & !mask };
    if old != Some(new) {
        ctx.db.patch_string(key, at, &[new])?;
    }
    ctx.reply.int(i64::from(byte & mask != 0));
    Ok(())
}

fn getbit(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let offset = bit_offset(ctx, args[2], None)?;
    let value = ctx.db.string(args[1])?.unwrap_or_default();
    let byte = value.get((offset / 8) as usize).copied().unwrap_or(0);
    ctx.reply.int(i64::from(byte & 0x80 >> (offset % 8) != 0));
    Ok(())
}

/// True for BIT, false for BYTE.
fn unit_is_bit(word: &[u8]) -> Result<bool, Error> {
    if is_word(word, "BIT") {
        Ok(true)
    } else if is_word(word, "BYTE") {
        Ok(false)
    } else {
        Err(Error::Syntax)
    }
}

/// How a command resolves the ends of a range, see [`inclusive_range`].
type Resolve = fn(i64, i64, u64) -> Option<(u64, u64)>;

/// The first and last bit of a range of bytes or bits of a string of `len` bytes.
fn bit_range(
    resolve: Resolve,
    (start, end): (i64, i64),
    in_bits: bool,
    len: usize,
) -> Option<(u64, u64)> {
    let len = len as u64;
    if in_bits {
        return resolve(start, end, len * 8);
    }
    resolve(start, end, len).map(|(from, to)| (from * 8, to * 8 + 7))
}

fn bitcount(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (start, end, in_bits) = match args.len() {
        2 => (0, -1, false),
        4 => (int(args[2])?, int(args[3])?, false),
        5 => (int(args[2])?, int(args[3])?, unit_is_bit(args[4])?),
        _ => return Err(Error::Syntax),
    };
    let value = ctx.db.string(args[1])?.unwrap_or_default();
    let count = match bit_range(inclusive_range, (start, end), in_bits, value.len()) {
        Some((from, to)) => count_ones(value, from, to),
        None => 0,
    };
    ctx.reply.int(count as i64);
    Ok(())
}

/// The set bits from `from` to `to`, both inclusive and within `bytes`.
fn count_ones(bytes: &[u8], from: u64, to: u64) -> u64 {
    let window = &bytes[(from / 8) as usize..=(to / 8) as usize];
    let (words, rest) = window.as_chunks();
    let whole: u64 = words.iter().map(|w| u64::from(u64::from_ne_bytes(*w).count_ones())).sum();
    let rest: u64 = rest.iter().map(|b| u64::from(b.count_ones())).sum();
    let before = window[0] & !(0xff >> (from % 8));
    let after = window[window.len() - 1] & (0x7f >> (to % 8));
    whole + rest - u64::from(before.count_ones() + after.count_ones())
}

fn bitpos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let bit = int(args[2])?;
    if bit != 0 && bit != 1 {
        return Err(Error::text("ERR The bit argument must be 1 or 0."));
    }
    if args.len() > 6 {
        return Err(Error::Syntax);
    }
    let start = args.get(3).map_or(Ok(0), |arg| int(arg))?;
    let in_bits = args.get(5).map_or(Ok(false), |arg| unit_is_bit(arg))?;
    let end = args.get(4).map(|arg| int(arg)).transpose()?;
    let Some(value) = ctx.db.string(args[1])? else {
        ctx.reply.int(if bit == 1 { -1 } else { 0 });
        return Ok(());
    };
    let position = match bit_range(clamped_range, (start, end.unwrap_or(-1)), in_bits, value.len())
    {
        None => -1,
        Some((from, to)) => match first_bit(value, from, to, bit == 1) {
            Some(position) => position as i64,
            // Without an end, clear bits follow the string.
            None if bit == 0 && end.is_none() => value.len() as i64 * 8,
            None => -1,
        },
    };
    ctx.reply.int(position);
    Ok(())
}

/// The first bit that is `set` (or clear) from `from` to `to`, both inclusive and within `bytes`.
fn first_bit(bytes: &[u8], from: u64, to: u64, set: bool) -> Option<u64> {
    let (first, last) = ((from / 8) as usize, (to / 8) as usize);
    let skipped = if set { 0 } else { 0xff };
    // What is looked for shows as ones.
    let head = (bytes[first] ^ skipped) & (0xff >> (from % 8));
    let found = if head != 0 {
        first
    } else {
        let window = &bytes[first + 1..=last];
        let (words, _) = window.as_chunks::<8>();
        let passed = words.iter().take_while(|word| **word == [skipped; 8]).count() * 8;
        let rest = window[passed..].iter().position(|&b| b != skipped)?;
        first + 1 + passed + rest
    };
    let ones = if found == first { head } else { bytes[found] ^ skipped };
    let position = found as u64 * 8 + u64::from(ones.leading_zeros());
    (position <= to).then_some(position)
}

/// How BITOP combines bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

fn bitop(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let operation = [
        ("AND", Operation::And),
        ("OR", Operation::Or),
        ("XOR", Operation::Xor),
        ("NOT", Operation::Not),
    ]
    .into_iter()
    .find_map(|(name, operation)| is_word(args[1], name).then_some(operation))
    .ok_or(Error::Syntax)?;
    let (target, sources) = (args[2], &args[3..]);
    if operation == Operation::Not && sources.len() != 1 {
        return Err(Error::text("ERR BITOP NOT must be called with a single source key."));
    }
    let mut result = ctx.db.string(sources[0])?.unwrap_or_default().to_vec();
    if operation == Operation::Not {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for source in &sources[1..] {
        combine(&mut result, ctx.db.string(source)?.unwrap_or_default(), operation);
    }
    if result.is_empty() {
        ctx.db.delete(target)?;
    } else {
        ctx.db.set_string(target, &result, Expiry::Never, true)?;
    }
    ctx.reply.int(result.len() as i64);
    Ok(())
}

/// Combines `other` into `result`; the shorter of the two goes on with zeros.
fn combine(result: &mut Vec<u8>, other: &[u8], operation: Operation) {
    if result.len() < other.len() {
        result.resize(other.len(), 0);
    }
    let (common, tail) = result.split_at_mut(other.len());
    let pairs = common.iter_mut().zip(other);
    match operation {
        Operation::And => {
            pairs.for_each(|(a, b)| *a &= b);
            tail.fill(0);
        }
        Operation::Or => pairs.for_each(|(a, b)| *a |= b),
        Operation::Xor => pairs.for_each(|(a, b)| *a ^= b),
        Operation::Not => unreachable!("NOT has one source"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Harness;

    #[test]
    fn counts_and_positions_agree_with_bit_by_bit() {
        let mut prng = quorate_base::Prng::new(3);
        for len in 1..30 {
            let fill = [0, 0xff, 0x10][prng.below(3) as usize];
            let mut bytes = vec![fill; len];
            bytes[prng.below(len as u64) as usize] = prng.next_u64() as u8;
            let bits: Vec<bool> =
                (0..len * 8).map(|i| bytes[i / 8] & 0x80 >> (i % 8) != 0).collect();
            for _ in 0..50 {
                let from = prng.below(bits.len() as u64);
                let to = from + prng.below(bits.len() as u64 - from);
                let range = from as usize..=to as usize;
                let ones = bits[range.clone()].iter().filter(|&&bit| bit).count();
                assert_eq!(count_ones(&bytes, from, to), ones as u64);
                for set in [false, true] {
                    let want = bits[range.clone()].iter().position(|&bit| bit == set);
                    let want = want.map(|at| at as u64 + from);
                    assert_eq!(first_bit(&bytes, from, to, set), want, "{bytes:?} {from} {to}");
                }
            }
        }
    }

    #[test]
    fn clear_bits_follow_a_string_without_an_end() {
        let mut h = Harness::new(4);
        h.run_args(&[b"SET", b"k", b"\xff\xff"]);
        h.check("BITPOS k 0", ":16|");
        h.check("BITPOS k 0 1", ":16|");
        h.check("BITPOS k 0 2", ":-1|");
        h.check("BITPOS k 0 0 -1", ":-1|");
        h.check("BITPOS k 1 -100 -200", ":0|");
        h.check("BITCOUNT k -100 -200", ":0|");
        h.check("BITPOS absent 0", ":0|");
        h.check("BITPOS absent 1", ":-1|");
        h.check("BITPOS k 2", "-ERR The bit argument must be 1 or 0.|");
    }

    #[test]
    fn sources_are_padded_with_zeros() {
        let mut h = Harness::new(4);
        h.check("MSET a abc b a", "+OK|");
        h.check("BITOP AND d a b", ":3|");
        h.check("GET d", "$3|a\0\0|");
        h.check("BITOP OR d b a", ":3|");
        h.check("GET d", "$3|abc|");
        h.check("BITOP XOR a a a", ":3|");
        h.check("BITCOUNT a", ":0|");
        h.check("BITOP NOT a absent", ":0|");
        h.check("GET a", "$-1|");
        h.check("BITOP NOT d a b", "-ERR BITOP NOT must be called with a single source key.|");
    }

    #[test]
    fn bits_are_set_from_the_high_end() {
        let mut h = Harness::new(4);
        h.check("SETBIT k 1 1", ":0|");
        h.check("SETBIT k 7 1", ":0|");
        h.check("GET k", "$1|A|");
        h.check("SETBIT k 1 0", ":1|");
        h.check("GETBIT k 7", ":1|");
        h.check("GETBIT k 700", ":0|");
        h.check("SETBIT k 4294967296 1", "-ERR bit offset is not an integer or out of range|");
        h.check("SETBIT k 0 2", "-ERR bit is not an integer or out of range|");
    }
}
