//! What a source file uses of the outside.

use super::tokens::{Token, tokens};
use std::path::{Path, PathBuf};

/// What the sources of a crate may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Values and functions of them: see [`PURE`].
    Pure,
    /// The same for the simulator, which also catches the failed assertions of its nodes, and whose
    /// tables a node and the world around it share.
    Simulated,
    /// Files as well, and locks, because readers and a writer share them; but no thread of its
    /// own, no clock, no socket.
    FilesOnly,
    /// No rule.
    Anything,
}

/// What pure crates may use of `std`, `core` and `alloc`: prefixes of paths. Of I/O only the
/// trait that lets `write!` fill a vector of bytes.
const PURE: &[&str] = &[
    "any",
    "array",
    "ascii",
    "borrow",
    "boxed",
    "cell",
    "char",
    "cmp",
    "collections",
    "convert",
    "error",
    "f64",
    "fmt",
    "hash",
    "hint",
    "io::Write",
    "iter",
    "marker",
    "mem",
    "num",
    "ops",
    "option",
    "rc",
    "result",
    "slice",
    "str",
    "string",
    "sync::Arc",
    "vec",
];

/// What the simulator may use beside [`PURE`].
const SIMULATED: &[&str] =
    &["panic::AssertUnwindSafe", "panic::catch_unwind", "sync::Mutex", "sync::MutexGuard"];

/// What a crate that owns files must leave alone.
const NOT_FOR_FILES: &[&str] = &["env", "net", "process", "thread", "time"];

/// Macros that write to the terminal or keep state in a thread.
const MACROS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println", "thread_local"];

/// Names that stand for randomness wherever they come from. A `HashMap` with the default hasher
/// is for look-ups; see [`hash_orders`].
const NAMES: &[&str] = &["RandomState", "getrandom"];

/// Methods whose results come in the order of the hashes.
const ITERATIONS: &[&str] = &[
    "drain",
    "extract_if",
    "into_iter",
    "into_keys",
    "into_values",
    "iter",
    "iter_mut",
    "keys",
    "retain",
    "values",
    "values_mut",
];

/// Hash maps that are iterated although their order is random: file below the crate's `src`,
/// name, and why nothing depends on the order.
const UNORDERED: &[(&str, &str, &str)] = &[
    ("acquire.rs", "jobs", "the ids found are sorted before anything is done"),
    ("interest.rs", "keys", "the ready keys are sorted"),
    ("session/answers.rs", "clients", "lines are sorted by client, the rest are sums"),
    ("session/client.rs", "clients", "the ids found are sorted before anything is closed"),
    ("session/client.rs", "jobs", "a client has one blocked command at most"),
    ("worker.rs", "jobs", "whether all of them are of one kind does not depend on their order"),
];

/// Everything below `dir` that `rules` forbid, as `FILE:LINE: what`.
pub(crate) fn violations(dir: &Path, rules: Rules) -> Vec<String> {
    let mut out = Vec::new();
    if rules != Rules::Anything {
        let mut files = Vec::new();
        visit(&dir.join("lib.rs"), &mut files);
        let fields: Vec<String> = files.iter().flat_map(|(_, t)| hashed(t, true)).collect();
        for (file, tokens) in files {
            let shown = file.strip_prefix(dir).expect("visited from there").to_string_lossy();
            for (line, what) in check(&tokens, rules, &shown, &fields) {
                out.push(format!("{}:{line}: {what}", file.display()));
            }
        }
    }
    out
}

/// Reads `file` and, following its `mod` items, all below it that is not only for tests.
fn visit(file: &Path, files: &mut Vec<(PathBuf, Vec<Token>)>) {
    let source =
        std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let tokens = without_tests(&tokens(&source));
    let dir = if file.ends_with("lib.rs") || file.ends_with("mod.rs") {
        file.with_file_name("")
    } else {
        file.with_extension("")
    };
    for item in tokens.windows(3) {
        if let [keyword, name, end] = item
            && (keyword.text == "mod" && end.text == ";" && name.text != "testing")
        {
            let flat = dir.join(format!("{}.rs", name.text));
            let nested = dir.join(&name.text).join("mod.rs");
            visit(if flat.is_file() { &flat } else { &nested }, files);
        }
    }
    files.push((file.to_owned(), tokens));
}

