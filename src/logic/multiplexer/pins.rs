//! Connections of a client's own: taken from the pool or opened, washed by the fence, given back or closed.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::link::{Link, LinkState, Profile, Role, RunKind};
use super::session::{CloseReason, Pending, Pin, Session, Transaction, Wait};
use super::{Dial, LinkKey, Multiplexer, Output, SessionKey};
use crate::logic::route::BackendId;
use crate::resp::encode;

/// How long a pin without state is kept, so that a mixed pipeline does not pay a round trip for each change.
const PIN_IDLE_MAX: Duration = Duration::from_millis(50);
/// How long a blocked command is still waited for after its client has closed its sending half.
const LEAVER_WAIT_MAX: Duration = Duration::from_millis(100);
/// Pins that nobody holds are kept for so long for the next who needs one …
const POOL_IDLE_MAX: Duration = Duration::from_secs(5);
/// … and so many of them for longer.
const POOL_MIN: usize = 16;

impl Multiplexer {
    /// The session's own connection; takes one when it has none, and makes it wait while there is none.
    pub(super) fn own_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        let session = self.sessions.get_mut(key)?;
        if session.pin.is_none() {
            if session.due > 0 {
                self.wait(key, Wait::Due, now);
                return None;
            }
            let dedicated = session.peer.dedicated;
            session.pin = Some(Box::new(Pin {
                link: None,
                dedicated,
                tainted: false,
                monitoring: false,
                set_up: None,
                renew: false,
                follows: false,
                idle_since: None,
            }));
            self.pinned.push(key);
        }
        self.pin_link(key, now)
    }

    /// The connection of a session that is pinned; makes it wait while there is none.
    pub(super) fn pin_link(&mut self, key: SessionKey, now: Instant) -> Option<LinkKey> {
        if !self.is_serving() {
            self.wait(key, Wait::Lane, now);
            return None;
        }
        let session = self.sessions.get_mut(key)?;
        let profile = session.profile;
        let is_settled = session.due == 0;
        let pin = session.pin.as_mut()?;
        pin.idle_since = None;
        // Whatever was forgotten elsewhere: nothing is sent as somebody else.
        let is_foreign = |link| self.links.get(link).is_some_and(|link| link.profile.identity != profile.identity);
        if pin.renew || pin.link.is_some_and(is_foreign) {
            if !is_settled {
                self.wait(key, Wait::Due, now);
                return None;
            }
            (pin.renew, pin.tainted) = (false, false);
            if let Some(old) = pin.link.take() {
                self.close_link(old, false);
                self.invalidate_all(key, now);
            }
            return self.pin_link(key, now);
        }
        let link = match pin.link {
            Some(link) => Some(link),
            None => self.take_pin(key, profile, now),
        };
        self.sessions.get_mut(key)?.pin.as_mut()?.link = link;
        let ready = link.filter(|&link| self.links.get(link).is_some_and(|link| link.state == LinkState::Ready));
        let set_up = ready.filter(|&link| self.set_up(key, link, now));
        let Some(link) = set_up else {
            self.wait(key, Wait::Pin, now);
            return None;
        };
        if !self.is_queue_placed(key, link, now) {
            self.wait(key, Wait::Replay, now);
            return None;
        }
        Some(link)
    }

    /// A pin from the pool, or one that is being opened; none when there are too many.
    fn take_pin(&mut self, key: SessionKey, profile: Profile, now: Instant) -> Option<LinkKey> {
        let active = self.route.active?;
        // The newest first, so that those beyond what is needed grow old.
        let pooled =
            self.pool.iter().rposition(|&link| self.links.get(link).is_some_and(|link| link.profile == profile));
        if let Some(position) = pooled {
            let link_key = self.pool.remove(position);
            self.links.get_mut(link_key)?.role = Role::Pin(Some(key));
            self.monitor_again(key, link_key, now);
            return Some(link_key);
        }
        if self.pins >= self.settings.limits.pins_per_backend_max {
            // One that nobody holds makes room for one that fits.
            let spare = self.pool.pop()?;
            self.close_link(spare, false);
        }
        // The rate first: thousands that wait for it ask again and again.
        if !self.connects.has_some(now) || !self.has_room_for_own(active) || self.is_profile_refused(active, profile) {
            return None;
        }
        self.connects.spend(now);
        Some(self.dial(active, profile, Role::Pin(Some(key)), now))
    }

    /// Whether a pin or a connection for subscriptions may be opened, if not at once.
    pub(super) fn may_open_own(&self, is_pin: bool) -> bool {
        let has_room = |backend| self.has_room_for_standby(backend);
        (!is_pin || self.pins < self.settings.limits.pins_per_backend_max) && self.route.active.is_none_or(has_room)
    }

    /// Begins to open a connection.
    pub(super) fn dial(&mut self, backend: BackendId, profile: Profile, role: Role, now: Instant) -> LinkKey {
        let link = self.links.insert(Link::new(backend, self.route.epoch, role, profile, now));
        self.pins += usize::from(matches!(role, Role::Pin(_)));
        self.outputs.push_back(Output::Dial(Dial { link, backend, profile, role }));
        link
    }

    /// Forgets a connection.
    pub(super) fn remove_link(&mut self, key: LinkKey) -> Option<Link> {
        let link = self.links.remove(key)?;
        self.pins -= usize::from(matches!(link.role, Role::Pin(_)));
        Some(link)
    }

    /// Forgets a connection on which nothing is due to anybody, and has it closed.
    pub(super) fn close_link(&mut self, key: LinkKey, reset: bool) {
        if self.remove_link(key).is_some() {
            self.outputs.push_back(Output::CloseLink { link: key, reset });
        }
    }

    /// Gives pins back that hold nothing any more.
    pub(super) fn release_idle_pins(&mut self, now: Instant) {
        let pinned = std::mem::take(&mut self.pinned);
        for key in pinned {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let holds =
                session.due > 0 || !session.pending.is_empty() || session.wait.is_some() || session.holds_transaction();
            let keeps_pin = session.keeps_pin();
            let Some(pin) = session.pin.as_mut() else { continue };
            let idle_since = *pin.idle_since.get_or_insert(now);
            if holds || pin.dedicated || keeps_pin {
                pin.idle_since = None;
            } else if now.saturating_duration_since(idle_since) >= PIN_IDLE_MAX {
                self.release_pin(key, now);
                continue;
            }
            self.pinned.push(key);
        }
    }

    /// A client that hears of something without asking, and lost its connection or left it, gets another.
    pub(super) fn reopen_pins(&mut self, now: Instant) {
        let is_cut_off = |key: &SessionKey| {
            let Some(session) = self.sessions.get(*key).filter(|session| session.keeps_pin()) else { return false };
            session.pin.as_ref().is_some_and(|pin| {
                let is_left = pin.renew && session.due == 0;
                pin.link.is_none() || is_left || (pin.set_up != pin.link && session.wait.is_none())
            })
        };
        let cut_off: Vec<SessionKey> = self.pinned.iter().copied().filter(is_cut_off).collect();
        for key in cut_off {
            self.pin_link(key, now);
        }
    }

    /// Goes on monitoring on a new connection, without a word to the client.
    pub(super) fn monitor_again(&mut self, key: SessionKey, link: LinkKey, now: Instant) {
        let pin = self.sessions.get_mut(key).and_then(|session| session.pin.as_mut());
        if let Some(pin) = pin.filter(|pin| pin.monitoring) {
            pin.tainted = true;
            self.send_own(link, RunKind::Ignored, b"*1\r\n$7\r\nMONITOR\r\n", now);
        }
    }

    /// Ends clients that have left while they waited for what may never come.
    pub(super) fn end_leavers(&mut self, now: Instant) {
        let has_left = |key: &SessionKey| self.sessions.get(*key).is_some_and(|session| self.has_left(session, now));
        let leavers: Vec<SessionKey> = self.pinned.iter().copied().filter(has_left).collect();
        leavers.into_iter().for_each(|key| self.remove_session(key, CloseReason::ClientClosed));
    }

    /// Ends a client that has closed its sending half while a command of its blocks, or monitors: mostly it is gone,
    /// and would be given an element that nobody reads. What the server answers at once still reaches it, as it
    /// reaches whoever has merely nothing more to ask.
    pub(super) fn end_if_left(&mut self, key: SessionKey, now: Instant) {
        if self.sessions.get(key).is_some_and(|session| self.has_left(session, now)) {
            self.remove_session(key, CloseReason::ClientClosed);
        }
    }

    fn has_left(&self, session: &Session, now: Instant) -> bool {
        if !session.half_closed || !session.output.is_empty() {
            return false;
        }
        let is_blocking = |kind: &RunKind| kind.may_block();
        let front = session.link.filter(|_| session.due > 0).and_then(|link| self.links.get(link)?.front());
        let is_blocked =
            front.is_some_and(|run| is_blocking(&run.kind) && now.saturating_duration_since(run.at) >= LEAVER_WAIT_MAX);
        let is_rearmed = matches!(session.pending.front(), Some(Pending::Send { kind, .. }) if is_blocking(kind));
        is_blocked || is_rearmed || session.pin.as_ref().is_some_and(|pin| pin.monitoring)
    }

    fn release_pin(&mut self, key: SessionKey, now: Instant) {
        let Some(pin) = self.sessions.get_mut(key).and_then(|session| session.pin.take()) else { return };
        let Some(link_key) = pin.link else { return };
        if let Some(session) = self.sessions.get_mut(key) {
            session.link = None;
        }
        self.wash_pin(link_key, pin.tainted, now);
    }

    /// Sends a pin through the fence, or closes it when it holds what the fence cannot wash off.
    fn wash_pin(&mut self, link_key: LinkKey, tainted: bool, now: Instant) {
        let Some(profile) = self.links.get(link_key).map(|link| link.profile) else { return };
        // Without ECHO there is no fence.
        let is_laneless = self.is_laneless(profile.identity);
        let Some(link) = self.links.get_mut(link_key) else { return };
        if tainted || is_laneless || link.state != LinkState::Ready || link.epoch != self.route.epoch {
            return self.close_link(link_key, false);
        }
        link.role = Role::Pin(None);
        self.send_echo(link_key, now);
    }

    /// Sends `ECHO <nonce>`: the reply must be exactly the nonce, else the connection is out of step.
    pub(super) fn send_echo(&mut self, link_key: LinkKey, now: Instant) {
        let nonce = format!("handover:{:016x}", self.next_random());
        let (mut request, mut expected) = (BytesMut::new(), BytesMut::new());
        encode::request(&mut request, &["ECHO", &nonce]);
        encode::bulk(&mut expected, nonce.as_bytes());
        if let Some(link) = self.links.get_mut(link_key) {
            link.sentinel = (now, 0);
        }
        self.send_own(link_key, RunKind::Echo(expected.freeze()), &request, now);
    }

    /// Closes pins that nobody has needed for a while, but for a few.
    pub(super) fn trim_pool(&mut self, now: Instant) {
        let is_old = |link: &Link| now.saturating_duration_since(link.heard_at) >= POOL_IDLE_MAX;
        let beyond = self.pool.len().saturating_sub(POOL_MIN);
        let is_spare = |key: &&LinkKey| self.links.get(**key).is_none_or(is_old);
        let spare = self.pool.iter().take(beyond).take_while(is_spare).count();
        let closed: Vec<LinkKey> = self.pool.drain(..spare).collect();
        closed.into_iter().for_each(|key| self.close_link(key, false));
    }

    /// The fence was passed: the pin may serve the next client.
    pub(super) fn pool_pin(&mut self, link_key: LinkKey, now: Instant) {
        self.pool.push(link_key);
        self.advance_waiting_while(|machine| machine.pool.contains(&link_key), now);
    }

    /// What becomes of a session's own connections when it is gone.
    pub(super) fn release_own_links(&mut self, session: &Session) {
        if let Some(link) = session.pin.as_ref().and_then(|pin| pin.link) {
            self.orphan(link);
        }
        if let Some(subscriptions) = &session.subscriptions {
            for link in subscriptions.links() {
                self.close_link(link, false);
            }
        }
    }

    /// A pin whose client is gone is closed: what it was doing is cut as with Redis itself.
    pub(super) fn orphan(&mut self, key: LinkKey) {
        let gone = self.links.get(key).map_or(0, Link::client_requests);
        let is_uploading = self.links.get(key).is_some_and(Link::is_uploading);
        self.in_flight = self.in_flight.saturating_sub(gone);
        // No fault and no switch: it counts, but is none of what a switch finds in flight.
        self.counters.fates.gone += gone as u64;
        self.close_link(key, gone > 0 || is_uploading);
    }
}

impl Session {
    /// A transaction or WATCH is under way on the pin.
    const fn holds_transaction(&self) -> bool {
        matches!(self.transaction, Transaction::Watching | Transaction::Queuing { .. })
    }
}
