//! One worker: clients and shards of one thread, and what an event does to them.
//!
//! A *turn* is any number of [`Worker::step`]s and then one [`Worker::end_turn`], which proposes
//! what the commands of the turn changed, hands it to the journal as one frame, and lets go of
//! every reply that nothing holds back any more.

use crate::config::Config;
use crate::conn::{Client, Conn, Parked};
use crate::dispatch::{Command, Commands, ShardList};
use crate::event::{ConnId, Effect, Event, Frame, Time, WorkerId};
use crate::job::{Args, Job, JobId, Origin, State, Work};
use crate::message::{Answer, Message, Requested, Travelling, home};
use crate::output::{Output, Owner};
use crate::pubsub::PubSub;
use crate::replica::routing::TOKENS;
use crate::replica::{Peers, Replica};
use crate::script::Scene;
use crate::shard::{Durability, Shard};
use crate::stats::{Recent, Stats};
use quorate_base::ids::NodeId;
use quorate_base::limits::{ARGS_MAX, COMMAND_BYTES_MAX};
use quorate_base::rare::RarePath;
use quorate_base::{Index, Millis, Prng, ShardId};
use quorate_data::command::{Block, flag};
use quorate_data::db::WARM_MAX;
use quorate_data::effects::ReplayError;
use quorate_data::place::Place;
use quorate_data::settings::Settings;
use quorate_data::{Ctx, Db, Keyspace, Spec};
use quorate_log::{Log, Outputs, Record};
use quorate_resp::{Proto, Reply, look_ahead};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Input of at least so many bytes may be a pipeline worth looking ahead in.
const PIPELINE_BYTES_MIN: usize = 200;

/// Bytes handed to the journal and not yet answered; beyond it the outside should stop reading.
const IN_FLIGHT_BYTES_MAX: usize = if cfg!(test) { 4 << 20 } else { 64 << 20 };

/// A turn whose commands changed so many bytes is proposed before the next command executes.
pub(crate) const TURN_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// A transaction that changed so many bytes executes no further writes: all of it must fit one
/// frame of the journal, see [`turn_bytes_bound`].
pub(crate) const TRANSACTION_BYTES_MAX: usize = if cfg!(test) { 8 << 20 } else { 512 << 20 };

/// The most bytes of effects that one turn can hold, if clients can send commands of so many
/// bytes: a transaction that is as long as may be, and then the longest command. A command records
/// of its arguments at most twice what they hold (a sorted set keeps each member twice) and a
/// little for each of them, or of what keys hold [`COMMAND_BYTES_MAX`].
pub const fn turn_bytes_bound(query_bytes_max: usize) -> usize {
    const ARGUMENT_BYTES: usize = 64;
    let of_arguments = 2 * query_bytes_max + ARGS_MAX * ARGUMENT_BYTES;
    let longest = if of_arguments > COMMAND_BYTES_MAX { of_arguments } else { COMMAND_BYTES_MAX };
    TRANSACTION_BYTES_MAX + longest
}

/// A worker. All of its time arrives with the events, all of its randomness from the seed.
pub struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) config: Arc<Config>,
    pub(crate) settings: Settings,
    pub(crate) commands: Arc<Commands>,
    pub(crate) db: Db,
    pub(crate) shards: Vec<Option<Box<Shard>>>,
    /// Who waits for which shard of this home; the first holds it.
    pub(crate) claims: Vec<VecDeque<crate::acquire::Claim>>,
    /// Foreign shards to be returned as soon as they are quiet.
    pub(crate) returning: Vec<ShardId>,
    /// Waiters to be removed once their shard is here again.
    pub(crate) releases: Vec<(ShardId, Vec<u8>, WorkerId, Option<JobId>)>,
    /// The last known commit index of each shard.
    pub(crate) commits: Vec<Index>,
    pub(crate) clients: HashMap<ConnId, Box<Client>>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    next_job: JobId,
    /// Jobs to go on with.
    pub(crate) runnable: VecDeque<JobId>,
    /// Clients whose next command may execute now.
    pub(crate) resumed: Vec<ConnId>,
    pub(crate) deadlines: BTreeSet<(Millis, JobId)>,
    pub(crate) pubsub: PubSub,
    pub(crate) stats: Stats,
    pub(crate) recent: Recent,
    pub(crate) scripts: crate::script::Scripts,
    pub(crate) prng: Prng,
    pub(crate) disk_full: bool,
    pub(crate) reserve_used: bool,
    pub(crate) throttled: bool,
    pub(crate) stopping: bool,
    /// `CLIENT PAUSE`.
    pub(crate) pause: Option<Pause>,
    /// Clients that wait for its end, in the order in which they came.
    pub(crate) held: Vec<ConnId>,
    /// When the first event came.
    pub(crate) started: Time,

    // The current turn.
    turn: u64,
    turn_begun: bool,
    pub(crate) now: Time,
    pub(crate) touched: Vec<ShardId>,
    /// Of effects that are not proposed yet.
    pub(crate) turn_bytes: usize,
    pub(crate) active: Vec<ConnId>,
    /// What the pipeline at hand looks up.
    places: Vec<Place>,
    /// Jobs of other workers' clients whose replies may be complete.
    pub(crate) replying: Vec<JobId>,
    pub(crate) effects: Vec<Effect>,
    outputs: Outputs,

    // The journal.
    pub(crate) ticket: u64,
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) in_flight_bytes: usize,

    pub(crate) upkeep: crate::upkeep::Upkeep,
    pub(crate) peers: Peers,
}

