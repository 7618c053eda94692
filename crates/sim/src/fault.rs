//! What goes wrong, when: a plain list, so that a run can be repeated with less of it.

use crate::chance::{between, magnitude, one, part, ppm};
use crate::queue::{MILLISECOND, Micros, SECOND};
use crate::shape::Shape;
use quorate_base::Prng;
use std::fmt;
use std::str::FromStr;

/// A kind of fault, as users choose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Processes are killed, machines lose power; both come back.
    Crash,
    /// Processes stop for a while and go on, as after SIGSTOP or a suspended virtual machine.
    Pause,
    /// Nodes cannot reach each other: full, partial, one way, flapping.
    Partition,
    /// Packets are lost, doubled, reordered, damaged, or late.
    Network,
    /// Wall clocks jump; clocks run fast or slow.
    Clock,
    /// Event loops are slow.
    Loop,
    /// Disks stall, slow down, fill up, or fail a sync.
    Disk,
    /// Bits flip in journals and stores, on a minority of the nodes.
    Rot,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Crash,
        Self::Pause,
        Self::Partition,
        Self::Network,
        Self::Clock,
        Self::Loop,
        Self::Disk,
        Self::Rot,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::Network => "network",
            Self::Clock => "clock",
            Self::Loop => "loop",
            Self::Disk => "disk",
            Self::Rot => "rot",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("there is no fault {name:?}; there are {}", names.join(", "))
        })
    }
}

/// One thing that goes wrong. Nodes are counted from 0; times are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is killed; what it wrote stays in the machine's memory and reaches the disk.
    Kill {
        /// Which node.
        node: usize,
        /// Until it starts again.
        down_us: Micros,
    },
    /// Machines lose power: of what was not synced, each sector is kept, lost or torn.
    PowerLoss {
        /// Which nodes.
        nodes: Vec<usize>,
        /// Until they start again.
        down_us: Micros,
    },
    /// A process stops and goes on.
    Pause {
        /// Which node.
        node: usize,
        /// For how long.
        for_us: Micros,
    },
    /// Packets from the first to the second node of each pair do not arrive.
    Cut {
        /// Directed pairs.
        pairs: Vec<(usize, usize)>,
        /// For how long.
        for_us: Micros,
    },
    /// The same, on and off.
    Flap {
        /// Directed pairs.
        pairs: Vec<(usize, usize)>,
        /// How long each state lasts.
        period_us: Micros,
        /// How often it is off and on.
        times: u32,
    },
    /// All links lose, double, reorder or damage some packets.
    Noise {
        /// What happens to them.
        noise: Noise,
        /// For how long.
        for_us: Micros,
    },
    /// Packets between two nodes take longer, both ways.
    SlowLink {
        /// One end.
        a: usize,
        /// The other.
        b: usize,
        /// By how much.
        extra_us: Micros,
        /// For how long.
        for_us: Micros,
    },
    /// A wall clock jumps.
    ClockJump {
        /// Whose.
        node: usize,
        /// By how much; back if negative.
        by_us: i64,
    },
    /// A clock runs fast or slow from now on.
    ClockDrift {
        /// Whose.
        node: usize,
        /// By so many parts in a million; slow if negative.
        parts: i64,
    },
    /// Turns of a node's workers are late.
    SlowLoop {
        /// Which node.
        node: usize,
        /// By how much at most.
        by_us: Micros,
        /// For how long.
        for_us: Micros,
    },
    /// Nothing that a disk does ends before this does.
    DiskStall {
        /// Whose.
        node: usize,
        /// For how long.
        for_us: Micros,
    },
    /// Syncs take so many times as long.
    DiskSlow {
        /// Whose.
        node: usize,
        /// How many.
        factor: u64,
        /// For how long.
        for_us: Micros,
    },
    /// A disk takes no new bytes.
    DiskFull {
        /// Whose.
        node: usize,
        /// For how long.
        for_us: Micros,
    },
    /// The disk's next operation fails half done, and the node with it.
    SyncError {
        /// Whose.
        node: usize,
        /// Until it starts again.
        down_us: Micros,
    },
    /// A node crashes, and meanwhile a bit of its synced journal flips.
    RotJournal {
        /// Whose.
        node: usize,
        /// Decides which bit.
        seed: u64,
        /// Until it starts again.
        down_us: Micros,
    },
    /// A pair of a table is damaged.
    RotStore {
        /// Whose.
        node: usize,
        /// Decides which.
        seed: u64,
        /// The node crashes at that moment and starts again so much later; 0: it runs on, and may
        /// read the pair.
        down_us: Micros,
    },
}

/// What happens to packets, each in so many of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// Lost for good, and whatever follows with them.
    pub lose: u64,
    /// Lost once and sent again: late, and all that follows too.
    pub resend: u64,
    /// Arriving twice.
    pub double: u64,
    /// Overtaken by what follows.
    pub reorder: u64,
    /// Arriving with a flipped bit.
    pub damage: u64,
}

/// A fault and its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at: Micros,
    /// What.
    pub fault: Fault,
}

