//! Who a session is: what it may send before it has authenticated, AUTH and HELLO AUTH, and what becomes of those whose
//! user is not accepted any more.
//!
//! With `passthrough` the backend decides: the lane of an identity authenticates with the client's own words, so that
//! opening it is the verification. Every other connection of that identity does the same; no command can run as
//! somebody else, whatever is remembered here.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::counters::Authentication;
use super::link::{Link, LinkState, Profile, Role, RunKind};
use super::requests::{Request, Step};
use super::session::{Access, CloseReason, Pending, Transaction, Wait};
use super::{Lane, LinkKey, Multiplexer, Output, SessionKey, Settings};
use crate::command::policy::Policy;
use crate::command::refusal::Refusal;
use crate::command::table::{Answered, Class, Pinned};
use crate::logic::budget::Budget;
use crate::logic::identity::{
    Account, Admission, Attempts, IdentityId, IdentityMode, Login, Registry, Secret, Standing, Users, source_of,
};
use crate::logic::route::BackendId;
use crate::resp::arguments::Arguments;
use crate::resp::encode;
use crate::resp::request::RequestScanner;

/// Between two looks at who must authenticate, be verified or be forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Verifications begun per second, and at once.
const VERIFICATIONS_PER_SECOND: f64 = 100.0;
const VERIFICATIONS_BURST: f64 = 20.0;
/// Logins that the backend is asked about at a time; the others wait, lest strangers take the lanes of everybody.
const LOGINS_ASKED_MAX: usize = 64;
/// Until a standby that refused an identity is asked again.
const STANDBY_RETRY_DELAY: Duration = Duration::from_secs(10);

/// What one multiplexer knows of identities.
pub(super) struct Guard {
    registry: Registry,
    attempts: Attempts,
    /// Sessions that wait for their turn to authenticate.
    delayed: VecDeque<SessionKey>,
    /// Lanes that take no new commands, closed once nothing is due on them.
    retired: Vec<LinkKey>,
    verifications: Budget,
    swept_at: Instant,
}

impl Guard {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            registry: Registry::new(settings.seed, settings.identity.verify_interval),
            attempts: Attempts::default(),
            delayed: VecDeque::new(),
            retired: Vec::new(),
            verifications: Budget::new(VERIFICATIONS_PER_SECOND, VERIFICATIONS_BURST, now),
            swept_at: now,
        }
    }
}

/// What a session becomes when it has authenticated.
pub(super) struct Grant {
    identity: IdentityId,
    user: Bytes,
    policy: Option<Arc<Policy>>,
}

/// What an attempt to authenticate came to.
pub(super) enum Attempt {
    Granted(Grant),
    /// Refused by the backend, in its own words.
    RefusedThere(Bytes),
    Refused(Refusal),
    /// The session waits; the request is looked at again.
    Waiting,
}

impl Multiplexer {
    /// What connections of an identity authenticate with; `None`: as the backend's URL says.
    #[must_use]
    pub fn login(&self, identity: IdentityId) -> Option<Arc<Login>> {
        self.guard.registry.login(identity)
    }

    /// What a session may do.
    pub(super) fn policy_of(&self, key: SessionKey) -> &Policy {
        let own = self.sessions.get(key).and_then(|session| session.access.policy.as_deref());
        own.unwrap_or(&self.settings.policy)
    }

    /// Whether clients can be of this user; the backends' own users are not known here.
    pub(super) fn knows_user(&self, user: &[u8]) -> bool {
        match self.settings.identity.mode {
            IdentityMode::Open => user == Access::USER_DEFAULT,
            IdentityMode::Users => self.settings.users.find(user).is_some(),
            IdentityMode::Passthrough => true,
        }
    }

    /// What a client that has just connected needs a lane for: nothing, where it must say who it is.
    pub(super) fn profile_of_newcomers(&self) -> Option<Profile> {
        (self.settings.identity.mode != IdentityMode::Passthrough).then(Profile::default)
    }

