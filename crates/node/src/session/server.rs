//! INFO, TIME, ROLE, LOLWUT, SHUTDOWN, and the commands by which Redis is told to save or asked
//! how safe a write is.

use super::{ALLOW_BUSY, NO_ASYNC_LOADING, SessionSpec};
use crate::conn::{Conn, Parked};
use crate::event::Effect;
use crate::shard::Durability;
use crate::worker::Worker;
use quorate_base::Prng;
use quorate_data::command::flag;
use quorate_data::parse::{integer, is_word};

const ADMIN: u32 = flag::ADMIN | flag::NOSCRIPT;
const QUICK: u32 = flag::LOADING | flag::STALE | flag::FAST;

/// The commands of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec {
        name: "info",
        arity: -1,
        flags: flag::LOADING | flag::STALE,
        run: super::info::info_command,
    },
    SessionSpec { name: "time", arity: 1, flags: QUICK, run: time },
    SessionSpec { name: "role", arity: 1, flags: QUICK | flag::NOSCRIPT, run: role },
    SessionSpec { name: "lolwut", arity: -1, flags: flag::READONLY | flag::FAST, run: lolwut },
    SessionSpec { name: "lastsave", arity: 1, flags: QUICK, run: lastsave },
    SessionSpec {
        name: "save",
        arity: 1,
        flags: ADMIN | NO_ASYNC_LOADING | flag::NO_MULTI,
        run: |_, conn, _| conn.reply().ok(),
    },
    SessionSpec { name: "bgsave", arity: -1, flags: ADMIN | NO_ASYNC_LOADING, run: bgsave },
    SessionSpec {
        name: "bgrewriteaof",
        arity: 1,
        flags: ADMIN | NO_ASYNC_LOADING,
        run: |_, conn, _| conn.reply().simple("Background append only file rewriting started"),
    },
    SessionSpec {
        name: "shutdown",
        arity: -1,
        flags: ADMIN | flag::LOADING | flag::STALE | flag::NO_MULTI | ALLOW_BUSY,
        run: shutdown,
    },
];

/// WAIT and WAITAOF.
pub(crate) const GENERIC: &[SessionSpec] = &[
    SessionSpec { name: "wait", arity: 3, flags: flag::NOSCRIPT, run: wait },
    SessionSpec { name: "waitaof", arity: 4, flags: flag::NOSCRIPT, run: waitaof },
];

const NOT_INTEGER: &str = "ERR value is not an integer or out of range";
const SYNTAX: &str = "ERR syntax error";

fn time(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let wall = worker.now.wall as i64;
    let mut reply = conn.reply();
    reply.array(2);
    reply.bulk_int(wall / 1000);
    reply.bulk_int(wall % 1000 * 1000);
}

fn role(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let mut reply = conn.reply();
    reply.array(3);
    reply.bulk(b"master");
    reply.int(0);
    reply.array(0);
}

// --- saving ----------------------------------------------------------------------------------

/// Everything that was acknowledged is saved: the last time is now.
fn lastsave(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.reply().int((worker.now.wall / 1000) as i64);
}

fn bgsave(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match &args[1..] {
        [] => conn.reply().simple("Background saving started"),
        [word] if is_word(word, "schedule") => conn.reply().simple("Background saving started"),
        _ => conn.error(SYNTAX),
    }
}

fn timeout_error(text: &[u8]) -> Option<&'static str> {
    match integer(text) {
        None => Some("ERR timeout is not an integer or out of range"),
        Some(ms) if ms < 0 => Some("ERR timeout is negative"),
        Some(_) => None,
    }
}

/// No replica of Redis' kind can ever acknowledge, so there is nothing to wait for.
fn wait(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if integer(args[1]).is_none() {
        conn.error(NOT_INTEGER);
    } else if let Some(text) = timeout_error(args[2]) {
        conn.error(text);
    } else {
        conn.reply().int(0);
    }
}

/// Replies stay in order and each waits for what its space promises, so when this one leaves, the
/// client's earlier writes are on disk, if that is what all spaces promise.
fn waitaof(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let refused = match (integer(args[1]), integer(args[2])) {
        (None, _) => Some(NOT_INTEGER),
        (Some(n), _) if !(0..=1).contains(&n) => {
            Some("ERR value is out of range, value must between 0 and 1")
        }
        (_, None) => Some(NOT_INTEGER),
        (_, Some(n)) if n < 0 => Some("ERR value is out of range, must be positive"),
        _ => timeout_error(args[3]),
    };
    if let Some(text) = refused {
        return conn.error(text);
    }
    let durable = worker.config.spaces.iter().all(|s| s.durability == Durability::Sync);
    let mut reply = conn.reply();
    reply.array(2);
    reply.int(i64::from(durable));
    reply.int(0);
}

