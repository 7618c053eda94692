//! The family `failover`: how long nobody can write after the leader is killed, and whether
//! anything acknowledged is lost.
//!
//! ```text
//!   load ──────┬─────────────── 3 s and more ──────────────┬──── 2 s ────┬── stop, catch up
//!           kill -9 the                                 start it      end
//!           node that leads most
//! ```
//!
//! The keyspace is cut into [`REGIONS`] equal ranges of hash slots, which are the shards of
//! Quorate's default space; etcd, which has no shards, gets the same keys. A region's *gap* is the
//! longest time between two acknowledgements in it. Each region has a client on each node, which
//! writes there and nowhere else, so that a region without a leader keeps no other from being
//! written to.
//!
//! A client that is refused, or has no answer within [`GIVE_UP`], goes to the next node with a
//! new connection. It returns to its own when the next load starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use super::cluster::competitor;
use super::families::Plan;
use super::nodes::{Cluster, NODES, Product};
use super::report::{Cell, Goal, Metric, Section, grouped};
use super::session::{Failure, Protocol, Session, runtime};
use super::stats::{Better, order};
use crate::Outcome;

/// Ranges of slots: Quorate's default space has so many shards.
const REGIONS: usize = 16;
const SLOTS: u16 = 16_384;
/// Leaders killed of each system.
const KILLS: usize = 10;
const QUICK_KILLS: usize = 2;
/// How long writes go on before the kill.
const BEFORE: Duration = Duration::from_secs(1);
/// How long a killed node stays away, at least, and how long every region may take.
const AWAY: Duration = Duration::from_secs(3);
const AWAY_MAX: Duration = Duration::from_secs(60);
/// How long writes go on after it was started again.
const BACK: Duration = Duration::from_secs(2);
/// How long a client waits for an answer.
const GIVE_UP: Duration = Duration::from_millis(250);
/// How long a client rests after an answer, and before it tries the next node.
const REST: Duration = Duration::from_millis(10);
/// How often a question of the last check is repeated.
const CHECK_TRIES: usize = 50;
/// What the project wants.
const WANTED_MS: f64 = 600.0;

/// Kills leaders under load.
pub(crate) fn failover(plan: &Plan<'_>) -> Outcome<Section> {
    let kills = if plan.divide > 1 { QUICK_KILLS } else { KILLS };
    let mut trials = Vec::new();
    for product in Product::all(plan.programs) {
        plan.progress("failover", &format!("starting {}", product.name()));
        let cluster = Cluster::start(product, plan.run_directory, None)?;
        trials.push(Trial { cluster, gaps: Vec::new(), books: Vec::new(), failed: None });
    }
    for round in 0..kills {
        for place in order(round, trials.len()) {
            let trial = &mut trials[place];
            if trial.failed.is_some() {
                continue;
            }
            let name = trial.cluster.product.name();
            match trial.kill_once(round) {
                Ok(gaps) => {
                    let text = format!(
                        "kill {}/{kills}: {name}: worst shard {:.0} ms, all {:.0} ms, return \
                         {:.0} ms",
                        round + 1,
                        gaps[0],
                        gaps[2],
                        gaps[3]
                    );
                    plan.progress("failover", &text);
                    trial.gaps.push(Some(gaps));
                }
                Err(reason) => {
                    plan.progress("failover", &format!("{name}: {reason}"));
                    trial.failed = Some(format!("{name} stopped being measured: {reason}"));
                }
            }
        }
    }
    let mut notes = Vec::new();
    for trial in &trials {
        plan.progress("failover", &format!("reading back {}", trial.cluster.product.name()));
        notes.extend(trial.failed.clone());
        notes.push(trial.verdict()?);
    }
    let metric = |name, compared| Metric { name, better: Better::Lower, decimals: 0, compared };
    Ok(Section {
        id: "failover",
        title: "The leader is killed",
        method: method(kills),
        metrics: vec![
            metric("worst shard without writes ms", true),
            metric("median shard without writes ms", false),
            metric("no write anywhere ms", true),
            metric("worst shard when it returns ms", false),
        ],
        systems: trials.iter().map(|trial| competitor(trial.cluster.product)).collect(),
        cells: vec![Cell {
            work: "kill -9 of the leader".into(),
            values: trials.into_iter().map(|trial| trial.gaps).collect(),
            threads_us: Vec::new(),
            goals: vec![Goal::Below { metric: 0, limit: WANTED_MS }],
        }],
        notes,
    })
}

