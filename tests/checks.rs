//! Health checks beside commands: lag, programs; and several at once. What they show, and what they may and may not do.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use support::{Authority, Certificate, FakeBackend, Handover, HandoverBuilder, PATIENCE, RawClient, RedisServer};
use support::{courtesy, shown, wait_until};

const QUICK: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n\
    health.rise = 1\nbreaker.grace = '100ms'\nbreaker.grace_max = '100ms'\nfailover.failback_hold = '100ms'\n\
    failover.switches_max = 100\n";

/// `SLOW` programs are started on a machine that others use too.
const PATIENT: &str = "health.timeout = '5s'\nfailover.hold = '6s'\n";

fn builder(configuration: &str) -> HandoverBuilder {
    let told = ["backend is unhealthy", "switched", "no backend is healthy", "a backend can serve again", "called off"];
    told.into_iter().fold(Handover::builder(configuration), HandoverBuilder::allow_warning)
}

fn backends(east: &RedisServer, west: &RedisServer, of_east: &str) -> String {
    format!(
        "[[backend]]\nname = 'east'\nurl = 'redis://{}'\nweight = 2.0\n{of_east}\n\
         [[backend]]\nname = 'west'\nurl = 'redis://{}'\n",
        east.address(),
        west.address()
    )
}

fn is_active(handover: &Handover, backend: &str) -> bool {
    handover.metric("handover_backend_active", &[("backend", backend)]) == 1.0
}

fn console(handover: &Handover, line: &str) -> String {
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let answer = console.command(&line.split(' ').collect::<Vec<_>>());
    match answer {
        support::Value::Array(lines) => lines.iter().map(|line| line.text() + "\n").collect(),
        other => other.text(),
    }
}

/// What the REST server does with a question.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// The list of databases, and this status for the availability.
    Availability(u16),
    /// This status for everything.
    Status(u16),
    /// This body for the list of databases.
    List(String),
    /// Nothing.
    Silence,
    /// Bytes that are no HTTP.
    Garbage,
    /// A body without an end.
    Endless,
}

/// Redis Enterprise's REST API, as far as it matters here.
struct Rest {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Rest {
    /// `port` is that of its one database's endpoint.
    fn start(certificate: &Certificate, port: u16, answer: Answer) -> Self {
        let config = certificate.server_config();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (answer, heard) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(Vec::new())));
        let (now, hearing) = (answer.clone(), heard.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (now, hearing, config) = (now.clone(), hearing.clone(), config.clone());
                std::thread::spawn(move || serve(socket, &config, port, &now, &hearing));
            }
        });
        Self { address, answer, heard }
    }

    fn now(&self, answer: Answer) {
        *self.answer.lock().expect("nobody panics with it") = answer;
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panics with it").clone()
    }
}

