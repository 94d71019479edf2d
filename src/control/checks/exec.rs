//! The check by a program: one that is started for each probe, or one that goes on and is asked a line at a time.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::program::{Program, Running, ending, url_of};
use crate::config::{Backend, ExecCheck, ExecMode};
use crate::control::now;
use crate::logic::backoff::Backoff;
use crate::logic::health::ProbeVerdict;

/// The most of a line that is read.
const LINE_BYTES_MAX: u64 = 1024;
/// The most of a line that a verdict repeats.
const TEXT_CHARS_MAX: usize = 200;
/// How long what a program wrote is still read when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Between two starts of a program that ends though it should go on: the first wait, and the longest.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Questions in a row without an answer after which a program is started anew.
const UNANSWERED_MAX: u32 = 3;

/// Asks a program whether one backend can serve. `Err` says why it could not be asked, which says nothing of the backend.
pub(super) enum ProgramCheck {
    Once(Box<Once>),
    Stream(Box<Conversation>),
}

impl ProgramCheck {
    pub(super) fn new(group: &str, backend: &Backend, check: &ExecCheck) -> Self {
        let program = Program::new(&check.command, group, backend);
        match check.mode {
            ExecMode::Once => Self::Once(Box::new(Once { program, running: None })),
            ExecMode::Stream => Self::Stream(Box::new(Conversation::new(program, backend))),
        }
    }

    pub(super) async fn probe(&mut self) -> Result<ProbeVerdict, String> {
        match self {
            Self::Once(once) => once.probe().await,
            Self::Stream(conversation) => conversation.probe().await,
        }
    }
}

/// A program that is started for each probe: exit status 0 is good, and its first line says why not.
pub(super) struct Once {
    program: Program,
    /// The one of the last probe, until it was reaped: there is never more than one.
    running: Option<Running>,
}

impl Once {
    async fn probe(&mut self) -> Result<ProbeVerdict, String> {
        if let Some(last) = &mut self.running {
            // It was killed when its probe was given up; before it is gone there is no other.
            let _ = last.child.wait().await;
        }
        let started = self.program.start(Stdio::null());
        let (running, output) = started.map_err(|error| cannot_start(&self.program, &error))?;
        let guard = Guarded(self.running.insert(running));
        let mut line = Vec::new();
        let status = {
            let reading = async {
                if let Some(output) = output {
                    first_line(output, &mut line).await;
                }
            };
            tokio::pin!(reading);
            tokio::select! {
                status = guard.0.child.wait() => {
                    // A child of its own may keep its output open: what it said is there by now.
                    let _ = timeout(LAST_WORDS, reading).await;
                    status
                }
                () = &mut reading => guard.0.child.wait().await,
            }
        };
        Ok(judged(&self.program, status, &line))
    }
}

/// Reads to the end, so that the program never waits for us, and keeps the first line.
async fn first_line(output: ChildStdout, line: &mut Vec<u8>) {
    let mut reader = BufReader::new(output).take(LINE_BYTES_MAX);
    let _ = reader.read_until(b'\n', line).await;
    let _ = tokio::io::copy_buf(&mut reader.into_inner(), &mut tokio::io::sink()).await;
}

fn judged(program: &Program, status: std::io::Result<std::process::ExitStatus>, line: &[u8]) -> ProbeVerdict {
    match status {
        Ok(status) if status.success() => ProbeVerdict::good(),
        Ok(status) => {
            ProbeVerdict::failed(with_text(format!("{}: {}", program.path(), ending(status)), &printable(line)))
        }
        Err(error) => ProbeVerdict::failed(format!("{}: {error}", program.path())),
    }
}

/// Ends the program when the probe is given up.
struct Guarded<'a>(&'a mut Running);

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A program that goes on: `check <backend> <url>` goes in, `ok` or `fail <why>` comes out, in order.
pub(super) struct Conversation {
    program: Program,
    question: String,
    peer: Option<Peer>,
    backoff: Backoff,
    /// Not started before.
    restart_at: Option<Instant>,
    /// Why it is not running.
    ended: String,
}

/// The program while it runs.
struct Peer {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// A line that has begun to come.
    line: Vec<u8>,
    /// Of the question that is being written.
    unwritten: Vec<u8>,
    /// Answers that are owed to probes that were given up.
    owed: u32,
    /// It has answered, and whether it says more than that is not known yet.
    has_answered: bool,
}

/// Why there is no answer.
enum NoAnswer {
    Ended,
    Endless,
}

impl Conversation {
    fn new(program: Program, backend: &Backend) -> Self {
        let question = format!("check {} {}\n", backend.name, url_of(backend));
        let backoff = Backoff::new(RESTART_WAIT.0, RESTART_WAIT.1);
        Self { program, question, peer: None, backoff, restart_at: None, ended: String::new() }
    }

