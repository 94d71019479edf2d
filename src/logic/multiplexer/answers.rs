//! What Handover answers itself: the commands that choose a lane, and those that speak of the client's own connection.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::client_command::help;
use super::identity::Attempt;
use super::link::{Inspect, Profile, RunKind};
use super::muted::ReplyMode;
use super::pubsub::Kind;
use super::requests::{Request, Step};
use super::session::{CloseReason, Session, Transaction, Wait};
use super::special::parse_database;
use super::{LANES_MAX, Multiplexer, SessionKey};
use crate::command::refusal::{Refusal, printed};
use crate::command::table::Answered;
use crate::logic::identity::IdentityId;
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};

/// The longest name of a client, or of its library.
const NAME_BYTES_MAX: usize = 4096;

/// A HELLO, parsed.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) protocol: Protocol,
    name: Option<Bytes>,
    login: Option<(Bytes, Bytes)>,
}

impl Multiplexer {
    /// Carries out a command that Handover answers itself.
    pub(super) fn take_answered(
        &mut self,
        key: SessionKey,
        answered: Answered,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let step = self.take_answered_once(key, answered, request, now);
        if step != Step::Wait {
            self.counters.answered += 1;
        }
        step
    }

    fn take_answered_once(&mut self, key: SessionKey, answered: Answered, request: Request<'_>, now: Instant) -> Step {
        if request.is_of_wrong_length() {
            return self.refuse_arity(key, request, now);
        }
        match answered {
            Answered::Auth => return self.take_auth(key, request, now),
            Answered::Hello => return self.take_hello(key, request, now),
            Answered::Select => return self.take_select(key, request, now),
            Answered::Subscribe => return self.take_subscription(key, Kind::Channel, true, request, now),
            Answered::Unsubscribe => return self.take_subscription(key, Kind::Channel, false, request, now),
            Answered::PSubscribe => return self.take_subscription(key, Kind::Pattern, true, request, now),
            Answered::PUnsubscribe => return self.take_subscription(key, Kind::Pattern, false, request, now),
            Answered::SSubscribe => return self.take_subscription(key, Kind::Shard, true, request, now),
            Answered::SUnsubscribe => return self.take_subscription(key, Kind::Shard, false, request, now),
            Answered::Quit => {
                self.answer(key, |out| encode::simple(out, "OK"), now);
                self.end(key, CloseReason::Quit);
            }
            Answered::Reset => return self.take_reset(key, request, now),
            Answered::Ping if self.sessions.get(key).is_some_and(Session::announces_caching) => {
                return self.forward_on_pin(key, request, RunKind::Forward, now);
            }
            Answered::Ping => self.answer_ping(key, request, now),
            Answered::AclWhoami => self.answer_whoami(key, now),
            Answered::Cluster => self.refuse(key, &Refusal::ClusterDisabled, now),
            Answered::ClientReply => return self.take_client_reply(key, request, now),
            Answered::ClientList
            | Answered::ClientKill
            | Answered::ClientUnblock
            | Answered::ClientPause
            | Answered::ClientUnpause => return self.take_inquiry(key, answered, request, now),
            _ => self.answer_client(key, answered, request, now),
        }
        Step::Done { bytes: request.bytes }
    }

    fn answer_whoami(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let user = Bytes::copy_from_slice(session.access.user());
        self.answer(key, |out| encode::bulk(out, &user), now);
    }

    fn answer_ping(&mut self, key: SessionKey, request: Request<'_>, now: Instant) {
        let mut arguments = Arguments::new(request.frame);
        match arguments.remaining() {
            1 => self.answer(key, |out| encode::simple(out, "PONG"), now),
            2 => {
                let payload = arguments.nth(1).unwrap_or_default().to_vec();
                self.answer(key, |out| encode::bulk(out, &payload), now);
            }
            _ => self.refuse(key, &Refusal::WrongArity("ping".to_owned()), now),
        }
    }

