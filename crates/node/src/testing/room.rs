//! A disk that is full, and tables that do not keep up with the journal.

use super::Node;
use crate::event::{ConnId, Event};
use quorate_data::command::flag;

const MISCONF: &str = "-MISCONF The disk is full: writes are refused until there is room in the data \
                       directory, reads go on|";

impl Node {
    fn each(&mut self, event: impl Fn() -> Event<'static>) {
        for worker in 0..self.workers.len() as u16 {
            self.turn(worker, vec![event()]);
        }
        self.settle();
    }

    fn disk_full(&mut self, full: bool) {
        self.each(|| Event::DiskFull { full });
    }

    fn throttle(&mut self, on: bool) {
        self.each(|| Event::Throttled { on });
    }

    fn wants_input(&self, conn: ConnId) -> bool {
        self.workers[usize::from(self.worker_of(conn))].wants_input(conn)
    }
}

#[test]
fn reads_go_on_while_much_waits_for_room() {
    let mut node = Node::new(1);
    let (writer, reader) = (node.client(), node.client());
    node.check(reader, "SET small 1", "+OK|");
    node.manual_sync = true;
    node.check(writer, "SETRANGE large 5000000 x", "");
    assert!(!node.wants_input(reader), "the journal is behind");
    node.disk_full(true);
    assert!(node.wants_input(reader) && node.wants_input(writer));
    node.check(reader, "GET small", "$1|1|");
    for line in ["SET small 2", "DEL small", "FLUSHALL"] {
        node.check(reader, line, MISCONF);
    }
    node.disk_full(false);
    assert!(!node.wants_input(reader));
    node.sync();
    assert!(node.wants_input(reader));
    assert_eq!(node.text(writer), ":5000001|");
    node.manual_sync = false;
    node.check(reader, "DEL small", ":1|");
}

#[test]
fn a_client_is_not_read_while_many_replies_to_it_wait() {
    let mut node = Node::new(1);
    node.manual_sync = true;
    let client = node.client();
    node.check(client, "SETRANGE k 3000000 x", "");
    node.check(client, "GET k\r\nGET k", "");
    assert!(node.wants_input(client));
    node.check(client, "GET k", "");
    assert!(!node.wants_input(client));
    node.sync();
    assert!(node.wants_input(client));
    assert_eq!(node.take(client).len(), 10 + 3 * (10 + 3_000_001 + 2));
}

#[test]
fn what_makes_room_goes_on_with_the_reserve() {
    let mut node = Node::new(2);
    let client = node.client();
    for key in ["a", "b", "c", "d", "e", "f"] {
        node.check(client, &format!("SET {key} 1"), "+OK|");
    }
    node.check(client, "RPUSH list 1 2 3", ":3|");
    node.disk_full(true);
    for (line, reply) in [
        ("SET g 1", MISCONF),
        ("RENAME a g", MISCONF),
        ("DEL a", ":1|"),
        ("UNLINK b", ":1|"),
        ("GETDEL c", "$1|1|"),
        ("EXPIREAT d 1", ":1|"),
        ("LPOP list", "$1|1|"),
        ("MULTI\r\nDEL e\r\nEXISTS f\r\nEXEC", "+OK|+QUEUED|+QUEUED|*2|:1|:1|"),
        ("DBSIZE", ":2|"),
    ] {
        node.check(client, line, reply);
    }
    let many = format!("*2\r\n$3\r\nDEL\r\n${}\r\n{}\r\n", 2 << 20, "x".repeat(2 << 20));
    node.feed(client, many.as_bytes());
    assert_eq!(node.text(client), MISCONF);
    node.each(|| Event::ReserveUsed { used: true });
    node.check(client, "DEL f", MISCONF);
    node.check(client, "GET f", "$1|1|");
    node.each(|| Event::ReserveUsed { used: false });
    node.check(client, "FLUSHALL", "+OK|");
    node.disk_full(false);
    node.check(client, "SET g 1", "+OK|");
}

