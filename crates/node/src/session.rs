//! Commands about the connection and the server, which touch no key.

use crate::conn::{Conn, ReplyMode};
use crate::worker::Worker;
use quorate_data::parse::is_word;
use quorate_resp::Reply;

mod admin;
mod answers;
mod catalog;
mod client;
mod config;
pub(crate) mod connection;
mod docs;
pub(crate) mod info;
mod quorate;
mod server;
mod status;

/// The version of Redis whose commands and replies these are, for clients that look.
pub(crate) const REDIS_VERSION: &str = "7.2.5";

/// The error of a client whose wait another one ended.
pub(crate) const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// Executes a session command: writes its reply to `conn`, or parks it.
pub(crate) type Run = fn(&mut Worker, &mut Conn, &[&[u8]]);

/// Executes at once although a transaction is being queued.
pub(crate) const UNQUEUED: u32 = 1 << 20;

/// Allowed for a RESP2 client that has subscriptions.
pub(crate) const FOR_SUBSCRIBERS: u32 = 1 << 21;

/// Its first argument names a subcommand, see [`subs`].
pub(crate) const CONTAINER: u32 = 1 << 22;

/// Not while data is being loaded in the background.
pub(crate) const NO_ASYNC_LOADING: u32 = 1 << 23;

/// Allowed while a script keeps the server busy.
pub(crate) const ALLOW_BUSY: u32 = 1 << 24;

/// Not in the slow log.
pub(crate) const SKIP_SLOWLOG: u32 = 1 << 25;

/// One session command.
pub(crate) struct SessionSpec {
    pub(crate) name: &'static str,
    pub(crate) arity: i32,
    pub(crate) flags: u32,
    pub(crate) run: Run,
}

/// Every session command with its group.
pub(crate) fn families() -> impl Iterator<Item = (&'static str, &'static SessionSpec)> {
    const FAMILIES: &[(&str, &[SessionSpec])] = &[
        ("connection", connection::COMMANDS),
        ("connection", client::COMMANDS),
        ("server", server::COMMANDS),
        ("server", config::COMMANDS),
        ("server", catalog::COMMANDS),
        ("server", admin::COMMANDS),
        ("generic", server::GENERIC),
        ("cluster", admin::CLUSTER_COMMANDS),
        ("server", quorate::COMMANDS),
        ("transactions", crate::transaction::COMMANDS),
        ("pubsub", crate::pubsub::COMMANDS),
        ("scripting", crate::script::SESSION_COMMANDS),
    ];
    FAMILIES.iter().flat_map(|(group, specs)| specs.iter().map(move |spec| (*group, spec)))
}

/// The reply of a HELP subcommand, laid out as Redis does.
pub(crate) fn help(reply: &mut Reply<'_>, command: &str, lines: &[(&str, &str)]) {
    reply.array(2 + lines.len() * 2 + 1);
    reply.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for (syntax, text) in lines {
        reply.simple(syntax);
        reply.simple(&format!("    {text}"));
    }
    reply.simple("HELP");
    reply.simple("    Print this help.");
}

/// Redis' error for a subcommand that does not exist.
pub(crate) fn unknown_subcommand(command: &str, sub: &[u8]) -> String {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    format!("ERR unknown subcommand '{sub}'. Try {command} HELP.")
}

/// Redis' error for a subcommand that takes fewer arguments.
pub(crate) fn wrong_subcommand(command: &str, sub: &[u8]) -> String {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    format!("ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {command} HELP.")
}

impl Worker {
    /// Drops the reply of a command that is done if its client does not want it (`CLIENT REPLY`).
    pub(crate) fn silence(&mut self, conn: &mut Conn) {
        let next = match conn.reply_mode {
            ReplyMode::SkipNext => ReplyMode::Skip,
            ReplyMode::Skip => ReplyMode::On,
            mode => mode,
        };
        if conn.output.is_muted() {
            // Confirmations of subscriptions are messages, not replies.
            let confirmed = conn.last.is_some_and(|c| c.name().ends_with("subscribe"));
            conn.output.unmute(confirmed || conn.reply_mode == ReplyMode::On);
        }
        conn.reply_mode = next;
    }
}

/// A subcommand of a command that has [`CONTAINER`].
pub(crate) struct Sub {
    pub(crate) name: &'static str,
    /// Counts the command and the subcommand.
    pub(crate) arity: i32,
    pub(crate) flags: u32,
    pub(crate) run: Run,
}

/// The subcommands of a command that has [`CONTAINER`].
pub(crate) fn subs(command: &str) -> &'static [Sub] {
    const CONTAINERS: &[(&str, &[Sub])] = &[
        ("acl", admin::ACL),
        ("client", client::SUBS),
        ("cluster", admin::CLUSTER),
        ("command", catalog::SUBS),
        ("config", config::SUBS),
        ("latency", admin::LATENCY),
        ("module", admin::MODULE),
        ("pubsub", crate::pubsub::SUBS),
        ("quorate", quorate::SUBS),
        ("script", crate::script::SUBS),
        ("slowlog", admin::SLOWLOG),
    ];
    CONTAINERS.iter().find(|(name, _)| *name == command).map_or(&[], |(_, subs)| subs)
}

/// The subcommand that `args` name, or Redis' error.
pub(crate) fn find_sub(command: &str, args: &[&[u8]]) -> Result<&'static Sub, String> {
    let Some(sub) = subs(command).iter().find(|sub| is_word(args[1], sub.name)) else {
        return Err(unknown_subcommand(&command.to_uppercase(), args[1]));
    };
    if crate::dispatch::accepts(sub.arity, args.len()) {
        Ok(sub)
    } else {
        Err(format!("ERR wrong number of arguments for '{command}|{}' command", sub.name))
    }
}

/// Runs the subcommand of `command` that `args` name.
pub(crate) fn run_sub(worker: &mut Worker, conn: &mut Conn, command: &'static str, args: &[&[u8]]) {
    match find_sub(command, args) {
        Ok(sub) => {
            conn.last_sub = Some((command, sub.name));
            (sub.run)(worker, conn, args);
        }
        Err(text) => conn.error(&text),
    }
}
