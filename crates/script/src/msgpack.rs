//! `cmsgpack`, with the behaviour of lua-cmsgpack 0.4.0, which Redis carries.
//!
//! Written as MessagePack without the binary and extension types, which it cannot read either.

use crate::Shared;
use crate::raise::{self, Args};
use mlua::{Lua, LuaString, MultiValue, Table, Value};
use std::rc::Rc;

/// Tables nested deeper than this are written as nil.
const WRITE_DEPTH_MAX: usize = 16;

/// What is nested deeper than this is refused.
const READ_DEPTH_MAX: usize = 1000;

/// The library.
pub(crate) fn library(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    table.set("pack", lua.create_function(move |lua, args: MultiValue| pack(lua, &own, &args))?)?;
    let own = Rc::clone(shared);
    let unpack_all = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "unpack", args);
        unpack(lua, &own, &args, None, 0)
    })?;
    table.set("unpack", unpack_all)?;
    let own = Rc::clone(shared);
    let unpack_one = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "unpack_one", args);
        let offset = args.integer_or(1, 0)?;
        unpack(lua, &own, &args, Some(1), offset)
    })?;
    table.set("unpack_one", unpack_one)?;
    let own = Rc::clone(shared);
    let unpack_limit = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "unpack_limit", args);
        let (limit, offset) = (args.integer(1)?, args.integer_or(2, 0)?);
        let all = limit == 0 && offset == 0;
        unpack(lua, &own, &args, (!all).then_some(limit), offset)
    })?;
    table.set("unpack_limit", unpack_limit)?;
    table.set("_NAME", "cmsgpack")?;
    table.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    table.set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(table)
}

// --- writing -------------------------------------------------------------------------------------

fn pack(lua: &Lua, shared: &Shared, args: &MultiValue) -> mlua::Result<LuaString> {
    if args.is_empty() {
        let text = "bad argument #0 to 'pack' (MessagePack pack needs input.)";
        return Err(raise::error(lua, text));
    }
    let mut out = Vec::new();
    for value in args {
        write(shared, value, 0, &mut out)?;
    }
    lua.create_string(out)
}

