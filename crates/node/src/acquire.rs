//! Commands that need several shards at once, or one that is not free.
//!
//! A shard is a value: the worker at its home owns it, and lends it to the worker whose job needs
//! it together with others. A job gets its shards home by home, in ascending order of workers, all
//! shards of one home at the same moment, so no two jobs can wait for each other. At its home
//! each shard has a queue of claims; the first claim holds the shard, and as long as there is one,
//! plain commands queue up behind it as jobs of their own. A shard travels only while nothing of
//! it is on its way to the journal.

use crate::conn::{Conn, Parked};
use crate::dispatch::{Command, ShardList};
use crate::event::{ConnId, WorkerId};
use crate::job::{Job, JobId, Origin, State, Work};
use crate::message::{Forwarded, Message, Travelling, home};
use crate::output::{Output, Owner};
use crate::worker::{Mode, Worker, keys_of, owned};
use quorate_base::ShardId;
use quorate_data::command::OnTimeout;
use quorate_resp::Proto;
use std::collections::{BTreeMap, VecDeque};

/// Who has or waits for a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A job of this worker.
    Local(JobId),
    /// A job of another worker, with all shards that it asked this home for.
    Remote { worker: WorkerId, job: JobId, shards: Vec<ShardId> },
}

impl Worker {
    /// A job that needs `shards`, not yet in the map.
    pub(crate) fn new_job(
        &mut self,
        origin: Origin,
        proto: Proto,
        work: Work,
        shards: &[ShardId],
    ) -> Job {
        let id = self.next_job_id();
        let output = matches!(origin, Origin::Remote { .. }).then(|| Output::new(Owner::Job(id)));
        Job {
            id,
            origin,
            work,
            state: State::Acquiring,
            proto,
            shards: shards.to_vec(),
            need: VecDeque::new(),
            claimed: false,
            retried: false,
            keys: Vec::new(),
            deadline: None,
            on_timeout: OnTimeout::Null,
            late: false,
            cancelled: false,
            output,
        }
    }

    /// Parks a client until `work` is done with all `shards`.
    pub(crate) fn park(&mut self, conn: &mut Conn, work: Work, shards: &[ShardId]) {
        let job = self.new_job(Origin::Local(conn.id), conn.proto, work, shards);
        conn.parked = Some(Parked::Job(job.id));
        self.start(job);
    }

    /// Begins to get a job's shards.
    pub(crate) fn start(&mut self, mut job: Job) {
        let mut by_home = BTreeMap::<WorkerId, Vec<ShardId>>::new();
        for &shard in &job.shards {
            by_home.entry(home(shard, self.config.workers)).or_default().push(shard);
        }
        job.need = by_home.into_iter().collect();
        (job.state, job.claimed) = (State::Acquiring, false);
        self.runnable.push_back(job.id);
        self.jobs.insert(job.id, job);
    }

    /// Goes on with a job: gets the next shards, or executes it.
    pub(crate) fn advance(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.state != State::Acquiring {
            return;
        }
        match job.need.front() {
            None => {}
            Some((worker, shards)) if *worker == self.id => {
                let shards = shards.clone();
                if !std::mem::replace(&mut job.claimed, true) {
                    for &shard in &shards {
                        self.claims[shard as usize].push_back(Claim::Local(id));
                    }
                }
                let first = |w: &Self, s: ShardId| {
                    w.claims[s as usize].front() == Some(&Claim::Local(id))
                        && w.shards[s as usize].is_some()
                };
                if !shards.iter().all(|&s| first(self, s)) {
                    return;
                }
                let job = self.jobs.get_mut(&id).expect("it was just here");
                job.need.pop_front();
                job.claimed = false;
                return self.advance(id);
            }
            Some((worker, shards)) => {
                let (worker, shards) = (*worker, shards.clone());
                if !std::mem::replace(&mut job.claimed, true) {
                    self.tell(worker, Message::Borrow { job: id, shards });
                }
                return;
            }
        }
        let job = self.jobs.remove(&id).expect("it was just here");
        self.run(job);
    }

