//! One group on one worker: the multiplexer and the sockets that belong to it. Everything here runs on one thread
//! and never waits; the sockets are read and written in `sockets`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{error, warn};

use super::client::Place;
use super::drill::Play;
use super::entry::Refused;
use super::inquiry::{self, Question};
use super::notice::Notices;
use super::sockets::{ClientSocket, LinkSocket, Owner, Watched};
use super::{link, publish, unblock};
use crate::channels::{BackendId, Directions, Drill, Known, WorkerId, WorkerReport};
use crate::lifecycle::Lifecycle;
use crate::logic::arena::SideTable;
use crate::logic::identity::{IdentityId, Login, Users};
use crate::logic::multiplexer::{
    CloseReason, Counters, DialOutcome, Link, LinkKey, Multiplexer, Output, Peer, Report, Session, SessionKey, Settings,
};
use crate::logic::settings::Conduct;
use crate::net::dial::Endpoint;
use crate::net::socket::Socket;
use crate::telemetry::counters::{self, WorkerCounters};

/// What is read from a client at a time, at most.
pub(super) const CLIENT_READ_BYTES: usize = 256 * 1024;
/// What is read from a backend at a time.
pub(super) const LINK_READ_BYTES: usize = 256 * 1024;
/// Reports to the supervisor that wait for room; beyond it losses are dropped, since each says the same.
const REPORTS_WAITING_MAX: usize = 4096;
/// Between two regular looks at the clock, within these bounds.
const TICK_MIN: Duration = Duration::from_millis(5);
const TICK_MAX: Duration = Duration::from_millis(50);
/// What was written to a client and waits for the kernel has so long when its connection ends.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// Between two warnings of clients that speak another protocol.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);

/// Gauges that take a look at every session are published at most so often.
const GAUGES_INTERVAL: Duration = Duration::from_millis(250);

/// What a hub is made of.
pub struct HubSpec {
    /// The worker's number.
    pub worker: WorkerId,
    /// The multiplexer's settings.
    pub settings: Settings,
    /// The group's route, and the backends that it may name.
    pub directions: watch::Receiver<Directions>,
    /// The origin of the vitals' microseconds.
    pub origin: Instant,
    /// To the supervisor.
    pub reports: mpsc::Sender<WorkerReport>,
    /// Every worker's hub of this group, for what concerns the clients of all.
    pub inquiries: Arc<Vec<mpsc::Sender<Question>>>,
    /// What the admin plane reads.
    pub counters: Arc<WorkerCounters>,
    /// When this hub last let time pass, in microseconds since `origin`; for the watchdog.
    pub heartbeat: Arc<AtomicU64>,
}

/// One group on one worker.
pub(super) struct Hub {
    spec: HubSpec,
    directions: RefCell<watch::Receiver<Directions>>,
    /// The backends of the group, as last directed.
    backends: RefCell<Arc<[Known]>>,
    /// Between two regular looks at the clock.
    pub(super) regular_tick: Cell<Duration>,
    pub(super) lifecycle: Lifecycle,
    pub(super) machine: RefCell<Multiplexer>,
    pub(super) clients: RefCell<SideTable<Session, Rc<ClientSocket>>>,
    pub(super) links: RefCell<SideTable<Link, Rc<LinkSocket>>>,
    /// Where sockets are watched from.
    registry: Registry,
    /// Sockets that hold something of which nobody will tell again.
    pub(super) unread: RefCell<Vec<Owner>>,
    /// A round is under way, at whose end the backends are written to.
    pub(super) is_serving: Cell<bool>,
    /// Asks for a round.
    pub(super) attention: Notify,
    /// Clients that are gone but for a goodbye that the kernel did not take yet, and until when that is tried.
    leaving: RefCell<Vec<(Rc<ClientSocket>, Instant)>>,
    /// The drill in force.
    pub(super) drill: Cell<Option<Drill>>,
    pub(super) client_scratch: RefCell<Vec<u8>>,
    pub(super) link_scratch: RefCell<Vec<u8>>,
    /// Wakes the ticker when something waits for time to pass.
    pub(super) hurry: Notify,
    is_hurried: Cell<bool>,
    /// When the gauges were last published.
    gauged_at: Cell<Option<Instant>>,
    /// When the last warning of a foreign protocol was written.
    warned_at: Cell<Option<Instant>>,
    notices: Notices,
    /// When the last warning of a client that was refused entry was written.
    entry_warned_at: Cell<Option<Instant>>,
    waiting_reports: RefCell<std::collections::VecDeque<WorkerReport>>,
    pub(super) report: Notify,
    published: RefCell<Counters>,
    /// Blocked connections to be unblocked, by backend, while a task for it runs.
    unblocking: RefCell<HashMap<BackendId, Vec<i64>>>,
}

