//! INFO: Redis' sections, as far as they apply, and one of our own.
//!
//! Inside a transaction the numbers are those of the client's own worker, because the others
//! cannot be waited for there.

use super::REDIS_VERSION;
use crate::conn::Conn;
use crate::message::Question;
use crate::shard::Durability;
use crate::stats::Stats;
use crate::worker::Worker;
use quorate_data::parse::is_word;
use std::fmt::Write as _;

/// Clients beyond which Redis would refuse connections by default; here the outside decides.
pub const CLIENTS_MAX: usize = 10_000;

type Section = fn(&Worker, &Stats, &mut String);

/// Every section in order, and whether `default` includes it.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, |_, _, _| {}),
    ("Modules", true, |_, _, _| {}),
    ("Commandstats", false, |_, _, _| {}),
    ("Errorstats", true, |_, _, _| {}),
    ("Cluster", true, |_, _, out| line(out, "cluster_enabled", 0)),
    ("Keyspace", true, keyspace),
    ("Quorate", true, quorate),
];

pub(super) fn info_command(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let sections = args[1..].iter().map(|section| section.to_vec()).collect();
    worker.ask(conn, &Question::Info(sections));
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(out, "{name}:{value}\r\n");
}

impl Worker {
    /// The text of INFO for these sections, with the numbers of all workers.
    pub(super) fn info(&self, wanted: &[Vec<u8>], stats: &Stats) -> String {
        let any = |words: &[&str]| wanted.iter().any(|w| words.iter().any(|word| is_word(w, word)));
        let everything = any(&["all", "everything"]);
        let default = wanted.is_empty() || any(&["default"]);
        let mut out = String::new();
        for (title, by_default, section) in SECTIONS {
            if everything || default && *by_default || any(&[title]) {
                if !out.is_empty() {
                    out.push_str("\r\n");
                }
                let _ = write!(out, "# {title}\r\n");
                section(self, stats, &mut out);
            }
        }
        out
    }

    pub(super) fn uptime_seconds(&self) -> u64 {
        (self.now.mono - self.started.mono) / 1000
    }

    /// What the space of keys without a special prefix promises.
    pub(super) fn default_durability(&self) -> Durability {
        let spaces = self.db.map().spaces();
        let default = spaces.iter().find(|s| s.prefix.is_empty());
        default.map_or(Durability::Sync, |s| self.config.spaces[s.id as usize].durability)
    }
}

fn server(worker: &Worker, _: &Stats, out: &mut String) {
    let about = &worker.config.about;
    let uptime = worker.uptime_seconds();
    line(out, "redis_version", REDIS_VERSION);
    line(out, "quorate_version", &about.version);
    line(out, "redis_git_sha1", "00000000");
    line(out, "redis_git_dirty", 0);
    line(out, "redis_build_id", "0");
    line(out, "redis_mode", "standalone");
    line(out, "os", &about.os);
    line(out, "arch_bits", 64);
    line(out, "process_id", about.pid);
    line(out, "process_supervised", "no");
    line(out, "run_id", &about.run_id);
    line(out, "tcp_port", about.port);
    line(out, "server_time_usec", worker.now.wall * 1000);
    line(out, "uptime_in_seconds", uptime);
    line(out, "uptime_in_days", uptime / 86_400);
    line(out, "hz", 10);
    line(out, "configured_hz", 10);
    line(out, "lru_clock", (worker.now.wall / 1000) & 0xff_ffff);
    line(out, "config_file", &about.config_file);
    line(out, "io_threads_active", u8::from(worker.config.workers > 1));
}

fn clients(_: &Worker, stats: &Stats, out: &mut String) {
    line(out, "connected_clients", stats.now.clients);
    line(out, "cluster_connections", 0);
    line(out, "maxclients", CLIENTS_MAX);
    line(out, "blocked_clients", stats.blocked);
    line(out, "tracking_clients", 0);
    line(out, "pubsub_clients", stats.now.subscribers);
    line(out, "watching_clients", stats.now.watching);
    line(out, "clients_in_timeout_table", 0);
}

fn memory(worker: &Worker, stats: &Stats, out: &mut String) {
    let (used, max) = (stats.now.memory_bytes, worker.config.memory_bytes_max);
    line(out, "used_memory", used);
    line(out, "used_memory_human", human(used));
    line(out, "used_memory_dataset", used);
    line(out, "maxmemory", max);
    line(out, "maxmemory_human", human(max));
    line(out, "maxmemory_policy", "noeviction");
    line(out, "mem_clients_normal", stats.now.unsent_bytes);
    line(out, "mem_allocator", "mimalloc");
}

/// Every write is in the journal before its reply, or within a second where the space says so:
/// that is an append-only file, in Redis' words.
fn persistence(worker: &Worker, stats: &Stats, out: &mut String) {
    let full = if worker.disk_full { "err" } else { "ok" };
    line(out, "loading", 0);
    line(out, "async_loading", 0);
    line(out, "rdb_changes_since_last_save", stats.now.log_entries_unflushed);
    line(out, "rdb_bgsave_in_progress", 0);
    line(out, "rdb_last_save_time", worker.now.wall / 1000);
    line(out, "rdb_last_bgsave_status", full);
    line(out, "rdb_last_bgsave_time_sec", -1);
    line(out, "rdb_current_bgsave_time_sec", -1);
    line(out, "aof_enabled", 1);
    line(out, "aof_rewrite_in_progress", 0);
    line(out, "aof_rewrite_scheduled", 0);
    line(out, "aof_last_rewrite_time_sec", -1);
    line(out, "aof_current_rewrite_time_sec", -1);
    line(out, "aof_last_bgrewrite_status", "ok");
    line(out, "aof_last_write_status", full);
    line(out, "aof_pending_bio_fsync", stats.now.frames_in_flight);
}

