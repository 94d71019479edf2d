//! Holds `config/handover.toml` against the code: every key, each with the default that the code has.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::section::Notes;
use super::{Config, Sources, file};
use crate::logic::settings::RetryCeiling;

const REFERENCE: &str = include_str!("../../config/handover.toml");
const BARE: &str =
    "[[listener]]\nbind = \"127.0.0.1:6379\"\n[[backend]]\nname = \"east\"\nurl = \"redis://127.0.0.1:7001\"\n";

/// The reference with every default written: lines that begin with `#` and no space lose it.
fn uncommented() -> String {
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    REFERENCE.lines().map(|line| if is_setting(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

fn load(text: &str) -> Config {
    let sources = Sources { text: Some(text.to_owned()), cores: 8, ..Sources::default() };
    match Config::load(&sources) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// The keys that `text` may have, list indexes left out.
fn schema(text: &str) -> BTreeSet<String> {
    let mut notes = Notes::default();
    file::read(text.parse().unwrap(), &mut notes, &Sources::default());
    assert_eq!(notes.problems, []);
    notes.keys.iter().map(|key| key.replace("[0]", "").replace("[1]", "")).collect()
}

fn written(table: &Table, path: &str, into: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Table(inner) => written(inner, &path, into),
            Value::Array(items) if items.iter().any(Value::is_table) => {
                items.iter().filter_map(Value::as_table).for_each(|inner| written(inner, &path, into));
            }
            _ => {
                into.insert(path);
            }
        }
    }
}

#[test]
fn the_reference_as_it_is_has_only_defaults() {
    assert_eq!(load(REFERENCE), load(BARE));
}

#[test]
fn every_default_in_the_reference_is_that_of_the_code() {
    let mut config = load(&uncommented());
    let [group] = config.groups.as_mut_slice() else { panic!("one group") };
    // The second listener shows the one key that only a Unix socket has.
    assert_eq!(group.listeners.pop().map(|listener| listener.mode), Some(group.listeners[0].mode));
    // Without a list of its own a group has the list that the command table knows.
    let refuse = group.commands.refuse.take().expect("the list is in the reference");
    assert_eq!(refuse.len(), 12);
    assert_eq!(config, load(BARE));
}

#[test]
fn every_key_of_the_code_is_in_the_reference() {
    let text = uncommented();
    let mut keys = BTreeSet::new();
    written(&text.parse().unwrap(), "", &mut keys);
    for key in schema(&text) {
        // A group and a backend take keys of the file-wide tables, as the reference says.
        let general = key.strip_prefix("group.default.").filter(|rest| rest.contains('.'));
        let general = general.or_else(|| key.strip_prefix("backend.").filter(|rest| rest.starts_with("health.")));
        let key = general.unwrap_or(&key);
        assert!(keys.contains(key), "{key} is not in config/handover.toml");
    }
}

#[test]
fn a_described_key_has_prose_before_it() {
    let lines: Vec<&str> = REFERENCE.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let is_key = line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
        if is_key && *line != "#bind = \"unix:///run/handover/handover.sock\"" {
            assert!(lines[index - 1].starts_with("# "), "no description before {line}");
        }
    }
}

#[test]
fn presets_in_the_reference_are_those_of_the_code() {
    // Each line of the preset's description, as keys over the defaults.
    for (preset, described) in [
        (
            "fast",
            "health = { interval = '100ms', timeout = '100ms', fall = 2 }\ndetector.hang_timeout = '100ms'\n\
             breaker.grace = '10s'\nfailover.failback_hold = '10s'\n",
        ),
        ("conservative", "health = { interval = '2s', timeout = '1s', fall = 3 }\ndetector.hang_timeout = '5s'\n"),
        (
            "redis-clients",
            "health = { interval = '5s', timeout = '3s', probes = 3, probes_delay = '500ms', policy = 'all' }\n\
             detector = { window = '2s', min_failures = 1000, failure_rate = 0.1 }\nbreaker.grace = '60s'\n\
             failover = { failback_hold = '120s', attempts = 10, delay = '12s', hold = '3250ms' }\n",
        ),
        ("default", ""),
    ] {
        let by_name = load(&format!("preset = '{preset}'\n{BARE}"));
        assert_eq!(by_name, load(&format!("{described}{BARE}")), "{preset}");
    }
}

#[test]
fn a_written_key_wins_over_the_preset_wherever_it_stands() {
    let config =
        load(&format!("preset = 'fast'\n{BARE}[health]\ntimeout = '300ms'\n[group.default.health]\nfall = 9\n"));
    let health = &config.groups[0].health;
    assert_eq!((health.interval.as_millis(), health.timeout.as_millis(), health.fall), (100, 300, 9));
    assert_eq!(config.groups[0].retry.ceiling, RetryCeiling::WriteLastWins);
}
