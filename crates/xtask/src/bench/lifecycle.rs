//! The families that are not about throughput: how soon a restarted server answers, and how
//! much memory a key costs.

use std::thread;
use std::time::{Duration, Instant};

use super::client::{self, Client, Reply, info_field, key, mix, value};
use super::families::{Plan, competitor, same_promise};
use super::load::KEYS;
use super::machine::{resident_bytes, write_back};
use super::report::{Cell, Goal, Metric, Section};
use super::servers::{Promise, Remains, Server, System};
use super::stats::{Better, order};
use crate::Outcome;

/// Keys in the restart family.
const RESTART_KEYS: u64 = 5_000_000;
/// What the project wants of a restart.
const RESTART_LIMIT_MS: f64 = 1000.0;
/// Time between two questions to a restarting server.
const POLL: Duration = Duration::from_millis(1);
/// Longest wait for the first answer of a restarted server.
const RESTART_TIMEOUT: Duration = Duration::from_secs(180);
/// Longer than the second within which a relaxed write promises to be on disk.
const SYNC_WAIT: Duration = Duration::from_millis(2500);
/// Keys read back after a restart.
const CHECKED_KEYS: u64 = 1000;
/// Longest wait for a server's background work to end.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Time from the start of the process to the first correct reply, after a crash and after a
/// clean stop.
pub(crate) fn restart(plan: &Plan<'_>) -> Outcome<Section> {
    let keys = plan.scaled(RESTART_KEYS);
    let programs = plan.programs;
    let mut systems: Vec<System<'_>> =
        programs.all().map(|program| System::as_shipped(program, Promise::WithinSecond)).collect();
    let snapshots = programs.redis.iter();
    systems.extend(snapshots.map(|program| System::as_shipped(program, Promise::Snapshot)));

    let cell = |work: &str| Cell {
        work: work.to_owned(),
        values: vec![vec![None; plan.runs]; systems.len()],
        threads_us: Vec::new(),
        goals: vec![Goal::Below { metric: 0, limit: RESTART_LIMIT_MS }],
    };
    let mut cells = vec![cell("kill -9"), cell("SIGTERM")];
    let mut notes = Vec::new();
    for round in 0..plan.runs {
        for place in order(round, systems.len()) {
            let system = &systems[place];
            match restart_once(plan, system, keys, round, &mut notes) {
                Ok(times) => {
                    for (cell, times) in cells.iter_mut().zip(times) {
                        cell.values[place][round] = Some(times);
                    }
                }
                Err(reason) => {
                    plan.progress("restart", &format!("{}: {reason}", system.name()));
                    notes.push(format!("{} failed in a round: {reason}", system.name()));
                }
            }
        }
    }
    let metric = |name, compared| Metric { name, better: Better::Lower, decimals: 0, compared };
    Ok(Section {
        id: "restart",
        title: "Restart",
        method: format!(
            "{} keys of 64-byte values loaded into an empty server, {:.1} s of rest (a snapshot \
             is taken where snapshots are the promise; a running compaction ends first); then \
             the process is killed and started again, then stopped by SIGTERM and started again. \
             Counted from the start of the process; a GET of a known key is asked every \
             millisecond until the right value comes. *All loaded*: INFO says `loading:0`. After \
             each restart {CHECKED_KEYS} keys are read back. The page cache is warm: this is a \
             process crash, not a power cut.",
            super::report::grouped(keys as f64, 0),
            SYNC_WAIT.as_secs_f64(),
        ),
        metrics: vec![
            metric("first correct GET ms", true),
            metric("all loaded ms", true),
            metric("stop ms", false),
        ],
        systems: systems.iter().map(|s| competitor(s, Promise::WithinSecond)).collect(),
        cells,
        notes,
    })
}

/// One crash and one clean stop of one system: the metrics of both.
fn restart_once(
    plan: &Plan<'_>,
    system: &System<'_>,
    keys: u64,
    round: usize,
    notes: &mut Vec<String>,
) -> Outcome<[Vec<f64>; 2]> {
    let at = format!("round {}/{}: {}", round + 1, plan.runs, system.name());
    plan.progress("restart", &format!("{at}: loading {keys} keys"));
    let mut server = Server::start(system, plan.run_directory)?;
    client::load(server.port, keys)?;
    rest(&mut server, system)?;
    write_back(plan.run_directory);

    let probe = mix(round as u64) % keys;
    let start = Instant::now();
    let remains = server.kill()?;
    let killed = millis(start);
    let (server, mut crash) = come_back(remains, system, probe)?;
    crash.push(killed);
    notes.extend(read_back(&server, keys, &format!("{at} after kill -9"))?);

    write_back(plan.run_directory);
    let start = Instant::now();
    let remains = server.terminate()?;
    let stopped = millis(start);
    let (server, mut clean) = come_back(remains, system, probe)?;
    clean.push(stopped);
    notes.extend(read_back(&server, keys, &format!("{at} after SIGTERM"))?);

    let text = format!("{at}: kill -9 {:.0} ms, SIGTERM {:.0} ms", crash[0], clean[0]);
    plan.progress("restart", &text);
    Ok([crash, clean])
}

