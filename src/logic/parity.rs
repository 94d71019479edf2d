//! Whether the backends of a group are alike: what is known of each, and what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a backend is, as far as it would say. `None`: it would not, or it does not know the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// `redis 7.0.15`.
    pub version: Option<String>,
    /// `master` or `slave`. No part of the comparison: a master and its replica are a group.
    pub role: Option<String>,
    /// Loaded modules, and their versions.
    pub modules: Option<BTreeMap<String, String>>,
    /// How many databases there are.
    pub databases: Option<String>,
    /// What happens when memory is full.
    pub maxmemory_policy: Option<String>,
    /// Commands that Handover needs and its user may not run.
    pub rights_missing: BTreeSet<String>,
    /// Libraries of functions.
    pub libraries: Option<Vec<Library>>,
    /// Every write goes to an append-only file.
    pub has_append_only_file: Option<bool>,
    /// Replicas that are connected.
    pub replicas: Option<u64>,
}

/// A library of functions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// Unique on its server.
    pub name: String,
    /// What FUNCTION LOAD takes.
    pub code: String,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Kind and version of the server.
    Version,
    /// Modules and their versions.
    Modules,
    /// The number of databases.
    Databases,
    /// `maxmemory-policy`.
    MaxmemoryPolicy,
    /// What Handover's user may do.
    Rights,
    /// Libraries of functions, by name and code.
    Functions,
}

impl Aspect {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 6] =
        [Self::Version, Self::Modules, Self::Databases, Self::MaxmemoryPolicy, Self::Rights, Self::Functions];

    /// For logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Modules => "modules",
            Self::Databases => "databases",
            Self::MaxmemoryPolicy => "maxmemory-policy",
            Self::Rights => "rights",
            Self::Functions => "functions",
        }
    }
}

/// An aspect in which backends differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub aspect: Aspect,
    /// What each backend has, in words, in the file's order; those that do not say are left out.
    pub values: Vec<(String, String)>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.aspect.label())?;
        for (index, (backend, value)) in self.values.iter().enumerate() {
            write!(formatter, "{} {backend}: {value}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Inventory {
    /// Nothing would be left of what it has if it ended: `Some` in words if so, as far as that is known.
    #[must_use]
    pub fn fragility(&self) -> Option<&'static str> {
        match (self.has_append_only_file, self.replicas, self.role.as_deref()) {
            (Some(false), Some(0), Some("master")) => {
                Some("it has neither an append-only file nor a replica: what it acknowledged is lost with it")
            }
            _ => None,
        }
    }

    fn value(&self, aspect: Aspect) -> Option<String> {
        match aspect {
            Aspect::Version => self.version.clone(),
            Aspect::Modules => self
                .modules
                .as_ref()
                .map(|modules| listed(modules.iter().map(|(name, version)| format!("{name} {version}")))),
            Aspect::Databases => self.databases.clone(),
            Aspect::MaxmemoryPolicy => self.maxmemory_policy.clone(),
            Aspect::Rights if self.rights_missing.is_empty() => Some("all that are needed".to_owned()),
            Aspect::Rights => Some(format!("without {}", listed(self.rights_missing.iter().cloned()))),
            Aspect::Functions => self.libraries.as_ref().map(|libraries| {
                let sorted: BTreeSet<&Library> = libraries.iter().collect();
                listed(sorted.iter().map(|library| format!("{} ({})", library.name, short_digest(&library.code))))
            }),
        }
    }
}

/// What differs between the backends of a group, aspect by aspect.
#[must_use]
pub fn compare(inventories: &[(&str, &Inventory)]) -> Vec<Difference> {
    let of_aspect = |aspect: Aspect| {
        let said =
            inventories.iter().filter_map(|(name, inventory)| Some(((*name).to_owned(), inventory.value(aspect)?)));
        Difference { aspect, values: said.collect() }
    };
    let differs = |difference: &Difference| {
        let values = &difference.values;
        values.iter().any(|(_, value)| *value != values[0].1)
    };
    Aspect::ALL.into_iter().map(of_aspect).filter(differs).collect()
}

/// The libraries that `wanted` has and `there` lacks or has with other code.
#[must_use]
pub fn missing<'a>(wanted: &'a [Library], there: &[Library]) -> Vec<&'a Library> {
    wanted.iter().filter(|library| !there.contains(library)).collect()
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let list = items.collect::<Vec<_>>().join(", ");
    if list.is_empty() { "none".to_owned() } else { list }
}

