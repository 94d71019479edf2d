//! A client's bytes on their way: frames are found, classified, and whole runs of them put on a lane.

use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::backpressure::UPLOAD_BYTES;
use super::counters::ProtocolFault;
use super::link::{Inspect, Link, Run, RunKind, bytes_to_join};
use super::session::{CloseReason, Pending, Transaction, Wait};
use super::{INPUT_BYTES_MAX, LARGE_REQUEST_BYTES, LinkKey, LinkState, Multiplexer, SessionKey, scan};
use crate::command::classify::Classified;
use crate::command::refusal::Refusal;
use crate::command::table::{Class, Pinned};
use crate::logic::settings::LimitSettings;
use crate::resp::arguments::Arguments;
use crate::resp::request::{ProtocolError, RequestScanner, Scan};
use crate::resp::{encode, inline};

/// What became of one request that is not simply shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It, and so many bytes behind it, were dealt with.
    Done {
        /// Bytes consumed, its own included.
        bytes: usize,
    },
    /// It stays in the input until what the session waits for has come.
    Wait,
}

/// A whole request and what stands behind it in the input.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// The multibulk frame.
    pub frame: &'a [u8],
    /// Its first argument.
    pub name: &'a [u8],
    /// What it is.
    pub classified: Classified,
    /// The input from its first byte on, as it came.
    pub input: &'a [u8],
    /// Bytes that it takes of `input`.
    pub bytes: usize,
}

/// What stands at the start of a client's input.
struct Batch<'a> {
    /// Bytes of whole shared requests.
    bytes: usize,
    /// How many those are.
    commands: u32,
    /// What comes behind them.
    next: Next<'a>,
}

