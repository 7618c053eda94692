//! `quorate status`: how the nodes are, once.

use super::survey::{Asked, Led, Survey};
use super::text::{Cell, Line, Style, age, bytes, cell, count, duration, short, table};
use super::verdict::{Health, Problem, health, problems};
use crate::cli::StatusArgs;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

/// Raised when something of the JSON shape changes that is not an addition.
const FORMAT: u64 = 1;

/// Shows how the nodes are; says with its exit code whether that is healthy.
pub(crate) fn status(args: &StatusArgs) -> ExitCode {
    let survey = Survey::take(&args.at);
    let problems = problems(&survey);
    let mut out = std::io::stdout().lock();
    if args.json {
        let _ = writeln!(out, "{:#}", json_of(&survey, &problems));
    } else {
        let colours =
            out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        for line in page(&survey, &problems, args.shards) {
            // A reader that has left wants nothing more.
            if writeln!(out, "{}", line.show(colours, usize::MAX)).is_err() {
                break;
            }
        }
    }
    if health(&problems) == Health::Healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn json_of(survey: &Survey, problems: &[Problem]) -> Value {
    let node = |asked: &Asked| {
        json!({
            "node": asked.node,
            "address": asked.address,
            "reachable": asked.answer.is_ok(),
            "reason": asked.answer.as_ref().err(),
            "status": asked.answer.as_ref().ok().map(|answer| &answer.raw),
        })
    };
    let health = health(problems);
    json!({
        "format": FORMAT,
        "healthy": health == Health::Healthy,
        "health": health,
        "problems": problems,
        "nodes": survey.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

/// The lines for people.
fn page(survey: &Survey, problems: &[Problem], all_shards: bool) -> Vec<Line> {
    let mut page = vec![verdict(survey, problems)];
    for (at, problem) in problems.iter().enumerate() {
        let (style, _) = look(problem.health);
        if at > 0 || problems.len() > 1 {
            page.push(Line::new(style, format!("  {}", problem.what)));
        }
        page.push(Line::new(Style::Dim, format!("  → {}", problem.advice)));
    }
    if survey.answers().next().is_none() {
        return page;
    }
    let mut section = |title: &str, lines: Vec<Line>| {
        page.push(Line::default());
        page.push(Line::new(Style::Title, title));
        page.extend(lines);
    };
    section("Nodes", nodes(survey));
    if survey.is_cluster() {
        section("Links, round trip", links(survey));
    }
    section("Spaces", spaces(survey));
    if all_shards {
        section("Shards", shards(survey));
    }
    page
}

/// How a health looks.
pub(super) fn look(health: Health) -> (Style, char) {
    match health {
        Health::Healthy => (Style::Good, '●'),
        Health::Degraded => (Style::Warn, '▲'),
        Health::Down => (Style::Bad, '✖'),
    }
}

/// One line that says it all.
pub(super) fn verdict(survey: &Survey, problems: &[Problem]) -> Line {
    let health = health(problems);
    let (style, sign) = look(health);
    let text = match problems {
        [] => {
            let (nodes, shards) = (survey.nodes.len(), survey.shards().len());
            let copies = if nodes > 1 { ", all copies keep up" } else { "" };
            format!("{}, {}{copies}", count(nodes, "node"), count(shards, "shard"))
        }
        [one] => one.what.clone(),
        [first, rest @ ..] => {
            format!("{}, and {}", first.what, count(rest.len(), "thing") + " more")
        }
    };
    Line::new(style, format!("{sign} {}: {text}", health.name()))
}

/// A node's number, or what stands for it.
pub(super) fn number(node: u64) -> String {
    if node == 0 { "-".into() } else { node.to_string() }
}

fn nodes(survey: &Survey) -> Vec<Line> {
    let led = survey.shards();
    let row = |asked: &Asked| -> Vec<Cell> {
        let address = asked.address.clone().unwrap_or_else(|| "?".into());
        let facts = match &asked.answer {
            Ok(answer) => &answer.facts,
            Err(why) => {
                let state = (Style::Bad, "unreachable".into());
                let mut row = vec![cell(number(asked.node)), cell(address), state];
                row.extend((0..6).map(|_| cell("-")));
                row.push((Style::Dim, why.clone()));
                return row;
            }
        };
        let leads = led.iter().filter(|led| led.leader == Some(facts.node)).count();
        let sync = facts.journal.recent_sync_latency.as_ref().and_then(|l| l.p99_us);
        vec![
            cell(number(facts.node)),
            cell(address),
            state(facts),
            cell(leads),
            cell(bytes(facts.memory.data_bytes)),
            cell(short(facts.load.commands_per_second)),
            cell(duration(facts.load.recent_latency.p99_us)),
            cell(duration(sync)),
            cell(facts.load.clients),
            cell(format!("up {}, {}", age(facts.uptime_ms), facts.version)),
        ]
    };
    let titles = [
        ">NODE",
        "ADDRESS",
        "STATE",
        ">LEADS",
        ">DATA",
        ">REQ/S",
        ">P99",
        ">SYNC P99",
        ">CLIENTS",
        "",
    ];
    table(&titles, survey.nodes.iter().map(row).collect())
}

/// How a node that answered is, in a word.
pub(super) fn state(facts: &super::facts::Facts) -> Cell {
    let unwell = facts.shards.iter().any(|shard| shard.state != "serving");
    let (style, word) = match () {
        () if facts.stopping => (Style::Warn, "stopping"),
        () if !facts.quorum => (Style::Bad, "no quorum"),
        () if facts.disk.full => (Style::Bad, "disk full"),
        () if unwell => (Style::Warn, "repairing"),
        () if facts.disk.throttled => (Style::Warn, "throttled"),
        () => (Style::Good, "ok"),
    };
    (style, word.into())
}

/// Who reaches whom, and how fast.
fn links(survey: &Survey) -> Vec<Line> {
    let titles: Vec<String> = std::iter::once("FROM".to_owned())
        .chain(survey.nodes.iter().map(|asked| format!(">TO {}", asked.node)))
        .collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let row = |from: &Asked| {
        let way = |to: &Asked| -> Cell {
            match survey.link(from.node, to.node) {
                None => (Style::Dim, if from.node == to.node { "·" } else { "?" }.into()),
                Some(peer) if !peer.up => {
                    let now = from.facts().map_or(0, |facts| facts.time_ms);
                    (Style::Bad, format!("down {}", age(now.saturating_sub(peer.since_ms))))
                }
                Some(peer) => match peer.round_trip_us {
                    None => (Style::Good, "up".into()),
                    some => (Style::Good, duration(some)),
                },
            }
        };
        std::iter::once(cell(from.node)).chain(survey.nodes.iter().map(way)).collect()
    };
    let rows = survey.nodes.iter().filter(|from| from.answer.is_ok()).map(row);
    table(&titles, rows.collect())
}

fn spaces(survey: &Survey) -> Vec<Line> {
    let Some(facts) = survey.answers().next() else { return Vec::new() };
    let shards = survey.shards();
    let row = |(at, space): (usize, &super::facts::Space)| -> Vec<Cell> {
        let own: Vec<&Led<'_>> = shards.iter().filter(|led| led.shard.space == at).collect();
        let led = own.iter().filter(|led| led.leader.is_some()).count();
        let style = if led == own.len() { Style::Good } else { Style::Bad };
        let lag = own.iter().map(|led| led.lag()).max().unwrap_or(0);
        vec![
            cell(&space.name),
            cell(if space.prefix.is_empty() { "(all others)" } else { &space.prefix }),
            cell(&space.durability),
            cell(own.len()),
            (style, led.to_string()),
            cell(lag),
            cell(short(own.iter().map(|led| led.shard.keys as f64).sum())),
            cell(bytes(own.iter().map(|led| led.shard.memory_bytes).sum())),
        ]
    };
    let titles =
        ["SPACE", "PREFIX", "DURABILITY", ">SHARDS", ">SERVED", ">MOST LAG", ">KEYS", ">IN MEMORY"];
    table(&titles, facts.spaces.iter().enumerate().map(row).collect())
}

fn shards(survey: &Survey) -> Vec<Line> {
    let spaces = survey.answers().next().map_or(&[][..], |facts| &facts.spaces);
    let row = |led: &Led<'_>| -> Vec<Cell> {
        let shard = led.shard;
        let leader = match led.leader {
            Some(node) => cell(number(node)),
            None => (Style::Bad, "none".into()),
        };
        vec![
            cell(shard.shard),
            cell(spaces.get(shard.space).map_or("?", |space| &space.name)),
            cell(format!("{}-{}", shard.first_slot, shard.last_slot)),
            leader,
            cell(shard.term),
            cell(shard.committed),
            cell(shard.applied),
            lag(led, survey),
            cell(short(shard.keys as f64)),
            cell(bytes(shard.memory_bytes)),
            cell(short(shard.commands as f64)),
        ]
    };
    let titles = [
        ">SHARD",
        "SPACE",
        "SLOTS",
        ">LEADER",
        ">TERM",
        ">COMMITTED",
        ">APPLIED",
        "COPIES LACK",
        ">KEYS",
        ">MEMORY",
        ">REQUESTS",
    ];
    table(&titles, survey.shards().iter().map(row).collect())
}

/// What each copy lacks, and copies that do not serve.
fn lag(led: &Led<'_>, survey: &Survey) -> Cell {
    let mut style = Style::Plain;
    let part = |lag: &super::facts::Lag| {
        let own = survey.answers().find(|facts| facts.node == lag.node);
        let copy = own.and_then(|facts| facts.shards.iter().find(|s| s.shard == led.shard.shard));
        match copy.map_or("unknown", |copy| &copy.state) {
            "serving" => format!("{}:{}", lag.node, lag.entries),
            state => {
                style = Style::Warn;
                format!("{}:{} {state}", lag.node, lag.entries)
            }
        }
    };
    let text: Vec<String> = led.shard.lag.iter().map(part).collect();
    if text.is_empty() { (Style::Dim, "-".into()) } else { (style, text.join(", ")) }
}
