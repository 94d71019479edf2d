//! Replies that mean "not applied, and I cannot serve" are kept back until the backend has been judged, and with them
//! every later reply of the same client. If the route changes and all of these requests can be repeated, they are, in
//! order, and the replies are dropped; else the replies are passed on.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::judgement::{Due, READ, Terms, Unanswered, join, judge_frame};
use super::link::{Role, RunKind};
use super::muted::ReplyMode;
use super::replies::cannot_serve;
use super::session::{Pending, Session, Transaction, Wait};
use super::{LinkKey, Multiplexer, SessionKey};
use crate::command::retry::Retry;
use crate::command::table::{Class, Pinned};
use crate::resp::arguments::Arguments;
use crate::resp::reply::{ReplyScan, ReplyScanner, first_word};
use crate::resp::request::{RequestScanner, Scan};

/// Bytes of one client's requests and replies that are kept; with more, the replies are passed on.
const WITHHELD_BYTES_MAX: usize = 256 * 1024;

/// What is kept back from one client.
#[derive(Debug)]
pub struct Withheld {
    /// `Route::acquittals` when the first reply came.
    acquittals: u64,
    /// The epoch in which it came.
    epoch: u64,
    /// The client waited for all its replies then: what it sends next depends on the state that they bring.
    awaits_due: bool,
    /// The transaction that the first belongs to, up to there, and how many of its replies the client has.
    begun: Option<(Bytes, u32)>,
    kept: Vec<Kept>,
    bytes: usize,
}

/// One request of the client, or a reply of Handover's own, in order.
#[derive(Debug)]
struct Kept {
    due: Due,
    /// None: its connection was lost before.
    reply: Option<Bytes>,
}

/// A transaction on a shared connection, put together again from its members.
struct Group {
    frames: BytesMut,
    /// Its members among what is kept.
    commands: u32,
    /// Replies that the client has.
    dropped: u32,
    /// One of them was refused, so that EXEC carried nothing out.
    failed: bool,
    retry: Retry,
}

impl Withheld {
    /// Memory that it takes, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, due: Due, reply: Option<Bytes>) {
        let of_request = if let Due::Request(request) = &due { request.frame.len() } else { 0 };
        self.bytes += of_request + reply.as_ref().map_or(0, Bytes::len);
        self.kept.push(Kept { due, reply });
    }
}

impl Session {
    /// A reply may be kept back from it.
    fn may_be_withheld_from(&self) -> bool {
        let is_free = match self.transaction {
            Transaction::None => true,
            // Its guard is lost at a switch, whatever came behind it.
            Transaction::Watching => self.due == 1,
            Transaction::Queuing { .. } | Transaction::Broken { .. } => false,
        };
        is_free
            && self.reply_mode == ReplyMode::On
            && !self.half_closed
            && self.ending.is_none()
            && !matches!(self.wait, Some((Wait::Answer | Wait::Confirmation, _)))
    }
}

impl Multiplexer {
    /// Keeps a reply that means "not applied" back, unless that cannot be said of the request, or it is passed on.
    pub(super) fn withhold(&mut self, key: LinkKey, frame: &[u8], now: Instant) -> bool {
        let Some(link) = self.links.get_mut(key) else { return false };
        let request = link.next_frame();
        let Some(front) = link.front().filter(|run| matches!(run.kind, RunKind::Forward | RunKind::Cursor)) else {
            return false;
        };
        let Some(session_key) = front.session else { return false };
        if self.is_withheld(session_key) {
            return self.keep_replies(key, session_key, frame, 1, now);
        }
        if self.is_whole_or_scripted(&request)
            || !self.sessions.get(session_key).is_some_and(Session::may_be_withheld_from)
            || self.held_bytes > self.settings.limits.held_bytes_max
        {
            return false;
        }
        let begun = self.begun_transaction(key);
        let (acquittals, epoch) = (self.route.acquittals, self.route.epoch);
        if let Some(session) = self.sessions.get_mut(session_key) {
            let awaits_due = matches!(session.wait.take(), Some((Wait::Due, _)));
            let kept = Vec::new();
            session.withheld = Some(Box::new(Withheld { acquittals, epoch, awaits_due, begun, kept, bytes: 0 }));
        }
        self.wait(session_key, Wait::Verdict, now);
        self.keep_replies(key, session_key, frame, 1, now)
    }

