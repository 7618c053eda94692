//! One session of a link between two nodes, without the socket: bytes in, parcels out.
//!
//! Between [`LinkEvent::Up`] and an error, parcels arrive whole, undamaged, in order and once. A
//! stream keeps that promise by itself most of the time; what does not, a frame that was lost,
//! doubled, moved or damaged, ends the session with an error that says so. A session that ended
//! stays ended: the driver closes the connection, tells its workers, and begins another one.
//!
//! # Frames
//!
//! ```text
//! frame    magic u32 │ length u32 │ sequence u64 │ body check u64 │ head check u64 │ body
//! hello    the first body of each side: version u32 │ cluster u64 │ node u64 │ nonce u64
//!          │ incarnation: id u64 │ replaced at u64
//! parcel   the body of every later frame; an empty one only shows that its sender is there
//! ```
//!
//! All numbers are little endian. Each side counts its frames from 0, the hello, without gaps.
//! The head has a check of its own, so that a damaged length is found before it is believed. Both
//! checks of a later frame are keyed by the two nonces and ids in the order sender, receiver:
//! a frame of another session, or of the other direction, does not pass. Checks find accidents
//! and mix-ups; they are no protection against someone who can read what the nodes say.
//!
//! # A session
//!
//! Both sides send their hello at once, and an empty frame when they have the other's. Only when
//! that frame passes its checks is the link up: whoever sent it knows this session's nonce, so
//! a hello that was left over from an earlier session cannot open one.
//!
//! Time is monotonic milliseconds, handed in. An idle side sends an empty frame each
//! [`KEEPALIVE_MS`]; [`SILENCE_MS`] without a byte end the session.

#[cfg(test)]
mod tests;

use quorate_base::Millis;
use quorate_base::hash::hash64;
use quorate_base::ids::NodeId;
use quorate_base::mutation::{Mutation, active};

/// What this release speaks; both sides must speak the same.
pub const LINK_VERSION: u32 = 1;
/// An idle side shows that it is there this often.
pub const KEEPALIVE_MS: Millis = 50;
/// A session ends when nothing came for this long.
pub const SILENCE_MS: Millis = 300;
/// A session ends when it is not up after this long.
pub const HANDSHAKE_MS: Millis = 1_000;
/// The largest parcel: as much as one frame of the journal can hold, and what a worker tells a
/// peer in one turn is mostly that.
pub const PARCEL_BYTES_MAX: usize = 3 << 30;

const MAGIC: u32 = u32::from_le_bytes(*b"QLNK");
const HEAD_BYTES: usize = 32;
const HELLO_BYTES: usize = 44;
/// A later version may say more in its hello than this one reads.
const HELLO_BYTES_MAX: usize = 4096;
/// What the checks of a hello are keyed by.
const HELLO_KEY: u64 = 0;

/// Who one side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster it belongs to.
    pub cluster: u64,
    /// Its id in there.
    pub node: NodeId,
    /// [`LINK_VERSION`].
    pub version: u32,
    /// A random number for this session only.
    pub nonce: u64,
}

/// A node's memory: all that one data directory has recorded since it was created. A node that
/// comes with another one under the same id has forgotten what it acknowledged and whom it voted
/// for, and must say so ([`quorate_log`] calls its replicas *lost*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incarnation {
    /// Random; 0 for a node that has none.
    pub id: u64,
    /// When it took the place of a lost one and began as lost, in milliseconds since 1970; 0 for
    /// the node's first.
    pub replaced_at: Millis,
}

impl Incarnation {
    /// Whether a node that was `known` may come as this one: unchanged, or as one that says it
    /// forgot everything and is the newest that did.
    pub fn may_follow(self, known: Self) -> bool {
        self == known || self.replaced_at > known.replaced_at
    }
}

/// What came over a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link is up, with this node at the other end. Once in a session, before any parcel.
    Up(NodeId),
    /// What the other end sealed.
    Parcel(Vec<u8>),
}

