//! redis-benchmark as the load generator: how it is started, and how its CSV is read.
//!
//! It is one thread. At pipeline 1 that thread is often the bottleneck, not the server; so each
//! run also records how busy the generator was and what the server spent per request.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::client::VALUE_BYTES;
use super::machine::{CpuTime, cpu_of_machine, cpu_of_waited_children, find_program};
use super::servers::Server;
use crate::Outcome;

/// Keys are drawn from `key:000000000000` up to this many (redis-benchmark `-r`).
pub(crate) const KEYS: u64 = 1_000_000;
/// Longest time for one run.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);

/// What redis-benchmark sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Traffic {
    /// One of its own tests (`-t`), with values of so many bytes.
    Test(&'static str, usize),
    /// A command spelled out.
    Command(&'static [&'static str]),
}

/// One run: so many requests from so many clients, so many of them in flight on each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) traffic: Traffic,
    pub(crate) requests: u64,
    pub(crate) clients: u64,
    pub(crate) pipeline: u64,
}

/// What one run measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) ops_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The server's CPU for one request, all its threads.
    pub(crate) cpu_us: f64,
    /// The same by thread name.
    pub(crate) threads_us: Vec<(String, f64)>,
    /// Share of the run's time that redis-benchmark was on a core, in percent.
    pub(crate) generator_busy_percent: f64,
    /// What anything but server and generator used meanwhile, in percent of one core.
    pub(crate) others_busy_percent: f64,
}

/// The installed redis-benchmark.
pub(crate) struct Generator {
    path: PathBuf,
    pub(crate) version: String,
}

impl Generator {
    /// Finds it on `PATH`.
    pub(crate) fn find() -> Outcome<Self> {
        let hint = "redis-benchmark, the load generator, is missing: `apt-get install redis-tools`";
        let path = find_program("redis-benchmark").ok_or(hint)?;
        let version = super::machine::first_line(&path.display().to_string(), &["--version"]);
        Ok(Self { path, version: version.ok_or(hint)? })
    }

    /// Runs once against `server` and reads what it printed and what the server spent.
    pub(crate) fn run(&self, server: &mut Server, run: &Run) -> Outcome<Sample> {
        server.check_alive()?;
        let (children_before, cpu_before) = (cpu_of_waited_children(), CpuTime::of(server.pid())?);
        let machine_before = cpu_of_machine();
        let start = Instant::now();
        let printed = self.run_to_end(server.port, run)?;
        let wall = start.elapsed().as_secs_f64();
        server.check_alive()?;
        let cpu = CpuTime::of(server.pid())?.since(&cpu_before);
        let generator = cpu_of_waited_children() - children_before;
        let others = cpu_of_machine() - machine_before - cpu.total - generator;
        let figures = parse_csv(&printed)?;

        let per_request = |seconds: f64| seconds * 1e6 / run.requests as f64;
        Ok(Sample {
            ops_per_second: figures.ops_per_second,
            p50_ms: figures.p50_ms,
            p99_ms: figures.p99_ms,
            cpu_us: per_request(cpu.total),
            threads_us: cpu.threads.into_iter().map(|(n, s)| (n, per_request(s))).collect(),
            generator_busy_percent: 100.0 * generator / wall,
            others_busy_percent: (100.0 * others / wall).max(0.0),
        })
    }

