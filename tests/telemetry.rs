//! What operators see, from outside: metrics, health and status over HTTP, the log, signals, systemd's socket.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use handover::admin::desk::Desk;
use handover::admin::events::Streams;
use handover::admin::guard::Guard;
use handover::admin::http::{Admin, serve};
use handover::channels::{
    Availability, BackendId, BackendStatus, BackendWishes, GroupStatus, GroupWishes, Judged, Phase, Route,
};
use handover::config::{Log, LogFormat};
use handover::events::EventHub;
use handover::lifecycle::{Lifecycle, Signal, Signals, Systemd};
use handover::telemetry::counters::{Class, Connect, Memory, Mode, Outcome, WorkerCounters};
use handover::telemetry::logging::{LinesDropped, Logging};
use handover::telemetry::metrics::Reloads;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const HANG: Duration = Duration::from_secs(30);

fn in_force() -> handover::config::Config {
    let text = "listener = [{ bind = '127.0.0.1:0' }]\nbackend = [{ name = 'a', url = 'redis://h' }]\n";
    let sources = handover::config::Sources { text: Some(text.to_owned()), cores: 1, ..Default::default() };
    handover::config::Config::load(&sources).unwrap().config
}

fn backend(id: u16, name: &str, healthy: bool) -> BackendStatus {
    BackendStatus {
        id: BackendId(id),
        name: name.to_owned(),
        weight: f64::from(id) + 0.5,
        healthy,
        circuit: if healthy { "closed" } else { "open" },
        role: "master".to_owned(),
        last_verdict: if healthy { "good" } else { "connection refused\nby \"it\"" }.to_owned(),
        probes: (10, 3),
        probe_duration: Duration::from_micros(1_500),
        history: VecDeque::new(),
        fault: None,
        circuit_until: None,
        clean_since: None,
        banned_until: None,
        is_leaving: false,
        wishes: BackendWishes::default(),
        degraded: None,
        fence: None,
        replication: None,
        lag: None,
    }
}

fn group(name: &str, backends: Vec<BackendStatus>) -> GroupStatus {
    let active = backends.first().map(|backend| backend.id);
    GroupStatus {
        name: name.to_owned(),
        route: Route { epoch: 4, active, availability: Availability::Healthy, ..Route::unknown() },
        reason: "the heaviest healthy one".to_owned(),
        backends,
        switches: vec![("west".to_owned(), "east".to_owned(), "failback".to_owned(), 2)],
        last_switch: Some((Duration::from_millis(250), Duration::from_millis(5))),
        failback_blocked: Some("flap guard: 3 switches in 10m".to_owned()),
        would_promote: None,
        without_active: Duration::from_millis(1_250),
        active_since: None,
        stay: None,
        wishes: GroupWishes::default(),
        compared: 0,
        differences: Vec::new(),
        events: Arc::default(),
    }
}

fn hub() -> EventHub {
    EventHub::new(Arc::default(), CancellationToken::new())
}

/// A server with two groups of two workers each, and what feeds it.
struct Fixture {
    address: SocketAddr,
    statuses: Vec<watch::Sender<GroupStatus>>,
    counters: Vec<Vec<Arc<WorkerCounters>>>,
    reloads: Arc<Reloads>,
    draining: CancellationToken,
    lifecycle: Lifecycle,
}

