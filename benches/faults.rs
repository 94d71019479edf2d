//! Every fault that a backend, its network, its probes or Handover itself can have: how long until traffic moves, how
//! long clients wait, what it costs them. `benches/faults.sh` runs it in a network namespace, where packets can be
//! dropped.
//!
//! `benches/faults.sh --runs 20 --presets default,fast,conservative,redis-clients --faults kill,readonly`

#[path = "common/mod.rs"]
mod common;
#[path = "common/load.rs"]
mod load;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Options, ms, percentile};
use load::{CLIENTS, STEP};
use support::{Cut, Handover, Mode, RedisServer, Relay, Signal, holds_within, wait_until};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;
/// A fault that must move the traffic has moved it by then, or has not.
const SWITCH_MAX: Duration = Duration::from_secs(30);

/// Where the commands and the probes of `east` go through.
#[derive(Clone, Copy, PartialEq)]
enum Ways {
    /// Both straight to it.
    Straight,
    /// Commands and probes of one backend through a relay.
    Together,
    /// Commands through a relay, probes straight.
    DataApart,
    /// The probes of both backends through relays, commands straight.
    ProbesApart,
}

/// What must come of it.
#[derive(Clone, Copy, PartialEq)]
enum Must {
    Switch,
    Stay,
    /// The measurement says.
    Either,
}

struct Fault {
    name: &'static str,
    ways: Ways,
    must: Must,
    has_load: bool,
    /// How long it is watched, where it need not end in a switch.
    watch: Duration,
    /// Packets must be dropped for it.
    needs_packets: bool,
    play: fn(&mut Scene),
}

struct Scene {
    /// First, so that it ends first.
    handover: Handover,
    relays: Vec<Relay>,
    east: RedisServer,
    west: RedisServer,
    /// What `east` held is gone, so that it cannot be audited.
    is_east_lost: bool,
}

const FAULT: Fault = Fault {
    name: "",
    ways: Ways::Straight,
    must: Must::Switch,
    has_load: true,
    watch: Duration::from_secs(5),
    needs_packets: false,
    play: |_| {},
};

/// In the order of the table.
fn faults() -> Vec<Fault> {
    let packets = Fault { needs_packets: true, ..FAULT };
    let stays = Fault { must: Must::Stay, ..FAULT };
    vec![
        Fault { name: "kill", play: Scene::kill, ..FAULT },
        Fault { name: "stop", play: |scene| scene.east.stop(), ..FAULT },
        Fault { name: "stop-idle", has_load: false, play: |scene| scene.east.stop(), ..FAULT },
        Fault { name: "black-hole", play: |scene| scene.drop_packets(&["dport", "sport"], "drop"), ..packets },
        Fault { name: "replies-lost", play: |scene| scene.drop_packets(&["sport"], "drop"), ..packets },
        Fault { name: "requests-lost", play: |scene| scene.drop_packets(&["dport"], "drop"), ..packets },
        Fault { name: "loss-1", must: Must::Stay, play: |scene| scene.lose(1), ..packets },
        Fault { name: "loss-5", must: Must::Stay, play: |scene| scene.lose(5), ..packets },
        Fault { name: "loss-20", must: Must::Either, play: |scene| scene.lose(20), ..packets },
        Fault {
            name: "256-kbit",
            must: Must::Either,
            play: |scene| scene.drop_packets(&["dport", "sport"], "limit rate over 32 kbytes/second drop"),
            ..packets
        },
        Fault {
            name: "latency-600",
            ways: Ways::Together,
            must: Must::Either,
            watch: SECONDS(12),
            play: |scene| scene.relays[0].set_mode(Mode::Delay(MS(300))),
            ..FAULT
        },
        Fault {
            name: "probe-path",
            ways: Ways::ProbesApart,
            play: |scene| scene.relays[0].set_mode(Mode::BlackHole),
            ..stays
        },
        Fault {
            name: "data-path",
            ways: Ways::DataApart,
            play: |scene| scene.relays[0].set_mode(Mode::BlackHole),
            ..FAULT
        },
        Fault {
            name: "all-probes",
            ways: Ways::ProbesApart,
            play: |scene| scene.relays.iter().for_each(|relay| relay.set_mode(Mode::BlackHole)),
            ..stays
        },
        Fault { name: "readonly", play: Scene::demote, ..FAULT },
        Fault { name: "readonly-idle", has_load: false, play: Scene::demote, ..FAULT },
        Fault { name: "loading", play: Scene::load_for_long, ..FAULT },
        Fault { name: "stale-return", play: Scene::come_back_stale, ..FAULT },
        Fault { name: "flap", play: Scene::flap, ..FAULT },
        Fault { name: "reset", ways: Ways::DataApart, play: |scene| scene.relays[0].cut(Cut::Reset), ..stays },
        Fault { name: "own-pause", play: Scene::pause_handover, ..stays },
    ]
}