    /// A command of a client that has not authenticated.
    pub(super) fn take_unauthenticated(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(command) = request.classified.command else {
            self.refuse(key, &Refusal::Unauthenticated, now);
            return Step::Done { bytes: request.bytes };
        };
        // Lists of the operator do not count: nobody could authenticate without AUTH.
        match command.class {
            Class::Closed => {
                self.end_for_foreign_protocol(key);
                return Step::Done { bytes: request.bytes };
            }
            Class::Answered(answered @ (Answered::Auth | Answered::Hello | Answered::Quit | Answered::Reset)) => {
                return self.take_answered(key, answered, request, now);
            }
            _ => {}
        }
        let arguments = i64::try_from(Arguments::new(request.frame).remaining()).unwrap_or(i64::MAX);
        let arity = i64::from(command.arity);
        let refusal = match command.class {
            _ if (arity >= 0 && arguments != arity) || arguments < -arity => {
                Refusal::WrongArity(command.name.to_owned())
            }
            Class::Pinned(Pinned::Exec) => Refusal::UnauthenticatedExec,
            _ => Refusal::Unauthenticated,
        };
        self.refuse(key, &refusal, now);
        Step::Done { bytes: request.bytes }
    }

    /// AUTH.
    pub(super) fn take_auth(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let words: Vec<&[u8]> = Arguments::new(request.frame).skip(1).take(3).collect();
        let (user, password) = match words[..] {
            [password] => (None, password),
            [user, password] => (Some(user), password),
            [] => {
                self.refuse(key, &Refusal::WrongArity("auth".to_owned()), now);
                return Step::Done { bytes: request.bytes };
            }
            _ => {
                self.refuse(key, &Refusal::Redis("ERR syntax error"), now);
                return Step::Done { bytes: request.bytes };
            }
        };
        match self.authenticate(key, user, password, now) {
            Attempt::Waiting => return Step::Wait,
            Attempt::Granted(grant) => {
                self.enter_identity(key, grant);
                self.count_authentication();
                self.answer(key, |out| encode::simple(out, "OK"), now);
            }
            refused => self.refuse_attempt(key, refused, now),
        }
        Step::Done { bytes: request.bytes }
    }

    pub(super) fn refuse_attempt(&mut self, key: SessionKey, attempt: Attempt, now: Instant) {
        match attempt {
            Attempt::RefusedThere(reply) => self.answer(key, |out| out.extend_from_slice(&reply), now),
            Attempt::Refused(refusal) => self.refuse(key, &refusal, now),
            Attempt::Granted(_) | Attempt::Waiting => {}
        }
    }

