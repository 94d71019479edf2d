//! The ledger of a fault: every request answered, applied or not exactly as its client was told, and never twice.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{Cut, FakeBackend, Handover, HandoverBuilder, Mode, PATIENCE, RawClient, RedisServer, Relay, Value};
use support::{courtesy, encode, holds_within, wait_until};

/// Quick where a test waits for it, and no failback within a test.
const QUICK: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\nfailover.failback = 'never'\n";

/// Nobody is called silent, so that a held reply stays held until the test cuts it.
const PATIENT: &str = "detector.hang_timeout = '8s'\ndetector.suspect_after = '7s'\ndetector.slow_timeout = '9s'\n\
    health.timeout = '5s'\nfailover.hold = '6s'\nretry.deadline = '8s'\n";

/// Faults are what these tests are about: the lines that tell of them are allowed.
const TOLD: [&str; 4] = ["backend is unhealthy", "switched", "no backend is healthy", "a backend can serve again"];

/// East, which a relay stands before, and west.
struct World {
    handover: Handover,
    east: RedisServer,
    west: RedisServer,
    relay: Relay,
}

fn world(configuration: &str) -> World {
    world_of(configuration, |builder| builder)
}

fn world_of(configuration: &str, declare: impl FnOnce(HandoverBuilder) -> HandoverBuilder) -> World {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let relay = Relay::start(east.address());
    let backends = format!(
        "backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n",
        relay.address(),
        west.address()
    );
    let builder = Handover::builder(&format!("{backends}{QUICK}{configuration}"));
    let builder = TOLD.into_iter().fold(builder, HandoverBuilder::allow_warning);
    let handover = declare(builder).start();
    // West is known to be healthy before anything breaks: the choice is not what these tests are about.
    let is_up = |name| handover.metric("handover_backend_up", &[("backend", name)]) == 1.0;
    wait_until(PATIENCE, || is_up("east") && is_up("west"));
    World { handover, east, west, relay }
}

impl World {
    /// Waits until this backend is shown as the active: clients are served a moment before.
    #[track_caller]
    fn expect_active(&self, backend: &str) {
        self.handover.expect_metric("handover_backend_active", &[("backend", backend)], 1.0);
    }
}

impl World {
    fn is_selectable(&self, backend: &str) -> bool {
        let is_closed = [("backend", backend), ("state", "closed")];
        self.handover.metric("handover_backend_up", &[("backend", backend)]) == 1.0
            && self.handover.metric("handover_backend_circuit_state", &is_closed) == 1.0
    }
}

/// What one client was told, for its own counter on each backend.
#[derive(Debug, Default)]
struct Ledger {
    sent: i64,
    answered: i64,
    uncertain: i64,
    not_applied: i64,
    wrong: Vec<String>,
}

impl Ledger {
    fn note(&mut self, reply: &Value, is_right: bool) {
        if reply.is_error("UNCERTAIN") {
            self.uncertain += 1;
        } else if reply.is_error("LOADING") || reply.is_error("UNAVAILABLE") {
            assert!(reply.text().contains("not applied"), "{reply:?}");
            self.not_applied += 1;
        } else if reply.is_error("READONLY") {
            // Passed on where more of the client's commands are under way: Redis's own word, and true.
            self.not_applied += 1;
        } else if is_right {
            self.answered += 1;
        } else {
            self.wrong.push(format!("{reply:?}"));
        }
    }
}

/// One client that increments, writes and reads its own keys until it is told to stop; `depth` requests at a time.
struct Worker {
    thread: JoinHandle<(Ledger, Ledger)>,
}

impl Worker {
    fn start(handover: &Handover, number: usize, depth: usize, stop: &Arc<AtomicBool>) -> Self {
        let (mut client, stop) = (handover.client(), Arc::clone(stop));
        Self { thread: std::thread::spawn(move || work(&mut client, number, depth, &stop)) }
    }
}

