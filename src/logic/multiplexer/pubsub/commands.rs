//! A client's SUBSCRIBE and UNSUBSCRIBE in all forms: what is asked for, and what is confirmed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Subscriptions;
use super::frames::{confirmed_name, write_confirmation, write_request};
use super::registry::{Kind, Registry};
use crate::command::refusal::Refusal;
use crate::command::table::{Answered, Class};
use crate::logic::multiplexer::link::RunKind;
use crate::logic::multiplexer::replies::cannot_serve;
use crate::logic::multiplexer::requests::{Request, Step};
use crate::logic::multiplexer::session::{CloseReason, Wait};
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};
use crate::resp::arguments::Arguments;
use crate::resp::{encode, reply};

/// Commands of one client that wait for confirmations; what it sends behind them waits.
const UNCONFIRMED_MAX: usize = 4096;

impl Multiplexer {
    /// What a RESP2 subscriber may send.
    pub(in crate::logic::multiplexer) fn take_subscribed(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        class: Class,
        now: Instant,
    ) -> Step {
        match class {
            Class::Answered(Answered::Ping) => {
                let mut arguments = Arguments::new(request.frame);
                if arguments.remaining() > 2 {
                    self.refuse(key, &Refusal::WrongArity("ping".to_owned()), now);
                    return Step::Done { bytes: request.bytes };
                }
                let payload = arguments.nth(1).unwrap_or_default().to_vec();
                self.answer(
                    key,
                    |out| {
                        encode::array(out, 2);
                        encode::bulk(out, b"pong");
                        encode::bulk(out, &payload);
                    },
                    now,
                );
                Step::Done { bytes: request.bytes }
            }
            Class::Answered(answered @ (Answered::Quit | Answered::Reset)) => {
                self.take_answered(key, answered, request, now)
            }
            Class::Answered(answered) if subscribes(class) => self.take_answered(key, answered, request, now),
            _ if request.is_of_wrong_length() => self.refuse_arity(key, request, now),
            _ => {
                let name = self.command_name(request);
                self.refuse(key, &Refusal::Subscribed(name), now);
                Step::Done { bytes: request.bytes }
            }
        }
    }

    /// One of the SUBSCRIBE and UNSUBSCRIBE forms. Those that follow each other are not waited for; all else that the
    /// client sends behind them is.
    pub(in crate::logic::multiplexer) fn take_subscription(
        &mut self,
        key: SessionKey,
        kind: Kind,
        subscribe: bool,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let Some(session) = self.sessions.get_mut(key) else { return Step::Wait };
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        let names: VecDeque<Bytes> = Arguments::new(request.frame).skip(1).map(Bytes::copy_from_slice).collect();
        let is_single = session.reply_mode.is_single();
        let Some(subscriptions) = session.subscriptions.as_ref() else {
            match subscribe {
                true => {
                    let is_shared = self.may_share_subscriptions(key);
                    self.begin_subscribing(key, is_shared);
                }
                false => self.leave_nothing(key, kind, names, now),
            }
            // Looked at once more, with a registry.
            return if subscribe {
                self.take_subscription(key, kind, subscribe, request, now)
            } else {
                Step::Done { bytes: request.bytes }
            };
        };
        let registry = &subscriptions.registry;
        let must_wait = registry.pending() >= UNCONFIRMED_MAX || names.is_empty() || is_single;
        if !registry.is_settled() && must_wait {
            self.wait(key, Wait::Confirmation, now);
            return Step::Wait;
        }
        let is_left_locally = !subscribe && registry.is_settled() && !registry.needs_server();
        let needs_server = !is_left_locally
            && match names.is_empty() {
                true => registry.names(kind).next().is_some(),
                false => names.iter().any(|name| !kind.is_own(name)),
            };
        if self.asks_for_its_own(key, kind, &names) {
            self.move_out(key);
        }
        if needs_server && self.sessions.get(key).is_some_and(super::Session::shares) {
            if !self.is_serving() {
                self.wait(key, Wait::Lane, now);
                return Step::Wait;
            }
            self.change_shared(key, kind, subscribe, names, now);
            return Step::Done { bytes: request.bytes };
        }
        let link = if needs_server { self.subscription_link(key, now) } else { None };
        if needs_server && link.is_none() {
            return Step::Wait;
        }
        self.change_subscriptions(key, link, kind, subscribe, names, now);
        Step::Done { bytes: request.bytes }
    }

    fn begin_subscribing(&mut self, key: SessionKey, is_shared: bool) {
        if let Some(subscriptions) = self.subscriptions_of(key) {
            *subscriptions = Subscriptions { is_shared, ..Subscriptions::default() };
        }
    }

    /// Leaving what was never subscribed to is confirmed without a backend.
    fn leave_nothing(&mut self, key: SessionKey, kind: Kind, names: VecDeque<Bytes>, now: Instant) {
        let protocol = self.sessions.get(key).map(|session| session.profile.protocol).unwrap_or_default();
        let mut registry = Registry::default();
        let mut frames = BytesMut::new();
        let due = registry.begin(kind, false, names).map_or(0, |request| request.due);
        for _ in 0..=due {
            while let Some(confirmation) = registry.next_own() {
                write_confirmation(&mut frames, &confirmation, protocol);
            }
            if let Some(confirmation) = registry.confirm(None) {
                write_confirmation(&mut frames, &confirmation, protocol);
            }
        }
        // Nothing is due, and what is pushed reaches those who want no replies.
        self.deliver_confirmation(key, &frames, now);
    }

