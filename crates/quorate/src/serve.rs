//! `quorate serve`: one node.
//!
//! ```text
//! main      binds, opens the data directory, recovers, waits for a signal
//! worker N  clients and shards (worker.rs)         ┐ frames
//! journal   one append and sync for all workers    ┘ ◀─ (journal.rs)
//! store     flushes to the LSM trees (store.rs)
//! tidy      compacts them
//! peers     links to the other nodes of the cluster (peers.rs)
//! http      metrics and health (http.rs)
//! ```

mod damage;
mod datadir;
mod found;
mod http;
mod inbox;
mod journal;
mod known;
mod observed;
mod peers;
mod store;
mod worker;

use crate::cli::{Durability, ServeArgs};
use crate::config::{Cluster, Config};
use datadir::DataDir;
use found::Found;
use inbox::{Inboxes, Input};
use known::Known;
use observed::Observed;
use peers::Outboxes;
use quorate_log::raft::RestoreError;
use quorate_node::config::{About, Space};
use quorate_node::{CLIENTS_MAX, ShardStart, Time, Worker};
use quorate_storage::journal::JournalError;
use quorate_storage::store::StoreError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

pub(crate) use quorate_node::WorkerId;

/// Bytes that change in a shard before they are flushed.
const FLUSH_BYTES: usize = 4 << 20;

/// How long accepting pauses after it failed, usually for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A silent client's machine is asked for a sign of life after this time, as with Redis'
/// `tcp-keepalive`; one that is gone would keep its place for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// File descriptors beside those of clients: the store's, the journal's, and some to spare.
const OTHER_FILES: u64 = 1024;

/// `client-query-buffer-limit`, as in Redis.
const QUERY_BUFFER_BYTES_MAX: usize = 1 << 30;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("{0}")]
    Config(String),
    #[error("cannot listen on {address}: {source}; {}", listen_hint(source))]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(
        "cannot wait for other nodes on {address}: {source}; give an address of this machine \
             that no other process listens on with --peer-listen ADDR:PORT"
    )]
    ListenPeers { address: String, source: std::io::Error },
    #[error(
        "cannot serve HTTP on {address}: {source}; give an address of this machine that no other \
             process listens on with --http ADDR:PORT, or leave it out"
    )]
    ListenHttp { address: SocketAddr, source: std::io::Error },
    #[error("cannot {doing} {}: {source}; check its permissions and the disk, or choose another \
             directory with --data", path.display())]
    DataDir { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("another process uses the data directory {}; stop it first, or choose another \
             directory with --data", .0.display())]
    Locked(PathBuf),
    #[error("{} is missing, but there is data beside it; restore that file, or choose an empty \
             directory with --data", .0.display())]
    NoIdentity(PathBuf),
    #[error("{} makes no sense: {reason}; restore it from a backup", path.display())]
    Identity { path: PathBuf, reason: String },
    #[error("{} was written in format {found}, and this version knows format {known}; use the \
             version that wrote it", path.display())]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("{} is not empty; start without --replace if nothing is lost, or move it away first: \
             with --replace a node begins anew, and gets everything from the other nodes", .0.display())]
    NotLost(PathBuf),
    #[error("the data directory {} is another's: {reason}", path.display())]
    Cluster { path: PathBuf, reason: String },
    #[error("the space {space} is {} the data directory ({}) and {} the configuration; keys would \
             be lost from sight. Start with the spaces that the data was written with, or with \
             another directory", if *stored { "in" } else { "not in" }, path.display(),
            if *stored { "not in" } else { "in" })]
    Spaces { path: PathBuf, space: String, stored: bool },
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error(
        "shard {shard} cannot be recovered: {source}; the journal and the store do not belong \
             together: restore both from one backup"
    )]
    Restore { shard: u32, source: RestoreError },
    #[error("a shard cannot be recovered: {0}")]
    Replay(#[from] quorate_data::effects::ReplayError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

fn listen_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another server uses that port: stop it, or choose another with --listen ADDR:PORT"
        }
        std::io::ErrorKind::PermissionDenied => "choose a port above 1023 with --listen ADDR:PORT",
        _ => "give an address of this machine with --listen ADDR:PORT",
    }
}

