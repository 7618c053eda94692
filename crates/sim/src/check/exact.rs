//! Checks in linear time that always decide: how often operations counted, and what is left at the
//! end.
//!
//! They are weaker than linearizability (they see no stale read), and independent of its search.

use super::history::{Fate, Operation};
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

/// Checks that each answered addition counts once, each unknown one at most once, and each refused
/// one never: the counter's last value `last` lies between what that allows. Of additions of
/// positive amounts no two may see the same sum.
pub fn counter<R>(
    operations: &[Operation<i64, R>],
    sum: impl Fn(&R) -> i64,
    last: i64,
) -> Result<(), String> {
    let (mut least, mut most) = (0i64, 0i64);
    let mut sums = HashSet::new();
    for operation in operations {
        match operation.fate {
            Fate::Answered => {
                least += operation.op;
                most += operation.op;
            }
            Fate::Unknown => {
                least += operation.op.min(0);
                most += operation.op.max(0);
            }
            Fate::Refused => {}
        }
        if let Some(result) = &operation.result {
            let sum = sum(result);
            if !sums.insert(sum) && operations.iter().all(|other| other.op > 0) {
                return Err(format!("two additions were both told the sum {sum}"));
            }
        }
    }
    if (least..=most).contains(&last) {
        return Ok(());
    }
    let answered = operations.iter().filter(|o| o.fate == Fate::Answered).count();
    let unknown = operations.iter().filter(|o| o.fate == Fate::Unknown).count();
    let wrong = if last < least { "an acknowledged one is lost" } else { "one was executed twice" };
    Err(format!(
        "the counter ends at {last}, but {answered} acknowledged and {unknown} unknown additions \
         allow {least} to {most}: {wrong}"
    ))
}

/// Checks a list to which every operation appended one element of its own: acknowledged elements
/// are there once, unknown ones at most once, refused and foreign ones never, and what was appended
/// before something else began stands before it.
pub fn appends<E: Eq + Hash + Debug, R>(
    operations: &[Operation<E, R>],
    last: &[E],
) -> Result<(), String> {
    let mut places: HashMap<&E, usize> = HashMap::new();
    for (place, element) in last.iter().enumerate() {
        if let Some(first) = places.insert(element, place) {
            return Err(format!("{element:?} is in the list twice, at {first} and {place}"));
        }
    }
    let mut by_place = vec![None; last.len()];
    for operation in operations {
        let place = places.remove(&operation.op);
        match (operation.fate, place) {
            (Fate::Answered, None) => {
                return Err(format!("{:?} was acknowledged and is not in the list", operation.op));
            }
            (Fate::Refused, Some(_)) => {
                return Err(format!("{:?} was refused and is in the list", operation.op));
            }
            (_, Some(place)) => by_place[place] = Some(operation),
            (_, None) => {}
        }
    }
    if let Some(element) = last.iter().find(|element| places.contains_key(element)) {
        return Err(format!("{element:?} is in the list and nobody appended it"));
    }
    let mut earliest: Option<&Operation<E, R>> = None;
    for operation in by_place.into_iter().rev().flatten() {
        if let Some(later) = earliest.filter(|later| later.precedes(operation)) {
            return Err(format!(
                "{:?} stands before {:?}, which was acknowledged before the other was sent",
                operation.op, later.op
            ));
        }
        if earliest.is_none_or(|earliest| operation.returned < earliest.returned) {
            earliest = Some(operation);
        }
    }
    Ok(())
}

