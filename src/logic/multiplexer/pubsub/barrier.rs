//! After a switch nothing is published before the subscriptions are live on the new active.

use std::time::{Duration, Instant};

use crate::logic::multiplexer::Multiplexer;

/// How long nothing is published while subscriptions are being restored after a switch.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(1);

impl Multiplexer {
    /// After a switch nothing is published before the subscriptions are restored, so that nothing is missed.
    pub(in crate::logic::multiplexer) fn raise_publish_barrier(&mut self, now: Instant) {
        let is_needed = self.sessions.iter().any(|(_, session)| session.is_subscriber());
        // Held commands are refused after `hold`, which must not come first.
        let wait_max = PUBLISH_WAIT_MAX.min(self.settings.failover.hold / 2);
        self.publish_barrier = is_needed.then(|| now + wait_max);
    }

    /// Lets publishers go on once every subscription is restored, or that takes too long.
    pub(in crate::logic::multiplexer) fn lift_publish_barrier(&mut self, now: Instant) {
        let Some(until) = self.publish_barrier else { return };
        let is_restoring = self.is_serving()
            && self.sessions.iter().any(|(_, session)| {
                let link = session.subscription_link().and_then(|link| self.links.get(link));
                session.is_subscriber() && link.is_none_or(|link| link.epoch != self.route.epoch)
            });
        if !is_restoring || now >= until {
            self.publish_barrier = None;
        }
    }
}
