//! The family `placement`: what planning costs in a large cluster, and how soon it comes to rest.
//!
//! The planner is a pure function that no command of the binary calls with a state of one's own, so
//! this family runs the example of its crate that measures it, and reads its lines.

use std::collections::BTreeMap;
use std::process::Command;

use super::families::Plan;
use super::report::{Cell, Competitor, Goal, Metric, Section, grouped};
use super::stats::Better;
use crate::Outcome;

/// Nodes and shards of the cluster.
const SIZE: (u64, u64) = (1000, 100_000);
/// The same in a smoke test.
const QUICK: (u64, u64) = (100, 2000);
/// What the project wants of the longest round, in ms.
const WANTED_MS: f64 = 500.0;
/// Columns, with the names that the example gives them.
const COLUMNS: [(&str, &str, usize); 7] = [
    ("rounds", "rounds to rest", 0),
    ("copies", "replicas copied", 0),
    ("transfers", "leaders handed over", 0),
    ("moves", "moves in all", 0),
    ("hindered", "shards beyond help", 0),
    ("median_ms", "CPU ms/round, median", 1),
    ("max_ms", "CPU ms/round, longest", 1),
];
/// The place of the longest round in [`COLUMNS`].
const LONGEST: usize = 6;

/// Rounds, moves, time and memory after some things that happen to clusters.
pub(crate) fn placement(plan: &Plan<'_>) -> Outcome<Section> {
    let (nodes, shards) = if plan.divide > 1 { QUICK } else { SIZE };
    let (few, many) = ((nodes / 100).max(1), nodes / 10);
    let cases = [
        ("rest", "nothing happens".to_owned()),
        ("nodes_lost", format!("{few} nodes lost, of {few} zones")),
        ("zone_lost", format!("a zone of {many} nodes lost")),
        ("nodes_added", format!("{many} nodes added")),
        ("drain", format!("{few} nodes drained")),
    ];
    let cell = |(_, work): &(_, String)| Cell {
        work: work.clone(),
        values: vec![Vec::new()],
        threads_us: Vec::new(),
        goals: vec![Goal::Below { metric: LONGEST, limit: WANTED_MS }],
    };
    let mut cells: Vec<Cell> = cases.iter().map(cell).collect();
    let mut memory = (Vec::new(), Vec::new());
    for round in 1..=plan.runs {
        let text = format!("round {round}/{}: {nodes} nodes, {shards} shards", plan.runs);
        plan.progress("placement", &text);
        let lines = measure(nodes, shards)?;
        let of = |case: &str| lines.get(case).ok_or_else(|| format!("no figures of {case}"));
        for ((case, _), cell) in cases.iter().zip(&mut cells) {
            let figures = of(case)?;
            let values = COLUMNS.iter().map(|(name, ..)| figure(figures, name));
            cell.values[0].push(Some(values.collect::<Outcome<Vec<f64>>>()?));
        }
        memory.0.push(figure(of("memory")?, "state_mib")?);
        memory.1.push(figure(of("memory")?, "plan_mib")?);
    }
    Ok(section(nodes, shards, cells, &memory))
}

fn section(nodes: u64, shards: u64, cells: Vec<Cell>, memory: &(Vec<f64>, Vec<f64>)) -> Section {
    let most = |figures: &[f64]| figures.iter().copied().fold(0.0, f64::max);
    Section {
        id: "placement",
        title: "Placement",
        method: format!(
            "Planning for {} nodes in ten zones and {} shards of three replicas, of the same size \
             and load, with the default limits. In a round all moves of a plan end and all copies \
             catch up; how long that takes depends on the data and is not measured. Timed is the \
             planning alone, on one core, as CPU time of its thread.",
            grouped(nodes as f64, 0),
            grouped(shards as f64, 0),
        ),
        metrics: COLUMNS
            .iter()
            .map(|(_, name, decimals)| Metric {
                name,
                better: Better::Lower,
                decimals: *decimals,
                compared: false,
            })
            .collect(),
        systems: vec![Competitor {
            name: "planner".into(),
            promise: "decides only; a model without a network carries the moves out",
            equal: true,
        }],
        cells,
        notes: vec![
            format!(
                "the state takes {} MiB, and a plan {} MiB more while it is made (the most of all \
                 rounds)",
                grouped(most(&memory.0), 1),
                grouped(most(&memory.1), 1)
            ),
            "shards beyond help lost their quorum, because two of their nodes were lost at once"
                .into(),
        ],
    }
}

/// Figures by name.
type Figures = BTreeMap<String, String>;

/// Runs the example once; its figures by case.
fn measure(nodes: u64, shards: u64) -> Outcome<BTreeMap<String, Figures>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--release", "--quiet", "-p", "quorate-placement"])
        .args(["--example", "placement_speed", "--"])
        .args([nodes.to_string(), shards.to_string()])
        .current_dir(super::root())
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("placement_speed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines of `case=NAME name=value …`.
fn read(text: &str) -> BTreeMap<String, Figures> {
    let line = |line: &str| {
        let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
        let mut figures: Figures = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        Some((figures.remove("case")?, figures))
    };
    text.lines().filter_map(line).collect()
}

fn figure(figures: &Figures, name: &str) -> Outcome<f64> {
    let value = figures.get(name).and_then(|value| value.parse().ok());
    value.ok_or_else(|| format!("placement_speed does not say {name}"))
}

#[cfg(test)]
mod tests {
    use super::{figure, read};

    #[test]
    fn figures_are_read_by_case_and_name() {
        let lines = read("noise\ncase=rest rounds=0 max_ms=53.2\ncase=drain rounds=15\n");
        assert_eq!(figure(&lines["rest"], "max_ms").unwrap(), 53.2);
        assert_eq!(figure(&lines["drain"], "rounds").unwrap(), 15.0);
        assert!(figure(&lines["drain"], "max_ms").unwrap_err().contains("max_ms"));
    }
}
