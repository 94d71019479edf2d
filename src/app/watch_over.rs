//! What the service manager and the log are told of the process while it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::channels::GroupStatus;
use crate::lifecycle::Systemd;

/// A worker that lets no time pass for so long hangs.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);

/// Whether every worker lets time pass and every supervisor is there: what the service manager's watchdog asks.
pub(super) fn is_alive(
    statuses: Vec<watch::Receiver<GroupStatus>>,
    heartbeats: Vec<Arc<AtomicU64>>,
    origin: Instant,
) -> impl FnMut() -> bool {
    move || {
        let now = origin.elapsed();
        let beats = |beat: &Arc<AtomicU64>| Duration::from_micros(beat.load(Ordering::Relaxed)) + HEARTBEAT_MAX > now;
        heartbeats.iter().all(beats) && statuses.iter().all(|status| status.has_changed().is_ok())
    }
}

/// Says once when a group begins to serve, and keeps the service manager's status line.
pub(super) async fn announce(mut status: watch::Receiver<GroupStatus>, stop: CancellationToken) {
    let mut announced = None;
    loop {
        let (name, active) = {
            let status = status.borrow_and_update();
            let active = status.route.active.and_then(|id| status.backends.iter().find(|backend| backend.id == id));
            (status.name.clone(), active.map(|backend| backend.name.clone()))
        };
        if active.is_some() && announced.is_none() {
            info!(group = name, active = active.as_deref().unwrap_or_default(), "serving");
        }
        if active != announced {
            Systemd.status(&format!("{name}: {} is active", active.as_deref().unwrap_or("no backend")));
            announced = active;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
