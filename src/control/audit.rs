//! What an order is about, before it and after it: the `old` and `new` of its line in the audit log.

use crate::channels::{BackendId, Command};
use crate::logic::failover::{Failover, MemberView};

/// How what `command` would change stands now.
pub(super) fn standing(machine: &Failover, command: &Command, name_of: impl Fn(BackendId) -> String) -> String {
    let member = |id: BackendId| machine.members().find(|member| member.id == id);
    let none = || "none".to_owned();
    match command {
        Command::Switch { .. } => match machine.target().or(machine.route().active) {
            Some(active) => format!("active {}", name_of(active)),
            None => none(),
        },
        Command::SetWeight { backend, .. } => {
            member(*backend).map_or_else(none, |member| format!("weight {}", member.own_weight))
        }
        Command::Stay { .. } | Command::EndStay => {
            machine.stay().map_or_else(none, |stay| format!("held on {}", name_of(stay.backend)))
        }
        Command::Ban { backend, .. } | Command::EndBan { backend } => {
            let is_banned = member(*backend).is_some_and(|member| member.banned_until.is_some());
            if is_banned { "banned" } else { "not banned" }.to_owned()
        }
        Command::Drain { backend } | Command::EndDrain { backend } => {
            let is_drained = member(*backend).is_some_and(|member| member.is_drained);
            if is_drained { "drained" } else { "in service" }.to_owned()
        }
        Command::Remove { backend, .. } => match member(*backend) {
            Some(member) if member.is_leaving => "leaving".to_owned(),
            Some(_) => "a member".to_owned(),
            None => "no member".to_owned(),
        },
        Command::Report { backend, .. } => member(*backend).map_or_else(none, reports),
        Command::Pause { .. } | Command::Resume => {
            if machine.pause().is_some() { "clients wait" } else { "clients are served" }.to_owned()
        }
        Command::Drill { .. } | Command::EndDrill => match machine.drill() {
            Some((drill, _)) => format!("drill: {} {}", drill.fault, name_of(drill.backend)),
            None => "no drill".to_owned(),
        },
    }
}

fn reports(member: MemberView<'_>) -> String {
    let lines: Vec<String> = member.reports.iter().map(ToString::to_string).collect();
    if lines.is_empty() { "no report".to_owned() } else { lines.join("; ") }
}
