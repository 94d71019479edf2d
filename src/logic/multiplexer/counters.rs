//! What a multiplexer counts: plain numbers, published by the shell from time to time.

use std::time::Duration;

use super::session::CloseReason;

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

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Clients that connected.
    pub clients_accepted: u64,
    /// Clients that left, by [`CloseReason::index`].
    pub clients_closed: [u64; CloseReason::ALL.len()],
    /// Requests put on a lane.
    pub shared: u64,
    /// Requests put on a connection of the client's own.
    pub pinned: u64,
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
    /// Requests that went to another connection without having been sent.
    pub moved: u64,
    /// Requests sent a second time.
    pub repeated: u64,
    /// Blocked commands that wait again.
    pub rearmed: u64,
    /// Requests answered with "outcome unknown".
    pub uncertain: u64,
    /// Requests answered as not applied.
    pub not_applied: u64,
    /// Transactions ended by a switch.
    pub aborted: u64,
    /// Requests whose client had gone.
    pub gone: u64,
    /// Breaches of the protocol, by [`ProtocolFault`].
    pub protocol_faults: [u64; ProtocolFault::COUNT],
    /// Requests whose connection was lost before the reply came, by retry category, safest first.
    pub lost: [u64; 7],
    /// Connections closed because their replies went out of step.
    pub mismatches: u64,
    /// Pub/sub messages delivered.
    pub messages: u64,
    /// Replies by the time they took, by [`LATENCY_BOUNDS_US`].
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    /// The sum of those times, in microseconds.
    pub latency_sum_us: u64,
}

impl Counters {
    /// Counts the replies of one run.
    pub(super) fn count_latency(&mut self, took: Duration, commands: u32) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < micros);
        self.latency[bucket] += u64::from(commands);
        self.latency_sum_us = self.latency_sum_us.saturating_add(micros.saturating_mul(u64::from(commands)));
    }
}
