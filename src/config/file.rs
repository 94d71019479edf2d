//! From the merged tables to a [`Config`]: one function a table. Listeners, backends and groups stand in `groups`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::address::{BackendUrl, is_local, parse_bind};
use super::events;
use super::groups::Groups;
use super::identity;
use super::preset::{self, GroupSettings, PRESETS, Preset};
use super::problem::Problems;
use super::section::{Choices, Notes, Section, closest};
use super::sources::{RUNTIME_DIRECTORY, STATE_DIRECTORY, Sources};
use super::{Address, Admin, CommandLists, Config, Credential, Loaded, Log, LogFormat, Parity, Promote, Promotion};
use crate::files;
use crate::logic::identity::PasswordHash;
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, Failback, FailoverSettings, HealthSettings, InitialPolicy, LimitSettings,
    NoneHealthy, OnGap, ProbeMode, ProbePolicy, PubSubMode, Publish, RetryCeiling,
};
use crate::resp::request::REDIS_VALUE_BYTES_MAX;

/// Rounds closer together than this would be a load, not a check.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A slow second is no second if it is shorter.
const LATENCY_FOR_MIN: Duration = Duration::from_secs(1);
/// Late replies must come in three different seconds.
const GRAY_WINDOW_MIN: Duration = Duration::from_secs(3);
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
const JITTER_MAX: f64 = 0.5;
const WORKERS_MAX: usize = 1024;
const STATE_FILE_NAME: &str = "state.json";
const WORLD_READABLE: u32 = 0o004;

const PUBSUB_MODE: &Choices<PubSubMode> =
    &[("per-client", Some(PubSubMode::PerClient)), ("hub", Some(PubSubMode::Hub))];

const ON_GAP: &Choices<OnGap> = &[
    ("event", Some(OnGap::Event)),
    ("push", Some(OnGap::Push)),
    ("disconnect", Some(OnGap::Disconnect)),
    ("none", Some(OnGap::None)),
];

const PUBLISH: &Choices<Publish> =
    &[("at-most-once", Some(Publish::AtMostOnce)), ("at-least-once", Some(Publish::AtLeastOnce))];

const PROBE_MODES: &Choices<ProbeMode> = &[
    ("ping", Some(ProbeMode::Ping)),
    ("echo", Some(ProbeMode::Echo)),
    ("role", Some(ProbeMode::Role)),
    ("write", Some(ProbeMode::Write)),
    ("lag", Some(ProbeMode::Lag)),
    ("exec", Some(ProbeMode::Exec)),
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
const LEVELS: &Choices<tracing::Level> = &[
    ("error", Some(tracing::Level::ERROR)),
    ("warn", Some(tracing::Level::WARN)),
    ("info", Some(tracing::Level::INFO)),
    ("debug", Some(tracing::Level::DEBUG)),
    ("trace", Some(tracing::Level::TRACE)),
];
const FORMATS: &Choices<LogFormat> = &[("text", Some(LogFormat::Text)), ("json", Some(LogFormat::Json))];
/// The categories that Redis and Valkey know (`ACL CAT`), those of the bundled modules included.
pub(super) const COMMAND_CATEGORIES: &[&str] = &[
    "@admin",
    "@array",
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
        promotion(section, &mut base.promotion);
        state_file(section, sources)
    });
    let mut limits = preset::limits();
    root.child("limits", |section| limit_table(section, &mut limits));
    let admin = root.child("admin", |section| admin(section, sources));
    let log = root.child("log", log);
    let identity = root.child("identity", identity::identity);
    let mut groups = Groups::new(base, identity.mode, workers);
    root.named("group", |name, section| groups.read_own(name, section));
    root.each("listener", |index, section| groups.read_listener(index, section));
    root.each("backend", |index, section| groups.read_backend(index, section));
    let (mut users, mut tables) = (Vec::new(), 0);
    root.each("user", |_, section| {
        tables += 1;
        users.extend(identity::user(section, identity.mode));
    });
    let events = root.child("events", events::events);
    root.finish();
    groups.check(&admin, notes);
    let users = identity::check(users, identity.mode, tables > 0, notes);
    Config { workers, groups: groups.into_groups(), limits, admin, log, identity, users, events, state_file }
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
pub(super) fn group_tables(section: &mut Section<'_>, into: &mut GroupSettings) {
    section.child("health", |section| {
        health(section, &mut into.health);
        into.checks.read(section);
    });
    section.child("detector", |section| detector(section, &mut into.detector));
    section.child("breaker", |section| breaker(section, &mut into.breaker));
    section.child("retry", |section| retry(section, into));
    section.child("commands", |section| commands(section, &mut into.commands));
    section.child("pubsub", |section| pubsub(section, into));
    section.child("parity", |section| parity(section, &mut into.parity));
}

