//! Requests: bytes from a client become commands, each a list of arguments.
//!
//! A request is either a *multibulk* (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or an *inline* line
//! (`GET k\r\n`, with quoting, see [`crate::inline`]); the first byte tells which. What is accepted,
//! what is refused and with which words follows Redis 7 (`networking.c`), including its leniency: the
//! byte after the CR of a length line and the two bytes after a bulk are skipped unread, and a NUL
//! inside a line hides the end of the line until the line is too long.
//!
//! A command that lies wholly in one read is parsed where it lies. Only an unfinished command is
//! copied, into the *kept* bytes, together with what it has taught so far, so that no byte is parsed
//! twice however the input is cut:
//!
//! ```text
//! kept   | commands not yet asked for (after a Break) | one unfinished command        |
//!        0 .. start                                   start .. kept.len()
//! partial                                             args found | at: parsed up to  | seen: no line end up to
//! ```
//!
//! Invariants: `start ≤ kept.len()`; all offsets in `partial` count from `start` and are at most
//! `kept.len() - start`; memory is reserved for bytes that arrived (at most doubled), never for
//! bytes that a length line announced.

use std::{fmt, ops::ControlFlow};

use quorate_base::limits::{ARGS_MAX, LINE_BYTES_MAX, VALUE_BYTES_MAX};
use smallvec::SmallVec;

use crate::inline;

/// Commands of up to this many arguments are handed over without allocating.
const ARGS_INLINE: usize = 16;

/// The arguments of one command.
type Args<'a> = SmallVec<[&'a [u8]; ARGS_INLINE]>;

/// Buffers larger than this are given back once they are empty.
const IDLE_BYTES_MAX: usize = 4 * 1024;

/// What a client that has not authenticated may send at most.
const UNAUTHENTICATED_ARGS_MAX: usize = 10;
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 * 1024;

/// What a client may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest bulk argument (`proto-max-bulk-len`).
    pub bulk_bytes_max: usize,
    /// The most arguments of one command.
    pub args_max: usize,
    /// Whether the client has authenticated (or need not). One that has not may send 10
    /// arguments of 16 KiB at most.
    pub authenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bulk_bytes_max: VALUE_BYTES_MAX, args_max: ARGS_MAX, authenticated: true }
    }
}

/// The client broke the protocol. The connection gets this as its last reply and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An inline request without an end within `LINE_BYTES_MAX`.
    TooBigInline,
    /// A quote was not closed, or closed in the middle of a word.
    UnbalancedQuotes,
    /// The line after `*` has no end within `LINE_BYTES_MAX`.
    TooBigMultibulkCount,
    /// The number after `*` is not one, or too large.
    InvalidMultibulkLength,
    /// The line after `$` has no end within `LINE_BYTES_MAX`.
    TooBigBulkCount,
    /// The number after `$` is not one, negative, or too large.
    InvalidBulkLength,
    /// An argument begins with this byte instead of `$`.
    ExpectedBulk(u8),
    /// Too many arguments for a client that has not authenticated.
    UnauthenticatedMultibulkLength,
    /// Too large an argument for a client that has not authenticated.
    UnauthenticatedBulkLength,
}

impl ProtocolError {
    /// The error as Redis words it, with its prefix `ERR Protocol error: `; bytes, because one of
    /// them quotes a byte of the client.
    pub fn reply_text(&self) -> Vec<u8> {
        let mut text = b"ERR Protocol error: ".to_vec();
        match self {
            Self::ExpectedBulk(got) => {
                text.extend_from_slice(b"expected '$', got '");
                text.extend_from_slice(&[*got, b'\'']);
            }
            fixed => text.extend_from_slice(fixed.words().as_bytes()),
        }
        text
    }

    fn words(&self) -> &'static str {
        match self {
            Self::TooBigInline => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::TooBigMultibulkCount => "too big mbulk count string",
            Self::InvalidMultibulkLength => "invalid multibulk length",
            Self::TooBigBulkCount => "too big bulk count string",
            Self::InvalidBulkLength => "invalid bulk length",
            Self::ExpectedBulk(_) => "expected '$'",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
        }
    }
}

/// Redis' text after `ERR Protocol error: `.
impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExpectedBulk(got) => write!(f, "expected '$', got '{}'", char::from(*got)),
            fixed => f.write_str(fixed.words()),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Decodes the requests of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    kept: Vec<u8>,
    start: usize,
    partial: Partial,
    failed: Option<ProtocolError>,
}

