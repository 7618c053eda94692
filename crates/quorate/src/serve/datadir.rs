//! The data directory: who may use it, and what it is.
//!
//! ```text
//! quorate-data/
//!   LOCK            held by the process that uses the directory
//!   node.json       format, the node's identity, and where each space's shards are
//!   journal/        what was acknowledged and is not in the store yet
//!   store/<shard>/  one LSM tree a shard
//! ```

use crate::config::{Config, DEFAULT_SPACE_SHARDS};
use crate::serve::ServeError;
use quorate_data::place::{SpaceMap, SpaceShards};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The format of `node.json` and of everything beside it.
const FORMAT: u32 = 1;

/// An opened data directory; the lock is held as long as this lives.
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    _lock: File,
}

/// What `node.json` says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    format: u32,
    /// Random; the node's name among nodes.
    pub(crate) node: u64,
    /// Keys the place hash and never changes.
    pub(crate) seed: u64,
    /// The journal's identity.
    pub(crate) journal: u64,
    pub(crate) spaces: Vec<SpaceIdentity>,
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
        let identity = Identity::load_or_create(&path, config)?;
        Ok(Self { path, identity, _lock: lock })
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
            let identity = Self::new(config).map_err(|e| file("draw random numbers for", e))?;
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
        identity.with_spaces_of(config, &path)
    }

    fn new(config: &Config) -> std::io::Result<Self> {
        let mut identity = Self {
            format: FORMAT,
            node: random()?,
            seed: random()?,
            journal: random()?,
            spaces: Vec::new(),
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
        let unfinished = path.with_extension("json.tmp");
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(self).expect("plain values become JSON"))?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        File::open(path.parent().expect("a file has a directory"))?.sync_all()
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

/// 64 bits from the operating system.
pub(crate) fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
