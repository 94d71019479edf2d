//! A program that is started for each record, one at a time, with a time limit.

use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{Kinds, Reader};
use crate::config::CommandSettings;
use crate::logic::record::EventRecord;

/// Of what it writes to standard error, for the log.
const COMPLAINT_BYTES_MAX: usize = 512;
/// For reading that once it has ended.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

/// Starts the program; to be run.
#[derive(Debug)]
pub struct Program {
    /// What to start.
    pub settings: CommandSettings,
    /// For which records.
    pub kinds: Kinds,
    /// Its place.
    pub reader: Reader,
}

impl Program {
    /// Starts it for each record until `stop`, which kills what runs.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_failing = false;
        while let Some(record) = self.reader.next().await {
            if !self.kinds.contain(record.happening.kind) {
                continue;
            }
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = self.start(&record) => outcome,
            };
            let program = self.settings.program.as_str();
            match outcome {
                Ok(()) if std::mem::take(&mut is_failing) => {
                    tracing::info!(program, "the program on events works again")
                }
                Ok(()) => {}
                Err(problem) => {
                    self.reader.dropped();
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(program, problem, "the program on events failed");
                    }
                }
            }
        }
    }

    async fn start(&self, record: &EventRecord) -> Result<(), String> {
        let mut group = Group::start(self.command(record)).map_err(|error| format!("cannot be started: {error}"))?;
        let limit = self.settings.timeout;
        match tokio::time::timeout(limit, converse(&mut group.child, record.json())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(problem)) => Err(problem),
            Err(_) => Err(format!("it had not ended after {limit:?} and was killed")),
        }
    }

    /// With nothing of our environment but the PATH: there may be secrets in it.
    fn command(&self, record: &EventRecord) -> Command {
        let details = &record.happening.details;
        let mut command = Command::new(&self.settings.program);
        command.args(&self.settings.arguments).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("HANDOVER_EVENT_KIND", record.happening.kind.label());
        command.env("HANDOVER_EVENT_ID", record.id.to_string());
        let mut set = |name: &str, value: Option<&String>| {
            if let Some(value) = value.filter(|value| !value.contains('\0')) {
                command.env(name, OsStr::new(value));
            }
        };
        set("HANDOVER_EVENT_GROUP", record.group.as_ref());
        set("HANDOVER_EVENT_FROM", details.from.as_ref());
        set("HANDOVER_EVENT_TO", details.to.as_ref());
        set("HANDOVER_EVENT_BACKEND", details.backend.as_ref());
        command
    }
}

/// The record goes in, the exit status comes out. Who does not read it all may do so.
async fn converse(child: &mut Child, record: String) -> Result<(), String> {
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            let _ = input.write_all(record.as_bytes()).await;
            let _ = input.write_all(b"\n").await;
        }
    };
    let read = async {
        match errors {
            Some(errors) => complaint(errors).await,
            None => String::new(),
        }
    };
    let mut pumps = std::pin::pin!(async { tokio::join!(write, read).1 });
    let mut complaint = None;
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status,
            said = &mut pumps, if complaint.is_none() => complaint = Some(said),
        }
    };
    // What it left running in the background may hold its standard error for long.
    if complaint.is_none() {
        complaint = tokio::time::timeout(LAST_WORDS_MAX, pumps).await.ok();
    }
    let complaint = complaint.unwrap_or_default();
    let status = status.map_err(|error| error.to_string())?;
    let said = if complaint.is_empty() { String::new() } else { format!(", and said: {complaint}") };
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}{said}")) }
}

/// The beginning of what it says; the rest is read and forgotten, so that it is not stopped by a full pipe.
async fn complaint(mut errors: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(bytes @ 1..) = errors.read(&mut chunk).await {
        let room = COMPLAINT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&chunk[..bytes.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// A child in a process group of its own, which is killed if the child has not ended by itself.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, leader })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only while it was not waited for: its number may be another's afterwards.
        if let Some(leader) = self.leader.filter(|_| self.child.id().is_some()) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::events::EventHub;
    use crate::logic::record::Happening;
    use crate::telemetry::counters::Way;

    const LONG: Duration = Duration::from_secs(20);

    fn program(script: &str, timeout: Duration) -> (Program, Arc<EventRecord>) {
        let hub = EventHub::new(Arc::default(), CancellationToken::new());
        let record = hub.publish(Some("default"), Some(1), Happening::switch_refused("west", "console", "no"));
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let settings = CommandSettings { program: "sh".to_owned(), arguments, timeout };
        (Program { settings, kinds: Kinds::all(), reader: hub.subscribe(Way::Command) }, record)
    }

    #[tokio::test]
    async fn a_program_gets_the_record_and_a_bare_environment() {
        let script = r#"read -r line; case "$line" in '{"schema":1,'*'"to":"west"'*) ;; *) exit 3;; esac
            [ "$HANDOVER_EVENT_KIND $HANDOVER_EVENT_TO $HANDOVER_EVENT_GROUP" = "switch_refused west default" ] || exit 4
            [ -z "$CARGO_MANIFEST_DIR$HOME" ] || exit 5"#;
        let (program, record) = program(script, LONG);
        assert_eq!(program.start(&record).await, Ok(()));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_said() {
        let (refuses, record) = program("echo no way >&2; exit 7", LONG);
        let error = refuses.start(&record).await.unwrap_err();
        assert!(error.contains("exit status: 7") && error.contains("no way"), "{error}");
        let (chatters, record) = program("head -c 1000000 /dev/zero >&2; exit 1", LONG);
        assert!(chatters.start(&record).await.unwrap_err().len() < 2_000);
        let (mut absent, record) = program("", LONG);
        absent.settings.program = "/nonexistent/program".to_owned();
        assert!(absent.start(&record).await.unwrap_err().contains("cannot be started"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", mark.display());
        let (hangs, record) = program(&script, Duration::from_secs(2));
        let error = hangs.start(&record).await.unwrap_err();
        assert!(error.contains("was killed"), "{error}");
        let grandchild = std::fs::read_to_string(&mark).unwrap();
        let stat = format!("/proc/{}/stat", grandchild.trim());
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + LONG;
        while !is_gone() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(is_gone(), "process {grandchild} still runs");
    }
}
