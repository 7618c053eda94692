//! `quorate serve`: one node.
//!
//! ```text
//! main      binds, opens the data directory, recovers, waits for a signal
//! worker N  clients and shards (worker.rs)         ┐ frames
//! journal   one append and sync for all workers    ┘ ◀─ (journal.rs)
//! store     flushes to the LSM trees (store.rs)
//! tidy      compacts them
//! ```

mod datadir;
mod inbox;
mod journal;
mod store;
mod worker;

use crate::cli::{Durability, ServeArgs};
use crate::config::Config;
use datadir::DataDir;
use inbox::{Inboxes, Input};
use quorate_base::{Index, ShardId};
use quorate_data::Keyspace;
use quorate_data::table::Table;
use quorate_log::raft::{RaftLog, RestoreError, Restored};
use quorate_node::config::{About, Space};
use quorate_node::{CLIENTS_MAX, ShardStart, Time, Worker, home};
use quorate_storage::journal::{FileDisk, Journal, JournalError, Options, Recovered};
use quorate_storage::store::{Store, StoreError, StoreOptions};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
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

/// The only replica of every shard, until there are more nodes.
const NODE_ID: u64 = 1;

/// Bytes that change in a shard before they are flushed.
const FLUSH_BYTES: usize = 4 << 20;

/// The journal's segments: small enough that zeroing one holds up writes for milliseconds only.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Segments kept to be used again; as many as the journal has when it is long.
const SEGMENTS_PREPARED: usize = 16;

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
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Time {
            wall: wall.map_or(0, |d| d.as_millis() as u64),
            mono: self.started.elapsed().as_millis() as u64,
        }
    }
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
    let dir = DataDir::open(&config)?;
    let node = Node::start(&config, &dir, started)?;
    announce(&config, &dir, &node, started);
    node.wait(listener)
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
    keys: u64,
    replayed: usize,
    cut_bytes: u64,
}

/// What the data directory holds, ready for the threads.
struct Found {
    store: Arc<Store>,
    journal: Journal<FileDisk>,
    starts: Vec<Vec<ShardStart>>,
    /// How much of each shard's log its table contains.
    durable: HashMap<ShardId, Index>,
    replayed: usize,
    cut_bytes: u64,
}

impl Found {
    fn read(dir: &DataDir, config: &quorate_node::Config) -> Result<Self, ServeError> {
        let store = Arc::new(Store::open(dir.store(), StoreOptions::default())?);
        let disk = FileDisk::open(&dir.journal(), true).map_err(|source| ServeError::DataDir {
            doing: "open the journal in",
            path: dir.journal(),
            source,
        })?;
        let options = Options {
            id: dir.identity.journal,
            segment_bytes: SEGMENT_BYTES,
            prepared_max: SEGMENTS_PREPARED,
        };
        let (journal, mut recovered) = Journal::open(disk, options)?;
        let cut_bytes = recovered.report.cut_bytes;
        if cut_bytes > 0 {
            tracing::warn!(cut_bytes, "the journal ended in a torn write, which was cut");
        }
        let starts = (0..config.workers).map(|_| Vec::new()).collect();
        let mut found =
            Self { store, journal, starts, durable: HashMap::new(), replayed: 0, cut_bytes };
        for space in config.map.spaces() {
            let durability = config.spaces[usize::from(space.id)].durability;
            for shard in space.first..space.first + space.shards {
                let table = found.store.table(shard);
                found.durable.insert(shard, table.mark().applied);
                let (start, entries) =
                    restore(shard, table, &mut recovered, durability, dir.identity.seed)?;
                found.replayed += entries;
                found.starts[usize::from(home(shard, config.workers))].push(start);
            }
        }
        Ok(found)
    }
}

