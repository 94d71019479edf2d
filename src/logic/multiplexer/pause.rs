//! `CLIENT PAUSE`: commands of the group's clients wait, unread by any backend, until the pause ends.

use std::time::Instant;

use super::requests::Request;
use super::session::{Pending, Transaction, Wait};
use super::{Multiplexer, SessionKey};
use crate::command::classify::Classified;
use crate::command::table::{Answered, Class, Flags, Pinned};

/// A pause in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself.
    pub until: Instant,
    /// Only what may change something waits.
    pub writes_only: bool,
}

impl Pause {
    /// Two pauses at a time: the stricter, for the longer time.
    fn join(self, other: Self) -> Self {
        Self { until: self.until.max(other.until), writes_only: self.writes_only && other.writes_only }
    }

    /// Whether what was judged at a fault must wait before it is sent once more.
    pub(super) fn holds_pending(self, pending: &Pending, classified: Classified) -> bool {
        let writes = match pending {
            Pending::Send { commands: 2.., read_only, .. } => !read_only,
            Pending::Send { .. } => may_write(classified),
            Pending::Answer(_) | Pending::Withheld { .. } => return false,
        };
        !self.writes_only || writes
    }
}

impl Multiplexer {
    pub(super) fn pause(&mut self, pause: Pause) {
        self.pause = Some(self.pause.map_or(pause, |in_force| in_force.join(pause)));
    }

    /// Whoever waits for the pause goes on.
    pub(super) fn unpause(&mut self, now: Instant) {
        self.pause = None;
        self.advance_waiting(now);
        self.advance_settled(now);
    }

    /// A pause ends when its time is over.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if self.pause.is_some_and(|pause| pause.until <= now) {
            self.unpause(now);
        }
    }

    /// The session waits for a pause, and nothing but its end changes that.
    pub(super) fn is_paused(&self, key: SessionKey) -> bool {
        self.pause.is_some()
            && self.sessions.get(key).is_some_and(|session| matches!(session.wait, Some((Wait::Pause, _))))
    }

    /// Whether this request must wait for the end of a pause. UNPAUSE never does, or nobody could end one.
    pub(super) fn pauses(&self, key: SessionKey, request: &Request<'_>) -> bool {
        let Some(pause) = self.pause else { return false };
        match request.classified.class {
            Class::Closed | Class::Answered(Answered::ClientUnpause) => false,
            Class::Pinned(Pinned::Exec) if pause.writes_only => self.sessions.get(key).is_some_and(|session| {
                session.queues_write && matches!(session.transaction, Transaction::Queuing { .. })
            }),
            _ => !pause.writes_only || may_write(request.classified),
        }
    }
}

/// What a server with a pause for writes holds back: writes, and what may be replicated; what the table does not
/// have may be either.
pub(super) fn may_write(classified: Classified) -> bool {
    const REPLICATED: [&str; 6] = ["publish", "spublish", "pfcount", "eval", "evalsha", "fcall"];
    let Some(command) = classified.command else {
        return matches!(classified.class, Class::Pinned(_) | Class::Shared);
    };
    command.flags.has(Flags::WRITE) || REPLICATED.contains(&command.name)
}
