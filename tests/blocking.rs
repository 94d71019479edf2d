//! Commands that wait for an element: they get it, time out, are carried across switches, and leave nothing behind.

mod support;

use std::time::{Duration, Instant};

use support::{Mode, PATIENCE, Pair, RawClient, RedisServer, Value, encode, wait_until};

/// A command that waits, what gives it something, and whether Redis 7.0 answers a nil with its own form.
struct Blocker {
    waits: &'static str,
    feeds: &'static str,
    prepares: &'static str,
}

const BLOCKERS: [Blocker; 11] = [
    Blocker { waits: "BLPOP none k TIMEOUT", feeds: "RPUSH k a", prepares: "" },
    Blocker { waits: "BRPOP none k TIMEOUT", feeds: "RPUSH k a b", prepares: "" },
    Blocker { waits: "BLMOVE k l LEFT RIGHT TIMEOUT", feeds: "RPUSH k a", prepares: "" },
    Blocker { waits: "BRPOPLPUSH k l TIMEOUT", feeds: "RPUSH k a", prepares: "" },
    Blocker { waits: "BLMPOP TIMEOUT 2 none k LEFT COUNT 2", feeds: "RPUSH k a b c", prepares: "" },
    Blocker { waits: "BZPOPMIN k TIMEOUT", feeds: "ZADD k 1.5 m", prepares: "" },
    Blocker { waits: "BZPOPMAX k TIMEOUT", feeds: "ZADD k 1.5 m", prepares: "" },
    Blocker { waits: "BZMPOP TIMEOUT 1 k MIN", feeds: "ZADD k 1.5 m", prepares: "" },
    Blocker { waits: "XREAD COUNT 1 BLOCK MILLISECONDS STREAMS k $", feeds: "XADD k 1-1 f v", prepares: "" },
    Blocker { waits: "XREAD BLOCK MILLISECONDS STREAMS k 0", feeds: "XADD k 1-1 f v", prepares: "" },
    Blocker {
        waits: "XREADGROUP GROUP g c BLOCK MILLISECONDS STREAMS k >",
        feeds: "XADD k 1-1 f v",
        prepares: "XGROUP CREATE k g $ MKSTREAM",
    },
];

impl Blocker {
    fn command(&self, timeout: Duration) -> Vec<u8> {
        let line = self
            .waits
            .replace("TIMEOUT", &timeout.as_secs_f64().to_string())
            .replace("MILLISECONDS", &timeout.as_millis().to_string());
        frame(&line)
    }
}

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[track_caller]
fn wait_for_blocked(server: &RedisServer, count: usize) {
    let wanted = format!("blocked_clients:{count}\r");
    wait_until(PATIENCE, || server.command(&["INFO", "clients"]).text().contains(&wanted));
}

fn popped(key: &str, element: &str) -> Value {
    Value::Array(vec![Value::bulk(key), Value::bulk(element)])
}

#[track_caller]
fn length(server: &RedisServer, key: &str) -> i64 {
    server.command(&["LLEN", key]).integer()
}

#[test]
fn every_blocking_command_waits_and_gets_what_redis_gives() {
    let pair = Pair::start();
    for protocol in ["2", "3"] {
        for blocker in &BLOCKERS {
            let mut expected = Vec::new();
            for (server, mut client) in [(&pair.west, pair.west.client()), (&pair.east, pair.client())] {
                server.command(&["FLUSHALL"]);
                client.command(&["HELLO", protocol]);
                if !blocker.prepares.is_empty() {
                    server.command(&words(blocker.prepares));
                }
                client.send(blocker.command(Duration::ZERO));
                wait_for_blocked(server, 1);
                server.command(&words(blocker.feeds));
                let (_, reply) = client.read_reply_raw();
                expected.push(reply.escape_ascii().to_string());
            }
            assert_eq!(expected[1], expected[0], "{} in RESP{protocol}", blocker.waits);
        }
    }
}

