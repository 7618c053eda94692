//! Commands of all types on keys that only one client touches, compared with a model reply by reply.
//!
//! An operation of unknown outcome may be executed at any later moment, so a key is followed in
//! several *worlds*: each has executed some of the key's unknown operations. A reply removes the
//! worlds that would have answered otherwise; if none is left, the answer is wrong. After a few
//! unknown operations the key is left alone until the last read, and a fresh one is used.

use super::keyed::draw_pause;
use super::model::{Slot, execute, normalize};
use super::reply::Reply;
use super::wire::{Answer, Command, Connection, command, encode};
use super::{FinalView, Load, Options, Tally, Violation};
use quorate_base::prng::Prng;
use std::collections::BTreeSet;

/// How many unknown operations a key may have before it is left alone, and how many with those that
/// are not answered yet. The number of worlds is exponential in the latter.
const UNKNOWN_MAX: usize = 3;
const OPEN_MAX: usize = 5;

/// One possible state of a key: its value, and which unknown operations were executed (a mask).
type World = (Slot, u64);

struct Key {
    name: String,
    kind: TypeOf,
    worlds: BTreeSet<World>,
    unknown: Vec<Command>,
    in_flight: usize,
    operations: u64,
}

impl Key {
    /// Adds the worlds in which further unknown operations were executed.
    fn branch(&mut self) {
        let mut open: Vec<World> = self.worlds.iter().cloned().collect();
        while let Some((slot, done)) = open.pop() {
            for (i, command) in self.unknown.iter().enumerate().filter(|(i, _)| done >> i & 1 == 0)
            {
                let mut slot = slot.clone();
                execute(&mut slot, command).expect("the model knows what the load sends");
                let world = (slot, done | 1 << i);
                if self.worlds.insert(world.clone()) {
                    open.push(world);
                }
            }
        }
    }

    /// Keeps the worlds that answer `command` like this.
    fn observe(&mut self, command: &Command, mut reply: Reply) -> Result<(), String> {
        normalize(command, &mut reply);
        self.branch();
        let mut expected = Vec::new();
        let mut next = BTreeSet::new();
        for (slot, done) in &self.worlds {
            let mut slot = slot.clone();
            let mut answer =
                execute(&mut slot, command).expect("the model knows what the load sends");
            normalize(command, &mut answer);
            if answer == reply {
                next.insert((slot, *done));
            } else if !expected.contains(&answer) {
                expected.push(answer);
            }
        }
        if next.is_empty() {
            let words: Vec<_> =
                command.iter().map(|word| word.escape_ascii().to_string()).collect();
            let asked = words.join(" ");
            return Err(format!(
                "{asked} is answered {reply:?}, expected is one of {expected:?} ({} unknown operations)",
                self.unknown.len()
            ));
        }
        self.worlds = next;
        Ok(())
    }
}

/// The types of keys; numbers are strings on which only arithmetic is done.
#[derive(Clone, Copy, Debug)]
enum TypeOf {
    String,
    Number,
    Hash,
    List,
    Set,
    Sorted,
}

const TYPES: [TypeOf; 6] =
    [TypeOf::String, TypeOf::Number, TypeOf::Hash, TypeOf::List, TypeOf::Set, TypeOf::Sorted];

struct Client {
    connection: Connection<(usize, Command)>,
    ready_at_us: u64,
    pause_us: u64,
    /// Where its keys are, one of each type.
    keys: [usize; TYPES.len()],
}

/// The load; [`Options::keys`] does not matter to it.
pub(super) struct Mixed {
    options: Options,
    clients: Vec<Client>,
    keys: Vec<Key>,
    values: u64,
    broken: Option<Violation>,
    tally: Tally,
}

impl Mixed {
    /// A load in which each client has a key of each type.
    pub(super) fn new(options: Options) -> Self {
        let mut load = Self {
            clients: Vec::new(),
            keys: Vec::new(),
            values: 0,
            broken: None,
            tally: Tally::default(),
            options,
        };
        for _ in 0..options.clients {
            let keys = TYPES.map(|kind| load.fresh_key(kind));
            let connection = Connection::default();
            load.clients.push(Client { connection, ready_at_us: 0, pause_us: 0, keys });
        }
        load
    }

    fn fresh_key(&mut self, kind: TypeOf) -> usize {
        self.keys.push(Key {
            name: format!("mixed:{}", self.keys.len()),
            kind,
            worlds: BTreeSet::from([(None, 0)]),
            unknown: Vec::new(),
            in_flight: 0,
            operations: 0,
        });
        self.keys.len() - 1
    }