    /// Executes a job that holds all its shards.
    fn run(&mut self, mut job: Job) {
        if job.cancelled {
            self.unregister(&mut job);
            self.release_shards(&job);
            return;
        }
        if let Origin::Asked(asked) = job.origin {
            return self.run_asked(job, asked);
        }
        let mut taken = match job.origin {
            Origin::Local(conn) => match self.clients.remove(&conn) {
                Some(client) => Some(client),
                None => {
                    self.unregister(&mut job);
                    return self.release_shards(&job);
                }
            },
            _ => None,
        };
        let mut blocked = None;
        match (&job.work, taken.as_deref_mut()) {
            (Work::Command { command: Command::Data(spec), args }, client) => {
                let (spec, args) = (*spec, args.slices());
                let mode = Mode { in_transaction: false, retried: job.retried };
                let output = match (client, &mut job.output) {
                    (Some(client), _) => &mut client.conn.output,
                    (None, Some(output)) => output,
                    (None, None) => unreachable!("a remote job has an output of its own"),
                };
                let block = self.execute(output, job.proto, spec, &args, &job.shards, mode);
                blocked = block.map(|b| (keys_of(spec, &args), owned(&args, &b), b));
            }
            (Work::Exec, Some(client)) => self.execute_queued(&mut client.conn, &job.shards),
            (Work::Watch(keys), Some(client)) => {
                let keys = keys.slices();
                self.watch_here(&mut client.conn, &keys);
            }
            (work, _) => unreachable!("{work:?} needs no shards"),
        }
        if std::mem::take(&mut self.scripts.wants_all) {
            if let Some(client) = taken {
                self.put_back(client);
            }
            self.release_shards(&job);
            job.shards = (0..self.db.map().shards()).collect();
            return self.start(job);
        }
        if let Some((keys, args, block)) = blocked {
            if let Some(client) = taken {
                self.put_back(client);
            }
            if let Work::Command { args: kept, .. } = &mut job.work {
                *kept = args;
            }
            let (shards, id, origin) = (job.shards.clone(), job.id, job.origin);
            self.block(job, keys, &block);
            self.release_shards_of(&shards, id);
            if let Origin::Local(conn) = origin {
                self.close_if_ended(conn);
            }
            return;
        }
        self.unregister(&mut job);
        self.release_shards(&job);
        match (job.origin, taken) {
            (Origin::Local(conn), Some(mut client)) => {
                if client.conn.parked == Some(Parked::Job(job.id)) {
                    client.conn.parked = None;
                    self.resumed.push(conn);
                }
                self.put_back(client);
            }
            _ => {
                job.state = State::Replying;
                self.replying.push(job.id);
                self.jobs.insert(job.id, job);
            }
        }
    }

    fn release_shards(&mut self, job: &Job) {
        self.release_shards_of(&job.shards, job.id);
    }

    /// Lets go of a job's shards: claims at home end, lent shards go back when they are quiet.
    pub(crate) fn release_shards_of(&mut self, shards: &[ShardId], id: JobId) {
        for &shard in shards {
            if home(shard, self.config.workers) != self.id {
                if self.shards[shard as usize].is_some() {
                    self.returning.push(shard);
                }
                continue;
            }
            let claims = &mut self.claims[shard as usize];
            if claims.front() == Some(&Claim::Local(id)) {
                claims.pop_front();
            }
        }
        for &shard in shards {
            self.pump(shard);
        }
    }

    /// Serves the first claim on a shard of this home, if that is possible now.
    pub(crate) fn pump(&mut self, shard: ShardId) {
        match self.claims[shard as usize].front() {
            None => {}
            Some(Claim::Local(job)) => self.runnable.push_back(*job),
            Some(Claim::Remote { worker, job, shards }) => {
                let (worker, job, shards) = (*worker, *job, shards.clone());
                self.lend(worker, job, &shards);
            }
        }
    }

    pub(crate) fn on_borrow(&mut self, worker: WorkerId, job: JobId, shards: &[ShardId]) {
        let claim = Claim::Remote { worker, job, shards: shards.to_vec() };
        for &shard in shards {
            self.claims[shard as usize].push_back(claim.clone());
        }
        self.lend(worker, job, shards);
    }

