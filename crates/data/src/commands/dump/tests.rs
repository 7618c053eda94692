use super::*;
use crate::db::Value;
use crate::entry::Kind;
use crate::testing::Harness;
use proptest::prelude::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).expect("ASCII"));
    digits.map(|two| u8::from_str_radix(two, 16).expect("hex digits")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A reply for comparison with `|` for CR LF.
fn reply(h: &mut Harness, args: &[&[u8]]) -> String {
    String::from_utf8_lossy(&h.run_args(args)).replace("\r\n", "|")
}

fn dump_of(h: &mut Harness, key: &str) -> Vec<u8> {
    let reply = h.run_args(&[b"DUMP", key.as_bytes()]);
    let from = reply.iter().position(|&b| b == b'\n').expect("a bulk string") + 1;
    reply[from..reply.len() - 2].to_vec()
}

#[track_caller]
fn restored(payload: &str, command: &str, want: &str) {
    let mut h = Harness::with_replica(2);
    let payload = bytes(payload);
    assert_eq!(reply(&mut h, &[b"RESTORE", b"k", b"0", &payload]), "+OK|");
    h.check(command, want);
    h.check_replica();
    // What was restored is dumped and restored once more.
    let again = dump_of(&mut h, "k");
    assert_eq!(reply(&mut h, &[b"RESTORE", b"other", b"0", &again]), "+OK|");
    h.check(&command.replace('k', "other"), want);
}

#[test]
fn payloads_of_redis_7_0_are_restored() {
    restored("000568656c6c6f0a006372df766534200a", "GET k", "$5|hello|");
    restored("00c290eefeff0a002875de7b13eb2800", "GET k", "$6|-70000|");
    let abc = format!("$60|{}|", "abc".repeat(20));
    restored("00c30b40780361626361e069020162630a00c494a1702ae23e06", "STRLEN k", ":120|");
    restored("00c30b40780361626361e069020162630a00c494a1702ae23e06", "GETRANGE k 0 59", &abc);
    let list = format!("*3|$1|a|$2|-5|$70|{}|", "x".repeat(70));
    restored(
        "120102c31640560e560000000300816102dffb02e04678e03c000148ff0a00b617452e61411124",
        "LRANGE k 0 -1",
        &list,
    );
    let members = "*3|$2|-2|$1|1|$5|70000|";
    restored(
        "0b140400000003000000feffffff01000000701101000a0030527df8cc311f3b",
        "SMEMBERS k",
        members,
    );
    let members = "*3|$1|5|$1|a|$1|b|";
    restored("020301620161c0050a0052ff27e4551f6173", "SMEMBERS k", members);
    restored(
        "1013130000000400816602817602816e02c12c02ff0a00b4bc2f6c5b5cb139",
        "HGETALL k",
        "*4|$1|f|$1|v|$1|n|$3|300|",
    );
    restored("0401016601760a00adf24356b1860efc", "HGETALL k", "*2|$1|f|$1|v|");
    restored(
        "111d1d0000000600816202dffd0281610283312e350481630283696e6604ff0a00940d89edfbff19ab",
        "ZRANGE k 0 -1 WITHSCORES",
        "*6|$1|b|$2|-3|$1|a|$3|1.5|$1|c|$3|inf|",
    );
    restored(
        "05010161000000000000f83f0a0045a3a88f44e959da",
        "ZRANGE k 0 -1 WITHSCORES",
        "*2|$1|a|$3|1.5|",
    );
    restored(
        "1202020d0d0000000200816102816202ff020a0a0000000100816302ff0a00a60192a8f736b5c0",
        "LRANGE k 0 -1",
        "*3|$1|a|$1|b|$1|c|",
    );
}

#[test]
fn payloads_of_redis_6_2_are_restored() {
    let list =
        format!("*6|$1|a|$2|-5|$70|{}|$6|100000|$1|5|$300|{}|", "x".repeat(70), "y".repeat(300));
    restored(
        "0e01c32d4190139001000060000000060000016103fefb03404678e03c000a49f0a0860105f602412c79e0ff\
         00e019000179ff09000d88888dbef95640",
        "LRANGE k 0 -1",
        &list,
    );
    restored(
        "0d181800000013000000040000016603017603016e03c02c01ff090068092ad1e5c5870b",
        "HGETALL k",
        "*4|$1|f|$1|v|$1|n|$3|300|",
    );
    restored(
        "0c21210000001b000000060000016203fefd0301610303312e350501630303696e66ff09000d47ee23499b5c\
         2a",
        "ZRANGE k 0 -1 WITHSCORES",
        "*6|$1|b|$2|-3|$1|a|$3|1.5|$1|c|$3|inf|",
    );
    let stream = "0f01100000000000000005000000000000000135350000001200020100010201816602816702000\
                  102010001000101018374776f0405010201000101010201857468726565060501ff020502010267\
                  310501010000000000000005000000000000000100806e87740100000301026331de788c10a2010\
                  000010000000000000005000000000000000109002f57d15838527407";
    restored(
        stream,
        "XRANGE k - +",
        "*2|*2|$3|5-1|*4|$1|f|$1|1|$1|g|$3|two|*2|$3|5-2|*4|$1|f|$1|2|$1|g|$5|three|",
    );
    // The counters, which 6.2 does not have, are worked out.
    restored(
        stream,
        "XINFO GROUPS k",
        "*1|*12|$4|name|$2|g1|$9|consumers|:1|$7|pending|:1|$17|last-delivered-id|$3|5-1|\
         $12|entries-read|:1|$3|lag|:1|",
    );
}

#[test]
fn types_of_the_oldest_servers_are_restored() {
    let check = |body: &[u8], command: &str, want: &str| {
        let mut payload = body.to_vec();
        seal(&mut payload);
        restored(&hex(&payload), command, want);
    };
    let scores = "*6|$1|c|$4|-inf|$1|a|$3|1.5|$1|b|$3|inf|";
    check(b"\x03\x03\x01a\x031.5\x01b\xfe\x01c\xff", "ZRANGE k 0 -1 WITHSCORES", scores);
    let map = b"\x09\x10\x02\x01f\x03\x02val__\x01n\x01\x007\xff";
    check(map, "HGETALL k", "*4|$1|f|$3|val|$1|n|$1|7|");
    let list = b"\x0a\x0f\x0f\0\0\0\x0c\0\0\0\x02\0\0\xf2\x02\xf3\xff";
    check(list, "LRANGE k 0 -1", "*2|$1|1|$1|2|");
    check(b"\x01\x02\xc0\x05\x01a", "LRANGE k 0 -1", "*2|$1|5|$1|a|");
}

/// With a deleted entry, fields of its own, two groups, and a consumer that never read.
const STREAM_7_2: &str = "15011000000000000000050000000000000001404a4a0000001900020101010201816602816702000102010001000\
     101018374776f040501030100010101020185746872656506050100010201dfff020101856f746865720681780206\
     01ff020700050105020302026731050181ffffffffffffffff010000000000000005000000000000000100806e877\
     4010000030202633164508c10a201000064508c10a201000001000000000000000500000000000000010469646c65\
     64508c10a2010000ffffffffffffffff00026732070081ffffffffffffffff0000500011a3e232cec4e68e";

#[test]
fn payloads_of_valkey_and_redis_7_2_are_restored() {
    restored("140f0f00000003008161020501816202ff5000e8071e804f0ab5c7", "SCARD k", ":3|");
    restored(
        STREAM_7_2,
        "XRANGE k - +",
        "*2|*2|$3|5-1|*4|$1|f|$1|1|$1|g|$3|two|*2|$3|7-0|*2|$5|other|$1|x|",
    );
    restored(
        STREAM_7_2,
        "XPENDING k g1 - + 9",
        &format!("*1|*4|$3|5-1|$2|c1|:{}|:3|", 100_000_000_000u64),
    );
    let mut h = Harness::new(1);
    assert_eq!(reply(&mut h, &[b"RESTORE", b"k", b"0", &bytes(STREAM_7_2)]), "+OK|");
    let info = h.run("XINFO STREAM k FULL");
    for part in [
        "$20|max-deleted-entry-id|$3|5-2|",
        "$13|entries-added|:3|",
        "$4|name|$4|idle|$9|seen-time|:1795573960804|$11|active-time|:-1|",
    ] {
        assert!(info.contains(part), "{info}");
    }
}

#[test]
fn dumps_are_those_of_redis_7_0() {
    let mut h = Harness::new(2);
    h.check("SET a hello", "+OK|");
    assert_eq!(hex(&dump_of(&mut h, "a")), "000568656c6c6f0a006372df766534200a");
    h.check("SET a -70000", "+OK|");
    assert_eq!(hex(&dump_of(&mut h, "a")), "00c290eefeff0a002875de7b13eb2800");
    h.check("HSET h f v", ":1|");
    assert_eq!(hex(&dump_of(&mut h, "h")), "0401016601760a00adf24356b1860efc");
    h.check("ZADD z 1.5 a", ":1|");
    assert_eq!(hex(&dump_of(&mut h, "z")), "05010161000000000000f83f0a0045a3a88f44e959da");
    h.check("DUMP none", "$-1|");
}

#[test]
fn options_and_errors_are_those_of_redis() {
    let mut h = Harness::with_replica(2);
    h.check("SET a hello", "+OK|");
    let good = dump_of(&mut h, "a");
    let mut check = |line: &str, payload: &[u8], want: &str| {
        let mut args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        args.insert(3, payload);
        assert_eq!(reply(&mut h, &args), want, "{line}");
        h.check_replica();
    };
    let checksum = "-ERR DUMP payload version or checksum are wrong|";
    check("RESTORE a 0", b"x", "-BUSYKEY Target key name already exists.|");
    check("RESTORE a x REPLACE", &good, "-ERR value is not an integer or out of range|");
    check("RESTORE b -1", b"x", "-ERR Invalid TTL value, must be >= 0|");
    check("RESTORE b 0", b"x", checksum);
    check("RESTORE b 0", b"", checksum);
    check("RESTORE a -1 NOPE", b"x", "-ERR syntax error|");
    check("RESTORE b 0 IDLETIME", b"x", "-ERR syntax error|");
    check("RESTORE b 0 IDLETIME -1", b"x", "-ERR Invalid IDLETIME value, must be >= 0|");
    check("RESTORE b 0 FREQ 256", b"x", "-ERR Invalid FREQ value, must be >= 0 and <= 255|");
    check("RESTORE b 0 FREQ x", b"x", "-ERR value is not an integer or out of range|");
    check("RESTORE b 0 FREQ 1 IDLETIME 1", b"x", "-ERR syntax error|");
    check("RESTORE b 5000 IDLETIME 10 idletime 20", &good, "+OK|");
    check("RESTORE c 1700000007000 ABSTTL FREQ 5 FREQ 6", &good, "+OK|");
    check("RESTORE d 9223372036854775807", &good, "+OK|");
    check("RESTORE a 1 REPLACE ABSTTL", &good, "+OK|");
    let mut newer = good[..good.len() - FOOTER_BYTES].to_vec();
    newer.extend_from_slice(&[13, 0]);
    let crc = crc64(&newer);
    newer.extend_from_slice(&crc.to_le_bytes());
    check("RESTORE e 0", &newer, checksum);
    for module in [6, 7, 8, 22, 255] {
        let mut payload = vec![module, 1, b'x'];
        seal(&mut payload);
        check("RESTORE e 0", &payload, "-ERR Bad data format|");
    }
    h.check("PTTL b", ":5000|");
    h.check("OBJECT IDLETIME b", ":20|");
    h.check("PTTL c", ":7000|");
    h.check("EXISTS a", ":0|");
    h.check("EXISTS e", ":0|");
    h.check("GET d", "$5|hello|");
}

#[test]
fn what_no_server_writes_is_refused() {
    let listpack = |entries: &[&[u8]]| {
        let mut pack = listpack::Builder::new();
        entries.iter().for_each(|entry| pack.text(entry));
        pack.finish()
    };
    let wrapped = |kind: u8, string: &[u8]| {
        let mut body = vec![kind];
        rdb_write::put_string(&mut body, string);
        body
    };
    let bodies = [
        (vec![], "nothing"),
        (vec![kind::STRING], "no string"),
        (b"\x00\x01ab".to_vec(), "a rest"),
        (b"\x00\x82\x00\x00\x00\x01a".to_vec(), "an unknown length"),
        (b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xffa".to_vec(), "a length beyond the input"),
        (b"\x00\xc3\x02\x80\x7f\xff\xff\xff\x00a".to_vec(), "a compressed length that is wrong"),
        (b"\x01\x00".to_vec(), "an empty list"),
        (b"\x02\x00".to_vec(), "an empty set"),
        (b"\x12\x00".to_vec(), "an empty quicklist"),
        (b"\x12\x01\x03\x01a".to_vec(), "an unknown node"),
        (b"\x02\x02\x01a\x01a".to_vec(), "a member twice"),
        (b"\x02\x02\x011\xc0\x01".to_vec(), "a member twice in other words"),
        (b"\x04\x02\x01a\x011\x01a\x012".to_vec(), "a field twice"),
        (b"\x05\x02\x01a\0\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\x40".to_vec(), "scored twice"),
        (b"\x05\x01\x01a\x01\0\0\0\0\0\xf0\x7f".to_vec(), "NaN"),
        (b"\x03\x01\x01a\xfd".to_vec(), "NaN by its length"),
        (b"\x03\x01\x01a\x021x".to_vec(), "no number"),
        (b"\x02\xbf\xff\xff\xff\x01a".to_vec(), "a count beyond the input"),
        (wrapped(kind::HASH_LISTPACK, &listpack(&[b"a", b"b", b"c"])), "an odd hash"),
        (wrapped(kind::ZSET_LISTPACK, &listpack(&[b"a", b"b"])), "a score that is none"),
        (wrapped(kind::ZSET_LISTPACK, &listpack(&[b"a", b"nan"])), "NaN as text"),
        (wrapped(kind::SET_LISTPACK, &listpack(&[b"a", b"a"])), "a packed member twice"),
        (wrapped(kind::SET_LISTPACK, &listpack(&[])), "an empty packed set"),
        (wrapped(kind::SET_INTSET, b"\x02\0\0\0\x02\0\0\0\x02\0\x01\0"), "an unsorted intset"),
        (wrapped(kind::STREAM_LISTPACKS, b"x"), "a stream that ends"),
    ];
    for (body, what) in bodies {
        assert_eq!(rdb_read::read(&body, &Default::default()), None, "{what}");
    }
}

#[test]
fn streams_must_be_consistent() {
    let sealed = bytes(STREAM_7_2);
    let body = &sealed[..sealed.len() - FOOTER_BYTES];
    assert!(rdb_read::read(body, &Default::default()).is_some());
    let after_pack = body.len() - (body.len() - 2 - 17 - 2 - 0x4a);
    for (at, value, what) in [
        (18, 9, "the master's id after the last"),
        (after_pack, 3, "the number of entries"),
        (after_pack + 1, 6, "the last id before an entry"),
        (after_pack + 5, 8, "a deleted id after the last"),
        (after_pack + 7, 1, "fewer entries added than there are"),
    ] {
        let mut bad = body.to_vec();
        bad[at] = value;
        assert_eq!(rdb_read::read(&bad, &Default::default()), None, "{what}");
    }
    // The id that the consumer has is not pending, and the pending one has no consumer.
    let c1 = body.windows(2).rposition(|two| two == b"c1").expect("the consumer");
    for at in [c1 + 19, c1 + 18] {
        let mut bad = body.to_vec();
        bad[at] = if at == c1 + 18 { 0 } else { 9 };
        assert_eq!(rdb_read::read(&bad, &Default::default()), None, "byte {at}");
    }
}

#[test]
fn a_name_in_every_entry_cannot_fill_memory() {
    // One field of 64 KiB in 60,000 entries of 6 bytes.
    let mut pack = listpack::Builder::new();
    const ENTRIES: i64 = 60_000;
    [ENTRIES, 0, 1].into_iter().for_each(|number| pack.number(number));
    pack.text(&[b'f'; 1 << 16]);
    pack.number(0);
    for seq in 1..=ENTRIES {
        [2, 0, seq, 0, 4].into_iter().for_each(|number| pack.number(number));
    }
    let mut body = vec![kind::STREAM_LISTPACKS, 1];
    rdb_write::put_string(&mut body, &[0; 16]);
    rdb_write::put_string(&mut body, &pack.finish());
    rdb_write::put_len(&mut body, ENTRIES as u64);
    body.extend_from_slice(&[9, 0, 0]);
    assert_eq!(rdb_read::read(&body, &Default::default()), None);
}

/// Short strings of few letters, numbers, and long ones.
fn string() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(b'a'..=b'd', 0..4),
        3 => any::<i64>().prop_map(|n| (n >> (n & 63)).to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0usize..9000).prop_map(|len| vec![b'z'; len]),
    ]
}

