//! Whether what clients saw of one key can have happened in one order: a register that is put, read, deleted and conditionally put.
//!
//! Wing and Gong's search in Lowe's form: an operation may come next in the order if no other one that is not in it yet had returned before
//! it was called; a pair of (operations taken, state) is never looked at twice. An operation whose outcome nobody knows has no return:
//! it may stand anywhere after its call, or nowhere. A listing counts as a read of every key that it covers.
//!
//! What keeps the search short where many outcomes are unknown, and loses no order:
//! - a value is put once and does not come back, so an order that leaves a value which some answer is still to have seen is given up at once;
//! - values that nobody saw or named are one value, and unknown operations that do the same are tried in the order of their calls only.
//!
//! Not here: making histories (`history.rs`).
//!
//! Source: Wing and Gong, Testing and verifying concurrent objects, 1993; Lowe, Testing for linearizability, 2017.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// A value: unique for every put.
pub type Value = u64;

/// What a client asked, and what it heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Put(Value),
    Delete,
    /// What was there.
    Read(Option<Value>),
    /// That something was there, and not what.
    Present,
    /// Put if nothing is there: whether it was done.
    Create {
        value: Value,
        done: bool,
    },
    /// Put if `expected` is there: whether it was done.
    Swap {
        expected: Value,
        value: Value,
        done: bool,
    },
}

/// One operation: called and returned at moments of one clock. No return: nobody knows whether it was done, nor when; its answer means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    pub called: u64,
    pub returned: Option<u64>,
    pub act: Act,
}

/// The state after `act` in `state`; `None`: it cannot have been answered so there.
fn step(state: Option<Value>, act: Act, known: bool) -> Option<Option<Value>> {
    match act {
        Act::Put(value) => Some(Some(value)),
        Act::Delete => Some(None),
        Act::Read(seen) => (!known || seen == state).then_some(state),
        Act::Present => (!known || state.is_some()).then_some(state),
        Act::Create { value, done } => {
            let does = state.is_none();
            (!known || does == done).then_some(if does { Some(value) } else { state })
        }
        Act::Swap { expected, value, done } => {
            let does = state == Some(expected);
            (!known || does == done).then_some(if does { Some(value) } else { state })
        }
    }
}

/// Why no order explains a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The longest order that was found holds so many of the operations that returned.
    pub explained: usize,
    /// Those that it does not hold, and that were called before the first of them returned: one of these saw what cannot be.
    pub suspects: Vec<Operation>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no order explains it: after {} operations none of these can come next: {:?}", self.explained, self.suspects)
    }
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violation(Violation),
    /// More than so many steps: nothing is known.
    TooMuch,
}

/// Most pairs that a search remembers.
const STEPS: usize = 1_000_000;

/// The value that an operation which returned says was there.
fn needed(operation: &Operation) -> Option<Value> {
    match operation.act {
        _ if operation.returned.is_none() => None,
        Act::Read(seen) => seen,
        Act::Swap { expected, done: true, .. } => Some(expected),
        Act::Put(_) | Act::Delete | Act::Present | Act::Create { .. } | Act::Swap { done: false, .. } => None,
    }
}

/// Makes one value of all that are in no answer and no condition, and of an unknown answer none: what differs only there is the same.
fn simplify(operations: &mut [Operation]) {
    let mut named: HashSet<Value> = operations.iter().filter_map(needed).collect();
    named.extend(operations.iter().filter_map(|operation| match operation.act {
        Act::Swap { expected, .. } => Some(expected),
        _ => None,
    }));
    let unseen = (0..=Value::MAX).rev().find(|value| !named.contains(value)).unwrap_or_default();
    for operation in operations.iter_mut() {
        let known = operation.returned.is_some();
        match &mut operation.act {
            Act::Put(value) if !named.contains(value) => *value = unseen,
            Act::Create { value, done } | Act::Swap { value, done, .. } => {
                if !named.contains(value) {
                    *value = unseen;
                }
                *done &= known;
            }
            Act::Put(_) | Act::Delete | Act::Read(_) | Act::Present => {}
        }
    }
}

/// Whether anybody put it.
fn is_put(operations: &[Operation], wanted: Value) -> bool {
    operations.iter().any(|operation| match operation.act {
        Act::Put(value) | Act::Create { value, .. } | Act::Swap { value, .. } => value == wanted,
        Act::Delete | Act::Read(_) | Act::Present => false,
    })
}

