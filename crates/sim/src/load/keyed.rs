//! The load that most kinds share: operations of many clients on few keys, recorded and checked
//! key by key.
//!
//! An operation is sent alone, inside MULTI and EXEC, or as a *swap*: WATCH and a read first, and
//! when that was answered, a transaction that writes only if nothing changed.

use super::reply::Reply;
use super::wire::{Answer, Command, Connection, command, encode};
use super::{FinalView, Load, Options, Tally, Violation};
use crate::check::{Fate, History, Model, Operation, OperationId, Verdict};
use quorate_base::prng::Prng;
use std::collections::VecDeque;

/// An operation of a kind, as its model sees it.
pub(super) type OpOf<K> = <<K as Kind>::Model as Model>::Op;
/// A result of a kind, as its model sees it.
pub(super) type ResultOf<K> = <<K as Kind>::Model as Model>::Result;

/// What is done to keys, and how answers are understood.
pub(super) trait Kind {
    /// What a correct key does.
    type Model: Model;

    /// The load's name, and the beginning of its keys.
    fn name(&self) -> &'static str;

    /// What a client does next.
    fn draw(&mut self, prng: &mut Prng) -> Draw<OpOf<Self>>;

    /// The commands of an operation; more than one only if it is always in a transaction.
    fn commands(&self, key: &str, op: &OpOf<Self>) -> Vec<Command>;

    /// What the replies to these commands mean; an error if they cannot be right.
    fn result(&self, op: &OpOf<Self>, replies: &[Reply]) -> Result<ResultOf<Self>, String>;

    /// The operation that reads all of a key.
    fn read(&self) -> OpOf<Self>;

    /// What WATCH is to watch for a swap.
    fn watched(&self, key: &str) -> Vec<String> {
        vec![key.to_owned()]
    }

    /// What a swap writes after it has seen this; `None` if it gives up.
    fn swap(&mut self, _seen: &ResultOf<Self>) -> Option<OpOf<Self>> {
        None
    }

    /// The result of an operation whose EXEC was aborted.
    fn aborted(&self) -> Option<ResultOf<Self>> {
        None
    }

    /// The model of a key that ends as the last read found it.
    fn model(&self, last: &Reply) -> Self::Model;

    /// The check that always decides. `operations` are without the last read.
    fn judge(
        &self,
        operations: &[Operation<OpOf<Self>, ResultOf<Self>>],
        last: &Reply,
    ) -> Result<(), String>;
}

/// How a client's next operation is sent.
pub(super) enum Draw<O> {
    /// By itself.
    Alone(O),
    /// Inside MULTI and EXEC.
    Transaction(O),
    /// As a swap.
    Swap,
}

/// Where keys of one load are in its list of keys.
type KeyAt = usize;

/// What a reply is for.
enum Tag {
    /// WATCH
    Watch,
    /// MULTI, and whether UNWATCH
    Ok,
    /// A command inside MULTI
    Queued,
    /// An operation's only command
    Alone(OperationId),
    /// The read of a swap
    Look(OperationId, KeyAt),
    /// The EXEC of an operation, and whether something is watched
    Exec(OperationId, Sent),
    /// QUORATE OUTCOME
    Outcome(Question),
}

/// An operation whose outcome is to be asked for.
struct Question {
    operation: OperationId,
    id: String,
    sent: Sent,
    asked: u32,
}

/// How an operation was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Alone,
    Transaction,
    /// As a transaction after a WATCH.
    Watching,
}

/// How often an outcome is asked for before it stays unknown.
const ASKED_MAX: u32 = 20;

struct Client<R> {
    connection: Connection<Tag>,
    ready_at_us: u64,
    pause_us: u64,
    /// Whether the latest WATCH of this connection was accepted.
    watching: bool,
    /// What a swap has seen, if its read was answered; it goes on with the next request.
    looked: Option<(KeyAt, Option<R>)>,
    questions: VecDeque<Question>,
}

/// A load of one kind.
pub(super) struct Keyed<K: Kind> {
    kind: K,
    options: Options,
    clients: Vec<Client<ResultOf<K>>>,
    /// All keys so far.
    keys: Vec<String>,
    /// The keys in use: where each is, and how many operations it had.
    current: Vec<(KeyAt, u64)>,
    history: History<KeyAt, OpOf<K>, ResultOf<K>>,
    broken: Option<Violation>,
    tally: Tally,
}

