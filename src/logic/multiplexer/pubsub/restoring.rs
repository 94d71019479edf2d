//! The connection that carries a client's subscriptions: opened, restored elsewhere, given up.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::frames::write_command;
use super::{Kind, Subscriptions};
use crate::logic::multiplexer::link::{Link, LinkState, Role, Run, RunKind};
use crate::logic::multiplexer::session::Wait;
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};

/// Channels named in one command when subscriptions are restored.
const RESTORE_CHUNK: usize = 1000;

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
        let session = self.sessions.get_mut(key)?;
        let identity = session.profile.identity;
        let subscriptions = session.subscriptions.get_or_insert_default();
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
    pub(super) fn open_subscription(&mut self, key: SessionKey, now: Instant) {
        let Some(active) = self.route.active.filter(|_| self.is_serving()) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let profile = session.profile;
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        if subscriptions.next.is_some() || subscriptions.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if self.is_profile_refused(active, profile) || !self.has_room_for_own(active) {
            return;
        }
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if !self.connects.spend(now) {
            subscriptions.retry_at = Some(now);
            return;
        }
        let link = self.dial(active, profile, Role::Subscription(key), now);
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            (subscriptions.next, subscriptions.retry_at) = (Some(link), None);
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
        let subscriptions = self.sessions.get_mut(key)?.subscriptions.get_or_insert_default();
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

    /// Closes the connection for subscriptions when there are none, unless it owes something still.
    pub(in crate::logic::multiplexer) fn drop_unused_subscriptions(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        let is_used = |subscriptions: &Subscriptions| {
            subscriptions.count() > 0 || !subscriptions.changes.is_empty() || subscriptions.is_target
        };
        if session.protocol_change.is_none() && !session.subscriptions.as_deref().is_some_and(is_used) {
            self.drop_subscriptions(key);
        }
    }

    /// The connection for a session's subscriptions is open: what it had is restored there, then what it asked for.
    pub(in crate::logic::multiplexer) fn on_subscription_ready(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        now: Instant,
    ) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return self.close_link(link, false);
        };
        subscriptions.failures = 0;
        let (wanted, changes) = (subscriptions.wanted.clone(), subscriptions.changes.clone());
        let mut frame = BytesMut::new();
        for kind in Kind::ALL {
            let names: Vec<&Bytes> = wanted[kind as usize].iter().collect();
            for chunk in names.chunks(RESTORE_CHUNK) {
                write_command(&mut frame, kind, true, chunk.iter().copied());
                self.send_subscription(link, key, chunk.len(), true, &frame.split(), now);
            }
        }
        for change in &changes {
            write_command(&mut frame, change.kind, change.subscribe, change.names.iter());
            self.send_subscription(link, key, change.due, false, &frame.split(), now);
        }
        self.take_over_if_restored(key, link, now);
    }

    /// The restored connection delivers from now on; the one before it is closed.
    pub(super) fn take_over_if_restored(&mut self, key: SessionKey, link_key: LinkKey, now: Instant) {
        let is_restoring = self
            .links
            .get(link_key)
            .is_some_and(|link| link.runs().iter().any(|run| run.kind == RunKind::Confirm { restoring: true }));
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if is_restoring || subscriptions.next != Some(link_key) {
            return;
        }
        subscriptions.next = None;
        let is_target = subscriptions.is_target;
        if let Some(old) = subscriptions.link.replace(link_key) {
            self.close_link(old, false);
        }
        if is_target {
            self.follow_target(key, now);
        }
        // The old one may have owed a reply to HELLO.
        self.greet_if_changed(key, now);
        self.advance_session(key, now);
    }

    /// What was asked for on this connection has been asked for again on the one that will take over.
    pub(super) fn is_superseded(&self, key: SessionKey, link: LinkKey) -> bool {
        let next = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()?.next);
        next.filter(|&next| next != link)
            .and_then(|next| self.links.get(next))
            .is_some_and(|next| next.state == LinkState::Ready)
    }

    /// Ends all subscriptions of a session, without a word.
    pub(in crate::logic::multiplexer) fn drop_subscriptions(&mut self, key: SessionKey) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.take()) else {
            return;
        };
        subscriptions.links().for_each(|link| self.close_link(link, false));
    }

    /// The connection of a session's subscriptions was lost: they are restored on the active.
    pub(in crate::logic::multiplexer) fn on_subscription_lost(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        _lost: &mut Link,
        now: Instant,
    ) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if subscriptions.link == Some(link) {
            subscriptions.link = None;
        }
        if subscriptions.next == Some(link) {
            subscriptions.next = None;
        }
        if subscriptions.is_target {
            self.on_target_lost(key, now);
        }
        self.greet_if_changed(key, now);
        self.open_subscription(key, now);
    }

    /// It could not be opened; tried again with the next ticks.
    pub(in crate::logic::multiplexer) fn on_subscription_failed(&mut self, key: SessionKey, link: LinkKey) {
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut())
            && subscriptions.next == Some(link)
        {
            subscriptions.next = None;
        }
    }

    /// After a switch every subscription moves to the new active.
    pub(in crate::logic::multiplexer) fn move_subscriptions(&mut self, now: Instant) {
        let epoch = self.route.epoch;
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get(key) else { continue };
            let link = session.subscription_link();
            let identity = session.profile.identity;
            let is_current =
                link.and_then(|link| self.links.get(link)).is_some_and(|link| link.is_current(epoch, identity));
            if session.subscriptions.is_some() && !is_current {
                self.open_subscription(key, now);
            }
        }
    }

    /// Subscriptions without a connection get one.
    pub(in crate::logic::multiplexer) fn reopen_subscriptions(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        self.move_subscriptions(now);
    }
}
