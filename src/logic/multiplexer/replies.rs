//! A backend's bytes on their way: each reply finds its client, in the order in which the requests went.

use std::time::Instant;

use super::counters::ProtocolFault;
use super::link::{Inspect, Link, Role, Run, RunKind, Streamed, Taken};
use super::session::{BrokenEnd, CloseReason, Transaction};
use super::tracking::is_broken_redirect;
use super::transactions::Queue;
use super::{LinkKey, Multiplexer, STREAM_BYTES, SessionKey, borrow_buffer};
use crate::command::refusal::Refusal;
use crate::command::retry::{self, Category};
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::reply::{self, ReplyKind};

/// A reply that cannot be passed on in pieces is kept up to so many bytes: the longest is that of HEXPIRE, repeated with
/// as many fields as a request of 1 MiB has.
const UNPASSED_BYTES_MAX: usize = 1024 * 1024;

impl Multiplexer {
    /// A backend sent bytes.
    pub fn on_link_bytes(&mut self, key: LinkKey, bytes: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.proven = true;
        let backend = link.backend;
        self.hear(backend, now);
        self.take_link_bytes(key, bytes, now);
        self.after_replies(key, now);
    }

    /// Deals with what came. Of that, only what completes the reply begun before is copied.
    fn take_link_bytes(&mut self, key: LinkKey, mut bytes: &[u8], now: Instant) {
        while let Some(link) = self.links.get_mut(key) {
            let new = &bytes[..bytes.len().min(link.bytes_to_join())];
            let scanned = link.scanned();
            let Some(joined) = link.unstash(new) else {
                let Some((rest, scanned)) = self.take_replies(key, bytes, scanned, now) else { return };
                if rest.is_empty() {
                    return;
                }
                let passed = self.pass_partial(key, rest, scanned, now);
                if let Some(link) = self.links.get_mut(key) {
                    link.keep(&rest[passed..], scanned - passed);
                }
                return;
            };
            let Some((rest, scanned)) = self.take_replies(key, &joined, scanned, now) else { return };
            let left = rest.len();
            if left <= new.len()
                && let Some(link) = self.links.get_mut(key)
            {
                // What is left stands where it came, too.
                bytes = &bytes[new.len() - left..];
                link.keep(&[], scanned);
            } else {
                bytes = &bytes[new.len()..];
                let passed = self.pass_partial(key, rest, scanned, now);
                if let Some(link) = self.links.get_mut(key) {
                    link.put_back(joined, left - passed, scanned - passed);
                }
            }
            if bytes.is_empty() {
                return;
            }
        }
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

    /// Of a long reply passes on what is there, if somebody asked for it and nobody here has to look at it; returns how
    /// many bytes that was. What can only be kept has a bound.
    fn pass_partial(&mut self, key: LinkKey, rest: &[u8], scanned: usize, now: Instant) -> usize {
        let Some(link) = self.links.get(key).filter(|link| link.streamed_bytes.is_some() || rest.len() > STREAM_BYTES)
        else {
            return 0;
        };
        let messages_bytes_max = super::pubsub::Bounds::DEFAULT.hard_bytes;
        let kind = link.begun_kind();
        let bytes_max = match (link.role, kind) {
            (Role::Subscription(session), _) => {
                if rest.len() > messages_bytes_max {
                    self.close_slow_subscriber(session);
                }
                return 0;
            }
            (Role::Pin(Some(_)), Some(ReplyKind::Push)) => messages_bytes_max,
            _ => UNPASSED_BYTES_MAX,
        };
        // A push is nobody's reply, and behind an attribute alone nobody knows yet what comes.
        let is_asked = link.streamed_bytes.is_some()
            || (kind.is_some_and(|kind| kind != ReplyKind::Push) && link.due_written() > 0);
        let front = link.front().filter(|_| is_asked);
        if let Some(session) = front.filter(|run| can_stream(run)).and_then(|run| run.session) {
            // Too long to be kept back.
            self.pass_withheld(session, now);
            self.pass_part(key, session, &rest[..scanned]);
            self.hold_back(key, session, now);
            return scanned;
        }
        if rest.len() > bytes_max {
            self.counters.protocol_faults[ProtocolFault::BackendFrame as usize] += 1;
            match is_asked {
                // The reply that is due there is a short one: this is another's.
                true => self.lose_step(key, now),
                false => self.lose_link(key, "a push, or a reply that nobody asked for, too long to be kept", now),
            }
        }
        0
    }

    /// Passes a part of a reply on, the first or a later one.
    fn pass_part(&mut self, key: LinkKey, session: SessionKey, part: &[u8]) {
        let Some(link) = self.links.get_mut(key) else { return };
        let is_first = link.streamed_bytes.is_none();
        *link.streamed_bytes.get_or_insert(0) += part.len();
        let (epoch, proofs) = (link.epoch, link.proofs);
        let has_cursor = is_first && link.front().is_some_and(|run| run.kind == RunKind::Cursor);
        let is_exec = link.front().is_some_and(|run| run.kind == RunKind::Inspect(Inspect::Exec));
        if is_exec && let Some(queue) = self.sessions.get_mut(session).and_then(|session| session.queue.as_mut()) {
            queue.follow_exec(part);
        }
        self.note_served(session, proofs);
        match if has_cursor { self.mark_reply(part, epoch) } else { None } {
            Some(marked) => self.append_reply(session, &marked),
            None => self.append_reply(session, part),
        }
    }

    /// What follows from replies having come: room in the lane, sessions whose last reply it was, a drain.
    fn after_replies(&mut self, key: LinkKey, now: Instant) {
        if let Some(link) = self.links.get_mut(key) {
            link.heard(now);
        }
        self.resume_uploader(key);
        self.advance_settled(now);
        if self.crowded {
            self.fill_room(key, now);
        }
        self.check_drained();
    }

    /// Lets those go on who wait for room, if this lane has some.
    fn fill_room(&mut self, key: LinkKey, now: Instant) {
        if self.links.get(key).is_some_and(|link| link.role == Role::Lane && link.has_room()) {
            self.crowded = false;
            self.advance_waiting_while(|_| true, now);
        }
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
    pub(super) fn deliver(&mut self, key: LinkKey, replies: &[u8], count: u32, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        let Some(front) = link.front() else { return };
        let (session_key, started_at) = (front.session, front.at);
        if let Some(session_key) = session_key.filter(|&session_key| self.is_withheld(session_key)) {
            self.keep_replies(key, session_key, replies, count, now);
            return;
        }
        let Some(link) = self.links.get_mut(key) else { return };
        link.note_reply_bytes(replies.len(), count);
        let finished = link.answer(count);
        let (backend, is_pin, proofs) = (link.backend, matches!(link.role, Role::Pin(_)), link.proofs);
        match is_pin {
            true => self.counters.replies_pinned += u64::from(count),
            false => self.counters.replies_shared += u64::from(count),
        }
        self.record(backend).successes += u64::from(count);
        self.budget.pay(f64::from(count) * self.settings.retry.budget);
        if let Some(session_key) = session_key {
            self.hand_over(key, session_key, replies, count, proofs, now);
        }
        if let Some(run) = finished {
            self.finish_run(key, &run, started_at, now);
        }
    }

    /// Gives a session what it asked for; one look-up does all that every reply needs.
    fn hand_over(&mut self, link_key: LinkKey, key: SessionKey, replies: &[u8], count: u32, proofs: u32, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(count as usize);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.due -= count;
        session.burst_answered = true;
        session.served = Some(proofs);
        if !session.reply_mode.is_muted() {
            borrow_buffer(&mut self.spare, &mut session.output);
            session.output.extend_from_slice(replies);
            if !std::mem::replace(&mut session.flushing, true) {
                self.sessions_to_write.push(key);
            }
        }
        let (is_paused, has_messages) = (session.paused, session.subscriptions.is_some());
        let is_large = session.output.len() > self.settings.limits.output_bytes_max;
        if session.due == 0 {
            self.settled.push(key);
        } else if is_paused {
            self.update_reading(key);
        }
        if has_messages {
            self.deliver_deferred(key);
        }
        if is_large {
            self.hold_back(link_key, key, now);
        }
    }

    /// Who reads replies of a connection that turns out to be out of step may have read somebody else's.
    pub(super) fn note_served(&mut self, key: SessionKey, proofs: u32) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.served = Some(proofs);
        }
    }

