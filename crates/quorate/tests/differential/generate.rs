//! From a seed to a sequence of commands.

use super::grammar::{FAMILIES, FILLERS, Family, ODD_WORDS, alphabet};
use quorate_base::Prng;

/// A command's words.
pub(crate) type Words = Vec<Vec<u8>>;

/// Steps of a sequence.
const STEPS_MAX: u64 = 150;

/// Families that a sequence mixes: few, so that their commands meet.
const FAMILIES_MAX: u64 = 3;

/// Repetitions of `(…)+` and `[…]*`.
const REPEATS_MAX: u64 = 3;

/// What a seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) resp3: bool,
    pub(crate) steps: Vec<Step>,
}

/// A command, and whether it is sent together with the one before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) words: Words,
    pub(crate) pipelined: bool,
}

/// The sequence of `seed`; `resp3` forces the protocol.
pub(crate) fn sequence(seed: u64) -> Sequence {
    let mut random = Prng::new(seed);
    let resp3 = random.below(2) == 0;
    let count = 1 + random.below(FAMILIES_MAX);
    let families: Vec<&Family> = (0..count).map(|_| pick(&mut random, FAMILIES)).collect();
    // Few keys make types collide; the seed says how few.
    let mut generator = Generator { random, families, keys: 0, distort_percent: 0 };
    generator.keys = 2 + generator.random.below(5) as usize;
    generator.distort_percent = [0, 4, 15][generator.random.below(3) as usize];
    let pipelined_percent = [0, 30, 90][generator.random.below(3) as usize];
    let transactions_percent = [0, 3, 10][generator.random.below(3) as usize];
    let mut steps = Vec::new();
    let wanted = 20 + generator.random.below(STEPS_MAX - 20) as usize;
    while steps.len() < wanted {
        let mut commands = Vec::new();
        if generator.percent(transactions_percent) {
            generator.transaction(&mut commands);
        } else {
            commands.push(generator.command());
        }
        for words in commands {
            let pipelined = generator.percent(pipelined_percent);
            steps.push(Step { words, pipelined });
        }
    }
    Sequence { resp3, steps }
}

struct Generator {
    random: Prng,
    families: Vec<&'static Family>,
    keys: usize,
    distort_percent: u64,
}

fn pick<'a, T>(random: &mut Prng, from: &'a [T]) -> &'a T {
    &from[random.below(from.len() as u64) as usize]
}

impl Generator {
    fn percent(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn transaction(&mut self, out: &mut Vec<Words>) {
        if self.percent(20) && self.may_watch() {
            out.push(vec![b"WATCH".to_vec(), self.word("k")]);
        }
        out.push(vec![b"MULTI".to_vec()]);
        for _ in 0..self.random.below(8) {
            out.push(self.command());
        }
        let last: &[u8] = if self.percent(10) { b"DISCARD" } else { b"EXEC" };
        out.push(vec![last.to_vec()]);
    }

    fn command(&mut self) -> Words {
        let shapes =
            if self.percent(15) { FILLERS } else { pick(&mut self.random, &self.families).1 };
        let shape = *pick(&mut self.random, shapes);
        let (shape, whole) = match shape.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (shape, false),
        };
        let mut words = Words::new();
        self.expand(shape, &mut words);
        if words[0] == b"WATCH" && !self.may_watch() {
            words = vec![b"UNWATCH".to_vec()];
        }
        if !whole && self.percent(self.distort_percent) {
            self.distort(&mut words);
        }
        words
    }

    /// Redis does not count XGROUP and its like as changes; here they are, as WATCH permits.
    fn may_watch(&self) -> bool {
        self.families.iter().all(|(name, _)| *name != "stream groups")
    }

    /// Makes the command wrong in one place.
    fn distort(&mut self, words: &mut Words) {
        let at = self.random.below(words.len() as u64) as usize;
        match self.random.below(4) {
            0 if at > 0 => drop(words.remove(at)),
            1 => words.push(pick(&mut self.random, ODD_WORDS).as_bytes().to_vec()),
            2 if at > 0 => words.swap(at, 1),
            _ if at > 0 => words[at] = pick(&mut self.random, ODD_WORDS).as_bytes().to_vec(),
            _ => {}
        }
    }

    /// Appends what a shape stands for, see `grammar`.
    fn expand(&mut self, shape: &str, out: &mut Words) {
        let mut rest = shape.trim_start();
        while !rest.is_empty() {
            let first = rest.as_bytes()[0];
            if first == b'(' || first == b'[' {
                let end = matching(rest);
                let inner = &rest[1..end];
                rest = &rest[end + 1..];
                let many = rest.starts_with(['+', '*']);
                if many {
                    rest = &rest[1..];
                }
                let count = match (first, many) {
                    (b'(', false) => 1,
                    (b'(', true) => 1 + self.random.below(REPEATS_MAX),
                    (_, false) => self.random.below(2),
                    (_, true) => self.random.below(REPEATS_MAX + 1),
                };
                let choices = alternatives(inner);
                for _ in 0..count {
                    let choice = *pick(&mut self.random, &choices);
                    self.expand(choice, out);
                }
            } else {
                let end = rest.find(' ').unwrap_or(rest.len());
                let word = &rest[..end];
                rest = &rest[end..];
                match word.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
                    Some(name) => out.push(self.word(name)),
                    None => out.push(word.as_bytes().to_vec()),
                }
            }
            rest = rest.trim_start();
        }
    }

    fn word(&mut self, name: &str) -> Vec<u8> {
        let mut words = alphabet(name);
        if name == "k" {
            words = &words[words.len() - self.keys.min(words.len())..];
        }
        pick(&mut self.random, words).as_bytes().to_vec()
    }
}

/// Where the bracket at the start of `text` closes.
fn matching(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("'{text}' has an open bracket");
}

/// The parts between the bars that are not inside brackets.
fn alternatives(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'|' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}
