//! One multiplexer, one hand-made backend: what is said to whom, and what becomes of it at a fault.

mod client_commands;
mod combinations;
mod held;
mod identity;
mod local_answers;
mod long_replies;
mod pins;
mod pubsub;
mod room;
mod scans_and_scripts;
mod stuck;
mod timing;
mod uploads;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::logic::route::Availability;
use crate::logic::settings::{
    Clock, Failback, InitialPolicy, LatencySettings, NoneHealthy, PubSubSettings, RetryCeiling,
};

mod connection_state;

struct Bench {
    multiplexer: Multiplexer,
    now: Instant,
    epoch: u64,
    /// Every connection that is open, in the order in which they were asked for.
    links: Vec<(LinkKey, Dial)>,
    closed: Vec<(SessionKey, CloseReason)>,
    reports: Vec<Report>,
    unblocked: Vec<i64>,
    dials: bool,
    /// Replies of the commands queued since MULTI, by connection.
    queued: std::collections::HashMap<LinkKey, Vec<String>>,
    /// What opening a connection with a login comes to, when it does not just work.
    outcome: fn(BackendId, &crate::logic::identity::Login) -> Option<DialOutcome>,
    takes_groups: bool,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn settings(ceiling: RetryCeiling) -> Settings {
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
        retry: RetrySettings { ceiling, rearm_blocked: true, attempts: 3, budget: 0.1, deadline: ms(2000) },
        limits: LimitSettings {
            clients_max: 100,
            pins_per_backend_max: 2,
            pin_wait: ms(200),
            inflight_max: 8,
            output_bytes_max: 1000,
            held_bytes_max: 1 << 20,
            value_bytes_max: 1 << 20,
            scripts_max: 100,
            script_bytes_max: 1 << 20,
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
        client_id_first: 7,
        client_id_step: 1,
        connects_per_second: 500.0,
        commons: std::sync::Arc::new(Commons::new(100, 1 << 20)),
        database: Some(0),
        pubsub: PubSubSettings::default(),
        clock: Clock { origin: Instant::now(), origin_unix_ms: 0 },
        identity: IdentitySettings::default(),
        users: Arc::default(),
        seed: 1,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(settings(RetryCeiling::WriteLastWins))
    }

    fn with(settings: Settings) -> Self {
        let now = Instant::now();
        let multiplexer = Multiplexer::new(settings, now);
        let mut bench = Self {
            multiplexer,
            now,
            epoch: 0,
            links: vec![],
            closed: vec![],
            reports: vec![],
            unblocked: vec![],
            dials: true,
            queued: std::collections::HashMap::new(),
            outcome: |_, _| None,
            takes_groups: true,
        };
        bench.switch(0);
        bench
    }

    fn route(&mut self, active: u16, phase: Phase) {
        let route = Route {
            epoch: self.epoch,
            active: Some(BackendId(active)),
            phase,
            availability: Availability::Healthy,
            ..Route::unknown()
        };
        self.multiplexer.on_route(route, self.now);
        self.settle();
    }

    fn switch(&mut self, to: u16) {
        self.epoch += 1;
        self.route(to, Phase::Serve);
    }

    /// Carries out what is to be done, but for bytes to be written.
    fn settle(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Dial(dial) if self.dials => {
                    let login = self.multiplexer.login(dial.profile.identity);
                    let outcome = login.and_then(|login| (self.outcome)(dial.backend, &login));
                    if let Some(outcome) = outcome {
                        if self.multiplexer.on_dialled(dial.link, outcome, self.now) {
                            self.links.push((dial.link, dial));
                        }
                        continue;
                    }
                    self.links.push((dial.link, dial));
                    let ready = DialOutcome::Ready {
                        client_id: Some(40 + self.links.len() as i64),
                        server: None,
                        takes_groups: self.takes_groups,
                    };
                    self.multiplexer.on_dialled(dial.link, ready, self.now);
                }
                Output::Dial(dial) => {
                    self.multiplexer.on_dialled(dial.link, DialOutcome::Failed("refused".to_owned()), self.now);
                }
                Output::CloseLink { link, .. } => self.links.retain(|(open, _)| *open != link),
                Output::CloseSession { session, reason } => self.closed.push((session, reason)),
                Output::Report(report) => self.reports.push(report),
                Output::Unblock { client_id, .. } => self.unblocked.push(client_id),
                Output::Inquire { session, inquiry } => {
                    let finding = self.multiplexer.on_inquiry(&inquiry, self.now);
                    self.unblocked.extend(finding.blocked.map(|(_, client_id)| client_id));
                    self.multiplexer.on_findings(session, &inquiry, finding, self.now);
                }
                Output::Resume(_)
                | Output::ResumeLink(_)
                | Output::FailedLogin { .. }
                | Output::RevokedLogin { .. } => {}
            }
        }
    }

    fn client(&mut self) -> SessionKey {
        self.multiplexer.on_client(Peer::default(), self.now)
    }

    fn say(&mut self, client: SessionKey, lines: &[&str]) {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| frame(line)).collect();
        self.multiplexer.on_client_bytes(client, &bytes, self.now);
        self.settle();
    }

    /// What a client has to read by now.
    fn heard(&mut self, client: SessionKey) -> String {
        let text = String::from_utf8_lossy(self.multiplexer.client_output(client)).into_owned();
        self.multiplexer.on_client_written(client, text.len(), self.now);
        self.settle();
        text
    }

    /// Says it and returns what Handover answers at once.
    fn ask(&mut self, client: SessionKey, line: &str) -> String {
        self.say(client, &[line]);
        self.heard(client)
    }

    /// Writes what is to be written to a connection.
    fn drain(&mut self, link: LinkKey) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let bytes = self.multiplexer.link_output(link, self.now).to_vec();
            if bytes.is_empty() {
                return all;
            }
            self.multiplexer.on_link_written(link, bytes.len(), self.now);
            all.extend(bytes);
        }
    }

    /// Writes what is to be written to a connection, and returns the words of each request.
    fn written(&mut self, link: LinkKey) -> Vec<String> {
        let bytes = self.drain(link);
        let mut requests = Vec::new();
        let mut rest = &bytes[..];
        while let crate::resp::request::Scan::Frame(frame) =
            crate::resp::request::RequestScanner::new(1 << 30).scan(rest)
        {
            let words: Vec<_> = crate::resp::arguments::Arguments::new(&rest[..frame.bytes])
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            requests.push(words.join(" "));
            rest = &rest[frame.bytes..];
        }
        requests
    }

    /// The same, without Handover's own.
    fn commands(&mut self, link: LinkKey) -> Vec<String> {
        let mut requests = self.written(link);
        requests.retain(|request| !request.starts_with("ECHO"));
        requests
    }

    fn reply(&mut self, link: LinkKey, bytes: &str) {
        self.multiplexer.on_link_bytes(link, bytes.as_bytes(), self.now);
        self.settle();
    }

    /// Answers everything that is written to any connection, as a server in which every key holds 1; whether there
    /// was anything.
    fn serve(&mut self) -> bool {
        let links: Vec<LinkKey> = self.links.iter().map(|(link, _)| *link).collect();
        let mut is_busy = false;
        for link in links {
            let mut queued = Vec::new();
            for request in self.written(link) {
                is_busy = true;
                let word = request.split(' ').next().unwrap_or_default();
                let reply = match word {
                    "GET" => "$1\r\n1\r\n".to_owned(),
                    "ECHO" => format!("${}\r\n{}\r\n", request.len() - 5, &request[5..]),
                    _ => "+OK\r\n".to_owned(),
                };
                let is_in_transaction = self.queued.contains_key(&link);
                match word {
                    "MULTI" => drop(self.queued.insert(link, Vec::new())),
                    "EXEC" => queued = self.queued.remove(&link).unwrap_or_default(),
                    _ if is_in_transaction => self.queued.entry(link).or_default().push(reply.clone()),
                    _ => {}
                }
                let reply = match word {
                    "EXEC" => format!("*{}\r\n{}", queued.len(), queued.concat()),
                    "MULTI" => reply,
                    _ if is_in_transaction => "+QUEUED\r\n".to_owned(),
                    _ => reply,
                };
                self.reply(link, &reply);
            }
        }
        is_busy
    }

    fn lose(&mut self, link: LinkKey) {
        self.links.retain(|(open, _)| *open != link);
        self.multiplexer.on_link_lost(link, "reset", self.now);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.multiplexer.on_tick(self.now);
        self.settle();
    }

    fn last(&self, is_kind: impl Fn(Role) -> bool) -> LinkKey {
        self.links.iter().rev().find(|(_, dial)| is_kind(dial.role)).expect("there is such a connection").0
    }

    fn lane(&self) -> LinkKey {
        self.last(|role| role == Role::Lane)
    }

    fn pin(&self) -> LinkKey {
        self.last(|role| matches!(role, Role::Pin(_)))
    }
}

