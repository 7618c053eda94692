//! What a correct key does: register, counter, append-only list, set, value that expires.
//!
//! States are small and cheap to compare, because the search keeps many of them: a set is a mask, a
//! list is its length and a fingerprint of its elements.

use super::history::Operation;
use super::search::Model;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

/// One value, read and replaced as a whole.
#[derive(Clone, Debug)]
pub struct Registers<V> {
    /// The value before anybody wrote; "absent" for [`Register::WriteIfAbsent`].
    pub initial: V,
}

/// An operation on a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Register<V> {
    /// GET
    Read,
    /// SET
    Write(V),
    /// SETNX
    WriteIfAbsent(V),
    /// GETSET
    Exchange(V),
    /// WATCH, a read of the first value, MULTI, a write of the second, EXEC. It may abort whatever
    /// the value is: a write of the same value aborts it, and so may a failover.
    Swap(V, V),
}

/// What an operation on a register or a set was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<V> {
    /// A value.
    Value(V),
    /// Whether something was done.
    Done(bool),
}

impl<V: Clone + Eq + Hash + Debug> Model for Registers<V> {
    type State = V;
    type Op = Register<V>;
    type Result = Seen<V>;

    fn is_read(&self, operation: &Operation<Register<V>, Seen<V>>) -> bool {
        matches!(operation.op, Register::Read)
    }

    fn initial(&self) -> V {
        self.initial.clone()
    }

    fn apply(&self, state: &V, operation: &Operation<Register<V>, Seen<V>>) -> Option<V> {
        let result = operation.result.as_ref();
        match &operation.op {
            Register::Read => agrees(result, &Seen::Value(state.clone())).then(|| state.clone()),
            Register::Write(value) => Some(value.clone()),
            Register::WriteIfAbsent(value) => {
                let absent = *state == self.initial;
                let next = if absent { value } else { state };
                agrees(result, &Seen::Done(absent)).then(|| next.clone())
            }
            Register::Exchange(value) => {
                agrees(result, &Seen::Value(state.clone())).then(|| value.clone())
            }
            Register::Swap(expected, value) => match result {
                Some(Seen::Done(false)) => Some(state.clone()),
                _ => (state == expected).then(|| value.clone()),
            },
        }
    }
}

/// A counter; absent until the first addition.
#[derive(Clone, Copy, Debug)]
pub struct Counter;

/// An operation on a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adds {
    /// INCR, INCRBY, DECR
    Add(i64),
    /// GET
    Read,
}

impl Model for Counter {
    type State = Option<i64>;
    type Op = Adds;
    type Result = Option<i64>;

    fn is_read(&self, operation: &Operation<Adds, Option<i64>>) -> bool {
        matches!(operation.op, Adds::Read)
    }

    fn initial(&self) -> Option<i64> {
        None
    }

    fn apply(
        &self,
        state: &Option<i64>,
        operation: &Operation<Adds, Option<i64>>,
    ) -> Option<Option<i64>> {
        let next = match operation.op {
            Adds::Add(amount) => Some(state.unwrap_or(0) + amount),
            Adds::Read => *state,
        };
        agrees(operation.result.as_ref(), &next).then_some(next)
    }
}

/// A list to which elements are only appended.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The list after the last operation, if it was read then: every list before was a beginning of
    /// it. Saves the search from trying orders that only a later read would refute.
    pub last: Option<Vec<u64>>,
}

/// The content of a list: its length, and a fingerprint of its elements in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListState {
    len: u64,
    print: u128,
}

impl ListState {
    /// How many elements it has.
    pub fn len(self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A list with one element more.
    #[must_use]
    pub fn with(self, element: u64) -> Self {
        // Odd multipliers, so that every element and every place counts.
        const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let mixed = (self.print ^ u128::from(element)).wrapping_mul(STEP);
        Self { len: self.len + 1, print: mixed ^ (mixed >> 59) }
    }

    /// The list of these elements.
    pub fn of(elements: impl IntoIterator<Item = u64>) -> Self {
        elements.into_iter().fold(Self::default(), Self::with)
    }
}

/// An operation on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appends {
    /// RPUSH of one element
    Append(u64),
    /// LRANGE 0 -1
    Read,
}

impl Model for List {
    type State = ListState;
    type Op = Appends;
    /// The length, and for a read the whole list.
    type Result = (u64, Option<ListState>);

    fn is_read(&self, operation: &Operation<Appends, (u64, Option<ListState>)>) -> bool {
        matches!(operation.op, Appends::Read)
    }

    fn initial(&self) -> ListState {
        ListState::default()
    }

    fn apply(
        &self,
        state: &ListState,
        operation: &Operation<Appends, (u64, Option<ListState>)>,
    ) -> Option<ListState> {
        let next = match operation.op {
            Appends::Append(element) => state.with(element),
            Appends::Read => *state,
        };
        if let (Appends::Append(element), Some(last)) = (operation.op, &self.last)
            && last.get(state.len as usize) != Some(&element)
        {
            return None;
        }
        let Some((len, whole)) = operation.result else { return Some(next) };
        (len == next.len && whole.is_none_or(|whole| whole == next)).then_some(next)
    }
}

/// A set of elements below [`MEMBERS_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct ElementSet;

