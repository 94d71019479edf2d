//! Listening sockets, TCP and Unix.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::{TcpListener, UnixListener, UnixStream, lookup_host};

use super::stream::Stream;
use crate::config::{Address, Listener};

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: u32 = 4096;

/// A bound socket.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {hint}")]
pub struct BindError {
    address: String,
    hint: String,
    #[source]
    source: io::Error,
}

impl BindError {
    fn new(address: &Address, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "the address is in use; stop what listens there or choose another".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "permission denied; ports below 1024 and foreign folders need rights".to_owned()
            }
            _ => source.to_string(),
        };
        Self { address: address.to_string(), hint, source }
    }
}

impl Bound {
    /// Binds every address that the listener's name has; a name like `localhost` may have several.
    ///
    /// # Errors
    /// The first address that could not be bound.
    pub async fn bind(listener: &Listener) -> Result<Vec<Self>, BindError> {
        let fail = |error| BindError::new(&listener.bind, error);
        match &listener.bind {
            Address::Tcp(host, port) => {
                let mut bound = Vec::new();
                for address in lookup_host((host.as_str(), *port)).await.map_err(fail)? {
                    bound.push(Self::Tcp(bind_tcp(address).map_err(fail)?));
                }
                Ok(bound)
            }
            Address::Unix(path) => Ok(vec![Self::Unix(bind_unix(path, listener.mode).await.map_err(fail)?)]),
        }
    }

    /// The address, for logs.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname()).unwrap_or(Path::new("?"));
                format!("unix://{}", path.display())
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// That one failed; the listener goes on.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` on one port is two listeners, not a conflict.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket file that nobody listens on was left by a process that died; one in use stays.
async fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
