//! The data path's machine: every client of one worker and group, the few backend connections that they share,
//! and what becomes of what is in flight when the route changes.
//!
//! It takes bytes and events and gives bytes and [`Output`]s; it owns no socket. In the order of a command's way:
//! `requests` (a client's bytes → frames → a lane), `special` (what needs a pin, or is answered here),
//! `replies` (a backend's bytes → the client's output), `judgement` (a lost connection), `switch` (the route),
//! `upload` (large requests), `pins`, `transactions` (MULTI in pieces), `withheld` (READONLY and the like), `pubsub`; `client_command`,
//! `muted` and `pause` carry out CLIENT.

mod answers;
mod backend_record;
mod backpressure;
mod client_command;
mod commons;
mod connection_state;
mod counters;
mod events;
mod identity;
mod interned;
mod judgement;
mod link;
mod membership;
mod muted;
mod observe;
mod pause;
mod pins;
mod protocol;
mod pubsub;
mod replies;
mod requests;
mod scan;
mod scripts;
mod session;
mod special;

mod switch;
#[cfg(test)]
mod tests;
mod tracking;
mod transactions;
mod upload;
mod wait;
mod withheld;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BytesMut};

pub use backend_record::BackendRecord;
pub use client_command::{ClientType, Filter, Finding, Inquiry};
pub use commons::Commons;
pub use counters::{Authentication, Counters, LATENCY_BOUNDS_US, ProtocolFault};
pub use events::{Dial, DialOutcome, Output, Report};
pub use link::{Link, LinkState, Profile, Role};
pub use pause::Pause;
pub use session::{Access, CloseReason, Session};

use self::backpressure::Postponed;
use self::identity::Guard;
use self::interned::Interned;
use self::link::{Run, RunKind};
use self::pubsub::Circles;
pub use self::pubsub::Kind as SubscriptionKind;
use self::requests::Request;
use self::scripts::FreshScripts;
use self::session::Wait;
pub use self::switch::VitalSigns;
use super::arena::{Arena, Key};
use super::budget::Budget;
use super::identity::{IdentityMode, IdentitySettings, Users};
use super::judged::Judged;
use super::route::{BackendId, Phase, Route};
use super::settings::{Clock, DetectorSettings, FailoverSettings, LimitSettings, PubSubSettings, RetrySettings};
use crate::command::policy::Policy;
use crate::command::refusal::Refusal;
use crate::resp::encode;

/// The key of a client's session.
pub type SessionKey = Key<Session>;
/// The key of a backend connection.
pub type LinkKey = Key<Link>;

/// What a multiplexer works by. Limits are this worker's share of the process's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holding.
    pub failover: FailoverSettings,
    /// Repeating.
    pub retry: RetrySettings,
    /// Bounds.
    pub limits: LimitSettings,
    /// Suspicion.
    pub detector: DetectorSettings,
    /// What operators refuse, deny and share.
    pub policy: Policy,
    /// Numbers of clients start here …
    pub client_id_first: u64,
    /// … and go on in steps of this, so that workers never give the same one.
    pub client_id_step: u64,
    /// Pins and subscription connections opened per second.
    pub connects_per_second: f64,
    /// What the workers of the group have in common.
    pub commons: Arc<Commons>,
    /// The database that every backend's URL names, when it is the same for all.
    pub database: Option<u32>,
    /// Publishing and subscribing.
    pub pubsub: PubSubSettings,
    /// What time it is, in the words of calendars.
    pub clock: Clock,
    /// How clients prove who they are.
    pub identity: IdentitySettings,
    /// Handover's own users.
    pub users: Arc<Users>,
    /// Seeds nonces and jitter.
    pub seed: u64,
}

/// Where a client comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its address, for CLIENT INFO.
    pub address: Box<str>,
    /// The address that it connected to, which many have in common.
    pub local_address: Arc<str>,
    /// CLIENT SETNAME.
    pub name: Box<[u8]>,
    /// CLIENT SETINFO LIB-NAME, which many have in common.
    pub library_name: Arc<[u8]>,
    /// CLIENT SETINFO LIB-VER, which many have in common.
    pub library_version: Arc<[u8]>,
    /// When it connected.
    pub connected_at: Option<Instant>,
    /// When it last sent something.
    pub active_at: Option<Instant>,
    /// Its last command's name.
    pub last_command: &'static str,
    /// Every command on a connection of its own.
    pub dedicated: bool,
}

