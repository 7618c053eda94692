use super::*;
use crate::event::{ConnId, Event};
use crate::peer;
use crate::testing::Node;
use crate::testing::cluster::Cluster;

fn status_of(node: &Node) -> NodeStatus {
    let config = Arc::new(Node::config(1, 8, crate::Durability::Sync));
    let workers = node.workers.iter().map(|worker| worker.status(node.now));
    NodeStatus::new(config, workers, None).unwrap()
}

fn latency(node: &Node) -> Histogram {
    status_of(node).workers.stats.latency
}

fn pass(node: &mut Node, ms: Millis) {
    node.now.mono += ms;
    node.now.mono_us += ms * 1_000;
}

#[test]
fn a_node_that_stands_alone_tells_of_all_its_shards() {
    let mut node = Node::new(2);
    let client = node.client();
    for n in 0..40 {
        node.run(client, &format!("SET key:{n} value"));
    }
    node.run(client, "GET key:1");
    let status = status_of(&node);
    let shards = &status.workers.shards;
    assert_eq!(shards.iter().map(|s| s.shard).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(*shards[0].slots.start(), 0);
    assert!(shards.windows(2).all(|two| two[0].slots.end() + 1 == *two[1].slots.start()));
    assert_eq!(*shards[7].slots.end(), 16_383);
    assert_eq!(shards.iter().map(|s| s.keys).sum::<u64>(), 40);
    assert_eq!(shards.iter().map(|s| s.commands).sum::<u64>(), 41);
    assert!(shards.iter().all(|s| s.role == Role::Alone && s.leader.is_none()));
    assert!(shards.iter().all(|s| s.state == ReplicaState::Serving && s.committed == s.last));
    assert_eq!((status.leaderless(), status.has_quorum(), status.node()), (0, true, 0));
}

/// The value behind a name in a RESP2 map.
fn value<'a>(reply: &'a str, name: &str) -> &'a str {
    let name = format!("|{name}|");
    let at = reply.find(&name).unwrap_or_else(|| panic!("'{name}' is missing: {reply}"));
    reply[at + name.len()..].split('|').next().unwrap()
}

#[test]
fn the_reply_has_what_the_outside_sees() {
    let mut node = Node::new(2);
    node.outside.disk_free_bytes = Some(12_345);
    node.outside.journal.bytes = 678;
    let client = node.client();
    node.run(client, "SET k v");
    let reply = node.run(client, "QUORATE STATUS");
    assert!(reply.starts_with("*36|$6|format|:1|$4|node|:0|"), "{reply}");
    assert_eq!(value(&reply, "free_bytes"), ":12345");
    assert_eq!(value(&reply, "bytes"), ":678");
    assert_eq!(value(&reply, "client_address"), "$14");
    assert_eq!(reply.matches("|first_slot|").count(), 8);
    // Within a transaction nothing can be waited for, the outside no more than other workers.
    node.run(client, "MULTI");
    node.run(client, "QUORATE STATUS");
    let reply = node.run(client, "EXEC");
    assert_eq!(value(&reply, "free_bytes"), "$-1");
    assert_eq!(reply.matches("|first_slot|").count(), 4);
    node.check(client, "PING", "+PONG|");
}

#[test]
fn a_command_lasts_until_its_reply_may_leave() {
    let mut node = Node::new(1);
    let client = node.client();
    node.manual_sync = true;
    node.feed(client, b"SET a 1\r\nSET b 2\r\nGET a\r\n");
    assert_eq!(latency(&node).count(), 0);
    pass(&mut node, 8);
    node.sync();
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (3, 24_000));
    // What is answered in the turn in which it came took no time that a turn could see.
    node.feed(client, b"PING\r\nPING\r\n");
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (5, 24_000));
}

#[test]
fn a_client_that_sends_on_is_timed_batch_by_batch() {
    let mut node = Node::new(1);
    let client = node.client();
    node.manual_sync = true;
    node.feed(client, b"SET a 1\r\n");
    pass(&mut node, 10);
    node.feed(client, b"SET a 2\r\nSET a 3\r\n");
    pass(&mut node, 10);
    node.feed(client, b"SET a 4\r\n");
    node.sync_one(0);
    // The first has left after 20 ms; the others still wait.
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (1, 20_000));
    pass(&mut node, 10);
    node.sync();
    // The rest is taken for as old as its first.
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (4, 20_000 + 3 * 20_000));
    assert_eq!(node.text(client), "+OK|+OK|+OK|+OK|");
}

#[test]
fn waiting_for_a_key_and_half_a_command_are_not_timed() {
    let mut node = Node::new(1);
    let (waits, other) = (node.client(), node.client());
    node.feed(waits, b"BLPOP list 0\r\n");
    pass(&mut node, 1_000);
    node.run(other, "RPUSH list x");
    assert_eq!(node.text(waits), "*2|$4|list|$1|x|");
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (1, 0));
    node.feed(waits, b"PI");
    pass(&mut node, 1_000);
    node.feed(waits, b"NG\r\n");
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (2, 0));
}

