//! What comes on a connection for subscriptions, on its way to the client.

use std::time::Instant;

use super::frames::is_confirmation;
use crate::logic::multiplexer::link::{Link, RunKind};
use crate::logic::multiplexer::session::Session;
use crate::logic::multiplexer::wait::is_mark;
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};
use crate::resp::reply::ReplyKind;

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
        let front = self.links.get(link).and_then(Link::front);
        if kind != ReplyKind::Push && front.is_some_and(|run| matches!(run.kind, RunKind::Protocol(_))) {
            return self.on_protocol(link, key, frame, kind, now);
        }
        let delivers = self.sessions.get(key).is_some_and(|session| session.subscription_link() == Some(link));
        if kind == ReplyKind::Error {
            return self.on_subscription_refused(link, key, frame, now);
        }
        if !is_confirmation(frame) {
            if delivers && !is_mark(frame) {
                self.counters.messages += 1;
                self.deliver_message(key, frame, now);
            }
            return;
        }
        let Some(RunKind::Confirm { restoring }) =
            self.links.get(link).and_then(Link::front).map(|run| run.kind.clone())
        else {
            return self.lose_link(link, "a confirmation that nobody asked for", now);
        };
        if let Some(link) = self.links.get_mut(link) {
            link.answer(1);
        }
        if restoring {
            return self.take_over_if_restored(key, link, now);
        }
        if self.is_superseded(key, link) {
            return;
        }
        self.deliver_message(key, frame, now);
        self.confirm_change(key, frame, now);
    }

    /// A message goes to the client, but never into the middle of a reply.
    pub(in crate::logic::multiplexer) fn deliver_message(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_streaming = session
            .link
            .and_then(|link| self.links.get(link))
            .is_some_and(|link| link.streaming && link.front().is_some_and(|run| run.session == Some(key)));
        if is_streaming && let Some(subscriptions) = session.subscriptions.as_mut() {
            subscriptions.deferred.extend_from_slice(frame);
            let link =
                subscriptions.link.filter(|_| subscriptions.deferred.len() > self.settings.limits.output_bytes_max);
            if let Some(link) = link {
                self.pause_link(link, key, now);
            }
            return;
        }
        self.append_output(key, frame);
        if let Some(link) = self.sessions.get(key).and_then(Session::subscription_link) {
            self.hold_back(link, key, now);
        }
    }

    /// Messages that had to wait for the end of a long reply.
    pub(in crate::logic::multiplexer) fn deliver_deferred(&mut self, key: SessionKey) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if !subscriptions.deferred.is_empty() {
            let messages = std::mem::take(&mut subscriptions.deferred);
            self.append_output(key, &messages);
        }
    }
}
