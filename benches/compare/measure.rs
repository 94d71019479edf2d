//! One measurement: a load on a system, with the CPU time and memory of everybody meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{cpu_seconds, cpu_seconds_of_machine, resident_kib};
use crate::histogram::Histogram;
use crate::load::{Group, Load};

/// Before the measured time: every connection is used, caches and buffers are what they will be.
const WARM_UP: Duration = Duration::from_millis(150);
const WARM_UP_PER_CLIENT: Duration = Duration::from_micros(100);
/// After it: everybody has noticed that the clients are gone.
const SETTLE: Duration = Duration::from_millis(50);

/// How long, and with how many threads.
#[derive(Clone, Copy)]
pub struct Effort {
    pub length: Duration,
    pub threads: usize,
}

/// The processes whose CPU time is told apart.
#[derive(Clone, Copy)]
pub struct Processes {
    pub proxy: Option<u32>,
    pub redis: u32,
}

/// CPU seconds until a moment.
#[derive(Clone, Copy)]
struct Used {
    at: Instant,
    proxy: f64,
    redis: f64,
    load: f64,
    machine: f64,
}

impl Processes {
    fn used(self) -> Used {
        Used {
            at: Instant::now(),
            proxy: self.proxy.map_or(0.0, cpu_seconds),
            redis: cpu_seconds(self.redis),
            load: cpu_seconds(std::process::id()),
            machine: cpu_seconds_of_machine(),
        }
    }
}

/// Named values: rates by group and in all, latencies in µs, CPU in µs a command and in cores, memory in KiB.
pub type Values = BTreeMap<String, f64>;

/// Opens the clients of all groups, works, and says what it was like.
pub fn measure(groups: &[Group], processes: Processes, effort: Effort) -> Result<Values, String> {
    let resident = |pid: Option<u32>| pid.map_or(f64::NAN, resident_kib);
    let clients: usize = groups.iter().map(|group| group.clients).sum();
    let before_clients = resident(processes.proxy);
    let warm_up = WARM_UP + WARM_UP_PER_CLIENT * u32::try_from(clients).unwrap_or(u32::MAX);
    let load = Load::open(groups, effort.threads.min(clients))?;
    let (before, after, outcomes) = load.run(warm_up, effort.length, || processes.used())?;
    let with_clients = resident(processes.proxy);
    std::thread::sleep(SETTLE);

    let mut values = Values::new();
    let mut latencies = Histogram::new();
    for (place, outcome) in outcomes.iter().enumerate() {
        values.insert(format!("rate_{place}"), outcome.commands as f64 / effort.length.as_secs_f64());
        latencies.add(&outcome.latencies);
    }
    let commands: u64 = outcomes.iter().map(|outcome| outcome.commands).sum();
    let rate = commands as f64 / effort.length.as_secs_f64();
    let shares = cores(before, after);
    let mut add = |name: &str, value: f64| {
        values.insert(name.to_owned(), value);
    };
    add("rate", rate);
    for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        add(name, latencies.percentile_us(share));
    }
    for (name, cores) in [("proxy", shares.proxy), ("redis", shares.redis), ("load", shares.load)] {
        add(&format!("{name}_us"), cores * 1e6 / rate);
        add(&format!("{name}_cores"), cores);
    }
    add("others", (shares.machine - shares.proxy - shares.redis - shares.load).max(0.0));
    add("kib_before", before_clients);
    add("kib_with_clients", with_clients);
    values.retain(|_, value| value.is_finite());
    Ok(values)
}

/// What each used a second in between.
fn cores(before: Used, after: Used) -> Used {
    let seconds = (after.at - before.at).as_secs_f64();
    Used {
        at: after.at,
        proxy: (after.proxy - before.proxy) / seconds,
        redis: (after.redis - before.redis) / seconds,
        load: (after.load - before.load) / seconds,
        machine: (after.machine - before.machine) / seconds,
    }
}
