//! Subscribers across faults, against real servers: what they hear of a gap, what stands by, dead connections, readers
//! that stop, and publishers on other workers.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Handover, Mode, PATIENCE, Pair, RawClient, RedisServer, Value, holds_within, wait_until};

/// Long enough that a message which is not held back would have come.
const SILENCE: Duration = Duration::from_millis(50);
const EVENTS: &str = "__handover__:events";

fn words(frame: &Value) -> Vec<String> {
    frame.elements().iter().map(Value::text).collect()
}

#[track_caller]
fn subscribe(client: &mut RawClient, command: &str, channel: &str) -> i64 {
    let confirmed = client.command(&[command, channel]);
    assert_eq!(confirmed.elements()[1], Value::bulk(channel));
    confirmed.elements()[2].integer()
}

#[track_caller]
fn wait_for_confirmed(pair: &Pair, count: usize) {
    let of = |state| pair.handover.metric("handover_subscriptions", &[("state", state)]);
    wait_until(PATIENCE, || of("wanted") == count as f64 && of("confirmed") == count as f64);
}

#[track_caller]
fn publish(server: &RedisServer, channel: &str, payload: &str) -> i64 {
    server.command(&["PUBLISH", channel, payload]).integer()
}

fn payload(client: &mut RawClient) -> String {
    words(&client.read_reply()).pop().unwrap_or_default()
}

#[test]
fn whoever_subscribes_to_the_channel_of_events_hears_of_each_switch() {
    let mut pair = Pair::builder().returning().start();
    let (mut by_name, mut by_pattern, mut listener) = (pair.client(), pair.client(), pair.client());
    assert_eq!(subscribe(&mut by_name, "SUBSCRIBE", "news"), 1);
    assert_eq!(subscribe(&mut by_name, "SUBSCRIBE", EVENTS), 2);
    by_pattern.command(&["HELLO", "3"]);
    assert_eq!(subscribe(&mut by_pattern, "PSUBSCRIBE", "__handover__:*"), 1);
    assert_eq!(subscribe(&mut listener, "SUBSCRIBE", EVENTS), 1);
    // It is nobody's to publish to, and no server knows of it.
    assert_eq!(pair.client().command(&["PUBLISH", EVENTS, "forged"]), Value::Integer(0));
    assert_eq!(pair.east.command(&["PUBSUB", "CHANNELS"]), Value::Array(vec![Value::bulk("news")]));
    assert_eq!(pair.east.command(&["PUBSUB", "NUMPAT"]), Value::Integer(0));
    pair.fail_over();
    let event: serde_json::Value = serde_json::from_str(&payload(&mut by_name)).expect("JSON");
    assert_eq!((&event["event"], &event["from"], &event["to"]), (&"switched".into(), &"east".into(), &"west".into()));
    assert_eq!((&event["channels"], &event["reason"]), (&1.into(), &"connection lost".into()));
    let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name} in {event}"));
    assert!(number("lost_at") <= number("back_at") && number("gap_ms") <= number("back_at") - number("lost_at") + 1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert!(now.as_millis().abs_diff(u128::from(number("back_at"))) < 60_000, "{event}");
    let frame = by_pattern.read_reply();
    assert!(matches!(frame, Value::Push(_)));
    assert_eq!(words(&frame)[..3], ["pmessage", "__handover__:*", EVENTS]);
    let seen: serde_json::Value = serde_json::from_str(&payload(&mut listener)).expect("JSON");
    assert_eq!((&seen["lost_at"], &seen["epoch"]), (&serde_json::Value::Null, &event["epoch"]));
    assert_eq!(publish(&pair.west, "news", "live"), 1);
    assert_eq!(payload(&mut by_name), "live");
    pair.fail_back();
    let event: serde_json::Value = serde_json::from_str(&payload(&mut by_name)).expect("JSON");
    assert_eq!((&event["reason"], &event["gap_ms"]), (&"failback".into(), &0.into()));
    pair.handover.expect_metric("handover_subscription_gaps_total", &[], 1.0);
}

