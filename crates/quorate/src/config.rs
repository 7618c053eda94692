//! Settings: defaults, then a TOML file, then the environment, then flags.

mod cluster;

use crate::cli::{Durability, LogFormat, ServeArgs};
pub(crate) use cluster::Cluster;
use cluster::{ClusterSettings, Peers};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Shards of a space that does not say how many.
const SPACE_SHARDS: u32 = 4;

/// Shards of the default space.
pub(crate) const DEFAULT_SPACE_SHARDS: u32 = 16;

/// The most shards of one space.
const SHARDS_MAX: u32 = 16_384;

/// The most shards of all spaces: what the journal keeps.
const SHARDS_MAX_TOTAL: u64 = quorate_storage::journal::SHARDS_MAX as u64;

/// The most workers; each has a thread and an event loop.
const WORKERS_MAX: u16 = 1_024;

/// Everything that can be set.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    /// Where metrics and health are served over HTTP; nowhere if it is not given.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) data: PathBuf,
    /// Of the default space.
    pub(crate) durability: Durability,
    /// 0: half of the cores.
    pub(crate) workers: u16,
    /// Such as "4 GiB"; empty: half of the machine's memory.
    pub(crate) memory: String,
    /// What the tables may lack before writes wait for them, such as "4 GiB".
    pub(crate) journal: String,
    pub(crate) log_format: LogFormat,
    pub(crate) log: String,
    #[serde(rename = "space")]
    pub(crate) spaces: Vec<Space>,
    #[serde(rename = "cluster")]
    cluster_settings: ClusterSettings,
    /// The directory takes the place of one that was lost.
    #[serde(skip)]
    pub(crate) replace: bool,
    /// The file this came from.
    #[serde(skip)]
    pub(crate) file: Option<PathBuf>,
}

/// A space besides the default one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) prefix: String,
    #[serde(default = "sync")]
    pub(crate) durability: Durability,
    #[serde(default = "space_shards")]
    pub(crate) shards: u32,
}

fn sync() -> Durability {
    Durability::Sync
}

fn space_shards() -> u32 {
    SPACE_SHARDS
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6379)),
            http: None,
            data: PathBuf::from("quorate-data"),
            durability: Durability::Sync,
            workers: 0,
            memory: String::new(),
            journal: "1 GiB".into(),
            log_format: LogFormat::Human,
            log: "info".into(),
            spaces: Vec::new(),
            cluster_settings: ClusterSettings::default(),
            replace: false,
            file: None,
        }
    }
}

/// Flags that were given, under the names of [`Config`].
#[derive(Serialize)]
struct Flags<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a String>,
    cluster: ClusterFlags<'a>,
}

/// The same under the names of [`ClusterSettings`].
#[derive(Serialize)]
struct ClusterFlags<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Peers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_listen: Option<&'a String>,
}

