//! A failed run as a page: the promise that was broken, the faults that were enough, and a
//! space-time diagram of its last part: a lane for each node, time from top to bottom, packets as
//! arrows from lane to lane.

use crate::run::Outcome;
use crate::trace::{Note, Told};
use std::fmt::Write as _;

/// Notes shown: more could not be told apart.
const NOTES_MAX: usize = 600;
/// Pixels between two lanes.
const LANE: usize = 180;
/// Pixels from one note to the next: order is to scale, time is not.
const STEP: usize = 14;
/// Room for the times.
const LEFT: usize = 130;
/// The bytes of a frame that carries nothing.
const FRAME_HEAD_BYTES: usize = 32;
/// Where the first note stands.
const TOP: usize = 45;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#8b949e;--bad:#c62828;--ok:#1565c0}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--bad:#ff7b72;--ok:#79c0ff}}
body{font:14px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2em}
h1{font-size:1.3em}.bad{color:var(--bad);font-weight:600;white-space:pre-wrap}code,pre{font-size:12px}
svg text{font:11px ui-monospace,monospace;fill:var(--ink)}.lane{stroke:var(--soft)}
.packet{stroke:var(--soft)}.lost{stroke:var(--bad);stroke-dasharray:3 3}.damaged{stroke:var(--bad)}
svg .fault{fill:var(--bad)}svg .client{fill:var(--ok)}svg .time{fill:var(--soft)}
";

const ARROW: &str = "<defs><marker id=\"tip\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" \
    markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\"><path d=\"M0 0L6 3L0 6z\" \
    fill=\"#8b949e\"/></marker></defs>";

/// The page of a failed run; empty for one that kept its promises.
pub fn page(outcome: &Outcome) -> String {
    let Some(failure) = &outcome.failure else { return String::new() };
    let (seed, shape) = (outcome.seed, &outcome.shape);
    let notes: Vec<&Note> = failure.story.notes.iter().filter(|note| says(note)).collect();
    let shown = &notes[notes.len().saturating_sub(NOTES_MAX)..];
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>Quorate: seed \
         {seed}</title><style>{STYLE}</style></head><body><h1>Seed {seed} breaks a promise</h1>\
         <p class=\"bad\">{}</p><p>{} nodes of {} workers, {} shards, {} clients. {} of {} planned \
         faults are enough:</p><pre>",
        escape(&failure.shrunk_what),
        shape.nodes,
        shape.workers,
        shape.shards,
        shape.clients,
        failure.faults.len(),
        failure.faults_planned
    );
    for fault in &failure.faults {
        out += &format!("{}\n", escape(&fault.to_string()));
    }
    out += &format!(
        "</pre><p>Run it again with <code>quorate sim --seed {seed}</code> and the same options. \
         Below are the last {} of {} notes, from top to bottom; hover over one for its words.</p>",
        shown.len(),
        notes.len()
    );
    diagram(&mut out, shape.nodes, shown);
    out.push_str("</body></html>\n");
    out
}

/// Frames without a parcel that arrived tell nothing.
fn says(note: &Note) -> bool {
    let idle = |bytes: usize| bytes <= FRAME_HEAD_BYTES;
    !matches!(&note.what, Told::Packet { arrives: Some(_), bytes, damaged: false, .. } if idle(*bytes))
}

fn lane(node: usize) -> usize {
    LEFT + LANE / 2 + node * LANE
}

fn diagram(out: &mut String, nodes: usize, notes: &[&Note]) {
    let (width, height) = (LEFT + LANE * (nodes + 1), TOP + STEP * (notes.len() + 2));
    *out += &format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">{ARROW}"
    );
    for node in 0..nodes {
        let x = lane(node);
        *out += &format!(
            "<text x=\"{}\" y=\"20\">node {}</text><line class=\"lane\" x1=\"{x}\" y1=\"30\" \
             x2=\"{x}\" y2=\"{height}\"/>",
            x - 20,
            node + 1
        );
    }
    for (at, note) in notes.iter().enumerate() {
        let y = TOP + at * STEP;
        let seconds = note.at as f64 / 1e6;
        *out += &format!("<text class=\"time\" x=\"4\" y=\"{y}\">{seconds:.6} s</text>");
        draw(out, notes, note, y);
    }
    out.push_str("</svg>");
}

