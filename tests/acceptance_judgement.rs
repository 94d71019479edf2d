//! What is promised of detection, decision and failback, against real servers. What needs more patience than a test has,
//! such as ten minutes of flapping, stands on a virtual clock: `src/logic/failover/tests/acceptance.rs`,
//! `src/logic/detector.rs`, `tests/control_simulation.rs`. A restart, READONLY behind a good PING, and the refusal after
//! the hold are in `tests/judgement.rs` and `tests/switching.rs`.

mod support;

use std::time::{Duration, Instant};

use support::{Handover, HandoverBuilder, PATIENCE, RawClient, RedisServer, Signal, Value, encode, wait_until};

const QUIET: &str = "failover.initial = 'all'\nfailover.failback = 'never'\n";

struct World {
    handover: Handover,
    east: RedisServer,
    west: RedisServer,
}

impl World {
    fn start(configuration: &str) -> Self {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let configuration = format!(
            "{QUIET}{configuration}backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, \
             {{ name = 'west', url = 'redis://{}' }}]\n",
            east.address(),
            west.address()
        );
        let told = ["backend is unhealthy", "switched", "no backend is healthy", "a backend can serve again"];
        let handover = told.into_iter().fold(Handover::builder(&configuration), HandoverBuilder::allow_warning).start();
        for backend in ["east", "west"] {
            handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
        }
        Self { handover, east, west }
    }

    /// Nothing has moved, and nothing is held against the active.
    #[track_caller]
    fn expect_calm(&self) {
        let all = self.handover.metric("handover_switches_total", &[]);
        let first = self.handover.metric("handover_switches_total", &[("reason", "start")]);
        assert_eq!(all - first, 0.0, "switches");
        assert_eq!(self.handover.metric("handover_backend_active", &[("backend", "east")]), 1.0);
        assert_eq!(self.handover.metric("handover_backend_up", &[("backend", "east")]), 1.0);
    }
}

/// Rounds of health checks later: whatever was counted has had its effect.
#[track_caller]
fn wait_for_looks(client: &mut RawClient) {
    for _ in 0..60 {
        assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The clients' own mistakes are no failures, however many.
#[test]
fn a_hundred_thousand_wrong_types_move_nothing() {
    const EACH: usize = 1_000;
    let world = World::start("");
    let mut client = world.handover.client();
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    let batch = encode(&["LPUSH", "k", "x"]).repeat(EACH);
    for _ in 0..100_000 / EACH {
        client.send(&batch);
        for _ in 0..EACH {
            let reply = client.read_reply();
            assert!(reply.is_error("WRONGTYPE"), "{reply:?}");
        }
    }
    wait_for_looks(&mut client);
    world.expect_calm();
}

/// Handover's own connections are used up: its clients wait and are refused, and the backend has done nothing wrong.
#[test]
fn an_own_pool_that_is_exhausted_is_no_failure() {
    let world = World::start("limits.pins_per_backend = 1\nlimits.pin_wait = '20ms'\n");
    let mut blocked = world.handover.client();
    blocked.send_command(&["BLPOP", "nothing", "0"]);
    wait_until(PATIENCE, || world.handover.metric("handover_sessions", &[("mode", "blocked")]) == 1.0);
    let mut client = world.handover.client();
    let mut clients: Vec<RawClient> = (0..50).map(|_| world.handover.client()).collect();
    clients.iter_mut().for_each(|client| client.send_command(&["BLPOP", "nothing", "1"]));
    for client in &mut clients {
        let reply = client.read_reply();
        assert!(reply.text().contains("no connection of its own is free"), "{reply:?}");
    }
    wait_for_looks(&mut client);
    world.expect_calm();
    assert_eq!(world.handover.metric("handover_backend_connects_total", &[("result", "failed")]), 0.0);
    assert_eq!(world.east.command(&["LPUSH", "nothing", "x"]), Value::Integer(1));
    assert!(matches!(blocked.read_reply(), Value::Array(_)));
}

/// Row 74: Handover itself is stopped for ten seconds, with requests under way. It judges nobody by that.
#[test]
fn our_own_pause_moves_nothing() {
    let mut world = World::start("");
    let mut clients: Vec<RawClient> = (0..20).map(|_| world.handover.client()).collect();
    clients.iter_mut().for_each(|client| assert!(matches!(client.command(&["INCR", "n"]), Value::Integer(_))));
    for round in 0..2 {
        // What is under way when it stops, what comes meanwhile, and nothing at all.
        if round == 0 {
            clients.iter_mut().for_each(|client| client.send_command(&["INCR", "n"]));
        }
        world.handover.signal(Signal::STOP);
        if round == 0 {
            clients.iter_mut().for_each(|client| client.send_command(&["INCR", "n"]));
        }
        std::thread::sleep(Duration::from_secs(10));
        world.handover.signal(Signal::CONT);
        if round == 0 {
            for client in &mut clients {
                assert!(matches!(client.read_reply(), Value::Integer(_)));
                assert!(matches!(client.read_reply(), Value::Integer(_)));
            }
        }
        wait_for_looks(&mut clients[0]);
        world.expect_calm();
    }
    assert_eq!(world.east.command(&["GET", "n"]), Value::bulk("60"));
}

/// One command a second is enough to see a stopped backend within `hang_timeout` of the command that it leaves waiting.
#[test]
fn a_trickle_sees_a_stopped_backend() {
    let mut world = World::start("health.interval = '1h'\nhealth.standby_interval = '1h'\nfailover.hold = '15s'\n");
    let mut client = world.handover.client();
    for _ in 0..3 {
        assert_eq!(client.command(&["GET", "k"]), Value::Null);
        std::thread::sleep(Duration::from_secs(1));
    }
    world.east.stop();
    let start = Instant::now();
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    world.handover.expect_metric("handover_backend_active", &[("backend", "west")], 1.0);
    world.east.cont();
}

/// All are down: commands are held, within their bound; one comes back, and each runs once, in its client's order.
#[test]
fn ten_thousand_held_commands_run_once_and_in_order() {
    const CLIENTS: usize = 100;
    const EACH: i64 = 100;
    let mut world = World::start("failover.hold = '60s'\n");
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| world.handover.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["GET", "k"]), Value::Null));
    world.east.kill();
    world.west.kill();
    wait_until(PATIENCE, || world.handover.metric("handover_backend_up", &[]) == 0.0);
    for (number, client) in clients.iter_mut().enumerate() {
        let batch: Vec<u8> =
            (0..EACH).flat_map(|place| encode(&["RPUSH", &format!("l{number}"), &place.to_string()])).collect();
        client.send(batch);
    }
    let held = || world.handover.metric("handover_memory_bytes", &[("kind", "held")]);
    wait_until(PATIENCE, || held() >= CLIENTS as f64 * EACH as f64 * 30.0);
    assert!(held() <= 64.0 * 1024.0 * 1024.0, "{} bytes are held", held());
    world.west.restart();
    let start = Instant::now();
    for client in &mut clients {
        for place in 1..=EACH {
            assert_eq!(client.read_reply(), Value::Integer(place));
        }
    }
    // One interval and half a second, on a machine that has nothing else to do.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for number in 0..CLIENTS {
        let list = world.west.command(&["LRANGE", &format!("l{number}"), "0", "-1"]);
        let expected = (0..EACH).map(|place| Value::bulk(place.to_string())).collect();
        assert_eq!(list, Value::Array(expected));
    }
}

