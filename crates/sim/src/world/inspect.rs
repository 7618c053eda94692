//! What the replicas say of themselves, looked at now and then.

use super::{What, World};
use crate::queue::{MILLISECOND, Micros};
use quorate_base::rare::RarePath;

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
                self.reached.mark(RarePath::NodeRepaired);
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

    /// Adds the rare paths that a process came by which ends.
    pub(crate) fn collect_reached(&mut self, node: usize) {
        let Some(process) = &self.machines[node].process else { return };
        process.slots.iter().for_each(|slot| self.reached.add(&slot.worker.reached()));
    }
}