#[test]
fn every_blocking_command_times_out_as_redis_does() {
    const TIMEOUT: Duration = Duration::from_millis(50);
    let pair = Pair::start();
    for protocol in ["2", "3"] {
        for blocker in &BLOCKERS {
            let mut replies = Vec::new();
            for (server, mut client) in [(&pair.west, pair.west.client()), (&pair.east, pair.client())] {
                server.command(&["FLUSHALL"]);
                client.command(&["HELLO", protocol]);
                if !blocker.prepares.is_empty() {
                    server.command(&words(blocker.prepares));
                }
                let started_at = Instant::now();
                client.send(blocker.command(TIMEOUT));
                let (_, reply) = client.read_reply_raw();
                assert!(started_at.elapsed() >= TIMEOUT, "{} in RESP{protocol}", blocker.waits);
                replies.push(reply.escape_ascii().to_string());
            }
            assert_eq!(replies[1], replies[0], "{} in RESP{protocol}", blocker.waits);
        }
    }
}

#[test]
fn what_does_not_block_and_what_is_wrong_is_answered_at_once() {
    let pair = Pair::start();
    for server in [&pair.east, &pair.west] {
        server.command(&["RPUSH", "k", "a", "b", "c"]);
        server.command(&["SET", "text", "x"]);
    }
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    for line in [
        "BLPOP k 0",
        "BLPOP text 0",
        "BLPOP k -1",
        "BLPOP k x",
        "BLPOP k",
        "BLPOP",
        "BLMOVE k l LEFT RIGHT 0",
        "BLMPOP 0 1 k LEFT",
        "XREAD BLOCK x STREAMS s $",
        "XREAD BLOCK 0 STREAMS s",
        "XREAD COUNT 1 STREAMS s 0",
        "XREADGROUP GROUP g c BLOCK 0 STREAMS s >",
        "LRANGE l 0 -1",
    ] {
        direct.send(frame(line));
        proxied.send(frame(line));
        let (_, expected) = direct.read_reply_raw();
        let (_, reply) = proxied.read_reply_raw();
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{line}");
    }
}

#[test]
fn requests_behind_a_blocked_one_wait_for_its_reply() {
    let pair = Pair::start();
    let (mut blocked, mut other) = (pair.client(), pair.client());
    blocked.send([frame("SET a 1"), frame("BLPOP k 0"), frame("GET a"), frame("PING")].concat());
    assert_eq!(blocked.read_reply(), Value::ok());
    wait_for_blocked(&pair.east, 1);
    assert_eq!(other.command(&["SET", "a", "2"]), Value::ok());
    assert_eq!(other.command(&["RPUSH", "k", "x"]), Value::Integer(1));
    assert_eq!(blocked.read_reply(), popped("k", "x"));
    assert_eq!(blocked.read_reply(), Value::bulk("2"));
    assert_eq!(blocked.read_reply(), Value::Simple("PONG".to_owned()));
}

#[test]
fn many_wait_at_once_and_each_gets_its_own() {
    const CLIENTS: usize = 100;
    let pair = Pair::start();
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| pair.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_command(&["BLPOP", &format!("k{number}"), "0"]);
    }
    wait_for_blocked(&pair.east, CLIENTS);
    let mut feeder = pair.client();
    for number in (0..CLIENTS).rev() {
        feeder.send_command(&["RPUSH", &format!("k{number}"), &format!("v{number}")]);
    }
    (0..CLIENTS).for_each(|_| assert_eq!(feeder.read_reply(), Value::Integer(1)));
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_reply(), popped(&format!("k{number}"), &format!("v{number}")));
    }
    pair.wait_for_sessions("blocked", 0);
}

#[test]
fn more_pins_than_there_may_be_are_refused_and_one_that_is_freed_is_given() {
    let pair = Pair::builder().configuration("[limits]\npins_per_backend = 2\npin_wait = \"1s\"").start();
    let (mut one, mut two, mut three) = (pair.client(), pair.client(), pair.client());
    one.send_command(&["BLPOP", "one", "0"]);
    two.send_command(&["BLPOP", "two", "0"]);
    wait_for_blocked(&pair.east, 2);
    let refused = three.command(&["BLPOP", "three", "0"]);
    assert!(refused.text().starts_with("ERR handover: no connection of its own"), "{refused:?}");
    assert_eq!(three.command(&["SET", "k", "v"]), Value::ok());
    assert_eq!(three.command(&["RPUSH", "one", "x"]), Value::Integer(1));
    assert_eq!(one.read_reply(), popped("one", "x"));
    three.send_command(&["BLPOP", "three", "0"]);
    wait_for_blocked(&pair.east, 2);
    pair.east.command(&["RPUSH", "three", "y"]);
    assert_eq!(three.read_reply(), popped("three", "y"));
}

