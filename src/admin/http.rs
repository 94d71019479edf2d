//! The operator's HTTP port: metrics, health, readiness, status; and the console's verbs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::{Bounded, Limits};
use super::desk::{Answer, Asker, Desk, Request, Trouble, parse};
use super::guard::{Denied, Guard};
use super::status::{Status, not_ready};
use crate::channels::GroupStatus;
use crate::resp::inline;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::logging::LinesDropped;
use crate::telemetry::metrics::{self, GroupSnapshot, Reloads, Snapshot};
use crate::tls::Facts;

/// Connections to the admin port at a time; one more ends the oldest.
pub const CONNECTIONS_MAX: usize = 64;

/// A connection carries one request and lives for so long at most, as long as Prometheus waits for a scrape.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);

/// A line of an operator's is never longer.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// An outcome comes within the life of its connection, or is told later.
const PATIENCE: Duration = Duration::from_secs(7);

/// Where the admin plane looks.
#[derive(Debug)]
pub struct Admin {
    /// Each group's state.
    pub statuses: Vec<watch::Receiver<GroupStatus>>,
    /// Each group's counters, in the order of `statuses`: one for each worker.
    pub counters: Vec<Vec<Arc<WorkerCounters>>>,
    /// Labels of the reasons for which clients are closed, by index.
    pub close_reasons: &'static [&'static str],
    /// How the configuration was last read.
    pub reloads: Arc<Reloads>,
    /// The certificates in use.
    pub certificates: Vec<Arc<Facts>>,
    /// Log lines that were dropped.
    pub log_lines_dropped: LinesDropped,
    /// When the process started.
    pub started: Instant,
    /// Cancelled once no new clients are taken: from then on the process is not ready.
    pub draining: CancellationToken,
    /// Who answers operators.
    pub desk: Arc<Desk>,
    /// Who may change something.
    pub guard: Guard,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
struct Caller(String);

impl<L: Listener> Connected<IncomingStream<'_, Bounded<L>>> for Caller
where
    L::Addr: std::fmt::Debug,
{
    fn connect_info(stream: IncomingStream<'_, Bounded<L>>) -> Self {
        Self(format!("{:?}", stream.remote_addr()))
    }
}

impl Caller {
    fn asker(&self) -> Asker {
        let host = self.0.rsplit_once(':').map_or(self.0.as_str(), |(host, _)| host);
        Asker {
            name: format!("http {}", self.0),
            place: format!("http {host}"),
            patience: PATIENCE,
            waits_for_drills: false,
        }
    }
}

/// Answers on a listener that the caller has bound, until `stop` is cancelled; then ends what is open in time.
pub async fn serve<L: Listener>(listener: L, admin: Admin, stop: CancellationToken)
where
    L::Addr: std::fmt::Debug,
{
    let limits = Limits { connections_max: CONNECTIONS_MAX, lifetime: CONNECTION_LIFETIME };
    serve_within(limits, listener, admin, stop).await;
}

async fn serve_within<L: Listener>(limits: Limits, listener: L, admin: Admin, stop: CancellationToken)
where
    L::Addr: std::fmt::Debug,
{
    let router = router(Arc::new(admin)).into_make_service_with_connect_info::<Caller>();
    let serving = axum::serve(Bounded::new(listener, limits), router);
    if let Err(error) = serving.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the admin port stopped answering");
    }
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n".to_owned()) }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .route("/why", get(why))
        .route("/events", get(events))
        .route("/backends", get(backends))
        .route("/backends/{name}", get(backend))
        .route("/console", post(console).get(usage).layer(DefaultBodyLimit::max(LINE_BYTES_MAX)))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "not found; / lists what there is\n".to_owned()) })
        .with_state(admin)
}

async fn page(State(admin): State<Arc<Admin>>) -> Response {
    let groups = admin.groups();
    text(StatusCode::OK, admin.status(&groups).page())
}

async fn status(State(admin): State<Arc<Admin>>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    let status = admin.status(&groups);
    if wants_text(&uri, &headers) {
        return text(StatusCode::OK, status.page());
    }
    (CLOSE, Json(status)).into_response()
}

async fn why(State(admin): State<Arc<Admin>>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    let lines = groups.iter().map(|group| (group.name.clone(), Desk::why(group))).collect();
    told(lines, wants_text(&uri, &headers), |lines| json!(lines))
}

