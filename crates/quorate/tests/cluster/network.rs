//! Three hosts on one machine: network namespaces, whose cables can be pulled.
//!
//! ```text
//!  tests ── veth ── namespace 1 ── veth ─┐
//!  tests ── veth ── namespace 2 ── veth ─┼ bridge      nodes talk over the bridge,
//!  tests ── veth ── namespace 3 ── veth ─┘             clients over links of their own
//! ```
//!
//! Needs root and `ip`. Addresses are of 198.18.0.0/15, which is meant for tests.

use super::nodes::{NODES, Place};
use std::process::Command;

/// The network; it is removed when this is dropped.
pub(crate) struct Network {
    /// Tells it from those of other processes.
    tag: u32,
}

impl Network {
    /// Builds the network; `None`, with the reason said, where that is not possible.
    pub(crate) fn new() -> Option<Self> {
        let network = Self { tag: std::process::id() };
        match network.build() {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!(
                    "SKIPPED: a partition was NOT tested, for want of network namespaces ({why}); \
                     run this test as root on a machine with iproute2"
                );
                None
            }
        }
    }

    /// A place for each node.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |at| Place {
            client: format!("{}:6379", self.client_address(at, 2)).parse().expect("an address"),
            peer: format!("198.19.0.{}:7379", at + 1).parse().expect("an address"),
            namespace: Some(self.namespace(at)),
        };
        (0..NODES).map(place).collect()
    }

    /// Cuts a node off from the others; its clients still reach it.
    pub(crate) fn cut(&self, at: usize) {
        ip(&format!("link set {} down", self.peer_link(at))).expect("the link is there");
    }

    /// The opposite.
    pub(crate) fn heal(&self, at: usize) {
        ip(&format!("link set {} up", self.peer_link(at))).expect("the link is there");
    }

    fn build(&self) -> Result<(), String> {
        let bridge = self.bridge();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("link set {bridge} up"))?;
        for at in 0..NODES {
            let (namespace, peer, client) =
                (self.namespace(at), self.peer_link(at), self.client_link(at));
            ip(&format!("netns add {namespace}"))?;
            ip(&format!("-n {namespace} link set lo up"))?;

            ip(&format!("link add {peer} type veth peer name peers netns {namespace}"))?;
            ip(&format!("link set {peer} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add 198.19.0.{}/24 dev peers", at + 1))?;
            ip(&format!("-n {namespace} link set peers up"))?;

            ip(&format!("link add {client} type veth peer name clients netns {namespace}"))?;
            ip(&format!("addr add {}/30 dev {client}", self.client_address(at, 1)))?;
            ip(&format!("link set {client} up"))?;
            let inside = self.client_address(at, 2);
            ip(&format!("-n {namespace} addr add {inside}/30 dev clients"))?;
            ip(&format!("-n {namespace} link set clients up"))?;
        }
        Ok(())
    }

    fn namespace(&self, at: usize) -> String {
        format!("quorate-{}-{}", self.tag, at + 1)
    }

    // Names of links have 15 bytes at most.

    fn bridge(&self) -> String {
        format!("qb{:x}", self.tag)
    }

    fn peer_link(&self, at: usize) -> String {
        format!("qp{:x}n{}", self.tag, at + 1)
    }

    fn client_link(&self, at: usize) -> String {
        format!("qc{:x}n{}", self.tag, at + 1)
    }

    /// The tests' end of a node's client link is 1, the node's is 2.
    fn client_address(&self, at: usize, end: usize) -> String {
        format!("198.18.{}.{}", self.tag % 256, 4 * at + end)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What does not exist cannot be removed, and what belongs to a namespace goes with it.
        for at in 0..NODES {
            let _ = ip(&format!("link del {}", self.peer_link(at)));
            let _ = ip(&format!("link del {}", self.client_link(at)));
            let _ = ip(&format!("netns del {}", self.namespace(at)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}

fn ip(line: &str) -> Result<(), String> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("'ip {line}': {}", String::from_utf8_lossy(&output.stderr).trim()))
}
