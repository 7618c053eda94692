//! A shard's replica in a cluster: what its log wants done, and what leading and following mean.
//!
//! ```text
//! replica.rs            the log's outputs, gaining and losing leadership, time
//! replica/routing.rs    a client's command → the shard's home at this node
//! replica/gateway.rs    that home → the leader, wherever it is; retries; the one table of requests
//! replica/serving.rs    at the leader: execute, hold the reply, answer
//! replica/fanout.rs     commands over the whole keyspace
//! replica/snapshot.rs   the state for a replica that is too far behind
//! replica/gray.rs       a node that is slow hands over what it leads
//! ```
//!
//! A leader executes a command at once, in memory, and holds the reply until its entry is
//! committed. Memory is therefore ahead of what is agreed on. Whoever stops leading while it is
//! drops what it has in memory and starts again from its table and the agreed log (*rebuilding*).
//!
//! Invariants: memory holds the effects of all entries up to `memory` and no others. A follower's
//! `memory` never passes the commit index. Commands execute only where the log accepts proposals,
//! which includes that everything of earlier leaders is in memory.

pub(crate) mod fanout;
pub(crate) mod gateway;
pub(crate) mod gray;
pub(crate) mod routing;
pub(crate) mod serving;
pub(crate) mod snapshot;

use crate::config;
use crate::event::{Effect, Frame};
use crate::job::Origin;
use crate::peer::message::{PeerMessage, Refusal};
use crate::peer::{self, Address};
use crate::shard::Shard;
use crate::status::{PeerAbout, PeerStatus};
use crate::worker::{InFlight, Worker, record_bytes};
use gateway::Gateway;
use quorate_base::ids::NodeId;
use quorate_base::mutation::{self, Mutation};
use quorate_base::rare::{RarePath, Reached};
use quorate_base::{Index, Millis, ShardId};
use quorate_data::Keyspace;
use quorate_data::effects::ReplayError;
use quorate_log::{Outputs, Record};
use serving::Held;
use snapshot::{Installing, Sending};
use std::collections::{BTreeMap, BTreeSet};

/// What a replica is about.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It follows, or leads.
    Serving,
    /// Its memory is ahead of what is agreed on and must go, once the flush under way has ended.
    Rebuilding,
    /// Its table cannot be read: it waits for a leader's state.
    Damaged {
        /// Its log knows.
        told: bool,
        /// When it asks the leader again.
        ask_at: Millis,
    },
    /// Its state is being replaced by a leader's.
    Installing(Box<Installing>),
}

/// The replica of one shard in a cluster.
#[derive(Debug)]
pub(crate) struct Replica {
    /// The last entry whose effects memory holds.
    pub(crate) memory: Index,
    /// The empty entry that opened the leadership under way.
    opening: Option<Index>,
    /// The last entry that the log knows to be in memory.
    told: Index,
    pub(crate) phase: Phase,
    /// When it is in the worker's list of deadlines.
    deadline: Option<Millis>,
    /// The leader and whether commands execute here, as last looked at.
    seen: (Option<NodeId>, bool),
    pub(crate) reads: Reads,
    pub(crate) held: Held,
    /// Of each gateway: its link, and the first round of requests that is not refused.
    pub(crate) rounds: BTreeMap<NodeId, (u64, u64)>,
    pub(crate) gateway: Gateway,
    /// Snapshots on their way to followers.
    pub(crate) sending: BTreeMap<NodeId, Sending>,
    /// What the table must contain before the node stops.
    pub(crate) stop_at: Index,
}

/// Read barriers: reads of one turn share one.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last one, which the log is asked for at the end of the turn.
    asked: u64,
    /// It was not asked for yet, so reads may join it.
    open: bool,
    /// The last one that was passed.
    pub(crate) passed: u64,
}

