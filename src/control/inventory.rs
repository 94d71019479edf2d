//! What a backend is, asked on a connection of its own: for the comparison of a group's backends, and for
//! `check --probe`. Also loads libraries of functions.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::now;
use crate::channels::{BackendId, Observation};
use crate::config::{Address, Backend, Parity};
use crate::logic::parity::{Inventory, Library, missing};
use crate::net::dial::{connect, secure};
use crate::net::stream::Stream;
use crate::resp::encode;
use crate::resp::reply::{ReplyScan, ReplyScanner};
use crate::tls;

/// For all questions, once connected.
const QUESTIONS_MAX: Duration = Duration::from_secs(5);
/// The most that one reply may take: that with the libraries of functions.
const REPLY_BYTES_MAX: usize = 2 << 20;
/// The most code of libraries that is kept of one backend.
const CODE_BYTES_MAX: usize = 1 << 20;
/// How deep a reply that says something may be.
const DEPTH_MAX: u32 = 8;
/// The most of an error that is repeated.
const TEXT_CHARS_MAX: usize = 200;
/// Until a backend that could not be asked is asked again, and until the first time after the start. The same between
/// two looks at libraries that may have to be loaded elsewhere.
const SOON: Duration = Duration::from_secs(60);

/// What Handover needs to be allowed beside PING: each is tried, and changes nothing.
const RIGHTS: [&[&str]; 7] = [
    &["ECHO", "handover"],
    &["ROLE"],
    &["CLIENT", "ID"],
    &["CLIENT", "UNBLOCK", "0"],
    &["MULTI"],
    &["EXEC"],
    &["HELLO"],
];

/// What a look at a backend found.
#[derive(Clone, Debug)]
pub struct Look {
    /// What it is.
    pub inventory: Inventory,
    /// Until it was connected, TLS and AUTH included.
    pub connected: Duration,
    /// Of one PING.
    pub round_trip: Duration,
}

/// Connects and asks for everything.
///
/// # Errors
/// It cannot be reached or will not be asked, in words.
pub async fn look(backend: &Backend, probe_key: &str, tls: Option<&tls::Client>) -> Result<Look, String> {
    let started = now();
    let mut peer = Peer::connect(backend, tls).await?;
    let connected = now().saturating_duration_since(started);
    let started = now();
    let pong = peer.within(&["PING"]).await?;
    let round_trip = now().saturating_duration_since(started);
    let questions = async {
        let mut inventory = peer.inventory(probe_key).await?;
        if matches!(&pong, Reply::Error(line) if line.starts_with("NOPERM")) {
            inventory.rights_missing.insert("PING".to_owned());
        }
        Ok(inventory)
    };
    let asked: io::Result<Inventory> = timeout(QUESTIONS_MAX, questions).await.unwrap_or_else(|_| Err(late()));
    let inventory = asked.map_err(|error| error.to_string())?;
    Ok(Look { inventory, connected, round_trip })
}

/// Loads what `wanted` has and the backend lacks, over libraries of the same name. Returns the names of those loaded.
async fn load(backend: &Backend, tls: Option<&tls::Client>, wanted: &[Library]) -> Result<Vec<String>, String> {
    let mut peer = Peer::connect(backend, tls).await?;
    let there = match peer.within(&["FUNCTION", "LIST", "WITHCODE"]).await? {
        Reply::Error(line) => return Err(format!("FUNCTION LIST refused: {line}")),
        reply => libraries(&reply).ok_or("its libraries are more than is read")?,
    };
    let mut loaded = Vec::new();
    for library in missing(wanted, &there) {
        match peer.within(&["FUNCTION", "LOAD", "REPLACE", &library.code]).await? {
            Reply::Error(line) => return Err(format!("FUNCTION LOAD of {} refused: {line}", library.name)),
            _ => loaded.push(library.name.clone()),
        }
    }
    Ok(loaded)
}

/// Libraries of functions that the active before had, for the one that is active now.
#[derive(Clone, Debug, Default)]
pub(super) struct Bequest {
    pub(super) to: Option<BackendId>,
    pub(super) libraries: Arc<Vec<Library>>,
}

/// Looks at one backend again and again, and loads libraries on it when it became the active.
pub(super) struct Watch {
    pub(super) id: BackendId,
    pub(super) group: String,
    pub(super) backend: Backend,
    pub(super) probe_key: String,
    pub(super) tls: Option<tls::Client>,
    pub(super) settings: Parity,
    pub(super) bequests: watch::Receiver<Bequest>,
}

