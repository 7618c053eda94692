//! Faults begin and end.

use super::{What, World};
use crate::fault::{Fault, Noise};
use crate::machine::End;
use crate::queue::{MILLISECOND, Micros, SECOND};
use crate::trace::Told;

/// A fault that lasts is over within this time.
pub(crate) const LAST_MAX: Micros = 8 * SECOND;

/// What is over some time after a fault began.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Cut(Vec<(usize, usize)>),
    /// A flapping cut is on; how often it still goes off and on, each for so long.
    Flap {
        pairs: Vec<(usize, usize)>,
        period_us: Micros,
        times: u32,
        on: bool,
    },
    Noise(Noise),
    SlowLink {
        a: usize,
        b: usize,
        extra_us: i64,
    },
    DiskFull {
        node: usize,
    },
}

impl World {
    pub(crate) fn begin_fault(&mut self, nth: usize) {
        let planned = self.faults[nth].clone();
        if self.healed || !self.allows(&planned.fault) {
            return;
        }
        let now = self.now;
        self.trace.add([now, nth as u64, 22]);
        self.trace
            .tell(now, || Told::Fault { node: node_of(&planned.fault), what: planned.to_string() });
        *self.happened.entry(planned.fault.name()).or_default() += 1;
        self.inflict(planned.fault);
    }

    /// Whether a fault has something to act on, and leaves the majority what it must keep.
    fn allows(&self, fault: &Fault) -> bool {
        let runs = |node: usize| self.machines[node].process.is_some();
        let may_damage = |node: usize| {
            let damaged = self.machines.iter().filter(|m| m.damaged && m.index != node).count();
            damaged < self.shape.damaged_max()
        };
        match fault {
            Fault::Kill { node, .. }
            | Fault::Pause { node, .. }
            | Fault::SlowLoop { node, .. }
            | Fault::SyncError { node, .. } => runs(*node),
            Fault::PowerLoss { nodes, .. } => nodes.iter().any(|node| runs(*node)),
            Fault::RotJournal { node, .. } => runs(*node) && may_damage(*node),
            Fault::RotStore { node, .. } => runs(*node) && may_damage(*node),
            _ => true,
        }
    }

    fn inflict(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Kill { node, down_us } => self.stop(node, End::Killed, down_us),
            Fault::PowerLoss { nodes, down_us } => {
                for node in nodes {
                    self.stop(node, End::PowerLoss, down_us);
                }
            }
            Fault::Pause { node, for_us } => {
                let machine = &mut self.machines[node];
                machine.paused_until = machine.paused_until.max(now + for_us);
            }
            Fault::Cut { pairs, for_us } => {
                self.cut(&pairs);
                self.queue.push(now + for_us, What::FaultEnds(Ending::Cut(pairs)));
            }
            Fault::Flap { pairs, period_us, times } => {
                self.cut(&pairs);
                let ending = Ending::Flap { pairs, period_us, times, on: true };
                self.queue.push(now + period_us, What::FaultEnds(ending));
            }
            Fault::Noise { noise, for_us } => {
                self.net.begin_noise(noise);
                self.queue.push(now + for_us, What::FaultEnds(Ending::Noise(noise)));
            }
            Fault::SlowLink { a, b, extra_us, for_us } => {
                let extra_us = extra_us as i64;
                self.net.slow(a, b, extra_us);
                let ending = Ending::SlowLink { a, b, extra_us };
                self.queue.push(now + for_us, What::FaultEnds(ending));
            }
            Fault::ClockJump { node, by_us } => self.machines[node].clock.jump(now, by_us),
            Fault::ClockDrift { node, parts } => self.machines[node].clock.drift(now, parts),
            Fault::SlowLoop { node, by_us, for_us } => {
                let machine = &mut self.machines[node];
                (machine.slow_us, machine.slow_until) = (by_us, now + for_us);
            }
            Fault::DiskStall { node, for_us } => {
                self.machines[node].disk_fault.stalled_until = now + for_us;
            }
            Fault::DiskSlow { node, factor, for_us } => {
                let fault = &mut self.machines[node].disk_fault;
                (fault.slow_factor, fault.slow_until) = (factor, now + for_us);
            }
            Fault::DiskFull { node, for_us } => {
                self.machines[node].set_full(true);
                self.queue.push(now + for_us, What::FaultEnds(Ending::DiskFull { node }));
            }
            // The node stops when the disk tells it.
            Fault::SyncError { node, .. } => self.machines[node].fail_disk(),
            Fault::RotJournal { node, seed, down_us } => {
                self.machines[node].damaged = true;
                self.machines[node].rot = Some(seed);
                self.stop(node, End::PowerLoss, down_us);
            }
            Fault::RotStore { node, seed, down_us } => {
                let damaged = self.machines[node].damage_table(seed);
                self.machines[node].damaged |= damaged;
                if down_us > 0 {
                    self.stop(node, End::PowerLoss, down_us);
                }
            }
        }
    }

    fn cut(&mut self, pairs: &[(usize, usize)]) {
        for &(from, to) in pairs {
            self.net.cut(from, to);
        }
    }

    fn mend(&mut self, pairs: &[(usize, usize)]) {
        let mut arrivals = Vec::new();
        for &(from, to) in pairs {
            self.net.mend(self.now, from, to, &mut arrivals);
        }
        for (at, packet) in arrivals {
            self.queue.push(at, What::Packet(packet));
        }
    }

    pub(crate) fn end_fault(&mut self, ending: Ending) {
        let now = self.now;
        match ending {
            Ending::Cut(pairs) => {
                self.mend(&pairs);
                self.trace.tell(now, || Told::Fault { node: None, what: "links mended".into() });
            }
            Ending::Flap { pairs, period_us, times, on } => {
                if on {
                    self.mend(&pairs);
                } else {
                    self.cut(&pairs);
                }
                let times = times - u32::from(on);
                if times > 0 {
                    let ending = Ending::Flap { pairs, period_us, times, on: !on };
                    self.queue.push(now + period_us, What::FaultEnds(ending));
                }
            }
            Ending::Noise(noise) => self.net.end_noise(noise),
            Ending::SlowLink { a, b, extra_us } => self.net.slow(a, b, -extra_us),
            Ending::DiskFull { node } => self.machines[node].set_full(false),
        }
    }

    /// No fault begins any more. Those that last end by themselves, within [`LAST_MAX`].
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        let now = self.now;
        self.trace.tell(now, || Told::Fault { node: None, what: "no more faults".into() });
        for node in 0..self.shape.nodes {
            self.plan_start(node, 10 * MILLISECOND);
        }
    }
}

fn node_of(fault: &Fault) -> Option<usize> {
    match fault {
        Fault::Kill { node, .. }
        | Fault::Pause { node, .. }
        | Fault::ClockJump { node, .. }
        | Fault::ClockDrift { node, .. }
        | Fault::SlowLoop { node, .. }
        | Fault::DiskStall { node, .. }
        | Fault::DiskSlow { node, .. }
        | Fault::DiskFull { node, .. }
        | Fault::SyncError { node, .. }
        | Fault::RotJournal { node, .. }
        | Fault::RotStore { node, .. } => Some(*node),
        Fault::PowerLoss { nodes, .. } if nodes.len() == 1 => Some(nodes[0]),
        _ => None,
    }
}
