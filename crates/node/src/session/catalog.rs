//! COMMAND: what commands there are, told from their tables.

use super::{
    ALLOW_BUSY, CONTAINER, NO_ASYNC_LOADING, SKIP_SLOWLOG, SessionSpec, Sub, docs, run_sub, subs,
};
use crate::conn::Conn;
use crate::dispatch::Command;
use crate::worker::Worker;
use quorate_data::command::{KeyPositions, Keys, flag};
use quorate_data::parse::{glob, is_word};
use quorate_resp::Reply;

const ANY: u32 = flag::LOADING | flag::STALE;

/// The command of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[SessionSpec {
    name: "command",
    arity: -1,
    flags: ANY | CONTAINER,
    run: |worker, conn, args| {
        if args.len() == 1 {
            info(worker, conn, args);
        } else {
            run_sub(worker, conn, "command", args);
        }
    },
}];

pub(super) const SUBS: &[Sub] = &[
    Sub { name: "count", arity: 2, flags: ANY, run: count },
    Sub { name: "docs", arity: -2, flags: ANY, run: document },
    Sub { name: "getkeys", arity: -3, flags: ANY, run: |w, conn, args| keys(w, conn, args, false) },
    Sub {
        name: "getkeysandflags",
        arity: -3,
        flags: ANY,
        run: |w, conn, args| keys(w, conn, args, true),
    },
    Sub { name: "help", arity: 2, flags: ANY, run: help },
    Sub { name: "info", arity: -2, flags: ANY, run: info },
    Sub { name: "list", arity: -2, flags: ANY, run: list },
];

/// The ACL categories in Redis' order.
pub(super) const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Flags in the order in which Redis names them.
const FLAGS: &[(u32, &str)] = &[
    (flag::WRITE, "write"),
    (flag::READONLY, "readonly"),
    (flag::DENYOOM, "denyoom"),
    (flag::ADMIN, "admin"),
    (flag::PUBSUB, "pubsub"),
    (flag::NOSCRIPT, "noscript"),
    (flag::BLOCKING, "blocking"),
    (flag::LOADING, "loading"),
    (flag::STALE, "stale"),
    (flag::SKIP_MONITOR, "skip_monitor"),
    (SKIP_SLOWLOG, "skip_slowlog"),
    (flag::FAST, "fast"),
    (flag::NO_AUTH, "no_auth"),
    (flag::NO_MANDATORY_KEYS, "no_mandatory_keys"),
    (NO_ASYNC_LOADING, "no_async_loading"),
    (flag::NO_MULTI, "no_multi"),
    (ALLOW_BUSY, "allow_busy"),
    (flag::MOVABLE_KEYS, "movablekeys"),
];

/// Categories of commands that their group and flags do not tell.
const MORE_CATEGORIES: &[(&str, &[&str])] = &[
    ("asking", &["connection"]),
    ("command", &["connection"]),
    ("dbsize", &["keyspace"]),
    ("flushall", &["keyspace", "dangerous"]),
    ("flushdb", &["keyspace", "dangerous"]),
    ("info", &["dangerous"]),
    ("keys", &["dangerous"]),
    ("lastsave", &["admin", "dangerous"]),
    ("migrate", &["dangerous"]),
    ("readonly", &["connection"]),
    ("readwrite", &["connection"]),
    ("restore", &["dangerous"]),
    ("role", &["admin", "dangerous"]),
    ("sort", &["set", "sortedset", "list", "dangerous"]),
    ("sort_ro", &["set", "sortedset", "list", "dangerous"]),
    ("swapdb", &["keyspace", "dangerous"]),
    ("wait", &["connection"]),
    ("waitaof", &["connection"]),
];

