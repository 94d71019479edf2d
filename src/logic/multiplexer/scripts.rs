//! Scripts: a backend knows those that it was shown, and after a switch the new active may have seen none. Bodies that
//! pass through are kept, and loaded where EVALSHA would not find them.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use sha1::{Digest as _, Sha1};

use super::link::{Inspect, Run, RunKind};
use super::requests::{Request, Step};
use super::{LARGE_REQUEST_BYTES, LinkKey, Multiplexer, SessionKey};
use crate::command::classify::Classified;
use crate::resp::arguments::Arguments;
use crate::resp::encode;
use crate::resp::request::{RequestScanner, Scan};

/// What EVALSHA names a script by.
pub(super) type Digest = [u8; 20];

/// A body above this is not kept.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Scripts that a session called last, to be loaded before its next transaction begins.
const RECENT_MAX: usize = 16;
/// Requests behind a MULTI that are looked at for scripts to be loaded before it.
const REQUESTS_AHEAD_MAX: usize = 64;
/// Scripts that one worker remembers, of each kind of call, to spare itself the digest and the lock.
const FRESH_MAX: usize = 16;
/// Scripts that are remembered as loaded over one connection.
const LOADED_MAX: usize = 64;

/// A call of a script by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptCall {
    /// Which script.
    pub digest: Digest,
    /// It was loaded for this call: when it is missing still, so it stays.
    pub was_loaded: bool,
}

/// What is known of a script.
#[derive(Debug, PartialEq, Eq)]
enum Presence {
    /// The active was seen to have it.
    Known,
    /// The active may lack it; this is its body.
    Kept(Bytes),
    /// Its body never passed, or was given up.
    Unheard,
}

#[derive(Debug)]
struct Script {
    body: Bytes,
    /// The epoch, and the losses in it, since when the active was seen to have it.
    known: Option<(u64, u64)>,
    used: u64,
}

/// Bodies of scripts, bounded by count and by bytes; the one that was used longest ago is given up first.
#[derive(Debug)]
pub(super) struct Scripts {
    scripts: HashMap<Digest, Script>,
    scripts_max: usize,
    bytes: usize,
    bytes_max: usize,
    uses: u64,
    /// Connections lost: whoever comes back may be another process, without scripts.
    losses: u64,
}

impl Scripts {
    pub(super) fn new(scripts_max: usize, bytes_max: usize) -> Self {
        Self { scripts: HashMap::new(), scripts_max, bytes: 0, bytes_max, uses: 0, losses: 0 }
    }

    /// Keeps a body; whether others were given up for it.
    fn remember(&mut self, digest: Digest, body: &Bytes) -> bool {
        if self.scripts_max == 0 || body.len() > self.bytes_max {
            return false;
        }
        self.uses += 1;
        if let Some(known) = self.scripts.get_mut(&digest) {
            known.used = self.uses;
            return false;
        }
        self.bytes += body.len();
        let script = Script { body: body.clone(), known: None, used: self.uses };
        self.scripts.insert(digest, script);
        let mut has_given_up = false;
        while self.scripts.len() > self.scripts_max || self.bytes > self.bytes_max {
            self.give_up_oldest();
            has_given_up = true;
        }
        has_given_up
    }

    fn give_up_oldest(&mut self) {
        let oldest = self.scripts.iter().min_by_key(|(_, script)| script.used).map(|(digest, _)| *digest);
        if let Some(script) = oldest.and_then(|digest| self.scripts.remove(&digest)) {
            self.bytes -= script.body.len();
        }
    }

    fn look_up(&mut self, digest: Digest, epoch: u64) -> Presence {
        self.uses += 1;
        let (uses, losses) = (self.uses, self.losses);
        let Some(script) = self.scripts.get_mut(&digest) else { return Presence::Unheard };
        script.used = uses;
        match script.known == Some((epoch, losses)) {
            true => Presence::Known,
            false => Presence::Kept(script.body.clone()),
        }
    }

    fn body(&self, digest: Digest) -> Option<Bytes> {
        self.scripts.get(&digest).map(|script| script.body.clone())
    }

    fn note_known(&mut self, digest: Digest, epoch: u64) {
        let losses = self.losses;
        if let Some(script) = self.scripts.get_mut(&digest) {
            script.known = Some((epoch, losses));
        }
    }

