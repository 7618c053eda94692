//! CLIENT.

use super::connection::{BAD_NAME, is_printable};
use super::{CONTAINER, SessionSpec, Sub, run_sub, wrong_subcommand};
use crate::conn::{Conn, Parked, ReplyMode};
use crate::dispatch::Command;
use crate::event::Effect;
use crate::job::{Args, Origin, State};
use crate::message::{ClientFilter, Question};
use crate::peer::message::Cancel;
use crate::worker::{Pause, Worker};
use quorate_base::Millis;
use quorate_data::command::flag;
use quorate_data::parse::{integer, is_word};
use quorate_resp::Proto;
use std::fmt::Write as _;

#[cfg(test)]
mod tests;

/// The command of this file.
pub(crate) const COMMANDS: &[SessionSpec] = &[SessionSpec {
    name: "client",
    arity: -2,
    flags: CONTAINER,
    run: |worker, conn, args| run_sub(worker, conn, "client", args),
}];

const ANY: u32 = flag::NOSCRIPT | flag::LOADING | flag::STALE;
const ADMIN: u32 = ANY | flag::ADMIN;

pub(super) const SUBS: &[Sub] = &[
    Sub { name: "caching", arity: 3, flags: ANY, run: caching },
    Sub { name: "getname", arity: 2, flags: ANY, run: getname },
    Sub { name: "getredir", arity: 2, flags: ANY, run: |_, conn, _| conn.reply().int(-1) },
    Sub { name: "help", arity: 2, flags: flag::LOADING | flag::STALE, run: help },
    Sub {
        name: "id",
        arity: 2,
        flags: ANY,
        run: |_, conn, _| {
            let id = conn.id as i64;
            conn.reply().int(id);
        },
    },
    Sub { name: "info", arity: 2, flags: ANY, run: info },
    Sub { name: "kill", arity: -3, flags: ADMIN, run: kill },
    Sub { name: "list", arity: -2, flags: ADMIN, run: list },
    Sub {
        name: "no-evict",
        arity: 3,
        flags: ADMIN,
        run: |_, conn, args| switch(conn, args, |c| &mut c.no_evict),
    },
    Sub {
        name: "no-touch",
        arity: 3,
        flags: ANY,
        run: |_, conn, args| switch(conn, args, |c| &mut c.no_touch),
    },
    Sub { name: "pause", arity: -3, flags: ADMIN, run: pause },
    Sub { name: "reply", arity: 3, flags: ANY, run: reply },
    Sub { name: "setinfo", arity: 4, flags: ANY, run: setinfo },
    Sub { name: "setname", arity: 3, flags: ANY, run: setname },
    Sub { name: "tracking", arity: -3, flags: ANY, run: tracking },
    Sub { name: "trackinginfo", arity: 2, flags: ANY, run: tracking_info },
    Sub { name: "unblock", arity: -3, flags: ADMIN, run: unblock },
    Sub {
        name: "unpause",
        arity: 2,
        flags: ADMIN,
        run: |worker, conn, _| worker.ask(conn, &Question::Unpause),
    },
];

const SYNTAX: &str = "ERR syntax error";

fn getname(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let name = std::mem::take(&mut conn.name);
    if name.is_empty() {
        conn.reply().null();
    } else {
        conn.reply().bulk(&name);
    }
    conn.name = name;
}

fn setname(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if is_printable(args[2]) {
        conn.name = args[2].to_vec();
        conn.reply().ok();
    } else {
        conn.error(BAD_NAME);
    }
}

fn setinfo(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let (name, field) = match args[2] {
        option if is_word(option, "lib-name") => ("lib-name", &mut conn.lib_name),
        option if is_word(option, "lib-ver") => ("lib-ver", &mut conn.lib_version),
        option => {
            let option = String::from_utf8_lossy(option).into_owned();
            return conn.error(&format!("ERR Unrecognized option '{option}'"));
        }
    };
    if is_printable(args[3]) {
        *field = args[3].to_vec();
        conn.reply().ok();
    } else {
        let text = "cannot contain spaces, newlines or special characters.";
        conn.error(&format!("ERR {name} {text}"));
    }
}

fn switch(conn: &mut Conn, args: &[&[u8]], field: fn(&mut Conn) -> &mut bool) {
    let on = match args[2] {
        word if is_word(word, "on") => true,
        word if is_word(word, "off") => false,
        _ => return conn.error(SYNTAX),
    };
    *field(conn) = on;
    conn.reply().ok();
}