#[test]
fn commands_of_other_workers_shards_and_silent_clients_are_timed_right() {
    let mut node = Node::new(2);
    let client = node.client_at(0);
    let keys = [node.key_at(0, "a"), node.key_at(1, "b")];
    node.manual_sync = true;
    for key in &keys {
        node.feed(client, format!("SET {key} 1\r\n").as_bytes());
    }
    node.settle();
    pass(&mut node, 5);
    node.sync();
    node.settle();
    assert_eq!(node.text(client), "+OK|+OK|");
    let seen = latency(&node);
    assert_eq!((seen.count(), seen.sum_us()), (2, 10_000));
    node.feed(client, b"CLIENT REPLY OFF\r\nPING\r\n");
    pass(&mut node, 1_000);
    node.feed(client, b"CLIENT REPLY ON\r\n");
    let seen = latency(&node);
    assert_eq!((node.text(client), seen.sum_us()), ("+OK|".into(), 10_000));
}

fn three() -> (Cluster, usize, ConnId) {
    let mut cluster = Cluster::new(3, 1, 2);
    cluster.elect();
    let leader = cluster.leader(0).unwrap();
    let client = cluster.nodes[leader].client();
    (cluster, leader, client)
}

#[test]
fn nodes_tell_each_other_where_their_clients_connect() {
    let (mut cluster, leader, client) = three();
    let peers = status_of(&cluster.nodes[leader]).workers.peers;
    assert_eq!(peers.len(), 2);
    let since = peers[0].since;
    for peer in peers {
        let about = peer.about.unwrap();
        assert!(peer.up);
        assert_eq!((&*about.client_address, &*about.version), ("127.0.0.1:6379", "0.1.0"));
    }
    let reply = cluster.wait(leader, client, "QUORATE STATUS", 100);
    assert_eq!(reply.matches("|client_address|$14|127.0.0.1:6379|").count(), 3, "{reply}");
    // A node that is away keeps its address, and its link says since when.
    let away = (leader + 1) % 3;
    cluster.advance(100);
    cluster.isolate(away, true);
    let status = status_of(&cluster.nodes[leader]);
    let peer = status.workers.peers.iter().find(|p| p.node == away as NodeId + 1).unwrap();
    assert!(!peer.up && peer.since > since && peer.about.is_some());
    assert!(status.has_quorum() && !status_of(&cluster.nodes[away]).has_quorum());
}

#[test]
fn a_leader_tells_how_far_the_copies_are() {
    let (mut cluster, leader, client) = three();
    let away = (leader + 1) % 3;
    cluster.isolate(away, true);
    let mut keys = (0..).map(|n| format!("key:{n}"));
    let map = Node::config(1, 2, crate::Durability::Sync).map;
    for _ in 0..5 {
        let key = keys.find(|key| map.place(key.as_bytes()).shard == 0).unwrap();
        assert_eq!(cluster.wait(leader, client, &format!("SET {key} v"), 1_000), "+OK|");
    }
    let shard = status_of(&cluster.nodes[leader]).workers.shards.remove(0);
    assert_eq!((shard.role, shard.leader), (Role::Leader, Some(leader as NodeId + 1)));
    let lag = |node: usize| {
        let follower = shard.followers.iter().find(|f| f.node == node as NodeId + 1).unwrap();
        shard.last - follower.matched
    };
    assert!(lag(away) >= 5, "{shard:?}");
    assert_eq!(lag((leader + 2) % 3), 0, "{shard:?}");
    let follower = status_of(&cluster.nodes[away]).workers.shards.remove(0);
    assert_eq!((follower.role, follower.followers), (Role::Follower, vec![]));
    // A node that hears no leader knows none after a while.
    cluster.advance(2_000);
    assert_eq!(status_of(&cluster.nodes[away]).leaderless(), 2);
    cluster.isolate(away, false);
    cluster.advance(1_000);
    assert_eq!(status_of(&cluster.nodes[away]).leaderless(), 0);
}

#[test]
fn a_ping_comes_back_and_what_nobody_knows_is_dropped() {
    let (mut cluster, leader, _) = three();
    let other = (leader + 1) % 3;
    let node = &mut cluster.nodes[other];
    let mut unknown = Vec::new();
    peer::put(&mut unknown, peer::Address::Worker(0), &[99, 1, 2, 3]);
    for bytes in [unknown, peer::ping(77)] {
        node.turn(0, vec![Event::Peer { from: leader as NodeId + 1, bytes: &bytes }]);
    }
    cluster.settle();
    assert_eq!(cluster.nodes[leader].round_trips, [(other as NodeId + 1, 77)]);
}

#[test]
fn what_a_later_release_says_of_itself_is_skipped() {
    use crate::peer::message::PeerMessage;
    let about = PeerAbout { client_address: "host:1".into(), version: "9".into() };
    let mut bytes = PeerMessage::About(about.clone()).encode();
    bytes.extend([7, 2, b'e', b'u']);
    assert_eq!(PeerMessage::decode(&bytes), Some(PeerMessage::About(about)));
    assert_eq!(PeerMessage::decode(&bytes[..bytes.len() - 1]), None);
}
