//! Numbers as INCRBYFLOAT and HINCRBYFLOAT compute with them: Redis uses C's `long double`, which
//! is the 80-bit format of the x87 (64 bits of mantissa) where Redis usually runs. Reading, adding
//! and printing round as that does (to nearest, ties to even), so that 0.1 + 0.2 is 0.3, and every
//! machine computes the same.

use std::cmp::Ordering;

/// Bits of the mantissa.
const MANTISSA_BITS: u32 = 64;
/// The weight of the lowest mantissa bit of the largest numbers.
const EXPONENT_MAX: i64 = 16_383 - 63;
/// Below this every number is zero.
const EXPONENT_MIN: i64 = -16_445 - 63;
/// Digits behind the point when printing.
const FRACTION_DIGITS: u32 = 17;
/// The longest text that Redis reads (`MAX_LONG_DOUBLE_CHARS`), bytes.
const TEXT_BYTES_MAX: usize = 5 * 1024;

/// A finite number, mantissa · 2^exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

/// What a text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// A finite number.
    Finite(Extended),
    /// One of the infinities.
    Infinite,
}

/// The number in `text` as `strtold` reads the whole of it; `None` for anything else, NaN, and
/// what is out of range.
pub(crate) fn parse(text: &[u8]) -> Option<Number> {
    if text.len() >= TEXT_BYTES_MAX {
        return None;
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
        return Some(Number::Infinite);
    }
    let (base, digits, mark) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest, b'p'),
        _ => (10, digits, b'e'),
    };
    let split = digits.iter().position(|b| b.to_ascii_lowercase() == mark);
    let (mantissa, power) = match split {
        Some(at) => (&digits[..at], power(&digits[at + 1..])?),
        None => (digits, 0),
    };
    let mut big = Big::default();
    let (mut behind_point, mut point, mut any) = (0, false, false);
    for &byte in mantissa {
        if byte == b'.' && !point {
            point = true;
            continue;
        }
        big.multiply_add(base, char::from(byte).to_digit(base)?);
        behind_point += i64::from(point);
        any = true;
    }
    if !any {
        return None;
    }
    let sum = if base == 16 {
        Extended::round(negative, &big, false, power - 4 * behind_point)?
    } else {
        Extended::from_decimal(negative, big, power - behind_point)?
    };
    Some(Number::Finite(sum))
}

/// A decimal exponent, clamped far outside the range of numbers.
fn power(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude =
        digits.iter().fold(0i64, |sum, b| (sum * 10 + i64::from(b - b'0')).min(100_000));
    Some(if negative { -magnitude } else { magnitude })
}

impl Extended {
    /// Zero.
    pub(crate) const ZERO: Self = Self { negative: false, mantissa: 0, exponent: 0 };

    /// The sum; `None` if it is out of range.
    pub(crate) fn add(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let aligned = |x: Self| Big::from(x.mantissa).shifted((x.exponent - exponent) as usize);
        let (a, b) = (aligned(self), aligned(other));
        if self.negative == other.negative {
            return Self::round(self.negative, &a.plus(&b), false, exponent);
        }
        match a.compare(&b) {
            Ordering::Equal => Some(Self::ZERO),
            Ordering::Greater => Self::round(self.negative, &a.minus(&b), false, exponent),
            Ordering::Less => Self::round(other.negative, &b.minus(&a), false, exponent),
        }
    }

    /// Decimal digits without exponent, 17 behind the point, trailing zeros removed.
    pub(crate) fn to_text(self) -> String {
        let mut big = Big::from(self.mantissa);
        (0..FRACTION_DIGITS).for_each(|_| big.multiply_add(10, 0));
        let scaled = if self.exponent >= 0 {
            big.shifted(self.exponent as usize)
        } else {
            big.rounded_down_by(self.exponent.unsigned_abs() as usize)
        };
        let digits = format!("{:0>18}", scaled.to_decimal());
        let (whole, fraction) = digits.split_at(digits.len() - FRACTION_DIGITS as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        let sign = if self.negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
        format!("{sign}{whole}{point}{fraction}")
    }

    /// `big` · 10^`power`.
    fn from_decimal(negative: bool, mut big: Big, power: i64) -> Option<Self> {
        if big.bits() == 0 {
            return Some(Self { negative, ..Self::ZERO });
        }
        if power.abs() > 2 * TEXT_BYTES_MAX as i64 {
            return None;
        }
        if power >= 0 {
            (0..power).for_each(|_| big.multiply_add(10, 0));
            return Self::round(negative, &big, false, 0);
        }
        let mut divisor = Big::from(1);
        (0..-power).for_each(|_| divisor.multiply_add(10, 0));
        // A quotient of a few bits more than the mantissa has, and whether something is left.
        let wanted = divisor.bits() + MANTISSA_BITS as usize + 2;
        let shift = wanted.saturating_sub(big.bits());
        let mut rest = big.shifted(shift);
        let mut quotient = Big::default();
        for place in (0..=rest.bits() - divisor.bits()).rev() {
            let part = divisor.shifted(place);
            let fits = rest.compare(&part) != Ordering::Less;
            quotient.multiply_add(2, u32::from(fits));
            if fits {
                rest = rest.minus(&part);
            }
        }
        Self::round(negative, &quotient, rest.bits() > 0, -(shift as i64))
    }

    /// `big` · 2^`exponent`, and a little more if `more`, rounded to the mantissa.
    fn round(negative: bool, big: &Big, more: bool, exponent: i64) -> Option<Self> {
        let extra = big.bits().saturating_sub(MANTISSA_BITS as usize);
        let mut exponent = exponent + extra as i64;
        let kept = if more && extra > 0 {
            // The lowest bit stands for everything below it.
            let mut sticky = big.clone();
            sticky.words[0] |= 1;
            sticky.rounded_down_by(extra)
        } else {
            big.rounded_down_by(extra)
        };
        let mut mantissa = kept.low_u128();
        if mantissa >> MANTISSA_BITS != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
        let mantissa = mantissa as u64;
        if mantissa == 0 {
            return Some(Self { negative, ..Self::ZERO });
        }
        let (mantissa, exponent) =
            (mantissa << mantissa.leading_zeros(), exponent - i64::from(mantissa.leading_zeros()));
        let in_range = (EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent);
        in_range.then_some(Self { negative, mantissa, exponent })
    }
}

/// A natural number of any size: 32-bit words, the lowest first, without zeros at the end.
#[derive(Clone, Debug, Default)]
struct Big {
    words: Vec<u32>,
}

impl From<u64> for Big {
    fn from(value: u64) -> Self {
        Self { words: vec![value as u32, (value >> 32) as u32] }.trimmed()
    }
}

impl Big {
    fn trimmed(mut self) -> Self {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self
    }