impl Config {
    /// The settings that `args`, the environment and the file make together.
    pub(crate) fn load(args: &ServeArgs) -> Result<Self, String> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = &args.config {
            if !file.is_file() {
                return Err(format!(
                    "there is no configuration file {}; give its path to --config, or leave it out",
                    file.display()
                ));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let flags = Flags {
            listen: args.listen,
            http: args.http,
            data: args.data.as_ref(),
            durability: args.durability,
            workers: args.workers,
            memory: args.memory.as_ref(),
            log_format: args.log_format,
            log: args.log.as_ref(),
            cluster: ClusterFlags {
                name: args.cluster.as_ref(),
                node: args.node,
                peers: args.peers.clone().map(Peers::Text),
                peer_listen: args.peer_listen.as_ref(),
            },
        };
        let names = [
            "listen",
            "http",
            "data",
            "durability",
            "workers",
            "memory",
            "journal",
            "log_format",
            "log",
        ];
        let of_cluster = ["cluster", "node", "peers", "peer_listen"];
        let cluster = Env::prefixed("QUORATE_").only(&of_cluster).map(|name| match name.as_str() {
            "cluster" => "cluster.name".into(),
            name => format!("cluster.{name}").into(),
        });
        let mut config: Self = figment
            .merge(Env::prefixed("QUORATE_").only(&names))
            .merge(cluster)
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|e| format!("a setting makes no sense: {e}"))?;
        config.file.clone_from(&args.config);
        config.replace = args.replace;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (at, space) in self.spaces.iter().enumerate() {
            let name = &space.name;
            if space.prefix.is_empty() {
                return Err(format!(
                    "space '{name}' has an empty prefix: keys without a space of their own belong \
                     to the default space, whose durability is the top-level `durability`"
                ));
            }
            if name.is_empty() || name == "default" {
                return Err(format!("a space cannot be named '{name}'; choose another name"));
            }
            if !(1..=SHARDS_MAX).contains(&space.shards) {
                return Err(format!(
                    "space '{name}' asks for {} shards; 1 to {SHARDS_MAX} are possible",
                    space.shards
                ));
            }
            for other in &self.spaces[..at] {
                if other.name == *name || other.prefix == space.prefix {
                    return Err(format!(
                        "spaces '{}' and '{name}' have the same name or prefix; both must differ",
                        other.name
                    ));
                }
            }
        }
        let shards = self.spaces.iter().map(|space| u64::from(space.shards)).sum::<u64>();
        let shards = shards + u64::from(DEFAULT_SPACE_SHARDS);
        if shards > SHARDS_MAX_TOTAL {
            return Err(format!(
                "the spaces ask for {shards} shards together; {SHARDS_MAX_TOTAL} are possible"
            ));
        }
        if self.workers > WORKERS_MAX {
            return Err(format!(
                "workers = {} is more than {WORKERS_MAX}; as many as there are cores are enough",
                self.workers
            ));
        }
        if self.cluster()?.is_none() && self.replace {
            return Err("--replace is for a node of a cluster, whose data the other nodes have; \
                        restore a node that stands alone from a backup"
                .into());
        }
        self.journal_bytes()?;
        self.memory_bytes().map(|_| ())
    }

    /// The cluster this node is part of, if any.
    pub(crate) fn cluster(&self) -> Result<Option<Cluster>, String> {
        Cluster::new(&self.cluster_settings)
    }

    /// How many workers serve clients.
    pub(crate) fn worker_count(&self) -> u16 {
        if self.workers > 0 {
            return self.workers;
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u16::try_from(cores / 2).unwrap_or(u16::MAX).max(1)
    }

    /// Bytes of the journal that the tables may lack before writes wait.
    pub(crate) fn journal_bytes(&self) -> Result<u64, String> {
        parse_bytes(&self.journal).filter(|&bytes| bytes >= 64 << 20).ok_or_else(|| {
            format!(
                "journal = '{}' is no size of at least 64 MiB; write it as \"512 MiB\" or \"4 GiB\"",
                self.journal
            )
        })
    }

    /// Bytes of memory for data.
    pub(crate) fn memory_bytes(&self) -> Result<u64, String> {
        if self.memory.is_empty() {
            return Ok(machine_memory_bytes() / 2);
        }
        parse_bytes(&self.memory).filter(|&bytes| bytes >= 16 << 20).ok_or_else(|| {
            format!(
                "memory = '{}' is no size of at least 16 MiB; write it as \"512 MiB\" or \"4 GiB\"",
                self.memory
            )
        })
    }
}

/// A number of bytes with an optional unit: B, KiB, MiB, GiB, TiB (KB, MB, … mean the same, as in
/// Redis' `maxmemory`).
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// The memory of this machine, as the kernel says; 2 GiB where it does not.
fn machine_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kilobytes.map_or(2 << 30, |kb| kb << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("512 MiB"), Some(512 << 20));
        assert_eq!(parse_bytes("4gb"), Some(4 << 30));
        assert_eq!(parse_bytes("100"), Some(100));
        assert_eq!(parse_bytes("many"), None);
        assert_eq!(parse_bytes("5 parsecs"), None);
    }
}