fn draw(out: &mut String, notes: &[&Note], note: &Note, y: usize) {
    let mut word = |class: &str, x: usize, text: &str, title: &str| {
        let (text, title) = (escape(text), escape(title));
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}<title>{title}</title></text>"
        );
    };
    match &note.what {
        Told::Packet { from, to, arrives, bytes, damaged } => {
            let (from, to) = (lane(*from), lane(*to));
            let (class, x2, y2) = match (arrives, damaged) {
                (None, _) => ("packet lost", usize::midpoint(from, to), y + STEP),
                (Some(at), damaged) => {
                    // It arrives where the first note of that time or a later one stands.
                    let end = TOP + STEP * notes.partition_point(|other| other.at < *at);
                    (if *damaged { "packet damaged" } else { "packet" }, to, end)
                }
            };
            let _ = write!(
                out,
                "<line class=\"{class}\" x1=\"{from}\" y1=\"{y}\" x2=\"{x2}\" y2=\"{y2}\" \
                 marker-end=\"url(#tip)\"><title>{bytes} bytes</title></line>"
            );
        }
        Told::Client { client, node, reply, said } => {
            let sign = if *reply { '◂' } else { '▸' };
            let short: String = said.chars().take(18).collect();
            word("client", lane(*node) + 6, &format!("{sign}{client} {short}"), said);
        }
        Told::Fault { node, what } => {
            let x = node.map_or(LEFT, |node| lane(node) - 60);
            word("fault", x, &format!("⚡ {}", what.trim()), what);
        }
        Told::Running { node, runs } => {
            let text = if *runs { "starts" } else { "stops" };
            word("fault", lane(*node) - 50, text, text);
        }
        Told::Node { node, what } => {
            let short: String = what.chars().take(60).collect();
            word("fault", lane(*node) + 6, &short, what);
        }
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Failure;
    use crate::{Fault, Options, Planned, Shape, Stats, Story};

    fn outcome() -> Outcome {
        let options = Options { nodes: Some(3), ..Options::default() };
        let packet =
            |arrives, bytes, damaged| Told::Packet { from: 0, to: 2, arrives, bytes, damaged };
        let told = [
            packet(Some(30), 100, false),
            packet(Some(40), FRAME_HEAD_BYTES, false),
            packet(None, 100, false),
            packet(Some(900), 100, true),
            Told::Client { client: 1, node: 2, reply: true, said: "<b> & \"\u{7}\"".into() },
            Told::Fault { node: None, what: "partition 1→2".into() },
            Told::Fault { node: Some(1), what: "kill".into() },
            Told::Running { node: 1, runs: false },
            Told::Node { node: 1, what: "a torn tail".into() },
        ];
        let notes = (1..).zip(told).map(|(at, what)| Note { at: at * 10, what });
        let failure = Failure {
            what: "first".into(),
            faults: vec![Planned { at: 5, fault: Fault::Kill { node: 1, down_us: 9 } }],
            faults_planned: 7,
            shrunk_what: "1 < 2 & \"so on\"".into(),
            story: Story { notes: notes.collect() },
            ended_us: 100,
        };
        Outcome {
            seed: 42,
            shape: Shape::draw(42, &options),
            trace_hash: 0,
            stats: Stats::default(),
            failure: Some(failure),
        }
    }

    /// The names of all elements, or where the page is not well-formed.
    fn elements(page: &str) -> Result<Vec<String>, String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        let body = page.strip_prefix("<!doctype html>").ok_or("no doctype")?;
        for part in body.split('<').skip(1) {
            let (tag, text) = part.split_once('>').ok_or_else(|| format!("<{part}"))?;
            if text.contains('>') && !open.contains(&"style") {
                return Err(format!("a bare > in {text:?}"));
            }
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return Err(format!("</{name}> closes something else"));
                }
                continue;
            }
            if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
            if tag.matches('"').count() % 2 != 0 {
                return Err(format!("an open quote in <{tag}>"));
            }
            all.push(tag.trim_matches('/').split(' ').next().unwrap_or_default().to_owned());
        }
        if open.is_empty() { Ok(all) } else { Err(format!("{open:?} stay open")) }
    }

    #[test]
    fn a_page_is_well_formed_whatever_is_told() {
        let page = page(&outcome());
        let elements = elements(&page).unwrap_or_else(|problem| panic!("{problem}\n{page}"));
        // Three lanes and three packets; the one that says nothing is left out.
        assert_eq!(elements.iter().filter(|name| *name == "line").count(), 6);
        for text in ["1 &lt; 2 &amp; &quot;so on&quot;", "seed 42", "node 3", "kill", "stops"] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }

    #[test]
    fn a_sound_run_has_no_page() {
        assert!(page(&Outcome { failure: None, ..outcome() }).is_empty());
    }
}
