//! One machine: its clock and disks, which outlive crashes, and the process that may run on it.

use crate::chance::{between, ppm};
use crate::clock::Clock;
use crate::journal::{self, JournalProcess};
use crate::queue::Micros;
use crate::shape::Shape;
use crate::store::{self, StoreProcess};
use crate::table::{Content, SimTable};
use quorate_base::ids::NodeId;
use quorate_base::{Prng, ShardId};
use quorate_data::Keyspace;
use quorate_data::table::{Mark, Table};
use quorate_log::raft::{RaftLog, Restored};
use quorate_log::{Body, Log, Outputs};
use quorate_node::{ConnId, Durability, Message, ShardStart, Worker, WorkerId, home};
use quorate_storage::journal::memory::Fate;
use quorate_storage::journal::{Journal, JournalError, MemoryDisk, Options, Recovered};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What reaches a worker.
#[derive(Debug)]
pub(crate) enum Input {
    Connected(ConnId, usize),
    Received(ConnId, Vec<u8>),
    Disconnected(ConnId),
    Message(WorkerId, Box<Message>),
    Persisted(u64),
    Flushed(ShardId, Mark),
    FlushWanted(ShardId),
    DiskFull(bool),
    ReserveUsed(bool),
    Throttled(bool),
    /// In this session.
    PeerUp(NodeId, u64),
    PeerDown(NodeId),
    Peer(NodeId, Vec<u8>),
    Tick,
    Shutdown,
}

/// A worker and what waits for it.
pub(crate) struct Slot {
    pub(crate) worker: Worker,
    pub(crate) inbox: VecDeque<Input>,
    /// A turn is planned, and what the clock showed when it was.
    pub(crate) turn: Option<quorate_node::Time>,
    /// When a tick is planned.
    pub(crate) tick_at: Option<Micros>,
    /// A tick waits in the inbox.
    pub(crate) ticks: bool,
    /// The links that the worker was told are up, with their sessions.
    pub(crate) sessions: BTreeMap<NodeId, u64>,
}

/// A running node.
pub(crate) struct Process {
    pub(crate) slots: Vec<Slot>,
    pub(crate) journal: JournalProcess,
    pub(crate) store: StoreProcess,
    /// When they are planned to be run.
    pub(crate) journal_at: Option<Micros>,
    pub(crate) store_at: Option<Micros>,
    /// Clients by connection, with the worker that serves them.
    pub(crate) conns: BTreeMap<ConnId, (usize, WorkerId)>,
    pub(crate) next_worker: WorkerId,
    /// When the last message from one worker to another arrives.
    mail: BTreeMap<(WorkerId, WorkerId), Micros>,
}

impl Process {
    /// When a message between two workers arrives that is meant to at `at`: not before an earlier
    /// one.
    pub(crate) fn mail_arrival(&mut self, from: WorkerId, to: WorkerId, at: Micros) -> Micros {
        let last = self.mail.entry((from, to)).or_default();
        *last = at.max(*last);
        *last
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Killed: the machine goes on, and writes what it was given.
    Killed,
    /// The machine loses power.
    PowerLoss,
}

/// How slow the disks are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFault {
    pub(crate) stalled_until: Micros,
    pub(crate) slow_factor: u64,
    pub(crate) slow_until: Micros,
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) prng: Prng,
    pub(crate) process: Option<Process>,
    /// Counts processes: what is meant for an earlier one is dropped.
    pub(crate) life: u32,
    pub(crate) paused_until: Micros,
    pub(crate) slow_us: Micros,
    pub(crate) slow_until: Micros,
    pub(crate) disk_fault: DiskFault,
    pub(crate) full: bool,
    /// Its durable state was damaged, and it is not known that it has repaired itself.
    pub(crate) damaged: bool,
    /// A start is planned.
    pub(crate) starting: bool,
    /// A start looks for damage in tables; otherwise it shows when it is read.
    notices_damage: bool,
    /// The journal is to rot before the next start.
    pub(crate) rot: Option<u64>,
    sync_us: Micros,
    disk: MemoryDisk,
    tables: Vec<Content>,
}

