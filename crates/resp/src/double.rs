//! Doubles as text, as Redis 7.2 replies with them: the shortest digits that read back as the
//! same number (Redis up to 7.0 printed C's `%.17g`).

use std::io::Write as _;

/// Room for any double: sign, 17 digits, point, zeros, and an exponent.
pub(crate) type DoubleBuf = [u8; 32];

/// `value` as Redis 7.2 prints doubles, with `inf`, `-inf` and `nan`.
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
    let negative_zero = value == 0.0 && value.is_sign_negative();
    // Integers of 64 bits are printed as such, and most scores are.
    if value.fract() == 0.0 && value.abs() < (1u64 << 63) as f64 && !negative_zero {
        return written(buf, format_args!("{}", value as i64));
    }
    let mut scientific = DoubleBuf::default();
    let scientific = written(&mut scientific, format_args!("{value:e}"));
    let scientific = std::str::from_utf8(scientific).expect("digits are ASCII");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always prints an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} prints a decimal exponent");
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count() as i32;
    // The power of ten of the last digit decides the notation.
    let last = exponent - (digits - 1);
    let plain = if last >= 0 { exponent < digits + 7 } else { last > -7 || exponent.abs() < 4 };
    if plain {
        return written(buf, format_args!("{value}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    written(buf, format_args!("{mantissa}e{sign}{}", exponent.abs()))
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

    /// Replies of a server compatible with Redis 7.2.4 to `ZSCORE`.
    #[test]
    fn prints_what_redis_prints() {
        let cases: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "-0"),
            (-7.0, "-7"),
            (3.25, "3.25"),
            (0.1, "0.1"),
            (0.3, "0.3"),
            (0.0001, "0.0001"),
            (1e-5, "0.00001"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (1.2345678e-5, "1.2345678e-5"),
            (1e17, "100000000000000000"),
            (1e18, "1000000000000000000"),
            (1e19, "1e+19"),
            (1e22, "1e+22"),
            (3.25e20, "3.25e+20"),
            (12_345_678_901_234_567_890.0, "12345678901234567000"),
            (-1.1007393879093142e23, "-110073938790931420000000"),
            (1e100, "1e+100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
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
            proptest::prop_assert!(text.len() <= 25);
            proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits);
        }
    }
}
