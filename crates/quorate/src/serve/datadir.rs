//! The data directory: who may use it, and what it is.
//!
//! ```text
//! quorate-data/
//!   LOCK            held by the process that uses the directory
//!   node.json       format, the node's identity, and where each space's shards are
//!   peers.json      what is known of the other nodes of a cluster (known.rs)
//!   journal/        what was acknowledged and is not in the store yet
//!   store/<shard>/  one LSM tree a shard
//! ```

use crate::config::{Cluster, Config, DEFAULT_SPACE_SHARDS};
use crate::serve::ServeError;
use quorate_base::codec::{put_bytes, put_varint};
use quorate_base::hash::hash64;
use quorate_base::ids::NodeId;
use quorate_data::place::{SpaceMap, SpaceShards};
use quorate_node::link::Incarnation;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The format of `node.json` and of everything beside it.
const FORMAT: u32 = 1;

/// An opened data directory; the lock is held as long as this lives.
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// The directory was empty until now.
    pub(crate) is_new: bool,
    _lock: File,
}

/// What `node.json` says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    format: u32,
    /// Random; the node's name among nodes.
    pub(crate) node: u64,
    /// When this directory took the place of one that was lost, in milliseconds since 1970; 0 if
    /// it did not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) replaced_at: u64,
    /// Keys the place hash and never changes; the same on all nodes of a cluster.
    pub(crate) seed: u64,
    /// The journal's identity.
    pub(crate) journal: u64,
    pub(crate) spaces: Vec<SpaceIdentity>,
    /// Absent for a node that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterIdentity>,
}

/// The cluster that the data belongs to, and the node of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterIdentity {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    /// Ascending.
    pub(crate) nodes: Vec<NodeId>,
}

/// A space as its shards on disk know it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpaceIdentity {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) first_shard: u32,
    pub(crate) shards: u32,
}

impl DataDir {
    /// Opens the directory that `config` names, creating it if missing, and locks it.
    pub(crate) fn open(config: &Config) -> Result<Self, ServeError> {
        let path = &config.data;
        let dir = |doing, source| ServeError::DataDir { doing, path: path.clone(), source };
        std::fs::create_dir_all(path).map_err(|e| dir("create", e))?;
        let path = path.canonicalize().map_err(|e| dir("find", e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("LOCK"))
            .map_err(|e| dir("open the lock of", e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ServeError::Locked(path)),
            Err(TryLockError::Error(e)) => return Err(dir("lock", e)),
        }
        let is_new = !path.join("node.json").exists();
        let identity = Identity::load_or_create(&path, config)?;
        Ok(Self { path, identity, is_new, _lock: lock })
    }

    /// The journal's directory.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }
}

impl Identity {
    fn load_or_create(dir: &Path, config: &Config) -> Result<Self, ServeError> {
        let path = dir.join("node.json");
        let file = |doing, source| ServeError::DataDir { doing, path: path.clone(), source };
        if !path.exists() {
            if dir.join("journal").exists() || dir.join("store").exists() {
                return Err(ServeError::NoIdentity(path));
            }
            let identity = Self::new(config, ClusterIdentity::of(config)?)
                .map_err(|e| file("draw random numbers for", e))?;
            identity.save(&path).map_err(|e| file("write", e))?;
            return Ok(identity);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| file("read", e))?;
        let identity: Self = serde_json::from_str(&text)
            .map_err(|e| ServeError::Identity { path: path.clone(), reason: e.to_string() })?;
        if identity.format != FORMAT {
            return Err(ServeError::Format { path, found: identity.format, known: FORMAT });
        }
        if identity.spaces.is_empty() {
            let reason = "it names no spaces".into();
            return Err(ServeError::Identity { path, reason });
        }
        identity.check_cluster(ClusterIdentity::of(config)?.as_ref(), dir)?;
        // A service that is restarted with the same flags goes on.
        if config.replace && identity.replaced_at == 0 {
            return Err(ServeError::NotLost(dir.to_owned()));
        }
        identity.with_spaces_of(config, &path)
    }

    fn new(config: &Config, cluster: Option<ClusterIdentity>) -> std::io::Result<Self> {
        let seed = match &cluster {
            // Nobody is there yet who could hand out a random one to all nodes.
            Some(cluster) => cluster.seed(),
            None => random()?,
        };
        let mut identity = Self {
            format: FORMAT,
            node: random()?,
            replaced_at: if config.replace { milliseconds_since_1970() } else { 0 },
            seed,
            journal: random()?,
            spaces: Vec::new(),
            cluster,
        };
        identity.push("default", "", DEFAULT_SPACE_SHARDS);
        for space in &config.spaces {
            identity.push(&space.name, &space.prefix, space.shards);
        }
        Ok(identity)
    }

