//! Handover itself, as a process: its ports, its log, its HTTP answers, its end. Every warning must be declared.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use toml::{Table, Value as Item};

use super::process::{Process, Signal};
use super::{PATIENCE, RawClient, ReservedPort, holds_within};

/// A running Handover.
///
/// When it is finished or dropped, each line of level WARN or ERROR must match a declaration, or the test fails.
pub struct Handover {
    process: Process,
    listeners: Vec<SocketAddr>,
    http: ReservedPort,
    folder: TempDir,
    warnings: Mutex<Warnings>,
    judged: bool,
}

/// How Handover is to be started.
pub struct HandoverBuilder {
    configuration: Table,
    program: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    warnings: Warnings,
    waits_for_serving: bool,
}

#[derive(Default)]
struct Warnings {
    expected: Vec<String>,
    allowed: Vec<String>,
}

/// What a machine that has no time for anybody may cause, and no test is about: nobody declares it.
const OVERLOADED: [&str; 2] =
    ["probes fail although live traffic is answered", "workers did not acknowledge a switch in time"];

/// One line of the log, which is JSON.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// As it was written.
    pub text: String,
    parsed: serde_json::Value,
}

/// An answer over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, 503 …
    pub status: u16,
    /// Everything after the head.
    pub body: String,
}

impl Handover {
    /// Starts with a configuration (TOML); it serves when this returns. Filled in where missing: one listener on a
    /// free port of loopback, the HTTP address. The log is always JSON.
    #[track_caller]
    pub fn start(configuration: &str) -> Self {
        Self::builder(configuration).start()
    }

    /// For anything else.
    #[track_caller]
    pub fn builder(configuration: &str) -> HandoverBuilder {
        HandoverBuilder {
            configuration: configuration.parse().unwrap_or_else(|error| panic!("the test's TOML: {error}")),
            program: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            warnings: Warnings::default(),
            waits_for_serving: true,
        }
    }

