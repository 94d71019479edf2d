//! What a session is promised across a switch, one test for each promise, against real servers.
//!
//! Promises that another file proves already: a switch inside MULTI, and EXEC cut at every byte of its replies
//! (`transactions.rs`); unsent commands while nobody can serve, and what each ceiling repeats of what was sent
//! (`switching.rs`).

mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use support::{
    Cut, FakeBackend, Handover, HandoverBuilder, Mode, PATIENCE, Pair, Process, RawClient, RedisServer, Relay, Signal,
    Value, courtesy, encode, holds_within, python, wait_until,
};

/// Planned switches within moments; nothing is left because it is silent.
const PLANNED: &str = "[health]\ninterval = '100ms'\nstandby_interval = '100ms'\ntimeout = '2s'\n[breaker]\n\
    grace = '50ms'\n[failover]\nhold = '5s'\ndrain = '5s'\ninitial = 'all'\nfailback_hold = '50ms'\n\
    switches_max = 100\n[detector]\nhang_timeout = '8s'\nsuspect_after = '7s'\nslow_timeout = '9s'\n";

/// Faults and switches are what these tests are about.
const TOLD: [&str; 7] = [
    "backend is unhealthy",
    // A probe may be late on a busy machine; the failback is tried again.
    "planned switch called off",
    "no backend is healthy",
    "probes fail although live traffic is answered",
    "switched",
    "a backend can serve again",
    "workers did not acknowledge a switch in time",
];

/// A Handover before `east` and `west`, which serves on `east`.
fn start(east: &str, west: &str, configuration: &str) -> Handover {
    let backends = format!(
        "[[backend]]\nname = 'east'\nurl = 'redis://{east}'\nweight = 2.0\n\
         [[backend]]\nname = 'west'\nurl = 'redis://{west}'\nweight = 1.0\n"
    );
    let builder = Handover::builder(&format!("{configuration}{backends}"));
    let handover = TOLD.into_iter().fold(builder, HandoverBuilder::allow_warning).start();
    wait_for(&handover, "east", "west");
    handover
}

/// Waits until `active` serves and `standby` is ready to.
#[track_caller]
fn wait_for(handover: &Handover, active: &str, standby: &str) {
    wait_until(PATIENCE, || {
        let status: serde_json::Value =
            serde_json::from_str(&handover.http_get("/status").body).expect("the status is JSON");
        let group = &status["groups"][0];
        group["active"] == active && group["phase"] == "serve" && group["standby"] == standby
    });
}

/// A planned switch: the other one becomes the heavier, by a reload.
#[track_caller]
fn plan_switch(handover: &mut Handover, from: &str, to: &str) {
    let file = handover.configuration_file();
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let mut configuration: toml::Table = text.parse().expect("the configuration is TOML");
    for backend in configuration["backend"].as_array_mut().expect("backends") {
        let weight = if backend["name"].as_str() == Some(to) { 2.0 } else { 1.0 };
        backend.as_table_mut().expect("a backend is a table").insert("weight".to_owned(), weight.into());
    }
    std::fs::write(&file, configuration.to_string()).expect("the configuration can be written");
    handover.signal(Signal::HUP);
    wait_for(handover, to, from);
}

/// Set when dropped, so that clients stop, and with them a scope of threads, when an assertion fails too.
#[derive(Default)]
struct Stop(AtomicBool);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sets its [`Stop`] at the end of a block, however that ends.
struct Stopping<'a>(&'a Stop);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What a server has of a counter.
#[track_caller]
fn number(server: &RedisServer, key: &str) -> i64 {
    match server.command(&["GET", key]) {
        Value::Null => 0,
        value => value.text().parse().expect("a number"),
    }
}

/// How often a server has executed a command.
fn calls(server: &RedisServer, name: &str) -> i64 {
    let stats = server.command(&["INFO", "commandstats"]).text();
    let start = format!("cmdstat_{}:calls=", name.to_lowercase());
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|rest| rest.split(',').next()).map_or(0, |digits| digits.parse().expect("a number"))
}