    /// Stops reading a link whose client does not read.
    pub(super) fn hold_back(&mut self, link_key: LinkKey, key: SessionKey, now: Instant) {
        let output_bytes_max = self.settings.limits.output_bytes_max;
        if self.sessions.get(key).is_some_and(|session| session.unread_replies() > output_bytes_max) {
            self.pause_link(link_key, key, now);
            self.update_reading(key);
        }
    }

    pub(super) fn finish_run(&mut self, key: LinkKey, run: &Run, started_at: Instant, now: Instant) {
        let took = now.saturating_duration_since(started_at);
        let is_pin = self.links.get(key).is_some_and(|link| matches!(link.role, Role::Pin(_)));
        let latency = if is_pin { &mut self.counters.latency_pinned } else { &mut self.counters.latency_shared };
        latency.count(took, run.commands);
        if let Some(link) = self.links.get_mut(key) {
            let (backend, waited) = (link.backend, link.waited(run, now));
            let record = self.record(backend);
            if !run.kind.may_block() {
                record.note_reply_time(took);
            }
            if let Some(waited) = waited {
                record.note_waited(waited);
            }
        }
        self.deliver_locals(key);
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
                if !self.keep_local(session_key, &reply) {
                    self.append_output(session_key, &reply);
                }
            }
        }
    }

    /// One reply or push that wants a look.
    fn take_single(&mut self, key: LinkKey, frame: &[u8], kind: ReplyKind, now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (role, is_begun, epoch) = (link.role, link.streamed_bytes.is_some(), link.epoch);
        link.forget_scanned();
        if let Role::Subscription(session) = link.role {
            return self.on_subscription_frame(key, session, frame, kind, now);
        }
        if kind == ReplyKind::Push {
            return self.on_push(key, frame, now);
        }
        let is_written = link.due_written() > 0;
        let Some(front) = link.front().filter(|_| is_written) else {
            return self.on_unasked(key, frame, now);
        };
        if front.answered < front.dropped {
            // The client has this one from the connection before.
            return self.finish_own(key, now);
        }
        let session = front.session;
        match front.kind.clone() {
            RunKind::Local(_) => self.on_unasked(key, frame, now),
            RunKind::Echo(expected) => self.on_echo(key, frame == &expected[..], frame, now),
            RunKind::Ignored | RunKind::Heartbeat | RunKind::DrainMark | RunKind::Confirm { .. } => {
                self.finish_own(key, now);
            }
            RunKind::Mark => {
                self.finish_own(key, now);
                self.on_marked(key, (kind == ReplyKind::Error).then_some(frame));
            }
            RunKind::Protocol(_) if is_monitor_line(frame) => self.on_unasked(key, frame, now),
            RunKind::Protocol(session) => self.on_protocol(key, session, frame, kind, now),
            RunKind::Setup => {
                self.finish_own(key, now);
                self.on_set_up(key, kind != ReplyKind::Error, now);
            }
            RunKind::Load(digest) => {
                self.on_loaded(key, digest, frame);
                self.finish_own(key, now);
            }
            RunKind::Wait { refusal } => self.on_waited(key, frame, refusal, now),
            RunKind::Script(call) if !is_begun && self.call_again(key, call, frame, now) => {}
            RunKind::Streamed(Streamed { is_queued: true, .. }) => self.on_queued(key, frame, None, now),
            RunKind::Forward | RunKind::Cursor | RunKind::Script(_) | RunKind::Streamed(_)
                if kind == ReplyKind::Error =>
            {
                self.on_error(key, frame, now);
            }
            RunKind::Forward | RunKind::Streamed(_) => self.deliver(key, frame, 1, now),
            RunKind::Script(call) => {
                self.on_called(key, call);
                self.deliver(key, frame, 1, now);
            }
            RunKind::Cursor if is_begun => self.deliver(key, frame, 1, now),
            RunKind::Cursor => match self.mark_reply(frame, epoch) {
                Some(marked) => self.deliver(key, &marked, 1, now),
                None => self.deliver(key, frame, 1, now),
            },
            RunKind::Queued { database } => self.on_queued(key, frame, database, now),
            RunKind::Replay => match role {
                Role::Pin(Some(session)) => self.on_replayed(key, session, frame, now),
                _ => self.finish_own(key, now),
            },
            RunKind::Conditional if retry::condition_failed(frame) || is_not_applied(frame) => {
                self.deliver_uncertain(key, now);
            }
            RunKind::Conditional => self.deliver(key, frame, 1, now),
            RunKind::Blocking { .. } if is_begun => self.deliver(key, frame, 1, now),
            RunKind::Blocking { deadline } => self.on_unblocked(key, frame, deadline, now),
            RunKind::Inspect(inspect) => {
                if let Some(session) = session {
                    self.inspect(session, &inspect, frame, kind);
                }
                self.deliver(key, frame, 1, now);
            }
        }
    }

    /// A push on a lane or pin: only a pin's client can have asked for it.
    fn on_push(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        let Some(Role::Pin(Some(session))) = self.links.get(key).map(|link| link.role) else { return };
        if self.is_leaving_pin(session) {
            return;
        }
        match is_broken_redirect(frame) {
            true => self.on_broken_redirect(session),
            false => self.append_output(session, frame),
        }
        self.hold_back(key, session, now);
    }

    /// RESET came: what its connection still says is nobody's.
    fn is_leaving_pin(&self, key: SessionKey) -> bool {
        self.sessions.get(key).and_then(|session| session.pin.as_ref()).is_some_and(|pin| pin.renew)
    }

    /// A reply that nobody asked for: a monitoring client's line, or a connection that is out of step.
    fn on_unasked(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        if let Some(Role::Pin(Some(session_key))) = self.links.get(key).map(|link| link.role)
            && let Some(pin) = self.sessions.get(session_key).and_then(|session| session.pin.as_ref())
            && (pin.monitoring || pin.renew)
        {
            if pin.monitoring {
                self.append_reply(session_key, frame);
                self.hold_back(key, session_key, now);
            }
            return;
        }
        self.counters.protocol_faults[ProtocolFault::BackendUnsolicited as usize] += 1;
        self.lose_link(key, "a reply that nobody asked for", now);
    }

    /// A request of Handover's own was answered.
    pub(super) fn finish_own(&mut self, key: LinkKey, now: Instant) {
        if let Some(link) = self.links.get_mut(key)
            && let Some(run) = link.answer(1)
        {
            self.finish_run(key, &run, run.at, now);
        }
    }

    /// A connection accepted what its session keeps there, or did not: then the client's caches would lie.
    fn on_set_up(&mut self, key: LinkKey, is_accepted: bool, now: Instant) {
        let Some(Role::Pin(Some(session))) = self.links.get(key).map(|link| link.role) else { return };
        match is_accepted {
            true => self.on_tracked_again(session, now),
            false => self.remove_session(session, CloseReason::StateLost),
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
            (Role::Pin(_), false) if is_undecided(frame) => self.close_link(key, false),
            (_, false) => self.lose_step(key, now),
        }
    }

    /// What came is not the reply that was due: nor may those be that came since the last one known to be.
    fn lose_step(&mut self, key: LinkKey, now: Instant) {
        self.counters.mismatches += 1;
        self.end_served(key);
        self.lose_link(key, "a reply out of step", now);
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
    pub(super) fn on_error(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        if reply::first_word(frame) == b"NOAUTH" {
            return self.on_unauthenticated(key, frame, now);
        }
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

    pub(super) fn deliver_error(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        let is_kept =
            self.links.get(key).and_then(|link| link.front()?.session).is_some_and(|key| self.is_withheld(key));
        match self.links.get(key).map(|link| link.role) {
            // Counted when it is passed on.
            _ if is_kept => {}
            Some(Role::Pin(_)) => self.counters.errors_pinned += 1,
            _ => self.counters.errors_shared += 1,
        }
        self.deliver(key, frame, 1, now);
    }

    /// Part of a transaction, or a script: "not applied" cannot be said of it as a whole.
    pub(super) fn is_whole_or_scripted(&self, request: &[u8]) -> bool {
        use crate::command::table::{Class, Pinned};
        let name = crate::resp::arguments::Arguments::new(request).next().unwrap_or_default();
        let class = self.settings.policy.apply(request, name).class;
        matches!(class, Class::Pinned(Pinned::Exec | Pinned::Script))
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
        let is_ok = kind != ReplyKind::Error;
        match inspect {
            Inspect::Tracking(request) if is_ok => return self.accept_tracking(key, request),
            Inspect::Caching if is_ok => return self.accept_caching(key),
            Inspect::State(change) if is_ok => return self.accept_change(key, change),
            _ => {}
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        match (inspect, is_ok) {
            (Inspect::Select(database), true) => session.profile.database = normal(*database),
            (Inspect::Multi, true) => {
                let watching = session.transaction == Transaction::Watching;
                session.transaction = Transaction::Queuing { watching, queued: 0 };
                session.queue = Some(Box::new(Queue::new(session.link)));
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
            (Inspect::Unwatch | Inspect::Discard, true) => session.leave_transaction(),
            // Older servers stay in the transaction when EXEC has a word too many.
            (Inspect::Exec, false) if frame.starts_with(b"-ERR wrong number") => {}
            (Inspect::Exec, _) => {
                let selected = session.queue.as_mut().and_then(|queue| queue.follow_exec(frame));
                if let Some(database) = selected {
                    session.profile.database = Some(database);
                }
                session.leave_transaction();
            }
            (Inspect::Monitor, true) => {
                if let Some(pin) = session.pin.as_mut() {
                    pin.monitoring = true;
                }
            }
            (Inspect::Select(_) | Inspect::Unwatch | Inspect::Discard | Inspect::Monitor, false)
            | (Inspect::Tracking(_) | Inspect::Caching | Inspect::State(_), _) => {}
        }
    }
}

/// What MONITOR shows, and no reply to HELLO.
fn is_monitor_line(frame: &[u8]) -> bool {
    frame.starts_with(b"+")
}

/// Replies in the sentinel's place that say nothing about the order of replies.
fn is_undecided(frame: &[u8]) -> bool {
    matches!(reply::first_word(frame), b"BUSY" | b"NOAUTH" | b"NOPERM" | b"LOADING")
}

/// The first words that mean "not applied, and I cannot serve" (contract, section 6).
pub(super) fn cannot_serve(word: &[u8]) -> Option<&'static str> {
    ["LOADING", "MASTERDOWN", "READONLY", "NOREPLICAS", "MISCONF", "BUSY", "CLUSTERDOWN", "TRYAGAIN"]
        .into_iter()
        .find(|known| known.as_bytes() == word)
}

/// Whether a reply can be passed on before it is whole: nobody here has to look at all of it.
const fn can_stream(run: &Run) -> bool {
    match run.kind {
        RunKind::Forward => run.answered >= run.dropped,
        RunKind::Cursor | RunKind::Script(_) | RunKind::Blocking { .. } | RunKind::Inspect(Inspect::Exec) => true,
        RunKind::Streamed(streamed) => streamed.is_whole && !streamed.is_queued,
        _ => false,
    }
}

/// An error reply that means "not applied, and I cannot serve".
fn is_not_applied(frame: &[u8]) -> bool {
    cannot_serve(reply::first_word(frame)).is_some()
}

/// A nil as a blocked command of this protocol would answer it.
pub(super) const fn is_resp3(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Resp3)
}
