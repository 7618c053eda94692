//! The links with the other nodes: tasks of the only worker's thread, or, beside several workers,
//! of a thread of their own.
//!
//! One connection for each pair of nodes, dialled by the one with the lower id. A connection is
//! one session of a link (`session.rs`); when it breaks the dialler begins another one. Workers
//! are told of each session once when it is up and once when it is not any more, in turn.
//!
//! What workers send waits in an *outbox* for each peer. It takes a parcel only for the session
//! that the sending worker was told of, so that what was meant for one session never leaves in the
//! next. An outbox that grows too long breaks its link: its node is slower than the others for
//! long, and the logs know how to go on after a broken link.

mod session;

use crate::config::Cluster;
use crate::serve::inbox::{Inboxes, Input};
use crate::serve::known::Known;
use crate::serve::observed::Observed;
use crate::serve::{Clock, Membership, ServeError, datadir};
use quorate_base::Prng;
use quorate_base::ids::NodeId;
use quorate_node::link::{Hello, Incarnation, LINK_VERSION, PARCEL_BYTES_MAX};
use session::{Broken, Session};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Bytes that may wait for a peer besides the next parcel.
const OUT_BYTES_MAX: usize = 64 << 20;

/// How long a dialler waits after a failure, at first and at most; up to half of it is chance.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How long a connection may take to be made. A lost first packet is sent again after a second
/// only, so dialling anew is faster.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

/// Connections accepted and not up yet; further ones are closed.
const STRANGERS_MAX: usize = 64;

/// How long accepting pauses after it failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What waits to be sent to each of the other nodes.
pub(crate) struct Outboxes(BTreeMap<NodeId, Outbox>);

#[derive(Default)]
struct Outbox {
    outgoing: Mutex<Outgoing>,
    /// Wakes the session.
    wake: Notify,
}

#[derive(Default)]
struct Outgoing {
    /// Whose parcels these are; `None` while the link is down.
    session: Option<u64>,
    parcels: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The last session ended because too much waited.
    overflowed: bool,
}

impl Outboxes {
    /// One for each other node of the cluster.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let peers = cluster.peers.keys().filter(|peer| **peer != cluster.node);
        Self(peers.map(|peer| (*peer, Outbox::default())).collect())
    }

    /// Sends a parcel in this session, or drops it if that has ended.
    pub(crate) fn send(&self, to: NodeId, session: u64, parcel: Vec<u8>) {
        let Some(outbox) = self.0.get(&to) else { return };
        let mut outgoing = outbox.outgoing();
        if outgoing.session != Some(session) || parcel.is_empty() {
            return;
        }
        let next = outgoing.parcels.front().map_or(0, Vec::len);
        if outgoing.bytes - next > OUT_BYTES_MAX || parcel.len() > PARCEL_BYTES_MAX {
            *outgoing = Outgoing { overflowed: true, ..Outgoing::default() };
        } else {
            outgoing.bytes += parcel.len();
            outgoing.parcels.push_back(parcel);
        }
        drop(outgoing);
        outbox.wake.notify_one();
    }
}

impl Outbox {
    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().expect("no holder of this lock panics")
    }
}

/// What a node says of itself, and what it knows of the others.
pub(crate) struct Own {
    pub(crate) cluster_id: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) known: Known,
}

/// The links with all other nodes, before they are run.
pub(crate) struct Links {
    membership: Membership,
    own: Own,
    clock: Clock,
    inboxes: Inboxes,
    outboxes: Arc<Outboxes>,
    observed: Arc<Observed>,
    seed: u64,
}

impl Links {
    pub(crate) fn new(
        membership: Membership,
        own: Own,
        clock: Clock,
        inboxes: Inboxes,
        outboxes: Arc<Outboxes>,
        observed: Arc<Observed>,
    ) -> Result<Self, ServeError> {
        let seed = datadir::random().map_err(ServeError::Thread)?;
        Ok(Self { membership, own, clock, inboxes, outboxes, observed, seed })
    }

    /// Runs them on a thread of their own, which ends with the process.
    pub(crate) fn start(self) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Thread)?;
        super::spawn("peers".into(), move || {
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(self.run()));
        })?;
        Ok(())
    }

    /// Runs them on this thread, as tasks of its `LocalSet`; never ends.
    pub(crate) async fn run(self) {
        let Membership { cluster, listener } = self.membership;
        let shared = Rc::new(Shared {
            cluster,
            own: self.own,
            clock: self.clock,
            inboxes: self.inboxes,
            outboxes: self.outboxes,
            observed: self.observed,
            prng: RefCell::new(Prng::new(self.seed)),
            last_session: Cell::new(0),
            up: RefCell::default(),
            strangers: Cell::new(0),
            complaints: RefCell::default(),
        });
        shared.run(listener).await;
    }
}