/// 32 clients INCR at 20 ms round trip through four planned switches: 0 errors, acknowledged = applied on A + B.
#[test]
fn planned_switches_cost_no_error_and_no_increment() {
    const CLIENTS: usize = 32;
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let relays = [&east, &west].map(|server| Relay::start(server.address()));
    let [to_east, to_west] = relays.each_ref().map(|relay| relay.address().to_string());
    let mut handover = start(&to_east, &to_west, PLANNED);
    relays.iter().for_each(|relay| relay.set_mode(Mode::Delay(Duration::from_millis(10))));
    let (stop, acknowledged) = (Stop::default(), AtomicI64::new(0));
    let address = handover.address();
    std::thread::scope(|scope| {
        let stopping = Stopping(&stop);
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = RawClient::connect(address);
                while !stop.is_set() {
                    let reply = client.command(&["INCR", "n"]);
                    assert!(matches!(reply, Value::Integer(_)), "an increment failed: {reply:?}");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (from, to) in [("east", "west"), ("west", "east"), ("east", "west"), ("west", "east")] {
            let before = acknowledged.load(Ordering::Relaxed);
            wait_until(PATIENCE, || acknowledged.load(Ordering::Relaxed) > before + 200);
            plan_switch(&mut handover, from, to);
        }
        drop(stopping);
    });
    assert_eq!(handover.metric("handover_switches_total", &[("reason", "failback")]), 4.0);
    assert!(number(&east, "n") > 0 && number(&west, "n") > 0);
    assert_eq!(number(&east, "n") + number(&west, "n"), acknowledged.into_inner());
}

/// An INCR whose reply is cut: the total grows by exactly 1 and the client reads -UNCERTAIN.
#[test]
fn an_increment_without_a_reply_is_applied_once_and_called_uncertain() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));
    pair.relay.set_mode(Mode::HoldReplies);
    client.send_command(&["INCR", "n"]);
    wait_until(PATIENCE, || number(&pair.east, "n") == 2);
    pair.fail_over();
    assert!(client.read_reply().is_error("UNCERTAIN"));
    assert_eq!(number(&pair.east, "n") + number(&pair.west, "n"), 2);
    assert_eq!(client.command(&["INCR", "other"]), Value::Integer(1));
}

const CEILINGS: [&str; 6] = ["never", "read-only", "write-checked", "write-last-wins", "write-accumulating", "always"];

/// GET, SET, SETNX, INCR, EVAL cut before and after sending, under each ceiling: before sending nothing is lost and
/// nothing refused, whatever the ceiling.
#[test]
fn what_was_not_sent_runs_once_under_every_ceiling() {
    std::thread::scope(|scope| {
        for ceiling in CEILINGS {
            scope.spawn(move || cut_before_sending(ceiling));
        }
    });
}

/// The single commands of the matrix, each with what a fresh server answers.
fn matrix() -> [(&'static [&'static str], Value); 5] {
    [
        (&["GET", "missing"], Value::Null),
        (&["SET", "set", "v"], Value::ok()),
        (&["SETNX", "setnx", "v"], Value::Integer(1)),
        (&["INCR", "incr"], Value::Integer(1)),
        (&["EVAL", "return redis.call('APPEND', KEYS[1], 'x')", "1", "eval"], Value::Integer(1)),
    ]
}

fn cut_before_sending(ceiling: &str) {
    let mut pair = Pair::builder().configuration(&format!("[retry]\nceiling = '{ceiling}'\n")).start();
    TOLD.iter().for_each(|part| pair.handover.allow_warning(part));
    let mut clients: Vec<RawClient> = matrix().iter().map(|_| pair.client()).collect();
    for client in &mut clients {
        // Each has a pin and a lane that the cut takes from it.
        assert_eq!(client.command(&["EVAL", "return 1", "0"]), Value::Integer(1));
    }
    pair.break_east();
    pair.west.kill();
    wait_until(PATIENCE, || pair.handover.metric("handover_backend_up", &[]) == 0.0);
    for (client, (command, _)) in clients.iter_mut().zip(matrix()) {
        client.send_command(command);
    }
    pair.west.restart();
    for (client, (command, expected)) in clients.iter_mut().zip(matrix()) {
        assert_eq!(client.read_reply(), expected, "{ceiling}: {command:?}");
        assert_eq!(calls(&pair.west, command[0]), 1, "{ceiling}: {command:?}");
    }
}

