//! Backends that join and leave while clients are served: by the console, and by a reload.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Handover, HandoverBuilder, Mode, PATIENCE, RawClient, RedisServer, Relay, Signal, Value, wait_until};

/// A planned switch is called off if its target does not answer in time, or what is in flight: there is time.
const SETTINGS: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n\
    health.timeout = '2s'\nfailover.hold = '6s'\nfailover.drain = '5s'\nfailover.failback = 'manual'\n";
/// What operators and faults of these tests put into the log.
const TOLD: [&str; 10] = [
    "switched",
    "operator",
    "backend is unhealthy",
    "backend added",
    "backend removed",
    "backend replaced",
    "called off",
    "nothing to hand over to",
    "no backend is healthy",
    "can serve again",
];

struct Stand {
    // First to be dropped: it must not see its backends go.
    handover: Handover,
    console: RawClient,
}

fn table(name: &str, server: &RedisServer, rest: &str) -> String {
    format!("{{ name = '{name}', url = 'redis://{}'{rest} }}", server.address())
}

fn builder(backends: &[String], settings: &str) -> HandoverBuilder {
    let configuration = format!("backend = [{}]\n{SETTINGS}{settings}", backends.join(", "));
    TOLD.into_iter().fold(Handover::builder(&configuration), HandoverBuilder::allow_warning)
}

impl Stand {
    fn start(backends: &[String], settings: &str) -> Self {
        Self::on(builder(backends, settings).start())
    }

    fn on(handover: Handover) -> Self {
        let console = RawClient::connect_unix(&handover.console_socket());
        Self { handover, console }
    }

    fn order(&mut self, line: &str) -> Value {
        self.console.command(&line.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn done(&mut self, line: &str) -> String {
        let answer = self.order(line);
        assert!(!matches!(answer, Value::Error(_)), "{line}: {answer:?}");
        answer.text()
    }

    #[track_caller]
    fn refused(&mut self, line: &str) -> String {
        let answer = self.order(line);
        assert!(answer.is_error("ERR"), "{line}: {answer:?}");
        answer.text()
    }

    #[track_caller]
    fn add(&mut self, name: &str, server: &RedisServer) {
        self.done(&format!("ADD {name} redis://{}", server.address()));
    }

    #[track_caller]
    fn expect_active(&self, backend: &str) {
        self.handover.expect_metric("handover_backend_active", &[("backend", backend)], 1.0);
    }

    #[track_caller]
    fn expect_healthy(&self, backend: &str) {
        self.handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
    }

    fn group(&self) -> serde_json::Value {
        let status: serde_json::Value =
            serde_json::from_str(&self.handover.http_get("/status").body).expect("the status is JSON");
        status["groups"][0].clone()
    }

    /// The backends' names, in the order of the status.
    fn names(&self) -> Vec<String> {
        let group = self.group();
        let backends = group["backends"].as_array().expect("backends").iter();
        backends.map(|backend| backend["name"].as_str().expect("a name").to_owned()).collect()
    }

    #[track_caller]
    fn reload(&mut self, change: impl FnOnce(String) -> String) {
        let path = self.handover.configuration_file();
        let text = std::fs::read_to_string(&path).expect("its file");
        std::fs::write(&path, change(text)).expect("ours");
        let before = self.reloads();
        self.handover.signal(Signal::HUP);
        wait_until(PATIENCE, || self.reloads() > before);
    }

    fn reloads(&self) -> usize {
        self.handover.log().iter().filter(|line| line.message().contains("reloaded")).count()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.handover.pid())).map_or(0, Iterator::count)
    }
}

/// Clients that count without a pause, each in a key of its own, and what they were told.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<(String, i64)>>,
}

impl Load {
    fn start(handover: &Handover, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |index: usize| {
            let (mut client, stop) = (handover.client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (key, mut told) = (format!("load:{index}"), 0);
                while !stop.load(Ordering::SeqCst) {
                    match client.command(&["INCR", &key]) {
                        Value::Integer(_) => told += 1,
                        other => panic!("{key} after {told}: {other:?}"),
                    }
                }
                (key, told)
            })
        };
        let threads = (0..clients).map(client).collect();
        Self { stop, threads }
    }

    /// What was acknowledged, by key.
    fn finish(self) -> BTreeMap<String, i64> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().map(|thread| thread.join().expect("no client sees an error")).collect()
    }
}

