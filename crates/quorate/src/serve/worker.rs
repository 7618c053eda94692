//! One worker's thread: sockets in, sockets out, turns in between.
//!
//! A task a client reads what its socket has and steps the worker; the *tail* task, which runs
//! once every task that was ready has had its turn, ends the turn and carries out the effects.
//! All of it shares one thread, so a `RefCell` is all the protection there is; it is never held
//! across an await.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::observed::Observed;
use crate::serve::peers::Outboxes;
use crate::serve::{Clock, Fatal, WorkerId, journal, store};
use quorate_base::ids::NodeId;
use quorate_node::{ConnId, Effect, Event, Time, Worker};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

/// What one read takes from a socket at most.
const READ_BYTES: usize = 64 << 10;

/// How long a client that is being closed may take to read on before it is cut off.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Inputs taken from the inbox before the turn ends.
const INPUTS_MAX: usize = 1024;

/// Where effects go that other threads carry out.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) inboxes: Inboxes,
    pub(crate) journal: Sender<journal::Request>,
    pub(crate) store: Sender<store::Request>,
    /// What other nodes are to get; `None` for a node that stands alone.
    pub(crate) peers: Option<Arc<Outboxes>>,
    /// What the threads outside the workers see.
    pub(crate) observed: Arc<Observed>,
    pub(crate) fatal: Fatal,
    /// The last client id given out, over all workers.
    pub(crate) last_conn: Arc<AtomicU64>,
    /// Clients connected, over all workers.
    pub(crate) connected: Arc<AtomicUsize>,
    /// Asks the node to stop, as a signal does.
    pub(crate) stop: Arc<Notify>,
    /// Which workers have stopped. All go on until the last has: it may wait for what they hold.
    pub(crate) stopped: Arc<[AtomicBool]>,
}

/// What the tasks of this thread share.
struct Shared {
    id: WorkerId,
    worker: RefCell<Worker>,
    clock: Clock,
    /// The time of the turn under way.
    now: Cell<Option<Time>>,
    outlets: Outlets,
    clients: RefCell<HashMap<ConnId, Rc<Client>>>,
    /// The links that the worker was told are up. A parcel belongs to the one that it knew of.
    sessions: RefCell<HashMap<NodeId, u64>>,
    effects: RefCell<Vec<Effect>>,
    buffer: RefCell<Box<[u8]>>,
    /// Wakes the tail.
    turn: Notify,
    /// Wakes clients that were told not to read.
    unsaturated: Notify,
    /// Wakes the timer when the deadline moved.
    deadline: Notify,
    wanted: Cell<Option<u64>>,
    ended: Cell<bool>,
}

/// A client's socket and what it has not taken yet.
struct Client {
    writer: OwnedWriteHalf,
    unsent: RefCell<Vec<u8>>,
    closing: Cell<bool>,
    /// It will send nothing more, and may still read.
    ended: Cell<bool>,
    /// Wakes its task: to write, to read again, or to end.
    wake: Notify,
}

/// Runs a worker until it has shut down.
pub(crate) async fn run(
    id: WorkerId,
    worker: Worker,
    clock: Clock,
    outlets: Outlets,
    inbox: UnboundedReceiver<Input>,
) {
    let shared = Rc::new(Shared {
        id,
        worker: RefCell::new(worker),
        clock,
        now: Cell::new(None),
        outlets,
        clients: RefCell::default(),
        sessions: RefCell::default(),
        effects: RefCell::default(),
        buffer: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
        turn: Notify::new(),
        unsaturated: Notify::new(),
        deadline: Notify::new(),
        wanted: Cell::new(None),
        ended: Cell::new(false),
    });
    shared.turn.notify_one();
    tokio::task::spawn_local(Rc::clone(&shared).keep_time());
    tokio::task::spawn_local(Rc::clone(&shared).read_inbox(inbox));
    shared.end_turns().await;
}

impl Shared {
    /// Steps the worker; the turn ends later, in the tail.
    fn step(&self, event: Event<'_>) {
        // The turn's first reading is its time.
        let now = self.now.get().unwrap_or_else(|| self.clock.now());
        self.now.set(Some(now));
        self.worker.borrow_mut().step(now, event, &mut self.effects.borrow_mut());
        self.turn.notify_one();
    }

