//! `QUORATE`: what this server has and Redis has not.

use super::{CONTAINER, SessionSpec, Sub, help, run_sub};
use crate::conn::Conn;
use crate::message::Question;
use crate::replica::ReplicaView;
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
    Sub {
        name: "shards",
        arity: 2,
        flags: ANY,
        run: |worker, conn, _| worker.ask(conn, &Question::Replicas),
    },
    Sub {
        name: "status",
        arity: 2,
        flags: ANY,
        run: |worker, conn, _| worker.ask(conn, &Question::Status),
    },
];

fn show_help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let lines = [
        ("OUTCOME <id>", "What became of a command that was answered UNKNOWN <id>."),
        ("SHARDS", "This node's replicas: shard, leader, term, commit index, state."),
        ("STATUS", "What this node knows: itself, its peers, every shard, load, journal, memory."),
    ];
    help(&mut conn.reply(), "QUORATE", &lines);
}

impl Worker {
    /// One line for each replica at home with this worker.
    pub(super) fn replica_lines(&self) -> Vec<(u64, String)> {
        let line = |replica: ReplicaView| {
            let state = match (replica.lost, replica.serving) {
                (true, _) => "catching-up",
                (false, false) => "rebuilding",
                (false, true) if replica.leads => "leader",
                (false, true) => "follower",
            };
            let ReplicaView { shard, leader, term, commit, memory, .. } = replica;
            let leader = leader.unwrap_or(0);
            let line = format!(
                "shard={shard} leader={leader} term={term} commit={commit} applied={memory} \
                 state={state}"
            );
            (u64::from(shard), line)
        };
        self.replicas().into_iter().map(line).collect()
    }
}
