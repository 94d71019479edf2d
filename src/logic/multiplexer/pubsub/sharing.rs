//! Many clients on one connection (`pubsub.mode = "hub"`). The clients of one identity share a reader: a session without
//! a socket, whose subscriptions are opened, restored and watched like any client's. What it is confirmed and what comes
//! for it goes to an [`Exchange`], which knows who wants what.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Subscriptions;
use super::exchange::{Exchange, Step};
use super::frames::{message_topic, write_command};
use super::gaps::Gap;
use super::registry::Kind;
use crate::command::policy::Policy;
use crate::logic::identity::IdentityId;
use crate::logic::multiplexer::link::Profile;
use crate::logic::multiplexer::session::{Access, CloseReason, Session, Wait};
use crate::logic::multiplexer::{Multiplexer, Peer, SessionKey};
use crate::logic::settings::PubSubMode;
use crate::resp::encode::Protocol;
use crate::resp::reply::{ReplyScan, ReplyScanner};

/// Where servers tell of invalidated keys, to each connection its own.
const INVALIDATIONS: &[u8] = b"__redis__:invalidate";
/// The number of readers; clients' begin at 1.
const READER_ID: u64 = 0;

/// The clients of one identity.
#[derive(Debug)]
struct Circle {
    identity: IdentityId,
    reader: SessionKey,
    exchange: Exchange,
}

/// Everybody who shares a connection.
#[derive(Debug)]
pub(in crate::logic::multiplexer) struct Circles {
    circles: Vec<Circle>,
    /// When time last passed.
    ticked_at: Instant,
}

impl Circles {
    pub(in crate::logic::multiplexer) const fn new(now: Instant) -> Self {
        Self { circles: Vec::new(), ticked_at: now }
    }

    /// How many sessions are no clients.
    pub(in crate::logic::multiplexer) const fn readers(&self) -> usize {
        self.circles.len()
    }

    fn exchange(&mut self, identity: IdentityId) -> Option<&mut Exchange> {
        self.circles.iter_mut().find(|circle| circle.identity == identity).map(|circle| &mut circle.exchange)
    }

    fn reader(&self, identity: IdentityId) -> Option<SessionKey> {
        self.circles.iter().find(|circle| circle.identity == identity).map(|circle| circle.reader)
    }

    fn identity(&self, reader: SessionKey) -> Option<IdentityId> {
        self.circles.iter().find(|circle| circle.reader == reader).map(|circle| circle.identity)
    }
}

impl Session {
    /// It is no client, but reads what many share.
    pub(in crate::logic::multiplexer) const fn is_reader(&self) -> bool {
        self.id == READER_ID
    }

    /// Its messages come by a connection that it shares.
    pub(super) fn shares(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.is_shared)
    }
}

impl Multiplexer {
    /// Channels, patterns or shard channels that are subscribed to for many.
    #[must_use]
    pub fn shared_topics(&self, kind: Kind) -> usize {
        self.circles.circles.iter().map(|circle| circle.exchange.topics(kind)).sum()
    }

    /// Whether a client that begins to subscribe shares a connection.
    pub(super) fn may_share_subscriptions(&self, key: SessionKey) -> bool {
        self.settings.pubsub.mode == PubSubMode::Hub
            && self.sessions.get(key).is_some_and(|session| !session.is_reader() && !session.peer.dedicated)
    }

    /// Whether a client that shares a connection asks for what each connection has of its own.
    pub(super) fn asks_for_its_own(&self, key: SessionKey, kind: Kind, names: &VecDeque<Bytes>) -> bool {
        kind == Kind::Channel
            && names.iter().any(|name| name == INVALIDATIONS)
            && self.sessions.get(key).is_some_and(Session::shares)
    }

    /// A command of a client that shares a connection.
    pub(super) fn change_shared(
        &mut self,
        key: SessionKey,
        kind: Kind,
        subscribe: bool,
        names: VecDeque<Bytes>,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (is_muted, identity) = (session.reply_mode.is_muted(), session.profile.identity);
        let Some(subscriptions) = session.subscriptions.as_mut() else { return };
        let registry = &mut subscriptions.registry;
        let request = registry.begin(kind, subscribe, names).map(|mut request| {
            if request.names.is_empty() {
                request.names = registry.names(kind).cloned().collect();
            }
            request
        });
        self.tell_own(key, now);
        if let Some(request) = request {
            self.open_circle(identity, now);
            let steps = self.circles.exchange(identity).map(|exchange| exchange.take(key, request, now));
            self.carry_out_steps(identity, steps.unwrap_or_default(), now);
        }
        if self.sessions.get(key).is_some_and(Session::is_settled) {
            self.finish_change(key);
        } else if is_muted {
            self.wait(key, Wait::Confirmation, now);
        }
    }

