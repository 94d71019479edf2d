//! Throughput and CPU time a command, against a direct connection and HAProxy in the same rounds.
//!
//! `cargo bench --bench throughput -- --rounds 7 --seconds 1`
//!
//! redis-benchmark, one thread, 64 bytes, GET and SET, over the pipeline depths of `--pipelines 1,16`. What counts is
//! the ratio to the direct connection of the same round, and the CPU time a command: a virtual core changes its speed.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Options, cpu_seconds, cpu_seconds_of_ended_children, cpu_seconds_of_machine, median};
use support::{Handover, Process, RedisServer, ReservedPort, wait_until};

/// A round in which other processes used more than this many cores is left out, if enough others are left.
const OTHERS_MAX: f64 = 0.25;
const ROUNDS_KEPT_MIN: usize = 3;
/// The first guess at how much a second's work is; measured afterwards.
const FIRST_COMMANDS_PER_SECOND: f64 = 20_000.0;
const START_MAX: Duration = Duration::from_secs(10);

/// What commands go through.
struct System {
    name: &'static str,
    address: SocketAddr,
    proxy: Option<u32>,
}

/// A system, a command and a pipeline depth, by their places.
type Cell = (usize, usize, usize);

/// What one measurement showed.
#[derive(Clone, Copy)]
struct Figures {
    commands_per_second: f64,
    proxy_us: f64,
    redis_us: f64,
    others: f64,
}

struct Bench {
    systems: Vec<System>,
    redis: u32,
    commands: [&'static str; 2],
    pipelines: Vec<u32>,
    clients: u32,
    bytes: u32,
    seconds: f64,
    rates: BTreeMap<Cell, f64>,
}

fn main() {
    let options = Options::parse(&["rounds", "seconds", "clients", "pipelines", "bytes", "haproxy", "workers"]);
    let rounds = options.get("rounds", 7);
    common::print_machine();
    println!("measured: {}", common::first_line(Command::new("redis-benchmark").arg("--version")));

    let (redis, standby) = (RedisServer::start(), RedisServer::start());
    println!("behind:   redis {}", version_of(&redis));
    let workers = options.get("workers", 1);
    let handover = start_handover(&redis, &standby, workers);
    let haproxy = (options.get("haproxy", "yes".to_owned()) != "no").then(|| start_haproxy(&redis));
    let mut systems = vec![
        System { name: "direct", address: redis.address(), proxy: None },
        System { name: "Handover", address: handover.address(), proxy: Some(handover.pid()) },
    ];
    if let Some((process, port, _folder)) = &haproxy {
        systems.push(System { name: "HAProxy (TCP)", address: port.address(), proxy: Some(process.pid()) });
    }
    let pipelines = options.get("pipelines", "1,16".to_owned());
    let mut bench = Bench {
        systems,
        redis: redis.pid(),
        commands: ["set", "get"],
        pipelines: pipelines.split(',').map(|depth| depth.parse().expect("--pipelines 1,16")).collect(),
        clients: options.get("clients", 50),
        bytes: options.get("bytes", 64),
        seconds: options.get("seconds", 1.0),
        rates: BTreeMap::new(),
    };
    bench.measure_round(0, 0.2);
    let measured: Vec<BTreeMap<Cell, Figures>> =
        (0..rounds).map(|round| bench.measure_round(round, bench.seconds)).collect();
    bench.print(&measured);
}

fn version_of(redis: &RedisServer) -> String {
    let information = redis.command(&["INFO", "server"]).text();
    let line = information.lines().find_map(|line| line.strip_prefix("redis_version:"));
    line.unwrap_or("?").trim().to_owned()
}

fn start_handover(redis: &RedisServer, standby: &RedisServer, workers: usize) -> Handover {
    let configuration = format!(
        "[runtime]\nworkers = {workers}\n\
         [[backend]]\nname = \"east\"\nurl = \"redis://{}\"\nweight = 2.0\n\
         [[backend]]\nname = \"west\"\nurl = \"redis://{}\"\nweight = 1.0\n",
        redis.address(),
        standby.address()
    );
    Handover::builder(&configuration).allow_warning("").start()
}

/// In TCP mode with one thread, as Handover has one worker.
fn start_haproxy(redis: &RedisServer) -> (Process, ReservedPort, tempfile::TempDir) {
    let script = support::root().join("benches/haproxy.sh");
    let program = common::first_line(&mut Command::new(script));
    assert!(program.starts_with('/'), "no haproxy: install one, or leave it out with --haproxy no");
    println!("beside:   {}", common::first_line(Command::new(&program).arg("-v")));
    let port = ReservedPort::take();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("haproxy.cfg");
    let configuration = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  \
         timeout server 1h\nlisten redis\n  bind {}\n  server east {} check\n",
        port.address(),
        redis.address()
    );
    std::fs::write(&file, configuration).expect("a file in a fresh folder");
    let process = Process::start(&program, &["-db", "-f", file.to_str().expect("a path in UTF-8")], |_| {});
    wait_until(START_MAX, || std::net::TcpStream::connect(port.address()).is_ok());
    (process, port, folder)
}

