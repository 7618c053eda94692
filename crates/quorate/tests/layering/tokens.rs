//! As much of Rust's lexical structure as a search for paths needs: names and punctuation with
//! their lines, without comments, strings and characters.

/// A name, or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of `source`.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let rest = &chars[at..];
        match rest {
            ['/', '/', ..] => at += rest.iter().take_while(|&&c| c != '\n').count(),
            ['/', '*', ..] => at += block_comment(rest),
            ['"', ..] => at += string(rest),
            ['r' | 'b' | 'c', ..] if raw_string(rest) > 0 => at += raw_string(rest),
            ['b', '"', ..] | ['c', '"', ..] => at += 1 + string(&rest[1..]),
            ['\'', ..] => at += character_or_lifetime(rest),
            [c, ..] if c.is_alphabetic() || *c == '_' => {
                at += rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
                out.push(Token { text: chars[start..at].iter().collect(), line });
            }
            [c, ..] if c.is_ascii_digit() => {
                at += rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            }
            [c, ..] => {
                at += 1;
                if !c.is_whitespace() {
                    out.push(Token { text: c.to_string(), line });
                }
            }
            [] => unreachable!("the loop ends with the source"),
        }
        line += chars[start..at].iter().filter(|&&c| c == '\n').count();
    }
    out
}

/// The length of the block comment that `rest` begins with; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the quoted string that `rest` begins with.
fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of the raw string that `rest` begins with; 0 if it does not.
fn raw_string(rest: &[char]) -> usize {
    let prefix = match rest {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return 0,
    };
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let from = prefix + hashes + 1;
    let body = rest[from..].windows(end.len()).position(|window| window == end);
    body.map_or(rest.len(), |body| from + body + end.len())
}

/// The length of the character that `rest` begins with; of a lifetime only its quote.
fn character_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => {
            3 + tail.iter().position(|&c| c == '\'').map_or(tail.len(), |quote| quote + 1)
        }
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

#[test]
fn only_names_and_punctuation_are_left() {
    let texts = |source: &str| -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    };
    assert_eq!(texts("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
    assert_eq!(
        texts(r##"x("std::fs", r#"a"b"#, b"\"q", 'x', '\'', '\u{1f}')"##).concat(),
        "x(,,,,,)"
    );
    assert_eq!(texts("fn f<'a>(r: &'a u8) {}").concat(), "fnf<a>(r:&au8){}");
    assert_eq!(tokens("a\n\n\"\n\"b").last().unwrap().line, 4);
}