/// The ACL categories of a command, in Redis' order.
fn categories(group: &str, name: &str, flags: u32) -> Vec<&'static str> {
    let has = |flags_wanted: u32| flags & flags_wanted != 0;
    let by_group = match group {
        "generic" if !name.starts_with("wait") && !name.starts_with("sort") => "keyspace",
        "sorted-set" => "sortedset",
        "transactions" => "transaction",
        // Of a container only the subcommands are about the connection.
        "connection" if flags & CONTAINER != 0 => "",
        group => group,
    };
    let more = MORE_CATEGORIES.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, c)| c);
    let applies = |category: &str| match category {
        "read" => has(flag::READONLY),
        "write" => has(flag::WRITE),
        "pubsub" => has(flag::PUBSUB),
        "admin" | "dangerous" => has(flag::ADMIN),
        "fast" => has(flag::FAST),
        "slow" => !has(flag::FAST),
        "blocking" => has(flag::BLOCKING),
        category => category == by_group,
    };
    let fits = |category: &&str| applies(category) || more.contains(category);
    CATEGORIES.iter().filter(|c| fits(c)).copied().collect()
}

/// The names of the commands of an ACL category, with subcommands as `container|sub`.
pub(super) fn names_in_category(worker: &Worker, category: &[u8]) -> Vec<String> {
    let fits = |group: &str, name: &str, flags: u32| {
        categories(group, name, flags).iter().any(|c| is_word(category, c))
    };
    let mut names = Vec::new();
    for (group, command) in worker.commands.all() {
        if fits(group, command.name(), command.flags()) {
            names.push(command.name().to_owned());
        }
        for sub in subs(command.name()) {
            if fits(group, "", sub.flags) {
                names.push(format!("{}|{}", command.name(), sub.name));
            }
        }
    }
    names
}

// --- INFO ------------------------------------------------------------------------------------

fn count(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let count = worker.commands.all().len();
    conn.reply().int(count as i64);
}

fn info(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let all = worker.commands.all();
    let mut reply = conn.reply();
    if args.len() <= 2 {
        reply.array(all.len());
        all.iter().for_each(|(group, command)| describe(&mut reply, group, *command));
        return;
    }
    reply.array(args.len() - 2);
    for name in &args[2..] {
        match all.iter().find(|(_, command)| is_word(name, command.name())) {
            Some((group, command)) => describe(&mut reply, group, *command),
            None => match find_sub_by_full_name(name) {
                Some((container, sub)) => {
                    let group = group_of(&all, container);
                    describe_sub(&mut reply, group, container, sub);
                }
                None => reply.null(),
            },
        }
    }
}

