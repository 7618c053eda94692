//! A server in memory with a network of its own, right or wrong on purpose, and a driver.

use crate::load::model::{Slot, Value, execute};
use crate::load::reply::{Parser, Reply};
use crate::load::wire::Command;
use crate::load::{Finale, Load, Violation};
use quorate_base::prng::Prng;
use std::collections::{BTreeMap, VecDeque};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Some acknowledged writes are not executed.
    LosesWrites,
    /// Some writes of unknown outcome are executed twice.
    ExecutesTwice,
    /// Some reads see an old state.
    ReadsStale,
    /// Some refused writes are executed.
    ExecutesRefused,
    /// EXEC does not look at what is watched.
    IgnoresWatch,
    /// EXEC executes only the first command.
    HalfTransaction,
    /// QUORATE OUTCOME says the contrary.
    LiesAboutOutcome,
    /// Some pops leave the element.
    PopsTwice,
    /// Keys do not expire.
    NeverExpires,
}

/// How many of 1000 requests meet each fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) disconnected: u64,
}

pub(super) const NO_FAULTS: Faults = Faults { refused: 0, unknown: 0, disconnected: 0 };
pub(super) const SOME_FAULTS: Faults = Faults { refused: 15, unknown: 15, disconnected: 8 };

#[derive(Clone, Default)]
struct Data {
    slots: BTreeMap<Vec<u8>, Slot>,
    deadlines: BTreeMap<Vec<u8>, u64>,
    versions: BTreeMap<Vec<u8>, u64>,
}

const READS: [&str; 13] = [
    "GET",
    "MGET",
    "LRANGE",
    "SMEMBERS",
    "SISMEMBER",
    "HGETALL",
    "ZRANGE",
    "STRLEN",
    "LLEN",
    "HLEN",
    "SCARD",
    "ZCARD",
    "HGET",
];

fn is_read(command: &Command) -> bool {
    READS.iter().any(|read| read.as_bytes() == command[0])
}

impl Data {
    fn execute(&mut self, command: &Command, now_us: u64, expires: bool) -> Reply {
        let key = command[1].clone();
        if expires && self.deadlines.get(&key).is_some_and(|&deadline| deadline <= now_us) {
            self.slots.remove(&key);
            self.deadlines.remove(&key);
        }
        if !is_read(command) {
            *self.versions.entry(key.clone()).or_default() += 1;
        }
        match &command[0][..] {
            b"MGET" => {
                let get = |key: &Vec<u8>| vec![b"GET".to_vec(), key.clone()];
                return Reply::Array(
                    command[1..]
                        .iter()
                        .map(|key| self.execute(&get(key), now_us, expires))
                        .collect(),
                );
            }
            b"PERSIST" => return Reply::Int(self.deadlines.remove(&key).is_some().into()),
            b"SET" => {
                self.deadlines.remove(&key);
                if let Some(ms) = command.get(4) {
                    let ms: u64 = std::str::from_utf8(ms).unwrap().parse().unwrap();
                    self.deadlines.insert(key.clone(), now_us + 1000 * ms);
                    return execute(self.slots.entry(key).or_default(), &command[..3].to_vec())
                        .unwrap();
                }
            }
            b"DEL" => {
                self.deadlines.remove(&key);
            }
            _ => {}
        }
        let slot = self.slots.entry(key).or_default();
        execute(slot, command).unwrap_or_else(|| panic!("{command:?}"))
    }
}

#[derive(Default)]
struct Conn {
    parser: Parser,
    requests: VecDeque<Command>,
    queued: Option<Vec<Command>>,
    watched: Vec<(Vec<u8>, u64)>,
    blocked: Option<(Command, u64)>,
    replies: Vec<u8>,
    deliver_at_us: u64,
}

/// Commands that are executed as one, if what they watch has not changed.
struct Request {
    commands: Vec<Command>,
    watched: Vec<(Vec<u8>, u64)>,
    is_exec: bool,
}

impl Request {
    fn alone(command: Command) -> Self {
        Self { commands: vec![command], watched: Vec::new(), is_exec: false }
    }
}

/// The server.
pub(super) struct Fake {
    data: Data,
    /// The state some time ago.
    old: Data,
    flaw: Flaw,
    faults: Faults,
    prng: Prng,
    conns: Vec<Conn>,
    /// Requests of unknown outcome that are executed later: when, and their ids.
    late: Vec<(u64, u64, Request)>,
    /// What became of requests of unknown outcome; the reply of those that were executed.
    outcomes: BTreeMap<u64, Option<Reply>>,
    now_us: u64,
}

impl Fake {
    pub(super) fn new(flaw: Flaw, faults: Faults, seed: u64, clients: usize) -> Self {
        Self {
            data: Data::default(),
            old: Data::default(),
            flaw,
            faults,
            prng: Prng::new(seed),
            conns: (0..clients).map(|_| Conn::default()).collect(),
            late: Vec::new(),
            outcomes: BTreeMap::new(),
            now_us: 1_000_000,
        }
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.prng.below(1000) < of_1000
    }

