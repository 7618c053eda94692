//! When two replies count as equal.
//!
//! They must be equal byte for byte, except where Redis promises less than its bytes say: orders
//! of hashes and sets, random choices, clocks; and where the installed Redis is older than the
//! one we follow. Every exception is listed here.

use super::generate::Words;
use crate::common::Value;

/// How a command's replies are compared.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    Exact,
    /// In groups of so many elements, in any order.
    Unordered(usize),
    /// A cursor, then elements in groups of so many, in any order.
    Scan(usize),
    /// `Scan` of pairs, and then `Doubles`.
    ScanDoubles,
    /// Only types and lengths: a random choice.
    Shape,
    /// Numbers may differ by so much: they were read off clocks.
    Near(i64),
    /// The time since an entry was delivered is not compared.
    Pending,
    /// Fields that tell times, or how Redis is built, are not compared, nor consumers without
    /// pending entries: 7.2 creates them when they are named, 7.0 when they get something.
    Information,
    /// Words end at a NUL: Redis compares them with strcoll, which knows no other end.
    CString,
    /// 7.2 checks all arguments even if the key is missing, and then we may refuse what 7.0 takes.
    Stricter,
    /// Doubles are equal as numbers: 7.0 prints 17 digits, later releases as few as possible.
    Doubles,
    /// The text of an error changed.
    Reworded,
    /// Encodings that changed between the two versions are the same.
    Encoding,
    /// By the rules of the queued commands.
    Transaction(Vec<Rule>),
}

/// How far apart two reads of the clock may be, in seconds.
const CLOCK_S: i64 = 600;

/// Numbers above are times of this century, in milliseconds.
const TIMES_MS_MIN: i64 = 1_000_000_000_000;

/// The rule of a command outside of a transaction.
pub(crate) fn rule(words: &Words) -> Rule {
    let word = |at: usize| {
        words.get(at).map(|w| String::from_utf8_lossy(w).to_uppercase()).unwrap_or_default()
    };
    match word(0).as_str() {
        // Redis shows a subcommand that it does not know up to its first NUL.
        "CLIENT" | "OBJECT" | "PUBSUB" | "XGROUP" | "XINFO" if word(1).contains('\0') => {
            Rule::Reworded
        }
        "HGETALL" => Rule::Unordered(2),
        "HKEYS" | "HVALS" | "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "KEYS" => {
            Rule::Unordered(1)
        }
        "SCAN" | "SSCAN" => Rule::Scan(1),
        "HSCAN" => Rule::Scan(2),
        "ZSCAN" => Rule::ScanDoubles,
        "HRANDFIELD" | "SRANDMEMBER" | "ZRANDMEMBER" | "RANDOMKEY" => Rule::Shape,
        // Equal deadlines are near: EXPIRE counts from the moment at which a server executes it.
        "TTL" | "EXPIRETIME" => Rule::Near(CLOCK_S),
        "PTTL" | "PEXPIRETIME" => Rule::Near(CLOCK_S * 1000),
        // SPOP with a count takes all members in these sequences.
        "SPOP" => Rule::Unordered(1),
        "XPENDING" => Rule::Pending,
        "BITCOUNT" | "BITPOS" => Rule::Stricter,
        "XREAD" | "XREADGROUP" => Rule::Reworded,
        // A consumer that 7.0 has not created yet, see `Information`.
        "XGROUP" if word(1) == "CREATECONSUMER" => Rule::Shape,
        "SORT" | "SORT_RO" => Rule::CString,
        // The least count, whose absolute value is no number, became an error.
        "LREM" | "LPOS" => Rule::Stricter,
        name if name.starts_with('Z') || name.starts_with("BZ") => Rule::Doubles,
        "XINFO" => Rule::Information,
        "OBJECT" if word(1) == "ENCODING" => Rule::Encoding,
        // Redis shares the objects of small numbers, depending on how they came to be.
        "OBJECT" if word(1) == "REFCOUNT" => Rule::Shape,
        _ => Rule::Exact,
    }
}

/// True if the replies count as equal.
pub(crate) fn equal(rule: &Rule, ours: &Value, theirs: &Value) -> bool {
    if ours == theirs {
        return true;
    }
    match rule {
        Rule::Near(distance) => match (integer(ours), integer(theirs)) {
            // Below zero are Redis' words for "no key" and "no deadline".
            (Some(a), Some(b)) => a >= 0 && b >= 0 && a.abs_diff(b) <= distance.unsigned_abs(),
            _ => false,
        },
        Rule::Transaction(rules) => match (ours, theirs) {
            (Value::Many(b'*', Some(a)), Value::Many(b'*', Some(b))) => {
                a.len() == b.len()
                    && a.len() == rules.len()
                    && rules.iter().zip(a.iter().zip(b)).all(|(rule, (a, b))| equal(rule, a, b))
            }
            _ => false,
        },
        Rule::ScanDoubles => {
            let scanned = |value: &Value| canonical(&Rule::Scan(2), value.clone());
            equal(&Rule::Doubles, &scanned(ours), &scanned(theirs))
        }
        Rule::Stricter => ours.is_error() && theirs.items().is_empty(),
        Rule::Doubles => match (ours, theirs) {
            (Value::Many(a, Some(ours)), Value::Many(b, Some(theirs))) => {
                let equal = |(a, b)| equal(rule, a, b);
                a == b && ours.len() == theirs.len() && ours.iter().zip(theirs).all(equal)
            }
            _ => double(ours).is_some_and(|a| Some(a) == double(theirs)),
        },
        Rule::Reworded => ours.is_error() && theirs.is_error(),
        _ => canonical(rule, ours.clone()) == canonical(rule, theirs.clone()),
    }
}

