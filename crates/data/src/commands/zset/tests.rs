use super::element::{Members, sortable};
use crate::command::OnTimeout;
use crate::commands::twins::Twins;
use crate::entry::Kind;
use crate::testing::Harness;
use quorate_base::Prng;
use quorate_resp::Proto;
use std::collections::BTreeSet;

#[test]
fn adding_follows_its_options() {
    let mut h = Harness::new(4);
    h.check("ZADD z 1 a 2 b 2 b", ":2|");
    h.check("ZADD z CH 1 a 3 b 4 c", ":2|");
    h.check("ZADD z NX 9 a 5 d", ":1|");
    h.check("ZADD z XX 9 x", ":0|");
    h.check("ZADD z GT CH 0 a 5 b", ":1|");
    h.check("ZADD z LT CH 0 a 9 b 1 new", ":2|");
    h.check("ZADD z INCR XX 1 nobody", "$-1|");
    h.check("ZADD z INCR 1.5 a", "$3|1.5|");
    h.check("ZADD none XX 1 a", ":0|");
    h.check(
        "ZADD z NX GT 1 a",
        "-ERR GT, LT, and/or NX options at the same time are not compatible|",
    );
    h.check("ZADD z XX NX 1 a", "-ERR XX and NX options at the same time are not compatible|");
    h.check("ZADD z INCR 1 a 2 b", "-ERR INCR option supports a single increment-element pair|");
    h.check("ZADD z 1 a x b", "-ERR value is not a valid float|");
    h.check("ZADD z inf i", ":1|");
    h.check("ZINCRBY z -inf i", "-ERR resulting score is not a number (NaN)|");
    h.check("SET s v", "+OK|");
    h.check("ZADD s 1", "-ERR wrong number of arguments for 'zadd' command|");
    h.check("ZADD s x a", "-ERR value is not a valid float|");
    h.check("ZADD s 1 a", "-WRONGTYPE Operation against a key holding the wrong kind of value|");
}

#[test]
fn zero_has_one_place_and_two_signs() {
    let mut h = Harness::new(1);
    h.check("ZADD z 0 b -0 a -1 c", ":3|");
    h.check("ZRANGEBYSCORE z -0 0", "*2|$1|a|$1|b|");
    h.check("ZSCORE z a", "$1|0|");
    h.settings.zset_max_listpack_entries = 0;
    h.check("ZADD y 0 b -0 a -1 c", ":3|");
    h.check("ZRANGEBYSCORE y -0 0 WITHSCORES", "*4|$1|a|$2|-0|$1|b|$1|0|");
    h.check("ZADD y CH 0 a", ":0|");
    h.check("ZSCORE y a", "$2|-0|");
    h.check("ZREM y a", ":1|");
    h.check("ZCARD y", ":2|");
}

#[test]
fn ranks_and_scores_come_together() {
    let mut h = Harness::new(1);
    h.check("ZADD z 1 a 2 b 3 c", ":3|");
    h.check("ZRANK z b WITHSCORE", "*2|:1|$1|2|");
    h.check("ZREVRANK z c", ":0|");
    h.check("ZRANK z x", "$-1|");
    h.check("ZRANK z x WITHSCORE", "*-1|");
    h.check("ZRANK z x WITHSCORES", "-ERR syntax error|");
    h.check("ZRANK z x WITHSCORE y", "-ERR wrong number of arguments for 'zrank' command|");
    h.proto = Proto::Resp3;
    h.check("ZRANK z b WITHSCORE", "*2|:1|,2|");
    h.check("ZRANGE z 0 1 WITHSCORES", "*2|*2|$1|a|,1|*2|$1|b|,2|");
    h.check("ZRANK z x WITHSCORE", "_|");
}

#[test]
fn blocking_pops_wait_for_sorted_sets_only() {
    let mut h = Harness::new(4);
    h.check("BZPOPMIN a b 1.5", "");
    let block = h.blocked.take().expect("nothing is there");
    assert_eq!((block.timeout_ms, block.on_timeout), (1500, OnTimeout::NullArray));
    h.check("BZMPOP 0 2 a b MAX", "");
    assert_eq!(h.blocked.take().expect("nothing is there").timeout_ms, 0);
    h.check("ZADD b 1 x 2 y 3 z", ":3|");
    h.check("BZPOPMAX a b 0", "*3|$1|b|$1|z|$1|3|");
    h.check("BZMPOP 0 2 a b MIN COUNT 5", "*2|$1|b|*2|*2|$1|x|$1|1|*2|$1|y|$1|2|");
    h.check("ZCARD b", ":0|");
    let mut twins = Twins::new();
    twins.retried = true;
    twins.check("SET a string", "+OK|");
    twins.check("BZPOPMIN a b 0", "");
    assert!(twins.blocked.is_some(), "a string does not end the wait");
    twins.check("SADD set x y", ":2|");
    twins.check("ZADD b 5 y", ":1|");
    twins.check("ZUNION 2 b set WITHSCORES", "*4|$1|x|$1|1|$1|y|$1|6|");
    h.check("BZPOPMIN a -1", "-ERR timeout is negative|");
    h.check("BZMPOP x 1 a FOO", "-ERR syntax error|");
    h.check("ZMPOP 0 a MIN", "-ERR numkeys should be greater than 0|");
}

