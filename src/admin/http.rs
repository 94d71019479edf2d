//! The operator's HTTP port: metrics, health, readiness, status. Events stand in `events`, the console's verbs in `remote`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router, middleware};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connections::{Bounded, Limits};
use super::desk::Desk;
use super::events::{self, Lease, Streams};
use super::guard::Guard;
use super::remote;
use super::status::{Status, not_ready};
use crate::channels::GroupStatus;
use crate::telemetry::counters::WorkerCounters;
use crate::telemetry::logging::LinesDropped;
use crate::telemetry::metrics::{self, GroupSnapshot, Reloads, Snapshot};
use crate::tls::Keeper;

/// Connections to the admin port at a time; one more ends the oldest.
pub const CONNECTIONS_MAX: usize = 64;

/// A connection carries one request and lives for so long at most, as long as Prometheus waits for a scrape.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);

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
    pub certificates: Keeper,
    /// Log lines that were dropped.
    pub log_lines_dropped: LinesDropped,
    /// What happens, and what each second brings.
    pub streams: Streams,
    /// When the process started.
    pub started: Instant,
    /// Cancelled once no new clients are taken: from then on the process is not ready.
    pub draining: CancellationToken,
    /// Who answers operators.
    pub desk: Arc<Desk>,
    /// Who may change something.
    pub guard: Guard,
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
    let service = router(Arc::new(admin)).into_make_service_with_connect_info::<Lease>();
    let serving = axum::serve(Bounded::new(listener, limits), service);
    if let Err(error) = serving.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the admin port stopped answering");
    }
}

fn router(admin: Arc<Admin>) -> Router {
    let for_operators = Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .merge(events::routes())
        .merge(remote::routes())
        .layer(middleware::from_fn(remote::admit_readers));
    // Scrapers and balancers come by the name of a service, and those of others tell them nothing more.
    Router::new()
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n".to_owned()) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .merge(for_operators)
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
    if remote::wants_text(&uri, &headers) {
        return text(StatusCode::OK, status.page());
    }
    (CLOSE, Json(status)).into_response()
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
    pub(super) fn groups(&self) -> Vec<GroupStatus> {
        self.statuses.iter().map(|status| status.borrow().clone()).collect()
    }

    pub(super) fn status<'a>(&self, groups: &'a [GroupStatus]) -> Status<'a> {
        Status::new(groups, self.started.elapsed(), self.draining.is_cancelled())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        let groups = self.groups();
        Snapshot {
            ready: !self.draining.is_cancelled() && groups.iter().all(|group| not_ready(group).is_none()),
            reloads: &self.reloads,
            log_lines_dropped: self.log_lines_dropped.total(),
            events: self.streams.events.counters(),
            close_reasons: self.close_reasons,
            certificates: self.certificates.facts(),
            groups: groups
                .into_iter()
                .zip(&self.counters)
                .map(|(status, workers)| GroupSnapshot { status, workers })
                .collect(),
        }
    }
}

/// One request a connection: an idle one costs a place, and a scrape each 15 s saves nothing by keeping it.
pub(super) const CLOSE: [(header::HeaderName, &str); 1] = [(header::CONNECTION, "close")];

pub(super) fn text(code: StatusCode, body: String) -> Response {
    (code, CLOSE, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EventHub;
    use crate::logic::record::Happening;
    use crate::telemetry::counters::Way;
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
            certificates: Keeper::default(),
            reloads: Arc::new(Reloads::loaded(SystemTime::now())),
            log_lines_dropped: LinesDropped::default(),
            streams: Streams::new(hub(), hub()),
            started: Instant::now(),
            draining: CancellationToken::new(),
            desk: Arc::new(Desk {
                groups: Vec::new(),
                in_force: watch::channel(Arc::new(in_force())).1,
                recruiter: crate::net::recruit::Recruiter::default(),
                process: tokio::sync::mpsc::channel(1).0,
                events: hub(),
                outcomes: hub(),
                started: SystemTime::now(),
                draining: CancellationToken::new(),
            }),
            guard: Guard::default(),
        }
    }

    fn in_force() -> crate::config::Config {
        let text = "listener = [{ bind = '127.0.0.1:0' }]\nbackend = [{ name = 'a', url = 'redis://h' }]\n";
        let sources = crate::config::Sources { text: Some(text.to_owned()), cores: 1, ..Default::default() };
        crate::config::Config::load(&sources).unwrap().config
    }

    fn hub() -> EventHub {
        EventHub::new(Arc::default(), CancellationToken::new())
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

    /// 16 MiB of records, which no socket takes that nobody reads.
    #[tokio::test]
    async fn a_slow_stream_loses_the_oldest_and_is_told_how_many() {
        let (listener, address) = bound().await;
        let (events, stop) = (hub(), CancellationToken::new());
        let admin = Admin { streams: Streams::new(events.clone(), hub()), ..admin() };
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
            let long = "x".repeat(16 * 1024);
            let ids: Vec<u64> = (0..1024)
                .map(|_| events.publish(None, None, Happening::switch_refused("west", "test", &long)).id)
                .collect();
            let mut text = String::new();
            let last = format!("\"id\":{},", ids[1023]);
            let mut chunk = vec![0; 64 * 1024];
            let mut read_before = 0;
            while !text[read_before..].contains(&last) {
                read_before = text.len().saturating_sub(last.len());
                let bytes = stream.read(&mut chunk).await.unwrap();
                assert_ne!(bytes, 0, "the stream ended");
                text.push_str(&String::from_utf8_lossy(&chunk[..bytes]));
            }
            let lost: u64 = text
                .match_indices("\"lost\":")
                .map(|(at, word)| text[at + word.len()..].split('}').next().unwrap().parse::<u64>().unwrap())
                .sum();
            let came = text.matches("\"kind\":\"switch_refused\"").count() as u64;
            assert!(lost >= 512, "{lost} of 1024 were lost");
            assert_eq!(lost + came, 1024);
            assert_eq!(events.counters().dropped(Way::Http).get(), lost);
            stop.cancel();
        };
        let both = async { tokio::join!(serve(listener, admin, stop.clone()), client) };
        tokio::time::timeout(HANG, both).await.expect("it ends");
    }
}
