//! Producers that append to queues, and consumers that wait at their heads.
//!
//! Queues come in pairs of one slot, so that a consumer can wait for both. A producer's element is
//! unique, so it can be followed.

use super::keyed::draw_pause;
use super::reply::Reply;
use super::wire::{Answer, Command, Connection, command, encode};
use super::{FinalView, Load, Options, Tally, Violation};
use crate::check::exact::Queue;
use crate::check::{Fate, History, Operation, OperationId};
use quorate_base::prng::Prng;

/// A pair of queues, and which of the two.
type QueueAt = (usize, usize);

struct Client {
    connection: Connection<Tag>,
    ready_at_us: u64,
    pause_us: u64,
}

enum Tag {
    Push(OperationId),
    Pop(OperationId),
}

/// The load of producers (even clients) and consumers (odd ones).
pub(super) struct Queues {
    options: Options,
    clients: Vec<Client>,
    /// The pairs in use, and how many operations each had.
    current: Vec<(usize, u64)>,
    pairs: usize,
    elements: u64,
    pushes: History<QueueAt, u64, i64>,
    /// Pops of a pair; the result is what came out of which of the two.
    pops: History<usize, (), Option<(usize, u64)>>,
    broken: Option<Violation>,
    tally: Tally,
}

impl Queues {
    /// A load over [`Options::keys`] pairs at a time.
    pub(super) fn new(options: Options) -> Self {
        let client = || Client { connection: Connection::default(), ready_at_us: 0, pause_us: 0 };
        Self {
            clients: (0..options.clients).map(|_| client()).collect(),
            current: (0..options.keys).map(|pair| (pair, 0)).collect(),
            pairs: options.keys,
            elements: 0,
            pushes: History::default(),
            pops: History::default(),
            broken: None,
            tally: Tally::default(),
            options,
        }
    }

    fn draw_pair(&mut self, prng: &mut Prng) -> usize {
        let at = prng.below(self.current.len() as u64) as usize;
        if self.current[at].1 >= self.options.operations_per_key {
            self.current[at] = (self.pairs, 0);
            self.pairs += 1;
        }
        self.current[at].1 += 1;
        self.current[at].0
    }

    fn push(&mut self, client: usize, now_us: u64, prng: &mut Prng, out: &mut Vec<u8>) {
        let queue = (self.draw_pair(prng), prng.below(2) as usize);
        self.elements += 1;
        let command = command!["RPUSH", key(queue), self.elements];
        let operation = self.pushes.call(client, queue, self.elements, now_us);
        self.clients[client].connection.send(out, &command, Tag::Push(operation));
    }

    fn pop(&mut self, client: usize, now_us: u64, prng: &mut Prng, out: &mut Vec<u8>) {
        let pair = self.draw_pair(prng);
        let mut command: Command = command!["BLPOP"];
        let first = prng.below(2) as usize;
        command.push(key((pair, first)).into_bytes());
        if prng.below(2) == 0 {
            command.push(key((pair, 1 - first)).into_bytes());
        }
        let timeout_ms = 10 + prng.below(500);
        command.push(format!("0.{timeout_ms:03}").into_bytes());
        let operation = self.pops.call(client, pair, (), now_us);
        self.clients[client].connection.send(out, &command, Tag::Pop(operation));
    }

    fn on_reply(&mut self, tag: &Tag, reply: Reply, now_us: u64) -> Result<(), String> {
        match (Answer::from(reply), tag) {
            (Answer::Executed(Reply::Int(len)), Tag::Push(operation)) => {
                self.pushes.answered(*operation, Some(len), now_us);
            }
            (Answer::Executed(Reply::Null), Tag::Pop(operation)) => {
                self.pops.answered(*operation, Some(None), now_us);
            }
            (Answer::Executed(Reply::Array(popped)), Tag::Pop(operation)) => {
                let popped = popped_element(&popped)?;
                self.pops.answered(*operation, Some(Some(popped)), now_us);
            }
            (Answer::Executed(reply), _) => return Err(format!("{reply:?} is no answer")),
            (Answer::Refused, Tag::Push(operation)) => self.pushes.refused(*operation),
            (Answer::Refused, Tag::Pop(operation)) => self.pops.refused(*operation),
            (Answer::Unknown(_), _) => {}
            (Answer::Wrong(text), _) => return Err(format!("-{text}")),
        }
        Ok(())
    }