    /// There is a reader for this identity.
    fn open_circle(&mut self, identity: IdentityId, now: Instant) {
        if self.circles.reader(identity).is_some() {
            return;
        }
        // What may be asked for was decided when the client asked.
        let access = Access { policy: Some(Arc::new(Policy::default())), ..Access::new(true, now) };
        let mut session = Session::new(READER_ID, Peer::default(), self.settings.limits.value_bytes_max, access);
        session.profile = Profile { identity, ..Profile::default() };
        let reader = self.sessions.insert(session);
        let exchange = Exchange::new(self.settings.pubsub.linger);
        self.circles.circles.push(Circle { identity, reader, exchange });
    }

    fn carry_out_steps(&mut self, identity: IdentityId, steps: Vec<Step>, now: Instant) {
        let mut asked = BytesMut::new();
        for step in steps {
            match step {
                Step::Ask { kind, subscribe, names } => write_command(&mut asked, kind, subscribe, names.iter()),
                Step::Confirm { key, kind, subscribe, name } => {
                    self.confirm_shared(key, kind, subscribe, &name, now);
                }
                Step::Refuse { key, error } => self.refuse_subscription(key, &error, now),
            }
        }
        let Some(reader) = self.circles.reader(identity).filter(|_| !asked.is_empty()) else { return };
        let Some(session) = self.sessions.get_mut(reader) else { return };
        session.input.extend_from_slice(&asked);
        // What waits is looked at again when that has come, and not for every command behind it.
        if session.wait.is_none() {
            self.advance_session(reader, now);
        }
    }

    fn confirm_shared(&mut self, key: SessionKey, kind: Kind, subscribe: bool, name: &Bytes, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let identity = session.profile.identity;
        let Some(subscriptions) = session.subscriptions.as_ref().filter(|subscriptions| subscriptions.is_shared) else {
            return;
        };
        let had = subscriptions.registry.has(kind, name);
        self.confirm(key, Some(name), now);
        if let Some(exchange) = self.circles.exchange(identity) {
            match subscribe {
                true if !had => exchange.join(key, kind, name),
                false if had => exchange.leave(key, kind, name, now),
                _ => {}
            }
        }
        if self.sessions.get(key).is_some_and(Session::is_settled) {
            self.finish_change(key);
        }
    }

    /// The reader was confirmed something.
    pub(super) fn on_reader_confirmed(&mut self, reader: SessionKey, name: &[u8], now: Instant) {
        let Some(identity) = self.circles.identity(reader) else { return };
        let steps = self.circles.exchange(identity).map(|exchange| exchange.on_confirmed(name, now));
        self.carry_out_steps(identity, steps.unwrap_or_default(), now);
    }

    /// The reader was refused something that a client had asked for.
    pub(super) fn on_reader_refused(&mut self, reader: SessionKey, error: &[u8], now: Instant) {
        let Some(identity) = self.circles.identity(reader) else { return };
        let steps = self.circles.exchange(identity).map(|exchange| exchange.on_refused(error, now));
        self.carry_out_steps(identity, steps.unwrap_or_default(), now);
    }

    /// Messages that came for a reader go to everybody who wants them.
    pub(super) fn distribute(&mut self, reader: SessionKey, messages: &[u8], now: Instant) {
        let Some(identity) = self.circles.identity(reader) else { return };
        let (mut scanner, mut rest) = (ReplyScanner::new(), messages);
        while let ReplyScan::Complete { bytes, .. } = scanner.scan(rest) {
            let (message, behind) = rest.split_at(bytes);
            self.distribute_one(identity, message, now);
            rest = behind;
        }
    }

    fn distribute_one(&mut self, identity: IdentityId, message: &[u8], now: Instant) {
        // One was counted when it came.
        self.counters.messages -= 1;
        let Some((kind, name)) = message_topic(message) else { return };
        let Some(exchange) = self.circles.exchange(identity) else { return };
        let mut subscribers = exchange.take_subscribers(kind, name);
        self.counters.messages += subscribers.len() as u64;
        let closed = self.counters.slow_subscribers;
        let mut push = BytesMut::new();
        for &key in &subscribers {
            let protocol = self.sessions.get(key).map(|session| session.profile.protocol).unwrap_or_default();
            if protocol == Protocol::Resp3 && push.is_empty() {
                push.extend_from_slice(b">");
                push.extend_from_slice(&message[1..]);
            }
            self.deliver_message(key, if protocol == Protocol::Resp3 { &push } else { message }, now);
        }
        if closed != self.counters.slow_subscribers {
            subscribers.retain(|&key| self.sessions.get(key).is_some());
        }
        if let Some(exchange) = self.circles.exchange(identity) {
            exchange.give_back(kind, name, subscribers);
        }
    }

