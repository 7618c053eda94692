use crate::testing::Node;

#[test]
fn a_list_shows_the_clients_of_all_workers() {
    let mut node = Node::new(2);
    let (a, b) = (node.client(), node.client());
    node.run(a, "CLIENT SETNAME one");
    node.run(a, "CLIENT SETINFO lib-name lib");
    node.run(b, "SUBSCRIBE c d");
    let text = node.run(a, "CLIENT LIST");
    let lines: Vec<&str> = text.split_once('|').unwrap().1.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("id=1 addr=127.0.0.1:50001 laddr=127.0.0.1:6379 "));
    assert!(lines[0].contains(" name=one age=0 idle=0 flags=N db=0 sub=0 "));
    assert!(
        lines[0].ends_with(" cmd=client|list user=default redir=-1 resp=2 lib-name=lib lib-ver=")
    );
    assert!(lines[1].contains(" flags=P db=0 sub=2 psub=0 ssub=0 multi=-1 "));
    assert!(node.run(a, "CLIENT LIST TYPE pubsub").contains("|id=2 "));
    assert!(node.run(a, "CLIENT LIST ID 1 7").contains("|id=1 "));
    node.check(a, "CLIENT LIST TYPE master", "$0||");
    for (line, error) in [
        ("TYPE x", "ERR Unknown client type 'x'"),
        ("ID", "ERR syntax error"),
        ("ID x", "ERR Invalid client ID"),
        ("TYPE normal ID 1", "ERR syntax error"),
    ] {
        node.check(a, &format!("CLIENT LIST {line}"), &format!("-{error}|"));
    }
}

#[test]
fn kill_closes_those_who_fit() {
    let mut node = Node::new(2);
    let clients: Vec<u64> = (0..5).map(|_| node.client()).collect();
    node.check(clients[0], "CLIENT KILL 127.0.0.1:50002", "+OK|");
    assert!(node.is_closed(clients[1]));
    node.check(clients[0], "CLIENT KILL 127.0.0.1:50002", "-ERR No such client|");
    node.check(clients[0], "CLIENT KILL ID 3 TYPE normal", ":1|");
    node.check(clients[0], "CLIENT KILL TYPE normal", ":2|");
    assert!(node.is_closed(clients[4]) && !node.is_closed(clients[0]));
    node.check(clients[0], "CLIENT KILL TYPE normal SKIPME no", ":1|");
    assert!(node.is_closed(clients[0]));
    let client = node.client();
    for (line, error) in [
        ("ID x", "ERR client-id should be greater than 0"),
        ("ID 1 x", "ERR syntax error"),
        ("TYPE x", "ERR Unknown client type 'x'"),
        ("USER x", "ERR No such user 'x'"),
        ("SKIPME x", "ERR syntax error"),
    ] {
        node.check(client, &format!("CLIENT KILL {line}"), &format!("-{error}|"));
    }
    node.check(client, "CLIENT KILL", "-ERR wrong number of arguments for 'client|kill' command|");
}

#[test]
fn an_unknown_subcommand_spoils_a_transaction() {
    let mut node = Node::new(1);
    let client = node.client();
    node.check(client, "MULTI", "+OK|");
    node.check(client, "CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP.|");
    let aborted = "-EXECABORT Transaction discarded because of previous errors.|";
    node.check(client, "EXEC", aborted);
}

