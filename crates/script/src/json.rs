//! `cjson`, with the behaviour of lua-cjson 2.1.0, which Redis carries.

use crate::Shared;
use crate::number::{format_g, read_number};
use crate::raise::{self, Args, type_name};
use mlua::{Lua, LuaString, MultiValue, Table, Value};
use std::cell::Cell;
use std::rc::Rc;

/// What the configuration functions set. It lasts until the engine is made anew, as in Redis.
#[derive(Debug)]
struct Settings {
    sparse_convert: Cell<bool>,
    sparse_ratio: Cell<i64>,
    sparse_safe: Cell<i64>,
    encode_depth_max: Cell<i64>,
    decode_depth_max: Cell<i64>,
    encode_invalid: Cell<Invalid>,
    decode_invalid: Cell<bool>,
    keep_buffer: Cell<bool>,
    precision: Cell<i64>,
}

/// What to do with numbers that JSON does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Invalid {
    Refused,
    Written,
    Null,
}

/// The deepest nesting that the depth functions may allow: reading and writing nest as deeply.
const DEPTH_MAX: i64 = 1000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            sparse_convert: Cell::new(false),
            sparse_ratio: Cell::new(2),
            sparse_safe: Cell::new(10),
            encode_depth_max: Cell::new(DEPTH_MAX),
            decode_depth_max: Cell::new(DEPTH_MAX),
            encode_invalid: Cell::new(Invalid::Refused),
            decode_invalid: Cell::new(true),
            keep_buffer: Cell::new(true),
            precision: Cell::new(14),
        }
    }
}

/// The library, with settings of its own.
pub(crate) fn library(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let settings = Rc::new(Settings::default());
    let (own, set) = (Rc::clone(shared), Rc::clone(&settings));
    let encode = lua.create_function(move |lua, args| encode(lua, &own, &set, args))?;
    table.set("encode", encode)?;
    let (own, set) = (Rc::clone(shared), Rc::clone(&settings));
    let decode = lua.create_function(move |lua, args| decode(lua, &own, &set, args))?;
    table.set("decode", decode)?;
    let own = Rc::clone(shared);
    table.set("new", lua.create_function(move |lua, _: MultiValue| library(lua, &own))?)?;
    configuration(lua, &table, &settings)?;
    table.set("null", Value::NULL)?;
    table.set("_NAME", "cjson")?;
    table.set("_VERSION", "2.1.0")?;
    Ok(table)
}

fn configuration(lua: &Lua, table: &Table, settings: &Rc<Settings>) -> mlua::Result<()> {
    type Number = fn(&Settings) -> &Cell<i64>;
    let numbers: [(&'static str, Number, i64); 3] = [
        ("encode_max_depth", |set| &set.encode_depth_max, DEPTH_MAX),
        ("decode_max_depth", |set| &set.decode_depth_max, DEPTH_MAX),
        ("encode_number_precision", |set| &set.precision, 14),
    ];
    for (name, cell, max) in numbers {
        let set = Rc::clone(settings);
        let function = lua.create_function(move |lua, args| {
            let args = limited(lua, name, args, 1)?;
            number_option(&args, 0, cell(&set), 1, max)?;
            Ok(cell(&set).get())
        })?;
        table.set(name, function)?;
    }
    let set = Rc::clone(settings);
    let function = lua.create_function(move |lua, args| {
        let args = limited(lua, "encode_sparse_array", args, 3)?;
        if !args.is_none_or_nil(0) {
            set.sparse_convert.set(switch(&args, 0)?);
        }
        number_option(&args, 1, &set.sparse_ratio, 0, i64::from(i32::MAX))?;
        number_option(&args, 2, &set.sparse_safe, 0, i64::from(i32::MAX))?;
        Ok((set.sparse_convert.get(), set.sparse_ratio.get(), set.sparse_safe.get()))
    })?;
    table.set("encode_sparse_array", function)?;
    let set = Rc::clone(settings);
    let function = lua.create_function(move |lua, args| {
        let args = limited(lua, "encode_keep_buffer", args, 1)?;
        if !args.is_none_or_nil(0) {
            set.keep_buffer.set(switch(&args, 0)?);
        }
        Ok(set.keep_buffer.get())
    })?;
    table.set("encode_keep_buffer", function)?;
    let set = Rc::clone(settings);
    let function = lua.create_function(move |lua, args| {
        let args = limited(lua, "decode_invalid_numbers", args, 1)?;
        if !args.is_none_or_nil(0) {
            set.decode_invalid.set(switch(&args, 0)?);
        }
        Ok(set.decode_invalid.get())
    })?;
    table.set("decode_invalid_numbers", function)?;
    let set = Rc::clone(settings);
    let function = lua.create_function(move |lua, args| {
        let args = limited(lua, "encode_invalid_numbers", args, 1)?;
        if matches!(args.get(0), Value::String(word) if *word.as_bytes() == *b"null") {
            set.encode_invalid.set(Invalid::Null);
        } else if !args.is_none_or_nil(0) {
            let written = switch(&args, 0)?;
            set.encode_invalid.set(if written { Invalid::Written } else { Invalid::Refused });
        }
        Ok(match set.encode_invalid.get() {
            Invalid::Refused => Value::Boolean(false),
            Invalid::Written => Value::Boolean(true),
            Invalid::Null => Value::String(lua.create_string("null")?),
        })
    })?;
    table.set("encode_invalid_numbers", function)
}

fn limited<'l>(
    lua: &'l Lua,
    name: &'static str,
    args: MultiValue,
    max: usize,
) -> mlua::Result<Args<'l>> {
    let args = Args::new(lua, name, args);
    if args.len() > max {
        return Err(args.bad(max, "found too many arguments"));
    }
    Ok(args)
}

