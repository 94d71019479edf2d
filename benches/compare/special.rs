//! What is no rate of commands: bursts, idle clients, large values, switches, channels. Each on servers of its own.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{ms, resident_kib, resident_peak_kib};
use crate::connection::{exchange, expect};
use crate::figures::Shape;
use crate::load::{Group, Load, Rhythm};
use crate::measure::{Effort, Processes, Values, measure};
use crate::support::{Handover, PATIENCE, RawClient, RedisServer, holds_within};
use crate::systems::{Backends, System};
use crate::work::{self, Kind, Work};

/// Every client has its reply by then, or something is wrong.
const SERVED_MAX: Duration = Duration::from_secs(20);
/// What is freed late is freed by then.
const SETTLE: Duration = Duration::from_secs(1);
const THREADS: usize = 2;
const MIB: usize = 1024 * 1024;
const LARGE_BYTES: usize = 100 * MIB;
const CHANNELS_A_COMMAND: usize = 1_000;

/// The kinds of special measurement.
#[derive(Clone, Copy, PartialEq)]
pub enum Special {
    /// Everybody connects and sends PING at once.
    Burst,
    /// Everybody has sent PING, SET and GET, and sits there.
    Idle,
    /// One client writes and reads 100 MiB.
    LargeValue,
    /// The operator orders a switch, everybody sends SET.
    PlannedSwitch,
    /// The active is killed, everybody sends SET.
    ForcedSwitch,
    /// The active is killed while everybody waits in BLPOP.
    PinnedSwitch,
    /// One client subscribes to so many channels as there would be clients, others publish to them.
    Channels,
}

impl Special {
    /// What the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst of connections",
            Self::Idle => "idle after use",
            Self::LargeValue => "a value of 100 MiB",
            Self::PlannedSwitch => "planned switch",
            Self::ForcedSwitch => "active killed",
            Self::PinnedSwitch => "active killed in BLPOP",
            Self::Channels => "channels of one subscriber in the hub",
        }
    }

    /// With a fresh `system`, and for a switch fresh backends.
    pub fn measure(self, system: &str, shape: &Shape, program: Option<&str>) -> Result<Values, String> {
        let mut backends = Backends::start();
        let system = System::start(system, &backends, program)?;
        let mut values = match self {
            Self::Burst => burst(&system, shape.clients)?,
            Self::Idle => idle(&system, shape.clients)?,
            Self::LargeValue => large_value(&system)?,
            Self::PlannedSwitch => planned_switch(&system, shape)?,
            Self::ForcedSwitch => forced_switch(&system, &mut backends, shape)?,
            Self::PinnedSwitch => pinned_switch(&system, &mut backends, shape.clients)?,
            Self::Channels => channels(&system, &backends, shape.clients)?,
        };
        values.retain(|_, value| value.is_finite());
        Ok(values)
    }
}

