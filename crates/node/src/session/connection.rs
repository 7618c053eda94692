//! PING, ECHO, HELLO, AUTH, SELECT, QUIT, RESET.

use super::{FOR_SUBSCRIBERS, SessionSpec, UNQUEUED};
use crate::conn::{Conn, Parked};
use crate::worker::Worker;
use quorate_data::command::flag;
use quorate_resp::Proto;

/// The commands of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec { name: "ping", arity: -1, flags: flag::FAST | FOR_SUBSCRIBERS, run: ping },
    SessionSpec {
        name: "quit",
        arity: -1,
        flags: flag::NOSCRIPT
            | flag::LOADING
            | flag::STALE
            | flag::FAST
            | flag::NO_AUTH
            | FOR_SUBSCRIBERS
            | UNQUEUED,
        run: quit,
    },
];

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

fn quit(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.reply().ok();
    conn.parked = Some(Parked::Closing);
}
