//! The network between the nodes: for each pair a stream in each direction, sessions over it, and
//! what may happen to a packet.
//!
//! A packet is one frame of a link. It takes the latency of the two regions and some jitter, and
//! as in TCP it does not overtake what was sent before, unless a fault has it do so. Packets over
//! a cut link are lost, or wait for it to heal, as a run's shape decides.
//!
//! The node with the lower number dials. [`Payload::Dial`] asks, [`Payload::Accept`] answers, and
//! [`Payload::Reset`] tells that there is no such session (any more).

use crate::chance::{between, ppm};
use crate::fault::Noise;
use crate::queue::{MILLISECOND, Micros};
use crate::shape::Shape;
use crate::trace::{Told, Trace};
use quorate_base::Prng;
use quorate_node::link::Link;
use std::collections::VecDeque;

/// What a lost packet is late by when it is sent again.
const RESEND: Micros = 200 * MILLISECOND;

/// The first and the longest pause between two attempts to connect.
const BACKOFF_MIN: Micros = 20 * MILLISECOND;
const BACKOFF_MAX: Micros = 500 * MILLISECOND;

/// What a packet carries.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Dial,
    Accept,
    Reset,
    /// A frame of a link.
    Frame(Vec<u8>),
}

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) session: u64,
    pub(crate) payload: Payload,
}

/// One end of a session.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) link: Link,
    pub(crate) session: u64,
    /// The workers know.
    pub(crate) up: bool,
    /// When the link is to be looked at.
    pub(crate) look_at: Option<Micros>,
}

/// One direction between two nodes.
#[derive(Debug, Default)]
struct Lane {
    cuts: u32,
    extra_us: Micros,
    /// When the last packet that keeps the order arrives.
    last_us: Micros,
    /// What waits for the link to heal.
    held: VecDeque<Packet>,
    /// This end's session with the other node.
    end: Option<End>,
    /// The next attempt to connect is planned.
    dialing: bool,
    backoff_us: Micros,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Net {
    nodes: usize,
    latency_us: Vec<Micros>,
    /// By `from * nodes + to`.
    lanes: Vec<Lane>,
    noise: Vec<Noise>,
    jitter: u64,
    cuts_drop: bool,
    last_session: u64,
    prng: Prng,
    /// Packets sent, lost and damaged.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) damaged: u64,
}

impl Net {
    /// The network of a cluster.
    pub(crate) fn new(shape: &Shape, mut prng: Prng) -> Self {
        let nodes = shape.nodes;
        let pairs =
            (0..nodes * nodes).map(|i| (shape.regions[i / nodes], shape.regions[i % nodes]));
        Self {
            nodes,
            latency_us: pairs.map(|(a, b)| shape.latency_us[a][b]).collect(),
            lanes: (0..nodes * nodes).map(|_| Lane::default()).collect(),
            noise: Vec::new(),
            jitter: shape.knobs.jitter,
            cuts_drop: prng.below(2) == 0,
            last_session: 0,
            prng,
            sent: 0,
            lost: 0,
            damaged: 0,
        }
    }

    /// Sends a packet: what arrives, and when.
    pub(crate) fn send(
        &mut self,
        now: Micros,
        packet: Packet,
        trace: &mut Trace,
        arrivals: &mut Vec<(Micros, Packet)>,
    ) {
        self.sent += 1;
        let noise = self.noise_now();
        let (from, to) = (packet.from, packet.to);
        let bytes = if let Payload::Frame(bytes) = &packet.payload { bytes.len() } else { 0 };
        let told = |arrives, damaged| move || Told::Packet { from, to, arrives, bytes, damaged };
        let base = self.latency_us[from * self.nodes + to];
        let jitter = self.prng.below(base * self.jitter / 1_000 + 1);
        let lane = &mut self.lanes[from * self.nodes + to];
        let mut at = now + base + jitter + lane.extra_us;
        let is_frame = bytes > 0;
        if is_frame && ppm(&mut self.prng, noise.lose) || lane.cuts > 0 && self.cuts_drop {
            self.lost += 1;
            trace.tell(now, told(None, false));
            return;
        }
        if ppm(&mut self.prng, noise.resend) {
            at += RESEND;
        }
        if is_frame && ppm(&mut self.prng, noise.reorder) {
            at += between(&mut self.prng, 1, 5 * base);
        } else {
            at = at.max(lane.last_us);
            lane.last_us = at;
        }
        let mut packet = packet;
        let mut damaged = false;
        if is_frame && ppm(&mut self.prng, noise.damage) {
            damaged = true;
            self.damaged += 1;
            flip(&mut packet, &mut self.prng);
        }
        trace.tell(now, told(Some(at), damaged));
        if is_frame && ppm(&mut self.prng, noise.double) {
            arrivals.push((at + self.prng.below(base + 1), packet.clone()));
        }
        arrivals.push((at, packet));
    }

