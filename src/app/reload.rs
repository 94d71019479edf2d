//! A reload: what the file changed since it was read last is changed in the groups that serve. What the file did not
//! change leaves alone what operators changed at run time.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::settings::users_of;
use super::{App, GroupEnds};
use crate::channels::{Amend, Amendment, BackendId, Command, Order, Recruit, Removal};
use crate::config::diff::{Effect, diff};
use crate::config::{Backend, Config, Group};
use crate::logic::record::Happening;
use crate::net::dial::Endpoint;
use crate::net::recruit::Recruiter;
use crate::telemetry::logging::Logging;

/// A backend that serves now under a name.
struct Live {
    id: BackendId,
    name: String,
    weight: f64,
    endpoint: Arc<Endpoint>,
    /// It is about to be removed or replaced.
    is_leaving: bool,
}

/// What has to be done so that a group is as the file says.
#[derive(Default)]
struct Steps {
    added: Vec<Backend>,
    replaced: Vec<(BackendId, Backend)>,
    weighted: Vec<(BackendId, f64)>,
    adjusted: Vec<Recruit>,
    removed: Vec<BackendId>,
}

impl App {
    /// Says what differs, a line each.
    pub(super) async fn apply(&mut self, new: Config, logging: &Logging) -> Vec<String> {
        let changes = diff(&self.config, &new);
        for change in &changes {
            match change.effect {
                Effect::Live => info!(%change, "changed"),
                Effect::Restart => warn!(%change, "needs a restart"),
            }
        }
        logging.set_level(new.log.level);
        self.config.log.level = new.log.level;
        for (group, ends) in self.config.groups.iter_mut().zip(&self.groups) {
            if let Some(wanted) = new.groups.iter().find(|other| other.name == group.name) {
                ends.follow(group, wanted, &self.recruiter).await;
            }
        }
        // Another mode comes with a restart, and its users with it.
        if self.config.users != new.users && self.config.identity.mode == new.identity.mode {
            self.config.users = new.users;
            for (group, ends) in self.config.groups.iter().zip(&self.groups) {
                ends.users.send_replace(users_of(&self.config, group));
            }
        }
        self.in_force.send_replace(Arc::new(self.config.clone()));
        self.reloads.succeeded(SystemTime::now());
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let mut lines = vec![format!("reloaded; {} settings differ", changes.len())];
        lines.extend(changes.iter().cloned());
        self.events.tell(None, None, Happening::config_reloaded(Ok(changes)));
        lines
    }
}

impl GroupEnds {
    /// Changes the group from what the file said to what it says. `group` becomes what is in force.
    async fn follow(&self, group: &mut Group, wanted: &Group, recruiter: &Recruiter) {
        let former = group.clone();
        take_settings(group, wanted);
        group.backends.clone_from(&wanted.backends);
        for backend in &mut group.backends {
            // Another database takes a restart; the rest of what this backend has is as ready for that as it was.
            let known = former.backends.iter().find(|known| known.name == backend.name);
            if let Some(known) = known.filter(|known| known.database != backend.database) {
                backend.clone_from(known);
            }
        }
        let steps = steps(&former, group, &self.live());
        let has_settings = !steps.adjusted.is_empty() || !is_same_conduct(&former, group);
        if has_settings {
            let (group, backends) = (Box::new(group.clone()), steps.adjusted);
            self.amend(Amend::Settings { group, backends }).await;
        }
        for (backend, weight) in steps.weighted {
            self.order(Command::SetWeight { backend, weight }).await;
        }
        for backend in steps.added {
            self.recruit(recruiter, backend, Amend::Add).await;
        }
        for (old, backend) in steps.replaced {
            self.recruit(recruiter, backend, |by| Amend::Replace { old, by }).await;
        }
        for backend in steps.removed {
            self.order(Command::Remove { backend, removal: Removal::Patient }).await;
        }
    }