impl Scene {
    fn start(preset: &str, ways: Ways) -> Self {
        let debug = || RedisServer::builder().directive("enable-debug-command yes");
        let (east, west) = (debug().start(), debug().start());
        let relays = match ways {
            Ways::Straight => vec![],
            Ways::Together | Ways::DataApart => vec![Relay::start(east.address())],
            Ways::ProbesApart => vec![Relay::start(east.address()), Relay::start(west.address())],
        };
        let url = |address| format!("url = \"redis://{address}\"\n");
        let probed_at = |address| format!("health_check_url = \"redis://{address}\"\n");
        let (of_east, of_west) = match ways {
            Ways::Straight => (url(east.address()), url(west.address())),
            Ways::Together => (url(relays[0].address()), url(west.address())),
            Ways::DataApart => (url(relays[0].address()) + &probed_at(east.address()), url(west.address())),
            Ways::ProbesApart => (
                url(east.address()) + &probed_at(relays[0].address()),
                url(west.address()) + &probed_at(relays[1].address()),
            ),
        };
        let configuration = format!(
            "preset = \"{preset}\"\n[[backend]]\nname = \"east\"\nweight = 2.0\n{of_east}\
             [[backend]]\nname = \"west\"\nweight = 1.0\n{of_west}"
        );
        // A fault is logged as one.
        let handover = Handover::builder(&configuration).allow_warning("").start();
        wait_until(SECONDS(10), || handover.metric("handover_backend_up", &[("backend", "west")]) > 0.0);
        load::prepare(&east);
        Self { handover, relays, east, west, is_east_lost: false }
    }

    fn kill(&mut self) {
        self.east.kill();
        self.is_east_lost = true;
    }

    /// What arrives in this namespace from or for that port is treated so.
    fn drop_packets(&mut self, sides: &[&str], verdict: &str) {
        let rule = |side: &&str| format!("tcp {side} {} {verdict}\n", self.east.port());
        let rules: String = sides.iter().map(rule).collect();
        let chain = "type filter hook input priority 0; policy accept;";
        nft(&format!("table inet faults {{\nchain lost {{\n{chain}\n{rules}}}\n}}\n"));
    }

    fn lose(&mut self, percent: u32) {
        let verdict = format!("numgen random mod 100 < {percent} drop");
        self.drop_packets(&["dport", "sport"], &verdict);
    }

    /// It becomes a replica of nobody that can be reached, and keeps its data.
    fn demote(&mut self) {
        self.east.command(&["REPLICAOF", "127.0.0.1", "1"]);
    }

    /// It reads its own data again, slowly, and says LOADING meanwhile.
    fn load_for_long(&mut self) {
        self.east.command(&["DEBUG", "POPULATE", "4000", "filler", "64"]);
        self.east.command(&["CONFIG", "SET", "key-load-delay", "1000"]);
        self.east.client().send_command(&["DEBUG", "RELOAD"]);
    }

