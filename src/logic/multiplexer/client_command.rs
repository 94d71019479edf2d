//! CLIENT LIST, KILL, UNBLOCK, PAUSE and UNPAUSE: they concern clients of every worker of the group, so each worker's
//! machine is asked ([`Multiplexer::on_inquiry`]), and the sum of what they find is the answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::answers::{client_line, text};
use super::link::RunKind;
use super::pause::Pause;
use super::replies::is_resp3;
use super::requests::{Request, Step};
use super::session::{CloseReason, Pending, Session, Wait};
use super::{BackendId, Link, Multiplexer, Output, SessionKey};
use crate::command::blocking;
use crate::command::refusal::{Refusal, printed};
use crate::command::table::Answered;
use crate::logic::identity::IdentityMode;
use crate::resp::arguments::Arguments;
use crate::resp::encode;

/// The longest pause; longer ones are cut to it.
const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What every worker of a group is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// The lines of CLIENT LIST.
    List(Filter),
    /// End those who match.
    Kill {
        /// Whom.
        filter: Filter,
        /// Who asks: ended after the answer, or left alone.
        asker: u64,
        /// The one who asks is left alone.
        skips_asker: bool,
        /// The old form, which answers OK or that there is no such client.
        is_old_form: bool,
    },
    /// Let a blocked client go.
    Unblock {
        /// Its number.
        client: u64,
        /// With an error instead of what it would get when its time is over.
        with_error: bool,
    },
    /// Hold commands back.
    Pause(Pause),
    /// Hold nothing back any more.
    Unpause,
}

/// Which clients are meant; every part that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these numbers; none given: any.
    pub ids: Vec<u64>,
    /// Of this type.
    pub client_type: Option<ClientType>,
    /// From this address.
    pub address: Option<Bytes>,
    /// To this address.
    pub local_address: Option<Bytes>,
    /// Of this user.
    pub user: Option<Bytes>,
    /// Connected for at least so long.
    pub age_min: Option<Duration>,
}

/// The types of clients that a server tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    /// Everybody else.
    Normal,
    /// With subscriptions.
    PubSub,
    /// Masters and replicas: none of Handover's clients is one.
    Replication,
}

/// What one worker, or all of them together, found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Lines of CLIENT LIST, by the clients' numbers.
    pub lines: BTreeMap<u64, String>,
    /// Clients that were ended or let go.
    pub count: u64,
    /// The one who asks is among those to be ended.
    pub ends_asker: bool,
    /// To be let go on this connection of the backend, before the finding is whole.
    pub blocked: Option<(BackendId, i64)>,
    /// Why it could not be done.
    pub failure: Option<String>,
}

impl Finding {
    /// Adds what another worker found.
    pub fn add(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.count += other.count;
        self.ends_asker |= other.ends_asker;
        self.failure = self.failure.take().or(other.failure);
    }
}

impl Filter {
    fn fits(&self, session: &Session, now: Instant) -> bool {
        let is = |wanted: &Option<Bytes>, found: &[u8]| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let age = session.peer.connected_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        !session.is_reader()
            && (self.ids.is_empty() || self.ids.contains(&session.id))
            && self.client_type.is_none_or(|client_type| client_type == session.client_type())
            && is(&self.address, session.peer.address.as_bytes())
            && is(&self.local_address, session.peer.local_address.as_bytes())
            && is(&self.user, session.access.user())
            && self.age_min.is_none_or(|age_min| age >= age_min)
    }
}

impl Session {
    fn client_type(&self) -> ClientType {
        if self.is_subscriber() { ClientType::PubSub } else { ClientType::Normal }
    }
}