    /// The client waits for a verdict: what comes for it is kept.
    pub(super) fn is_withheld(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.withheld.is_some())
    }

    /// The part of a transaction on a shared connection that was answered before the request at the front.
    fn begun_transaction(&self, key: LinkKey) -> Option<(Bytes, u32)> {
        let link = self.links.get(key).filter(|link| link.role == Role::Lane)?;
        let answered = link.answered_frames();
        let mut scanner = RequestScanner::new(usize::MAX >> 1);
        let (mut position, mut begun) = (0, None);
        while let Scan::Frame(frame) = scanner.scan(&answered[position..]) {
            let bytes = &answered[position..position + frame.bytes];
            match self.settings.policy.apply(bytes, frame.name(bytes)).class {
                Class::Pinned(Pinned::Multi) => begun = Some((position, 1)),
                Class::Pinned(Pinned::Exec) => begun = None,
                _ => begun = begun.map(|(start, commands)| (start, commands + 1)),
            }
            position += frame.bytes;
        }
        begun.map(|(start, commands)| (Bytes::copy_from_slice(&answered[start..position]), commands))
    }

    /// Keeps replies for the client whose requests are at the front.
    pub(super) fn keep_replies(
        &mut self,
        key: LinkKey,
        session_key: SessionKey,
        replies: &[u8],
        count: u32,
        now: Instant,
    ) -> bool {
        let (mut rest, mut scanner) = (replies, ReplyScanner::new());
        for _ in 0..count {
            let ReplyScan::Complete { bytes, .. } = scanner.scan(rest) else { break };
            if self.is_withheld(session_key) {
                self.keep_reply(key, session_key, &rest[..bytes], now);
            } else {
                // It was too much meanwhile.
                self.deliver(key, &rest[..bytes], 1, now);
            }
            rest = &rest[bytes..];
        }
        true
    }

    fn keep_reply(&mut self, key: LinkKey, session_key: SessionKey, reply: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(key) else { return };
        let frame = link.next_frame();
        let (is_shared, proofs) = (link.role == Role::Lane, link.proofs);
        let Some(front) = link.front() else { return };
        let (kind, attempts, at) = (front.kind.clone(), front.attempts, front.at);
        let finished = link.answer(1);
        let name = Arguments::new(&frame).next().unwrap_or_default();
        let classified = self.settings.policy.apply(&frame, name);
        let is_not_applied = cannot_serve(first_word(reply)).is_some() && !self.is_whole_or_scripted(&frame);
        let request = Unanswered {
            retry: judge_frame(classified, &frame),
            frame,
            commands: 1,
            dropped: 0,
            // What was sent to an earlier connection may have been applied there.
            sent: !is_not_applied || attempts > 0,
            begun: false,
            kind,
            insists: false,
            attempts,
            at,
            is_shared,
        };
        self.note_served(session_key, proofs);
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        session.due = session.due.saturating_sub(1);
        if session.due == 0 {
            self.settled.push(session_key);
        }
        let mut is_too_much = false;
        if let Some(withheld) = &mut session.withheld {
            let bytes_before = withheld.bytes;
            withheld.push(Due::Request(request), Some(Bytes::copy_from_slice(reply)));
            self.held_bytes += withheld.bytes - bytes_before;
            is_too_much = withheld.bytes > WITHHELD_BYTES_MAX || self.held_bytes > self.settings.limits.held_bytes_max;
        }
        if is_too_much {
            self.pass_withheld(session_key, now);
        }
        if let Some(run) = finished {
            self.finish_run(key, &run, at, now);
        }
    }

    /// Keeps a reply of Handover's own whose turn has come; false when nothing is kept back from this client.
    pub(super) fn keep_local(&mut self, key: SessionKey, reply: &Bytes) -> bool {
        let withheld = self.sessions.get_mut(key).and_then(|session| session.withheld.as_mut());
        withheld.map(|withheld| withheld.push(Due::Local(reply.clone()), None)).is_some()
    }

    /// Keeps what was due on a lost connection with what came before it: one verdict is for all.
    pub(super) fn keep_lost(&mut self, key: SessionKey, items: Vec<Due>) {
        if let Some(withheld) = self.sessions.get_mut(key).and_then(|session| session.withheld.as_mut()) {
            items.into_iter().for_each(|due| withheld.push(due, None));
        }
    }

    /// Whether nothing is kept back from this client any more. What is: repeated when the route changed, passed on when
    /// the backend was acquitted; else the client waits on.
    pub(super) fn settle_withheld(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return true };
        let Some(withheld) = &session.withheld else { return true };
        let is_moved = withheld.epoch != self.route.epoch && session.due == 0;
        let is_acquitted = withheld.epoch == self.route.epoch && withheld.acquittals != self.route.acquittals;
        if is_moved {
            self.move_withheld(key, now);
        } else if is_acquitted {
            self.pass_withheld(key, now);
        } else {
            self.wait(key, Wait::Verdict, now);
            return false;
        }
        true
    }

    /// Settles what a new epoch decides, before what became of everything in flight is reported.
    pub(super) fn move_all_withheld(&mut self, now: Instant) {
        for key in self.waiting.clone() {
            if self.is_withheld(key) {
                self.settle_withheld(key, now);
            }
        }
    }

    /// The route changed: everything is repeated in order, or nothing.
    fn move_withheld(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let is_leaving = session.half_closed || session.ending.is_some();
        let units = session.withheld.as_ref().filter(|_| !is_leaving).and_then(|withheld| self.units(withheld));
        let Some(units) = units.filter(|units| self.may_repeat(units.iter().map(|unit| &unit.due))) else {
            return self.pass_withheld(key, now);
        };
        let Some(withheld) = self.sessions.get_mut(key).and_then(|session| session.withheld.take()) else { return };
        self.held_bytes = self.held_bytes.saturating_sub(withheld.bytes);
        let terms = Terms { may_repeat: true, replays: false, is_leaving: false, epoch: withheld.epoch };
        let mut pending: Vec<Pending> = Vec::new();
        for Kept { due, reply } in units {
            match (due, reply) {
                (Due::Request(request), Some(_)) => {
                    let sent = request.sent;
                    pending.extend(self.move_on(request, sent, withheld.epoch));
                }
                (due, _) => pending.extend(self.judge_due(key, due, terms, now)),
            }
        }
        self.put_in_front(key, pending);
    }

    /// What is kept as what can be repeated: single requests and whole transactions; none when a part of it cannot.
    fn units(&self, withheld: &Withheld) -> Option<Vec<Kept>> {
        let (mut units, mut group) = (Vec::new(), None::<Group>);
        if let Some((frames, commands)) = &withheld.begun {
            let frames = BytesMut::from(&frames[..]);
            group = Some(Group { frames, commands: 0, dropped: *commands, failed: false, retry: READ });
        }
        for Kept { due, reply } in &withheld.kept {
            let request = match due {
                Due::Request(request) => request,
                Due::Local(_) => {
                    units.push(Kept { due: due.clone(), reply: reply.clone() });
                    continue;
                }
            };
            if reply.is_some() && !matches!(request.kind, RunKind::Forward | RunKind::Conditional | RunKind::Cursor) {
                return None;
            }
            let name = Arguments::new(&request.frame).next().unwrap_or_default();
            let class = self.settings.policy.apply(&request.frame, name).class;
            if group.is_none() && reply.is_some() && request.is_shared && class == Class::Pinned(Pinned::Multi) {
                group = Some(Group { frames: BytesMut::new(), commands: 0, dropped: 0, failed: false, retry: READ });
            }
            let Some(open) = &mut group else {
                units.push(Kept { due: due.clone(), reply: reply.clone() });
                continue;
            };
            let ends = match reply {
                Some(reply) => open.take(request, reply, class),
                // The rest of it was lost: the connection had all of its bytes.
                None => open.take_rest(request),
            };
            if ends {
                let open = group.take()?;
                units.push(Kept { due: Due::Request(open.into_request(request)), reply: reply.clone() });
            }
        }
        group.is_none().then_some(units)
    }

    fn count_passed(&mut self, request: &Unanswered, reply: &Bytes) {
        let counters = &mut self.counters;
        let (replies, errors) = match request.is_shared {
            true => (&mut counters.replies_shared, &mut counters.errors_shared),
            false => (&mut counters.replies_pinned, &mut counters.errors_pinned),
        };
        *replies += 1;
        *errors += u64::from(reply.starts_with(b"-"));
    }

    /// Passes on what was kept back; what was lost behind it is judged by itself.
    pub(super) fn pass_withheld(&mut self, key: SessionKey, now: Instant) {
        let Some(withheld) = self.sessions.get_mut(key).and_then(|session| session.withheld.take()) else { return };
        self.held_bytes = self.held_bytes.saturating_sub(withheld.bytes);
        let (mut lost, epoch) = (Vec::new(), withheld.epoch);
        for Kept { due, reply } in withheld.kept {
            match (due, reply) {
                (Due::Request(request), Some(reply)) if lost.is_empty() => {
                    self.count_passed(&request, &reply);
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.burst_answered |= request.sent;
                    }
                    self.append_reply(key, &reply);
                }
                (Due::Local(reply), _) if lost.is_empty() => self.append_reply(key, &reply),
                (due, _) => lost.push(due),
            }
        }
        self.deliver_deferred(key);
        self.judge_items(key, lost, epoch, now);
        if let Some(session) = self.sessions.get_mut(key) {
            session.wait = Some((Wait::Due, now)).filter(|_| withheld.awaits_due && session.due > 0);
            self.settled.push(key);
        }
    }
}

impl Group {
    /// A member that was answered; true when it ends the transaction.
    fn take(&mut self, request: &Unanswered, reply: &Bytes, class: Class) -> bool {
        self.frames.extend_from_slice(&request.frame);
        self.commands += 1;
        self.failed |= reply.starts_with(b"-");
        match class {
            Class::Pinned(Pinned::Exec) => return true,
            Class::Pinned(Pinned::Multi) => {}
            _ => self.retry = join(self.retry, request.retry),
        }
        false
    }

    /// What was due of it when its connection was lost.
    fn take_rest(&mut self, request: &Unanswered) -> bool {
        self.frames = BytesMut::from(&request.frame[..]);
        self.commands += request.commands;
        self.retry = request.retry;
        true
    }

    fn into_request(self, last: &Unanswered) -> Unanswered {
        Unanswered {
            frame: self.frames.freeze(),
            commands: self.commands,
            dropped: self.dropped,
            sent: !self.failed || last.attempts > 0,
            begun: false,
            kind: RunKind::Forward,
            retry: self.retry,
            insists: false,
            attempts: last.attempts,
            at: last.at,
            is_shared: true,
        }
    }
}
