use super::edit::{LISTPACK, QUICKLIST};
use crate::commands::twins::Twins;
use crate::db::Value;
use quorate_base::Prng;

fn encoding(twins: &mut Twins, key: &str) -> Option<u8> {
    twins.value(key).map(|value| match value {
        Value::Coll { encoding, .. } => encoding,
        Value::String(..) => panic!("{key} is no list"),
    })
}

/// Runs random commands on one list and on a vector.
#[test]
fn a_list_behaves_as_a_vector_and_its_effects_replay() {
    let (mut twins, mut dice) = (Twins::new(), Prng::new(5));
    let mut model: Vec<String> = Vec::new();
    for step in 0..4000 {
        let a = format!("e{}", dice.below(12));
        let b = format!("e{}", dice.below(12));
        let rank = dice.below(12) as usize;
        let pivot = model.iter().position(|e| *e == a);
        match dice.below(10) {
            0 | 1 => {
                twins.run(&format!("LPUSH l {a} {b}"));
                model.splice(0..0, [b, a]);
            }
            2 | 3 => {
                twins.run(&format!("RPUSH l {a} {b}"));
                model.extend([a, b]);
            }
            4 => {
                twins.run("LPOP l");
                model.drain(..usize::from(!model.is_empty()));
            }
            5 => {
                twins.run(&format!("RPOP l {rank}"));
                model.truncate(model.len().saturating_sub(rank));
            }
            6 => {
                twins.run(&format!("LINSERT l BEFORE {a} {b}"));
                if let Some(at) = pivot {
                    model.insert(at, b);
                }
            }
            7 => {
                twins.run(&format!("LINSERT l AFTER {a} {b}"));
                if let Some(at) = pivot {
                    model.insert(at + 1, b);
                }
            }
            8 => {
                twins.run(&format!("LREM l 1 {a}"));
                if let Some(at) = pivot {
                    model.remove(at);
                }
            }
            _ => {
                twins.run(&format!("LSET l {rank} {b}"));
                if let Some(element) = model.get_mut(rank) {
                    *element = b;
                }
            }
        }
        let elements = match twins.value("l") {
            Some(Value::Coll { elements, .. }) => elements,
            _ => Vec::new(),
        };
        let elements = elements.iter().map(|(_, e)| String::from_utf8_lossy(e).into_owned());
        assert_eq!(elements.collect::<Vec<_>>(), model, "after step {step}");
    }
}

#[test]
fn encodings_change_as_in_redis() {
    let mut twins = Twins::new();
    let element = "x".repeat(100);
    // An entry takes 103 bytes, the frame 7: 79 of them fit into 8 KiB.
    for _ in 0..79 {
        twins.run(&format!("RPUSH l {element}"));
    }
    assert_eq!(encoding(&mut twins, "l"), Some(LISTPACK));
    twins.run(&format!("RPUSH l {element}"));
    assert_eq!(encoding(&mut twins, "l"), Some(QUICKLIST));
    twins.run("LTRIM l 0 39");
    assert_eq!(encoding(&mut twins, "l"), Some(QUICKLIST), "half of it is 39");
    twins.run("LPOP l");
    assert_eq!(encoding(&mut twins, "l"), Some(LISTPACK));
    let large = "x".repeat(9000);
    twins.run(&format!("LSET l 0 {large}"));
    assert_eq!(encoding(&mut twins, "l"), Some(QUICKLIST));
    twins.run("LSET l 0 small");
    assert_eq!(encoding(&mut twins, "l"), Some(LISTPACK));

    twins.settings.list_max_listpack_size = 3;
    twins.run("RPUSH m 1 2 3");
    assert_eq!(encoding(&mut twins, "m"), Some(LISTPACK));
    twins.run("LMOVE l m LEFT RIGHT");
    assert_eq!(encoding(&mut twins, "m"), Some(QUICKLIST));
    twins.run("RPOP m 3");
    assert_eq!(encoding(&mut twins, "m"), Some(LISTPACK));
}

#[test]
fn pops_wait_for_lists_only() {
    let mut twins = Twins::new();
    twins.check("BLPOP a b 1.5", "");
    assert_eq!(twins.blocked.as_ref().map(|b| b.timeout_ms), Some(1500));
    twins.run("SET a x");
    twins.check(
        "BLPOP a b 0",
        "-WRONGTYPE Operation against a key holding the wrong kind of value|",
    );
    twins.retried = true;
    twins.check("BLPOP a b 0", "");
    assert!(twins.blocked.is_some(), "a blocked command passes over the string");
    twins.check("BLMOVE a b LEFT LEFT 0", "");
    assert!(twins.blocked.is_some());
    twins.run("RPUSH b 1 2 3");
    twins.check("BLPOP a b 0", "*2|$1|b|$1|1|");
    twins.check("BLMPOP 0 2 a b RIGHT COUNT 5", "*2|$1|b|*2|$1|3|$1|2|");
    twins.retried = false;
    twins.in_transaction = true;
    twins.check("BRPOP b 0", "*-1|");
    twins.check("BLMOVE b c LEFT LEFT 0", "$-1|");
}

#[test]
fn moves_check_both_keys_first() {
    let mut twins = Twins::new();
    twins.run("RPUSH a 1 2 3");
    twins.run("SET s x");
    twins.check(
        "LMOVE a s LEFT LEFT",
        "-WRONGTYPE Operation against a key holding the wrong kind of value|",
    );
    twins.check("LMOVE none s LEFT LEFT", "$-1|");
    twins.check("RPOPLPUSH a a", "$1|3|");
    twins.check("LRANGE a 0 -1", "*3|$1|3|$1|1|$1|2|");
    twins.check("LPOP a 0", "*0|");
    twins.check("LPOP none 0", "*-1|");
    twins.check("LPOP a 3", "*3|$1|3|$1|1|$1|2|");
    twins.check("LLEN a", ":0|");
    assert_eq!(twins.value("a"), None);
}
