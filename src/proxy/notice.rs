//! Log lines that clients can provoke: one a second at most, which says how many were left out.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tracing::warn;

const INTERVAL: Duration = Duration::from_secs(1);

/// What was logged when.
#[derive(Default)]
pub(super) struct Notices {
    failed_login: Pace,
    revoked_login: Pace,
}

impl Notices {
    /// Somebody could not authenticate. What it tried is never written: people type passwords for names.
    pub(super) fn failed_login(&self, source: &str, now: Instant) {
        if let Some(left_out) = self.failed_login.is_due(now) {
            warn!(source, left_out, "a client could not authenticate");
        }
    }

    /// A backend does not accept the user of clients that were served.
    pub(super) fn revoked_login(&self, backend: &str, clients: usize, now: Instant) {
        if let Some(left_out) = self.revoked_login.is_due(now) {
            warn!(backend, clients, left_out, "clients were closed: the backend does not accept their user any more");
        }
    }
}

/// Lets one pass in each interval.
#[derive(Default)]
struct Pace {
    at: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl Pace {
    /// How many were left out since the last one that passed; `None`: this one is left out.
    fn is_due(&self, now: Instant) -> Option<u64> {
        if self.at.get().is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.at.set(Some(now));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (pace, start) = (Pace::default(), Instant::now());
        let lines: Vec<_> = (0..25).map(|tenth| pace.is_due(start + INTERVAL * tenth / 10)).collect();
        let written: Vec<_> = lines.into_iter().flatten().collect();
        assert_eq!(written, [0, 9, 9]);
    }
}
