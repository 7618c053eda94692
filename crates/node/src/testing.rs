//! For tests: a whole node of several workers without any outside.
//!
//! Tables are in memory, the journal confirms every frame at once (or when the test says so),
//! messages between workers are delivered in the order in which they were sent, or shuffled by a
//! seed with each pair's order kept. Nothing happens but what a call of the test makes happen, so
//! a test that passed once passes always.
//!
//! ```text
//! let mut node = Node::new(2);                 // two workers, eight shards
//! let (a, b) = (node.client(), node.client()); // at worker 0, at worker 1
//! node.check(a, "SET k v", "+OK|");            // executes and compares, | stands for CR LF
//! node.feed(b, b"BLPOP list 1\r\n");           // sends and does not wait
//! node.settle();                               // until nothing moves any more
//! node.advance(1_000);                         // time passes
//! assert_eq!(node.text(b), "*-1|");            // what came since the last look
//! ```

use crate::config::{About, Config, Space};
use crate::event::{ConnId, Effect, Event, Frame, Time, WorkerId};
use crate::message::{Message, home};
use crate::shard::Durability;
use crate::status::Outside;
use crate::worker::{ShardStart, Worker};
use quorate_base::ids::NodeId;
use quorate_base::{Index, Millis, Prng, ShardId};
use quorate_data::Keyspace;
use quorate_data::place::{SpaceMap, SpaceShards};
use quorate_data::table::{Flush, Table};
use quorate_data::testing::MemoryTable;
use quorate_log::raft::{RaftLog, Restored};
use quorate_log::{Body, Entry, Record};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Shards of a [`Node`] unless the test says otherwise.
pub const SHARDS: u32 = 8;

/// The seed of the place hash.
const PLACE_SEED: u64 = 7;

/// Deliveries after which a node that does not come to rest is said to hang.
const DELIVERIES_MAX: usize = 100_000;

/// A node, its disk and its clients.
pub struct Node {
    /// The workers.
    pub workers: Vec<Worker>,
    /// Each shard's table.
    pub tables: Vec<MemoryTable>,
    /// What the workers are told of the time.
    pub now: Time,
    /// Frames are confirmed by [`Node::sync`] only, not at once.
    pub manual_sync: bool,
    /// Delivers messages in an order drawn from this, each pair's own order kept.
    pub shuffle: Option<Prng>,
    /// What the workers sent to other nodes and nobody has taken yet.
    pub parcels: VecDeque<(NodeId, Vec<u8>)>,
    /// What the outside knows of the node.
    pub outside: Outside,
    /// Round trips that the workers told of: the node and the stamp of the message.
    pub round_trips: Vec<(NodeId, u64)>,
    /// A worker wanted the node to stop.
    pub shutdown_wanted: bool,
    config: Arc<Config>,
    disk: Vec<Disk>,
    frames: VecDeque<(WorkerId, Frame)>,
    mail: VecDeque<(WorkerId, WorkerId, Box<Message>)>,
    clients: BTreeMap<ConnId, Client>,
    next_conn: ConnId,
    lives: u64,
}

/// What the journal holds of one shard.
#[derive(Clone, Debug, Default)]
struct Disk {
    state: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Client {
    worker: WorkerId,
    received: Vec<u8>,
    closed: bool,
}

impl Node {
    /// An empty node of so many workers with [`SHARDS`] shards, all of them `Sync`.
    pub fn new(workers: WorkerId) -> Self {
        Self::with_shards(workers, SHARDS)
    }

    /// An empty node of one space with so many shards.
    pub fn with_shards(workers: WorkerId, shards: u32) -> Self {
        Self::with_durability(workers, shards, Durability::Sync)
    }

    /// An empty node of one space with so many shards of this durability.
    pub fn with_durability(workers: WorkerId, shards: u32, durability: Durability) -> Self {
        Self::with_config(Self::config(workers, shards, durability))
    }

