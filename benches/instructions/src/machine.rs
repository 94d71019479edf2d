//! The multiplexer with a shell of memory: what a worker does with sockets is done here with buffers, in the same order.
//! Only what the product does itself is counted; the backend, and the clients, are not.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::command::policy::Policy;
use crate::logic::identity::IdentitySettings;
use crate::logic::multiplexer::{Commons, Dial, DialOutcome, LinkKey, Multiplexer, Output, Peer, SessionKey, Settings};
use crate::logic::route::{Availability, BackendId, Phase, Route};
use crate::logic::settings::{
    Clock, DetectorSettings, Failback, FailoverSettings, InitialPolicy, LatencySettings, LimitSettings, NoneHealthy,
    PubSubMode, PubSubSettings, RetryCeiling, RetrySettings,
};
use crate::resp::arguments::Arguments;
use crate::resp::encode;
use crate::resp::request::{RequestScanner, Scan};

/// What the workers read from a client, and from a backend, at a time.
const CLIENT_READ_BYTES: usize = 64 * 1024;
const LINK_READ_BYTES: usize = 256 * 1024;
/// Between two turns.
const TURN: Duration = Duration::from_micros(50);

/// Callgrind counts what happens in here and nothing else: it is told this name (`--toggle-collect`).
#[inline(never)]
pub fn measured_by_callgrind<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

pub struct Machine {
    multiplexer: Multiplexer,
    now: Instant,
    links: Vec<LinkKey>,
    /// Replies of the commands queued since MULTI, by connection.
    queued: HashMap<LinkKey, Vec<Vec<u8>>>,
    /// What every key holds.
    value: Vec<u8>,
}

impl Machine {
    /// One backend, in which every key holds `value_bytes` bytes.
    pub fn new(mode: PubSubMode, value_bytes: usize) -> Self {
        Self::among(1, mode, value_bytes)
    }

    /// So many backends, the last of which serves.
    pub fn among(backends: u16, mode: PubSubMode, value_bytes: usize) -> Self {
        let now = Instant::now();
        let mut multiplexer = Multiplexer::new(settings(mode, now), now);
        multiplexer.set_connections_max((0..backends).map(|number| (BackendId(number), None)));
        let active = Some(BackendId(backends - 1));
        let route =
            Route { epoch: 1, active, phase: Phase::Serve, availability: Availability::Healthy, ..Route::unknown() };
        multiplexer.on_route(route, now);
        let mut machine =
            Self { multiplexer, now, links: vec![], queued: HashMap::new(), value: vec![b'v'; value_bytes] };
        machine.carry_out();
        machine
    }

    pub fn client(&mut self) -> SessionKey {
        let key = self.multiplexer.on_client(Peer::default(), self.now);
        self.carry_out();
        key
    }

    /// A client sends bytes, as a worker reads them.
    pub fn say(&mut self, client: SessionKey, bytes: &[u8]) {
        for part in bytes.chunks(CLIENT_READ_BYTES) {
            measured_by_callgrind(|| self.multiplexer.on_client_bytes(client, part, self.now));
            self.carry_out();
        }
    }

    /// Lets the backend answer everything; returns how many bytes clients got.
    pub fn serve(&mut self) -> usize {
        let mut heard = 0;
        self.now += TURN;
        while let Some((link, replies)) = self.answered() {
            heard += self.reply(link, &replies);
        }
        heard
    }

    /// The backend sends bytes; returns how many clients got.
    pub fn reply(&mut self, link: LinkKey, bytes: &[u8]) -> usize {
        let mut heard = 0;
        for part in bytes.chunks(LINK_READ_BYTES) {
            measured_by_callgrind(|| self.multiplexer.on_link_bytes(link, part, self.now));
            heard += self.carry_out();
        }
        heard
    }

    /// The connection that was opened last.
    pub fn newest_link(&self) -> LinkKey {
        *self.links.last().expect("a connection was opened")
    }

    /// What a worker does after each event; returns how many bytes it wrote to clients.
    fn carry_out(&mut self) -> usize {
        let mut written = 0;
        while let Some(dial) = measured_by_callgrind(|| turn(&mut self.multiplexer, self.now, &mut written)) {
            self.links.push(dial.link);
            let ready = DialOutcome::Ready { client_id: Some(40), server: None, takes_groups: true };
            self.multiplexer.on_dialled(dial.link, ready, self.now);
        }
        written
    }

