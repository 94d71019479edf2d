//! One channel, many subscribers: what a delivery costs and how long it takes, and how soon subscriptions move.
//!
//! `cargo bench --bench fanout -- --rounds 5 --seconds 0.5 --subscribers 50,500`
//!
//! Redis itself, Handover with a connection for each subscriber and Handover with one for all of them take turns. One
//! publisher goes through the same address: first as fast as the subscribers keep up, then at `--rate` deliveries a
//! second. Every subscriber must get every message, in order, byte for byte. What counts is CPU time a delivery and the
//! ratio to Redis in the same rounds: a virtual core changes its speed.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Options, cpu_seconds, cpu_seconds_of_machine, median, ms, percentile};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Handover, PATIENCE, RawClient, RedisServer, Value, encode};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CHANNEL: &str = "fanout";
const PAYLOAD_BYTES: usize = 64;
/// A measurement ends there at the latest, so that what is expected can be written down before it starts.
const MESSAGES_MAX: u64 = 100_000;
/// So many messages are published in one write when the subscribers set the pace.
const BATCH: u64 = 16;
/// And so many are on their way, on average over the subscribers.
const WINDOW: u64 = 64;
const WINDOW_POLL: Duration = Duration::from_micros(100);
const DELIVERED_POLL: Duration = Duration::from_millis(1);
const READ_BYTES: usize = 16 * 1024;

/// Of the one client whose subscriptions are moved.
const CHANNELS: usize = 10_000;
const CHANNELS_A_COMMAND: usize = 1_000;
const EVENTS: &str = "__handover__:events";

fn main() {
    let options = Options::parse(&["rounds", "seconds", "subscribers", "rate"]);
    let (rounds, seconds) = (options.get("rounds", 5), options.get("seconds", 0.5));
    let rate = options.get("rate", 10_000.0);
    let counts = options.get("subscribers", "50,500".to_owned());
    let counts = counts.split(',').map(|count| count.parse().expect("--subscribers 50,500"));
    raise_limit_of_files();
    common::print_machine();

    let (east, west) = (RedisServer::start(), RedisServer::start());
    println!("behind:   {}", common::first_line(Command::new(format!("/proc/{}/exe", east.pid())).arg("--version")));
    let handovers = ["per-client", "hub"].map(|mode| (mode, start_handover(mode, &east, &west)));
    let mut systems = vec![System { name: "direct", address: east.address(), proxy: None }];
    systems.extend(handovers.iter().map(|(name, handover)| System {
        name,
        address: handover.address(),
        proxy: Some(handover.pid()),
    }));
    let bench =
        Bench { systems, redis: east.pid(), frames: (0..MESSAGES_MAX).flat_map(frame).collect(), seconds, rate };
    println!(
        "rounds:   {rounds} of twice {seconds} s a measurement, medians; {rate} deliveries a second for the latencies\n"
    );
    println!(
        "| subscribers | system | deliveries/s | of direct | proxy CPU µs a delivery | deliveries/s a core of proxy \
         | Redis CPU µs a delivery | latency p50 ms | p99 ms | others' cores |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for count in counts {
        bench.print(count, &(0..rounds).map(|round| bench.measure_round(round, count)).collect::<Vec<_>>());
    }
    println!("\n| one client's {CHANNELS} channels | live ms (median) | slowest ms |\n|---|---|---|");
    for (mode, handover) in &handovers {
        let mut waits = move_subscriptions(handover, &west, rounds);
        println!("| {mode} | {:.0} | {:.0} |", median(&mut waits), percentile(&mut waits, 1.0));
    }
}

/// The subscribers are connections of this process.
fn raise_limit_of_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit may be raised to its maximum");
}

