//! The search for an order that explains a history, after Wing and Gong, "Testing and verifying
//! concurrent objects" (1993), with the remembered configurations of Lowe, "Testing for
//! linearizability" (2017).
//!
//! A configuration is which operations are in the order so far, and the state they lead to. From
//! there, any operation may come next that was called before the first return of those that are
//! not in the order yet. All operations that returned must get into the order; those of unknown
//! outcome may.
//!
//! A read that is possible now and changes nothing is put into the order at once, without trying anything else in its
//! place: in any explanation it can be moved here, and what follows does not depend on it.
//!
//! Operations of unknown outcome never stop being candidates, so a plain search is exponential in
//! their number. Four rules keep it small, and lose no explanation:
//!
//! - **dominated**: a configuration is given up if one was seen with the same returned operations,
//!   the same state, and only some of its unknown operations: from there everything could be tried
//!   that can be tried here.
//! - **useless**: an unknown operation followed directly by X is given up if X alone leads to the
//!   same state.
//! - **late**: an unknown operation followed directly by a returned X is given up if the two in the
//!   other order are possible too and lead to the same state.
//!
//! - **alike**: of unknown operations that are alike ([`Model::alike`]), one called earlier can stand
//!   wherever a later one can, so they are taken in the order of their calls.
//!
//! Why *useless* and *late* may look at the step before and still be combined with *dominated*: if they
//! give up `… U X rest`, then `… X rest` or `… X U rest` is an explanation whose part after X has fewer
//! returned operations left than `X rest` had, so by induction over what is left it is found. Sets
//! of returned operations are compared by a 128-bit sum of random numbers (Zobrist), sets of
//! unknown ones exactly.

use super::history::{Fate, Operation};
use quorate_base::prng::Prng;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

