//! Time, pipes and faults; and what must be true in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use handover::logic::multiplexer::{
    CloseReason, Dial, DialOutcome, LinkKey, Multiplexer, Output, Peer, Role, SessionKey,
};
use handover::logic::route::{Phase, Route};

use super::backend::{Backend, Closed, Connection};
use super::client::{Client, Kind, Ledger};
use super::random::Random;
use super::settings::{DRAIN, OUTPUT_BYTES_MAX, settings};
use super::supervisor::Supervisor;

const FAULTS: Duration = Duration::from_millis(600);
const SETTLING: Duration = Duration::from_millis(1500);

struct Upstream {
    backend: usize,
    connection: u64,
    epoch: u64,
    role: Role,
}

struct Worker {
    multiplexer: Multiplexer,
    routes: Vec<(Instant, Route)>,
    links: HashMap<LinkKey, Upstream>,
    paused_links: HashSet<LinkKey>,
    links_to_write: Vec<LinkKey>,
    sessions_to_write: Vec<SessionKey>,
    clients: HashMap<SessionKey, usize>,
}

/// What happens later.
enum Event {
    Dialled(usize, Dial),
    Lost(usize, LinkKey),
    Unblock(usize, u64),
}

pub(crate) struct World {
    random: Random,
    start: Instant,
    now: Instant,
    workers: Vec<Worker>,
    backends: Vec<Backend>,
    clients: Vec<Client>,
    supervisor: Supervisor,
    events: Vec<(Instant, Event)>,
    ledger: Ledger,
    wish: Option<usize>,
    next_connection: u64,
    closed: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let start = Instant::now();
        let workers: Vec<Worker> = (0..1 + random.below(3))
            .map(|index| Worker {
                multiplexer: Multiplexer::new(settings(index, seed), start),
                routes: Vec::new(),
                links: HashMap::new(),
                paused_links: HashSet::new(),
                links_to_write: Vec::new(),
                sessions_to_write: Vec::new(),
                clients: HashMap::new(),
            })
            .collect();
        let backends = (0..2 + random.below(2) as usize).map(Backend::new).collect();
        let clients = (0..9)
            .map(|id| {
                let kind = [Kind::Mixed, Kind::Mixed, Kind::Mixed, Kind::Blocker, Kind::Subscriber][id % 5];
                Client::new(id, random.below(workers.len() as u64) as usize, kind)
            })
            .collect();
        let mut world = Self {
            random,
            start,
            now: start,
            workers,
            backends,
            clients,
            supervisor: Supervisor::new(),
            events: Vec::new(),
            ledger: Ledger::default(),
            wish: None,
            next_connection: 1,
            closed: BTreeMap::new(),
        };
        world.publish();
        world
    }

    pub(crate) fn run(&mut self) {
        for id in 0..self.clients.len() {
            self.connect(id);
        }
        while self.now < self.start + FAULTS {
            self.cause_faults();
            self.step(true);
        }
        self.heal();
        let mut quiet_for = 0;
        while quiet_for < 40 {
            self.step(false);
            let is_quiet = self.clients.iter().all(|client| client.ended || client.is_quiet())
                && self.workers.iter().all(|worker| worker.multiplexer.in_flight() == 0);
            quiet_for = if is_quiet { quiet_for + 1 } else { 0 };
            if self.now > self.start + FAULTS + SETTLING {
                let stuck: Vec<String> = self
                    .clients
                    .iter()
                    .filter(|client| !client.ended && !client.is_quiet())
                    .map(Client::outstanding)
                    .collect();
                panic!("stuck: {stuck:#?}\nroute {:?}", self.supervisor.route);
            }
        }
        self.check_subscribers();
        self.ledger.check(&self.backends);
        self.check_rest();
    }

    /// Transactions that were carried out though a switch came between MULTI and EXEC.
    pub(crate) const fn replayed(&self) -> u64 {
        self.ledger.replayed
    }

    /// Equal for equal runs.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.now - self.start).hash(&mut hasher);
        for backend in &self.backends {
            backend.applied.hash(&mut hasher);
        }
        for (number, operation) in &self.ledger.operations {
            (number, operation.outcome).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn connect(&mut self, id: usize) {
        let client = &mut self.clients[id];
        let worker = &mut self.workers[client.worker];
        let session = worker.multiplexer.on_client(Peer::default(), self.now);
        worker.clients.insert(session, id);
        client.session = Some(session);
    }

    fn later(&mut self, from: u64, to: u64, event: Event) {
        let at = self.now + self.random.micros(from, to);
        self.events.push((at, event));
    }

    fn step(&mut self, is_busy: bool) {
        self.now += self.random.micros(200, 3000);
        self.carry_out_events();
        for index in 0..self.backends.len() {
            let random = &mut self.random;
            self.backends[index].step(self.now, || random.micros(50, 2000));
        }
        self.deliver_to_proxy();
        self.supervise();
        if is_busy {
            self.issue();
        }
        self.deliver_from_clients();
        for index in 0..self.workers.len() {
            if self.random.one_in(2) {
                self.workers[index].multiplexer.on_tick(self.now);
            }
            self.shell(index);
        }
    }

    fn issue(&mut self) {
        let of_kind = |clients: &[Client], kind| -> Vec<usize> {
            clients.iter().filter(|client| client.kind == kind && !client.ended).map(|client| client.id).collect()
        };
        let (blockers, subscribers) = (of_kind(&self.clients, Kind::Blocker), of_kind(&self.clients, Kind::Subscriber));
        for client in self.clients.iter_mut().filter(|client| !client.ended) {
            if !self.random.one_in(14) {
                continue;
            }
            let Some((bytes, is_alone)) =
                client.issue(&mut self.random, &mut self.ledger, self.now, &blockers, &subscribers)
            else {
                continue;
            };
            let mut at = client.to_proxy.back().map_or(self.now, |(at, _)| *at).max(self.now);
            let piece = match self.random.below(6) {
                0 if bytes.len() < 500 => 1,
                1 => 7,
                2 => 60,
                _ => bytes.len(),
            };
            if is_alone && piece == bytes.len() {
                client.arrives_whole();
            }
            for chunk in bytes.chunks(piece) {
                at += if piece == 1 { Duration::from_micros(20) } else { self.random.micros(0, 800) };
                client.to_proxy.push_back((at, chunk.to_vec()));
            }
            if self.random.one_in(200) {
                client.slow_until = Some(self.now + self.random.micros(10_000, 200_000));
            }
        }
    }

    fn deliver_from_clients(&mut self) {
        for client in &mut self.clients {
            let Some(session) = client.session.filter(|_| !client.ended) else { continue };
            let multiplexer = &mut self.workers[client.worker].multiplexer;
            while !client.paused && client.to_proxy.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = client.to_proxy.pop_front().expect("looked at");
                client.trace("->", format_args!("{:?}", String::from_utf8_lossy(&bytes)), self.now);
                multiplexer.on_client_bytes(session, &bytes, self.now);
                client.paused = !multiplexer.wants_client_bytes(session);
            }
        }
    }

    fn deliver_to_proxy(&mut self) {
        for index in 0..self.backends.len() {
            for id in self.backends[index].connections.keys().copied().collect::<Vec<_>>() {
                self.deliver_connection(index, id);
            }
        }
    }

    fn deliver_connection(&mut self, backend: usize, id: u64) {
        loop {
            let Some(connection) = self.backends[backend].connections.get_mut(&id) else { return };
            let worker = &mut self.workers[connection.worker];
            let link = connection.link;
            let is_open = worker.links.get(&link).is_some_and(|upstream| upstream.connection == id);
            if !is_open
                || worker.paused_links.contains(&link)
                || connection.to_proxy.front().is_none_or(|(at, _)| *at > self.now)
            {
                return;
            }
            let (_, bytes) = connection.to_proxy.pop_front().expect("looked at");
            let cut = self.random.below(bytes.len() as u64 + 1) as usize;
            let pieces = if self.random.one_in(4) { vec![&bytes[..cut], &bytes[cut..]] } else { vec![&bytes[..]] };
            for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                worker.multiplexer.on_link_bytes(link, piece, self.now);
            }
            if !worker.multiplexer.wants_link_bytes(link) {
                worker.paused_links.insert(link);
            }
            let index = self.backends[backend].connections[&id].worker;
            self.shell(index);
        }
    }

    /// What the shell of a worker does: outputs, then writes.
    fn shell(&mut self, index: usize) {
        self.carry_out_outputs(index);
        self.write_links(index);
        self.write_clients(index);
        self.carry_out_outputs(index);
    }

    fn carry_out_outputs(&mut self, index: usize) {
        while let Some(output) = self.workers[index].multiplexer.poll() {
            match output {
                Output::Dial(dial) => {
                    let slow = self.backends[usize::from(dial.backend.0)].slow_dial;
                    let to = if slow { 60_000 } else { 2000 };
                    self.later(100, to, Event::Dialled(index, dial));
                }
                Output::CloseLink { link, reset } => self.close_upstream(index, link, reset),
                Output::CloseSession { session, reason } => self.end_client(index, session, reason),
                Output::Resume(session) => {
                    if let Some(&client) = self.workers[index].clients.get(&session) {
                        self.clients[client].paused = false;
                    }
                }
                Output::ResumeLink(link) => {
                    self.workers[index].paused_links.remove(&link);
                }
                Output::Report(report) => {
                    let at = self.supervisor.inbox.back().map_or(self.now, |(at, ..)| *at);
                    let at = at.max(self.now + self.random.micros(50, 3000));
                    self.supervisor.inbox.push_back((at, index, report));
                }
                Output::Inquire { session, inquiry } => {
                    let (multiplexer, now) = (&mut self.workers[index].multiplexer, self.now);
                    let finding = multiplexer.on_inquiry(&inquiry, now);
                    multiplexer.on_findings(session, &inquiry, finding, now);
                }
                Output::FailedLogin { .. } | Output::RevokedLogin { .. } => {}
                Output::Unblock { backend, client_id } => {
                    self.later(100, 3000, Event::Unblock(usize::from(backend.0), client_id as u64));
                }
            }
        }
    }

    fn close_upstream(&mut self, index: usize, link: LinkKey, reset: bool) {
        self.workers[index].paused_links.remove(&link);
        let Some(upstream) = self.workers[index].links.remove(&link) else { return };
        let keeps_bytes = self.random.one_in(2);
        if let Some(connection) = self.backends[upstream.backend].connections.get_mut(&upstream.connection) {
            connection.closed = Closed::Fin;
            if reset && !keeps_bytes {
                connection.to_backend.clear();
            }
        }
    }

    fn end_client(&mut self, index: usize, session: SessionKey, reason: CloseReason) {
        let Some(client) = self.workers[index].clients.remove(&session) else { return };
        self.clients[client].ended = true;
        *self.closed.entry(reason.label()).or_default() += 1;
        let is_allowed = matches!(
            reason,
            CloseReason::ClientClosed | CloseReason::ClientLost | CloseReason::SlowReader | CloseReason::ReplyCut
        );
        assert!(is_allowed, "client {client} was closed: {reason:?}");
        if reason == CloseReason::ClientClosed {
            assert!(self.clients[client].to_proxy.is_empty() || self.clients[client].kind == Kind::Subscriber);
        }
    }

    fn write_links(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        while let Some(link) = worker.multiplexer.next_link_to_write() {
            if !worker.links_to_write.contains(&link) {
                worker.links_to_write.push(link);
            }
        }
        for link in std::mem::take(&mut worker.links_to_write) {
            let bytes = worker.multiplexer.link_output(link, self.now);
            if bytes.is_empty() {
                continue;
            }
            let count = match self.random.below(12) {
                0 => 0,
                1 => 1 + self.random.below(bytes.len() as u64) as usize,
                _ => bytes.len(),
            };
            if count < bytes.len() {
                worker.links_to_write.push(link);
            }
            // The mark behind the messages of the last active, perhaps written in part.
            let is_mark = b"*1\r\n$4\r\nPING\r\n".ends_with(bytes);
            let bytes = bytes[..count].to_vec();
            let Some(upstream) = worker.links.get(&link) else { panic!("bytes for a connection that is not open") };
            let route = worker.multiplexer.route();
            let is_active = route.active.map(|active| usize::from(active.0)) == Some(upstream.backend);
            let is_of_epoch = route.epoch == upstream.epoch;
            let subscribes = matches!(upstream.role, Role::Subscription(_));
            // The same subscriptions where the next active would be.
            let stands_by = subscribes && !is_active && is_of_epoch;
            let marks_end = subscribes && is_mark;
            let is_own = upstream.role == Role::Standby
                || stands_by
                || marks_end
                || !bytes.starts_with(b"*")
                || bytes.starts_with(b"*2\r\n$4\r\nECHO\r\n$25\r\nhandover:");
            let is_current = is_active && (is_of_epoch || subscribes);
            let shown = String::from_utf8_lossy(&bytes);
            assert!(is_own || is_current, "written to an older epoch's connection {:?}: {shown:?}", upstream.role);
            assert!(is_own || !matches!(route.phase, Phase::Cut { .. }), "written during a cut");
            if let Some(connection) = self.backends[upstream.backend].connections.get_mut(&upstream.connection) {
                let at = connection
                    .to_backend
                    .back()
                    .map_or(self.now, |(at, _)| *at)
                    .max(self.now + self.random.micros(50, 2000));
                connection.to_backend.push_back((at, bytes));
            }
            worker.multiplexer.on_link_written(link, count, self.now);
        }
    }

    fn write_clients(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        while let Some(session) = worker.multiplexer.next_session_to_write() {
            if !worker.sessions_to_write.contains(&session) {
                worker.sessions_to_write.push(session);
            }
        }
        for session in std::mem::take(&mut worker.sessions_to_write) {
            let bytes = worker.multiplexer.client_output(session);
            assert!(bytes.len() <= OUTPUT_BYTES_MAX * 12, "output without a bound: {}", bytes.len());
            let Some(client) = worker.clients.get(&session).map(|&client| &mut self.clients[client]) else { continue };
            if bytes.is_empty() {
                continue;
            }
            let is_slow = client.slow_until.is_some_and(|until| until > self.now);
            let count = match self.random.below(8) {
                _ if is_slow => 0,
                0 => self.random.below(bytes.len() as u64 + 1) as usize,
                _ => bytes.len(),
            };
            if count < bytes.len() {
                worker.sessions_to_write.push(session);
            }
            if count > 0 {
                let bytes = bytes[..count].to_vec();
                client.receive(&bytes, &mut self.ledger, self.now);
                worker.multiplexer.on_client_written(session, count, self.now);
            }
        }
    }

    fn carry_out_events(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.events).into_iter().partition(|(at, _)| *at <= now);
        self.events = later;
        for (_, event) in due {
            match event {
                Event::Unblock(backend, id) => self.backends[backend].unblock(id, now),
                Event::Lost(worker, link) => {
                    if self.workers[worker].links.remove(&link).is_some() {
                        self.workers[worker].paused_links.remove(&link);
                        self.workers[worker].multiplexer.on_link_lost(link, "reset", now);
                    }
                }
                Event::Dialled(worker, dial) => self.dialled(worker, dial),
            }
        }
    }

    fn dialled(&mut self, index: usize, dial: Dial) {
        let backend = usize::from(dial.backend.0);
        if self.backends[backend].hung && self.random.one_in(2) {
            self.later(1000, 100_000, Event::Dialled(index, dial));
            return;
        }
        let is_open = self.backends[backend].alive && !self.backends[backend].hung && !self.backends[backend].refuses;
        let worker = &mut self.workers[index];
        if !is_open {
            assert!(!worker.multiplexer.on_dialled(dial.link, DialOutcome::Failed("refused".to_owned()), self.now));
            return;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let outcome = DialOutcome::Ready {
            client_id: (!id.is_multiple_of(5)).then_some(id as i64),
            server: None,
            takes_groups: true,
        };
        // The epoch in which the multiplexer opened it: closed ones are refused below.
        let epoch = worker.multiplexer.route().epoch;
        if !worker.multiplexer.on_dialled(dial.link, outcome, self.now) {
            return;
        }
        let resp3 = dial.profile.protocol.number() == 3;
        let connection = Connection::new(index, dial.link, resp3, dial.profile.database.unwrap_or(0));
        self.backends[backend].connections.insert(id, connection);
        worker.links.insert(dial.link, Upstream { backend, connection: id, epoch, role: dial.role });
    }

    fn publish(&mut self) {
        for index in 0..self.workers.len() {
            let last = self.workers[index].routes.last().map_or(self.now, |(at, _)| *at);
            let at = last.max(self.now + self.random.micros(20, 4000));
            let route = self.supervisor.route.clone();
            self.workers[index].routes.push((at, route));
        }
    }

    fn supervise(&mut self) {
        self.ledger.switches = self.supervisor.switches;
        let serves: Vec<bool> = self.backends.iter().map(|backend| backend.serves() && !backend.refuses).collect();
        if self.supervisor.step(self.now, self.workers.len(), &serves, self.wish.take(), DRAIN) {
            self.publish();
        }
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let due = worker.routes.iter().filter(|(at, _)| *at <= self.now).count();
            // A watcher sees the last value alone.
            let last = worker.routes.drain(..due).next_back();
            if let Some((_, route)) = last {
                worker.multiplexer.on_route(route, self.now);
                self.shell(index);
            }
        }
    }

    fn cause_faults(&mut self) {
        if !self.random.one_in(20) {
            return;
        }
        let index = self.random.below(self.backends.len() as u64) as usize;
        match self.random.below(14) {
            0 => self.kill(index),
            1..=3 => {
                self.backends[index].alive = true;
                self.backends[index].refuses = false;
                self.backends[index].slow_dial = false;
                self.backends[index].readonly = false;
            }
            4 => self.backends[index].hung = true,
            5 | 6 => self.backends.iter_mut().for_each(|backend| backend.hung = false),
            7 => self.backends[index].readonly = true,
            8 => self.reset_connection(index),
            9 => self.backends[index].refuses = true,
            10 => self.backends[index].slow_dial = true,
            11 | 12 => self.wish = Some(index),
            _ => self.lose_client(),
        }
    }

    fn kill(&mut self, index: usize) {
        self.backends[index].alive = false;
        if self.random.one_in(2) {
            self.backends[index].lose_memory();
        }
        for id in self.backends[index].connections.keys().copied().collect::<Vec<_>>() {
            self.drop_connection(index, id);
        }
    }

    fn drop_connection(&mut self, backend: usize, id: u64) {
        if let Some(connection) = self.backends[backend].connections.remove(&id) {
            self.later(50, 3000, Event::Lost(connection.worker, connection.link));
        }
    }

    fn reset_connection(&mut self, index: usize) {
        let ids: Vec<u64> = self.backends[index].connections.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.random.below(ids.len() as u64) as usize];
            self.drop_connection(index, id);
        }
    }

    fn lose_client(&mut self) {
        let id = self.random.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[id];
        // Some must stay, lest nothing is tested.
        let Some(session) = client.session.filter(|_| !client.ended && id > 2) else { return };
        let multiplexer = &mut self.workers[client.worker].multiplexer;
        if self.random.one_in(2) {
            multiplexer.on_client_lost(session, CloseReason::ClientLost);
        } else {
            client.to_proxy.clear();
            multiplexer.on_client_end(session, self.now);
        }
        // From now on it sends nothing.
        let worker = client.worker;
        self.clients[id].ended = true;
        self.shell(worker);
    }

    fn heal(&mut self) {
        for backend in &mut self.backends {
            (backend.alive, backend.hung, backend.readonly, backend.refuses, backend.slow_dial) =
                (true, false, false, false, false);
        }
        for client in &mut self.clients {
            client.slow_until = None;
        }
        // What waits for ever gets an element.
        let blockers: Vec<usize> =
            self.clients.iter().filter(|client| client.kind == Kind::Blocker).map(|client| client.id).collect();
        let session = self.workers[0].multiplexer.on_client(Peer::default(), self.now);
        for _ in 0..60 {
            self.step(false);
        }
        for id in blockers {
            for number in 0..6_usize {
                let select = super::reply::request(&["SELECT", &(number / 2).to_string()]);
                self.workers[0].multiplexer.on_client_bytes(session, &select, self.now);
                let push = super::reply::request(&[
                    "LPUSH",
                    &format!("b{id}:list"),
                    &format!("op{}", 9_000_000 + id * 10 + number),
                ]);
                self.workers[0].multiplexer.on_client_bytes(session, &push, self.now);
            }
        }
    }

    /// After everything each subscriber gets what is published now.
    fn check_subscribers(&mut self) {
        for client in self.clients.iter().filter(|client| !client.ended && client.kind == Kind::Subscriber) {
            let active = usize::from(self.supervisor.route.active.expect("there is one").0);
            let (kinds, live) = self.workers[client.worker]
                .multiplexer
                .subscription_counts(handover::logic::multiplexer::SubscriptionKind::Channel);
            assert_eq!(kinds, live, "subscriptions that are not live on {active}");
        }
    }

    fn check_rest(&self) {
        for worker in &self.workers {
            assert_eq!(
                worker.multiplexer.in_flight(),
                0,
                "something is in flight for ever: {}",
                worker.multiplexer.client_list(self.now)
            );
            assert_eq!(
                worker.multiplexer.clients(),
                worker.clients.len() + usize::from(std::ptr::eq(worker, &self.workers[0]))
            );
        }
    }
}
