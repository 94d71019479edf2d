//! How each group stands, for people and for machines: JSON, a page of text, and the answer to "ready?".

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::desk::rounded;
use crate::channels::{Availability, BackendId, BackendStatus, GroupStatus, Phase};

/// The whole process, as `/status` shows it.
#[derive(Debug, Serialize)]
pub struct Status<'a> {
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    groups: Vec<Group<'a>>,
}

#[derive(Debug, Serialize)]
struct Group<'a> {
    name: &'a str,
    ready: bool,
    active: Option<&'a str>,
    #[serde(skip)]
    active_since: Option<Duration>,
    standby: Option<&'a str>,
    epoch: u64,
    phase: &'static str,
    switching_to: Option<&'a str>,
    availability: &'static str,
    reason: &'a str,
    failback_blocked: Option<&'a str>,
    alarms: Vec<String>,
    without_active_seconds: f64,
    last_switch: Option<LastSwitch>,
    switches: Vec<Switches<'a>>,
    backends: Vec<Backend<'a>>,
}

#[derive(Debug, Serialize)]
struct LastSwitch {
    detect_seconds: f64,
    switch_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Switches<'a> {
    from: &'a str,
    to: &'a str,
    reason: &'a str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Backend<'a> {
    name: &'a str,
    active: bool,
    weight: f64,
    healthy: bool,
    circuit: &'a str,
    role: &'a str,
    fenced: Option<&'a str>,
    replication: Option<&'a str>,
    last_verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<&'a str>,
    probes_good: u64,
    probes_bad: u64,
    probe_duration_seconds: f64,
    fault: Option<&'a str>,
    wishes: Vec<String>,
}

impl<'a> Status<'a> {
    /// Puts together what the groups say.
    #[must_use]
    pub fn new(groups: &'a [GroupStatus], uptime: Duration, draining: bool) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: uptime.as_secs(),
            ready: !draining && groups.iter().all(|group| not_ready(group).is_none()),
            draining,
            groups: groups.iter().map(Group::new).collect(),
        }
    }

    /// A page of text, at most a few lines a group.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        self.write_page(&mut page).expect("a string takes everything");
        page
    }

    /// The page without its last lines, which are about HTTP.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut summary = String::new();
        self.write_summary(&mut summary).expect("a string takes everything");
        summary
    }

    /// The backends of each group, as JSON.
    pub(super) fn backends(&self) -> serde_json::Value {
        let groups: serde_json::Map<String, serde_json::Value> =
            self.groups.iter().map(|group| (group.name.to_owned(), serde_json::json!(group.backends))).collect();
        serde_json::json!({ "groups": groups })
    }

    /// One backend, as JSON.
    pub(super) fn backend(&self, name: &str) -> serde_json::Value {
        let backend = self.groups.iter().flat_map(|group| &group.backends).find(|backend| backend.name == name);
        serde_json::json!(backend)
    }

    fn write_page(&self, page: &mut String) -> std::fmt::Result {
        self.write_summary(page)?;
        writeln!(page, "\n/healthz  the process lives\n/readyz   every group has an active backend that serves")?;
        writeln!(page, "/status   this page as JSON; /why, /events and /backends likewise, and as text with ?text")?;
        writeln!(page, "/events/stream  what changes, as it happens")?;
        writeln!(page, "/metrics  for Prometheus\n/console  POST a line as on the console: curl -d HELP …/console")
    }

    fn write_summary(&self, page: &mut String) -> std::fmt::Result {
        let state = match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "NOT READY",
        };
        writeln!(page, "handover {} - {state}, up {} s", self.version, self.uptime_seconds)?;
        for group in &self.groups {
            group.write_page(page)?;
        }
        Ok(())
    }
}

impl<'a> Group<'a> {
    fn new(group: &'a GroupStatus) -> Self {
        let name = |id: BackendId| name_of(group, id);
        let route = &group.route;
        let (phase, to) = match route.phase {
            Phase::Serve => ("serve", None),
            Phase::Hold { to, .. } => ("hold", Some(to)),
            Phase::Cut { to, .. } => ("cut", Some(to)),
        };
        Self {
            name: &group.name,
            ready: not_ready(group).is_none(),
            active: route.active.and_then(name),
            active_since: group.active_since.and_then(|since| since.elapsed().ok()),
            standby: route.standby.and_then(name),
            epoch: route.epoch,
            phase,
            switching_to: to.and_then(name),
            availability: match route.availability {
                Availability::Healthy => "healthy",
                Availability::Degraded => "degraded",
                Availability::Refusing => "refusing",
            },
            reason: &group.reason,
            failback_blocked: group.failback_blocked.as_deref(),
            alarms: alarms(group),
            without_active_seconds: group.without_active.as_secs_f64(),
            last_switch: group.last_switch.map(|(detect, switch)| LastSwitch {
                detect_seconds: detect.as_secs_f64(),
                switch_seconds: switch.as_secs_f64(),
            }),
            switches: group
                .switches
                .iter()
                .map(|(from, to, reason, count)| Switches { from, to, reason, count: *count })
                .collect(),
            backends: group.backends.iter().map(|backend| Backend::new(backend, route.active)).collect(),
        }
    }