#[test]
fn a_gap_is_told_by_confirmations_or_by_the_end_of_the_connection() {
    for (on_gap, is_closed) in [("push", false), ("disconnect", true), ("none", false)] {
        let mut pair = Pair::builder().configuration(&format!("[pubsub]\non_gap = \"{on_gap}\"")).start();
        let mut client = pair.client();
        subscribe(&mut client, "SUBSCRIBE", "a");
        subscribe(&mut client, "PSUBSCRIBE", "b*");
        pair.fail_over();
        if is_closed {
            client.expect_end();
            continue;
        }
        if on_gap == "push" {
            for (word, name) in [("subscribe", "a"), ("psubscribe", "b*")] {
                let expected = Value::Array(vec![Value::bulk(word), Value::bulk(name), Value::Integer(2)]);
                assert_eq!(client.read_reply(), expected);
            }
        }
        wait_for_confirmed(&pair, 2);
        // What the metric said may be of the moment before the switch.
        let listeners = || pair.west.command(&["PUBSUB", "NUMSUB", "a"]).elements()[1].integer();
        wait_until(PATIENCE, || listeners() == 1);
        assert_eq!(publish(&pair.west, "a", "live"), 1);
        assert_eq!(payload(&mut client), "live");
    }
}

#[test]
fn a_dead_connection_is_found_by_its_silence_and_idle_ones_are_left_alone() {
    let pair = Pair::builder().configuration("[pubsub]\nheartbeat = \"50ms\"\nheartbeat_lost = \"2s\"").start();
    let mut clients: Vec<RawClient> = ["2", "3"]
        .iter()
        .map(|protocol| {
            let mut client = pair.client();
            client.command(&["HELLO", protocol]);
            subscribe(&mut client, "SUBSCRIBE", "a");
            client
        })
        .collect();
    wait_for_confirmed(&pair, 2);
    // Nothing is said for many heartbeats.
    let bytes = pair.relay.request_bytes();
    wait_until(PATIENCE, || pair.relay.request_bytes() > bytes + 100 * 14);
    pair.handover.expect_metric("handover_subscription_gaps_total", &[], 0.0);
    pair.relay.set_mode(Mode::BlackHole);
    // Found while nothing arrives: the connections are given up before anything moves again.
    wait_until(PATIENCE, || pair.handover.metric("handover_subscriptions", &[("state", "confirmed")]) == 0.0);
    pair.relay.set_mode(Mode::Pass);
    wait_for_confirmed(&pair, 2);
    pair.handover.expect_metric("handover_subscription_gaps_total", &[], 2.0);
    wait_until(PATIENCE, || publish(&pair.east, "a", "live") == 2);
    for client in &mut clients {
        assert_eq!(payload(client), "live");
    }
}

#[test]
fn a_reader_that_stops_is_closed_at_its_limit_and_others_get_everything() {
    const MESSAGES: usize = 120;
    let pair = Pair::start();
    let (mut stopped, mut reader, mut other) = (pair.client(), pair.client(), pair.client());
    subscribe(&mut stopped, "SUBSCRIBE", "large");
    subscribe(&mut reader, "SUBSCRIBE", "large");
    let large = "x".repeat(1 << 20);
    let mut publisher = pair.east.client();
    for _ in 0..MESSAGES {
        publisher.command(&["PUBLISH", "large", &large]);
        assert_eq!(payload(&mut reader).len(), large.len());
        assert_eq!(other.command(&["GET", "k"]), Value::Null);
    }
    wait_until(PATIENCE, || pair.handover.metric("handover_slow_subscribers_closed_total", &[]) == 1.0);
    pair.handover.expect_metric("handover_clients_closed_total", &[("reason", "slow_subscriber")], 1.0);
    wait_for_confirmed(&pair, 1);
    reader.expect_silence(SILENCE);
}

