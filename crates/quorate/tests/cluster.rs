//! Three nodes that keep copies of everything, as processes: killed, frozen, cut off and damaged.
//!
//! Clients write all the time, note what became of each write, and in the end everything that was
//! acknowledged must be there, once. How long nothing was acknowledged is printed and not
//! judged: it depends on the machine.
//!
//! `QUORATE_KILLS`: how often a node is killed (5). `QUORATE_SEED`: repeats the choices of a run,
//! though not its timing.

mod common;
mod cluster {
    pub(crate) mod load;
    pub(crate) mod network;
    pub(crate) mod nodes;
}

use cluster::load::Load;
use cluster::network::Network;
use cluster::nodes::{Cluster, NODES, ask};
use common::journal::{self, BODY_AT, flip};
use common::node::run_to_end;
use common::{Client, Node, Value, eventually, free_address, fresh_seed, number_from_env};
use quorate_base::Prng;
use rustix::process::Signal;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a node is killed unless the environment says otherwise.
const KILLS: u64 = 5;

/// Acknowledged writes between two faults.
const CALM_WRITES: u64 = 300;

/// The longest time a killed node stays away, in milliseconds.
const ABSENCE_MS_MAX: u64 = 1_500;

/// Keys that lie in many shards.
const KEYS: u64 = 64;

/// How long a frozen node is frozen.
const FROZEN: Duration = Duration::from_secs(3);

/// One test at a time: each keeps the machine busy, and clusters depend on time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> u64 {
    let seed = number_from_env("QUORATE_SEED").unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    seed
}

#[test]
fn any_node_serves_any_key() {
    let _turn = alone();
    let cluster = Cluster::start(&["--workers", "2"]);
    let mut clients: Vec<_> = (0..NODES).map(|at| cluster.client(at)).collect();
    for key in 0..60 {
        let name = format!("key:{key}");
        let value = format!("value {key}");
        let set = clients[key % NODES].call(&["SET", &name, &value]);
        assert_eq!(set.bytes(), b"OK", "{set:?}");
        for client in &mut clients {
            assert_eq!(client.call(&["GET", &name]).text(), value);
        }
    }
    for client in &mut clients {
        assert_eq!(client.line("DBSIZE").number(), Some(60));
    }
}

#[test]
fn data_and_nodes_of_another_cluster_are_refused() {
    let _turn = alone();
    let mut cluster = Cluster::start(&["--workers", "1"]);
    assert_eq!(cluster.client(0).line("SET k 1").bytes(), b"OK");
    cluster.terminate(2);
    let three = cluster.peers();
    let two = three.split(',').skip(1).collect::<Vec<_>>().join(",");
    let without_own = three.split(',').take(2).collect::<Vec<_>>().join(",");
    for (args, words) in [
        (vec![], "belongs to node 3 of the cluster 'quorate' (nodes 1, 2, 3)"),
        (vec!["--node", "3", "--peers", &two], "cannot be changed yet"),
        (vec!["--node", "3", "--peers", &three, "--cluster", "other"], "cannot be changed yet"),
        (vec!["--node", "3", "--peers", &without_own], "not among the peers (1, 2)"),
        (vec!["--peers", &three], "--node"),
        (vec!["--node", "3"], "--peers"),
    ] {
        let exit = cluster.run_to_end(2, &args);
        assert_eq!(exit.status.code(), Some(1), "{exit:?}");
        assert!(exit.stderr.contains(words), "'{words}' is missing: {exit:?}");
    }
    // A node whose settings fit an empty directory, and not the others' cluster.
    std::fs::rename(cluster.data(2), cluster.data(2).with_extension("old")).expect("ours");
    cluster.restart_with(2, &["--cluster", "other"]);
    for (at, words) in [(0, "belongs to another cluster"), (2, "belongs to another cluster")] {
        eventually("strangers are told apart", || cluster.log(at).contains(words).then_some(()));
    }
    assert!(cluster.client(2).line("GET k").text().starts_with("NOQUORUM"));
    assert_eq!(cluster.client(1).line("GET k").text(), "1");
}

#[test]
fn a_node_that_stood_alone_does_not_join() {
    let data = tempfile::TempDir::new().expect("a temporary directory");
    let mut node = Node::start(data.path(), &[]);
    node.terminate();
    let peers = "1=127.0.0.1:20001,2=127.0.0.1:20002,3=127.0.0.1:20003";
    let exit = run_to_end(free_address(), data.path(), &["--node", "1", "--peers", peers]);
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    assert!(exit.stderr.contains("stands alone"), "{exit:?}");
    drop(node.restart());
}

