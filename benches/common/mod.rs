//! What the benchmarks share: options, percentiles, the machine they ran on, the CPU time of a process.
#![allow(dead_code, reason = "each benchmark uses its own part")]
#![allow(unreachable_pub, reason = "every benchmark is a crate of its own")]

use std::fs;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

/// Options of the form `--name value`, or `--name` for `yes`. What is not known ends the benchmark with the list of what is.
pub struct Options {
    given: Vec<(String, String)>,
}

impl Options {
    /// Reads the command line; `known` names every option, without its dashes.
    pub fn parse(known: &[&str]) -> Self {
        // cargo adds `--bench`.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").peekable();
        let mut given = Vec::new();
        while let Some(argument) = arguments.next() {
            let name = argument.trim_start_matches("--").to_owned();
            let usage: String = known.iter().map(|name| format!(" [--{name} VALUE]")).collect();
            assert!(known.contains(&name.as_str()), "{argument}? options:{usage}");
            let value = arguments.next_if(|next| !next.starts_with("--"));
            given.push((name, value.unwrap_or_else(|| "yes".to_owned())));
        }
        Self { given }
    }

    /// An option's value, or what is taken without it.
    pub fn get<T: FromStr>(&self, name: &str, otherwise: T) -> T {
        let Some((_, value)) = self.given.iter().rev().find(|(given, _)| given == name) else { return otherwise };
        value.parse().unwrap_or_else(|_| panic!("--{name} {value}: not a value of this option"))
    }
}

/// The value below which `share` of the samples lie (nearest rank); sorts them.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the samples")]
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples.get(rank.clamp(1, samples.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub fn median(samples: &mut [f64]) -> f64 {
    percentile(samples, 0.5)
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Says on what machine, with what versions and beside what load the figures came about.
pub fn print_machine() {
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine:  {cores} cores,{}, Linux {}", model.trim_start_matches(['\t', ' ', ':']).trim_end(), kernel());
    println!("handover: {}", first_line(Command::new(program()).arg("--version")));
    println!("load:     {} (/proc/loadavg at the start)", read("/proc/loadavg").trim());
}

/// `$HANDOVER_PROGRAM`, else the one that was built with the benchmark.
pub fn program() -> String {
    std::env::var("HANDOVER_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_handover").to_owned())
}

fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").trim().to_owned()
}

/// The first line that a command prints.
pub fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("?").to_owned()
}

/// CPU seconds that all threads of a process have used, from the scheduler's own clock.
pub fn cpu_seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let used = threads.map(|thread| read(thread.path().join("schedstat")));
    used.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

/// CPU seconds that the children of this process had used when they ended.
pub fn cpu_seconds_of_ended_children() -> f64 {
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // cutime and cstime, the 16th and 17th of proc(5), of which the first two stand before the split.
    (ticks(13) + ticks(14)) / TICKS_PER_SECOND
}

/// CPU seconds that the whole machine has been busy.
pub fn cpu_seconds_of_machine() -> f64 {
    let stat = read("/proc/stat");
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user, nice, system, then idle and iowait, irq, softirq, steal.
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|index| fields.get(index)).sum::<f64>() / TICKS_PER_SECOND
}

/// Raises the limit of open files, which children inherit, as far as it goes, and returns it.
pub fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit may be raised to its maximum");
    maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> f64 {
    status_kib(pid, "VmRSS:")
}

/// The most that it ever was.
pub fn resident_peak_kib(pid: u32) -> f64 {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, name: &str) -> f64 {
    let status = read(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn read(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// USER_HZ, which Linux holds at 100 for whoever reads `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;