impl Hub {
    pub(super) fn new(spec: HubSpec, lifecycle: Lifecycle, registry: Registry) -> Rc<Self> {
        let machine = Multiplexer::new(spec.settings.clone(), Instant::now());
        Rc::new(Self {
            directions: RefCell::new(spec.directions.clone()),
            spec,
            backends: RefCell::default(),
            regular_tick: Cell::new(TICK_MAX),
            lifecycle,
            machine: RefCell::new(machine),
            clients: RefCell::default(),
            links: RefCell::default(),
            drill: Cell::new(None),
            client_scratch: RefCell::new(vec![0; CLIENT_READ_BYTES]),
            link_scratch: RefCell::new(vec![0; LINK_READ_BYTES]),
            registry,
            unread: RefCell::default(),
            is_serving: Cell::new(false),
            attention: Notify::new(),
            leaving: RefCell::default(),
            hurry: Notify::new(),
            is_hurried: Cell::new(false),
            gauged_at: Cell::new(None),
            warned_at: Cell::new(None),
            notices: Notices::default(),
            entry_warned_at: Cell::new(None),
            waiting_reports: RefCell::default(),
            report: Notify::new(),
            published: RefCell::default(),
            unblocking: RefCell::default(),
        })
    }

    /// Feeds the machine. A panic in it is contained: everything that it touched is closed, and it is replaced before
    /// anything else touches it.
    pub(super) fn feed<T: Default>(&self, event: impl FnOnce(&mut Multiplexer) -> T) -> T {
        match catch_unwind(AssertUnwindSafe(|| event(&mut self.machine.borrow_mut()))) {
            Ok(result) => result,
            Err(_) => {
                self.rebuild();
                T::default()
            }
        }
    }

    /// Feeds the machine and carries out what it says.
    pub(super) fn turn<T: Default>(self: &Rc<Self>, event: impl FnOnce(&mut Multiplexer, Instant) -> T) -> T {
        let now = Instant::now();
        let result = self.feed(|machine| event(machine, now));
        self.carry_out(now);
        result
    }

    pub(super) fn carry_out(self: &Rc<Self>, now: Instant) {
        loop {
            self.write_clients(now);
            // What ends a session or a link must find it written as far as it goes.
            let output = self.machine.borrow_mut().poll();
            match output {
                Some(output) => self.carry_out_one(output, now),
                None => break,
            }
        }
        if !self.is_serving.get() && self.has_more_to_do() {
            self.attention.notify_one();
        }
        if !self.is_hurried.get() && self.machine.borrow().is_waiting() {
            self.is_hurried.set(true);
            self.hurry.notify_one();
        }
    }