    fn draw_key(&mut self, client: usize, prng: &mut Prng) -> usize {
        let kind = prng.below(TYPES.len() as u64) as usize;
        let at = self.clients[client].keys[kind];
        let key = &mut self.keys[at];
        key.operations += 1;
        let is_usable = key.operations <= self.options.operations_per_key
            && key.unknown.len() < UNKNOWN_MAX
            && key.unknown.len() + key.in_flight < OPEN_MAX;
        if !is_usable {
            let fresh = self.fresh_key(TYPES[kind]);
            self.clients[client].keys[kind] = fresh;
        }
        let at = self.clients[client].keys[kind];
        self.keys[at].in_flight += 1;
        at
    }

    fn draw_command(&mut self, at: usize, prng: &mut Prng) -> Command {
        self.values += 1;
        let key = &self.keys[at];
        draw(key.kind, &key.name, self.values, prng)
    }

    fn on_reply(&mut self, at: usize, command: Command, reply: Reply) -> Result<(), String> {
        self.keys[at].in_flight -= 1;
        match Answer::from(reply) {
            Answer::Executed(reply) => {
                self.tally.acknowledged += 1;
                self.keys[at].observe(&command, reply)?;
            }
            Answer::Refused => self.tally.refused += 1,
            Answer::Unknown(_) => self.on_unknown(at, command),
            Answer::Wrong(text) => {
                return Err(format!("{} is answered -{text}", command[0].escape_ascii()));
            }
        }
        Ok(())
    }

    fn on_unknown(&mut self, at: usize, command: Command) {
        self.tally.unknown += 1;
        // One that changes nothing in any world to come need not be followed.
        if !is_read(&command) {
            self.keys[at].unknown.push(command);
        }
    }
}

fn is_read(command: &Command) -> bool {
    const READS: [&str; 20] = [
        "GET",
        "STRLEN",
        "GETRANGE",
        "EXISTS",
        "TYPE",
        "HGET",
        "HEXISTS",
        "HLEN",
        "HGETALL",
        "HKEYS",
        "LLEN",
        "LINDEX",
        "LRANGE",
        "SISMEMBER",
        "SCARD",
        "SMEMBERS",
        "ZSCORE",
        "ZCARD",
        "ZRANK",
        "ZRANGE",
    ];
    READS.iter().any(|read| read.as_bytes() == command[0])
}

/// A command on a key of this type; `n` is a number that no other command has.
fn draw(kind: TypeOf, key: &str, n: u64, prng: &mut Prng) -> Command {
    let value = format!("v{n}");
    let few = prng.below(5);
    let near = prng.below(9) as i64 - 4;
    let far = near + prng.below(4) as i64;
    let pick = prng.below(20);
    match (kind, pick) {
        (_, 0) => command!["DEL", key],
        (_, 1) => command!["EXISTS", key],
        (_, 2) => command!["TYPE", key],
        (TypeOf::String, 3..6) => command!["SET", key, value],
        (TypeOf::String, 6..9) => command!["APPEND", key, value],
        (TypeOf::String, 9) => command!["SETNX", key, value],
        (TypeOf::String, 10) => command!["GETSET", key, value],
        (TypeOf::String, 11) => command!["SETRANGE", key, few, value],
        (TypeOf::String, 12..14) => command!["GETRANGE", key, near, far],
        (TypeOf::String, 14) => command!["STRLEN", key],
        (TypeOf::Number, 3..10) => command!["INCR", key],
        (TypeOf::Number, 10..12) => command!["DECR", key],
        (TypeOf::Number, 12..15) => command!["INCRBY", key, near],
        (TypeOf::Number, 15) => command!["SET", key, n],
        (TypeOf::String | TypeOf::Number, _) => command!["GET", key],
        (TypeOf::Hash, 3..8) => command!["HSET", key, few, value],
        (TypeOf::Hash, 8) => command!["HINCRBY", key, format!("n{few}"), near],
        (TypeOf::Hash, 9..11) => command!["HDEL", key, few],
        (TypeOf::Hash, 11) => command!["HEXISTS", key, few],
        (TypeOf::Hash, 12..14) => command!["HGET", key, few],
        (TypeOf::Hash, 14) => command!["HLEN", key],
        (TypeOf::Hash, 15) => command!["HKEYS", key],
        (TypeOf::Hash, _) => command!["HGETALL", key],
        (TypeOf::List, 3..6) => command!["RPUSH", key, value],
        (TypeOf::List, 6..8) => command!["LPUSH", key, value, format!("w{n}")],
        (TypeOf::List, 8..10) => command!["LPOP", key],
        (TypeOf::List, 10..12) => command!["RPOP", key],
        (TypeOf::List, 12) => command!["LLEN", key],
        (TypeOf::List, 13) => command!["LINDEX", key, near],
        (TypeOf::List, 14) => command!["LTRIM", key, 0, 6 + near],
        (TypeOf::List, 15) => command!["LRANGE", key, near, far],
        (TypeOf::List, _) => command!["LRANGE", key, 0, -1],
        (TypeOf::Set, 3..7) => command!["SADD", key, few],
        (TypeOf::Set, 7) => command!["SADD", key, few, few + 1, few + 2],
        (TypeOf::Set, 8..11) => command!["SREM", key, few],
        (TypeOf::Set, 11..14) => command!["SISMEMBER", key, few],
        (TypeOf::Set, 14) => command!["SCARD", key],
        (TypeOf::Set, _) => command!["SMEMBERS", key],
        (TypeOf::Sorted, 3..7) => command!["ZADD", key, near, few],
        (TypeOf::Sorted, 7..9) => command!["ZINCRBY", key, near, few],
        (TypeOf::Sorted, 9) => command!["ZREM", key, few],
        (TypeOf::Sorted, 10) => command!["ZPOPMIN", key],
        (TypeOf::Sorted, 11) => command!["ZSCORE", key, few],
        (TypeOf::Sorted, 12) => command!["ZRANK", key, few],
        (TypeOf::Sorted, 13) => command!["ZCARD", key],
        (TypeOf::Sorted, 14) => command!["ZRANGE", key, near, far, "WITHSCORES"],
        (TypeOf::Sorted, _) => command!["ZRANGE", key, 0, -1, "WITHSCORES"],
    }
}

