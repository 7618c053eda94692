//! Clusters of three nodes on this machine: Quorate's and etcd's, started, killed and asked alike.
//!
//! Each node has two ports, an own directory and an own log. Nodes are ended by their process
//! ids, and whatever way a cluster goes out of scope, its processes are gone and its directory is
//! removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Reply, key};
use super::etcd::Status;
use super::servers::{Etcd, Program, Programs, free_ports, launch, log_tail};
use super::session::{Protocol, Session, block_on};
use crate::Outcome;

/// Nodes of a cluster.
pub(crate) const NODES: usize = 3;
/// Longest wait until a new cluster serves, or a restarted node has caught up.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two questions to a node that is not ready.
const POLL: Duration = Duration::from_millis(50);
/// Keys that are asked for until every node answers for all of them: some of every shard.
const PROBED_KEYS: u64 = 64;

/// A program that makes clusters.
#[derive(Clone, Copy)]
pub(crate) enum Product<'a> {
    Quorate(&'a Program),
    Etcd(&'a Etcd),
}

impl<'a> Product<'a> {
    /// The subject, and etcd if it is here.
    pub(crate) fn all(programs: &'a Programs) -> Vec<Self> {
        let etcd = programs.etcd.iter().map(Product::Etcd);
        std::iter::once(Product::Quorate(&programs.subject)).chain(etcd).collect()
    }

    /// Program and settings, as printed in the report.
    pub(crate) fn name(self) -> String {
        match self {
            Product::Quorate(program) => format!("{}, 3 nodes", program.name),
            Product::Etcd(etcd) => format!("{}, 3 nodes", etcd.name),
        }
    }

    /// What its clients speak.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Product::Quorate(_) => Protocol::Resp,
            Product::Etcd(_) => Protocol::Etcd,
        }
    }

    fn path(self) -> &'a Path {
        match self {
            Product::Quorate(program) => &program.path,
            Product::Etcd(etcd) => &etcd.path,
        }
    }
}

/// A replica of Quorate's, as `QUORATE SHARDS` tells of it.
#[derive(Debug, PartialEq, Eq)]
struct Replica {
    leader: u64,
    leads: bool,
    /// It serves, and has everything that it knows to be agreed on.
    whole: bool,
}

/// A running cluster.
pub(crate) struct Cluster<'a> {
    pub(crate) product: Product<'a>,
    nodes: Vec<Node>,
    directory: PathBuf,
    /// A settings file for each of Quorate's nodes.
    config: Option<PathBuf>,
}

struct Node {
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl<'a> Cluster<'a> {
    /// Starts a cluster on empty directories below `run_directory` and waits until each node
    /// serves. Quorate reads `settings` as its file of settings.
    pub(crate) fn start(
        product: Product<'a>,
        run_directory: &Path,
        settings: Option<&str>,
    ) -> Outcome<Self> {
        let ports = free_ports(2 * NODES)?;
        let directory = run_directory.join(format!("cluster-{}", ports[0]));
        fs::create_dir_all(&directory)
            .map_err(|e| format!("cannot create {}: {e}", directory.display()))?;
        let node = |ports: &[u16]| Node { client_port: ports[0], peer_port: ports[1], child: None };
        let nodes = ports.chunks(2).map(node).collect();
        let mut cluster = Self { product, nodes, directory, config: None };
        if let Some(settings) = settings {
            let path = cluster.directory.join("quorate.toml");
            fs::write(&path, settings).map_err(|e| format!("{}: {e}", path.display()))?;
            cluster.config = Some(path);
        }
        (0..NODES).try_for_each(|at| cluster.spawn(at))?;
        cluster.wait_until_serving()?;
        Ok(cluster)
    }

    /// Where clients connect.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.client_port).collect()
    }