/// Commands that build the key `k`.
fn commands() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let strings = || prop::collection::vec(string(), 1..40);
    let words = |head: &'static [&'static str]| {
        move |tail: Vec<Vec<u8>>| {
            let head = head.iter().map(|word| word.as_bytes().to_vec());
            vec![head.chain(tail).collect::<Vec<_>>()]
        }
    };
    let pairs = || {
        prop::collection::vec((string(), string()), 1..40)
            .prop_map(|pairs| pairs.into_iter().flat_map(|(a, b)| [a, b]).collect::<Vec<_>>())
    };
    let score = any::<f64>().prop_filter("NaN is no score", |score| !score.is_nan());
    let scored = prop::collection::vec((score, string()), 1..40).prop_map(|pairs| {
        pairs.into_iter().flat_map(|(a, b)| [a.to_string().into_bytes(), b]).collect::<Vec<_>>()
    });
    prop_oneof![
        string().prop_map(|s| vec![s]).prop_map(words(&["SET", "k"])),
        strings().prop_map(words(&["RPUSH", "k"])),
        strings().prop_map(words(&["SADD", "k"])),
        prop::collection::vec(any::<i16>().prop_map(|n| n.to_string().into_bytes()), 1..600)
            .prop_map(words(&["SADD", "k"])),
        pairs().prop_map(words(&["HSET", "k"])),
        scored.prop_map(words(&["ZADD", "k"])),
        (prop::collection::vec((pairs(), 0u8..6), 0..150)).prop_map(|entries| stream(&entries)),
    ]
}

