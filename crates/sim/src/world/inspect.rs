//! What the replicas say of themselves, looked at now and then.

use super::{What, World};
use crate::queue::{MILLISECOND, Micros};

/// How often.
const EVERY: Micros = 50 * MILLISECOND;

impl World {
    pub(crate) fn inspect(&mut self) {
        for node in 0..self.shape.nodes {
            let Some(process) = &self.machines[node].process else { continue };
            let mut sound = true;
            let mut broken = None;
            for view in process.slots.iter().flat_map(|slot| slot.worker.replicas()) {
                sound &= view.serving && !view.lost && view.leader.is_some();
                broken = broken.or(self.agreement.on_view(node, &view).err());
            }
            sound &= process.store.tables().iter().all(|table| !table.is_damaged());
            if sound && self.machines[node].damaged {
                self.machines[node].damaged = false;
                *self.marks.entry("damaged node repaired").or_default() += 1;
            }
            if let Some(broken) = broken {
                self.violate(broken);
            }
        }
        self.queue.push(self.now + EVERY, What::Inspect);
    }

    /// The replicas that do not serve as they should, in words.
    pub(crate) fn troubles(&self) -> String {
        let mut out = String::new();
        for (node, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else {
                out += &format!("; node {} does not run", node + 1);
                continue;
            };
            for view in process.slots.iter().flat_map(|slot| slot.worker.replicas()) {
                if !view.serving || view.lost || view.leader.is_none() {
                    out += &format!("; node {}: {view:?}", node + 1);
                }
            }
        }
        out
    }

    /// Adds the marks of a process that ends.
    pub(crate) fn collect_marks(&mut self, node: usize) {
        let Some(process) = &self.machines[node].process else { return };
        for slot in &process.slots {
            for (name, count) in slot.worker.marks() {
                *self.marks.entry(name).or_default() += count;
            }
        }
    }
}
