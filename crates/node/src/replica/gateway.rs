//! The requests of one shard that came in at this node, until they are answered: the one table in
//! which anything waits.
//!
//! They go, in the order in which they came, to whoever leads the shard: this node or another.
//! When that is refused, or the link to the leader breaks, or it stops leading, everything that is
//! not answered goes out again, in the same order, as a new *round*. A leader that refused one
//! request of a round refuses what follows of it, so a client's pipeline executes in order.
//!
//! A read whose answer was lost is not executed again once a later write of its connection may have
//! been executed: it would see what came after it, and is answered `TRYAGAIN` instead.
//!
//! A write carries a name (`quorate_data::requests`), so that it executes once however often it
//! goes out. Names are of a session, which is opened by an entry of the shard's log when the first
//! write comes. When time is over, whoever has never been sent is answered `NOQUORUM`: it was not
//! executed, and never will be. A write that was sent may have been executed: it is answered
//! `UNKNOWN`, and its session is abandoned, so that the shard remembers what became of it.
//!
//! ```text
//!              ┌── unsent ──▶ in flight ──▶ answered
//!  request ────┤     ▲            │
//!              │     └─ new round ┘
//!              └── time is over: NOQUORUM, UNKNOWN
//! ```

use super::serving::{Asked, Whom};
use crate::dispatch::Command;
use crate::job::{Args, Origin};
use crate::peer::Address;
use crate::peer::message::{Body, Cancel, PeerMessage, Refusal, Request as Message};
use crate::worker::Worker;
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_base::{Millis, ShardId};
use quorate_data::command::flag;
use quorate_data::requests::RequestId;
use quorate_resp::{Proto, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// A request that is not answered for so long is given up.
pub(crate) const REQUEST_MS: Millis = 5_000;

/// How long a refused round waits before it goes out again, unless another leader shows up.
const RETRY_MS: Millis = 20;

/// Requests of one shard that wait at one node.
const REQUESTS_MAX: usize = 1 << 16;

/// The requests of one shard at this node.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    requests: BTreeMap<u64, Request>,
    /// How many of them are reads.
    reads: usize,
    last_ticket: u64,
    /// The first ticket that has not gone out in this round.
    unsent: u64,
    target: Option<Target>,
    round: u64,
    session: Option<Session>,
    /// After a refusal: nothing goes out before.
    pub(crate) refused_until: Option<Millis>,
}

/// Who gets the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Here,
    Peer { node: NodeId, link: u64 },
}

/// The session of the writes of this shard at this node.
#[derive(Debug)]
struct Session {
    id: u64,
    open: bool,
    /// The ticket of the request that opens it, while that is on its way.
    opening: Option<u64>,
    last_number: u64,
    /// Numbers that are not answered.
    pending: BTreeSet<u64>,
}

#[derive(Debug)]
struct Request {
    origin: Origin,
    proto: Proto,
    body: Body,
    writes: bool,
    blocks: bool,
    id: Option<RequestId>,
    /// How often it went out.
    sent: u32,
    /// It is a read that was not answered when a later write of its connection was.
    overtaken: bool,
    /// When it is given up; none while it may wait for ever.
    deadline: Option<Millis>,
}

impl Gateway {
    /// When the next request is given up, or goes out again.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let due = self.requests.values().find_map(|request| request.deadline);
        let retry = self.refused_until.filter(|_| !self.requests.is_empty());
        [due, retry].into_iter().flatten().min()
    }

    /// Everything that is not answered goes out again.
    pub(crate) fn rewind(&mut self) {
        self.unsent = 0;
        self.round += 1;
        self.target = None;
        if let Some(session) = &mut self.session
            && session.opening.take().is_some()
        {
            // Whether it was opened is not known; another one is as good.
            self.session = None;
        }
    }

    /// Whether this is a read that went out before, and so did a later write of its connection.
    fn was_overtaken(&self, ticket: u64) -> bool {
        let request = &self.requests[&ticket];
        if request.writes || request.sent == 0 {
            return false;
        }
        let mut later = self.requests.range(ticket + 1..);
        request.overtaken
            || later.any(|(_, other)| {
                other.writes && other.sent > 0 && is_same_client(request.origin, other.origin)
            })
    }

    /// A write was answered: notes which reads of its connection, sent before it, were not.
    fn overtake(&mut self, ticket: u64, origin: Origin) {
        if self.reads == 0 {
            return;
        }
        for (_, request) in self.requests.range_mut(..ticket) {
            if !request.writes && request.sent > 0 && is_same_client(request.origin, origin) {
                request.overtaken = true;
            }
        }
    }

    fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }
}

