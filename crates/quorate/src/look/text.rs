//! Lines for people: colours, tables, numbers.

use std::fmt::Write as _;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Title,
    Dim,
    Good,
    Warn,
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// A line of pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    pub(super) fn new(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    #[must_use]
    pub(super) fn with(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| chars(text)).sum()
    }

    /// The line with or without colours, cut to a width.
    pub(super) fn show(&self, colours: bool, width: usize) -> String {
        let (mut out, mut left) = (String::new(), width);
        for (style, text) in &self.0 {
            let text: String = text.chars().map(plain).take(left).collect();
            left -= text.chars().count();
            match style.code() {
                code if colours && !code.is_empty() && !text.is_empty() => {
                    let _ = write!(out, "{code}{text}\x1b[0m");
                }
                _ => out.push_str(&text),
            }
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// What nodes say may hold anything, and a terminal obeys control characters.
fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// A cell of a table.
pub(super) type Cell = (Style, String);

/// A cell without a style.
#[allow(clippy::needless_pass_by_value)] // Numbers and texts alike, as they come.
pub(super) fn cell(text: impl ToString) -> Cell {
    (Style::Plain, text.to_string())
}

/// A table: titles that begin with `>` have their column aligned to the right.
pub(super) fn table(titles: &[&str], rows: Vec<Vec<Cell>>) -> Vec<Line> {
    let bare = |title: &str| title.trim_start_matches('>').to_owned();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|(_, text)| chars(text));
        cells.chain([chars(&bare(titles[at]))]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let head = titles.iter().map(|title| (Style::Dim, bare(title))).collect();
    let line = |row: Vec<Cell>| {
        let mut line = Line::default();
        for (at, (style, text)) in row.into_iter().enumerate() {
            let space = " ".repeat(widths[at].saturating_sub(chars(&text)));
            let (before, after) =
                if titles[at].starts_with('>') { (space.as_str(), "") } else { ("", &*space) };
            let gap = if at == 0 { "" } else { "  " };
            line = line.with(Style::Plain, format!("{gap}{before}")).with(style, text);
            line = line.with(Style::Plain, after);
        }
        line
    };
    std::iter::once(head).chain(rows).map(line).collect()
}

/// A table that fits a width: columns whose title has a higher number go first, and those with 0
/// stay.
pub(super) fn fitted(titles: &[(&str, u8)], rows: Vec<Vec<Cell>>, width: usize) -> Vec<Line> {
    let lines = table(&titles.iter().map(|(title, _)| *title).collect::<Vec<_>>(), rows.clone());
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let last = titles.iter().map(|(_, rank)| *rank).max().unwrap_or(0);
    if widest <= width || last == 0 {
        return lines;
    }
    let keep = |at: &usize| titles[*at].1 < last;
    let row = |row: Vec<Cell>| {
        row.into_iter().enumerate().filter(|(at, _)| keep(at)).map(|(_, cell)| cell).collect()
    };
    let titles: Vec<_> = (0..titles.len()).filter(keep).map(|at| titles[at]).collect();
    fitted(&titles, rows.into_iter().map(row).collect(), width)
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// `1 shard`, `2 shards`, `2 copies`.
pub(super) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// A number in at most five characters: `999`, `12.3k`, `4.5M`.
pub(super) fn short(number: f64) -> String {
    scaled(number, 1_000.0, &["", "k", "M", "G", "T", "P"])
}

/// Bytes in their largest unit: `999 B`, `1.5 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1_024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

/// The same in little room: `1.5M`.
pub(super) fn short_bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1_024.0, &["", "K", "M", "G", "T", "P"])
}

fn scaled(number: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut at) = (number, 0);
    // What would be rounded up to the next unit belongs there.
    while value >= step - 0.5 && at + 1 < units.len() {
        (value, at) = (value / step, at + 1);
    }
    let digits = usize::from(at > 0 && value < 99.95);
    format!("{value:.digits$}{}", units[at])
}

/// Microseconds: `85 µs`, `1.2 ms`, `3.4 s`; `-` if there are none.
pub(super) fn duration(us: Option<u64>) -> String {
    match us {
        None => "-".into(),
        Some(us @ 0..=999) => format!("{us} µs"),
        Some(us @ 1_000..=99_949) => format!("{:.1} ms", us as f64 / 1e3),
        Some(us @ 99_950..=999_499) => format!("{:.0} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A long time: `45 s`, `12 min`, `3 h`, `5 d`.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> =
            [0.0, 999.0, 999.6, 12_345.0, 4_500_000.0, 123_456_789.0].map(short).into();
        assert_eq!(shown, ["0", "999", "1.0k", "12.3k", "4.5M", "123M"]);
        assert_eq!([0, 1_023, 1_536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        let durations = [None, Some(999), Some(1_250), Some(250_000), Some(3_400_000)];
        assert_eq!(durations.map(duration), ["-", "999 µs", "1.2 ms", "250 ms", "3.4 s"]);
        assert_eq!([45_000, 600_000, 90_000_000].map(age), ["45 s", "10 min", "25 h"]);
        assert_eq!(["shard", "copy"].map(|noun| count(2, noun)), ["2 shards", "2 copies"]);
    }

    #[test]
    fn tables_align_and_lines_are_cut() {
        let rows = vec![vec![cell("a"), (Style::Bad, "7".into())], vec![cell("bcd"), cell(10)]];
        let lines = table(&["NAME", ">N"], rows);
        let shown: Vec<String> = lines.iter().map(|line| line.show(false, 80)).collect();
        assert_eq!(shown, ["NAME   N", "a      7", "bcd   10"]);
        assert_eq!(lines[1].show(true, 80), "a      \x1b[31m7\x1b[0m");
        assert_eq!(lines[2].show(true, 3), "bcd");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Line::new(Style::Plain, "a\x1b[2Jb").show(true, 80), "a [2Jb");
    }
}