impl Fixture {
    async fn start() -> Self {
        let groups = [
            group("default", vec![backend(0, "east", true), backend(1, "west", false)]),
            group("quo\"te", vec![backend(2, "north", true)]),
        ];
        let statuses: Vec<_> = groups.map(watch::Sender::new).into();
        let counters: Vec<Vec<Arc<WorkerCounters>>> =
            statuses.iter().map(|_| vec![Arc::default(), Arc::default()]).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reloads, draining) = (
            Arc::new(Reloads::loaded(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))),
            CancellationToken::new(),
        );
        let admin = Admin {
            statuses: statuses.iter().map(watch::Sender::subscribe).collect(),
            counters: counters.clone(),
            close_reasons: &["client_closed", "idle"],
            reloads: reloads.clone(),
            certificates: handover::tls::Keeper::default(),
            log_lines_dropped: LinesDropped::default(),
            streams: Streams::new(hub(), hub()),
            started: Instant::now(),
            draining: draining.clone(),
            desk: Arc::new(Desk {
                groups: Vec::new(),
                in_force: watch::channel(Arc::new(in_force())).1,
                recruiter: handover::net::recruit::Recruiter::default(),
                process: tokio::sync::mpsc::channel(1).0,
                events: hub(),
                outcomes: hub(),
                started: SystemTime::now(),
                draining: draining.clone(),
            }),
            guard: Guard::default(),
        };
        let lifecycle = Lifecycle::new();
        lifecycle.start("admin http", serve(listener, admin, lifecycle.stopping()));
        Self { address, statuses, counters, reloads, draining, lifecycle }
    }

    /// The status code, the head and the body of a reply.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            reply
        };
        let reply = tokio::time::timeout(HANG, exchange).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let code = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        (code, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn metrics(&self) -> BTreeMap<String, f64> {
        let (code, head, body) = self.get("/metrics").await;
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        checked(&body)
    }
}

/// Reads the text format strictly: each metric is introduced once by HELP and TYPE, samples follow directly,
/// no sample stands twice, counters end in `_total`, buckets only grow and end with the count.
fn checked(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut lines = text.lines().peekable();
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("HELP expected: {line}"));
        let (name, words) = help.split_once(' ').unwrap();
        assert!(words.ends_with('.') && seen.insert(name.to_owned()), "{line}");
        assert!(name.starts_with("handover_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap().to_owned();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = sample.rsplit_once(' ').unwrap();
            let own = if kind == "histogram" { histogram_part(series, name) } else { series_name(series) == name };
            assert!(own, "{series} does not belong to {name}");
            check_labels(&series[series_name(series).len()..]);
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{sample}");
            assert_eq!(samples.insert(series.to_owned(), value), None, "{series} stands twice");
        }
    }
    check_buckets(text, &samples);
    samples
}

fn series_name(series: &str) -> &str {
    series.split('{').next().unwrap()
}

fn histogram_part(series: &str, name: &str) -> bool {
    matches!(series_name(series).strip_prefix(name), Some("_bucket" | "_sum" | "_count"))
}

/// `{name="value",…}` with nothing but the three escapes in a value.
fn check_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let mut rest = labels.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap();
    let mut names = BTreeSet::new();
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{labels}"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && names.insert(name), "{labels}");
        let mut end = 0;
        while value.as_bytes()[end] != b'"' {
            if value.as_bytes()[end] == b'\\' {
                end += 1;
                assert!(b"\\\"n".contains(&value.as_bytes()[end]), "{labels}");
            }
            end += 1;
        }
        match &value[end + 1..] {
            "" => return,
            more => rest = more.strip_prefix(',').unwrap(),
        }
    }
}

fn check_buckets(text: &str, samples: &BTreeMap<String, f64>) {
    let mut last = 0.0;
    for line in text.lines().filter(|line| series_name(line).ends_with("_bucket")) {
        let (series, count) = line.rsplit_once(' ').unwrap();
        let count: f64 = count.parse().unwrap();
        assert!(count >= last, "{line}");
        last = count;
        if let Some(labels) = series.strip_suffix(",le=\"+Inf\"}") {
            assert_eq!(samples[&format!("{}}}", labels.replace("_bucket", "_count"))], count);
            last = 0.0;
        }
    }
}