#[test]
fn replies_can_be_left_out() {
    for workers in [1, 4] {
        let mut node = Node::new(workers);
        let client = node.client();
        node.check(client, "CLIENT REPLY SKIP", "");
        node.check(client, "SET a 1", "");
        node.check(client, "GET a", "$1|1|");
        node.feed(client, b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nGET a\r\nPING\r\n");
        node.settle();
        assert_eq!(node.text(client), "+PONG|");
        node.check(client, "CLIENT REPLY OFF", "");
        for n in 0..10 {
            node.check(client, &format!("SET {n} {n}"), "");
        }
        node.check(client, "DEL 0 1 2 3 4 5 6 7 8", "");
        node.check(client, "FOO", "");
        node.check(client, "CLIENT REPLY SKIP", "");
        node.check(client, "PING", "");
        node.check(client, "CLIENT LIST", "");
        node.check(client, "CLIENT REPLY ON", "+OK|");
        node.check(client, "GET 9", "$1|9|");
        node.check(client, "GET 8", "$-1|");
    }
}

#[test]
fn a_pause_holds_commands_back() {
    let mut node = Node::new(2);
    let (a, b) = (node.client(), node.client());
    node.check(a, "CLIENT PAUSE 100 WRITE", "+OK|");
    node.check(b, "GET a", "$-1|");
    node.feed(b, b"SET a 1\r\nGET a\r\n");
    node.settle();
    node.check(a, "PUBLISH c m", "");
    node.advance(99);
    assert_eq!(node.text(b), "");
    node.advance(1);
    assert_eq!(node.text(b), "+OK|$1|1|");
    assert_eq!(node.text(a), ":0|");

    node.check(a, "CLIENT PAUSE 1000 WRITE", "+OK|");
    node.check(b, "MULTI", "+OK|");
    node.check(b, "PING", "+QUEUED|");
    node.check(b, "EXEC", "*1|+PONG|");
    node.check(b, "SET a 2", "");
    node.check(a, "CLIENT UNPAUSE", "+OK|");
    assert_eq!(node.text(b), "+OK|");

    node.check(a, "CLIENT PAUSE 50", "+OK|");
    node.check(a, "PING", "");
    node.check(b, "PING", "");
    node.disconnect(b);
    node.advance(50);
    assert_eq!(node.text(a), "+PONG|");
    node.check(a, "CLIENT PAUSE x", "-ERR timeout is not an integer or out of range|");
    node.check(a, "CLIENT PAUSE -1", "-ERR timeout is negative|");
    node.check(a, "CLIENT PAUSE 1 x", "-ERR CLIENT PAUSE mode must be WRITE or ALL|");
}

#[test]
fn names_are_checked() {
    let mut node = Node::new(1);
    let client = node.client();
    node.check(client, "CLIENT GETNAME", "$-1|");
    node.check(
        client,
        "CLIENT SETNAME \"a b\"",
        "-ERR Client names cannot contain spaces, newlines or special characters.|",
    );
    node.check(
        client,
        "CLIENT SETINFO lib-ver \"a b\"",
        "-ERR lib-ver cannot contain spaces, newlines or special characters.|",
    );
    node.check(client, "CLIENT SETINFO foo x", "-ERR Unrecognized option 'foo'|");
    node.check(client, "CLIENT NO-EVICT x", "-ERR syntax error|");
    node.check(client, "CLIENT NO-EVICT on", "+OK|");
    assert!(node.run(client, "CLIENT INFO").contains(" flags=e "));
    node.check(client, "CLIENT ID", ":1|");
    node.check(client, "CLIENT UNBLOCK 1", ":0|");
    node.check(client, "CLIENT GETREDIR", ":-1|");
}

#[test]
fn a_blocked_client_is_unblocked_wherever_it_waits() {
    for workers in [1, 2, 4] {
        let mut node = Node::new(workers);
        let clients: Vec<u64> = (0..2 * workers).map(|_| node.client()).collect();
        let asker = clients[0];
        let (here, there) = (node.key_at(0, "k"), node.key_at(workers - 1, "k"));
        for &client in &clients[1..] {
            for keys in [here.clone(), there.clone(), format!("{here} {there}")] {
                node.check(client, &format!("BLPOP {keys} 0"), "");
                let list = node.run(asker, &format!("CLIENT LIST ID {client}"));
                assert!(list.contains(" flags=b "), "{list}");
                node.check(asker, &format!("CLIENT UNBLOCK {client}"), ":1|");
                assert_eq!(node.text(client), "*-1|");
                node.check(client, &format!("BLPOP {keys} 0"), "");
                node.check(asker, &format!("CLIENT UNBLOCK {client} ERROR"), ":1|");
                let error = "-UNBLOCKED client unblocked via CLIENT UNBLOCK|";
                assert_eq!(node.text(client), error);
                node.check(asker, &format!("CLIENT UNBLOCK {client}"), ":0|");
            }
        }
        assert!(node.run(asker, "INFO clients").contains("|blocked_clients:0|"));
    }
}

#[test]
fn a_command_that_waited_is_silent_too() {
    for workers in [1, 2, 4] {
        let mut node = Node::new(workers);
        let clients: Vec<u64> = (0..workers).map(|_| node.client()).collect();
        let key = node.key_at(0, "k");
        for &client in &clients {
            let other = node.client();
            node.feed(client, b"CLIENT REPLY SKIP\r\n");
            node.check(client, &format!("BLPOP {key} 0"), "");
            node.check(other, &format!("RPUSH {key} a b"), ":2|");
            node.check(client, "PING", "+PONG|");
            node.check(client, &format!("LPOP {key}"), "$1|b|");
        }
    }
}

#[test]
fn a_client_that_is_killed_while_it_waits_takes_nothing() {
    for workers in [1, 2] {
        let mut node = Node::new(workers);
        let (a, b) = (node.client(), node.client());
        let (here, there) = (node.key_at(0, "k"), node.key_at(workers - 1, "k"));
        node.check(b, &format!("BLPOP {here} {there} 0"), "");
        node.check(a, &format!("CLIENT KILL ID {b}"), ":1|");
        node.check(a, &format!("RPUSH {here} x"), ":1|");
        node.check(a, &format!("LLEN {here}"), ":1|");
    }
}

#[test]
fn questions_inside_a_transaction_do_not_wait_for_others() {
    let mut node = Node::new(2);
    let (a, b) = (node.client(), node.client());
    for line in ["CONFIG SET hll-sparse-max-bytes 9", "CLIENT LIST", "CLIENT KILL ID 2"] {
        node.run(a, "MULTI");
        node.check(a, line, "+QUEUED|");
        node.check(a, "PING", "+QUEUED|");
        assert!(node.run(a, "EXEC").ends_with("|+PONG|"));
        if !node.is_closed(b) {
            node.run(b, "CONFIG GET hll-sparse-max-bytes");
        }
    }
    assert!(node.is_closed(b));
    let c = node.client_at(1);
    node.check(c, "CONFIG GET hll-sparse-max-bytes", "*2|$20|hll-sparse-max-bytes|$1|9|");
}
