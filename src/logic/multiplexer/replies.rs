//! A backend's bytes on their way: each reply finds its client, in the order in which the requests went.

use std::time::Instant;

use super::counters::ProtocolFault;
use super::link::{Inspect, Link, Role, Run, RunKind, Taken};
use super::session::{BrokenEnd, CloseReason, Pending, Transaction};
use super::{LANE_BYTES_MAX, LinkKey, Multiplexer, STREAM_BYTES, SessionKey, borrow_buffer};
use crate::command::refusal::Refusal;
use crate::command::retry::{self, Category};
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::reply::{self, ReplyKind, ReplyScan, ReplyScanner};

impl Multiplexer {
    /// A backend sent bytes.
    pub fn on_link_bytes(&mut self, key: LinkKey, bytes: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.proven = true;
        let backend = link.backend;
        let joined = link.unstash(bytes);
        let scanned = link.scanned();
        self.hear(backend, now);
        let input = joined.as_deref().unwrap_or(bytes);
        if let Some((rest, scanned)) = self.take_replies(key, input, scanned, now) {
            self.keep_partial(key, rest, scanned, now);
        }
        self.after_replies(key, now);
    }

    /// A byte came from a backend: whatever was kept from it because of its silence may go.
    fn hear(&mut self, backend: super::BackendId, now: Instant) {
        let was_suspect = self.is_suspect(backend, now);
        self.record(backend).heard_at = Some(now);
        if was_suspect {
            for key in self.links.keys() {
                self.mark_link_to_write(key);
            }
        }
    }

