//! `handover check`: everything that is wrong with the configuration, or what it amounts to.

use std::fmt::Write as _;

use super::{Exit, probe};
use crate::config::{Backend, Config, Group, Loaded, Problems, Promote, Replication, SessionMode, Sources};
use crate::logic::identity::IdentityMode;
use crate::logic::settings::{HealthSettings, ProbeMode};

/// What `check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How the process ends.
    pub exit: Exit,
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub errors: String,
}

/// Checks and prints; with `probes` it asks the backends, too, if the configuration is good.
#[must_use]
pub fn check(sources: &Sources, probes: bool) -> Exit {
    let checked = finding(sources);
    print(&checked);
    match Config::load(sources) {
        Ok(loaded) if probes => {
            let probed = probe::finding(&loaded.config);
            print(&probed);
            probed.exit
        }
        _ => checked.exit,
    }
}

fn print(Finding { output, errors, .. }: &Finding) {
    print!("{output}");
    eprint!("{errors}");
}

/// Checks, and says what there is to print.
#[must_use]
pub fn finding(sources: &Sources) -> Finding {
    match Config::load(sources) {
        Ok(loaded) => Finding { exit: Exit::Clean, output: summary(&loaded), errors: warnings(&loaded) },
        Err(problems) => Finding { exit: Exit::Configuration, output: String::new(), errors: complaint(&problems) },
    }
}

fn complaint(problems: &Problems) -> String {
    let count = problems.list.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    format!("{problems}\n{count} {noun} in the configuration\n")
}

fn warnings(loaded: &Loaded) -> String {
    loaded.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}

fn summary(loaded: &Loaded) -> String {
    let place = loaded
        .file
        .as_ref()
        .map_or_else(|| "flags and built-in settings".to_owned(), |origin| origin.path.display().to_string());
    let mut text = format!("configuration from {place}: good\n");
    match loaded.config.identity.mode {
        IdentityMode::Open => {}
        IdentityMode::Users => {
            let users = loaded.config.users.len();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "clients authenticate as users of Handover's own: {users}");
        }
        IdentityMode::Passthrough => text.push_str("clients authenticate as users of the backends\n"),
    }
    for group in &loaded.config.groups {
        group_summary(&mut text, group);
    }
    text
}

fn group_summary(text: &mut String, group: &Group) {
    let mut line = |content: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{content}");
    };
    line(format!("group {}", group.name));
    if let Some(replicas) = replicas(group) {
        line(replicas);
    }
    for listener in &group.listeners {
        let dedicated = if listener.sessions == SessionMode::Dedicated { ", dedicated" } else { "" };
        let tls = if listener.tls.is_some() { ", TLS" } else { "" };
        let proxied = if listener.proxy_sources.is_some() { ", PROXY headers" } else { "" };
        line(format!("  listener {}{dedicated}{tls}{proxied}", listener.bind));
    }
    for backend in &group.backends {
        let tls = if backend.tls.is_some() { ", TLS" } else { "" };
        line(format!("  backend {} at {}{tls}, weight {}", backend.name, backend.address, backend.weight));
        line(format!("    health checks, at most: {}", costs(group, backend)));
    }
}

/// What happens to a replica when its master is dead.
fn replicas(group: &Group) -> Option<String> {
    match &group.promotion.by {
        _ if group.replication != Replication::OneWay => None,
        Promote::Never => Some("  a replica cannot take over until somebody promotes it (failover.promote)".to_owned()),
        Promote::Command => Some("  a replica is promoted when it is to take over".to_owned()),
        Promote::Program(path) => {
            Some(format!("  a replica is promoted by {} when it is to take over", path.display()))
        }
    }
}

fn costs(group: &Group, backend: &Backend) -> String {
    let health = group.health_of(backend);
    let active = Cost::of(health, health.interval.as_secs_f64());
    let standby = Cost::of(health, health.standby_interval.as_secs_f64());
    format!(
        "{} commands/s while active, {} on standby; {} connections/s",
        rounded(active.commands),
        rounded(standby.commands),
        rounded(active.connections)
    )
}

/// Of each round: three sections of INFO.
const COMMANDS_OF_FACTS: f64 = 3.0;