    async fn probe(&mut self) -> Result<ProbeVerdict, String> {
        if let Some(peer) = &mut self.peer {
            peer.read_what_is_there().await;
            if peer.owed >= UNANSWERED_MAX {
                self.stop(format!("did not answer {UNANSWERED_MAX} times"));
            } else if peer.speaks_unasked().await {
                // From here on each answer would be taken for that to another question.
                self.stop("said something that nobody asked for: one line for each question is right".to_owned());
            } else if peer.has_answered {
                self.backoff.reset();
            }
        }
        if self.peer.is_none() {
            if let Some(wait) = self.restart_at.and_then(|at| at.checked_duration_since(now())) {
                let cause =
                    format!("{} {}; it is started again in {} ms", self.program.path(), self.ended, wait.as_millis());
                return Ok(ProbeVerdict::failed(cause));
            }
            self.start()?;
        }
        let Some(peer) = &mut self.peer else { return Err(String::new()) };
        match peer.ask(self.question.as_bytes()).await {
            Ok(line) => {
                peer.has_answered = true;
                Ok(meaning(&self.program, &line))
            }
            Err(why) => {
                let ended = match why {
                    NoAnswer::Endless => format!("sent a line of more than {LINE_BYTES_MAX} bytes"),
                    NoAnswer::Ended => match peer.running.child.try_wait() {
                        Ok(Some(status)) => format!("ended with {}", ending(status)),
                        _ => "closed its input or output".to_owned(),
                    },
                };
                let cause = format!("{} {ended}", self.program.path());
                self.stop(ended);
                Ok(ProbeVerdict::failed(cause))
            }
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let started = self.program.start(Stdio::piped());
        let (mut running, output) = started.map_err(|error| cannot_start(&self.program, &error))?;
        let (Some(input), Some(output)) = (running.child.stdin.take(), output) else {
            return Err(format!("{} has no input or output", self.program.path()));
        };
        let output = BufReader::with_capacity(LINE_BYTES_MAX as usize, output);
        let (line, unwritten) = (Vec::new(), Vec::new());
        self.peer = Some(Peer { running, input, output, line, unwritten, owed: 0, has_answered: false });
        Ok(())
    }

    fn stop(&mut self, ended: String) {
        self.peer = None;
        self.ended = ended;
        self.restart_at = Some(now() + self.backoff.grow());
    }
}

impl Peer {
    /// Asks, and waits for the answer; one that is given up is owed from then on, and read before the next one's.
    async fn ask(&mut self, question: &[u8]) -> Result<Vec<u8>, NoAnswer> {
        let waits_for = self.owed;
        self.owed += 1;
        self.unwritten.extend_from_slice(question);
        self.write().await?;
        for _ in 0..waits_for {
            self.read_line().await?;
            self.owed -= 1;
        }
        let line = self.read_line().await?;
        self.owed -= 1;
        Ok(line)
    }

    /// Takes the answers that have come since they were given up.
    async fn read_what_is_there(&mut self) {
        while self.owed > 0 {
            tokio::select! {
                biased;
                // What is wrong with it shows again when it is asked.
                line = self.read_line() => match line {
                    Ok(_) => self.owed -= 1,
                    Err(_) => return,
                },
                () = std::future::ready(()) => return,
            }
        }
    }

    /// Whether there is something to read although every question has its answer.
    async fn speaks_unasked(&mut self) -> bool {
        if self.owed > 0 {
            return false;
        }
        tokio::select! {
            biased;
            chunk = self.output.fill_buf() => chunk.is_ok_and(|chunk| !chunk.is_empty()),
            () = std::future::ready(()) => false,
        }
    }

    async fn write(&mut self) -> Result<(), NoAnswer> {
        while !self.unwritten.is_empty() {
            let written = self.input.write(&self.unwritten).await.map_err(|_| NoAnswer::Ended)?;
            self.unwritten.drain(..written);
        }
        Ok(())
    }

    /// A whole line; what came of one stays here if the caller gives up.
    async fn read_line(&mut self) -> Result<Vec<u8>, NoAnswer> {
        while self.line.last() != Some(&b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len() as u64);
            if room == 0 {
                return Err(NoAnswer::Endless);
            }
            let chunk = self.output.fill_buf().await.map_err(|_| NoAnswer::Ended)?;
            if chunk.is_empty() {
                return Err(NoAnswer::Ended);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n').map_or(chunk.len(), |at| at + 1);
            let end = end.min(usize::try_from(room).unwrap_or(end));
            self.line.extend_from_slice(&chunk[..end]);
            self.output.consume(end);
        }
        Ok(std::mem::take(&mut self.line))
    }
}

/// What a line of a program that goes on means.
fn meaning(program: &Program, line: &[u8]) -> ProbeVerdict {
    let line = printable(line);
    let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
    match verb {
        "ok" => ProbeVerdict::good(),
        "fail" => ProbeVerdict::failed(with_text(program.path().to_owned(), rest)),
        _ => ProbeVerdict::failed(format!("{} answered neither \"ok\" nor \"fail …\": {line:?}", program.path())),
    }
}

fn cannot_start(program: &Program, error: &std::io::Error) -> String {
    format!("{} cannot be started: {error}", program.path())
}

fn with_text(what: String, text: &str) -> String {
    if text.is_empty() { what } else { format!("{what}: {text}") }
}

/// A program's text as it may appear in a log.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim().chars().take(TEXT_CHARS_MAX);
    text.map(|char| if char.is_control() { '?' } else { char }).collect()
}
