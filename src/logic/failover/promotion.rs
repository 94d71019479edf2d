//! A replica becomes the active: forced, it is chosen among those that answer and promoted first; planned, it catches up
//! while commands wait, and is promoted then.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::event::{CallOff, Output, Reason};
use super::news::News;
use super::switching::{Meanwhile, Missing, Stage, Switch};
use super::{Failover, Worth};
use crate::logic::backoff::Backoff;
use crate::logic::health::ProbeVerdict;
use crate::logic::replication::{Facts, ReplicationSettings, Role};
use crate::logic::report::ProbeReport;
use crate::logic::route::BackendId;

/// The shell keeps its own limits; this is left for the health check that follows, and to hear why it gave up.
const PROVING_SLACK: Duration = Duration::from_secs(1);
/// The first wait after a promotion that failed, and the longest.
const FAILED_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the shell is to do before a replica may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromotionOrder {
    /// The replica.
    pub backend: BackendId,
    /// The active that lives and hands over; `None`: it is dead, or nobody asks it.
    pub from: Option<BackendId>,
    /// First wait, at most so long, until the replica has all that the active has.
    pub catch_up: Option<Duration>,
    /// Then promote it, within this time; `None`: waiting was all.
    pub promote: Option<Duration>,
}

/// How far a promotion is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The replicas are asked anew, so that the one that has most is chosen.
    Gathering {
        since: Instant,
        missing: Vec<BackendId>,
        answered: Vec<BackendId>,
        /// Those whose first answer said nothing certain.
        asked_again: Vec<BackendId>,
    },
    /// The shell is at it.
    Ordered { since: Instant },
    /// It is done: a clean health check must show it.
    Proving { ordered_at: Instant, since: Instant },
}

/// What is remembered of promotions.
#[derive(Clone, Debug)]
pub(super) struct Promotions {
    backoff: Backoff,
    retry_after: Option<Instant>,
}

impl Default for Promotions {
    fn default() -> Self {
        Self { backoff: Backoff::new(FAILED_WAIT.0, FAILED_WAIT.1), retry_after: None }
    }
}

impl Failover {
    /// How the group uses that one backend replicates another; without it, it knows nothing of replication.
    #[must_use]
    pub fn with_replication(mut self, settings: ReplicationSettings) -> Self {
        self.replication = settings;
        self
    }

    /// The shell has done what [`Output::Promote`] asked for, or could not.
    pub fn on_promotion(&mut self, now: Instant, backend: BackendId, outcome: Result<(), String>) {
        if let Stage::Promoting { switch, step: Step::Ordered { since }, is_promoting, .. } = &self.stage
            && switch.to == backend
        {
            match (outcome, *is_promoting, *since) {
                (Err(cause), ..) => self.fail_promotion(now, cause),
                (Ok(()), false, _) => self.finish_promotion(now),
                (Ok(()), true, ordered_at) => {
                    self.set_step(Step::Proving { ordered_at, since: now });
                    self.outputs.push_back(Output::ProbeNow(backend));
                }
            }
        }
        self.settle(now);
    }

    /// It is a replica that must be promoted before it can take writes.
    pub(super) fn is_replica(&self, index: usize) -> bool {
        self.members[index].server.facts.as_ref().is_some_and(|facts| facts.role == Role::Replica)
    }

    /// A replica whose copy is whole, as far as it goes: a copy that was broken off is worth less than none.
    pub(super) fn is_promotable(&self, index: usize) -> bool {
        let member = &self.members[index];
        let is_whole = member.server.seen.as_ref().is_some_and(|seen| seen.was_whole);
        let is_ours = self.master_of(index).is_some_and(|master| Some(self.members[master].id) == self.active);
        self.replication.promotes && self.is_replica(index) && is_whole && is_ours && !member.is_barred()
    }

    /// Who would be promoted if the active died now; `None`: nobody, or another backend can take over as it is.
    #[must_use]
    pub fn would_promote(&self) -> Option<BackendId> {
        let candidates = (0..self.members.len()).filter(|index| self.is_promotable(*index));
        let best = candidates.max_by(|one, other| self.compare(*one, *other))?;
        let is_needed = self.refuge().or_else(|| self.promoted_refuge()).is_none();
        is_needed.then_some(self.members[best].id)
    }

    /// Whether somebody else has made a master of it that goes on from what the active has: with another promotion there
    /// would be two.
    pub(super) fn was_promoted(&self, index: usize) -> bool {
        let active = self.active.and_then(|id| self.index(id));
        let seen = active.and_then(|active| self.members[active].server.seen.as_ref());
        let Some(history) = seen.and_then(|seen| seen.histories.last()) else { return false };
        let facts = self.members[index].server.facts.as_ref();
        let is_from = |facts: &&Facts| facts.second_replication_id.as_ref() == Some(history);
        facts.filter(is_from).is_some_and(|facts| facts.role == Role::Master)
    }

