//! A worker's turn: what waits for it goes in, what it wants is carried out.

use super::{What, World};
use crate::chance::ppm;
use crate::client::ToClient;
use crate::journal;
use crate::machine::Input;
use crate::queue::Micros;
use crate::store;
use crate::trace::{Told, shorten};
use quorate_node::{ConnId, Effect, Event, Time, WorkerId};

/// The most inputs of one turn.
const INPUTS_MAX: usize = 1024;

impl World {
    /// Something reaches a worker: it waits for the next turn.
    pub(crate) fn deliver(&mut self, node: usize, worker: WorkerId, input: Input) {
        let Some(process) = &mut self.machines[node].process else { return };
        process.slots[usize::from(worker)].inbox.push_back(input);
        self.plan_turn(node, worker);
    }

    /// Something reaches all workers of a node.
    pub(crate) fn deliver_all(&mut self, node: usize, input: impl Fn() -> Input) {
        for worker in 0..self.shape.workers {
            self.deliver(node, worker, input());
        }
    }

    fn plan_turn(&mut self, node: usize, worker: WorkerId) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let time = machine.clock.read(now);
        let Some(process) = &mut machine.process else { return };
        let slot = &mut process.slots[usize::from(worker)];
        if slot.turn.is_some() || slot.inbox.is_empty() {
            return;
        }
        slot.turn = Some(time);
        let mut delay = 1 + machine.prng.below(self.shape.knobs.loop_us);
        if machine.slow_until > now {
            delay += machine.prng.below(machine.slow_us + 1);
        }
        self.queue.push(now + delay, What::Turn { node, life: machine.life, worker });
    }

    /// A worker's tick may be due.
    pub(crate) fn tick(&mut self, node: usize, worker: WorkerId) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let mono = machine.clock.read(now).mono;
        let Some(process) = &mut machine.process else { return };
        let slot = &mut process.slots[usize::from(worker)];
        if slot.tick_at.is_none_or(|at| at > now) {
            return;
        }
        slot.tick_at = None;
        if slot.worker.next_deadline().is_some_and(|at| at <= mono) {
            if !std::mem::replace(&mut slot.ticks, true) {
                self.deliver(node, worker, Input::Tick);
            }
        } else {
            self.plan_tick(node, worker);
        }
    }

    fn plan_tick(&mut self, node: usize, worker: WorkerId) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let Some(process) = &mut machine.process else { return };
        let slot = &mut process.slots[usize::from(worker)];
        let Some(deadline) = slot.worker.next_deadline() else { return };
        let at = machine.clock.when(now, deadline);
        if !slot.ticks && slot.tick_at.is_none_or(|planned| at < planned) {
            slot.tick_at = Some(at);
            self.queue.push(at, What::Tick { node, life: machine.life, worker });
        }
    }

    /// A worker takes what waits, or some of it, and ends its turn.
    pub(crate) fn turn(&mut self, node: usize, worker: WorkerId) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let mut time = machine.clock.read(now);
        let Some(process) = &mut machine.process else { return };
        let slot = &mut process.slots[usize::from(worker)];
        let planned = slot.turn.take();
        if self.shape.knobs.stale_turns {
            time = planned.unwrap_or(time);
        }
        let mut count = slot.inbox.len().min(INPUTS_MAX);
        if count > 1 && ppm(&mut machine.prng, self.shape.knobs.partial_ppm) {
            count = 1 + machine.prng.below(count as u64) as usize;
        }
        self.trace.add([now, node as u64, u64::from(worker), count as u64, 3]);
        let mut effects = Vec::new();
        for input in slot.inbox.drain(..count) {
            self.trace.events += 1;
            trace_input(&mut self.trace, &input);
            match input {
                Input::Tick => slot.ticks = false,
                Input::PeerUp(peer, session) => drop(slot.sessions.insert(peer, session)),
                Input::PeerDown(peer) => drop(slot.sessions.remove(&peer)),
                _ => {}
            }
            step(&mut slot.worker, time, input, &mut effects);
        }
        self.end_turn(node, worker, effects);
    }

    /// Ends a turn and carries out what the worker wants.
    pub(crate) fn end_turn(&mut self, node: usize, worker: WorkerId, mut effects: Vec<Effect>) {
        let machine = &mut self.machines[node];
        let time = machine.clock.read(self.now);
        let Some(process) = &mut machine.process else { return };
        process.slots[usize::from(worker)].worker.end_turn(time, &mut effects);
        for effect in effects {
            self.carry_out(node, worker, effect);
        }
        self.plan_tick(node, worker);
        self.plan_turn(node, worker);
    }

    fn carry_out(&mut self, node: usize, worker: WorkerId, effect: Effect) {
        let now = self.now;
        let machine = &mut self.machines[node];
        let life = machine.life;
        let Some(process) = &mut machine.process else { return };
        match effect {
            Effect::Send { conn, bytes } => {
                let Some((client, _)) = process.conns.get(&conn).copied() else { return };
                self.trace.tell(now, || Told::Client {
                    client,
                    node,
                    reply: true,
                    said: shorten(&bytes),
                });
                self.tell_client(client, conn, ToClient::Bytes(bytes));
            }
            Effect::Close { conn } => {
                let Some((client, at)) = process.conns.remove(&conn) else { return };
                self.tell_client(client, conn, ToClient::Closed);
                self.deliver(node, at, Input::Disconnected(conn));
            }
            Effect::Persist(frame) => {
                if let Err(what) = self.agreement.on_persist(node, &frame.records) {
                    self.violate(what);
                }
                self.ask_journal(node, journal::Request::Append { worker, frame });
            }
            Effect::Flush(flush) => {
                if let Err(what) = self.agreement.on_flush(node, &flush) {
                    self.violate(what);
                }
                self.ask_store(node, store::Request::Write(flush));
            }
            // No client of the simulation asks for the status, no driver for a sign of life.
            Effect::Shutdown | Effect::Observe { .. } | Effect::RoundTrip { .. } => {}
            Effect::Peer { to, bytes } => {
                // What was meant for one session never leaves in the next.
                let session = process.slots[usize::from(worker)].sessions.get(&to).copied();
                if let Some(session) = session {
                    self.send_parcel(node, to as usize - 1, session, &bytes);
                }
            }
            Effect::Message { to, message } => {
                let input = Input::Message(worker, message);
                let mail_us = self.shape.knobs.mail_us;
                if mail_us == 0 {
                    return self.deliver(node, to, input);
                }
                let delay = machine.prng.below(mail_us + 1);
                let at = process.mail_arrival(worker, to, now + delay);
                let input = Box::new(input);
                self.queue.push(at, What::Mail { node, life, worker: to, input });
            }
        }
    }

    fn tell_client(&mut self, client: usize, conn: ConnId, what: ToClient) {
        if self.clients.is_at(client, conn) {
            let at: Micros = self.clients.arrival(client, self.now);
            self.queue.push(at, What::ToClient { client, conn, what });
        }
    }
}

