//! The console's verbs over HTTP: whoever reaches the port may look, and who knows the token may change.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::desk::{Answer, Asker, Desk, Request, Trouble, parse};
use super::events::Lease;
use super::guard::{Denied, Guard};
use super::http::{Admin, CLOSE, text};
use crate::resp::inline;

/// A line of an operator's is never longer.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// An outcome comes within the life of its connection, or is told later.
const PATIENCE: Duration = Duration::from_secs(7);

pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/why", get(why))
        .route("/backends", get(backends))
        .route("/backends/{name}", get(backend))
        .route("/console", post(console).get(usage).layer(DefaultBodyLimit::max(LINE_BYTES_MAX)))
}

fn asker(peer: &str) -> Asker {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    Asker { name: format!("http {peer}"), place: format!("http {host}"), patience: PATIENCE, waits_for_drills: false }
}

async fn why(State(admin): State<Arc<Admin>>, uri: Uri, headers: HeaderMap) -> Response {
    let groups = admin.groups();
    let lines = groups.iter().map(|group| (group.name.clone(), Desk::why(group))).collect();
    told(lines, wants_text(&uri, &headers), |lines| json!(lines))
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

/// Turns away what a web page makes an operator's browser ask, also under a name that was made to point here.
pub(super) async fn admit_readers(
    ConnectInfo(lease): ConnectInfo<Lease>,
    request: HttpRequest,
    next: Next,
) -> Response {
    match Guard::admit_reader(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => refuse(&denied, &lease.peer),
    }
}

/// One line, as on the console.
async fn console(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(lease): ConnectInfo<Lease>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let words = match line(&body) {
        Ok(words) => words,
        Err(message) => return document(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    };
    let (request, group) = match parse(&words) {
        Ok((Request::Subscribe(_) | Request::Unsubscribe(_), _)) => {
            let error = "streams are at /events/stream and /outcomes/stream";
            return document(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        Ok((Request::Ping(_) | Request::Hello(_) | Request::Quit | Request::Courtesy(_), _)) => {
            return document(StatusCode::OK, &json!({ "answer": "OK" }));
        }
        Ok(parsed) => parsed,
        Err(message) => return document(StatusCode::BAD_REQUEST, &json!({ "error": message })),
    };
    if request.is_change()
        && let Err(denied) = admin.guard.admit_change(&headers)
    {
        return refuse(&denied, &lease.peer);
    }
    match admin.desk.carry_out(request, group.as_deref(), &asker(&lease.peer)).await {
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
fn refuse(denied: &Denied, peer: &str) -> Response {
    let message = denied.message();
    tracing::warn!(target: "audit", audit = true, by = format!("http {peer}"), why = message,
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
pub(super) fn wants_text(uri: &Uri, headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    uri.query() == Some("text") || accept.starts_with("text/plain")
}

/// JSON that ends with a line, for people with curl.
fn document(code: StatusCode, value: &impl serde::Serialize) -> Response {
    let mut body = serde_json::to_string_pretty(value).unwrap_or_default();
    body.push('\n');
    (code, CLOSE, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
