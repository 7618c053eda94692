//! Entry ids.

use crate::error::Error;
use quorate_resp::Reply;

const INVALID: Error = Error::text("ERR Invalid stream ID specified as stream command argument");

/// The longest text that is tried as an id, bytes.
const TEXT_BYTES_MAX: usize = 127;

/// The id of an entry: a time in milliseconds and a number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

/// What XADD accepts in place of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewId {
    /// `*`: the present time.
    Auto,
    /// `ms-*`: the next number within a given time.
    AutoSeq(u64),
    /// An id as it stands.
    Given(Id),
}

impl Id {
    pub(super) const MIN: Self = Self { ms: 0, seq: 0 };
    pub(super) const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// The id after this one; `None` after the greatest.
    pub(super) fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The id before this one; `None` before the least.
    pub(super) fn previous(self) -> Option<Self> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Self { seq, ..self }),
            None => Some(Self { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// Both halves in big-endian order, so that bytes sort as ids do.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let both = u128::from_be_bytes(bytes.try_into().expect("an id has sixteen bytes"));
        Self { ms: (both >> 64) as u64, seq: both as u64 }
    }

    /// An id that names one entry: `ms` or `ms-seq`.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        Self::parse_or(text, 0)
    }

    /// The same with `missing_seq` where only `ms` is given.
    fn parse_or(text: &[u8], missing_seq: u64) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(INVALID);
        }
        let (ms, seq) = match text.iter().position(|&b| b == b'-') {
            Some(dash) => (&text[..dash], unsigned(&text[dash + 1..])),
            None => (text, Some(missing_seq)),
        };
        match (unsigned(ms), seq) {
            (Some(ms), Some(seq)) => Ok(Self { ms, seq }),
            _ => Err(INVALID),
        }
    }

    /// The first id of an interval: also `-`, `+` and, excluding the id, `(id`.
    pub(super) fn parse_start(text: &[u8]) -> Result<Self, Error> {
        const START: Error = Error::text("ERR invalid start ID for the interval");
        match text {
            [b'(', id @ ..] if !id.is_empty() => Self::parse_or(id, 0)?.next().ok_or(START),
            _ => Self::parse_inclusive(text, 0),
        }
    }

    /// The last id of an interval: also `-`, `+` and, excluding the id, `(id`.
    pub(super) fn parse_end(text: &[u8]) -> Result<Self, Error> {
        const END: Error = Error::text("ERR invalid end ID for the interval");
        match text {
            [b'(', id @ ..] if !id.is_empty() => {
                Self::parse_or(id, u64::MAX)?.previous().ok_or(END)
            }
            _ => Self::parse_inclusive(text, u64::MAX),
        }
    }

    /// An id, `-` for the least or `+` for the greatest.
    pub(super) fn parse_inclusive(text: &[u8], missing_seq: u64) -> Result<Self, Error> {
        match text {
            b"-" => Ok(Self::MIN),
            b"+" => Ok(Self::MAX),
            _ => Self::parse_or(text, missing_seq),
        }
    }

    /// Replies the id as `ms-seq`.
    pub(super) fn reply(self, reply: &mut Reply<'_>) {
        let mut text = [0; 41];
        let at = put_digits(&mut text, 41, self.seq) - 1;
        text[at] = b'-';
        let at = put_digits(&mut text, at, self.ms);
        reply.bulk(&text[at..]);
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl NewId {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        if text == b"*" {
            return Ok(Self::Auto);
        }
        match text.strip_suffix(b"-*") {
            Some(ms) if text.len() <= TEXT_BYTES_MAX => {
                unsigned(ms).map(Self::AutoSeq).ok_or(INVALID)
            }
            _ => Id::parse(text).map(Self::Given),
        }
    }

    /// The id of an entry added at `now` after `last`; `None` if it would not be greater.
    pub(super) fn resolve(self, now: u64, last: Id) -> Option<Id> {
        let id = match self {
            Self::Auto if now > last.ms => Id { ms: now, seq: 0 },
            Self::Auto => last.next()?,
            Self::AutoSeq(ms) if ms == last.ms => Id { ms, seq: last.seq.checked_add(1)? },
            Self::AutoSeq(ms) => Id { ms, seq: 0 },
            Self::Given(id) => id,
        };
        (id > last).then_some(id)
    }
}

/// An unsigned integer as C's `strtoull` reads it: leading spaces, a plus sign and leading zeros
/// are allowed.
fn unsigned(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii_start();
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Writes the digits of `value` so that they end before `end`; returns where they start.
fn put_digits(text: &mut [u8; 41], end: usize, mut value: u64) -> usize {
    let mut at = end;
    loop {
        at -= 1;
        text[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_resp::Proto;

    #[test]
    fn ids_parse_as_in_redis() {
        for (text, want) in [
            ("5-3", Some((5, 3))),
            ("5", Some((5, 0))),
            ("05-003", Some((5, 3))),
            ("18446744073709551615-18446744073709551615", Some((u64::MAX, u64::MAX))),
            ("18446744073709551616", None),
            ("5-", None),
            ("-5", None),
            ("5--3", None),
            ("+", None),
            ("-", None),
            ("", None),
            ("5-3 ", None),
        ] {
            let got = Id::parse(text.as_bytes()).ok();
            assert_eq!(got, want.map(|(ms, seq)| Id { ms, seq }), "{text}");
        }
    }

    #[test]
    fn neighbours_carry_and_end() {
        let id = Id { ms: 4, seq: u64::MAX };
        assert_eq!(id.next(), Some(Id { ms: 5, seq: 0 }));
        assert_eq!(Id { ms: 5, seq: 0 }.previous(), Some(id));
        assert_eq!((Id::MAX.next(), Id::MIN.previous()), (None, None));
        assert_eq!(Id::from_bytes(&id.to_bytes()), id);
    }

    #[test]
    fn the_longest_id_is_replied() {
        let mut out = Vec::new();
        Id::MAX.reply(&mut Reply::new(&mut out, Proto::Resp2));
        assert_eq!(out, format!("$41\r\n{}\r\n", Id::MAX).into_bytes());
    }
}
