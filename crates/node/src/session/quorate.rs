//! `QUORATE`: what this server has and Redis has not.

use super::{CONTAINER, SessionSpec, Sub, help, run_sub};
use crate::conn::Conn;
use crate::worker::Worker;
use quorate_data::command::flag;

/// The command.
pub(crate) const COMMANDS: &[SessionSpec] = &[SessionSpec {
    name: "quorate",
    arity: -2,
    flags: CONTAINER,
    run: |worker, conn, args| run_sub(worker, conn, "quorate", args),
}];

const ANY: u32 = flag::LOADING | flag::STALE;

pub(super) const SUBS: &[Sub] = &[
    Sub { name: "help", arity: 2, flags: ANY, run: show_help },
    Sub {
        name: "outcome",
        arity: 3,
        flags: ANY,
        run: |worker, conn, args| worker.ask_outcome(conn, args[2]),
    },
    Sub { name: "shards", arity: 2, flags: ANY, run: shards },
];

fn show_help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let lines = [
        ("OUTCOME <id>", "What became of a command that was answered UNKNOWN <id>."),
        ("SHARDS", "This node's replicas: shard, leader, term, commit index, state."),
    ];
    help(&mut conn.reply(), "QUORATE", &lines);
}

/// One line a replica of the worker that is asked: enough to see who leads what.
fn shards(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let replicas = worker.replicas();
    let mut reply = conn.reply();
    reply.array(replicas.len());
    for replica in replicas {
        let state = match (replica.lost, replica.serving) {
            (true, _) => "catching-up",
            (false, false) => "rebuilding",
            (false, true) if replica.leads => "leader",
            (false, true) => "follower",
        };
        let line = format!(
            "shard={} leader={} term={} commit={} applied={} state={state}",
            replica.shard,
            replica.leader.unwrap_or(0),
            replica.term,
            replica.commit,
            replica.memory,
        );
        reply.bulk(line.as_bytes());
    }
}
