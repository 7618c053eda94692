//! A client connection.

use crate::dispatch::Command;
use crate::event::{ConnId, WorkerId};
use crate::job::{Args, JobId};
use crate::output::{Output, Owner};
use crate::timed::Timed;
use quorate_base::Millis;
use quorate_resp::{Decoder, Proto, Reply};
use std::collections::BTreeSet;

/// What a client has sent but not yet had executed is kept up to this size; beyond it, reading
/// pauses.
pub(crate) const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Output that a client does not take, or that waits for the journal, is kept up to this size;
/// beyond it, reading pauses.
pub(crate) const UNSENT_BYTES_MAX: usize = 8 << 20;

/// Requests under way to other workers are as many bytes at most; beyond it, reading pauses.
pub(crate) const OWED_BYTES_MAX: usize = 4 << 20;

/// A subscriber with more unsent output than this is closed, as with Redis'
/// `client-output-buffer-limit pubsub`.
pub(crate) const SUBSCRIBER_BYTES_MAX: usize = 32 << 20;

/// A client: what decodes its requests, and its state.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) decoder: Decoder,
    pub(crate) conn: Conn,
}

/// The state of a client connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) peer: String,
    pub(crate) local: String,
    pub(crate) proto: Proto,
    pub(crate) output: Output,
    /// It is in the worker's list of connections that may have something to send.
    pub(crate) active: bool,
    /// Why its next command may not execute yet.
    pub(crate) parked: Option<Parked>,
    /// Bytes received while parked.
    pub(crate) backlog: Vec<u8>,
    /// Nothing more will come: it is closed once all of it is answered.
    pub(crate) ended: bool,
    /// The outside was told not to read.
    pub(crate) paused: bool,
    /// Bytes sent that the client has not taken.
    pub(crate) unsent: usize,
    pub(crate) multi: Option<Multi>,
    /// A queued transaction of it is being executed.
    pub(crate) in_exec: bool,
    pub(crate) watched: Vec<Watched>,
    /// Keys whose tokens are under way.
    pub(crate) watching: Vec<Vec<u8>>,
    /// Workers that were sent commands of it.
    pub(crate) forwarded: Vec<WorkerId>,
    /// What it executed last; most clients repeat themselves.
    pub(crate) last: Option<Command>,
    /// The last command with subcommands and which one it was.
    pub(crate) last_sub: Option<(&'static str, &'static str)>,
    /// A command that waits for the end of `CLIENT PAUSE`.
    pub(crate) held: Option<Args>,
    pub(crate) subscriptions: [BTreeSet<Vec<u8>>; 3],
    pub(crate) name: Vec<u8>,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_version: Vec<u8>,
    pub(crate) created: Millis,
    pub(crate) used: Millis,
    pub(crate) commands: u64,
    pub(crate) timed: Timed,
    pub(crate) reply_mode: ReplyMode,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
}

/// Why a connection does not execute its next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// Until this job is done.
    Job(JobId),
    /// Until the reply of another worker has come.
    Slot(u64),
    /// Until `CLIENT PAUSE` ends.
    Paused,
    /// For ever: it is being closed.
    Closing,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not for the next command.
    SkipNext,
    /// Not for this command.
    Skip,
}

/// A transaction being queued.
#[derive(Debug, Default)]
pub(crate) struct Multi {
    pub(crate) queued: Vec<(Command, Args)>,
    /// What was asked to be queued.
    pub(crate) bytes: usize,
    /// A command could not be queued, so EXEC will refuse.
    pub(crate) aborted: bool,
}

/// A watched key.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) key: Vec<u8>,
    pub(crate) token: u64,
    /// It existed when it was watched.
    pub(crate) live: bool,
}

impl Conn {
    pub(crate) fn new(id: ConnId, peer: String, local: String, now: Millis) -> Self {
        Self {
            id,
            peer,
            local,
            proto: Proto::Resp2,
            output: Output::new(Owner::Conn(id)),
            active: false,
            parked: None,
            backlog: Vec::new(),
            ended: false,
            paused: false,
            unsent: 0,
            multi: None,
            in_exec: false,
            watched: Vec::new(),
            watching: Vec::new(),
            forwarded: Vec::new(),
            last: None,
            last_sub: None,
            held: None,
            subscriptions: Default::default(),
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            created: now,
            used: now,
            commands: 0,
            timed: Timed::default(),
            reply_mode: ReplyMode::On,
            no_evict: false,
            no_touch: false,
        }
    }

    /// Where to write a reply that depends on nothing.
    #[inline]
    pub(crate) fn reply(&mut self) -> Reply<'_> {
        Reply::new(self.output.buffer(), self.proto)
    }

    /// Replies with an error.
    pub(crate) fn error(&mut self, text: &str) {
        self.reply().error(text.as_bytes());
    }

    /// Notes whether the outside should read more from this client.
    pub(crate) fn update_paused(&mut self) {
        self.paused = self.backlog.len() > BACKLOG_BYTES_MAX
            || self.unsent.max(self.output.len()) > UNSENT_BYTES_MAX
            || self.output.owed_bytes() > OWED_BYTES_MAX;
    }

    /// How many channels, patterns and sharded channels it is subscribed to.
    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.iter().map(BTreeSet::len).sum()
    }
}
