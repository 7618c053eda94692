//! The kinds of operations on shared keys: their commands, their replies, and the checks that
//! always decide.

use super::keyed::{Draw, Kind};
use super::reply::Reply;
use super::wire::{Command, command};
use crate::check::{
    Adds, Appends, Counter, ElementSet, Expiring, Expiry, Fate, List, ListState, Members,
    Operation, Register, Registers, Seen, exact,
};
use quorate_base::prng::Prng;
use std::marker::PhantomData;

/// A number, also as text.
fn number(reply: &Reply) -> Result<i64, String> {
    match reply {
        Reply::Int(number) => Some(*number),
        Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        _ => None,
    }
    .ok_or_else(|| format!("{reply:?} is no number"))
}

/// A number as text, or nothing.
fn maybe_number(reply: &Reply) -> Result<Option<i64>, String> {
    if *reply == Reply::Null { Ok(None) } else { number(reply).map(Some) }
}

fn maybe_value(reply: &Reply) -> Result<Option<u64>, String> {
    Ok(maybe_number(reply)?.map(|number| number as u64))
}

fn yes_or_no(reply: &Reply) -> Result<bool, String> {
    match reply {
        Reply::Int(0) => Ok(false),
        Reply::Int(1) => Ok(true),
        _ => Err(format!("{reply:?} is neither 0 nor 1")),
    }
}

fn ok(reply: &Reply) -> Result<bool, String> {
    if reply.is_simple("OK") { Ok(true) } else { Err(format!("{reply:?} is not +OK")) }
}

fn numbers(reply: &Reply) -> Result<Vec<u64>, String> {
    match reply {
        Reply::Array(replies) => {
            replies.iter().map(|reply| number(reply).map(|number| number as u64)).collect()
        }
        _ => Err(format!("{reply:?} is no array")),
    }
}

/// The only reply of an operation that is one command.
fn only(replies: &[Reply]) -> Result<&Reply, String> {
    match replies {
        [reply] => Ok(reply),
        _ => Err(format!("{} replies to one command", replies.len())),
    }
}

/// What an operation on a register writes, if it does for sure or perhaps.
fn written<V: Clone>(operation: &Operation<Register<V>, Seen<V>>) -> Option<V> {
    match &operation.op {
        Register::Read => None,
        Register::Write(value) | Register::Exchange(value) => Some(value.clone()),
        Register::WriteIfAbsent(value) | Register::Swap(_, value) => {
            let failed = matches!(operation.result, Some(Seen::Done(false)));
            (!failed).then(|| value.clone())
        }
    }
}

/// Strings that are replaced as a whole.
#[derive(Debug, Default)]
pub(super) struct RegisterKind {
    values: u64,
}

impl RegisterKind {
    fn fresh(&mut self) -> Option<u64> {
        self.values += 1;
        Some(self.values)
    }
}

impl Kind for RegisterKind {
    type Model = Registers<Option<u64>>;

    fn name(&self) -> &'static str {
        "register"
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Register<Option<u64>>> {
        match prng.below(100) {
            0..35 => Draw::Alone(Register::Read),
            35..40 => Draw::Transaction(Register::Read),
            40..60 => Draw::Alone(Register::Write(self.fresh())),
            60..65 => Draw::Transaction(Register::Write(self.fresh())),
            65..72 => Draw::Alone(Register::WriteIfAbsent(self.fresh())),
            72..80 => Draw::Alone(Register::Exchange(self.fresh())),
            80..84 => Draw::Alone(Register::Write(None)),
            _ => Draw::Swap,
        }
    }

    fn commands(&self, key: &str, op: &Register<Option<u64>>) -> Vec<Command> {
        let text = |value: &Option<u64>| value.expect("only DEL writes nothing");
        vec![match op {
            Register::Read => command!["GET", key],
            Register::Write(None) => command!["DEL", key],
            Register::Write(value) | Register::Swap(_, value) => command!["SET", key, text(value)],
            Register::WriteIfAbsent(value) => command!["SETNX", key, text(value)],
            Register::Exchange(value) => command!["GETSET", key, text(value)],
        }]
    }