/// Starts a server on what it left and polls it: milliseconds until the first correct GET, and
/// until all is loaded.
fn come_back(remains: Remains, system: &System<'_>, probe: u64) -> Outcome<(Server, Vec<f64>)> {
    let start = Instant::now();
    let mut server = remains.start(system)?;
    let (key, value) = (key(probe), value(probe));
    let mut connection: Option<Client> = None;
    let mut answered = None;
    loop {
        if start.elapsed() > RESTART_TIMEOUT {
            return Err(format!("no answer within {} s", RESTART_TIMEOUT.as_secs()));
        }
        server.check_alive()?;
        let client = match connection.take() {
            Some(client) => Some(client),
            None => Client::connect(server.port).ok(),
        };
        if let Some(mut client) = client {
            if answered.is_none() {
                match client.ask(&["GET", &key]) {
                    Ok(Reply::Bulk(bytes)) if bytes == value => answered = Some(millis(start)),
                    Ok(Reply::Bulk(_)) => return Err(format!("{key} has a wrong value")),
                    Ok(Reply::Nil) => return Err(format!("{key} is lost")),
                    Ok(_) => connection = Some(client),
                    Err(_) => {}
                }
            } else {
                match client.ask(&["INFO", "persistence"]) {
                    Ok(Reply::Bulk(info)) => {
                        let info = String::from_utf8_lossy(&info);
                        if info_field(&info, "loading").unwrap_or("0") == "0" {
                            let loaded = millis(start);
                            return Ok((server, vec![answered.unwrap_or(loaded), loaded]));
                        }
                        connection = Some(client);
                    }
                    // A server without INFO serves everything it has.
                    Ok(_) => return Ok((server, vec![millis(start); 2])),
                    Err(_) => {}
                }
            }
        }
        thread::sleep(POLL);
    }
}

/// Lets relaxed writes reach the disk and background work end; takes the snapshot if that is
/// the system's promise.
fn rest(server: &mut Server, system: &System<'_>) -> Outcome<()> {
    thread::sleep(SYNC_WAIT);
    let mut client = Client::connect(server.port).map_err(|e| format!("cannot connect: {e}"))?;
    if system.promise == Promise::Snapshot {
        let saved = client.ask(&["SAVE"]);
        if !matches!(&saved, Ok(Reply::Simple(ok)) if ok == "OK") {
            return Err(format!("SAVE answered {saved:?}"));
        }
    }
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    while Instant::now() < deadline {
        let Ok(Reply::Bulk(info)) = client.ask(&["INFO", "persistence"]) else { return Ok(()) };
        let info = String::from_utf8_lossy(&info);
        let busy = ["aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress"];
        if busy.iter().all(|field| info_field(&info, field).unwrap_or("0") == "0") {
            return Ok(());
        }
        server.check_alive()?;
        thread::sleep(Duration::from_millis(50));
    }
    Err("background work does not end".into())
}

/// Reads scattered keys; what is wrong comes back as a note for the report.
fn read_back(server: &Server, keys: u64, at: &str) -> Outcome<Option<String>> {
    let fail = |e: std::io::Error| format!("reading back: {e}");
    let mut client = Client::connect(server.port).map_err(fail)?;
    let mut wrong = 0;
    for number in 0..CHECKED_KEYS {
        let index = mix(number) % keys;
        let reply = client.ask(&["GET", &key(index)]).map_err(fail)?;
        wrong += u64::from(reply != Reply::Bulk(value(index).to_vec()));
    }
    Ok((wrong > 0).then(|| format!("**data lost**: {at}, {wrong} of {CHECKED_KEYS} keys wrong")))
}

/// Resident memory per key.
pub(crate) fn memory(plan: &Plan<'_>) -> Outcome<Section> {
    let keys = plan.scaled(KEYS);
    let promise = Promise::WithinSecond;
    let systems = same_promise(plan.programs.all(), promise);
    let mut cell = Cell {
        work: format!("{} keys", super::report::grouped(keys as f64, 0)),
        values: vec![vec![None; plan.runs]; systems.len()],
        threads_us: Vec::new(),
        goals: Vec::new(),
    };
    let mut notes = Vec::new();
    for round in 0..plan.runs {
        for place in order(round, systems.len()) {
            let system = &systems[place];
            let at = format!("round {}/{}: {}", round + 1, plan.runs, system.name());
            match memory_once(plan, system, keys) {
                Ok(values) => {
                    plan.progress("memory", &format!("{at}: {:.1} B per key", values[0]));
                    cell.values[place][round] = Some(values);
                }
                Err(reason) => {
                    plan.progress("memory", &format!("{at}: {reason}"));
                    notes.push(format!("{} failed in a round: {reason}", system.name()));
                }
            }
        }
    }
    let metric =
        |name, decimals, compared| Metric { name, better: Better::Lower, decimals, compared };
    Ok(Section {
        id: "memory",
        title: "Memory",
        method: "Resident memory (VmRSS, mapped files included) of a fresh process after the keys \
                 with 64-byte values and 16-byte names are loaded and the figure has come to \
                 rest, minus that of the empty server, divided by the keys."
            .to_owned(),
        metrics: vec![metric("bytes per key", 1, true), metric("empty server MiB", 1, false)],
        systems: systems.iter().map(|s| competitor(s, promise)).collect(),
        cells: vec![cell],
        notes,
    })
}

fn memory_once(plan: &Plan<'_>, system: &System<'_>, keys: u64) -> Outcome<Vec<f64>> {
    let server = Server::start(system, plan.run_directory)?;
    let empty = settled_memory(&server)?;
    client::load(server.port, keys)?;
    let full = settled_memory(&server)?;
    Ok(vec![(full - empty) / keys as f64, empty / (1024.0 * 1024.0)])
}

/// Resident bytes once they have moved by less than 0.1 % within a second (at most 20 s).
fn settled_memory(server: &Server) -> Outcome<f64> {
    let mut last = resident_bytes(server.pid())?;
    for _ in 0..20 {
        thread::sleep(Duration::from_secs(1));
        let now = resident_bytes(server.pid())?;
        if (now - last).abs() < 0.001 * now {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
