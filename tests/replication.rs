//! A master and its replicas as backends: promotion, the fence around the old master, and planned switches that lose
//! nothing. Replication is real.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Handover, LogLine, Mode, PATIENCE, RawClient, RedisServer, Relay, Value, wait_until};

const SETTINGS: &str = "health = { interval = '100ms', standby_interval = '100ms' }\nbreaker.grace = '100ms'\n";
const FAILOVER: &str = "hold = '10s'\ndrain = '2s'\nfailback_hold = '300ms'\nswitches_max = 100\n";

/// `east` is the master and the heaviest; the others are its replicas, in order of their weight.
struct Stand {
    // First to be dropped: it must not see its backends go.
    handover: Handover,
    east: RedisServer,
    replicas: Vec<RedisServer>,
}

const NAMES: [&str; 3] = ["east", "west", "north"];

fn handover(servers: &[&RedisServer], failover: &str) -> Handover {
    let mut configuration = String::from(SETTINGS);
    configuration.push_str(&format!("[failover]\n{FAILOVER}{failover}\n[group.default]\nreplication = 'one-way'\n"));
    for (index, server) in servers.iter().enumerate() {
        let (name, weight) = (NAMES[index], 3 - index);
        let url = format!("redis://{}", server.address());
        configuration.push_str(&format!("[[backend]]\nname = '{name}'\nurl = '{url}'\nweight = {weight}\n"));
    }
    let told =
        ["switched", "is unhealthy", "promot", "no backend is healthy", "can serve again", "operator", "called off"];
    told.into_iter().fold(Handover::builder(&configuration), support::HandoverBuilder::allow_warning).start()
}

fn replicas_of(east: &RedisServer, count: usize) -> Vec<RedisServer> {
    let replicas: Vec<RedisServer> =
        (0..count).map(|_| RedisServer::builder().replica_of(east.address()).start()).collect();
    for replica in &replicas {
        wait_until(PATIENCE, || info(replica, "master_link_status").as_deref() == Some("up"));
    }
    replicas
}

impl Stand {
    fn start(replicas: usize, failover: &str) -> Self {
        let east = RedisServer::start();
        let replicas = replicas_of(&east, replicas);
        let servers: Vec<&RedisServer> = [&east].into_iter().chain(&replicas).collect();
        let handover = handover(&servers, failover);
        for name in &NAMES[1..=replicas.len()] {
            knows_replica(&handover, name);
        }
        Self { handover, east, replicas }
    }

    fn console(&self) -> RawClient {
        RawClient::connect_unix(&self.handover.console_socket())
    }

    #[track_caller]
    fn expect_active(&self, backend: &str) {
        self.handover.expect_metric("handover_backend_active", &[("backend", backend)], 1.0);
    }

    fn why(&self) -> String {
        ask(&mut self.console(), "WHY")
    }

    fn lines(&self, message: &str) -> Vec<LogLine> {
        self.handover.log().into_iter().filter(|line| line.message() == message).collect()
    }

    #[track_caller]
    fn wait_for(&self, message: &str) -> LogLine {
        self.handover.wait_for_log(|line| line.message() == message, PATIENCE)
    }
}

#[track_caller]
fn knows_replica(handover: &Handover, name: &str) {
    let is_it = |line: &LogLine| line.message() == "backend is a replica" && line.field("backend") == name;
    handover.wait_for_log(is_it, PATIENCE);
}

/// A line of `INFO replication`.
fn info(server: &RedisServer, field: &str) -> Option<String> {
    let text = server.command(&["INFO", "replication"]).text();
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

fn ask(console: &mut RawClient, line: &str) -> String {
    match console.command(&line.split(' ').collect::<Vec<_>>()) {
        Value::Array(lines) => lines.iter().map(Value::text).collect::<Vec<_>>().join("\n"),
        answer => answer.text(),
    }
}

fn replicated(server: &RedisServer, key: &str, value: &str) -> bool {
    server.command(&["GET", key]) == Value::bulk(value)
}

/// A program of the operator's.
fn program(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("promote.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file in a fresh folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("one's own file");
    path
}

#[test]
fn a_killed_master_is_replaced_by_its_replica_and_not_returned_to() {
    let mut stand = Stand::start(1, "promote = 'command'");
    let mut client = stand.handover.client();
    assert_eq!(client.command(&["SET", "key", "kept"]), Value::ok());
    wait_until(PATIENCE, || replicated(&stand.replicas[0], "key", "kept"));
    stand.east.kill();
    assert_eq!(client.command(&["SET", "key", "new"]), Value::ok());
    assert_eq!(client.command(&["GET", "key"]), Value::bulk("new"));
    stand.expect_active("west");
    assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("master"));
    stand.wait_for("replica was promoted");
    assert_eq!(stand.lines("replica was promoted").len(), 1);

    // It comes back empty, as a master, and heavier.
    stand.handover.expect_warning("more than one master");
    stand.handover.allow_warning("came back with less");
    stand.east.restart();
    stand.wait_for("more than one master");
    let labels = [("backend", "east"), ("reason", "multiple_masters")];
    stand.handover.expect_metric("handover_backend_fenced", &labels, 1.0);
    stand.handover.expect_metric("handover_backend_up", &[("backend", "east")], 1.0);
    wait_until(PATIENCE, || stand.why().contains("not returned to: fenced: it is a second master"));
    std::thread::sleep(Duration::from_secs(1));
    stand.expect_active("west");
    assert!(stand.why().contains("east is fenced (multiple_masters)"), "{}", stand.why());
    assert_eq!((client.command(&["GET", "key"]), stand.lines("replica was promoted").len()), (Value::bulk("new"), 1));

    // As a replica of the active it is one that can be switched to; the operator says so.
    let west = stand.replicas[0].address();
    stand.east.command(&["REPLICAOF", "127.0.0.1", &west.port().to_string()]);
    stand.wait_for("backend may be returned to again");
    wait_until(PATIENCE, || ask(&mut stand.console(), "SWITCH east").starts_with("switched from west to east"));
    assert_eq!(client.command(&["GET", "key"]), Value::bulk("new"));
    assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("slave"), "FAILOVER has turned it around");
}

