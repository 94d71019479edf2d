//! Every state of a session meets every event, at random: afterwards nobody waits for what never comes.

use super::identity::identity_settings;
use super::*;
use crate::logic::identity::IdentityMode;

impl Bench {
    /// The supervisor says so of connections that have been silent for so long.
    fn abandon(&mut self, silence: Duration) {
        let abandoned_since = Some(self.now - silence);
        let route = Route { abandoned_since, ..self.multiplexer.route().clone() };
        self.multiplexer.on_route(route, self.now);
        self.settle();
    }
}

/// What is written to a connection and never answered is judged as on any that is lost, and the next one serves.
#[test]
fn a_connection_that_stays_silent_is_lost_and_another_is_opened() {
    let mut bench = Bench::new();
    let (reader, writer) = (bench.client(), bench.client());
    bench.say(reader, &["SET a 1"]);
    bench.serve();
    bench.heard(reader);
    bench.say(reader, &["GET a"]);
    bench.say(writer, &["INCR b"]);
    let silent = bench.lane();
    bench.written(silent);
    bench.pass(ms(1500));
    bench.abandon(ms(1501));
    assert_eq!(bench.lane(), silent, "it has not waited for so long");
    bench.abandon(ms(1500));
    assert_ne!(bench.lane(), silent);
    while bench.serve() {}
    assert_eq!(bench.heard(reader), "$1\r\n1\r\n", "a read is repeated");
    assert_eq!(first_words(&bench.heard(writer)), ["-UNCERTAIN"]);
    assert!(bench.reports.iter().any(|report| matches!(report, Report::LinkLost { .. })), "the supervisor knows");
    // Long after: not repeated any more, and the next commands flow.
    bench.say(reader, &["GET a"]);
    let silent = bench.lane();
    bench.written(silent);
    bench.pass(ms(7000));
    bench.abandon(ms(7000));
    assert_eq!(first_words(&bench.heard(reader)), ["-UNAVAILABLE"]);
    bench.say(reader, &["GET a"]);
    while bench.serve() {}
    assert_eq!(bench.heard(reader), "$1\r\n1\r\n");
}

#[test]
fn of_two_connections_the_silent_one_is_lost_alone() {
    let mut bench = Bench::new();
    let (owner, other) = (bench.client(), bench.client());
    bench.say(owner, &["WATCH a"]);
    while bench.serve() {}
    bench.heard(owner);
    bench.say(owner, &["GET a"]);
    bench.say(other, &["GET b"]);
    let (pin, lane) = (bench.pin(), bench.lane());
    assert_eq!((bench.written(pin), bench.written(lane)), (vec!["GET a".to_owned()], vec!["GET b".to_owned()]));
    bench.pass(ms(1000));
    bench.reply(lane, "$1\r\n1\r\n");
    bench.serve();
    bench.heard(other);
    bench.say(other, &["GET b"]);
    assert_eq!(bench.written(lane), ["GET b"]);
    bench.abandon(ms(1000));
    let links: Vec<LinkKey> = bench.links.iter().map(|(link, _)| *link).collect();
    assert!(!links.contains(&pin) && links.contains(&lane));
    bench.reply(lane, "$1\r\n1\r\n");
    assert_eq!(bench.heard(other), "$1\r\n1\r\n");
}

#[test]
fn what_may_take_its_time_is_waited_for_though_others_are_answered() {
    for line in ["BLPOP k 0", "EVAL x 0", "KEYS *", "FT.SEARCH i q"] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &[line]);
        let links: Vec<LinkKey> = bench.links.iter().map(|(link, _)| *link).collect();
        for &link in &links {
            while !bench.written(link).is_empty() {}
        }
        bench.pass(ms(60_000));
        bench.abandon(ms(7000));
        assert_eq!(bench.links.iter().map(|(link, _)| *link).collect::<Vec<_>>(), links, "{line}");
        assert_eq!(bench.heard(client), "", "{line}");
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

