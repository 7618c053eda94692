//! What a node is: its spaces and shards, its workers, its bounds.

use crate::event::WorkerId;
use crate::shard::Durability;
use quorate_base::ids::NodeId;
use quorate_data::place::SpaceMap;

/// The configuration of a node, the same for all its workers and fixed while it runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many workers share the shards.
    pub workers: WorkerId,
    /// Spaces, their prefixes and shards.
    pub map: SpaceMap,
    /// Name and durability of each space, by its id.
    pub spaces: Vec<Space>,
    /// The cluster that the node is part of; `None` for a node that stands alone.
    pub cluster: Option<Cluster>,
    /// Bytes of memory for data, over all workers; beyond it cold shards are served from disk.
    pub memory_bytes_max: u64,
    /// Bytes that changed in a shard before they are flushed to its table.
    pub flush_bytes: usize,
    /// A client that sends more than this without a complete command is closed.
    pub query_buffer_bytes_max: usize,
    /// A clock in milliseconds by which scripts are ended; without one only what they execute is
    /// counted.
    pub script_watch: Option<fn() -> u64>,
    /// What INFO and HELLO say of the node.
    pub about: About,
}

/// The nodes that hold the replicas of every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// This node.
    pub node: NodeId,
    /// All nodes, this one included, ascending.
    pub nodes: Vec<NodeId>,
}

/// A space as its users know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// What it promises.
    pub durability: Durability,
}

/// What INFO and HELLO say of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// The version of Quorate.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// The TCP port.
    pub port: u16,
    /// 40 hexadecimal digits, another at each start.
    pub run_id: String,
    /// The operating system.
    pub os: String,
    /// The data directory.
    pub data_dir: String,
    /// The configuration file; empty if there is none.
    pub config_file: String,
    /// `ADDR:PORT` where clients connect, told to the other nodes of the cluster; empty if it is
    /// nobody's business.
    pub client_address: String,
}

impl Config {
    /// A share of [`Config::memory_bytes_max`] for one worker.
    pub(crate) fn worker_memory_bytes(&self) -> u64 {
        self.memory_bytes_max / u64::from(self.workers)
    }
}