impl Multiplexer {
    /// CLIENT LIST, KILL, UNBLOCK, PAUSE and UNPAUSE.
    pub(super) fn take_inquiry(
        &mut self,
        key: SessionKey,
        answered: Answered,
        request: Request<'_>,
        now: Instant,
    ) -> Step {
        let arguments: Vec<&[u8]> = Arguments::new(request.frame).collect();
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        let inquiry = match answered {
            Answered::ClientKill => parse_kill(&arguments, session.id, |user| self.knows_user(user)),
            Answered::ClientUnblock => parse_unblock(&arguments),
            Answered::ClientPause => parse_pause(&arguments, now),
            Answered::ClientUnpause if arguments.len() != 2 => Err(wrong_arity("unpause")),
            Answered::ClientUnpause => Ok(Inquiry::Unpause),
            _ => parse_list(&arguments),
        };
        match inquiry.and_then(|inquiry| self.limited(session, inquiry)) {
            Err(refusal) => self.refuse(key, &refusal, now),
            Ok(_) if session.due > 0 => {
                self.wait(key, Wait::Due, now);
                return Step::Wait;
            }
            Ok(inquiry) => {
                self.outputs.push_back(Output::Inquire { session: key, inquiry });
                self.wait(key, Wait::Answer, now);
            }
        }
        Step::Done { bytes: request.bytes }
    }

    /// With the servers' own users nobody here knows who may do what: each sees and ends clients of its own user alone.
    fn limited(&self, session: &Session, mut inquiry: Inquiry) -> Result<Inquiry, Refusal> {
        if self.settings.identity.mode != IdentityMode::Passthrough {
            return Ok(inquiry);
        }
        match &mut inquiry {
            Inquiry::List(filter) | Inquiry::Kill { filter, .. }
                if filter.user.as_ref().is_none_or(|user| user == session.access.user()) =>
            {
                filter.user = Some(Bytes::copy_from_slice(session.access.user()));
                Ok(inquiry)
            }
            Inquiry::List(_)
            | Inquiry::Kill { .. }
            | Inquiry::Unblock { .. }
            | Inquiry::Pause(_)
            | Inquiry::Unpause => Err(Refusal::OthersClients),
        }
    }

    /// Does here what every worker is asked to do.
    pub fn on_inquiry(&mut self, inquiry: &Inquiry, now: Instant) -> Finding {
        match inquiry {
            Inquiry::List(filter) => {
                let fitting = self.sessions.iter().filter(|(_, session)| filter.fits(session, now));
                let line = |session| client_line(session, self.is_blocked(session), now);
                let lines = fitting.map(|(_, session)| (session.id, line(session))).collect();
                Finding { lines, ..Finding::default() }
            }
            Inquiry::Kill { filter, asker, skips_asker, .. } => self.kill(filter, *asker, *skips_asker, now),
            Inquiry::Unblock { client, with_error } => self.unblock_client(*client, *with_error, now),
            Inquiry::Pause(pause) => {
                self.pause(*pause);
                Finding::default()
            }
            Inquiry::Unpause => {
                self.unpause(now);
                Finding::default()
            }
        }
    }

    /// Every worker was asked: the client hears what they found together.
    pub fn on_findings(&mut self, key: SessionKey, inquiry: &Inquiry, finding: Finding, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !matches!(session.wait, Some((Wait::Answer, _))) {
            return;
        }
        session.wait = None;
        let protocol = session.profile.protocol;
        match (inquiry, finding.failure) {
            (_, Some(cause)) => self.refuse(key, &Refusal::UnblockFailed(cause), now),
            (Inquiry::List(filter), None) => {
                let list = join_lines(filter, &finding.lines);
                self.answer(key, |out| text(out, protocol, &list), now);
            }
            (Inquiry::Kill { is_old_form: true, .. }, None) if finding.count == 0 => {
                self.refuse(key, &Refusal::Redis("ERR No such client"), now);
            }
            (Inquiry::Kill { is_old_form: false, .. } | Inquiry::Unblock { .. }, None) => {
                let count = i64::try_from(finding.count).unwrap_or(i64::MAX);
                self.answer(key, |out| encode::integer(out, count), now);
            }
            (Inquiry::Kill { .. } | Inquiry::Pause(_) | Inquiry::Unpause, None) => {
                self.answer(key, |out| encode::simple(out, "OK"), now);
            }
        }
        if finding.ends_asker {
            return self.end(key, CloseReason::Killed);
        }
        self.settled.push(key);
        self.advance_settled(now);
    }

