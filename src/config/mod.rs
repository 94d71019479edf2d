//! Configuration: the file's private shape is parsed into a [`Config`] that cannot be wrong.

mod address;
mod checks;
pub mod diff;
mod events;
mod file;
mod groups;
mod http_url;
mod identity;
mod network;
mod preset;
mod problem;
#[cfg(test)]
mod reference_tests;
mod save;
mod section;
mod secure;
mod sources;
mod values;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use checks::{Checks, ExecCheck, ExecMode, LagCheck};
pub use events::{CommandSettings, EventSettings, WebhookSettings};
pub use http_url::HttpUrl;
pub use network::Network;
pub use problem::{Problem, Problems};
pub use save::{Edit, SaveError, Unsaved, save};
pub use section::closest;
pub use sources::Sources;
pub use values::{format_duration, format_size, parse_duration};

use rustls::pki_types::ServerName;

use crate::logic::identity::{IdentitySettings, PasswordHash};
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, FailoverSettings, HealthSettings, LimitSettings, PubSubSettings, RetrySettings,
};
use crate::tls::{ClientFiles, ServerFiles};

/// Everything that Handover was told, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Threads that serve clients, ≥ 1.
    pub workers: usize,
    /// Groups, each with at least one listener and one backend; names are unique.
    pub groups: Vec<Group>,
    /// Bounds of the process.
    pub limits: LimitSettings,
    /// The operator's side.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// How clients prove who they are.
    pub identity: IdentitySettings,
    /// Handover's own users; none unless `identity.mode` is `users`. Names are unique.
    pub users: Vec<User>,
    /// Where records of events go.
    pub events: EventSettings,
    /// Where the last active, epochs and breakers survive a restart; `None`: nowhere.
    pub state_file: Option<PathBuf>,
}

/// What came of reading all sources.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed and may surprise, one sentence each, to be logged at the start.
    pub warnings: Vec<String>,
    /// The file that was read, if one was.
    pub file: Option<Origin>,
}

/// The file that the configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of what it contained.
    pub digest: [u8; 32],
}

impl Config {
    /// Reads all sources, the strongest winning: flag, environment, file, default.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
        file::load(sources)
    }
}

/// Listeners and the backends behind them: one route, one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Unique; `default` unless the file says otherwise.
    pub name: String,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// In the file's order; names are unique over all groups.
    pub backends: Vec<Backend>,
    /// What the backends copy from each other.
    pub replication: Replication,
    /// Whether and how a replica is promoted, and whether a planned switch waits for it.
    pub promotion: Promotion,
    /// Health checks.
    pub health: HealthSettings,
    /// Failure detection on live traffic.
    pub detector: DetectorSettings,
    /// Circuit breakers.
    pub breaker: BreakerSettings,
    /// Choice of the active.
    pub failover: FailoverSettings,
    /// What may be repeated.
    pub retry: RetrySettings,
    /// Commands refused or shared by the operator's will.
    pub commands: CommandLists,
    /// Publishing and subscribing.
    pub pubsub: PubSubSettings,
    /// How its backends are compared.
    pub parity: Parity,
}

/// The comparison of a group's backends (`[parity]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parity {
    /// Between two comparisons; zero: never.
    pub interval: Duration,
    /// Whether the libraries of functions that the active had are loaded on the next one.
    pub loads_functions: bool,
}

impl Group {
    /// The database that the URLs of all its backends name, if it is the same.
    #[must_use]
    pub fn common_database(&self) -> Option<u32> {
        let first = self.backends.first().map(|backend| backend.database);
        first.filter(|_| self.backends.iter().all(|backend| Some(backend.database) == first))
    }

    /// The health checks of `backend`: its own, or the group's.
    #[must_use]
    pub fn health_of<'a>(&'a self, backend: &'a Backend) -> &'a HealthSettings {
        backend.overrides.health.as_ref().unwrap_or(&self.health)
    }

    /// The circuit breaker of `backend`: the group's, with the backend's own grace if it has one.
    #[must_use]
    pub fn breaker_of(&self, backend: &Backend) -> BreakerSettings {
        let grace = backend.overrides.grace.unwrap_or(self.breaker.grace);
        BreakerSettings { grace, grace_max: self.breaker.grace_max.max(grace) }
    }
}

pub use crate::logic::replication::Replication;

/// How a replica that is to become the active is promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// By what.
    pub by: Promote,
    /// How long it may take, from the order to a clean health check.
    pub timeout: Duration,
    /// A planned switch to a replica of the active waits until it has all that the active has.
    pub waits: bool,
}

impl Default for Promotion {
    fn default() -> Self {
        Self { by: Promote::Never, timeout: Duration::from_secs(5), waits: true }
    }
}

/// What promotes a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promote {
    /// Nothing that Handover would start.
    Never,
    /// `REPLICAOF NO ONE`, or `FAILOVER` where the master lives.
    Command,
    /// A program of the operator's.
    Program(PathBuf),
}

