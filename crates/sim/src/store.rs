//! A node's store process: flushes become visible at once and durable later, and never before the
//! journal has synced; served in the order in which `crates/quorate` serves it.

use crate::journal;
use crate::queue::{MILLISECOND, Micros};
use crate::table::SimTable;
use quorate_base::ShardId;
use quorate_data::table::{Flush, Mark};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Without flushes for this time, whatever is in memory only is persisted.
const IDLE: Micros = 500 * MILLISECOND;

/// What the process is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Apply a flush.
    Write(Flush),
    /// Persist this shard with its next flush: the journal waits for it.
    Hurry(ShardId),
    /// Persist everything and end.
    Close,
}

/// What the process says.
#[derive(Debug)]
pub(crate) enum Said {
    /// To the shard's home.
    Flushed { shard: ShardId, mark: Mark },
    /// To the journal.
    Journal(journal::Request),
    /// It has ended.
    Closed,
}

/// How long the disk takes.
pub(crate) trait Pace {
    /// Microseconds until a flush of so many changes is written.
    fn write_us(&mut self, ops: usize) -> Micros;
    /// Microseconds until so many bytes are durable.
    fn persist_us(&mut self, bytes: u64) -> Micros;
}

/// What it is doing.
#[derive(Debug)]
enum Doing {
    Nothing,
    /// Writing a flush.
    Write {
        flush: Flush,
        until: Micros,
    },
    /// Waiting for the journal, to persist a shard after it.
    Sync(ShardId),
    /// Persisting a shard.
    Persist {
        shard: ShardId,
        until: Micros,
    },
    Closed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct StoreProcess {
    /// By shard.
    tables: Vec<SimTable>,
    requests: VecDeque<Request>,
    doing: Doing,
    /// Shards to persist before the next request.
    to_persist: VecDeque<ShardId>,
    /// Flushes for which the disk had no room.
    no_room: VecDeque<Flush>,
    /// Shards that wait for room. The journal knows whether there are any.
    short: BTreeSet<ShardId>,
    /// Shards that the journal waits for.
    hurried: BTreeSet<ShardId>,
    /// Flushes that are completed once they are durable.
    unanswered: BTreeMap<ShardId, Mark>,
    unpersisted: BTreeMap<ShardId, u64>,
    /// A shard is persisted when so many of its bytes are in memory only.
    persist_bytes: u64,
    /// The disk has no room.
    pub(crate) full: bool,
    closing: bool,
    /// The last time there was something to do.
    busy_at: Micros,
    /// When it last tried again what found no room.
    retried_at: Micros,
}

impl StoreProcess {
    /// Serves `tables`, one for each shard.
    pub(crate) fn new(tables: Vec<SimTable>, persist_bytes: u64, now: Micros) -> Self {
        Self {
            tables,
            requests: VecDeque::new(),
            doing: Doing::Nothing,
            to_persist: VecDeque::new(),
            no_room: VecDeque::new(),
            short: BTreeSet::new(),
            hurried: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            unpersisted: BTreeMap::new(),
            persist_bytes,
            full: false,
            closing: false,
            busy_at: now,
            retried_at: now,
        }
    }

    /// The tables, by shard.
    pub(crate) fn tables(&self) -> &[SimTable] {
        &self.tables
    }

