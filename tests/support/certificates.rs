//! An authority of the tests' own, certificates that are right or wrong, and both ends of TLS without Handover.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::{PATIENCE, Value, encode, read_value};

/// An authority, with a folder for what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// The two files of a certificate.
#[derive(Clone)]
pub struct Certificate {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new() -> Self {
        Self::named("an authority of the tests")
    }

    /// The same with a name of its own.
    pub fn named(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let folder = tempfile::Builder::new().prefix("handover-tls-").tempdir().expect("a temporary folder");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file in a fresh folder");
        Self { issuer: Issuer::new(parameters, key), folder }
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for 127.0.0.1 that is good.
    pub fn sign(&self, name: &str) -> Certificate {
        self.sign_for(name, "127.0.0.1", 2049)
    }

    /// Signs a certificate for a name, valid until the first day of a year, and writes it over what has that file name.
    pub fn sign_for(&self, file: &str, name: &str, until_year: i32) -> Certificate {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        parameters.distinguished_name.push(DnType::CommonName, file);
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(file, &certificate.pem(), &key.serialize_pem())
    }

    /// Replaces or makes the two files of that name.
    pub fn write(&self, file: &str, cert: &str, key: &str) -> Certificate {
        let path = |ending: &str| self.folder.path().join(format!("{file}.{ending}"));
        let files = Certificate { cert: path("crt"), key: path("key") };
        std::fs::write(&files.key, key).expect("a file in our folder");
        std::fs::write(&files.cert, cert).expect("a file in our folder");
        files
    }

    /// What a client of ours needs, with or without a certificate of its own.
    pub fn client_config(&self, own: Option<&Certificate>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        Arc::new(match own {
            Some(own) => builder.with_client_auth_cert(own.chain(), own.private_key()).expect("a pair"),
            None => builder.with_no_client_auth(),
        })
    }
}

impl Certificate {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_file(&self.cert).expect("PEM")]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("PEM")
    }

    /// What a server of ours needs that shows it to everybody.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(self.chain(), self.private_key())
            .expect("a pair");
        Arc::new(config)
    }

    /// `cert = …, key = …` of a `tls` table.
    pub fn toml(&self) -> String {
        format!("cert = {:?}, key = {:?}", self.cert, self.key)
    }
}

/// A client with TLS.
pub struct TlsClient {
    stream: std::io::BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// Connects and shakes hands.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        Self::connect_after(address, b"", config)
    }

    /// The same after some bytes in clear.
    pub fn connect_after(address: SocketAddr, before: &[u8], config: &Arc<ClientConfig>) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        socket.write_all(before)?;
        let name = ServerName::IpAddress(address.ip().into());
        let mut session = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Ok(Self { stream: std::io::BufReader::new(StreamOwned::new(session, socket)) })
    }

    /// The certificate that the server showed.
    pub fn server_certificate(&self) -> CertificateDer<'static> {
        let certificates = self.stream.get_ref().conn.peer_certificates().expect("a verified server");
        certificates[0].clone().into_owned()
    }

    /// Sends one command.
    pub fn send_command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) {
        self.stream.get_mut().write_all(&encode(arguments)).expect("sent");
        self.stream.get_mut().flush().expect("sent");
    }

    /// Reads one reply.
    pub fn try_read_reply(&mut self) -> std::io::Result<Value> {
        read_value(&mut self.stream, &mut Vec::new())
    }

    /// Reads one reply.
    #[track_caller]
    pub fn read_reply(&mut self) -> Value {
        self.try_read_reply().unwrap_or_else(|error| panic!("no whole reply: {error}"))
    }

    /// Sends one command and reads one reply.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.send_command(arguments);
        self.read_reply()
    }
}

/// A server with TLS that answers nothing and keeps what it reads.
pub struct Eavesdropper {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
}

impl Eavesdropper {
    /// Shows this certificate to everybody, for as long as the test runs.
    pub fn start(certificate: &Certificate) -> Self {
        let config = certificate.server_config();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (heard, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (writing, counting) = (heard.clone(), connections.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                *counting.lock().expect("nobody panics with it") += 1;
                let session = ServerConnection::new(config.clone()).expect("a session");
                let mut stream = StreamOwned::new(session, socket);
                let mut buffer = [0; 4096];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                    writing.lock().expect("nobody panics with it").extend_from_slice(&buffer[..bytes]);
                }
            }
        });
        Self { address, heard, connections }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was told once hands were shaken.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        *self.connections.lock().expect("nobody panics with it")
    }
}

/// A path in a Redis server's directive or in TOML.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
