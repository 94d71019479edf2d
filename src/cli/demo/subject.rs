//! Handover itself, as a child of the demo: started as anybody would, watched by its log and its `/status`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Event;
use super::notice::{self, Status};
use super::process::{Folder, Process, Starter};
use super::server::Server;

const CONFIGURATION: &str = include_str!("../../../config/demo.toml");

const STATUS_EVERY: Duration = Duration::from_millis(200);

const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// A log line is never longer; what is, is cut.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Starts it between clients and these servers; its log comes as events.
pub(super) fn start(
    starter: &Starter,
    folder: &Folder,
    servers: [(&Server, &str); 2],
    events: &SyncSender<Event>,
) -> Result<Process> {
    let file = folder.path.join("demo.toml");
    std::fs::write(&file, CONFIGURATION).with_context(|| format!("cannot write {}", file.display()))?;
    let program = std::env::current_exe().context("cannot find the program that runs here")?;
    let mut process = starter
        .start(&program, |command| {
            command.args(["run", "--listen", "127.0.0.1:0"]).arg("-c").arg(&file);
            command.args(["--set", "admin.http=127.0.0.1:0", "--set", "log.format=json", "--set", "log.level=info"]);
            for (server, weight) in servers {
                let backend = format!("{}=redis://127.0.0.1:{},weight={weight}", server.name, server.port);
                command.args(["--backend", &backend]);
            }
            // Settings and state of another Handover on this machine are none of the demo's.
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            for name in names.filter(|name| name.starts_with("HANDOVER__")) {
                command.env_remove(name);
            }
            for name in ["STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"] {
                command.env_remove(name);
            }
            command.current_dir(&folder.path).stdout(Stdio::null()).stderr(Stdio::piped());
        })
        .with_context(|| format!("cannot start {}", program.display()))?;
    let log = process.child.stderr.take().context("the log is piped")?;
    let events = events.clone();
    thread::Builder::new().name("log".to_owned()).spawn(move || follow(log, &events))?;
    Ok(process)
}

fn follow(log: ChildStderr, events: &SyncSender<Event>) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    while log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let found = notice::notice(&String::from_utf8_lossy(&line));
        if let Some(found) = found
            && events.send(Event::Notice(found)).is_err()
        {
            return;
        }
        line.clear();
    }
    // Nobody listens any more only when the demo itself ends.
    let _ = events.send(Event::HandoverEnded);
}

/// Looks at `/status` from now on, as long as somebody wants to know.
pub(super) fn watch(admin: SocketAddr, events: &SyncSender<Event>) -> Result<()> {
    let events = events.clone();
    let watching = move || {
        while look(admin).is_none_or(|status| events.send(Event::Status(status)).is_ok()) {
            thread::sleep(STATUS_EVERY);
        }
    };
    thread::Builder::new().name("status".to_owned()).spawn(watching)?;
    Ok(())
}

fn look(admin: SocketAddr) -> Option<Status> {
    let mut stream = TcpStream::connect_timeout(&admin, STATUS_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT)).ok()?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    notice::status(answer.split_once("\r\n\r\n")?.1)
}