/// A frame under way to the journal.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) ticket: u64,
    pub(crate) bytes: usize,
    pub(crate) shards: Vec<(ShardId, u64)>,
    /// Messages to other nodes that wait for it.
    pub(crate) sends: Vec<(NodeId, ShardId, Vec<u8>)>,
    /// When it was handed to the journal.
    pub(crate) since: Millis,
}

/// What a worker starts with for each of its shards.
pub struct ShardStart {
    /// Its data, as its table has it.
    pub keyspace: Box<Keyspace>,
    /// Its log, as the journal has it.
    pub log: Box<dyn Log>,
    /// What its space promises.
    pub durability: Durability,
}

impl Worker {
    /// Worker `id` of the node that `config` describes, with the shards at home with it; replays
    /// what their logs say after what their tables contain. A table that cannot be read is an
    /// error, unless other nodes have what it should hold: then the replica starts without it, as
    /// [`Worker::replicas`] tells, and gets its state from them.
    pub fn new(
        id: WorkerId,
        config: Arc<Config>,
        starts: Vec<ShardStart>,
        seed: u64,
    ) -> Result<Self, ReplayError> {
        let mut db = Db::new(config.map.clone());
        let count = config.map.shards() as usize;
        let mut shards: Vec<Option<Box<Shard>>> = (0..count).map(|_| None).collect();
        let mut outputs = Outputs::default();
        let mut worker_records = Vec::new();
        let mut peers = Peers::new(config.cluster.as_ref());
        for mut start in starts {
            let shard = start.keyspace.shard();
            assert!(home(shard, config.workers) == id, "shard {shard} is not at home here");
            outputs.clear();
            let mut opened = Shard::new(shard, start.log, start.durability);
            opened.log.take(&mut outputs);
            worker_records.push((shard, std::mem::take(&mut outputs.persist), outputs.seq));
            if let Some(cluster) = &config.cluster {
                let replica = Replica::start(&mut opened, &mut start.keyspace, &mut outputs);
                let replica = match replica {
                    Err(ReplayError::Table(_)) if cluster.nodes.len() > 1 => {
                        peers.mark(RarePath::TableDamagedAtStart);
                        Replica::without_table(start.keyspace.durable().applied)
                    }
                    replica => replica?,
                };
                opened.replica = Some(Box::new(replica));
            } else {
                opened.replay(&mut start.keyspace, &mut outputs)?;
            }
            db.insert(start.keyspace);
            shards[shard as usize] = Some(Box::new(opened));
        }
        let mut worker = Self {
            id,
            settings: Settings::default(),
            commands: Arc::new(Commands::new()),
            db,
            claims: (0..count).map(|_| VecDeque::new()).collect(),
            returning: Vec::new(),
            releases: Vec::new(),
            commits: vec![0; count],
            shards,
            clients: HashMap::new(),
            jobs: BTreeMap::new(),
            next_job: 0,
            runnable: VecDeque::new(),
            resumed: Vec::new(),
            deadlines: BTreeSet::new(),
            pubsub: PubSub::default(),
            stats: Stats::default(),
            recent: Recent::default(),
            scripts: crate::script::Scripts::default(),
            prng: Prng::new(seed),
            disk_full: false,
            reserve_used: false,
            throttled: false,
            stopping: false,
            pause: None,
            held: Vec::new(),
            started: Time::default(),
            turn: 0,
            turn_begun: false,
            now: Time::default(),
            touched: Vec::new(),
            turn_bytes: 0,
            active: Vec::new(),
            places: Vec::new(),
            replying: Vec::new(),
            effects: Vec::new(),
            outputs: Outputs::default(),
            ticket: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            upkeep: crate::upkeep::Upkeep::default(),
            peers,
            config,
        };
        for (shard, records, seq) in worker_records {
            let slot = worker.shards[shard as usize].as_mut().expect("it was just put there");
            worker.commits[shard as usize] = slot.log.commit();
            if !records.is_empty() {
                slot.persists += 1;
                worker.submit(records, vec![(shard, seq)], true);
            }
            if worker.in_cluster() {
                worker.stir(shard);
            }
        }
        Ok(worker)
    }

