//! A node's journal process: the production journal on a simulated disk, served in the order in
//! which `crates/quorate` serves it.
//!
//! Frames that wait together become one append. It is written when the append begins and synced
//! when it ends, so a crash in between leaves each of its sectors to its fate.

use crate::queue::{MILLISECOND, Micros};
use crate::shape::Knobs;
use quorate_base::{Index, ShardId};
use quorate_log::{Body, Record};
use quorate_node::{Frame, WorkerId};
use quorate_storage::journal::{Disk, Journal, JournalError, MemoryDisk};
use std::collections::{BTreeMap, VecDeque};

/// Unsynced frames are synced after this time.
const RELAXED_SYNC: Micros = 300 * MILLISECOND;

/// Without anything to do for this time, the end of the journal is marked.
const IDLE_MARK: Micros = 50 * MILLISECOND;

/// How long to wait for room on the disk before looking again.
const FULL_RETRY: Micros = 500 * MILLISECOND;

/// How often to look again while the disk is full or writes wait.
const LOOK_AGAIN: Micros = 1_000 * MILLISECOND;

/// The most bytes that one append takes from waiting frames.
const APPEND_BYTES_MAX: usize = 8 << 20;

/// What the process is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Append a worker's frame.
    Append { worker: WorkerId, frame: Frame },
    /// The table of a shard contains these entries for good.
    Durable { shard: ShardId, applied: Index },
    /// Whether the store waits for room.
    StoreWaits(bool),
    /// Make everything durable, then tell the store.
    Sync,
    /// Make everything durable and end.
    Close,
}

/// What the process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// To a worker.
    Persisted { worker: WorkerId, ticket: u64 },
    /// To all workers.
    DiskFull(bool),
    /// To all workers.
    ReserveUsed(bool),
    /// To all workers.
    Throttled(bool),
    /// To the shard's home and to the store: the journal waits for this shard.
    FlushWanted(ShardId),
    /// To the store.
    Synced,
    /// It has ended.
    Closed,
}

/// How long the disk takes.
pub(crate) trait Pace {
    /// Microseconds until something that begins now and writes so many bytes is done.
    fn journal_us(&mut self, bytes: usize, sync: bool) -> Micros;
}

/// What is gathered for one append.
#[derive(Debug, Default)]
struct Gathered {
    records: Vec<Record>,
    bytes: usize,
    sync: bool,
    tickets: Vec<(WorkerId, u64)>,
    syncs: usize,
    trim: bool,
    look: bool,
    close: bool,
}

/// What it is doing.
#[derive(Debug)]
enum Doing {
    /// Waiting for requests.
    Nothing,
    /// Waiting for the disk.
    Append { gathered: Gathered, until: Micros },
    /// Waiting for room on the disk.
    Room { gathered: Gathered, until: Micros },
    /// It has ended.
    Closed,
}

/// What the workers were told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    full: bool,
    reserve_used: bool,
    throttled: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct JournalProcess {
    journal: Journal<MemoryDisk>,
    waiting: VecDeque<Request>,
    doing: Doing,
    durable: BTreeMap<ShardId, Index>,
    /// A journal longer than this has its oldest shards flushed.
    tail_bytes_max: u64,
    /// Writes wait while what the tables lack takes more than this.
    bytes_max: u64,
    unsynced_since: Option<Micros>,
    /// The last time there was something to do; `None` once the end is marked.
    busy_at: Option<Micros>,
    told: Told,
    /// The store has no room for what it should write.
    store_waits: bool,
    looked_at: Micros,
}

impl JournalProcess {
    /// Serves `journal`; the tables contain `durable`.
    pub(crate) fn new(
        journal: Journal<MemoryDisk>,
        durable: BTreeMap<ShardId, Index>,
        knobs: &Knobs,
        now: Micros,
    ) -> Self {
        Self {
            journal,
            waiting: VecDeque::new(),
            doing: Doing::Nothing,
            durable,
            tail_bytes_max: knobs.tail_bytes_max,
            bytes_max: knobs.throttle_bytes,
            unsynced_since: None,
            busy_at: Some(now),
            told: Told::default(),
            store_waits: false,
            looked_at: now,
        }
    }

