//! Workloads for simulated clients that speak RESP2 to a cluster, and judge its answers.
//!
//! A [`Load`] is asked for requests and told what came back; it has no sockets and no clock. The
//! driver calls, for each of [`Load::clients`] and in any order between clients:
//!
//! ```text
//! next(client)          whenever the client is connected: what to send now. None: nothing now (it
//!                       thinks, or waits for replies); ask again later
//! reply(client, bytes)  what the server sent, in any cut
//! disconnected(client)  the connection is gone, whoever ended it; next() goes on with a new one,
//!                       to any node. A driver that finds a client waiting too long ends its
//!                       connection.
//! ```
//!
//! When the run is over and the cluster healthy, the driver executes [`Load::final_requests`]
//! through a connection of its own ([`Finale`] helps) and hands the replies to [`Load::finish`]. Whatever was not
//! answered by then counts as unknown.
//!
//! Keys are few, so that clients contend, and are replaced by fresh ones after
//! [`Options::operations_per_key`] operations, so that histories stay short enough to check. Written
//! values are unique. Every command touches one slot.

mod finale;
mod keyed;
mod kinds;
mod mixed;
mod model;
mod queues;
pub mod reply;
#[cfg(test)]
mod tests;
mod wire;

pub use finale::Finale;
use quorate_base::prng::Prng;
use std::fmt;

/// What clients do and whether they are answered right.
pub trait Load {
    /// How many clients there are, numbered from 0.
    fn clients(&self) -> usize;

    /// What a connected client sends now: whole requests, more than one if it pipelines.
    fn next(&mut self, client: usize, now_us: u64, prng: &mut Prng) -> Option<Vec<u8>>;

    /// Bytes that arrived at a client.
    fn reply(&mut self, client: usize, now_us: u64, bytes: &[u8]);

    /// A client's connection is gone.
    fn disconnected(&mut self, client: usize, now_us: u64);

    /// The reads, each one request with one reply, that [`Load::finish`] needs.
    fn final_requests(&self) -> Vec<Vec<u8>>;

    /// Judges the whole run. Called once, at its end.
    fn finish(&mut self, view: &FinalView) -> Result<(), Violation>;

    /// An answer that was wrong by itself. From then on no client sends anything, so the driver may
    /// end the run; [`Load::finish`] reports it too.
    fn violation(&self) -> Option<&Violation>;

    /// What happened so far.
    fn tally(&self) -> Tally;
}

/// The replies to [`Load::final_requests`].
#[derive(Clone, Debug, Default)]
pub struct FinalView {
    /// Each request with the whole of its reply, in the order in which they were asked for.
    pub answers: Vec<(Vec<u8>, Vec<u8>)>,
    /// When the first was sent, in µs.
    pub began_us: u64,
    /// When the last was answered, in µs.
    pub ended_us: u64,
}

impl FinalView {
    /// The reply to the request at this place; an error if it is missing or no result.
    fn answer(&self, at: usize, request: &[u8]) -> Result<reply::Reply, Violation> {
        let shown = request.escape_ascii();
        let (_, bytes) = self
            .answers
            .get(at)
            .filter(|(asked, _)| asked == request)
            .ok_or_else(|| Violation::new(format!("the last read {shown} was not made")))?;
        match reply::parse_one(bytes) {
            Ok(reply::Reply::Error(text)) => {
                Err(Violation::new(format!("the last read {shown} failed: {text}")))
            }
            Ok(reply) => Ok(reply),
            Err(why) => Err(Violation::new(format!("the last read {shown}: {why}"))),
        }
    }
}

/// A promise that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which load, which key, which answers.
    pub what: String,
}

impl Violation {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Violation {}

/// How operations ended, and how well they were checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that were executed.
    pub acknowledged: u64,
    /// Operations that were not executed for sure.
    pub refused: u64,
    /// Operations whose outcome is unknown.
    pub unknown: u64,
    /// Outcomes that were asked for and learnt.
    pub outcomes: u64,
    /// Keys that were checked, by [`Load::finish`].
    pub keys: u64,
    /// Keys whose check took too long, so that it ended without a verdict.
    pub undecided: u64,
}

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many clients.
    pub clients: usize,
    /// How many keys at a time.
    pub keys: usize,
    /// After how many operations a key is replaced by a fresh one.
    pub operations_per_key: u64,
    /// How many requests a client sends at once at most.
    pub pipeline_max: u64,
    /// The longest pause of a client between replies and the next request, in µs; half of the time
    /// there is none.
    pub pause_max_us: u64,
    /// How wrong clocks make expiry at most, in µs; see [`crate::check::Expiring`].
    pub tolerance_us: u64,
    /// Whether clients ask for unknown outcomes, by QUORATE OUTCOME (not in `queues` and `mixed`).
    pub ask_outcomes: bool,
    /// The bound on each key's search.
    pub search: crate::check::Search,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 6,
            keys: 3,
            operations_per_key: 400,
            pipeline_max: 4,
            pause_max_us: 20_000,
            tolerance_us: 10_000,
            ask_outcomes: false,
            search: crate::check::Search::default(),
        }
    }
}

/// The names that [`by_name`] knows.
pub const NAMES: [&str; 9] = [
    "registers",
    "counters",
    "lists",
    "sets",
    "transfers",
    "expiry",
    "queues",
    "mixed",
    "outcomes",
];

/// Makes a load; `None` if there is none of this name.
///
/// | name | what clients do | what is checked |
/// |---|---|---|
/// | `registers` | GET SET SETNX GETSET DEL, compare-and-swap by WATCH | linearizable; last write |
/// | `counters` | INCR INCRBY GET, alone and in MULTI | linearizable; each counts once |
/// | `lists` | RPUSH LRANGE | linearizable; each element once, in order |
/// | `sets` | SADD SREM SISMEMBER SMEMBERS | linearizable; last change of each member |
/// | `transfers` | amounts from `{t}a` to `{t}b` by WATCH and MULTI; MGET | linearizable; constant sum |
/// | `expiry` | SET with and without PX, GET, PERSIST | linearizable within [`Options::tolerance_us`] |
/// | `queues` | RPUSH, BLPOP of one or two keys | every element comes out once, in order |
/// | `mixed` | all types, keys of its own for each client | each reply against a model |
/// | `outcomes` | RPUSH LRANGE; after UNKNOWN, QUORATE OUTCOME | as `lists`, with the outcomes told |
pub fn by_name(name: &str, options: Options) -> Option<Box<dyn Load>> {
    use keyed::Keyed;
    Some(match name {
        "registers" => Box::new(Keyed::new(kinds::RegisterKind::default(), options)),
        "counters" => Box::new(Keyed::new(kinds::CounterKind, options)),
        "lists" => Box::new(Keyed::new(kinds::ListKind::new("list"), options)),
        "sets" => Box::new(Keyed::new(kinds::SetKind, options)),
        "transfers" => Box::new(Keyed::new(kinds::TransferKind::default(), options)),
        "expiry" => Box::new(Keyed::new(kinds::ExpiryKind::new(options.tolerance_us), options)),
        "queues" => Box::new(queues::Queues::new(options)),
        "mixed" => Box::new(mixed::Mixed::new(options)),
        "outcomes" => {
            let options = Options { ask_outcomes: true, ..options };
            Box::new(Keyed::new(kinds::ListKind::new("outcome"), options))
        }
        _ => return None,
    })
}
