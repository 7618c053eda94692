//! `string.find`, `match`, `gmatch` and `gsub`, with Lua 5.1's behaviour and errors.

use crate::Shared;
use crate::pattern::{Capture, Matcher, Problem};
use crate::raise::{self, Args, type_name};
use mlua::{Lua, LuaString, MultiValue, Table, Value};
use std::cell::Cell;
use std::rc::Rc;

/// Bytes that mean something in a pattern.
const SPECIALS: &[u8] = b"^$*+?.([%-";

/// The functions, by name.
pub(crate) fn library(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    table.set("find", lua.create_function(move |lua, args| find(lua, &own, args, true))?)?;
    let own = Rc::clone(shared);
    table.set("match", lua.create_function(move |lua, args| find(lua, &own, args, false))?)?;
    let own = Rc::clone(shared);
    table.set("gsub", lua.create_function(move |lua, args| gsub(lua, &own, args))?)?;
    for name in ["gmatch", "gfind"] {
        let own = Rc::clone(shared);
        table.set(name, lua.create_function(move |lua, args| gmatch(lua, &own, args))?)?;
    }
    Ok(table)
}

fn find(lua: &Lua, shared: &Shared, args: MultiValue, find: bool) -> mlua::Result<MultiValue> {
    let args = Args::new(lua, if find { "find" } else { "match" }, args);
    let (subject, pattern) = (args.string(0)?, args.string(1)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let (subject, pattern): (&[u8], &[u8]) = (&subject, &pattern);
    let init = args.integer_or(2, 1)?;
    let init = if init < 0 { init.saturating_add(subject.len() as i64) } else { init - 1 };
    let init = usize::try_from(init).unwrap_or(0).min(subject.len());
    let plain = find && !matches!(args.get(3), Value::Nil | Value::Boolean(false));
    let until_zero = pattern.split(|&b| b == 0).next().unwrap_or_default();
    if find && (plain || !until_zero.iter().any(|b| SPECIALS.contains(b))) {
        shared.meter.charge((subject.len() - init) as u64 / 16)?;
        let found = position_of(&subject[init..], pattern, shared)?;
        return Ok(match found {
            Some(at) => {
                let start = init + at;
                let ends = [start + 1, start + pattern.len()];
                ends.into_iter().map(|n| Value::Integer(n as i64)).collect()
            }
            None => one(Value::Nil),
        });
    }
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(subject, &pattern[usize::from(anchored)..], &shared.meter);
    for start in init..=subject.len() {
        let end = matcher.match_at(start).map_err(|problem| thrown(lua, problem))?;
        if let Some(end) = end {
            let mut found = MultiValue::new();
            if find {
                found.push_back(Value::Integer(start as i64 + 1));
                found.push_back(Value::Integer(end as i64));
            }
            let whole = (!find).then_some((start, end));
            push_captures(lua, subject, &matcher.captures, whole, &mut found)?;
            return Ok(found);
        }
        if anchored {
            break;
        }
    }
    Ok(one(Value::Nil))
}

fn one(value: Value) -> MultiValue {
    std::iter::once(value).collect()
}

/// Where `needle` is in `hay`.
fn position_of(hay: &[u8], needle: &[u8], shared: &Shared) -> mlua::Result<Option<usize>> {
    let Some((&first, rest)) = needle.split_first() else { return Ok(Some(0)) };
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|&b| b == first) {
        let at = from + at;
        if hay[at + 1..].starts_with(rest) {
            return Ok(Some(at));
        }
        // Comparing may go far before it fails.
        shared.meter.charge(1 + rest.len() as u64 / 64)?;
        from = at + 1;
    }
    Ok(None)
}

/// Appends what was captured; `whole` stands for a pattern without captures.
fn push_captures(
    lua: &Lua,
    subject: &[u8],
    captures: &[Capture],
    whole: Option<(usize, usize)>,
    out: &mut MultiValue,
) -> mlua::Result<()> {
    if captures.is_empty()
        && let Some((start, end)) = whole
    {
        out.push_back(Value::String(lua.create_string(&subject[start..end])?));
    }
    for capture in captures {
        out.push_back(captured(lua, subject, *capture)?);
    }
    Ok(())
}

fn captured(lua: &Lua, subject: &[u8], capture: Capture) -> mlua::Result<Value> {
    match capture {
        Capture::Open { .. } => Err(raise::error(lua, "unfinished capture")),
        Capture::Position(at) => Ok(Value::Integer(at as i64 + 1)),
        Capture::Text { start, end } => Ok(Value::String(lua.create_string(&subject[start..end])?)),
    }
}

fn thrown(lua: &Lua, problem: Problem) -> mlua::Error {
    match problem {
        Problem::Pattern(text) => raise::error(lua, text),
        Problem::Stopped(error) => error,
    }
}