fn method(kills: usize) -> String {
    format!(
        "{NODES} nodes on this machine, default settings. Each of {} clients, {NODES} for each of \
         Quorate's {REGIONS} shards and one of these on each node, writes keys of its shard one \
         after another, resting {} ms between two: SET of a new key and INCR of its own counter \
         in turn (etcd: `Put` of new keys). The node that leads most shards is killed (SIGKILL), \
         {kills} times for each system and in turn; each kill is a round here. It stays away {} s, \
         then starts again and catches up before the next kill. *Without writes*: the longest time \
         between two acknowledged writes to a shard, from the kill until the node is started \
         again; of the worst shard, of the median shard, and of all writes together. *When it \
         returns*: the same in the {} s after. etcd has no shards; the same ranges of keys are \
         looked at. A client without an answer after {} ms, or with an error, tries the next node. \
         At the end everything is read back.",
        NODES * REGIONS,
        REST.as_millis(),
        AWAY.as_secs(),
        BACK.as_secs(),
        GIVE_UP.as_millis(),
    )
}

/// One system's part.
struct Trial<'a> {
    cluster: Cluster<'a>,
    /// The metrics of each kill.
    gaps: Vec<Option<Vec<f64>>>,
    books: Vec<Book>,
    failed: Option<String>,
}

impl Trial<'_> {
    /// One kill and one return: the metrics in milliseconds.
    fn kill_once(&mut self, round: usize) -> Outcome<Vec<f64>> {
        let cluster = &mut self.cluster;
        let load = Load::start(cluster.product.protocol(), cluster.ports(), round)?;
        thread::sleep(BEFORE);
        let victim = cluster.leader()?;
        load.pulse.take_gaps();
        cluster.kill(victim)?;
        let killed = load.pulse.now();
        thread::sleep(AWAY);
        while !load.pulse.everywhere_since(killed) && load.pulse.now() < killed + micros(AWAY_MAX) {
            thread::sleep(REST);
        }
        let [regions, all] = load.pulse.take_gaps();
        let recovered = load.pulse.everywhere_since(killed);
        cluster.restart(victim)?;
        thread::sleep(BACK);
        let [back, _] = load.pulse.take_gaps();
        self.books.extend(load.stop()?);
        if !recovered {
            return Err(format!("no writes to some shard for {} s", AWAY_MAX.as_secs()));
        }
        self.cluster.wait_until_whole(victim)?;
        let worst = |gaps: &[f64]| gaps.last().copied().unwrap_or(0.0);
        Ok(vec![worst(&regions), regions[REGIONS / 2], worst(&all), worst(&back)])
    }

    /// Reads everything back: what became of the writes, in a sentence.
    fn verdict(&self) -> Outcome<String> {
        let mut sum = Tally::default();
        let (protocol, ports) = (self.cluster.product.protocol(), self.cluster.ports());
        let runtime = runtime()?;
        let tallies = runtime.block_on(LocalSet::new().run_until(async {
            let mut by_client: BTreeMap<usize, Vec<Book>> = BTreeMap::new();
            for (index, book) in self.books.iter().enumerate() {
                by_client.entry(index % (NODES * REGIONS)).or_default().push(book.clone());
            }
            let check = |(client, books): (usize, Vec<Book>)| {
                let port = ports[client % ports.len()];
                tokio::task::spawn_local(check(protocol, port, books))
            };
            let tasks: Vec<_> = by_client.into_iter().map(check).collect();
            let mut tallies = Vec::with_capacity(tasks.len());
            for task in tasks {
                tallies.push(task.await);
            }
            tallies
        }));
        for tally in tallies {
            sum.add(&tally.map_err(|e| format!("the check failed: {e}"))??);
        }
        Ok(sum.sentence(&self.cluster.product.name()))
    }
}