    /// The database that a profile names: none when it is the one that every backend's URL names.
    fn normal_database(&self, database: u32) -> Option<u32> {
        Some(database).filter(|&database| self.settings.database != Some(database))
    }

    fn take_select(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(database) = parse_database(request) else {
            let word = Arguments::new(request.frame).nth(1).unwrap_or_default();
            self.refuse(key, &Refusal::Redis(what_is_wrong_with_database(word)), now);
            return Step::Done { bytes: request.bytes };
        };
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        let is_laneless = session.access.is_laneless;
        if session.pin.is_some() || session.peer.dedicated || is_laneless {
            let step = self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Select(database)), now);
            self.taint(key);
            return step;
        }
        let profile = Profile { database: self.normal_database(database), ..session.profile };
        if let Some(reply) = self.refused_database(database, profile.identity) {
            self.answer(key, |out| out.extend_from_slice(&reply), now);
            return Step::Done { bytes: request.bytes };
        }
        if !is_laneless && self.is_out_of_lanes(profile) {
            self.refuse(key, &Refusal::LaneLimit, now);
            return Step::Done { bytes: request.bytes };
        }
        if !self.enter_profile(key, profile, now) {
            return Step::Wait;
        }
        self.answer(key, |out| encode::simple(out, "OK"), now);
        Step::Done { bytes: request.bytes }
    }

    /// Every lane is in use, and none is for this profile.
    pub(super) fn is_out_of_lanes(&mut self, profile: Profile) -> bool {
        if self.lanes.len() < LANES_MAX || self.lanes.iter().any(|lane| lane.profile == profile) {
            return false;
        }
        self.close_unused_lanes();
        self.lanes.len() >= LANES_MAX
    }

    /// What the active said of databases that it does not have, or that this identity may not select.
    fn refused_database(&self, database: u32, identity: IdentityId) -> Option<Bytes> {
        let record = self.backend(self.route.active?)?;
        let missing = record.database_refused.as_ref().filter(|(lowest, _)| database >= *lowest);
        missing.map(|(_, reply)| reply).or_else(|| record.select_refusal(identity)).cloned()
    }

    /// Gives a session another profile once a lane for it is open; false: it waits.
    fn enter_profile(&mut self, key: SessionKey, profile: Profile, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        if session.profile == profile {
            return true;
        }
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return false;
        }
        if !self.is_laneless(profile.identity) && self.lane(profile, now).is_none() {
            self.wait(key, Wait::Lane, now);
            return false;
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.profile = profile;
        }
        true
    }

    fn take_hello(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        let hello = match parse_hello(request, session.profile.protocol) {
            Ok(hello) => hello,
            Err(refusal) => {
                self.refuse(key, &refusal, now);
                return Step::Done { bytes: request.bytes };
            }
        };
        if let Some(step) = self.authenticate_hello(key, &hello, request, now) {
            return step;
        }
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        let profile = session.profile;
        let owns_link = session.pin.is_some() || session.peer.dedicated;
        let changes = hello.protocol != profile.protocol;
        if changes && (owns_link || session.needs_subscription_link()) {
            return self.change_protocol(key, hello, request, now);
        }
        let is_laneless = session.access.is_laneless;
        if owns_link || (is_laneless && !changes) {
            if owns_link && session.due > 0 && session.pin.as_ref().is_some_and(|pin| !pin.dedicated) {
                self.wait(key, Wait::Due, now);
                return Step::Wait;
            }
            self.greet(key, hello, now);
            return Step::Done { bytes: request.bytes };
        }
        if hello.protocol == Protocol::Resp3
            && let Some(reply) = self.route.active.and_then(|active| self.backend(active)?.resp3_refused.clone())
        {
            self.answer(key, |out| out.extend_from_slice(&reply), now);
            return Step::Done { bytes: request.bytes };
        }
        // The reply names the active's server and version, so the lane comes first even when nothing changes.
        let wanted = Profile { protocol: hello.protocol, ..profile };
        if !is_laneless && self.is_out_of_lanes(wanted) {
            self.refuse(key, &Refusal::LaneLimit, now);
            return Step::Done { bytes: request.bytes };
        }
        if !self.enter_profile(key, wanted, now) {
            return Step::Wait;
        }
        if self.target_link(key, now).is_none() {
            return Step::Wait;
        }
        self.greet(key, hello, now);
        Step::Done { bytes: request.bytes }
    }

    /// Carries out HELLO's AUTH; a step when HELLO ends there.
    fn authenticate_hello(
        &mut self,
        key: SessionKey,
        hello: &Hello,
        request: Request<'_>,
        now: Instant,
    ) -> Option<Step> {
        let Some((user, password)) = &hello.login else {
            let is_authenticated = self.sessions.get(key).is_some_and(|session| session.access.is_authenticated);
            if !is_authenticated {
                self.refuse(key, &Refusal::UnauthenticatedHello, now);
            }
            return (!is_authenticated).then_some(Step::Done { bytes: request.bytes });
        };
        match self.authenticate(key, Some(user), password, now) {
            Attempt::Waiting => return Some(Step::Wait),
            Attempt::Granted(grant) => {
                self.enter_identity(key, grant);
                return None;
            }
            refused => self.refuse_attempt(key, refused, now),
        }
        Some(Step::Done { bytes: request.bytes })
    }

    /// HELLO's reply.
    pub(super) fn greet(&mut self, key: SessionKey, hello: Hello, now: Instant) {
        if hello.login.is_some() {
            self.count_authentication();
        }
        let server = self.route.active.and_then(|active| self.backend(active)?.server.clone());
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(name) = hello.name {
            session.peer.name = (*name).into();
        }
        let (id, protocol) = (session.id, hello.protocol);
        let (name, version) =
            server.map_or_else(|| ("redis".to_owned(), "7.0.0".to_owned()), |server| (server.name, server.version));
        self.answer(
            key,
            |out| {
                encode::map(out, protocol, 7);
                for (field, value) in [("server", name.as_str()), ("version", version.as_str())] {
                    encode::bulk(out, field.as_bytes());
                    encode::bulk(out, value.as_bytes());
                }
                encode::bulk(out, b"proto");
                encode::integer(out, i64::from(protocol.number()));
                encode::bulk(out, b"id");
                encode::integer(out, i64::try_from(id).unwrap_or(i64::MAX));
                for (field, value) in [("mode", "standalone"), ("role", "master")] {
                    encode::bulk(out, field.as_bytes());
                    encode::bulk(out, value.as_bytes());
                }
                encode::bulk(out, b"modules");
                encode::array(out, 0);
            },
            now,
        );
    }

    /// RESET: everything that a connection can hold is forgotten.
    fn take_reset(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(session) = self.sessions.get_mut(key) else { return Step::Wait };
        // What is due may have to be sent again, which it must not be as somebody else or in another database.
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        if session.reply_mode == ReplyMode::Off {
            session.reply_mode = ReplyMode::On;
        }
        self.reset_session(key, now);
        Step::Done { bytes: request.bytes }
    }

    fn reset_session(&mut self, key: SessionKey, now: Instant) {
        let is_target = self.is_target(key);
        self.drop_state(key);
        self.drop_subscriptions(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.leave_transaction();
        session.profile = Profile::default();
        session.peer.name = Box::default();
        self.forget_identity(key, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(pin) = session.pin.as_mut() {
            // What is due on it is still delivered; then it is closed, and a dedicated client gets another.
            pin.tainted = true;
            pin.monitoring = false;
            pin.renew = true;
        }
        if is_target {
            // Those who redirect to it go on doing so.
            self.redirect_link(key, now);
        }
        self.answer(key, |out| encode::simple(out, "RESET"), now);
    }

    /// The lines of CLIENT LIST for this worker's clients.
    #[must_use]
    pub fn client_list(&self, now: Instant) -> String {
        let clients = self.sessions.iter().filter(|(_, session)| !session.is_reader());
        clients.map(|(_, session)| client_line(session, self.is_blocked(session), now)).collect()
    }

    /// CLIENT subcommands over Handover's own clients.
    fn answer_client(&mut self, key: SessionKey, answered: Answered, request: Request<'_>, now: Instant) {
        let arguments: Vec<&[u8]> = Arguments::new(request.frame).collect();
        let Some(session) = self.sessions.get_mut(key) else { return };
        let protocol = session.profile.protocol;
        match (answered, arguments.len()) {
            (Answered::ClientId, 2) => {
                let id = i64::try_from(session.id).unwrap_or(i64::MAX);
                self.answer(key, |out| encode::integer(out, id), now);
            }
            (Answered::ClientInfo, 2) => {
                let line = client_line(session, false, now);
                self.answer(key, |out| text(out, protocol, &line), now);
            }
            (Answered::ClientGetName, 2) => {
                let name = session.peer.name.clone();
                self.answer(
                    key,
                    |out| match name.is_empty() {
                        true => encode::null(out, protocol),
                        false => encode::bulk(out, &name),
                    },
                    now,
                );
            }
            (Answered::ClientSetName, 3) => self.set_name(key, arguments[2], now),
            (Answered::ClientSetInfo, 4) => self.set_info(key, arguments[2], arguments[3], now),
            (Answered::ClientGetRedir, 2) => self.answer_redirect(key, now),
            (Answered::ClientTrackingInfo, 2) => self.answer_tracking_info(key, now),
            (Answered::ClientNoEvict, 3) => {
                let is_known = [b"on".as_slice(), b"off"].iter().any(|word| arguments[2].eq_ignore_ascii_case(word));
                match is_known {
                    true => self.answer(key, |out| encode::simple(out, "OK"), now),
                    false => self.refuse(key, &Refusal::Redis("ERR syntax error"), now),
                }
            }
            (Answered::ClientMaintNotifications, 3..) if arguments[2].eq_ignore_ascii_case(b"off") => {
                self.answer(key, |out| encode::simple(out, "OK"), now);
            }
            (Answered::ClientMaintNotifications, 3..) => self.refuse(key, &Refusal::NoNotifications, now),
            (Answered::ClientHelp, 2) => self.answer(key, help, now),
            _ => {
                let name = request.classified.command.map_or("client", |command| command.name);
                self.refuse(key, &Refusal::WrongArity(name.to_owned()), now);
            }
        }
    }

    fn set_name(&mut self, key: SessionKey, name: &[u8], now: Instant) {
        if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            let refusal = Refusal::Redis("ERR Client names cannot contain spaces, newlines or special characters.");
            return self.refuse(key, &refusal, now);
        }
        if let Err(refusal) = check_length(name) {
            return self.refuse(key, &refusal, now);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.peer.name = name.into();
        }
        self.answer(key, |out| encode::simple(out, "OK"), now);
    }

    fn set_info(&mut self, key: SessionKey, field: &[u8], value: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (place, latest) = if field.eq_ignore_ascii_case(b"lib-name") {
            (&mut session.peer.library_name, &mut self.interned.library_name)
        } else if field.eq_ignore_ascii_case(b"lib-ver") {
            (&mut session.peer.library_version, &mut self.interned.library_version)
        } else {
            let refusal = Refusal::UnknownAttribute(printed(field));
            return self.refuse(key, &refusal, now);
        };
        if !value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            let name = String::from_utf8_lossy(field).to_lowercase();
            return self.refuse(key, &Refusal::InvalidAttribute(name), now);
        }
        if let Err(refusal) = check_length(value) {
            return self.refuse(key, &refusal, now);
        }
        *place = latest.share(value);
        self.answer(key, |out| encode::simple(out, "OK"), now);
    }
}