#[test]
fn a_client_that_leaves_while_blocked_frees_its_pin_and_takes_nothing() {
    let pair = Pair::builder().configuration("[limits]\npins_per_backend = 1").start();
    for resets in [false, true] {
        let mut leaver = pair.client();
        leaver.send_command(&["BLPOP", "k", "0"]);
        wait_for_blocked(&pair.east, 1);
        if resets {
            leaver.reset()
        } else {
            drop(leaver)
        }
        wait_for_blocked(&pair.east, 0);
        let mut next = pair.client();
        assert_eq!(next.command(&["RPUSH", "k", "x"]), Value::Integer(1));
        assert_eq!(next.command(&["BLPOP", "k", "0"]), popped("k", "x"));
    }
}

#[test]
fn a_client_that_is_cut_off_while_it_is_not_read_is_noticed() {
    let pair = Pair::start();
    let (mut leaver, mut witness) = (pair.client(), pair.client());
    leaver.send_command(&["BLPOP", "k", "0"]);
    wait_for_blocked(&pair.east, 1);
    // As much as the kernel takes, which may be less than all.
    leaver.send_while_taken(&encode(&["SET", "k", "v"]).repeat(50_000), Duration::from_millis(100));
    // As much as is held of one client: from here on nobody reads it.
    let held = |list: &str| list.split("qbuf=").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok()).max();
    wait_until(PATIENCE, || held(&witness.command(&["CLIENT", "LIST"]).text()) >= Some(64 * 1024));
    leaver.reset();
    wait_for_blocked(&pair.east, 0);
    pair.handover.expect_metric("handover_clients", &[], 1.0);
}

#[test]
fn a_fault_rearms_every_blocking_command_on_the_new_active() {
    for protocol in ["2", "3"] {
        let mut pair = Pair::start();
        let reference = RedisServer::start();
        let mut clients = Vec::new();
        for (number, blocker) in BLOCKERS.iter().enumerate() {
            // Each in a database of its own: the keys are all called the same.
            let database = number.to_string();
            let (mut direct, mut proxied) = (reference.client(), pair.client());
            for client in [&mut direct, &mut proxied] {
                client.command(&["HELLO", protocol]);
                client.command(&["SELECT", &database]);
            }
            for server in [&reference, &pair.east, &pair.west] {
                let mut client = server.client();
                client.command(&["SELECT", &database]);
                if !blocker.prepares.is_empty() {
                    client.command(&words(blocker.prepares));
                }
            }
            // Half of them for ever, half with a time that is not used up.
            let timeout = if number % 2 == 0 { Duration::ZERO } else { Duration::from_secs(60) };
            direct.send(blocker.command(timeout));
            proxied.send(blocker.command(timeout));
            clients.push((blocker, database, direct, proxied));
        }
        wait_for_blocked(&reference, BLOCKERS.len());
        wait_for_blocked(&pair.east, BLOCKERS.len());
        pair.fail_over();
        wait_for_blocked(&pair.west, BLOCKERS.len());
        wait_for_blocked(&pair.east, 0);
        for (blocker, database, mut direct, mut proxied) in clients {
            for server in [&reference, &pair.west] {
                let mut client = server.client();
                client.command(&["SELECT", &database]);
                client.command(&words(blocker.feeds));
            }
            let (_, expected) = direct.read_reply_raw();
            let (_, reply) = proxied.read_reply_raw();
            assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", blocker.waits);
        }
    }
}