/// When something was acknowledged, in each region and (the last entry) anywhere. Times are in
/// microseconds since the start.
struct Pulse {
    started: Instant,
    last: Vec<AtomicU64>,
    gap: Vec<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        let zeros = || (0..=REGIONS).map(|_| AtomicU64::new(0)).collect();
        Self { started: Instant::now(), last: zeros(), gap: zeros() }
    }

    fn now(&self) -> u64 {
        micros(self.started.elapsed())
    }

    fn beat(&self, region: usize) {
        let now = self.now();
        for place in [region, REGIONS] {
            let last = self.last[place].fetch_max(now, Ordering::SeqCst);
            self.gap[place].fetch_max(now.saturating_sub(last), Ordering::SeqCst);
        }
    }

    fn everywhere_since(&self, time: u64) -> bool {
        self.last.iter().all(|last| last.load(Ordering::SeqCst) > time)
    }

    /// The longest gaps since the last call, one that has not ended yet included, in
    /// milliseconds: those of the regions, sorted, and that of all.
    fn take_gaps(&self) -> [Vec<f64>; 2] {
        let now = self.now();
        let take = |(last, gap): (&AtomicU64, &AtomicU64)| {
            let open = now.saturating_sub(last.load(Ordering::SeqCst));
            gap.swap(0, Ordering::SeqCst).max(open) as f64 / 1000.0
        };
        let mut gaps: Vec<f64> = self.last.iter().zip(&self.gap).map(take).collect();
        let all = gaps.split_off(REGIONS);
        gaps.sort_by(f64::total_cmp);
        [gaps, all]
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// Clients at work on a thread of their own.
struct Load {
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<Vec<Book>>>,
}

impl Load {
    fn start(protocol: Protocol, ports: Vec<u16>, round: usize) -> Outcome<Self> {
        let (pulse, stop) = (Arc::new(Pulse::new()), Arc::new(AtomicBool::new(false)));
        let tags = tags();
        let runtime = runtime()?;
        let (thread_pulse, thread_stop) = (Arc::clone(&pulse), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            runtime.block_on(LocalSet::new().run_until(async {
                let mut tasks = Vec::new();
                for index in 0..NODES * REGIONS {
                    let writer = Writer {
                        protocol,
                        ports: ports.clone(),
                        node: index % NODES,
                        region: index / NODES,
                        pulse: Arc::clone(&thread_pulse),
                        stop: Arc::clone(&thread_stop),
                        book: Book::new(&tags[index / NODES], index, round),
                    };
                    tasks.push(tokio::task::spawn_local(writer.work()));
                }
                let mut books = Vec::with_capacity(tasks.len());
                for task in tasks {
                    books.push(task.await.map_err(|e| format!("a client failed: {e}"))?);
                }
                Ok(books)
            }))
        });
        Ok(Self { pulse, stop, thread })
    }

    fn stop(self) -> Outcome<Vec<Book>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the load panicked".to_owned())?
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there.
    Acknowledged,
    /// It is not there.
    Refused,
    /// It is there once, or not at all.
    Unknown,
}

/// One client's writes during one kill.
#[derive(Clone, Debug)]
struct Book {
    /// What its keys begin with.
    name: String,
    /// Number *n* stored `n` under the key of this number.
    sets: Vec<Fate>,
    /// Each added one to the counter.
    increments: Vec<Fate>,
}

impl Book {
    fn new(tag: &str, client: usize, round: usize) -> Self {
        let name = format!("failover:{{{tag}}}:{client}:{round}");
        Self { name, sets: Vec::new(), increments: Vec::new() }
    }

    fn key(&self, number: usize) -> String {
        format!("{}:{number}", self.name)
    }