    /// With the flaw, in one of 30 cases.
    fn errs(&mut self, flaw: Flaw) -> bool {
        self.flaw == flaw && self.prng.below(30) == 0
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let expires = self.flaw != Flaw::NeverExpires;
        if is_read(command) && self.errs(Flaw::ReadsStale) {
            return self.old.clone().execute(command, self.now_us, expires);
        }
        if !is_read(command) && self.errs(Flaw::LosesWrites) {
            return self.data.clone().execute(command, self.now_us, expires);
        }
        self.data.execute(command, self.now_us, expires)
    }

    fn apply_all(&mut self, commands: &[Command]) -> Vec<Reply> {
        let half = commands.len() > 1 && self.errs(Flaw::HalfTransaction);
        let replies = commands
            .iter()
            .enumerate()
            .map(|(i, command)| if half && i > 0 { Reply::ok() } else { self.apply(command) });
        replies.collect()
    }

    fn has_elements(&self, key: &[u8]) -> bool {
        matches!(self.data.slots.get(key), Some(Some(Value::List(_))))
    }

    fn has_changed(&self, watched: &[(Vec<u8>, u64)]) -> bool {
        let version = |key| self.data.versions.get(key).copied().unwrap_or(0);
        self.flaw != Flaw::IgnoresWatch && watched.iter().any(|(key, old)| version(key) != *old)
    }

    /// Executes a request, whatever becomes of its reply.
    fn carry_out(&mut self, request: &Request) -> Reply {
        if self.has_changed(&request.watched) {
            return Reply::Null;
        }
        let mut replies = self.apply_all(&request.commands);
        if request.is_exec { Reply::Array(replies) } else { replies.remove(0) }
    }

    /// Executes a request, or says that it did not, or may not have.
    fn attempt(&mut self, request: Request) -> Reply {
        if self.chance(self.faults.refused) {
            if self.flaw == Flaw::ExecutesRefused {
                self.carry_out(&request);
            }
            return Reply::Error("NOQUORUM no majority".into());
        }
        if !self.chance(self.faults.unknown) {
            return self.carry_out(&request);
        }
        let id = self.prng.next_u64() >> 20;
        match self.prng.below(3) {
            0 => {
                let reply = self.carry_out(&request);
                if self.flaw == Flaw::ExecutesTwice {
                    self.carry_out(&request);
                }
                self.outcomes.insert(id, Some(reply));
            }
            1 => {
                let due_us = self.now_us + self.prng.below(100_000);
                self.late.push((due_us, id, request));
            }
            _ => {
                self.outcomes.insert(id, None);
            }
        }
        Reply::Error(format!("UNKNOWN {id} timed out"))
    }

    fn outcome(&self, id: &[u8]) -> Reply {
        let id: u64 = std::str::from_utf8(id).unwrap().parse().unwrap();
        let lies = self.flaw == Flaw::LiesAboutOutcome;
        match self.outcomes.get(&id) {
            None => Reply::Error("NOQUORUM ask again".into()),
            Some(Some(_)) if lies => Reply::Array(vec![Reply::bulk("NOT-EXECUTED")]),
            Some(None) if lies => Reply::Array(vec![Reply::bulk("EXECUTED")]),
            Some(Some(reply)) => Reply::Array(vec![Reply::bulk("EXECUTED"), reply.clone()]),
            Some(None) => Reply::Array(vec![Reply::bulk("NOT-EXECUTED")]),
        }
    }

    /// One request of a connection; `None` if it has to wait.
    fn serve(&mut self, conn: usize, command: &Command) -> Option<Reply> {
        match &command[0][..] {
            b"MULTI" => {
                self.conns[conn].queued = Some(Vec::new());
                return Some(Reply::ok());
            }
            b"EXEC" => return Some(self.exec(conn)),
            b"WATCH" => {
                for key in &command[1..] {
                    let version = self.data.versions.get(key).copied().unwrap_or(0);
                    self.conns[conn].watched.push((key.clone(), version));
                }
                return Some(Reply::ok());
            }
            b"UNWATCH" => {
                self.conns[conn].watched.clear();
                return Some(Reply::ok());
            }
            b"QUORATE" => return Some(self.outcome(&command[2])),
            b"BLPOP" => return self.pop(command),
            _ => {}
        }
        if let Some(queued) = &mut self.conns[conn].queued {
            queued.push(command.clone());
            return Some(Reply::Simple("QUEUED".into()));
        }
        Some(self.attempt(Request::alone(command.clone())))
    }

    fn exec(&mut self, conn: usize) -> Reply {
        let commands = self.conns[conn].queued.take().unwrap();
        let watched = std::mem::take(&mut self.conns[conn].watched);
        self.attempt(Request { commands, watched, is_exec: true })
    }