async fn events(State(admin): State<Arc<Admin>>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    if wants_text(&uri, &headers) {
        let lines = groups.iter().map(|group| (group.name.clone(), Desk::events(group))).collect();
        return told(lines, true, |lines| json!(lines));
    }
    let events = |group: &GroupStatus| {
        group.events.iter().map(|event| {
        let at = event.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        json!({ "at_unix_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX), "kind": event.kind, "text": event.text })
    }).collect::<Vec<_>>()
    };
    let groups: serde_json::Map<String, Value> =
        groups.iter().map(|group| (group.name.clone(), json!(events(group)))).collect();
    document(StatusCode::OK, &json!({ "groups": groups }))
}

async fn backends(State(admin): State<Arc<Admin>>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    if wants_text(&uri, &headers) {
        return text(StatusCode::OK, admin.status(&groups).summary());
    }
    document(StatusCode::OK, &admin.status(&groups).backends())
}

/// One backend; names are unique over all groups.
async fn backend(State(admin): State<Arc<Admin>>, Path(name): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    let found = groups.iter().find_map(|group| group.backends.iter().find(|backend| backend.name == name));
    match found {
        None => {
            let names: Vec<&str> =
                groups.iter().flat_map(|group| &group.backends).map(|backend| backend.name.as_str()).collect();
            let error = format!("no backend '{name}'; there is {}", names.join(", "));
            document(StatusCode::NOT_FOUND, &json!({ "error": error }))
        }
        Some(backend) if wants_text(&uri, &headers) => text(StatusCode::OK, Desk::show(backend).join("\n") + "\n"),
        Some(backend) => document(
            StatusCode::OK,
            &json!({
                "backend": admin.status(&groups).backend(&backend.name),
                "lines": Desk::show(backend),
            }),
        ),
    }
}

/// One line, as on the console.
async fn console(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(denied) = Guard::admit_reader(&headers) {
        return refuse(&denied, &caller);
    }
    let words = match line(&body) {
        Ok(words) => words,
        Err(message) => return document(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    };
    let (request, group) = match parse(&words) {
        Ok((Request::Ping(_) | Request::Hello(_) | Request::Quit | Request::Courtesy(_), _)) => {
            return document(StatusCode::OK, &json!({ "answer": "OK" }));
        }
        Ok(parsed) => parsed,
        Err(message) => return document(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    };
    if request.is_change()
        && let Err(denied) = admin.guard.admit_change(&headers)
    {
        return refuse(&denied, &caller);
    }
    match admin.desk.carry_out(request, group.as_deref(), &caller.asker()).await {
        Ok(Answer::Line(line)) => document(StatusCode::OK, &json!({ "answer": line })),
        Ok(Answer::Lines(lines)) => document(StatusCode::OK, &json!({ "answer": lines })),
        Err(Trouble::Pending(message)) => document(StatusCode::ACCEPTED, &json!({ "pending": message })),
        Err(Trouble::Wrong(message)) => document(StatusCode::BAD_REQUEST, &json!({ "error": message })),
        Err(Trouble::Refused(message)) => document(StatusCode::CONFLICT, &json!({ "error": message })),
    }
}

async fn usage() -> Response {
    let words = "POST one line as on the console, as in: curl -d 'WHY' http://127.0.0.1:9400/console\n";
    text(StatusCode::METHOD_NOT_ALLOWED, words.to_owned())
}

fn line(body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let line = body.trim_ascii();
    if line.contains(&b'\n') {
        return Err("one line at a time".to_owned());
    }
    match inline::split(line) {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err("a line is missing: POST HELP to see what there is".to_owned()),
        None => Err("a quotation mark has no end".to_owned()),
    }
}

/// Somebody tries what they may not: an operator wants to know.
fn refuse(denied: &Denied, caller: &Caller) -> Response {
    let message = denied.message();
    tracing::warn!(target: "audit", audit = true, by = format!("http {}", caller.0), why = message,
        "a request to the admin port was refused");
    document(denied.status(), &json!({ "error": message }))
}

/// Lines of each group: text with a headline where there are several, or JSON.
fn told(groups: Vec<(String, Vec<String>)>, as_text: bool, value: impl Fn(&[String]) -> Value) -> Response {
    if !as_text {
        let groups: serde_json::Map<String, Value> =
            groups.iter().map(|(name, lines)| (name.clone(), value(lines))).collect();
        return document(StatusCode::OK, &json!({ "groups": groups }));
    }
    let has_headlines = groups.len() > 1;
    let mut page = String::new();
    for (name, lines) in groups {
        if has_headlines {
            page += &format!("group {name}\n");
        }
        for line in lines {
            page += &line;
            page.push('\n');
        }
    }
    text(StatusCode::OK, page)
}

/// `?text`, or a caller that takes nothing but text.
fn wants_text(uri: &Uri, headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    uri.query() == Some("text") || accept.starts_with("text/plain")
}

/// JSON that ends with a line, for people with curl.
fn document(code: StatusCode, value: &impl serde::Serialize) -> Response {
    let mut body = serde_json::to_string_pretty(value).unwrap_or_default();
    body.push('\n');
    (code, CLOSE, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let mut reasons: Vec<String> = admin.groups().iter().filter_map(not_ready).collect();
    if admin.draining.is_cancelled() {
        reasons.insert(0, "draining: no new clients are taken".to_owned());
    }
    match reasons.as_slice() {
        [] => text(StatusCode::OK, "ready\n".to_owned()),
        reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    let body = metrics::render(&admin.snapshot());
    (CLOSE, [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], body).into_response()
}

impl Admin {
    fn groups(&self) -> Vec<GroupStatus> {
        self.statuses.iter().map(|status| status.borrow().clone()).collect()
    }

    fn status<'a>(&self, groups: &'a [GroupStatus]) -> Status<'a> {
        Status::new(groups, self.started.elapsed(), self.draining.is_cancelled())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let groups = self.groups();
        Snapshot {
            ready: !self.draining.is_cancelled() && groups.iter().all(|group| not_ready(group).is_none()),
            reloads: &self.reloads,
            log_lines_dropped: self.log_lines_dropped.total(),
            close_reasons: self.close_reasons,
            certificates: &self.certificates,
            groups: groups
                .into_iter()
                .zip(&self.counters)
                .map(|(status, workers)| GroupSnapshot { status, workers })
                .collect(),
        }
    }
}

/// One request a connection: an idle one costs a place, and a scrape each 15 s saves nothing by keeping it.
const CLOSE: [(header::HeaderName, &str); 1] = [(header::CONNECTION, "close")];

fn text(code: StatusCode, body: String) -> Response {
    (code, CLOSE, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::SystemTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const HANG: Duration = Duration::from_secs(20);

    fn admin() -> Admin {
        Admin {
            statuses: Vec::new(),
            counters: Vec::new(),
            close_reasons: &[],
            certificates: Vec::new(),
            reloads: Arc::new(Reloads::loaded(SystemTime::now())),
            log_lines_dropped: LinesDropped::default(),
            started: Instant::now(),
            draining: CancellationToken::new(),
            desk: Arc::new(Desk {
                groups: Vec::new(),
                process: tokio::sync::mpsc::channel(1).0,
                started: SystemTime::now(),
                draining: CancellationToken::new(),
            }),
            guard: Guard::default(),
        }
    }

    async fn bound() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Runs `client` against a server with these limits.
    async fn with_server<F: Future<Output = ()>>(limits: Limits, client: impl FnOnce(SocketAddr) -> F) {
        let (listener, address) = bound().await;
        let server = serve_within(limits, listener, admin(), CancellationToken::new());
        tokio::select! {
            () = server => panic!("the server ended"),
            () = client(address) => {}
            () = tokio::time::sleep(HANG) => panic!("it hangs"),
        }
    }

    async fn health(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn slow_connections_beyond_the_limit_lose_their_place_to_new_ones() {
        let limits = Limits { connections_max: 4, lifetime: Duration::from_secs(3600) };
        with_server(limits, |address| async move {
            let mut slow = Vec::new();
            for _ in 0..20 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /metrics HT").await.unwrap();
                slow.push(stream);
            }
            assert!(health(address).await.starts_with("HTTP/1.1 200 OK\r\n"));
            // 20 slow ones and the health check came; at most the last 3 slow ones kept their place.
            for stream in &mut slow[..17] {
                assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed_in_time() {
        let limits = Limits { connections_max: 4, lifetime: Duration::from_millis(30) };
        with_server(limits, |address| async move {
            let mut silent = TcpStream::connect(address).await.unwrap();
            assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_scraper_that_does_not_read_is_closed_in_time() {
        let limits = Limits { connections_max: 4, lifetime: Duration::from_millis(200) };
        with_server(limits, |address| async move {
            let mut deaf = TcpStream::connect(address).await.unwrap();
            // Far more requests than one: the server answers the first and closes, or is cut off in the middle.
            let _ = deaf.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000)).await;
            let mut rest = Vec::new();
            let _ = deaf.read_to_end(&mut rest).await;
            let answers = String::from_utf8_lossy(&rest).matches("HTTP/1.1 ").count();
            assert!(answers <= 1, "{answers} answers on one connection");
        })
        .await;
    }

    #[tokio::test]
    async fn a_stop_ends_the_server() {
        let (listener, address) = bound().await;
        let stop = CancellationToken::new();
        let client = async {
            assert!(health(address).await.ends_with("\r\n\r\nok\n"));
            stop.cancel();
        };
        let both = async { tokio::join!(serve(listener, admin(), stop.clone()), client) };
        tokio::time::timeout(HANG, both).await.expect("it ends");
    }
}