/// What a worker knows of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// This node; 0 if it stands alone.
    pub(crate) node: NodeId,
    /// All nodes, ascending.
    pub(crate) nodes: Vec<NodeId>,
    links: BTreeMap<NodeId, Link>,
    links_ever: u64,
    /// Replicas whose logs may want something.
    stirred: Vec<ShardId>,
    deadlines: BTreeSet<(Millis, ShardId)>,
    outputs: Outputs,
    /// The frame of this turn, and what waits for it.
    records: Vec<Record>,
    written: Vec<(ShardId, u64)>,
    sends: Vec<(NodeId, ShardId, Vec<u8>)>,
    /// Answers to requests of this node's clients.
    pub(crate) deliveries: Vec<(Origin, Vec<u8>)>,
    pub(crate) gathers: fanout::Gathers,
    pub(crate) gray: gray::Gray,
    /// The shard whose table could not be read by the command that executes.
    pub(crate) damaged: Option<ShardId>,
    reached: Reached,
}

/// The way to another node.
#[derive(Debug, Default)]
struct Link {
    /// Another number each time it comes up; 0 while it is down.
    session: u64,
    parcel: Vec<u8>,
    /// When it came up or went down, by the wall clock; 0 if it never did.
    since: Millis,
    /// What the node there told of itself.
    about: Option<PeerAbout>,
}

impl Peers {
    pub(crate) fn new(cluster: Option<&config::Cluster>) -> Self {
        let Some(cluster) = cluster else { return Self::default() };
        let others = cluster.nodes.iter().filter(|node| **node != cluster.node);
        Self {
            node: cluster.node,
            nodes: cluster.nodes.clone(),
            links: others.map(|node| (*node, Link::default())).collect(),
            ..Self::default()
        }
    }

    /// The session of the link to `node`, while it is up.
    pub(crate) fn link(&self, node: NodeId) -> Option<u64> {
        self.links.get(&node).map(|link| link.session).filter(|session| *session != 0)
    }

    /// How the links are, in a node that started at this time.
    pub(crate) fn status(&self, started: Millis) -> Vec<PeerStatus> {
        let status = |(&node, link): (&NodeId, &Link)| PeerStatus {
            node,
            up: link.session != 0,
            since: if link.since == 0 { started } else { link.since },
            about: link.about.clone(),
        };
        self.links.iter().map(status).collect()
    }

    /// Whether this node reaches a majority, itself included.
    pub(crate) fn has_quorum(&self) -> bool {
        let up = self.links.values().filter(|link| link.session != 0).count() + 1;
        up > self.nodes.len() / 2
    }

    /// Counts that the code came by a place that it seldom comes by.
    pub(crate) fn mark(&mut self, path: RarePath) {
        self.reached.mark(path);
    }
}

impl Replica {
    pub(crate) fn new(memory: Index) -> Self {
        Self {
            memory,
            opening: None,
            told: memory,
            phase: Phase::Serving,
            deadline: None,
            seen: (None, false),
            reads: Reads::default(),
            held: Held::default(),
            rounds: BTreeMap::new(),
            gateway: Gateway::default(),
            sending: BTreeMap::new(),
            stop_at: 0,
        }
    }

    /// The replica of a shard whose node starts: replays what the log hands out on top of what the
    /// table holds.
    pub(crate) fn start(
        shard: &mut Shard,
        keyspace: &mut Keyspace,
        outputs: &mut Outputs,
    ) -> Result<Self, ReplayError> {
        if shard.log.is_lost() && keyspace.durable().applied == 0 {
            // It may hold a part of a snapshot.
            keyspace.distrust_table();
        } else if !mutation::active(Mutation::ApplyTwice) {
            keyspace.load_requests()?;
        }
        shard.replay(keyspace, outputs)?;
        Ok(Self::new(shard.log.commit()))
    }

    /// The replica of a shard whose node starts and cannot read its table, which contains the log
    /// up to `durable`. It waits for a leader's state.
    pub(crate) fn without_table(durable: Index) -> Self {
        Self { phase: Phase::Damaged { told: false, ask_at: 0 }, ..Self::new(durable) }
    }
}