/// Checks that no acknowledged write is lost: `last` must be what a write (or nobody: `initial`)
/// wrote that no acknowledged write of something else followed as a whole. `write` says what an
/// operation writes, `None` if nothing; refused ones write nothing.
pub fn last_write<O, R, V: PartialEq + Debug>(
    operations: &[Operation<O, R>],
    write: impl Fn(&Operation<O, R>) -> Option<V>,
    initial: &V,
    last: &V,
) -> Result<(), String> {
    let mut source_returned = if initial == last { Some(0) } else { None };
    let mut overwritten: Option<(u64, V)> = None;
    for operation in operations.iter().filter(|o| o.fate != Fate::Refused) {
        let Some(value) = write(operation) else { continue };
        if value == *last {
            source_returned = source_returned.max(Some(operation.returned));
        } else if operation.fate == Fate::Answered
            && overwritten.as_ref().is_none_or(|(called, _)| *called < operation.called)
        {
            overwritten = Some((operation.called, value));
        }
    }
    match (source_returned, overwritten) {
        (None, _) => Err(format!("the last value {last:?} is one that nobody wrote")),
        (Some(returned), Some((called, value))) if returned < called => Err(format!(
            "the last value is {last:?}, but {value:?} was written after it and acknowledged"
        )),
        _ => Ok(()),
    }
}

/// What became of the elements of a queue.
#[derive(Debug)]
pub struct Queue<'a, E, P, R> {
    /// What was pushed at the tail, each element once.
    pub pushes: &'a [Operation<E, P>],
    /// What was popped at the head: the answered pops that got an element.
    pub pops: &'a [Operation<E, R>],
    /// How many pops there were whose outcome is unknown.
    pub unknown_pops: usize,
    /// What is left at the end, head first.
    pub left: &'a [E],
}

impl<E: Eq + Hash + Debug, P, R> Queue<'_, E, P, R> {
    /// Checks that every acknowledged element was popped once or is still there, except for as many
    /// as there are unknown pops; that no element appears that was refused, or twice; and that of
    /// two pushes and two pops, each pair one after the other, the first popped was the first
    /// pushed.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = HashSet::new();
        let popped = self.pops.iter().map(|pop| &pop.op);
        for element in popped.chain(self.left) {
            if !seen.insert(element) {
                return Err(format!("{element:?} was popped twice, or popped and is still there"));
            }
        }
        let mut missing = Vec::new();
        for push in self.pushes {
            let found = seen.remove(&push.op);
            match push.fate {
                Fate::Answered if !found => missing.push(&push.op),
                Fate::Refused if found => {
                    return Err(format!("{:?} was refused and came out of the queue", push.op));
                }
                _ => {}
            }
        }
        let mut out = self.pops.iter().map(|pop| &pop.op).chain(self.left);
        if let Some(element) = out.find(|element| seen.contains(element)) {
            return Err(format!("{element:?} came out of the queue and nobody pushed it"));
        }
        if missing.len() > self.unknown_pops {
            return Err(format!(
                "{} acknowledged elements were neither popped nor are left, but only {} pops are \
                 unknown; missing: {missing:?}",
                missing.len(),
                self.unknown_pops
            ));
        }
        self.check_order()
    }

    fn check_order(&self) -> Result<(), String> {
        let by_element: HashMap<&E, &Operation<E, P>> =
            self.pushes.iter().map(|push| (&push.op, push)).collect();
        let mut pops: Vec<_> =
            self.pops.iter().filter_map(|pop| Some((pop, *by_element.get(&pop.op)?))).collect();
        pops.sort_by_key(|(pop, _)| pop.called);
        let mut ended = pops.clone();
        ended.sort_by_key(|(pop, _)| pop.returned);
        // Among the pops that ended before this one began: the element whose push began last.
        let mut ended = ended.into_iter().peekable();
        let mut latest: Option<&Operation<E, P>> = None;
        for (pop, push) in pops {
            while let Some((_, other)) = ended.next_if(|(other, _)| other.returned < pop.called) {
                if latest.is_none_or(|latest| latest.called < other.called) {
                    latest = Some(other);
                }
            }
            if let Some(latest) = latest.filter(|latest| push.returned < latest.called) {
                return Err(format!(
                    "{:?} was popped before {:?}, but pushed after it",
                    latest.op, push.op
                ));
            }
        }
        Ok(())
    }
}