/// What `rules` forbid in a file, with its line. `file` is for the exceptions, `fields` are the
/// crate's hash maps.
fn check(tokens: &[Token], rules: Rules, file: &str, fields: &[String]) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or("", |t| &t.text);
        if matches!(&*token.text, "std" | "core" | "alloc") && next == ":" {
            let mut paths = Vec::new();
            expand(tokens, at + 3, "", &mut paths);
            let forbidden = paths.into_iter().filter(|path| !may_use(rules, path));
            out.extend(forbidden.map(|path| (token.line, format!("uses {}::{path}", token.text))));
        } else if MACROS.contains(&&*token.text) && next == "!" {
            out.push((token.line, format!("uses {}!", token.text)));
        } else if NAMES.contains(&&*token.text) {
            out.push((token.line, format!("uses {}", token.text)));
        }
    }
    if matches!(rules, Rules::Pure | Rules::Simulated) {
        for (line, name) in hash_orders(tokens, fields) {
            if !UNORDERED.iter().any(|(f, n, _)| (*f, *n) == (file, &*name)) {
                out.push((line, format!("iterates over the hash map {name} in random order")));
            }
        }
    }
    out
}

fn may_use(rules: Rules, path: &str) -> bool {
    let within = |prefix: &&str| {
        path.strip_prefix(prefix).is_some_and(|r| r.is_empty() || r.starts_with("::"))
    };
    match rules {
        Rules::Pure => PURE.iter().any(within),
        Rules::Simulated => PURE.iter().chain(SIMULATED).any(within),
        Rules::FilesOnly => !NOT_FOR_FILES.iter().any(within),
        Rules::Anything => true,
    }
}

/// Appends to `paths` what the path or tree of a `use` at `at` names, below `prefix`; returns
/// where it ends.
fn expand(tokens: &[Token], mut at: usize, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    loop {
        let text = tokens.get(at).map_or("", |t| &t.text);
        if text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|t| t.text != "}") {
                at = expand(tokens, at, &path, paths);
                // A new name, `as _`, is nothing to know.
                while tokens.get(at).is_some_and(|t| t.text != "," && t.text != "}") {
                    at += 1;
                }
                at += usize::from(tokens.get(at).is_some_and(|t| t.text == ","));
            }
            return at + 1;
        }
        if text != "self" {
            path = if path.is_empty() { text.to_owned() } else { format!("{path}::{text}") };
        }
        at += 1;
        let goes_on = tokens.get(at..at + 3).is_some_and(|t| {
            t[0].text == ":" && t[1].text == ":" && (t[2].is_name() || "{*".contains(&*t[2].text))
        });
        if !goes_on {
            paths.push(path);
            return at;
        }
        at += 2;
    }
}

/// Leaves out each item that no user gets: behind a `#[cfg(test)]`, and the switch of the deliberate
/// bugs (`base/src/mutation.rs`), which is behind a feature that only tests turn on.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let attributes: [&[&str]; 2] = [
        &["#", "[", "cfg", "(", "test", ")", "]"],
        // The tokens hold no strings, so the module's name stands for that of the feature.
        &["#", "[", "cfg", "(", "feature", "=", ")", "]", "mod", "switch"],
    ];
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = attributes.iter().find(|attribute| {
            let here = tokens.get(at..at + attribute.len());
            here.is_some_and(|t| t.iter().map(|t| t.text.as_str()).eq(attribute.iter().copied()))
        });
        if let Some(attribute) = here {
            at = end_of_item(tokens, at + attribute.len());
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}

/// The end of the item at `at`: behind its semicolon, or its braces.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match &*token.text {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            ";" if depth == 0 => break,
            _ => {}
        }
    }
    at
}

/// The names of hash maps and sets with the default hasher: fields and variables of that type, or
/// variables that are given a new one. With `shared` only fields that other files can see.
fn hashed(tokens: &[Token], shared: bool) -> Vec<String> {
    let text = |at: usize| tokens.get(at).map_or("", |t: &Token| &*t.text);
    let mut names = Vec::new();
    for at in 3..tokens.len() {
        let arguments = match text(at) {
            "HashMap" => 2,
            "HashSet" => 1,
            _ => continue,
        };
        let typed = text(at - 1) == ":" && generics(tokens, at + 1) <= arguments;
        let new = text(at - 1) == "=" && matches!(text(at + 3), "new" | "with_capacity");
        let visible = matches!(text(at - 3), "pub" | ")");
        if tokens[at - 2].is_name() && (typed && visible || !shared && (typed || new)) {
            names.push(text(at - 2).to_owned());
        }
    }
    names
}

