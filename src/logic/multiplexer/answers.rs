//! What Handover answers itself: the commands that choose a lane, and those that speak of the client's own connection.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::client_command::help;
use super::link::{Inspect, Profile, RunKind};
use super::muted::ReplyMode;
use super::requests::{Request, Step};
use super::session::{CloseReason, Session, Transaction, Wait};
use super::special::parse_database;
use super::subscriptions::Kind;
use super::{LANES_MAX, Multiplexer, SessionKey};
use crate::command::refusal::Refusal;
use crate::command::table::Answered;
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::parse_number;

/// A HELLO, parsed.
struct Hello {
    protocol: Protocol,
    name: Option<Bytes>,
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
        match answered {
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
            Answered::Auth => self.answer_auth(key, request, now),
            Answered::Ping => self.answer_ping(key, request, now),
            Answered::AclWhoami => self.answer(key, |out| encode::bulk(out, b"default"), now),
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

    /// Clients need no password yet: what a server without one answers.
    fn answer_auth(&mut self, key: SessionKey, request: Request<'_>, now: Instant) {
        let mut arguments = Arguments::new(request.frame);
        match arguments.remaining() {
            2 => self.refuse(
                key,
                &Refusal::Redis(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ),
                now,
            ),
            3 if arguments.nth(1) == Some(b"default") => self.answer(key, |out| encode::simple(out, "OK"), now),
            3 => self.refuse(key, &Refusal::WrongPassword, now),
            1 => self.refuse(key, &Refusal::WrongArity("auth".to_owned()), now),
            _ => self.refuse(key, &Refusal::Redis("ERR syntax error"), now),
        }
    }

    /// The database that a profile names: none when it is the one that every backend's URL names.
    fn normal_database(&self, database: u32) -> Option<u32> {
        Some(database).filter(|&database| self.settings.database != Some(database))
    }

    fn take_select(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        if Arguments::new(request.frame).remaining() != 2 {
            self.refuse(key, &Refusal::WrongArity("select".to_owned()), now);
            return Step::Done { bytes: request.bytes };
        }
        let Some(database) = parse_database(request) else {
            let is_number = Arguments::new(request.frame).nth(1).is_some_and(is_integer);
            let text =
                if is_number { "ERR DB index is out of range" } else { "ERR value is not an integer or out of range" };
            self.refuse(key, &Refusal::Redis(text), now);
            return Step::Done { bytes: request.bytes };
        };
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        if session.pin.is_some() || session.peer.dedicated {
            let step = self.forward_and_wait(key, request, RunKind::Inspect(Inspect::Select(database)), now);
            self.taint(key);
            return step;
        }
        let profile = Profile { database: self.normal_database(database), ..session.profile };
        if let Some((_, reply)) = self.refused_database(database) {
            self.answer(key, |out| out.extend_from_slice(&reply), now);
            return Step::Done { bytes: request.bytes };
        }
        if self.is_out_of_lanes(profile) {
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
    fn is_out_of_lanes(&mut self, profile: Profile) -> bool {
        if self.lanes.len() < LANES_MAX || self.lanes.iter().any(|lane| lane.profile == profile) {
            return false;
        }
        self.close_unused_lanes();
        self.lanes.len() >= LANES_MAX
    }

    /// What the active said of databases that it does not have.
    fn refused_database(&self, database: u32) -> Option<(u32, Bytes)> {
        let record = self.backend(self.route.active?)?;
        record.database_refused.clone().filter(|(lowest, _)| database >= *lowest)
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
        if self.lane(profile, now).is_none() {
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
        let (profile, owns_link) = (session.profile, session.pin.is_some() || session.peer.dedicated);
        let hello = match parse_hello(request, profile.protocol) {
            Ok(hello) => hello,
            Err(refusal) => {
                self.refuse(key, &refusal, now);
                return Step::Done { bytes: request.bytes };
            }
        };
        if hello.protocol != profile.protocol && session.subscriptions.is_some() {
            self.refuse(key, &Refusal::Unsupported("changing the protocol while subscribed".to_owned()), now);
            return Step::Done { bytes: request.bytes };
        }
        if owns_link
            && session.transaction == Transaction::None
            && session.pin.is_some_and(|pin| !pin.dedicated)
            && session.due > 0
        {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        if owns_link {
            if hello.protocol == profile.protocol {
                self.greet(key, hello, now);
                return Step::Done { bytes: request.bytes };
            }
            // Name and password are the client's own affair: the backend hears of the protocol alone.
            let mut frame = BytesMut::new();
            encode::request(&mut frame, &["HELLO", &hello.protocol.number().to_string()]);
            let plain = Request { frame: &frame, ..request };
            let step = self.forward_and_wait(key, plain, RunKind::Inspect(Inspect::Hello(hello.protocol)), now);
            self.taint(key);
            if let (Step::Done { .. }, Some(name), Some(session)) = (step, hello.name, self.sessions.get_mut(key)) {
                session.peer.name = name;
            }
            return step;
        }
        if hello.protocol == Protocol::Resp3
            && let Some(reply) = self.route.active.and_then(|active| self.backend(active)?.resp3_refused.clone())
        {
            self.answer(key, |out| out.extend_from_slice(&reply), now);
            return Step::Done { bytes: request.bytes };
        }
        // The reply names the active's server and version, so the lane comes first even when nothing changes.
        let wanted = Profile { protocol: hello.protocol, ..profile };
        if self.is_out_of_lanes(wanted) {
            self.refuse(key, &Refusal::LaneLimit, now);
            return Step::Done { bytes: request.bytes };
        }
        if !self.enter_profile(key, wanted, now) {
            return Step::Wait;
        }
        if self.lane_link(key, now).is_none() {
            return Step::Wait;
        }
        self.greet(key, hello, now);
        Step::Done { bytes: request.bytes }
    }

    /// HELLO's reply.
    fn greet(&mut self, key: SessionKey, hello: Hello, now: Instant) {
        let server = self.route.active.and_then(|active| self.backend(active)?.server.clone());
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(name) = hello.name {
            session.peer.name = name;
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
        if session.reply_mode == ReplyMode::Off {
            if session.due > 0 {
                self.wait(key, Wait::Due, now);
                return Step::Wait;
            }
            session.reply_mode = ReplyMode::On;
        }
        self.reset_session(key, now);
        Step::Done { bytes: request.bytes }
    }

    fn reset_session(&mut self, key: SessionKey, now: Instant) {
        self.drop_subscriptions(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.transaction = Transaction::None;
        session.profile = Profile::default();
        session.peer.name = Bytes::new();
        if let Some(pin) = session.pin.as_mut() {
            // What is due on it is still delivered; then it is closed, and a dedicated client gets another.
            pin.tainted = true;
            pin.monitoring = false;
            pin.renew = true;
        }
        self.answer(key, |out| encode::simple(out, "RESET"), now);
    }

    /// The lines of CLIENT LIST for this worker's clients.
    #[must_use]
    pub fn client_list(&self, now: Instant) -> String {
        self.sessions.iter().map(|(_, session)| client_line(session, self.is_blocked(session), now)).collect()
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
            (Answered::ClientGetRedir, 2) => self.answer(key, |out| encode::integer(out, -1), now),
            (Answered::ClientTrackingInfo, 2) => self.answer(key, |out| tracking_info(out, protocol), now),
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
        if let Some(session) = self.sessions.get_mut(key) {
            session.peer.name = Bytes::copy_from_slice(name);
        }
        self.answer(key, |out| encode::simple(out, "OK"), now);
    }

    fn set_info(&mut self, key: SessionKey, field: &[u8], value: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let place = if field.eq_ignore_ascii_case(b"lib-name") {
            &mut session.peer.library_name
        } else if field.eq_ignore_ascii_case(b"lib-ver") {
            &mut session.peer.library_version
        } else {
            let refusal = Refusal::UnknownAttribute(crate::command::refusal::quoted_name(field));
            return self.refuse(key, &refusal, now);
        };
        if !value.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            let name = String::from_utf8_lossy(field).to_lowercase();
            return self.refuse(key, &Refusal::InvalidAttribute(name), now);
        }
        *place = Bytes::copy_from_slice(value);
        self.answer(key, |out| encode::simple(out, "OK"), now);
    }
}

fn is_integer(word: &[u8]) -> bool {
    parse_number(word).is_some()
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
    let mut hello = Hello { protocol: current, name: None };
    let Some(version) = arguments.next() else { return Ok(hello) };
    hello.protocol = match version {
        b"2" => Protocol::Resp2,
        b"3" => Protocol::Resp3,
        _ if is_integer(version) => return Err(Refusal::Redis("NOPROTO unsupported protocol version")),
        _ => return Err(Refusal::Redis("ERR Protocol version is not an integer or out of range")),
    };
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"AUTH") {
            let (Some(user), Some(_)) = (arguments.next(), arguments.next()) else { return Err(hello_syntax(option)) };
            if user != b"default" {
                return Err(Refusal::WrongPassword);
            }
        } else if option.eq_ignore_ascii_case(b"SETNAME") {
            let Some(name) = arguments.next() else { return Err(hello_syntax(option)) };
            if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
                return Err(Refusal::Redis("ERR Client names cannot contain spaces, newlines or special characters."));
            }
            hello.name = Some(Bytes::copy_from_slice(name));
        } else {
            return Err(hello_syntax(option));
        }
    }
    Ok(hello)
}

fn hello_syntax(option: &[u8]) -> Refusal {
    Refusal::HelloSyntax(crate::command::refusal::quoted_name(option))
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
        ('O', session.pin.is_some_and(|pin| pin.monitoring)),
        ('P', session.is_subscriber()),
        ('x', multi >= 0),
        ('b', is_blocked),
    ];
    let flags: String = states.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect();
    let flags = if flags.is_empty() { "N" } else { &flags };
    format!(
        "id={} addr={} laddr={} name={} age={age} idle={idle} flags={flags} db={} sub={} psub={} ssub={} multi={multi} \
         qbuf={} obl={} cmd={} user=default lib-name={} lib-ver={} resp={}\n",
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
        String::from_utf8_lossy(&peer.library_name),
        String::from_utf8_lossy(&peer.library_version),
        session.profile.protocol.number(),
    )
}

fn tracking_info(out: &mut BytesMut, protocol: Protocol) {
    encode::map(out, protocol, 3);
    encode::bulk(out, b"flags");
    match protocol {
        Protocol::Resp2 => encode::array(out, 1),
        Protocol::Resp3 => encode::set(out, 1),
    }
    encode::bulk(out, b"off");
    encode::bulk(out, b"redirect");
    encode::integer(out, -1);
    encode::bulk(out, b"prefixes");
    encode::array(out, 0);
}