fn serve(
    socket: std::net::TcpStream,
    config: &Arc<ServerConfig>,
    port: u16,
    answer: &Mutex<Answer>,
    heard: &Mutex<Vec<String>>,
) {
    let session = ServerConnection::new(config.clone()).expect("a session");
    let mut stream = BufReader::new(StreamOwned::new(session, socket));
    loop {
        let mut head = Vec::new();
        while !head.ends_with(&["\r\n".to_owned()]) {
            let mut line = String::new();
            if !matches!(stream.read_line(&mut line), Ok(1..)) {
                return;
            }
            head.push(line);
        }
        let list = format!(
            r#"[{{"uid": 1, "endpoints": []}}, {{"uid": 7, "endpoints": [{{"addr": ["127.0.0.1"], "dns_name": "x", "port": {port}}}]}}]"#
        );
        heard.lock().expect("nobody panics with it").push(head.concat());
        let is_list = head[0].starts_with("GET /v1/bdbs HTTP");
        let now = answer.lock().expect("nobody panics with it").clone();
        let (status, body) = match now {
            Answer::Availability(_) if is_list => (200, list),
            Answer::Availability(status) | Answer::Status(status) => (status, "{\"error_code\": \"x\"}".to_owned()),
            Answer::List(body) => (200, body),
            Answer::Silence => {
                let _ = stream.read(&mut [0]);
                return;
            }
            Answer::Garbage => {
                let _ = stream.get_mut().write_all(b"+OK\r\n\r\n").and_then(|()| stream.get_mut().flush());
                return;
            }
            Answer::Endless => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n[";
                let mut wrote = stream.get_mut().write_all(head);
                while wrote.is_ok() {
                    wrote = stream.get_mut().write_all(&[b' '; 65536]);
                }
                return;
            }
        };
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.get_mut().write_all(text.as_bytes()).and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

struct LagStand {
    handover: Handover,
    rest: Rest,
    east: RedisServer,
    _west: RedisServer,
    _authority: Authority,
    _password: tempfile::NamedTempFile,
}

impl LagStand {
    /// East is the heavier, and its lag is asked for.
    fn start(answer: Answer, more: &str) -> Self {
        let authority = Authority::new();
        let trusted = authority.ca();
        Self::trusting(&trusted, authority, answer, more)
    }

    /// The server's certificate is of `authority`.
    fn trusting(trusted: &Path, authority: Authority, answer: Answer, more: &str) -> Self {
        let (east, west) = (RedisServer::start(), RedisServer::start());
        let rest = Rest::start(&authority.sign("rest"), east.port(), answer);
        let mut password = tempfile::NamedTempFile::new().expect("a file");
        writeln!(password, "pass:word").expect("written");
        let of_east = format!(
            "health_check_url = 'https://{}'\n[backend.health]\nmodes = ['write', 'lag']\n[backend.health.lag]\n\
             username = 'admin@example.com'\npassword_file = '{}'\ntls = {{ ca = '{}' }}\n{more}",
            rest.address,
            shown(password.path()),
            shown(trusted)
        );
        let handover = builder(&format!("{QUICK}{}", backends(&east, &west, &of_east))).start();
        wait_until(PATIENCE, || is_active(&handover, "east"));
        Self { handover, rest, east, _west: west, _authority: authority, _password: password }
    }

    /// East dies and comes back.
    fn fail_over(&mut self) {
        self.east.kill();
        wait_until(PATIENCE, || is_active(&self.handover, "west"));
        self.east.restart();
        wait_until(PATIENCE, || self.handover.metric("handover_backend_up", &[("backend", "east")]) == 1.0);
    }

    #[track_caller]
    fn expect_blocked(&self, why: &str) {
        let is_blocked = || self.handover.metric("handover_failback_blocked", &[("reason", "lag")]) == 1.0;
        wait_until(PATIENCE, is_blocked);
        let mut said = String::new();
        // A question that is not answered takes five seconds.
        let is_said = support::holds_within(3 * PATIENCE, || {
            said = console(&self.handover, "SHOW east");
            said.contains(why)
        });
        assert!(is_said, "{why:?} is not in {said}");
        assert!(is_active(&self.handover, "west"));
    }
}

#[test]
fn lag_within_the_tolerance_lets_the_failback_through() {
    let mut stand = LagStand::start(Answer::Availability(503), "tolerance = '1234ms'");
    // It says nothing of the active, which is not even asked; what it says of east keeps nobody from leaving it.
    stand.fail_over();
    stand.expect_blocked("lag: more than 1234ms behind: GET /v1/bdbs/<uid>/availability answers with 503");
    let why = console(&stand.handover, "WHY");
    assert!(why.contains("east (weight 2) is heavier, but not returned to: lag: it is too far behind"), "{why}");

    stand.rest.now(Answer::Availability(200));
    wait_until(PATIENCE, || is_active(&stand.handover, "east"));
    let heard = stand.rest.heard();
    let asked = heard.last().expect("it was asked");
    let wanted = "GET /v1/bdbs/7/availability?extend_check=lag&availability_lag_tolerance_ms=1234 HTTP/1.1\r\n";
    assert!(asked.starts_with(wanted), "{asked}");
    // admin@example.com:pass:word
    assert!(asked.contains("authorization: Basic YWRtaW5AZXhhbXBsZS5jb206cGFzczp3b3Jk\r\n"), "{asked}");

    // Over the tolerance again: the active stays.
    stand.rest.now(Answer::Availability(503));
    let rounds = || stand.handover.metric("handover_backend_health_checks_total", &[("backend", "east")]);
    let before = rounds();
    wait_until(PATIENCE, || rounds() >= before + 10.0);
    assert!(is_active(&stand.handover, "east"));
    assert_eq!(stand.handover.metric("handover_backend_up", &[("backend", "east")]), 1.0);
}

#[test]
fn whoever_cannot_be_asked_for_lag_is_not_returned_to() {
    let mut stand = LagStand::start(Answer::Status(401), "");
    stand.fail_over();
    stand.expect_blocked("lag: GET /v1/bdbs answers with 401");
    for (answer, why) in [
        (Answer::Garbage, "lag: GET /v1/bdbs: no whole answer: "),
        (Answer::List("[]".to_owned()), "lag: GET /v1/bdbs: none of 0 databases has an endpoint at 127.0.0.1:"),
        (Answer::List("{".repeat(50_000)), "lag: GET /v1/bdbs: not a list of databases: "),
        (Answer::Endless, "lag: GET /v1/bdbs: the answer is longer than 4194304 bytes"),
        (Answer::Silence, "lag: GET /v1/bdbs: no answer within 5s"),
    ] {
        stand.rest.now(answer);
        stand.expect_blocked(why);
    }
    stand.rest.now(Answer::Availability(200));
    wait_until(PATIENCE, || is_active(&stand.handover, "east"));
}

#[test]
fn a_rest_server_that_is_somebody_else_gets_no_password() {
    let other = Authority::named("somebody else");
    let mut stand = LagStand::trusting(&other.ca(), Authority::new(), Answer::Availability(200), "uid = 7");
    stand.fail_over();
    stand.expect_blocked("lag: GET /v1/bdbs/<uid>/availability: cannot connect: ");
    assert_eq!(stand.rest.heard(), Vec::<String>::new());
}

/// A program of the test's own, in a folder of its own.
struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new(text: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("handover-script-").tempdir().expect("a temporary folder");
        let script = Self { folder };
        std::fs::write(script.path(), format!("#!/bin/sh\ncd {}\n{text}\n", shown(script.folder.path())))
            .expect("written");
        std::fs::set_permissions(script.path(), std::fs::Permissions::from_mode(0o700)).expect("our file");
        script
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("check.sh")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.file(&format!("{name}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.file(name)).expect("renamed");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie has no command line.
    std::fs::read(Path::new("/proc").join(pid).join("cmdline")).is_ok_and(|line| !line.is_empty())
}

fn exec(script: &Script, modes: &str, more: &str) -> String {
    format!(
        "[backend.health]\nmodes = {modes}\n{more}[backend.health.exec]\ncommand = ['{}', 'an argument']\n",
        shown(&script.path())
    )
}

#[test]
fn a_program_says_who_can_serve() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let script = Script::new(
        "env > env.new; mv env.new env; echo \"$1\" > arguments.new; mv arguments.new arguments; cat said; \
         exit $(cat status)",
    );
    script.write("status", "0");
    script.write("said", "all is well\nreally");
    let configuration = backends(&east, &west, &exec(&script, "['write', 'exec']", ""));
    let handover = builder(&format!("{QUICK}{PATIENT}{configuration}"))
        .environment("HANDOVER__LOG__LEVEL", "debug")
        .environment("SECRET", "x")
        .start();
    wait_until(PATIENCE, || is_active(&handover, "east"));
    let environment = script.read("env");
    for line in [
        "HANDOVER_BACKEND=east".to_owned(),
        "HANDOVER_GROUP=default".to_owned(),
        format!("HANDOVER_ADDRESS=redis://{}", east.address()),
        "HANDOVER_HOST=127.0.0.1".to_owned(),
        format!("HANDOVER_PORT={}", east.port()),
        "HANDOVER_DATABASE=0".to_owned(),
    ] {
        assert!(environment.lines().any(|other| other == line), "{line} is not in\n{environment}");
    }
    assert!(!environment.contains("SECRET") && !environment.contains("HANDOVER__"), "{environment}");
    assert_eq!(script.read("arguments"), "an argument\n");

    // It is asked as long as the active needs probes: live traffic would replace them.
    script.write("said", "the disk is full\nand more");
    script.write("status", "3");
    wait_until(PATIENCE, || is_active(&handover, "west"));
    let shown_of_east = console(&handover, "SHOW east");
    let wanted = format!("failed: {}: exit status 3: the disk is full", shown(&script.path()));
    assert!(shown_of_east.contains(&wanted), "{shown_of_east}");
    script.write("status", "0");
    wait_until(PATIENCE, || is_active(&handover, "east"));
}

#[test]
fn a_program_that_hangs_is_ended_with_all_its_children() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let script = Script::new("echo $$ >> pids; test -e hang || exit 0; sleep 1000 & echo $! >> pids; wait");
    let configuration = backends(&east, &west, &exec(&script, "['exec']", "timeout = '500ms'\n"));
    let handover = builder(&format!("{QUICK}{configuration}")).start();
    wait_until(PATIENCE, || handover.metric("handover_backend_up", &[("backend", "east")]) == 1.0);
    script.write("hang", "");
    wait_until(PATIENCE, || is_active(&handover, "west"));
    let told = console(&handover, "SHOW east");
    assert!(told.contains("failed: no answer from the program of health.exec within 500 ms"), "{told}");
    // Never two at a time: a second is started when the first is gone.
    let lines = script.read("pids").lines().count();
    wait_until(PATIENCE, || script.read("pids").lines().count() > lines + 4);
    // One program and its child, but for those that were killed and have not yet had the time to die.
    let alive = || script.read("pids").lines().filter(|pid| is_alive(pid)).count();
    wait_until(PATIENCE, || alive() <= 2);
    // Our own end is theirs.
    assert_eq!(handover.finish(), 0);
    let pids = script.read("pids");
    wait_until(PATIENCE, || !pids.lines().any(is_alive));
}

#[test]
fn a_program_that_cannot_be_started_weakens_the_check() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let script = Script::new("exit 0");
    std::fs::remove_file(script.path()).expect("ours");
    let configuration = backends(&east, &west, &exec(&script, "['write', 'exec']", ""));
    let handover = builder(&format!("{QUICK}{configuration}"))
        .expect_warning("is no program that can be run now")
        .expect_warning("cannot be started: No such file or directory")
        .start();
    wait_until(PATIENCE, || is_active(&handover, "east"));
    let told = console(&handover, "SHOW east");
    assert!(told.contains("good, but") && told.contains("cannot be started"), "{told}");
}

/// The words of a conversation: what the script of [`a_program_that_goes_on_is_asked_a_line_at_a_time`] answers.
const CONVERSATION: &str = "echo $$ >> pids\nwhile read -r line; do echo \"$line\" > asked.new; mv asked.new asked; \
    test -e late && sleep 1 && rm -f late; cat said; test -e end && exit 4; done\necho ended >> pids";

#[test]
fn a_program_that_goes_on_is_asked_a_line_at_a_time() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let script = Script::new(CONVERSATION);
    script.write("said", "ok\n");
    let more = exec(&script, "['ping', 'exec']", "timeout = '500ms'\n") + "mode = 'stream'\n";
    let handover = builder(&format!("{QUICK}{}", backends(&east, &west, &more))).start();
    wait_until(PATIENCE, || is_active(&handover, "east"));
    assert_eq!(script.read("asked"), format!("check east redis://{}\n", east.address()));
    let good = || handover.metric("handover_backend_health_checks_total", &[("backend", "east"), ("result", "good")]);
    let before = good();
    wait_until(PATIENCE, || good() >= before + 10.0);
    assert_eq!(script.read("pids").lines().count(), 1, "started once");

    // A late answer is nobody's: the next question gets its own. What is shown of one is soon gone: they are late until
    // it was seen.
    wait_until(PATIENCE, || {
        script.write("late", "");
        console(&handover, "SHOW east").contains("no answer from the program of health.exec")
    });
    let before = good();
    wait_until(PATIENCE, || good() >= before + 10.0);

    script.write("said", "fail the moon is full\n");
    wait_until(PATIENCE, || is_active(&handover, "west"));
    let told = console(&handover, "SHOW east");
    assert!(told.contains(&format!("failed: {}: the moon is full", shown(&script.path()))), "{told}");

    // It ends: the check fails until it runs again.
    script.write("said", "ok\n");
    wait_until(PATIENCE, || is_active(&handover, "east"));
    script.write("end", "");
    wait_until(PATIENCE, || console(&handover, "SHOW east").contains("it is started again in"));
    std::fs::remove_file(script.file("end")).expect("ours");
    wait_until(PATIENCE, || handover.metric("handover_backend_up", &[("backend", "east")]) == 1.0);
    wait_until(PATIENCE, || script.read("pids").lines().count() > 1);

    // More than a line may have.
    script.write("said", &"x".repeat(5000));
    wait_until(PATIENCE, || console(&handover, "SHOW east").contains("sent a line of more than 1024 bytes"));
    assert_eq!(handover.finish(), 0);
    let pids = script.read("pids");
    wait_until(PATIENCE, || !pids.lines().any(is_alive));
}

