//! Opening a backend connection: every address of its name is tried, then the handshake proves that it works.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes;
use redis_protocol::resp3::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::stream::Stream;
use super::tls::TlsStream;
use crate::config::{Address, Backend};
use crate::logic::health::ServerIdentity;
use crate::logic::identity::Login;
use crate::logic::multiplexer::{DialOutcome, Profile};
use crate::resp::encode::{self, Protocol};
use crate::resp::reply::{ReplyKind, ReplyScan, ReplyScanner, first_word};
use crate::tls;

/// Between two addresses of a name: the next is tried while the one before it has not answered (RFC 8305).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The most that the replies of a handshake take.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// The most aggregates in HELLO's reply.
const AGGREGATES_MAX: usize = 256;
/// Bytes that the kernel may keep unacknowledged before the connection is given up, in time.
const USER_TIMEOUT: Duration = Duration::from_secs(2);

/// A working connection, or why there is none.
pub type Dialled = (Option<Stream>, DialOutcome);

/// A backend, with what its handshakes need.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its certificates; there exactly if its connections use TLS.
    pub tls: Option<tls::Client>,
}

/// Connects to a backend and asks for what the profile says; all within the backend's connect timeout.
pub async fn dial(endpoint: &Endpoint, profile: Profile) -> Dialled {
    dial_as(endpoint, profile, None).await
}

/// The same, authenticated with `login` instead of the backend's own credential.
pub async fn dial_as(endpoint: &Endpoint, profile: Profile, login: Option<&Login>) -> Dialled {
    let backend = &*endpoint.backend;
    match timeout(backend.connect_timeout, connect_and_greet(endpoint, profile, login)).await {
        Ok(Ok(dialled)) => dialled,
        Ok(Err(error)) => (None, DialOutcome::Failed(error.to_string())),
        Err(_) => (None, DialOutcome::Failed(format!("no answer within {:?}", backend.connect_timeout))),
    }
}

async fn connect_and_greet(endpoint: &Endpoint, profile: Profile, login: Option<&Login>) -> io::Result<Dialled> {
    for asks_for_multi in [true, false] {
        let mut stream = connect(&endpoint.backend.address).await?;
        stream.set_options(USER_TIMEOUT);
        if let Some(tls) = &endpoint.tls {
            stream = secure(stream, &endpoint.backend.address, tls, tls.configs().data).await?;
        }
        // Only now is the other side who it should be: nothing of ours went out before.
        if let Some(outcome) = greet(&mut stream, &endpoint.backend, profile, login, asks_for_multi).await? {
            let works =
                matches!(outcome, DialOutcome::Ready { .. } | DialOutcome::Unproven { .. } | DialOutcome::Busy { .. });
            return Ok((works.then_some(stream), outcome));
        }
    }
    Err(io::Error::other("MULTI is permitted and EXEC is not"))
}

/// Connects without a handshake.
///
/// # Errors
/// None of the addresses could be connected to; the last one's error.
pub async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Address::Tcp(host, port) => {
            let addresses: Vec<SocketAddr> = lookup_host((host.as_str(), *port)).await?.take(ADDRESSES_MAX).collect();
            match addresses[..] {
                [address] => TcpStream::connect(address).await,
                _ => connect_first(addresses).await,
            }
            .map(Stream::Tcp)
        }
    }
}

/// Puts TLS over a TCP connection. The other side is verified when this returns.
///
/// # Errors
/// The connection broke, or the other side is not who it should be, in words for operators.
pub async fn secure(
    stream: Stream,
    address: &Address,
    tls: &tls::Client,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<Stream> {
    let (Stream::Tcp(socket), Address::Tcp(host, _)) = (stream, address) else {
        return Err(io::Error::other("TLS is for TCP only"));
    };
    let name = tls.server_name(host).map_err(io::Error::other)?;
    let stream = TlsStream::connect(socket, config, name).await?;
    if let Some(certificate) = stream.peer_certificate() {
        tls.saw(&certificate);
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// The first of several addresses that answers, each tried a little after the one before it or at once when that failed.
async fn connect_first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut addresses = addresses.into_iter();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let next = addresses.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(TcpStream::connect(address));
        }
        let patience = if is_last { Duration::MAX } else { NEXT_ADDRESS_DELAY };
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last_error = error,
            Ok(None) if is_last => return Err(last_error),
            Ok(Some(Err(_)) | None) | Err(_) => {}
        }
    }
}

