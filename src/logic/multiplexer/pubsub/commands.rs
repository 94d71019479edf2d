//! A client's SUBSCRIBE and UNSUBSCRIBE in all forms: what is asked for, and what is confirmed.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::frames::confirmed_name;
use super::{Change, Kind};
use crate::command::refusal::Refusal;
use crate::command::table::{Answered, Class};
use crate::logic::multiplexer::link::RunKind;
use crate::logic::multiplexer::requests::{Request, Step};
use crate::logic::multiplexer::session::{CloseReason, Wait};
use crate::logic::multiplexer::{LinkKey, Multiplexer, SessionKey};
use crate::resp::arguments::Arguments;
use crate::resp::encode;

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
            Class::Answered(
                answered @ (Answered::Quit
                | Answered::Reset
                | Answered::Subscribe
                | Answered::Unsubscribe
                | Answered::PSubscribe
                | Answered::PUnsubscribe
                | Answered::SSubscribe
                | Answered::SUnsubscribe),
            ) => self.take_answered(key, answered, request, now),
            _ if request.is_of_wrong_length() => self.refuse_arity(key, request, now),
            _ => {
                let name = self.command_name(request);
                self.refuse(key, &Refusal::Subscribed(name), now);
                Step::Done { bytes: request.bytes }
            }
        }
    }

    /// One of the SUBSCRIBE and UNSUBSCRIBE forms.
    pub(in crate::logic::multiplexer) fn take_subscription(
        &mut self,
        key: SessionKey,
        kind: Kind,
        subscribe: bool,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let Some(session) = self.sessions.get_mut(key) else { return Step::Wait };
        let names: VecDeque<Bytes> = Arguments::new(request.frame).skip(1).map(Bytes::copy_from_slice).collect();
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        if !subscribe && session.subscriptions.is_none() {
            self.confirm_nothing(key, kind, &names);
            return Step::Done { bytes: request.bytes };
        }
        let Some(link) = self.subscription_link(key, now) else { return Step::Wait };
        self.change_subscriptions(key, link, kind, subscribe, names, request.frame, now);
        Step::Done { bytes: request.bytes }
    }

    /// Leaving what was never subscribed to is confirmed without a backend.
    pub(super) fn confirm_nothing(&mut self, key: SessionKey, kind: Kind, names: &VecDeque<Bytes>) {
        let protocol = self.sessions.get(key).map(|session| session.profile.protocol).unwrap_or_default();
        let word = kind.command(false).to_lowercase();
        let confirm = |out: &mut BytesMut, name: Option<&Bytes>| {
            encode::push(out, protocol, 3);
            encode::bulk(out, word.as_bytes());
            match name {
                Some(name) => encode::bulk(out, name),
                None => encode::null(out, protocol),
            }
            encode::integer(out, 0);
        };
        let mut confirmations = BytesMut::new();
        match names.is_empty() {
            true => confirm(&mut confirmations, None),
            false => names.iter().for_each(|name| confirm(&mut confirmations, Some(name))),
        }
        // Nothing is due, and what is pushed reaches those who want no replies.
        self.append_output(key, &confirmations);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one command")]
    pub(super) fn change_subscriptions(
        &mut self,
        key: SessionKey,
        link: LinkKey,
        kind: Kind,
        subscribe: bool,
        names: VecDeque<Bytes>,
        frame: &[u8],
        now: Instant,
    ) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        let due = match names.is_empty() {
            true => subscriptions.count_of(kind).max(1),
            false => names.len(),
        };
        subscriptions.changes.push_back(Change { kind, subscribe, names, due });
        self.send_subscription(link, key, due, false, frame, now);
        self.wait(key, Wait::Confirmation, now);
    }

    /// One confirmation of the client's own command came.
    pub(super) fn confirm_change(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        let Some(change) = subscriptions.changes.front_mut() else { return };
        let wanted = &mut subscriptions.wanted[change.kind as usize];
        match (change.names.pop_front(), change.subscribe) {
            (Some(name), true) => drop(wanted.insert(name)),
            (Some(name), false) => drop(wanted.remove(&name)),
            (None, _) if change.due == 1 => wanted.clear(),
            (None, _) => drop(confirmed_name(frame).map(|name| wanted.remove(name))),
        }
        change.due -= 1;
        if change.due == 0 {
            subscriptions.changes.pop_front();
            self.finish_change(key, now);
        }
    }

    /// A client's command has all its confirmations: what it sent behind it goes on.
    pub(super) fn finish_change(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_ref() else { return };
        if !subscriptions.changes.is_empty() {
            return;
        }
        if subscriptions.count() == 0 && !subscriptions.is_target {
            self.drop_subscriptions(key);
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if matches!(session.wait, Some((Wait::Confirmation, _))) {
            session.wait = None;
        }
        if session.half_closed {
            return self.end(key, CloseReason::ClientClosed);
        }
        self.settled.push(key);
        self.advance_session(key, now);
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
        let is_muted = self.sessions.get(key).is_some_and(|session| session.reply_mode.is_muted());
        if restoring || !is_muted {
            self.deliver_message(key, frame, now);
        }
        if restoring {
            // It cannot have here what it had: what is left is what the backend confirmed.
            return self.end(key, CloseReason::ClientLost);
        }
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            subscriptions.changes.pop_front();
        }
        self.finish_change(key, now);
    }
}
