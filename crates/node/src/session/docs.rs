//! A line on each command, and its arguments, for COMMAND DOCS.
//!
//! Arguments are written as in manuals: `[a]` may be left out, `a...` may be repeated.

mod table;

use quorate_resp::Reply;
use table::DOCS;

/// Writes what is known of a command as a map.
pub(super) fn write(reply: &mut Reply<'_>, group: &str, name: &str, since: &str) {
    let (_, syntax, summary) = documented(name).unwrap_or(("", "", ""));
    let arguments = arguments(syntax);
    reply.map(if arguments.is_empty() { 3 } else { 4 });
    for (field, value) in [("summary", summary), ("since", since), ("group", group)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if arguments.is_empty() {
        return;
    }
    reply.bulk(b"arguments");
    reply.array(arguments.len());
    for Argument { name, optional, repeated } in arguments {
        let flags = usize::from(optional) + usize::from(repeated);
        reply.map(if flags > 0 { 3 } else { 2 });
        reply.bulk(b"name");
        reply.bulk(name.as_bytes());
        reply.bulk(b"type");
        reply.bulk(if name == "key" { b"key" } else { b"string" });
        if flags > 0 {
            reply.bulk(b"flags");
            reply.set(flags);
            if optional {
                reply.simple("optional");
            }
            if repeated {
                reply.simple("multiple");
            }
        }
    }
}

fn documented(name: &str) -> Option<(&'static str, &'static str, &'static str)> {
    DOCS.binary_search_by_key(&name, |(n, _, _)| n).ok().map(|at| DOCS[at])
}

#[derive(Debug, PartialEq, Eq)]
struct Argument<'a> {
    name: &'a str,
    optional: bool,
    repeated: bool,
}

/// Takes the syntax of a command apart, outermost brackets first.
fn arguments(syntax: &str) -> Vec<Argument<'_>> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in syntax.bytes().chain([b' ']).enumerate() {
        match byte {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth -= 1,
            b' ' if depth == 0 && at > start => {
                found.push(argument(&syntax[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

fn argument(text: &str) -> Argument<'_> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let (text, optional) = (inner.unwrap_or(text), inner.is_some());
    let (name, repeated) = match text.strip_suffix("...") {
        Some(name) => (name, true),
        None => (text, false),
    };
    let name = name.strip_prefix('(').and_then(|n| n.strip_suffix(')')).unwrap_or(name);
    Argument { name, optional, repeated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_documented() {
        assert!(DOCS.is_sorted_by_key(|(name, _, _)| *name));
        let missing: Vec<&str> = crate::dispatch::Commands::new()
            .all()
            .into_iter()
            .map(|(_, command)| command.name())
            .filter(|name| documented(name).is_none())
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn a_syntax_is_taken_apart() {
        let argument = |name, optional, repeated| Argument { name, optional, repeated };
        assert_eq!(
            arguments("key (field value)... [NX|XX] [[COUNT n] x] [id...]"),
            [
                argument("key", false, false),
                argument("field value", false, true),
                argument("NX|XX", true, false),
                argument("[COUNT n] x", true, false),
                argument("id", true, true),
            ]
        );
        assert!(arguments("").is_empty());
    }
}
