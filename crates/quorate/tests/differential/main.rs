//! Random commands to Quorate and to a real Redis; their replies must be the same bytes.
//!
//! - `QUORATE_DIFFERENTIAL_SECONDS`: how long to look for differences (20).
//! - `QUORATE_SEED`: the first seed; the next ones follow it (drawn afresh).
//! - `QUORATE_DIFFERENTIAL_FAILURES`: stop after so many differences of different kinds (1).
//! - `QUORATE_REDIS_SERVER`: the binary to compare with (redis-server).

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod generate;
mod grammar;

use common::{Client, Node, Redis, Value, fresh_seed, number_from_env};
use compare::{Rule, equal, rule};
use generate::{Sequence, Step, Words, sequence};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Seeds that found something once. They run first, always.
const FOUND: &[u64] = &[
    40021, // MULTI queued a subcommand that does not exist,
    40170, // and one with the wrong number of arguments
    40030, // PUBSUB NUMSUB was a map in RESP3
];

/// How long to look for differences unless the environment says otherwise.
const SECONDS: u64 = 20;

/// How long a reply may take before the server counts as hanging.
const REPLY_PATIENCE: Duration = Duration::from_secs(20);

/// The most runs that shrinking one sequence may take.
const SHRINKING_RUNS_MAX: usize = 400;

/// So many sequences are followed by a crash, and a look at what is back after it.
const SEQUENCES_PER_CRASH: u64 = 100;

#[test]
fn replies_are_those_of_redis() {
    let Some(redis) = Redis::start() else {
        println!("SKIPPED: redis-server is not installed (apt-get install redis-server)");
        return;
    };
    let data = TempDir::new().expect("a temporary directory");
    let mut servers = Servers { node: Some(start_node(&data)), redis, data };
    let first = number_from_env("QUORATE_SEED").unwrap_or_else(fresh_seed);
    let seconds = number_from_env("QUORATE_DIFFERENTIAL_SECONDS").unwrap_or(SECONDS);
    let failures_max = number_from_env("QUORATE_DIFFERENTIAL_FAILURES").unwrap_or(1) as usize;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kinds = BTreeSet::new();
    let mut ran = 0;
    let fresh = (0..).map(|n| first.wrapping_add(n)).take_while(|_| Instant::now() < end);
    for seed in FOUND.iter().copied().chain(fresh) {
        ran += 1;
        let crash = ran % SEQUENCES_PER_CRASH == 0;
        let found = sequence(seed);
        if let Some(difference) = servers.run(&found, crash) {
            let shrunk = servers.shrink(found, difference, crash);
            if kinds.insert(shrunk.difference.kind()) {
                println!("{}", report(seed, &shrunk));
            }
            if kinds.len() >= failures_max {
                break;
            }
        }
    }
    println!("{ran} sequences, {} kinds of differences, first seed {first}", kinds.len());
    assert!(kinds.is_empty(), "differences were found, see above");
}

/// Several workers, so that commands meet keys of other workers.
fn start_node(data: &TempDir) -> Node {
    Node::start(data.path(), &["--workers", "3"])
}

struct Servers {
    /// None only while it is started again.
    node: Option<Node>,
    redis: Redis,
    data: TempDir,
}

/// Where two servers disagreed.
#[derive(Debug)]
struct Difference {
    words: Words,
    ours: Result<Value, String>,
    theirs: Result<Value, String>,
}

impl Difference {
    /// The same for differences that are likely to have the same cause.
    fn kind(&self) -> String {
        let head = |reply: &Result<Value, String>| match reply {
            Ok(value) if value.is_error() => value.text(),
            Ok(Value::Line(kind, _) | Value::Blob(kind, _) | Value::Many(kind, _)) => {
                char::from(*kind).to_string()
            }
            Err(text) => text.clone(),
        };
        let name = String::from_utf8_lossy(&self.words[0]).to_uppercase();
        format!("{name} {} {}", head(&self.ours), head(&self.theirs))
    }
}

struct Shrunk {
    sequence: Sequence,
    difference: Difference,
}

