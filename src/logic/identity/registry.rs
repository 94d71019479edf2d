//! The identities in use: each login has a number, and, with `passthrough`, a standing with the active backend.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::secret::digest;
use super::{IdentityId, Login};

/// Logins that are known at a time; beyond it AUTH is refused.
const IDENTITIES_MAX: usize = 1024;
/// How long a refusal answers for itself: those who wait for it read it, and a hasty client asks the backend no more.
const REFUSAL_MEMORY: Duration = Duration::from_secs(1);
/// A verification that came to nothing, since the backend could not be asked, is tried again after about so long.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A verification that nothing was heard of for so long is begun again.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Verifications after a switch are spread over so much time.
const SWITCH_SPREAD: Duration = Duration::from_secs(5);

/// What the active backend says of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not asked yet.
    Unknown,
    /// It accepted it.
    Accepted,
    /// It refused it, in these words (an error reply's bytes).
    Refused(Bytes),
}

#[derive(Debug)]
struct Entry {
    id: IdentityId,
    digest: [u8; 32],
    login: Arc<Login>,
    /// The operator configured it, so that it is never asked for again.
    is_trusted: bool,
    standing: Standing,
    /// When it is verified again, or forgotten if nobody uses it.
    due: Instant,
}

/// The identities in use.
#[derive(Debug)]
pub struct Registry {
    key: u64,
    last: u32,
    interval: Duration,
    entries: Vec<Entry>,
}

impl Registry {
    /// An empty registry. `key` is what logins are digested with; `interval` the most between two verifications.
    #[must_use]
    pub const fn new(key: u64, interval: Duration) -> Self {
        Self { key, last: 0, interval, entries: Vec::new() }
    }

    /// The number of a login: the one that it has, or a new one; `None` when too many are known.
    /// What is `trusted` counts as accepted.
    pub fn number(&mut self, login: &Login, is_trusted: bool, now: Instant) -> Option<IdentityId> {
        let digest = digest(self.key, login);
        if let Some(known) = self.entries.iter().find(|entry| entry.digest == digest && entry.is_trusted == is_trusted)
        {
            return Some(known.id);
        }
        if self.entries.len() >= IDENTITIES_MAX {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        let standing = if is_trusted { Standing::Accepted } else { Standing::Unknown };
        let (id, due) = (IdentityId(self.last), now + self.interval);
        let login = Arc::new(login.clone());
        self.entries.push(Entry { id, digest, login, is_trusted, standing, due });
        Some(id)
    }

    /// A client's login is known.
    #[must_use]
    pub fn knows(&self, login: &Login) -> bool {
        let digest = digest(self.key, login);
        self.entries.iter().any(|entry| entry.digest == digest && !entry.is_trusted)
    }

    /// What connections of this identity authenticate with; `None`: as the backend's URL says, or unknown.
    #[must_use]
    pub fn login(&self, id: IdentityId) -> Option<Arc<Login>> {
        self.entry(id).map(|entry| entry.login.clone())
    }

    /// What the active backend says of it.
    #[must_use]
    pub fn standing(&self, id: IdentityId) -> Standing {
        self.entry(id).map_or(Standing::Unknown, |entry| entry.standing.clone())
    }

    /// The operator configured it.
    #[must_use]
    pub fn is_trusted(&self, id: IdentityId) -> bool {
        self.entry(id).is_none_or(|entry| entry.is_trusted)
    }

    /// The active backend accepted it. `spread` is a random share between 0 and 1.
    pub fn accept(&mut self, id: IdentityId, spread: f64, now: Instant) {
        // Early enough that the answer comes within the interval.
        let due = now + self.interval.mul_f64(0.6 + 0.3 * spread);
        if let Some(entry) = self.entry_mut(id) {
            (entry.standing, entry.due) = (Standing::Accepted, due);
        }
    }

    /// The active backend refused it.
    pub fn refuse(&mut self, id: IdentityId, reply: Bytes, now: Instant) {
        if let Some(entry) = self.entry_mut(id).filter(|entry| !entry.is_trusted) {
            entry.standing = Standing::Refused(reply);
            entry.due = now + REFUSAL_MEMORY;
        }
    }

    /// The backend could not be asked.
    pub fn postpone(&mut self, id: IdentityId, spread: f64, now: Instant) {
        if let Some(entry) = self.entry_mut(id) {
            entry.due = now + RETRY_DELAY.mul_f64(0.5 + spread);
        }
    }

    /// Another backend is active: what the old one said counts for nothing. Who is connected to the new one already
    /// (`is_connected`) was accepted there, and is verified soon.
    pub fn on_switch(&mut self, is_connected: impl Fn(IdentityId) -> bool, now: Instant) {
        let spread = SWITCH_SPREAD.min(self.interval / 2);
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX).max(1);
        for (index, entry) in (0_u32..).zip(self.entries.iter_mut().filter(|entry| !entry.is_trusted)) {
            entry.standing = if is_connected(entry.id) { Standing::Accepted } else { Standing::Unknown };
            entry.due = now + if entry.standing == Standing::Accepted { spread * index / count } else { self.interval };
        }
    }