    /// What a reader's subscriptions missed, its clients missed.
    pub(super) fn tell_shared_gap(&mut self, reader: SessionKey, is_switch: bool, gap: Option<Gap>, now: Instant) {
        for key in self.sharers(reader) {
            self.tell_gap(key, is_switch, gap, now);
        }
    }

    /// Clients that have something of a reader, or are about to.
    fn sharers(&self, reader: SessionKey) -> Vec<SessionKey> {
        let Some(identity) = self.circles.identity(reader) else { return Vec::new() };
        let is_served = |session: &Session| {
            session.profile.identity == identity
                && session
                    .subscriptions
                    .as_ref()
                    .is_some_and(|subscriptions| subscriptions.is_shared && subscriptions.registry.needs_server())
        };
        self.sessions.iter().filter(|(_, session)| is_served(session)).map(|(key, _)| key).collect()
    }

    /// The subscriptions that deliver to a client: its own, or its reader's.
    pub(super) fn delivering<'a>(&'a self, session: &'a Session) -> Option<&'a Subscriptions> {
        match session.shares() {
            true => self.sessions.get(self.circles.reader(session.profile.identity)?)?.subscriptions.as_deref(),
            false => session.subscriptions.as_deref(),
        }
    }

    /// A client wants nothing of what it shares any more.
    pub(in crate::logic::multiplexer) fn leave_circle(
        &mut self,
        key: SessionKey,
        identity: IdentityId,
        subscriptions: &Subscriptions,
    ) {
        let now = self.circles.ticked_at;
        let Some(exchange) = self.circles.exchange(identity).filter(|_| subscriptions.is_shared) else { return };
        exchange.forget(key, now);
        for kind in Kind::ALL {
            subscriptions.registry.names(kind).for_each(|name| exchange.leave(key, kind, name, now));
        }
    }

    /// A client that shared a connection gets one of its own, where everything that it has is restored.
    pub(in crate::logic::multiplexer) fn move_out(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key).filter(|session| session.shares()) else { return };
        let identity = session.profile.identity;
        let (epoch, lost_at) = match self.delivering(session) {
            Some(delivering) => (delivering.epoch, delivering.lost_at),
            None => (None, None),
        };
        let taken = self.sessions.get_mut(key).and_then(|session| session.subscriptions.take());
        let Some(mut subscriptions) = taken else { return };
        self.leave_circle(key, identity, &subscriptions);
        subscriptions.is_shared = false;
        if subscriptions.registry.needs_server() {
            // What it misses until then is told as usual.
            subscriptions.epoch = epoch;
            subscriptions.lost_at = lost_at.or(epoch.map(|_| self.circles.ticked_at));
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.subscriptions = Some(subscriptions);
        }
    }

    /// A reader is gone: whoever it served goes on without it.
    pub(in crate::logic::multiplexer) fn dissolve_circle(&mut self, reader: SessionKey) {
        for key in self.sharers(reader) {
            self.move_out(key);
        }
        self.circles.circles.retain(|circle| circle.reader != reader);
    }

    /// Ends the reader of an identity, whose clients are closed.
    pub(in crate::logic::multiplexer) fn end_reader(&mut self, identity: IdentityId) {
        if let Some(reader) = self.circles.reader(identity) {
            self.remove_session(reader, CloseReason::AccessRevoked);
        }
    }

    /// Servers are told what nobody has wanted for a while; readers that nobody needs end.
    pub(in crate::logic::multiplexer) fn keep_circles(&mut self, now: Instant) {
        self.circles.ticked_at = now;
        let identities: Vec<IdentityId> = self.circles.circles.iter().map(|circle| circle.identity).collect();
        for identity in identities {
            let Some(exchange) = self.circles.exchange(identity) else { continue };
            if exchange.is_unused() {
                self.end_reader(identity);
            } else if exchange.deadline().is_some_and(|at| at <= now) {
                let steps = exchange.on_tick(now);
                self.carry_out_steps(identity, steps, now);
            }
        }
    }
}