fn group_of(all: &[(&'static str, Command)], name: &str) -> &'static str {
    all.iter().find(|(_, command)| command.name() == name).map_or("server", |(group, _)| group)
}

/// `config|get` to its container and subcommand.
fn find_sub_by_full_name(name: &[u8]) -> Option<(&'static str, &'static Sub)> {
    let name = String::from_utf8_lossy(name).to_lowercase();
    let (container, sub) = name.split_once('|')?;
    let found = subs(container).iter().find(|s| s.name == sub)?;
    let command = crate::session::families().find(|(_, spec)| spec.name == container)?;
    Some((command.1.name, found))
}

fn describe(reply: &mut Reply<'_>, group: &str, command: Command) {
    let keys = keys_of(command);
    reply.array(10);
    reply.bulk(command.name().as_bytes());
    reply.int(i64::from(command.arity()));
    flags(reply, command.flags());
    let (first, last, step) = range(command.name(), keys);
    [first, last, step].into_iter().for_each(|n| reply.int(n));
    acl(reply, group, command.name(), command.flags());
    let tips = tips(command.name());
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    key_specs(reply, command, keys);
    let subs = subs(command.name());
    reply.set(subs.len());
    subs.iter().for_each(|sub| describe_sub(reply, group, command.name(), sub));
}

/// Redis' hints for proxies: where a command must go in a cluster, and that its reply may differ
/// from one time to the next. Sets and hashes are ordered here, so their replies do not.
fn tips(name: &str) -> &'static [&'static str] {
    match name {
        "dbsize" => &["request_policy:all_shards", "response_policy:agg_sum"],
        "del" | "exists" | "touch" | "unlink" => {
            &["request_policy:multi_shard", "response_policy:agg_sum"]
        }
        "flushall" | "flushdb" | "ping" => {
            &["request_policy:all_shards", "response_policy:all_succeeded"]
        }
        "info" => {
            &["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]
        }
        "keys" => &["request_policy:all_shards"],
        "mget" => &["request_policy:multi_shard"],
        "mset" => &["request_policy:multi_shard", "response_policy:all_succeeded"],
        "msetnx" => &["request_policy:multi_shard", "response_policy:agg_min"],
        "randomkey" => &["request_policy:all_shards", "nondeterministic_output"],
        "scan" => &["nondeterministic_output", "request_policy:special"],
        "wait" | "waitaof" => &["request_policy:all_shards", "response_policy:agg_min"],
        "dump" | "hrandfield" | "lastsave" | "pttl" | "spop" | "srandmember" | "time" | "ttl"
        | "xadd" | "xautoclaim" | "xclaim" | "xpending" | "zrandmember" => {
            &["nondeterministic_output"]
        }
        _ => &[],
    }
}

fn describe_sub(reply: &mut Reply<'_>, group: &str, container: &str, sub: &Sub) {
    reply.array(10);
    reply.bulk(format!("{container}|{}", sub.name).as_bytes());
    reply.int(i64::from(sub.arity));
    flags(reply, sub.flags);
    (0..3).for_each(|_| reply.int(0));
    acl(reply, group, "", sub.flags);
    (0..3).for_each(|_| reply.set(0));
}

fn flags(reply: &mut Reply<'_>, flags: u32) {
    let names: Vec<&str> =
        FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    reply.set(names.len());
    names.iter().for_each(|name| reply.simple(name));
}

fn acl(reply: &mut Reply<'_>, group: &str, name: &str, flags: u32) {
    let categories = categories(group, name, flags);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
}

// --- keys ------------------------------------------------------------------------------------

fn keys_of(command: Command) -> Keys {
    match command {
        Command::Data(spec) => spec.keys,
        Command::Session(spec) if spec.name == "watch" => quorate_data::command::EVERY,
        Command::Session(spec) if matches!(spec.name, "ssubscribe" | "sunsubscribe") => {
            quorate_data::command::EVERY
        }
        Command::Session(spec) if spec.name == "spublish" => quorate_data::command::FIRST,
        Command::Session(_) => Keys::None,
    }
}

/// First key, last key and step as far as three numbers can say it.
fn range(name: &str, keys: Keys) -> (i64, i64, i64) {
    match keys {
        Keys::Range { first, last, step } => (first as i64, last as i64, step as i64),
        Keys::Counted { fixed, .. } if fixed > 0 => (fixed as i64, fixed as i64, 1),
        Keys::Custom(_) | Keys::CustomOrAll(_)
            if matches!(name, "sort" | "sort_ro" | "georadius" | "georadiusbymember") =>
        {
            (1, 1, 1)
        }
        Keys::None | Keys::All | Keys::Counted { .. } | Keys::Custom(_) | Keys::CustomOrAll(_) => {
            (0, 0, 0)
        }
    }
}

/// What a command does with its keys, in Redis' words.
fn access(command: Command) -> &'static [&'static str] {
    match command.name() {
        "set" | "mset" | "msetnx" | "setex" | "psetex" | "setnx" => &["OW", "update"],
        "del" | "unlink" => &["RM", "delete"],
        "watch" => &["RO"],
        _ if command.is(flag::WRITE) => &["RW", "access", "update"],
        _ => &["RO", "access"],
    }
}

fn key_specs(reply: &mut Reply<'_>, command: Command, keys: Keys) {
    match keys {
        Keys::None | Keys::All => reply.set(0),
        Keys::Range { first, last, step } => {
            reply.set(1);
            let last = if last < 0 { last as i64 } else { last as i64 - first as i64 };
            // Whether SET reads depends on its options.
            let access = match command.name() {
                "set" => &["RW", "access", "update", "variable_flags"],
                _ => access(command),
            };
            key_range(reply, access, first, last, step as i64);
        }
        Keys::Counted { at, fixed } => {
            reply.set(1 + usize::from(fixed > 0));
            let mut sources = access(command);
            if fixed > 0 {
                key_range(reply, &["OW", "update"], fixed, 0, 1);
                sources = &["RO", "access"];
            }
            begin_search(reply, sources, at);
            reply.map(2);
            typed(reply, "keynum");
            reply.bulk(b"spec");
            numbers(reply, &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)]);
        }
        Keys::Custom(_) | Keys::CustomOrAll(_) => {
            reply.set(1);
            reply.map(3);
            access_flags(reply, access(command));
            for part in ["begin_search", "find_keys"] {
                reply.bulk(part.as_bytes());
                reply.map(2);
                typed(reply, "unknown");
                reply.bulk(b"spec");
                reply.map(0);
            }
        }
    }
}

