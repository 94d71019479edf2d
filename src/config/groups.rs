//! Listeners, backends and the groups that they make, and the checks that span several of their tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use super::address::{
    BackendUrl, HealthCheckUrl, clash, is_local, parse_backend_url, parse_bind, parse_health_check_url,
    without_password,
};
use super::checks::CheckSettings;
use super::file::{SHORTEST, credential, failover, group_tables, health, promotion};
use super::preset::GroupSettings;
use super::section::{Choices, Notes, Section};
use super::secure;
use super::values::format_duration;
use super::{
    Addition, Address, Admin, Backend, BackendOverrides, Group, Listener, Network, Problems, Promote, Replication,
    SessionMode,
};
use crate::logic::identity::IdentityMode;
use crate::logic::settings::{Failback, HealthSettings, RetryCeiling, RetrySettings};
use crate::tls::ClientAuth;

/// A hold must outlast one health check by this much, or it ends before anybody can know better.
const HOLD_MARGIN: Duration = Duration::from_millis(250);
/// Left for repeating after a hold, where the file does not set `retry.deadline`.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);
pub(super) const GROUP_DEFAULT: &str = "default";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SOCKET_MODE: u32 = 0o660;
const SOCKET_MODE_MAX: u32 = 0o777;

const REPLICATIONS: &Choices<Replication> = &[
    ("none", Some(Replication::None)),
    ("one-way", Some(Replication::OneWay)),
    ("both-ways", Some(Replication::BothWays)),
];
const SESSIONS: &Choices<SessionMode> =
    &[("multiplexed", Some(SessionMode::Multiplexed)), ("dedicated", Some(SessionMode::Dedicated))];
const PROXY_PROTOCOLS: &Choices<bool> = &[("off", Some(false)), ("require", Some(true))];

/// The groups while they are being read.
pub(super) struct Groups {
    base: GroupSettings,
    /// Groups with a table of their own.
    own: BTreeMap<String, (GroupSettings, Replication)>,
    /// How clients prove who they are.
    identity: IdentityMode,
    /// Threads that share what a backend allows.
    workers: usize,
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
    pub(super) fn new(base: GroupSettings, identity: IdentityMode, workers: usize) -> Self {
        let (own, names) = (BTreeMap::new(), Vec::new());
        Self { base, own, identity, workers, names, listeners: Vec::new(), backends: Vec::new() }
    }

    pub(super) fn read_own(&mut self, name: &str, section: &mut Section<'_>) {
        let mut settings = self.base.clone();
        group_tables(section, &mut settings);
        section.child("failover", |section| {
            failover(section, &mut settings.failover);
            promotion(section, &mut settings.promotion);
            section.refused("state_file", "stands in [failover] only: one file serves all groups");
        });
        let mut replication = Replication::None;
        section.choice("replication", REPLICATIONS, &mut replication);
        if !settings.propagates_is_written {
            settings.pubsub.propagates = replication != Replication::None;
        }
        if replication == Replication::BothWays {
            let message = "sets the default of retry.ceiling to \"read-only\"; \
                the check of lag that belongs to it is not supported yet";
            let path = section.path_of("replication");
            section.notes.warn(&path, message);
            if !settings.ceiling_is_written {
                settings.retry.ceiling = RetryCeiling::ReadOnly;
            }
        }
        if replication == Replication::BothWays && settings.promotion.by != Promote::Never {
            section.problem("replication", None, "is \"both-ways\", so there is no replica for failover.promote");
        }
        self.own.insert(name.to_owned(), (settings, replication));
    }

