//! After a switch nothing is published before the subscriptions are live on the new active: those of every worker.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::logic::multiplexer::Multiplexer;

/// How long nothing is published while subscriptions are being restored after a switch.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(1);

/// What the workers of a group know of each other's subscriptions.
#[derive(Debug, Default)]
pub(in crate::logic::multiplexer) struct PublishBarrier {
    /// The last epoch in which everything was live, by worker.
    restored: Mutex<BTreeMap<usize, u64>>,
}

impl PublishBarrier {
    /// All subscriptions of a worker are live in this epoch; 0: it is there.
    pub(in crate::logic::multiplexer) fn note(&self, worker: usize, epoch: u64) {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, epoch);
    }

    /// Whether nobody's subscriptions are behind this epoch.
    fn is_open(&self, epoch: u64) -> bool {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner).values().all(|&restored| restored >= epoch)
    }
}

impl Multiplexer {
    /// This worker's number in its group.
    pub(in crate::logic::multiplexer) const fn worker(&self) -> usize {
        let step = if self.settings.client_id_step == 0 { 1 } else { self.settings.client_id_step };
        ((self.settings.client_id_first.saturating_sub(1)) % step) as usize
    }

    /// After a switch nothing is published before the subscriptions are restored, so that nothing is missed.
    pub(in crate::logic::multiplexer) fn raise_publish_barrier(&mut self, now: Instant) {
        // Held commands are refused after `hold`, which must not come first.
        let wait_max = PUBLISH_WAIT_MAX.min(self.settings.failover.hold / 2);
        self.publish_barrier = Some(now + wait_max);
        self.is_restored = false;
    }

    /// Lets publishers go on once every subscription is restored, or that takes too long.
    pub(in crate::logic::multiplexer) fn lift_publish_barrier(&mut self, now: Instant) {
        let epoch = self.route.epoch;
        if !self.is_restored && self.is_serving() && !self.is_restoring() {
            self.is_restored = true;
            self.settings.commons.barrier().note(self.worker(), epoch);
        }
        let Some(until) = self.publish_barrier else { return };
        if now >= until || (self.is_restored && self.settings.commons.barrier().is_open(epoch)) {
            self.publish_barrier = None;
        }
    }

    /// Somebody's subscriptions are not live in this epoch.
    fn is_restoring(&self) -> bool {
        self.sessions.iter().any(|(_, session)| {
            let link = session.subscription_link().and_then(|link| self.links.get(link));
            let Some(subscriptions) = &session.subscriptions else { return false };
            let is_live =
                link.is_some_and(|link| link.epoch == self.route.epoch) || subscriptions.leaving_until.is_some();
            subscriptions.registry.is_subscribed() && !subscriptions.is_shared && !is_live
        })
    }
}
