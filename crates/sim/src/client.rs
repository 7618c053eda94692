//! The clients' side: connections to random nodes, and one pipeline under way on each.

use crate::chance::between;
use crate::load::{FinalView, Finale, Load};
use crate::queue::{MILLISECOND, Micros, SECOND};
use crate::shape::Shape;
use quorate_base::Prng;
use quorate_node::ConnId;

/// How long a client waits before it looks for a node again.
const RECONNECT: Micros = 50 * MILLISECOND;

/// What a client sends to a node.
#[derive(Debug)]
pub(crate) enum ToNode {
    Connect,
    Bytes(Vec<u8>),
    Leave,
}

/// What a node sends to a client.
#[derive(Debug)]
pub(crate) enum ToClient {
    Accepted,
    Bytes(Vec<u8>),
    Closed,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Away,
    Connecting,
    Open,
}

#[derive(Debug)]
struct Client {
    state: State,
    node: usize,
    conn: ConnId,
    /// Requests without a reply.
    open_requests: u64,
    sent_at: Micros,
    replies: Replies,
    patience_us: Micros,
    /// The look that counts.
    look: u64,
    /// When the last bytes arrive, each way.
    last_us: [Micros; 2],
}

/// What a client wants done.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Send this to a node.
    Send { node: usize, conn: ConnId, what: ToNode, at: Micros },
    /// Look again.
    Look { at: Micros, look: u64 },
}

/// See the module.
pub(crate) struct Clients {
    pub(crate) load: Box<dyn Load>,
    /// The load's clients, and one more for the last reads.
    all: Vec<Client>,
    finale: Option<Finale>,
    prng: Prng,
    last_conn: ConnId,
    last_look: u64,
    one_way_us: Micros,
    think_us: Micros,
    /// No client begins anything new.
    pub(crate) stopping: bool,
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) errors: u64,
}

impl Clients {
    /// The clients that `load` plays.
    pub(crate) fn new(load: Box<dyn Load>, shape: &Shape, mut prng: Prng) -> Self {
        let client = |prng: &mut Prng| Client {
            state: State::Away,
            node: 0,
            conn: 0,
            open_requests: 0,
            sent_at: 0,
            replies: Replies::default(),
            patience_us: between(prng, SECOND, 15 * SECOND),
            look: 0,
            last_us: [0; 2],
        };
        Self {
            all: (0..=load.clients()).map(|_| client(&mut prng)).collect(),
            finale: None,
            load,
            prng,
            last_conn: 0,
            last_look: 0,
            one_way_us: shape.knobs.client_us,
            think_us: shape.knobs.think_us,
            stopping: false,
            requests: 0,
            replies: 0,
            errors: 0,
        }
    }

