//! How keys of a table become keys of the tree, which may have 65,535 bytes at most.
//!
//! ```text
//! up to KEY_MAX bytes   key                                       → value
//! longer                first KEY_MAX bytes │ xxh3-128 of the key → length u32 LE │ key │ value
//! the mark              0xff "mark"                               → applied │ term │ keys, u64 LE
//! ```
//!
//! Long keys with the same first `KEY_MAX` bytes are neighbours, in the order of their hashes:
//! whoever needs key order sorts such a group. Keys of a table never start with 0xff; `gone` has
//! its records there too.

use quorate_data::table::Mark;
use std::borrow::Cow;

/// The longest key that is its own key in the tree.
pub(super) const KEY_MAX: usize = 32 << 10;

/// Above every key of a table.
pub(super) const END: &[u8] = &[0xff];

pub(super) const MARK: &[u8] = b"\xffmark";

/// The key in the tree for `key`.
pub(super) fn stored(key: &[u8]) -> Cow<'_, [u8]> {
    assert!(key.first().is_some_and(|&b| b < 0xff), "no table key is empty or starts with 0xff");
    if key.len() <= KEY_MAX {
        return Cow::Borrowed(key);
    }
    let hash = xxhash_rust::xxh3::xxh3_128(key).to_be_bytes();
    Cow::Owned([&key[..KEY_MAX], &hash].concat())
}

/// The value in the tree for `key` and `value`.
pub(super) fn stored_value(key: &[u8], value: Vec<u8>) -> Vec<u8> {
    if key.len() <= KEY_MAX {
        return value;
    }
    let len = u32::try_from(key.len()).expect("keys are shorter than 4 GiB");
    [&len.to_le_bytes(), key, &value].concat()
}

/// The key and value that a pair of the tree stands for; none if it is malformed.
pub(super) fn decode<'a>(stored: &'a [u8], value: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    if stored.len() <= KEY_MAX {
        return Some((stored, value));
    }
    let (len, rest) = value.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// The first KEY_MAX bytes of a long key, shared by its whole group.
pub(super) fn group(stored: &[u8]) -> Option<&[u8]> {
    (stored.len() > KEY_MAX).then(|| &stored[..KEY_MAX])
}

/// The least key above every key that starts with `prefix`.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == 0xff).is_some() {}
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end = END.to_vec(),
    }
    end
}

pub(super) fn encode_mark(mark: Mark) -> [u8; 24] {
    let words = [mark.applied, mark.term, mark.keys].map(u64::to_le_bytes);
    words.concat().try_into().expect("three words have 24 bytes")
}

pub(super) fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    let (words, rest) = bytes.as_chunks::<8>();
    let [applied, term, keys] = <[[u8; 8]; 3]>::try_from(words).ok()?.map(u64::from_le_bytes);
    rest.is_empty().then_some(Mark { applied, term, keys })
}
