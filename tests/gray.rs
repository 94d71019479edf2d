//! Gray failures, row 64 of the hazards: a backend that answers, but far too slowly. Through relays that delay or narrow.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{Handover, HandoverBuilder, Mode, PATIENCE, RedisServer, Relay, Value, holds_within, wait_until};

/// The configuration of every day, but that the heavier one is waited for, and never returned to.
const CONFIGURATION: &str = "failover.initial = 'all'\nfailover.failback = 'never'\n";
/// Five seconds is what is promised, on a machine that has nothing else to do.
const SEEN_WITHIN: Duration = Duration::from_secs(50);
/// 300 ms there, and 300 ms back.
const SLOW: Mode = Mode::Delay(Duration::from_millis(300));
/// 256 kbit/s.
const NARROW: Mode = Mode::Rate(32_000);
const CLIENTS: usize = 8;

struct World {
    handover: Handover,
    east: Relay,
    west: Relay,
    servers: [RedisServer; 2],
    clients: Vec<JoinHandle<Ledger>>,
    replies: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

/// What a client was told.
#[derive(Default)]
struct Ledger {
    acknowledged: i64,
    errors: Vec<Value>,
}

impl World {
    /// Both behind relays; clients that write values of this size have been served long enough for a baseline.
    fn start(value_bytes: usize) -> Self {
        let servers = [RedisServer::start(), RedisServer::start()];
        let (east, west) = (Relay::start(servers[0].address()), Relay::start(servers[1].address()));
        let configuration = format!(
            "{CONFIGURATION}backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, \
             {{ name = 'west', url = 'redis://{}' }}]\n",
            east.address(),
            west.address()
        );
        // Where all are slow, three probes in a row may be too late between two replies.
        let told = [
            "backend is unhealthy",
            "switched",
            "the health check tells less",
            "planned switch called off",
            "no backend is healthy",
            "a backend can serve again",
        ];
        let handover = told.into_iter().fold(Handover::builder(&configuration), HandoverBuilder::allow_warning).start();
        handover.expect_metric("handover_backend_up", &[("backend", "west")], 1.0);
        let (stop, replies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..CLIENTS).map(|number| load(&handover, number, value_bytes, &stop, &replies)).collect();
        // Five seconds of replies make a baseline.
        std::thread::sleep(Duration::from_secs(8));
        Self { handover, east, west, servers, clients, replies, stop }
    }

    fn is(&self, metric: &str, backend: &str) -> bool {
        self.handover.metric(metric, &[("backend", backend)]) == 1.0
    }

    fn switches(&self, reason: &str) -> f64 {
        self.handover.metric("handover_switches_total", &[("reason", reason)])
    }

    /// West serves, because east was slow; returns what was seen, in words.
    #[track_caller]
    fn expect_left(&self, since: Instant) -> String {
        wait_until(SEEN_WITHIN, || self.is("handover_backend_active", "west"));
        println!("left after {:?}", since.elapsed());
        wait_until(PATIENCE, || self.switches("slow") == 1.0);
        let line =
            self.handover.wait_for_log(|line| line.message() == "switched" && line.field("from") == "east", PATIENCE);
        assert_eq!(line.field("reason"), "slow");
        let status: serde_json::Value =
            serde_json::from_str(&self.handover.http_get("/status").body).expect("/status is JSON");
        let reason = status["groups"][0]["reason"].as_str().expect("a reason").to_owned();
        assert_eq!(reason, format!("slow ({})", line.field("cause")));
        reason
    }

    /// Ends the clients; what they were told.
    fn finish(self) -> (Ledger, [RedisServer; 2]) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Ledger::default();
        for client in self.clients {
            let ledger = client.join().expect("a client does not panic");
            sum.acknowledged += ledger.acknowledged;
            sum.errors.extend(ledger.errors);
        }
        (sum, self.servers)
    }
}

fn load(
    handover: &Handover,
    number: usize,
    value_bytes: usize,
    stop: &Arc<AtomicBool>,
    replies: &Arc<AtomicU64>,
) -> JoinHandle<Ledger> {
    let (mut client, stop, replies) = (handover.client(), Arc::clone(stop), Arc::clone(replies));
    let (key, value) = (format!("k{number}"), "x".repeat(value_bytes));
    std::thread::spawn(move || {
        let mut ledger = Ledger::default();
        while !stop.load(Ordering::Relaxed) {
            let reply = match value_bytes {
                0 => client.command(&["INCR", "n"]),
                _ => client.command(&["SET", &key, &value]),
            };
            match reply {
                Value::Integer(_) | Value::Simple(_) => ledger.acknowledged += 1,
                other => ledger.errors.push(other),
            }
            replies.fetch_add(1, Ordering::Relaxed);
        }
        ledger
    })
}

fn number(server: &RedisServer) -> i64 {
    match server.command(&["GET", "n"]) {
        Value::Bulk(digits) => String::from_utf8_lossy(&digits).parse().expect("a number"),
        _ => 0,
    }
}

/// 600 ms of latency: left as a planned switch, so that what was acknowledged is what was applied.
#[test]
fn a_backend_that_became_slow_is_left_for_a_faster_one() {
    let world = World::start(0);
    let since = Instant::now();
    world.east.set_mode(SLOW);
    let reason = world.expect_left(since);
    assert!(reason.contains("ms"), "{reason}");
    // It stays there, and the slow one is not healthy for as long as it is slow.
    let seen = world.replies.load(Ordering::Relaxed);
    wait_until(PATIENCE, || world.replies.load(Ordering::Relaxed) > seen + 100);
    assert!(!world.is("handover_backend_up", "east"));
    let (ledger, [east, west]) = world.finish();
    let applied = number(&east) + number(&west);
    assert!(ledger.errors.iter().all(|error| error.is_error("UNCERTAIN")), "{:?}", ledger.errors);
    let uncertain = ledger.errors.len() as i64;
    assert!((ledger.acknowledged..=ledger.acknowledged + uncertain).contains(&applied), "{applied}");
    assert!(number(&east) > 0 && number(&west) > 0);
}

/// The same for all backends: nobody is better, so nothing moves, and it is told.
#[test]
fn where_all_are_slow_nothing_moves() {
    let world = World::start(0);
    world.east.set_mode(SLOW);
    world.west.set_mode(SLOW);
    wait_until(SEEN_WITHIN, || world.is("handover_backend_degraded", "east"));
    let moved = holds_within(Duration::from_secs(8), || !world.is("handover_backend_active", "east"));
    assert!(!moved, "moved to another that is as slow");
    assert_eq!(world.switches("slow"), 0.0);
    world.finish();
}

/// A line of 256 kbit/s that is asked to carry more.
#[test]
fn a_backend_behind_a_narrow_line_is_left_for_a_faster_one() {
    let world = World::start(4096);
    let since = Instant::now();
    world.east.set_mode(NARROW);
    world.expect_left(since);
    world.finish();
}