/// With one worker, as Redis has one thread; nothing of a measurement lingers into the next one.
fn start_handover(mode: &str, east: &RedisServer, west: &RedisServer) -> Handover {
    let linger = if mode == "hub" { "linger = \"0s\"\n" } else { "" };
    let configuration = format!(
        "[runtime]\nworkers = 1\n[failover]\ninitial = \"all\"\nfailback = \"manual\"\nswitches_max = 1000\n\
         [pubsub]\nmode = \"{mode}\"\n{linger}\
         [[backend]]\nname = \"east\"\nurl = \"redis://{}\"\nweight = 2.0\n\
         [[backend]]\nname = \"west\"\nurl = \"redis://{}\"\nweight = 1.0\n",
        east.address(),
        west.address()
    );
    let handover = Handover::builder(&configuration).allow_warning("").start();
    for backend in ["east", "west"] {
        handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
    }
    handover
}

fn payload(number: u64) -> String {
    format!("{number:0PAYLOAD_BYTES$}")
}

/// What a subscriber reads of a message; of each the same length.
fn frame(number: u64) -> Vec<u8> {
    encode(&["message", CHANNEL, &payload(number)])
}

/// What is published and delivered through.
struct System {
    name: &'static str,
    address: SocketAddr,
    proxy: Option<u32>,
}

/// Who decides when the next message is due.
#[derive(Clone, Copy)]
enum Pace {
    Subscribers,
    /// Messages.
    PerSecond(f64),
}

/// One measurement, as its publisher and its subscribers see it.
struct Run {
    pace: Pace,
    seconds: f64,
    subscribers: u64,
    start: Instant,
    /// Nanoseconds after the start at which each message was published.
    published_at: Vec<AtomicU64>,
    delivered: AtomicU64,
    latencies_ms: Mutex<Vec<f64>>,
}

impl Run {
    /// Publishes until the time is over; how many messages.
    fn publish(&self, mut client: RawClient) -> u64 {
        let mut published = 0;
        let batch = if matches!(self.pace, Pace::Subscribers) { BATCH } else { 1 };
        while self.start.elapsed().as_secs_f64() < self.seconds && published + batch <= MESSAGES_MAX {
            self.publish_batch(&mut client, published..published + batch);
            published += batch;
            self.await_turn(published);
        }
        published
    }

    fn publish_batch(&self, client: &mut RawClient, numbers: Range<u64>) {
        let commands: Vec<u8> =
            numbers.clone().flat_map(|number| encode(&["PUBLISH", CHANNEL, &payload(number)])).collect();
        let now = self.nanoseconds();
        numbers.clone().for_each(|number| self.published_at[index(number)].store(now, Ordering::Release));
        client.send(commands);
        numbers.for_each(|_| assert!(matches!(client.read_reply(), Value::Integer(1..)), "nobody heard a message"));
    }

