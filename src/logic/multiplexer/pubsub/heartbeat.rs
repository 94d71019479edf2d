//! Whether a connection that carries subscriptions lives: one that is silent for long is asked, and one that does not
//! answer is replaced. Its silence says nothing of the backend, which others may hear.

use std::time::Instant;

use crate::logic::multiplexer::link::{LinkState, Role, RunKind};
use crate::logic::multiplexer::{LinkKey, Multiplexer};

/// Answered by everybody, also by a subscriber of RESP2.
pub(super) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

impl Multiplexer {
    /// Asks those that are silent, and gives up those that do not answer.
    pub(in crate::logic::multiplexer) fn beat_subscriptions(&mut self, now: Instant) {
        for key in self.links.keys() {
            let Some(link) = self.links.get(key) else { continue };
            let is_used = matches!(link.role, Role::Subscription(_)) && link.epoch == self.route.epoch;
            if !is_used || link.state != LinkState::Ready {
                continue;
            }
            let settings = &self.settings.pubsub;
            let patience = settings.heartbeat_lost.saturating_sub(settings.heartbeat);
            match link.pinged_at {
                Some(at) if now.saturating_duration_since(at) >= patience => self.give_up_silent(key, now),
                None if now.saturating_duration_since(link.heard_at) >= settings.heartbeat => self.ping(key, now),
                _ => {}
            }
        }
    }

    fn ping(&mut self, key: LinkKey, now: Instant) {
        if let Some(link) = self.links.get_mut(key) {
            link.pinged_at = Some(now);
        }
        self.send_own(key, RunKind::Heartbeat, PING, now);
    }

    fn give_up_silent(&mut self, key: LinkKey, now: Instant) {
        let Some(backend) = self.links.get(key).map(|link| link.backend) else { return };
        // A script that may run long keeps everybody waiting.
        if !self.vital_signs(backend).waiting_slow {
            self.lose_link(key, "no answer to a heartbeat", now);
        }
    }
}
