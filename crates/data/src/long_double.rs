//! The 80-bit floating-point numbers of x86 (`long double`), as far as INCRBYFLOAT and
//! HINCRBYFLOAT need them: parse, add, print with 17 decimals. Their 64-bit mantissa is what makes
//! 10.5 + 0.1 print as 10.6 in Redis, which `f64` cannot do with that many decimals.
//!
//! Results round to nearest, ties to even. Numbers below 2^-16382 keep their full mantissa here
//! (x86 has fewer bits there): they are zero when printed and lost in any sum that is not.

use std::fmt;

/// Exponents of the mantissa's lowest bit: of the largest number, and of the least that is not 0.
const EXPONENT_MAX: i32 = 16383 - 63;
const EXPONENT_MIN: i32 = -16445 - 63;

/// Redis refuses longer texts.
const TEXT_BYTES_MAX: usize = 5 * 1024;

/// How many decimals are printed.
const DECIMALS: u32 = 17;

/// A finite or infinite number: `mantissa` · 2^`exponent`. The mantissa's highest bit is set unless
/// it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongDouble {
    negative: bool,
    infinite: bool,
    mantissa: u64,
    exponent: i32,
}

impl LongDouble {
    pub(crate) const ZERO: Self =
        Self { negative: false, infinite: false, mantissa: 0, exponent: 0 };

    /// Reads all of `text` as `strtold` does; no spaces, no NaN, nothing out of range.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= TEXT_BYTES_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let value = match digits {
            [b'0', b'x' | b'X', hex @ ..] => Decoded::read(hex, 16)?.binary()?,
            _ if digits.eq_ignore_ascii_case(b"inf")
                || digits.eq_ignore_ascii_case(b"infinity") =>
            {
                Self { infinite: true, ..Self::ZERO }
            }
            _ => Decoded::read(digits, 10)?.decimal()?,
        };
        Some(Self { negative, ..value })
    }

    pub(crate) fn is_infinite(self) -> bool {
        self.infinite
    }

    /// The sum; `None` if it is infinite or no number.
    pub(crate) fn add(self, other: Self) -> Option<Self> {
        if self.infinite || other.infinite {
            return None;
        }
        if self.mantissa == 0 || other.mantissa == 0 {
            return Some(match (self.mantissa, other.mantissa) {
                (0, 0) => Self { negative: self.negative && other.negative, ..Self::ZERO },
                (0, _) => other,
                _ => self,
            });
        }
        let (big, small) = if (self.exponent, self.mantissa) >= (other.exponent, other.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        // Guard bits below the mantissa; what falls off their end leaves a one behind (sticky).
        const GUARD: u32 = 62;
        let distance = big.exponent.abs_diff(small.exponent);
        let wide = u128::from(small.mantissa) << GUARD;
        let shifted = wide.checked_shr(distance).unwrap_or(0);
        let lost = shifted.checked_shl(distance) != Some(wide);
        let aligned = shifted | u128::from(lost);
        let high = u128::from(big.mantissa) << GUARD;
        let sum = if big.negative == small.negative { high + aligned } else { high - aligned };
        let negative = big.negative && sum != 0;
        Self::rounded(sum, false, big.exponent - GUARD as i32)
            .map(|value| Self { negative, ..value })
    }

    /// The number nearest to (`value` and, if `sticky`, a little more) · 2^`exponent`; `None` if
    /// that is out of range. Where it is `sticky`, `value` has at least 65 bits.
    fn rounded(value: u128, sticky: bool, exponent: i32) -> Option<Self> {
        if value == 0 {
            return Some(Self::ZERO);
        }
        let excess = 64 - value.leading_zeros() as i32;
        let (mantissa, exponent) = if excess <= 0 {
            ((value as u64) << -excess, exponent + excess)
        } else {
            let rest = value & ((1 << excess) - 1);
            let half = 1u128 << (excess - 1);
            let kept = (value >> excess) as u64;
            let up = rest > half || rest == half && (sticky || kept & 1 == 1);
            let (mantissa, carried) = kept.overflowing_add(u64::from(up));
            (if carried { 1 << 63 } else { mantissa }, exponent + excess + i32::from(carried))
        };
        if !(EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent) {
            return None;
        }
        Some(Self { negative: false, infinite: false, mantissa, exponent })
    }
}