    fn counter(&self) -> String {
        format!("{}:counter", self.name)
    }
}

/// One client.
struct Writer {
    protocol: Protocol,
    ports: Vec<u16>,
    node: usize,
    region: usize,
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    book: Book,
}

impl Writer {
    async fn work(mut self) -> Book {
        let mut session = None;
        while !self.stop.load(Ordering::SeqCst) {
            if session.is_none() {
                let connect = Session::connect(self.protocol, self.ports[self.node]);
                session = tokio::time::timeout(GIVE_UP, connect).await.ok().and_then(Result::ok);
            }
            let fate = match &mut session {
                Some(session) => self.write(session).await,
                None => Fate::Refused,
            };
            if fate == Fate::Acknowledged {
                self.pulse.beat(self.region);
            } else {
                session = None;
                self.node = (self.node + 1) % self.ports.len();
            }
            tokio::time::sleep(REST).await;
        }
        self.book
    }

    /// One write: a new key, or the counter if it is behind and there are counters.
    async fn write(&mut self, session: &mut Session) -> Fate {
        let count =
            self.protocol == Protocol::Resp && self.book.increments.len() < self.book.sets.len();
        let number = self.book.sets.len();
        let (key, value) = if count {
            (self.book.counter(), String::new())
        } else {
            (self.book.key(number), number.to_string())
        };
        let write = async {
            if count {
                session.increment(key.as_bytes()).await.map(|_| ())
            } else {
                session.put(key.as_bytes(), value.as_bytes()).await
            }
        };
        let fate = match tokio::time::timeout(GIVE_UP, write).await {
            Ok(Ok(())) => Fate::Acknowledged,
            Ok(Err(Failure::Refused(_))) => Fate::Refused,
            Ok(Err(Failure::Unknown(_))) | Err(_) => Fate::Unknown,
        };
        let fates = if count { &mut self.book.increments } else { &mut self.book.sets };
        fates.push(fate);
        fate
    }
}

/// What the reading back found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    lost: u64,
    /// Refused but there, or there more often than it was written.
    excess: u64,
}

impl Tally {
    fn of(book: &Book) -> Self {
        let mut tally = Self::default();
        for fate in book.sets.iter().chain(&book.increments) {
            *match fate {
                Fate::Acknowledged => &mut tally.acknowledged,
                Fate::Refused => &mut tally.refused,
                Fate::Unknown => &mut tally.unknown,
            } += 1;
        }
        tally
    }

    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.lost += other.lost;
        self.excess += other.excess;
    }

    /// A key that should hold `number`.
    fn judge_set(&mut self, fate: Fate, number: usize, found: Option<&[u8]>) {
        let right = found == Some(number.to_string().as_bytes());
        match fate {
            Fate::Acknowledged if !right => self.lost += 1,
            Fate::Refused if found.is_some() => self.excess += 1,
            Fate::Unknown if found.is_some() && !right => self.excess += 1,
            _ => {}
        }
    }

    /// A counter between what was acknowledged and what may have been executed as well.
    fn judge_counter(&mut self, increments: &[Fate], found: u64) {
        let count = |wanted| increments.iter().filter(|fate| **fate == wanted).count() as u64;
        let least = count(Fate::Acknowledged);
        self.lost += least.saturating_sub(found);
        self.excess += found.saturating_sub(least + count(Fate::Unknown));
    }

    fn sentence(&self, name: &str) -> String {
        let number = |count: u64| grouped(count as f64, 0);
        let text = format!(
            "{name}: {} writes acknowledged, {} of them lost; {} without an answer in time; {} \
             refused; {} executed that should not have been",
            number(self.acknowledged),
            number(self.lost),
            number(self.unknown),
            number(self.refused),
            number(self.excess)
        );
        if self.lost + self.excess > 0 { format!("**{text}**") } else { text }
    }
}