    /// The tail: ends turns until the worker has shut down.
    async fn end_turns(&self) {
        loop {
            self.turn.notified().await;
            self.now.set(None);
            let mut effects = self.effects.take();
            let (saturated, deadline, stopped) = {
                let mut worker = self.worker.borrow_mut();
                worker.end_turn(self.clock.now(), &mut effects);
                (worker.is_saturated(), worker.next_deadline(), worker.is_stopped())
            };
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
            // Carrying them out may have stepped the worker again.
            let mut later = self.effects.borrow_mut();
            if later.is_empty() {
                *later = effects;
            }
            drop(later);
            if !saturated {
                self.unsaturated.notify_waiters();
            }
            if deadline != self.wanted.replace(deadline) {
                self.deadline.notify_one();
            }
            if self.ended.get() {
                return;
            }
            self.outlets.stopped[usize::from(self.id)].store(stopped, Ordering::SeqCst);
            if stopped && self.outlets.stopped.iter().all(|s| s.load(Ordering::SeqCst)) {
                for worker in 0..self.outlets.inboxes.len() {
                    self.outlets.inboxes.send(worker, Input::End);
                }
            }
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Send { conn, bytes } => self.send(conn, bytes),
            Effect::Close { conn } => {
                if let Some(client) = self.clients.borrow().get(&conn) {
                    client.closing.set(true);
                    client.wake.notify_one();
                }
            }
            Effect::Persist(frame) => {
                let request = journal::Request::Append { worker: self.id, frame };
                if self.outlets.journal.send(request).is_err() {
                    self.outlets.fatal.stop("the journal's thread has ended");
                }
            }
            Effect::Flush(flush) => {
                if self.outlets.store.send(store::Request::Write(flush)).is_err() {
                    self.outlets.fatal.stop("the store's thread has ended");
                }
            }
            Effect::Shutdown => self.outlets.stop.notify_one(),
            Effect::Peer { to, bytes } => {
                let peers = self.outlets.peers.as_ref();
                let peers = peers.expect("a node that stands alone has nothing to tell peers");
                if let Some(&session) = self.sessions.borrow().get(&to) {
                    peers.send(to, session, bytes);
                }
            }
            Effect::Observe { job } => {
                let outside = Box::new(self.outlets.observed.facts());
                self.step(Event::Observed { job, outside });
            }
            Effect::RoundTrip { node, stamp } => {
                let us = self.clock.now().mono_us.saturating_sub(stamp);
                self.outlets.observed.round_trip(node, us);
            }
            Effect::Message { to, message } => {
                self.outlets.inboxes.send(to, Input::Message { from: self.id, message });
            }
        }
    }

    /// Writes to a client's socket at once; what it does not take, its task writes.
    fn send(&self, conn: ConnId, mut bytes: Vec<u8>) {
        let Some(client) = self.clients.borrow().get(&conn).map(Rc::clone) else { return };
        let mut unsent = client.unsent.borrow_mut();
        if !unsent.is_empty() {
            unsent.extend_from_slice(&bytes);
            let bytes = unsent.len();
            drop(unsent);
            return self.step(Event::Backlog { conn, bytes });
        }
        let sent = match client.writer.try_write(&bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            // Reading will fail as well, and ends the client.
            Err(_) => return,
        };
        if sent < bytes.len() {
            bytes.drain(..sent);
            *unsent = bytes;
            client.wake.notify_one();
        }
    }

    // --- tasks -------------------------------------------------------------------------------

    async fn read_inbox(self: Rc<Self>, mut inbox: UnboundedReceiver<Input>) {
        let mut inputs = Vec::new();
        loop {
            if inbox.recv_many(&mut inputs, INPUTS_MAX).await == 0 {
                return;
            }
            for input in inputs.drain(..) {
                self.take(input);
            }
        }
    }

    fn take(self: &Rc<Self>, input: Input) {
        match input {
            Input::Connection(stream) => self.accept(stream),
            Input::Message { from, message } => self.step(Event::Message { from, message }),
            Input::Persisted(ticket) => self.step(Event::Persisted { ticket }),
            Input::Flushed(shard, mark) => self.step(Event::Flushed { shard, mark }),
            Input::FlushWanted(shard) => self.step(Event::FlushWanted { shard }),
            Input::DiskFull(full) => self.step(Event::DiskFull { full }),
            Input::PeerUp { node, session } => {
                self.sessions.borrow_mut().insert(node, session);
                self.step(Event::PeerUp { node });
            }
            Input::PeerDown(node) => {
                self.sessions.borrow_mut().remove(&node);
                self.step(Event::PeerDown { node });
            }
            Input::Peer { from, bytes } => {
                self.step(Event::Peer { from, bytes: &bytes });
                self.outlets.inboxes.took_peer_bytes(self.id, bytes.len());
            }
            Input::ReserveUsed(used) => self.step(Event::ReserveUsed { used }),
            Input::Throttled(on) => self.step(Event::Throttled { on }),
            Input::Status(told) => {
                // Whoever asked may have given up.
                let _ = told.send(self.worker.borrow().status(self.clock.now()));
            }
            Input::Shutdown => self.step(Event::Shutdown),
            Input::End => {
                self.ended.set(true);
                self.turn.notify_one();
            }
        }
    }

