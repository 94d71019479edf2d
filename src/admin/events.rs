//! Events over HTTP: the latest as JSON, and streams of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::http::{Admin, CLOSE, text};
use crate::channels::EventRecord;
use crate::events::{EventHub, Reader};
use crate::telemetry::counters::Way;

/// Streams at a time, all kinds together.
const STREAMS_MAX: usize = 16;
/// Between two comments on a stream that has nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What happens, and each second's outcomes, with the places for those who listen over HTTP.
#[derive(Clone, Debug)]
pub struct Streams {
    /// What happens.
    pub events: EventHub,
    /// What each second brings, while somebody listens.
    pub outcomes: EventHub,
    places: Arc<Semaphore>,
}

impl Streams {
    /// Nobody listens yet.
    #[must_use]
    pub fn new(events: EventHub, outcomes: EventHub) -> Self {
        Self { events, outcomes, places: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// Tells the listener that a connection carries a stream: it may live as long as it takes what it is sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    is_stream: Arc<AtomicBool>,
    /// Who is on the other side.
    pub(super) peer: String,
}

impl Lease {
    pub(super) fn of(self, peer: String) -> Self {
        Self { peer, ..self }
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream.load(Relaxed)
    }

    fn extend(&self) {
        self.is_stream.store(true, Relaxed);
    }
}

pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/events", get(latest))
        .route("/events/stream", get(events))
        .route("/outcomes/stream", get(outcomes))
}

async fn latest(State(admin): State<Arc<Admin>>) -> Response {
    let records = admin.streams.events.latest();
    let records: Vec<&EventRecord> = records.iter().map(|record| &**record).collect();
    (CLOSE, Json(records)).into_response()
}

async fn events(State(admin): State<Arc<Admin>>, lease: ConnectInfo<Lease>, headers: HeaderMap) -> Response {
    let hub = &admin.streams.events;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let reader = match last {
        Some(last) => hub.resume(Way::Http, last),
        None => hub.subscribe(Way::Http),
    };
    serve(&admin.streams, reader, &lease)
}

async fn outcomes(State(admin): State<Arc<Admin>>, lease: ConnectInfo<Lease>) -> Response {
    let reader = admin.streams.outcomes.subscribe(Way::Http);
    serve(&admin.streams, reader, &lease)
}

fn serve(streams: &Streams, reader: Reader, lease: &Lease) -> Response {
    let Ok(place) = Arc::clone(&streams.places).try_acquire_owned() else {
        let message = format!("{STREAMS_MAX} streams are open, which is the most: close one\n");
        return text(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    lease.extend();
    let stream = Sse::new(stream::unfold((reader, place), next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Some proxies collect an answer before they pass it on, unless they are told not to.
    (CLOSE, [(header::HeaderName::from_static("x-accel-buffering"), "no")], stream).into_response()
}

type Source = (Reader, OwnedSemaphorePermit);

/// The place goes with the stream: it is free again when the connection has ended.
async fn next((mut reader, place): Source) -> Option<(Result<Event, Infallible>, Source)> {
    let record = reader.next().await?;
    let event = Event::default().id(record.id.to_string()).event(record.happening.kind.label()).data(record.json());
    Some((Ok(event), (reader, place)))
}
