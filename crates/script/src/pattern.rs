//! Lua 5.1's patterns (manual, section 5.4.1), matched with a bound on the work: the C library's
//! matcher may take exponential time, in which no instruction is counted.

use crate::meter::Meter;

/// The most captures of a pattern, as in Lua.
pub(crate) const CAPTURES_MAX: usize = 32;

/// How deep matching may nest: once for each capture and each optional item under way.
const DEPTH_MAX: usize = 200;

/// Steps that are charged at once.
const STEPS: u64 = 64;

/// Why a pattern did not match nor fail to match.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The pattern makes no sense.
    Pattern(&'static str),
    /// The script has to end.
    Stopped(mlua::Error),
}

type Found = Result<Option<usize>, Problem>;

/// A part of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// It is not closed yet.
    Open { start: usize },
    /// `()`: where it is.
    Position(usize),
    /// From `start` to before `end`.
    Text { start: usize, end: usize },
}

/// One pattern on one subject.
pub(crate) struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    meter: &'a Meter,
    pub(crate) captures: Vec<Capture>,
    depth: usize,
    steps: u64,
}

impl<'a> Matcher<'a> {
    /// The pattern ends with its first zero byte, as in Lua 5.1.
    pub(crate) fn new(subject: &'a [u8], pattern: &'a [u8], meter: &'a Meter) -> Self {
        let len = pattern.iter().position(|&b| b == 0).unwrap_or(pattern.len());
        let pattern = &pattern[..len];
        Self { subject, pattern, meter, captures: Vec::new(), depth: 0, steps: 0 }
    }

    /// Where a match that begins at `start` ends.
    pub(crate) fn match_at(&mut self, start: usize) -> Found {
        self.captures.clear();
        self.step()?;
        self.matches(start, 0)
    }

