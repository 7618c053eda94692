//! What commands look like: one line a shape, one table a family.
//!
//! ```text
//! word        itself
//! {name}      a word of that alphabet, see `alphabet`
//! (a b|c)     one of the alternatives
//! (a b|c)+    one to three of them
//! [a b|c]     one of the alternatives, or nothing
//! [a b|c]*    none to three of them, in any order and also twice
//! ```
//!
//! A line that starts with `!` is never distorted into bad arguments, because some of them would
//! block for ever, draw at random, or be taken differently by newer releases.
//!
//! Not here, because two servers cannot agree on them: RANDOMKEY's and SPOP's choice, OBJECT FREQ
//! and IDLETIME, ids of XADD from the clock.

/// A family and the shapes of its commands.
pub(crate) type Family = (&'static str, &'static [&'static str]);

/// Every family.
pub(crate) const FAMILIES: &[Family] = &[
    ("generic", GENERIC),
    ("expire", EXPIRE),
    ("string", STRING),
    ("bitmap", BITMAP),
    ("hyperloglog", HYPERLOGLOG),
    ("hash", HASH),
    ("list", LIST),
    ("blocking", BLOCKING),
    ("set", SET),
    ("zset", ZSET),
    ("zset ranges", ZSET_RANGES),
    ("geo", GEO),
    ("stream", STREAM),
    ("stream groups", STREAM_GROUPS),
    ("sort", SORT),
    ("connection", CONNECTION),
];

/// What fills the keyspace, in every sequence.
pub(crate) const FILLERS: &[&str] = &[
    "SET {k} {v}",
    "HSET {k} ({m} {v})+",
    "RPUSH {k} ({v})+",
    "SADD {k} ({m})+",
    "ZADD {k} ({score} {m})+",
    "XADD {k} {id} ({m} {v})+",
    "DEL {k}",
];

const GENERIC: &[&str] = &[
    "DEL ({k})+",
    "UNLINK ({k})+",
    "EXISTS ({k})+",
    "TOUCH ({k})+",
    "TYPE {k}",
    "RENAME {k} {k}",
    "RENAMENX {k} {k}",
    "COPY {k} {k} [REPLACE|DB 0]*",
    "KEYS {glob}",
    "DBSIZE",
    "!SCAN 0 COUNT 1000 [MATCH {glob}|TYPE (string|list|set|zset|hash|stream|nosuch)]*",
    "OBJECT (ENCODING|REFCOUNT|NOSUCH) {k}",
    "MOVE {k} 0",
    "!RANDOMKEY",
    "NOSUCHCOMMAND {m} {k}",
    "FLUSHALL [SYNC|ASYNC]",
    "FLUSHDB",
];

const EXPIRE: &[&str] = &[
    "EXPIRE {k} {far} [NX|XX]*",
    "PEXPIRE {k} {farms} [NX|XX]*",
    "EXPIREAT {k} {at} [NX|XX|GT|LT]*",
    "PEXPIREAT {k} {atms} [NX|XX|GT|LT]*",
    "EXPIRE {k} (0|-1|-9223372036854775808|9223372036854775807|9223372036854775)",
    "PEXPIREAT {k} (0|-1|1|-9223372036854775808)",
    "TTL {k}",
    "PTTL {k}",
    "EXPIRETIME {k}",
    "PEXPIRETIME {k}",
    "PERSIST {k}",
    "SETEX {k} {far} {v}",
    "PSETEX {k} {farms} {v}",
    "GETEX {k} [PERSIST|EX {far}|PX {farms}|EXAT {at}|PXAT {atms}]*",
    "SET {k} {v} [KEEPTTL|EX {far}|PX {farms}|EXAT {at}|PXAT {atms}]*",
    "GETSET {k} {v}",
    "RENAME {k} {k}",
    "COPY {k} {k} REPLACE",
];

const STRING: &[&str] = &[
    "SET {k} {v} [NX|XX|GET|KEEPTTL|EX {far}|PX {farms}|EXAT {at}|PXAT {atms}]*",
    "SET {k} {v} [EX|PX] (0|-1|abc|9223372036854775807)",
    "GET {k}",
    "GETDEL {k}",
    "GETSET {k} {v}",
    "GETRANGE {k} {i} {i}",
    "SUBSTR {k} {i} {i}",
    "SETRANGE {k} {n} {v}",
    "SETRANGE {k} (-1|536870912|9223372036854775807) {v}",
    "STRLEN {k}",
    "APPEND {k} {v}",
    "SETNX {k} {v}",
    "MSET ({k} {v})+",
    "MSET {k} {v} {k}",
    "MSETNX ({k} {v})+",
    "MGET ({k})+",
    "INCR {k}",
    "DECR {k}",
    "INCRBY {k} {big}",
    "DECRBY {k} {big}",
    "INCRBYFLOAT {k} {f}",
    "SET {k} {big}",
    "SET {k} {f}",
    "LCS {k} {k} [LEN|IDX|MINMATCHLEN {i}|WITHMATCHLEN]*",
];

const BITMAP: &[&str] = &[
    "SETBIT {k} {bit} (0|1|2)",
    "SETBIT {k} (-1|4294967296|abc) 1",
    "GETBIT {k} {bit}",
    "BITCOUNT {k}",
    "BITCOUNT {k} {i} {i} [BYTE|BIT|NIBBLE]",
    "BITPOS {k} (0|1|2)",
    "BITPOS {k} (0|1) {i} [{i}] [BYTE|BIT|NIBBLE]",
    "BITOP (AND|OR|XOR|nor) {k} ({k})+",
    "BITOP NOT {k} {k}",
    "BITFIELD {k} [GET {ftype} {foff}|SET {ftype} {foff} {i}|INCRBY {ftype} {foff} {i}|OVERFLOW (WRAP|SAT|FAIL|X)]*",
    "BITFIELD_RO {k} [GET {ftype} {foff}|SET {ftype} {foff} {i}]*",
    "GET {k}",
];

const HYPERLOGLOG: &[&str] = &[
    "PFADD {k} [{m}|{v}]*",
    "PFADD {k} ({v})+",
    "PFCOUNT ({k})+",
    "PFMERGE {k} [{k}]*",
    "GET {k}",
    "STRLEN {k}",
];

const HASH: &[&str] = &[
    "HSET {k} ({m} {v})+",
    "HSET {k} {m} {v} {m}",
    "HMSET {k} ({m} {v})+",
    "HSETNX {k} {m} {v}",
    "HGET {k} {m}",
    "HMGET {k} ({m})+",
    "HDEL {k} ({m})+",
    "HLEN {k}",
    "HSTRLEN {k} {m}",
    "HEXISTS {k} {m}",
    "HGETALL {k}",
    "HKEYS {k}",
    "HVALS {k}",
    "HINCRBY {k} {m} {big}",
    "HINCRBYFLOAT {k} {m} {f}",
    "!HRANDFIELD {k} [{i}] [WITHVALUES]",
    "!HSCAN {k} 0 COUNT 1000 [MATCH {glob}]",
];

const LIST: &[&str] = &[
    "LPUSH {k} ({v})+",
    "RPUSH {k} ({v})+",
    "LPUSHX {k} ({v})+",
    "RPUSHX {k} ({v})+",
    "LPOP {k} [{i}]",
    "RPOP {k} [{i}]",
    "LLEN {k}",
    "LRANGE {k} {i} {i}",
    "LINDEX {k} {i}",
    "LSET {k} {i} {v}",
    "LINSERT {k} (BEFORE|AFTER|x) {v} {v}",
    "LREM {k} {i} {v}",
    "LTRIM {k} {i} {i}",
    "LPOS {k} {v} [RANK {i}|COUNT {i}|MAXLEN {i}]*",
    "RPOPLPUSH {k} {k}",
    "LMOVE {k} {k} (LEFT|RIGHT|x) (LEFT|RIGHT)",
    "!LMPOP {numkeys} ({k})+ (LEFT|RIGHT|x) [COUNT {i}]",
];

const BLOCKING: &[&str] = &[
    "RPUSH {k} ({v})+",
    "ZADD {k} ({score} {m})+",
    "!BLPOP ({k})+ 0.01",
    "!BRPOP ({k})+ 0.01",
    "!BLPOP {k} (-1|abc|nan)",
    "!BLMOVE {k} {k} (LEFT|RIGHT) (LEFT|RIGHT) 0.01",
    "!BRPOPLPUSH {k} {k} 0.01",
    "!BLMPOP 0.01 {numkeys} ({k})+ (LEFT|RIGHT) [COUNT {i}]",
    "!BZPOPMIN ({k})+ 0.01",
    "!BZPOPMAX ({k})+ 0.01",
    "!BZMPOP 0.01 {numkeys} ({k})+ (MIN|MAX) [COUNT {i}]",
    "!XREAD BLOCK 5 STREAMS {k} ({id}|$)",
];

const SET: &[&str] = &[
    "SADD {k} ({m})+",
    "SADD {k} ({big})+",
    "SREM {k} ({m})+",
    "SISMEMBER {k} {m}",
    "SMISMEMBER {k} ({m})+",
    "SCARD {k}",
    "SMEMBERS {k}",
    "SMOVE {k} {k} {m}",
    "SINTER ({k})+",
    "SUNION ({k})+",
    "SDIFF ({k})+",
    "SINTERSTORE {k} ({k})+",
    "SUNIONSTORE {k} ({k})+",
    "SDIFFSTORE {k} ({k})+",
    "SINTERCARD {numkeys} ({k})+ [LIMIT {i}]",
    "!SRANDMEMBER {k} [{i}]",
    "!SPOP {k} (0|1000|-1)",
    "!SSCAN {k} 0 COUNT 1000 [MATCH {glob}]",
];

const ZSET: &[&str] = &[
    "ZADD {k} [NX|XX|GT|LT|CH]* ({score} {m})+",
    "ZADD {k} [NX|XX|GT|LT|CH]* INCR {score} {m}",
    "ZINCRBY {k} {score} {m}",
    "ZREM {k} ({m})+",
    "ZSCORE {k} {m}",
    "ZMSCORE {k} ({m})+",
    "ZCARD {k}",
    "!ZRANK {k} {m}",
    "!ZREVRANK {k} {m}",
    "ZPOPMIN {k} [{i}]",
    "ZPOPMAX {k} [{i}]",
    "!ZMPOP {numkeys} ({k})+ (MIN|MAX|x) [COUNT {i}]",
    "ZUNION {numkeys} ({k})+ [WEIGHTS ({f})+|AGGREGATE (SUM|MIN|MAX|x)|WITHSCORES]*",
    "ZINTER {numkeys} ({k})+ [WEIGHTS ({f})+|AGGREGATE (SUM|MIN|MAX|x)|WITHSCORES]*",
    "ZDIFF {numkeys} ({k})+ [WITHSCORES]",
    "ZUNIONSTORE {k} {numkeys} ({k})+ [WEIGHTS ({f})+|AGGREGATE (SUM|MIN|MAX|x)]*",
    "ZINTERSTORE {k} {numkeys} ({k})+ [WEIGHTS ({f})+|AGGREGATE (SUM|MIN|MAX|x)]*",
    "ZDIFFSTORE {k} {numkeys} ({k})+",
    "ZINTERCARD {numkeys} ({k})+ [LIMIT {i}]",
    "!ZRANDMEMBER {k} [{i}] [WITHSCORES]",
    "!ZSCAN {k} 0 COUNT 1000 [MATCH {glob}]",
];

const ZSET_RANGES: &[&str] = &[
    "ZADD {k} ({score} {m})+",
    "!ZADD {lexk} (0 {m})+",
    "!ZADD {lexk} (0 {m})+",
    "!SET {lexk} {v}",
    "!DEL {lexk}",
    "ZCOUNT {k} {bound} {bound}",
    "!ZLEXCOUNT {lexk} {lex} {lex}",
    "ZRANGE {k} {i} {i} [REV|WITHSCORES|LIMIT {i} {i}]*",
    "ZRANGE {k} {bound} {bound} BYSCORE [REV|WITHSCORES|LIMIT {i} {i}]*",
    "!ZRANGE {lexk} {lex} {lex} BYLEX [REV|WITHSCORES|LIMIT {i} {i}]*",
    "ZRANGESTORE {k} {k} {i} {i} [REV|LIMIT {i} {i}]*",
    "ZRANGESTORE {k} {k} {bound} {bound} BYSCORE [REV|LIMIT {i} {i}]*",
    "!ZRANGESTORE {lexk} {lexk} {lex} {lex} BYLEX [REV|LIMIT {i} {i}]*",
    "ZREVRANGE {k} {i} {i} [WITHSCORES]",
    "ZRANGEBYSCORE {k} {bound} {bound} [WITHSCORES|LIMIT {i} {i}]*",
    "ZREVRANGEBYSCORE {k} {bound} {bound} [WITHSCORES|LIMIT {i} {i}]*",
    "!ZRANGEBYLEX {lexk} {lex} {lex} [LIMIT {i} {i}]",
    "!ZREVRANGEBYLEX {lexk} {lex} {lex} [LIMIT {i} {i}]",
    "ZREMRANGEBYRANK {k} {i} {i}",
    "ZREMRANGEBYSCORE {k} {bound} {bound}",
    "!ZREMRANGEBYLEX {lexk} {lex} {lex}",
];

const GEO: &[&str] = &[
    "GEOADD {k} [NX|XX|CH]* ({lon} {lat} {m})+",
    "GEOADD {k} (181|-181|abc) {lat} {m}",
    "GEODIST {k} {m} {m} [m|km|mi|ft|x]",
    "GEOHASH {k} [{m}]*",
    "GEOPOS {k} [{m}]*",
    "GEOSEARCH {k} (FROMMEMBER {m}|FROMLONLAT {lon} {lat}) (BYRADIUS {radius} {unit}|BYBOX {radius} {radius} {unit}) (ASC|DESC) [COUNT {n}|WITHDIST|WITHHASH|WITHCOORD]*",
    "GEOSEARCH {k} [FROMMEMBER {m}|FROMLONLAT {lon} {lat}|BYRADIUS {radius} {unit}|ASC]*",
    "GEOSEARCHSTORE {k} {k} (FROMMEMBER {m}|FROMLONLAT {lon} {lat}) BYRADIUS {radius} {unit} ASC [COUNT {n}|STOREDIST|WITHDIST]*",
    "GEORADIUS {k} {lon} {lat} {radius} {unit} (ASC|DESC) [COUNT {n}|WITHDIST|WITHHASH|WITHCOORD|STORE {k}]*",
    "GEORADIUSBYMEMBER {k} {m} {radius} {unit} (ASC|DESC) [COUNT {n}|WITHDIST|STOREDIST {k}]*",
];

const STREAM: &[&str] = &[
    "XADD {k} {id} ({m} {v})+",
    "XADD {k} {id} {m} {v} {m}",
    "XADD {k} [NOMKSTREAM|MAXLEN {i}|MAXLEN = {n}|MINID {id}|MINID = {id}]* {id} ({m} {v})+",
    "XLEN {k}",
    "XRANGE {k} {idfrom} {idto} [COUNT {i}]",
    "XREVRANGE {k} {idto} {idfrom} [COUNT {i}]",
    "XDEL {k} ({id})+",
    "XTRIM {k} (MAXLEN|MINID|x) [=] ({n}|{id})",
    "XTRIM {k} MAXLEN {n} LIMIT {i}",
    "!XREAD [COUNT {i}] STREAMS {k} {id}",
    "!XREAD [COUNT {i}] STREAMS {k} {k} {id} {id}",
    "!XREAD [COUNT {i}] STREAMS {k} {k} {id}",
    "XADD {k} 18446744073709551615-18446744073709551615 {m} {v}",
    "XSETID {k} {idabove} [ENTRIESADDED {n}|MAXDELETEDID {id}]*",
    "XINFO STREAM {k}",
    "XINFO STREAM {k} FULL [COUNT {i}]",
];

const STREAM_GROUPS: &[&str] = &[
    "XADD {k} {id} ({m} {v})+",
    "XGROUP CREATE {k} {g} ({id}|$) [MKSTREAM|ENTRIESREAD {i}]*",
    "XGROUP CREATE {k} {g} 0 MKSTREAM",
    "XGROUP SETID {k} {g} ({id}|$) [ENTRIESREAD {i}]",
    "XGROUP DESTROY {k} {g}",
    "XGROUP CREATECONSUMER {k} {g} {c}",
    "XGROUP DELCONSUMER {k} {g} {c}",
    "!XREADGROUP GROUP {g} {c} [COUNT {i}|NOACK]* STREAMS {k} (>|>|{id})",
    "!XREADGROUP GROUP {g} {c} [COUNT {i}|NOACK]* STREAMS {k} {k} (>|{id}) (>|{id})",
    "XACK {k} {g} ({id})+",
    "XDEL {k} ({id})+",
    "XPENDING {k} {g}",
    "XPENDING {k} {g} [IDLE 0|IDLE 999999999] {idfrom} {idto} {i} [{c}]",
    "XCLAIM {k} {g} {c} (0|999999999) ({id})+ [IDLE {n}|TIME 1000|RETRYCOUNT {i}|FORCE|JUSTID|LASTID {id}]*",
    "XAUTOCLAIM {k} {g} {c} (0|999999999) {idfrom} [COUNT {i}|JUSTID]*",
    "XINFO GROUPS {k}",
    "XINFO CONSUMERS {k} {g}",
    "XINFO STREAM {k}",
    "XLEN {k}",
];

const SORT: &[&str] = &[
    "SORT {k} [ALPHA|ASC|DESC|LIMIT {i} {i}]*",
    "SORT {k} ALPHA [ASC|DESC|LIMIT {i} {i}|GET #|GET (k*|k*->a|nosuch*|x)]*",
    "SORT {k} ALPHA STORE {k} [DESC|LIMIT {i} {i}]*",
    "SORT_RO {k} ALPHA [DESC|GET k*]*",
    "RPUSH {k} (1|2|3|4|5|10|2.5)+",
    "SADD {k} (1|2|3|4|5|10)+",
];

const CONNECTION: &[&str] = &[
    "PING [{v}]",
    "ECHO {v}",
    "SELECT (0|0|abc|-1|99999)",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH ({k})+",
    "UNWATCH",
    "SET {k} {v}",
    "GET {k}",
    "INCR {k}",
    "PUBLISH {v} {v}",
    "PUBSUB (NUMPAT|CHANNELS|NUMSUB {v}|nosuch)",
    "CLIENT GETNAME",
    "CLIENT SETNAME ({m}|b)",
    "QUORATE.NOSUCH",
];

/// The words that stand for `{name}`.
pub(crate) fn alphabet(name: &str) -> &'static [&'static str] {
    match name {
        "k" => &["k1", "k2", "k3", "k4", "k5", "{k1}6"],
        // All scores are 0 here: ranges by member mean something only among equal scores.
        "lexk" => &["lex1", "lex2"],
        "v" => &[
            "",
            "a",
            "b",
            "c",
            "abc",
            "ABC",
            "10",
            "-3",
            "1.5",
            "0",
            "hello world",
            "a\0\r\n\u{ff}",
            "9223372036854775807",
            "-9223372036854775808",
            " 1",
            "01",
            "3e2",
            "ohmytext",
            "mynewtext",
            LONG,
        ],
        "m" => &["a", "b", "c", "d", "e", "f", "1", "2", "3", "10", "", "aa", "ab", LONG],
        "i" => &["0", "1", "2", "3", "-1", "-2", "-3", "5", "10", "100", "-100"],
        "n" => &["0", "1", "2", "3", "5", "17"],
        "big" => &[
            "0",
            "1",
            "-1",
            "2",
            "3",
            "100",
            "9223372036854775807",
            "-9223372036854775808",
            "-9223372036854775807",
            "4611686018427387904",
            "32767",
            "32768",
            "2147483648",
            "9223372036854775808",
            "1.0",
        ],
        "f" => &[
            "0", "1", "-1", "2.5", "0.25", "-3.75", "10", "1e3", "-0", "3.0e-1x", "abc", "inf",
            "-inf", "nan", "", " 1", "0x10", "1024.5", "2", "3",
        ],
        "score" => &[
            "0", "1", "2", "3", "-1", "2.5", "0.25", "-3.75", "1e3", "inf", "-inf", "+inf", "nan",
            "abc", "1", "2", "3", "4",
        ],
        "bound" => &[
            "-inf", "+inf", "(1", "1", "2", "3", "(3", "2.5", "(2.5", "-1", "(-inf", "(inf", "abc",
            "(", "1000",
        ],
        "lex" => &["-", "+", "[a", "(a", "[b", "(b", "[c", "[aa", "(", "[", "a", "", "[1"],
        "numkeys" => &["1", "1", "2", "2", "3", "0", "-1", "abc"],
        "glob" => &["*", "k*", "k?", "[a-c]*", "k[12]", "*[^1]", "a", "\\k1", "", "k1", "??"],
        "bit" => &["0", "1", "2", "7", "8", "9", "15", "23", "100"],
        "ftype" => &["u1", "u8", "i8", "u4", "i5", "u16", "i64", "u63", "u64", "i65", "x8", "i0"],
        "foff" => &["0", "1", "7", "8", "#0", "#1", "#2", "100", "-1", "#-1", "abc"],
        "id" => &[
            "0-1", "0-2", "1-1", "1-2", "1-3", "2-0", "2-1", "3-1", "5", "7-1", "9-9", "1-*",
            "3-*", "0", "0-0", "abc",
        ],
        // Not below any id that was deleted: 7.0 lets XSETID go back, which makes two streams.
        "idabove" => &["9-9", "20-1", "20-0"],
        "idfrom" => &["-", "-", "0", "1", "1-2", "(1-1", "(2", "2-1", "+", "x"],
        "idto" => &["+", "+", "5", "2", "1-2", "(2-1", "9", "-", "x"],
        "g" => &["g1", "g1", "g2"],
        "c" => &["c1", "c2", "c3"],
        "lon" => &["0", "13.361389", "15.087269", "-122.25", "2.5", "179.5"],
        "lat" => &["0", "38.115556", "37.502669", "45.5", "-60.25", "85", "86"],
        "radius" => &["0", "1", "100", "500", "5000", "-1"],
        "unit" => &["m", "km", "km", "mi", "ft"],
        // Deadlines lie years ahead and far apart, so that no clock decides between them.
        "far" => &["200000000", "300000000", "400000000"],
        "farms" => &["220000000000", "330000000000", "440000000000"],
        "at" => &["5000000000", "6000000000", "7000000000"],
        "atms" => &["5500000000000", "6500000000000", "7500000000000"],
        other => panic!("the grammar has no alphabet {other}"),
    }
}

/// Too long for the compact encodings.
const LONG: &str = "a-value-that-is-longer-than-what-the-compact-encodings-of-redis-hold-inline";

/// What replaces an argument to make it bad.
pub(crate) const ODD_WORDS: &[&str] = &[
    "",
    "abc",
    "-1",
    "0",
    "1.5",
    "nan",
    "(1",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "#",
    "$x",
    "k1",
];
