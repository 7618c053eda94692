//! The messages between nodes.
//!
//! ```text
//! 1 RAFT      bytes of the shard's log
//! 2 REQUEST   ticket │ round │ named u8 │ [session u64 │ number │ floor] │ proto u8 │ body
//! 3 ANSWER    ticket │ reply
//! 4 REFUSED   round │ ticket │ why u8: 0 the whole round, 1 the session is not known
//! 5 CANCEL    ticket │ how u8: 0 nobody waits, 1 as if its time were over, 2 with an error
//! 6 PUBLISH   sharded u8 │ channel │ payload
//! 7 CHUNK     transfer u64 │ number │ applied │ term │ keys │ last u8 │ ( key │ value ) …
//! 8 RECEIVED  transfer u64 │ number
//! 9 WANT      a snapshot of the shard
//! 10 ABOUT    ( field │ value ) …: 1 client address, 2 version; of the sender
//! 11 PING     stamp
//! 12 PONG     stamp
//!
//! body        1 COMMAND args │ 2 PART args │ 3 EXEC count × ( key │ live u8 │ token ), count × args
//!             │ 4 WATCH args │ 5 OPEN session u64 │ 6 OUTCOME session u64 │ number
//! args        count │ count × argument
//! ```
//!
//! A node drops messages that it does not know, and fields of ABOUT: later releases may say more.
//!
//! Numbers without a type are varints; byte strings carry a varint length.

use crate::job::Args;
use crate::status::PeerAbout;
use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_base::{Index, Term};
use quorate_data::requests::RequestId;
use quorate_data::table::Mark;
use quorate_resp::Proto;

/// A message between nodes about one shard, or a published one.
#[derive(Debug, PartialEq)]
pub(crate) enum PeerMessage {
    Raft(Vec<u8>),
    Request(Request),
    Answer { ticket: u64, reply: Vec<u8> },
    Refused { round: u64, ticket: u64, why: Refusal },
    Cancel { ticket: u64, how: Cancel },
    Publish { sharded: bool, channel: Vec<u8>, payload: Vec<u8> },
    Chunk(Chunk),
    Received { transfer: u64, number: u64 },
    Want,
    About(PeerAbout),
    Ping { stamp: u64 },
    Pong { stamp: u64 },
}

/// A request on its way to the leader of its shard.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    /// Where the gateway keeps it.
    pub(crate) ticket: u64,
    /// All that the gateway has in flight is of one round; what was refused is sent in the next.
    pub(crate) round: u64,
    /// The name of a write, and up to which number of its session everything was answered.
    pub(crate) name: Option<(RequestId, u64)>,
    pub(crate) proto: Proto,
    pub(crate) body: Body,
}

/// What is requested.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A command whose keys are all in the shard.
    Command(Args),
    /// The shard's part of a command over the whole keyspace.
    Part(Args),
    /// A transaction: what was watched, and the queued commands.
    Exec { watched: Vec<(Vec<u8>, bool, u64)>, commands: Vec<Args> },
    /// What to remember of watched keys.
    Watch(Args),
    /// A session of requests begins.
    Open(u64),
    /// What became of a request.
    Outcome(RequestId),
}

/// Why a request was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The receiver does not lead: nothing of this round is executed from here on.
    NotLeader,
    /// The session of this request is not known.
    NoSession,
}