    /// Deals with every whole reply; returns what is left, unless the connection had to be closed.
    fn take_replies<'a>(
        &mut self,
        key: LinkKey,
        input: &'a [u8],
        mut scanned: usize,
        now: Instant,
    ) -> Option<(&'a [u8], usize)> {
        let mut rest = input;
        while !rest.is_empty() {
            match self.links.get_mut(key)?.take(rest, scanned) {
                Taken::Batch { bytes, replies } => {
                    self.deliver(key, &rest[..bytes], replies, now);
                    rest = &rest[bytes..];
                }
                Taken::Single { bytes, kind } => {
                    self.take_single(key, &rest[..bytes], kind, now);
                    rest = &rest[bytes..];
                }
                Taken::Partial { scanned } => return Some((rest, scanned)),
                Taken::Invalid(reason) => {
                    self.counters.protocol_faults[ProtocolFault::BackendFrame as usize] += 1;
                    self.lose_link(key, reason, now);
                    return None;
                }
            }
            scanned = 0;
        }
        Some((rest, 0))
    }

    /// Keeps the start of a reply; of a long one passes on what is there.
    fn keep_partial(&mut self, key: LinkKey, rest: &[u8], scanned: usize, now: Instant) {
        let Some(link) = self.links.get(key) else { return };
        let is_long = link.streaming || rest.len() > STREAM_BYTES;
        let reader = link.front().filter(|run| is_long && self.can_stream(run)).and_then(|run| run.session);
        let kept = match reader {
            Some(session) => {
                if let Some(link) = self.links.get_mut(key) {
                    link.streaming = true;
                    let proofs = link.proofs;
                    self.note_served(session, proofs);
                }
                self.append_reply(session, &rest[..scanned]);
                self.hold_back(key, session, now);
                (&rest[scanned..], 0)
            }
            None => (rest, scanned),
        };
        if let Some(link) = self.links.get_mut(key) {
            link.keep(kept.0, kept.1);
        }
    }

    /// Whether a reply can be passed on before it is whole: nobody here has to look at it.
    fn can_stream(&self, run: &Run) -> bool {
        let selects = |key| {
            self.sessions
                .get(key)
                .is_some_and(|session| matches!(session.transaction, Transaction::Queuing { selected: true, .. }))
        };
        match run.kind {
            RunKind::Forward | RunKind::Blocking { .. } => true,
            RunKind::Inspect(Inspect::Exec) => !run.session.is_some_and(selects),
            _ => false,
        }
    }

    /// What follows from replies having come: room in the lane, sessions whose last reply it was, a drain.
    fn after_replies(&mut self, key: LinkKey, now: Instant) {
        let mut roomy = false;
        if let Some(link) = self.links.get_mut(key) {
            link.heard(now);
            roomy = link.retained().len() <= LANE_BYTES_MAX / 2;
        }
        self.advance_settled(now);
        if self.crowded && roomy {
            self.crowded = false;
            self.advance_waiting(now);
        }
        self.check_drained();
    }

    pub(super) fn append_output(&mut self, key: SessionKey, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        borrow_buffer(&mut self.spare, &mut session.output);
        session.output.extend_from_slice(bytes);
        self.mark_to_write(key);
    }

    /// What a command answered; a client that wants no replies does not get it.
    pub(super) fn append_reply(&mut self, key: SessionKey, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.reply_mode.is_muted()) else { return };
        borrow_buffer(&mut self.spare, &mut session.output);
        session.output.extend_from_slice(bytes);
        self.mark_to_write(key);
    }

    /// Passes whole replies on to the client whose requests are at the front.
    fn deliver(&mut self, key: LinkKey, replies: &[u8], count: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        let Some(front) = link.front() else { return };
        let (session_key, started_at) = (front.session, front.at);
        let finished = link.answer(count);
        let (backend, is_pin, proofs) = (link.backend, matches!(link.role, Role::Pin(_)), link.proofs);
        match is_pin {
            true => self.counters.replies_pinned += u64::from(count),
            false => self.counters.replies_shared += u64::from(count),
        }
        self.record(backend).successes += u64::from(count);
        self.budget.pay(f64::from(count) * self.settings.retry.budget);
        if let Some(session_key) = session_key {
            self.settle_due(session_key, count);
            self.note_served(session_key, proofs);
            self.append_reply(session_key, replies);
            self.deliver_deferred(session_key);
            self.hold_back(key, session_key, now);
        }
        if let Some(run) = finished {
            self.finish_run(key, &run, started_at, now);
        }
    }

    /// So many requests of a session were answered.
    pub(super) fn settle_due(&mut self, key: SessionKey, count: u32) {
        self.in_flight = self.in_flight.saturating_sub(count as usize);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.due -= count;
        session.burst_answered = true;
        if session.due == 0 {
            self.settled.push(key);
        } else if session.paused {
            self.update_reading(key);
        }
    }

    /// Who reads replies of a connection that turns out to be out of step may have read somebody else's.
    fn note_served(&mut self, key: SessionKey, proofs: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.served = Some(proofs);
        }
    }

    /// Stops reading a link whose client does not read.
    pub(super) fn hold_back(&mut self, link_key: LinkKey, key: SessionKey, now: Instant) {
        let output_bytes_max = self.settings.limits.output_bytes_max;
        if self.sessions.get(key).is_some_and(|session| session.output.len() > output_bytes_max) {
            self.pause_link(link_key, key, now);
            self.update_reading(key);
        }
    }

    fn finish_run(&mut self, key: LinkKey, run: &Run, started_at: Instant, now: Instant) {
        let took = now.saturating_duration_since(started_at);
        let is_pin = self.links.get(key).is_some_and(|link| matches!(link.role, Role::Pin(_)));
        let latency = if is_pin { &mut self.counters.latency_pinned } else { &mut self.counters.latency_shared };
        latency.count(took, run.commands);
        if let Some(link) = self.links.get(key) {
            let backend = link.backend;
            if !matches!(run.kind, RunKind::Blocking { .. }) {
                let record = self.record(backend);
                record.reply_time = (record.reply_time * 15 + took) / 16;
            }
        }
        self.deliver_locals(key);
        let next = self.links.get(key).and_then(|link| link.front()?.session);
        if let Some(next) = next.filter(|&next| self.sessions.get(next).is_some_and(|session| session.half_closed)) {
            // It may be blocked now, with nobody there any more.
            self.settled.push(next);
        }
    }

    /// Delivers Handover's own replies whose turn has come.
    pub(super) fn deliver_locals(&mut self, key: LinkKey) {
        while let Some(run) = self.links.get_mut(key).and_then(Link::pop_local) {
            if let (Some(session_key), RunKind::Local(reply)) = (run.session, run.kind)
                && let Some(session) = self.sessions.get_mut(session_key)
            {
                session.due -= 1;
                if session.due == 0 {
                    self.settled.push(session_key);
                }
                self.append_output(session_key, &reply);
            }
        }
    }

    /// One reply or push that wants a look.
    fn take_single(&mut self, key: LinkKey, frame: &[u8], kind: ReplyKind, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.forget_scanned();
        if let Role::Subscription(session) = link.role {
            return self.on_subscription_frame(key, session, frame, kind, now);
        }
        if kind == ReplyKind::Push {
            return self.on_push(key, frame);
        }
        let is_written = link.due_written() > 0;
        let Some(front) = link.front().filter(|_| is_written) else {
            return self.on_unasked(key, frame, now);
        };
        match front.kind.clone() {
            RunKind::Local(_) => self.on_unasked(key, frame, now),
            RunKind::Echo(expected) => self.on_echo(key, frame == &expected[..], frame, now),
            RunKind::Ignored | RunKind::Confirm { .. } => {
                self.finish_own(key, now);
            }
            RunKind::Forward if kind == ReplyKind::Error => self.on_error(key, frame, now),
            RunKind::Forward => self.deliver(key, frame, 1, now),
            RunKind::Conditional if retry::condition_failed(frame) || is_not_applied(frame) => {
                self.deliver_uncertain(key, now);
            }
            RunKind::Conditional => self.deliver(key, frame, 1, now),
            RunKind::Blocking { deadline } => self.on_unblocked(key, frame, deadline, now),
            RunKind::Inspect(inspect) => {
                let session = front.session;
                if let Some(session) = session {
                    self.inspect(session, &inspect, frame, kind);
                }
                self.deliver(key, frame, 1, now);
            }
        }
    }

    /// A push on a lane or pin: only a pin's client can have asked for it.
    fn on_push(&mut self, key: LinkKey, frame: &[u8]) {
        if let Some(Role::Pin(Some(session))) = self.links.get(key).map(|link| link.role) {
            self.append_output(session, frame);
        }
    }

    /// A reply that nobody asked for: a monitoring client's line, or a connection that is out of step.
    fn on_unasked(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        if let Some(Role::Pin(Some(session_key))) = self.links.get(key).map(|link| link.role)
            && self.sessions.get(session_key).and_then(|session| session.pin).is_some_and(|pin| pin.monitoring)
        {
            return self.append_reply(session_key, frame);
        }
        self.counters.protocol_faults[ProtocolFault::BackendUnsolicited as usize] += 1;
        self.lose_link(key, "a reply that nobody asked for", now);
    }

    /// A request of Handover's own was answered.
    fn finish_own(&mut self, key: LinkKey, now: Instant) {
        if let Some(link) = self.links.get_mut(key)
            && let Some(run) = link.answer(1)
        {
            self.finish_run(key, &run, run.at, now);
        }
    }

    /// The reply to Handover's own ECHO.
    fn on_echo(&mut self, key: LinkKey, is_exact: bool, frame: &[u8], now: Instant) {
        self.finish_own(key, now);
        let Some(role) = self.links.get(key).map(|link| link.role) else { return };
        match (role, is_exact) {
            (Role::Pin(None), true) => self.pool_pin(key, now),
            (_, true) => {
                if let Some(link) = self.links.get_mut(key) {
                    link.prove();
                }
                self.set_undecided(key, false);
            }
            (Role::Lane, false) if is_undecided(frame) && !self.is_undecided_lane(key) => self.set_undecided(key, true),
            (Role::Lane | Role::Standby, false) if is_undecided(frame) => {
                self.lose_link(key, "the sentinel was refused", now)
            }
            (_, false) => {
                self.counters.mismatches += 1;
                self.end_served(key);
                self.lose_link(key, "a reply out of step", now);
            }
        }
    }

    fn is_undecided_lane(&self, key: LinkKey) -> bool {
        self.links.get(key).is_some_and(|link| link.undecided)
    }

    /// The sentinel was refused for a reason that says nothing of the order: no new commands until it was asked again.
    fn set_undecided(&mut self, key: LinkKey, undecided: bool) {
        let Some(link) = self.links.get_mut(key) else { return };
        let was_undecided = std::mem::replace(&mut link.undecided, undecided);
        if undecided {
            // Asked again with the next tick that finds the last answer old enough.
            link.sentinel.1 = 1;
        } else if was_undecided {
            self.crowded = true;
        }
    }

    /// The replies of a lane went out of step: who was served on it since it was last proven may have read somebody
    /// else's.
    fn end_served(&mut self, link_key: LinkKey) {
        let Some(link) = self.links.get_mut(link_key) else { return };
        let (proofs, mut served) = (link.proofs, std::mem::take(&mut link.departed));
        let is_served = |session: &super::Session| session.link == Some(link_key) && session.served == Some(proofs);
        served.extend(self.sessions.iter().filter(|(_, session)| is_served(session)).map(|(key, _)| key));
        for key in served {
            self.remove_session(key, CloseReason::OutOfStep);
        }
    }

    /// An error reply: most are the client's own; some say that the backend cannot serve.
    fn on_error(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        let Some(word) = cannot_serve(reply::first_word(frame)) else {
            return self.deliver_error(key, frame, now);
        };
        let Some(link) = self.links.get(key) else { return };
        let backend = link.backend;
        self.record(backend).failures += 1;
        self.outputs.push_back(super::Output::Report(super::Report::CannotServe { backend, word }));
        if self.is_repeated_write(key) {
            // The first time may have been carried out: "not applied" would not be true.
            self.deliver_uncertain(key, now);
        } else if !self.withhold(key, frame, now) {
            self.deliver_error(key, frame, now);
        }
    }

    /// The request at the front was sent to a connection before, and may have changed something there.
    fn is_repeated_write(&self, key: LinkKey) -> bool {
        let Some(link) = self.links.get(key) else { return false };
        link.front().is_some_and(|run| run.attempts > 0 && run.commands == 1) && !self.is_read(&link.front_frame())
    }

    fn is_read(&self, frame: &[u8]) -> bool {
        let arguments = Arguments::new(frame);
        let name = arguments.clone().next().unwrap_or_default();
        let command = self.settings.policy.apply(frame, name).command;
        command.is_some_and(|command| retry::judge(command, arguments).category <= Category::ReadOnly)
    }

    fn deliver_error(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        match self.links.get(key).map(|link| link.role) {
            Some(Role::Pin(_)) => self.counters.errors_pinned += 1,
            _ => self.counters.errors_shared += 1,
        }
        self.deliver(key, frame, 1, now);
    }

    /// Keeps a reply that means "not applied" back until the backend has been judged, when the client waits for it alone.
    fn withhold(&mut self, key: LinkKey, frame: &[u8], now: Instant) -> bool {
        let (acquittals, epoch) = (self.route.acquittals, self.route.epoch);
        let Some(link) = self.links.get_mut(key) else { return false };
        let Some(front) = link.front().filter(|run| run.unanswered() == 1) else { return false };
        let Some(session_key) = front.session else { return false };
        let request = link.front_frame();
        if self.sessions.get(session_key).is_none_or(|session| {
            session.due != 1 || session.half_closed || matches!(session.transaction, Transaction::Queuing { .. })
        }) || self.is_whole_or_scripted(&request)
        {
            return false;
        }
        let started_at = front_started_at(self.links.get(key), now);
        let Some(link) = self.links.get_mut(key) else { return false };
        let finished = link.answer(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.due = 0;
            let reply = bytes::Bytes::copy_from_slice(frame);
            session.pending.push_front(Pending::Withheld { frame: request, reply, acquittals, epoch });
        }
        self.wait(session_key, super::session::Wait::Verdict, now);
        if let Some(run) = finished {
            self.finish_run(key, &run, started_at, now);
        }
        true
    }

    /// Part of a transaction, or a script: "not applied" cannot be said of it as a whole.
    fn is_whole_or_scripted(&self, request: &[u8]) -> bool {
        use crate::command::table::{Class, Pinned};
        let name = crate::resp::arguments::Arguments::new(request).next().unwrap_or_default();
        let class = self.settings.policy.apply(request, name).class;
        matches!(class, Class::Pinned(Pinned::Exec | Pinned::Script))
    }

    /// A withheld reply: passed on when the backend was acquitted, its request moved when the route changed; else waits.
    pub(super) fn settle_withheld(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(Pending::Withheld { frame, reply, acquittals, epoch }) = session.pending.front().cloned() else {
            return true;
        };
        if acquittals != self.route.acquittals {
            session.pending.pop_front();
            self.answer(key, |out| out.extend_from_slice(&reply), now);
            return true;
        }
        if epoch != self.route.epoch {
            session.pending.pop_front();
            self.note(|judged| &mut judged.moved, 1);
            let Some(session) = self.sessions.get_mut(key) else { return false };
            session.pending.push_front(Pending::Send {
                frame,
                commands: 1,
                kind: RunKind::Forward,
                sent: false,
                read_only: false,
                attempts: 0,
                arrived: now,
                epoch,
            });
            return true;
        }
        self.wait(key, super::session::Wait::Verdict, now);
        false
    }

    /// A repeated write said "nothing changed": the first try may have been the one that did.
    fn deliver_uncertain(&mut self, key: LinkKey, now: Instant) {
        self.count_refusal(&Refusal::Uncertain);
        let mut reply = bytes::BytesMut::new();
        encode::error(&mut reply, &Refusal::Uncertain.to_string());
        self.deliver(key, &reply, 1, now);
    }

    /// A blocking command was answered. A nil before its time came from the unblocking of a planned switch:
    /// the command waits again on the new active.
    fn on_unblocked(&mut self, key: LinkKey, frame: &[u8], deadline: Option<Instant>, now: Instant) {
        let is_nil = matches!(frame, b"$-1\r\n" | b"*-1\r\n" | b"_\r\n");
        let time_left = deadline.is_none_or(|deadline| deadline > now);
        let was_unblocked = self.links.get_mut(key).is_some_and(|link| !link.take_let_go() && link.unblocked);
        if is_nil && time_left && was_unblocked && self.rearm_front(key, now) {
            return;
        }
        self.deliver(key, frame, 1, now);
    }

    /// Follows what a reply says about the state of a session on its pin.
    fn inspect(&mut self, key: SessionKey, inspect: &Inspect, frame: &[u8], kind: ReplyKind) {
        let default_database = self.settings.database;
        let normal = |database| Some(database).filter(|&database| default_database != Some(database));
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_ok = kind != ReplyKind::Error;
        match (inspect, is_ok) {
            (Inspect::Select(database), true) => session.profile.database = normal(*database),
            (Inspect::Hello(protocol), true) => session.profile.protocol = *protocol,
            (Inspect::Multi, true) => {
                let watching = session.transaction == Transaction::Watching;
                session.transaction = Transaction::Queuing { watching, queued: 0, selected: false };
                session.selections.clear();
            }
            (Inspect::Multi, false) => {
                session.taint_pin();
                session.transaction = Transaction::Broken { queuing: true, end: BrokenEnd::Refused };
            }
            (Inspect::Watch, true) => session.transaction = Transaction::Watching,
            (Inspect::Watch, false) => {
                session.taint_pin();
                session.transaction = Transaction::Broken { queuing: false, end: BrokenEnd::Refused };
            }
            (Inspect::Unwatch | Inspect::Discard, true) => session.transaction = Transaction::None,
            (Inspect::Exec, _) => {
                let selections = std::mem::take(&mut session.selections);
                let is_accepted = |index| element(frame, index).is_some_and(|element| element.starts_with(b"+OK"));
                if let Some((_, database)) = selections.into_iter().rev().find(|(index, _)| is_accepted(*index)) {
                    session.profile.database = Some(database);
                }
                session.transaction = Transaction::None;
            }
            (Inspect::Monitor, true) => {
                if let Some(pin) = session.pin.as_mut() {
                    pin.monitoring = true;
                }
            }
            (
                Inspect::Select(_) | Inspect::Hello(_) | Inspect::Unwatch | Inspect::Discard | Inspect::Monitor,
                false,
            ) => {}
        }
    }
}

