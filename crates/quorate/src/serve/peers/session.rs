//! One connection with another node: a session of a link over a socket.

use super::{Outbox, Shared, Stranger};
use quorate_base::Millis;
use quorate_base::ids::NodeId;
use quorate_node::link::{Link, LinkError, LinkEvent};
use quorate_node::peer::{ping, split};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;

/// What one read takes from a socket at most.
const READ_BYTES: usize = 256 << 10;

/// Reads of one socket before the others have their turn.
const READS_MAX: usize = 8;

/// Frames are gathered up to this many bytes for one write.
const GATHER_BYTES: usize = 1 << 20;

/// How often the round trip to the other node is measured.
const PING_MS: Millis = 1_000;

/// Why there is no link, or none any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Socket(#[from] std::io::Error),
    #[error("no connection came about in time")]
    NoAnswer,
    #[error("the node there closed the connection")]
    Closed,
    #[error("the node there closed the connection without a word: its log says why")]
    TurnedAway,
    #[error(
        "node {0} has another data directory than before, so it does not remember what it agreed \
             to, and is turned away. Give it back its directory; or, if that is lost, start it \
             with an empty one and --replace"
    )]
    Forgetful(NodeId),
    #[error("which directory node {0} has cannot be noted: {1}")]
    CannotNote(NodeId, std::io::Error),
    #[error("that node connected anew")]
    Replaced,
    #[error("too much waited to be sent: that node, or the network to it, is too slow")]
    Overflow,
    #[error("a parcel came that makes no sense: do all nodes run the same release?")]
    Nonsense,
}

/// A session and its socket.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    link: Link,
    /// The other node made the connection and is not known yet.
    stranger: Option<Stranger<'a>>,
    /// Whom it is with and its number, once it is up.
    up: Option<(NodeId, u64)>,
    /// Frames to write, and how much of them is written.
    out: Vec<u8>,
    written: usize,
    events: Vec<LinkEvent>,
    /// When the round trip is measured next.
    ping_at: Millis,
}

impl<'a> Session<'a> {
    /// A session over a connection that this node made to `expected`, or that a stranger made.
    pub(super) fn new(
        shared: &'a Shared,
        stream: TcpStream,
        expected: Result<NodeId, Stranger<'a>>,
    ) -> Self {
        // A socket without it still works, only slower.
        let _ = stream.set_nodelay(true);
        let now = shared.clock.now().mono;
        let (expected, stranger) = match expected {
            Ok(node) => (Some(node), None),
            Err(stranger) => (None, Some(stranger)),
        };
        let link = Link::new(shared.hello(), expected, now);
        let mut link = link.with_incarnation(shared.own.incarnation);
        let out = link.start(now);
        Self {
            shared,
            stream,
            link,
            stranger,
            up: None,
            out,
            written: 0,
            events: Vec::new(),
            ping_at: 0,
        }
    }

    /// Carries parcels until the session breaks.
    pub(super) async fn run(&mut self) -> Broken {
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        loop {
            if let Err(broken) = self.turn(&mut buffer).await {
                return broken;
            }
        }
    }

    /// Tells the workers that it is over; whether it had been up.
    pub(super) fn end(self, broken: &Broken) -> bool {
        let Some((node, session)) = self.up else { return false };
        tracing::warn!("the link with node {node} broke: {broken}");
        if self.shared.is_up(node, session) {
            self.shared.observed.not_linked(node, &broken.to_string());
        }
        self.shared.on_down(node, session);
        // It may have taken what should wake a later session.
        self.shared.outboxes.0[&node].wake.notify_one();
        true
    }

    /// Writes what waits, then waits for whatever comes first.
    async fn turn(&mut self, buffer: &mut [u8]) -> Result<(), Broken> {
        let now = self.now();
        // Silence at the other end means nothing while this end does not listen.
        let deaf = self.shared.inboxes.peers_must_wait();
        if deaf {
            self.link.hold(now);
        }
        self.link.tick(now, &mut self.out)?;
        self.gather(now)?;
        self.ask_for_a_sign(now);
        self.write()?;
        let unsent = self.written < self.out.len();
        let wait = Duration::from_millis(self.link.next_deadline().saturating_sub(now));
        let shared = self.shared;
        let outbox = self.up.map(|(node, _)| &shared.outboxes.0[&node]);
        tokio::select! {
            biased;
            ready = self.stream.readable(), if !deaf => {
                ready?;
                if self.read(buffer)? {
                    tokio::task::yield_now().await;
                }
            }
            ready = self.stream.writable(), if unsent => ready?,
            () = woken(outbox) => {}
            () = shared.inboxes.peer_room(), if deaf => {}
            () = tokio::time::sleep(wait) => {}
        }
        Ok(())
    }

