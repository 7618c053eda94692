//! How a run ends: faults stop, everything is answered, every shard serves, all nodes stop in
//! order, and their replicas are compared.

use super::faults::LAST_MAX;
use super::{What, World};
use crate::machine::Input;
use crate::queue::{MILLISECOND, Micros, SECOND};
use crate::store;
use crate::table::SimTable;
use quorate_data::Keyspace;
use quorate_data::disk::REQUESTS_KEY;
use quorate_data::table::Table;
use quorate_data::testing::{Dump, dump};

/// Clients go on for so long after the last fault.
const CALM: Micros = 3 * SECOND;

/// A request is answered within this time when nothing is wrong.
const ANSWER_MAX: Micros = 10 * SECOND;

/// A node told to stop has stopped within this time.
const STOP_MAX: Micros = 20 * SECOND;

impl World {
    /// Runs until `end` with faults, and then to the end of everything.
    pub(crate) fn run(&mut self, end: Micros) {
        self.run_until(end);
        self.heal();
        self.run_until(end + LAST_MAX + CALM);
        self.answer_all();
        self.read_last();
        self.come_to_rest();
        self.stop_all();
        for node in 0..self.shape.nodes {
            self.collect_reached(node);
        }
        if self.violation.is_none() {
            self.compare();
        }
    }

    /// No client begins anything new; each gets its answer.
    fn answer_all(&mut self) {
        self.clients.stopping = true;
        let end = self.now + ANSWER_MAX;
        while self.violation.is_none() && self.clients.waiting().next().is_some() {
            if self.now >= end {
                let waiting: Vec<_> = self.clients.waiting().collect();
                return self.violate(format!(
                    "liveness: no answer within {} s though nothing is wrong, for clients \
                     (with the time they asked at, in µs) {waiting:?}{}",
                    ANSWER_MAX / SECOND,
                    self.troubles()
                ));
            }
            self.run_until(self.now + 50 * MILLISECOND);
        }
    }

    /// Reads what the workload needs for its last checks.
    fn read_last(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let client = self.clients.begin_finale(self.now);
        self.queue.push(self.now + 1, What::Look { client, look: 0 });
        let (mut read, mut end) = (0, self.now + ANSWER_MAX);
        while self.violation.is_none() && self.clients.final_view().is_none() {
            if self.clients.final_reads() > read {
                (read, end) = (self.clients.final_reads(), self.now + ANSWER_MAX);
            }
            if self.now >= end {
                return self.violate(format!(
                    "liveness: one of the last reads got no answer within {} s though nothing is \
                     wrong{}",
                    ANSWER_MAX / SECOND,
                    self.troubles()
                ));
            }
            self.run_until(self.now + 50 * MILLISECOND);
        }
    }

    /// Nothing expires any more, and followers get what the leaders have: nodes do not stop all at
    /// the same moment, and what the last ones did the first ones would lack.
    fn come_to_rest(&mut self) {
        for node in 0..self.shape.nodes {
            self.deliver_all(node, || Input::Throttled(true));
        }
        self.run_until(self.now + SECOND);
    }

    /// All nodes are asked to stop, and do.
    fn stop_all(&mut self) {
        for node in 0..self.shape.nodes {
            self.deliver_all(node, || Input::Shutdown);
        }
        let end = self.now + STOP_MAX;
        while self.violation.is_none() && !self.are_stopped() {
            if self.now >= end {
                return self.violate(format!(
                    "liveness: nodes did not stop within {} s of being asked",
                    STOP_MAX / SECOND
                ));
            }
            self.run_until(self.now + 50 * MILLISECOND);
        }
        for node in 0..self.shape.nodes {
            self.ask_store(node, store::Request::Close);
        }
        self.run_until(self.now + 5 * SECOND);
    }

    fn are_stopped(&self) -> bool {
        self.machines.iter().all(|machine| {
            let process = machine.process.as_ref();
            process.is_some_and(|p| p.slots.iter().all(|slot| slot.worker.is_stopped()))
        })
    }

    /// Compares what the replicas hold, and has the workload check it.
    fn compare(&mut self) {
        for shard in 0..self.shape.shards {
            let mut first: Option<Held> = None;
            for node in 0..self.shape.nodes {
                let Some(process) = &self.machines[node].process else { continue };
                let table = &process.store.tables()[shard as usize];
                if table.is_damaged() {
                    // Nobody has read it since; the others have what it held.
                    continue;
                }
                let here = self.held(shard, node, table);
                let Some(there) = &first else {
                    first = Some(here);
                    continue;
                };
                if let Some(what) = difference(shard, there, &here) {
                    return self.violate(what);
                }
            }
        }
        let view = self.clients.final_view().expect("the last reads have ended").clone();
        let judged = self.clients.load.finish(&view);
        self.tally = self.clients.load.tally();
        if let Err(violation) = judged {
            self.violate(violation.to_string());
        }
    }

    fn held(&self, shard: u32, node: usize, table: &SimTable) -> Held {
        let mut keyspace = Keyspace::new(shard, self.shape.place_seed(), Box::new(table.clone()));
        Held {
            node: node + 1,
            applied: table.mark().applied,
            requests: table.get(REQUESTS_KEY).expect("damaged tables are left out"),
            dump: dump(&mut keyspace),
        }
    }
}

/// What a replica's table holds.
struct Held {
    node: usize,
    /// Not compared: a leadership that began while the nodes stopped may have added an empty entry.
    applied: u64,
    /// The record of the requests that were executed.
    requests: Option<Vec<u8>>,
    dump: Dump,
}

fn difference(shard: u32, there: &Held, here: &Held) -> Option<String> {
    let mut what = if there.dump != here.dump {
        "replicas differ"
    } else if there.requests != here.requests {
        "replicas remember other requests as executed"
    } else {
        return None;
    }
    .to_owned();
    for held in [there, here] {
        what += &format!(
            "; node {} has applied {} of shard {shard}, holds {} keys and {} bytes of requests",
            held.node,
            held.applied,
            held.dump.keys,
            held.requests.as_ref().map_or(0, Vec::len)
        );
    }
    for (a, b) in [(there, here), (here, there)] {
        let other = a.dump.entries.iter().find(|entry| !b.dump.entries.contains(entry));
        if let Some(entry) = other {
            what += &format!("; only on node {}: {entry:?}", a.node);
        }
    }
    Some(what)
}