/// Reads both clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn now(self) -> Time {
        let mono = self.started.elapsed();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Time {
            wall: wall.map_or(0, |d| d.as_millis() as u64),
            mono: mono.as_millis() as u64,
            mono_us: mono.as_micros() as u64,
        }
    }
}

/// Milliseconds since some moment, by which scripts are ended that take too long.
fn watch_ms() -> u64 {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Ends the process when a part of it cannot go on.
#[derive(Clone)]
pub(crate) struct Fatal;

impl Fatal {
    /// Says why and ends the process at once: nothing that was not acknowledged may be any more.
    pub(crate) fn stop(&self, reason: &str) {
        tracing::error!("{reason}; the node stops: restart it to recover what is on disk");
        eprintln!("quorate: {reason}; the node stops: restart it to recover what is on disk");
        std::process::exit(1);
    }
}

/// Ends the process when any of its threads or tasks panics, in every build: a node that lacks a
/// part must not go on to answer.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

/// Serves until a signal asks to stop.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    abort_on_panic();
    let config = Config::load(args).map_err(ServeError::Config)?;
    crate::logging::start(config.log_format, &config.log).map_err(ServeError::Config)?;
    let started = Instant::now();
    allow_files();
    let listener = TcpListener::bind(config.listen)
        .map_err(|source| ServeError::Listen { address: config.listen, source })?;
    let http = config.http.map(listen_http).transpose()?;
    let cluster = config.cluster().map_err(ServeError::Config)?;
    let membership = cluster.map(Membership::listen).transpose()?;
    let dir = DataDir::open(&config)?;
    let node = Node::start(&config, &dir, membership, http, started)?;
    announce(&config, &dir, &node, started);
    node.wait(listener)
}

/// A cluster, and where its other nodes connect.
struct Membership {
    cluster: Cluster,
    listener: TcpListener,
}

impl Membership {
    fn listen(cluster: Cluster) -> Result<Self, ServeError> {
        if let Some(warning) = cluster.warning() {
            tracing::warn!("{warning}");
        }
        let listener = TcpListener::bind(&cluster.listen).map_err(|source| {
            ServeError::ListenPeers { address: cluster.listen.clone(), source }
        })?;
        Ok(Self { cluster, listener })
    }
}

fn listen_http(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).map_err(|source| ServeError::ListenHttp { address, source })
}

/// Has the system look for clients that vanished without a word.
fn keep_alive(stream: &tokio::net::TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
    };
    set_tcp_keepidle(stream, KEEP_ALIVE)?;
    set_tcp_keepintvl(stream, KEEP_ALIVE / 3)?;
    set_tcp_keepcnt(stream, 3)?;
    set_socket_keepalive(stream, true)
}

/// The running threads.
struct Node {
    inboxes: Inboxes,
    connected: Arc<AtomicUsize>,
    stop: Arc<Notify>,
    journal: Sender<journal::Request>,
    store: Sender<store::Request>,
    workers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    cluster: Option<Cluster>,
    keys: u64,
    replayed: usize,
    cut_bytes: u64,
}

