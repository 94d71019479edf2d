//! From the merged tables to a [`Config`]: one function a table, then the checks that span several.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::address::{BackendUrl, clash, is_local, parse_backend_url, parse_bind, parse_health_check_url};
use super::identity;
use super::preset::{self, GroupSettings, PRESETS, Preset};
use super::problem::Problems;
use super::section::{Choices, Notes, Section, closest};
use super::secure;
use super::sources::{RUNTIME_DIRECTORY, STATE_DIRECTORY, Sources};
use super::values::format_duration;
use super::{
    Address, Admin, Backend, BackendOverrides, CommandLists, Config, Credential, Group, Listener, Loaded, Log,
    LogFormat, Network, Replication, SessionMode,
};
use crate::logic::identity::IdentityMode;
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, Failback, FailoverSettings, HealthSettings, InitialPolicy, LimitSettings,
    NoneHealthy, ProbeMode, ProbePolicy, RetryCeiling, RetrySettings,
};
use crate::resp::request::REDIS_VALUE_BYTES_MAX;
use crate::tls::ClientAuth;

/// A hold must outlast one health check by this much, or it ends before anybody can know better.
const HOLD_MARGIN: Duration = Duration::from_millis(250);
/// Left for repeating after a hold, where the file does not set `retry.deadline`.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);
/// Rounds closer together than this would be a load, not a check.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const SHORTEST: Duration = Duration::from_millis(1);
const JITTER_MAX: f64 = 0.5;
const WORKERS_MAX: usize = 1024;
const GROUP_DEFAULT: &str = "default";
const STATE_FILE_NAME: &str = "state.json";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SOCKET_MODE: u32 = 0o660;
const SOCKET_MODE_MAX: u32 = 0o777;
const WORLD_READABLE: u32 = 0o004;

const PROBE_MODES: &Choices<ProbeMode> = &[
    ("ping", Some(ProbeMode::Ping)),
    ("echo", Some(ProbeMode::Echo)),
    ("role", Some(ProbeMode::Role)),
    ("write", Some(ProbeMode::Write)),
    ("lag", None),
    ("exec", None),
];
const PROBE_POLICIES: &Choices<ProbePolicy> =
    &[("all", Some(ProbePolicy::All)), ("majority", Some(ProbePolicy::Majority)), ("any", Some(ProbePolicy::Any))];
const FAILBACKS: &Choices<Failback> =
    &[("auto", Some(Failback::Auto)), ("manual", Some(Failback::Manual)), ("never", Some(Failback::Never))];
const INITIALS: &Choices<InitialPolicy> = &[
    ("one", Some(InitialPolicy::One)),
    ("majority", Some(InitialPolicy::Majority)),
    ("all", Some(InitialPolicy::All)),
];
const NONE_HEALTHY: &Choices<NoneHealthy> =
    &[("last-active", Some(NoneHealthy::LastActive)), ("refuse", Some(NoneHealthy::Refuse))];
const CEILINGS: &Choices<RetryCeiling> = &[
    ("never", Some(RetryCeiling::Never)),
    ("read-only", Some(RetryCeiling::ReadOnly)),
    ("write-checked", Some(RetryCeiling::WriteChecked)),
    ("write-last-wins", Some(RetryCeiling::WriteLastWins)),
    ("write-accumulating", Some(RetryCeiling::WriteAccumulating)),
    ("always", Some(RetryCeiling::Always)),
];
const SCAN_CURSORS: &Choices<bool> = &[("checked", Some(true)), ("passed", Some(false))];
const BLOCKED: &Choices<bool> = &[("rearm", Some(true)), ("uncertain", Some(false))];
const REPLICATIONS: &Choices<Replication> = &[
    ("none", Some(Replication::None)),
    ("one-way", Some(Replication::OneWay)),
    ("both-ways", Some(Replication::BothWays)),
];
const LEVELS: &Choices<tracing::Level> = &[
    ("error", Some(tracing::Level::ERROR)),
    ("warn", Some(tracing::Level::WARN)),
    ("info", Some(tracing::Level::INFO)),
    ("debug", Some(tracing::Level::DEBUG)),
    ("trace", Some(tracing::Level::TRACE)),
];
const FORMATS: &Choices<LogFormat> = &[("text", Some(LogFormat::Text)), ("json", Some(LogFormat::Json))];
const SESSIONS: &Choices<SessionMode> =
    &[("multiplexed", Some(SessionMode::Multiplexed)), ("dedicated", Some(SessionMode::Dedicated))];
