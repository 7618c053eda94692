//! Settings of a cluster: who its nodes are, and which of them this one is.

use quorate_base::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most nodes of a cluster: each holds a replica of every shard, and each write waits for
/// more than half of them.
const NODES_MAX: usize = 9;

/// The name of a cluster that was given none.
const DEFAULT_NAME: &str = "quorate";

/// The settings as they are written: the table `[cluster]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterSettings {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) peers: Peers,
    pub(crate) peer_listen: String,
}

/// `ID=HOST:PORT` of every node: a list, or one text with commas.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Peers {
    Text(String),
    List(Vec<String>),
}

impl Default for Peers {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// A cluster and this node's place in it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// This node.
    pub(crate) node: NodeId,
    /// `HOST:PORT` where this node waits for others.
    pub(crate) listen: String,
    /// `HOST:PORT` where each node waits for others, this one included.
    pub(crate) peers: BTreeMap<NodeId, String>,
}

impl Cluster {
    /// The cluster that `settings` describe; `None` for a node that stands alone.
    pub(crate) fn new(settings: &ClusterSettings) -> Result<Option<Self>, String> {
        let peers = match &settings.peers {
            Peers::Text(text) => text.split(',').map(str::trim).collect::<Vec<_>>(),
            Peers::List(list) => list.iter().map(|peer| peer.trim()).collect(),
        };
        let peers: Vec<&str> = peers.into_iter().filter(|peer| !peer.is_empty()).collect();
        let node = settings.node;
        if peers.is_empty() {
            if node != 0 || !settings.peer_listen.is_empty() || !settings.name.is_empty() {
                return Err("a node of a cluster needs to know all nodes: give \
                            --peers 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT, the same on each; or \
                            leave out --node, --peer-listen and --cluster for a node that stands \
                            alone"
                    .into());
            }
            return Ok(None);
        }
        if node == 0 {
            return Err(
                "which of the peers is this node? Give its id, 1 or more, with --node".into()
            );
        }
        let peers = parse_peers(&peers)?;
        let Some(own) = peers.get(&node) else {
            return Err(format!(
                "node {node} is not among the peers ({}): the list names every node, this one \
                 included",
                ids(&peers)
            ));
        };
        if peers.len() < 2 {
            return Err("a cluster has at least two nodes, better three; leave out --node and \
                        --peers for a node that stands alone"
                .into());
        }
        if peers.len() > NODES_MAX {
            return Err(format!("{} nodes are more than the {NODES_MAX} possible", peers.len()));
        }
        let listen = match settings.peer_listen.as_str() {
            "" => own.clone(),
            listen => checked_address(listen)
                .map_err(|why| format!("peer_listen = '{listen}' makes no sense: {why}"))?,
        };
        let name = match settings.name.as_str() {
            "" => DEFAULT_NAME.to_owned(),
            name => name.to_owned(),
        };
        Ok(Some(Self { name, node, listen, peers }))
    }

    /// The ids of all nodes, ascending.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.peers.keys().copied().collect()
    }

    /// What is worth saying about a cluster that works.
    pub(crate) fn warning(&self) -> Option<String> {
        let nodes = self.peers.len();
        let spare = (nodes - 1) / 2;
        let same = nodes - 1;
        nodes.is_multiple_of(2).then(|| match spare {
            0 => "a cluster of 2 nodes stops accepting commands when either is gone, so it fails \
                  more often than one node alone; 3 nodes go on without any one of them"
                .into(),
            _ => format!(
                "a cluster of {nodes} nodes goes on without {spare} of them, just as one of {same} \
                 does: an even number adds work and no safety"
            ),
        })
    }
}

fn parse_peers(peers: &[&str]) -> Result<BTreeMap<NodeId, String>, String> {
    let mut map = BTreeMap::new();
    for peer in peers {
        let wrong = |why: &str| format!("the peer '{peer}' makes no sense: {why}");
        let (id, address) =
            peer.split_once('=').ok_or_else(|| wrong("write it as ID=HOST:PORT"))?;
        let id: NodeId = id.trim().parse().map_err(|_| wrong("its id is no number"))?;
        if id == 0 {
            return Err(wrong("ids begin with 1"));
        }
        let address = checked_address(address.trim()).map_err(|why| wrong(&why))?;
        if let Some((other, _)) = map.iter().find(|(_, known)| **known == address) {
            return Err(wrong(&format!("node {other} has the same address")));
        }
        if map.insert(id, address).is_some() {
            return Err(wrong(&format!("another peer has the id {id}")));
        }
    }
    Ok(map)
}

/// `HOST:PORT`; whether the host exists shows when it is dialled.
fn checked_address(text: &str) -> Result<String, String> {
    let well_formed = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if well_formed { Ok(text.to_owned()) } else { Err("write its address as HOST:PORT".into()) }
}

fn ids(peers: &BTreeMap<NodeId, String>) -> String {
    peers.keys().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(node: NodeId, peers: &str, listen: &str) -> Result<Option<Cluster>, String> {
        Cluster::new(&ClusterSettings {
            name: String::new(),
            node,
            peers: Peers::Text(peers.into()),
            peer_listen: listen.into(),
        })
    }

    #[test]
    fn peers_name_every_node() {
        let three = "1=a:7001, 2=b:7001,3=[::1]:7001,";
        let got = cluster(2, three, "").unwrap().unwrap();
        assert_eq!((got.nodes(), got.listen.as_str()), (vec![1, 2, 3], "b:7001"));
        assert_eq!((got.name.as_str(), got.warning()), ("quorate", None));
        assert_eq!(cluster(2, three, "0.0.0.0:7001").unwrap().unwrap().listen, "0.0.0.0:7001");
        assert_eq!(cluster(0, "", "").unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (node, peers, listen, reason) in [
            (4, "1=a:1,2=b:1,3=c:1", "", "node 4 is not among the peers (1, 2, 3)"),
            (0, "1=a:1,2=b:1,3=c:1", "", "which of the peers"),
            (1, "", "", "--peers"),
            (0, "", "a:1", "--peers"),
            (1, "1=a:1,1=b:1", "", "another peer has the id 1"),
            (1, "1=a:1,2=a:1", "", "same address"),
            (1, "1=a:1", "", "at least two nodes"),
            (1, "1=a:1,0=b:1", "", "ids begin with 1"),
            (1, "1=a:1,b:1", "", "ID=HOST:PORT"),
            (1, "1=a:1,x=b:1", "", "no number"),
            (1, "1=a:1,2=b", "", "HOST:PORT"),
            (1, "1=a:1,2=b:1", "c", "HOST:PORT"),
        ] {
            let error = cluster(node, peers, listen).unwrap_err();
            assert!(error.contains(reason), "'{reason}' is missing: {error}");
        }
    }

    #[test]
    fn an_even_number_of_nodes_is_explained() {
        let two = cluster(1, "1=a:1,2=b:1", "").unwrap().unwrap().warning().unwrap();
        assert!(two.contains("3 nodes go on"), "{two}");
        let four = cluster(1, "1=a:1,2=b:1,3=c:1,4=d:1", "").unwrap().unwrap().warning().unwrap();
        assert!(four.contains("just as one of 3"), "{four}");
    }
}
