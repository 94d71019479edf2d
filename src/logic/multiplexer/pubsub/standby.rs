//! The same subscriptions at the backend that would be next: nothing of it is delivered, and what it carried of late is
//! kept, so that a forced switch loses what that backend did not carry and no more.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::frames::write_request;
use super::outbox::Ring;
use super::registry::Request;
use crate::logic::multiplexer::link::{LinkState, Role};
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};
use crate::logic::route::Phase;

/// Before another attempt at a connection that could not be had, or was lost.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Before another attempt where a subscription was refused.
const REFUSED_DELAY: Duration = Duration::from_secs(10);

/// The connection, and what came on it.
#[derive(Debug, Default)]
pub(super) struct Standby {
    link: Option<LinkKey>,
    ring: Ring,
    retry_at: Option<Instant>,
}

impl Standby {
    pub(super) const fn link(&self) -> Option<LinkKey> {
        self.link
    }

    pub(super) const fn bytes(&self) -> usize {
        self.ring.bytes()
    }

    pub(super) fn keep(&mut self, message: &[u8], now: Instant) {
        self.ring.push(message, now);
    }

    /// Gives up what there is, for so long.
    fn give_up(&mut self, delay: Duration, now: Instant) -> Option<LinkKey> {
        let link = self.link.take();
        (self.ring, self.retry_at) = (Ring::default(), Some(now + delay));
        link
    }
}

impl Multiplexer {
    /// Opens what is missing, and closes what leads to a backend that would not be next.
    pub(in crate::logic::multiplexer) fn keep_subscription_standbys(&mut self, now: Instant) {
        if !self.settings.pubsub.standby || self.route.phase != Phase::Serve {
            return;
        }
        for key in self.subscribers() {
            self.keep_subscription_standby(key, now);
        }
    }

    fn keep_subscription_standby(&mut self, key: SessionKey, now: Instant) {
        let active = self.route.active;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let profile = session.profile;
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        subscriptions.standby.ring.trim(now);
        let is_wanted =
            subscriptions.needs_link() && subscriptions.registry.needs_server() && subscriptions.next.is_none();
        let (held, retry_at) = (subscriptions.standby.link, subscriptions.standby.retry_at);
        let standby = self.route.standby.filter(|&standby| Some(standby) != active && is_wanted);
        if let Some(link_key) = held {
            let is_right = |link: &super::super::Link| {
                Some(link.backend) == standby && link.profile == profile && link.epoch == self.route.epoch
            };
            if !self.links.get(link_key).is_some_and(is_right) {
                self.drop_subscription_standby(key, Duration::ZERO, now);
            }
            return;
        }
        let Some(backend) = standby.filter(|_| retry_at.is_none_or(|at| at <= now)) else { return };
        if self.is_profile_refused(backend, profile) || !self.has_room_for_standby(backend) || !self.connects.spend(now)
        {
            return;
        }
        let link = self.dial(backend, profile, Role::Subscription(key), now);
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.standby.link = Some(link);
        }
    }

    /// Closes a client's standby connection.
    pub(in crate::logic::multiplexer) fn drop_subscription_standby(
        &mut self,
        key: SessionKey,
        delay: Duration,
        now: Instant,
    ) {
        let subscriptions = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut());
        if let Some(link) = subscriptions.and_then(|subscriptions| subscriptions.standby.give_up(delay, now)) {
            self.close_link(link, false);
        }
    }

    /// The standby refused a subscription, which nobody needs to know before it is the active.
    pub(super) fn on_standby_refused(&mut self, key: SessionKey, now: Instant) {
        self.drop_subscription_standby(key, REFUSED_DELAY, now);
    }

    /// A connection that was lost, or could not be opened, was the standby's.
    pub(super) fn forget_standby(&mut self, key: SessionKey, link: LinkKey, now: Instant) -> bool {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return false;
        };
        if subscriptions.standby.link != Some(link) {
            return false;
        }
        subscriptions.standby.give_up(RETRY_DELAY, now);
        true
    }

    /// Whether a connection is kept because its backend has become the active.
    pub(in crate::logic::multiplexer) fn is_promoted_standby(&self, key: SessionKey, link_key: LinkKey) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let is_standby = session.subscriptions.as_ref().is_some_and(|subscriptions| {
            subscriptions.standby.link == Some(link_key) && subscriptions.registry.needs_server()
        });
        is_standby
            && self.links.get(link_key).is_some_and(|link| {
                Some(link.backend) == self.route.active
                    && link.state == LinkState::Ready
                    && link.profile == session.profile
            })
    }

    /// After a switch to its backend the standby connection is the one that takes over; false: there is none.
    pub(super) fn promote_subscription_standby(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(subscriptions) = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()) else {
            return false;
        };
        let Some(link_key) = subscriptions.standby.link.filter(|&link| self.is_promoted_standby(key, link)) else {
            return false;
        };
        let epoch = self.route.epoch;
        if let Some(link) = self.links.get_mut(link_key) {
            link.epoch = epoch;
        }
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return false;
        };
        subscriptions.begin_move(Some(link_key), now);
        // What it was asked for besides was asked for in silence.
        let requests: Vec<Request> = subscriptions.registry.requests().collect();
        let mut standby = std::mem::take(&mut subscriptions.standby);
        // While the old connection delivers, nothing was missed.
        let moment = subscriptions.lost_at.filter(|_| subscriptions.link.is_none());
        let messages: Vec<_> = moment.into_iter().flat_map(|moment| standby.ring.take_since(moment)).collect();
        for request in requests {
            let mut frame = BytesMut::new();
            write_request(&mut frame, &request);
            self.send_subscription(link_key, key, request.due, false, &frame, now);
        }
        let mut replayed = 0;
        for message in messages {
            replayed += usize::from(self.deliver_from_next(key, &message, now));
        }
        self.counters.messages_replayed += replayed as u64;
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.standby.retry_at = None;
            subscriptions.replayed = replayed;
        }
        self.take_over_if_restored(key, link_key, now);
        true
    }
}
