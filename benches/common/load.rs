//! Clients whose every command can be accounted for: INCR and SET in turn, spread evenly over time.
#![allow(dead_code, reason = "each benchmark uses its own part")]
#![allow(unreachable_pub, reason = "every benchmark is a crate of its own")]

use std::time::{Duration, Instant};

use crate::support::{RawClient, RedisServer, Value};

/// Connections.
pub const CLIENTS: u32 = 20;
/// A command of some client falls due every 5 ms: 200 a second.
pub const STEP: Duration = Duration::from_millis(5);
/// What the first backend's counters begin with, so that a reply tells who gave it.
const FIRST_COUNT: i64 = 1_000_000;

/// What a client sent and got.
pub struct Sample {
    pub is_increment: bool,
    pub sent: Instant,
    pub replied: Instant,
    pub outcome: Outcome,
}

/// What came of a command.
pub enum Outcome {
    /// A good reply; an INCR's tells the count.
    Success(Option<i64>),
    Uncertain,
    Error(String),
}

/// What does not add up, over all clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    /// Acknowledged, and not there.
    pub lost: i64,
    /// There more often than acknowledged and uncertain together.
    pub doubled: i64,
}

fn counter_of(client: u32) -> String {
    format!("counter:{client}")
}

fn text_of(client: u32) -> String {
    format!("text:{client}")
}

/// Before the load: replies of the first backend can be told from those of the second.
pub fn prepare(first: &RedisServer) {
    for client in 0..CLIENTS {
        first.command(&["SET", &counter_of(client), &FIRST_COUNT.to_string()]);
    }
}

/// One client: a command at each of its moments, each after the reply to the one before, until `is_over` says so.
pub fn client(
    number: u32,
    mut connection: RawClient,
    start: Instant,
    mut is_over: impl FnMut() -> bool,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut due = start + STEP * number;
    loop {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if is_over() {
            return samples;
        }
        let is_increment = samples.len() % 2 == number as usize % 2;
        let sent = Instant::now();
        if is_increment {
            connection.send_command(&["INCR", &counter_of(number)]);
        } else {
            connection.send_command(&["SET", &text_of(number), &samples.len().to_string()]);
        }
        let reply = connection.read_reply_or_end();
        let is_ended = reply.is_none();
        samples.push(Sample { is_increment, sent, replied: Instant::now(), outcome: outcome_of(reply) });
        if is_ended {
            return samples;
        }
        while due <= Instant::now() {
            due += STEP * CLIENTS;
        }
    }
}

fn outcome_of(reply: Option<Value>) -> Outcome {
    match reply {
        Some(Value::Integer(count)) => Outcome::Success(Some(count)),
        Some(Value::Simple(text)) if text == "OK" => Outcome::Success(None),
        Some(error) if error.is_error("UNCERTAIN") => Outcome::Uncertain,
        Some(other) => Outcome::Error(other.text()),
        None => Outcome::Error("the connection ended".to_owned()),
    }
}

/// From `at` to the first good reply to a command that was sent after it, on any connection.
pub fn first_success(samples: &[Vec<Sample>], at: Instant) -> Option<Duration> {
    let served = samples.iter().flatten().filter(|sample| sample.sent > at);
    served.filter(|sample| matches!(sample.outcome, Outcome::Success(_))).map(|sample| sample.replied - at).min()
}

/// The longest wait of any command that was answered after `at`.
pub fn longest_wait(samples: &[Vec<Sample>], at: Instant) -> Option<Duration> {
    let after = samples.iter().flatten().filter(|sample| sample.replied > at);
    after.map(|sample| sample.replied - sample.sent).max()
}

/// How many were answered `-UNCERTAIN`.
pub fn uncertain(samples: &[Vec<Sample>]) -> u64 {
    samples.iter().flatten().filter(|sample| matches!(sample.outcome, Outcome::Uncertain)).count() as u64
}

/// Every other error.
pub fn errors(samples: &[Vec<Sample>]) -> Vec<String> {
    let error = |sample: &Sample| match &sample.outcome {
        Outcome::Error(text) => Some(text.clone()),
        Outcome::Success(_) | Outcome::Uncertain => None,
    };
    samples.iter().flatten().filter_map(error).collect()
}

/// On each server that still has its data every counter must stand between what was acknowledged there and that plus
/// what is uncertain; and the last SET of every client must be on the `last` active.
pub fn audit(
    samples: &[Vec<Sample>],
    first: Option<&RedisServer>,
    second: Option<&RedisServer>,
    last: Option<&RedisServer>,
) -> Ledger {
    let mut ledger = Ledger::default();
    for (number, samples) in (0..CLIENTS).zip(samples) {
        audit_client(&mut ledger, number, samples, (first, second));
        let text = samples.iter().enumerate().rfind(|(_, sample)| !sample.is_increment);
        if let (Some(server), Some((turn, Sample { outcome: Outcome::Success(_), .. }))) = (last, text) {
            ledger.lost += i64::from(server.command(&["GET", &text_of(number)]).text() != turn.to_string());
        }
    }
    ledger
}

fn audit_client(
    ledger: &mut Ledger,
    number: u32,
    samples: &[Sample],
    (first, second): (Option<&RedisServer>, Option<&RedisServer>),
) {
    let counts =
        || samples.iter().filter_map(|sample| if let Outcome::Success(count) = sample.outcome { count } else { None });
    let is_doubtful = |sample: &&Sample| sample.is_increment && !matches!(sample.outcome, Outcome::Success(_));
    let in_doubt = samples.iter().filter(is_doubtful).count() as i64;
    let of_first = counts().filter(|&count| count > FIRST_COUNT).count() as i64;
    let of_second = counts().count() as i64 - of_first;
    let on_first = first.map(|server| count_on(server, number) - FIRST_COUNT);
    let on_second = second.map(|server| count_on(server, number));
    for (acknowledged, applied) in [(of_first, on_first), (of_second, on_second)] {
        if let Some(applied) = applied {
            compare(ledger, acknowledged, applied, in_doubt);
        }
    }
    if let (Some(on_first), Some(on_second)) = (on_first, on_second) {
        compare(ledger, of_first + of_second, on_first + on_second, in_doubt);
    }
}

fn compare(ledger: &mut Ledger, acknowledged: i64, applied: i64, in_doubt: i64) {
    ledger.lost += (acknowledged - applied).max(0);
    ledger.doubled += (applied - acknowledged - in_doubt).max(0);
}

fn count_on(server: &RedisServer, client: u32) -> i64 {
    match server.command(&["GET", &counter_of(client)]) {
        Value::Bulk(text) => String::from_utf8_lossy(&text).parse().expect("INCR leaves an integer"),
        _ => 0,
    }
}
