//! The state for a replica that needs entries which the leader's memory does not have any more.
//!
//! ```text
//!  leader                                            follower
//!  the table, as it is at its mark
//!   │  chunk 0 … 3 (at most 4 under way)                │ its log says, durably, that it has
//!   ├──────────────────────────────────────────────────▶│ lost its state: no votes from now on
//!   │                                                   │ table: drop everything, write chunk 0
//!   │◀───────────────── received 0 ─────────────────────┤ … written
//!   │  chunk 4 …                                        │
//!   ├──────────────────────────────────────────────────▶│ the last one with the mark, durably
//!   │◀───────────────── received n ─────────────────────┤ memory starts from the table; the log
//!   │  entries after the mark                           │ goes on behind the mark
//! ```
//!
//! A follower that crashes in between comes back as one that has lost its state, and is sent
//! another snapshot. Chunks are bounded, so neither side holds more of a shard than a few.

use super::Phase;
use super::serving::Held;
use crate::event::Effect;
use crate::peer::Address;
use crate::peer::message::{Chunk, PeerMessage};
use crate::worker::Worker;
use quorate_base::ids::NodeId;
use quorate_base::mutation::{self, Mutation};
use quorate_base::rare::RarePath;
use quorate_base::{Index, Millis, ShardId};
use quorate_data::Keyspace;
use quorate_data::disk::REQUESTS_KEY;
use quorate_data::table::{Flush, Mark, Table, TableOp};
use std::collections::VecDeque;

/// Bytes of one chunk, unless a single pair is larger.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks on their way.
const WINDOW: u64 = 4;

/// How often a replica whose table is damaged asks for another state.
const ASK_MS: Millis = 500;

/// A transfer that the follower has not gone on with for so long is begun anew.
const STALLED_MS: Millis = 10_000;

/// A snapshot on its way to a follower.
pub(crate) struct Sending {
    transfer: u64,
    table: Box<dyn Table>,
    mark: Mark,
    /// The next chunk, and how many the follower has written.
    next: u64,
    received: u64,
    from: Vec<u8>,
    ended: bool,
    moved: Millis,
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Installing {
    from: NodeId,
    transfer: u64,
    /// The chunk that must come next, and those that wait to be written.
    next: u64,
    chunks: VecDeque<Chunk>,
    /// The old state may go: that it is lost is durable, and no flush of it runs.
    ready: bool,
    /// A chunk is on its way to the table: its transfer and number, and whether it is the last.
    writing: Option<(u64, u64, bool)>,
    mark: Mark,
}

impl Worker {
    /// A replica without state asks whoever leads.
    pub(crate) fn on_want(&mut self, shard: ShardId, peer: NodeId) {
        let slot = self.shards[shard as usize].as_ref().expect("replicas stay at home");
        if slot.log.is_leader() {
            self.peers.mark(RarePath::StateWanted);
            self.begin_sending(shard, peer);
            // The round of messages that this takes wakes the group.
            self.read_barrier(shard);
        }
    }

    /// Begins to send the shard's state to `peer`, unless that is under way.
    pub(crate) fn begin_sending(&mut self, shard: ShardId, peer: NodeId) {
        // A new leader may depend on the follower to agree on anything.
        let leads = self.shards[shard as usize].as_ref().is_some_and(|s| s.log.is_leader());
        if !leads || !self.is_serving(shard) {
            return;
        }
        let now = self.now.mono;
        let table = self.db.shard(shard).table_snapshot();
        let transfer = self.prng.next_u64();
        let reachable = self.peers.link(peer).is_some();
        let replica = self.replica(shard);
        let running = replica.sending.get(&peer).is_some_and(|s| now < s.moved + STALLED_MS);
        if running || !reachable {
            return;
        }
        let mark = table.mark();
        let (from, ended, moved) = (Vec::new(), false, now);
        let sending = Sending { transfer, table, mark, next: 0, received: 0, from, ended, moved };
        if replica.sending.insert(peer, sending).is_some() {
            self.peers.mark(RarePath::SnapshotStalled);
        }
        self.peers.mark(RarePath::SnapshotBegun);
        self.send_chunks(shard, peer);
    }

