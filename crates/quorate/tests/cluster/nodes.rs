//! A cluster of processes.

use super::network::Network;
use crate::common::client::{Client, Value};
use crate::common::node::{self, Exit};
use crate::common::{PATIENCE, eventually, fresh_seed};
use quorate_base::Prng;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many nodes the tests use.
pub(crate) const NODES: usize = 3;

/// Below the ports that the system gives to outgoing connections, which could take those of a node
/// that is down.
const PORTS: std::ops::Range<u64> = 20_000..32_000;

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Where clients connect.
    pub(crate) client: SocketAddr,
    /// Where other nodes connect.
    pub(crate) peer: SocketAddr,
    /// The network namespace it runs in, if not the tests' own.
    pub(crate) namespace: Option<String>,
}

/// The nodes of a cluster. All are killed when this is dropped.
pub(crate) struct Cluster {
    nodes: Vec<Member>,
    args: Vec<String>,
    dir: TempDir,
}

struct Member {
    place: Place,
    child: Option<Child>,
}

impl Cluster {
    /// Starts a cluster on this machine and waits until it serves.
    pub(crate) fn start(args: &[&str]) -> Self {
        let ports = free_ports(2 * NODES);
        let place =
            |ports: &[SocketAddr]| Place { client: ports[0], peer: ports[1], namespace: None };
        Self::start_at(ports.chunks(2).map(place).collect(), args)
    }

    /// The same with each node in a namespace of its own.
    pub(crate) fn start_in(network: &Network, args: &[&str]) -> Self {
        Self::start_at(network.places(), args)
    }

    fn start_at(places: Vec<Place>, args: &[&str]) -> Self {
        let nodes = places.into_iter().map(|place| Member { place, child: None }).collect();
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let dir = TempDir::new().expect("a temporary directory");
        let mut cluster = Self { nodes, args, dir };
        for at in 0..NODES {
            cluster.spawn(at, &[]);
        }
        for at in 0..NODES {
            cluster.wait_until_ready(at);
        }
        cluster.settle();
        cluster
    }

