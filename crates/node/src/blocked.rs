//! Commands that wait for a key to change: BLPOP and its like.
//!
//! A blocked job is registered with the shard of each of its keys, which travels with its
//! waiters. A change of such a key wakes them in the order in which they came; each executes its
//! command again and goes on waiting if that still finds nothing.

use crate::conn::Parked;
use crate::event::WorkerId;
use crate::job::{Job, JobId, Origin, State};
use crate::message::{Message, home};
use crate::worker::Worker;
use quorate_base::ShardId;
use quorate_data::command::{Block, OnTimeout};
use quorate_resp::Reply;

impl Worker {
    /// Lets a job wait for one of `keys` to change. Its shards are still here.
    pub(crate) fn block(&mut self, mut job: Job, keys: Vec<Vec<u8>>, block: &Block) {
        job.state = State::Blocked;
        if !job.retried {
            job.on_timeout = block.on_timeout;
            if block.timeout_ms > 0 {
                let deadline = self.now.mono.saturating_add(block.timeout_ms);
                job.deadline = Some(deadline);
                self.deadlines.insert((deadline, job.id));
            }
            for key in &keys {
                let shard = self.db.map().place(key).shard;
                let slot = self.shards[shard as usize].as_mut().expect("the job holds its shards");
                slot.blocked.entry(key.clone()).or_default().push_back((self.id, job.id));
                self.db.shard(shard).interest().add_waiter(key);
            }
            job.keys = keys;
            job.retried = true;
            self.stats.blocked += 1;
        }
        let (id, late) = (job.id, job.late);
        self.jobs.insert(id, job);
        if late {
            self.give_up(id, None);
        }
    }

    /// Wakes the jobs that wait for what just changed in `shard`.
    #[inline]
    pub(crate) fn wake_waiters(&mut self, shard: ShardId) {
        let keyspace = self.db.shard(shard);
        if !keyspace.interest().has_ready() {
            return;
        }
        for key in keyspace.interest().take_ready() {
            let slot = self.shards[shard as usize].as_ref().expect("the caller holds the shard");
            let waiters: Vec<_> = slot.blocked.get(&key).into_iter().flatten().copied().collect();
            for (worker, job) in waiters {
                if worker == self.id {
                    self.wake(job);
                } else {
                    self.tell(worker, Message::Wake { job });
                }
            }
        }
    }

    /// Tries a blocked job again.
    pub(crate) fn wake(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            if job.state == State::Blocked {
                self.start(job);
            } else {
                self.jobs.insert(id, job);
            }
        }
    }

    /// Ends the registrations of a job that will not wait any more.
    pub(crate) fn unregister(&mut self, job: &mut Job) {
        if job.keys.is_empty() {
            return;
        }
        self.stats.blocked -= 1;
        if let Some(deadline) = job.deadline.take() {
            self.deadlines.remove(&(deadline, job.id));
        }
        for key in std::mem::take(&mut job.keys) {
            let shard = self.db.map().place(&key).shard;
            self.release_waiter(shard, key, self.id, Some(job.id));
        }
    }

    /// Removes a waiter, or a watch, from a key: here, at the shard's home, or once it is back.
    pub(crate) fn release_waiter(
        &mut self,
        shard: ShardId,
        key: Vec<u8>,
        worker: WorkerId,
        job: Option<JobId>,
    ) {
        let home = home(shard, self.config.workers);
        let Some(slot) = self.shards[shard as usize].as_mut() else {
            if home == self.id {
                self.releases.push((shard, key, worker, job));
            } else {
                self.tell(home, Message::Release { shard, key, job });
            }
            return;
        };
        let interest = self.db.shard(shard).interest();
        let Some(job) = job else { return interest.unwatch(&key) };
        interest.remove_waiter(&key);
        if let Some(waiters) = slot.blocked.get_mut(&key) {
            waiters.retain(|waiter| *waiter != (worker, job));
            if waiters.is_empty() {
                slot.blocked.remove(&key);
            }
        }
    }

    /// Gives up on the jobs whose time is over.
    pub(crate) fn time_out_jobs(&mut self) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= self.now.mono
        {
            self.deadlines.pop_first();
            match self.jobs.get_mut(&id) {
                Some(job) if job.state == State::Blocked => self.give_up(id, None),
                Some(job) => job.late = true,
                None => {}
            }
        }
    }

    /// Ends a blocked job with the reply of a timeout, or with an error.
    pub(crate) fn give_up(&mut self, id: JobId, error: Option<&str>) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        self.unregister(&mut job);
        let reply = |mut reply: Reply<'_>| match (error, job.on_timeout) {
            (Some(text), _) => reply.error(text.as_bytes()),
            (None, OnTimeout::Null) => reply.null(),
            (None, OnTimeout::NullArray) => reply.null_array(),
        };
        match job.origin {
            Origin::Local(conn) => {
                let Some(client) = self.clients.get_mut(&conn) else { return };
                reply(client.conn.reply());
                if client.conn.parked == Some(Parked::Job(id)) {
                    client.conn.parked = None;
                    self.resumed.push(conn);
                }
                self.activate(conn);
            }
            Origin::Asked(asked) => {
                let mut bytes = Vec::new();
                reply(Reply::new(&mut bytes, job.proto));
                self.answer_in_vain(asked, bytes);
            }
            Origin::Slot { .. } | Origin::Gather { .. } => unreachable!("a gateway has no jobs"),
            Origin::Remote { .. } => {
                let output = job.output.as_mut().expect("a remote job has an output");
                reply(Reply::new(output.buffer(), job.proto));
                job.state = State::Replying;
                self.replying.push(id);
                self.jobs.insert(id, job);
            }
        }
    }

    /// Drops a job whose client is gone, now or as soon as it holds its shards.
    pub(crate) fn cancel(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.cancelled = true;
        if job.state != State::Acquiring {
            let mut job = self.jobs.remove(&id).expect("it was just here");
            self.unregister(&mut job);
        }
    }
}