    fn carry_out_one(self: &Rc<Self>, output: Output, now: Instant) {
        match output {
            Output::Dial(dial) => match self.endpoint(dial.backend) {
                Some(endpoint) => self.lifecycle.start_local("link", link::open(self.clone(), dial, endpoint)),
                None => error!(backend = %dial.backend, "a connection to an unknown backend was asked for"),
            },
            Output::CloseLink { link, reset } => {
                let socket = self.links.borrow_mut().remove(link);
                if let Some(socket) = socket {
                    socket.part(reset);
                }
            }
            Output::CloseSession { session, reason } => {
                if reason == CloseReason::ForeignProtocol {
                    self.warn_of_foreign_protocol(now);
                }
                let socket = self.clients.borrow_mut().remove(session);
                if let Some(socket) = socket {
                    self.spec.counters.clients.subtract(1);
                    if !socket.watched.socket().finish() {
                        self.leaving.borrow_mut().push((socket, now + GOODBYE_MAX));
                    }
                }
            }
            Output::Resume(session) => {
                if let Some(socket) = self.clients.borrow().get(session).filter(|socket| socket.watched.is_readable()) {
                    self.look_again(Owner::Client(session), &socket.watched);
                }
            }
            Output::ResumeLink(link) => self.look_at_link(link),
            Output::Report(report) => self.queue_report(report, now),
            Output::Inquire { session, inquiry } => {
                self.lifecycle.start_local("inquiry", inquiry::ask(self.clone(), session, inquiry));
            }
            Output::Unblock { backend, client_id } => self.unblock(backend, client_id),
            Output::FailedLogin { source } => self.notices.failed_login(&source, now),
            Output::RevokedLogin { backend, clients } => {
                let name = self.endpoint(backend).map(|endpoint| endpoint.backend.name.clone()).unwrap_or_default();
                self.notices.revoked_login(&name, clients, now);
            }
        }
    }

    /// An attack through somebody's browser, or a client with TLS on: worth a line, but not a line for each attempt.
    fn warn_of_foreign_protocol(&self, now: Instant) {
        let is_due = self.warned_at.get().is_none_or(|at| now.saturating_duration_since(at) >= WARNING_INTERVAL);
        if is_due {
            self.warned_at.set(Some(now));
            warn!("a client that speaks HTTP or TLS was closed; nothing of what it sent was forwarded");
        }
    }

    /// A client that was refused before its first command: counted, and worth a line, but not one for each attempt.
    pub(super) fn refuse_entry(&self, refused: &Refused, address: SocketAddr) {
        self.spec.counters.entries_refused(refused.reason()).add(1);
        if matches!(refused, Refused::Gone) {
            return;
        }
        let now = Instant::now();
        if self.entry_warned_at.get().is_none_or(|at| now.saturating_duration_since(at) >= WARNING_INTERVAL) {
            self.entry_warned_at.set(Some(now));
            warn!(%address, reason = %refused, "a client was closed before its first command");
        }
    }

    /// What connections of an identity authenticate with; `None`: as the backend's URL says.
    pub(super) fn login(&self, identity: IdentityId) -> Option<Arc<Login>> {
        self.machine.borrow().login(identity)
    }

    /// The operator's users changed.
    pub(super) fn follow_users(self: &Rc<Self>, users: Arc<Users>) {
        self.turn(|machine, now| machine.on_users(users, now));
    }

    pub(super) fn endpoint(&self, id: BackendId) -> Option<Arc<Endpoint>> {
        self.backends.borrow().iter().find(|known| known.id == id).map(|known| known.endpoint.clone())
    }

    /// A client connected. `origin`: its address and the one that it connected to, if others than the socket's.
    pub(super) fn open_client(
        self: &Rc<Self>,
        socket: Socket,
        origin: Option<(String, String)>,
        dedicated: bool,
        place: Place,
    ) {
        let (address, local_address) = origin.unwrap_or_else(|| socket.addresses());
        let peer = Peer { address: address.into(), local_address: local_address.into(), dedicated, ..Peer::default() };
        let Some(key) = self.turn(|machine, now| Some(machine.on_client(peer, now))) else { return };
        let owner = Owner::Client(key);
        let Ok(watched) = Watched::new(socket, owner, &self.registry) else {
            return self.turn(|machine, _| machine.on_client_lost(key, CloseReason::ClientLost));
        };
        if watched.is_readable() {
            self.look_again(owner, &watched);
        }
        self.clients.borrow_mut().insert(key, Rc::new(ClientSocket { watched, _place: place }));
        self.spec.counters.clients.add(1);
    }

    /// A backend connection may hold something that was not wanted before.
    pub(super) fn look_at_link(&self, link: LinkKey) {
        if let Some(socket) = self.links.borrow().get(link).filter(|socket| socket.watched.is_readable()) {
            self.look_again(Owner::Link(link), &socket.watched);
        }
    }