    /// The configuration of a node of one space that stands alone.
    pub fn config(workers: WorkerId, shards: u32, durability: Durability) -> Config {
        let space = SpaceShards { id: 0, prefix: Vec::new(), first: 0, shards };
        Config {
            workers,
            map: SpaceMap::new(vec![space], PLACE_SEED),
            spaces: vec![Space { name: "default".into(), durability }],
            cluster: None,
            memory_bytes_max: 1 << 30,
            flush_bytes: 1 << 20,
            query_buffer_bytes_max: 1 << 30,
            script_watch: None,
            about: About {
                version: "0.1.0".into(),
                pid: 1,
                port: 6379,
                run_id: "0123456789abcdef0123456789abcdef01234567".into(),
                os: "Test".into(),
                data_dir: "/data".into(),
                config_file: String::new(),
                client_address: "127.0.0.1:6379".into(),
            },
        }
    }

    /// An empty node of this configuration.
    pub fn with_config(config: Config) -> Self {
        let shards = config.map.shards() as usize;
        let mut node = Self {
            workers: Vec::new(),
            tables: (0..shards).map(|_| MemoryTable::default()).collect(),
            now: Time { wall: 1_700_000_000_000, mono: 1_000, mono_us: 1_000_000 },
            manual_sync: false,
            shuffle: None,
            parcels: VecDeque::new(),
            outside: Outside::default(),
            round_trips: Vec::new(),
            shutdown_wanted: false,
            config: Arc::new(config),
            disk: vec![Disk::default(); shards],
            frames: VecDeque::new(),
            mail: VecDeque::new(),
            clients: BTreeMap::new(),
            next_conn: 1,
            lives: 0,
        };
        node.start();
        node
    }

    /// The node crashes and starts again from its tables and what of its journal was confirmed.
    /// All clients are gone.
    pub fn restart(&mut self) {
        self.frames.clear();
        self.parcels.clear();
        self.mail.clear();
        self.clients.clear();
        self.start();
    }

    fn start(&mut self) {
        self.lives += 1;
        self.workers.clear();
        for id in 0..self.config.workers {
            let starts = (0..self.tables.len() as ShardId)
                .filter(|&shard| home(shard, self.config.workers) == id)
                .map(|shard| self.shard_start(shard))
                .collect();
            let node = self.config.cluster.as_ref().map_or(0, |cluster| cluster.node);
            let seed = node * 1_000_000 + self.lives * 1_000 + u64::from(id);
            let worker = Worker::new(id, self.config.clone(), starts, seed)
                .expect("the journal of a test replays");
            self.workers.push(worker);
        }
        for id in 0..self.config.workers {
            self.end_turn(id, Vec::new());
        }
        self.settle();
    }

    fn shard_start(&self, shard: ShardId) -> ShardStart {
        let table = self.tables[shard as usize].clone();
        let (disk, mark) = (&self.disk[shard as usize], table.mark());
        let restored = Restored {
            state: disk.state.clone(),
            entries: disk.entries.clone(),
            applied: mark.applied,
            applied_term: mark.term,
            lost: false,
        };
        let seed = self.lives * 1_000 + u64::from(shard);
        let cluster = self.config.cluster.as_ref();
        let (id, nodes) = cluster.map_or((1, vec![1]), |c| (c.node, c.nodes.clone()));
        let seed = seed + id * 1_000_000;
        let log = RaftLog::new(shard, id, &nodes, restored, seed).expect("the disk is sound");
        let mut spaces = self.config.map.spaces().iter();
        let space = spaces.find(|s| (s.first..s.first + s.shards).contains(&shard));
        let space = space.map_or(0, |s| s.id as usize);
        ShardStart {
            keyspace: Box::new(Keyspace::new(shard, PLACE_SEED, Box::new(table))),
            log: Box::new(log),
            durability: self.config.spaces[space].durability,
        }
    }

    // --- clients -----------------------------------------------------------------------------

    /// A new client, at the next worker in turn.
    pub fn client(&mut self) -> ConnId {
        let worker = (self.next_conn - 1) % u64::from(self.config.workers);
        self.client_at(worker as WorkerId)
    }