/// Why a session ended. All but [`LinkError::Silent`] are the other end's doing, or the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// What came is no frame.
    Malformed,
    /// A frame was damaged on its way, or belongs to another session.
    Checksum {
        /// Its number, as it should be.
        sequence: u64,
    },
    /// Frames were lost, doubled or came in another order.
    Sequence {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The other end belongs to another cluster.
    Cluster {
        /// The one of this node.
        ours: u64,
        /// The one it named.
        theirs: u64,
    },
    /// The other end speaks another version of this protocol.
    Version {
        /// What this node speaks.
        ours: u32,
        /// What it speaks.
        theirs: u32,
    },
    /// The other end is not the node that was expected.
    Node {
        /// Who should be there, if one was meant; any other node otherwise.
        expected: Option<NodeId>,
        /// Who is there.
        found: NodeId,
    },
    /// Nothing came for too long.
    Silent {
        /// How long, in milliseconds.
        silent_ms: Millis,
    },
    /// A frame claims to be larger than any can be.
    TooLong {
        /// The claimed bytes of its body.
        bytes: u64,
    },
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Malformed => {
                write!(
                    f,
                    "what came is not the protocol of nodes; is that address another service's?"
                )
            }
            Self::Checksum { sequence } => {
                write!(f, "frame {sequence} was damaged on its way or belongs to another session")
            }
            Self::Sequence { expected, found } => {
                write!(f, "frame {found} came where {expected} belongs: some were lost or doubled")
            }
            Self::Cluster { ours, theirs } => write!(
                f,
                "the node there belongs to another cluster ({theirs:016x}, this one is \
                 {ours:016x}): all nodes need the same \
                 cluster name, node ids and spaces"
            ),
            Self::Version { ours, theirs } => write!(
                f,
                "the node there speaks version {theirs} of the link protocol, this one {ours}: \
                 run the same release on all nodes"
            ),
            Self::Node { expected: Some(expected), found } => write!(
                f,
                "node {found} is where node {expected} should be: check the addresses of the peers"
            ),
            Self::Node { expected: None, found } => {
                write!(f, "node {found} should not connect here: does another node have that id?")
            }
            Self::Silent { silent_ms } => write!(f, "nothing came for {silent_ms} ms"),
            Self::TooLong { bytes } => {
                write!(f, "a frame of {bytes} bytes is more than the {PARCEL_BYTES_MAX} possible")
            }
        }
    }
}

impl std::error::Error for LinkError {}

/// One end of one session.
#[derive(Debug)]
pub struct Link {
    me: Hello,
    incarnation: Incarnation,
    expected: Option<NodeId>,
    peer: Option<Peer>,
    up: bool,
    failed: Option<LinkError>,

    // Sending.
    sent: u64,
    /// When an empty frame is due; `None` until there is a key to seal it with.
    keepalive_at: Option<Millis>,

    // Receiving: the frame under way.
    received: u64,
    head: Option<Head>,
    buffer: Vec<u8>,
    heard_at: Millis,
    up_until: Millis,
}

/// What a hello told.
#[derive(Clone, Copy, Debug)]
struct Peer {
    node: NodeId,
    incarnation: Incarnation,
    /// Of what it sends.
    in_key: u64,
    /// Of what is sent to it.
    out_key: u64,
}

/// The head of a frame, checked.
#[derive(Clone, Copy, Debug)]
struct Head {
    body_bytes: usize,
    body_check: u64,
}

impl Link {
    /// A session that begins. `expected` is who must be at the other end; `None` takes any other
    /// node of the cluster.
    pub fn new(me: Hello, expected: Option<NodeId>, now: Millis) -> Self {
        Self {
            me,
            incarnation: Incarnation::default(),
            expected,
            peer: None,
            up: false,
            failed: None,
            sent: 0,
            keepalive_at: None,
            received: 0,
            head: None,
            buffer: Vec::new(),
            heard_at: now,
            up_until: now + HANDSHAKE_MS,
        }
    }

    /// The same link, of a node that has this memory.
    #[must_use]
    pub fn with_incarnation(self, incarnation: Incarnation) -> Self {
        Self { incarnation, ..self }
    }

