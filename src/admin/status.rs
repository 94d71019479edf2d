//! How each group stands, for people and for machines: JSON, a page of text, and the answer to "ready?".

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

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
    standby: Option<&'a str>,
    epoch: u64,
    phase: &'static str,
    switching_to: Option<&'a str>,
    availability: &'static str,
    reason: &'a str,
    failback_blocked: Option<&'a str>,
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

    fn write_page(&self, page: &mut String) -> std::fmt::Result {
        self.write_summary(page)?;
        writeln!(page, "\n/healthz  the process lives\n/readyz   every group has an active backend that serves")?;
        writeln!(page, "/status   this page as JSON\n/metrics  for Prometheus")
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
        writeln!(page, "\ngroup {name} - {availability}, epoch {epoch}: {}", one_line(reason))?;
        if let Some(to) = self.switching_to {
            writeln!(page, "switching to {to} ({})", self.phase)?;
        }
        if let Some(reason) = self.failback_blocked {
            writeln!(page, "no failback: {}", one_line(reason))?;
        }
        let header = ["", "backend", "weight", "health", "circuit", "role", "last check"].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(header).chain(self.backends.iter().map(Backend::row)).collect();
        write_table(page, &rows)
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
        }
    }

    fn row(&self) -> [String; 7] {
        [
            if self.active { "*" } else { "" }.to_owned(),
            self.name.to_owned(),
            self.weight.to_string(),
            if self.healthy { "healthy" } else { "UNHEALTHY" }.to_owned(),
            self.circuit.to_owned(),
            one_line(self.role),
            one_line(self.last_verdict),
        ]
    }
}

/// Why the group does not serve; `None`: it does.
#[must_use]
pub fn not_ready(group: &GroupStatus) -> Option<String> {
    let why = match (group.route.active, group.route.availability) {
        (None, _) => "no backend was found healthy yet",
        (Some(_), Availability::Healthy) => return None,
        (Some(_), Availability::Degraded) => "no backend is healthy, the last active is still tried",
        (Some(_), Availability::Refusing) => "no backend is healthy, commands are refused",
    };
    Some(format!("group {}: {why} ({})", group.name, one_line(&group.reason)))
}

fn name_of(group: &GroupStatus, id: BackendId) -> Option<&str> {
    group.backends.iter().find(|backend| backend.id == id).map(|backend| backend.name.as_str())
}

/// Backends speak in verdicts and roles: nothing of theirs may move the cursor of a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn write_table(page: &mut String, rows: &[[String; 7]]) -> std::fmt::Result {
    let widths: [usize; 7] =
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