/// Its next answers would be those to other questions: it is ended, and why is said.
#[test]
fn a_program_that_speaks_unasked_is_started_anew() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let script = Script::new(
        "echo $$ >> pids\nwhile read -r line; do echo ok; test -e chatty && echo 'fail a word too many'; done",
    );
    let more = exec(&script, "['exec']", "timeout = '5s'\n") + "mode = 'stream'\n";
    let handover = builder(&format!("{QUICK}failover.hold = '6s'\n{}", backends(&east, &west, &more))).start();
    wait_until(PATIENCE, || is_active(&handover, "east"));
    script.write("chatty", "");
    wait_until(PATIENCE, || console(&handover, "SHOW east").contains("said something that nobody asked for"));
    wait_until(PATIENCE, || is_active(&handover, "west"));
    assert!(!console(&handover, "SHOW east").contains("a word too many"), "an answer to no question");
    std::fs::remove_file(script.file("chatty")).expect("ours");
    wait_until(3 * PATIENCE, || is_active(&handover, "east"));
    assert!(script.read("pids").lines().count() > 1);
}

#[test]
fn a_refused_part_weakens_the_check_and_is_told() {
    for (rights, part) in [
        ("+@all -setrange", "SETRANGE refused: NOPERM"),
        ("+@all -role", "ROLE refused: NOPERM"),
        ("+@all -ping", "PING refused: NOPERM"),
    ] {
        let server = RedisServer::builder().user(&format!("weak on >pw ~* &* {rights}")).start();
        let configuration =
            format!("{QUICK}backend = [{{ name = 'east', url = 'redis://weak:pw@{}' }}]\n", server.address());
        let handover =
            builder(&configuration).allow_warning("there is nothing to hand over to").expect_warning(part).start();
        handover.expect_metric("handover_backend_up", &[("backend", "east")], 1.0);
        let is_told = || console(&handover, "SHOW east").contains(&format!("good, but {part}"));
        assert!(support::holds_within(PATIENCE, is_told), "{rights}: {}", console(&handover, "SHOW east"));
    }
    // HELLO only tells who the server is.
    let server = RedisServer::builder().user("weak on >pw ~* &* +@all -hello").start();
    let configuration =
        format!("{QUICK}backend = [{{ name = 'east', url = 'redis://weak:pw@{}' }}]\n", server.address());
    let handover = builder(&configuration).allow_warning("there is nothing to hand over to").start();
    handover.expect_metric("handover_backend_up", &[("backend", "east")], 1.0);
}

