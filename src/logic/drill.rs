//! A drill: a fault that is played in Handover's own sockets. The backend itself is never touched.

use std::fmt;
use std::time::Duration;

use super::route::BackendId;

/// A drill in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drill {
    /// Whose connections play it.
    pub backend: BackendId,
    /// What they play.
    pub fault: DrillFault,
}

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillFault {
    /// Every connection is reset, and new ones are refused.
    Kill,
    /// Nothing is read and nothing is written; new connections are not answered.
    Hang,
    /// Writes are answered READONLY.
    Readonly,
    /// What is read comes later.
    Slow {
        /// By so much.
        by: Duration,
    },
}

impl fmt::Display for DrillFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => formatter.write_str("kill"),
            Self::Hang => formatter.write_str("hang"),
            Self::Readonly => formatter.write_str("readonly"),
            Self::Slow { by } => write!(formatter, "slow by {by:?}"),
        }
    }
}

impl Drill {
    /// What is played on connections to `backend`, if anything.
    #[must_use]
    pub fn on(drill: Option<Self>, backend: BackendId) -> Option<DrillFault> {
        drill.filter(|drill| drill.backend == backend).map(|drill| drill.fault)
    }
}
