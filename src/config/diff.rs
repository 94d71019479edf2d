//! What a reload changes, and whether it can be changed while running.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::{
    Admin, Backend, BackendOverrides, BackendTls, Checks, CommandLists, CommandSettings, Config, Credential,
    EventSettings, ExecCheck, Group, LagCheck, Listener, Log, Parity, Promotion, User, WebhookSettings,
    format_duration, format_size,
};
use crate::logic::identity::{IdentitySettings, PasswordHash};
use crate::logic::record::EventKind;
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, FailoverSettings, HealthSettings, LatencySettings, LimitSettings,
    PubSubSettings, RetrySettings,
};
use crate::tls::{ClientFiles, ServerFiles};

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// After a restart.
    Restart,
}

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which: `backend.west.weight`, `group.default.health.interval`. Backends go by name, listeners by address.
    pub path: String,
    /// What it was; `none` if it was not there. Passwords are hidden.
    pub old: String,
    /// What it is to be.
    pub new: String,
    /// Whether it needs a restart.
    pub effect: Effect,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs = if self.effect == Effect::Restart { " (needs a restart)" } else { "" };
        write!(formatter, "{}: {} → {}{needs}", self.path, self.old, self.new)
    }
}

/// Everything that differs between two configurations: of the process first, then by backend, group and listener.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let groups = common_groups(old, new);
    let (old, new) = (Facts::of(old).facts, Facts::of(new).facts);
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    let exists_in_both = |key: &Key| {
        let whole = Key { owner: key.owner.clone(), name: String::new() };
        key.owner.is_empty() || (old.contains_key(&whole) && new.contains_key(&whole))
    };
    let mut changes = Vec::new();
    for key in keys.into_iter().filter(|key| old.get(*key) != new.get(*key)) {
        // An owner that comes or goes is one change, not one for each of its settings.
        if key.name.is_empty() || exists_in_both(key) {
            changes.push(change(key, old.get(key), new.get(key), &groups));
        }
    }
    changes
}

/// The groups of both, each with its backends in their order, as far as both have them.
fn common_groups<'c>(old: &'c Config, new: &'c Config) -> Vec<CommonGroup<'c>> {
    let names = |group: &'c Group| group.backends.iter().map(|backend| backend.name.as_str());
    let common = old.groups.iter().filter_map(|group| {
        let other = new.groups.iter().find(|other| other.name == group.name)?;
        let kept = |name: &&str| names(group).any(|one| one == *name) && names(other).any(|one| one == *name);
        let keeps_order = names(group).filter(kept).eq(names(other).filter(kept));
        let backends = names(group).chain(names(other)).collect();
        Some(CommonGroup { name: &group.name, backends, keeps_order })
    });
    common.collect()
}

/// A group that both configurations have.
struct CommonGroup<'c> {
    name: &'c str,
    /// The backends of either.
    backends: Vec<&'c str>,
    /// Those of both stand in the same order.
    keeps_order: bool,
}

/// Tables of a group whose keys take effect at once.
const LIVE_TABLES: [&str; 5] = ["health", "detector", "breaker", "failover", "retry"];

/// Keys of these tables that do not.
const RESTART_KEYS: [&str; 4] =
    ["failover.scan_cursors", "failover.promote", "failover.promote_timeout", "failover.wait_for_replication"];