const PROXY_PROTOCOLS: &Choices<bool> = &[("off", Some(false)), ("require", Some(true))];
/// The categories that Redis and Valkey know (`ACL CAT`), those of the bundled modules included.
const COMMAND_CATEGORIES: &[&str] = &[
    "@admin",
    "@bitmap",
    "@blocking",
    "@bloom",
    "@cms",
    "@connection",
    "@cuckoo",
    "@dangerous",
    "@fast",
    "@geo",
    "@hash",
    "@hyperloglog",
    "@json",
    "@keyspace",
    "@list",
    "@pubsub",
    "@read",
    "@scripting",
    "@search",
    "@set",
    "@slow",
    "@sortedset",
    "@stream",
    "@string",
    "@tdigest",
    "@timeseries",
    "@topk",
    "@transaction",
    "@vectorset",
    "@write",
];

/// Reads all sources into one configuration, or says everything that is wrong with them.
pub(super) fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut notes = Notes::default();
    let (file, table) = sources.merged(&mut notes)?;
    let config = read(table, &mut notes, sources);
    if notes.problems.is_empty() {
        Ok(Loaded { config, warnings: notes.warnings, file })
    } else {
        Err(Problems { list: notes.problems })
    }
}

/// The whole file. What it returns is right only if no problem was noted.
pub(super) fn read(table: Table, notes: &mut Notes, sources: &Sources) -> Config {
    let mut root = Section::new(String::new(), table, notes);
    let mut preset = Preset::Default;
    root.choice("preset", PRESETS, &mut preset);
    let workers = root.child("runtime", |section| runtime(section, sources.cores));
    let mut base = GroupSettings::of(preset);
    group_tables(&mut root, &mut base);
    let state_file = root.child("failover", |section| {
        failover(section, &mut base.failover);
        state_file(section, sources)
    });
    let mut limits = preset::limits();
    root.child("limits", |section| limit_table(section, &mut limits));
    let admin = root.child("admin", |section| admin(section, sources));
    let log = root.child("log", log);
    let identity = root.child("identity", identity::identity);
    let mut groups = Groups::new(base, identity.mode);
    root.named("group", |name, section| groups.read_own(name, section));
    root.each("listener", |index, section| groups.read_listener(index, section));
    root.each("backend", |index, section| groups.read_backend(index, section));
    let (mut users, mut tables) = (Vec::new(), 0);
    root.each("user", |_, section| {
        tables += 1;
        users.extend(identity::user(section, identity.mode));
    });
    reserved(&mut root);
    root.finish();
    groups.check(&admin, notes);
    let users = identity::check(users, identity.mode, tables > 0, notes);
    Config { workers, groups: groups.into_groups(), limits, admin, log, identity, users, state_file }
}

fn reserved(root: &mut Section<'_>) {
    root.refused("events", "webhooks and commands on events are not supported yet");
}

fn runtime(section: &mut Section<'_>, cores: usize) -> usize {
    let workers = section.parsed("workers", |value| match value {
        Value::String(text) if text == "auto" => Ok((cores / 2).max(1)),
        Value::String(text) => workers_of(text.parse().ok()),
        value => workers_of(value.as_integer()),
    });
    workers.unwrap_or(1)
}

fn workers_of(number: Option<i64>) -> Result<usize, String> {
    let workers = number.and_then(|number| usize::try_from(number).ok());
    let in_range = workers.filter(|workers| (1..=WORKERS_MAX).contains(workers));
    in_range.ok_or_else(|| format!("must be \"auto\" or a whole number between 1 and {WORKERS_MAX}"))
}

/// The tables that stand both file-wide and in `[group.NAME]`; `[failover]` differs, see its callers.
fn group_tables(section: &mut Section<'_>, into: &mut GroupSettings) {
    section.child("health", |section| {
        health(section, &mut into.health);
        section.refused("exec", "health checks by a program are not supported yet");
        section.refused("lag", "the lag check is not supported yet");
    });
    section.child("detector", |section| detector(section, &mut into.detector));
    section.child("breaker", |section| breaker(section, &mut into.breaker));
    section.child("retry", |section| retry(section, into));
    section.child("commands", |section| commands(section, &mut into.commands));
    section.child("pubsub", pubsub);
}