    pub(super) fn read_listener(&mut self, index: usize, section: &mut Section<'_>) {
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

    pub(super) fn read_backend(&mut self, index: usize, section: &mut Section<'_>) {
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
        let (overrides, own_checks) = backend_overrides(section, self.settings(&group).0, self.workers);
        let tls = secure::of_backend(section, url.as_ref().is_some_and(|url| url.is_secure));
        let (health_check_address, rest) = match health_check_address.flatten() {
            Some(HealthCheckUrl::Commands(check)) => {
                if let Some(url) = &url {
                    check_health_check_url(section, url.is_secure, &check);
                }
                (check.address, None)
            }
            Some(HealthCheckUrl::Rest(host, port)) => (None, Some((host, port))),
            None => (None, None),
        };
        let address = url.as_ref().and_then(|url| url.address.as_ref());
        let modes = &overrides.health.as_ref().unwrap_or(&self.settings(&group).0.health).modes;
        let checks = own_checks.resolve(section, modes, address, rest);
        let login = credential(section, url.clone().unwrap_or_default());
        let backend = match (name.clone(), url.and_then(|url| Some((url.address?, url.database)))) {
            (Some(name), Some((address, database))) => Some(Backend {
                name,
                address,
                health_check_address,
                database: database.unwrap_or(0),
                credential: login,
                tls,
                weight,
                connect_timeout,
                checks,
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
    pub(super) fn check(&mut self, admin: &Admin, notes: &mut Notes) {
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

    pub(super) fn into_groups(self) -> Vec<Group> {
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
        // Who lets a replica be promoted has a master and its replicas.
        let is_one_way = replication == Replication::None && settings.promotion.by != Promote::Never;
        let replication = if is_one_way { Replication::OneWay } else { replication };
        Group {
            name: name.to_owned(),
            listeners: Vec::new(),
            backends: Vec::new(),
            replication,
            health: settings.health,
            detector: settings.detector,
            breaker: settings.breaker,
            failover: settings.failover,
            promotion: settings.promotion,
            retry: settings.retry,
            commands: settings.commands,
            pubsub: settings.pubsub,
            parity: settings.parity,
        }
    }
}

fn backend_overrides(
    section: &mut Section<'_>,
    group: &GroupSettings,
    workers: usize,
) -> (BackendOverrides, CheckSettings) {
    let mut grace = group.breaker.grace;
    section.duration("grace", SHORTEST, &mut grace);
    let (mut own, mut checks) = (group.health.clone(), group.checks.clone());
    section.child("health", |section| {
        health(section, &mut own);
        checks.read(section);
    });
    let overrides = BackendOverrides {
        connections_max: connections_max(section, workers),
        grace: Some(grace).filter(|grace| *grace != group.breaker.grace),
        health: Some(own).filter(|own| *own != group.health),
    };
    (overrides, checks)
}

/// Each worker needs a lane, and one connection for whatever cannot share it.
fn connections_max(section: &mut Section<'_>, workers: usize) -> Option<usize> {
    let mut connections_max = 0;
    section.count("connections_max", 0, &mut connections_max);
    let least = 2 * workers;
    if (1..least).contains(&connections_max) {
        let message = format!("must be at least {least}, two for each worker, or 0 for no bound");
        section.problem("connections_max", Some(connections_max.to_string()), message);
    }
    Some(connections_max).filter(|&most| most > 0)
}

impl Addition {
    /// The backend that it describes, for `group`, and what may surprise about it.
    ///
    /// # Errors
    /// Everything that is wrong with it, as in the file.
    pub fn backend(&self, group: &Group, workers: usize) -> Result<(Backend, Vec<String>), Problems> {
        let base = GroupSettings {
            health: group.health.clone(),
            checks: CheckSettings::like(group.backends.first().map(|backend| &backend.checks)),
            detector: group.detector.clone(),
            breaker: group.breaker,
            failover: group.failover.clone(),
            retry: group.retry.clone(),
            ceiling_is_written: true,
            deadline_is_written: true,
            commands: group.commands.clone(),
            pubsub: group.pubsub.clone(),
            propagates_is_written: true,
            parity: group.parity,
            promotion: group.promotion.clone(),
        };
        let mut notes = Notes::default();
        let mut groups = Groups::new(base, IdentityMode::Open, workers);
        let mut section = Section::new(String::new(), self.table(), &mut notes);
        groups.read_backend(0, &mut section);
        section.finish();
        match groups.backends.pop().and_then(|read| read.backend) {
            Some(backend) if notes.problems.is_empty() => Ok((backend, notes.warnings)),
            _ => Err(Problems { list: notes.problems }),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("url".to_owned(), self.url.clone().into());
        if let Some(weight) = self.weight {
            table.insert("weight".to_owned(), weight.into());
        }
        if let Some(path) = &self.password_file {
            table.insert("password_file".to_owned(), path.clone().into());
        }
        table
    }

    /// Whether it can be written down: a password in its URL must not be.
    #[must_use]
    pub fn has_password(&self) -> bool {
        parse_backend_url(&self.url).is_ok_and(|url| url.password.is_some())
    }
}

impl fmt::Debug for Addition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.name, without_password(&self.url))
    }
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
    let GroupSettings { health, detector, breaker, failover, pubsub, .. } = settings;
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
    if pubsub.heartbeat_lost <= pubsub.heartbeat {
        let limit = format_duration(pubsub.heartbeat);
        wrong("pubsub.heartbeat_lost", pubsub.heartbeat_lost, format!("must be more than heartbeat ({limit})"));
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