    pub(super) fn wants_client_bytes(&self, key: SessionKey) -> bool {
        self.machine.borrow().wants_client_bytes(key)
    }

    /// Whether a client is read only when its turn comes.
    pub(super) fn postpones(&self, key: SessionKey) -> bool {
        self.machine.borrow_mut().postpones(key)
    }

    pub(super) fn wants_link_bytes(&self, key: LinkKey) -> bool {
        self.machine.borrow().wants_link_bytes(key)
    }

    /// A backend connection is open, or could not be opened.
    pub(super) fn open_link(
        self: &Rc<Self>,
        key: LinkKey,
        opened: Option<(Socket, BackendId)>,
        outcome: DialOutcome,
    ) -> io::Result<()> {
        // Who was given up while it was being opened must not take the place of who came after it.
        let opened = opened.filter(|_| self.wants_link_bytes(key));
        if let Some((socket, backend)) = opened {
            let owner = Owner::Link(key);
            let watched = Watched::new(socket, owner, &self.registry)?;
            if watched.is_readable() {
                self.look_again(owner, &watched);
            }
            let play = Play::begun(self.played(backend));
            self.links.borrow_mut().insert(key, Rc::new(LinkSocket { watched, backend, play }));
        }
        let is_wanted = self.turn(|machine, now| machine.on_dialled(key, outcome, now));
        if !is_wanted {
            self.links.borrow_mut().remove(key);
        }
        Ok(())
    }

    /// A backend connection ended by itself.
    pub(super) fn lose_link(self: &Rc<Self>, key: LinkKey, cause: &str) {
        self.links.borrow_mut().remove(key);
        self.turn(|machine, now| machine.on_link_lost(key, cause, now));
    }

    fn read_all_dry(&self, now: Instant) {
        let links: Vec<(LinkKey, Rc<LinkSocket>)> =
            self.links.borrow().iter().map(|(key, socket)| (key, socket.clone())).collect();
        for (key, socket) in links {
            self.read_dry(key, &socket, now);
        }
    }

    /// Every socket of a backend's connections.
    pub(super) fn sockets_of(&self, backend: BackendId) -> Vec<(LinkKey, Rc<LinkSocket>)> {
        let links = self.links.borrow();
        let of_backend = links.iter().filter(|(_, socket)| socket.backend == backend);
        of_backend.map(|(key, socket)| (key, socket.clone())).collect()
    }

    /// How many replies are due on a lane that stands between two frames both ways.
    pub(super) fn footing(&self, key: LinkKey) -> Option<usize> {
        self.machine.borrow().footing(key)
    }

    pub(super) fn is_lane(&self, key: LinkKey) -> bool {
        self.machine.borrow().is_lane(key)
    }

    /// Nothing is written before the latest route was followed: a switch goes on without a worker that was held up,
    /// whose first bytes must not go where the others have stopped to write.
    pub(super) fn catch_up(self: &Rc<Self>) {
        let is_behind = self.directions.borrow().has_changed().unwrap_or(false);
        if is_behind {
            self.follow();
        }
    }

    /// The latest directions: sockets are read dry, then the route, then frames. Backends that are new are known
    /// before the route that may name them; those that are gone are let go after the route has left them.
    pub(super) fn follow(self: &Rc<Self>) {
        let directions = self.directions.borrow_mut().borrow_and_update().clone();
        let now = Instant::now();
        self.read_all_dry(now);
        let Directions { route, backends, conduct } = directions;
        let drill = route.drill;
        self.regular_tick.set(regular_tick(&conduct));
        self.feed(|machine| machine.set_conduct(&conduct));
        let is_same = Arc::ptr_eq(&backends, &self.backends.borrow());
        self.backends.replace(backends.clone());
        if !is_same {
            let shares: Vec<_> = backends.iter().map(|known| (known.id, self.share_of(known))).collect();
            self.feed(|machine| machine.set_connections_max(shares));
        }
        self.feed(|machine| machine.on_route(route, now));
        self.carry_out(now);
        if !is_same {
            let kept: Vec<BackendId> = backends.iter().map(|known| known.id).collect();
            self.feed(|machine| machine.keep_backends(&kept, now));
            self.carry_out(now);
            self.spec.counters.keep_backends(&kept);
        }
        self.follow_drill(drill);
        publish::gauges(&self.machine.borrow(), &self.spec.counters);
    }

