//! EVAL and its kin: scripts, and what they may reach.
//!
//! A script executes like any other command: at once, in memory, with the shards of its keys at
//! hand, and its effects are one part of the turn's batch. Whether it is a write is not known
//! before, so what treats writes apart treats scripts as writes ([`flag::MAY_REPLICATE`]).
//!
//! Compiled scripts are kept by their SHA-1 at every worker of the node. A call by SHA-1 that
//! leaves its worker leaves as a call by the script's text, so nobody else needs to know it.

mod cache;
mod commands;
mod host;
#[cfg(test)]
mod tests;

pub(crate) use cache::Scripts;
pub(crate) use commands::{COMMANDS, SESSION_COMMANDS, SUBS};

use crate::job::Args;
use crate::worker::Worker;
use host::ScriptHost;
use quorate_base::{Millis, ShardId};
use quorate_data::command::flag;
use quorate_data::{Error, Spec, parse};
use quorate_resp::Proto;
use quorate_script::header::Flags;
use quorate_script::{Limits, Run, RunError, Stop, sha1_hex};

/// Instructions of the virtual machine that a script may execute, together with the work of native
/// functions, which is counted as if it were some.
pub(crate) const SCRIPT_INSTRUCTIONS_MAX: u64 = if cfg!(test) { 2_000_000 } else { 50_000_000 };

/// How long a script may take, in milliseconds, where a clock is handed in.
pub(crate) const SCRIPT_MS_MAX: u64 = 1_000;

/// Bytes that a script may hold, and that its reply may have.
pub(crate) const SCRIPT_BYTES_MAX: usize = 64 << 20;

/// The length of a SHA-1 in hexadecimal digits.
const SHA_LEN: usize = 40;

const NOSCRIPT: Error = Error::text("NOSCRIPT No matching script. Please use EVAL.");

type Words<'a> = &'a [&'a [u8]];

/// Where and when a script executes.
pub(crate) struct Scene<'a> {
    /// The shards that it holds.
    pub(crate) shards: &'a [ShardId],
    pub(crate) now: Millis,
    /// It cannot be executed again with other shards.
    pub(crate) in_transaction: bool,
}

/// The keys and the other arguments of a script.
fn split<'a>(args: Words<'a>) -> Result<(Words<'a>, Words<'a>), Error> {
    let count = parse::integer(args[2]).ok_or(Error::NotInteger)?;
    let rest = &args[3..];
    match usize::try_from(count) {
        Ok(count) if count <= rest.len() => Ok(rest.split_at(count)),
        Ok(_) => Err(Error::text("ERR Number of keys can't be greater than number of args")),
        Err(_) => Err(Error::text("ERR Number of keys can't be negative")),
    }
}

impl Worker {
    /// What scripts may do.
    fn script_limits(&self) -> Limits {
        Limits {
            instructions: SCRIPT_INSTRUCTIONS_MAX,
            time_ms: SCRIPT_MS_MAX,
            memory_bytes: SCRIPT_BYTES_MAX,
            watch: self.config.script_watch,
        }
    }

    /// Executes a script and appends its reply to `out`, or gives the error
    /// to reply.
    pub(crate) fn run_script(
        &mut self,
        spec: &Spec,
        args: &[&[u8]],
        scene: &Scene<'_>,
        proto: Proto,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let by_sha = spec.name.starts_with("evalsha");
        if by_sha && args[1].len() != SHA_LEN {
            return Err(NOSCRIPT);
        }
        let (keys, rest) = split(args)?;
        let sha = if by_sha {
            String::from_utf8_lossy(args[1]).to_ascii_lowercase()
        } else {
            self.learn_script(args[1])?
        };
        let (script, flags) = self.scripts.script(&sha).ok_or(NOSCRIPT)?;
        let read_only = self.may_run(flags, spec)?;
        let run = Run {
            name: &sha,
            keys,
            args: rest,
            proto,
            seed: self.prng.next_u64(),
            limits: self.script_limits(),
        };
        let mut engine = self.scripts.take_engine();
        let mut host = ScriptHost::new(self, scene, read_only);
        let result = engine.run(&script, &run, &mut host, out);
        let end = host.finish(result);
        self.scripts.put_engine(engine);
        if self.scripts.wants_all {
            self.scripts.note_wide(&sha);
        }
        end
    }

