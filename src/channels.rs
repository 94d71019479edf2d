//! Every channel between planes and workers: its message, its capacity, and what happens when it is full.
//!
//! Messages that several planes share are defined or exported here; a message that has one receiver stands with it, in
//! the file that the table names.
//!
//! | From → to | Kind | Capacity | When full |
//! |---|---|---|---|
//! | supervisor → workers: [`Directions`] | `watch`, one a group | 1, the latest | newer directions replace unseen ones: they are absolute |
//! | supervisor → probers: [`Route`] | `watch`, one a group | 1, the latest | replaced |
//! | workers → supervisor: [`WorkerReport`] | `mpsc`, one a group | [`REPORTS_MAX`] | the worker's reporter waits; the path of a command never does, since reports are merged before they queue |
//! | workers → supervisor: [`Vitals`] | atomics, one a worker and backend | - | the latest values |
//! | prober → supervisor: [`ProbeReport`] | `mpsc`, one a group | [`REPORTS_MAX`] | the prober waits |
//! | prober → supervisor: [`Observation`] | `mpsc`, one a group | [`OBSERVATIONS_MAX`] | the prober's lag check and comparison wait, its probes do not |
//! | supervisor → prober: libraries of functions to load (`Bequest` in `control/inventory.rs`) | `watch`, one a group | 1, the latest | replaced: only the latest active inherits |
//! | supervisor → prober: immediate re-probe | `Notify`, one a backend | 1 | already asked for |
//! | supervisor → admin: [`GroupStatus`] | `watch`, one a group | 1, the latest | replaced |
//! | console, application → supervisor: [`Order`] | `mpsc`, one a group | [`ORDERS_MAX`] | the one who asks waits |
//! | console, application → supervisor: [`Amendment`] | `mpsc`, one a group | [`ORDERS_MAX`] | the one who asks waits |
//! | application → console: the configuration in force | `watch` | 1, the latest | replaced |
//! | console → supervisor: [`Rehearsal`] | `mpsc`, one a group | [`ORDERS_MAX`] | the one who asks waits |
//! | console → application: [`ProcessOrder`] | `mpsc` | [`ORDERS_MAX`] | the one who asks waits |
//! | supervisor → state file: `GroupState` of every group (`control/state.rs`) | `watch` | 1, the latest | replaced: only the latest state is worth keeping |
//! | acceptor → worker: `Arrival` (`proxy/worker.rs`) | `mpsc`, one a worker | `ARRIVALS_MAX` in `app.rs` | the acceptor waits |
//! | worker → worker: `Question` of CLIENT LIST, KILL … (`proxy/inquiry.rs`) | `mpsc`, one a worker and group | `INQUIRIES_MAX` in `app.rs` | the one who asks waits |
//! | application → workers: `Users` (`logic/identity/users.rs`) | `watch`, one a group | 1, the latest | replaced: tables are whole |
//! | supervisor, application → console, HTTP, webhook, program: `EventRecord` (`events/hub.rs`) | ring with a place for each reader | `RECORDS_MAX` in `events/hub.rs` | the reader loses the oldest, is told how many, and they are counted |
//! | worker → application: clients that remain at a drain | `watch`, one a worker | 1, the latest | replaced |

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::config::{Addition, Group};
use crate::logic::latency::{BUCKETS, Histogram};
use crate::logic::settings::Conduct;
use crate::net::dial::Endpoint;
pub use crate::net::recruit::Recruit;

pub use crate::logic::route::{Availability, BackendId, Phase, Route};

/// Capacity of the report channels.
pub const REPORTS_MAX: usize = 1024;

/// Capacity of the observations: a backend has few, and they are rare.
pub const OBSERVATIONS_MAX: usize = 64;

pub use crate::logic::report::{ProbeReport, WorkerId, WorkerReport};

/// Capacity of an operator's orders: they are rare, and the operator waits.
pub const ORDERS_MAX: usize = 16;

/// An operator's command, and where its outcome goes.
#[derive(Debug)]
pub struct Order {
    /// What is to be done.
    pub command: Command,
    /// Who wants it, for the log.
    pub by: String,
    /// Told once it is done, in words, or why it is not. A switch is done when it has taken place.
    pub outcome: Option<oneshot::Sender<Result<String, String>>>,
}