/// What servers that know nothing of each other have counted together.
fn applied(key: &str, servers: &[&RedisServer]) -> i64 {
    let count = |server: &&RedisServer| match server.command(&["GET", key]) {
        Value::Null => 0,
        value => value.text().parse::<i64>().expect("a count"),
    };
    servers.iter().map(count).sum()
}

#[track_caller]
fn expect_applied(told: &BTreeMap<String, i64>, servers: &[&RedisServer]) {
    for (key, told) in told {
        assert!(*told > 0, "{key} was idle");
        assert_eq!(applied(key, servers), *told, "{key}");
    }
}

#[test]
fn who_is_added_takes_over_when_the_others_die() {
    let (mut east, mut west, north) = (RedisServer::start(), RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, ", weight = 2.0"), table("west", &west, "")], "");
    let answer = stand.done(&format!("ADD north redis://{} WEIGHT 0.5", north.address()));
    assert_eq!(answer, format!("add north at {} with the weight 0.5", north.address()));
    assert_eq!(stand.names(), ["east", "west", "north"]);
    stand.expect_healthy("north");
    let mut client = stand.handover.client();
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));
    east.kill();
    stand.expect_active("west");
    west.kill();
    stand.expect_active("north");
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));
    let audit = stand.handover.wait_for_log(|line| line.message() == "operator", PATIENCE);
    let (by, order) = (audit.field("by"), audit.field("order"));
    assert!(by.starts_with("console uid ") && order == answer, "{by}: {order}");
}

#[test]
fn who_is_added_while_all_are_down_serves() {
    let (mut east, north) = (RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, "")], "");
    east.kill();
    stand.handover.expect_metric("handover_backend_up", &[("backend", "east")], 0.0);
    stand.add("north", &north);
    stand.expect_active("north");
    assert_eq!(stand.handover.client().command(&["INCR", "n"]), Value::Integer(1));
}

#[test]
fn the_active_is_removed_under_load_and_nobody_notices() {
    for workers in [1, 2] {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let backends = [table("east", &east, ", weight = 2.0"), table("west", &west, "")];
        let mut stand = Stand::start(&backends, &format!("runtime.workers = {workers}\n"));
        stand.expect_healthy("west");
        let load = Load::start(&stand.handover, 20);
        wait_until(PATIENCE, || applied("load:19", &[&east]) > 10);
        assert_eq!(stand.done("REMOVE east"), "east was removed");
        stand.expect_active("west");
        assert_eq!(stand.names(), ["west"]);
        wait_until(PATIENCE, || applied("load:19", &[&west]) > 10);
        expect_applied(&load.finish(), &[&east, &west]);
        // No series of it is left, and no connection.
        assert!(!stand.handover.http_get("/metrics").body.contains("backend=\"east\""));
        wait_until(PATIENCE, || east.command(&["CLIENT", "LIST"]).text().lines().count() == 1);
        let refused = stand.refused("REMOVE west");
        assert!(refused.contains("the last of its group"), "{refused}");
    }
}

#[test]
fn a_healthy_active_is_left_for_nobody_only_by_force() {
    let (east, mut west) = (RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, ", weight = 2.0"), table("west", &west, "")], "");
    west.kill();
    stand.handover.expect_metric("handover_backend_up", &[("backend", "west")], 0.0);
    let refused = stand.refused("REMOVE east");
    assert!(refused.contains("no other backend is healthy"), "{refused}");
    stand.expect_active("east");
    assert_eq!(stand.done("REMOVE east FORCE"), "east was removed");
    assert_eq!(stand.names(), ["west"]);
    west.restart();
    stand.expect_healthy("west");
    assert_eq!(stand.handover.client().command(&["INCR", "n"]), Value::Integer(1));
}