    /// Handles one event; what is to be done is appended to `effects`.
    pub fn step(&mut self, now: Time, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.begin_turn(now);
        match event {
            Event::Received { conn, bytes } => self.on_received(conn, bytes),
            Event::Connected { conn, peer, local } => self.on_connected(conn, peer, local),
            Event::Ended { conn } => self.on_ended(conn),
            Event::Disconnected { conn } => self.on_disconnected(conn),
            Event::Backlog { conn, bytes } => self.on_backlog(conn, bytes),
            Event::Message { from, message } => self.on_message(from, *message),
            Event::Persisted { ticket } => self.on_persisted(ticket),
            Event::Flushed { shard, mark } => self.on_flushed(shard, mark),
            Event::FlushWanted { shard } => self.on_flush_wanted(shard),
            Event::DiskFull { full } => self.on_disk_full(full),
            Event::ReserveUsed { used } => self.reserve_used = used,
            Event::Throttled { on } => self.on_throttled(on),
            Event::PeerUp { node } => self.on_peer_up(node),
            Event::PeerDown { node } => self.on_peer_down(node),
            Event::Peer { from, bytes } => self.on_peer(from, bytes),
            Event::Observed { job, outside } => self.on_answer(job, Answer::Outside(outside)),
            Event::Tick => self.on_tick(),
            Event::Shutdown => self.on_shutdown(),
        }
        self.run_jobs();
        effects.append(&mut self.effects);
    }

    /// Ends the turn: propose, persist, acknowledge, reply. `now` is the time at its end: whatever
    /// came in during the turn came before.
    pub fn end_turn(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.in_cluster() {
            self.settle_replicas(now.mono.max(self.now.mono));
        } else {
            self.propose_touched();
        }
        self.send_replies(now.mono_us);
        self.cut();
        self.return_shards();
        self.turn_begun = false;
        if self.in_cluster() {
            self.expect_tick(self.next_deadline());
        }
        effects.append(&mut self.effects);
    }

    /// When [`Event::Tick`] is wanted; `None` if nothing depends on time.
    pub fn next_deadline(&self) -> Option<Millis> {
        let blocked = self.deadlines.first().map(|&(at, _)| at);
        let upkeep = self.upkeep_deadline();
        let pause = self.pause.map(|pause| pause.until);
        let replicas = if self.in_cluster() { self.replica_deadline() } else { None };
        [blocked, upkeep, pause, replicas].into_iter().flatten().min()
    }

    /// How many frames, with how many bytes, are on their way to the journal.
    pub(crate) fn journal_backlog(&self) -> (u64, u64) {
        (self.in_flight.len() as u64, self.in_flight_bytes as u64)
    }

    /// The keys of the shards that are here, expired ones included until they are removed.
    pub fn keys(&self) -> u64 {
        self.db.iter().map(Keyspace::keys).sum()
    }

    /// True while so much waits for the journal that nothing more should be read from clients. On a
    /// full disk that may last, and reads go on: writes are refused.
    pub fn is_saturated(&self) -> bool {
        self.is_behind() && !self.disk_full
    }

    /// True while as much waits for the journal as may.
    pub(crate) fn is_behind(&self) -> bool {
        self.in_flight_bytes > IN_FLIGHT_BYTES_MAX
    }

    /// True if more should be read from this client now.
    pub fn wants_input(&self, conn: ConnId) -> bool {
        !self.is_saturated() && self.clients.get(&conn).is_some_and(|client| !client.conn.paused)
    }