/// A change of the group itself, and where its outcome goes.
#[derive(Debug)]
pub struct Amendment {
    /// What is to change.
    pub what: Amend,
    /// Who wants it, for the log.
    pub by: String,
    /// Told once it is done, in words, or why it is not.
    pub outcome: Option<oneshot::Sender<Result<String, String>>>,
}

/// What changes a group at run time, besides a [`Command`].
#[derive(Debug)]
pub enum Amend {
    /// Another backend.
    Add(Recruit),
    /// Another server under a backend's name; done when nobody needs the old one any more.
    Replace {
        /// Who has the name.
        old: BackendId,
        /// Who is to have it.
        by: Recruit,
    },
    /// Other settings of the group, and of those of its backends that are named; they stay where they are.
    Settings {
        /// The group's.
        group: Box<Group>,
        /// By the numbers that they have.
        backends: Vec<Recruit>,
    },
}

/// What workers follow: the route, and every backend that it may name. One message, so that neither is ever seen
/// without the other.
#[derive(Clone, Debug)]
pub struct Directions {
    /// The route.
    pub route: Route,
    /// The group's backends. Connections to any other are closed, once the route is followed.
    pub backends: Arc<[Known]>,
    /// The settings in force.
    pub conduct: Arc<Conduct>,
}

/// A backend of the group, as workers need it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its number.
    pub id: BackendId,
    /// Where it is, and how it is spoken to.
    pub endpoint: Arc<Endpoint>,
    /// What each worker keeps up to date of it.
    pub vitals: Vec<Arc<Vitals>>,
    /// It was added at run time, with these words.
    pub addition: Option<Arc<Addition>>,
}

pub use crate::logic::drill::{Drill, DrillFault};
pub use crate::logic::failover::{Command, Manner, Removal, Report, Simulation, Verdict};

/// A question to the supervisor: what would this fault lead to?
#[derive(Debug)]
pub struct Rehearsal {
    /// Of which backend.
    pub backend: BackendId,
    /// What.
    pub fault: DrillFault,
    /// Where the answer goes.
    pub outcome: oneshot::Sender<Simulation>,
}

/// What an operator asks of the process as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessCommand {
    /// Read the configuration again, as at SIGHUP.
    Reload,
    /// Write what was changed at run time into the configuration's file.
    Save,
}

/// An operator's command to the process, and where its outcome goes.
#[derive(Debug)]
pub struct ProcessOrder {
    /// What is to be done.
    pub command: ProcessCommand,
    /// Who wants it, for the log.
    pub by: String,
    /// Told what was done, a line each, or why not.
    pub outcome: oneshot::Sender<Result<Vec<String>, String>>,
}

pub use crate::logic::judged::Judged;

pub use crate::logic::record::EventRecord;

/// What a worker keeps up to date for each backend; plain stores by the worker, read by the supervisor.
/// Times are microseconds since the process's start, zero meaning "never" or "nothing".
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Vitals {
    /// When the worker last looked and wrote the rest: what it says of silence holds until then.
    pub looked_at_us: AtomicU64,
    /// When a byte last came from any connection to this backend.
    pub last_byte_us: AtomicU64,
    /// Since when a wholly written request has waited with no byte from any connection since; 0: none waits.
    pub waiting_since_us: AtomicU64,
    /// The request that the silence began with may legally run long.
    pub waiting_slow: AtomicBool,
    /// Replies that came, since the start.
    pub successes: AtomicU64,
    /// Requests lost with their connection, connects that failed, and "cannot serve" replies, since the start.
    pub failures: AtomicU64,
    /// Runs by the time that they waited for their replies, since the start.
    pub replies: HistogramCells,
    /// How often requests that may legally run long, or the worker itself, kept replies waiting, since the start.
    pub disturbances: AtomicU64,
}

/// A [`Histogram`] that one thread writes and others read.
#[derive(Debug)]
pub struct HistogramCells([AtomicU64; BUCKETS]);

impl Default for HistogramCells {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl HistogramCells {
    /// Shows it.
    pub fn store(&self, histogram: &Histogram) {
        for (cell, count) in self.0.iter().zip(histogram.counts()) {
            cell.store(*count, Ordering::Relaxed);
        }
    }

    /// What was shown last; bucket by bucket, so that a run may be missing that is seen at the next look.
    #[must_use]
    pub fn load(&self) -> Histogram {
        Histogram::of(std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed)))
    }
}

pub use crate::logic::health::ProbeVerdict;

