//! The thread that writes the journal for all workers.
//!
//! It also tells the workers how they may go on: whether the disk is full, and whether the tables
//! are so far behind the journal that writes must wait.
//!
//! Frames that wait together become one append and one sync. The first failed write or sync ends
//! the process: what the disk holds is unknown then, and a restart recovers what is known.

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::observed::Observed;
use crate::serve::{Fatal, WorkerId};
use quorate_base::{Index, ShardId};
use quorate_log::Record;
use quorate_node::{Frame, home};
use quorate_storage::journal::{FileDisk, Journal, JournalError};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
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

/// How often to look again while the disk is full or writes wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    /// Whether the store waits for room: tell the workers at once.
    StoreWaits(bool),
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
    /// Writes wait while what tables lack takes more than this.
    pub(crate) bytes_max: u64,
    pub(crate) told: Told,
    /// The store has no room for what it should write.
    pub(crate) store_waits: bool,
    pub(crate) observed: Arc<Observed>,
}

/// What the workers were told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    full: bool,
    reserve_used: bool,
    throttled: bool,
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
        self.observed.disk_free(self.journal.room()?.disk_free_bytes);
        loop {
            let wait = match unsynced_since {
                Some(since) => RELAXED_SYNC.saturating_sub(since.elapsed()),
                None if !idle => IDLE_MARK,
                None if self.told.full || self.told.throttled => LOOK_AGAIN,
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
                self.look_after_room()?;
                continue;
            };
            let gathered = self.gather(first);
            let appended = !gathered.records.is_empty();
            if appended {
                idle = false;
                self.append(&gathered)?;
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
                self.look_after_room()?;
            }
        }
    }

    /// Appends what was gathered. If the disk has no room for it, waits until there is: commands
    /// have executed already, and their clients wait for an answer as long as that takes.
    fn append(&mut self, gathered: &Gathered) -> Result<(), JournalError> {
        loop {
            let began = Instant::now();
            match self.journal.append(&gathered.records, gathered.sync) {
                Err(JournalError::Full { needed_bytes }) => {
                    // Whatever makes room would wait behind this.
                    let now = Told { full: true, reserve_used: true, ..self.told };
                    self.tell(now, needed_bytes);
                }
                done => {
                    let sync = gathered.sync.then(|| began.elapsed());
                    self.observed.appended(gathered.bytes, sync);
                    self.observed.journal_bytes(self.journal.bytes());
                    return done;
                }
            }
            match self.requests.recv_timeout(FULL_RETRY) {
                Ok(Request::Durable { shard, applied }) => {
                    self.durable.insert(shard, applied);
                    self.trim()?;
                }
                Ok(Request::StoreWaits(waits)) => self.store_waits = waits,
                Ok(request) => self.held.push_back(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(FULL_RETRY),
            }
        }
    }

    /// Tells the workers what has changed. So many bytes are free, or missing.
    fn tell(&mut self, now: Told, bytes: u64) {
        let before = std::mem::replace(&mut self.told, now);
        let send = |input: fn(bool) -> Input, value: bool| {
            for worker in 0..self.inboxes.len() {
                self.inboxes.send(worker, input(value));
            }
        };
        if now.reserve_used != before.reserve_used {
            send(Input::ReserveUsed, now.reserve_used);
        }
        match (before.full, now.full) {
            (false, true) => tracing::error!(
                bytes,
                "the disk is full: writes are refused until there is room, reads go on"
            ),
            (true, false) => tracing::info!("the disk has room again: writes are accepted"),
            _ => {}
        }
        if now.full != before.full {
            send(Input::DiskFull, now.full);
        }
        match (before.throttled, now.throttled) {
            (false, true) => tracing::warn!(
                journal_bytes = self.journal.bytes(),
                "the tables are far behind the journal: writes wait until they have caught up, \
                 reads go on"
            ),
            (true, false) => tracing::info!("the tables have caught up: writes go on"),
            _ => {}
        }
        if now.throttled != before.throttled {
            send(Input::Throttled, now.throttled);
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
                Request::StoreWaits(waits) => {
                    self.store_waits = waits;
                    gathered.look = true;
                }
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
        self.observed.journal_bytes(self.journal.bytes());
        Ok(())
    }

    /// Prepares the next segment, and tells the workers how they may go on.
    fn look_after_room(&mut self) -> Result<(), JournalError> {
        let workers = self.inboxes.len();
        if self.journal.bytes() > TAIL_BYTES_MAX.min(self.bytes_max / 2) {
            for shard in self.journal.oldest() {
                self.inboxes.send(home(shard, workers), Input::FlushWanted(shard));
                let _ = self.store.send(crate::serve::store::Request::Hurry(shard));
            }
        }
        let prepared = self.journal.prepare()?;
        let room = self.journal.room()?;
        self.observed.disk_free(room.disk_free_bytes);
        self.observed.journal_bytes(self.journal.bytes());
        let is_low = |reserve_bytes| room.disk_free_bytes < reserve_bytes;
        let is_short = room.prepared_bytes < DISK_RESERVE_BYTES / 2;
        // The current segment cannot go, however far the tables are: waiting for it would not end.
        let waiting_bytes = self.journal.trimmable_bytes();
        let resume_bytes = self.bytes_max / 4 * 3;
        let now = Told {
            full: !prepared && is_short || is_low(DISK_RESERVE_BYTES) || self.store_waits,
            reserve_used: is_short && is_low(DISK_RESERVE_BYTES / 2),
            throttled: waiting_bytes
                > if self.told.throttled { resume_bytes } else { self.bytes_max },
        };
        self.tell(now, room.disk_free_bytes);
        Ok(())
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
    use std::path::Path;
    use std::sync::mpsc::channel;
    use tokio::sync::mpsc::UnboundedReceiver;

    /// A thread of one worker and what reaches that worker, with a journal of short segments.
    fn thread(dir: &Path, segment_bytes: u64) -> (JournalThread, UnboundedReceiver<Input>) {
        let disk = FileDisk::open(dir, false).unwrap();
        let options = Options { segment_bytes, ..Options::default() };
        let (journal, _) = Journal::open(disk, options).unwrap();
        let (inboxes, mut received) = Inboxes::new(1);
        let thread = JournalThread {
            journal,
            requests: channel().1,
            inboxes,
            store: channel().0,
            fatal: Fatal,
            durable: HashMap::new(),
            held: VecDeque::new(),
            bytes_max: 1 << 20,
            told: Told::default(),
            store_waits: false,
            observed: Arc::new(Observed::new(None)),
        };
        (thread, received.pop().unwrap())
    }

    fn frame(ticket: u64, bytes: usize) -> Frame {
        let entry = Entry { term: 1, index: ticket, payload: Arc::new(vec![0; bytes]) };
        let records = vec![Record { shard: 0, body: Body::Entry(entry) }];
        Frame { ticket, records, sync: true }
    }

    /// What the worker was told, in short.
    fn told(received: &mut UnboundedReceiver<Input>) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(input) = received.try_recv() {
            all.push(match input {
                Input::DiskFull(full) => format!("full {full}"),
                Input::ReserveUsed(used) => format!("used {used}"),
                Input::Throttled(on) => format!("throttled {on}"),
                Input::FlushWanted(_) => continue,
                _ => "something else".into(),
            });
        }
        all
    }

    fn append(thread: &mut JournalThread, ticket: u64, bytes: usize) {
        let gathered = thread.gather(Request::Append { worker: 0, frame: frame(ticket, bytes) });
        thread.append(&gathered).unwrap();
        thread.look_after_room().unwrap();
    }

    #[test]
    fn writes_wait_while_the_tables_lack_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let (mut thread, mut received) = thread(dir.path(), 64 << 10);
        let mut ticket = 0;
        while told(&mut received).is_empty() {
            ticket += 1;
            append(&mut thread, ticket, 20_000);
            assert!(ticket < 100, "nobody is told to wait");
        }
        assert!(thread.told.throttled && thread.journal.trimmable_bytes() > 1 << 20);
        // A little of it is not enough, half of it is.
        for (applied, expected) in [(4, vec![]), (ticket / 2, vec!["throttled false"])] {
            thread.durable.insert(0, applied);
            thread.trim().unwrap();
            thread.look_after_room().unwrap();
            assert_eq!(told(&mut received), expected, "{applied} of {ticket}");
        }
    }

    #[test]
    fn a_long_frame_that_cannot_go_yet_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (mut thread, mut received) = thread(dir.path(), 64 << 10);
        append(&mut thread, 1, 3 << 20);
        assert!(thread.journal.bytes() > 3 << 20);
        assert!(told(&mut received).is_empty());
        // Once it can go it counts, until it is gone.
        append(&mut thread, 2, 1);
        assert_eq!(told(&mut received), ["throttled true"]);
        thread.durable.insert(0, 2);
        thread.trim().unwrap();
        thread.look_after_room().unwrap();
        assert_eq!(told(&mut received), ["throttled false"]);
    }

    #[test]
    fn a_store_that_waits_for_room_means_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (mut thread, mut received) = thread(dir.path(), 64 << 10);
        for waits in [true, true, false] {
            assert!(thread.gather(Request::StoreWaits(waits)).look);
            thread.look_after_room().unwrap();
        }
        assert_eq!(told(&mut received), ["full true", "full false"]);
    }

    #[test]
    fn an_append_gathers_frames_up_to_a_bound_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut thread, _received) = thread(dir.path(), 64 << 20);
        let (sender, requests) = channel();
        thread.requests = requests;
        for (ticket, bytes) in [(1, 1 << 20), (2, 1 << 20), (3, 20 << 20), (4, 1), (5, 1)] {
            sender.send(Request::Append { worker: 0, frame: frame(ticket, bytes) }).unwrap();
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