    fn result(
        &self,
        op: &Register<Option<u64>>,
        replies: &[Reply],
    ) -> Result<Seen<Option<u64>>, String> {
        let reply = only(replies)?;
        Ok(match op {
            Register::Read | Register::Exchange(_) => Seen::Value(maybe_value(reply)?),
            Register::Write(None) | Register::WriteIfAbsent(_) => Seen::Done(yes_or_no(reply)?),
            Register::Write(_) | Register::Swap(..) => Seen::Done(ok(reply)?),
        })
    }

    fn read(&self) -> Register<Option<u64>> {
        Register::Read
    }

    fn swap(&mut self, seen: &Seen<Option<u64>>) -> Option<Register<Option<u64>>> {
        match seen {
            Seen::Value(value) => Some(Register::Swap(*value, self.fresh())),
            Seen::Done(_) => None,
        }
    }

    fn aborted(&self) -> Option<Seen<Option<u64>>> {
        Some(Seen::Done(false))
    }

    fn model(&self, _last: &Reply) -> Registers<Option<u64>> {
        Registers { initial: None }
    }

    fn judge(
        &self,
        operations: &[Operation<Register<Option<u64>>, Seen<Option<u64>>>],
        last: &Reply,
    ) -> Result<(), String> {
        exact::last_write(operations, written, &None, &maybe_value(last)?)
    }
}

/// Counters that only grow.
#[derive(Debug)]
pub(super) struct CounterKind;

impl Kind for CounterKind {
    type Model = Counter;

    fn name(&self) -> &'static str {
        "counter"
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Adds> {
        match prng.below(100) {
            0..50 => Draw::Alone(Adds::Add(1)),
            50..65 => Draw::Transaction(Adds::Add(1)),
            65..70 => Draw::Alone(Adds::Add(2 + prng.below(3) as i64)),
            70..75 => Draw::Transaction(Adds::Read),
            _ => Draw::Alone(Adds::Read),
        }
    }

    fn commands(&self, key: &str, op: &Adds) -> Vec<Command> {
        vec![match op {
            Adds::Add(1) => command!["INCR", key],
            Adds::Add(amount) => command!["INCRBY", key, amount],
            Adds::Read => command!["GET", key],
        }]
    }

    fn result(&self, op: &Adds, replies: &[Reply]) -> Result<Option<i64>, String> {
        match op {
            Adds::Add(_) => number(only(replies)?).map(Some),
            Adds::Read => maybe_number(only(replies)?),
        }
    }

    fn read(&self) -> Adds {
        Adds::Read
    }

    fn model(&self, _last: &Reply) -> Counter {
        Counter
    }

    fn judge(
        &self,
        operations: &[Operation<Adds, Option<i64>>],
        last: &Reply,
    ) -> Result<(), String> {
        let additions: Vec<_> = operations
            .iter()
            .filter_map(|operation| match operation.op {
                Adds::Add(amount) => Some(with_op(operation, amount)),
                Adds::Read => None,
            })
            .collect();
        let last = maybe_number(last)?.unwrap_or(0);
        exact::counter(&additions, |sum| sum.unwrap_or(0), last)
    }
}

/// The same operation with its request said in another way.
fn with_op<O, P, R: Clone>(operation: &Operation<O, R>, op: P) -> Operation<P, R> {
    Operation {
        client: operation.client,
        op,
        called: operation.called,
        call_us: operation.call_us,
        returned: operation.returned,
        return_us: operation.return_us,
        result: operation.result.clone(),
        fate: operation.fate,
    }
}

/// Lists that only grow at their end.
#[derive(Debug)]
pub(super) struct ListKind {
    name: &'static str,
    elements: u64,
}

impl ListKind {
    /// Lists whose keys begin with this.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, elements: 0 }
    }
}

impl Kind for ListKind {
    type Model = List;

    fn name(&self) -> &'static str {
        self.name
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Appends> {
        self.elements += 1;
        match prng.below(100) {
            0..75 => Draw::Alone(Appends::Append(self.elements)),
            75..90 => Draw::Transaction(Appends::Append(self.elements)),
            _ => Draw::Alone(Appends::Read),
        }
    }

    fn commands(&self, key: &str, op: &Appends) -> Vec<Command> {
        vec![match op {
            Appends::Append(element) => command!["RPUSH", key, element],
            Appends::Read => command!["LRANGE", key, 0, -1],
        }]
    }

    fn result(&self, op: &Appends, replies: &[Reply]) -> Result<(u64, Option<ListState>), String> {
        let reply = only(replies)?;
        match op {
            Appends::Append(_) => Ok((number(reply)? as u64, None)),
            Appends::Read => {
                let list = ListState::of(numbers(reply)?);
                Ok((list.len(), Some(list)))
            }
        }
    }

