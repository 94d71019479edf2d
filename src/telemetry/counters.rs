//! What the data path counts: atomics that a worker adds to, once a batch, and that a scrape adds up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::logic::judged::Judged;
use crate::logic::multiplexer::LATENCY_BOUNDS_US;
use crate::logic::record::EventKind;
use crate::logic::route::BackendId;

/// The most reasons for which a client may be closed.
pub const CLOSE_REASONS_MAX: usize = 32;

/// Upper bounds of the duration buckets, in microseconds: 50 µs to 10 s. One more bucket takes the rest.
pub const DURATION_BOUNDS_US: [u64; LATENCY_BOUNDS_US.len()] = LATENCY_BOUNDS_US;

/// Declares an enum whose variants are the values of a metric's label.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant),+ }

        impl $name {
            /// Every value, in the order of the variants.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// As it stands in a metric.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// How a session uses connections.
    Mode {
        /// Its commands travel on lanes.
        Shared = "shared",
        /// It holds a connection of its own.
        Pinned = "pinned",
        /// It has subscriptions.
        Subscribed = "subscribed",
        /// It holds a connection of its own and waits on it for an element.
        Blocked = "blocked",
    }
}

labels! {
    /// How a command travelled.
    Class {
        /// On a lane.
        Shared = "shared",
        /// On a connection of the client's own.
        Pinned = "pinned",
        /// Answered here.
        Answered = "answered",
        /// Refused here, by rule or by limit.
        Refused = "refused",
        /// Subscribing and unsubscribing.
        Pubsub = "pubsub",
    }
}

labels! {
    /// How a command ended.
    Outcome {
        /// With a reply that is no error.
        Ok = "ok",
        /// With an error of the backend's, or a refusal.
        Error = "error",
        /// Sent, and its reply lost: nobody knows whether it was applied.
        Uncertain = "uncertain",
        /// Refused because no backend could take it.
        NotApplied = "not_applied",
    }
}

labels! {
    /// The retry category of a command whose reply was lost, safest first.
    Category {
        /// State of the connection only.
        Connection = "connection",
        /// Reads.
        ReadOnly = "read_only",
        /// Writes that check a condition.
        WriteChecked = "write_checked",
        /// Writes that leave the same state when applied twice.
        WriteLastWins = "write_last_wins",
        /// Writes that add up.
        WriteAccumulating = "write_accumulating",
        /// Administration of the server.
        ServerAdmin = "server_admin",
        /// Scripts and unknown commands.
        Never = "never",
    }
}

labels! {
    /// What became of a command that was in flight at a fault or a switch.
    Fate {
        /// Never sent; went to the new active.
        Moved = "moved",
        /// Sent again.
        Repeated = "repeated",
        /// Blocked, and waits again on the new active.
        Rearmed = "rearmed",
        /// Answered `-UNCERTAIN`.
        Uncertain = "uncertain",
        /// Refused as not applied.
        NotApplied = "not_applied",
        /// A transaction that the switch ended.
        Aborted = "aborted",
        /// Its client had gone.
        Gone = "gone",
    }
}

labels! {
    /// Why a client was closed before its first command.
    EntryRefusal {
        /// It ended the connection before it sent anything.
        Gone = "gone",
        /// The sender of the PROXY header is not among those that may send one.
        ProxySource = "proxy_source",
        /// The PROXY header is missing or malformed.
        ProxyHeader = "proxy_header",
        /// It speaks without TLS to a TLS listener.
        NoTls = "no_tls",
        /// The TLS handshake failed.
        Tls = "tls",
        /// It took too long.
        Late = "late",
    }
}

labels! {
    /// What is subscribed to.
    SubscriptionKind {
        /// SUBSCRIBE.
        Channel = "channel",
        /// PSUBSCRIBE.
        Pattern = "pattern",
        /// SSUBSCRIBE.
        Shard = "shard",
    }
}

labels! {
    /// How far a subscription is.
    SubscriptionState {
        /// A client asked for it.
        Wanted = "wanted",
        /// The active confirmed it.
        Confirmed = "confirmed",
    }
}

labels! {
    /// What memory is taken for.
    Memory {
        /// Frames that clients have not sent wholly.
        ClientInput = "client_input",
        /// Replies that clients have not read.
        ClientOutput = "client_output",
        /// Frames on lanes that are not answered.
        Lane = "lane",
        /// Commands that wait for a backend.
        Held = "held",
    }
}

labels! {
    /// Who broke the protocol.
    ProtocolFault {
        /// A client's frame that Redis's rules forbid.
        ClientFrame = "client_frame",
        /// A client that speaks something else: HTTP, TLS.
        ClientForeign = "client_foreign",
        /// A limit of length, count or depth that a client went beyond.
        ClientLimit = "client_limit",
        /// A backend's malformed reply.
        BackendFrame = "backend_frame",
        /// A backend's reply that nobody asked for.
        BackendUnsolicited = "backend_unsolicited",
    }
}

