//! What a session has set up on its own connection, and what sets the same up on the next one.

use std::time::Instant;

use bytes::Bytes;

use super::link::{Inspect, RunKind};
use super::requests::{Request, Step};
use super::tracking::Tracking;
use super::{LinkKey, Multiplexer, Session, SessionKey};
use crate::command::table::Pinned;
use crate::resp::arguments::Arguments;

/// Field sets that are prepared again elsewhere, for one session.
const FIELD_SETS_MAX: usize = 64;
/// Bytes of them.
const FIELD_SET_BYTES_MAX: usize = 64 * 1024;

/// What a session keeps on its pin.
#[derive(Debug, Default)]
pub struct State {
    /// CLIENT TRACKING.
    pub(super) tracking: Option<Tracking>,
    /// CLIENT NO-TOUCH.
    is_no_touch: bool,
    /// HIMPORT PREPARE: the name of each field set and the request that prepared it.
    field_sets: Vec<(Bytes, Bytes)>,
}

/// What an accepted request does to a session's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// CLIENT NO-TOUCH.
    NoTouch(bool),
    /// HIMPORT PREPARE, by this request.
    Prepare(Bytes),
    /// HIMPORT DISCARD of this name.
    Discard(Bytes),
    /// HIMPORT DISCARDALL.
    DiscardAll,
}

impl State {
    const fn is_empty(&self) -> bool {
        self.tracking.is_none() && !self.is_no_touch && self.field_sets.is_empty()
    }

    fn apply(&mut self, change: &StateChange) {
        match change {
            StateChange::NoTouch(is_on) => self.is_no_touch = *is_on,
            StateChange::Prepare(request) => {
                let Some(name) = Arguments::new(request).nth(2).map(Bytes::copy_from_slice) else { return };
                self.field_sets.retain(|(known, _)| *known != name);
                let bytes: usize = self.field_sets.iter().map(|(_, request)| request.len()).sum();
                if self.field_sets.len() < FIELD_SETS_MAX && bytes + request.len() <= FIELD_SET_BYTES_MAX {
                    self.field_sets.push((name, request.clone()));
                }
            }
            StateChange::Discard(name) => self.field_sets.retain(|(known, _)| known != name),
            StateChange::DiscardAll => self.field_sets.clear(),
        }
    }
}

impl Session {
    /// Forgets state that says nothing, so that the pin may be given back.
    pub(super) fn drop_empty_state(&mut self) {
        if self.state.as_ref().is_some_and(|state| state.is_empty()) {
            self.state = None;
        }
    }

    /// Something on its pin goes on without its doing: MONITOR, or what is set up there.
    pub(super) fn keeps_pin(&self) -> bool {
        self.state.is_some() || self.pin.as_ref().is_some_and(|pin| pin.monitoring)
    }
}

impl Multiplexer {
    /// A request that leaves something on its connection: CLIENT TRACKING, CACHING, NO-TOUCH; HIMPORT.
    pub(super) fn take_stateful(
        &mut self,
        key: SessionKey,
        pinned: Pinned,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let name = request.classified.command.map_or("", |command| command.name);
        let argument = || Bytes::copy_from_slice(Arguments::new(request.frame).nth(2).unwrap_or_default());
        let change = match (pinned, name) {
            (_, "client|tracking") => return self.take_tracking(key, request, now),
            (_, "client|caching") => return self.take_caching(key, request, now),
            (_, "client|no-touch") => StateChange::NoTouch(argument().eq_ignore_ascii_case(b"ON")),
            (_, "himport|prepare") => StateChange::Prepare(Bytes::copy_from_slice(request.frame)),
            (_, "himport|discard") => StateChange::Discard(argument()),
            (_, "himport|discardall") => StateChange::DiscardAll,
            _ => return self.forward_tainted(key, request, RunKind::Forward, now),
        };
        self.forward_tainted(key, request, RunKind::Inspect(Inspect::State(change)), now)
    }

    /// A request that changes a session's state was accepted.
    pub(super) fn accept_change(&mut self, key: SessionKey, change: &StateChange) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.state.get_or_insert_default().apply(change);
            session.drop_empty_state();
        }
    }

    /// Sets up on a connection what its session keeps there, unless that is done; false while it cannot be.
    pub(super) fn set_up(&mut self, key: SessionKey, link: LinkKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        if session.pin.as_ref().is_none_or(|pin| pin.set_up == Some(link)) {
            return true;
        }
        if session.state.is_some() && !self.set_up_state(key, link, now) {
            return false;
        }
        if let Some(pin) = self.sessions.get_mut(key).and_then(|session| session.pin.as_mut()) {
            pin.set_up = Some(link);
        }
        true
    }

    fn set_up_state(&mut self, key: SessionKey, link: LinkKey, now: Instant) -> bool {
        if !self.track_again(key, link, false, now) {
            return false;
        }
        let Some(session) = self.sessions.get_mut(key) else { return false };
        session.taint_pin();
        let Some(state) = &session.state else { return true };
        let is_no_touch = state.is_no_touch;
        let prepared: Vec<Bytes> = state.field_sets.iter().map(|(_, request)| request.clone()).collect();
        if is_no_touch {
            self.send_own(link, RunKind::Ignored, b"*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-TOUCH\r\n$2\r\nON\r\n", now);
        }
        prepared.iter().for_each(|request| self.send_own(link, RunKind::Ignored, request, now));
        true
    }

    /// Everything that a session kept on its connection is forgotten.
    pub(super) fn drop_state(&mut self, key: SessionKey) {
        let state = self.sessions.get_mut(key).and_then(|session| session.state.take());
        self.release_target(state.and_then(|state| state.redirect()));
    }
}
