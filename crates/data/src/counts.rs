//! Sums over runs of small counts, so that the sum before any count is found without adding up
//! all of them: with n counts in runs of r, n/r + r additions, over contiguous memory.
//!
//! The counts themselves stay with the caller, who passes a function that reads them. Changing a
//! count is a constant; inserting or removing one moves the first or last count of every later run
//! to its neighbour, n/r steps. A Fenwick tree finds sums faster still and would have to be built
//! anew for every insertion.

/// Counts in one run.
const RUN: usize = 128;

/// The sums, one a run; only the last run may be shorter than [`RUN`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    sums: Vec<usize>,
}

impl Counts {
    /// The count at `at` has grown by 1.
    #[inline]
    pub(crate) fn increment(&mut self, at: usize) {
        self.sums[at / RUN] += 1;
    }

    /// The count at `at` has shrunk by 1.
    #[inline]
    pub(crate) fn decrement(&mut self, at: usize) {
        self.sums[at / RUN] -= 1;
    }

    /// A count has been inserted at `at`, the one before it may have changed, and now there are
    /// `len`.
    pub(crate) fn inserted(&mut self, at: usize, len: usize, count: impl Fn(usize) -> usize) {
        if len > self.sums.len() * RUN {
            self.sums.push(0);
        }
        for run in at / RUN + 1..self.sums.len() {
            let next = (run + 1) * RUN;
            let left = if next < len { count(next) } else { 0 };
            self.sums[run] = self.sums[run] + count(run * RUN) - left;
        }
        self.add_up(at.saturating_sub(1) / RUN, len, &count);
        self.add_up(at / RUN, len, &count);
    }

    /// The count at `at` has been removed, and now there are `len`.
    pub(crate) fn removed(&mut self, at: usize, len: usize, count: impl Fn(usize) -> usize) {
        for run in at / RUN + 1..self.sums.len() {
            let last = (run + 1) * RUN - 1;
            let gained = if last < len { count(last) } else { 0 };
            self.sums[run] = self.sums[run] + gained - count(run * RUN - 1);
        }
        self.add_up(at / RUN, len, &count);
        self.sums.truncate(len.div_ceil(RUN));
    }

    fn add_up(&mut self, run: usize, len: usize, count: impl Fn(usize) -> usize) {
        self.sums[run] = (run * RUN..len.min((run + 1) * RUN)).map(count).sum();
    }

    /// The sum of the counts before `at`.
    pub(crate) fn before(&self, at: usize, count: impl Fn(usize) -> usize) -> usize {
        let run = at / RUN;
        self.sums[..run].iter().sum::<usize>() + (run * RUN..at).map(count).sum::<usize>()
    }

    /// The count that `rank` falls into, and how far: `rank` is below the sum of all counts, none
    /// of which is 0.
    pub(crate) fn find(&self, mut rank: usize, count: impl Fn(usize) -> usize) -> (usize, usize) {
        let mut run = 0;
        while self.sums[run] <= rank {
            rank -= self.sums[run];
            run += 1;
        }
        let mut at = run * RUN;
        while count(at) <= rank {
            rank -= count(at);
            at += 1;
        }
        (at, rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_base::Prng;

    #[test]
    fn sums_are_those_of_the_plain_counts() {
        let (mut prng, mut counts, mut plain) = (Prng::new(5), Counts::default(), Vec::new());
        for step in 0..3000 {
            let at = prng.below(plain.len() as u64 + 1) as usize;
            // Grows to several runs and shrinks to none.
            if step < 1500 && prng.below(3) > 0 || plain.is_empty() {
                if at > 0 && plain[at - 1] > 1 {
                    plain[at - 1] -= 1;
                }
                plain.insert(at, at % 5 + 1);
                counts.inserted(at, plain.len(), |at| plain[at]);
            } else if let Some(count) = plain.get_mut(at) {
                if prng.below(2) == 0 {
                    plain.remove(at);
                    counts.removed(at, plain.len(), |at| plain[at]);
                } else {
                    *count += 1;
                    counts.increment(at);
                }
            }
            let at = prng.below(plain.len() as u64 + 1) as usize;
            let before: usize = plain[..at].iter().sum();
            assert_eq!(counts.before(at, |at| plain[at]), before, "step {step}");
            if at < plain.len() {
                let last = before + plain[at] - 1;
                assert_eq!(counts.find(before, |at| plain[at]), (at, 0), "step {step}");
                assert_eq!(counts.find(last, |at| plain[at]), (at, plain[at] - 1), "step {step}");
            }
        }
        assert!(plain.len() < 100 && counts.sums.len() <= 1, "{} are left", plain.len());
    }
}
