//! Who is subscribed to what, of all clients that share one connection (`pubsub.mode = "hub"`). Knows no connection:
//! it says what the server has to be asked, takes its answers, and says which clients are told what, each in the order
//! of its own commands.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::registry::{Kind, Request};
use crate::logic::multiplexer::SessionKey;

/// Channels that one command to the server names at most.
const NAMES_MAX: usize = 1000;
/// Between two looks at what nobody wants and the server has not confirmed yet.
const UNCONFIRMED_WAIT: Duration = Duration::from_millis(50);

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The server is asked.
    Ask { kind: Kind, subscribe: bool, names: Vec<Bytes> },
    /// The client is told that it has this, or has it no more.
    Confirm { key: SessionKey, kind: Kind, subscribe: bool, name: Bytes },
    /// The client's command was refused with this error.
    Refuse { key: SessionKey, error: Bytes },
}

/// What the server has, or was asked for.
#[derive(Debug, Default)]
struct Topic {
    subscribers: Vec<SessionKey>,
    /// Commands that name it and are not confirmed: nobody leaves it under their feet.
    claims: usize,
    is_live: bool,
    /// Commands that wait until it is live: the client, and its command's number.
    waiting: Vec<(SessionKey, u64)>,
    /// When the server is told that nobody wants it any more, if nobody does then.
    leave_at: Option<Instant>,
}

impl Topic {
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.claims == 0
    }
}

/// A command that the server has not answered.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    subscribe: bool,
    names: VecDeque<Bytes>,
    /// In whose name.
    by: Option<(SessionKey, u64)>,
}

/// A client's command that is not confirmed.
#[derive(Debug)]
struct Command {
    kind: Kind,
    subscribe: bool,
    names: Vec<Bytes>,
    /// Names that are not live yet.
    missing: usize,
    refused: Option<Bytes>,
}

/// A client's commands, in its order.
#[derive(Debug)]
struct Queue {
    /// The number of the first.
    first: u64,
    commands: VecDeque<Command>,
}