/// What comes behind a batch.
enum Next<'a> {
    /// Nothing whole, or nothing that may be taken yet.
    Nobody,
    /// A request that may be shared, and no lane is open for it.
    Shared(Request<'a>),
    /// A request that wants a look.
    Unshared(Request<'a>),
    /// A large request that is arriving.
    Upload,
    /// Bytes that mean nothing.
    Nothing { bytes: usize },
    /// A request in one line.
    Inline { line_bytes: usize, bytes: usize },
    /// Not RESP.
    Invalid(ProtocolError),
}

impl Multiplexer {
    /// A client sent bytes.
    pub fn on_client_bytes(&mut self, key: SessionKey, bytes: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.ending.is_some() {
            return;
        }
        session.peer.active_at = Some(now);
        self.take_client_bytes(key, bytes, now);
        self.update_reading(key);
    }

    /// Carries out what came, as far as it goes, and keeps the rest.
    fn take_client_bytes(&mut self, key: SessionKey, mut bytes: &[u8], now: Instant) {
        while let Some(session) = self.sessions.get_mut(key).filter(|session| session.ending.is_none()) {
            let is_held = session.wait.is_some() || !session.pending.is_empty() || session.upload.is_some();
            if is_held || !session.has_room(&self.settings.limits) {
                return self.put_behind(key, bytes, now);
            }
            if session.input.is_empty() {
                session.burst_answered &= session.due > 0;
                session.refuses_wait &= session.due > 0;
                let consumed = self.take_requests(key, bytes, now);
                return self.keep_input(key, &bytes[consumed..]);
            }
            // Of a request begun before, only what completes it is copied.
            let begun = session.input.len();
            let missing = session.scanner.bytes_announced().saturating_sub(begun);
            let new = &bytes[..bytes.len().min(bytes_to_join(begun, missing))];
            session.input.extend_from_slice(new);
            self.pump(key, now);
            let Some(session) = self.sessions.get_mut(key) else { return };
            let left = session.input.len();
            bytes = if left <= new.len() {
                // What is left stands where it came, too.
                session.input.clear();
                &bytes[new.len() - left..]
            } else {
                &bytes[new.len()..]
            };
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Keeps what must wait, or is only the start of a request.
    fn keep_input(&mut self, key: SessionKey, rest: &[u8]) {
        if !rest.is_empty()
            && let Some(session) = self.sessions.get_mut(key)
            && session.ending.is_none()
        {
            session.input.extend_from_slice(rest);
            if session.listed {
                self.held_bytes += rest.len();
            }
        }
    }

    /// Something stands before these bytes that must be dealt with first.
    fn put_behind(&mut self, key: SessionKey, bytes: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.input.extend_from_slice(bytes);
        self.held_bytes += bytes.len();
        if session.wait.is_none() {
            self.pump(key, now);
        }
    }

    /// Looks again at a session that may have waited for what has happened now.
    pub(super) fn advance_session(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let before = session.wait;
        match before {
            Some((Wait::Answer | Wait::Confirmation, _)) => return,
            Some((Wait::Due, _)) if session.due > 0 => return,
            None if session.input.is_empty() && session.pending.is_empty() => return,
            _ => session.wait = None,
        }
        let held_before = (session.pending.len(), session.input.len());
        self.pump(key, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        // What waits on waits since it began to.
        if let (Some(wait), Some((was_for, since))) = (&mut session.wait, before)
            && !matches!(was_for, Wait::Due | Wait::Pause)
            && held_before == (session.pending.len(), session.input.len())
        {
            wait.1 = since;
        }
        self.update_reading(key);
    }

    /// Carries out what is pending, then what was read, until something must be waited for.
    fn pump(&mut self, key: SessionKey, now: Instant) {
        if !self.send_pending(key, now) {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.input.is_empty() || session.ending.is_some() {
            return;
        }
        let mut input = std::mem::take(&mut session.input);
        let consumed = self.take_requests(key, &input, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.ending.is_none() && consumed < input.len() {
            input.advance(consumed);
            session.input = input;
        }
    }

    /// Sends again, or answers, what was judged at a fault; false when something of it must wait.
    fn send_pending(&mut self, key: SessionKey, now: Instant) -> bool {
        if !self.settle_withheld(key, now) {
            return false;
        }
        loop {
            let Some(session) = self.sessions.get_mut(key) else { return false };
            if session.wait.is_some() {
                return false;
            }
            match session.pending.front() {
                None => return true,
                Some(Pending::Answer(_)) => {
                    if let Some(Pending::Answer(reply)) = session.pending.pop_front() {
                        self.answer(key, |out| out.extend_from_slice(&reply), now);
                    }
                }
                Some(Pending::Send { kind, .. }) if kind.is_in_transaction() => {
                    let is_exec = *kind == RunKind::Inspect(Inspect::Exec);
                    if self.answer_outside_transaction(key, now) {
                        continue;
                    }
                    if is_exec && self.exec_must_wait(key, now) {
                        return false;
                    }
                    let Some(link) = self.own_link(key, now) else { return false };
                    self.send_pending_request(key, link, now);
                }
                Some(Pending::Send { frame, kind: RunKind::Cursor, epoch, .. })
                    if *epoch != self.route.epoch && scan::continues(frame) =>
                {
                    session.pending.pop_front();
                    self.refuse(key, &Refusal::StaleCursor, now);
                }
                Some(pending @ Pending::Send { frame, kind, commands, .. }) => {
                    let classified = self.settings.policy.apply(frame, first_argument(frame));
                    if self.pause.is_some_and(|pause| pause.holds_pending(pending, classified)) {
                        self.wait(key, Wait::Pause, now);
                        return false;
                    }
                    if publishes(classified) && self.publish_barrier.is_some() {
                        self.wait(key, Wait::Lane, now);
                        return false;
                    }
                    // Whatever else the session holds by now: what needs a connection of its own never goes to a lane.
                    let is_whole_transaction = *commands > 1;
                    let needs_own = matches!(kind, RunKind::Inspect(_) | RunKind::Blocking { .. })
                        || (matches!(classified.class, Class::Pinned(_)) && !is_whole_transaction);
                    let link = if needs_own { self.own_link(key, now) } else { self.target_link(key, now) };
                    let Some(link) = link else { return false };
                    if is_whole_transaction && !self.takes_groups(link) {
                        self.refuse_group(key, now);
                    } else {
                        self.send_pending_request(key, link, now);
                    }
                }
            }
        }
    }

    fn send_pending_request(&mut self, key: SessionKey, link: LinkKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(Pending::Send { frame, commands, dropped, kind, sent, read_only, attempts, arrived, epoch }) =
            session.pending.pop_front()
        else {
            return;
        };
        let is_blocking = matches!(kind, RunKind::Blocking { .. });
        if !sent
            && !is_blocking
            && epoch == self.route.epoch
            && now.saturating_duration_since(arrived) > self.settings.retry.deadline
        {
            // Connections that open and break again and again, without a switch.
            for _ in dropped..commands {
                self.refuse(key, &Refusal::Unavailable, now);
            }
            return self.note_refused_transaction(key, &kind);
        }
        if sent && !is_blocking {
            // The switch's own repeats are free; others have a budget, lest a flapping connection multiplies the load.
            let is_allowed = attempts <= self.settings.retry.attempts
                && now.saturating_duration_since(arrived) <= self.settings.retry.deadline
                && (epoch != self.route.epoch || self.budget.spend(now));
            if !is_allowed {
                let refusal = if read_only { Refusal::Unavailable } else { Refusal::Uncertain };
                for _ in dropped..commands {
                    self.refuse(key, &refusal, now);
                }
                return;
            }
        }
        // What follows depends on the state that these replies bring.
        let must_wait = matches!(kind, RunKind::Inspect(_) | RunKind::Blocking { .. });
        self.prepare_moved(key, link, &kind, now);
        let bytes = frame.len();
        let run = Run { session: Some(key), commands, answered: 0, dropped, bytes, attempts, at: arrived, kind };
        self.send_run(link, key, run, &frame);
        if must_wait {
            self.wait(key, Wait::Due, now);
        }
    }

    /// Finds the requests in `bytes` and carries them out; returns how many bytes were consumed.
    fn take_requests(&mut self, key: SessionKey, bytes: &[u8], now: Instant) -> usize {
        let mut position = 0;
        if self.is_uploading(key) {
            position = self.continue_upload(key, bytes, now);
        }
        if self.is_uploading(key) || !self.finish_skipped(key, now) {
            return position;
        }
        while position < bytes.len() && self.takes_requests(key) {
            let input = &bytes[position..];
            let lane = self.lane_at_hand(key);
            let Batch { bytes: batch_bytes, commands, next } = self.scan_batch(key, input, lane.is_some());
            if let Some(link) = lane.filter(|_| commands > 0) {
                self.send(link, key, &input[..batch_bytes], commands, RunKind::Forward, now);
            }
            position += batch_bytes;
            let input = &bytes[position..];
            let step = match next {
                Next::Nobody => return position,
                Next::Unshared(request) => self.take_special(key, request, now),
                Next::Shared(request) => match self.lane_link(key, now) {
                    None => return position,
                    Some(link) => {
                        self.send_request(link, key, request, RunKind::Forward, now);
                        Step::Done { bytes: request.bytes }
                    }
                },
                Next::Upload => return position + self.begin_upload(key, input, now),
                Next::Nothing { bytes } => {
                    self.skip_nothing(key);
                    Step::Done { bytes }
                }
                Next::Inline { line_bytes, bytes } => self.take_inline(key, &input[..line_bytes], input, bytes, now),
                Next::Invalid(error) => {
                    self.end_for_protocol_error(key, error, now);
                    return bytes.len();
                }
            };
            self.end_skipped(key, step, now);
            match step {
                Step::Wait => return position,
                Step::Done { bytes } => position += bytes,
            }
        }
        position
    }

    /// The session's next request may be looked at now.
    fn takes_requests(&self, key: SessionKey) -> bool {
        let limits = &self.settings.limits;
        self.sessions.get(key).is_some_and(|session| session.takes_requests() && session.has_room(limits))
    }

    /// Finds the whole shared requests at the start of `input`, as many as the session may still have in flight, and what
    /// comes behind them. `is_lane_open`: they can go out.
    fn scan_batch<'a>(&mut self, key: SessionKey, input: &'a [u8], is_lane_open: bool) -> Batch<'a> {
        let is_unhindered = self.pause.is_none();
        let is_barred = self.publish_barrier.is_some();
        let mut batch = Batch { bytes: 0, commands: 0, next: Next::Nobody };
        let Some(session) = self.sessions.get_mut(key) else { return batch };
        let may_share = session.may_share() && is_unhindered;
        let policy = session.access.policy.as_deref().unwrap_or(&self.settings.policy);
        let room = self.settings.limits.inflight_max.saturating_sub(session.due as usize);
        while batch.bytes < input.len() && (batch.commands == 0 || (batch.commands as usize) < room) {
            let rest = &input[batch.bytes..];
            batch.next = match session.scanner.scan(rest) {
                Scan::Frame(frame) => {
                    let name = frame.name(rest);
                    let whole = &rest[..frame.bytes];
                    let classified = policy.apply(whole, name);
                    let request = Request { frame: whole, name, classified, input: rest, bytes: frame.bytes };
                    if !(may_share && request.may_batch(is_barred)) {
                        Next::Unshared(request)
                    } else if !is_lane_open {
                        Next::Shared(request)
                    } else {
                        batch.commands += 1;
                        batch.bytes += frame.bytes;
                        continue;
                    }
                }
                Scan::Incomplete if session.scanner.bytes_announced() > UPLOAD_BYTES => Next::Upload,
                Scan::Incomplete => Next::Nobody,
                Scan::Nothing { bytes } => Next::Nothing { bytes },
                Scan::Inline { line_bytes, bytes } => Next::Inline { line_bytes, bytes },
                Scan::Invalid(error) => Next::Invalid(error),
            };
            return batch;
        }
        batch
    }

    fn skip_nothing(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.skip_nothing();
        }
    }

    fn take_inline(&mut self, key: SessionKey, line: &[u8], input: &[u8], bytes: usize, now: Instant) -> Step {
        let Some(words) = inline::split(line) else {
            self.end_for_protocol_error(key, ProtocolError::UnbalancedQuotes, now);
            return Step::Done { bytes };
        };
        let Some(name) = words.first() else {
            self.skip_nothing(key);
            return Step::Done { bytes };
        };
        // `GET / HTTP/1.1` is a valid Redis command; nobody means it.
        if words.len() > 2 && words.last().is_some_and(|word| word.starts_with(b"HTTP/")) {
            self.end_for_foreign_protocol(key);
            return Step::Done { bytes };
        }
        let mut frame = BytesMut::new();
        encode::request(&mut frame, &words);
        let classified = self.policy_of(key).apply(&frame, name);
        let request = Request { frame: &frame, name, classified, input, bytes };
        let may_share = self.sessions.get(key).is_some_and(super::Session::may_share);
        if !(may_share && self.pause.is_none() && request.may_batch(self.publish_barrier.is_some())) {
            return self.take_special(key, request, now);
        }
        let Some(link) = self.lane_link(key, now) else { return Step::Wait };
        self.send_request(link, key, request, RunKind::Forward, now);
        Step::Done { bytes }
    }

    pub(super) fn end_for_protocol_error(&mut self, key: SessionKey, error: ProtocolError, now: Instant) {
        if error == ProtocolError::TlsHello {
            return self.end_for_foreign_protocol(key);
        }
        let fault = match error {
            ProtocolError::ValueTooLarge
            | ProtocolError::RequestTooLarge
            | ProtocolError::HeaderTooLong
            | ProtocolError::InlineTooLong
            | ProtocolError::UnauthenticatedCount
            | ProtocolError::UnauthenticatedLength => ProtocolFault::ClientLimit,
            _ => ProtocolFault::ClientFrame,
        };
        self.counters.protocol_faults[fault as usize] += 1;
        self.refuse(key, &Refusal::Protocol(error), now);
        self.end(key, CloseReason::ProtocolError);
    }

    /// Somebody speaks HTTP or TLS to us: closed without a reply, as a browser must not be able to reach Redis.
    pub(super) fn end_for_foreign_protocol(&mut self, key: SessionKey) {
        self.counters.protocol_faults[ProtocolFault::ClientForeign as usize] += 1;
        self.remove_session(key, CloseReason::ForeignProtocol);
    }

    /// The connection that the session's next request goes to; makes it wait when there is none.
    pub(super) fn target_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        let session = self.sessions.get(key)?;
        match session.pin {
            Some(_) => self.pin_link(key, now),
            None if session.access.is_laneless => self.own_link(key, now),
            None => self.lane_link(key, now),
        }
    }

    /// The session's lane; makes it wait when there is none, when it is full, or when replies are due elsewhere.
    pub(super) fn lane_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        let session = self.sessions.get(key)?;
        let profile = session.profile;
        let missing = match self.lane_of(session) {
            Ok(link) => return Some(link),
            Err(missing) => missing,
        };
        match missing {
            Wait::Lane => drop(self.lane(profile, now)),
            Wait::Room => self.crowded = true,
            _ => {}
        }
        self.wait(key, missing, now);
        None
    }

    /// The lane that the session's shared requests can go to now.
    fn lane_at_hand(&self, key: SessionKey) -> Option<LinkKey> {
        let session = self.sessions.get(key).filter(|session| session.may_share())?;
        self.lane_of(session).ok()
    }

    /// The session's lane, or what has to be waited for.
    fn lane_of(&self, session: &super::Session) -> Result<LinkKey, Wait> {
        let (key, link) = self.ready_lane(session.profile).ok_or(Wait::Lane)?;
        if session.due > 0 && session.link.is_some_and(|due_on| due_on != key) {
            return Err(Wait::Due);
        }
        if link.is_full() {
            return Err(Wait::Room);
        }
        Ok(key)
    }

    /// A usable lane of the active for this profile.
    pub(super) fn ready_lane(&self, profile: super::Profile) -> Option<(LinkKey, &Link)> {
        if !self.is_serving() {
            return None;
        }
        let key = self.lanes.iter().find(|lane| lane.profile == profile)?.link?;
        let link = self.links.get(key)?;
        (link.state == LinkState::Ready && !link.undecided).then_some((key, link))
    }

    /// A usable lane of the active for this profile; begins to open one when there is none.
    pub(super) fn lane(&mut self, profile: super::Profile, now: Instant) -> Option<LinkKey> {
        if let Some((key, _)) = self.ready_lane(profile) {
            return Some(key);
        }
        let lane = self.lanes.iter().find(|lane| lane.profile == profile);
        let is_due = lane.is_none_or(|lane| lane.link.is_none() && lane.retry_at.is_none_or(|at| at <= now));
        if is_due && self.is_serving() {
            self.open_lane(profile, now);
        }
        None
    }
}

impl Request<'_> {
    /// Too few words or too many for the command that it is.
    pub(super) fn is_of_wrong_length(&self) -> bool {
        self.classified.command.is_some_and(|command| !command.takes(Arguments::new(self.frame).remaining()))
    }

    /// It may travel with the requests of other clients.
    pub(super) fn is_shared(&self) -> bool {
        self.classified.class == Class::Shared && !self.is_large()
    }

    /// It goes to the lane with its neighbours, and nothing is to be looked at. One that may run long goes by itself, so
    /// that its time is told from theirs. `is_barred`: nothing is published now.
    fn may_batch(&self, is_barred: bool) -> bool {
        self.is_shared() && !self.classified.is_slow() && !(is_barred && self.publishes())
    }

    /// Nobody shall wait behind it.
    pub(super) const fn is_large(&self) -> bool {
        self.bytes > LARGE_REQUEST_BYTES
    }
}