fn effect(key: &Key, groups: &[CommonGroup<'_>]) -> Effect {
    let table = key.name.split('.').next().unwrap_or_default();
    let is_live = match key.owner.split_once('.') {
        None => key.name == "log.level",
        Some(("user", _)) => true,
        Some(("backend", name)) => key.name != "database" && groups.iter().any(|group| group.backends.contains(&name)),
        Some(("group", name)) => groups.iter().any(|group| {
            let is_table_live = LIVE_TABLES.contains(&table) && !RESTART_KEYS.contains(&key.name.as_str());
            group.name == name && (is_table_live || (key.name.is_empty() && group.keeps_order))
        }),
        Some(_) => false,
    };
    if is_live { Effect::Live } else { Effect::Restart }
}

fn change(key: &Key, old: Option<&Fact>, new: Option<&Fact>, groups: &[CommonGroup<'_>]) -> Change {
    let effect = effect(key, groups);
    let shown = |fact: Option<&Fact>| fact.map_or_else(|| NONE.to_owned(), |fact| fact.shown.clone());
    Change { path: key.to_string(), old: shown(old), new: shown(new), effect }
}

const NONE: &str = "none";

/// Whose setting, and which; without a name it says that the owner exists.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// `backend.east`, `group.default`, `listener.127.0.0.1:6379`; empty: the process's.
    owner: String,
    name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.owner.is_empty() || self.name.is_empty() { "" } else { "." };
        write!(formatter, "{}{dot}{}", self.owner, self.name)
    }
}

/// A setting's value, and how it may be shown.
#[derive(PartialEq)]
struct Fact {
    value: String,
    shown: String,
}

/// A configuration as a flat list. Every struct is taken apart by name, so that no new field can be forgotten.
#[derive(Default)]
struct Facts {
    /// Whose settings are being put down.
    owner: String,
    facts: BTreeMap<Key, Fact>,
}

impl Facts {
    fn of(config: &Config) -> Self {
        let Config { workers, groups, limits, admin, log, identity, users, events, state_file } = config;
        let (Admin { http, console, http_token }, Log { level, format }) = (admin, log);
        let IdentitySettings { mode, authentication_timeout, verify_interval } = identity;
        let mut facts = Self::default();
        facts.put("runtime.workers", workers);
        facts.put("admin.http", optional(http.as_ref()));
        facts.put("admin.console", optional(console.as_ref()));
        let token = http_token.as_ref().map(PasswordHash::to_hex).unwrap_or_default();
        let shown = if http_token.is_some() { "(hidden)" } else { NONE };
        facts.put_fact("admin.http_token_file", Fact { value: token, shown: shown.to_owned() });
        facts.put("log.level", level.to_string().to_lowercase());
        facts.put("log.format", name_of(format));
        facts.put("failover.state_file", optional(state_file.as_ref().map(|path| path.display())));
        facts.put("identity.mode", name_of(mode));
        facts.put_time("identity.authentication_timeout", *authentication_timeout);
        facts.put_time("identity.verify_interval", *verify_interval);
        facts.events(events);
        facts.limits(limits);
        for user in users {
            facts.user(user);
        }
        for group in groups {
            facts.group(group);
        }
        facts
    }

    /// Notes that `owner` exists, as `summary` says; what is put after it is its own.
    fn begin(&mut self, owner: String, summary: impl fmt::Display) {
        self.owner = owner;
        self.put("", summary);
    }

    fn put(&mut self, name: &str, value: impl fmt::Display) {
        let value = value.to_string();
        self.put_fact(name, Fact { shown: value.clone(), value });
    }

    fn put_time(&mut self, name: &str, value: Duration) {
        self.put(name, format_duration(value));
    }

    fn put_fact(&mut self, name: &str, fact: Fact) {
        self.facts.insert(Key { owner: self.owner.clone(), name: name.to_owned() }, fact);
    }

    fn user(&mut self, user: &User) {
        let User { name, passwords, backend, allow, deny } = user;
        self.begin(format!("user.{name}"), "a user");
        let hashes: String = passwords.iter().map(PasswordHash::to_hex).collect();
        self.put_fact("password_file", Fact { value: hashes, shown: "(hidden)".to_owned() });
        self.credential(backend.as_ref());
        self.put("allow", allow.as_ref().map_or_else(|| "everything".to_owned(), list));
        self.put("deny", list(deny));
    }

