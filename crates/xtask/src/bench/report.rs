//! What was measured, and how it is told: Markdown for people, JSON for programs.
//!
//! ```text
//! Section   one family                     systems[0] is the subject, the rest are its peers
//! └ Cell    one workload                   values[system][round] = one number per metric
//! ```
//!
//! In a Markdown file the report lives between two markers, and each family between two of its
//! own, so that one family can be measured again without touching the others or the prose.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::stats::{Better, Summary, ratios, summary};
use crate::Outcome;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";
/// A thread is named in the report from this share of the server's CPU.
const THREAD_SHARE_MIN: f64 = 0.03;

/// A column of a family.
#[derive(Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) better: Better,
    pub(crate) decimals: usize,
    /// Whether systems are compared by it.
    pub(crate) compared: bool,
}

/// What the project wants of a workload.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// The subject's advantage over the system in `metric`.
    Ratio { metric: usize, system: usize, at_least: f64 },
    /// The subject's own figure in `metric`.
    Below { metric: usize, limit: f64 },
}

/// One workload, measured on every system.
pub(crate) struct Cell {
    pub(crate) work: String,
    pub(crate) values: Vec<Vec<Option<Vec<f64>>>>,
    /// The subject's CPU per request by thread name, medians over the rounds.
    pub(crate) threads_us: Vec<(String, f64)>,
    pub(crate) goals: Vec<Goal>,
}

/// One competitor, as the reader sees it.
pub(crate) struct Competitor {
    pub(crate) name: String,
    pub(crate) promise: &'static str,
    /// Whether it promises what the subject promises in this family.
    pub(crate) equal: bool,
}

/// One family's results.
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) method: String,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) systems: Vec<Competitor>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) notes: Vec<String>,
}

impl Cell {
    /// All rounds of one metric on one system, gaps included.
    fn series(&self, system: usize, metric: usize) -> Vec<Option<f64>> {
        self.values[system]
            .iter()
            .map(|round| round.as_ref().and_then(|values| values.get(metric).copied()))
            .collect()
    }

    fn summary(&self, system: usize, metric: usize) -> Option<Summary> {
        summary(&self.series(system, metric).into_iter().flatten().collect::<Vec<_>>())
    }

    fn ratio(&self, system: usize, metric: usize, better: Better) -> Option<Summary> {
        summary(&ratios(&self.series(0, metric), &self.series(system, metric), better))
    }
}

impl Section {
    /// The family as Markdown; `measured` says when, where and with which versions.
    pub(crate) fn markdown(&self, measured: &str) -> String {
        let mut out = format!("### {}\n\n{}\n\n{measured}\n\n", self.title, self.method);
        out.push_str("Systems and their promises:\n\n");
        for (index, system) in self.systems.iter().enumerate() {
            let equal = match (index, system.equal) {
                (0, _) => "",
                (_, true) => " (equal promise)",
                (_, false) => " (**not** an equal promise)",
            };
            line(&mut out, &format!("- {}: {}{equal}", system.name, system.promise));
        }
        out.push('\n');
        self.figures(&mut out);
        self.advantages(&mut out);
        self.own_goals(&mut out);
        self.threads(&mut out);
        for note in &self.notes {
            line(&mut out, &format!("- Note: {note}"));
        }
        out.trim_end().to_owned() + "\n"
    }

    fn figures(&self, out: &mut String) {
        let names: Vec<_> = self.metrics.iter().map(|metric| metric.name).collect();
        line(out, &format!("| work | system | {} |", names.join(" | ")));
        line(out, &format!("|---|---|{}", "---:|".repeat(names.len())));
        for cell in &self.cells {
            for (index, system) in self.systems.iter().enumerate() {
                let values = self.metrics.iter().enumerate().map(|(metric, definition)| {
                    cell.summary(index, metric)
                        .map_or("–".to_owned(), |s| spread(s, definition.decimals))
                });
                let values: Vec<_> = values.collect();
                line(out, &format!("| {} | {} | {} |", cell.work, system.name, values.join(" | ")));
            }
        }
        out.push('\n');
    }

    fn advantages(&self, out: &mut String) {
        if self.systems.len() == 1 {
            return;
        }
        let compared: Vec<_> = self.compared().collect();
        let names: Vec<_> = compared.iter().map(|(_, metric)| metric.name).collect();
        line(out, &format!("How many times better {} is:\n", self.systems[0].name));
        line(out, &format!("| work | against | {} | wanted | met |", names.join(" | ")));
        line(out, &format!("|---|---|{}---:|---|", "---:|".repeat(names.len())));
        for cell in &self.cells {
            for (system, competitor) in self.systems.iter().enumerate().skip(1) {
                let mut row = format!("| {} | {} |", cell.work, competitor.name);
                for (metric, definition) in &compared {
                    let ratio = cell.ratio(system, *metric, definition.better);
                    let _ = write!(row, " {} |", ratio.map_or("–".to_owned(), |s| spread(s, 2)));
                }
                let (wanted, met) = self.verdict(cell, system);
                line(out, &format!("{row} {wanted} | {met} |"));
            }
        }
        out.push('\n');
    }

    /// What is wanted against a system, and whether it is reached: joined if there are several.
    fn verdict(&self, cell: &Cell, against: usize) -> (String, String) {
        let (mut all_wanted, mut all_met) = (Vec::new(), Vec::new());
        for goal in &cell.goals {
            let Goal::Ratio { metric, system, at_least } = *goal else { continue };
            if system == against {
                let definition = &self.metrics[metric];
                let ratio = cell.ratio(system, metric, definition.better);
                all_wanted.push(format!("≥ {at_least:.1} ({})", definition.name));
                all_met.push(met(ratio.map(|ratio| ratio.median >= at_least)));
            }
        }
        if all_wanted.is_empty() {
            return ("–".to_owned(), "–".to_owned());
        }
        (all_wanted.join(", "), all_met.join(", "))
    }

