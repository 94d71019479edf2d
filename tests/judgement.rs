//! Who is called healthy and who serves: faults of every kind, and what a client sees of them.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{FakeBackend, Handover, HandoverBuilder, Mode, PATIENCE, RawClient, RedisServer, Relay, Value};
use support::{courtesy, wait_until};

/// All are known before one is chosen, so that the heavier one is.
const QUICK: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n";
const STAY: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\nfailover.failback = 'never'\n";
/// Back as soon as it may be.
const BACK: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\nhealth.rise = 1\n\
    breaker.grace = '200ms'\nbreaker.grace_max = '300ms'\nfailover.failback_hold = '200ms'\n";

fn backends(east: impl std::fmt::Display, west: impl std::fmt::Display) -> String {
    format!(
        "backend = [{{ name = 'east', url = 'redis://{east}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{west}' }}]\n"
    )
}

/// Faults are what these tests are about: the lines that tell of them are allowed.
fn builder(configuration: &str) -> HandoverBuilder {
    let told = [
        "backend is unhealthy",
        "switched",
        "no backend is healthy",
        "a backend can serve again",
        "planned switch called off",
        // The flap guard's alarm.
        "a heavier backend is healthy but not returned to",
    ];
    told.into_iter().fold(Handover::builder(configuration), HandoverBuilder::allow_warning)
}

fn start(configuration: &str) -> Handover {
    let handover = builder(configuration).start();
    wait_until(PATIENCE, || is_up(&handover, "east") && is_up(&handover, "west"));
    handover
}

fn is_up(handover: &Handover, backend: &str) -> bool {
    handover.metric("handover_backend_up", &[("backend", backend)]) == 1.0
}

fn active(handover: &Handover) -> &'static str {
    let is = |name| handover.metric("handover_backend_active", &[("backend", name)]) == 1.0;
    ["east", "west"].into_iter().find(|name| is(name)).unwrap_or("none")
}

fn switches(handover: &Handover) -> f64 {
    handover.metric("handover_switches_total", &[]) - handover.metric("handover_switches_total", &[("reason", "start")])
}

#[track_caller]
fn expect_active(handover: &Handover, backend: &str) {
    wait_until(PATIENCE, || active(handover) == backend);
}

/// Increments without a pause until told to stop; returns the acknowledged and what was no number.
struct Load(std::thread::JoinHandle<(i64, Vec<Value>)>, Arc<AtomicBool>, Arc<AtomicU64>);

impl Load {
    fn start(handover: &Handover, key: &str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut client, key) = (handover.client(), key.to_owned());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let (mut acknowledged, mut errors) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match client.command(&["INCR", &key]) {
                    Value::Integer(_) => acknowledged += 1,
                    other => errors.push(other),
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            (acknowledged, errors)
        });
        Self(thread, stop, done)
    }

    #[track_caller]
    fn wait_for(&self, more: u64) {
        let wanted = self.2.load(Ordering::Relaxed) + more;
        wait_until(PATIENCE, || self.2.load(Ordering::Relaxed) >= wanted);
    }

    fn finish(self) -> (i64, Vec<Value>) {
        self.1.store(true, Ordering::Relaxed);
        self.0.join().expect("the load does not panic")
    }
}

fn number(server: &RedisServer, key: &str) -> i64 {
    match server.command(&["GET", key]) {
        Value::Bulk(digits) => String::from_utf8_lossy(&digits).parse().expect("a number"),
        _ => 0,
    }
}

/// Row 61, under load: left, and when it wakes its late replies go nowhere.
#[test]
fn a_stopped_backend_is_left_under_load() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    // Probes take longer than the limit for silence, so that it is the traffic that shows it.
    let patient = "health.timeout = '1500ms'\nfailover.hold = '2s'\n";
    let handover = start(&format!("{}{STAY}{patient}", backends(east.address(), west.address())));
    let load = Load::start(&handover, "n");
    load.wait_for(200);
    east.stop();
    expect_active(&handover, "west");
    load.wait_for(200);
    east.cont();
    wait_until(PATIENCE, || is_up(&handover, "east"));
    load.wait_for(200);
    let (acknowledged, errors) = load.finish();
    assert!(errors.iter().all(|error| error.is_error("UNCERTAIN")), "{errors:?}");
    assert!(errors.len() <= 1, "one client has one command in flight: {errors:?}");
    let applied = number(&east, "n") + number(&west, "n");
    assert!((acknowledged..=acknowledged + errors.len() as i64).contains(&applied), "{acknowledged}: {applied}");
    wait_until(PATIENCE, || switches(&handover) == 1.0);
    handover.expect_metric("handover_switches_total", &[("reason", "silent")], 1.0);
}