    fn live(&self) -> Vec<Live> {
        let backends = Arc::clone(&self.directions.borrow().backends);
        let status = self.status.borrow();
        let seen = status.backends.iter().filter_map(|live| {
            let known = backends.iter().find(|known| known.id == live.id)?;
            let endpoint = Arc::clone(&known.endpoint);
            let (id, name, is_leaving) = (live.id, live.name.clone(), live.is_leaving);
            let weight = live.wishes.own_weight;
            Some(Live { id, name, weight, endpoint, is_leaving })
        });
        seen.collect()
    }

    async fn recruit(&self, recruiter: &Recruiter, backend: Backend, amend: impl FnOnce(Recruit) -> Amend) {
        let name = backend.name.clone();
        match recruiter.recruit(backend, None) {
            Ok(recruit) => self.amend(amend(recruit)).await,
            Err(error) => error!(backend = name, %error, "cannot be used: what was in force stays"),
        }
    }

    /// Has the group changed. It is when this returns, but for a replacement, which lasts until nobody needs the former.
    async fn amend(&self, what: Amend) {
        let is_long = matches!(what, Amend::Replace { .. });
        let (outcome, told) = oneshot::channel();
        let amendment = Amendment { what, by: "reload".to_owned(), outcome: Some(outcome).filter(|_| !is_long) };
        if self.amendments.send(amendment).await.is_err() {
            error!("the supervisor has ended");
        }
        drop(told.await);
    }

    /// The same for an order, but for a removal, which lasts until nobody needs the backend.
    async fn order(&self, command: Command) {
        let is_long = matches!(command, Command::Remove { .. });
        let (outcome, told) = oneshot::channel();
        let order = Order { command, by: "reload".to_owned(), outcome: Some(outcome).filter(|_| !is_long) };
        if self.orders.send(order).await.is_err() {
            error!("the supervisor has ended");
        }
        drop(told.await);
    }
}

/// What of a group's settings changes while it serves.
fn take_settings(group: &mut Group, wanted: &Group) {
    let checks_cursors = group.failover.checks_cursors;
    group.health.clone_from(&wanted.health);
    group.detector.clone_from(&wanted.detector);
    group.breaker = wanted.breaker;
    group.failover.clone_from(&wanted.failover);
    group.failover.checks_cursors = checks_cursors;
    group.retry.clone_from(&wanted.retry);
}

fn is_same_conduct(one: &Group, other: &Group) -> bool {
    one.health == other.health
        && one.detector == other.detector
        && one.breaker == other.breaker
        && one.failover == other.failover
        && one.retry == other.retry
}