    fn own_goals(&self, out: &mut String) {
        for cell in &self.cells {
            for goal in &cell.goals {
                let Goal::Below { metric, limit } = *goal else { continue };
                let own = cell.summary(0, metric);
                let definition = &self.metrics[metric];
                let text = format!(
                    "- {}, {}: wanted below {}, {}: {}",
                    cell.work,
                    definition.name,
                    grouped(limit, definition.decimals),
                    own.map_or("not measured".to_owned(), |s| spread(s, definition.decimals)),
                    match met(own.map(|s| s.median < limit)) {
                        "yes" => "met",
                        "no" => "not met",
                        _ => "open",
                    }
                );
                line(out, &text);
            }
        }
        if out.ends_with("met\n") || out.ends_with("open\n") {
            out.push('\n');
        }
    }

    fn threads(&self, out: &mut String) {
        let mut lines = Vec::new();
        for cell in &self.cells {
            let total: f64 = cell.threads_us.iter().map(|(_, us)| us).sum();
            let named = cell.threads_us.iter().filter(|(_, us)| *us >= THREAD_SHARE_MIN * total);
            let threads: Vec<_> = named.map(|(name, us)| format!("{name} {us:.2}")).collect();
            // One busy thread is the whole figure of the first table again.
            if threads.len() > 1 {
                lines.push(format!("- {}: {}\n", cell.work, threads.join(", ")));
            }
        }
        if !lines.is_empty() {
            let name = &self.systems[0].name;
            let _ = writeln!(out, "CPU µs per request by thread, {name}:\n\n{}", lines.concat());
        }
    }

    fn compared(&self) -> impl Iterator<Item = (usize, &Metric)> {
        self.metrics.iter().enumerate().filter(|(_, metric)| metric.compared)
    }

    /// The family for programs: every round, and the ratios that the Markdown quotes.
    pub(crate) fn json(&self) -> Value {
        let systems: Vec<_> = self
            .systems
            .iter()
            .map(|s| json!({"name": s.name, "promise": s.promise, "equal_promise": s.equal}))
            .collect();
        json!({
            "family": self.id, "method": self.method, "systems": systems, "notes": self.notes,
            "cells": self.cells.iter().map(|cell| self.cell_json(cell)).collect::<Vec<_>>(),
        })
    }

    fn cell_json(&self, cell: &Cell) -> Value {
        let results: Vec<_> = (0..self.systems.len())
            .map(|system| {
                let metrics = self.metrics.iter().enumerate().map(|(metric, definition)| {
                    let mut entry = json!({
                        "metric": definition.name,
                        "rounds": cell.series(system, metric),
                        "summary": cell.summary(system, metric).map(summary_json),
                    });
                    if system > 0 && definition.compared {
                        let ratio = cell.ratio(system, metric, definition.better);
                        entry["advantage_of_subject"] = json!(ratio.map(summary_json));
                    }
                    entry
                });
                json!({
                    "system": self.systems[system].name,
                    "metrics": metrics.collect::<Vec<_>>(),
                })
            })
            .collect();
        let threads: Vec<_> =
            cell.threads_us.iter().map(|(name, us)| json!({"thread": name, "us": us})).collect();
        json!({"work": cell.work, "results": results, "subject_threads_cpu_us": threads})
    }
}

/// Puts the families' Markdown between the markers of `document`. Families of earlier runs stay
/// unless measured again; all stand in the order of `ids`.
pub(crate) fn splice(
    document: &str,
    ids: &[&str],
    fresh: &[(&'static str, String)],
) -> Outcome<String> {
    let begin = document.find(BEGIN).ok_or_else(|| format!("the marker {BEGIN} is missing"))?;
    let inner = begin + BEGIN.len();
    let end =
        document[inner..].find(END).ok_or_else(|| format!("{END} does not follow {BEGIN}"))?;
    let (old, end) = (&document[inner..inner + end], inner + end);
    let mut body = String::from("\n");
    for id in ids {
        let (open, close) = (format!("<!-- bench:{id} -->"), format!("<!-- bench:/{id} -->"));
        let kept = || old.split_once(&open)?.1.split_once(&close).map(|(text, _)| text.trim());
        let text = fresh.iter().find(|(name, _)| name == id).map(|(_, text)| text.trim());
        if let Some(text) = text.or_else(kept) {
            let _ = write!(body, "\n{open}\n\n{text}\n\n{close}\n");
        }
    }
    Ok(format!("{}{body}\n{}", &document[..inner], &document[end..]))
}

fn met(verdict: Option<bool>) -> &'static str {
    match verdict {
        Some(true) => "yes",
        Some(false) => "no",
        None => "–",
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn summary_json(s: Summary) -> Value {
    json!({"median": s.median, "min": s.min, "max": s.max, "rounds": s.count})
}

/// `median (min–max)`; the bare value if there was one round.
pub(crate) fn spread(s: Summary, decimals: usize) -> String {
    let median = grouped(s.median, decimals);
    if s.count == 1 {
        return median;
    }
    format!("{median} ({}–{})", grouped(s.min, decimals), grouped(s.max, decimals))
}

/// A number with thousands separated by commas.
pub(crate) fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}

#[cfg(test)]
mod tests;
