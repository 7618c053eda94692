//! Random elements of a collection, by rank.

use crate::error::Error;
use crate::parse;
use quorate_base::Prng;
use std::collections::BTreeSet;

/// The most elements that are picked with repetition in one call; a bound of ours.
const PICKS_MAX: u64 = 1 << 24;

/// `wanted` different ranks below `len`, ascending; all of them if `wanted` is larger. Each set of
/// ranks is as likely (Floyd's algorithm; Bentley and Floyd, CACM 30(9), 1987).
pub(crate) fn distinct(prng: &mut Prng, len: usize, wanted: usize) -> Vec<usize> {
    if wanted >= len {
        return (0..len).collect();
    }
    let mut ranks = BTreeSet::new();
    for last in len - wanted..len {
        let rank = prng.below(last as u64 + 1) as usize;
        if !ranks.insert(rank) {
            ranks.insert(last);
        }
    }
    ranks.into_iter().collect()
}

/// Ranks below `len`, which is not 0, as a count argument asks for them: a positive one for
/// different ranks, a negative one for as many with repetition.
pub(crate) fn ranks(prng: &mut Prng, len: usize, count: i64) -> Result<Vec<usize>, Error> {
    let wanted = count.unsigned_abs();
    if count >= 0 {
        return Ok(distinct(prng, len, usize::try_from(wanted).unwrap_or(usize::MAX)));
    }
    if wanted > PICKS_MAX {
        return Err(Error::text("ERR value is out of range"));
    }
    Ok((0..wanted).map(|_| prng.below(len as u64) as usize).collect())
}

/// A count argument of the `RANDMEMBER` commands: any number but the least.
pub(crate) fn count(text: &[u8]) -> Result<i64, Error> {
    match parse::int(text)? {
        i64::MIN => Err(Error::owned(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        ))),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_ranks_are_even_and_different() {
        let mut prng = Prng::new(5);
        let mut hits = [0u32; 20];
        for _ in 0..4000 {
            let ranks = distinct(&mut prng, 20, 5);
            assert!(ranks.len() == 5 && ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
            ranks.iter().for_each(|&rank| hits[rank] += 1);
        }
        assert!(hits.iter().all(|hit| (800..1200).contains(hit)), "{hits:?}");
        assert_eq!(distinct(&mut prng, 3, 9), [0, 1, 2]);
        assert_eq!(ranks(&mut prng, 3, -9).map(|r| r.len()), Ok(9));
        assert!(ranks(&mut prng, 3, -i64::MAX).is_err());
    }
}