/// `NOQUORUM`: the request was not executed.
fn no_quorum(why: &str) -> Vec<u8> {
    error(&format!("NOQUORUM {why}; the command was not executed"))
}

fn is_same_client(a: Origin, b: Origin) -> bool {
    match (a, b) {
        (Origin::Slot { conn: a, .. }, Origin::Slot { conn: b, .. }) => a == b,
        (
            Origin::Remote { worker: a_worker, conn: a, .. },
            Origin::Remote { worker: b_worker, conn: b, .. },
        ) => (a_worker, a) == (b_worker, b),
        _ => false,
    }
}

fn overtaken() -> Vec<u8> {
    error(
        "TRYAGAIN the answer of this read was lost, and a later command of its pipeline may have \
         been executed since",
    )
}

fn unknown(shard: ShardId, id: RequestId) -> Vec<u8> {
    error(&format!(
        "UNKNOWN {} the command may or may not have been executed; QUORATE OUTCOME <id> tells \
         later",
        format_id(shard, id)
    ))
}

pub(crate) fn error(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Reply::new(&mut out, Proto::Resp2).error(text.as_bytes());
    out
}

/// The name of a request as its client sees it.
pub(crate) fn format_id(shard: ShardId, id: RequestId) -> String {
    format!("{shard}-{:016x}-{}", id.session, id.number)
}

/// Reads what [`format_id`] wrote.
pub(crate) fn parse_id(text: &[u8]) -> Option<(ShardId, RequestId)> {
    let mut parts = std::str::from_utf8(text).ok()?.split('-');
    let shard = parts.next()?.parse().ok()?;
    let session = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((shard, RequestId { session, number }))
}

impl Worker {
    /// Takes in a request for a shard at home here.
    pub(crate) fn on_client_request(
        &mut self,
        shard: ShardId,
        origin: Origin,
        proto: Proto,
        body: Body,
    ) {
        let flags = self.flags_of(&body);
        let deadline = Some(self.now.mono + REQUEST_MS);
        let gateway = &mut self.replica(shard).gateway;
        if gateway.requests.len() >= REQUESTS_MAX {
            let reply = no_quorum("too many requests wait for this shard at this node");
            self.peers.deliveries.push((origin, reply));
            return;
        }
        let ticket = gateway.ticket();
        let request = Request {
            origin,
            proto,
            body,
            writes: flags & flag::WRITES != 0,
            blocks: flags & flag::BLOCKING != 0,
            id: None,
            sent: 0,
            overtaken: false,
            deadline,
        };
        gateway.reads += usize::from(!request.writes);
        gateway.requests.insert(ticket, request);
        self.pump_requests(shard);
        self.stir(shard);
    }

    /// [`flag::WRITES`] and [`flag::BLOCKING`] of what is requested.
    fn flags_of(&self, body: &Body) -> u32 {
        let of = |args: &Args| self.commands.get(args.slices()[0]).map_or(0, Command::flags);
        match body {
            Body::Command(args) | Body::Part(args) => of(args),
            Body::Exec { commands, .. } => {
                commands.iter().map(of).fold(0, |all, flags| all | flags & flag::WRITES)
            }
            Body::Watch(_) => 0,
            Body::Open(_) | Body::Outcome(_) => flag::WRITE,
        }
    }

