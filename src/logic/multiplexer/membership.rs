//! Backends that come and go, and how many connections each may have.

use std::time::Instant;

use super::link::Role;
use super::{BackendId, Multiplexer, Output};
use crate::logic::settings::Conduct;

impl Multiplexer {
    /// How many connections this worker may open to each backend; `None`: any number.
    pub fn set_connections_max(&mut self, backends: impl IntoIterator<Item = (BackendId, Option<usize>)>) {
        for (backend, connections_max) in backends {
            self.record(backend).connections_max = connections_max;
        }
    }

    /// Other settings, from now on. What cursors carry is decided at the start and stays.
    pub fn set_conduct(&mut self, conduct: &Conduct) {
        let checks_cursors = self.settings.failover.checks_cursors;
        self.settings.failover.clone_from(&conduct.failover);
        self.settings.failover.checks_cursors = checks_cursors;
        self.settings.retry.clone_from(&conduct.retry);
        self.settings.detector.clone_from(&conduct.detector);
    }

    /// Nothing but these is known any more: connections to others are closed, and what is due there is judged. A
    /// connection of subscriptions is read until the one that takes its place delivers.
    pub fn keep_backends(&mut self, kept: &[BackendId], now: Instant) {
        for key in self.links.keys() {
            let Some(link) = self.links.get(key).filter(|link| !kept.contains(&link.backend)) else { continue };
            let is_read_still = match link.role {
                Role::Subscription(session) => {
                    self.sessions.get(session).is_some_and(|session| session.subscription_link() == Some(key))
                }
                Role::Lane | Role::Standby | Role::Pin(_) | Role::Verification => false,
            };
            if !is_read_still {
                let reset = link.client_requests() > 0 || link.is_uploading();
                self.outputs.push_back(Output::CloseLink { link: key, reset });
                self.judge_link(key, now);
            }
        }
        self.backends.retain(|(backend, _)| kept.contains(backend));
    }

    /// Whether a connection that is good to have may be opened.
    pub(super) fn has_room_for_standby(&self, backend: BackendId) -> bool {
        let most = self.backend(backend).and_then(|record| record.connections_max);
        most.is_none_or(|most| self.links.iter().filter(|(_, link)| link.backend == backend).count() < most)
    }

    /// Whether a pin or a connection for subscriptions may be opened. One that nobody holds makes room.
    pub(super) fn has_room_for_own(&mut self, backend: BackendId) -> bool {
        let Some(most) = self.backend(backend).and_then(|record| record.connections_max) else { return true };
        let open = self.links.iter().filter(|(_, link)| link.backend == backend).count();
        if open < most {
            return true;
        }
        let Some(spare) = self.pool.pop() else { return false };
        self.close_link(spare, false);
        open == most
    }
}