    /// Writes to the next connection that wants it, and has the backend answer.
    fn answered(&mut self) -> Option<(LinkKey, Vec<u8>)> {
        let link = measured_by_callgrind(|| self.multiplexer.next_link_to_write())?;
        let requests = measured_by_callgrind(|| self.multiplexer.link_output(link, self.now)).to_vec();
        measured_by_callgrind(|| self.multiplexer.on_link_written(link, requests.len(), self.now));
        measured_by_callgrind(|| black_box(self.multiplexer.link_output(link, self.now)).len());
        let mut replies = Vec::new();
        let mut rest = &requests[..];
        while let Scan::Frame(frame) = RequestScanner::new(1 << 30).scan(rest) {
            let words: Vec<&[u8]> = Arguments::new(&rest[..frame.bytes]).collect();
            self.answer(link, &words, &mut replies);
            rest = &rest[frame.bytes..];
        }
        Some((link, replies))
    }

    fn answer(&mut self, link: LinkKey, words: &[&[u8]], replies: &mut Vec<u8>) {
        let reply = match words[0] {
            b"GET" => bulks(&[&self.value])[4..].to_vec(),
            b"BLPOP" => bulks(&[words[1], &self.value]),
            b"ECHO" => bulks(&[words[1]])[4..].to_vec(),
            b"PING" => b"+PONG\r\n".to_vec(),
            b"SUBSCRIBE" => [&b"*3\r\n$9\r\nsubscribe\r\n"[..], &bulks(&[words[1]])[4..], b":1\r\n"].concat(),
            b"SET" | b"MULTI" => b"+OK\r\n".to_vec(),
            b"EXEC" => {
                let queued = self.queued.remove(&link).expect("EXEC comes after MULTI");
                [format!("*{}\r\n", queued.len()).as_bytes(), &queued.concat()].concat()
            }
            other => panic!("the backend of this bench knows no {}", String::from_utf8_lossy(other)),
        };
        match self.queued.get_mut(&link) {
            Some(queued) => {
                queued.push(reply);
                replies.extend_from_slice(b"+QUEUED\r\n");
            }
            None => replies.extend_from_slice(&reply),
        }
        if words[0] == b"MULTI" {
            self.queued.insert(link, Vec::new());
        }
    }
}

/// `Hub::carry_out` without its sockets; returns when a connection is wanted.
fn turn(multiplexer: &mut Multiplexer, now: Instant, written: &mut usize) -> Option<Dial> {
    loop {
        while let Some(client) = multiplexer.next_session_to_write() {
            let bytes = black_box(multiplexer.client_output(client)).len();
            multiplexer.on_client_written(client, bytes, now);
            *written += black_box(multiplexer.client_output(client)).is_empty() as usize * bytes;
        }
        match multiplexer.poll() {
            Some(Output::Dial(dial)) => return Some(dial),
            Some(output) => drop(black_box(output)),
            None => break,
        }
    }
    black_box((multiplexer.has_link_to_write(), multiplexer.is_waiting()));
    None
}

/// A command as clients send it, and an array as servers answer it.
pub fn bulks(words: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::request(&mut out, words);
    out.to_vec()
}

/// The defaults of the reference configuration, where they matter to a command.
fn settings(mode: PubSubMode, now: Instant) -> Settings {
    let ms = Duration::from_millis;
    Settings {
        failover: FailoverSettings {
            hold: ms(1500),
            drain: ms(1000),
            failback: Failback::Auto,
            failback_hold: ms(60_000),
            failback_jitter: 0.1,
            switches_max: 3,
            switches_window: ms(600_000),
            initial: InitialPolicy::One,
            attempts: 0,
            delay: ms(1000),
            none_healthy: NoneHealthy::LastActive,
            checks_cursors: true,
        },
        retry: RetrySettings {
            ceiling: RetryCeiling::WriteLastWins,
            rearm_blocked: true,
            attempts: 3,
            budget: 0.1,
            deadline: ms(2000),
        },
        limits: LimitSettings {
            clients_max: 10_000,
            pins_per_backend_max: 500,
            pin_wait: ms(1000),
            inflight_max: 10_000,
            output_bytes_max: 1 << 20,
            held_bytes_max: 64 << 20,
            value_bytes_max: 512 << 20,
            scripts_max: 1000,
            script_bytes_max: 16 << 20,
        },
        detector: DetectorSettings {
            hang_timeout: ms(1000),
            suspect_after: ms(50),
            slow_timeout: ms(6000),
            window: ms(2000),
            failures_min: 1000,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        },
        policy: Policy::default(),
        client_id_first: 1,
        client_id_step: 1,
        connects_per_second: 500.0,
        commons: Arc::new(Commons::new(1000, 16 << 20)),
        database: Some(0),
        pubsub: PubSubSettings { mode, ..PubSubSettings::default() },
        clock: Clock { origin: now, origin_unix_ms: 0 },
        identity: IdentitySettings::default(),
        users: Arc::default(),
        seed: 1,
    }
}
