//! Words for what is told of replication.

use super::{Details, EventKind, Happening, Millis, Severity, State};
use crate::logic::failover::{FenceReason, News};

impl Happening {
    /// News of one backend.
    pub(super) fn replication(backend: &str, news: &News) -> Self {
        use EventKind as Kind;
        let about = |state| Details { backend: Some(backend.to_owned()), state, ..Details::default() };
        let (kind, title, details) = match news {
            News::Replica { of, .. } => {
                let details = Details { from: Some(of.clone()), ..about(None) };
                (Kind::Replica, "backend is a replica", details)
            }
            News::FactsUnknown { why, .. } => {
                let details = Details { reason: Some(why.clone()), ..about(Some(State::Began)) };
                (Kind::CheckWarning, "backend does not say what it replicates", details)
            }
            News::Fenced { reason: FenceReason::StaleData, evidence, .. } => {
                let details = Details { cause: Some(evidence.clone()), ..about(Some(State::Began)) };
                (Kind::StaleData, "backend came back with less than was seen", details)
            }
            News::Fenced { reason: FenceReason::MultipleMasters, evidence, .. } | News::Twin { evidence } => {
                let details = Details { cause: Some(evidence.clone()), ..about(Some(State::Began)) };
                (Kind::MultipleMasters, "more than one master", details)
            }
            News::FenceLifted { why } => {
                let details = Details { reason: Some((*why).to_owned()), ..about(Some(State::Ended)) };
                (Kind::FenceLifted, "backend may be returned to again", details)
            }
            News::Promoting { evidence } => {
                let details = Details { cause: Some(evidence.clone()), ..about(Some(State::Began)) };
                (Kind::Promotion, "replica is being promoted", details)
            }
            News::Promoted { took } => {
                let details = Details { after: Some(Millis(*took)), ..about(Some(State::Ended)) };
                (Kind::Promotion, "replica was promoted", details)
            }
            News::PromotionFailed { cause, retry_in } => {
                let (cause, retry_in) = (Some(cause.clone()), retry_in.map(Millis));
                let details = Details { cause, retry_in, ..about(Some(State::Failed)) };
                (Kind::Promotion, "replica was not promoted", details)
            }
        };
        let severity = if news.is_warning() { Severity::Warning } else { Severity::Info };
        Self::new(kind, severity, title, format!("{backend} {news}"), details)
    }
}
