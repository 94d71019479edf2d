//! Every metric: its name, its labels and what it means. Nothing is counted here; a scrape adds up what others keep.
//!
//! Base units, bounded labels. Keys and client addresses are never labels; names of backends and groups are the file's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::counters::{
    Authentication, Category, Class, Connect, Count, DURATION_BOUNDS_US, EntryRefusal, EventCounters, Fate, Histogram,
    Memory, Mode, Outcome, ProtocolFault, SubscriptionKind, SubscriptionState, Way, WorkerCounters,
};
use super::exposition::{Exposition, Metric, Samples};
use crate::channels::{Aspect, Availability, BackendStatus, GroupStatus};
use crate::logic::record::EventKind;
use crate::tls::{Facts, Owner};

/// Media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const BUILD_INFO: Metric = Metric::gauge("handover_build_info", "Always 1; the version is a label.");
const READY: Metric = Metric::gauge("handover_ready", "1 when every group has an active backend that serves.");
const RELOAD_SUCCESS: Metric =
    Metric::gauge("handover_config_reload_success", "1 when the configuration in force is the one last read.");
const RELOAD_TIMESTAMP: Metric =
    Metric::gauge("handover_config_reload_timestamp_seconds", "When the configuration was last read with success.");
const LOG_LINES_DROPPED: Metric =
    Metric::counter("handover_log_lines_dropped_total", "Log lines that nobody took in time.");

const EVENTS: Metric = Metric::counter("handover_events_total", "Events, by kind: docs/events.md has the list.");
const EVENTS_DROPPED: Metric = Metric::counter(
    "handover_events_dropped_total",
    "Records of events that did not leave this way: it was too slow, or the other side did not take them.",
);

const BACKEND_UP: Metric = Metric::gauge("handover_backend_up", "1 when health checks say that the backend can serve.");
const BACKEND_ACTIVE: Metric = Metric::gauge("handover_backend_active", "1 for the backend that serves its group.");
const BACKEND_WEIGHT: Metric = Metric::gauge("handover_backend_weight", "Preference; the heaviest healthy one serves.");
const BACKEND_ROLE: Metric = Metric::gauge("handover_backend_role", "Always 1; the role last seen is a label.");
const BACKEND_FENCED: Metric = Metric::gauge(
    "handover_backend_fenced",
    "1 while a backend is not returned to for what its server said of itself, with the reason.",
);
const BACKEND_CIRCUIT: Metric =
    Metric::gauge("handover_backend_circuit_state", "1 for the state that the circuit breaker is in.");
const BACKEND_DEGRADED: Metric =
    Metric::gauge("handover_backend_degraded", "1 while the active answers, but far too slowly.");
const BACKEND_CONNECTIONS: Metric =
    Metric::gauge("handover_backend_connections", "Connections of the data path open to the backend.");
const BACKEND_CONNECTS: Metric =
    Metric::counter("handover_backend_connects_total", "Connections of the data path opened, by how it ended.");
const HEALTH_CHECKS: Metric =
    Metric::counter("handover_backend_health_checks_total", "Rounds of health checks, by what they found.");
const HEALTH_CHECK_DURATION: Metric =
    Metric::gauge("handover_backend_health_check_duration_seconds", "How long the last round of health checks took.");

const EPOCH: Metric = Metric::gauge("handover_epoch", "Grows by one with each switch.");
const AVAILABILITY: Metric = Metric::gauge(
    "handover_availability",
    "1 for the state that the group is in; degraded: no backend is healthy, the last active is still tried.",
);
const SWITCHES: Metric = Metric::counter("handover_switches_total", "Changes of the active backend.");
const SWITCH_DURATION: Metric =
    Metric::gauge("handover_switch_duration_seconds", "How long the last switch took: to see the fault, and to move.");
const FAILBACK_BLOCKED: Metric = Metric::gauge(
    "handover_failback_blocked",
    "1 while a heavier healthy backend is not returned to, with the reason.",
);
const DRILL: Metric = Metric::gauge(
    "handover_drill",
    "1 while a drill plays this fault on the backend's connections: what other metrics show of it is played.",
);
const PAUSED: Metric = Metric::gauge("handover_clients_paused", "1 while clients wait by an operator's PAUSE.");
const STRANDED: Metric = Metric::gauge(
    "handover_stranded",
    "1 while the active is drained or reported down and no other backend can take over.",
);
const PARITY: Metric = Metric::gauge(
    "handover_backend_parity",
    "1 while all backends of the group that were looked at are alike in this aspect.",
);
const WITHOUT_ACTIVE: Metric =
    Metric::counter("handover_without_active_seconds_total", "Time without an active backend that serves.");

