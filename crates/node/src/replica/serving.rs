//! At the leader: requests execute at once, and are answered when what they did is agreed on.
//!
//! A request that changed something waits for the commit of its entry. One that changed nothing
//! waits until this replica is known to still lead (a lease, or a round of messages), and for the
//! commit of what it has read.

use super::routing::TOKENS;
use crate::conn::Conn;
use crate::dispatch::Command;
use crate::job::{Args, Job, JobId, Origin, Work};
use crate::peer::Address;
use crate::peer::message::{Body, Cancel, PeerMessage, Refusal, Request};
use crate::replica::gateway;
use crate::script::Scene;
use crate::worker::{Mode, TRANSACTION_BYTES_MAX, TRANSACTION_TOO_LARGE, TURN_BYTES_MAX, Worker};
use crate::worker::{keys_of, owned};
use quorate_base::codec::put_varint;
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_base::{Index, ShardId};
use quorate_data::command::{Block, flag};
use quorate_data::requests::{Fate, Outcome, RequestId};
use quorate_data::{Ctx, Spec};
use quorate_resp::{Proto, Reply};
use std::collections::{BTreeMap, VecDeque};

/// Who is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The gateway of this node.
    Here(u64),
    /// That of another one, over this link.
    Peer { node: NodeId, link: u64, ticket: u64 },
}

/// A request that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) shard: ShardId,
    pub(crate) whom: Whom,
    /// The name of a write, and the floor of its session.
    pub(crate) name: Option<(RequestId, u64)>,
}

/// Answers that must not leave yet.
#[derive(Debug, Default)]
pub(crate) struct Held {
    by_index: BTreeMap<(Index, u64), (Whom, Vec<u8>)>,
    by_read: VecDeque<(u64, Index, Whom, Vec<u8>)>,
    count: u64,
}

/// What executing something gave.
struct Done {
    reply: Vec<u8>,
    changed: bool,
    observed: Index,
}

impl Worker {
    /// Another node's gateway asks for something.
    pub(crate) fn on_request_of(&mut self, node: NodeId, shard: ShardId, request: Request) {
        let Some(link) = self.peers.link(node) else { return };
        let Request { ticket, round, name, proto, body } = request;
        let replica = self.replica(shard);
        let entry = replica.rounds.entry(node).or_insert((link, round));
        if entry.0 != link {
            *entry = (link, round);
        }
        if round < entry.1 {
            return self.peers.mark(RarePath::RoundDropped);
        }
        entry.1 = round;
        let whom = Whom::Peer { node, link, ticket };
        let Err(why) = self.serve(Asked { shard, whom, name }, proto, body) else { return };
        if why == Refusal::NotLeader {
            self.replica(shard).rounds.insert(node, (link, round + 1));
        }
        let message = PeerMessage::Refused { round, ticket, why };
        self.post(node, Address::Shard(shard), &message);
    }

    /// Executes a request, or refuses it.
    pub(crate) fn serve(&mut self, asked: Asked, proto: Proto, body: Body) -> Result<(), Refusal> {
        let shard = asked.shard;
        if !self.leads(shard) || self.stopping {
            return Err(Refusal::NotLeader);
        }
        if self.turn_bytes >= TURN_BYTES_MAX {
            self.divide_turn();
        }
        if let Some((id, _)) = asked.name {
            // It may wait here since it came the first time; it must not execute twice.
            let same = |other: &Asked| other.name.is_some_and(|(other, _)| other == id);
            self.jobs_asked(shard, same).into_iter().for_each(|job| self.cancel(job));
            if self.answer_repeated(asked, id)? {
                return Ok(());
            }
        }
        match body {
            Body::Command(args) => self.serve_command(asked, proto, &args),
            Body::Part(args) => {
                self.db.restrict(Some(shard));
                self.serve_command(asked, proto, &args);
                self.db.restrict(None);
            }
            Body::Exec { watched, commands } => {
                let done = self.run_transaction(shard, proto, &watched, &commands);
                self.finish(asked, done);
            }
            Body::Watch(keys) => {
                let done = self.read_tokens(shard, &keys);
                self.finish(asked, done);
            }
            Body::Open(session) => {
                self.touch(shard);
                self.db.shard(shard).open_session(session);
                let reply = b"+OK\r\n".to_vec();
                self.finish(asked, Done { reply, changed: true, observed: 0 });
            }
            Body::Outcome(id) => {
                let done = self.tell_outcome(shard, id);
                self.finish(asked, done);
            }
        }
        if let Some(shard) = self.peers.damaged.take() {
            // Somebody else leads next, and executes it there.
            self.abandon_table(shard);
            return Ok(());
        }
        // Whom this woke goes first.
        while let Some(job) = self.runnable.pop_front() {
            self.advance(job);
        }
        Ok(())
    }