impl Fault {
    /// What counters call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerLoss { .. } => "power loss",
            Self::Pause { .. } => "pause",
            Self::Cut { .. } => "partition",
            Self::Flap { .. } => "flapping partition",
            Self::Noise { .. } => "packet noise",
            Self::SlowLink { .. } => "slow link",
            Self::ClockJump { .. } => "clock jump",
            Self::ClockDrift { .. } => "clock drift",
            Self::SlowLoop { .. } => "slow loop",
            Self::DiskStall { .. } => "disk stall",
            Self::DiskSlow { .. } => "slow disk",
            Self::DiskFull { .. } => "full disk",
            Self::SyncError { .. } => "sync error",
            Self::RotJournal { .. } => "journal rot",
            Self::RotStore { .. } => "store rot",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: Micros| us as f64 / 1_000.0;
        write!(f, "{:>10.3} s  {}", self.at as f64 / SECOND as f64, self.fault.name())?;
        let pairs = |f: &mut fmt::Formatter<'_>, pairs: &[(usize, usize)]| {
            let shown: Vec<_> = pairs.iter().map(|(a, b)| format!("{}→{}", a + 1, b + 1)).collect();
            write!(f, " {}", shown.join(" "))
        };
        match &self.fault {
            Fault::Kill { node, down_us } | Fault::SyncError { node, down_us } => {
                write!(f, " of node {}, back after {:.0} ms", node + 1, ms(*down_us))
            }
            Fault::PowerLoss { nodes, down_us } => {
                let nodes: Vec<_> = nodes.iter().map(|n| (n + 1).to_string()).collect();
                write!(f, " of nodes {}, back after {:.0} ms", nodes.join(", "), ms(*down_us))
            }
            Fault::Pause { node, for_us }
            | Fault::DiskStall { node, for_us }
            | Fault::DiskFull { node, for_us } => {
                write!(f, " of node {} for {:.0} ms", node + 1, ms(*for_us))
            }
            Fault::Cut { pairs: cut, for_us } => {
                pairs(f, cut)?;
                write!(f, " for {:.0} ms", ms(*for_us))
            }
            Fault::Flap { pairs: cut, period_us, times } => {
                pairs(f, cut)?;
                write!(f, " {times} times for {:.0} ms", ms(*period_us))
            }
            Fault::Noise { noise, for_us } => {
                write!(f, " {noise:?} for {:.0} ms", ms(*for_us))
            }
            Fault::SlowLink { a, b, extra_us, for_us } => write!(
                f,
                " {}–{} by {:.0} ms for {:.0} ms",
                a + 1,
                b + 1,
                ms(*extra_us),
                ms(*for_us)
            ),
            Fault::ClockJump { node, by_us } => {
                write!(f, " of node {} by {:.0} ms", node + 1, *by_us as f64 / 1_000.0)
            }
            Fault::ClockDrift { node, parts } => {
                write!(f, " of node {} by {parts} in a million", node + 1)
            }
            Fault::SlowLoop { node, by_us, for_us } => {
                write!(f, " of node {} by {:.0} ms for {:.0} ms", node + 1, ms(*by_us), ms(*for_us))
            }
            Fault::DiskSlow { node, factor, for_us } => {
                write!(f, " of node {} {factor} times for {:.0} ms", node + 1, ms(*for_us))
            }
            Fault::RotJournal { node, down_us, .. } | Fault::RotStore { node, down_us, .. } => {
                write!(f, " of node {}, down for {:.0} ms", node + 1, ms(*down_us))
            }
        }
    }
}

/// Draws the faults of a run that lasts until `end`.
pub(crate) fn schedule(seed: u64, shape: &Shape, end: Micros) -> Vec<Planned> {
    let mut prng = part(seed, 2);
    let mut planned = Vec::new();
    let kinds: Vec<Kind> = shape.kinds.iter().copied().filter(|k| fits(*k, shape)).collect();
    if kinds.is_empty() {
        return planned;
    }
    let pause = magnitude(&mut prng, 200 * MILLISECOND, 8 * SECOND);
    // The cluster forms first, most of the time.
    let mut at = one(&mut prng, &[0, SECOND, 2 * SECOND, 3 * SECOND]);
    loop {
        at += between(&mut prng, 1, 2 * pause);
        if at >= end {
            return planned;
        }
        let kind = one(&mut prng, &kinds);
        let fault = draw(&mut prng, kind, shape);
        planned.push(Planned { at, fault });
    }
}

fn fits(kind: Kind, shape: &Shape) -> bool {
    match kind {
        Kind::Partition | Kind::Network => shape.nodes > 1,
        Kind::Rot => shape.damaged_max() > 0,
        _ => true,
    }
}