    fn send_chunks(&mut self, shard: ShardId, peer: NodeId) {
        loop {
            let Some(sending) = self.replica(shard).sending.get_mut(&peer) else { return };
            if sending.ended || sending.next >= sending.received + WINDOW {
                return;
            }
            let Ok(chunk) = sending.chunk() else {
                // The table is damaged: whoever leads next has another one.
                self.replica(shard).sending.remove(&peer);
                return self.abandon_table(shard);
            };
            self.post(peer, Address::Shard(shard), &PeerMessage::Chunk(chunk));
        }
    }

    /// A follower has written a chunk.
    pub(crate) fn on_chunk_received(
        &mut self,
        peer: NodeId,
        shard: ShardId,
        transfer: u64,
        number: u64,
    ) {
        let now = self.now.mono;
        let sending = &mut self.replica(shard).sending;
        let Some(one) = sending.get_mut(&peer).filter(|s| s.transfer == transfer) else { return };
        (one.received, one.moved) = (one.received.max(number + 1), now);
        if one.ended && one.received == one.next {
            sending.remove(&peer);
            return;
        }
        self.send_chunks(shard, peer);
    }

    /// A leader sends a piece of its state.
    pub(crate) fn on_chunk(&mut self, from: NodeId, shard: ShardId, chunk: Chunk) {
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let old = chunk.mark.applied <= slot.log.commit() && !slot.log.is_lost();
        if chunk.number == 0 {
            if old || slot.log.is_leader() {
                return;
            }
            self.begin_install(from, shard, &chunk);
        }
        let Phase::Installing(install) = &mut self.replica(shard).phase else { return };
        if (install.from, install.transfer, install.next) != (from, chunk.transfer, chunk.number) {
            return;
        }
        install.next += 1;
        install.chunks.push_back(chunk);
        self.install_more(shard);
    }

    fn begin_install(&mut self, from: NodeId, shard: ShardId, chunk: &Chunk) {
        let before = std::mem::replace(&mut self.replica(shard).phase, Phase::Rebuilding);
        let (writing, ready) = match before {
            // The chunk of an earlier transfer that is being written comes first; it is dropped.
            Phase::Installing(install) => {
                self.peers.mark(RarePath::SnapshotReplaced);
                (install.writing, install.ready)
            }
            _ => (None, false),
        };
        let (transfer, mark) = (chunk.transfer, chunk.mark);
        let chunks = VecDeque::new();
        let install = Installing { from, transfer, next: 0, chunks, ready, writing, mark };
        self.replica(shard).phase = Phase::Installing(Box::new(install));
        if !ready {
            self.drop_cut(shard);
            let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
            slot.log.begin_install();
            self.drain(shard);
        }
    }

    /// Writes the next chunk, if that is possible now.
    pub(crate) fn install_more(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        let Phase::Installing(install) = &mut replica.phase else { return };
        if !install.ready {
            if slot.persists > 0 || self.db.shard(shard).is_flushing() {
                return self.peers.mark(RarePath::SnapshotWaited);
            }
            install.ready = true;
        }
        if install.writing.is_some() {
            return;
        }
        let Some(chunk) = install.chunks.pop_front() else { return };
        install.writing = Some((chunk.transfer, chunk.number, chunk.last));
        let mark = if chunk.last { chunk.mark } else { Mark::default() };
        let forget = mutation::active(Mutation::ForgetRequests);
        let pairs = chunk.pairs.into_iter().filter(|(key, _)| !forget || key != REQUESTS_KEY);
        let ops = pairs.map(|(key, value)| TableOp::Put(key, value)).collect();
        let (clear, durable) = (chunk.number == 0, chunk.last);
        self.effects.push(Effect::Flush(Flush { shard, mark, clear, durable, ops }));
    }