    /// The port of the first TCP listener.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The address of the first TCP listener.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        *self.listeners.first().expect("a TCP listener")
    }

    /// The addresses of all TCP listeners, in the order in which they were announced.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// A new client connection to the first listener.
    #[track_caller]
    pub fn client(&self) -> RawClient {
        RawClient::connect(self.address())
    }

    /// Its folder, with `config.toml`, `state/` and `run/`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration file, to be changed before a reload.
    pub fn configuration_file(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    /// Its console's socket.
    pub fn console_socket(&self) -> PathBuf {
        self.folder().join("run/console.sock")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Asks it to stop (SIGTERM), waits, judges its warnings; returns its exit code.
    #[track_caller]
    pub fn finish(mut self) -> i32 {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        self.judge_warnings();
        status.code().unwrap_or_else(|| panic!("ended by a signal ({status}); its log:\n{}", self.process.output()))
    }

    /// Declares that a line of level WARN or ERROR containing `part` must have come by the end.
    pub fn expect_warning(&self, part: &str) {
        self.warnings.lock().expect("nobody panics with it").expected.push(part.to_owned());
    }

    /// Declares that such lines may come.
    pub fn allow_warning(&self, part: &str) {
        self.warnings.lock().expect("nobody panics with it").allowed.push(part.to_owned());
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<LogLine> {
        self.process.lines().iter().map(|line| LogLine::parse(line)).collect()
    }

    /// Waits for a line of the log, old or new, that `wanted` accepts.
    #[track_caller]
    pub fn wait_for_log(&self, wanted: impl Fn(&LogLine) -> bool, bound: Duration) -> LogLine {
        match self.process.find_line(bound, |line| wanted(&LogLine::parse(line))) {
            Some(line) => LogLine::parse(&line),
            None => panic!("no such line within {bound:?}; the log:\n{}", self.process.output()),
        }
    }

    /// Where its HTTP side listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http.address()
    }

    /// `GET path` of its HTTP side.
    #[track_caller]
    pub fn http_get(&self, path: &str) -> Response {
        self.try_http_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The sum of the samples of metric `name` that carry all of `labels`; 0 when there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = self.http_get("/metrics").body;
        samples.lines().filter_map(|line| sample(line, name, &labels)).sum()
    }

    /// Waits until the sum of the samples is `expected`: metrics follow the data path a moment later.
    #[track_caller]
    pub fn expect_metric(&self, name: &str, labels: &[(&str, &str)], expected: f64) {
        let is_expected = super::holds_within(PATIENCE, || self.metric(name, labels) == expected);
        assert!(is_expected, "{name} {labels:?} is {}, not {expected}", self.metric(name, labels));
    }

    /// Waits until the process is ready: commands may be answered a moment before the control plane says so.
    #[track_caller]
    pub fn expect_ready(&self) {
        let is_ready = super::holds_within(PATIENCE, || self.http_get("/readyz").status == 200);
        assert!(is_ready, "not ready: {}", self.http_get("/readyz").body);
    }

    /// As [`Handover::http_get`], for moments at which nobody may be listening.
    pub fn try_http_get(&self, path: &str) -> std::io::Result<Response> {
        let mut stream = TcpStream::connect(self.http.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the answer comes in one piece and ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let broken = || std::io::Error::other(format!("not an HTTP answer: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
        Ok(Response { status, body: body.to_owned() })
    }

    /// A line may be on its way still; that it never comes is for the judgement.
    fn await_expected_warnings(&self) {
        let expected = self.warnings.lock().expect("nobody panics with it").expected.clone();
        for part in expected {
            self.process.find_line(PATIENCE, |line| line.contains(&part));
        }
    }

    #[track_caller]
    fn judge_warnings(&mut self) {
        self.judged = true;
        let warnings = self.warnings.lock().expect("nobody panics with it");
        let log = self.log();
        let undeclared: Vec<_> =
            log.iter().filter(|line| line.is_warning() && !warnings.cover(line)).map(|line| &line.text).collect();
        assert!(undeclared.is_empty(), "warnings that the test did not declare: {undeclared:#?}");
        for part in &warnings.expected {
            let came = log.iter().any(|line| line.is_warning() && line.text.contains(part));
            assert!(came, "the expected warning {part:?} never came; the log:\n{}", self.process.output());
        }
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.judged {
            self.await_expected_warnings();
        }
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("the log of Handover:\n{}", self.process.output());
        } else if !self.judged {
            self.judge_warnings();
        }
    }
}

impl HandoverBuilder {
    /// Another build of Handover than [`super::program`].
    pub fn program(mut self, program: &str) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// One more argument on the command line.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more environment variable; nothing else but the PATH is inherited.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As [`Handover::expect_warning`].
    pub fn expect_warning(mut self, part: &str) -> Self {
        self.warnings.expected.push(part.to_owned());
        self
    }

    /// As [`Handover::allow_warning`].
    pub fn allow_warning(mut self, part: &str) -> Self {
        self.warnings.allowed.push(part.to_owned());
        self
    }

    /// Returns from `start` once the listeners listen, for tests in which no backend is there.
    pub fn without_waiting_for_serving(mut self) -> Self {
        self.waits_for_serving = false;
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Handover {
        let http = ReservedPort::take();
        self.fill_in(&http);
        let folder = tempfile::Builder::new().prefix("handover-").tempdir().expect("a temporary folder");
        let text = toml::to_string(&self.configuration).expect("a parsed table can be written");
        std::fs::write(folder.path().join("config.toml"), text).expect("a file in a fresh folder");
        let process = self.launch(folder.path());
        let mut handover = Handover {
            process,
            listeners: Vec::new(),
            http,
            folder,
            warnings: Mutex::new(self.warnings),
            judged: false,
        };
        handover.wait_for_listeners(listeners_of(&self.configuration).len());
        if self.waits_for_serving {
            handover.wait_for_log(|line| line.message() == "serving", PATIENCE);
        }
        handover
    }

    fn fill_in(&mut self, http: &ReservedPort) {
        let listener = Table::from_iter([("bind".to_owned(), Item::from("127.0.0.1:0"))]);
        self.configuration.entry("listener").or_insert_with(|| Item::from(vec![listener]));
        for (table, key, value) in [("admin", "http", http.address().to_string()), ("log", "format", "json".into())] {
            let table = self.configuration.entry(table).or_insert_with(|| Table::new().into());
            table.as_table_mut().expect("[admin] and [log] are tables").entry(key).or_insert(value.into());
        }
    }

    #[track_caller]
    fn launch(&self, folder: &Path) -> Process {
        let private = |name: &str| {
            let path = folder.join(name);
            std::fs::DirBuilder::new().mode(0o700).create(&path).expect("a folder in a fresh folder");
            path
        };
        let (state, run) = (private("state"), private("run"));
        let file = folder.join("config.toml");
        let mut arguments = vec!["-c", file.to_str().expect("a path in UTF-8")];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let program = self.program.clone().unwrap_or_else(super::program);
        Process::start(&program, &arguments, |command| {
            command.env_clear().env("RUST_BACKTRACE", "1").env("STATE_DIRECTORY", state).env("RUNTIME_DIRECTORY", run);
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
            command.envs(self.environment.iter().map(|(name, value)| (name, value))).current_dir(folder);
        })
    }
}

impl Handover {
    #[track_caller]
    fn wait_for_listeners(&mut self, count: usize) {
        let announced = |process: &Process| -> Vec<LogLine> {
            let lines = process.lines();
            lines.iter().map(|line| LogLine::parse(line)).filter(|line| line.message() == "listening").collect()
        };
        let all = || self.process.exit_status().is_some() || announced(&self.process).len() >= count;
        holds_within(PATIENCE, all);
        let announced = announced(&self.process);
        assert!(announced.len() >= count, "Handover does not listen; its log:\n{}", self.process.output());
        self.listeners = announced.iter().filter_map(|line| line.field("address").parse().ok()).collect();
    }
}

impl Warnings {
    fn cover(&self, line: &LogLine) -> bool {
        let declared = self.expected.iter().chain(&self.allowed).map(String::as_str);
        declared.chain(OVERLOADED).any(|part| line.text.contains(part))
    }
}

impl LogLine {
    /// Reads a line, whether its fields are nested or flat.
    pub fn parse(text: &str) -> Self {
        Self { text: text.to_owned(), parsed: serde_json::from_str(text).unwrap_or_default() }
    }

    /// What the line says, without its fields; empty when the line is not of the log.
    pub fn message(&self) -> String {
        self.field("message")
    }

    /// `INFO`, `WARN` …
    pub fn level(&self) -> String {
        self.field("level").to_ascii_uppercase()
    }

    /// A field, as text; empty when there is none.
    pub fn field(&self, name: &str) -> String {
        match self.parsed.get(name).or_else(|| self.parsed.get("fields")?.get(name)) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// A warning, an error, or a line that is not JSON, such as a panic's.
    pub fn is_warning(&self) -> bool {
        self.parsed.is_null() || matches!(self.level().as_str(), "WARN" | "ERROR")
    }
}

fn listeners_of(configuration: &Table) -> &[Item] {
    configuration["listener"].as_array().map_or(&[], Vec::as_slice)
}

/// The value of a line of the Prometheus text format, if it is a sample of `name` with all of `labels`.
fn sample(line: &str, name: &str, labels: &[String]) -> Option<f64> {
    let (series, value) = line.rsplit_once(' ')?;
    let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
    let wanted = found == name && labels.iter().all(|label| found_labels.contains(label.as_str()));
    wanted.then(|| value.parse().ok())?
}
