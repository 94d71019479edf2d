//! CLIENT TRACKING: the backend tells a client what to forget of its own cache. It is set up again wherever the
//! session's pin moves, and whoever may have missed something is told to forget everything.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::connection_state::State;
use super::link::{Inspect, LinkState, RunKind};
use super::requests::{Request, Step};
use super::session::{Transaction, Wait};
use super::{LinkKey, Multiplexer, Session, SessionKey};
use crate::command::refusal::Refusal;
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::parse_number;

/// The channel of invalidations for RESP2 clients.
const INVALIDATE_CHANNEL: &[u8] = b"__redis__:invalidate";
/// Bytes of a client's prefixes together, some for each of them included.
const PREFIX_BYTES_MAX: usize = 64 * 1024;
const PREFIX_OVERHEAD_BYTES: usize = 16;
/// How a push begins that says that the target of a redirect is gone.
const BROKEN_REDIRECT: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n";

/// Which keys a client's reads are remembered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// All of them.
    #[default]
    Every,
    /// Those of the command after CLIENT CACHING YES.
    OptIn,
    /// All but those of the command after CLIENT CACHING NO.
    OptOut,
    /// None: it hears of every change under its prefixes.
    Broadcast,
}

/// What becomes of CLIENT CACHING, which counts for the next command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Caching {
    /// Nothing is announced.
    #[default]
    Settled,
    /// The next command has not been sent.
    Announced,
    /// It was sent and may still be repeated.
    Sent,
}

/// What a session asked of CLIENT TRACKING.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tracking {
    mode: Mode,
    skips_own: bool,
    /// Handover's number of the client that hears of it.
    redirect: Option<u64>,
    prefixes: BTreeSet<Bytes>,
    caching: Caching,
}

/// CLIENT TRACKING, parsed as far as its effect goes; whether it is right says the backend.
#[derive(Debug, Default)]
struct Change {
    is_on: bool,
    tracking: Tracking,
    /// The place of REDIRECT's number among the arguments.
    redirect_place: Option<usize>,
}

/// The client to which invalidations are redirected.
enum Target {
    /// The server's number of its connection.
    Ready(i64),
    /// Its connection is being opened.
    Opening,
    /// The server tells no numbers.
    Unnumbered,
    /// It does not exist.
    Gone,
}

impl Change {
    fn parse(frame: &[u8]) -> Self {
        let mut change = Self::default();
        let mut arguments = Arguments::new(frame).enumerate().skip(2);
        let is = |word: &[u8], known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        change.is_on = arguments.next().is_some_and(|(_, word)| is(word, "ON"));
        while let Some((_, option)) = arguments.next() {
            let tracking = &mut change.tracking;
            if is(option, "OPTIN") {
                tracking.mode = Mode::OptIn;
            } else if is(option, "OPTOUT") {
                tracking.mode = Mode::OptOut;
            } else if is(option, "BCAST") {
                tracking.mode = Mode::Broadcast;
            } else if is(option, "NOLOOP") {
                tracking.skips_own = true;
            } else if is(option, "PREFIX") {
                tracking.prefixes.extend(arguments.next().map(|(_, prefix)| Bytes::copy_from_slice(prefix)));
            } else if is(option, "REDIRECT")
                && let Some((place, id)) = arguments.next()
            {
                tracking.redirect = parse_number(id).and_then(|id| u64::try_from(id).ok());
                change.redirect_place = tracking.redirect.map(|_| place);
            }
        }
        if change.tracking.mode == Mode::Broadcast && change.tracking.prefixes.is_empty() {
            change.tracking.prefixes.insert(Bytes::new());
        }
        change
    }
}

impl Tracking {
    /// Handover's number of the client that hears of this one's invalidations.
    pub(super) const fn redirect(&self) -> Option<u64> {
        self.redirect
    }