impl fmt::Display for Promote {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => formatter.write_str("never"),
            Self::Command => formatter.write_str("command"),
            Self::Program(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// Lists of commands from the file (`[commands]`), lower case, `container|subcommand` for subcommands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLists {
    /// Replaces the contract's list of refused commands when given.
    pub refuse: Option<BTreeSet<String>>,
    /// Refused in addition: command names and `@category` names.
    pub deny: BTreeSet<String>,
    /// Commands outside the table that may share a lane.
    pub shared: BTreeSet<String>,
}

/// An address to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// Host (a name or a literal without brackets) and port.
    Tcp(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    /// As the file has it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
        }
    }
}

/// How sessions of a listener use backend connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionMode {
    /// Many clients share a few connections.
    Multiplexed,
    /// One backend connection for each client.
    Dedicated,
}

/// One place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub bind: Address,
    /// Permissions of a Unix socket.
    pub mode: u32,
    /// Shared or dedicated connections.
    pub sessions: SessionMode,
    /// Its certificates; `None`: clients speak without TLS.
    pub tls: Option<ServerFiles>,
    /// Every connection begins with a PROXY header and comes from one of these; `None`: none does.
    pub proxy_sources: Option<Vec<Network>>,
}

impl Listener {
    /// One that asks its clients for nothing.
    #[must_use]
    pub const fn plain(bind: Address) -> Self {
        Self { bind, mode: 0o660, sessions: SessionMode::Multiplexed, tls: None, proxy_sources: None }
    }
}

/// One independent Redis deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique; letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Where.
    pub address: Address,
    /// Where it is probed, when not at `address`.
    pub health_check_address: Option<Address>,
    /// Database of a session that never selected.
    pub database: u32,
    /// The configured identity; `None`: no AUTH is sent.
    pub credential: Option<Credential>,
    /// Preference, > 0 and finite.
    pub weight: f64,
    /// How it is verified, exactly if its URL is `rediss://`.
    pub tls: Option<BackendTls>,
    /// For connecting and the handshake.
    pub connect_timeout: Duration,
    /// How it is checked besides by commands.
    pub checks: Checks,
    /// What it has of its own where its group has something else.
    pub overrides: BackendOverrides,
}

/// A backend as an operator names it at run time: keys of a `[[backend]]` table. `Debug` hides passwords.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Addition {
    /// `name`.
    pub name: String,
    /// `url`.
    pub url: String,
    /// `weight`.
    pub weight: Option<f64>,
    /// `password_file`.
    pub password_file: Option<String>,
}

impl Backend {
    /// Whether `other` is the same server, spoken to in the same way: weight, checks, grace and bounds may differ.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        let Self {
            name,
            address,
            health_check_address,
            database,
            credential,
            tls,
            weight: _,
            checks: _,
            connect_timeout,
            overrides: _,
        } = self;
        *name == other.name
            && *address == other.address
            && *health_check_address == other.health_check_address
            && *database == other.database
            && *credential == other.credential
            && *tls == other.tls
            && *connect_timeout == other.connect_timeout
    }
}

/// How a backend is spoken to with TLS. It is always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTls {
    /// The authorities, and our own certificate.
    pub files: ClientFiles,
    /// The name in its certificate; `None`: the host of its address.
    pub server_name: Option<ServerName<'static>>,
}

/// Settings of one backend that replace its group's; see [`Group::health_of`] and [`Group::breaker_of`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendOverrides {
    /// Connections of the data path to it, over all workers; lanes count, and are opened all the same.
    pub connections_max: Option<usize>,
    /// How long its opened breaker stays open.
    pub grace: Option<Duration>,
    /// Its health checks, already merged with the group's.
    pub health: Option<HealthSettings>,
}

/// A user and password; `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `None`: the default user, AUTH with one argument.
    pub username: Option<String>,
    /// Never logged.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One of Handover's own users (`[[user]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Unique; printable, without spaces.
    pub name: String,
    /// Any of these lets it in; at least one.
    pub passwords: Vec<PasswordHash>,
    /// As whom its commands reach every backend; `None`: as the user of the backend's URL.
    pub backend: Option<Credential>,
    /// Commands and `@categories` that it may use; `None`: all.
    pub allow: Option<BTreeSet<String>>,
    /// Commands and `@categories` that it may not use.
    pub deny: BTreeSet<String>,
}

/// The operator's side (`[admin]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Metrics, `/healthz`, `/readyz`; `None`: off.
    pub http: Option<Address>,
    /// The operator's console; `None`: off. It has no password, so it is a Unix socket or on loopback.
    pub console: Option<Address>,
    /// What lets somebody change things over HTTP; `None`: nobody can.
    pub http_token: Option<PasswordHash>,
}

/// Logging (`[log]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// Text or JSON.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
