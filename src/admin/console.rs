//! The operator's console: a RESP port of its own, for redis-cli. It shows, and hands orders to the supervisors.

mod request;
mod subscriber;
mod why;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::request::{COMMANDS, Change, Courtesy, Request, parse};
use self::subscriber::{Channel, Subscriber, TAKES_NOTHING_MAX, write_message};
use super::status::{self, Status};
use crate::channels::{Amend, Amendment, BackendStatus, Command, EventRecord, GroupStatus, Manner, Order, Removal};
use crate::command::classify::classify;
use crate::command::policy::Policy;
use crate::command::table::Class;
use crate::config::{Addition, Config, Group};
use crate::events::EventHub;
use crate::lifecycle::Lifecycle;
use crate::logic::explain::explain;
use crate::logic::settings::RetryCeiling;
use crate::net::listen::Bound;
use crate::net::recruit::Recruiter;
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::inline;
use crate::resp::request::{RequestScanner, Scan};

/// Operators at a time.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of one argument.
const ARGUMENT_BYTES_MAX: usize = 64 * 1024;
/// An operator who says nothing for so long is disconnected.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// An order that had no outcome for so long is not waited for: the log will tell.
const ORDER_MAX: Duration = Duration::from_secs(15);
const READ_BYTES: usize = 4096;
/// A failed accept is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One group as the console sees it.
#[derive(Debug)]
pub struct ConsoleGroup {
    /// How it stands.
    pub status: watch::Receiver<GroupStatus>,
    /// To its supervisor.
    pub orders: mpsc::Sender<Order>,
    /// The same, for what changes the group itself.
    pub amendments: mpsc::Sender<Amendment>,
    /// Which of its commands travel where.
    pub policy: Policy,
}

/// Where the console looks, and whom it tells.
#[derive(Debug)]
pub struct Console {
    /// In the file's order.
    pub groups: Vec<ConsoleGroup>,
    /// The configuration in force.
    pub in_force: watch::Receiver<Arc<Config>>,
    /// Prepares backends that are added.
    pub recruiter: Recruiter,
    /// What happens.
    pub events: EventHub,
    /// What each second brings, while somebody listens.
    pub outcomes: EventHub,
    /// When the process started.
    pub started: SystemTime,
    /// Cancelled once no new clients are taken.
    pub draining: CancellationToken,
}

/// Serves operators on `bound` until `stop`.
pub async fn serve(bound: Bound, console: Arc<Console>, lifecycle: Lifecycle, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&bound) => accepted,
        };
        let (stream, place) = match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok(stream), Ok(place)) => (stream, place),
            // One too many is closed, and may come again.
            (Ok(_), Err(_)) => continue,
            (Err(error), _) => {
                tracing::warn!(%error, "the console cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (console, stop) = (Arc::clone(&console), stop.clone());
        lifecycle.start("console", async move {
            let conversation = converse(stream, &console);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = conversation => {}
            }
            drop(place);
        });
    }
}

/// A connection of whatever kind.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

async fn accept(bound: &Bound) -> io::Result<Box<dyn Connection>> {
    Ok(match bound {
        Bound::Tcp(listener) => Box::new(listener.accept().await?.0),
        Bound::Unix(listener) => Box::new(listener.accept().await?.0),
    })
}

/// One operator's conversation.
#[derive(Default)]
struct Talk {
    protocol: Protocol,
    subscriber: Subscriber,
}

/// One operator, until the connection ends.
async fn converse(mut stream: impl Connection, console: &Console) -> io::Result<()> {
    let mut scanner = RequestScanner::new(ARGUMENT_BYTES_MAX);
    let (mut input, mut talk) = (BytesMut::with_capacity(READ_BYTES), Talk::default());
    loop {
        let (words, bytes) = match scanner.scan(&input) {
            Scan::Frame(frame) => (words(&input[..frame.bytes]), frame.bytes),
            Scan::Inline { line_bytes, bytes } => (inline::split(&input[..line_bytes]).unwrap_or_default(), bytes),
            Scan::Nothing { bytes } => (Vec::new(), bytes),
            Scan::Invalid(_) => return Ok(()),
            Scan::Incomplete => {
                if listen(&mut stream, &mut input, &mut talk).await? {
                    continue;
                }
                return Ok(());
            }
        };
        input.advance(bytes);
        if words.is_empty() {
            continue;
        }
        if is_foreign(&words) {
            tracing::warn!("a client that speaks HTTP to the console was closed; nothing that it sent was carried out");
            return Ok(());
        }
        let mut output = BytesMut::new();
        let goes_on = answer(console, &words, &mut talk, &mut output).await;
        stream.write_all(&output).await?;
        if !goes_on {
            return Ok(());
        }
    }
}

