//! What all loads share about talking to a server: requests, the kinds of error replies, and which
//! reply belongs to which request of a connection.

use super::reply::{Parser, Reply};
use std::collections::VecDeque;

/// A command: its name and arguments.
pub(super) type Command = Vec<Vec<u8>>;

/// A command from words; a word may be anything that can be displayed.
macro_rules! command {
    ($($word:expr),+ $(,)?) => { vec![$($word.to_string().into_bytes()),+] };
}
pub(super) use command;

/// Appends a command as a client sends it.
pub(super) fn encode(out: &mut Vec<u8>, command: &Command) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// What a reply says about its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was executed, and this is the result.
    Executed(Reply),
    /// It was not executed, and never will be.
    Refused,
    /// It may have been executed, or be executed later; the id to ask with, if there is one.
    Unknown(Option<String>),
    /// An error that a correct request on a key of the right type does not get.
    Wrong(String),
}

/// First words of errors that say: not executed.
const REFUSALS: [&str; 10] = [
    "NOQUORUM",
    "MISCONF",
    "LOADING",
    "TRYAGAIN",
    "EXECABORT",
    "OOM",
    "BUSY",
    "CLUSTERDOWN",
    "UNBLOCKED",
    "READONLY",
];
/// Beginnings of errors without a word of their own that say the same.
const PLAIN_REFUSALS: [&str; 3] =
    ["ERR the store failed", "ERR max number of clients", "ERR Errors trying to SHUTDOWN"];

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let Reply::Error(text) = reply else { return Self::Executed(reply) };
        let mut words = text.split(' ');
        match words.next().unwrap_or_default() {
            "UNKNOWN" => Self::Unknown(words.next().map(str::to_owned)),
            first if REFUSALS.contains(&first) => Self::Refused,
            _ if PLAIN_REFUSALS.iter().any(|start| text.starts_with(start)) => Self::Refused,
            _ => Self::Wrong(text),
        }
    }
}

/// One connection's half-received replies, and what the replies to come are for.
#[derive(Clone, Debug)]
pub(super) struct Connection<T> {
    parser: Parser,
    waiting: VecDeque<T>,
}

impl<T> Default for Connection<T> {
    fn default() -> Self {
        Self { parser: Parser::default(), waiting: VecDeque::new() }
    }
}

impl<T> Connection<T> {
    /// Appends a command whose reply is for `tag`.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, command: &Command, tag: T) {
        encode(out, command);
        self.waiting.push_back(tag);
    }

    /// Whether no reply is missing.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The whole replies among all bytes so far that were not given out before.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<(T, Reply)>, String> {
        self.parser.feed(bytes);
        let mut replies = Vec::new();
        while let Some(reply) = self.parser.next_reply()? {
            match (self.waiting.pop_front(), reply) {
                (Some(tag), reply) => replies.push((tag, reply)),
                // A server may say why it is about to close the connection.
                (None, Reply::Error(_)) => {}
                (None, reply) => return Err(format!("{reply:?} answers no request")),
            }
        }
        Ok(replies)
    }

    /// Forgets everything for a new connection; what will never be answered is returned.
    pub(super) fn reset(&mut self) -> VecDeque<T> {
        std::mem::take(self).waiting
    }
}
