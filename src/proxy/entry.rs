//! What a client passes before its first command: the PROXY header, then TLS, both within one short time.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tracing::debug;

use super::hub::Hub;
use crate::config::Network;
use crate::net::proxy_header::{self, Origin, Scan};
use crate::net::stream::Stream;
use crate::net::tls::TlsStream;
use crate::telemetry::counters::EntryRefusal;
use crate::tls;

/// For the PROXY header and the TLS handshake together; then the connection is closed.
const ENTRY_MAX: Duration = Duration::from_secs(5);

/// The client's address and the one that it connected to.
type Addresses = Option<(String, String)>;

/// What a listener asks of its clients.
#[derive(Debug, Default)]
pub struct Entry {
    /// Its clients have a backend connection each.
    pub dedicated: bool,
    /// Every connection begins with a PROXY header and comes from one of these networks.
    pub proxy_sources: Option<Vec<Network>>,
    /// Every connection uses TLS.
    pub tls: Option<tls::Server>,
}

/// Why a client did not pass.
#[derive(Debug)]
pub(super) enum Refused {
    /// It ended the connection, having sent nothing: a port scan, or a balancer that looks whether somebody listens.
    Gone,
    Source,
    Header(&'static str),
    NoTls,
    Tls(io::Error),
    Late,
}

impl Refused {
    pub(super) fn reason(&self) -> EntryRefusal {
        match self {
            Self::Gone => EntryRefusal::Gone,
            Self::Source => EntryRefusal::ProxySource,
            Self::Header(_) => EntryRefusal::ProxyHeader,
            Self::NoTls => EntryRefusal::NoTls,
            Self::Tls(_) => EntryRefusal::Tls,
            Self::Late => EntryRefusal::Late,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => formatter.write_str("it ended the connection"),
            Self::Source => formatter.write_str("its address is not in proxy_sources"),
            Self::Header(problem) => write!(formatter, "its PROXY header is {problem}"),
            Self::NoTls => formatter.write_str("it speaks without TLS to a TLS listener"),
            Self::Tls(error) => error.fmt(formatter),
            Self::Late => write!(formatter, "the handshake took more than {} s", ENTRY_MAX.as_secs()),
        }
    }
}

impl Entry {
    /// Clients are served from their first byte on.
    pub(super) const fn asks_for_nothing(&self) -> bool {
        self.proxy_sources.is_none() && self.tls.is_none()
    }

    /// Lets a client in, or counts and tells why not.
    pub(super) async fn pass(&self, hub: &Rc<Hub>, stream: Stream) -> Option<(Stream, Addresses)> {
        let Stream::Tcp(socket) = &stream else { return Some((stream, None)) };
        let peer = socket.peer_addr().ok()?;
        let stopping = hub.lifecycle.stopping();
        let passed = tokio::select! {
            () = stopping.cancelled() => return None,
            passed = tokio::time::timeout(ENTRY_MAX, self.examine(stream, peer)) => passed.unwrap_or(Err(Refused::Late)),
        };
        match passed {
            Ok(passed) => Some(passed),
            Err(refused) => {
                hub.refuse_entry(&refused, peer);
                None
            }
        }
    }

    async fn examine(&self, mut stream: Stream, peer: SocketAddr) -> Result<(Stream, Addresses), Refused> {
        let mut addresses = None;
        if let Some(sources) = &self.proxy_sources {
            if !sources.iter().any(|network| network.contains(peer.ip())) {
                return Err(Refused::Source);
            }
            addresses = match read_header(&mut stream).await? {
                Origin::Sender => None,
                Origin::Client { source, destination } => Some((shown(source), shown(destination))),
            };
        }
        if let Some(tls) = &self.tls {
            stream = secure(stream, tls).await?;
        }
        debug!(%peer, client = addresses.as_ref().map(|(client, _)| client.as_str()), "a client entered");
        Ok((stream, addresses))
    }
}

/// An IPv4 client that a balancer saw on an IPv6 socket is an IPv4 client.
fn shown(address: SocketAddr) -> String {
    SocketAddr::new(IpAddr::to_canonical(&address.ip()), address.port()).to_string()
}

/// Reads the header, and not a byte of what follows it.
async fn read_header(stream: &mut Stream) -> Result<Origin, Refused> {
    let mut bytes = Vec::new();
    loop {
        match proxy_header::scan(&bytes) {
            Scan::Complete(origin) => return Ok(origin),
            Scan::Invalid(problem) => return Err(Refused::Header(problem)),
            Scan::Incomplete(more) => {
                let from = bytes.len();
                bytes.resize(from + more, 0);
                match stream.read(&mut bytes[from..]).await {
                    Ok(0) | Err(_) if from == 0 => return Err(Refused::Gone),
                    Ok(0) | Err(_) => return Err(Refused::Header("cut off")),
                    Ok(read) => bytes.truncate(from + read),
                }
            }
        }
    }
}

async fn secure(stream: Stream, tls: &tls::Server) -> Result<Stream, Refused> {
    let Stream::Tcp(socket) = stream else { return Ok(stream) };
    match TlsStream::accept(socket, tls.config()).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::InvalidInput => Refused::NoTls,
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => Refused::Gone,
            _ => Refused::Tls(error),
        }),
    }
}