fn parity(section: &mut Section<'_>, into: &mut Parity) {
    section.duration("interval", Duration::ZERO, &mut into.interval);
    into.loads_functions = section.flag("load_functions").unwrap_or(into.loads_functions);
    if into.loads_functions && into.interval.is_zero() {
        section.problem("load_functions", None, "needs an interval above 0s: else nobody knows what is to be loaded");
    }
}

pub(super) fn health(section: &mut Section<'_>, into: &mut HealthSettings) {
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
    let latency = &mut into.latency;
    section.factor("latency_factor", &mut latency.factor);
    section.duration("latency_floor", Duration::ZERO, &mut latency.floor);
    section.duration("latency_for", LATENCY_FOR_MIN, &mut latency.lasting);
    section.share("timeout_rate", 1.0, &mut latency.timeout_rate);
    section.duration("gray_window", GRAY_WINDOW_MIN, &mut latency.window);
}

fn breaker(section: &mut Section<'_>, into: &mut BreakerSettings) {
    section.duration("grace", SHORTEST, &mut into.grace);
    section.duration("grace_max", SHORTEST, &mut into.grace_max);
}

pub(super) fn failover(section: &mut Section<'_>, into: &mut FailoverSettings) {
    section.duration("hold", Duration::ZERO, &mut into.hold);
    section.duration("drain", SHORTEST, &mut into.drain);
    section.choice("failback", FAILBACKS, &mut into.failback);
    section.duration("failback_hold", Duration::ZERO, &mut into.failback_hold);
    section.share("failback_jitter", JITTER_MAX, &mut into.failback_jitter);
    section.count("switches_max", 1, &mut into.switches_max);
    section.duration("switches_window", SHORTEST, &mut into.switches_window);
    section.choice("initial", INITIALS, &mut into.initial);
    section.count("attempts", 0, &mut into.attempts);
    section.duration("delay", SHORTEST, &mut into.delay);
    section.choice("none_healthy", NONE_HEALTHY, &mut into.none_healthy);
    section.choice("scan_cursors", SCAN_CURSORS, &mut into.checks_cursors);
}

/// The keys of `[failover]` about a master and its replica.
pub(super) fn promotion(section: &mut Section<'_>, into: &mut Promotion) {
    if let Some(by) = section.text("promote", promote) {
        into.by = by;
    }
    section.duration("promote_timeout", SHORTEST, &mut into.timeout);
    into.waits = section.flag("wait_for_replication").unwrap_or(into.waits);
}

fn promote(text: &str) -> Result<Promote, String> {
    match text {
        "never" => Ok(Promote::Never),
        "command" => Ok(Promote::Command),
        path if Path::new(path).is_absolute() => Ok(Promote::Program(PathBuf::from(path))),
        _ => Err("must be \"never\", \"command\" or the absolute path of a program".to_owned()),
    }
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

fn pubsub(section: &mut Section<'_>, into: &mut GroupSettings) {
    let settings = &mut into.pubsub;
    section.choice("mode", PUBSUB_MODE, &mut settings.mode);
    section.duration("linger", Duration::ZERO, &mut settings.linger);
    section.choice("on_gap", ON_GAP, &mut settings.on_gap);
    settings.standby = section.flag("standby").unwrap_or(settings.standby);
    if let Some(propagates) = section.flag("propagates") {
        settings.propagates = propagates;
        into.propagates_is_written = true;
    }
    let settings = &mut into.pubsub;
    section.duration("lag_max", SHORTEST, &mut settings.lag_max);
    section.duration("heartbeat", SHORTEST, &mut settings.heartbeat);
    section.duration("heartbeat_lost", SHORTEST, &mut settings.heartbeat_lost);
    section.choice("publish", PUBLISH, &mut settings.publish);
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

/// Shorter secrets can be guessed.
const TOKEN_CHARS_MIN: usize = 16;
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
    let mut warning = None;
    let token = section.text("http_token_file", |path| {
        if path.is_empty() { Ok(None) } else { read_password(Path::new(path), &mut warning).map(Some) }
    });
    if let Some(message) = warning {
        section.notes.warn("admin.http_token_file", &message);
    }
    if token.as_ref().is_some_and(|token| token.as_ref().is_some_and(|token| token.trim().len() < TOKEN_CHARS_MIN)) {
        let message = format!("the secret in it is too short: at least {TOKEN_CHARS_MIN} characters");
        section.problem("http_token_file", None, &message);
    }
    let http_token = token.flatten().map(|token| PasswordHash::of(token.trim().as_bytes()));
    Admin { http, console, http_token }
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
    let text = files::read_text(path).map_err(cannot)?;
    let mode = fs::metadata(path).map_err(cannot)?.permissions().mode();
    if mode & WORLD_READABLE != 0 {
        *warning = Some(format!("{} can be read by every user of this machine", path.display()));
    }
    Ok(text)
}