    fn push(&mut self, name: &str, prefix: &str, shards: u32) {
        let first_shard = self.spaces.iter().map(|s| s.first_shard + s.shards).max().unwrap_or(0);
        let id = self.spaces.iter().map(|s| s.id + 1).max().unwrap_or(0);
        let (name, prefix) = (name.to_owned(), prefix.to_owned());
        self.spaces.push(SpaceIdentity { id, name, prefix, first_shard, shards });
    }

    /// Refuses to serve data of one cluster, or of none, as data of another.
    fn check_cluster(&self, want: Option<&ClusterIdentity>, dir: &Path) -> Result<(), ServeError> {
        let reason = match (&self.cluster, want) {
            (have, want) if have.as_ref() == want => return Ok(()),
            (None, _) => "it belongs to a node that stands alone, and making such a node part of \
                          a cluster is not possible yet. Start it without --node and --peers, or \
                          start the cluster with an empty directory"
                .into(),
            (Some(have), None) => format!(
                "it belongs to {have}. Start it with --node {} and --peers as before, or choose \
                 another directory with --data",
                have.node
            ),
            (Some(have), Some(want)) => format!(
                "it belongs to {have}, and the settings say {want}; a cluster's name, ids and \
                 number of nodes cannot be changed yet. Start it as before (addresses may change), \
                 or choose another directory with --data"
            ),
        };
        Err(ServeError::Cluster { path: dir.to_owned(), reason })
    }

    /// What all nodes of the cluster must agree on, as one number: who they are and where keys
    /// are. Nodes that do not agree turn each other away.
    pub(crate) fn cluster_id(&self) -> u64 {
        let mut bytes = Vec::new();
        for space in &self.spaces {
            put_varint(&mut bytes, u64::from(space.id));
            put_bytes(&mut bytes, space.name.as_bytes());
            put_bytes(&mut bytes, space.prefix.as_bytes());
            put_varint(&mut bytes, u64::from(space.first_shard));
            put_varint(&mut bytes, u64::from(space.shards));
        }
        hash64(self.seed, &bytes)
    }

    /// Refuses a configuration whose spaces would put existing keys elsewhere.
    fn with_spaces_of(self, config: &Config, path: &Path) -> Result<Self, ServeError> {
        let have: Vec<_> = self.spaces[1..]
            .iter()
            .map(|s| (s.name.as_str(), s.prefix.as_str(), s.shards))
            .collect();
        let want: Vec<_> =
            config.spaces.iter().map(|s| (s.name.as_str(), s.prefix.as_str(), s.shards)).collect();
        let missing = have.iter().find(|s| !want.contains(s));
        let new = want.iter().find(|s| !have.contains(s));
        let Some((name, prefix, shards)) = missing.or(new) else { return Ok(self) };
        Err(ServeError::Spaces {
            path: path.to_owned(),
            space: format!("'{name}' (prefix '{prefix}', {shards} shards)"),
            stored: missing.is_some(),
        })
    }

    fn save(&self, path: &Path) -> std::io::Result<()> {
        write_file(path, &serde_json::to_vec_pretty(self).expect("plain values become JSON"))
    }

    /// What other nodes know this directory by.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation { id: self.node, replaced_at: self.replaced_at }
    }

    /// The map from keys to shards.
    pub(crate) fn map(&self) -> SpaceMap {
        let spaces = self.spaces.iter().map(|s| SpaceShards {
            id: s.id,
            prefix: s.prefix.clone().into_bytes(),
            first: s.first_shard,
            shards: s.shards,
        });
        SpaceMap::new(spaces.collect(), self.seed)
    }
}

impl ClusterIdentity {
    fn of(config: &Config) -> Result<Option<Self>, ServeError> {
        let cluster = config.cluster().map_err(ServeError::Config)?;
        Ok(cluster.as_ref().map(Self::from))
    }

    /// The key of the place hash: the same on all nodes, another for another cluster.
    fn seed(&self) -> u64 {
        let mut bytes = self.name.clone().into_bytes();
        for node in &self.nodes {
            bytes.extend_from_slice(&node.to_le_bytes());
        }
        hash64(self.name.len() as u64, &bytes)
    }
}

impl From<&Cluster> for ClusterIdentity {
    fn from(cluster: &Cluster) -> Self {
        Self { name: cluster.name.clone(), node: cluster.node, nodes: cluster.nodes() }
    }
}

impl std::fmt::Display for ClusterIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "node {} of the cluster '{}' (nodes {nodes})", self.node, self.name)
    }
}

/// Puts a file in the place of what is there, durably and whole or not at all.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = path.with_extension("json.tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(path.parent().expect("a file has a directory"))?.sync_all()
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// At least 1, however wrong the clock is.
fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| (since.as_millis() as u64).max(1))
}

/// 64 bits from the operating system.
pub(crate) fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