fn reply(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match args[2] {
        word if is_word(word, "on") => {
            conn.reply_mode = ReplyMode::On;
            conn.reply().ok();
        }
        word if is_word(word, "off") => conn.reply_mode = ReplyMode::Off,
        word if is_word(word, "skip") => {
            conn.reply_mode = match conn.reply_mode {
                ReplyMode::Off => ReplyMode::Off,
                ReplyMode::On => ReplyMode::Skip,
                // This command is itself being skipped.
                ReplyMode::Skip | ReplyMode::SkipNext => ReplyMode::SkipNext,
            };
        }
        _ => conn.error(SYNTAX),
    }
}

// --- tracking --------------------------------------------------------------------------------

fn tracking(_: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    match args[2] {
        word if is_word(word, "on") => {
            conn.error("ERR Client side caching is not supported by this server yet");
        }
        word if is_word(word, "off") => conn.reply().ok(),
        _ => conn.error(SYNTAX),
    }
}

fn caching(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    conn.error(
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or \
         OPTOUT mode enabled",
    );
}

fn tracking_info(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let mut reply = conn.reply();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.int(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
}

// --- lists -----------------------------------------------------------------------------------

fn info(worker: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    let line = worker.client_line(conn);
    conn.reply().verbatim("txt", &format!("{line}\n"));
}

fn list(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let mut filter = ClientFilter::default();
    match &args[2..] {
        [] => {}
        [option, name] if is_word(option, "type") => match client_type(name) {
            Ok(subscriber) => filter.subscriber = Some(subscriber),
            Err(text) => return conn.error(&text),
        },
        [option, first, rest @ ..] if is_word(option, "id") => {
            let ids = std::iter::once(first).chain(rest);
            let ids: Option<Vec<_>> = ids.map(|id| integer(id).map(|id| id as u64)).collect();
            if ids.is_none() {
                return conn.error("ERR Invalid client ID");
            }
            filter.ids = ids;
        }
        _ => return conn.error(SYNTAX),
    }
    worker.ask(conn, &Question::ClientList(filter));
}

/// Subscribers or not; `None` is a type of which there is no client.
fn client_type(name: &[u8]) -> Result<Option<bool>, String> {
    match name {
        name if is_word(name, "normal") => Ok(Some(false)),
        name if is_word(name, "pubsub") => Ok(Some(true)),
        name if ["master", "replica", "slave"].iter().any(|n| is_word(name, n)) => Ok(None),
        name => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))),
    }
}

fn client_id(text: &[u8]) -> Option<u64> {
    integer(text).and_then(|id| u64::try_from(id).ok()).filter(|&id| id > 0)
}

impl ClientFilter {
    /// True if this client is meant; `asks` if it is the one that asks.
    pub(super) fn fits(&self, conn: &Conn, asks: bool) -> bool {
        let subscriber = conn.subscription_count() > 0;
        self.ids.as_ref().is_none_or(|ids| ids.contains(&conn.id))
            && self.subscriber.is_none_or(|wanted| wanted == Some(subscriber))
            && self.peer.as_ref().is_none_or(|peer| peer == conn.peer.as_bytes())
            && self.local.as_ref().is_none_or(|local| local == conn.local.as_bytes())
            && !(self.skip_asker && asks)
    }
}

impl Worker {
    /// A client's line of CLIENT LIST. What this server does not measure is 0.
    pub(super) fn client_line(&self, conn: &Conn) -> String {
        let now = self.now.mono;
        let [sub, psub, ssub] = &conn.subscriptions;
        let multi_bytes: usize =
            conn.multi.iter().flat_map(|m| &m.queued).map(|(_, args)| args.len_bytes()).sum();
        let output = conn.output.len() + conn.unsent;
        let mut line = String::new();
        let shown = String::from_utf8_lossy;
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db=0 sub={} psub={} \
             ssub={} multi={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem={multi_bytes} rbs=0 rbp=0 \
             obl={} oll=0 omem={} tot-mem={} events={} cmd={} user=default redir=-1 resp={} \
             lib-name={} lib-ver={}",
            conn.id,
            conn.peer,
            conn.local,
            shown(&conn.name),
            now.saturating_sub(conn.created) / 1000,
            now.saturating_sub(conn.used) / 1000,
            self.client_flags(conn),
            sub.len(),
            psub.len(),
            ssub.len(),
            conn.multi.as_ref().map_or(-1, |m| m.queued.len() as i64),
            conn.backlog.len(),
            conn.output.len(),
            conn.unsent,
            conn.backlog.len() + multi_bytes + output,
            if output > 0 { "rw" } else { "r" },
            last_command(conn),
            if conn.proto == Proto::Resp3 { 3 } else { 2 },
            shown(&conn.lib_name),
            shown(&conn.lib_version),
        );
        line
    }

