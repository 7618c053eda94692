//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A durable key-value database that speaks the Redis protocol.
///
/// `quorate serve` starts a node with nothing to configure: any Redis client can use it, and no
/// write is acknowledged before it is on disk.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, arg_required_else_help = true)]
#[command(
    after_help = "Try it:\n  quorate serve &\n  redis-cli set greeting hello\n  redis-cli get greeting"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node and serve Redis clients
    Serve(ServeArgs),
    /// Say how the nodes are: health, leaders, copies, load
    Status(StatusArgs),
    /// Watch the nodes, refreshed each second
    Top(TopArgs),
    /// Find out in simulation whether a cluster survives
    Sim(SimArgs),
}

const SIM_ABOUT: &str = "\
Runs clusters of the real node code in a simulated world: time, network and disks are simulated, and
one number, the seed, decides everything that goes wrong. The same seed always gives the same run.

While faults happen, clients read and write through every node. In the end these promises are
checked: reads and writes are linearizable, nothing acknowledged is lost, nothing is executed twice,
no two nodes disagree on an entry of a log, all replicas are equal, and once the faults have stopped
everything is answered.";

const SIM_HELP: &str = "\
Faults: crash (processes are killed, machines lose power), pause (as SIGSTOP), partition (full,
partial, one way, flapping), network (packets lost, doubled, reordered, damaged, late), clock (jumps,
drift), loop (slow event loops), disk (stalls, slow syncs, full, failing), rot (flipped bits on a
minority of the nodes). Each seed takes some of those allowed; `--faults none` is a world in order.

Loads: registers, counters, lists, sets, transfers, expiry, queues, mixed, outcomes.

Examples:
  quorate sim                                          100 seeds of all shapes and faults
  quorate sim --nodes 5 --seeds 1000 --faults partition,crash,disk --minutes 10
  quorate sim --nodes 3 --load transfers --seeds 500
  quorate sim --seed 2000 --html run.html              one seed again, as a picture if it fails

Exit code: 0 all promises were kept, 1 one was broken, 2 the options make no sense.";

/// What `quorate sim` takes.
#[derive(Debug, Args)]
#[command(long_about = SIM_ABOUT, after_long_help = SIM_HELP)]
pub(crate) struct SimArgs {
    /// Nodes of the cluster, 1 to 7; each seed draws if it is not given
    #[arg(long)]
    pub(crate) nodes: Option<usize>,
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    pub(crate) seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    pub(crate) from: u64,
    /// Run this seed only
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    pub(crate) seed: Option<u64>,
    /// Which faults may happen, separated by commas; all if it is not given
    #[arg(long, value_delimiter = ',')]
    pub(crate) faults: Option<Vec<String>>,
    /// Begin no further seed after so many minutes
    #[arg(long)]
    pub(crate) minutes: Option<f64>,
    /// Simulated seconds with faults of each seed
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u64,
    /// What clients do; each seed draws if it is not given
    #[arg(long)]
    pub(crate) load: Option<String>,
    /// Workers of each node; each seed draws if it is not given
    #[arg(long)]
    pub(crate) workers: Option<u16>,
    /// Shards; each seed draws if it is not given
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// Seeds run side by side; as many as there are cores if it is not given
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Where to write the diagram of a failure
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

const STATUS_HELP: &str = "\
Asks one node, and then all others that it knows of, each where its clients connect. The first line
says whether all is well, and if not, what to do.

Examples:
  quorate status                                 the node at 127.0.0.1:6379 and its cluster
  quorate status --at host1:6379,host2:6379      the first of these that answers, and its cluster
  quorate status --shards                        every shard: leader, term, what its copies lack
  quorate status --json | jq .health             for programs; docs/operations.md has the shape

Exit code: 0 all is well, 1 it is not or no node answers, 2 the options make no sense.

Colours are left out where the output is no terminal, and where NO_COLOR is set.";

/// What `quorate status` takes.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub(crate) struct StatusArgs {
    /// Where clients connect to a node; further ones are asked if it does not answer
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:6379",
        env = "QUORATE_AT"
    )]
    pub(crate) at: Vec<String>,
    /// List every shard
    #[arg(long)]
    pub(crate) shards: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const TOP_HELP: &str = "\
Keys: q or Esc ends, s sorts the shards by load, keys, memory or lag.

Rates are those of the last second; latencies those of the last five to ten.";