/// Where hash maps are iterated: those of this file by their name, and fields of the crate by a
/// name behind a dot.
fn hash_orders(tokens: &[Token], fields: &[String]) -> Vec<(usize, String)> {
    let text = |at: usize| tokens.get(at).map_or("", |t: &Token| &*t.text);
    let here = hashed(tokens, false);
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let name = &token.text;
        let back = |steps: usize| at.checked_sub(steps).map_or("", text);
        if !(here.contains(name) || fields.contains(name) && back(1) == ".") {
            continue;
        }
        let called = text(at + 1) == "." && ITERATIONS.contains(&text(at + 2));
        let looped = text(at + 1) == "{" && (1..6).any(|steps| back(steps) == "in");
        if called || looped {
            out.push((token.line, name.clone()));
        }
    }
    out
}

/// How many generic arguments follow; 0 without any.
fn generics(tokens: &[Token], mut at: usize) -> usize {
    let (mut depth, mut count) = (0, 0);
    while let Some(token) = tokens.get(at) {
        match &*token.text {
            "<" | "(" | "[" => {
                depth += 1;
                count = count.max(1);
            }
            ">" | ")" | "]" => depth -= 1,
            "," if depth == 1 => count += 1,
            _ => {}
        }
        if depth <= 0 {
            return count;
        }
        at += 1;
    }
    count
}

// --- the checker can fail ------------------------------------------------------------------------

fn found(source: &str, rules: Rules) -> Vec<String> {
    let found = check(&without_tests(&tokens(source)), rules, "x.rs", &["field".to_owned()]);
    found.into_iter().map(|(line, what)| format!("{line} {what}")).collect()
}

#[test]
fn forbidden_paths_are_found_however_they_are_written() {
    let bad = "
        use std::{collections::BTreeMap, time::{Duration, Instant}, io::{self, Write as _}};
        use std::fs::*;
        fn f() { ::std::thread::spawn(|| core::hint::black_box(std::env::var(\"X\"))); }
        static LOCK: std::sync::Mutex<()> = todo;
        fn g() { println!(\"std::fs\"); }
        type S = RandomState;";
    assert_eq!(
        found(bad, Rules::Pure),
        [
            "2 uses std::time::Duration",
            "2 uses std::time::Instant",
            "2 uses std::io",
            "3 uses std::fs::*",
            "4 uses std::thread::spawn",
            "4 uses std::env::var",
            "5 uses std::sync::Mutex",
            "6 uses println!",
            "7 uses RandomState",
        ]
    );
    assert_eq!(
        found(bad, Rules::FilesOnly),
        [
            "2 uses std::time::Duration",
            "2 uses std::time::Instant",
            "4 uses std::thread::spawn",
            "4 uses std::env::var",
            "6 uses println!",
            "7 uses RandomState",
        ]
    );
}

#[test]
fn what_is_allowed_or_only_for_tests_is_not_found() {
    let good = "
        //! std::fs in a comment
        use std::collections::{BTreeMap, btree_map::Entry};
        use std::io::Write as _;
        fn f() -> &'static str { \"std::time::Instant::now()\" }
        #[cfg(test)]
        use std::fs;
        #[cfg(test)]
        mod tests { use std::thread; fn f() { println!(); } }
        fn g(now: u64) -> std::sync::Arc<u64> { std::sync::Arc::new(now) }";
    assert_eq!(found(good, Rules::Pure), [""; 0]);
}

#[test]
fn iterating_in_random_order_is_found() {
    let bad = "
        struct S { a: HashMap<u8, Vec<(u8, u8)>>, b: HashMap<u8, u8, Fixed>, c: HashSet<u8> }
        fn f(s: &S) {
            s.a.get(&1);
            for x in s.a.values() {}
            s.b.iter();
            for x in &s.c {}
            let d = HashMap::new();
            d.drain();
            s.field.retain(|_, _| true);
            field.iter();
        }";
    assert_eq!(
        found(bad, Rules::Pure),
        [
            "5 iterates over the hash map a in random order",
            "7 iterates over the hash map c in random order",
            "9 iterates over the hash map d in random order",
            "10 iterates over the hash map field in random order",
        ]
    );
}
