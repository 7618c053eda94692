//! Clients that write, and books about what became of each write.
//!
//! ```text
//! acknowledged        it is there, once
//! NOQUORUM            it is not there; the same when the node stops
//! UNKNOWN             it is there once or not at all, as QUORATE OUTCOME says
//! no reply            it is there once or not at all
//! ```

use super::nodes::ask;
use crate::common::{Client, Value, eventually};
use quorate_base::Prng;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that write.
const WRITERS: usize = 6;

/// Writes that an impatient connection sends before it reads replies, at most.
const DEPTH_MAX: u64 = 8;

/// Padding of values, in bytes at most: enough for tables to have many blocks.
const PADDING_MAX: u64 = 2_000;

/// How long a writer waits for a reply before it goes to another node: longer than the time within
/// which a node answers every command.
const REPLY_PATIENCE: Duration = Duration::from_secs(8);

/// How long a writer waits before it tries the next node.
const RECONNECT: Duration = Duration::from_millis(10);

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// It was executed; a number that was replied.
    Acknowledged(i64),
    /// It was not executed.
    Refused,
    /// Its outcome was not known in time; its id.
    Unknown(String),
    /// The connection broke before there was a reply.
    NoReply,
}

/// A kind of write. Each adds one thing that can be counted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A key of its own.
    Set,
    /// A counter that the writer does not share.
    Counter,
    /// An item of a list that the writer does not share.
    List,
    /// A counter that all writers share.
    Shared,
}

const KINDS: [Kind; 4] = [Kind::Set, Kind::Counter, Kind::List, Kind::Shared];

#[derive(Debug)]
struct Write {
    kind: Kind,
    number: u64,
    fate: Fate,
}

/// When something was acknowledged, over all writers.
#[derive(Debug)]
struct Pulse {
    started: Instant,
    acknowledged: AtomicU64,
    last_ms: AtomicU64,
    /// The longest time without an acknowledgement since it was last asked for.
    gap_ms: AtomicU64,
}

impl Pulse {
    fn beat(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        let last = self.last_ms.fetch_max(now, Ordering::SeqCst);
        self.gap_ms.fetch_max(now.saturating_sub(last), Ordering::SeqCst);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a writer's keys begin with.
struct Names {
    /// Those it does not share.
    own: String,
    /// Those it shares with the other writers of its load.
    shared: String,
}

/// Writers at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
    writers: Vec<JoinHandle<Writer>>,
}

/// One writer's books.
struct Writer {
    names: Names,
    writes: Vec<Write>,
    random: Prng,
    patient: bool,
}

impl Load {
    /// Starts writers, each of which begins at another node and goes on to the next when its
    /// connection breaks.
    pub(crate) fn start(addresses: &[SocketAddr], seed: u64) -> Self {
        Self::named("", addresses, seed)
    }

    /// The same with keys that differ from those of other loads.
    pub(crate) fn named(name: &str, addresses: &[SocketAddr], seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let pulse = Arc::new(Pulse {
            started: Instant::now(),
            acknowledged: AtomicU64::new(0),
            last_ms: AtomicU64::new(0),
            gap_ms: AtomicU64::new(0),
        });
        let start = |at: usize| {
            let (stop, pulse) = (Arc::clone(&stop), Arc::clone(&pulse));
            let mut addresses = addresses.to_vec();
            let first = at % addresses.len();
            addresses.rotate_left(first);
            let mut writer = Writer {
                names: Names { own: format!("{name}w{at}"), shared: format!("{name}shared") },
                writes: Vec::new(),
                random: Prng::new(seed + at as u64),
                patient: at.is_multiple_of(2),
            };
            std::thread::spawn(move || {
                for address in addresses.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // The end of a connection is what this is about.
                    let _ = writer.write(*address, &stop, &pulse);
                    std::thread::sleep(RECONNECT);
                }
                writer
            })
        };
        let writers = (0..WRITERS).map(start).collect();
        Self { stop, pulse, writers }
    }

    /// Waits for so many more acknowledgements.
    pub(crate) fn wait_for(&self, more: u64) {
        let enough = self.pulse.acknowledged.load(Ordering::SeqCst) + more;
        eventually("the load gets its acknowledgements", || {
            (self.pulse.acknowledged.load(Ordering::SeqCst) >= enough).then_some(())
        });
    }

