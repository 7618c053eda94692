//! What reaches a worker from the other threads.

use crate::serve::WorkerId;
use quorate_base::ShardId;
use quorate_base::ids::NodeId;
use quorate_data::table::Mark;
use quorate_node::Message;
use quorate_node::status::WorkerStatus;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Bytes of other nodes that may wait for a worker; beyond, no peer's socket is read.
const PEER_BYTES_MAX: usize = 64 << 20;

/// One thing that reaches a worker. The queue has no bound of its own: what can be in it is
/// bounded by the frames, flushes and commands under way, and by [`PEER_BYTES_MAX`].
pub(crate) enum Input {
    Connection(TcpStream),
    Message {
        from: WorkerId,
        message: Box<Message>,
    },
    Persisted(u64),
    Flushed(ShardId, Mark),
    FlushWanted(ShardId),
    DiskFull(bool),
    /// A link is up; its number tells it from earlier ones to the same node.
    PeerUp {
        node: NodeId,
        session: u64,
    },
    PeerDown(NodeId),
    /// A part of a parcel; [`Inboxes::took_peer_bytes`] when it has been dealt with.
    Peer {
        from: NodeId,
        bytes: Vec<u8>,
    },
    ReserveUsed(bool),
    Throttled(bool),
    /// Tell how the worker is.
    Status(oneshot::Sender<WorkerStatus>),
    Shutdown,
    /// Every worker has stopped: end.
    End,
}

/// The inboxes of all workers.
#[derive(Clone)]
pub(crate) struct Inboxes {
    senders: Vec<UnboundedSender<Input>>,
    /// Bytes of other nodes that wait, for each worker.
    peer_bytes: Arc<[AtomicUsize]>,
    /// Told when they have become few again.
    peer_room: Arc<Notify>,
}

impl Inboxes {
    /// Inboxes for `workers` workers, and where each reads its own.
    pub(crate) fn new(workers: u16) -> (Self, Vec<UnboundedReceiver<Input>>) {
        let (senders, receivers) = (0..workers).map(|_| unbounded_channel()).unzip();
        let peer_bytes = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        (Self { senders, peer_bytes, peer_room: Arc::default() }, receivers)
    }

    /// Hands `input` to a worker. One that has ended needs nothing any more.
    pub(crate) fn send(&self, worker: WorkerId, input: Input) {
        let _ = self.senders[usize::from(worker)].send(input);
    }

    /// Hands a worker its part of a parcel.
    pub(crate) fn send_peer(&self, worker: WorkerId, from: NodeId, bytes: Vec<u8>) {
        self.peer_bytes[usize::from(worker)].fetch_add(bytes.len(), Ordering::Relaxed);
        self.send(worker, Input::Peer { from, bytes });
    }

    /// Tells that a worker has dealt with a part of a parcel.
    pub(crate) fn took_peer_bytes(&self, worker: WorkerId, bytes: usize) {
        let before = self.peer_bytes[usize::from(worker)].fetch_sub(bytes, Ordering::Relaxed);
        if before > PEER_BYTES_MAX && before - bytes <= PEER_BYTES_MAX {
            self.peer_room.notify_waiters();
        }
    }

    /// Whether some worker has more bytes of other nodes to deal with than may wait.
    pub(crate) fn peers_must_wait(&self) -> bool {
        self.peer_bytes.iter().any(|bytes| bytes.load(Ordering::Relaxed) > PEER_BYTES_MAX)
    }

    /// Ends after [`Inboxes::peers_must_wait`] may have changed, soon if not at once: whoever waits
    /// looks again now and then.
    pub(crate) async fn peer_room(&self) {
        self.peer_room.notified().await;
    }

    /// How many workers there are.
    pub(crate) fn len(&self) -> u16 {
        self.senders.len() as u16
    }
}