#[test]
fn the_target_of_a_switch_that_is_under_way_can_be_removed() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let data = Relay::start(east.address());
    let through = format!(
        "{{ name = 'east', url = 'redis://{}', health_check_url = 'redis://{}', weight = 2.0 }}",
        data.address(),
        east.address()
    );
    // Nobody is called silent.
    let patient = "detector.hang_timeout = '30s'\ndetector.slow_timeout = '30s'\n\
        retry.deadline = '1m'\n";
    let mut stand = Stand::start(&[through, table("west", &west, "")], patient);
    stand.expect_healthy("west");
    // A command that is not answered keeps the switch waiting.
    let mut busy = stand.handover.client();
    assert_eq!(busy.command(&["INCR", "busy"]), Value::Integer(1));
    data.set_mode(Mode::HoldReplies);
    busy.send_command(&["INCR", "busy"]);
    wait_until(PATIENCE, || applied("busy", &[&east]) == 2);
    let mut other = RawClient::connect_unix(&stand.handover.console_socket());
    other.send_command(&["SWITCH", "west"]);
    wait_until(PATIENCE, || stand.group()["switching_to"] == "west");
    assert_eq!(stand.done("REMOVE west"), "west was removed");
    let answer = other.read_reply();
    assert!(answer.is_error("ERR"), "{answer:?}");
    data.set_mode(Mode::Pass);
    assert_eq!(busy.read_reply(), Value::Integer(2));
    assert_eq!(stand.names(), ["east"]);
    stand.expect_active("east");
    assert_eq!(stand.handover.client().command(&["INCR", "n"]), Value::Integer(1));
}

#[test]
fn subscribers_and_blocked_clients_outlive_their_backend() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, ", weight = 2.0"), table("west", &west, "")], "");
    stand.expect_healthy("west");
    let (mut subscriber, mut blocked, mut client) =
        (stand.handover.client(), stand.handover.client(), stand.handover.client());
    assert_eq!(subscriber.command(&["SUBSCRIBE", "news"]).elements().len(), 3);
    blocked.send_command(&["BLPOP", "list", "0"]);
    wait_until(PATIENCE, || east.command(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    assert_eq!(stand.done("REMOVE east"), "east was removed");
    wait_until(PATIENCE, || client.command(&["PUBLISH", "news", "hello"]) == Value::Integer(1));
    assert_eq!(subscriber.read_reply().elements().last(), Some(&Value::bulk("hello")));
    wait_until(PATIENCE, || west.command(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    assert_eq!(client.command(&["RPUSH", "list", "x"]), Value::Integer(1));
    assert_eq!(blocked.read_reply().elements().last(), Some(&Value::bulk("x")));
    wait_until(PATIENCE, || east.command(&["CLIENT", "LIST"]).text().lines().count() == 1);
}

#[test]
fn what_the_file_refuses_the_console_refuses_in_the_same_words() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, ""), table("west", &west, "")], "");
    for (line, told) in [
        ("ADD east redis://127.0.0.1:1", "name = \"east\": is the name of a backend of group default already"),
        ("ADD a/b redis://h", "name = \"a/b\": must be made of letters, digits, -, _ and ."),
        ("ADD new http://h", "url = \"http://h\": must begin with redis://, rediss:// or unix://"),
        ("ADD new redis://u:sesame@h:0", "url = \"redis://***@h:0\": the port must be between 1 and 65535"),
        ("ADD new redis://h WEIGHT 0", "wrong weight '0': a weight is a number above zero"),
        ("ADD new redis://h PASSWORD_FILE /nonexistent", "password_file = \"/nonexistent\": cannot be read"),
        ("ADD new redis://h:1/5", "its URL names the database 5 and those of its group 0: that takes a restart"),
        ("REMOVE north", "no backend 'north' in group default; there is east, west"),
    ] {
        let refused = stand.refused(line);
        assert!(refused.contains(told), "{line}: {refused}");
    }
    assert_eq!(stand.names(), ["east", "west"]);
    let answer = stand.done("ADD new redis://u:sesame@127.0.0.1:1");
    assert!(answer.contains("it is gone after a restart") && !answer.contains("sesame"), "{answer}");
    assert_eq!(stand.done("REMOVE new"), "new was removed");
    assert!(stand.handover.log().iter().all(|line| !line.text.contains("sesame")));
}