/// `attempts` × `delay` used up: commands are refused at once, in a word that nobody retries, until one is clean again.
#[test]
fn after_the_last_attempt_commands_are_refused_at_once() {
    let mut world = World::start("failover.attempts = 2\nfailover.delay = '500ms'\nfailover.hold = '60s'\n");
    let mut client = world.handover.client();
    world.east.kill();
    world.west.kill();
    let refusing = [("state", "refusing")];
    wait_until(PATIENCE, || world.handover.metric("handover_availability", &refusing) == 1.0);
    let start = Instant::now();
    let reply = client.command(&["INCR", "n"]);
    assert!(reply.is_error("UNAVAILABLE") && reply.text().contains("not applied"), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    world.west.restart();
    wait_until(PATIENCE, || client.command(&["INCR", "n"]) == Value::Integer(1));
}

/// `none_healthy = "refuse"`: nothing is held at all.
#[test]
fn none_healthy_can_mean_refusing() {
    let mut world = World::start("failover.none_healthy = 'refuse'\nfailover.hold = '60s'\n");
    let mut client = world.handover.client();
    world.east.kill();
    world.west.kill();
    let refusing = [("state", "refusing")];
    wait_until(PATIENCE, || world.handover.metric("handover_availability", &refusing) == 1.0);
    let reply = client.command(&["INCR", "n"]);
    assert!(reply.is_error("UNAVAILABLE"), "{reply:?}");
    world.east.restart();
    wait_until(PATIENCE, || client.command(&["INCR", "n"]) == Value::Integer(1));
}

/// `initial`: how many must be good before the first is chosen.
#[test]
fn the_start_waits_for_as_many_as_it_was_told() {
    for (initial, needed) in [("one", 1), ("majority", 2), ("all", 3)] {
        let mut servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect();
        let backend = |(number, server): (usize, &RedisServer)| {
            format!("[[backend]]\nname = 'b{number}'\nurl = 'redis://{}'\n", server.address())
        };
        let backends: String = servers.iter().enumerate().map(backend).collect();
        servers.iter_mut().for_each(RedisServer::kill);
        let configuration = format!("failover.initial = '{initial}'\nhealth.standby_interval = '100ms'\n{backends}");
        let handover = Handover::builder(&configuration)
            .allow_warning("no backend is healthy")
            .allow_warning("backend is unhealthy")
            .allow_warning("a backend can serve again")
            .without_waiting_for_serving()
            .start();
        for (running, server) in servers.iter_mut().enumerate() {
            assert_eq!(handover.http_get("/readyz").status == 200, running >= needed, "{initial}, {running} running");
            server.restart();
            let name = format!("b{running}");
            wait_until(PATIENCE, || handover.metric("handover_backend_up", &[("backend", &name)]) == 1.0);
            let is_enough = running + 1 >= needed;
            let is_serving = || handover.http_get("/readyz").status == 200;
            if is_enough {
                wait_until(PATIENCE, is_serving);
            }
        }
    }
}
