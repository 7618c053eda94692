//! Commands over the whole keyspace: every shard does its part, each at its own moment.

use super::gateway;
use crate::conn::{Conn, Parked};
use crate::event::ConnId;
use crate::job::{Args, Origin};
use crate::message::{Message, Requested, home};
use crate::peer::message::Body;
use crate::worker::Worker;
use quorate_base::ShardId;
use quorate_data::Spec;
use quorate_resp::{Proto, Reply};
use std::collections::BTreeMap;

/// Answers that are being put together, by number.
#[derive(Debug, Default)]
pub(crate) struct Gathers {
    running: BTreeMap<u64, Gather>,
    last: u64,
}

#[derive(Debug)]
struct Gather {
    conn: ConnId,
    slot: u64,
    proto: Proto,
    how: How,
    parts: BTreeMap<ShardId, Vec<u8>>,
    missing: usize,
}

/// How the parts become one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Integers are added.
    Sum,
    /// The elements of arrays follow each other.
    Join,
    /// Any part that is not null.
    Any,
    /// All say the same.
    Same,
}

impl Worker {
    /// Executes a command that needs the whole keyspace.
    pub(crate) fn fan_out(&mut self, conn: &mut Conn, spec: &'static Spec, args: &[&[u8]]) {
        let shards = 0..self.db.map().shards();
        let (how, shards) = match spec.name {
            "dbsize" => (How::Sum, shards),
            "keys" => (How::Join, shards),
            "randomkey" => (How::Any, shards),
            "flushall" | "flushdb" => (How::Same, shards),
            "scan" => {
                let cursor = quorate_data::parse::integer(args[1]).unwrap_or(0);
                let shard = self.db.shard_at(u64::try_from(cursor).unwrap_or(0));
                (How::Same, shard..shard + 1)
            }
            name => {
                let text = format!(
                    "ERR {} with options that look at other keys is not available in a cluster",
                    name.to_uppercase()
                );
                return conn.error(&text);
            }
        };
        let slot = conn.output.reserve(0);
        conn.parked = Some(Parked::Slot(slot));
        let gathers = &mut self.peers.gathers;
        gathers.last += 1;
        let number = gathers.last;
        let parts = BTreeMap::new();
        let (id, proto, missing) = (conn.id, conn.proto, shards.len());
        gathers.running.insert(number, Gather { conn: id, slot, proto, how, parts, missing });
        for shard in shards {
            let origin = Origin::Gather { worker: self.id, gather: number, shard };
            let body = Body::Part(Args::new(args));
            let worker = home(shard, self.config.workers);
            if worker == self.id {
                self.on_client_request(shard, origin, proto, body);
            } else {
                let requested = Requested { shard, origin, proto, body };
                self.tell(worker, Message::Request(Box::new(requested)));
            }
        }
    }

    /// One shard has done its part.
    pub(crate) fn on_part(&mut self, number: u64, shard: ShardId, reply: Vec<u8>) {
        let gathers = &mut self.peers.gathers;
        let Some(gather) = gathers.running.get_mut(&number) else { return };
        gather.parts.insert(shard, reply);
        gather.missing -= 1;
        if gather.missing > 0 {
            return;
        }
        let gather = gathers.running.remove(&number).expect("it was just seen");
        let start = self.prng.below(gather.parts.len() as u64) as usize;
        let (conn, slot) = (gather.conn, gather.slot);
        self.on_reply(conn, slot, gather.conclude(start));
    }
}

impl Gather {
    /// `start`: where to begin to look for [`How::Any`].
    fn conclude(self, start: usize) -> Vec<u8> {
        let mut parts: Vec<Vec<u8>> = self.parts.into_values().collect();
        if let Some(error) = parts.iter().find(|part| part.first() == Some(&b'-')) {
            return error.clone();
        }
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, self.proto);
        match self.how {
            How::Sum => {
                let sum = parts.iter().filter_map(|part| number_of(part).map(|(n, _)| n)).sum();
                reply.int(sum);
            }
            How::Join => {
                let heads: Vec<(i64, usize)> = parts.iter().filter_map(|p| number_of(p)).collect();
                reply.array(heads.iter().map(|(count, _)| *count as usize).sum());
                for (part, (_, start)) in parts.iter().zip(heads) {
                    out.extend_from_slice(&part[start..]);
                }
            }
            How::Any => {
                parts.rotate_left(start);
                let is_null = |part: &[u8]| part.starts_with(b"$-1") || part.starts_with(b"_");
                return parts.into_iter().find(|part| !is_null(part)).unwrap_or_else(|| {
                    Reply::new(&mut out, self.proto).null();
                    out
                });
            }
            How::Same => {
                let text = "ERR no shard answered";
                return parts.into_iter().next().unwrap_or_else(|| gateway::error(text));
            }
        }
        out
    }
}

/// The number in the first line of a reply, and where that line ends.
fn number_of(reply: &[u8]) -> Option<(i64, usize)> {
    let end = reply.windows(2).position(|pair| pair == b"\r\n")?;
    let number = std::str::from_utf8(reply.get(1..end)?).ok()?.parse().ok()?;
    Some((number, end + 2))
}
