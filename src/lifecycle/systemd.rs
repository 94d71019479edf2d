//! Tells systemd how the service stands. Without systemd (`NOTIFY_SOCKET` unset) every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// The connection to systemd's notification socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd;

impl Systemd {
    /// The service answers its clients (`READY=1`). Also ends a reload.
    pub fn ready(self) {
        send(&[NotifyState::Ready]);
    }

    /// The configuration is being read again (`RELOADING=1`); [`Self::ready`] must follow.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot read the monotonic clock for systemd"),
        }
    }

    /// The service is on its way out (`STOPPING=1`).
    pub fn stopping(self) {
        send(&[NotifyState::Stopping]);
    }

    /// What `systemctl status` shows, on one line: the active backend of each group.
    pub fn status(self, text: &str) {
        // A line break would begin another assignment.
        let line = text.replace(['\n', '\r'], " ");
        send(&[NotifyState::Status(&line)]);
    }

    /// How often the unit wants to hear from us; `None`: it does not.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().filter(|period| !period.is_zero())
    }

    /// Pings the watchdog twice a period for as long as `alive` says that the service works,
    /// so that systemd restarts a process that lives and does nothing.
    pub async fn keep_watchdog(self, stop: CancellationToken, mut alive: impl FnMut() -> bool) {
        let Some(period) = self.watchdog() else { return };
        let mut ticks = tokio::time::interval(period / 2);
        while let Some(_tick) = stop.run_until_cancelled(ticks.tick()).await {
            if alive() {
                send(&[NotifyState::Watchdog]);
            }
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