labels! {
    /// What became of a client's attempt to authenticate, or of one that made none.
    Authentication {
        /// Accepted.
        Ok = "ok",
        /// Refused.
        Refused = "refused",
        /// Delayed after failures of its source.
        Delayed = "delayed",
        /// It did not come in time.
        TimedOut = "timed_out",
        /// Accepted once, and not any more.
        Revoked = "revoked",
    }
}

labels! {
    /// How opening a connection to a backend ended.
    Connect {
        /// It works, handshake included.
        Ok = "ok",
        /// It does not.
        Failed = "failed",
    }
}

labels! {
    /// How records of events leave the process.
    Way {
        /// SUBSCRIBE on the console.
        Console = "console",
        /// Server-sent events.
        Http = "http",
        /// The webhook.
        Webhook = "webhook",
        /// The program.
        Command = "command",
    }
}

/// What is counted of events.
#[derive(Debug)]
pub struct EventCounters {
    kinds: [Count; EventKind::ALL.len()],
    dropped: [Count; Way::ALL.len()],
}

impl Default for EventCounters {
    fn default() -> Self {
        Self { kinds: std::array::from_fn(|_| Count::default()), dropped: Default::default() }
    }
}

impl EventCounters {
    /// Records of a kind.
    #[must_use]
    pub fn kind(&self, kind: EventKind) -> &Count {
        &self.kinds[kind as usize]
    }

    /// Records that did not leave that way: it was too slow, or the other side did not take them.
    #[must_use]
    pub fn dropped(&self, way: Way) -> &Count {
        &self.dropped[way as usize]
    }
}

/// One number. Any thread may write it; no order with other memory is kept.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// Takes away; of a gauge only.
    pub fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Relaxed);
    }

    /// Replaces; of a gauge only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations in the buckets of [`DURATION_BOUNDS_US`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; DURATION_BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Histogram {
    /// Notes that `times` commands took so long each.
    pub fn observe(&self, duration: Duration, times: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[DURATION_BOUNDS_US.partition_point(|&bound| bound < micros)].add(times);
        self.sum_us.add(micros.saturating_mul(times));
    }

    /// Adds what was counted elsewhere, by the same bounds: so many in one bucket.
    pub fn add_to_bucket(&self, index: usize, times: u64) {
        self.buckets[index].add(times);
    }

    /// Adds to the sum of the durations counted elsewhere.
    pub fn add_sum_us(&self, micros: u64) {
        self.sum_us.add(micros);
    }

    /// How many fell into each bucket; not yet added up.
    #[must_use]
    pub fn buckets(&self) -> [u64; DURATION_BOUNDS_US.len() + 1] {
        std::array::from_fn(|index| self.buckets[index].get())
    }

    /// All durations together, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// What one worker counts for one group. Its own cache lines, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Clients connected now.
    pub clients: Count,
    /// Clients that connected.
    pub clients_accepted: Count,
    /// Commands without a reply now.
    pub inflight: Count,
    /// Messages delivered to subscribers.
    pub messages: Count,
    /// Those of them that a standby connection had kept.
    pub messages_replayed: Count,
    /// Times in which a client's subscriptions were not live.
    pub subscription_gaps: Count,
    /// How long those were together, in microseconds.
    pub subscription_gap_us: Count,
    /// Subscribers closed because they did not read their messages.
    pub slow_subscribers: Count,
    /// How long it took until a client's subscriptions were live again.
    pub resubscribe: Histogram,
    /// Lanes closed because their sentinel did not come back.
    pub sentinel_mismatches: Count,
    clients_closed: [Count; CLOSE_REASONS_MAX],
    sessions: [Count; Mode::ALL.len()],
    commands: [[Count; Outcome::ALL.len()]; Class::ALL.len()],
    durations: [Histogram; Class::ALL.len()],
    inflight_lost: [Count; Category::ALL.len()],
    fates: [Count; Fate::ALL.len()],
    subscriptions: [[Count; SubscriptionState::ALL.len()]; SubscriptionKind::ALL.len()],
    hub_topics: [Count; SubscriptionKind::ALL.len()],
    memory_bytes: [Count; Memory::ALL.len()],
    protocol_faults: [Count; ProtocolFault::ALL.len()],
    authentications: [Count; Authentication::ALL.len()],
    entries_refused: [Count; EntryRefusal::ALL.len()],
    backends: Mutex<Vec<(BackendId, Arc<BackendCounters>)>>,
}

impl WorkerCounters {
    /// Clients closed, by the index of the reason in the list of labels that the scrape is given.
    #[must_use]
    pub fn clients_closed(&self, reason: usize) -> &Count {
        &self.clients_closed[reason]
    }

    /// Sessions in a mode now.
    #[must_use]
    pub fn sessions(&self, mode: Mode) -> &Count {
        &self.sessions[mode as usize]
    }

    /// Commands that ended so.
    #[must_use]
    pub fn commands(&self, class: Class, outcome: Outcome) -> &Count {
        &self.commands[class as usize][outcome as usize]
    }