    /// This worker's share of the connections that a backend may have.
    fn share_of(&self, known: &Known) -> Option<usize> {
        let connections_max = known.endpoint.backend.overrides.connections_max?;
        Some(connections_max / known.vitals.len().max(1))
    }

    /// Time passed. `is_late`: this thread was held up, so that what it knows of silence is worth nothing.
    pub(super) fn tick(self: &Rc<Self>, is_late: bool) {
        let now = Instant::now();
        let silent: Vec<LinkKey> = self.machine.borrow().silent_links(now, Duration::from_millis(20));
        for key in silent {
            let socket = self.links.borrow().get(key).cloned();
            if let Some(socket) = socket {
                self.read_dry(key, &socket, now);
            }
        }
        self.leaving.borrow_mut().retain(|(socket, until)| now < *until && !socket.watched.socket().finish());
        self.feed(|machine| machine.on_tick(now));
        self.carry_out(now);
        if is_late {
            self.feed(Multiplexer::on_held_up);
        }
        self.publish(is_late);
        self.is_hurried.set(self.machine.borrow().is_waiting());
    }

    /// Something waits for a moment that comes sooner than the next regular tick.
    pub(super) fn is_hurried(&self) -> bool {
        self.is_hurried.get()
    }

    fn publish(&self, is_late: bool) {
        let machine = self.machine.borrow();
        let micros = |at: Option<Instant>| {
            at.map_or(0, |at| {
                u64::try_from(at.saturating_duration_since(self.spec.origin).as_micros()).unwrap_or(u64::MAX).max(1)
            })
        };
        for known in self.backends.borrow().iter() {
            let (id, Some(vitals)) = (known.id, known.vitals.get(self.spec.worker)) else { continue };
            let signs = machine.vital_signs(id);
            let waiting_since = signs.waiting_since.filter(|_| !is_late);
            vitals.looked_at_us.store(micros(Some(Instant::now())), Ordering::Relaxed);
            vitals.last_byte_us.store(micros(signs.heard_at), Ordering::Relaxed);
            vitals.waiting_slow.store(signs.waiting_slow, Ordering::Relaxed);
            vitals.waiting_since_us.store(micros(waiting_since), Ordering::Relaxed);
            vitals.successes.store(signs.successes, Ordering::Relaxed);
            vitals.failures.store(signs.failures, Ordering::Relaxed);
            let counters = self.spec.counters.backend(id);
            counters.connections.set(machine.connections(id) as u64);
            counters.replies.set(signs.successes);
            counters.failures.set(signs.failures);
            if let Some(record) = machine.backend(id) {
                vitals.disturbances.store(record.disturbances, Ordering::Relaxed);
                vitals.replies.store(&record.replies);
            }
        }
        self.spec.heartbeat.store(micros(Some(Instant::now())), Ordering::Relaxed);
        publish::counts(&machine, &self.spec.counters, &mut self.published.borrow_mut());
        let now = Instant::now();
        if self.gauged_at.get().is_none_or(|at| now.saturating_duration_since(at) >= GAUGES_INTERVAL) {
            self.gauged_at.set(Some(now));
            publish::gauges(&machine, &self.spec.counters);
        }
    }

