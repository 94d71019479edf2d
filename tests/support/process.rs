//! Child processes that do not outlive the test: signals by pid, bounded waits, collected output.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::{PATIENCE, find_on_path, holds_within};

/// A child and every line it wrote to stdout and stderr.
pub struct Process {
    child: Child,
    lines: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

/// Lines of output; `arrived` tells of each, and of the end.
#[derive(Default)]
struct Lines {
    written: Mutex<Vec<String>>,
    arrived: Condvar,
}

impl Process {
    /// Starts `program` with `arguments`; the kernel kills it when the test process dies.
    ///
    /// `configure` may set environment and folder.
    #[track_caller]
    pub fn start(program: &str, arguments: &[&str], configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = tied_to_our_life(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        configure(&mut command);
        let mut child = spawn(command).unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        let lines = Arc::new(Lines::default());
        let stdout = collect(child.stdout.take().expect("stdout is piped"), &lines);
        let stderr = collect(child.stderr.take().expect("stderr is piped"), &lines);
        Self { child, lines, readers: vec![stdout, stderr] }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this very process; a dead one is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).expect("a child that was not waited for can be signalled");
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a killed child can be waited for");
        self.readers.drain(..).for_each(|reader| reader.join().expect("a reader of lines does not panic"));
    }

    /// Whether SIGSTOP has taken effect (the state in `/proc` is `T`).
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be waited for")
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let ended = holds_within(PATIENCE, || self.exit_status().is_some());
        assert!(ended, "process {} did not end within {PATIENCE:?}; it wrote:\n{}", self.pid(), self.output());
        self.readers.drain(..).for_each(|reader| reader.join().expect("a reader of lines does not panic"));
        self.exit_status().expect("it ended")
    }

    /// Everything written so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.written.lock().expect("no reader panicked").clone()
    }

    /// Everything written so far, as one text.
    pub fn output(&self) -> String {
        self.lines().join("\n")
    }

    /// The first line, old or new, that `wanted` accepts, or `None` after `bound`.
    pub fn find_line(&self, bound: Duration, mut wanted: impl FnMut(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + bound;
        let mut written = self.lines.written.lock().expect("no reader panicked");
        let mut seen = 0;
        loop {
            if let Some(line) = written[seen..].iter().find(|line| wanted(line)) {
                return Some(line.clone());
            }
            seen = written.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            written = self.lines.arrived.wait_timeout(written, left).expect("no reader panicked").0;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Lines>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines.written.lock().expect("no reader panicked").push(text);
            lines.arrived.notify_all();
            line.clear();
        }
    })
}

/// `setpriv` (util-linux) asks the kernel for SIGKILL at our death and then becomes the program, so the pid is its own.
fn tied_to_our_life(program: &str) -> Command {
    let Some(setpriv) = find_on_path("setpriv") else { return Command::new(program) };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// Starts from a thread that lives as long as the process: the kernel's "parent" is the starting thread, and a
/// test's thread may end before its children should.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                answer.send(command.spawn()).expect("whoever ordered waits for the answer");
            }
        });
        orders
    });
    let (answer, outcome) = channel();
    starter.send((command, answer)).expect("the starter lives as long as the process");
    outcome.recv().expect("the starter answers every order")
}