#[test]
fn a_standby_carries_what_was_published_there_in_the_gap() {
    // No heartbeat that would be answered in the gap: it begins with the last message.
    let quiet = "[pubsub]\nstandby = true\nheartbeat = \"8s\"\nheartbeat_lost = \"9s\"";
    let mut pair = Pair::builder().configuration(quiet).start();
    let mut client = pair.client();
    subscribe(&mut client, "SUBSCRIBE", "a");
    wait_until(PATIENCE, || pair.west.command(&["PUBSUB", "NUMSUB", "a"]).elements()[1] == Value::Integer(1));
    assert_eq!(publish(&pair.west, "a", "of the standby"), 1);
    client.expect_silence(SILENCE);
    assert_eq!(publish(&pair.east, "a", "life"), 1);
    assert_eq!(payload(&mut client), "life");
    pair.relay.set_mode(Mode::BlackHole);
    for number in 0..10 {
        assert_eq!(publish(&pair.west, "a", &number.to_string()), 1);
    }
    client.expect_silence(SILENCE);
    pair.fail_over();
    for number in 0..10 {
        assert_eq!(payload(&mut client), number.to_string());
    }
    assert_eq!(publish(&pair.west, "a", "live"), 1);
    assert_eq!(payload(&mut client), "live");
    pair.handover.expect_metric("handover_messages_replayed_total", &[], 10.0);
}

/// Messages that every worker's publishers send after a fault reach the subscribers of all of them.
#[test]
fn publishers_wait_for_the_subscribers_of_every_worker() {
    let mut pair = Pair::builder().configuration("[runtime]\nworkers = 3").start();
    let mut subscribers: Vec<RawClient> = (0..9).map(|_| pair.client()).collect();
    for client in &mut subscribers {
        subscribe(client, "SUBSCRIBE", "a");
    }
    let mut publishers: Vec<RawClient> = (0..3).map(|_| pair.client()).collect();
    pair.break_east();
    for (number, publisher) in publishers.iter_mut().enumerate() {
        publisher.send_command(&["PUBLISH", "a", &number.to_string()]);
    }
    for publisher in &mut publishers {
        assert_eq!(publisher.read_reply(), Value::Integer(9));
    }
    for client in &mut subscribers {
        let mut heard: Vec<String> = (0..3).map(|_| payload(client)).collect();
        heard.sort();
        assert_eq!(heard, ["0", "1", "2"]);
    }
}

#[test]
fn a_publish_whose_reply_was_lost_is_uncertain_or_repeated() {
    for (publish, is_repeated) in [("at-most-once", false), ("at-least-once", true)] {
        let mut pair = Pair::builder().configuration(&format!("[pubsub]\npublish = \"{publish}\"")).start();
        let (mut subscriber, mut publisher) = (pair.west.client(), pair.client());
        subscribe(&mut subscriber, "SUBSCRIBE", "a");
        assert_eq!(publisher.command(&["GET", "k"]), Value::Null);
        pair.relay.set_mode(Mode::HoldReplies);
        publisher.send_command(&["PUBLISH", "a", "x"]);
        // It has run; bytes alone could be those of a probe.
        let stats = || pair.east.command(&["INFO", "commandstats"]).text();
        wait_until(PATIENCE, || stats().contains("cmdstat_publish:calls=1,"));
        pair.fail_over();
        let reply = publisher.read_reply();
        match is_repeated {
            true => {
                assert_eq!(reply, Value::Integer(1));
                assert_eq!(payload(&mut subscriber), "x");
            }
            false => {
                assert!(reply.is_error("UNCERTAIN"), "{reply:?}");
                subscriber.expect_silence(SILENCE);
            }
        }
    }
}