    /// True while a shutdown has been carried out here: nothing is left to flush, to persist or to
    /// give back. Other workers may still need something of this one, so all of them go on until
    /// all of them are stopped at once. A full disk takes no flushes: the journal has it all.
    pub fn is_stopped(&self) -> bool {
        self.stopping
            && self.in_flight.is_empty()
            && self.returning.is_empty()
            && self.jobs.values().all(|job| job.state == State::Blocked)
            && (self.disk_full || self.is_flushed())
    }

    fn begin_turn(&mut self, now: Time) {
        if self.turn_begun {
            return;
        }
        self.turn_begun = true;
        self.turn += 1;
        // Time as commands see it never goes back.
        self.now = Time {
            wall: now.wall.max(self.now.wall),
            mono: now.mono.max(self.now.mono),
            mono_us: now.mono_us.max(self.now.mono_us),
        };
        if self.turn == 1 {
            self.started = self.now;
        }
        self.recent.look(self.now.mono, &self.stats);
        if self.in_cluster() {
            self.note_lateness();
        }
        if self.pause.is_some_and(|pause| pause.until <= self.now.mono) {
            self.end_pause();
        }
    }

    // --- clients -----------------------------------------------------------------------------

    fn on_connected(&mut self, conn: ConnId, peer: String, local: String) {
        self.stats.connections += 1;
        let conn = Conn::new(conn, peer, local, self.now.mono);
        let client = Client { decoder: quorate_resp::Decoder::new(), conn };
        self.clients.insert(client.conn.id, Box::new(client));
    }

    fn on_received(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        self.stats.input_bytes += bytes.len() as u64;
        client.conn.used = self.now.mono;
        let conn = &mut client.conn;
        conn.timed.on_input(&mut conn.output, conn.commands, self.now.mono_us);
        if client.conn.parked.is_some() {
            client.conn.backlog.extend_from_slice(bytes);
        } else {
            self.feed(&mut client, bytes);
        }
        self.put_back(client);
    }

    /// Decodes and executes until the input is used up or the client is parked.
    fn feed(&mut self, client: &mut Client, mut bytes: &[u8]) {
        let Client { decoder, conn } = client;
        let mut limits = decoder.limits();
        if limits.bulk_bytes_max != self.settings.proto_max_bulk_len {
            limits.bulk_bytes_max = self.settings.proto_max_bulk_len;
            decoder.set_limits(limits);
        }
        loop {
            let mut len = bytes.len();
            if len >= PIPELINE_BYTES_MIN && decoder.pending_bytes() == 0 {
                len = self.warm(bytes).unwrap_or(len);
            }
            let (now, later) = bytes.split_at(len);
            if let Err(error) = decoder.feed(now, |args| self.on_request(conn, args)) {
                conn.reply().error(&error.reply_text());
                conn.parked = Some(Parked::Closing);
            }
            if later.is_empty() || conn.parked.is_some() {
                conn.backlog.extend_from_slice(later);
                break;
            }
            bytes = later;
        }
        if decoder.pending_bytes() > self.config.query_buffer_bytes_max {
            conn.parked = Some(Parked::Closing);
        }
    }

    /// Fetches what the first commands of a pipeline are going to look up. Returns how many bytes
    /// these commands take, if they are more than one.
    fn warm(&mut self, bytes: &[u8]) -> Option<usize> {
        self.places.clear();
        let (map, places) = (self.db.map(), &mut self.places);
        let len = look_ahead(bytes, WARM_MAX, |word| places.push(map.place(word)));
        if self.places.len() < 2 {
            return None;
        }
        self.db.warm(&self.places);
        Some(len)
    }