/// How a request that waits is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// Nobody waits for its answer.
    Gone,
    /// As if its time were over.
    TimeOut,
    /// With the error of CLIENT UNBLOCK.
    Error,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) transfer: u64,
    /// From 0.
    pub(crate) number: u64,
    /// What the whole snapshot contains.
    pub(crate) mark: Mark,
    pub(crate) last: bool,
    /// Ascending.
    pub(crate) pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl PeerMessage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Raft(bytes) => {
                out.reserve(bytes.len() + 1);
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Self::Request(request) => {
                out.push(2);
                put_varint(&mut out, request.ticket);
                put_varint(&mut out, request.round);
                out.push(u8::from(request.name.is_some()));
                if let Some((id, floor)) = request.name {
                    out.extend_from_slice(&id.session.to_le_bytes());
                    put_varint(&mut out, id.number);
                    put_varint(&mut out, floor);
                }
                out.push(if request.proto == Proto::Resp3 { 3 } else { 2 });
                request.body.encode(&mut out);
            }
            Self::Answer { ticket, reply } => {
                out.push(3);
                put_varint(&mut out, *ticket);
                put_bytes(&mut out, reply);
            }
            Self::Refused { round, ticket, why } => {
                out.push(4);
                put_varint(&mut out, *round);
                put_varint(&mut out, *ticket);
                out.push(match why {
                    Refusal::NotLeader => 0,
                    Refusal::NoSession => 1,
                });
            }
            Self::Cancel { ticket, how } => {
                out.push(5);
                put_varint(&mut out, *ticket);
                out.push(match how {
                    Cancel::Gone => 0,
                    Cancel::TimeOut => 1,
                    Cancel::Error => 2,
                });
            }
            Self::Publish { sharded, channel, payload } => {
                out.extend([6, u8::from(*sharded)]);
                put_bytes(&mut out, channel);
                put_bytes(&mut out, payload);
            }
            Self::Chunk(chunk) => {
                out.push(7);
                out.extend_from_slice(&chunk.transfer.to_le_bytes());
                for number in [chunk.number, chunk.mark.applied, chunk.mark.term, chunk.mark.keys] {
                    put_varint(&mut out, number);
                }
                out.push(u8::from(chunk.last));
                for (key, value) in &chunk.pairs {
                    put_bytes(&mut out, key);
                    put_bytes(&mut out, value);
                }
            }
            Self::Received { transfer, number } => {
                out.push(8);
                out.extend_from_slice(&transfer.to_le_bytes());
                put_varint(&mut out, *number);
            }
            Self::Want => out.push(9),
            Self::About(about) => {
                out.push(10);
                for (field, value) in [(1, &about.client_address), (2, &about.version)] {
                    put_varint(&mut out, field);
                    put_bytes(&mut out, value.as_bytes());
                }
            }
            Self::Ping { stamp } => {
                out.push(11);
                put_varint(&mut out, *stamp);
            }
            Self::Pong { stamp } => {
                out.push(12);
                put_varint(&mut out, *stamp);
            }
        }
        out
    }

    /// `None` if no node of ours would send it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            1 => return Some(Self::Raft(reader.rest().to_vec())),
            2 => {
                let (ticket, round) = (reader.varint()?, reader.varint()?);
                let name = if flag(&mut reader)? {
                    let id = RequestId { session: reader.u64()?, number: reader.varint()? };
                    Some((id, reader.varint()?))
                } else {
                    None
                };
                let proto = match reader.u8()? {
                    2 => Proto::Resp2,
                    3 => Proto::Resp3,
                    _ => return None,
                };
                let body = Body::decode(&mut reader)?;
                Self::Request(Request { ticket, round, name, proto, body })
            }
            3 => Self::Answer { ticket: reader.varint()?, reply: reader.bytes()?.to_vec() },
            4 => {
                let (round, ticket) = (reader.varint()?, reader.varint()?);
                let why = match reader.u8()? {
                    0 => Refusal::NotLeader,
                    1 => Refusal::NoSession,
                    _ => return None,
                };
                Self::Refused { round, ticket, why }
            }
            5 => {
                let ticket = reader.varint()?;
                let how = match reader.u8()? {
                    0 => Cancel::Gone,
                    1 => Cancel::TimeOut,
                    2 => Cancel::Error,
                    _ => return None,
                };
                Self::Cancel { ticket, how }
            }
            6 => {
                let sharded = flag(&mut reader)?;
                let (channel, payload) = (reader.bytes()?.to_vec(), reader.bytes()?.to_vec());
                Self::Publish { sharded, channel, payload }
            }
            7 => {
                let (transfer, number) = (reader.u64()?, reader.varint()?);
                let (applied, term, keys): (Index, Term, u64) =
                    (reader.varint()?, reader.varint()?, reader.varint()?);
                let last = flag(&mut reader)?;
                let mut pairs = Vec::new();
                while !reader.is_empty() {
                    pairs.push((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()));
                }
                let mark = Mark { applied, term, keys };
                Self::Chunk(Chunk { transfer, number, mark, last, pairs })
            }
            8 => Self::Received { transfer: reader.u64()?, number: reader.varint()? },
            9 => Self::Want,
            10 => Self::About(about(&mut reader)?),
            11 => Self::Ping { stamp: reader.varint()? },
            12 => Self::Pong { stamp: reader.varint()? },
            _ => return None,
        };
        reader.is_empty().then_some(message)
    }
}

fn about(reader: &mut Reader<'_>) -> Option<PeerAbout> {
    let mut about = PeerAbout::default();
    while !reader.is_empty() {
        let (field, value) = (reader.varint()?, reader.bytes()?);
        let text = || String::from_utf8(value.to_vec()).ok();
        match field {
            1 => about.client_address = text()?,
            2 => about.version = text()?,
            _ => {}
        }
    }
    Some(about)
}