fn work(client: &mut RawClient, number: usize, depth: usize, stop: &AtomicBool) -> (Ledger, Ledger) {
    let (counter, key) = (format!("counter{number}"), format!("key{number}"));
    let (mut increments, mut others) = (Ledger::default(), Ledger::default());
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let values: Vec<String> = (0..depth).map(|index| format!("of-{number}-{round}-{index}")).collect();
        let mut batch = Vec::new();
        for value in &values {
            batch.extend(encode(&["INCR", &counter]));
            batch.extend(encode(&["SET", &key, value]));
            batch.extend(encode(&["GET", &key]));
        }
        client.send(&batch);
        for value in &values {
            increments.sent += 1;
            others.sent += 2;
            let reply = client.read_reply();
            increments.note(&reply, matches!(reply, Value::Integer(_)));
            let reply = client.read_reply();
            others.note(&reply, reply == Value::ok());
            let reply = client.read_reply();
            let is_own = reply == Value::Null || matches!(&reply, Value::Bulk(_)) && is_of(&reply, number);
            let is_fresh = others.uncertain + others.not_applied > 0 || reply == Value::bulk(value);
            others.note(&reply, is_own && is_fresh);
        }
        round += 1;
    }
    (increments, others)
}

fn is_of(reply: &Value, number: usize) -> bool {
    reply.text().starts_with(&format!("of-{number}-"))
}

/// Runs clients of three depths through `fault` and closes the books: `count_on` says what a backend has of a key.
fn keep_books(world: &mut World, fault: impl FnOnce(&mut World)) -> (i64, i64) {
    let stop = Arc::new(AtomicBool::new(false));
    let depths = [1, 1, 1, 1, 5, 5, 20, 100];
    let workers: Vec<Worker> = depths
        .iter()
        .enumerate()
        .map(|(number, &depth)| Worker::start(&world.handover, number, depth, &stop))
        .collect();
    wait_until(PATIENCE, || count(&world.east, depths.len()) > 1_000);
    fault(world);
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut uncertain, mut wrong) = (0, 0, Vec::new());
    for (number, worker) in workers.into_iter().enumerate() {
        let (increments, others) = worker.thread.join().expect("no worker panics");
        for ledger in [&increments, &others] {
            assert_eq!(
                ledger.sent,
                ledger.answered + ledger.uncertain + ledger.not_applied + ledger.wrong.len() as i64
            );
        }
        wrong.extend(increments.wrong.iter().chain(&others.wrong).map(|text| format!("client {number}: {text}")));
        acknowledged += increments.answered;
        uncertain += increments.uncertain;
    }
    assert!(wrong.is_empty(), "{} wrong replies: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    (acknowledged, uncertain)
}

/// The counters of `workers` clients on one server.
fn counts(server: &RedisServer, workers: usize) -> Vec<i64> {
    let mut client = server.client();
    let mut count = |number| match client.command(&["GET", &format!("counter{number}")]) {
        Value::Bulk(digits) => String::from_utf8_lossy(&digits).parse::<i64>().expect("a counter"),
        _ => 0,
    };
    (0..workers).map(&mut count).collect()
}

/// Their sum.
fn count(server: &RedisServer, workers: usize) -> i64 {
    counts(server, workers).iter().sum()
}

/// Waits until every client goes on at this backend, and all together have counted so many more.
fn wait_for_progress(server: &RedisServer, more: i64) {
    let before = counts(server, 8);
    wait_until(PATIENCE, || {
        let now = counts(server, 8);
        let each_goes_on = now.iter().zip(&before).all(|(now, before)| now > before);
        each_goes_on && now.iter().sum::<i64>() >= before.iter().sum::<i64>() + more
    });
}

#[test]
fn a_connection_reset_keeps_the_books() {
    let mut world = world("");
    let (acknowledged, uncertain) = keep_books(&mut world, |world| {
        // What the cut hits has been executed, and its reply is on the way.
        world.relay.set_mode(Mode::HoldReplies);
        let before = count(&world.east, 8);
        holds_within(Duration::from_millis(30), || count(&world.east, 8) > before + 50);
        world.relay.refuse();
        world.relay.cut(Cut::Reset);
        wait_for_progress(&world.west, 1_000);
    });
    world.expect_active("west");
    let told = || world.handover.metric("handover_uncertain_total", &[]);
    wait_until(PATIENCE, || told() >= uncertain as f64);
    let applied = count(&world.east, 8) + count(&world.west, 8);
    assert!((acknowledged..=acknowledged + uncertain).contains(&applied), "{acknowledged}+{uncertain}: {applied}");
    assert!(uncertain > 0, "nothing was in flight: the test shows nothing");
}