/// How many different elements a set of the model can have.
pub const MEMBERS_MAX: u8 = 64;

/// An operation on a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// SADD of one element
    Add(u8),
    /// SREM of one element
    Remove(u8),
    /// SISMEMBER
    Contains(u8),
    /// SMEMBERS; the value is a mask.
    All,
}

impl Model for ElementSet {
    type State = u64;
    type Op = Members;
    type Result = Seen<u64>;

    fn is_read(&self, operation: &Operation<Members, Seen<u64>>) -> bool {
        matches!(operation.op, Members::Contains(_) | Members::All)
    }

    fn initial(&self) -> u64 {
        0
    }

    fn apply(&self, state: &u64, operation: &Operation<Members, Seen<u64>>) -> Option<u64> {
        let bit = |element: u8| {
            assert!(element < MEMBERS_MAX, "element {element} is not below {MEMBERS_MAX}");
            1u64 << element
        };
        let (next, seen) = match operation.op {
            Members::Add(element) => (state | bit(element), Seen::Done(state & bit(element) == 0)),
            Members::Remove(element) => {
                (state & !bit(element), Seen::Done(state & bit(element) != 0))
            }
            Members::Contains(element) => (*state, Seen::Done(state & bit(element) != 0)),
            Members::All => (*state, Seen::Value(*state)),
        };
        agrees(operation.result.as_ref(), &seen).then_some(next)
    }
}

/// A value that may expire.
///
/// An operation takes effect between its call and its return, so a deadline is known as an interval;
/// it is widened by how wrong the clocks of the cluster may be. Within the interval a read may see
/// the value or not; once it was seen absent it stays absent.
#[derive(Clone, Copy, Debug)]
pub struct Expiring<V> {
    /// How far, in µs, the clock that decides about expiry may be from the one that stamped the
    /// history, added up over a value's life. `u64::MAX`: a value with a deadline may go at any time.
    pub tolerance_us: u64,
    /// The type of the values.
    pub value: PhantomData<V>,
}

/// An operation on a value that may expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry<V> {
    /// SET, with PX in µs or without
    Write(V, Option<u64>),
    /// GET
    Read,
    /// PERSIST
    Persist,
}

/// A value and when it goes, as an interval; `u64::MAX`: never.
type Lifetime<V> = (V, u64, u64);

impl<V: Clone + Eq + Hash + Debug> Model for Expiring<V> {
    type State = Option<Lifetime<V>>;
    type Op = Expiry<V>;
    /// What a read saw; whether a PERSIST did something.
    type Result = Seen<Option<V>>;

    /// A read that finds nothing is none: later operations may depend on that the value is gone.
    fn is_read(&self, operation: &Operation<Expiry<V>, Seen<Option<V>>>) -> bool {
        matches!(operation.op, Expiry::Read)
            && matches!(operation.result, Some(Seen::Value(Some(_))))
    }

    fn initial(&self) -> Self::State {
        None
    }

    fn apply(
        &self,
        state: &Self::State,
        operation: &Operation<Expiry<V>, Seen<Option<V>>>,
    ) -> Option<Self::State> {
        let alive = state.clone().filter(|(_, _, latest)| *latest >= operation.call_us);
        let gone = match state {
            None => Some(None),
            Some((_, earliest, _)) => {
                (*earliest <= operation.return_us && *earliest < u64::MAX).then_some(None)
            }
        };
        match (&operation.op, &operation.result) {
            (Expiry::Write(value, None), _) => Some(Some((value.clone(), u64::MAX, u64::MAX))),
            (Expiry::Write(value, Some(after)), _) => {
                let earliest = operation.call_us.saturating_add(*after);
                let latest = operation.return_us.saturating_add(*after);
                Some(Some((
                    value.clone(),
                    earliest.saturating_sub(self.tolerance_us),
                    latest.saturating_add(self.tolerance_us),
                )))
            }
            (Expiry::Read, Some(Seen::Value(Some(value)))) => {
                alive.filter(|(now, _, _)| now == value).map(Some)
            }
            (Expiry::Read, Some(Seen::Value(None))) => gone,
            (Expiry::Read, _) => Some(state.clone()),
            (Expiry::Persist, Some(Seen::Done(true))) => alive
                .filter(|(_, earliest, _)| *earliest < u64::MAX)
                .map(|(value, _, _)| Some((value, u64::MAX, u64::MAX))),
            // No deadline, for sure or perhaps; or gone.
            (Expiry::Persist, Some(_)) => match state {
                Some((_, _, u64::MAX)) => Some(state.clone()),
                _ => gone,
            },
            // Either it came in time, or the value was gone: from now on both are possible.
            (Expiry::Persist, None) => {
                Some(state.clone().map(|(value, earliest, _)| (value, earliest, u64::MAX)))
            }
        }
    }

    /// Equal writes at different times have different deadlines.
    fn alike(
        &self,
        _: &Operation<Expiry<V>, Seen<Option<V>>>,
        _: &Operation<Expiry<V>, Seen<Option<V>>>,
    ) -> bool {
        false
    }
}

fn agrees<R: PartialEq>(result: Option<&R>, expected: &R) -> bool {
    result.is_none_or(|result| result == expected)
}
