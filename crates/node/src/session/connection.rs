//! PING, ECHO, HELLO, AUTH, SELECT, QUIT, RESET.

use super::{ALLOW_BUSY, FOR_SUBSCRIBERS, REDIS_VERSION, SessionSpec, UNQUEUED};
use crate::conn::{Conn, Parked, ReplyMode};
use crate::worker::Worker;
use quorate_data::command::flag;
use quorate_data::parse::{integer, is_word};
use quorate_resp::Proto;

const BEFORE_AUTH: u32 =
    flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | ALLOW_BUSY;

/// The commands of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec { name: "ping", arity: -1, flags: flag::FAST | FOR_SUBSCRIBERS, run: ping },
    SessionSpec {
        name: "echo",
        arity: 2,
        flags: flag::LOADING | flag::STALE | flag::FAST,
        run: |_, conn, args| conn.reply().bulk(args[1]),
    },
    SessionSpec { name: "hello", arity: -1, flags: BEFORE_AUTH, run: hello },
    SessionSpec { name: "auth", arity: -2, flags: BEFORE_AUTH, run: auth },
    SessionSpec {
        name: "select",
        arity: 2,
        flags: flag::LOADING | flag::STALE | flag::FAST,
        run: select,
    },
    SessionSpec {
        name: "quit",
        arity: -1,
        flags: BEFORE_AUTH | FOR_SUBSCRIBERS | UNQUEUED,
        run: quit,
    },
    SessionSpec {
        name: "reset",
        arity: 1,
        flags: BEFORE_AUTH | FOR_SUBSCRIBERS | UNQUEUED,
        run: reset,
    },
];

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn ping(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if args.len() > 2 {
        conn.error("ERR wrong number of arguments for 'ping' command");
    } else if conn.proto == Proto::Resp2 && conn.subscription_count() > 0 {
        let mut reply = conn.reply();
        reply.array(2);
        reply.bulk(b"pong");
        reply.bulk(args.get(1).unwrap_or(&b"".as_slice()));
    } else {
        match args.get(1) {
            None => conn.reply().simple("PONG"),
            Some(text) => conn.reply().bulk(text),
        }
    }
}

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`. Nothing changes unless all of it is valid.
fn hello(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let mut proto = conn.proto;
    if let Some(version) = args.get(1) {
        proto = match integer(version) {
            Some(2) => Proto::Resp2,
            Some(3) => Proto::Resp3,
            Some(_) => return conn.error("NOPROTO unsupported protocol version"),
            None => return conn.error("ERR Protocol version is not an integer or out of range"),
        };
    }
    let mut login = None;
    let mut name = None;
    let mut rest = args.get(2..).unwrap_or_default();
    while let Some((option, more)) = rest.split_first() {
        rest = match more {
            [user, password, more @ ..] if is_word(option, "auth") => {
                login = Some((*user, *password));
                more
            }
            [given, more @ ..] if is_word(option, "setname") => {
                if !is_printable(given) {
                    return conn.error(BAD_NAME);
                }
                name = Some(given.to_vec());
                more
            }
            _ => {
                let option = String::from_utf8_lossy(option).into_owned();
                return conn.error(&format!("ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    if login.is_some_and(|(user, password)| !accepts(user, password)) {
        return conn.error(WRONG_PASSWORD);
    }
    if let Some(name) = name {
        conn.name = name;
    }
    conn.proto = proto;
    let id = conn.id;
    let mut reply = conn.reply();
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.int(if proto == Proto::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.int(id as i64);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

/// The error for a client name that CLIENT LIST could not show.
pub(super) const BAD_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// True if every byte is a visible ASCII character.
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

/// There is one user, who needs no password, so any will do.
fn accepts(user: &[u8], _password: &[u8]) -> bool {
    user == b"default"
}

fn auth(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match args {
        [_, _] => conn.error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ),
        [_, user, password] if accepts(user, password) => conn.reply().ok(),
        [_, _, _] => conn.error(WRONG_PASSWORD),
        _ => conn.error("ERR syntax error"),
    }
}

/// There is one database.
fn select(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match integer(args[1]) {
        None => conn.error("ERR value is not an integer or out of range"),
        Some(0) => conn.reply().ok(),
        Some(n) if i32::try_from(n).is_err() => {
            conn.error("ERR value is out of range, value must between -2147483648 and 2147483647");
        }
        Some(_) => conn.error("ERR DB index is out of range"),
    }
}

fn quit(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.reply().ok();
    conn.parked = Some(Parked::Closing);
}

fn reset(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.multi = None;
    worker.unwatch(conn);
    worker.unsubscribe_all(conn);
    conn.proto = Proto::Resp2;
    conn.name.clear();
    conn.reply_mode = ReplyMode::On;
    (conn.no_evict, conn.no_touch) = (false, false);
    conn.reply().simple("RESET");
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn hello_switches_the_protocol() {
        let mut node = Node::new(1);
        let client = node.client();
        node.check(
            client,
            "HELLO",
            "*14|$6|server|$5|redis|$7|version|$5|7.2.5|$5|proto|:2|$2|id|:1|$4|mode|\
             $10|standalone|$4|role|$6|master|$7|modules|*0|",
        );
        node.check(
            client,
            "HELLO 3 SETNAME me AUTH default x",
            "%7|$6|server|$5|redis|$7|version|$5|7.2.5|$5|proto|:3|$2|id|:1|$4|mode|\
             $10|standalone|$4|role|$6|master|$7|modules|*0|",
        );
        node.check(client, "CLIENT GETNAME", "$2|me|");
        node.check(client, "GET nothing", "_|");
        for (line, error) in [
            ("HELLO 4", "NOPROTO unsupported protocol version"),
            ("HELLO x", "ERR Protocol version is not an integer or out of range"),
            ("HELLO 2 AUTH default", "ERR Syntax error in HELLO option 'AUTH'"),
            ("HELLO 2 foo", "ERR Syntax error in HELLO option 'foo'"),
            ("HELLO 2 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
            ("HELLO 2 AUTH a b", "WRONGPASS invalid username-password pair or user is disabled."),
        ] {
            node.check(client, line, &format!("-{error}|"));
        }
        node.check(client, "GET nothing", "_|");
    }

    #[test]
    fn reset_returns_to_the_beginning() {
        let mut node = Node::new(1);
        let client = node.client();
        node.run(client, "HELLO 3 SETNAME me");
        node.run(client, "SUBSCRIBE c");
        node.run(client, "MULTI");
        node.check(client, "RESET", "+RESET|");
        node.check(client, "CLIENT GETNAME", "$-1|");
        node.check(client, "EXEC", "-ERR EXEC without MULTI|");
        node.check(client, "PUBLISH c m", ":0|");
        node.check(client, "CLIENT REPLY OFF", "");
        node.check(client, "RESET", "+RESET|");
        node.check(client, "QUIT", "+OK|");
        assert!(node.is_closed(client));
    }

    #[test]
    fn there_is_one_database_and_one_user() {
        let mut node = Node::new(1);
        let client = node.client();
        node.check(client, "SELECT 0", "+OK|");
        node.check(client, "SELECT 1", "-ERR DB index is out of range|");
        node.check(client, "SELECT x", "-ERR value is not an integer or out of range|");
        node.check(client, "AUTH default x", "+OK|");
        node.check(client, "AUTH a b c", "-ERR syntax error|");
        node.check(client, "ECHO hi", "$2|hi|");
    }
}
