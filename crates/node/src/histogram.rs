//! How long things took, in counters of fixed size.

/// A power of two is cut into so many buckets, so a bucket is at most a quarter as wide as what it
/// holds.
const STEPS: usize = 4;

/// Buckets: up to 2^27 microseconds, which are over two minutes; the last takes all that is longer.
const BUCKETS: usize = 26 * STEPS;

/// Durations in microseconds, counted by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    count: u64,
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], count: 0, sum_us: 0 }
    }
}

impl Histogram {
    /// Counts `times` that took `us` microseconds each.
    #[inline]
    pub fn record(&mut self, us: u64, times: u64) {
        self.counts[bucket(us)] += times;
        self.count += times;
        self.sum_us = self.sum_us.saturating_add(us.saturating_mul(times));
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(all, more)| *all += more);
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What was counted since it was `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        since.counts.iter_mut().zip(&earlier.counts).for_each(|(all, old)| *all -= old);
        since.count -= earlier.count;
        since.sum_us -= earlier.sum_us;
        since
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their microseconds together.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// How many took less than `us`, which must be 0 or a power of two to be exact.
    pub fn below(&self, us: u64) -> u64 {
        self.counts[..bucket(us)].iter().sum()
    }

    /// A duration that `per_mille` of 1,000 did not exceed, rounded up by at most a quarter;
    /// `None` if there are none.
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let wanted = (self.count * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(start(at + 1).saturating_sub(1))
    }
}

/// The bucket of a duration.
#[inline]
fn bucket(us: u64) -> usize {
    let steps = STEPS as u64;
    if us < steps {
        return us as usize;
    }
    let octave = us.ilog2() - STEPS.ilog2();
    let at = u64::from(octave) * steps + (us >> octave);
    (at as usize).min(BUCKETS - 1)
}

/// Where a bucket begins.
fn start(bucket: usize) -> u64 {
    let (octave, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    match octave {
        0 => step,
        _ => (STEPS as u64 + step) << (octave - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gaps() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(start(at)), at);
            assert_eq!(bucket(start(at + 1) - 1), at);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_bounds_are_those_of_what_was_counted() {
        let mut one = Histogram::default();
        assert_eq!(one.quantile(500), None);
        (1..=1_000).for_each(|us| one.record(us, 1));
        assert_eq!((one.count(), one.sum_us()), (1_000, 500_500));
        assert_eq!((one.below(0), one.below(64), one.below(1 << 20)), (0, 63, 1_000));
        for (per_mille, exact) in [(1, 1), (500, 500), (990, 990), (1_000, 1_000)] {
            let got = one.quantile(per_mille).unwrap();
            assert!((exact..=exact * 5 / 4 + 1).contains(&got), "{per_mille}: {got}");
        }
        let mut both = one.clone();
        both.record(5, 10);
        let mut more = Histogram::default();
        more.record(5, 10);
        assert_eq!(both.since(&one), more);
        one.add(&more);
        assert_eq!(one, both);
    }
}
