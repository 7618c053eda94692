//! What commands on one key of one type do and answer: a small Redis for the mixed load.
//!
//! It knows only what the load sends, on keys of the right type, and has integers where Redis has
//! floating-point numbers.

use super::reply::Reply;
use super::wire::Command;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The value of a key. Collections are never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    List(VecDeque<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Sorted(BTreeMap<Vec<u8>, i64>),
}

/// A key that may be absent.
pub(super) type Slot = Option<Value>;

/// Executes a command whose key is this; `None` for a command that is not known.
pub(super) fn execute(slot: &mut Slot, command: &Command) -> Option<Reply> {
    let name = String::from_utf8_lossy(&command[0]).to_uppercase();
    let args: Vec<&[u8]> = command[2..].iter().map(Vec::as_slice).collect();
    let reply = string(slot, &name, &args)
        .or_else(|| hash(slot, &name, &args))
        .or_else(|| list(slot, &name, &args))
        .or_else(|| set(slot, &name, &args))
        .or_else(|| sorted(slot, &name, &args))?;
    let is_empty = match slot {
        Some(Value::Hash(fields)) => fields.is_empty(),
        Some(Value::List(elements)) => elements.is_empty(),
        Some(Value::Set(members)) => members.is_empty(),
        Some(Value::Sorted(scores)) => scores.is_empty(),
        None | Some(Value::String(_)) => false,
    };
    if is_empty {
        *slot = None;
    }
    Some(reply)
}