    fn kill(&mut self, filter: &Filter, asker: u64, skips_asker: bool, now: Instant) -> Finding {
        let fitting: Vec<(SessionKey, u64)> = self
            .sessions
            .iter()
            .filter(|(_, session)| filter.fits(session, now) && !(skips_asker && session.id == asker))
            .map(|(key, session)| (key, session.id))
            .collect();
        let ends_asker = fitting.iter().any(|&(_, id)| id == asker);
        let count = fitting.len() as u64;
        for (key, _) in fitting.into_iter().filter(|&(_, id)| id != asker) {
            self.remove_session(key, CloseReason::Killed);
        }
        Finding { count, ends_asker, ..Finding::default() }
    }

    /// A client that blocks on its pin is let go by the backend, one that waits to be armed again by us.
    fn unblock_client(&mut self, id: u64, with_error: bool, now: Instant) -> Finding {
        let Some(key) = self.sessions.iter().find(|(_, session)| session.id == id).map(|(key, _)| key) else {
            return Finding::default();
        };
        if self.answer_rearmed(key, with_error, now) {
            return Finding { count: 1, ..Finding::default() };
        }
        let Some(session) = self.sessions.get_mut(key) else { return Finding::default() };
        let link = session.pin.as_ref().and_then(|pin| pin.link).and_then(|link| self.links.get_mut(link));
        let Some(link) = link.filter(|link| link.client_requests() > 0) else { return Finding::default() };
        // Its number must not stand for another client by the time that the backend hears of it.
        session.taint_pin();
        link.is_let_go = link.runs().iter().any(|run| matches!(run.kind, RunKind::Blocking { .. }));
        let blocked = link.client_id.map(|client_id| (link.backend, client_id));
        let failure = blocked.is_none().then(|| "it does not tell the numbers of its connections".to_owned());
        Finding { blocked, failure, ..Finding::default() }
    }

    /// A blocked command that was judged at a switch and not armed again yet is answered as if its backend had.
    fn answer_rearmed(&mut self, key: SessionKey, with_error: bool, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let protocol = session.profile.protocol;
        let Some(Pending::Send { frame, kind: RunKind::Blocking { .. }, .. }) = session.pending.front() else {
            return false;
        };
        let name = Arguments::new(frame).next().unwrap_or_default();
        let command = self.settings.policy.apply(frame, name).command;
        let nil = command.map_or(&b"*-1\r\n"[..], |command| blocking::nil_reply(command, is_resp3(protocol)));
        let mut reply = BytesMut::new();
        match with_error {
            true => encode::error(&mut reply, &UNBLOCKED.to_string()),
            false => reply.extend_from_slice(nil),
        }
        session.pending[0] = Pending::Answer(reply.freeze());
        self.advance_session(key, now);
        self.finish_if_done(key);
        true
    }
}

impl Link {
    /// A client asked for this blocked command to be let go: its end is no matter of a switch.
    pub(super) fn take_let_go(&mut self) -> bool {
        std::mem::take(&mut self.is_let_go)
    }
}

const UNBLOCKED: Refusal = Refusal::Redis("UNBLOCKED client unblocked via CLIENT UNBLOCK");

/// In the order of the clients' numbers, or that in which they were asked for.
fn join_lines(filter: &Filter, lines: &BTreeMap<u64, String>) -> String {
    match filter.ids[..] {
        [] => lines.values().map(String::as_str).collect(),
        _ => filter.ids.iter().filter_map(|id| lines.get(id)).map(String::as_str).collect(),
    }
}