fn health(section: &mut Section<'_>, into: &mut HealthSettings) {
    if let Some(modes) = section.list("modes", |name| super::section::chosen(name, PROBE_MODES)) {
        if modes.is_empty() {
            section.problem("modes", Some("[]".to_owned()), "at least one is needed");
        }
        into.modes = modes;
    }
    section.duration("interval", INTERVAL_MIN, &mut into.interval);
    section.duration("timeout", SHORTEST, &mut into.timeout);
    section.share("jitter", JITTER_MAX, &mut into.jitter);
    section.duration("standby_interval", INTERVAL_MIN, &mut into.standby_interval);
    section.duration("accept_interval", INTERVAL_MIN, &mut into.accept_interval);
    section.count("fall", 1, &mut into.fall);
    section.count("rise", 1, &mut into.rise);
    section.count("probes", 1, &mut into.probes);
    section.duration("probes_delay", Duration::ZERO, &mut into.probes_delay);
    section.choice("policy", PROBE_POLICIES, &mut into.policy);
    let probe_key = section
        .text("probe_key", |key| if key.is_empty() { Err("must not be empty".to_owned()) } else { Ok(key.to_owned()) });
    into.probe_key = probe_key.unwrap_or_else(|| std::mem::take(&mut into.probe_key));
}

fn detector(section: &mut Section<'_>, into: &mut DetectorSettings) {
    section.duration("hang_timeout", SHORTEST, &mut into.hang_timeout);
    section.duration("suspect_after", SHORTEST, &mut into.suspect_after);
    section.duration("slow_timeout", SHORTEST, &mut into.slow_timeout);
    section.duration("window", SHORTEST, &mut into.window);
    section.count("min_failures", 1, &mut into.failures_min);
    section.share("failure_rate", 1.0, &mut into.failure_rate);
}

fn breaker(section: &mut Section<'_>, into: &mut BreakerSettings) {
    section.duration("grace", SHORTEST, &mut into.grace);
    section.duration("grace_max", SHORTEST, &mut into.grace_max);
}

fn failover(section: &mut Section<'_>, into: &mut FailoverSettings) {
    section.duration("hold", Duration::ZERO, &mut into.hold);
    section.duration("drain", SHORTEST, &mut into.drain);
    section.choice("failback", FAILBACKS, &mut into.failback);
    section.duration("failback_hold", Duration::ZERO, &mut into.failback_hold);
    section.share("failback_jitter", JITTER_MAX, &mut into.failback_jitter);
    section.count("switches_max", 1, &mut into.switches_max);
    section.duration("switches_window", SHORTEST, &mut into.switches_window);
    section.only("promote", "never", "promoting a replica");
    section.choice("initial", INITIALS, &mut into.initial);
    section.count("attempts", 0, &mut into.attempts);
    section.duration("delay", SHORTEST, &mut into.delay);
    section.choice("none_healthy", NONE_HEALTHY, &mut into.none_healthy);
    section.choice("scan_cursors", SCAN_CURSORS, &mut into.checks_cursors);
}

fn state_file(section: &mut Section<'_>, sources: &Sources) -> Option<PathBuf> {
    let written = section.text("state_file", |text| Ok(PathBuf::from(text)));
    if let Some(path) = written.filter(|path| !path.as_os_str().is_empty()) {
        return Some(path);
    }
    // systemd separates several directories by colons; the first is the unit's own.
    let directory = sources.variable(STATE_DIRECTORY).and_then(|list| list.split(':').next());
    if directory.is_none() {
        let message = "neither it nor $STATE_DIRECTORY is set, so nothing survives a restart: \
            neither the last active nor epochs and breakers";
        section.notes.warn("failover.state_file", message);
    }
    directory.map(|directory| Path::new(directory).join(STATE_FILE_NAME))
}

fn retry(section: &mut Section<'_>, into: &mut GroupSettings) {
    into.ceiling_is_written |= section.choice("ceiling", CEILINGS, &mut into.retry.ceiling);
    section.choice("blocked", BLOCKED, &mut into.retry.rearm_blocked);
    section.count("attempts", 1, &mut into.retry.attempts);
    section.share("budget", 1.0, &mut into.retry.budget);
    // Zero stands for "not written": the shortest that can be written is longer.
    let mut deadline = Duration::ZERO;
    section.duration("deadline", SHORTEST, &mut deadline);
    if deadline > Duration::ZERO {
        into.retry.deadline = deadline;
        into.deadline_is_written = true;
    }
}