    /// What sets the same up on a fresh connection.
    fn requests(&self, redirect: Option<i64>) -> Vec<BytesMut> {
        // Every key is a prefix of its own: it is accepted only behind the others.
        let prefixes: Vec<&Bytes> = self.prefixes.iter().filter(|prefix| !prefix.is_empty()).collect();
        let mut requests = Vec::new();
        if !prefixes.is_empty() {
            requests.push(self.request(redirect, &prefixes));
        }
        if prefixes.is_empty() || self.prefixes.len() > prefixes.len() {
            requests.push(self.request(redirect, &[]));
        }
        requests
    }

    fn request(&self, redirect: Option<i64>, prefixes: &[&Bytes]) -> BytesMut {
        let mut words: Vec<Bytes> = ["CLIENT", "TRACKING", "ON"].map(Bytes::from).to_vec();
        words.extend(redirect.into_iter().flat_map(|id| [Bytes::from("REDIRECT"), Bytes::from(id.to_string())]));
        words.extend(match self.mode {
            Mode::Every => None,
            Mode::OptIn => Some(Bytes::from("OPTIN")),
            Mode::OptOut => Some(Bytes::from("OPTOUT")),
            Mode::Broadcast => Some(Bytes::from("BCAST")),
        });
        words.extend(prefixes.iter().flat_map(|&prefix| [Bytes::from("PREFIX"), prefix.clone()]));
        words.extend(self.skips_own.then(|| Bytes::from("NOLOOP")));
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        request
    }

    /// The words of CLIENT TRACKINGINFO, in the order of Redis.
    fn flags(&self, is_broken: bool) -> Vec<&'static str> {
        let is_announced = self.caching == Caching::Announced;
        let mut flags = vec!["on"];
        match self.mode {
            Mode::Every => {}
            Mode::Broadcast => flags.push("bcast"),
            Mode::OptIn if is_announced => flags.extend(["optin", "caching-yes"]),
            Mode::OptIn => flags.push("optin"),
            Mode::OptOut if is_announced => flags.extend(["optout", "caching-no"]),
            Mode::OptOut => flags.push("optout"),
        }
        flags.extend(self.skips_own.then_some("noloop"));
        flags.extend(is_broken.then_some("broken_redirect"));
        flags
    }
}

impl Session {
    /// What it asked of CLIENT TRACKING, while that is on.
    pub(super) fn tracking(&self) -> Option<&Tracking> {
        self.state.as_ref().and_then(|state| state.tracking.as_ref())
    }

    fn tracking_mut(&mut self) -> Option<&mut Tracking> {
        self.state.as_mut().and_then(|state| state.tracking.as_mut())
    }

    /// CLIENT CACHING speaks of the next command, which is this one.
    pub(super) fn spend_caching(&mut self, is_client_command: bool) {
        let (is_settled, in_none) = (self.due == 0, self.transaction == Transaction::None);
        let Some(tracking) = self.tracking_mut() else { return };
        match tracking.caching {
            Caching::Announced if !is_client_command => tracking.caching = Caching::Sent,
            Caching::Sent if is_settled && in_none => tracking.caching = Caching::Settled,
            _ => {}
        }
    }

    /// CLIENT CACHING speaks of the next command, which the backend has to see.
    pub(super) fn announces_caching(&self) -> bool {
        self.tracking().is_some_and(|tracking| tracking.caching == Caching::Announced)
    }
}

impl Multiplexer {
    /// CLIENT TRACKING.
    pub(super) fn take_tracking(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let change = Change::parse(request.frame);
        let kind = RunKind::Inspect(Inspect::Tracking(Bytes::copy_from_slice(request.frame)));
        if self.would_hold_too_many_prefixes(key, &change) {
            let what = "CLIENT TRACKING with prefixes of more than 64 KiB";
            self.refuse(key, &Refusal::Unsupported(what.to_owned()), now);
            return Step::Done { bytes: request.bytes };
        }
        let (Some(id), Some(place)) = (change.tracking.redirect, change.redirect_place) else {
            return self.forward_tainted(key, request, kind, now);
        };
        if self.is_elsewhere(id) {
            self.refuse(key, &Refusal::RedirectElsewhere, now);
            return Step::Done { bytes: request.bytes };
        }
        if self.own_link(key, now).is_none() {
            return Step::Wait;
        }
        match self.redirect_target(id, now) {
            Target::Ready(number) => {
                let frame = with_argument(request.frame, place, &number.to_string());
                self.forward_tainted(key, Request { frame: &frame, ..request }, kind, now)
            }
            Target::Opening => {
                self.wait(key, Wait::Pin, now);
                Step::Wait
            }
            Target::Unnumbered => {
                let what = "CLIENT TRACKING with REDIRECT on a backend without CLIENT ID";
                self.refuse(key, &Refusal::Unsupported(what.to_owned()), now);
                Step::Done { bytes: request.bytes }
            }
            Target::Gone => {
                let refusal = Refusal::Redis("ERR The client ID you want redirect to does not exist");
                self.refuse(key, &refusal, now);
                Step::Done { bytes: request.bytes }
            }
        }
    }

