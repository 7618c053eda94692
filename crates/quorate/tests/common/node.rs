//! A Quorate process.

use super::{Client, PATIENCE, eventually, free_address};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use tempfile::TempDir;

/// A free port may be taken by another process before the node has it.
const START_ATTEMPTS_MAX: usize = 10;

/// A running node; it is killed when this is dropped.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
    data: PathBuf,
    args: Vec<String>,
    /// Where its output goes.
    output: TempDir,
}

/// How a process ended, and what it had said.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary under test, untouched by the settings of whoever runs the tests.
pub(crate) fn quorate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command
}

fn spawn(address: SocketAddr, data: &Path, args: &[String], output: &Path) -> Child {
    let file = |name| File::create(output.join(name)).expect("a file in a directory of ours");
    quorate()
        .arg("serve")
        .arg("--listen")
        .arg(address.to_string())
        .arg("--data")
        .arg(data)
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .expect("the binary starts")
}

fn said(output: &Path, name: &str) -> String {
    let bytes = std::fs::read(output.join(name)).expect("a file in a directory of ours");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a node that is expected to end by itself.
pub(crate) fn run_to_end(address: SocketAddr, data: &Path, args: &[&str]) -> Exit {
    let output = TempDir::new().expect("a temporary directory");
    let args: Vec<_> = args.iter().map(|&a| a.to_owned()).collect();
    let mut child = Reaper(spawn(address, data, &args, output.path()));
    let status = eventually("the node ends by itself", || {
        child.0.try_wait().expect("a child of ours can be waited for")
    });
    let (stdout, stderr) = (said(output.path(), "stdout"), said(output.path(), "stderr"));
    Exit { status, stdout, stderr }
}

/// Kills what it holds.
struct Reaper(Child);

impl Drop for Reaper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Node {
    /// Starts a node and waits until it answers.
    pub(crate) fn start(data: &Path, args: &[&str]) -> Self {
        let args: Vec<_> = args.iter().map(|&a| a.to_owned()).collect();
        for _ in 0..START_ATTEMPTS_MAX {
            let address = free_address();
            let output = TempDir::new().expect("a temporary directory");
            let child = spawn(address, data, &args, output.path());
            let mut node =
                Self { child, address, data: data.to_owned(), args: args.clone(), output };
            match node.wait_until_ready() {
                Ok(()) => return node,
                Err(exit) if exit.stderr.contains("another server uses that port") => {}
                Err(exit) => panic!("the node did not start: {exit:?}"),
            }
        }
        panic!("no port stayed free");
    }

    /// Ends when PING is answered, or when the process has ended.
    fn wait_until_ready(&mut self) -> Result<(), Exit> {
        eventually("the node answers PING", || {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return Some(Err(self.exit(status)));
            }
            let mut client = Client::connect(self.address, PATIENCE).ok()?;
            let pong = client.try_call(&["PING"]).ok()?;
            (pong.bytes() == b"PONG").then_some(Ok(()))
        })
    }

    fn exit(&self, status: ExitStatus) -> Exit {
        Exit { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address, PATIENCE).expect("the node accepts connections")
    }

    /// What it has said so far.
    pub(crate) fn stdout(&self) -> String {
        said(self.output.path(), "stdout")
    }

    /// The same for its log.
    pub(crate) fn stderr(&self) -> String {
        said(self.output.path(), "stderr")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child that was not waited for can be signalled");
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) -> Exit {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&mut self) -> Exit {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> Exit {
        let status = eventually("the node ends", || {
            self.child.try_wait().expect("a child of ours can be waited for")
        });
        self.exit(status)
    }

    /// Starts it again on the same data, after it has ended.
    pub(crate) fn restart(self) -> Self {
        let (data, args) = (self.data.clone(), self.args.clone());
        drop(self);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        Self::start(&data, &args)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the node's log ---\n{}", self.stderr());
        }
    }
}
