//! The world: machines, network, clients and faults, and the one loop that makes things happen.
//!
//! ```text
//! world.rs         what can happen, and the loop
//! world/turn.rs    a worker's turn: events in, effects out
//! world/links.rs   sessions between nodes
//! world/faults.rs  faults begin and end
//! world/inspect.rs what the replicas say of themselves is looked at now and then
//! world/end.rs     faults stop, everything is answered, replicas are compared
//! ```

mod end;
mod faults;
mod inspect;
mod links;
mod turn;

use crate::agree::Agreement;
use crate::chance::part;
use crate::client::{Clients, ToClient, ToNode, Wish};
use crate::fault::Planned;
use crate::journal;
use crate::load::Load;
use crate::machine::{End, Input, Machine};
use crate::net::{Net, Packet};
use crate::queue::{MILLISECOND, Micros, Queue};
use crate::shape::Shape;
use crate::store;
use crate::trace::{Told, Trace};
use quorate_base::rare::Reached;
use quorate_node::{ConnId, WorkerId};
use std::collections::BTreeMap;

/// A started node needs so long until it serves, at least.
const START: Micros = 5 * MILLISECOND;

/// What can happen. What is meant for a process names its life.
#[derive(Debug)]
pub(crate) enum What {
    Turn {
        node: usize,
        life: u32,
        worker: WorkerId,
    },
    Tick {
        node: usize,
        life: u32,
        worker: WorkerId,
    },
    Mail {
        node: usize,
        life: u32,
        worker: WorkerId,
        input: Box<Input>,
    },
    Journal {
        node: usize,
        life: u32,
    },
    Store {
        node: usize,
        life: u32,
    },
    Start {
        node: usize,
    },
    Dial {
        node: usize,
        peer: usize,
    },
    Packet(Packet),
    LookAtLink {
        node: usize,
        peer: usize,
        session: u64,
    },
    Look {
        client: usize,
        look: u64,
    },
    ToNode {
        client: usize,
        node: usize,
        conn: ConnId,
        what: ToNode,
    },
    ToClient {
        client: usize,
        conn: ConnId,
        what: ToClient,
    },
    /// All replicas are looked at.
    Inspect,
    Fault(usize),
    FaultEnds(faults::Ending),
}

