//! How long clients wait when the active dies (SIGKILL) or stops (SIGSTOP), and what it costs them.
//!
//! `cargo bench --bench failover -- --runs 100 --stop-runs 20 --fast-runs 20`
//!
//! Each run is fresh: two Redis servers, one Handover, clients that together send a command every 5 ms.

#[path = "common/mod.rs"]
mod common;
#[path = "common/load.rs"]
mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Options, ms, percentile};
use load::{CLIENTS, STEP};
use support::{Handover, RedisServer, wait_until};

/// Under load before the fault, so that nothing is measured that only a start has.
const WARM_UP: Duration = Duration::from_millis(300);
/// Commands of each client after the fault, so that its last SET is one that the second backend got.
const COMMANDS_AFTER: usize = 4;
/// No fault may keep a client waiting for longer.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Kill,
    Stop,
}

/// What one run showed.
struct Run {
    first_success: Duration,
    longest_wait: Duration,
    /// What Handover's log says of it: from its first sign to the decision, and from there to the new route.
    detect_ms: f64,
    switch_ms: f64,
    uncertain: u64,
    errors: Vec<String>,
    lost: i64,
    doubled: i64,
}

fn main() {
    let options = Options::parse(&["runs", "stop-runs", "fast-runs"]);
    common::print_machine();
    let series = [
        ("kill -9", Fault::Kill, "", options.get("runs", 100)),
        ("SIGSTOP", Fault::Stop, "", options.get("stop-runs", 20)),
        ("SIGSTOP, fast", Fault::Stop, "preset = \"fast\"\n", options.get("fast-runs", 20)),
    ];
    println!("load:     {CLIENTS} connections, a command every {} ms in all: INCR and SET in turn", STEP.as_millis());
    println!();
    println!(
        "| fault | runs | first success ms: p50 | p99 | max | longest wait ms: p50 | p99 | max | UNCERTAIN a run | other errors | lost | doubled |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut is_clean = true;
    for (name, fault, preset, count) in series {
        let runs: Vec<Run> = (0..count).map(|_| run(fault, preset)).collect();
        is_clean &= print_row(name, &runs);
    }
    println!();
    println!("first success: from the fault to the first good reply to a command sent after it, on any connection");
    println!("(of which {:.1} ms on average pass before any client sends one);", ms(STEP) / 2.0);
    println!("longest wait: of any command answered after the fault, from sending it to its reply.");
    assert!(is_clean, "a client saw an error, or lost or doubled a command");
}

/// Whether nothing went wrong in it.
fn print_row(name: &str, runs: &[Run]) -> bool {
    if runs.is_empty() {
        return true;
    }
    let mut first: Vec<f64> = runs.iter().map(|run| ms(run.first_success)).collect();
    let mut longest: Vec<f64> = runs.iter().map(|run| ms(run.longest_wait)).collect();
    let spread =
        |samples: &mut [f64]| [0.5, 0.99, 1.0].map(|share| format!("{:.1}", percentile(samples, share))).join(" | ");
    let uncertain: u64 = runs.iter().map(|run| run.uncertain).sum();
    let errors: Vec<&String> = runs.iter().flat_map(|run| &run.errors).collect();
    let (lost, doubled): (i64, i64) = (runs.iter().map(|run| run.lost).sum(), runs.iter().map(|run| run.doubled).sum());
    println!(
        "| {name} | {} | {} | {} | {:.2} | {} | {lost} | {doubled} |",
        runs.len(),
        spread(&mut first),
        spread(&mut longest),
        uncertain as f64 / runs.len() as f64,
        errors.len()
    );
    let own = |of: fn(&Run) -> f64| {
        let mut samples: Vec<f64> = runs.iter().map(of).collect();
        format!("{:.2} ms p50, {:.2} ms p99", percentile(&mut samples, 0.5), percentile(&mut samples, 0.99))
    };
    println!("    by its log: detected in {}; switched in {}", own(|run| run.detect_ms), own(|run| run.switch_ms));
    let mut kinds = BTreeMap::<&str, usize>::new();
    errors.iter().for_each(|error| *kinds.entry(error).or_default() += 1);
    kinds.iter().for_each(|(error, count)| println!("    {count} × {error}"));
    errors.is_empty() && lost == 0 && doubled == 0
}

fn run(fault: Fault, preset: &str) -> Run {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let configuration = format!(
        "{preset}[[backend]]\nname = \"east\"\nurl = \"redis://{}\"\nweight = 2.0\n\
         [[backend]]\nname = \"west\"\nurl = \"redis://{}\"\nweight = 1.0\n",
        east.address(),
        west.address()
    );
    // A fault is logged as one.
    let handover = Handover::builder(&configuration).allow_warning("").start();
    wait_until(WAIT_MAX, || handover.metric("handover_backend_up", &[("backend", "west")]) > 0.0);
    load::prepare(&east);

    let has_failed = AtomicBool::new(false);
    let start = Instant::now() + Duration::from_millis(20);
    let (fault_at, samples) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (connection, has_failed) = (handover.client(), &has_failed);
                let mut sent_after = 0;
                let is_over = move || {
                    let is_over = sent_after >= COMMANDS_AFTER;
                    sent_after += usize::from(has_failed.load(Ordering::Relaxed));
                    is_over
                };
                scope.spawn(move || load::client(client, connection, start, is_over))
            })
            .collect();
        // Somewhere between two steps.
        std::thread::sleep(WARM_UP + STEP.mul_f64(fastrand::f64() * f64::from(CLIENTS)));
        let fault_at = Instant::now();
        match fault {
            Fault::Kill => east.kill(),
            Fault::Stop => east.stop(),
        }
        has_failed.store(true, Ordering::Relaxed);
        let samples: Vec<Vec<load::Sample>> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        (fault_at, samples)
    });
    if fault == Fault::Stop {
        east.cont();
    }
    let switched = handover.wait_for_log(|line| line.message() == "switched" && line.field("to") == "west", WAIT_MAX);
    let of_log = |field: &str| switched.field(field).parse().map_or(f64::NAN, |us: f64| us / 1e3);
    let mut run = judge(fault_at, &samples, (fault == Fault::Stop).then_some(&east), &west);
    (run.detect_ms, run.switch_ms) = (of_log("detect_us"), of_log("switch_us"));
    // The first is the choice at the start.
    let switches = handover.log().iter().filter(|line| line.message() == "switched").count() - 1;
    if switches != 1 {
        run.errors.push(format!("{switches} switches instead of one"));
    }
    run
}

fn judge(fault_at: Instant, samples: &[Vec<load::Sample>], east: Option<&RedisServer>, west: &RedisServer) -> Run {
    let ledger = load::audit(samples, east, Some(west), Some(west));
    Run {
        first_success: load::first_success(samples, fault_at).unwrap_or(WAIT_MAX),
        longest_wait: load::longest_wait(samples, fault_at).unwrap_or(WAIT_MAX),
        detect_ms: f64::NAN,
        switch_ms: f64::NAN,
        uncertain: load::uncertain(samples),
        errors: load::errors(samples),
        lost: ledger.lost,
        doubled: ledger.doubled,
    }
}
