//! What a node knows of the others' memories, so that none comes back without and is believed.
//!
//! A node whose data directory was lost starts like one that never ran: it would vote again where
//! it has voted, and take part in agreeing on what contradicts what it helped to agree on. It
//! cannot know; the others can. Each directory has an *incarnation*, said in each hello, and each
//! node notes the one of every node that it was ever linked with. A node with another incarnation
//! is turned away, unless it was started with `--replace`: then all its replicas begin as *lost*
//! (`damage.rs`), and its incarnation says so and since when.
//!
//! ```text
//! peers.json   the incarnation of each other node, as of the last link with it
//! ```
//!
//! Invariant: an incarnation is noted durably before anything from that node is listened to.

use crate::serve::ServeError;
use crate::serve::datadir::{DataDir, write_file};
use quorate_base::ids::NodeId;
use quorate_node::link::Incarnation;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The other nodes' incarnations.
pub(crate) struct Known {
    path: PathBuf,
    nodes: RefCell<BTreeMap<NodeId, Incarnation>>,
}

/// A node as `peers.json` has it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: NodeId,
    incarnation: u64,
    replaced_at: u64,
}

impl Known {
    /// Reads what is noted; nothing is where no node was ever linked.
    pub(crate) fn open(dir: &DataDir) -> Result<Self, ServeError> {
        Self::read(dir.path.join("peers.json"))
    }

    pub(super) fn read(path: PathBuf) -> Result<Self, ServeError> {
        let entries: Vec<Entry> = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| ServeError::Identity {
                path: path.clone(),
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(ServeError::DataDir { doing: "read", path, source }),
        };
        let nodes = entries.into_iter().map(|entry| {
            let Entry { node, incarnation: id, replaced_at } = entry;
            (node, Incarnation { id, replaced_at })
        });
        Ok(Self { path, nodes: RefCell::new(nodes.collect()) })
    }

    /// Whether a node may come as this incarnation.
    pub(crate) fn accepts(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let nodes = self.nodes.borrow();
        nodes.get(&node).is_none_or(|known| incarnation.may_follow(*known))
    }

    /// Notes an incarnation that is accepted, durably.
    pub(crate) fn note(&self, node: NodeId, incarnation: Incarnation) -> std::io::Result<()> {
        let before = self.nodes.borrow().get(&node).copied();
        if before == Some(incarnation) {
            return Ok(());
        }
        let mut nodes = self.nodes.borrow().clone();
        nodes.insert(node, incarnation);
        let entry = |(&node, of): (&NodeId, &Incarnation)| Entry {
            node,
            incarnation: of.id,
            replaced_at: of.replaced_at,
        };
        let entries: Vec<Entry> = nodes.iter().map(entry).collect();
        let text = serde_json::to_vec_pretty(&entries).expect("plain values become JSON");
        write_file(&self.path, &text)?;
        *self.nodes.borrow_mut() = nodes;
        if before.is_some() {
            tracing::warn!("node {node} lost its data and was replaced");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_outlives_the_process() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("peers.json");
        let known = Known::read(path.clone()).unwrap();
        let (first, wiped) =
            (Incarnation { id: 1, replaced_at: 0 }, Incarnation { id: 2, replaced_at: 0 });
        assert!(known.accepts(3, first) && known.accepts(3, wiped));
        known.note(3, first).unwrap();
        let known = Known::read(path.clone()).unwrap();
        assert!(known.accepts(3, first) && !known.accepts(3, wiped) && known.accepts(2, wiped));
        let replaced = Incarnation { id: 2, replaced_at: 9 };
        assert!(known.accepts(3, replaced));
        known.note(3, replaced).unwrap();
        let known = Known::read(path.clone()).unwrap();
        assert!(known.accepts(3, replaced) && !known.accepts(3, first));
        std::fs::write(&path, "[").unwrap();
        assert!(Known::read(path).is_err());
    }
}
