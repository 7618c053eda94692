//! Parsing of arguments with Redis' rules and errors.

use crate::error::Error;

/// A 64-bit integer as Redis accepts it (`string2ll`): decimal, no spaces, no leading zeros, no
/// plus sign.
#[inline]
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut magnitude = 0u64;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    if negative {
        (magnitude <= 1 << 63).then(|| (magnitude as i64).wrapping_neg())
    } else {
        i64::try_from(magnitude).ok()
    }
}

/// [`integer`], or the error that Redis replies.
#[inline]
pub fn int(text: &[u8]) -> Result<i64, Error> {
    integer(text).ok_or(Error::NotInteger)
}

/// A finite or infinite number as Redis accepts it (`strtod` on the whole text, no spaces, no NaN).
pub fn number(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let first = *text.as_bytes().first()?;
    if first.is_ascii_whitespace() {
        return None;
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => {
            let magnitude = hex_float(hex)?;
            if first == b'-' { -magnitude } else { magnitude }
        }
        None => text.parse::<f64>().ok()?,
    };
    // A text without "inf" that overflows is out of range in C as well.
    let named = digits.as_bytes()[0].eq_ignore_ascii_case(&b'i');
    let in_range = (value.is_finite() || named) && (value != 0.0 || is_zero(digits));
    (!value.is_nan() && in_range).then_some(value)
}

/// True if the digits before any exponent are all zeros: otherwise a value of 0 is out of range.
fn is_zero(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], ['p', 'P']),
        _ => (digits, ['e', 'E']),
    };
    mantissa.split(exponent).next().is_some_and(|m| m.bytes().all(|b| matches!(b, b'0' | b'.')))
}

/// [`number`], or the error that Redis replies.
pub fn float(text: &[u8]) -> Result<f64, Error> {
    number(text).ok_or(Error::NotFloat)
}

fn hex_float(hex: &str) -> Option<f64> {
    let (mantissa, exponent) = match hex.split_once(['p', 'P']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (hex, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0;
    for c in whole.chars() {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let mut scale = 1.0 / 16.0;
    for c in fraction.chars() {
        value += f64::from(c.to_digit(16)?) * scale;
        scale /= 16.0;
    }
    Some(value * 2f64.powi(exponent))
}

/// True if `arg` is `word` (given in upper or lower case) in any case.
#[inline]
pub fn is_word(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// A blocking timeout: seconds with fractions, to milliseconds; Redis' errors.
pub fn timeout_seconds(text: &[u8]) -> Result<u64, Error> {
    let seconds = number(text).ok_or(Error::text("ERR timeout is not a float or out of range"))?;
    if seconds < 0.0 {
        return Err(Error::text("ERR timeout is negative"));
    }
    let ms = (seconds * 1000.0).ceil();
    if ms > i64::MAX as f64 {
        return Err(Error::text("ERR timeout is out of range"));
    }
    Ok(ms as u64)
}

/// Glob matching as Redis does it (`stringmatchlen`): `*`, `?`, `[a-z]`, `[^x]`, `\` escapes.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to resume when a `*` has to take one more byte.
    let (mut p, mut t) = (0, 0);
    let mut resume: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            while pattern.get(p) == Some(&b'*') {
                p += 1;
            }
            if p == pattern.len() {
                return true;
            }
            resume = Some((p, t));
            continue;
        }
        if t == text.len() && p == pattern.len() {
            return true;
        }
        let step = if t < text.len() && p < pattern.len() {
            match_one(&pattern[p..], text[t])
        } else {
            None
        };
        match (step, resume) {
            (Some(len), _) => (p, t) = (p + len, t + 1),
            (None, Some((star, taken))) if taken < text.len() => {
                resume = Some((star, taken + 1));
                (p, t) = (star, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the first element of `pattern`; its length if it matches.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => match_class(pattern, byte),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

fn match_class(pattern: &[u8], byte: u8) -> Option<usize> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        match pattern.get(at) {
            None => break,
            Some(b']') => {
                at += 1;
                break;
            }
            Some(b'\\') if at + 1 < pattern.len() => {
                found |= pattern[at + 1] == byte;
                at += 2;
            }
            Some(&low) if pattern.len() >= at + 3 && pattern[at + 1] == b'-' => {
                let high = pattern[at + 2];
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            Some(&literal) => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_redis() {
        for (text, want) in [
            ("0", Some(0)),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("", None),
            ("-", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn numbers_follow_strtod() {
        for (text, want) in [
            ("1.5", Some(1.5)),
            ("+1", Some(1.0)),
            (".5", Some(0.5)),
            ("1e3", Some(1000.0)),
            ("inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("0x10", Some(16.0)),
            ("nan", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("1e999", None),
            ("-1e-999", None),
            ("0e-999", Some(0.0)),
            ("0x0.0p1", Some(0.0)),
        ] {
            assert_eq!(number(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn globs_follow_redis() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("a*b*c", "a__b__b__c", true),
            ("a*b*c", "a__b__b__d", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("abc", "abcd", false),
            ("a*", "a", true),
            ("[", "[", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }
}