    /// A connection was lost: what the backend knows is in doubt.
    pub(super) const fn doubt(&mut self) {
        self.losses += 1;
    }

    fn clear(&mut self) {
        self.scripts.clear();
        self.bytes = 0;
    }
}

/// What one worker has just met: bodies that are kept, and scripts that the active has. It holds while the version of
/// what the workers have in common, and the epoch, stay the same.
#[derive(Debug, Default)]
pub(super) struct FreshScripts {
    version: u64,
    epoch: u64,
    bodies: VecDeque<Bytes>,
    known: VecDeque<Digest>,
}

impl FreshScripts {
    /// Forgets what does not hold any more.
    fn hold_for(&mut self, version: u64, epoch: u64) -> &mut Self {
        if (self.version, self.epoch) != (version, epoch) {
            *self = Self { version, epoch, ..Self::default() };
        }
        self
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    queue.truncate(FRESH_MAX - 1);
    queue.push_front(item);
}

/// What a request has to do with scripts.
enum ScriptUse<'a> {
    /// Shows a body.
    Body(&'a [u8]),
    Call(Digest),
    Flush,
    None,
}

fn script_use(classified: Classified, frame: &[u8]) -> ScriptUse<'_> {
    let Some(command) = classified.command else { return ScriptUse::None };
    let mut arguments = Arguments::new(frame);
    match command.name {
        "eval" | "eval_ro" => arguments.nth(1).map_or(ScriptUse::None, ScriptUse::Body),
        "script|load" if arguments.remaining() == 3 => arguments.nth(2).map_or(ScriptUse::None, ScriptUse::Body),
        "evalsha" | "evalsha_ro" => arguments.nth(1).and_then(parse_digest).map_or(ScriptUse::None, ScriptUse::Call),
        "script|flush" => {
            let mode = arguments.nth(2);
            let is_mode =
                |mode: &[u8]| [b"ASYNC".as_slice(), b"SYNC"].iter().any(|word| mode.eq_ignore_ascii_case(word));
            if mode.is_none_or(is_mode) { ScriptUse::Flush } else { ScriptUse::None }
        }
        _ => ScriptUse::None,
    }
}

fn parse_digest(text: &[u8]) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != digest.len() * 2 {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.chunks(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?;
    }
    Some(digest)
}

/// The exact text: a script may answer with the word alone.
fn is_missing(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOSCRIPT No matching script")
}

impl Multiplexer {
    /// EVAL, EVALSHA, FCALL, SCRIPT, FUNCTION and their relatives.
    pub(super) fn take_script(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(link) = self.own_link(key, now) else { return Step::Wait };
        let kind = match self.note_script(key, request.classified, request.frame) {
            Some(digest) => self.prepare_call(link, digest, now),
            None => RunKind::Forward,
        };
        self.send_request(link, key, request, kind, now);
        Step::Done { bytes: request.bytes }
    }

    /// Remembers what passes; returns which script is called.
    pub(super) fn note_script(&mut self, key: SessionKey, classified: Classified, frame: &[u8]) -> Option<Digest> {
        match script_use(classified, frame) {
            ScriptUse::Body(body) => self.remember_body(body),
            ScriptUse::Flush => {
                self.settings.commons.scripts().clear();
                self.settings.commons.outdate_scripts();
            }
            ScriptUse::Call(digest) => {
                let recent = &mut self.sessions.get_mut(key)?.scripts;
                if recent.last() != Some(&digest) {
                    recent.retain(|known| *known != digest);
                    if recent.len() == RECENT_MAX {
                        recent.remove(0);
                    }
                    recent.push(digest);
                }
                return Some(digest);
            }
            ScriptUse::None => {}
        }
        None
    }

    fn remember_body(&mut self, body: &[u8]) {
        if body.len() > BODY_BYTES_MAX || self.fresh_scripts().bodies.iter().any(|known| known == body) {
            return;
        }
        let (digest, body) = (Sha1::digest(body).into(), Bytes::copy_from_slice(body));
        // What another worker outdates meanwhile is outdated here, too.
        let version = self.settings.commons.scripts_version();
        let has_given_up = self.settings.commons.scripts().remember(digest, &body);
        if has_given_up {
            self.settings.commons.outdate_scripts();
        }
        if body.len() <= LARGE_REQUEST_BYTES {
            push_bounded(&mut self.fresh_scripts.hold_for(version, self.route.epoch).bodies, body);
        }
    }