impl What {
    /// The node that must not be paused for it to happen.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Turn { node, .. }
            | Self::Tick { node, .. }
            | Self::Mail { node, .. }
            | Self::Journal { node, .. }
            | Self::Store { node, .. }
            | Self::Dial { node, .. }
            | Self::LookAtLink { node, .. }
            | Self::ToNode { node, .. } => Some(*node),
            Self::Packet(packet) => Some(packet.to),
            Self::Start { .. }
            | Self::Look { .. }
            | Self::ToClient { .. }
            | Self::Inspect
            | Self::Fault(_)
            | Self::FaultEnds(_) => None,
        }
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) now: Micros,
    pub(crate) queue: Queue<What>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) net: Net,
    pub(crate) clients: Clients,
    pub(crate) trace: Trace,
    pub(crate) agreement: Agreement,
    pub(crate) faults: Vec<Planned>,
    /// Faults that happened, by name.
    pub(crate) happened: BTreeMap<&'static str, u64>,
    pub(crate) reached: Reached,
    pub(crate) tally: crate::load::Tally,
    /// No fault begins any more.
    pub(crate) healed: bool,
    /// Why the run ends here.
    pub(crate) violation: Option<String>,
    arrivals: Vec<(Micros, Packet)>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub(crate) fn new(
        seed: u64,
        shape: Shape,
        faults: Vec<Planned>,
        load: Box<dyn Load>,
        trace: Trace,
    ) -> Self {
        let machines =
            (0..shape.nodes).map(|n| Machine::new(n, &shape, part(seed, 100 + n as u64)));
        let mut world = Self {
            now: 0,
            queue: Queue::new(),
            machines: machines.collect(),
            net: Net::new(&shape, part(seed, 3)),
            clients: Clients::new(load, &shape, part(seed, 4)),
            trace,
            agreement: Agreement::new(&shape),
            faults,
            happened: BTreeMap::new(),
            tally: crate::load::Tally::default(),
            reached: Reached::default(),
            healed: false,
            violation: None,
            arrivals: Vec::new(),
            shape,
        };
        for node in 0..world.shape.nodes {
            let at = world.machines[node].prng.below(20 * MILLISECOND);
            world.machines[node].starting = true;
            world.queue.push(at, What::Start { node });
        }
        for client in 0..world.clients.len() {
            world.queue.push(30 * MILLISECOND, What::Look { client, look: 0 });
        }
        world.queue.push(0, What::Inspect);
        for nth in 0..world.faults.len() {
            world.queue.push(world.faults[nth].at, What::Fault(nth));
        }
        world
    }

    /// Lets everything happen until `end`, or until a promise is broken.
    pub(crate) fn run_until(&mut self, end: Micros) {
        while self.violation.is_none() && self.queue.next_at().is_some_and(|at| at <= end) {
            let (at, what) = self.queue.pop().expect("something is planned");
            self.now = at;
            if let Some(node) = what.node()
                && self.machines[node].paused_until > at
            {
                self.queue.push(self.machines[node].paused_until, what);
                continue;
            }
            self.happen(what);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Turn { node, life, worker } if self.lives(node, life) => self.turn(node, worker),
            What::Tick { node, life, worker } if self.lives(node, life) => self.tick(node, worker),
            What::Mail { node, life, worker, input } if self.lives(node, life) => {
                self.deliver(node, worker, *input);
            }
            What::Journal { node, life } if self.lives(node, life) => self.run_journal(node),
            What::Store { node, life } if self.lives(node, life) => self.run_store(node),
            What::Turn { .. }
            | What::Tick { .. }
            | What::Mail { .. }
            | What::Journal { .. }
            | What::Store { .. } => {}
            What::Start { node } => self.start(node),
            What::Dial { node, peer } => self.dial(node, peer),
            What::Packet(packet) => self.on_packet(packet),
            What::LookAtLink { node, peer, session } => self.look_at_link(node, peer, session),
            What::Look { client, look } => {
                let wishes = self.clients.look(client, self.now, look, self.shape.nodes);
                self.grant(client, wishes);
            }
            What::ToNode { client, node, conn, what } => self.on_client(client, node, conn, what),
            What::ToClient { client, conn, what } => {
                if let ToClient::Bytes(bytes) = &what {
                    self.trace.add([self.now, client as u64, 17]);
                    self.trace.add_bytes(bytes);
                }
                let wishes = self.clients.receive(client, self.now, conn, what);
                self.grant(client, wishes);
            }
            What::Inspect => self.inspect(),
            What::Fault(nth) => self.begin_fault(nth),
            What::FaultEnds(ending) => self.end_fault(ending),
        }
    }

    fn lives(&self, node: usize, life: u32) -> bool {
        let machine = &self.machines[node];
        machine.life == life && machine.process.is_some()
    }

    /// Ends the run: a promise was broken.
    pub(crate) fn violate(&mut self, what: String) {
        let at = self.now;
        self.trace.tell(at, || Told::Fault { node: None, what: what.clone() });
        self.violation.get_or_insert(what);
    }

    // --- processes ---------------------------------------------------------------------------

    /// Plans a start.
    pub(crate) fn plan_start(&mut self, node: usize, after: Micros) {
        let machine = &mut self.machines[node];
        if machine.process.is_none() && !machine.starting {
            machine.starting = true;
            self.queue.push(self.now + after, What::Start { node });
        }
    }

    fn start(&mut self, node: usize) {
        let (now, life) = (self.now, self.machines[node].life);
        let machine = &mut self.machines[node];
        machine.starting = false;
        machine.paused_until = 0;
        let mut found = Vec::new();
        let started = machine.start(now, &self.shape, &mut found);
        self.trace.add([now, node as u64, 1, u64::from(life)]);
        for what in found {
            self.trace.tell(now, || Told::Node { node, what });
        }
        if let Err(error) = started {
            return self.violate(format!("node {} does not start: {error}", node + 1));
        }
        self.trace.tell(now, || Told::Running { node, runs: true });
        for worker in 0..self.shape.workers {
            self.end_turn(node, worker, Vec::new());
        }
        self.wake_journal(node);
        for peer in 0..self.shape.nodes {
            self.plan_dial(node, peer, START);
        }
    }

    /// A process ends; it starts again after so long.
    pub(crate) fn stop(&mut self, node: usize, end: End, down_us: Micros) {
        self.collect_reached(node);
        let Some(process) = &self.machines[node].process else { return };
        let conns: Vec<_> = process.conns.iter().map(|(conn, at)| (*conn, at.0)).collect();
        self.machines[node].stop(end);
        let now = self.now;
        self.trace.add([now, node as u64, 2, end as u64]);
        self.trace.tell(now, || Told::Running { node, runs: false });
        for (conn, client) in conns {
            // After a power loss nobody says good-bye; the client notices some time later.
            let silence = if end == End::Killed { 0 } else { 500 * MILLISECOND };
            let at = self.clients.arrival(client, now + silence);
            self.queue.push(at, What::ToClient { client, conn, what: ToClient::Closed });
        }
        self.drop_links(node, end == End::Killed);
        self.plan_start(node, down_us.max(START));
    }

    /// The node cannot go on and says why; it starts again.
    pub(crate) fn fatal(&mut self, node: usize, why: &str) {
        let now = self.now;
        self.trace.tell(now, || Told::Node { node, what: format!("the node stops: {why}") });
        self.stop(node, End::PowerLoss, 200 * MILLISECOND);
    }

    // --- journal and store -------------------------------------------------------------------

    pub(crate) fn wake_journal(&mut self, node: usize) {
        let (now, life) = (self.now, self.machines[node].life);
        let Some(process) = &mut self.machines[node].process else { return };
        let Some(at) = process.journal.next_at(now) else { return };
        if process.journal_at.is_none_or(|planned| at < planned) {
            process.journal_at = Some(at);
            self.queue.push(at, What::Journal { node, life });
        }
    }

    pub(crate) fn wake_store(&mut self, node: usize) {
        let (now, life) = (self.now, self.machines[node].life);
        let Some(process) = &mut self.machines[node].process else { return };
        let Some(at) = process.store.next_at(now) else { return };
        if process.store_at.is_none_or(|planned| at < planned) {
            process.store_at = Some(at);
            self.queue.push(at, What::Store { node, life });
        }
    }

    fn run_journal(&mut self, node: usize) {
        let now = self.now;
        let Some((process, mut pace)) = self.machines[node].process_and_pace(now) else { return };
        // It ran at an earlier moment instead, and is planned anew.
        if process.journal_at.is_none_or(|at| at > now) {
            return;
        }
        process.journal_at = None;
        let mut said = Vec::new();
        let done = process.journal.run(now, &mut pace, &mut said);
        let mut synced = false;
        for said in &said {
            if *said == journal::Said::Synced {
                process.store.on_synced(now, &mut pace);
                synced = true;
            }
        }
        for said in said {
            self.on_journal(node, said);
        }
        if let Err(error) = done {
            return self.fatal(node, &format!("the journal failed: {error}"));
        }
        self.wake_journal(node);
        if synced {
            self.wake_store(node);
        }
    }

    fn on_journal(&mut self, node: usize, said: journal::Said) {
        match said {
            journal::Said::Persisted { worker, ticket } => {
                self.deliver(node, worker, Input::Persisted(ticket));
            }
            journal::Said::DiskFull(full) => self.deliver_all(node, || Input::DiskFull(full)),
            journal::Said::ReserveUsed(used) => {
                self.deliver_all(node, || Input::ReserveUsed(used));
            }
            journal::Said::Throttled(on) => self.deliver_all(node, || Input::Throttled(on)),
            journal::Said::FlushWanted(shard) => {
                let home = quorate_node::home(shard, self.shape.workers);
                self.deliver(node, home, Input::FlushWanted(shard));
                self.ask_store(node, store::Request::Hurry(shard));
            }
            journal::Said::Synced | journal::Said::Closed => {}
        }
    }

    fn run_store(&mut self, node: usize) {
        let now = self.now;
        let Some((process, mut pace)) = self.machines[node].process_and_pace(now) else { return };
        if process.store_at.is_none_or(|at| at > now) {
            return;
        }
        process.store_at = None;
        let mut said = Vec::new();
        process.store.run(now, &mut pace, &mut said);
        for said in said {
            match said {
                store::Said::Flushed { shard, mark } => {
                    let home = quorate_node::home(shard, self.shape.workers);
                    self.deliver(node, home, Input::Flushed(shard, mark));
                }
                store::Said::Journal(request) => self.ask_journal(node, request),
                store::Said::Closed => self.ask_journal(node, journal::Request::Close),
            }
        }
        self.wake_store(node);
    }

    pub(crate) fn ask_journal(&mut self, node: usize, request: journal::Request) {
        if let Some(process) = &mut self.machines[node].process {
            process.journal.ask(request);
            self.wake_journal(node);
        }
    }

    pub(crate) fn ask_store(&mut self, node: usize, request: store::Request) {
        if let Some(process) = &mut self.machines[node].process {
            process.store.ask(request);
            self.wake_store(node);
        }
    }

    // --- clients -----------------------------------------------------------------------------

    fn grant(&mut self, client: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Send { node, conn, what, at } => {
                    self.queue.push(at, What::ToNode { client, node, conn, what });
                }
                Wish::Look { at, look } => self.queue.push(at, What::Look { client, look }),
            }
        }
    }

    fn on_client(&mut self, client: usize, node: usize, conn: ConnId, what: ToNode) {
        let now = self.now;
        let workers = self.shape.workers;
        let Some(process) = &mut self.machines[node].process else {
            let at = self.clients.arrival(client, now);
            return self.queue.push(at, What::ToClient { client, conn, what: ToClient::Closed });
        };
        let (worker, input) = match what {
            ToNode::Connect => {
                let worker = process.next_worker;
                process.next_worker = (worker + 1) % workers;
                process.conns.insert(conn, (client, worker));
                let at = self.clients.arrival(client, now);
                self.queue.push(at, What::ToClient { client, conn, what: ToClient::Accepted });
                (worker, Input::Connected(conn, client))
            }
            ToNode::Bytes(bytes) => {
                let Some((_, worker)) = process.conns.get(&conn) else {
                    let at = self.clients.arrival(client, now);
                    let what = ToClient::Closed;
                    return self.queue.push(at, What::ToClient { client, conn, what });
                };
                let said = crate::trace::shorten;
                let told = || Told::Client { client, node, reply: false, said: said(&bytes) };
                self.trace.tell(now, told);
                (*worker, Input::Received(conn, bytes))
            }
            ToNode::Leave => {
                let Some((_, worker)) = process.conns.remove(&conn) else { return };
                (worker, Input::Disconnected(conn))
            }
        };
        self.deliver(node, worker, input);
    }
}
