//! A save: what operators changed at run time is written into the configuration's file, which is then read again, so
//! that nothing of it counts as changed any more.

use std::sync::Arc;

use super::{App, changes};
use crate::config::{self, Config, Sources, Unsaved};
use crate::telemetry::logging::Logging;

impl App {
    /// Says what was written, a line each, or why nothing was.
    pub(super) async fn save(&mut self, sources: &Sources, logging: &Logging) -> Result<Vec<String>, String> {
        let (unsaved, unwritable) = self.unsaved();
        check_groups(&self.config, &unsaved)?;
        let origin = self.origin.as_ref().ok_or("there is no file: the configuration came from the command line")?;
        let (edits, origin) = config::save(origin, &unsaved).map_err(|error| error.to_string())?;
        let path = origin.path.display().to_string();
        self.origin = Some(origin);
        let mut lines = match edits.is_empty() {
            true => vec![format!("nothing to write: {path} has it all")],
            false => vec![format!("written to {path}")],
        };
        lines.extend(edits.iter().map(|edit| format!("{}: {} → {}", edit.key, edit.old, edit.new)));
        lines.extend(unwritable.iter().map(|name| {
            format!("not written: {name} has a password in its URL; ADD it with PASSWORD_FILE, or write it by hand")
        }));
        if !edits.is_empty()
            && let Err(why) = self.reload(sources, logging).await
        {
            lines.push(why);
        }
        Ok(lines)
    }

    /// What operators left otherwise than the file says; and the names of backends that cannot be written.
    fn unsaved(&self) -> (Unsaved, Vec<String>) {
        let (mut unsaved, mut unwritable) = (Unsaved::default(), Vec::new());
        for (group, ends) in self.config.groups.iter().zip(&self.groups) {
            let status = ends.status.borrow().clone();
            let backends = Arc::clone(&ends.directions.borrow().backends);
            let changes = changes::changes_of(group, &status, &backends);
            unsaved.weights.extend(changes.weights.into_iter().map(|changed| (changed.backend, changed.now)));
            unsaved.removed.extend(changes.removed.into_iter().map(|removed| removed.backend));
            unsaved.added.extend(changes.added.into_iter().map(|addition| (group.name.clone(), addition)));
            let additions = backends.iter().filter_map(|known| known.addition.as_ref());
            let secret = additions.filter(|addition| addition.has_password());
            unwritable.extend(secret.map(|addition| addition.name.clone()));
        }
        (unsaved, unwritable)
    }
}

/// A file in which a group has no backend would not be read again.
fn check_groups(config: &Config, unsaved: &Unsaved) -> Result<(), String> {
    let is_kept = |name: &String| !unsaved.removed.contains(name);
    let is_empty = |group: &&config::Group| {
        let is_added = unsaved.added.iter().any(|(of, _)| *of == group.name);
        !is_added && !group.backends.iter().any(|backend| is_kept(&backend.name))
    };
    let Some(group) = config.groups.iter().find(is_empty) else { return Ok(()) };
    Err(format!(
        "group {} would have no backend in the file: those that it has now have passwords in their URLs, which are not \
         written",
        group.name
    ))
}
