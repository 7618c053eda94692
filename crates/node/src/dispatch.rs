//! From the words of a request to the command it names, and where that executes.

use crate::conn::{Conn, Multi, Parked, ReplyMode};
use crate::event::WorkerId;
use crate::job::{Args, Work};
use crate::message::{Forwarded, Message};
use crate::session::{CONTAINER, SessionSpec};
use crate::worker::Worker;
use quorate_base::ShardId;
use quorate_data::command::{KeyPositions, Keys, flag};
use quorate_data::{Error, Spec};
use quorate_resp::Proto;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::ControlFlow;

/// The reply to a command that a transaction cannot take any more.
const TRANSACTION_TOO_LONG: &[u8] = b"ERR The transaction is too long: split it into smaller ones";

/// The reply to commands that come too late.
const STOPPING: &str = "ERR The node is shutting down: connect again in a moment";

/// What a command may record, or have as arguments, that makes room on a full disk.
pub(crate) const RESERVE_COMMAND_BYTES_MAX: usize = 1 << 20;

/// The commands that make room on a full disk.
pub(crate) const MAKES_ROOM: &[&str] = &[
    "del",
    "unlink",
    "flushall",
    "flushdb",
    "getdel",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "hdel",
    "srem",
    "spop",
    "lpop",
    "rpop",
    "lmpop",
    "lrem",
    "ltrim",
    "zrem",
    "zpopmin",
    "zpopmax",
    "zmpop",
    "zremrangebyrank",
    "zremrangebyscore",
    "zremrangebylex",
    "xdel",
    "xtrim",
];

/// A command: of the data layer, or one about the connection or the server.
#[derive(Clone, Copy)]
pub(crate) enum Command {
    Data(&'static Spec),
    Session(&'static SessionSpec),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Data(spec) => spec.name,
            Self::Session(spec) => spec.name,
        }
    }

    pub(crate) fn arity(self) -> i32 {
        match self {
            Self::Data(spec) => spec.arity,
            Self::Session(spec) => spec.arity,
        }
    }

    pub(crate) fn flags(self) -> u32 {
        match self {
            Self::Data(spec) => spec.flags,
            Self::Session(spec) => spec.flags,
        }
    }

    #[inline]
    pub(crate) fn is(self, flags: u32) -> bool {
        self.flags() & flags == flags
    }

    /// Whether it changes data, or may.
    pub(crate) fn may_write(self) -> bool {
        self.flags() & flag::WRITES != 0
    }

    /// Whether it executes only where shards are at hand.
    fn needs_shards(self) -> bool {
        match self {
            Self::Data(_) => true,
            Self::Session(spec) => matches!(spec.name, "exec" | "watch"),
        }
    }

    #[inline]
    pub(crate) fn accepts(self, count: usize) -> bool {
        accepts(self.arity(), count)
    }
}

/// True if `count` arguments are as many as `arity` asks for.
#[inline]
pub(crate) fn accepts(arity: i32, count: usize) -> bool {
    match usize::try_from(arity) {
        Ok(exact) => count == exact,
        Err(_) => count >= arity.unsigned_abs() as usize,
    }
}

/// Every command by its name.
pub(crate) struct Commands {
    by_name: HashMap<&'static [u8], Entry, BuildHasherDefault<NameHasher>>,
}

#[derive(Clone, Copy)]
struct Entry {
    group: &'static str,
    command: Command,
}

/// The longest name of a command.
const NAME_BYTES_MAX: usize = 32;

impl Commands {
    pub(crate) fn new() -> Self {
        let mut by_name = HashMap::default();
        for (group, spec) in quorate_data::command::families() {
            let entry = Entry { group, command: Command::Data(spec) };
            by_name.insert(spec.name.as_bytes(), entry);
        }
        for spec in crate::script::COMMANDS {
            let entry = Entry { group: "scripting", command: Command::Data(spec) };
            by_name.insert(spec.name.as_bytes(), entry);
        }
        for (group, spec) in crate::session::families() {
            let entry = Entry { group, command: Command::Session(spec) };
            by_name.insert(spec.name.as_bytes(), entry);
        }
        Self { by_name }
    }

    #[inline]
    pub(crate) fn get(&self, name: &[u8]) -> Option<Command> {
        let mut lower = [0; NAME_BYTES_MAX];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.by_name.get(&*lower).map(|entry| entry.command)
    }

    /// All commands with their groups, in order of their names.
    pub(crate) fn all(&self) -> Vec<(&'static str, Command)> {
        let mut all: Vec<_> = self.by_name.values().map(|e| (e.group, e.command)).collect();
        all.sort_unstable_by_key(|(_, command)| command.name());
        all
    }
}

/// FNV-1a: short names, no attacker, since the table never grows.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

