//! The connection that carries a client's subscriptions: opened, restored elsewhere, given up.
//!
//! Each connection is a generation of its own: its ring knows which confirmations are due on it, and what comes on one
//! that another has replaced concerns nobody. At a planned switch the old one is read to its end, which is the reply to a
//! PING behind everything, before the new one delivers.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Subscriptions;
use super::frames::{write_command, write_request};
use super::gaps::Gap;
use super::heartbeat::PING;
use super::outbox::Outbox;
use super::registry::Kind;
use crate::logic::multiplexer::link::{Link, LinkState, Role, Run, RunKind};
use crate::logic::multiplexer::session::Wait;
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};

/// Channels named in one command when subscriptions are restored.
const RESTORE_CHUNK: usize = 1000;
/// How long the old connection is read at a planned switch, when it does not answer.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Between two attempts to restore: the first, and the most that doubling leads to.
const RETRY_DELAY: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// Attempts at another connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt {
    failures: u32,
    retry_at: Option<Instant>,
}

impl Attempt {
    /// One failed: the next waits longer, by a share between a half and one and a half.
    fn fail(&mut self, share: f64, now: Instant) {
        let delay = RETRY_DELAY.saturating_mul(1 << self.failures.min(7)).min(RETRY_DELAY_MAX);
        self.failures += 1;
        self.retry_at = Some(now + delay.mul_f64(share));
    }
}

impl Subscriptions {
    /// Another connection is to take over.
    pub(super) fn begin_move(&mut self, next: Option<LinkKey>, now: Instant) {
        self.next = next;
        self.attempt.retry_at = None;
        self.moving_since.get_or_insert(now);
        if self.doubles_until.take().is_some()
            && let Some(overlap) = self.overlap.as_mut()
        {
            overlap.end();
        }
    }
}

impl Multiplexer {
    /// The connection that carries the session's subscriptions; makes it wait while there is none.
    pub(in crate::logic::multiplexer) fn subscription_link(
        &mut self,
        key: SessionKey,
        now: Instant,
    ) -> Option<LinkKey> {
        if !self.is_serving() {
            self.wait(key, Wait::Lane, now);
            return None;
        }
        let identity = self.sessions.get(key)?.profile.identity;
        let subscriptions = self.subscriptions_of(key)?;
        if subscriptions.leaving_until.is_some() && subscriptions.overlap.is_some() {
            // The old connection cannot follow what changes now.
            self.take_over(key, now);
        }
        let subscriptions = self.subscriptions_of(key)?;
        // While a new connection is being restored, nothing is written to the old one any more.
        let usable = subscriptions.link.filter(|_| subscriptions.next.is_none());
        if let Some(link) =
            usable.filter(|&link| self.links.get(link).is_some_and(|link| link.is_current(self.route.epoch, identity)))
        {
            return Some(link);
        }
        self.open_subscription(key, now);
        let is_opening = self.sessions.get(key).is_some_and(|session| !session.lacks_subscription_link());
        self.wait(key, if is_opening { Wait::Lane } else { Wait::Pin }, now);
        None
    }