#[test]
fn killed_leaders_take_nothing_with_them() {
    let _turn = alone();
    let seed = seed();
    let mut random = Prng::new(seed);
    let mut cluster = Cluster::start(&["--workers", "2"]);
    let load = Load::start(&cluster.addresses(), seed);
    for round in 1..=number_from_env("QUORATE_KILLS").unwrap_or(KILLS) {
        load.wait_for(CALM_WRITES);
        load.take_gap_ms();
        let victim = cluster.leader_of_most().expect("some node leads");
        cluster.kill(victim);
        load.wait_for(CALM_WRITES);
        println!("round {round}: node {} killed, outage {} ms", victim + 1, load.take_gap_ms());
        std::thread::sleep(Duration::from_millis(random.below(ABSENCE_MS_MAX)));
        cluster.restart(victim);
        load.wait_for(CALM_WRITES);
        println!("round {round}: it is back, longest pause {} ms", load.take_gap_ms());
    }
    let mut books = load.stop();
    cluster.settle();
    books.check(&mut cluster.client(0));
    // What is there is on disk, too.
    for at in 0..NODES {
        cluster.kill(at);
    }
    for at in 0..NODES {
        cluster.restart(at);
    }
    cluster.settle();
    books.check(&mut cluster.client(1));
}

#[test]
fn a_frozen_leader_is_replaced_and_comes_back() {
    let _turn = alone();
    let seed = seed();
    let cluster = Cluster::start(&["--workers", "2"]);
    let load = Load::start(&cluster.addresses(), seed);
    for round in 1..=2 {
        load.wait_for(CALM_WRITES);
        load.take_gap_ms();
        let victim = cluster.leader_of_most().expect("some node leads");
        let mut writer = cluster.client((victim + 1) % NODES);
        let mut reader = cluster.client(victim);
        set_all(&mut writer, 2 * round);
        get_all(&mut reader, 2 * round);
        cluster.signal(victim, Signal::STOP);
        let frozen = Instant::now();
        set_all(&mut writer, 2 * round + 1);
        // Questions that wait for it when it goes on, and must not get the answers of before.
        for key in 0..KEYS {
            reader.queue(&["GET", &format!("fresh:{key}")]);
        }
        reader.flush().expect("the socket takes them");
        std::thread::sleep(FROZEN.saturating_sub(frozen.elapsed()));
        cluster.signal(victim, Signal::CONT);
        for _ in 0..KEYS {
            expect_fresh(&reader.read().expect("a reply"), 2 * round + 1);
        }
        get_all(&mut reader, 2 * round + 1);
        load.wait_for(CALM_WRITES);
        println!("round {round}: node {} frozen, outage {} ms", victim + 1, load.take_gap_ms());
    }
    let mut books = load.stop();
    cluster.settle();
    books.check(&mut cluster.client(2));
}

fn set_all(client: &mut Client, value: u64) {
    for key in 0..KEYS {
        ask(client, &["SET", &format!("fresh:{key}"), &value.to_string()]);
    }
}

fn get_all(client: &mut Client, value: u64) {
    for key in 0..KEYS {
        expect_fresh(&client.call(&["GET", &format!("fresh:{key}")]), value);
    }
}

/// A read answers with what was written last, or says that it cannot.
fn expect_fresh(reply: &Value, value: u64) {
    let fresh = reply.number() == Some(value as i64) || reply.text().starts_with("NOQUORUM");
    assert!(fresh, "{reply:?} was read where {value} was written");
}

#[test]
fn all_killed_at_once_come_back_with_everything() {
    let _turn = alone();
    let seed = seed();
    let mut cluster = Cluster::start(&["--workers", "2"]);
    let load = Load::start(&cluster.addresses(), seed);
    for round in 1..=2 {
        load.wait_for(CALM_WRITES);
        load.take_gap_ms();
        (0..NODES).for_each(|at| cluster.kill(at));
        (0..NODES).for_each(|at| cluster.restart(at));
        load.wait_for(CALM_WRITES);
        println!("round {round}: all killed, outage {} ms", load.take_gap_ms());
    }
    let mut books = load.stop();
    cluster.settle();
    books.check(&mut cluster.client(1));
}

