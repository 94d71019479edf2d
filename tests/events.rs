//! Events on every way out: what comes, in which order, what a slow or broken way costs, and what it never costs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use support::{
    Authority, Eavesdropper, Handover, PATIENCE, Pair, Process, RawClient, ReservedPort, Value, holds_within,
    wait_until,
};

/// The kinds of a failover, in the order in which they come.
const FAILOVER: [&str; 3] = ["backend_health", "breaker", "active_changed"];

fn parse(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn kind(record: &Json) -> &str {
    record["kind"].as_str().expect("a kind")
}

fn id(record: &Json) -> u64 {
    record["id"].as_u64().expect("a number")
}

/// The records of a failover: those of east's fault, and the switch.
fn of_failover(records: &[Json]) -> Vec<Json> {
    let is_start = |record: &Json| record["reason"] == "start" || record["state"] == "healthy";
    records.iter().filter(|record| FAILOVER.contains(&kind(record)) && !is_start(record)).cloned().collect()
}

/// A stream of server-sent events, read by a thread.
struct Stream {
    events: Arc<Mutex<Vec<(String, String, Json)>>>,
}

impl Stream {
    fn open(handover: &Handover, path: &str, last: Option<u64>) -> Self {
        let mut socket = TcpStream::connect(handover.http_address()).expect("the admin port");
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{last}\r\n").expect("a request");
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("a head"), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200") && head.contains("content-type: text/event-stream"), "{head}");
        let events: Arc<Mutex<Vec<_>>> = Arc::default();
        let into = events.clone();
        std::thread::spawn(move || {
            let (mut id, mut event) = (String::new(), String::new());
            for line in reader.lines().map_while(Result::ok) {
                match line.split_once(": ") {
                    Some(("id", value)) => id = value.to_owned(),
                    Some(("event", value)) => event = value.to_owned(),
                    Some(("data", value)) => into.lock().unwrap().push((id.clone(), event.clone(), parse(value))),
                    _ => {}
                }
            }
        });
        Self { events }
    }

    fn records(&self) -> Vec<Json> {
        let events = self.events.lock().unwrap();
        for (id_line, event, record) in events.iter() {
            assert_eq!((id_line, event.as_str()), (&id(record).to_string(), kind(record)));
        }
        events.iter().map(|(_, _, record)| record.clone()).collect()
    }
}

/// Takes requests on a thread, and answers each with the status of the moment; 0 is no answer.
struct Receiver {
    status: Arc<AtomicU16>,
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Receiver {
    fn start(address: SocketAddr, status: u16) -> Self {
        let listener = TcpListener::bind(address).expect("a reserved port");
        let (status, requests): (Arc<AtomicU16>, Arc<Mutex<Vec<_>>>) = (Arc::new(status.into()), Arc::default());
        let (answer, into) = (status.clone(), requests.clone());
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for socket in listener.incoming().flatten() {
                let mut reader = BufReader::new(socket);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|bytes| bytes > 0) {}
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                let mut body = vec![0; length.unwrap_or(0)];
                reader.read_exact(&mut body).expect("a whole body");
                let body = String::from_utf8(body).expect("JSON");
                let mut socket = reader.into_inner();
                let status = answer.load(Ordering::SeqCst);
                into.lock().unwrap().push((head, body));
                if status == 0 {
                    hanging.push(socket);
                } else {
                    let _ = write!(socket, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: /other\r\n\r\n");
                }
            }
        });
        Self { status, requests }
    }

    fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().unwrap().clone()
    }

    fn records(&self) -> Vec<Json> {
        self.requests().iter().map(|(_, body)| parse(body)).collect()
    }
}

fn subscribe(handover: &Handover, channel: &str) -> RawClient {
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let confirmation = console.command(&["SUBSCRIBE", channel]);
    assert_eq!(confirmation, Value::Array(vec![Value::bulk("subscribe"), Value::bulk(channel), Value::Integer(1)]));
    console
}

fn message(console: &mut RawClient, channel: &str) -> Json {
    let message = console.read_reply();
    let [word, from, payload] = message.elements() else { panic!("{message:?}") };
    assert_eq!((word.text(), from.text()), ("message".to_owned(), channel.to_owned()));
    parse(&payload.text())
}