impl Node {
    fn start(
        config: &Config,
        dir: &DataDir,
        membership: Option<Membership>,
        http: Option<TcpListener>,
        started: Instant,
    ) -> Result<Self, ServeError> {
        let node_config = Arc::new(node_config(config, dir)?);
        // In a thread that ends: what it allocates is the workers' to use again. Memory of a
        // thread that lives on and allocates no more would be lost to them.
        let found = std::thread::scope(|scope| {
            scope.spawn(|| Found::read(dir, &node_config)).join().expect("a panic ends the process")
        })?;
        let workers = node_config.workers;
        let clock = Clock { started };
        let (inboxes, receivers) = Inboxes::new(workers);
        let observed = Arc::new(Observed::new(membership.as_ref().map(|m| &m.cluster)));
        let outboxes = membership.as_ref().map(|m| Arc::new(Outboxes::new(&m.cluster)));
        let (journal_sender, journal_requests) = channel();
        let (store_sender, store_requests) = channel();
        let outlets = worker::Outlets {
            inboxes: inboxes.clone(),
            journal: journal_sender.clone(),
            store: store_sender.clone(),
            peers: outboxes.clone(),
            observed: Arc::clone(&observed),
            fatal: Fatal,
            last_conn: Arc::new(AtomicU64::new(0)),
            connected: Arc::default(),
            stop: Arc::default(),
            stopped: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        };
        let mut node = Self {
            inboxes: inboxes.clone(),
            connected: Arc::clone(&outlets.connected),
            stop: Arc::clone(&outlets.stop),
            journal: journal_sender.clone(),
            store: store_sender.clone(),
            workers: Vec::new(),
            others: Vec::new(),
            cluster: membership.as_ref().map(|m| m.cluster.clone()),
            keys: 0,
            replayed: found.replayed,
            cut_bytes: found.cut_bytes,
        };
        let thread = journal::JournalThread {
            journal: found.journal,
            requests: journal_requests,
            inboxes: inboxes.clone(),
            store: store_sender,
            fatal: Fatal,
            durable: found.durable,
            held: VecDeque::new(),
            bytes_max: config.journal_bytes().map_err(ServeError::Config)?,
            told: journal::Told::default(),
            store_waits: false,
            observed: Arc::clone(&observed),
        };
        node.others.push(spawn("journal".into(), move || thread.run())?);
        let (untidy_sender, untidy) = channel();
        let thread = store::TidyThread {
            store: Arc::clone(&found.store),
            untidy,
            tidied: node.store.clone(),
            fatal: Fatal,
            postponed: BTreeSet::new(),
        };
        // It ends with the process: a compaction may be cut short at any point.
        spawn("tidy".into(), move || thread.run())?;
        let thread = store::StoreThread {
            store: found.store,
            requests: store_requests,
            inboxes: inboxes.clone(),
            journal: journal_sender,
            fatal: Fatal,
            waiting: VecDeque::new(),
            retried: Instant::now(),
            undurable: VecDeque::new(),
            hurried: BTreeSet::new(),
            unpersisted: BTreeMap::new(),
            untidy: untidy_sender,
            short: BTreeSet::new(),
        };
        node.others.push(spawn("store".into(), move || thread.run())?);
        let source = http::Source {
            config: Arc::clone(&node_config),
            inboxes: inboxes.clone(),
            observed: Arc::clone(&observed),
        };
        let mut links = None;
        if let (Some(membership), Some(outboxes)) = (membership, outboxes) {
            let cluster_id = dir.identity.cluster_id();
            let (incarnation, known) = (dir.identity.incarnation(), Known::open(dir)?);
            let own = peers::Own { cluster_id, incarnation, known };
            links = Some(peers::Links::new(membership, own, clock, inboxes, outboxes, observed)?);
        }
        // A lone worker runs the links itself, which spares both a thread's wake for each parcel.
        let (of_worker, of_thread) =
            if node_config.workers == 1 { (links, None) } else { (None, links) };
        node.start_workers(&node_config, &outlets, found.starts, receivers, clock, of_worker)?;
        of_thread.map_or(Ok(()), peers::Links::start)?;
        http.map_or(Ok(()), |listener| http::start(listener, source))?;
        Ok(node)
    }