    /// Begins to open the connection for a session's subscriptions, unless that is under way.
    fn open_subscription(&mut self, key: SessionKey, now: Instant) {
        let Some(active) = self.route.active.filter(|_| self.is_serving()) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let profile = session.profile;
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        if subscriptions.next.is_some() || subscriptions.attempt.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if self.is_profile_refused(active, profile) || !self.has_room_for_own(active) {
            return;
        }
        let can_connect = self.connects.spend(now);
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        subscriptions.moving_since.get_or_insert(now);
        if !can_connect {
            subscriptions.attempt.retry_at = Some(now);
            return;
        }
        let link = self.dial(active, profile, Role::Subscription(key), now);
        let leads_to_the_same = self
            .sessions
            .get(key)
            .and_then(|session| session.subscription_link())
            .and_then(|old| self.links.get(old))
            .is_some_and(|old| old.backend == active);
        let propagates = self.settings.pubsub.propagates;
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.begin_move(Some(link), now);
            if leads_to_the_same || propagates {
                subscriptions.overlap.get_or_insert_default();
            }
        }
    }

    pub(super) fn send_subscription(
        &mut self,
        link_key: LinkKey,
        key: SessionKey,
        due: usize,
        restoring: bool,
        frame: &[u8],
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(link_key) else { return };
        let run = Run {
            session: Some(key),
            commands: u32::try_from(due).unwrap_or(u32::MAX),
            answered: 0,
            dropped: 0,
            bytes: frame.len(),
            attempts: 0,
            at: now,
            kind: RunKind::Confirm { restoring },
        };
        link.push(run, frame);
        self.mark_link_to_write(link_key);
    }

    /// The connection of a client to which invalidations are redirected, once it is usable; begins to open it.
    pub(in crate::logic::multiplexer) fn redirect_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        let epoch = self.route.epoch;
        // Invalidations come on a connection of its own.
        self.move_out(key);
        let subscriptions = self.subscriptions_of(key)?;
        subscriptions.is_target = true;
        let usable = subscriptions.link.filter(|_| subscriptions.next.is_none());
        let link = usable.filter(|&link| self.links.get(link).is_some_and(|link| link.epoch == epoch));
        if link.is_none() {
            self.open_subscription(key, now);
        }
        link
    }

    /// Whether other clients' invalidations are redirected to this one.
    pub(in crate::logic::multiplexer) fn is_target(&self, key: SessionKey) -> bool {
        let subscriptions = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref());
        subscriptions.is_some_and(|subscriptions| subscriptions.is_target)
    }

    /// Nobody's invalidations are redirected to this client any more.
    pub(in crate::logic::multiplexer) fn forget_target(&mut self, key: SessionKey) {
        let subscriptions = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut());
        let Some(subscriptions) = subscriptions else { return };
        subscriptions.is_target = false;
        self.drop_unused_subscriptions(key);
    }

    /// Closes the connections for subscriptions when there are none, unless one owes something still.
    pub(in crate::logic::multiplexer) fn drop_unused_subscriptions(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.protocol_change.is_none()) else {
            return;
        };
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        if subscriptions.needs_server() {
            return;
        }
        if subscriptions.count() == 0 && subscriptions.is_quiet() {
            return self.drop_subscriptions(key);
        }
        // What is left is Handover's own affair.
        let links: Vec<LinkKey> = subscriptions.links().collect();
        let registry = std::mem::take(&mut subscriptions.registry);
        let outbox = std::mem::take(&mut subscriptions.outbox);
        let (unread, epoch, is_shared) = (subscriptions.unread, Some(self.route.epoch), subscriptions.is_shared);
        **subscriptions = Subscriptions { registry, outbox, unread, epoch, is_shared, ..Subscriptions::default() };
        links.into_iter().for_each(|link| self.close_link(link, false));
    }

    /// Ends all subscriptions of a session, without a word; what waits for the client is still its own.
    pub(in crate::logic::multiplexer) fn drop_subscriptions(&mut self, key: SessionKey) {
        self.release_outbox(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let identity = session.profile.identity;
        let Some(subscriptions) = session.subscriptions.take() else { return };
        self.leave_circle(key, identity, &subscriptions);
        subscriptions.links().for_each(|link| self.close_link(link, false));
    }

    /// A connection for a session's subscriptions is open: what it had is restored there, then what it asked for.
    pub(in crate::logic::multiplexer) fn on_subscription_ready(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        now: Instant,
    ) {
        let Some(subscriptions) = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()) else {
            return self.close_link(link, false);
        };
        let is_standby = subscriptions.standby.link() == Some(link);
        let mut commands: Vec<(usize, bool, BytesMut)> = Vec::new();
        for kind in Kind::ALL {
            let names: Vec<&Bytes> = subscriptions.registry.names(kind).collect();
            for chunk in names.chunks(RESTORE_CHUNK) {
                let mut frame = BytesMut::new();
                write_command(&mut frame, kind, true, chunk.iter().copied());
                commands.push((chunk.len(), true, frame));
            }
        }
        for request in subscriptions.registry.requests() {
            let mut frame = BytesMut::new();
            write_request(&mut frame, &request);
            commands.push((request.due, is_standby, frame));
        }
        for (due, restoring, frame) in commands {
            self.send_subscription(link, key, due, restoring, &frame, now);
        }
        self.take_over_if_restored(key, link, now);
    }

    /// The restored connection delivers from now on, or once the one before it has been read to its end.
    pub(super) fn take_over_if_restored(&mut self, key: SessionKey, link_key: LinkKey, now: Instant) {
        let is_restored = self.links.get(link_key).is_some_and(|link| {
            link.state == LinkState::Ready
                && !link.runs().iter().any(|run| run.kind == RunKind::Confirm { restoring: true })
        });
        let Some(subscriptions) = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()) else {
            return;
        };
        if !is_restored || subscriptions.next != Some(link_key) || subscriptions.leaving_until.is_some() {
            return;
        }
        match subscriptions.link {
            None => self.take_over(key, now),
            Some(old) => self.leave(key, old, now),
        }
    }

    /// Reads the old connection to its end: a PING goes behind everything, for which nothing else may be unwritten.
    fn leave(&mut self, key: SessionKey, old: LinkKey, now: Instant) {
        let is_new_backend = self.links.get(old).is_some_and(|link| Some(link.backend) != self.route.active);
        let propagates = self.settings.pubsub.propagates && is_new_backend;
        let drain = DRAIN_MAX.min(self.settings.failover.hold / 2);
        let until = now + if propagates { self.settings.pubsub.lag_max } else { drain };
        let Some(link) = self.links.get_mut(old) else { return self.take_over(key, now) };
        if !propagates {
            if link.state != LinkState::Ready || !link.unwritten().is_empty() {
                return self.take_over(key, now);
            }
            link.is_draining = true;
            self.send_own(old, RunKind::DrainMark, PING, now);
        }
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.leaving_until = Some(until);
        }
    }

    /// The restored connection takes the old one's place.
    pub(super) fn take_over(&mut self, key: SessionKey, now: Instant) {
        let epoch = self.route.epoch;
        let propagates = self.settings.pubsub.propagates;
        let doubles_until = now + self.settings.pubsub.lag_max;
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        let Some(link) = subscriptions.next.take() else { return };
        let old = subscriptions.link.replace(link);
        subscriptions.leaving_until = None;
        subscriptions.attempt = Attempt::default();
        if !propagates {
            subscriptions.overlap = None;
        }
        let early = std::mem::take(&mut subscriptions.early);
        let lost_at = subscriptions.lost_at.take();
        let replayed = std::mem::take(&mut subscriptions.replayed);
        let moving_since = subscriptions.moving_since.take();
        let before = subscriptions.epoch.replace(epoch);
        subscriptions.doubles_until = (propagates && before.is_some()).then_some(doubles_until);
        let is_target = subscriptions.is_target;
        if let Some(old) = old {
            self.close_link(old, false);
        }
        if let Some(before) = before {
            if let Some(since) = moving_since {
                self.counters.resubscribe.count(now.saturating_duration_since(since), 1);
            }
            let gap = lost_at.map(|lost_at| Gap { lost_at, back_at: now, replayed });
            if before != epoch || gap.is_some() {
                self.tell_gap(key, before != epoch, gap, now);
            }
        }
        self.deliver_early(key, early, now);
        if is_target {
            self.follow_target(key, now);
        }
        // The old one may have owed a reply to HELLO.
        self.greet_if_changed(key, now);
        self.advance_session(key, now);
    }

    fn deliver_early(&mut self, key: SessionKey, mut early: Outbox, now: Instant) {
        while let Some(messages) = early.pop() {
            self.deliver_message(key, &messages, now);
        }
    }

    /// What was asked for on this connection has been asked for again on the one that will take over.
    pub(super) fn is_superseded(&self, key: SessionKey, link: LinkKey) -> bool {
        let next = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()?.next);
        next.filter(|&next| next != link)
            .and_then(|next| self.links.get(next))
            .is_some_and(|next| next.state == LinkState::Ready)
    }

    /// A connection of a session's subscriptions was lost: they are restored on the active.
    pub(in crate::logic::multiplexer) fn on_subscription_lost(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        lost: &Link,
        now: Instant,
    ) {
        if self.forget_standby(key, link, now) {
            return;
        }
        let share = self.random_share_of_delay();
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if subscriptions.link == Some(link) {
            subscriptions.link = None;
            match subscriptions.leaving_until.is_some() {
                true => self.take_over(key, now),
                false => drop(subscriptions.lost_at.get_or_insert(lost.heard_at)),
            }
        } else if subscriptions.next == Some(link) {
            subscriptions.next = None;
            subscriptions.leaving_until = None;
            subscriptions.attempt.fail(share, now);
            let early = std::mem::take(&mut subscriptions.early);
            self.deliver_early(key, early, now);
        }
        if self.is_target(key) {
            self.on_target_lost(key, now);
        }
        self.greet_if_changed(key, now);
        self.reopen_subscription(key, now);
    }

    /// One could not be opened: tried again later.
    pub(in crate::logic::multiplexer) fn on_subscription_failed(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        now: Instant,
    ) {
        if self.forget_standby(key, link, now) {
            return;
        }
        let share = self.random_share_of_delay();
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut())
            && subscriptions.next == Some(link)
        {
            subscriptions.next = None;
            subscriptions.attempt.fail(share, now);
        }
    }

    fn random_share_of_delay(&mut self) -> f64 {
        0.5 + (self.next_random() % 1024) as f64 / 1024.0
    }

    /// After a switch every subscription moves to the new active, without delay.
    pub(in crate::logic::multiplexer) fn move_subscriptions(&mut self, now: Instant) {
        for key in self.sessions.keys() {
            if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
                subscriptions.attempt = Attempt::default();
                subscriptions.leaving_until = None;
            }
            self.promote_subscription_standby(key, now);
            self.reopen_subscription(key, now);
        }
        self.tell_listeners(now);
        self.lift_publish_barrier(now);
    }

    /// Subscriptions without a connection get one; those that have one to leave, leave it in time.
    pub(in crate::logic::multiplexer) fn reopen_subscriptions(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        for key in self.subscribers() {
            self.reopen_subscription(key, now);
        }
    }

    fn reopen_subscription(&mut self, key: SessionKey, now: Instant) {
        let epoch = self.route.epoch;
        let Some(session) = self.sessions.get(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_ref() else { return };
        if subscriptions.leaving_until.is_some_and(|until| now >= until) {
            return self.take_over(key, now);
        }
        let link = subscriptions.link.and_then(|link| self.links.get(link));
        let is_current = link.is_some_and(|link| link.is_current(epoch, session.profile.identity));
        if subscriptions.needs_link() && !is_current {
            self.open_subscription(key, now);
        }
    }
}
