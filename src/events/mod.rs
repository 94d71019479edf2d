//! Events on their way out: numbered in one place, kept for a while, handed to whoever reads them.
//!
//! Nobody who publishes ever waits. Each reader has its own place in a ring of bounded length: who is too slow loses the
//! oldest records, and is told how many.

pub mod hub;
pub mod ledger;
pub mod program;
pub mod webhook;

pub use hub::{EventHub, Reader};

use crate::logic::record::EventKind;

/// Which records go to the webhook and the program.
#[derive(Clone, Debug)]
pub struct Kinds(Option<Vec<EventKind>>);

impl Kinds {
    /// All of them.
    #[must_use]
    pub const fn all() -> Self {
        Self(None)
    }

    /// These; `None`: all.
    #[must_use]
    pub const fn new(kinds: Option<Vec<EventKind>>) -> Self {
        Self(kinds)
    }

    /// Whether records of that kind go out. That some are lost is always told.
    #[must_use]
    pub fn contain(&self, kind: EventKind) -> bool {
        kind == EventKind::Lost || self.0.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }
}