/// A number as Redis takes one: without a plus sign, leading zeros or anything around it.
fn integer(word: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(word).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == word).then_some(number)
}

/// What Redis says of a database's number that is none.
fn what_is_wrong_with_database(word: &[u8]) -> &'static str {
    match integer(word) {
        Some(number) if i32::try_from(number).is_ok() => "ERR DB index is out of range",
        Some(_) => "ERR value is out of range, value must between -2147483648 and 2147483647",
        None => "ERR value is not an integer or out of range",
    }
}

/// Text for people: a bulk in RESP2, a verbatim string in RESP3, as Redis has it.
pub(super) fn text(out: &mut BytesMut, protocol: Protocol, text: &str) {
    match protocol {
        Protocol::Resp2 => encode::bulk(out, text.as_bytes()),
        Protocol::Resp3 => encode::verbatim(out, text),
    }
}

fn parse_hello(request: Request<'_>, current: Protocol) -> Result<Hello, Refusal> {
    let mut arguments = Arguments::new(request.frame).skip(1);
    let mut hello = Hello { protocol: current, name: None, login: None };
    let Some(version) = arguments.next() else { return Ok(hello) };
    hello.protocol = match version {
        b"2" => Protocol::Resp2,
        b"3" => Protocol::Resp3,
        _ if integer(version).is_some() => return Err(Refusal::Redis("NOPROTO unsupported protocol version")),
        _ => return Err(Refusal::Redis("ERR Protocol version is not an integer or out of range")),
    };
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"AUTH") {
            let (Some(user), Some(password)) = (arguments.next(), arguments.next()) else {
                return Err(hello_syntax(option));
            };
            hello.login = Some((Bytes::copy_from_slice(user), Bytes::copy_from_slice(password)));
        } else if option.eq_ignore_ascii_case(b"SETNAME") {
            let Some(name) = arguments.next() else { return Err(hello_syntax(option)) };
            if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
                return Err(Refusal::Redis("ERR Client names cannot contain spaces, newlines or special characters."));
            }
            check_length(name)?;
            hello.name = Some(Bytes::copy_from_slice(name));
        } else {
            return Err(hello_syntax(option));
        }
    }
    Ok(hello)
}