/// A shared connection for one profile, or the attempt to have one.
#[derive(Debug)]
struct Lane {
    profile: Profile,
    link: Option<LinkKey>,
    /// Attempts in a row that failed.
    failures: u32,
    retry_at: Option<Instant>,
}

/// The machine. See the module's documentation.
pub struct Multiplexer {
    settings: Settings,
    route: Route,
    sessions: Arena<Session>,
    links: Arena<Link>,
    lanes: Vec<Lane>,
    standbys: Vec<Lane>,
    /// Pins that nobody holds, washed by the fence.
    pool: Vec<LinkKey>,
    /// Connections that are pins: held, in the fence, in the pool, or being opened.
    pins: usize,
    /// Sessions that hold a pin.
    pinned: Vec<SessionKey>,
    /// Sessions that have subscriptions, or had some when they were last looked through.
    subscribers: Vec<SessionKey>,
    /// Sessions that wait for something else than their own replies, longest first.
    waiting: Vec<SessionKey>,
    /// Sessions whose last reply came, to be looked at once the bytes at hand are dealt with.
    settled: Vec<SessionKey>,
    outputs: VecDeque<Output>,
    links_to_write: Vec<LinkKey>,
    sessions_to_write: Vec<SessionKey>,
    /// Boxed, so that one is found without a walk over the others; the active's stands first.
    backends: Vec<(BackendId, Box<BackendRecord>)>,
    /// Requests of clients without a reply.
    in_flight: usize,
    judged: Judged,
    drained: Option<u64>,
    /// Until then, at the latest, nothing is published: subscriptions are being restored after a switch.
    publish_barrier: Option<Instant>,
    /// Every subscription of this worker was live in this epoch.
    is_restored: bool,
    /// Clients that share connections for their subscriptions.
    circles: Circles,
    /// Grows when a lane is lost and when the active changes: what was written before is not known of any more.
    continuity: u64,
    /// CLIENT PAUSE.
    /// What holds now: the clients' pause and the operator's together.
    pause: Option<Pause>,
    clients_pause: Option<Pause>,
    /// A lane was full, and sessions wait until it has room.
    crowded: bool,
    /// Sessions not read until then; no queue is empty.
    postponed: Vec<Postponed>,
    fresh_scripts: FreshScripts,
    /// Bytes of large requests that are arriving.
    upload_bytes: usize,
    /// Sessions not read until there is room for their large requests.
    starved: Vec<SessionKey>,
    /// Bytes of requests held for want of a connection: counted at each tick, and added to in between.
    held_bytes: usize,
    counters: Counters,
    guard: Guard,
    interned: Interned,
    budget: Budget,
    connects: Budget,
    random: u64,
    next_client_id: u64,
    spare: Vec<BytesMut>,
}

/// Bytes of one client's input that are held before it is no longer read.
const INPUT_BYTES_MAX: usize = 1024 * 1024;
/// The same of one that waits. What the kernel keeps instead needs not be copied twice.
const HELD_INPUT_BYTES_MAX: usize = 64 * 1024;
/// A reply longer than this is passed on piece by piece.
const STREAM_BYTES: usize = 64 * 1024;
/// A request longer than this takes a connection of its own, so that nobody waits behind it.
const LARGE_REQUEST_BYTES: usize = 64 * 1024;
/// Behind a longer answer of Handover's own that must wait its turn, no other is made.
const LOCAL_BYTES_MAX: usize = 1024;
/// Buffers kept for the next client that has something to say.
const SPARE_BUFFERS_MAX: usize = 256;
/// A new buffer has room for so much.
const SPARE_BUFFER_BYTES_MIN: usize = 256;
/// A buffer larger than this is given back.
const SPARE_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Repeats outside a switch that are allowed whatever the traffic, and how many may come at once.
const REPEATS_PER_SECOND: f64 = 10.0;
const REPEATS_BURST: f64 = 1000.0;
/// A lane proves its order at least once in so many requests.
const SENTINEL_REQUESTS: u32 = 256;
/// Profiles that have a lane at a time.
const LANES_MAX: usize = 256;

