//! What Raft replicas of one shard say to each other, as bytes.
//!
//! ```text
//! kind u8 │ reject u8 │ term │ log term │ index │ commit │ commit term │ reject hint │ floor │
//! context │ count │ count × ( term │ payload )
//! ```
//!
//! Numbers are varints, byte strings carry a varint length. Sender and receiver are known from
//! the session. Entries are consecutive, the first at `index + 1`. `floor` is the index up to
//! which, to the sender's knowledge, every voter holds the log durably. The context of an
//! acknowledgement names the sender's life (`lost`), if it ever lost anything.
//!
//! What the engine knows nothing of:
//!
//! ```text
//! 32 Lost   │ term │ life │ forgot votes u8 │ last index │ agreed index │ its term
//! 33 Found  │ term │ life │ barrier, 0 for none yet │ agreed index │ index of the members │ members
//! 34 Sleep  │ term │ last index
//! ```

use super::members::{Conf, is_change};
use super::store::{Store, slip};
use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_base::ids::NodeId;
use quorate_base::{Index, Term};
use raft::Storage;
use raft::eraftpb::{Entry as Slip, Message, MessageType};
use std::sync::Arc;

/// The kinds that may come from a peer, with the byte that names them.
const KINDS: [(u8, MessageType); 11] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgHeartbeat),
    (8, MessageType::MsgHeartbeatResponse),
    (9, MessageType::MsgTimeoutNow),
    (10, MessageType::MsgReadIndex),
    (11, MessageType::MsgReadIndexResp),
];

const LOST: u8 = 32;
const FOUND: u8 = 33;
const SLEEP: u8 = 34;

/// A message that is none of the engine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// To the leader: forget what this replica acknowledged in former lives.
    /// Its log ends at `last`; it knows the entry of this position and term to be agreed on.
    Lost { term: Term, life: u64, forgot_votes: bool, last: Index, agreed: (Index, Term) },
    /// The answer: whole is who holds everything up to `barrier`, if there is one yet; these are
    /// the members as of `agreed`.
    Found {
        term: Term,
        life: u64,
        barrier: Option<Index>,
        agreed: Index,
        conf_index: Index,
        conf: Conf,
    },
    /// From the leader: nothing happens after `last`, which all hold and know to be agreed on.
    Sleep { term: Term, last: Index },
}

/// Whether `message` is for [`decode_own`].
pub(super) fn is_own(message: &[u8]) -> bool {
    message.first().is_some_and(|kind| *kind >= LOST)
}

pub(super) fn encode_own(own: &Own) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match own {
        Own::Lost { term, life, forgot_votes, last, agreed } => {
            out.push(LOST);
            put_varint(&mut out, *term);
            put_varint(&mut out, *life);
            out.push(u8::from(*forgot_votes));
            [*last, agreed.0, agreed.1].into_iter().for_each(|n| put_varint(&mut out, n));
        }
        Own::Found { term, life, barrier, agreed, conf_index, conf } => {
            out.push(FOUND);
            for number in [*term, *life, barrier.unwrap_or(0), *agreed, *conf_index] {
                put_varint(&mut out, number);
            }
            conf.encode(&mut out);
        }
        Own::Sleep { term, last } => {
            out.push(SLEEP);
            put_varint(&mut out, *term);
            put_varint(&mut out, *last);
        }
    }
    out
}

/// `None` when no replica of ours would send it.
pub(super) fn decode_own(bytes: &[u8]) -> Option<Own> {
    let mut reader = Reader::new(bytes);
    let own = match reader.u8()? {
        LOST => Own::Lost {
            term: reader.varint()?,
            life: reader.varint()?,
            forgot_votes: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            last: reader.varint()?,
            agreed: (reader.varint()?, reader.varint()?),
        },
        FOUND => Own::Found {
            term: reader.varint()?,
            life: reader.varint()?,
            barrier: Some(reader.varint()?).filter(|barrier| *barrier > 0),
            agreed: reader.varint()?,
            conf_index: reader.varint()?,
            conf: Conf::decode(&mut reader)?,
        },
        SLEEP => Own::Sleep { term: reader.varint()?, last: reader.varint()? },
        _ => return None,
    };
    reader.is_empty().then_some(own)
}

