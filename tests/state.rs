//! The state file: what a restart knows, and what a disk, a folder or another process may do to it. And the log, whose
//! reader may do anything: the data path never notices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use support::{Handover, HandoverBuilder, PATIENCE, RawClient, RedisServer, ReservedPort, Value, wait_until};

const SETTINGS: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n\
    health.timeout = '2s'\nfailover.hold = '3s'\nfailover.failback = 'manual'\nbreaker.grace = '10m'\n";

/// Two backends, and a state file in a folder that outlives Handover.
struct Stand {
    east: RedisServer,
    west: RedisServer,
    folder: tempfile::TempDir,
}

impl Stand {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { east: RedisServer::start(), west: RedisServer::start(), folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("sub/state.json")
    }

    fn configuration(&self) -> String {
        format!(
            "backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n\
             {SETTINGS}failover.state_file = '{}'\n",
            self.east.address(),
            self.west.address(),
            self.file().display(),
        )
    }

    fn builder(&self) -> HandoverBuilder {
        let told = ["switched", "operator", "backend is unhealthy", "held", "ban", "can serve again"];
        told.into_iter().fold(Handover::builder(&self.configuration()), HandoverBuilder::allow_warning)
    }

    fn make_folder(&self) {
        std::fs::create_dir_all(self.file().parent().unwrap()).unwrap();
    }

    /// What is kept of the only group.
    fn saved(&self) -> Json {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        serde_json::from_str::<Json>(&text).map(|state| state["groups"]["default"].clone()).unwrap_or_default()
    }
}

fn order(handover: &Handover, line: &str) -> Value {
    RawClient::connect_unix(&handover.console_socket()).command(&line.split(' ').collect::<Vec<_>>())
}

#[track_caller]
fn expect_active(handover: &Handover, backend: &str) {
    handover.expect_metric("handover_backend_active", &[("backend", backend)], 1.0);
}

fn expect_both_up(handover: &Handover) {
    for backend in ["east", "west"] {
        handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
    }
}

#[test]
fn the_active_its_epoch_and_an_open_breaker_survive_a_kill() {
    let mut stand = Stand::start();
    stand.make_folder();
    let handover = stand.builder().start();
    expect_both_up(&handover);
    stand.east.kill();
    expect_active(&handover, "west");
    // The breaker may be written before the switch that follows from it.
    wait_until(PATIENCE, || stand.saved()["active"] == "west" && stand.saved()["breakers"][0]["backend"] == "east");
    let before = stand.saved();
    assert_eq!(before["epoch"], 2);
    // SIGKILL: nothing is written at the end.
    drop(handover);
    stand.east.restart();
    let handover = stand.builder().start();
    expect_both_up(&handover);
    expect_active(&handover, "west");
    assert!(handover.metric("handover_epoch", &[]) >= 2.0);
    let open = [("backend", "east"), ("state", "open")];
    handover.expect_metric("handover_backend_circuit_state", &open, 1.0);
    let left = stand.saved()["breakers"][0]["left_ms"].as_u64().unwrap();
    assert!(left <= before["breakers"][0]["left_ms"].as_u64().unwrap() && left > 0, "{left}");
}

#[test]
fn a_damaged_or_foreign_file_is_set_aside_and_said() {
    for content in ["{\"format\":\"handover-state-1\",\"groups\":{\"def", "{\"format\":\"other\",\"groups\":{}}"] {
        let stand = Stand::start();
        stand.make_folder();
        std::fs::write(stand.file(), content).unwrap();
        let handover = stand.builder().expect_warning("state file set aside").start();
        expect_active(&handover, "east");
        wait_until(PATIENCE, || stand.saved()["active"] == "east");
        assert_eq!(std::fs::read_to_string(stand.file().with_extension("json.bad")).unwrap(), content);
    }
}

