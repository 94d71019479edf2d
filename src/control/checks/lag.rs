//! The lag check: Redis Enterprise's REST API says whether a database is close enough behind the others.
//!
//! It decides about failbacks alone, so it runs beside the probes and at its own pace.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::channels::{BackendId, Observation, Route};
use crate::config::{Address, LagCheck, format_duration};
use crate::logic::settings::HealthSettings;
use crate::net::dial::connect;
use crate::net::stream::Stream;
use crate::net::tls::TlsStream;
use crate::tls::ClientConfigs;

/// For one round: connecting, TLS, and both requests.
const ROUND_MAX: Duration = Duration::from_secs(5);
/// The most that the list of databases may take.
const BODY_BYTES_MAX: usize = 4 << 20;
/// The most of an answer's text that is repeated.
const TEXT_CHARS_MAX: usize = 200;

/// Asks for the lag of one backend, again and again.
pub struct LagWatch {
    backend: BackendId,
    check: LagCheck,
    /// Found by the endpoint, until an answer says that it is not there.
    uid: Option<u64>,
    /// Read at the first round, and again after a round that failed.
    certificates: Option<ClientConfigs>,
}

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
enum LagError {
    #[error("no answer from {place} within {limit}")]
    Late { place: String, limit: String },
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("{0}")]
    Certificates(String),
    #[error("{0} broke off: {1}")]
    Broken(&'static str, String),
    #[error("{0} answers with {1}")]
    Refused(&'static str, StatusCode),
    #[error("{0}: {1}")]
    Database(&'static str, String),
    #[error("more than {tolerance} behind: {what} answers with {status}")]
    Behind { tolerance: String, what: &'static str, status: StatusCode },
}

const LIST: &str = "GET /v1/bdbs";
const AVAILABILITY: &str = "GET /v1/bdbs/<uid>/availability";

impl LagWatch {
    /// For one backend; nothing is opened yet.
    #[must_use]
    pub const fn new(backend: BackendId, check: LagCheck) -> Self {
        Self { backend, uid: check.uid, check, certificates: None }
    }

    /// Asks while the backend is not the active, of which lag says nothing. Ends when nobody wants to know any more.
    pub(in crate::control) async fn run(
        mut self,
        settings: &HealthSettings,
        route: &watch::Receiver<Route>,
        observations: &mpsc::Sender<Observation>,
    ) {
        loop {
            if route.borrow().active != Some(self.backend) {
                let observation = Observation::Lag { backend: self.backend, verdict: self.round().await };
                if observations.send(observation).await.is_err() {
                    return;
                }
            }
            let spread = settings.jitter * (2.0 * fastrand::f64() - 1.0);
            tokio::time::sleep(settings.standby_interval.mul_f64(1.0 + spread)).await;
        }
    }

    /// Asks once: within the tolerance, in words, or why it is not, or nobody can tell.
    pub(super) async fn round(&mut self) -> Result<String, String> {
        let late = LagError::Late {
            place: Address::Tcp(self.check.host.clone(), self.check.port).to_string(),
            limit: format_duration(ROUND_MAX),
        };
        let outcome = timeout(ROUND_MAX, self.ask()).await.unwrap_or(Err(late));
        if let Err(error) = &outcome {
            self.certificates = None;
            if matches!(error, LagError::Behind { status: StatusCode::NOT_FOUND, .. }) {
                self.uid = self.check.uid;
            }
        }
        let within = |()| format!("within {}", format_duration(self.check.tolerance));
        outcome.map(within).map_err(|error| error.to_string())
    }

    async fn ask(&mut self) -> Result<(), LagError> {
        let stream = self.dial().await?;
        let broken = |error: hyper::Error| LagError::Broken("the connection", error.to_string());
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let conversation = self.converse(sender);
        tokio::pin!(conversation);
        tokio::select! {
            outcome = &mut conversation => outcome,
            // What was asked then knows what became of it.
            ended = connection => match (conversation.await, ended) {
                (Err(LagError::Broken(what, _)), Err(error)) => Err(LagError::Broken(what, printable(&error.to_string()))),
                (outcome, _) => outcome,
            },
        }
    }

    async fn dial(&mut self) -> Result<Stream, LagError> {
        let address = Address::Tcp(self.check.host.clone(), self.check.port);
        let cannot = |error| LagError::Connect(address.to_string(), error);
        let config = match &self.certificates {
            Some(configs) => configs.probe.clone(),
            None => {
                let loaded = self.check.tls.files.load();
                let loaded = loaded.map_err(|problem| LagError::Certificates(format!("health.lag.{problem}")))?;
                self.certificates.insert(loaded.config).probe.clone()
            }
        };
        let name = match &self.check.tls.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(self.check.host.clone())
                .map_err(|_| LagError::Certificates("set health.lag.tls.server_name".to_owned()))?,
        };
        let Stream::Tcp(socket) = connect(&address).await.map_err(cannot)? else {
            return Err(LagError::Certificates("TLS is for TCP only".to_owned()));
        };
        let stream = TlsStream::connect(socket, config, name).await.map_err(cannot)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn converse(&mut self, mut sender: SendRequest<Empty<Bytes>>) -> Result<(), LagError> {
        let uid = match self.uid {
            Some(uid) => uid,
            None => {
                let (status, body) = self.get(&mut sender, LIST, "/v1/bdbs").await?;
                if !status.is_success() {
                    return Err(LagError::Refused(LIST, status));
                }
                let (host, port) = &self.check.endpoint;
                let found = database_at(&body, host, *port).map_err(|why| LagError::Database(LIST, why))?;
                *self.uid.insert(found)
            }
        };
        let tolerance_ms = self.check.tolerance.as_millis();
        let path = format!("/v1/bdbs/{uid}/availability?extend_check=lag&availability_lag_tolerance_ms={tolerance_ms}");
        match self.get(&mut sender, AVAILABILITY, &path).await?.0 {
            status if status.is_success() => Ok(()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(LagError::Refused(AVAILABILITY, status)),
            status => {
                let tolerance = format_duration(self.check.tolerance);
                Err(LagError::Behind { tolerance, what: AVAILABILITY, status })
            }
        }
    }

    async fn get(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        what: &'static str,
        path: &str,
    ) -> Result<(StatusCode, Bytes), LagError> {
        let broken = |error: &dyn std::fmt::Display| LagError::Broken(what, printable(&error.to_string()));
        let user = self.check.credential.username.as_deref().unwrap_or_default();
        let login = BASE64_STANDARD.encode(format!("{user}:{}", self.check.credential.password));
        let request = Request::get(path)
            .header(HOST, Address::Tcp(self.check.host.clone(), self.check.port).to_string())
            .header(AUTHORIZATION, format!("Basic {login}"))
            .body(Empty::new())
            .map_err(|error| broken(&error))?;
        sender.ready().await.map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| broken(&error))?;
        Ok((status, body.to_bytes()))
    }
}

/// A database as the REST API describes it, as far as that matters here.
#[derive(Deserialize)]
struct Database {
    uid: u64,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    dns_name: Option<String>,
    #[serde(default)]
    addr: Vec<String>,
    #[serde(default)]
    port: Option<u16>,
}

impl Endpoint {
    fn is_at(&self, host: &str, port: u16) -> bool {
        let is_name = self.dns_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host));
        (is_name || self.addr.iter().any(|address| address == host)) && self.port.is_none_or(|own| own == port)
    }
}

/// The number of the one database that has an endpoint at this host and port.
fn database_at(list: &[u8], host: &str, port: u16) -> Result<u64, String> {
    let databases: Vec<Database> = serde_json::from_slice(list)
        .map_err(|error| format!("not a list of databases: {}", printable(&error.to_string())))?;
    let is_there = |database: &&Database| database.endpoints.iter().any(|endpoint| endpoint.is_at(host, port));
    let found: Vec<u64> = databases.iter().filter(is_there).map(|database| database.uid).collect();
    match found[..] {
        [uid] => Ok(uid),
        [] => {
            Err(format!("none of {} databases has an endpoint at {host}:{port}: set health.lag.uid", databases.len()))
        }
        _ => Err(format!("{} databases have an endpoint at {host}:{port}: set health.lag.uid", found.len())),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_found_by_its_endpoint() {
        let list = r#"[
            {"uid": 1, "name": "one", "endpoints": [{"dns_name": "one.example", "addr": ["10.0.0.1"], "port": 12000}]},
            {"uid": 2, "endpoints": [{"dns_name": "two.example", "addr": ["10.0.0.1", "10.0.0.2"], "port": 12001}]},
            {"uid": 3, "endpoints": [{"addr": ["10.0.0.3"]}, {"dns_name": "both.example", "port": 1}]},
            {"uid": 4, "endpoints": [{"dns_name": "both.example", "port": 1}], "more": {"nested": [[]]}},
            {"uid": 5}
        ]"#;
        for (host, port, expected) in [
            ("one.example", 12000, Ok(1)),
            ("ONE.example", 12000, Ok(1)),
            ("10.0.0.1", 12000, Ok(1)),
            ("10.0.0.1", 12001, Ok(2)),
            ("10.0.0.2", 12001, Ok(2)),
            ("10.0.0.3", 9, Ok(3)),
            ("one.example", 12001, Err("none of 5 databases has an endpoint at one.example:12001: set health.lag.uid")),
            ("both.example", 1, Err("2 databases have an endpoint at both.example:1: set health.lag.uid")),
        ] {
            let found = database_at(list.as_bytes(), host, port);
            assert_eq!(found, expected.map_err(str::to_owned), "{host}:{port}");
        }
        for garbage in ["", "{}", "[1]", "[{\"uid\": \"1\"}]", "<html>", &"[".repeat(100_000)] {
            let error = database_at(garbage.as_bytes(), "h", 1).unwrap_err();
            assert!(error.starts_with("not a list of databases: ") && error.len() < 300, "{error}");
        }
    }
}