    fn fresh_scripts(&mut self) -> &mut FreshScripts {
        self.fresh_scripts.hold_for(self.settings.commons.scripts_version(), self.route.epoch)
    }

    /// This script was seen to be there, in the epoch of this connection.
    fn is_fresh(&mut self, link: LinkKey, digest: Digest) -> bool {
        let is_current = self.links.get(link).is_some_and(|link| link.epoch == self.route.epoch);
        is_current && self.fresh_scripts().known.contains(&digest)
    }

    /// A connection was lost: whoever comes back may be another process, without scripts.
    pub(super) fn doubt_scripts(&self) {
        self.settings.commons.scripts().doubt();
        self.settings.commons.outdate_scripts();
    }

    /// Loads the script of a call that is about to be sent, where the backend may lack it.
    pub(super) fn prepare_call(&mut self, link: LinkKey, digest: Digest, now: Instant) -> RunKind {
        self.load_missing(link, digest, now);
        RunKind::Script(ScriptCall { digest, was_loaded: false })
    }

    /// Loads what a transaction that is about to begin may call: within it nothing can be loaded any more.
    pub(super) fn prepare_transaction(&mut self, key: SessionKey, link: LinkKey, ahead: &[u8], now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let mut digests = session.scripts.clone();
        let mut scanner = RequestScanner::new(LARGE_REQUEST_BYTES);
        let mut rest = ahead;
        for _ in 0..REQUESTS_AHEAD_MAX {
            let Scan::Frame(frame) = scanner.scan(rest) else { break };
            let bytes = &rest[..frame.bytes];
            if let ScriptUse::Call(digest) = script_use(self.settings.policy.apply(bytes, frame.name(rest)), bytes)
                && !digests.contains(&digest)
            {
                digests.push(digest);
            }
            rest = &rest[frame.bytes..];
        }
        digests.into_iter().for_each(|digest| self.load_missing(link, digest, now));
    }

    fn load_missing(&mut self, link_key: LinkKey, digest: Digest, now: Instant) {
        if self.is_fresh(link_key, digest) {
            return;
        }
        let Some(link) = self.links.get_mut(link_key) else { return };
        let Presence::Kept(body) = self.settings.commons.scripts().look_up(digest, link.epoch) else { return };
        if link.loaded.contains(&digest) {
            return;
        }
        if link.loaded.len() == LOADED_MAX {
            link.loaded.clear();
        }
        link.loaded.push(digest);
        self.send_load(link_key, digest, &body, now);
    }

    fn send_load(&mut self, link: LinkKey, digest: Digest, body: &[u8], now: Instant) {
        let mut request = BytesMut::new();
        encode::request(&mut request, &[b"SCRIPT".as_slice(), b"LOAD", body]);
        self.send_own(link, RunKind::Load(digest), &request, now);
    }

    /// A script that Handover loaded was answered.
    pub(super) fn on_loaded(&mut self, key: LinkKey, digest: Digest, reply: &[u8]) {
        if let Some(link) = self.links.get(key).filter(|_| reply.starts_with(b"$")) {
            self.settings.commons.scripts().note_known(digest, link.epoch);
        }
    }

    /// A call of a script was not found there; true: it was loaded, and is called once more.
    pub(super) fn call_again(&mut self, key: LinkKey, call: ScriptCall, reply: &[u8], now: Instant) -> bool {
        if call.was_loaded || !is_missing(reply) {
            return false;
        }
        let Some(body) = self.settings.commons.scripts().body(call.digest) else { return false };
        let Some(link) = self.links.get_mut(key) else { return false };
        // With more behind it, it would be carried out too late.
        let Some(session_key) = link.front().and_then(|run| run.session).filter(|_| link.runs().len() == 1) else {
            return false;
        };
        let Some(session) = self.sessions.get_mut(session_key) else { return false };
        if session.due != 1 || session.half_closed {
            return false;
        }
        let frame = link.front_frame();
        let Some(run) = link.answer(1) else { return false };
        session.due = 0;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.send_load(key, call.digest, &body, now);
        let kind = RunKind::Script(ScriptCall { was_loaded: true, ..call });
        self.send_run(key, session_key, Run { answered: 0, kind, ..run }, &frame);
        true
    }