/// What `quorate top` takes.
#[derive(Debug, Args)]
#[command(after_help = TOP_HELP)]
pub(crate) struct TopArgs {
    /// Where clients connect to a node; further ones are asked if it does not answer
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:6379",
        env = "QUORATE_AT"
    )]
    pub(crate) at: Vec<String>,
}

const SERVE_HELP: &str = "\
Examples:
  quorate serve                                  a durable node on 127.0.0.1:6379
  quorate serve --durability relaxed             faster: acknowledged in memory, on disk within a second
  quorate serve --listen 0.0.0.0:7000 --data /var/lib/quorate
  quorate serve --config quorate.toml            spaces with promises of their own, see below

A cluster keeps a copy of everything on each of its nodes and goes on while more than half of them
can talk to each other. Start one command on each machine, the list of peers being the same:

  quorate serve --node 1 --listen 0.0.0.0:6379 --peers 1=host1:7379,2=host2:7379,3=host3:7379
  quorate serve --node 2 --listen 0.0.0.0:6379 --peers 1=host1:7379,2=host2:7379,3=host3:7379
  quorate serve --node 3 --listen 0.0.0.0:6379 --peers 1=host1:7379,2=host2:7379,3=host3:7379

Clients may connect to any of them. A node that lost its data directory has forgotten what it agreed
to, and is turned away until it is started with --replace, once. What the nodes say to each other is neither encrypted nor
authenticated: keep the peer addresses in a network of your own.

Every setting can also come from the environment (QUORATE_LISTEN, QUORATE_DATA, ...) or from the
file given by --config; a flag wins over the environment, and that over the file:

  listen = \"127.0.0.1:6379\"
  data = \"/var/lib/quorate\"
  durability = \"sync\"          # of the default space
  memory = \"4 GiB\"             # data beyond it is served from disk

  [[space]]                    # keys that start with a prefix, the longest prefix wins
  name = \"cache\"
  prefix = \"cache:\"
  durability = \"relaxed\"
  shards = 4

  [cluster]
  name = \"quorate\"             # QUORATE_CLUSTER
  node = 1                     # QUORATE_NODE
  peers = [\"1=host1:7379\", \"2=host2:7379\", \"3=host3:7379\"]    # QUORATE_PEERS
  peer_listen = \"0.0.0.0:7379\" # QUORATE_PEER_LISTEN";

/// What `quorate serve` takes. `None` leaves it to the environment, the file, or the default.
#[derive(Debug, Default, Args)]
#[command(after_help = SERVE_HELP)]
pub(crate) struct ServeArgs {
    /// Where clients connect [default: 127.0.0.1:6379]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Where metrics (/metrics) and health (/health) are served over HTTP [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) http: Option<SocketAddr>,

    /// The data directory, created if missing [default: ./quorate-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// When a write is acknowledged: once it is on disk (sync), or at once and on disk within a
    /// second (relaxed) [default: sync]
    #[arg(long, value_enum)]
    pub(crate) durability: Option<Durability>,

    /// This node's id among the peers; makes it a node of a cluster
    #[arg(long, value_name = "ID", help_heading = "Cluster")]
    pub(crate) node: Option<u64>,

    /// Every node of the cluster, this one included, the same list on each
    #[arg(long, value_name = "ID=HOST:PORT,...", help_heading = "Cluster")]
    pub(crate) peers: Option<String>,

    /// Where the other nodes connect [default: the own entry in --peers]
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Cluster")]
    pub(crate) peer_listen: Option<String>,

    /// The cluster's name; nodes of clusters with other names are turned away [default: quorate]
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) cluster: Option<String>,

    /// This node's data was lost: begin with an empty directory, and get everything from the
    /// other nodes before it counts again. Not for the first start of a cluster
    #[arg(long, help_heading = "Cluster")]
    pub(crate) replace: bool,

    /// A TOML file with settings
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Threads that serve clients [default: half of the cores]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u16>,

    /// Memory for data, such as "512 MiB"; beyond it cold data is served from disk
    /// [default: half of the machine's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,

    /// How log lines look [default: human]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,

    /// What is logged: error, warn, info, debug, trace, or per module [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// See [`ServeArgs::durability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durability {
    /// On disk before the acknowledgement
    Sync,
    /// In memory before the acknowledgement, on disk within a second
    Relaxed,
}

/// See [`ServeArgs::log_format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}