/// What one key of a correct database does.
pub trait Model {
    /// All that later operations depend on.
    type State: Clone + Eq + Hash + Debug;
    /// What can be asked.
    type Op: Clone + PartialEq + Debug;
    /// What can be answered.
    type Result: Clone + Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation`, or `None` if in this state it cannot give its result. An
    /// operation without a result may give any.
    fn apply(
        &self,
        state: &Self::State,
        operation: &Operation<Self::Op, Self::Result>,
    ) -> Option<Self::State>;

    /// Whether an operation only looks: without it, every order it is in stays possible.
    fn is_read(&self, operation: &Operation<Self::Op, Self::Result>) -> bool;

    /// Whether two operations without a result do the same in every state.
    fn alike(
        &self,
        one: &Operation<Self::Op, Self::Result>,
        other: &Operation<Self::Op, Self::Result>,
    ) -> bool {
        one.op == other.op
    }
}

/// What the search found out about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Failure),
    /// The bound on steps was reached first. Neither good nor bad: to be counted and shown.
    Undecided,
}

/// Why a history cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How many operations the longest explanation has, of how many that returned.
    pub explained: (usize, usize),
    /// Its last operations, the state they lead to, and what cannot come next, one a line.
    pub what: String,
}

/// A bounded search for an order.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// How many times an operation may be tried next.
    pub steps_max: u64,
}

impl Default for Search {
    /// A bound that takes some seconds and some hundred MiB at worst.
    fn default() -> Self {
        Self { steps_max: 2_000_000 }
    }
}

impl Search {
    /// Judges the operations on one key.
    pub fn check<M: Model>(
        &self,
        model: &M,
        operations: &[Operation<M::Op, M::Result>],
    ) -> Verdict {
        Run::new(model, operations).search(self.steps_max)
    }
}

/// The end of a chain, and the place before its first entry.
const NONE: usize = usize::MAX;

/// Operations that returned, as a chain of their calls and returns in the order of events, from
/// which those that are in the order are taken out (Lowe, section 3). Entry `2i` is the call of the
/// `i`-th, entry `2i + 1` its return.
struct Chain {
    next: Vec<usize>,
    previous: Vec<usize>,
    first: usize,
}

impl Chain {
    fn new(mut events: Vec<(u64, usize)>) -> Self {
        events.sort_unstable();
        let mut chain = Self {
            next: vec![NONE; events.len()],
            previous: vec![NONE; events.len()],
            first: NONE,
        };
        let mut last = NONE;
        for &(_, entry) in &events {
            chain.previous[entry] = last;
            match last {
                NONE => chain.first = entry,
                last => chain.next[last] = entry,
            }
            last = entry;
        }
        chain
    }

    fn take_out(&mut self, operation: usize) {
        for entry in [2 * operation, 2 * operation + 1] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            match previous {
                NONE => self.first = next,
                previous => self.next[previous] = next,
            }
            if next != NONE {
                self.previous[next] = previous;
            }
        }
    }

    /// Undoes the latest [`Chain::take_out`] that is not undone yet.
    fn put_back(&mut self, operation: usize) {
        for entry in [2 * operation + 1, 2 * operation] {
            let (previous, next) = (self.previous[entry], self.next[entry]);
            match previous {
                NONE => self.first = entry,
                previous => self.next[previous] = entry,
            }
            if next != NONE {
                self.previous[next] = entry;
            }
        }
    }
}

/// Where a configuration's search for the next operation stands.
#[derive(Clone, Copy)]
enum Cursor {
    /// At this entry of the chain, looking for reads that are possible.
    Reads(usize),
    /// At this entry of the chain.
    Returned(usize),
    /// At this operation of unknown outcome.
    Unknown(usize),
    /// Behind everything.
    End,
}

/// An operation that was put into the order.
struct Step<S> {
    choice: Choice,
    /// Nothing else need be tried in its place.
    sure: bool,
    /// The state before it.
    before: S,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Returned(usize),
    Unknown(usize),
}

/// Sets of unknown operations, one bit each.
type UnknownSets = Vec<Box<[u64]>>;

struct Run<'a, M: Model> {
    model: &'a M,
    returned: Vec<&'a Operation<M::Op, M::Result>>,
    unknown: Vec<&'a Operation<M::Op, M::Result>>,
    /// For each unknown operation, the latest one before it that is alike.
    alike: Vec<Option<usize>>,
    chain: Chain,
    marks: Vec<u128>,
    steps: Vec<Step<M::State>>,
    state: M::State,
    /// Which returned operations are in the order: the sum of their marks, and how many.
    returned_in: (u128, usize),
    /// Which unknown operations are in the order, one bit each.
    unknown_in: Vec<u64>,
    /// For returned operations and a state, the sets of unknown operations that were tried.
    seen: HashMap<(u128, M::State), UnknownSets>,
    longest: Option<Failure>,
}

impl<'a, M: Model> Run<'a, M> {
    fn new(model: &'a M, operations: &'a [Operation<M::Op, M::Result>]) -> Self {
        let of = |fate| {
            let mut chosen: Vec<_> = operations.iter().filter(|o| o.fate == fate).collect();
            chosen.sort_by_key(|operation| operation.called);
            chosen
        };
        let (returned, unknown) = (of(Fate::Answered), of(Fate::Unknown));
        let alike = (0..unknown.len())
            .map(|i| (0..i).rev().find(|&j| model.alike(unknown[j], unknown[i])))
            .collect();
        let events = returned
            .iter()
            .enumerate()
            .flat_map(|(i, o)| [(o.called, 2 * i), (o.returned, 2 * i + 1)])
            .collect();
        let mut prng = Prng::new(returned.len() as u64);
        let marks = returned
            .iter()
            .map(|_| u128::from(prng.next_u64()) << 64 | u128::from(prng.next_u64()))
            .collect();
        Self {
            model,
            alike,
            chain: Chain::new(events),
            marks,
            steps: Vec::new(),
            state: model.initial(),
            returned_in: (0, 0),
            unknown_in: vec![0; unknown.len().div_ceil(64)],
            seen: HashMap::new(),
            longest: None,
            returned,
            unknown,
        }
    }

    fn search(mut self, steps_max: u64) -> Verdict {
        let mut cursor = Cursor::Reads(self.chain.first);
        let mut tried = 0;
        loop {
            if self.returned_in.1 == self.returned.len() {
                return Verdict::Linearizable;
            }
            if tried >= steps_max {
                return Verdict::Undecided;
            }
            tried += 1;
            if let Some(choice) = self.candidate(&mut cursor) {
                let sure = matches!(cursor, Cursor::Reads(_));
                match self.outcome(choice, sure) {
                    None => cursor = self.following(cursor, choice),
                    Some(next) => {
                        self.advance(choice, sure, next);
                        cursor = match self.is_new() {
                            true => Cursor::Reads(self.chain.first),
                            false => self.retreat().expect("a step was made"),
                        };
                    }
                }
            } else {
                self.note_stuck();
                let Some(back) = self.retreat() else {
                    let failure = self.longest.expect("a search that fails was stuck");
                    return Verdict::Violation(failure);
                };
                cursor = back;
            }
        }
    }

    /// The operation to try at the cursor or behind it: first reads, then what else must get into
    /// the order, then what may.
    fn candidate(&self, cursor: &mut Cursor) -> Option<Choice> {
        loop {
            match *cursor {
                Cursor::Reads(entry) | Cursor::Returned(entry)
                    if entry != NONE && entry.is_multiple_of(2) =>
                {
                    let choice = Choice::Returned(entry / 2);
                    let skip = matches!(cursor, Cursor::Reads(_))
                        && !self.model.is_read(self.operation(choice));
                    if !skip {
                        return Some(choice);
                    }
                    *cursor = self.following(*cursor, choice);
                }
                Cursor::Reads(_) => *cursor = Cursor::Returned(self.chain.first),
                Cursor::Returned(_) => *cursor = Cursor::Unknown(0),
                Cursor::Unknown(from) => {
                    let is_in = |i: usize| self.unknown_in[i / 64] >> (i % 64) & 1 == 1;
                    let next = (from..self.unknown.len())
                        .find(|&i| !is_in(i) && self.alike[i].is_none_or(is_in))?;
                    return (self.unknown[next].called < self.first_return())
                        .then_some(Choice::Unknown(next));
                }
                Cursor::End => return None,
            }
        }
    }

    /// Where to go on behind an operation that cannot come next.
    fn following(&self, cursor: Cursor, choice: Choice) -> Cursor {
        match (cursor, choice) {
            (Cursor::Reads(_), Choice::Returned(i)) => Cursor::Reads(self.chain.next[2 * i]),
            (_, Choice::Returned(i)) => Cursor::Returned(self.chain.next[2 * i]),
            (_, Choice::Unknown(i)) => Cursor::Unknown(i + 1),
        }
    }

    /// The position of the first return of an operation that is not in the order.
    fn first_return(&self) -> u64 {
        let mut entry = self.chain.first;
        while entry.is_multiple_of(2) {
            entry = self.chain.next[entry];
        }
        self.returned[entry / 2].returned
    }

    fn operation(&self, choice: Choice) -> &'a Operation<M::Op, M::Result> {
        match choice {
            Choice::Returned(i) => self.returned[i],
            Choice::Unknown(i) => self.unknown[i],
        }
    }

    /// The state after `choice`, unless it is impossible here or one of the rules gives it up. A
    /// `sure` one must change nothing.
    fn outcome(&self, choice: Choice, sure: bool) -> Option<M::State> {
        let operation = self.operation(choice);
        let next = self.model.apply(&self.state, operation)?;
        if sure && next != self.state {
            return None;
        }
        if let Some(Step { choice: last @ Choice::Unknown(_), before, .. }) = self.steps.last()
            && let Some(alone) = self.model.apply(before, operation)
        {
            let useless = alone == next;
            let late = matches!(choice, Choice::Returned(_))
                && self.model.apply(&alone, self.operation(*last)).as_ref() == Some(&next);
            if useless || late {
                return None;
            }
        }
        // An unknown operation that changes nothing is never needed.
        let idle = matches!(choice, Choice::Unknown(_)) && next == self.state;
        (!idle).then_some(next)
    }

    fn advance(&mut self, choice: Choice, sure: bool, next: M::State) {
        match choice {
            Choice::Returned(i) => {
                self.chain.take_out(i);
                self.returned_in.0 ^= self.marks[i];
                self.returned_in.1 += 1;
            }
            Choice::Unknown(i) => self.unknown_in[i / 64] |= 1 << (i % 64),
        }
        let before = std::mem::replace(&mut self.state, next);
        self.steps.push(Step { choice, sure, before });
    }

    /// Takes the last operation out of the order, and says where to go on.
    fn retreat(&mut self) -> Option<Cursor> {
        let Step { choice, sure, before } = self.steps.pop()?;
        match choice {
            Choice::Returned(i) => {
                self.chain.put_back(i);
                self.returned_in.0 ^= self.marks[i];
                self.returned_in.1 -= 1;
            }
            Choice::Unknown(i) => self.unknown_in[i / 64] &= !(1 << (i % 64)),
        }
        self.state = before;
        Some(if sure { Cursor::End } else { self.following(Cursor::Returned(NONE), choice) })
    }

    /// Remembers this configuration; false if it is dominated by one that was seen.
    fn is_new(&mut self) -> bool {
        let tried = self.seen.entry((self.returned_in.0, self.state.clone())).or_default();
        let here = &self.unknown_in;
        let within = |set: &[u64], of: &[u64]| set.iter().zip(of).all(|(a, b)| a & !b == 0);
        if tried.iter().any(|set| within(set, here)) {
            return false;
        }
        tried.retain(|set| !within(here, set));
        tried.push(here.clone().into_boxed_slice());
        true
    }

    /// Keeps the longest order that could be reached, for the report.
    fn note_stuck(&mut self) {
        const SHOWN: usize = 8;
        let explained = (self.returned_in.1, self.returned.len());
        if self.longest.as_ref().is_some_and(|longest| longest.explained >= explained) {
            return;
        }
        let mut what = String::new();
        let mut line = |head: &str, operation: &Operation<M::Op, M::Result>| {
            let Operation { client, op, call_us, return_us, result, .. } = operation;
            let end = if *return_us == u64::MAX { "-".into() } else { return_us.to_string() };
            let result = result.as_ref().map_or("?".into(), |result| format!("{result:?}"));
            what += &format!("{head} client {client} {call_us}..{end} µs: {op:?} -> {result}\n");
        };
        for step in &self.steps[self.steps.len().saturating_sub(SHOWN)..] {
            line("  explained", self.operation(step.choice));
        }
        let mut entry = self.chain.first;
        while entry.is_multiple_of(2) {
            line("  impossible next", self.returned[entry / 2]);
            entry = self.chain.next[entry];
        }
        what += &format!("  in the state {:?}", self.state);
        self.longest = Some(Failure { explained, what });
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (explained, of) = self.explained;
        write!(f, "no order explains more than {explained} of {of} answers:\n{}", self.what)
    }
}
