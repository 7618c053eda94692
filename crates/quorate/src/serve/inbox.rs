//! What reaches a worker from the other threads.

use crate::serve::WorkerId;
use quorate_base::ShardId;
use quorate_data::table::Mark;
use quorate_node::Message;
use std::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// One thing that reaches a worker. The queue has no bound of its own: what can be in it is
/// bounded by the frames, flushes and commands under way.
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
    ReserveUsed(bool),
    Throttled(bool),
    Shutdown,
    /// Every worker has stopped: end.
    End,
}

/// The inboxes of all workers.
#[derive(Clone)]
pub(crate) struct Inboxes(Vec<UnboundedSender<Input>>);

impl Inboxes {
    /// Inboxes for `workers` workers, and where each reads its own.
    pub(crate) fn new(workers: u16) -> (Self, Vec<UnboundedReceiver<Input>>) {
        let (senders, receivers) = (0..workers).map(|_| unbounded_channel()).unzip();
        (Self(senders), receivers)
    }

    /// Hands `input` to a worker. One that has ended needs nothing any more.
    pub(crate) fn send(&self, worker: WorkerId, input: Input) {
        let _ = self.0[usize::from(worker)].send(input);
    }

    /// How many workers there are.
    pub(crate) fn len(&self) -> u16 {
        self.0.len() as u16
    }
}