impl<K: Kind> Keyed<K> {
    /// A load in which nothing happened yet.
    pub(super) fn new(kind: K, options: Options) -> Self {
        let client = || Client {
            connection: Connection::default(),
            ready_at_us: 0,
            pause_us: 0,
            watching: false,
            looked: None,
            questions: VecDeque::new(),
        };
        let mut load = Self {
            clients: (0..options.clients).map(|_| client()).collect(),
            keys: Vec::new(),
            current: Vec::new(),
            history: History::default(),
            broken: None,
            tally: Tally::default(),
            kind,
            options,
        };
        load.current = (0..options.keys).map(|_| (load.fresh_key(), 0)).collect();
        load
    }

    fn fresh_key(&mut self) -> KeyAt {
        self.keys.push(format!("{}:{}", self.kind.name(), self.keys.len()));
        self.keys.len() - 1
    }

    fn draw_key(&mut self, prng: &mut Prng) -> KeyAt {
        let at = prng.below(self.current.len() as u64) as usize;
        if self.current[at].1 >= self.options.operations_per_key {
            self.current[at] = (self.fresh_key(), 0);
        }
        self.current[at].1 += 1;
        self.current[at].0
    }

    /// Appends the requests of a client's next operation. False: nothing else may follow at once.
    fn issue(&mut self, client: usize, now_us: u64, prng: &mut Prng, out: &mut Vec<u8>) -> bool {
        let key = self.draw_key(prng);
        match self.kind.draw(prng) {
            Draw::Alone(op) => {
                let commands = self.kind.commands(&self.keys[key], &op);
                let operation = self.history.call(client, key, op, now_us);
                let [command] = &commands[..] else { panic!("{} commands alone", commands.len()) };
                self.clients[client].connection.send(out, command, Tag::Alone(operation));
                true
            }
            Draw::Transaction(op) => {
                self.send_transaction(client, key, op, now_us, out);
                true
            }
            Draw::Swap => {
                let read = self.kind.read();
                let mut watch = command!["WATCH"];
                let watched = self.kind.watched(&self.keys[key]);
                watch.extend(watched.into_iter().map(String::into_bytes));
                let commands = self.kind.commands(&self.keys[key], &read);
                let operation = self.history.call(client, key, read, now_us);
                let connection = &mut self.clients[client].connection;
                connection.send(out, &watch, Tag::Watch);
                connection.send(out, &commands[0], Tag::Look(operation, key));
                false
            }
        }
    }

    fn send_transaction(
        &mut self,
        client: usize,
        key: KeyAt,
        op: OpOf<K>,
        now_us: u64,
        out: &mut Vec<u8>,
    ) {
        let commands = self.kind.commands(&self.keys[key], &op);
        let operation = self.history.call(client, key, op, now_us);
        let connection = &mut self.clients[client].connection;
        connection.send(out, &command!["MULTI"], Tag::Ok);
        for command in &commands {
            connection.send(out, command, Tag::Queued);
        }
        let watching = std::mem::take(&mut self.clients[client].watching);
        let sent = if watching { Sent::Watching } else { Sent::Transaction };
        let connection = &mut self.clients[client].connection;
        connection.send(out, &command!["EXEC"], Tag::Exec(operation, sent));
    }

    /// The second half of a swap, or its end.
    fn go_on(&mut self, client: usize, now_us: u64, out: &mut Vec<u8>) -> bool {
        let Some((key, seen)) = self.clients[client].looked.take() else { return false };
        match seen.and_then(|seen| self.kind.swap(&seen)) {
            Some(op) if self.clients[client].watching => {
                self.send_transaction(client, key, op, now_us, out);
            }
            _ => {
                self.clients[client].watching = false;
                self.clients[client].connection.send(out, &command!["UNWATCH"], Tag::Ok);
            }
        }
        true
    }

    fn on_reply(
        &mut self,
        client: usize,
        tag: Tag,
        reply: Reply,
        now_us: u64,
    ) -> Result<(), String> {
        match tag {
            Tag::Watch => {
                self.clients[client].watching = reply.is_simple("OK");
                Ok(())
            }
            Tag::Ok => accepted(&reply, "OK"),
            Tag::Queued => accepted(&reply, "QUEUED"),
            Tag::Alone(operation) => self.on_answer(client, operation, Sent::Alone, reply, now_us),
            Tag::Look(operation, key) => {
                self.on_answer(client, operation, Sent::Alone, reply, now_us)?;
                let seen = self.history.operation(operation).result.clone();
                self.clients[client].looked = Some((key, seen));
                Ok(())
            }
            Tag::Exec(operation, sent) => self.on_answer(client, operation, sent, reply, now_us),
            Tag::Outcome(question) => self.on_outcome(client, question, reply, now_us),
        }
    }