#[tokio::test]
async fn metrics_are_well_formed_and_add_up_over_workers() {
    let fixture = Fixture::start().await;
    for (worker, amount) in fixture.counters[0].iter().zip([1, 10]) {
        worker.clients.add(amount);
        worker.clients_closed(1).add(amount);
        worker.sessions(Mode::Pinned).set(amount);
        worker.commands(Class::Shared, Outcome::Ok).add(amount);
        worker.durations(Class::Shared).observe(Duration::from_millis(2), amount);
        worker.memory_bytes(Memory::Held).set(amount);
        worker.add_judged(&Judged { uncertain: amount, ..Judged::default() });
        worker.backend(BackendId(1)).connects(Connect::Failed).add(amount);
    }
    fixture.counters[1][0].clients.add(5);
    let metrics = fixture.metrics().await;
    for (series, value) in [
        ("handover_ready", 1.0),
        ("handover_config_reload_timestamp_seconds", 1_700_000_000.0),
        (r#"handover_clients{group="default"}"#, 11.0),
        (r#"handover_clients{group="quo\"te"}"#, 5.0),
        (r#"handover_clients_closed_total{group="default",reason="idle"}"#, 11.0),
        (r#"handover_clients_closed_total{group="default",reason="client_closed"}"#, 0.0),
        (r#"handover_sessions{group="default",mode="pinned"}"#, 11.0),
        (r#"handover_commands_total{group="default",class="shared",result="ok"}"#, 11.0),
        (r#"handover_command_duration_seconds_bucket{group="default",class="shared",le="0.001"}"#, 0.0),
        (r#"handover_command_duration_seconds_bucket{group="default",class="shared",le="0.0025"}"#, 11.0),
        (r#"handover_command_duration_seconds_sum{group="default",class="shared"}"#, 0.022),
        (r#"handover_memory_bytes{group="default",kind="held"}"#, 11.0),
        (r#"handover_uncertain_total{group="default"}"#, 11.0),
        (r#"handover_backend_connects_total{group="default",backend="west",result="failed"}"#, 11.0),
        (r#"handover_backend_up{group="default",backend="west"}"#, 0.0),
        (r#"handover_backend_active{group="default",backend="east"}"#, 1.0),
        (r#"handover_backend_weight{group="default",backend="west"}"#, 1.5),
        (r#"handover_backend_role{group="default",backend="west",role="master"}"#, 1.0),
        (r#"handover_backend_circuit_state{group="default",backend="west",state="open"}"#, 1.0),
        (r#"handover_backend_circuit_state{group="default",backend="west",state="closed"}"#, 0.0),
        (r#"handover_backend_health_checks_total{group="default",backend="east",result="bad"}"#, 3.0),
        (r#"handover_switches_total{group="default",from="west",to="east",reason="failback"}"#, 2.0),
        (r#"handover_switch_duration_seconds{group="default",phase="detect"}"#, 0.25),
        (r#"handover_failback_blocked{group="default",reason="flap guard"}"#, 1.0),
        (r#"handover_without_active_seconds_total{group="default"}"#, 1.25),
        (r#"handover_epoch{group="default"}"#, 4.0),
    ] {
        assert_eq!(metrics.get(series), Some(&value), "{series}");
    }
}

#[tokio::test]
async fn a_failed_reload_shows_until_one_succeeds() {
    let fixture = Fixture::start().await;
    fixture.reloads.failed();
    let metrics = fixture.metrics().await;
    assert_eq!(metrics["handover_config_reload_success"], 0.0);
    assert_eq!(metrics["handover_config_reload_timestamp_seconds"], 1_700_000_000.0);
    fixture.reloads.succeeded(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let metrics = fixture.metrics().await;
    assert_eq!(metrics["handover_config_reload_success"], 1.0);
    assert_eq!(metrics["handover_config_reload_timestamp_seconds"], 1_800_000_000.0);
}

#[tokio::test]
async fn ready_means_that_every_group_is_served() {
    let fixture = Fixture::start().await;
    let (code, _, body) = fixture.get("/readyz").await;
    assert_eq!((code, body.as_str()), (200, "ready\n"));

    fixture.statuses[0].send_modify(|group| group.route.availability = Availability::Degraded);
    fixture.statuses[1].send_modify(|group| group.route = Route::unknown());
    let (code, _, body) = fixture.get("/readyz").await;
    let expected = "group default: no backend is healthy, the last active is still tried (the heaviest healthy one)\n\
                    group quo\"te: no backend is active (the heaviest healthy one)\n";
    assert_eq!((code, body.as_str()), (503, expected));
    assert_eq!(fixture.metrics().await["handover_ready"], 0.0);
    assert_eq!(fixture.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn a_process_that_drains_lives_and_is_not_ready() {
    let fixture = Fixture::start().await;
    fixture.draining.cancel();
    let (code, _, body) = fixture.get("/readyz").await;
    assert_eq!((code, body.as_str()), (503, "draining: no new clients are taken\n"));
    assert_eq!(fixture.get("/healthz").await.0, 200);
    assert_eq!(fixture.metrics().await["handover_ready"], 0.0);
    fixture.lifecycle.stop();
    assert_eq!(fixture.lifecycle.stopped(HANG).await, Ok(()));
}

#[tokio::test]
async fn status_says_what_is_needed_at_night() {
    let fixture = Fixture::start().await;
    fixture.statuses[0].send_modify(|group| {
        group.route.phase = Phase::Cut { to: BackendId(1), attempt: 9 };
        group.route.standby = Some(BackendId(1));
    });
    let (code, head, body) = fixture.get("/status").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    let group = &status["groups"][0];
    assert_eq!(status["ready"], true);
    assert_eq!((&group["active"], &group["standby"], &group["epoch"]), (&"east".into(), &"west".into(), &4.into()));
    assert_eq!((&group["phase"], &group["switching_to"]), (&"cut".into(), &"west".into()));
    assert_eq!(group["reason"], "the heaviest healthy one");
    assert_eq!(group["failback_blocked"], "flap guard: 3 switches in 10m");
    let west = &group["backends"][1];
    assert_eq!((&west["healthy"], &west["circuit"]), (&false.into(), &"open".into()));
    assert_eq!((&west["role"], &west["weight"]), (&"master".into(), &1.5.into()));
    assert_eq!(west["last_verdict"], "connection refused\nby \"it\"");
}

#[tokio::test]
async fn the_page_is_a_table_with_one_line_a_backend() {
    let fixture = Fixture::start().await;
    let (code, head, body) = fixture.get("/").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain") && head.contains("connection: close"), "{head}");
    for line in [
        "group default - healthy, east is active, epoch 4: the heaviest healthy one",
        "no failback: flap guard: 3 switches in 10m",
        "   backend  weight  health     circuit  role    wanted  last check",
        "*  east     0.5     healthy    closed   master          good",
        "   west     1.5     UNHEALTHY  open     master          connection refused by \"it\"",
        "/metrics  for Prometheus",
    ] {
        assert!(body.lines().any(|found| found == line), "{line:?} is not in\n{body}");
    }
    assert_eq!(fixture.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn a_second_stop_means_now_and_a_hangup_means_reload() {
    async fn raise(signals: &mut Signals, name: &str) -> Signal {
        let sent = Command::new("kill").args([&format!("-{name}"), &std::process::id().to_string()]).status().unwrap();
        assert!(sent.success());
        tokio::time::timeout(HANG, signals.next()).await.unwrap()
    }
    let mut signals = Signals::install().unwrap();
    assert_eq!(raise(&mut signals, "HUP").await, Signal::Reload);
    assert_eq!(raise(&mut signals, "TERM").await, Signal::Drain);
    assert_eq!(raise(&mut signals, "HUP").await, Signal::Reload);
    assert_eq!(raise(&mut signals, "INT").await, Signal::Now);
    assert_eq!(raise(&mut signals, "TERM").await, Signal::Now);
}

/// This test program again, running one of the children below with an environment of its own.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", name]).stdin(Stdio::null());
    command.env("TELEMETRY_TEST_CHILD", "1");
    command
}

fn is_child() -> bool {
    std::env::var_os("TELEMETRY_TEST_CHILD").is_some()
}

#[test]
fn systemd_is_told_of_each_step_and_of_life() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let output = child("child_notifies").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let receive = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(receive(), "READY=1\n");
    assert_eq!(receive(), "STATUS=default: east READY=0\n");
    let reloading = receive();
    let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(at.trim_end().parse::<u64>().unwrap() > 0);
    // Alive at the first, second and fourth tick: three pings, and none for the third.
    for _ in 0..3 {
        assert_eq!(receive(), "WATCHDOG=1\n");
    }
    assert_eq!(receive(), "STOPPING=1\n");
}

#[tokio::test]
#[ignore = "run by systemd_is_told_of_each_step_and_of_life"]
async fn child_notifies() {
    if !is_child() {
        return;
    }
    let systemd = Systemd;
    systemd.ready();
    systemd.status("default: east\nREADY=0");
    systemd.reloading();
    assert_eq!(systemd.watchdog(), Some(Duration::from_millis(20)));
    let stop = CancellationToken::new();
    let mut asked = 0;
    let stop_later = stop.clone();
    systemd
        .keep_watchdog(stop, move || {
            asked += 1;
            if asked == 4 {
                stop_later.cancel();
            }
            asked != 3
        })
        .await;
    systemd.stopping();
}

#[test]
fn without_systemd_nothing_is_said_and_nothing_waits() {
    let output = child("child_is_alone").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
#[ignore = "run by without_systemd_nothing_is_said_and_nothing_waits"]
async fn child_is_alone() {
    if !is_child() {
        return;
    }
    Systemd.ready();
    assert_eq!(Systemd.watchdog(), None);
    let asked = || -> bool { panic!("nobody wants to know") };
    tokio::time::timeout(HANG, Systemd.keep_watchdog(CancellationToken::new(), asked)).await.unwrap();
}

/// Twice what a pipe and the queue hold together.
const MANY_LINES: u64 = 40_000;

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut process = child("child_logs").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    // Its stderr is an open pipe that is not read until it has ended.
    process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(process.wait().unwrap().success(), "{said}");
    let dropped: u64 = said.split("dropped=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!((1..MANY_LINES).contains(&dropped), "{dropped}");
    let mut log = String::new();
    process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.lines().next().unwrap().ends_with("INFO one of many number=0"), "{:?}", log.lines().next());
    assert!(!log.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn a_log_that_is_closed_ends_nobody() {
    let mut process = child("child_logs").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(process.stderr.take());
    let mut said = String::new();
    process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(process.wait().unwrap().success(), "{said}");
    let dropped: u64 = said.split("dropped=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(dropped > 0);
}

#[test]
#[ignore = "run by the tests of the log"]
fn child_logs() {
    if !is_child() {
        return;
    }
    let logging = Logging::install(Log { level: tracing::Level::INFO, format: LogFormat::Text }).unwrap();
    for number in 0..MANY_LINES {
        tracing::info!(number, "one of many");
    }
    let dropped = logging.dropped();
    drop(logging);
    println!("dropped={}", dropped.total());
}

#[test]
fn a_panic_is_logged_as_one_line_with_its_place() {
    let output = child("child_panics").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    let [line] = log.lines().collect::<Vec<_>>()[..] else { panic!("one line, not {log}") };
    assert!(line.contains(" ERROR a thread panicked place=\"tests/telemetry.rs:"), "{line}");
    assert!(line.ends_with("panic=\"a bug\\nwith a second line\""), "{line}");
}

#[test]
#[ignore = "run by a_panic_is_logged_as_one_line_with_its_place"]
fn child_panics() {
    if !is_child() {
        return;
    }
    let _logging = Logging::install(Log { level: tracing::Level::INFO, format: LogFormat::Text }).unwrap();
    let panicked = std::thread::spawn(|| panic!("a bug\nwith a second line")).join();
    assert!(panicked.is_err());
}
