//! Subscriptions: a registry of what a client wants, one upstream connection for it, and its restoration elsewhere.

mod barrier;
mod commands;
mod delivery;
mod exchange;
mod frames;
mod registry;
mod restoring;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use self::registry::Change;
pub use self::registry::Kind;
use super::link::LinkState;
use super::session::Session;
use super::{LinkKey, Multiplexer};

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
    pub(in crate::logic::multiplexer) fn subscription_link(&self) -> Option<LinkKey> {
        self.subscriptions.as_ref().and_then(|subscriptions| subscriptions.link)
    }
}

impl Multiplexer {
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
