//! From a client's command to the home of its shard at this node.
//!
//! In a cluster a command, or a transaction, has all of its keys in one shard.

use super::gateway;
use crate::conn::{Conn, Parked, Watched};
use crate::dispatch::{Command, ShardList};
use crate::event::ConnId;
use crate::job::{Args, Origin};
use crate::message::{Message, Requested, home};
use crate::peer::message::Body;
use crate::worker::Worker;
use quorate_base::ShardId;
use quorate_base::codec::Reader;
use quorate_data::Spec;
use quorate_data::command::{KeyPositions, flag};

/// Begins an answer that is not for the client: what to remember of watched keys.
pub(crate) const TOKENS: u8 = 0;

/// Redis Cluster's error for keys that do not lie together.
const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

impl Worker {
    /// Sends a command on its way.
    pub(crate) fn route_replicated(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: &[&[u8]],
    ) {
        let mut positions = KeyPositions::new();
        if !spec.key_positions(args, &mut positions) {
            return self.fan_out(conn, spec, args);
        }
        let mut shards = ShardList::new();
        self.shards_of(spec, args, &mut shards);
        match shards[..] {
            [] => self.execute_now(conn, spec, args, &shards),
            [shard] => {
                let blocks = spec.flags & flag::BLOCKING != 0;
                let script = self.travelling_script(spec, args);
                let args = script.unwrap_or_else(|| Args::new(args));
                self.ask_shard(conn, shard, Body::Command(args), blocks);
            }
            _ => conn.error(CROSS_SLOT),
        }
    }

    /// Asks for something whose answer takes the next place among the client's replies. The client
    /// waits for it if it is `parked`.
    fn ask_shard(&mut self, conn: &mut Conn, shard: ShardId, body: Body, parked: bool) {
        let bytes = match &body {
            Body::Command(args) | Body::Part(args) | Body::Watch(args) => args.memory_bytes(),
            Body::Exec { commands, .. } => commands.iter().map(Args::memory_bytes).sum(),
            Body::Open(_) | Body::Outcome(_) => size_of::<Body>(),
        };
        let slot = conn.output.reserve(bytes);
        if parked {
            conn.parked = Some(Parked::Slot(slot));
        }
        let worker = home(shard, self.config.workers);
        if !conn.forwarded.contains(&worker) {
            conn.forwarded.push(worker);
        }
        let (id, proto) = (conn.id, conn.proto);
        if worker == self.id {
            self.on_client_request(shard, Origin::Slot { conn: id, slot }, proto, body);
        } else {
            let origin = Origin::Remote { worker: self.id, conn: id, slot };
            let requested = Requested { shard, origin, proto, body };
            self.tell(worker, Message::Request(Box::new(requested)));
        }
    }

    /// WATCH: the answer says what to remember, and the client waits for it.
    pub(crate) fn watch_replicated(&mut self, conn: &mut Conn, keys: &[&[u8]]) {
        let mut shards: ShardList = keys.iter().map(|key| self.db.map().place(key).shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let [shard] = shards[..] else { return conn.error(CROSS_SLOT) };
        let new: Vec<&[u8]> = keys
            .iter()
            .copied()
            .filter(|key| !conn.watched.iter().any(|watched| watched.key == *key))
            .collect();
        if new.is_empty() {
            return conn.reply().ok();
        }
        conn.watching = new.iter().map(|key| key.to_vec()).collect();
        self.ask_shard(conn, shard, Body::Watch(Args::new(&new)), true);
    }

    /// The answer to [`Worker::watch_replicated`]: notes the tokens; what the client gets instead.
    pub(crate) fn take_tokens(conn: &mut Conn, answer: &[u8]) -> Vec<u8> {
        let keys = std::mem::take(&mut conn.watching);
        let mut reader = Reader::new(&answer[1..]);
        for key in keys {
            let (Some(live), Some(token)) = (reader.u8(), reader.varint()) else {
                return gateway::error("ERR the answer of another node makes no sense");
            };
            conn.watched.push(Watched { key, token, live: live == 1 });
        }
        b"+OK\r\n".to_vec()
    }

    /// EXEC of what the client queued; `shards` are all that it needs.
    pub(crate) fn exec_replicated(&mut self, conn: &mut Conn, shards: &[ShardId]) {
        let [shard] = *shards else {
            if shards.is_empty() {
                return self.execute_queued(conn, shards);
            }
            conn.multi = None;
            self.unwatch(conn);
            return conn.error(CROSS_SLOT);
        };
        let multi = conn.multi.take().expect("EXEC was seen to follow MULTI");
        let watched = std::mem::take(&mut conn.watched);
        let watched = watched.into_iter().map(|w| (w.key, w.live, w.token)).collect();
        let queued = multi.queued.into_iter();
        let commands = queued.map(|(_, args)| self.travelling_args(args)).collect();
        self.ask_shard(conn, shard, Body::Exec { watched, commands }, false);
    }

    /// True if all commands of a transaction can execute in one shard.
    pub(crate) fn exec_is_whole(&mut self, conn: &Conn) -> bool {
        let Some(multi) = &conn.multi else { return true };
        multi.queued.iter().all(|(command, args)| match command {
            Command::Data(spec) => spec.key_positions(&args.slices(), &mut KeyPositions::new()),
            Command::Session(_) => true,
        })
    }

    /// `QUORATE OUTCOME id`.
    pub(crate) fn ask_outcome(&mut self, conn: &mut Conn, id: &[u8]) {
        if !self.in_cluster() {
            return conn.error("ERR This node stands alone: it never leaves an outcome open");
        }
        match gateway::parse_id(id) {
            Some((shard, id)) if shard < self.db.map().shards() => {
                self.ask_shard(conn, shard, Body::Outcome(id), false);
            }
            _ => conn.error("ERR Invalid request id: it is the word after UNKNOWN in the error"),
        }
    }

    /// A client is gone, here or at another worker.
    pub(crate) fn forget_client(&mut self, from: crate::event::WorkerId, gone: ConnId) {
        let here = from == self.id;
        self.forget_requests_of(|origin| match origin {
            Origin::Slot { conn, .. } => here && *conn == gone,
            Origin::Remote { worker, conn, .. } => (*worker, *conn) == (from, gone),
            _ => false,
        });
    }
}