#[test]
fn nothing_is_promoted_unless_it_is_configured() {
    let mut stand = Stand::start(1, "");
    stand.handover.expect_metric("handover_backend_role", &[("backend", "west"), ("role", "slave")], 1.0);
    let why = stand.why();
    assert!(why.contains("west is a replica of east (link up") && why.contains("until somebody promotes it"), "{why}");
    // It is what it should be, and that is what is shown.
    let status = || ask(&mut stand.console(), "STATUS");
    wait_until(PATIENCE, || status().contains("\nwest is a replica of east (link up"));
    let status = status();
    assert!(status.lines().any(|line| line.contains("west") && line.contains(" replica ")), "{status}");
    assert!(!status.contains("UNHEALTHY"), "{status}");
    assert!(ask(&mut stand.console(), "SWITCH west").contains("not healthy"));
    stand.east.kill();
    wait_until(PATIENCE, || ask(&mut stand.console(), "STATUS").contains("UNHEALTHY"));
    stand.handover.expect_metric("handover_backend_up", &[("backend", "east")], 0.0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("slave"));
    stand.replicas[0].command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(stand.handover.client().command(&["INCR", "n"]), Value::Integer(1));
    stand.expect_active("west");
    assert!(stand.lines("replica is being promoted").is_empty());
}

#[test]
fn the_replica_that_has_most_is_promoted() {
    let mut stand = Stand::start(2, "promote = 'command'");
    // The heavier one loses its master, and with it what comes now.
    stand.replicas[0].command(&["REPLICAOF", "127.0.0.1", "1"]);
    wait_until(PATIENCE, || info(&stand.replicas[0], "master_link_status").as_deref() == Some("down"));
    let mut client = stand.handover.client();
    assert_eq!(client.command(&["SET", "key", "later"]), Value::ok());
    wait_until(PATIENCE, || replicated(&stand.replicas[1], "key", "later"));
    stand.east.kill();
    assert_eq!(client.command(&["GET", "key"]), Value::bulk("later"));
    stand.expect_active("north");
    assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("slave"));
}

#[test]
fn a_program_promotes_and_one_that_fails_or_hangs_is_told_of() {
    let cases = [
        // Of our variables it gets those that it needs to run, and nothing secret.
        (
            "[ -z \"$CARGO_MANIFEST_DIR\" ] && [ \"$1\" = west ] && exec redis-cli -h \"${2%:*}\" -p \"${2##*:}\" replicaof no one",
            None,
        ),
        ("exit 3", Some("ended with exit status: 3")),
        ("sleep 600 & echo $! > \"$0.pid\"; wait", Some("did not end within 400ms and was killed")),
    ];
    for (text, failure) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = program(&folder, text);
        // Only the one that hangs is to meet it: a shell may take long to start.
        let timeout = if text.starts_with("sleep") { "400ms" } else { "10s" };
        let failover = format!("promote = '{}'\npromote_timeout = '{timeout}'", path.display());
        let mut stand = Stand::start(1, &failover);
        stand.east.kill();
        match failure {
            None => assert_eq!(stand.handover.client().command(&["INCR", "n"]), Value::Integer(1), "{text}"),
            Some(failure) => {
                let line = stand.wait_for("replica was not promoted");
                assert!(line.field("cause").contains(failure), "{}", line.text);
                assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("slave"));
            }
        }
        if let Ok(child) = std::fs::read_to_string(folder.path().join("promote.sh.pid")) {
            let stat = format!("/proc/{}/stat", child.trim());
            wait_until(PATIENCE, || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
        }
    }
}

