//! What a client wants, and what of it is not confirmed yet. Knows no connection: it says what a server has to be asked,
//! takes its confirmations, and says what the client is told, with the counts that Redis would give.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

/// Channels, and patterns, that begin so are Handover's own: no server ever hears of them.
pub(super) const OWN_PREFIX: &[u8] = b"__handover__:";

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Channels.
    Channel,
    /// Patterns.
    Pattern,
    /// Shard channels.
    Shard,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub(in crate::logic::multiplexer) const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::Shard];

    pub(super) const fn command(self, subscribe: bool) -> &'static str {
        match (self, subscribe) {
            (Self::Channel, true) => "SUBSCRIBE",
            (Self::Channel, false) => "UNSUBSCRIBE",
            (Self::Pattern, true) => "PSUBSCRIBE",
            (Self::Pattern, false) => "PUNSUBSCRIBE",
            (Self::Shard, true) => "SSUBSCRIBE",
            (Self::Shard, false) => "SUNSUBSCRIBE",
        }
    }

    /// The word of its confirmations.
    pub(super) const fn word(self, subscribe: bool) -> &'static str {
        match (self, subscribe) {
            (Self::Channel, true) => "subscribe",
            (Self::Channel, false) => "unsubscribe",
            (Self::Pattern, true) => "psubscribe",
            (Self::Pattern, false) => "punsubscribe",
            (Self::Shard, true) => "ssubscribe",
            (Self::Shard, false) => "sunsubscribe",
        }
    }

    /// Handover answers for it itself.
    pub(super) fn is_own(self, name: &[u8]) -> bool {
        self != Self::Shard && name.starts_with(OWN_PREFIX)
    }
}

/// A client's command whose confirmations are due.
#[derive(Clone, Debug)]
struct Change {
    kind: Kind,
    subscribe: bool,
    /// Not yet confirmed.
    names: VecDeque<Bytes>,
    /// All of its kind are left; `names` is empty.
    leaves_all: bool,
}

/// What a server has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// What.
    pub(super) kind: Kind,
    /// Or left.
    pub(super) subscribe: bool,
    /// Which; none: all of the kind.
    pub(super) names: Vec<Bytes>,
    /// How many confirmations it will give.
    pub(super) due: usize,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    /// Of what.
    pub(super) kind: Kind,
    /// Subscribed or left.
    pub(super) subscribe: bool,
    /// The name; none: there was nothing to leave.
    pub(super) name: Option<Bytes>,
    /// What is left, as Redis counts it.
    pub(super) count: usize,
}

/// The subscriptions of one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    wanted: [BTreeSet<Bytes>; 3],
    changes: VecDeque<Change>,
}

