//! CONFIG: settings that commands look at can be changed while the node runs; the rest tells
//! clients how the node is set, in Redis' words.

use super::{CONTAINER, SessionSpec, Sub, run_sub};
use crate::conn::Conn;
use crate::message::Question;
use crate::shard::Durability;
use crate::worker::Worker;
use quorate_base::limits::VALUE_BYTES_MAX;
use quorate_data::command::flag;
use quorate_data::parse::{glob, integer};
use quorate_data::settings::Settings;

/// The command of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[SessionSpec {
    name: "config",
    arity: -2,
    flags: CONTAINER,
    run: |worker, conn, args| run_sub(worker, conn, "config", args),
}];

const ADMIN: u32 = flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE;

pub(super) const SUBS: &[Sub] = &[
    Sub { name: "get", arity: -3, flags: ADMIN, run: get },
    Sub { name: "help", arity: 2, flags: flag::LOADING | flag::STALE, run: help },
    Sub {
        name: "resetstat",
        arity: 2,
        flags: ADMIN,
        run: |worker, conn, _| worker.ask(conn, &Question::ResetStats),
    },
    Sub { name: "rewrite", arity: 2, flags: ADMIN, run: rewrite },
    Sub { name: "set", arity: -4, flags: ADMIN, run: set },
];

/// A setting that may change while the node runs.
struct Setting {
    name: &'static str,
    /// What older versions of Redis call it.
    alias: &'static str,
    min: i64,
    max: i64,
    /// The value may have a unit.
    bytes: bool,
    get: fn(&Settings) -> i64,
    set: fn(&mut Settings, i64),
}

macro_rules! setting {
    ($name:literal, $alias:literal, $field:ident, $min:expr, $max:expr, $bytes:literal) => {
        Setting {
            name: $name,
            alias: $alias,
            min: $min,
            max: $max,
            bytes: $bytes,
            get: |settings| settings.$field as i64,
            set: |settings, value| settings.$field = value as _,
        }
    };
}

const MAX: i64 = i64::MAX;
const SETTINGS: &[Setting] = &[
    setting!(
        "hash-max-listpack-entries",
        "hash-max-ziplist-entries",
        hash_max_listpack_entries,
        0,
        MAX,
        false
    ),
    setting!(
        "hash-max-listpack-value",
        "hash-max-ziplist-value",
        hash_max_listpack_value,
        0,
        MAX,
        true
    ),
    setting!("hll-sparse-max-bytes", "", hll_sparse_max_bytes, 0, MAX, true),
    setting!(
        "list-max-listpack-size",
        "list-max-ziplist-size",
        list_max_listpack_size,
        i32::MIN as i64,
        i32::MAX as i64,
        false
    ),
    setting!("proto-max-bulk-len", "", proto_max_bulk_len, 1 << 20, VALUE_BYTES_MAX as i64, true),
    setting!("set-max-intset-entries", "", set_max_intset_entries, 0, MAX, false),
    setting!("set-max-listpack-entries", "", set_max_listpack_entries, 0, MAX, false),
    setting!("set-max-listpack-value", "", set_max_listpack_value, 0, MAX, true),
    setting!("stream-node-max-bytes", "", stream_node_max_bytes, 0, MAX, true),
    setting!("stream-node-max-entries", "", stream_node_max_entries, 0, MAX, false),
    setting!(
        "zset-max-listpack-entries",
        "zset-max-ziplist-entries",
        zset_max_listpack_entries,
        0,
        MAX,
        false
    ),
    setting!(
        "zset-max-listpack-value",
        "zset-max-ziplist-value",
        zset_max_listpack_value,
        0,
        MAX,
        true
    ),
];

impl Setting {
    fn find(name: &str) -> Option<&'static Self> {
        let named = |s: &&Self| s.name == name || !s.alias.is_empty() && s.alias == name;
        SETTINGS.iter().find(named)
    }

    fn parse(&self, text: &[u8]) -> Result<i64, String> {
        let value = if self.bytes {
            memory(text).ok_or("argument must be a memory value")?
        } else {
            integer(text).ok_or("argument couldn't be parsed into an integer")?
        };
        if (self.min..=self.max).contains(&value) {
            Ok(value)
        } else {
            Err(format!("argument must be between {} and {} inclusive", self.min, self.max))
        }
    }
}