/// What the tasks of this thread share.
struct Shared {
    cluster: Cluster,
    own: Own,
    clock: Clock,
    inboxes: Inboxes,
    outboxes: Arc<Outboxes>,
    observed: Arc<Observed>,
    prng: RefCell<Prng>,
    last_session: Cell<u64>,
    /// The sessions that the workers know of.
    up: RefCell<HashMap<NodeId, u64>>,
    strangers: Cell<usize>,
    /// What was last said of each address, so as not to repeat it.
    complaints: RefCell<HashMap<String, String>>,
}

impl Shared {
    async fn run(self: Rc<Self>, listener: TcpListener) {
        for (&peer, address) in &self.cluster.peers {
            if peer > self.cluster.node {
                tokio::task::spawn_local(Rc::clone(&self).dial(peer, address.clone()));
            }
        }
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = listener.expect("a listening socket can be polled");
        loop {
            match listener.accept().await {
                // The dialler tries again.
                Ok(_) if self.strangers.get() >= STRANGERS_MAX => {}
                Ok((stream, address)) => {
                    let name = format!("a node at {}", address.ip());
                    tokio::task::spawn_local(Rc::clone(&self).serve(stream, name));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of a node could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Keeps a link to a node with a higher id.
    async fn dial(self: Rc<Self>, peer: NodeId, address: String) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let connecting = TcpStream::connect(&address);
            let broken = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
                Ok(Ok(stream)) => {
                    let mut session = Session::new(&self, stream, Ok(peer));
                    let broken = session.run().await;
                    if session.end(&broken) {
                        backoff = BACKOFF_MIN;
                        None
                    } else {
                        Some(broken)
                    }
                }
                Ok(Err(error)) => Some(Broken::Socket(error)),
                Err(_) => Some(Broken::NoAnswer),
            };
            if let Some(broken) = broken {
                self.observed.not_linked(peer, &broken.to_string());
                self.complain(&format!("node {peer} at {address}"), &broken);
            }
            let half = backoff.as_millis() as u64 / 2;
            let chance = self.prng.borrow_mut().below(half + 1);
            tokio::time::sleep(Duration::from_millis(half + chance)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Serves a connection that a node with a lower id dialled.
    async fn serve(self: Rc<Self>, stream: TcpStream, name: String) {
        let stranger = Stranger::new(&self.strangers);
        let mut session = Session::new(&self, stream, Err(stranger));
        let broken = session.run().await;
        if !session.end(&broken) {
            self.complain(&name, &broken);
        }
    }

    /// Says why there is no link, unless that was the last that was said.
    fn complain(&self, name: &str, broken: &Broken) {
        let text = broken.to_string();
        let mut complaints = self.complaints.borrow_mut();
        if complaints.len() > STRANGERS_MAX {
            complaints.clear();
        }
        if complaints.get(name) != Some(&text) {
            tracing::warn!("no link with {name}: {text}");
            complaints.insert(name.to_owned(), text);
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            cluster: self.own.cluster_id,
            node: self.cluster.node,
            version: LINK_VERSION,
            nonce: self.prng.borrow_mut().next_u64(),
        }
    }

    /// A session is up: ends an earlier one to the same node, and tells the workers.
    fn on_up(&self, node: NodeId) -> u64 {
        let earlier = self.up.borrow().get(&node).copied();
        if let Some(earlier) = earlier {
            self.on_down(node, earlier);
        }
        let session = self.last_session.get() + 1;
        self.last_session.set(session);
        self.up.borrow_mut().insert(node, session);
        self.observed.linked(node);
        let outbox = &self.outboxes.0[&node];
        *outbox.outgoing() = Outgoing { session: Some(session), ..Outgoing::default() };
        for worker in 0..self.inboxes.len() {
            self.inboxes.send(worker, Input::PeerUp { node, session });
        }
        session
    }

    /// A session has ended: tells the workers, unless they know.
    fn on_down(&self, node: NodeId, session: u64) {
        if !self.is_up(node, session) {
            return;
        }
        self.up.borrow_mut().remove(&node);
        let outbox = &self.outboxes.0[&node];
        *outbox.outgoing() = Outgoing::default();
        for worker in 0..self.inboxes.len() {
            self.inboxes.send(worker, Input::PeerDown(node));
        }
        // An earlier session of the same node learns that it has ended.
        outbox.wake.notify_one();
    }

    fn is_up(&self, node: NodeId, session: u64) -> bool {
        self.up.borrow().get(&node) == Some(&session)
    }
}

/// Counts a connection as long as nobody knows who made it.
struct Stranger<'a>(&'a Cell<usize>);

impl<'a> Stranger<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of a cluster of two whose only worker is the test.
    struct End {
        inbox: tokio::sync::mpsc::UnboundedReceiver<Input>,
        outboxes: Arc<Outboxes>,
        _dir: tempfile::TempDir,
    }

    impl End {
        fn start(node: NodeId, cluster_id: u64, listener: TcpListener, peers: &[String]) -> Self {
            let cluster = Cluster {
                name: "test".into(),
                node,
                listen: String::new(),
                peers: (1..).zip(peers.iter().cloned()).collect(),
            };
            let (inboxes, mut receivers) = Inboxes::new(1);
            let outboxes = Arc::new(Outboxes::new(&cluster));
            let observed = Arc::new(Observed::new(Some(&cluster)));
            let membership = Membership { cluster, listener };
            let clock = Clock { started: std::time::Instant::now() };
            let dir = tempfile::TempDir::new().unwrap();
            let known = Known::read(dir.path().join("peers.json")).unwrap();
            let incarnation = Incarnation { id: node, replaced_at: 0 };
            let own = Own { cluster_id, incarnation, known };
            let links =
                Links::new(membership, own, clock, inboxes, Arc::clone(&outboxes), observed);
            links.unwrap().start().unwrap();
            Self { inbox: receivers.remove(0), outboxes, _dir: dir }
        }

        /// What comes next, besides what only asks for a sign of life.
        fn next(&mut self) -> Input {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let patience = Duration::from_secs(60);
            let asks = |input: &Input| matches!(input, Input::Peer { bytes, .. } if bytes.starts_with(&[0, 0]));
            runtime.unwrap().block_on(async {
                loop {
                    let next = tokio::time::timeout(patience, self.inbox.recv());
                    let input = next.await.unwrap().unwrap();
                    if !asks(&input) {
                        return input;
                    }
                }
            })
        }

        fn expect_up(&mut self) -> u64 {
            match self.next() {
                Input::PeerUp { session, .. } => session,
                _ => panic!("a link comes up"),
            }
        }

        fn expect_down(&mut self) {
            assert!(matches!(self.next(), Input::PeerDown(_)), "a link goes down");
        }
    }

    #[test]
    fn parcels_arrive_in_order_and_nonsense_breaks_the_link() {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let peers = listeners.each_ref().map(|l| l.local_addr().unwrap().to_string());
        let [first, second] = listeners;
        let mut a = End::start(1, 7, first, &peers);
        let mut b = End::start(2, 7, second, &peers);
        let (to_b, _) = (a.expect_up(), b.expect_up());
        // A message for shard 0 with 3 MiB, larger than what is written at once, and small ones.
        let bytes = 3 << 20;
        let mut large = vec![1];
        quorate_base::codec::put_bytes(&mut large, &vec![7; bytes]);
        let parcels = [vec![1, 1, 1], large, vec![1, 1, 2]];
        for parcel in &parcels {
            a.outboxes.send(2, to_b, parcel.clone());
        }
        for parcel in &parcels {
            match b.next() {
                Input::Peer { from: 1, bytes } => assert!(bytes == *parcel),
                _ => panic!("a parcel comes"),
            }
        }
        // No message begins so: there is no worker 9.
        a.outboxes.send(2, to_b, vec![0, 9, 0]);
        b.expect_down();
        a.expect_down();
        let again = a.expect_up();
        b.expect_up();
        a.outboxes.send(2, to_b, vec![1, 1, 3]);
        a.outboxes.send(2, again, vec![1, 1, 4]);
        assert!(matches!(b.next(), Input::Peer { bytes, .. } if bytes == [1, 1, 4]));
    }

    fn waiting(outboxes: &Outboxes) -> (Option<u64>, usize, bool) {
        let outgoing = outboxes.0[&2].outgoing();
        (outgoing.session, outgoing.bytes, outgoing.overflowed)
    }

    #[test]
    fn a_parcel_of_another_session_is_dropped() {
        let outboxes = Outboxes([(2, Outbox::default())].into());
        outboxes.send(2, 1, vec![0; 10]);
        assert_eq!(waiting(&outboxes), (None, 0, false));
        outboxes.0[&2].outgoing().session = Some(2);
        outboxes.send(2, 1, vec![0; 10]);
        assert_eq!(waiting(&outboxes), (Some(2), 0, false));
        outboxes.send(2, 2, vec![0; 10]);
        outboxes.send(3, 2, vec![0; 10]);
        assert_eq!(waiting(&outboxes), (Some(2), 10, false));
    }

    #[test]
    fn too_much_that_waits_ends_the_session() {
        let outboxes = Outboxes([(2, Outbox::default())].into());
        outboxes.0[&2].outgoing().session = Some(1);
        // However large the next parcel is, it does not count.
        outboxes.send(2, 1, vec![0; OUT_BYTES_MAX + 1]);
        outboxes.send(2, 1, vec![0; OUT_BYTES_MAX / 2]);
        outboxes.send(2, 1, vec![0; OUT_BYTES_MAX / 2 + 1]);
        assert_eq!(waiting(&outboxes), (Some(1), 2 * OUT_BYTES_MAX + 2, false));
        outboxes.send(2, 1, vec![0; 1]);
        assert_eq!(waiting(&outboxes), (None, 0, true));
        outboxes.send(2, 1, vec![0; 1]);
        assert_eq!(waiting(&outboxes), (None, 0, true));
    }
}