#[test]
fn a_round_ends_when_its_outcome_is_sure() {
    // Pings so far, and whether they are answered well.
    let (pings, is_well) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(true)));
    let (counting, asking) = (pings.clone(), is_well.clone());
    let server = FakeBackend::start(move |connection| {
        while let Some(command) = connection.read_command() {
            if command[0].eq_ignore_ascii_case(b"PING") {
                *counting.lock().expect("nobody panics with it") += 1;
                let is_well = *asking.lock().expect("nobody panics with it");
                connection.write(if is_well { "+PONG\r\n" } else { "-DENIED no\r\n" });
            } else {
                connection.write(courtesy(&command).unwrap_or_else(|| b"-ERR unknown command\r\n".to_vec()));
            }
        }
    });
    // With "all" three good ones make a round, and one bad one ends it.
    let configuration = format!(
        "{QUICK}health = {{ modes = ['ping'], probes = 3, probes_delay = '1ms', policy = 'all' }}\n\
         backend = [{{ name = 'east', url = 'redis://{}' }}]\n",
        server.address()
    )
    .replace("health.interval = '100ms'\nhealth.standby_interval = '100ms'\nhealth.rise = 1\n", "");
    let handover = builder(&configuration).allow_warning("there is nothing to hand over to").start();
    let of = |result| handover.metric("handover_backend_health_checks_total", &[("result", result)]);
    wait_until(PATIENCE, || of("good") >= 2.0);
    let (rounds, asked) = (of("good"), *pings.lock().expect("nobody panics with it"));
    assert!(f64::from(asked) >= 3.0 * rounds, "{asked} pings in {rounds} rounds");
    *is_well.lock().expect("nobody panics with it") = false;
    wait_until(PATIENCE, || of("bad") >= 1.0);
    let (before, asked) = (of("bad"), *pings.lock().expect("nobody panics with it"));
    wait_until(PATIENCE, || of("bad") >= before + 10.0);
    let more = *pings.lock().expect("nobody panics with it") - asked;
    let rounds = of("bad") - before;
    assert!(f64::from(more) <= rounds * 1.5, "{more} pings in {rounds} rounds and one that may be under way");
}
