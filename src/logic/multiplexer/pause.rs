//! `CLIENT PAUSE` of clients, and `PAUSE` of operators: commands of the group's clients wait, unread by any backend,
//! until the pause ends.

use std::time::Instant;

use super::requests::Request;
use super::session::{Pending, Transaction, Wait};
use super::{Multiplexer, SessionKey};
use crate::command::classify::Classified;
use crate::command::table::{Answered, Class, Flags, Pinned};

pub use crate::logic::route::Pause;

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
            Pending::Answer(_) => return false,
        };
        !self.writes_only || writes
    }
}

impl Multiplexer {
    pub(super) fn pause(&mut self, pause: Pause) {
        self.clients_pause = Some(self.clients_pause.map_or(pause, |in_force| in_force.join(pause)));
        self.join_pauses();
    }

    /// Whoever waits for the clients' pause goes on, unless an operator's holds on.
    pub(super) fn unpause(&mut self, now: Instant) {
        self.clients_pause = None;
        self.join_pauses();
        self.advance_waiting(now);
        self.advance_settled(now);
    }

    /// Pauses end when their time is over.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if self.pause.is_none() {
            return;
        }
        let is_over = |pause: &mut Pause| pause.until <= now;
        let ended = [self.clients_pause.take_if(is_over), self.route.pause.take_if(is_over)];
        if ended.iter().any(Option::is_some) {
            self.join_pauses();
            self.advance_waiting(now);
            self.advance_settled(now);
        }
    }

    /// What waits, waits for the pause of clients and for the operator's, in the route.
    pub(super) fn join_pauses(&mut self) {
        self.pause = match (self.clients_pause, self.route.pause) {
            (Some(clients), Some(operator)) => Some(clients.join(operator)),
            (clients, operator) => clients.or(operator),
        };
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