/// The shards of a command.
pub(crate) type ShardList = SmallVec<[ShardId; 4]>;

impl Worker {
    /// One request of a client. Breaks when the next one must wait.
    #[inline]
    pub(crate) fn on_request(&mut self, conn: &mut Conn, args: &[&[u8]]) -> ControlFlow<()> {
        if conn.reply_mode == ReplyMode::On {
            return self.handle(conn, args);
        }
        conn.output.mute();
        let flow = self.handle(conn, args);
        // The reply of a command that waits is dropped when it goes on.
        if matches!(conn.parked, None | Some(Parked::Closing)) {
            self.silence(conn);
        }
        flow
    }

    #[inline]
    fn handle(&mut self, conn: &mut Conn, args: &[&[u8]]) -> ControlFlow<()> {
        conn.commands += 1;
        self.stats.commands += 1;
        let command = match conn.last {
            Some(last) if args[0].eq_ignore_ascii_case(last.name().as_bytes()) => last,
            _ => match self.commands.get(args[0]) {
                Some(command) => command,
                None => {
                    conn.last = None;
                    self.refuse(conn, &unknown_command(args));
                    return ControlFlow::Continue(());
                }
            },
        };
        conn.last = Some(command);
        if !command.accepts(args.len()) {
            self.refuse(conn, Error::WrongArity(command.name().into()).to_string().as_bytes());
            return ControlFlow::Continue(());
        }
        if command.is(CONTAINER)
            && args.len() > 1
            && let Err(error) = crate::session::find_sub(command.name(), args)
        {
            self.refuse(conn, error.as_bytes());
            return ControlFlow::Continue(());
        }
        if !self.skips_checks(conn) {
            if let Err(error) = self.check(conn, command, args) {
                self.refuse(conn, error.as_bytes());
                return ControlFlow::Continue(());
            }
            if self.is_paused_for(conn, command) || self.is_throttled_for(conn, command) {
                self.hold(conn, args);
                return ControlFlow::Break(());
            }
        }
        if conn.multi.is_some()
            && let Command::Data(spec) = command
            && let Err(error) = spec.check_subcommand(args)
        {
            self.refuse(conn, error.to_string().as_bytes());
            return ControlFlow::Continue(());
        }
        if let Some(multi) = &mut conn.multi
            && !command.is(crate::session::UNQUEUED)
        {
            let args = Args::new(args);
            multi.bytes += args.memory_bytes();
            if multi.bytes > self.config.query_buffer_bytes_max {
                multi.queued.clear();
                self.refuse(conn, TRANSACTION_TOO_LONG);
            } else {
                multi.queued.push((command, args));
                conn.reply().simple("QUEUED");
            }
            return ControlFlow::Continue(());
        }
        match command {
            Command::Data(spec) => self.route(conn, spec, args),
            Command::Session(spec) => (spec.run)(self, conn, args),
        }
        // Whom this command woke goes first. Their next commands wait for the end of this pipeline:
        // clients that wake each other in turn would nest without a bound.
        while let Some(job) = self.runnable.pop_front() {
            self.advance(job);
        }
        if conn.parked.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Replies with an error to a command that did not execute; it spoils a transaction, or ends
    /// it if it was to execute it.
    fn refuse(&mut self, conn: &mut Conn, text: &[u8]) {
        self.stats.errors += 1;
        if conn.last.is_some_and(|command| command.name() == "exec") {
            conn.multi = None;
            self.unwatch(conn);
            let why = text.strip_prefix(b"ERR ").unwrap_or(text);
            let text = [b"EXECABORT Transaction discarded because of: ", why].concat();
            return conn.reply().error(&text);
        }
        conn.reply().error(text);
        if let Some(multi) = &mut conn.multi {
            multi.aborted = true;
        }
    }

    /// True in the usual case that nothing about the connection or the node forbids commands.
    #[inline]
    fn skips_checks(&self, conn: &Conn) -> bool {
        !self.disk_full
            && !self.throttled
            && !self.stopping
            && self.pause.is_none()
            && conn.multi.is_none()
            && conn.subscription_count() == 0
    }

    fn check(&self, conn: &Conn, command: Command, args: &[&[u8]]) -> Result<(), String> {
        let subscriber = conn.proto == Proto::Resp2 && conn.subscription_count() > 0;
        if subscriber && !command.is(crate::session::FOR_SUBSCRIBERS) {
            let mut name = command.name().to_owned();
            if command.is(CONTAINER) && args.len() > 1 {
                name += &format!("|{}", String::from_utf8_lossy(args[1]).to_lowercase());
            }
            return Err(format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT \
                 / RESET are allowed in this context"
            ));
        }
        if conn.multi.is_some() && command.is(flag::NO_MULTI) {
            return Err("ERR Command not allowed inside a transaction".into());
        }
        if command.is(flag::WRITE) && !self.in_cluster() {
            self.check_writable(command, args.iter().map(|arg| arg.len()).sum())?;
        }
        if self.stopping && command.needs_shards() {
            return Err(STOPPING.into());
        }
        Ok(())
    }