fn frame(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut out = BytesMut::new();
    encode::request(&mut out, &words);
    out.to_vec()
}

fn first_words(replies: &str) -> Vec<&str> {
    replies.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect()
}

#[test]
fn handover_answers_what_is_its_own() {
    let cases: &[(&str, &str)] = &[
        ("PING", "+PONG\r\n"),
        ("PING x", "$1\r\nx\r\n"),
        ("PING x y", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 3", "+OK\r\n"),
        ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
        ("SELECT -1", "-ERR DB index is out of range\r\n"),
        ("CLIENT ID", ":7\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME a", "+OK\r\n"),
        ("CLIENT LIST ID 8", "$0\r\n\r\n"),
        ("CLIENT GETREDIR", ":-1\r\n"),
        ("RESET", "+RESET\r\n"),
        ("QUIT", "+OK\r\n"),
        ("AUTH default x", "+OK\r\n"),
        ("AUTH somebody x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("ACL WHOAMI", "$7\r\ndefault\r\n"),
        ("EXEC", "-ERR EXEC without MULTI\r\n"),
        ("DISCARD", "-ERR DISCARD without MULTI\r\n"),
        ("UNWATCH", "+OK\r\n"),
        ("SHUTDOWN", "-ERR handover: command 'shutdown' is refused by the proxy\r\n"),
        ("UNSUBSCRIBE", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO 9223372036854775807", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO 03", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("RESET x", "-ERR wrong number of arguments for 'reset' command\r\n"),
        ("ACL WHOAMI x", "-ERR wrong number of arguments for 'acl|whoami' command\r\n"),
        ("READONLY x", "-ERR wrong number of arguments for 'readonly' command\r\n"),
        ("CLUSTER", "-ERR wrong number of arguments for 'cluster' command\r\n"),
        ("CLUSTER INFO", "-ERR This instance has cluster support disabled\r\n"),
        ("SUBSCRIBE", "-ERR wrong number of arguments for 'subscribe' command\r\n"),
        ("EXEC x", "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"),
        ("MODULE NOSUCH", "-ERR handover: command 'MODULE' is refused by the proxy\r\n"),
        ("SELECT 99999999999", "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n"),
        ("SELECT -1", "-ERR DB index is out of range\r\n"),
    ];
    for (line, expected) in cases {
        let mut bench = Bench::new();
        let client = bench.client();
        assert_eq!(bench.ask(client, line), *expected, "{line}");
    }
    let mut bench = Bench::new();
    let client = bench.client();
    assert!(bench.ask(client, "HELLO 3").starts_with("%7\r\n$6\r\nserver\r\n"));
    assert!(bench.ask(client, "HELLO 2").starts_with("*14\r\n"));
    bench.say(client, &["POST / HTTP/1.1"]);
    assert_eq!(bench.closed, [(client, CloseReason::ForeignProtocol)]);
}

#[test]
fn what_was_sent_is_judged_by_its_category() {
    use RetryCeiling as Ceiling;
    type Lines = &'static [&'static str];
    // What is sent again, and what the client hears at once.
    let cases: &[(Ceiling, Lines, Lines, Lines)] = &[
        (Ceiling::ReadOnly, &["GET k"], &["GET k"], &[]),
        (Ceiling::ReadOnly, &["SET k v"], &[], &["-UNCERTAIN"]),
        (Ceiling::Never, &["GET k"], &[], &["-UNCERTAIN"]),
        (Ceiling::WriteChecked, &["SETNX k v"], &["SETNX k v"], &[]),
        (Ceiling::WriteChecked, &["SET k v"], &[], &["-UNCERTAIN"]),
        (Ceiling::WriteLastWins, &["SET k v"], &["SET k v"], &[]),
        (Ceiling::WriteLastWins, &["INCR k"], &[], &["-UNCERTAIN"]),
        (Ceiling::WriteAccumulating, &["INCR k"], &["INCR k"], &[]),
        (Ceiling::Always, &["INCR k", "GET k"], &["INCR k", "GET k"], &[]),
        (Ceiling::WriteLastWins, &["GET a", "GET b"], &["GET a", "GET b"], &[]),
        (Ceiling::WriteLastWins, &["SET a 1", "SET b 2"], &["SET a 1", "SET b 2"], &[]),
        (Ceiling::WriteLastWins, &["GET a", "DEL a"], &[], &["-UNCERTAIN", "-UNCERTAIN"]),
        (Ceiling::WriteLastWins, &["MULTI", "INCR a", "EXEC"], &[], &["+OK", "+QUEUED", "-UNCERTAIN"]),
        (Ceiling::WriteLastWins, &["MULTI", "SET a 1", "EXEC"], &["MULTI", "SET a 1", "EXEC"], &[]),
    ];
    for (ceiling, lines, repeated, heard) in cases {
        let mut bench = Bench::with(settings(*ceiling));
        let client = bench.client();
        bench.say(client, lines);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), *lines);
        bench.switch(1);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), *repeated, "{ceiling:?} {lines:?}");
        assert_eq!(first_words(&bench.heard(client)), *heard, "{ceiling:?} {lines:?}");
    }
}

