//! A transaction in pieces: what its client has queued since MULTI is kept, so that it can be queued once more on
//! another connection when the pin is lost or the route changes. Only EXEC carries anything out, and EXEC is never
//! sent before every reply of the replay was the one that the client had been given.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::link::{Inspect, RunKind};
use super::replies::cannot_serve;
use super::session::{BrokenEnd, Pending, Session, Transaction, Wait};
use super::{INPUT_BYTES_MAX, LinkKey, Multiplexer, Output, Report, SessionKey};
use crate::command::refusal::Refusal;
use crate::resp::encode;
use crate::resp::reply::{ReplyScan, ReplyScanner, first_word};

/// Bytes of one transaction that are kept; a larger one ends with EXECABORT at a switch.
const QUEUE_BYTES_MAX: usize = INPUT_BYTES_MAX;
/// Commands of one transaction that are kept.
const QUEUE_COMMANDS_MAX: usize = 4096;
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const OK: &[u8] = b"+OK\r\n";
const QUEUED: &[u8] = b"+QUEUED\r\n";

/// What a client has queued since MULTI.
#[derive(Debug, Default)]
pub struct Queue {
    /// The connection that has all of it; none while it has to be queued once more.
    link: Option<LinkKey>,
    /// The connection that it is being queued on once more, and how many replies have come there.
    replay: Option<(LinkKey, u32)>,
    /// The commands, in order.
    frames: BytesMut,
    /// What the client was answered to each, where that was not QUEUED: an error's bytes.
    errors: Vec<(u32, Bytes)>,
    commands: u32,
    /// Each SELECT: its place in EXEC's array, and its database.
    selections: Vec<(u32, u32)>,
    /// EXEC's reply, of which some has come.
    executed: Option<Executed>,
    /// More than may be kept: nothing is, and the transaction cannot be replayed.
    is_too_large: bool,
    /// A PUBLISH is among them.
    pub publishes: bool,
}

/// How far EXEC's reply has come, and what it says of the SELECTs.
#[derive(Debug, Default)]
struct Executed {
    scanner: ReplyScanner,
    /// The element in progress.
    element: u32,
    /// SELECTs that were answered.
    selected: usize,
    /// Of the last of them that was accepted.
    database: Option<u32>,
}

impl Queue {
    /// MULTI was answered on this connection.
    pub(super) fn new(link: Option<LinkKey>) -> Self {
        Self { link, ..Self::default() }
    }

    /// Memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() + self.errors.iter().map(|(_, error)| error.len()).sum::<usize>()
    }

    /// The next part of EXEC's reply, which ends with a line or within a bulk; the database that is selected by then, if
    /// the reply says so.
    pub(super) fn follow_exec(&mut self, mut part: &[u8]) -> Option<u32> {
        if self.selections.is_empty() {
            return None;
        }
        if self.executed.is_none() {
            part = &part[memchr::memchr(b'\n', part)? + 1..];
        }
        let executed = self.executed.get_or_insert_default();
        while !part.is_empty() {
            let selection = self.selections.get(executed.selected).filter(|(index, _)| *index == executed.element);
            if let Some(&(_, database)) = selection.filter(|_| executed.scanner.at_start()) {
                executed.selected += 1;
                executed.database = Some(database).filter(|_| part.starts_with(b"+OK")).or(executed.database);
            }
            let ReplyScan::Complete { bytes, .. } = executed.scanner.scan(part) else { break };
            executed.element += 1;
            part = &part[bytes..];
        }
        executed.database
    }

    /// Keeps a command and the reply that its client is given.
    fn keep(&mut self, frame: &[u8], reply: &[u8], has_room: bool) {
        let is_full = self.commands as usize >= QUEUE_COMMANDS_MAX
            || self.bytes() + frame.len() + reply.len() > QUEUE_BYTES_MAX
            || !has_room;
        if self.is_too_large || is_full {
            self.forfeit();
            return;
        }
        self.frames.extend_from_slice(frame);
        if reply != QUEUED {
            self.errors.push((self.commands, Bytes::copy_from_slice(reply)));
        }
        self.commands += 1;
    }

    /// One of its commands cannot be sent again.
    pub(super) fn forfeit(&mut self) {
        (self.is_too_large, self.frames, self.errors) = (true, BytesMut::new(), Vec::new());
    }

    /// The reply that the replay must get next: MULTI's comes first.
    fn expected(&self, replayed: u32) -> &[u8] {
        let Some(index) = replayed.checked_sub(1) else { return OK };
        let error = self.errors.binary_search_by_key(&index, |(at, _)| *at);
        error.map_or(QUEUED, |position| &self.errors[position].1)
    }
}