    /// A new client at this worker.
    pub fn client_at(&mut self, worker: WorkerId) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        self.clients.insert(conn, Client { worker, received: Vec::new(), closed: false });
        let peer = format!("127.0.0.1:{}", 50_000 + conn);
        let event = Event::Connected { conn, peer, local: "127.0.0.1:6379".into() };
        self.turn(worker, vec![event]);
        conn
    }

    /// The client sends bytes; nothing but its own worker's turn happens.
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8]) {
        let client = self.clients.get(&conn).expect("the client exists");
        if !client.closed {
            self.turn(client.worker, vec![Event::Received { conn, bytes }]);
        }
    }

    /// The client sends bytes, and everything that follows happens; what it then has received
    /// since the last look.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
        self.feed(conn, bytes);
        self.settle();
        self.take(conn)
    }

    /// What the client has received since the last look.
    pub fn take(&mut self, conn: ConnId) -> Vec<u8> {
        self.clients.get_mut(&conn).map_or(Vec::new(), |c| std::mem::take(&mut c.received))
    }

    /// The same as text, in which `|` stands for CR LF.
    pub fn text(&mut self, conn: ConnId) -> String {
        String::from_utf8_lossy(&self.take(conn)).replace("\r\n", "|")
    }

    /// Executes an inline command.
    pub fn run(&mut self, conn: ConnId, line: &str) -> String {
        self.feed(conn, format!("{line}\r\n").as_bytes());
        self.settle();
        self.text(conn)
    }

    /// Executes an inline command and compares its reply.
    #[track_caller]
    pub fn check(&mut self, conn: ConnId, line: &str, reply: &str) {
        let got = self.run(conn, line);
        assert_eq!(got, reply, "{line}");
    }

    /// The client closes its side of the connection and still listens.
    pub fn end(&mut self, conn: ConnId) {
        let worker = self.worker_of(conn);
        self.turn(worker, vec![Event::Ended { conn }]);
    }

    /// The client leaves.
    pub fn disconnect(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.remove(&conn) {
            self.turn(client.worker, vec![Event::Disconnected { conn }]);
        }
    }

    /// True if the node closed this client's connection.
    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_none_or(|client| client.closed)
    }

    /// The worker a client is at.
    pub fn worker_of(&self, conn: ConnId) -> WorkerId {
        self.clients.get(&conn).expect("the client exists").worker
    }

    /// A key that starts with `prefix` and whose shard is at home with `worker`.
    pub fn key_at(&self, worker: WorkerId, prefix: &str) -> String {
        (0..)
            .map(|n| format!("{prefix}{n}"))
            .find(|key| {
                let shard = self.config.map.place(key.as_bytes()).shard;
                home(shard, self.config.workers) == worker
            })
            .expect("every worker is home to some shard")
    }

    // --- the outside -------------------------------------------------------------------------

    /// Lets time pass and everything happen that is due.
    pub fn advance(&mut self, ms: Millis) {
        let end = self.now.mono + ms;
        for _ in 0..DELIVERIES_MAX {
            let due = (0..self.config.workers)
                .filter_map(|w| Some((self.workers[usize::from(w)].next_deadline()?, w)))
                .filter(|&(at, _)| at <= end)
                .min();
            let Some((at, worker)) = due else {
                self.pass(end);
                return;
            };
            self.pass(at.max(self.now.mono));
            self.turn(worker, vec![Event::Tick]);
            self.settle();
        }
        panic!("the node has more and more to do in {ms} ms");
    }

    fn pass(&mut self, mono: Millis) {
        let passed = mono - self.now.mono;
        self.now = Time { wall: self.now.wall + passed, mono, mono_us: mono * 1_000 };
    }

    /// Steps a worker through events of one turn and carries out what it wants, but delivers
    /// nothing.
    pub fn turn(&mut self, worker: WorkerId, events: Vec<Event<'_>>) {
        let mut effects = Vec::new();
        for event in events {
            self.workers[usize::from(worker)].step(self.now, event, &mut effects);
        }
        self.end_turn(worker, effects);
    }

    fn end_turn(&mut self, worker: WorkerId, mut effects: Vec<Effect>) {
        self.workers[usize::from(worker)].end_turn(self.now, &mut effects);
        for effect in effects {
            self.carry_out(worker, effect);
        }
    }

    fn carry_out(&mut self, worker: WorkerId, effect: Effect) {
        match effect {
            Effect::Send { conn, bytes } => {
                if let Some(client) = self.clients.get_mut(&conn) {
                    assert!(!client.closed, "bytes for client {conn}, which was closed");
                    client.received.extend(bytes);
                }
            }
            Effect::Close { conn } => {
                if let Some(client) = self.clients.get_mut(&conn) {
                    client.closed = true;
                }
            }
            Effect::Persist(frame) => self.frames.push_back((worker, frame)),
            Effect::Flush(flush) => self.flush(worker, &flush),
            Effect::Shutdown => self.shutdown_wanted = true,
            Effect::Message { to, message } => self.mail.push_back((worker, to, message)),
            Effect::Observe { job } => {
                let outside = Box::new(self.outside.clone());
                self.turn(worker, vec![Event::Observed { job, outside }]);
            }
            Effect::RoundTrip { node, stamp } => self.round_trips.push((node, stamp)),
            Effect::Peer { to, bytes } => self.parcels.push_back((to, bytes)),
        }
    }

    fn flush(&mut self, worker: WorkerId, flush: &Flush) {
        self.tables[flush.shard as usize].apply(flush);
        // As a real journal does, lets go of what the table has for good.
        let durable = flush.mark.applied;
        self.disk[flush.shard as usize].entries.retain(|entry| entry.index > durable);
        self.turn(worker, vec![Event::Flushed { shard: flush.shard, mark: flush.mark }]);
    }

    /// Confirms every frame that was handed to the journal.
    pub fn sync(&mut self) {
        while let Some((worker, _)) = self.frames.front() {
            self.sync_one(*worker);
        }
    }

    /// Confirms the oldest frame of this worker; the workers' frames are independent of each
    /// other.
    pub fn sync_one(&mut self, worker: WorkerId) {
        let Some(at) = self.frames.iter().position(|(w, _)| *w == worker) else { return };
        let (_, frame) = self.frames.remove(at).expect("it was just found");
        for record in frame.records {
            self.keep(record);
        }
        self.turn(worker, vec![Event::Persisted { ticket: frame.ticket }]);
    }

    /// How many frames the journal has not confirmed.
    pub fn unsynced(&self) -> usize {
        self.frames.len()
    }

    fn keep(&mut self, record: Record) {
        let disk = &mut self.disk[record.shard as usize];
        match record.body {
            Body::State(state) => disk.state = Some(state),
            Body::Entry(entry) => {
                let behind: Index = entry.index;
                disk.entries.retain(|e| e.index < behind);
                disk.entries.push(entry);
            }
        }
    }

    /// Delivers one message between workers; false if there is none.
    pub fn deliver(&mut self) -> bool {
        if self.mail.is_empty() {
            return false;
        }
        let chosen = match &mut self.shuffle {
            None => 0,
            Some(prng) => prng.below(self.mail.len() as u64) as usize,
        };
        let pair = (self.mail[chosen].0, self.mail[chosen].1);
        let first = self.mail.iter().position(|m| (m.0, m.1) == pair).expect("it was just chosen");
        let (from, to, message) = self.mail.remove(first).expect("it was just found");
        self.turn(to, vec![Event::Message { from, message }]);
        true
    }

    /// Delivers and confirms until nothing is under way any more.
    pub fn settle(&mut self) {
        for _ in 0..DELIVERIES_MAX {
            if !self.manual_sync {
                self.sync();
            }
            if !self.deliver() {
                return;
            }
        }
        panic!("the workers do not come to rest");
    }
}