    fn write_page(&self, page: &mut String) -> std::fmt::Result {
        let Self { name, epoch, availability, reason, .. } = self;
        let active = self.active.unwrap_or("nobody");
        let since = self.active_since.map_or_else(String::new, |since| format!(" since {}", rounded(since)));
        writeln!(
            page,
            "\ngroup {name} - {availability}, {active} is active{since}, epoch {epoch}: {}",
            one_line(reason)
        )?;
        for alarm in &self.alarms {
            writeln!(page, "! {}", one_line(alarm))?;
        }
        if let Some(to) = self.switching_to {
            writeln!(page, "switching to {to} ({})", self.phase)?;
        }
        if let Some(reason) = self.failback_blocked {
            writeln!(page, "no failback: {}", one_line(reason))?;
        }
        let header = ["", "backend", "weight", "health", "circuit", "role", "wanted", "last check"].map(str::to_owned);
        let rows: Vec<[String; 8]> = std::iter::once(header).chain(self.backends.iter().map(Backend::row)).collect();
        write_table(page, &rows)?;
        for backend in &self.backends {
            if let Some(replication) = backend.replication {
                writeln!(page, "{} is {}", backend.name, one_line(replication))?;
            }
        }
        Ok(())
    }
}

impl<'a> Backend<'a> {
    fn new(backend: &'a BackendStatus, active: Option<BackendId>) -> Self {
        Self {
            name: &backend.name,
            active: active == Some(backend.id),
            weight: backend.weight,
            healthy: backend.healthy,
            circuit: backend.circuit,
            role: &backend.role,
            fenced: backend.fence.as_ref().map(|(label, _)| *label),
            replication: backend.replication.as_deref(),
            last_verdict: &backend.last_verdict,
            degraded: backend.degraded.as_deref(),
            probes_good: backend.probes.0,
            probes_bad: backend.probes.1,
            probe_duration_seconds: backend.probe_duration.as_secs_f64(),
            fault: backend.fault.as_deref(),
            wishes: wishes(backend),
        }
    }

    fn row(&self) -> [String; 8] {
        [
            if self.active { "*" } else { "" }.to_owned(),
            self.name.to_owned(),
            self.weight.to_string(),
            health(self.healthy, self.replication, self.last_verdict).to_owned(),
            self.circuit.to_owned(),
            one_line(self.role),
            one_line(&self.wishes.join(", ")),
            one_line(self.last_verdict),
        ]
    }
}

/// A replica that answers is what it should be: it takes no writes until it is promoted.
pub(super) fn health(is_healthy: bool, replication: Option<&str>, last_verdict: &str) -> &'static str {
    match replication {
        _ if is_healthy => "healthy",
        Some(_) if last_verdict.starts_with("cannot serve: ") => "replica",
        _ => "UNHEALTHY",
    }
}

/// Why the group does not serve; `None`: it does.
#[must_use]
pub fn not_ready(group: &GroupStatus) -> Option<String> {
    let why = match (group.route.active, group.route.availability) {
        (None, _) => "no backend is active",
        (Some(_), Availability::Healthy) => return None,
        (Some(_), Availability::Degraded) => "no backend is healthy, the last active is still tried",
        (Some(_), Availability::Refusing) => "no backend is healthy, commands are refused",
    };
    Some(format!("group {}: {why} ({})", group.name, one_line(&group.reason)))
}

/// What somebody must know who looks at the group now.
fn alarms(group: &GroupStatus) -> Vec<String> {
    let name = |id: BackendId| name_of(group, id).unwrap_or("?");
    let mut alarms = Vec::new();
    if let Some((drill, until)) = group.wishes.drill {
        alarms.push(format!(
            "a drill plays {} on {} for {} more: what is seen of it is played",
            drill.fault,
            name(drill.backend),
            left(until)
        ));
    }
    if let Some((until, writes_only)) = group.wishes.pause {
        let who = if writes_only { "clients wait with their writes" } else { "clients wait" };
        alarms.push(format!("{who} for at most {} more, by an operator's PAUSE", left(until)));
    }
    if group.wishes.is_stranded {
        alarms.push("the active is drained or reported down, and no other backend can take over".to_owned());
    }
    if let Some((backend, until)) = group.stay {
        alarms.push(format!("an operator holds the active on {} for {} more", name(backend), left(until)));
    }
    alarms
}

/// What operators and checkers want of a backend, in a word or two each.
fn wishes(backend: &BackendStatus) -> Vec<String> {
    let mut wishes = Vec::new();
    wishes.extend(backend.banned_until.map(|until| format!("banned {}", left(until))));
    if backend.wishes.is_drained {
        wishes.push("drained".to_owned());
    }
    wishes.extend(backend.wishes.reports.iter().map(|report| {
        format!("reported {} by {} {}: {}", report.verdict, report.reporter, left(report.until), report.reason)
    }));
    wishes
}

fn left(until: SystemTime) -> String {
    rounded(until.duration_since(SystemTime::now()).unwrap_or_default())
}

fn name_of(group: &GroupStatus, id: BackendId) -> Option<&str> {
    group.backends.iter().find(|backend| backend.id == id).map(|backend| backend.name.as_str())
}

/// Backends speak in verdicts and roles: nothing of theirs may move the cursor of a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn write_table(page: &mut String, rows: &[[String; 8]]) -> std::fmt::Result {
    let widths: [usize; 8] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(page, "{}", line.trim_end())?;
    }
    Ok(())
}