    /// A packet arrives, unless its way is cut.
    pub(crate) fn arrive(&mut self, packet: Packet) -> Option<Packet> {
        let lane = &mut self.lanes[packet.from * self.nodes + packet.to];
        if lane.cuts == 0 && lane.held.is_empty() {
            return Some(packet);
        }
        if self.cuts_drop {
            self.lost += 1;
        } else {
            lane.held.push_back(packet);
        }
        None
    }

    /// A new session.
    pub(crate) fn new_session(&mut self) -> u64 {
        self.last_session += 1;
        self.last_session
    }

    /// The end of `node` in its session with `peer`.
    pub(crate) fn end(&mut self, node: usize, peer: usize) -> &mut Option<End> {
        &mut self.lanes[node * self.nodes + peer].end
    }

    /// Whether `node` is to plan an attempt to connect to `peer`; then it has.
    pub(crate) fn begins_dialing(&mut self, node: usize, peer: usize) -> bool {
        let lane = &mut self.lanes[node * self.nodes + peer];
        node < peer && lane.end.is_none() && !std::mem::replace(&mut lane.dialing, true)
    }

    /// The planned attempt has come; false if it is not needed.
    pub(crate) fn dials(&mut self, node: usize, peer: usize) -> bool {
        let lane = &mut self.lanes[node * self.nodes + peer];
        lane.dialing = false;
        lane.end.is_none()
    }

    /// How long to wait before the next attempt.
    pub(crate) fn backoff(&mut self, node: usize, peer: usize) -> Micros {
        let round_trip = 2 * self.latency_us[node * self.nodes + peer];
        let lane = &mut self.lanes[node * self.nodes + peer];
        let wait = lane.backoff_us.clamp(BACKOFF_MIN, BACKOFF_MAX);
        lane.backoff_us = 2 * wait;
        wait / 2 + self.prng.below(wait / 2 + 1) + round_trip
    }

    /// A session came up.
    pub(crate) fn connected(&mut self, node: usize, peer: usize) {
        self.lanes[node * self.nodes + peer].backoff_us = 0;
    }

    /// A random number for a session.
    pub(crate) fn nonce(&mut self) -> u64 {
        self.prng.next_u64()
    }

    // --- faults ------------------------------------------------------------------------------

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.lanes[from * self.nodes + to].cuts += 1;
    }

    /// Ends a cut; what waited arrives soon, in order.
    pub(crate) fn mend(
        &mut self,
        now: Micros,
        from: usize,
        to: usize,
        arrivals: &mut Vec<(Micros, Packet)>,
    ) {
        let lane = &mut self.lanes[from * self.nodes + to];
        lane.cuts = lane.cuts.saturating_sub(1);
        if lane.cuts == 0 && !lane.held.is_empty() {
            let at = (now + self.prng.below(RESEND)).max(lane.last_us);
            lane.last_us = at;
            arrivals.extend(lane.held.drain(..).map(|packet| (at, packet)));
        }
    }

    /// Makes a link slower by so much, or faster again.
    pub(crate) fn slow(&mut self, a: usize, b: usize, extra_us: i64) {
        for lane in [a * self.nodes + b, b * self.nodes + a] {
            let lane = &mut self.lanes[lane];
            lane.extra_us = lane.extra_us.saturating_add_signed(extra_us);
        }
    }

    /// Noise begins.
    pub(crate) fn begin_noise(&mut self, noise: Noise) {
        self.noise.push(noise);
    }

    /// Noise ends.
    pub(crate) fn end_noise(&mut self, noise: Noise) {
        if let Some(at) = self.noise.iter().position(|n| *n == noise) {
            self.noise.remove(at);
        }
    }

    fn noise_now(&self) -> Noise {
        self.noise.iter().fold(Noise::default(), |sum, n| Noise {
            lose: sum.lose + n.lose,
            resend: sum.resend + n.resend,
            double: sum.double + n.double,
            reorder: sum.reorder + n.reorder,
            damage: sum.damage + n.damage,
        })
    }
}

fn flip(packet: &mut Packet, prng: &mut Prng) {
    if let Payload::Frame(bytes) = &mut packet.payload {
        let bit = prng.below(bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}
