//! `redis.*`, and what replaces functions of Lua's own library that must know the run at hand:
//! random numbers, the clock, loading code.

use crate::convert::{error_table, to_lua};
use crate::raise::{self, Args, type_name, visible};
use crate::{CallError, Failure, Host, REDIS_VERSION, REDIS_VERSION_NUM, Shared};
use mlua::chunk::ChunkMode;
use mlua::{Lua, MultiValue, Table, Value};
use quorate_resp::Proto;
use std::rc::Rc;

/// Where the function is kept through which a script reaches its host.
pub(crate) const HOST: &str = "quorate host";

/// What the host is asked for.
const CALL: i64 = 0;
const LOG: i64 = 1;
const KNOWS: i64 = 2;

/// Instructions that `os.clock` takes for a second: it must not read a clock.
const CLOCK_INSTRUCTIONS: f64 = 100e6;

/// The function behind [`HOST`]: the first argument says what is asked for.
pub(crate) fn ask_host(
    lua: &Lua,
    shared: &Shared,
    host: &mut dyn Host,
    args: MultiValue,
) -> mlua::Result<(bool, Value)> {
    let mut args = args.into_iter();
    let what = args.next().and_then(|value| value.as_i64());
    let texts: Vec<Vec<u8>> = args.filter_map(|value| argument(&value)).collect();
    let slices: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    match what {
        Some(KNOWS) => return Ok((false, Value::Boolean(host.knows(&slices)))),
        Some(LOG) => {
            let level = slices[0].first().map_or(0, |digit| digit - b'0');
            host.log(level, &slices[1..].join(&b' '));
            return Ok((false, Value::Nil));
        }
        _ => {}
    }
    let mut reply = Vec::new();
    match host.call(&slices, shared.proto.get(), &mut reply) {
        Ok(()) => {
            shared.meter.charge(reply.len() as u64 / 64)?;
            Ok((reply.first() == Some(&b'-'), to_lua(lua, &reply)?))
        }
        Err(CallError::Refused(text)) => Ok((true, error_table(lua, text.as_bytes())?)),
        Err(CallError::Stop) => {
            shared.meter.stop(crate::Stop::Host);
            shared.meter.check()?;
            unreachable!("the meter was stopped")
        }
    }
}

/// An argument of a command.
fn argument(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(number) => Some(number.to_string().into_bytes()),
        Value::Number(number) => Some(quorate_resp::reply::format_double(*number).into_bytes()),
        _ => None,
    }
}

/// Asks the host, if a script runs.
fn ask(lua: &Lua, name: &str, what: i64, args: MultiValue) -> mlua::Result<(bool, Value)> {
    let Value::Function(host) = lua.named_registry_value(HOST)? else {
        let text = format!("ERR redis.{name} can only be called inside a script invocation");
        return Err(raise::reply(text));
    };
    let mut args = args;
    args.push_front(Value::Integer(what));
    host.call(args)
}

/// The problem with arguments of a command, if there is one.
fn refused(args: &MultiValue) -> Option<&'static str> {
    if args.is_empty() {
        return Some("ERR Please specify at least one argument for this redis lib call");
    }
    let fits = |v: &Value| matches!(v, Value::String(_) | Value::Integer(_) | Value::Number(_));
    (!args.iter().all(fits))
        .then_some("ERR Lua redis lib command arguments must be strings or integers")
}

fn call(lua: &Lua, args: MultiValue, throws: bool) -> mlua::Result<Value> {
    let (failed, value) = match refused(&args) {
        Some(text) => (true, error_table(lua, text.as_bytes())?),
        None => ask(lua, "call/pcall", CALL, args)?,
    };
    match &value {
        Value::Table(table) if failed && throws => {
            Err(raise::reply(&*table.raw_get::<mlua::LuaString>("err")?.as_bytes()))
        }
        _ => Ok(value),
    }
}

