//! A node that is killed under load, again and again, and looked at after each recovery.
//!
//! Every connection keeps several books, each a count that one kind of write raises by one. What
//! was sent, what was acknowledged and what is there afterwards are three numbers a book:
//!
//! ```text
//! acknowledged ≤ there ≤ sent                    sync, and any durability after SIGTERM
//! there ≤ sent                                   relaxed, after SIGKILL
//! all writes there come before all that are not  by connection, if it waits for every reply
//! a write of several keys is there as a whole    always
//! ```
//!
//! `QUORATE_CRASH_ROUNDS`: how often the node is killed (6). `QUORATE_SEED`: repeats the choices
//! of a run, though not its timing.

mod common;

use common::{Client, Node, PATIENCE, Value, eventually, fresh_seed, number_from_env};
use quorate_base::Prng;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// How often the node is killed unless the environment says otherwise.
const ROUNDS: u64 = 6;

/// Connections that write.
const CONNECTIONS: usize = 6;

/// Writes that a connection sends before it reads replies, at most.
const DEPTH_MAX: u64 = 16;

/// Acknowledged writes after which the node is killed, at most.
const WRITES_MAX: u64 = 4000;

/// Padding of values, in bytes at most: enough for flushes to happen under load.
const PADDING_MAX: u64 = 4000;

#[test]
fn sync_writes_survive_kill() {
    crash_and_recover("sync");
}

#[test]
fn relaxed_writes_survive_kill_as_a_prefix() {
    crash_and_recover("relaxed");
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Kill,
    Terminate,
}

fn crash_and_recover(durability: &str) {
    let seed = number_from_env("QUORATE_SEED").unwrap_or_else(fresh_seed);
    println!("seed {seed}, durability {durability}");
    let mut random = Prng::new(seed);
    let data = TempDir::new().expect("a temporary directory");
    let mut node = Node::start(data.path(), &["--durability", durability, "--workers", "3"]);
    let mut books: Vec<Books> = (0..CONNECTIONS).map(Books::new).collect();
    let rounds = number_from_env("QUORATE_CRASH_ROUNDS").unwrap_or(ROUNDS);
    for round in 0..rounds {
        let end = if round % 3 == 2 { End::Terminate } else { End::Kill };
        books = load(&mut node, books, end, &mut random);
        node = node.restart();
        let lost_allowed = durability == "relaxed" && end == End::Kill;
        let mut client = node.client();
        check_shared(&mut client, &mut books, lost_allowed);
        for book in &mut books {
            book.check(&mut client, lost_allowed);
        }
        println!("round {round}, {end:?}: {} writes are there", total(&books));
    }
    assert!(node.terminate().status.success());
}

fn total(books: &[Books]) -> u64 {
    books.iter().flat_map(|b| &b.books).map(|b| b.there).sum()
}

/// Writes from all connections until enough is acknowledged, then ends the node.
fn load(node: &mut Node, books: Vec<Books>, end: End, random: &mut Prng) -> Vec<Books> {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let enough = 1 + random.below(WRITES_MAX);
    let threads: Vec<_> = books
        .into_iter()
        .map(|mut books| {
            let (address, acknowledged) = (node.address, Arc::clone(&acknowledged));
            let mut random = Prng::new(random.next_u64());
            std::thread::spawn(move || {
                // The end of the connection is the end of the round.
                let _ = books.write(address, &mut random, &acknowledged);
                books
            })
        })
        .collect();
    eventually("the load gets its acknowledgements", || {
        (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
    });
    let exit = match end {
        End::Kill => node.kill(),
        End::Terminate => node.terminate(),
    };
    assert_eq!(exit.status.success(), end == End::Terminate, "{exit:?}");
    threads.into_iter().map(|t| t.join().expect("a writer does not panic")).collect()
}

/// A kind of write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Register,
    Counter,
    List,
    Hash,
    /// MSET of keys in several shards.
    ManyKeys,
    /// MULTI over keys in several shards.
    Transaction,
    /// INCR of a counter that all connections share.
    SharedCounter,
    /// MULTI that moves one from a key to another, both shared.
    Transfer,
}

const KINDS: [Kind; 8] = [
    Kind::Register,
    Kind::Counter,
    Kind::List,
    Kind::Hash,
    Kind::ManyKeys,
    Kind::Transaction,
    Kind::SharedCounter,
    Kind::Transfer,
];

