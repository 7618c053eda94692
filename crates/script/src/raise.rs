//! What native functions throw, and what a script sees of it.
//!
//! The engine wraps whatever a native function returns as an error in an object of its own, which
//! no script should see. So everything by which a script can catch an error (`pcall`, `xpcall`,
//! `coroutine.resume`, see `prelude.lua`) passes it through [`visible`].

use crate::meter::Stop;
use mlua::{Error, Lua, MultiValue, Value};
use std::fmt;

/// An error of a native function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// A Lua string.
    Text(Vec<u8>),
    /// An error reply, prefix included: a table with the field `err`.
    Reply(Vec<u8>),
    /// The script ends here, whatever it does to catch errors.
    Stop(Stop),
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Reply(text) => f.write_str(&String::from_utf8_lossy(text)),
            Self::Stop(stop) => write!(f, "{stop:?}"),
        }
    }
}

impl std::error::Error for Raised {}

/// Where the Lua code stands that called the native function at hand: `source:line: `, or nothing.
pub(crate) fn position(lua: &Lua) -> String {
    let at = |level| {
        let at = lua.inspect_stack(level, |debug| {
            let line = debug.current_line()?;
            Some(format!("{}:{line}: ", debug.source().short_src?))
        });
        at.flatten().unwrap_or_default()
    };
    // What the prelude calls was called by the script.
    Some(at(1)).filter(|at| !at.starts_with("prelude:")).unwrap_or_else(|| at(2))
}

/// An error with the place where it happened in front, as `luaL_error` makes it.
pub(crate) fn error(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    let mut all = position(lua).into_bytes();
    all.extend_from_slice(text.as_ref());
    Error::external(Raised::Text(all))
}

/// An error reply that is thrown.
pub(crate) fn reply(text: impl AsRef<[u8]>) -> Error {
    Error::external(Raised::Reply(text.as_ref().to_vec()))
}

/// What was thrown, if a native function of ours threw it.
pub(crate) fn raised(error: &Error) -> Option<&Raised> {
    match error {
        Error::CallbackError { cause, .. } => raised(cause),
        Error::WithContext { cause, .. } => raised(cause),
        other => other.downcast_ref::<Raised>(),
    }
}

/// The text of an error of the engine itself.
pub(crate) fn engine_text(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } => engine_text(cause),
        Error::WithContext { cause, .. } => engine_text(cause),
        Error::MemoryError(_) => "not enough memory".into(),
        Error::RuntimeError(text) => text.clone(),
        Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// What a script sees of a caught error.
pub(crate) fn visible(lua: &Lua, value: Value) -> mlua::Result<Value> {
    let Value::Error(error) = value else { return Ok(value) };
    match raised(&error) {
        Some(Raised::Text(text)) => Ok(Value::String(lua.create_string(text)?)),
        Some(Raised::Reply(text)) => {
            let table = lua.create_table()?;
            table.raw_set("err", lua.create_string(text)?)?;
            Ok(Value::Table(table))
        }
        Some(Raised::Stop(_)) => Err(*error),
        None => Ok(Value::String(lua.create_string(engine_text(&error))?)),
    }
}

/// The arguments of a native function, checked with the errors of Lua's own library.
pub(crate) struct Args<'l> {
    lua: &'l Lua,
    name: &'static str,
    values: Vec<Value>,
}

impl<'l> Args<'l> {
    pub(crate) fn new(lua: &'l Lua, name: &'static str, values: MultiValue) -> Self {
        Self { lua, name, values: values.into_vec() }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// Argument `at`, from 0.
    pub(crate) fn get(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    pub(crate) fn is_none_or_nil(&self, at: usize) -> bool {
        matches!(self.get(at), Value::Nil)
    }

    /// "bad argument" with this explanation.
    pub(crate) fn bad(&self, at: usize, why: &str) -> Error {
        error(self.lua, format!("bad argument #{} to '{}' ({why})", at + 1, self.name))
    }

    fn bad_type(&self, at: usize, expected: &str) -> Error {
        let got = self.values.get(at).map_or("no value", type_name);
        self.bad(at, &format!("{expected} expected, got {got}"))
    }

    /// A string, or a number as one.
    pub(crate) fn string(&self, at: usize) -> mlua::Result<mlua::LuaString> {
        match self.get(at) {
            Value::String(string) => Ok(string.clone()),
            number @ (Value::Integer(_) | Value::Number(_)) => {
                let text = self.lua.coerce_string(number.clone())?;
                text.ok_or_else(|| self.bad_type(at, "string"))
            }
            _ => Err(self.bad_type(at, "string")),
        }
    }

    /// A number, or a string that is one.
    pub(crate) fn number(&self, at: usize) -> mlua::Result<f64> {
        match self.get(at) {
            Value::Integer(number) => Ok(*number as f64),
            Value::Number(number) => Ok(*number),
            value @ Value::String(_) => {
                let number = self.lua.coerce_number(value.clone())?;
                number.ok_or_else(|| self.bad_type(at, "number"))
            }
            _ => Err(self.bad_type(at, "number")),
        }
    }

    /// The same, cut to an integer.
    pub(crate) fn integer(&self, at: usize) -> mlua::Result<i64> {
        Ok(self.number(at)? as i64)
    }

    /// The same, or `default` if there is none.
    pub(crate) fn integer_or(&self, at: usize, default: i64) -> mlua::Result<i64> {
        if self.is_none_or_nil(at) { Ok(default) } else { self.integer(at) }
    }

    pub(crate) fn table(&self, at: usize) -> mlua::Result<mlua::Table> {
        match self.get(at) {
            Value::Table(table) => Ok(table.clone()),
            _ => Err(self.bad_type(at, "table")),
        }
    }
}

/// The name of a value's type as `type` says it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "userdata",
    }
}

/// The most values that a native function returns: they must fit Lua's stack.
pub(crate) const RESULTS_MAX: usize = 7_000;