    fn events(&mut self, events: &EventSettings) {
        let EventSettings { webhook, command, kinds } = events;
        self.put("events.webhook", optional(webhook.as_ref().map(|webhook| &webhook.url)));
        if let Some(WebhookSettings { url, timeout, secret, tls }) = webhook {
            // Path and query can hold a token: they count, and are not shown.
            let whole = Fact { value: url.target.clone(), shown: url.to_string() };
            self.put_fact("events.webhook.target", whole);
            self.put_time("events.webhook_timeout", *timeout);
            let hidden = Fact { value: secret.clone().unwrap_or_default(), shown: "(hidden)".to_owned() };
            self.put_fact("events.webhook_secret_file", hidden);
            if let Some(ClientFiles { ca, identity }) = tls {
                let (cert, key) = identity.as_ref().map(|(cert, key)| (cert.display(), key.display())).unzip();
                self.put("events.tls.ca", optional(ca.as_ref().map(|path| path.display())));
                self.put("events.tls.cert", optional(cert));
                self.put("events.tls.key", optional(key));
            }
        }
        let words = |command: &CommandSettings| format!("{} {}", command.program, command.arguments.join(" "));
        self.put("events.command", optional(command.as_ref().map(words)));
        if let Some(CommandSettings { program: _, arguments: _, timeout }) = command {
            self.put_time("events.command_timeout", *timeout);
        }
        let names = |kinds: &Vec<EventKind>| kinds.iter().map(|kind| kind.label()).collect::<Vec<_>>().join(", ");
        self.put("events.kinds", kinds.as_ref().map_or_else(|| "all".to_owned(), names));
    }

    fn limits(&mut self, limits: &LimitSettings) {
        let LimitSettings {
            clients_max,
            pins_per_backend_max,
            pin_wait,
            inflight_max,
            output_bytes_max,
            held_bytes_max,
            value_bytes_max,
            scripts_max,
            script_bytes_max,
        } = limits;
        self.put("limits.clients", clients_max);
        self.put("limits.pins_per_backend", pins_per_backend_max);
        self.put_time("limits.pin_wait", *pin_wait);
        self.put("limits.inflight", inflight_max);
        self.put("limits.output_bytes", format_size(*output_bytes_max));
        self.put("limits.held_bytes", format_size(*held_bytes_max));
        self.put("limits.value_bytes", format_size(*value_bytes_max));
        self.put("limits.scripts", scripts_max);
        self.put("limits.script_bytes", format_size(*script_bytes_max));
    }