/// A stream of these entries with deletions, groups, and reads among them.
fn stream(entries: &[(Vec<Vec<u8>>, u8)]) -> Vec<Vec<Vec<u8>>> {
    let words = |line: &str| line.split(' ').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut commands = vec![words("XGROUP CREATE k g 0 MKSTREAM"), words("XGROUP CREATE k h $")];
    for (n, (strings, what)) in entries.iter().enumerate() {
        let mut add = words(&format!("XADD k {}-{n}", n / 7 + 1));
        add.extend(if n % 3 == 0 { strings.clone() } else { words("field value other 12") });
        commands.push(add);
        match what {
            0 => commands.push(words(&format!("XDEL k {}-{n}", n / 7 + 1))),
            1 => commands.push(words("XREADGROUP GROUP g c1 COUNT 2 STREAMS k >")),
            2 => commands.push(words("XREADGROUP GROUP g c2 COUNT 1 STREAMS k >")),
            3 => commands.push(words("XREADGROUP GROUP h c1 COUNT 9 STREAMS k >")),
            _ => {}
        }
    }
    commands
}

fn built(commands: &[Vec<Vec<u8>>]) -> Harness {
    let mut h = Harness::with_replica(2);
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let reply = h.run_args(&args);
        assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
    }
    h
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_dumped_is_restored(commands in commands()) {
        let mut h = built(&commands);
        let payload = dump_of(&mut h, "k");
        prop_assert_eq!(reply(&mut h, &[b"RESTORE", b"other", b"0", &payload]), "+OK|");
        h.check_replica();
        let mut value = |key| h.db.value(key).expect("memory").expect("it was made").0;
        match (value(b"k"), value(b"other")) {
            (Value::Coll { kind: Kind::Stream, .. }, _) => {}
            // The history of a collection may have given it a larger encoding than it needs.
            (
                Value::Coll { kind, aux, elements, .. },
                Value::Coll { kind: other_kind, aux: other_aux, elements: other_elements, .. },
            ) => {
                prop_assert_eq!((kind, aux), (other_kind, other_aux));
                prop_assert_eq!(elements, other_elements);
            }
            (value, other) => prop_assert_eq!(value, other),
        }
        // A stream's groups and consumers may get other numbers, in the order of their names.
        prop_assert_eq!(dump_of(&mut h, "other"), payload);
        for question in ["XINFO STREAM k FULL COUNT 0", "XRANGE k - +", "TYPE k"] {
            let want = h.run(question);
            prop_assert_eq!(h.run(&question.replace("k", "other")), want);
        }
    }

    #[test]
    fn damaged_payloads_never_panic(
        commands in commands(),
        vector in 0..VECTORS.len() * 2,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let mut body = match VECTORS.get(vector) {
            Some(vector) => bytes(vector),
            None => dump_of(&mut built(&commands), "k"),
        };
        body.truncate(body.len() - FOOTER_BYTES);
        for (at, byte, how) in damage {
            let at = at.index(body.len());
            match how {
                0 => body[at] ^= 1 << (byte % 8),
                1 => body.insert(at, byte),
                2 if body.len() > 1 => { body.remove(at); }
                _ => body[at] = byte,
            }
        }
        seal(&mut body);
        let mut h = Harness::with_replica(1);
        let answer = reply(&mut h, &[b"RESTORE", b"k", b"0", &body]);
        prop_assert!(answer == "+OK|" || answer == "-ERR Bad data format|", "{}", answer);
        if answer == "+OK|" {
            for question in [
                "XINFO STREAM k FULL", "XADD k * f v", "XREADGROUP GROUP g1 c1 STREAMS k >",
                "LRANGE k 0 -1", "LPUSH k a", "ZRANGE k 0 -1", "HGETALL k", "SMEMBERS k", "DUMP k",
            ] {
                h.run(question);
            }
        }
        h.check_replica();
    }
}

/// Payloads of real servers in the encodings that are not written here.
const VECTORS: &[&str] = &[
    STREAM_7_2,
    "00c30b40780361626361e069020162630a00c494a1702ae23e06",
    "120102c31640560e560000000300816102dffb02e04678e03c000148ff0a00b617452e61411124",
    "1202020d0d0000000200816102816202ff020a0a0000000100816302ff0a00a60192a8f736b5c0",
    "0b140400000003000000feffffff01000000701101000a0030527df8cc311f3b",
    "1013130000000400816602817602816e02c12c02ff0a00b4bc2f6c5b5cb139",
    "111d1d0000000600816202dffd0281610283312e350481630283696e6604ff0a00940d89edfbff19ab",
    "0d181800000013000000040000016603017603016e03c02c01ff090068092ad1e5c5870b",
    "0c21210000001b000000060000016203fefd0301610303312e350501630303696e66ff09000d47ee23499b5c2a",
    "140f0f00000003008161020501816202ff5000e8071e804f0ab5c7",
];