impl Watch {
    /// Ends when nobody wants to know any more.
    pub(super) async fn run(mut self, observations: &mpsc::Sender<Observation>) {
        let soon = self.settings.interval.min(SOON);
        let pace = if self.settings.loads_functions { soon } else { self.settings.interval };
        let mut due = now() + soon;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                changed = self.bequests.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !self.take_over().await {
                        continue;
                    }
                }
            }
            let looked = look(&self.backend, &self.probe_key, self.tls.as_ref()).await;
            let wait = if looked.is_ok() { pace } else { soon };
            // Many Handovers do not ask together.
            due = now() + wait.mul_f64(0.9 + 0.2 * fastrand::f64());
            let Ok(Look { inventory, .. }) = looked else { continue };
            let observation = Observation::Inventory { backend: self.id, inventory: Box::new(inventory) };
            if observations.send(observation).await.is_err() {
                return;
            }
        }
    }

    /// Says whether this backend is the one that inherits.
    async fn take_over(&mut self) -> bool {
        let Bequest { to, libraries } = self.bequests.borrow_and_update().clone();
        if to != Some(self.id) || libraries.is_empty() {
            return false;
        }
        let (group, backend) = (self.group.as_str(), self.backend.name.as_str());
        match load(&self.backend, self.tls.as_ref(), &libraries).await {
            Ok(loaded) if loaded.is_empty() => {}
            Ok(loaded) => {
                let libraries = loaded.join(", ");
                tracing::info!(group, backend, libraries, "libraries of functions were loaded on the new active");
            }
            Err(cause) => {
                tracing::warn!(group, backend, cause, "libraries of functions were not loaded on the new active");
            }
        }
        true
    }
}

/// A reply, as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    List(Vec<Reply>),
    Nil,
}

struct Peer {
    stream: Stream,
    buffer: BytesMut,
}

impl Peer {
    async fn connect(backend: &Backend, tls: Option<&tls::Client>) -> Result<Self, String> {
        let opening = async {
            let mut stream = connect(&backend.address).await?;
            if let (Some(tls), Address::Tcp(..)) = (tls, &backend.address) {
                stream = secure(stream, &backend.address, tls, tls.configs().probe).await?;
            }
            let mut peer = Self { stream, buffer: BytesMut::new() };
            if let Some(credential) = &backend.credential {
                let user = credential.username.as_deref();
                let words = ["AUTH"].into_iter().chain(user).chain([credential.password.as_str()]);
                if let Reply::Error(line) = peer.ask(&words.collect::<Vec<_>>()).await? {
                    return Err(io::Error::other(format!("AUTH refused: {line}")));
                }
            }
            Ok(peer)
        };
        let opened = timeout(backend.connect_timeout, opening).await.unwrap_or_else(|_| Err(late()));
        opened.map_err(|error| format!("cannot be reached: {error}"))
    }

    async fn within(&mut self, words: &[&str]) -> Result<Reply, String> {
        let asked = timeout(QUESTIONS_MAX, self.ask(words)).await.unwrap_or_else(|_| Err(late()));
        asked.map_err(|error| format!("{}: {error}", words[0]))
    }

    async fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        let mut request = BytesMut::new();
        encode::request(&mut request, words);
        self.stream.write_all(&request).await?;
        self.stream.flush().await?;
        loop {
            match ReplyScanner::new().scan(&self.buffer) {
                ReplyScan::Complete { bytes, .. } if !self.buffer.is_empty() => {
                    let reply = self.buffer.split_to(bytes);
                    return parse(&reply, 0).map(|(reply, _)| reply).ok_or_else(|| io::Error::other("malformed reply"));
                }
                ReplyScan::Invalid(reason) => return Err(io::Error::other(format!("no RESP: {reason}"))),
                ReplyScan::Complete { .. } | ReplyScan::Incomplete { .. } => {}
            }
            if self.buffer.len() > REPLY_BYTES_MAX {
                return Err(io::Error::other(format!("a reply of more than {REPLY_BYTES_MAX} bytes")));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
            }
        }
    }

    async fn inventory(&mut self, probe_key: &str) -> io::Result<Inventory> {
        let mut inventory = Inventory::default();
        for words in RIGHTS.into_iter().chain([&["SETRANGE", probe_key, "0", ""][..]]) {
            if matches!(self.ask(words).await?, Reply::Error(line) if line.starts_with("NOPERM")) {
                let words = if words[0] == "CLIENT" { &words[..2] } else { &words[..1] };
                inventory.rights_missing.insert(words.join(" "));
            }
        }
        if let Reply::Text(info) = self.ask(&["INFO"]).await? {
            read_info(&info, &mut inventory);
        }
        inventory.databases = self.setting("databases").await?;
        inventory.maxmemory_policy = self.setting("maxmemory-policy").await?;
        inventory.modules = modules(&self.ask(&["MODULE", "LIST"]).await?);
        // The longest comes last: one that is too long leaves the others known.
        inventory.libraries = match self.ask(&["FUNCTION", "LIST", "WITHCODE"]).await {
            Ok(reply) => libraries(&reply),
            Err(_) => None,
        };
        Ok(inventory)
    }

    async fn setting(&mut self, name: &str) -> io::Result<Option<String>> {
        Ok(match self.ask(&["CONFIG", "GET", name]).await? {
            Reply::List(pair) => match pair.as_slice() {
                [_, Reply::Text(value)] => Some(value.clone()),
                _ => None,
            },
            _ => None,
        })
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// A whole reply in RESP2, and what comes after it. `None`: another protocol, or too deep.
fn parse(bytes: &[u8], depth: u32) -> Option<(Reply, &[u8])> {
    let end = memchr::memchr(b'\r', bytes)?;
    let line = std::str::from_utf8(bytes.get(1..end)?).ok()?;
    let rest = bytes.get(end + 2..)?;
    match bytes[0] {
        b'+' => Some((Reply::Text(line.to_owned()), rest)),
        b'-' => Some((Reply::Error(printable(line)), rest)),
        b':' => Some((Reply::Number(line.parse().ok()?), rest)),
        b'$' | b'*' if line == "-1" => Some((Reply::Nil, rest)),
        b'$' => {
            let length: usize = line.parse().ok()?;
            Some((Reply::Text(String::from_utf8_lossy(rest.get(..length)?).into_owned()), rest.get(length + 2..)?))
        }
        b'*' if depth < DEPTH_MAX => {
            let count: usize = line.parse().ok()?;
            let (mut items, mut rest) = (Vec::new(), rest);
            for _ in 0..count {
                let (item, after) = parse(rest, depth + 1)?;
                items.push(item);
                rest = after;
            }
            Some((Reply::List(items), rest))
        }
        _ => None,
    }
}

fn read_info(info: &str, into: &mut Inventory) {
    let fields: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let field = |name: &str| fields.get(name).map(|value| printable(value.trim()));
    // Valkey tells the version of Redis that it is compatible with, too.
    into.version = match (field("valkey_version"), field("redis_version")) {
        (Some(version), _) => Some(format!("valkey {version}")),
        (None, version) => version.map(|version| format!("redis {version}")),
    };
    into.role = field("role");
    into.replicas = field("connected_slaves").and_then(|count| count.parse().ok());
    into.has_append_only_file = field("aof_enabled").map(|enabled| enabled == "1");
}

/// The text behind `key` in a list of pairs.
fn behind<'a>(pairs: &'a Reply, key: &str) -> Option<&'a Reply> {
    let Reply::List(items) = pairs else { return None };
    items.chunks_exact(2).find(|pair| matches!(&pair[0], Reply::Text(name) if name == key)).map(|pair| &pair[1])
}