fn key_range(reply: &mut Reply<'_>, access: &[&str], first: usize, last: i64, step: i64) {
    begin_search(reply, access, first);
    reply.map(2);
    typed(reply, "range");
    reply.bulk(b"spec");
    numbers(reply, &[("lastkey", last), ("keystep", step), ("limit", 0)]);
}

/// A key spec up to the head of what `find_keys` is.
fn begin_search(reply: &mut Reply<'_>, access: &[&str], index: usize) {
    reply.map(3);
    access_flags(reply, access);
    reply.bulk(b"begin_search");
    reply.map(2);
    typed(reply, "index");
    reply.bulk(b"spec");
    numbers(reply, &[("index", index as i64)]);
    reply.bulk(b"find_keys");
}

fn access_flags(reply: &mut Reply<'_>, access: &[&str]) {
    reply.bulk(b"flags");
    reply.set(access.len());
    access.iter().for_each(|flag| reply.simple(flag));
}

fn typed(reply: &mut Reply<'_>, name: &str) {
    reply.bulk(b"type");
    reply.bulk(name.as_bytes());
}

fn numbers(reply: &mut Reply<'_>, fields: &[(&str, i64)]) {
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.int(*value);
    }
}

/// `COMMAND GETKEYS command [arg ...]`.
fn keys(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]], with_flags: bool) {
    let args = &args[2..];
    let Some(command) = worker.commands.get(args[0]) else {
        return conn.error("ERR Invalid command specified");
    };
    let keys = keys_of(command);
    if matches!(keys, Keys::None | Keys::All) {
        return conn.error("ERR The command has no key arguments");
    }
    if !crate::dispatch::accepts(command.arity(), args.len()) {
        return conn.error("ERR Invalid number of arguments specified for command");
    }
    let mut positions = KeyPositions::new();
    match command {
        Command::Data(spec) => {
            spec.key_positions(args, &mut positions);
        }
        Command::Session(_) if matches!(keys, Keys::Range { last: -1, .. }) => {
            positions.extend(1..args.len());
        }
        Command::Session(_) => positions.push(1),
    }
    positions.retain(|at| *at < args.len());
    if positions.is_empty() {
        return conn.error("ERR Invalid arguments specified for command");
    }
    let mut reply = conn.reply();
    reply.array(positions.len());
    for at in positions {
        if with_flags {
            reply.array(2);
            reply.bulk(args[at]);
            let access = access(command);
            reply.set(access.len());
            access.iter().for_each(|flag| reply.simple(flag));
        } else {
            reply.bulk(args[at]);
        }
    }
}

// --- LIST and DOCS ---------------------------------------------------------------------------

fn list(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let mut names: Vec<String>;
    match &args[2..] {
        [] => names = all_names(worker),
        [filter, by, _] if is_word(filter, "filterby") && is_word(by, "module") => {
            names = Vec::new();
        }
        [filter, by, category] if is_word(filter, "filterby") && is_word(by, "aclcat") => {
            names = names_in_category(worker, category);
        }
        [filter, by, pattern] if is_word(filter, "filterby") && is_word(by, "pattern") => {
            let pattern = pattern.to_ascii_lowercase();
            names = all_names(worker);
            names.retain(|name| glob(&pattern, name.as_bytes()));
        }
        _ => return conn.error("ERR syntax error"),
    }
    let mut reply = conn.reply();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
}

