//! What is told of replication: who is a replica of whom, who is fenced, and how a promotion went.

use std::fmt;
use std::time::Duration;

use super::fencing::FenceReason;

/// News of one backend; the text goes behind its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is a replica of another backend.
    Replica {
        /// The other's name.
        of: String,
        /// It is promoted when it is to take over.
        promotes: bool,
    },
    /// It does not say what it is.
    FactsUnknown {
        /// Its reply.
        why: String,
        /// The group has rules that need it.
        is_needed: bool,
    },
    /// It came back with less than was seen, or as a second master.
    Fenced {
        /// Which.
        reason: FenceReason,
        /// What was seen.
        evidence: String,
        /// It is the active: it is only told.
        is_active: bool,
        /// The group's backends copy from each other, so this should not be.
        is_alarm: bool,
    },
    /// It may be returned to again.
    FenceLifted {
        /// Why.
        why: &'static str,
    },
    /// A second master of the same data, in a group that does not say what replicates what.
    Twin {
        /// What was seen.
        evidence: String,
    },
    /// It is being promoted.
    Promoting {
        /// Why, and what was known of it.
        evidence: String,
    },
    /// It is a master now.
    Promoted {
        /// From the order to a clean health check.
        took: Duration,
    },
    /// It was not promoted.
    PromotionFailed {
        /// Why.
        cause: String,
        /// When it is tried again.
        retry_in: Option<Duration>,
    },
}

impl News {
    /// Its name in events.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Replica { .. } => "replica",
            Self::FactsUnknown { .. } => "facts_unknown",
            Self::Fenced { reason, .. } => reason.label(),
            Self::FenceLifted { .. } => "fence_lifted",
            Self::Twin { .. } => FenceReason::MultipleMasters.label(),
            Self::Promoting { .. } => "promoting",
            Self::Promoted { .. } => "promoted",
            Self::PromotionFailed { .. } => "promotion_failed",
        }
    }

    /// Somebody should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::Replica { .. } | Self::FenceLifted { .. } => false,
            Self::FactsUnknown { is_needed, .. } => *is_needed,
            Self::Fenced { is_alarm, .. } => *is_alarm,
            Self::Twin { .. } | Self::Promoting { .. } | Self::Promoted { .. } | Self::PromotionFailed { .. } => true,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica { of, promotes: true } => {
                write!(formatter, "is a replica of {of}: it is promoted when it is to take over")
            }
            Self::Replica { of, promotes: false } => write!(
                formatter,
                "is a replica of {of}: it cannot take over until somebody promotes it (failover.promote is \"never\")"
            ),
            Self::FactsUnknown { why, .. } => write!(
                formatter,
                "does not say what it replicates ({why}): a second master or stale data would not be seen; \
                 let its user run INFO"
            ),
            Self::Fenced { evidence, is_active: true, .. } => {
                write!(formatter, "is active, and: {evidence}")
            }
            Self::Fenced { reason, evidence, is_active: false, .. } => {
                write!(formatter, "is not returned to: {reason} ({evidence})")
            }
            Self::FenceLifted { why } => write!(formatter, "may be returned to again: {why}"),
            Self::Twin { evidence } => write!(formatter, "is {evidence}"),
            Self::Promoting { evidence } => write!(formatter, "is being promoted: {evidence}"),
            Self::Promoted { took } => write!(formatter, "was promoted in {:.1} ms", took.as_secs_f64() * 1e3),
            Self::PromotionFailed { cause, retry_in } => {
                write!(formatter, "was not promoted: {cause}")?;
                retry_in.map_or(Ok(()), |wait| write!(formatter, "; next try in {wait:?}"))
            }
        }
    }
}