    /// Answers a request that was executed before, or can be no more. False if it is a new one.
    fn answer_repeated(&mut self, asked: Asked, id: RequestId) -> Result<bool, Refusal> {
        let (index, reply) = match self.db.shard(asked.shard).fate(id) {
            Fate::New => return Ok(false),
            Fate::NoSession => return Err(Refusal::NoSession),
            Fate::Executed(index, Outcome::Reply(reply)) => (index, reply),
            Fate::Executed(index, Outcome::NotKept) => (index, lost_reply(asked.shard, id)),
            Fate::Executed(_, Outcome::Void) | Fate::Forgotten => {
                self.peers.mark(RarePath::RequestVoid);
                let id = gateway::format_id(asked.shard, id);
                let text = format!("UNKNOWN {id} the command was given up before");
                (0, gateway::error(&text))
            }
        };
        self.peers.mark(RarePath::RequestRepeated);
        let read = self.read_barrier(asked.shard);
        self.hold_answer(asked, index, read, reply);
        Ok(true)
    }

    fn serve_command(&mut self, asked: Asked, proto: Proto, args: &Args) {
        let args = args.slices();
        let Some(Command::Data(spec)) = self.commands.get(args[0]) else {
            // Nodes of different versions know different commands.
            let text = "ERR the leader of this shard does not know this command";
            return self.hold_answer(asked, 0, 0, gateway::error(text));
        };
        if spec.flags & flag::WRITE != 0
            && let Err(text) =
                self.check_writable(Command::Data(spec), args.iter().map(|arg| arg.len()).sum())
        {
            return self.hold_answer(asked, 0, 0, gateway::error(&text));
        }
        let (done, block) = self.run_spec(asked.shard, proto, spec, &args, Mode::default());
        let Some(block) = block else { return self.finish(asked, done) };
        let keys = keys_of(spec, &args);
        let work = Work::Command { command: Command::Data(spec), args: owned(&args, &block) };
        let job = self.new_job(Origin::Asked(asked), proto, work, &[asked.shard]);
        self.block(job, keys, &block);
    }

    /// Tries a command again that waited for a key.
    pub(crate) fn run_asked(&mut self, mut job: Job, asked: Asked) {
        let Work::Command { command: Command::Data(spec), args } = &job.work else {
            unreachable!("only commands wait")
        };
        let (spec, args) = (*spec, args.clone());
        let args = args.slices();
        let mode = Mode { in_transaction: false, retried: true };
        let (done, block) = self.run_spec(asked.shard, job.proto, spec, &args, mode);
        if let Some(block) = block {
            if let Work::Command { args: kept, .. } = &mut job.work {
                *kept = owned(&args, &block);
            }
            let (shards, id) = (job.shards.clone(), job.id);
            self.block(job, keys_of(spec, &args), &block);
            return self.release_shards_of(&shards, id);
        }
        self.unregister(&mut job);
        self.release_shards_of(&job.shards, job.id);
        self.finish(asked, done);
    }

    /// Executes a command whose keys are all in `shard`.
    fn run_spec(
        &mut self,
        shard: ShardId,
        proto: Proto,
        spec: &Spec,
        args: &[&[u8]],
        mode: Mode,
    ) -> (Done, Option<Block>) {
        self.touch(shard);
        let before = self.batch_bytes(shard);
        let now = self.db.shard(shard).now();
        let mut reply = Vec::new();
        let (result, blocked) = if spec.flags & flag::SCRIPT != 0 {
            let scene = Scene { shards: &[shard], now, in_transaction: true };
            (self.run_script(spec, args, &scene, proto, &mut reply), None)
        } else {
            let mut ctx = Ctx {
                db: &mut self.db,
                prng: &mut self.prng,
                reply: Reply::new(&mut reply, proto),
                settings: &self.settings,
                now,
                in_transaction: mode.in_transaction,
                retried: mode.retried,
                blocked: None,
            };
            let result = (spec.run)(&mut ctx, args);
            (result, ctx.blocked.take())
        };
        if let Err(error) = result {
            reply.clear();
            Reply::new(&mut reply, proto).error(error.to_string().as_bytes());
            self.stats.errors += 1;
            if matches!(error, quorate_data::Error::Store(_)) {
                self.peers.damaged = Some(shard);
            }
        }
        let keyspace = self.db.shard(shard);
        let changed = keyspace.batch().len() != before;
        let observed = keyspace.observed();
        self.turn_bytes += keyspace.batch().len() - before;
        (Done { reply, changed, observed }, blocked)
    }