/// With 17 decimals, trailing zeros cut off.
impl fmt::Display for LongDouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.infinite {
            return f.write_str(if self.negative { "-inf" } else { "inf" });
        }
        let mut text = if self.exponent >= 0 {
            let mut integer = Natural::from(self.mantissa);
            integer.shift_left(self.exponent.unsigned_abs());
            integer.to_string()
        } else {
            let scaled = u128::from(self.mantissa) * 10u128.pow(DECIMALS);
            let digits = rounding_shift(scaled, self.exponent.unsigned_abs());
            let unit = 10u128.pow(DECIMALS);
            let text = format!("{}.{:017}", digits / unit, digits % unit);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        if self.negative && text != "0" {
            text.insert(0, '-');
        }
        f.write_str(&text)
    }
}

/// `value` / 2^`bits`, ties to even.
fn rounding_shift(value: u128, bits: u32) -> u128 {
    if bits >= 128 {
        return 0;
    }
    let (kept, rest, half) = (value >> bits, value & ((1 << bits) - 1), 1u128 << (bits - 1));
    kept + u128::from(rest > half || rest == half && kept & 1 == 1)
}

/// A number's text: `digits` · base^`scale` · (for base 16) 2^`exponent`.
struct Decoded {
    digits: Natural,
    /// How many digits, the leading zeros not counted.
    count: i64,
    /// Digits after the point, negated.
    scale: i64,
    exponent: i64,
}

impl Decoded {
    fn read(text: &[u8], base: u32) -> Option<Self> {
        let mut decoded = Self { digits: Natural::default(), count: 0, scale: 0, exponent: 0 };
        let (mut any, mut point, mut at) = (false, false, 0);
        while let Some(&byte) = text.get(at) {
            if byte == b'.' && !point {
                point = true;
            } else if let Some(digit) = char::from(byte).to_digit(base) {
                any = true;
                decoded.digits.multiply_add(base, digit);
                decoded.count += i64::from(decoded.count > 0 || digit > 0);
                decoded.scale -= i64::from(point);
            } else {
                break;
            }
            at += 1;
        }
        if !any {
            return None;
        }
        let mark = if base == 16 { b'p' } else { b'e' };
        match text.get(at) {
            None => {}
            Some(byte) if byte.eq_ignore_ascii_case(&mark) => {
                decoded.exponent = exponent(&text[at + 1..])?;
            }
            Some(_) => return None,
        }
        Some(decoded)
    }

    fn binary(&self) -> Option<LongDouble> {
        let exponent = i32::try_from(self.exponent + 4 * self.scale).ok()?;
        let (top, dropped, sticky) = self.digits.top_bits();
        LongDouble::rounded(top, sticky, exponent.checked_add(dropped)?)
    }

    fn decimal(mut self) -> Option<LongDouble> {
        if self.count == 0 {
            return Some(LongDouble::ZERO);
        }
        let power = self.exponent + self.scale;
        if !(-5000..=4940).contains(&(power + self.count)) {
            return None;
        }
        for _ in 0..power.max(0) {
            self.digits.multiply_add(10, 0);
        }
        if power >= 0 {
            let (top, dropped, sticky) = self.digits.top_bits();
            return LongDouble::rounded(top, sticky, dropped);
        }
        let mut divisor = Natural::from(1);
        for _ in power..0 {
            divisor.multiply_add(10, 0);
        }
        let (quotient, sticky, exponent) = self.digits.divide(divisor);
        LongDouble::rounded(quotient, sticky, exponent)
    }
}

/// A decimal exponent; one that is absurdly long is as good as its limit.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let mut magnitude = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = (magnitude * 10 + i64::from(digit - b'0')).min(1_000_000_000);
    }
    Some(if negative { -magnitude } else { magnitude })
}

/// A natural number of any size: 32-bit digits, the lowest first, no leading zeros.
#[derive(Clone, Default)]
struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(value: u64) -> Self {
        let mut natural = Self(vec![value as u32, (value >> 32) as u32]);
        natural.trim();
        natural
    }
}