    /// Lends shards if the claim is the first on each and all are here and quiet.
    fn lend(&mut self, worker: WorkerId, job: JobId, shards: &[ShardId]) {
        let ready = |w: &Self, s: ShardId| {
            let first = matches!(
                w.claims[s as usize].front(),
                Some(Claim::Remote { worker: w, job: j, .. }) if (*w, *j) == (worker, job)
            );
            first && w.shards[s as usize].as_ref().is_some_and(|shard| shard.is_quiet())
        };
        if !shards.iter().all(|&s| ready(self, s)) {
            return;
        }
        let shards = shards.iter().map(|&s| self.take_shard(s)).collect();
        self.tell(worker, Message::Lend { job, shards });
    }

    pub(crate) fn on_lend(&mut self, id: JobId, shards: Vec<Travelling>) {
        for travelling in shards {
            self.put_shard(travelling);
        }
        let job = self.jobs.get_mut(&id).expect("a job that borrows stays until it has run");
        job.need.pop_front();
        job.claimed = false;
        self.runnable.push_back(id);
    }

    /// Sends home what was borrowed and is quiet.
    pub(crate) fn return_shards(&mut self) {
        if self.returning.is_empty() {
            return;
        }
        let mut quiet = BTreeMap::<WorkerId, Vec<Travelling>>::new();
        let mut later = Vec::new();
        for shard in std::mem::take(&mut self.returning) {
            if self.shards[shard as usize].as_ref().is_some_and(|s| s.is_quiet()) {
                let travelling = self.take_shard(shard);
                quiet.entry(home(shard, self.config.workers)).or_default().push(travelling);
            } else {
                later.push(shard);
            }
        }
        self.returning = later;
        for (worker, shards) in quiet {
            self.tell(worker, Message::Return { shards });
        }
    }

    pub(crate) fn on_return(&mut self, shards: Vec<Travelling>) {
        let ids: Vec<ShardId> = shards.iter().map(|t| t.shard.id).collect();
        for travelling in shards {
            let shard = travelling.shard.id;
            self.put_shard(travelling);
            self.claims[shard as usize].pop_front();
        }
        for (shard, key, worker, job) in std::mem::take(&mut self.releases) {
            self.release_waiter(shard, key, worker, job);
        }
        self.note_late_flushes();
        for shard in ids {
            self.flush_if_due(shard);
            self.pump(shard);
        }
    }

    /// The other worker that is home to all of `shards`, if there is one.
    pub(crate) fn one_other_home(&self, shards: &ShardList) -> Option<WorkerId> {
        let first = home(*shards.first()?, self.config.workers);
        let all = shards.iter().all(|&s| home(s, self.config.workers) == first);
        (all && first != self.id).then_some(first)
    }

    pub(crate) fn on_forward(&mut self, worker: WorkerId, forwarded: Forwarded) {
        let Forwarded { conn, slot, args, proto } = forwarded;
        let slices = args.slices();
        let Some(command @ Command::Data(spec)) = self.commands.get(slices[0]) else { return };
        let mut shards = ShardList::new();
        self.shards_of(spec, &slices, &mut shards);
        drop(slices);
        let origin = Origin::Remote { worker, conn, slot };
        let job = self.new_job(origin, proto, Work::Command { command, args }, &shards);
        if shards.iter().all(|&shard| self.is_free(shard)) {
            self.run(job);
        } else {
            self.start(job);
        }
    }

    /// A client of another worker left: its commands that still wait are dropped.
    pub(crate) fn on_gone(&mut self, from: WorkerId, gone: ConnId) {
        if self.in_cluster() {
            self.forget_client(from, gone);
        }
        let theirs: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| {
                matches!(job.origin, Origin::Remote { worker, conn, .. }
                    if (worker, conn) == (from, gone))
            })
            .map(|job| job.id)
            .collect();
        for job in theirs {
            self.cancel(job);
        }
    }
}