/// East, and its replica west, which takes over when it is told to, and is promoted by hand.
#[test]
fn a_replica_that_carries_its_masters_messages_takes_over_without_a_loss() {
    let east = RedisServer::start();
    let west = RedisServer::builder().replica_of(east.address()).start();
    wait_until(PATIENCE, || west.command(&["INFO", "replication"]).text().contains("master_link_status:up"));
    let handover = Handover::builder(&format!(
        r#"
        [health]
        modes = ["ping"]
        interval = "100ms"
        standby_interval = "100ms"
        [failover]
        initial = "all"
        failback = "never"
        [pubsub]
        propagates = true
        lag_max = "3s"
        [[backend]]
        name = "east"
        url = "redis://{}"
        weight = 2.0
        [[backend]]
        name = "west"
        url = "redis://{}"
        "#,
        east.address(),
        west.address()
    ))
    .allow_warning("switched")
    .allow_warning("a backend can serve again")
    .start();
    let mut client = handover.client();
    subscribe(&mut client, "SUBSCRIBE", "a");
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let status = || handover.http_get("/status").body;
    wait_until(PATIENCE, || status().contains("\"standby\":\"west\""));
    let (done, published) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = east.client();
            while !done.load(Ordering::Relaxed) {
                let number = published.load(Ordering::Relaxed);
                publisher.command(&["PUBLISH", "a", &number.to_string()]);
                published.store(number + 1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        wait_until(PATIENCE, || published.load(Ordering::Relaxed) > 50);
        let answer = console.command(&["SWITCH", "west"]);
        // What is published on the master still comes, by way of the replica alone.
        let reached = published.load(Ordering::Relaxed);
        let went_on = holds_within(3 * PATIENCE, || published.load(Ordering::Relaxed) > reached + 1000);
        done.store(true, Ordering::Relaxed);
        assert!(!matches!(answer, Value::Error(_)) && went_on, "{answer:?}");
    });
    let published = published.load(Ordering::Relaxed);
    let listeners = || east.command(&["PUBSUB", "NUMSUB", "a"]).elements()[1].integer();
    wait_until(PATIENCE, || listeners() == 0);
    publish(&east, "a", "end");
    let mut counts = vec![0_u32; usize::try_from(published).expect("a small number")];
    loop {
        let text = payload(&mut client);
        if text == "end" {
            break;
        }
        counts[text.parse::<usize>().expect("a number")] += 1;
    }
    let lost = counts.iter().filter(|&&count| count == 0).count();
    let doubled = counts.iter().filter(|&&count| count > 1).count();
    println!("{published} published, {lost} lost, {doubled} came twice");
    assert_eq!(lost, 0);
    assert!(doubled as u64 <= published / 10, "{doubled} of {published} came twice");
    assert_eq!(west.command(&["REPLICAOF", "NO", "ONE"]), Value::ok());
    assert_eq!(publish(&west, "a", "of the new master"), 1);
    assert_eq!(payload(&mut client), "of the new master");
}

/// A subscriber of one of the forms, and what it has heard.
struct Listener {
    client: RawClient,
    heard: Vec<u64>,
}

/// Subscribers of all forms and a publisher of numbered messages, through one Handover.
fn crowd(pair: &Pair, count: usize) -> Vec<Listener> {
    (0..count)
        .map(|number| {
            let mut client = pair.client();
            client.command(&["HELLO", if number % 2 == 0 { "2" } else { "3" }]);
            let (command, name) = [("SUBSCRIBE", "n"), ("PSUBSCRIBE", "n*"), ("SSUBSCRIBE", "n")][number % 3];
            subscribe(&mut client, command, name);
            Listener { client, heard: Vec::new() }
        })
        .collect()
}

/// Numbers that are published before an action and after it: what it costs is little beside them.
const AROUND: u64 = 40;