fn flag(reader: &mut Reader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl Body {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Command(args) => {
                out.push(1);
                put_args(out, args);
            }
            Self::Part(args) => {
                out.push(2);
                put_args(out, args);
            }
            Self::Exec { watched, commands } => {
                out.push(3);
                put_varint(out, watched.len() as u64);
                for (key, live, token) in watched {
                    put_bytes(out, key);
                    out.push(u8::from(*live));
                    put_varint(out, *token);
                }
                put_varint(out, commands.len() as u64);
                commands.iter().for_each(|args| put_args(out, args));
            }
            Self::Watch(keys) => {
                out.push(4);
                put_args(out, keys);
            }
            Self::Open(session) => {
                out.push(5);
                out.extend_from_slice(&session.to_le_bytes());
            }
            Self::Outcome(id) => {
                out.push(6);
                out.extend_from_slice(&id.session.to_le_bytes());
                put_varint(out, id.number);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(match reader.u8()? {
            1 => Self::Command(args(reader, 1)?),
            2 => Self::Part(args(reader, 1)?),
            3 => {
                let mut watched = Vec::new();
                for _ in 0..reader.varint()? {
                    watched.push((reader.bytes()?.to_vec(), flag(reader)?, reader.varint()?));
                }
                let mut commands = Vec::new();
                for _ in 0..reader.varint()? {
                    commands.push(args(reader, 1)?);
                }
                Self::Exec { watched, commands }
            }
            4 => Self::Watch(args(reader, 1)?),
            5 => Self::Open(reader.u64()?),
            6 => Self::Outcome(RequestId { session: reader.u64()?, number: reader.varint()? }),
            _ => return None,
        })
    }
}

fn put_args(out: &mut Vec<u8>, args: &Args) {
    let slices = args.slices();
    put_varint(out, slices.len() as u64);
    slices.iter().for_each(|arg| put_bytes(out, arg));
}

/// At least `least` arguments.
fn args(reader: &mut Reader<'_>, least: usize) -> Option<Args> {
    let mut slices = Vec::new();
    for _ in 0..reader.varint()? {
        slices.push(reader.bytes()?);
    }
    (slices.len() >= least).then(|| Args::new(&slices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_a_cut_one_is_refused() {
        let id = RequestId { session: 1 << 60, number: 300 };
        let args = Args::new(&[b"SET", b"k", b""]);
        let request = |body| {
            PeerMessage::Request(Request {
                ticket: 7,
                round: 2,
                name: Some((id, 299)),
                proto: Proto::Resp3,
                body,
            })
        };
        let mark = Mark { applied: 5, term: 2, keys: 1 };
        let pairs = vec![(b"k".to_vec(), b"v".to_vec())];
        let messages = [
            request(Body::Command(args.clone())),
            request(Body::Part(args.clone())),
            request(Body::Exec {
                watched: vec![(b"w".to_vec(), true, 900)],
                commands: vec![args.clone(), args.clone()],
            }),
            request(Body::Watch(args)),
            request(Body::Open(9)),
            request(Body::Outcome(id)),
            PeerMessage::Answer { ticket: 7, reply: b"+OK\r\n".to_vec() },
            PeerMessage::Refused { round: 1, ticket: 7, why: Refusal::NoSession },
            PeerMessage::Cancel { ticket: 7, how: Cancel::Error },
            PeerMessage::Publish { sharded: true, channel: b"c".to_vec(), payload: b"p".to_vec() },
            PeerMessage::Chunk(Chunk { transfer: 3, number: 1, mark, last: true, pairs }),
            PeerMessage::Received { transfer: 3, number: 1 },
            PeerMessage::Want,
        ];
        for message in messages {
            let bytes = message.encode();
            for len in 0..bytes.len() {
                let cut = PeerMessage::decode(&bytes[..len]);
                // A chunk may end behind any pair.
                let shorter = matches!(&cut, Some(PeerMessage::Chunk(c)) if c.pairs.is_empty());
                assert!(cut.is_none() || shorter, "{message:?} cut at {len}");
            }
            assert_eq!(PeerMessage::decode(&bytes), Some(message));
        }
        let raft = PeerMessage::Raft(b"x".to_vec());
        assert_eq!(PeerMessage::decode(&raft.encode()), Some(raft));
    }
}