#[test]
fn what_is_dropped_from_a_full_disk_leaves_the_tables_at_once() {
    let mut node = Node::new(1);
    let client = node.client();
    for key in 0..50 {
        node.check(client, &format!("SET {key} 1"), "+OK|");
    }
    for shard in 0..super::SHARDS {
        node.turn(0, vec![Event::FlushWanted { shard }]);
    }
    let stored = |node: &Node| node.tables.iter().map(|t| t.pairs().len()).sum::<usize>();
    node.advance(100);
    assert_eq!(stored(&node), 50);
    node.disk_full(true);
    node.check(client, "FLUSHALL", "+OK|");
    node.advance(100);
    assert_eq!(stored(&node), 0);
}

#[test]
fn counting_changes_nothing_on_a_full_disk() {
    let mut node = Node::new(1);
    let client = node.client();
    node.check(client, "PFADD p a b c", ":1|");
    node.manual_sync = true;
    node.disk_full(true);
    node.check(client, "PFCOUNT p", ":3|");
    assert_eq!(node.unsynced(), 0);
    node.disk_full(false);
    node.check(client, "PFCOUNT p", "");
    assert_eq!(node.unsynced(), 1);
}

#[test]
fn what_makes_room_is_a_write_that_takes_none() {
    for name in crate::dispatch::MAKES_ROOM {
        let command = crate::dispatch::Commands::new().get(name.as_bytes()).expect("it exists");
        assert!(command.is(flag::WRITE) && !command.is(flag::DENYOOM), "{name}");
    }
}

#[test]
fn writes_wait_while_the_tables_are_behind_and_reads_do_not() {
    let mut node = Node::new(2);
    let (writer, reader) = (node.client_at(0), node.client_at(1));
    let (here, there) = (node.key_at(0, "k"), node.key_at(1, "k"));
    node.check(reader, &format!("MSET {here} 1 {there} 1"), "+OK|");
    node.throttle(true);
    node.check(writer, &format!("SET {there} 2\r\nGET {there}"), "");
    for key in [&here, &there] {
        node.check(reader, &format!("GET {key}"), "$1|1|");
    }
    node.check(reader, &format!("MULTI\r\nGET {here}\r\nEXEC"), "+OK|+QUEUED|*1|$1|1|");
    node.check(reader, &format!("MULTI\r\nINCR {here}\r\nEXEC"), "+OK|+QUEUED|");
    // What the tables need to catch up does not wait.
    for shard in 0..super::SHARDS {
        node.turn((shard % 2) as u16, vec![Event::FlushWanted { shard }]);
    }
    node.advance(1_000);
    assert_eq!(node.tables.iter().map(|t| t.pairs().len()).sum::<usize>(), 2);
    node.throttle(false);
    assert_eq!(node.text(writer), "+OK|$1|2|");
    assert_eq!(node.text(reader), "*1|:2|");
    node.check(writer, &format!("SET {here} 3"), "+OK|");
}

#[test]
fn writes_that_wait_are_answered_when_the_disk_is_full_or_the_node_stops() {
    let mut node = Node::new(1);
    let client = node.client();
    node.throttle(true);
    node.check(client, "SET k 1", "");
    node.disk_full(true);
    assert_eq!(node.text(client), MISCONF);
    node.check(client, "DEL k", ":0|");
    node.disk_full(false);
    node.check(client, "SET k 1", "");
    node.each(|| Event::Shutdown);
    let reply = node.text(client);
    assert!(reply.starts_with("-ERR The node is shutting down"), "{reply}");
    node.throttle(true);
    node.advance(1_000);
    assert!(node.workers[0].is_stopped());
}

#[test]
fn a_pause_outlasts_a_throttle() {
    let mut node = Node::new(1);
    let (client, other) = (node.client(), node.client());
    node.check(other, "CLIENT PAUSE 500 WRITE", "+OK|");
    node.throttle(true);
    node.check(client, "SET k 1", "");
    node.throttle(false);
    assert_eq!(node.text(client), "");
    node.advance(1_000);
    assert_eq!(node.text(client), "+OK|");
}