    /// A call of a script was answered: the backend has it.
    pub(super) fn on_called(&mut self, key: LinkKey, call: ScriptCall) {
        if self.is_fresh(key, call.digest) {
            return;
        }
        let Some(epoch) = self.links.get(key).map(|link| link.epoch) else { return };
        let version = self.settings.commons.scripts_version();
        self.settings.commons.scripts().note_known(call.digest, epoch);
        if epoch == self.route.epoch {
            push_bounded(&mut self.fresh_scripts.hold_for(version, epoch).known, call.digest);
        }
    }

    /// What must stand before a request that goes to another connection than it was meant for.
    pub(super) fn prepare_moved(&mut self, key: SessionKey, link: LinkKey, kind: &RunKind, now: Instant) {
        match kind {
            RunKind::Script(call) => self.load_missing(link, call.digest, now),
            RunKind::Inspect(Inspect::Multi) => self.prepare_transaction(key, link, &[], now),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(body: &str) -> Digest {
        Sha1::digest(body).into()
    }

    fn remember(scripts: &mut Scripts, body: &[u8]) -> bool {
        scripts.remember(Sha1::digest(body).into(), &Bytes::copy_from_slice(body))
    }

    #[test]
    fn digests_are_read_in_any_case_and_whole() {
        let text = "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB";
        let expected = digest("return 1");
        assert_eq!(parse_digest(text.as_bytes()), Some(expected));
        assert_eq!(parse_digest(text.to_lowercase().as_bytes()), Some(expected));
        for wrong in [&text[1..], "", &format!("{text}0"), &text.replace('E', "+"), &text.replace('E', "g")] {
            assert_eq!(parse_digest(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn bodies_are_bounded_by_count_and_bytes() {
        let mut scripts = Scripts::new(2, 10);
        for body in ["aaa", "bbb"] {
            remember(&mut scripts, body.as_bytes());
        }
        assert_eq!(scripts.look_up(digest("aaa"), 1), Presence::Kept(Bytes::from_static(b"aaa")));
        assert!(remember(&mut scripts, b"ccc"));
        // The one that was used longest ago made room.
        assert_eq!(scripts.look_up(digest("bbb"), 1), Presence::Unheard);
        remember(&mut scripts, b"dddddddd");
        assert_eq!((scripts.scripts.len(), scripts.bytes), (1, 8));
        remember(&mut scripts, b"more than ten bytes");
        assert_eq!(scripts.look_up(digest("more than ten bytes"), 1), Presence::Unheard);
        scripts.clear();
        assert_eq!((scripts.look_up(digest("dddddddd"), 1), scripts.bytes), (Presence::Unheard, 0));
        let mut none = Scripts::new(0, 10);
        remember(&mut none, b"a");
        assert_eq!(none.look_up(digest("a"), 1), Presence::Unheard);
    }

    #[test]
    fn what_is_known_holds_for_one_epoch_and_until_a_connection_is_lost() {
        let mut scripts = Scripts::new(2, 10);
        remember(&mut scripts, b"a");
        scripts.note_known(digest("a"), 3);
        assert_eq!(scripts.look_up(digest("a"), 3), Presence::Known);
        assert_ne!(scripts.look_up(digest("a"), 4), Presence::Known);
        scripts.doubt();
        assert_ne!(scripts.look_up(digest("a"), 3), Presence::Known);
    }

    #[test]
    fn what_a_worker_has_just_met_holds_for_one_version_and_epoch() {
        let mut fresh = FreshScripts::default();
        for number in 0..=FRESH_MAX {
            push_bounded(&mut fresh.hold_for(1, 1).bodies, Bytes::from(number.to_string()));
        }
        assert_eq!((fresh.bodies.len(), &fresh.bodies[0]), (FRESH_MAX, &Bytes::from(FRESH_MAX.to_string())));
        assert!(!fresh.hold_for(1, 1).bodies.is_empty());
        assert!(fresh.hold_for(2, 1).bodies.is_empty());
        push_bounded(&mut fresh.known, digest("a"));
        assert!(fresh.hold_for(2, 2).known.is_empty());
    }
}