fn commands(section: &mut Section<'_>, into: &mut CommandLists) {
    if let Some(refuse) = section.list("refuse", command_name) {
        into.refuse = Some(refuse.into_iter().collect());
    }
    if let Some(deny) = section.list("deny", command_or_category) {
        into.deny = deny.into_iter().collect();
    }
    if let Some(shared) = section.list("shared", command_name) {
        into.shared = shared.into_iter().collect();
    }
}

fn command_name(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let words = name.split('|').filter(|word| !word.is_empty()).count();
    if name.starts_with('@') {
        return Err("a category can stand in \"deny\" only".to_owned());
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("a subcommand is written \"{}\"", name.split_whitespace().collect::<Vec<_>>().join("|")));
    }
    if words == 0 || words > 2 || words != name.split('|').count() {
        return Err("must be a command's name, or container|subcommand".to_owned());
    }
    Ok(name)
}

pub(super) fn command_or_category(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    if !name.starts_with('@') {
        return command_name(&name);
    }
    if COMMAND_CATEGORIES.contains(&name.as_str()) {
        return Ok(name);
    }
    let hint =
        closest(&name, COMMAND_CATEGORIES).map_or_else(String::new, |known| format!(": did you mean \"{known}\"?"));
    Err(format!("is not a category of commands{hint}"))
}

fn pubsub(section: &mut Section<'_>) {
    section.only("mode", "per-client", "another mode of subscriptions");
    section.only("on_gap", "event", "another way to tell of a gap");
    section.only("standby", false, "keeping subscriptions on standbys");
    section.only("propagates", false, "overlapping the subscriptions of backends that carry each other's messages");
    section.only("lag_max", "1s", "another lag");
    section.only("heartbeat", "1s", "another heartbeat");
    section.only("heartbeat_lost", "3s", "another time without a heartbeat");
    section.only("publish", "at-most-once", "another way to publish");
}

fn limit_table(section: &mut Section<'_>, into: &mut LimitSettings) {
    section.count("clients", 1, &mut into.clients_max);
    section.count("pins_per_backend", 1, &mut into.pins_per_backend_max);
    section.duration("pin_wait", Duration::ZERO, &mut into.pin_wait);
    section.count("inflight", 1, &mut into.inflight_max);
    section.size("output_bytes", 1, &mut into.output_bytes_max);
    section.size("held_bytes", 1, &mut into.held_bytes_max);
    section.size("value_bytes", 1, &mut into.value_bytes_max);
    section.count("scripts", 0, &mut into.scripts_max);
    section.size("script_bytes", 0, &mut into.script_bytes_max);
    if into.value_bytes_max > REDIS_VALUE_BYTES_MAX {
        into.value_bytes_max = REDIS_VALUE_BYTES_MAX;
        section.notes.warn("limits.value_bytes", "no server takes values above 512 MiB; 512 MiB is in force");
    }
}

/// The console's socket in the runtime directory.
const CONSOLE_SOCKET: &str = "console.sock";

fn admin(section: &mut Section<'_>, sources: &Sources) -> Admin {
    let http = section.text("http", |text| if text.is_empty() { Ok(None) } else { parse_http(text).map(Some) });
    let http = http.unwrap_or_else(|| Some(Address::Tcp("127.0.0.1".to_owned(), 9400)));
    if http.as_ref().is_some_and(|address| !is_local(address)) {
        section.notes.warn("admin.http", "is beyond loopback, where everybody who reaches it can read the metrics");
    }
    let console =
        section.text("console", |text| if text.is_empty() { Ok(None) } else { parse_console(text).map(Some) });
    let folder = sources.variable(RUNTIME_DIRECTORY).and_then(|list| list.split(':').next());
    let console = console.unwrap_or_else(|| folder.map(|folder| Address::Unix(Path::new(folder).join(CONSOLE_SOCKET))));
    Admin { http, console }
}

/// The console has no password: whoever reaches it decides which backend serves.
fn parse_console(text: &str) -> Result<Address, String> {
    match parse_bind(text)? {
        address if is_local(&address) => Ok(address),
        _ => Err("has no password: it must be unix:///path or on loopback".to_owned()),
    }
}