    fn client_flags(&self, conn: &Conn) -> String {
        let flags = [
            ('P', conn.subscription_count() > 0),
            ('x', conn.multi.is_some()),
            ('b', self.is_blocked(conn)),
            ('c', conn.parked == Some(Parked::Closing)),
            ('e', conn.no_evict),
            ('T', conn.no_touch),
        ];
        let set: String = flags.iter().filter(|(_, on)| *on).map(|(letter, _)| letter).collect();
        if set.is_empty() { "N".into() } else { set }
    }

    fn is_blocked(&self, conn: &Conn) -> bool {
        match conn.parked {
            Some(Parked::Job(job)) => {
                self.jobs.get(&job).is_some_and(|job| job.state == State::Blocked)
            }
            Some(Parked::Slot(_) | Parked::Paused) => true,
            Some(Parked::Closing) | None => false,
        }
    }
}

fn last_command(conn: &Conn) -> String {
    match (conn.last, conn.last_sub) {
        (None, _) => "NULL".into(),
        (Some(last), Some((name, sub))) if last.name() == name => format!("{name}|{sub}"),
        (Some(last), _) => last.name().into(),
    }
}

// --- KILL ------------------------------------------------------------------------------------

fn kill(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    if let [_, _, address] = args {
        let filter = ClientFilter { peer: Some(address.to_vec()), ..ClientFilter::default() };
        return worker.ask(conn, &Question::ClientKill(filter, true));
    }
    let mut filter = ClientFilter { skip_asker: true, ..ClientFilter::default() };
    for pair in args[2..].chunks(2) {
        if let Err(text) = add_kill_filter(&mut filter, pair) {
            return conn.error(&text);
        }
    }
    worker.ask(conn, &Question::ClientKill(filter, false));
}

fn add_kill_filter(filter: &mut ClientFilter, pair: &[&[u8]]) -> Result<(), String> {
    let [option, value] = pair else { return Err(SYNTAX.into()) };
    match *option {
        option if is_word(option, "id") => match client_id(value) {
            Some(id) => filter.ids = Some(vec![id]),
            None => return Err("ERR client-id should be greater than 0".into()),
        },
        option if is_word(option, "type") => filter.subscriber = Some(client_type(value)?),
        option if is_word(option, "addr") => filter.peer = Some(value.to_vec()),
        option if is_word(option, "laddr") => filter.local = Some(value.to_vec()),
        option if is_word(option, "user") => {
            if *value != b"default" {
                let user = String::from_utf8_lossy(value);
                return Err(format!("ERR No such user '{user}'"));
            }
        }
        option if is_word(option, "skipme") => {
            filter.skip_asker = match *value {
                word if is_word(word, "yes") => true,
                word if is_word(word, "no") => false,
                _ => return Err(SYNTAX.into()),
            };
        }
        _ => return Err(SYNTAX.into()),
    }
    Ok(())
}

impl Worker {
    /// Closes this worker's clients that are meant; how many they are, the asker included, which
    /// is closed only after its reply.
    pub(super) fn kill_clients(&mut self, filter: &ClientFilter, asker: Option<&Conn>) -> u64 {
        let mut ids: Vec<_> = self
            .clients
            .values()
            .filter(|c| filter.fits(&c.conn, false))
            .map(|c| c.conn.id)
            .collect();
        ids.sort_unstable();
        for &id in &ids {
            self.effects.push(Effect::Close { conn: id });
            self.on_disconnected(id);
        }
        ids.len() as u64 + u64::from(asker.is_some_and(|conn| filter.fits(conn, true)))
    }
}

// --- UNBLOCK ---------------------------------------------------------------------------------

fn unblock(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let with_error = match &args[3..] {
        [] => false,
        [word] if is_word(word, "timeout") => false,
        [word] if is_word(word, "error") => true,
        [_] => return conn.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
        _ => return conn.error(&wrong_subcommand("CLIENT", args[1])),
    };
    match integer(args[2]) {
        Some(id) => worker.ask(conn, &Question::Unblock(id.max(0) as u64, with_error)),
        None => conn.error("ERR value is not an integer or out of range"),
    }
}

