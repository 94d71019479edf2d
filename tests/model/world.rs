//! One worker's machine between clients and two backends, where nothing moves unless an action says so.

use std::time::{Duration, Instant};

use handover::logic::multiplexer::{
    CloseReason, Dial, DialOutcome, LinkKey, Multiplexer, Output, Peer, Role, SessionKey, SubscriptionKind,
};
use handover::logic::route::Phase;

use super::backend::{Backend, Closed, Connection};
use super::client::{Client, Kind, Ledger};
use super::random::Random;
use super::settings::{DRAIN, OUTPUT_BYTES_MAX, settings};
use super::supervisor::Supervisor;

pub(crate) const CLIENTS: usize = 5;
const ROUNDS_MAX: usize = 6000;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// A client sends something; the number says what.
    Say(usize, u16),
    /// So many bytes of what a client sent arrive.
    Deliver(usize, usize),
    /// A client reads so many bytes.
    Hear(usize, usize),
    /// So many bytes are written to a backend connection.
    Flush(u8, usize),
    /// A backend carries out what has arrived.
    Execute(usize),
    /// So many bytes of a backend's replies arrive, on one of its connections.
    Answer(usize, u8, usize),
    /// A connection that is being opened is open, or could not be opened.
    Dial(u8, bool),
    /// What is lost is seen to be lost, and CLIENT UNBLOCK arrives.
    Notice,
    /// The supervisor takes reports and decides.
    Supervise,
    /// An operator wants this backend.
    Wish(usize),
    /// Milliseconds.
    Pass(u64),
    /// All of the above that can be done, once.
    Everything,
    Fault(usize, Fault),
    /// A client closes its sending half, or is lost.
    Leave(usize, bool),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Kill,
    Hang,
    ReadOnly,
    Refuse,
    Heal,
    /// A connection is reset.
    Reset(u8),
    /// A reply that nobody asked for, where none is due.
    Unasked(u8),
}

struct Upstream {
    link: LinkKey,
    backend: usize,
    connection: u64,
    epoch: u64,
    role: Role,
}

