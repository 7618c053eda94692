//! Several replicas in one thread: a virtual clock that each sees run fast or slow, a network that
//! loses, delays and reorders, a disk whose syncs take time, crashes that keep a prefix of what was
//! not yet synced, damaged disks, snapshots that crashes interrupt, changes of members, and times
//! in which nothing is asked. All of it follows from one seed.
//!
//! Always: no two different entries are agreed on at one index; a leader holds all that was
//! agreed on before its term; what is acknowledged was agreed on; a read sees what had been
//! acknowledged before it. At the end, when faults stop: everybody agrees on a new entry, nobody
//! is lost, and all sleep when nothing is asked.

use super::*;
use crate::{Log, Outputs};
use std::collections::BTreeMap;

pub(super) const STEP_MS: Millis = 10;
const FAULTS_MS: Millis = 15_000;
const HEALED_MS: Millis = 10_000;

type Said = (Term, Vec<u8>);
type Messages = Vec<(NodeId, Vec<u8>)>;

/// Which faults a seed draws, in chances out of a thousand per step or message.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) lose: u64,
    pub(super) delay_steps: u64,
    pub(super) sync_steps: u64,
    pub(super) crash: u64,
    /// Of crashes.
    pub(super) damage: u64,
    pub(super) cut: u64,
    pub(super) transfer: u64,
    pub(super) reconfigure: u64,
    pub(super) propose: u64,
    pub(super) read: u64,
    /// Times in which nothing is asked.
    pub(super) quiet: u64,
    /// Memory for entries that a follower misses.
    pub(super) retained_bytes: usize,
    /// Damage is not told.
    pub(super) deny_damage: bool,
    /// Something of the above makes followers need snapshots.
    pub(super) snapshots: bool,
}

/// What survives a crash.
#[derive(Default)]
struct Disk {
    journal: Vec<Record>,
    flushed: Vec<Said>,
    /// Something is gone, and no state record says so yet.
    damaged: bool,
}

impl Disk {
    fn says_lost(&self) -> bool {
        let state = self.journal.iter().rev().find_map(|record| match &record.body {
            Body::State(state) => Some(state),
            Body::Entry(_) => None,
        });
        self.damaged || state.is_some_and(|state| decode_state(state).unwrap().lost)
    }
}

pub(super) struct Replica {
    pub(super) log: RaftLog,
    /// The state: what was applied at index 1, 2, …; at a leader ahead of what was agreed on.
    state: Vec<Said>,
    /// Indexes proposed under the current leadership and not yet acknowledged.
    pending: BTreeMap<Index, Said>,
    /// Reads with the highest index acknowledged anywhere when they began.
    reads: BTreeMap<u64, Index>,
    commit: Index,
    /// Writes under way: due time, number, records, messages that wait for it.
    writes: VecDeque<(Millis, u64, Vec<Record>, Messages)>,
    /// A snapshot that came, and the write after which the old state may go.
    snapshot: Option<(u64, Vec<Said>)>,
    /// The old state is gone and the new one is not complete before this time.
    half_installed: Option<Millis>,
}

pub(super) struct World {
    pub(super) prng: Prng,
    /// How fast each replica's clock runs, in thousandths.
    rates: Vec<u64>,
    /// The first members.
    first: Vec<NodeId>,
    pub(super) faults: Faults,
    pub(super) now: Millis,
    disks: Vec<Disk>,
    pub(super) replicas: Vec<Option<Replica>>,
    /// Messages under way: due time and tie-breaker → from, to, bytes.
    network: BTreeMap<(Millis, u64), (usize, usize, Vec<u8>)>,
    pub(super) sent: u64,
    /// A replica that nobody reaches at the moment.
    cut_off: Option<usize>,
    quiet_until: Millis,
    /// Index → what was agreed on and the term of the replica that first said so.
    agreed: BTreeMap<Index, (Said, Term)>,
    next_read: u64,
    pub(super) seen: Seen,
}