    /// Takes a request; [`JournalProcess::run`] serves it.
    pub(crate) fn ask(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// When [`JournalProcess::run`] is wanted next.
    pub(crate) fn next_at(&self, now: Micros) -> Option<Micros> {
        match &self.doing {
            Doing::Append { until, .. } | Doing::Room { until, .. } => Some(*until),
            Doing::Closed => None,
            Doing::Nothing if !self.waiting.is_empty() => Some(now),
            Doing::Nothing => match (self.unsynced_since, self.busy_at) {
                (Some(since), _) => Some(since + RELAXED_SYNC),
                (None, Some(busy_at)) => Some(busy_at + IDLE_MARK),
                (None, None) => {
                    let again = self.told.full || self.told.throttled;
                    again.then_some(self.looked_at + LOOK_AGAIN)
                }
            },
        }
    }

    /// Does what is due. An error ends the node.
    pub(crate) fn run(
        &mut self,
        now: Micros,
        pace: &mut dyn Pace,
        said: &mut Vec<Said>,
    ) -> Result<(), JournalError> {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Append { gathered, until } if until <= now => {
                self.finish(now, gathered, said)?;
            }
            Doing::Room { gathered, until } => self.retry(now, gathered, until, pace, said)?,
            doing => self.doing = doing,
        }
        if !matches!(self.doing, Doing::Nothing) {
            return Ok(());
        }
        if self.waiting.is_empty() {
            return self.idle(now, said);
        }
        let gathered = self.gather();
        self.begin(now, gathered, pace, said)
    }

    /// The disk beneath.
    pub(crate) fn disk_mut(&mut self) -> &mut MemoryDisk {
        self.journal.disk_mut()
    }

    /// What is left when the process is gone.
    pub(crate) fn into_disk(self) -> MemoryDisk {
        self.journal.into_disk()
    }

    fn begin(
        &mut self,
        now: Micros,
        gathered: Gathered,
        pace: &mut dyn Pace,
        said: &mut Vec<Said>,
    ) -> Result<(), JournalError> {
        if !gathered.records.is_empty() {
            self.busy_at = Some(now);
            match self.journal.append(&gathered.records, false) {
                Err(JournalError::Full { .. }) => {
                    // Whatever makes room would wait behind this.
                    let told = Told { full: true, reserve_used: true, ..self.told };
                    self.tell(told, said);
                    self.doing = Doing::Room { gathered, until: now + FULL_RETRY };
                    return Ok(());
                }
                done => done?,
            }
        }
        let sync = gathered.sync || gathered.syncs > 0 || gathered.close;
        let works = sync || !gathered.records.is_empty();
        let until = if works { now + pace.journal_us(gathered.bytes, sync) } else { now };
        if until > now {
            self.doing = Doing::Append { gathered, until };
            return Ok(());
        }
        self.finish(now, gathered, said)
    }

    fn finish(
        &mut self,
        now: Micros,
        gathered: Gathered,
        said: &mut Vec<Said>,
    ) -> Result<(), JournalError> {
        if gathered.sync || gathered.syncs > 0 || gathered.close {
            self.journal.sync()?;
            self.unsynced_since = None;
        } else if !gathered.records.is_empty() {
            self.unsynced_since.get_or_insert(now);
        }
        for (worker, ticket) in gathered.tickets {
            said.push(Said::Persisted { worker, ticket });
        }
        said.extend((0..gathered.syncs).map(|_| Said::Synced));
        if gathered.close {
            self.journal.mark()?;
            self.doing = Doing::Closed;
            said.push(Said::Closed);
            return Ok(());
        }
        if self.unsynced_since.is_some_and(|since| now >= since + RELAXED_SYNC) {
            self.journal.sync()?;
            self.unsynced_since = None;
        }
        if gathered.trim {
            self.trim()?;
        }
        if self.journal.wants_prepare() || gathered.trim || gathered.look {
            self.look_after_room(now, said)?;
        }
        Ok(())
    }