    /// Has a worker there answer one here now and then, to know how long that takes.
    fn ask_for_a_sign(&mut self, now: Millis) {
        if self.up.is_some() && now >= self.ping_at {
            self.ping_at = now + PING_MS;
            let parcel = ping(self.shared.clock.now().mono_us);
            self.link.seal_into(now, &parcel, &mut self.out);
        }
    }

    /// Takes waiting parcels for the next write.
    fn gather(&mut self, now: Millis) -> Result<(), Broken> {
        let Some((node, session)) = self.up else { return Ok(()) };
        let outbox = &self.shared.outboxes.0[&node];
        while self.out.len() - self.written < GATHER_BYTES {
            let mut outgoing = outbox.outgoing();
            if outgoing.session != Some(session) {
                return Err(if outgoing.overflowed { Broken::Overflow } else { Broken::Replaced });
            }
            let Some(parcel) = outgoing.parcels.pop_front() else { break };
            outgoing.bytes -= parcel.len();
            drop(outgoing);
            self.link.seal_into(now, &parcel, &mut self.out);
        }
        Ok(())
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> Result<(), Broken> {
        while self.written < self.out.len() {
            match self.stream.try_write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > 2 * GATHER_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Reads for a while; whether there may be more.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, Broken> {
        for _ in 0..READS_MAX {
            let bytes = match self.stream.try_read(buffer) {
                Ok(0) if self.up.is_none() => return Err(Broken::TurnedAway),
                Ok(0) => return Err(Broken::Closed),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let now = self.now();
            let received = self.link.received(now, &buffer[..bytes], &mut self.events);
            // What came before an error is good.
            self.deliver()?;
            received?;
            self.look_at_peer()?;
            if self.shared.inboxes.peers_must_wait() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Turns a node away, before it is answered, that has forgotten what it agreed to.
    fn look_at_peer(&self) -> Result<(), Broken> {
        let peer = self.link.peer().zip(self.link.peer_incarnation());
        match peer.filter(|_| self.up.is_none()) {
            Some((node, incarnation)) if !self.shared.own.known.accepts(node, incarnation) => {
                Err(Broken::Forgetful(node))
            }
            _ => Ok(()),
        }
    }

    fn deliver(&mut self) -> Result<(), Broken> {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                LinkEvent::Up(node) => self.on_up(node)?,
                LinkEvent::Parcel(parcel) => self.on_parcel(&parcel)?,
            }
        }
        self.events = events;
        Ok(())
    }

    fn on_up(&mut self, node: NodeId) -> Result<(), Broken> {
        // Who was dialled is a peer; who came must be one, with a lower id.
        let cluster = &self.shared.cluster;
        if self.stranger.is_some() && (node > cluster.node || !cluster.peers.contains_key(&node)) {
            return Err(LinkError::Node { expected: None, found: node }.into());
        }
        // It may have come with the hello.
        self.look_at_peer()?;
        let incarnation = self.link.peer_incarnation().expect("a link that is up has a peer");
        let noted = self.shared.own.known.note(node, incarnation);
        noted.map_err(|error| Broken::CannotNote(node, error))?;
        self.stranger = None;
        self.up = Some((node, self.shared.on_up(node)));
        self.shared.complaints.borrow_mut().clear();
        let address = self.stream.peer_addr().map_or_else(|_| "?".into(), |a| a.to_string());
        tracing::info!("linked with node {node} at {address}");
        Ok(())
    }

    fn on_parcel(&mut self, parcel: &[u8]) -> Result<(), Broken> {
        let (node, session) = self.up.expect("a parcel comes over a link that is up");
        if !self.shared.is_up(node, session) {
            return Err(Broken::Replaced);
        }
        let inboxes = &self.shared.inboxes;
        let parts = split(parcel, inboxes.len()).ok_or(Broken::Nonsense)?;
        for (worker, bytes) in parts {
            inboxes.send_peer(worker, node, bytes);
        }
        Ok(())
    }

    fn now(&self) -> Millis {
        self.shared.clock.now().mono
    }
}

/// Ends when the outbox got something.
async fn woken(outbox: Option<&Outbox>) {
    match outbox {
        Some(outbox) => outbox.wake.notified().await,
        None => std::future::pending().await,
    }
}
