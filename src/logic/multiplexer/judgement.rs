//! What becomes of requests whose connection is lost: moved, repeated, armed again, or answered "outcome unknown".

use std::collections::HashMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::link::{Inspect, Link, Role, Run, RunKind};
use super::replies::is_resp3;
use super::requests::publishes;
use super::session::{BrokenEnd, CloseReason, Pending, Session, Transaction};
use super::wait::BROKEN_CONTINUITY;
use super::{LinkKey, Multiplexer, Output, Report, SessionKey};
use crate::command::blocking;
use crate::command::classify::Classified;
use crate::command::refusal::Refusal;
use crate::command::retry::{self, Category, Retry};
use crate::command::table::{Class, Pinned};
use crate::logic::settings::{Publish, RetryCeiling};
use crate::resp::arguments::Arguments;
use crate::resp::encode;
use crate::resp::request::{RequestScanner, Scan};

/// One request, or one whole transaction, without a reply.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    /// Its bytes.
    pub frame: Bytes,
    /// How many replies are due for it.
    pub commands: u32,
    /// How many more come first when it is sent again, which the client has already.
    pub dropped: u32,
    /// Its last byte was handed to the kernel, so that it may have been applied.
    pub sent: bool,
    /// A transaction of which some replies had come.
    pub begun: bool,
    pub kind: RunKind,
    pub retry: Retry,
    /// Repeated whatever the ceiling: a PUBLISH that the operator wants to arrive at least once.
    pub insists: bool,
    pub attempts: u32,
    pub at: Instant,
    /// It was on a connection that clients share.
    pub is_shared: bool,
}

/// What is due to a session from the lost connection, in order.
#[derive(Clone, Debug)]
pub(super) enum Due {
    Request(Unanswered),
    Local(Bytes),
}

/// What decides over everything that is due to one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What was sent may be repeated.
    pub may_repeat: bool,
    /// The transaction that is open goes on elsewhere.
    pub replays: bool,
    /// The client has said that it will send nothing more.
    pub is_leaving: bool,
    /// The epoch of the connection that was lost.
    pub epoch: u64,
}

impl Multiplexer {
    /// A backend connection was closed or broke.
    pub fn on_link_lost(&mut self, key: LinkKey, cause: &str, now: Instant) {
        self.drop_link(key, cause, now);
        self.advance_settled(now);
        self.check_drained();
    }

    /// Ends a connection because of what came from it.
    pub(super) fn lose_link(&mut self, key: LinkKey, cause: &str, now: Instant) {
        if self.links.get(key).is_some() {
            self.outputs.push_back(Output::CloseLink { link: key, reset: true });
            self.drop_link(key, cause, now);
        }
    }

    fn drop_link(&mut self, key: LinkKey, cause: &str, now: Instant) {
        let Some(link) = self.links.get(key) else { return };
        let (backend, epoch) = (link.backend, link.epoch);
        self.continuity += u64::from(link.role == Role::Lane);
        let lost = self.judge_link(key, now);
        self.doubt_scripts();
        // One fault, however much was in flight: a deep pipeline on one killed connection is no reason to switch.
        let record = self.record(backend);
        record.failures += u64::from(lost > 0);
        record.forget_refusals();
        self.outputs.push_back(Output::Report(Report::LinkLost { backend, epoch, cause: cause.to_owned() }));
    }

    /// Forgets a connection and judges what was due on it; returns how many requests of clients that was.
    pub(super) fn judge_link(&mut self, key: LinkKey, now: Instant) -> u64 {
        let Some(mut link) = self.remove_link(key) else { return 0 };
        self.forget_link(key, link.proven, now);
        if let Role::Subscription(session) = link.role {
            self.on_subscription_lost(session, key, &link, now);
            return 0;
        }
        let is_read = |key: &SessionKey| self.sessions.get(*key).is_some_and(|session| !session.reply_mode.is_muted());
        let cut =
            link.streamed_bytes.is_some().then(|| link.front().and_then(|run| run.session)).flatten().filter(is_read);
        let epoch = link.epoch;
        let owner = if let Role::Pin(owner) = link.role { owner } else { None };
        let is_shared = matches!(link.role, Role::Lane | Role::Standby);
        let mut lost = self.judge_upload(&mut link, cut.is_some());
        let (mut order, mut due) = self.collect_due(&mut link, is_shared);
        if let Some(owner) = owner
            && !due.contains_key(&owner)
        {
            order.push(owner);
            due.insert(owner, Vec::new());
        }
        if let Some(owner) = owner.filter(|&owner| cut != Some(owner)) {
            self.invalidate_all(owner, now);
        }
        if let Some(owner) = owner {
            self.greet_if_changed(owner, now);
        }
        for session_key in order {
            let items = due.remove(&session_key).unwrap_or_default();
            lost += items.iter().map(|item| u64::from(item.requests())).sum::<u64>();
            self.judge_session(session_key, items, cut == Some(session_key), epoch, now);
        }
        lost
    }