/// What a run reached: the proof that it was not trivial, and a digest of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) leaderships: u64,
    pub(super) losses: u64,
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) crashes: u64,
    pub(super) replayed: u64,
    pub(super) last_term: Term,
    pub(super) trimmed: u64,
    pub(super) damages: u64,
    pub(super) snapshots: u64,
    pub(super) half_installs: u64,
    pub(super) changes: u64,
    pub(super) asleep_steps: u64,
}

impl World {
    /// Three voters under the faults that `seed` draws.
    pub(super) fn new(seed: u64) -> Self {
        Self::of(3, seed)
    }

    /// `nodes` nodes, the first three of which begin as voters.
    pub(super) fn of(nodes: usize, seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let mut up_to = |max: u64| if prng.below(4) == 0 { 0 } else { prng.below(max) };
        let faults = Faults {
            lose: up_to(200),
            delay_steps: up_to(12),
            sync_steps: up_to(12),
            crash: up_to(8),
            damage: 0,
            cut: up_to(20),
            transfer: up_to(20),
            reconfigure: 0,
            propose: 50 + up_to(500),
            read: 100,
            quiet: 0,
            retained_bytes: RETAINED_BYTES_MAX,
            deny_damage: false,
            snapshots: false,
        };
        let drift = CLOCK_DRIFT_MAX_PERCENT * 10;
        let mut world = Self {
            rates: (0..nodes).map(|_| 1_000 - drift + prng.below(2 * drift + 1)).collect(),
            first: vec![1, 2, 3],
            prng,
            faults,
            now: 1_000,
            disks: (0..nodes).map(|_| Disk::default()).collect(),
            replicas: (0..nodes).map(|_| None).collect(),
            network: BTreeMap::new(),
            sent: 0,
            cut_off: None,
            quiet_until: 0,
            agreed: BTreeMap::new(),
            next_read: 0,
            seen: Seen::default(),
        };
        (0..nodes).for_each(|at| world.start(at));
        world
    }

