//! Three replicas in one thread: a virtual clock, a network that loses, delays and reorders, a
//! disk whose syncs take time, crashes that keep a prefix of what was not yet synced. All of it
//! follows from one seed.
//!
//! Always: no two different entries are agreed on at one index; a leader holds all that was
//! agreed on before its term; what is acknowledged was agreed on; a read sees what had been
//! acknowledged before it. At the end, when faults stop: everybody agrees on a new entry.

use super::*;
use crate::{Log, Outputs};
use quorate_base::mutation::set;
use std::collections::BTreeMap;

const STEP_MS: Millis = 10;
const FAULTS_MS: Millis = 15_000;
const HEALED_MS: Millis = 6_000;

type Said = (Term, Vec<u8>);
type Messages = Vec<(NodeId, Vec<u8>)>;

/// Which faults a seed draws, in chances out of a thousand per step or message.
#[derive(Default)]
struct Faults {
    lose: u64,
    delay_steps: u64,
    sync_steps: u64,
    crash: u64,
    cut: u64,
    transfer: u64,
    propose: u64,
}

/// What survives a crash.
#[derive(Default)]
struct Disk {
    journal: Vec<Record>,
    flushed: Vec<Said>,
}

struct Replica {
    log: RaftLog,
    /// The state: what was applied at index 1, 2, …; at a leader ahead of what was agreed on.
    state: Vec<Said>,
    /// Indexes proposed under the current leadership and not yet acknowledged.
    pending: BTreeMap<Index, Said>,
    /// Reads with the highest index acknowledged anywhere when they began.
    reads: BTreeMap<u64, Index>,
    commit: Index,
    /// Writes under way: due time, number, records, messages that wait for it.
    writes: VecDeque<(Millis, u64, Vec<Record>, Messages)>,
}

struct World {
    prng: Prng,
    /// How fast each replica's clock runs, in thousandths.
    rates: [u64; 3],
    faults: Faults,
    now: Millis,
    disks: Vec<Disk>,
    replicas: Vec<Option<Replica>>,
    /// Messages under way: due time and tie-breaker → from, to, bytes.
    network: BTreeMap<(Millis, u64), (usize, usize, Vec<u8>)>,
    sent: u64,
    /// A replica that nobody reaches at the moment.
    cut_off: Option<usize>,
    /// Index → what was agreed on and the term of the replica that first said so.
    agreed: BTreeMap<Index, (Said, Term)>,
    next_read: u64,
    seen: Seen,
}