fn number_option(
    args: &Args<'_>,
    at: usize,
    cell: &Cell<i64>,
    min: i64,
    max: i64,
) -> mlua::Result<()> {
    if !args.is_none_or_nil(at) {
        let value = args.integer(at)?;
        if !(min..=max).contains(&value) {
            return Err(args.bad(at, &format!("expected integer between {min} and {max}")));
        }
        cell.set(value);
    }
    Ok(())
}

fn switch(args: &Args<'_>, at: usize) -> mlua::Result<bool> {
    if let Value::Boolean(on) = args.get(at) {
        return Ok(*on);
    }
    let word = args.string(at)?;
    let word = word.as_bytes();
    match &*word {
        b"on" => Ok(true),
        b"off" => Ok(false),
        other => {
            let text = format!("invalid option '{}'", String::from_utf8_lossy(other));
            Err(args.bad(at, &text))
        }
    }
}

// --- writing -------------------------------------------------------------------------------------

struct Writer<'a> {
    lua: &'a Lua,
    shared: &'a Shared,
    settings: &'a Settings,
    depth: i64,
    out: Vec<u8>,
}

fn encode(
    lua: &Lua,
    shared: &Shared,
    settings: &Settings,
    args: MultiValue,
) -> mlua::Result<LuaString> {
    let args = Args::new(lua, "encode", args);
    if args.len() != 1 {
        return Err(args.bad(0, "expected 1 argument"));
    }
    let mut writer = Writer { lua, shared, settings, depth: 0, out: Vec::new() };
    writer.value(args.get(0))?;
    lua.create_string(writer.out)
}

