use super::read;
use crate::command::KeyPositions;
use crate::commands::twins::Twins;
use crate::db::Value;
use quorate_base::Prng;

const ENTRY_5: &str = "*1|*2|$1|s|*1|*2|$3|5-0|*2|$1|f|$1|v|";

#[test]
fn keys_are_between_the_word_and_the_ids() {
    for (line, want) in [
        ("XREAD COUNT 2 STREAMS a b 1 2", vec![4, 5]),
        ("XREADGROUP GROUP STREAMS c NOACK BLOCK 5 STREAMS a >", vec![8]),
        ("XREAD STREAMS a b 1", vec![]),
        ("XREAD NONSENSE STREAMS a 1", vec![]),
    ] {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut out = KeyPositions::new();
        read::keys(&args, &mut out);
        assert_eq!(out.to_vec(), want, "{line}");
    }
}

#[test]
fn a_blocked_read_waits_for_what_comes_after_its_first_try() {
    let mut twins = Twins::new();
    twins.run("XADD s 4-1 f v");
    twins.check("XREAD BLOCK 0 STREAMS s none $ $", "");
    let rewritten = twins.blocked.take().and_then(|block| block.rewritten).expect("ids were $");
    let line = String::from_utf8(rewritten.join(&b' ')).expect("ASCII");
    assert_eq!(line, "XREAD BLOCK 0 STREAMS s none 4-1 0-0");
    twins.run("XADD s 5-0 f v");
    twins.retried = true;
    twins.check(&line, ENTRY_5);
    twins.run("DEL s");
    twins.run("SET s x");
    twins.check(&line, "");
    assert!(twins.blocked.is_some(), "a key of another type counts as absent");
}

#[test]
fn a_blocked_group_read_changes_nothing_until_it_is_served() {
    let mut twins = Twins::new();
    twins.run("XGROUP CREATE s g $ MKSTREAM");
    twins.check("XREADGROUP GROUP g c BLOCK 9 STREAMS s >", "");
    assert!(twins.changed && twins.blocked.is_some(), "the consumer was created");
    twins.retried = true;
    twins.now += 5;
    twins.check("XREADGROUP GROUP g c BLOCK 9 STREAMS s >", "");
    assert!(!twins.changed && twins.blocked.is_some());
    twins.run("XADD s 5-0 f v");
    twins.check("XREADGROUP GROUP g c BLOCK 9 STREAMS s >", ENTRY_5);
    twins.run("XGROUP DESTROY s g");
    let gone = "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option|";
    twins.check("XREADGROUP GROUP g c BLOCK 9 STREAMS s >", gone);
    twins.run("DEL s");
    twins.check("XREADGROUP GROUP g c BLOCK 9 STREAMS s >", gone);
    twins.run("SET s x");
    twins.check(
        "XREADGROUP GROUP g c BLOCK 9 STREAMS s >",
        "-WRONGTYPE Operation against a key holding the wrong kind of value|",
    );
}

#[test]
fn times_of_consumers_and_deliveries() {
    let mut twins = Twins::new();
    let start = twins.now;
    twins.run("XGROUP CREATE s g $ MKSTREAM");
    twins.run("XREADGROUP GROUP g c STREAMS s >");
    twins.now += 10;
    twins.check(
        "XINFO CONSUMERS s g",
        "*1|*8|$4|name|$1|c|$7|pending|:0|$4|idle|:10|$8|inactive|:-1|",
    );
    twins.check("XADD s * f v", &format!("$15|{}-0|", start + 10));
    twins.check("XADD s * f v", &format!("$15|{}-1|", start + 10));
    twins.run("XREADGROUP GROUP g c COUNT 1 STREAMS s >");
    twins.now += 7;
    let id = start + 10;
    twins.check("XPENDING s g - + 9", &format!("*1|*4|$15|{id}-0|$1|c|:7|:1|"));
    twins.check("XPENDING s g IDLE 8 - + 9", "*0|");
    twins.check(&format!("XCLAIM s g d 8 {id}-0"), "*0|");
    twins.check(&format!("XCLAIM s g d 7 {id}-0 IDLE 3 JUSTID"), &format!("*1|$15|{id}-0|"));
    twins.check("XPENDING s g - + 9 d", &format!("*1|*4|$15|{id}-0|$1|d|:3|:1|"));
    twins.check("XAUTOCLAIM s g c 4 0", "*3|$3|0-0|*0|*0|");
    twins.check("XAUTOCLAIM s g c 3 0 JUSTID", &format!("*3|$3|0-0|*1|$15|{id}-0|*0|"));
    twins.now += 1;
    twins.check(
        "XINFO CONSUMERS s g",
        "*2|*8|$4|name|$1|c|$7|pending|:1|$4|idle|:1|$8|inactive|:1|\
         *8|$4|name|$1|d|$7|pending|:0|$4|idle|:1|$8|inactive|:1|",
    );
}