    /// How many clients the load plays.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - 1
    }

    /// The load's clients are done: one more begins to read what it needs in the end. Returns its
    /// number.
    pub(crate) fn begin_finale(&mut self, now: Micros) -> usize {
        self.finale = Some(Finale::new(&*self.load, now));
        self.len()
    }

    /// What was read in the end, once all is.
    pub(crate) fn final_view(&self) -> Option<&FinalView> {
        self.finale.as_ref().filter(|finale| finale.is_done()).map(Finale::view)
    }

    /// How many of the last reads are answered.
    pub(crate) fn final_reads(&self) -> usize {
        self.finale.as_ref().map_or(0, |finale| finale.view().answers.len())
    }

    /// True if this client begins nothing new.
    fn is_stopping(&self, client: usize) -> bool {
        self.stopping && client < self.len()
    }

    /// Who still waits for a reply, and since when.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, Micros)> + '_ {
        let waits = |(n, c): (usize, &Client)| (c.open_requests > 0).then_some((n, c.sent_at));
        self.all.iter().enumerate().filter_map(waits)
    }

    /// Whose connection this is.
    pub(crate) fn is_at(&self, client: usize, conn: ConnId) -> bool {
        self.all[client].conn == conn && self.all[client].state != State::Away
    }

    /// The client looks at what it could do.
    pub(crate) fn look(
        &mut self,
        client: usize,
        now: Micros,
        look: u64,
        nodes: usize,
    ) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if look != 0 && self.all[client].look != look {
            return wishes;
        }
        match self.all[client].state {
            State::Away if self.is_stopping(client) => {}
            State::Away => {
                let node = self.prng.below(nodes as u64) as usize;
                self.last_conn += 1;
                let conn = self.last_conn;
                let new = Client {
                    state: State::Connecting,
                    node,
                    conn,
                    sent_at: now,
                    replies: Replies::default(),
                    last_us: [0; 2],
                    ..self.all[client]
                };
                self.all[client] = new;
                wishes.push(self.send(client, now, ToNode::Connect));
                wishes.push(self.look_at(client, now + SECOND));
            }
            State::Connecting => wishes.extend(self.give_up(client, now)),
            State::Open if self.all[client].open_requests > 0 => {
                let until = self.all[client].sent_at + self.all[client].patience_us;
                if now >= until && !self.is_stopping(client) {
                    wishes.extend(self.give_up(client, now));
                } else {
                    wishes.push(self.look_at(client, until.max(now + SECOND)));
                }
            }
            State::Open => self.go_on(client, now, &mut wishes),
        }
        wishes
    }

    fn go_on(&mut self, client: usize, now: Micros, wishes: &mut Vec<Wish>) {
        if self.is_stopping(client) {
            return;
        }
        let bytes = match &mut self.finale {
            Some(finale) if client + 1 == self.all.len() => finale.next_request(),
            _ => self.load.next(client, now, &mut self.prng),
        };
        let Some(bytes) = bytes else {
            let at = now + between(&mut self.prng, MILLISECOND, 10 * MILLISECOND);
            return wishes.push(self.look_at(client, at));
        };
        let requests = count_requests(&bytes);
        self.requests += requests;
        self.all[client].open_requests += requests;
        self.all[client].sent_at = now;
        wishes.push(self.send(client, now, ToNode::Bytes(bytes)));
        wishes.push(self.look_at(client, now + self.all[client].patience_us));
    }

    /// The client hangs up and goes elsewhere.
    fn give_up(&mut self, client: usize, now: Micros) -> Vec<Wish> {
        let leave = self.send(client, now, ToNode::Leave);
        let mut wishes = vec![leave];
        wishes.extend(self.broken(client, now));
        wishes
    }

    fn broken(&mut self, client: usize, now: Micros) -> Vec<Wish> {
        let was_open = self.all[client].state == State::Open;
        self.all[client].state = State::Away;
        self.all[client].open_requests = 0;
        if was_open {
            match &mut self.finale {
                Some(finale) if client + 1 == self.all.len() => finale.disconnected(),
                _ => self.load.disconnected(client, now),
            }
        }
        let at = now + self.prng.below(RECONNECT) + 1;
        vec![self.look_at(client, at)]
    }

    /// Something reached the client from the node of this connection.
    pub(crate) fn receive(
        &mut self,
        client: usize,
        now: Micros,
        conn: ConnId,
        what: ToClient,
    ) -> Vec<Wish> {
        if !self.is_at(client, conn) {
            return Vec::new();
        }
        match what {
            ToClient::Accepted => {
                self.all[client].state = State::Open;
                let at = now + self.prng.below(self.think_us + 1);
                vec![self.look_at(client, at)]
            }
            ToClient::Closed => self.broken(client, now),
            ToClient::Bytes(bytes) => {
                let (replies, errors) = self.all[client].replies.count(&bytes);
                self.replies += replies;
                self.errors += errors;
                let state = &mut self.all[client];
                state.open_requests = state.open_requests.saturating_sub(replies);
                match &mut self.finale {
                    Some(finale) if client + 1 == self.all.len() => {
                        // What is no reply shows in that the last reads never end.
                        let _ = finale.reply(now, &bytes);
                    }
                    _ => self.load.reply(client, now, &bytes),
                }
                if self.all[client].open_requests > 0 {
                    return Vec::new();
                }
                let at = now + 1 + self.prng.below(self.think_us + 1);
                vec![self.look_at(client, at)]
            }
        }
    }

    /// When something that a node sends to the client now arrives.
    pub(crate) fn arrival(&mut self, client: usize, now: Micros) -> Micros {
        let way = between(&mut self.prng, self.one_way_us / 2 + 1, self.one_way_us + 1);
        let last = &mut self.all[client].last_us[1];
        *last = (now + way).max(*last);
        *last
    }

    fn send(&mut self, client: usize, now: Micros, what: ToNode) -> Wish {
        let way = between(&mut self.prng, self.one_way_us / 2 + 1, self.one_way_us + 1);
        let client = &mut self.all[client];
        let at = (now + way).max(client.last_us[0]);
        client.last_us[0] = at;
        Wish::Send { node: client.node, conn: client.conn, what, at }
    }

    fn look_at(&mut self, client: usize, at: Micros) -> Wish {
        self.last_look += 1;
        self.all[client].look = self.last_look;
        Wish::Look { at, look: self.last_look }
    }
}

