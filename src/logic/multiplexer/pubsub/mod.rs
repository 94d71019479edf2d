//! Subscriptions: a registry of what a client wants, one upstream connection for it, and its restoration elsewhere.
//!
//! `registry` knows what is wanted and confirmed, and no connection; `commands` takes what clients ask for;
//! `restoring` opens the connection and moves it; `delivery` passes messages on, with `outbox` for slow readers;
//! `standby` keeps the same subscriptions where the next active would be; `overlap` tells doubles of backends that
//! carry each other's messages; `sharing` lets many clients share one connection, with `exchange` for who wants what;
//! `gaps` tells clients of switches; `heartbeat` finds dead connections; `barrier` keeps
//! PUBLISH back after a switch.

mod barrier;
mod commands;
mod delivery;
mod exchange;
mod frames;
mod gaps;
mod heartbeat;
mod outbox;
mod overlap;
mod registry;
mod restoring;
mod sharing;
mod standby;

use std::time::Instant;

pub(super) use self::barrier::PublishBarrier;
pub(super) use self::commands::subscribes;
pub(super) use self::outbox::Bounds;
use self::outbox::Outbox;
use self::overlap::Overlap;
pub use self::registry::Kind;
use self::registry::Registry;
use self::restoring::Attempt;
pub(super) use self::sharing::Circles;
use self::standby::Standby;
use super::link::LinkState;
use super::session::Session;
use super::{LinkKey, Multiplexer, SessionKey};

/// One client's subscriptions.
#[derive(Debug, Default)]
pub struct Subscriptions {
    registry: Registry,
    /// Delivers.
    link: Option<LinkKey>,
    /// Being opened or restored; takes over once everything is confirmed there.
    next: Option<LinkKey>,
    attempt: Attempt,
    /// `next` is restored, and `link` is read for so long at most, to its end.
    leaving_until: Option<Instant>,
    /// Messages of `next` while `link` delivers.
    early: Outbox,
    /// Where backends carry each other's messages, or both connections lead to one.
    overlap: Option<Box<Overlap>>,
    /// Until then `link` may bring what the one before it has brought already.
    doubles_until: Option<Instant>,
    /// The same subscriptions at the backend that would be next.
    standby: Standby,
    /// Messages that wait for their reader.
    outbox: Outbox,
    /// Bytes of messages in the client's output, about.
    unread: usize,
    /// The last proof of life of the connection that was lost, until another delivers.
    lost_at: Option<Instant>,
    /// Messages that the standby had kept of that time.
    replayed: usize,
    /// Since when another connection has been wanted.
    moving_since: Option<Instant>,
    /// The epoch in which they were last known to be live.
    epoch: Option<u64>,
    /// Other clients' invalidations are redirected to this one.
    is_target: bool,
    /// They come by a connection that many share, so that this has none.
    is_shared: bool,
}

impl Subscriptions {
    /// How many subscriptions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.registry.count()
    }

    /// Subscriptions of one kind.
    #[must_use]
    pub fn count_of(&self, kind: Kind) -> usize {
        self.registry.count_of(kind)
    }

    /// Its connections.
    pub fn links(&self) -> impl Iterator<Item = LinkKey> {
        self.link.into_iter().chain(self.next).chain(self.standby.link())
    }

    /// Everything that the client asked for was confirmed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.registry.is_settled()
    }

    /// Nothing is asked for, and nothing waits for the client.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_settled() && self.outbox.is_empty()
    }

    /// Bytes of the client's output that are none of its replies.
    #[must_use]
    pub const fn unread(&self) -> usize {
        self.unread
    }

    /// The client took so many bytes of its output.
    pub const fn note_read(&mut self, bytes: usize) {
        self.unread = self.unread.saturating_sub(bytes);
    }

    /// A connection of its own is needed.
    #[must_use]
    pub fn needs_link(&self) -> bool {
        self.needs_server() && !self.is_shared
    }

    /// Something has to come from a server.
    fn needs_server(&self) -> bool {
        self.is_target || self.registry.needs_server()
    }

    /// Bytes that wait for the client, or may have to be delivered.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.outbox.bytes() + self.early.bytes() + self.standby.bytes()
    }
}

impl Session {
    /// The connection that delivers its messages.
    pub(in crate::logic::multiplexer) fn subscription_link(&self) -> Option<LinkKey> {
        self.subscriptions.as_ref().and_then(|subscriptions| subscriptions.link)
    }

    /// It wants to subscribe, and there is no connection for that, nor one on its way.
    pub(in crate::logic::multiplexer) fn lacks_subscription_link(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.link.or(subscriptions.next).is_none())
    }

    /// It has, or is about to have, a connection for its subscriptions.
    pub(in crate::logic::multiplexer) fn needs_subscription_link(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.needs_link())
    }

    /// None of its SUBSCRIBE and UNSUBSCRIBE waits for a confirmation.
    pub(in crate::logic::multiplexer) fn is_settled(&self) -> bool {
        self.subscriptions.as_ref().is_none_or(|subscriptions| subscriptions.is_settled())
    }
}

impl Multiplexer {
    /// A session's subscriptions; begins them where there are none.
    fn subscriptions_of(&mut self, key: SessionKey) -> Option<&mut Subscriptions> {
        let session = self.sessions.get_mut(key)?;
        if !std::mem::replace(&mut session.subscribes, true) {
            self.subscribers.push(key);
        }
        Some(session.subscriptions.get_or_insert_default())
    }

    /// Every session that has subscriptions, for loops that change them.
    fn subscribers(&mut self) -> Vec<SessionKey> {
        let sessions = &mut self.sessions;
        self.subscribers.retain(|key| {
            sessions.get_mut(*key).is_some_and(|session| {
                session.subscribes = session.subscriptions.is_some();
                session.subscribes
            })
        });
        self.subscribers.clone()
    }

    /// Subscriptions wanted, and those whose connection delivers, by kind.
    #[must_use]
    pub fn subscription_counts(&self, kind: Kind) -> (usize, usize) {
        let mut counts = (0, 0);
        for session in self.subscribers.iter().filter_map(|key| self.sessions.get(*key)) {
            let Some(subscriptions) = &session.subscriptions else { continue };
            let wanted = subscriptions.count_of(kind);
            if session.is_reader() {
                continue;
            }
            let is_live = !subscriptions.needs_server() || self.delivering(session).is_some_and(|it| self.is_live(it));
            counts = (counts.0 + wanted, counts.1 + if is_live { wanted } else { 0 });
        }
        counts
    }

    /// What delivers is a connection of this epoch, or one that is left in order.
    fn is_live(&self, subscriptions: &Subscriptions) -> bool {
        let link = subscriptions.link.and_then(|link| self.links.get(link));
        subscriptions.leaving_until.is_some()
            || link.is_some_and(|link| link.state == LinkState::Ready && link.epoch == self.route.epoch)
    }
}