    /// Ticks the worker when it wants to be.
    async fn keep_time(self: Rc<Self>) {
        loop {
            let Some(at) = self.wanted.get() else {
                self.deadline.notified().await;
                continue;
            };
            let wait = Duration::from_millis(at.saturating_sub(self.clock.now().mono));
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.deadline.notified() => continue,
                }
            }
            // The tail sets the next deadline, which may be the same moment again.
            self.wanted.set(None);
            self.step(Event::Tick);
        }
    }

    fn accept(self: &Rc<Self>, stream: std::net::TcpStream) {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                self.outlets.connected.fetch_sub(1, Ordering::Relaxed);
                return tracing::warn!(%error, "a connection could not be served");
            }
        };
        let address = |a: std::io::Result<std::net::SocketAddr>| {
            a.map_or_else(|_| "?:0".to_owned(), |a| a.to_string())
        };
        let conn = self.outlets.last_conn.fetch_add(1, Ordering::Relaxed) + 1;
        let (peer, local) = (address(stream.peer_addr()), address(stream.local_addr()));
        let (reader, writer) = stream.into_split();
        let client = Rc::new(Client {
            writer,
            unsent: RefCell::default(),
            closing: Cell::new(false),
            ended: Cell::new(false),
            wake: Notify::new(),
        });
        self.clients.borrow_mut().insert(conn, Rc::clone(&client));
        self.step(Event::Connected { conn, peer, local });
        tokio::task::spawn_local(Rc::clone(self).serve_client(conn, client, reader));
    }

    /// A client's task: reads while the worker wants input, writes what the socket did not take
    /// at once.
    async fn serve_client(
        self: Rc<Self>,
        conn: ConnId,
        client: Rc<Client>,
        mut reader: OwnedReadHalf,
    ) {
        loop {
            let unsent = !client.unsent.borrow().is_empty();
            if client.closing.get() && !unsent {
                break;
            }
            let deaf = client.closing.get() || client.ended.get();
            let wants_input = !deaf && self.worker.borrow().wants_input(conn);
            let reading = poll_fn(|context| self.poll_read(context, &mut reader, conn, &client));
            let alive = if client.closing.get() {
                tokio::select! {
                    ready = client.writer.writable() => ready.is_ok() && self.write(conn, &client),
                    () = tokio::time::sleep(CLOSE_PATIENCE) => false,
                }
            } else {
                tokio::select! {
                    biased;
                    alive = reading, if wants_input => alive,
                    ready = client.writer.writable(), if unsent => {
                        ready.is_ok() && self.write(conn, &client)
                    }
                    () = client.wake.notified() => true,
                    () = self.unsaturated.notified(), if !wants_input => true,
                }
            };
            if !alive {
                break;
            }
        }
        self.clients.borrow_mut().remove(&conn);
        self.outlets.connected.fetch_sub(1, Ordering::Relaxed);
        self.step(Event::Disconnected { conn });
    }

    /// Reads once, as soon as there is something; false when the client is gone.
    fn poll_read(
        &self,
        context: &mut Context<'_>,
        reader: &mut OwnedReadHalf,
        conn: ConnId,
        client: &Client,
    ) -> Poll<bool> {
        let mut buffer = self.buffer.borrow_mut();
        let mut read = ReadBuf::new(&mut buffer);
        if std::task::ready!(Pin::new(reader).poll_read(context, &mut read)).is_err() {
            return Poll::Ready(false);
        }
        if read.filled().is_empty() {
            client.ended.set(true);
            self.step(Event::Ended { conn });
        } else {
            self.step(Event::Received { conn, bytes: read.filled() });
        }
        Poll::Ready(true)
    }

    /// Writes once; false when the client is gone.
    fn write(&self, conn: ConnId, client: &Client) -> bool {
        let mut unsent = client.unsent.borrow_mut();
        match client.writer.try_write(&unsent) {
            Ok(len) => {
                unsent.drain(..len);
                if unsent.is_empty() {
                    *unsent = Vec::new();
                }
                let bytes = unsent.len();
                drop(unsent);
                self.step(Event::Backlog { conn, bytes });
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}