    /// Tries again what found no room; meanwhile only trims.
    fn retry(
        &mut self,
        now: Micros,
        gathered: Gathered,
        until: Micros,
        pace: &mut dyn Pace,
        said: &mut Vec<Said>,
    ) -> Result<(), JournalError> {
        let mut trim = false;
        self.waiting.retain(|request| match request {
            Request::Durable { shard, applied } => {
                self.durable.insert(*shard, *applied);
                trim = true;
                false
            }
            Request::StoreWaits(waits) => {
                self.store_waits = *waits;
                false
            }
            _ => true,
        });
        if trim {
            self.trim()?;
        }
        if trim || until <= now {
            return self.begin(now, gathered, pace, said);
        }
        self.doing = Doing::Room { gathered, until };
        Ok(())
    }

    fn idle(&mut self, now: Micros, said: &mut Vec<Said>) -> Result<(), JournalError> {
        if self.next_at(now).is_none_or(|at| at > now) {
            return Ok(());
        }
        if self.unsynced_since.take().is_some() {
            self.journal.sync()?;
        } else if self.busy_at.take().is_some() {
            self.journal.mark()?;
        }
        self.look_after_room(now, said)
    }

    /// Takes what waits, up to a bound.
    fn gather(&mut self) -> Gathered {
        let mut gathered = Gathered::default();
        while let Some(request) = self.waiting.pop_front() {
            match request {
                Request::Append { worker, mut frame } => {
                    let bytes = frame.records.iter().map(bytes_of).sum::<usize>();
                    if !gathered.records.is_empty() && gathered.bytes + bytes > APPEND_BYTES_MAX {
                        self.waiting.push_front(Request::Append { worker, frame });
                        break;
                    }
                    gathered.bytes += bytes;
                    gathered.sync |= frame.sync;
                    gathered.records.append(&mut frame.records);
                    gathered.tickets.push((worker, frame.ticket));
                }
                Request::Durable { shard, applied } => {
                    self.durable.insert(shard, applied);
                    gathered.trim = true;
                }
                Request::StoreWaits(waits) => {
                    self.store_waits = waits;
                    gathered.look = true;
                }
                Request::Sync => gathered.syncs += 1,
                Request::Close => gathered.close = true,
            }
            if gathered.bytes >= APPEND_BYTES_MAX || gathered.close {
                break;
            }
        }
        gathered
    }

    fn trim(&mut self) -> Result<(), JournalError> {
        let durable = &self.durable;
        self.journal.trim(&|shard| durable.get(&shard).copied().unwrap_or(0))?;
        Ok(())
    }

    /// Prepares the next segment and tells the workers whether there is room for writes.
    fn look_after_room(&mut self, now: Micros, said: &mut Vec<Said>) -> Result<(), JournalError> {
        self.looked_at = now;
        if self.journal.bytes() > self.tail_bytes_max.min(self.bytes_max / 2) {
            said.extend(self.journal.oldest().map(Said::FlushWanted));
        }
        let prepared = self.journal.prepare()?;
        // A simulated disk is full or it is not.
        let free_bytes = self.journal.room()?.disk_free_bytes;
        let is_full = !prepared || free_bytes < u64::MAX;
        let waiting_bytes = self.journal.trimmable_bytes();
        let resume_bytes = self.bytes_max / 4 * 3;
        let bound = if self.told.throttled { resume_bytes } else { self.bytes_max };
        let told = Told {
            full: is_full || self.store_waits,
            reserve_used: is_full,
            throttled: waiting_bytes > bound,
        };
        self.tell(told, said);
        Ok(())
    }

    /// Tells the workers what has changed.
    fn tell(&mut self, now: Told, said: &mut Vec<Said>) {
        let before = std::mem::replace(&mut self.told, now);
        if now.reserve_used != before.reserve_used {
            said.push(Said::ReserveUsed(now.reserve_used));
        }
        if now.full != before.full {
            said.push(Said::DiskFull(now.full));
        }
        if now.throttled != before.throttled {
            said.push(Said::Throttled(now.throttled));
        }
    }
}

/// Makes a disk full, or gives it room without end.
pub(crate) fn set_full(disk: &mut MemoryDisk, full: bool) {
    let used: u64 = disk.list().map_or(0, |all| all.iter().map(|(_, bytes)| bytes).sum());
    disk.capacity_bytes = if full { used.max(1) } else { 0 };
}

fn bytes_of(record: &Record) -> usize {
    match &record.body {
        Body::Entry(entry) => entry.payload.len(),
        Body::State(state) => state.len(),
    }
}
