//! `struct`, with the behaviour of Roberto Ierusalimschy's struct 0.2, which Redis carries.
//!
//! ```text
//! > <  big, little endian      ! [n]  alignment        x  one byte of padding
//! b B h H l L T  integers      i I [n]  integers of n bytes
//! f d  floats                  s  string and a zero byte
//! c [n]  n bytes; 0: all of the string, when reading as many as the number read before
//! ```

use crate::Shared;
use crate::raise::{self, Args};
use mlua::{Lua, LuaString, MultiValue, Table, Value};
use std::rc::Rc;

/// The longest integer, bytes.
const INTEGER_BYTES_MAX: usize = 32;

/// What `!` without a number aligns to.
const ALIGN_DEFAULT: usize = 8;

/// The library.
pub(crate) fn library(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    table.set("pack", lua.create_function(move |lua, args| pack(lua, &own, args))?)?;
    let own = Rc::clone(shared);
    table.set("unpack", lua.create_function(move |lua, args| unpack(lua, &own, args))?)?;
    table.set("size", lua.create_function(size)?)?;
    Ok(table)
}

/// One item of a format.
struct Item {
    option: u8,
    bytes: usize,
    /// Padding in front of it.
    padding: usize,
}

struct Format<'a> {
    args: &'a Args<'a>,
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    little: bool,
    align: usize,
    shared: Option<&'a Shared>,
}

impl<'a> Format<'a> {
    /// A format ends with its first zero byte.
    fn new(lua: &'a Lua, args: &'a Args<'a>, text: &'a [u8], shared: Option<&'a Shared>) -> Self {
        let text = text.split(|&b| b == 0).next().unwrap_or_default();
        Self { args, lua, text, at: 0, little: true, align: 1, shared }
    }

    fn number(&mut self, default: usize) -> mlua::Result<usize> {
        let start = self.at;
        let mut number = 0usize;
        while let Some(digit) = self.text.get(self.at).filter(|b| b.is_ascii_digit()) {
            let next = number.checked_mul(10).and_then(|n| n.checked_add((digit - b'0').into()));
            number = next
                .filter(|n| i32::try_from(*n).is_ok())
                .ok_or_else(|| raise::error(self.lua, "integral size overflow"))?;
            self.at += 1;
        }
        Ok(if self.at == start { default } else { number })
    }

    /// The next item that is not about the format itself; `total` bytes came before it.
    fn next(&mut self, total: usize) -> mlua::Result<Option<Item>> {
        while let Some(&option) = self.text.get(self.at) {
            self.at += 1;
            if let Some(shared) = self.shared {
                shared.meter.charge(1)?;
            }
            let bytes = match option {
                b' ' => continue,
                b'>' => {
                    self.little = false;
                    continue;
                }
                b'<' => {
                    self.little = true;
                    continue;
                }
                b'!' => {
                    let align = self.number(ALIGN_DEFAULT)?;
                    if !align.is_power_of_two() {
                        let text = format!("alignment {align} is not a power of 2");
                        return Err(raise::error(self.lua, text));
                    }
                    self.align = align;
                    continue;
                }
                b'b' | b'B' | b'x' => 1,
                b'h' | b'H' => 2,
                b'f' => 4,
                b'l' | b'L' | b'T' | b'd' => 8,
                b's' => 0,
                b'c' => self.number(1)?,
                b'i' | b'I' => {
                    let bytes = self.number(4)?;
                    if bytes > INTEGER_BYTES_MAX {
                        let text = format!(
                            "integral size {bytes} is larger than limit of {INTEGER_BYTES_MAX}"
                        );
                        return Err(raise::error(self.lua, text));
                    }
                    bytes
                }
                other => {
                    let text = format!("invalid format option '{}'", char::from(other));
                    return Err(self.args.bad(0, &text));
                }
            };
            let step = if option == b'c' { 0 } else { bytes.min(self.align) };
            let padding = if step == 0 { 0 } else { (step - (total & (step - 1))) & (step - 1) };
            return Ok(Some(Item { option, bytes, padding }));
        }
        Ok(None)
    }
}

fn in_order(mut bytes: Vec<u8>, little: bool) -> Vec<u8> {
    if !little {
        bytes.reverse();
    }
    bytes
}