    fn run_to_end(&self, port: u16, run: &Run) -> Outcome<String> {
        let mut child = Command::new(&self.path)
            .args(arguments(port, run))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start redis-benchmark: {e}"))?;
        let deadline = Instant::now() + RUN_TIMEOUT;
        // Its output is a few lines, far below what a pipe holds, so it is read at the end.
        while child.try_wait().map_err(|e| format!("waiting for redis-benchmark: {e}"))?.is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end after {} s", RUN_TIMEOUT.as_secs()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let output = child
            .wait_with_output()
            .map_err(|e| format!("cannot read redis-benchmark's output: {e}"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        // Without CONFIG it warns and goes on; an error reply to the command itself is final.
        let refused =
            errors.lines().chain(printed.lines()).find(|l| l.contains("Error from server"));
        match refused {
            Some(line) => Err(line.trim().to_owned()),
            None if !output.status.success() => Err(format!("redis-benchmark: {}", errors.trim())),
            None => Ok(printed),
        }
    }
}

fn arguments(port: u16, run: &Run) -> Vec<String> {
    let mut line = vec!["-h".to_owned(), "127.0.0.1".to_owned()];
    let numbers = [
        ("-p", u64::from(port)),
        ("-c", run.clients),
        ("-n", run.requests),
        ("-P", run.pipeline),
        ("-r", KEYS),
    ];
    line.extend(numbers.into_iter().flat_map(|(flag, n)| [flag.to_owned(), n.to_string()]));
    line.push("--csv".to_owned());
    match run.traffic {
        Traffic::Test(name, bytes) => {
            line.extend(["-t".to_owned(), name.to_owned(), "-d".to_owned(), bytes.to_string()]);
        }
        Traffic::Command(words) => line.extend(words.iter().map(|word| (*word).to_owned())),
    }
    line
}

/// Default traffic of the durable and relaxed families.
pub(crate) fn with_64_byte_values(test: &'static str) -> Traffic {
    Traffic::Test(test, VALUE_BYTES)
}

#[derive(Debug, PartialEq)]
struct Figures {
    ops_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Reads the last row of redis-benchmark's CSV by the names in its header.
///
/// ```text
/// "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",…
/// "SET","152671.77","0.209","0.040","0.207","0.311",…
/// ```
fn parse_csv(printed: &str) -> Outcome<Figures> {
    let mut rows = printed.lines().filter(|line| line.starts_with('"')).map(split_row);
    let header = rows.next().filter(|header| header.iter().any(|name| name == "rps"));
    let header = header.ok_or_else(|| format!("redis-benchmark printed no header: {printed:?}"))?;
    let row =
        rows.next_back().ok_or_else(|| format!("redis-benchmark printed no row: {printed:?}"))?;
    let column = |name: &str| -> Outcome<f64> {
        let position = header.iter().position(|column| column == name);
        position
            .and_then(|position| row.get(position)?.parse().ok())
            .ok_or_else(|| format!("redis-benchmark printed no {name}: {printed:?}"))
    };
    Ok(Figures {
        ops_per_second: column("rps")?,
        p50_ms: column("p50_latency_ms")?,
        p99_ms: column("p99_latency_ms")?,
    })
}

/// Every field is quoted, and a command's name may hold commas.
fn split_row(line: &str) -> Vec<String> {
    line.trim().trim_matches('"').split("\",\"").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\
        \"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n";

    #[test]
    fn csv_of_one_test() {
        let row =
            "\"SET\",\"152671.77\",\"0.209\",\"0.040\",\"0.207\",\"0.311\",\"0.423\",\"1.6\"\n";
        let figures = parse_csv(&format!("{HEADER}{row}")).unwrap();
        let expected = Figures { ops_per_second: 152_671.77, p50_ms: 0.207, p99_ms: 0.423 };
        assert_eq!(figures, expected);
    }

    #[test]
    fn csv_with_commas_in_the_name_and_noise_before() {
        let row = "\"EVAL a,b \"x\"\",\"10.5\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\"\n";
        let printed = format!("WARNING: no CONFIG\n{HEADER}{row}");
        let figures = parse_csv(&printed).unwrap();
        assert_eq!(figures, Figures { ops_per_second: 10.5, p50_ms: 3.0, p99_ms: 5.0 });
    }

    #[test]
    fn csv_that_is_not_there() {
        assert!(parse_csv("").unwrap_err().contains("no header"));
        assert!(parse_csv(HEADER).unwrap_err().contains("no row"));
        assert!(parse_csv("\"test\",\"rps\"\n\"SET\",\"1\"\n").unwrap_err().contains("p50"));
    }

    #[test]
    fn the_command_line() {
        let run =
            Run { traffic: with_64_byte_values("set"), requests: 100, clients: 50, pipeline: 16 };
        let line = arguments(21_000, &run).join(" ");
        let expected = "-h 127.0.0.1 -p 21000 -c 50 -n 100 -P 16 -r 1000000 --csv -t set -d 64";
        assert_eq!(line, expected);
        let run = Run { traffic: Traffic::Command(&["LRANGE", "mylist", "0", "99"]), ..run };
        assert!(arguments(21_000, &run).join(" ").ends_with("--csv LRANGE mylist 0 99"));
    }
}
