//! Sessions between nodes: the driver that the binary has for its sockets, for simulated ones.

use super::{What, World};
use crate::machine::Input;
use crate::net::{End, Packet, Payload};
use crate::queue::Micros;
use quorate_base::ids::NodeId;
use quorate_base::rare::RarePath;
use quorate_node::link::{Hello, LINK_VERSION, Link, LinkError, LinkEvent};
use quorate_node::peer::split;

/// The id of every simulated cluster.
const CLUSTER: u64 = 0x5155_4f52_4154_4531;

fn id(node: usize) -> NodeId {
    node as NodeId + 1
}

impl World {
    fn transmit(&mut self, from: usize, to: usize, session: u64, payload: Payload) {
        let packet = Packet { from, to, session, payload };
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.net.send(self.now, packet, &mut self.trace, &mut arrivals);
        for (at, packet) in arrivals.drain(..) {
            self.queue.push(at, What::Packet(packet));
        }
        self.arrivals = arrivals;
    }

    /// Plans an attempt to connect, if it is this node that dials and it is not connected.
    pub(crate) fn plan_dial(&mut self, node: usize, peer: usize, after: Micros) {
        if node < peer
            && self.machines[node].process.is_some()
            && self.net.begins_dialing(node, peer)
        {
            let wait = after + self.net.backoff(node, peer);
            self.queue.push(self.now + wait, What::Dial { node, peer });
        }
    }

    pub(crate) fn dial(&mut self, node: usize, peer: usize) {
        let wanted = self.net.dials(node, peer);
        if !wanted || self.machines[node].process.is_none() {
            return;
        }
        let session = self.net.new_session();
        self.transmit(node, peer, session, Payload::Dial);
        // If nothing comes of it.
        self.plan_dial(node, peer, 0);
    }

    /// Begins this node's end of a session.
    fn begin_session(&mut self, node: usize, peer: usize, session: u64) {
        let now = self.machines[node].clock.read(self.now).mono;
        let nonce = self.net.nonce();
        let me = Hello { cluster: CLUSTER, node: id(node), version: LINK_VERSION, nonce };
        let mut link = Link::new(me, Some(id(peer)), now);
        let hello = link.start(now);
        *self.net.end(node, peer) = Some(End { link, session, up: false, look_at: None });
        self.transmit(node, peer, session, Payload::Frame(hello));
        self.plan_look(node, peer);
    }

    /// Ends this node's end of a session and tells the other one if `says`.
    fn end_session(&mut self, node: usize, peer: usize, says: bool) {
        let Some(end) = self.net.end(node, peer).take() else { return };
        if end.up {
            self.deliver_all(node, || Input::PeerDown(id(peer)));
        }
        if says {
            self.transmit(node, peer, end.session, Payload::Reset);
        }
        self.plan_dial(node, peer, 0);
    }

    /// A process is gone, and with it its ends of all sessions.
    pub(crate) fn drop_links(&mut self, node: usize, says: bool) {
        for peer in 0..self.shape.nodes {
            if peer != node {
                self.end_session(node, peer, says);
            }
        }
    }

    pub(crate) fn on_packet(&mut self, packet: Packet) {
        let Some(packet) = self.net.arrive(packet) else { return };
        let Packet { from, to, session, payload } = packet;
        if self.machines[to].process.is_none() {
            return;
        }
        let known = self.net.end(to, from).as_ref().map(|end| end.session);
        match payload {
            Payload::Dial => {
                // An old attempt that comes late does not end what came after it.
                if known.is_some_and(|known| known >= session) {
                    return;
                }
                self.end_session(to, from, false);
                self.transmit(to, from, session, Payload::Accept);
                self.begin_session(to, from, session);
            }
            Payload::Accept if known.is_none() => self.begin_session(to, from, session),
            Payload::Accept => self.transmit(to, from, session, Payload::Reset),
            Payload::Reset if known == Some(session) => self.end_session(to, from, false),
            Payload::Frame(bytes) if known == Some(session) => self.on_frame(to, from, &bytes),
            Payload::Frame(_) => self.transmit(to, from, session, Payload::Reset),
            Payload::Reset => {}
        }
    }