fn stats(worker: &Worker, stats: &Stats, out: &mut String) {
    let [channels, patterns, sharded] = worker.pubsub.sizes();
    line(out, "total_connections_received", stats.connections);
    line(out, "total_commands_processed", stats.commands);
    line(out, "total_net_input_bytes", stats.input_bytes);
    line(out, "total_net_output_bytes", stats.output_bytes);
    line(out, "rejected_connections", 0);
    line(out, "sync_full", 0);
    line(out, "sync_partial_ok", 0);
    line(out, "sync_partial_err", 0);
    line(out, "expired_keys", stats.expired);
    line(out, "evicted_keys", 0);
    line(out, "evicted_clients", 0);
    line(out, "pubsub_channels", channels);
    line(out, "pubsub_patterns", patterns);
    line(out, "pubsubshard_channels", sharded);
    line(out, "latest_fork_usec", 0);
    line(out, "total_forks", 0);
    line(out, "tracking_total_keys", 0);
    line(out, "total_error_replies", stats.errors);
}

fn replication(worker: &Worker, _: &Stats, out: &mut String) {
    line(out, "role", "master");
    line(out, "connected_slaves", 0);
    line(out, "master_failover_state", "no-failover");
    line(out, "master_replid", &worker.config.about.run_id);
    line(out, "master_replid2", "0".repeat(40));
    line(out, "master_repl_offset", 0);
    line(out, "second_repl_offset", -1);
    line(out, "repl_backlog_active", 0);
    line(out, "repl_backlog_size", 0);
    line(out, "repl_backlog_first_byte_offset", 0);
    line(out, "repl_backlog_histlen", 0);
}

fn keyspace(_: &Worker, stats: &Stats, out: &mut String) {
    let keys: u64 = stats.now.keys.iter().sum();
    if keys > 0 {
        let expires = stats.now.keys_with_expiry;
        line(out, "db0", format_args!("keys={keys},expires={expires},avg_ttl=0"));
    }
}

fn quorate(worker: &Worker, stats: &Stats, out: &mut String) {
    let now = &stats.now;
    line(out, "workers", worker.config.workers);
    line(out, "shards", worker.db.map().shards());
    line(out, "shards_in_memory", now.resident_shards);
    line(out, "shards_flushing", now.flushing_shards);
    line(out, "flush_pending_bytes", now.dirty_bytes);
    line(out, "journal_frames_in_flight", now.frames_in_flight);
    line(out, "journal_bytes_in_flight", now.bytes_in_flight);
    line(out, "log_entries", now.log_entries);
    line(out, "log_entries_unflushed", now.log_entries_unflushed);
    line(out, "disk_full", u8::from(worker.disk_full));
    line(out, "throttled", u8::from(worker.throttled));
    line(out, "stopping", u8::from(worker.stopping));
    line(out, "spaces", worker.config.spaces.len());
    let mut spaces: Vec<_> = worker.db.map().spaces().iter().collect();
    spaces.sort_unstable_by_key(|space| space.id);
    for (n, shards) in spaces.iter().enumerate() {
        let space = &worker.config.spaces[shards.id as usize];
        let durability = match space.durability {
            Durability::Sync => "sync",
            Durability::Relaxed => "relaxed",
        };
        let keys = now.keys.get(shards.id as usize).copied().unwrap_or(0);
        let _ = write!(
            out,
            "space{n}:name={},prefix={},durability={durability},shards={},keys={keys}\r\n",
            space.name,
            String::from_utf8_lossy(&shards.prefix),
            shards.shards,
        );
    }
}

/// Bytes in the largest unit that makes them at least 1, as Redis prints them.
fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 'K');
    for next in ['M', 'G', 'T', 'P'] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.2}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn info_counts_over_all_workers() {
        let mut node = Node::new(4);
        let client = node.client();
        for n in 0..10 {
            node.run(client, &format!("SET {n} v"));
        }
        let text = node.run(client, "INFO keyspace clients");
        assert!(text.contains("|# Clients|connected_clients:1|"), "{text}");
        assert!(text.contains("||# Keyspace|db0:keys=10,expires=0,avg_ttl=0||"), "{text}");
        let text = node.run(client, "INFO");
        let titles: Vec<&str> = text.split('|').filter(|l| l.starts_with("# ")).collect();
        assert_eq!(titles.len(), SECTIONS.len() - 1, "{titles:?}");
        assert!(text.contains("|space0:name=default,prefix=,durability=sync,shards=8,keys=10|"));
        assert!(node.run(client, "INFO everything").contains("# Commandstats"));
        node.check(client, "INFO nothing", "$0||");
    }

    #[test]
    fn bytes_are_printed_for_people() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1_903_816), "1.82M");
        assert_eq!(human(1 << 30), "1.00G");
    }
}