fn draw(prng: &mut Prng, kind: Kind, shape: &Shape) -> Fault {
    let node = prng.below(shape.nodes as u64) as usize;
    let down_us = magnitude(prng, MILLISECOND, 4 * SECOND);
    let for_us = magnitude(prng, 10 * MILLISECOND, 6 * SECOND);
    match kind {
        Kind::Crash => match prng.below(5) {
            0 | 1 => Fault::Kill { node, down_us },
            2 | 3 => Fault::PowerLoss { nodes: vec![node], down_us },
            _ => {
                let some = (0..shape.nodes).filter(|n| *n == node || ppm(prng, 700_000));
                Fault::PowerLoss { nodes: some.collect(), down_us }
            }
        },
        Kind::Pause => Fault::Pause { node, for_us },
        Kind::Partition => draw_partition(prng, shape, for_us),
        Kind::Network => draw_network(prng, shape, for_us),
        Kind::Clock if prng.below(2) == 0 => {
            // Up to more than sessions of requests may be idle.
            let by_us = magnitude(prng, MILLISECOND, 1_000 * SECOND) as i64;
            Fault::ClockJump { node, by_us: if prng.below(2) == 0 { by_us } else { -by_us } }
        }
        Kind::Clock => {
            let parts = between(prng, 0, 2 * DRIFT_PARTS_MAX) as i64 - DRIFT_PARTS_MAX as i64;
            Fault::ClockDrift { node, parts }
        }
        Kind::Loop => {
            let by_us = magnitude(prng, MILLISECOND, 800 * MILLISECOND);
            Fault::SlowLoop { node, by_us, for_us }
        }
        Kind::Disk => match prng.below(4) {
            0 => Fault::DiskStall { node, for_us },
            1 => {
                let factor = magnitude(prng, 4, 400);
                Fault::DiskSlow { node, factor, for_us }
            }
            2 => Fault::DiskFull { node, for_us },
            _ => Fault::SyncError { node, down_us },
        },
        Kind::Rot if prng.below(2) == 0 => {
            Fault::RotJournal { node, seed: prng.next_u64(), down_us }
        }
        Kind::Rot => {
            let down_us = if prng.below(2) == 0 { down_us } else { 0 };
            Fault::RotStore { node, seed: prng.next_u64(), down_us }
        }
    }
}

/// How far clocks may run fast or slow: within what leases allow for.
const DRIFT_PARTS_MAX: u64 = 50_000;

fn draw_partition(prng: &mut Prng, shape: &Shape, for_us: Micros) -> Fault {
    let all: Vec<(usize, usize)> = (0..shape.nodes)
        .flat_map(|a| (0..shape.nodes).map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
        .collect();
    let pairs: Vec<(usize, usize)> = match prng.below(4) {
        // Two sides.
        0 | 1 => {
            let side: Vec<bool> = (0..shape.nodes).map(|_| prng.below(2) == 0).collect();
            all.iter().copied().filter(|&(a, b)| side[a] != side[b]).collect()
        }
        // Some links, both ways.
        2 => {
            let cut: Vec<_> = all.iter().filter(|(a, b)| a < b && ppm(prng, 400_000)).collect();
            cut.into_iter().flat_map(|&(a, b)| [(a, b), (b, a)]).collect()
        }
        // Some links, one way.
        _ => all.iter().copied().filter(|_| ppm(prng, 300_000)).collect(),
    };
    let pairs = if pairs.is_empty() { vec![one(prng, &all)] } else { pairs };
    if prng.below(4) == 0 {
        let period_us = magnitude(prng, 20 * MILLISECOND, SECOND / 2);
        return Fault::Flap { pairs, period_us, times: between(prng, 2, 8) as u32 };
    }
    Fault::Cut { pairs, for_us }
}

fn draw_network(prng: &mut Prng, shape: &Shape, for_us: Micros) -> Fault {
    if prng.below(3) == 0 {
        let a = prng.below(shape.nodes as u64) as usize;
        let b = (a + between(prng, 1, shape.nodes as u64 - 1) as usize) % shape.nodes;
        let extra_us = magnitude(prng, MILLISECOND, 400 * MILLISECOND);
        return Fault::SlowLink { a, b, extra_us, for_us };
    }
    let mut parts = || if prng.below(2) == 0 { 0 } else { magnitude(prng, 100, 20_000) };
    let mut noise = Noise {
        lose: parts(),
        resend: parts(),
        double: parts(),
        reorder: parts(),
        damage: parts(),
    };
    if noise == Noise::default() {
        noise.damage = 10_000;
    }
    Fault::Noise { noise, for_us }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_is_drawn_for_some_seed_and_a_seed_always_draws_the_same() {
        let options = Options { kinds: Kind::ALL.to_vec(), ..Options::default() };
        let mut names = BTreeSet::new();
        for seed in 0..200 {
            let shape = Shape::draw(seed, &options);
            assert_eq!(shape, Shape::draw(seed, &options));
            let planned = schedule(seed, &shape, 60 * SECOND);
            assert_eq!(planned, schedule(seed, &shape, 60 * SECOND));
            names.extend(planned.iter().map(|planned| planned.fault.name()));
        }
        assert_eq!(names.len(), 16, "{names:?}");
    }

    #[test]
    fn kinds_are_known_by_their_names() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("flood".parse::<Kind>().unwrap_err().contains("partition"));
    }
}