fn steps(former: &Group, wanted: &Group, live: &[Live]) -> Steps {
    let mut steps = Steps::default();
    for backend in &wanted.backends {
        let known = former.backends.iter().find(|known| known.name == backend.name);
        let serving = live.iter().find(|live| live.name == backend.name);
        match serving {
            _ if known == Some(backend) => {}
            None => steps.added.push(backend.clone()),
            Some(live) if live.is_leaving || !live.endpoint.backend.is_same_server(backend) => {
                steps.replaced.push((live.id, backend.clone()));
            }
            Some(live) => {
                if known.is_none_or(|known| known.weight != backend.weight) && live.weight != backend.weight {
                    steps.weighted.push((live.id, backend.weight));
                }
                let endpoint =
                    Arc::new(Endpoint { backend: Arc::new(backend.clone()), tls: live.endpoint.tls.clone() });
                steps.adjusted.push(Recruit { id: live.id, endpoint, addition: None });
            }
        }
    }
    let is_wanted = |name: &str| wanted.backends.iter().any(|backend| backend.name == name);
    let dropped = former.backends.iter().filter(|known| !is_wanted(&known.name));
    let serving = dropped.filter_map(|known| live.iter().find(|live| live.name == known.name));
    steps.removed = serving.map(|live| live.id).collect();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn group(backends: &str) -> Group {
        let text = format!("listener = [{{ bind = '127.0.0.1:0' }}]\nbackend = [{backends}]\n");
        let sources = Sources { text: Some(text), cores: 1, ..Sources::default() };
        Config::load(&sources).unwrap().config.groups.remove(0)
    }

    fn live(group: &Group) -> Vec<Live> {
        let number = |(index, backend): (usize, &Backend)| Live {
            id: BackendId(u16::try_from(index).unwrap()),
            name: backend.name.clone(),
            weight: backend.weight,
            endpoint: Arc::new(Endpoint { backend: Arc::new(backend.clone()), tls: None }),
            is_leaving: false,
        };
        group.backends.iter().enumerate().map(number).collect()
    }

    fn told(former: &Group, wanted: &Group, live: &[Live]) -> String {
        let Steps { added, replaced, weighted, adjusted, removed } = steps(former, wanted, live);
        let mut told: Vec<String> = added.iter().map(|backend| format!("add {}", backend.name)).collect();
        told.extend(replaced.iter().map(|(old, _)| format!("replace {}", old.0)));
        told.extend(weighted.iter().map(|(backend, weight)| format!("weigh {} {weight}", backend.0)));
        told.extend(adjusted.iter().map(|recruit| format!("adjust {}", recruit.id.0)));
        told.extend(removed.iter().map(|backend| format!("remove {}", backend.0)));
        told.join(", ")
    }

    const EAST: &str = "{ name = 'east', url = 'redis://h:1' }";
    const WEST: &str = "{ name = 'west', url = 'redis://h:2' }";

    #[test]
    fn what_the_file_changed_is_done_and_nothing_else() {
        let former = group(&format!("{EAST}, {WEST}"));
        for (backends, expected) in [
            (format!("{EAST}, {WEST}"), ""),
            (WEST.to_owned(), "remove 0"),
            (format!("{EAST}, {WEST}, {{ name = 'new', url = 'redis://h:3' }}"), "add new"),
            (format!("{{ name = 'east', url = 'redis://h:3' }}, {WEST}"), "replace 0"),
            (format!("{{ name = 'east', url = 'redis://:secret@h:1' }}, {WEST}"), "replace 0"),
            (format!("{{ name = 'east', url = 'redis://h:1', connect_timeout = '1s' }}, {WEST}"), "replace 0"),
            (format!("{{ name = 'east', url = 'redis://h:1', weight = 2 }}, {WEST}"), "weigh 0 2, adjust 0"),
            (format!("{{ name = 'east', url = 'redis://h:1', grace = '1s' }}, {WEST}"), "adjust 0"),
            (format!("{{ name = 'east', url = 'redis://h:1', connections_max = 9 }}, {WEST}"), "adjust 0"),
            ("{ name = 'new', url = 'redis://h:3' }".to_owned(), "add new, remove 0, remove 1"),
        ] {
            assert_eq!(told(&former, &group(&backends), &live(&former)), expected, "{backends}");
        }
    }

    #[test]
    fn what_operators_changed_stays_until_the_file_speaks_of_it() {
        let (former, only_east) = (group(&format!("{EAST}, {WEST}")), group(EAST));
        let mut weighted = live(&former);
        weighted[0].weight = 7.0;
        assert_eq!(told(&former, &former, &weighted), "");
        let same_weight = group(&format!("{{ name = 'east', url = 'redis://h:1', grace = '1s' }}, {WEST}"));
        assert_eq!(told(&former, &same_weight, &weighted), "adjust 0", "the file says nothing new of its weight");
        let removed = live(&only_east);
        assert_eq!(told(&former, &former, &removed), "", "west was removed");
        let moved = group(&format!("{EAST}, {{ name = 'west', url = 'redis://h:3' }}"));
        assert_eq!(told(&former, &moved, &removed), "add west");
        let added = live(&former);
        assert_eq!(told(&only_east, &only_east, &added), "", "west was added");
        assert_eq!(told(&only_east, &former, &added), "adjust 1", "the file has it now");
        let elsewhere = group(&format!("{EAST}, {{ name = 'west', url = 'redis://h:3' }}"));
        assert_eq!(told(&only_east, &elsewhere, &added), "replace 1");
    }
}