impl Queue {
    fn get_mut(&mut self, number: u64) -> Option<&mut Command> {
        self.commands.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// The subscriptions of all clients that share one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    linger: Duration,
    topics: [HashMap<Bytes, Topic>; 3],
    queues: HashMap<SessionKey, Queue>,
    /// Where the numbers of a new queue begin: beyond those of every one that ended.
    first_number: u64,
    asked: VecDeque<Asked>,
    /// Topics that nobody wants any more, and when the server is told.
    idle: VecDeque<(Instant, Kind, Bytes)>,
}

impl Exchange {
    /// Without subscribers; a topic that nobody wants any more is kept for `linger`.
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            linger,
            topics: Default::default(),
            queues: HashMap::new(),
            first_number: 0,
            asked: VecDeque::new(),
            idle: VecDeque::new(),
        }
    }

    /// Nobody uses it, and the server has nothing of it.
    pub(super) fn is_unused(&self) -> bool {
        self.topics.iter().all(HashMap::is_empty) && self.asked.is_empty() && self.queues.is_empty()
    }

    /// Channels, patterns or shard channels that the server has, or was asked for.
    pub(super) fn topics(&self, kind: Kind) -> usize {
        self.topics[kind as usize].len()
    }

    /// Takes those who get what is published there, to be given back with [`Exchange::give_back`].
    pub(super) fn take_subscribers(&mut self, kind: Kind, name: &[u8]) -> Vec<SessionKey> {
        let topic = self.topics[kind as usize].get_mut(name);
        topic.map(|topic| std::mem::take(&mut topic.subscribers)).unwrap_or_default()
    }

    /// Gives back what was taken, without those who left meanwhile.
    pub(super) fn give_back(&mut self, kind: Kind, name: &[u8], subscribers: Vec<SessionKey>) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            topic.subscribers = subscribers;
        }
    }

    /// A client subscribes, or leaves what it has: `request` is never empty.
    pub(super) fn take(&mut self, key: SessionKey, request: Request, now: Instant) -> Vec<Step> {
        let Request { kind, subscribe, names, .. } = request;
        let fresh = Queue { first: self.first_number, commands: VecDeque::new() };
        let queue = self.queues.entry(key).or_insert(fresh);
        let number = queue.first + queue.commands.len() as u64;
        queue.commands.push_back(Command { kind, subscribe, names: names.clone(), missing: 0, refused: None });
        let mut steps = Vec::new();
        if subscribe {
            self.claim(key, number, kind, &names, &mut steps);
        }
        self.advance(key, now, &mut steps);
        steps
    }

    /// Waits for the names that are not live, and asks for those that nobody asked for.
    fn claim(&mut self, key: SessionKey, number: u64, kind: Kind, names: &[Bytes], steps: &mut Vec<Step>) {
        let (mut missing, mut unknown) = (0, Vec::new());
        for name in names {
            let topics = &mut self.topics[kind as usize];
            if !topics.contains_key(name) {
                unknown.push(name.clone());
            }
            let topic = topics.entry(name.clone()).or_default();
            topic.claims += 1;
            if !topic.is_live {
                topic.waiting.push((key, number));
                missing += 1;
            }
        }
        if let Some(command) = self.queues.get_mut(&key).and_then(|queue| queue.get_mut(number)) {
            command.missing += missing;
        }
        if !unknown.is_empty() {
            self.ask(kind, true, unknown, Some((key, number)), steps);
        }
    }

    fn ask(
        &mut self,
        kind: Kind,
        subscribe: bool,
        names: Vec<Bytes>,
        by: Option<(SessionKey, u64)>,
        steps: &mut Vec<Step>,
    ) {
        self.asked.push_back(Asked { kind, subscribe, names: names.clone().into(), by });
        steps.push(Step::Ask { kind, subscribe, names });
    }

    /// The server confirmed a name.
    pub(super) fn on_confirmed(&mut self, name: &[u8], now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(asked) = self.asked.front_mut() else { return steps };
        let (kind, subscribe) = (asked.kind, asked.subscribe);
        asked.names.pop_front();
        if asked.names.is_empty() {
            self.asked.pop_front();
        }
        let topic = self.topics[kind as usize].get_mut(name).filter(|_| subscribe);
        let Some(topic) = topic else { return steps };
        topic.is_live = true;
        for (key, number) in std::mem::take(&mut topic.waiting) {
            if let Some(command) = self.queues.get_mut(&key).and_then(|queue| queue.get_mut(number)) {
                command.missing = command.missing.saturating_sub(1);
            }
            self.advance(key, now, &mut steps);
        }
        steps
    }

    /// The server refused the command whose turn it was: whoever asked is told, and others ask for themselves.
    pub(super) fn on_refused(&mut self, error: &[u8], now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(Asked { kind, subscribe: true, names, by }) = self.asked.pop_front() else { return steps };
        if let Some((key, number)) = by
            && let Some(command) = self.queues.get_mut(&key).and_then(|queue| queue.get_mut(number))
        {
            command.refused = Some(Bytes::copy_from_slice(error));
            command.missing = 0;
        }
        for name in names {
            self.ask_again(kind, &name, by, &mut steps);
        }
        if let Some((key, _)) = by {
            self.advance(key, now, &mut steps);
        }
        steps
    }

    /// A name was in a command that was refused: the first of the others that wait for it asks for it alone.
    fn ask_again(&mut self, kind: Kind, name: &Bytes, by: Option<(SessionKey, u64)>, steps: &mut Vec<Step>) {
        let Some(topic) = self.topics[kind as usize].get_mut(name) else { return };
        topic.waiting.retain(|waiting| Some(*waiting) != by);
        match topic.waiting.first().copied() {
            Some(next) => self.ask(kind, true, vec![name.clone()], Some(next), steps),
            None if topic.subscribers.is_empty() => drop(self.topics[kind as usize].remove(name)),
            None => {}
        }
    }

    /// Tells a client what its commands have come to, as far as their turn has come.
    fn advance(&mut self, key: SessionKey, now: Instant, steps: &mut Vec<Step>) {
        while let Some((number, command)) = self.next_settled(key) {
            let Command { kind, subscribe, names, refused, .. } = command;
            if subscribe {
                names.iter().for_each(|name| self.release_claim((key, number), kind, name));
            }
            match refused {
                None => steps.extend(names.into_iter().map(|name| Step::Confirm { key, kind, subscribe, name })),
                Some(error) => {
                    names.iter().for_each(|name| self.note_idle(kind, name, now));
                    steps.push(Step::Refuse { key, error });
                }
            }
        }
    }

    fn next_settled(&mut self, key: SessionKey) -> Option<(u64, Command)> {
        let queue = self.queues.get_mut(&key)?;
        if queue.commands.front().is_some_and(|command| command.missing > 0) {
            return None;
        }
        let command = queue.commands.pop_front()?;
        let number = queue.first;
        queue.first += 1;
        if queue.commands.is_empty() {
            self.first_number = self.first_number.max(queue.first);
            self.queues.remove(&key);
        }
        Some((number, command))
    }

    fn release_claim(&mut self, command: (SessionKey, u64), kind: Kind, name: &Bytes) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            topic.claims = topic.claims.saturating_sub(1);
            if !topic.is_live {
                topic.waiting.retain(|waiting| *waiting != command);
            }
        }
    }

    /// A client that did not have it gets what is published there from now on.
    pub(super) fn join(&mut self, key: SessionKey, kind: Kind, name: &[u8]) {
        if let Some(topic) = self.topics[kind as usize].get_mut(name) {
            topic.subscribers.push(key);
        }
    }

    /// A client that had it does not any more.
    pub(super) fn leave(&mut self, key: SessionKey, kind: Kind, name: &Bytes, now: Instant) {
        let Some(topic) = self.topics[kind as usize].get_mut(name) else { return };
        if let Some(index) = topic.subscribers.iter().position(|subscriber| *subscriber == key) {
            topic.subscribers.swap_remove(index);
        }
        self.note_idle(kind, name, now);
    }

    /// A client is gone, or goes on without the exchange: its commands are forgotten.
    pub(super) fn forget(&mut self, key: SessionKey, now: Instant) {
        let Some(queue) = self.queues.remove(&key) else { return };
        self.first_number = self.first_number.max(queue.first + queue.commands.len() as u64);
        for (number, Command { kind, subscribe, names, .. }) in (queue.first..).zip(queue.commands) {
            for name in names.iter().filter(|_| subscribe) {
                self.release_claim((key, number), kind, name);
                self.note_idle(kind, name, now);
            }
        }
    }

    /// Nobody may want this any more.
    fn note_idle(&mut self, kind: Kind, name: &Bytes, now: Instant) {
        let Some(topic) = self.topics[kind as usize].get_mut(name).filter(|topic| topic.is_idle()) else { return };
        let leave_at = now + self.linger;
        topic.leave_at = Some(leave_at);
        self.idle.push_back((leave_at, kind, name.clone()));
    }

    /// When [`Exchange::on_tick`] has something to do, if ever.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.idle.front().map(|(at, ..)| *at)
    }

    /// The server is told what nobody has wanted for a while.
    pub(super) fn on_tick(&mut self, now: Instant) -> Vec<Step> {
        let mut left: [Vec<Bytes>; 3] = Default::default();
        while self.idle.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((at, kind, name)) = self.idle.pop_front() else { break };
            let topics = &mut self.topics[kind as usize];
            let Some(topic) = topics.get(&name).filter(|topic| topic.is_idle() && topic.leave_at == Some(at)) else {
                continue;
            };
            if topic.is_live {
                topics.remove(&name);
                left[kind as usize].push(name);
            } else {
                // It is left once it is confirmed.
                self.note_idle(kind, &name, now + UNCONFIRMED_WAIT);
            }
        }
        let mut steps = Vec::new();
        for kind in Kind::ALL {
            for names in left[kind as usize].chunks(NAMES_MAX) {
                self.ask(kind, false, names.to_vec(), None, &mut steps);
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::logic::arena::Arena;
    use crate::logic::multiplexer::{Access, Peer, Session};

    const LINGER: Duration = Duration::from_secs(1);

    fn keys(count: usize) -> Vec<SessionKey> {
        let mut sessions = Arena::default();
        let session = || Session::new(0, Peer::default(), 0, Access::new(true, Instant::now()));
        (0..count).map(|_| sessions.insert(session())).collect()
    }

    fn request(kind: Kind, subscribe: bool, names: &[&'static str]) -> Request {
        let names: Vec<Bytes> = names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect();
        let due = names.len();
        Request { kind, subscribe, names, due }
    }

    /// An exchange, and what its clients would have.
    struct World {
        exchange: Exchange,
        now: Instant,
        has: HashMap<SessionKey, HashSet<(usize, Bytes)>>,
        told: Vec<(SessionKey, String)>,
        asked: VecDeque<(bool, Vec<Bytes>)>,
    }

    impl World {
        fn new() -> Self {
            let (has, told, asked) = Default::default();
            Self { exchange: Exchange::new(LINGER), now: Instant::now(), has, told, asked }
        }

        /// What the multiplexer does with steps.
        fn carry_out(&mut self, steps: Vec<Step>) {
            for step in steps {
                match step {
                    Step::Ask { subscribe, names, .. } => self.asked.push_back((subscribe, names)),
                    Step::Refuse { key, .. } => self.told.push((key, "refused".to_owned())),
                    Step::Confirm { key, kind, subscribe, name } => {
                        let has = self.has.entry(key).or_default();
                        let topic = (kind as usize, name.clone());
                        match subscribe {
                            true if has.insert(topic.clone()) => self.exchange.join(key, kind, &name),
                            false if has.remove(&topic) => self.exchange.leave(key, kind, &name, self.now),
                            _ => {}
                        }
                        let sign = if subscribe { '+' } else { '-' };
                        self.told.push((key, format!("{sign}{}", String::from_utf8_lossy(&name))));
                    }
                }
            }
        }

        fn take(&mut self, key: SessionKey, subscribe: bool, names: &[&'static str]) {
            let steps = self.exchange.take(key, request(Kind::Channel, subscribe, names), self.now);
            self.carry_out(steps);
        }

        /// The server answers the next command; it accepts what is not `forbidden`.
        fn serve(&mut self, forbidden: &str) -> bool {
            let Some((subscribe, names)) = self.asked.pop_front() else { return false };
            if subscribe && names.iter().any(|name| name == forbidden) {
                let steps = self.exchange.on_refused(b"-NOPERM\r\n", self.now);
                self.carry_out(steps);
                return true;
            }
            for name in names {
                let steps = self.exchange.on_confirmed(&name, self.now);
                self.carry_out(steps);
            }
            true
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            let steps = self.exchange.on_tick(self.now);
            self.carry_out(steps);
        }

        fn told(&mut self) -> Vec<(SessionKey, String)> {
            std::mem::take(&mut self.told)
        }
    }

    #[test]
    fn the_server_is_asked_once_for_what_many_want() {
        let (mut world, keys) = (World::new(), keys(3));
        for key in &keys {
            world.take(*key, true, &["a"]);
        }
        assert_eq!(world.asked.len(), 1);
        assert!(world.told().is_empty(), "nothing is confirmed before the server did");
        world.serve("");
        assert_eq!(world.told().len(), 3);
        assert_eq!(world.exchange.take_subscribers(Kind::Channel, b"a"), keys);
    }

    #[test]
    fn the_last_one_leaves_after_a_while() {
        let (mut world, keys) = (World::new(), keys(2));
        keys.iter().for_each(|key| world.take(*key, true, &["a"]));
        world.serve("");
        keys.iter().for_each(|key| world.take(*key, false, &["a"]));
        world.pass(LINGER / 2);
        assert!(world.asked.is_empty());
        world.take(keys[0], true, &["a"]);
        assert!(world.asked.is_empty(), "it was there still");
        world.pass(LINGER);
        assert!(world.asked.is_empty(), "somebody wants it again");
        world.take(keys[0], false, &["a"]);
        world.pass(LINGER);
        assert_eq!(world.asked.pop_front(), Some((false, vec![Bytes::from_static(b"a")])));
        assert_eq!(world.exchange.topics(Kind::Channel), 0);
    }

    #[test]
    fn a_refused_name_is_told_to_who_asked_for_it_and_to_nobody_else() {
        let (mut world, keys) = (World::new(), keys(3));
        world.take(keys[0], true, &["free", "forbidden"]);
        world.take(keys[1], true, &["free"]);
        world.take(keys[2], true, &["forbidden"]);
        while world.serve("forbidden") {}
        let refused = |key| (key, "refused".to_owned());
        assert_eq!(world.told(), [refused(keys[0]), (keys[1], "+free".to_owned()), refused(keys[2])]);
        world.pass(LINGER);
        while world.serve("") {}
        assert_eq!(world.exchange.topics(Kind::Channel), 1);
    }

    #[test]
    fn each_client_is_told_in_the_order_of_its_commands() {
        let (mut world, keys) = (World::new(), keys(2));
        world.take(keys[0], true, &["a"]);
        world.serve("");
        world.take(keys[1], true, &["b"]);
        world.take(keys[1], true, &["a"]);
        world.take(keys[1], false, &["b"]);
        world.told();
        world.serve("");
        let told: Vec<String> = world.told().into_iter().map(|(_, told)| told).collect();
        assert_eq!(told, ["+b", "+a", "-b"]);
    }

    #[test]
    fn who_is_gone_waits_for_nothing() {
        let (mut world, keys) = (World::new(), keys(2));
        world.take(keys[0], true, &["a", "b"]);
        world.take(keys[1], true, &["b"]);
        world.exchange.forget(keys[0], world.now);
        while world.serve("") {}
        assert_eq!(world.told(), [(keys[1], "+b".to_owned())]);
        world.pass(LINGER);
        assert_eq!(world.asked.pop_front(), Some((false, vec![Bytes::from_static(b"a")])));
    }

    const NAMES: [&str; 4] = ["a", "b", "c", "forbidden"];

    proptest! {
        #[test]
        fn every_command_is_answered_and_the_server_has_what_somebody_wants(
            course in prop::collection::vec(
                (0..4_usize, any::<bool>(), prop::collection::vec(0..4_usize, 1..4), 0..3_usize, 0..1500_u64),
                1..60,
            ),
        ) {
            let (mut world, keys) = (World::new(), keys(4));
            let (mut sent, mut answers) = (HashMap::<_, usize>::new(), HashMap::<_, usize>::new());
            for (client, subscribe, names, served, ms) in course {
                let names: Vec<&'static str> = names.into_iter().map(|name| NAMES[name]).collect();
                *sent.entry(keys[client]).or_default() += names.len();
                let is_refused = subscribe && names.contains(&"forbidden");
                if is_refused {
                    *sent.entry(keys[client]).or_default() -= names.len() - 1;
                }
                world.take(keys[client], subscribe, &names);
                for _ in 0..served {
                    world.serve("forbidden");
                }
                world.pass(Duration::from_millis(ms));
            }
            while world.serve("forbidden") {}
            for (key, _) in world.told() {
                *answers.entry(key).or_default() += 1;
            }
            prop_assert_eq!(&answers, &sent);
            world.pass(LINGER * 2);
            world.pass(LINGER * 2);
            let wanted: HashSet<Bytes> =
                world.has.values().flatten().map(|(_, name)| name.clone()).collect();
            prop_assert_eq!(world.exchange.topics(Kind::Channel), wanted.len());
            for name in wanted {
                let subscribers = world.exchange.take_subscribers(Kind::Channel, &name);
                let having = world.has.iter().filter(|(_, has)| has.contains(&(0, name.clone()))).count();
                prop_assert_eq!(subscribers.len(), having);
            }
        }
    }
}
