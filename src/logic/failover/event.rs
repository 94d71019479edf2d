//! What the decision machine takes from an operator, tells to the log, and leaves for the next start.

use std::fmt;
use std::time::{Duration, Instant};

use super::drilling::Ledger;
use super::fencing::{FenceReason, SavedServer};
use super::news::News;
use super::promotion::PromotionOrder;
use super::reports::{Report, Reported};
use crate::logic::drill::Drill;
use crate::logic::judged::Judged;
use crate::logic::route::{BackendId, Route};

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make this backend the active.
    Switch {
        /// Which.
        to: BackendId,
        /// With or without waiting for what is in flight.
        manner: Manner,
    },
    /// Change a backend's preference.
    SetWeight {
        /// Whose.
        backend: BackendId,
        /// The new one, > 0 and finite.
        weight: f64,
    },
    /// Keep a backend active, whatever is heavier, for so long: a planned switch to it if it is not.
    Stay {
        /// Which.
        backend: BackendId,
        /// From now on.
        length: Duration,
    },
    /// End a stay before its time.
    EndStay,
    /// Never make this backend the active, for so long.
    Ban {
        /// Which; not the active.
        backend: BackendId,
        /// From now on.
        length: Duration,
    },
    /// End a ban before its time.
    EndBan {
        /// Of which.
        backend: BackendId,
    },
    /// Take a backend out of the group; ends in [`Event::BackendRemoved`].
    Remove {
        /// Which; not the last.
        backend: BackendId,
        /// How it is left if it is active.
        removal: Removal,
    },
    /// Leave this backend in a planned switch, and never choose it until [`Command::EndDrain`].
    Drain {
        /// Which.
        backend: BackendId,
    },
    /// It may be chosen again.
    EndDrain {
        /// Which.
        backend: BackendId,
    },
    /// What an outside checker says of a backend.
    Report {
        /// Of which.
        backend: BackendId,
        /// What.
        report: Report,
    },
    /// Let clients wait.
    Pause {
        /// At most so long.
        length: Duration,
        /// Only what may change something waits.
        writes_only: bool,
    },
    /// Let them go on.
    Resume,
    /// Play a fault in our own sockets.
    Drill {
        /// What, and on whose connections.
        drill: Drill,
        /// For how long.
        length: Duration,
        /// Even if no other backend can take over.
        is_forced: bool,
    },
    /// End the drill before its time.
    EndDrill,
}

/// How a backend that is to be removed is left, if it is active. One that cannot serve is left by force at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// By a planned switch, tried until it takes place; refused while no other is healthy.
    Planned,
    /// By a planned switch as soon as another is healthy.
    Patient,
    /// By a forced switch, at once, whether another is healthy or not.
    Forced,
}

/// How a switch treats what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It finishes first; nothing is lost.
    Planned,
    /// It is judged: moved, repeated, or uncertain.
    Forced,
}

/// Why the active changed, or why a backend is called unhealthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first choice.
    Start,
    /// A connection was lost or refused and a new one failed too.
    ConnectionLost,
    /// No byte came although requests waited.
    Silent,
    /// It answered a word that means "cannot serve".
    CannotServe {
        /// That word.
        word: String,
    },
    /// `fall` probe rounds in a row failed.
    ProbesFailed,
    /// Too many failures on live traffic.
    FailureRate,
    /// It answers, but far too slowly, and a better one is there.
    Slow,
    /// Return to a heavier backend.
    Failback,
    /// An operator's will.
    Operator,
    /// The active is to be removed.
    Removed,
    /// The active is to be replaced by another server of its name.
    Replaced,
    /// A checker said that it cannot serve.
    ReportedDown,
    /// An operator or a checker took it out of service.
    Drained,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Start => "start",
            Self::ConnectionLost => "connection lost",
            Self::Silent => "silent",
            Self::CannotServe { word } => return write!(formatter, "cannot serve: {word}"),
            Self::ProbesFailed => "probes failed",
            Self::FailureRate => "failure rate",
            Self::Slow => "slow",
            Self::Failback => "failback",
            Self::Operator => "operator",
            Self::Removed => "backend removed",
            Self::Replaced => "backend replaced",
            Self::ReportedDown => "reported down",
            Self::Drained => "drained",
        })
    }
}

