//! Bytes that nobody honest sends, on the side of clients and on that of backends: no panic, and bounded memory.
//!
//! `FUZZ_SEEDS=<count>` runs more seeds, `FUZZ_SEED=<seed>` one alone.

use std::time::{Duration, Instant};

use handover::logic::multiplexer::{DialOutcome, LinkKey, Multiplexer, Output, Peer, SessionKey};
use handover::logic::route::{Availability, BackendId, Phase, Route};
use handover::resp::arguments::Arguments;
use handover::resp::request::{RequestScanner, Scan};

use super::random::Random;
use super::reply::request;
use super::settings::{OUTPUT_BYTES_MAX, settings};

const SEEDS: u64 = 150;
const STEPS: usize = 400;
/// What one seed may leave behind in the process, at most; what is sent to it is several times as much.
const MEMORY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Requests, good and bad.
const REQUESTS: &[&[u8]] = &[
    b"*0\r\n",
    b"*-1\r\n",
    b"*-5\r\n",
    b"\r\n",
    b"*1\rX$4\rXPING\r\n",
    b"*1\n$4\nPING\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*+1\r\n",
    b"* 1\r\n",
    b"*1e3\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n+PING\r\n",
    b"*2147483647\r\n",
    b"*2147483648\r\n",
    b"*9223372036854775807\r\n",
    b"*1\r\n$18446744073709551615\r\n",
    b"*1\r\n$536870912\r\n",
    b"*1\r\n$536870913\r\n",
    b"*2\r\n$3\r\nGET\r\n$900000\r\n",
    b"GET \"x\\x4\"\r\n",
    b"GET 'x\r\n",
    b"ping\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"*1\r\n$4\r\na\r\nb\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: x\r\n",
    b"\x16\x03\x01\x02",
    b"%1\r\n+a\r\n+b\r\n",
    b"~1\r\n+a\r\n",
    b">1\r\n+a\r\n",
    b"\xff\xfe\x00",
];

const COMMANDS: &[&[&str]] = &[
    &["GET", "a"],
    &["SET", "a", "1"],
    &["INCR", "a"],
    &["MULTI"],
    &["EXEC"],
    &["DISCARD"],
    &["WATCH", "a"],
    &["UNWATCH"],
    &["BLPOP", "a", "1"],
    &["EVAL", "return 1", "0"],
    &["SUBSCRIBE", "c"],
    &["UNSUBSCRIBE"],
    &["PSUBSCRIBE", "c*"],
    &["PUBLISH", "c", "m"],
    &["SELECT", "1"],
    &["SELECT", "9999"],
    &["HELLO", "3"],
    &["HELLO", "2"],
    &["RESET"],
    &["PING"],
    &["ECHO", "x"],
    &["CLIENT", "LIST"],
    &["CLIENT", "ID"],
    &["MONITOR"],
    &["CONFIG", "GET", "x"],
    &["NOSUCH", "x"],
    &["QUIT"],
    &["XREAD", "BLOCK", "5", "STREAMS", "s", "$"],
    &["CLIENT", "SETNAME", "x"],
    &["AUTH", "x"],
    &["EXEC", "x"],
    &["MULTI", "x"],
];

/// Replies, good and bad.
const REPLIES: &[&[u8]] = &[
    b"+OK\r\n",
    b":1\r\n",
    b"$3\r\nabc\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*0\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b"_\r\n",
    b",inf\r\n",
    b"(123\r\n",
    b"#t\r\n",
    b"!5\r\nERR x\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"~1\r\n:1\r\n",
    b"+QUEUED\r\n",
    b"-ERR x\r\n",
    b"-LOADING x\r\n",
    b"-READONLY x\r\n",
    b"-BUSY x\r\n",
    b"-EXECABORT x\r\n",
    b"-NOAUTH x\r\n",
    b"-ERR max number of clients reached\r\n",
    b"-DENIED x\r\n",
    b"+OK\r\n+OK\r\n",
    b"|1\r\n+ttl\r\n:1\r\n+OK\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    b"*1000000000\r\n",
    b"$9223372036854775807\r\n",
    b"%9223372036854775807\r\n",
    b"$?\r\n",
    b"*?\r\n",
    b"$5\r\nabc",
    b"$3\r\nabcXY",
    b"\r\n",
    b"\x00\xff",
    b"*1\r\n>1\r\n+x\r\n",
];

struct Upstream {
    link: LinkKey,
    requests: Vec<u8>,
    scanner: RequestScanner,
    replies: Vec<u8>,
}

