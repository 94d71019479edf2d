//! The operator's console, with redis-cli and by hand: what it shows, what it changes, and what clients see of that.

mod support;

use std::process::Command;

use support::{Handover, PATIENCE, RawClient, RedisServer, Value, wait_until};

/// A planned switch is called off if its target does not answer in time, or what is in flight: there is time.
const SETTINGS: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n\
    health.timeout = '2s'\nfailover.hold = '6s'\nfailover.drain = '5s'\nfailover.failback = 'manual'\n";

struct Stand {
    // First to be dropped: it must not see its backends go.
    handover: Handover,
    west: RedisServer,
    _east: RedisServer,
}

impl Stand {
    fn start() -> Self {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let backends = format!(
            "backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n",
            east.address(),
            west.address()
        );
        let told = ["switched", "operator", "backend is unhealthy", "held", "ban", "called off"];
        let builder = Handover::builder(&format!("{backends}{SETTINGS}"));
        let handover = told.into_iter().fold(builder, support::HandoverBuilder::allow_warning).start();
        let stand = Self { handover, west, _east: east };
        for backend in ["east", "west"] {
            stand.handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
        }
        stand
    }

    fn console(&self) -> RawClient {
        RawClient::connect_unix(&self.handover.console_socket())
    }

    #[track_caller]
    fn expect_active(&self, backend: &str) {
        self.handover.expect_metric("handover_backend_active", &[("backend", backend)], 1.0);
    }
}

fn lines(answer: &Value) -> Vec<String> {
    match answer {
        Value::Array(lines) => lines.iter().map(Value::text).collect(),
        other => panic!("not lines: {other:?}"),
    }
}

#[track_caller]
fn ask(console: &mut RawClient, line: &str) -> Vec<String> {
    lines(&console.command(&line.split(' ').collect::<Vec<_>>()))
}

/// As in [`ask`], for what is refused or done.
fn order(console: &mut RawClient, line: &str) -> Value {
    console.command(&line.split(' ').collect::<Vec<_>>())
}

/// A web page can make the operator's browser send these to the console.
#[test]
fn a_browser_gives_no_orders() {
    let stand = Stand::start();
    for request in [
        "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nWEIGHT west 9\r\n",
        "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nWEIGHT west 9\r\n",
        "Host: 127.0.0.1\r\n\r\nWEIGHT west 9\r\n",
    ] {
        let mut browser = stand.console();
        browser.send(request.as_bytes());
        browser.expect_end();
    }
    stand.handover.expect_warning("speaks HTTP to the console");
    let shown = ask(&mut stand.console(), "SHOW west");
    assert!(shown[0].starts_with("west: weight 1,"), "{shown:?}");
}

#[test]
fn an_operator_switches_there_and_back_and_no_client_sees_an_error() {
    let stand = Stand::start();
    let (mut console, mut client) = (stand.console(), stand.handover.client());
    for (to, total) in [("west", 1), ("east", 1), ("west", 2)] {
        let answer = order(&mut console, &format!("SWITCH {to}"));
        assert!(answer.text().starts_with("switched from ") && answer.text().contains(&format!(" to {to} in ")));
        stand.expect_active(to);
        assert_eq!(client.command(&["INCR", "n"]), Value::Integer(total));
        assert!(order(&mut console, &format!("SWITCH {to}")).is_error("ERR"), "it is the active already");
    }
    let events = ask(&mut console, "EVENTS 2");
    assert_eq!(events.len(), 2);
    assert!(events[1].contains("switched from east to west"), "{events:?}");
    // With `failback = "manual"` nobody but the operator returns.
    let why = ask(&mut console, "WHY").join("\n");
    assert!(why.contains("west is active since") && why.contains("came by: operator"), "{why}");
    assert!(why.contains("east (weight 2) is heavier, but not returned to: failback is manual"), "{why}");
}

#[test]
fn an_unhealthy_backend_is_taken_by_force_alone() {
    let mut stand = Stand::start();
    let mut console = stand.console();
    stand.west.kill();
    stand.handover.expect_metric("handover_backend_up", &[("backend", "west")], 0.0);
    let refused = order(&mut console, "SWITCH west");
    assert!(refused.is_error("ERR") && refused.text().contains("not healthy"), "{refused:?}");
    stand.expect_active("east");
    stand.west.restart();
    let answer = order(&mut console, "SWITCH west FORCE");
    assert!(answer.text().starts_with("switched from east to west"), "{answer:?}");
    stand.expect_active("west");
}