#[test]
fn a_rolling_restart_is_not_noticed_by_clients_of_the_other_nodes() {
    let _turn = alone();
    let seed = seed();
    let mut cluster = Cluster::start(&["--workers", "1"]);
    let addresses = cluster.addresses();
    let mut all = Vec::new();
    for at in 0..NODES {
        let others: Vec<_> = (0..NODES).filter(|n| *n != at).map(|n| addresses[n]).collect();
        let load = Load::named(&format!("roll{at}"), &others, seed);
        load.wait_for(CALM_WRITES);
        load.take_gap_ms();
        let started = Instant::now();
        cluster.terminate(at);
        let stopped = started.elapsed();
        load.wait_for(CALM_WRITES);
        cluster.restart(at);
        cluster.wait_until_whole(at);
        load.wait_for(CALM_WRITES);
        println!(
            "node {} stopped in {} ms, longest pause of the others' clients {} ms",
            at + 1,
            stopped.as_millis(),
            load.take_gap_ms()
        );
        let books = load.stop();
        assert_eq!(books.failures(), Vec::<String>::new());
        all.push(books);
    }
    cluster.settle();
    for books in &mut all {
        books.check(&mut cluster.client(0));
    }
}

#[test]
fn a_node_that_lost_its_data_is_turned_away_until_it_says_so() {
    let _turn = alone();
    let seed = seed();
    let mut cluster = Cluster::start(&["--workers", "1"]);
    let load = Load::start(&cluster.addresses()[..2], seed);
    load.wait_for(3 * CALM_WRITES);
    let victim = 2;
    let (data, old) = (cluster.data(victim), cluster.data(victim).with_extension("old"));
    cluster.kill(victim);
    std::fs::rename(&data, &old).expect("a directory of ours");

    // As if it were new.
    cluster.restart(victim);
    let turned_away = |cluster: &Cluster| {
        for (at, words) in [(0, "node 3 has another data directory"), (victim, "its log says why")]
        {
            eventually("it is said", || cluster.log(at).contains(words).then_some(()));
        }
        let reply = cluster.client(victim).line("GET k");
        assert!(reply.text().starts_with("NOQUORUM"), "{reply:?}");
    };
    turned_away(&cluster);
    cluster.kill(victim);
    let exit =
        cluster.run_to_end(victim, &["--node", "3", "--peers", &cluster.peers(), "--replace"]);
    assert_eq!(exit.status.code(), Some(1), "{exit:?}");
    assert!(exit.stderr.contains("is not empty"), "{exit:?}");

    std::fs::remove_dir_all(&data).expect("a directory of ours");
    let started = Instant::now();
    cluster.restart_with(victim, &["--replace"]);
    load.wait_for(CALM_WRITES);
    let mut books = load.stop();
    cluster.wait_until_whole(victim);
    println!("replaced after {} ms", started.elapsed().as_millis());
    cluster.kill(0);
    cluster.settle();
    books.check(&mut cluster.client(victim));
    // A service is started with the same flags again.
    cluster.kill(victim);
    cluster.restart_with(victim, &["--replace"]);
    cluster.settle();
    books.check(&mut cluster.client(victim));

    // What it was before is not let in any more; with a lost journal it is what it is now.
    cluster.restart(0);
    cluster.kill(victim);
    let new = data.with_extension("new");
    std::fs::rename(&data, &new).expect("a directory of ours");
    std::fs::rename(&old, &data).expect("a directory of ours");
    cluster.restart(victim);
    turned_away(&cluster);
    cluster.kill(victim);
    std::fs::remove_dir_all(&data).expect("a directory of ours");
    std::fs::rename(&new, &data).expect("a directory of ours");
    std::fs::remove_dir_all(data.join("journal")).expect("a directory of ours");
    cluster.restart(victim);
    cluster.wait_until_whole(victim);
    assert!(cluster.log(victim).contains("the journal is missing"));
    cluster.kill(0);
    cluster.settle();
    books.check(&mut cluster.client(victim));
}

#[test]
fn a_node_that_is_cut_off_says_so_and_the_others_go_on() {
    let _turn = alone();
    let Some(network) = Network::new() else { return };
    let seed = seed();
    let cluster = Cluster::start_in(&network, &["--workers", "2"]);
    let load = Load::start(&cluster.addresses(), seed);
    for round in 1..=2 {
        load.wait_for(CALM_WRITES);
        load.take_gap_ms();
        let alone = cluster.leader_of_most().expect("some node leads");
        network.cut(alone);
        let mut client = cluster.client(alone);
        let noticed = Instant::now();
        eventually("the minority refuses", || {
            let reply = client.line("SET cut:off 1");
            let text = reply.text();
            assert!(
                !reply.is_error() || text.starts_with("NOQUORUM") || text.starts_with("UNKNOWN"),
                "{reply:?}"
            );
            text.starts_with("NOQUORUM").then_some(())
        });
        let noticed = noticed.elapsed();
        let at_once = Instant::now();
        for key in 0..64 {
            for line in [format!("SET cut:{key} 1"), format!("GET cut:{key}")] {
                let reply = client.line(&line);
                assert!(reply.text().starts_with("NOQUORUM"), "{line}: {reply:?}");
            }
        }
        println!(
            "round {round}: node {} cut off, noticed after {} ms, then {} us for each refusal",
            alone + 1,
            noticed.as_millis(),
            at_once.elapsed().as_micros() / 128
        );
        load.wait_for(CALM_WRITES);
        println!("round {round}: outage of the others {} ms", load.take_gap_ms());
        network.heal(alone);
        let healed = Instant::now();
        ask(&mut client, &["SET", "healed", "1"]);
        println!("round {round}: healed after {} ms", healed.elapsed().as_millis());
    }
    let mut books = load.stop();
    cluster.settle();
    for at in 0..NODES {
        books.check(&mut cluster.client(at));
    }
}