impl Registry {
    /// How many subscriptions there are.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.wanted.iter().map(BTreeSet::len).sum()
    }

    /// Subscriptions of one kind.
    #[must_use]
    pub(super) fn count_of(&self, kind: Kind) -> usize {
        self.wanted[kind as usize].len()
    }

    /// This was confirmed, and not left since.
    #[must_use]
    pub(super) fn has(&self, kind: Kind, name: &[u8]) -> bool {
        self.wanted[kind as usize].contains(name)
    }

    /// Everything asked for was confirmed.
    #[must_use]
    pub(super) fn is_settled(&self) -> bool {
        self.changes.is_empty()
    }

    /// Commands that are not confirmed yet.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.changes.len()
    }

    /// A server has to know of something.
    #[must_use]
    pub(super) fn needs_server(&self) -> bool {
        self.is_subscribed() || self.changes.iter().any(|change| self.asks_server(change))
    }

    /// A server has something to deliver.
    #[must_use]
    pub(super) fn is_subscribed(&self) -> bool {
        Kind::ALL.iter().any(|&kind| self.served(kind) > 0)
    }

    /// Subscriptions of a kind that a server has.
    fn served(&self, kind: Kind) -> usize {
        self.count_of(kind) - self.own(kind).count()
    }

    fn own(&self, kind: Kind) -> impl Iterator<Item = &Bytes> {
        let start = self.wanted[kind as usize].range(Bytes::from_static(OWN_PREFIX)..);
        start.take_while(move |name| kind.is_own(name))
    }

    /// The names of a kind that a server has to have.
    pub(super) fn names(&self, kind: Kind) -> impl Iterator<Item = &Bytes> {
        self.wanted[kind as usize].iter().filter(move |name| !kind.is_own(name))
    }

    /// Handover's own channels and patterns that the client has.
    pub(super) fn own_names(&self) -> impl Iterator<Item = (Kind, &Bytes)> {
        [Kind::Channel, Kind::Pattern].into_iter().flat_map(|kind| self.own(kind).map(move |name| (kind, name)))
    }

    /// The client's command, in its turn; no names: all of the kind are left, which must not stand behind what is not
    /// settled. Returns what a server has to be asked.
    pub(super) fn begin(&mut self, kind: Kind, subscribe: bool, names: VecDeque<Bytes>) -> Option<Request> {
        let leaves_all = names.is_empty();
        debug_assert!(!leaves_all || (!subscribe && self.is_settled()), "all of what is not known yet");
        self.changes.push_back(Change { kind, subscribe, names, leaves_all });
        self.changes.back().and_then(|change| self.request(change))
    }

    /// What a server that has everything wanted, and perhaps some of this already, has to be asked besides. All that is
    /// to be left is named, so that it confirms as much in either case.
    pub(super) fn requests(&self) -> impl Iterator<Item = Request> {
        self.changes.iter().filter_map(|change| {
            let mut request = self.request(change)?;
            if change.leaves_all {
                request.names = self.names(change.kind).cloned().collect();
            }
            Some(request)
        })
    }

    fn request(&self, change: &Change) -> Option<Request> {
        let names = change.names.iter().filter(|name| !change.kind.is_own(name)).cloned().collect();
        let due = self.due(change);
        (due > 0).then_some(Request { kind: change.kind, subscribe: change.subscribe, names, due })
    }

    fn asks_server(&self, change: &Change) -> bool {
        match change.leaves_all {
            true => self.served(change.kind) > 0,
            false => change.names.iter().any(|name| !change.kind.is_own(name)),
        }
    }

    /// Confirmations that a server owes.
    fn due(&self, change: &Change) -> usize {
        match change.leaves_all {
            true => self.served(change.kind),
            false => change.names.iter().filter(|name| !change.kind.is_own(name)).count(),
        }
    }

    /// The next confirmation that needs no server. To be asked for until there is none, after every step.
    pub(super) fn next_own(&mut self) -> Option<Confirmation> {
        let change = self.changes.front()?;
        let (kind, subscribe) = (change.kind, change.subscribe);
        if change.leaves_all {
            if self.served(kind) > 0 {
                return None;
            }
            let name = self.own(kind).next().cloned();
            let is_last = self.count_of(kind) <= 1;
            if is_last {
                self.changes.pop_front();
            }
            return Some(self.apply(kind, subscribe, name));
        }
        if !change.names.front().is_some_and(|name| kind.is_own(name)) {
            return None;
        }
        let name = self.take_name();
        Some(self.apply(kind, subscribe, name))
    }

    /// A server confirmed something, by name where it left all.
    pub(super) fn confirm(&mut self, name: Option<&[u8]>) -> Option<Confirmation> {
        let change = self.changes.front_mut()?;
        let (kind, subscribe) = (change.kind, change.subscribe);
        let leaves_all = change.leaves_all;
        let name = match leaves_all {
            true => name.map(Bytes::copy_from_slice),
            false => self.take_name(),
        };
        if name.is_none() {
            // The server has nothing of it.
            self.wanted[kind as usize].retain(|name| kind.is_own(name));
        }
        let confirmation = self.apply(kind, subscribe, name);
        if self.changes.front().is_some_and(|change| change.leaves_all) && self.count_of(kind) == 0 {
            self.changes.pop_front();
        }
        Some(confirmation)
    }

    /// The first name of the front change, which ends with its last.
    fn take_name(&mut self) -> Option<Bytes> {
        let change = self.changes.front_mut()?;
        let name = change.names.pop_front();
        if change.names.is_empty() {
            self.changes.pop_front();
        }
        name
    }

    fn apply(&mut self, kind: Kind, subscribe: bool, name: Option<Bytes>) -> Confirmation {
        let wanted = &mut self.wanted[kind as usize];
        if let Some(name) = &name {
            match subscribe {
                true => drop(wanted.insert(name.clone())),
                false => drop(wanted.remove(name)),
            }
        }
        Confirmation { kind, subscribe, name, count: self.told(kind) }
    }

    /// What Redis counts in a confirmation of this kind.
    #[must_use]
    pub(super) fn told(&self, kind: Kind) -> usize {
        match kind {
            Kind::Channel | Kind::Pattern => self.count_of(Kind::Channel) + self.count_of(Kind::Pattern),
            Kind::Shard => self.count_of(Kind::Shard),
        }
    }

    /// A server refused the first command: nothing of what is left of it takes effect.
    pub(super) fn refuse(&mut self) {
        self.changes.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// A server, as naive as can be: what it has, and what it says to each command.
    #[derive(Default)]
    struct Naive {
        has: HashSet<(usize, Bytes)>,
    }

    impl Naive {
        fn count(&self, kind: Kind) -> usize {
            let of = |kind: Kind| self.has.iter().filter(|(of, _)| *of == kind as usize).count();
            if kind == Kind::Shard { of(kind) } else { of(Kind::Channel) + of(Kind::Pattern) }
        }

        fn carry_out(&mut self, kind: Kind, subscribe: bool, names: &[Bytes]) -> Vec<Confirmation> {
            let mut left: Vec<Bytes> =
                self.has.iter().filter(|(of, _)| *of == kind as usize).map(|(_, name)| name.clone()).collect();
            left.sort();
            let all = names.is_empty();
            let names: Vec<Option<Bytes>> = match (all, left.is_empty()) {
                (true, true) => vec![None],
                (true, false) => left.into_iter().map(Some).collect(),
                (false, _) => names.iter().cloned().map(Some).collect(),
            };
            let mut said = Vec::new();
            for name in names {
                if let Some(name) = &name {
                    let entry = (kind as usize, name.clone());
                    if subscribe {
                        self.has.insert(entry)
                    } else {
                        self.has.remove(&entry)
                    };
                }
                said.push(Confirmation { kind, subscribe, name, count: self.count(kind) });
            }
            said
        }
    }

    /// What the registry has a client told, when a server behind it confirms at once.
    fn tell(registry: &mut Registry, server: &mut Naive, request: Option<Request>) -> Vec<Confirmation> {
        let mut told: Vec<Confirmation> = std::iter::from_fn(|| registry.next_own()).collect();
        if let Some(Request { kind, subscribe, names, due }) = request {
            let said = server.carry_out(kind, subscribe, &names);
            assert_eq!(said.len(), due, "the server owes what was expected of it");
            for confirmation in said {
                told.extend(registry.confirm(confirmation.name.as_deref()));
                told.extend(std::iter::from_fn(|| registry.next_own()));
            }
        }
        assert!(registry.is_settled());
        told
    }

    fn names() -> impl Strategy<Value = Vec<Bytes>> {
        let name = prop_oneof![
            4 => "[a-d]".prop_map(Bytes::from),
            1 => "[ab]".prop_map(|tail| Bytes::from(format!("__handover__:{tail}"))),
        ];
        prop::collection::vec(name, 0..5)
    }

    proptest! {
        #[test]
        fn every_confirmation_is_the_one_of_a_server_that_has_it_all(
            course in prop::collection::vec((0_usize..3, any::<bool>(), names()), 1..40)
        ) {
            let (mut registry, mut server, mut model) = (Registry::default(), Naive::default(), Naive::default());
            for (kind, subscribe, names) in course {
                let kind = Kind::ALL[kind];
                let subscribe = subscribe && !names.is_empty();
                let request = registry.begin(kind, subscribe, names.clone().into());
                let mut told = tell(&mut registry, &mut server, request);
                let mut expected = model.carry_out(kind, subscribe, &names);
                if names.is_empty() {
                    // In which order all are left is the server's affair; the counts are not.
                    let counts = |said: &[Confirmation]| said.iter().map(|one| one.count).collect::<Vec<_>>();
                    prop_assert_eq!(counts(&told), counts(&expected));
                    told.iter_mut().chain(&mut expected).for_each(|one| one.count = 0);
                    told.sort_by(|one, other| one.name.cmp(&other.name));
                    expected.sort_by(|one, other| one.name.cmp(&other.name));
                }
                prop_assert_eq!(told, expected);
                // What a server would be given anew is exactly what is wanted of it.
                for kind in Kind::ALL {
                    let mut given: Vec<&Bytes> = registry.names(kind).collect();
                    let mut has: Vec<&Bytes> =
                        server.has.iter().filter(|(of, _)| *of == kind as usize).map(|(_, name)| name).collect();
                    given.sort();
                    has.sort();
                    prop_assert_eq!(given, has);
                }
            }
        }
    }

    #[test]
    fn what_is_not_confirmed_is_asked_for_again_elsewhere() {
        let mut registry = Registry::default();
        let name = Bytes::from_static;
        registry.begin(Kind::Channel, true, [name(b"a"), name(b"b")].into());
        registry.begin(Kind::Channel, true, [name(b"c")].into());
        registry.confirm(Some(b"a"));
        let asked: Vec<Request> = registry.requests().collect();
        assert_eq!(
            asked.iter().map(|request| (request.names.len(), request.due)).collect::<Vec<_>>(),
            [(1, 1), (1, 1)]
        );
        assert_eq!(registry.names(Kind::Channel).collect::<Vec<_>>(), [&name(b"a")]);
        registry.confirm(Some(b"b"));
        registry.refuse();
        assert!(registry.is_settled() && registry.count() == 2);
    }
}