    fn read(&self) -> Appends {
        Appends::Read
    }

    fn model(&self, last: &Reply) -> List {
        List { last: numbers(last).ok() }
    }

    fn judge(
        &self,
        operations: &[Operation<Appends, (u64, Option<ListState>)>],
        last: &Reply,
    ) -> Result<(), String> {
        let appends: Vec<_> = operations
            .iter()
            .filter_map(|operation| match operation.op {
                Appends::Append(element) => Some(with_op(operation, element)),
                Appends::Read => None,
            })
            .collect();
        exact::appends(&appends, &numbers(last)?)
    }
}

/// How many different members a set may have.
const MEMBERS: u8 = 6;

/// Sets of few members that come and go.
#[derive(Debug)]
pub(super) struct SetKind;

impl Kind for SetKind {
    type Model = ElementSet;

    fn name(&self) -> &'static str {
        "set"
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Members> {
        let member = prng.below(u64::from(MEMBERS)) as u8;
        match prng.below(100) {
            0..30 => Draw::Alone(Members::Add(member)),
            30..35 => Draw::Transaction(Members::Add(member)),
            35..60 => Draw::Alone(Members::Remove(member)),
            60..80 => Draw::Alone(Members::Contains(member)),
            _ => Draw::Alone(Members::All),
        }
    }

    fn commands(&self, key: &str, op: &Members) -> Vec<Command> {
        vec![match op {
            Members::Add(member) => command!["SADD", key, member],
            Members::Remove(member) => command!["SREM", key, member],
            Members::Contains(member) => command!["SISMEMBER", key, member],
            Members::All => command!["SMEMBERS", key],
        }]
    }

    fn result(&self, op: &Members, replies: &[Reply]) -> Result<Seen<u64>, String> {
        let reply = only(replies)?;
        if *op != Members::All {
            return yes_or_no(reply).map(Seen::Done);
        }
        let mut mask = 0;
        for member in numbers(reply)? {
            if member >= u64::from(MEMBERS) || mask >> member & 1 == 1 {
                return Err(format!("a set is said to be {reply:?}"));
            }
            mask |= 1 << member;
        }
        Ok(Seen::Value(mask))
    }

    fn read(&self) -> Members {
        Members::All
    }

    fn model(&self, _last: &Reply) -> ElementSet {
        ElementSet
    }

    fn judge(
        &self,
        operations: &[Operation<Members, Seen<u64>>],
        last: &Reply,
    ) -> Result<(), String> {
        let last = numbers(last)?;
        (0..MEMBERS).try_for_each(|member| {
            let write = |operation: &Operation<Members, _>| match operation.op {
                Members::Add(added) if added == member => Some(true),
                Members::Remove(removed) if removed == member => Some(false),
                _ => None,
            };
            exact::last_write(operations, write, &false, &last.contains(&u64::from(member)))
                .map_err(|why| format!("whether {member} is a member: {why}"))
        })
    }
}

/// Two balances in one slot whose sum stays 0.
#[derive(Debug, Default)]
pub(super) struct TransferKind {
    amounts: i64,
}

type Balances = (i64, i64);

impl Kind for TransferKind {
    type Model = Registers<Balances>;

    fn name(&self) -> &'static str {
        "transfer"
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Register<Balances>> {
        match prng.below(100) {
            0..35 => Draw::Alone(Register::Read),
            35..40 => Draw::Transaction(Register::Read),
            _ => Draw::Swap,
        }
    }

    fn commands(&self, key: &str, op: &Register<Balances>) -> Vec<Command> {
        let watched = self.watched(key);
        let (a, b) = (&watched[0], &watched[1]);
        match op {
            Register::Swap(_, (to_a, to_b)) => {
                vec![command!["SET", a, to_a], command!["SET", b, to_b]]
            }
            _ => vec![command!["MGET", a, b]],
        }
    }