/// Tells two versions of a library apart, for people.
fn short_digest(code: &str) -> String {
    use sha1::{Digest as _, Sha1};
    Sha1::digest(code.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The latest inventory of each backend of a group, and what differs between them.
#[derive(Clone, Debug, Default)]
pub struct Parity {
    inventories: Vec<(String, Inventory)>,
    differences: Vec<Difference>,
}

/// What an inventory changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParityChange {
    /// These differ, in another way than before.
    Differs(Difference),
    /// These were different and are not any more.
    Alike(Aspect),
}

impl Parity {
    /// For the backends of these names, in the file's order.
    #[must_use]
    pub const fn new() -> Self {
        Self { inventories: Vec::new(), differences: Vec::new() }
    }

    /// A backend was looked at. Says what that changed, once.
    pub fn on_inventory(&mut self, backend: &str, inventory: Inventory) -> Vec<ParityChange> {
        match self.inventories.iter_mut().find(|(name, _)| name == backend) {
            Some((_, known)) => *known = inventory,
            None => {
                self.inventories.push((backend.to_owned(), inventory));
                self.inventories.sort_by(|one, other| one.0.cmp(&other.0));
            }
        }
        self.settle()
    }

    /// A backend is no longer one of the group's.
    pub fn forget(&mut self, backend: &str) -> Vec<ParityChange> {
        self.inventories.retain(|(name, _)| name != backend);
        self.settle()
    }

    /// What differs now.
    #[must_use]
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// Backends that have been looked at.
    #[must_use]
    pub fn known(&self) -> usize {
        self.inventories.len()
    }

    /// What is known of a backend.
    #[must_use]
    pub fn inventory(&self, backend: &str) -> Option<&Inventory> {
        self.inventories.iter().find(|(name, _)| name == backend).map(|(_, inventory)| inventory)
    }

    fn settle(&mut self) -> Vec<ParityChange> {
        let all: Vec<_> = self.inventories.iter().map(|(name, inventory)| (name.as_str(), inventory)).collect();
        let differences = compare(&all);
        let mut changes = Vec::new();
        for aspect in Aspect::ALL {
            let of = |list: &[Difference]| list.iter().find(|difference| difference.aspect == aspect).cloned();
            match (of(&self.differences), of(&differences)) {
                (before, Some(now)) if before.as_ref() != Some(&now) => changes.push(ParityChange::Differs(now)),
                (Some(_), None) => changes.push(ParityChange::Alike(aspect)),
                _ => {}
            }
        }
        self.differences = differences;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        Inventory {
            version: Some("redis 7.0.15".into()),
            role: Some("master".into()),
            modules: Some(BTreeMap::new()),
            databases: Some("16".into()),
            maxmemory_policy: Some("noeviction".into()),
            libraries: Some(Vec::new()),
            has_append_only_file: Some(true),
            replicas: Some(0),
            ..Inventory::default()
        }
    }

    fn library(name: &str, code: &str) -> Library {
        Library { name: name.into(), code: code.into() }
    }

    #[test]
    fn every_aspect_is_compared_and_what_is_not_known_differs_from_nothing() {
        type Change = fn(&mut Inventory);
        let cases: [(Change, Option<&str>); 13] = [
            (|_| {}, None),
            (
                |other| other.version = Some("valkey 9.1.2".into()),
                Some("version: east: redis 7.0.15; west: valkey 9.1.2"),
            ),
            (|other| other.version = None, None),
            (
                |other| other.modules = Some([("json".to_owned(), "2".to_owned())].into()),
                Some("modules: east: none; west: json 2"),
            ),
            (|other| other.modules = None, None),
            (|other| other.databases = Some("1".into()), Some("databases: east: 16; west: 1")),
            (
                |other| other.maxmemory_policy = Some("allkeys-lru".into()),
                Some("maxmemory-policy: east: noeviction; west: allkeys-lru"),
            ),
            (
                |other| other.rights_missing = ["ROLE".to_owned()].into(),
                Some("rights: east: all that are needed; west: without ROLE"),
            ),
            (
                |other| other.libraries = Some(vec![library("lib", "x")]),
                Some("functions: east: none; west: lib (11f6ad8e)"),
            ),
            (|other| other.libraries = None, None),
            (|other| other.role = Some("slave".into()), None),
            (|other| other.has_append_only_file = Some(false), None),
            (|other| other.replicas = Some(3), None),
        ];
        for (change, expected) in cases {
            let (east, mut west) = (inventory(), inventory());
            change(&mut west);
            let found: Vec<String> =
                compare(&[("east", &east), ("west", &west)]).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected.into_iter().map(str::to_owned).collect::<Vec<_>>());
        }
        assert_eq!(compare(&[("east", &inventory())]), []);
        assert_eq!(compare(&[]), []);
    }

    #[test]
    fn a_difference_is_told_once_and_so_is_its_end() {
        let mut parity = Parity::new();
        let mut other = inventory();
        other.databases = Some("1".into());
        assert_eq!(parity.on_inventory("east", inventory()), []);
        let told = parity.on_inventory("west", other.clone());
        assert!(matches!(&told[..], [ParityChange::Differs(difference)] if difference.aspect == Aspect::Databases));
        assert_eq!(parity.on_inventory("west", other.clone()), []);
        other.databases = Some("2".into());
        assert_eq!(parity.on_inventory("west", other).len(), 1, "it differs in another way");
        assert_eq!(parity.on_inventory("west", inventory()), [ParityChange::Alike(Aspect::Databases)]);
        assert_eq!((parity.differences(), parity.known()), (&[][..], 2));
    }

    #[test]
    fn libraries_that_lack_or_differ_are_loaded() {
        let (old, new, other) = (library("a", "1"), library("a", "2"), library("b", "1"));
        let wanted = [new.clone(), other.clone()];
        assert_eq!(missing(&wanted, &[old.clone(), other.clone()]), [&new]);
        assert_eq!(missing(&wanted, &[]), [&new, &other]);
        assert!(missing(&wanted, &[new.clone(), other.clone(), library("c", "")]).is_empty());
    }

    #[test]
    fn who_keeps_nothing_is_fragile() {
        let cases = [
            (Some(false), Some(0), "master", true),
            (Some(true), Some(0), "master", false),
            (Some(false), Some(1), "master", false),
            (Some(false), Some(0), "slave", false),
            (None, Some(0), "master", false),
            (Some(false), None, "master", false),
        ];
        for (has_append_only_file, replicas, role, expected) in cases {
            let found = Inventory { has_append_only_file, replicas, role: Some(role.into()), ..inventory() };
            assert_eq!(found.fragility().is_some(), expected, "{found:?}");
        }
    }
}