/// A fault of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub reason: Reason,
    /// What was seen, in words.
    pub cause: String,
    /// When it was first seen.
    pub since: Instant,
}

/// Why a heavier healthy backend is not returned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// An operator holds the active where it is.
    Stay,
    /// Configured: an operator decides.
    Manual,
    /// Configured: not while the active works.
    Never,
    /// Its breaker is not closed.
    Breaker,
    /// It has not been clean for `failback_hold` yet.
    HoldTime,
    /// It is behind the others, or nobody can tell.
    Lag,
    /// Too many switches of late.
    FlapGuard,
    /// The last attempt was called off; the next one waits.
    CalledOff,
    /// It came back with less than was seen, or as a second master.
    Fenced(FenceReason),
}

impl fmt::Display for Blocked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stay => "an operator holds the active where it is",
            Self::Manual => "failback is manual",
            Self::Never => "failback is never",
            Self::Breaker => "its breaker is not closed",
            Self::HoldTime => "not clean for failback_hold yet",
            Self::Lag => "lag: it is too far behind the others, or nobody can tell",
            Self::FlapGuard => "too many switches of late",
            Self::CalledOff => "the last attempt was called off",
            Self::Fenced(reason) => return write!(formatter, "fenced: {reason}"),
        })
    }
}

/// Why a planned switch did not take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOff {
    /// Something was still in flight when `drain` had passed.
    NotDrained,
    /// The target did not answer a probe.
    TargetUnhealthy,
    /// The target was drained, or reported down.
    TargetSetAside,
    /// The target is a replica and did not get all that the active has in time.
    NotCaughtUp,
    /// The target is a replica and was not promoted.
    NotPromoted,
    /// A fault of the active, or an operator, took precedence.
    Overtaken,
    /// The target is about to leave the group.
    TargetRemoved,
}

impl fmt::Display for CallOff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotDrained => "commands were still in flight after the drain time",
            Self::TargetUnhealthy => "the target does not answer its probe",
            Self::TargetSetAside => "the target was drained or reported down meanwhile",
            Self::NotCaughtUp => "the replica did not catch up within the drain time",
            Self::NotPromoted => "the replica was not promoted",
            Self::Overtaken => "overtaken by a forced switch",
            Self::TargetRemoved => "the target is being removed",
        })
    }
}

/// Why an operator's command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such backend in this group.
    UnknownBackend,
    /// It is the active already.
    AlreadyActive,
    /// Another switch is under way.
    SwitchUnderWay,
    /// None was chosen since the start: a planned switch has nothing to leave.
    NoActive,
    /// A planned switch needs a healthy target.
    TargetUnhealthy,
    /// An operator banned it.
    TargetBanned,
    /// It is about to leave the group.
    TargetLeaving,
    /// A group needs a backend.
    LastBackend,
    /// The active would be left without another that is healthy.
    NoneToTakeOver,
    /// A backend has this name.
    NameTaken,
    /// The active cannot be banned.
    IsActive,
    /// Nothing holds the active.
    NoStay,
    /// It is not banned.
    NotBanned,
    /// The weight is not a number above zero.
    BadWeight,
    /// An operator drained it.
    TargetDrained,
    /// A checker reported it.
    TargetReported,
    /// It is drained already.
    AlreadyDrained,
    /// It is not drained.
    NotDrained,
    /// This checker said nothing of it that still holds.
    NotReported,
    /// Too many checkers speak of one backend.
    TooManyReporters,
    /// Clients do not wait.
    NotPaused,
    /// Only one drill at a time.
    DrillUnderWay,
    /// No drill goes on.
    NoDrill,
    /// The active is drilled and no other backend can take over.
    NoRefuge,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnknownBackend => "no such backend in this group",
            Self::AlreadyActive => "it is the active already",
            Self::SwitchUnderWay => "another switch is under way",
            Self::NoActive => "none is active yet (failover.initial): SWITCH with FORCE begins with one",
            Self::TargetUnhealthy => "the target is not healthy: FORCE switches anyway",
            Self::TargetBanned => "the target is banned",
            Self::TargetLeaving => "the target is being removed or replaced",
            Self::LastBackend => "it is the last of its group: add another first",
            Self::NoneToTakeOver => {
                "it is the active and no other backend is healthy: REMOVE with FORCE does it all the same"
            }
            Self::NameTaken => "a backend has this name already",
            Self::IsActive => "it is the active: switch to another first",
            Self::NoStay => "nothing holds the active",
            Self::NotBanned => "it is not banned",
            Self::BadWeight => "a weight is a number above zero",
            Self::TargetDrained => "the target is drained: UNDRAIN it first",
            Self::TargetReported => {
                "a checker reports the target down or drained: REPORT <backend> UP AS <checker> first; SHOW names it"
            }
            Self::AlreadyDrained => "it is drained already",
            Self::NotDrained => "it is not drained",
            Self::NotReported => "this checker has no report of it in force: SHOW names those that have, AS <checker>",
            Self::TooManyReporters => "too many checkers report on this backend at once",
            Self::NotPaused => "clients are not paused",
            Self::DrillUnderWay => "a drill is under way: DRILL END ends it",
            Self::NoDrill => "no drill is under way",
            Self::NoRefuge => "no other backend can take over now (see WHY): FORCE drills all the same",
        })
    }
}