    /// Whether a planned switch may go there.
    pub(super) fn is_fit(&self, id: BackendId) -> bool {
        let Some(index) = self.index(id) else { return false };
        let is_linked = self.members[index].server.facts.as_ref().is_some_and(Facts::is_whole_replica);
        self.members[index].health.is_healthy() || (self.is_promotable(index) && is_linked)
    }

    /// The active is dead and nobody can take over as it is: a replica is to be promoted, if that is configured.
    pub(super) fn begin_promotion(&mut self, now: Instant, switch: Switch) -> bool {
        if self.promotions.retry_after.is_some_and(|at| now < at) {
            return false;
        }
        let candidates: Vec<usize> = (0..self.members.len()).filter(|index| self.is_promotable(*index)).collect();
        let Some(wait) = candidates.iter().map(|index| self.members[*index].health_settings.timeout).max() else {
            return false;
        };
        let Some(best) = candidates.iter().copied().max_by(|one, other| self.compare(*one, *other)) else {
            return false;
        };
        let switch = Switch { to: self.members[best].id, ..switch };
        let missing: Vec<BackendId> = candidates.iter().map(|index| self.members[*index].id).collect();
        self.outputs.extend(missing.iter().map(|id| Output::ProbeNow(*id)));
        let step = Step::Gathering { since: now, missing, answered: Vec::new(), asked_again: Vec::new() };
        let (until, meanwhile) = (now + wait, Meanwhile::Served);
        self.stage = Stage::Promoting { switch, step, until, meanwhile, is_promoting: true };
        true
    }

    /// A probe ended: one of the replicas answered, or the promoted one is proven.
    pub(super) fn on_probe_of_replica(&mut self, now: Instant, report: &ProbeReport, worth: Worth) {
        let is_changing = self.index(report.backend).is_some_and(|index| self.was_promoted(index));
        let Stage::Promoting { switch, step, .. } = &mut self.stage else { return };
        match step {
            Step::Gathering { since, missing, answered, asked_again }
                if report.immediate && report.started_at >= *since =>
            {
                let is_answer = match report.verdict {
                    ProbeVerdict::Good { .. } => true,
                    ProbeVerdict::CannotServe { .. } => !is_changing,
                    _ => false,
                };
                // Whoever is just being promoted by somebody else may cut us off, or contradict itself: once more.
                if !is_answer && !asked_again.contains(&report.backend) {
                    asked_again.push(report.backend);
                    return self.outputs.push_back(Output::ProbeNow(report.backend));
                }
                missing.retain(|id| *id != report.backend);
                if is_answer {
                    answered.push(report.backend);
                }
            }
            Step::Proving { since, ordered_at } if switch.to == report.backend && report.started_at >= *since => {
                let ordered_at = *ordered_at;
                if worth == Worth::Counts && matches!(report.verdict, ProbeVerdict::Good { .. }) {
                    self.tell_promoted(now, ordered_at);
                    self.finish_promotion(now);
                }
            }
            _ => {}
        }
    }

    /// Takes one step of a promotion if one is due; says whether it did.
    pub(super) fn step_of_promotion(&mut self, now: Instant) -> bool {
        let Stage::Promoting { switch, step, until, .. } = &self.stage else { return false };
        let is_late = now >= *until;
        let Step::Gathering { missing, answered, .. } = step else {
            let cause = format!("not done within {:?}", self.replication.promote_timeout);
            if is_late {
                self.fail_promotion(now, cause);
            }
            return is_late;
        };
        if self.active.is_some_and(|id| self.is_healthy(id)) {
            self.stage = Stage::Serving;
            return true;
        }
        let switch = switch.clone();
        // Somebody else has promoted one meanwhile.
        if let Some(to) = self.refuge() {
            self.cut(now, Switch { to, ..switch });
            return true;
        }
        if !missing.is_empty() && !is_late {
            return false;
        }
        let best = answered.iter().filter_map(|id| self.index(*id)).filter(|index| self.is_promotable(*index));
        match best.max_by(|one, other| self.compare(*one, *other)) {
            Some(best) => self.order_promotion(now, Switch { to: self.members[best].id, ..switch }),
            None => self.fail_promotion(now, "it does not answer".to_owned()),
        }
        true
    }

    /// The one that has more; else the heavier; else the one that stands first in the file: several Handovers that see
    /// the same choose the same.
    fn compare(&self, one: usize, other: usize) -> Ordering {
        let offset = |index: usize| self.members[index].server.facts.as_ref().map_or(0, |facts| facts.offset);
        let weight = |index: usize| self.members[index].weight;
        let by_weight = || weight(one).partial_cmp(&weight(other)).unwrap_or(Ordering::Equal);
        offset(one).cmp(&offset(other)).then_with(by_weight).then(other.cmp(&one))
    }

