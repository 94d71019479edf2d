//! Counts the instructions that the pure core spends on a command, and compares them with what is stored.
//!
//! Each case of `cases` runs in a process of its own under callgrind, which counts what happens within
//! [`machine::measured_by_callgrind`]. Counts do not depend on the machine's speed or on what else runs on it.

mod bounds;
mod callgrind;
mod cases;
mod machine;

// The pure core, as it is. Most of what it exports is of no use here, and it is linted where it belongs.
#[allow(clippy::all, dead_code, unfulfilled_lint_expectations)]
#[path = "../../../src/command/mod.rs"]
mod command;
#[allow(clippy::all, dead_code, unused_imports)]
#[path = "../../../src/logic/mod.rs"]
mod logic;
#[allow(clippy::all, dead_code)]
#[path = "../../../src/resp/mod.rs"]
mod resp;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bounds::{Bounds, Count};
use cases::Case;

/// How all of this is run.
const COMMAND: &str = "cargo run --locked --profile instructions --package handover-instructions --";

const USAGE: &str = "\
  (nothing)       count every case and compare with benches/instructions/bounds.tsv
  count [PART]    count the cases whose name has PART, and only show them
  store           count every case and store the counts as the new bounds
  profile CASE    instructions by function; lines too, when CARGO_PROFILE_INSTRUCTIONS_DEBUG=line-tables-only is set
  run CASE        carry a case out (what runs under callgrind)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] => compare(),
        ["count"] => count("").map(|counts| print!("{}", bounds::table(&counts, None))),
        ["count", part] => count(part).map(|counts| print!("{}", bounds::table(&counts, None))),
        ["store"] => store(),
        ["profile", name] => find(name).and_then(|case| callgrind::profile(&case)),
        ["run", name] => find(name).map(|case| println!("{}", case.run())),
        _ => Err(format!("usage: {COMMAND}\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Result<Case, String> {
    let known = || cases::all().into_iter().map(|case| case.name).collect::<Vec<_>>().join("\n  ");
    let found = cases::all().into_iter().find(|case| case.name == name);
    found.ok_or_else(|| format!("there is no case `{name}`, but\n  {}", known()))
}

/// Counts every case whose name has `part`, as many at a time as there are cores.
fn count(part: &str) -> Result<Vec<Count>, String> {
    let names: Vec<String> =
        cases::all().into_iter().map(|case| case.name).filter(|name| name.contains(part)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counts = Vec::new();
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            counts.push(callgrind::count(name)?);
        }
        Ok::<_, String>(counts)
    };
    let mut counts = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..thread::available_parallelism().map_or(1, usize::from)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            counts.extend(worker.join().map_err(|_| "a thread that counts panicked".to_owned())??);
        }
        Ok::<_, String>(())
    })?;
    counts.sort_by_key(|count| names.iter().position(|name| *name == count.case));
    Ok(counts)
}

fn compare() -> Result<(), String> {
    let bounds = Bounds::load()?;
    let counts = count("")?;
    print!("{}", bounds::table(&counts, Some(&bounds)));
    bounds.judge(&counts)
}

fn store() -> Result<(), String> {
    let counts = count("")?;
    print!("{}", bounds::table(&counts, Bounds::load().ok().as_ref()));
    bounds::store(&counts)
}