    fn find_target(&self, shard: ShardId) -> Option<Target> {
        let slot = self.shards[shard as usize].as_ref().expect("replicas stay at home");
        let replica = slot.replica.as_ref().expect("shards of a cluster have replicas");
        let waits = replica.gateway.refused_until.is_some_and(|at| self.now.mono < at);
        if waits || !self.peers.has_quorum() {
            return None;
        }
        if self.leads(shard) && !self.stopping {
            return Some(Target::Here);
        }
        let node = slot.log.leader().filter(|node| *node != self.peers.node)?;
        self.peers.link(node).map(|link| Target::Peer { node, link })
    }

    /// Sends what can be sent.
    pub(crate) fn pump_requests(&mut self, shard: ShardId) {
        let target = self.find_target(shard);
        let now = self.now.mono;
        let gateway = &mut self.replica(shard).gateway;
        if gateway.refused_until.is_some_and(|at| at <= now) {
            gateway.refused_until = None;
        }
        if target != gateway.target {
            if gateway.target.is_some() {
                self.peers.mark(RarePath::RequestsMoved);
            }
            let gateway = &mut self.replica(shard).gateway;
            gateway.rewind();
            for request in gateway.requests.values_mut() {
                request.deadline.get_or_insert(now + REQUEST_MS);
            }
            gateway.target = target;
        }
        let Some(target) = target else { return self.refuse_without_quorum(shard) };
        loop {
            let gateway = &mut self.replica(shard).gateway;
            let Some((&ticket, request)) = gateway.requests.range(gateway.unsent..).next() else {
                return;
            };
            if gateway.target != Some(target) {
                // Sending one was refused here and now.
                return;
            }
            if request.writes && request.id.is_none() && !self.name_request(shard, ticket, target) {
                return;
            }
            let gateway = &mut self.replica(shard).gateway;
            gateway.unsent = ticket + 1;
            if gateway.was_overtaken(ticket) {
                self.peers.mark(RarePath::ReadOvertaken);
                self.conclude_request(shard, ticket, overtaken());
                continue;
            }
            let gateway = &mut self.replica(shard).gateway;
            let request = gateway.requests.get_mut(&ticket).expect("it was just seen");
            request.sent += 1;
            if request.blocks {
                request.deadline = None;
            }
            let (proto, body) = (request.proto, request.body.clone());
            let floor = |id: RequestId| {
                let session = gateway.session.as_ref().filter(|s| s.id == id.session);
                session.and_then(|s| s.pending.first()).map_or(0, |first| first - 1)
            };
            let name = request.id.map(|id| (id, floor(id)));
            let round = gateway.round;
            self.send_request(shard, target, Message { ticket, round, name, proto, body });
        }
    }

    /// Names a write; false while its session is being opened.
    fn name_request(&mut self, shard: ShardId, ticket: u64, target: Target) -> bool {
        let fresh = self.prng.next_u64();
        let gateway = &mut self.replica(shard).gateway;
        let session = gateway.session.get_or_insert(Session {
            id: fresh,
            open: false,
            opening: None,
            last_number: 0,
            pending: BTreeSet::new(),
        });
        if session.open {
            session.last_number += 1;
            let id = RequestId { session: session.id, number: session.last_number };
            session.pending.insert(id.number);
            let request = gateway.requests.get_mut(&ticket).expect("the caller has seen it");
            request.id = Some(id);
            return true;
        }
        if session.opening.is_none() {
            let id = session.id;
            gateway.last_ticket += 1;
            let opening = gateway.last_ticket;
            session.opening = Some(opening);
            let (round, body) = (gateway.round, Body::Open(id));
            let proto = Proto::Resp2;
            let message = Message { ticket: opening, round, name: None, proto, body };
            self.send_request(shard, target, message);
        }
        false
    }