/// All commands, and the subcommands as `container|sub`.
fn all_names(worker: &Worker) -> Vec<String> {
    let mut names = Vec::new();
    for (_, command) in worker.commands.all() {
        names.push(command.name().to_owned());
        names.extend(subs(command.name()).iter().map(|s| format!("{}|{}", command.name(), s.name)));
    }
    names
}

fn document(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let wanted = |name: &str| args.len() == 2 || args[2..].iter().any(|arg| is_word(arg, name));
    let mut all = worker.commands.all();
    all.retain(|(_, command)| wanted(command.name()));
    let since = worker.config.about.version.clone();
    let mut reply = conn.reply();
    reply.map(all.len());
    for (group, command) in all {
        reply.bulk(command.name().as_bytes());
        docs::write(&mut reply, group, command.name(), &since);
    }
}

fn help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "COMMAND",
        &[
            ("(no subcommand)", "Describe all commands."),
            ("COUNT", "Count the commands."),
            ("DOCS [<command> ...]", "Document commands."),
            ("GETKEYS <command> [<arg> ...]", "Find the keys of a whole command."),
            ("GETKEYSANDFLAGS <command> [<arg> ...]", "The same, with what happens to each key."),
            ("INFO [<command> ...]", "Describe commands: flags, keys, categories."),
            (
                "LIST [FILTERBY (MODULE <name>|ACLCAT <category>|PATTERN <pattern>)]",
                "Name the commands.",
            ),
        ],
    );
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn commands_are_described_from_their_tables() {
        let mut node = Node::new(1);
        let client = node.client();
        node.check(
            client,
            "COMMAND INFO GET foo",
            "*2|*10|$3|get|:2|*2|+readonly|+fast|:1|:1|:1|*3|+@read|+@string|+@fast|*0|*1|*6|\
             $5|flags|*2|+RO|+access|$12|begin_search|*4|$4|type|$5|index|$4|spec|*2|$5|index|:1|\
             $9|find_keys|*4|$4|type|$5|range|$4|spec|*6|$7|lastkey|:0|$7|keystep|:1|$5|limit|:0|\
             *0|$-1|",
        );
        let text = node.run(client, "COMMAND INFO config|get");
        assert!(text.starts_with("*1|*10|$10|config|get|:-3|*4|+admin|+noscript|"), "{text}");
        let all = node.run(client, "COMMAND");
        let count = node.run(client, "COMMAND COUNT").replace(':', "*");
        assert!(all.starts_with(&count), "{count}");
        node.check(
            client,
            "COMMAND DOCS get",
            "*2|$3|get|*8|$7|summary|$17|Returns a string.|$5|since|$5|0.1.0|$5|group|$6|string|\
             $9|arguments|*1|*4|$4|name|$3|key|$4|type|$3|key|",
        );
        node.check(client, "COMMAND DOCS foo", "*0|");
    }

    #[test]
    fn keys_are_found() {
        let mut node = Node::new(1);
        let client = node.client();
        node.check(client, "COMMAND GETKEYS DEL a b", "*2|$1|a|$1|b|");
        node.check(client, "COMMAND GETKEYS WATCH a b", "*2|$1|a|$1|b|");
        node.check(client, "COMMAND GETKEYSANDFLAGS GET a", "*1|*2|$1|a|*2|+RO|+access|");
        for (line, error) in [
            ("foo a", "ERR Invalid command specified"),
            ("PING", "ERR The command has no key arguments"),
            ("GET", "ERR Invalid number of arguments specified for command"),
        ] {
            node.check(client, &format!("COMMAND GETKEYS {line}"), &format!("-{error}|"));
        }
        node.check(client, "COMMAND LIST FILTERBY PATTERN ech?", "*1|$4|echo|");
        let names = node.run(client, "COMMAND LIST FILTERBY ACLCAT transaction");
        assert!(names.contains("|watch|") && !names.contains("|get|"), "{names}");
        node.check(client, "COMMAND LIST FILTERBY x y", "-ERR syntax error|");
    }
}