#[test]
fn two_handovers_promote_the_same_replica() {
    let mut stand = Stand::start(2, "promote = 'command'");
    let servers: Vec<&RedisServer> = [&stand.east].into_iter().chain(&stand.replicas).collect();
    let other = handover(&servers, "promote = 'command'");
    for name in ["west", "north"] {
        knows_replica(&other, name);
    }
    // From here on the master sends its replicas nothing of its own; both know what each of them has.
    assert_eq!(stand.east.command(&["CONFIG", "SET", "repl-ping-replica-period", "3600"]), Value::ok());
    wait_until(PATIENCE, || {
        let [west, north] = [0, 1].map(|replica| info(&stand.replicas[replica], "slave_repl_offset"));
        west.is_some() && west == north && west == info(&stand.east, "master_repl_offset")
    });
    for (handover, name) in [&stand.handover, &other].into_iter().flat_map(|it| [(it, "west"), (it, "north")]) {
        let rounds = || handover.metric("handover_backend_health_checks_total", &[("backend", name)]);
        let before = rounds();
        wait_until(PATIENCE, || rounds() >= before + 2.0);
    }
    let (mut one, mut two) = (stand.handover.client(), other.client());
    stand.east.kill();
    one.send_command(&["INCR", "n"]);
    two.send_command(&["INCR", "n"]);
    let mut replies = [one.read_reply().integer(), two.read_reply().integer()];
    replies.sort_unstable();
    assert_eq!(replies, [1, 2], "both count on one server");
    assert_eq!(info(&stand.replicas[1], "role").as_deref(), Some("slave"));
    stand.expect_active("west");
    other.expect_metric("handover_backend_active", &[("backend", "west")], 1.0);
}

/// Counts until it is told to stop; returns what was acknowledged last.
fn count(mut client: RawClient, stop: &AtomicBool) -> i64 {
    let mut last = 0;
    while !stop.load(Ordering::SeqCst) {
        let reply = client.command(&["INCR", "n"]);
        assert_eq!(reply, Value::Integer(last + 1), "a planned switch loses and repeats nothing");
        last += 1;
    }
    last
}

#[test]
fn a_planned_switch_hands_the_master_over_and_back_without_a_lost_write() {
    let stand = Stand::start(1, "promote = 'command'");
    let stop = Arc::new(AtomicBool::new(false));
    let (client, told) = (stand.handover.client(), Arc::clone(&stop));
    let counting = std::thread::spawn(move || count(client, &told));
    for (to, from) in [("west", "east"), ("east", "west")] {
        // The one that was demoted copies first.
        let switched = format!("switched from {from} to {to} in ");
        wait_until(PATIENCE, || ask(&mut stand.console(), &format!("SWITCH {to}")).starts_with(&switched));
        stand.expect_active(to);
    }
    stop.store(true, Ordering::SeqCst);
    let last = counting.join().expect("no error while counting");
    assert!(last > 0);
    assert_eq!(stand.east.command(&["GET", "n"]), Value::bulk(last.to_string()));
    wait_until(PATIENCE, || replicated(&stand.replicas[0], "n", &last.to_string()));
    assert_eq!(info(&stand.replicas[0], "role").as_deref(), Some("slave"));
    assert!(stand.lines("more than one master").is_empty());
}

/// The replica takes writes, so it is healthy; its way to the master runs through a relay.
#[test]
fn a_planned_switch_waits_for_the_replica_or_is_called_off() {
    let east = RedisServer::start();
    let relay = Relay::start(east.address());
    let west = RedisServer::builder().replica_of(relay.address()).directive("replica-read-only no").start();
    wait_until(PATIENCE, || info(&west, "master_link_status").as_deref() == Some("up"));
    // Whichever answers first: the replica could be chosen, too.
    let handover = handover(&[&east, &west], "initial = 'all'");
    handover.allow_warning("more than one master");
    knows_replica(&handover, "west");
    let stand = Stand { handover, east, replicas: vec![west] };
    let (mut client, mut console) = (stand.handover.client(), stand.console());
    relay.set_mode(Mode::HoldReplies);
    assert_eq!(client.command(&["SET", "key", "acknowledged"]), Value::ok());
    let answer = ask(&mut console, "SWITCH west");
    assert!(answer.contains("the replica did not catch up within the drain time"), "{answer}");
    assert_eq!(client.command(&["SET", "key", "more"]), Value::ok());
    stand.expect_active("east");

    console.send_command(&["SWITCH", "west"]);
    stand.handover.wait_for_log(|line| line.message() == "operator", PATIENCE);
    client.send_command(&["GET", "key"]);
    relay.set_mode(Mode::Pass);
    assert!(console.read_reply().text().starts_with("switched from east to west"));
    assert_eq!(client.read_reply(), Value::bulk("more"));
    stand.expect_active("west");
}

#[test]
fn a_server_that_may_not_tell_is_warned_of_and_served() {
    let east = RedisServer::builder().user("default on nopass ~* &* +@all -info").start();
    let handover = handover(&[&east], "");
    handover.allow_warning("has only one");
    handover.expect_warning("does not say what it replicates");
    handover.wait_for_log(|line| line.message() == "backend does not say what it replicates", PATIENCE);
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
}
