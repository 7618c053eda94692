//! Scripts on Quorate and on a real Redis: replies and what they leave must be the same.
//!
//! `QUORATE_SEED` is the first seed of the random scripts (drawn afresh).

mod common;

use common::{Client, Node, Redis, Value, fresh_seed, number_from_env};
use quorate_base::Prng;
use std::fmt::Write as _;
use std::path::Path;
use tempfile::TempDir;

/// Random scripts of one run.
const SCRIPTS: u64 = 600;

const KEYS: [&str; 4] = ["string", "list", "hash", "zset"];

/// What a script is made of; `K` stands for a key and `N` for a small number.
const STATEMENTS: &[&str] = &[
    "call('SET', K, N)",
    "call('SET', K, 'v' .. N)",
    "call('GET', K)",
    "call('INCRBY', K, N)",
    "call('APPEND', K, N)",
    "call('DEL', K)",
    "call('EXISTS', K)",
    "call('TYPE', K)",
    "call('RENAME', K, K)",
    "call('PERSIST', K)",
    "call('RPUSH', K, N, N)",
    "call('LPOP', K)",
    "call('LRANGE', K, 0, -1)",
    "call('HSET', K, 'f' .. N, N)",
    "call('HGET', K, 'f' .. N)",
    "call('HDEL', K, 'f' .. N)",
    "call('HLEN', K)",
    "call('ZADD', K, N, 'm' .. N)",
    "call('ZINCRBY', K, N, 'm' .. N)",
    "call('ZRANGE', K, 0, -1, 'WITHSCORES')",
    "call('ZSCORE', K, 'm' .. N)",
    "call('SADD', K, N)",
    "call('SCARD', K)",
    "call('NOSUCH', K)",
    "call('GET')",
    "redis.setresp(3)",
    "redis.setresp(2)",
    "put(cjson.encode({N, K, {a = N}}))",
    "put(cmsgpack.unpack(cmsgpack.pack({N, K})))",
    "put({struct.unpack('>I2s', struct.pack('>I2s', N, K))})",
    "put(bit.band(N, N))",
    "put(string.format('%5.1f|%s', N / 3, K))",
    "put((K):gsub('[aeiou]', '%0%0'))",
    "put({(K):find('(.)t(.)')})",
    "put(tonumber(N .. 'e1'))",
    "if N > 5 then error('stopped at ' .. N) end",
    "if N > 5 then error({err = 'MINE stopped at ' .. N}) end",
    "if N > 5 then return redis.call('LPUSH', K, N) end",
    "local none = nil; if N > 7 then put(none.field) end",
];

/// A script of random statements; what they give is collected and returned.
fn script(seed: u64) -> String {
    let mut prng = Prng::new(seed);
    let strict = prng.below(2) == 0;
    let call = if strict { "redis.call" } else { "redis.pcall" };
    let mut text = format!(
        "local all = {{}}\nlocal function put(value) all[#all + 1] = value == nil and 'nil' or \
         value end\nlocal function call(...) put({call}(...)) end\n"
    );
    for _ in 0..1 + prng.below(8) {
        let statement = STATEMENTS[prng.below(STATEMENTS.len() as u64) as usize];
        let mut line = String::new();
        for letter in statement.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let (word, rest) = match letter.find(|c: char| !c.is_ascii_alphanumeric()) {
                Some(at) => letter.split_at(at),
                None => (letter, ""),
            };
            match word {
                "K" => {
                    let key = 1 + prng.below(KEYS.len() as u64);
                    write!(line, "KEYS[{key}]{rest}").expect("a string takes everything");
                }
                "N" => {
                    let number = prng.below(10);
                    write!(line, "{number}{rest}").expect("a string takes everything");
                }
                _ => line += letter,
            }
        }
        text += &line;
        text.push('\n');
    }
    text + "return all"
}

fn eval(client: &mut Client, script: &str) -> Value {
    let mut args = vec!["EVAL", script, "4"];
    args.extend(KEYS);
    args.extend(["first", "second"]);
    client.call(&args)
}

/// What the keys of the scripts hold.
fn state(client: &mut Client) -> Vec<Value> {
    let mut held = Vec::new();
    for key in KEYS {
        let kind = client.call(&["TYPE", key]);
        held.push(match kind.text().as_str() {
            "string" => client.call(&["GET", key]),
            "list" => client.call(&["LRANGE", key, "0", "-1"]),
            "zset" => client.call(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            "set" => client.call(&["SORT", key]),
            "hash" => {
                let reply = client.call(&["HGETALL", key]);
                let mut fields: Vec<_> = reply.items().chunks(2).map(<[Value]>::to_vec).collect();
                fields.sort();
                Value::Many(b'*', Some(fields.concat()))
            }
            _ => kind,
        });
    }
    held
}

#[test]
fn scripts_do_what_they_do_in_redis() {
    let Some(redis) = Redis::start() else {
        println!("SKIPPED: redis-server is not installed (apt-get install redis-server)");
        return;
    };
    let data = TempDir::new().expect("a temporary directory");
    let node = Node::start(data.path(), &["--workers", "3"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/scripts.lua");
    let written = std::fs::read_to_string(path).expect("the scripts are there");
    for resp3 in [false, true] {
        let (mut ours, mut theirs) = (node.client(), redis.client());
        for client in [&mut ours, &mut theirs] {
            if resp3 {
                client.line("HELLO 3");
            }
        }
        for script in written.split("\n--\n") {
            for client in [&mut ours, &mut theirs] {
                client.line("FLUSHALL");
            }
            let expected = eval(&mut theirs, script);
            assert_eq!(eval(&mut ours, script), expected, "{script}");
            assert_eq!(state(&mut ours), state(&mut theirs), "what is left by {script}");
        }
    }
}

#[test]
fn random_scripts_do_what_they_do_in_redis_and_a_crash_keeps_it() {
    let Some(redis) = Redis::start() else {
        println!("SKIPPED: redis-server is not installed (apt-get install redis-server)");
        return;
    };
    let data = TempDir::new().expect("a temporary directory");
    let mut node = Node::start(data.path(), &["--workers", "3"]);
    let first = number_from_env("QUORATE_SEED").unwrap_or_else(fresh_seed);
    let (mut ours, mut theirs) = (node.client(), redis.client());
    for seed in (0..SCRIPTS).map(|n| first.wrapping_add(n)) {
        let script = script(seed);
        let expected = eval(&mut theirs, &script);
        assert_eq!(eval(&mut ours, &script), expected, "QUORATE_SEED={seed}: {script}");
        assert_eq!(state(&mut ours), state(&mut theirs), "QUORATE_SEED={seed}: {script}");
    }
    let loaded = ours.call(&["SCRIPT", "LOAD", "return 1"]).text();
    node.kill();
    let node = node.restart();
    let mut ours = node.client();
    assert_eq!(state(&mut ours), state(&mut theirs), "after a crash, QUORATE_SEED={first}");
    let forgotten = ours.call(&["EVALSHA", &loaded, "0"]);
    assert!(forgotten.text().starts_with("NOSCRIPT"), "{forgotten:?}");
}