    /// Starts a thread a worker; each replays its shards' logs before it serves. The first runs
    /// the links, if they are given.
    fn start_workers(
        &mut self,
        config: &Arc<quorate_node::Config>,
        outlets: &worker::Outlets,
        starts: Vec<Vec<ShardStart>>,
        inboxes: Vec<UnboundedReceiver<Input>>,
        clock: Clock,
        mut links: Option<peers::Links>,
    ) -> Result<(), ServeError> {
        let (ready, replayed) = channel();
        for ((id, starts), inbox) in (0..config.workers).zip(starts).zip(inboxes) {
            let seed = datadir::random().map_err(ServeError::Thread)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ServeError::Thread)?;
            let (config, outlets, ready) = (Arc::clone(config), outlets.clone(), ready.clone());
            let links = links.take();
            let run = move || {
                let worker = match Worker::new(id, config, starts, seed) {
                    Ok(worker) => worker,
                    // Whoever waits for this one ends the process.
                    Err(error) => return ready.send(Err(error)).unwrap_or_default(),
                };
                damage::tell_unreadable(&worker);
                // Nobody waits any more only if the process is ending.
                let _ = ready.send(Ok(worker.keys()));
                drop(ready);
                let local = tokio::task::LocalSet::new();
                if let Some(links) = links {
                    local.spawn_local(links.run());
                }
                runtime.block_on(local.run_until(worker::run(id, worker, clock, outlets, inbox)));
            };
            self.workers.push(spawn(format!("worker {id}"), run)?);
        }
        drop(ready);
        for keys in replayed {
            self.keys += keys?;
        }
        Ok(())
    }

    /// Accepts clients until SIGINT or SIGTERM, then stops in order.
    fn wait(self, listener: TcpListener) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        let name = runtime.block_on(self.accept_until_stop(listener));
        let name = name.map_err(ServeError::Thread)?;
        tracing::info!("{name}: shutting down (a signal stops at once)");
        std::thread::spawn(move || {
            if runtime.block_on(signal()).is_ok() {
                eprintln!("quorate: stopped at once; what was acknowledged is in the journal");
                std::process::exit(130);
            }
        });
        for worker in 0..self.inboxes.len() {
            self.inboxes.send(worker, Input::Shutdown);
        }
        for thread in self.workers {
            let _ = thread.join();
        }
        let (done, stored) = channel();
        let _ = self.store.send(store::Request::Close { done });
        let _ = stored.recv();
        let _ = self.journal.send(journal::Request::Close);
        for thread in self.others {
            let _ = thread.join();
        }
        tracing::info!("everything is on disk, goodbye");
        Ok(())
    }

    /// Hands new connections to the workers in turn, until a signal or a client asks to stop.
    async fn accept_until_stop(&self, listener: TcpListener) -> std::io::Result<&'static str> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let signal = signal();
        tokio::pin!(signal);
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                name = &mut signal => return name,
                () = self.stop.notified() => return Ok("SHUTDOWN"),
            };
            match accepted {
                Ok((stream, _)) if self.connected.load(Ordering::Relaxed) >= CLIENTS_MAX => {
                    // A client that does not read it learns less, that is all. A fresh socket takes
                    // it at once, though the runtime does not know yet that it is writable.
                    if let Ok(mut stream) = stream.into_std() {
                        let _ = stream.write(b"-ERR max number of clients reached\r\n");
                    }
                }
                Ok((stream, _)) => {
                    // A socket without it still works, only slower.
                    let _ = stream.set_nodelay(true);
                    let _ = keep_alive(&stream);
                    if let Ok(stream) = stream.into_std() {
                        self.connected.fetch_add(1, Ordering::Relaxed);
                        self.inboxes.send(next, Input::Connection(stream));
                        next = (next + 1) % self.inboxes.len();
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

fn node_config(config: &Config, dir: &DataDir) -> Result<quorate_node::Config, ServeError> {
    // A replica that forgets in a crash what it has acknowledged must not vote as if it had not:
    // until the log tells these replicas apart, a cluster keeps the stronger promise.
    let in_cluster = dir.identity.cluster.is_some();
    let durability = |d| match d {
        Durability::Relaxed if !in_cluster => quorate_node::Durability::Relaxed,
        Durability::Relaxed | Durability::Sync => quorate_node::Durability::Sync,
    };
    let spaces = dir.identity.spaces.iter().map(|stored| {
        let own = config.spaces.iter().find(|s| s.name == stored.name);
        Space {
            name: stored.name.clone(),
            durability: durability(own.map_or(config.durability, |s| s.durability)),
        }
    });
    let mut run_id = String::new();
    while run_id.len() < 40 {
        run_id += &format!("{:016x}", datadir::random().map_err(ServeError::Thread)?);
    }
    run_id.truncate(40);
    Ok(quorate_node::Config {
        workers: config.worker_count(),
        map: dir.identity.map(),
        spaces: spaces.collect(),
        cluster: dir.identity.cluster.as_ref().map(|cluster| quorate_node::config::Cluster {
            node: cluster.node,
            nodes: cluster.nodes.clone(),
        }),
        memory_bytes_max: config.memory_bytes().map_err(ServeError::Config)?,
        flush_bytes: FLUSH_BYTES,
        query_buffer_bytes_max: QUERY_BUFFER_BYTES_MAX,
        script_watch: Some(watch_ms),
        about: About {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            port: config.listen.port(),
            run_id,
            os: std::env::consts::OS.into(),
            data_dir: dir.path.display().to_string(),
            client_address: config.listen.to_string(),
            config_file: config.file.as_ref().map_or(String::new(), |f| f.display().to_string()),
        },
    })
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServeError> {
    std::thread::Builder::new().name(name).spawn(run).map_err(ServeError::Thread)
}

/// Waits for a request to stop; returns its name.
async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = int.recv() => "SIGINT",
        _ = term.recv() => "SIGTERM",
    })
}

/// Raises the limit on open files as far as the clients may need and the system allows.
fn allow_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = CLIENTS_MAX as u64 + OTHER_FILES;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files stays; fewer clients can connect");
        }
    }
}