    /// A chunk is in the table. False if no snapshot is being written.
    pub(crate) fn on_chunk_written(&mut self, shard: ShardId) -> bool {
        if !self.in_cluster() {
            return false;
        }
        let Phase::Installing(install) = &mut self.replica(shard).phase else { return false };
        let Some((transfer, number, last)) = install.writing.take() else { return false };
        let from = install.from;
        if install.transfer != transfer {
            // It was one of an earlier transfer.
            self.install_more(shard);
            return true;
        }
        let received = PeerMessage::Received { transfer, number };
        if last {
            let mark = install.mark;
            self.end_install(shard, mark);
        }
        self.post(from, Address::Shard(shard), &received);
        self.install_more(shard);
        true
    }

    fn end_install(&mut self, shard: ShardId, mark: Mark) {
        self.peers.mark(RarePath::SnapshotInstalled);
        let keyspace = self.db.remove(shard).expect("log and data stay together");
        let table = keyspace.into_table();
        let mut keyspace = Box::new(Keyspace::new(shard, self.db.map().seed(), table));
        // A record that makes no sense came so from the leader, whose links are checked.
        let loaded = keyspace.load_requests();
        self.db.insert(keyspace);
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        slot.log.install(mark.applied, mark.term);
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        (replica.memory, replica.told) = (mark.applied, mark.applied);
        replica.phase = Phase::Serving;
        if loaded.is_err() {
            self.abandon_table(shard);
        }
        self.drain(shard);
    }

    /// The table of this shard is damaged: this replica has lost its state, and waits for a
    /// leader's.
    pub(crate) fn abandon_table(&mut self, shard: ShardId) {
        self.peers.mark(RarePath::TableGivenUp);
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        if std::mem::take(&mut slot.touched) {
            slot.turn = 0;
            drop(self.db.shard(shard).take_batch());
        }
        let ask_at = self.now.mono;
        let replica = self.replica(shard);
        replica.phase = Phase::Damaged { told: false, ask_at };
        replica.held = Held::default();
        replica.sending.clear();
        self.drop_cut(shard);
        self.stop_serving(shard);
        self.stir(shard);
    }

    /// Goes on with a damaged replica: it hands over what it leads, says that it has lost its state,
    /// and asks the leader for another one.
    pub(crate) fn tend_damage(&mut self, shard: ShardId) {
        let now = self.now.mono;
        let slot = self.shards[shard as usize].as_mut().expect("replicas stay at home");
        let replica = slot.replica.as_mut().expect("shards of a cluster have replicas");
        let Phase::Damaged { told, ask_at } = &mut replica.phase else { return };
        let leads = slot.log.is_leader();
        if !leads && !std::mem::replace(told, true) {
            // At once: another damaged replica must not hand its leadership to this one.
            slot.log.begin_install();
            return self.stir(shard);
        }
        if *ask_at > now {
            return;
        }
        *ask_at = now + ASK_MS;
        if leads {
            if let Some(to) = slot.log.successor() {
                slot.log.transfer(to);
                self.peers.mark(RarePath::DamageHandedOver);
            }
        } else {
            // Whoever leads may sleep, so that this replica does not know who it is.
            for node in self.peers.nodes.clone() {
                self.post(node, Address::Shard(shard), &PeerMessage::Want);
            }
        }
        self.stir(shard);
    }
}

impl Sending {
    /// The last entry that the snapshot contains.
    pub(crate) fn mark(&self) -> Index {
        self.mark.applied
    }

    fn chunk(&mut self) -> Result<Chunk, quorate_data::table::TableError> {
        let mut pairs = Vec::new();
        let (mut bytes, mut next) = (0, None);
        self.table.scan(&self.from, None, &mut |key, value| {
            if bytes >= CHUNK_BYTES {
                next = Some(key.to_vec());
                return false;
            }
            bytes += key.len() + value.len();
            pairs.push((key.to_vec(), value.to_vec()));
            true
        })?;
        self.ended = next.is_none();
        self.from = next.unwrap_or_default();
        let (transfer, number, mark, last) = (self.transfer, self.next, self.mark, self.ended);
        self.next += 1;
        Ok(Chunk { transfer, number, mark, last, pairs })
    }
}