struct Search<'a> {
    operations: &'a [Operation],
    /// How many operations that are not taken yet need each value to be there.
    needs: HashMap<Value, usize>,
    taken: Vec<u64>,
    seen: HashSet<(Vec<u64>, Option<Value>)>,
    /// The most operations that returned that any order held, and which those were.
    best: (usize, Vec<u64>),
}

impl Search<'_> {
    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] >> (at % 64) & 1 == 1
    }

    fn take(&mut self, at: usize) {
        self.taken[at / 64] |= 1 << (at % 64);
        if let Some(value) = needed(&self.operations[at]) {
            *self.needs.entry(value).or_default() -= 1;
        }
    }

    fn give_back(&mut self, at: usize) {
        self.taken[at / 64] &= !(1 << (at % 64));
        if let Some(value) = needed(&self.operations[at]) {
            *self.needs.entry(value).or_default() += 1;
        }
    }

    /// Whether the step of `at`, which is not taken, loses a value that another one needs yet.
    fn loses(&self, at: usize, before: Option<Value>, after: Option<Value>) -> bool {
        let Some(value) = before.filter(|_| before != after) else { return false };
        let own = usize::from(needed(&self.operations[at]) == Some(value));
        self.needs.get(&value).is_some_and(|count| *count > own)
    }

    /// Operations that may come next: those that returned in the order of their calls, then those that need not have happened.
    fn next(&self) -> Vec<usize> {
        let open = |at: &usize| !self.is_taken(*at);
        let first_return = (0..self.operations.len()).filter(open).filter_map(|at| self.operations[at].returned).min();
        let may = |at: &usize| first_return.is_none_or(|first| self.operations[*at].called <= first);
        let mut out: Vec<usize> = (0..self.operations.len()).filter(open).filter(may).collect();
        out.sort_by_key(|at| self.operations[*at].returned.is_none());
        let mut tried = HashSet::new();
        out.retain(|at| self.operations[*at].returned.is_some() || tried.insert(self.operations[*at].act));
        out
    }
}

/// Judges the operations on one key, which is absent at first.
pub fn judge(operations: &[Operation]) -> Verdict {
    let mut operations = operations.to_vec();
    // What nobody knows and no state follows from explains nothing.
    operations.retain(|operation| operation.returned.is_some() || !matches!(operation.act, Act::Read(_) | Act::Present));
    operations.sort_by_key(|operation| operation.called);
    let told = operations.clone();
    simplify(&mut operations);
    let mut needs: HashMap<Value, usize> = HashMap::new();
    for value in operations.iter().filter_map(needed) {
        *needs.entry(value).or_default() += 1;
    }
    if let Some(suspect) = told.iter().find(|operation| needed(operation).is_some_and(|value| !is_put(&told, value))) {
        return Verdict::Violation(Violation { explained: 0, suspects: vec![*suspect] });
    }
    let known = operations.iter().filter(|operation| operation.returned.is_some()).count();
    let taken = vec![0; operations.len().div_ceil(64)];
    let mut search = Search { operations: &operations, needs, best: (0, taken.clone()), taken, seen: HashSet::new() };
    // What was done at each depth: the operation taken, the state before it, and those to be tried there after it.
    let mut path: Vec<(usize, Option<Value>, Vec<usize>)> = Vec::new();
    let (mut state, mut explained, mut choices) = (None, 0, search.next());
    loop {
        if explained == known {
            return Verdict::Linearizable;
        }
        let chosen = (0..choices.len()).find_map(|nth| {
            let operation = &search.operations[choices[nth]];
            let after = step(state, operation.act, operation.returned.is_some())?;
            // An unknown operation that does nothing here may as well not be there.
            let idle = operation.returned.is_none() && after == state;
            (!idle && !search.loses(choices[nth], state, after)).then_some((nth, after))
        });
        if let Some((nth, after)) = chosen {
            let at = choices[nth];
            let rest = choices.split_off(nth + 1);
            search.take(at);
            if search.seen.insert((search.taken.clone(), after)) {
                if search.seen.len() > STEPS {
                    return Verdict::TooMuch;
                }
                path.push((at, state, rest));
                state = after;
                explained += usize::from(search.operations[at].returned.is_some());
                if explained > search.best.0 {
                    search.best = (explained, search.taken.clone());
                }
                choices = search.next();
            } else {
                search.give_back(at);
                choices = rest;
            }
            continue;
        }
        let Some((at, before, rest)) = path.pop() else { return Verdict::Violation(violation(search, &told)) };
        search.give_back(at);
        explained -= usize::from(search.operations[at].returned.is_some());
        (state, choices) = (before, rest);
    }
}

