//! LCS: the longest common subsequence of two strings, by the textbook table of prefix lengths.

use crate::command::Ctx;
use crate::error::Error;
use crate::parse::{int, is_word};

/// The most cells the table may have: 1 GiB of them.
const TABLE_CELLS_MAX: usize = 1 << 28;

#[derive(Default)]
struct Options {
    len_only: bool,
    matches: bool,
    with_len: bool,
    match_len_min: u64,
}

/// A run of equal bytes: inclusive ranges in both strings.
struct Match {
    a: (usize, usize),
    b: (usize, usize),
}

pub(super) fn lcs(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let a = string(ctx, args[1])?;
    let b = string(ctx, args[2])?;
    let options = Options::parse(&args[3..])?;
    if a.len().saturating_add(1).saturating_mul(b.len() + 1) > TABLE_CELLS_MAX {
        return Err(Error::text(
            "ERR Insufficient memory, failed allocating transient memory for LCS",
        ));
    }
    if options.len_only {
        ctx.reply.int(length(&a, &b) as i64);
        return Ok(());
    }
    let table = Table::new(&a, &b);
    if options.matches {
        reply_matches(ctx, &table, &options);
    } else {
        ctx.reply.bulk(&table.subsequence());
    }
    Ok(())
}

fn string(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Vec<u8>, Error> {
    match ctx.db.string(key) {
        Ok(value) => Ok(value.unwrap_or_default().to_vec()),
        Err(Error::WrongType) => {
            Err(Error::text("ERR The specified keys must contain string values"))
        }
        Err(error) => Err(error),
    }
}

impl Options {
    fn parse(words: &[&[u8]]) -> Result<Self, Error> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if is_word(word, "LEN") {
                options.len_only = true;
            } else if is_word(word, "IDX") {
                options.matches = true;
            } else if is_word(word, "WITHMATCHLEN") {
                options.with_len = true;
            } else if is_word(word, "MINMATCHLEN") {
                let least = int(words.next().ok_or(Error::Syntax)?)?;
                options.match_len_min = u64::try_from(least).unwrap_or(0);
            } else {
                return Err(Error::Syntax);
            }
        }
        if options.matches && options.len_only {
            return Err(Error::text(
                "ERR If you want both the length and indexes, please just use IDX.",
            ));
        }
        Ok(options)
    }
}

fn reply_matches(ctx: &mut Ctx<'_>, table: &Table<'_>, options: &Options) {
    let mut matches = table.matches();
    matches.retain(|m| (m.a.1 - m.a.0 + 1) as u64 >= options.match_len_min);
    ctx.reply.map(2);
    ctx.reply.bulk(b"matches");
    ctx.reply.array(matches.len());
    for found in &matches {
        ctx.reply.array(2 + usize::from(options.with_len));
        for (from, to) in [found.a, found.b] {
            ctx.reply.array(2);
            ctx.reply.int(from as i64);
            ctx.reply.int(to as i64);
        }
        if options.with_len {
            ctx.reply.int((found.a.1 - found.a.0 + 1) as i64);
        }
    }
    ctx.reply.bulk(b"len");
    ctx.reply.int(i64::from(table.at(table.a.len(), table.b.len())));
}

/// The length alone needs no more than one row of the table.
fn length(a: &[u8], b: &[u8]) -> u32 {
    let mut row = vec![0u32; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// The lengths for all pairs of prefixes.
struct Table<'a> {
    a: &'a [u8],
    b: &'a [u8],
    cells: Vec<u32>,
}

impl<'a> Table<'a> {
    fn new(a: &'a [u8], b: &'a [u8]) -> Self {
        let width = b.len() + 1;
        let mut cells = vec![0u32; (a.len() + 1) * width];
        for (i, x) in a.iter().enumerate() {
            let (done, open) = cells.split_at_mut((i + 1) * width);
            let (above, row) = (&done[i * width..], &mut open[..width]);
            for (j, y) in b.iter().enumerate() {
                row[j + 1] = if x == y { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
        }
        Self { a, b, cells }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * (self.b.len() + 1) + j]
    }

    /// Walks from the ends to the starts and visits the common bytes by their positions. Of two
    /// ways of equal length it takes Redis': backwards in `b`.
    fn walk(&self, mut visit: impl FnMut(usize, usize)) {
        let (mut i, mut j) = (self.a.len(), self.b.len());
        while i > 0 && j > 0 {
            if self.a[i - 1] == self.b[j - 1] {
                (i, j) = (i - 1, j - 1);
                visit(i, j);
            } else if self.at(i - 1, j) > self.at(i, j - 1) {
                i -= 1;
            } else {
                j -= 1;
            }
        }
    }

    fn subsequence(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.walk(|i, _| bytes.push(self.a[i]));
        bytes.reverse();
        bytes
    }

    /// The runs, last first.
    fn matches(&self) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        self.walk(|i, j| match matches.last_mut() {
            Some(last) if last.a.0 == i + 1 && last.b.0 == j + 1 => {
                (last.a.0, last.b.0) = (i, j);
            }
            _ => matches.push(Match { a: (i, i), b: (j, j) }),
        });
        matches
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[test]
    fn runs_come_last_first() {
        let mut h = Harness::new(4);
        h.check("MSET a ohmytext b mynewtext", "+OK|");
        h.check("LCS a b", "$6|mytext|");
        h.check("LCS a b LEN", ":6|");
        h.check(
            "LCS a b IDX WITHMATCHLEN MINMATCHLEN 4",
            "*4|$7|matches|*1|*3|*2|:4|:7|*2|:5|:8|:4|$3|len|:6|",
        );
        h.check(
            "LCS a b IDX",
            "*4|$7|matches|*2|*2|*2|:4|:7|*2|:5|:8|*2|*2|:2|:3|*2|:0|:1|$3|len|:6|",
        );
        h.check("LCS a absent", "$0||");
        h.check(
            "LCS a b IDX LEN",
            "-ERR If you want both the length and indexes, please just use IDX.|",
        );
    }
}
