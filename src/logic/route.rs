//! The route of a group: which backend is active, in which epoch, and whether a switch is under way.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::drill::Drill;

/// A backend's number within the process. Never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u16);

impl fmt::Display for BackendId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "backend#{}", self.0)
    }
}

/// What every worker follows. An absolute state, not a change: a watcher may skip values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Grows by one with each switch. Zero until the first backend has been chosen.
    pub epoch: u64,
    /// The backend that serves; `None` until the first one was found healthy.
    pub active: Option<BackendId>,
    /// Whether commands flow, wait, or are being moved.
    pub phase: Phase,
    /// The backend that would be next: a proven connection to it is kept open.
    pub standby: Option<BackendId>,
    /// No backend is healthy: what happens with commands that find no connection.
    pub availability: Availability,
    /// Grows each time an immediate re-probe found the active able to serve after all;
    /// replies that were withheld because of a "cannot serve" word are then passed on.
    pub acquittals: u64,
    /// A connection to the active on which a request has waited in silence since then, or for longer, is lost: the active
    /// has answered probes all the while.
    pub abandoned_since: Option<Instant>,
    /// The switch that began the epoch in force.
    pub change: Option<Arc<Change>>,
    /// An operator lets clients wait.
    pub pause: Option<Pause>,
    /// A fault that connections play.
    pub drill: Option<Drill>,
}

/// Commands wait, unread by any backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself.
    pub until: Instant,
    /// Only what may change something waits.
    pub writes_only: bool,
}

/// A change of the active, in words for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name of the backend before; `None` at the start.
    pub from: Option<String>,
    /// The name of the backend that serves now.
    pub to: String,
    /// Why.
    pub reason: String,
}

impl Route {
    /// The route before any backend was found healthy.
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            epoch: 0,
            active: None,
            phase: Phase::Serve,
            standby: None,
            availability: Availability::Degraded,
            acquittals: 0,
            abandoned_since: None,
            pause: None,
            drill: None,
            change: None,
        }
    }
}

/// Where a route stands in a switch. Any switch has two phases, else one worker
/// would write to the old backend after another wrote to the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Commands flow to the active.
    Serve,
    /// A planned switch: new commands wait, what is in flight finishes, then the worker acknowledges.
    Hold {
        /// The backend to switch to.
        to: BackendId,
        /// Names this attempt, so that a late acknowledgement of an older one is told apart.
        attempt: u64,
        /// When the switch is called off if something is still in flight.
        until: Instant,
    },
    /// A forced switch: workers stop writing, judge what is unanswered, and acknowledge at once.
    Cut {
        /// The backend to switch to.
        to: BackendId,
        /// Names this attempt.
        attempt: u64,
    },
}

/// What the control plane believes of the group as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The active is healthy.
    Healthy,
    /// No backend is healthy: the last active is still tried, commands are held while it has no connection.
    Degraded,
    /// Holding is over (`none_healthy = "refuse"`, or all attempts used up): commands are refused at once.
    Refusing,
}