const CLIENTS: Metric = Metric::gauge("handover_clients", "Clients connected.");
const CLIENTS_ACCEPTED: Metric = Metric::counter("handover_clients_accepted_total", "Clients that connected.");
const CLIENTS_CLOSED: Metric = Metric::counter("handover_clients_closed_total", "Clients whose session ended, by why.");
const AUTHENTICATIONS: Metric = Metric::counter(
    "handover_authentications_total",
    "Clients' attempts to authenticate, and clients that made none in time or are not accepted any more.",
);
const ENTRIES_REFUSED: Metric = Metric::counter(
    "handover_entries_refused_total",
    "Connections closed before their first command, for their TLS handshake or their PROXY header, by why.",
);
const CERTIFICATE_EXPIRY: Metric = Metric::gauge(
    "handover_certificate_expiry_timestamp_seconds",
    "When a certificate expires: own, that of a listener or shown to a backend; peer, the one that the backend showed.",
);
const CERTIFICATE_RELOADS: Metric =
    Metric::counter("handover_certificate_reloads_total", "New certificate files, by whether they could be used.");
const SESSIONS: Metric = Metric::gauge("handover_sessions", "Sessions, by how they use backend connections.");
const COMMANDS: Metric = Metric::counter("handover_commands_total", "Commands that were answered.");
const COMMAND_DURATION: Metric =
    Metric::histogram("handover_command_duration_seconds", "From a command's arrival to its reply.");
const INFLIGHT: Metric = Metric::gauge("handover_inflight", "Commands without a reply.");
const INFLIGHT_LOST: Metric =
    Metric::counter("handover_inflight_lost_total", "Commands whose connection was lost before the reply came.");
const SUBSCRIPTIONS: Metric = Metric::gauge("handover_subscriptions", "Subscriptions that clients want or have.");
const HUB_TOPICS: Metric = Metric::gauge(
    "handover_hub_topics",
    "Channels, patterns and shard channels subscribed to on connections that many clients share.",
);
const MESSAGES_REPLAYED: Metric = Metric::counter(
    "handover_messages_replayed_total",
    "Messages delivered after a switch that a standby's connection had kept.",
);
const SUBSCRIPTION_GAPS: Metric = Metric::counter(
    "handover_subscription_gaps_total",
    "Times in which a client's subscriptions were not live, so that messages may have been lost.",
);
const SUBSCRIPTION_GAP_SECONDS: Metric = Metric::counter(
    "handover_subscription_gap_seconds_total",
    "How long clients' subscriptions were not live, from the last proof of life on.",
);
const SLOW_SUBSCRIBERS: Metric = Metric::counter(
    "handover_slow_subscribers_closed_total",
    "Subscribers closed because they did not read their messages.",
);
const RESUBSCRIBE_DURATION: Metric = Metric::histogram(
    "handover_resubscribe_duration_seconds",
    "Time until a client's subscriptions were live on another connection.",
);
const MESSAGES: Metric = Metric::counter("handover_messages_total", "Messages delivered to subscribers.");
const MEMORY: Metric = Metric::gauge("handover_memory_bytes", "Bytes kept for clients and backends.");
const PROTOCOL_ERRORS: Metric = Metric::counter("handover_protocol_errors_total", "Breaches of the protocol.");
const SENTINEL_MISMATCH: Metric =
    Metric::counter("handover_sentinel_mismatch_total", "Lanes closed because their sentinel did not come back.");

const fn fate_metric(fate: Fate) -> Metric {
    match fate {
        Fate::Moved => Metric::counter("handover_moved_total", "In flight at a fault, never sent: went elsewhere."),
        Fate::Repeated => Metric::counter("handover_repeated_total", "In flight at a fault, sent: sent again."),
        Fate::Rearmed => Metric::counter("handover_rearmed_total", "In flight at a fault, blocked: wait again."),
        Fate::Uncertain => Metric::counter("handover_uncertain_total", "In flight at a fault: outcome unknown."),
        Fate::NotApplied => {
            Metric::counter("handover_not_applied_total", "In flight at a fault: refused, not applied.")
        }
        Fate::Aborted => Metric::counter("handover_aborted_total", "In flight at a fault: transactions ended by it."),
        Fate::Gone => Metric::counter("handover_gone_total", "In flight at a fault: the client had gone."),
    }
}