    fn await_turn(&self, published: u64) {
        let Pace::PerSecond(rate) = self.pace else { return self.await_window(published) };
        let due = self.start + Duration::from_secs_f64(published as f64 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    fn await_window(&self, published: u64) {
        let deadline = Instant::now() + PATIENCE;
        while published.saturating_sub(WINDOW) * self.subscribers > self.delivered.load(Ordering::Acquire) {
            assert!(Instant::now() < deadline, "the subscribers stopped: {:?} deliveries", self.delivered);
            std::thread::sleep(WINDOW_POLL);
        }
    }

    /// Reads messages for as long as they are the ones that are due.
    async fn subscribe(&self, stream: TcpStream, frames: &[u8], frame_bytes: usize) {
        let mut buffer = vec![0; READ_BYTES];
        let mut read = 0;
        loop {
            stream.readable().await.expect("the runtime lives");
            let length = match stream.try_read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                length => length.expect("a subscriber's connection lives"),
            };
            let expected = frames.get(read..read + length).unwrap_or_default();
            assert!(length > 0 && buffer[..length] == *expected, "not the message that was due, at byte {read}");
            let before = read / frame_bytes;
            read += length;
            self.note(before..read / frame_bytes);
        }
    }

    fn note(&self, messages: Range<usize>) {
        self.delivered.fetch_add(messages.len() as u64, Ordering::AcqRel);
        if matches!(self.pace, Pace::Subscribers) {
            return;
        }
        let now = self.nanoseconds();
        let waited = |message: usize| (now - self.published_at[message].load(Ordering::Acquire)) as f64 / 1e6;
        self.latencies_ms.lock().expect("nobody panics with it").extend(messages.map(waited));
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("five centuries at most")
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("below MESSAGES_MAX")
}

/// What one system showed in one round.
struct Figures {
    deliveries_per_second: f64,
    proxy_us: f64,
    redis_us: f64,
    others: f64,
    p50_ms: f64,
    p99_ms: f64,
}

struct Bench {
    systems: Vec<System>,
    redis: u32,
    /// What a subscriber reads in all, if it gets everything.
    frames: Arc<[u8]>,
    seconds: f64,
    /// Deliveries a second while latencies are measured.
    rate: f64,
}

impl Bench {
    /// Every system once; each round begins with another one.
    fn measure_round(&self, round: usize, subscribers: usize) -> Vec<Figures> {
        let count = self.systems.len();
        let mut figures: Vec<(usize, Figures)> = (0..count)
            .map(|turn| (round + turn) % count)
            .map(|place| (place, self.measure(&self.systems[place], subscribers)))
            .collect();
        figures.sort_by_key(|(place, _)| *place);
        figures.into_iter().map(|(_, figures)| figures).collect()
    }

    fn measure(&self, system: &System, subscribers: usize) -> Figures {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut figures = runtime.block_on(self.run(system, subscribers, Pace::Subscribers));
        let paced = runtime.block_on(self.run(system, subscribers, Pace::PerSecond(self.rate / subscribers as f64)));
        (figures.p50_ms, figures.p99_ms) = (paced.p50_ms, paced.p99_ms);
        figures
    }

    async fn run(&self, system: &System, subscribers: usize, pace: Pace) -> Figures {
        let streams: Vec<TcpStream> = (0..subscribers).map(|_| subscribed(system.address)).collect();
        let publisher = RawClient::connect(system.address);
        let cpu = || {
            let (proxy, redis) = (system.proxy.map_or(0.0, cpu_seconds), cpu_seconds(self.redis));
            (proxy, redis, cpu_seconds_of_machine() - proxy - redis - cpu_seconds(std::process::id()))
        };
        let before = cpu();
        let run = Arc::new(Run {
            pace,
            seconds: self.seconds,
            subscribers: subscribers as u64,
            start: Instant::now(),
            published_at: (0..MESSAGES_MAX).map(|_| AtomicU64::new(0)).collect(),
            delivered: AtomicU64::new(0),
            latencies_ms: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for stream in streams {
            let (run, frames, frame_bytes) = (run.clone(), self.frames.clone(), frame(0).len());
            tasks.spawn(async move { run.subscribe(stream, &frames, frame_bytes).await });
        }
        let deliveries = await_all_delivered(&run, &mut tasks, publisher).await as f64;
        let (after, took) = (cpu(), run.start.elapsed().as_secs_f64());
        let mut latencies = std::mem::take(&mut *run.latencies_ms.lock().expect("nobody panics with it"));
        Figures {
            deliveries_per_second: deliveries / took,
            proxy_us: (after.0 - before.0) * 1e6 / deliveries,
            redis_us: (after.1 - before.1) * 1e6 / deliveries,
            others: (after.2 - before.2).max(0.0) / took,
            p50_ms: percentile(&mut latencies, 0.5),
            p99_ms: percentile(&mut latencies, 0.99),
        }
    }

    fn print(&self, subscribers: usize, rounds: &[Vec<Figures>]) {
        for (place, System { name, proxy, .. }) in self.systems.iter().enumerate() {
            let middle = |value: &dyn Fn(&[Figures]) -> f64| {
                median(&mut rounds.iter().map(|round| value(round)).collect::<Vec<_>>())
            };
            let rate = middle(&|round| round[place].deliveries_per_second);
            let ratio = middle(&|round| round[place].deliveries_per_second / round[0].deliveries_per_second);
            let (proxy_us, a_core) = proxy.map_or(("–".to_owned(), "–".to_owned()), |_| {
                let used = middle(&|round| round[place].proxy_us);
                (format!("{used:.2}"), format!("{:.0}", 1e6 / used))
            });
            let redis_us = middle(&|round| round[place].redis_us);
            let (p50, p99) = (middle(&|round| round[place].p50_ms), middle(&|round| round[place].p99_ms));
            let others = middle(&|round| round[place].others);
            println!(
                "| {subscribers} | {name} | {rate:.0} | {ratio:.2} | {proxy_us} | {a_core} | {redis_us:.2} | {p50:.2} \
                 | {p99:.2} | {others:.2} |"
            );
        }
    }
}

fn subscribed(address: SocketAddr) -> TcpStream {
    let mut client = RawClient::connect(address);
    assert_eq!(client.command(&["SUBSCRIBE", CHANNEL]).elements()[2], Value::Integer(1));
    let stream = client.into_tcp();
    stream.set_nonblocking(true).expect("an open socket");
    TcpStream::from_std(stream).expect("within a runtime")
}

/// Publishes on a thread of its own and waits until everybody has everything; how many deliveries.
async fn await_all_delivered(run: &Arc<Run>, tasks: &mut JoinSet<()>, publisher: RawClient) -> u64 {
    let publisher = {
        let run = run.clone();
        std::thread::spawn(move || run.publish(publisher))
    };
    let check = |tasks: &mut JoinSet<()>| assert!(tasks.try_join_next().is_none(), "a subscriber ended");
    while !publisher.is_finished() {
        check(tasks);
        tokio::time::sleep(DELIVERED_POLL).await;
    }
    let deliveries = publisher.join().expect("every message was published") * run.subscribers;
    let deadline = Instant::now() + PATIENCE;
    while run.delivered.load(Ordering::Acquire) < deliveries {
        check(tasks);
        assert!(Instant::now() < deadline, "{:?} of {deliveries} deliveries came", run.delivered);
        tokio::time::sleep(DELIVERED_POLL).await;
    }
    deliveries
}

/// Milliseconds from each order of a switch, there and back in turn, to the event that the client is sent once all of
/// its subscriptions are live; they end on `west`.
fn move_subscriptions(handover: &Handover, west: &RedisServer, rounds: usize) -> Vec<f64> {
    let channels: Vec<String> = (0..CHANNELS).map(|number| format!("channel:{number}")).collect();
    let mut client = handover.client();
    client.command(&["SUBSCRIBE", EVENTS]);
    for some in channels.chunks(CHANNELS_A_COMMAND) {
        let words: Vec<&str> = std::iter::once("SUBSCRIBE").chain(some.iter().map(String::as_str)).collect();
        client.send_command(&words);
        some.iter().for_each(|_| drop(client.read_reply()));
    }
    let turns = ["west", "east"].into_iter().cycle().take(rounds * 2 - 1);
    let waits = turns.map(|backend| switch(handover, &mut client, backend)).collect();
    for channel in [&channels[0], &channels[CHANNELS / 2], &channels[CHANNELS - 1]] {
        assert_eq!(west.command(&["PUBLISH", channel, "x"]), Value::Integer(1), "{channel} is not subscribed to");
        assert_eq!(client.read_reply().elements()[1], Value::bulk(channel));
    }
    waits
}

fn switch(handover: &Handover, client: &mut RawClient, backend: &str) -> f64 {
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let start = Instant::now();
    console.send_command(&["SWITCH", backend]);
    let event = client.read_reply();
    let wait = ms(start.elapsed());
    let told = event.elements()[2].text();
    assert!(told.contains("switched") && told.contains(&format!("\"to\":\"{backend}\"")), "another event: {told}");
    let answer = console.read_reply();
    assert!(!matches!(answer, Value::Error(_)), "{answer:?}");
    wait
}