    fn on_frame(&mut self, node: usize, peer: usize, bytes: &[u8]) {
        let now = self.machines[node].clock.read(self.now).mono;
        let Some(end) = self.net.end(node, peer) else { return };
        let mut events = Vec::new();
        let result = end.link.received(now, bytes, &mut events);
        for event in events {
            match event {
                LinkEvent::Up(_) => {
                    let Some(end) = self.net.end(node, peer) else { return };
                    end.up = true;
                    let session = end.session;
                    self.net.connected(node, peer);
                    self.deliver_all(node, || Input::PeerUp(id(peer), session));
                }
                LinkEvent::Parcel(parcel) => self.on_parcel(node, peer, &parcel),
            }
        }
        match result {
            Ok(()) => self.look(node, peer),
            Err(error) => {
                self.trace.add([self.now, node as u64, peer as u64, 21]);
                match broken_by(error) {
                    Some(path) => self.reached.mark(path),
                    None => self.violate(format!("node {} refuses a link: {error}", node + 1)),
                }
                self.end_session(node, peer, true);
            }
        }
    }

    fn on_parcel(&mut self, node: usize, peer: usize, parcel: &[u8]) {
        match split(parcel, self.shape.workers) {
            Some(parts) => {
                for (worker, bytes) in parts {
                    self.deliver(node, worker, Input::Peer(id(peer), bytes));
                }
            }
            // What passed a checksum and makes no sense was never sent.
            None => self.violate(format!("node {} got a parcel that makes no sense", node + 1)),
        }
    }

    /// Sends a parcel in this session, if it lasts.
    pub(crate) fn send_parcel(&mut self, node: usize, peer: usize, session: u64, parcel: &[u8]) {
        let now = self.machines[node].clock.read(self.now).mono;
        let Some(end) = self.net.end(node, peer) else { return };
        if end.session != session || !end.link.is_up() || parcel.is_empty() {
            return;
        }
        let frame = end.link.seal(now, parcel);
        self.transmit(node, peer, session, Payload::Frame(frame));
    }

    pub(crate) fn look_at_link(&mut self, node: usize, peer: usize, session: u64) {
        let now = self.now;
        let Some(end) = self.net.end(node, peer) else { return };
        if end.session == session && end.look_at.is_some_and(|at| at <= now) {
            end.look_at = None;
            self.look(node, peer);
        }
    }

    /// Lets a link do what is due.
    fn look(&mut self, node: usize, peer: usize) {
        let now = self.machines[node].clock.read(self.now).mono;
        let Some(end) = self.net.end(node, peer) else { return };
        if end.link.next_deadline() > now {
            return self.plan_look(node, peer);
        }
        let mut bytes = Vec::new();
        let (session, result) = (end.session, end.link.tick(now, &mut bytes));
        if !bytes.is_empty() {
            self.transmit(node, peer, session, Payload::Frame(bytes));
        }
        match result {
            Ok(()) => self.plan_look(node, peer),
            Err(_) => {
                self.reached.mark(RarePath::LinkSilent);
                self.end_session(node, peer, true);
            }
        }
    }

    fn plan_look(&mut self, node: usize, peer: usize) {
        let now = self.now;
        let clock = &self.machines[node].clock;
        let Some(end) = self.net.end(node, peer) else { return };
        let at = clock.when(now, end.link.next_deadline());
        if end.look_at.is_none_or(|planned| at < planned) {
            end.look_at = Some(at);
            let session = end.session;
            self.queue.push(at, What::LookAtLink { node, peer, session });
        }
    }
}

/// What the network did to a link; `None` for what only nodes that do not belong together say.
fn broken_by(error: LinkError) -> Option<RarePath> {
    match error {
        LinkError::Checksum { .. } | LinkError::Malformed | LinkError::TooLong { .. } => {
            Some(RarePath::LinkDamaged)
        }
        LinkError::Sequence { .. } => Some(RarePath::LinkGap),
        LinkError::Cluster { .. }
        | LinkError::Version { .. }
        | LinkError::Node { .. }
        | LinkError::Silent { .. } => None,
    }
}