/// Reads one client's writes back.
async fn check(protocol: Protocol, port: u16, books: Vec<Book>) -> Outcome<Tally> {
    let mut sum = Tally::default();
    let mut session = None;
    for book in books {
        let mut tally = Tally::of(&book);
        for (number, fate) in book.sets.iter().enumerate() {
            let found = read(&mut session, protocol, port, &book.key(number)).await?;
            tally.judge_set(*fate, number, found.as_deref());
        }
        if !book.increments.is_empty() {
            let found = read(&mut session, protocol, port, &book.counter()).await?;
            let found = found.and_then(|found| String::from_utf8(found).ok()?.parse().ok());
            tally.judge_counter(&book.increments, found.unwrap_or(0));
        }
        sum.add(&tally);
    }
    Ok(sum)
}

/// Reads a key; tries again when there is no answer, as this is not about patience.
async fn read(
    session: &mut Option<Session>,
    protocol: Protocol,
    port: u16,
    key: &str,
) -> Outcome<Option<Vec<u8>>> {
    let mut reason = String::new();
    for _ in 0..CHECK_TRIES {
        if session.is_none() {
            *session = Session::connect(protocol, port).await.ok();
        }
        if let Some(open) = session {
            match open.get(key.as_bytes()).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure.text().clone_into(&mut reason),
            }
        }
        *session = None;
        tokio::time::sleep(GIVE_UP).await;
    }
    Err(format!("{key} cannot be read: {reason}"))
}

/// For each region a hash tag whose slot lies in it.
fn tags() -> Vec<String> {
    let tags: BTreeMap<usize, String> = (0..100 * REGIONS)
        .map(|number| format!("t{number}"))
        .map(|tag| (usize::from(slot_of(&tag)) * REGIONS / usize::from(SLOTS), tag))
        .collect();
    assert_eq!(tags.len(), REGIONS, "some region has no tag");
    tags.into_values().collect()
}

/// Redis Cluster's hash slot: CRC-16/XMODEM modulo the slots.
fn slot_of(key: &str) -> u16 {
    let crc = key.bytes().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(tags().len(), REGIONS);
    }

    #[test]
    fn gaps_are_measured_per_region_and_for_all() {
        let pulse = Pulse::new();
        let at = |place: usize, time: u64| pulse.last[place].store(time, Ordering::SeqCst);
        (0..=REGIONS).for_each(|place| at(place, 0));
        pulse.gap[3].store(7_000_000, Ordering::SeqCst);
        let [regions, all] = pulse.take_gaps();
        assert_eq!((regions.len(), all.len()), (REGIONS, 1));
        assert_eq!(regions[REGIONS - 1], 7000.0);
        let [regions, _] = pulse.take_gaps();
        assert!(regions[REGIONS - 1] < 7000.0);
        assert!(!pulse.everywhere_since(0));
        (0..REGIONS).for_each(|region| pulse.beat(region));
        assert!(pulse.everywhere_since(0));
    }

    #[test]
    fn lost_and_doubled_writes_are_counted() {
        let mut tally = Tally::default();
        tally.judge_set(Fate::Acknowledged, 7, Some(b"7"));
        tally.judge_set(Fate::Refused, 7, None);
        tally.judge_set(Fate::Unknown, 7, None);
        tally.judge_set(Fate::Unknown, 7, Some(b"7"));
        assert_eq!(tally, Tally::default());
        tally.judge_set(Fate::Acknowledged, 7, None);
        tally.judge_set(Fate::Acknowledged, 7, Some(b"6"));
        tally.judge_set(Fate::Refused, 7, Some(b"7"));
        assert_eq!((tally.lost, tally.excess), (2, 1));

        let fates = [Fate::Acknowledged, Fate::Unknown, Fate::Acknowledged, Fate::Refused];
        let judge = |found| {
            let mut tally = Tally::default();
            tally.judge_counter(&fates, found);
            (tally.lost, tally.excess)
        };
        assert_eq!([judge(1), judge(2), judge(3), judge(4)], [(1, 0), (0, 0), (0, 0), (0, 1)]);
    }
}