    /// The longest time without an acknowledgement since the last call, in milliseconds.
    pub(crate) fn take_gap_ms(&self) -> u64 {
        self.pulse.gap_ms.swap(0, Ordering::SeqCst)
    }

    /// Ends the writers and returns their books.
    pub(crate) fn stop(self) -> Books {
        self.stop.store(true, Ordering::SeqCst);
        let writers = self.writers.into_iter().map(JoinHandle::join);
        Books(writers.map(|writer| writer.expect("a writer does not panic")).collect())
    }
}

impl Writer {
    /// Writes until the connection breaks or the load ends.
    fn write(&mut self, address: SocketAddr, stop: &AtomicBool, pulse: &Pulse) -> io::Result<()> {
        let mut client = Client::connect(address, REPLY_PATIENCE)?;
        while !stop.load(Ordering::SeqCst) {
            let depth = if self.patient { 1 } else { 1 + self.random.below(DEPTH_MAX) };
            let first = self.writes.len();
            for _ in 0..depth {
                let number = self.writes.len() as u64 + 1;
                let kind = KINDS[self.random.below(KINDS.len() as u64) as usize];
                self.writes.push(Write { kind, number, fate: Fate::NoReply });
                client.queue(&command(&self.names, kind, number));
            }
            client.flush()?;
            let mut refused = false;
            for write in &mut self.writes[first..] {
                let reply = client.read()?;
                write.fate = fate(&reply);
                match write.fate {
                    Fate::Acknowledged(_) => pulse.beat(),
                    _ => refused = true,
                }
            }
            if refused {
                // As a client does that was told that this node cannot serve it.
                return Ok(());
            }
        }
        Ok(())
    }
}

fn key(Names { own, shared }: &Names, kind: Kind, number: u64) -> String {
    match kind {
        Kind::Set => format!("{own}:set:{number}"),
        Kind::Counter => format!("{own}:counter"),
        Kind::List => format!("{own}:list"),
        Kind::Shared => format!("{shared}:counter"),
    }
}

fn command(names: &Names, kind: Kind, number: u64) -> Vec<String> {
    let key = key(names, kind, number);
    match kind {
        Kind::Set => vec!["SET".into(), key, value(number)],
        Kind::Counter | Kind::Shared => vec!["INCR".into(), key],
        Kind::List => vec!["RPUSH".into(), key, number.to_string()],
    }
}

/// What the write with this number sets its key to.
fn value(number: u64) -> String {
    format!("{number}:{}", "x".repeat((number * 7919 % PADDING_MAX) as usize))
}

fn fate(reply: &Value) -> Fate {
    let text = reply.text();
    if !reply.is_error() {
        return Fate::Acknowledged(reply.number().unwrap_or(0));
    }
    let mut words = text.split(' ');
    match (words.next(), words.next()) {
        (Some("NOQUORUM"), _) => Fate::Refused,
        _ if text.contains("shutting down") => Fate::Refused,
        (Some("UNKNOWN"), Some(id)) => Fate::Unknown(id.into()),
        _ => panic!("a write failed: {text}"),
    }
}

/// What the writers know.
pub(crate) struct Books(Vec<Writer>);

/// How often something is there.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: u64,
    most: u64,
}

impl Books {
    /// Asks for the outcomes that are open, and compares the books with what is there.
    pub(crate) fn check(&mut self, client: &mut Client) {
        let mut counts = [0_u64; 4];
        let mut shared = Bounds::default();
        for writer in &mut self.0 {
            for write in &mut writer.writes {
                let at = match write.fate {
                    Fate::Acknowledged(_) => 0,
                    Fate::Refused => 1,
                    Fate::Unknown(_) => 2,
                    Fate::NoReply => 3,
                };
                counts[at] += 1;
                resolve(client, write);
            }
            writer.check(client);
            let part = writer.bounds(Kind::Shared);
            shared = Bounds { least: shared.least + part.least, most: shared.most + part.most };
        }
        let key = key(&self.0[0].names, Kind::Shared, 0);
        shared.check(&key, read_number(client, &key));
        self.check_shared_replies();
        let [acknowledged, refused, unknown, lost] = counts;
        println!(
            "{acknowledged} writes acknowledged, {refused} refused, {unknown} answered UNKNOWN, \
             {lost} without a reply: all accounted for"
        );
        assert!(acknowledged > 0, "nothing was tested");
    }

