//! The reply to `QUORATE STATUS`: a map of what the node knows.
//!
//! Its shape is documented in docs/operations.md. Names are added and never change their meaning,
//! so whoever reads it skips what it does not know, and does without what an older node leaves out.

use crate::histogram::Histogram;
use crate::shard::Durability;
use crate::status::{LinkFacts, NodeStatus, PeerStatus, ShardStatus};
use quorate_resp::Reply;

/// Raised when something of the shape changes that is not an addition.
const FORMAT: i64 = 1;

/// A reply that is put together before it is written, because a map begins with its length.
enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Double(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Value {
    fn list<T>(items: impl IntoIterator<Item = T>, value: impl Fn(T) -> Self) -> Self {
        Self::List(items.into_iter().map(value).collect())
    }

    fn write(&self, reply: &mut Reply<'_>) {
        match self {
            Self::Null => reply.null(),
            Self::Int(value) => reply.int(*value),
            Self::Bool(value) => reply.bool(*value),
            Self::Double(value) => reply.double(*value),
            Self::Text(text) => reply.bulk(text.as_bytes()),
            Self::List(items) => {
                reply.array(items.len());
                items.iter().for_each(|item| item.write(reply));
            }
            Self::Map(pairs) => {
                reply.map(pairs.len());
                for (name, value) in pairs {
                    reply.bulk(name.as_bytes());
                    value.write(reply);
                }
            }
        }
    }
}

/// Writes the reply.
pub(super) fn write_status(status: &NodeStatus, reply: &mut Reply<'_>) {
    let (config, all) = (&status.config, &status.workers);
    let about = &config.about;
    Value::Map(vec![
        ("format", Value::Int(FORMAT)),
        ("node", status.node().into()),
        ("version", about.version.as_str().into()),
        ("run_id", about.run_id.as_str().into()),
        ("client_address", about.client_address.as_str().into()),
        ("data_dir", about.data_dir.as_str().into()),
        ("workers", u64::from(config.workers).into()),
        ("time_ms", all.now.wall.into()),
        ("uptime_ms", status.uptime_ms().into()),
        ("stopping", all.stopping.into()),
        ("quorum", status.has_quorum().into()),
        ("peers", Value::list(&all.peers, |peer| peer_of(peer, status))),
        ("spaces", spaces(status)),
        ("shards", Value::list(&all.shards, shard)),
        ("load", load(status)),
        ("memory", memory(status)),
        ("journal", journal(status)),
        ("disk", disk(status)),
    ])
    .write(reply);
}

fn peer_of(peer: &PeerStatus, status: &NodeStatus) -> Value {
    let links = status.outside.iter().flat_map(|outside| &outside.links);
    let link = links.into_iter().find(|link| link.node == peer.node);
    let text = |of: fn(&LinkFacts) -> Option<&str>| Value::from(link.and_then(of));
    let round_trip_us = link.and_then(|link| link.round_trip_us).filter(|_| peer.up);
    Value::Map(vec![
        ("node", peer.node.into()),
        ("up", peer.up.into()),
        ("since_ms", peer.since.into()),
        ("address", text(|link| Some(&link.address))),
        ("client_address", client_address(peer, link).into()),
        ("version", peer.about.as_ref().map(|about| about.version.as_str()).into()),
        ("reason", text(|link| link.reason.as_deref())),
        ("round_trip_us", round_trip_us.into()),
        ("links", link.map(|link| link.links).into()),
    ])
}

/// Where clients reach a peer. One that listens on every address of its machine is reached where
/// the other nodes reach it.
fn client_address(peer: &PeerStatus, link: Option<&LinkFacts>) -> Option<Value> {
    let told = peer.about.as_ref().map(|about| about.client_address.as_str())?;
    let (host, port) = told.rsplit_once(':')?;
    if !matches!(host, "0.0.0.0" | "[::]") {
        return Some(told.into());
    }
    let (host, _) = link?.address.rsplit_once(':')?;
    Some(Value::Text(format!("{host}:{port}")))
}

fn spaces(status: &NodeStatus) -> Value {
    let mut spaces: Vec<_> = status.config.map.spaces().iter().collect();
    spaces.sort_unstable_by_key(|space| space.id);
    Value::list(spaces, |shards| {
        let space = &status.config.spaces[shards.id as usize];
        let durability = match space.durability {
            Durability::Sync => "sync",
            Durability::Relaxed => "relaxed",
        };
        let keys = status.workers.stats.now.keys.get(shards.id as usize).copied();
        Value::Map(vec![
            ("name", space.name.as_str().into()),
            ("prefix", Value::Text(String::from_utf8_lossy(&shards.prefix).into_owned())),
            ("durability", durability.into()),
            ("shards", u64::from(shards.shards).into()),
            ("keys", keys.unwrap_or(0).into()),
        ])
    })
}

fn shard(shard: &ShardStatus) -> Value {
    let last = shard.last;
    let lag = Value::list(&shard.followers, |follower| {
        Value::Map(vec![
            ("node", follower.node.into()),
            ("entries", last.saturating_sub(follower.matched).into()),
        ])
    });
    Value::Map(vec![
        ("shard", u64::from(shard.shard).into()),
        ("space", u64::from(shard.space).into()),
        ("first_slot", u64::from(*shard.slots.start()).into()),
        ("last_slot", u64::from(*shard.slots.end()).into()),
        ("role", shard.role.name().into()),
        ("state", shard.state.name().into()),
        ("leader", shard.leader.into()),
        ("term", shard.term.into()),
        ("last", last.into()),
        ("committed", shard.committed.into()),
        ("applied", shard.applied.into()),
        ("flushed", shard.flushed.into()),
        ("lag", lag),
        ("keys", shard.keys.into()),
        ("memory_bytes", shard.memory_bytes.into()),
        ("resident", shard.resident.into()),
        ("commands", shard.commands.into()),
    ])
}

fn load(status: &NodeStatus) -> Value {
    let (stats, rates) = (&status.workers.stats, &status.workers.rates);
    Value::Map(vec![
        ("clients", stats.now.clients.into()),
        ("blocked_clients", stats.blocked.into()),
        ("connections", stats.connections.into()),
        ("commands", stats.commands.into()),
        ("errors", stats.errors.into()),
        ("expired_keys", stats.expired.into()),
        ("input_bytes", stats.input_bytes.into()),
        ("output_bytes", stats.output_bytes.into()),
        ("commands_per_second", rates.commands.into()),
        ("errors_per_second", rates.errors.into()),
        ("input_bytes_per_second", rates.input_bytes.into()),
        ("output_bytes_per_second", rates.output_bytes.into()),
        ("latency", latency(&stats.latency)),
        ("recent_latency", latency(&rates.latency)),
    ])
}

fn latency(histogram: &Histogram) -> Value {
    Value::Map(vec![
        ("count", histogram.count().into()),
        ("sum_us", histogram.sum_us().into()),
        ("p50_us", histogram.quantile(500).into()),
        ("p99_us", histogram.quantile(990).into()),
        ("p999_us", histogram.quantile(999).into()),
    ])
}

fn memory(status: &NodeStatus) -> Value {
    let now = &status.workers.stats.now;
    Value::Map(vec![
        ("data_bytes", now.memory_bytes.into()),
        ("data_bytes_max", status.config.memory_bytes_max.into()),
        ("unsent_bytes", now.unsent_bytes.into()),
        ("process_bytes", status.outside.as_ref().and_then(|o| o.process_bytes).into()),
    ])
}

fn journal(status: &NodeStatus) -> Value {
    let now = &status.workers.stats.now;
    let journal = status.outside.as_ref().map(|outside| &outside.journal);
    Value::Map(vec![
        ("bytes", journal.map(|journal| journal.bytes).into()),
        ("appended_bytes", journal.map(|journal| journal.appended_bytes).into()),
        ("frames_in_flight", now.frames_in_flight.into()),
        ("bytes_in_flight", now.bytes_in_flight.into()),
        ("sync_latency", journal.map(|journal| latency(&journal.sync_latency)).into()),
        ("recent_sync_latency", journal.map(|j| latency(&j.recent_sync_latency)).into()),
    ])
}

fn disk(status: &NodeStatus) -> Value {
    Value::Map(vec![
        ("free_bytes", status.outside.as_ref().and_then(|o| o.disk_free_bytes).into()),
        ("full", status.workers.disk_full.into()),
        ("throttled", status.workers.throttled.into()),
        ("flush_pending_bytes", status.workers.stats.now.dirty_bytes.into()),
    ])
}
