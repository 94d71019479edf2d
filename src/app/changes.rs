//! What operators changed at run time: kept in the state file as far as the configuration file does not say it, and in
//! force again after a restart unless the file's own value has changed since.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::channels::{Directions, GroupStatus, Known};
use crate::config::{Addition, Backend, Config, Group};
use crate::control::state::{ChangedWeight, Changes, Keeper, RemovedBackend};

/// Keeps what of a group differs from the configuration in force, until `stop`.
pub(super) async fn keep(
    keeper: Keeper,
    mut in_force: watch::Receiver<Arc<Config>>,
    (mut status, directions): (watch::Receiver<GroupStatus>, watch::Receiver<Directions>),
    stop: CancellationToken,
) {
    loop {
        let is_over = tokio::select! {
            () = stop.cancelled() => true,
            changed = status.changed() => changed.is_err(),
            changed = in_force.changed() => changed.is_err(),
        };
        if is_over {
            return;
        }
        let config = Arc::clone(&in_force.borrow_and_update());
        let status = status.borrow_and_update().clone();
        let backends = Arc::clone(&directions.borrow().backends);
        if let Some(group) = config.groups.iter().find(|group| group.name == status.name) {
            keeper.keep_changes(&group.name, changes_of(group, &status, &backends));
        }
    }
}

/// What is in force in a group and does not stand in the file.
pub(super) fn changes_of(group: &Group, status: &GroupStatus, backends: &[Known]) -> Changes {
    let mut changes = Changes::default();
    let addition = |live: &crate::channels::BackendStatus| {
        backends.iter().find(|known| known.id == live.id).and_then(|known| known.addition.clone())
    };
    for backend in &group.backends {
        let of_file = status.backends.iter().find(|live| live.name == backend.name && addition(live).is_none());
        match of_file {
            Some(live) if live.wishes.own_weight == backend.weight => {}
            Some(live) => changes.weights.push(ChangedWeight {
                backend: backend.name.clone(),
                file: backend.weight,
                now: live.wishes.own_weight,
            }),
            None => changes.removed.push(RemovedBackend { backend: backend.name.clone(), file: place_of(backend) }),
        }
    }
    for live in &status.backends {
        if let Some(addition) = addition(live).filter(|addition| !addition.has_password()) {
            changes.added.push(Addition { weight: Some(live.wishes.own_weight), ..Addition::clone(&addition) });
        }
    }
    changes
}

/// Where the file has a backend.
fn place_of(backend: &Backend) -> String {
    format!("{}/{}", backend.address, backend.database)
}

/// A group as it was before the restart: the file's, with what was changed at run time; and what was added.
pub(super) fn restored(group: &Group, changes: Changes, config: &Config) -> (Group, Vec<(Backend, Addition)>) {
    let mut restored = group.clone();
    let name = group.name.as_str();
    for ChangedWeight { backend, file, now } in changes.weights {
        match restored.backends.iter_mut().find(|known| known.name == backend) {
            Some(known) if known.weight == file && now.is_finite() && now > 0.0 => {
                known.weight = now;
                warn!(
                    group = name,
                    backend, file, now, "the weight that was set at run time is in force, not the file's"
                );
            }
            _ => info!(group = name, backend, "the weight that was set at run time ends: the file has changed"),
        }
    }
    let additions = added_again(group, changes.added, &changes.removed, config);
    for RemovedBackend { backend, file } in changes.removed {
        let place = restored.backends.iter().position(|known| known.name == backend && place_of(known) == file);
        match place {
            Some(place) if restored.backends.len() + additions.len() > 1 => {
                restored.backends.remove(place);
                warn!(group = name, backend, "the file has it, but it was removed at run time and stays so");
            }
            _ => info!(group = name, backend, "its removal at run time ends: the file has changed"),
        }
    }
    (restored, additions)
}

fn added_again(
    group: &Group,
    added: Vec<Addition>,
    removed: &[RemovedBackend],
    config: &Config,
) -> Vec<(Backend, Addition)> {
    let is_removed =
        |known: &Backend| removed.iter().any(|one| one.backend == known.name && one.file == place_of(known));
    let is_taken = |name: &str| {
        let backends = config.groups.iter().flat_map(|group| &group.backends);
        backends.filter(|known| !is_removed(known)).any(|known| known.name == name)
    };
    let mut additions = Vec::new();
    for addition in added {
        let name = group.name.as_str();
        if is_taken(&addition.name) {
            info!(group = name, backend = addition.name, "what was added at run time stands in the file now");
            continue;
        }
        match addition.backend(group, config.workers) {
            Ok((backend, _)) => {
                warn!(
                    group = name,
                    backend = addition.name,
                    "added at run time, and not in the file: it is here again"
                );
                additions.push((backend, addition));
            }
            Err(problems) => warn!(group = name, backend = addition.name, %problems, "cannot be added again"),
        }
    }
    additions
}
