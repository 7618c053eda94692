//! How a run ends: faults stop, everything is answered, every shard serves, all nodes stop in
//! order, and their replicas are compared.

use super::faults::LAST_MAX;
use super::{What, World};
use crate::machine::Input;
use crate::queue::{MILLISECOND, Micros, SECOND};
use crate::store;
use crate::table::SimTable;
use quorate_data::Keyspace;
use quorate_data::table::Table;
use quorate_data::testing::{Dump, dump};

/// Clients go on for so long after the last fault.
const CALM: Micros = 3 * SECOND;

/// A request is answered within this time when nothing is wrong.
const ANSWER_MAX: Micros = 10 * SECOND;

/// The last reads end within this time.
const READ_MAX: Micros = 60 * SECOND;

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
        // Followers get what the leaders have.
        self.run_until(self.now + SECOND);
        self.stop_all();
        for node in 0..self.shape.nodes {
            self.collect_marks(node);
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
                     (with the time they asked at, in µs) {waiting:?}",
                    ANSWER_MAX / SECOND
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
        let end = self.now + READ_MAX;
        while self.violation.is_none() && self.clients.final_view().is_none() {
            if self.now >= end {
                return self.violate(format!(
                    "liveness: the last reads did not end within {} s though nothing is wrong",
                    READ_MAX / SECOND
                ));
            }
            self.run_until(self.now + 50 * MILLISECOND);
        }
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
            let mut first: Option<(u64, Dump)> = None;
            for node in 0..self.shape.nodes {
                let Some(process) = &self.machines[node].process else { continue };
                let table = &process.store.tables()[shard as usize];
                if table.is_damaged() {
                    // Nobody has read it since; the others have what it held.
                    continue;
                }
                let here = (table.mark().applied, self.dump(shard, table));
                match &first {
                    None => first = Some(here),
                    // A leadership that began while they stopped may have added an empty entry.
                    Some((_, dump)) if *dump == here.1 => {}
                    Some(there) => {
                        let what = difference(shard, node, there, &here);
                        return self.violate(what);
                    }
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

    fn dump(&self, shard: u32, table: &SimTable) -> Dump {
        let mut keyspace = Keyspace::new(shard, self.shape.place_seed(), Box::new(table.clone()));
        dump(&mut keyspace)
    }
}

fn difference(shard: u32, node: usize, there: &(u64, Dump), here: &(u64, Dump)) -> String {
    let mut what = format!(
        "replicas differ: shard {shard} on node 1 has applied {} and holds {} keys, on node {} it \
         has applied {} and holds {} keys",
        there.0,
        there.1.keys,
        node + 1,
        here.0,
        here.1.keys
    );
    let other = |a: &Dump, b: &Dump| a.entries.iter().find(|e| !b.entries.contains(e)).cloned();
    for (side, entry) in [("1", other(&there.1, &here.1)), ("2", other(&here.1, &there.1))] {
        if let Some(entry) = entry {
            what += &format!("; only on side {side}: {entry:?}");
        }
    }
    what
}
