//! The lag check: Redis Enterprise's REST API says whether a database is close enough behind the others.
//!
//! It decides about failbacks alone, so it runs beside the probes and at its own pace.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, StatusCode};
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use crate::channels::{BackendId, Observation, Route};
use crate::config::{LagCheck, format_duration};
use crate::logic::settings::HealthSettings;
use crate::net::http::{HttpBounds, HttpError, HttpRequest, request};

/// For one question, from connecting on; the list of databases is the longer of the two answers.
const BOUNDS: HttpBounds = HttpBounds { timeout: Duration::from_secs(5), body_bytes_max: 4 << 20 };
/// The most of an answer's text that is repeated.
const TEXT_CHARS_MAX: usize = 200;
const LIST: &str = "GET /v1/bdbs";
const AVAILABILITY: &str = "GET /v1/bdbs/<uid>/availability";

/// Asks for the lag of one backend, again and again.
pub struct LagWatch {
    backend: BackendId,
    check: LagCheck,
    /// Found by the endpoint, until an answer says that it is not there.
    uid: Option<u64>,
    /// Read at the first round, and again after a round that failed.
    certificates: Option<Arc<ClientConfig>>,
}

/// Why nobody can tell, or the answer is no.
#[derive(Debug, thiserror::Error)]
enum LagError {
    #[error("health.lag.{0}")]
    Certificates(String),
    #[error("{0}: {1}")]
    Unanswered(&'static str, HttpError),
    #[error("{0} answers with {1}")]
    Refused(&'static str, StatusCode),
    #[error("{LIST}: {0}")]
    Database(String),
    #[error("more than {tolerance} behind: {AVAILABILITY} answers with {status}")]
    Behind { tolerance: String, status: StatusCode },
}

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
    ///
    /// # Errors
    /// In words for operators.
    pub async fn round(&mut self) -> Result<String, String> {
        let outcome = self.ask().await;
        if let Err(error) = &outcome {
            self.certificates = None;
            if matches!(error, LagError::Behind { status: StatusCode::NOT_FOUND, .. }) {
                self.uid = self.check.uid;
            }
        }
        let within = |()| format!("within {}", format_duration(self.check.tolerance));
        outcome.map(within).map_err(|error| printable(&error.to_string()))
    }

    async fn ask(&mut self) -> Result<(), LagError> {
        let uid = match self.uid {
            Some(uid) => uid,
            None => self.find().await?,
        };
        let tolerance_ms = self.check.tolerance.as_millis();
        let target = format!(
            "{}/{uid}/availability?extend_check=lag&availability_lag_tolerance_ms={tolerance_ms}",
            self.check.url.target
        );
        match self.get(AVAILABILITY, &target).await?.0 {
            status if status.is_success() => Ok(()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(LagError::Refused(AVAILABILITY, status)),
            status => Err(LagError::Behind { tolerance: format_duration(self.check.tolerance), status }),
        }
    }

    async fn find(&mut self) -> Result<u64, LagError> {
        let target = self.check.url.target.clone();
        let (status, body) = self.get(LIST, &target).await?;
        if !status.is_success() {
            return Err(LagError::Refused(LIST, status));
        }
        let (host, port) = &self.check.endpoint;
        let found = database_at(&body, host, *port).map_err(LagError::Database)?;
        Ok(*self.uid.insert(found))
    }

    async fn get(&mut self, what: &'static str, target: &str) -> Result<(StatusCode, Bytes), LagError> {
        let user = self.check.credential.username.as_deref().unwrap_or_default();
        let login = BASE64_STANDARD.encode(format!("{user}:{}", self.check.credential.password));
        let mut login = HeaderValue::from_str(&format!("Basic {login}"))
            .map_err(|error| LagError::Unanswered(what, HttpError::Broken(error.to_string())))?;
        login.set_sensitive(true);
        let tls = self.certificates()?;
        let url = self.check.url.at(target);
        let headers = vec![(AUTHORIZATION, login)];
        let question = HttpRequest { method: Method::GET, url: &url, headers, body: Bytes::new() };
        request(question, Some(tls), BOUNDS).await.map_err(|error| LagError::Unanswered(what, error))
    }

    fn certificates(&mut self) -> Result<Arc<ClientConfig>, LagError> {
        if let Some(config) = &self.certificates {
            return Ok(Arc::clone(config));
        }
        let loaded = self.check.tls.load().map_err(|problem| LagError::Certificates(problem.to_string()))?;
        Ok(Arc::clone(self.certificates.insert(loaded.config.probe)))
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
