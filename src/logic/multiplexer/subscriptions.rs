//! Subscriptions: a registry of what a client wants, one upstream connection for it, and its restoration elsewhere.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::link::{Link, LinkState, Role, Run, RunKind};
use super::requests::{Request, Step};
use super::session::{CloseReason, Session, Wait};
use super::wait::is_mark;
use super::{LinkKey, Multiplexer, SessionKey};
use crate::command::refusal::Refusal;
use crate::command::table::{Answered, Class};
use crate::resp::arguments::Arguments;
use crate::resp::encode;
use crate::resp::reply::ReplyKind;

/// Channels named in one command when subscriptions are restored.
const RESTORE_CHUNK: usize = 1000;

/// How long nothing is published while subscriptions are being restored after a switch.
const PUBLISH_WAIT_MAX: Duration = Duration::from_secs(1);

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Channels.
    Channel,
    /// Patterns.
    Pattern,
    /// Shard channels.
    Shard,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    const fn command(self, subscribe: bool) -> &'static str {
        match (self, subscribe) {
            (Self::Channel, true) => "SUBSCRIBE",
            (Self::Channel, false) => "UNSUBSCRIBE",
            (Self::Pattern, true) => "PSUBSCRIBE",
            (Self::Pattern, false) => "PUNSUBSCRIBE",
            (Self::Shard, true) => "SSUBSCRIBE",
            (Self::Shard, false) => "SUNSUBSCRIBE",
        }
    }
}

/// A client's command whose confirmations are due.
#[derive(Clone, Debug)]
struct Change {
    kind: Kind,
    subscribe: bool,
    /// Not yet confirmed; empty when all of a kind are to be left.
    names: VecDeque<Bytes>,
    /// Confirmations due.
    due: usize,
}

/// One client's subscriptions.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Delivers.
    link: Option<LinkKey>,
    /// Being opened or restored; takes over once everything is confirmed there.
    next: Option<LinkKey>,
    retry_at: Option<Instant>,
    failures: u32,
    wanted: [BTreeSet<Bytes>; 3],
    changes: VecDeque<Change>,
    /// Other clients' invalidations are redirected to this one.
    is_target: bool,
    /// Messages that came while a reply was passed on piece by piece.
    deferred: BytesMut,
}

impl Subscriptions {
    /// How many subscriptions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.wanted.iter().map(BTreeSet::len).sum()
    }

    /// Subscriptions of one kind.
    #[must_use]
    pub fn count_of(&self, kind: Kind) -> usize {
        self.wanted[kind as usize].len()
    }

    /// Its connections.
    pub fn links(&self) -> impl Iterator<Item = LinkKey> {
        self.link.into_iter().chain(self.next)
    }
}

impl Session {
    /// The connection that delivers its messages.
    pub(super) fn subscription_link(&self) -> Option<LinkKey> {
        self.subscriptions.as_ref().and_then(|subscriptions| subscriptions.link)
    }

    /// It wants to subscribe, and there is no connection for that, nor one on its way.
    pub(super) fn lacks_subscription_link(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.link.or(subscriptions.next).is_none())
    }
}

