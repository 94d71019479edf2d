//! The settings of the pure machines, as plain values that configuration has already checked.

use std::time::{Duration, Instant};

use crate::command::retry::Category;

/// What one health check asks of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeMode {
    /// `PING` answers `+PONG`.
    Ping,
    /// `ECHO <nonce>` comes back exactly.
    Echo,
    /// `ROLE` says master.
    Role,
    /// `SETRANGE <probe key> 0 ""` is accepted: nothing changes, and READONLY, OOM, MISCONF show.
    Write,
    /// Redis Enterprise's REST API says that it is close enough behind the others: decides about failbacks alone.
    Lag,
    /// A program of the operator's says that it can serve.
    Exec,
}

/// When several probes of one round make a healthy verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbePolicy {
    /// Every probe.
    All,
    /// More than half.
    Majority,
    /// At least one.
    Any,
}

/// Health checks of one group (`[health]`).
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    /// All of them must agree. Never empty.
    pub modes: Vec<ProbeMode>,
    /// Between two rounds on the active.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Share of the interval by which rounds are spread, 0 to 0.5.
    pub jitter: f64,
    /// Between two rounds on a standby.
    pub standby_interval: Duration,
    /// Between two probes on a fresh connection, which test the accept path.
    pub accept_interval: Duration,
    /// Failed rounds in a row that make a backend unhealthy, ≥ 1.
    pub fall: u32,
    /// Good rounds in a row that make it healthy again, ≥ 1.
    pub rise: u32,
    /// Probes of one round, ≥ 1.
    pub probes: u32,
    /// Between two probes of one round.
    pub probes_delay: Duration,
    /// How the probes of one round make one verdict.
    pub policy: ProbePolicy,
    /// Key of the write probe; it is never created.
    pub probe_key: String,
}

/// Failure detection on live traffic (`[detector]`).
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorSettings {
    /// Silence with a request waiting that makes a backend unhealthy.
    pub hang_timeout: Duration,
    /// Silence after which new commands are kept unsent.
    pub suspect_after: Duration,
    /// The same as `hang_timeout` when the waiting request may legally run long.
    pub slow_timeout: Duration,
    /// Length of the sliding window of outcomes.
    pub window: Duration,
    /// Failures in the window, at least.
    pub failures_min: u32,
    /// Failures as a share of all outcomes in the window, at least; 0 to 1.
    pub failure_rate: f64,
    /// Gray failures.
    pub latency: LatencySettings,
}

/// When a backend that answers is too slow, so that a better one is taken (`[detector]`).
#[derive(Clone, Debug, PartialEq)]
pub struct LatencySettings {
    /// So many times its baseline the slowest hundredth of replies may take; 0: not watched.
    pub factor: f64,
    /// Replies that take less are never too slow.
    pub floor: Duration,
    /// For how long they must be too slow.
    pub lasting: Duration,
    /// Share of late replies that is too large: later than half of `hang_timeout`; 0: not watched.
    pub timeout_rate: f64,
    /// Within this time.
    pub window: Duration,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self {
            factor: 10.0,
            floor: Duration::from_millis(20),
            lasting: Duration::from_secs(3),
            timeout_rate: 0.01,
            window: Duration::from_secs(10),
        }
    }
}

/// Circuit breaker of a backend (`[breaker]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// How long an opened breaker stays open; doubles on each relapse.
    pub grace: Duration,
    /// The most that doubling leads to.
    pub grace_max: Duration,
}

/// Whether traffic returns to a heavier backend that has recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// By itself, after the hold time.
    Auto,
    /// When an operator says so.
    Manual,
    /// Not while the active works.
    Never,
}

/// How many healthy backends the first choice waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialPolicy {
    /// One is enough.
    One,
    /// More than half.
    Majority,
    /// All of them.
    All,
}

/// What happens when no backend is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoneHealthy {
    /// Stay on the last active: probes can be wrong together.
    LastActive,
    /// Refuse commands at once.
    Refuse,
}

/// Choice of the active (`[failover]`).
#[derive(Clone, Debug, PartialEq)]
pub struct FailoverSettings {
    /// How long a command that no backend can take is held before it is refused as not applied.
    pub hold: Duration,
    /// How long a planned switch waits for what is in flight.
    pub drain: Duration,
    /// Whether traffic returns to a heavier backend.
    pub failback: Failback,
    /// Clean health from the first good probe on before a failback.
    pub failback_hold: Duration,
    /// Share by which `failback_hold` is spread, 0 to 0.5.
    pub failback_jitter: f64,
    /// Failbacks stop after so many switches in the window.
    pub switches_max: u32,
    /// Length of that window.
    pub switches_window: Duration,
    /// How many healthy backends the first choice waits for.
    pub initial: InitialPolicy,
    /// Rounds without any healthy backend before commands are refused at once; 0 = for ever.
    pub attempts: u32,
    /// Between two of those rounds.
    pub delay: Duration,
    /// What happens when no backend is healthy.
    pub none_healthy: NoneHealthy,
    /// Cursors of SCAN and its family carry the epoch, and those of another are refused.
    pub checks_cursors: bool,
}