/// One step of the handshake, in the order of its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Auth,
    Hello,
    Select,
    ClientId,
    Proof,
    Multi,
    Exec,
}

/// What came of the ECHO that proves a connection.
#[derive(Clone, Copy)]
enum Proof {
    Given,
    Forbidden,
    Busy,
}

/// AUTH, HELLO, SELECT as the profile wants, CLIENT ID, an ECHO that proves that replies come in step, and an empty
/// transaction that shows whether one may travel unawaited. None: it was left open, and the connection is of no use.
async fn greet(
    stream: &mut Stream,
    backend: &Backend,
    profile: Profile,
    login: Option<&Login>,
    asks_for_multi: bool,
) -> io::Result<Option<DialOutcome>> {
    let nonce = format!("handover:{:016x}", fastrand::u64(..));
    let (request, steps) = handshake(backend, profile, login, &nonce, asks_for_multi);
    write_all(stream, &request).await?;
    let mut replies = BytesMut::new();
    let (mut server, mut client_id, mut proof) = (None, None, Proof::Given);
    let (mut opens, mut takes_groups) = (false, false);
    for step in steps {
        let (reply, kind) = read_reply(stream, &mut replies).await?;
        let is_error = kind == ReplyKind::Error;
        match step {
            Step::Auth if is_error && login.is_some() && is_refused_login(&reply) => {
                return Ok(Some(DialOutcome::RefusedIdentity(reply)));
            }
            Step::Auth if is_error => return Err(refused("AUTH", &reply)),
            Step::Hello if is_error && profile.protocol == Protocol::Resp3 => {
                return match first_word(&reply) {
                    b"NOPROTO" => Ok(Some(DialOutcome::RefusedProtocol(reply))),
                    b"ERR" if line_of(&reply).contains("unknown command") => {
                        Ok(Some(DialOutcome::RefusedProtocol(reply)))
                    }
                    _ => Err(refused("HELLO 3", &reply)),
                };
            }
            Step::Hello if !is_error => server = server_identity(&reply),
            Step::Select if is_error && first_word(&reply) == b"ERR" => {
                return Ok(Some(DialOutcome::RefusedDatabase(reply)));
            }
            Step::Select if is_error && login.is_some() && profile.database.is_some() => {
                return Ok(Some(DialOutcome::RefusedSelect(reply)));
            }
            Step::Select if is_error => return Err(refused("SELECT", &reply)),
            Step::ClientId if !is_error => client_id = parse_integer(&reply),
            Step::Proof if first_word(&reply) == b"NOPERM" => proof = Proof::Forbidden,
            Step::Proof if first_word(&reply) == b"BUSY" => proof = Proof::Busy,
            Step::Proof => prove(&reply, &nonce)?,
            Step::Multi => opens = &reply[..] == b"+OK\r\n",
            Step::Exec if opens && is_error => return Ok(None),
            Step::Exec => takes_groups = opens && &reply[..] == b"*0\r\n",
            Step::Auth | Step::Hello | Step::Select | Step::ClientId => {}
        }
    }
    if !replies.is_empty() {
        return Err(io::Error::other("more replies than requests in the handshake"));
    }
    Ok(Some(match proof {
        Proof::Given => DialOutcome::Ready { client_id, server, takes_groups },
        Proof::Forbidden => DialOutcome::Unproven { client_id, server },
        Proof::Busy => DialOutcome::Busy { client_id, server },
    }))
}

/// Whether a refused AUTH speaks of the user and its password, rather than of the server's own trouble.
fn is_refused_login(reply: &[u8]) -> bool {
    match first_word(reply) {
        b"WRONGPASS" | b"NOPERM" | b"NOAUTH" => true,
        // Servers before ACLs, and those without any password.
        b"ERR" => ["password", "for 'auth'"].iter().any(|part| line_of(reply).contains(part)),
        _ => false,
    }
}