    /// Takes a connection out of every list.
    fn forget_link(&mut self, key: LinkKey, proven: bool, now: Instant) {
        if !proven {
            self.retry_lane_later(key, now);
        }
        for lane in self.lanes.iter_mut().chain(&mut self.standbys).filter(|lane| lane.link == Some(key)) {
            (lane.link, lane.failures, lane.retry_at) = (None, 0, None);
        }
        self.pool.retain(|&pooled| pooled != key);
    }

    /// What is due on a lost connection, by session, and the sessions in the order of their first request.
    fn collect_due(&mut self, link: &mut Link, is_shared: bool) -> (Vec<SessionKey>, HashMap<SessionKey, Vec<Due>>) {
        let (runs, retained, written) = link.take_all();
        let (mut order, mut due) = (Vec::new(), HashMap::<SessionKey, Vec<Due>>::new());
        let mut offset = 0;
        for run in runs {
            let requests = retained.slice(offset..offset + run.bytes);
            let written_here = written.saturating_sub(offset).min(run.bytes);
            offset += run.bytes;
            let Some(session_key) = run.session else { continue };
            let is_local = matches!(run.kind, RunKind::Local(_));
            if self.sessions.get(session_key).is_none() {
                let gone = if is_local { 0 } else { u64::from(run.due()) };
                self.in_flight = self.in_flight.saturating_sub(gone as usize);
                self.note(|judged| &mut judged.gone, gone);
                continue;
            }
            let items = due.entry(session_key).or_insert_with(|| {
                order.push(session_key);
                Vec::new()
            });
            match run.kind {
                RunKind::Local(reply) => items.push(Due::Local(reply)),
                _ => self.split_run(&run, &requests, written_here, is_shared, items),
            }
        }
        (order, due)
    }

    /// Splits a run into its unanswered requests; a whole transaction, which only shared connections carry, stays one.
    fn split_run(&self, run: &Run, requests: &Bytes, written: usize, is_shared: bool, items: &mut Vec<Due>) {
        let mut scanner = RequestScanner::new(usize::MAX >> 1);
        let (mut position, mut index) = (0, 0);
        let had = run.answered.max(run.dropped);
        // The transaction in progress: where it starts, its first command's index, and its members' judgement.
        let mut transaction: Option<(usize, u32, Option<Retry>)> = None;
        while position < requests.len() {
            let Scan::Frame(frame) = scanner.scan(&requests[position..]) else { break };
            let bytes = &requests[position..position + frame.bytes];
            let classified = self.settings.policy.apply(bytes, frame.name(&requests[position..]));
            let end = position + frame.bytes;
            let insists = publishes(classified) && self.settings.pubsub.publish == Publish::AtLeastOnce;
            let judged = judge_frame(classified, bytes);
            // How many heard of it the first time matters to nobody who wants it to be repeated.
            let retry = Retry { blind: judged.blind || insists, ..judged };
            let mut unit = Some((position, index, retry, 1));
            if is_shared && matches!(run.kind, RunKind::Forward) && run.commands > 1 {
                match (classified.class, &mut transaction) {
                    (Class::Pinned(Pinned::Multi), None) => {
                        transaction = Some((position, index, None));
                        unit = None;
                    }
                    (Class::Pinned(Pinned::Exec), Some((start, first, members))) => {
                        unit = Some((*start, *first, members.unwrap_or(READ), index - *first + 1));
                        transaction = None;
                    }
                    (_, Some((_, _, members))) => {
                        *members = Some(members.map_or(retry, |sum| join(sum, retry)));
                        unit = None;
                    }
                    (_, None) => {}
                }
            }
            if let Some((start, first, retry, commands)) = unit
                && index >= had
            {
                let answered = had.saturating_sub(first).min(commands);
                items.push(Due::Request(Unanswered {
                    frame: requests.slice(start..end),
                    commands: commands - answered,
                    dropped: 0,
                    // What was sent to an earlier connection may have been applied there.
                    sent: end <= written || run.attempts > 0,
                    begun: answered > 0,
                    kind: run.kind.clone(),
                    retry,
                    insists: insists && commands == 1,
                    attempts: run.attempts,
                    at: run.at,
                    is_shared,
                }));
            }
            position = end;
            index += 1;
        }
    }