#[test]
fn a_connection_lost_without_a_switch_keeps_the_books() {
    let mut world = world("");
    let (acknowledged, uncertain) = keep_books(&mut world, |world| {
        for _ in 0..5 {
            world.east.command(&["CLIENT", "KILL", "TYPE", "normal"]);
            wait_for_progress(&world.east, 500);
        }
    });
    let applied = count(&world.east, 8);
    assert!((acknowledged..=acknowledged + uncertain).contains(&applied), "{acknowledged}+{uncertain}: {applied}");
    assert_eq!(count(&world.west, 8), 0, "no switch");
    world.expect_active("east");
}

#[test]
fn a_kill_keeps_the_books() {
    let mut world = world("");
    let (acknowledged, uncertain) = keep_books(&mut world, |world| {
        world.east.kill();
        wait_for_progress(&world.west, 1_000);
    });
    // East took its counts along; on west nothing is there that nobody was told of.
    let on_west = count(&world.west, 8);
    assert!(on_west <= acknowledged + uncertain);
    world.expect_active("west");
    // Each client's own increments on west came from INCRs that were sent once: the last reply is the count.
    let mut client = world.handover.client();
    for number in 0..8 {
        let key = format!("counter{number}");
        let there: i64 = world.west.command(&["GET", &key]).text().parse().unwrap();
        assert_eq!(client.command(&["INCR", &key]).integer(), there + 1);
    }
}

/// What was repeated shows on the backend that had received it already: every category at every ceiling.
#[test]
fn the_ceiling_says_what_is_repeated() {
    // (command, the lowest ceiling that repeats it)
    let commands: [(&[&str], &str); 6] = [
        (&["GET", "k"], "read-only"),
        (&["SETNX", "k", "v"], "write-checked"),
        (&["SET", "k", "v"], "write-last-wins"),
        (&["INCR", "n"], "write-accumulating"),
        (&["LPUSH", "l", "v"], "write-accumulating"),
        (&["EVAL", "return redis.call('incr', KEYS[1])", "1", "s"], "always"),
    ];
    let ceilings = ["never", "read-only", "write-checked", "write-last-wins", "write-accumulating", "always"];
    let place = |name: &str| ceilings.iter().position(|&ceiling| ceiling == name).expect("a ceiling");
    std::thread::scope(|scope| {
        for ceiling in ceilings {
            scope.spawn(move || {
                for (command, lowest) in commands {
                    let repeated = place(ceiling) >= place(lowest);
                    cut_before_the_reply(ceiling, command, repeated);
                }
            });
        }
    });
}

/// The reply to `command` is held, then the connection is cut and east refuses: was it repeated on west?
fn cut_before_the_reply(ceiling: &str, command: &[&str], expected: bool) {
    let mut world = world(&format!("retry.ceiling = '{ceiling}'\n{PATIENT}"));
    let mut client = world.handover.client();
    // Lanes and pins are proven before they are used: what opens one is done while everything passes.
    assert_eq!(client.command(&["EXISTS", "k"]), Value::Integer(0));
    client.command(&["EVAL", "return 1", "0"]);
    let before = command_calls(&world.east, command[0]);
    world.relay.set_mode(Mode::HoldReplies);
    client.send_command(command);
    wait_until(PATIENCE, || command_calls(&world.east, command[0]) == before + 1);
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    let reply = client.read_reply();
    let calls = command_calls(&world.west, command[0]);
    if expected {
        assert!(!reply.is_error("UNCERTAIN"), "{ceiling}: {command:?}: {reply:?}");
        assert_eq!(calls, 1, "{ceiling}: {command:?}");
    } else {
        assert!(reply.is_error("UNCERTAIN"), "{ceiling}: {command:?}: {reply:?}");
        assert_eq!(calls, 0, "{ceiling}: {command:?}");
    }
}