/// A connection to each server, in step.
struct Pair {
    ours: Client,
    theirs: Client,
    /// The rules of the commands that were queued since MULTI.
    queued: Option<Vec<Rule>>,
}

impl Servers {
    fn node(&self) -> &Node {
        self.node.as_ref().expect("it runs except while it is started again")
    }

    fn pair(&self) -> Pair {
        let connect = |address| Client::connect(address, REPLY_PATIENCE).expect("it listens");
        let (ours, theirs) = (connect(self.node().address), connect(self.redis.address));
        Pair { ours, theirs, queued: None }
    }

    /// Runs a sequence from an empty keyspace. `crash` kills the node at the end and compares once
    /// more.
    fn run(&mut self, sequence: &Sequence, crash: bool) -> Option<Difference> {
        let difference = self.run_alive(sequence, crash);
        let dead = || {
            let mut client = Client::connect(self.node().address, REPLY_PATIENCE).ok()?;
            client.try_call(&["PING"]).ok()
        };
        if difference.is_some() && dead().is_none() {
            println!("the node has ended:\n{}", self.node().stderr());
            self.node = None;
            self.data = TempDir::new().expect("a temporary directory");
            self.node = Some(start_node(&self.data));
        }
        difference
    }

    fn run_alive(&mut self, sequence: &Sequence, crash: bool) -> Option<Difference> {
        let mut pair = self.pair();
        pair.exchange(&[words("FLUSHALL")]).expect("an empty keyspace to start from");
        if sequence.resp3 {
            for client in [&mut pair.ours, &mut pair.theirs] {
                let hello = client.line("HELLO 3");
                assert!(!hello.is_error(), "HELLO 3: {hello:?}");
            }
        }
        let result = pair.play(&sequence.steps).and_then(|()| pair.compare_keyspaces());
        if result.is_ok() && crash {
            let mut node = self.node.take().expect("it runs");
            node.signal(Signal::KILL);
            node.wait();
            self.node = Some(node.restart());
            return self.pair().compare_keyspaces().err();
        }
        result.err()
    }

    /// Drops steps as long as some difference stays.
    fn shrink(&mut self, sequence: Sequence, difference: Difference, crash: bool) -> Shrunk {
        let mut best = Shrunk { sequence, difference };
        let mut chunk = best.sequence.steps.len().div_ceil(2);
        let mut runs = 0;
        loop {
            let mut from = 0;
            let before = best.sequence.steps.len();
            while from < best.sequence.steps.len() && runs < SHRINKING_RUNS_MAX {
                let mut smaller = best.sequence.clone();
                let to = (from + chunk).min(smaller.steps.len());
                smaller.steps.drain(from..to);
                runs += 1;
                match self.run(&smaller, crash) {
                    Some(difference) => best = Shrunk { sequence: smaller, difference },
                    None => from = to,
                }
            }
            let stuck = chunk == 1 && before == best.sequence.steps.len();
            if stuck || runs >= SHRINKING_RUNS_MAX {
                return best;
            }
            chunk = chunk.div_ceil(2);
        }
    }
}

impl Pair {
    fn play(&mut self, steps: &[Step]) -> Result<(), Difference> {
        let mut batch: Vec<Words> = Vec::new();
        for step in steps {
            if !step.pipelined {
                self.exchange(&std::mem::take(&mut batch))?;
            }
            batch.push(step.words.clone());
        }
        self.exchange(&batch)
    }

    /// Sends commands to both servers, in one piece, and compares the replies.
    fn exchange(&mut self, commands: &[Words]) -> Result<(), Difference> {
        for client in [&mut self.ours, &mut self.theirs] {
            for words in commands {
                client.queue(words);
            }
            // What cannot be sent shows when its reply is missing.
            let _ = client.flush();
        }
        commands.iter().try_for_each(|words| self.compare_reply(words).map(|_| ()))
    }