/// How one replica stands, for tests and operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Whose it is.
    pub shard: ShardId,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// Whether it leads.
    pub leads: bool,
    /// The log's term.
    pub term: u64,
    /// What is agreed on, as far as it knows.
    pub commit: Index,
    /// What memory holds.
    pub memory: Index,
    /// It has lost what it once acknowledged and is catching up.
    pub lost: bool,
    /// It neither rebuilds nor installs.
    pub serving: bool,
}

impl Worker {
    /// The rare paths that this worker and the logs of its shards came by.
    pub fn reached(&self) -> Reached {
        let mut all = self.peers.reached.clone();
        self.shards.iter().flatten().for_each(|slot| all.add(slot.log.reached()));
        all
    }

    /// How this worker's replicas stand; empty for a node that stands alone.
    pub fn replicas(&self) -> Vec<ReplicaView> {
        let view = |slot: &crate::shard::Shard| {
            let replica = slot.replica.as_ref()?;
            Some(ReplicaView {
                shard: slot.id,
                leader: slot.log.leader(),
                leads: slot.log.is_leader(),
                term: slot.log.term(),
                commit: slot.log.commit(),
                memory: replica.memory,
                lost: slot.log.is_lost(),
                serving: matches!(replica.phase, Phase::Serving),
            })
        };
        self.shards.iter().flatten().filter_map(|slot| view(slot)).collect()
    }

    /// True if every shard is replicated.
    #[inline]
    pub(crate) fn in_cluster(&self) -> bool {
        self.peers.node != 0
    }

    /// The replica of a shard, in a cluster, at its home.
    pub(crate) fn replica(&mut self, shard: ShardId) -> &mut Replica {
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        slot.replica.as_mut().expect("shards of a cluster have replicas")
    }

    /// True if memory is what the log says; always for a node that stands alone.
    pub(crate) fn is_serving(&self, shard: ShardId) -> bool {
        let slot = self.shards[shard as usize].as_ref();
        let replica = slot.and_then(|slot| slot.replica.as_ref());
        replica.is_none_or(|replica| matches!(replica.phase, Phase::Serving))
    }

    /// A flush has ended for which a rebuild, or the beginning of a snapshot, waits.
    pub(crate) fn go_on_after_flush(&mut self, shard: ShardId) {
        match self.replica(shard).phase {
            Phase::Serving | Phase::Damaged { .. } => {}
            Phase::Rebuilding => self.rebuild(shard),
            Phase::Installing(_) => self.install_more(shard),
        }
    }

    /// True if commands execute here.
    pub(crate) fn leads(&self, shard: ShardId) -> bool {
        self.shards[shard as usize]
            .as_ref()
            .is_some_and(|slot| self.is_serving(shard) && slot.log.accepts())
    }

    /// Has the shard's log looked at before the turn ends.
    pub(crate) fn stir(&mut self, shard: ShardId) {
        self.peers.stirred.push(shard);
    }

    /// Puts a message into this turn's parcel for `to`.
    pub(crate) fn post(&mut self, to: NodeId, address: Address, message: &PeerMessage) {
        if let Some(link) = self.peers.links.get_mut(&to)
            && link.session != 0
        {
            peer::put(&mut link.parcel, address, &message.encode());
        }
    }

    fn post_raft(&mut self, to: NodeId, shard: ShardId, bytes: Vec<u8>) {
        self.post(to, Address::Shard(shard), &PeerMessage::Raft(bytes));
    }

    // --- links -------------------------------------------------------------------------------

    pub(crate) fn on_peer_up(&mut self, node: NodeId) {
        let Some(link) = self.peers.links.get_mut(&node) else { return };
        self.peers.links_ever += 1;
        link.session = self.peers.links_ever;
        link.since = self.now.wall;
        link.parcel.clear();
        self.introduce(node);
        let quorum = self.peers.has_quorum();
        for shard in 0..self.shards.len() as ShardId {
            let Some(slot) = self.shards[shard as usize].as_mut() else { continue };
            slot.log.link_reset(node);
            // One of the nodes takes the lead at once where there never was a leader.
            let nodes = &self.peers.nodes;
            let first = nodes[shard as usize % nodes.len()] == self.peers.node;
            if quorum && first && slot.log.leader().is_none() {
                slot.log.tick(self.now.mono);
                slot.log.campaign();
            }
            self.stir(shard);
            self.pump_requests(shard);
        }
    }