#[test]
fn a_stay_holds_until_the_backend_dies() {
    let mut stand = Stand::start();
    let mut console = stand.console();
    assert!(order(&mut console, "STAY west FOR 10m").text().starts_with("switched from east to west"));
    let why = ask(&mut console, "WHY").join("\n");
    assert!(why.contains("an operator holds it there for 9 m "), "{why}");
    stand.west.kill();
    stand.expect_active("east");
    let why = ask(&mut console, "WHY").join("\n");
    assert!(!why.contains("holds it there"), "{why}");
    assert!(order(&mut console, "STAY END").is_error("ERR"));
}

#[test]
fn a_ban_and_a_weight_change_what_would_be_next() {
    let stand = Stand::start();
    let mut console = stand.console();
    assert_eq!(order(&mut console, "BAN west FOR 1h").text(), "ban west for 3600s");
    wait_until(PATIENCE, || ask(&mut console, "WHY").contains(&"no other backend could take over".to_owned()));
    assert!(order(&mut console, "SWITCH west").text().contains("banned"));
    assert!(order(&mut console, "BAN east FOR 1h").text().contains("it is the active"));
    assert!(ask(&mut console, "SHOW west").iter().any(|line| line.starts_with("banned for 59 m")));
    assert_eq!(order(&mut console, "UNBAN west").text(), "end the ban of west");
    wait_until(PATIENCE, || ask(&mut console, "WHY").contains(&"west would be next".to_owned()));
    assert_eq!(order(&mut console, "WEIGHT west 7").text(), "set the weight of west to 7");
    stand.handover.expect_metric("handover_backend_weight", &[("backend", "west")], 7.0);
    let audit = stand.handover.wait_for_log(|line| line.message() == "operator", PATIENCE);
    assert!(audit.field("by").starts_with("console uid "), "{audit:?}");
    let fields = ["order", "old", "new", "audit"].map(|field| audit.field(field));
    assert_eq!(fields, ["ban west for 3600s", "not banned", "banned", "true"]);
}

#[test]
fn redis_cli_is_at_home_there() {
    let stand = Stand::start();
    let socket = stand.handover.console_socket();
    let cli = |arguments: &[&str]| {
        let output = Command::new("redis-cli").arg("-s").arg(&socket).args(arguments).output().expect("redis-cli");
        String::from_utf8(output.stdout).expect("text")
    };
    for version in ["-2", "-3"] {
        let status = cli(&[version, "STATUS"]);
        assert!(status.contains("ready") && status.contains("* ") && status.contains("west"), "{status}");
    }
    assert_eq!(cli(&["PING"]), "PONG\n");
    let help = cli(&["COMMANDS"]);
    for command in ["STATUS", "WHY", "EVENTS", "EXPLAIN", "SWITCH", "STAY", "BAN", "WEIGHT"] {
        assert!(help.contains(command), "{help}");
    }
    assert!(cli(&["EXPLAIN", "INCR", "n"]).contains("-UNCERTAIN"));
    assert!(cli(&["NOSUCH"]).contains("HELP lists what there is"));
    assert!(cli(&["SHOW", "north"]).contains("there is east, west"));
    assert!(cli(&["SHOW", "east"]).contains("good"));
}

#[test]
fn nobody_hostile_harms_the_console() {
    let stand = Stand::start();
    let mut hostile: Vec<RawClient> = (0..40).map(|_| stand.console()).collect();
    for client in hostile.iter_mut().take(10) {
        client.send(b"*1000000\r\n$99999999\r\n");
    }
    drop(hostile);
    let mut words = vec!["EXPLAIN".to_owned()];
    words.extend((0..1000).map(|_| "\u{1b}[31mx".repeat(50)));
    wait_until(PATIENCE, || {
        let mut console = stand.console();
        console.send(support::encode(&["PING"]));
        console.read_reply_or_closed() == Some(Value::Simple("PONG".into()))
    });
    let answer = stand.console().command(&words);
    assert!(lines(&answer).iter().all(|line| !line.contains('\u{1b}')));
    assert_eq!(stand.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
}

/// With `initial = "all"` a backend that is down at the start would keep everybody waiting.
#[test]
fn an_operator_begins_where_the_start_waits_for_more_backends() {
    let east = RedisServer::start();
    let backends = format!(
        "backend = [{{ name = 'east', url = 'redis://{}' }}, {{ name = 'west', url = 'redis://127.0.0.1:1' }}]\n",
        east.address()
    );
    let builder = Handover::builder(&format!("{backends}{SETTINGS}")).allow_warning("backend is unhealthy");
    let handover = builder.allow_warning("switched").allow_warning("operator").without_waiting_for_serving().start();
    handover.expect_metric("handover_backend_up", &[("backend", "east")], 1.0);
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let refused = order(&mut console, "SWITCH east");
    assert!(refused.is_error("ERR") && refused.text().contains("FORCE"), "{refused:?}");
    let answer = order(&mut console, "SWITCH east FORCE");
    assert!(answer.text().starts_with("switched from none to east"), "{answer:?}");
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
}