fn parse_list(arguments: &[&[u8]]) -> Result<Inquiry, Refusal> {
    let mut filter = Filter::default();
    match arguments[2..] {
        [] => {}
        [option, value] if is(option, "type") => filter.client_type = Some(parse_type(value)?),
        [option, ref ids @ ..] if is(option, "id") && !ids.is_empty() => {
            let id = |word: &&[u8]| integer(word).ok_or(Refusal::Redis("ERR Invalid client ID"));
            let ids: Vec<i64> = ids.iter().map(id).collect::<Result<_, _>>()?;
            // Numbers that nobody has; with none left to look for, nobody must fit.
            filter.ids = ids.into_iter().map(|id| u64::try_from(id).unwrap_or(0)).collect();
        }
        _ => return Err(SYNTAX),
    }
    Ok(Inquiry::List(filter))
}

fn parse_kill(arguments: &[&[u8]], asker: u64, knows_user: impl Fn(&[u8]) -> bool) -> Result<Inquiry, Refusal> {
    let (mut filter, mut skips_asker) = (Filter::default(), true);
    match arguments[2..] {
        [] => return Err(wrong_arity("kill")),
        [address] => {
            filter.address = Some(Bytes::copy_from_slice(address));
            return Ok(Inquiry::Kill { filter, asker, skips_asker: false, is_old_form: true });
        }
        _ => {}
    }
    for option in arguments[2..].chunks(2) {
        let [option, value] = *option else { return Err(SYNTAX) };
        let owned = || Some(Bytes::copy_from_slice(value));
        match option.to_ascii_lowercase().as_slice() {
            b"id" => filter.ids = vec![parse_id(value)?],
            b"type" => filter.client_type = Some(parse_type(value)?),
            b"addr" => filter.address = owned(),
            b"laddr" => filter.local_address = owned(),
            b"user" if knows_user(value) => filter.user = owned(),
            b"user" => return Err(Refusal::NoSuchUser(printed(value))),
            b"skipme" if is(value, "yes") => skips_asker = true,
            b"skipme" if is(value, "no") => skips_asker = false,
            b"maxage" => filter.age_min = Some(parse_age(value)?),
            _ => return Err(SYNTAX),
        }
    }
    Ok(Inquiry::Kill { filter, asker, skips_asker, is_old_form: false })
}