    pub(crate) fn on_peer_down(&mut self, node: NodeId) {
        let Some(link) = self.peers.links.get_mut(&node) else { return };
        link.session = 0;
        link.since = self.now.wall;
        link.parcel.clear();
        for shard in 0..self.shards.len() as ShardId {
            if self.shards[shard as usize].is_none() {
                continue;
            }
            self.propose_one(shard);
            let now = self.now.mono;
            let slot = self.shards[shard as usize].as_mut().expect("it was just seen");
            slot.log.link_reset(node);
            slot.log.peer_gone(now, node);
            let replica = self.replica(shard);
            replica.sending.remove(&node);
            replica.rounds.remove(&node);
            self.stop_asked_by(shard, node);
            self.stir(shard);
            self.pump_requests(shard);
        }
    }

    /// Handles this worker's part of another node's parcel.
    pub(crate) fn on_peer(&mut self, from: NodeId, bytes: &[u8]) {
        if self.peers.link(from).is_none() {
            return;
        }
        let mut reader = quorate_base::codec::Reader::new(bytes);
        while let Some((address, body)) = peer::next(&mut reader) {
            // What makes no sense was not sent by a node of ours; the link vouches for the rest.
            let Some(message) = PeerMessage::decode(body) else { continue };
            match address {
                Address::Shard(shard) => self.on_shard_message(from, shard, message),
                Address::Worker(_) => self.on_worker_message(from, message),
            }
        }
    }

    /// Tells a node that was just linked what it may want to know of this one.
    fn introduce(&mut self, node: NodeId) {
        let about = &self.config.about;
        if self.id == 0 && !about.client_address.is_empty() {
            let about = PeerAbout {
                client_address: about.client_address.clone(),
                version: about.version.clone(),
            };
            self.post(node, Address::Worker(0), &PeerMessage::About(about));
        }
    }