    fn bits(&self) -> usize {
        let top = self.words.last().map_or(0, |word| 32 - word.leading_zeros() as usize);
        self.words.len().saturating_sub(1) * 32 + top
    }

    fn bit(&self, at: usize) -> bool {
        self.words.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1)
    }

    fn low_u128(&self) -> u128 {
        self.words.iter().take(4).rev().fold(0, |sum, &word| sum << 32 | u128::from(word))
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.words {
            let product = u64::from(*word) * u64::from(factor) + carry;
            *word = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            self.words.push(carry as u32);
        }
    }

    fn shifted(&self, bits: usize) -> Self {
        let mut words = vec![0; bits / 32];
        words.extend_from_slice(&self.words);
        let mut shifted = Self { words }.trimmed();
        shifted.multiply_add(1 << (bits % 32), 0);
        shifted
    }

    /// Divided by 2^`bits`, to nearest, ties to even.
    fn rounded_down_by(&self, bits: usize) -> Self {
        let mut words: Vec<u32> = self.words.iter().skip(bits / 32).copied().collect();
        let low = bits % 32;
        for at in 0..words.len() {
            let above = words.get(at + 1).copied().unwrap_or(0);
            words[at] = ((u64::from(above) << 32 | u64::from(words[at])) >> low) as u32;
        }
        let mut kept = Self { words }.trimmed();
        let half = bits > 0 && self.bit(bits - 1);
        let below = half && (0..bits - 1).any(|at| self.bit(at));
        if half && (below || kept.bit(0)) {
            kept = kept.plus(&Self::from(1));
        }
        kept
    }

    fn plus(&self, other: &Self) -> Self {
        let mut carry = 0;
        let mut words = Vec::new();
        for at in 0..self.words.len().max(other.words.len()) {
            let word = |big: &Self| u64::from(big.words.get(at).copied().unwrap_or(0));
            let sum = word(self) + word(other) + carry;
            words.push(sum as u32);
            carry = sum >> 32;
        }
        words.push(carry as u32);
        Self { words }.trimmed()
    }

    /// The difference to a number that is not greater.
    fn minus(&self, other: &Self) -> Self {
        let mut borrow = 0;
        let mut words = self.words.clone();
        for (at, word) in words.iter_mut().enumerate() {
            let take = i64::from(other.words.get(at).copied().unwrap_or(0)) + borrow;
            let difference = i64::from(*word) - take;
            *word = difference as u32;
            borrow = i64::from(difference < 0);
        }
        Self { words }.trimmed()
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_words = || self.words.iter().rev().cmp(other.words.iter().rev());
        self.words.len().cmp(&other.words.len()).then_with(by_words)
    }

    fn to_decimal(&self) -> String {
        const DIGITS: u64 = 1_000_000_000;
        let mut rest = self.clone();
        let mut parts = Vec::new();
        while !rest.words.is_empty() {
            let mut remainder = 0;
            for word in rest.words.iter_mut().rev() {
                let value = remainder << 32 | u64::from(*word);
                *word = (value / DIGITS) as u32;
                remainder = value % DIGITS;
            }
            rest = rest.trimmed();
            parts.push(remainder);
        }
        let mut text = parts.pop().unwrap_or(0).to_string();
        parts.iter().rev().for_each(|part| text.push_str(&format!("{part:09}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite(text: &str) -> Extended {
        match parse(text.as_bytes()) {
            Some(Number::Finite(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn sums_print_as_redis_prints_them() {
        for (a, b, sum) in [
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3.0", "-5", "-2"),
            ("1", "-1", "0"),
            ("-0", "0", "0"),
            ("0x1p4", "0xA.8", "26.5"),
            ("1e-18", "0", "0"),
            ("-1e-18", "0", "0"),
            ("1e-17", "0", "0.00000000000000001"),
            ("9007199254740993", "0.5", "9007199254740993.5"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("1e20", "0.000001", "100000000000000000000"),
        ] {
            let text = finite(a).add(finite(b)).expect("in range").to_text();
            assert_eq!(text, sum, "{a} + {b}");
        }
    }

    #[test]
    fn texts_are_read_whole_and_in_range() {
        for text in ["", ".", "1x", " 1", "1 ", "e5", "1e", "nan", "1e5000", "1e-5000", "0x"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"-inf"), Some(Number::Infinite));
        assert_eq!(finite("1.").to_text(), "1");
        assert_eq!(finite("1e4932").to_text().len(), 4933);
        assert_eq!(finite("1e4932").add(finite("1e4932")), None);
    }
}