#[test]
fn two_hundred_changes_under_load_leave_nothing_behind() {
    const CHANGES: usize = 200;
    const AT_MOST: Duration = Duration::from_secs(60);
    let seed = 4;
    let servers: Vec<RedisServer> = (0..4).map(|_| RedisServer::start()).collect();
    let backends = [table("b0", &servers[0], "")];
    let mut stand = Stand::start(&backends, "runtime.workers = 2\nfailover.switches_max = 1000\n");
    let mut random = fastrand::Rng::with_seed(seed);
    stand.handover.client().command(&["PING"]);
    let before = stand.descriptors();
    let load = Load::start(&stand.handover, 8);
    let began = Instant::now();
    // A name is one server's at any time.
    let mut members = vec![0];
    for change in 0..CHANGES {
        let name = random.usize(0..servers.len());
        let outcome = if members.contains(&name) {
            stand.order(&format!("REMOVE b{name}"))
        } else {
            stand.order(&format!("ADD b{name} redis://{}", servers[name].address()))
        };
        let is_fair = match (&outcome, members.contains(&name)) {
            (Value::Error(text), true) => {
                text.contains("the last of its group") && members.len() == 1
                    || text.contains("no other backend is healthy")
            }
            (Value::Simple(_), true) => {
                members.retain(|member| *member != name);
                true
            }
            (Value::Simple(_), false) => {
                members.push(name);
                true
            }
            _ => false,
        };
        assert!(is_fair, "change {change} of seed {seed}, {members:?}: {outcome:?}");
        if began.elapsed() > AT_MOST {
            println!("the machine is busy: {change} changes were made");
            break;
        }
    }
    let servers: Vec<&RedisServer> = servers.iter().collect();
    expect_applied(&load.finish(), &servers);
    while members.len() > 1 {
        let name = members.pop().expect("more than one");
        if matches!(stand.order(&format!("REMOVE b{name}")), Value::Error(_)) {
            members.insert(0, name);
        }
    }
    wait_until(PATIENCE, || stand.descriptors() <= before + 2);
}

#[test]
fn a_name_that_was_removed_can_be_another_server() {
    let (east, west, other) = (RedisServer::start(), RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, ", weight = 2.0"), table("west", &west, "")], "");
    stand.expect_healthy("west");
    assert_eq!(stand.handover.client().command(&["SET", "who", "east"]), Value::Simple("OK".into()));
    assert_eq!(stand.done("REMOVE east"), "east was removed");
    stand.add("east", &other);
    assert_eq!(stand.names(), ["west", "east"]);
    stand.expect_healthy("east");
    assert!(stand.done("SWITCH east").starts_with("switched from west to east"));
    assert_eq!(stand.handover.client().command(&["GET", "who"]), Value::Null);
    assert_eq!(applied("n", &[&east]), 0);
}

#[test]
fn a_reload_that_removes_the_active_drains_to_the_new_one() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let backends = [table("east", &east, ", weight = 2.0"), table("west", &west, "")];
    let mut stand = Stand::start(&backends, "");
    stand.expect_healthy("west");
    let load = Load::start(&stand.handover, 20);
    wait_until(PATIENCE, || applied("load:19", &[&east]) > 10);
    // A broken file changes nothing.
    stand.handover.expect_warning("was not reloaded");
    let path = stand.handover.configuration_file();
    let good = std::fs::read_to_string(&path).unwrap();
    stand.reload(|text| text.replace("name = \"east\"", "nmae = \"east\""));
    assert_eq!(stand.names(), ["east", "west"]);
    stand.reload(|_| {
        let mut table: toml::Table = good.parse().unwrap();
        table["backend"].as_array_mut().unwrap().remove(0);
        toml::to_string(&table).unwrap()
    });
    stand.expect_active("west");
    wait_until(PATIENCE, || stand.names() == ["west"]);
    wait_until(PATIENCE, || applied("load:19", &[&west]) > 10);
    expect_applied(&load.finish(), &[&east, &west]);
    // It comes back by the rules: with `failback = "manual"` it waits.
    stand.reload(|_| good);
    stand.expect_healthy("east");
    assert_eq!(stand.names(), ["west", "east"]);
    stand.expect_active("west");
}