    /// Judges what was due to one session, and lets it go on.
    fn judge_session(&mut self, key: SessionKey, items: Vec<Due>, is_cut: bool, epoch: u64, now: Instant) {
        let requests: u32 = items.iter().map(Due::requests).sum();
        self.in_flight = self.in_flight.saturating_sub(requests as usize);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.due = 0;
        session.link = None;
        session.continuity = BROKEN_CONTINUITY;
        if let Some(pin) = session.pin.as_mut() {
            // Still tainted: what made it so may be sent again.
            pin.link = None;
        }
        if is_cut {
            self.count_uncertain(u64::from(requests));
            return self.remove_session(key, CloseReason::ReplyCut);
        }
        let replays = !(session.half_closed || session.ending.is_some()) && self.may_replay(key, kinds_sent(&items));
        if self.is_withheld(key) {
            self.keep_lost(key, items);
        } else {
            self.judge_items(key, items, epoch, now);
        }
        if replays {
            self.unplace_queue(key);
        } else {
            self.break_transaction(key);
        }
        self.advance_session(key, now);
        self.finish_if_done(key);
    }

    /// Judges what was due to one session on a connection that is gone; it comes before everything that is pending.
    pub(super) fn judge_items(&mut self, key: SessionKey, items: Vec<Due>, epoch: u64, now: Instant) {
        let Some(session) = self.sessions.get(key).filter(|_| !items.is_empty()) else { return };
        let is_leaving = session.half_closed || session.ending.is_some();
        let terms = Terms {
            may_repeat: !is_leaving && self.may_repeat(items.iter()),
            replays: !is_leaving && self.may_replay(key, kinds_sent(&items)),
            is_leaving,
            epoch,
        };
        let pending: Vec<Pending> = items.into_iter().flat_map(|item| self.judge_due(key, item, terms, now)).collect();
        let is_answered = pending.iter().any(|item| matches!(item, Pending::Answer(_)));
        if let Some(session) = self.sessions.get_mut(key) {
            session.burst_answered |= is_answered;
        }
        self.put_in_front(key, pending);
    }

    /// Puts what was judged before what is pending.
    pub(super) fn put_in_front(&mut self, key: SessionKey, pending: Vec<Pending>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        for item in pending.into_iter().rev() {
            session.pending.push_front(item);
        }
    }