    /// The same with faults on top.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Faults)) -> Self {
        change(&mut self.faults);
        self.faults.snapshots = self.faults.retained_bytes < RETAINED_BYTES_MAX
            || self.faults.damage > 0
            || self.faults.reconfigure > 0;
        for replica in self.replicas.iter_mut().flatten() {
            replica.log.retained_bytes_max = self.faults.retained_bytes;
        }
        self
    }

    fn nodes(&self) -> usize {
        self.replicas.len()
    }

    /// What the clock of a replica shows.
    fn clock(&self, at: usize) -> Millis {
        self.now * self.rates[at] / 1_000
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.prng.below(1_000) < per_mille
    }

    fn start(&mut self, at: usize) {
        let disk = &self.disks[at];
        let applied = disk.flushed.len() as u64;
        let mut restored = replay(&disk.journal, applied, disk.flushed.last().map_or(0, |s| s.0));
        restored.lost = disk.damaged;
        let state = disk.flushed.clone();
        let seed = self.prng.next_u64();
        let mut log = RaftLog::joining(SHARD, at as u64 + 1, &self.first, restored, seed).unwrap();
        log.retained_bytes_max = self.faults.retained_bytes;
        self.replicas[at] = Some(Replica {
            log,
            state,
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            commit: applied,
            writes: VecDeque::new(),
            snapshot: None,
            half_installed: None,
        });
        if self.disks[at].damaged {
            // Sessions: nothing of a former life comes after something of a later one.
            self.network.retain(|_, (from, _, _)| *from != at);
        }
        self.tell_peers(at, false);
    }

    /// The disk keeps a prefix of what was under way.
    pub(super) fn crash(&mut self, at: usize) {
        let Some(replica) = self.replicas[at].take() else { return };
        let under_way: Vec<Record> = replica.writes.into_iter().flat_map(|w| w.2).collect();
        let kept = self.prng.below(under_way.len() as u64 + 1) as usize;
        self.write(at, under_way.into_iter().take(kept).collect());
        self.seen.crashes += 1;
        self.seen.half_installs += u64::from(replica.half_installed.is_some());
        self.tell_peers(at, true);
    }

    fn write(&mut self, at: usize, records: Vec<Record>) {
        let disk = &mut self.disks[at];
        disk.damaged &= !records.iter().any(|record| matches!(record.body, Body::State(_)));
        disk.journal.extend(records);
    }

    /// Something on the disk of a replica that is down goes bad.
    fn damage(&mut self, at: usize) {
        let others = |n: usize| n != at && self.disks[n].says_lost();
        let alive = |n: usize| {
            n != at && self.replicas[n].as_ref().is_some_and(|replica| replica.log.is_lost())
        };
        if (0..self.nodes()).any(|n| others(n) || alive(n)) {
            return;
        }
        let kind = self.prng.below(4);
        let cut = self.prng.below(self.disks[at].journal.len() as u64 + 1) as usize;
        let disk = &mut self.disks[at];
        match kind {
            _ if self.faults.deny_damage => *disk = Disk::default(),
            0 => *disk = Disk::default(),
            1 => disk.flushed.clear(),
            2 => disk.journal.truncate(cut),
            _ => disk.journal.drain(..cut).for_each(drop),
        }
        disk.damaged = !self.faults.deny_damage;
        self.seen.damages += 1;
    }

    /// Everybody learns that a replica is out of reach, or that a session with it began.
    fn tell_peers(&mut self, about: usize, gone: bool) {
        for at in 0..self.nodes() {
            let now = self.clock(at);
            if at != about
                && let Some(replica) = &mut self.replicas[at]
            {
                let peer = about as u64 + 1;
                if gone {
                    replica.log.peer_gone(now, peer);
                } else {
                    replica.log.link_reset(peer);
                }
            }
        }
    }

    /// A replica is cut off, or reached again.
    fn cut(&mut self, at: usize, gone: bool) {
        self.cut_off = gone.then_some(at);
        self.tell_peers(at, gone);
        for peer in (0..self.nodes()).filter(|peer| *peer != at) {
            let now = self.clock(at);
            if let Some(replica) = &mut self.replicas[at] {
                if gone {
                    replica.log.peer_gone(now, peer as u64 + 1);
                } else {
                    replica.log.link_reset(peer as u64 + 1);
                }
            }
        }
    }

    fn post(&mut self, from: usize, messages: Messages) {
        for (to, bytes) in messages {
            let to = to as usize - 1;
            if self.chance(self.faults.lose) || [Some(from), Some(to)].contains(&self.cut_off) {
                if self.chance(500) && self.cut_off.is_none() {
                    for (at, peer) in [(from, to), (to, from)] {
                        if let Some(replica) = &mut self.replicas[at] {
                            replica.log.link_reset(peer as u64 + 1);
                        }
                    }
                }
                continue;
            }
            let delay = 1 + self.prng.below(self.faults.delay_steps + 1);
            self.sent += 1;
            self.network.insert((self.now + delay * STEP_MS, self.sent), (from, to, bytes));
        }
    }

    pub(super) fn step(&mut self) {
        self.now += STEP_MS;
        while let Some(first) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, bytes) = first.remove();
            let now = self.clock(to);
            if let Some(replica) = &mut self.replicas[to] {
                replica.log.step(now, from as u64 + 1, &bytes);
                assert_eq!(replica.log.rejected_messages(), 0);
            }
        }
        for at in 0..self.nodes() {
            if self.replicas[at].is_some() {
                self.sync(at);
                self.work(at);
                self.install(at);
                self.take(at);
            }
        }
        let asleep = |r: &Option<Replica>| r.as_ref().is_some_and(|r| r.log.sleep.asleep);
        self.seen.asleep_steps += u64::from(self.replicas.iter().all(asleep));
    }

    fn sync(&mut self, at: usize) {
        let now = self.now;
        let (mut messages, mut records) = (Vec::new(), Vec::new());
        let replica = self.replicas[at].as_mut().unwrap();
        while let Some(write) = replica.writes.pop_front_if(|write| write.0 <= now) {
            records.extend(write.2);
            replica.log.persisted(write.1);
            messages.extend(write.3);
            if let Some((seq, _)) = &replica.snapshot
                && *seq <= write.1
                && replica.half_installed.is_none()
            {
                self.disks[at].flushed.clear();
                replica.half_installed = Some(now + self.prng.below(20) * STEP_MS);
            }
        }
        self.write(at, records);
        self.post(at, messages);
    }

    /// Completes a snapshot.
    fn install(&mut self, at: usize) {
        let replica = self.replicas[at].as_mut().unwrap();
        if replica.half_installed.is_some_and(|due| due <= self.now) {
            let (_, state) = replica.snapshot.take().unwrap();
            replica.half_installed = None;
            replica.log.install(state.len() as u64, state.last().unwrap().0);
            self.disks[at].flushed = state.clone();
            replica.state = state;
            self.seen.snapshots += 1;
        }
    }

    /// The clients, the clock, and the flushing of the state.
    fn work(&mut self, at: usize) {
        let quiet = self.now < self.quiet_until;
        let propose = self.chance(self.faults.propose) && !quiet;
        let read = self.chance(self.faults.read) && !quiet;
        let reconfigure = self.chance(self.faults.reconfigure) && !quiet;
        let (flush, trim) = (self.chance(50), self.chance(100));
        let mut value = self.prng.next_u64().to_le_bytes().to_vec();
        value[0] = 1;
        let now = self.clock(at);
        let replica = self.replicas[at].as_mut().unwrap();
        if replica.log.next_deadline().is_some_and(|deadline| deadline <= now) {
            replica.log.tick(now);
        }
        if propose && replica.log.accepts() {
            let index = replica.log.next_index();
            let said = (replica.log.term(), value);
            // The log's own entries are the node's to count, not to apply.
            while (replica.state.len() as u64) < index - 1 {
                replica.state.push((said.0, Vec::new()));
            }
            replica.state.push(said.clone());
            assert_eq!(replica.log.propose(said.1.clone()), Ok(index));
            replica.pending.insert(index, said);
        }
        if read {
            self.next_read += 1;
            let acknowledged = self.agreed.last_key_value().map_or(0, |(index, _)| *index);
            replica.reads.insert(self.next_read, acknowledged);
            replica.log.read(now, self.next_read);
        }
        if flush && replica.writes.is_empty() && replica.snapshot.is_none() {
            let upto = replica.commit.min(replica.state.len() as u64) as usize;
            let disk = &mut self.disks[at];
            if upto > disk.flushed.len() {
                disk.flushed = replica.state[..upto].to_vec();
            }
            replica.log.compact(disk.flushed.len() as u64);
            if trim {
                let from = replica.log.journal_from();
                disk.journal.retain(|record| match &record.body {
                    Body::Entry(entry) => entry.index >= from,
                    Body::State(_) => true,
                });
            }
        }
        if reconfigure && replica.log.accepts() {
            let members = self.draw_members();
            let replica = self.replicas[at].as_mut().unwrap();
            if let Ok(Some(_)) = replica.log.reconfigure(&members) {
                self.seen.changes += 1;
            }
        }
    }

    /// Three voters or more.
    fn draw_members(&mut self) -> Members {
        let mut members = Members::default();
        for id in 1..=self.nodes() as u64 {
            match self.prng.below(10) {
                0..6 => members.voters.push(id),
                6..8 => members.learners.push(id),
                _ => {}
            }
        }
        if members.voters.len() < 3 {
            members = Members { voters: vec![1, 2, 3], ..Members::default() };
        }
        members
    }

    fn take(&mut self, at: usize) {
        let replica = self.replicas[at].as_mut().unwrap();
        let mut out = Outputs::default();
        replica.log.take(&mut out);
        let term = replica.log.term();
        replica.commit = out.commit;
        for index in replica.pending.keys().copied().take_while(|i| *i <= out.commit) {
            agree(&mut self.agreed, index, &replica.pending[&index], term);
            self.seen.acknowledged += 1;
        }
        replica.pending.retain(|index, _| *index > out.commit);
        if out.lost_leadership {
            assert!(out.committed.is_empty());
            replica.pending.clear();
            replica.state = self.disks[at].flushed.clone();
            if replica.half_installed.is_none() {
                replica.log.replay_after(replica.state.len() as u64);
            }
            self.seen.losses += 1;
        }
        if replica.snapshot.is_none() {
            for entry in &out.committed {
                assert_eq!(entry.index, replica.state.len() as u64 + 1, "replay is not in order");
                let said = (entry.term, entry.payload.to_vec());
                agree(&mut self.agreed, entry.index, &said, term);
                replica.state.push(said);
                self.seen.replayed += 1;
            }
        }
        if !out.lost_leadership && replica.snapshot.is_none() {
            let leads = replica.log.is_leader() && replica.log.accepts();
            let have = replica.state.len() as u64;
            replica.log.applied(if leads { out.commit } else { out.commit.min(have) });
        }
        if let Some(leadership) = out.gained_leadership {
            self.seen.leaderships += 1;
            let missing = self.agreed.iter().find(|(index, (said, by))| {
                let held = replica.log.raft.raft_log.term(**index).ok();
                *by < leadership.term && held != Some(said.0) && held.is_some_and(|t| t != 0)
                    || *by < leadership.term && **index >= leadership.start
            });
            assert_eq!(missing, None, "the leader of {leadership:?} lacks an agreed entry");
        }
        for id in &out.readable {
            let floor = replica.reads.remove(id).expect("each read is answered once");
            // The log's own entries at the end are agreed on but not applied by their leader.
            let have = replica.state.len() as u64;
            let own = replica.log.is_leader() && floor <= replica.log.last_index();
            assert!(have >= floor || own, "read {id} sees {have} of {floor} acknowledged");
            if let Some(said) = replica.state.get((floor as usize).wrapping_sub(1)) {
                assert_eq!(said, &self.agreed[&floor].0, "read {id} sees another {floor}");
            }
            self.seen.reads += 1;
        }
        self.seen.last_term = self.seen.last_term.max(term);
        self.seen.trimmed = self.seen.trimmed.max(replica.log.raft.store().first());

        if !out.persist.is_empty() {
            let due = self.now + self.prng.below(self.faults.sync_steps + 1) * STEP_MS;
            let due = due.max(replica.writes.back().map_or(0, |write| write.0));
            replica.writes.push_back((due, out.seq, out.persist, out.send_durable));
        } else if !out.send_durable.is_empty() {
            let last = replica.writes.back_mut().expect("nothing else makes a message wait");
            assert_eq!(last.1, out.seq);
            last.3.extend(out.send_durable);
        }
        self.post(at, out.send_now);
        for peer in out.need_snapshot {
            assert!(self.faults.snapshots, "an entry left memory that a voter needs");
            self.offer(at, peer as usize - 1);
        }
    }

    /// A follower begins to replace its state by a leader's.
    fn offer(&mut self, from: usize, to: usize) {
        let leader = self.replicas[from].as_ref().unwrap();
        let upto = (leader.commit as usize).min(leader.state.len());
        let snapshot = leader.state[..upto].to_vec();
        let Some(replica) = &mut self.replicas[to] else { return };
        if snapshot.is_empty()
            || replica.snapshot.is_some()
            || [Some(from), Some(to)].contains(&self.cut_off)
        {
            return;
        }
        replica.log.begin_install();
        // The number of the write that makes it durable: the next.
        replica.snapshot = Some((replica.log.last_seq + 1, snapshot));
        self.take(to);
    }

    fn misfortune(&mut self) {
        for at in 0..self.nodes() {
            if self.replicas[at].is_none() {
                if self.chance(50) {
                    self.start(at);
                }
            } else if self.chance(self.faults.crash) {
                self.crash(at);
                if self.chance(self.faults.damage) {
                    self.damage(at);
                    // The worst moment: whoever could tell what was lost falters too.
                    let leads = |r: &Option<Replica>| r.as_ref().is_some_and(|r| r.log.is_leader());
                    let leader = self.replicas.iter().position(leads);
                    if let Some(leader) = leader.filter(|_| self.chance(300)) {
                        self.crash(leader);
                    }
                    if self.chance(500) {
                        self.start(at);
                    }
                }
            }
        }
        if let Some(at) = self.cut_off {
            if self.chance(5) {
                self.cut(at, false);
            }
        } else if self.chance(self.faults.cut) {
            let at = self.prng.below(self.nodes() as u64) as usize;
            self.cut(at, true);
        }
        if self.chance(self.faults.transfer) {
            let nodes = self.nodes() as u64;
            let (at, to) = (self.prng.below(nodes) as usize, self.prng.below(nodes) + 1);
            if let Some(replica) = &mut self.replicas[at] {
                if to % 2 == 0 { replica.log.transfer(to) } else { replica.log.campaign() }
            }
        }
        if self.now >= self.quiet_until && self.chance(self.faults.quiet) {
            self.quiet_until = self.now + self.prng.below(2_000);
        }
    }

    pub(super) fn run(mut self) -> Seen {
        while self.now < FAULTS_MS {
            self.misfortune();
            self.step();
        }
        (self.faults.lose, self.faults.reconfigure) = (0, 0);
        if let Some(at) = self.cut_off {
            self.cut(at, false);
        }
        for at in 0..self.nodes() {
            if self.replicas[at].is_none() {
                self.start(at);
            }
        }
        let acknowledged = self.seen.acknowledged;
        while self.now < FAULTS_MS + HEALED_MS {
            self.step();
        }
        assert!(self.seen.acknowledged > acknowledged, "no progress after the faults");
        self.faults.propose = 0;
        for _ in 0..200 {
            self.step();
        }
        let last = *self.agreed.last_key_value().unwrap().0;
        let leader = self.replicas.iter().flatten().find(|replica| replica.log.is_leader());
        let members = leader.expect("a healthy group has a leader").log.members();
        assert!(members.outgoing.is_empty(), "a change never ended: {members:?}");
        for (replica, id) in self.replicas.iter().flatten().zip(1..) {
            if !members.voters.contains(&id) && !members.learners.contains(&id) {
                continue;
            }
            assert_eq!(replica.log.members(), members);
            assert!(!replica.log.is_lost(), "replica {id} never came back");
            let end = replica.log.commit();
            // The log's own entries may come last.
            assert!(end >= last && end <= last + 4, "{end} of {last}");
            assert_eq!(end, replica.log.last_index());
            let pending = replica.reads.values();
            assert!(pending.clone().all(|floor| *floor + 50 > last), "a read is stuck");
            for (index, (said, _)) in &self.agreed {
                assert_eq!(replica.state.get(*index as usize - 1).unwrap_or(said), said);
            }
        }
        // Messages in order: a heartbeat that comes after the word to sleep wakes.
        (self.faults.read, self.faults.delay_steps) = (0, 0);
        for _ in 0..150 {
            self.step();
        }
        if self.nodes() == 3 {
            assert!(self.replicas.iter().flatten().all(|r| r.log.next_deadline().is_none()));
        }
        self.seen
    }
}

fn agree(agreed: &mut BTreeMap<Index, (Said, Term)>, index: Index, said: &Said, by: Term) {
    let (first, _) = agreed.entry(index).or_insert_with(|| (said.clone(), by));
    assert_eq!(first, said, "two entries were agreed on at {index}");
}