impl Kind {
    fn is_shared(self) -> bool {
        matches!(self, Self::SharedCounter | Self::Transfer)
    }
}

/// One count, see the file's head.
#[derive(Debug)]
struct Book {
    kind: Kind,
    sent: u64,
    acknowledged: u64,
    there: u64,
    /// The positions, among all writes of the connection, of the writes since `there`.
    positions: Vec<u64>,
}

/// The books of one connection.
#[derive(Debug)]
struct Books {
    name: String,
    books: Vec<Book>,
    /// It waits for each reply before the next write.
    patient: bool,
    /// Writes sent in this round.
    position: u64,
}

type Command = Vec<String>;

impl Books {
    fn new(connection: usize) -> Self {
        let book =
            |&kind: &Kind| Book { kind, sent: 0, acknowledged: 0, there: 0, positions: Vec::new() };
        Self {
            name: format!("c{connection}"),
            books: KINDS.iter().map(book).collect(),
            patient: connection.is_multiple_of(2),
            position: 0,
        }
    }

    /// Writes until the connection ends or the node refuses.
    fn write(
        &mut self,
        address: SocketAddr,
        random: &mut Prng,
        total: &AtomicU64,
    ) -> io::Result<()> {
        let mut client = Client::connect(address, PATIENCE)?;
        loop {
            let depth = if self.patient { 1 } else { 1 + random.below(DEPTH_MAX) };
            let mut batch = Vec::new();
            for _ in 0..depth {
                let at = random.below(self.books.len() as u64) as usize;
                let commands = self.next_write(at, random);
                commands.iter().for_each(|command| client.queue(command));
                batch.push((at, commands.len()));
            }
            client.flush()?;
            for (at, replies) in batch {
                let mut last = client.read()?;
                for _ in 1..replies {
                    last = client.read()?;
                }
                let failed = last.is_error() || last.items().iter().any(Value::is_error);
                if failed {
                    // What refuses a queued command spoils its transaction.
                    let text = last.text();
                    let expected = ["shutting down", "EXECABORT"].iter().any(|w| text.contains(w));
                    assert!(expected, "a write failed: {last:?}");
                    return Ok(());
                }
                self.books[at].acknowledged += 1;
                total.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The commands of the next write to a book, which from now on counts as sent.
    fn next_write(&mut self, at: usize, random: &mut Prng) -> Vec<Command> {
        let book = &mut self.books[at];
        book.sent += 1;
        book.positions.push(self.position);
        self.position += 1;
        let (n, name) = (book.sent, &self.name);
        let padded = format!("{n}:{}", "x".repeat(random.below(PADDING_MAX) as usize));
        let line = |text: String| text.split(' ').map(str::to_owned).collect::<Command>();
        let transaction = |commands: &[String]| {
            let mut all = vec![line("MULTI".into())];
            all.extend(commands.iter().cloned().map(line));
            all.push(line("EXEC".into()));
            all
        };
        match book.kind {
            Kind::Register => vec![line(format!("SET {name}:register {padded}"))],
            Kind::Counter => vec![line(format!("INCR {name}:counter"))],
            Kind::List => vec![line(format!("RPUSH {name}:list {n}"))],
            Kind::Hash => vec![line(format!("HSET {name}:hash {n} {padded}"))],
            Kind::ManyKeys => vec![line(format!(
                "MSET {name}:m1 {n} {name}:m2 {padded} {name}:m3 {n} {name}:m4 {n}"
            ))],
            Kind::Transaction => transaction(&[
                format!("INCR {name}:t1"),
                format!("SET {name}:t2 {padded}"),
                format!("RPUSH {name}:t3 {n}"),
            ]),
            Kind::SharedCounter => vec![line("INCR shared:counter".into())],
            Kind::Transfer => transaction(&["DECR shared:from".into(), "INCR shared:to".into()]),
        }
    }

    /// Compares the books with what is there, and goes on from that.
    fn check(&mut self, client: &mut Client, lost_allowed: bool) {
        let mut last_there = None;
        let mut first_missing = None;
        let name = self.name.clone();
        for book in self.books.iter_mut().filter(|b| !b.kind.is_shared()) {
            let there = count(client, &name, book.kind);
            assert!(there <= book.sent, "{name}: {there} are there, but were not sent: {book:?}");
            assert!(
                there >= book.there,
                "{name}: {there} are there of what recovery found: {book:?}"
            );
            assert!(
                lost_allowed || there >= book.acknowledged,
                "{name}: {there} are there, more were acknowledged: {book:?}"
            );
            let new = (there - book.there) as usize;
            last_there = last_there.max(new.checked_sub(1).map(|at| book.positions[at]));
            let missing = book.positions.get(new).copied();
            first_missing = match (first_missing, missing) {
                (Some(a), Some(b)) => Some(u64::min(a, b)),
                (a, b) => a.or(b),
            };
            (book.sent, book.acknowledged, book.there) = (there, there, there);
            book.positions.clear();
        }
        if self.patient
            && let (Some(last), Some(first)) = (last_there, first_missing)
        {
            assert!(last < first, "{name}: write {last} is there, and {first} before it is not");
        }
        self.position = 0;
    }
}

/// Compares the books that all connections share, in sum, and goes on from what is there.
fn check_shared(client: &mut Client, books: &mut [Books], lost_allowed: bool) {
    let number = |client: &mut Client, key: &str| client.call(&["GET", key]).number().unwrap_or(0);
    let (from, to) = (number(client, "shared:from"), number(client, "shared:to"));
    assert_eq!(from, -to, "a transfer is there by half");
    for (kind, there) in
        [(Kind::SharedCounter, number(client, "shared:counter")), (Kind::Transfer, to)]
    {
        let there = there as u64;
        let all = || books.iter().flat_map(|b| &b.books).filter(|b| b.kind == kind);
        let acknowledged: u64 = all().map(|b| b.acknowledged).sum();
        let sent: u64 = all().map(|b| b.sent).sum();
        assert!(there <= sent, "{kind:?}: {there} are there, {sent} were sent");
        assert!(
            lost_allowed || there >= acknowledged,
            "{kind:?}: {there} are there, {acknowledged} were acknowledged"
        );
        let mut rest = there;
        for book in books.iter_mut().flat_map(|b| &mut b.books).filter(|b| b.kind == kind) {
            // Nobody can tell whose writes are there, and only the sum counts.
            (book.sent, book.acknowledged, book.there) = (rest, rest, rest);
            book.positions.clear();
            rest = 0;
        }
    }
}

/// How many writes of a book are there. Panics if one is there by half.
fn count(client: &mut Client, name: &str, kind: Kind) -> u64 {
    let leading = |value: &Value| {
        let text = value.text();
        text.split(':').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    let mut get = |suffix: &str| leading(&client.call(&["GET", &format!("{name}:{suffix}")]));
    match kind {
        Kind::Register => get("register"),
        Kind::Counter => get("counter"),
        Kind::ManyKeys => {
            let all = ["m1", "m2", "m3", "m4"].map(&mut get);
            assert!(all.iter().all(|n| *n == all[0]), "{name}: an MSET is there by half: {all:?}");
            all[0]
        }
        Kind::Transaction => {
            let (t1, t2) = (get("t1"), get("t2"));
            let t3 = list_len(client, &format!("{name}:t3"));
            assert!(t1 == t2 && t2 == t3, "{name}: a MULTI is there by half: {t1} {t2} {t3}");
            t1
        }
        Kind::List => list_len(client, &format!("{name}:list")),
        Kind::Hash => {
            let reply = client.call(&["HGETALL", &format!("{name}:hash")]);
            for field in reply.items().chunks(2) {
                assert_eq!(leading(&field[0]), leading(&field[1]), "{name}: a field is damaged");
            }
            let mut fields: Vec<_> = reply.items().chunks(2).map(|f| leading(&f[0])).collect();
            fields.sort_unstable();
            one_to(&fields)
        }
        Kind::SharedCounter | Kind::Transfer => unreachable!("these are compared in sum"),
    }
}

fn list_len(client: &mut Client, key: &str) -> u64 {
    let reply = client.call(&["LRANGE", key, "0", "-1"]);
    let items: Vec<u64> = reply.items().iter().filter_map(|i| i.text().parse().ok()).collect();
    one_to(&items)
}

/// The length of a list that must be 1, 2, 3 …
fn one_to(numbers: &[u64]) -> u64 {
    for (number, expected) in numbers.iter().zip(1..) {
        assert_eq!(*number, expected, "writes are missing in the middle or doubled");
    }
    numbers.len() as u64
}
