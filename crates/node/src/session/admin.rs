//! What Redis has and this server has in name only: users, slow log, latency monitor, modules,
//! Redis Cluster and replication. Each answers as Redis does where the feature is off or empty.
//!
//! SLOWLOG stays empty because no clock can be read inside a turn.

use super::{CONTAINER, NO_ASYNC_LOADING, SessionSpec, Sub, catalog, run_sub, wrong_subcommand};
use crate::conn::Conn;
use crate::worker::Worker;
use quorate_data::command::flag;
use quorate_data::parse::{integer, is_word};

const ANY: u32 = flag::LOADING | flag::STALE;
const USER: u32 = ANY | flag::NOSCRIPT;
const ADMIN: u32 = USER | flag::ADMIN;
const REPLICATION: u32 = flag::ADMIN | flag::NOSCRIPT | flag::STALE | NO_ASYNC_LOADING;

/// The commands of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec {
        name: "acl",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "acl", args),
    },
    SessionSpec {
        name: "latency",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "latency", args),
    },
    SessionSpec {
        name: "module",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "module", args),
    },
    SessionSpec {
        name: "slowlog",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "slowlog", args),
    },
    SessionSpec { name: "replicaof", arity: 3, flags: REPLICATION, run: replicaof },
    SessionSpec { name: "slaveof", arity: 3, flags: REPLICATION, run: replicaof },
];

/// The commands of Redis Cluster.
pub(crate) const CLUSTER_COMMANDS: &[SessionSpec] = &[
    SessionSpec {
        name: "cluster",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "cluster", args),
    },
    SessionSpec { name: "asking", arity: 1, flags: flag::FAST, run: no_cluster },
    SessionSpec { name: "readonly", arity: 1, flags: ANY | flag::FAST, run: no_cluster },
    SessionSpec { name: "readwrite", arity: 1, flags: ANY | flag::FAST, run: no_cluster },
];

pub(super) const CLUSTER: &[Sub] = &[
    Sub { name: "countkeysinslot", arity: 3, flags: flag::STALE, run: no_cluster },
    Sub { name: "getkeysinslot", arity: 4, flags: flag::STALE, run: no_cluster },
    Sub { name: "info", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "keyslot", arity: 3, flags: flag::STALE, run: no_cluster },
    Sub { name: "links", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "meet", arity: -4, flags: flag::ADMIN | flag::STALE, run: no_cluster },
    Sub { name: "myid", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "myshardid", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "nodes", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "replicas", arity: 3, flags: flag::ADMIN | flag::STALE, run: no_cluster },
    Sub { name: "reset", arity: -2, flags: flag::ADMIN | flag::STALE, run: no_cluster },
    Sub { name: "shards", arity: 2, flags: flag::STALE, run: no_cluster },
    Sub { name: "slots", arity: 2, flags: flag::STALE, run: no_cluster },
];

fn no_cluster(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.error("ERR This instance has cluster support disabled");
}

fn replicaof(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if is_word(args[1], "no") && is_word(args[2], "one") {
        conn.reply().ok();
    } else {
        conn.error("ERR This server cannot follow a Redis primary");
    }
}

// --- ACL -------------------------------------------------------------------------------------

pub(super) const ACL: &[Sub] = &[
    Sub { name: "cat", arity: -2, flags: USER, run: acl_cat },
    Sub { name: "getuser", arity: 3, flags: ADMIN, run: acl_getuser },
    Sub { name: "help", arity: 2, flags: ANY, run: acl_help },
    Sub { name: "list", arity: 2, flags: ADMIN, run: acl_list },
    Sub { name: "users", arity: 2, flags: ADMIN, run: acl_users },
    Sub { name: "whoami", arity: 2, flags: USER, run: |_, conn, _| conn.reply().bulk(b"default") },
];

fn acl_cat(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let [category] = &args[2..] else {
        if args.len() > 3 {
            return conn.error(&wrong_subcommand("ACL", args[1]));
        }
        let mut reply = conn.reply();
        reply.array(catalog::CATEGORIES.len());
        catalog::CATEGORIES.iter().for_each(|name| reply.bulk(name.as_bytes()));
        return;
    };
    if !catalog::CATEGORIES.iter().any(|name| is_word(category, name)) {
        let category = String::from_utf8_lossy(category).into_owned();
        return conn.error(&format!("ERR Unknown category '{category}'"));
    }
    let names = catalog::names_in_category(worker, category);
    let mut reply = conn.reply();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
}

fn acl_list(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let mut reply = conn.reply();
    reply.array(1);
    reply.bulk(b"user default on nopass sanitize-payload ~* &* +@all");
}

