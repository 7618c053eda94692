//! What a worker does without being asked: expire, flush, load, keep to its memory.

use crate::dispatch::RESERVE_COMMAND_BYTES_MAX;
use crate::event::Effect;
use crate::message::home;
use crate::worker::Worker;
use quorate_base::limits::COMMAND_BYTES_MAX;
use quorate_base::rare::RarePath;
use quorate_base::{Millis, ShardId};
use quorate_data::table::Mark;
use std::collections::{BTreeSet, VecDeque};

/// How often upkeep runs while there is something for it to do.
const INTERVAL_MS: Millis = 100;

/// Keys that one shard expires in one go.
const EXPIRE_KEYS_MAX: usize = 400;

/// Pairs of the table of a shard that is not in memory which are looked at for expired keys, each
/// [`INTERVAL_MS`].
const SWEEP_PAIRS_MAX: usize = 500;

/// Pairs of a table that are loaded in one go.
const LOAD_PAIRS_MAX: usize = 2_000;

/// Flushes under way at once, so that their memory stays small beside the data's.
const FLUSHES_MAX: usize = 2;

/// Entries that the cuts under way write in one turn, besides as many as it had commands.
const CUT_ENTRIES_MIN: u64 = 500;

/// The upkeep of a worker.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// When it runs next.
    next: Millis,
    /// There is more to do than fits one interval.
    hurry: bool,
    /// There was too much in memory when it last looked.
    excess: bool,
    /// The journal's last ticket then: without a further one memory has not grown.
    looked: u64,
    /// Which shard is loaded next.
    loading: usize,
    /// Shards whose flush is being cut.
    cutting: VecDeque<ShardId>,
    /// Flushes begun and not yet in their tables.
    flushes: usize,
    /// Shards that the journal waits for.
    wanted: BTreeSet<ShardId>,
    /// The number of commands when cuts last went on.
    commands: u64,
    /// Flushes that ended while their shard was lent.
    flushed_late: Vec<(ShardId, Mark)>,
}

impl Worker {
    pub(crate) fn upkeep_deadline(&self) -> Option<Millis> {
        if self.upkeep.hurry || !self.upkeep.cutting.is_empty() {
            return Some(self.now.mono);
        }
        let expires =
            |k: &quorate_data::Keyspace| k.keys_with_expiry() > 0 && self.leads(k.shard());
        let wanted = self.upkeep.excess
            || self.upkeep.looked != self.ticket
            || self.db.iter().any(|k| expires(k) || !k.resident());
        wanted.then_some(self.upkeep.next)
    }

    pub(crate) fn on_tick(&mut self) {
        self.time_out_jobs();
        if self.in_cluster() {
            self.tick_replicas();
        }
        if self.now.mono < self.upkeep.next && !self.upkeep.hurry {
            return;
        }
        let interval_over = self.now.mono >= self.upkeep.next;
        self.upkeep.hurry = false;
        self.expire();
        if interval_over {
            self.upkeep.next = self.now.mono + INTERVAL_MS;
            self.sweep();
            self.keep_to_memory();
        }
        self.load();
    }

    /// Removes keys that have expired.
    fn expire(&mut self) {
        if self.disk_full || self.throttled || self.pause.is_some() || self.stopping {
            return;
        }
        for shard in 0..self.shards.len() as ShardId {
            let now = self.now.wall;
            let due = self
                .db
                .get(shard)
                .and_then(quorate_data::Keyspace::next_expiry)
                .is_some_and(|at| at <= now);
            if !due || !self.is_free(shard) || !self.leads(shard) {
                continue;
            }
            self.bound_turn();
            self.touch(shard);
            let before = self.batch_bytes(shard);
            let removed = self.db.shard(shard).expire_due(EXPIRE_KEYS_MAX);
            self.stats.expired += removed as u64;
            self.upkeep.hurry |= removed >= EXPIRE_KEYS_MAX;
            self.changed(shard, before);
        }
    }

    /// Removes keys that have expired and lie only in their table.
    fn sweep(&mut self) {
        if self.disk_full || self.throttled || self.pause.is_some() || self.stopping {
            return;
        }
        for shard in 0..self.shards.len() as ShardId {
            if self.db.get(shard).is_none_or(quorate_data::Keyspace::resident)
                || !self.is_free(shard)
                || !self.leads(shard)
            {
                continue;
            }
            self.bound_turn();
            self.touch(shard);
            let before = self.batch_bytes(shard);
            // A table that cannot be read says so to the command that needs it.
            let removed = self.db.shard(shard).sweep(SWEEP_PAIRS_MAX).unwrap_or(0);
            self.stats.expired += removed as u64;
            self.changed(shard, before);
        }
    }