    /// Refuses writes that could not be made durable. On a full disk, commands whose arguments have
    /// no more bytes than a part of the reserve may make room.
    pub(crate) fn check_writable(&self, command: Command, bytes: usize) -> Result<(), String> {
        let frees = MAKES_ROOM.contains(&command.name()) && bytes <= RESERVE_COMMAND_BYTES_MAX;
        if self.disk_full && (!frees || self.reserve_used || self.is_behind()) {
            return Err("MISCONF The disk is full: writes are refused until there is room in the \
                        data directory, reads go on"
                .into());
        }
        if self.stopping { Err(STOPPING.into()) } else { Ok(()) }
    }

    /// True if this command waits until the tables have caught up with the journal.
    fn is_throttled_for(&self, conn: &Conn, command: Command) -> bool {
        let mut queued = conn.multi.iter().flat_map(|multi| &multi.queued);
        self.throttled
            && !self.disk_full
            && (conn.multi.is_none() && command.may_write()
                || command.name() == "exec" && queued.any(|(c, _)| c.may_write()))
    }

    /// Executes a data command, here and now if its shards are at hand.
    #[inline]
    fn route(&mut self, conn: &mut Conn, spec: &'static Spec, args: &[&[u8]]) {
        if spec.flags & flag::SCRIPT != 0 && self.lacks_script(spec, args) {
            return self.execute_now(conn, spec, args, &ShardList::new());
        }
        if self.in_cluster() {
            return self.route_replicated(conn, spec, args);
        }
        let mut shards = ShardList::new();
        self.shards_of(spec, args, &mut shards);
        if shards.iter().all(|&shard| self.is_free(shard)) {
            self.execute_now(conn, spec, args, &shards);
            return;
        }
        let command = Command::Data(spec);
        if let Some(worker) = self.one_other_home(&shards) {
            self.forward(conn, worker, command, args);
        } else {
            let work = Work::Command { command, args: Args::new(args) };
            self.park(conn, work, &shards);
        }
    }

    /// Appends the shards that hold the command's keys, ascending, each once.
    #[inline]
    pub(crate) fn shards_of(&mut self, spec: &Spec, args: &[&[u8]], out: &mut ShardList) {
        if let Keys::Range { first: 1, last: 1, .. } = spec.keys {
            out.push(self.db.route(args[1]).shard);
            return;
        }
        let mut positions = KeyPositions::new();
        let wide = spec.flags & flag::SCRIPT != 0 && self.needs_all_shards(spec, args);
        if !wide && spec.key_positions(args, &mut positions) {
            out.extend(
                positions
                    .iter()
                    .filter_map(|&at| args.get(at))
                    .map(|key| self.db.map().place(key).shard),
            );
            out.sort_unstable();
            out.dedup();
        } else {
            out.clear();
            out.extend(0..self.db.map().shards());
        }
    }

    fn forward(&mut self, conn: &mut Conn, worker: WorkerId, command: Command, args: &[&[u8]]) {
        let script = match command {
            Command::Data(spec) => self.travelling_script(spec, args),
            Command::Session(_) => None,
        };
        let args = script.unwrap_or_else(|| Args::new(args));
        let slot = conn.output.reserve(args.memory_bytes());
        if !conn.forwarded.contains(&worker) {
            conn.forwarded.push(worker);
        }
        if command.is(flag::BLOCKING) {
            conn.parked = Some(Parked::Slot(slot));
        }
        let forwarded = Forwarded { conn: conn.id, slot, args, proto: conn.proto };
        self.tell(worker, Message::Forward(forwarded));
    }

    /// Begins a transaction.
    pub(crate) fn begin_multi(&mut self, conn: &mut Conn) {
        if conn.multi.is_some() {
            conn.error("ERR MULTI calls can not be nested");
            return;
        }
        conn.multi = Some(Multi::default());
        conn.reply().ok();
    }
}

/// Redis' error for a name that is no command, with the beginning of the arguments.
fn unknown_command(args: &[&[u8]]) -> Vec<u8> {
    const SHOWN_BYTES_MAX: usize = 128;
    let shown = |text: &[u8], max: usize| text[..text.len().min(max)].to_vec();
    let mut beginning = Vec::new();
    for arg in &args[1..] {
        if beginning.len() >= SHOWN_BYTES_MAX {
            break;
        }
        beginning.push(b'\'');
        beginning.extend(shown(arg, SHOWN_BYTES_MAX - beginning.len()));
        beginning.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(shown(args[0], SHOWN_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend(beginning);
    text
}