/// A message taken apart.
pub(super) struct Incoming {
    /// For the engine; entries of an append are without payload.
    pub(super) message: Message,
    /// The payloads of an append's entries with their terms, in order.
    pub(super) payloads: Vec<(Term, Arc<Vec<u8>>)>,
    /// See the module.
    pub(super) floor: Index,
}

/// Encodes `message`, fetching payloads from `store`. `None` when the log has changed under an
/// append since the engine made it (its sender was deposed), or for a kind that does not travel.
pub(super) fn encode(message: &Message, floor: Index, store: &Store) -> Option<Vec<u8>> {
    let (kind, _) = *KINDS.iter().find(|(_, kind)| *kind == message.msg_type)?;
    let append = message.msg_type == MessageType::MsgAppend;
    let mut payload_bytes = 0;
    if append {
        for entry in message.entries.iter() {
            let slot = store.get(entry.index).filter(|slot| slot.term == entry.term)?;
            payload_bytes += slot.payload.len() + 12;
        }
    }
    let (index, log_term) = before_entries(message, store)?;
    let mut out = Vec::with_capacity(64 + payload_bytes);
    out.push(kind);
    out.push(u8::from(message.reject));
    for number in [
        message.term,
        log_term,
        index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        floor,
    ] {
        put_varint(&mut out, number);
    }
    put_bytes(&mut out, &message.context);
    put_varint(&mut out, message.entries.len() as u64);
    for entry in message.entries.iter() {
        put_varint(&mut out, entry.term);
        match store.get(entry.index) {
            Some(slot) if append => put_bytes(&mut out, &slot.payload),
            _ => put_bytes(&mut out, &entry.data),
        }
    }
    Some(out)
}

/// The position before the message's entries, and its term. With `batch_append` the engine adds
/// entries to a waiting append without entries even when its idea of the follower went back in
/// between; that append's own position is then not the one before its entries, and the follower
/// would take them for others.
fn before_entries(message: &Message, store: &Store) -> Option<(Index, Term)> {
    match message.entries.first() {
        Some(first)
            if message.msg_type == MessageType::MsgAppend && first.index != message.index + 1 =>
        {
            let index = first.index - 1;
            Some((index, store.term(index).ok()?))
        }
        _ => Some((message.index, message.log_term)),
    }
}

/// Decodes what `from` sent to `to`; `None` when no replica of ours would send it.
pub(super) fn decode(from: NodeId, to: NodeId, bytes: &[u8]) -> Option<Incoming> {
    let mut reader = Reader::new(bytes);
    let byte = reader.u8()?;
    let (_, kind) = *KINDS.iter().find(|(code, _)| *code == byte)?;
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to) = (from, to);
    message.reject = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    message.term = reader.varint()?;
    message.log_term = reader.varint()?;
    message.index = reader.varint()?;
    message.commit = reader.varint()?;
    message.commit_term = reader.varint()?;
    message.reject_hint = reader.varint()?;
    let floor = reader.varint()?;
    message.context = reader.bytes()?.to_vec().into();
    let asks = kind == MessageType::MsgReadIndex;
    // The engine takes term 0 for its own, local messages.
    if (message.term == 0) != asks {
        return None;
    }
    let count = usize::try_from(reader.varint()?).ok()?;
    let fits = match kind {
        // An entry takes at least two bytes.
        MessageType::MsgAppend => count <= reader.rest().len() / 2,
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => count == 1,
        _ => count == 0,
    };
    if !fits || message.index.checked_add(count as u64)? == u64::MAX {
        return None;
    }
    let mut slips = Vec::with_capacity(count);
    let mut payloads = Vec::new();
    let mut previous = message.log_term;
    for position in 0..count as u64 {
        let term = reader.varint()?;
        let payload = reader.bytes()?.to_vec();
        if kind == MessageType::MsgAppend {
            // Terms never decrease along a log, nor pass the sender's.
            if term < previous || term == 0 || term > message.term {
                return None;
            }
            previous = term;
            if is_change(&payload) {
                Conf::of_entry(&payload)?;
            }
            slips.push(slip(message.index + 1 + position, term));
            payloads.push((term, Arc::new(payload)));
        } else {
            slips.push(Slip { data: payload.into(), ..Slip::default() });
        }
    }
    message.set_entries(slips.into());
    reader.is_empty().then_some(Incoming { message, payloads, floor })
}