    /// Killed, left, and there again without its data: it must not be returned to within its grace.
    fn come_back_stale(&mut self) {
        self.kill();
        self.wait_for_switch(SWITCH_MAX);
        self.east.restart();
        std::thread::sleep(SECONDS(5));
    }

    fn flap(&mut self) {
        for _ in 0..5 {
            self.kill();
            std::thread::sleep(SECONDS(1));
            self.east.restart();
            std::thread::sleep(SECONDS(1));
        }
    }

    fn pause_handover(&mut self) {
        self.handover.signal(Signal::STOP);
        std::thread::sleep(SECONDS(10));
        self.handover.signal(Signal::CONT);
    }

    fn wait_for_switch(&self, bound: Duration) -> bool {
        holds_within(bound, || self.switches() > 0)
    }

    /// The first is the choice at the start.
    fn switches(&self) -> usize {
        self.handover.log().iter().filter(|line| line.message() == "switched").count().saturating_sub(1)
    }
}

fn nft(rules: &str) {
    let started = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut child = started.expect("nft runs: benches/faults.sh installs it");
    child.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("nft reads");
    assert!(child.wait().expect("nft ends").success(), "nft refused:\n{rules}");
}

/// Rules of an earlier run are gone afterwards.
fn pass_packets() {
    let _ = Command::new("nft").args(["delete", "table", "inet", "faults"]).stderr(Stdio::null()).status();
}

/// What one run showed.
struct Run {
    moved_after: Option<Duration>,
    recovered_after: Option<Duration>,
    longest_wait: Duration,
    switches: usize,
    uncertain: u64,
    errors: Vec<String>,
    ledger: load::Ledger,
}

fn main() {
    let options = Options::parse(&["runs", "many", "presets", "faults"]);
    common::print_machine();
    // Only where nobody else's packets are.
    let has_packets = std::env::var_os("HANDOVER_FAULTS_NAMESPACE").is_some();
    if !has_packets {
        println!("no network namespace of our own (benches/faults.sh makes one): no packets are dropped");
    }
    let wanted: String = options.get("faults", String::new());
    let presets: String = options.get("presets", "default,fast,conservative,redis-clients".to_owned());
    println!("load:     {CLIENTS} connections, a command every {} ms in all: INCR and SET in turn\n", STEP.as_millis());
    println!(
        "| fault | preset | runs | moved | moved after ms: p50 | p95 | p99 | first success ms: p50 | p95 | p99 | longest wait ms: p99 | switches at most | UNCERTAIN a run | other errors | lost | doubled |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut complaints = Vec::new();
    for preset in presets.split(',') {
        for fault in faults() {
            let is_wanted = wanted.is_empty() || wanted.split(',').any(|name| name == fault.name);
            if !is_wanted || (fault.needs_packets && !has_packets) {
                continue;
            }
            let is_frequent = matches!(fault.name, "kill" | "readonly");
            let count = if is_frequent { options.get("many", 100) } else { options.get("runs", 20) };
            let runs: Vec<Run> = (0..count).map(|_| run(preset, &fault)).collect();
            print_row(preset, &fault, &runs);
            complaints.extend(complain(preset, &fault, &runs));
        }
    }
    println!(
        "\nmoved after: from the fault to the log line of the switch; first success: to the first good reply to a"
    );
    println!("command sent after the fault, on any connection; longest wait: of any command answered after it.");
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    assert!(complaints.is_empty(), "not as it must be");
}

fn run(preset: &str, fault: &Fault) -> Run {
    let mut scene = Scene::start(preset, fault.ways);
    let is_over = AtomicBool::new(false);
    let start = Instant::now() + MS(20);
    let (fault_at, moved_after, samples) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..if fault.has_load { CLIENTS } else { 0 })
            .map(|number| {
                let (connection, is_over) = (scene.handover.client(), &is_over);
                scope.spawn(move || load::client(number, connection, start, || is_over.load(Ordering::Relaxed)))
            })
            .collect();
        std::thread::sleep(MS(300) + STEP.mul_f64(fastrand::f64() * f64::from(CLIENTS)));
        let fault_at = Instant::now();
        (fault.play)(&mut scene);
        // Rules for packets are in force when nft has ended.
        let fault_at = if fault.needs_packets { Instant::now() } else { fault_at };
        let moved_after = if fault.must == Must::Switch {
            scene.wait_for_switch(SWITCH_MAX).then(|| fault_at.elapsed())
        } else {
            scene.wait_for_switch(fault.watch).then(|| fault_at.elapsed())
        };
        std::thread::sleep(STEP * CLIENTS * 4);
        pass_packets();
        scene.relays.iter().for_each(|relay| relay.set_mode(Mode::Pass));
        is_over.store(true, Ordering::Relaxed);
        let samples: Vec<Vec<load::Sample>> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        (fault_at, moved_after, samples)
    });
    scene.east.cont();
    // What it had got and not executed is executed now.
    if !scene.is_east_lost {
        wait_until(SECONDS(30), || {
            scene.east.command(&["REPLICAOF", "NO", "ONE"]);
            !scene.east.command(&["DBSIZE"]).is_error("LOADING")
        });
    }
    let first = (!scene.is_east_lost).then_some(&scene.east);
    let last = if moved_after.is_some() { Some(&scene.west) } else { first };
    Run {
        moved_after,
        recovered_after: load::first_success(&samples, fault_at),
        longest_wait: load::longest_wait(&samples, fault_at).unwrap_or_default(),
        switches: scene.switches(),
        uncertain: load::uncertain(&samples),
        errors: load::errors(&samples),
        ledger: load::audit(&samples, first, Some(&scene.west), last),
    }
}