impl Multiplexer {
    /// What a RESP2 subscriber may send.
    pub(super) fn take_subscribed(
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
    pub(super) fn take_subscription(
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
    fn confirm_nothing(&mut self, key: SessionKey, kind: Kind, names: &VecDeque<Bytes>) {
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

    /// The connection that carries the session's subscriptions; makes it wait while there is none.
    pub(super) fn subscription_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        if !self.is_serving() {
            self.wait(key, Wait::Lane, now);
            return None;
        }
        let session = self.sessions.get_mut(key)?;
        let identity = session.profile.identity;
        let subscriptions = session.subscriptions.get_or_insert_default();
        // While a new connection is being restored, nothing is written to the old one any more.
        let usable = subscriptions.link.filter(|_| subscriptions.next.is_none());
        if let Some(link) =
            usable.filter(|&link| self.links.get(link).is_some_and(|link| link.is_current(self.route.epoch, identity)))
        {
            return Some(link);
        }
        self.open_subscription(key, now);
        let is_opening = self.sessions.get(key).is_some_and(|session| !session.lacks_subscription_link());
        self.wait(key, if is_opening { Wait::Lane } else { Wait::Pin }, now);
        None
    }

    /// Begins to open the connection for a session's subscriptions, unless that is under way.
    fn open_subscription(&mut self, key: SessionKey, now: Instant) {
        let Some(active) = self.route.active.filter(|_| self.is_serving()) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let profile = session.profile;
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        if subscriptions.next.is_some() || subscriptions.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if self.is_profile_refused(active, profile) || !self.has_room_for_own(active) {
            return;
        }
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if !self.connects.spend(now) {
            subscriptions.retry_at = Some(now);
            return;
        }
        let link = self.dial(active, profile, Role::Subscription(key), now);
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) {
            (subscriptions.next, subscriptions.retry_at) = (Some(link), None);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one command")]
    fn change_subscriptions(
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

    fn send_subscription(
        &mut self,
        link_key: LinkKey,
        key: SessionKey,
        due: usize,
        restoring: bool,
        frame: &[u8],
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(link_key) else { return };
        let run = Run {
            session: Some(key),
            commands: u32::try_from(due).unwrap_or(u32::MAX),
            answered: 0,
            dropped: 0,
            bytes: frame.len(),
            attempts: 0,
            at: now,
            kind: RunKind::Confirm { restoring },
        };
        link.push(run, frame);
        self.mark_link_to_write(link_key);
    }

    /// The connection of a client to which invalidations are redirected, once it is usable; begins to open it.
    pub(super) fn redirect_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        let epoch = self.route.epoch;
        let subscriptions = self.sessions.get_mut(key)?.subscriptions.get_or_insert_default();
        subscriptions.is_target = true;
        let usable = subscriptions.link.filter(|_| subscriptions.next.is_none());
        let link = usable.filter(|&link| self.links.get(link).is_some_and(|link| link.epoch == epoch));
        if link.is_none() {
            self.open_subscription(key, now);
        }
        link
    }

    /// Whether other clients' invalidations are redirected to this one.
    pub(super) fn is_target(&self, key: SessionKey) -> bool {
        let subscriptions = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref());
        subscriptions.is_some_and(|subscriptions| subscriptions.is_target)
    }

    /// Nobody's invalidations are redirected to this client any more.
    pub(super) fn forget_target(&mut self, key: SessionKey) {
        let subscriptions = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut());
        let Some(subscriptions) = subscriptions else { return };
        subscriptions.is_target = false;
        self.drop_unused_subscriptions(key);
    }

    /// Closes the connection for subscriptions when there are none, unless it owes something still.
    pub(super) fn drop_unused_subscriptions(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        let is_used = |subscriptions: &Subscriptions| {
            subscriptions.count() > 0 || !subscriptions.changes.is_empty() || subscriptions.is_target
        };
        if session.protocol_change.is_none() && !session.subscriptions.as_deref().is_some_and(is_used) {
            self.drop_subscriptions(key);
        }
    }

    /// The connection for a session's subscriptions is open: what it had is restored there, then what it asked for.
    pub(super) fn on_subscription_ready(&mut self, key: SessionKey, link: LinkKey, now: Instant) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return self.close_link(link, false);
        };
        subscriptions.failures = 0;
        let (wanted, changes) = (subscriptions.wanted.clone(), subscriptions.changes.clone());
        let mut frame = BytesMut::new();
        for kind in Kind::ALL {
            let names: Vec<&Bytes> = wanted[kind as usize].iter().collect();
            for chunk in names.chunks(RESTORE_CHUNK) {
                write_command(&mut frame, kind, true, chunk.iter().copied());
                self.send_subscription(link, key, chunk.len(), true, &frame.split(), now);
            }
        }
        for change in &changes {
            write_command(&mut frame, change.kind, change.subscribe, change.names.iter());
            self.send_subscription(link, key, change.due, false, &frame.split(), now);
        }
        self.take_over_if_restored(key, link, now);
    }

    /// The restored connection delivers from now on; the one before it is closed.
    fn take_over_if_restored(&mut self, key: SessionKey, link_key: LinkKey, now: Instant) {
        let is_restoring = self
            .links
            .get(link_key)
            .is_some_and(|link| link.runs().iter().any(|run| run.kind == RunKind::Confirm { restoring: true }));
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if is_restoring || subscriptions.next != Some(link_key) {
            return;
        }
        subscriptions.next = None;
        let is_target = subscriptions.is_target;
        if let Some(old) = subscriptions.link.replace(link_key) {
            self.close_link(old, false);
        }
        if is_target {
            self.follow_target(key, now);
        }
        // The old one may have owed a reply to HELLO.
        self.greet_if_changed(key, now);
        self.advance_session(key, now);
    }

    /// A frame from a connection that carries subscriptions: a message, a confirmation, or an error.
    pub(super) fn on_subscription_frame(
        &mut self,
        link: LinkKey,
        key: SessionKey,
        frame: &[u8],
        kind: ReplyKind,
        now: Instant,
    ) {
        let front = self.links.get(link).and_then(Link::front);
        if kind != ReplyKind::Push && front.is_some_and(|run| matches!(run.kind, RunKind::Protocol(_))) {
            return self.on_protocol(link, key, frame, kind, now);
        }
        let delivers = self.sessions.get(key).is_some_and(|session| session.subscription_link() == Some(link));
        if kind == ReplyKind::Error {
            return self.on_subscription_refused(link, key, frame, now);
        }
        if !is_confirmation(frame) {
            if delivers && !is_mark(frame) {
                self.counters.messages += 1;
                self.deliver_message(key, frame, now);
            }
            return;
        }
        let Some(RunKind::Confirm { restoring }) =
            self.links.get(link).and_then(Link::front).map(|run| run.kind.clone())
        else {
            return self.lose_link(link, "a confirmation that nobody asked for", now);
        };
        if let Some(link) = self.links.get_mut(link) {
            link.answer(1);
        }
        if restoring {
            return self.take_over_if_restored(key, link, now);
        }
        if self.is_superseded(key, link) {
            return;
        }
        self.deliver_message(key, frame, now);
        self.confirm_change(key, frame, now);
    }

    /// What was asked for on this connection has been asked for again on the one that will take over.
    fn is_superseded(&self, key: SessionKey, link: LinkKey) -> bool {
        let next = self.sessions.get(key).and_then(|session| session.subscriptions.as_ref()?.next);
        next.filter(|&next| next != link)
            .and_then(|next| self.links.get(next))
            .is_some_and(|next| next.state == LinkState::Ready)
    }

    /// One confirmation of the client's own command came.
    fn confirm_change(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
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
    fn finish_change(&mut self, key: SessionKey, now: Instant) {
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

    /// Ends all subscriptions of a session, without a word.
    pub(super) fn drop_subscriptions(&mut self, key: SessionKey) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.take()) else {
            return;
        };
        subscriptions.links().for_each(|link| self.close_link(link, false));
    }

    /// The backend refuses a subscription: the client is told, nobody else.
    fn on_subscription_refused(&mut self, link_key: LinkKey, key: SessionKey, frame: &[u8], now: Instant) {
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

    /// A message goes to the client, but never into the middle of a reply.
    pub(super) fn deliver_message(&mut self, key: SessionKey, frame: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_streaming = session
            .link
            .and_then(|link| self.links.get(link))
            .is_some_and(|link| link.streaming && link.front().is_some_and(|run| run.session == Some(key)));
        if is_streaming && let Some(subscriptions) = session.subscriptions.as_mut() {
            subscriptions.deferred.extend_from_slice(frame);
            let link =
                subscriptions.link.filter(|_| subscriptions.deferred.len() > self.settings.limits.output_bytes_max);
            if let Some(link) = link {
                self.pause_link(link, key, now);
            }
            return;
        }
        self.append_output(key, frame);
        if let Some(link) = self.sessions.get(key).and_then(Session::subscription_link) {
            self.hold_back(link, key, now);
        }
    }

    /// Messages that had to wait for the end of a long reply.
    pub(super) fn deliver_deferred(&mut self, key: SessionKey) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if !subscriptions.deferred.is_empty() {
            let messages = std::mem::take(&mut subscriptions.deferred);
            self.append_output(key, &messages);
        }
    }

    /// The connection of a session's subscriptions was lost: they are restored on the active.
    pub(super) fn on_subscription_lost(&mut self, key: SessionKey, link: LinkKey, _lost: &mut Link, now: Instant) {
        let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut()) else {
            return;
        };
        if subscriptions.link == Some(link) {
            subscriptions.link = None;
        }
        if subscriptions.next == Some(link) {
            subscriptions.next = None;
        }
        if subscriptions.is_target {
            self.on_target_lost(key, now);
        }
        self.greet_if_changed(key, now);
        self.open_subscription(key, now);
    }

    /// It could not be opened; tried again with the next ticks.
    pub(super) fn on_subscription_failed(&mut self, key: SessionKey, link: LinkKey) {
        if let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut())
            && subscriptions.next == Some(link)
        {
            subscriptions.next = None;
        }
    }

    /// After a switch every subscription moves to the new active.
    pub(super) fn move_subscriptions(&mut self, now: Instant) {
        let epoch = self.route.epoch;
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get(key) else { continue };
            let link = session.subscription_link();
            let identity = session.profile.identity;
            let is_current =
                link.and_then(|link| self.links.get(link)).is_some_and(|link| link.is_current(epoch, identity));
            if session.subscriptions.is_some() && !is_current {
                self.open_subscription(key, now);
            }
        }
    }

    /// After a switch nothing is published before the subscriptions are restored, so that nothing is missed.
    pub(super) fn raise_publish_barrier(&mut self, now: Instant) {
        let is_needed = self.sessions.iter().any(|(_, session)| session.is_subscriber());
        // Held commands are refused after `hold`, which must not come first.
        let wait_max = PUBLISH_WAIT_MAX.min(self.settings.failover.hold / 2);
        self.publish_barrier = is_needed.then(|| now + wait_max);
    }

    /// Lets publishers go on once every subscription is restored, or that takes too long.
    pub(super) fn lift_publish_barrier(&mut self, now: Instant) {
        let Some(until) = self.publish_barrier else { return };
        let is_restoring = self.is_serving()
            && self.sessions.iter().any(|(_, session)| {
                let link = session.subscription_link().and_then(|link| self.links.get(link));
                session.is_subscriber() && link.is_none_or(|link| link.epoch != self.route.epoch)
            });
        if !is_restoring || now >= until {
            self.publish_barrier = None;
        }
    }

    /// Subscriptions without a connection get one.
    pub(super) fn reopen_subscriptions(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        self.move_subscriptions(now);
    }

    /// Subscriptions wanted, and those whose connection delivers, by kind.
    #[must_use]
    pub fn subscription_counts(&self, kind: Kind) -> (usize, usize) {
        let mut counts = (0, 0);
        for (_, session) in self.sessions.iter() {
            let Some(subscriptions) = &session.subscriptions else { continue };
            let wanted = subscriptions.count_of(kind);
            let is_live = subscriptions
                .link
                .and_then(|link| self.links.get(link))
                .is_some_and(|link| link.state == LinkState::Ready && link.epoch == self.route.epoch);
            counts = (counts.0 + wanted, counts.1 + if is_live { wanted } else { 0 });
        }
        counts
    }
}