/// GET, SET, SETNX, INCR, EVAL cut before and after sending, under each ceiling: after sending only what the ceiling
/// allows runs on the other backend; the rest is called uncertain, and neither runs there nor is it lost.
#[test]
fn what_was_sent_runs_again_only_below_the_ceiling() {
    std::thread::scope(|scope| {
        for (place, ceiling) in CEILINGS.into_iter().enumerate() {
            scope.spawn(move || cut_after_sending(ceiling, place));
        }
    });
}

fn cut_after_sending(ceiling: &str, place: usize) {
    // The lowest ceiling that repeats each command of the matrix, as its place among them.
    const LOWEST: [usize; 5] = [1, 3, 2, 4, 5];
    let mut pair = Pair::builder()
        .configuration(&format!(
            "[retry]\nceiling = '{ceiling}'\ndeadline = '1m'\n[detector]\nhang_timeout = '8s'\nsuspect_after = '7s'\nslow_timeout = '9s'\n"
        ))
        .start();
    TOLD.iter().for_each(|part| pair.handover.allow_warning(part));
    let mut clients: Vec<RawClient> = matrix().iter().map(|_| pair.client()).collect();
    for client in &mut clients {
        assert_eq!(client.command(&["EVAL", "return 1", "0"]), Value::Integer(1));
    }
    let before = matrix().map(|(command, _)| calls(&pair.east, command[0]));
    pair.relay.set_mode(Mode::HoldReplies);
    for (client, (command, _)) in clients.iter_mut().zip(matrix()) {
        client.send_command(command);
    }
    let has_run = |(index, (command, _)): (usize, (&[&str], Value))| calls(&pair.east, command[0]) == before[index] + 1;
    wait_until(PATIENCE, || matrix().into_iter().enumerate().all(has_run));
    pair.break_east();
    for (index, (client, (command, expected))) in clients.iter_mut().zip(matrix()).enumerate() {
        let (reply, is_repeated) = (client.read_reply(), place >= LOWEST[index]);
        assert_eq!(calls(&pair.west, command[0]), i64::from(is_repeated), "{ceiling}: {command:?}: {reply:?}");
        let is_right = if is_repeated { reply == expected } else { reply.is_error("UNCERTAIN") };
        assert!(is_right, "{ceiling}: {command:?}: {reply:?}");
    }
}

/// 1,000 unsent commands at the death of A: all run once on B in each client's order.
#[test]
fn commands_not_sent_at_the_death_of_the_active_run_in_order_on_the_next() {
    const CLIENTS: usize = 10;
    const EACH: usize = 100;
    // A silent backend gets nothing more after 50 ms, and is left only when it dies.
    let patient = "[detector]\nhang_timeout = '8s'\nslow_timeout = '9s'\n[retry]\ndeadline = '9s'\n";
    let mut pair = Pair::builder().configuration(patient).start();
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| pair.client()).collect();
    for client in &mut clients {
        assert_eq!(client.command(&["GET", "x"]), Value::Null);
    }
    let mut first = pair.client();
    pair.east.stop();
    first.send_command(&["GET", "x"]);
    // Twenty times what it takes to be suspected; whether it was long enough is seen below.
    std::thread::sleep(Duration::from_secs(1));
    let sent = pair.relay.request_bytes();
    for index in 0..EACH {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_command(&["RPUSH", &format!("list{number}"), &index.to_string()]);
        }
    }
    wait_until(PATIENCE, || pair.handover.metric("handover_inflight", &[]) > (CLIENTS * EACH) as f64);
    // Probes still go there, the more the longer it took; a thousand commands would be seven times as much.
    let more = pair.relay.request_bytes() - sent;
    assert!(more < 5_000, "commands were sent to a backend that is silent: {more} bytes");
    pair.east.kill();
    pair.break_east();
    assert_eq!(first.read_reply(), Value::Null);
    for (number, client) in clients.iter_mut().enumerate() {
        for index in 0..EACH {
            assert_eq!(client.read_reply(), Value::Integer(index as i64 + 1), "client {number}");
        }
        let list = pair.west.command(&["LRANGE", &format!("list{number}"), "0", "-1"]);
        let expected: Vec<Value> = (0..EACH).map(|index| Value::bulk(index.to_string())).collect();
        assert_eq!(list, Value::Array(expected), "client {number}");
    }
}

