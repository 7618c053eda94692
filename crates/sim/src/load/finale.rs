//! The last reads of a run, as one more client that sends them one by one.

use super::reply::{Parser, Reply};
use super::{FinalView, Load};

/// Executes [`Load::final_requests`] over connections of the driver's, and collects the replies.
///
/// The driver treats it like a client of a load: it asks [`Finale::next_request`] for bytes to send
/// whenever it is connected, and tells what comes back. Reads that fail are repeated.
#[derive(Clone, Debug)]
pub struct Finale {
    requests: Vec<Vec<u8>>,
    parser: Parser,
    is_waiting: bool,
    view: FinalView,
}

impl Finale {
    /// Nothing is read yet.
    pub fn new(load: &dyn Load, now_us: u64) -> Self {
        Self {
            requests: load.final_requests(),
            parser: Parser::default(),
            is_waiting: false,
            view: FinalView { began_us: now_us, ended_us: now_us, ..FinalView::default() },
        }
    }

    /// Whether all is read.
    pub fn is_done(&self) -> bool {
        self.view.answers.len() == self.requests.len()
    }

    /// What to send now; `None` while a reply is missing, and at the end.
    pub fn next_request(&mut self) -> Option<Vec<u8>> {
        if self.is_waiting {
            return None;
        }
        let request = self.requests.get(self.view.answers.len())?;
        self.is_waiting = true;
        Some(request.clone())
    }

    /// Bytes that arrived. An error says what is no reply.
    pub fn reply(&mut self, now_us: u64, bytes: &[u8]) -> Result<(), String> {
        self.parser.feed(bytes);
        while let Some(reply) = self.parser.next_reply()? {
            self.is_waiting = false;
            if matches!(reply, Reply::Error(_)) {
                continue;
            }
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            let Some(request) = self.requests.get(self.view.answers.len()) else {
                return Err(format!("{reply:?} answers no request"));
            };
            self.view.answers.push((request.clone(), bytes));
            self.view.ended_us = now_us;
        }
        Ok(())
    }

    /// The connection is gone; the read under way is repeated on the next one.
    pub fn disconnected(&mut self) {
        self.parser = Parser::default();
        self.is_waiting = false;
    }

    /// What was read.
    pub fn view(&self) -> &FinalView {
        &self.view
    }
}