fn parse_http(text: &str) -> Result<Address, String> {
    match parse_bind(text)? {
        Address::Unix(_) => Err("must be host:port, or \"\" for none".to_owned()),
        address => Ok(address),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    let mut log = Log { level: tracing::Level::INFO, format: LogFormat::Text };
    section.choice("level", LEVELS, &mut log.level);
    section.choice("format", FORMATS, &mut log.format);
    log
}

/// The groups while they are being read.
struct Groups {
    base: GroupSettings,
    /// Groups with a table of their own.
    own: BTreeMap<String, (GroupSettings, Replication)>,
    /// How clients prove who they are.
    identity: IdentityMode,
    /// All names, in the order in which the file first uses them.
    names: Vec<String>,
    listeners: Vec<ReadListener>,
    backends: Vec<ReadBackend>,
}

struct ReadListener {
    path: String,
    group: String,
    /// `None`: a problem was noted.
    listener: Option<Listener>,
}

struct ReadBackend {
    path: String,
    group: String,
    /// `None`: a problem was noted.
    name: Option<String>,
    backend: Option<Backend>,
}

impl Groups {
    fn new(base: GroupSettings, identity: IdentityMode) -> Self {
        let (own, names) = (BTreeMap::new(), Vec::new());
        Self { base, own, identity, names, listeners: Vec::new(), backends: Vec::new() }
    }

    fn read_own(&mut self, name: &str, section: &mut Section<'_>) {
        let mut settings = self.base.clone();
        group_tables(section, &mut settings);
        section.child("failover", |section| {
            failover(section, &mut settings.failover);
            section.refused("state_file", "stands in [failover] only: one file serves all groups");
        });
        let mut replication = Replication::None;
        section.choice("replication", REPLICATIONS, &mut replication);
        if replication == Replication::BothWays {
            let message = "sets the default of retry.ceiling to \"read-only\"; \
                the checks of lag and doubled messages that belong to it are not supported yet";
            let path = section.path_of("replication");
            section.notes.warn(&path, message);
            if !settings.ceiling_is_written {
                settings.retry.ceiling = RetryCeiling::ReadOnly;
            }
        }
        self.own.insert(name.to_owned(), (settings, replication));
    }

    fn read_listener(&mut self, index: usize, section: &mut Section<'_>) {
        let group = self.read_group_name(section);
        let bind = section.required("bind", parse_bind);
        let allow_open = section.flag("allow_open").unwrap_or(false);
        let mode = section.parsed("mode", socket_mode);
        let mut sessions = SessionMode::Multiplexed;
        section.choice("sessions", SESSIONS, &mut sessions);
        let tls = secure::of_listener(section);
        let proxy_sources = proxy_sources(section);
        if let Some(bind) = &bind {
            let is_authenticated = self.identity != IdentityMode::Open
                || tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
            if !is_authenticated {
                check_open(section, bind, allow_open);
            }
            check_socket(section, bind, tls.is_some(), proxy_sources.is_some());
            if mode.is_some() && matches!(bind, Address::Tcp(..)) {
                section.problem("mode", None, "is for a Unix socket only");
            }
        }
        let listener =
            bind.map(|bind| Listener { bind, mode: mode.unwrap_or(SOCKET_MODE), sessions, tls, proxy_sources });
        self.listeners.push(ReadListener { path: format!("listener[{index}]"), group, listener });
    }

    fn read_backend(&mut self, index: usize, section: &mut Section<'_>) {
        let group = self.read_group_name(section);
        let name = section.required("name", name);
        let url = section.required("url", parse_backend_url);
        let mut weight = 1.0;
        section.number("weight", check_weight, &mut weight);
        let mut connect_timeout = CONNECT_TIMEOUT;
        section.duration("connect_timeout", SHORTEST, &mut connect_timeout);
        let health_check_address = section.text("health_check_url", |text| match text {
            "" => Ok(None),
            text => parse_health_check_url(text).map(Some),
        });
        let overrides = backend_overrides(section, self.settings(&group).0);
        section.refused("connections_max", "a bound on one backend's connections is not supported yet");
        let tls = secure::of_backend(section, url.as_ref().is_some_and(|url| url.is_secure));
        if let (Some(url), Some(Some(check))) = (&url, &health_check_address) {
            check_health_check_url(section, url.is_secure, check);
        }
        let health_check_address = health_check_address.map(|read| read.and_then(|check| check.address));
        let login = credential(section, url.clone().unwrap_or_default());
        let backend = match (name.clone(), url.and_then(|url| Some((url.address?, url.database)))) {
            (Some(name), Some((address, database))) => Some(Backend {
                name,
                address,
                health_check_address: health_check_address.flatten(),
                database: database.unwrap_or(0),
                credential: login,
                tls,
                weight,
                connect_timeout,
                overrides,
            }),
            _ => None,
        };
        self.backends.push(ReadBackend { path: format!("backend[{index}]"), group, name, backend });
    }

    fn read_group_name(&mut self, section: &mut Section<'_>) -> String {
        let group = section.text("group", name).unwrap_or_else(|| GROUP_DEFAULT.to_owned());
        if !self.names.contains(&group) {
            self.names.push(group.clone());
        }
        group
    }

    fn settings(&self, group: &str) -> (&GroupSettings, Replication) {
        self.own.get(group).map_or((&self.base, Replication::None), |(settings, replication)| (settings, *replication))
    }

    /// The checks that span several tables.
    fn check(&mut self, admin: &Admin, notes: &mut Notes) {
        self.check_members(notes);
        self.check_names(notes);
        self.check_binds(admin, notes);
        if admin.console.is_none() {
            self.warn_of_failbacks_by_hand(notes);
        }
        if self.names.iter().any(|name| !self.own.contains_key(name)) || self.names.is_empty() {
            check_settings("", &mut self.base, notes);
        }
        for (name, (settings, _)) in &mut self.own {
            let prefix = format!("group.{name}.");
            check_settings(&prefix, settings, notes);
        }
        for read in &self.backends {
            let hold = self.settings(&read.group).0.failover.hold;
            let own = read.backend.as_ref().and_then(|backend| backend.overrides.health.as_ref());
            if let Some(health) = own.filter(|health| hold < health.timeout + HOLD_MARGIN) {
                let message = format!("is too long for a hold of {}: {}", format_duration(hold), hold_rule(health));
                notes.problem(&format!("{}.health.timeout", read.path), quoted(health.timeout), message);
            }
        }
    }

    /// Nobody can say so without a console.
    fn warn_of_failbacks_by_hand(&self, notes: &mut Notes) {
        let is_manual = |settings: &GroupSettings| settings.failover.failback == Failback::Manual;
        let message = "without admin.console nobody can order it, so it acts as \"never\"";
        if is_manual(&self.base) {
            return notes.warn("failover.failback", message);
        }
        for (name, _) in self.own.iter().filter(|(_, (settings, _))| is_manual(settings)) {
            notes.warn(&format!("group.{name}.failover.failback"), message);
        }
    }

    fn check_members(&self, notes: &mut Notes) {
        let lacks = |list: &str, notes: &Notes| !notes.problems.iter().any(|problem| problem.path.starts_with(list));
        if self.listeners.is_empty() && lacks("listener", notes) {
            notes.problem("listener", None, "at least one is needed");
        }
        if self.backends.is_empty() && lacks("backend", notes) {
            notes.problem("backend", None, "at least one is needed");
        }
        let with_listener: BTreeSet<_> = self.listeners.iter().map(|read| &read.group).collect();
        let with_backend: BTreeSet<_> = self.backends.iter().map(|read| &read.group).collect();
        for read in self.listeners.iter().filter(|_| !self.backends.is_empty()) {
            if !with_backend.contains(&read.group) {
                notes.problem(&read.path, None, format!("group \"{}\" has no backend", read.group));
            }
        }
        for read in self.backends.iter().filter(|_| !self.listeners.is_empty()) {
            if !with_listener.contains(&read.group) {
                notes.problem(&read.path, None, format!("group \"{}\" has no listener", read.group));
            }
        }
        for name in self.own.keys().filter(|name| !self.names.contains(name)) {
            notes.problem(&format!("group.{name}"), None, "has neither a listener nor a backend");
        }
        self.warn_of_single_backends(notes);
    }

    fn warn_of_single_backends(&self, notes: &mut Notes) {
        for name in &self.names {
            if self.backends.iter().filter(|read| read.group == *name).count() == 1 {
                notes.warn("backend", &format!("group \"{name}\" has only one, so there is nothing to hand over to"));
            }
        }
    }

    fn check_names(&self, notes: &mut Notes) {
        let mut first: BTreeMap<&str, &str> = BTreeMap::new();
        for read in &self.backends {
            let Some(name) = &read.name else { continue };
            if let Some(path) = first.get(name.as_str()) {
                let value = Some(format!("\"{name}\""));
                notes.problem(&format!("{}.name", read.path), value, format!("is the name of {path} already"));
            } else {
                first.insert(name, &read.path);
            }
        }
    }

    fn check_binds(&self, admin: &Admin, notes: &mut Notes) {
        let mut earlier: Vec<(&str, &Address)> = admin.http.iter().map(|address| ("admin.http", address)).collect();
        if let Some(console) = &admin.console {
            if earlier.iter().any(|(_, address)| clash(address, console)) {
                notes.problem("admin.console", Some(format!("\"{console}\"")), "is taken by admin.http already");
            }
            earlier.push(("admin.console", console));
        }
        for read in &self.listeners {
            let Some(listener) = &read.listener else { continue };
            if let Some((path, _)) = earlier.iter().find(|(_, address)| clash(address, &listener.bind)) {
                let value = Some(format!("\"{}\"", listener.bind));
                notes.problem(&format!("{}.bind", read.path), value, format!("is taken by {path} already"));
            }
            earlier.push((&read.path, &listener.bind));
        }
    }

    fn into_groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.names.iter().map(|name| self.empty_group(name)).collect();
        for (group, listener) in self.listeners.into_iter().filter_map(|read| Some((read.group, read.listener?))) {
            groups
                .iter_mut()
                .filter(|other| other.name == group)
                .for_each(|other| other.listeners.push(listener.clone()));
        }
        for (group, backend) in self.backends.into_iter().filter_map(|read| Some((read.group, read.backend?))) {
            groups
                .iter_mut()
                .filter(|other| other.name == group)
                .for_each(|other| other.backends.push(backend.clone()));
        }
        groups
    }

    fn empty_group(&self, name: &str) -> Group {
        let (settings, replication) = self.settings(name);
        let settings = settings.clone();
        Group {
            name: name.to_owned(),
            listeners: Vec::new(),
            backends: Vec::new(),
            replication,
            health: settings.health,
            detector: settings.detector,
            breaker: settings.breaker,
            failover: settings.failover,
            retry: settings.retry,
            commands: settings.commands,
        }
    }
}