    /// Judges a name and a password once nothing is due to the session, so that its identity changes exactly there.
    pub(super) fn authenticate(
        &mut self,
        key: SessionKey,
        user: Option<&[u8]>,
        password: &[u8],
        now: Instant,
    ) -> Attempt {
        if self.settings.identity.mode == IdentityMode::Open {
            return judge_open(user);
        }
        let Some(session) = self.sessions.get(key) else { return Attempt::Waiting };
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Attempt::Waiting;
        }
        if !self.admit(key, now) {
            return Attempt::Waiting;
        }
        let attempt = match self.settings.identity.mode {
            IdentityMode::Users => self.judge_account(key, user, password, now),
            _ => self.ask_backend(key, user, password, now),
        };
        self.note_attempt(key, &attempt, now);
        attempt
    }

    /// Whether the session may try now; else it waits for its turn.
    fn admit(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        if session.access.is_admitted {
            return true;
        }
        match self.guard.attempts.admit(&source_of(&session.peer.address), now) {
            Admission::Now => {
                session.access.is_admitted = true;
                true
            }
            Admission::After(_) => {
                self.delay(key, now);
                false
            }
        }
    }

    /// The session tries again a little later, if it may then.
    fn delay(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.access.is_admitted = false;
        let was_delayed = std::mem::replace(&mut session.access.is_delayed, true);
        self.counters.authentications[Authentication::Delayed as usize] += u64::from(!was_delayed);
        self.guard.delayed.push_back(key);
        self.wait(key, Wait::Login, now);
    }

    /// Lanes of clients' own users that are being opened.
    fn logins_asked(&self) -> usize {
        self.lanes.iter().filter(|lane| self.is_being_asked(lane)).count()
    }

    /// Whoever waits for it would open it again at once.
    pub(super) fn is_being_asked(&self, lane: &Lane) -> bool {
        let link = lane.link.and_then(|key| self.links.get(key));
        lane.profile.identity != IdentityId::CONFIGURED && link.is_some_and(|link| link.state == LinkState::Dialling)
    }

    /// By Handover's own users.
    fn judge_account(&mut self, key: SessionKey, user: Option<&[u8]>, password: &[u8], now: Instant) -> Attempt {
        let users = self.settings.users.clone();
        let Some(account) = users.verify(user.unwrap_or(Access::USER_DEFAULT), password) else {
            return Attempt::Refused(Refusal::WrongPassword);
        };
        let profile = self.sessions.get(key).map(|session| session.profile).unwrap_or_default();
        match self.grant(account, now) {
            Some(grant) if self.has_room(Profile { identity: grant.identity, ..profile }) => Attempt::Granted(grant),
            _ => Attempt::Refused(Refusal::LaneLimit),
        }
    }

    /// There is a lane for this profile, or one can be had, or it needs none.
    fn has_room(&mut self, profile: Profile) -> bool {
        self.is_laneless(profile.identity) || !self.is_out_of_lanes(profile)
    }

    fn grant(&mut self, account: &Account, now: Instant) -> Option<Grant> {
        let identity = match &account.login {
            Some(login) => self.guard.registry.number(login, true, now)?,
            None => IdentityId::CONFIGURED,
        };
        let user = Bytes::copy_from_slice(account.name.as_bytes());
        Some(Grant { identity, user, policy: account.policy.clone() })
    }

    /// By the active backend: a lane is opened with the client's own words.
    fn ask_backend(&mut self, key: SessionKey, user: Option<&[u8]>, password: &[u8], now: Instant) -> Attempt {
        let login = Login { user: user.map(Bytes::copy_from_slice), password: Secret::new(password) };
        if !self.guard.registry.knows(&login) && self.logins_asked() >= LOGINS_ASKED_MAX {
            self.delay(key, now);
            return Attempt::Waiting;
        }
        let Some(identity) = self.guard.registry.number(&login, false, now) else {
            return Attempt::Refused(Refusal::LaneLimit);
        };
        let Some(session) = self.sessions.get(key) else { return Attempt::Waiting };
        let profile = Profile { identity, ..session.profile };
        if !self.has_room(profile) {
            return Attempt::Refused(Refusal::LaneLimit);
        }
        match self.guard.registry.standing(identity) {
            Standing::Accepted => {
                let user = login.user.unwrap_or(Bytes::from_static(Access::USER_DEFAULT));
                Attempt::Granted(Grant { identity, user, policy: None })
            }
            Standing::Refused(reply) => Attempt::RefusedThere(reply),
            // Its first lane speaks of its rights alone: the database that was selected is another matter.
            Standing::Unknown => {
                self.lane(Profile { identity, ..Profile::default() }, now);
                self.wait(key, Wait::Lane, now);
                Attempt::Waiting
            }
        }
    }

    fn note_attempt(&mut self, key: SessionKey, attempt: &Attempt, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let source = source_of(&session.peer.address);
        let refused = match attempt {
            Attempt::Waiting => return,
            // Counted when the command is answered: HELLO may have to wait for more.
            Attempt::Granted(_) => {
                self.guard.attempts.succeeded(&source);
                0
            }
            Attempt::Refused(Refusal::LaneLimit) => 1,
            Attempt::Refused(_) | Attempt::RefusedThere(_) => {
                self.guard.attempts.failed(&source, now);
                self.outputs.push_back(Output::FailedLogin { source });
                1
            }
        };
        (session.access.is_admitted, session.access.is_delayed) = (false, false);
        self.counters.authentications[Authentication::Refused as usize] += refused;
    }

    /// A command that authenticates its client was answered.
    pub(super) fn count_authentication(&mut self) {
        self.counters.authentications[Authentication::Ok as usize] += 1;
    }

    /// Gives a session, to which nothing is due, its identity. What it held as somebody else goes: its pin is closed,
    /// WATCH is broken, its subscriptions move to a connection of the new identity.
    pub(super) fn enter_identity(&mut self, key: SessionKey, grant: Grant) {
        let is_laneless = self.is_laneless(grant.identity);
        let value_bytes_max = self.settings.limits.value_bytes_max;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !session.access.is_authenticated {
            session.scanner = RequestScanner::new(value_bytes_max);
        }
        session.access.is_authenticated = true;
        session.access.is_laneless = is_laneless;
        session.access.named_user = (grant.user != Access::USER_DEFAULT).then(|| self.interned.user.share(&grant.user));
        session.access.policy = grant.policy;
        if session.profile.identity == grant.identity {
            return;
        }
        self.move_out(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.profile.identity = grant.identity;
        if let Some(pin) = session.pin.as_mut() {
            (pin.tainted, pin.renew) = (true, true);
        }
        if session.transaction == Transaction::Watching {
            self.break_transaction(key);
        }
    }

    /// RESET: the client must authenticate again, where clients must.
    pub(super) fn forget_identity(&mut self, key: SessionKey, now: Instant) {
        let is_open = self.settings.identity.mode == IdentityMode::Open;
        let is_laneless = is_open && self.is_laneless(IdentityId::CONFIGURED);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.access = Access { is_laneless, ..Access::new(is_open, now) };
        if !is_open {
            session.scanner = RequestScanner::unauthenticated();
        }
    }

    /// The identity may not run ECHO on the active: its commands travel on connections of their clients' own.
    pub(super) fn is_laneless(&self, identity: IdentityId) -> bool {
        let record = self.route.active.and_then(|active| self.backend(active));
        record.is_some_and(|record| record.echo_refused.contains(&identity))
    }

    fn refresh_laneless(&mut self) {
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get(key) else { continue };
            let is_laneless = session.access.is_authenticated && self.is_laneless(session.profile.identity);
            if let Some(session) = self.sessions.get_mut(key) {
                session.access.is_laneless = is_laneless;
            }
        }
    }

    /// A verification found that the identity may do again what it may not have done before.
    pub(super) fn note_proven(&mut self, backend: BackendId, identity: IdentityId) {
        let record = self.record(backend);
        record.select_refused.retain(|(refused, _)| *refused != identity);
        if record.echo_refused.contains(&identity) {
            record.echo_refused.retain(|refused| *refused != identity);
            self.refresh_laneless();
        }
    }

    /// A connection was opened with this identity.
    pub(super) fn note_accepted(&mut self, backend: BackendId, identity: IdentityId, now: Instant) {
        if Some(backend) != self.route.active || identity == IdentityId::CONFIGURED {
            return;
        }
        let spread = self.random_share();
        self.guard.registry.accept(identity, spread, now);
    }

    /// A lane's identity may not run ECHO: it is accepted, but has no lane.
    pub(super) fn on_echo_refused(
        &mut self,
        key: LinkKey,
        backend: BackendId,
        role: Role,
        identity: IdentityId,
        now: Instant,
    ) {
        let record = self.record(backend);
        if !record.echo_refused.contains(&identity) {
            record.echo_refused.push(identity);
        }
        self.note_accepted(backend, identity, now);
        self.on_dial_failed(key, role, now);
        let is_open = |lane: &Lane| lane.link.is_some() || lane.profile.identity != identity;
        match role {
            Role::Standby => self.standbys.retain(is_open),
            _ => self.lanes.retain(is_open),
        }
        self.refresh_laneless();
        self.advance_waiting(now);
        self.advance_settled(now);
    }

    /// A backend does not accept an identity. The active's word counts, a standby's is remembered for a while.
    pub(super) fn on_identity_refused(
        &mut self,
        key: LinkKey,
        backend: BackendId,
        role: Role,
        identity: IdentityId,
        reply: Bytes,
        now: Instant,
    ) {
        self.on_dial_failed(key, role, now);
        if Some(backend) != self.route.active || role == Role::Standby {
            let refused = self.standbys.iter_mut().filter(|lane| lane.profile.identity == identity);
            return refused.for_each(|lane| lane.retry_at = Some(now + STANDBY_RETRY_DELAY));
        }
        self.guard.registry.refuse(identity, reply, now);
        self.revoke(backend, identity, now);
        self.advance_waiting(now);
        self.advance_settled(now);
    }

    /// Closes the clients of an identity that is not accepted any more, and the connections that they used.
    fn revoke(&mut self, backend: BackendId, identity: IdentityId, now: Instant) {
        self.retire_identity(identity);
        let served: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                session.access.is_authenticated && session.profile.identity == identity && !session.is_reader()
            })
            .map(|(key, _)| key)
            .collect();
        if !served.is_empty() {
            self.outputs.push_back(Output::RevokedLogin { backend, clients: served.len() });
        }
        served.into_iter().for_each(|key| self.close_revoked(key, now));
        self.end_reader(identity);
    }

    /// What a client sent and was not carried out is refused, what is due still comes, then its connection ends.
    fn close_revoked(&mut self, key: SessionKey, now: Instant) {
        self.counters.authentications[Authentication::Revoked as usize] += 1;
        let Some(session) = self.sessions.get(key) else { return };
        // What is refused must not stand in the place of an answer that is still to come.
        let is_asking = matches!(session.wait, Some((Wait::Answer | Wait::Confirmation, _)));
        if is_asking || session.is_subscriber() || self.is_blocked(session) {
            return self.remove_session(key, CloseReason::AccessRevoked);
        }
        self.refuse_held(key, Some(Refusal::AccessRevoked), now);
        self.end(key, CloseReason::AccessRevoked);
    }

    /// Nothing new travels on the connections of an identity; those that are needed are opened, and authenticate, anew.
    fn retire_identity(&mut self, identity: IdentityId) {
        let mut links = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| lane.profile.identity == identity) {
            links.extend(lane.link.take());
            lane.retry_at = None;
        }
        self.lanes.retain(|lane| lane.profile.identity != identity);
        let is_of = |links: &crate::logic::arena::Arena<Link>, key: &LinkKey| {
            links.get(*key).is_some_and(|link| link.profile.identity == identity)
        };
        let (pooled, kept) = std::mem::take(&mut self.pool).into_iter().partition(|key| is_of(&self.links, key));
        self.pool = kept;
        let pooled: Vec<LinkKey> = pooled;
        pooled.into_iter().for_each(|key| self.close_link(key, false));
        for key in links {
            if let Some(link) = self.links.get_mut(key) {
                link.sentinel.1 = 0;
                self.guard.retired.push(key);
            }
        }
    }

    fn close_retired(&mut self) {
        if self.guard.retired.is_empty() {
            return;
        }
        let retired = std::mem::take(&mut self.guard.retired);
        for key in retired {
            match self.links.get(key) {
                Some(link) if link.is_idle() => self.close_link(key, false),
                Some(_) => self.guard.retired.push(key),
                None => {}
            }
        }
    }

    /// A backend answered NOAUTH: it does not know any more who this connection is. The connections of its identity
    /// are replaced; a client that waits for this reply alone does not hear of it, since nothing was applied.
    pub(super) fn on_unauthenticated(&mut self, key: LinkKey, frame: &[u8], now: Instant) {
        let Some(link) = self.links.get(key) else { return };
        if link.role != Role::Lane {
            // On a pin a script may have said so; it is closed when it is given back.
            if let Role::Pin(Some(owner)) = link.role {
                self.taint(owner);
            }
            return self.deliver_error(key, frame, now);
        }
        self.retire_identity(link.profile.identity);
        if !self.take_back(key, now) {
            self.deliver_error(key, frame, now);
        }
    }

    /// Takes the request at the front of a lane back, to be sent again as if it had never been.
    fn take_back(&mut self, key: LinkKey, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(key) else { return false };
        let (request, epoch) = (link.front_frame(), link.epoch);
        let Some(front) = link.front().filter(|run| run.unanswered() == 1 && run.attempts == 0 && run.dropped == 0)
        else {
            return false;
        };
        let (Some(session_key), kind, arrived) = (front.session, front.kind.clone(), front.at) else { return false };
        if kind != RunKind::Forward
            || self.is_withheld(session_key)
            || self.sessions.get(session_key).is_none_or(|session| session.due != 1 || session.half_closed)
            || self.is_whole_or_scripted(&request)
        {
            return false;
        }
        let Some(run) = self.links.get_mut(key).and_then(|link| link.answer(1)) else { return false };
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.due = 0;
            session.pending.push_front(Pending::Send {
                frame: request,
                commands: 1,
                dropped: 0,
                kind,
                sent: false,
                read_only: false,
                attempts: 1,
                arrived,
                epoch,
            });
        }
        self.settled.push(session_key);
        self.finish_run(key, &run, run.at, now);
        true
    }

    /// A verification came to nothing.
    pub(super) fn postpone_verification(&mut self, identity: Option<IdentityId>, now: Instant) {
        let spread = self.random_share();
        if let Some(identity) = identity {
            self.guard.registry.postpone(identity, spread, now);
        }
    }

    /// After a switch the word of the old active counts for nothing.
    pub(super) fn move_identities(&mut self, now: Instant) {
        let connected: HashSet<IdentityId> = self
            .lanes
            .iter()
            .filter(|lane| {
                lane.link.and_then(|key| self.links.get(key)).is_some_and(|link| link.state == LinkState::Ready)
            })
            .map(|lane| lane.profile.identity)
            .collect();
        self.guard.registry.on_switch(|identity| connected.contains(&identity), now);
        self.refresh_laneless();
    }

    /// Who has not authenticated in time is closed, who is due is verified, whom nobody uses is forgotten.
    pub(super) fn keep_identities(&mut self, now: Instant) {
        self.close_retired();
        let timeout = self.settings.identity.authentication_timeout;
        let interval = SWEEP_INTERVAL.min(timeout / 4).min(self.settings.identity.verify_interval / 4);
        let is_open = self.settings.identity.mode == IdentityMode::Open;
        if is_open || now.saturating_duration_since(self.guard.swept_at) < interval {
            return;
        }
        self.guard.swept_at = now;
        let is_late =
            |access: &Access| !access.is_authenticated && now.saturating_duration_since(access.since) >= timeout;
        let late: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, session)| is_late(&session.access)).map(|(key, _)| key).collect();
        for key in late {
            self.counters.authentications[Authentication::TimedOut as usize] += 1;
            self.remove_session(key, CloseReason::AuthenticationTimeout);
        }
        for key in std::mem::take(&mut self.guard.delayed) {
            self.advance_session(key, now);
            self.finish_if_done(key);
        }
        self.verify_identities(now);
    }

    fn verify_identities(&mut self, now: Instant) {
        let authenticated = self.sessions.iter().filter(|(_, session)| session.access.is_authenticated);
        let in_use: HashSet<IdentityId> = authenticated.map(|(_, session)| session.profile.identity).collect();
        for identity in self.guard.registry.forget_unused(&in_use, now) {
            self.retire_identity(identity);
        }
        let lanes = &self.lanes;
        let is_orphan = |standby: &Lane| !lanes.iter().any(|lane| lane.profile == standby.profile);
        let orphans: Vec<LinkKey> =
            self.standbys.iter().filter(|standby| is_orphan(standby)).filter_map(|standby| standby.link).collect();
        self.standbys.retain(|standby| !is_orphan(standby));
        orphans.into_iter().for_each(|link| self.close_link(link, false));
        let Some(active) = self.route.active.filter(|_| self.is_serving()) else { return };
        while self.guard.verifications.spend(now) {
            let Some(identity) = self.guard.registry.next_due(&in_use, now) else { break };
            self.dial(active, Profile { identity, ..Profile::default() }, Role::Verification, now);
        }
    }

    /// The operator's users changed: clients of those that are gone are closed, as are those whose commands would reach
    /// the backends as somebody else; the others go on, with the rights that they have now.
    pub fn on_users(&mut self, users: Arc<Users>, now: Instant) {
        let old = std::mem::replace(&mut self.settings.users, users.clone());
        for key in self.sessions.keys() {
            let is_client = |session: &&mut super::Session| session.access.is_authenticated && !session.is_reader();
            let Some(session) = self.sessions.get_mut(key).filter(is_client) else { continue };
            let before = old.find(session.access.user()).map(|account| &account.login);
            match users.find(session.access.user()) {
                Some(account) if Some(&account.login) == before => session.access.policy.clone_from(&account.policy),
                _ if self.settings.identity.mode == IdentityMode::Users => self.close_revoked(key, now),
                _ => {}
            }
        }
        self.advance_settled(now);
    }

    fn random_share(&mut self) -> f64 {
        (self.next_random() % 1024) as f64 / 1024.0
    }
}

/// What a server without a password answers.
fn judge_open(user: Option<&[u8]>) -> Attempt {
    let grant =
        Grant { identity: IdentityId::CONFIGURED, user: Bytes::from_static(Access::USER_DEFAULT), policy: None };
    match user {
        None => Attempt::Refused(Refusal::Redis(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        )),
        Some(b"default") => Attempt::Granted(grant),
        Some(_) => Attempt::Refused(Refusal::WrongPassword),
    }
}