impl RunKind {
    /// Between MULTI and the end of its transaction: never sent outside of it.
    pub(super) const fn is_in_transaction(&self) -> bool {
        matches!(self, Self::Queued { .. } | Self::Inspect(Inspect::Exec | Inspect::Discard))
    }
}

impl Session {
    /// The queue of a transaction that its connection has lost, or that is being replayed.
    fn unplaced_queue(&mut self) -> Option<&mut Queue> {
        let is_queuing = matches!(self.transaction, Transaction::Queuing { .. });
        self.queue.as_deref_mut().filter(|queue| is_queuing && queue.link.is_none())
    }

    /// Its next command waits for its transaction to be replayed.
    pub(super) fn awaits_replay(&self) -> bool {
        matches!(self.transaction, Transaction::Queuing { .. })
            && self.queue.as_ref().is_some_and(|queue| queue.link.is_none())
    }

    /// Outside of any transaction, without WATCH.
    pub(super) fn leave_transaction(&mut self) {
        (self.transaction, self.queue) = (Transaction::None, None);
    }
}

impl Multiplexer {
    /// A command was answered while its transaction is open: its queue remembers both.
    pub(super) fn on_queued(&mut self, key: LinkKey, frame: &[u8], database: Option<u32>, now: Instant) {
        let Some(link) = self.links.get(key) else { return };
        let request = link.front_frame();
        let is_streamed = link.front().is_some_and(|run| matches!(run.kind, RunKind::Streamed(_)));
        let has_room = !is_streamed && self.held_bytes + request.len() <= self.settings.limits.held_bytes_max / 2;
        if let Some(session) = link.front().and_then(|run| run.session).and_then(|key| self.sessions.get_mut(key))
            && let (Transaction::Queuing { queued, .. }, Some(queue)) = (&mut session.transaction, &mut session.queue)
        {
            let bytes_before = queue.bytes();
            queue.keep(&request, frame, has_room);
            self.held_bytes = (self.held_bytes + queue.bytes()).saturating_sub(bytes_before);
            if frame == QUEUED {
                queue.selections.extend(database.map(|database| (*queued, database)));
                *queued += 1;
            }
        }
        match frame.first() {
            Some(b'-') => self.on_error(key, frame, now),
            _ => self.deliver(key, frame, 1, now),
        }
    }