impl Request<'_> {
    /// Subscribers hear of it.
    pub(super) fn publishes(&self) -> bool {
        publishes(self.classified)
    }
}

pub(super) fn publishes(classified: Classified) -> bool {
    classified.command.is_some_and(|command| matches!(command.name, "publish" | "spublish"))
}

fn first_argument(frame: &[u8]) -> &[u8] {
    Arguments::new(frame).next().unwrap_or_default()
}

impl super::Session {
    /// It waits for nothing, and nobody waits for it: whatever was written to it or answered changes nothing else.
    pub(super) fn is_at_ease(&self) -> bool {
        self.wait.is_none()
            && self.input.is_empty()
            && self.pending.is_empty()
            && !(self.paused || self.half_closed || self.holds_back)
            && self.ending.is_none()
            && self.upload.is_none()
            && self.upload_bytes == 0
            && self.subscriptions.is_none()
    }

    /// Its next request may be looked at.
    pub(super) fn takes_requests(&self) -> bool {
        self.ending.is_none() && self.wait.is_none()
    }

    /// It does not have as many replies due, or as much to read, as it may have: what comes is answered as it reads.
    pub(super) fn has_room(&self, limits: &LimitSettings) -> bool {
        (self.due as usize) < limits.inflight_max
            && (self.output.len() < limits.output_bytes_max || self.unread_replies() < limits.output_bytes_max)
    }

