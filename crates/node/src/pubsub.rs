//! Publish and subscribe.
//!
//! Every worker knows how many subscribers each other worker has for each channel and pattern, so
//! publishing counts its receivers without asking. A worker announces a subscription before it
//! confirms it to the client, and workers read their messages before their clients, so what is
//! published after a confirmation was read reaches that subscriber.

use crate::conn::Conn;
use crate::event::{ConnId, Effect, WorkerId};
use crate::message::Message;
use crate::peer::Address;
use crate::peer::message::PeerMessage;
use crate::session::{CONTAINER, FOR_SUBSCRIBERS, SessionSpec, Sub, run_sub};
use crate::worker::Worker;
use quorate_data::command::flag;
use quorate_data::parse::{glob, is_word};
use quorate_resp::Reply;
use std::collections::{BTreeMap, BTreeSet};

/// What a subscription is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A channel by name.
    Channel = 0,
    /// All channels that match a pattern.
    Pattern = 1,
    /// A sharded channel by name.
    Sharded = 2,
}

/// A worker's subscribers to one channel or pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// To what.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
    /// How many subscribers the worker now has.
    pub subscribers: u32,
}

/// Who is subscribed to what.
#[derive(Debug, Default)]
pub(crate) struct PubSub {
    names: [BTreeMap<Vec<u8>, Subscribers>; 3],
}

#[derive(Debug, Default)]
struct Subscribers {
    here: Vec<ConnId>,
    elsewhere: BTreeMap<WorkerId, u32>,
}

impl Subscribers {
    fn count(&self) -> usize {
        self.here.len() + self.elsewhere.values().map(|&n| n as usize).sum::<usize>()
    }
}

impl PubSub {
    /// Notes what another worker says of its subscribers.
    pub(crate) fn register(&mut self, worker: WorkerId, registration: Registration) {
        let Registration { kind, name, subscribers } = registration;
        let names = &mut self.names[kind as usize];
        let entry = names.entry(name.clone()).or_default();
        if subscribers == 0 {
            entry.elsewhere.remove(&worker);
        } else {
            entry.elsewhere.insert(worker, subscribers);
        }
        if entry.count() == 0 {
            names.remove(&name);
        }
    }

    fn change(&mut self, kind: Kind, name: &[u8], conn: ConnId, subscribe: bool) -> Registration {
        let names = &mut self.names[kind as usize];
        let entry = names.entry(name.to_vec()).or_default();
        if subscribe {
            entry.here.push(conn);
        } else {
            entry.here.retain(|&c| c != conn);
        }
        let subscribers = entry.here.len() as u32;
        if entry.count() == 0 {
            names.remove(name);
        }
        Registration { kind, name: name.to_vec(), subscribers }
    }

    /// The names of a kind with their numbers of subscribers.
    fn all(&self, kind: Kind) -> impl Iterator<Item = (&[u8], usize)> {
        self.names[kind as usize].iter().map(|(name, s)| (name.as_slice(), s.count()))
    }

    fn count(&self, kind: Kind, name: &[u8]) -> usize {
        self.names[kind as usize].get(name).map_or(0, Subscribers::count)
    }

    /// How many channels and patterns have subscribers, for INFO.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.names[0].len(), self.names[1].len(), self.names[2].len()]
    }

    /// Every subscription that a message to `channel` concerns.
    fn concerned(
        &self,
        sharded: bool,
        channel: &[u8],
    ) -> impl Iterator<Item = (Option<&[u8]>, &Subscribers)> {
        let direct = if sharded { Kind::Sharded } else { Kind::Channel };
        let by_name = self.names[direct as usize].get(channel).map(|s| (None, s));
        let patterns = self.names[Kind::Pattern as usize]
            .iter()
            .filter(move |(pattern, _)| !sharded && glob(pattern, channel))
            .map(|(pattern, s)| (Some(pattern.as_slice()), s));
        by_name.into_iter().chain(patterns)
    }
}

const COMMON: u32 = flag::PUBSUB | flag::NOSCRIPT | flag::LOADING | flag::STALE;

/// The commands of publish and subscribe.
pub(crate) const COMMANDS: &[SessionSpec] = &[
    SessionSpec {
        name: "subscribe",
        arity: -2,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.subscribe(conn, Kind::Channel, &args[1..]),
    },
    SessionSpec {
        name: "unsubscribe",
        arity: -1,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.unsubscribe(conn, Kind::Channel, &args[1..]),
    },
    SessionSpec {
        name: "psubscribe",
        arity: -2,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.subscribe(conn, Kind::Pattern, &args[1..]),
    },
    SessionSpec {
        name: "punsubscribe",
        arity: -1,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.unsubscribe(conn, Kind::Pattern, &args[1..]),
    },
    SessionSpec {
        name: "ssubscribe",
        arity: -2,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.subscribe(conn, Kind::Sharded, &args[1..]),
    },
    SessionSpec {
        name: "sunsubscribe",
        arity: -1,
        flags: COMMON | FOR_SUBSCRIBERS,
        run: |worker, conn, args| worker.unsubscribe(conn, Kind::Sharded, &args[1..]),
    },
    SessionSpec {
        name: "publish",
        arity: 3,
        flags: flag::PUBSUB | flag::LOADING | flag::STALE | flag::FAST,
        run: |worker, conn, args| worker.publish(conn, false, args[1], args[2]),
    },
    SessionSpec {
        name: "spublish",
        arity: 3,
        flags: flag::PUBSUB | flag::LOADING | flag::STALE | flag::FAST,
        run: |worker, conn, args| worker.publish(conn, true, args[1], args[2]),
    },
    SessionSpec {
        name: "pubsub",
        arity: -2,
        flags: CONTAINER,
        run: |worker, conn, args| run_sub(worker, conn, "pubsub", args),
    },
];