/// The disk is full, the folder is gone: said once, tried again, and commands never notice.
#[test]
fn a_file_that_cannot_be_written_is_written_once_it_can() {
    let stand = Stand::start();
    let handover = stand.builder().expect_warning("cannot write the state file").start();
    expect_both_up(&handover);
    let mut client = handover.client();
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    let failures = || handover.log().iter().filter(|line| line.message().starts_with("cannot write the state")).count();
    wait_until(PATIENCE, || failures() == 1);
    stand.make_folder();
    wait_until(PATIENCE, || stand.saved()["active"] == "east");
    let again = || handover.log().iter().filter(|line| line.message() == "state file written again").count();
    wait_until(PATIENCE, || again() == 1);

    // What is written ends on a disk without room.
    let temporary = stand.file().with_extension("json.tmp");
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    assert!(order(&handover, "SWITCH west").text().starts_with("switched"));
    wait_until(PATIENCE, || failures() == 2);
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    assert_eq!(stand.saved()["active"], "east", "the old file is whole");
    std::fs::remove_file(&temporary).unwrap();
    // The file is seen before the folder's entry is on the disk: the folder may go only when that is said.
    wait_until(PATIENCE, || again() == 2);
    assert_eq!(stand.saved()["active"], "west");

    std::fs::remove_dir_all(stand.file().parent().unwrap()).unwrap();
    assert!(order(&handover, "SWITCH east").text().starts_with("switched"));
    wait_until(PATIENCE, || failures() == 3);
    stand.make_folder();
    wait_until(PATIENCE, || stand.saved()["active"] == "east");
    wait_until(PATIENCE, || again() == 3);
}

#[test]
fn of_two_processes_with_one_file_the_first_writes_until_it_ends() {
    let stand = Stand::start();
    stand.make_folder();
    let first = stand.builder().start();
    expect_both_up(&first);
    wait_until(PATIENCE, || stand.saved()["active"] == "east");
    let second = stand.builder().expect_warning("another process keeps its state in this file").start();
    expect_both_up(&second);
    assert!(order(&second, "SWITCH west").text().starts_with("switched"));
    // The first one's change shows that the file is still its own.
    assert!(order(&first, "BAN west FOR 1h").text().starts_with("ban"));
    wait_until(PATIENCE, || stand.saved()["bans"][0]["backend"] == "west");
    assert_eq!(stand.saved()["active"], "east");
    assert_eq!(first.finish(), 0);
    wait_until(PATIENCE, || stand.saved()["active"] == "west");
    second.wait_for_log(|line| line.message().starts_with("the other process has ended"), PATIENCE);
}

/// The log goes to a pipe that nobody reads, or that is closed, as is stdout: commands and a failover do not notice.
#[test]
fn a_log_that_nobody_takes_costs_the_data_path_nothing() {
    for is_closed in [false, true] {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let (mut east, listener, http) = (east, ReservedPort::take(), ReservedPort::take());
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n\
             listener = [{{ bind = '{}' }}]\nadmin.http = '{}'\nlog.level = 'trace'\n{}",
            east.address(),
            west.address(),
            listener.address(),
            http.address(),
            SETTINGS.replace("100ms", "10ms"),
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let mut child = Deaf::start(&file, folder.path(), is_closed);
        let mut client = None;
        wait_until(PATIENCE, || {
            client = std::net::TcpStream::connect(listener.address()).ok();
            client.is_some()
        });
        let mut client = RawClient::connect(listener.address());
        wait_until(PATIENCE, || client.command(&["SET", "k", "v"]) == Value::ok());
        let dropped = || {
            let page = get(&http, "/metrics");
            let line = page.lines().find_map(|line| line.strip_prefix("handover_log_lines_dropped_total "));
            line.and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0)
        };
        if is_closed {
            wait_until(PATIENCE, || dropped() > 0.0);
        }
        for _ in 0..1000 {
            assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
        }
        east.kill();
        wait_until(PATIENCE, || client.command(&["SET", "k", "v"]) == Value::ok());
        assert_eq!(west.command(&["GET", "k"]).text(), "v");
        assert!(child.is_alive());
    }
}

fn get(http: &ReservedPort, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(http.address()).expect("the admin port");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Handover with a log that nobody reads.
struct Deaf(std::process::Child);

impl Deaf {
    fn start(file: &Path, folder: &Path, is_closed: bool) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
        command.args(["-c", &file.display().to_string()]).env_clear().current_dir(folder);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        if is_closed {
            drop((child.stdout.take(), child.stderr.take()));
        }
        Self(child)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("a child of ours").is_none()
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