impl Machine {
    /// A machine with empty disks.
    pub(crate) fn new(index: usize, shape: &Shape, prng: Prng) -> Self {
        Self {
            index,
            clock: Clock::new(),
            prng,
            process: None,
            life: 0,
            paused_until: 0,
            slow_us: 0,
            slow_until: 0,
            disk_fault: DiskFault::default(),
            full: false,
            damaged: false,
            starting: false,
            notices_damage: true,
            rot: None,
            sync_us: shape.knobs.sync_us,
            disk: MemoryDisk::default(),
            tables: vec![Content::default(); shape.shards as usize],
        }
    }

    /// The id of its node.
    pub(crate) fn id(&self) -> NodeId {
        self.index as NodeId + 1
    }

    /// Ends the process; the disks keep what they keep.
    pub(crate) fn stop(&mut self, end: End) {
        let Some(process) = self.process.take() else { return };
        self.life += 1;
        self.tables = process.store.tables().iter().map(SimTable::durable).collect();
        let disk = process.journal.into_disk();
        let prng = &mut self.prng;
        let keep = prng.below(101) * 10_000;
        self.disk = disk.crash(|| match end {
            End::Killed => Fate::Kept,
            End::PowerLoss if ppm(prng, keep) => Fate::Kept,
            End::PowerLoss if ppm(prng, 900_000) => Fate::Lost,
            End::PowerLoss => Fate::Torn(prng.below(512) as usize),
        });
    }

    /// Damages a pair of a table or many; false if there is none. A later start may notice it, or
    /// leave it to whoever reads.
    pub(crate) fn damage_table(&mut self, seed: u64) -> bool {
        let tables = self.tables.len() as u64;
        let at = (seed % tables) as usize;
        let spreads = (seed / tables) & 1 == 1;
        self.notices_damage = (seed / tables) & 2 == 2;
        match &self.process {
            Some(process) => process.store.tables()[at].damage(seed / tables / 4, spreads),
            None => self.tables[at].damage(seed / tables / 4, spreads),
        }
    }

