//! What happened, as one record that is the same on every way out: log, console, HTTP, webhook, program.
//!
//! The names of kinds and fields are interface: `docs/events.md` shows an example of each, and a test compares them.
//! [`Happening::of`] is the one place where an event of the decision machine gets its words.

mod described;
mod orders;
mod replication;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::logic::judged::Judged;
use crate::logic::utc::write_utc;

/// Grows when a field changes its meaning or goes; new fields and kinds come without that.
pub const SCHEMA: u32 = 1;

/// Declares an enum with the names that its variants have outside.
macro_rules! names {
    ($(#[$about:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $variant),+ }

        impl $name {
            /// Every one.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// Its name outside.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// The one of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.label() == name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    };
}

names! {
    /// What kind of thing happened.
    EventKind {
        /// Another backend is active, or the first one.
        ActiveChanged = "active_changed",
        /// A planned switch did not take place.
        SwitchCalledOff = "switch_called_off",
        /// An operator's switch was not begun.
        SwitchRefused = "switch_refused",
        /// A backend became healthy or unhealthy.
        BackendHealth = "backend_health",
        /// The active answers, but far too slowly, or in time again.
        BackendDegraded = "backend_degraded",
        /// A breaker opened, became half-open, or closed.
        Breaker = "breaker",
        /// A health check tells less than it should, or all again.
        CheckWarning = "check_warning",
        /// A heavier healthy backend is not returned to, or that has ended.
        FailbackBlocked = "failback_blocked",
        /// No backend can serve.
        NoneHealthy = "none_healthy",
        /// Commands are refused at once from now on.
        Refusing = "refusing",
        /// A backend can serve again.
        Recovered = "recovered",
        /// A switch went on without a worker that was late.
        WorkersLate = "workers_late",
        /// Commands failed in the last second.
        CommandsFailed = "commands_failed",
        /// A backend was added while running.
        BackendAdded = "backend_added",
        /// A backend was removed while running.
        BackendRemoved = "backend_removed",
        /// Another server has a backend's name from now on.
        BackendReplaced = "backend_replaced",
        /// A backend's weight changed.
        BackendWeight = "backend_weight",
        /// An operator holds the active, or does not any more.
        Stay = "stay",
        /// An operator banned a backend, or the ban ended.
        Ban = "ban",
        /// Messages of subscriptions may have been missed.
        Gap = "gap",
        /// More than one master of the same data was seen.
        MultipleMasters = "multiple_masters",
        /// A backend came back with less than was seen of it.
        StaleData = "stale_data",
        /// It may be returned to again.
        FenceLifted = "fence_lifted",
        /// A backend is a replica of another.
        Replica = "replica",
        /// A replica is promoted, was, or was not.
        Promotion = "promotion",
        /// An operator plays a fault.
        Drill = "drill",
        /// An operator took a backend out of service, or it is back.
        Drain = "drain",
        /// A checker judged a backend, or its report holds no longer.
        Report = "report",
        /// The active should be left and there is nowhere to go.
        Stranded = "stranded",
        /// An operator lets clients wait, or they go on.
        Pause = "pause",
        /// The configuration was read again.
        ConfigReloaded = "config_reloaded",
        /// Whoever reads records was too slow, and some are gone.
        Lost = "lost",
        /// The outcomes of one second, on a stream of their own.
        Outcomes = "outcomes",
    }
}

names! {
    /// How much it matters, as in the log.
    Severity {
        /// Somebody who looks for something else.
        Debug = "debug",
        /// As it should be.
        Info = "info",
        /// Worth a look.
        Warning = "warning",
        /// Somebody must act.
        Error = "error",
    }
}

names! {
    /// Where something stands now.
    State {
        /// Of a backend: it can serve.
        Healthy = "healthy",
        /// Of a backend: it cannot.
        Unhealthy = "unhealthy",
        /// Of a breaker: its backend is left alone.
        Open = "open",
        /// Of a breaker: probes decide.
        HalfOpen = "half-open",
        /// Of a breaker: all is well.
        Closed = "closed",
        /// Of a stay, a ban, a warning, a drill: from now on.
        Began = "began",
        /// Of the same: not any more.
        Ended = "ended",
        /// Of a promotion: it did not take place.
        Failed = "failed",
        /// Of a configuration: in force.
        Accepted = "accepted",
        /// Of a configuration: wrong, so that the old one stays.
        Refused = "refused",
    }
}

/// Milliseconds since 1970, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// The time since 1970.
    #[must_use]
    pub const fn since_epoch(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_utc(formatter, self.since_epoch())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A time with microseconds, written as milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub Duration);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if micros % 1000 == 0 {
            serializer.serialize_u64(micros / 1000)
        } else {
            serializer.serialize_f64(micros as f64 / 1e3)
        }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Grows by one with each record of a process, and begins beyond those of an earlier process: who gets a record
    /// twice knows it by this.
    pub id: u64,
    /// When.
    pub at: Moment,
    /// The group that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The epoch of that group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// What happened.
    #[serde(flatten)]
    pub happening: Happening,
}

impl EventRecord {
    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a record has nothing but text and finite numbers")
    }
}

/// What happened, before it gets a number and a time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Happening {
    /// Its kind.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// What the log line says; the details stand behind it.
    #[serde(skip)]
    pub title: &'static str,
    /// A sentence for people.
    pub text: String,
    /// What machines read.
    #[serde(flatten)]
    pub details: Box<Details>,
}

