//! What a seed decides before anything happens: the cluster's shape and its knobs.

use crate::chance::{between, magnitude, one, part, ppm};
use crate::queue::{MILLISECOND, Micros};
use crate::{Kind, Options};
use quorate_base::Prng;
use quorate_base::ids::NodeId;
use quorate_data::place::{SpaceMap, SpaceShards};
use quorate_log::raft::RETAINED_BYTES_MAX;
use quorate_node::config::{About, Cluster, Space};
use quorate_node::{Config, Durability, WorkerId};

/// The most nodes of a cluster here.
pub const NODES_MAX: usize = 7;

/// Keys the place hash of all nodes.
const PLACE_SEED: u64 = 7;

/// The cluster's shape and knobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes.
    pub nodes: usize,
    /// Workers of each node.
    pub workers: WorkerId,
    /// Shards of the only space.
    pub shards: u32,
    /// What the space promises.
    pub relaxed: bool,
    /// The region of each node.
    pub regions: Vec<usize>,
    /// One way between two regions, in microseconds.
    pub latency_us: Vec<Vec<Micros>>,
    /// Clients.
    pub clients: usize,
    pub(crate) knobs: Knobs,
    pub(crate) kinds: Vec<Kind>,
}

/// How large and how fast things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Knobs {
    pub(crate) flush_bytes: usize,
    pub(crate) persist_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) tail_bytes_max: u64,
    /// Writes wait while what the tables lack takes more than this in the journal.
    pub(crate) throttle_bytes: u64,
    /// A sync of the journal.
    pub(crate) sync_us: Micros,
    /// Between something that reaches a worker and its turn, at most.
    pub(crate) loop_us: Micros,
    /// Between two workers of a node, at most; 0: at once.
    pub(crate) mail_us: Micros,
    /// A worker takes only some of what waits, in so many of a million turns.
    pub(crate) partial_ppm: u64,
    /// How far a packet's delay varies, in thousandths.
    pub(crate) jitter: u64,
    /// A client and its node, one way.
    pub(crate) client_us: Micros,
    /// Between a client's reply and its next request, at most.
    pub(crate) think_us: Micros,
    /// A worker's turn goes by what the clock showed when it was due, not when it began.
    pub(crate) stale_turns: bool,
    /// What a log spends on entries for a follower that is behind.
    pub(crate) retained_bytes: usize,
}

impl Shape {
    /// What `seed` decides where `options` leave it open.
    pub(crate) fn draw(seed: u64, options: &Options) -> Self {
        let mut prng = part(seed, 1);
        let kinds = draw_kinds(&mut prng, options);
        let sizes = [1, 2, 3, 3, 3, 4, 5, 5, 7];
        let nodes = one(&mut prng, &sizes);
        let nodes = options.nodes.unwrap_or(nodes).clamp(1, NODES_MAX);
        // What relaxed durability may lose in a crash, no checker could tell from a fault of ours.
        let loses_memory = |kind: &Kind| matches!(kind, Kind::Crash | Kind::Disk | Kind::Rot);
        let relaxed = ppm(&mut prng, 200_000) && !kinds.iter().any(loses_memory);
        let regions_count = one(&mut prng, &[1, 1, 1, 2, 3]).min(nodes);
        let regions = (0..nodes).map(|node| node % regions_count).collect();
        let workers = options.workers.unwrap_or(between(&mut prng, 1, 3) as WorkerId).max(1);
        let shards = options.shards.unwrap_or(between(&mut prng, 1, 8) as u32).max(1);
        Self {
            nodes,
            workers,
            shards,
            relaxed,
            regions,
            latency_us: draw_latency(&mut prng, regions_count),
            clients: options.clients.unwrap_or(between(&mut prng, 2, 8) as usize).max(1),
            knobs: draw_knobs(&mut prng, &mut part(seed, 6), &kinds),
            kinds,
        }
    }

    /// The ids of all nodes.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        (1..=self.nodes as NodeId).collect()
    }

    /// The most nodes whose durable state may be damaged at once: a minority.
    pub(crate) fn damaged_max(&self) -> usize {
        (self.nodes - 1) / 2
    }

    /// The configuration of a node.
    pub(crate) fn config(&self, node: NodeId) -> Config {
        let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards: self.shards };
        let durability = if self.relaxed { Durability::Relaxed } else { Durability::Sync };
        Config {
            workers: self.workers,
            map: SpaceMap::new(vec![space], PLACE_SEED),
            spaces: vec![Space { name: "default".into(), durability }],
            cluster: (self.nodes > 1).then(|| Cluster { node, nodes: self.ids() }),
            memory_bytes_max: self.knobs.memory_bytes * u64::from(self.workers),
            flush_bytes: self.knobs.flush_bytes,
            query_buffer_bytes_max: 1 << 30,
            script_watch: None,
            about: About {
                version: "0.0.0".into(),
                pid: node as u32,
                port: 6379,
                run_id: format!("{node:040x}"),
                os: "Simulated".into(),
                data_dir: format!("/data/{node}"),
                config_file: String::new(),
                client_address: String::new(),
            },
        }
    }

    /// The seed of the place hash, for whoever opens a keyspace.
    pub(crate) fn place_seed(&self) -> u64 {
        PLACE_SEED
    }
}

/// Each allowed kind of fault with the same chance; at least one where any is allowed.
fn draw_kinds(prng: &mut Prng, options: &Options) -> Vec<Kind> {
    let mut kinds = options.kinds.clone();
    kinds.sort_unstable();
    kinds.dedup();
    if options.all_kinds || kinds.is_empty() {
        return kinds;
    }
    let sure = one(prng, &kinds);
    kinds.retain(|kind| *kind == sure || ppm(prng, 500_000));
    kinds
}

fn draw_latency(prng: &mut Prng, regions: usize) -> Vec<Vec<Micros>> {
    let within = magnitude(prng, 50, 800);
    let mut latency = vec![vec![within; regions]; regions];
    let pairs = (0..regions).flat_map(|a| (0..a).map(move |b| (a, b)));
    for (a, b) in pairs {
        let far = magnitude(prng, MILLISECOND, 60 * MILLISECOND);
        (latency[a][b], latency[b][a]) = (far, far);
    }
    latency
}

fn draw_knobs(prng: &mut Prng, log_prng: &mut Prng, kinds: &[Kind]) -> Knobs {
    let segment_bytes = one(prng, &[64, 128, 256, 1024]) << 10;
    Knobs {
        flush_bytes: magnitude(prng, 64, 64 << 10) as usize,
        persist_bytes: magnitude(prng, 256, 256 << 10),
        memory_bytes: magnitude(prng, 16 << 10, 64 << 20),
        segment_bytes,
        tail_bytes_max: segment_bytes * between(prng, 2, 8),
        throttle_bytes: segment_bytes * between(prng, 4, 16),
        sync_us: magnitude(prng, 50, 10 * MILLISECOND),
        loop_us: magnitude(prng, 2, 500),
        mail_us: one(prng, &[0, 0, 20, 300]),
        partial_ppm: one(prng, &[0, 100_000, 500_000]),
        jitter: one(prng, &[0, 50, 200, 1_000]),
        client_us: magnitude(prng, 20, 2_000),
        think_us: magnitude(prng, MILLISECOND, 40 * MILLISECOND),
        stale_turns: kinds.iter().any(|kind| matches!(kind, Kind::Loop | Kind::Pause))
            && ppm(prng, 300_000),
        retained_bytes: magnitude(log_prng, 1 << 10, RETAINED_BYTES_MAX as u64) as usize,
    }
}