    /// Carries out a command; without a connection everything of it is Handover's own affair.
    fn change_subscriptions(
        &mut self,
        key: SessionKey,
        link: Option<LinkKey>,
        kind: Kind,
        subscribe: bool,
        names: VecDeque<Bytes>,
        now: Instant,
    ) {
        let (is_muted, epoch) = match self.sessions.get(key) {
            Some(session) => (session.reply_mode.is_muted(), self.route.epoch),
            None => return,
        };
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        let request = subscriptions.registry.begin(kind, subscribe, names);
        if !subscriptions.needs_server() {
            subscriptions.epoch.get_or_insert(epoch);
        }
        let standby = subscriptions.standby.link();
        match (request, link) {
            (Some(request), Some(link)) => {
                let mut frame = BytesMut::new();
                write_request(&mut frame, &request);
                self.send_subscription(link, key, request.due, false, &frame, now);
                self.mirror_subscription(standby, key, request.due, &frame, now);
                self.tell_own(key, now);
            }
            (request, _) => {
                self.tell_own(key, now);
                for _ in 0..request.map_or(0, |request| request.due) {
                    self.confirm(key, None, now);
                }
            }
        }
        let is_settled = self.sessions.get(key).is_some_and(super::Session::is_settled);
        if is_settled {
            self.finish_change(key);
        } else if is_muted {
            self.wait(key, Wait::Confirmation, now);
        }
    }

    /// The standby's connection gets what the active's does; one that is not open yet is given everything then.
    fn mirror_subscription(
        &mut self,
        standby: Option<LinkKey>,
        key: SessionKey,
        due: usize,
        frame: &[u8],
        now: Instant,
    ) {
        let is_open = |link: &LinkKey| {
            self.links.get(*link).is_some_and(|link| link.state == crate::logic::multiplexer::LinkState::Ready)
        };
        if let Some(standby) = standby.filter(is_open) {
            self.send_subscription(standby, key, due, true, frame, now);
        }
    }

    /// A server confirmed one thing of the client's own command.
    pub(super) fn confirm_change(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        self.confirm(key, confirmed_name(frame), now);
        if self.sessions.get(key).is_some_and(super::Session::is_settled) {
            self.finish_change(key);
        }
    }

    pub(super) fn confirm(&mut self, key: SessionKey, name: Option<&[u8]>, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        if let Some(confirmation) = subscriptions.registry.confirm(name) {
            if session.is_reader() {
                let name = confirmation.name.unwrap_or_default();
                return self.on_reader_confirmed(key, &name, now);
            }
            let mut frame = BytesMut::new();
            write_confirmation(&mut frame, &confirmation, session.profile.protocol);
            self.deliver_confirmation(key, &frame, now);
            self.tell_own(key, now);
        }
    }

    /// Confirms what needs no server, as far as its turn has come.
    pub(super) fn tell_own(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        let mut frames = BytesMut::new();
        while let Some(confirmation) = subscriptions.registry.next_own() {
            write_confirmation(&mut frames, &confirmation, session.profile.protocol);
        }
        if !frames.is_empty() {
            self.deliver_confirmation(key, &frames, now);
        }
    }

    /// All of a client's commands have their confirmations: what it sent behind them goes on.
    pub(super) fn finish_change(&mut self, key: SessionKey) {
        self.drop_unused_subscriptions(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if matches!(session.wait, Some((Wait::Confirmation, _))) {
            session.wait = None;
        }
        if session.half_closed {
            return self.end(key, CloseReason::ClientClosed);
        }
        self.settled.push(key);
    }

    /// The backend refuses a subscription: the client is told, nobody else.
    pub(super) fn on_subscription_refused(&mut self, link_key: LinkKey, key: SessionKey, frame: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(link_key) else { return };
        let Some(run) = link.front() else {
            return self.lose_link(link_key, "an error that nobody asked for", now);
        };
        let (due, restoring) = (run.unanswered(), run.kind == RunKind::Confirm { restoring: true });
        link.answer(due);
        if self.is_superseded(key, link_key) {
            return;
        }
        let subscriptions = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref());
        if subscriptions.is_some_and(|subscriptions| subscriptions.standby.link() == Some(link_key)) {
            return self.on_standby_refused(key, now);
        }
        if restoring && cannot_serve(reply::first_word(frame)).is_some() {
            // It says nothing of the subscription: tried again.
            return self.lose_link(link_key, "subscriptions cannot be served", now);
        }
        let is_reader = self.sessions.get(key).is_some_and(super::Session::is_reader);
        if restoring && is_reader {
            // Each of its clients asks for itself, and hears of its own.
            return self.remove_session(key, CloseReason::ClientLost);
        }
        if restoring {
            self.deliver_confirmation(key, frame, now);
            // It cannot have here what it had: its library subscribes anew, and hears of each.
            return self.end(key, CloseReason::ClientLost);
        }
        // The standby has accepted what does not hold.
        self.drop_subscription_standby(key, Duration::ZERO, now);
        self.refuse_subscription(key, frame, now);
        if is_reader {
            self.on_reader_refused(key, frame, now);
        }
    }

    /// A client's command came to nothing.
    pub(super) fn refuse_subscription(&mut self, key: SessionKey, error: &[u8], now: Instant) {
        if self.sessions.get(key).is_some_and(|session| !session.reply_mode.is_muted()) {
            self.deliver_confirmation(key, error, now);
        }
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.registry.refuse();
        }
        self.tell_own(key, now);
        if self.sessions.get(key).is_some_and(super::Session::is_settled) {
            self.finish_change(key);
        }
    }
}

/// One of the SUBSCRIBE and UNSUBSCRIBE forms.
pub(in crate::logic::multiplexer) const fn subscribes(class: Class) -> bool {
    matches!(
        class,
        Class::Answered(
            Answered::Subscribe
                | Answered::Unsubscribe
                | Answered::PSubscribe
                | Answered::PUnsubscribe
                | Answered::SSubscribe
                | Answered::SUnsubscribe
        )
    )
}