fn gmatch(lua: &Lua, shared: &Rc<Shared>, args: MultiValue) -> mlua::Result<mlua::Function> {
    let args = Args::new(lua, "gmatch", args);
    let (subject, pattern) = (args.string(0)?, args.string(1)?);
    let (next, own) = (Cell::new(0), Rc::clone(shared));
    lua.create_function(move |lua, ()| {
        let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
        let mut matcher = Matcher::new(&subject, &pattern, &own.meter);
        for start in next.get()..=subject.len() {
            let end = matcher.match_at(start).map_err(|problem| thrown(lua, problem))?;
            if let Some(end) = end {
                // An empty match would be found for ever.
                next.set(if end == start { end + 1 } else { end });
                let mut found = MultiValue::new();
                push_captures(lua, &subject, &matcher.captures, Some((start, end)), &mut found)?;
                return Ok(found);
            }
        }
        next.set(subject.len() + 1);
        Ok(MultiValue::new())
    })
}

fn gsub(lua: &Lua, shared: &Rc<Shared>, args: MultiValue) -> mlua::Result<(LuaString, i64)> {
    let args = Args::new(lua, "gsub", args);
    let (subject, pattern) = (args.string(0)?, args.string(1)?);
    let (subject, pattern) = (subject.as_bytes(), pattern.as_bytes());
    let (subject, pattern): (&[u8], &[u8]) = (&subject, &pattern);
    let replacement = match args.get(2) {
        Value::Integer(_) | Value::Number(_) | Value::String(_) => Value::String(args.string(2)?),
        value @ (Value::Table(_) | Value::Function(_)) => value.clone(),
        _ => return Err(args.bad(2, "string/function/table expected")),
    };
    let count_max = args.integer_or(3, subject.len() as i64 + 1)?;
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(subject, &pattern[usize::from(anchored)..], &shared.meter);
    let (mut at, mut count, mut out) = (0, 0, Vec::new());
    while count < count_max {
        let end = matcher.match_at(at).map_err(|problem| thrown(lua, problem))?;
        if let Some(end) = end {
            count += 1;
            let whole = &subject[at..end];
            replace(lua, subject, whole, &matcher.captures, &replacement, &mut out)?;
            shared.check_bytes(out.len())?;
        }
        match end {
            Some(end) if end > at => at = end,
            _ if at < subject.len() => {
                out.push(subject[at]);
                at += 1;
            }
            _ => break,
        }
        if anchored {
            break;
        }
    }
    out.extend_from_slice(&subject[at.min(subject.len())..]);
    Ok((lua.create_string(out)?, count))
}

/// Appends what replaces `whole`.
fn replace(
    lua: &Lua,
    subject: &[u8],
    whole: &[u8],
    captures: &[Capture],
    replacement: &Value,
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    let first = || match captures.first() {
        Some(capture) => captured(lua, subject, *capture),
        None => Ok(Value::String(lua.create_string(whole)?)),
    };
    let value = match replacement {
        Value::String(text) => {
            return replace_by_text(lua, subject, whole, captures, &text.as_bytes(), out);
        }
        Value::Table(table) => table.get::<Value>(first()?)?,
        Value::Function(function) => {
            let mut given = MultiValue::new();
            if captures.is_empty() {
                given.push_back(first()?);
            }
            push_captures(lua, subject, captures, None, &mut given)?;
            function.call::<Value>(given)?
        }
        _ => unreachable!("the type was checked"),
    };
    match value {
        Value::Nil | Value::Boolean(false) => out.extend_from_slice(whole),
        Value::String(text) => out.extend_from_slice(&text.as_bytes()),
        number @ (Value::Integer(_) | Value::Number(_)) => {
            if let Some(text) = lua.coerce_string(number)? {
                out.extend_from_slice(&text.as_bytes());
            }
        }
        other => {
            let text = format!("invalid replacement value (a {})", type_name(&other));
            return Err(raise::error(lua, text));
        }
    }
    Ok(())
}

fn replace_by_text(
    lua: &Lua,
    subject: &[u8],
    whole: &[u8],
    captures: &[Capture],
    text: &[u8],
    out: &mut Vec<u8>,
) -> mlua::Result<()> {
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'0') => out.extend_from_slice(whole),
            Some(digit @ b'1'..=b'9') => match captures.get(usize::from(digit - b'1')) {
                Some(Capture::Text { start, end }) => {
                    out.extend_from_slice(&subject[*start..*end]);
                }
                Some(Capture::Position(at)) => {
                    out.extend_from_slice((at + 1).to_string().as_bytes());
                }
                Some(Capture::Open { .. }) => {
                    return Err(raise::error(lua, "unfinished capture"));
                }
                None if captures.is_empty() && digit == b'1' => out.extend_from_slice(whole),
                None => return Err(raise::error(lua, "invalid capture index")),
            },
            // A lone % at the end stands for the zero byte behind the text, as in Lua 5.1.
            other => out.push(other.unwrap_or(0)),
        }
    }
    Ok(())
}