/// The global `redis`.
pub(crate) fn redis(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("call", lua.create_function(|lua, args| call(lua, args, true))?)?;
    table.set("pcall", lua.create_function(|lua, args| call(lua, args, false))?)?;
    table.set(
        "error_reply",
        lua.create_function(|lua, args: MultiValue| error_reply(lua, &args))?,
    )?;
    table.set(
        "status_reply",
        lua.create_function(|lua, args: MultiValue| status_reply(lua, &args))?,
    )?;
    table.set("sha1hex", lua.create_function(|lua, args: MultiValue| sha1hex(lua, &args))?)?;
    table.set("log", lua.create_function(log)?)?;
    let own = Rc::clone(shared);
    let setresp = lua.create_function(move |lua, args| set_resp(lua, &own, args))?;
    table.set("setresp", setresp)?;
    table.set("set_repl", lua.create_function(set_repl)?)?;
    table.set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    table.set("acl_check_cmd", lua.create_function(acl_check_cmd)?)?;
    let numbers = [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", REDIS_VERSION_NUM),
    ];
    for (name, number) in numbers {
        table.set(name, number)?;
    }
    table.set("REDIS_VERSION", REDIS_VERSION)?;
    Ok(table)
}

fn only_string(args: &MultiValue) -> Option<Vec<u8>> {
    match args.iter().collect::<Vec<_>>()[..] {
        [Value::String(text)] => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn error_reply(lua: &Lua, args: &MultiValue) -> mlua::Result<Value> {
    let Some(text) = only_string(args) else {
        return error_table(lua, b"ERR wrong number or type of arguments");
    };
    let text = text.strip_prefix(b"-").unwrap_or(&text);
    let trimmed = text.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
    let text = &text[..trimmed];
    if text.contains(&b' ') {
        return error_table(lua, text);
    }
    error_table(lua, &[b"ERR ", text].concat())
}

fn status_reply(lua: &Lua, args: &MultiValue) -> mlua::Result<Value> {
    let Some(text) = only_string(args) else {
        return error_table(lua, b"ERR wrong number or type of arguments");
    };
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set("ok", lua.create_string(text)?)?;
    Ok(Value::Table(table))
}

fn sha1hex(_: &Lua, args: &MultiValue) -> mlua::Result<String> {
    match args.iter().collect::<Vec<_>>()[..] {
        [value] => Ok(crate::sha1_hex(&argument(value).unwrap_or_default())),
        _ => Err(raise::reply("ERR wrong number of arguments")),
    }
}

fn log(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let given = Args::new(lua, "log", args.clone());
    if given.len() < 2 {
        return Err(raise::reply("ERR redis.log() requires two arguments or more."));
    }
    let Ok(level) = given.number(0) else {
        return Err(raise::reply("ERR First argument must be a number (log level)."));
    };
    if !(0.0..=3.0).contains(&level) {
        return Err(raise::reply("ERR Invalid log level."));
    }
    let mut asked = MultiValue::new();
    asked.push_back(Value::Integer(level as i64));
    asked.extend(args.into_iter().skip(1));
    ask(lua, "log", LOG, asked).map(drop)
}

fn set_resp(lua: &Lua, shared: &Shared, args: MultiValue) -> mlua::Result<()> {
    let args = Args::new(lua, "setresp", args);
    if args.len() != 1 {
        return Err(raise::reply("ERR redis.setresp() requires one argument."));
    }
    match args.number(0).unwrap_or_default() as i64 {
        2 => shared.proto.set(Proto::Resp2),
        3 => shared.proto.set(Proto::Resp3),
        _ => return Err(raise::reply("ERR RESP version must be 2 or 3.")),
    }
    Ok(())
}

/// Accepted and without effect: what is replicated is what a script changed.
fn set_repl(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    let args = Args::new(lua, "set_repl", args);
    if args.len() != 1 {
        return Err(raise::reply("ERR redis.set_repl() requires one argument."));
    }
    if args.number(0).unwrap_or_default() as i64 & !3 != 0 {
        return Err(raise::reply(
            "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        ));
    }
    Ok(())
}

fn acl_check_cmd(lua: &Lua, args: MultiValue) -> mlua::Result<Value> {
    if let Some(text) = refused(&args) {
        return Err(raise::reply(text));
    }
    match ask(lua, "acl_check_cmd", KNOWS, args)? {
        (_, Value::Boolean(true)) => Ok(Value::Boolean(true)),
        _ => Err(raise::reply("ERR Invalid command passed to redis.acl_check_cmd()")),
    }
}

/// `math.random` and `math.randomseed`: the sequence of each seed is Redis' own, C's `lrand48`.
pub(crate) fn math(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    let random = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "random", args);
        let next = own.random.get().wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & ((1 << 48) - 1);
        own.random.set(next);
        let max = i64::from(i32::MAX);
        let drawn = ((next >> 17) as i64 % max) as f64 / max as f64;
        let (least, most) = match args.len() {
            0 => return Ok(drawn),
            1 => (1, args.integer(0)? as i32),
            2 => (args.integer(0)? as i32, args.integer(1)? as i32),
            _ => return Err(raise::error(lua, "wrong number of arguments")),
        };
        if least > most {
            return Err(args.bad(args.len() - 1, "interval is empty"));
        }
        let count = i64::from(most) - i64::from(least) + 1;
        Ok((drawn * count as f64).floor() + f64::from(least))
    })?;
    table.set("random", random)?;
    let own = Rc::clone(shared);
    let seed = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "randomseed", args);
        own.seed(args.integer(0)? as u32);
        Ok(())
    })?;
    table.set("randomseed", seed)?;
    Ok(table)
}