/// Sorts what a reply has in no particular order: members, or the pairs of a hash.
pub(super) fn normalize(command: &Command, reply: &mut Reply) {
    let Reply::Array(replies) = reply else { return };
    match &command[0][..] {
        b"SMEMBERS" | b"HKEYS" | b"HVALS" => replies.sort(),
        b"HGETALL" => {
            let mut pairs: Vec<_> = replies.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort();
            *replies = pairs.concat();
        }
        _ => {}
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the load sends text")
}

fn int(bytes: &[u8]) -> i64 {
    text(bytes).parse().expect("the load sends numbers here")
}

fn bulk_or_null<B: AsRef<[u8]>>(bytes: Option<B>) -> Reply {
    bytes.map_or(Reply::Null, Reply::bulk)
}

fn bulks<B: AsRef<[u8]>>(all: impl IntoIterator<Item = B>) -> Reply {
    Reply::Array(all.into_iter().map(Reply::bulk).collect())
}

fn size(len: usize) -> Reply {
    Reply::Int(len as i64)
}

/// The part of `len` elements that Redis means by these two, which may count from the end.
fn range(len: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
    let from_start = |at: i64| if at < 0 { at + len as i64 } else { at };
    let start = from_start(start).max(0) as usize;
    let stop = (from_start(stop) + 1).clamp(0, len as i64) as usize;
    start.min(stop)..stop
}

/// The value of this kind, made if the key is absent.
macro_rules! value_mut {
    ($slot:expr, $kind:ident) => {
        match $slot.get_or_insert_with(|| Value::$kind(Default::default())) {
            Value::$kind(value) => value,
            _ => return Some(wrong_type()),
        }
    };
}

fn wrong_type() -> Reply {
    Reply::Error("WRONGTYPE Operation against a key holding the wrong kind of value".into())
}

fn string(slot: &mut Slot, name: &str, args: &[&[u8]]) -> Option<Reply> {
    let old = match slot {
        Some(Value::String(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let mut put = |bytes: Vec<u8>| *slot = Some(Value::String(bytes));
    Some(match (name, args) {
        ("GET", []) => bulk_or_null(old),
        ("STRLEN", []) => size(old.unwrap_or_default().len()),
        ("SET", [value]) => {
            put(value.to_vec());
            Reply::ok()
        }
        ("SETNX", [value]) => {
            let absent = old.is_none();
            if absent {
                put(value.to_vec());
            }
            Reply::Int(absent.into())
        }
        ("GETSET", [value]) => {
            put(value.to_vec());
            bulk_or_null(old)
        }
        ("APPEND", [value]) => {
            let all = [&old.unwrap_or_default(), *value].concat();
            let len = all.len();
            put(all);
            size(len)
        }
        ("GETRANGE", [start, stop]) => {
            let (old, start, stop) = (old.unwrap_or_default(), int(start), int(stop));
            // Unlike a list's, a string's range that ends before its beginning ends at its first byte.
            let stop = if stop < 0 { stop.max(-(old.len() as i64)) } else { stop };
            Reply::bulk(&old[range(old.len(), start, stop)])
        }
        ("SETRANGE", [at, value]) => {
            let (at, mut bytes) = (int(at) as usize, old.unwrap_or_default());
            bytes.resize(bytes.len().max(at + value.len()), 0);
            bytes[at..at + value.len()].copy_from_slice(value);
            let len = bytes.len();
            put(bytes);
            size(len)
        }
        ("INCR" | "DECR" | "INCRBY", _) => {
            let by = match (name, args) {
                ("INCRBY", [by]) => int(by),
                ("DECR", _) => -1,
                _ => 1,
            };
            let sum = old.map_or(0, |old| int(&old)) + by;
            put(sum.to_string().into_bytes());
            Reply::Int(sum)
        }
        ("DEL", []) => Reply::Int(slot.take().is_some().into()),
        ("EXISTS", []) => Reply::Int(slot.is_some().into()),
        ("TYPE", []) => Reply::Simple(
            match slot {
                None => "none",
                Some(Value::String(_)) => "string",
                Some(Value::Hash(_)) => "hash",
                Some(Value::List(_)) => "list",
                Some(Value::Set(_)) => "set",
                Some(Value::Sorted(_)) => "zset",
            }
            .into(),
        ),
        _ => return None,
    })
}

fn hash(slot: &mut Slot, name: &str, args: &[&[u8]]) -> Option<Reply> {
    if !name.starts_with('H') {
        return None;
    }
    let fields = value_mut!(slot, Hash);
    Some(match (name, args) {
        ("HSET", [field, value]) => {
            Reply::Int(fields.insert(field.to_vec(), value.to_vec()).is_none().into())
        }
        ("HGET", [field]) => bulk_or_null(fields.get(*field)),
        ("HDEL", [field]) => Reply::Int(fields.remove(*field).is_some().into()),
        ("HEXISTS", [field]) => Reply::Int(fields.contains_key(*field).into()),
        ("HLEN", []) => size(fields.len()),
        ("HGETALL", []) => bulks(fields.iter().flat_map(|(field, value)| [field, value])),
        ("HKEYS", []) => bulks(fields.keys()),
        ("HINCRBY", [field, by]) => {
            let sum = fields.get(*field).map_or(0, |old| int(old)) + int(by);
            fields.insert(field.to_vec(), sum.to_string().into_bytes());
            Reply::Int(sum)
        }
        _ => return None,
    })
}

fn list(slot: &mut Slot, name: &str, args: &[&[u8]]) -> Option<Reply> {
    if !(name.starts_with('L') || name.starts_with('R')) {
        return None;
    }
    let elements = value_mut!(slot, List);
    Some(match (name, args) {
        ("LPUSH", values) => {
            values.iter().for_each(|value| elements.push_front(value.to_vec()));
            size(elements.len())
        }
        ("RPUSH", values) => {
            values.iter().for_each(|value| elements.push_back(value.to_vec()));
            size(elements.len())
        }
        ("LPOP", []) => bulk_or_null(elements.pop_front()),
        ("RPOP", []) => bulk_or_null(elements.pop_back()),
        ("LLEN", []) => size(elements.len()),
        ("LINDEX", [at]) => {
            let at = int(at);
            let at = if at < 0 { at + elements.len() as i64 } else { at };
            bulk_or_null(usize::try_from(at).ok().and_then(|at| elements.get(at)))
        }
        ("LRANGE", [start, stop]) => {
            bulks(elements.range(range(elements.len(), int(start), int(stop))))
        }
        ("LTRIM", [start, stop]) => {
            let kept = range(elements.len(), int(start), int(stop));
            *elements = elements.range(kept).cloned().collect();
            Reply::ok()
        }
        _ => return None,
    })
}

fn set(slot: &mut Slot, name: &str, args: &[&[u8]]) -> Option<Reply> {
    if !name.starts_with('S') {
        return None;
    }
    let members = value_mut!(slot, Set);
    Some(match (name, args) {
        ("SADD", added) => {
            size(added.iter().filter(|member| members.insert(member.to_vec())).count())
        }
        ("SREM", [member]) => Reply::Int(members.remove(*member).into()),
        ("SISMEMBER", [member]) => Reply::Int(members.contains(*member).into()),
        ("SCARD", []) => size(members.len()),
        ("SMEMBERS", []) => bulks(members.iter()),
        _ => return None,
    })
}

fn sorted(slot: &mut Slot, name: &str, args: &[&[u8]]) -> Option<Reply> {
    if !name.starts_with('Z') {
        return None;
    }
    let scores = value_mut!(slot, Sorted);
    let ordered = |scores: &BTreeMap<Vec<u8>, i64>| {
        let mut all: Vec<_> =
            scores.iter().map(|(member, &score)| (score, member.clone())).collect();
        all.sort();
        all
    };
    let shown = |score: i64| score.to_string().into_bytes();
    Some(match (name, args) {
        ("ZADD", [score, member]) => {
            Reply::Int(scores.insert(member.to_vec(), int(score)).is_none().into())
        }
        ("ZINCRBY", [by, member]) => {
            let score = scores.entry(member.to_vec()).or_insert(0);
            *score += int(by);
            Reply::Bulk(shown(*score))
        }
        ("ZREM", [member]) => Reply::Int(scores.remove(*member).is_some().into()),
        ("ZSCORE", [member]) => bulk_or_null(scores.get(*member).map(|&score| shown(score))),
        ("ZCARD", []) => size(scores.len()),
        ("ZRANK", [member]) => {
            ordered(scores).iter().position(|(_, other)| other == member).map_or(Reply::Null, size)
        }
        ("ZRANGE", [start, stop, _with_scores]) => {
            let all = ordered(scores);
            let chosen = &all[range(all.len(), int(start), int(stop))];
            bulks(chosen.iter().flat_map(|(score, member)| [member.clone(), shown(*score)]))
        }
        ("ZPOPMIN", []) => match ordered(scores).into_iter().next() {
            Some((score, member)) => {
                scores.remove(&member);
                bulks([member, shown(score)])
            }
            None => Reply::Array(Vec::new()),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes lines one after the other on one key, and gives the last reply.
    fn run(lines: &[&str]) -> String {
        let mut slot = None;
        let mut reply = Reply::Null;
        for line in lines {
            let command = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            reply = execute(&mut slot, &command).unwrap();
        }
        format!("{reply:?}")
    }

    #[test]
    fn ranges_are_cut_as_redis_cuts_them() {
        for (range, expected) in [("-4 -4", "v"), ("-4 -1", "v7"), ("1 0", ""), ("0 9", "v7")] {
            let reply = run(&["SET k v7", &format!("GETRANGE k {range}")]);
            assert_eq!(reply, format!("\"{expected}\""), "{range}");
        }
        assert_eq!(run(&["GETRANGE k -4 -4"]), "\"\"");
        assert_eq!(run(&["RPUSH k a b", "LRANGE k -4 -4"]), "[]");
        assert_eq!(run(&["RPUSH k a b", "LRANGE k -4 -2"]), "[\"a\"]");
        assert_eq!(run(&["RPUSH k a b c", "LTRIM k 1 9", "LRANGE k 0 -1"]), "[\"b\", \"c\"]");
    }

    #[test]
    fn an_empty_collection_is_no_key() {
        for lines in [
            ["HSET k f v", "HDEL k f"],
            ["RPUSH k a", "LPOP k"],
            ["SADD k a", "SREM k a"],
            ["ZADD k 1 a", "ZPOPMIN k"],
            ["HGET k f", "LLEN k"],
        ] {
            assert_eq!(run(&[lines[0], lines[1], "TYPE k"]), "+none", "{lines:?}");
        }
    }
}