    fn pop(&mut self, command: &Command) -> Option<Reply> {
        let keys = &command[1..command.len() - 1];
        let key = keys.iter().find(|key| self.has_elements(key))?.clone();
        let pop = vec![b"LPOP".to_vec(), key.clone()];
        if self.errs(Flaw::PopsTwice) {
            return Some(Reply::Array(vec![
                Reply::bulk(&key),
                self.data.clone().execute(&pop, self.now_us, true),
            ]));
        }
        Some(match self.attempt(Request::alone(pop)) {
            error @ Reply::Error(_) => error,
            element => Reply::Array(vec![Reply::bulk(&key), element]),
        })
    }

    fn receive(&mut self, conn: usize, bytes: &[u8]) {
        let conn = &mut self.conns[conn];
        conn.parser.feed(bytes);
        while let Some(request) = conn.parser.next_reply().unwrap() {
            let Reply::Array(words) = request else { panic!("{request:?} is no command") };
            let words = words.into_iter().map(|word| match word {
                Reply::Bulk(bytes) => bytes,
                word => panic!("{word:?} is no word"),
            });
            conn.requests.push_back(words.collect());
        }
    }

    /// Serves what can be served of one connection.
    fn turn(&mut self, conn: usize) {
        if let Some((command, deadline)) = self.conns[conn].blocked.take() {
            let reply = self.pop(&command).or((self.now_us >= deadline).then_some(Reply::Null));
            match reply {
                None => {
                    self.conns[conn].blocked = Some((command, deadline));
                    return;
                }
                Some(reply) => self.answer(conn, &reply),
            }
        }
        // Not everything at once, so that clients overlap.
        for _ in 0..self.prng.below(3) {
            let Some(command) = self.conns[conn].requests.pop_front() else { return };
            match self.serve(conn, &command) {
                Some(reply) => self.answer(conn, &reply),
                None => {
                    let timeout: f64 =
                        std::str::from_utf8(command.last().unwrap()).unwrap().parse().unwrap();
                    let deadline = self.now_us + (timeout * 1e6) as u64;
                    self.conns[conn].blocked = Some((command, deadline));
                    return;
                }
            }
        }
    }

    fn answer(&mut self, conn: usize, reply: &Reply) {
        reply.encode(&mut self.conns[conn].replies);
        self.conns[conn].deliver_at_us = self.now_us + self.prng.below(3_000);
    }

    fn late_writes(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) =
            self.late.drain(..).partition(|(due_us, ..)| *due_us <= self.now_us);
        self.late = later;
        for (_, id, request) in due {
            let reply = self.carry_out(&request);
            self.outcomes.insert(id, Some(reply));
        }
    }

    /// Runs a load for some simulated time and judges it.
    pub(super) fn run(mut self, load: &mut dyn Load, seconds: u64) -> Result<(), Violation> {
        let end_us = self.now_us + seconds * 1_000_000;
        while self.now_us < end_us {
            self.now_us += 200 + self.prng.below(400);
            if self.prng.below(20) == 0 {
                self.old = self.data.clone();
            }
            self.late_writes();
            for client in 0..load.clients() {
                self.step(load, client);
            }
        }
        self.now_us += 1_000_000;
        self.late_writes();
        self.flaw = if self.flaw == Flaw::NeverExpires { self.flaw } else { Flaw::None };
        self.faults = super::NO_FAULTS;
        let mut finale = Finale::new(load, self.now_us);
        self.conns[0] = Conn::default();
        while !finale.is_done() {
            self.now_us += 100;
            if let Some(request) = finale.next_request() {
                self.receive(0, &request);
            }
            self.turn(0);
            let bytes = std::mem::take(&mut self.conns[0].replies);
            finale.reply(self.now_us, &bytes).unwrap();
            if self.prng.below(50) == 0 {
                self.conns[0] = Conn::default();
                finale.disconnected();
            }
        }
        load.finish(finale.view())
    }

    fn step(&mut self, load: &mut dyn Load, client: usize) {
        if let Some(bytes) = load.next(client, self.now_us, &mut self.prng) {
            self.receive(client, &bytes);
        }
        if !self.conns[client].requests.is_empty() && self.chance(self.faults.disconnected) {
            // What was sent may be executed all the same.
            for _ in 0..self.prng.below(4) {
                self.turn(client);
            }
            self.conns[client] = Conn::default();
            load.disconnected(client, self.now_us);
            return;
        }
        self.turn(client);
        let conn = &mut self.conns[client];
        if conn.deliver_at_us <= self.now_us && !conn.replies.is_empty() {
            let all = conn.replies.len() as u64;
            let cut = if self.prng.below(2) == 0 { all } else { 1 + self.prng.below(all) };
            let bytes: Vec<u8> = conn.replies.drain(..cut as usize).collect();
            load.reply(client, self.now_us, &bytes);
        }
    }
}