fn modules(reply: &Reply) -> Option<BTreeMap<String, String>> {
    let Reply::List(modules) = reply else { return None };
    let module = |module: &Reply| {
        let Reply::Text(name) = behind(module, "name")? else { return None };
        let version = match behind(module, "ver") {
            Some(Reply::Number(version)) => version.to_string(),
            _ => "?".to_owned(),
        };
        Some((printable(name), version))
    };
    Some(modules.iter().filter_map(module).collect())
}

/// `None`: it has none to tell of, as servers before 7.0, or more than is kept.
fn libraries(reply: &Reply) -> Option<Vec<Library>> {
    let Reply::List(libraries) = reply else { return None };
    let library = |library: &Reply| match (behind(library, "library_name")?, behind(library, "library_code")?) {
        (Reply::Text(name), Reply::Text(code)) => Some(Library { name: printable(name), code: code.clone() }),
        _ => None,
    };
    let read: Option<Vec<Library>> = libraries.iter().map(library).collect();
    read.filter(|libraries| libraries.iter().map(|library| library.code.len()).sum::<usize>() <= CODE_BYTES_MAX)
}

/// A server's text as it may appear in a log.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_read() {
        let mut inventory = Inventory::default();
        read_info(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\nrole:master\r\nconnected_slaves:2\r\naof_enabled:1\r\n",
            &mut inventory,
        );
        assert_eq!(inventory.version.as_deref(), Some("valkey 8.1.1"));
        assert_eq!((inventory.replicas, inventory.has_append_only_file), (Some(2), Some(true)));
        let list = b"*1\r\n*6\r\n$12\r\nlibrary_name\r\n$1\r\na\r\n$9\r\nfunctions\r\n*0\r\n$12\r\nlibrary_code\r\n$4\r\n2 *\n\r\n";
        let (reply, rest) = parse(list, 0).unwrap();
        assert_eq!(libraries(&reply), Some(vec![Library { name: "a".into(), code: "2 *\n".into() }]));
        assert_eq!(rest, b"");
        let modules_reply = b"*1\r\n*4\r\n$4\r\nname\r\n$4\r\njson\r\n$3\r\nver\r\n:20600\r\n";
        assert_eq!(modules(&parse(modules_reply, 0).unwrap().0), Some([("json".into(), "20600".into())].into()));
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        for bytes in [&b"*1\r\n".repeat(2000)[..], b"%1\r\n+a\r\n+b\r\n", b"$5\r\nab\r\n", b"*9\r\n", b""] {
            assert_eq!(parse(bytes, 0), None);
        }
        let error = parse(b"-ERR unknown command\r\n", 0).unwrap().0;
        assert_eq!((libraries(&error), modules(&error)), (None, None));
        let code = "x".repeat(CODE_BYTES_MAX + 1);
        let text = |text: &str| Reply::Text(text.to_owned());
        let library = Reply::List(vec![text("library_name"), text("a"), text("library_code"), text(&code)]);
        assert_eq!(libraries(&Reply::List(vec![library])), None);
    }
}