    /// Makes the disks full, or gives them room.
    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
        if let Some(process) = &mut self.process {
            journal::set_full(process.journal.disk_mut(), full);
            process.store.full = full;
        }
    }

    /// The disk's next operation fails.
    pub(crate) fn fail_disk(&mut self) {
        if let Some(process) = &mut self.process {
            let disk = process.journal.disk_mut();
            disk.fail_at = disk.operations + 1;
        }
    }

    /// Starts the node from what its disks hold; says in words what it found.
    pub(crate) fn start(
        &mut self,
        now: Micros,
        shape: &Shape,
        found: &mut Vec<String>,
    ) -> Result<(), String> {
        assert!(self.process.is_none(), "node {} runs already", self.id());
        self.clock.restart(now);
        let (mut journal, mut recovered, rotten) = self.open_journal(shape, found)?;
        let config = Arc::new(shape.config(self.id()));
        let mut starts: Vec<Vec<ShardStart>> = (0..shape.workers).map(|_| Vec::new()).collect();
        let mut tables = Vec::new();
        let mut durable = BTreeMap::new();
        for shard in 0..shape.shards {
            let mut content = std::mem::take(&mut self.tables[shard as usize]);
            let dropped = content.is_damaged() && self.notices_damage;
            let lost = rotten || dropped;
            if dropped {
                found.push(format!("the table of shard {shard} is damaged and was dropped"));
                content = Content::default();
            }
            if lost {
                self.note_loss(shard, &mut journal, &mut recovered, shape)?;
            }
            let table = SimTable::open(content);
            durable.insert(shard, table.mark().applied);
            let start = self.open_shard(shard, &table, &mut recovered, shape, lost)?;
            starts[usize::from(home(shard, shape.workers))].push(start);
            tables.push(table);
        }
        let mut slots = Vec::new();
        for (id, starts) in (0..shape.workers).zip(starts) {
            let worker = Worker::new(id, Arc::clone(&config), starts, self.prng.next_u64());
            let worker = worker.map_err(|error| format!("worker {id} cannot replay: {error}"))?;
            for replica in worker.replicas().iter().filter(|replica| !replica.serving) {
                found.push(format!("the table of shard {} cannot be read", replica.shard));
            }
            slots.push(Slot {
                worker,
                inbox: VecDeque::new(),
                turn: None,
                tick_at: None,
                ticks: false,
                sessions: BTreeMap::new(),
            });
        }
        let knobs = &shape.knobs;
        let mut process = Process {
            slots,
            journal: JournalProcess::new(journal, durable, knobs, now),
            store: StoreProcess::new(tables, knobs.persist_bytes, now),
            journal_at: None,
            store_at: None,
            conns: BTreeMap::new(),
            next_worker: 0,
            mail: BTreeMap::new(),
        };
        journal::set_full(process.journal.disk_mut(), self.full);
        process.store.full = self.full;
        self.process = Some(process);
        Ok(())
    }

    /// The journal learns that a replica is lost, before anything of it goes.
    fn note_loss(
        &mut self,
        shard: ShardId,
        journal: &mut Journal<MemoryDisk>,
        recovered: &mut Recovered,
        shape: &Shape,
    ) -> Result<(), String> {
        let from_journal = recovered.shards.entry(shard).or_default();
        let restored = Restored {
            state: (!from_journal.state.is_empty()).then(|| from_journal.state.clone()),
            entries: from_journal.entries.clone(),
            lost: true,
            ..Restored::default()
        };
        let mut outputs = Outputs::default();
        self.open_log(shard, restored, shape)?.take(&mut outputs);
        for record in &outputs.persist {
            if let Body::State(state) = &record.body {
                from_journal.state.clone_from(state);
            }
        }
        journal
            .append(&outputs.persist, true)
            .map_err(|error| format!("the loss of shard {shard} cannot be noted: {error}"))
    }

    fn open_log(
        &mut self,
        shard: ShardId,
        restored: Restored,
        shape: &Shape,
    ) -> Result<RaftLog, String> {
        let seed = self.prng.next_u64();
        let mut log = RaftLog::new(shard, self.id(), &shape.ids(), restored, seed)
            .map_err(|error| format!("shard {shard} cannot be recovered: {error}"))?;
        log.retain(shape.knobs.retained_bytes);
        Ok(log)
    }

    fn open_shard(
        &mut self,
        shard: ShardId,
        table: &SimTable,
        recovered: &mut Recovered,
        shape: &Shape,
        lost: bool,
    ) -> Result<ShardStart, String> {
        let mark = table.mark();
        let from_journal = recovered.shards.remove(&shard).unwrap_or_default();
        let restored = Restored {
            state: (!from_journal.state.is_empty()).then_some(from_journal.state),
            entries: from_journal.entries,
            applied: mark.applied,
            applied_term: mark.term,
            lost,
        };
        let log = self.open_log(shard, restored, shape)?;
        let keyspace = Keyspace::new(shard, shape.place_seed(), Box::new(table.clone()));
        let durability = if shape.relaxed { Durability::Relaxed } else { Durability::Sync };
        Ok(ShardStart { keyspace: Box::new(keyspace), log: Box::new(log), durability })
    }

    /// Opens the journal; true if it was rotten, was set aside, and a new one begins.
    fn open_journal(
        &mut self,
        shape: &Shape,
        found: &mut Vec<String>,
    ) -> Result<(Journal<MemoryDisk>, Recovered, bool), String> {
        let options = Options {
            segment_bytes: shape.knobs.segment_bytes,
            prepared_max: 4,
            id: 0x51 + self.id(),
        };
        let mut disk = std::mem::take(&mut self.disk);
        disk.capacity_bytes = 0;
        if let Some(seed) = self.rot.take()
            && !rot(&mut disk, &options, seed)
        {
            found.push("the journal had nothing that could rot".into());
            self.damaged = false;
        }
        match Journal::open(disk, options.clone()) {
            Ok((journal, recovered)) => {
                let cut_bytes = recovered.report.cut_bytes;
                if cut_bytes > 0 {
                    found.push(format!("a torn tail of {cut_bytes} bytes was cut"));
                }
                Ok((journal, recovered, false))
            }
            Err(error @ JournalError::Rot(_)) if shape.nodes > 1 => {
                found.push(format!("the journal was set aside: {error}"));
                let (journal, recovered) = Journal::open(MemoryDisk::default(), options)
                    .map_err(|error| format!("a new journal cannot be made: {error}"))?;
                Ok((journal, recovered, true))
            }
            Err(error) => Err(format!("the journal cannot be opened: {error}")),
        }
    }
}