    /// Whether what was sent may be repeated: one request by its category; several, or a transaction, only if all
    /// of them are reads, or all are writes whose replies do not depend on what was there before.
    pub(super) fn may_repeat<'a>(&self, items: impl Iterator<Item = &'a Due>) -> bool {
        let sent: Vec<&Unanswered> = items.filter_map(Due::sent_by_category).collect();
        let ceiling = self.settings.retry.ceiling;
        if ceiling == RetryCeiling::Always {
            return true;
        }
        let all = |test: fn(&Unanswered) -> bool| sent.iter().all(|&item| test(item));
        let is_one = sent.len() == 1 && sent[0].commands == 1 && !sent[0].begun;
        (is_one || all(|item| item.retry.category <= Category::ReadOnly) || all(|item| item.retry.blind))
            && all(|item| !item.begun)
            && sent.iter().all(|item| item.insists || ceiling.permits(item.retry.category))
    }

    /// What becomes of one thing that was due.
    pub(super) fn judge_due(&mut self, key: SessionKey, item: Due, terms: Terms, now: Instant) -> Vec<Pending> {
        let Terms { may_repeat, is_leaving, epoch, .. } = terms;
        let request = match item {
            Due::Local(reply) => return vec![Pending::Answer(reply)],
            Due::Request(request) => request,
        };
        if request.sent {
            self.counters.lost[request.retry.category as usize] += u64::from(request.commands);
        }
        let transaction = self.sessions.get(key).map_or(Transaction::None, |session| session.transaction);
        if terms.replays {
            return self.move_queued(request, epoch);
        }
        if let Transaction::Queuing { watching, .. } = transaction {
            return self.judge_queued(key, &request, watching);
        }
        match &request.kind {
            // Its transaction has ended, and it never runs outside of it.
            RunKind::Queued { .. } => self.judge_queued(key, &request, false),
            RunKind::Inspect(Inspect::Unwatch) => {
                self.set_transaction(key, Transaction::None);
                self.note(|judged| &mut judged.aborted, 1);
                vec![answer(|out| encode::simple(out, "OK"))]
            }
            // Whatever it guards now: the guard of the first WATCH is lost.
            RunKind::Inspect(Inspect::Watch) if transaction == Transaction::Watching => {
                self.note(|judged| &mut judged.aborted, 1);
                vec![answer(|out| encode::simple(out, "OK"))]
            }
            RunKind::Inspect(Inspect::Multi) if transaction == Transaction::Watching => {
                self.set_transaction(key, Transaction::Broken { queuing: true, end: BrokenEnd::Nil });
                self.note(|judged| &mut judged.aborted, 1);
                vec![answer(|out| encode::simple(out, "OK"))]
            }
            _ if is_leaving => {
                self.note_refused_transaction(key, &request.kind);
                self.refuse_due(&request)
            }
            RunKind::Inspect(Inspect::Tracking(frame)) => {
                self.take_again(key, frame);
                self.note(|judged| &mut judged.moved, 1);
                Vec::new()
            }
            RunKind::Inspect(_) => self.move_on(request, false, epoch),
            // On another connection its answer would not be true.
            RunKind::Wait { .. } if !request.sent => {
                self.note(|judged| &mut judged.not_applied, 1);
                vec![refusal(&Refusal::WaitMoved)]
            }
            RunKind::Wait { .. } => self.refuse_due(&request),
            RunKind::Blocking { deadline } if self.settings.retry.rearm_blocked => {
                let (deadline, sent) = (*deadline, request.sent);
                vec![self.rearm(key, &request.frame, deadline, sent, request.at, epoch, now)]
            }
            _ if !request.sent => self.move_on(request, false, epoch),
            RunKind::Blocking { .. } => self.refuse_due(&request),
            _ if request.begun => self.abandon_begun(&request),
            _ if may_repeat => self.move_on(request, true, epoch),
            _ => self.refuse_due(&request),
        }
    }

    /// A request goes to the next connection: for the first time, or once more.
    pub(super) fn move_on(&mut self, request: Unanswered, sent: bool, epoch: u64) -> Vec<Pending> {
        let commands = u64::from(request.commands);
        if request.begun {
            return self.abandon_begun(&request);
        }
        match sent {
            true => self.note(|judged| &mut judged.repeated, commands),
            false => self.note(|judged| &mut judged.moved, commands),
        }
        let is_conditional = sent
            && request.retry.category == Category::WriteChecked
            && self.settings.retry.ceiling != RetryCeiling::Always
            && request.commands == 1;
        let kind = if is_conditional { RunKind::Conditional } else { request.kind };
        vec![Pending::Send {
            frame: request.frame,
            commands: request.commands + request.dropped,
            dropped: request.dropped,
            kind,
            sent,
            read_only: request.retry.category <= Category::ReadOnly,
            attempts: request.attempts + u32::from(sent),
            arrived: request.at,
            epoch,
        }]
    }

    /// A request whose outcome nobody knows, or that cannot be moved since its client is leaving.
    fn refuse_due(&mut self, request: &Unanswered) -> Vec<Pending> {
        let commands = u64::from(request.commands);
        if !request.sent {
            self.note(|judged| &mut judged.not_applied, commands);
            return vec![refusal(&Refusal::Unavailable); request.commands as usize];
        }
        self.count_uncertain(commands);
        if request.commands == 1 {
            return vec![refusal(&Refusal::Uncertain)];
        }
        // A transaction: its queue was surely accepted, what EXEC did is unknown.
        let mut replies = vec![answer(|out| encode::simple(out, "OK"))];
        replies.resize(request.commands as usize - 1, answer(|out| encode::simple(out, "QUEUED")));
        replies.push(refusal(&Refusal::Uncertain));
        replies
    }

    /// A transaction of which the first replies had come: it cannot be moved.
    fn abandon_begun(&mut self, request: &Unanswered) -> Vec<Pending> {
        let mut replies = vec![answer(|out| encode::simple(out, "QUEUED")); request.commands as usize - 1];
        if request.sent {
            self.count_uncertain(u64::from(request.commands));
            replies.push(refusal(&Refusal::Uncertain));
        } else {
            self.note(|judged| &mut judged.aborted, u64::from(request.commands));
            replies.push(refusal(&Refusal::TransactionMoved));
        }
        replies
    }

    /// A whole transaction may travel on this connection unawaited.
    pub(super) fn takes_groups(&self, link: LinkKey) -> bool {
        self.links.get(link).is_some_and(|link| link.takes_groups)
    }

    /// A whole transaction was judged, and where it would go MULTI is not permitted: its members must not run alone.
    pub(super) fn refuse_group(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(Pending::Send { commands, dropped, sent, read_only, .. }) = session.pending.pop_front() else {
            return;
        };
        for index in dropped..commands {
            match index {
                0 if commands > 1 => self.answer(key, |out| encode::simple(out, "OK"), now),
                _ if index + 1 < commands => self.answer(key, |out| encode::simple(out, "QUEUED"), now),
                _ if sent && !read_only => self.refuse(key, &Refusal::Uncertain, now),
                _ => self.refuse(key, &Refusal::TransactionMoved, now),
            }
        }
    }

    /// Something due in a transaction that goes on elsewhere: nothing of it was carried out.
    fn move_queued(&mut self, request: Unanswered, epoch: u64) -> Vec<Pending> {
        match request.sent {
            true => self.note(|judged| &mut judged.repeated, 1),
            false => self.note(|judged| &mut judged.moved, 1),
        }
        vec![Pending::Send {
            frame: request.frame,
            commands: 1,
            dropped: 0,
            kind: request.kind,
            sent: false,
            read_only: false,
            attempts: 0,
            arrived: request.at,
            epoch,
        }]
    }

    /// Something due between MULTI and EXEC on a pin.
    fn judge_queued(&mut self, key: SessionKey, request: &Unanswered, watching: bool) -> Vec<Pending> {
        let protocol = self.sessions.get(key).map(|session| session.profile.protocol).unwrap_or_default();
        match request.kind {
            RunKind::Inspect(Inspect::Exec) if request.sent => {
                self.set_transaction(key, Transaction::None);
                self.count_uncertain(1);
                vec![refusal(&Refusal::Uncertain)]
            }
            RunKind::Inspect(Inspect::Exec) => {
                self.set_transaction(key, Transaction::None);
                self.note(|judged| &mut judged.aborted, 1);
                match watching {
                    true => vec![answer(|out| encode::null_array(out, protocol))],
                    false => vec![refusal(&Refusal::TransactionMoved)],
                }
            }
            RunKind::Inspect(Inspect::Discard) => {
                self.set_transaction(key, Transaction::None);
                self.note(|judged| &mut judged.aborted, 1);
                vec![answer(|out| encode::simple(out, "OK"))]
            }
            _ => {
                self.note(|judged| &mut judged.aborted, 1);
                vec![answer(|out| encode::simple(out, "QUEUED"))]
            }
        }
    }

    /// Looks at a request once more, as if it had just been read.
    pub(super) fn take_again(&mut self, key: SessionKey, frame: &[u8]) {
        if let Some(session) = self.sessions.get_mut(key) {
            let mut input = BytesMut::from(frame);
            input.extend_from_slice(&session.input);
            session.input = input;
            session.scanner.reset();
            session.skip_again();
        }
    }

    fn set_transaction(&mut self, key: SessionKey, transaction: Transaction) {
        if let Some(session) = self.sessions.get_mut(key) {
            (session.transaction, session.queue) = (transaction, None);
        }
    }

    /// A blocked command waits again, with the time that is left.
    #[expect(clippy::too_many_arguments, reason = "the parts of one run")]
    fn rearm(
        &mut self,
        key: SessionKey,
        frame: &Bytes,
        deadline: Option<Instant>,
        sent: bool,
        at: Instant,
        epoch: u64,
        now: Instant,
    ) -> Pending {
        self.note(|judged| &mut judged.rearmed, 1);
        let name = Arguments::new(frame).next().unwrap_or_default();
        let command = self.settings.policy.apply(frame, name).command;
        let time_left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let frame = match (time_left, command) {
            (Some(time_left), Some(command)) if time_left.is_zero() => {
                let protocol = self.sessions.get(key).map(|session| session.profile.protocol).unwrap_or_default();
                return Pending::Answer(Bytes::from_static(blocking::nil_reply(command, is_resp3(protocol))));
            }
            (Some(time_left), Some(command)) => Bytes::from(blocking::with_timeout(command, frame, time_left)),
            _ => frame.clone(),
        };
        let kind = RunKind::Blocking { deadline };
        Pending::Send { frame, commands: 1, dropped: 0, kind, sent, read_only: false, attempts: 0, arrived: at, epoch }
    }

    /// The blocked command at the front of a pin was unblocked for a planned switch: it waits again on the new active.
    pub(super) fn rearm_front(&mut self, key: LinkKey, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(key) else { return false };
        let frame = link.front_frame();
        let epoch = link.epoch;
        let Some(Run { session: Some(session_key), kind: RunKind::Blocking { deadline }, at, .. }) = link.answer(1)
        else {
            return false;
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        let pending = self.rearm(session_key, &frame, deadline, false, at, epoch, now);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.due -= 1;
            session.pending.push_front(pending);
            if session.due == 0 {
                self.settled.push(session_key);
            }
        }
        true
    }

    fn count_uncertain(&mut self, commands: u64) {
        self.note(|judged| &mut judged.uncertain, commands);
    }
}

