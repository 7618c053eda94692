//! Inline requests: a line split into words, with the quoting of Redis (`sdssplitargs`).
//!
//! ```text
//! word      plain bytes up to a blank; a quote inside a word opens a quoted part that ends the word
//! "…"       \n \r \t \b \a, \xHH, and \ before any other byte stands for that byte
//! '…'       \' stands for a quote; nothing else is special
//! ```
//!
//! A closing quote must be followed by a blank or the end of the line.

/// A quote was not closed, or closed in the middle of a word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unbalanced;

/// Appends the unquoted words of `line`, which holds no NUL, to `text`, and where each lies in
/// `text` to `words`.
pub(crate) fn split(
    line: &[u8],
    text: &mut Vec<u8>,
    words: &mut Vec<(usize, usize)>,
) -> Result<(), Unbalanced> {
    let mut rest = line;
    loop {
        rest = trim_start(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let from = text.len();
        rest = word(rest, text)?;
        words.push((from, text.len()));
    }
}

/// Takes one word off the front of `rest`.
fn word<'l>(mut rest: &'l [u8], text: &mut Vec<u8>) -> Result<&'l [u8], Unbalanced> {
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            // Vertical tab and form feed separate words only where a word would start.
            b' ' | b'\n' | b'\r' | b'\t' => return Ok(after),
            b'"' => return closed(double_quoted(after, text)?),
            b'\'' => return closed(single_quoted(after, text)?),
            _ => text.push(byte),
        }
        rest = after;
    }
    Ok(rest)
}

/// Takes the inside of a double-quoted part and its closing quote off the front of `rest`.
fn double_quoted<'l>(mut rest: &'l [u8], text: &mut Vec<u8>) -> Result<&'l [u8], Unbalanced> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(Unbalanced),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] => (unescape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

/// Takes the inside of a single-quoted part and its closing quote off the front of `rest`.
fn single_quoted<'l>(mut rest: &'l [u8], text: &mut Vec<u8>) -> Result<&'l [u8], Unbalanced> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(Unbalanced),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

/// `rest` follows a closing quote.
fn closed(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(Unbalanced),
        _ => Ok(rest),
    }
}

fn trim_start(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|&&byte| is_space(byte)).count();
    &line[blanks..]
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