impl Decoder {
    /// A decoder for a new connection, with the default [`Limits`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Limits for what is parsed from now on. As a command may change them (`AUTH`), its handler
    /// breaks out of [`Decoder::feed`], sets them, and feeds again with empty input.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Bytes received but not yet handed over as commands. The caller bounds them by closing the
    /// connection (`client-query-buffer-limit`); here each argument is bounded but not their sum.
    pub fn pending_bytes(&self) -> usize {
        self.kept.len() - self.start
    }

    /// Bytes of memory the decoder holds.
    pub fn memory_bytes(&self) -> usize {
        self.kept.capacity()
            + self.partial.args.capacity() * size_of::<Span>()
            + self.partial.text.capacity()
    }

    /// Parses what was kept and then `input`, and calls `on_command` with the arguments (at least
    /// one) of each complete command. [`ControlFlow::Break`] stops after that command; the rest is
    /// kept for the next call, which may come with empty input. After an error every further call
    /// returns the same error.
    pub fn feed<F>(&mut self, input: &[u8], mut on_command: F) -> Result<(), ProtocolError>
    where
        F: FnMut(&[&[u8]]) -> ControlFlow<()>,
    {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.feed_kept(input, &mut on_command).and_then(|rest| match rest {
            Some(rest) => self.feed_in_place(rest, &mut on_command),
            None => Ok(()),
        });
        if let Err(error) = result {
            *self = Self { limits: self.limits, failed: Some(error), ..Self::default() };
        }
        result
    }

    /// Finishes the commands that began in earlier input, and returns the input left over once no
    /// byte is kept; `None` when all of it was used or kept.
    fn feed_kept<'i, F>(
        &mut self,
        mut input: &'i [u8],
        on_command: &mut F,
    ) -> Result<Option<&'i [u8]>, ProtocolError>
    where
        F: FnMut(&[&[u8]]) -> ControlFlow<()>,
    {
        while self.start < self.kept.len() {
            let unparsed = &self.kept[self.start..];
            let Some(used) = self.partial.parse(unparsed, &self.limits)? else {
                if input.is_empty() {
                    return Ok(None);
                }
                let wanted = self.partial.wanted(unparsed.len(), input).min(input.len());
                self.keep(&input[..wanted]);
                input = &input[wanted..];
                continue;
            };
            let flow = self.partial.hand_over(&unparsed[..used], on_command);
            self.start += used;
            self.partial.reset();
            if self.start == self.kept.len() {
                self.release();
            }
            if flow.is_break() {
                self.keep(input);
                return Ok(None);
            }
        }
        Ok(Some(input))
    }

    /// Parses `input` where it lies, and keeps what remains.
    fn feed_in_place<'i, F>(
        &mut self,
        mut input: &'i [u8],
        on_command: &mut F,
    ) -> Result<(), ProtocolError>
    where
        F: FnMut(&[&[u8]]) -> ControlFlow<()>,
    {
        let mut args: Args<'i> = Args::new();
        let plain = self.limits.plain();
        while !input.is_empty() {
            let (used, flow) = if let Some(used) = parse_plain(input, plain, &mut args) {
                (used, on_command(&args))
            } else {
                let Some(used) = self.partial.parse(input, &self.limits)? else { break };
                let flow = self.partial.hand_over(&input[..used], on_command);
                self.partial.reset();
                (used, flow)
            };
            input = &input[used..];
            if flow.is_break() {
                break;
            }
        }
        self.keep(input);
        Ok(())
    }

    /// Appends to the kept bytes. Commands already handed over make room first when they are the
    /// larger part, so each byte is moved a bounded number of times.
    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let pending = self.pending_bytes();
        if self.start > pending {
            self.kept.drain(..self.start);
            self.start = 0;
            if self.kept.capacity() > IDLE_BYTES_MAX && self.kept.capacity() / 4 > pending {
                self.kept.shrink_to(pending);
            }
        }
        if let Some(missing) = self.partial.bulk_missing(pending)
            && self.kept.capacity() - self.kept.len() < bytes.len()
        {
            self.kept.reserve_exact(missing.min(self.kept.len()).max(bytes.len()));
        }
        self.kept.extend_from_slice(bytes);
    }

    /// Empties the kept bytes, all of which were handed over, and gives back what is large.
    fn release(&mut self) {
        self.start = 0;
        self.kept.clear();
        if self.kept.capacity() > IDLE_BYTES_MAX {
            self.kept = Vec::new();
        }
    }
}

/// What [`parse_plain`] may accept without asking.
#[derive(Clone, Copy)]
struct Plain {
    args_max: usize,
    bulk_bytes_max: usize,
}