/// A pipeline of 100 cut after 40 replies: 41–100 each answered once.
#[test]
fn a_pipeline_cut_after_forty_replies_is_answered_to_its_end() {
    const DEPTH: usize = 100;
    const ANSWERED: usize = 40;
    for (command, is_repeated) in [(["INCR", "n"], false), (["GET", "n"], true)] {
        // It has read all hundred before it dies, so that all of them were sent.
        let fake = FakeBackend::start(move |connection| {
            let mut read = 0;
            while let Some(received) = connection.read_command() {
                if let Some(reply) = courtesy(&received) {
                    connection.write(reply);
                    continue;
                }
                read += 1;
                if read == DEPTH {
                    (1..=ANSWERED).for_each(|number| connection.write(format!(":{number}\r\n")));
                    return;
                }
            }
        });
        let west = RedisServer::start();
        assert_eq!(west.command(&["SET", "n", "7"]), Value::ok());
        let mut relay = Relay::start(fake.address());
        let settings = "[health]\ninterval = '100ms'\nstandby_interval = '100ms'\n[failover]\nfailback = 'never'\n\
            initial = 'all'\n";
        let handover = start(&relay.address().to_string(), &west.address().to_string(), settings);
        let mut client = handover.client();
        // Its connection is there before no other can be had.
        assert_eq!(client.command(&["ECHO", "lane"]), Value::bulk("lane"));
        relay.refuse();
        client.send((0..DEPTH).flat_map(|_| encode(&command)).collect::<Vec<u8>>());
        for number in 1..=ANSWERED {
            assert_eq!(client.read_reply(), Value::Integer(number as i64));
        }
        for number in ANSWERED + 1..=DEPTH {
            let reply = client.read_reply();
            let is_right = if is_repeated { reply == Value::bulk("7") } else { reply.is_error("UNCERTAIN") };
            assert!(is_right, "{command:?}, reply {number}: {reply:?}");
        }
        relay.cut(Cut::Reset);
        assert_eq!(client.command(&["INCR", "n"]), Value::Integer(8), "the session goes on, in step");
        client.expect_silence(Duration::from_millis(20));
    }
}

/// WATCH on A, write on B: EXEC answers nil and nothing of it is applied.
#[test]
fn a_watch_on_one_backend_sees_the_write_on_the_other() {
    for is_planned in [false, true] {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let mut relay = Relay::start(east.address());
        let mut handover = start(&relay.address().to_string(), &west.address().to_string(), PLANNED);
        let (mut watcher, mut writer) = (handover.client(), handover.client());
        assert_eq!(watcher.command(&["WATCH", "k"]), Value::ok());
        assert_eq!(watcher.command(&["GET", "k"]), Value::Null);
        if is_planned {
            plan_switch(&mut handover, "east", "west");
        } else {
            relay.refuse();
            relay.cut(Cut::Reset);
        }
        assert_eq!(writer.command(&["SET", "k", "theirs"]), Value::ok());
        assert_eq!(west.command(&["GET", "k"]), Value::bulk("theirs"), "planned: {is_planned}");
        assert_eq!(watcher.command(&["MULTI"]), Value::ok());
        assert_eq!(watcher.command(&["SET", "k", "mine"]), Value::Simple("QUEUED".to_owned()));
        watcher.send_command(&["EXEC"]);
        watcher.expect("*-1\r\n");
        assert_eq!(west.command(&["GET", "k"]), Value::bulk("theirs"), "planned: {is_planned}");
        assert_eq!(east.command(&["EXISTS", "k"]), Value::Integer(0), "planned: {is_planned}");
    }
}