impl Worker {
    /// Ends the wait of a client's command that waits at this worker; how many these are.
    pub(super) fn unblock_client(&mut self, id: u64, with_error: bool) -> u64 {
        let is_its = |origin: &Origin| match origin {
            Origin::Local(conn) | Origin::Slot { conn, .. } | Origin::Remote { conn, .. } => {
                *conn == id
            }
            Origin::Gather { .. } | Origin::Asked(_) => false,
        };
        if let Some((shard, ticket)) = self.blocked_request(is_its) {
            let how = if with_error { Cancel::Error } else { Cancel::TimeOut };
            self.cancel_request(shard, ticket, how);
            return 1;
        }
        let mut jobs = self.jobs.values();
        let blocked = jobs.find(|job| is_its(&job.origin) && job.state == State::Blocked);
        let Some(job) = blocked.map(|job| job.id) else { return 0 };
        let error = with_error.then_some(super::UNBLOCKED);
        self.give_up(job, error);
        1
    }
}

// --- PAUSE -----------------------------------------------------------------------------------

fn pause(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let all = match &args[3..] {
        [] => true,
        [word] if is_word(word, "all") => true,
        [word] if is_word(word, "write") => false,
        [_] => return conn.error("ERR CLIENT PAUSE mode must be WRITE or ALL"),
        _ => return conn.error(&wrong_subcommand("CLIENT", args[1])),
    };
    match integer(args[2]) {
        None => conn.error("ERR timeout is not an integer or out of range"),
        Some(ms) if ms < 0 => conn.error("ERR timeout is negative"),
        Some(ms) => worker.ask(conn, &Question::Pause(ms as u64, all)),
    }
}

impl Worker {
    /// Begins a pause, or makes a running one longer and stricter.
    pub(super) fn begin_pause(&mut self, ms: Millis, all: bool) {
        let until = self.now.mono.saturating_add(ms);
        let running = self.pause.unwrap_or(Pause { until, all });
        self.pause = Some(Pause { until: until.max(running.until), all: all || running.all });
    }

    /// Lets the clients go on that waited for the end of the pause.
    pub(crate) fn end_pause(&mut self) {
        self.pause = None;
        // `resumed` is taken from its end.
        for id in std::mem::take(&mut self.held).into_iter().rev() {
            if let Some(client) = self.clients.get_mut(&id)
                && client.conn.parked == Some(Parked::Paused)
            {
                client.conn.parked = None;
                self.resumed.push(id);
            }
        }
    }

    /// True if a pause keeps this client from executing this command now.
    pub(crate) fn is_paused_for(&self, conn: &Conn, command: Command) -> bool {
        let Some(pause) = self.pause else { return false };
        let queued = conn.multi.iter().flat_map(|m| &m.queued);
        pause.all
            || may_write(command)
            || command.name() == "exec" && queued.into_iter().any(|(c, _)| may_write(*c))
    }

    /// Lets a client wait for the end of the pause before it executes this command.
    pub(crate) fn hold(&mut self, conn: &mut Conn, args: &[&[u8]]) {
        conn.held = Some(Args::new(args));
        conn.parked = Some(Parked::Paused);
        self.held.push(conn.id);
    }
}

/// Publishing counts too: what is published during a failover must not be lost.
fn may_write(command: Command) -> bool {
    command.may_write() || matches!(command.name(), "publish" | "spublish" | "pfcount")
}

fn help(_: &mut Worker, conn: &mut Conn, _: &[&[u8]]) {
    super::help(
        &mut conn.reply(),
        "CLIENT",
        &[
            ("CACHING (YES|NO)", "Track, or not, the keys of the next command."),
            ("GETNAME", "Show the name of this connection."),
            ("GETREDIR", "Show the client that gets the invalidation messages."),
            ("ID", "Show the id of this connection."),
            ("INFO", "Describe this connection in a line."),
            ("KILL <ip:port>", "Close the connection from this address."),
            (
                "KILL <option> <value> [<option> <value> ...]",
                "Close the connections that fit every option: ADDR, LADDR, TYPE, USER, ID; \
                 SKIPME (yes|no) says whether this one stays.",
            ),
            (
                "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <id> [<id> ...]]",
                "Describe the connections, each in a line.",
            ),
            ("NO-EVICT (ON|OFF)", "Keep this connection, or not, when memory is short."),
            ("NO-TOUCH (ON|OFF)", "Leave the last use of keys as it is, or not."),
            ("PAUSE <timeout> [WRITE|ALL]", "Let commands wait for so many milliseconds."),
            ("REPLY (ON|OFF|SKIP)", "Choose whether commands are replied to."),
            ("SETINFO <option> <value>", "Name the client library: LIB-NAME, LIB-VER."),
            ("SETNAME <name>", "Name this connection."),
            ("TRACKING (ON|OFF) [options ...]", "Have changes of used keys told, or not."),
            ("TRACKINGINFO", "Show how tracking is set."),
            ("UNBLOCK <id> [TIMEOUT|ERROR]", "End the wait of a blocked client."),
            ("UNPAUSE", "End a pause."),
        ],
    );
}