/// How often a server has executed a command, scripts and probes left aside.
fn command_calls(server: &RedisServer, name: &str) -> i64 {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let start = format!("cmdstat_{}:calls=", name.to_lowercase());
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|rest| rest.split(',').next()).map_or(0, |digits| digits.parse().expect("a number"))
}

/// What never left Handover is not lost and not doubled: it runs on the other backend, each client's in its order.
#[test]
fn unsent_commands_move_in_order() {
    const CLIENTS: usize = 10;
    const EACH: usize = 100;
    let mut world = world("failover.hold = '5s'\nretry.deadline = '6s'\n");
    // Both gone: what comes now cannot be sent.
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    world.west.kill();
    wait_until(PATIENCE, || world.handover.metric("handover_backend_up", &[]) == 0.0);
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| world.handover.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for index in 0..EACH {
            client.send_command(&["RPUSH", &format!("list{number}"), &index.to_string()]);
        }
    }
    world.west.restart();
    for (number, client) in clients.iter_mut().enumerate() {
        for index in 0..EACH {
            assert_eq!(client.read_reply(), Value::Integer(index as i64 + 1), "client {number}");
        }
        let list = world.west.command(&["LRANGE", &format!("list{number}"), "0", "-1"]);
        let expected: Vec<Value> = (0..EACH).map(|index| Value::bulk(index.to_string())).collect();
        assert_eq!(list, Value::Array(expected));
    }
    let not_applied = world.handover.metric("handover_not_applied_total", &[]);
    assert_eq!(not_applied, 0.0);
}

/// A pipeline cut after some replies: what was answered stays answered, the rest is definite.
#[test]
fn a_pipeline_cut_in_the_middle_is_settled() {
    let mut world = world("");
    let mut client = world.handover.client();
    let mut warm = world.handover.client();
    assert_eq!(warm.command(&["GET", "x"]), Value::Null);
    // A fake would answer forty; the relay lets forty replies of ":n" pass and ends the connection.
    let passed: u64 = (1..=40).map(|number| format!(":{number}\r\n").len() as u64).sum();
    world.relay.cut_replies_to("INCR", passed, Cut::Reset);
    world.relay.refuse();
    client.send((0..100).flat_map(|_| encode(&["INCR", "n"])).collect::<Vec<u8>>());
    let replies: Vec<Value> = (0..100).map(|_| client.read_reply()).collect();
    let answered = replies.iter().filter(|reply| matches!(reply, Value::Integer(_))).count() as i64;
    let uncertain = replies.iter().filter(|reply| reply.is_error("UNCERTAIN")).count() as i64;
    assert_eq!(answered + uncertain, 100, "{replies:?}");
    assert!(uncertain >= 1, "the cut hit nothing");
    let (east, west) = (number(&world.east, "n"), number(&world.west, "n"));
    assert!((answered..=100).contains(&(east + west)), "{answered} acknowledged, {east} + {west} applied");
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(west + 1));
}

fn number(server: &RedisServer, key: &str) -> i64 {
    match server.command(&["GET", key]) {
        Value::Bulk(digits) => String::from_utf8_lossy(&digits).parse().expect("a number"),
        _ => 0,
    }
}

/// Both dead: held, then an honest refusal that clients retry; served again as soon as one is back.
#[test]
fn without_any_backend_commands_are_held_and_then_refused() {
    let mut world = world("failover.hold = '1s'\n");
    let mut client = world.handover.client();
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    world.west.kill();
    wait_until(PATIENCE, || world.handover.metric("handover_backend_up", &[]) == 0.0);
    let start = Instant::now();
    let answer = client.command(&["INCR", "n"]);
    let held = start.elapsed();
    assert!(answer.is_error("LOADING") && answer.text().contains("not applied"), "{answer:?}");
    assert!(held >= Duration::from_millis(900), "{held:?}");
    // A whole burst is refused with one word.
    client.send([encode(&["INCR", "n"]), encode(&["GET", "k"]), encode(&["SET", "k", "w"])].concat());
    for _ in 0..3 {
        let answer = client.read_reply();
        assert!(answer.is_error("LOADING"), "{answer:?}");
    }
    assert_eq!(world.handover.http_get("/readyz").status, 503);
    world.west.restart();
    wait_until(PATIENCE, || client.command(&["INCR", "n"]) == Value::Integer(1));
    world.handover.expect_ready();
}