    /// The first bytes to send. Both sides begin with this, once.
    pub fn start(&mut self, _now: Millis) -> Vec<u8> {
        assert_eq!(self.sent, 0, "a session starts once");
        let mut body = Vec::with_capacity(HELLO_BYTES);
        body.extend_from_slice(&self.me.version.to_le_bytes());
        body.extend_from_slice(&self.me.cluster.to_le_bytes());
        body.extend_from_slice(&self.me.node.to_le_bytes());
        body.extend_from_slice(&self.me.nonce.to_le_bytes());
        body.extend_from_slice(&self.incarnation.id.to_le_bytes());
        body.extend_from_slice(&self.incarnation.replaced_at.to_le_bytes());
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
        self.put_frame(HELLO_KEY, &body, &mut out);
        out
    }

    /// Takes bytes in the order in which they came, cut anywhere, and appends what they say to
    /// `out`. Afterwards [`Link::tick`] may be due at once. What was appended before an error
    /// counts.
    pub fn received(
        &mut self,
        now: Millis,
        bytes: &[u8],
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        if !bytes.is_empty() {
            self.heard_at = now;
        }
        let result = self.take(now, bytes, out);
        result.map_err(|error| self.fail(error))
    }

    /// A frame with `parcel`, which holds at most [`PARCEL_BYTES_MAX`] bytes and at least one, to
    /// be sent behind everything before. Only while the link is up.
    pub fn seal(&mut self, now: Millis, parcel: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + parcel.len());
        self.seal_into(now, parcel, &mut out);
        out
    }

    /// The same, appended to `out`.
    pub fn seal_into(&mut self, now: Millis, parcel: &[u8], out: &mut Vec<u8>) {
        assert!(self.is_up(), "parcels are sent over links that are up");
        assert!(!parcel.is_empty(), "an empty parcel says nothing");
        assert!(parcel.len() <= PARCEL_BYTES_MAX, "a parcel of {} bytes", parcel.len());
        let peer = self.peer.expect("a link that is up has a peer");
        self.put_frame(peer.out_key, parcel, out);
        self.keepalive_at = Some(now + KEEPALIVE_MS);
    }

    /// Moves time to `now`: appends an empty frame to `out` when one is due, and fails when
    /// nothing came for too long.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<u8>) -> Result<(), LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        let silent_ms = now.saturating_sub(self.heard_at);
        if silent_ms >= SILENCE_MS || (!self.up && now >= self.up_until) {
            return Err(self.fail(LinkError::Silent { silent_ms }));
        }
        if let Some(peer) = self.peer
            && self.keepalive_at.is_some_and(|at| now >= at)
        {
            self.put_frame(peer.out_key, &[], out);
            self.keepalive_at = Some(now + KEEPALIVE_MS);
        }
        Ok(())
    }

    /// Tells that this end itself does not take what comes at the moment: silence says nothing.
    pub fn hold(&mut self, now: Millis) {
        self.heard_at = now;
    }

    /// When [`Link::tick`] is wanted next. A received hello makes that now.
    pub fn next_deadline(&self) -> Millis {
        let mut at = self.heard_at + SILENCE_MS;
        if !self.up {
            at = at.min(self.up_until);
        }
        self.keepalive_at.map_or(at, |keepalive| keepalive.min(at))
    }

    /// Who said hello at the other end.
    pub fn peer(&self) -> Option<NodeId> {
        self.peer.map(|peer| peer.node)
    }

    /// Which memory it has. A driver that knows another one must not answer: the link is up at
    /// the other end as soon as that got a frame behind the hello.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.peer.map(|peer| peer.incarnation)
    }

    /// Whether parcels can be sealed.
    pub fn is_up(&self) -> bool {
        self.up
    }

    // --- receiving ---------------------------------------------------------------------------

    fn take(
        &mut self,
        now: Millis,
        mut bytes: &[u8],
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), LinkError> {
        loop {
            // The buffer grows with what came, never by what a head claims.
            let wanted = self.head.map_or(HEAD_BYTES, |head| head.body_bytes);
            let (some, rest) = bytes.split_at(bytes.len().min(wanted - self.buffer.len()));
            self.buffer.extend_from_slice(some);
            bytes = rest;
            if self.buffer.len() < wanted {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.buffer);
            match self.head.take() {
                None => self.head = Some(self.on_head(&whole)?),
                Some(head) => self.on_body(now, head, whole, out)?,
            }
        }
    }

    fn on_head(&self, bytes: &[u8]) -> Result<Head, LinkError> {
        let key = self.peer.map_or(HELLO_KEY, |peer| peer.in_key);
        if u32_at(bytes, 0) != MAGIC {
            return Err(LinkError::Malformed);
        }
        self.check(hash64(key, &bytes[..HEAD_BYTES - 8]), u64_at(bytes, 24))?;
        let body_bytes = u32_at(bytes, 4) as usize;
        let bytes_max = if self.peer.is_some() { PARCEL_BYTES_MAX } else { HELLO_BYTES_MAX };
        if body_bytes > bytes_max {
            return Err(LinkError::TooLong { bytes: body_bytes as u64 });
        }
        let sequence = u64_at(bytes, 8);
        if sequence != self.received {
            return Err(LinkError::Sequence { expected: self.received, found: sequence });
        }
        Ok(Head { body_bytes, body_check: u64_at(bytes, 16) })
    }

    fn on_body(
        &mut self,
        now: Millis,
        head: Head,
        body: Vec<u8>,
        out: &mut Vec<LinkEvent>,
    ) -> Result<(), LinkError> {
        let Some(peer) = self.peer else {
            self.check(hash64(HELLO_KEY, &body), head.body_check)?;
            self.received += 1;
            return self.on_hello(now, &body);
        };
        self.check(hash64(peer.in_key, &body), head.body_check)?;
        self.received += 1;
        if !self.up {
            self.up = true;
            out.push(LinkEvent::Up(peer.node));
        }
        if !body.is_empty() {
            out.push(LinkEvent::Parcel(body));
        }
        Ok(())
    }

    fn on_hello(&mut self, now: Millis, body: &[u8]) -> Result<(), LinkError> {
        // The version comes first, whatever a later one puts behind it.
        if body.len() < 4 {
            return Err(LinkError::Malformed);
        }
        let (me, version) = (self.me, u32_at(body, 0));
        if version != me.version {
            return Err(LinkError::Version { ours: me.version, theirs: version });
        }
        if body.len() != HELLO_BYTES {
            return Err(LinkError::Malformed);
        }
        let (cluster, node, nonce) = (u64_at(body, 4), u64_at(body, 12), u64_at(body, 20));
        if cluster != me.cluster {
            return Err(LinkError::Cluster { ours: me.cluster, theirs: cluster });
        }
        if node == me.node || node == 0 || self.expected.is_some_and(|expected| expected != node) {
            return Err(LinkError::Node { expected: self.expected, found: node });
        }
        let theirs = Hello { cluster, node, version, nonce };
        let incarnation = Incarnation { id: u64_at(body, 28), replaced_at: u64_at(body, 36) };
        let (in_key, out_key) = (key(&theirs, &me), key(&me, &theirs));
        self.peer = Some(Peer { node, incarnation, in_key, out_key });
        self.keepalive_at = Some(now);
        Ok(())
    }

    fn check(&self, computed: u64, found: u64) -> Result<(), LinkError> {
        if computed == found || active(Mutation::IgnoreChecksum) {
            return Ok(());
        }
        Err(LinkError::Checksum { sequence: self.received })
    }

    fn fail(&mut self, error: LinkError) -> LinkError {
        self.up = false;
        self.failed = Some(error);
        self.buffer = Vec::new();
        error
    }

    // --- sending -----------------------------------------------------------------------------

    fn put_frame(&mut self, key: u64, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let body_bytes = u32::try_from(body.len()).expect("a body within its bound");
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&body_bytes.to_le_bytes());
        out.extend_from_slice(&self.sent.to_le_bytes());
        out.extend_from_slice(&hash64(key, body).to_le_bytes());
        let head_check = hash64(key, &out[start..]);
        out.extend_from_slice(&head_check.to_le_bytes());
        out.extend_from_slice(body);
        self.sent += 1;
    }
}

/// What the checks of everything but hellos are keyed by, from one end to the other.
fn key(from: &Hello, to: &Hello) -> u64 {
    let mut bytes = [0; 32];
    for (at, number) in [from.nonce, to.nonce, from.node, to.node].into_iter().enumerate() {
        bytes[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
    }
    hash64(from.cluster, &bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