fn backend_overrides(section: &mut Section<'_>, group: &GroupSettings) -> BackendOverrides {
    let mut grace = group.breaker.grace;
    section.duration("grace", SHORTEST, &mut grace);
    let mut own = group.health.clone();
    section.child("health", |section| health(section, &mut own));
    BackendOverrides {
        grace: Some(grace).filter(|grace| *grace != group.breaker.grace),
        health: Some(own).filter(|own| *own != group.health),
    }
}

/// User and password, from the URL, from `username` and from the password file.
pub(super) fn credential(section: &mut Section<'_>, url: BackendUrl) -> Option<Credential> {
    let username = section.text("username", |text| {
        if url.username.is_some() { Err("the URL names a user already".to_owned()) } else { Ok(text.to_owned()) }
    });
    let username = username.filter(|name| !name.is_empty()).or(url.username);
    let in_url = url.password.is_some();
    let mut warning = None;
    let problems_before = section.notes.problems.len();
    let from_file = section.text("password_file", |path| {
        if path.is_empty() {
            return Ok(None);
        }
        if in_url {
            return Err("the URL has a password already".to_owned());
        }
        read_password(Path::new(path), &mut warning).map(Some)
    });
    if let Some(message) = warning {
        let path = section.path_of("password_file");
        section.notes.warn(&path, &message);
    }
    match url.password.or(from_file.flatten()) {
        Some(password) => Some(Credential { username, password }),
        None => {
            if username.is_some() && section.notes.problems.len() == problems_before {
                section.problem("password_file", None, "is needed, since there is a user but no password");
            }
            None
        }
    }
}