impl Bench {
    /// Every cell once; each round begins with another system.
    fn measure_round(&mut self, round: usize, seconds: f64) -> BTreeMap<Cell, Figures> {
        let mut figures = BTreeMap::new();
        for pipeline in 0..self.pipelines.len() {
            for command in 0..self.commands.len() {
                for turn in 0..self.systems.len() {
                    let cell = ((round + turn) % self.systems.len(), command, pipeline);
                    figures.insert(cell, self.measure(cell, seconds));
                }
            }
        }
        figures
    }

    fn measure(&mut self, cell: Cell, seconds: f64) -> Figures {
        let (system, command, pipeline) = (&self.systems[cell.0], self.commands[cell.1], self.pipelines[cell.2]);
        let rate = self.rates.get(&cell).copied().unwrap_or(FIRST_COMMANDS_PER_SECOND * f64::from(pipeline));
        let commands = (rate * seconds).ceil();
        let cpu = || (cpu_seconds_of_machine(), cpu_seconds_of_ended_children(), cpu_seconds(self.redis));
        let proxy = || system.proxy.map_or(0.0, cpu_seconds);
        let (before, proxy_before, began) = (cpu(), proxy(), Instant::now());
        let commands_per_second = self.run(system.address, command, pipeline, commands);
        let (after, proxy_after, took) = (cpu(), proxy(), began.elapsed().as_secs_f64());
        self.rates.insert(cell, commands_per_second);
        let (redis_used, proxy_used) = (after.2 - before.2, proxy_after - proxy_before);
        let ours = after.1 - before.1 + redis_used + proxy_used;
        Figures {
            commands_per_second,
            proxy_us: proxy_used * 1e6 / commands,
            redis_us: redis_used * 1e6 / commands,
            others: (after.0 - before.0 - ours).max(0.0) / took,
        }
    }

    /// Commands per second, as redis-benchmark counts them.
    fn run(&self, address: SocketAddr, command: &str, pipeline: u32, commands: f64) -> f64 {
        let output = Command::new("redis-benchmark")
            .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "--csv", "-t", command])
            .args(["-c", &self.clients.to_string(), "-d", &self.bytes.to_string(), "-P", &pipeline.to_string()])
            .args(["-n", &commands.to_string(), "-r", "100000"])
            .output()
            .expect("redis-benchmark is part of Debian's redis-tools");
        let text = String::from_utf8_lossy(&output.stdout);
        let row = text.lines().rfind(|line| line.to_lowercase().starts_with(&format!("\"{command}\"")));
        let rate = row.and_then(|row| row.split(',').nth(1)?.trim_matches('"').parse().ok());
        rate.unwrap_or_else(|| panic!("redis-benchmark said: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    fn print(&self, rounds: &[BTreeMap<Cell, Figures>]) {
        let others_in = |round: &BTreeMap<Cell, Figures>| {
            median(&mut round.values().map(|figures| figures.others).collect::<Vec<_>>())
        };
        let quiet: Vec<_> = rounds.iter().filter(|round| others_in(round) <= OTHERS_MAX).collect();
        let kept = if quiet.len() >= ROUNDS_KEPT_MIN { quiet.clone() } else { rounds.iter().collect() };
        println!(
            "rounds:   {} of {} s a measurement, {} of them quiet (others used at most {OTHERS_MAX} cores); medians of {}, \
             in which others used {:.2} cores",
            rounds.len(),
            self.seconds,
            quiet.len(),
            kept.len(),
            median(&mut kept.iter().map(|round| others_in(round)).collect::<Vec<_>>())
        );
        println!("\n{} clients, {} bytes", self.clients, self.bytes);
        println!(
            "\n| pipeline | command | system | commands/s | of direct | proxy CPU µs a command | Redis CPU µs a command |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (pipeline, depth) in self.pipelines.iter().enumerate() {
            for (command, name) in self.commands.iter().enumerate() {
                for (system, System { name: through, proxy, .. }) in self.systems.iter().enumerate() {
                    let cell = (system, command, pipeline);
                    let middle = |value: &dyn Fn(&BTreeMap<Cell, Figures>) -> f64| {
                        median(&mut kept.iter().map(|round| value(round)).collect::<Vec<_>>())
                    };
                    let rate = middle(&|round| round[&cell].commands_per_second);
                    let ratio = middle(&|round| {
                        round[&cell].commands_per_second / round[&(0, command, pipeline)].commands_per_second
                    });
                    let proxy_us =
                        proxy.map_or("–".to_owned(), |_| format!("{:.2}", middle(&|round| round[&cell].proxy_us)));
                    let redis_us = middle(&|round| round[&cell].redis_us);
                    let name = name.to_uppercase();
                    println!("| {depth} | {name} | {through} | {rate:.0} | {ratio:.2} | {proxy_us} | {redis_us:.2} |");
                }
            }
        }
    }
}