/// What health checks cost a backend, per second, jitter apart.
struct Cost {
    commands: f64,
    connections: f64,
}

impl Cost {
    fn of(health: &HealthSettings, interval_seconds: f64) -> Self {
        let commands_of_probe = f64::from(commands_of_probe(&health.modes));
        let facts = if commands_of_probe > 0.0 { COMMANDS_OF_FACTS } else { 0.0 };
        let rounds = (commands_of_probe * f64::from(health.probes) + facts) / interval_seconds;
        let connections = 1.0 / health.accept_interval.as_secs_f64();
        Self { commands: rounds + (commands_of_probe + facts) * connections, connections }
    }
}

/// A write probe is the whole pipeline, PING, ROLE, SETRANGE and ECHO; the others are one command of it each.
fn commands_of_probe(modes: &[ProbeMode]) -> u32 {
    if modes.contains(&ProbeMode::Write) {
        return 4;
    }
    let has = |mode| u32::from(modes.contains(&mode));
    has(ProbeMode::Ping) + has(ProbeMode::Echo) + has(ProbeMode::Role)
}

/// Two digits after the point, without zeros at the end.
fn rounded(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(overrides: &[(&str, &str)]) -> Sources {
        Sources {
            text: Some(include_str!("../../config/minimal.toml").to_owned()),
            overrides: overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            environment: vec![("STATE_DIRECTORY".to_owned(), "/var/lib/handover".to_owned())],
            ..Sources::default()
        }
    }

    #[test]
    fn a_good_configuration_is_summed_up() {
        let found = finding(&sources(&[]));
        assert_eq!(found.exit, Exit::Clean);
        assert_eq!(found.errors, "");
        assert_eq!(
            found.output,
            "configuration from flags and built-in settings: good\n\
             group default\n\
             \x20 listener 127.0.0.1:6379\n\
             \x20 backend east at 127.0.0.1:7001, weight 1\n\
             \x20   health checks, at most: 14.7 commands/s while active, 4.2 on standby; 0.1 connections/s\n\
             \x20 backend west at 127.0.0.1:7002, weight 0.5\n\
             \x20   health checks, at most: 14.7 commands/s while active, 4.2 on standby; 0.1 connections/s\n"
        );
    }

    #[test]
    fn who_clients_are_is_said() {
        let found = finding(&sources(&[("identity.mode", "passthrough")]));
        assert!(found.output.contains("\nclients authenticate as users of the backends\ngroup default\n"), "{found:?}");
    }

    #[test]
    fn what_becomes_of_replicas_is_said() {
        let one_way = ("group.default.replication", "one-way");
        for (settings, said) in [
            (&[one_way][..], "until somebody promotes it"),
            (&[("failover.promote", "command")], "is promoted when it is to take over"),
            (&[one_way, ("failover.promote", "/bin/x")], "is promoted by /bin/x"),
        ] {
            let found = finding(&sources(settings));
            assert!(found.output.contains(said), "{found:?}");
        }
        assert!(!finding(&sources(&[])).output.contains("replica"));
    }

    #[test]
    fn costs_follow_the_settings() {
        let settings = [("health.modes", "ping,role"), ("health.probes", "3"), ("health.accept_interval", "100s")];
        let found = finding(&sources(&settings));
        assert!(
            found.output.contains("18.05 commands/s while active, 4.55 on standby; 0.01 connections/s"),
            "{found:?}"
        );
    }

    #[test]
    fn every_problem_is_printed() {
        let found = finding(&sources(&[("health.fall", "0"), ("log.level", "loud")]));
        assert_eq!(found.exit, Exit::Configuration);
        assert_eq!(found.output, "");
        assert_eq!(
            found.errors,
            "health.fall = \"0\" (from --set): must be at least 1\n\
             log.level = \"loud\" (from --set): must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"\n\
             2 problems in the configuration\n"
        );
    }

    #[test]
    fn warnings_do_not_fail_the_check() {
        let found = finding(&Sources { environment: Vec::new(), ..sources(&[]) });
        assert_eq!(found.exit, Exit::Clean);
        assert!(found.errors.starts_with("warning: failover.state_file: "), "{found:?}");
    }
}