    /// Goes on with what a client sent while it was parked.
    fn resume(&mut self, id: ConnId) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        if client.conn.output.is_muted() && client.conn.parked.is_none() {
            self.silence(&mut client.conn);
        }
        while client.conn.parked.is_none() {
            if let Some(held) = client.conn.held.take() {
                client.conn.commands -= 1;
                self.stats.commands -= 1;
                let _ = self.on_request(&mut client.conn, &held.slices());
                continue;
            }
            let backlog = std::mem::take(&mut client.conn.backlog);
            let before = client.decoder.pending_bytes();
            if backlog.is_empty() && before == 0 {
                break;
            }
            self.feed(&mut client, &backlog);
            if backlog.is_empty() && client.decoder.pending_bytes() == before {
                break;
            }
        }
        self.put_back(client);
        self.close_if_ended(id);
    }

    fn on_ended(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.conn.ended = true;
        self.close_if_ended(id);
    }

    /// Closes a client that will send nothing more: once nothing of what it sent is left to
    /// execute, or at once if it waits for what may never come.
    pub(crate) fn close_if_ended(&mut self, id: ConnId) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.conn.ended) else {
            return;
        };
        let conn = &mut client.conn;
        let waits = match conn.parked {
            None if conn.backlog.is_empty() && conn.held.is_none() => {
                conn.parked = Some(Parked::Closing);
                return self.activate(id);
            }
            Some(Parked::Job(job)) => {
                self.jobs.get(&job).is_some_and(|job| job.state == State::Blocked)
            }
            Some(Parked::Slot(_)) => true,
            None | Some(Parked::Paused | Parked::Closing) => false,
        };
        if waits {
            self.effects.push(Effect::Close { conn: id });
            self.on_disconnected(id);
        }
    }

    /// Ends the handling of a client that was taken out of the map.
    pub(crate) fn put_back(&mut self, mut client: Box<Client>) {
        let conn = &mut client.conn;
        conn.update_paused();
        if !conn.active && (!conn.output.is_empty() || conn.parked == Some(Parked::Closing)) {
            conn.active = true;
            self.active.push(conn.id);
        }
        conn.timed.on_handled(&conn.output, conn.parked.is_some(), conn.last, conn.commands);
        self.clients.insert(client.conn.id, client);
    }

    fn on_backlog(&mut self, id: ConnId, bytes: usize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let conn = &mut client.conn;
        conn.unsent = bytes;
        conn.update_paused();
    }

    pub(crate) fn on_disconnected(&mut self, id: ConnId) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let conn = &mut client.conn;
        self.unwatch(conn);
        self.unsubscribe_all(conn);
        if let Some(Parked::Job(job)) = conn.parked {
            self.cancel(job);
        }
        for worker in std::mem::take(&mut conn.forwarded) {
            if worker == self.id {
                self.forget_client(worker, id);
            } else {
                self.tell(worker, Message::Gone { conn: id });
            }
        }
    }

    /// Marks a client as having something to send.
    pub(crate) fn activate(&mut self, id: ConnId) {
        if let Some(client) = self.clients.get_mut(&id)
            && !client.conn.active
        {
            client.conn.active = true;
            self.active.push(id);
        }
    }

    // --- executing ---------------------------------------------------------------------------

    /// True if commands may use this shard at once: it is at home, here, and unclaimed.
    #[inline]
    pub(crate) fn is_free(&self, shard: ShardId) -> bool {
        self.shards[shard as usize].is_some()
            && self.claims[shard as usize].is_empty()
            && home(shard, self.config.workers) == self.id
    }

    /// Executes a command all of whose shards are free.
    #[inline]
    pub(crate) fn execute_now(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: &[&[u8]],
        shards: &ShardList,
    ) {
        let proto = conn.proto;
        let outcome = self.execute(&mut conn.output, proto, spec, args, shards, Mode::default());
        if spec.flags & flag::SCRIPT != 0 && std::mem::take(&mut self.scripts.wants_all) {
            let work = Work::Command { command: Command::Data(spec), args: Args::new(args) };
            let all: Vec<ShardId> = (0..self.db.map().shards()).collect();
            return self.park(conn, work, &all);
        }
        if let Some(block) = outcome {
            let keys = keys_of(spec, args);
            let work = Work::Command { command: Command::Data(spec), args: owned(args, &block) };
            let job = self.new_job(Origin::Local(conn.id), conn.proto, work, shards);
            conn.parked = Some(Parked::Job(job.id));
            self.block(job, keys, &block);
        }
    }

    /// Executes a data command whose shards are all here and writes its reply to `output`, unless
    /// it wants to wait.
    pub(crate) fn execute(
        &mut self,
        output: &mut Output,
        proto: Proto,
        spec: &Spec,
        args: &[&[u8]],
        shards: &[ShardId],
        mode: Mode,
    ) -> Option<Block> {
        if !mode.in_transaction {
            self.bound_turn();
        } else if self.turn_bytes >= TRANSACTION_BYTES_MAX && spec.flags & flag::WRITES != 0 {
            Reply::new(output.buffer(), proto).error(TRANSACTION_TOO_LARGE);
            self.stats.errors += 1;
            return None;
        }
        for &shard in shards {
            self.touch(shard);
        }
        let start = output.mark();
        let before: SmallCounts = shards.iter().map(|&s| self.batch_bytes(s)).collect();
        let (result, blocked) = if spec.flags & flag::SCRIPT != 0 {
            let (now, in_transaction) = (self.now.wall, mode.in_transaction);
            let scene = Scene { shards, now, in_transaction };
            (self.run_script(spec, args, &scene, proto, output.buffer()), None)
        } else {
            let mut ctx = Ctx {
                db: &mut self.db,
                prng: &mut self.prng,
                reply: Reply::new(output.buffer(), proto),
                settings: &self.settings,
                now: self.now.wall,
                in_transaction: mode.in_transaction,
                retried: mode.retried,
                blocked: None,
            };
            let result = (spec.run)(&mut ctx, args);
            (result, ctx.blocked.take())
        };
        if self.scripts.wants_all {
            output.buffer().truncate(start);
        } else if let Err(error) = result {
            let mut reply = Reply::new(output.buffer(), proto);
            reply.truncate(start);
            reply.error(error.to_string().as_bytes());
            self.stats.errors += 1;
        }
        for (&shard, &before) in shards.iter().zip(&before) {
            self.hold_reply(output, start, shard, before);
        }
        if spec.flags & flag::SCRIPT != 0 {
            for (shard, before) in std::mem::take(&mut self.scripts.widened) {
                self.hold_reply(output, start, shard, before);
            }
        }
        blocked
    }

    /// Begins another turn if this one has changed so much that its frame would grow too long.
    #[inline]
    pub(crate) fn bound_turn(&mut self) {
        if self.turn_bytes >= TURN_BYTES_MAX {
            self.propose_touched();
            self.turn += 1;
        }
    }

    /// Makes a reply wait for what the command changed in `shard`, or for what it read there.
    #[inline]
    fn hold_reply(&mut self, output: &mut Output, start: usize, shard: ShardId, before: usize) {
        let keyspace = self.db.get(shard).expect("it was just used");
        let changed = keyspace.batch().len() != before;
        self.turn_bytes += keyspace.batch().len() - before;
        let slot = self.shards[shard as usize].as_mut().expect("it was just used");
        let index = if changed {
            if !slot.touched {
                slot.touched = true;
                self.touched.push(shard);
            }
            slot.log.next_index()
        } else {
            keyspace.observed().min(if slot.touched {
                slot.log.next_index()
            } else {
                slot.log.last_index()
            })
        };
        if index > self.commits[shard as usize] && output.hold(start, shard, index) {
            let owner = output.owner;
            if slot.waiting.back() != Some(&(index, owner)) {
                slot.waiting.push_back((index, owner));
            }
        }
        if changed {
            self.wake_waiters(shard);
        }
    }

    /// Prepares a shard for its first command of this turn.
    #[inline]
    pub(crate) fn touch(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        let keyspace = self.db.shard(shard);
        slot.uses += 1;
        slot.commands += 1;
        if slot.turn != self.turn {
            slot.turn = self.turn;
            // Logged time never goes back, whoever leads.
            let logged = if slot.replica.is_some() { keyspace.now() } else { 0 };
            keyspace.begin_batch(slot.log.next_index(), self.now.wall.max(logged));
        }
        keyspace.reset_observed();
    }

    pub(crate) fn batch_bytes(&self, shard: ShardId) -> usize {
        self.db.get(shard).map_or(0, |k| k.batch().len())
    }

    /// Notes that upkeep changed a shard outside of any command, whose batch had so many bytes
    /// before.
    pub(crate) fn changed(&mut self, shard: ShardId, before: usize) {
        self.turn_bytes += self.batch_bytes(shard) - before;
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        if !slot.touched && self.db.get(shard).is_some_and(|k| !k.batch().is_empty()) {
            slot.touched = true;
            self.touched.push(shard);
        }
    }

    // --- the end of a turn -------------------------------------------------------------------

    fn propose_touched(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        self.turn_bytes = 0;
        let touched = std::mem::take(&mut self.touched);
        let mut records = Vec::with_capacity(touched.len());
        let mut pending = Vec::new();
        let mut sync = false;
        for &shard in &touched {
            let slot = self.shards[shard as usize].as_mut().expect("touched shards stay");
            slot.touched = false;
            let payload = self.db.shard(shard).take_batch();
            let index = slot.log.propose(payload).expect("commands execute only where they lead");
            self.outputs.clear();
            slot.log.take(&mut self.outputs);
            records.append(&mut self.outputs.persist);
            match slot.durability {
                Durability::Sync => {
                    sync = true;
                    slot.persists += 1;
                    pending.push((shard, self.outputs.seq));
                }
                Durability::Relaxed => {
                    slot.log.persisted(self.outputs.seq);
                    self.commit(shard);
                }
            }
            debug_assert!(index > 0);
        }
        self.submit(records, pending, sync);
        for &shard in &touched {
            self.flush_if_due(shard);
            // A relaxed shard is quiet from now on, and whoever came during this turn may have it.
            self.pump(shard);
        }
        self.touched = touched;
        self.touched.clear();
    }

    fn submit(&mut self, records: Vec<Record>, shards: Vec<(ShardId, u64)>, sync: bool) {
        if records.is_empty() {
            return;
        }
        self.ticket += 1;
        let bytes = records.iter().map(record_bytes).sum();
        self.in_flight_bytes += bytes;
        let (ticket, since, sends) = (self.ticket, self.now.mono, Vec::new());
        self.in_flight.push_back(InFlight { ticket, bytes, shards, sends, since });
        self.effects.push(Effect::Persist(Frame { ticket: self.ticket, records, sync }));
    }

    fn on_persisted(&mut self, ticket: u64) {
        while self.in_flight.front().is_some_and(|f| f.ticket <= ticket) {
            let frame = self.in_flight.pop_front().expect("the front was just seen");
            self.in_flight_bytes -= frame.bytes;
            if self.in_cluster() {
                self.replicas_persisted(frame);
                continue;
            }
            for (shard, seq) in frame.shards {
                let slot = self.shards[shard as usize].as_mut().expect("it stays until quiet");
                slot.persists -= 1;
                slot.log.persisted(seq);
                self.commit(shard);
                self.pump(shard);
            }
        }
    }

    /// Takes notice of what the log of `shard` has committed.
    pub(crate) fn commit(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        self.outputs.clear();
        slot.log.take(&mut self.outputs);
        let commit = self.outputs.commit;
        debug_assert!(self.outputs.persist.is_empty() && self.outputs.committed.is_empty());
        slot.log.applied(commit);
        slot.log.compact(commit);
        self.commits[shard as usize] = commit;
        while let Some(&(index, owner)) = slot.waiting.front()
            && index <= commit
        {
            slot.waiting.pop_front();
            match owner {
                Owner::Job(job) => self.replying.push(job),
                Owner::Conn(conn) => {
                    if let Some(client) = self.clients.get_mut(&conn)
                        && !client.conn.active
                    {
                        client.conn.active = true;
                        self.active.push(conn);
                    }
                }
            }
        }
        self.release_flush(shard);
    }

    fn send_replies(&mut self, now_us: u64) {
        let mut replying = std::mem::take(&mut self.replying);
        for id in replying.drain(..) {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let (State::Replying, Some(output)) = (&job.state, &mut job.output) else { continue };
            let bytes = output.take(|shard| self.commits[shard as usize]);
            if !output.is_empty() {
                // Some of it is held back: what may leave waits with it.
                output.put_first(bytes);
                continue;
            }
            let Origin::Remote { worker, conn, slot } = job.origin else { continue };
            let message = Box::new(Message::Reply { conn, slot, bytes });
            self.effects.push(Effect::Message { to: worker, message });
            self.jobs.remove(&id);
        }
        self.replying = replying;
        let mut active = std::mem::take(&mut self.active);
        for id in active.drain(..) {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let conn = &mut client.conn;
            conn.active = false;
            let bytes = conn.output.take(|shard| self.commits[shard as usize]);
            conn.timed.on_taken(&conn.output, conn.commands, now_us, &mut self.stats.latency);
            if !bytes.is_empty() {
                conn.update_paused();
                self.stats.output_bytes += bytes.len() as u64;
                self.effects.push(Effect::Send { conn: id, bytes });
            }
            if conn.parked == Some(Parked::Closing) && conn.output.is_empty() {
                self.effects.push(Effect::Close { conn: id });
                self.on_disconnected(id);
            }
        }
        active.append(&mut self.active);
        self.active = active;
    }

    // --- other workers -----------------------------------------------------------------------

    pub(crate) fn tell(&mut self, to: WorkerId, message: Message) {
        self.effects.push(Effect::Message { to, message: Box::new(message) });
    }

    fn on_message(&mut self, from: WorkerId, message: Message) {
        match message {
            Message::Forward(forwarded) => self.on_forward(from, forwarded),
            Message::Reply { conn, slot, bytes } => self.on_reply(conn, slot, bytes),
            Message::Request(requested) => {
                let Requested { shard, origin, proto, body } = *requested;
                self.on_client_request(shard, origin, proto, body);
            }
            Message::Part { gather, shard, reply } => self.on_part(gather, shard, reply),
            Message::Gone { conn } => self.on_gone(from, conn),
            Message::Borrow { job, shards } => self.on_borrow(from, job, &shards),
            Message::Lend { job, shards } => self.on_lend(job, shards),
            Message::Return { shards } => self.on_return(shards),
            Message::Wake { job } => self.wake(job),
            Message::Release { shard, key, job } => self.release_waiter(shard, key, from, job),
            Message::Registered(registration) => self.pubsub.register(from, registration),
            Message::Publish { sharded, channel, payload } => {
                self.deliver(sharded, &channel, &payload);
            }
            Message::Ask { job, question } => self.on_ask(from, job, &question),
            Message::Answer { job, answer } => self.on_answer(job, answer),
        }
    }

    pub(crate) fn on_reply(&mut self, id: ConnId, slot: u64, bytes: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let conn = &mut client.conn;
        let for_us = bytes.first() == Some(&TOKENS);
        let bytes = if for_us { Self::take_tokens(conn, &bytes) } else { bytes };
        conn.output.fill(slot, bytes);
        conn.update_paused();
        if conn.parked == Some(Parked::Slot(slot)) {
            conn.parked = None;
            self.resumed.push(id);
        }
        self.activate(id);
    }

    /// Everything there is to do without a further event: jobs that can go on, clients that are
    /// no longer parked.
    pub(crate) fn run_jobs(&mut self) {
        loop {
            if let Some(job) = self.runnable.pop_front() {
                self.advance(job);
            } else if let Some(conn) = self.resumed.pop() {
                self.resume(conn);
            } else if !self.peers.deliveries.is_empty() {
                self.deliver_answers();
            } else {
                return;
            }
        }
    }

    pub(crate) fn next_job_id(&mut self) -> JobId {
        self.next_job += 1;
        self.next_job
    }

    /// Takes a shard out to lend or return it.
    pub(crate) fn take_shard(&mut self, shard: ShardId) -> Travelling {
        let slot = self.shards[shard as usize].take().expect("the caller saw it here");
        let keyspace = self.db.remove(shard).expect("log and data stay together");
        assert!(slot.is_quiet(), "shard {shard} leaves while something of it is under way");
        Travelling { shard: slot, keyspace }
    }

    /// Takes in a shard that was lent or returned.
    pub(crate) fn put_shard(&mut self, travelling: Travelling) {
        let Travelling { mut shard, keyspace } = travelling;
        let id = shard.id;
        shard.turn = 0;
        self.commits[id as usize] = shard.log.commit();
        self.db.insert(keyspace);
        self.shards[id as usize] = Some(shard);
    }
}