    fn send_request(&mut self, shard: ShardId, target: Target, request: Message) {
        match target {
            Target::Here => {
                let (ticket, round) = (request.ticket, request.round);
                let asked = Asked { shard, whom: Whom::Here(ticket), name: request.name };
                if let Err(why) = self.serve(asked, request.proto, request.body) {
                    let node = self.peers.node;
                    self.refused(shard, node, round, ticket, why);
                }
            }
            Target::Peer { node, .. } => {
                self.post(node, Address::Shard(shard), &PeerMessage::Request(request));
            }
        }
    }

    /// Without a majority in reach nothing can be executed: says so at once.
    fn refuse_without_quorum(&mut self, shard: ShardId) {
        if self.peers.has_quorum() {
            return;
        }
        let gateway = &mut self.replica(shard).gateway;
        let hopeless: Vec<u64> = gateway
            .requests
            .iter()
            .filter(|(_, request)| request.sent == 0 || !request.writes)
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in hopeless {
            self.peers.mark(RarePath::NoQuorum);
            self.conclude_request(shard, ticket, no_quorum("this node reaches no majority"));
        }
    }

    fn conclude_request(&mut self, shard: ShardId, ticket: u64, reply: Vec<u8>) {
        if let Some(request) = self.remove_request(shard, ticket) {
            self.peers.deliveries.push((request.origin, reply));
        }
    }

    fn remove_request(&mut self, shard: ShardId, ticket: u64) -> Option<Request> {
        let gateway = &mut self.replica(shard).gateway;
        let request = gateway.requests.remove(&ticket)?;
        if request.writes {
            gateway.overtake(ticket, request.origin);
        } else {
            gateway.reads -= 1;
        }
        if let (Some(id), Some(session)) = (request.id, &mut gateway.session)
            && id.session == session.id
        {
            session.pending.remove(&id.number);
        }
        Some(request)
    }

    /// A request was executed and answered.
    pub(crate) fn answered(&mut self, shard: ShardId, ticket: u64, reply: Vec<u8>) {
        let gateway = &mut self.replica(shard).gateway;
        if let Some(session) = &mut gateway.session
            && session.opening == Some(ticket)
        {
            (session.open, session.opening) = (true, None);
            self.pump_requests(shard);
            return;
        }
        self.conclude_request(shard, ticket, reply);
        self.stir(shard);
    }

    /// A request was refused, and not executed this time.
    pub(crate) fn refused(
        &mut self,
        shard: ShardId,
        from: NodeId,
        round: u64,
        ticket: u64,
        why: Refusal,
    ) {
        let retry_at = self.now.mono + RETRY_MS;
        let gateway = &mut self.replica(shard).gateway;
        let current = match gateway.target {
            Some(Target::Here) => from == self.peers.node,
            Some(Target::Peer { node, .. }) => node == from,
            None => false,
        };
        let gateway = &mut self.replica(shard).gateway;
        if !current || round != gateway.round {
            return;
        }
        match why {
            Refusal::NotLeader => {
                gateway.rewind();
                gateway.refused_until = Some(retry_at);
                self.peers.mark(RarePath::RequestRefused);
                self.pump_requests(shard);
            }
            Refusal::NoSession => self.lose_session(shard, ticket),
        }
        self.stir(shard);
    }

    /// The shard has dropped the session of this request. If it went out only once it was not
    /// executed, and goes out again with another name; else nobody can tell any more.
    fn lose_session(&mut self, shard: ShardId, ticket: u64) {
        self.peers.mark(RarePath::SessionDropped);
        let gateway = &mut self.replica(shard).gateway;
        let Some(request) = gateway.requests.get_mut(&ticket) else { return };
        let Some(id) = request.id else { return };
        let again = request.sent > 1;
        if gateway.session.as_ref().is_some_and(|session| session.id == id.session) {
            gateway.session = None;
        }
        if again {
            return self.conclude_request(shard, ticket, unknown(shard, id));
        }
        request.id = None;
        request.sent = 0;
        gateway.rewind();
        self.pump_requests(shard);
    }