pub(crate) struct World {
    now: Instant,
    multiplexer: Multiplexer,
    backends: Vec<Backend>,
    clients: Vec<Client>,
    sessions: Vec<Option<SessionKey>>,
    links: Vec<Upstream>,
    dials: Vec<Dial>,
    lost: Vec<LinkKey>,
    unblocks: Vec<(usize, u64)>,
    supervisor: Supervisor,
    ledger: Ledger,
    wish: Option<usize>,
    next_connection: u64,
    /// Connections on which something came that nobody asked for: they must be closed.
    condemned: Vec<LinkKey>,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let mut multiplexer = Multiplexer::new(settings(0, 1), now);
        let supervisor = Supervisor::new();
        multiplexer.on_route(supervisor.route.clone(), now);
        let kinds = [Kind::Mixed, Kind::Mixed, Kind::Mixed, Kind::Blocker, Kind::Subscriber];
        let mut clients = Vec::new();
        let mut sessions = Vec::new();
        for (id, kind) in kinds.into_iter().enumerate() {
            clients.push(Client::new(id, 0, kind));
            let session = multiplexer.on_client(Peer::default(), now);
            clients[id].session = Some(session);
            sessions.push(Some(session));
        }
        let mut world = Self {
            now,
            multiplexer,
            backends: vec![Backend::new(0), Backend::new(1)],
            clients,
            sessions,
            links: Vec::new(),
            dials: Vec::new(),
            lost: Vec::new(),
            unblocks: Vec::new(),
            supervisor,
            ledger: Ledger::default(),
            wish: None,
            next_connection: 1,
            condemned: Vec::new(),
        };
        world.carry_out();
        world
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Say(client, seed) => self.say(client, seed),
            Action::Deliver(client, bytes) => self.deliver(client, bytes),
            Action::Hear(client, bytes) => self.hear(client, bytes),
            Action::Flush(link, bytes) if !self.links.is_empty() => {
                self.flush(usize::from(link) % self.links.len(), bytes);
            }
            Action::Execute(backend) => self.backends[backend].step(self.now, || Duration::ZERO),
            Action::Answer(backend, connection, bytes) => {
                if let Some(id) = nth(self.backends[backend].connections.keys(), connection) {
                    self.answer(backend, id, bytes);
                }
            }
            Action::Dial(dial, works) if !self.dials.is_empty() => {
                let dial = self.dials.remove(usize::from(dial) % self.dials.len());
                self.dialled(dial, works);
            }
            Action::Flush(..) | Action::Dial(..) => {}
            Action::Notice => self.notice(),
            Action::Supervise => self.supervise(),
            Action::Wish(backend) => self.wish = Some(backend),
            Action::Pass(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                self.multiplexer.on_tick(self.now);
            }
            Action::Everything => self.everything(),
            Action::Fault(backend, fault) => self.fault(backend, fault),
            Action::Leave(client, half) => self.leave(client, half),
        }
        self.carry_out();
    }

    /// Everything is whole again, and everybody gets what is due.
    pub(crate) fn finish(&mut self) {
        for backend in &mut self.backends {
            (backend.alive, backend.hung, backend.readonly, backend.refuses) = (true, false, false, false);
        }
        let helper = self.multiplexer.on_client(Peer::default(), self.now);
        let (mut rounds, mut quiet_for) = (0, 0);
        while quiet_for < 20 {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "stuck: {:#?}", self.unfinished());
            self.everything();
            self.act(Action::Pass(3));
            // What waits for ever gets an element.
            if rounds % 100 == 50 {
                self.push_for_blocked(helper, rounds);
            }
            let is_quiet = self.clients.iter().all(|client| client.ended || client.is_quiet());
            let (wanted, live) = self.multiplexer.subscription_counts(SubscriptionKind::Channel);
            let is_settled = is_quiet && wanted == live && self.multiplexer.in_flight() == 0;
            quiet_for = if is_settled { quiet_for + 1 } else { 0 };
        }
        assert!(self.condemned.is_empty(), "open after a reply that nobody asked for: {:?}", self.condemned);
        self.ledger.check(&self.backends);
    }

    fn unfinished(&self) -> Vec<String> {
        self.clients.iter().filter(|client| !client.ended && !client.is_quiet()).map(Client::outstanding).collect()
    }

    fn push_for_blocked(&mut self, helper: SessionKey, round: usize) {
        for client in self.clients.iter().filter(|client| client.kind == Kind::Blocker) {
            for database in 0..3 {
                let number = format!("op{}", 9_000_000 + round * 10 + database);
                for words in
                    [vec!["SELECT", &database.to_string()], vec!["LPUSH", &format!("b{}:list", client.id), &number]]
                {
                    self.multiplexer.on_client_bytes(helper, &super::reply::request(&words), self.now);
                }
            }
        }
        self.carry_out();
    }

    fn say(&mut self, id: usize, seed: u16) {
        let ids = |kind| -> Vec<usize> {
            self.clients.iter().filter(|client| client.kind == kind && !client.ended).map(|client| client.id).collect()
        };
        let (blockers, subscribers) = (ids(Kind::Blocker), ids(Kind::Subscriber));
        let client = &mut self.clients[id];
        if client.ended {
            return;
        }
        let mut random = Random(u64::from(seed));
        if let Some((bytes, _)) = client.issue(&mut random, &mut self.ledger, self.now, &blockers, &subscribers) {
            client.to_proxy.push_back((self.now, bytes));
        }
    }

    fn deliver(&mut self, id: usize, count: usize) {
        let client = &mut self.clients[id];
        let Some(session) = client.session.filter(|_| !client.ended && !client.paused) else { return };
        let Some((at, mut bytes)) = client.to_proxy.pop_front() else { return };
        let rest = bytes.split_off(count.min(bytes.len()));
        if !rest.is_empty() {
            client.to_proxy.push_front((at, rest));
        }
        self.multiplexer.on_client_bytes(session, &bytes, self.now);
        client.paused = !self.multiplexer.wants_client_bytes(session);
    }

    fn hear(&mut self, id: usize, count: usize) {
        // The machine names who has something; that it is read later is the network's business.
        while self.multiplexer.next_session_to_write().is_some() {}
        let client = &mut self.clients[id];
        let Some(session) = client.session else { return };
        let output = self.multiplexer.client_output(session);
        assert!(output.len() <= OUTPUT_BYTES_MAX * 12, "output without a bound: {}", output.len());
        let bytes = output[..count.min(output.len())].to_vec();
        if !bytes.is_empty() {
            // Who has nothing more to ask still reads; what, is of no interest any more.
            if !client.ended {
                client.receive(&bytes, &mut self.ledger, self.now);
            }
            self.multiplexer.on_client_written(session, bytes.len(), self.now);
        }
    }

    fn flush(&mut self, index: usize, count: usize) {
        while self.multiplexer.next_link_to_write().is_some() {}
        let upstream = &self.links[index];
        let output = self.multiplexer.link_output(upstream.link, self.now);
        let bytes = output[..count.min(output.len())].to_vec();
        if bytes.is_empty() {
            return;
        }
        let route = self.multiplexer.route();
        let is_current =
            route.active.map(|active| usize::from(active.0)) == Some(upstream.backend) && route.epoch == upstream.epoch;
        let is_cut = matches!(route.phase, Phase::Cut { .. });
        // The mark behind the messages of the last active, perhaps written in part.
        let is_mark = matches!(upstream.role, Role::Subscription(_)) && b"*1\r\n$4\r\nPING\r\n".ends_with(output);
        // A standby carries only what is Handover's own, which no client sees.
        assert!(
            upstream.role == Role::Standby || is_mark || (is_current && !is_cut),
            "written to a connection of epoch {}: {}, {route:?}",
            upstream.epoch,
            bytes.escape_ascii()
        );
        if let Some(connection) = self.backends[upstream.backend].connections.get_mut(&upstream.connection) {
            connection.to_backend.push_back((self.now, bytes.clone()));
        }
        self.multiplexer.on_link_written(upstream.link, bytes.len(), self.now);
    }

    fn answer(&mut self, backend: usize, id: u64, count: usize) {
        let Some(connection) = self.backends[backend].connections.get_mut(&id) else { return };
        let link = connection.link;
        let is_open = self.links.iter().any(|upstream| upstream.link == link && upstream.connection == id);
        if !is_open || !self.multiplexer.wants_link_bytes(link) {
            return;
        }
        let Some((at, mut bytes)) = connection.to_proxy.pop_front() else { return };
        let rest = bytes.split_off(count.min(bytes.len()));
        if !rest.is_empty() {
            connection.to_proxy.push_front((at, rest));
        }
        self.multiplexer.on_link_bytes(link, &bytes, self.now);
    }

    fn dialled(&mut self, dial: Dial, works: bool) {
        let backend = usize::from(dial.backend.0);
        let server = &self.backends[backend];
        if !works || !server.alive || server.hung || server.refuses {
            let outcome = DialOutcome::Failed("refused".to_owned());
            assert!(!self.multiplexer.on_dialled(dial.link, outcome, self.now));
            return;
        }
        let id = self.next_connection;
        self.next_connection += 1;
        let epoch = self.multiplexer.route().epoch;
        let outcome = DialOutcome::Ready {
            client_id: (!id.is_multiple_of(5)).then_some(id as i64),
            server: None,
            takes_groups: true,
        };
        if self.multiplexer.on_dialled(dial.link, outcome, self.now) {
            let (resp3, database) = (dial.profile.protocol.number() == 3, dial.profile.database.unwrap_or(0));
            self.backends[backend].connections.insert(id, Connection::new(0, dial.link, resp3, database));
            self.links.push(Upstream { link: dial.link, backend, connection: id, epoch, role: dial.role });
        }
    }

    fn notice(&mut self) {
        for link in std::mem::take(&mut self.lost) {
            if let Some(index) = self.links.iter().position(|upstream| upstream.link == link) {
                self.links.remove(index);
                self.condemned.retain(|condemned| *condemned != link);
                self.multiplexer.on_link_lost(link, "reset", self.now);
            }
        }
        for (backend, id) in std::mem::take(&mut self.unblocks) {
            self.backends[backend].unblock(id, self.now);
        }
    }

    fn supervise(&mut self) {
        let serves: Vec<bool> = self.backends.iter().map(|backend| backend.serves() && !backend.refuses).collect();
        if self.supervisor.step(self.now, 1, &serves, self.wish.take(), DRAIN) {
            self.multiplexer.on_route(self.supervisor.route.clone(), self.now);
        }
    }

    fn everything(&mut self) {
        for client in 0..self.clients.len() {
            self.deliver(client, usize::MAX);
            self.carry_out();
        }
        (0..self.links.len()).rev().for_each(|link| self.flush(link, usize::MAX));
        for backend in 0..self.backends.len() {
            self.backends[backend].step(self.now, || Duration::ZERO);
            for id in self.backends[backend].connections.keys().copied().collect::<Vec<_>>() {
                for _ in 0..8 {
                    self.answer(backend, id, usize::MAX);
                    self.carry_out();
                }
            }
        }
        for dial in std::mem::take(&mut self.dials) {
            self.dialled(dial, true);
        }
        self.notice();
        self.supervise();
        self.carry_out();
        (0..self.clients.len()).for_each(|client| self.hear(client, usize::MAX));
        self.carry_out();
    }

    fn fault(&mut self, backend: usize, fault: Fault) {
        let server = &mut self.backends[backend];
        match fault {
            Fault::Kill => {
                server.alive = false;
                for id in server.connections.keys().copied().collect::<Vec<_>>() {
                    self.reset(backend, id);
                }
            }
            Fault::Hang => server.hung = true,
            Fault::ReadOnly => server.readonly = true,
            Fault::Refuse => server.refuses = true,
            Fault::Heal => {
                (server.alive, server.hung, server.readonly, server.refuses) = (true, false, false, false);
            }
            Fault::Reset(chosen) => {
                if let Some(id) = nth(server.connections.keys(), chosen) {
                    self.reset(backend, id);
                }
            }
            Fault::Unasked(chosen) => {
                if let Some(id) = nth(server.connections.keys(), chosen) {
                    self.say_unasked(backend, id);
                }
            }
        }
    }

    fn reset(&mut self, backend: usize, id: u64) {
        if let Some(connection) = self.backends[backend].connections.remove(&id) {
            self.lost.push(connection.link);
        }
    }

    /// Only where no reply is due: elsewhere nobody could tell it from one.
    fn say_unasked(&mut self, backend: usize, id: u64) {
        let connection = &self.backends[backend].connections[&id];
        let link = connection.link;
        let is_open = self.links.iter().any(|upstream| upstream.link == link && upstream.role == Role::Lane);
        let is_idle = connection.is_idle() && self.multiplexer.link_output(link, self.now).is_empty();
        if is_open && is_idle && self.multiplexer.in_flight() == 0 && self.multiplexer.wants_link_bytes(link) {
            self.condemned.push(link);
            self.multiplexer.on_link_bytes(link, b"+INJECTED\r\n", self.now);
        }
    }

    fn leave(&mut self, id: usize, half: bool) {
        let client = &mut self.clients[id];
        let Some(session) = client.session.filter(|_| !client.ended) else { return };
        client.ended = true;
        match half {
            true => self.multiplexer.on_client_end(session, self.now),
            false => self.multiplexer.on_client_lost(session, CloseReason::ClientLost),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Dial(dial) => self.dials.push(dial),
                Output::CloseLink { link, reset } => self.close_upstream(link, reset),
                Output::CloseSession { session, reason } => self.end_client(session, reason),
                Output::Resume(session) => {
                    if let Some(id) = self.client_of(session) {
                        self.clients[id].paused = false;
                    }
                }
                Output::ResumeLink(_) | Output::FailedLogin { .. } | Output::RevokedLogin { .. } => {}
                Output::Report(report) => self.supervisor.inbox.push_back((self.now, 0, report)),
                Output::Inquire { session, inquiry } => {
                    let finding = self.multiplexer.on_inquiry(&inquiry, self.now);
                    self.multiplexer.on_findings(session, &inquiry, finding, self.now);
                }
                Output::Unblock { backend, client_id } => {
                    self.unblocks.push((usize::from(backend.0), client_id as u64));
                }
            }
        }
    }

    fn client_of(&self, session: SessionKey) -> Option<usize> {
        self.sessions.iter().position(|known| *known == Some(session))
    }

    fn close_upstream(&mut self, link: LinkKey, reset: bool) {
        self.condemned.retain(|condemned| *condemned != link);
        let Some(index) = self.links.iter().position(|upstream| upstream.link == link) else { return };
        let upstream = self.links.remove(index);
        if let Some(connection) = self.backends[upstream.backend].connections.get_mut(&upstream.connection) {
            connection.closed = Closed::Fin;
            // A reset may overtake what was written, or not.
            if reset && upstream.connection.is_multiple_of(2) {
                connection.to_backend.clear();
            }
        }
    }

    fn end_client(&mut self, session: SessionKey, reason: CloseReason) {
        let Some(id) = self.client_of(session) else { return };
        self.sessions[id] = None;
        self.clients[id].ended = true;
        let is_allowed = matches!(
            reason,
            CloseReason::ClientClosed
                | CloseReason::ClientLost
                | CloseReason::SlowReader
                | CloseReason::ReplyCut
                | CloseReason::OutOfStep
        );
        assert!(is_allowed, "client {id} was closed: {reason:?}");
    }
}

fn nth<'a>(mut keys: impl ExactSizeIterator<Item = &'a u64>, chosen: u8) -> Option<u64> {
    let count = keys.len();
    if count == 0 { None } else { keys.nth(usize::from(chosen) % count).copied() }
}
