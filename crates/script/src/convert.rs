//! Replies of commands as Lua values, and Lua values as replies, as Redis 7.2 converts them.

use crate::Shared;
use crate::number::to_i64;
use mlua::{Lua, Table, Value};
use quorate_resp::{Proto, Reply};

/// Values nested deeper than this are not turned into a reply.
const DEPTH_MAX: usize = 200;

/// A reply that is being read. Our own commands wrote it, so it is well formed.
struct Reader<'a> {
    lua: &'a Lua,
    rest: &'a [u8],
}

/// The Lua value of a reply.
pub(crate) fn to_lua(lua: &Lua, reply: &[u8]) -> mlua::Result<Value> {
    Reader { lua, rest: reply }.value()
}

/// The table that stands for an error reply, as `redis.pcall` returns it.
pub(crate) fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    with_field(lua, "err", Value::String(lua.create_string(text)?))
}

fn with_field(lua: &Lua, name: &str, value: Value) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

impl<'a> Reader<'a> {
    fn line(&mut self) -> &'a [u8] {
        let end = self.rest.windows(2).position(|pair| pair == b"\r\n");
        let end = end.expect("every line of a reply ends");
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 2..];
        line
    }

    fn bulk(&mut self, len: usize) -> &'a [u8] {
        let text = &self.rest[..len];
        self.rest = &self.rest[len + 2..];
        text
    }

    fn text(&self, bytes: &[u8]) -> mlua::Result<Value> {
        Ok(Value::String(self.lua.create_string(bytes)?))
    }

    fn value(&mut self) -> mlua::Result<Value> {
        let lua = self.lua;
        let kind = self.rest[0];
        self.rest = &self.rest[1..];
        let line = self.line();
        let ascii = std::str::from_utf8(line).unwrap_or_default();
        let number = || ascii.parse::<i64>().expect("the head of a reply has a number");
        Ok(match kind {
            b'+' => with_field(lua, "ok", self.text(line)?)?,
            b'-' => error_table(lua, line)?,
            b':' => Value::Integer(number()),
            b'$' | b'*' if number() < 0 => Value::Boolean(false),
            b'$' => {
                let text = self.bulk(number() as usize);
                self.text(text)?
            }
            b'*' | b'>' => Value::Table(self.array(number() as usize)?),
            b'%' => {
                let map = lua.create_table()?;
                for _ in 0..number() {
                    let key = self.value()?;
                    map.raw_set(key, self.value()?)?;
                }
                with_field(lua, "map", Value::Table(map))?
            }
            b'~' => {
                let set = lua.create_table()?;
                for _ in 0..number() {
                    set.raw_set(self.value()?, true)?;
                }
                with_field(lua, "set", Value::Table(set))?
            }
            b'_' => Value::Nil,
            b'#' => Value::Boolean(line == b"t"),
            b',' => {
                let double = match ascii {
                    "inf" => f64::INFINITY,
                    "-inf" => f64::NEG_INFINITY,
                    text => text.parse().unwrap_or(f64::NAN),
                };
                with_field(lua, "double", Value::Number(double))?
            }
            b'(' => with_field(lua, "big_number", self.text(line)?)?,
            b'=' => {
                let text = self.bulk(number() as usize);
                let verbatim = lua.create_table_with_capacity(0, 2)?;
                verbatim.raw_set("format", self.text(&text[..3])?)?;
                verbatim.raw_set("string", self.text(&text[4..])?)?;
                with_field(lua, "verbatim_string", Value::Table(verbatim))?
            }
            other => unreachable!("no command replies with type {other:#x}"),
        })
    }

    fn array(&mut self, len: usize) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(len, 0)?;
        for index in 1..=len {
            table.raw_set(index as i64, self.value()?)?;
        }
        Ok(table)
    }
}

/// Writes what a script returned.
pub(crate) fn to_reply(
    shared: &Shared,
    value: &Value,
    proto: Proto,
    depth: usize,
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    shared.meter.charge(1)?;
    shared.check_bytes(out.len())?;
    let mut reply = Reply::new(out, proto);
    if depth > DEPTH_MAX {
        reply.error(b"ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Integer(number) => reply.int(*number),
        Value::Number(number) => reply.int(to_i64(*number)),
        Value::Boolean(value) if shared.proto.get() == Proto::Resp3 => reply.bool(*value),
        Value::Boolean(true) => reply.int(1),
        Value::Table(table) => return table_to_reply(shared, table, proto, depth, out),
        _ => reply.null(),
    }
    Ok(())
}

fn table_to_reply(
    shared: &Shared,
    table: &Table,
    proto: Proto,
    depth: usize,
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    if let Value::String(text) = table.raw_get("err")? {
        Reply::new(out, proto).error(&text.as_bytes());
        return Ok(());
    }
    if let Value::String(text) = table.raw_get("ok")? {
        write_line(b'+', &text.as_bytes(), out);
        return Ok(());
    }
    let double = match table.raw_get("double")? {
        Value::Integer(number) => Some(number as f64),
        Value::Number(number) => Some(number),
        _ => None,
    };
    if let Some(double) = double {
        Reply::new(out, proto).double(double);
        return Ok(());
    }
    if let Value::String(text) = table.raw_get("big_number")? {
        match proto {
            Proto::Resp2 => Reply::new(out, proto).bulk(&text.as_bytes()),
            Proto::Resp3 => write_line(b'(', &text.as_bytes(), out),
        }
        return Ok(());
    }
    if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
        && let Value::String(format) = verbatim.raw_get("format")?
        && let Value::String(text) = verbatim.raw_get("string")?
    {
        write_verbatim(&format.as_bytes(), &text.as_bytes(), proto, out);
        return Ok(());
    }
    for (name, whole) in [("map", true), ("set", false)] {
        let Value::Table(members) = table.raw_get(name)? else { continue };
        let (mut count, mut body) = (0, Vec::new());
        for pair in members.pairs::<Value, Value>() {
            let (key, value) = pair?;
            to_reply(shared, &key, proto, depth + 1, &mut body)?;
            if whole {
                to_reply(shared, &value, proto, depth + 1, &mut body)?;
            }
            shared.check_bytes(out.len() + body.len())?;
            count += 1;
        }
        let mut reply = Reply::new(out, proto);
        if whole {
            reply.map(count);
        } else {
            reply.set(count);
        }
        reply.raw(&body);
        return Ok(());
    }
    let mut len = 0;
    while !matches!(table.raw_get::<Value>(len as i64 + 1)?, Value::Nil) {
        shared.meter.charge(1)?;
        len += 1;
    }
    Reply::new(out, proto).array(len);
    for index in 1..=len {
        to_reply(shared, &table.raw_get::<Value>(index as i64)?, proto, depth + 1, out)?;
    }
    Ok(())
}

fn write_line(kind: u8, text: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

fn write_verbatim(format: &[u8], text: &[u8], proto: Proto, out: &mut Vec<u8>) {
    if proto == Proto::Resp2 {
        return Reply::new(out, proto).bulk(text);
    }
    // Three bytes, whatever the script says.
    let mut three = *b"   ";
    for (to, from) in three.iter_mut().zip(format) {
        *to = *from;
    }
    out.extend_from_slice(format!("={}\r\n", text.len() + 4).as_bytes());
    out.extend_from_slice(&three);
    out.push(b':');
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}