    fn group(&mut self, group: &Group) {
        let Group {
            name,
            listeners,
            backends,
            replication,
            health,
            detector,
            breaker: BreakerSettings { grace, grace_max },
            failover,
            promotion: Promotion { by, timeout, waits },
            retry,
            pubsub,
            commands,
            parity: Parity { interval, loads_functions },
        } = group;
        let order: Vec<_> = backends.iter().map(|backend| backend.name.as_str()).collect();
        self.begin(format!("group.{name}"), order.join(", "));
        self.put("replication", name_of(replication));
        self.health(health);
        self.detector(detector);
        self.put_time("breaker.grace", *grace);
        self.put_time("breaker.grace_max", *grace_max);
        self.failover(failover);
        self.put("failover.promote", by);
        self.put_time("failover.promote_timeout", *timeout);
        self.put("failover.wait_for_replication", waits);
        self.retry(retry);
        self.pubsub(pubsub);
        self.commands(commands);
        self.put_time("parity.interval", *interval);
        self.put("parity.load_functions", loads_functions);
        for listener in listeners {
            let Listener { bind, mode, sessions, tls, proxy_sources } = listener;
            self.begin(format!("listener.{bind}"), format!("in group {name}, {}, mode {mode:#o}", name_of(sessions)));
            let sources = proxy_sources
                .as_ref()
                .map(|sources| sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            self.put("proxy_sources", optional(sources));
            self.listener_tls(tls.as_ref());
        }
        for backend in backends {
            self.backend(name, backend);
        }
    }

    fn backend(&mut self, group: &str, backend: &Backend) {
        let Backend {
            name,
            address,
            health_check_address,
            database,
            credential,
            tls,
            weight,
            connect_timeout,
            checks: Checks { lag, exec },
            overrides: BackendOverrides { connections_max, grace, health },
        } = backend;
        self.begin(format!("backend.{name}"), format!("{address} in group {group}"));
        self.put("database", database);
        self.put("weight", weight);
        self.backend_tls(tls.as_ref());
        self.put("health_check_url", optional(health_check_address.as_ref()));
        self.put_time("connect_timeout", *connect_timeout);
        self.put("connections_max", optional(*connections_max));
        self.put("grace", optional(grace.map(format_duration)));
        self.credential(credential.as_ref());
        if let Some(health) = health {
            self.health(health);
        }
        self.lag_check(lag.as_ref());
        self.exec_check(exec.as_ref());
    }

    fn lag_check(&mut self, lag: Option<&LagCheck>) {
        // The endpoint is the backend's own address.
        let Some(LagCheck { url, credential, tls, tolerance, uid, endpoint: _ }) = lag else { return };
        let ClientFiles { ca, identity: _ } = tls;
        let Credential { username, password } = credential;
        self.put("health.lag.url", url.address());
        self.put("health.lag.username", optional(username.as_ref()));
        self.put_fact("health.lag.password", Fact { value: password.clone(), shown: "(hidden)".to_owned() });
        self.put("health.lag.tls.ca", optional(ca.as_ref().map(|path| path.display())));
        self.put_time("health.lag.tolerance", *tolerance);
        self.put("health.lag.uid", optional(*uid));
    }

    fn exec_check(&mut self, exec: Option<&ExecCheck>) {
        let Some(ExecCheck { command, mode }) = exec else { return };
        self.put("health.exec.command", format!("{command:?}"));
        self.put("health.exec.mode", name_of(mode));
    }

    /// The files by name; what they hold is looked at every other second anyway.
    fn listener_tls(&mut self, tls: Option<&ServerFiles>) {
        self.put("tls", if tls.is_some() { "on" } else { "off" });
        let Some(ServerFiles { cert, key, ca, client_auth }) = tls else { return };
        self.put("tls.cert", cert.display());
        self.put("tls.key", key.display());
        self.put("tls.ca", optional(ca.as_ref().map(|path| path.display())));
        self.put("tls.client_auth", name_of(client_auth));
    }

    fn backend_tls(&mut self, tls: Option<&BackendTls>) {
        self.put("tls", if tls.is_some() { "on" } else { "off" });
        let Some(BackendTls { files: ClientFiles { ca, identity }, server_name }) = tls else { return };
        let (cert, key) = identity.as_ref().map(|(cert, key)| (cert.display(), key.display())).unzip();
        self.put("tls.ca", optional(ca.as_ref().map(|path| path.display())));
        self.put("tls.cert", optional(cert));
        self.put("tls.key", optional(key));
        self.put("tls.server_name", optional(server_name.as_ref().map(ServerName::to_str)));
    }

    fn credential(&mut self, credential: Option<&Credential>) {
        let Some(Credential { username, password }) = credential else { return };
        if let Some(username) = username {
            self.put("username", username);
        }
        let hidden = Fact { value: password.clone(), shown: "(hidden)".to_owned() };
        self.put_fact("password", hidden);
    }

    fn health(&mut self, health: &HealthSettings) {
        let HealthSettings {
            modes,
            interval,
            timeout,
            jitter,
            standby_interval,
            accept_interval,
            fall,
            rise,
            probes,
            probes_delay,
            policy,
            probe_key,
        } = health;
        self.put("health.modes", modes.iter().map(name_of).collect::<Vec<_>>().join(", "));
        self.put_time("health.interval", *interval);
        self.put_time("health.timeout", *timeout);
        self.put("health.jitter", jitter);
        self.put_time("health.standby_interval", *standby_interval);
        self.put_time("health.accept_interval", *accept_interval);
        self.put("health.fall", fall);
        self.put("health.rise", rise);
        self.put("health.probes", probes);
        self.put_time("health.probes_delay", *probes_delay);
        self.put("health.policy", name_of(policy));
        self.put("health.probe_key", probe_key);
    }

    fn detector(&mut self, detector: &DetectorSettings) {
        let DetectorSettings { hang_timeout, suspect_after, slow_timeout, window, failures_min, failure_rate, latency } =
            detector;
        let LatencySettings { factor, floor, lasting, timeout_rate, window: gray_window } = latency;
        self.put_time("detector.hang_timeout", *hang_timeout);
        self.put_time("detector.suspect_after", *suspect_after);
        self.put_time("detector.slow_timeout", *slow_timeout);
        self.put_time("detector.window", *window);
        self.put("detector.min_failures", failures_min);
        self.put("detector.failure_rate", failure_rate);
        self.put("detector.latency_factor", factor);
        self.put_time("detector.latency_floor", *floor);
        self.put_time("detector.latency_for", *lasting);
        self.put("detector.timeout_rate", timeout_rate);
        self.put_time("detector.gray_window", *gray_window);
    }

    fn failover(&mut self, failover: &FailoverSettings) {
        let FailoverSettings {
            hold,
            drain,
            failback,
            failback_hold,
            failback_jitter,
            switches_max,
            switches_window,
            initial,
            attempts,
            delay,
            none_healthy,
            checks_cursors,
        } = failover;
        self.put_time("failover.hold", *hold);
        self.put_time("failover.drain", *drain);
        self.put("failover.failback", name_of(failback));
        self.put_time("failover.failback_hold", *failback_hold);
        self.put("failover.failback_jitter", failback_jitter);
        self.put("failover.switches_max", switches_max);
        self.put_time("failover.switches_window", *switches_window);
        self.put("failover.initial", name_of(initial));
        self.put("failover.attempts", attempts);
        self.put_time("failover.delay", *delay);
        self.put("failover.none_healthy", name_of(none_healthy));
        self.put("failover.scan_cursors", if *checks_cursors { "checked" } else { "passed" });
    }

    fn retry(&mut self, retry: &RetrySettings) {
        let RetrySettings { ceiling, rearm_blocked, attempts, budget, deadline } = retry;
        self.put("retry.ceiling", name_of(ceiling));
        self.put("retry.blocked", if *rearm_blocked { "rearm" } else { "uncertain" });
        self.put("retry.attempts", attempts);
        self.put("retry.budget", budget);
        self.put_time("retry.deadline", *deadline);
    }

    fn pubsub(&mut self, pubsub: &PubSubSettings) {
        let PubSubSettings { mode, linger, on_gap, standby, propagates, lag_max, heartbeat, heartbeat_lost, publish } =
            pubsub;
        self.put("pubsub.mode", name_of(mode));
        self.put_time("pubsub.linger", *linger);
        self.put("pubsub.on_gap", name_of(on_gap));
        self.put("pubsub.standby", standby);
        self.put("pubsub.propagates", propagates);
        self.put_time("pubsub.lag_max", *lag_max);
        self.put_time("pubsub.heartbeat", *heartbeat);
        self.put_time("pubsub.heartbeat_lost", *heartbeat_lost);
        self.put("pubsub.publish", name_of(publish));
    }

    fn commands(&mut self, commands: &CommandLists) {
        let CommandLists { refuse, deny, shared } = commands;
        self.put("commands.refuse", refuse.as_ref().map_or_else(|| "the default".to_owned(), list));
        self.put("commands.deny", list(deny));
        self.put("commands.shared", list(shared));
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(", ")
}

fn optional(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// The name that the file has for a variant: `WriteLastWins` is `write-last-wins`.
fn name_of(variant: impl fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