/// A burst of which something was applied must not say LOADING: clients would repeat all of it.
#[test]
fn a_mixed_burst_is_refused_in_another_word() {
    let world = world_of("failover.hold = '800ms'\n", |builder| builder.allow_warning("command refused"));
    let mut world = world;
    world.west.kill();
    wait_until(PATIENCE, || world.handover.metric("handover_backend_up", &[("backend", "west")]) == 0.0);
    let mut client = world.handover.client();
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    // One reply passes; the connection ends with the second, and nobody is left.
    world.relay.refuse();
    world.relay.cut_replies_to("INCR", 4, Cut::Reset);
    client.send([encode(&["INCR", "n"]), encode(&["INCR", "n"]), encode(&["INCR", "n"])].concat());
    let replies: Vec<Value> = (0..3).map(|_| client.read_reply()).collect();
    client.send(encode(&["PING"]));
    for reply in &replies {
        assert!(!reply.is_error("LOADING"), "{replies:?}");
    }
    assert_eq!(replies[0], Value::Integer(1), "{replies:?}");
    assert!(replies[1].is_error("UNCERTAIN"), "{replies:?}");
    assert_eq!(client.read_reply(), Value::Simple("PONG".into()));
    let answer = client.command(&["INCR", "n"]);
    assert!(answer.is_error("LOADING"), "a burst of its own: {answer:?}");
}

/// After the switch the old backend gets nothing of the clients' any more, though it is reachable again.
#[test]
fn nothing_reaches_the_old_backend_after_a_switch() {
    let mut world = world("breaker.grace = '60s'\n");
    let (acknowledged, uncertain) = keep_books(&mut world, |world| {
        world.relay.refuse();
        world.relay.cut(Cut::Reset);
        wait_for_progress(&world.west, 500);
        let at_the_switch = count(&world.east, 8);
        world.relay.listen();
        wait_for_progress(&world.west, 1_000);
        assert_eq!(count(&world.east, 8), at_the_switch);
    });
    let applied = count(&world.east, 8) + count(&world.west, 8);
    assert!((acknowledged..=acknowledged + uncertain).contains(&applied), "{acknowledged}+{uncertain}: {applied}");
}

/// Several switches in a row, there and back.
#[test]
fn switches_there_and_back_keep_the_books() {
    let quick = "breaker.grace = '100ms'\nbreaker.grace_max = '200ms'\nhealth.rise = 1\n";
    let mut world = world(quick);
    let (acknowledged, uncertain) = keep_books(&mut world, |world| {
        for _ in 0..2 {
            world.relay.refuse();
            world.relay.cut(Cut::Reset);
            wait_for_progress(&world.west, 300);
            world.relay.listen();
            wait_until(PATIENCE, || world.is_selectable("east"));
            // Its connections end, and west is asked whether it lives: it does, so nothing switches.
            world.west.command(&["CLIENT", "KILL", "TYPE", "normal"]);
            wait_for_progress(&world.west, 300);
            world.west.command(&["REPLICAOF", "127.0.0.1", "1"]);
            wait_for_progress(&world.east, 300);
            world.west.command(&["REPLICAOF", "NO", "ONE"]);
            wait_until(PATIENCE, || world.is_selectable("west"));
        }
    });
    let applied = count(&world.east, 8) + count(&world.west, 8);
    assert!((acknowledged..=acknowledged + uncertain).contains(&applied), "{acknowledged}+{uncertain}: {applied}");
}

/// A transaction whose EXEC was sent and whose reply was lost is not run again.
#[test]
fn a_transaction_runs_at_most_once() {
    let mut world = world(PATIENT);
    let mut client = world.handover.client();
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["INCR", "n"]), Value::Simple("QUEUED".into()));
    world.relay.set_mode(Mode::HoldReplies);
    client.send_command(&["EXEC"]);
    wait_until(PATIENCE, || number(&world.east, "n") == 1);
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    let answer = client.read_reply();
    assert!(answer.is_error("UNCERTAIN"), "{answer:?}");
    assert_eq!(number(&world.west, "n"), 0);
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));
}

