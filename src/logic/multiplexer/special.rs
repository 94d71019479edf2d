//! Requests that are not simply shared: those that need a connection of the client's own, transactions,
//! and what is refused. What Handover answers itself stands in `answers`.

use std::time::Instant;

use super::link::{Inspect, RunKind};
use super::pause::may_write;
use super::pubsub::subscribes;
use super::requests::{Request, Step, Whole, whole_transaction};
use super::session::{BrokenEnd, Transaction, Wait};
use super::{LinkKey, Multiplexer, SessionKey};
use crate::command::blocking::{self, BlockTimeout};
use crate::command::refusal::{Refusal, quoted_name};
use crate::command::table::{self, Answered, Class, Pinned};
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::parse_number;

impl Multiplexer {
    /// Carries out one request that is not simply shared.
    pub(super) fn take_special(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        if self.pauses(key, &request) {
            self.wait(key, Wait::Pause, now);
            return Step::Wait;
        }
        let Some(session) = self.sessions.get_mut(key) else { return Step::Wait };
        let is_next = subscribes(request.classified.class) && !request.is_of_wrong_length();
        if !session.is_settled() && !is_next {
            self.wait(key, Wait::Confirmation, now);
            return Step::Wait;
        }
        session.begin_skipped();
        if let Some(command) = request.classified.command {
            session.peer.last_command = command.name;
        }
        if !session.access.is_authenticated {
            return self.take_unauthenticated(key, request, now);
        }
        let transaction = session.transaction;
        let subscribed = session.is_subscriber() && session.profile.protocol == Protocol::Resp2;
        match (transaction, request.classified.class) {
            (_, Class::Closed) => {
                self.end_for_foreign_protocol(key);
                Step::Done { bytes: request.bytes }
            }
            (Transaction::Queuing { .. }, _) => self.take_queued(key, request, now),
            (Transaction::Broken { queuing, end }, _) => self.take_in_broken(key, request, queuing, end, now),
            (_, class) if subscribed => self.take_subscribed(key, request, class, now),
            (_, class) => self.take_by_class(key, request, class, now),
        }
    }

    fn take_by_class(&mut self, key: SessionKey, request: Request<'_>, class: Class, now: Instant) -> Step {
        if self.publish_barrier.is_some() && request.publishes() {
            self.wait(key, Wait::Lane, now);
            return Step::Wait;
        }
        match class {
            Class::Refused | Class::Closed => self.refuse_command(key, request, now),
            Class::Answered(answered) => self.take_answered(key, answered, request, now),
            Class::Pinned(pinned) => self.take_pinned(key, pinned, request, now),
            Class::Cursor => self.take_cursor(key, request, now),
            Class::Shared => self.take_shared(key, request, RunKind::Forward, now),
        }
    }

    /// Puts a request on the lane, or on the session's own connection when it has one or is too large.
    pub(super) fn take_shared(&mut self, key: SessionKey, request: Request<'_>, kind: RunKind, now: Instant) -> Step {
        let is_plain = self.sessions.get(key).is_some_and(super::Session::is_plain);
        if !is_plain || request.is_large() {
            return self.forward_on_pin(key, request, kind, now);
        }
        let Some(link) = self.lane_link(key, now) else { return Step::Wait };
        self.send_request(link, key, request, kind, now);
        Step::Done { bytes: request.bytes }
    }

    /// Says that a command is refused, and by whom.
    pub(super) fn refuse_command(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let name = self.command_name(request);
        // What follows a container such as MODULE may be no subcommand that the table has.
        let command = request.classified.command.or_else(|| table::find(request.name));
        let is_refused_by_default = command.is_some_and(|command| command.class == Class::Refused);
        let refusal = match is_refused_by_default {
            true => Refusal::RefusedCommand(name),
            false => Refusal::DeniedCommand(name),
        };
        self.refuse(key, &refusal, now);
        Step::Done { bytes: request.bytes }
    }