impl Node {
    fn start(config: &Config, dir: &DataDir, started: Instant) -> Result<Self, ServeError> {
        let node_config = Arc::new(node_config(config, dir)?);
        // In a thread that ends: what it allocates is the workers' to use again. Memory of a
        // thread that lives on and allocates no more would be lost to them.
        let found = std::thread::scope(|scope| {
            scope.spawn(|| Found::read(dir, &node_config)).join().expect("a panic ends the process")
        })?;
        let workers = node_config.workers;
        let (inboxes, receivers) = Inboxes::new(workers);
        let (journal_sender, journal_requests) = channel();
        let (store_sender, store_requests) = channel();
        let outlets = worker::Outlets {
            inboxes: inboxes.clone(),
            journal: journal_sender.clone(),
            store: store_sender.clone(),
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
            inboxes,
            journal: journal_sender,
            fatal: Fatal,
            waiting: VecDeque::new(),
            hurried: BTreeSet::new(),
            unpersisted: BTreeMap::new(),
            untidy: untidy_sender,
            short: BTreeSet::new(),
        };
        node.others.push(spawn("store".into(), move || thread.run())?);
        node.start_workers(&node_config, &outlets, found.starts, receivers, Clock { started })?;
        Ok(node)
    }

    /// Starts a thread a worker; each replays its shards' logs before it serves.
    fn start_workers(
        &mut self,
        config: &Arc<quorate_node::Config>,
        outlets: &worker::Outlets,
        starts: Vec<Vec<ShardStart>>,
        inboxes: Vec<UnboundedReceiver<Input>>,
        clock: Clock,
    ) -> Result<(), ServeError> {
        let (ready, replayed) = channel();
        for ((id, starts), inbox) in (0..config.workers).zip(starts).zip(inboxes) {
            let seed = datadir::random().map_err(ServeError::Thread)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(ServeError::Thread)?;
            let (config, outlets, ready) = (Arc::clone(config), outlets.clone(), ready.clone());
            let run = move || {
                let worker = match Worker::new(id, config, starts, seed) {
                    Ok(worker) => worker,
                    // Whoever waits for this one ends the process.
                    Err(error) => return ready.send(Err(error)).unwrap_or_default(),
                };
                // Nobody waits any more only if the process is ending.
                let _ = ready.send(Ok(worker.keys()));
                drop(ready);
                let local = tokio::task::LocalSet::new();
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

/// One shard as its table and the journal have it.
fn restore(
    shard: u32,
    table: Box<dyn Table>,
    recovered: &mut Recovered,
    durability: quorate_node::Durability,
    seed: u64,
) -> Result<(ShardStart, usize), ServeError> {
    let mark = table.mark();
    let from_journal = recovered.shards.remove(&shard).unwrap_or_default();
    let entries = from_journal.entries.iter().filter(|e| e.index > mark.applied).count();
    let restored = Restored {
        state: (!from_journal.state.is_empty()).then_some(from_journal.state),
        entries: from_journal.entries,
        applied: mark.applied,
        applied_term: mark.term,
    };
    let log = RaftLog::new(shard, NODE_ID, &[NODE_ID], restored, seed ^ u64::from(shard))
        .map_err(|source| ServeError::Restore { shard, source })?;
    let keyspace = Box::new(Keyspace::new(shard, seed, table));
    Ok((ShardStart { keyspace, log: Box::new(log), durability }, entries))
}

fn node_config(config: &Config, dir: &DataDir) -> Result<quorate_node::Config, ServeError> {
    let durability = |d| match d {
        Durability::Sync => quorate_node::Durability::Sync,
        Durability::Relaxed => quorate_node::Durability::Relaxed,
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
        cluster: None,
        memory_bytes_max: config.memory_bytes().map_err(ServeError::Config)?,
        flush_bytes: FLUSH_BYTES,
        query_buffer_bytes_max: QUERY_BUFFER_BYTES_MAX,
        about: About {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            port: config.listen.port(),
            run_id,
            os: std::env::consts::OS.into(),
            data_dir: dir.path.display().to_string(),
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
    let durability = match config.durability {
        Durability::Sync => "sync     every write is on disk before its reply",
        Durability::Relaxed => "relaxed  writes are on disk within a second of their reply",
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(
        out,
        "\n  Quorate {version}\n\n  listening   {listen}\n  data        {data}\n  durability  \
         {durability}\n  workers     {workers}\n  keys        {keys}, recovered in {ms} ms\
         {replayed}\n\n  Try it:     redis-cli -p {port} set greeting hello\n  Stop it:    Ctrl-C\n",
        version = env!("CARGO_PKG_VERSION"),
        listen = config.listen,
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