struct Bench {
    random: Random,
    now: Instant,
    multiplexer: Multiplexer,
    sessions: Vec<SessionKey>,
    links: Vec<Upstream>,
    /// How often a backend lies, in so many replies.
    lies: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut random = Random(seed);
        let mut multiplexer = Multiplexer::new(settings(0, seed), now);
        let route = Route { epoch: 1, active: Some(BackendId(0)), standby: Some(BackendId(1)), ..Route::unknown() };
        multiplexer.on_route(Route { availability: Availability::Healthy, ..route }, now);
        let lies = [2, 20, 1_000_000][random.below(3) as usize];
        Self { random, now, multiplexer, sessions: Vec::new(), links: Vec::new(), lies }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..8 => self.say(),
            8 if self.sessions.len() < 12 => {
                let session = self.multiplexer.on_client(Peer::default(), self.now);
                self.sessions.push(session);
            }
            9..14 => self.exchange(),
            14 => self.babble(),
            15 => self.switch(),
            16 => self.lose(),
            _ => {
                self.now += Duration::from_millis(1 + self.random.below(40));
                self.multiplexer.on_tick(self.now);
            }
        }
        self.carry_out();
        self.hear();
    }

    fn session(&mut self) -> Option<SessionKey> {
        let count = self.sessions.len() as u64;
        (count > 0).then(|| self.sessions[self.random.below(count) as usize])
    }

    fn pick<'a>(&mut self, choices: &[&'a [u8]]) -> &'a [u8] {
        choices[self.random.below(choices.len() as u64) as usize]
    }

    /// A client sends a few requests, mostly good ones, some with a byte changed, in pieces.
    fn say(&mut self) {
        let Some(session) = self.session() else { return };
        let mut bytes = Vec::new();
        for _ in 0..=self.random.below(6) {
            match self.random.below(40) {
                0 => bytes.extend_from_slice(self.pick(REQUESTS)),
                1 => bytes.extend((0..self.random.below(200)).map(|_| self.random.next() as u8).collect::<Vec<_>>()),
                2 => bytes.extend(request(&["SET", "a", &"x".repeat(self.random.below(200_000) as usize)])),
                3 => bytes.extend(vec![b'7'; self.random.below(100_000) as usize]),
                4 => bytes.extend(b"*1\r\n".repeat(self.random.below(2000) as usize)),
                5 => bytes.extend(request(&["PING"]).repeat(self.random.below(3000) as usize)),
                _ => bytes.extend(request(COMMANDS[self.random.below(COMMANDS.len() as u64) as usize])),
            }
        }
        if self.random.one_in(8) {
            self.garble(&mut bytes);
        }
        while !bytes.is_empty() && self.multiplexer.wants_client_bytes(session) {
            let count = self.piece();
            let rest = bytes.split_off(count.min(bytes.len()));
            self.multiplexer.on_client_bytes(session, &bytes, self.now);
            bytes = rest;
        }
    }

    /// How many bytes come at once.
    fn piece(&mut self) -> usize {
        let longest = [3, 100, 70_000][self.random.below(3) as usize];
        1 + self.random.below(longest) as usize
    }

    fn garble(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let index = self.random.below(bytes.len() as u64) as usize;
        match self.random.below(4) {
            0 => bytes[index] = self.random.next() as u8,
            1 => {
                bytes.remove(index);
            }
            2 => bytes.insert(index, self.random.next() as u8),
            _ => bytes.truncate(index),
        }
    }

    /// Every connection is written, and answered.
    fn exchange(&mut self) {
        while self.multiplexer.next_link_to_write().is_some() {}
        for index in 0..self.links.len() {
            let link = self.links[index].link;
            let bytes = self.multiplexer.link_output(link, self.now).to_vec();
            self.multiplexer.on_link_written(link, bytes.len(), self.now);
            self.links[index].requests.extend_from_slice(&bytes);
            self.answer(index);
            let mut replies = std::mem::take(&mut self.links[index].replies);
            while !replies.is_empty() && self.multiplexer.wants_link_bytes(link) {
                let count = self.piece();
                let rest = replies.split_off(count.min(replies.len()));
                self.multiplexer.on_link_bytes(link, &replies, self.now);
                replies = rest;
            }
            self.links[index].replies = replies;
        }
    }

    fn answer(&mut self, index: usize) {
        loop {
            let upstream = &mut self.links[index];
            // Only what is well-formed is ever written to a backend.
            let frame = match upstream.scanner.scan(&upstream.requests) {
                Scan::Frame(frame) => frame,
                Scan::Invalid(error) => panic!("written to a backend: {error:?}"),
                _ => return,
            };
            let bytes: Vec<u8> = upstream.requests.drain(..frame.bytes).collect();
            upstream.scanner = RequestScanner::new(1 << 30);
            let mut words = Arguments::new(&bytes);
            let is_echo = words.next().is_some_and(|name| name.eq_ignore_ascii_case(b"ECHO"));
            let mut reply = match words.next().filter(|_| is_echo) {
                Some(word) => [format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat(),
                None => REPLIES[self.random.below(7) as usize].to_vec(),
            };
            if self.random.one_in(self.lies) {
                reply = self.pick(REPLIES).to_vec();
                if self.random.one_in(4) {
                    reply = [b"*1\r\n".repeat(self.random.below(9000) as usize), reply].concat();
                }
                if self.random.one_in(4) {
                    self.garble(&mut reply);
                }
            }
            self.links[index].replies.extend(reply);
        }
    }

    /// A backend says what nobody asked for.
    fn babble(&mut self) {
        if self.links.is_empty() || !self.random.one_in(self.lies.min(50)) {
            return;
        }
        let index = self.random.below(self.links.len() as u64) as usize;
        let bytes = match self.random.below(3) {
            0 => vec![b'+'; self.random.below(200_000) as usize],
            _ => self.pick(REPLIES).to_vec(),
        };
        let link = self.links[index].link;
        if self.multiplexer.wants_link_bytes(link) {
            self.multiplexer.on_link_bytes(link, &bytes, self.now);
        }
    }

    fn switch(&mut self) {
        let mut route = self.multiplexer.route().clone();
        let other = BackendId(1 - route.active.map_or(0, |active| active.0));
        match route.phase {
            Phase::Serve if self.random.one_in(2) => {
                route.phase = Phase::Cut { to: other, attempt: self.random.next() }
            }
            Phase::Serve => {
                let until = self.now + Duration::from_millis(100);
                route.phase = Phase::Hold { to: other, attempt: self.random.next(), until };
            }
            _ => {
                route = Route {
                    epoch: route.epoch + 1,
                    active: Some(other),
                    standby: route.active,
                    phase: Phase::Serve,
                    ..route
                };
            }
        }
        self.multiplexer.on_route(route, self.now);
    }

    fn lose(&mut self) {
        if self.random.one_in(2) && !self.links.is_empty() {
            let index = self.random.below(self.links.len() as u64) as usize;
            let upstream = self.links.remove(index);
            self.multiplexer.on_link_lost(upstream.link, "reset", self.now);
        } else if let Some(session) = self.session() {
            self.multiplexer.on_client_end(session, self.now);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Dial(dial) => {
                    let outcome = match self.random.below(10) {
                        0 => DialOutcome::Failed("refused".to_owned()),
                        _ => DialOutcome::Ready {
                            client_id: Some(7),
                            server: None,
                            takes_groups: self.random.below(5) > 0,
                        },
                    };
                    if self.multiplexer.on_dialled(dial.link, outcome, self.now) {
                        let scanner = RequestScanner::new(1 << 30);
                        self.links.push(Upstream {
                            link: dial.link,
                            requests: Vec::new(),
                            scanner,
                            replies: Vec::new(),
                        });
                    }
                }
                Output::CloseLink { link, .. } => self.links.retain(|upstream| upstream.link != link),
                Output::CloseSession { session, .. } => self.sessions.retain(|known| *known != session),
                Output::Inquire { session, inquiry } => {
                    let finding = self.multiplexer.on_inquiry(&inquiry, self.now);
                    self.multiplexer.on_findings(session, &inquiry, finding, self.now);
                }
                Output::Resume(_)
                | Output::ResumeLink(_)
                | Output::Report(_)
                | Output::Unblock { .. }
                | Output::FailedLogin { .. }
                | Output::RevokedLogin { .. } => {}
            }
        }
    }

    /// Clients read, some slowly.
    fn hear(&mut self) {
        while self.multiplexer.next_session_to_write().is_some() {}
        for session in self.sessions.clone() {
            let bytes = self.multiplexer.client_output(session).len();
            // One reply may be longer than what stops the reading.
            assert!(bytes <= OUTPUT_BYTES_MAX * 12 + 1024 * 1024, "output without a bound: {bytes}");
            if bytes > 0 && !self.random.one_in(5) {
                self.multiplexer.on_client_written(session, bytes, self.now);
            }
        }
        assert!(self.links.len() <= 600, "connections without a bound: {}", self.links.len());
    }
}