/// A number of bytes with an optional unit: `k` is 1,000 and `kb` is 1,024, and so on.
fn memory(text: &[u8]) -> Option<i64> {
    let digits = text.iter().position(|b| !b.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1_000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    integer(number)?.checked_mul(factor)
}

/// Takes over values that [`Setting::parse`] accepted.
pub(super) fn apply(settings: &mut Settings, values: &[(String, i64)]) {
    for (name, value) in values {
        let setting = Setting::find(name).expect("only settings that exist are sent around");
        (setting.set)(settings, *value);
    }
}

/// What cannot change while the node runs, with its value.
fn fixed(worker: &Worker) -> Vec<(&'static str, String)> {
    let config = &worker.config;
    let sync = match worker.default_durability() {
        Durability::Sync => "always",
        Durability::Relaxed => "everysec",
    };
    let text = |text: &str| text.to_owned();
    vec![
        ("aclfile", String::new()),
        ("activedefrag", text("no")),
        ("appendfsync", text(sync)),
        ("appendonly", text("yes")),
        ("bind", text("* -::*")),
        ("client-query-buffer-limit", config.query_buffer_bytes_max.to_string()),
        ("cluster-enabled", text("no")),
        ("databases", text("1")),
        ("dbfilename", String::new()),
        ("dir", config.about.data_dir.clone()),
        ("hz", text("10")),
        ("io-threads", config.workers.to_string()),
        ("latency-monitor-threshold", text("0")),
        ("lazyfree-lazy-user-del", text("no")),
        ("lazyfree-lazy-user-flush", text("no")),
        ("maxclients", super::info::CLIENTS_MAX.to_string()),
        ("maxmemory", config.memory_bytes_max.to_string()),
        ("maxmemory-policy", text("noeviction")),
        ("maxmemory-samples", text("5")),
        ("notify-keyspace-events", String::new()),
        ("port", config.about.port.to_string()),
        ("protected-mode", text("no")),
        ("replicaof", String::new()),
        ("requirepass", String::new()),
        ("save", String::new()),
        ("slowlog-log-slower-than", text("-1")),
        ("slowlog-max-len", text("0")),
        ("tcp-keepalive", text("300")),
        ("timeout", text("0")),
        ("unixsocket", String::new()),
    ]
}

fn get(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let patterns: Vec<Vec<u8>> = args[2..].iter().map(|p| p.to_ascii_lowercase()).collect();
    let wanted = |name: &str| patterns.iter().any(|p| glob(p, name.as_bytes()));
    let mut found = fixed(worker);
    for setting in SETTINGS {
        let value = (setting.get)(&worker.settings).to_string();
        found.push((setting.name, value.clone()));
        if !setting.alias.is_empty() {
            found.push((setting.alias, value));
        }
    }
    found.retain(|(name, _)| wanted(name));
    found.sort_unstable();
    let mut reply = conn.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

/// Nothing changes unless every name and value is valid.
fn set(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if !args.len().is_multiple_of(2) {
        return conn.error("ERR syntax error");
    }
    let pairs: Vec<(String, &[u8])> = args[2..]
        .chunks_exact(2)
        .map(|pair| (String::from_utf8_lossy(pair[0]).to_lowercase(), pair[1]))
        .collect();
    match valid(worker, &pairs) {
        Ok(values) if values.is_empty() => conn.reply().ok(),
        Ok(values) => worker.ask(conn, &Question::ConfigSet(values)),
        Err(text) => conn.error(&text),
    }
}

fn valid(worker: &Worker, pairs: &[(String, &[u8])]) -> Result<Vec<(String, i64)>, String> {
    let failed = |name: &str, why: &str| {
        format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}")
    };
    let fixed = fixed(worker);
    let is_fixed = |name: &str| fixed.iter().find(|(n, _)| *n == name);
    for (n, (name, value)) in pairs.iter().enumerate() {
        if Setting::find(name).is_none() && is_fixed(name).is_none() {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            ));
        }
        if is_fixed(name).is_some_and(|(_, now)| !now.as_bytes().eq_ignore_ascii_case(value)) {
            return Err(failed(name, "can't set immutable config"));
        }
        if pairs[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(failed(name, "duplicate parameter"));
        }
    }
    let mut values = Vec::new();
    for (name, text) in pairs {
        if let Some(setting) = Setting::find(name) {
            let value = setting.parse(text).map_err(|why| failed(name, &why))?;
            values.push((name.clone(), value));
        }
    }
    Ok(values)
}