#[test]
fn a_reload_changes_the_address_of_the_only_backend() {
    let (east, other) = (RedisServer::start(), RedisServer::start());
    let mut stand = Stand::start(&[table("east", &east, "")], "");
    let load = Load::start(&stand.handover, 8);
    wait_until(PATIENCE, || applied("load:7", &[&east]) > 10);
    let address = |port: &RedisServer| format!("redis://{}", port.address());
    // A wrong address moves nobody.
    stand.reload(|text| text.replace(&address(&east), "redis://127.0.0.1:1"));
    assert_eq!(stand.names(), ["east"]);
    stand.expect_active("east");
    let went = applied("load:7", &[&east]);
    wait_until(PATIENCE, || applied("load:7", &[&east]) > went + 10);
    stand.reload(|text| text.replace("redis://127.0.0.1:1", &address(&other)));
    wait_until(PATIENCE, || applied("load:7", &[&other]) > 10);
    wait_until(PATIENCE, || stand.names() == ["east"]);
    stand.expect_active("east");
    expect_applied(&load.finish(), &[&east, &other]);
    stand.handover.wait_for_log(|line| line.message() == "backend replaced", PATIENCE);
    wait_until(PATIENCE, || east.command(&["CLIENT", "LIST"]).text().lines().count() == 1);
}

#[test]
fn a_reload_changes_settings_at_once() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let backends = [table("east", &east, ", weight = 2.0"), table("west", &west, "")];
    let mut stand = Stand::start(&backends, "failover.failback_hold = '1h'\n");
    stand.expect_healthy("west");
    assert!(stand.done("SWITCH west").contains("to west"));
    stand.reload(|text| text.replace("failback = \"manual\"", "failback = \"auto\"").replace("\"1h\"", "\"100ms\""));
    stand.expect_active("east");
    // Checks once an hour: nobody sees that the idle one is gone.
    stand.reload(|text| text.replace("standby_interval = \"100ms\"", "standby_interval = \"1h\""));
    assert!(stand.handover.log().iter().all(|line| line.message() != "needs a restart"));
}

#[test]
fn what_was_changed_at_run_time_survives_a_restart_until_the_file_speaks() {
    let (east, west, north) = (RedisServer::start(), RedisServer::start(), RedisServer::start());
    let folder = tempfile::tempdir().unwrap();
    let state = format!("failover.state_file = '{}'\n", folder.path().join("state.json").display());
    let start = |east_weight: f64| {
        let backends = [table("east", &east, &format!(", weight = {east_weight:?}")), table("west", &west, "")];
        let told = ["set at run time", "removed at run time", "added at run time"];
        let builder = builder(&backends, &state);
        Stand::on(told.into_iter().fold(builder, HandoverBuilder::allow_warning).start())
    };
    let mut stand = start(2.0);
    stand.expect_healthy("west");
    stand.done("WEIGHT east 7");
    stand.add("north", &north);
    assert_eq!(stand.done("REMOVE west"), "west was removed");
    wait_until(PATIENCE, || {
        let text = std::fs::read_to_string(folder.path().join("state.json")).unwrap_or_default();
        text.contains("\"north\"") && text.contains("\"removed\": [\n") && text.contains("7.0")
    });
    assert_eq!(stand.handover.finish(), 0);
    let stand = start(2.0);
    assert_eq!(stand.names(), ["east", "north"]);
    stand.handover.expect_metric("handover_backend_weight", &[("backend", "east")], 7.0);
    assert_eq!(stand.handover.finish(), 0);
    let stand = start(3.0);
    stand.handover.expect_metric("handover_backend_weight", &[("backend", "east")], 3.0);
    assert_eq!(stand.names(), ["east", "north"]);
}

#[test]
fn one_backend_bounds_its_connections() {
    let east = RedisServer::start();
    let backends = [table("east", &east, ", connections_max = 3")];
    let stand = Stand::start(&backends, "limits.pin_wait = '200ms'\n");
    let client = || stand.handover.client();
    let mut pinned: Vec<RawClient> = (0..2).map(|_| client()).collect();
    for client in &mut pinned {
        assert_eq!(client.command(&["WATCH", "key"]), Value::Simple("OK".into()));
    }
    for refused in [&["WATCH", "key"], &["SUBSCRIBE", "news"]] {
        let answer = client().command(refused);
        assert!(answer.is_error("ERR") && answer.text().contains("no connection of its own is free"), "{answer:?}");
    }
    assert_eq!(client().command(&["INCR", "n"]), Value::Integer(1), "lanes are not bounded");
    let is_bounded = |list: Value| list.text().lines().count() <= 3 + 2;
    assert!(is_bounded(east.command(&["CLIENT", "LIST"])), "3, the probe's, and ours");
    // Whoever leaves makes room.
    drop(pinned);
    wait_until(PATIENCE, || matches!(client().command(&["SUBSCRIBE", "news"]), Value::Array(_)));
}
