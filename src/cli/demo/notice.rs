//! What Handover says of itself: its log lines, and its state in JSON.

use std::net::SocketAddr;

use serde_json::Value;

/// A log line that the demo cares for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Clients can connect here.
    Listening(SocketAddr),
    /// Operators can look here.
    Admin(SocketAddr),
    /// The active changed.
    Switched(Box<Switched>),
    /// A warning or an error.
    Trouble(String),
}

/// A change of the active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Switched {
    /// "none" at the start.
    pub(super) from: String,
    /// The new one.
    pub(super) to: String,
    /// Why: "connection lost", "failback" …
    pub(super) reason: String,
    /// Its number.
    pub(super) epoch: u64,
    /// From the fault to the decision, in microseconds.
    pub(super) detect_us: u64,
    /// From the decision to the first command on the new active, in microseconds.
    pub(super) switch_us: u64,
    /// What became of the commands that were in flight, those that there were.
    pub(super) judged: Vec<(&'static str, u64)>,
}

impl Switched {
    /// The old active still worked.
    pub(super) fn planned(&self) -> bool {
        ["failback", "operator"].contains(&self.reason.as_str())
    }

    /// The first choice is no change.
    pub(super) fn first(&self) -> bool {
        self.reason == "start" || self.from == "none" || self.from.is_empty()
    }
}

/// How the group stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Status {
    /// The active backend.
    pub(super) active: Option<String>,
    /// Grows with each switch.
    pub(super) epoch: u64,
    /// Why the active is active.
    pub(super) reason: String,
    /// Every backend.
    pub(super) backends: Vec<BackendStatus>,
}

/// How a backend stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BackendStatus {
    /// Its name.
    pub(super) name: String,
    /// Its weight.
    pub(super) weight: f64,
    /// Health checks are good.
    pub(super) healthy: bool,
    /// The breaker: closed, open, half-open.
    pub(super) circuit: String,
    /// The last health check in words.
    pub(super) verdict: String,
}

/// What became of commands in flight: the log's fields and how to say them.
const JUDGED: [(&str, &str); 7] = [
    ("moved", "moved"),
    ("repeated", "repeated"),
    ("rearmed", "still blocked"),
    ("uncertain", "outcome unknown"),
    ("not_applied", "not applied"),
    ("aborted", "transactions aborted"),
    ("gone", "of clients that had gone"),
];

/// Reads a log line; `None`: nothing to see.
pub(super) fn notice(line: &str) -> Option<Notice> {
    let Ok(record) = serde_json::from_str::<Value>(line) else {
        // What is not JSON was written before there was a log, or by a panic.
        let text = harmless(line.trim());
        return (!text.is_empty()).then_some(Notice::Trouble(text));
    };
    let message = text(&record, "message");
    match message.as_str() {
        "listening" => text(&record, "address").parse().ok().map(Notice::Listening),
        "admin listening" => text(&record, "address").parse().ok().map(Notice::Admin),
        "switched" => Some(Notice::Switched(Box::new(switched(&record)))),
        _ => trouble(&record, &message),
    }
}

fn switched(record: &Value) -> Switched {
    let count = |key| number(record, key).unwrap_or_default() as u64;
    Switched {
        from: text(record, "from"),
        to: text(record, "to"),
        reason: text(record, "reason"),
        epoch: count("epoch"),
        detect_us: micros(record, "detect_us", "detect_ms"),
        switch_us: micros(record, "switch_us", "switch_ms"),
        judged: JUDGED.iter().map(|(key, word)| (*word, count(*key))).filter(|(_, count)| *count > 0).collect(),
    }
}

fn micros(record: &Value, in_micros: &str, in_millis: &str) -> u64 {
    let millis = || number(record, in_millis).map(|millis| millis * 1000.0);
    number(record, in_micros).or_else(millis).unwrap_or_default() as u64
}

fn trouble(record: &Value, message: &str) -> Option<Notice> {
    let level = text(record, "level");
    if !["WARN", "ERROR"].contains(&level.as_str()) {
        return None;
    }
    let details = ["backend", "reason", "cause", "why", "error", "panic"]
        .map(|key| text(record, key))
        .into_iter()
        .filter(|detail| !detail.is_empty());
    let all: Vec<String> = std::iter::once(message.to_owned()).chain(details).collect();
    Some(Notice::Trouble(all.join(", ")))
}