/// The configuration file is the operator's: what `CONFIG SET` changed lasts until a restart.
fn rewrite(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    if worker.config.about.config_file.is_empty() {
        conn.error("ERR The server is running without a config file");
    } else {
        conn.error("ERR Rewriting config file: this server does not write its configuration file");
    }
}

fn help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "CONFIG",
        &[
            ("GET <pattern>", "Show the settings whose names match, with their values."),
            ("RESETSTAT", "Begin to count anew what INFO shows."),
            ("REWRITE", "Write the settings to the configuration file."),
            ("SET <setting> <value>", "Change a setting until the next start."),
        ],
    );
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn settings_change_on_all_workers_or_not_at_all() {
        let mut node = Node::new(2);
        let (a, b) = (node.client(), node.client());
        node.check(a, "CONFIG SET hash-max-ziplist-entries 5 set-max-intset-entries 6", "+OK|");
        let both = "*4|$25|hash-max-listpack-entries|$1|5|$24|hash-max-ziplist-entries|$1|5|";
        node.check(b, "CONFIG GET HASH-max-*-entries", both);
        let failed = "-ERR CONFIG SET failed (possibly related to argument";
        for (line, error) in [
            (
                "set-max-intset-entries 7 foo 1",
                "-ERR Unknown option or number of arguments for CONFIG SET - 'foo'",
            ),
            (
                "set-max-intset-entries 7 set-max-intset-entries 8",
                &format!("{failed} 'set-max-intset-entries') - duplicate parameter"),
            ),
            (
                "set-max-intset-entries 7 databases 16",
                &format!("{failed} 'databases') - can't set immutable config"),
            ),
            (
                "set-max-intset-entries x",
                &format!(
                    "{failed} 'set-max-intset-entries') - argument couldn't be parsed into an integer"
                ),
            ),
            (
                "set-max-intset-entries -1",
                &format!(
                    "{failed} 'set-max-intset-entries') - argument must be between 0 and 9223372036854775807 inclusive"
                ),
            ),
            (
                "hll-sparse-max-bytes x",
                &format!("{failed} 'hll-sparse-max-bytes') - argument must be a memory value"),
            ),
            ("a", "-ERR wrong number of arguments for 'config|set' command"),
            ("a b c", "-ERR syntax error"),
        ] {
            node.check(a, &format!("CONFIG SET {line}"), &format!("{error}|"));
        }
        node.check(a, "CONFIG GET set-max-intset-entries", "*2|$22|set-max-intset-entries|$1|6|");
        node.check(a, "CONFIG SET hll-sparse-max-bytes 2kb", "+OK|");
        node.check(b, "CONFIG GET hll-sparse-max-bytes", "*2|$20|hll-sparse-max-bytes|$4|2048|");
    }

    #[test]
    fn what_is_fixed_may_be_set_to_what_it_is() {
        let mut node = Node::new(1);
        let client = node.client();
        node.check(client, "CONFIG SET save \"\" appendonly yes", "+OK|");
        node.check(client, "CONFIG GET save port save", "*4|$4|port|$4|6379|$4|save|$0||");
        node.check(client, "CONFIG GET nothing", "*0|");
        node.run(client, "HELLO 3");
        node.check(client, "CONFIG GET appendfsync", "%1|$11|appendfsync|$6|always|");
        node.check(client, "CONFIG FOO", "-ERR unknown subcommand 'FOO'. Try CONFIG HELP.|");
    }
}
