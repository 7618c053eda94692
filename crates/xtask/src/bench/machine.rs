//! What the figures were measured on, read from `/proc` and a few system tools (Linux), and the
//! CPU and memory a process has used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::stats::summary;
use crate::Outcome;

/// Synced writes in the probe of the disk.
const SYNC_PROBES: usize = 200;
/// Bytes of one such write.
const SYNC_PROBE_BYTES: usize = 4096;

/// The machine, as printed beside every figure.
pub(crate) struct Machine {
    date: String,
    cores: usize,
    cpu: String,
    kernel: String,
    memory_gib: f64,
    load_before: String,
    filesystem: String,
    sync_median_us: f64,
}

impl Machine {
    /// Reads the machine's properties and probes the disk below `directory`.
    pub(crate) fn survey(directory: &Path) -> Outcome<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let directory = directory
            .canonicalize()
            .map_err(|e| format!("cannot open {}: {e}", directory.display()))?;
        Ok(Self {
            date: first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            kernel: first_line("uname", &["-sr"]).unwrap_or_default(),
            memory_gib: kib(&meminfo, "MemTotal").unwrap_or(0.0) / (1024.0 * 1024.0),
            load_before: loadavg.split(' ').take(3).collect::<Vec<_>>().join(" "),
            filesystem: filesystem_of(&mounts, &directory).unwrap_or_else(|| "unknown".into()),
            sync_median_us: probe_sync(&directory)?,
        })
    }

    /// One line for a report.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; {} cores ({}), {:.0} GiB, {}; load before {}; data on {}, \
             fdatasync of {} KiB {:.0} µs (median of {SYNC_PROBES})",
            self.date,
            self.cores,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.load_before,
            self.filesystem,
            SYNC_PROBE_BYTES / 1024,
            self.sync_median_us
        )
    }

    /// The same, for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "date": self.date, "cores": self.cores, "cpu": self.cpu, "kernel": self.kernel,
            "memory_gib": self.memory_gib, "load_before": self.load_before,
            "filesystem": self.filesystem, "fdatasync_median_us": self.sync_median_us,
        })
    }
}

/// CPU time of a process, in seconds: all threads, those that have ended included.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CpuTime {
    pub(crate) total: f64,
    /// Living threads by name; threads of one name are added up.
    pub(crate) threads: BTreeMap<String, f64>,
}

impl CpuTime {
    /// Reads what process `pid` has used until now.
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
        let total = parse_stat(&stat).ok_or_else(|| format!("cannot parse {path}"))?.own;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // A thread may end between the listing and the read.
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            if let Some(stat) = parse_stat(&stat) {
                *threads.entry(stat.name).or_default() += stat.own;
            }
        }
        Ok(Self { total, threads })
    }

    /// What was used between `before` and `self`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let used = |(name, after): (&String, &f64)| {
            (name.clone(), after - before.threads.get(name).unwrap_or(&0.0))
        };
        Self { total: self.total - before.total, threads: self.threads.iter().map(used).collect() }
    }
}

/// CPU seconds of all children that this process has waited for.
pub(crate) fn cpu_of_waited_children() -> f64 {
    fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| parse_stat(&stat))
        .map_or(0.0, |stat| stat.children)
}

/// CPU seconds that anything on this machine has used since it started, time stolen by a
/// hypervisor included.
pub(crate) fn cpu_of_machine() -> f64 {
    fs::read_to_string("/proc/stat").ok().and_then(|stat| parse_busy(&stat)).unwrap_or(0.0)
}

/// The `cpu` line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq,
/// steal, all in clock ticks; guest time is already part of user.
fn parse_busy(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().take(8).filter_map(|t| t.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq + steal) / ticks_per_second())
}

/// Resident memory of a process in bytes: all of it, mapped files included.
pub(crate) fn resident_bytes(pid: u32) -> Outcome<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    kib(&status, "VmRSS").map(|kib| kib * 1024.0).ok_or_else(|| format!("no VmRSS in {path}"))
}

