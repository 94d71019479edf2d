//! The check by Redis commands: dial, ask in one pipeline, and what the replies mean.

mod facts;

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::facts::Pause;
pub(in crate::control) use self::facts::Told;
use crate::config::{Address, Backend, Credential};
use crate::logic::health::{ProbeVerdict, ServerIdentity};
use crate::logic::settings::{HealthSettings, ProbeMode};
use crate::net::dial::{connect, secure};
use crate::net::stream::Stream;
use crate::tls;

/// The most that the replies of one probe may take.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// The most aggregates in them: the decoder recurses, so depth must have a bound.
const AGGREGATES_MAX: usize = 256;
/// The most of a reply's text that a verdict repeats.
const TEXT_CHARS_MAX: usize = 200;

/// Asks one backend by commands; keeps its connection between probes.
pub(super) struct CommandCheck {
    address: Address,
    credential: Option<Credential>,
    connect_timeout: Duration,
    parts: Vec<Part>,
    probe_key: String,
    must_be_master: bool,
    tls: Option<tls::Client>,
    connection: Option<Stream>,
    server: Option<ServerIdentity>,
    facts_pause: Pause,
}

/// A command of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Auth,
    Hello,
    Ping,
    Role,
    Write,
    Echo,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Hello => "HELLO",
            Self::Ping => "PING",
            Self::Role => "ROLE",
            Self::Write => "SETRANGE",
            Self::Echo => "ECHO",
        }
    }
}

/// What one reply means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    Fine,
    Server(ServerIdentity),
    Role(String),
    /// Healthy as far as this tells, but it tells less than it should.
    Weak(String),
    Cannot(String),
    Busy(String),
    Failed(String),
}

/// Why there were no replies.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum AskError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("connection closed by the server")]
    Closed,
    #[error("refused: {0}")]
    Refused(String),
    #[error("malformed reply")]
    Malformed,
}

impl AskError {
    fn verdict(&self) -> ProbeVerdict {
        let refused = match self {
            Self::Connect(error) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
            Self::Lost(_) | Self::Closed | Self::Refused(_) | Self::Malformed => false,
        };
        ProbeVerdict::Failed { cause: self.to_string(), refused }
    }
}

impl CommandCheck {
    /// For one backend; nothing is opened yet. `tls` is there exactly if its connections use TLS.
    pub(super) fn new(backend: &Backend, settings: &HealthSettings, tls: Option<tls::Client>) -> Self {
        Self {
            address: backend.health_check_address.clone().unwrap_or_else(|| backend.address.clone()),
            credential: backend.credential.clone(),
            connect_timeout: backend.connect_timeout,
            parts: parts_of(&settings.modes),
            probe_key: settings.probe_key.clone(),
            must_be_master: settings.modes.contains(&ProbeMode::Role),
            tls,
            connection: None,
            server: None,
            facts_pause: Pause::default(),
        }
    }

    /// Asks once, on a new connection if `is_fresh` or if there is none; says whether it was a new one.
    /// If the caller gives up, the connection is closed with its unanswered commands.
    pub(super) async fn probe(&mut self, is_fresh: bool) -> (ProbeVerdict, bool) {
        let kept = self.connection.take().filter(|_| !is_fresh);
        if let Some(socket) = kept {
            let parts = self.parts.clone();
            match self.ask(socket, &parts).await {
                // A server may close an idle connection; that says nothing yet.
                Err(AskError::Lost(_) | AskError::Closed) => {}
                Err(error) => return (error.verdict(), false),
                Ok(verdict) => return (verdict, false),
            }
        }
        let verdict = match self.probe_anew().await {
            Ok(verdict) => verdict,
            Err(error) => error.verdict(),
        };
        (verdict, true)
    }

    async fn probe_anew(&mut self) -> Result<ProbeVerdict, AskError> {
        let socket = match tokio::time::timeout(self.connect_timeout, dial(&self.address, self.tls.as_ref())).await {
            Ok(dialled) => dialled.map_err(AskError::Connect)?,
            Err(_) => return Err(AskError::Connect(io::ErrorKind::TimedOut.into())),
        };
        let mut parts = Vec::with_capacity(self.parts.len() + 2);
        if self.credential.is_some() {
            parts.push(Part::Auth);
        }
        parts.push(Part::Hello);
        parts.extend(&self.parts);
        self.ask(socket, &parts).await
    }