/// BLPOP 20 s, 3 s in (here: half a second), switched: what is left of the 20 s is asked of B, no more; a push on B
/// is seen (within 50 ms, on a machine that has nothing else to do).
#[test]
fn a_blocked_pop_keeps_its_time_and_sees_a_push_on_the_next_backend() {
    const TIMEOUT: f64 = 20.0;
    for is_planned in [false, true] {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let mut relay = Relay::start(east.address());
        let mut handover = start(&relay.address().to_string(), &west.address().to_string(), PLANNED);
        let mut client = handover.client();
        let monitor = Monitor::of(&west);
        let sent_at = Instant::now();
        client.send_command(&["BLPOP", "k", "20"]);
        wait_until(PATIENCE, || is_blocked(&east));
        let blocked_at = Instant::now();
        std::thread::sleep(Duration::from_millis(500));
        let waited = blocked_at.elapsed().as_secs_f64();
        if is_planned {
            plan_switch(&mut handover, "east", "west");
        } else {
            relay.refuse();
            relay.cut(Cut::Reset);
        }
        wait_until(PATIENCE, || is_blocked(&west));
        let by_now = sent_at.elapsed().as_secs_f64();
        assert_eq!(west.command(&["RPUSH", "k", "x"]), Value::Integer(1));
        let pushed_at = Instant::now();
        assert_eq!(client.read_reply(), Value::Array(vec![Value::bulk("k"), Value::bulk("x")]));
        assert!(pushed_at.elapsed() < PATIENCE / 2, "{:?}", pushed_at.elapsed());
        let seen = monitor.finish();
        let armed = seen.iter().find(|line| line.words[0] == "BLPOP").expect("it was armed again");
        let left: f64 = armed.words[2].parse().expect("a number of seconds");
        let (least, most) = (TIMEOUT - by_now - 0.01, TIMEOUT - waited + 0.01);
        assert!((least..=most).contains(&left), "planned: {is_planned}: {left} s of {least} to {most}");
    }
}

fn is_blocked(server: &RedisServer) -> bool {
    server.command(&["INFO", "clients"]).text().contains("blocked_clients:1\r")
}

/// What a server executes, by its own MONITOR.
struct Monitor {
    client: RawClient,
    marker: RawClient,
}

/// One line of MONITOR.
#[derive(Debug)]
struct Executed {
    /// Seconds, by the server's clock.
    at: f64,
    words: Vec<String>,
}

impl Monitor {
    #[track_caller]
    fn of(server: &RedisServer) -> Self {
        let (mut client, marker) = (server.client(), server.client());
        assert_eq!(client.command(&["MONITOR"]), Value::ok());
        Self { client, marker }
    }

    /// Everything executed up to now.
    #[track_caller]
    fn finish(mut self) -> Vec<Executed> {
        let reader = std::thread::spawn(move || {
            let mut executed = Vec::new();
            loop {
                let line = Executed::parse(&self.client.read_reply().text());
                if line.words.len() == 2 && line.words[1] == "the end of what was monitored" {
                    return executed;
                }
                executed.push(line);
            }
        });
        self.marker.command(&["ECHO", "the end of what was monitored"]);
        reader.join().expect("MONITOR tells of its own end")
    }
}

impl Executed {
    /// `1700000000.000000 [0 127.0.0.1:1] "GET" "k"`, whose words hold neither quotes nor backslashes here.
    #[track_caller]
    fn parse(line: &str) -> Self {
        let (at, rest) = line.split_once(' ').expect("a time");
        let words = rest.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        Self { at: at.parse().expect("seconds"), words }
    }