fn pack(lua: &Lua, shared: &Shared, args: MultiValue) -> mlua::Result<LuaString> {
    let args = Args::new(lua, "pack", args);
    let text = args.string(0)?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, &args, &text, Some(shared));
    let (mut out, mut at) = (Vec::new(), 1);
    while let Some(item) = format.next(out.len())? {
        shared.check_bytes(out.len() + item.bytes)?;
        out.resize(out.len() + item.padding, 0);
        match item.option {
            b'x' => out.push(0),
            b'f' => {
                let bytes = (args.number(at)? as f32).to_le_bytes().to_vec();
                out.extend(in_order(bytes, format.little));
                at += 1;
            }
            b'd' => {
                let bytes = args.number(at)?.to_le_bytes().to_vec();
                out.extend(in_order(bytes, format.little));
                at += 1;
            }
            b'c' | b's' => {
                let string = args.string(at)?;
                let string = string.as_bytes();
                at += 1;
                let len = if item.bytes == 0 { string.len() } else { item.bytes };
                if string.len() < len {
                    return Err(args.bad(at, "string too short"));
                }
                out.extend_from_slice(&string[..len]);
                if item.option == b's' {
                    out.push(0);
                }
            }
            _ => {
                let bytes = integer_bytes(args.number(at)?, item.bytes);
                out.extend(in_order(bytes, format.little));
                at += 1;
            }
        }
    }
    lua.create_string(out)
}

/// An integer, little endian. C takes the bytes of a 64-bit one from a shift that wraps around.
fn integer_bytes(number: f64, bytes: usize) -> Vec<u8> {
    let value = if number < 0.0 { number as i64 as u64 } else { number as u64 };
    (0..bytes).map(|index| if index < 8 { (value >> (8 * index)) as u8 } else { 0 }).collect()
}

fn read_integer(bytes: &[u8], signed: bool) -> f64 {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte) << (8 * index);
    }
    if !signed {
        return value as f64;
    }
    let unused = 64 - 8 * bytes.len().min(8) as u32;
    ((value << (unused % 64)) as i64 >> (unused % 64)) as f64
}

fn unpack(lua: &Lua, shared: &Shared, args: MultiValue) -> mlua::Result<MultiValue> {
    let args = Args::new(lua, "unpack", args);
    let (text, data) = (args.string(0)?, args.string(1)?);
    let (text, data) = (text.as_bytes(), data.as_bytes());
    let start = args.integer_or(2, 1)?;
    if start < 1 {
        return Err(args.bad(2, "offset must be 1 or greater"));
    }
    let mut at = usize::try_from(start - 1).unwrap_or(usize::MAX);
    let mut format = Format::new(lua, &args, &text, Some(shared));
    let mut values = MultiValue::new();
    let short = || args.bad(1, "data string too short");
    while let Some(item) = format.next(at)? {
        at = at.saturating_add(item.padding);
        let rest = data.get(at..).filter(|rest| rest.len() >= item.bytes).ok_or_else(short)?;
        let mut len = item.bytes;
        if values.len() == raise::RESULTS_MAX {
            return Err(raise::error(lua, "too many results to unpack"));
        }
        match item.option {
            b'x' => {}
            b'f' => {
                let bytes = in_order(rest[..4].to_vec(), format.little);
                let bytes = bytes.try_into().expect("it has four bytes");
                values.push_back(Value::Number(f64::from(f32::from_le_bytes(bytes))));
            }
            b'd' => {
                let bytes = in_order(rest[..8].to_vec(), format.little);
                let bytes = bytes.try_into().expect("it has eight bytes");
                values.push_back(Value::Number(f64::from_le_bytes(bytes)));
            }
            b'c' => {
                if len == 0 {
                    let before = values.pop_back().map(|value| lua.coerce_number(value));
                    let Some(before) = before.transpose()?.flatten() else {
                        return Err(raise::error(lua, "format 'c0' needs a previous size"));
                    };
                    len = before as usize;
                }
                let string = rest.get(..len).ok_or_else(short)?;
                values.push_back(Value::String(lua.create_string(string)?));
            }
            b's' => {
                let Some(end) = rest.iter().position(|&b| b == 0) else {
                    return Err(raise::error(lua, "unfinished string in data"));
                };
                values.push_back(Value::String(lua.create_string(&rest[..end])?));
                len = end + 1;
            }
            option => {
                let bytes = in_order(rest[..len].to_vec(), format.little);
                let number = read_integer(&bytes, option.is_ascii_lowercase());
                values.push_back(Value::Number(number));
            }
        }
        at += len;
    }
    values.push_back(Value::Integer(at as i64 + 1));
    Ok(values)
}

fn size(lua: &Lua, args: MultiValue) -> mlua::Result<i64> {
    let args = Args::new(lua, "size", args);
    let text = args.string(0)?;
    let text = text.as_bytes();
    let mut format = Format::new(lua, &args, &text, None);
    let mut total = 0usize;
    while let Some(item) = format.next(total)? {
        if item.option == b's' {
            return Err(args.bad(0, "option 's' has no fixed size"));
        }
        if item.option == b'c' && item.bytes == 0 {
            return Err(args.bad(0, "option 'c0' has no fixed size"));
        }
        total = total.saturating_add(item.padding + item.bytes);
    }
    Ok(total as i64)
}
