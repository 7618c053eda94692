//! What happened: a hash over all of it, and the story of the last part for people.

use crate::queue::Micros;
use quorate_base::hash::checksum;
use std::collections::VecDeque;

/// How many notes a story keeps.
const NOTES_MAX: usize = 60_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    /// Events that reached a worker.
    pub(crate) events: u64,
    story: Option<Story>,
}

/// The last part of a run.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// What happened, by the time at which it was known.
    pub notes: VecDeque<Note>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Micros,
    /// What.
    pub what: Told,
}

/// See [`Note`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A packet between two nodes.
    Packet {
        /// From which node.
        from: usize,
        /// To which node.
        to: usize,
        /// When it arrives; `None` if it never does.
        arrives: Option<Micros>,
        /// How many bytes.
        bytes: usize,
        /// It was damaged on its way.
        damaged: bool,
    },
    /// A client and its node exchanged bytes.
    Client {
        /// Which client.
        client: usize,
        /// Which node.
        node: usize,
        /// From the node to the client.
        reply: bool,
        /// The beginning of what was said.
        said: String,
    },
    /// A fault began or ended.
    Fault {
        /// Of this node alone.
        node: Option<usize>,
        /// In words.
        what: String,
    },
    /// A node stopped (false) or began to run (true).
    Running {
        /// Which.
        node: usize,
        /// Whether it runs.
        runs: bool,
    },
    /// A node did something worth a word.
    Node {
        /// Which.
        node: usize,
        /// In words.
        what: String,
    },
}

impl Trace {
    /// A trace that also keeps a story.
    pub(crate) fn with_story() -> Self {
        Self { story: Some(Story::default()), ..Self::default() }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds numbers.
    pub(crate) fn add<const N: usize>(&mut self, words: [u64; N]) {
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(27);
        }
    }

    /// Adds bytes.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add([bytes.len() as u64, checksum(bytes)]);
    }

    /// Tells the story, if it is wanted.
    pub(crate) fn tell(&mut self, at: Micros, what: impl FnOnce() -> Told) {
        if let Some(story) = &mut self.story {
            if story.notes.len() >= NOTES_MAX {
                story.notes.pop_front();
            }
            story.notes.push_back(Note { at, what: what() });
        }
    }

    /// The story so far, if one is kept.
    pub(crate) fn take_story(&mut self) -> Option<Story> {
        self.story.take()
    }
}

/// The beginning of some bytes, for people.
pub(crate) fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).replace("\r\n", " ");
    if bytes.len() > SHOWN { format!("{text}…") } else { text }
}