    /// Its next requests may go to the lane together.
    pub(super) fn may_share(&self) -> bool {
        self.is_plain() && !self.reply_mode.is_single()
    }

    /// Shared commands go to a lane: nothing that the session holds says otherwise.
    pub(super) fn is_plain(&self) -> bool {
        self.pin.is_none()
            && self.access.is_authenticated
            && !self.access.is_laneless
            && self.transaction == Transaction::None
            && !self.peer.dedicated
            && self.subscriptions.as_ref().is_none_or(|subscriptions| {
                let is_free = self.profile.protocol == encode::Protocol::Resp3 || subscriptions.count() == 0;
                is_free && subscriptions.is_settled()
            })
    }
}

/// A transaction that stands whole in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Its bytes.
    pub bytes: usize,
    /// Its commands, MULTI and EXEC among them.
    pub commands: u32,
    /// One of them is a PUBLISH.
    pub publishes: bool,
}

/// The transaction that stands whole at the start of `input`, if all of its commands may be shared.
pub(super) fn whole_transaction(input: &[u8], apply: impl Fn(&[u8], &[u8]) -> Classified) -> Option<Whole> {
    let mut scanner = RequestScanner::new(LARGE_REQUEST_BYTES);
    let (mut position, mut commands, mut is_publishing) = (0, 0, false);
    while position < LARGE_REQUEST_BYTES.min(INPUT_BYTES_MAX) {
        let rest = &input[position..];
        let Scan::Frame(frame) = scanner.scan(rest) else { return None };
        let classified = apply(&rest[..frame.bytes], frame.name(rest));
        is_publishing |= publishes(classified);
        position += frame.bytes;
        commands += 1;
        match classified.class {
            Class::Pinned(Pinned::Multi) if commands == 1 => {}
            // An EXEC that the server refuses would leave the shared connection in the transaction.
            Class::Pinned(Pinned::Exec) => {
                let is_accepted = Arguments::new(&rest[..frame.bytes]).remaining() == 1;
                let whole = Whole { bytes: position, commands, publishes: is_publishing };
                return (is_accepted && position <= LARGE_REQUEST_BYTES).then_some(whole);
            }
            Class::Shared => {}
            // With a mark it must not go as it is.
            Class::Cursor if !scan::is_marked(&rest[..frame.bytes]) => {}
            _ => return None,
        }
    }
    None
}
