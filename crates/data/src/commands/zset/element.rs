//! The two elements of each member, and what follows from them.
//!
//! ```text
//! 'm' │ member                            → score, f64 bits LE
//! 's' │ sortable score u64 BE │ member    → (empty), or one byte 1 if the score is -0
//! ```
//!
//! A collection of n members has 2n elements, the first n of them in order of the members and the
//! last n in order of score and then member: the rank of a member is the rank of its 's' element
//! minus n.

use crate::coll_mut::CollMut;
use crate::db::Value;
use crate::entry::{Coll, Kind};
use crate::error::Error;
use crate::settings::Settings;
use crate::sorted::{Iter, Sorted, Sub, Val};

/// The encoding number of a sorted set that Redis would keep in a listpack.
pub(crate) const LISTPACK: u8 = 0;
/// The encoding number of a sorted set that Redis would keep in a skiplist.
pub(crate) const SKIPLIST: u8 = 1;

/// What the names of the elements that map members to scores start with.
pub(crate) const MEMBER: u8 = b'm';
const ORDER: u8 = b's';
/// The bytes of an 's' element before the member.
const ORDER_BYTES: usize = 9;
/// The value of the 's' element of a member with score -0.
const NEGATIVE_ZERO: &[u8] = &[1];

/// `score` as a number that sorts like it; -0 and 0 are the same. Every score that is a number has
/// a successor.
pub(super) fn sortable(score: f64) -> u64 {
    let bits = if score == 0.0 { 0 } else { score.to_bits() };
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The name of the element from `member` to its score.
#[inline]
pub(super) fn member_sub(member: &[u8]) -> Sub {
    let mut sub = Sub::with_capacity(1 + member.len());
    sub.push(MEMBER);
    sub.extend_from_slice(member);
    sub
}

/// The name of the element that orders `member`.
#[inline]
pub(super) fn order_sub(sortable: u64, member: &[u8]) -> Sub {
    let mut sub = Sub::with_capacity(ORDER_BYTES + member.len());
    sub.push(ORDER);
    sub.extend_from_slice(&sortable.to_be_bytes());
    sub.extend_from_slice(member);
    sub
}

fn order_val(score: f64) -> &'static [u8] {
    if score == 0.0 && score.is_sign_negative() { NEGATIVE_ZERO } else { b"" }
}

/// The score in the value of an 'm' element.
#[inline]
pub(crate) fn score_of(val: &[u8]) -> f64 {
    f64::from_le_bytes(val.try_into().expect("a member's element holds a score of eight bytes"))
}

/// The member and score of an 's' element.
#[inline]
fn ordered<'a>((sub, val): (&'a [u8], &[u8])) -> (&'a [u8], f64) {
    let sortable = &sub[1..ORDER_BYTES];
    let sortable = u64::from_be_bytes(sortable.try_into().expect("eight bytes were sliced"));
    let bits = if sortable >> 63 == 1 { sortable & !(1 << 63) } else { !sortable };
    let score = if val.is_empty() { f64::from_bits(bits) } else { -0.0 };
    (&sub[ORDER_BYTES..], score)
}

/// The members of a sorted set.
#[derive(Clone, Copy)]
pub(crate) struct Members<'a>(&'a Sorted);

impl<'a> Members<'a> {
    /// Those of `coll`, which is a sorted set.
    #[inline]
    pub(crate) fn of(coll: &'a Coll) -> Self {
        debug_assert!(coll.kind() == Kind::Zset, "asked for the members of a {:?}", coll.kind());
        Self(coll.elements())
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.0.len() / 2
    }

    /// The score of `member`.
    #[inline]
    pub(crate) fn score(self, member: &[u8]) -> Option<f64> {
        self.0.get(&member_sub(member)).map(score_of)
    }

    /// The rank of `member`, counted from the lowest score, and its score.
    pub(super) fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        let score = self.score(member)?;
        Some((self.0.rank(&order_sub(sortable(score), member)) - self.len(), score))
    }

    /// How many members have a score and name below; the place may be between members.
    pub(super) fn below(self, sortable: u64, member: &[u8]) -> usize {
        self.0.rank(&order_sub(sortable, member)) - self.len()
    }

    /// Those with scores from `from` up to, not including, `to`.
    pub(crate) fn scores(self, from: f64, to: f64) -> Ordered<'a> {
        self.ranks(self.below(sortable(from), b""), self.below(sortable(to), b""))
    }

    /// Members and scores in order; reversible.
    pub(crate) fn iter(self) -> Ordered<'a> {
        self.ranks(0, self.len())
    }

    /// Those with ranks from `from` up to, not including, `to`; reversible.
    #[inline]
    pub(crate) fn ranks(self, from: usize, to: usize) -> Ordered<'a> {
        let len = self.len();
        Ordered(self.0.iter_ranks(len + from, len + to))
    }

    /// Members and scores in order of the members.
    pub(crate) fn by_name(self) -> impl Iterator<Item = (&'a [u8], f64)> {
        self.0.iter_ranks(0, self.len()).map(|(sub, val)| (&sub[1..], score_of(val)))
    }
}