    /// The reply to an operation's only command, or to its EXEC.
    fn on_answer(
        &mut self,
        client: usize,
        operation: OperationId,
        sent: Sent,
        reply: Reply,
        now_us: u64,
    ) -> Result<(), String> {
        match Answer::from(first_error(&reply).cloned().unwrap_or_else(|| reply.clone())) {
            Answer::Executed(_) => {
                let result = self.result(operation, sent, reply)?;
                self.history.answered(operation, Some(result), now_us);
            }
            Answer::Refused => self.history.refused(operation),
            Answer::Unknown(Some(id)) if self.options.ask_outcomes => {
                let question = Question { operation, id, sent, asked: 0 };
                self.clients[client].questions.push_back(question);
            }
            Answer::Unknown(_) => {}
            Answer::Wrong(text) => {
                let op = &self.history.operation(operation).op;
                return Err(format!("{op:?} is answered -{text}"));
            }
        }
        Ok(())
    }

    /// What a reply that is no error means.
    fn result(
        &self,
        operation: OperationId,
        sent: Sent,
        reply: Reply,
    ) -> Result<ResultOf<K>, String> {
        let op = &self.history.operation(operation).op;
        match (sent, reply) {
            (Sent::Alone, reply) => self.kind.result(op, &[reply]),
            (_, Reply::Array(replies)) => self.kind.result(op, &replies),
            (Sent::Watching, Reply::Null) => self.kind.aborted().ok_or("EXEC is aborted".into()),
            (_, reply) => Err(format!("EXEC is answered {reply:?}")),
        }
    }

    fn on_outcome(
        &mut self,
        client: usize,
        mut question: Question,
        reply: Reply,
        now_us: u64,
    ) -> Result<(), String> {
        let operation = question.operation;
        match outcome(reply)? {
            Outcome::Executed(Some(reply)) if first_error(&reply).is_none() => {
                let result = self.result(operation, question.sent, reply)?;
                self.history.answered(operation, Some(result), now_us);
            }
            // Without its reply nobody knows whether what was watched aborted it.
            Outcome::Executed(_) if question.sent == Sent::Watching => return Ok(()),
            Outcome::Executed(_) => self.history.answered(operation, None, now_us),
            Outcome::NotExecuted => self.history.refused(operation),
            Outcome::Forgotten => return Ok(()),
            Outcome::Open => {
                question.asked += 1;
                if question.asked < ASKED_MAX {
                    self.clients[client].questions.push_back(question);
                }
                return Ok(());
            }
        }
        self.tally.outcomes += 1;
        Ok(())
    }

    fn break_with(&mut self, client: usize, now_us: u64, why: &str) {
        let name = self.kind.name();
        self.broken.get_or_insert_with(|| {
            Violation::new(format!("{name}: client {client} at {now_us} µs: {why}"))
        });
    }

    fn read_request(&self, key: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let read = self.kind.read();
        self.kind.commands(key, &read).iter().for_each(|command| encode(&mut out, command));
        out
    }

    /// Checks one key against its last read: first what always decides, then linearizability.
    fn judge_key(
        &mut self,
        operations: &mut Vec<Operation<OpOf<K>, ResultOf<K>>>,
        last: &Reply,
        view: &FinalView,
    ) -> Result<(), String> {
        let read = self.kind.read();
        let result = self.kind.result(&read, std::slice::from_ref(last))?;
        self.kind.judge(operations, last)?;
        let mut last_read = Operation::open(usize::MAX, read, u64::MAX - 2, view.began_us);
        last_read.returned = u64::MAX - 1;
        last_read.return_us = view.ended_us;
        last_read.result = Some(result);
        last_read.fate = Fate::Answered;
        operations.push(last_read);
        match self.options.search.check(&self.kind.model(last), operations) {
            Verdict::Linearizable => {}
            Verdict::Undecided => self.tally.undecided += 1,
            Verdict::Violation(failure) => return Err(failure.to_string()),
        }
        Ok(())
    }
}

fn accepted(reply: &Reply, expected: &str) -> Result<(), String> {
    match reply {
        // What this means is said by the reply to EXEC.
        Reply::Error(_) => Ok(()),
        reply if reply.is_simple(expected) => Ok(()),
        reply => Err(format!("{reply:?} instead of +{expected}: executed outside its transaction")),
    }
}

