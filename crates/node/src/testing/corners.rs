//! Meetings of two rare things, each of which once left something waiting for ever.

use super::Node;
use crate::config::{Config, Space};
use crate::event::Event;
use crate::shard::Durability;
use quorate_data::place::{SpaceMap, SpaceShards};

/// An empty node of which all shards have this durability.
fn node(workers: u16, durability: Durability) -> Node {
    let config = Config::clone(&Node::new(workers).config);
    let spaces = vec![Space { name: "default".into(), durability }];
    Node::with_config(Config { spaces, ..config })
}

fn stop(node: &mut Node) {
    for worker in 0..node.workers.len() as u16 {
        node.turn(worker, vec![Event::Shutdown]);
    }
}

#[track_caller]
fn assert_stopped(node: &mut Node) {
    node.settle();
    node.advance(1_000);
    assert!(node.workers.iter().all(crate::Worker::is_stopped), "a worker does not stop");
}

#[test]
fn a_write_in_the_turn_of_the_shutdown_is_flushed() {
    let mut node = Node::new(1);
    let client = node.client();
    let set = Event::Received { conn: client, bytes: b"SET k v\r\n" };
    node.turn(0, vec![set, Event::Shutdown]);
    assert_stopped(&mut node);
    assert_eq!(node.text(client), "+OK|");
}

#[test]
fn a_shard_that_was_lent_at_the_shutdown_is_flushed() {
    for workers in [2, 4] {
        for deliveries in 0..12 {
            let mut node = Node::new(workers);
            let keys: Vec<String> = (0..workers).map(|w| node.key_at(w, "k")).collect();
            let clients: Vec<_> = (0..workers).map(|w| node.client_at(w)).collect();
            let pairs: Vec<String> = keys.iter().map(|key| format!("{key} v")).collect();
            for &client in &clients {
                node.feed(client, format!("MSET {}\r\n", pairs.join(" ")).as_bytes());
            }
            for _ in 0..deliveries {
                node.deliver();
            }
            stop(&mut node);
            assert_stopped(&mut node);
        }
    }
}

#[test]
fn a_relaxed_shard_is_lent_after_the_turn_that_changed_it() {
    let mut node = node(2, Durability::Relaxed);
    let (client, other) = (node.client_at(0), node.client_at(1));
    let (a, b) = (node.key_at(0, "a"), node.key_at(1, "b"));
    node.feed(other, format!("MSET {a} 1 {b} 1\r\n").as_bytes());
    let (from, to, message) = node.mail.pop_front().expect("a shard is borrowed");
    let set = format!("SET {a} 2\r\n");
    let set = Event::Received { conn: client, bytes: set.as_bytes() };
    node.turn(to, vec![set, Event::Message { from, message }]);
    node.settle();
    assert_eq!((node.text(client), node.text(other)), ("+OK|".into(), "+OK|".into()));
    node.check(client, &format!("GET {a}"), "$1|1|");
}

#[test]
fn clients_that_wake_each_other_do_so_one_after_the_other() {
    const CLIENTS: usize = 3_000;
    let mut node = Node::new(1);
    for n in 0..CLIENTS {
        let client = node.client();
        node.feed(client, format!("BLPOP q{n} 0\r\nLPUSH q{} x\r\n", n + 1).as_bytes());
    }
    let client = node.client();
    node.check(client, "LPUSH q0 x", ":1|");
    node.check(client, &format!("LLEN q{CLIENTS}"), ":1|");
}

#[test]
fn a_cold_shard_is_evicted_though_it_changed_in_that_turn() {
    let config = Config::clone(&Node::with_shards(1, 1).config);
    let mut node = Node::with_config(Config { memory_bytes_max: 1 << 16, ..config });
    let client = node.client();
    for n in 0..100 {
        node.now.mono += 100;
        let set = format!("SET k{n} {}\r\n", "v".repeat(1_000));
        let set = Event::Received { conn: client, bytes: set.as_bytes() };
        node.turn(0, vec![set, Event::Tick]);
        node.settle();
    }
    let evicted = (0..20).any(|_| {
        node.advance(100);
        let worker = &node.workers[0];
        worker.db.iter().map(|k| k.memory_bytes() as u64).sum::<u64>() < 1 << 16
    });
    assert!(evicted, "everything stays in memory");
}

#[test]
fn a_turn_that_changes_much_becomes_several_frames() {
    let mut node = Node::new(1);
    node.manual_sync = true;
    let client = node.client();
    node.feed(client, b"SETRANGE a 2000000 x\r\nSETRANGE b 2000000 x\r\nSTRLEN a\r\n");
    assert_eq!((node.unsynced(), node.text(client)), (2, String::new()));
    node.sync();
    assert_eq!(node.text(client), ":2000001|:2000001|:2000001|");
}