    /// Takes a request; [`StoreProcess::run`] serves it.
    pub(crate) fn ask(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    /// When [`StoreProcess::run`] is wanted next.
    pub(crate) fn next_at(&self, now: Micros) -> Option<Micros> {
        match &self.doing {
            Doing::Write { until, .. } | Doing::Persist { until, .. } => Some(*until),
            Doing::Sync(_) | Doing::Closed => None,
            Doing::Nothing if self.closing => Some(now),
            Doing::Nothing if !(self.requests.is_empty() && self.to_persist.is_empty()) => {
                Some(now)
            }
            Doing::Nothing => {
                let idle = (!self.unpersisted.is_empty()).then_some(self.busy_at + IDLE);
                let retry = self.lacks_room().then_some(self.retried_at + IDLE);
                [idle, retry].into_iter().flatten().min()
            }
        }
    }

    /// The journal has synced.
    pub(crate) fn on_synced(&mut self, now: Micros, pace: &mut dyn Pace) {
        if let Doing::Sync(shard) = self.doing {
            let bytes = self.tables[shard as usize].unpersisted_bytes();
            self.doing = Doing::Persist { shard, until: now + pace.persist_us(bytes) };
        }
    }

    /// Does what is due.
    pub(crate) fn run(&mut self, now: Micros, pace: &mut dyn Pace, said: &mut Vec<Said>) {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Write { flush, until } if until <= now => self.written(flush, said),
            Doing::Persist { shard, until } if until <= now => self.persisted(shard, said),
            doing => self.doing = doing,
        }
        while matches!(self.doing, Doing::Nothing) {
            if self.lacks_room() && now >= self.retried_at + IDLE {
                self.retried_at = now;
                self.requests.extend(self.no_room.drain(..).map(Request::Write));
                self.to_persist.extend(&self.short);
            }
            if let Some(shard) = self.to_persist.pop_front() {
                self.busy_at = now;
                self.persist(shard, said);
            } else if self.closing {
                self.doing = Doing::Closed;
                said.push(Said::Closed);
            } else if let Some(request) = self.requests.pop_front() {
                self.busy_at = now;
                self.serve(now, request, pace, said);
            } else if self.next_at(now).is_some_and(|at| at <= now) {
                self.busy_at = now;
                self.to_persist.extend(self.unpersisted.keys());
            } else {
                break;
            }
        }
    }

    fn serve(&mut self, now: Micros, request: Request, pace: &mut dyn Pace, said: &mut Vec<Said>) {
        match request {
            Request::Write(flush) => self.write(now, flush, pace, said),
            Request::Hurry(shard) => {
                self.hurried.insert(shard);
                if self.tables[shard as usize].unpersisted_bytes() > 0 {
                    self.to_persist.push_back(shard);
                }
            }
            Request::Close => {
                self.closing = true;
                self.to_persist.extend(0..self.tables.len() as ShardId);
            }
        }
    }

    fn write(&mut self, now: Micros, flush: Flush, pace: &mut dyn Pace, said: &mut Vec<Said>) {
        if self.full {
            self.note_room(flush.shard, false, said);
            return self.no_room.push_back(flush);
        }
        let until = now + pace.write_us(flush.ops.len());
        self.doing = Doing::Write { flush, until };
    }

    fn written(&mut self, flush: Flush, said: &mut Vec<Said>) {
        let (shard, mark, durable) = (flush.shard, flush.mark, flush.durable);
        let table = &self.tables[shard as usize];
        table.write(flush);
        let bytes = table.unpersisted_bytes();
        self.unpersisted.insert(shard, bytes);
        if durable {
            self.unanswered.insert(shard, mark);
        } else {
            said.push(Said::Flushed { shard, mark });
        }
        let hurried = self.hurried.remove(&shard);
        if hurried || durable || bytes >= self.persist_bytes {
            self.to_persist.push_back(shard);
        }
    }

    /// Makes a shard durable; the journal goes first.
    fn persist(&mut self, shard: ShardId, said: &mut Vec<Said>) {
        if self.full {
            return self.note_room(shard, false, said);
        }
        self.unpersisted.remove(&shard);
        said.push(Said::Journal(journal::Request::Sync));
        self.doing = Doing::Sync(shard);
    }

    fn lacks_room(&self) -> bool {
        !self.short.is_empty() || !self.no_room.is_empty()
    }

    /// Tells the journal if the first shard waits for room, or the last no longer does.
    fn note_room(&mut self, shard: ShardId, has_room: bool, said: &mut Vec<Said>) {
        let before = self.short.is_empty();
        if has_room {
            self.short.remove(&shard);
        } else {
            self.short.insert(shard);
        }
        if self.short.is_empty() != before {
            said.push(Said::Journal(journal::Request::StoreWaits(before)));
        }
    }

    fn persisted(&mut self, shard: ShardId, said: &mut Vec<Said>) {
        let mark = self.tables[shard as usize].persist();
        self.note_room(shard, true, said);
        if let Some(mark) = self.unanswered.remove(&shard) {
            said.push(Said::Flushed { shard, mark });
        }
        let applied = mark.applied;
        said.push(Said::Journal(journal::Request::Durable { shard, applied }));
    }
}