fn step(worker: &mut quorate_node::Worker, time: Time, input: Input, effects: &mut Vec<Effect>) {
    let event = match input {
        Input::Connected(conn, client) => {
            let peer = format!("10.0.0.{}:{}", client % 256, 10_000 + conn % 50_000);
            Event::Connected { conn, peer, local: "10.0.1.1:6379".into() }
        }
        Input::Received(conn, bytes) => {
            return worker.step(time, Event::Received { conn, bytes: &bytes }, effects);
        }
        Input::Peer(from, bytes) => {
            return worker.step(time, Event::Peer { from, bytes: &bytes }, effects);
        }
        Input::Disconnected(conn) => Event::Disconnected { conn },
        Input::Message(from, message) => Event::Message { from, message },
        Input::Persisted(ticket) => Event::Persisted { ticket },
        Input::Flushed(shard, mark) => Event::Flushed { shard, mark },
        Input::FlushWanted(shard) => Event::FlushWanted { shard },
        Input::DiskFull(full) => Event::DiskFull { full },
        Input::ReserveUsed(used) => Event::ReserveUsed { used },
        Input::Throttled(on) => Event::Throttled { on },
        Input::PeerUp(node, _) => Event::PeerUp { node },
        Input::PeerDown(node) => Event::PeerDown { node },
        Input::Tick => Event::Tick,
        Input::Shutdown => Event::Shutdown,
    };
    worker.step(time, event, effects);
}

fn trace_input(trace: &mut crate::trace::Trace, input: &Input) {
    match input {
        Input::Connected(conn, client) => trace.add([1, *conn, *client as u64]),
        Input::Received(conn, bytes) => {
            trace.add([2, *conn]);
            trace.add_bytes(bytes);
        }
        Input::Disconnected(conn) => trace.add([3, *conn]),
        Input::Message(from, message) => {
            // What a message holds shows in what follows from it.
            trace.add([4, u64::from(*from), message_kind(message)]);
        }
        Input::Persisted(ticket) => trace.add([5, *ticket]),
        Input::Flushed(shard, mark) => trace.add([6, u64::from(*shard), mark.applied]),
        Input::FlushWanted(shard) => trace.add([7, u64::from(*shard)]),
        Input::DiskFull(full) => trace.add([8, u64::from(*full)]),
        Input::ReserveUsed(used) => trace.add([14, u64::from(*used)]),
        Input::Throttled(on) => trace.add([15, u64::from(*on)]),
        Input::PeerUp(node, session) => trace.add([9, *node, *session]),
        Input::PeerDown(node) => trace.add([10, *node]),
        Input::Peer(node, bytes) => {
            trace.add([11, *node]);
            trace.add_bytes(bytes);
        }
        Input::Tick => trace.add([12]),
        Input::Shutdown => trace.add([13]),
    }
}

fn message_kind(message: &quorate_node::Message) -> u64 {
    use quorate_node::Message as M;
    match message {
        M::Forward(forwarded) => 100 + forwarded.slot,
        M::Reply { slot, .. } => 200 + slot,
        M::Borrow { job, .. } | M::Lend { job, .. } | M::Wake { job } => 300 + job,
        M::Return { shards } => shards.len() as u64,
        _ => 0,
    }
}