/// Row 61, idle: probes alone see it.
#[test]
fn a_stopped_backend_is_left_without_traffic() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&format!("{}{STAY}health.timeout = '200ms'\n", backends(east.address(), west.address())));
    east.stop();
    expect_active(&handover, "west");
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
    assert_eq!(number(&west, "n"), 1);
}

/// Row 62: a black hole both ways, only for replies, only for requests.
#[test]
fn every_black_hole_is_seen_under_load() {
    std::thread::scope(|scope| {
        for mode in [Mode::BlackHole, Mode::HoldReplies, Mode::HoldRequests] {
            scope.spawn(move || {
                let (east, west) = (RedisServer::start(), RedisServer::start());
                let relay = Relay::start(east.address());
                let handover = start(&format!("{}{STAY}", backends(relay.address(), west.address())));
                let load = Load::start(&handover, "n");
                load.wait_for(200);
                relay.set_mode(mode);
                expect_active(&handover, "west");
                load.wait_for(200);
                relay.set_mode(Mode::Pass);
                load.wait_for(200);
                let (acknowledged, errors) = load.finish();
                assert!(errors.iter().all(|error| error.is_error("UNCERTAIN")), "{mode:?}: {errors:?}");
                let applied = number(&east, "n") + number(&west, "n");
                let possible = acknowledged..=acknowledged + errors.len() as i64;
                assert!(possible.contains(&applied), "{mode:?}: {acknowledged} + {}: {applied}", errors.len());
            });
        }
    });
}

/// Row 68: the active becomes a replica; no client sees READONLY.
#[test]
fn a_demoted_backend_is_left_without_an_error() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&format!("{}{STAY}", backends(east.address(), west.address())));
    let load = Load::start(&handover, "n");
    load.wait_for(200);
    assert_eq!(east.command(&["REPLICAOF", "127.0.0.1", "1"]), Value::ok());
    expect_active(&handover, "west");
    load.wait_for(200);
    let (acknowledged, errors) = load.finish();
    assert_eq!(errors, []);
    assert_eq!(number(&east, "n") + number(&west, "n"), acknowledged);
    let word = handover.metric("handover_switches_total", &[("reason", "cannot serve: READONLY")]);
    assert_eq!(word, 1.0);
}

/// A demoted backend is seen without traffic too.
#[test]
fn a_demoted_backend_is_left_without_traffic() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&format!("{}{STAY}", backends(east.address(), west.address())));
    assert_eq!(east.command(&["REPLICAOF", "127.0.0.1", "1"]), Value::ok());
    expect_active(&handover, "west");
}

/// The modes of the health check see what they are there to see, and no more.
#[test]
fn each_mode_judges_by_its_own_question() {
    // (mode, whether a replica is healthy by it)
    std::thread::scope(|scope| {
        for (mode, replica_is_healthy) in [("ping", true), ("echo", true), ("role", false), ("write", false)] {
            scope.spawn(move || {
                let master = RedisServer::start();
                let replica = RedisServer::builder().replica_of(master.address()).start();
                let configuration = backends(replica.address(), master.address());
                let handover =
                    builder(&format!("{configuration}{}health.modes = ['{mode}']\n", STAY.replace("'all'", "'one'")))
                        .start();
                wait_until(PATIENCE, || is_up(&handover, "west"));
                let result = if replica_is_healthy { "good" } else { "bad" };
                let labels = [("backend", "east"), ("result", result)];
                wait_until(PATIENCE, || handover.metric("handover_backend_health_checks_total", &labels) >= 3.0);
                wait_until(PATIENCE, || is_up(&handover, "east") == replica_is_healthy);
                assert!(replica_is_healthy || active(&handover) == "west");
            });
        }
    });
}

