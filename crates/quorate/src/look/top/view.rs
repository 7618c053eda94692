//! What the screen shows, as lines: a function of two surveys and a size.

use crate::look::facts::{Facts, Latency};
use crate::look::status::{number, state, verdict};
use crate::look::survey::{Asked, Led, Survey};
use crate::look::text::{Cell, Line, Style, cell, duration, fitted, short, short_bytes};
use crate::look::verdict::{Problem, problems};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// By what shards are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Load,
    Keys,
    Memory,
    Lag,
}

impl Sort {
    const ALL: [Self; 4] = [Self::Load, Self::Keys, Self::Memory, Self::Lag];

    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Keys => "keys",
            Self::Memory => "memory",
            Self::Lag => "lag",
        }
    }
}

/// What is shown.
pub(super) struct View {
    survey: Option<Survey>,
    problems: Vec<Problem>,
    /// Of each node, and of each shard at it, since the survey before.
    rates: BTreeMap<u64, Rates>,
    /// The nodes of the survey before.
    before: BTreeMap<u64, Facts>,
    sort: Sort,
}

/// Each second, of one node.
#[derive(Clone, Debug, Default)]
struct Rates {
    commands: f64,
    input_bytes: f64,
    output_bytes: f64,
    shards: BTreeMap<u64, f64>,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            survey: None,
            problems: Vec::new(),
            rates: BTreeMap::new(),
            before: BTreeMap::new(),
            sort: Sort::Load,
        }
    }

    /// Takes what the nodes say now.
    pub(super) fn take(&mut self, survey: Survey) {
        self.rates.clear();
        for facts in survey.answers() {
            let before = self.before.get(&facts.node);
            let before =
                before.filter(|b| b.run_id == facts.run_id && b.uptime_ms < facts.uptime_ms);
            self.rates.insert(facts.node, Rates::between(before, facts));
        }
        self.before = survey.answers().map(|facts| (facts.node, facts.clone())).collect();
        self.problems = problems(&survey);
        self.survey = Some(survey);
    }

    /// A key, or what a terminal sends for one; false if it ends the show.
    pub(super) fn press(&mut self, keys: &[u8]) -> bool {
        match keys {
            // Escape comes alone; what other keys begin with it for has more behind it.
            b"\x1b" => return false,
            [b'\x1b', ..] => {}
            keys => {
                for key in keys {
                    match key {
                        b'q' | b'Q' | 3 | 4 => return false,
                        b's' | b'S' => {
                            let at = Sort::ALL.iter().position(|sort| *sort == self.sort);
                            self.sort = Sort::ALL[(at.unwrap_or(0) + 1) % Sort::ALL.len()];
                        }
                        _ => {}
                    }
                }
            }
        }
        true
    }

    /// The lines of a screen of this size.
    pub(super) fn lines(&self, width: usize, height: usize) -> Vec<Line> {
        let Some(survey) = &self.survey else {
            return vec![Line::new(Style::Dim, "asking the nodes …")];
        };
        let mut lines = vec![verdict(survey, &self.problems)];
        match self.problems.first() {
            Some(problem) => lines.push(Line::new(Style::Dim, format!("→ {}", problem.advice))),
            None => lines.push(Line::default()),
        }
        if survey.answers().next().is_some() {
            lines.push(self.totals(survey));
            lines.push(Line::default());
            lines.extend(self.nodes(survey, width));
            lines.push(Line::default());
            // What is left but the last line.
            let left = height.saturating_sub(lines.len() + 1);
            lines.extend(self.shards(survey, width).into_iter().take(left));
        }
        lines.truncate(height.saturating_sub(1));
        lines.resize_with(height.saturating_sub(1), Line::default);
        let foot = format!("q quit · s sort shards by {} (now {})", self.next(), self.sort.name());
        lines.push(Line::new(Style::Dim, foot));
        lines
    }

    fn next(&self) -> &'static str {
        let at = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or(0);
        Sort::ALL[(at + 1) % Sort::ALL.len()].name()
    }

    fn totals(&self, survey: &Survey) -> Line {
        let sum = |of: fn(&Rates) -> f64| self.rates.values().map(of).sum::<f64>();
        let clients: u64 = survey.answers().map(|facts| facts.load.clients).sum();
        let keys: u64 = survey.shards().iter().map(|led| led.shard.keys).sum();
        Line::new(Style::Title, format!("{} req/s", short(sum(|rates| rates.commands)))).with(
            Style::Plain,
            format!(
                "   in {}/s   out {}/s   {} clients   {} keys",
                short_bytes(sum(|rates| rates.input_bytes) as u64),
                short_bytes(sum(|rates| rates.output_bytes) as u64),
                clients,
                short(keys as f64),
            ),
        )
    }

    fn nodes(&self, survey: &Survey, width: usize) -> Vec<Line> {
        let led = survey.shards();
        let rows = survey.nodes.iter().map(|asked| self.node(asked, survey, &led)).collect();
        // The number behind a title: the higher, the sooner it goes when there is no room.
        let titles = [
            (">NODE", 0),
            ("STATE", 0),
            (">REQ/S", 0),
            (">P50", 5),
            (">P99", 0),
            (">SYNC P99", 1),
            (">LINK", 2),
            (">LEADS", 3),
            (">CLIENTS", 6),
            (">DATA", 1),
            (">PROCESS", 4),
            (">JOURNAL", 4),
            ("ADDRESS", 7),
        ];
        fitted(&titles, rows, width)
    }

    fn node(&self, asked: &Asked, survey: &Survey, led: &[Led<'_>]) -> Vec<Cell> {
        let address = cell(asked.address.as_deref().unwrap_or("?"));
        let Some(facts) = asked.facts() else {
            let mut row = vec![cell(number(asked.node)), (Style::Bad, "away".into())];
            row.extend((0..10).map(|_| cell("-")));
            row.push(address);
            return row;
        };
        let rates = self.rates.get(&facts.node).cloned().unwrap_or_default();
        let (load, recent) = (&facts.load, &facts.load.recent_latency);
        let sync = facts.journal.recent_sync_latency.clone().unwrap_or_default();
        let leads = led.iter().filter(|led| led.leader == Some(facts.node)).count();
        vec![
            cell(number(facts.node)),
            state(facts),
            cell(short(rates.commands)),
            cell(duration(recent.p50_us)),
            cell(duration(recent.p99_us)),
            slow(&sync),
            link(facts, survey),
            cell(leads),
            cell(load.clients),
            data(facts),
            cell(facts.memory.process_bytes.map_or("-".into(), short_bytes)),
            cell(facts.journal.bytes.map_or("-".into(), short_bytes)),
            address,
        ]
    }

    fn shards(&self, survey: &Survey, width: usize) -> Vec<Line> {
        let spaces = survey.answers().next().map_or(&[][..], |facts| &facts.spaces);
        let mut shards: Vec<(f64, Led<'_>)> = survey
            .shards()
            .into_iter()
            .map(|led| {
                // Commands execute at the leader.
                let rates = led.leader.and_then(|leader| self.rates.get(&leader));
                let rate = rates.and_then(|rates| rates.shards.get(&led.shard.shard));
                (rate.copied().unwrap_or(0.0), led)
            })
            .collect();
        shards.sort_by_key(|(rate, led)| {
            let by = match self.sort {
                Sort::Load => *rate as u64,
                Sort::Keys => led.shard.keys,
                Sort::Memory => led.shard.memory_bytes,
                Sort::Lag => led.lag(),
            };
            Reverse(by)
        });
        let row = |(rate, led): &(f64, Led<'_>)| -> Vec<Cell> {
            let shard = led.shard;
            let leader = match led.leader {
                Some(node) => cell(number(node)),
                None => (Style::Bad, "none".into()),
            };
            let lag = if shard.lag.is_empty() { "-".into() } else { led.lag().to_string() };
            vec![
                cell(shard.shard),
                cell(spaces.get(shard.space).map_or("?", |space| &space.name)),
                cell(short(*rate)),
                leader,
                cell(lag),
                cell(short(shard.keys as f64)),
                cell(short_bytes(shard.memory_bytes)),
                cell(format!("{}-{}", shard.first_slot, shard.last_slot)),
            ]
        };
        let titles = [
            (">SHARD", 0),
            ("SPACE", 1),
            (">REQ/S", 0),
            (">LEADER", 0),
            (">LAG", 0),
            (">KEYS", 0),
            (">DATA", 0),
            ("SLOTS", 2),
        ];
        fitted(&titles, shards.iter().map(row).collect(), width)
    }
}

impl Rates {
    /// Without a time before, as the node itself says they are of late.
    fn between(before: Option<&Facts>, now: &Facts) -> Self {
        let Some(before) = before else {
            return Self {
                commands: now.load.commands_per_second,
                input_bytes: now.load.input_bytes_per_second,
                output_bytes: now.load.output_bytes_per_second,
                shards: BTreeMap::new(),
            };
        };
        let seconds = (now.uptime_ms - before.uptime_ms) as f64 / 1_000.0;
        // Counters begin anew at CONFIG RESETSTAT.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let old: BTreeMap<u64, u64> = before.shards.iter().map(|s| (s.shard, s.commands)).collect();
        let shard = |shard: &crate::look::facts::Shard| {
            let before = old.get(&shard.shard).copied();
            (shard.shard, before.map_or(0.0, |before| rate(shard.commands, before)))
        };
        Self {
            commands: rate(now.load.commands, before.load.commands),
            input_bytes: rate(now.load.input_bytes, before.load.input_bytes),
            output_bytes: rate(now.load.output_bytes, before.load.output_bytes),
            shards: now.shards.iter().map(shard).collect(),
        }
    }
}

/// A journal that waits, or whose syncs are slow, stands out.
fn slow(sync: &Latency) -> Cell {
    let style = match sync.p99_us {
        Some(500_000..) => Style::Bad,
        Some(100_000..) => Style::Warn,
        _ => Style::Plain,
    };
    (style, duration(sync.p99_us))
}

/// The slowest of a node's links, or how many are down.
fn link(facts: &Facts, survey: &Survey) -> Cell {
    let answered = |node: u64| survey.answers().any(|facts| facts.node == node);
    let down = facts.peers.iter().filter(|peer| !peer.up && answered(peer.node)).count();
    if down > 0 {
        return (Style::Bad, format!("{down} down"));
    }
    let up = facts.peers.iter().filter(|peer| peer.up);
    cell(duration(up.filter_map(|peer| peer.round_trip_us).max()))
}

/// Memory that data takes; it stands out when little of what it may take is left.
fn data(facts: &Facts) -> Cell {
    let memory = &facts.memory;
    let full = memory.data_bytes_max > 0 && memory.data_bytes > memory.data_bytes_max / 10 * 9;
    let style = if full { Style::Warn } else { Style::Plain };
    (style, short_bytes(memory.data_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::survey::testing::{cluster, survey};
    use serde_json::{Value, json};

    fn screen(view: &View, width: usize, height: usize) -> Vec<String> {
        view.lines(width, height).iter().map(|line| line.show(false, width)).collect()
    }

    /// The same nodes a second later.
    fn later(mut nodes: Vec<Value>) -> Vec<Value> {
        for node in nodes.iter_mut().filter(|node| node.is_object()) {
            node["uptime_ms"] = json!(61_000);
            node["load"]["commands"] = json!(12_000);
            node["shards"][0]["commands"] = json!(100);
            node["shards"][1]["commands"] = json!(4_500);
        }
        nodes
    }

    #[test]
    fn a_small_screen_shows_nodes_and_the_busiest_shards() {
        let mut view = View::new();
        assert_eq!(screen(&view, 80, 24), ["asking the nodes …"]);
        view.take(survey(&cluster()));
        view.take(survey(&later(cluster())));
        let got = screen(&view, 80, 24);
        let expected = "\
● healthy: 3 nodes, 2 shards, all copies keep up

36.0k req/s   in 0/s   out 0/s   15 clients   3.0k keys

NODE  STATE  REQ/S     P99  SYNC P99    LINK  LEADS  DATA  PROCESS  JOURNAL
   1  ok     12.0k  1.5 ms    4.0 ms  250 µs      1  3.0M    50.0M    16.0M
   2  ok     12.0k  1.5 ms    4.0 ms  250 µs      1  3.0M    50.0M    16.0M
   3  ok     12.0k  1.5 ms    4.0 ms  250 µs      0  3.0M    50.0M    16.0M

SHARD  SPACE    REQ/S  LEADER  LAG  KEYS  DATA  SLOTS
    1  default   4.5k       2    0  2.0k  1.0M  8192-16383
    0  default    100       1    0  1.0k  1.0M  0-8191";
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(got[..expected.len()], expected);
        assert_eq!(got.len(), 24);
        assert_eq!(got[23], "q quit · s sort shards by keys (now load)");
        assert!(got[expected.len()..23].iter().all(String::is_empty), "{got:?}");
        assert!(screen(&view, 200, 24)[4].contains("CLIENTS"), "a wide screen has room for more");
    }

    #[test]
    fn every_size_fits() {
        let mut view = View::new();
        let mut nodes = later(cluster());
        nodes[1] = json!("no connection in 1 s");
        for node in [0, 2] {
            nodes[node]["peers"] = json!([{"node": 2, "up": false}]);
        }
        view.take(survey(&nodes));
        for (width, height) in [(1, 1), (20, 3), (40, 10), (80, 24), (300, 100)] {
            let got = screen(&view, width, height);
            assert_eq!(got.len(), height);
            assert!(got.iter().all(|line| line.chars().count() <= width), "{width}: {got:?}");
        }
        let got = screen(&view, 80, 24).join("\n");
        assert!(got.contains("   2  away"), "{got}");
        let verdict = "✖ down: 1 of 2 shards have no leader, and 1 thing more";
        assert!(got.starts_with(verdict), "{got}");
    }

    #[test]
    fn keys_sort_and_end() {
        let mut view = View::new();
        view.take(survey(&cluster()));
        let foot = |view: &View| screen(view, 80, 24)[23].clone();
        for now in ["keys", "memory", "lag", "load"] {
            assert!(view.press(b"s"));
            assert!(foot(&view).ends_with(&format!("(now {now})")), "{}", foot(&view));
        }
        // Arrows begin with the byte of Escape.
        assert!(view.press(b"\x1b[A") && view.press(b"x"));
        for end in [&b"q"[..], b"\x1b", b"\x03"] {
            assert!(!view.press(end));
        }
    }

    #[test]
    fn a_node_that_started_anew_has_no_rate_over_its_lives() {
        let mut view = View::new();
        view.take(survey(&later(cluster())));
        let mut anew = cluster();
        anew[0]["run_id"] = json!("b");
        anew[0]["uptime_ms"] = json!(70_000);
        anew[0]["load"]["commands_per_second"] = json!(7.0);
        anew[1]["uptime_ms"] = json!(62_000);
        view.take(survey(&anew));
        assert_eq!(view.rates[&1].commands, 7.0);
        // Another one whose counters were set back is at rest, rather than far below zero.
        assert_eq!(view.rates[&2].commands, 0.0);
    }
}
