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