fn memory_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
    pages * 4096
}

fn run(seed: u64) {
    let outcome = std::panic::catch_unwind(|| {
        let mut bench = Bench::new(seed);
        (0..STEPS).for_each(|_| bench.step());
    });
    if let Err(panic) = outcome {
        eprintln!("FUZZ_SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_bytes_make_it_panic_or_grow() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("FUZZ_SEED") {
        return run(seed);
    }
    run(0);
    let before = memory_bytes();
    (1..number("FUZZ_SEEDS").unwrap_or(SEEDS)).for_each(run);
    let grown = memory_bytes().saturating_sub(before);
    assert!(grown <= MEMORY_BYTES_MAX, "{grown} bytes more than at first");
}

/// A client that sends one byte at a time, and little of it, costs little.
#[test]
fn ten_thousand_slow_clients_are_cheap() {
    const SLOW_CLIENTS: usize = 10_000;
    let now = Instant::now();
    let mut multiplexer = Multiplexer::new(settings(0, 1), now);
    let before = memory_bytes();
    let sessions: Vec<SessionKey> = (0..SLOW_CLIENTS).map(|_| multiplexer.on_client(Peer::default(), now)).collect();
    // All but the last byte of a request.
    let bytes = request(&["SET", "key", "value"]);
    for byte in &bytes[..bytes.len() - 1] {
        for session in &sessions {
            multiplexer.on_client_bytes(*session, &[*byte], now);
        }
    }
    let each = memory_bytes().saturating_sub(before) / SLOW_CLIENTS;
    assert!(each <= 4096, "{each} bytes for each slow client");
    assert_eq!(multiplexer.clients(), SLOW_CLIENTS);
}
