//! Libraries of functions (`FUNCTION LOAD`): what their code registers while it is loaded.

use crate::Shared;
use crate::raise;
use mlua::{MultiValue, Value};

/// A function of a library.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its name.
    pub name: Vec<u8>,
    /// What its author says of it.
    pub description: Option<Vec<u8>>,
    /// Names of its flags.
    pub flags: Vec<Vec<u8>>,
    pub(crate) callback: mlua::Function,
}

/// `redis.register_function`, by position or by name.
pub(crate) fn register(shared: &Shared, args: &MultiValue) -> mlua::Result<()> {
    let mut registering = shared.registering.borrow_mut();
    let Some(functions) = registering.as_mut() else {
        return Err(raise::reply(
            "ERR redis.register_function can only be called on FUNCTION LOAD command",
        ));
    };
    let function = match args.iter().collect::<Vec<_>>()[..] {
        [Value::Table(named)] => by_name(named)?,
        [Value::String(name), Value::Function(callback)] => Registered {
            name: name.as_bytes().to_vec(),
            description: None,
            flags: Vec::new(),
            callback: callback.clone(),
        },
        [_, Value::Function(_)] => {
            return Err(raise::reply(
                "ERR first argument to redis.register_function must be a string",
            ));
        }
        [_, _] => {
            return Err(raise::reply(
                "ERR second argument to redis.register_function must be a function",
            ));
        }
        [_] => {
            return Err(raise::reply(
                "ERR calling redis.register_function with a single argument is only applicable to \
                 Lua table (representing named arguments).",
            ));
        }
        _ => {
            return Err(raise::reply("ERR wrong number of arguments to redis.register_function"));
        }
    };
    let named_well = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if function.name.is_empty() || !function.name.iter().all(named_well) {
        return Err(raise::reply(
            "ERR Function names can only contain letters, numbers, or underscores(_) and must be \
             at least one character long",
        ));
    }
    if functions.iter().any(|other| other.name == function.name) {
        return Err(raise::reply("ERR Function already exists in the library"));
    }
    functions.push(function);
    Ok(())
}

fn by_name(named: &mlua::Table) -> mlua::Result<Registered> {
    let (mut name, mut callback, mut description, mut flags) = (None, None, None, Vec::new());
    for pair in named.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let Value::String(key) = key else {
            return Err(raise::reply(
                "ERR named argument key given to redis.register_function is not a string",
            ));
        };
        match (&*key.as_bytes(), value) {
            (b"function_name", Value::String(text)) => name = Some(text.as_bytes().to_vec()),
            (b"function_name", _) => {
                return Err(raise::reply(
                    "ERR function_name argument given to redis.register_function must be a string",
                ));
            }
            (b"description", Value::String(text)) => description = Some(text.as_bytes().to_vec()),
            (b"description", _) => {
                return Err(raise::reply(
                    "ERR description argument given to redis.register_function must be a string",
                ));
            }
            (b"callback", Value::Function(function)) => callback = Some(function),
            (b"callback", _) => {
                return Err(raise::reply(
                    "ERR callback argument given to redis.register_function must be a function",
                ));
            }
            (b"flags", Value::Table(list)) => {
                for flag in list.sequence_values::<Value>() {
                    let Value::String(flag) = flag? else {
                        return Err(raise::reply("ERR unknown flag given"));
                    };
                    flags.push(flag.as_bytes().to_vec());
                }
            }
            (b"flags", _) => {
                return Err(raise::reply(
                    "ERR flags argument to redis.register_function must be a table representing \
                     function flags",
                ));
            }
            _ => {
                return Err(raise::reply("ERR unknown argument given to redis.register_function"));
            }
        }
    }
    let Some(name) = name else {
        return Err(raise::reply("ERR redis.register_function must get a function name argument"));
    };
    let Some(callback) = callback else {
        return Err(raise::reply("ERR redis.register_function must get a callback argument"));
    };
    if flags.iter().any(|flag| crate::header::flag_of(flag).is_none()) {
        return Err(raise::reply("ERR unknown flag given"));
    }
    Ok(Registered { name, description, flags, callback })
}