    /// Where the clients of each node connect.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.place.client).collect()
    }

    /// A new connection to a node.
    pub(crate) fn client(&self, at: usize) -> Client {
        Client::connect(self.nodes[at].place.client, PATIENCE).expect("the node takes connections")
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("data{}", at + 1))
    }

    /// What a node has logged, over all its lives.
    pub(crate) fn log(&self, at: usize) -> String {
        let bytes = std::fs::read(self.dir.path().join(format!("log{}", at + 1)));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Waits until every node answers for every shard.
    pub(crate) fn settle(&self) {
        for at in (0..NODES).filter(|at| self.nodes[*at].child.is_some()) {
            let mut client = self.client(at);
            for key in 0..64 {
                ask(&mut client, &["GET", &format!("settle:{key}")]);
            }
        }
    }

    /// The node that leads most of the shards, as far as those that run know.
    pub(crate) fn leader_of_most(&self) -> Option<usize> {
        let mut leads: BTreeMap<usize, usize> = BTreeMap::new();
        for at in (0..NODES).filter(|at| self.nodes[*at].child.is_some()) {
            let shards = self.client(at).line("QUORATE SHARDS");
            let own = shards.items().iter().filter(|line| line.text().ends_with("=leader"));
            leads.insert(at, own.count());
        }
        leads.into_iter().max_by_key(|(_, count)| *count).map(|(at, _)| at)
    }

    /// Ends a node without a warning.
    pub(crate) fn kill(&mut self, at: usize) {
        let mut child = self.nodes[at].child.take().expect("the node runs");
        child.kill().expect("a child of ours can be killed");
        child.wait().expect("a child of ours can be waited for");
    }

    /// Asks a node to stop, and waits until it has.
    pub(crate) fn terminate(&mut self, at: usize) {
        self.signal(at, Signal::TERM);
        let mut child = self.nodes[at].child.take().expect("the node runs");
        let status = eventually("the node stops", || {
            child.try_wait().expect("a child of ours can be waited for")
        });
        assert!(status.success(), "node {} ended: {status:?}", at + 1);
    }

    /// Waits until all replicas of a node, which has one worker, hold what they should.
    pub(crate) fn wait_until_whole(&self, at: usize) {
        let mut client = self.client(at);
        let start = Instant::now();
        loop {
            let shards = client.line("QUORATE SHARDS");
            let behind: Vec<_> = shards.items().iter().filter(|line| !is_whole(line)).collect();
            if !shards.items().is_empty() && behind.is_empty() {
                return;
            }
            if start.elapsed() > PATIENCE {
                let others = (0..NODES).filter(|at| self.nodes[*at].child.is_some());
                let views = others.map(|at| (at + 1, self.client(at).line("QUORATE SHARDS")));
                let views: Vec<_> = views.collect();
                panic!("these replicas stay behind: {behind:?}; what each node says: {views:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a node that was ended, and waits until it takes connections.
    pub(crate) fn restart(&mut self, at: usize) {
        self.restart_with(at, &[]);
    }

    /// The same with further settings.
    pub(crate) fn restart_with(&mut self, at: usize, args: &[&str]) {
        self.spawn(at, args);
        self.wait_until_ready(at);
    }

    /// Runs a node on its data with other settings than its own until it ends by itself.
    pub(crate) fn run_to_end(&self, at: usize, args: &[&str]) -> Exit {
        assert!(self.nodes[at].child.is_none(), "the node runs");
        node::run_to_end(self.nodes[at].place.client, &self.data(at), args)
    }

    /// The list that every node has.
    pub(crate) fn peers(&self) -> String {
        let peers = self.nodes.iter().enumerate();
        let peers = peers.map(|(at, node)| format!("{}={}", at + 1, node.place.peer));
        peers.collect::<Vec<_>>().join(",")
    }

    /// Freezes a node, or lets it go on.
    pub(crate) fn signal(&self, at: usize, signal: Signal) {
        let child = self.nodes[at].child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), signal).expect("a child can be signalled");
    }

    fn spawn(&mut self, at: usize, args: &[&str]) {
        let peers = self.peers();
        let node = &self.nodes[at];
        let output = || {
            let path = self.dir.path().join(format!("log{}", at + 1));
            File::options().create(true).append(true).open(path).expect("a file of ours")
        };
        let child = command(node.place.namespace.as_deref())
            .arg("serve")
            .args(["--node", &(at + 1).to_string(), "--peers", &peers])
            .args(["--listen", &node.place.client.to_string()])
            .args([Path::new("--data"), &self.data(at)])
            .args(&self.args)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .expect("the binary starts");
        self.nodes[at].child = Some(child);
    }

    fn wait_until_ready(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (child, address) = (node.child.as_mut().expect("the node runs"), node.place.client);
        eventually("the node answers PING", || {
            let ended = child.try_wait().expect("a child of ours can be waited for");
            assert!(ended.is_none(), "node {} ended: {ended:?}", at + 1);
            let mut client = Client::connect(address, Duration::from_secs(5)).ok()?;
            (client.try_call(&["PING"]).ok()?.bytes() == b"PONG").then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for at in 0..NODES {
                eprintln!("--- the log of node {} ---\n{}", at + 1, self.log(at));
            }
        }
    }
}

/// Whether a replica, in a line of `QUORATE SHARDS`, has a leader and all that is agreed on.
fn is_whole(line: &Value) -> bool {
    let text = line.text();
    let fields: BTreeMap<_, _> = text.split(' ').filter_map(|f| f.split_once('=')).collect();
    let serves = ["leader", "follower"].contains(&fields["state"]);
    serves && fields["applied"] == fields["commit"] && fields["leader"] != "0"
}

/// The binary under test, untouched by the settings of whoever runs the tests.
fn command(namespace: Option<&str>) -> Command {
    let binary = env!("CARGO_BIN_EXE_quorate");
    let mut command = match namespace {
        // It becomes the binary, so that the child is the node.
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, binary]);
            command
        }
        None => Command::new(binary),
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Addresses of this machine that nothing listens on.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    let mut random = Prng::new(fresh_seed());
    let mut held = Vec::new();
    while held.len() < count {
        let port = (PORTS.start + random.below(PORTS.end - PORTS.start)) as u16;
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    held.iter().map(|l| l.local_addr().expect("a bound socket has an address")).collect()
}

/// The reply to something that may be asked twice; asks again while there is no leader.
pub(crate) fn ask(client: &mut Client, args: &[&str]) -> Value {
    eventually("the cluster answers", || {
        let reply = client.call(args);
        let text = reply.text();
        let again = text.starts_with("NOQUORUM") || text.starts_with("UNKNOWN");
        (!again).then_some(reply)
    })
}