    // --- flushing ----------------------------------------------------------------------------

    /// Flushes a shard if enough of it has changed, or if this is the last opportunity.
    #[inline]
    pub(crate) fn flush_if_due(&mut self, shard: ShardId) {
        if self.stopping {
            return self.flush_rest(shard);
        }
        let due = self.db.get(shard).is_some_and(|k| {
            // What FLUSHALL drops gives its room back once the table knows.
            let makes_room = self.disk_full && k.is_cleared();
            !k.is_flushing() && (k.dirty_bytes() >= self.config.flush_bytes || makes_room)
        });
        if due {
            self.flush(shard);
        }
    }

    /// Begins a flush, unless one is running or the shard is not here in a state to be cut.
    fn flush(&mut self, shard: ShardId) {
        if home(shard, self.config.workers) != self.id || !self.is_serving(shard) {
            return;
        }
        let Some(slot) = self.shards[shard as usize].as_mut() else { return };
        let keyspace = self.db.shard(shard);
        if slot.touched || keyspace.is_flushing() || self.upkeep.flushes >= FLUSHES_MAX {
            return;
        }
        self.upkeep.flushes += 1;
        let (index, term) = slot.applied();
        keyspace.begin_cut(index, term);
        self.upkeep.cutting.push_back(shard);
    }

    /// Goes on with the flushes under way: a little more than commands can add to them meanwhile.
    pub(crate) fn cut(&mut self) {
        let commands = std::mem::replace(&mut self.upkeep.commands, self.stats.commands);
        let Some(&shard) = self.upkeep.cutting.front() else { return };
        let limit = CUT_ENTRIES_MIN + self.stats.commands.saturating_sub(commands);
        let Some(slot) = self.shards[shard as usize].as_mut() else {
            // It is lent; the others go first.
            return self.upkeep.cutting.rotate_left(1);
        };
        if let Some(flush) = self.db.shard(shard).cut_some(limit as usize) {
            slot.flush = Some(flush);
            self.upkeep.cutting.pop_front();
            self.release_flush(shard);
        }
    }

    /// Hands on a flush whose last entry is committed: what a crash may take back must not be in
    /// a table.
    pub(crate) fn release_flush(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        let commit = self.commits[shard as usize];
        if let Some(flush) = slot.flush.take_if(|f| f.mark.applied <= commit) {
            self.effects.push(Effect::Flush(flush));
        }
    }

    pub(crate) fn on_flushed(&mut self, shard: ShardId, mark: Mark) {
        if self.on_chunk_written(shard) {
            return;
        }
        let Some(slot) = self.shards[shard as usize].as_mut() else {
            self.upkeep.flushed_late.push((shard, mark));
            return;
        };
        let evict = std::mem::take(&mut slot.evict);
        let keyspace = self.db.shard(shard);
        keyspace.flushed(mark);
        self.upkeep.flushes -= 1;
        if evict {
            keyspace.evict();
        }
        if !self.is_serving(shard) {
            self.go_on_after_flush(shard);
        }
        self.flush_more();
    }

    /// Gives up the flush of a shard that was begun and has not left yet.
    pub(crate) fn drop_cut(&mut self, shard: ShardId) {
        let slot = self.shards[shard as usize].as_mut().expect("the caller holds the shard");
        let cut = slot.flush.take().is_some();
        if cut || self.db.shard(shard).is_cutting() {
            self.upkeep.cutting.retain(|other| *other != shard);
            self.upkeep.flushes -= 1;
            self.db.shard(shard).drop_cut();
        }
    }

    /// Begins the flushes that are due, as far as the bound on them allows.
    fn flush_more(&mut self) {
        while let Some(shard) = self.upkeep.wanted.pop_first() {
            if self.upkeep.flushes >= FLUSHES_MAX {
                self.upkeep.wanted.insert(shard);
                return;
            }
            self.flush_rest(shard);
        }
        for shard in 0..self.shards.len() as ShardId {
            self.flush_if_due(shard);
        }
    }

    /// Notes flushes that ended while their shards were away.
    pub(crate) fn note_late_flushes(&mut self) {
        for (shard, mark) in std::mem::take(&mut self.upkeep.flushed_late) {
            self.on_flushed(shard, mark);
        }
    }

