//! BITFIELD: integers of any width at any bit.

use crate::command::Ctx;
use crate::commands::bitmap::bit_offset;
use crate::error::Error;
use crate::parse::{int, integer, is_word};
use smallvec::SmallVec;

/// An integer of at most 64 bits touches at most so many bytes.
const WINDOW_BYTES: usize = 9;

/// Where a field is and how it is read.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    bits: u32,
    offset: u64,
}

#[derive(Clone, Copy)]
enum Operation {
    Get,
    Set(i64),
    Increment(i64),
}

/// What happens to a value that does not fit its field.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

struct Step {
    field: Field,
    operation: Operation,
    overflow: Overflow,
}

pub(super) fn bitfield(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let (key, steps) = (args[1], parse(ctx, &args[2..])?);
    let len = ctx.db.string(key)?.map_or(0, <[u8]>::len);
    // The string grows to hold all fields before any is written, though all of them may fail.
    let needed = steps.iter().filter(|step| step.operation.writes()).map(Step::end_byte).max();
    if let Some(needed) = needed.filter(|&needed| needed > len) {
        ctx.db.patch_string(key, needed, &[])?;
    }
    ctx.reply.array(steps.len());
    for step in &steps {
        match execute(ctx, key, step)? {
            Some(value) => ctx.reply.int(value),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

pub(super) fn read_only(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let steps = parse(ctx, &args[2..])?;
    if steps.iter().any(|step| step.operation.writes()) {
        return Err(Error::text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let value = ctx.db.string(args[1])?.unwrap_or_default();
    ctx.reply.array(steps.len());
    for step in &steps {
        ctx.reply.int(step.field.read(value) as i64);
    }
    Ok(())
}

/// What the step replies; null where it failed.
fn execute(ctx: &mut Ctx<'_>, key: &[u8], step: &Step) -> Result<Option<i64>, Error> {
    let field = step.field;
    let value = ctx.db.string(key)?.unwrap_or_default();
    let old = field.read(value);
    let wanted = match step.operation {
        Operation::Get => return Ok(Some(old as i64)),
        // An unsigned field takes the bits of a negative number.
        Operation::Set(new) if !field.signed => i128::from(new as u64),
        Operation::Set(new) => i128::from(new),
        Operation::Increment(increment) => old + i128::from(increment),
    };
    let Some(new) = field.fit(wanted, step.overflow) else { return Ok(None) };
    if new != old {
        let first = (field.offset / 8) as usize;
        let mut window = [0; WINDOW_BYTES];
        let window = &mut window[..step.end_byte() - first];
        window.copy_from_slice(&value[first..step.end_byte()]);
        field.write(window, new);
        ctx.db.patch_string(key, first, window)?;
    }
    Ok(Some(if matches!(step.operation, Operation::Set(_)) { old } else { new } as i64))
}

fn parse(ctx: &Ctx<'_>, words: &[&[u8]]) -> Result<SmallVec<[Step; 4]>, Error> {
    let mut steps = SmallVec::new();
    let mut overflow = Overflow::Wrap;
    let mut words = words;
    while let [word, rest @ ..] = words {
        words = match rest {
            [mode, after @ ..] if is_word(word, "OVERFLOW") => {
                overflow = Overflow::parse(mode)?;
                after
            }
            [field, offset, after @ ..] if is_word(word, "GET") => {
                let field = Field::parse(ctx, field, offset)?;
                steps.push(Step { field, operation: Operation::Get, overflow });
                after
            }
            [field, offset, number, after @ ..] => {
                let operation = if is_word(word, "SET") {
                    Operation::Set
                } else if is_word(word, "INCRBY") {
                    Operation::Increment
                } else {
                    return Err(Error::Syntax);
                };
                let field = Field::parse(ctx, field, offset)?;
                steps.push(Step { field, operation: operation(int(number)?), overflow });
                after
            }
            _ => return Err(Error::Syntax),
        };
    }
    Ok(steps)
}

impl Step {
    /// The first byte after the field.
    fn end_byte(&self) -> usize {
        (self.field.offset + u64::from(self.field.bits)).div_ceil(8) as usize
    }
}

impl Operation {
    fn writes(self) -> bool {
        !matches!(self, Self::Get)
    }
}

impl Overflow {
    fn parse(word: &[u8]) -> Result<Self, Error> {
        [("WRAP", Self::Wrap), ("SAT", Self::Saturate), ("FAIL", Self::Fail)]
            .into_iter()
            .find_map(|(name, mode)| is_word(word, name).then_some(mode))
            .ok_or(Error::text("ERR Invalid OVERFLOW type specified"))
    }
}

impl Field {
    fn parse(ctx: &Ctx<'_>, kind: &[u8], offset: &[u8]) -> Result<Self, Error> {
        let parsed = match kind {
            [b'i', bits @ ..] => integer(bits).filter(|bits| (1..=64).contains(bits)),
            [b'u', bits @ ..] => integer(bits).filter(|bits| (1..=63).contains(bits)),
            _ => None,
        };
        let bits = parsed.ok_or(Error::text(
            "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
             supported but i64 is.",
        ))? as u32;
        Ok(Self { signed: kind[0] == b'i', bits, offset: bit_offset(ctx, offset, Some(bits))? })
    }

    /// The value in `bytes`, which go on with zeros.
    fn read(self, bytes: &[u8]) -> i128 {
        let first = (self.offset / 8).min(bytes.len() as u64) as usize;
        let mut window = [0; 16];
        let present = &bytes[first..bytes.len().min(first + WINDOW_BYTES)];
        window[..present.len()].copy_from_slice(present);
        // The field's highest bit moves to the top; shifting back extends the sign.
        let top = u128::from_be_bytes(window) << (self.offset % 8);
        if self.signed {
            top as i128 >> (128 - self.bits)
        } else {
            (top >> (128 - self.bits)) as i128
        }
    }

    /// Writes `value` into `window`, which begins with the byte of the field's first bit.
    fn write(self, window: &mut [u8], value: i128) {
        let mut wide = [0; 16];
        wide[..window.len()].copy_from_slice(window);
        let shift = 128 - self.bits - (self.offset % 8) as u32;
        let mask = (1u128 << self.bits) - 1;
        let kept = u128::from_be_bytes(wide) & !(mask << shift);
        let wide = (kept | (value as u128 & mask) << shift).to_be_bytes();
        window.copy_from_slice(&wide[..window.len()]);
    }

    /// `value` made to fit; `None` if it does not and the mode is FAIL. SAT takes the nearer end
    /// always (Redis takes the far one for a SET to less than the field's maximum minus 2^63 - 1,
    /// by an overflow of its own).
    fn fit(self, value: i128, overflow: Overflow) -> Option<i128> {
        let (least, most) = if self.signed {
            (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1i128 << self.bits) - 1)
        };
        if (least..=most).contains(&value) {
            return Some(value);
        }
        match overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(value.clamp(least, most)),
            Overflow::Wrap if self.signed => Some(value << (128 - self.bits) >> (128 - self.bits)),
            Overflow::Wrap => Some(value & most),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[test]
    fn fields_overflow_as_asked() {
        let mut h = Harness::new(4);
        h.check("BITFIELD k INCRBY i5 100 1 GET u4 0", "*2|:1|:0|");
        h.check("BITFIELD k SET u8 #1 255", "*1|:0|");
        h.check("BITFIELD k INCRBY u8 #1 1", "*1|:0|");
        h.check("BITFIELD k OVERFLOW SAT INCRBY u8 #1 300", "*1|:255|");
        h.check("BITFIELD k OVERFLOW FAIL INCRBY u8 #1 1", "*1|$-1|");
        h.check("BITFIELD wide SET i64 3 -1 GET i64 3 GET u4 0", "*3|:0|:-1|:1|");
        h.check("BITFIELD k OVERFLOW SAT SET i8 0 200", "*1|:0|");
        h.check("BITFIELD k GET i8 0", "*1|:127|");
        h.check("BITFIELD k", "*0|");
    }

    #[test]
    fn errors_follow_redis() {
        let mut h = Harness::new(4);
        let kind = "-ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
                    supported but i64 is.|";
        h.check("BITFIELD k GET u64 0", kind);
        h.check("BITFIELD k GET x8 0", kind);
        h.check("BITFIELD k GET u8", "-ERR syntax error|");
        h.check("BITFIELD k OVERFLOW x", "-ERR Invalid OVERFLOW type specified|");
        h.check("BITFIELD_RO k SET u8 0 1", "-ERR BITFIELD_RO only supports the GET subcommand|");
        h.check("GET k", "$-1|");
    }

    #[test]
    fn failed_writes_grow_the_string_all_the_same() {
        let mut h = Harness::new(4);
        h.check("BITFIELD k OVERFLOW FAIL SET u8 8 256", "*1|$-1|");
        h.check("GET k", "$2|\0\0|");
    }
}
