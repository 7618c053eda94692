//! The thread that writes the journal for all workers.
//!
//! Frames that wait together become one append and one sync. The first failed write or sync ends
//! the process: what the disk holds is unknown then, and a restart recovers what is known.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::{Fatal, WorkerId};
use quorate_base::{Index, ShardId};
use quorate_log::Record;
use quorate_node::{Frame, home};
use quorate_storage::journal::{FileDisk, Journal, JournalError};
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Unsynced frames are synced after this time; the promise of relaxed durability is a second.
const RELAXED_SYNC: Duration = Duration::from_millis(300);

/// Without anything to do for this time, the end of the journal is marked.
const IDLE_MARK: Duration = Duration::from_millis(50);

/// The most bytes that one append takes from waiting frames, so that none waits too long.
const APPEND_BYTES_MAX: usize = 8 << 20;

/// How long to wait for room on the disk before looking again.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// What must stay free of the disk for the store and for answering at all.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// A journal longer than this has its oldest shards flushed, which bounds the time of a restart.
const TAIL_BYTES_MAX: u64 = 256 << 20;

// A turn of a worker is one frame, whatever its clients do. What is left is for the headers of its
// records, one or two a shard.
const _: () = assert!(
    quorate_node::turn_bytes_bound(crate::serve::QUERY_BUFFER_BYTES_MAX) + (256 << 20)
        <= quorate_storage::journal::FRAME_BYTES_MAX
);

/// What the thread is asked.
pub(crate) enum Request {
    /// Append a worker's frame.
    Append { worker: WorkerId, frame: Frame },
    /// The table of a shard contains these entries for good.
    Durable { shard: ShardId, applied: Index },
    /// Something found no room: tell the workers at once if the disk is full.
    LookAfterRoom,
    /// Make everything durable, then answer.
    Sync { done: Sender<()> },
    /// Make everything durable and end.
    Close,
}

pub(crate) struct JournalThread {
    pub(crate) journal: Journal<FileDisk>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) inboxes: Inboxes,
    /// Told which shards must be flushed and persisted soon.
    pub(crate) store: Sender<crate::serve::store::Request>,
    pub(crate) fatal: Fatal,
    pub(crate) durable: HashMap<ShardId, Index>,
    /// Taken from `requests` and not served yet; they come first.
    pub(crate) held: VecDeque<Request>,
}

/// What is gathered for one append.
#[derive(Default)]
struct Gathered {
    records: Vec<Record>,
    bytes: usize,
    sync: bool,
    tickets: Vec<(WorkerId, u64)>,
    syncs: Vec<Sender<()>>,
    trim: bool,
    look: bool,
    close: bool,
}