/// MULTI queued on the old backend, EXEC after the switch: replayed whole or aborted, never a mixture.
#[test]
fn a_queued_transaction_is_whole_or_nothing() {
    let mut world = world("");
    let mut client = world.handover.client();
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["INCR", "a"]), Value::Simple("QUEUED".into()));
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    world.expect_active("west");
    let queued = client.command(&["INCR", "b"]);
    let answer = client.command(&["EXEC"]);
    let (a, b) = (number(&world.west, "a"), number(&world.west, "b"));
    match answer {
        Value::Array(_) => assert_eq!((a, b), (1, 1), "{queued:?}"),
        other => {
            assert!(other.is_error("EXECABORT"), "{other:?}");
            assert_eq!((a, b), (0, 0));
        }
    }
    assert_eq!((number(&world.east, "a"), number(&world.east, "b")), (0, 0));
}

/// WATCH does not survive its backend: the client's own loop runs again.
#[test]
fn a_watch_across_a_switch_makes_exec_answer_nil() {
    let mut world = world("");
    let mut client = world.handover.client();
    assert_eq!(client.command(&["WATCH", "k"]), Value::ok());
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    world.expect_active("west");
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    client.command(&["SET", "k", "v"]);
    assert_eq!(client.command(&["EXEC"]), Value::Null);
    assert_eq!(world.west.command(&["EXISTS", "k"]).integer(), 0);
}