fn read_password(path: &Path, warning: &mut Option<String>) -> Result<String, String> {
    let text = read_secret(path, warning)?;
    let password = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() { Err("is empty".to_owned()) } else { Ok(password.to_owned()) }
}

/// A file that only its owner should read.
pub(super) fn read_secret(path: &Path, warning: &mut Option<String>) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let text = fs::read_to_string(path).map_err(cannot)?;
    let mode = fs::metadata(path).map_err(cannot)?.permissions().mode();
    if mode & WORLD_READABLE != 0 {
        *warning = Some(format!("{} can be read by every user of this machine", path.display()));
    }
    Ok(text)
}

fn name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if plain && !text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err("must be made of letters, digits, -, _ and .".to_owned())
    }
}

fn check_weight(weight: f64) -> Result<(), String> {
    if !weight.is_finite() {
        return Err("must be a finite number".to_owned());
    }
    if weight <= 0.0 { Err("must be greater than 0".to_owned()) } else { Ok(()) }
}

fn socket_mode(value: &Value) -> Result<u32, String> {
    let number = match value {
        Value::String(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        value => value.as_integer().and_then(|number| u32::try_from(number).ok()),
    };
    let mode = number.filter(|mode| *mode <= SOCKET_MODE_MAX);
    mode.ok_or_else(|| "must be permissions between 0o000 and 0o777".to_owned())
}

fn check_open(section: &mut Section<'_>, bind: &Address, allow_open: bool) {
    if is_local(bind) {
        return;
    }
    if allow_open {
        let path = section.path_of("bind");
        section.notes.warn(&path, "is beyond loopback, and clients there are asked for no password");
        return;
    }
    let message = "is beyond loopback, where everybody could use the backends: ask clients for passwords \
        (identity.mode) or certificates (tls with client_auth = \"required\"), or add allow_open = true if that is wanted";
    section.problem("bind", Some(format!("\"{bind}\"")), message);
}

/// The networks that may send PROXY headers, where every connection must begin with one.
fn proxy_sources(section: &mut Section<'_>) -> Option<Vec<Network>> {
    let mut is_required = false;
    section.choice("proxy_protocol", PROXY_PROTOCOLS, &mut is_required);
    let problems_before = section.notes.problems.len();
    let sources = section.list("proxy_sources", str::parse).unwrap_or_default();
    if is_required && sources.is_empty() && section.notes.problems.len() == problems_before {
        let message = "is needed with proxy_protocol = \"require\": the networks of those who may say who a client is";
        section.problem("proxy_sources", None, message);
    }
    if !is_required && !sources.is_empty() {
        section.problem("proxy_sources", None, "has a meaning only with proxy_protocol = \"require\"");
    }
    is_required.then_some(sources)
}

/// A Unix socket stays on this machine, where neither is needed.
fn check_socket(section: &mut Section<'_>, bind: &Address, has_tls: bool, has_proxy_header: bool) {
    if matches!(bind, Address::Tcp(..)) {
        return;
    }
    for (key, is_written) in [("tls", has_tls), ("proxy_protocol", has_proxy_header)] {
        if is_written {
            section.problem(key, None, "is for TCP only, not for a Unix socket");
        }
    }
}

/// The password goes there too.
fn check_health_check_url(section: &mut Section<'_>, is_secure: bool, check: &BackendUrl) {
    if is_secure == check.is_secure || matches!(check.address, Some(Address::Unix(_))) {
        return;
    }
    let wanted = if is_secure {
        "rediss://, as url does: else the password would go there without TLS"
    } else {
        "redis://, as url does"
    };
    section.problem("health_check_url", None, format!("must begin with {wanted}"));
}

/// What must hold between the settings of one group, and the one default that follows from another.
fn check_settings(prefix: &str, settings: &mut GroupSettings, notes: &mut Notes) {
    let GroupSettings { health, detector, breaker, failover, .. } = settings;
    let mut wrong = |key: &str, value: Duration, message: String| {
        notes.problem(&format!("{prefix}{key}"), quoted(value), message);
    };
    if failover.hold < health.timeout + HOLD_MARGIN {
        wrong("failover.hold", failover.hold, hold_rule(health));
    }
    if detector.suspect_after >= detector.hang_timeout {
        let limit = format_duration(detector.hang_timeout);
        wrong("detector.suspect_after", detector.suspect_after, format!("must be less than hang_timeout ({limit})"));
    }
    if detector.slow_timeout < detector.hang_timeout {
        let limit = format_duration(detector.hang_timeout);
        wrong("detector.slow_timeout", detector.slow_timeout, format!("must be at least hang_timeout ({limit})"));
    }
    if breaker.grace_max < breaker.grace {
        let limit = format_duration(breaker.grace);
        wrong("breaker.grace_max", breaker.grace_max, format!("must be at least grace ({limit})"));
    }
    settle_deadline(prefix, failover.hold, settings.deadline_is_written, &mut settings.retry, notes);
}

fn settle_deadline(prefix: &str, hold: Duration, is_written: bool, retry: &mut RetrySettings, notes: &mut Notes) {
    if !is_written {
        retry.deadline = retry.deadline.max(hold + DEADLINE_MARGIN);
    } else if retry.deadline < hold {
        let hold = format_duration(hold);
        notes.warn(
            &format!("{prefix}retry.deadline"),
            &format!("ends before failover.hold ({hold}), which then never runs out"),
        );
    }
}

fn hold_rule(health: &HealthSettings) -> String {
    let least = format_duration(health.timeout + HOLD_MARGIN);
    format!("the hold must be at least {least}, which is health.timeout and 250ms, so that a check can end within it")
}

fn quoted(duration: Duration) -> Option<String> {
    Some(format!("\"{}\"", format_duration(duration)))
}