/// LOADING leads away at once, and back once it has loaded.
#[test]
fn a_loading_backend_does_not_serve() {
    let loading = Arc::new(AtomicBool::new(true));
    let is_loading = Arc::clone(&loading);
    let fake = FakeBackend::start(move |connection| {
        while let Some(command) = connection.read_command() {
            if is_loading.load(Ordering::SeqCst) {
                connection.write("-LOADING Redis is loading the dataset in memory\r\n");
            } else {
                connection.write(courtesy(&command).unwrap_or_else(|| b"+east\r\n".to_vec()));
            }
        }
    });
    let west = RedisServer::start();
    let handover =
        builder(&format!("{}{}", backends(fake.address(), west.address()), BACK.replace("'all'", "'one'"))).start();
    expect_active(&handover, "west");
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
    loading.store(false, Ordering::SeqCst);
    expect_active(&handover, "east");
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Simple("east".into()));
}

/// Equal weights: the first of the file begins, and whoever serves stays.
#[test]
fn equal_weights_stay() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let equal = backends(east.address(), west.address()).replace("weight = 2.0", "weight = 1.0");
    let handover = start(&format!("{equal}{BACK}"));
    assert_eq!(active(&handover), "east");
    east.kill();
    expect_active(&handover, "west");
    east.restart();
    wait_until(PATIENCE, || circuit(&handover, "east") == "closed" && is_up(&handover, "east"));
    let good = || handover.metric("handover_backend_health_checks_total", &[("backend", "east"), ("result", "good")]);
    let seen = good();
    wait_until(PATIENCE, || good() >= seen + 10.0);
    assert_eq!(active(&handover), "west");
    wait_until(PATIENCE, || switches(&handover) == 1.0);
}

fn circuit(handover: &Handover, backend: &str) -> &'static str {
    let is = |state: &str| {
        handover.metric("handover_backend_circuit_state", &[("backend", backend), ("state", state)]) == 1.0
    };
    ["closed", "open", "half-open"].into_iter().find(|state| is(state)).unwrap_or("none")
}

/// A failback is planned: under load, not one error, and what was acknowledged is what was applied.
#[test]
fn a_failback_costs_nothing() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&format!("{}{BACK}", backends(east.address(), west.address())));
    east.kill();
    expect_active(&handover, "west");
    let loads: Vec<Load> = (0..8).map(|index| Load::start(&handover, &format!("n{index}"))).collect();
    loads.iter().for_each(|load| load.wait_for(50));
    east.restart();
    expect_active(&handover, "east");
    loads.iter().for_each(|load| load.wait_for(50));
    for (index, load) in loads.into_iter().enumerate() {
        let key = format!("n{index}");
        let (acknowledged, errors) = load.finish();
        assert_eq!(errors, []);
        assert!(number(&east, &key) > 0 && number(&west, &key) > 0);
        assert_eq!(number(&east, &key) + number(&west, &key), acknowledged);
    }
    handover.expect_metric("handover_switches_total", &[("reason", "failback")], 1.0);
    let line =
        handover.wait_for_log(|line| line.message() == "switched" && line.field("reason") == "failback", PATIENCE);
    assert_eq!(line.field("uncertain"), "0");
}

/// `manual` and `never`: a heavier backend that has recovered is not returned to, and the reason is told.
#[test]
fn a_failback_that_is_not_wanted_does_not_come() {
    for failback in ["manual", "never"] {
        let (mut east, west) = (RedisServer::start(), RedisServer::start());
        let configuration = backends(east.address(), west.address());
        let handover = start(&format!("{configuration}{BACK}failover.failback = '{failback}'\n"));
        east.kill();
        expect_active(&handover, "west");
        east.restart();
        wait_until(PATIENCE, || circuit(&handover, "east") == "closed" && is_up(&handover, "east"));
        let blocked = || handover.http_get("/status").body.contains(&format!("failback is {failback}"));
        wait_until(PATIENCE, blocked);
        let good =
            || handover.metric("handover_backend_health_checks_total", &[("backend", "east"), ("result", "good")]);
        let seen = good();
        wait_until(PATIENCE, || good() >= seen + 10.0);
        assert_eq!(active(&handover), "west", "{failback}");
    }
}