/// Why the active is no longer held where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StayEnd {
    /// Its time is over.
    Expired,
    /// An operator ended it, or asked for something else.
    Lifted,
    /// The backend cannot serve.
    BackendDown,
    /// The switch to it did not take place.
    CalledOff,
    /// The backend is being removed.
    Removed,
}

impl fmt::Display for StayEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Expired => "its time is over",
            Self::Lifted => "lifted by an operator",
            Self::BackendDown => "the backend cannot serve",
            Self::CalledOff => "the switch to it was called off",
            Self::Removed => "the backend is being removed",
        })
    }
}

/// A switch that took place, with what became of everything in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The active before; `None` at the start.
    pub from: Option<BackendId>,
    /// The active now.
    pub to: BackendId,
    /// Why.
    pub reason: Reason,
    /// What was seen, in words.
    pub cause: String,
    /// The new epoch.
    pub epoch: u64,
    /// From the first sign of the fault to the decision.
    pub detect: Duration,
    /// From the decision to serving.
    pub switch: Duration,
    /// The sum of what the workers judged.
    pub judged: Judged,
}

/// A change of state, logged once.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The active changed.
    Switched(Switched),
    /// A planned switch did not take place.
    SwitchCalledOff {
        /// The target.
        to: BackendId,
        /// Why not.
        why: CallOff,
        /// When a failback is tried again.
        retry_in: Option<Duration>,
    },
    /// A backend became healthy.
    BackendUp {
        /// Which.
        backend: BackendId,
    },
    /// A backend became unhealthy.
    BackendDown {
        /// Which.
        backend: BackendId,
        /// Why.
        fault: Fault,
    },
    /// A breaker opened.
    BreakerOpened {
        /// Whose.
        backend: BackendId,
        /// For how long.
        grace: Duration,
    },
    /// A breaker's grace is over.
    BreakerHalfOpen {
        /// Whose.
        backend: BackendId,
    },
    /// A breaker closed.
    BreakerClosed {
        /// Whose.
        backend: BackendId,
    },
    /// A probe is weaker than configured, or disagrees with live traffic; `None`: not any more.
    ProbeWarning {
        /// Whose.
        backend: BackendId,
        /// What.
        warning: Option<String>,
    },
    /// The active answers, but far too slowly; `None`: not any more.
    Degraded {
        /// Which.
        backend: BackendId,
        /// What was seen, in words.
        evidence: Option<String>,
    },
    /// No backend can serve.
    NoneHealthy,
    /// Commands are refused at once from now on.
    Refusing,
    /// A backend can serve again.
    Recovered {
        /// Which.
        backend: BackendId,
        /// How long none could.
        after: Duration,
    },
    /// A heavier healthy backend is not returned to, for this reason; `None`: not any more.
    FailbackBlocked {
        /// Why.
        reason: Option<Blocked>,
    },
    /// A worker did not acknowledge in time; the switch went on without it.
    WorkersLate {
        /// How many.
        missing: usize,
    },
    /// A backend's weight changed.
    WeightChanged {
        /// Whose.
        backend: BackendId,
        /// The new one.
        weight: f64,
    },
    /// An operator holds the active here.
    StayBegan {
        /// Where.
        backend: BackendId,
        /// For how long.
        length: Duration,
    },
    /// The active is no longer held.
    StayEnded {
        /// Where it was held.
        backend: BackendId,
        /// Why.
        why: StayEnd,
    },
    /// An operator banned a backend.
    Banned {
        /// Which.
        backend: BackendId,
        /// For how long.
        length: Duration,
    },
    /// A backend joined the group.
    BackendAdded {
        /// Which.
        backend: BackendId,
        /// Its preference.
        weight: f64,
    },
    /// A backend left the group.
    BackendRemoved {
        /// Which.
        backend: BackendId,
    },
    /// Another server has a backend's name from now on.
    BackendReplaced {
        /// Who had it.
        backend: BackendId,
        /// Who has it.
        by: BackendId,
    },
    /// A ban ended.
    BanEnded {
        /// Whose.
        backend: BackendId,
    },
    /// An operator took a backend out of service.
    Drained {
        /// Which.
        backend: BackendId,
    },
    /// It may be chosen again.
    DrainEnded {
        /// Which.
        backend: BackendId,
    },
    /// A checker says something new.
    Reported {
        /// Of which.
        backend: BackendId,
        /// What.
        report: Report,
    },
    /// A report holds no longer.
    ReportEnded {
        /// Of which.
        backend: BackendId,
        /// What was said.
        report: Reported,
        /// Its time is over; else its checker took it back.
        is_expired: bool,
    },
    /// The active should be left, by an operator's or a checker's will, and there is nowhere to go: it stays.
    Stranded {
        /// Where.
        backend: BackendId,
    },
    /// An operator lets clients wait.
    Paused {
        /// At most so long.
        length: Duration,
        /// Only what may change something waits.
        writes_only: bool,
    },
    /// Clients go on.
    Resumed {
        /// The time was over; else an operator said so.
        is_expired: bool,
    },
    /// A fault is played in our own sockets from now on.
    DrillBegan {
        /// What, and on whose connections.
        drill: Drill,
        /// For how long.
        length: Duration,
    },
    /// The drill is over.
    DrillEnded {
        /// What it led to.
        ledger: Ledger,
    },
    /// Something about what replicates what.
    Replication {
        /// Of which backend.
        backend: BackendId,
        /// What.
        news: News,
    },
}