const LINES: [&str; 44] = [
    "GET a",
    "SET a 1",
    "INCR a",
    "GET b",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH a",
    "UNWATCH",
    "HELLO 2",
    "HELLO 3",
    "RESET",
    "AUTH alice x",
    "AUTH bob x",
    "HELLO 3 AUTH bob x",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING ON REDIRECT 7",
    "SUBSCRIBE c",
    "UNSUBSCRIBE",
    "EVALSHA 11f6ad8ec52a2984abaafd7c3b516503785c2072 0",
    "EVAL x 0",
    "SCRIPT LOAD x",
    "BLPOP k 0",
    "WAIT 1 0",
    "SCAN 0",
    "CLIENT LIST",
    "CLIENT PAUSE 50",
    "CLIENT PAUSE 50 WRITE",
    "CLIENT UNPAUSE",
    "CLIENT UNBLOCK 7",
    "CLIENT KILL ID 8",
    "SELECT 3",
    "SELECT 0",
    "PUBLISH c x",
    "PING",
    "CLIENT NO-TOUCH ON",
    "CLIENT CACHING YES",
    "SET b 2",
    "GET c",
    "MULTI",
];

fn answer_to(
    request: &str,
    queued: &mut std::collections::HashMap<LinkKey, Vec<String>>,
    link: LinkKey,
    resp3: bool,
    dice: &mut Dice,
    fair: bool,
) -> String {
    let word = request.split(' ').next().unwrap_or_default();
    let plain = match word {
        "GET" => "$1\r\n1\r\n".to_owned(),
        "ECHO" => format!("${}\r\n{}\r\n", request.len() - 5, &request[5..]),
        "SCRIPT" => "$40\r\n11f6ad8ec52a2984abaafd7c3b516503785c2072\r\n".to_owned(),
        "HELLO" => "*0\r\n".to_owned(),
        "SUBSCRIBE" | "UNSUBSCRIBE" => format!(
            "{}3\r\n${}\r\n{}\r\n$1\r\nc\r\n:1\r\n",
            if resp3 { '>' } else { '*' },
            word.len(),
            word.to_lowercase()
        ),
        "SCAN" => "*2\r\n$2\r\n17\r\n*0\r\n".to_owned(),
        "EVALSHA" if dice.roll(3) == 0 => "-NOSCRIPT No matching script. Please use EVAL.\r\n".to_owned(),
        "EVALSHA" | "EVAL" | "INCR" | "WAIT" | "PUBLISH" => ":1\r\n".to_owned(),
        // Without an end to its time, nil comes only to who was unblocked.
        "BLPOP" if fair => "*2\r\n$1\r\nk\r\n$1\r\nx\r\n".to_owned(),
        "BLPOP" => "*-1\r\n".to_owned(),
        "SET" if !fair && dice.roll(4) == 0 => "-READONLY You can't write against a read only replica.\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    };
    let is_open = queued.contains_key(&link);
    match word {
        "MULTI" if is_open => "-ERR MULTI calls can not be nested\r\n".to_owned(),
        "MULTI" => {
            queued.insert(link, Vec::new());
            plain
        }
        "DISCARD" => {
            queued.remove(&link);
            plain
        }
        "EXEC" => match queued.remove(&link) {
            Some(replies) => format!("*{}\r\n{}", replies.len(), replies.concat()),
            None => "-ERR EXEC without MULTI\r\n".to_owned(),
        },
        _ if is_open => {
            queued.entry(link).or_default().push(plain);
            "+QUEUED\r\n".to_owned()
        }
        _ => plain,
    }
}

fn serve_some(
    bench: &mut Bench,
    queued: &mut std::collections::HashMap<LinkKey, Vec<String>>,
    dice: &mut Dice,
    backlog: &mut Vec<(LinkKey, String)>,
    fair: bool,
) -> bool {
    let links: Vec<(LinkKey, Dial)> = bench.links.clone();
    for (link, _) in &links {
        for request in bench.written(*link) {
            backlog.push((*link, request));
        }
    }
    backlog.retain(|(link, _)| bench.links.iter().any(|(open, _)| open == link));
    let mut count = if fair { backlog.len() } else { dice.roll(backlog.len() + 1) };
    let busy = !backlog.is_empty();
    let mut index = 0;
    while count > 0 && index < backlog.len() {
        count -= 1;
        let (link, request) = backlog.remove(index);
        let Some((_, dial)) = bench.links.iter().find(|(open, _)| *open == link).copied() else { continue };
        let resp3 = bench.multiplexer.links.get(link).map_or(dial.profile.protocol, |l| l.profile.protocol)
            == crate::resp::encode::Protocol::Resp3;
        let reply = answer_to(&request, queued, link, resp3, dice, fair);
        bench.reply(link, &reply);
        index = 0;
    }
    busy
}

/// `STUCK_SEEDS=<count>` runs more of them.
#[test]
fn nobody_is_stuck_and_nothing_stays_in_flight() {
    let seeds = std::env::var("STUCK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    (1..=seeds).for_each(live_and_calm_down);
}

/// Random lines, faults and switches; then everybody is served, and must answer again.
fn live_and_calm_down(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mode = if dice.roll(2) == 0 { IdentityMode::Users } else { IdentityMode::Open };
    let mut bench = Bench::with(identity_settings(mode));
    let mut clients: Vec<SessionKey> = (0..3).map(|_| bench.client()).collect();
    let mut queued = std::collections::HashMap::new();
    let mut backlog = Vec::new();
    let mut log: Vec<String> = vec![];
    if mode == IdentityMode::Users {
        for c in &clients {
            bench.ask(*c, "AUTH alice x");
        }
    }
    let mut active = 0u16;
    let mut attempt = 0;
    for _ in 0..60 {
        let which = clients[dice.roll(clients.len())];
        match dice.roll(12) {
            0..=5 => {
                let n = 1 + dice.roll(4);
                let lines: Vec<&str> = (0..n).map(|_| LINES[dice.roll(LINES.len())]).collect();
                log.push(format!("{which:?} {lines:?}"));
                bench.say(which, &lines);
            }
            6 | 7 => {
                log.push("serve".into());
                serve_some(&mut bench, &mut queued, &mut dice, &mut backlog, false);
            }
            8 => {
                let t = [1, 10, 60, 300, 1600][dice.roll(5)];
                log.push(format!("pass {t}"));
                bench.pass(ms(t));
            }
            9 => {
                if let Some(&(link, dial)) = bench.links.get(dice.roll(bench.links.len().max(1))) {
                    log.push(format!("lose {link:?} {dial:?}"));
                    bench.lose(link);
                }
            }
            10 => {
                bench.heard(which);
            }
            _ => match dice.roll(4) {
                0 => {
                    attempt += 1;
                    let until = bench.now + ms(1000);
                    log.push("hold".into());
                    bench.route(active, Phase::Hold { to: BackendId(1 - active), attempt, until });
                }
                1 => {
                    log.push("serve same".into());
                    bench.route(active, Phase::Serve);
                }
                2 => {
                    attempt += 1;
                    log.push("cut+switch".into());
                    bench.route(active, Phase::Cut { to: BackendId(1 - active), attempt });
                    active = 1 - active;
                    bench.switch(active);
                }
                _ => {
                    log.push("switch".into());
                    active = 1 - active;
                    bench.switch(active);
                }
            },
        }
    }
    bench.route(active, Phase::Serve);
    for _ in 0..80 {
        bench.pass(ms(60));
        for _ in 0..6 {
            serve_some(&mut bench, &mut queued, &mut dice, &mut backlog, true);
        }
        for c in &clients {
            bench.heard(*c);
        }
    }
    clients.retain(|c| !bench.closed.iter().any(|(k, _)| k == c));
    for c in &clients {
        let s = bench.multiplexer.sessions.get(*c).unwrap();
        let state = format!(
            "due {} wait {:?} pend {} input {} mode {:?} tx {:?} pin {:?} withheld {}",
            s.due,
            s.wait,
            s.pending.len(),
            s.input.len(),
            s.reply_mode,
            s.transaction,
            s.pin,
            s.withheld.is_some()
        );
        assert!(
            s.due == 0 && s.wait.is_none() && s.pending.is_empty() && s.input.is_empty() && s.withheld.is_none(),
            "seed {seed}, stuck: {state}\n{}",
            log.join("\n")
        );
        bench.say(*c, &["RESET"]);
        let said = bench.heard(*c);
        assert!(
            said == "+RESET\r\n" || (said.is_empty() && state.contains("Skip")),
            "seed {seed}: {said:?} {state}\n{}",
            log.join("\n")
        );
    }
    assert_eq!(bench.multiplexer.in_flight(), 0, "seed {seed}: {}", log.join("\n"));
}
