//! What comes on a connection for subscriptions, on its way to the client.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use super::frames::{is_confirmation, is_pong};
use super::outbox::Bounds;
use super::overlap::Side;
use crate::logic::multiplexer::link::{Link, RunKind};
use crate::logic::multiplexer::session::CloseReason;
use crate::logic::multiplexer::wait::is_mark;
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};
use crate::resp::reply::ReplyKind;

/// What a connection is to its client's subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Delivering,
    Next,
    Standby,
    /// Given up.
    None,
}

impl Multiplexer {
    /// A frame from a connection that carries subscriptions: a message, a confirmation, or an error.
    pub(in crate::logic::multiplexer) fn on_subscription_frame(
        &mut self,
        link: LinkKey,
        key: SessionKey,
        frame: &[u8],
        kind: ReplyKind,
        now: Instant,
    ) {
        let front = self.links.get(link).and_then(Link::front).map(|run| &run.kind);
        match front {
            Some(RunKind::Protocol(_)) if kind != ReplyKind::Push => {
                return self.on_protocol(link, key, frame, kind, now);
            }
            // One that may not run PING says at least that it is there.
            Some(RunKind::Heartbeat) if kind == ReplyKind::Error || is_pong(frame) => {
                return self.answer_own_ping(link);
            }
            Some(RunKind::DrainMark) if kind == ReplyKind::Error || is_pong(frame) => {
                self.answer_own_ping(link);
                return self.take_over(key, now);
            }
            _ => {}
        }
        if kind == ReplyKind::Error {
            return self.on_subscription_refused(link, key, frame, now);
        }
        if !is_confirmation(frame) {
            if !is_mark(frame) {
                self.on_message(link, key, frame, now);
            }
            return;
        }
        let front = self.links.get(link).and_then(Link::front).map(|run| run.kind.clone());
        let Some(RunKind::Confirm { restoring }) = front else {
            return self.lose_link(link, "a confirmation that nobody asked for", now);
        };
        if let Some(link) = self.links.get_mut(link) {
            link.answer(1);
        }
        if restoring {
            return self.take_over_if_restored(key, link, now);
        }
        if !self.is_superseded(key, link) {
            self.confirm_change(key, frame, now);
        }
    }

    fn answer_own_ping(&mut self, link: LinkKey) {
        if let Some(link) = self.links.get_mut(link) {
            link.answer(1);
        }
    }

