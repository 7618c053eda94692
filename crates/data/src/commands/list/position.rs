//! Positions: the names of a list's elements, whose bytewise order is the list's order.
//!
//! ```text
//! base u64 BE │ digit u32 BE │ digit u32 BE …
//! ```
//!
//! The first element of a list has base 2^63 and no digits; pushes take the base before the first
//! or after the last. The digits are a fraction in base 2^32 that follows the base, and the last
//! of them is never 0, so that between any two positions there is another one: an insertion names
//! one element and renames none.

use crate::sorted::Sub;

const BASE_LEN: usize = 8;
const DIGIT_LEN: usize = 4;

/// One more than the greatest digit.
const DIGITS: u64 = 1 << 32;

/// How far a position stays from its newer neighbour, which is usually where the next insertion
/// goes: 2^16 more insertions on the far side and 16 bisections on the near one fit before
/// positions take another digit.
const STEP: u64 = 1 << 16;

/// The position of the only element.
pub(super) fn only() -> Sub {
    from_base(1 << 63)
}

/// A position before `first`.
pub(super) fn before(first: &[u8]) -> Sub {
    from_base(base(first) - 1)
}

/// A position after `last`.
pub(super) fn after(last: &[u8]) -> Sub {
    from_base(base(last) + 1)
}

/// A position between `low` and `high`, where `low` < `high`.
pub(super) fn between(low: &[u8], high: &[u8]) -> Sub {
    assert!(low < high, "positions out of order: {low:?}, {high:?}");
    let (low_base, high_base) = (base(low), base(high));
    if high_base - low_base > 1 {
        return from_base(low_base + (high_base - low_base) / 2);
    }
    let mut position = from_base(low_base);
    // Without a bound the digits may be anything greater than those of `low`.
    let mut bounded = low_base == high_base;
    for at in 0.. {
        let least = digit(low, at).unwrap_or(0);
        let bound = if bounded {
            digit(high, at).expect("a greater fraction has a greater digit before it ends")
        } else {
            DIGITS
        };
        let gap = bound - least;
        if gap > 1 {
            push_digit(&mut position, pick(least, gap, low.len(), high.len()));
            break;
        }
        push_digit(&mut position, least);
        bounded &= gap == 0;
    }
    position
}

/// A digit between `least` and `least + gap`, near the neighbour with the longer position.
fn pick(least: u64, gap: u64, low_len: usize, high_len: usize) -> u64 {
    match low_len.cmp(&high_len) {
        std::cmp::Ordering::Greater if gap > 2 * STEP => least + STEP,
        std::cmp::Ordering::Less if gap > 2 * STEP => least + gap - STEP,
        _ => least + gap / 2,
    }
}

fn from_base(base: u64) -> Sub {
    Sub::from_slice(&base.to_be_bytes())
}

fn base(position: &[u8]) -> u64 {
    u64::from_be_bytes(position[..BASE_LEN].try_into().expect("a position starts with its base"))
}

fn digit(position: &[u8], at: usize) -> Option<u64> {
    let from = BASE_LEN + at * DIGIT_LEN;
    let bytes = position.get(from..from + DIGIT_LEN)?;
    Some(u64::from(u32::from_be_bytes(bytes.try_into().expect("a digit has four bytes"))))
}

fn push_digit(position: &mut Sub, digit: u64) {
    let digit = u32::try_from(digit).expect("digits are below 2^32");
    position.extend_from_slice(&digit.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn there_is_always_a_position_between(places in prop::collection::vec(any::<u16>(), 1..400)) {
            let mut list = vec![only()];
            for place in places {
                let at = place as usize % (list.len() + 1);
                let new = match (at.checked_sub(1).map(|i| &list[i]), list.get(at)) {
                    (None, Some(first)) => before(first),
                    (Some(last), None) => after(last),
                    (Some(low), Some(high)) => between(low, high),
                    (None, None) => unreachable!("the list has an element"),
                };
                list.insert(at, new);
                prop_assert!(list.is_sorted_by(|a, b| a < b), "at {at} of {list:?}");
            }
        }
    }

    #[test]
    fn steady_insertions_keep_positions_short() {
        let (first, last) = (only(), after(&only()));
        let (mut low, mut high) = (first.clone(), last.clone());
        for _ in 0..30_000 {
            low = between(&low, &last);
            high = between(&first, &high);
        }
        assert!(low.len() <= 16 && high.len() <= 16, "{low:?} {high:?}");
    }

    #[test]
    fn insertions_always_at_one_gap_grow_slowly() {
        let (mut low, mut high) = (only(), after(&only()));
        for n in 0..1000 {
            let new = between(&low, &high);
            if n % 2 == 0 { low = new } else { high = new }
        }
        assert!(low.len() < 8 + 4 * 80, "{}", low.len());
    }
}