    fn would_hold_too_many_prefixes(&self, key: SessionKey, change: &Change) -> bool {
        let held = self.sessions.get(key).and_then(Session::tracking).map(|tracking| &tracking.prefixes);
        let prefixes = held.into_iter().flatten().chain(&change.tracking.prefixes);
        prefixes.map(|prefix| prefix.len() + PREFIX_OVERHEAD_BYTES).sum::<usize>() > PREFIX_BYTES_MAX
    }

    /// CLIENT CACHING.
    pub(super) fn take_caching(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        self.forward_tainted(key, request, RunKind::Inspect(Inspect::Caching), now)
    }

    /// CLIENT TRACKING was accepted.
    pub(super) fn accept_tracking(&mut self, key: SessionKey, frame: &[u8]) {
        let Change { is_on, mut tracking, .. } = Change::parse(frame);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let state = session.state.get_or_insert_default();
        let before = state.tracking.take();
        let target_before = before.as_ref().and_then(Tracking::redirect);
        if is_on {
            tracking.prefixes.extend(before.map(|before| before.prefixes).unwrap_or_default());
            state.tracking = Some(tracking);
        }
        session.drop_empty_state();
        self.release_target(target_before);
    }

    /// CLIENT CACHING was accepted.
    pub(super) fn accept_caching(&mut self, key: SessionKey) {
        if let Some(tracking) = self.sessions.get_mut(key).and_then(Session::tracking_mut) {
            tracking.caching = Caching::Announced;
        }
    }