/// How the last reading of the configuration went. Written by the application, read by a scrape.
#[derive(Debug)]
pub struct Reloads {
    success: AtomicBool,
    loaded_at_s: AtomicU64,
}

impl Reloads {
    /// The configuration was read for the first time, at the start.
    #[must_use]
    pub fn loaded(at: SystemTime) -> Self {
        Self { success: AtomicBool::new(true), loaded_at_s: AtomicU64::new(epoch_seconds(at)) }
    }

    /// It was read again, and is in force.
    pub fn succeeded(&self, at: SystemTime) {
        self.loaded_at_s.store(epoch_seconds(at), Relaxed);
        self.success.store(true, Relaxed);
    }

    /// It was read again and is wrong; the old one stays.
    pub fn failed(&self) {
        self.success.store(false, Relaxed);
    }
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Every group has an active that serves.
    pub ready: bool,
    /// The configuration's readings.
    pub reloads: &'a Reloads,
    /// Log lines dropped since the start.
    pub log_lines_dropped: u64,
    /// What was counted of events.
    pub events: &'a EventCounters,
    /// Labels of the reasons for which clients are closed.
    pub close_reasons: &'a [&'a str],
    /// The certificates in use.
    pub certificates: Vec<Arc<Facts>>,
    /// The groups.
    pub groups: Vec<GroupSnapshot<'a>>,
}

/// One group, as control sees it and as its workers counted it.
#[derive(Debug)]
pub struct GroupSnapshot<'a> {
    /// What control says.
    pub status: GroupStatus,
    /// One for each worker.
    pub workers: &'a [Arc<WorkerCounters>],
}

impl GroupSnapshot<'_> {
    fn sum(&self, of: impl Fn(&WorkerCounters) -> &Count) -> u64 {
        self.workers.iter().map(|worker| of(worker).get()).sum()
    }

    fn name(&self) -> (&str, &str) {
        ("group", &self.status.name)
    }
}

/// The text that Prometheus scrapes.
#[must_use]
pub fn render(snapshot: &Snapshot<'_>) -> String {
    let mut page = Page { text: Exposition::default(), groups: &snapshot.groups };
    page.process(snapshot);
    page.events(snapshot.events);
    page.certificates(&snapshot.certificates);
    page.backends();
    page.backend_connections();
    page.routes();
    page.switches();
    page.clients(snapshot.close_reasons);
    page.commands();
    page.faults();
    page.subscriptions();
    page.text.finish()
}

struct Page<'a> {
    text: Exposition,
    groups: &'a [GroupSnapshot<'a>],
}