    /// The process ids of the nodes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id).collect()
    }

    /// Ends a node as a crash would (SIGKILL).
    pub(crate) fn kill(&mut self, at: usize) -> Outcome<()> {
        let Some(mut child) = self.nodes[at].child.take() else { return Ok(()) };
        child.kill().map_err(|e| format!("cannot kill a node: {e}"))?;
        child.wait().map(|_| ()).map_err(|e| format!("cannot wait for a node: {e}"))
    }

    /// Starts a node on what it left, and returns at once.
    pub(crate) fn restart(&mut self, at: usize) -> Outcome<()> {
        self.spawn(at)
    }

    /// The node that leads: most of the shards, if there are several.
    pub(crate) fn leader(&mut self) -> Outcome<usize> {
        self.until("no node leads", |cluster| match cluster.product {
            Product::Quorate(_) => {
                let led = (0..NODES).map(|at| cluster.led(at)).collect::<Outcome<Vec<_>>>()?;
                let most = led.into_iter().enumerate().max_by_key(|(_, led)| *led);
                most.filter(|(_, led)| *led > 0).map(|(at, _)| at).ok_or("none".into())
            }
            Product::Etcd(_) => {
                let all = (0..NODES).map(|at| cluster.status(at)).collect::<Outcome<Vec<_>>>()?;
                let leads = |status: &Status| status.leader == status.member;
                all.iter().position(leads).ok_or("none".into())
            }
        })
    }

    /// Waits until a node that was restarted has caught up. Nothing must be written meanwhile.
    pub(crate) fn wait_until_whole(&mut self, at: usize) -> Outcome<()> {
        self.until("the restarted node does not catch up", |cluster| {
            let whole = match cluster.product {
                Product::Quorate(_) => cluster.replicas(at)?.iter().all(|replica| replica.whole),
                Product::Etcd(_) => {
                    let all = (0..NODES).map(|at| cluster.status(at));
                    let all = all.collect::<Outcome<Vec<_>>>()?;
                    let newest = all.iter().map(|status| status.raft_index).max().unwrap_or(0);
                    all[at].leader != 0 && all[at].applied_index >= newest
                }
            };
            if whole { Ok(()) } else { Err("it has not caught up".into()) }
        })
    }

    /// How many shards a node of Quorate's leads.
    pub(crate) fn led(&self, at: usize) -> Outcome<usize> {
        Ok(self.replicas(at)?.iter().filter(|replica| replica.leads).count())
    }

    /// Waits until each node of Quorate's knows a leader of each shard.
    pub(crate) fn wait_until_elected(&mut self) -> Outcome<()> {
        self.until("not all shards have leaders", |cluster| {
            for at in 0..NODES {
                let replicas = cluster.replicas(at)?;
                let missing = replicas.iter().filter(|replica| replica.leader == 0).count();
                if missing > 0 || replicas.is_empty() {
                    return Err(format!("node {}: {missing} without", at + 1));
                }
            }
            Ok(())
        })
    }

    fn replicas(&self, at: usize) -> Outcome<Vec<Replica>> {
        let mut client = Client::connect(self.nodes[at].client_port).map_err(|e| e.to_string())?;
        match client.ask(&["QUORATE", "SHARDS"]).map_err(|e| e.to_string())? {
            Reply::Array(lines) => lines.iter().map(replica).collect(),
            other => Err(format!("QUORATE SHARDS answered {other:?}")),
        }
    }

    fn status(&self, at: usize) -> Outcome<Status> {
        let port = self.nodes[at].client_port;
        block_on(async move {
            match Session::connect(Protocol::Etcd, port).await.map_err(|e| e.to_string())? {
                Session::Etcd(mut session) => {
                    session.status().await.map_err(|e| e.text().to_owned())
                }
                Session::Resp(_) => Err("not a member of etcd's".into()),
            }
        })
    }

    /// Every node answers for keys all over the keyspace.
    fn wait_until_serving(&mut self) -> Outcome<()> {
        self.until("the cluster does not serve", |cluster| {
            let (protocol, ports) = (cluster.product.protocol(), cluster.ports());
            block_on(async move {
                for port in ports {
                    let session = Session::connect(protocol, port).await;
                    let mut session = session.map_err(|e| e.to_string())?;
                    for index in 0..PROBED_KEYS {
                        let found = session.get(key(index).as_bytes()).await;
                        found.map_err(|e| e.text().to_owned())?;
                    }
                }
                Ok(())
            })
        })
    }

    /// Asks until the answer is good, all nodes that should run still do, and time is not over.
    fn until<T>(&mut self, complaint: &str, ask: impl Fn(&Self) -> Outcome<T>) -> Outcome<T> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(why) if Instant::now() > deadline => {
                    return Err(format!("{}: {complaint}: {why}", self.product.name()));
                }
                Err(_) => {}
            }
            self.check_alive()?;
            thread::sleep(POLL);
        }
    }

    /// Fails with the end of its log if a node has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Outcome<()> {
        for at in 0..NODES {
            let directory = self.home(at);
            let Some(child) = &mut self.nodes[at].child else { continue };
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let tail = log_tail(&directory);
                    return Err(format!("node {} ended: {status}{tail}", at + 1));
                }
                Err(e) => return Err(format!("cannot wait for a node: {e}")),
            }
        }
        Ok(())
    }

    fn home(&self, at: usize) -> PathBuf {
        self.directory.join(format!("node-{}", at + 1))
    }

    fn spawn(&mut self, at: usize) -> Outcome<()> {
        let home = self.home(at);
        fs::create_dir_all(&home).map_err(|e| format!("cannot create {}: {e}", home.display()))?;
        let arguments = match self.product {
            Product::Quorate(program) => self.quorate_arguments(at, program),
            Product::Etcd(_) => self.etcd_arguments(at),
        };
        let child = launch(self.product.path(), None, &arguments, &home)?;
        self.nodes[at].child = Some(child);
        Ok(())
    }

    fn quorate_arguments(&self, at: usize, program: &Program) -> Vec<String> {
        let node = &self.nodes[at];
        let peer = |(at, node): (usize, &Node)| format!("{}=127.0.0.1:{}", at + 1, node.peer_port);
        let peers: Vec<_> = self.nodes.iter().enumerate().map(peer).collect();
        let mut line = vec!["serve".to_owned()];
        let mut flag = |name: &str, value: String| line.extend([name.to_owned(), value]);
        flag("--node", (at + 1).to_string());
        flag("--listen", format!("127.0.0.1:{}", node.client_port));
        flag("--peer-listen", format!("127.0.0.1:{}", node.peer_port));
        flag("--peers", peers.join(","));
        flag("--data", self.home(at).join("data").display().to_string());
        if let Some(config) = &self.config {
            flag("--config", config.display().to_string());
        }
        if let Some(workers) = program.workers {
            flag("--workers", workers.to_string());
        }
        line
    }

    fn etcd_arguments(&self, at: usize) -> Vec<String> {
        let node = &self.nodes[at];
        let client = format!("http://127.0.0.1:{}", node.client_port);
        let peer_url = |node: &Node| format!("http://127.0.0.1:{}", node.peer_port);
        let member = |(at, node): (usize, &Node)| format!("n{}={}", at + 1, peer_url(node));
        let members: Vec<_> = self.nodes.iter().enumerate().map(member).collect();
        let data = self.home(at).join("data").display().to_string();
        let flags = [
            ("--name", format!("n{}", at + 1)),
            ("--data-dir", data),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer_url(node)),
            ("--initial-advertise-peer-urls", peer_url(node)),
            ("--initial-cluster", members.join(",")),
            ("--initial-cluster-state", "new".to_owned()),
        ];
        flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // The process may already be gone.
            let _ = child.kill();
            let _ = child.wait();
        }
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Reads a line such as `shard=0 leader=1 term=2 commit=7 applied=7 state=follower`.
fn replica(line: &Reply) -> Outcome<Replica> {
    let text = match line {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Simple(text) => text.clone(),
        other => return Err(format!("QUORATE SHARDS answered {other:?}")),
    };
    let field = |name: &str| {
        let mut fields = text.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(field, _)| *field == name).map(|(_, value)| value)
    };
    let leader = field("leader").and_then(|leader| leader.parse().ok());
    let leader = leader.ok_or_else(|| format!("QUORATE SHARDS answered {text:?}"))?;
    let state = field("state").unwrap_or_default();
    let serves = leader != 0 && (state == "leader" || state == "follower");
    let whole = serves && field("applied") == field("commit");
    Ok(Replica { leader, leads: state == "leader", whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Replica {
        replica(&Reply::Bulk(line.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn replicas_of_every_state() {
        let line = "shard=0 leader=1 term=2 commit=7 applied=7 state=leader";
        assert_eq!(read(line), Replica { leader: 1, leads: true, whole: true });
        let line = "shard=0 leader=1 term=2 commit=7 applied=5 state=follower";
        assert_eq!(read(line), Replica { leader: 1, leads: false, whole: false });
        let line = "shard=0 leader=2 term=2 commit=7 applied=7 state=catching-up";
        assert_eq!(read(line), Replica { leader: 2, leads: false, whole: false });
        assert!(replica(&Reply::Bulk(b"shard=0".to_vec())).is_err());
    }
}