/// Commands of clients wait until a time comes (`CLIENT PAUSE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until: Millis,
    /// All commands wait, not only those that may write.
    pub(crate) all: bool,
}

/// How a command executes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    pub(crate) in_transaction: bool,
    pub(crate) retried: bool,
}

pub(crate) const TRANSACTION_TOO_LARGE: &[u8] =
    b"ERR The transaction has changed too much already: split it into smaller ones";

type SmallCounts = smallvec::SmallVec<[usize; 4]>;

/// The keys of a command, in order.
pub(crate) fn keys_of(spec: &Spec, args: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut positions = quorate_data::command::KeyPositions::new();
    spec.key_positions(args, &mut positions);
    positions.iter().filter_map(|&at| args.get(at)).map(|key| key.to_vec()).collect()
}

/// The arguments with which a blocked command is tried again.
pub(crate) fn owned(args: &[&[u8]], block: &Block) -> crate::job::Args {
    match &block.rewritten {
        None => crate::job::Args::new(args),
        Some(rewritten) => {
            let slices: Vec<&[u8]> = rewritten.iter().map(Vec::as_slice).collect();
            crate::job::Args::new(&slices)
        }
    }
}

pub(crate) fn record_bytes(record: &Record) -> usize {
    match &record.body {
        quorate_log::Body::Entry(entry) => entry.payload.len() + 32,
        quorate_log::Body::State(state) => state.len() + 32,
    }
}