/// Until the first switch: the choice at the start may come before.
fn messages_until_switch(console: &mut RawClient) -> Vec<Json> {
    let mut records = Vec::new();
    while records.last().is_none_or(|record: &Json| record["from"] != "east") {
        records.push(message(console, "events"));
    }
    records
}

/// A program that appends what it is told to a file.
fn appending(file: &std::path::Path) -> String {
    let script = format!(r#"read -r line; echo "$HANDOVER_EVENT_TO $line" >> {}"#, file.display());
    format!("command = ['/bin/sh', '-c', '{script}']\n")
}

fn appended(file: &std::path::Path) -> Vec<(String, Json)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(to, record)| (to.to_owned(), parse(record))).collect()
}

#[test]
fn a_failover_comes_out_on_every_way_in_order_and_with_the_same_numbers() {
    let (port, folder) = (ReservedPort::take(), tempfile::tempdir().unwrap());
    let receiver = Receiver::start(port.address(), 204);
    let (file, secret): (PathBuf, PathBuf) = (folder.path().join("told"), folder.path().join("secret"));
    std::fs::write(&secret, "Jefe\n").unwrap();
    let command = appending(&file);
    let webhook = format!("webhook = 'http://{}/hook?x=1'\nwebhook_secret_file = {secret:?}\n", port.address());
    let mut pair = Pair::builder().configuration(&format!("[events]\n{webhook}{command}")).start();
    // Other tests' users may read it, which is said at the start.
    pair.handover.allow_warning("can be read by every user");
    let stream = Stream::open(&pair.handover, "/events/stream", None);
    let mut console = subscribe(&pair.handover, "events");

    pair.fail_over();
    let told = of_failover(&messages_until_switch(&mut console));
    assert_eq!(told.iter().map(kind).collect::<Vec<_>>(), FAILOVER);
    let [down, breaker, switched] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&down["backend"], &down["state"]), (&"east".into(), &"unhealthy".into()));
    assert_eq!((&breaker["backend"], &breaker["state"]), (&"east".into(), &"open".into()));
    assert_eq!((&switched["from"], &switched["to"], &switched["epoch"]), (&"east".into(), &"west".into(), &2.into()));
    assert!(switched["detect_ms"].is_number() && switched["in_flight"]["total"].is_number(), "{switched}");
    assert!(id(down) < id(breaker) && id(breaker) < id(switched));

    wait_until(PATIENCE, || of_failover(&stream.records()) == told);
    wait_until(PATIENCE, || of_failover(&receiver.records()) == told);
    wait_until(PATIENCE, || {
        of_failover(&appended(&file).into_iter().map(|(_, json)| json).collect::<Vec<_>>()) == told
    });
    assert!(appended(&file).iter().any(|(to, json)| to == "west" && kind(json) == "active_changed"));
    let latest: Vec<Json> = serde_json::from_str(&pair.handover.http_get("/events").body).unwrap();
    assert_eq!(of_failover(&latest), told);
    for record in &told {
        pair.handover.wait_for_log(|line| line.field("event_id") == id(record).to_string(), PATIENCE);
    }
    pair.handover.expect_metric("handover_events_total", &[("kind", "active_changed")], 2.0);

    let (head, body) = receiver.requests().pop().unwrap();
    let signature = hmac_of(b"Jefe", &body);
    for line in
        ["POST /hook?x=1 HTTP/1.1", "content-type: application/json", &format!("handover-signature: {signature}")]
    {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    assert!(head.contains(&format!("handover-id: {}\r\n", id(&parse(&body)))), "{head}");
}