fn double(value: &Value) -> Option<f64> {
    value.text().parse().ok()
}

fn integer(value: &Value) -> Option<i64> {
    matches!(value, Value::Line(b':', _)).then(|| value.number())?
}

/// What is left of a reply once its rule has made equal what counts as equal.
fn canonical(rule: &Rule, value: Value) -> Value {
    match rule {
        Rule::Unordered(group) => sorted(value, *group),
        Rule::Scan(group) => match value {
            Value::Many(kind, Some(mut items)) if items.len() == 2 => {
                let last = items.pop().expect("there are two");
                items.push(sorted(last, *group));
                Value::Many(kind, Some(items))
            }
            other => other,
        },
        Rule::Shape => shape(value),
        Rule::Pending => match value {
            Value::Many(kind, Some(items)) => {
                Value::Many(kind, Some(items.into_iter().map(without_idle_time).collect()))
            }
            other => other,
        },
        Rule::Information => information(value),
        Rule::CString => c_strings(value),
        Rule::Encoding => match value.bytes() {
            // 7.2 keeps short lists and sets in listpacks; 7.0 knows only quicklists and tables.
            // Redis' SORT turns sorted sets into skiplists, and its INCRBYFLOAT leaves integers as
            // strings; ours do not.
            b"quicklist" | b"hashtable" | b"listpack" | b"skiplist" | b"int" | b"embstr" => {
                Value::Line(b'+', b"(changed)".to_vec())
            }
            _ => value,
        },
        Rule::Exact
        | Rule::Near(_)
        | Rule::ScanDoubles
        | Rule::Stricter
        | Rule::Reworded
        | Rule::Doubles
        | Rule::Transaction(_) => value,
    }
}

fn sorted(value: Value, group: usize) -> Value {
    match value {
        Value::Many(kind, Some(items)) => {
            let mut groups: Vec<Vec<Value>> = items.chunks(group).map(<[_]>::to_vec).collect();
            groups.sort();
            Value::Many(kind, Some(groups.concat()))
        }
        other => other,
    }
}

fn shape(value: Value) -> Value {
    match value {
        Value::Many(kind, Some(items)) => {
            Value::Many(kind, Some(items.into_iter().map(shape).collect()))
        }
        Value::Blob(kind, Some(_)) => Value::Blob(kind, Some(Vec::new())),
        Value::Line(kind, _) if kind != b'-' => Value::Line(kind, Vec::new()),
        other => other,
    }
}

/// An item of the long form of XPENDING: id, consumer, idle time, deliveries.
fn without_idle_time(value: Value) -> Value {
    match value {
        Value::Many(kind, Some(mut items)) if items.len() == 4 => {
            items[2] = Value::Line(b':', b"(time)".to_vec());
            Value::Many(kind, Some(items))
        }
        other => other,
    }
}

fn c_strings(value: Value) -> Value {
    match value {
        Value::Blob(kind, Some(mut bytes)) => {
            let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
            bytes.truncate(end);
            Value::Blob(kind, Some(bytes))
        }
        Value::Many(kind, Some(items)) => {
            Value::Many(kind, Some(items.into_iter().map(c_strings).collect()))
        }
        other => other,
    }
}

fn information(value: Value) -> Value {
    const IGNORED: &[&[u8]] = &[
        b"idle",
        b"inactive",
        b"seen-time",
        b"active-time",
        b"radix-tree-keys",
        b"radix-tree-nodes",
        // Redis corrected how far groups have read several times after 7.0; we follow the last.
        b"entries-read",
        b"lag",
    ];
    match value {
        Value::Many(kind, Some(items)) => {
            let mut kept = Vec::new();
            let mut items = items.into_iter();
            while let Some(item) = items.next() {
                let counted = item.bytes() == b"consumers"
                    && items.as_slice().first().and_then(integer).is_some();
                if counted || IGNORED.contains(&item.bytes()) {
                    items.next();
                } else if !is_idle_consumer(&item) {
                    kept.push(information(item));
                }
            }
            // Lengths differ with what was left out, and say nothing more.
            Value::Many(kind, Some(kept))
        }
        Value::Line(b':', _) if value.number() > Some(TIMES_MS_MIN) => {
            Value::Line(b':', b"(time)".to_vec())
        }
        other => other,
    }
}

/// A consumer without pending entries, of XINFO CONSUMERS or of XINFO STREAM FULL.
fn is_idle_consumer(value: &Value) -> bool {
    let field = |name: &[u8]| {
        let at = value.items().chunks(2).find(|pair| pair[0].bytes() == name)?;
        at.get(1).and_then(integer)
    };
    let consumer = field(b"idle").is_some() || field(b"seen-time").is_some();
    consumer && (field(b"pending") == Some(0) || field(b"pel-count") == Some(0))
}
