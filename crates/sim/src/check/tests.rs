use super::exact::{self, Queue};
use super::*;
use proptest::prelude::*;
use quorate_base::prng::Prng;
use std::fmt::Debug;
use std::marker::PhantomData;

type Ops<M> = Vec<Operation<<M as Model>::Op, <M as Model>::Result>>;

/// Builds the history of one key from calls and returns.
struct Script<O, R> {
    history: History<(), O, R>,
    now_us: u64,
}

impl<O: Clone, R: Clone> Script<O, R> {
    fn new() -> Self {
        Self { history: History::default(), now_us: 0 }
    }

    fn at(&mut self, now_us: u64) -> &mut Self {
        self.now_us = now_us;
        self
    }

    fn call(&mut self, op: O) -> OperationId {
        self.history.call(0, (), op, self.now_us)
    }

    fn returns(&mut self, id: OperationId, result: R) {
        self.history.answered(id, Some(result), self.now_us);
    }

    fn run(&mut self, op: O, result: R) {
        let id = self.call(op);
        self.returns(id, result);
    }

    fn operations(&self) -> Vec<Operation<O, R>> {
        self.history.by_key().remove(&()).unwrap_or_default()
    }

    fn good<M: Model<Op = O, Result = R>>(&self, model: &M) {
        assert_eq!(Search::default().check(model, &self.operations()), Verdict::Linearizable);
    }