fn parse_unblock(arguments: &[&[u8]]) -> Result<Inquiry, Refusal> {
    let (client, with_error) = match arguments[2..] {
        [] => return Err(wrong_arity("unblock")),
        [client] => (client, false),
        [client, reason] if is(reason, "timeout") => (client, false),
        [client, reason] if is(reason, "error") => (client, true),
        [_, _] => return Err(Refusal::Redis("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(Refusal::SubcommandArity(printed(arguments[1]))),
    };
    let client = integer(client).ok_or(Refusal::Redis("ERR value is not an integer or out of range"))?;
    Ok(Inquiry::Unblock { client: u64::try_from(client).unwrap_or(0), with_error })
}

fn parse_pause(arguments: &[&[u8]], now: Instant) -> Result<Inquiry, Refusal> {
    let (time, writes_only) = match arguments[2..] {
        [] => return Err(wrong_arity("pause")),
        [time] => (time, false),
        [time, mode] if is(mode, "all") => (time, false),
        [time, mode] if is(mode, "write") => (time, true),
        [_, _] => return Err(Refusal::Redis("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(Refusal::SubcommandArity(printed(arguments[1]))),
    };
    let time = integer(time).ok_or(Refusal::Redis("ERR timeout is not an integer or out of range"))?;
    let time = u64::try_from(time).map_err(|_| Refusal::Redis("ERR timeout is negative"))?;
    Ok(Inquiry::Pause(Pause { until: now + Duration::from_millis(time).min(PAUSE_MAX), writes_only }))
}

fn parse_type(word: &[u8]) -> Result<ClientType, Refusal> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(ClientType::Normal),
        b"pubsub" => Ok(ClientType::PubSub),
        b"master" | b"primary" | b"replica" | b"slave" => Ok(ClientType::Replication),
        _ => Err(Refusal::UnknownClientType(printed(word))),
    }
}

fn parse_id(word: &[u8]) -> Result<u64, Refusal> {
    let id = integer(word).and_then(|id| u64::try_from(id).ok()).filter(|&id| id > 0);
    id.ok_or(Refusal::Redis("ERR client-id should be greater than 0"))
}

fn parse_age(word: &[u8]) -> Result<Duration, Refusal> {
    let age = integer(word).ok_or(Refusal::Redis("ERR maxage is not an integer or out of range"))?;
    let age = u64::try_from(age).ok().filter(|&age| age > 0);
    age.map(Duration::from_secs).ok_or(Refusal::Redis("ERR maxage should be greater than 0"))
}

/// A number as Redis takes it: 64 bits, no sign but a minus, no leading zeros.
fn integer(word: &[u8]) -> Option<i64> {
    let word = std::str::from_utf8(word).ok()?;
    word.parse::<i64>().ok().filter(|number| number.to_string() == word)
}

const SYNTAX: Refusal = Refusal::Redis("ERR syntax error");

fn is(word: &[u8], known: &str) -> bool {
    word.eq_ignore_ascii_case(known.as_bytes())
}

fn wrong_arity(subcommand: &str) -> Refusal {
    Refusal::WrongArity(format!("client|{subcommand}"))
}

/// CLIENT HELP: what is answered here, in the words and the order of Redis.
pub(super) fn help(out: &mut BytesMut) {
    const LINES: &[&str] = &[
        "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "CACHING (YES|NO)",
        "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
        "GETREDIR",
        "    Return the client ID we are redirecting to when tracking is enabled.",
        "GETNAME",
        "    Return the name of the current connection.",
        "ID",
        "    Return the ID of the current connection.",
        "INFO",
        "    Return information about the current client connection.",
        "KILL <ip:port>",
        "    Kill connection made from <ip:port>.",
        "KILL <option> <value> [<option> <value> [...]]",
        "    Kill connections. Options are:",
        "    * ADDR (<ip:port>|<unixsocket>:0)",
        "      Kill connections made from the specified address",
        "    * LADDR (<ip:port>|<unixsocket>:0)",
        "      Kill connections made to specified local address",
        "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
        "      Kill connections by type.",
        "    * USER <username>",
        "      Kill connections authenticated by <username>.",
        "    * SKIPME (YES|NO)",
        "      Skip killing current connection (default: yes).",
        "    * ID <client-id>",
        "      Kill connections by client id.",
        "    * MAXAGE <maxage>",
        "      Kill connections older than the specified age.",
        "LIST [options ...]",
        "    Return information about client connections. Options:",
        "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
        "      Return clients of specified type.",
        "    * ID <client-id> [<client-id> [...]]",
        "      Return clients with the specified ids.",
        "UNPAUSE",
        "    Stop the current client pause, resuming traffic.",
        "PAUSE <timeout> [WRITE|ALL]",
        "    Suspend all, or just write, clients for <timeout> milliseconds.",
        "REPLY (ON|OFF|SKIP)",
        "    Control the replies sent to the current connection.",
        "SETNAME <name>",
        "    Assign the name <name> to the current connection.",
        "SETINFO <option> <value>",
        "    Set client meta attributes. Options are LIB-NAME and LIB-VER.",
        "UNBLOCK <clientid> [TIMEOUT|ERROR]",
        "    Unblock the specified blocked client.",
        "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
        "         [OPTIN] [OPTOUT] [NOLOOP]",
        "    Control server assisted client side caching.",
        "TRACKINGINFO",
        "    Report tracking status for the current connection.",
        "NO-EVICT (ON|OFF)",
        "    Protect current client connection from eviction.",
        "HELP",
        "    Prints this help.",
    ];
    encode::array(out, LINES.len());
    LINES.iter().for_each(|line| encode::simple(out, line));
}