#[test]
fn whole_blocks_go_when_trimming_is_approximate() {
    let mut twins = Twins::new();
    for id in 1..=250 {
        twins.run(&format!("XADD s {id} f v"));
    }
    twins.check("XTRIM s MAXLEN ~ 151", ":0|");
    twins.check("XTRIM s MAXLEN ~ 150", ":100|");
    twins.check("XTRIM s MINID ~ 200", ":0|");
    twins.check("XTRIM s MINID ~ 201", ":100|");
    twins.check("XTRIM s MAXLEN ~ 0 LIMIT 49", ":0|");
    twins.check("XTRIM s MAXLEN ~ 0", ":50|");
    twins.check("XLEN s", ":0|");
    assert!(twins.value("s").is_some(), "an emptied stream stays");
}

/// Every pending entry is listed once for its group and once for its consumer, and a second
/// database that only sees effects holds the same.
#[test]
fn both_lists_of_pending_entries_agree_and_effects_replay() {
    let (mut twins, mut dice) = (Twins::new(), Prng::new(11));
    let mut next = 1;
    for step in 0..4000 {
        let group = ["g", "h"][dice.below(2) as usize];
        let consumer = ["a", "b", "c"][dice.below(3) as usize];
        let id = dice.below(next);
        twins.now += dice.below(3);
        twins.run(&match dice.below(20) {
            0..=5 => {
                next += 1;
                format!("XADD s {next}-* f {id}")
            }
            6..=9 => format!("XREADGROUP GROUP {group} {consumer} COUNT 3 STREAMS s >"),
            10 => format!("XREADGROUP GROUP {group} {consumer} STREAMS s {id}"),
            11 => format!("XACK s {group} {id} {}", id + 1),
            12 => format!("XCLAIM s {group} {consumer} 0 {id} {} FORCE", id + 1),
            13 => format!("XAUTOCLAIM s {group} {consumer} 0 {id} COUNT 3"),
            14 => format!("XDEL s {id}"),
            15 => format!("XGROUP CREATE s {group} 0 MKSTREAM"),
            16 if dice.below(9) == 0 => format!("XGROUP DESTROY s {group}"),
            16 => format!("XGROUP SETID s {group} {id}"),
            17 => format!("XGROUP DELCONSUMER s {group} {consumer}"),
            18 => "XTRIM s MAXLEN 40".into(),
            _ => format!("XSETID s {next}-9"),
        });
        let Some(Value::Coll { elements, .. }) = twins.value("s") else { continue };
        let count = |prefix| elements.iter().filter(|(sub, _)| sub[0] == prefix).count();
        assert_eq!(count(b'P'), count(b'O'), "after step {step}");
        let len = twins.run("XLEN s");
        assert_eq!(len, format!(":{}|", count(b'e')), "after step {step}");
        let pending =
            |reply: String| reply.split('|').nth(1)?.strip_prefix(':')?.parse::<usize>().ok();
        let in_groups: usize =
            ["g", "h"].iter().filter_map(|g| pending(twins.run(&format!("XPENDING s {g}")))).sum();
        assert_eq!(in_groups, count(b'P'), "after step {step}");
    }
}