#[test]
fn a_blocked_command_keeps_its_time_across_a_fault() {
    // Long enough that all ten wait at once, on a busy machine too.
    const TIMEOUT: Duration = Duration::from_secs(3);
    let mut pair = Pair::start();
    let mut clients = Vec::new();
    for blocker in &BLOCKERS[..10] {
        let mut client = pair.client();
        client.send(blocker.command(TIMEOUT));
        clients.push(client);
    }
    let started_at = Instant::now();
    wait_for_blocked(&pair.east, 10);
    pair.fail_over();
    for client in &mut clients {
        client.expect("*-1\r\n");
    }
    // What is left of it is asked of the next one: `acceptance.rs` reads how much.
    let took = started_at.elapsed();
    assert!(took >= TIMEOUT - Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_blocked_command_is_uncertain_when_the_operator_says_so() {
    let mut pair = Pair::builder().configuration("[retry]\nblocked = \"uncertain\"").start();
    let mut client = pair.client();
    client.send_command(&["BLPOP", "k", "0"]);
    wait_for_blocked(&pair.east, 1);
    pair.fail_over();
    assert!(client.read_reply().is_error("UNCERTAIN"));
    assert_eq!(client.command(&["RPUSH", "k", "x"]), Value::Integer(1));
    assert_eq!(client.command(&["BLPOP", "k", "0"]), popped("k", "x"));
}

#[test]
fn a_planned_switch_moves_blocked_commands_and_pops_nothing_for_nobody() {
    const CLIENTS: usize = 20;
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| pair.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let timeout = if number % 2 == 0 { "0" } else { "60" };
        client.send_command(&["BLPOP", "k", timeout]);
    }
    wait_for_blocked(&pair.west, CLIENTS);
    pair.fail_back();
    wait_for_blocked(&pair.east, CLIENTS);
    wait_for_blocked(&pair.west, 0);
    // What is pushed to the old one now stays there.
    assert_eq!(pair.west.command(&["RPUSH", "k", "left"]), Value::Integer(1));
    let mut feeder = pair.client();
    for number in 0..CLIENTS {
        feeder.command(&["RPUSH", "k", &number.to_string()]);
    }
    let mut got: Vec<String> = clients.iter_mut().map(|client| client.read_reply().elements()[1].text()).collect();
    got.sort_by_key(|element| element.parse::<usize>().expect("a number"));
    assert_eq!(got, (0..CLIENTS).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!((length(&pair.west, "k"), length(&pair.east, "k")), (1, 0));
    assert!(pair.called_off().is_empty());
}

#[test]
fn elements_pushed_during_a_planned_switch_are_each_delivered_once_or_kept() {
    const CLIENTS: usize = 10;
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| pair.client()).collect();
    for client in &mut clients {
        client.send_command(&["BLPOP", "k", "0"]);
    }
    wait_for_blocked(&pair.west, CLIENTS);
    // A client of the old backend that does not pass through Handover pushes all the while.
    pair.relay.listen();
    let mut outsider = pair.west.client();
    let mut pushed = 0;
    let is_blocked = || !pair.west.command(&["INFO", "clients"]).text().contains("blocked_clients:0\r");
    while is_blocked() && pushed < CLIENTS {
        assert!(outsider.command(&["RPUSH", "k", &format!("w{pushed}")]).integer() > 0);
        pushed += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    pair.wait_for("east");
    for number in 0..CLIENTS {
        pair.east.command(&["RPUSH", "k", &format!("e{number}")]);
    }
    let mut got: Vec<String> = clients.iter_mut().map(|client| client.read_reply().elements()[1].text()).collect();
    for server in [&pair.west, &pair.east] {
        let rest = server.command(&["LRANGE", "k", "0", "-1"]);
        got.extend(rest.elements().iter().map(Value::text));
    }
    got.sort();
    let mut expected: Vec<String> = (0..pushed).map(|number| format!("w{number}")).collect();
    expected.extend((0..CLIENTS).map(|number| format!("e{number}")));
    expected.sort();
    assert_eq!(got, expected);
}

#[test]
fn a_blocked_command_that_cannot_be_unblocked_does_not_call_a_planned_switch_off() {
    let without_unblock = "default on nopass ~* &* +@all -client|unblock";
    let mut pair = Pair::builder().returning().west(|west| west.user(without_unblock)).start();
    pair.fail_over();
    let mut client = pair.client();
    client.send_command(&["BLPOP", "k", "0"]);
    wait_for_blocked(&pair.west, 1);
    pair.fail_back();
    wait_for_blocked(&pair.east, 1);
    wait_for_blocked(&pair.west, 0);
    pair.east.command(&["RPUSH", "k", "x"]);
    assert_eq!(client.read_reply(), popped("k", "x"));
    assert!(pair.called_off().is_empty());
}

#[test]
fn a_blocking_command_sent_during_an_outage_waits_on_the_next_active() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
    pair.relay.set_mode(Mode::BlackHole);
    client.send_command(&["BLPOP", "k", "0"]);
    pair.fail_over();
    wait_for_blocked(&pair.west, 1);
    pair.west.command(&["RPUSH", "k", "x"]);
    assert_eq!(client.read_reply(), popped("k", "x"));
}
