//! HELLO that changes the RESP version of a session with connections of its own: they change before it is answered,
//! so that everything before the answer has the old form and everything behind it the new one.

use std::time::Instant;

use bytes::BytesMut;

use super::answers::Hello;
use super::link::{Role, RunKind};
use super::requests::{Request, Step};
use super::session::Wait;
use super::{LinkKey, Multiplexer, SessionKey};
use crate::resp::encode::{self, Protocol};
use crate::resp::reply::ReplyKind;

/// A HELLO whose answer waits for the session's connections.
#[derive(Debug)]
pub struct ProtocolChange {
    hello: Hello,
    before: Protocol,
}

impl Multiplexer {
    /// Asks the session's own connections for another protocol. Name and password are the client's own affair: the
    /// backend hears of the protocol alone.
    pub(super) fn change_protocol(
        &mut self,
        key: SessionKey,
        hello: Hello,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        let (is_subscriber, owns_link) =
            (session.needs_subscription_link(), session.pin.is_some() || session.peer.dedicated);
        let subscription = if is_subscriber { self.subscription_link(key, now) } else { None };
        if is_subscriber && subscription.is_none() {
            return Step::Wait;
        }
        let pin = if owns_link { self.own_link(key, now) } else { None };
        if owns_link && pin.is_none() {
            return Step::Wait;
        }
        // It is opened again, with the other protocol.
        self.drop_subscription_standby(key, std::time::Duration::ZERO, now);
        let mut frame = BytesMut::new();
        encode::request(&mut frame, &["HELLO", &hello.protocol.number().to_string()]);
        for link_key in subscription.into_iter().chain(pin) {
            if let Some(link) = self.links.get_mut(link_key) {
                link.profile.protocol = hello.protocol;
            }
            self.send_own(link_key, RunKind::Protocol(key), &frame, now);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            let before = std::mem::replace(&mut session.profile.protocol, hello.protocol);
            session.taint_pin();
            session.protocol_change = Some(Box::new(ProtocolChange { hello, before }));
        }
        self.wait(key, Wait::Confirmation, now);
        Step::Done { bytes: request.bytes }
    }

    /// A connection answered HELLO.
    pub(super) fn on_protocol(&mut self, link: LinkKey, key: SessionKey, frame: &[u8], kind: ReplyKind, now: Instant) {
        self.finish_own(link, now);
        if kind != ReplyKind::Error {
            return self.greet_if_changed(key, now);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(change) = session.protocol_change.take() else { return };
        session.profile.protocol = change.before;
        if let Some(link) = self.links.get_mut(link) {
            link.profile.protocol = change.before;
        }
        self.answer(key, |out| out.extend_from_slice(frame), now);
        self.resume_after_hello(key);
    }

    /// Answers HELLO once none of the session's connections has to change any more: a lost one comes back changed.
    pub(super) fn greet_if_changed(&mut self, key: SessionKey, now: Instant) {
        let is_due = |(_, link): (LinkKey, &super::Link)| {
            matches!(link.role, Role::Pin(Some(owner)) | Role::Subscription(owner) if owner == key)
                && link.runs().iter().any(|run| matches!(run.kind, RunKind::Protocol(_)))
        };
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.protocol_change.is_some()) else {
            return;
        };
        if self.links.iter().any(is_due) {
            return;
        }
        if let Some(change) = session.protocol_change.take() {
            self.greet(key, change.hello, now);
            self.resume_after_hello(key);
        }
    }

    fn resume_after_hello(&mut self, key: SessionKey) {
        self.drop_unused_subscriptions(key);
        if let Some(session) = self.sessions.get_mut(key) {
            session.wait = None;
            self.settled.push(key);
        }
    }
}