/// The command that reads all of a key.
fn read(key: &Key) -> Command {
    match key.kind {
        TypeOf::String | TypeOf::Number => command!["GET", key.name],
        TypeOf::Hash => command!["HGETALL", key.name],
        TypeOf::List => command!["LRANGE", key.name, 0, -1],
        TypeOf::Set => command!["SMEMBERS", key.name],
        TypeOf::Sorted => command!["ZRANGE", key.name, 0, -1, "WITHSCORES"],
    }
}

fn read_request(key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, &read(key));
    out
}

impl Load for Mixed {
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
        for _ in 0..1 + prng.below(self.options.pipeline_max) {
            let at = self.draw_key(client, prng);
            let command = self.draw_command(at, prng);
            let tag = (at, command.clone());
            self.clients[client].connection.send(&mut out, &command, tag);
        }
        Some(out)
    }

    fn reply(&mut self, client: usize, now_us: u64, bytes: &[u8]) {
        let received = self.clients[client].connection.receive(bytes);
        let result = received.and_then(|replies| {
            replies.into_iter().try_for_each(|((at, command), reply)| {
                self.on_reply(at, command, reply)
                    .map_err(|why| format!("key {}: {why}", self.keys[at].name))
            })
        });
        if let Err(why) = result {
            self.broken.get_or_insert_with(|| {
                Violation::new(format!("mixed: client {client} at {now_us} µs: {why}"))
            });
        }
        let state = &mut self.clients[client];
        if state.connection.is_idle() {
            state.ready_at_us = now_us + state.pause_us;
        }
    }

    fn disconnected(&mut self, client: usize, _now_us: u64) {
        for (at, command) in self.clients[client].connection.reset() {
            self.keys[at].in_flight -= 1;
            self.on_unknown(at, command);
        }
    }

    fn final_requests(&self) -> Vec<Vec<u8>> {
        self.keys.iter().map(read_request).collect()
    }

    fn finish(&mut self, view: &FinalView) -> Result<(), Violation> {
        if let Some(violation) = &self.broken {
            return Err(violation.clone());
        }
        for client in 0..self.clients.len() {
            self.disconnected(client, view.began_us);
        }
        self.tally.keys = self.keys.len() as u64;
        for (at, key) in self.keys.iter_mut().enumerate() {
            let reply = view.answer(at, &read_request(key))?;
            let command = read(key);
            key.observe(&command, reply).map_err(|why| {
                Violation::new(format!("mixed: key {} at the end: {why}", key.name))
            })?;
        }
        Ok(())
    }

    fn violation(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}