/// `os`, which has only `clock`: it counts what the script has executed, so that a script which
/// waits for it to go on goes on, and never reads a clock.
pub(crate) fn os(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    let clock = lua.create_function(move |_, _: MultiValue| {
        Ok(own.meter.used() as f64 / CLOCK_INSTRUCTIONS)
    })?;
    table.set("clock", clock)?;
    Ok(table)
}

/// What the prelude builds the globals from, besides Lua's own library.
pub(crate) fn natives(lua: &Lua, shared: &Rc<Shared>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let own = Rc::clone(shared);
    let seen = lua.create_function(move |lua, value| {
        own.meter.check()?;
        visible(lua, value)
    })?;
    table.set("seen", seen)?;
    let own = Rc::clone(shared);
    // Before Redis 7 errors were strings, and this is what `pcall` still returns.
    let plain = lua.create_function(move |lua, value| {
        own.meter.check()?;
        match visible(lua, value)? {
            Value::Table(error) => Ok(match error.get::<Value>("err")? {
                text @ Value::String(_) => text,
                _ => Value::Table(error),
            }),
            other => Ok(other),
        }
    })?;
    table.set("plain", plain)?;
    let own = Rc::clone(shared);
    table.set("trace", lua.create_function(move |lua, value| trace(lua, &own, value))?)?;
    let missing = lua.create_function(|lua, (_, name): (Value, Value)| -> mlua::Result<()> {
        let name = argument(&name).unwrap_or_default();
        let name = String::from_utf8_lossy(&name);
        let text = format!("Script attempted to access nonexistent global variable '{name}'");
        Err(raise::error(lua, text))
    })?;
    table.set("missing", missing)?;
    let read_only = lua.create_function(|lua, _: MultiValue| -> mlua::Result<()> {
        Err(raise::error(lua, "Attempt to modify a readonly table"))
    })?;
    table.set("read_only", read_only)?;
    let own = Rc::clone(shared);
    let sorted = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "sort", args);
        let len = args.table(0)?.raw_len() as u64;
        own.meter.charge(len * u64::from(len.max(2).ilog2()) / 4)
    })?;
    table.set("charge_sort", sorted)?;
    loading(lua, shared, &table)?;
    let count = |lua: &Lua, _: MultiValue| Ok(lua.used_memory() as f64 / 1024.0);
    table.set("gcinfo", lua.create_function(count)?)?;
    let collect = lua.create_function(move |lua, args: MultiValue| match args.front() {
        Some(Value::String(what)) if *what.as_bytes() == *b"count" => count(lua, args),
        // The engine decides when to collect: a script could make it take long, or never happen.
        _ => Ok(0.0),
    })?;
    table.set("collectgarbage", collect)?;
    Ok(table)
}