/// Everything that a record may say. What has no meaning for a kind is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Details {
    /// The backend that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The active before; missing at the first choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The active now, or what it was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Where it stands now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why, in a few words that stay the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Who wanted it: `console`, `reload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The weight now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// For how long.
    #[serde(rename = "length_ms", skip_serializing_if = "Option::is_none")]
    pub length: Option<Millis>,
    /// After how long.
    #[serde(rename = "after_ms", skip_serializing_if = "Option::is_none")]
    pub after: Option<Millis>,
    /// Tried again after so long.
    #[serde(rename = "retry_in_ms", skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<Millis>,
    /// From the first sign of a fault to the decision.
    #[serde(rename = "detect_ms", skip_serializing_if = "Option::is_none")]
    pub detect: Option<Millis>,
    /// From the decision to serving.
    #[serde(rename = "switch_ms", skip_serializing_if = "Option::is_none")]
    pub switch: Option<Millis>,
    /// What became of the commands in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
    /// Commands that failed in one second, by how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// Backends that are concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<String>>,
    /// Settings that changed, one sentence each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<String>>,
    /// Workers that were late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<u64>,
    /// Records that are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// What a second brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcomes: Option<Outcomes>,
}

/// A judgement with its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight(pub Judged);

impl Serialize for InFlight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Judged { moved, repeated, rearmed, uncertain, not_applied, aborted, gone } = self.0;
        serializer.collect_map([
            ("total", self.0.total()),
            ("moved", moved),
            ("repeated", repeated),
            ("rearmed", rearmed),
            ("uncertain", uncertain),
            ("not_applied", not_applied),
            ("aborted", aborted),
            ("gone", gone),
        ])
    }
}

/// Commands that did not get what they asked for, in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Sent, and nobody knows whether they were applied.
    pub uncertain: u64,
    /// Refused, certainly not applied.
    pub not_applied: u64,
    /// Transactions that a switch ended.
    pub aborted: u64,
    /// Their client had gone.
    pub gone: u64,
    /// Refused by rule or by limit.
    pub refused: u64,
}

impl Failed {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.uncertain + self.not_applied + self.aborted + self.gone + self.refused
    }
}

/// What became of commands in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcomes {
    /// The time that it covers.
    pub period_ms: u64,
    /// Replies that are no errors.
    pub ok: u64,
    /// Errors that backends answered.
    pub errors: u64,
    /// What Handover itself had to refuse or could not know.
    pub failed: Failed,
    /// Without a reply now.
    pub in_flight: u64,
    /// Of the replies of that time, upper bounds in microseconds; missing without replies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
    /// Each backend.
    pub backends: Vec<BackendOutcomes>,
}

/// Times below which so much of everything stays, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half.
    pub p50: u64,
    /// 95 %.
    pub p95: u64,
    /// 99 %.
    pub p99: u64,
}

/// What a backend did in one second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackendOutcomes {
    /// Its name.
    pub backend: String,
    /// It is the active now.
    pub active: bool,
    /// Replies that came, errors among them.
    pub replies: u64,
    /// Requests lost with their connection, connects that failed, "cannot serve" replies.
    pub failures: u64,
    /// Connections that were lost.
    pub connections_lost: u64,
    /// Connects that worked.
    pub connects: u64,
    /// Connects that failed.
    pub connects_failed: u64,
    /// Connections open now.
    pub connections: u64,
}