/// The last active survives a restart of Handover, though another is heavier.
#[test]
fn a_restart_keeps_the_last_active() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let folder = tempfile::tempdir().unwrap();
    let state = format!("failover.state_file = '{}'\n", folder.path().join("state.json").display());
    let configuration = format!("{}{QUICK}{state}", backends(east.address(), west.address()));
    let handover = start(&configuration);
    east.kill();
    expect_active(&handover, "west");
    let epoch = handover.metric("handover_epoch", &[]);
    assert_eq!(handover.finish(), 0);
    east.restart();
    let handover = builder(&configuration).start();
    wait_until(PATIENCE, || is_up(&handover, "west"));
    assert_eq!(active(&handover), "west");
    assert!(handover.metric("handover_epoch", &[]) >= epoch);
}

/// Nobody is there at the start: clients are held, then told so; served once one comes.
#[test]
fn a_start_without_any_backend_serves_later() {
    let (mut east, mut west) = (RedisServer::start(), RedisServer::start());
    east.kill();
    west.kill();
    let configuration = format!(
        "{}{}failover.hold = '800ms'\n",
        backends(east.address(), west.address()),
        QUICK.replace("'all'", "'one'")
    );
    let handover = builder(&configuration).without_waiting_for_serving().start();
    assert_eq!(handover.http_get("/readyz").status, 503);
    let answer = handover.client().command(&["INCR", "n"]);
    assert!(answer.is_error("LOADING"), "{answer:?}");
    west.restart();
    handover.wait_for_log(|line| line.message() == "serving", PATIENCE);
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
    handover.expect_ready();
}

/// Row 70: up and down without end; after a few rounds traffic stays where it is calm.
#[test]
fn flapping_is_bounded() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let short = "breaker.grace = '100ms'\nbreaker.grace_max = '100ms'\nfailover.switches_max = 3\n";
    let quick = BACK.replace("breaker.grace = '200ms'\n", "").replace("breaker.grace_max = '300ms'\n", "");
    let handover = start(&format!("{}{quick}{short}", backends(east.address(), west.address())));
    for _ in 0..6 {
        east.kill();
        expect_active(&handover, "west");
        east.restart();
        wait_until(PATIENCE, || circuit(&handover, "east") == "closed" && is_up(&handover, "east"));
        // Long enough for a failback that would still come: it is blocked by then, or it has come.
        let is_settled =
            || active(&handover) == "east" || handover.http_get("/status").body.contains("too many switches");
        wait_until(PATIENCE, is_settled);
    }
    assert!(switches(&handover) <= 4.0, "{} switches", switches(&handover));
    assert_eq!(active(&handover), "west");
    // With an alarm: a warning, and a metric while it lasts.
    let is_alarm = |line: &support::LogLine| line.is_warning() && line.field("reason") == "too many switches of late";
    handover.wait_for_log(is_alarm, PATIENCE);
    handover.expect_metric("handover_failback_blocked", &[("reason", "too many switches of late")], 1.0);
}

/// Row 65: the probe's own path breaks; traffic that succeeds says more.
#[test]
fn a_broken_probe_path_alone_moves_nothing() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let mut probes = Relay::start(east.address());
    let configuration = backends(east.address(), west.address())
        .replace("weight = 2.0", &format!("weight = 2.0, health_check_url = 'redis://{}'", probes.address()));
    // Rarely, so that on a busy machine too there is traffic between two of them.
    let rarely = STAY.replace("health.interval = '100ms'", "health.interval = '500ms'");
    let handover = start(&format!("{configuration}{rarely}health.timeout = '1s'\n"));
    let load = Load::start(&handover, "n");
    load.wait_for(100);
    assert!(probes.accepted() > 0, "probes go their own way");
    probes.refuse();
    probes.cut(support::Cut::Reset);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        load.wait_for(50);
    }
    let (acknowledged, errors) = load.finish();
    assert_eq!(errors, []);
    assert_eq!(number(&east, "n"), acknowledged);
    assert_eq!(active(&handover), "east");
    assert_eq!(switches(&handover), 0.0);
}