    fn bad<M: Model<Op = O, Result = R>>(&self, model: &M) -> Failure {
        match Search::default().check(model, &self.operations()) {
            Verdict::Violation(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

const REGISTER: Registers<Option<u64>> = Registers { initial: None };

fn register() -> Script<Register<Option<u64>>, Seen<Option<u64>>> {
    Script::new()
}

fn value(value: u64) -> Seen<Option<u64>> {
    Seen::Value(Some(value))
}

#[test]
fn a_read_sees_the_old_or_the_new_value_while_a_write_runs() {
    for seen in [Seen::Value(None), value(1)] {
        let mut script = register();
        let write = script.call(Register::Write(Some(1)));
        script.run(Register::Read, seen);
        script.returns(write, Seen::Done(true));
        script.run(Register::Read, value(1));
        script.good(&REGISTER);
    }
}

#[test]
fn a_stale_read_is_a_violation_and_the_report_names_it() {
    let mut script = register();
    script.run(Register::Write(Some(1)), Seen::Done(true));
    script.run(Register::Write(Some(2)), Seen::Done(true));
    script.run(Register::Read, value(1));
    let failure = script.bad(&REGISTER);
    assert_eq!(failure.explained, (2, 3));
    assert!(failure.to_string().contains("impossible next client 0 0..0 µs: Read"), "{failure}");
}

#[test]
fn two_reads_may_not_see_a_running_write_come_and_go() {
    let mut script = register();
    let write = script.call(Register::Write(Some(1)));
    script.run(Register::Read, value(1));
    script.run(Register::Read, Seen::Value(None));
    script.returns(write, Seen::Done(true));
    script.bad(&REGISTER);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_but_only_once() {
    let mut script = register();
    script.call(Register::Write(Some(1)));
    script.run(Register::Write(Some(2)), Seen::Done(true));
    script.run(Register::Read, value(2));
    script.good(&REGISTER);
    script.run(Register::Read, value(1));
    script.good(&REGISTER);
    script.run(Register::Write(Some(3)), Seen::Done(true));
    script.run(Register::Read, value(1));
    script.bad(&REGISTER);
}

#[test]
fn a_refused_write_is_never_seen() {
    let mut script = register();
    let write = script.call(Register::Write(Some(1)));
    script.history.refused(write);
    script.run(Register::Read, Seen::Value(None));
    script.good(&REGISTER);
    script.run(Register::Read, value(1));
    script.bad(&REGISTER);
}

#[test]
fn a_write_with_an_outcome_asked_for_took_effect_before_that() {
    let mut script = register();
    let write = script.call(Register::Write(Some(1)));
    script.run(Register::Read, Seen::Value(None));
    script.history.answered(write, None, 0);
    script.run(Register::Read, value(1));
    script.good(&REGISTER);
    script.run(Register::Read, Seen::Value(None));
    script.bad(&REGISTER);
}

#[test]
fn of_two_swaps_of_one_value_only_one_succeeds() {
    let mut script = register();
    let one = script.call(Register::Swap(None, Some(1)));
    let two = script.call(Register::Swap(None, Some(2)));
    script.returns(one, Seen::Done(true));
    script.returns(two, Seen::Done(false));
    script.run(Register::WriteIfAbsent(Some(3)), Seen::Done(false));
    script.run(Register::Exchange(Some(4)), value(1));
    script.good(&REGISTER);
    script.run(Register::Swap(Some(1), Some(5)), Seen::Done(true));
    script.bad(&REGISTER);
}

#[test]
fn a_counter_counts_an_unknown_addition_at_most_once() {
    let mut script = Script::new();
    script.run(Adds::Add(1), Some(1));
    script.call(Adds::Add(1));
    script.run(Adds::Add(1), Some(3));
    script.run(Adds::Read, Some(3));
    script.good(&Counter);
    script.run(Adds::Add(1), Some(5));
    script.bad(&Counter);
}

#[test]
fn a_list_keeps_the_order_of_appends() {
    let mut script = Script::new();
    script.run(Appends::Append(1), (1, None));
    script.call(Appends::Append(2));
    script.run(Appends::Append(3), (3, None));
    let mut wrong = Script { history: script.history.clone(), now_us: 0 };
    script.run(Appends::Read, (3, Some(ListState::of([1, 2, 3]))));
    script.good(&List::default());
    script.good(&List { last: Some(vec![1, 2, 3]) });
    wrong.run(Appends::Read, (3, Some(ListState::of([1, 3, 2]))));
    wrong.bad(&List::default());
    wrong.bad(&List { last: Some(vec![1, 3, 2]) });
}

#[test]
fn a_set_says_whether_it_changed() {
    let mut script = Script::new();
    script.run(Members::Add(3), Seen::Done(true));
    script.run(Members::Add(3), Seen::Done(false));
    script.call(Members::Remove(3));
    script.run(Members::Contains(3), Seen::Done(true));
    script.run(Members::All, Seen::Value(0));
    script.good(&ElementSet);
    script.run(Members::Add(3), Seen::Done(false));
    script.bad(&ElementSet);
}

#[test]
fn a_value_expires_within_the_tolerance_and_stays_away() {
    let model = Expiring { tolerance_us: 10, value: PhantomData::<u64> };
    let mut script = Script::new();
    script.run(Expiry::Write(7, Some(100)), Seen::Done(true));
    script.at(110).run(Expiry::Read, Seen::Value(Some(7)));
    script.good(&model);
    let mut late = Script { history: script.history.clone(), now_us: 111 };
    late.run(Expiry::Read, Seen::Value(Some(7)));
    late.bad(&model);
    script.run(Expiry::Read, Seen::Value(None));
    script.good(&model);
    script.run(Expiry::Read, Seen::Value(Some(7)));
    script.bad(&model);

    let mut early = Script::new();
    early.run(Expiry::Write(7, Some(100)), Seen::Done(true));
    early.at(89).run(Expiry::Read, Seen::Value(None));
    early.bad(&model);
    early.good(&Expiring { tolerance_us: 11, ..model });
    early.good(&Expiring { tolerance_us: u64::MAX, ..model });
}

#[test]
fn a_persisted_value_stays() {
    let model = Expiring { tolerance_us: 0, value: PhantomData::<u64> };
    let mut script = Script::new();
    script.run(Expiry::Write(7, Some(100)), Seen::Done(true));
    let mut unknown = Script { history: script.history.clone(), now_us: 0 };
    script.at(50).run(Expiry::Persist, Seen::Done(true));
    script.at(500).run(Expiry::Read, Seen::Value(Some(7)));
    script.good(&model);
    script.run(Expiry::Persist, Seen::Done(false));
    script.good(&model);
    script.run(Expiry::Read, Seen::Value(None));
    script.bad(&model);

    unknown.at(50).call(Expiry::Persist);
    unknown.at(60).run(Expiry::Persist, Seen::Done(false));
    unknown.at(500).run(Expiry::Read, Seen::Value(Some(7)));
    unknown.good(&model);
    unknown.run(Expiry::Read, Seen::Value(None));
    unknown.good(&model);
}

#[test]
fn a_search_that_is_cut_short_says_so() {
    let mut script = register();
    for _ in 0..3 {
        script.run(Register::Write(Some(1)), Seen::Done(true));
    }
    let verdict = Search { steps_max: 2 }.check(&REGISTER, &script.operations());
    assert_eq!(verdict, Verdict::Undecided);
}

/// What a correct store answers to random operations of clients that overlap: each takes effect at
/// some moment between its call and its return. Some are lost before or after that.
fn concurrent<M: Model>(
    seed: u64,
    model: &M,
    count: usize,
    clients: usize,
    lost_percent: u64,
    draw: impl Fn(&mut Prng, u64) -> M::Op,
    answer: impl Fn(&M::State, &M::Op) -> M::Result,
) -> Ops<M> {
    enum Phase {
        Called,
        Done,
    }
    let mut prng = Prng::new(seed);
    let mut history = History::default();
    let mut state = model.initial();
    let mut busy: Vec<_> =
        (0..clients).map(|_| None::<(OperationId, Phase, Option<M::Result>)>).collect();
    let mut late = Vec::new();
    let mut calls = 0;
    for now_us in 0.. {
        if calls == count && busy.iter().all(Option::is_none) {
            break;
        }
        let client = prng.below(clients as u64) as usize;
        match busy[client].take() {
            None if calls < count => {
                calls += 1;
                let op = draw(&mut prng, calls as u64);
                let id = history.call(client, (), op, now_us);
                busy[client] = Some((id, Phase::Called, None));
            }
            None => {}
            Some((id, Phase::Called, _)) => {
                let lost = prng.below(100) < lost_percent;
                if lost && prng.below(2) == 0 {
                    late.push(id);
                    continue;
                }
                let result = answer(&state, &history.operation(id).op);
                let mut operation = history.operation(id).clone();
                operation.result = Some(result.clone());
                state = model.apply(&state, &operation).expect("a correct answer is accepted");
                if !lost {
                    busy[client] = Some((id, Phase::Done, Some(result)));
                }
            }
            Some((id, Phase::Done, result)) => history.answered(id, result, now_us),
        }
        if prng.below(20) == 0 && !late.is_empty() {
            let id = late.swap_remove(prng.below(late.len() as u64) as usize);
            let operation = history.operation(id);
            state = model.apply(&state, operation).unwrap_or(state);
        }
    }
    history.by_key().remove(&()).unwrap_or_default()
}

fn draw_register(prng: &mut Prng, n: u64) -> Register<Option<u64>> {
    match prng.below(10) {
        0..4 => Register::Read,
        4..7 => Register::Write(Some(n)),
        7 => Register::WriteIfAbsent(Some(n)),
        8 => Register::Exchange(Some(n)),
        _ => Register::Swap(Some(n.saturating_sub(1 + prng.below(4))), Some(n)),
    }
}

fn answer_register(state: &Option<u64>, op: &Register<Option<u64>>) -> Seen<Option<u64>> {
    match op {
        Register::Read | Register::Exchange(_) => Seen::Value(*state),
        Register::Write(_) => Seen::Done(true),
        Register::WriteIfAbsent(_) => Seen::Done(state.is_none()),
        Register::Swap(expected, _) => Seen::Done(state == expected),
    }
}

fn draw_counter(prng: &mut Prng, _: u64) -> Adds {
    if prng.below(3) == 0 { Adds::Read } else { Adds::Add(1) }
}

fn answer_counter(state: &Option<i64>, op: &Adds) -> Option<i64> {
    match op {
        Adds::Add(amount) => Some(state.unwrap_or(0) + amount),
        Adds::Read => *state,
    }
}

fn draw_set(prng: &mut Prng, _: u64) -> Members {
    let element = prng.below(4) as u8;
    match prng.below(4) {
        0 => Members::Add(element),
        1 => Members::Remove(element),
        2 => Members::Contains(element),
        _ => Members::All,
    }
}

fn answer_set(state: &u64, op: &Members) -> Seen<u64> {
    match *op {
        Members::Add(element) => Seen::Done(state >> element & 1 == 0),
        Members::Remove(element) | Members::Contains(element) => {
            Seen::Done(state >> element & 1 == 1)
        }
        Members::All => Seen::Value(*state),
    }
}

fn draw_list(prng: &mut Prng, n: u64) -> Appends {
    if prng.below(3) == 0 { Appends::Read } else { Appends::Append(n) }
}

fn answer_list(state: &ListState, op: &Appends) -> (u64, Option<ListState>) {
    match op {
        Appends::Append(_) => (state.len() + 1, None),
        Appends::Read => (state.len(), Some(*state)),
    }
}

#[test]
fn thousands_of_operations_of_ten_clients_are_decided() {
    let search = Search::default();
    for seed in 0..3 {
        let operations = concurrent(seed, &REGISTER, 5000, 10, 1, draw_register, answer_register);
        assert_eq!(search.check(&REGISTER, &operations), Verdict::Linearizable);
        let operations = concurrent(seed, &Counter, 5000, 10, 1, draw_counter, answer_counter);
        assert_eq!(search.check(&Counter, &operations), Verdict::Linearizable);
        let operations = concurrent(seed, &ElementSet, 5000, 10, 1, draw_set, answer_set);
        assert_eq!(search.check(&ElementSet, &operations), Verdict::Linearizable);
        let list = List::default();
        let operations = concurrent(seed, &list, 5000, 10, 0, draw_list, answer_list);
        assert_eq!(search.check(&list, &operations), Verdict::Linearizable);
    }
}

#[test]
fn one_wrong_answer_among_thousands_is_found() {
    for seed in 0..3 {
        let mut operations =
            concurrent(seed, &REGISTER, 3000, 10, 1, draw_register, answer_register);
        // A read of a value written long before.
        let old = operations
            .iter()
            .find_map(|o| match o.op {
                Register::Write(value) if o.fate == Fate::Answered => Some(value),
                _ => None,
            })
            .unwrap();
        let read = operations[2000..]
            .iter_mut()
            .find(|o| o.op == Register::Read && o.fate == Fate::Answered)
            .unwrap();
        read.result = Some(Seen::Value(old));
        let verdict = Search::default().check(&REGISTER, &operations);
        assert!(matches!(verdict, Verdict::Violation(_)), "{verdict:?}");

        let mut operations = concurrent(seed, &Counter, 3000, 10, 1, draw_counter, answer_counter);
        let add = operations[2000..].iter_mut().find(|o| o.result.is_some()).unwrap();
        add.result = add.result.map(|sum| sum.map(|sum| sum + 500));
        let verdict = Search::default().check(&Counter, &operations);
        assert!(matches!(verdict, Verdict::Violation(_)), "{verdict:?}");
    }
}

/// Tries every order of every subset: slow, and too simple to be wrong.
fn brute<M: Model>(model: &M, state: &M::State, left: &[&Operation<M::Op, M::Result>]) -> bool {
    if left.iter().all(|o| o.fate != Fate::Answered) {
        return true;
    }
    (0..left.len()).any(|i| {
        let first = left[i];
        let rest: Vec<_> =
            left.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, o)| *o).collect();
        let free = rest.iter().all(|o| o.fate != Fate::Answered || !o.precedes(first));
        first.fate != Fate::Refused
            && free
            && model.apply(state, first).is_some_and(|next| brute(model, &next, &rest))
    })
}

/// A small random history of three clients, mostly wrong in some place.
fn tiny<M: Model>(
    seed: u64,
    draw: impl Fn(&mut Prng) -> M::Op,
    guess: impl Fn(&mut Prng, &M::Op) -> M::Result,
) -> Ops<M> {
    let mut prng = Prng::new(seed);
    let mut history = History::default();
    let mut open: Vec<OperationId> = Vec::new();
    let mut calls = 0;
    for now_us in 0.. {
        if calls == 6 && open.is_empty() {
            break;
        }
        if calls < 6 && open.len() < 3 && prng.below(2) == 0 {
            calls += 1;
            open.push(history.call(0, (), draw(&mut prng), now_us));
        } else if !open.is_empty() {
            let id = open.swap_remove(prng.below(open.len() as u64) as usize);
            match prng.below(10) {
                0..6 => {
                    let result = guess(&mut prng, &history.operation(id).op);
                    history.answered(id, Some(result), now_us);
                }
                6 => history.answered(id, None, now_us),
                7 => history.refused(id),
                _ => {}
            }
        }
    }
    history.by_key().remove(&()).unwrap_or_default()
}

fn compare<M: Model>(model: &M, operations: &[Operation<M::Op, M::Result>]) -> bool {
    let all: Vec<_> = operations.iter().collect();
    let expected = brute(model, &model.initial(), &all);
    match Search::default().check(model, operations) {
        Verdict::Linearizable => assert!(expected, "no order: {operations:#?}"),
        Verdict::Violation(failure) => {
            assert!(!expected, "there is an order: {operations:#?}\n{failure}");
        }
        Verdict::Undecided => panic!("undecided: {operations:#?}"),
    }
    expected
}

fn tiny_register(seed: u64) -> Ops<Registers<Option<u64>>> {
    let small = |prng: &mut Prng| Some(prng.below(2));
    tiny::<Registers<Option<u64>>>(
        seed,
        |prng| match prng.below(5) {
            0 | 1 => Register::Read,
            2 => Register::Write(small(prng)),
            3 => Register::Exchange(small(prng)),
            _ => Register::Swap(small(prng), small(prng)),
        },
        |prng, op| match op {
            Register::Read | Register::Exchange(_) => Seen::Value(small(prng)),
            _ => Seen::Done(prng.below(2) == 0),
        },
    )
}

fn tiny_counter(seed: u64) -> Ops<Counter> {
    tiny::<Counter>(
        seed,
        |prng| if prng.below(3) == 0 { Adds::Read } else { Adds::Add(1 + prng.below(2) as i64) },
        |prng, _| Some(1 + prng.below(5) as i64),
    )
}

fn tiny_set(seed: u64) -> Ops<ElementSet> {
    tiny::<ElementSet>(
        seed,
        |prng| match prng.below(4) {
            0 => Members::Add(prng.below(2) as u8),
            1 => Members::Remove(prng.below(2) as u8),
            2 => Members::Contains(prng.below(2) as u8),
            _ => Members::All,
        },
        |prng, op| match op {
            Members::All => Seen::Value(prng.below(4)),
            _ => Seen::Done(prng.below(2) == 0),
        },
    )
}

fn tiny_list(seed: u64) -> Ops<List> {
    let mut elements = 0..;
    let elements = std::cell::RefCell::new(&mut elements);
    tiny::<List>(
        seed,
        |prng| match prng.below(3) {
            0 => Appends::Read,
            _ => Appends::Append(elements.borrow_mut().next().unwrap()),
        },
        |prng, op| {
            let len = prng.below(4);
            match op {
                Appends::Read => (len, Some(ListState::of(0..len))),
                Appends::Append(_) => (len, None),
            }
        },
    )
}

fn tiny_expiring(seed: u64) -> Ops<Expiring<u64>> {
    tiny::<Expiring<u64>>(
        seed,
        |prng| match prng.below(4) {
            0 => Expiry::Write(prng.below(2), None),
            1 => Expiry::Write(prng.below(2), Some(prng.below(6))),
            2 => Expiry::Persist,
            _ => Expiry::Read,
        },
        |prng, op| match op {
            Expiry::Read => Seen::Value(Some(prng.below(2)).filter(|_| prng.below(2) == 0)),
            _ => Seen::Done(prng.below(2) == 0),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_search_agrees_with_trying_everything(seed: u64) {
        compare(&REGISTER, &tiny_register(seed));
        compare(&Counter, &tiny_counter(seed));
        compare(&ElementSet, &tiny_set(seed));
        compare(&List::default(), &tiny_list(seed));
        let model = Expiring { tolerance_us: seed % 3, value: PhantomData::<u64> };
        compare(&model, &tiny_expiring(seed));
    }
}

#[test]
fn tiny_histories_are_of_both_kinds() {
    let good = |check: &dyn Fn(u64) -> bool| (0..200).filter(|&seed| check(seed)).count();
    let expiring = Expiring { tolerance_us: 1, value: PhantomData::<u64> };
    for count in [
        good(&|seed| compare(&REGISTER, &tiny_register(seed))),
        good(&|seed| compare(&Counter, &tiny_counter(seed))),
        good(&|seed| compare(&ElementSet, &tiny_set(seed))),
        good(&|seed| compare(&List::default(), &tiny_list(seed))),
        good(&|seed| compare(&expiring, &tiny_expiring(seed))),
    ] {
        assert!((5..195).contains(&count), "{count} of 200 are linearizable");
    }
}

fn ended<O: Clone + Debug>(ops: &[(O, Fate)]) -> Vec<Operation<O, i64>> {
    let mut history = History::default();
    for (op, fate) in ops {
        let id = history.call(0, (), op.clone(), 0);
        match fate {
            Fate::Answered => history.answered(id, None, 0),
            Fate::Refused => history.refused(id),
            Fate::Unknown => {}
        }
    }
    history.by_key().remove(&()).unwrap_or_default()
}

#[test]
fn a_counter_ends_between_what_is_sure_and_what_is_possible() {
    let adds = ended(&[(2, Fate::Answered), (3, Fate::Unknown), (4, Fate::Refused)]);
    for (last, good) in [(1, false), (2, true), (5, true), (6, false)] {
        assert_eq!(exact::counter(&adds, |sum| *sum, last).is_ok(), good, "{last}");
    }
    let mut twice = ended(&[(1, Fate::Answered), (1, Fate::Answered)]);
    twice.iter_mut().for_each(|add| add.result = Some(1));
    assert!(exact::counter(&twice, |sum| *sum, 2).is_err());
}

#[test]
fn a_list_has_acknowledged_elements_once_and_in_order() {
    let appends = ended(&[(1, Fate::Answered), (2, Fate::Unknown), (3, Fate::Answered)]);
    for good in [vec![1, 3], vec![1, 2, 3], vec![1, 3, 2]] {
        assert_eq!(exact::appends(&appends, &good), Ok(()), "{good:?}");
    }
    for bad in [vec![1], vec![3, 1], vec![2, 1, 3], vec![1, 3, 3], vec![1, 3, 4]] {
        assert!(exact::appends(&appends, &bad).is_err(), "{bad:?}");
    }
    let refused = ended(&[(1, Fate::Refused)]);
    assert!(exact::appends(&refused, &[1]).is_err());
}

#[test]
fn the_last_value_is_one_that_was_not_overwritten() {
    let check = |writes: &[(u64, Fate)], last: u64| {
        exact::last_write(&ended(writes), |write| Some(write.op), &0, &last).is_ok()
    };
    let writes = [(1, Fate::Answered), (2, Fate::Unknown), (3, Fate::Answered), (4, Fate::Refused)];
    assert!(check(&writes, 3));
    assert!(check(&writes, 2), "an unknown write may come last");
    assert!(!check(&writes, 1), "3 is lost");
    assert!(!check(&writes, 0), "both are lost");
    assert!(!check(&writes, 4), "4 was refused");
    assert!(check(&[(2, Fate::Unknown)], 0));
}

#[test]
fn a_queue_gives_each_element_once() {
    let pushes = ended(&[(1, Fate::Answered), (2, Fate::Answered), (3, Fate::Unknown)]);
    let check = |pops: &[u64], unknown_pops, left: &[u64]| {
        let pops: Vec<_> = pops.iter().map(|&pop| (pop, Fate::Answered)).collect();
        let pops = ended(&pops);
        Queue { pushes: &pushes, pops: &pops, unknown_pops, left }.check().is_ok()
    };
    assert!(check(&[1], 0, &[2, 3]));
    assert!(check(&[1, 2], 0, &[]));
    assert!(check(&[1], 1, &[]), "the unknown pop took 2");
    assert!(!check(&[1], 0, &[]), "2 is lost");
    assert!(!check(&[1, 1], 1, &[2]), "1 came twice");
    assert!(!check(&[1], 0, &[1, 2]), "1 came and stayed");
    assert!(!check(&[2, 1], 0, &[]), "2 overtook 1");
    assert!(!check(&[1, 2, 9], 0, &[]), "nobody pushed 9");
}
