//! Prefixes whose pairs were removed at once and not one by one.
//!
//! Removing a collection of millions must not put millions of tombstones into memory. Beyond
//! [`KEYS_MAX`] pairs a `DeletePrefix` becomes one record, and readers skip the pairs it covers:
//! those written before it. `maintain` turns it into tombstones piece by piece, then drops it.
//!
//! ```text
//! 0xff "p" │ prefix → the removal's sequence number, u64 LE
//! ```
//!
//! A pair's sequence number tells on which side of the removal it was written, so compactions may
//! zero only those below every removal: see [`Gone::watermark`].

use super::keys::KEY_MAX;
use lsm_tree::SeqNo;

/// Pairs that one `DeletePrefix`, or one step of `maintain`, removes one by one.
pub(super) const KEYS_MAX: usize = if cfg!(test) { 3 } else { 4096 };
/// Records at a time. Every read of a key compares it with all.
const RECORDS_MAX: usize = 32;

pub(super) const RECORDS_FROM: &[u8] = b"\xffp";
pub(super) const RECORDS_TO: &[u8] = b"\xffq";

/// The removed prefixes of a tree, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(Vec<(Vec<u8>, SeqNo)>);

impl Gone {
    /// Whether a pair was removed: its key in the tree and its sequence number.
    #[inline]
    pub(super) fn hides(&self, stored: &[u8], seqno: SeqNo) -> bool {
        self.0.iter().any(|(prefix, at)| seqno < *at && stored.starts_with(prefix))
    }

    /// Whether one more removal may become a record. Only the first KEY_MAX bytes of a key are
    /// the same in the tree.
    pub(super) fn takes(&self, prefix: &[u8]) -> bool {
        prefix.len() <= KEY_MAX && self.0.len() < RECORDS_MAX
    }

    pub(super) fn add(&mut self, prefix: Vec<u8>, seqno: SeqNo) {
        self.remove(&prefix);
        self.0.push((prefix, seqno));
    }

    pub(super) fn remove(&mut self, prefix: &[u8]) {
        self.0.retain(|(other, _)| other != prefix);
    }

    pub(super) fn oldest(&self) -> Option<(&[u8], SeqNo)> {
        self.0.first().map(|(prefix, seqno)| (&prefix[..], *seqno))
    }

    pub(super) fn oldest_seqno(&self) -> Option<SeqNo> {
        self.oldest().map(|(_, seqno)| seqno)
    }

    /// Pairs below it are older than every removal, and so may forget their age.
    pub(super) fn watermark(&self) -> SeqNo {
        self.0.iter().map(|(_, seqno)| *seqno).min().unwrap_or(SeqNo::MAX)
    }

    /// The newest removal; 0 without any.
    pub(super) fn newest(&self) -> SeqNo {
        self.0.iter().map(|(_, seqno)| *seqno).max().unwrap_or(0)
    }
}

pub(super) fn record_key(prefix: &[u8]) -> Vec<u8> {
    [RECORDS_FROM, prefix].concat()
}

/// The prefix and sequence number that a record states.
pub(super) fn decode_record(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, SeqNo)> {
    let prefix = key.strip_prefix(RECORDS_FROM)?;
    Some((prefix.to_vec(), SeqNo::from_le_bytes(value.try_into().ok()?)))
}