/// Flips a bit in what was synced, if one can be found whose damage is told from a torn tail: the
/// very last frames have nothing after them that vouches for them, and are not promised.
fn rot(disk: &mut MemoryDisk, options: &Options, seed: u64) -> bool {
    const TRIES: usize = 20;
    let mut prng = Prng::new(seed);
    let frames = |disk: &MemoryDisk| {
        Journal::open(disk.clone(), options.clone()).map(|(_, found)| found.report.frames)
    };
    let Ok(all) = frames(disk) else { return false };
    let numbers = disk.numbers();
    for _ in 0..TRIES {
        let Some(nth) = prng.next_u64().checked_rem(numbers.len() as u64) else { return false };
        let mut damaged = disk.clone();
        let bytes = damaged.bytes_mut(numbers[nth as usize]).expect("it was just listed");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            continue;
        }
        let bit = prng.below(used as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        // Where the code takes a damaged frame for a good one, there are as many frames as before.
        let hides = frames(&damaged).is_ok_and(|left| left < all);
        if !hides {
            *disk = damaged;
            return true;
        }
    }
    false
}

impl DiskFault {
    fn stretch(&self, now: Micros, us: Micros) -> Micros {
        let factor = if now < self.slow_until { self.slow_factor } else { 1 };
        us * factor + self.stalled_until.saturating_sub(now)
    }
}

/// How long a machine's disks take, from now on.
pub(crate) struct Pace<'a> {
    pub(crate) now: Micros,
    pub(crate) prng: &'a mut Prng,
    pub(crate) fault: DiskFault,
    pub(crate) sync_us: Micros,
}

impl Machine {
    /// The process and how long its disks take.
    pub(crate) fn process_and_pace(&mut self, now: Micros) -> Option<(&mut Process, Pace<'_>)> {
        let pace =
            Pace { now, prng: &mut self.prng, fault: self.disk_fault, sync_us: self.sync_us };
        Some((self.process.as_mut()?, pace))
    }
}

impl Pace<'_> {
    fn varied(&mut self, us: Micros) -> Micros {
        let us = between(self.prng, us / 2 + 1, us * 3 / 2 + 1);
        self.fault.stretch(self.now, us)
    }
}

impl journal::Pace for Pace<'_> {
    fn journal_us(&mut self, bytes: usize, sync: bool) -> Micros {
        self.varied(5 + bytes as Micros / 500 + if sync { self.sync_us } else { 0 })
    }
}

impl store::Pace for Pace<'_> {
    fn write_us(&mut self, ops: usize) -> Micros {
        self.varied(20 + ops as Micros)
    }

    fn persist_us(&mut self, bytes: u64) -> Micros {
        self.varied(4 * self.sync_us + bytes / 200)
    }
}
