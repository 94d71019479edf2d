//! What a multiplexer counts: plain numbers, published by the shell from time to time.

use std::time::Duration;

use super::session::CloseReason;
use crate::logic::judged::Judged;

/// Bounds of the latency buckets, in microseconds; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Whose bytes broke the protocol, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolFault {
    /// A client's frame that Redis's rules forbid.
    ClientFrame,
    /// A client that speaks something else: HTTP, TLS.
    ClientForeign,
    /// A length or count of a client beyond a limit.
    ClientLimit,
    /// A backend's malformed reply.
    BackendFrame,
    /// A backend's reply that nobody asked for.
    BackendUnsolicited,
}

impl ProtocolFault {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// What became of an attempt to authenticate, or of a client that did not make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Accepted.
    Ok,
    /// Refused.
    Refused,
    /// Delayed after failures of its source; counted again when it was accepted or refused.
    Delayed,
    /// It did not come in time.
    TimedOut,
    /// Accepted once, and not any more.
    Revoked,
}

impl Authentication {
    /// How many there are.
    pub const COUNT: usize = 5;
}

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Clients that connected.
    pub clients_accepted: u64,
    /// Clients that left, by [`CloseReason::index`].
    pub clients_closed: [u64; CloseReason::ALL.len()],
    /// Requests that Handover answered itself.
    pub answered: u64,
    /// Errors of Handover's own.
    pub refused: u64,
    /// Replies passed on from lanes, errors among them.
    pub replies_shared: u64,
    /// Replies passed on from pins, errors among them.
    pub replies_pinned: u64,
    /// Error replies passed on from lanes.
    pub errors_shared: u64,
    /// Error replies passed on from pins.
    pub errors_pinned: u64,
    /// What became of requests in flight when their connection was lost, or that could not be served.
    pub fates: Judged,
    /// Breaches of the protocol, by [`ProtocolFault`].
    pub protocol_faults: [u64; ProtocolFault::COUNT],
    /// Requests whose connection was lost before the reply came, by retry category, safest first.
    pub lost: [u64; 7],
    /// Connections closed because their replies went out of step.
    pub mismatches: u64,
    /// Attempts to authenticate, by [`Authentication`].
    pub authentications: [u64; Authentication::COUNT],
    /// Pub/sub messages delivered.
    pub messages: u64,
    /// Those of them that a standby connection had kept.
    pub messages_replayed: u64,
    /// Times in which a client's subscriptions were not live.
    pub gaps: u64,
    /// How long those were together, in microseconds.
    pub gap_us: u64,
    /// Subscribers closed because they did not read their messages.
    pub slow_subscribers: u64,
    /// How long it took until a client's subscriptions were live again.
    pub resubscribe: Latency,
    /// How long requests on lanes took.
    pub latency_shared: Latency,
    /// How long requests on pins took.
    pub latency_pinned: Latency,
}

/// Replies by the time they took.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// By [`LATENCY_BOUNDS_US`]; the last has no bound.
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// The sum of the times, in microseconds.
    pub sum_us: u64,
}

impl Latency {
    /// Counts the replies of one run.
    pub(super) fn count(&mut self, took: Duration, commands: u32) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < micros);
        self.buckets[bucket] += u64::from(commands);
        self.sum_us = self.sum_us.saturating_add(micros.saturating_mul(u64::from(commands)));
    }
}