#[test]
fn what_was_not_sent_moves_in_order() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["INCR a", "INCR b"]);
    let lane = bench.lane();
    let first = frame("INCR a").len();
    // The second is written but for its last byte.
    let written = bench.multiplexer.link_output(lane, bench.now).len() - 1;
    assert!(written > first);
    bench.multiplexer.on_link_written(lane, written, bench.now);
    bench.switch(1);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["INCR b"]);
    bench.reply(lane, ":1\r\n");
    assert_eq!(first_words(&bench.heard(client)), ["-UNCERTAIN", ":1"]);
    assert_eq!(bench.multiplexer.in_flight(), 0);
    let judged = bench.reports.iter().find_map(|report| match report {
        Report::Activated { epoch: 2, judged } => Some(*judged),
        _ => None,
    });
    assert_eq!(judged, Some(Judged { moved: 1, uncertain: 1, ..Judged::default() }));
}

#[test]
fn a_repeated_condition_that_failed_is_uncertain() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SETNX k v"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.switch(1);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, ":0\r\n");
    assert_eq!(first_words(&bench.heard(client)), ["-UNCERTAIN"]);
}

#[test]
fn held_commands_expire_by_the_burst_rule() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SET a 1"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, "+OK\r\n");
    bench.heard(client);
    // An earlier burst does not count.
    bench.dials = false;
    bench.lose(lane);
    bench.say(client, &["SET a 2", "SET b 2"]);
    bench.pass(ms(1400));
    assert_eq!(bench.heard(client), "");
    bench.pass(ms(200));
    assert_eq!(first_words(&bench.heard(client)), ["-LOADING", "-LOADING"]);

    // Part of this burst was applied: EVAL waits for its pin behind an answered SET.
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SET a 1", "EVAL x 0"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.dials = false;
    bench.reply(lane, "+OK\r\n");
    bench.pass(ms(100));
    bench.lose(lane);
    bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 });
    bench.pass(ms(1600));
    assert_eq!(first_words(&bench.heard(client)), ["+OK", "-UNAVAILABLE"]);
}

