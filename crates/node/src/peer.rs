//! What the nodes of a cluster tell each other, as bytes.
//!
//! All that a worker has to tell another node in one turn is one *parcel*: messages, one after the
//! other, each with the address of its receiver there.
//!
//! ```text
//! parcel   message …
//! message  shard varint + 1, or 0 │ [worker varint, when 0] │ body: varint length, bytes
//! ```
//!
//! Nodes may have different numbers of workers, so most messages name a shard, and the receiving
//! node knows its home; answers name the worker that asked. [`split`] cuts a parcel into the
//! parts of the workers. The outside frames, checksums and carries parcels,
//! and promises to keep their order as long as a link lasts.

pub(crate) mod message;

use crate::event::WorkerId;
use crate::message::home;
use quorate_base::ShardId;
use quorate_base::codec::{Reader, put_bytes, put_varint};

/// Who gets a message at the receiving node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The home of this shard.
    Shard(ShardId),
    /// This worker.
    Worker(WorkerId),
}

/// Appends a message to a parcel.
pub(crate) fn put(parcel: &mut Vec<u8>, address: Address, body: &[u8]) {
    match address {
        Address::Shard(shard) => put_varint(parcel, u64::from(shard) + 1),
        Address::Worker(worker) => {
            parcel.push(0);
            put_varint(parcel, u64::from(worker));
        }
    }
    put_bytes(parcel, body);
}

/// A parcel that asks for a sign of life: the workers answer with [`crate::Effect::RoundTrip`] at
/// the node that sent it. A node of a release that does not know it says nothing.
pub fn ping(stamp: u64) -> Vec<u8> {
    let mut parcel = Vec::new();
    put(&mut parcel, Address::Worker(0), &message::PeerMessage::Ping { stamp }.encode());
    parcel
}

/// The next message of a parcel; `None` if the rest makes no sense.
pub(crate) fn next<'a>(reader: &mut Reader<'a>) -> Option<(Address, &'a [u8])> {
    let address = match reader.varint()? {
        0 => Address::Worker(WorkerId::try_from(reader.varint()?).ok()?),
        shard => Address::Shard(ShardId::try_from(shard - 1).ok()?),
    };
    Some((address, reader.bytes()?))
}

/// Cuts a parcel into the parts of the receiving node's workers, each in order; workers without a
/// message are left out. `None` if the parcel makes no sense, which no node of ours sends.
pub fn split(parcel: &[u8], workers: WorkerId) -> Option<Vec<(WorkerId, Vec<u8>)>> {
    let mut parts: Vec<(WorkerId, Vec<u8>)> = Vec::new();
    let mut reader = Reader::new(parcel);
    while !reader.is_empty() {
        let before = reader.rest();
        let (address, _) = next(&mut reader)?;
        let worker = match address {
            Address::Shard(shard) => home(shard, workers),
            Address::Worker(worker) if worker < workers => worker,
            Address::Worker(_) => return None,
        };
        let message = &before[..before.len() - reader.rest().len()];
        match parts.iter_mut().find(|(id, _)| *id == worker) {
            Some((_, part)) => part.extend_from_slice(message),
            None => parts.push((worker, message.to_vec())),
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_cut_into_the_parts_of_the_workers_in_order() {
        let mut parcel = Vec::new();
        put(&mut parcel, Address::Shard(0), b"a");
        put(&mut parcel, Address::Worker(1), b"b");
        put(&mut parcel, Address::Shard(2), b"c");
        let parts = split(&parcel, 2).unwrap();
        assert_eq!(parts.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [0, 1]);
        let mut reader = Reader::new(&parts[0].1);
        assert_eq!(next(&mut reader), Some((Address::Shard(0), &b"a"[..])));
        assert_eq!(next(&mut reader), Some((Address::Shard(2), &b"c"[..])));
        assert!(reader.is_empty());
        assert_eq!(split(&parcel, 1), None, "worker 1 does not exist there");
        assert_eq!(split(&parcel[..parcel.len() - 1], 2), None);
    }
}