    /// One pipeline. The socket is kept only if all replies came and nothing else.
    async fn ask(&mut self, mut socket: Stream, parts: &[Part]) -> Result<ProbeVerdict, AskError> {
        let nonce = format!("handover:{:016x}", fastrand::u64(..));
        socket.write_all(&self.pipeline(parts, &nonce)).await?;
        socket.flush().await?;
        let (replies, is_clean) = read_replies(&mut socket, parts.len()).await?;
        let meanings: Vec<Meaning> = parts
            .iter()
            .zip(&replies)
            .map(|(part, reply)| meaning(*part, reply, &nonce, self.must_be_master))
            .collect();
        if let Some(server) = meanings.iter().find_map(server_of) {
            self.server = Some(server);
        }
        let verdict = verdict_of(meanings, self.server.clone());
        if is_clean && !matches!(verdict, ProbeVerdict::Failed { .. }) {
            self.connection = Some(socket);
        }
        Ok(verdict)
    }

    fn pipeline(&self, parts: &[Part], nonce: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        for part in parts {
            match part {
                Part::Auth => {
                    if let Some(credential) = &self.credential {
                        let username = credential.username.as_deref();
                        let words = ["AUTH"].into_iter().chain(username).chain([credential.password.as_str()]);
                        append_command(&mut bytes, &words.collect::<Vec<_>>());
                    }
                }
                Part::Hello | Part::Ping | Part::Role => append_command(&mut bytes, &[part.name()]),
                Part::Write => append_command(&mut bytes, &["SETRANGE", &self.probe_key, "0", ""]),
                Part::Echo => append_command(&mut bytes, &["ECHO", nonce]),
            }
        }
        bytes
    }
}

/// The commands of a round: the write check asks for all that can be known.
fn parts_of(modes: &[ProbeMode]) -> Vec<Part> {
    let of_mode = |mode: &ProbeMode| -> &'static [Part] {
        match mode {
            ProbeMode::Ping => &[Part::Ping],
            ProbeMode::Echo => &[Part::Echo],
            ProbeMode::Role => &[Part::Role],
            ProbeMode::Write => &[Part::Ping, Part::Role, Part::Write, Part::Echo],
            // Not by commands.
            ProbeMode::Lag | ProbeMode::Exec => &[],
        }
    };
    let mut parts: Vec<Part> = modes.iter().flat_map(of_mode).copied().collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// A connection whose other side is who it should be: with TLS every handshake is whole, so that a certificate that has
/// expired since is seen.
pub(in crate::control) async fn dial(address: &Address, tls: Option<&tls::Client>) -> io::Result<Stream> {
    let stream = connect(address).await?;
    if let Stream::Tcp(socket) = &stream {
        socket.set_nodelay(true)?;
    }
    match tls {
        // A Unix socket to be probed at stays on this machine.
        Some(tls) if matches!(address, Address::Tcp(..)) => secure(stream, address, tls, tls.configs().probe).await,
        _ => Ok(stream),
    }
}

pub(in crate::control) fn append_command(bytes: &mut Vec<u8>, words: &[&str]) {
    let mut head = String::new();
    // Writing to a String cannot fail.
    let _ = write!(head, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(head, "${}\r\n{word}\r\n", word.len());
    }
    bytes.extend_from_slice(head.as_bytes());
}

/// Reads `count` replies; also says whether nothing came after them.
pub(in crate::control) async fn read_replies(
    socket: &mut Stream,
    count: usize,
) -> Result<(Vec<OwnedFrame>, bool), AskError> {
    let mut bytes = Vec::with_capacity(1024);
    let mut at = 0;
    let mut replies = Vec::with_capacity(count);
    loop {
        while replies.len() < count {
            let Some((reply, used)) = decode(&bytes[at..]).map_err(|_| AskError::Malformed)? else { break };
            at += used;
            replies.push(reply);
        }
        if replies.len() == count {
            return Ok((replies, at == bytes.len()));
        }
        match socket.read_buf(&mut bytes).await {
            Ok(0) => return Err(closed_after(&replies)),
            Err(_) if !replies.is_empty() => return Err(closed_after(&replies)),
            read => read?,
        };
        let aggregates = bytes.iter().filter(|byte| **byte == b'*').count();
        if bytes.len() > REPLY_BYTES_MAX || aggregates > AGGREGATES_MAX {
            return Err(AskError::Malformed);
        }
    }
}

