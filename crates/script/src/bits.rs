//! `bit`, with the behaviour of Lua BitOp, which Redis carries: numbers are taken modulo 2³² and
//! results are signed.

use crate::raise::Args;
use mlua::{Lua, LuaString, MultiValue, Table};

/// The library.
pub(crate) fn library(lua: &Lua) -> mlua::Result<Table> {
    type Fold = fn(u32, u32) -> u32;
    type Shift = fn(u32, u32) -> u32;
    type Map = fn(u32) -> u32;
    let folds: [(&str, Fold); 3] =
        [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];
    let shifts: [(&str, Shift); 5] = [
        ("lshift", |a, n| a << n),
        ("rshift", |a, n| a >> n),
        ("arshift", |a, n| ((a as i32) >> n) as u32),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ];
    let maps: [(&str, Map); 3] = [("tobit", |a| a), ("bnot", |a| !a), ("bswap", u32::swap_bytes)];
    let table = lua.create_table()?;
    for (name, fold) in folds {
        let function = lua.create_function(move |lua, args| {
            let args = Args::new(lua, name, args);
            let mut value = bits(&args, 0)?;
            for at in 1..args.len() {
                value = fold(value, bits(&args, at)?);
            }
            Ok(value as i32)
        })?;
        table.set(name, function)?;
    }
    for (name, shift) in shifts {
        let function = lua.create_function(move |lua, args| {
            let args = Args::new(lua, name, args);
            let value = bits(&args, 0)?;
            Ok(shift(value, bits(&args, 1)? & 31) as i32)
        })?;
        table.set(name, function)?;
    }
    for (name, map) in maps {
        let function = lua.create_function(move |lua, args| {
            let args = Args::new(lua, name, args);
            Ok(map(bits(&args, 0)?) as i32)
        })?;
        table.set(name, function)?;
    }
    table.set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}

/// A number modulo 2³², rounded as the processor rounds: the sum leaves its low bits in the low
/// bits of the fraction.
fn bits(args: &Args<'_>, at: usize) -> mlua::Result<u32> {
    const SHIFTER: f64 = 6_755_399_441_055_744.0;
    Ok((args.number(at)? + SHIFTER).to_bits() as u32)
}

fn to_hex(lua: &Lua, args: MultiValue) -> mlua::Result<LuaString> {
    let args = Args::new(lua, "tohex", args);
    let value = bits(&args, 0)?;
    let digits = if args.is_none_or_nil(1) { 8 } else { bits(&args, 1)? as i32 };
    let count = digits.unsigned_abs().min(8) as usize;
    let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    lua.create_string(&text[8 - count..])
}