/// Reads `/status`.
pub(super) fn status(body: &str) -> Option<Status> {
    let whole: Value = serde_json::from_str(body).ok()?;
    let group = whole.get("groups")?.get(0)?;
    let backends = group.get("backends")?.as_array()?.iter().map(backend_status).collect();
    Some(Status {
        active: group.get("active")?.as_str().map(harmless),
        epoch: group.get("epoch")?.as_u64()?,
        reason: text(group, "reason"),
        backends,
    })
}

fn backend_status(backend: &Value) -> BackendStatus {
    BackendStatus {
        name: text(backend, "name"),
        weight: number(backend, "weight").unwrap_or_default(),
        healthy: backend.get("healthy").and_then(Value::as_bool).unwrap_or_default(),
        circuit: text(backend, "circuit"),
        verdict: text(backend, "last_verdict"),
    }
}

/// A field of a record, which may lie in its "fields".
fn field<'a>(record: &'a Value, key: &str) -> Option<&'a Value> {
    record.get(key).or_else(|| record.get("fields")?.get(key))
}

fn text(record: &Value, key: &str) -> String {
    match field(record, key) {
        Some(Value::String(text)) => harmless(text),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn number(record: &Value, key: &str) -> Option<f64> {
    let value = field(record, key)?;
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// Nothing that a server says may move the cursor of the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_flat_or_nested() {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        for (line, expected) in [
            (r#"{"level":"INFO","message":"listening","address":"127.0.0.1:4711"}"#, Notice::Listening(address)),
            (r#"{"fields":{"message":"listening","address":"127.0.0.1:4711"}}"#, Notice::Listening(address)),
            (r#"{"message":"admin listening","address":"127.0.0.1:4711"}"#, Notice::Admin(address)),
        ] {
            assert_eq!(notice(line), Some(expected), "{line}");
        }
        assert_eq!(notice(r#"{"message":"listening","address":"unix:///x"}"#), None);
    }

    #[test]
    fn a_switch_is_read_whole() {
        let line = r#"{"level":"WARN","message":"switched","from":"east","to":"west","reason":"connection lost",
            "epoch":2,"detect_us":1500,"switch_ms":2.5,"moved":3,"rearmed":"1","repeated":0}"#;
        let Some(Notice::Switched(switched)) = notice(line) else { panic!("{:?}", notice(line)) };
        let expected = Switched {
            from: "east".to_owned(),
            to: "west".to_owned(),
            reason: "connection lost".to_owned(),
            epoch: 2,
            detect_us: 1500,
            switch_us: 2500,
            judged: vec![("moved", 3), ("still blocked", 1)],
        };
        assert_eq!(*switched, expected);
        assert!(!switched.planned() && !switched.first());
        assert!(Switched { reason: "failback".to_owned(), ..expected.clone() }.planned());
        assert!(Switched { from: "none".to_owned(), ..expected }.first());
    }

    #[test]
    fn warnings_are_told_without_control_characters() {
        let line = r#"{"level":"WARN","message":"backend is unhealthy","backend":"east","cause":"a\u001b[2Jb"}"#;
        assert_eq!(notice(line), Some(Notice::Trouble("backend is unhealthy, east, a [2Jb".to_owned())));
        assert_eq!(notice("error: \u{7}x"), Some(Notice::Trouble("error:  x".to_owned())));
        assert_eq!(notice(r#"{"level":"INFO","message":"backend is healthy"}"#), None);
        assert_eq!(notice(" "), None);
    }

    #[test]
    fn the_status_is_read() {
        let body = r#"{"groups":[{"active":"east","epoch":3,"reason":"the heaviest","backends":[
            {"name":"east","weight":1.0,"healthy":true,"circuit":"closed","last_verdict":"good"},
            {"name":"west","weight":0.5,"healthy":false,"circuit":"open","last_verdict":"refused"}]}]}"#;
        let status = status(body).unwrap();
        assert_eq!((status.active.as_deref(), status.epoch, status.reason.as_str()), (Some("east"), 3, "the heaviest"));
        let names: Vec<_> = status.backends.iter().map(|backend| (backend.name.as_str(), backend.healthy)).collect();
        assert_eq!(names, [("east", true), ("west", false)]);
        assert_eq!(super::status("{}"), None);
        assert_eq!(super::status("not found"), None);
    }
}