/// A server that takes nobody in says why and closes: "max number of clients", "DENIED".
fn closed_after(replies: &[OwnedFrame]) -> AskError {
    match replies.first() {
        Some(OwnedFrame::Error(line)) => AskError::Refused(printable(line)),
        _ => AskError::Closed,
    }
}

fn meaning(part: Part, reply: &OwnedFrame, nonce: &str, must_be_master: bool) -> Meaning {
    match (part, reply) {
        (Part::Auth, OwnedFrame::Error(line)) => Meaning::Failed(format!("AUTH refused: {}", printable(line))),
        (Part::Hello, OwnedFrame::Array(fields)) => server_identity(fields).map_or(Meaning::Fine, Meaning::Server),
        // Servers before 6.0 do not know it, and managed ones may refuse it.
        (Part::Hello, _) => Meaning::Fine,
        (_, OwnedFrame::Error(line)) => meaning_of_error(part, &printable(line)),
        (Part::Auth, OwnedFrame::SimpleString(_)) | (Part::Write, OwnedFrame::Integer(_)) => Meaning::Fine,
        (Part::Ping, OwnedFrame::SimpleString(text)) if text == b"PONG" => Meaning::Fine,
        (Part::Echo, OwnedFrame::BulkString(text)) if text == nonce.as_bytes() => Meaning::Fine,
        (Part::Role, OwnedFrame::Array(fields)) => match fields.first().and_then(text_of) {
            Some(role) if must_be_master && role != "master" => Meaning::Cannot(format!("ROLE says {role}")),
            Some(role) => Meaning::Role(role),
            None => unexpected(part),
        },
        (Part::Auth | Part::Ping | Part::Role | Part::Write | Part::Echo, _) => unexpected(part),
    }
}

fn unexpected(part: Part) -> Meaning {
    Meaning::Failed(format!("unexpected reply to {}", part.name()))
}

/// The table of first words (contract of the health check).
fn meaning_of_error(part: Part, line: &str) -> Meaning {
    let weak = |what: &str| Meaning::Weak(format!("{} {what}: {line}", part.name()));
    match line.split(' ').next().unwrap_or_default() {
        "READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS" | "MISCONF" => Meaning::Cannot(line.to_owned()),
        "BUSY" => Meaning::Busy(line.to_owned()),
        "WRONGTYPE" => Meaning::Fine,
        "OOM" => weak("finds the server degraded"),
        "NOAUTH" | "WRONGPASS" => Meaning::Failed(format!("wrong credentials: {line}")),
        "DENIED" => Meaning::Failed(format!("refused: {line}")),
        _ if line.contains("max number of clients") => Meaning::Failed(format!("refused: {line}")),
        "MOVED" | "ASK" | "CLUSTERDOWN" => weak("finds a cluster configured as one server"),
        _ => weak("refused"),
    }
}

/// The worst meaning decides; what the server says of itself counts before what we merely failed to get.
fn verdict_of(meanings: Vec<Meaning>, server: Option<ServerIdentity>) -> ProbeVerdict {
    let (mut role, mut warning, mut cannot, mut busy, mut failed) = (None, None, None, None, None);
    for meaning in meanings {
        let (place, text) = match meaning {
            Meaning::Fine | Meaning::Server(_) => continue,
            Meaning::Role(text) => (&mut role, text),
            Meaning::Weak(text) => (&mut warning, text),
            Meaning::Cannot(text) => (&mut cannot, text),
            Meaning::Busy(text) => (&mut busy, text),
            Meaning::Failed(text) => (&mut failed, text),
        };
        place.get_or_insert(text);
    }
    match (cannot, failed, busy) {
        (Some(reply), _, _) => ProbeVerdict::CannotServe { reply },
        (None, Some(cause), _) => ProbeVerdict::Failed { cause, refused: false },
        (None, None, Some(reply)) => ProbeVerdict::Busy { reply },
        (None, None, None) => ProbeVerdict::Good { server, role, warning },
    }
}

fn server_of(meaning: &Meaning) -> Option<ServerIdentity> {
    match meaning {
        Meaning::Server(server) => Some(server.clone()),
        _ => None,
    }
}

