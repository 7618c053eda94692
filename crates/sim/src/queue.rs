//! What is going to happen, in the order of simulated time; what is due at the same moment happens
//! in the order in which it was planned.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Simulated time in microseconds since the world began.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;

/// A millisecond.
pub const MILLISECOND: Micros = 1_000;

/// Things to come.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Slot<T>>>,
    planned: u64,
}

#[derive(Debug)]
struct Slot<T> {
    at: Micros,
    nth: u64,
    what: T,
}

impl<T> Queue<T> {
    /// Nothing to come.
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    /// Plans `what` for the moment `at`.
    pub(crate) fn push(&mut self, at: Micros, what: T) {
        self.planned += 1;
        self.heap.push(Reverse(Slot { at, nth: self.planned, what }));
    }

    /// What comes next, with its time.
    pub(crate) fn pop(&mut self) -> Option<(Micros, T)> {
        self.heap.pop().map(|Reverse(slot)| (slot.at, slot.what))
    }

    /// When something comes next.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse(slot)| slot.at)
    }
}

impl<T> PartialEq for Slot<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Slot<T> {}

impl<T> PartialOrd for Slot<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Slot<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_then_as_planned() {
        let mut queue = Queue::new();
        for (at, what) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b')] {
            queue.push(at, what);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(3, 'a'), (4, 'b'), (5, 'c'), (5, 'd')]);
    }
}
