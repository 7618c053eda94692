//! Numbers as C's `printf` and `strtod` know them.

/// `value` as `%.{precision}g` prints it, with 1 to 17 significant digits.
pub(crate) fn format_g(value: f64, precision: usize) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} prints an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} prints a decimal exponent");
    if exponent >= -4 && exponent < precision as i32 {
        let decimals = (precision as i32 - 1 - exponent) as usize;
        return without_zeros(&format!("{value:.decimals$}")).into();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs())
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// The number at the beginning of `text` as `strtod` reads it, without white space before it, and
/// how many bytes it has; `None` if there is none.
pub(crate) fn read_number(text: &[u8]) -> Option<(f64, usize)> {
    let negative = text.first() == Some(&b'-');
    let signs = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let rest = &text[signs..];
    let (size, len) = unsigned(rest)?;
    Some((if negative { -size } else { size }, signs + len))
}

fn unsigned(text: &[u8]) -> Option<(f64, usize)> {
    let begins = |word: &str| {
        text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
    };
    for (word, value) in [("infinity", f64::INFINITY), ("inf", f64::INFINITY), ("nan", f64::NAN)] {
        if begins(word) {
            return Some((value, word.len()));
        }
    }
    if begins("0x") && text.get(2).is_some_and(|b| b.is_ascii_hexdigit() || *b == b'.') {
        return hexadecimal(&text[2..]).map(|(value, len)| (value, len + 2)).or(Some((0.0, 1)));
    }
    let digits = |from: usize| text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(0);
    let mut len = whole;
    let mut fraction = 0;
    if text.get(len) == Some(&b'.') {
        fraction = digits(len + 1);
        len += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(text.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(len + 1), Some(b'-' | b'+')));
        let from = len + 1 + sign;
        let exponent = if from < text.len() { digits(from) } else { 0 };
        if exponent > 0 {
            len = from + exponent;
        }
    }
    let number = std::str::from_utf8(&text[..len]).expect("digits are ASCII");
    Some((number.parse().expect("the form was checked"), len))
}

fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let (mut value, mut scale, mut len, mut digits, mut point) = (0.0, 1.0, 0, 0, false);
    while let Some(&byte) = text.get(len) {
        match (byte as char).to_digit(16) {
            Some(digit) if point => {
                scale /= 16.0;
                value += f64::from(digit) * scale;
                digits += 1;
            }
            Some(digit) => {
                value = value * 16.0 + f64::from(digit);
                digits += 1;
            }
            None if byte == b'.' && !point => point = true,
            None => break,
        }
        len += 1;
    }
    (digits > 0).then_some((value, len))
}

/// A double as C casts it to a 64-bit integer on the machines that Redis runs on.
pub(crate) fn to_i64(value: f64) -> i64 {
    // The bounds are powers of two and therefore exact.
    if (-(2f64.powi(63))..2f64.powi(63)).contains(&value) { value as i64 } else { i64::MIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_printf() {
        let cases: &[(f64, usize, &str)] = &[
            (0.0, 14, "0"),
            (1.0, 14, "1"),
            (-1.5, 14, "-1.5"),
            (0.1, 14, "0.1"),
            (1e14, 14, "1e+14"),
            (123_456_789_012_345.0, 14, "1.2345678901234e+14"),
            (1e-5, 14, "1e-05"),
            (0.0001, 14, "0.0001"),
            (1.0 / 3.0, 3, "0.333"),
            (99_999_999_999_999.9, 14, "1e+14"),
            (f64::MAX, 14, "1.7976931348623e+308"),
            (f64::NEG_INFINITY, 14, "-inf"),
        ];
        for (value, precision, text) in cases {
            assert_eq!(format_g(*value, *precision), *text, "{value:e}");
        }
    }

    #[test]
    fn reads_as_strtod() {
        let cases: &[(&str, Option<(f64, usize)>)] = &[
            ("1,", Some((1.0, 1))),
            ("-0.5e1]", Some((-5.0, 6))),
            ("1e", Some((1.0, 1))),
            ("1e+", Some((1.0, 1))),
            ("1.", Some((1.0, 2))),
            (".5", Some((0.5, 2))),
            ("-", None),
            (".", None),
            ("0x1F!", Some((31.0, 4))),
            ("0xg", Some((0.0, 1))),
            ("0x.8", Some((0.5, 4))),
            ("-inf", Some((f64::NEG_INFINITY, 4))),
            ("Infinity", Some((f64::INFINITY, 8))),
            ("007", Some((7.0, 3))),
        ];
        for (text, read) in cases {
            assert_eq!(read_number(text.as_bytes()), *read, "{text}");
        }
        assert!(read_number(b"NaN").is_some_and(|(value, len)| value.is_nan() && len == 3));
    }

    #[test]
    fn casts_as_c() {
        assert_eq!(to_i64(3.99), 3);
        assert_eq!(to_i64(-3.99), -3);
        assert_eq!(to_i64(f64::NAN), i64::MIN);
        assert_eq!(to_i64(1e19), i64::MIN);
        assert_eq!(to_i64(-(2f64.powi(63))), i64::MIN);
    }
}
