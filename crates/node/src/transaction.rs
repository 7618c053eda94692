//! MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! A transaction holds the shards of all its keys while it executes, so nothing comes between its
//! commands; what they change reaches the journal in one frame, so a crash keeps all of it or
//! nothing.

use crate::conn::{Conn, Watched};
use crate::dispatch::{Command, ShardList};
use crate::job::{Args, Work};
use crate::session::{ALLOW_BUSY, SKIP_SLOWLOG, SessionSpec, UNQUEUED};
use crate::worker::{Mode, Worker};
use quorate_base::ShardId;
use quorate_data::command::flag;

const QUICK: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | ALLOW_BUSY;

/// The commands of transactions.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec {
        name: "multi",
        arity: 1,
        flags: QUICK | UNQUEUED,
        run: |worker, conn, _| worker.begin_multi(conn),
    },
    SessionSpec {
        name: "exec",
        arity: 1,
        flags: flag::NOSCRIPT | flag::LOADING | flag::STALE | SKIP_SLOWLOG | UNQUEUED,
        run: exec,
    },
    SessionSpec { name: "discard", arity: 1, flags: QUICK | UNQUEUED, run: discard },
    SessionSpec { name: "watch", arity: -2, flags: QUICK | UNQUEUED, run: watch },
    SessionSpec { name: "unwatch", arity: 1, flags: QUICK, run: unwatch },
];

fn discard(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    if conn.multi.take().is_none() {
        conn.error("ERR DISCARD without MULTI");
        return;
    }
    worker.unwatch(conn);
    conn.reply().ok();
}

fn unwatch(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    worker.unwatch(conn);
    conn.reply().ok();
}

fn watch(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if conn.multi.is_some() {
        conn.error("ERR WATCH inside MULTI is not allowed");
        return;
    }
    if worker.in_cluster() {
        return worker.watch_replicated(conn, &args[1..]);
    }
    let mut shards: ShardList =
        args[1..].iter().map(|key| worker.db.map().place(key).shard).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.iter().all(|&shard| worker.is_free(shard)) {
        worker.watch_here(conn, &args[1..]);
    } else {
        worker.park(conn, Work::Watch(Args::new(&args[1..])), &shards);
    }
}

fn exec(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    if conn.multi.is_none() {
        conn.error("ERR EXEC without MULTI");
        return;
    }
    let whole = !worker.in_cluster() || worker.exec_is_whole(conn);
    let alone = !worker.in_cluster();
    let multi = conn.multi.as_ref().expect("EXEC follows MULTI");
    let mut writes = multi.queued.iter().filter(|(command, _)| alone && command.is(flag::WRITE));
    let refused = if !whole {
        Some(
            "EXECABORT A command over the whole keyspace is not available in a transaction of a \
             cluster"
                .to_owned(),
        )
    } else if multi.aborted {
        Some("EXECABORT Transaction discarded because of previous errors.".to_owned())
    } else {
        let refused = writes
            .find_map(|(command, args)| worker.check_writable(*command, args.memory_bytes()).err());
        refused.map(|why| format!("EXECABORT Transaction discarded because of: {why}"))
    };
    if let Some(text) = refused {
        conn.multi = None;
        worker.unwatch(conn);
        conn.error(&text);
        return;
    }
    let mut shards = ShardList::new();
    let mut some = ShardList::new();
    for (command, args) in &multi.queued {
        if let Command::Data(spec) = command {
            some.clear();
            worker.shards_of(spec, &args.slices(), &mut some);
            shards.extend_from_slice(&some);
        }
    }
    shards.extend(conn.watched.iter().map(|w| worker.db.map().place(&w.key).shard));
    shards.sort_unstable();
    shards.dedup();
    if worker.in_cluster() {
        return worker.exec_replicated(conn, &shards);
    }
    if shards.iter().all(|&shard| worker.is_free(shard)) {
        worker.execute_queued(conn, &shards);
    } else {
        worker.park(conn, Work::Exec, &shards);
    }
}

impl Worker {
    /// Executes what the client queued; all shards that it needs are here.
    pub(crate) fn execute_queued(&mut self, conn: &mut Conn, shards: &[ShardId]) {
        self.bound_turn();
        for &shard in shards {
            self.touch(shard);
        }
        let multi = conn.multi.take().expect("EXEC was seen to follow MULTI");
        let watched = std::mem::take(&mut conn.watched);
        let mut broken = false;
        for w in watched {
            let shard = self.db.map().place(&w.key).shard;
            let changed = self.db.shard(shard).interest().has_changed(&w.key, w.token);
            // A key that expired since it was watched counts as changed.
            broken |= changed || w.live && !self.is_live(&w.key);
            self.db.shard(shard).interest().unwatch(&w.key);
        }
        if broken {
            conn.reply().null_array();
            return;
        }
        conn.reply().array(multi.queued.len());
        conn.in_exec = true;
        for (command, args) in &multi.queued {
            let args = args.slices();
            match command {
                Command::Data(spec) => {
                    let mut list = ShardList::new();
                    self.shards_of(spec, &args, &mut list);
                    let mode = Mode { in_transaction: true, retried: false };
                    let proto = conn.proto;
                    self.execute(&mut conn.output, proto, spec, &args, &list, mode);
                }
                Command::Session(spec) => (spec.run)(self, conn, &args),
            }
        }
        conn.in_exec = false;
    }

    /// Watches keys whose shards are here.
    pub(crate) fn watch_here(&mut self, conn: &mut Conn, keys: &[&[u8]]) {
        for &key in keys {
            if conn.watched.iter().any(|w| w.key == key) {
                continue;
            }
            let shard = self.db.map().place(key).shard;
            self.touch(shard);
            let live = self.is_live(key);
            let token = self.db.shard(shard).interest().watch(key);
            conn.watched.push(Watched { key: key.to_vec(), token, live });
        }
        conn.reply().ok();
    }

    /// Whether `key` exists. A table that cannot be read counts as a change later, when a command
    /// reports it.
    fn is_live(&mut self, key: &[u8]) -> bool {
        self.db.entry_untouched(key).is_ok_and(|entry| entry.is_some())
    }

    /// Forgets all watched keys of a client.
    pub(crate) fn unwatch(&mut self, conn: &mut Conn) {
        if self.in_cluster() {
            // What was watched is compared by its token; no shard knows of it.
            return conn.watched.clear();
        }
        for w in std::mem::take(&mut conn.watched) {
            let shard = self.db.map().place(&w.key).shard;
            self.release_waiter(shard, w.key, self.id, None);
        }
    }
}