/// Whether a frame from a subscription connection confirms a command rather than carrying a message.
fn is_confirmation(frame: &[u8]) -> bool {
    let Some(line_end) = memchr::memchr(b'\n', frame) else { return false };
    let Some(word_start) = memchr::memchr(b'\n', &frame[line_end + 1..]).map(|end| line_end + end + 2) else {
        return false;
    };
    let word = &frame[word_start..];
    ["subscribe\r", "unsubscribe\r", "psubscribe\r", "punsubscribe\r", "ssubscribe\r", "sunsubscribe\r"]
        .iter()
        .any(|known| word.starts_with(known.as_bytes()))
}

/// The name that a confirmation speaks of.
fn confirmed_name(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame;
    for _ in 0..3 {
        rest = &rest[memchr::memchr(b'\n', rest)? + 1..];
    }
    let digits = rest.strip_prefix(b"$")?;
    let line_end = memchr::memchr(b'\r', digits)?;
    let length: usize = std::str::from_utf8(&digits[..line_end]).ok()?.parse().ok()?;
    digits.get(line_end + 2..line_end + 2 + length)
}

fn write_command<'a>(out: &mut BytesMut, kind: Kind, subscribe: bool, names: impl ExactSizeIterator<Item = &'a Bytes>) {
    encode::array(out, names.len() + 1);
    encode::bulk(out, kind.command(subscribe).as_bytes());
    names.for_each(|name| encode::bulk(out, name));
}