impl Limits {
    fn plain(&self) -> Plain {
        let (args, bulk) = if self.authenticated {
            (ARGS_INLINE, usize::MAX)
        } else {
            (UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX)
        };
        Plain { args_max: args.min(self.args_max), bulk_bytes_max: bulk.min(self.bulk_bytes_max) }
    }
}

/// The straight way through what nearly all clients send: a complete, well-formed multibulk of few
/// arguments. Returns the bytes used; `None` says nothing but "not that": [`Partial::parse`], which
/// accepts the same commands, is then to be asked.
#[inline]
fn parse_plain<'i>(input: &'i [u8], plain: Plain, args: &mut Args<'i>) -> Option<usize> {
    let (count, mut at) = plain_length(input, 0, b'*')?;
    if count == 0 || count > plain.args_max {
        return None;
    }
    args.clear();
    for _ in 0..count {
        let (len, from) = plain_length(input, at, b'$')?;
        if len > plain.bulk_bytes_max {
            return None;
        }
        let rest = &input[from..];
        if rest.len() < len + 2 {
            return None;
        }
        args.push(&rest[..len]);
        at = from + len + 2;
    }
    Some(at)
}

/// Looks ahead: hands over the second word, usually a key, of each of the first `max` commands in
/// `input`, which starts with a command. Stops at the first that is not complete and plain.
/// Returns how many bytes it looked at, whole commands all of them.
pub fn look_ahead<'i>(input: &'i [u8], max: usize, mut on_word: impl FnMut(&'i [u8])) -> usize {
    let plain = Limits::default().plain();
    let mut args: Args<'i> = Args::new();
    let mut at = 0;
    for _ in 0..max {
        let Some(used) = parse_plain(&input[at..], plain, &mut args) else { break };
        if let Some(word) = args.get(1) {
            on_word(word);
        }
        at += used;
    }
    at
}

/// Reads `kind`, one to eight digits without a leading zero, and a line end; returns the number and
/// where the line ends.
#[inline(always)]
fn plain_length(input: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let line = input.get(at..)?;
    if *line.first()? != kind {
        return None;
    }
    let first = line.get(1)?.wrapping_sub(b'0');
    if first > 9 {
        return None;
    }
    let mut value = usize::from(first);
    let mut len = 2;
    while len < 10 {
        let byte = *line.get(len)?;
        if byte == b'\r' {
            return (len + 2 <= line.len()).then_some((value, at + len + 2));
        }
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || value == 0 {
            return None;
        }
        value = value * 10 + usize::from(digit);
        len += 1;
    }
    None
}

/// Where an argument lies: its first byte and the byte after its last.
type Span = (usize, usize);

/// How far the parsing of the first unfinished command has come.
#[derive(Debug, Default)]
struct Partial {
    /// Arguments of a multibulk not yet complete; 0 before its head line is read, and for inline.
    args_left: usize,
    /// The length of the argument at `at`, once its `$` line is read.
    bulk: Option<usize>,
    /// Everything before is parsed.
    at: usize,
    /// No line end lies before, counted from the start of the command as well.
    seen: usize,
    /// The arguments found, in the bytes of the command (multibulk) or in `text` (inline).
    args: Vec<Span>,
    /// The unquoted arguments of an inline request.
    text: Vec<u8>,
}

/// A command's first byte when it is a multibulk.
const MULTIBULK: u8 = b'*';