#[test]
fn a_transaction_is_one_frame_and_ends_changing_when_it_is_too_long() {
    let mut node = Node::new(1);
    node.manual_sync = true;
    let client = node.client();
    let sets: String = (0..3).map(|n| format!("SETRANGE k{n} 5000000 x\r\n")).collect();
    node.feed(
        client,
        format!("SETRANGE a 2000000 x\r\nMULTI\r\n{sets}GET z\r\nEXEC\r\n").as_bytes(),
    );
    assert_eq!(node.unsynced(), 2);
    node.sync();
    let reply = node.text(client);
    let (_, reply) = reply.split_once("*4|").expect("the transaction executed");
    assert!(reply.starts_with(":5000001|:5000001|-ERR The transaction"), "{reply}");
    assert!(reply.ends_with("|$-1|"), "{reply}");
}

#[test]
fn a_copy_that_no_frame_could_hold_is_refused() {
    let mut node = Node::new(2);
    for worker in &mut node.workers {
        worker.settings.command_bytes_max = 10_000;
    }
    let client = node.client_at(0);
    let (here, there) = (node.key_at(0, "k"), node.key_at(1, "k"));
    node.check(client, &format!("SETRANGE {here} 20000 x"), ":20001|");
    for line in [format!("COPY {here} {there}"), format!("RENAME {here} {there}")] {
        let reply = node.run(client, &line);
        assert!(reply.starts_with("-ERR The command would change 201"), "{reply}");
    }
    let refused = node.run(client, &format!("COPY {here} {there}"));
    let transaction = format!("MULTI\r\nCOPY {here} {there}\r\nGET {there}\r\nEXEC");
    node.check(client, &transaction, &format!("+OK|+QUEUED|+QUEUED|*2|{refused}$-1|"));
    node.restart();
    let client = node.client();
    node.check(client, &format!("STRLEN {here}"), ":20001|");
    node.check(client, &format!("EXISTS {there}"), ":0|");
}

#[test]
fn a_transaction_is_queued_up_to_a_bound() {
    let config = Config::clone(&Node::new(1).config);
    let mut node = Node::with_config(Config { query_buffer_bytes_max: 10_000, ..config });
    let client = node.client();
    node.check(client, "MULTI", "+OK|");
    let set = format!("SET k {}", "v".repeat(4_000));
    node.check(client, &set, "+QUEUED|");
    node.check(client, &set, "+QUEUED|");
    let refused = "-ERR The transaction is too long: split it into smaller ones|";
    node.check(client, &set, refused);
    node.check(client, "EXEC", "-EXECABORT Transaction discarded because of previous errors.|");
    node.check(client, "EXISTS k", ":0|");
}

#[test]
fn a_client_is_not_read_while_other_workers_owe_it_much() {
    let mut node = Node::new(2);
    let client = node.client_at(0);
    let set = format!("SET {} {}\r\n", node.key_at(1, "k"), "v".repeat(60_000));
    let mut sent = 0;
    while node.workers[0].wants_input(client) {
        assert!(sent < 1_000, "nothing stops the client");
        node.feed(client, set.as_bytes());
        sent += 1;
    }
    node.settle();
    assert!(node.workers[0].wants_input(client));
    assert_eq!(node.text(client), "+OK|".repeat(sent));
}

#[test]
fn what_a_client_sent_before_it_closed_its_side_is_answered() {
    let mut node = Node::new(2);
    node.manual_sync = true;
    let client = node.client_at(0);
    let (a, b) = (node.key_at(0, "a"), node.key_at(1, "b"));
    node.feed(client, format!("MSET {a} 1 {b} 1\r\nSET {b} 2\r\nGET {b}\r\nGE").as_bytes());
    node.end(client);
    node.settle();
    assert!(!node.is_closed(client));
    node.manual_sync = false;
    node.settle();
    assert_eq!(node.text(client), "+OK|+OK|$1|2|");
    assert!(node.is_closed(client));
}