/// Row 66: the probe's path alone works; traffic that fails says more.
#[test]
fn a_broken_data_path_is_left_though_probes_succeed() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let data = Relay::start(east.address());
    let configuration = backends(data.address(), west.address())
        .replace("weight = 2.0", &format!("weight = 2.0, health_check_url = 'redis://{}'", east.address()));
    let handover = start(&format!("{configuration}{STAY}"));
    let load = Load::start(&handover, "n");
    load.wait_for(100);
    data.set_mode(Mode::BlackHole);
    expect_active(&handover, "west");
    load.wait_for(100);
    load.finish();
}

/// Row 67: all fail their probes at once while the data path works: stay, and say so.
#[test]
fn probes_that_fail_together_move_nothing() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let (mut east_probes, mut west_probes) = (Relay::start(east.address()), Relay::start(west.address()));
    let configuration = backends(east.address(), west.address())
        .replace("weight = 2.0", &format!("weight = 2.0, health_check_url = 'redis://{}'", east_probes.address()))
        .replace("'west',", &format!("'west', health_check_url = 'redis://{}',", west_probes.address()));
    let handover = start(&format!("{configuration}{STAY}health.timeout = '1s'\n"));
    // West's first: while one is healthy, an idle east that fails its probes is left.
    for (name, probes) in [("west", &mut west_probes), ("east", &mut east_probes)] {
        probes.refuse();
        probes.cut(support::Cut::Reset);
        wait_until(PATIENCE, || !is_up(&handover, name));
    }
    let mut client: RawClient = handover.client();
    for expected in 1..=100 {
        assert_eq!(client.command(&["INCR", "n"]), Value::Integer(expected));
    }
    assert_eq!(number(&east, "n"), 100);
    assert_eq!(switches(&handover), 0.0);
}

/// Row 72a: connections are killed, the backend lives: no switch.
#[test]
fn killed_connections_are_no_reason_to_leave() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&format!("{}{STAY}", backends(east.address(), west.address())));
    let load = Load::start(&handover, "n");
    for _ in 0..5 {
        load.wait_for(50);
        east.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    load.wait_for(50);
    let (acknowledged, errors) = load.finish();
    assert!(errors.iter().all(|error| error.is_error("UNCERTAIN")), "{errors:?}");
    let applied = number(&east, "n");
    assert!((acknowledged..=acknowledged + errors.len() as i64).contains(&applied));
    assert_eq!(switches(&handover), 0.0);
}

/// However much was in flight on it, one killed connection is one failure.
#[test]
fn one_killed_connection_with_a_deep_pipeline_is_no_reason_to_leave() {
    const DEPTH: i64 = 2_000;
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let relay = Relay::start(east.address());
    // Nobody is called silent, so that only the lost connection speaks.
    let patient =
        "detector.hang_timeout = '8s'\ndetector.slow_timeout = '9s'\nhealth.timeout = '5s'\nfailover.hold = '6s'\n";
    let handover = start(&format!("{}{STAY}{patient}", backends(relay.address(), west.address())));
    let mut client = handover.client();
    assert_eq!(client.command(&["GET", "n"]), Value::Null);
    relay.set_mode(Mode::HoldReplies);
    client.send(support::encode(&["INCR", "n"]).repeat(DEPTH as usize));
    wait_until(PATIENCE, || number(&east, "n") >= DEPTH / 2);
    relay.cut(support::Cut::Reset);
    relay.set_mode(Mode::Pass);
    let replies: Vec<Value> = (0..DEPTH).map(|_| client.read_reply()).collect();
    assert!(replies[0].is_error("UNCERTAIN"), "{:?}", replies[0]);
    // Whether it was judged so shows a window later at the latest.
    for _ in 0..20 {
        assert!(matches!(client.command(&["INCR", "m"]), Value::Integer(_)));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(active(&handover), "east");
    assert_eq!(switches(&handover), 0.0);
}