    fn result(&self, op: &Register<Balances>, replies: &[Reply]) -> Result<Seen<Balances>, String> {
        match (op, replies) {
            (Register::Swap(..), [a, b]) => Ok(Seen::Done(ok(a)? && ok(b)?)),
            (Register::Read, [Reply::Array(balances)]) if balances.len() == 2 => {
                let a = maybe_number(&balances[0])?.unwrap_or(0);
                let b = maybe_number(&balances[1])?.unwrap_or(0);
                if a + b != 0 {
                    return Err(format!("half a transfer is visible: {a} and {b}"));
                }
                Ok(Seen::Value((a, b)))
            }
            _ => Err(format!("{op:?} is answered {replies:?}")),
        }
    }

    fn read(&self) -> Register<Balances> {
        Register::Read
    }

    fn watched(&self, key: &str) -> Vec<String> {
        vec![format!("{{{key}}}a"), format!("{{{key}}}b")]
    }

    fn swap(&mut self, seen: &Seen<Balances>) -> Option<Register<Balances>> {
        let Seen::Value((a, b)) = *seen else { return None };
        self.amounts += 1;
        Some(Register::Swap((a, b), (a - self.amounts, b + self.amounts)))
    }

    fn aborted(&self) -> Option<Seen<Balances>> {
        Some(Seen::Done(false))
    }

    fn model(&self, _last: &Reply) -> Registers<Balances> {
        Registers { initial: (0, 0) }
    }

    fn judge(
        &self,
        operations: &[Operation<Register<Balances>, Seen<Balances>>],
        last: &Reply,
    ) -> Result<(), String> {
        match self.result(&Register::Read, std::slice::from_ref(last))? {
            Seen::Value(last) => exact::last_write(operations, written, &(0, 0), &last),
            Seen::Done(_) => Err(format!("balances are {last:?}")),
        }
    }
}

/// Strings that expire.
#[derive(Debug)]
pub(super) struct ExpiryKind {
    tolerance_us: u64,
    values: u64,
}

impl ExpiryKind {
    /// Strings whose deadlines may be missed by this much.
    pub(super) fn new(tolerance_us: u64) -> Self {
        Self { tolerance_us, values: 0 }
    }
}

impl Kind for ExpiryKind {
    type Model = Expiring<u64>;

    fn name(&self) -> &'static str {
        "expiry"
    }

    fn draw(&mut self, prng: &mut Prng) -> Draw<Expiry<u64>> {
        self.values += 1;
        match prng.below(100) {
            0..25 => {
                // Short ones are over within a few requests, long ones outlive a failover.
                let ms_max = [20, 200, 5000][prng.below(3) as usize];
                Draw::Alone(Expiry::Write(self.values, Some(1000 * (1 + prng.below(ms_max)))))
            }
            25..30 => Draw::Alone(Expiry::Write(self.values, None)),
            30..40 => Draw::Alone(Expiry::Persist),
            _ => Draw::Alone(Expiry::Read),
        }
    }

    fn commands(&self, key: &str, op: &Expiry<u64>) -> Vec<Command> {
        vec![match op {
            Expiry::Write(value, None) => command!["SET", key, value],
            Expiry::Write(value, Some(us)) => command!["SET", key, value, "PX", us / 1000],
            Expiry::Read => command!["GET", key],
            Expiry::Persist => command!["PERSIST", key],
        }]
    }

    fn result(&self, op: &Expiry<u64>, replies: &[Reply]) -> Result<Seen<Option<u64>>, String> {
        let reply = only(replies)?;
        Ok(match op {
            Expiry::Write(..) => Seen::Done(ok(reply)?),
            Expiry::Read => Seen::Value(maybe_value(reply)?),
            Expiry::Persist => Seen::Done(yes_or_no(reply)?),
        })
    }

    fn read(&self) -> Expiry<u64> {
        Expiry::Read
    }

    fn model(&self, _last: &Reply) -> Expiring<u64> {
        Expiring { tolerance_us: self.tolerance_us, value: PhantomData }
    }

    /// A value without a deadline may not be missing; the rest is left to the search.
    fn judge(
        &self,
        operations: &[Operation<Expiry<u64>, Seen<Option<u64>>>],
        last: &Reply,
    ) -> Result<(), String> {
        let Some(last) = maybe_value(last)? else { return Ok(()) };
        let wrote = |operation: &&Operation<Expiry<u64>, _>| matches!(operation.op, Expiry::Write(value, _) if value == last);
        match operations.iter().find(wrote) {
            Some(write) if write.fate != Fate::Refused => Ok(()),
            _ => Err(format!("the last value {last} is one that nobody wrote")),
        }
    }
}