    fn judge_pair(&self, pair: usize, view: &FinalView, checks: &Checks) -> Result<(), Violation> {
        for side in 0..2 {
            let queue = (pair, side);
            let left = elements(&view.answer(2 * pair + side, &read_request(queue))?);
            let pops: Vec<Operation<u64, ()>> = checks
                .popped
                .iter()
                .filter(|(at, _)| *at == queue)
                .map(|(_, pop)| pop.clone())
                .collect();
            let pushes = checks.pushes.get(&queue).map_or(&[][..], Vec::as_slice);
            left.and_then(|left| {
                Queue { pushes, pops: &pops, unknown_pops: checks.unknown_pops[pair], left: &left }
                    .check()
            })
            .map_err(|why| Violation::new(format!("key {}: {why}", key(queue))))?;
        }
        Ok(())
    }
}

/// The history, arranged by queue.
struct Checks {
    pushes: std::collections::BTreeMap<QueueAt, Vec<Operation<u64, i64>>>,
    popped: Vec<(QueueAt, Operation<u64, ()>)>,
    unknown_pops: Vec<usize>,
}

impl Checks {
    fn new(load: &Queues) -> Self {
        let mut popped = Vec::new();
        let mut unknown_pops = vec![0; load.pairs];
        for (pair, pops) in load.pops.by_key() {
            for pop in pops {
                match pop.result {
                    Some(Some((side, element))) => {
                        let mut of = Operation::open(pop.client, element, pop.called, pop.call_us);
                        (of.returned, of.return_us) = (pop.returned, pop.return_us);
                        of.fate = Fate::Answered;
                        popped.push(((pair, side), of));
                    }
                    Some(None) => {}
                    None if pop.fate == Fate::Unknown => unknown_pops[pair] += 1,
                    None => {}
                }
            }
        }
        Self { pushes: load.pushes.by_key(), popped, unknown_pops }
    }
}

fn key((pair, side): QueueAt) -> String {
    format!("{{queue:{pair}}}{side}")
}

fn read_request(queue: QueueAt) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, &command!["LRANGE", key(queue), 0, -1]);
    out
}

fn element(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn elements(reply: &Reply) -> Result<Vec<u64>, String> {
    let Reply::Array(replies) = reply else { return Err(format!("{reply:?} is no list")) };
    replies.iter().map(element).collect::<Option<_>>().ok_or(format!("{reply:?} is in a queue"))
}

/// Which queue of a pair gave which element.
fn popped_element(reply: &[Reply]) -> Result<(usize, u64), String> {
    let [Reply::Bulk(key), popped] = reply else { return Err(format!("{reply:?} is no pop")) };
    let side = match key.last() {
        Some(b'0') => 0,
        Some(b'1') => 1,
        _ => return Err(format!("{reply:?} names no queue")),
    };
    element(popped).map(|element| (side, element)).ok_or(format!("{reply:?} is no pop"))
}

impl Load for Queues {
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
        if client.is_multiple_of(2) {
            (0..1 + prng.below(self.options.pipeline_max))
                .for_each(|_| self.push(client, now_us, prng, &mut out));
        } else {
            self.pop(client, now_us, prng, &mut out);
        }
        Some(out)
    }

    fn reply(&mut self, client: usize, now_us: u64, bytes: &[u8]) {
        let state = &mut self.clients[client];
        let result = state.connection.receive(bytes).and_then(|replies| {
            replies.into_iter().try_for_each(|(tag, reply)| self.on_reply(&tag, reply, now_us))
        });
        if let Err(why) = result {
            self.broken.get_or_insert_with(|| {
                Violation::new(format!("queues: client {client} at {now_us} µs: {why}"))
            });
        }
        let state = &mut self.clients[client];
        if state.connection.is_idle() {
            state.ready_at_us = now_us + state.pause_us;
        }
    }

    fn disconnected(&mut self, client: usize, _now_us: u64) {
        self.clients[client].connection.reset();
    }

    fn final_requests(&self) -> Vec<Vec<u8>> {
        (0..self.pairs)
            .flat_map(|pair| [read_request((pair, 0)), read_request((pair, 1))])
            .collect()
    }

    fn finish(&mut self, view: &FinalView) -> Result<(), Violation> {
        if let Some(violation) = &self.broken {
            return Err(violation.clone());
        }
        let checks = Checks::new(self);
        self.tally.keys = 2 * self.pairs as u64;
        (0..self.pairs).try_for_each(|pair| self.judge_pair(pair, view, &checks))
    }

    fn violation(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    fn tally(&self) -> Tally {
        Tally {
            acknowledged: self.pushes.count(Fate::Answered) + self.pops.count(Fate::Answered),
            refused: self.pushes.count(Fate::Refused) + self.pops.count(Fate::Refused),
            unknown: self.pushes.count(Fate::Unknown) + self.pops.count(Fate::Unknown),
            ..self.tally
        }
    }
}