/// Waits for the operator's next bytes, and passes on meanwhile what was subscribed to. False: it is over.
async fn listen(stream: &mut impl Connection, input: &mut BytesMut, talk: &mut Talk) -> io::Result<bool> {
    // Who has subscribed may be silent for ever.
    let idle_max = if talk.subscriber.count() > 0 { Duration::MAX } else { IDLE_MAX };
    let next = tokio::select! {
        biased;
        read = tokio::time::timeout(idle_max, stream.read_buf(input)) => return Ok(matches!(read, Ok(Ok(1..)))),
        next = talk.subscriber.next() => next,
    };
    let Some((channel, record)) = next else { return Ok(false) };
    let mut output = BytesMut::new();
    write_message(&mut output, talk.protocol, channel, &record);
    // What waits meanwhile has a bound: the reader's place in the ring.
    match tokio::time::timeout(TAKES_NOTHING_MAX, stream.write_all(&output)).await {
        Ok(written) => written.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// The console has no password: a page in an operator's browser must not be able to give orders.
fn is_foreign(words: &[Vec<u8>]) -> bool {
    let mut frame = BytesMut::new();
    encode::request(&mut frame, words);
    classify(&frame, &words[0]).class == Class::Closed
        || (words.len() > 2 && words.last().is_some_and(|word| word.starts_with(b"HTTP/")))
}

fn words(frame: &[u8]) -> Vec<Vec<u8>> {
    Arguments::new(frame).map(<[u8]>::to_vec).collect()
}

/// What a client of RESP2 may say while messages can come between replies, as with Redis.
fn is_silent(talk: &Talk, request: &Request) -> bool {
    let is_allowed = matches!(
        request,
        Request::Ping(_) | Request::Quit | Request::Subscribe(_) | Request::Unsubscribe(_) | Request::Hello(_)
    );
    talk.protocol == Protocol::Resp2 && talk.subscriber.count() > 0 && !is_allowed
}

/// Answers one request; says whether the conversation goes on.
async fn answer(console: &Console, words: &[Vec<u8>], talk: &mut Talk, out: &mut BytesMut) -> bool {
    let outcome = match parse(words) {
        Ok((request, _)) if is_silent(talk, &request) => {
            Err("only SUBSCRIBE, UNSUBSCRIBE, PING and QUIT are allowed while you are subscribed; HELLO 3 lifts that"
                .to_owned())
        }
        Ok((Request::Quit, _)) => {
            encode::simple(out, "OK");
            return false;
        }
        Ok((Request::Ping(text), _)) if talk.protocol == Protocol::Resp2 && talk.subscriber.count() > 0 => {
            encode::array(out, 2);
            encode::bulk(out, b"pong");
            encode::bulk(out, &text.unwrap_or_default());
            return true;
        }
        Ok((Request::Ping(text), _)) => {
            match text {
                Some(text) => encode::bulk(out, &text),
                None => encode::simple(out, "PONG"),
            }
            return true;
        }
        Ok((Request::Hello(version), _)) => {
            match version {
                Some(3) => talk.protocol = Protocol::Resp3,
                Some(_) => talk.protocol = Protocol::Resp2,
                None => {}
            }
            write_hello(out, talk.protocol);
            return true;
        }
        Ok((Request::Subscribe(channels), _)) => {
            talk.subscriber.subscribe(&channels, |channel| console.hub(channel), talk.protocol, out);
            return true;
        }
        Ok((Request::Unsubscribe(channels), _)) => {
            talk.subscriber.unsubscribe(&channels, talk.protocol, out);
            return true;
        }
        Ok((Request::Courtesy(Courtesy::Command), _)) => {
            encode::array(out, 0);
            return true;
        }
        Ok((Request::Courtesy(Courtesy::Accepted), _)) => {
            encode::simple(out, "OK");
            return true;
        }
        Ok((request, group)) => console.carry_out(request, group.as_deref()).await,
        Err(message) => Err(message),
    };
    match outcome {
        Ok(Answer::Line(line)) => encode::simple(out, &line),
        Ok(Answer::Lines(lines)) => {
            encode::array(out, lines.len());
            lines.iter().for_each(|line| encode::simple(out, line));
        }
        Err(message) => encode::error(out, &format!("ERR {message}")),
    }
    true
}

fn write_hello(out: &mut BytesMut, protocol: Protocol) {
    let version = match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    encode::map(out, protocol, 3);
    for (key, value) in [("server", "handover-console"), ("version", env!("CARGO_PKG_VERSION"))] {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    encode::bulk(out, b"proto");
    encode::integer(out, version);
}

/// What an operator reads.
enum Answer {
    Line(String),
    Lines(Vec<String>),
}

impl Console {
    async fn carry_out(&self, request: Request, group: Option<&str>) -> Result<Answer, String> {
        let lines = match request {
            Request::Help => COMMANDS.iter().map(|(form, about)| format!("{form:34} {about}")).collect(),
            Request::Status => self.status(),
            Request::Why => {
                let status = self.group(group)?.status.borrow().clone();
                why::why(&status, SystemTime::now())
            }
            Request::Events(count) => {
                let status = self.group(group)?.status.borrow().clone();
                let skipped = status.events.len().saturating_sub(count);
                let line = |event: &Arc<EventRecord>| {
                    format!("{}  {}", ago(UNIX_EPOCH + event.at.since_epoch()), event.happening.text)
                };
                status.events.iter().skip(skipped).map(line).collect()
            }
            Request::Show(name) => {
                let status = self.group(group)?.status.borrow().clone();
                let mut lines = show(backend(&status, &name)?);
                lines.extend(status.differences.iter().map(|difference| format!("differs from others: {difference}")));
                lines
            }
            Request::Explain(command) => self.explain(group, &command)?,
            Request::Change(change) => return self.change(group, change).await.map(Answer::Line),
            Request::Ping(_)
            | Request::Hello(_)
            | Request::Quit
            | Request::Courtesy(_)
            | Request::Subscribe(_)
            | Request::Unsubscribe(_) => Vec::new(),
        };
        Ok(Answer::Lines(lines.iter().map(|line| status::one_line(line)).collect()))
    }

    fn hub(&self, channel: Channel) -> EventHub {
        match channel {
            Channel::Events => self.events.clone(),
            Channel::Outcomes => self.outcomes.clone(),
        }
    }

    fn status(&self) -> Vec<String> {
        let groups: Vec<GroupStatus> = self.groups.iter().map(|group| group.status.borrow().clone()).collect();
        let uptime = self.started.elapsed().unwrap_or_default();
        let page = Status::new(&groups, uptime, self.draining.is_cancelled()).summary();
        page.lines().map(str::to_owned).collect()
    }

    /// The group of that name; the only one when none is named.
    fn group(&self, name: Option<&str>) -> Result<&ConsoleGroup, String> {
        let names =
            || self.groups.iter().map(|group| group.status.borrow().name.clone()).collect::<Vec<_>>().join(", ");
        match (name, self.groups.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("there are several groups: add GROUP and one of {}", names())),
            (Some(name), groups) => groups
                .iter()
                .find(|group| group.status.borrow().name == name)
                .ok_or_else(|| format!("no group '{name}'; there is {}", names())),
        }
    }

    fn explain(&self, group: Option<&str>, command: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let group = match (group, self.groups.first()) {
            (None, Some(first)) => first,
            _ => self.group(group)?,
        };
        let mut frame = BytesMut::new();
        encode::request(&mut frame, command);
        let classified = group.policy.apply(&frame, &command[0]);
        let name = group.status.borrow().name.clone();
        let ceiling = self.settings_of(&name).map_or(RetryCeiling::Never, |settings| settings.retry.ceiling);
        Ok(explain(&frame, classified, ceiling))
    }

    fn settings_of(&self, group: &str) -> Option<Group> {
        self.in_force.borrow().groups.iter().find(|settings| settings.name == group).cloned()
    }

    async fn change(&self, group: Option<&str>, change: Change) -> Result<String, String> {
        let group = self.group(group)?;
        if let Change::Add(addition) = change {
            return self.add(group, addition).await;
        }
        let command = {
            let status = group.status.borrow();
            command_of(&status, change)?
        };
        let (outcome, told) = oneshot::channel();
        let order = Order { command, by: "console".to_owned(), outcome: Some(outcome) };
        group.orders.send(order).await.map_err(|_| gone())?;
        outcome_of(told).await
    }

    /// Everything that the file is checked for is checked here, in the same words.
    async fn add(&self, group: &ConsoleGroup, addition: Addition) -> Result<String, String> {
        let name = group.status.borrow().name.clone();
        let settings = self.settings_of(&name).ok_or_else(gone)?;
        let workers = self.in_force.borrow().workers;
        let (backend, mut warnings) =
            addition.backend(&settings, workers).map_err(|problems| problems.to_string().replace('\n', "; "))?;
        let owner = self
            .groups
            .iter()
            .map(|group| group.status.borrow().clone())
            .find(|status| status.backends.iter().any(|known| known.name == backend.name));
        if let Some(owner) = owner {
            return Err(format!(
                "name = \"{}\": is the name of a backend of group {} already",
                backend.name, owner.name
            ));
        }
        if addition.has_password() {
            warnings.push("its URL has a password, which is not written down: it is gone after a restart".to_owned());
        }
        let recruit = self.recruiter.recruit(backend, Some(addition)).map_err(|error| error.to_string())?;
        let (outcome, told) = oneshot::channel();
        let amendment = Amendment { what: Amend::Add(recruit), by: "console".to_owned(), outcome: Some(outcome) };
        group.amendments.send(amendment).await.map_err(|_| gone())?;
        let done = outcome_of(told).await?;
        Ok(std::iter::once(done).chain(warnings).collect::<Vec<_>>().join("; "))
    }
}

fn gone() -> String {
    "the control plane has ended: see the log".to_owned()
}

async fn outcome_of(told: oneshot::Receiver<Result<String, String>>) -> Result<String, String> {
    match tokio::time::timeout(ORDER_MAX, told).await {
        Ok(outcome) => outcome.map_err(|_| "overtaken by another order or switch: see EVENTS".to_owned())?,
        Err(_) => Err("no outcome yet: see EVENTS".to_owned()),
    }
    .map(|text| status::one_line(&text))
}

fn command_of(status: &GroupStatus, change: Change) -> Result<Command, String> {
    let id = |name: &str| backend(status, name).map(|backend| backend.id);
    Ok(match change {
        Change::Switch { to, is_forced } => {
            Command::Switch { to: id(&to)?, manner: if is_forced { Manner::Forced } else { Manner::Planned } }
        }
        Change::Weight { backend, weight } => Command::SetWeight { backend: id(&backend)?, weight },
        Change::Stay { backend, length } => Command::Stay { backend: id(&backend)?, length },
        Change::EndStay => Command::EndStay,
        Change::Ban { backend, length } => Command::Ban { backend: id(&backend)?, length },
        Change::EndBan { backend } => Command::EndBan { backend: id(&backend)? },
        Change::Remove { backend, is_forced } => {
            let removal = if is_forced { Removal::Forced } else { Removal::Planned };
            Command::Remove { backend: id(&backend)?, removal }
        }
        Change::Add(addition) => return Err(format!("{addition:?} is no member yet")),
    })
}

fn backend<'a>(status: &'a GroupStatus, name: &str) -> Result<&'a BackendStatus, String> {
    status.backends.iter().find(|backend| backend.name == name).ok_or_else(|| {
        let names: Vec<&str> = status.backends.iter().map(|backend| backend.name.as_str()).collect();
        format!("no backend '{name}' in group {}; there is {}", status.name, names.join(", "))
    })
}