#[test]
fn an_exec_that_the_server_refuses_never_travels_on_a_lane() {
    let mut bench = Bench::new();
    let client = bench.client();
    let bytes: Vec<u8> = ["MULTI", "SET a 1", "EXEC x"].iter().flat_map(|line| frame(line)).collect();
    bench.multiplexer.on_client_bytes(client, &bytes, bench.now);
    bench.settle();
    let (lane, pin) = (bench.lane(), bench.pin());
    assert_eq!(bench.written(lane), Vec::<String>::new());
    assert_eq!(bench.written(pin), ["MULTI"]);
}

#[test]
fn a_multi_that_is_sent_again_is_waited_for() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["MULTI"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.say(client, &["SET a 1"]);
    bench.lose(pin);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["SET a 1"]);
    bench.reply(pin, "+QUEUED\r\n");
    bench.say(client, &["EXEC"]);
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.reply(pin, "*1\r\n+OK\r\n");
    assert_eq!(first_words(&bench.heard(client)), ["+OK", "+QUEUED", "*1", "+OK"]);
}

#[test]
fn a_second_watch_does_not_mend_the_first() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["WATCH a"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.say(client, &["WATCH b"]);
    bench.written(pin);
    bench.lose(pin);
    bench.say(client, &["WATCH c"]);
    bench.say(client, &["MULTI", "SET a 1", "EXEC"]);
    assert_eq!(first_words(&bench.heard(client)), ["+OK", "+OK", "+OK", "+OK", "+QUEUED", "*-1"]);
}

