//! What a script reaches: the commands of this node, on the shards that it holds.

use crate::conn::Conn;
use crate::dispatch::{Command, ShardList};
use crate::script::Scene;
use crate::session::CONTAINER;
use crate::worker::{TRANSACTION_BYTES_MAX, TRANSACTION_TOO_LARGE, Worker};
use quorate_base::{Index, Millis, ShardId};
use quorate_data::command::flag;
use quorate_data::{Ctx, Error, Spec};
use quorate_resp::{Proto, Reply};
use quorate_script::{CallError, Host, RunError};

/// The error of a key that a script did not declare, in a shard that it does not hold.
const UNDECLARED: &str = "ERR Script attempted to access a key that it did not declare, in a shard \
                          of none of its keys: name every key in KEYS";

/// The reply of a script that was ended after it had removed everything.
const CLEARED: &str = "ERR The script was ended because it took too long; it had removed all keys \
                       before, which cannot be taken back, and nothing else that it did was kept";

/// The same for a command over the whole keyspace.
const WHOLE: &str = "ERR This command needs the whole keyspace, which a script of a cluster does \
                     not have";

pub(super) struct ScriptHost<'a> {
    worker: &'a mut Worker,
    /// Those it holds, with the bytes of their effects when it began to.
    shards: Vec<(ShardId, usize)>,
    declared: usize,
    now: Millis,
    read_only: bool,
    /// It may be taken back and executed again with all shards at hand.
    may_want_all: bool,
    /// For commands that are about a connection.
    conn: Conn,
}

impl<'a> ScriptHost<'a> {
    pub(super) fn new(worker: &'a mut Worker, scene: &Scene<'_>, read_only: bool) -> Self {
        let mut conn = Conn::new(0, String::new(), String::new(), worker.now.mono);
        conn.in_exec = true;
        let mut host = Self {
            worker,
            shards: Vec::new(),
            declared: scene.shards.len(),
            now: scene.now,
            read_only,
            may_want_all: !scene.in_transaction,
            conn,
        };
        scene.shards.iter().for_each(|&shard| host.take(shard));
        host
    }

    fn take(&mut self, shard: ShardId) {
        self.worker.db.shard(shard).prepare_undo();
        self.shards.push((shard, self.worker.batch_bytes(shard)));
    }

    /// Keeps what the script did, or takes it back if the script was ended.
    pub(super) fn finish(mut self, result: Result<(), RunError>) -> Result<(), Error> {
        let ended = matches!(result, Err(RunError::Stopped(_)));
        let mut outcome = super::outcome(result);
        for &(shard, _) in &self.shards {
            let keyspace = self.worker.db.shard(shard);
            if !ended {
                keyspace.keep();
                continue;
            }
            match keyspace.undo() {
                Ok(true) => {}
                Ok(false) => outcome = Err(Error::text(CLEARED)),
                Err(problem) => {
                    if self.worker.in_cluster() {
                        self.worker.peers.damaged = Some(shard);
                    }
                    outcome = Err(problem.into());
                }
            }
        }
        self.worker.scripts.widened = self.shards.split_off(self.declared);
        outcome
    }

    fn changed_bytes(&self) -> usize {
        self.shards.iter().map(|&(s, before)| self.worker.batch_bytes(s) - before).sum()
    }

    fn call_data(
        &mut self,
        spec: &'static Spec,
        args: &[&[u8]],
        proto: Proto,
        out: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        if spec.is(flag::WRITE) {
            self.check_write(spec, args)?;
        }
        let mut shards = ShardList::new();
        self.worker.shards_of(spec, args, &mut shards);
        if let Some(refused) = self.undeclared(&shards) {
            return Err(refused);
        }
        let mut ctx = Ctx {
            db: &mut self.worker.db,
            prng: &mut self.worker.prng,
            reply: Reply::new(out, proto),
            settings: &self.worker.settings,
            now: self.now,
            in_transaction: true,
            retried: false,
            blocked: None,
        };
        let start = ctx.reply.mark();
        if let Err(error) = (spec.run)(&mut ctx, args) {
            ctx.reply.truncate(start);
            ctx.reply.error(error.to_string().as_bytes());
            self.worker.stats.errors += 1;
            if matches!(error, Error::Store(_)) && self.worker.in_cluster() {
                self.worker.peers.damaged = shards.first().copied();
            }
        }
        Ok(())
    }