/// How many requests some bytes are: the arrays that begin in them, as clients send them whole.
fn count_requests(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    let mut requests = 0;
    while !rest.is_empty() {
        requests += 1;
        let Some((args, after)) = line(rest).filter(|_| rest[0] == b'*') else {
            // Inline: a line is a request.
            rest = line(rest).map_or(&[], |(_, after)| after);
            continue;
        };
        rest = after;
        for _ in 0..args {
            let Some((len, after)) = line(rest) else { return requests };
            rest = after.get(len as usize + 2..).unwrap_or(&[]);
        }
    }
    requests
}

/// The number in a line of RESP, and what follows the line.
fn line(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = std::str::from_utf8(bytes.get(1..end)?).ok().and_then(|text| text.parse().ok());
    Some((number.unwrap_or(0), &bytes[end + 2..]))
}

/// Counts replies in a stream of RESP2 or RESP3.
#[derive(Clone, Debug, Default)]
struct Replies {
    rest: Vec<u8>,
}

impl Replies {
    /// How many replies, and how many errors among them, these bytes complete.
    fn count(&mut self, bytes: &[u8]) -> (u64, u64) {
        self.rest.extend_from_slice(bytes);
        let (mut at, mut replies, mut errors) = (0, 0, 0);
        while let Some(len) = reply_len(&self.rest[at..]) {
            let kind = self.rest[at];
            replies += u64::from(kind != b'>');
            errors += u64::from(kind == b'-');
            at += len;
        }
        self.rest.drain(..at);
        (replies, errors)
    }
}

/// The length of the first whole reply.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut values = 1i64;
    while values > 0 {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let (number, after) = line(rest)?;
        at += rest.len() - after.len();
        values -= 1;
        match rest[0] {
            b'$' | b'=' | b'!' if number >= 0 => {
                at += number as usize + 2;
                if at > bytes.len() {
                    return None;
                }
            }
            b'*' | b'~' | b'>' => values += number.max(0),
            b'%' | b'|' => values += 2 * number.max(0),
            _ => {}
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted() {
        assert_eq!(count_requests(b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n"), 2);
        assert_eq!(count_requests(b"PING\r\nPING\r\n"), 2);
    }

    #[test]
    fn replies_are_counted_wherever_they_are_cut() {
        let stream: &[u8] = b"+OK\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n:1\r\n*1\r\n$0\r\n\r\n-ERR x\r\n\
                              %1\r\n+a\r\n:1\r\n*0\r\n>1\r\n+p\r\n_\r\n";
        for cut in 0..stream.len() {
            let mut replies = Replies::default();
            let (a, e) = replies.count(&stream[..cut]);
            let (b, f) = replies.count(&stream[cut..]);
            assert_eq!((a + b, e + f), (8, 1), "cut at {cut}");
        }
    }
}