/// What needs a connection of the client's own gets one again, even when the WATCH before it is lost with the first.
#[test]
fn what_needs_a_pin_never_goes_to_a_lane_after_a_lost_watch() {
    for (request, is_sent_again) in [("SELECT 3", true), ("BLPOP q 0", true), ("MONITOR", true), ("EVAL x 0", false)] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["WATCH a"]);
        let pin = bench.pin();
        bench.written(pin);
        bench.reply(pin, "+OK\r\n");
        bench.say(client, &[request]);
        assert_eq!(bench.written(pin), [request]);
        bench.lose(pin);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), Vec::<String>::new(), "{request} on a shared connection");
        if is_sent_again {
            let pin = bench.pin();
            assert_eq!(bench.written(pin), [request]);
        } else {
            assert_eq!(first_words(&bench.heard(client)), ["+OK", "-UNCERTAIN"]);
        }
    }
}

/// Whoever asked for another protocol has it wherever it goes on.
#[test]
fn hello_on_a_connection_that_is_lost_holds_for_the_next() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["WATCH a"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.heard(client);
    bench.say(client, &["HELLO 3", "GET k"]);
    assert_eq!(bench.written(pin), ["HELLO 3"]);
    bench.lose(pin);
    assert!(bench.heard(client).starts_with("%7\r\n"));
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["GET k"]);
    assert_eq!(bench.links.last().unwrap().1.profile.protocol, encode::Protocol::Resp3);
}

/// An inline MULTI that was refused for want of a backend: its members do not run outside it.
#[test]
fn a_refused_inline_multi_refuses_its_members() {
    let mut bench = Bench::new();
    bench.dials = false;
    let lane = bench.lane();
    bench.lose(lane);
    let client = bench.client();
    bench.multiplexer.on_client_bytes(client, b"  \r\nMULTI\r\n", bench.now);
    bench.pass(ms(2000));
    assert_eq!(first_words(&bench.heard(client)), ["-LOADING"]);
    bench.dials = true;
    bench.pass(ms(2000));
    assert_eq!(first_words(&bench.ask(client, "INCR a")), ["-ERR"]);
    assert_eq!(first_words(&bench.ask(client, "EXEC")), ["-EXECABORT"]);
}

#[test]
fn a_word_that_means_not_applied_is_withheld_until_a_verdict() {
    let readonly = "-READONLY You can't write against a read only replica.\r\n";
    let refused = || {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["INCR k"]);
        let lane = bench.lane();
        bench.written(lane);
        bench.reply(lane, readonly);
        assert_eq!(bench.heard(client), "");
        (bench, client)
    };
    let (mut moved, client) = refused();
    moved.switch(1);
    let lane = moved.lane();
    assert_eq!(moved.written(lane), ["INCR k"]);
    moved.reply(lane, ":1\r\n");
    assert_eq!(moved.heard(client), ":1\r\n");

    let (mut acquitted, client) = refused();
    let route = Route { acquittals: 1, ..acquitted.multiplexer.route().clone() };
    acquitted.multiplexer.on_route(route, acquitted.now);
    assert_eq!(acquitted.heard(client), readonly);

    // What waits behind it is not refused: a backend is there.
    let (mut expired, client) = refused();
    expired.say(client, &["GET k"]);
    expired.pass(ms(1600));
    assert_eq!(expired.heard(client), readonly);
    let lane = expired.lane();
    assert!(expired.written(lane).contains(&"GET k".to_owned()));

    // Within MULTI it is the server's word on the queue.
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["MULTI"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.say(client, &["SET a 1"]);
    bench.written(pin);
    bench.reply(pin, readonly);
    assert_eq!(first_words(&bench.heard(client)), ["+OK", "-READONLY"]);
}

#[test]
fn a_blocked_command_is_armed_again_after_a_planned_switch() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["BLPOP k 10"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["BLPOP k 10"]);
    bench.now += ms(4000);
    let until = bench.now + ms(1000);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 3, until });
    bench.pass(ms(0));
    assert_eq!(bench.unblocked.len(), 1);
    bench.reply(pin, "*-1\r\n");
    assert!(bench.reports.contains(&Report::Drained(3)));
    bench.switch(1);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["BLPOP k 6.000"]);
    // Its own time ends: the client hears it.
    bench.now += ms(6001);
    bench.reply(pin, "*-1\r\n");
    assert_eq!(bench.heard(client), "*-1\r\n");
}