const ASKING: u32 = flag::PUBSUB | flag::LOADING | flag::STALE;

/// The subcommands of PUBSUB.
pub(crate) const SUBS: &[Sub] = &[
    Sub { name: "channels", arity: -2, flags: ASKING, run: pubsub },
    Sub { name: "help", arity: 2, flags: flag::LOADING | flag::STALE, run: pubsub },
    Sub { name: "numpat", arity: 2, flags: ASKING, run: pubsub },
    Sub { name: "numsub", arity: -2, flags: ASKING, run: pubsub },
    Sub { name: "shardchannels", arity: -2, flags: ASKING, run: pubsub },
    Sub { name: "shardnumsub", arity: -2, flags: ASKING, run: pubsub },
];

const SUBSCRIBED: [&[u8]; 3] = [b"subscribe", b"psubscribe", b"ssubscribe"];
const UNSUBSCRIBED: [&[u8]; 3] = [b"unsubscribe", b"punsubscribe", b"sunsubscribe"];

impl Worker {
    fn subscribe(&mut self, conn: &mut Conn, kind: Kind, names: &[&[u8]]) {
        for &name in names {
            if conn.subscriptions[kind as usize].insert(name.to_vec()) {
                let registration = self.pubsub.change(kind, name, conn.id, true);
                self.announce(&registration);
            }
            confirm(conn, SUBSCRIBED[kind as usize], kind, Some(name));
        }
    }

    fn unsubscribe(&mut self, conn: &mut Conn, kind: Kind, names: &[&[u8]]) {
        let all: Vec<Vec<u8>>;
        let mut slices: Vec<&[u8]> = names.to_vec();
        if names.is_empty() {
            all = conn.subscriptions[kind as usize].iter().cloned().collect();
            slices = all.iter().map(Vec::as_slice).collect();
            if slices.is_empty() {
                confirm(conn, UNSUBSCRIBED[kind as usize], kind, None);
            }
        }
        for name in slices {
            if conn.subscriptions[kind as usize].remove(name) {
                let registration = self.pubsub.change(kind, name, conn.id, false);
                self.announce(&registration);
            }
            confirm(conn, UNSUBSCRIBED[kind as usize], kind, Some(name));
        }
    }

    /// Ends all subscriptions of a client without telling it.
    pub(crate) fn unsubscribe_all(&mut self, conn: &mut Conn) {
        for kind in [Kind::Channel, Kind::Pattern, Kind::Sharded] {
            for name in std::mem::take(&mut conn.subscriptions[kind as usize]) {
                let registration = self.pubsub.change(kind, &name, conn.id, false);
                self.announce(&registration);
            }
        }
    }

    fn announce(&mut self, registration: &Registration) {
        for worker in 0..self.config.workers {
            if worker != self.id {
                self.tell(worker, Message::Registered(registration.clone()));
            }
        }
    }

    fn publish(&mut self, conn: &mut Conn, sharded: bool, channel: &[u8], payload: &[u8]) {
        let mut receivers = 0;
        let mut workers = BTreeMap::new();
        for (_, subscribers) in self.pubsub.concerned(sharded, channel) {
            receivers += subscribers.count() as i64;
            workers.extend(subscribers.elsewhere.iter().map(|(&w, _)| (w, ())));
        }
        conn.reply().int(receivers);
        // The client itself is not in the map while it executes.
        let mut own = Vec::new();
        for (pattern, subscribers) in self.pubsub.concerned(sharded, channel) {
            own.extend(subscribers.here.iter().filter(|&&c| c == conn.id).map(|_| pattern));
        }
        for pattern in own {
            push_message(conn, sharded, pattern, channel, payload);
        }
        self.publish_elsewhere(sharded, channel, payload);
        self.deliver(sharded, channel, payload);
        for worker in workers.into_keys() {
            let (channel, payload) = (channel.to_vec(), payload.to_vec());
            self.tell(worker, Message::Publish { sharded, channel, payload });
        }
    }

    /// Sends a message to the other nodes of the cluster, for their subscribers.
    fn publish_elsewhere(&mut self, sharded: bool, channel: &[u8], payload: &[u8]) {
        let this = self.peers.node;
        for node in self.peers.nodes.clone().into_iter().filter(|node| *node != this) {
            let (channel, payload) = (channel.to_vec(), payload.to_vec());
            let message = PeerMessage::Publish { sharded, channel, payload };
            self.post(node, Address::Worker(0), &message);
        }
    }