fn print_row(preset: &str, fault: &Fault, runs: &[Run]) {
    if runs.is_empty() {
        return;
    }
    let spread = |samples: Vec<f64>, shares: &[f64]| {
        let mut samples = samples;
        let figure = |share: &f64| match samples.is_empty() {
            true => "".to_owned(),
            false => format!("{:.1}", percentile(&mut samples, *share)),
        };
        shares.iter().map(figure).collect::<Vec<String>>().join(" | ")
    };
    let moved: Vec<f64> = runs.iter().filter_map(|run| run.moved_after).map(ms).collect();
    let recovered: Vec<f64> = runs.iter().filter_map(|run| run.recovered_after).map(ms).collect();
    let waits: Vec<f64> = runs.iter().map(|run| ms(run.longest_wait)).collect();
    let shares = [0.5, 0.95, 0.99];
    println!(
        "| {} | {preset} | {} | {} | {} | {} | {} | {} | {:.2} | {} | {} | {} |",
        fault.name,
        runs.len(),
        moved.len(),
        spread(moved.clone(), &shares),
        spread(recovered, &shares),
        spread(waits, &[0.99]),
        runs.iter().map(|run| run.switches).max().unwrap_or(0),
        runs.iter().map(|run| run.uncertain).sum::<u64>() as f64 / runs.len() as f64,
        runs.iter().map(|run| run.errors.len()).sum::<usize>(),
        runs.iter().map(|run| run.ledger.lost).sum::<i64>(),
        runs.iter().map(|run| run.ledger.doubled).sum::<i64>(),
    );
}

/// What must not be.
fn complain(preset: &str, fault: &Fault, runs: &[Run]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: String| complaints.push(format!("{}, {preset}: {what}", fault.name));
    for run in runs {
        match (fault.must, run.moved_after) {
            (Must::Switch, None) => complain("the traffic did not move".to_owned()),
            (Must::Stay, Some(_)) => complain("the traffic moved".to_owned()),
            _ => {}
        }
        if run.ledger.lost != 0 || run.ledger.doubled != 0 {
            complain(format!("{:?}", run.ledger));
        }
        if let Some(error) = run.errors.first() {
            complain(format!("{} errors, the first: {error}", run.errors.len()));
        }
    }
    complaints.sort();
    complaints.dedup();
    complaints
}
