//! A program of the operator's, started by us: what it is told, and that it ends when we say so.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdout, Command};

use crate::config::{Address, Backend};

/// Variables of our own environment that a program gets; all others stay here, since passwords may be among them.
pub(in crate::control) const PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// A program with its arguments and environment.
#[derive(Clone, Debug)]
pub(super) struct Program {
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Program {
    /// `command` is not empty. The environment names the backend; no password is in it.
    pub(super) fn new(command: &[String], group: &str, backend: &Backend) -> Self {
        let address = backend.health_check_address.as_ref().unwrap_or(&backend.address);
        let (host, port) = match address {
            Address::Tcp(host, port) => (host.clone(), port.to_string()),
            Address::Unix(_) => (String::new(), String::new()),
        };
        let named = [
            ("HANDOVER_GROUP", group.to_owned()),
            ("HANDOVER_BACKEND", backend.name.clone()),
            ("HANDOVER_ADDRESS", url_of(backend)),
            ("HANDOVER_HOST", host),
            ("HANDOVER_PORT", port),
            ("HANDOVER_DATABASE", backend.database.to_string()),
        ];
        let passed = PASSED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let environment = passed.chain(named.map(|(name, value)| (name.to_owned(), value))).collect();
        Self { words: command.to_vec(), environment }
    }

    /// Starts it in a process group of its own.
    pub(super) fn start(&self, stdin: Stdio) -> io::Result<(Running, Option<ChildStdout>)> {
        let (first, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(first)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take();
        Ok((Running { child }, output))
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

/// Where a backend is probed, as a URL without user, password and database.
pub(super) fn url_of(backend: &Backend) -> String {
    let scheme = if backend.tls.is_some() { "rediss" } else { "redis" };
    match backend.health_check_address.as_ref().unwrap_or(&backend.address) {
        address @ Address::Unix(_) => address.to_string(),
        address @ Address::Tcp(..) => format!("{scheme}://{address}"),
    }
}

/// A program that was started; dropped, it and its whole process group end.
#[derive(Debug)]
pub(in crate::control) struct Running {
    pub(in crate::control) child: Child,
}

impl Running {
    /// Ends it. It is gone a moment later, and the runtime reaps it.
    pub(super) fn kill(&self) {
        // Once reaped its number may be another's: then there is none here.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended by itself, which is as good.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a program ended, in words.
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}