/// What may be repeated on the next backend when its reply was lost (`[retry]`).
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySettings {
    /// Commands up to this category are repeated.
    pub ceiling: RetryCeiling,
    /// Whether blocked commands are armed again on the new active.
    pub rearm_blocked: bool,
    /// Connections tried for one command without a switch.
    pub attempts: u32,
    /// Repeats as a share of traffic, beyond those of a switch.
    pub budget: f64,
    /// Bounds holding and repeating, counted from a command's arrival.
    pub deadline: Duration,
}

/// The highest category that is repeated, safest first (contract, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryCeiling {
    /// Nothing that was sent is repeated.
    Never,
    /// Reads only.
    ReadOnly,
    /// Also writes that check a condition.
    WriteChecked,
    /// Also writes that leave the same state when applied twice.
    WriteLastWins,
    /// Also INCR and the like: may be applied twice.
    WriteAccumulating,
    /// Everything, whole transactions included, as redis-py does.
    Always,
}

impl RetryCeiling {
    /// Whether it allows a repeat of this category.
    #[must_use]
    pub const fn permits(self, category: Category) -> bool {
        let highest = match self {
            Self::Never => return false,
            Self::ReadOnly => Category::ReadOnly,
            Self::WriteChecked => Category::WriteChecked,
            Self::WriteLastWins => Category::WriteLastWins,
            Self::WriteAccumulating => Category::WriteAccumulating,
            Self::Always => Category::Never,
        };
        category as u8 <= highest as u8
    }
}

/// Bounds of one process (`[limits]`), all > 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Client connections.
    pub clients_max: usize,
    /// Connections that single clients hold to one backend.
    pub pins_per_backend_max: usize,
    /// How long a client waits for one of those before an error.
    pub pin_wait: Duration,
    /// Commands of one client that wait for a reply.
    pub inflight_max: usize,
    /// Bytes of replies waiting for one client.
    pub output_bytes_max: usize,
    /// Bytes of held commands in the process.
    pub held_bytes_max: usize,
    /// Bytes of one argument or one bulk reply.
    pub value_bytes_max: usize,
    /// Bodies of scripts kept for each group, so that they can be loaded where they are missing; 0: none.
    pub scripts_max: usize,
    /// Bytes of those bodies.
    pub script_bytes_max: usize,
}

/// The settings of a group that its data path goes by and that can change while it serves.
#[derive(Clone, Debug, PartialEq)]
pub struct Conduct {
    /// Holding.
    pub failover: FailoverSettings,
    /// Repeating.
    pub retry: RetrySettings,
    /// Suspicion.
    pub detector: DetectorSettings,
}

/// How a subscriber learns that messages may have been lost (`[pubsub]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// By an event on a channel, if it subscribed to that.
    Event,
    /// By the confirmations of its subscriptions, once more.
    Push,
    /// Its connection ends, so that its library subscribes anew.
    Disconnect,
    /// Not at all.
    None,
}

/// What happens with a PUBLISH whose reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// It is answered as uncertain.
    AtMostOnce,
    /// It is repeated.
    AtLeastOnce,
}

/// Which connection a client's subscriptions have (`[pubsub]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubSubMode {
    /// One of their own.
    PerClient,
    /// One for all clients of a worker that are the same user there.
    Hub,
}

/// Publishing and subscribing (`[pubsub]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PubSubSettings {
    /// Which connection a client's subscriptions have.
    pub mode: PubSubMode,
    /// How long a channel that nobody wants any more is kept, where many share a connection.
    pub linger: Duration,
    /// How a subscriber learns of a gap.
    pub on_gap: OnGap,
    /// Subscriptions are kept on standbys too.
    pub standby: bool,
    /// Backends carry each other's messages.
    pub propagates: bool,
    /// How far behind each other they may be.
    pub lag_max: Duration,
    /// Silence after which a connection for subscriptions is asked whether it lives.
    pub heartbeat: Duration,
    /// Silence after which it does not; more than `heartbeat`.
    pub heartbeat_lost: Duration,
    /// What happens with a PUBLISH whose reply was lost.
    pub publish: Publish,
}

impl Default for PubSubSettings {
    fn default() -> Self {
        Self {
            mode: PubSubMode::PerClient,
            linger: Duration::from_secs(5),
            on_gap: OnGap::Event,
            standby: false,
            propagates: false,
            lag_max: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
            heartbeat_lost: Duration::from_secs(3),
            publish: Publish::AtMostOnce,
        }
    }
}

/// Tells calendar time of moments: one moment, and what the calendar said then.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The moment.
    pub origin: Instant,
    /// Milliseconds since 1970 at that moment.
    pub origin_unix_ms: u64,
}

impl Clock {
    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self, at: Instant) -> u64 {
        let since = |later: Instant, earlier: Instant| {
            u64::try_from(later.saturating_duration_since(earlier).as_millis()).unwrap_or(u64::MAX)
        };
        (self.origin_unix_ms + since(at, self.origin)).saturating_sub(since(self.origin, at))
    }
}