/// What a run reached: the proof that it was not trivial, and a digest of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    leaderships: u64,
    losses: u64,
    acknowledged: u64,
    reads: u64,
    crashes: u64,
    replayed: u64,
    last_term: Term,
    trimmed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let mut up_to = |max: u64| if prng.below(4) == 0 { 0 } else { prng.below(max) };
        let faults = Faults {
            lose: up_to(200),
            delay_steps: up_to(12),
            sync_steps: up_to(12),
            crash: up_to(8),
            cut: up_to(20),
            transfer: up_to(20),
            propose: 50 + up_to(500),
        };
        let drift = CLOCK_DRIFT_MAX_PERCENT * 10;
        let mut world = Self {
            rates: std::array::from_fn(|_| 1_000 - drift + prng.below(2 * drift + 1)),
            prng,
            faults,
            now: 1_000,
            disks: (0..3).map(|_| Disk::default()).collect(),
            replicas: (0..3).map(|_| None).collect(),
            network: BTreeMap::new(),
            sent: 0,
            cut_off: None,
            agreed: BTreeMap::new(),
            next_read: 0,
            seen: Seen::default(),
        };
        (0..3).for_each(|at| world.start(at));
        world
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
        let restored = replay(&disk.journal, applied, disk.flushed.last().map_or(0, |s| s.0));
        let state = disk.flushed.clone();
        let seed = self.prng.next_u64();
        let log = RaftLog::new(SHARD, at as u64 + 1, &[1, 2, 3], restored, seed).unwrap();
        self.replicas[at] = Some(Replica {
            log,
            state,
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            commit: applied,
            writes: VecDeque::new(),
        });
    }

    /// The disk keeps a prefix of what was under way.
    fn crash(&mut self, at: usize) {
        let Some(replica) = self.replicas[at].take() else { return };
        let under_way: Vec<Record> = replica.writes.into_iter().flat_map(|w| w.2).collect();
        let kept = self.prng.below(under_way.len() as u64 + 1) as usize;
        self.disks[at].journal.extend(under_way.into_iter().take(kept));
        self.seen.crashes += 1;
    }

    fn post(&mut self, from: usize, messages: Messages) {
        for (to, bytes) in messages {
            let to = to as usize - 1;
            if self.chance(self.faults.lose) || [Some(from), Some(to)].contains(&self.cut_off) {
                if self.chance(500) {
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

    fn step(&mut self) {
        self.now += STEP_MS;
        while let Some(first) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, bytes) = first.remove();
            let now = self.clock(to);
            if let Some(replica) = &mut self.replicas[to] {
                replica.log.step(now, from as u64 + 1, &bytes);
                assert_eq!(replica.log.rejected_messages(), 0);
            }
        }
        for at in 0..3 {
            if self.replicas[at].is_some() {
                self.sync(at);
                self.work(at);
                self.take(at);
            }
        }
    }

    fn sync(&mut self, at: usize) {
        let replica = self.replicas[at].as_mut().unwrap();
        let mut messages = Vec::new();
        while let Some(write) = replica.writes.pop_front_if(|write| write.0 <= self.now) {
            self.disks[at].journal.extend(write.2);
            replica.log.persisted(write.1);
            messages.extend(write.3);
        }
        self.post(at, messages);
    }

    /// The clients, the clock, and the flushing of the state.
    fn work(&mut self, at: usize) {
        let (propose, read) = (self.chance(self.faults.propose), self.chance(100));
        let (flush, trim) = (self.chance(50), self.chance(100));
        let value = self.prng.next_u64().to_le_bytes().to_vec();
        let now = self.clock(at);
        let replica = self.replicas[at].as_mut().unwrap();
        if replica.log.next_deadline().is_some_and(|deadline| deadline <= now) {
            replica.log.tick(now);
        }
        if propose && replica.log.accepts() {
            let index = replica.log.next_index();
            let said = (replica.log.term(), value);
            // The opening entry is the node's to count, not to apply.
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
        if flush && replica.writes.is_empty() {
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
    }

    fn take(&mut self, at: usize) {
        let replica = self.replicas[at].as_mut().unwrap();
        let mut out = Outputs::default();
        replica.log.take(&mut out);
        assert!(out.need_snapshot.is_empty(), "an entry left memory that a voter needs");
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
            replica.log.replay_after(replica.state.len() as u64);
            self.seen.losses += 1;
        }
        for entry in &out.committed {
            assert_eq!(entry.index, replica.state.len() as u64 + 1, "replay is not in order");
            let said = (entry.term, entry.payload.to_vec());
            agree(&mut self.agreed, entry.index, &said, term);
            replica.state.push(said);
            self.seen.replayed += 1;
        }
        if !out.lost_leadership {
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
            // An opening entry at the end is agreed on but not applied by its leader.
            let opening = replica.log.leading.map_or(0, |leading| leading.start);
            let have = (replica.state.len() as u64).max(opening);
            assert!(have >= floor, "read {id} sees {have}, but {floor} was acknowledged before");
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
    }

    fn misfortune(&mut self) {
        for at in 0..3 {
            if self.replicas[at].is_none() {
                if self.chance(50) {
                    self.start(at);
                }
            } else if self.chance(self.faults.crash) {
                self.crash(at);
            }
        }
        if self.cut_off.is_some() {
            if self.chance(5) {
                self.cut_off = None;
            }
        } else if self.chance(self.faults.cut) {
            self.cut_off = Some(self.prng.below(3) as usize);
        }
        if self.chance(self.faults.transfer) {
            let (at, to) = (self.prng.below(3) as usize, self.prng.below(3) + 1);
            if let Some(replica) = &mut self.replicas[at] {
                if to % 2 == 0 { replica.log.transfer(to) } else { replica.log.campaign() }
            }
        }
    }

    fn run(mut self) -> Seen {
        while self.now < FAULTS_MS {
            self.misfortune();
            self.step();
        }
        (self.faults.lose, self.cut_off) = (0, None);
        for at in 0..3 {
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
        for replica in self.replicas.iter().flatten() {
            assert_eq!((replica.log.commit(), replica.log.last_index()), (last, last));
            assert!(replica.reads.values().all(|floor| *floor + 50 > last), "a read is stuck");
            for (index, (said, _)) in &self.agreed {
                assert_eq!(&replica.state[*index as usize - 1], said);
            }
        }
        self.seen
    }
}

fn agree(agreed: &mut BTreeMap<Index, (Said, Term)>, index: Index, said: &Said, by: Term) {
    let (first, _) = agreed.entry(index).or_insert_with(|| (said.clone(), by));
    assert_eq!(first, said, "two entries were agreed on at {index}");
}

#[test]
fn three_voters_agree_whatever_happens() {
    let mut total = Seen::default();
    for seed in 0..300 {
        let seen = std::panic::catch_unwind(|| World::new(seed).run())
            .unwrap_or_else(|_| panic!("seed {seed} failed"));
        total.leaderships += seen.leaderships;
        total.losses += seen.losses;
        total.acknowledged += seen.acknowledged;
        total.reads += seen.reads;
        total.crashes += seen.crashes;
        total.replayed += seen.replayed;
        total.trimmed += u64::from(seen.trimmed > 1);
    }
    assert!(total.losses > 100 && total.crashes > 100 && total.trimmed > 100, "{total:?}");
    assert!(total.acknowledged > 10_000 && total.reads > 10_000, "{total:?}");
}

/// How many of the first seeds fail when the code is wrong in this way.
fn found(mutation: Mutation, seeds: u64) -> usize {
    set(Some(mutation));
    let failed = |seed: &u64| std::panic::catch_unwind(|| World::new(*seed).run()).is_err();
    let failures = (0..seeds).filter(failed).count();
    set(None);
    failures
}

#[test]
fn a_commit_without_a_quorum_and_an_endless_lease_are_found() {
    assert!(found(Mutation::SkipQuorum, 20) > 0);
    assert!(found(Mutation::LeaseWithoutBound, 300) > 0);
}

#[test]
fn sixteen_groups_survive_their_leader() {
    let mut took = Vec::new();
    for seed in 0..16 {
        let mut world = World::new(seed);
        world.faults = Faults { delay_steps: 1, sync_steps: 1, propose: 300, ..Faults::default() };
        let until = 2_000 + world.prng.below(100) * STEP_MS;
        while world.now < until {
            world.step();
        }
        let leads = |r: &Option<Replica>| r.as_ref().is_some_and(|replica| replica.log.accepts());
        let leader = world.replicas.iter().position(leads).expect("nothing is wrong");
        world.crash(leader);
        while !world.replicas.iter().any(leads) {
            world.step();
        }
        took.push(world.now - until);
    }
    took.sort_unstable();
    assert!(took[8] < 600, "{took:?}");
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..5 {
        assert_eq!(World::new(seed).run(), World::new(seed).run());
    }
}

#[test]
fn leadership_is_handed_over_on_demand() {
    let mut world = World::new(1);
    (world.faults.lose, world.faults.propose) = (0, 300);
    let leader = |world: &World| {
        let leads = |at: &usize| world.replicas[*at].as_ref().unwrap().log.is_leader();
        (0..3).find(leads).expect("a healthy group has a leader")
    };
    (0..400).for_each(|_| world.step());
    let before = leader(&world);
    let to = (before + 1) % 3;
    world.replicas[before].as_mut().unwrap().log.transfer(to as u64 + 1);
    (0..80).for_each(|_| world.step());
    assert_eq!(leader(&world), to);
    assert_eq!((world.seen.leaderships, world.seen.losses), (2, 1));
}