    /// Times from a command's arrival to its reply.
    #[must_use]
    pub fn durations(&self, class: Class) -> &Histogram {
        &self.durations[class as usize]
    }

    /// Commands whose connection was lost before the reply came.
    #[must_use]
    pub fn inflight_lost(&self, category: Category) -> &Count {
        &self.inflight_lost[category as usize]
    }

    /// Commands in flight at a fault or a switch, by what became of them.
    #[must_use]
    pub fn fates(&self, fate: Fate) -> &Count {
        &self.fates[fate as usize]
    }

    /// Adds a whole judgement to [`Self::fates`].
    pub fn add_judged(&self, judged: &Judged) {
        let Judged { moved, repeated, rearmed, uncertain, not_applied, aborted, gone } = *judged;
        let counts = [moved, repeated, rearmed, uncertain, not_applied, aborted, gone];
        for (fate, count) in Fate::ALL.into_iter().zip(counts) {
            self.fates(fate).add(count);
        }
    }

    /// Subscriptions now.
    #[must_use]
    pub fn subscriptions(&self, kind: SubscriptionKind, state: SubscriptionState) -> &Count {
        &self.subscriptions[kind as usize][state as usize]
    }

    /// What is subscribed to on connections that many clients share, now.
    #[must_use]
    pub fn hub_topics(&self, kind: SubscriptionKind) -> &Count {
        &self.hub_topics[kind as usize]
    }

    /// Bytes in use now.
    #[must_use]
    pub fn memory_bytes(&self, kind: Memory) -> &Count {
        &self.memory_bytes[kind as usize]
    }

    /// Breaches of the protocol.
    #[must_use]
    pub fn protocol_faults(&self, fault: ProtocolFault) -> &Count {
        &self.protocol_faults[fault as usize]
    }

    /// Attempts to authenticate.
    #[must_use]
    pub fn authentications(&self, outcome: Authentication) -> &Count {
        &self.authentications[outcome as usize]
    }

    /// Clients closed before their first command.
    #[must_use]
    pub fn entries_refused(&self, why: EntryRefusal) -> &Count {
        &self.entries_refused[why as usize]
    }

    /// What is counted for one backend. Takes a lock.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Arc<BackendCounters> {
        let mut backends = self.backends();
        if let Some((_, counters)) = backends.iter().find(|(known, _)| *known == id) {
            return counters.clone();
        }
        let counters = Arc::new(BackendCounters::default());
        backends.push((id, counters.clone()));
        counters
    }

    /// Forgets every backend but these.
    pub fn keep_backends(&self, kept: &[BackendId]) {
        self.backends().retain(|(backend, _)| kept.contains(backend));
    }

    fn backends(&self) -> MutexGuard<'_, Vec<(BackendId, Arc<BackendCounters>)>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker counts for one backend.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BackendCounters {
    /// Connections open now.
    pub connections: Count,
    /// Connections that were lost.
    pub lost: Count,
    /// Replies that came, since the worker's machine was built.
    pub replies: Count,
    /// Requests lost with their connection, connects that failed, "cannot serve" replies; as `replies`.
    pub failures: Count,
    connects: [Count; Connect::ALL.len()],
}

impl BackendCounters {
    /// Connections that were opened, or not.
    #[must_use]
    pub fn connects(&self, outcome: Connect) -> &Count {
        &self.connects[outcome as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (micros, times) in [(0, 1), (50, 2), (51, 4), (10_000_000, 8), (10_000_001, 16)] {
            histogram.observe(Duration::from_micros(micros), times);
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[16], buckets[17]), (3, 4, 8, 16));
        assert_eq!(buckets.iter().sum::<u64>(), 31);
        assert_eq!(histogram.sum_us(), 100 + 51 * 4 + 80_000_000 + 160_000_016);
    }

    #[test]
    fn a_judgement_is_counted_under_its_own_names() {
        let counters = WorkerCounters::default();
        let judged = Judged { moved: 1, repeated: 2, rearmed: 3, uncertain: 4, not_applied: 5, aborted: 6, gone: 7 };
        counters.add_judged(&judged);
        counters.add_judged(&Judged { gone: 10, ..Judged::default() });
        let counts = Fate::ALL.map(|fate| (fate.label(), counters.fates(fate).get()));
        assert_eq!(
            counts,
            [
                ("moved", 1),
                ("repeated", 2),
                ("rearmed", 3),
                ("uncertain", 4),
                ("not_applied", 5),
                ("aborted", 6),
                ("gone", 17)
            ]
        );
    }

    #[test]
    fn a_backend_has_one_set_of_counters_for_ever() {
        let counters = WorkerCounters::default();
        counters.backend(BackendId(7)).connects(Connect::Ok).add(1);
        counters.backend(BackendId(9)).connects(Connect::Ok).add(5);
        assert_eq!(counters.backend(BackendId(7)).connects(Connect::Ok).get(), 1);
        assert_eq!(counters.backends().len(), 2);
    }
}