    /// The client whose counter this increments, if it does; redis-py says INCRBY.
    fn incremented(&self) -> Option<&str> {
        if matches!(self.words[0].as_str(), "INCR" | "INCRBY") { self.words.get(1).map(String::as_str) } else { None }
    }
}

/// Clients of two languages, all incrementing a counter of their own without a pause.
struct Crowd<'scope> {
    stop: &'scope Stop,
    acknowledged: &'scope Mutex<HashMap<String, i64>>,
    python: Process,
    stop_file: std::path::PathBuf,
}

impl<'scope> Crowd<'scope> {
    #[track_caller]
    fn start<'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        handover: &Handover,
        each: usize,
        stop: &'scope Stop,
        acknowledged: &'scope Mutex<HashMap<String, i64>>,
    ) -> Self {
        // Python first: it loads a lot of files, and the others leave it little of the machine.
        let address = handover.address();
        let stop_file = handover.folder().join("stop");
        let (port, count) = (address.port().to_string(), each.to_string());
        let path = stop_file.to_str().expect("a path in UTF-8");
        let arguments = ["tests/python/crowd.py", "127.0.0.1", &port, &count, path];
        let python = Process::start(python().to_str().expect("a path in UTF-8"), &arguments, |command| {
            command.current_dir(support::root());
        });
        let running = python.find_line(PATIENCE * 3, |line| line == "running");
        assert!(running.is_some(), "{}", python.output());
        for number in 0..each {
            scope.spawn(move || {
                let (mut client, key, mut count) = (RawClient::connect(address), format!("rust:{number}"), 0);
                while !stop.is_set() {
                    let reply = client.command(&["INCR", &key]);
                    assert!(matches!(reply, Value::Integer(_)), "{key}: {reply:?}");
                    count += 1;
                }
                acknowledged.lock().expect("nobody panics with it").insert(key, count);
            });
        }
        Self { stop, acknowledged, python, stop_file }
    }

    /// Stops all; every client of Python has told its count when this returns.
    #[track_caller]
    fn stop(mut self) {
        drop(Stopping(self.stop));
        std::fs::write(&self.stop_file, "").expect("a file in Handover's folder");
        let status = self.python.wait();
        assert!(status.success(), "{}", self.python.output());
        let mut acknowledged = self.acknowledged.lock().expect("nobody panics with it");
        for line in self.python.lines().iter().filter(|line| line.starts_with("python:")) {
            let (key, count) = line.split_once(' ').expect("a key and its count");
            acknowledged.insert(key.to_owned(), count.parse().expect("a count"));
        }
    }
}

/// What one planned switch under a crowd showed.
struct Spread {
    /// From the last increment on the old backend to the first on the new one; negative would be a breach.
    gap: Duration,
    /// From the first increment on the new backend to the first of the last client there, those of Rust alone: all of
    /// them wait for the switch with a command.
    spread: Duration,
    /// The same of all; clients of Python share one thread, and many are on their way when the switch comes.
    spread_of_all: Duration,
}

