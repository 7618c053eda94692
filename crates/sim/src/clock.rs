//! A node's two clocks, as far from the truth as a fault makes them.
//!
//! The monotonic clock begins at 0 with the process, runs at its own rate and never goes back. The
//! wall clock runs at the same rate and may jump.

use crate::chance::MILLION;
use crate::queue::Micros;
use quorate_node::Time;

/// The wall clock of a world that begins: a fixed moment in 2023, in microseconds.
const EPOCH: u64 = 1_700_000_000_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// A moment, what both clocks showed then, and how fast they run since, in parts in a million.
    at: Micros,
    mono: Micros,
    wall: Micros,
    rate: u64,
}

impl Clock {
    /// A right clock.
    pub(crate) fn new() -> Self {
        Self { at: 0, mono: 0, wall: EPOCH, rate: MILLION }
    }

    /// Both clocks at `now`.
    pub(crate) fn read(&self, now: Micros) -> Time {
        let (mono, wall) = self.micros(now);
        Time { wall: wall / 1_000, mono: mono / 1_000, mono_us: mono }
    }

    /// When the monotonic clock will show `mono` milliseconds; the next moment if it already does.
    pub(crate) fn when(&self, now: Micros, mono_ms: u64) -> Micros {
        let wanted = mono_ms.saturating_mul(1_000);
        let passed = wanted.saturating_sub(self.mono);
        let true_us = u128::from(passed) * u128::from(MILLION) / u128::from(self.rate);
        let at = self.at.saturating_add(u64::try_from(true_us).unwrap_or(u64::MAX));
        // Division rounds down, and the clock must have got there.
        (at.saturating_add(2)).max(now + 1)
    }

    /// From now on the clocks run fast (positive) or slow by so many parts in a million.
    pub(crate) fn drift(&mut self, now: Micros, parts: i64) {
        self.settle(now);
        self.rate = MILLION.saturating_add_signed(parts);
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&mut self, now: Micros, by_us: i64) {
        self.settle(now);
        self.wall = self.wall.saturating_add_signed(by_us);
    }

    /// A process starts, and with it the monotonic clock.
    pub(crate) fn restart(&mut self, now: Micros) {
        self.settle(now);
        self.mono = 0;
    }

    fn settle(&mut self, now: Micros) {
        (self.mono, self.wall) = self.micros(now);
        self.at = now;
    }

    fn micros(&self, now: Micros) -> (Micros, Micros) {
        let passed = u128::from(now - self.at) * u128::from(self.rate) / u128::from(MILLION);
        (self.mono + passed as u64, self.wall + passed as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drift_jump_and_restart() {
        let mut clock = Clock::new();
        clock.drift(1_000_000, 500_000);
        clock.jump(1_000_000, -3_000_000);
        let time = clock.read(3_000_000);
        assert_eq!(time.mono, 4_000);
        assert_eq!(time.wall, EPOCH / 1_000 + 1_000);
        assert!(clock.when(3_000_000, 4_000) > 3_000_000);
        let at = clock.when(3_000_000, 5_500);
        assert!((4_000_000..4_000_010).contains(&at), "{at}");
        assert_eq!(clock.read(at).mono, 5_500);
        clock.restart(5_000_000);
        assert_eq!(clock.read(6_000_000).mono, 1_500);
    }
}