    fn run_transaction(
        &mut self,
        shard: ShardId,
        proto: Proto,
        watched: &[(Vec<u8>, bool, u64)],
        commands: &[Args],
    ) -> Done {
        let mut all = Done { reply: Vec::new(), changed: false, observed: 0 };
        self.touch(shard);
        for (key, live, token) in watched {
            // A table that cannot be read says so to the command that needs it.
            let now = self.db.shard(shard).watch_token(key).unwrap_or_default();
            if now != (*live, *token) {
                all.observed = self.db.shard(shard).observed();
                Reply::new(&mut all.reply, proto).null_array();
                return all;
            }
        }
        all.observed = self.db.shard(shard).observed();
        let start = self.turn_bytes;
        let mut conn = Conn::new(0, String::new(), String::new(), self.now.mono);
        (conn.proto, conn.in_exec) = (proto, true);
        Reply::new(&mut all.reply, proto).array(commands.len());
        for args in commands {
            let args = args.slices();
            match self.commands.get(args[0]) {
                Some(Command::Data(spec))
                    if spec.flags & flag::WRITES == 0
                        || self.turn_bytes - start < TRANSACTION_BYTES_MAX =>
                {
                    let mode = Mode { in_transaction: true, retried: false };
                    let (done, _) = self.run_spec(shard, proto, spec, &args, mode);
                    all.reply.extend(done.reply);
                    all.changed |= done.changed;
                    all.observed = all.observed.max(done.observed);
                }
                Some(Command::Session(spec)) => {
                    (spec.run)(self, &mut conn, &args);
                    all.reply.extend(conn.output.take(|_| Index::MAX));
                }
                _ => Reply::new(&mut all.reply, proto).error(TRANSACTION_TOO_LARGE),
            }
        }
        all
    }

    fn read_tokens(&mut self, shard: ShardId, keys: &Args) -> Done {
        self.touch(shard);
        let mut reply = vec![TOKENS];
        for key in keys.slices() {
            match self.db.shard(shard).watch_token(key) {
                Ok((live, token)) => {
                    reply.push(u8::from(live));
                    put_varint(&mut reply, token);
                }
                Err(problem) => {
                    reply = gateway::error(&quorate_data::Error::from(problem).to_string());
                    break;
                }
            }
        }
        Done { reply, changed: false, observed: self.db.shard(shard).observed() }
    }

    /// Tells what became of a request. One that was not executed never will be from now on.
    fn tell_outcome(&mut self, shard: ShardId, id: RequestId) -> Done {
        self.touch(shard);
        let keyspace = self.db.shard(shard);
        let mut done = Done { reply: Vec::new(), changed: false, observed: 0 };
        let mut reply = Reply::new(&mut done.reply, Proto::Resp2);
        match keyspace.fate(id) {
            Fate::Executed(index, outcome) => {
                done.observed = index;
                self.peers.mark(RarePath::OutcomeExecuted);
                match outcome {
                    Outcome::Reply(bytes) => {
                        reply.array(2);
                        reply.bulk(b"EXECUTED");
                        done.reply.extend(bytes);
                    }
                    Outcome::NotKept => {
                        reply.array(2);
                        reply.bulk(b"EXECUTED");
                        done.reply.extend(lost_reply(shard, id));
                    }
                    Outcome::Void => {
                        reply.array(1);
                        reply.bulk(b"NOT-EXECUTED");
                    }
                }
            }
            Fate::New => {
                keyspace.void_request(id);
                done.changed = true;
                self.peers.mark(RarePath::OutcomeVoid);
                reply.array(1);
                reply.bulk(b"NOT-EXECUTED");
            }
            Fate::NoSession | Fate::Forgotten => {
                reply.array(1);
                reply.bulk(b"FORGOTTEN");
            }
        }
        done
    }