    /// An identity in use whose verification is due; it is under way from now on, and begun again only if
    /// no answer comes.
    pub fn next_due(&mut self, in_use: &HashSet<IdentityId>, now: Instant) -> Option<IdentityId> {
        let is_due = |entry: &&mut Entry| {
            !entry.is_trusted && entry.standing == Standing::Accepted && entry.due <= now && in_use.contains(&entry.id)
        };
        let entry = self.entries.iter_mut().find(is_due)?;
        entry.due = now + ANSWER_MAX;
        Some(entry.id)
    }

    /// Forgets whose time has come and whom nobody uses, and returns them.
    pub fn forget_unused(&mut self, in_use: &HashSet<IdentityId>, now: Instant) -> Vec<IdentityId> {
        let interval = self.interval;
        for entry in self.entries.iter_mut().filter(|entry| entry.is_trusted && in_use.contains(&entry.id)) {
            entry.due = now + interval;
        }
        let is_over = |entry: &Entry| {
            entry.due <= now && (!in_use.contains(&entry.id) || matches!(entry.standing, Standing::Refused(_)))
        };
        let forgotten = self.entries.iter().filter(|entry| is_over(entry)).map(|entry| entry.id).collect();
        self.entries.retain(|entry| !is_over(entry));
        forgotten
    }