fn front_started_at(link: Option<&Link>, now: Instant) -> Instant {
    link.and_then(Link::front).map_or(now, |run| run.at)
}

/// Replies in the sentinel's place that say nothing about the order of replies.
fn is_undecided(frame: &[u8]) -> bool {
    matches!(reply::first_word(frame), b"BUSY" | b"NOAUTH" | b"NOPERM" | b"LOADING")
}

/// The first words that mean "not applied, and I cannot serve" (contract, section 6).
fn cannot_serve(word: &[u8]) -> Option<&'static str> {
    ["LOADING", "MASTERDOWN", "READONLY", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN"]
        .into_iter()
        .find(|known| known.as_bytes() == word)
}

/// One element of an array reply.
fn element(reply: &[u8], index: u32) -> Option<&[u8]> {
    let mut rest = &reply[memchr::memchr(b'\n', reply)? + 1..];
    let mut scanner = ReplyScanner::new();
    for _ in 0..index {
        let ReplyScan::Complete { bytes, .. } = scanner.scan(rest) else { return None };
        rest = &rest[bytes..];
    }
    Some(rest)
}

/// An error reply that means "not applied, and I cannot serve".
fn is_not_applied(frame: &[u8]) -> bool {
    cannot_serve(reply::first_word(frame)).is_some()
}

/// A nil as a blocked command of this protocol would answer it.
pub(super) const fn is_resp3(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Resp3)
}
