//! `[health.lag]` and `[health.exec]`: the checks that are not Redis commands, as a group and each backend have them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::BackendUrl;
use super::file::{SHORTEST, credential};
use super::section::{Choices, Section};
use super::{Address, Credential, HttpUrl};
use crate::logic::settings::ProbeMode;
use crate::tls::ClientFiles;

/// The port of Redis Enterprise's REST API.
const REST_PORT: u16 = 9443;
/// How far behind a backend may be that is failed back to.
const TOLERANCE: Duration = Duration::from_secs(5);
/// Where that API lists the databases.
const LIST: &str = "/v1/bdbs";
const EXECUTABLE: u32 = 0o111;

const EXEC_MODES: &Choices<ExecMode> = &[("once", Some(ExecMode::Once)), ("stream", Some(ExecMode::Stream))];

/// The checks of one backend that are not Redis commands; each is there exactly if `health.modes` has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// `lag`.
    pub lag: Option<LagCheck>,
    /// `exec`.
    pub exec: Option<ExecCheck>,
}

/// Asks the REST API of Redis Enterprise whether a database is close enough behind the others.
#[derive(Clone, Debug, PartialEq)]
pub struct LagCheck {
    /// The list of databases in the REST API.
    pub url: HttpUrl,
    /// The user of the API.
    pub credential: Credential,
    /// How the API is verified.
    pub tls: ClientFiles,
    /// How far behind is close enough, > 0.
    pub tolerance: Duration,
    /// The number of the database; `None`: it is found by the endpoint below.
    pub uid: Option<u64>,
    /// The backend's own host and port.
    pub endpoint: (String, u16),
}

/// Asks a program of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCheck {
    /// The program's absolute path, and its arguments. Never empty; no shell sees it.
    pub command: Vec<String>,
    /// How it is asked.
    pub mode: ExecMode,
}

/// How a program is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecMode {
    /// Started for each probe; its exit status is the answer.
    #[default]
    Once,
    /// Started once; a line for each probe goes in, a line comes out.
    Stream,
}

/// What the tables say, before it is known for which backend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CheckSettings {
    port: u16,
    credential: Option<Credential>,
    tls: ClientFiles,
    tolerance: Duration,
    uid: Option<u64>,
    exec: ExecCheck,
}

impl CheckSettings {
    pub(super) const fn new() -> Self {
        Self {
            port: REST_PORT,
            credential: None,
            tls: ClientFiles { ca: None, identity: None },
            tolerance: TOLERANCE,
            uid: None,
            exec: ExecCheck { command: Vec::new(), mode: ExecMode::Once },
        }
    }

    /// As a backend of the group is checked; which database it is, is found out.
    pub(super) fn like(checks: Option<&Checks>) -> Self {
        let mut settings = Self::new();
        let Some(Checks { lag, exec }) = checks else { return settings };
        if let Some(LagCheck { url, credential, tls, tolerance, .. }) = lag {
            (settings.port, settings.tolerance) = (url.port, *tolerance);
            settings.credential = Some(credential.clone());
            settings.tls.clone_from(tls);
        }
        if let Some(exec) = exec {
            settings.exec.clone_from(exec);
        }
        settings
    }

    /// Reads the two tables within `health`.
    pub(super) fn read(&mut self, section: &mut Section<'_>) {
        section.child("lag", |section| {
            section.count("port", 1, &mut self.port);
            self.credential = credential(section, BackendUrl::default()).or_else(|| self.credential.take());
            section.duration("tolerance", SHORTEST, &mut self.tolerance);
            let mut uid = self.uid.unwrap_or(0);
            section.count("uid", 0, &mut uid);
            self.uid = Some(uid).filter(|uid| *uid > 0);
            section.child("tls", |section| rest_tls(section, &mut self.tls));
        });
        section.child("exec", |section| {
            if let Some(command) = section.list("command", |word| Ok(word.to_owned())) {
                self.exec.command = command;
                self.check_program(section);
            }
            section.choice("mode", EXEC_MODES, &mut self.exec.mode);
        });
    }

    fn check_program(&self, section: &mut Section<'_>) {
        let Some(program) = self.exec.command.first() else { return };
        let path = Path::new(program);
        if !path.is_absolute() {
            return section.problem(
                "command",
                Some(format!("{program:?}")),
                "must begin with a program's absolute path",
            );
        }
        let can_run =
            path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & EXECUTABLE != 0);
        if !can_run {
            let place = section.path_of("command");
            section.notes.warn(&place, &format!("{program} is no program that can be run now"));
        }
    }

    /// What one backend is checked with. `rest` is the address in an https:// `health_check_url`.
    pub(super) fn resolve(
        self,
        section: &mut Section<'_>,
        modes: &[ProbeMode],
        address: Option<&Address>,
        rest: Option<(String, Option<u16>)>,
    ) -> Checks {
        let mut checks = Checks::default();
        let needs = |section: &mut Section<'_>, message: &str| section.problem("health", None, message);
        if modes.contains(&ProbeMode::Exec) {
            if self.exec.command.is_empty() {
                needs(section, "the mode \"exec\" needs health.exec.command");
            }
            checks.exec = Some(self.exec);
        }
        if !modes.contains(&ProbeMode::Lag) {
            if rest.is_some() {
                let message = "is the REST address of the mode \"lag\", which health.modes does not have";
                section.problem("health_check_url", None, message);
            }
            return checks;
        }
        if modes.iter().all(|mode| *mode == ProbeMode::Lag) {
            needs(
                section,
                "the mode \"lag\" only decides about failbacks: it needs another beside it, such as \"write\"",
            );
        }
        let Some(credential) = self.credential else {
            needs(section, "the mode \"lag\" needs health.lag.username and health.lag.password_file");
            return checks;
        };
        if let Err(problem) = self.tls.load() {
            needs(section, &format!("lag.{problem}"));
        }
        let endpoint = match address {
            Some(Address::Tcp(host, port)) => Some((host.clone(), *port)),
            _ => None,
        };
        let host = rest.as_ref().map(|(host, _)| host.clone());
        let Some(host) = host.or_else(|| endpoint.as_ref().map(|(host, _)| host.clone())) else {
            if address.is_some() {
                needs(section, "the mode \"lag\" needs an https:// health_check_url, since a Unix socket has no host");
            }
            return checks;
        };
        let port = rest.and_then(|(_, port)| port).unwrap_or(self.port);
        checks.lag = Some(LagCheck {
            url: HttpUrl { is_secure: true, host, port, target: LIST.to_owned() },
            credential,
            tls: self.tls,
            tolerance: self.tolerance,
            uid: self.uid,
            endpoint: endpoint.unwrap_or_default(),
        });
        checks
    }
}

fn rest_tls(section: &mut Section<'_>, into: &mut ClientFiles) {
    if let Some(ca) = section.text("ca", |text| Ok(PathBuf::from(text))) {
        into.ca = Some(ca).filter(|path| !path.as_os_str().is_empty());
    }
}