impl Multiplexer {
    /// A multiplexer without clients.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        let budget = Budget::new(REPEATS_PER_SECOND, REPEATS_BURST, now);
        let connects = Budget::new(settings.connects_per_second, settings.connects_per_second * 0.4, now);
        let guard = Guard::new(&settings, now);
        let machine = Self {
            guard,
            interned: Interned::default(),
            random: settings.seed | 1,
            next_client_id: settings.client_id_first,
            settings,
            route: Route::unknown(),
            sessions: Arena::default(),
            links: Arena::default(),
            lanes: Vec::new(),
            standbys: Vec::new(),
            pool: Vec::new(),
            pins: 0,
            pinned: Vec::new(),
            subscribers: Vec::new(),
            waiting: Vec::new(),
            settled: Vec::new(),
            outputs: VecDeque::new(),
            links_to_write: Vec::new(),
            sessions_to_write: Vec::new(),
            backends: Vec::new(),
            in_flight: 0,
            judged: Judged::default(),
            drained: None,
            publish_barrier: None,
            is_restored: false,
            circles: Circles::new(now),
            continuity: 0,
            pause: None,
            clients_pause: None,
            crowded: false,
            postponed: Vec::new(),
            fresh_scripts: FreshScripts::default(),
            upload_bytes: 0,
            starved: Vec::new(),
            held_bytes: 0,
            counters: Counters::default(),
            budget,
            connects,
            spare: Vec::new(),
        };
        machine.settings.commons.barrier().note(machine.worker(), 0);
        machine
    }

    /// A machine in the place of this one, without its clients and connections; no key of this one finds anything there.
    #[must_use]
    pub fn successor(&self, now: Instant) -> Self {
        let settings = Settings { client_id_first: self.next_client_id, ..self.settings.clone() };
        let mut successor = Self::new(settings, now);
        successor.sessions = self.sessions.successor();
        successor.links = self.links.successor();
        successor.clients_pause = self.clients_pause;
        successor.join_pauses();
        successor.set_connections_max(self.backends.iter().map(|(id, record)| (*id, record.connections_max)));
        successor
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A client connected.
    pub fn on_client(&mut self, mut peer: Peer, now: Instant) -> SessionKey {
        peer.local_address = self.interned.local_address.share(&peer.local_address);
        peer.connected_at = Some(now);
        peer.active_at = Some(now);
        let id = self.next_client_id;
        self.next_client_id += self.settings.client_id_step;
        self.counters.clients_accepted += 1;
        let value_bytes_max = self.settings.limits.value_bytes_max;
        let access = Access::new(self.settings.identity.mode == IdentityMode::Open, now);
        let session = Session::new(id, peer, value_bytes_max, access);
        self.sessions.insert(Session { continuity: self.continuity, ..session })
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.sessions.len() - self.circles.readers()
    }

    /// The route in force.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// Counts, for metrics.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests of clients without a reply.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What is known of a backend.
    #[must_use]
    pub fn backend(&self, backend: BackendId) -> Option<&BackendRecord> {
        self.backends.iter().find(|(id, _)| *id == backend).map(|(_, record)| &**record)
    }

    fn record(&mut self, backend: BackendId) -> &mut BackendRecord {
        let index = self.backends.iter().position(|(id, _)| *id == backend).unwrap_or_else(|| {
            self.backends.push((backend, Box::default()));
            self.backends.len() - 1
        });
        &mut self.backends[index].1
    }

    /// Whether bytes of this client are wanted.
    #[must_use]
    pub fn wants_client_bytes(&self, key: SessionKey) -> bool {
        self.sessions
            .get(key)
            .is_some_and(|session| !session.paused && !session.half_closed && session.ending.is_none())
    }

    /// Whether bytes of this backend connection are wanted.
    #[must_use]
    pub fn wants_link_bytes(&self, key: LinkKey) -> bool {
        self.links.get(key).is_some_and(|link| link.paused.is_none())
    }

    /// The next client that has something to be written.
    pub fn next_session_to_write(&mut self) -> Option<SessionKey> {
        let key = self.sessions_to_write.pop()?;
        if let Some(session) = self.sessions.get_mut(key) {
            session.flushing = false;
        }
        Some(key)
    }

    /// Bytes for a client.
    #[must_use]
    pub fn client_output(&self, key: SessionKey) -> &[u8] {
        self.sessions.get(key).map_or(&[], |session| &session.output)
    }

    /// The kernel took bytes for a client.
    pub fn on_client_written(&mut self, key: SessionKey, bytes: usize, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        consume(&mut session.output, bytes);
        if let Some(subscriptions) = session.subscriptions.as_mut() {
            subscriptions.note_read(bytes);
        }
        if session.output.is_empty() {
            let buffer = std::mem::take(&mut session.output);
            recycle(&mut self.spare, buffer);
        }
        if session.is_at_ease() {
            return;
        }
        self.relieve(key, now);
        self.finish_if_done(key);
    }

    /// The next backend connection that has something to be written.
    pub fn next_link_to_write(&mut self) -> Option<LinkKey> {
        let key = self.links_to_write.pop()?;
        if let Some(link) = self.links.get_mut(key) {
            link.flushing = false;
        }
        Some(key)
    }

    /// Bytes for a backend connection; nothing while the backend is suspected of having stopped, so that it
    /// executes as little as possible of what clients will be told was not applied, and nothing to a connection of
    /// subscriptions that an older epoch left to be read until another takes its place.
    #[must_use]
    pub fn link_output(&self, key: LinkKey, now: Instant) -> &[u8] {
        match self.links.get(key) {
            Some(link)
                if matches!(link.role, Role::Subscription(_))
                    && link.epoch != self.route.epoch
                    && !link.is_draining =>
            {
                &[]
            }
            Some(link) if link.state != LinkState::Ready || link.unwritten().is_empty() => &[],
            Some(link) if !self.is_suspect(link.backend, now) => link.unwritten(),
            _ => &[],
        }
    }

    /// Whether many clients share this connection, or will.
    #[must_use]
    pub fn is_lane(&self, key: LinkKey) -> bool {
        self.links.get(key).is_some_and(|link| matches!(link.role, Role::Lane | Role::Standby))
    }

    /// How many replies are due on a lane that stands between two frames both ways.
    #[must_use]
    pub fn footing(&self, key: LinkKey) -> Option<usize> {
        self.links.get(key).filter(|_| self.is_lane(key)).and_then(Link::footing)
    }

    /// The kernel took bytes for a backend connection.
    pub fn on_link_written(&mut self, key: LinkKey, bytes: usize, now: Instant) {
        if let Some(link) = self.links.get_mut(key) {
            link.advance_written(bytes, now);
        }
        self.resume_uploader(key);
    }

    /// The client closed its sending half: what it asked for is still answered.
    pub fn on_client_end(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.half_closed = true;
        self.drop_upload(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.is_subscriber() {
            self.end(key, CloseReason::ClientClosed);
        } else {
            self.advance_session(key, now);
        }
        self.finish_if_done(key);
        self.end_if_left(key, now);
    }

    /// The client is gone.
    pub fn on_client_lost(&mut self, key: SessionKey, reason: CloseReason) {
        self.remove_session(key, reason);
    }

    /// Ends a session after what it has to read was written: nothing more of its input is looked at.
    fn end(&mut self, key: SessionKey, reason: CloseReason) {
        self.drop_upload(key);
        if let Some(session) = self.sessions.get_mut(key) {
            session.ending.get_or_insert(reason);
            session.input = BytesMut::new();
        }
        self.finish_if_done(key);
    }

    /// Closes the client's connection if everything due to it was written.
    fn finish_if_done(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        if !session.is_quiet() {
            return;
        }
        let reason = match session.ending {
            Some(reason) => reason,
            None if session.half_closed && session.wait.is_none() => CloseReason::ClientClosed,
            None => return,
        };
        self.remove_session(key, reason);
    }

    /// Forgets a session and closes its connection. Replies still due to it go nowhere.
    fn remove_session(&mut self, key: SessionKey, reason: CloseReason) {
        if self.sessions.get(key).is_some_and(Session::is_reader) {
            self.dissolve_circle(key);
            if let Some(session) = self.sessions.remove(key) {
                self.release_own_links(&session);
            }
            return;
        }
        let Some(session) = self.sessions.remove(key) else { return };
        if let Some(subscriptions) = &session.subscriptions {
            self.leave_circle(key, session.profile.identity, subscriptions);
        }
        self.counters.clients_closed[reason.index()] += 1;
        self.upload_bytes -= session.upload_bytes;
        self.release_own_links(&session);
        self.release_target(session.state.as_ref().and_then(|state| state.redirect()));
        recycle(&mut self.spare, session.output);
        self.outputs.push_back(Output::CloseSession { session: key, reason });
        if session.holds_back {
            self.resume_links(key);
        }
        self.check_drained();
    }

    /// Puts a session among those that have something to be written.
    fn mark_to_write(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && !session.flushing
            && !session.output.is_empty()
        {
            session.flushing = true;
            self.sessions_to_write.push(key);
        }
    }

    fn mark_link_to_write(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key)
            && !link.flushing
            && !link.unwritten().is_empty()
        {
            link.flushing = true;
            self.links_to_write.push(key);
        }
    }

    /// A reply of Handover's own, in its turn.
    fn answer(&mut self, key: SessionKey, write: impl FnOnce(&mut BytesMut), now: Instant) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| !session.reply_mode.is_muted()) else { return };
        match session.link.filter(|_| session.due > 0) {
            None => {
                borrow_buffer(&mut self.spare, &mut session.output);
                write(&mut session.output);
                self.mark_to_write(key);
            }
            Some(link) => {
                let mut reply = BytesMut::new();
                write(&mut reply);
                session.due += 1;
                let is_large = reply.len() > LOCAL_BYTES_MAX;
                if let Some(link) = self.links.get_mut(link) {
                    link.push_local(key, reply.freeze(), now);
                }
                if is_large {
                    self.wait(key, Wait::Due, now);
                }
            }
        }
    }

    /// An error reply of Handover's own, in its turn.
    fn refuse(&mut self, key: SessionKey, refusal: &Refusal, now: Instant) {
        self.count_refusal(refusal);
        if *refusal == Refusal::Uncertain
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.burst_answered = true;
        }
        self.answer(key, |out| encode::error(out, &refusal.to_string()), now);
    }

    fn count_refusal(&mut self, refusal: &Refusal) {
        match refusal {
            Refusal::Uncertain => self.counters.fates.uncertain += 1,
            Refusal::Loading | Refusal::Unavailable | Refusal::PinLimit => self.counters.fates.not_applied += 1,
            _ => self.counters.refused += 1,
        }
    }

    /// Counts what became of requests that were in flight: for the switch that may follow, and since the start.
    fn note(&mut self, fate: fn(&mut Judged) -> &mut u64, commands: u64) {
        *fate(&mut self.judged) += commands;
        *fate(&mut self.counters.fates) += commands;
    }

    /// Puts one request of a session on a connection.
    fn send_request(&mut self, link: LinkKey, key: SessionKey, request: Request<'_>, kind: RunKind, now: Instant) {
        if request.classified.is_slow()
            && let Some(link) = self.links.get_mut(link)
        {
            link.expect_long();
        }
        self.send(link, key, request.frame, 1, kind, now);
    }

    /// Puts requests of a session on a connection.
    fn send(&mut self, link: LinkKey, key: SessionKey, request: &[u8], commands: u32, kind: RunKind, now: Instant) {
        let bytes = request.len();
        let run = Run { session: Some(key), commands, answered: 0, dropped: 0, bytes, attempts: 0, at: now, kind };
        self.send_run(link, key, run, request);
    }

    fn send_run(&mut self, link_key: LinkKey, key: SessionKey, run: Run, request: &[u8]) {
        let (Some(link), Some(session)) = (self.links.get_mut(link_key), self.sessions.get_mut(key)) else { return };
        debug_assert_eq!(link.profile.identity, session.profile.identity, "a command of one user goes as another");
        session.due += run.due();
        let former = session.link.replace(link_key).filter(|former| *former != link_key);
        self.in_flight += run.due() as usize;
        link.sentinel.1 = link.sentinel.1.saturating_add(run.commands);
        let is_owing_proof = link.role == Role::Lane && link.sentinel.1 >= SENTINEL_REQUESTS;
        let at = run.at;
        link.push(run, request);
        self.mark_link_to_write(link_key);
        if is_owing_proof {
            self.send_echo(link_key, at);
        }
        if let Some(former) = former {
            self.depart(key, former);
        }
    }

    /// A session goes on elsewhere: the connection that it leaves remembers it until its replies are proven.
    fn depart(&mut self, key: SessionKey, former: LinkKey) {
        let served = self.sessions.get_mut(key).and_then(|session| session.served.take());
        if let Some(link) = self.links.get_mut(former)
            && link.role == Role::Lane
            && served == Some(link.proofs)
        {
            link.departed.push(key);
        }
    }

    /// Puts a request of Handover's own on a connection.
    fn send_own(&mut self, link_key: LinkKey, kind: RunKind, request: &[u8], now: Instant) {
        self.send_owns(link_key, kind, request, 1, now);
    }

    /// Puts requests of Handover's own on a connection.
    fn send_owns(&mut self, link_key: LinkKey, kind: RunKind, requests: &[u8], commands: u32, now: Instant) {
        let Some(link) = self.links.get_mut(link_key) else { return };
        let bytes = requests.len();
        link.push(
            Run { session: None, commands, answered: 0, dropped: 0, bytes, attempts: 0, at: now, kind },
            requests,
        );
        self.mark_link_to_write(link_key);
    }

    /// Makes a session wait; its input stays as it is.
    fn wait(&mut self, key: SessionKey, what: Wait, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match &mut session.wait {
            // Only the answer ends it, whatever else is being opened for the session meanwhile.
            Some((Wait::Answer | Wait::Confirmation, _)) => return,
            Some((waiting_for, _)) => *waiting_for = what,
            None => session.wait = Some((what, now)),
        }
        if !matches!(what, Wait::Due | Wait::Confirmation | Wait::Answer | Wait::Login) && !session.listed {
            session.listed = true;
            self.waiting.push(key);
        }
    }

    /// Looks again at every session that waits for something else than its own replies.
    fn advance_waiting(&mut self, now: Instant) {
        self.advance_waiting_while(|_| true, now);
    }

    /// The same, longest first, as long as there is something to be had.
    fn advance_waiting_while(&mut self, is_some_left: impl Fn(&Self) -> bool, now: Instant) {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        while is_some_left(self)
            && let Some(key) = waiting.next()
        {
            if self.is_paused(key) {
                self.waiting.push(key);
            } else if let Some(session) = self.sessions.get_mut(key) {
                session.listed = false;
                self.advance_session(key, now);
                self.finish_if_done(key);
            }
        }
        self.waiting.extend(waiting);
    }

    /// Looks again at the sessions whose last reply came.
    fn advance_settled(&mut self, now: Instant) {
        while let Some(key) = self.settled.pop() {
            if self.sessions.get(key).is_some_and(Session::is_at_ease) {
                continue;
            }
            self.advance_session(key, now);
            self.update_reading(key);
            self.finish_if_done(key);
        }
    }

    /// A number that nobody can guess from the outside; xorshift64*.
    const fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Whether a backend has been silent for so long that writing more to it makes no sense.
    fn is_suspect(&self, backend: BackendId, now: Instant) -> bool {
        let Some(record) = self.backend(backend) else { return false };
        let Some(heard_at) = record.heard_at else { return false };
        let silence = now.saturating_duration_since(heard_at);
        let patience = self.settings.detector.suspect_after;
        if silence <= patience {
            return false;
        }
        let patience = patience.max(record.reply_time * 20);
        silence > patience
            && self
                .links
                .iter()
                .any(|(_, link)| link.backend == backend && link.silence(now).is_some_and(|silence| silence > patience))
    }

    /// Whether the route lets commands flow.
    fn is_serving(&self) -> bool {
        matches!(self.route.phase, Phase::Serve) && self.route.active.is_some()
    }
}

/// Takes bytes off the front. Who takes all of them keeps the room that they stood in.
fn consume(buffer: &mut BytesMut, bytes: usize) {
    if bytes == buffer.len() {
        buffer.clear();
    } else {
        buffer.advance(bytes);
    }
}

/// Gives an empty buffer when there is none yet, from those kept if it can.
fn borrow_buffer(spare: &mut Vec<BytesMut>, buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = spare.pop().unwrap_or_else(|| BytesMut::with_capacity(SPARE_BUFFER_BYTES_MIN));
    }
}

/// Keeps an empty buffer for the next one who needs it.
fn recycle(spare: &mut Vec<BytesMut>, mut buffer: BytesMut) {
    let capacity = buffer.capacity();
    if spare.len() < SPARE_BUFFERS_MAX && (1..=SPARE_BUFFER_BYTES_MAX).contains(&capacity) {
        buffer.clear();
        spare.push(buffer);
    }
}