/// What a prober found out besides a backend's health. Nothing waits for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Whether its data is close enough behind the others for a failback, and in which words.
    Lag {
        /// Whose.
        backend: BackendId,
        /// `Err`: too far behind, or nobody can tell.
        verdict: Result<String, String>,
    },
    /// What it is, for the comparison with the others.
    Inventory {
        /// Whose.
        backend: BackendId,
        /// What.
        inventory: Box<Inventory>,
    },
}

use crate::logic::parity::Inventory;
pub use crate::logic::parity::{Aspect, Difference};

/// What the admin plane shows of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupStatus {
    /// The group's name.
    pub name: String,
    /// The route in force.
    pub route: Route,
    /// Why the active is active, in a sentence.
    pub reason: String,
    /// Every backend, in the file's order; what was added at run time comes last.
    pub backends: Vec<BackendStatus>,
    /// Switches so far: (from, to, reason, count).
    pub switches: Vec<(String, String, String, u64)>,
    /// The last switch's detection and switch times.
    pub last_switch: Option<(Duration, Duration)>,
    /// Why the heavier backend is not returned to, if one is healthy.
    pub failback_blocked: Option<String>,
    /// The replica that would be promoted if the active died now; `None`: nobody, or another can take over as it is.
    pub would_promote: Option<BackendId>,
    /// Time spent so far without an active that serves.
    pub without_active: Duration,
    /// When the active became active.
    pub active_since: Option<SystemTime>,
    /// Where an operator holds the active, and until when.
    pub stay: Option<(BackendId, SystemTime)>,
    /// Backends that were looked at for the comparison.
    pub compared: usize,
    /// What differs between them.
    pub differences: Vec<Difference>,
    /// The latest changes, oldest first.
    pub events: Arc<VecDeque<Arc<EventRecord>>>,
    /// What operators and checkers want of it for a time.
    pub wishes: GroupWishes,
}

/// What operators want of a group for a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupWishes {
    /// Clients wait until then; the second part: only with what may change something.
    pub pause: Option<(SystemTime, bool)>,
    /// A fault is played until then.
    pub drill: Option<(Drill, SystemTime)>,
    /// The active is drained or reported down, and no other can take over.
    pub is_stranded: bool,
}

/// What operators and checkers want of a backend for a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendWishes {
    /// Its preference by the file or an operator; a checker may have reported another.
    pub own_weight: f64,
    /// An operator took it out of service.
    pub is_drained: bool,
    /// What checkers say of it, the latest last.
    pub reports: Vec<ReportLine>,
}

/// What a checker says of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportLine {
    /// `DOWN`, `DRAIN` or `WEIGHT 0.5`.
    pub verdict: String,
    /// Who says so.
    pub reporter: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: SystemTime,
}

/// A health check that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeLine {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What it found, in words.
    pub verdict: String,
}

/// What the admin plane shows of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendStatus {
    /// Its number.
    pub id: BackendId,
    /// Its name.
    pub name: String,
    /// Its weight now.
    pub weight: f64,
    /// Health checks say it can serve.
    pub healthy: bool,
    /// `closed`, `open` or `half-open`.
    pub circuit: &'static str,
    /// `master`, `slave` or `unknown`.
    pub role: String,
    /// The last verdict, in words.
    pub last_verdict: String,
    /// Probe rounds so far: (good, bad).
    pub probes: (u64, u64),
    /// The last round's duration.
    pub probe_duration: Duration,
    /// The latest rounds, oldest first.
    pub history: VecDeque<ProbeLine>,
    /// Why it cannot serve, with what was seen.
    pub fault: Option<String>,
    /// When its open breaker lets probes decide.
    pub circuit_until: Option<SystemTime>,
    /// Since when each probe has been clean.
    pub clean_since: Option<SystemTime>,
    /// An operator banned it until then.
    pub banned_until: Option<SystemTime>,
    /// It is removed or replaced as soon as another can take over.
    pub is_leaving: bool,
    /// What operators and checkers want of it for a time.
    pub wishes: BackendWishes,
    /// It answers, but far too slowly: what was seen.
    pub degraded: Option<String>,
    /// Why it is not returned to for what its server said: a label, and what was seen.
    pub fence: Option<(&'static str, String)>,
    /// What it is in its replication, in words; `None`: a master, or unknown.
    pub replication: Option<String>,
    /// What the lag check last found, in words; `None`: nothing, or it is not asked.
    pub lag: Option<String>,
}