pub mod cluster;
#[cfg(test)]
mod corners;
#[cfg(test)]
mod room;
#[cfg(test)]
mod swarm;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_execute_wherever_their_keys_are() {
        for workers in [1, 2, 4] {
            let mut node = Node::new(workers);
            let clients: Vec<ConnId> = (0..workers).map(|_| node.client()).collect();
            for (n, &client) in clients.iter().enumerate() {
                for key in 0..20 {
                    node.check(client, &format!("SET {key} {n}"), "+OK|");
                    node.check(clients[0], &format!("GET {key}"), &format!("$1|{n}|"));
                }
            }
            let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
            node.check(clients[0], &format!("DEL {}", keys.join(" ")), ":20|");
            node.check(clients[0], "PING", "+PONG|");
        }
    }

    #[test]
    fn a_write_is_acknowledged_once_it_is_durable_and_survives() {
        let mut node = Node::new(2);
        let client = node.client();
        node.check(client, "SET a 1", "+OK|");
        node.manual_sync = true;
        node.check(client, "SET a 2", "");
        assert_eq!(node.unsynced(), 1);
        node.restart();
        node.manual_sync = false;
        let client = node.client();
        node.check(client, "GET a", "$1|1|");
        node.check(client, "SET a 3", "+OK|");
        node.restart();
        let client = node.client();
        node.check(client, "GET a", "$1|3|");
    }

    #[test]
    fn a_shard_that_was_busy_when_it_was_asked_for_is_lent_at_the_end_of_the_turn() {
        for durability in [Durability::Sync, Durability::Relaxed] {
            let mut node = Node::with_durability(2, SHARDS, durability);
            let (a, b) = (node.client_at(0), node.client_at(1));
            let (here, there) = (node.key_at(0, "k"), node.key_at(1, "k"));
            node.feed(a, format!("MSET {here} 1 {there} 1\r\n").as_bytes());
            let (from, to, message) = node.mail.pop_front().expect("a shard is asked for");
            let set = format!("SET {there} 2\r\n");
            let received = Event::Received { conn: b, bytes: set.as_bytes() };
            node.turn(to, vec![received, Event::Message { from, message }]);
            node.settle();
            assert_eq!((node.text(a), node.text(b)), ("+OK|".into(), "+OK|".into()));
        }
    }

    #[test]
    fn a_worker_has_stopped_once_nothing_is_left_to_give_back() {
        let mut node = Node::new(2);
        let client = node.client_at(0);
        let (here, there) = (node.key_at(0, "k"), node.key_at(1, "k"));
        node.feed(client, format!("MSET {here} 1 {there} 1\r\n").as_bytes());
        for worker in [0, 1] {
            node.turn(worker, vec![Event::Shutdown]);
        }
        assert!(!node.workers[0].is_stopped(), "it waits for a shard");
        node.settle();
        assert_eq!(node.text(client), "+OK|");
        assert!(node.workers.iter().all(Worker::is_stopped));
    }

    #[test]
    fn a_subcommand_that_does_not_exist_spoils_a_transaction() {
        let mut node = Node::new(2);
        let client = node.client();
        for (command, error) in [
            ("OBJECT NOSUCH a", "-ERR unknown subcommand 'NOSUCH'. Try OBJECT HELP.|"),
            ("XINFO GROUPS", "-ERR wrong number of arguments for 'xinfo|groups' command|"),
            ("MEMORY USAGE", "-ERR wrong number of arguments for 'memory|usage' command|"),
        ] {
            node.check(client, "MULTI", "+OK|");
            node.check(client, command, error);
            let aborted = "-EXECABORT Transaction discarded because of previous errors.|";
            node.check(client, "EXEC", aborted);
        }
    }

    #[test]
    fn a_pipeline_keeps_its_order_however_messages_arrive() {
        for seed in 0..50 {
            let mut node = Node::new(4);
            node.shuffle = Some(Prng::new(seed));
            let client = node.client();
            let mut lines = String::new();
            let mut replies = String::new();
            for key in 0..30 {
                lines += &format!("SET {key} v{key}\r\nGET {key}\r\nDEL {key} x{key}\r\n");
                replies += &format!("+OK|${}|v{key}|:1|", 1 + key.to_string().len());
            }
            node.feed(client, lines.as_bytes());
            node.settle();
            assert_eq!(node.text(client), replies, "seed {seed}");
        }
    }
}
