//! Doubles as text, as Redis 7.0 replies with them: C's `%.17g`. Every finite number reads back as
//! itself; 0.1 is `0.10000000000000001`. (Redis 7.2 writes the shortest digits instead.)

use std::io::Write as _;

/// The digits that tell any two doubles apart.
const DIGITS: usize = 17;

/// Room for any double: sign, 17 digits, point, and either `e-308` or `0.000` before the digits.
pub(crate) type DoubleBuf = [u8; 32];

/// `value` as Redis 7.0 prints doubles: `%.17g`, with `inf`, `-inf` and `nan`.
pub fn format_double(value: f64) -> String {
    let mut buf = DoubleBuf::default();
    String::from_utf8(write_double(value, &mut buf).to_vec()).expect("digits are ASCII")
}

/// [`format_double`] without allocating.
pub(crate) fn write_double(value: f64, buf: &mut DoubleBuf) -> &[u8] {
    if value.is_nan() {
        return b"nan";
    }
    if value.is_infinite() {
        return if value > 0.0 { b"inf" } else { b"-inf" };
    }
    // Integers of at most 15 digits are exact, and most scores.
    if value.fract() == 0.0 && value.abs() < 1e15 && !(value == 0.0 && value.is_sign_negative()) {
        return written(buf, format_args!("{}", value as i64));
    }
    let mut scientific = DoubleBuf::default();
    let scientific = written(&mut scientific, format_args!("{value:.*e}", DIGITS - 1));
    let scientific = std::str::from_utf8(scientific).expect("digits are ASCII");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always prints an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} prints a decimal exponent");
    if (-4..DIGITS as i32).contains(&exponent) {
        let decimals = (DIGITS as i32 - 1 - exponent) as usize;
        let fixed = written(buf, format_args!("{value:.decimals$}"));
        let len = if decimals > 0 { significant(fixed).len() } else { fixed.len() };
        return &buf[..len];
    }
    let mantissa = significant(mantissa.as_bytes());
    let mantissa = std::str::from_utf8(mantissa).expect("digits are ASCII");
    let sign = if exponent < 0 { '-' } else { '+' };
    written(buf, format_args!("{mantissa}e{sign}{:02}", exponent.abs()))
}

/// `digits`, which hold a point, without the zeros at their end that say nothing.
fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().rev().take_while(|&&digit| digit == b'0').count();
    let digits = &digits[..digits.len() - zeros];
    digits.strip_suffix(b".").unwrap_or(digits)
}

fn written<'b>(buf: &'b mut DoubleBuf, text: std::fmt::Arguments<'_>) -> &'b [u8] {
    let mut free = buf.as_mut_slice();
    free.write_fmt(text).expect("any double fits the buffer");
    let left = free.len();
    &buf[..buf.len() - left]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies of redis-server 7.0.15 to `ZSCORE`.
    #[test]
    fn prints_what_redis_prints() {
        let cases: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-7.0, "-7"),
            (3.25, "3.25"),
            (0.1, "0.10000000000000001"),
            (0.3, "0.29999999999999999"),
            (1.0 / 3.0, "0.33333333333333331"),
            (100.5, "100.5"),
            (0.0001, "0.0001"),
            (1e-5, "1.0000000000000001e-05"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e17, "1e+17"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e22, "1e+22"),
            (1e100, "1e+100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN, "-1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ];
        for &(value, text) in cases {
            assert_eq!(format_double(value), text, "{value:e}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reads_back_as_itself(bits: u64) {
            let value = f64::from_bits(bits);
            proptest::prop_assume!(!value.is_nan());
            let text = format_double(value);
            proptest::prop_assert!(text.len() <= 24);
            proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
        }
    }
}