#[test]
fn a_blocked_client_that_half_closes_is_let_go() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["BLPOP k 0"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.multiplexer.on_client_end(client, bench.now);
    bench.settle();
    // What the server has at once would still reach it.
    assert_eq!(bench.closed, []);
    bench.pass(ms(100));
    assert_eq!(bench.closed, [(client, CloseReason::ClientClosed)]);
    assert_eq!((bench.multiplexer.in_flight(), bench.links.iter().filter(|(link, _)| *link == pin).count()), (0, 0));
}

#[test]
fn a_client_that_vanishes_leaves_nothing_in_flight() {
    let mut bench = Bench::new();
    let (gone, stays) = (bench.client(), bench.client());
    bench.say(gone, &["GET a", "PING", "GET b"]);
    bench.say(stays, &["GET c"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.multiplexer.on_client_lost(gone, CloseReason::ClientLost);
    bench.reply(lane, "$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(bench.heard(stays), "$1\r\nc\r\n");
    assert_eq!(bench.multiplexer.in_flight(), 0);
    // On a pin, with replies of our own among those that are due.
    let (gone, stays) = (bench.client(), bench.client());
    bench.say(stays, &["GET c"]);
    bench.say(gone, &["EVAL x 0", "PING", "PING"]);
    bench.multiplexer.on_client_lost(gone, CloseReason::ClientLost);
    assert_eq!(bench.multiplexer.in_flight(), 1);
}

#[test]
fn the_fence_closes_what_is_out_of_step() {
    for is_exact in [true, false] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["EVAL x 0"]);
        let pin = bench.pin();
        bench.written(pin);
        bench.reply(pin, ":1\r\n");
        bench.pass(ms(10));
        bench.pass(ms(60));
        let echo = bench.written(pin).pop().expect("the fence");
        let nonce = echo.strip_prefix("ECHO ").expect("an ECHO");
        let reply = if is_exact { format!("${}\r\n{nonce}\r\n", nonce.len()) } else { "+INJ\r\n".to_owned() };
        bench.reply(pin, &reply);
        assert_eq!(bench.links.iter().any(|(link, _)| *link == pin), is_exact);
        // The next one who needs a pin gets it, if it is clean.
        let other = bench.client();
        bench.say(other, &["EVAL y 0"]);
        assert_eq!(bench.pin() == pin, is_exact);
    }
}

/// The words of the sentinel that was written to a lane, and the reply that proves its order.
fn exact(sentinel: &str) -> String {
    let nonce = sentinel.strip_prefix("ECHO ").expect("the sentinel");
    format!("${}\r\n{nonce}\r\n", nonce.len())
}

#[test]
fn a_lane_out_of_step_ends_whoever_it_served_since_it_was_proven() {
    let mut bench = Bench::new();
    let [before, since, gone_on, waits, apart] = std::array::from_fn(|_| bench.client());
    bench.say(before, &["GET a"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, "$1\r\na\r\n");
    bench.pass(ms(1000));
    let sentinel = bench.written(lane).pop().expect("a request");
    bench.reply(lane, &exact(&sentinel));
    for client in [since, gone_on] {
        bench.say(client, &["GET b"]);
        bench.written(lane);
        bench.reply(lane, "$1\r\nb\r\n");
    }
    bench.say(gone_on, &["EVAL x 0"]);
    bench.say(apart, &["EVAL y 0"]);
    bench.pass(ms(1000));
    bench.written(lane);
    bench.say(waits, &["INCR c"]);
    bench.written(lane);
    bench.reply(lane, "$3\r\nINJ\r\n");
    let mut ended: Vec<SessionKey> = bench.closed.iter().map(|(key, _)| *key).collect();
    ended.sort_by_key(|key| [before, since, gone_on, waits, apart].iter().position(|known| known == key));
    assert_eq!(ended, [since, gone_on]);
    assert!(bench.closed.iter().all(|(_, reason)| *reason == CloseReason::OutOfStep));
    assert!(!bench.links.iter().any(|(link, _)| *link == lane));
    // Nobody's reply went to who still waits: the outcome is unknown.
    assert!(bench.heard(waits).starts_with("-UNCERTAIN "));
}

#[test]
fn a_reply_that_nobody_asked_for_closes_the_connection() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["GET a", "GET b"]);
    let lane = bench.lane();
    // Only the first request was written: two replies are one too many.
    bench.multiplexer.on_link_written(lane, frame("GET a").len(), bench.now);
    bench.reply(lane, "$1\r\na\r\n$1\r\nb\r\n");
    assert!(!bench.links.iter().any(|(link, _)| *link == lane));
    assert_eq!(bench.heard(client), "$1\r\na\r\n");
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["GET b"]);
}