/// Stops a node, has `damage` done to its data, and starts it: it must get back from the others
/// what it lost, and not only say so.
fn repair(damage: impl FnOnce(&Cluster, usize), said: &[&str]) -> Cluster {
    let seed = seed();
    let mut cluster = Cluster::start(&["--workers", "1"]);
    let load = Load::start(&cluster.addresses(), seed);
    load.wait_for(3 * CALM_WRITES);
    let victim = 2;
    cluster.terminate(victim);
    load.wait_for(CALM_WRITES);
    damage(&cluster, victim);
    let started = Instant::now();
    cluster.restart(victim);
    load.wait_for(CALM_WRITES);
    let mut books = load.stop();
    cluster.wait_until_whole(victim);
    println!("whole again after {} ms", started.elapsed().as_millis());
    let log = cluster.log(victim);
    for words in said {
        assert!(log.contains(words), "'{words}' is missing");
    }
    // From now on nothing can be read without it.
    cluster.kill(0);
    cluster.settle();
    books.check(&mut cluster.client(victim));
    // What it got is there after another start.
    cluster.kill(victim);
    cluster.restart(victim);
    cluster.settle();
    books.check(&mut cluster.client(victim));
    cluster
}

#[test]
fn a_damaged_journal_is_repaired_from_the_others() {
    let _turn = alone();
    let rot = |cluster: &Cluster, victim: usize| {
        let frames = journal::frames(&cluster.data(victim));
        let durable = frames.iter().map(|frame| frame.mark).max().expect("there are frames");
        let below = frames.iter().filter(|f| f.body_bytes > 8 && f.sequence <= durable);
        let below: Vec<_> = below.collect();
        flip(below[below.len() / 2], BODY_AT as u64 + 2);
    };
    let mut cluster = repair(rot, &["the journal is damaged", "set aside as"]);
    // A crash amid the exchange of the journals.
    let journal = cluster.data(2).join("journal");
    let unfinished = journal.with_extension("new");
    cluster.kill(2);
    std::fs::rename(&journal, &unfinished).expect("a directory of ours");
    cluster.restart(2);
    assert!(!unfinished.exists());
    cluster.kill(2);
    std::fs::create_dir(&unfinished).expect("a directory of ours");
    cluster.restart(2);
    assert!(!unfinished.exists());
    cluster.settle();
}

#[test]
fn tables_that_cannot_be_opened_are_repaired_from_the_others() {
    let _turn = alone();
    let rot = |cluster: &Cluster, victim: usize| {
        for generation in generations(cluster, victim).iter().step_by(2) {
            flip_byte(&generation.join("current"), 0);
        }
    };
    drop(repair(rot, &["the table of shard", "set aside as"]));
}

#[test]
fn tables_that_cannot_be_read_are_repaired_from_the_others() {
    let _turn = alone();
    let rot = |cluster: &Cluster, victim: usize| {
        for generation in generations(cluster, victim).iter().step_by(2) {
            for table in std::fs::read_dir(generation.join("tables")).expect("tables") {
                flip_byte(&table.expect("a readable directory").path(), 100);
            }
        }
    };
    drop(repair(rot, &[]));
}

/// The directories of a stopped node's tables.
fn generations(cluster: &Cluster, at: usize) -> Vec<PathBuf> {
    let list = |path: PathBuf| {
        let entries = std::fs::read_dir(path).expect("a readable directory");
        entries.map(|entry| entry.expect("a readable directory").path())
    };
    let shards = list(cluster.data(at).join("store"));
    let mut generations: Vec<_> = shards.flat_map(list).filter(|path| path.is_dir()).collect();
    generations.sort();
    assert!(generations.len() > 1, "tables were written when the node stopped");
    generations
}

/// Flips a bit of the byte at `at`.
fn flip_byte(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is inside");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).expect("a file of ours");
}