    fn queue_report(&self, report: Report, at: Instant) {
        let worker = self.spec.worker;
        let report = match report {
            Report::LinkLost { backend, epoch, cause } => {
                self.spec.counters.backend(backend).lost.add(1);
                WorkerReport::LinkLost { backend, epoch, at, cause }
            }
            Report::ConnectFailed { backend, cause } => {
                self.spec.counters.backend(backend).connects(counters::Connect::Failed).add(1);
                WorkerReport::ConnectFailed { backend, at, cause }
            }
            Report::Connected(backend) => {
                self.spec.counters.backend(backend).connects(counters::Connect::Ok).add(1);
                WorkerReport::Connected { backend, at }
            }
            Report::CannotServe { backend, word } => WorkerReport::CannotServe { backend, at, word },
            Report::Drained(attempt) => WorkerReport::Drained { worker, attempt },
            Report::Stopped(attempt) => WorkerReport::Stopped { worker, attempt },
            Report::Activated { epoch, judged } => WorkerReport::Activated { worker, epoch, judged },
        };
        let mut waiting = self.waiting_reports.borrow_mut();
        let is_repeat = match (&report, waiting.back()) {
            (WorkerReport::LinkLost { backend, .. }, Some(WorkerReport::LinkLost { backend: last, .. }))
            | (WorkerReport::ConnectFailed { backend, .. }, Some(WorkerReport::ConnectFailed { backend: last, .. }))
            | (WorkerReport::CannotServe { backend, .. }, Some(WorkerReport::CannotServe { backend: last, .. }))
            | (WorkerReport::Connected { backend, .. }, Some(WorkerReport::Connected { backend: last, .. })) => {
                backend == last
            }
            _ => false,
        };
        let is_needed = matches!(
            report,
            WorkerReport::Drained { .. } | WorkerReport::Stopped { .. } | WorkerReport::Activated { .. }
        );
        if !is_repeat && (is_needed || waiting.len() < REPORTS_WAITING_MAX) {
            waiting.push_back(report);
            self.report.notify_one();
        }
    }

    /// The next report to the supervisor.
    pub(super) fn next_report(&self) -> Option<WorkerReport> {
        self.waiting_reports.borrow_mut().pop_front()
    }

    pub(super) fn reports(&self) -> mpsc::Sender<WorkerReport> {
        self.spec.reports.clone()
    }

    /// Notes a blocked connection, and starts the task that unblocks unless it runs.
    fn unblock(self: &Rc<Self>, id: BackendId, client_id: i64) {
        let mut unblocking = self.unblocking.borrow_mut();
        let is_running = unblocking.contains_key(&id);
        let noted = unblocking.entry(id).or_default();
        if !noted.contains(&client_id) {
            noted.push(client_id);
        }
        if !is_running && let Some(endpoint) = self.endpoint(id) {
            self.lifecycle.start_local("unblock", unblock::run(self.clone(), id, endpoint));
        }
    }

    /// The blocked connections noted so far.
    pub(super) fn take_blocked(&self, id: BackendId) -> Vec<i64> {
        self.unblocking.borrow_mut().get_mut(&id).map(std::mem::take).unwrap_or_default()
    }

    /// The task that unblocks on this backend has ended.
    pub(super) fn unblocked(&self, id: BackendId) {
        self.unblocking.borrow_mut().remove(&id);
    }

    /// Every worker's hub of this group.
    pub(super) fn inquiries(&self) -> Arc<Vec<mpsc::Sender<Question>>> {
        self.spec.inquiries.clone()
    }

    /// How many clients there are, those who still wait for the last bytes included.
    pub(super) fn clients(&self) -> usize {
        self.machine.borrow().clients() + self.leaving.borrow().len()
    }

    /// Ends every client once it has what is due to it.
    pub(super) fn drain(self: &Rc<Self>) {
        self.turn(|machine, _| machine.end_all(CloseReason::Stopping));
    }

    /// A panic left the machine in an unknown state: everything that it touched is closed, and another takes its place.
    pub(super) fn rebuild(&self) {
        error!("a bug was contained: every connection of one worker is closed");
        self.clients.borrow_mut().take_all().for_each(|_| self.spec.counters.clients.subtract(1));
        self.links.borrow_mut().take_all().for_each(|socket| socket.part(true));
        let now = Instant::now();
        let mut machine = self.machine.borrow().successor(now);
        machine.on_route(self.machine.borrow().route().clone(), now);
        *self.machine.borrow_mut() = machine;
        *self.published.borrow_mut() = Counters::default();
        self.hurry.notify_one();
    }
}