/// Members and their scores in order.
#[derive(Clone)]
pub(crate) struct Ordered<'a>(Iter<'a>);

impl<'a> Iterator for Ordered<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(ordered)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Ordered<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(ordered)
    }
}

impl ExactSizeIterator for Ordered<'_> {}

/// Adds `member`, which is not in `coll`, or changes its score from `old`.
pub(super) fn put(
    coll: &mut CollMut<'_>,
    settings: &Settings,
    member_sub: &[u8],
    old: Option<f64>,
    score: f64,
) {
    let member = &member_sub[1..];
    match old {
        Some(old) => {
            coll.remove(&order_sub(sortable(old), member));
        }
        None if coll.encoding() == LISTPACK && !fits(settings, coll.len() / 2 + 1, member) => {
            coll.set_encoding(SKIPLIST);
        }
        None => {}
    }
    let score = stored(score, coll.encoding());
    coll.put(member_sub, &score.to_le_bytes());
    coll.put(&order_sub(sortable(score), member), order_val(score));
}

/// Removes `member`; false if it is not there.
pub(super) fn remove(coll: &mut CollMut<'_>, member: &[u8]) -> bool {
    let Some(score) = coll.remove(&member_sub(member)) else { return false };
    coll.remove(&order_sub(sortable(score_of(&score)), member));
    true
}

/// Refuses to remove the members with ranks from `from` up to, not including, `to` if that is too
/// much for one command.
pub(super) fn check_ranks(
    settings: &Settings,
    coll: &Coll,
    from: usize,
    to: usize,
) -> Result<(), Error> {
    let order = coll.len() / 2;
    let names = coll.elements().iter_ranks(order + from, order + to).map(|(sub, _)| sub);
    // The removal of the other element of each member records no more.
    settings.check_removed(coll, names.flat_map(|sub| [sub, sub]))
}

/// Removes the members with ranks from `from` up to, not including, `to`.
pub(super) fn remove_ranks(coll: &mut CollMut<'_>, from: usize, to: usize) {
    let order = coll.len() / 2;
    let doomed = coll.elements().iter_ranks(order + from, order + to);
    let doomed: Vec<Sub> = doomed.map(|(sub, _)| Sub::from_slice(sub)).collect();
    for sub in &doomed {
        coll.remove(sub);
        coll.remove(&member_sub(&sub[ORDER_BYTES..]));
    }
}

/// A sorted set as a value for [`crate::Db::put_value`], from pairs in any order. Members differ,
/// and scores are numbers.
pub(crate) fn value<M: AsRef<[u8]>>(settings: &Settings, pairs: &[(M, f64)]) -> Value {
    let mut elements: Vec<(Sub, Val)> = Vec::with_capacity(pairs.len() * 2);
    let compact = pairs.iter().all(|(member, _)| fits(settings, pairs.len(), member.as_ref()));
    let encoding = if compact { LISTPACK } else { SKIPLIST };
    for (member, score) in pairs {
        let (member, score) = (member.as_ref(), stored(*score, encoding));
        elements.push((member_sub(member), Val::from_slice(&score.to_le_bytes())));
        let order = order_sub(sortable(score), member);
        elements.push((order, Val::from_slice(order_val(score))));
    }
    elements.sort_unstable();
    Value::Coll { kind: Kind::Zset, encoding, aux: Vec::new(), elements }
}

/// `score` as Redis keeps it: a listpack holds integers as such and knows no -0.
fn stored(score: f64, encoding: u8) -> f64 {
    if score == 0.0 && encoding == LISTPACK { 0.0 } else { score }
}

/// True if Redis would keep a sorted set of `count` members in a listpack as far as `member` says.
fn fits(settings: &Settings, count: usize, member: &[u8]) -> bool {
    count <= settings.zset_max_listpack_entries && member.len() <= settings.zset_max_listpack_value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_sort_and_come_back() {
        let scores = [f64::NEG_INFINITY, -1e300, -1.5, -1e-310, 0.0, 5e-324, 1.0, f64::INFINITY];
        for pair in scores.windows(2) {
            assert!(sortable(pair[0]) < sortable(pair[1]), "{pair:?}");
        }
        assert_eq!(sortable(-0.0), sortable(0.0));
        assert!(sortable(f64::INFINITY) < u64::MAX && sortable(f64::NEG_INFINITY) > 0);
        for score in scores.into_iter().chain([-0.0]) {
            let sub = order_sub(sortable(score), b"member");
            let (member, got) = ordered((&sub, order_val(score)));
            assert_eq!((member, got.to_bits()), (b"member".as_slice(), score.to_bits()));
        }
    }
}