    fn place(&self, key: SessionKey, link: LinkKey) -> Place {
        let Some(subscriptions) = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()) else {
            return Place::None;
        };
        match Some(link) {
            link if link == subscriptions.link => Place::Delivering,
            link if link == subscriptions.next => Place::Next,
            link if link == subscriptions.standby.link() => Place::Standby,
            _ => Place::None,
        }
    }

    fn on_message(&mut self, link: LinkKey, key: SessionKey, frame: &[u8], now: Instant) {
        match self.place(key, link) {
            Place::Delivering if self.admits(key, false, frame, now) => {
                self.counters.messages += 1;
                self.deliver_message(key, frame, now);
            }
            Place::Next => drop(self.deliver_from_next(key, frame, now)),
            Place::Standby => {
                if let Some(subscriptions) =
                    self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut())
                {
                    subscriptions.standby.keep(frame, now);
                }
            }
            Place::Delivering | Place::None => {}
        }
    }

    /// A message of the connection that is about to take over. While the old one delivers, and the two do not carry the
    /// same, it comes behind what that still brings. Whether it was delivered.
    pub(super) fn deliver_from_next(&mut self, key: SessionKey, frame: &[u8], now: Instant) -> bool {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return false;
        };
        if subscriptions.link.is_some() && subscriptions.overlap.is_none() {
            self.counters.messages += 1;
            subscriptions.early.push(frame);
            if subscriptions.early.bytes() > Bounds::DEFAULT.hard_bytes {
                self.take_over(key, now);
            }
            return true;
        }
        let is_admitted = self.admits(key, true, frame, now);
        if is_admitted {
            self.counters.messages += 1;
            self.deliver_message(key, frame, now);
        }
        is_admitted
    }

    /// Whether a message is none that came before from the other of two connections that carry the same.
    fn admits(&mut self, key: SessionKey, is_next: bool, frame: &[u8], now: Instant) -> bool {
        let propagates = self.settings.pubsub.propagates;
        let (memory, seed) = (self.settings.pubsub.lag_max, self.settings.seed);
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return true;
        };
        if propagates {
            subscriptions.overlap.get_or_insert_default();
        }
        let Some(overlap) = subscriptions.overlap.as_deref_mut() else { return true };
        if subscriptions.doubles_until.take_if(|until| now >= *until).is_some() {
            overlap.end();
        }
        let mut hasher = DefaultHasher::new();
        (seed, frame).hash(&mut hasher);
        let hash = hasher.finish();
        let is_alone = subscriptions.next.is_none() && subscriptions.doubles_until.is_none();
        match is_next || subscriptions.doubles_until.is_some() {
            true => overlap.admits(Side::Latter, hash, memory, now),
            false if is_alone => {
                overlap.note(Side::Former, hash, memory, now);
                true
            }
            false => overlap.admits(Side::Former, hash, memory, now),
        }
    }

    /// A message goes to the client, but never into the middle of a reply; what its client does not read waits apart
    /// from its replies, so that nobody else waits behind it.
    pub(in crate::logic::multiplexer) fn deliver_message(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        let is_streaming = self.is_streaming_to(key);
        let output_bytes_max = self.settings.limits.output_bytes_max;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_reader() {
            return self.distribute(key, frame, now);
        }
        let is_behind = is_streaming || session.output.len() > output_bytes_max / 2;
        let Some(subscriptions) = session.subscriptions.as_mut() else {
            return self.append_output(key, frame);
        };
        if !is_behind && subscriptions.outbox.is_empty() {
            subscriptions.unread += frame.len();
            return self.append_output(key, frame);
        }
        subscriptions.outbox.push(frame);
        if subscriptions.outbox.is_exceeded(session.output.len(), &Bounds::DEFAULT, now) {
            self.close_slow_subscriber(key);
        }
    }

    /// What the client waits for comes behind all of its messages, and before everything that it will be answered.
    pub(super) fn deliver_confirmation(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        if self.sessions.get(key).is_some_and(super::Session::is_reader) {
            return;
        }
        if self.is_streaming_to(key) {
            return self.deliver_message(key, frame, now);
        }
        self.release_outbox(key);
        self.append_output(key, frame);
    }

    /// A long reply is being passed on to this client, piece by piece.
    fn is_streaming_to(&self, key: SessionKey) -> bool {
        let link = self.sessions.get(key).and_then(|session| session.link).and_then(|link| self.links.get(link));
        link.is_some_and(|link| {
            link.streamed_bytes.is_some() && link.front().is_some_and(|run| run.session == Some(key))
        })
    }

    /// Everything that waits goes into the client's output.
    pub(super) fn release_outbox(&mut self, key: SessionKey) {
        while let Some(block) = self.pop_outbox(key) {
            self.append_output(key, &block);
        }
    }

    fn pop_outbox(&mut self, key: SessionKey) -> Option<bytes::BytesMut> {
        let subscriptions = self.sessions.get_mut(key)?.subscriptions.as_mut()?;
        let block = subscriptions.outbox.pop()?;
        subscriptions.unread += block.len();
        Some(block)
    }

    /// The client has read, or a long reply has ended: messages that waited for that.
    pub(in crate::logic::multiplexer) fn deliver_deferred(&mut self, key: SessionKey) {
        let has_waiting = |session: &super::Session| {
            session.subscriptions.as_ref().is_some_and(|subscriptions| !subscriptions.outbox.is_empty())
        };
        if !self.sessions.get(key).is_some_and(has_waiting) || self.is_streaming_to(key) {
            return;
        }
        let output_bytes_max = self.settings.limits.output_bytes_max;
        while self.sessions.get(key).is_some_and(|session| session.output.len() <= output_bytes_max / 2) {
            let Some(block) = self.pop_outbox(key) else { break };
            self.append_output(key, &block);
        }
        self.drop_unused_subscriptions(key);
    }

    pub(in crate::logic::multiplexer) fn close_slow_subscriber(&mut self, key: SessionKey) {
        self.counters.slow_subscribers += 1;
        self.remove_session(key, CloseReason::SlowSubscriber);
    }

    /// Closes subscribers that have been behind for too long.
    pub(in crate::logic::multiplexer) fn close_slow_subscribers(&mut self, now: Instant) {
        for key in self.subscribers() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let unread = session.output.len();
            let Some(subscriptions) = session.subscriptions.as_mut() else { continue };
            if !subscriptions.outbox.is_empty() && subscriptions.outbox.is_exceeded(unread, &Bounds::DEFAULT, now) {
                self.close_slow_subscriber(key);
            }
        }
    }
}
