//! The statistics of the report: medians, spreads, and ratios taken round by round.
//!
//! A machine's speed drifts over minutes, so two systems are compared only within one round,
//! where they ran next to each other. The figure quoted is the median of those ratios, never
//! the ratio of two medians.

/// Which direction of a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// More is better (operations per second).
    Higher,
    /// Less is better (latency, CPU, memory).
    Lower,
}

/// Median and extremes of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

/// Summarises a series; `None` if it is empty.
pub(crate) fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some(Summary { median, min, max, count: sorted.len() })
}

/// The subject's advantage over a peer, one ratio for each round in which both have a value.
///
/// Above 1 always means that the subject is better: `subject / peer` where higher is better,
/// `peer / subject` where lower is better. Rounds with a zero or negative divisor are left out.
pub(crate) fn ratios(subject: &[Option<f64>], peer: &[Option<f64>], better: Better) -> Vec<f64> {
    subject
        .iter()
        .zip(peer)
        .filter_map(|(subject, peer)| {
            let (subject, peer) = ((*subject)?, (*peer)?);
            let (above, below) = match better {
                Better::Higher => (subject, peer),
                Better::Lower => (peer, subject),
            };
            (below > 0.0).then(|| above / below)
        })
        .collect()
}

/// The order in which `count` systems run in a round: rotated by one each round, so that none
/// always follows the same neighbour's heat and write-back.
pub(crate) fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |position| (position + round) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_series() {
        let odd = summary(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.count), (2.0, 1.0, 3.0, 3));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn ratios_are_paired_by_round_and_point_one_way() {
        let subject = [Some(200.0), None, Some(90.0), Some(50.0)];
        let peer = [Some(100.0), Some(100.0), Some(60.0), Some(0.0)];
        assert_eq!(ratios(&subject, &peer, Better::Higher), vec![2.0, 1.5]);
        assert_eq!(ratios(&[Some(2.0)], &[Some(6.0)], Better::Lower), vec![3.0]);
    }

    #[test]
    fn median_of_ratios_is_not_the_ratio_of_medians() {
        let subject = [Some(10.0), Some(20.0), Some(90.0)];
        let peer = [Some(10.0), Some(10.0), Some(100.0)];
        let of_ratios = summary(&ratios(&subject, &peer, Better::Higher)).unwrap();
        assert_eq!((of_ratios.median, of_ratios.min, of_ratios.max), (1.0, 0.9, 2.0));
    }

    #[test]
    fn every_system_takes_every_place_once_in_a_full_turn() {
        for place in 0..3 {
            let mut seen: Vec<_> = (0..3).map(|r| order(r, 3).nth(place).unwrap()).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        }
    }
}
