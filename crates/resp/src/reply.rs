//! Replies: typed calls that append RESP to a buffer, in the version the client speaks.

pub use crate::double::format_double;
use crate::double::{DoubleBuf, write_double};

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proto {
    /// RESP2, what every connection starts with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// Appends replies to a buffer. Aggregates are written head first: `array(2)` and then two replies.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    proto: Proto,
}

impl<'a> Reply<'a> {
    /// Replies appended to `out`.
    pub fn new(out: &'a mut Vec<u8>, proto: Proto) -> Self {
        Self { out, proto }
    }

    /// The version in use.
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// How many bytes the buffer holds; a mark for [`Reply::truncate`].
    pub fn mark(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything written after `mark`.
    pub fn truncate(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    /// Appends bytes that are a reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// `+OK`
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string; must not contain CR or LF.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error: its prefix and text, without the leading `-`. CR and LF become spaces, as in Redis.
    pub fn error(&mut self, text: &[u8]) {
        self.out.push(b'-');
        self.out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn int(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A bulk string holding a decimal integer.
    pub fn bulk_int(&mut self, value: i64) {
        let mut digits = Digits::default();
        let text = digits.format(value);
        self.bulk(text);
    }

    /// A verbatim string (`txt`, `mkd`); a bulk string in RESP2.
    pub fn verbatim(&mut self, format: &str, text: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.extend_from_slice(format.as_bytes());
                self.out.push(b':');
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The null reply: a null bulk string in RESP2, `_` in RESP3.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"$-1\r\n",
            Proto::Resp3 => b"_\r\n".as_slice(),
        });
    }

    /// The null reply of commands that return arrays: a null array in RESP2, `_` in RESP3.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"*-1\r\n",
            Proto::Resp3 => b"_\r\n".as_slice(),
        });
    }

    /// The head of an array of `len` replies.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The head of a map of `len` pairs; in RESP2 an array of twice as many.
    pub fn map(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.array(len * 2),
            Proto::Resp3 => self.header(b'%', len as i64),
        }
    }

    /// The head of a set; in RESP2 an array.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.array(len),
            Proto::Resp3 => self.header(b'~', len as i64),
        }
    }

    /// The head of an out-of-band push; in RESP2 an array.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.array(len),
            Proto::Resp3 => self.header(b'>', len as i64),
        }
    }

    /// A floating-point number, see [`format_double`]; in RESP2 a bulk string.
    pub fn double(&mut self, value: f64) {
        let mut buf = DoubleBuf::default();
        let text = write_double(value, &mut buf);
        match self.proto {
            Proto::Resp2 => self.bulk(text),
            Proto::Resp3 => {
                self.out.push(b',');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A boolean; in RESP2 the integer 1 or 0.
    pub fn bool(&mut self, value: bool) {
        match self.proto {
            Proto::Resp2 => self.int(i64::from(value)),
            Proto::Resp3 => self.out.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    #[inline]
    fn header(&mut self, kind: u8, value: i64) {
        self.out.push(kind);
        if (0..10).contains(&value) {
            self.out.push(b'0' + value as u8);
        } else {
            let mut digits = Digits::default();
            self.out.extend_from_slice(digits.format(value));
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Room for the decimal digits of an `i64`.
#[derive(Default)]
struct Digits([u8; 20]);

impl Digits {
    fn format(&mut self, value: i64) -> &[u8] {
        let mut rest = value.unsigned_abs();
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        &self.0[at..]
    }
}