    /// Gives up the requests whose time is over.
    pub(crate) fn time_out_requests(&mut self, shard: ShardId) {
        let now = self.now.mono;
        let gateway = &mut self.replica(shard).gateway;
        let late: Vec<u64> = gateway
            .requests
            .iter()
            .filter(|(_, request)| request.deadline.is_some_and(|at| at <= now))
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in late {
            let gateway = &mut self.replica(shard).gateway;
            let request = &gateway.requests[&ticket];
            let reply = match request.id {
                Some(id) if request.sent > 0 => {
                    self.peers.mark(RarePath::OutcomeUnknown);
                    let gateway = &mut self.replica(shard).gateway;
                    // With its session the shard would forget it as soon as later ones are answered.
                    if gateway.session.as_ref().is_some_and(|s| s.id == id.session) {
                        gateway.session = None;
                    }
                    unknown(shard, id)
                }
                _ => {
                    self.peers.mark(RarePath::NoLeader);
                    no_quorum("no leader of this shard answered in time")
                }
            };
            self.conclude_request(shard, ticket, reply);
        }
    }

    /// Clients are gone: nothing of theirs goes out (again).
    pub(crate) fn forget_requests_of(&mut self, gone: impl Fn(&Origin) -> bool) {
        for shard in 0..self.shards.len() as ShardId {
            let Some(slot) = self.shards[shard as usize].as_ref() else { continue };
            let Some(replica) = slot.replica.as_ref() else { continue };
            let gateway = &replica.gateway;
            let theirs: Vec<u64> = gateway
                .requests
                .iter()
                .filter(|(_, request)| gone(&request.origin))
                .map(|(&ticket, _)| ticket)
                .collect();
            for ticket in theirs {
                let request = &self.replica(shard).gateway.requests[&ticket];
                if request.sent > 0 && request.blocks {
                    self.cancel_request(shard, ticket, Cancel::Gone);
                }
                self.remove_request(shard, ticket);
            }
        }
    }

    /// Ends a request that waits at the leader.
    pub(crate) fn cancel_request(&mut self, shard: ShardId, ticket: u64, how: Cancel) {
        let now = self.now.mono;
        let node = self.peers.node;
        let gateway = &mut self.replica(shard).gateway;
        if let Some(request) = gateway.requests.get_mut(&ticket) {
            request.deadline.get_or_insert(now + REQUEST_MS);
        }
        match gateway.target {
            Some(Target::Here) => self.cancel_asked(shard, node, ticket, how),
            Some(Target::Peer { node, .. }) => {
                self.post(node, Address::Shard(shard), &PeerMessage::Cancel { ticket, how });
            }
            None => {}
        }
        self.stir(shard);
    }

    /// The blocked request of a client of this node, if there is one here.
    pub(crate) fn blocked_request(&self, of: impl Fn(&Origin) -> bool) -> Option<(ShardId, u64)> {
        self.shards.iter().flatten().find_map(|slot| {
            let gateway = &slot.replica.as_ref()?.gateway;
            let mut blocked = gateway.requests.iter().filter(|(_, r)| r.blocks && of(&r.origin));
            blocked.next().map(|(&ticket, _)| (slot.id, ticket))
        })
    }

    /// Hands the answers to the clients that wait for them.
    pub(crate) fn deliver_answers(&mut self) {
        for (origin, reply) in std::mem::take(&mut self.peers.deliveries) {
            match origin {
                Origin::Slot { conn, slot } => self.on_reply(conn, slot, reply),
                Origin::Remote { worker, conn, slot } => {
                    self.tell(worker, crate::message::Message::Reply { conn, slot, bytes: reply });
                }
                Origin::Gather { worker, gather, shard } if worker == self.id => {
                    self.on_part(gather, shard, reply);
                }
                Origin::Gather { worker, gather, shard } => {
                    let message = crate::message::Message::Part { gather, shard, reply };
                    self.tell(worker, message);
                }
                Origin::Local(_) | Origin::Asked(_) => unreachable!("{origin:?} asks no gateway"),
            }
        }
    }
}