#[test]
fn a_long_reply_that_is_cut_closes_that_client_alone() {
    let mut bench = Bench::new();
    let (reader, other) = (bench.client(), bench.client());
    bench.say(reader, &["GET long"]);
    bench.say(other, &["GET b"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, &format!("$200000\r\n{}", "x".repeat(100_000)));
    assert_eq!(bench.multiplexer.client_output(reader).len(), 100_009);
    // It does not read: neither do we.
    assert!(!bench.multiplexer.wants_link_bytes(lane));
    assert_eq!(bench.multiplexer.vital_signs(BackendId(0)).waiting_since, None);
    bench.heard(reader);
    assert!(bench.multiplexer.wants_link_bytes(lane));
    bench.lose(lane);
    assert_eq!(bench.closed, [(reader, CloseReason::ReplyCut)]);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["GET b"]);
}

#[test]
fn reading_resumes_after_a_full_pipeline_was_answered_at_once() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["GET a"; 8]);
    assert!(!bench.multiplexer.wants_client_bytes(client));
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, &"$-1\r\n".repeat(8));
    assert!(bench.multiplexer.wants_client_bytes(client));
}

#[test]
fn suspicion_keeps_what_is_unsent() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["GET a"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.pass(ms(60));
    bench.say(client, &["INCR b"]);
    assert_eq!(bench.written(lane), Vec::<String>::new());
    bench.reply(lane, "$-1\r\n");
    assert_eq!(bench.written(lane), ["INCR b"]);
}

#[test]
fn a_database_that_the_server_lacks_is_asked_for_once() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.multiplexer.on_client_bytes(client, &frame("SELECT 99"), bench.now);
    let Some(Output::Dial(dial)) = bench.multiplexer.poll() else { panic!("no lane was asked for") };
    let refusal = Bytes::from_static(b"-ERR DB index is out of range\r\n");
    assert!(!bench.multiplexer.on_dialled(dial.link, DialOutcome::RefusedDatabase(refusal), bench.now));
    assert_eq!(bench.heard(client), "-ERR DB index is out of range\r\n");
    assert_eq!(bench.ask(client, "SELECT 99"), "-ERR DB index is out of range\r\n");
    assert_eq!(bench.links.len(), 1);
}

#[test]
fn subscriptions_are_confirmed_once_and_live_again_after_a_switch() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SUBSCRIBE a"]);
    let old = bench.last(|role| matches!(role, Role::Subscription(_)));
    assert_eq!(bench.written(old), ["SUBSCRIBE a"]);
    let confirmed = |channel: &str, count: u32| format!("*3\r\n$9\r\nsubscribe\r\n$1\r\n{channel}\r\n:{count}\r\n");
    bench.reply(old, &confirmed("a", 1));
    bench.say(client, &["SUBSCRIBE b"]);
    bench.written(old);
    bench.heard(client);
    bench.switch(1);
    let new = bench.last(|role| matches!(role, Role::Subscription(_)));
    assert_ne!(old, new);
    assert_eq!(bench.written(new), ["SUBSCRIBE a", "SUBSCRIBE b"]);
    // The old one still answers what was asked for again: that must not be heard twice.
    bench.reply(old, &confirmed("b", 2));
    bench.reply(new, &confirmed("a", 1));
    bench.reply(new, &confirmed("b", 2));
    assert_eq!(bench.heard(client), confirmed("b", 2));
    assert_eq!(bench.multiplexer.subscription_counts(SubscriptionKind::Channel), (2, 2));
}

#[test]
fn every_route_is_acknowledged_even_when_values_were_skipped() {
    let mut bench = Bench::new();
    bench.epoch += 3;
    bench.route(1, Phase::Cut { to: BackendId(0), attempt: 9 });
    assert!(bench.reports.contains(&Report::Stopped(9)));
}