    fn step(&mut self) -> Result<(), Problem> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) {
            self.meter.charge(STEPS).map_err(Problem::Stopped)?;
        }
        Ok(())
    }

    /// Matches the rest of the pattern, from `p`, at `s`.
    fn matches(&mut self, s: usize, p: usize) -> Found {
        if self.depth == DEPTH_MAX {
            return Err(Problem::Pattern("pattern too complex"));
        }
        self.depth += 1;
        let found = self.matches_items(s, p);
        self.depth -= 1;
        found
    }

    fn matches_items(&mut self, mut s: usize, mut p: usize) -> Found {
        loop {
            self.step()?;
            let Some(&item) = self.pattern.get(p) else { return Ok(Some(s)) };
            match item {
                b'(' => return self.open(s, p),
                b')' => return self.close(s, p + 1),
                b'%' if self.pattern.get(p + 1) == Some(&b'b') => {
                    let Some(after) = self.balance(s, p + 2)? else { return Ok(None) };
                    (s, p) = (after, p + 4);
                    continue;
                }
                b'%' if self.pattern.get(p + 1) == Some(&b'f') => {
                    let set = p + 2;
                    if self.pattern.get(set) != Some(&b'[') {
                        let text = "missing '[' after '%f' in pattern";
                        return Err(Problem::Pattern(text));
                    }
                    let end = self.item_end(set)?;
                    let before = if s == 0 { 0 } else { self.subject[s - 1] };
                    let here = self.subject.get(s).copied().unwrap_or(0);
                    if self.in_set(before, set, end - 1) || !self.in_set(here, set, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                    continue;
                }
                b'%' if self.pattern.get(p + 1).is_some_and(u8::is_ascii_digit) => {
                    let Some(after) = self.back_reference(s, self.pattern[p + 1])? else {
                        return Ok(None);
                    };
                    (s, p) = (after, p + 2);
                    continue;
                }
                b'$' if p + 1 == self.pattern.len() => {
                    return Ok((s == self.subject.len()).then_some(s));
                }
                _ => {}
            }
            let end = self.item_end(p)?;
            match self.pattern.get(end) {
                Some(b'?') => {
                    if self.one(s, p, end)
                        && let Some(after) = self.matches(s + 1, end + 1)?
                    {
                        return Ok(Some(after));
                    }
                    p = end + 1;
                }
                Some(b'*') => return self.most(s, p, end),
                Some(b'+') => {
                    return if self.one(s, p, end) { self.most(s + 1, p, end) } else { Ok(None) };
                }
                Some(b'-') => return self.least(s, p, end),
                _ => {
                    if !self.one(s, p, end) {
                        return Ok(None);
                    }
                    (s, p) = (s + 1, end);
                }
            }
        }
    }

    /// Where the item that begins at `p` ends, without what repeats it.
    fn item_end(&self, p: usize) -> Result<usize, Problem> {
        match self.pattern[p] {
            b'%' if p + 1 == self.pattern.len() => {
                Err(Problem::Pattern("malformed pattern (ends with '%')"))
            }
            b'%' => Ok(p + 2),
            b'[' => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                let missing = Problem::Pattern("malformed pattern (missing ']')");
                loop {
                    // The first character of a set may be a bracket.
                    let Some(&byte) = self.pattern.get(at) else { return Err(missing) };
                    at += 1;
                    if byte == b'%' {
                        if at == self.pattern.len() {
                            return Err(missing);
                        }
                        at += 1;
                    }
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Whether the item `p..end` matches the byte at `s`.
    fn one(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => in_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether the set that begins at `p` and whose bracket closes at `last` has the byte.
    fn in_set(&self, byte: u8, p: usize, last: usize) -> bool {
        let mut at = p + 1;
        let negated = self.pattern[at] == b'^';
        at += usize::from(negated);
        while at < last {
            if self.pattern[at] == b'%' {
                if in_class(byte, self.pattern[at + 1]) {
                    return !negated;
                }
                at += 2;
            } else if self.pattern[at + 1] == b'-' && at + 2 < last {
                if (self.pattern[at]..=self.pattern[at + 2]).contains(&byte) {
                    return !negated;
                }
                at += 3;
            } else {
                if self.pattern[at] == byte {
                    return !negated;
                }
                at += 1;
            }
        }
        negated
    }

    fn most(&mut self, s: usize, p: usize, end: usize) -> Found {
        let mut count = 0;
        while self.one(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(after) = self.matches(s + count, end + 1)? {
                return Ok(Some(after));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(after) = self.matches(s, end + 1)? {
                return Ok(Some(after));
            }
            if !self.one(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize) -> Found {
        if self.captures.len() == CAPTURES_MAX {
            return Err(Problem::Pattern("too many captures"));
        }
        let position = self.pattern.get(p + 1) == Some(&b')');
        let (capture, next) = if position {
            (Capture::Position(s), p + 2)
        } else {
            (Capture::Open { start: s }, p + 1)
        };
        let level = self.captures.len();
        self.captures.push(capture);
        let found = self.matches(s, next)?;
        if found.is_none() {
            self.captures.truncate(level);
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures.iter().rposition(|c| matches!(c, Capture::Open { .. }));
        let Some(level) = open else { return Err(Problem::Pattern("invalid pattern capture")) };
        let Capture::Open { start } = self.captures[level] else { unreachable!("it was found") };
        self.captures[level] = Capture::Text { start, end: s };
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures[level] = Capture::Open { start };
        }
        Ok(found)
    }

    /// `%bxy`, whose two bytes stand at `p`.
    fn balance(&mut self, s: usize, p: usize) -> Found {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(Problem::Pattern("unbalanced pattern"));
        };
        if self.subject.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut nested = 1;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[at];
            if byte == close {
                nested -= 1;
                if nested == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                nested += 1;
            }
        }
        Ok(None)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Found {
        let wrong = Problem::Pattern("invalid capture index");
        let Some(level) = digit.checked_sub(b'1') else { return Err(wrong) };
        let text = match self.captures.get(usize::from(level)) {
            Some(&Capture::Text { start, end }) => &self.subject[start..end],
            Some(Capture::Position(_)) => return Ok(None),
            Some(Capture::Open { .. }) | None => return Err(wrong),
        };
        self.steps += text.len() as u64 / STEPS * STEPS;
        self.meter.charge(text.len() as u64).map_err(Problem::Stopped)?;
        Ok(self.subject[s..].starts_with(text).then_some(s + text.len()))
    }
}

fn in_class(byte: u8, class: u8) -> bool {
    let within = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    within != class.is_ascii_uppercase()
}