#[test]
fn a_client_that_closed_its_side_does_not_wait_for_a_key() {
    for (worker, keys) in [(0, "k"), (0, "k l m n o p q r"), (1, "k"), (1, "k l m n o p q r")] {
        for ends_first in [false, true] {
            let mut node = Node::new(2);
            let client = node.client_at(worker);
            node.feed(client, format!("MGET {keys}\r\nBLPOP {keys} 0\r\n").as_bytes());
            if !ends_first {
                node.settle();
            }
            node.end(client);
            node.settle();
            assert!(node.is_closed(client), "{worker} {keys}");
            assert!(node.workers.iter().all(|w| w.jobs.is_empty() && w.stats.blocked == 0));
            let other = node.client();
            node.check(other, "RPUSH k v", ":1|");
        }
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_closed_whatever_it_waits_for() {
    let mut node = Node::new(2);
    let (subscriber, publisher) = (node.client_at(0), node.client_at(1));
    node.feed(subscriber, b"HELLO 3\r\nSUBSCRIBE c\r\nBLPOP k 0\r\n");
    node.settle();
    node.turn(0, vec![Event::Backlog { conn: subscriber, bytes: 64 << 20 }]);
    node.check(publisher, "PUBLISH c m", ":1|");
    assert!(node.is_closed(subscriber));
    assert!(node.workers.iter().all(|worker| worker.jobs.is_empty()));
    node.check(publisher, "PUBLISH c m", ":0|");
}

#[test]
fn watching_sees_what_redis_would_let_it_see() {
    let stream = "XADD k 1-1 f v\r\nXGROUP CREATE k g 0";
    let pending = "XADD k 1-1 f v\r\nXGROUP CREATE k g 0\r\nXREADGROUP GROUP g c STREAMS k >";
    for (setup, change, seen) in [
        ("SET other 1", "FLUSHALL", false),
        ("SET other 1", "FLUSHDB", false),
        ("SET k 1", "FLUSHALL", true),
        ("DEL k", "SET k 1\r\nFLUSHALL", true),
        ("XADD k 1-1 f v", "XGROUP CREATE k g 0", false),
        ("DEL k", "XGROUP CREATE k g 0 MKSTREAM", true),
        (stream, "XGROUP SETID k g 1-1", false),
        (stream, "XGROUP DESTROY k g", false),
        (stream, "XGROUP CREATECONSUMER k g c", false),
        (stream, "XREADGROUP GROUP g c STREAMS k >", false),
        (stream, "XSETID k 5-5", false),
        (stream, "XADD k 2-1 f v", true),
        (stream, "XDEL k 1-1", true),
        (stream, "XTRIM k MAXLEN 0", true),
        (pending, "XGROUP DELCONSUMER k g c", false),
        (pending, "XACK k g 1-1", false),
        (pending, "XCLAIM k g d 0 1-1", false),
        (pending, "XAUTOCLAIM k g d 0 0", false),
    ] {
        for flushed in [false, true] {
            let mut node = Node::new(1);
            let (client, other) = (node.client(), node.client());
            node.run(client, setup);
            if flushed {
                // Now only the tables know the keys.
                for shard in 0..super::SHARDS {
                    node.turn(0, vec![Event::FlushWanted { shard }]);
                }
                node.advance(100);
                node.restart();
            }
            let (client, other) =
                if flushed { (node.client(), node.client()) } else { (client, other) };
            node.check(client, "WATCH k", "+OK|");
            let reply = node.run(other, change);
            assert!(!reply.contains("-ERR"), "{change}: {reply}");
            let exec = if seen { "*-1|" } else { "*1|+PONG|" };
            node.check(client, "MULTI\r\nPING\r\nEXEC", &format!("+OK|+QUEUED|{exec}"));
        }
    }
}

#[test]
fn a_group_that_is_destroyed_ends_the_wait_for_its_entries() {
    let mut node = Node::new(1);
    let (client, other) = (node.client(), node.client());
    node.check(other, "XGROUP CREATE k g 0 MKSTREAM", "+OK|");
    node.check(client, "XREADGROUP GROUP g c BLOCK 0 STREAMS k >", "");
    node.check(other, "XGROUP DESTROY k g", ":1|");
    let reply = node.text(client);
    assert!(reply.starts_with("-NOGROUP"), "{reply}");
}

#[test]
fn each_space_has_its_own_durability() {
    for (default, own) in
        [(Durability::Sync, Durability::Relaxed), (Durability::Relaxed, Durability::Sync)]
    {
        let space =
            |id, prefix: &str, first| SpaceShards { id, prefix: prefix.into(), first, shards: 4 };
        let config = Config::clone(&Node::new(1).config);
        let mut node = Node::with_config(Config {
            map: SpaceMap::new(vec![space(0, "", 0), space(1, "cache:", 4)], super::PLACE_SEED),
            spaces: [("default", default), ("cache", own)]
                .map(|(name, durability)| Space { name: name.into(), durability })
                .into(),
            ..config
        });
        node.manual_sync = true;
        let client = node.client();
        for n in 0..20 {
            for (key, durability) in [
                (format!("{n}"), default),
                (format!("cache:{n}"), own),
                (format!("cach{n}"), default),
            ] {
                let line = format!("SET {key} 1");
                let frames = node.unsynced();
                match durability {
                    Durability::Relaxed => node.check(client, &line, "+OK|"),
                    Durability::Sync => node.check(client, &line, ""),
                }
                assert_eq!(node.unsynced(), frames + 1, "it goes to the journal in any case");
                node.sync();
                node.take(client);
            }
        }
        // What touches both waits for the disk.
        node.check(client, "MSET both 1 cache:both 1", "");
        node.sync();
        assert_eq!(node.text(client), "+OK|");
    }
}