    fn entry(&self, id: IdentityId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    fn entry_mut(&mut self, id: IdentityId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::identity::Secret;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn login(user: &'static str, password: &str) -> Login {
        Login { user: Some(Bytes::from_static(user.as_bytes())), password: Secret::new(password.as_bytes()) }
    }

    fn refusal() -> Bytes {
        Bytes::from_static(b"-WRONGPASS no\r\n")
    }

    #[test]
    fn a_login_has_one_number_and_numbers_are_never_used_twice() {
        let (mut registry, now) = (Registry::new(1, INTERVAL), Instant::now());
        let bob = registry.number(&login("bob", "x"), false, now).unwrap();
        assert_eq!(registry.number(&login("bob", "x"), false, now), Some(bob));
        let other = registry.number(&login("bob", "y"), false, now).unwrap();
        assert!(other != bob && bob != IdentityId::CONFIGURED);
        // The operator's own login is told from a client's that happens to be equal.
        assert_ne!(registry.number(&login("bob", "x"), true, now), Some(bob));
        assert_eq!(registry.forget_unused(&HashSet::new(), now + INTERVAL).len(), 3);
        assert_eq!(registry.login(bob), None);
        let again = registry.number(&login("bob", "x"), false, now).unwrap();
        assert!(again > other);
    }

    #[test]
    fn no_more_logins_are_known_than_the_bound() {
        let (mut registry, now) = (Registry::new(1, INTERVAL), Instant::now());
        for index in 0..IDENTITIES_MAX {
            assert!(registry.number(&login("bob", &index.to_string()), false, now).is_some());
        }
        assert_eq!(registry.number(&login("bob", "more"), false, now), None);
    }

    #[test]
    fn an_identity_in_use_is_verified_within_the_interval_and_an_unused_one_forgotten() {
        for spread in [0.0, 0.5, 1.0] {
            let (mut registry, start) = (Registry::new(1, INTERVAL), Instant::now());
            let bob = registry.number(&login("bob", "x"), false, start).unwrap();
            registry.accept(bob, spread, start);
            let in_use = HashSet::from([bob]);
            let mut asked = None;
            for tick in 0..600_u32 {
                let now = start + Duration::from_millis(100) * tick;
                assert_eq!(registry.forget_unused(&in_use, now), []);
                asked = asked.or_else(|| registry.next_due(&in_use, now).map(|_| now));
            }
            let after = asked.unwrap().duration_since(start);
            assert!(after >= INTERVAL / 2 && after <= INTERVAL * 9 / 10 + Duration::from_millis(100), "{after:?}");
            // Under way, it is not begun a second time; come to nothing, it is.
            let asked = asked.unwrap();
            assert_eq!(registry.next_due(&in_use, asked + ANSWER_MAX / 2), None);
            assert_eq!(registry.next_due(&in_use, asked + ANSWER_MAX), Some(bob));
            registry.postpone(bob, spread, start + INTERVAL);
            assert_eq!(registry.next_due(&in_use, start + INTERVAL + RETRY_DELAY * 2), Some(bob));
            registry.accept(bob, spread, start + INTERVAL);
            assert_eq!(registry.forget_unused(&HashSet::new(), start + INTERVAL * 2), [bob]);
        }
    }

    #[test]
    fn a_refusal_answers_for_a_second_and_is_then_forgotten() {
        let (mut registry, now) = (Registry::new(1, INTERVAL), Instant::now());
        let bob = registry.number(&login("bob", "x"), false, now).unwrap();
        registry.refuse(bob, refusal(), now);
        assert_eq!(registry.standing(bob), Standing::Refused(refusal()));
        assert_eq!(registry.forget_unused(&HashSet::from([bob]), now + REFUSAL_MEMORY / 2), []);
        assert_eq!(registry.forget_unused(&HashSet::from([bob]), now + REFUSAL_MEMORY), [bob]);
        assert_eq!(registry.standing(bob), Standing::Unknown);
    }

    #[test]
    fn a_switch_makes_the_old_words_void_and_what_is_connected_due_soon() {
        let (mut registry, now) = (Registry::new(1, INTERVAL), Instant::now());
        let [bob, eve] = ["bob", "eve"].map(|user| registry.number(&login(user, "x"), false, now).unwrap());
        let trusted = registry.number(&login("app", "x"), true, now).unwrap();
        [bob, eve].into_iter().for_each(|id| registry.accept(id, 0.0, now));
        registry.on_switch(|id| id == bob, now);
        assert_eq!(registry.standing(bob), Standing::Accepted);
        assert_eq!(registry.standing(eve), Standing::Unknown);
        assert_eq!(registry.standing(trusted), Standing::Accepted);
        let in_use = HashSet::from([bob, eve, trusted]);
        assert_eq!(registry.next_due(&in_use, now + SWITCH_SPREAD), Some(bob));
        assert_eq!(registry.next_due(&in_use, now + SWITCH_SPREAD), None);
    }

    #[test]
    fn what_the_operator_configured_is_neither_verified_nor_refused() {
        let (mut registry, now) = (Registry::new(1, INTERVAL), Instant::now());
        let app = registry.number(&login("app", "x"), true, now).unwrap();
        registry.refuse(app, refusal(), now);
        assert_eq!(registry.standing(app), Standing::Accepted);
        let in_use = HashSet::from([app]);
        for minutes in 1..5 {
            let later = now + INTERVAL * minutes;
            assert_eq!(registry.next_due(&in_use, later), None);
            assert_eq!(registry.forget_unused(&in_use, later), []);
        }
        assert_eq!(registry.forget_unused(&HashSet::new(), now + INTERVAL * 9), [app]);
    }
}
