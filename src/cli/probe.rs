//! `handover check --probe`: asks every backend once, and says what was found and what differs.

use std::fmt::Write as _;
use std::time::Duration;

use super::Exit;
use super::check::Finding;
use crate::channels::{BackendId, ProbeVerdict};
use crate::config::{Backend, BackendTls, Config, Group, format_duration};
use crate::control::checks::{Checker, LagWatch};
use crate::control::inventory::{Look, look};
use crate::logic::parity::{Inventory, compare};
use crate::tls::{Client, Keeper, Owner};

/// Asks every backend of every group, one after the other. A backend that cannot be asked, or that fails its health
/// check, is a failure; what differs is a warning.
#[must_use]
pub fn finding(config: &Config) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(probe(config)),
        Err(error) => {
            let errors = format!("the backends cannot be asked: {error}\n");
            Finding { exit: Exit::Failure, output: String::new(), errors }
        }
    }
}

async fn probe(config: &Config) -> Finding {
    let mut found = Finding { exit: Exit::Clean, output: String::new(), errors: String::new() };
    for group in &config.groups {
        let mut inventories = Vec::new();
        line(&mut found.output, &format!("asked, of group {}:", group.name));
        for backend in &group.backends {
            if let Some(inventory) = probe_backend(group, backend, &mut found).await {
                inventories.push((backend.name.as_str(), inventory));
            }
        }
        let borrowed: Vec<_> = inventories.iter().map(|(name, inventory)| (*name, inventory)).collect();
        let differences = compare(&borrowed);
        for difference in &differences {
            line(&mut found.errors, &format!("warning: group {}: backends differ in {difference}", group.name));
        }
        if differences.is_empty() && borrowed.len() > 1 {
            line(&mut found.output, "  they are alike");
        }
    }
    found
}

async fn probe_backend(group: &Group, backend: &Backend, found: &mut Finding) -> Option<Inventory> {
    let fail = |found: &mut Finding, why: &str| {
        found.exit = Exit::Failure;
        line(&mut found.errors, &format!("backend {}: {why}", backend.name));
    };
    line(&mut found.output, &format!("  backend {} at {}", backend.name, backend.address));
    let tls = match certificates(backend) {
        Ok(tls) => tls,
        Err(why) => {
            fail(found, &why);
            return None;
        }
    };
    let health = group.health_of(backend);
    let mut checker = Checker::new(&group.name, backend, health, tls.clone());
    let checked = tokio::time::timeout(health.timeout, checker.probe(true)).await;
    match checked {
        Ok((ProbeVerdict::Good { warning: None, .. }, _)) => line(&mut found.output, "    health check: good"),
        Ok((ProbeVerdict::Good { warning: Some(warning), .. }, _)) => {
            line(&mut found.output, "    health check: good");
            line(
                &mut found.errors,
                &format!("warning: backend {}: its health check is weaker: {warning}", backend.name),
            );
        }
        Ok((verdict, _)) => fail(found, &format!("its health check: {}", describe(&verdict))),
        Err(_) => {
            let limit = format_duration(health.timeout);
            fail(found, &format!("its health check: {} within {limit}", checker.silence()));
        }
    }
    if let Some(check) = &backend.checks.lag {
        match LagWatch::new(BackendId(0), check.clone()).round().await {
            Ok(lag) => line(&mut found.output, &format!("    lag: {lag}")),
            Err(why) => {
                let text = format!("warning: backend {}: nothing is failed back to it: lag: {why}", backend.name);
                line(&mut found.errors, &text);
            }
        }
    }
    match look(backend, &health.probe_key, tls.as_ref()).await {
        Ok(looked) => {
            line(&mut found.output, &format!("    {}", summary(&looked)));
            for warning in warnings(&looked, health.timeout) {
                line(&mut found.errors, &format!("warning: backend {}: {warning}", backend.name));
            }
            Some(looked.inventory)
        }
        Err(why) => {
            fail(found, &why);
            None
        }
    }
}

fn certificates(backend: &Backend) -> Result<Option<Client>, String> {
    let Some(BackendTls { files, server_name }) = &backend.tls else { return Ok(None) };
    let owner = Owner::Backend(backend.name.clone());
    Keeper::default().client(owner, files, server_name.clone()).map(Some).map_err(|problem| problem.to_string())
}

fn describe(verdict: &ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Good { .. } => "good".to_owned(),
        ProbeVerdict::CannotServe { reply } => format!("it cannot serve: {reply}"),
        ProbeVerdict::Busy { reply } => format!("it is busy: {reply}"),
        ProbeVerdict::Failed { cause, .. } => cause.clone(),
        ProbeVerdict::Void => "void".to_owned(),
    }
}

/// What it is, on one line.
fn summary(Look { inventory, connected, round_trip }: &Look) -> String {
    let unknown = || "unknown".to_owned();
    let modules = inventory
        .modules
        .as_ref()
        .map_or_else(unknown, |modules| names(modules.iter().map(|(name, version)| format!("{name} {version}"))));
    let libraries = inventory
        .libraries
        .as_ref()
        .map_or_else(unknown, |libraries| names(libraries.iter().map(|library| library.name.clone())));
    let appends = match inventory.has_append_only_file {
        Some(true) => "on",
        Some(false) => "off",
        None => "unknown",
    };
    format!(
        "{}, {}; databases {}, maxmemory-policy {}, modules {modules}, functions {libraries}; append-only file {appends}, \
         replicas {}; connected in {}, round trip {}",
        inventory.version.clone().unwrap_or_else(unknown),
        inventory.role.clone().unwrap_or_else(unknown),
        inventory.databases.clone().unwrap_or_else(unknown),
        inventory.maxmemory_policy.clone().unwrap_or_else(unknown),
        inventory.replicas.map_or_else(unknown, |count| count.to_string()),
        milliseconds(*connected),
        milliseconds(*round_trip),
    )
}

fn warnings(Look { inventory, connected, round_trip }: &Look, probe_timeout: Duration) -> Vec<String> {
    let mut warnings = Vec::new();
    if !inventory.rights_missing.is_empty() {
        warnings.push(format!("its user may not run {}", names(inventory.rights_missing.iter().cloned())));
    }
    warnings.extend(inventory.fragility().map(str::to_owned));
    let needed = *connected + *round_trip;
    if needed > probe_timeout {
        warnings.push(format!(
            "a new connection and a round trip took {}, which does not fit health.timeout ({})",
            milliseconds(needed),
            format_duration(probe_timeout)
        ));
    }
    warnings
}

fn names(list: impl Iterator<Item = String>) -> String {
    let text = list.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn line(into: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(into, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_warned_of() {
        let mut inventory = Inventory { role: Some("master".into()), replicas: Some(0), ..Inventory::default() };
        inventory.has_append_only_file = Some(false);
        inventory.rights_missing = ["ROLE".to_owned(), "ECHO".to_owned()].into();
        let looked = Look { inventory, connected: Duration::from_millis(90), round_trip: Duration::from_millis(11) };
        assert_eq!(
            warnings(&looked, Duration::from_millis(100)),
            [
                "its user may not run ECHO, ROLE",
                "it has neither an append-only file nor a replica: what it acknowledged is lost with it",
                "a new connection and a round trip took 101.0 ms, which does not fit health.timeout (100ms)",
            ]
        );
        let fine = Look { inventory: Inventory::default(), ..looked };
        assert_eq!(warnings(&fine, Duration::from_millis(101)), Vec::<String>::new());
    }
}