    /// Writes that were not acknowledged, as text.
    pub(crate) fn failures(&self) -> Vec<String> {
        let writes = self.0.iter().flat_map(|writer| &writer.writes);
        let failed = writes.filter(|write| !matches!(write.fate, Fate::Acknowledged(_)));
        failed.map(|write| format!("{write:?}")).collect()
    }

    /// No two clients may have been told the same number by a shared counter.
    fn check_shared_replies(&self) {
        let writes = self.0.iter().flat_map(|writer| &writer.writes);
        let mut replies: Vec<i64> = writes
            .filter(|write| write.kind == Kind::Shared)
            .filter_map(|write| match write.fate {
                Fate::Acknowledged(number) => Some(number).filter(|number| *number != 0),
                _ => None,
            })
            .collect();
        replies.sort_unstable();
        for pair in replies.windows(2) {
            assert_ne!(pair[0], pair[1], "two clients were told the same number");
        }
    }
}

/// Replaces an outcome that is not known by what the cluster says of it now.
fn resolve(client: &mut Client, write: &mut Write) {
    let Fate::Unknown(id) = &write.fate else { return };
    let reply = ask(client, &["QUORATE", "OUTCOME", id]);
    let word = reply.items().first().map(Value::text).unwrap_or_default();
    write.fate = match word.as_str() {
        // Its own reply comes with it; 0 keeps it out of the order of replies.
        "EXECUTED" => Fate::Acknowledged(0),
        "NOT-EXECUTED" => Fate::Refused,
        "FORGOTTEN" => Fate::NoReply,
        _ => panic!("the outcome of {write:?} is {reply:?}"),
    };
}

impl Bounds {
    fn check(self, what: &str, there: u64) {
        assert!(
            (self.least..=self.most).contains(&there),
            "{what}: {there} are there, where {self:?} are possible"
        );
    }
}

impl Writer {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| write.kind == kind)
    }

    fn bounds(&self, kind: Kind) -> Bounds {
        let least = self.of(kind).filter(|w| matches!(w.fate, Fate::Acknowledged(_))).count();
        let most = self.of(kind).filter(|w| w.fate != Fate::Refused).count();
        Bounds { least: least as u64, most: most as u64 }
    }

    fn check(&self, client: &mut Client) {
        let names = &self.names;
        for write in self.of(Kind::Set) {
            let key = key(names, Kind::Set, write.number);
            let reply = ask(client, &["GET", &key]);
            let there = reply.text() == value(write.number);
            let right = match write.fate {
                Fate::Acknowledged(_) => there,
                Fate::Refused => reply.is_null(),
                Fate::Unknown(_) | Fate::NoReply => there || reply.is_null(),
            };
            assert!(right, "{key} is {} bytes, and {write:?}", reply.bytes().len());
        }
        let counter = key(names, Kind::Counter, 0);
        self.bounds(Kind::Counter).check(&counter, read_number(client, &counter));
        let mut last = 0;
        for write in self.of(Kind::Counter) {
            if let Fate::Acknowledged(number @ 1..) = write.fate {
                assert!(number > last, "{counter}: {number} was replied after {last}");
                last = number;
            }
        }
        self.check_list(client);
    }

    fn check_list(&self, client: &mut Client) {
        let list = key(&self.names, Kind::List, 0);
        let reply = ask(client, &["LRANGE", &list, "0", "-1"]);
        let items: Vec<u64> = reply.items().iter().filter_map(|i| i.text().parse().ok()).collect();
        let mut places = std::collections::HashMap::new();
        for (place, item) in items.iter().enumerate() {
            let earlier = places.insert(*item, place);
            assert!(earlier.is_none(), "{list}: {item} is there twice: {items:?}");
        }
        let mut last = None;
        for write in self.of(Kind::List) {
            let place = places.remove(&write.number);
            match write.fate {
                Fate::Acknowledged(reply) => {
                    assert!(place.is_some(), "{list}: {write:?} is lost");
                    // An outcome that was asked for later says nothing about the order.
                    if reply > 0 {
                        assert!(place > last, "{list}: {write:?} is out of order: {items:?}");
                        last = place;
                    }
                }
                Fate::Refused => assert!(place.is_none(), "{list}: {write:?} is there"),
                Fate::Unknown(_) | Fate::NoReply => {}
            }
        }
        assert!(places.is_empty(), "{list}: nobody wrote {places:?}");
    }
}

fn read_number(client: &mut Client, key: &str) -> u64 {
    ask(client, &["GET", key]).number().unwrap_or(0) as u64
}