/// What the machine asks of its shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Show this route to all workers.
    Publish(Route),
    /// Probe this backend at once, on a new connection.
    ProbeNow(BackendId),
    /// Write a log line.
    Log(Event),
    /// Keep this over a restart.
    Persist(Saved),
    /// This backend is no member any more: nobody needs its connections and probes.
    Dismiss(BackendId),
    /// Let a replica catch up, or promote it, and say how it went.
    Promote(PromotionOrder),
}

/// What survives a restart. Times are relative to the moment of saving.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    /// Name of the last active.
    pub active: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// Breakers that are not closed.
    pub breakers: Vec<SavedBreaker>,
    /// Where an operator holds the active, and for how long still.
    pub stay: Option<(String, Duration)>,
    /// Banned backends, and for how long still.
    pub bans: Vec<(String, Duration)>,
    /// What was seen of each server.
    pub servers: Vec<SavedServer>,
    /// Backends that an operator drained.
    pub drained: Vec<String>,
    /// Reports in force.
    pub reports: Vec<SavedReport>,
}

/// A report that was in force.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedReport {
    /// Name of the backend that it is about.
    pub backend: String,
    /// What was said, and for how long it still holds.
    pub report: Report,
}

/// A breaker that was not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBreaker {
    /// Name of its backend.
    pub backend: String,
    /// The grace of its opening.
    pub grace: Duration,
    /// What was left of it.
    pub left: Duration,
}