    /// Notes what was executed, and holds its answer as long as it must.
    fn finish(&mut self, asked: Asked, done: Done) {
        let shard = asked.shard;
        let Done { reply, mut changed, observed } = done;
        if let Some((id, floor)) = asked.name {
            // One that changed nothing is recorded as well: executed again, behind later commands
            // of its connection, it might.
            self.db.shard(shard).request_executed(id, floor, &reply);
            changed = true;
        }
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        if !changed {
            let latest = if slot.touched { slot.log.next_index() } else { slot.log.last_index() };
            let read = self.read_barrier(shard);
            return self.hold_answer(asked, observed.min(latest), read, reply);
        }
        if !slot.touched {
            slot.touched = true;
            self.touched.push(shard);
        }
        let index = slot.log.next_index();
        self.hold_answer(asked, index, 0, reply);
        self.wake_waiters(shard);
    }

    /// Answers at once if nothing is to be waited for.
    fn hold_answer(&mut self, asked: Asked, index: Index, read: u64, reply: Vec<u8>) {
        let commit = self.commits[asked.shard as usize];
        let replica = self.replica(asked.shard);
        let held = &mut replica.held;
        if read > replica.reads.passed {
            held.by_read.push_back((read, index, asked.whom, reply));
        } else if index > commit {
            held.count += 1;
            held.by_index.insert((index, held.count), (asked.whom, reply));
        } else {
            self.answer_gateway(asked.shard, asked.whom, reply);
        }
    }

    /// Lets go of the answers that need not wait any more.
    pub(crate) fn release_answers(&mut self, shard: ShardId) {
        let commit = self.commits[shard as usize];
        let mut free = Vec::new();
        let replica = self.replica(shard);
        let (held, passed) = (&mut replica.held, replica.reads.passed);
        while let Some((_, index, whom, reply)) =
            held.by_read.pop_front_if(|(read, ..)| *read <= passed)
        {
            if index <= commit {
                free.push((whom, reply));
            } else {
                held.count += 1;
                held.by_index.insert((index, held.count), (whom, reply));
            }
        }
        while let Some(entry) = held.by_index.first_entry()
            && entry.key().0 <= commit
        {
            free.push(entry.remove());
        }
        for (whom, reply) in free {
            self.answer_gateway(shard, whom, reply);
        }
    }

    fn answer_gateway(&mut self, shard: ShardId, whom: Whom, reply: Vec<u8>) {
        match whom {
            Whom::Here(ticket) => self.answered(shard, ticket, reply),
            Whom::Peer { node, link, ticket } => {
                if self.peers.link(node) == Some(link) {
                    let message = PeerMessage::Answer { ticket, reply };
                    self.post(node, Address::Shard(shard), &message);
                }
            }
        }
    }

    /// Answers a request that waited in vain.
    pub(crate) fn answer_in_vain(&mut self, asked: Asked, reply: Vec<u8>) {
        self.hold_answer(asked, 0, 0, reply);
    }

    pub(crate) fn jobs_asked(&self, shard: ShardId, which: impl Fn(&Asked) -> bool) -> Vec<JobId> {
        let theirs = self.jobs.values().filter(|job| {
            matches!(&job.origin, Origin::Asked(asked) if asked.shard == shard && which(asked))
        });
        theirs.map(|job| job.id).collect()
    }

    /// Drops what waits for a node that cannot be answered.
    pub(crate) fn stop_asked_by(&mut self, shard: ShardId, gone: NodeId) {
        let by = |asked: &Asked| matches!(asked.whom, Whom::Peer { node, .. } if node == gone);
        self.jobs_asked(shard, by).into_iter().for_each(|job| self.cancel(job));
    }

    /// A gateway wants a request ended that waits here.
    pub(crate) fn cancel_asked(&mut self, shard: ShardId, from: NodeId, of: u64, how: Cancel) {
        let here = from == self.peers.node;
        let by = |asked: &Asked| match asked.whom {
            Whom::Here(ticket) => here && ticket == of,
            Whom::Peer { node, ticket, .. } => node == from && ticket == of,
        };
        for job in self.jobs_asked(shard, by) {
            match how {
                Cancel::Gone => self.cancel(job),
                Cancel::TimeOut => self.give_up(job, None),
                Cancel::Error => self.give_up(job, Some(crate::session::UNBLOCKED)),
            }
        }
    }

    /// Hands on what the turn has changed so far, so that its frame does not grow too long.
    fn divide_turn(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for &shard in &touched {
            self.propose_one(shard);
        }
        for shard in touched {
            self.drain(shard);
        }
        self.turn_bytes = 0;
        self.submit_replicas();
    }
}

fn lost_reply(shard: ShardId, id: RequestId) -> Vec<u8> {
    let id = gateway::format_id(shard, id);
    gateway::error(&format!(
        "UNKNOWN {id} the command was executed; its reply was too long to keep"
    ))
}