    /// Forced: the active has no say.
    pub(super) fn order_promotion(&mut self, now: Instant, switch: Switch) {
        let (backend, limit) = (switch.to, self.replication.promote_timeout);
        let order = PromotionOrder { backend, from: None, catch_up: None, promote: Some(limit) };
        self.tell_promoting(backend);
        self.outputs.push_back(Output::Promote(order));
        let step = Step::Ordered { since: now };
        let until = now + limit + PROVING_SLACK;
        self.attempts += 1;
        let meanwhile = Meanwhile::Cut(self.attempts);
        self.stage = Stage::Promoting { switch, step, until, meanwhile, is_promoting: true };
    }

    /// Nothing is in flight any more: a planned switch to a replica of the active waits until it has everything.
    pub(super) fn drained(&mut self, now: Instant) -> bool {
        let Stage::Holding { switch, attempt, until, .. } = &self.stage else { return false };
        let (switch, ends_at) = (switch.clone(), *until);
        let meanwhile = Meanwhile::Held(*attempt, *until);
        let Some(index) = self.index(switch.to) else { return self.complete(now) };
        let is_of_active = self.master_of(index).is_some_and(|master| Some(self.members[master].id) == self.active);
        let is_promoting = is_of_active && self.replication.promotes;
        let waits = is_of_active && self.replication.waits;
        if !is_promoting && !waits {
            return self.complete(now);
        }
        let catch_up = waits.then(|| ends_at.saturating_duration_since(now));
        let promote = is_promoting.then_some(self.replication.promote_timeout);
        let order = PromotionOrder { backend: switch.to, from: self.active, catch_up, promote };
        if is_promoting {
            self.tell_promoting(switch.to);
        }
        self.outputs.push_back(Output::Promote(order));
        let until = now + catch_up.unwrap_or_default() + promote.unwrap_or_default() + PROVING_SLACK;
        self.stage = Stage::Promoting { switch, step: Step::Ordered { since: now }, until, meanwhile, is_promoting };
        true
    }

    fn set_step(&mut self, next: Step) {
        if let Stage::Promoting { step, .. } = &mut self.stage {
            *step = next;
        }
    }

    /// The replica is a master, or has all that it needs.
    fn finish_promotion(&mut self, now: Instant) {
        let Stage::Promoting { switch, meanwhile, .. } = &self.stage else { return };
        let switch = switch.clone();
        match *meanwhile {
            Meanwhile::Served | Meanwhile::Cut(_) => self.cut(now, switch),
            Meanwhile::Held(attempt, until) => {
                self.stage = Stage::Holding { switch, attempt, until, missing: Missing::none() };
                self.complete(now);
            }
        }
    }

    fn fail_promotion(&mut self, now: Instant, cause: String) {
        let Stage::Promoting { switch, meanwhile, is_promoting, .. } = &self.stage else { return };
        let is_planned = matches!(meanwhile, Meanwhile::Held(..));
        let (to, is_promoting) = (switch.to, *is_promoting);
        let is_asked_for = switch.reason == Reason::Operator;
        let Some(index) = self.index(to) else { return };
        let retry_in = (!is_planned && !is_asked_for).then(|| self.promotions.backoff.grow());
        self.promotions.retry_after = retry_in.map(|wait| now + wait).or(self.promotions.retry_after);
        if is_promoting {
            self.tell(index, News::PromotionFailed { cause: cause.clone(), retry_in });
        }
        if is_planned || is_asked_for {
            self.call_off(now, if is_promoting { CallOff::NotPromoted } else { CallOff::NotCaughtUp });
        }
        self.stage = Stage::Serving;
    }

    fn tell_promoting(&mut self, backend: BackendId) {
        let Some(index) = self.index(backend) else { return };
        let Some(facts) = &self.members[index].server.facts else { return };
        let of = self.master_of(index).map_or("another server", |master| &self.members[master].name);
        let evidence = format!("it is the replica of {of} that has most (offset {})", facts.offset);
        self.tell(index, News::Promoting { evidence });
    }

    fn tell_promoted(&mut self, now: Instant, ordered_at: Instant) {
        let Stage::Promoting { switch, .. } = &self.stage else { return };
        let Some(index) = self.index(switch.to) else { return };
        self.promotions = Promotions::default();
        self.tell(index, News::Promoted { took: now.saturating_duration_since(ordered_at) });
    }

    /// When a promotion that failed is tried again.
    pub(super) fn promotion_deadline(&self) -> Option<Instant> {
        let is_down = self.active.is_some_and(|id| !self.is_healthy(id));
        self.promotions.retry_after.filter(|_| is_down && self.stage.is_serving())
    }
}