fn acl_users(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let mut reply = conn.reply();
    reply.array(1);
    reply.bulk(b"default");
}

fn acl_getuser(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if args[2] != b"default" {
        return conn.reply().null();
    }
    let mut reply = conn.reply();
    reply.map(6);
    reply.bulk(b"flags");
    reply.set(3);
    ["on", "nopass", "sanitize-payload"].iter().for_each(|flag| reply.bulk(flag.as_bytes()));
    reply.bulk(b"passwords");
    reply.array(0);
    for (name, value) in [("commands", "+@all"), ("keys", "~*"), ("channels", "&*")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"selectors");
    reply.array(0);
}

fn acl_help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "ACL",
        &[
            ("CAT [<category>]", "Name the categories, or the commands of one."),
            ("GETUSER <username>", "Show what a user may do."),
            ("LIST", "Show all users as rules."),
            ("USERS", "Name all users."),
            ("WHOAMI", "Name the user of this connection."),
        ],
    );
}

// --- SLOWLOG ---------------------------------------------------------------------------------

pub(super) const SLOWLOG: &[Sub] = &[
    Sub { name: "get", arity: -2, flags: ANY | flag::ADMIN, run: slowlog_get },
    Sub { name: "help", arity: 2, flags: ANY, run: slowlog_help },
    Sub { name: "len", arity: 2, flags: ANY | flag::ADMIN, run: |_, conn, _| conn.reply().int(0) },
    Sub { name: "reset", arity: 2, flags: ANY | flag::ADMIN, run: |_, conn, _| conn.reply().ok() },
];

fn slowlog_get(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match &args[2..] {
        [] => conn.reply().array(0),
        [count] if integer(count).is_some_and(|n| n >= -1) => conn.reply().array(0),
        [_] => conn.error("ERR count should be greater than or equal to -1"),
        _ => conn.error(&wrong_subcommand("SLOWLOG", args[1])),
    }
}

fn slowlog_help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "SLOWLOG",
        &[
            ("GET [<count>]", "Show the slow log, which stays empty on this server."),
            ("LEN", "Count the entries of the slow log."),
            ("RESET", "Empty the slow log."),
        ],
    );
}

// --- LATENCY and MODULE ----------------------------------------------------------------------

pub(super) const LATENCY: &[Sub] = &[
    Sub { name: "doctor", arity: 2, flags: ADMIN, run: latency_doctor },
    Sub { name: "help", arity: 2, flags: ANY, run: latency_help },
    Sub { name: "histogram", arity: -2, flags: ADMIN, run: |_, conn, _| conn.reply().map(0) },
    Sub { name: "history", arity: 3, flags: ADMIN, run: |_, conn, _| conn.reply().array(0) },
    Sub { name: "latest", arity: 2, flags: ADMIN, run: |_, conn, _| conn.reply().array(0) },
    Sub { name: "reset", arity: -2, flags: ADMIN, run: |_, conn, _| conn.reply().int(0) },
];

fn latency_doctor(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let text = "This server does not watch its latency; its metrics tell more.\n";
    conn.reply().verbatim("txt", text);
}

fn latency_help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "LATENCY",
        &[
            ("DOCTOR", "Judge the latency of this server."),
            ("HISTOGRAM [<command> ...]", "Show how long commands took."),
            ("HISTORY <event>", "Show the latencies of an event."),
            ("LATEST", "Show the last latency of every event."),
            ("RESET [<event> ...]", "Forget the latencies of events."),
        ],
    );
}

pub(super) const MODULE: &[Sub] = &[Sub {
    name: "list",
    arity: 2,
    flags: flag::ADMIN | flag::NOSCRIPT,
    run: |_, conn, _| conn.reply().array(0),
}];

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn what_is_not_there_says_so() {
        let mut node = Node::new(1);
        let client = node.client();
        for line in ["CLUSTER INFO", "READONLY", "ASKING"] {
            node.check(client, line, "-ERR This instance has cluster support disabled|");
        }
        node.check(client, "CLUSTER foo", "-ERR unknown subcommand 'foo'. Try CLUSTER HELP.|");
        node.check(client, "REPLICAOF NO ONE", "+OK|");
        node.check(client, "ACL WHOAMI", "$7|default|");
        node.check(client, "ACL CAT foo", "-ERR Unknown category 'foo'|");
        node.check(client, "SLOWLOG GET -2", "-ERR count should be greater than or equal to -1|");
        node.check(client, "SLOWLOG LEN", ":0|");
        node.check(client, "LATENCY LATEST", "*0|");
    }
}
