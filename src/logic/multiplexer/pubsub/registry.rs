//! What a client wants, and what of it is not confirmed yet.

use std::collections::VecDeque;

use bytes::Bytes;

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
    pub(super) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    pub(super) const fn command(self, subscribe: bool) -> &'static str {
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
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) subscribe: bool,
    /// Not yet confirmed; empty when all of a kind are to be left.
    pub(super) names: VecDeque<Bytes>,
    /// Confirmations due.
    pub(super) due: usize,
}