impl Writer<'_> {
    fn refused(&self, value: &Value, why: &str) -> mlua::Error {
        raise::error(self.lua, format!("Cannot serialise {}: {why}", type_name(value)))
    }

    fn value(&mut self, value: &Value) -> mlua::Result<()> {
        self.shared.meter.charge(1)?;
        self.shared.check_bytes(self.out.len())?;
        match value {
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Integer(number) => return self.number(value, *number as f64),
            Value::Number(number) => return self.number(value, *number),
            Value::Boolean(true) => self.out.extend_from_slice(b"true"),
            Value::Boolean(false) => self.out.extend_from_slice(b"false"),
            Value::Nil => self.out.extend_from_slice(b"null"),
            Value::LightUserData(data) if data.0.is_null() => self.out.extend_from_slice(b"null"),
            Value::Table(table) => {
                self.depth += 1;
                if self.depth > self.settings.encode_depth_max.get() {
                    let text = format!("Cannot serialise, excessive nesting ({})", self.depth);
                    return Err(raise::error(self.lua, text));
                }
                match self.array_len(table, value)? {
                    Some(len) if len > 0 => self.array(table, len)?,
                    _ => self.object(table)?,
                }
                self.depth -= 1;
            }
            other => return Err(self.refused(other, "type not supported")),
        }
        Ok(())
    }

    /// The greatest index if all keys are indexes.
    fn array_len(&self, table: &Table, value: &Value) -> mlua::Result<Option<i64>> {
        let (mut max, mut items) = (0, 0);
        for pair in table.pairs::<Value, Value>() {
            match pair?.0 {
                Value::Integer(index) if index >= 1 => {
                    max = max.max(index);
                    items += 1;
                }
                _ => return Ok(None),
            }
        }
        self.shared.meter.charge(items as u64)?;
        let ratio = self.settings.sparse_ratio.get();
        let sparse = ratio > 0 && max > items * ratio && max > self.settings.sparse_safe.get();
        if sparse && !self.settings.sparse_convert.get() {
            return Err(self.refused(value, "excessively sparse array"));
        }
        Ok((!sparse).then_some(max))
    }

    fn array(&mut self, table: &Table, len: i64) -> mlua::Result<()> {
        for index in 1..=len {
            self.out.push(if index == 1 { b'[' } else { b',' });
            self.value(&table.raw_get::<Value>(index)?)?;
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table) -> mlua::Result<()> {
        self.out.push(b'{');
        let mut first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            if !std::mem::replace(&mut first, false) {
                self.out.push(b',');
            }
            match &key {
                Value::String(text) => self.string(&text.as_bytes()),
                Value::Integer(_) | Value::Number(_) => {
                    self.out.push(b'"');
                    self.value(&key)?;
                    self.out.push(b'"');
                }
                other => {
                    return Err(self.refused(other, "table key must be a number or string"));
                }
            }
            self.out.push(b':');
            self.value(&value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn number(&mut self, value: &Value, number: f64) -> mlua::Result<()> {
        if !number.is_finite() {
            match self.settings.encode_invalid.get() {
                Invalid::Refused => return Err(self.refused(value, "must not be NaN or Inf")),
                Invalid::Null => {
                    self.out.extend_from_slice(b"null");
                    return Ok(());
                }
                Invalid::Written => {}
            }
        }
        let text = format_g(number, self.settings.precision.get() as usize);
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn string(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for &byte in text {
            match byte {
                b'"' | b'\\' | b'/' => self.out.extend([b'\\', byte]),
                8 => self.out.extend_from_slice(b"\\b"),
                9 => self.out.extend_from_slice(b"\\t"),
                10 => self.out.extend_from_slice(b"\\n"),
                12 => self.out.extend_from_slice(b"\\f"),
                13 => self.out.extend_from_slice(b"\\r"),
                0..32 | 127 => self.out.extend(format!("\\u{byte:04x}").into_bytes()),
                _ => self.out.push(byte),
            }
        }
        self.out.push(b'"');
    }
}

// --- reading -------------------------------------------------------------------------------------

enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::String(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::End => "T_END",
            Self::Error(text) => text,
        }
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    shared: &'a Shared,
    settings: &'a Settings,
    text: &'a [u8],
    at: usize,
    /// Where the last token began, or where it went wrong.
    token_at: usize,
    depth: i64,
}

fn decode(
    lua: &Lua,
    shared: &Shared,
    settings: &Settings,
    args: MultiValue,
) -> mlua::Result<Value> {
    let args = Args::new(lua, "decode", args);
    if args.len() != 1 {
        return Err(args.bad(0, "expected 1 argument"));
    }
    let text = args.string(0)?;
    let text = text.as_bytes();
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(raise::error(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut reader = Reader { lua, shared, settings, text: &text, at: 0, token_at: 0, depth: 0 };
    let token = reader.next();
    let value = reader.value(token)?;
    match reader.next() {
        Token::End => Ok(value),
        other => Err(reader.expected("the end", &other)),
    }
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        // Like the zero byte behind a C string; a zero byte ends the text as well.
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn expected(&self, what: &str, found: &Token) -> mlua::Error {
        let (found, at) = (found.name(), self.token_at + 1);
        raise::error(self.lua, format!("Expected {what} but found {found} at character {at}"))
    }

    fn value(&mut self, token: Token) -> mlua::Result<Value> {
        self.shared.meter.charge(1)?;
        Ok(match token {
            Token::String(text) => Value::String(self.lua.create_string(text)?),
            Token::Number(number) => Value::Number(number),
            Token::Boolean(value) => Value::Boolean(value),
            Token::Null => Value::NULL,
            Token::ObjectBegin => self.object()?,
            Token::ArrayBegin => self.array()?,
            other => return Err(self.expected("value", &other)),
        })
    }

    fn descend(&mut self) -> mlua::Result<()> {
        self.depth += 1;
        if self.depth > self.settings.decode_depth_max.get() {
            return Err(raise::error(
                self.lua,
                format!(
                    "Found too many nested data structures ({}) at character {}",
                    self.depth, self.at
                ),
            ));
        }
        Ok(())
    }

    fn object(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if !matches!(token, Token::ObjectEnd) {
            loop {
                let Token::String(key) = token else {
                    return Err(self.expected("object key string", &token));
                };
                let key = self.lua.create_string(key)?;
                token = self.next();
                if !matches!(token, Token::Colon) {
                    return Err(self.expected("colon", &token));
                }
                token = self.next();
                table.raw_set(key, self.value(token)?)?;
                token = self.next();
                match token {
                    Token::ObjectEnd => break,
                    Token::Comma => token = self.next(),
                    other => return Err(self.expected("comma or object end", &other)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> mlua::Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.next();
        if !matches!(token, Token::ArrayEnd) {
            for index in 1.. {
                table.raw_set(index, self.value(token)?)?;
                token = self.next();
                match token {
                    Token::ArrayEnd => break,
                    Token::Comma => token = self.next(),
                    other => return Err(self.expected("comma or array end", &other)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn next(&mut self) -> Token {
        while matches!(self.peek(0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.token_at = self.at;
        let single = match self.peek(0) {
            0 => return Token::End,
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b',' => Token::Comma,
            b':' => Token::Colon,
            _ => return self.long_token(),
        };
        self.at += 1;
        single
    }

    fn long_token(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let words = [
            (b"true".as_slice(), Token::Boolean(true)),
            (b"false", Token::Boolean(false)),
            (b"null", Token::Null),
        ];
        match rest[0] {
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => {
                if !self.settings.decode_invalid.get() && is_invalid_number(rest) {
                    return Token::Error("invalid number");
                }
                return self.number();
            }
            _ => {}
        }
        for (word, token) in words {
            if rest.starts_with(word) {
                self.at += word.len();
                return token;
            }
        }
        let number = matches!(rest[0], b'+' | b'i' | b'I' | b'n' | b'N');
        if number && self.settings.decode_invalid.get() && is_invalid_number(rest) {
            return self.number();
        }
        Token::Error("invalid token")
    }

    fn number(&mut self) -> Token {
        match read_number(&self.text[self.at..]) {
            Some((value, len)) => {
                self.at += len;
                Token::Number(value)
            }
            None => Token::Error("invalid number"),
        }
    }

    fn string(&mut self) -> Token {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.peek(0) {
                b'"' => {
                    self.at += 1;
                    return Token::String(out);
                }
                0 => {
                    self.token_at = self.at;
                    return Token::Error("unexpected end of string");
                }
                b'\\' => {
                    let plain = match self.peek(1) {
                        byte @ (b'"' | b'\\' | b'/') => byte,
                        b'b' => 8,
                        b't' => 9,
                        b'n' => 10,
                        b'f' => 12,
                        b'r' => 13,
                        b'u' => {
                            if let Some(character) = self.unicode() {
                                let mut buf = [0; 4];
                                let text = character.encode_utf8(&mut buf);
                                out.extend_from_slice(text.as_bytes());
                                continue;
                            }
                            self.token_at = self.at;
                            return Token::Error("invalid unicode escape code");
                        }
                        _ => {
                            self.token_at = self.at;
                            return Token::Error("invalid escape code");
                        }
                    };
                    out.push(plain);
                    self.at += 2;
                }
                byte => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    /// `\uXXXX`, or two of them that are a pair.
    fn unicode(&mut self) -> Option<char> {
        let unit = |ahead: usize| {
            let digits = self.text.get(self.at + ahead + 2..self.at + ahead + 6)?;
            digits.iter().try_fold(0, |sum, &b| Some(sum * 16 + (b as char).to_digit(16)?))
        };
        let mut code = unit(0)?;
        let mut len = 6;
        if (0xd800..0xdc00).contains(&code) {
            if (self.peek(6), self.peek(7)) != (b'\\', b'u') {
                return None;
            }
            let low = unit(6).filter(|low| (0xdc00..0xe000).contains(low))?;
            code = ((code & 0x3ff) << 10 | low & 0x3ff) + 0x1_0000;
            len = 12;
        }
        let character = char::from_u32(code)?;
        self.at += len;
        Some(character)
    }
}

/// Numbers that `strtod` reads and JSON does not have.
fn is_invalid_number(text: &[u8]) -> bool {
    let at = |index: usize| text.get(index).copied().unwrap_or(0);
    if at(0) == b'+' {
        return true;
    }
    let start = usize::from(at(0) == b'-');
    if at(start) == b'0' {
        let next = at(start + 1);
        return next | 0x20 == b'x' || next.is_ascii_digit();
    }
    if at(start) <= b'9' {
        return false;
    }
    let word = text.get(start..start + 3).unwrap_or_default();
    word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan")
}