/// Publishes numbers, at most 500 a second, before `action`, while it goes on and after it; whoever listens reads
/// everything up to the last number, which each hears. Returns how many were published.
fn publish_during(pair: &mut Pair, crowd: &mut [Listener], action: impl FnOnce(&mut Pair)) -> u64 {
    let (done, published, address) = (AtomicBool::new(false), AtomicU64::new(0), pair.handover.address());
    let wait_for_more = || {
        let reached = published.load(Ordering::Relaxed);
        holds_within(3 * PATIENCE, || published.load(Ordering::Relaxed) >= reached + AROUND)
    };
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut client = RawClient::connect(address);
            let (start, mut number) = (Instant::now(), 0_u64);
            while !done.load(Ordering::Relaxed) {
                let _ = client.command(&["PUBLISH", "n", &number.to_string()]);
                let _ = client.command(&["SPUBLISH", "n", &number.to_string()]);
                number += 1;
                published.store(number, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2 * number).saturating_sub(start.elapsed()));
            }
        });
        let reader = scope.spawn(|| {
            // All read at once, so that nobody is a slow reader.
            std::thread::scope(|scope| {
                for listener in crowd.iter_mut() {
                    scope.spawn(|| {
                        loop {
                            let text = payload(&mut listener.client);
                            match text.parse() {
                                Ok(number) => listener.heard.push(number),
                                Err(_) => return,
                            }
                        }
                    });
                }
            });
        });
        let went_on_before = wait_for_more();
        action(pair);
        let went_on_after = wait_for_more();
        done.store(true, Ordering::Relaxed);
        publisher.join().expect("it was answered");
        let mut client = RawClient::connect(address);
        client.command(&["PUBLISH", "n", "end"]);
        client.command(&["SPUBLISH", "n", "end"]);
        reader.join().expect("each heard the end");
        assert!(went_on_before && went_on_after, "too slow to tell anything");
    });
    published.into_inner()
}

#[test]
fn a_planned_switch_loses_nothing_for_a_hundred_subscribers_and_doubles_nothing() {
    let mut pair = Pair::builder().returning().configuration("[runtime]\nworkers = 2").start();
    pair.fail_over();
    let mut crowd = crowd(&pair, 100);
    let published = publish_during(&mut pair, &mut crowd, Pair::fail_back);
    for (number, listener) in crowd.iter().enumerate() {
        let expected: Vec<u64> = (0..published).collect();
        assert!(listener.heard == expected, "subscriber {number} heard {} of {published}", listener.heard.len());
    }
    pair.handover.expect_metric("handover_subscription_gaps_total", &[], 0.0);
}

#[test]
fn a_kill_costs_a_hundred_subscribers_a_short_gap_and_no_message_twice() {
    let mut pair = Pair::builder().configuration("[runtime]\nworkers = 2").start();
    let mut crowd = crowd(&pair, 100);
    let published = publish_during(&mut pair, &mut crowd, |pair| {
        pair.east.kill();
        pair.break_east();
        pair.wait_for("west");
    });
    let mut worst = 0;
    for listener in &crowd {
        assert!(listener.heard.windows(2).all(|pair| pair[0] < pair[1]), "out of order, or twice");
        worst = worst.max(published - listener.heard.len() as u64);
    }
    println!("{published} published, at most {worst} lost by one subscriber");
    // A PUBLISH waits for the subscribers: what is lost was in flight.
    assert!(worst <= published / 4, "{worst} of {published} lost");
}

#[test]
fn fifty_switches_in_a_row_leave_everybody_subscribed() {
    let pair = Pair::start();
    let mut crowd = crowd(&pair, 12);
    let mut console = RawClient::connect_unix(&pair.handover.console_socket());
    for number in 0..50 {
        let to = if number % 2 == 0 { "west" } else { "east" };
        let words: &[&str] = if number % 3 == 0 { &["SWITCH", to, "FORCE"] } else { &["SWITCH", to] };
        let answer = console.command(words);
        assert!(!matches!(answer, Value::Error(_)), "{answer:?}");
        wait_for_confirmed(&pair, 12);
    }
    for listener in &mut crowd {
        assert!(!listener.client.is_closed());
    }
    let mut client = pair.client();
    assert_eq!(client.command(&["PUBLISH", "n", "1"]), Value::Integer(8));
    assert_eq!(client.command(&["SPUBLISH", "n", "1"]), Value::Integer(4));
    for listener in &mut crowd {
        assert_eq!(payload(&mut listener.client), "1");
    }
}