    /// Whether the script must not write; or why it may not run at all.
    fn may_run(&self, flags: Flags, spec: &Spec) -> Result<bool, Error> {
        let read_only = spec.is(flag::READONLY);
        if flags.has(Flags::COMPATIBLE) {
            return Ok(read_only);
        }
        if flags.has(Flags::NO_CLUSTER) && self.in_cluster() {
            let text = "ERR Can not run script on cluster, 'no-cluster' flag is set.";
            return Err(Error::text(text));
        }
        let no_writes = flags.has(Flags::NO_WRITES);
        if read_only && !no_writes {
            let text = "ERR Can not execute a script with write flag using *_ro command.";
            return Err(Error::text(text));
        }
        Ok(no_writes)
    }

    /// Keeps a script, here and with the other workers; its SHA-1, or what is wrong with it.
    pub(crate) fn learn_script(&mut self, body: &[u8]) -> Result<String, Error> {
        let sha = sha1_hex(body);
        if !self.scripts.has(&sha) {
            self.scripts.load(sha.clone(), body).map_err(Error::owned)?;
            self.tell_others(&crate::message::Question::LoadScript(body.to_vec()));
        }
        Ok(sha)
    }

    /// True for a script that is known to use keys that it does not declare, at other workers.
    pub(crate) fn needs_all_shards(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        if !self.scripts.has_wide() || self.in_cluster() {
            return false;
        }
        if spec.name.starts_with("evalsha") {
            return self.scripts.is_wide(&String::from_utf8_lossy(args[1]).to_ascii_lowercase());
        }
        self.scripts.is_wide(&sha1_hex(args[1]))
    }

    /// True for a call by a SHA-1 that is not known: it executes here, to say so.
    pub(crate) fn lacks_script(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        spec.name.starts_with("evalsha") && self.scripts.body(args[1]).is_none()
    }

    /// The arguments with which a call of a script leaves for another worker or node, where they
    /// are not those given. The script is kept here.
    pub(crate) fn travelling_script(&mut self, spec: &Spec, args: &[&[u8]]) -> Option<Args> {
        if spec.flags & flag::SCRIPT == 0 {
            return None;
        }
        if spec.name.starts_with("evalsha") {
            let body = self.scripts.body(args[1])?;
            let name: &[u8] = if spec.is(flag::READONLY) { b"EVAL_RO" } else { b"EVAL" };
            let all: Vec<&[u8]> =
                [name, &body].into_iter().chain(args[2..].iter().copied()).collect();
            return Some(Args::new(&all));
        }
        // What is wrong with it is said where it executes.
        let _ = self.learn_script(args[1]);
        None
    }

    /// The same for a command that was kept.
    pub(crate) fn travelling_args(&mut self, args: Args) -> Args {
        let slices = args.slices();
        let Some(crate::dispatch::Command::Data(spec)) = self.commands.get(slices[0]) else {
            drop(slices);
            return args;
        };
        let travelling = self.travelling_script(spec, &slices);
        drop(slices);
        travelling.unwrap_or(args)
    }
}

/// What the client is told of a script that was ended.
fn stopped_text(why: Stop) -> String {
    match why {
        Stop::Instructions => format!(
            "ERR The script was ended: it may execute {SCRIPT_INSTRUCTIONS_MAX} instructions, and \
             did; nothing that it did was kept"
        ),
        Stop::Time => format!(
            "ERR The script was ended: it may take {SCRIPT_MS_MAX} ms, and did; nothing that it \
             did was kept"
        ),
        // Nobody sees this: it executes again.
        Stop::Host => "ERR The script needs other shards".into(),
    }
}

/// The result of a run as that of a command.
fn outcome(result: Result<(), RunError>) -> Result<(), Error> {
    match result {
        Ok(()) => Ok(()),
        Err(RunError::Failed(text)) => {
            Err(Error::owned(String::from_utf8_lossy(&text).into_owned()))
        }
        Err(RunError::Stopped(why)) => Err(Error::owned(stopped_text(why))),
    }
}
