//! Replies in RESP2, as a client reads them: bytes in any cut in, whole replies out.

use std::fmt;

/// How deep arrays may nest, and how long a bulk string may be, before the bytes count as damaged.
const DEPTH_MAX: usize = 16;
const BULK_BYTES_MAX: usize = 64 << 20;
/// How many bytes a line may have (an integer, a length, a simple string, an error).
const LINE_BYTES_MAX: usize = 64 << 10;

/// One reply.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:number`
    Int(i64),
    /// `$…`
    Bulk(Vec<u8>),
    /// `*…`
    Array(Vec<Reply>),
    /// `$-1` or `*-1`
    Null,
}

impl Reply {
    /// `+OK`
    pub fn ok() -> Self {
        Self::Simple("OK".into())
    }

    /// A bulk string.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// Whether this is the simple string `text`.
    pub fn is_simple(&self, text: &str) -> bool {
        matches!(self, Self::Simple(simple) if simple == text)
    }

    /// Appends the reply as a server sends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(replies) => {
                out.extend_from_slice(format!("*{}\r\n", replies.len()).as_bytes());
                replies.iter().for_each(|reply| reply.encode(out));
            }
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Int(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Array(replies) => f.debug_list().entries(replies).finish(),
            Self::Null => f.write_str("nil"),
        }
    }
}

/// Collects bytes and gives replies. After an error it stays in that error.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    bytes: Vec<u8>,
    at: usize,
    /// Arrays that are not complete: how many replies are missing, and those that came.
    open: Vec<(usize, Vec<Reply>)>,
    broken: Option<String>,
}

impl Parser {
    /// Adds bytes that were received.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole reply, `None` if more bytes are needed; an error says what is no RESP2.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let result = self.assemble();
        if let Err(why) = &result {
            self.broken = Some(why.clone());
        }
        result
    }

    fn assemble(&mut self) -> Result<Option<Reply>, String> {
        while let Some(mut reply) = self.element()? {
            loop {
                let Some((missing, mut replies)) = self.open.pop() else { return Ok(Some(reply)) };
                replies.push(reply);
                if missing > 1 {
                    self.open.push((missing - 1, replies));
                    break;
                }
                reply = Reply::Array(replies);
            }
        }
        Ok(None)
    }

    /// The next reply that is no array with elements; heads of such arrays are opened on the way.
    fn element(&mut self) -> Result<Option<Reply>, String> {
        loop {
            let rest = &self.bytes[self.at..];
            let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err("a line without an end".into());
                }
                return Ok(None);
            };
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            let mut chars = line.chars();
            let kind = chars.next();
            let text = chars.as_str();
            let past_line = end + 2;
            let number = || text.parse::<i64>().map_err(|_| format!("{line:?} has no number"));
            let reply = match kind {
                Some('+') => Reply::Simple(text.into()),
                Some('-') => Reply::Error(text.into()),
                Some(':') => Reply::Int(number()?),
                Some('$' | '*') if number()? == -1 => Reply::Null,
                Some('*') if number()? == 0 => Reply::Array(Vec::new()),
                Some('*') => {
                    let len = usize::try_from(number()?).map_err(|_| format!("{line:?}"))?;
                    if self.open.len() == DEPTH_MAX {
                        return Err("arrays nest too deep".into());
                    }
                    self.open.push((len, Vec::new()));
                    self.at += past_line;
                    continue;
                }
                Some('$') => {
                    let len = usize::try_from(number()?).map_err(|_| format!("{line:?}"))?;
                    if len > BULK_BYTES_MAX {
                        return Err(format!("a bulk string of {len} bytes"));
                    }
                    let Some(body) = rest.get(past_line..past_line + len + 2) else {
                        return Ok(None);
                    };
                    if !body.ends_with(b"\r\n") {
                        return Err("a bulk string without an end".into());
                    }
                    let bulk = Reply::Bulk(body[..len].to_vec());
                    self.at += past_line + len + 2;
                    return Ok(Some(bulk));
                }
                _ => return Err(format!("{line:?} is no reply")),
            };
            self.at += past_line;
            return Ok(Some(reply));
        }
    }
}

/// The only reply that `bytes` consist of.
pub fn parse_one(bytes: &[u8]) -> Result<Reply, String> {
    let mut parser = Parser::default();
    parser.feed(bytes);
    let reply = parser.next_reply()?.ok_or("the reply is cut off")?;
    match parser.next_reply()? {
        None if parser.at == parser.bytes.len() => Ok(reply),
        _ => Err("more than one reply".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replies() -> impl Strategy<Value = Reply> {
        let leaf = prop_oneof![
            "[a-zA-Z0-9 ]{0,12}".prop_map(Reply::Simple),
            "[A-Z]{1,9} [a-z]{0,9}".prop_map(Reply::Error),
            any::<i64>().prop_map(Reply::Int),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Reply::Bulk),
            Just(Reply::Null),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop::collection::vec(inner, 0..6).prop_map(Reply::Array)
        })
    }

    proptest! {
        #[test]
        fn replies_survive_every_cut(
            sent in prop::collection::vec(replies(), 1..6),
            cuts in prop::collection::vec(1usize..20, 1..50),
        ) {
            let mut bytes = Vec::new();
            sent.iter().for_each(|reply| reply.encode(&mut bytes));
            let mut parser = Parser::default();
            let mut got = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                rest = tail;
                parser.feed(head);
                while let Some(reply) = parser.next_reply().unwrap() {
                    got.push(reply);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_end_in_replies_or_an_error(bytes: Vec<u8>, head in "[-+:$*]-?[0-9]{0,3}\r\n") {
            for bytes in [bytes.clone(), [head.as_bytes(), &bytes].concat()] {
                let mut parser = Parser::default();
                parser.feed(&bytes);
                while let Ok(Some(_)) = parser.next_reply() {}
            }
        }
    }

    #[test]
    fn damaged_bytes_are_errors_for_good() {
        for bytes in ["?\r\n", ":x\r\n", "$1\r\nabc", "*-2\r\n", "$-2\r\n", "\r\n"] {
            let mut parser = Parser::default();
            parser.feed(bytes.as_bytes());
            assert!(parser.next_reply().is_err(), "{bytes:?}");
            parser.feed(b"+OK\r\n");
            assert!(parser.next_reply().is_err(), "{bytes:?}");
        }
        assert!(parse_one(b"+OK\r\n+OK\r\n").is_err());
        assert!(parse_one(b"*1\r\n").is_err());
    }
}