fn handshake(
    backend: &Backend,
    profile: Profile,
    login: Option<&Login>,
    nonce: &str,
    asks_for_multi: bool,
) -> (BytesMut, Vec<Step>) {
    let mut request = BytesMut::new();
    let mut steps = Vec::new();
    if let Some(Login { user, password }) = login {
        let words = [&b"AUTH"[..]].into_iter().chain(user.as_deref()).chain([password.expose()]);
        encode::request(&mut request, &words.collect::<Vec<_>>());
        steps.push(Step::Auth);
    } else if let Some(credential) = &backend.credential {
        match &credential.username {
            Some(username) => encode::request(&mut request, &["AUTH", username, &credential.password]),
            None => encode::request(&mut request, &["AUTH", &credential.password]),
        }
        steps.push(Step::Auth);
    }
    // Without an argument HELLO changes nothing and tells the server's name and version.
    match profile.protocol {
        Protocol::Resp2 => encode::request(&mut request, &["HELLO"]),
        Protocol::Resp3 => encode::request(&mut request, &["HELLO", "3"]),
    }
    steps.push(Step::Hello);
    let database = profile.database.unwrap_or(backend.database);
    if database != 0 {
        encode::request(&mut request, &["SELECT", &database.to_string()]);
        steps.push(Step::Select);
    }
    encode::request(&mut request, &["CLIENT", "ID"]);
    encode::request(&mut request, &["ECHO", nonce]);
    steps.extend([Step::ClientId, Step::Proof]);
    if asks_for_multi {
        encode::request(&mut request, &["MULTI"]);
        encode::request(&mut request, &["EXEC"]);
        steps.extend([Step::Multi, Step::Exec]);
    }
    (request, steps)
}

fn refused(what: &str, reply: &[u8]) -> io::Error {
    io::Error::other(format!("{what} was refused: {}", line_of(reply)))
}

/// The first line of a reply, for people.
fn line_of(reply: &[u8]) -> String {
    let end = memchr::memchr(b'\r', reply).unwrap_or(reply.len()).min(200);
    String::from_utf8_lossy(&reply[..end]).trim_start_matches('-').to_owned()
}

fn prove(reply: &[u8], nonce: &str) -> io::Result<()> {
    let mut expected = BytesMut::new();
    encode::bulk(&mut expected, nonce.as_bytes());
    if reply == &expected[..] { Ok(()) } else { Err(refused("ECHO", reply)) }
}

fn parse_integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}

/// The name and version in HELLO's reply, a map or an array of pairs.
fn server_identity(reply: &Bytes) -> Option<ServerIdentity> {
    // The decoder recurses: depth must have a bound.
    if reply.iter().filter(|byte| matches!(byte, b'*' | b'%' | b'~' | b'>' | b'|')).count() > AGGREGATES_MAX {
        return None;
    }
    let (frame, _) = decode_bytes(reply).ok()??;
    let text = |frame: &BytesFrame| match frame {
        BytesFrame::BlobString { data, .. } | BytesFrame::SimpleString { data, .. } => {
            Some(String::from_utf8_lossy(data).into_owned())
        }
        _ => None,
    };
    let pairs: Vec<(String, String)> = match &frame {
        BytesFrame::Map { data, .. } => {
            data.iter().filter_map(|(key, value)| Some((text(key)?, text(value)?))).collect()
        }
        BytesFrame::Array { data, .. } => {
            data.chunks(2).filter_map(|pair| Some((text(pair.first()?)?, text(pair.get(1)?)?))).collect()
        }
        _ => return None,
    };
    let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Some(ServerIdentity { name: find("server")?, version: find("version")? })
}

/// Writes all of `bytes`.
///
/// # Errors
/// The connection broke.
pub async fn write_all(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The next whole reply. What a server says before it is asked (`-DENIED …`, `-ERR max number of clients …`) is read
/// as the first reply here, and as a failure by whoever reads it.
///
/// # Errors
/// The connection broke or ended, or what came is no RESP.
pub async fn read_reply(stream: &mut Stream, buffer: &mut BytesMut) -> io::Result<(Bytes, ReplyKind)> {
    loop {
        match ReplyScanner::new().scan(buffer) {
            ReplyScan::Complete { bytes, kind } if !buffer.is_empty() => {
                return Ok((buffer.split_to(bytes).freeze(), kind));
            }
            ReplyScan::Invalid(reason) => {
                return Err(io::Error::other(format!("the server does not speak RESP: {reason}")));
            }
            ReplyScan::Complete { .. } | ReplyScan::Incomplete { .. } => {}
        }
        if buffer.len() > HANDSHAKE_BYTES_MAX {
            return Err(io::Error::other("the handshake's replies are too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server during the handshake"));
        }
    }
}