    /// Sends another node's message to the subscribers of this one.
    pub(crate) fn publish_here(&mut self, sharded: bool, channel: &[u8], payload: &[u8]) {
        let concerned = self.pubsub.concerned(sharded, channel);
        let workers: BTreeSet<WorkerId> =
            concerned.flat_map(|(_, s)| s.elsewhere.keys().copied()).collect();
        self.deliver(sharded, channel, payload);
        for worker in workers {
            let (channel, payload) = (channel.to_vec(), payload.to_vec());
            self.tell(worker, Message::Publish { sharded, channel, payload });
        }
    }

    /// Sends a message to the subscribers of this worker.
    pub(crate) fn deliver(&mut self, sharded: bool, channel: &[u8], payload: &[u8]) {
        let mut receivers = Vec::new();
        for (pattern, subscribers) in self.pubsub.concerned(sharded, channel) {
            let pattern = pattern.map(<[u8]>::to_vec);
            receivers.extend(subscribers.here.iter().map(|&conn| (conn, pattern.clone())));
        }
        for (id, pattern) in receivers {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let conn = &mut client.conn;
            if conn.unsent + conn.output.len() > crate::conn::SUBSCRIBER_BYTES_MAX {
                self.effects.push(Effect::Close { conn: id });
                self.on_disconnected(id);
            } else {
                push_message(conn, sharded, pattern.as_deref(), channel, payload);
                self.activate(id);
            }
        }
    }
}

fn confirm(conn: &mut Conn, what: &[u8], kind: Kind, name: Option<&[u8]>) {
    let count = match kind {
        Kind::Sharded => conn.subscriptions[Kind::Sharded as usize].len(),
        _ => conn.subscriptions[0].len() + conn.subscriptions[1].len(),
    };
    let mut reply = conn.reply();
    reply.push(3);
    reply.bulk(what);
    match name {
        Some(name) => reply.bulk(name),
        None => reply.null(),
    }
    reply.int(count as i64);
}

fn push_message(
    conn: &mut Conn,
    sharded: bool,
    pattern: Option<&[u8]>,
    channel: &[u8],
    payload: &[u8],
) {
    let mut reply = conn.reply();
    match pattern {
        Some(pattern) => {
            reply.push(4);
            reply.bulk(b"pmessage");
            reply.bulk(pattern);
        }
        None => {
            reply.push(3);
            reply.bulk(if sharded { b"smessage" } else { b"message" });
        }
    }
    reply.bulk(channel);
    reply.bulk(payload);
}

fn pubsub(worker: &mut Worker, conn: &mut Conn, args: &[&[u8]]) {
    let (sub, rest) = (args[1], &args[2..]);
    let pubsub = &worker.pubsub;
    let mut reply = Reply::new(conn.output.buffer(), conn.proto);
    let channels = |reply: &mut Reply<'_>, kind| {
        let matching: Vec<&[u8]> = pubsub
            .all(kind)
            .map(|(name, _)| name)
            .filter(|name| rest.first().is_none_or(|pattern| glob(pattern, name)))
            .collect();
        reply.array(matching.len());
        matching.iter().for_each(|name| reply.bulk(name));
    };
    let counts = |reply: &mut Reply<'_>, kind| {
        // No map in RESP3 either.
        reply.array(rest.len() * 2);
        for name in rest {
            reply.bulk(name);
            reply.int(pubsub.count(kind, name) as i64);
        }
    };
    match sub {
        s if is_word(s, "channels") && rest.len() <= 1 => channels(&mut reply, Kind::Channel),
        s if is_word(s, "shardchannels") && rest.len() <= 1 => channels(&mut reply, Kind::Sharded),
        s if is_word(s, "numsub") => counts(&mut reply, Kind::Channel),
        s if is_word(s, "shardnumsub") => counts(&mut reply, Kind::Sharded),
        s if is_word(s, "numpat") && rest.is_empty() => {
            reply.int(pubsub.sizes()[Kind::Pattern as usize] as i64);
        }
        s if is_word(s, "help") => crate::session::help(
            &mut reply,
            "PUBSUB",
            &[
                (
                    "CHANNELS [<pattern>]",
                    "Return the currently active channels matching a <pattern> (default: '*').",
                ),
                ("NUMPAT", "Return number of subscriptions to patterns."),
                (
                    "NUMSUB [<channel> ...]",
                    "Return the number of subscribers for the specified channels, excluding pattern subscriptions(default: no channels).",
                ),
                (
                    "SHARDCHANNELS [<pattern>]",
                    "Return the currently active shard level channels matching a <pattern> (default: '*').",
                ),
                (
                    "SHARDNUMSUB [<shardchannel> ...]",
                    "Return the number of subscribers for the specified shard level channel(s)",
                ),
            ],
        ),
        s => reply.error(crate::session::wrong_subcommand("PUBSUB", s).as_bytes()),
    }
}
