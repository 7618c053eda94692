//! A RESP2 and RESP3 client that interprets nothing: equal values came as equal bytes.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply, with its type bytes and the text of its numbers as they came.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// `+ - : , # ( _`: one line.
    Line(u8, Vec<u8>),
    /// `$ = !`: counted bytes; `None` is RESP2's null.
    Blob(u8, Option<Vec<u8>>),
    /// `* ~ > %`: counted replies, a map's keys and values in turn; `None` is RESP2's null.
    Many(u8, Option<Vec<Value>>),
}

impl Value {
    /// True for an error.
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Line(b'-', _) | Self::Blob(b'!', _))
    }

    /// True for the nulls of both protocols.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Line(b'_', _) | Self::Blob(_, None) | Self::Many(_, None))
    }

    /// The bytes of a line or blob, empty for anything else.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Line(_, bytes) | Self::Blob(_, Some(bytes)) => bytes,
            _ => b"",
        }
    }

    /// The bytes as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The bytes as a number.
    pub(crate) fn number(&self) -> Option<i64> {
        self.text().parse().ok()
    }

    /// The replies inside, none for anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::Many(_, Some(items)) => items,
            _ => &[],
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(kind, text) => write!(f, "{}{}", *kind as char, text.escape_ascii()),
            Self::Blob(kind, Some(bytes)) => {
                write!(f, "{}\"{}\"", *kind as char, bytes.escape_ascii())
            }
            Self::Many(kind, Some(items)) => {
                write!(f, "{}{} ", *kind as char, items.len())?;
                f.debug_list().entries(items).finish()
            }
            Self::Blob(kind, None) | Self::Many(kind, None) => write!(f, "{}-1", *kind as char),
        }
    }
}

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    unsent: Vec<u8>,
}

impl Client {
    /// Connects. Every wait for a reply is bounded by `patience`.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream), unsent: Vec::new() })
    }

    /// Encodes a command to be sent with the next [`Client::flush`].
    pub(crate) fn queue<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let out = &mut self.unsent;
        out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            let arg = arg.as_ref();
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what was queued.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let unsent = std::mem::take(&mut self.unsent);
        self.stream.get_mut().write_all(&unsent)
    }

    /// Reads one reply.
    pub(crate) fn read(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.len() - 2);
        let kind = line.first().copied().unwrap_or(b'?');
        line.drain(..line.len().min(1));
        let len = || -> io::Result<Option<usize>> {
            match std::str::from_utf8(&line).ok().and_then(|t| t.parse::<i64>().ok()) {
                Some(-1) => Ok(None),
                Some(len) if len >= 0 => Ok(Some(len as usize)),
                _ => Err(io::Error::other(format!("bad length: {}", line.escape_ascii()))),
            }
        };
        match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_' => Ok(Value::Line(kind, line)),
            b'$' | b'=' | b'!' => {
                let Some(len) = len()? else { return Ok(Value::Blob(kind, None)) };
                let mut body = vec![0; len + 2];
                self.stream.read_exact(&mut body)?;
                assert!(body.ends_with(b"\r\n"), "a blob ends with a line break");
                body.truncate(len);
                Ok(Value::Blob(kind, Some(body)))
            }
            b'*' | b'~' | b'>' | b'%' => {
                let Some(len) = len()? else { return Ok(Value::Many(kind, None)) };
                let count = if kind == b'%' { len * 2 } else { len };
                let items = (0..count).map(|_| self.read()).collect::<io::Result<_>>()?;
                Ok(Value::Many(kind, Some(items)))
            }
            other => Err(io::Error::other(format!("no reply starts with {other:#04x}"))),
        }
    }

    /// Sends a command and reads its reply.
    pub(crate) fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.queue(args);
        self.flush()?;
        self.read()
    }

    /// The same where the server must answer.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.try_call(args).unwrap_or_else(|error| {
            let words: Vec<_> =
                args.iter().map(|a| a.as_ref().escape_ascii().to_string()).collect();
            panic!("no reply to '{}': {error}", words.join(" "))
        })
    }

    /// The same for a line of words.
    pub(crate) fn line(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.call(&words)
    }
}