// --- stopping --------------------------------------------------------------------------------

/// `SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE] [ABORT]`. Stopping always saves, and waits for nothing
/// else; the client is closed without a reply.
fn shutdown(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let given = |word: &str| args[1..].iter().any(|arg| is_word(arg, word));
    let known = ["nosave", "save", "now", "force", "abort"];
    let all_known = args[1..].iter().all(|arg| known.iter().any(|word| is_word(arg, word)));
    let others = known[..4].iter().any(|word| given(word));
    if !all_known || given("nosave") && given("save") || given("abort") && others {
        conn.error(SYNTAX);
    } else if given("abort") {
        conn.error("ERR No shutdown in progress.");
    } else {
        worker.effects.push(Effect::Shutdown);
        conn.parked = Some(Parked::Closing);
    }
}

// --- LOLWUT ----------------------------------------------------------------------------------

const HALL: (usize, usize) = (41, 13);

/// `LOLWUT [VERSION v]`: a meeting, and whether it is quorate.
fn lolwut(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let text = meeting(&mut worker.prng, &worker.config.about.version);
    conn.reply().verbatim("txt", &text);
}

/// Seats around a table: `●` is present, `○` is away.
fn meeting(prng: &mut Prng, version: &str) -> String {
    let (width, height) = HALL;
    let mut hall = vec![vec![' '; width]; height];
    let seats = 5 + 2 * prng.below(4) as usize;
    let mut present = 0;
    let turn = prng.unit_f64();
    for seat in 0..seats {
        let angle = (seat as f64 + turn) / seats as f64 * std::f64::consts::TAU;
        let x = (width as f64 - 1.0) / 2.0 * (1.0 + angle.cos() * 0.95);
        let y = (height as f64 - 1.0) / 2.0 * (1.0 + angle.sin() * 0.95);
        let here = prng.below(3) > 0;
        present += usize::from(here);
        hall[y.round() as usize][x.round() as usize] = if here { '●' } else { '○' };
    }
    for (y, row) in hall.iter_mut().enumerate() {
        for (x, cell) in row.iter_mut().enumerate() {
            let dx = (x as f64 - 20.0) / 13.0;
            let dy = (y as f64 - 6.0) / 4.0;
            if *cell == ' ' && dx * dx + dy * dy <= 1.0 {
                *cell = if dx * dx + dy * dy > 0.7 { '·' } else { ' ' };
            }
        }
    }
    let needed = seats / 2 + 1;
    let verdict = if present >= needed { "the meeting is quorate" } else { "not yet a meeting" };
    let rows: Vec<String> =
        hall.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().into()).collect();
    format!(
        "{}\n\n{present} of {seats} are here, {needed} are needed: {verdict}.\nQuorate ver. {version}\n",
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn replies_to_those_who_want_to_be_safe() {
        let mut node = Node::new(2);
        let client = node.client();
        node.check(client, "ROLE", "*3|$6|master|:0|*0|");
        node.check(client, "SAVE", "+OK|");
        node.check(client, "BGSAVE foo", "-ERR syntax error|");
        node.check(client, "WAIT 1 100", ":0|");
        node.check(client, "WAIT 1 -1", "-ERR timeout is negative|");
        node.check(client, "WAITAOF 1 0 0", "*2|:1|:0|");
        node.check(
            client,
            "WAITAOF 2 0 0",
            "-ERR value is out of range, value must between 0 and 1|",
        );
        node.check(client, "TIME", "*2|$10|1700000000|$1|0|");
        node.check(client, "LASTSAVE", ":1700000000|");
        assert!(node.run(client, "LOLWUT").contains("Quorate ver. 0.1.0"));
    }

    #[test]
    fn shutdown_is_an_effect() {
        let mut node = Node::new(2);
        let client = node.client();
        node.check(client, "SHUTDOWN SAVE NOSAVE", "-ERR syntax error|");
        node.check(client, "SHUTDOWN ABORT", "-ERR No shutdown in progress.|");
        assert!(!node.shutdown_wanted);
        node.check(client, "SHUTDOWN NOSAVE", "");
        assert!(node.shutdown_wanted && node.is_closed(client));
    }
}