    fn compare_reply(&mut self, words: &Words) -> Result<Value, Difference> {
        let text = |error: io::Error| format!("no reply: {error}");
        let ours = self.ours.read().map_err(text);
        let theirs = self.theirs.read().map_err(text);
        let rule = self.rule(words, theirs.as_ref().ok());
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if equal(&rule, &ours, &theirs) => Ok(ours),
            (ours, theirs) => Err(Difference { words: words.clone(), ours, theirs }),
        }
    }

    /// The rule for a reply of Redis; keeps track of what is queued.
    fn rule(&mut self, words: &Words, theirs: Option<&Value>) -> Rule {
        let is = |name: &str| words[0].eq_ignore_ascii_case(name.as_bytes());
        if is("MULTI") && theirs.is_some_and(|reply| reply.bytes() == b"OK") {
            self.queued.get_or_insert_default();
        } else if is("EXEC") {
            return self.queued.take().map_or(Rule::Exact, Rule::Transaction);
        } else if is("DISCARD") {
            self.queued = None;
        } else if let Some(queued) = &mut self.queued {
            if theirs.is_some_and(|reply| reply.bytes() == b"QUEUED") {
                queued.push(rule(words));
            }
            return Rule::Exact;
        }
        rule(words)
    }

    fn call(&mut self, words: &Words) -> Result<Value, Difference> {
        self.ours.queue(words);
        self.theirs.queue(words);
        let _ = (self.ours.flush(), self.theirs.flush());
        self.compare_reply(words)
    }

    /// Compares all keys with their types, contents and deadlines.
    fn compare_keyspaces(&mut self) -> Result<(), Difference> {
        if self.queued.is_some() {
            self.call(&words("DISCARD"))?;
        }
        self.call(&words("DBSIZE"))?;
        let keys = self.call(&words("KEYS *"))?;
        for key in keys.items() {
            let about = |command: &str| {
                let with_key = |word: Vec<u8>| match word.as_slice() {
                    b"$key" => key.bytes().to_vec(),
                    _ => word,
                };
                words(command).into_iter().map(with_key).collect::<Words>()
            };
            self.call(&about("PEXPIRETIME $key"))?;
            let kind = self.call(&about("TYPE $key"))?;
            let whole = match kind.text().as_str() {
                "string" => "GET $key",
                "list" => "LRANGE $key 0 -1",
                "hash" => "HGETALL $key",
                "set" => "SMEMBERS $key",
                "zset" => "ZRANGE $key 0 -1 WITHSCORES",
                "stream" => "XINFO STREAM $key FULL COUNT 0",
                other => panic!("what type is {other}?"),
            };
            self.call(&about(whole))?;
        }
        Ok(())
    }
}

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// What to do about a difference, for people.
fn report(seed: u64, shrunk: &Shrunk) -> String {
    let line = |words: &Words| {
        let words: Vec<_> = words.iter().map(|w| quoted(w)).collect();
        words.join(" ")
    };
    let Shrunk { sequence, difference } = shrunk;
    let mut out = format!("--- seed {seed}, RESP{} ---\n", if sequence.resp3 { 3 } else { 2 });
    for step in &sequence.steps {
        let _ =
            writeln!(out, "{}{}", if step.pipelined { "  & " } else { "    " }, line(&step.words));
    }
    let show = |reply: &Result<Value, String>| match reply {
        Ok(value) => format!("{value:?}"),
        Err(text) => text.clone(),
    };
    let _ = writeln!(out, " differs: {}", line(&difference.words));
    let _ = writeln!(out, " quorate: {}", show(&difference.ours));
    let _ = writeln!(out, " redis:   {}", show(&difference.theirs));
    let _ =
        writeln!(out, " again:   QUORATE_SEED={seed} cargo test -p quorate --test differential");
    out
}

/// A word as redis-cli takes it.
fn quoted(word: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_graphic() && !b"\"'\\".contains(b);
    match std::str::from_utf8(word) {
        Ok(text) if !text.is_empty() && word.iter().all(plain) => text.to_owned(),
        _ => format!("\"{}\"", word.escape_ascii()),
    }
}