    pub(crate) fn on_flush_wanted(&mut self, shard: ShardId) {
        self.upkeep.wanted.insert(shard);
        self.flush_more();
    }

    pub(crate) fn on_shutdown(&mut self) {
        if self.in_cluster() {
            self.hand_over(RarePath::StopHandedOver);
            for slot in self.shards.iter_mut().flatten() {
                let commit = slot.log.commit();
                if let Some(replica) = &mut slot.replica {
                    replica.stop_at = commit;
                }
            }
        }
        self.stopping = true;
        self.on_throttled(false);
        self.flush_more();
    }

    // --- room --------------------------------------------------------------------------------

    /// While the disk is full, what makes room may record little, and reads record nothing.
    pub(crate) fn on_disk_full(&mut self, full: bool) {
        self.disk_full = full;
        self.settings.records_counts = !full;
        self.settings.command_bytes_max =
            if full { RESERVE_COMMAND_BYTES_MAX } else { COMMAND_BYTES_MAX };
        // Writes that wait for the tables are refused now.
        self.release_held();
        self.flush_more();
    }

    /// Lets writes wait until the tables have caught up with the journal, or go on. Nothing that
    /// a flush needs waits with them.
    pub(crate) fn on_throttled(&mut self, on: bool) {
        self.throttled = on && !self.stopping;
        self.release_held();
    }

    /// Lets held clients look again whether they may go on.
    fn release_held(&mut self) {
        if let Some(pause) = self.pause {
            self.end_pause();
            self.pause = Some(pause);
        } else {
            self.end_pause();
        }
    }

    /// Flushes a shard if its table lacks anything.
    fn flush_rest(&mut self, shard: ShardId) {
        if !self.is_contained(shard) {
            self.flush(shard);
        }
    }

    /// True if the table of `shard` contains everything.
    fn is_contained(&self, shard: ShardId) -> bool {
        match (&self.shards[shard as usize], self.db.get(shard)) {
            (Some(slot), Some(keyspace)) => {
                if let Some(replica) = slot.replica.as_ref().filter(|_| self.stopping) {
                    return keyspace.durable().applied >= replica.stop_at;
                }
                !slot.touched
                    && !keyspace.is_flushing()
                    && keyspace.durable().applied == slot.applied().0
            }
            _ => home(shard, self.config.workers) != self.id,
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        (0..self.shards.len() as ShardId).all(|shard| self.is_contained(shard))
    }

    // --- memory ------------------------------------------------------------------------------

    fn memory_bytes(&self) -> u64 {
        self.db.iter().map(|k| k.memory_bytes() as u64).sum()
    }

    /// Drops the coldest shards from memory while there is too much in it.
    fn keep_to_memory(&mut self) {
        let mut excess = self.memory_bytes().saturating_sub(self.config.worker_memory_bytes());
        self.upkeep.excess = excess > 0;
        self.upkeep.looked = self.ticket;
        let mut by_use: Vec<(u64, ShardId)> = Vec::new();
        for slot in self.shards.iter_mut().flatten() {
            by_use.push((slot.uses, slot.id));
            slot.uses /= 2;
        }
        by_use.sort_unstable();
        for (_, shard) in by_use {
            if excess == 0 {
                return;
            }
            let bytes = self.db.get(shard).map_or(0, |k| k.memory_bytes() as u64);
            let slot = self.shards[shard as usize].as_mut().expect("its id was just read");
            slot.evict = true;
            self.flush(shard);
            excess = excess.saturating_sub(bytes);
        }
    }

    /// Loads a little more of a shard that is only partly in memory, if there is room.
    fn load(&mut self) {
        let count = self.shards.len();
        if self.stopping || self.memory_bytes() * 10 > self.config.worker_memory_bytes() * 9 {
            return;
        }
        for step in 0..count {
            let shard = (self.upkeep.loading + step) % count;
            if !self.is_free(shard as ShardId) || !self.is_serving(shard as ShardId) {
                continue;
            }
            let keyspace = self.db.shard(shard as ShardId);
            if keyspace.resident() {
                continue;
            }
            self.upkeep.loading = shard;
            // A table that cannot be read says so to the command that needs it.
            self.upkeep.hurry |= keyspace.load_some(LOAD_PAIRS_MAX).is_ok();
            return;
        }
    }
}