fn loading(lua: &Lua, shared: &Rc<Shared>, table: &Table) -> mlua::Result<()> {
    let loadstring = lua.create_function(|lua, args| {
        let args = Args::new(lua, "loadstring", args);
        let code = args.string(0)?;
        let code = code.as_bytes();
        let name = if args.is_none_or_nil(1) {
            code.to_vec()
        } else {
            args.string(1)?.as_bytes().to_vec()
        };
        load(lua, &code, &name)
    })?;
    table.set("loadstring", loadstring)?;
    let own = Rc::clone(shared);
    let load_pieces = lua.create_function(move |lua, args| {
        let args = Args::new(lua, "load", args);
        let Value::Function(reader) = args.get(0) else {
            let got = type_name(args.get(0));
            return Err(args.bad(0, &format!("function expected, got {got}")));
        };
        let mut code = Vec::new();
        loop {
            match reader.call::<Value>(())? {
                Value::Nil => break,
                Value::String(piece) if piece.as_bytes().is_empty() => break,
                Value::String(piece) => code.extend_from_slice(&piece.as_bytes()),
                _ => return Err(raise::error(lua, "reader function must return a string")),
            }
            own.check_bytes(code.len())?;
        }
        let name = if args.is_none_or_nil(1) {
            b"=(load)".to_vec()
        } else {
            args.string(1)?.as_bytes().to_vec()
        };
        load(lua, &code, &name)
    })?;
    table.set("load", load_pieces)?;
    let rawset = lua.create_function(|lua, args| {
        let args = Args::new(lua, "rawset", args);
        let target = args.table(0)?;
        if lua.named_registry_value::<Table>(crate::SHOWN)?.contains_key(&target)? {
            return Err(mlua::Error::external(raise::Raised::Text(
                b"Attempt to modify a readonly table".to_vec(),
            )));
        }
        match args.get(1) {
            Value::Nil => return Err(raise::error(lua, "table index is nil")),
            Value::Number(key) if key.is_nan() => {
                return Err(raise::error(lua, "table index is NaN"));
            }
            _ => {}
        }
        target.raw_set(args.get(1), args.get(2))?;
        Ok(target)
    })?;
    table.set("rawset", rawset)?;
    table.set("pairs", lua.create_function(pairs)?)
}

/// Text only: what is compiled already could break the engine.
fn load(lua: &Lua, code: &[u8], name: &[u8]) -> mlua::Result<(Value, Value)> {
    let problem = if code.first() == Some(&0x1b) {
        "attempt to load a binary chunk".to_owned()
    } else {
        let name = String::from_utf8_lossy(name);
        let name: String = name.chars().filter(|c| *c != '\0').collect();
        match lua.load(code).set_name(name).set_mode(ChunkMode::Text).into_function() {
            Ok(function) => return Ok((Value::Function(function), Value::Nil)),
            Err(error) => raise::engine_text(&error),
        }
    };
    Ok((Value::Nil, Value::String(lua.create_string(problem)?)))
}

/// `pairs`; what is shown by a guard is walked over without giving it away.
fn pairs(lua: &Lua, args: MultiValue) -> mlua::Result<(Value, Value, Value)> {
    let args = Args::new(lua, "pairs", args);
    let table = args.table(0)?;
    let next: mlua::Function = lua.named_registry_value(crate::NEXT)?;
    let real: Value = lua.named_registry_value::<Table>(crate::SHOWN)?.raw_get(&table)?;
    let Value::Table(real) = real else {
        return Ok((Value::Function(next), Value::Table(table), Value::Nil));
    };
    let step = lua.create_function(move |_, (_, key): (Value, Value)| {
        next.call::<MultiValue>((&real, key))
    })?;
    Ok((Value::Function(step), Value::Table(table), Value::Nil))
}

/// Notes an error that nobody caught, with the place where it happened.
fn trace(lua: &Lua, shared: &Shared, value: Value) -> mlua::Result<()> {
    if shared.meter.stopped().is_some() {
        return Ok(());
    }
    let text = match visible(lua, value)? {
        Value::Table(error) => match error.raw_get::<Value>("err")? {
            Value::String(text) => text.as_bytes().to_vec(),
            _ => b"ERR unknown error".to_vec(),
        },
        Value::Nil => b"ERR nil".to_vec(),
        Value::Boolean(value) => format!("ERR {value}").into_bytes(),
        other => {
            let text = lua.coerce_string(other.clone())?;
            let text = text.map_or(type_name(&other).into(), |text| text.as_bytes().to_vec());
            [b"ERR ", text.as_slice()].concat()
        }
    };
    // The function that failed, or the one that called it if it is a native one.
    let place = |level| {
        lua.inspect_stack(level, |debug| {
            let source = debug.source();
            let line = debug.current_line().map_or(-1, |line| line as i64);
            let text = format!("{}:{line}", source.source.unwrap_or_default());
            (source.what == "C" || text.starts_with("=prelude"), text)
        })
    };
    // Below this function stands the engine's `xpcall`, below that one what failed.
    let place = match place(2) {
        Some((true, _)) => match place(3) {
            Some((true, text)) if text.starts_with("=prelude") => place(4),
            other => other,
        },
        other => other,
    };
    let place = place.map(|(_, place)| place);
    *shared.failure.borrow_mut() = Some(Failure { text, place });
    Ok(())
}