#[test]
fn a_store_replaces_its_sources_and_other_types() {
    let mut h = Harness::new(4);
    h.check("ZADD a 1 x 2 y", ":2|");
    h.check("ZADD b 3 y 4 z", ":2|");
    h.check("ZUNIONSTORE a 2 a b WEIGHTS 2 1 AGGREGATE MAX", ":3|");
    h.check("ZRANGE a 0 -1 WITHSCORES", "*6|$1|x|$1|2|$1|y|$1|4|$1|z|$1|4|");
    h.check("SET s v", "+OK|");
    h.check("ZRANGESTORE s a (2 +inf BYSCORE LIMIT 1 5", ":1|");
    h.check("ZRANGE s 0 -1", "*1|$1|z|");
    h.check("ZINTERSTORE s 2 a none", ":0|");
    h.check("ZCARD s", ":0|");
    h.check("ZUNION 0 a", "-ERR at least 1 input key is needed for 'zunion' command|");
    h.check("ZINTERCARD 2 a b LIMIT 1", ":1|");
    h.check("ZADD inf inf x", ":1|");
    h.check("ZUNION 2 inf inf WEIGHTS 1 -1 WITHSCORES", "*2|$1|x|$1|0|");
}

#[test]
fn random_members_differ_unless_repetition_is_asked_for() {
    let mut h = Harness::new(1);
    for n in 0..1000 {
        h.check(&format!("ZADD z {n} m{n}"), ":1|");
    }
    let members = |reply: String| -> Vec<String> {
        reply.split('|').filter(|part| part.starts_with('m')).map(str::to_owned).collect()
    };
    for count in [1, 7, 15, 16, 500, 999] {
        let got = members(h.run(&format!("ZRANDMEMBER z {count}")));
        assert_eq!(got.len(), count);
        assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), count, "a member came twice");
    }
    assert_eq!(members(h.run("ZRANDMEMBER z 5000")).len(), 1000);
    let got = members(h.run("ZRANDMEMBER z -5000"));
    let different = got.iter().collect::<BTreeSet<_>>().len();
    assert!(got.len() == 5000 && different > 900, "{different} of 1000 members came up");
}

#[test]
fn scans_are_whole_while_small_and_walk_members_after() {
    let mut h = Harness::new(1);
    for n in 0..128 {
        h.run(&format!("ZADD z {n} m{n}"));
    }
    assert!(h.run("ZSCAN z 0 COUNT 1").starts_with("*2|$1|0|*256|"));
    h.run("ZADD z 5 one-more");
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
    loop {
        let reply = h.run(&format!("ZSCAN z {cursor} COUNT 7"));
        let parts: Vec<&str> = reply.split('|').filter(|p| !p.starts_with(['$', '*'])).collect();
        cursor = parts[0].to_owned();
        seen.extend(parts[1..].chunks_exact(2).map(|pair| pair[0].to_owned()));
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 129);
    h.check("ZSCAN z x", "-ERR invalid cursor|");
    h.check("ZSCAN none 0 NONSENSE", "*2|$1|0|*0|");
}

#[test]
fn both_elements_agree_and_effects_replay() {
    let (mut twins, mut dice) = (Twins::new(), Prng::new(11));
    twins.settings.zset_max_listpack_entries = 8;
    let keys = ["a", "b", "c"];
    for step in 0..6000 {
        let key = keys[dice.below(3) as usize];
        let other = keys[dice.below(3) as usize];
        let member = dice.below(20);
        let score = ["-0", "0", "1", "-1.5", "inf", "-inf", "7"][dice.below(7) as usize];
        twins.run(&match dice.below(12) {
            0..=4 => format!("ZADD {key} {score} m{member} {} x{member}", dice.below(9)),
            5 => format!("ZINCRBY {key} {score} m{member}"),
            6 => format!("ZREM {key} m{member} x{member}"),
            7 => format!("ZPOPMIN {key} {}", dice.below(3)),
            8 => format!("ZREMRANGEBYSCORE {key} {score} ({}", dice.below(4)),
            9 => format!("ZUNIONSTORE {key} 2 {other} {key} WEIGHTS {score} 1"),
            10 => format!("ZRANGESTORE {key} {other} 1 {}", dice.below(12)),
            _ => format!("ZREMRANGEBYRANK {key} 0 {}", dice.below(3)),
        });
        for key in keys {
            twins.value(key);
            let coll = twins.leader.coll(key.as_bytes(), Kind::Zset).expect("a sorted set");
            let Some(coll) = coll else { continue };
            let members = Members::of(coll);
            let mut by_name: Vec<(Vec<u8>, u64)> =
                members.by_name().map(|(m, s)| (m.to_vec(), s.to_bits())).collect();
            by_name.sort_by_key(|(m, s)| (sortable(f64::from_bits(*s)), m.clone()));
            let ordered: Vec<(Vec<u8>, u64)> =
                members.iter().map(|(m, s)| (m.to_vec(), s.to_bits())).collect();
            assert_eq!(by_name, ordered, "step {step}");
            for (rank, (member, score)) in ordered.iter().enumerate() {
                assert_eq!(members.rank(member), Some((rank, f64::from_bits(*score))));
            }
        }
    }
}
