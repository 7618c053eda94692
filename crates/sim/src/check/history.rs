//! What clients did, in the order in which it happened.
//!
//! Calls and returns are numbered as they are recorded, so that two events of one microsecond keep
//! their order. Times are kept beside it for models of things that expire.

use std::collections::BTreeMap;

/// Names an operation of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(usize);

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It took effect: its answer came, or somebody asked for the outcome.
    Answered,
    /// It may take effect at any moment after its call, or never.
    Unknown,
    /// It never takes effect.
    Refused,
}

/// One operation of one client on one key.
#[derive(Clone, Debug)]
pub struct Operation<O, R> {
    /// Who called it.
    pub client: usize,
    /// What was asked.
    pub op: O,
    /// The position of the call among all events of the history.
    pub called: u64,
    /// The time of the call in µs.
    pub call_us: u64,
    /// The position of the return; `u64::MAX` if the operation never returned.
    pub returned: u64,
    /// The time of the return in µs; `u64::MAX` if the operation never returned.
    pub return_us: u64,
    /// What was answered, if that is known.
    pub result: Option<R>,
    /// How it ended.
    pub fate: Fate,
}

impl<O, R> Operation<O, R> {
    /// An operation that has not returned.
    pub fn open(client: usize, op: O, called: u64, call_us: u64) -> Self {
        Self {
            client,
            op,
            called,
            call_us,
            returned: u64::MAX,
            return_us: u64::MAX,
            result: None,
            fate: Fate::Unknown,
        }
    }

    /// Whether this operation ended before `other` began.
    pub fn precedes(&self, other: &Self) -> bool {
        self.returned < other.called
    }
}

/// All operations of a run, by key.
#[derive(Clone, Debug)]
pub struct History<K, O, R> {
    operations: Vec<(K, Operation<O, R>)>,
    events: u64,
}

impl<K, O, R> Default for History<K, O, R> {
    fn default() -> Self {
        Self { operations: Vec::new(), events: 0 }
    }
}

impl<K: Ord + Clone, O, R> History<K, O, R> {
    /// Records that `client` calls `op` on `key`. Until told otherwise its outcome is unknown.
    pub fn call(&mut self, client: usize, key: K, op: O, now_us: u64) -> OperationId {
        let called = self.next_event();
        self.operations.push((key, Operation::open(client, op, called, now_us)));
        OperationId(self.operations.len() - 1)
    }

    /// Records that an operation took effect before now; `result` is `None` if only that is known.
    pub fn answered(&mut self, id: OperationId, result: Option<R>, now_us: u64) {
        let returned = self.next_event();
        let operation = self.operation_mut(id);
        assert_eq!(operation.fate, Fate::Unknown, "an operation ends once");
        operation.fate = Fate::Answered;
        operation.result = result;
        operation.returned = returned;
        operation.return_us = now_us;
    }

    /// Records that an operation was not executed and never will be.
    pub fn refused(&mut self, id: OperationId) {
        let operation = self.operation_mut(id);
        assert_eq!(operation.fate, Fate::Unknown, "an operation ends once");
        operation.fate = Fate::Refused;
    }

    /// The operation of this id.
    pub fn operation(&self, id: OperationId) -> &Operation<O, R> {
        &self.operations[id.0].1
    }

    /// How many operations ended with this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.operations.iter().filter(|(_, operation)| operation.fate == fate).count() as u64
    }

    /// The operations of each key, in the order of their calls.
    pub fn by_key(&self) -> BTreeMap<K, Vec<Operation<O, R>>>
    where
        O: Clone,
        R: Clone,
    {
        let mut keys: BTreeMap<K, Vec<_>> = BTreeMap::new();
        for (key, operation) in &self.operations {
            keys.entry(key.clone()).or_default().push(operation.clone());
        }
        keys
    }

    fn operation_mut(&mut self, id: OperationId) -> &mut Operation<O, R> {
        &mut self.operations[id.0].1
    }

    fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}