impl JournalThread {
    /// Serves requests until asked to close.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.fatal.stop(&format!("the journal failed: {error}"));
        }
    }

    fn serve(&mut self) -> Result<(), JournalError> {
        let mut unsynced_since: Option<Instant> = None;
        let mut idle = false;
        let mut full = false;
        loop {
            let wait = match unsynced_since {
                Some(since) => RELAXED_SYNC.saturating_sub(since.elapsed()),
                None if !idle => IDLE_MARK,
                None if full => Duration::from_secs(1),
                None => Duration::from_secs(3600),
            };
            let first = match self.held.pop_front() {
                Some(request) => Some(request),
                None => match self.requests.recv_timeout(wait) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Request::Close),
                },
            };
            let Some(first) = first else {
                if unsynced_since.take().is_some() {
                    self.journal.sync()?;
                } else {
                    self.journal.mark()?;
                    idle = true;
                }
                full = self.look_after_room(full)?;
                continue;
            };
            let gathered = self.gather(first);
            let appended = !gathered.records.is_empty();
            if appended {
                idle = false;
                full = self.append(&gathered, full)?;
                if gathered.sync {
                    unsynced_since = None;
                } else {
                    unsynced_since.get_or_insert_with(Instant::now);
                }
            }
            for (worker, ticket) in gathered.tickets {
                self.inboxes.send(worker, Input::Persisted(ticket));
            }
            if !gathered.syncs.is_empty() || gathered.close {
                self.journal.sync()?;
                unsynced_since = None;
            }
            for done in gathered.syncs {
                // Whoever asked may have given up.
                let _ = done.send(());
            }
            if gathered.close {
                return self.journal.mark();
            }
            if unsynced_since.is_some_and(|since| since.elapsed() >= RELAXED_SYNC) {
                self.journal.sync()?;
                unsynced_since = None;
            }
            if gathered.trim {
                self.trim()?;
            }
            if self.journal.wants_prepare() || gathered.trim || gathered.look {
                full = self.look_after_room(full)?;
            }
        }
    }

    /// Appends what was gathered. If the disk has no room for it, waits until there is: commands
    /// have executed already, and their clients wait for an answer as long as that takes.
    fn append(&mut self, gathered: &Gathered, mut full: bool) -> Result<bool, JournalError> {
        loop {
            match self.journal.append(&gathered.records, gathered.sync) {
                Err(JournalError::Full { needed_bytes }) => {
                    if !full {
                        tracing::error!(
                            needed_bytes,
                            "the disk is full: writes wait or are refused until there is room, \
                             reads go on"
                        );
                        self.tell_full(true);
                    }
                    full = true;
                }
                done => return done.map(|()| full),
            }
            match self.requests.recv_timeout(FULL_RETRY) {
                Ok(Request::Durable { shard, applied }) => {
                    self.durable.insert(shard, applied);
                    self.trim()?;
                }
                Ok(request) => self.held.push_back(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(FULL_RETRY),
            }
        }
    }

    fn tell_full(&self, full: bool) {
        for worker in 0..self.inboxes.len() {
            self.inboxes.send(worker, Input::DiskFull(full));
        }
    }

    /// Takes what waits, up to a bound.
    fn gather(&mut self, first: Request) -> Gathered {
        let mut gathered = Gathered::default();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Append { worker, mut frame } => {
                    let bytes = frame.records.iter().map(bytes_of).sum::<usize>();
                    if !gathered.records.is_empty() && gathered.bytes + bytes > APPEND_BYTES_MAX {
                        // One frame of a worker may be as long as the journal takes.
                        self.held.push_front(Request::Append { worker, frame });
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
                Request::LookAfterRoom => gathered.look = true,
                Request::Sync { done } => gathered.syncs.push(done),
                Request::Close => gathered.close = true,
            }
            if gathered.bytes >= APPEND_BYTES_MAX || gathered.close {
                break;
            }
            next = self.held.pop_front().or_else(|| self.requests.try_recv().ok());
        }
        gathered
    }

    /// Lets go of what the store has for good, and asks for what it should take next.
    fn trim(&mut self) -> Result<(), JournalError> {
        let durable = &self.durable;
        self.journal.trim(&|shard| durable.get(&shard).copied().unwrap_or(0))?;
        Ok(())
    }

    /// Prepares the next segment and tells the workers whether there is room for writes.
    fn look_after_room(&mut self, was_full: bool) -> Result<bool, JournalError> {
        let workers = self.inboxes.len();
        if self.journal.bytes() > TAIL_BYTES_MAX {
            for shard in self.journal.oldest() {
                self.inboxes.send(home(shard, workers), Input::FlushWanted(shard));
                let _ = self.store.send(crate::serve::store::Request::Hurry(shard));
            }
        }
        let prepared = self.journal.prepare()?;
        let room = self.journal.room()?;
        let full = !prepared && room.prepared_bytes < DISK_RESERVE_BYTES / 2
            || room.disk_free_bytes < DISK_RESERVE_BYTES;
        if full != was_full {
            if full {
                tracing::error!(
                    free_bytes = room.disk_free_bytes,
                    "the disk is full: writes are refused until there is room, reads go on"
                );
            } else {
                tracing::info!("the disk has room again: writes are accepted");
            }
            self.tell_full(full);
        }
        Ok(full)
    }
}

fn bytes_of(record: &Record) -> usize {
    match &record.body {
        quorate_log::Body::Entry(entry) => entry.payload.len(),
        quorate_log::Body::State(state) => state.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_log::{Body, Entry};
    use quorate_storage::journal::Options;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    #[test]
    fn an_append_gathers_frames_up_to_a_bound_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path(), false).unwrap();
        let (journal, _) = Journal::open(disk, Options::default()).unwrap();
        let (sender, requests) = channel();
        let mut thread = JournalThread {
            journal,
            requests,
            inboxes: Inboxes::new(1).0,
            store: channel().0,
            fatal: Fatal,
            durable: HashMap::new(),
            held: VecDeque::new(),
        };
        for (ticket, bytes) in [(1, 1 << 20), (2, 1 << 20), (3, 20 << 20), (4, 1), (5, 1)] {
            let entry = Entry { term: 1, index: ticket, payload: Arc::new(vec![0; bytes]) };
            let records = vec![Record { shard: 0, body: Body::Entry(entry) }];
            let frame = Frame { ticket, records, sync: true };
            sender.send(Request::Append { worker: 0, frame }).unwrap();
        }
        let mut gather = || {
            let first = thread.held.pop_front().or_else(|| thread.requests.try_recv().ok());
            let tickets = thread.gather(first.unwrap()).tickets;
            tickets.into_iter().map(|(_, ticket)| ticket).collect::<Vec<_>>()
        };
        assert_eq!(gather(), [1, 2]);
        assert_eq!(gather(), [3]);
        assert_eq!(gather(), [4, 5]);
    }
}
