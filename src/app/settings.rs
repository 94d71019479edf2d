//! What the planes are given of the configuration.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::command::policy::Policy;
use crate::config::{Config, Group};
use crate::logic::identity::{Account, Login, Secret, Users};
use crate::logic::multiplexer::{Commons, Settings};
use crate::logic::settings::{Clock, LimitSettings};

/// Pins and subscription connections opened per second and backend, over all workers.
const CONNECTS_PER_SECOND: f64 = 500.0;

/// Handover's own users with what they may do in this group.
pub(super) fn users_of(config: &Config, group: &Group) -> Arc<Users> {
    let general = policy_of(group);
    let account = |user: &crate::config::User| {
        let is_restricted = user.allow.is_some() || !user.deny.is_empty();
        let own = || general.restricted(user.allow.as_ref(), &user.deny);
        let login = user.backend.as_ref().map(|credential| Login {
            user: credential.username.clone().map(Into::into),
            password: Secret::new(credential.password.as_bytes()),
        });
        Account {
            name: user.name.clone(),
            passwords: user.passwords.clone(),
            login: login.map(Arc::new),
            policy: is_restricted.then(|| Arc::new(own().expect("the configuration has checked the lists"))),
        }
    };
    Arc::new(Users::new(config.users.iter().map(account)))
}

/// What the workers of one group will have in common.
pub(crate) fn commons(config: &Config) -> Arc<Commons> {
    Arc::new(Commons::new(config.limits.scripts_max, config.limits.script_bytes_max))
}

pub(super) fn policy_of(group: &Group) -> Policy {
    let lists = &group.commands;
    let policy = Policy::new(lists.refuse.as_ref(), &lists.deny, &lists.shared);
    policy.expect("the configuration has checked the lists")
}

/// What the calendar says now.
fn clock() -> Clock {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let origin_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
    Clock { origin: Instant::now(), origin_unix_ms }
}

/// A multiplexer's settings: this worker's share of the process's limits.
pub(crate) fn multiplexer_settings(config: &Config, group: &Group, worker: usize, commons: Arc<Commons>) -> Settings {
    let workers = config.workers;
    let limits = LimitSettings {
        pins_per_backend_max: (config.limits.pins_per_backend_max / workers).max(1),
        held_bytes_max: config.limits.held_bytes_max / workers,
        ..config.limits.clone()
    };
    Settings {
        failover: group.failover.clone(),
        retry: group.retry.clone(),
        pubsub: group.pubsub.clone(),
        clock: clock(),
        limits,
        detector: group.detector.clone(),
        policy: policy_of(group),
        client_id_first: worker as u64 + 1,
        client_id_step: workers as u64,
        connects_per_second: CONNECTS_PER_SECOND / workers as f64,
        commons,
        database: group.common_database(),
        identity: config.identity.clone(),
        users: users_of(config, group),
        seed: fastrand::u64(..),
    }
}