/// A planned switch under `2 × each` clients of two languages, by the servers' own account.
#[track_caller]
fn switch_a_crowd(each: usize) -> Spread {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let mut handover = start(&east.address().to_string(), &west.address().to_string(), PLANNED);
    let (stop, acknowledged) = (Stop::default(), Mutex::new(HashMap::new()));
    let (on_east, on_west) = std::thread::scope(|scope| {
        let _stopping = Stopping(&stop);
        let crowd = Crowd::start(scope, &handover, each, &stop, &acknowledged);
        wait_until(PATIENCE, || east.command(&["DBSIZE"]) == Value::Integer(2 * each as i64));
        let monitors = (Monitor::of(&east), Monitor::of(&west));
        let served = calls(&east, "incr");
        wait_until(PATIENCE, || calls(&east, "incr") > served + each as i64);
        plan_switch(&mut handover, "east", "west");
        wait_until(PATIENCE, || west.command(&["DBSIZE"]) == Value::Integer(2 * each as i64));
        // Beyond the switch for a while: a byte to the old one may come late.
        let served = calls(&west, "incr");
        wait_until(PATIENCE, || calls(&west, "incr") > served + 20 * each as i64);
        crowd.stop();
        (monitors.0.finish(), monitors.1.finish())
    });
    let increments = |executed: &[Executed]| -> Vec<f64> {
        executed.iter().filter(|line| line.incremented().is_some()).map(|line| line.at).collect()
    };
    let last_on_east = increments(&on_east).into_iter().fold(f64::MIN, f64::max);
    let first_on_west = increments(&on_west).into_iter().fold(f64::MAX, f64::min);
    assert!(last_on_east < first_on_west, "{} s too late on the old backend", last_on_east - first_on_west);
    let mut arrivals = HashMap::new();
    for line in &on_west {
        if let Some(key) = line.incremented() {
            arrivals.entry(key).or_insert(line.at);
        }
    }
    assert_eq!(arrivals.len(), 2 * each, "not everybody came over");
    for (key, count) in acknowledged.into_inner().expect("nobody panicked with it") {
        assert_eq!(number(&east, &key) + number(&west, &key), count, "{key}");
    }
    let last = |language: &str| {
        let of_language = arrivals.iter().filter(|(key, _)| key.starts_with(language));
        of_language.map(|(_, &at)| at).fold(f64::MIN, f64::max)
    };
    Spread {
        gap: Duration::from_secs_f64(first_on_west - last_on_east),
        spread: Duration::from_secs_f64(last("rust") - first_on_west),
        spread_of_all: Duration::from_secs_f64(last("") - first_on_west),
    }
}

/// 200 clients in several languages: no byte to the old backend after the first on the new one.
#[test]
fn two_hundred_clients_of_two_languages_move_at_one_moment() {
    let seen = switch_a_crowd(100);
    // A bound against hanging; the figure comes from below.
    assert!(seen.spread_of_all < PATIENCE, "{:?}", seen.spread_of_all);
}

/// The spread of that, measured: `cargo nextest run --test acceptance --run-ignored only --no-capture`.
#[test]
#[ignore = "a measurement, for a quiet machine"]
fn the_spread_of_two_hundred_clients() {
    for each in [10, 100] {
        for round in 1..=5 {
            let Spread { gap, spread, spread_of_all } = switch_a_crowd(each);
            let clients = 2 * each;
            println!(
                "{clients} clients, round {round}: gap {gap:.1?}, spread {spread:.1?}, of all {spread_of_all:.1?}"
            );
        }
    }
}

/// At a forced switch too nothing is written to the old backend any more, though it lives and would take it.
#[test]
fn nothing_is_written_to_a_backend_that_was_left() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let data = Relay::start(east.address());
    // Probes go their own way, so that what the relay carries is what clients sent.
    let to_east = format!("{}'\nhealth_check_url = 'redis://{}", data.address(), east.address());
    let handover = start(&to_east, &west.address().to_string(), PLANNED);
    let (stop, address) = (Stop::default(), handover.address());
    std::thread::scope(|scope| {
        let _stopping = Stopping(&stop);
        for number in 0..20 {
            let stop = &stop;
            scope.spawn(move || {
                let (mut client, key) = (RawClient::connect(address), format!("k{number}"));
                while !stop.is_set() {
                    client.command(&["INCR", &key]);
                    client.command(&["GET", &key]);
                }
            });
        }
        wait_until(PATIENCE, || calls(&east, "incr") > 500);
        assert_eq!(east.command(&["REPLICAOF", "127.0.0.1", "1"]), Value::ok());
        wait_until(PATIENCE, || calls(&west, "incr") > 0);
        // What had been handed to the relay before is on its way still; after that, not a byte.
        assert!(holds_within(PATIENCE, || data.open() == 0), "connections to the old backend are kept");
        let sent = data.request_bytes();
        let served = calls(&west, "incr");
        wait_until(PATIENCE, || calls(&west, "incr") > served + 500);
        assert_eq!(data.request_bytes(), sent);
    });
}
