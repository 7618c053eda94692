//! What is going to happen, in the order of simulated time; what is due at the same moment happens
//! in the order in which it was planned.

use std::cmp::Reverse;
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
    /// When, in which turn of planning, and where in `things`: small, because a heap moves its
    /// elements a lot.
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    planned: u64,
    things: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Queue<T> {
    /// Nothing to come.
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0, things: Vec::new(), free: Vec::new() }
    }

    /// Plans `what` for the moment `at`.
    pub(crate) fn push(&mut self, at: Micros, what: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.things.push(None);
            self.things.len() - 1
        });
        self.things[place] = Some(what);
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, place)));
    }

    /// What comes next, with its time.
    pub(crate) fn pop(&mut self) -> Option<(Micros, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.things[place].take().expect("it was put there when it was planned")))
    }

    /// When something comes next.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
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