fn show(backend: &BackendStatus) -> Vec<String> {
    let health = if backend.healthy { "healthy" } else { "UNHEALTHY" };
    let mut lines = vec![format!(
        "{}: weight {}, {health}, circuit {}, role {}, checks {} good and {} bad",
        backend.name, backend.weight, backend.circuit, backend.role, backend.probes.0, backend.probes.1
    )];
    lines.extend(backend.fault.iter().map(|fault| format!("fault: {fault}")));
    if backend.is_leaving {
        lines.push("it leaves as soon as another can take over".to_owned());
    }
    lines.extend(backend.degraded.iter().map(|evidence| format!("too slow: {evidence}")));
    lines.extend(backend.replication.iter().map(|replication| format!("it is {replication}")));
    let fence = backend.fence.iter();
    lines.extend(fence.map(|(label, evidence)| format!("fenced ({label}): {evidence}; SWITCH lifts it")));
    lines.extend(backend.banned_until.iter().map(|until| format!("banned for {} more", left(*until))));
    lines.extend(backend.circuit_until.iter().map(|until| format!("its breaker is open for {} more", left(*until))));
    lines.extend(backend.lag.iter().map(|lag| format!("lag: {lag}")));
    let checks = backend.history.iter().rev();
    lines.extend(checks.map(|probe| {
        let took_ms = probe.took.as_secs_f64() * 1e3;
        format!("{}  {took_ms:.1} ms  {}", ago(probe.at), probe.verdict)
    }));
    lines
}

fn ago(at: SystemTime) -> String {
    format!("{:>10} ago", why::rounded(at.elapsed().unwrap_or_default()))
}

fn left(until: SystemTime) -> String {
    why::rounded(until.duration_since(SystemTime::now()).unwrap_or_default())
}
