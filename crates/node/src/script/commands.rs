//! The commands of scripts.

use crate::conn::Conn;
use crate::message::Question;
use crate::session::{ALLOW_BUSY, CONTAINER, SessionSpec, Sub, run_sub};
use crate::worker::Worker;
use quorate_data::command::{Keys, flag};
use quorate_data::parse::is_word;
use quorate_data::{Ctx, Error, Spec};

const EITHER: u32 = flag::NOSCRIPT
    | flag::STALE
    | flag::SKIP_MONITOR
    | flag::NO_MANDATORY_KEYS
    | flag::MOVABLE_KEYS
    | flag::SCRIPT;
const WRITES: u32 = EITHER | flag::MAY_REPLICATE;
const READS: u32 = EITHER | flag::READONLY;
const KEYS: Keys = Keys::Counted { at: 2, fixed: 0 };

/// The commands that execute where their keys are; [`Worker::run_script`] executes them.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "eval", arity: -3, flags: WRITES, keys: KEYS, run: not_here },
    Spec { name: "eval_ro", arity: -3, flags: READS, keys: KEYS, run: not_here },
    Spec { name: "evalsha", arity: -3, flags: WRITES, keys: KEYS, run: not_here },
    Spec { name: "evalsha_ro", arity: -3, flags: READS, keys: KEYS, run: not_here },
];

/// The node knows the engine, the data layer does not.
fn not_here(_: &mut Ctx<'_>, _: &[&[u8]]) -> Result<(), Error> {
    Err(Error::text("ERR a script cannot execute within another command"))
}

/// The other commands.
pub(crate) const SESSION_COMMANDS: &[SessionSpec] = &[SessionSpec {
    name: "script",
    arity: -2,
    flags: CONTAINER,
    run: |worker, conn, args| run_sub(worker, conn, "script", args),
}];

/// The subcommands of SCRIPT.
pub(crate) const SUBS: &[Sub] = &[
    Sub { name: "debug", arity: 3, flags: flag::NOSCRIPT, run: debug },
    Sub { name: "exists", arity: -3, flags: flag::NOSCRIPT, run: exists },
    Sub { name: "flush", arity: -2, flags: flag::NOSCRIPT, run: flush },
    Sub { name: "help", arity: 2, flags: flag::LOADING | flag::STALE, run: help },
    Sub { name: "kill", arity: 2, flags: flag::NOSCRIPT | ALLOW_BUSY, run: kill },
    Sub { name: "load", arity: 3, flags: flag::NOSCRIPT | flag::STALE, run: load },
];

fn load(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match worker.learn_script(args[2]) {
        Ok(_) => worker.ask(conn, &Question::LoadScript(args[2].to_vec())),
        Err(error) => conn.error(&error.to_string()),
    }
}

fn exists(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let known: Vec<bool> = args[2..]
        .iter()
        .map(|sha| worker.scripts.has(&String::from_utf8_lossy(sha).to_ascii_lowercase()))
        .collect();
    let mut reply = conn.reply();
    reply.array(known.len());
    known.into_iter().for_each(|known| reply.int(i64::from(known)));
}

fn flush(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let valid = match args {
        [_, _] => true,
        [_, _, mode] => is_word(mode, "sync") || is_word(mode, "async"),
        _ => false,
    };
    if !valid {
        return conn.error("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
    }
    worker.ask(conn, &Question::FlushScripts);
}

/// A script ends by itself before another command executes here.
fn kill(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.error("NOTBUSY No scripts in execution right now.");
}

fn debug(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.error("ERR Scripts cannot be debugged on this server: try them on a Redis server");
}

fn help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    crate::session::help(
        &mut conn.reply(),
        "SCRIPT",
        &[
            ("DEBUG (YES|SYNC|NO)", "Answers with an error: there is no debugger."),
            ("EXISTS <sha1> [<sha1> ...]", "Show which of the scripts are known."),
            ("FLUSH [ASYNC|SYNC]", "Forget all scripts of this node."),
            ("KILL", "Answers that no script is running: scripts end by themselves."),
            ("LOAD <script>", "Keep a script without running it."),
        ],
    );
}