/// By another program than ours.
fn hmac_of(key: &[u8], body: &str) -> String {
    let key = String::from_utf8_lossy(key).into_owned();
    let script =
        "import hmac,sys; print(hmac.new(sys.argv[1].encode(), sys.stdin.buffer.read(), 'sha256').hexdigest())";
    let mut python = Command::new(support::python());
    let mut child = python
        .args(["-c", script, &key])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python");
    child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("sha256={}", String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn a_stream_goes_on_where_it_was() {
    let mut pair = Pair::start();
    let all: Vec<Json> = serde_json::from_str(&pair.handover.http_get("/events").body).unwrap();
    let first = id(&all[0]);
    pair.fail_over();
    let stream = Stream::open(&pair.handover, "/events/stream", Some(first));
    wait_until(PATIENCE, || stream.records().iter().any(|record| record["from"] == "east"));
    let ids: Vec<u64> = stream.records().iter().map(id).collect();
    assert_eq!(ids[0], first + 1);
    assert!(ids.windows(2).all(|two| two[1] == two[0] + 1), "{ids:?}");
}

/// The next answer that is no record: those of the start, and the outcomes of a second, may come at any time.
fn answer(console: &mut RawClient) -> Value {
    loop {
        let answer = console.read_reply();
        let is_record =
            matches!(&answer, Value::Array(parts) | Value::Push(parts) if parts[0] == Value::bulk("message"));
        if !is_record {
            return answer;
        }
    }
}

fn ask(console: &mut RawClient, command: &[&str]) -> Value {
    console.send_command(command);
    answer(console)
}

#[test]
fn the_console_has_the_framing_of_redis() {
    let pair = Pair::start();
    let mut console = RawClient::connect_unix(&pair.handover.console_socket());
    let confirmation =
        |word: &str, channel: &str, count| vec![Value::bulk(word), Value::bulk(channel), Value::Integer(count)];
    let first = ask(&mut console, &["SUBSCRIBE", "events", "outcomes"]);
    assert_eq!(first, Value::Array(confirmation("subscribe", "events", 1)));
    assert_eq!(answer(&mut console), Value::Array(confirmation("subscribe", "outcomes", 2)));
    let left = ask(&mut console, &["UNSUBSCRIBE", "outcomes"]);
    assert_eq!(left, Value::Array(confirmation("unsubscribe", "outcomes", 1)));
    assert_eq!(ask(&mut console, &["PING"]), Value::Array(vec![Value::bulk("pong"), Value::bulk("")]));
    assert!(ask(&mut console, &["STATUS"]).text().contains("allowed while you are subscribed"));
    assert!(ask(&mut console, &["PSUBSCRIBE", "*"]).is_error("ERR"));
    assert!(ask(&mut console, &["SUBSCRIBE", "news"]).is_error("ERR"));
    let left = ask(&mut console, &["UNSUBSCRIBE"]);
    assert_eq!(left, Value::Array(confirmation("unsubscribe", "events", 0)));
    assert!(matches!(console.command(&["STATUS"]), Value::Array(_)));

    console.command(&["HELLO", "3"]);
    let first = ask(&mut console, &["SUBSCRIBE", "events"]);
    assert_eq!(first, Value::Push(confirmation("subscribe", "events", 1)));
    console.send_command(&["WEIGHT", "west", "0.5"]);
    let mut answers = vec![console.read_reply()];
    let is_told =
        |answer: &Value| matches!(answer, Value::Push(parts) if parts[2].text().contains(r#""kind":"backend_weight""#));
    while !answers.iter().any(is_told) || !answers.iter().any(|answer| matches!(answer, Value::Simple(_))) {
        answers.push(console.read_reply());
    }
}

#[test]
fn redis_cli_subscribes() {
    let mut pair = Pair::start();
    let socket = pair.handover.console_socket();
    let cli = Process::start("redis-cli", &["-s", &socket.display().to_string(), "SUBSCRIBE", "events"], |_| {});
    assert!(cli.find_line(PATIENCE, |line| line.contains("subscribe")).is_some());
    pair.fail_over();
    let line = cli.find_line(PATIENCE, |line| line.contains("active_changed"));
    assert!(line.is_some_and(|line| line.contains("east") && line.contains("west")), "{}", cli.output());
}

#[test]
fn a_webhook_that_was_down_gets_everything_in_order_once_it_is_up() {
    let port = ReservedPort::take();
    let events = format!("[events]\nwebhook = 'http://{}/'\n", port.address());
    let mut pair = Pair::builder().configuration(&events).start();
    pair.handover.expect_warning("the webhook does not take a record");
    pair.fail_over();
    let latest: Vec<Json> = serde_json::from_str(&pair.handover.http_get("/events").body).unwrap();
    pair.handover.wait_for_log(|line| line.message() == "the webhook does not take a record", PATIENCE);
    let receiver = Receiver::start(port.address(), 200);
    wait_until(3 * PATIENCE, || receiver.records().len() >= latest.len());
    assert_eq!(receiver.records()[..latest.len()], latest);
    pair.handover.wait_for_log(|line| line.message() == "the webhook takes records again", PATIENCE);
    pair.handover.expect_metric("handover_events_dropped_total", &[("way", "webhook")], 0.0);
}

#[test]
fn what_a_webhook_refuses_is_counted_and_not_sent_again() {
    let port = ReservedPort::take();
    let receiver = Receiver::start(port.address(), 302);
    let events = format!("[events]\nwebhook = 'http://{}/'\nkinds = ['active_changed']\n", port.address());
    let mut pair = Pair::builder().configuration(&events).start();
    pair.handover.expect_warning("redirects are not followed");
    pair.handover.expect_metric("handover_events_dropped_total", &[("way", "webhook")], 1.0);
    receiver.status.store(200, Ordering::SeqCst);
    pair.fail_over();
    wait_until(PATIENCE, || receiver.records().len() == 2);
    let courses: Vec<Json> = receiver.records().iter().map(|record| record["to"].clone()).collect();
    assert_eq!(courses, ["east", "west"]);
    assert!(receiver.requests().iter().all(|(head, _)| head.starts_with("POST / ")), "nobody went to the new place");
}

#[test]
fn a_webhook_over_tls_is_verified() {
    let (ours, theirs) = (Authority::new(), Authority::named("a stranger"));
    for (authority, is_trusted) in [(&ours, true), (&theirs, false)] {
        let server = Eavesdropper::start(&authority.sign("hook"));
        let events = format!(
            "[events]\nwebhook = 'https://{}/'\nwebhook_timeout = '2s'\ntls = {{ ca = {:?} }}\n",
            server.address(),
            ours.ca()
        );
        let pair = Pair::builder().configuration(&events).start();
        pair.handover.allow_warning("the webhook does not take a record");
        if is_trusted {
            wait_until(PATIENCE, || String::from_utf8_lossy(&server.heard()).contains(r#"{"schema":1,"#));
        } else {
            let line = pair.handover.wait_for_log(|line| line.text.contains("the webhook does not take"), PATIENCE);
            assert!(line.field("problem").contains("signed by"), "{}", line.text);
            assert_eq!(server.heard(), b"");
        }
    }
}

#[test]
fn nothing_on_the_data_path_waits_for_a_webhook_or_a_program_that_hangs() {
    let port = ReservedPort::take();
    let receiver = Receiver::start(port.address(), 0);
    let events = format!(
        "[events]\nwebhook = 'http://{}/'\nwebhook_timeout = '1h'\ncommand = ['/bin/sleep', '3600']\n\
         command_timeout = '1h'\n",
        port.address()
    );
    let mut pair = Pair::builder().configuration(&events).start();
    wait_until(PATIENCE, || receiver.requests().len() == 1);
    let mut client = pair.client();
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    pair.fail_over();
    wait_until(PATIENCE, || client.command(&["SET", "k", "v"]) == Value::ok());
    // Far more than a ring holds: what does not fit is dropped and counted, and only that.
    let mut console = RawClient::connect_unix(&pair.handover.console_socket());
    for round in 0..600 {
        let weight = if round % 2 == 0 { "0.25" } else { "0.5" };
        assert!(!console.command(&["WEIGHT", "west", weight]).is_error("ERR"));
    }
    assert_eq!(client.command(&["GET", "k"]).text(), "v");
    let latest: Vec<Json> = serde_json::from_str(&pair.handover.http_get("/events").body).unwrap();
    assert_eq!(latest.len(), 256);
    assert_eq!(receiver.requests().len(), 1, "one at a time");
    let sleeper = child_of(pair.handover.pid(), "sleep").expect("the program runs");
    let Pair { handover, .. } = pair;
    drop(client);
    assert_eq!(handover.finish(), 0);
    // Killed, whether somebody has collected it yet or not.
    let stat = || std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
    wait_until(PATIENCE, || stat().is_empty() || stat().contains(") Z "));
}

fn child_of(parent: u32, name: &str) -> Option<u32> {
    let folders = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut matching = pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(&format!("({name})"))
            && stat.split(") ").nth(1).is_some_and(|rest| rest[2..].starts_with(&format!("{parent} ")))
    });
    matching.next()
}

#[test]
fn a_program_that_hangs_is_killed_and_the_next_record_comes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    // The first one hangs, the next ones do not.
    let script =
        format!(r#"read -r line; echo "x $line" >> {0}; [ "$(wc -l < {0})" -gt 1 ] || sleep 3600"#, file.display());
    let events = format!("[events]\ncommand = ['/bin/sh', '-c', '{script}']\ncommand_timeout = '3s'\n");
    let pair = Pair::builder().configuration(&events).start();
    pair.handover.expect_warning("was killed");
    wait_until(PATIENCE, || appended(&file).len() >= 2);
    pair.handover.wait_for_log(|line| line.message() == "the program on events works again", PATIENCE);
    let ids: Vec<u64> = appended(&file).iter().map(|(_, record)| id(record)).collect();
    assert!(ids.windows(2).all(|two| two[1] == two[0] + 1), "{ids:?}");
    pair.handover.expect_metric("handover_events_dropped_total", &[("way", "command")], 1.0);
    assert_eq!(child_of(pair.handover.pid(), "sleep"), None);
}

#[test]
fn failed_commands_are_told_once_a_second_while_there_are_any() {
    let pair = Pair::start();
    let mut console = subscribe(&pair.handover, "events");
    let mut client = pair.client();
    for _ in 0..7 {
        assert!(client.command(&["SHUTDOWN"]).is_error("ERR"));
    }
    let mut refused = 0;
    while refused < 7 {
        let record = message(&mut console, "events");
        if kind(&record) == "commands_failed" {
            refused += record["failed"]["refused"].as_u64().unwrap();
            assert_eq!(record["failed"]["uncertain"], 0);
        }
    }
    assert_eq!(refused, 7);
}

#[test]
fn outcomes_of_each_second_come_to_whoever_listens() {
    let mut pair = Pair::start();
    let mut console = subscribe(&pair.handover, "outcomes");
    let stream = Stream::open(&pair.handover, "/outcomes/stream", None);
    let mut client = pair.client();
    let backend = |record: &Json, name: &str| {
        let backends = record["outcomes"]["backends"].as_array().unwrap();
        backends.iter().find(|backend| backend["backend"] == name).cloned().unwrap()
    };
    // The first second may have begun before, so that only sums count.
    assert_eq!(kind(&message(&mut console, "outcomes")), "outcomes");
    for _ in 0..50 {
        assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    }
    assert!(client.command(&["INCR", "k"]).is_error("ERR"));
    let (mut ok, mut errors, mut replies) = (0, 0, 0);
    while (ok, errors) != (50, 1) || replies < 51 {
        let record = message(&mut console, "outcomes");
        ok += record["outcomes"]["ok"].as_u64().unwrap();
        errors += record["outcomes"]["errors"].as_u64().unwrap();
        replies += backend(&record, "east")["replies"].as_u64().unwrap();
        assert!(ok <= 50 && errors <= 1, "{record}");
        assert_eq!(backend(&record, "east")["active"], true);
        assert!(record["outcomes"]["period_ms"].as_u64().unwrap() >= 500, "{record}");
    }
    pair.fail_over();
    let mut lost = 0;
    while lost == 0 {
        let record = message(&mut console, "outcomes");
        lost += backend(&record, "east")["connections_lost"].as_u64().unwrap();
    }
    let has_all = || stream.records().iter().filter_map(|record| record["outcomes"]["ok"].as_u64()).sum::<u64>() >= 50;
    assert!(holds_within(PATIENCE, has_all), "{:?}", stream.records());
    assert_eq!(pair.handover.http_get("/events").body.matches("outcomes").count(), 0);
}

#[test]
fn streams_have_a_bound_and_a_place_comes_free() {
    let pair = Pair::start();
    let mut sockets: Vec<TcpStream> = Vec::new();
    let open = || {
        let mut socket = TcpStream::connect(pair.handover.http_address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"GET /events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut start = [0; 12];
        socket.read_exact(&mut start).unwrap();
        (String::from_utf8_lossy(&start[9..]).into_owned(), socket)
    };
    for _ in 0..16 {
        let (status, socket) = open();
        assert_eq!(status, "200");
        sockets.push(socket);
    }
    assert_eq!(open().0, "503");
    assert_eq!(pair.handover.http_get("/healthz").status, 200);
    sockets.pop();
    wait_until(PATIENCE, || open().0 == "200");
}

#[test]
fn a_stop_ends_every_stream() {
    let pair = Pair::start();
    let Pair { handover, .. } = pair;
    let mut console = subscribe(&handover, "events");
    let _stream = Stream::open(&handover, "/events/stream", None);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || while console.read_reply_or_closed().is_some() {});
        let began = std::time::Instant::now();
        assert_eq!(handover.finish(), 0);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        reading.join().unwrap();
    });
}