/// HELLO answers pairs: `server`, its name, `version`, its version, and more.
fn server_identity(fields: &[OwnedFrame]) -> Option<ServerIdentity> {
    let value_of = |key: &str| {
        let mut pairs = fields.chunks_exact(2);
        pairs.find_map(|pair| text_of(&pair[0]).filter(|name| name == key).and_then(|_| text_of(&pair[1])))
    };
    Some(ServerIdentity { name: value_of("server")?, version: value_of("version")? })
}

fn text_of(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::BulkString(text) | OwnedFrame::SimpleString(text) => std::str::from_utf8(text).ok().map(printable),
        _ => None,
    }
}

/// A server's text as it may appear in a log.
pub(in crate::control) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendOverrides, Checks};
    use crate::logic::settings::ProbePolicy;
    use tokio::net::{TcpListener, TcpStream};

    fn error(line: &str) -> OwnedFrame {
        OwnedFrame::Error(line.into())
    }

    #[test]
    fn first_words_mean_what_the_table_says() {
        let cases = [
            ("READONLY You can't write against a read only replica.", "cannot"),
            ("LOADING Redis is loading the dataset in memory", "cannot"),
            ("MASTERDOWN Link with MASTER is down", "cannot"),
            ("NOREPLICAS Not enough good replicas to write.", "cannot"),
            ("MISCONF Redis is configured to save RDB snapshots", "cannot"),
            ("BUSY Redis is busy running a script.", "busy"),
            ("WRONGTYPE Operation against a key", "good"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "warning"),
            ("NOPERM User x has no permissions to run the 'setrange' command", "warning"),
            ("ERR unknown command 'SETRANGE'", "warning"),
            ("MOVED 1234 10.0.0.1:6379", "warning"),
            ("NOAUTH Authentication required.", "failed"),
            ("WRONGPASS invalid username-password pair", "failed"),
            ("DENIED Redis is running in protected mode", "failed"),
            ("ERR max number of clients reached", "failed"),
        ];
        for (line, expected) in cases {
            let verdict = verdict_of(vec![meaning(Part::Write, &error(line), "n", false)], None);
            let found = match verdict {
                ProbeVerdict::Good { warning: None, .. } => "good",
                ProbeVerdict::Good { warning: Some(_), .. } => "warning",
                ProbeVerdict::CannotServe { .. } => "cannot",
                ProbeVerdict::Busy { .. } => "busy",
                ProbeVerdict::Failed { .. } => "failed",
                ProbeVerdict::Void => "void",
            };
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn modes_choose_the_commands() {
        assert_eq!(parts_of(&[ProbeMode::Echo]), [Part::Echo]);
        assert_eq!(parts_of(&[ProbeMode::Role, ProbeMode::Ping]), [Part::Ping, Part::Role]);
        assert_eq!(parts_of(&[ProbeMode::Write, ProbeMode::Echo]), [Part::Ping, Part::Role, Part::Write, Part::Echo]);
    }

    #[test]
    fn a_replica_cannot_serve_only_where_the_role_is_asked_for() {
        let slave = OwnedFrame::Array(vec![OwnedFrame::BulkString(b"slave".to_vec())]);
        assert_eq!(meaning(Part::Role, &slave, "n", true), Meaning::Cannot("ROLE says slave".into()));
        assert_eq!(meaning(Part::Role, &slave, "n", false), Meaning::Role("slave".into()));
    }

    #[test]
    fn an_echo_must_come_back_exactly() {
        let echo = OwnedFrame::BulkString(b"other".to_vec());
        assert!(matches!(meaning(Part::Echo, &echo, "nonce", false), Meaning::Failed(_)));
    }

    fn checker(address: Address, credential: Option<Credential>) -> CommandCheck {
        let settings = HealthSettings {
            modes: vec![ProbeMode::Write],
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(500),
            jitter: 0.0,
            standby_interval: Duration::from_secs(2),
            accept_interval: Duration::from_secs(10),
            fall: 3,
            rise: 3,
            probes: 1,
            probes_delay: Duration::from_millis(100),
            policy: ProbePolicy::All,
            probe_key: "handover:probe".into(),
        };
        let backend = Backend {
            name: "a".into(),
            address,
            health_check_address: None,
            database: 0,
            credential,
            tls: None,
            weight: 1.0,
            connect_timeout: Duration::from_secs(5),
            checks: Checks::default(),
            overrides: BackendOverrides::default(),
        };
        CommandCheck::new(&backend, &settings, None)
    }

    /// A listener, and its address.
    async fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, Address::Tcp("127.0.0.1".into(), port))
    }

    /// Reads whole requests until the ECHO, and returns the bytes and the nonce.
    async fn read_round(socket: &mut TcpStream) -> (String, String) {
        let mut bytes = Vec::new();
        loop {
            socket.read_buf(&mut bytes).await.unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap();
            if let Some((_, rest)) = text.split_once("ECHO\r\n$25\r\n")
                && rest.len() == 27
            {
                return (text.clone(), rest[..25].to_owned());
            }
        }
    }

    async fn answer(socket: &mut TcpStream, before: &str) -> String {
        let (asked, nonce) = read_round(socket).await;
        let reply = format!("{before}+PONG\r\n*1\r\n$6\r\nmaster\r\n:0\r\n$25\r\n{nonce}\r\n");
        socket.write_all(reply.as_bytes()).await.unwrap();
        asked
    }

    #[tokio::test]
    async fn the_first_round_introduces_itself_and_the_connection_is_kept() {
        let (listener, address) = listener().await;
        let credential = Credential { username: Some("u".into()), password: "p".into() };
        let mut checker = checker(address, Some(credential));
        let hello = "+OK\r\n*4\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n$7\r\nversion\r\n$5\r\n8.1.1\r\n";
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            (answer(&mut socket, hello).await, answer(&mut socket, "").await)
        };
        let rounds = async { (checker.probe(false).await, checker.probe(false).await) };
        let ((first, second), (one, two)) = tokio::join!(server, rounds);
        assert!(
            first.starts_with("*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*1\r\n$5\r\nHELLO\r\n*1\r\n$4\r\nPING\r\n")
        );
        assert!(first.contains("*4\r\n$8\r\nSETRANGE\r\n$14\r\nhandover:probe\r\n$1\r\n0\r\n$0\r\n\r\n"));
        assert!(second.starts_with("*1\r\n$4\r\nPING\r\n"));
        let identity = ServerIdentity { name: "valkey".into(), version: "8.1.1".into() };
        let good = ProbeVerdict::Good { server: Some(identity), role: Some("master".into()), warning: None };
        assert_eq!((one, two), ((good.clone(), true), (good, false)));
    }

    #[tokio::test]
    async fn an_idle_connection_that_was_closed_is_replaced_in_the_same_round() {
        let (listener, address) = listener().await;
        let mut checker = checker(address, None);
        let unknown = "-ERR unknown command 'HELLO'\r\n";
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            answer(&mut socket, unknown).await;
            drop(socket);
            let (mut socket, _) = listener.accept().await.unwrap();
            answer(&mut socket, unknown).await;
        };
        let rounds = async { (checker.probe(false).await, checker.probe(false).await) };
        let ((), (one, two)) = tokio::join!(server, rounds);
        let good = ProbeVerdict::Good { server: None, role: Some("master".into()), warning: None };
        assert_eq!((one, two), ((good.clone(), true), (good, true)));
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_a_full_server_says_why() {
        let (closed, address) = listener().await;
        drop(closed);
        let (verdict, _) = checker(address, None).probe(false).await;
        assert!(matches!(verdict, ProbeVerdict::Failed { refused: true, .. }), "{verdict:?}");

        let (listener, address) = listener().await;
        let mut checker = checker(address, None);
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_round(&mut socket).await;
            socket.write_all(b"-ERR max number of clients reached\r\n").await.unwrap();
        };
        let (verdict, ()) = tokio::join!(checker.probe(false), server);
        let cause = "refused: ERR max number of clients reached".to_owned();
        assert_eq!(verdict, (ProbeVerdict::Failed { cause, refused: false }, true));
    }

    #[tokio::test]
    async fn hostile_replies_are_malformed() {
        for bytes in [b"*1\r\n".repeat(250), b"*1\r\n".repeat(5000), vec![b'+'; 70_000], b"?\r\n".to_vec()] {
            let (listener, address) = listener().await;
            let mut checker = checker(address, None);
            let server = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                read_round(&mut socket).await;
                // The other side may close before it has taken all of it.
                let _ = socket.write_all(&bytes).await;
            };
            let ((verdict, _), ()) = tokio::join!(checker.probe(false), server);
            let expected = if bytes.len() == 1000 { "connection closed by the server" } else { "malformed reply" };
            assert_eq!(verdict, ProbeVerdict::Failed { cause: expected.into(), refused: false });
        }
    }
}