    fn check_write(&self, spec: &'static Spec, args: &[&[u8]]) -> Result<(), CallError> {
        let bytes = args.iter().map(|arg| arg.len()).sum();
        self.worker.check_writable(Command::Data(spec), bytes).map_err(CallError::Refused)?;
        if self.changed_bytes() >= TRANSACTION_BYTES_MAX {
            let text = String::from_utf8_lossy(TRANSACTION_TOO_LARGE).into_owned();
            return Err(CallError::Refused(text));
        }
        Ok(())
    }

    /// Takes shards that the script did not declare, if they are free; or why it may not use them.
    fn undeclared(&mut self, shards: &[ShardId]) -> Option<CallError> {
        let held = |host: &Self, shard| host.shards.iter().any(|&(held, _)| held == shard);
        let new: ShardList = shards.iter().copied().filter(|&s| !held(self, s)).collect();
        if new.is_empty() {
            return None;
        }
        if !self.worker.in_cluster() && new.iter().all(|&shard| self.worker.is_free(shard)) {
            // As if the script were many commands: nothing else executes here in between.
            for shard in new {
                self.worker.touch(shard);
                self.take(shard);
            }
            return None;
        }
        if !self.worker.in_cluster() && self.may_want_all {
            self.worker.scripts.wants_all = true;
            return Some(CallError::Stop);
        }
        let whole = shards.len() == self.worker.db.map().shards() as usize && shards.len() > 1;
        let text = if whole && self.worker.in_cluster() { WHOLE } else { UNDECLARED };
        Some(CallError::Refused(text.into()))
    }

    fn call_session(
        &mut self,
        run: crate::session::Run,
        args: &[&[u8]],
        proto: Proto,
        out: &mut Vec<u8>,
    ) {
        self.conn.proto = proto;
        run(self.worker, &mut self.conn, args);
        self.conn.parked = None;
        out.extend(self.conn.output.take(|_| Index::MAX));
    }
}

impl Host for ScriptHost<'_> {
    fn call(&mut self, args: &[&[u8]], proto: Proto, out: &mut Vec<u8>) -> Result<(), CallError> {
        let refused = |text: &str| Err(CallError::Refused(text.into()));
        let unknown = "ERR Unknown Redis command called from script";
        let wrong = "ERR Wrong number of args calling Redis command from script";
        let Some(command) = self.worker.commands.get(args[0]) else { return refused(unknown) };
        if !command.accepts(args.len()) {
            return refused(wrong);
        }
        let mut flags = command.flags();
        match command {
            Command::Data(spec) => match spec.check_subcommand(args) {
                Ok(()) => {}
                Err(Error::WrongArity(_)) => return refused(wrong),
                Err(_) => return refused(unknown),
            },
            Command::Session(_) if command.is(CONTAINER) && args.len() > 1 => {
                let subs = crate::session::subs(command.name());
                let named = |name: &str| quorate_data::parse::is_word(args[1], name);
                let Some(sub) = subs.iter().find(|sub| named(sub.name)) else {
                    return refused(unknown);
                };
                if !crate::dispatch::accepts(sub.arity, args.len()) {
                    return refused(wrong);
                }
                flags = sub.flags;
            }
            Command::Session(_) => {}
        }
        if flags & flag::NOSCRIPT != 0 {
            return refused("ERR This Redis command is not allowed from script");
        }
        if flags & flag::WRITE != 0 && self.read_only {
            return refused("ERR Write commands are not allowed from read-only scripts.");
        }
        match command {
            Command::Data(spec) => return self.call_data(spec, args, proto, out),
            Command::Session(spec) => self.call_session(spec.run, args, proto, out),
        }
        Ok(())
    }

    fn knows(&self, args: &[&[u8]]) -> bool {
        self.worker.commands.get(args[0]).is_some()
    }

    /// The node has no log of its own, and its outside none that clients may write.
    fn log(&mut self, _: u8, _: &[u8]) {}
}