impl Partial {
    /// Goes on parsing `bytes`, which start with the first byte of the command and must not be
    /// empty. Returns how many bytes the command takes when it is complete. A command without arguments
    /// is complete too, and is not to be handed over.
    fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        if bytes[0] == MULTIBULK {
            self.parse_multibulk(bytes, limits)
        } else {
            self.parse_inline(bytes)
        }
    }

    fn parse_multibulk(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        if self.at == 0 {
            let Some(line) = self.length_line(bytes, ProtocolError::TooBigMultibulkCount)? else {
                return Ok(None);
            };
            let count = parse_i64(&line[1..])
                .and_then(|count| usize::try_from(count.max(0)).ok())
                .filter(|&count| count <= limits.args_max)
                .ok_or(ProtocolError::InvalidMultibulkLength)?;
            if count > UNAUTHENTICATED_ARGS_MAX && !limits.authenticated {
                return Err(ProtocolError::UnauthenticatedMultibulkLength);
            }
            self.args_left = count;
        }
        while self.args_left > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => match self.bulk_length(bytes, limits)? {
                    Some(len) => len,
                    None => return Ok(None),
                },
            };
            if bytes.len() - self.at < len + 2 {
                self.bulk = Some(len);
                return Ok(None);
            }
            self.args.push((self.at, self.at + len));
            self.at += len + 2;
            self.seen = self.at;
            self.bulk = None;
            self.args_left -= 1;
        }
        Ok(Some(self.at))
    }

    /// Reads the `$` line at `at`.
    fn bulk_length(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.length_line(bytes, ProtocolError::TooBigBulkCount)? else {
            return Ok(None);
        };
        // The first byte is there even when the line is empty: then it is the CR itself.
        let (kind, digits) = line.split_first().unwrap_or((&b'\r', &[]));
        if *kind != b'$' {
            return Err(ProtocolError::ExpectedBulk(*kind));
        }
        let len = parse_i64(digits)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|&len| len <= limits.bulk_bytes_max)
            .ok_or(ProtocolError::InvalidBulkLength)?;
        if len > UNAUTHENTICATED_BULK_BYTES_MAX && !limits.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        Ok(Some(len))
    }

    /// The line at `at` up to its CR, which is stepped over together with the byte after it; `None`
    /// as long as that is not there.
    fn length_line<'b>(
        &mut self,
        bytes: &'b [u8],
        too_long: ProtocolError,
    ) -> Result<Option<&'b [u8]>, ProtocolError> {
        let Some(end) = self.line_end(bytes, b'\r', too_long)? else { return Ok(None) };
        if end + 2 > bytes.len() {
            return Ok(None);
        }
        let line = &bytes[self.at..end];
        self.at = end + 2;
        self.seen = self.at;
        Ok(Some(line))
    }

    /// Where the first `end` at or after `at` lies. A NUL ends the search without result, as it
    /// does in Redis.
    fn line_end(
        &mut self,
        bytes: &[u8],
        end: u8,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let unseen = bytes.get(self.seen..).unwrap_or_default();
        let found = unseen.iter().position(|&byte| byte == end || byte == 0);
        self.seen += found.unwrap_or(unseen.len());
        let hidden = found.is_some() && bytes[self.seen] == 0;
        let line_bytes = if hidden { bytes.len() } else { self.seen } - self.at;
        if line_bytes > LINE_BYTES_MAX {
            return Err(too_long);
        }
        Ok((found.is_some() && !hidden).then_some(self.seen))
    }

    fn parse_inline(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(end) = self.line_end(bytes, b'\n', ProtocolError::TooBigInline)? else {
            return Ok(None);
        };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        inline::split(line, &mut self.text, &mut self.args)
            .map_err(|inline::Unbalanced| ProtocolError::UnbalancedQuotes)?;
        self.at = end + 1;
        Ok(Some(self.at))
    }

    /// Calls `on_command` with the arguments of the complete command in `bytes`, if it has any.
    fn hand_over<F>(&self, bytes: &[u8], on_command: &mut F) -> ControlFlow<()>
    where
        F: FnMut(&[&[u8]]) -> ControlFlow<()>,
    {
        if self.args.is_empty() {
            return ControlFlow::Continue(());
        }
        let text = if bytes[0] == MULTIBULK { bytes } else { &self.text };
        let args: Args<'_> = self.args.iter().map(|&(from, to)| &text[from..to]).collect();
        on_command(&args)
    }

    /// How many bytes of `input` surely belong to this command, of which `have` bytes are here. An
    /// estimate at a line: more is parsed as well, but was copied in vain. At least 1.
    fn wanted(&self, have: usize, input: &[u8]) -> usize {
        if let Some(missing) = self.bulk_missing(have) {
            return missing;
        }
        // Every line ends in LF: Redis would take any byte for it, but then the estimate is just poor.
        let end = input.iter().position(|&byte| byte == b'\n');
        end.map_or(input.len(), |end| end + 1)
    }

    /// How many bytes the argument being received lacks when `have` bytes of the command are here.
    fn bulk_missing(&self, have: usize) -> Option<usize> {
        self.bulk.map(|len| (self.at + len + 2).saturating_sub(have))
    }

    /// Ready for the next command.
    fn reset(&mut self) {
        self.args_left = 0;
        self.bulk = None;
        self.at = 0;
        self.seen = 0;
        self.args.clear();
        self.text.clear();
        if self.args.capacity() * size_of::<Span>() > IDLE_BYTES_MAX {
            self.args = Vec::new();
        }
        if self.text.capacity() > IDLE_BYTES_MAX {
            self.text = Vec::new();
        }
    }
}

/// A decimal number as Redis reads it: an optional minus, no plus, no leading zero, nothing around.
fn parse_i64(text: &[u8]) -> Option<i64> {
    match text {
        b"0" => return Some(0),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] => {}
        _ => return None,
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
