//! Certificates: files made into what a handshake needs, kept fresh while the files change, and errors in words.
//!
//! There is no mode without verification. Whoever cannot be verified gets no byte, so no password either.

mod certificate;
mod keeper;
mod load;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::sync::watch;

pub use certificate::{date, validity};
pub use keeper::Keeper;
pub use load::{FileProblem, Loaded};
pub use words::explain;

/// Whether clients of a listener must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked for one.
    #[default]
    None,
    /// They may; a wrong one is refused.
    Optional,
    /// They must.
    Required,
}

/// The files of a TLS listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate and what leads up to the authority, PEM.
    pub cert: PathBuf,
    /// The certificate's key, PEM.
    pub key: PathBuf,
    /// The authorities of clients' certificates, PEM; there unless `client_auth` is `None`.
    pub ca: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
}

impl ServerFiles {
    /// Reads the files once.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(&self) -> Result<Loaded<Arc<rustls::ServerConfig>>, FileProblem> {
        load::server(self, &load::contents(load::server_paths(self)))
    }
}

/// The files with which a backend is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities that may have signed the server's certificate, PEM; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Reads the files once.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(&self) -> Result<Loaded<ClientConfigs>, FileProblem> {
        load::client(self, &load::contents(load::client_paths(self)))
    }
}

/// The two ways of one backend.
#[derive(Clone, Debug)]
pub struct ClientConfigs {
    /// For the data path: a handshake may resume an earlier one.
    pub data: Arc<rustls::ClientConfig>,
    /// For probes: each handshake is whole, so that a certificate that has expired since is seen.
    pub probe: Arc<rustls::ClientConfig>,
}

/// What a listener needs for a handshake: always the newest certificates.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) config: watch::Receiver<Arc<rustls::ServerConfig>>,
}

impl Server {
    /// What is in force now.
    #[must_use]
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.borrow().clone()
    }
}

/// What a connection to a backend needs for a handshake: always the newest certificates.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) configs: watch::Receiver<ClientConfigs>,
    /// Expected in the server's certificate instead of the host of its address.
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) facts: Arc<Facts>,
}

impl Client {
    /// What is in force now.
    #[must_use]
    pub fn configs(&self) -> ClientConfigs {
        self.configs.borrow().clone()
    }

    /// The name that the server's certificate must have.
    ///
    /// # Errors
    /// The host is neither a DNS name nor an address.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, String> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| format!("{host:?} is no name that a certificate can have: set tls.server_name")),
        }
    }

    /// Notes the certificate that the server showed.
    pub fn saw(&self, certificate: &CertificateDer<'_>) {
        if let Some((_, not_after)) = validity(certificate) {
            self.facts.peer_not_after.store(not_after, Relaxed);
        }
    }
}

/// Whose certificates they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A listener, by its address.
    Listener(String),
    /// A backend, by its name.
    Backend(String),
    /// The webhook, by its address.
    Webhook(String),
}

/// What is known of the certificates of one owner. Written by the keeper and the probes, read by a scrape.
#[derive(Debug)]
pub struct Facts {
    /// Whose.
    pub owner: Owner,
    /// The end of our own certificate's time, in seconds since 1970; 0: there is none.
    own_not_after: AtomicI64,
    /// The end of the server's certificate's time, in seconds since 1970; 0: none was seen.
    peer_not_after: AtomicI64,
    /// New files that were put in force.
    reloads: AtomicU64,
    /// New files that could not be used.
    failures: AtomicU64,
}

impl Facts {
    fn new(owner: Owner, own_not_after: i64) -> Arc<Self> {
        Arc::new(Self {
            owner,
            own_not_after: own_not_after.into(),
            peer_not_after: 0.into(),
            reloads: 0.into(),
            failures: 0.into(),
        })
    }

    /// When our own certificate expires, in seconds since 1970.
    #[must_use]
    pub fn own_not_after(&self) -> Option<i64> {
        Some(self.own_not_after.load(Relaxed)).filter(|&at| at != 0)
    }

    /// When the certificate that the server last showed expires, in seconds since 1970.
    #[must_use]
    pub fn peer_not_after(&self) -> Option<i64> {
        Some(self.peer_not_after.load(Relaxed)).filter(|&at| at != 0)
    }

    /// New files since the start: put in force, and unusable.
    #[must_use]
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Relaxed), self.failures.load(Relaxed))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listener(address) => write!(formatter, "listener {address}"),
            Self::Backend(name) => write!(formatter, "backend {name}"),
            Self::Webhook(address) => write!(formatter, "webhook {address}"),
        }
    }
}
