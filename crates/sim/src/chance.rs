//! Draws from a generator, in the shapes that the simulator needs.

use quorate_base::Prng;

/// Parts in a million.
pub(crate) const MILLION: u64 = 1_000_000;

/// True with a probability of so many parts in a million.
pub(crate) fn ppm(prng: &mut Prng, parts: u64) -> bool {
    parts > 0 && prng.below(MILLION) < parts
}

/// A number from `low` to `high`, both included, each as likely.
pub(crate) fn between(prng: &mut Prng, low: u64, high: u64) -> u64 {
    low + prng.below(high.saturating_sub(low) + 1)
}

/// A number from `low` to `high` whose logarithm is uniform: every order of magnitude is as
/// likely. `low` must not be 0.
pub(crate) fn magnitude(prng: &mut Prng, low: u64, high: u64) -> u64 {
    // Whole doublings and a linear part within: no float function whose last bit may differ
    // between machines.
    let doublings = u64::from((high / low).max(1).ilog2());
    let base = low << prng.below(doublings + 1);
    (base + prng.below(base)).min(high)
}

/// One of `choices`.
pub(crate) fn one<T: Copy>(prng: &mut Prng, choices: &[T]) -> T {
    choices[prng.below(choices.len() as u64) as usize]
}

/// A generator of its own for the part of the world called `part`, so that what one part draws
/// does not change what another does.
pub(crate) fn part(seed: u64, part: u64) -> Prng {
    Prng::new(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_within_their_bounds_and_reach_them() {
        let mut prng = Prng::new(1);
        let mut seen = (u64::MAX, 0);
        for _ in 0..10_000 {
            let n = magnitude(&mut prng, 3, 3_000);
            assert!((3..=3_000).contains(&n));
            seen = (seen.0.min(n), seen.1.max(n));
            assert!((5..=6).contains(&between(&mut prng, 5, 6)));
        }
        assert!(seen.0 < 6 && seen.1 > 1_500, "{seen:?}");
        assert!(!ppm(&mut prng, 0) && ppm(&mut prng, MILLION));
    }
}
