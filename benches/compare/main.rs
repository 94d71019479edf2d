//! The standard comparison: Handover, other proxies and a direct connection in the same rounds, against the targets.
//!
//! `benches/compare.sh`, or `cargo bench --bench compare -- --rows throughput --rounds 7`. Options and method are in
//! docs/performance.md.

#![allow(unreachable_pub, reason = "the benchmark is a crate of its own")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/support/mod.rs"]
mod support;

mod client;
mod connection;
mod figures;
mod histogram;
mod load;
mod measure;
mod plots;
mod report;
mod rows;
mod special;
mod systems;
mod targets;
mod work;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::Options;
use figures::{Figures, Sample};
use load::Rhythm;
use measure::{Effort, Processes, Values};
use rows::{Cell, Plan, Task};
use systems::{Backends, System};

const OPTIONS: [&str; 14] = [
    "rows",
    "systems",
    "kinds",
    "clients",
    "pipelines",
    "bytes",
    "rounds",
    "seconds",
    "threads",
    "program",
    "file",
    "append",
    "quick",
    "plots",
];

/// Beside the clients' sockets.
const DESCRIPTORS_RESERVED: usize = 500;

/// A load is repeated so often at most until nobody disturbs it.
const ATTEMPTS: usize = 4;

/// What is measured with.
struct Bench {
    backends: Backends,
    /// Those that run all the while; special measurements start their own.
    systems: Vec<System>,
    wanted: Vec<String>,
    /// A second Handover to compare with.
    other: Option<String>,
    effort: Effort,
    figures: Figures,
    file: PathBuf,
    run: u64,
}

fn main() {
    let options = Options::parse(&OPTIONS);
    let file = support::root().join(options.get("file", "target/compare.jsonl".to_owned()));
    let plan = Plan::of(&options);
    common::print_machine();
    if plan.cells.is_empty() {
        return show(&Figures::read(&file), &options);
    }
    let mut bench = Bench::start(&options, &plan, file);
    bench.fill(&plan);
    for round in 0..plan.rounds {
        for cell in &plan.cells {
            bench.measure_cell(cell, round);
        }
        eprintln!("round {} of {}", round + 1, plan.rounds);
    }
    show(&bench.figures, &options);
}

/// The tables, and with `--plots FOLDER` the plots.
fn show(figures: &Figures, options: &Options) {
    report::print(figures);
    let folder = options.get("plots", String::new());
    if !folder.is_empty() {
        plots::draw(figures, &support::root().join(folder)).expect("the plots can be written");
    }
}

impl Bench {
    fn start(options: &Options, plan: &Plan, file: PathBuf) -> Self {
        let most = common::raise_open_files();
        let wanted = plan.cells.iter().map(Cell::sockets).max().unwrap_or(0);
        assert!(
            wanted + DESCRIPTORS_RESERVED < most,
            "{wanted} clients need more open files than the {most} that are allowed here"
        );
        let backends = Backends::start();
        println!("behind:   redis {}", backends.version());
        let other = options.get("program", String::new());
        let other = (!other.is_empty()).then_some(other);
        let mut systems = Vec::new();
        let mut missing = if other.is_none() { vec!["other"] } else { Vec::new() };
        for name in plan.systems().into_iter().filter(|name| *name != "other" || other.is_some()) {
            match System::start(name, &backends, other.as_deref()) {
                Ok(system) => systems.push(system),
                Err(error) => {
                    println!("left out: {name}: {error}");
                    missing.push(name);
                }
            }
        }
        let all = plan.cells.iter().flat_map(|cell| cell.systems().iter().copied());
        let wanted = all.filter(|name| plan.wants(name) && !missing.contains(name)).map(str::to_owned).collect();
        if options.get("append", "no".to_owned()) == "no" {
            drop(std::fs::remove_file(&file));
        }
        let effort = Effort { length: Duration::from_secs_f64(plan.seconds), threads: options.get("threads", 2) };
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { backends, systems, wanted, other, effort, figures: Figures::read(&file), file, run }
    }

    /// Every key that is asked for exists.
    fn fill(&self, plan: &Plan) {
        let mut sizes: Vec<_> = plan.cells.iter().map(|cell| cell.shape.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut redis = self.backends.redis.client();
        for step in sizes.into_iter().flat_map(work::filling) {
            redis.send(&step.request);
            assert!(!matches!(redis.read_reply(), support::Value::Error(_)), "SET failed");
        }
    }

    /// Every system that does this work; each round begins with another.
    fn measure_cell(&mut self, cell: &Cell, round: usize) {
        let pace = if cell.is_paced() { self.half_of_direct(cell) } else { None };
        let names: Vec<_> = cell.systems().iter().copied().filter(|name| self.has(name)).collect();
        for turn in 0..names.len() {
            let name = names[(round + turn) % names.len()];
            let outcome = match &cell.task {
                Task::Special(special) => special.measure(name, &cell.shape, self.other.as_deref()),
                Task::Load { .. } => self.measure_quietly(cell, name, pace),
            };
            match outcome {
                Ok(values) => {
                    let (shape, run) = (cell.shape.clone(), self.run);
                    let sample = Sample { shape, system: name.to_owned(), run, round, values };
                    self.figures.add(sample, &self.file).expect("the file of the figures can be written");
                }
                Err(error) => println!("failed:   {name} with {}: {error}", cell.shape.title()),
            }
        }
    }

    /// Whether it was asked for and could be started.
    fn has(&self, name: &str) -> bool {
        self.wanted.contains(&name.to_owned())
    }

    /// Again while others disturb it; the last one counts.
    fn measure_quietly(&self, cell: &Cell, name: &str, pace: Option<f64>) -> Result<Values, String> {
        for _ in 1..ATTEMPTS {
            let values = self.measure(cell, name, pace)?;
            if figures::is_quiet(&values) {
                return Ok(values);
            }
        }
        self.measure(cell, name, pace)
    }

    fn measure(&self, cell: &Cell, name: &str, pace: Option<f64>) -> Result<Values, String> {
        let system = self.systems.iter().find(|system| system.name == name).ok_or("it is not running")?;
        let groups = cell.groups(system, &self.backends, pace.map_or(Rhythm::Closed, Rhythm::Paced))?;
        let processes = Processes { proxy: system.pid, redis: self.backends.redis.pid() };
        let mut values = measure::measure(&groups, processes, self.effort)?;
        values.extend(pace.map(|pace| ("pace".to_owned(), pace)));
        Ok(values)
    }

    /// Steps a second of half the load that Redis itself can bear now.
    fn half_of_direct(&self, cell: &Cell) -> Option<f64> {
        let values = self.measure(cell, "direct", None).ok()?;
        Some(values.get("rate")? / cell.shape.pipeline as f64 / 2.0)
    }
}