    /// Asks a connection to track as the session was told that it does; false while its target is being opened.
    pub(super) fn track_again(&mut self, key: SessionKey, link: LinkKey, renews: bool, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let Some(tracking) = session.tracking().cloned() else { return true };
        let is_repeating = !session.pending.is_empty() || matches!(session.transaction, Transaction::Queuing { .. });
        let redirect = match tracking.redirect.map(|id| self.redirect_target(id, now)) {
            None => None,
            Some(Target::Ready(number)) => Some(number),
            Some(Target::Opening) => return false,
            Some(Target::Gone | Target::Unnumbered) => {
                self.tell_broken_redirect(key);
                return true;
            }
        };
        if renews {
            // The same prefixes a second time would be refused.
            self.send_own(link, RunKind::Ignored, b"*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$3\r\nOFF\r\n", now);
        }
        for request in tracking.requests(redirect) {
            self.send_own(link, RunKind::Setup, &request, now);
        }
        let is_announced =
            tracking.caching == Caching::Announced || (tracking.caching == Caching::Sent && is_repeating);
        if tracking.mode == Mode::OptIn && is_announced {
            self.send_own(link, RunKind::Ignored, b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n", now);
        }
        true
    }

    /// Tracking was set up on another connection: what a redirect's target missed meanwhile it must forget.
    pub(super) fn on_tracked_again(&mut self, key: SessionKey, now: Instant) {
        if self.sessions.get(key).and_then(Session::tracking).is_some_and(|tracking| tracking.redirect.is_some()) {
            self.invalidate_all(key, now);
        }
    }

    /// Tells whoever hears of this session's invalidations to forget everything: some may have been missed.
    pub(super) fn invalidate_all(&mut self, key: SessionKey, now: Instant) {
        let Some(tracking) = self.sessions.get(key).and_then(Session::tracking) else { return };
        let reader = match tracking.redirect {
            None => Some(key),
            Some(id) => self.session_with_id(id),
        };
        let Some(session) = reader.and_then(|reader| self.sessions.get(reader)) else { return };
        let (protocol, is_redirected) = (session.profile.protocol, reader != Some(key));
        let mut message = BytesMut::new();
        match protocol {
            Protocol::Resp3 => {
                encode::push(&mut message, protocol, 2);
                encode::bulk(&mut message, b"invalidate");
                encode::null(&mut message, protocol);
            }
            Protocol::Resp2 if session.is_subscriber() => {
                encode::array(&mut message, 3);
                encode::bulk(&mut message, b"message");
                encode::bulk(&mut message, INVALIDATE_CHANNEL);
                encode::null(&mut message, protocol);
            }
            Protocol::Resp2 => return,
        }
        match reader {
            Some(reader) if is_redirected => self.deliver_message(reader, &message, now),
            _ => self.append_output(key, &message),
        }
    }

    /// The backend says that the target of a redirect is gone, by its own number.
    pub(super) fn on_broken_redirect(&mut self, key: SessionKey) {
        let target = self.sessions.get(key).and_then(Session::tracking).and_then(Tracking::redirect);
        // While the target has only moved to another connection the redirect follows it.
        if target.is_some_and(|id| self.session_with_id(id).is_none()) {
            self.tell_broken_redirect(key);
        }
    }

    fn tell_broken_redirect(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        if let (Some(id), Protocol::Resp3) = (session.tracking().and_then(Tracking::redirect), session.profile.protocol)
        {
            let mut push = BytesMut::from(BROKEN_REDIRECT);
            encode::integer(&mut push, i64::try_from(id).unwrap_or(i64::MAX));
            self.append_output(key, &push);
        }
    }

    /// The connection of a redirect's target is another one now: those who redirect to it follow.
    pub(super) fn follow_target(&mut self, target: SessionKey, now: Instant) {
        let Some(id) = self.sessions.get(target).map(|session| session.id) else { return };
        for key in self.sessions_redirecting_to(id) {
            let Some(pin) = self.sessions.get(key).and_then(|session| session.pin.as_ref()) else { continue };
            let is_ready = |link: &LinkKey| self.links.get(*link).is_some_and(|link| link.state == LinkState::Ready);
            let Some(link) = pin.link.filter(is_ready) else { continue };
            if pin.set_up == Some(link) {
                if let Some(pin) = self.sessions.get_mut(key).and_then(|session| session.pin.as_mut()) {
                    pin.follows = true;
                }
                self.follow_when_free(key, now);
            } else {
                self.advance_session(key, now);
            }
        }
    }

    /// Sets tracking up anew where its target has moved, unless that would be queued in a transaction.
    fn follow_when_free(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_free = session.due == 0 && !matches!(session.transaction, Transaction::Queuing { .. });
        let Some(pin) = session.pin.as_mut().filter(|pin| is_free && pin.follows) else { return };
        let link = pin.link.filter(|_| pin.set_up == pin.link);
        if link.is_none_or(|link| self.track_again(key, link, true, now))
            && let Some(pin) = self.sessions.get_mut(key).and_then(|session| session.pin.as_mut())
        {
            pin.follows = false;
        }
    }

    /// Looks again at redirects that could not follow their targets at once.
    pub(super) fn follow_targets(&mut self, now: Instant) {
        let follows = |key: &SessionKey| {
            self.sessions.get(*key).and_then(|session| session.pin.as_ref()).is_some_and(|pin| pin.follows)
        };
        let following: Vec<SessionKey> = self.pinned.iter().copied().filter(follows).collect();
        following.into_iter().for_each(|key| self.follow_when_free(key, now));
    }

    /// The target of a redirect lost its connection: it may have missed something.
    pub(super) fn on_target_lost(&mut self, target: SessionKey, now: Instant) {
        let Some(id) = self.sessions.get(target).map(|session| session.id) else { return };
        if let Some(&key) = self.sessions_redirecting_to(id).first() {
            self.invalidate_all(key, now);
        }
    }

    /// One session less redirects to this client: when it was the last, its connection may go.
    pub(super) fn release_target(&mut self, id: Option<u64>) {
        let Some(id) = id else { return };
        if self.sessions_redirecting_to(id).is_empty()
            && let Some(target) = self.session_with_id(id)
        {
            self.forget_target(target);
        }
    }

    fn sessions_redirecting_to(&self, id: u64) -> Vec<SessionKey> {
        let redirects = |session: &Session| session.tracking().and_then(Tracking::redirect) == Some(id);
        self.sessions.iter().filter(|(_, session)| redirects(session)).map(|(key, _)| key).collect()
    }

    fn session_with_id(&self, id: u64) -> Option<SessionKey> {
        self.sessions.iter().find(|(_, session)| session.id == id && !session.is_reader()).map(|(key, _)| key)
    }

    /// The number belongs to another worker, whose clients are not known here.
    const fn is_elsewhere(&self, id: u64) -> bool {
        let step = self.settings.client_id_step;
        step > 1 && id > 0 && id % step != self.settings.client_id_first % step
    }

    fn redirect_target(&mut self, id: u64, now: Instant) -> Target {
        let Some(target) = self.session_with_id(id) else { return Target::Gone };
        let Some(link) = self.redirect_link(target, now) else { return Target::Opening };
        self.links.get(link).and_then(|link| link.client_id).map_or(Target::Unnumbered, Target::Ready)
    }

    /// CLIENT TRACKINGINFO.
    pub(super) fn answer_tracking_info(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let protocol = session.profile.protocol;
        let tracking = session.tracking().cloned();
        let redirect = tracking.as_ref().and_then(Tracking::redirect);
        let is_broken = redirect.is_some_and(|id| self.session_with_id(id).is_none());
        let flags = tracking.as_ref().map_or_else(|| vec!["off"], |tracking| tracking.flags(is_broken));
        let prefixes = tracking.as_ref().map(|tracking| tracking.prefixes.clone()).unwrap_or_default();
        let redirect = redirect_number(tracking.as_ref());
        self.answer(
            key,
            |out| {
                encode::map(out, protocol, 3);
                encode::bulk(out, b"flags");
                match protocol {
                    Protocol::Resp2 => encode::array(out, flags.len()),
                    Protocol::Resp3 => encode::set(out, flags.len()),
                }
                flags.iter().for_each(|flag| encode::bulk(out, flag.as_bytes()));
                encode::bulk(out, b"redirect");
                encode::integer(out, redirect);
                encode::bulk(out, b"prefixes");
                encode::array(out, prefixes.len());
                prefixes.iter().for_each(|prefix| encode::bulk(out, prefix));
            },
            now,
        );
    }

    /// CLIENT GETREDIR.
    pub(super) fn answer_redirect(&mut self, key: SessionKey, now: Instant) {
        let number = redirect_number(self.sessions.get(key).and_then(Session::tracking));
        self.answer(key, |out| encode::integer(out, number), now);
    }
}

impl State {
    /// Handover's number of the client that hears of this session's invalidations.
    pub(super) fn redirect(&self) -> Option<u64> {
        self.tracking.as_ref().and_then(Tracking::redirect)
    }
}

/// Whether a push says that the target of a redirect is gone.
pub(super) fn is_broken_redirect(push: &[u8]) -> bool {
    push.starts_with(BROKEN_REDIRECT)
}

/// As Redis counts: −1 without tracking, 0 without a redirect.
fn redirect_number(tracking: Option<&Tracking>) -> i64 {
    match tracking.map(Tracking::redirect) {
        None => -1,
        Some(None) => 0,
        Some(Some(id)) => i64::try_from(id).unwrap_or(i64::MAX),
    }
}

/// A request with another word in one place.
fn with_argument(frame: &[u8], place: usize, word: &str) -> BytesMut {
    let mut words: Vec<&[u8]> = Arguments::new(frame).collect();
    words[place] = word.as_bytes();
    let mut changed = BytesMut::new();
    encode::request(&mut changed, &words);
    changed
}
