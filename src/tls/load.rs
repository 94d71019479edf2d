//! From files to what a handshake needs. What is compared at a reload is exactly what is loaded.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{ClientAuth, ClientConfigs, ClientFiles, ServerFiles, validity, words};
use crate::files;

/// A key of a `tls` table.
pub(super) type Key = &'static str;

const CERT: Key = "cert";
const KEY: Key = "key";
const CA: Key = "ca";

/// What files hold, or why they cannot be read.
pub(super) type Contents = Vec<(Key, PathBuf, Result<Vec<u8>, String>)>;

/// What came of files.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// For handshakes.
    pub config: T,
    /// When our own certificate expires, in seconds since 1970; 0 if there is none.
    pub not_after: i64,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The key of the `tls` table: `cert`, `key` or `ca`.
    pub key: &'static str,
    /// The file; `None`: the system's authorities.
    pub path: Option<PathBuf>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(formatter, "tls.{} ({}) {}", self.key, path.display(), self.message),
            None => write!(formatter, "tls.{} {}", self.key, self.message),
        }
    }
}

pub(super) fn server_paths(files: &ServerFiles) -> Vec<(Key, &Path)> {
    let ca = files.ca.as_deref().map(|path| (CA, path));
    [(CERT, files.cert.as_path()), (KEY, &files.key)].into_iter().chain(ca).collect()
}

pub(super) fn client_paths(files: &ClientFiles) -> Vec<(Key, &Path)> {
    let ca = files.ca.as_deref().map(|path| (CA, path));
    let identity = files.identity.iter().flat_map(|(cert, key)| [(CERT, cert.as_path()), (KEY, key)]);
    ca.into_iter().chain(identity).collect()
}

pub(super) fn contents(paths: Vec<(Key, &Path)>) -> Contents {
    let read = |path: &Path| files::read(path).map_err(|error| format!("cannot be read: {error}"));
    paths.into_iter().map(|(key, path)| (key, path.to_owned(), read(path))).collect()
}

pub(super) fn server(files: &ServerFiles, from: &Contents) -> Result<Loaded<Arc<ServerConfig>>, FileProblem> {
    let (chain, not_after) = chain(from)?;
    let key = private_key(from)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| problem(from, CERT, error.to_string()))?;
    let builder = match files.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional => builder.with_client_cert_verifier(verifier(from, |it| it.allow_unauthenticated())?),
        ClientAuth::Required => builder.with_client_cert_verifier(verifier(from, |it| it)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| mismatch(from, &error))?;
    if files.client_auth == ClientAuth::None {
        config.ticketer = ring::Ticketer::new().map_err(|error| problem(from, CERT, error.to_string()))?;
    } else {
        // A resumed session is not verified again: a client's certificate may have expired since.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    }
    Ok(Loaded { config: Arc::new(config), not_after })
}

pub(super) fn client(files: &ClientFiles, from: &Contents) -> Result<Loaded<ClientConfigs>, FileProblem> {
    let roots = if files.ca.is_some() { roots(from)? } else { system_roots()? };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| problem(from, CA, error.to_string()))?
        .with_root_certificates(roots);
    let (mut probe, not_after) = if files.identity.is_some() {
        let (chain, not_after) = chain(from)?;
        let config = builder.with_client_auth_cert(chain, private_key(from)?).map_err(|error| mismatch(from, &error));
        (config?, not_after)
    } else {
        (builder.with_no_client_auth(), 0)
    };
    let data = Arc::new(probe.clone());
    probe.resumption = Resumption::disabled();
    Ok(Loaded { config: ClientConfigs { data, probe: Arc::new(probe) }, not_after })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn problem(from: &Contents, key: Key, message: String) -> FileProblem {
    let path = from.iter().find(|(of, ..)| *of == key).map(|(_, path, _)| path.clone());
    FileProblem { key, path, message }
}

fn bytes(from: &Contents, key: Key) -> Result<&[u8], FileProblem> {
    match from.iter().find(|(of, ..)| *of == key) {
        Some((_, _, Ok(bytes))) => Ok(bytes),
        Some((_, _, Err(message))) => Err(problem(from, key, message.clone())),
        None => Err(problem(from, key, "is missing".to_owned())),
    }
}

fn certificates(from: &Contents, key: Key) -> Result<Vec<CertificateDer<'static>>, FileProblem> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes(from, key)?).collect();
    match read {
        Ok(list) if list.is_empty() => Err(problem(from, key, "has no certificate (PEM)".to_owned())),
        Ok(list) => Ok(list),
        Err(error) => Err(problem(from, key, format!("is no PEM: {error}"))),
    }
}

fn chain(from: &Contents) -> Result<(Vec<CertificateDer<'static>>, i64), FileProblem> {
    let chain = certificates(from, CERT)?;
    match chain.first().and_then(|first| validity(first)) {
        Some((_, not_after)) => Ok((chain, not_after)),
        None => Err(problem(from, CERT, "is no certificate".to_owned())),
    }
}

fn private_key(from: &Contents) -> Result<PrivateKeyDer<'static>, FileProblem> {
    PrivateKeyDer::from_pem_slice(bytes(from, KEY)?).map_err(|error| {
        let message = match error {
            rustls::pki_types::pem::Error::NoItemsFound => "has no private key (PEM, without a passphrase)".to_owned(),
            error => format!("is no PEM: {error}"),
        };
        problem(from, KEY, message)
    })
}

fn mismatch(from: &Contents, error: &rustls::Error) -> FileProblem {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            problem(from, KEY, "is not the key of the certificate in tls.cert".to_owned())
        }
        rustls::Error::InvalidCertificate(error) => problem(from, CERT, format!("cannot be used: {error}")),
        error => problem(from, KEY, format!("cannot be used: {error}")),
    }
}

fn roots(from: &Contents) -> Result<Arc<RootCertStore>, FileProblem> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(from, CA)? {
        store.add(certificate).map_err(|error| problem(from, CA, format!("cannot be used: {error}")))?;
    }
    Ok(Arc::new(store))
}

fn system_roots() -> Result<Arc<RootCertStore>, FileProblem> {
    let mut store = RootCertStore::empty();
    // Systems carry a few that are not well formed; those that are suffice.
    let found = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let message = "is needed: this system trusts no authorities (install ca-certificates, or name a file)";
        return Err(FileProblem { key: CA, path: None, message: message.to_owned() });
    }
    Ok(Arc::new(store))
}

fn verifier(
    from: &Contents,
    adjust: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, FileProblem> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(from)?, provider());
    adjust(builder).build().map_err(|error| problem(from, CA, words::of_verifier(&error)))
}