impl Page<'_> {
    fn process(&mut self, snapshot: &Snapshot<'_>) {
        let text = &mut self.text;
        text.single(&BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.single(&READY, &[], u8::from(snapshot.ready));
        text.single(&RELOAD_SUCCESS, &[], u8::from(snapshot.reloads.success.load(Relaxed)));
        text.single(&RELOAD_TIMESTAMP, &[], snapshot.reloads.loaded_at_s.load(Relaxed));
        text.single(&LOG_LINES_DROPPED, &[], snapshot.log_lines_dropped);
    }

    fn events(&mut self, events: &EventCounters) {
        // What only readers see is no event of the process.
        let is_told = |kind: &EventKind| !matches!(kind, EventKind::Lost | EventKind::Outcomes);
        let mut samples = self.text.begin(&EVENTS);
        for kind in EventKind::ALL.into_iter().filter(is_told) {
            samples.sample(&[("kind", kind.label())], events.kind(kind).get());
        }
        let mut samples = self.text.begin(&EVENTS_DROPPED);
        for way in Way::ALL {
            samples.sample(&[("way", way.label())], events.dropped(way).get());
        }
    }

    fn certificates(&mut self, certificates: &[Arc<Facts>]) {
        let owner = |facts: &Facts| match &facts.owner {
            Owner::Listener(address) => ("listener", address.clone()),
            Owner::Backend(name) => ("backend", name.clone()),
            Owner::Webhook(address) => ("webhook", address.clone()),
        };
        {
            let mut samples = self.text.begin(&CERTIFICATE_EXPIRY);
            for facts in certificates {
                let (kind, name) = owner(facts);
                for (whose, not_after) in [("own", facts.own_not_after()), ("peer", facts.peer_not_after())] {
                    if let Some(not_after) = not_after {
                        samples.sample(&[(kind, &name), ("certificate", whose)], not_after);
                    }
                }
            }
        }
        let mut samples = self.text.begin(&CERTIFICATE_RELOADS);
        for facts in certificates {
            let (kind, name) = owner(facts);
            let (good, bad) = facts.reloads();
            samples.sample(&[(kind, &name), ("result", "good")], good);
            samples.sample(&[(kind, &name), ("result", "bad")], bad);
        }
    }

    fn backends(&mut self) {
        self.each_backend(&BACKEND_UP, |_, backend, labels, samples| {
            samples.sample(labels, u8::from(backend.healthy));
        });
        self.each_backend(&BACKEND_ACTIVE, |group, backend, labels, samples| {
            samples.sample(labels, u8::from(group.status.route.active == Some(backend.id)));
        });
        self.each_backend(&BACKEND_WEIGHT, |_, backend, labels, samples| samples.sample(labels, backend.weight));
        self.each_backend(&BACKEND_ROLE, |_, backend, &[group, name], samples| {
            samples.sample(&[group, name, ("role", bounded_role(&backend.role))], 1);
        });
        self.each_backend(&BACKEND_FENCED, |_, backend, &[group, name], samples| {
            let Some((reason, _)) = backend.fence else { return };
            samples.sample(&[group, name, ("reason", reason)], 1);
        });
        self.each_backend(&BACKEND_CIRCUIT, |_, backend, &[group, name], samples| {
            for state in ["closed", "open", "half-open"] {
                samples.sample(&[group, name, ("state", state)], u8::from(backend.circuit == state));
            }
        });
        self.each_backend(&BACKEND_DEGRADED, |_, backend, labels, samples| {
            samples.sample(labels, u8::from(backend.degraded.is_some()));
        });
        self.each_backend(&HEALTH_CHECKS, |_, backend, &[group, name], samples| {
            samples.sample(&[group, name, ("result", "good")], backend.probes.0);
            samples.sample(&[group, name, ("result", "bad")], backend.probes.1);
        });
        self.each_backend(&HEALTH_CHECK_DURATION, |_, backend, labels, samples| {
            samples.sample(labels, backend.probe_duration.as_secs_f64());
        });
    }

    fn backend_connections(&mut self) {
        self.each_backend(&BACKEND_CONNECTIONS, |group, backend, labels, samples| {
            let open: u64 = group.workers.iter().map(|worker| worker.backend(backend.id).connections.get()).sum();
            samples.sample(labels, open);
        });
        self.each_backend(&BACKEND_CONNECTS, |group, backend, &[of_group, name], samples| {
            for result in Connect::ALL {
                let connects = group.workers.iter().map(|worker| worker.backend(backend.id).connects(result).get());
                samples.sample(&[of_group, name, ("result", result.label())], connects.sum::<u64>());
            }
        });
    }

    fn routes(&mut self) {
        self.each_group(&EPOCH, |group, samples| samples.sample(&[group.name()], group.status.route.epoch));
        self.each_group(&AVAILABILITY, |group, samples| {
            for (state, availability) in [
                ("healthy", Availability::Healthy),
                ("degraded", Availability::Degraded),
                ("refusing", Availability::Refusing),
            ] {
                let holds = group.status.route.availability == availability;
                samples.sample(&[group.name(), ("state", state)], u8::from(holds));
            }
        });
        self.each_group(&WITHOUT_ACTIVE, |group, samples| {
            samples.sample(&[group.name()], group.status.without_active.as_secs_f64());
        });
    }

    fn switches(&mut self) {
        self.each_group(&SWITCHES, |group, samples| {
            for (from, to, reason, count) in &group.status.switches {
                samples.sample(&[group.name(), ("from", from), ("to", to), ("reason", reason)], count);
            }
        });
        self.each_group(&SWITCH_DURATION, |group, samples| {
            let Some((detect, switch)) = group.status.last_switch else { return };
            samples.sample(&[group.name(), ("phase", "detect")], detect.as_secs_f64());
            samples.sample(&[group.name(), ("phase", "switch")], switch.as_secs_f64());
        });
        self.each_group(&DRILL, |group, samples| {
            let Some((drill, _)) = &group.status.wishes.drill else { return };
            let backend = group.status.backends.iter().find(|backend| backend.id == drill.backend);
            let name = backend.map_or("", |backend| backend.name.as_str());
            samples.sample(&[group.name(), ("backend", name), ("fault", drill.fault.label())], 1);
        });
        self.each_group(&PAUSED, |group, samples| {
            samples.sample(&[group.name()], u64::from(group.status.wishes.pause.is_some()));
        });
        self.each_group(&STRANDED, |group, samples| {
            samples.sample(&[group.name()], u64::from(group.status.wishes.is_stranded));
        });
        self.each_group(&PARITY, |group, samples| {
            for aspect in Aspect::ALL.into_iter().filter(|_| group.status.compared > 1) {
                let differs = group.status.differences.iter().any(|difference| difference.aspect == aspect);
                samples.sample(&[group.name(), ("aspect", aspect.label())], u8::from(!differs));
            }
        });
        self.each_group(&FAILBACK_BLOCKED, |group, samples| {
            let Some(reason) = &group.status.failback_blocked else { return };
            samples.sample(&[group.name(), ("reason", bounded_reason(reason))], 1);
        });
    }

    fn clients(&mut self, close_reasons: &[&str]) {
        self.each_sum(&CLIENTS, |worker| &worker.clients);
        self.each_sum(&CLIENTS_ACCEPTED, |worker| &worker.clients_accepted);
        self.each_labelled(&CLIENTS_CLOSED, "reason", close_reasons, |worker, index| worker.clients_closed(index));
        self.each_labelled(
            &AUTHENTICATIONS,
            "outcome",
            &Authentication::ALL.map(Authentication::label),
            |worker, index| worker.authentications(Authentication::ALL[index]),
        );
        self.each_labelled(&ENTRIES_REFUSED, "reason", &EntryRefusal::ALL.map(EntryRefusal::label), |worker, index| {
            worker.entries_refused(EntryRefusal::ALL[index])
        });
        self.each_labelled(&SESSIONS, "mode", &Mode::ALL.map(Mode::label), |worker, index| {
            worker.sessions(Mode::ALL[index])
        });
        self.each_labelled(&MEMORY, "kind", &Memory::ALL.map(Memory::label), |worker, index| {
            worker.memory_bytes(Memory::ALL[index])
        });
    }

    fn commands(&mut self) {
        self.each_group(&COMMANDS, |group, samples| {
            for class in Class::ALL {
                for outcome in Outcome::ALL {
                    let labels = [group.name(), ("class", class.label()), ("result", outcome.label())];
                    samples.sample(&labels, group.sum(|worker| worker.commands(class, outcome)));
                }
            }
        });
        let bounds = DURATION_BOUNDS_US.map(|micros| Duration::from_micros(micros).as_secs_f64());
        self.each_group(&COMMAND_DURATION, |group, samples| {
            for class in Class::ALL {
                let (counts, sum) = added_up(group.workers.iter().map(|worker| worker.durations(class)));
                samples.histogram(&[group.name(), ("class", class.label())], &bounds, &counts, sum.as_secs_f64());
            }
        });
        self.each_sum(&INFLIGHT, |worker| &worker.inflight);
    }

    fn faults(&mut self) {
        self.each_labelled(&INFLIGHT_LOST, "category", &Category::ALL.map(Category::label), |worker, index| {
            worker.inflight_lost(Category::ALL[index])
        });
        for fate in Fate::ALL {
            self.each_sum(&fate_metric(fate), |worker| worker.fates(fate));
        }
        self.each_labelled(
            &PROTOCOL_ERRORS,
            "class",
            &ProtocolFault::ALL.map(ProtocolFault::label),
            |worker, index| worker.protocol_faults(ProtocolFault::ALL[index]),
        );
        self.each_sum(&SENTINEL_MISMATCH, |worker| &worker.sentinel_mismatches);
    }

    fn subscriptions(&mut self) {
        self.each_group(&SUBSCRIPTIONS, |group, samples| {
            for kind in SubscriptionKind::ALL {
                for state in SubscriptionState::ALL {
                    let labels = [group.name(), ("kind", kind.label()), ("state", state.label())];
                    samples.sample(&labels, group.sum(|worker| worker.subscriptions(kind, state)));
                }
            }
        });
        self.each_group(&HUB_TOPICS, |group, samples| {
            for kind in SubscriptionKind::ALL {
                let labels = [group.name(), ("kind", kind.label())];
                samples.sample(&labels, group.sum(|worker| worker.hub_topics(kind)));
            }
        });
        self.each_sum(&MESSAGES, |worker| &worker.messages);
        self.each_sum(&MESSAGES_REPLAYED, |worker| &worker.messages_replayed);
        self.each_sum(&SLOW_SUBSCRIBERS, |worker| &worker.slow_subscribers);
        self.each_sum(&SUBSCRIPTION_GAPS, |worker| &worker.subscription_gaps);
        self.each_group(&SUBSCRIPTION_GAP_SECONDS, |group, samples| {
            let micros = group.sum(|worker| &worker.subscription_gap_us);
            samples.sample(&[group.name()], Duration::from_micros(micros).as_secs_f64());
        });
        let bounds = DURATION_BOUNDS_US.map(|micros| Duration::from_micros(micros).as_secs_f64());
        self.each_group(&RESUBSCRIBE_DURATION, |group, samples| {
            let (counts, sum) = added_up(group.workers.iter().map(|worker| &worker.resubscribe));
            samples.histogram(&[group.name()], &bounds, &counts, sum.as_secs_f64());
        });
    }

    fn each_group(&mut self, metric: &Metric, mut show: impl FnMut(&GroupSnapshot<'_>, &mut Samples<'_>)) {
        let mut samples = self.text.begin(metric);
        for group in self.groups {
            show(group, &mut samples);
        }
    }

    fn each_sum(&mut self, metric: &Metric, of: impl Fn(&WorkerCounters) -> &Count) {
        self.each_group(metric, |group, samples| samples.sample(&[group.name()], group.sum(&of)));
    }

    fn each_labelled(
        &mut self,
        metric: &Metric,
        label: &str,
        values: &[&str],
        of: impl Fn(&WorkerCounters, usize) -> &Count,
    ) {
        self.each_group(metric, |group, samples| {
            for (index, value) in values.iter().enumerate() {
                samples.sample(&[group.name(), (label, value)], group.sum(|worker| of(worker, index)));
            }
        });
    }

    fn each_backend(
        &mut self,
        metric: &Metric,
        show: impl Fn(&GroupSnapshot<'_>, &BackendStatus, &[(&str, &str); 2], &mut Samples<'_>),
    ) {
        self.each_group(metric, |group, samples| {
            for backend in &group.status.backends {
                show(group, backend, &[group.name(), ("backend", &backend.name)], samples);
            }
        });
    }
}