fn write(shared: &Shared, value: &Value, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    shared.meter.charge(1)?;
    shared.check_bytes(out.len())?;
    match value {
        Value::String(text) => write_string(&text.as_bytes(), out),
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(number) => write_integer(*number, out),
        Value::Number(number) => write_number(*number, out),
        Value::Table(table) if depth < WRITE_DEPTH_MAX => write_table(shared, table, depth, out)?,
        _ => out.push(0xc0),
    }
    Ok(())
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..0x100 => out.extend([0xd9, len as u8]),
        len @ 0x100..0x1_0000 => {
            out.push(0xda);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0xdb);
            out.extend((len as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

fn write_integer(number: i64, out: &mut Vec<u8>) {
    match number {
        -32..=127 => out.push(number as u8),
        128..=0xff => out.extend([0xcc, number as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend((number as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend(number.to_be_bytes());
        }
        -0x80..=-33 => out.extend([0xd0, number as u8]),
        -0x8000..=-0x81 => {
            out.push(0xd1);
            out.extend((number as i16).to_be_bytes());
        }
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2);
            out.extend((number as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend(number.to_be_bytes());
        }
    }
}

fn write_number(number: f64, out: &mut Vec<u8>) {
    if f64::from(number as f32) == number {
        out.push(0xca);
        out.extend((number as f32).to_be_bytes());
    } else {
        out.push(0xcb);
        out.extend(number.to_be_bytes());
    }
}

fn write_table(
    shared: &Shared,
    table: &Table,
    depth: usize,
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    let (mut count, mut max, mut array) = (0, 0, true);
    for pair in table.pairs::<Value, Value>() {
        match pair?.0 {
            Value::Integer(index) if index >= 1 => max = max.max(index),
            _ => array = false,
        }
        count += 1;
    }
    shared.meter.charge(count as u64)?;
    let head = |short: u8, long: u8, out: &mut Vec<u8>| match count {
        0..16 => out.push(short | count as u8),
        16..0x1_0000 => {
            out.push(long);
            out.extend((count as u16).to_be_bytes());
        }
        _ => {
            out.push(long + 1);
            out.extend((count as u32).to_be_bytes());
        }
    };
    if array && max == count {
        head(0x90, 0xdc, out);
        for index in 1..=count {
            write(shared, &table.raw_get::<Value>(index)?, depth + 1, out)?;
        }
        return Ok(());
    }
    head(0x80, 0xde, out);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        write(shared, &key, depth + 1, out)?;
        write(shared, &value, depth + 1, out)?;
    }
    Ok(())
}

// --- reading -------------------------------------------------------------------------------------

enum Problem {
    Short,
    Format,
    Engine(mlua::Error),
}

impl From<mlua::Error> for Problem {
    fn from(error: mlua::Error) -> Self {
        Self::Engine(error)
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    shared: &'a Shared,
    rest: &'a [u8],
    depth: usize,
}

/// Reads `limit` values, or all; a limit or an offset puts the next offset in front.
fn unpack(
    lua: &Lua,
    shared: &Shared,
    args: &Args<'_>,
    limit: Option<i64>,
    offset: i64,
) -> mlua::Result<MultiValue> {
    let text = args.string(0)?;
    let text = text.as_bytes();
    let start = usize::try_from(offset).ok().filter(|_| limit.is_none_or(|limit| limit >= 0));
    let Some(start) = start else {
        return Err(raise::error(
            lua,
            format!(
                "Invalid request to unpack with offset of {offset} and limit of {}.",
                text.len()
            ),
        ));
    };
    if start > text.len() {
        return Err(raise::error(
            lua,
            format!("Start offset {offset} greater than input length {}.", text.len()),
        ));
    }
    let mut reader = Reader { lua, shared, rest: &text[start..], depth: 0 };
    let mut values = MultiValue::new();
    while !reader.rest.is_empty() && limit.is_none_or(|limit| (values.len() as i64) < limit) {
        if values.len() == raise::RESULTS_MAX {
            let text = "too many return values at once; use unpack_one or unpack_limit instead.";
            return Err(raise::error(lua, text));
        }
        match reader.value() {
            Ok(value) => values.push_back(value),
            Err(Problem::Short) => return Err(raise::error(lua, "Missing bytes in input.")),
            Err(Problem::Format) => return Err(raise::error(lua, "Bad data format in input.")),
            Err(Problem::Engine(error)) => return Err(error),
        }
    }
    if limit.is_some() {
        let left = reader.rest.len();
        let next = if left == 0 { -1 } else { (text.len() - left) as i64 };
        values.push_front(Value::Integer(next));
    }
    Ok(values)
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8], Problem> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Problem::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        Ok(self.take(N)?.try_into().expect("it has that length"))
    }

    fn string(&mut self, len: usize) -> Result<Value, Problem> {
        let lua = self.lua;
        Ok(Value::String(lua.create_string(self.take(len)?)?))
    }

    fn value(&mut self) -> Result<Value, Problem> {
        self.shared.meter.charge(1)?;
        let [head] = self.bytes()?;
        Ok(match head {
            0x00..=0x7f => Value::Integer(i64::from(head)),
            0xe0..=0xff => Value::Integer(i64::from(head as i8)),
            0x80..=0x8f => self.map(usize::from(head & 0xf))?,
            0x90..=0x9f => self.array(usize::from(head & 0xf))?,
            0xa0..=0xbf => self.string(usize::from(head & 0x1f))?,
            0xc0 => Value::Nil,
            0xc2 => Value::Boolean(false),
            0xc3 => Value::Boolean(true),
            0xca => Value::Number(f64::from(f32::from_be_bytes(self.bytes()?))),
            0xcb => Value::Number(f64::from_be_bytes(self.bytes()?)),
            0xcc => Value::Integer(i64::from(self.bytes::<1>()?[0])),
            0xcd => Value::Integer(i64::from(u16::from_be_bytes(self.bytes()?))),
            0xce => Value::Integer(i64::from(u32::from_be_bytes(self.bytes()?))),
            0xcf => Value::Number(u64::from_be_bytes(self.bytes()?) as f64),
            0xd0 => Value::Integer(i64::from(self.bytes::<1>()?[0] as i8)),
            0xd1 => Value::Integer(i64::from(i16::from_be_bytes(self.bytes()?))),
            0xd2 => Value::Integer(i64::from(i32::from_be_bytes(self.bytes()?))),
            0xd3 => Value::Number(i64::from_be_bytes(self.bytes()?) as f64),
            0xd9 => {
                let [len] = self.bytes()?;
                self.string(usize::from(len))?
            }
            0xda => {
                let len = u16::from_be_bytes(self.bytes()?);
                self.string(usize::from(len))?
            }
            0xdb => {
                let len = u32::from_be_bytes(self.bytes()?);
                self.string(len as usize)?
            }
            0xdc => {
                let len = u16::from_be_bytes(self.bytes()?);
                self.array(usize::from(len))?
            }
            0xdd => {
                let len = u32::from_be_bytes(self.bytes()?);
                self.array(len as usize)?
            }
            0xde => {
                let len = u16::from_be_bytes(self.bytes()?);
                self.map(usize::from(len))?
            }
            0xdf => {
                let len = u32::from_be_bytes(self.bytes()?);
                self.map(len as usize)?
            }
            _ => return Err(Problem::Format),
        })
    }

    fn descend(&mut self) -> Result<Table, Problem> {
        self.depth += 1;
        if self.depth > READ_DEPTH_MAX {
            return Err(raise::error(self.lua, "stack overflow (too many nested values)").into());
        }
        Ok(self.lua.create_table()?)
    }

    fn array(&mut self, len: usize) -> Result<Value, Problem> {
        let table = self.descend()?;
        for index in 1..=len {
            table.raw_set(index as i64, self.value()?)?;
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn map(&mut self, len: usize) -> Result<Value, Problem> {
        let table = self.descend()?;
        for _ in 0..len {
            let key = self.value()?;
            let value = self.value()?;
            let unusable = match key {
                Value::Nil => Some("table index is nil"),
                Value::Number(number) if number.is_nan() => Some("table index is NaN"),
                _ => None,
            };
            if let Some(text) = unusable {
                return Err(raise::error(self.lua, text).into());
            }
            table.raw_set(key, value)?;
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }
}
