//! Lua scripts as Redis runs them: the sandbox, its libraries, and the bounds on what a script may
//! do.
//!
//! ```text
//! lib.rs         the engine: compile, run, libraries of functions
//! prelude.lua    builds what scripts see; api.rs has the natives for it and `redis.*`
//! convert.rs     replies ↔ Lua values
//! meter.rs       how much a script may do
//! raise.rs       errors of native functions, and what a script sees of them
//! header.rs      `#!lua …`
//! library.rs     what the code of a library registers
//! strings.rs, pattern.rs, json.rs, msgpack.rs, structs.rs, bits.rs
//! ```
//!
//! A script reaches the outside only through [`Host`]: this crate knows no commands, no data and
//! no clock. Everything that a script can change ends with its run, except what the functions
//! `cjson.*_…` set and what functions of a library keep in their upvalues, as in Redis.
//!
//! The engine is C Lua 5.1.5 behind `mlua`. Nothing here is `unsafe`.

mod api;
mod bits;
mod convert;
pub mod header;
mod json;
mod library;
mod meter;
mod msgpack;
mod number;
mod pattern;
mod raise;
mod strings;
mod structs;
#[cfg(test)]
mod tests;

pub use library::Registered;
pub use meter::{LOOK_INSTRUCTIONS, Stop};

use meter::Meter;
use mlua::chunk::ChunkMode;
use mlua::state::LuaOptions;
use mlua::{Function, HookTriggers, Lua, MultiValue, StdLib, Table, Value};
use quorate_resp::{Proto, Reply};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The version of Redis that scripts see.
const REDIS_VERSION: &str = "7.2.5";
const REDIS_VERSION_NUM: i64 = 0x0007_0205;

/// Names in the engine's registry.
const SHOWN: &str = "quorate shown";
const NEXT: &str = "quorate next";

/// How much a script may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Instructions of the virtual machine, and as much work of native functions.
    pub instructions: u64,
    /// Time, where `watch` measures it.
    pub time_ms: u64,
    /// Memory beyond what the engine holds without it, and any text a function builds.
    pub memory_bytes: usize,
    /// Any clock, in milliseconds.
    pub watch: Option<fn() -> u64>,
}

/// What a script reaches.
pub trait Host {
    /// Executes a command and appends its reply to `out`.
    fn call(&mut self, args: &[&[u8]], proto: Proto, out: &mut Vec<u8>) -> Result<(), CallError>;
    /// Whether there is such a command.
    fn knows(&self, args: &[&[u8]]) -> bool;
    /// Takes a line for the log; `level` is 0 for debugging to 3 for warnings.
    fn log(&mut self, level: u8, text: &[u8]);
}

/// A command that a script may not execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The error reply, prefix included.
    Refused(String),
    /// The script has to end.
    Stop,
}

/// A compiled script.
#[derive(Clone, Debug)]
pub struct Script(Function);

/// One run of a script.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What errors call it: the SHA-1 of a script, or a function's name.
    pub name: &'a str,
    /// The keys it was given.
    pub keys: &'a [&'a [u8]],
    /// The other arguments.
    pub args: &'a [&'a [u8]],
    /// The protocol version of the reply.
    pub proto: Proto,
    /// Where its random numbers begin.
    pub seed: u64,
    /// What it may do.
    pub limits: Limits,
}

/// Why a script gave no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// It failed: the error reply.
    Failed(Vec<u8>),
    /// It was ended.
    Stopped(Stop),
}

/// An error that a script did not catch.
#[derive(Debug)]
struct Failure {
    text: Vec<u8>,
    place: Option<String>,
}

/// What the natives know of the run at hand.
#[derive(Debug, Default)]
struct Shared {
    meter: Meter,
    /// What `redis.setresp` set.
    proto: Cell<Proto>,
    random: Cell<u64>,
    bytes_max: Cell<usize>,
    failure: RefCell<Option<Failure>>,
    /// What the library being loaded has registered.
    registering: RefCell<Option<Vec<Registered>>>,
}