/// What `QUORATE OUTCOME` says.
enum Outcome {
    /// `EXECUTED`, with its reply if that is known.
    Executed(Option<Reply>),
    /// `NOT-EXECUTED`, now and for ever.
    NotExecuted,
    /// `FORGOTTEN`: nobody will ever know.
    Forgotten,
    /// The question failed; it may be asked again.
    Open,
}

fn outcome(reply: Reply) -> Result<Outcome, String> {
    let shown = format!("QUORATE OUTCOME is answered {reply:?}");
    let mut words = match reply {
        Reply::Array(words) => words,
        Reply::Error(_) => return Ok(Outcome::Open),
        word => vec![word],
    };
    let told = if words.len() > 1 { words.pop() } else { None };
    match words.pop() {
        Some(Reply::Bulk(word)) => match &word[..] {
            b"EXECUTED" => Ok(Outcome::Executed(told)),
            b"NOT-EXECUTED" => Ok(Outcome::NotExecuted),
            b"FORGOTTEN" => Ok(Outcome::Forgotten),
            _ => Err(shown),
        },
        _ => Err(shown),
    }
}

/// The first error in a reply or directly inside it.
fn first_error(reply: &Reply) -> Option<&Reply> {
    let is_error = |reply: &&Reply| matches!(reply, Reply::Error(_));
    match reply {
        Reply::Array(replies) => replies.iter().find(is_error),
        reply => Some(reply).filter(is_error),
    }
}

impl<K: Kind> Load for Keyed<K> {
    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn next(&mut self, client: usize, now_us: u64, prng: &mut Prng) -> Option<Vec<u8>> {
        let state = &mut self.clients[client];
        if !state.connection.is_idle() || now_us < state.ready_at_us || self.broken.is_some() {
            return None;
        }
        state.pause_us = draw_pause(prng, self.options.pause_max_us);
        let mut out = Vec::new();
        if self.go_on(client, now_us, &mut out) {
            return Some(out);
        }
        let state = &mut self.clients[client];
        if let Some(question) = state.questions.pop_front() {
            let ask = command!["QUORATE", "OUTCOME", question.id];
            state.pause_us = self.options.pause_max_us;
            state.connection.send(&mut out, &ask, Tag::Outcome(question));
            return Some(out);
        }
        for _ in 0..1 + prng.below(self.options.pipeline_max) {
            if !self.issue(client, now_us, prng, &mut out) {
                break;
            }
        }
        Some(out)
    }

    fn reply(&mut self, client: usize, now_us: u64, bytes: &[u8]) {
        let state = &mut self.clients[client];
        let result = state.connection.receive(bytes).and_then(|replies| {
            replies
                .into_iter()
                .try_for_each(|(tag, reply)| self.on_reply(client, tag, reply, now_us))
        });
        if let Err(why) = result {
            self.break_with(client, now_us, &why);
        }
        let state = &mut self.clients[client];
        if state.connection.is_idle() && state.looked.is_none() {
            state.ready_at_us = now_us + state.pause_us;
        }
    }

    fn disconnected(&mut self, client: usize, _now_us: u64) {
        let state = &mut self.clients[client];
        let lost = state.connection.reset();
        state.questions.extend(lost.into_iter().filter_map(|tag| match tag {
            Tag::Outcome(question) => Some(question),
            _ => None,
        }));
        state.watching = false;
        state.looked = None;
    }

    fn final_requests(&self) -> Vec<Vec<u8>> {
        self.keys.iter().map(|key| self.read_request(key)).collect()
    }

    fn finish(&mut self, view: &FinalView) -> Result<(), Violation> {
        if let Some(violation) = &self.broken {
            return Err(violation.clone());
        }
        let mut by_key = self.history.by_key();
        for at in 0..self.keys.len() {
            let key = self.keys[at].clone();
            let last = view.answer(at, &self.read_request(&key))?;
            let mut operations = by_key.remove(&at).unwrap_or_default();
            self.tally.keys += 1;
            self.judge_key(&mut operations, &last, view)
                .map_err(|why| Violation::new(format!("key {key}: {why}")))?;
        }
        Ok(())
    }

    fn violation(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    fn tally(&self) -> Tally {
        Tally {
            acknowledged: self.history.count(Fate::Answered),
            refused: self.history.count(Fate::Refused),
            unknown: self.history.count(Fate::Unknown),
            ..self.tally
        }
    }
}

/// A pause before the next request: none half of the time.
pub(super) fn draw_pause(prng: &mut Prng, pause_max_us: u64) -> u64 {
    if prng.below(2) == 0 { 0 } else { prng.below(pause_max_us + 1) }
}