/// The first line a command prints, if it runs and succeeds.
pub(crate) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// Writes everything dirty on the data directory's file system, so that one system's write-back
/// does not fall into its neighbour's run.
pub(crate) fn write_back(directory: &Path) {
    // A failure only makes the figures noisier; the spread shows it.
    let _ = Command::new("sync").arg("-f").arg(directory).status();
}

/// A program on `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

struct Stat {
    name: String,
    own: f64,
    children: f64,
}

/// Parses `/proc/PID/stat` (proc(5)): the name stands in parentheses and may itself hold spaces
/// and parentheses; fields 14 to 17 are utime, stime, cutime and cstime in clock ticks.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let ticks: Vec<f64> =
        tail.split_whitespace().skip(11).take(4).filter_map(|t| t.parse().ok()).collect();
    let [utime, stime, cutime, cstime] = ticks[..] else { return None };
    let hz = ticks_per_second();
    Some(Stat { name, own: (utime + stime) / hz, children: (cutime + cstime) / hz })
}

fn ticks_per_second() -> f64 {
    static TICKS: OnceLock<f64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        first_line("getconf", &["CLK_TCK"]).and_then(|t| t.parse().ok()).unwrap_or(100.0)
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kib(text: &str, name: &str) -> Option<f64> {
    field(text, name)?.split(' ').next()?.parse().ok()
}

/// The type and device of the mount that holds `path`: the last of the longest mount points.
fn filesystem_of(mounts: &str, path: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point).then(|| (point.len(), format!("{kind} ({device})")))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, text)| text)
}

/// Median time of one synced overwrite inside a file already allocated, in microseconds.
fn probe_sync(directory: &Path) -> Outcome<f64> {
    let path = directory.join("sync-probe");
    let probe = || -> std::io::Result<Vec<f64>> {
        let block = [0x51; SYNC_PROBE_BYTES];
        let mut file = File::create(&path)?;
        for _ in 0..SYNC_PROBES {
            file.write_all(&block)?;
        }
        file.sync_all()?;
        let mut times = Vec::with_capacity(SYNC_PROBES);
        file.seek(SeekFrom::Start(0))?;
        for _ in 0..SYNC_PROBES {
            file.write_all(&block)?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(micros(start.elapsed()));
        }
        Ok(times)
    };
    let times = probe().map_err(|e| format!("cannot probe the disk at {}: {e}", path.display()));
    let _ = fs::remove_file(&path);
    Ok(summary(&times?).map_or(0.0, |s| s.median))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let line = "77 (a) b (c) S 1 77 77 0 -1 4194560 11 0 0 0 250 50 100 0 20 0 4 0 99";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.name, "a) b (c");
        assert_eq!(stat.own * ticks_per_second(), 300.0);
        assert_eq!(stat.children * ticks_per_second(), 100.0);
        assert!(parse_stat("77 (short) S 1 2").is_none());
    }

    #[test]
    fn busy_time_leaves_out_idle_and_guest() {
        let stat = "cpu  100 10 50 9000 700 5 20 15 60 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_busy(stat).unwrap() * ticks_per_second(), 200.0);
        assert!(parse_busy("cpu  1 2\n").is_none());
    }

    #[test]
    fn cpu_between_two_readings() {
        let reading = |total, threads: &[(&str, f64)]| CpuTime {
            total,
            threads: threads.iter().map(|(n, t)| ((*n).to_owned(), *t)).collect(),
        };
        let used =
            reading(5.0, &[("main", 3.0), ("sync", 1.0)]).since(&reading(2.0, &[("main", 2.0)]));
        assert_eq!(used, reading(3.0, &[("main", 1.0), ("sync", 1.0)]));
    }

    #[test]
    fn the_longest_mount_wins() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\n/dev/c /dat tmpfs rw 0 0\n";
        let of = |path: &str| filesystem_of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/data/bench"), "xfs (/dev/b)");
        assert_eq!(of("/home"), "ext4 (/dev/a)");
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "MemTotal:       1024 kB\nmodel name\t: A CPU\n";
        assert_eq!(kib(text, "MemTotal"), Some(1024.0));
        assert_eq!(field(text, "model name"), Some("A CPU"));
    }
}