/// Names are kept for as long as their client stays, and told to whoever asks; Redis has no bound.
fn check_length(name: &[u8]) -> Result<(), Refusal> {
    match name.len() {
        ..=NAME_BYTES_MAX => Ok(()),
        bytes => Err(Refusal::NameTooLong { bytes, bytes_max: NAME_BYTES_MAX }),
    }
}

fn hello_syntax(option: &[u8]) -> Refusal {
    Refusal::HelloSyntax(printed(option))
}

/// One line of CLIENT LIST, with the fields of Redis that mean something here.
pub(super) fn client_line(session: &Session, is_blocked: bool, now: Instant) -> String {
    let peer = &session.peer;
    let age = peer.connected_at.map_or(0, |at| now.saturating_duration_since(at).as_secs());
    let idle = peer.active_at.map_or(0, |at| now.saturating_duration_since(at).as_secs());
    let count = |kind| session.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.count_of(kind));
    let multi = match session.transaction {
        Transaction::Queuing { queued, .. } => i64::from(queued),
        _ => -1,
    };
    let states = [
        ('O', session.pin.as_ref().is_some_and(|pin| pin.monitoring)),
        ('P', session.is_subscriber()),
        ('x', multi >= 0),
        ('b', is_blocked),
    ];
    let flags: String = states.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect();
    let flags = if flags.is_empty() { "N" } else { &flags };
    format!(
        "id={} addr={} laddr={} name={} age={age} idle={idle} flags={flags} db={} sub={} psub={} ssub={} multi={multi} \
         qbuf={} obl={} cmd={} user={} lib-name={} lib-ver={} resp={}\n",
        session.id,
        peer.address,
        peer.local_address,
        String::from_utf8_lossy(&peer.name),
        session.profile.database.unwrap_or(0),
        count(Kind::Channel),
        count(Kind::Pattern),
        count(Kind::Shard),
        session.input.len(),
        session.output.len(),
        if peer.last_command.is_empty() { "NULL" } else { peer.last_command },
        String::from_utf8_lossy(session.access.user()),
        String::from_utf8_lossy(&peer.library_name),
        String::from_utf8_lossy(&peer.library_version),
        session.profile.protocol.number(),
    )
}