    /// Whether a transaction whose connection is lost can go on elsewhere, with what is due in it.
    pub(super) fn may_replay<'a>(&self, key: SessionKey, mut due: impl Iterator<Item = (&'a RunKind, bool)>) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let is_kept = session.queue.as_ref().is_some_and(|queue| !queue.is_too_large);
        let is_over = |(kind, sent): (&RunKind, bool)| match kind {
            RunKind::Inspect(Inspect::Exec) => sent,
            RunKind::Inspect(Inspect::Discard) => true,
            _ => false,
        };
        matches!(session.transaction, Transaction::Queuing { watching: false, .. }) && is_kept && !due.any(is_over)
    }

    /// The pin of an open transaction is gone, and its queue is to be replayed.
    pub(super) fn unplace_queue(&mut self, key: SessionKey) {
        if let Some(queue) = self.sessions.get_mut(key).and_then(|session| session.queue.as_mut()) {
            (queue.link, queue.replay) = (None, None);
        }
    }

    /// Whether the session's transaction, if it has one, is open on this connection; else begins to replay it there.
    pub(super) fn is_queue_placed(&mut self, key: SessionKey, link: LinkKey, now: Instant) -> bool {
        let Some(queue) = self.sessions.get_mut(key).and_then(Session::unplaced_queue) else { return true };
        if queue.replay.is_none_or(|(on, _)| on != link) {
            queue.replay = Some((link, 0));
            let frames = queue.frames.clone();
            self.prepare_transaction(key, link, &frames, now);
            self.send_replay(link, MULTI, 1, now);
        }
        false
    }

    fn send_replay(&mut self, link: LinkKey, requests: &[u8], commands: u32, now: Instant) {
        self.send_owns(link, RunKind::Replay, requests, commands, now);
    }

    /// A reply of a replay: it must be the one that the client was given.
    pub(super) fn on_replayed(&mut self, key: LinkKey, session_key: SessionKey, frame: &[u8], now: Instant) {
        self.finish_own(key, now);
        if let (Some(word), Some(link)) = (cannot_serve(first_word(frame)), self.links.get(key)) {
            self.outputs.push_back(Output::Report(Report::CannotServe { backend: link.backend, word }));
        }
        let Some(queue) = self.sessions.get_mut(session_key).and_then(Session::unplaced_queue) else { return };
        let Some((on, replayed)) = queue.replay.filter(|(on, _)| *on == key) else { return };
        if queue.expected(replayed) != frame {
            return self.give_up_replay(session_key);
        }
        queue.replay = Some((on, replayed + 1));
        if replayed == 0 && queue.commands > 0 {
            // Only now: had MULTI been refused, these would have been carried out.
            let (frames, commands) = (queue.frames.clone(), queue.commands);
            self.send_replay(key, &frames, commands, now);
        } else if replayed == queue.commands {
            (queue.link, queue.replay) = (Some(key), None);
            self.settled.push(session_key);
        }
    }

    /// The transaction cannot be replayed, or not in time: it goes on without a backend and ends with EXECABORT.
    pub(super) fn give_up_replay(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        // What was begun there is no transaction of anybody's: the connection ends.
        let link = session.pin.as_mut().and_then(|pin| pin.link.take());
        session.link = session.link.filter(|_| session.due > 0);
        if let Some(link) = link {
            self.close_link(link, false);
        }
        self.break_transaction(key);
        self.settled.push(key);
    }

    /// The pin of a transaction or WATCH is gone: it goes on without a backend and cannot succeed.
    pub(super) fn break_transaction(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let broken = match session.transaction {
            Transaction::Watching => Transaction::Broken { queuing: false, end: BrokenEnd::Nil },
            Transaction::Queuing { watching, .. } => {
                let end = if watching { BrokenEnd::Nil } else { BrokenEnd::Moved };
                Transaction::Broken { queuing: true, end }
            }
            Transaction::None | Transaction::Broken { .. } => return,
        };
        (session.transaction, session.queue) = (broken, None);
        session.drop_idle_pin();
    }

    /// Answers what was to be sent within a transaction that is none any more; false when it can be sent.
    pub(super) fn answer_outside_transaction(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(Pending::Send { kind, arrived, epoch, .. }) = session.pending.front() else { return false };
        let is_open = matches!(session.transaction, Transaction::Queuing { .. });
        // Connections that open and break again and again, without a switch.
        let is_late = *epoch == self.route.epoch
            && now.saturating_duration_since(*arrived) > self.settings.retry.deadline
            && session.awaits_replay();
        if !kind.is_in_transaction() || (is_open && !is_late) {
            return false;
        }
        let kind = kind.clone();
        if is_late {
            self.give_up_replay(key);
        }
        let Some(session) = self.sessions.get_mut(key) else { return false };
        session.pending.pop_front();
        let end = match session.transaction {
            Transaction::Broken { end, .. } => end,
            Transaction::None | Transaction::Watching | Transaction::Queuing { .. } => BrokenEnd::Moved,
        };
        match kind {
            RunKind::Inspect(Inspect::Exec) => self.end_broken(key, end, now),
            RunKind::Inspect(_) => {
                session.leave_transaction();
                self.answer(key, |out| encode::simple(out, "OK"), now);
            }
            _ if end == BrokenEnd::Refused => self.refuse(key, &Refusal::OutsideTransaction, now),
            _ => self.answer(key, |out| encode::simple(out, "QUEUED"), now),
        }
        true
    }

    /// An EXEC that publishes waits until the subscriptions are restored after a switch; one that writes, for the end of
    /// a pause.
    pub(super) fn exec_must_wait(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let publishes = session.queue.as_ref().is_some_and(|queue| queue.publishes);
        let what = if self.pause.is_some_and(|pause| !pause.writes_only || session.queues_write) {
            Wait::Pause
        } else if publishes && self.publish_barrier.is_some() {
            Wait::Lane
        } else {
            return false;
        };
        self.wait(key, what, now);
        true
    }
}
