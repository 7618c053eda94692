//! Keeps the list of commands in `docs/compatibility.md` equal to the tables that the node
//! dispatches by, which are also what `COMMAND LIST` answers from. To write the list anew:
//!
//! ```text
//! QUORATE_BLESS=1 cargo test -p quorate-node compatibility
//! ```

use crate::dispatch::Commands;
use std::collections::BTreeSet;
use std::path::Path;

const BEGIN: &str = "<!-- commands:begin -->\n";
const END: &str = "<!-- commands:end -->";

/// The commands of Redis 7.2 by group, without those of Sentinel and those that only Redis
/// servers send each other.
const REDIS: &[(&str, &str)] = &[
    ("bitmap", "bitcount bitfield bitfield_ro bitop bitpos getbit setbit"),
    ("cluster", "asking cluster readonly readwrite"),
    ("connection", "auth client echo hello ping quit reset select"),
    (
        "generic",
        "copy del dump exists expire expireat expiretime keys migrate move object persist pexpire \
         pexpireat pexpiretime pttl randomkey rename renamenx restore scan sort sort_ro touch ttl \
         type unlink wait waitaof",
    ),
    (
        "geo",
        "geoadd geodist geohash geopos georadius georadius_ro georadiusbymember \
         georadiusbymember_ro geosearch geosearchstore",
    ),
    (
        "hash",
        "hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan \
         hset hsetnx hstrlen hvals",
    ),
    ("hyperloglog", "pfadd pfcount pfdebug pfmerge pfselftest"),
    (
        "list",
        "blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos lpush \
         lpushx lrange lrem lset ltrim rpop rpoplpush rpush rpushx",
    ),
    (
        "pubsub",
        "psubscribe publish pubsub punsubscribe spublish ssubscribe subscribe sunsubscribe \
         unsubscribe",
    ),
    ("scripting", "eval eval_ro evalsha evalsha_ro fcall fcall_ro function script"),
    (
        "server",
        "acl bgrewriteaof bgsave command config dbsize debug failover flushall flushdb info \
         lastsave latency lolwut memory module monitor replicaof role save shutdown slaveof \
         slowlog swapdb time",
    ),
    (
        "set",
        "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember \
         smove spop srandmember srem sscan sunion sunionstore",
    ),
    (
        "sorted-set",
        "bzmpop bzpopmax bzpopmin zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard \
         zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex \
         zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore \
         zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore",
    ),
    (
        "stream",
        "xack xadd xautoclaim xclaim xdel xgroup xinfo xlen xpending xrange xread xreadgroup \
         xrevrange xsetid xtrim",
    ),
    (
        "string",
        "append decr decrby get getdel getex getrange getset incr incrby incrbyfloat lcs mget \
         mset msetnx psetex set setex setnx setrange strlen substr",
    ),
    ("transactions", "discard exec multi unwatch watch"),
];

/// The table of the documentation.
fn table() -> String {
    let known: BTreeSet<&str> =
        Commands::new().all().iter().map(|(_, command)| command.name()).collect();
    let mut documented = BTreeSet::new();
    let mut out = "| group | here | not here |\n|---|---|---|\n".to_owned();
    for (group, names) in REDIS {
        let names: BTreeSet<&str> = names.split(' ').collect();
        let (here, missing): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|name| known.contains(*name));
        documented.extend(here.iter().copied());
        out += &format!("| {group} | {} | {} |\n", listed(&here), listed(&missing));
    }
    let others: Vec<&str> = known.difference(&documented).copied().collect();
    if !others.is_empty() {
        out += &format!("| not in Redis 7.2 | {} | |\n", listed(&others));
    }
    out
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_documented_commands_are_those_of_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (documented, after) = rest.split_once(END).unwrap();
    let table = table();
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(
            documented == table,
            "docs/compatibility.md lists other commands than the tables have:\n\n{table}\n\
             QUORATE_BLESS=1 cargo test -p quorate-node compatibility   writes it anew"
        );
    }
}
