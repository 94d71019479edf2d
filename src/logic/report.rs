//! What the data plane and the probers report to the machine that decides.

use std::time::Instant;

use super::health::ProbeVerdict;
use super::judged::Judged;
use super::route::BackendId;

/// A worker's number within the process.
pub type WorkerId = usize;

/// What a worker tells the supervisor of its group.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerReport {
    /// A connection that had worked was lost (closed, reset, or killed by us for a protocol error).
    LinkLost {
        /// Whose connection.
        backend: BackendId,
        /// Epoch in which it was opened.
        epoch: u64,
        /// When the loss was seen.
        at: Instant,
        /// What was seen, for the log ("closed by the server", "connection reset by peer").
        cause: String,
    },
    /// A connection could not be opened.
    ConnectFailed {
        /// To whom.
        backend: BackendId,
        /// When.
        at: Instant,
        /// Why, for the log.
        cause: String,
    },
    /// A connection was opened and its handshake succeeded.
    Connected {
        /// To whom.
        backend: BackendId,
        /// When.
        at: Instant,
    },
    /// A reply on live traffic began with a word that means "cannot serve".
    CannotServe {
        /// Who answered it.
        backend: BackendId,
        /// When.
        at: Instant,
        /// LOADING, MASTERDOWN, READONLY, NOREPLICAS, MISCONF, BUSY …
        word: &'static str,
    },
    /// Acknowledges [`super::route::Phase::Hold`]: nothing of this worker is in flight any more.
    Drained {
        /// Who.
        worker: WorkerId,
        /// Which attempt.
        attempt: u64,
    },
    /// Acknowledges [`super::route::Phase::Cut`]: this worker writes nothing to the old backend any more.
    Stopped {
        /// Who.
        worker: WorkerId,
        /// Which attempt.
        attempt: u64,
    },
    /// The worker serves in a new epoch; `judged` adds up what became of all that was in flight.
    Activated {
        /// Who.
        worker: WorkerId,
        /// The new epoch.
        epoch: u64,
        /// The judgement.
        judged: Judged,
    },
}

/// One verdict of a probe round.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// Who was probed.
    pub backend: BackendId,
    /// When the round began.
    pub started_at: Instant,
    /// When it ended.
    pub ended_at: Instant,
    /// What it found.
    pub verdict: ProbeVerdict,
    /// It was an immediate re-probe that the supervisor asked for.
    pub immediate: bool,
}