fn named<const N: usize>(values: [(&str, f64); N]) -> Values {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Clients that send one step when told.
fn once(address: SocketAddr, clients: usize, works: Vec<Arc<Work>>) -> Group {
    Group { address, clients, works, rhythm: Rhythm::Once, tls: None }
}

/// Lets everybody send; milliseconds until the last has its reply.
fn served_ms(load: Load, clients: usize) -> Result<f64, String> {
    let began = Instant::now();
    let outcomes = load.run_once(SERVED_MAX)?;
    let took = began.elapsed();
    let served: u64 = outcomes.iter().map(|outcome| outcome.commands).sum();
    if served == clients as u64 { Ok(ms(took)) } else { Err(format!("{served} of {clients} clients were served")) }
}

fn burst(system: &System, clients: usize) -> Result<Values, String> {
    let ping = Work { opening: None, steps: vec![work::step(&["PING"], "+PONG\r\n")], cycle: 1 };
    let began = Instant::now();
    let load = Load::open(&[once(system.address, clients, vec![Arc::new(ping)])], THREADS)?;
    let connected = ms(began.elapsed());
    served_ms(load, clients)?;
    Ok(named([("connected_ms", connected), ("served_ms", ms(began.elapsed()))]))
}

fn idle(system: &System, clients: usize) -> Result<Values, String> {
    let pid = system.pid.ok_or("no proxy, no memory of it")?;
    let before = resident_kib(pid);
    let work = Work { opening: Some(work::used()), ..Work::default() };
    let load = Load::open(&[once(system.address, clients, vec![Arc::new(work)])], THREADS)?;
    std::thread::sleep(SETTLE);
    let with_clients = resident_kib(pid);
    drop(load);
    Ok(named([
        ("mib_with_clients", with_clients / 1024.0),
        ("mib_before", before / 1024.0),
        ("kib_a_client", (with_clients - before) / clients as f64),
    ]))
}

fn large_value(system: &System) -> Result<Values, String> {
    let fail = |error: std::io::Error| error.to_string();
    let pid = system.pid.ok_or("no proxy, no memory of it")?;
    let mut stream = TcpStream::connect(system.address).map_err(fail)?;
    stream.set_read_timeout(Some(SERVED_MAX)).map_err(fail)?;
    exchange(&mut stream, &work::used())?;
    let before = resident_kib(pid);
    forget_peak(pid);
    let value = vec![b'x'; LARGE_BYTES];
    let set = Instant::now();
    stream.write_all(format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${LARGE_BYTES}\r\n").as_bytes()).map_err(fail)?;
    stream.write_all(&value).map_err(fail)?;
    stream.write_all(b"\r\n").map_err(fail)?;
    expect(&mut stream, b"+OK\r\n")?;
    let set = set.elapsed();
    let get = Instant::now();
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n").map_err(fail)?;
    expect(&mut stream, format!("${LARGE_BYTES}\r\n").as_bytes())?;
    expect(&mut stream, &value)?;
    let get = get.elapsed();
    let peak = resident_peak_kib(pid) - before;
    Ok(named([("peak_mib", peak / 1024.0), ("set_ms", ms(set)), ("get_ms", ms(get))]))
}

/// From here on the kernel counts the peak of resident memory anew.
fn forget_peak(pid: u32) {
    // Without the right to, the peak since the start is reported, which is no less.
    drop(std::fs::write(Path::new("/proc").join(pid.to_string()).join("clear_refs"), "5"));
}

fn open_setters(system: &System, shape: &Shape) -> Result<Load, String> {
    let mut work = (*Kind::Set.works(1, 1, shape.bytes)[0]).clone();
    work.opening = work.steps.first().cloned();
    Load::open(&[once(system.address, shape.clients, vec![Arc::new(work)])], THREADS)
}

/// How long the same takes without a switch, then with one.
fn planned_switch(system: &System, shape: &Shape) -> Result<Values, String> {
    let calm = served_ms(open_setters(system, shape)?, shape.clients)?;
    let handover = system.running_handover().ok_or("only Handover switches")?;
    let load = open_setters(system, shape)?;
    let mut console = RawClient::connect_unix(&handover.console_socket());
    console.send_command(&["SWITCH", "west"]);
    let served = served_ms(load, shape.clients)?;
    let (_, switch) = switched(handover);
    Ok(named([("calm_ms", calm), ("served_ms", served), ("switch_ms", switch), ("added_ms", served - calm)]))
}

fn forced_switch(system: &System, backends: &mut Backends, shape: &Shape) -> Result<Values, String> {
    let calm = served_ms(open_setters(system, shape)?, shape.clients)?;
    let handover = system.running_handover().ok_or("only Handover switches")?;
    let load = open_setters(system, shape)?;
    backends.redis.kill();
    let served = served_ms(load, shape.clients)?;
    let (detect, switch) = switched(handover);
    Ok(named([
        ("calm_ms", calm),
        ("detect_ms", detect),
        ("switch_ms", switch),
        ("served_ms", served),
        ("served_after_detection_ms", served - detect),
        ("added_ms", served - calm),
    ]))
}

/// Until all wait in the other server.
fn pinned_switch(system: &System, backends: &mut Backends, clients: usize) -> Result<Values, String> {
    let handover = system.running_handover().ok_or("only Handover switches")?;
    let load = Load::open(&[once(system.address, clients, Kind::Waiting.works(clients, 1, 64))], THREADS)?;
    let waiting = std::thread::spawn(move || load.run_once(SERVED_MAX));
    if !holds_within(PATIENCE, || blocked_in(&backends.redis) == clients || waiting.is_finished()) {
        return Err(format!("only {} of {clients} wait in the server", blocked_in(&backends.redis)));
    }
    let began = Instant::now();
    backends.redis.kill();
    let mut observer = backends.standby.client();
    let mut blocked = || count_of(&observer.command(&["INFO", "clients"]).text(), "blocked_clients:");
    if !holds_within(SERVED_MAX, || blocked() == clients || waiting.is_finished()) {
        return Err(format!("only {} of {clients} wait in the other server", blocked()));
    }
    let rearmed = ms(began.elapsed());
    if waiting.is_finished() {
        waiting.join().map_err(|_| "the waiting clients panicked")??;
        return Err("the clients did not wait".to_owned());
    }
    let (detect, switch) = switched(handover);
    for client in 0..clients {
        backends.standby.command(&["RPUSH", &work::waiting_list(client), "x"]);
    }
    waiting.join().map_err(|_| "the waiting clients panicked")??;
    Ok(named([
        ("detect_ms", detect),
        ("switch_ms", switch),
        ("rearmed_ms", rearmed),
        ("rearmed_after_detection_ms", rearmed - detect),
    ]))
}

fn blocked_in(server: &RedisServer) -> usize {
    count_of(&server.command(&["INFO", "clients"]).text(), "blocked_clients:")
}

fn count_of(information: &str, name: &str) -> usize {
    let line = information.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// What the log says of the switch to the other backend: milliseconds to notice, milliseconds to switch.
fn switched(handover: &Handover) -> (f64, f64) {
    let is_it = |line: &crate::support::LogLine| line.message() == "switched" && line.field("to") == "west";
    let line = handover.wait_for_log(is_it, PATIENCE);
    let of_log = |field: &str| line.field(field).parse().map_or(f64::NAN, |us: f64| us / 1e3);
    (of_log("detect_us"), of_log("switch_us"))
}

/// Memory for a channel, and what a message costs among so many of them.
fn channels(system: &System, backends: &Backends, count: usize) -> Result<Values, String> {
    let pid = system.pid.ok_or("no proxy, no hub")?;
    let fail = |error: std::io::Error| error.to_string();
    let mut subscriber = TcpStream::connect(system.address).map_err(fail)?;
    subscriber.set_read_timeout(Some(SERVED_MAX)).map_err(fail)?;
    exchange(&mut subscriber, &work::used())?;
    let before = resident_kib(pid);
    let began = Instant::now();
    for first in (0..count).step_by(CHANNELS_A_COMMAND) {
        exchange(&mut subscriber, &work::subscribe(first, CHANNELS_A_COMMAND.min(count - first)))?;
    }
    let subscribed = ms(began.elapsed());
    std::thread::sleep(SETTLE);
    let with_channels = resident_kib(pid);
    // Ends when the system does, and with it the connection.
    std::thread::spawn(move || std::io::copy(&mut subscriber, &mut std::io::sink()));
    let works = vec![Arc::new(work::publishing(count))];
    let publishers = Group { address: system.address, clients: 10, works, rhythm: Rhythm::Closed, tls: None };
    let processes = Processes { proxy: Some(pid), redis: backends.redis.pid() };
    let effort = Effort { length: Duration::from_millis(500), threads: THREADS };
    let mut values = measure(&[publishers], processes, effort)?;
    values.extend(named([
        ("kib_a_channel", (with_channels - before) / count as f64),
        ("mib_with_channels", with_channels / 1024.0),
        ("subscribed_ms", subscribed),
    ]));
    Ok(values)
}