/// - `told`: the operations as they were told, in the same order.
fn violation(mut search: Search<'_>, told: &[Operation]) -> Violation {
    let (explained, taken) = std::mem::take(&mut search.best);
    search.taken = taken;
    let suspects = search.next().into_iter().map(|at| told[at]).filter(|operation| operation.returned.is_some()).collect();
    Violation { explained, suspects }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Dice;

    fn op(called: u64, returned: u64, act: Act) -> Operation {
        Operation { client: 0, called, returned: Some(returned), act }
    }

    fn unknown(called: u64, act: Act) -> Operation {
        Operation { client: 0, called, returned: None, act }
    }

    fn holds(operations: &[Operation]) -> bool {
        match judge(operations) {
            Verdict::Linearizable => true,
            Verdict::Violation(_) => false,
            Verdict::TooMuch => panic!("too much"),
        }
    }

    #[test]
    fn reads_see_the_last_put_or_one_that_is_under_way() {
        use Act::*;
        assert!(holds(&[op(0, 1, Put(1)), op(2, 3, Read(Some(1)))]));
        assert!(!holds(&[op(0, 1, Put(1)), op(2, 3, Read(None))]), "a stale read");
        assert!(holds(&[op(0, 9, Put(1)), op(2, 3, Read(None)), op(4, 5, Read(Some(1)))]));
        assert!(!holds(&[op(0, 9, Put(1)), op(2, 3, Read(Some(1))), op(4, 5, Read(None))]), "a read that went back");
        assert!(!holds(&[op(0, 1, Put(1)), op(2, 3, Delete), op(4, 5, Read(Some(1)))]), "a deleted value that returned");
        assert!(!holds(&[op(0, 1, Read(Some(7)))]), "a value nobody put");
    }

    #[test]
    fn what_is_said_to_be_there_was_put_and_not_deleted_before_whatever_it_is() {
        use Act::*;
        assert!(holds(&[op(0, 1, Put(1)), op(2, 3, Present), op(4, 5, Put(2)), op(6, 7, Present)]));
        assert!(!holds(&[op(0, 1, Present)]), "nobody had put anything");
        assert!(!holds(&[op(0, 1, Put(1)), op(2, 3, Delete), op(4, 5, Present)]), "it had been deleted");
        assert!(holds(&[op(0, 1, Put(1)), op(2, 9, Delete), op(4, 5, Present), op(6, 7, Read(None))]));
        assert!(!holds(&[op(0, 1, Put(1)), op(2, 9, Delete), op(4, 5, Read(None)), op(6, 7, Present)]), "it came back by itself");
        assert!(holds(&[unknown(0, Put(1)), op(1, 2, Present), op(3, 4, Read(Some(1)))]));
    }

    #[test]
    fn a_put_that_nobody_knows_of_may_show_at_any_time_or_never_and_does_not_vanish_again() {
        use Act::*;
        assert!(holds(&[unknown(0, Put(1)), op(1, 2, Read(None)), op(3, 4, Read(Some(1)))]));
        assert!(holds(&[unknown(0, Put(1)), op(1, 2, Read(None)), op(3, 4, Read(None))]));
        assert!(!holds(&[unknown(0, Put(1)), op(1, 2, Read(Some(1))), op(3, 4, Read(None))]));
        assert!(!holds(&[op(0, 1, Read(Some(1))), unknown(2, Put(1))]), "seen before it was asked for");
    }

    #[test]
    fn of_two_creations_one_is_done_and_a_swap_needs_what_it_names() {
        use Act::*;
        let create = |called, value, done| op(called, called + 9, Create { value, done });
        assert!(holds(&[create(0, 1, true), create(1, 2, false)]));
        assert!(!holds(&[create(0, 1, true), create(1, 2, true)]), "both were told that they were first");
        assert!(!holds(&[create(0, 1, false), create(1, 2, false)]), "nobody was first");
        let swap = |called, expected, value, done| op(called, called + 9, Swap { expected, value, done });
        assert!(holds(&[create(0, 1, true), swap(20, 1, 2, true), swap(21, 1, 3, false)]));
        assert!(!holds(&[create(0, 1, true), swap(20, 1, 2, true), swap(21, 1, 3, true)]), "a lost update");
    }

    /// All orders of a small history, tried one by one.
    fn by_force(left: &mut Vec<Operation>, state: Option<Value>) -> bool {
        if left.iter().all(|operation| operation.returned.is_none()) {
            return true;
        }
        let first = left.iter().filter_map(|operation| operation.returned).min().unwrap();
        for at in 0..left.len() {
            let operation = left[at];
            if operation.called > first {
                continue;
            }
            if let Some(after) = step(state, operation.act, operation.returned.is_some()) {
                left.remove(at);
                let fine = by_force(left, after);
                left.insert(at, operation);
                if fine {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn thousands_of_random_histories_are_judged_as_all_their_orders_judge_them() {
        let seed = 0x51ce_u64;
        println!("seed {seed}");
        let mut dice = Dice::new(seed);
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..20_000 {
            let operations: Vec<Operation> = (0..dice.between(1, 7))
                .map(|n| {
                    let called = dice.below(12) as u64;
                    let returned = (!dice.chance(20)).then(|| called + dice.below(8) as u64);
                    let value = n as u64 + 1;
                    let other = dice.between(1, 4) as u64;
                    let act = match dice.below(7) {
                        0 | 1 => Act::Put(value),
                        2 => Act::Delete,
                        5 => Act::Present,
                        3 => Act::Read(dice.chance(70).then_some(other)),
                        4 => Act::Create { value, done: dice.chance(50) },
                        _ => Act::Swap { expected: other, value, done: dice.chance(50) },
                    };
                    Operation { client: n, called, returned, act }
                })
                .collect();
            let expected = by_force(&mut operations.clone(), None);
            assert_eq!(holds(&operations), expected, "{operations:?}");
            if expected { right += 1 } else { wrong += 1 }
        }
        assert!(right > 3_000 && wrong > 3_000, "{right} right, {wrong} wrong: too much of a kind");
    }

    /// What six keys and twelve clients make of a leader that is away: writes by the dozen that nobody knows of, some done and some not.
    #[test]
    fn histories_with_dozens_of_unknown_writes_at_once_are_judged() {
        let seed = 0xfa11_u64;
        println!("seed {seed}");
        let mut dice = Dice::new(seed);
        for round in 0..200 {
            let (mut operations, mut state, mut time) = (Vec::new(), None, 0_u64);
            let mut last = Vec::new();
            for n in 1..=160_u64 {
                time += dice.between(1, 10) as u64;
                let outage = (60..110).contains(&n);
                let act = match dice.below(10) {
                    0..4 => Act::Put(n),
                    4 => Act::Delete,
                    5 => Act::Create { value: n, done: state.is_none() },
                    6 => {
                        let expected = *last.get(dice.below(last.len().max(1))).unwrap_or(&0);
                        Act::Swap { expected, value: n, done: state == Some(expected) }
                    }
                    _ => Act::Read(state),
                };
                let lost = outage && dice.chance(80);
                if !lost || dice.chance(50) {
                    state = step(state, act, true).unwrap();
                    last.extend(state);
                }
                operations.push(if lost { unknown(time, act) } else { op(time, time + dice.between(1, 40) as u64, act) });
            }
            assert!(holds(&operations), "round {round}");
            let first = last.iter().find(|value| operations.iter().any(|one| one.returned.is_some() && one.act == Act::Put(**value)));
            operations.push(op(time + 100, time + 101, Act::Put(1_000)));
            operations.push(op(time + 200, time + 201, Act::Read(first.copied())));
            assert!(!holds(&operations), "round {round}: a value that had been replaced");
        }
    }

    #[test]
    fn a_long_history_with_many_unknown_puts_is_judged_quickly() {
        let mut dice = Dice::new(9);
        let (mut operations, mut state, mut time) = (Vec::new(), None, 0);
        for n in 0..400_u64 {
            time += 10;
            let late = time + dice.between(1, 25) as u64;
            let act = match dice.below(4) {
                0 => Act::Put(n),
                1 => Act::Delete,
                _ => Act::Read(state),
            };
            // It is done at its call: whatever overlaps it, there is an order.
            if dice.chance(8) && matches!(act, Act::Put(_)) {
                operations.push(unknown(time, act));
                continue;
            }
            state = step(state, act, true).unwrap();
            operations.push(op(time, late, act));
        }
        let began = std::time::Instant::now();
        assert!(holds(&operations));
        let last = operations.len() - 1;
        operations.push(op(time + 100, time + 101, Act::Read(Some(u64::MAX))));
        assert!(!holds(&operations), "{last}");
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}