fn added_up<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> ([u64; DURATION_BOUNDS_US.len() + 1], Duration) {
    let mut counts = [0; DURATION_BOUNDS_US.len() + 1];
    let mut sum_us = 0;
    for histogram in histograms {
        sum_us += histogram.sum_us();
        for (count, bucket) in counts.iter_mut().zip(histogram.buckets()) {
            *count += bucket;
        }
    }
    (counts, Duration::from_micros(sum_us))
}

/// A backend names its role itself, so that only what we know becomes a label.
fn bounded_role(role: &str) -> &'static str {
    match role {
        "master" => "master",
        "slave" => "slave",
        _ => "unknown",
    }
}

/// What a sentence begins with, before figures and details that differ each time.
fn bounded_reason(sentence: &str) -> &str {
    let end = sentence.find(|letter: char| letter.is_ascii_digit() || ":;,(".contains(letter));
    sentence[..end.unwrap_or(sentence.len())].trim_end()
}

fn epoch_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_roles_are_bounded() {
        assert_eq!(bounded_reason("flap guard (3 switches in 10m)"), "flap guard");
        assert_eq!(bounded_reason("hold time, 12 s left"), "hold time");
        assert_eq!(bounded_reason("manual"), "manual");
        assert_eq!(bounded_role("x\ny"), "unknown");
    }
}
