//! Commands about the connection and the server, which touch no key.

use crate::conn::{Conn, ReplyMode};
use crate::message::{Answer, Question};
use crate::worker::Worker;
use quorate_resp::Reply;

pub(crate) mod connection;

/// Executes a session command: writes its reply to `conn`, or parks it.
pub(crate) type Run = fn(&mut Worker, &mut Conn, &[&[u8]]);

/// Executes at once although a transaction is being queued.
pub(crate) const UNQUEUED: u32 = 1 << 20;

/// Allowed for a RESP2 client that has subscriptions.
pub(crate) const FOR_SUBSCRIBERS: u32 = 1 << 21;

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
        ("transactions", crate::transaction::COMMANDS),
        ("pubsub", crate::pubsub::COMMANDS),
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

/// Redis' error for a subcommand that does not exist or has the wrong number of arguments.
pub(crate) fn unknown_subcommand(command: &str, sub: &[u8]) -> String {
    let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]).into_owned();
    format!("ERR unknown subcommand '{sub}'. Try {command} HELP.")
}

impl Worker {
    /// Takes back the reply of a command whose client does not want it (`CLIENT REPLY`).
    pub(crate) fn silence(&mut self, conn: &mut Conn, start: usize) {
        match conn.reply_mode {
            ReplyMode::On => {}
            ReplyMode::Off => conn.output.take_back(start),
            ReplyMode::SkipNext => conn.reply_mode = ReplyMode::Skip,
            ReplyMode::Skip => {
                conn.output.take_back(start);
                conn.reply_mode = ReplyMode::On;
            }
        }
    }
}

impl Worker {
    /// Answers a question for this worker. `asker` is the client that asks, if it is one of ours:
    /// it is not in the map while it executes.
    pub(crate) fn answer(&mut self, question: &Question, asker: Option<&mut Conn>) -> Answer {
        let _ = (question, asker);
        Answer::Count(0)
    }

    /// Puts the answers of all workers together and replies.
    pub(crate) fn conclude(&mut self, conn: &mut Conn, question: &Question, answers: Vec<Answer>) {
        let _ = (question, answers);
        conn.reply().ok();
    }
}