/// Tells the user what runs and what to do next.
fn announce(config: &Config, dir: &DataDir, node: &Node, started: Instant) {
    let durability = match (config.durability, &node.cluster) {
        (Durability::Sync, None) => "sync     every write is on disk before its reply",
        (Durability::Sync, Some(_)) => {
            "sync     every write is on the disks of more than half of the nodes before its reply"
        }
        (Durability::Relaxed, None) => "relaxed  writes are on disk within a second of their reply",
        (Durability::Relaxed, Some(_)) => "sync     (relaxed is not available in a cluster yet)",
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "\n  Quorate {version}\n\n{cluster}  listening   {listen}\n{http}  data        \
         {data}\n  durability  {durability}\n  workers     {workers}\n  keys        {keys}, recovered in {ms} ms\
         {replayed}\n\n  Try it:     redis-cli -p {port} set greeting hello\n  Stop it:    Ctrl-C\n",
        version = env!("CARGO_PKG_VERSION"),
        cluster = node.cluster.as_ref().map_or_else(String::new, introduce),
        listen = config.listen,
        http = config.http.map_or_else(String::new, |address| {
            format!("  watching    http://{address}/metrics, /health\n")
        }),
        data = dir.path.display(),
        workers = node.inboxes.len(),
        keys = node.keys,
        ms = started.elapsed().as_millis(),
        replayed = if node.replayed > 0 {
            format!(" ({} entries of the journal replayed)", node.replayed)
        } else {
            String::new()
        },
        port = config.listen.port(),
    );
    tracing::info!(listen = %config.listen, data = %dir.path.display(), keys = node.keys,
        cut_bytes = node.cut_bytes, "ready");
}

/// A node of a cluster, in lines of the same form.
fn introduce(cluster: &Cluster) -> String {
    let mut text = format!("  node        {} of cluster '{}'\n", cluster.node, cluster.name);
    for (at, (node, address)) in cluster.peers.iter().enumerate() {
        let title = if at == 0 { "peers" } else { "" };
        let own = if *node == cluster.node {
            format!(" (this node, waits on {})", cluster.listen)
        } else {
            String::new()
        };
        text += &format!("  {title:<12}{node} at {address}{own}\n");
    }
    text
}