impl Natural {
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> u32 {
        match self.0.last() {
            Some(top) => self.0.len() as u32 * 32 - top.leading_zeros(),
            None => 0,
        }
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn shift_left(&mut self, bits: u32) {
        if self.0.is_empty() {
            return;
        }
        self.multiply_add(1 << (bits % 32), 0);
        self.0.splice(0..0, std::iter::repeat_n(0, bits as usize / 32));
    }

    /// Divides by `divisor`, returns the remainder.
    fn divide_small(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for digit in self.0.iter_mut().rev() {
            rest = rest << 32 | u64::from(*digit);
            *digit = (rest / u64::from(divisor)) as u32;
            rest %= u64::from(divisor);
        }
        self.trim();
        rest as u32
    }

    /// The highest 96 to 128 bits, how many lower bits they leave out, and whether any of these
    /// is set.
    fn top_bits(&self) -> (u128, i32, bool) {
        let from = self.0.len().saturating_sub(4);
        let top = self.0[from..].iter().rev().fold(0, |top, &digit| top << 32 | u128::from(digit));
        (top, from as i32 * 32, self.0[..from].iter().any(|&digit| digit != 0))
    }

    /// `self` / `divisor` as a quotient of at least 66 bits, whether there is a remainder, and the
    /// quotient's power of two. Both are above 0.
    fn divide(mut self, divisor: Self) -> (u128, bool, i32) {
        const QUOTIENT_BITS: u32 = 66;
        // Scaled so that the quotient lies within 2^65 and 2^67.
        let shift = (divisor.bits() + QUOTIENT_BITS).saturating_sub(self.bits());
        self.shift_left(shift);
        let mut steps = self.bits() - divisor.bits();
        let mut scaled = divisor;
        scaled.shift_left(steps);
        let mut quotient = 0u128;
        loop {
            quotient <<= 1;
            if self.subtract_if_covered(&scaled) {
                quotient |= 1;
            }
            if steps == 0 || quotient >> 100 != 0 {
                break;
            }
            scaled.halve();
            steps -= 1;
        }
        (quotient, !self.0.is_empty(), steps as i32 - shift as i32)
    }

    /// Subtracts `other` unless it is greater.
    fn subtract_if_covered(&mut self, other: &Self) -> bool {
        let by_length = self.0.len().cmp(&other.0.len());
        if by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev())).is_lt() {
            return false;
        }
        let mut borrow = false;
        for (at, digit) in self.0.iter_mut().enumerate() {
            let subtrahend = other.0.get(at).copied().unwrap_or(0);
            let (less, first) = digit.overflowing_sub(subtrahend);
            let (less, second) = less.overflowing_sub(u32::from(borrow));
            (*digit, borrow) = (less, first || second);
        }
        self.trim();
        true
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for digit in self.0.iter_mut().rev() {
            let low = *digit & 1;
            *digit = *digit >> 1 | carry << 31;
            carry = low;
        }
        self.trim();
    }
}

impl fmt::Display for Natural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups = Vec::new();
        let mut rest = self.clone();
        while !rest.0.is_empty() {
            groups.push(rest.divide_small(1_000_000_000));
        }
        write!(f, "{}", groups.pop().unwrap_or(0))?;
        groups.iter().rev().try_for_each(|group| write!(f, "{group:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn sum(a: &str, b: &str) -> String {
        let read = |text: &str| LongDouble::parse(text.as_bytes()).expect("a number");
        read(a).add(read(b)).map_or("none".into(), |sum| sum.to_string())
    }

    #[test]
    fn sums_follow_redis() {
        for (a, b, want) in [
            ("10.5", "0.1", "10.6"),
            ("3.0e3", "200", "3200"),
            ("0.1", "0.2", "0.3"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("0", "-1e-18", "0"),
            ("1e30", "1", "1000000000000000000024696061952"),
            ("0x1p3", "0", "8"),
            ("0x.8", "0", "0.5"),
            ("1.5", "-3", "-1.5"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551615", "0.5", "18446744073709551616"),
            ("inf", "1", "none"),
            ("1e4932", "1e4932", "none"),
        ] {
            assert_eq!(sum(a, b), want, "{a} + {b}");
        }
    }

    #[test]
    fn only_numbers_parse() {
        for text in ["", "-", ".", "1 ", " 1", "nan", "1e", "1e5000", "1e-5000", "0x", "1.2.3"] {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["1.", ".5", "+1", "1E+2", "0e999999999999", "-Infinity", "1e4931"] {
            assert!(LongDouble::parse(text.as_bytes()).is_some(), "{text}");
        }
    }
}