impl Due {
    const fn requests(&self) -> u32 {
        match self {
            Self::Request(request) => request.commands,
            Self::Local(_) => 0,
        }
    }

    /// A request that was sent and whose repeat is a matter of its category.
    fn sent_by_category(&self) -> Option<&Unanswered> {
        match self {
            Self::Request(request) if request.sent => match request.kind {
                RunKind::Forward | RunKind::Conditional | RunKind::Cursor | RunKind::Script(_) => Some(request),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Session {
    /// Forgets a pin that has no connection, unless the session keeps one for life.
    pub(super) fn drop_idle_pin(&mut self) {
        if !self.keeps_pin() && self.pin.as_ref().is_some_and(|pin| pin.link.is_none() && !pin.dedicated) {
            self.pin = None;
        }
    }
}

/// What was due, and whether it was sent.
fn kinds_sent(items: &[Due]) -> impl Iterator<Item = (&RunKind, bool)> {
    items.iter().filter_map(|item| match item {
        Due::Request(request) => Some((&request.kind, request.sent)),
        Due::Local(_) => None,
    })
}

/// A transaction without commands changes nothing.
pub(super) const READ: Retry = Retry { category: Category::ReadOnly, blind: true };

pub(super) fn judge_frame(classified: Classified, frame: &[u8]) -> Retry {
    classified.command.map_or(Retry::UNKNOWN, |command| retry::judge(command, Arguments::new(frame)))
}

/// Two requests as one: as unsafe as the worse of them.
pub(super) fn join(first: Retry, second: Retry) -> Retry {
    Retry { category: first.category.max(second.category), blind: first.blind && second.blind }
}

pub(super) fn answer(write: impl FnOnce(&mut BytesMut)) -> Pending {
    let mut reply = BytesMut::new();
    write(&mut reply);
    Pending::Answer(reply.freeze())
}

pub(super) fn refusal(refusal: &Refusal) -> Pending {
    answer(|out| encode::error(out, &refusal.to_string()))
}