/// Silence is seen in steps of a twentieth of what is allowed.
fn regular_tick(conduct: &Conduct) -> Duration {
    (conduct.detector.hang_timeout / 20).clamp(TICK_MIN, TICK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::Route;
    use crate::config::{Config, Sources};

    fn hub() -> (Rc<Hub>, watch::Sender<Directions>) {
        let text =
            "[[listener]]\nbind = \"127.0.0.1:6379\"\n[[backend]]\nname = \"east\"\nurl = \"redis://127.0.0.1:7001\"\n";
        let sources = Sources { text: Some(text.to_owned()), cores: 1, ..Sources::default() };
        let config = Config::load(&sources).unwrap().config;
        let crate::config::Group { failover, retry, detector, .. } = config.groups[0].clone();
        let conduct = Arc::new(Conduct { failover, retry, detector });
        let first = Directions { route: Route::unknown(), backends: Arc::default(), conduct };
        let (sender, directions) = watch::channel(first);
        let spec = HubSpec {
            directions,
            worker: 0,
            settings: crate::app::multiplexer_settings(&config, &config.groups[0], 0, crate::app::commons(&config)),
            origin: Instant::now(),
            reports: mpsc::channel(1).0,
            inquiries: Arc::default(),
            counters: Arc::default(),
            heartbeat: Arc::default(),
        };
        let poll = mio::Poll::new().unwrap();
        (Hub::new(spec, Lifecycle::new(), poll.registry().try_clone().unwrap()), sender)
    }

    #[test]
    fn a_worker_that_was_held_up_follows_the_route_before_it_writes() {
        let (hub, sender) = hub();
        hub.follow();
        sender.send_modify(|directions| directions.route.epoch = 2);
        assert_eq!(hub.machine.borrow().route().epoch, 0);
        hub.write_links();
        assert_eq!(hub.machine.borrow().route().epoch, 2);
    }

    #[test]
    fn a_panic_in_the_machine_is_contained_and_no_old_key_finds_anything() {
        let (hub, _sender) = hub();
        let old = hub.turn(|machine, now| Some(machine.on_client(Peer::default(), now))).unwrap();
        assert_eq!(hub.clients(), 1);
        hub.turn(|_, _| -> () { panic!("a bug that the test plays") });
        assert_eq!(hub.clients(), 0);
        let new = hub.turn(|machine, now| Some(machine.on_client(Peer::default(), now))).unwrap();
        assert!(!hub.wants_client_bytes(old) && hub.wants_client_bytes(new));
        let list = hub.turn(|machine, now| machine.client_list(now));
        assert!(list.starts_with("id=2 "), "{list}");
    }

    fn socket() -> Socket {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Socket::Tcp(mio::net::TcpStream::from_std(stream))
    }

    /// However often somebody is told of, a round reads it once: else who keeps us busy would have ever more of each round.
    #[test]
    fn who_has_more_to_say_stands_in_line_once() {
        let (hub, _sender) = hub();
        let key = hub.turn(|machine, now| Some(machine.on_client(Peer::default(), now))).unwrap();
        let owner = Owner::Client(key);
        let watched = Watched::new(socket(), owner, &hub.registry).unwrap();
        hub.look_again(owner, &watched);
        hub.look_again(owner, &watched);
        assert_eq!(*hub.unread.borrow(), [owner]);
    }

    #[test]
    fn a_connection_that_nobody_waits_for_any_more_takes_nobodys_place() {
        let (hub, _sender) = hub();
        let mut links = crate::logic::arena::Arena::default();
        let profile = crate::logic::multiplexer::Profile::default();
        let mut link = || {
            let link = Link::new(BackendId(0), 1, crate::logic::multiplexer::Role::Lane, profile, Instant::now());
            let key = links.insert(link);
            links.remove(key);
            key
        };
        let (former, later) = (link(), link());
        assert_eq!(former.index(), later.index());
        let watched = Watched::new(socket(), Owner::Link(later), &hub.registry).unwrap();
        let in_use = LinkSocket { watched, backend: BackendId(0), play: Play::begun(None) };
        hub.links.borrow_mut().insert(later, Rc::new(in_use));
        let opened = hub.open_link(former, Some((socket(), BackendId(0))), DialOutcome::Failed("late".to_owned()));
        assert!(opened.is_ok() && hub.links.borrow().get(later).is_some());
    }
}