    fn on_worker_message(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Publish { sharded, channel, payload } => {
                self.publish_here(sharded, &channel, &payload);
            }
            PeerMessage::About(about) => {
                if let Some(link) = self.peers.links.get_mut(&from) {
                    link.about = Some(about);
                }
            }
            PeerMessage::Ping { stamp } => {
                self.post(from, Address::Worker(0), &PeerMessage::Pong { stamp });
            }
            PeerMessage::Pong { stamp } => {
                self.effects.push(Effect::RoundTrip { node: from, stamp });
            }
            _ => {}
        }
    }

    fn on_shard_message(&mut self, from: NodeId, shard: ShardId, message: PeerMessage) {
        if self.shards.get(shard as usize).is_none_or(Option::is_none) {
            return;
        }
        match message {
            PeerMessage::Raft(bytes) => {
                self.propose_one(shard);
                let now = self.now.mono;
                let slot = self.shards[shard as usize].as_mut().expect("it was just seen");
                slot.log.step(now, from, &bytes);
                self.drain(shard);
            }
            PeerMessage::Request(request) => self.on_request_of(from, shard, request),
            PeerMessage::Answer { ticket, reply } => self.answered(shard, ticket, reply),
            PeerMessage::Refused { round, ticket, why } => {
                self.refused(shard, from, round, ticket, why);
            }
            PeerMessage::Cancel { ticket, how } => self.cancel_asked(shard, from, ticket, how),
            PeerMessage::Chunk(chunk) => self.on_chunk(from, shard, chunk),
            PeerMessage::Received { transfer, number } => {
                self.on_chunk_received(from, shard, transfer, number);
            }
            PeerMessage::Want => self.on_want(shard, from),
            PeerMessage::Publish { .. }
            | PeerMessage::About(_)
            | PeerMessage::Ping { .. }
            | PeerMessage::Pong { .. } => {}
        }
    }

    // --- time --------------------------------------------------------------------------------

    pub(crate) fn replica_deadline(&self) -> Option<Millis> {
        let first = self.peers.deadlines.first().map(|&(at, _)| at);
        [first, self.gray_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn tick_replicas(&mut self) {
        while let Some(&(at, shard)) = self.peers.deadlines.first()
            && at <= self.now.mono
        {
            self.peers.deadlines.pop_first();
            self.replica(shard).deadline = None;
            self.propose_one(shard);
            let now = self.now.mono;
            let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
            slot.log.tick(now);
            self.drain(shard);
            self.time_out_requests(shard);
            self.pump_requests(shard);
            self.stir(shard);
        }
        self.look_for_gray_failures();
    }

    // --- the log's outputs -------------------------------------------------------------------

    /// Proposes what the commands of this turn changed in a shard, before anything else can change
    /// the role of its replica.
    pub(crate) fn propose_one(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        if !std::mem::take(&mut slot.touched) {
            return;
        }
        // The next command begins another batch.
        slot.turn = 0;
        let payload = self.db.shard(shard).take_batch();
        let index = slot.log.propose(payload).expect("commands execute only where they lead");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        replica.memory = index;
        self.stir(shard);
    }

    /// Does what the logs want until none wants anything: the last part of a turn.
    pub(crate) fn settle_replicas(&mut self, end: Millis) {
        loop {
            for shard in std::mem::take(&mut self.touched) {
                self.propose_one(shard);
            }
            self.turn_bytes = 0;
            let mut stirred = std::mem::take(&mut self.peers.stirred);
            stirred.sort_unstable();
            stirred.dedup();
            for shard in stirred {
                self.ask_for_reads(shard, end);
                self.drain(shard);
            }
            self.run_jobs();
            if self.touched.is_empty() && self.peers.stirred.is_empty() {
                return self.submit_replicas();
            }
        }
    }

    fn submit_replicas(&mut self) {
        let records = std::mem::take(&mut self.peers.records);
        let shards = std::mem::take(&mut self.peers.written);
        let sends = std::mem::take(&mut self.peers.sends);
        if !records.is_empty() {
            self.ticket += 1;
            let bytes = records.iter().map(record_bytes).sum();
            self.in_flight_bytes += bytes;
            let (ticket, since, sync) = (self.ticket, self.now.mono, !shards.is_empty());
            self.in_flight.push_back(InFlight { ticket, bytes, shards, sends, since });
            self.effects.push(Effect::Persist(Frame { ticket, records, sync }));
        } else if let Some(last) = self.in_flight.back_mut() {
            last.sends.extend(sends);
        } else {
            for (to, shard, bytes) in sends {
                self.post_raft(to, shard, bytes);
            }
        }
        for (&to, link) in &mut self.peers.links {
            if !link.parcel.is_empty() {
                let bytes = std::mem::take(&mut link.parcel);
                self.effects.push(Effect::Peer { to, bytes });
            }
        }
    }

    /// A frame of the journal is durable.
    pub(crate) fn replicas_persisted(&mut self, frame: InFlight) {
        for (shard, seq) in frame.shards {
            self.propose_one(shard);
            let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
            slot.persists -= 1;
            slot.log.persisted(seq);
            self.drain(shard);
            self.install_more(shard);
        }
        for (to, shard, bytes) in frame.sends {
            self.post_raft(to, shard, bytes);
        }
    }

    fn set_deadline(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_ref().expect("replicas stay at home");
        let replica = slot.replica.as_ref().expect("shards of a cluster have replicas");
        let ask_at = match replica.phase {
            Phase::Damaged { ask_at, .. } => Some(ask_at),
            _ => None,
        };
        let wanted = [slot.log.next_deadline(), replica.gateway.deadline(), ask_at];
        let wanted = wanted.into_iter().flatten().min();
        let old = replica.deadline;
        if wanted == old {
            return;
        }
        if let Some(at) = old {
            self.peers.deadlines.remove(&(at, shard));
        }
        if let Some(at) = wanted {
            self.peers.deadlines.insert((at, shard));
        }
        self.replica(shard).deadline = wanted;
    }

    /// Takes what the log of `shard` has put out, and carries it out.
    pub(crate) fn drain(&mut self, shard: ShardId) {
        let mut out = std::mem::take(&mut self.peers.outputs);
        loop {
            let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
            out.clear();
            slot.log.take(&mut out);
            if !self.carry_out(shard, &mut out) {
                break;
            }
        }
        self.peers.outputs = out;
        self.release_answers(shard);
        self.release_flush(shard);
        self.look_at_leader(shard);
        self.tend_damage(shard);
        // Also of a replica that only follows.
        self.flush_if_due(shard);
        self.set_deadline(shard);
    }

    /// True if the log must be looked at once more.
    fn carry_out(&mut self, shard: ShardId, out: &mut Outputs) -> bool {
        let mut again = self.persist(shard, out);
        for (to, bytes) in out.send_now.drain(..) {
            self.post_raft(to, shard, bytes);
        }
        let at_rest = self.shards[shard as usize].as_ref().is_some_and(|slot| slot.persists == 0);
        for (to, bytes) in out.send_durable.drain(..) {
            if at_rest {
                self.post_raft(to, shard, bytes);
            } else {
                self.peers.sends.push((to, shard, bytes));
            }
        }
        self.commits[shard as usize] = self.commits[shard as usize].max(out.commit);
        if out.lost_leadership {
            self.lose_leadership(shard);
            again = true;
        }
        if let Some(leadership) = out.gained_leadership {
            self.peers.mark(RarePath::LeadershipGained);
            self.replica(shard).opening = Some(leadership.start);
        }
        for entry in out.committed.drain(..) {
            self.replay(shard, entry.index, &entry.payload);
        }
        if let Some(passed) = out.readable.iter().max() {
            let reads = &mut self.replica(shard).reads;
            reads.passed = reads.passed.max(*passed);
        }
        for peer in out.need_snapshot.drain(..) {
            self.begin_sending(shard, peer);
        }
        let commit = self.commits[shard as usize];
        let durable = self.db.get(shard).map_or(0, |k| k.durable().applied);
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        if !matches!(replica.phase, Phase::Serving) {
            return again;
        }
        if replica.opening.is_some_and(|opening| replica.memory + 1 >= opening) && !slot.touched {
            // What it has not proposed itself is the log's own, and changes nothing.
            replica.memory = slot.log.last_index();
        }
        let told = replica.memory.min(commit);
        if told > replica.told {
            replica.told = told;
            slot.log.applied(told);
            again = true;
        }
        // What follows a snapshot under way is needed as soon as it is there.
        let sent = replica.sending.values().map(Sending::mark).min().unwrap_or(Index::MAX);
        slot.log.compact(durable.min(told).min(sent));
        again
    }

    fn persist(&mut self, shard: ShardId, out: &mut Outputs) -> bool {
        if out.persist.is_empty() {
            return false;
        }
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        // Whatever the space promises: a replica that forgot in a crash what it acknowledged would vote
        // as if it had not.
        self.peers.records.append(&mut out.persist);
        if mutation::active(Mutation::AckBeforeSync) && slot.persists == 0 {
            slot.log.persisted(out.seq);
            return true;
        }
        slot.persists += 1;
        self.peers.written.push((shard, out.seq));
        false
    }

    fn replay(&mut self, shard: ShardId, index: Index, payload: &[u8]) {
        if !matches!(self.replica(shard).phase, Phase::Serving) {
            // It comes once more when the replica is rebuilt.
            return;
        }
        let memory = self.replica(shard).memory;
        assert!(index == memory + 1, "shard {shard}: entry {index} comes after {memory}");
        match self.db.shard(shard).replay(index, payload) {
            Ok(()) => self.replica(shard).memory = index,
            Err(ReplayError::Table(_)) => self.abandon_table(shard),
            Err(error) => panic!("shard {shard}: entry {index} cannot be replayed: {error}"),
        }
    }

    // --- roles -------------------------------------------------------------------------------

    fn look_at_leader(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_ref().expect("replicas stay at home");
        let now = (slot.log.leader(), self.leads(shard));
        let replica = self.replica(shard);
        if replica.seen != now {
            replica.seen = now;
            replica.gateway.refused_until = None;
            self.pump_requests(shard);
        }
    }

    /// This replica does not lead any more. What it proposed up to the commit index was agreed on;
    /// the fate of the rest is unknown.
    fn lose_leadership(&mut self, shard: ShardId) {
        self.peers.mark(RarePath::LeadershipLost);
        let commit = self.commits[shard as usize];
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let mut ahead = false;
        if std::mem::take(&mut slot.touched) {
            slot.turn = 0;
            drop(self.db.shard(shard).take_batch());
            ahead = true;
        }
        self.release_answers(shard);
        self.stop_serving(shard);
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        replica.held = Held::default();
        replica.sending.clear();
        if replica.opening.take() == Some(replica.memory) {
            // Nothing but the empty entry may be ahead of what is agreed on.
            replica.memory = replica.memory.min(commit);
        }
        if ahead || replica.memory > commit {
            self.peers.mark(RarePath::Rebuilt);
            self.rebuild(shard);
        } else {
            replica.told = replica.memory;
            let memory = replica.memory;
            slot.log.replay_after(memory);
        }
    }

    /// Ends everything that gateways asked of this replica: they ask again, elsewhere.
    pub(crate) fn stop_serving(&mut self, shard: ShardId) {
        for job in self.jobs_asked(shard, |_| true) {
            self.peers.mark(RarePath::WaitersSent);
            self.cancel(job);
        }
        let rounds = std::mem::take(&mut self.replica(shard).rounds);
        for (node, (link, least)) in rounds {
            if self.peers.link(node) == Some(link) {
                let (round, why) = (least, Refusal::NotLeader);
                let message = PeerMessage::Refused { round, ticket: 0, why };
                self.post(node, Address::Shard(shard), &message);
                self.replica(shard).rounds.insert(node, (link, least + 1));
            }
        }
        self.replica(shard).gateway.rewind();
        self.pump_requests(shard);
    }

    /// Drops what is in memory and starts again from the table, now or when a flush has ended.
    pub(crate) fn rebuild(&mut self, shard: ShardId) {
        self.replica(shard).phase = Phase::Rebuilding;
        self.drop_cut(shard);
        if self.db.shard(shard).is_flushing() {
            return self.peers.mark(RarePath::RebuildWaited);
        }
        let keyspace = self.db.remove(shard).expect("log and data stay together");
        let table = keyspace.into_table();
        let mut keyspace = Box::new(Keyspace::new(shard, self.db.map().seed(), table));
        let loaded = keyspace.load_requests();
        let memory = keyspace.durable().applied;
        self.db.insert(keyspace);
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        slot.log.replay_after(memory);
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        (replica.memory, replica.told, replica.phase) = (memory, memory, Phase::Serving);
        if loaded.is_err() {
            self.abandon_table(shard);
        }
        self.stir(shard);
    }

    /// The barrier for which a read waits that executes now.
    pub(crate) fn read_barrier(&mut self, shard: ShardId) -> u64 {
        let reads = &mut self.replica(shard).reads;
        if !std::mem::replace(&mut reads.open, true) {
            reads.asked += 1;
            self.stir(shard);
        }
        self.replica(shard).reads.asked
    }

    /// Asks the log once for all reads of this turn, with the time at its end: a lease that holds
    /// then held while they executed, however long that took.
    fn ask_for_reads(&mut self, shard: ShardId, end: Millis) {
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        if std::mem::take(&mut replica.reads.open) {
            slot.log.read(end, replica.reads.asked);
        }
    }
}
