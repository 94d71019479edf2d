//! What the shell and the admin plane may know of the machine.

use std::time::{Duration, Instant};

use super::{BackendId, Link, LinkKey, LinkState, Multiplexer, Session};

impl Multiplexer {
    /// Connections open to a backend.
    #[must_use]
    pub fn connections(&self, backend: BackendId) -> usize {
        self.links.iter().filter(|(_, link)| link.backend == backend && link.state == LinkState::Ready).count()
    }

    /// This thread was held up: what replies seem to have waited says nothing of the backends.
    pub fn on_held_up(&mut self) {
        for (_, record) in &mut self.backends {
            record.disturbances += 1;
        }
    }

    /// Some backend connection has something to be written.
    #[must_use]
    pub fn has_link_to_write(&self) -> bool {
        !self.links_to_write.is_empty()
    }

    /// Some session waits for a moment that only a tick brings.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.is_holding()
    }

    /// Connections on which a request has waited for longer than this.
    #[must_use]
    pub fn silent_links(&self, now: Instant, longer_than: Duration) -> Vec<LinkKey> {
        let is_silent = |silence: Option<Duration>| silence.is_some_and(|silence| silence > longer_than);
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let is_waiting = |link: &Link| is_silent(link.silence(now)) || is_silent(since(link.pinged_at));
        self.links.iter().filter(|(_, link)| is_waiting(link)).map(|(key, _)| key).collect()
    }

    /// Sessions that are shared, pinned, subscribed, and blocked.
    #[must_use]
    pub fn session_modes(&self) -> [usize; 4] {
        let mut modes = [0; 4];
        for (_, session) in self.sessions.iter().filter(|(_, session)| !session.is_reader()) {
            let mode = match (self.is_blocked(session), session.pin.is_some(), session.is_subscriber()) {
                (true, _, _) => 3,
                (false, true, _) => 1,
                (false, false, true) => 2,
                (false, false, false) => 0,
            };
            modes[mode] += 1;
        }
        modes
    }

    /// A command of this session blocks on its pin.
    pub(super) fn is_blocked(&self, session: &Session) -> bool {
        let pin = session.pin.as_ref().and_then(|pin| pin.link).and_then(|link| self.links.get(link));
        pin.and_then(Link::front).is_some_and(|run| run.kind.may_block())
    }

    /// Bytes of clients' input, of their output, of backend connections, and of requests held for want of a backend.
    #[must_use]
    pub fn memory(&self) -> [usize; 4] {
        let mut bytes = [0; 4];
        for (_, session) in self.sessions.iter() {
            bytes[0] += session.input.capacity();
            bytes[1] += session.output.capacity();
            bytes[1] += session.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.memory_bytes());
            if session.wait.is_some() {
                bytes[3] += session.held_bytes();
            }
            bytes[3] += session.queue_bytes();
        }
        bytes[2] = self.links.iter().map(|(_, link)| link.memory_bytes()).sum();
        bytes
    }
}