    pub(super) fn command_name(&self, request: Request<'_>) -> String {
        request.classified.command.map_or_else(|| quoted_name(request.name), |command| command.name.to_owned())
    }

    /// Puts a request on the session's own connection.
    pub(super) fn forward_on_pin(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        kind: RunKind,
        now: Instant,
    ) -> Step {
        let Some(link) = self.own_link(key, now) else { return Step::Wait };
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.state.is_some()) {
            session.spend_caching(request.classified.command.is_some_and(|command| command.name.starts_with("client")));
        }
        self.send_request(link, key, request, kind, now);
        Step::Done { bytes: request.bytes }
    }

    /// The same, and nothing more is looked at until its reply has come.
    pub(super) fn forward_and_wait(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        kind: RunKind,
        now: Instant,
    ) -> Step {
        let step = self.forward_on_pin(key, request, kind, now);
        if step != Step::Wait {
            self.wait(key, Wait::Due, now);
        }
        step
    }

    /// What the pin holds cannot be washed off: it is closed at its release.
    pub(super) fn taint(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.taint_pin();
        }
    }

    fn take_pinned(&mut self, key: SessionKey, pinned: Pinned, request: Request<'_>, now: Instant) -> Step {
        let has_one_argument = Arguments::new(request.frame).remaining() == 1;
        match pinned {
            Pinned::Multi if !has_one_argument => self.refuse_arity(key, request, now),
            Pinned::Multi => self.take_multi(key, request, now),
            Pinned::Watch if has_one_argument => self.refuse_arity(key, request, now),
            Pinned::Unwatch | Pinned::Exec | Pinned::Discard if !has_one_argument => {
                self.refuse_arity(key, request, now)
            }
            Pinned::Watch => self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Watch), now),
            Pinned::Unwatch if self.is_watching(key) => {
                self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Unwatch), now)
            }
            Pinned::Unwatch => self.answer_ok(key, request, now),
            Pinned::Exec | Pinned::Discard => {
                let name = if pinned == Pinned::Exec { "EXEC" } else { "DISCARD" };
                self.refuse(key, &Refusal::WithoutMulti(name), now);
                Step::Done { bytes: request.bytes }
            }
            Pinned::Script => self.take_script(key, request, now),
            Pinned::Blocking => self.take_blocking(key, request, now),
            Pinned::Wait => self.take_wait(key, request, now),
            Pinned::Tracking | Pinned::FieldSets => self.take_stateful(key, pinned, request, now),
            Pinned::Monitor => self.forward_tainted(key, request, RunKind::Inspect(Inspect::Monitor), now),
            Pinned::Admin => self.forward_tainted(key, request, RunKind::Forward, now),
        }
    }

    pub(super) fn forward_tainted(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        kind: RunKind,
        now: Instant,
    ) -> Step {
        let step = self.forward_and_wait(key, request, kind, now);
        if step != Step::Wait {
            self.taint(key);
        }
        step
    }

    pub(super) fn refuse_arity(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        self.refuse(key, &Refusal::WrongArity(self.command_name(request)), now);
        Step::Done { bytes: request.bytes }
    }

    fn answer_ok(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        self.answer(key, |out| encode::simple(out, "OK"), now);
        Step::Done { bytes: request.bytes }
    }

    fn is_watching(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.transaction == Transaction::Watching)
    }

    /// A transaction that arrived whole travels on the lane as one contiguous group; one in pieces takes a pin.
    fn take_multi(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        // Between a reply that is skipped and one that is not, or under a pause for writes, each goes by itself.
        let may_share = self.pause.is_none() && self.sessions.get(key).is_some_and(super::Session::may_share);
        let whole =
            may_share.then(|| whole_transaction(request.input, |frame, name| self.policy_of(key).apply(frame, name)));
        let Some(Whole { bytes, commands, publishes }) = whole.flatten() else {
            if let Some(session) = self.sessions.get_mut(key) {
                session.queues_write = false;
            }
            return self.take_multi_alone(key, request, now);
        };
        if publishes && self.publish_barrier.is_some() {
            self.wait(key, Wait::Lane, now);
            return Step::Wait;
        }
        let Some(link) = self.lane_link(key, now) else { return Step::Wait };
        if !self.takes_groups(link) {
            // Were MULTI refused there, what follows would be carried out outside of it: its answer is awaited first.
            return self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Multi), now);
        }
        self.send(link, key, &request.input[..bytes], commands, RunKind::Forward, now);
        Step::Done { bytes }
    }

    /// A transaction in pieces: what it may call is loaded before it begins.
    fn take_multi_alone(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(link) = self.own_link(key, now) else { return Step::Wait };
        self.prepare_transaction(key, link, &request.input[request.bytes..], now);
        self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Multi), now)
    }

    fn take_blocking(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let timeout =
            request.classified.command.and_then(|command| blocking::timeout(command, Arguments::new(request.frame)));
        let deadline = match timeout {
            Some(BlockTimeout::For(time)) => now.checked_add(time),
            Some(BlockTimeout::Forever) | None => None,
        };
        self.forward_and_wait(key, request, RunKind::Blocking { deadline }, now)
    }

    /// Between MULTI and EXEC everything goes to the pin, but for what breaks the framing of EXEC's array there.
    fn take_queued(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let stays = matches!(
            request.classified.class,
            Class::Pinned(Pinned::Discard) | Class::Answered(Answered::Reset | Answered::Quit)
        );
        if stays && request.is_of_wrong_length() {
            // The server refuses it and stays in the transaction.
            return self.queue(key, request, false, None, now);
        }
        let Class::Answered(answered) = request.classified.class else {
            return match request.classified.class {
                Class::Pinned(Pinned::Exec) if self.exec_must_wait(key, now) => Step::Wait,
                Class::Pinned(Pinned::Exec) => {
                    self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Exec), now)
                }
                Class::Pinned(Pinned::Discard) => {
                    self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Discard), now)
                }
                Class::Refused | Class::Pinned(Pinned::Monitor | Pinned::Wait | Pinned::Tracking) => {
                    self.refuse_queued(key, request, now)
                }
                Class::Pinned(Pinned::Admin | Pinned::FieldSets) => self.queue(key, request, true, None, now),
                Class::Pinned(Pinned::Script) => self.queue_script(key, request, now),
                Class::Cursor => self.queue_cursor(key, request, now),
                _ => self.queue(key, request, false, None, now),
            };
        };
        match answered {
            Answered::Quit | Answered::Reset => self.take_answered(key, answered, request, now),
            Answered::Select => self.queue(key, request, true, parse_database(request), now),
            Answered::Hello
            | Answered::Auth
            | Answered::Subscribe
            | Answered::Unsubscribe
            | Answered::PSubscribe
            | Answered::PUnsubscribe
            | Answered::SSubscribe
            | Answered::SUnsubscribe
            | Answered::ClientReply
            // The backend's own clients are Handover's connections, which carry everybody's commands.
            | Answered::ClientKill
            | Answered::ClientUnblock
            | Answered::ClientPause
            | Answered::ClientUnpause => self.refuse_queued(key, request, now),
            Answered::Ping | Answered::AclWhoami | Answered::Cluster => self.queue(key, request, false, None, now),
            _ => self.queue(key, request, true, None, now),
        }
    }

    fn queue_script(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let step = self.queue(key, request, false, None, now);
        if step != Step::Wait {
            self.note_script(key, request.classified, request.frame);
        }
        step
    }

    /// Sends a command to be queued.
    pub(super) fn queue(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        taints: bool,
        database: Option<u32>,
        now: Instant,
    ) -> Step {
        let step = self.forward_on_pin(key, request, RunKind::Queued { database }, now);
        if step == Step::Wait {
            return step;
        }
        if taints {
            self.taint(key);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.queues_write |= may_write(request.classified);
        }
        if request.publishes()
            && let Some(queue) = self.sessions.get_mut(key).and_then(|session| session.queue.as_mut())
        {
            queue.publishes = true;
        }
        step
    }

    fn refuse_queued(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let name = self.command_name(request);
        self.refuse_in_queue(key, request, &Refusal::RefusedInTransaction(name), now)
    }

    /// Refuses a command in the queue: the transaction cannot succeed any more, so the backend's is dropped now.
    pub(super) fn refuse_in_queue(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        refusal: &Refusal,
        now: Instant,
    ) -> Step {
        let Some(link) = self.own_link(key, now) else { return Step::Wait };
        self.refuse(key, refusal, now);
        self.drop_transaction(link, now);
        if let Some(session) = self.sessions.get_mut(key) {
            session.transaction = Transaction::Broken { queuing: true, end: BrokenEnd::Refused };
            session.queue = None;
        }
        Step::Done { bytes: request.bytes }
    }

    fn drop_transaction(&mut self, link: LinkKey, now: Instant) {
        self.send_own(link, RunKind::Ignored, b"*1\r\n$7\r\nDISCARD\r\n", now);
    }

    /// Carries a transaction on that cannot succeed any more, without a backend.
    fn take_in_broken(
        &mut self,
        key: SessionKey,
        request: Request<'_>,
        queuing: bool,
        end: BrokenEnd,
        now: Instant,
    ) -> Step {
        let refused = end == BrokenEnd::Refused;
        let class = request.classified.class;
        match class {
            Class::Answered(answered @ (Answered::Quit | Answered::Reset)) => {
                self.take_answered(key, answered, request, now)
            }
            // It runs nothing, and its client counts on it.
            Class::Answered(answered @ Answered::ClientReply) if !queuing => {
                self.take_answered(key, answered, request, now)
            }
            Class::Pinned(Pinned::Discard) if queuing || refused => self.leave_transaction(key, request, now),
            Class::Pinned(Pinned::Unwatch) if !queuing => self.leave_transaction(key, request, now),
            // What it guards from now on does not matter: what it guarded before may have changed.
            Class::Pinned(Pinned::Watch) if !queuing && !refused => self.answer_ok(key, request, now),
            Class::Pinned(Pinned::Exec) if queuing || refused => {
                self.end_broken(key, end, now);
                Step::Done { bytes: request.bytes }
            }
            Class::Pinned(Pinned::Multi) if !queuing && !refused => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.transaction = Transaction::Broken { queuing: true, end };
                }
                self.answer_ok(key, request, now)
            }
            _ if refused => {
                self.refuse(key, &Refusal::OutsideTransaction, now);
                Step::Done { bytes: request.bytes }
            }
            _ if queuing => {
                self.answer(key, |out| encode::simple(out, "QUEUED"), now);
                Step::Done { bytes: request.bytes }
            }
            _ => self.take_by_class(key, request, class, now),
        }
    }

    fn leave_transaction(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        if let Some(session) = self.sessions.get_mut(key) {
            session.leave_transaction();
        }
        self.answer_ok(key, request, now)
    }

    pub(super) fn end_broken(&mut self, key: SessionKey, end: BrokenEnd, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.leave_transaction();
        let protocol = session.profile.protocol;
        match end {
            BrokenEnd::Nil => self.answer(key, |out| encode::null_array(out, protocol), now),
            BrokenEnd::Moved => self.refuse(key, &Refusal::TransactionMoved, now),
            BrokenEnd::Refused => self.refuse(key, &Refusal::TransactionRefused, now),
        }
    }
}

/// The database of a `SELECT n`, when it is a number.
pub(super) fn parse_database(request: Request<'_>) -> Option<u32> {
    let mut arguments = Arguments::new(request.frame);
    if arguments.remaining() != 2 {
        return None;
    }
    parse_number(arguments.nth(1)?)?.try_into().ok()
}