/// A blocked client goes on waiting where the data is now.
#[test]
fn a_blocked_client_waits_on() {
    let mut world = world("");
    let mut client = world.handover.client();
    client.send_command(&["BLPOP", "list", "0"]);
    wait_until(PATIENCE, || world.east.command(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    wait_until(PATIENCE, || world.west.command(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    assert_eq!(world.handover.client().command(&["RPUSH", "list", "x"]).integer(), 1);
    assert_eq!(client.read_reply(), Value::Array(vec![Value::bulk("list"), Value::bulk("x")]));
}

/// What a session has chosen goes with it.
#[test]
fn database_name_and_protocol_are_carried_over() {
    let mut world = world("");
    let mut client = world.handover.client();
    assert!(matches!(client.command(&["HELLO", "3", "SETNAME", "ours"]), Value::Map(_)));
    assert_eq!(client.command(&["SELECT", "5"]), Value::ok());
    assert_eq!(client.command(&["SET", "k", "east"]), Value::ok());
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    world.expect_active("west");
    assert_eq!(client.command(&["SET", "k", "west"]), Value::ok());
    assert!(matches!(client.command(&["CONFIG", "GET", "maxmemory"]), Value::Map(_)));
    assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::bulk("ours"));
    let mut straight = world.west.client();
    assert_eq!(straight.command(&["SELECT", "5"]), Value::ok());
    assert_eq!(straight.command(&["GET", "k"]), Value::bulk("west"));
}

/// Subscriptions are the client's: they are live on the new active without its doing anything.
#[test]
fn subscriptions_are_restored_elsewhere() {
    let mut world = world("");
    let mut subscribers: Vec<RawClient> = (0..20).map(|_| world.handover.client()).collect();
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.send_command(&["SUBSCRIBE", "all", &format!("own{number}")]);
        subscriber.send_command(&["PSUBSCRIBE", &format!("p{number}*")]);
        (0..3).for_each(|_| drop(subscriber.read_reply()));
    }
    world.relay.refuse();
    world.relay.cut(Cut::Reset);
    let restored = || world.west.command(&["PUBSUB", "NUMSUB", "all"]).elements()[1] == Value::Integer(20);
    assert!(holds_within(PATIENCE, restored));
    let patterns = || world.west.command(&["PUBSUB", "NUMPAT"]) == Value::Integer(20);
    assert!(holds_within(PATIENCE, patterns));
    let mut publisher = world.handover.client();
    assert_eq!(publisher.command(&["PUBLISH", "all", "x"]).integer(), 20);
    assert_eq!(publisher.command(&["PUBLISH", "own7", "y"]).integer(), 1);
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.expect("*3\r\n$7\r\nmessage\r\n$3\r\nall\r\n$1\r\nx\r\n");
        if number == 7 {
            subscriber.expect("*3\r\n$7\r\nmessage\r\n$4\r\nown7\r\n$1\r\ny\r\n");
        }
    }
}

/// A word that means "not applied" is not passed on while another backend can serve.
#[test]
fn a_backend_that_turns_away_is_left_without_an_error() {
    let loading = Arc::new(AtomicBool::new(false));
    let is_loading = Arc::clone(&loading);
    let fake = FakeBackend::start(move |connection| {
        while let Some(command) = connection.read_command() {
            let turns_away = is_loading.load(Ordering::SeqCst) && command[0] != b"HELLO" && command[0] != b"CLIENT";
            if turns_away {
                connection.write("-LOADING Redis is loading the dataset in memory\r\n");
            } else {
                connection.write(courtesy(&command).unwrap_or_else(|| b"+fake\r\n".to_vec()));
            }
        }
    });
    let west = RedisServer::start();
    let configuration = format!(
        "backend = [{{ name = 'fake', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n{QUICK}",
        fake.address(),
        west.address()
    );
    let handover =
        Handover::builder(&configuration).expect_warning("switched").allow_warning("backend is unhealthy").start();
    wait_until(PATIENCE, || handover.metric("handover_backend_up", &[]) == 2.0);
    let mut client = handover.client();
    assert_eq!(client.command(&["INCR", "n"]), Value::Simple("fake".into()));
    loading.store(true, Ordering::SeqCst);
    for expected in 1..=100 {
        assert_eq!(client.command(&["INCR", "n"]), Value::Integer(expected));
    }
}

/// Pipelines of clients whose active became a replica: each refused command runs once on the new one, in order, and
/// nobody sees READONLY.
#[test]
fn pipelines_to_a_demoted_backend_run_on_the_new_one() {
    const DEPTH: i64 = 20;
    let world = world("failover.hold = '5s'\n");
    let stop = AtomicBool::new(false);
    let told = |command: &str| command_calls(&world.west, command);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (mut client, stop) = (world.handover.client(), &stop);
                scope.spawn(move || {
                    let (counter, list, text) = (format!("n{number}"), format!("l{number}"), format!("s{number}"));
                    let one = [
                        encode(&["INCR", &counter]),
                        encode(&["RPUSH", &list, "x"]),
                        encode(&["SET", &text, "v"]),
                        encode(&["STRLEN", &text]),
                        encode(&["MULTI"]),
                        encode(&["INCR", &counter]),
                        encode(&["EXEC"]),
                    ];
                    let (batch, mut rounds) = (one.concat().repeat(DEPTH as usize), 0);
                    while !stop.load(Ordering::Relaxed) {
                        client.send(&batch);
                        for _ in 0..DEPTH {
                            let replies: Vec<Value> = (0..one.len()).map(|_| client.read_reply()).collect();
                            let error = replies.iter().find(|reply| matches!(reply, Value::Error(_)));
                            assert_eq!(error, None, "client {number}: {replies:?}");
                            assert_eq!(replies[6].elements().len(), 1);
                        }
                        rounds += 1;
                    }
                    (counter, list, rounds)
                })
            })
            .collect();
        wait_until(PATIENCE, || command_calls(&world.east, "incr") > 1_000);
        assert_eq!(world.east.command(&["REPLICAOF", "127.0.0.1", "1"]), Value::ok());
        wait_until(PATIENCE, || told("incr") > 1_000);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (counter, list, rounds) = client.join().expect("no client was refused");
            let sum = |key: &str| number(&world.east, key) + number(&world.west, key);
            assert_eq!(sum(&counter), 2 * DEPTH * rounds);
            let length = |server: &RedisServer| server.command(&["LLEN", &list]).integer();
            assert_eq!(length(&world.east) + length(&world.west), DEPTH * rounds);
        }
    });
    world.expect_active("west");
}