impl Shared {
    /// Sets where random numbers begin, as C's `srand48`.
    fn seed(&self, seed: u32) {
        self.random.set((u64::from(seed) << 16) + 0x330e);
    }

    /// Fails if a text that is being built has become too long.
    fn check_bytes(&self, len: usize) -> mlua::Result<()> {
        if len > self.bytes_max.get() {
            let text = b"not enough memory".to_vec();
            return Err(mlua::Error::external(raise::Raised::Text(text)));
        }
        Ok(())
    }
}

/// A Lua state with everything that scripts see.
pub struct Engine {
    lua: Lua,
    shared: Rc<Shared>,
    /// What scripts see as their globals, and what it shows.
    environment: Table,
    globals: Table,
    /// What the global `redis` shows.
    redis: Table,
    run: Function,
    sweep: Function,
    /// Memory in use when the garbage was last collected.
    collected_bytes: usize,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({} bytes)", self.lua.used_memory())
    }
}

/// Garbage beyond this, in bytes, is collected after a run.
const GARBAGE_BYTES_MAX: usize = 4 << 20;

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// A fresh one.
    pub fn new() -> Self {
        Self::build().expect("an empty engine has all the memory it needs")
    }

    fn build() -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let options = LuaOptions::new().catch_rust_panics(false);
        let lua = Lua::new_with(libraries, options)?;
        let shared = Rc::new(Shared::default());
        let natives = api::natives(&lua, &shared)?;
        natives.set("string", strings::library(&lua, &shared)?)?;
        natives.set("math", api::math(&lua, &shared)?)?;
        let libraries = lua.create_table()?;
        let redis = api::redis(&lua, &shared)?;
        libraries.set("redis", &redis)?;
        libraries.set("cjson", json::library(&lua, &shared)?)?;
        libraries.set("cmsgpack", msgpack::library(&lua, &shared)?)?;
        libraries.set("struct", structs::library(&lua, &shared)?)?;
        libraries.set("bit", bits::library(&lua)?)?;
        libraries.set("os", api::os(&lua, &shared)?)?;
        natives.set("libraries", libraries)?;
        let raw = lua.globals();
        lua.set_named_registry_value(NEXT, raw.get::<Function>("next")?)?;
        lua.set_named_registry_value(api::HOST, Value::Nil)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude");
        let (environment, globals, shown, run, sweep): (Table, Table, Table, Function, Function) =
            prelude.call(natives)?;
        lua.set_named_registry_value(SHOWN, shown)?;
        // Nothing of the unguarded library is left to be found.
        raw.clear()?;
        lua.set_globals(environment.clone())?;
        let own = Rc::clone(&shared);
        let every = HookTriggers::new().every_nth_instruction(LOOK_INSTRUCTIONS);
        lua.set_global_hook(every, move |_, _| {
            own.meter.charge(u64::from(LOOK_INSTRUCTIONS))?;
            Ok(mlua::VmState::Continue)
        })?;
        lua.gc_collect()?;
        let collected_bytes = lua.used_memory();
        Ok(Self { lua, shared, environment, globals, redis, run, sweep, collected_bytes })
    }

    /// Bytes of memory in use.
    pub fn memory_bytes(&self) -> usize {
        self.lua.used_memory()
    }

    /// Compiles a script without its first line (see [`header`]); or what is wrong with it.
    pub fn compile(&self, code: &[u8]) -> Result<Script, String> {
        self.load(code, "@user_script").map(Script)
    }

    fn load(&self, code: &[u8], name: &str) -> Result<Function, String> {
        if code.first() == Some(&0x1b) {
            return Err("attempt to load a binary chunk".into());
        }
        let chunk = self.lua.load(code).set_name(name).set_mode(ChunkMode::Text);
        chunk.into_function().map_err(|error| raise::engine_text(&error))
    }

    /// Runs a script and appends its reply to `out`.
    pub fn run(
        &mut self,
        script: &Script,
        run: &Run<'_>,
        host: &mut dyn Host,
        out: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        let start = out.len();
        let result = self.prepared(run, |engine| {
            let given = engine.keys_and_args(run)?;
            engine.globals.raw_set("KEYS", &given.0)?;
            engine.globals.raw_set("ARGV", &given.1)?;
            // A script may have changed its own.
            script.0.set_environment(engine.environment.clone())?;
            let returned = engine.hosted(host, |engine| engine.run.call(script.0.clone()))?;
            engine.reply(run, returned, out)
        });
        let _ = self.globals.raw_set("KEYS", Value::Nil);
        let _ = self.globals.raw_set("ARGV", Value::Nil);
        self.finish(run, result, start, out)
    }

    /// Calls a function of a library.
    pub fn call(
        &mut self,
        function: &Registered,
        run: &Run<'_>,
        host: &mut dyn Host,
        out: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        let start = out.len();
        let result = self.prepared(run, |engine| {
            let (keys, args) = engine.keys_and_args(run)?;
            let callback = function.callback.clone();
            let returned = engine.hosted(host, |engine| engine.run.call((callback, keys, args)))?;
            engine.reply(run, returned, out)
        });
        self.finish(run, result, start, out)
    }

    /// Runs the code of a library, without its first line: what it registers.
    pub fn load_library(&mut self, code: &[u8], limits: Limits) -> Result<Vec<Registered>, String> {
        let compiling = |text| format!("ERR Error compiling function: {text}");
        let function = self.load(code, "@user_function").map_err(compiling)?;
        *self.shared.registering.borrow_mut() = Some(Vec::new());
        let (keys, args) = (&[][..], &[][..]);
        let run = Run { name: "", keys, args, proto: Proto::Resp2, seed: 0, limits };
        let result = self.prepared(&run, |engine| {
            let own = Rc::clone(&engine.shared);
            let register = engine
                .lua
                .create_function(move |_, args: MultiValue| library::register(&own, &args))?;
            engine.redis.raw_set("register_function", register)?;
            engine.run.call::<MultiValue>(function)
        });
        let _ = self.redis.raw_set("register_function", Value::Nil);
        let registered = self.shared.registering.borrow_mut().take().unwrap_or_default();
        let stopped = self.shared.meter.stopped();
        let failure = self.shared.failure.borrow_mut().take();
        self.clean();
        if stopped.is_some() {
            return Err("ERR FUNCTION LOAD timeout".into());
        }
        if let Some(failure) = failure {
            let text = failure.text.strip_prefix(b"ERR ").unwrap_or(&failure.text);
            let text = String::from_utf8_lossy(text);
            return Err(format!("ERR Error registering functions: {text}"));
        }
        match result {
            Ok(returned) if returned.front() == Some(&Value::Boolean(true)) => {}
            Ok(_) => return Err("ERR Error registering functions: not enough memory".into()),
            Err(error) => {
                let text = raise::engine_text(&error);
                return Err(format!("ERR Error registering functions: {text}"));
            }
        }
        if registered.is_empty() {
            return Err("ERR No functions registered".into());
        }
        Ok(registered)
    }

    /// Sets the bounds of a run, and lifts them after it.
    fn prepared<R>(&mut self, run: &Run<'_>, f: impl FnOnce(&Self) -> R) -> R {
        let limits = &run.limits;
        self.shared.meter.start(limits.instructions, limits.time_ms, limits.watch);
        self.shared.proto.set(Proto::Resp2);
        self.shared.seed(run.seed as u32);
        self.shared.bytes_max.set(limits.memory_bytes);
        self.shared.failure.borrow_mut().take();
        self.limit_memory(self.lua.used_memory() + limits.memory_bytes);
        let result = f(self);
        self.limit_memory(0);
        result
    }

    fn limit_memory(&self, bytes: usize) {
        self.lua.set_memory_limit(bytes).expect("the engine has an allocator of its own");
    }

    fn keys_and_args(&self, run: &Run<'_>) -> mlua::Result<(Table, Table)> {
        let table = |texts: &[&[u8]]| {
            let table = self.lua.create_table_with_capacity(texts.len(), 0)?;
            for (at, text) in texts.iter().enumerate() {
                table.raw_set(at as i64 + 1, self.lua.create_string(text)?)?;
            }
            Ok::<_, mlua::Error>(table)
        };
        Ok((table(run.keys)?, table(run.args)?))
    }

    fn hosted<R>(
        &self,
        host: &mut dyn Host,
        f: impl FnOnce(&Self) -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        self.lua.scope(|scope| {
            let asked = scope.create_function_mut(|lua, args: MultiValue| {
                api::ask_host(lua, &self.shared, host, args)
            })?;
            self.lua.set_named_registry_value(api::HOST, asked)?;
            let result = f(self);
            self.lua.set_named_registry_value(api::HOST, Value::Nil)?;
            result
        })
    }

    /// Writes what the script returned; `false` first if it failed.
    fn reply(
        &self,
        run: &Run<'_>,
        returned: MultiValue,
        out: &mut Vec<u8>,
    ) -> mlua::Result<Option<Value>> {
        let mut returned = returned.into_iter();
        let succeeded = returned.next() == Some(Value::Boolean(true));
        let value = returned.next().unwrap_or_default();
        if !succeeded {
            return Ok(Some(value));
        }
        self.shared.meter.check()?;
        convert::to_reply(&self.shared, &value, run.proto, 0, out)?;
        Ok(None)
    }

    fn finish(
        &mut self,
        run: &Run<'_>,
        result: mlua::Result<Option<Value>>,
        start: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), RunError> {
        let failure = self.shared.failure.borrow_mut().take();
        let stopped = self.shared.meter.stopped();
        let outcome = match (stopped, failure, result) {
            (Some(why), ..) => Err(RunError::Stopped(why)),
            (None, Some(failure), _) => Err(RunError::Failed(failure_text(run.name, failure))),
            (None, None, Ok(None)) => Ok(()),
            // Not even the handler of errors could run.
            (None, None, Ok(Some(value))) => {
                let text = match &value {
                    Value::String(text) => text.to_string_lossy(),
                    Value::Error(error) => raise::engine_text(error),
                    _ => "execution failure".into(),
                };
                Err(RunError::Failed(unhandled(run.name, &text)))
            }
            (None, None, Err(error)) => {
                Err(RunError::Failed(unhandled(run.name, &raise::engine_text(&error))))
            }
        };
        if outcome.is_err() {
            out.truncate(start);
        }
        self.clean();
        outcome
    }

    /// Undoes what a script could do to others.
    fn clean(&mut self) {
        self.shared.meter.start(u64::MAX, 0, None);
        let swept = self.sweep.call::<()>(());
        let reset = self.lua.set_globals(self.environment.clone());
        debug_assert!(swept.is_ok() && reset.is_ok(), "{swept:?} {reset:?}");
        if self.lua.used_memory() > self.collected_bytes + GARBAGE_BYTES_MAX {
            // Lua frees what a first pass only found to be free.
            let collected = self.lua.gc_collect().and_then(|()| self.lua.gc_collect());
            debug_assert!(collected.is_ok(), "{collected:?}");
            self.collected_bytes = self.lua.used_memory();
        }
    }
}

fn failure_text(name: &str, failure: Failure) -> Vec<u8> {
    let mut text = failure.text;
    if let Some(place) = failure.place {
        text.extend_from_slice(format!(" script: {name}, on {place}.").as_bytes());
    }
    text
}

fn unhandled(name: &str, text: &str) -> Vec<u8> {
    format!("ERR Error running script {name}, {text}").into_bytes()
}

/// The SHA-1 of a script in hexadecimal digits, by which it is called.
pub fn sha1_hex(bytes: &[u8]) -> String {
    sha1_smol::Sha1::from(bytes).digest().to_string()
}

/// Writes an error reply.
pub fn write_error(text: &[u8], proto: Proto, out: &mut Vec<u8>) {
    Reply::new(out, proto).error(text);
}
