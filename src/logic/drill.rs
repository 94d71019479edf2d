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

impl DrillFault {
    /// Its name, without what it is played with.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Readonly => "readonly",
            Self::Slow { .. } => "slow",
        }
    }
}

impl fmt::Display for DrillFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())?;
        match self {
            Self::Slow { by } => write!(formatter, " by {by:?}"),
            Self::Kill | Self::Hang | Self::Readonly => Ok(()),
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
