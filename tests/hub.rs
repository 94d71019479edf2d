//! Many subscribers on one connection (`pubsub.mode = "hub"`): what servers see of them is one subscription for each
//! worker, and what each of them sees is what it would see with a connection of its own.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{PATIENCE, Pair, RawClient, RedisServer, RedisServerBuilder, Value, encode, wait_until};

/// Long enough that a message which is not held back would have come.
const SILENCE: Duration = Duration::from_millis(50);
const HUB: &str = "[pubsub]\nmode = \"hub\"\nlinger = \"200ms\"";

fn start() -> Pair {
    Pair::builder().configuration(HUB).start()
}

fn words(frame: &Value) -> Vec<String> {
    frame.elements().iter().map(Value::text).collect()
}

#[track_caller]
fn subscribe(client: &mut RawClient, command: &str, channel: &str) {
    let confirmed = client.command(&[command, channel]);
    assert_eq!(confirmed.elements()[1], Value::bulk(channel));
}

#[track_caller]
fn publish(server: &RedisServer, channel: &str, payload: &str) -> i64 {
    server.command(&["PUBLISH", channel, payload]).integer()
}

/// How many connections of this server subscribe to a channel.
#[track_caller]
fn subscribers(server: &RedisServer, channel: &str) -> i64 {
    server.command(&["PUBSUB", "NUMSUB", channel]).elements()[1].integer()
}

#[track_caller]
fn wait_for_confirmed(pair: &Pair, count: usize) {
    let of = |state| pair.handover.metric("handover_subscriptions", &[("state", state)]);
    wait_until(PATIENCE, || of("wanted") == count as f64 && of("confirmed") == count as f64);
}

/// Many subscribers of one channel, half of them of RESP3, each of which gets every message in its order.
fn assert_all_get_everything(workers: usize, clients: usize, messages: usize) {
    let pair = Pair::builder().configuration(&format!("{HUB}\n[runtime]\nworkers = {workers}")).start();
    let mut clients: Vec<RawClient> = (0..clients).map(|_| pair.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 1 {
            client.command(&["HELLO", "3"]);
        }
        subscribe(client, "SUBSCRIBE", "news");
    }
    let upstream = subscribers(&pair.east, "news");
    assert!((1..=workers as i64).contains(&upstream), "{upstream} subscriptions for {workers} workers");
    let mut burst = Vec::new();
    (0..messages).for_each(|number| burst.extend(encode(&["PUBLISH", "news", &number.to_string()])));
    let mut publisher = pair.east.client();
    publisher.send(&burst);
    for (number, client) in clients.iter_mut().enumerate() {
        let sign = if number % 2 == 1 { '>' } else { '*' };
        for message in 0..messages {
            let (_, raw) = client.read_reply_raw();
            let text = message.to_string();
            let expected = format!("{sign}3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n${}\r\n{text}\r\n", text.len());
            assert_eq!(String::from_utf8_lossy(&raw), expected);
        }
    }
    for _ in 0..messages {
        assert_eq!(publisher.read_reply(), Value::Integer(upstream));
    }
    wait_for_confirmed(&pair, clients.len());
    pair.handover.expect_metric("handover_hub_topics", &[("kind", "channel")], upstream as f64);
}

#[test]
fn a_server_has_one_subscription_for_three_hundred_clients_of_a_worker() {
    assert_all_get_everything(1, 300, 500);
}

#[test]
fn a_server_has_one_subscription_for_each_worker() {
    assert_all_get_everything(2, 100, 300);
}

#[test]
fn a_pattern_and_a_channel_that_fit_deliver_both() {
    let pair = start();
    let (mut both, mut one) = (pair.client(), pair.client());
    subscribe(&mut both, "SUBSCRIBE", "news");
    subscribe(&mut both, "PSUBSCRIBE", "n*");
    subscribe(&mut one, "PSUBSCRIBE", "n*");
    assert_eq!(publish(&pair.east, "news", "x"), 2);
    let mut got: Vec<Vec<String>> = (0..2).map(|_| words(&both.read_reply())).collect();
    got.sort();
    assert_eq!(got, [vec!["message", "news", "x"], vec!["pmessage", "n*", "news", "x"]]);
    assert_eq!(words(&one.read_reply()), ["pmessage", "n*", "news", "x"]);
    both.expect_silence(SILENCE);
    subscribe(&mut one, "SSUBSCRIBE", "shard");
    assert_eq!(pair.east.command(&["SPUBLISH", "shard", "y"]), Value::Integer(1));
    assert_eq!(words(&one.read_reply()), ["smessage", "shard", "y"]);
    both.expect_silence(SILENCE);
}

#[test]
fn the_last_one_leaves_after_the_linger() {
    let pair = start();
    let (mut first, mut last) = (pair.client(), pair.client());
    for client in [&mut first, &mut last] {
        subscribe(client, "SUBSCRIBE", "news");
    }
    subscribe(&mut first, "UNSUBSCRIBE", "news");
    assert_eq!(publish(&pair.east, "news", "x"), 1);
    assert_eq!(words(&last.read_reply()), ["message", "news", "x"]);
    first.expect_silence(SILENCE);
    assert_eq!(pair.east.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).text().lines().count(), 1);
    drop(last);
    wait_until(PATIENCE, || subscribers(&pair.east, "news") == 0);
    // Nor does the connection stay.
    wait_until(PATIENCE, || pair.east.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).text().is_empty());
    subscribe(&mut first, "SUBSCRIBE", "news");
    assert_eq!(publish(&pair.east, "news", "y"), 1);
    assert_eq!(words(&first.read_reply()), ["message", "news", "y"]);
}

#[test]
fn readers_are_no_clients() {
    let pair = start();
    let (mut subscriber, mut asker) = (pair.client(), pair.client());
    subscribe(&mut subscriber, "SUBSCRIBE", "news");
    assert_eq!(asker.command(&["CLIENT", "LIST"]).text().lines().count(), 2);
    wait_until(PATIENCE, || pair.sessions("subscribed") == 1 && pair.sessions("shared") == 1);
    assert_eq!(asker.command(&["CLIENT", "KILL", "TYPE", "pubsub"]), Value::Integer(1));
    subscriber.expect_end();
}

#[test]
fn a_refused_subscription_is_told_to_who_asked_for_it_alone() {
    let rules = "default on nopass ~* resetchannels &open* +@all";
    let pair = Pair::builder().configuration(HUB).servers(|server| server.user(rules)).start();
    let (mut allowed, mut refused) = (pair.client(), pair.client());
    subscribe(&mut allowed, "SUBSCRIBE", "open:1");
    assert!(refused.command(&["SUBSCRIBE", "open:1", "secret"]).is_error("NOPERM"));
    assert_eq!(refused.command(&["SET", "k", "v"]), Value::ok());
    subscribe(&mut refused, "SUBSCRIBE", "open:1");
    assert_eq!(publish(&pair.east, "open:1", "x"), 1);
    for client in [&mut allowed, &mut refused] {
        assert_eq!(words(&client.read_reply()), ["message", "open:1", "x"]);
        client.expect_silence(SILENCE);
    }
}

#[test]
fn only_the_client_whose_subscription_the_new_backend_refuses_hears_of_it() {
    let rules = "default on nopass ~* resetchannels &open* +@all";
    let mut pair = Pair::builder().configuration(HUB).west(|west| west.user(rules)).start();
    let (mut allowed, mut refused) = (pair.client(), pair.client());
    subscribe(&mut allowed, "SUBSCRIBE", "open");
    subscribe(&mut refused, "SUBSCRIBE", "secret");
    pair.fail_over();
    assert!(refused.read_reply().is_error("NOPERM"));
    refused.expect_end();
    wait_for_confirmed(&pair, 1);
    wait_until(PATIENCE, || subscribers(&pair.west, "open") == 1);
    assert_eq!(publish(&pair.west, "open", "x"), 1);
    assert_eq!(words(&allowed.read_reply()), ["message", "open", "x"]);
    allowed.expect_silence(SILENCE);
}

#[test]
fn everybody_gets_messages_again_after_a_kill_and_hears_of_it() {
    let mut pair = start();
    let mut clients: Vec<RawClient> = (0..50).map(|_| pair.client()).collect();
    for client in &mut clients {
        subscribe(client, "SUBSCRIBE", "news");
    }
    subscribe(&mut clients[0], "SUBSCRIBE", "__handover__:events");
    pair.east.kill();
    pair.break_east();
    pair.wait_for("west");
    wait_for_confirmed(&pair, clients.len() + 1);
    wait_until(PATIENCE, || subscribers(&pair.west, "news") == 1);
    assert_eq!(publish(&pair.west, "news", "again"), 1);
    assert_eq!(words(&clients[0].read_reply())[1], "__handover__:events");
    for client in &mut clients {
        assert_eq!(words(&client.read_reply()), ["message", "news", "again"]);
    }
    pair.handover.expect_metric("handover_subscription_gaps_total", &[], clients.len() as f64);
}

#[test]
fn a_gap_is_told_to_each_by_its_own_confirmations_or_by_the_end_of_its_connection() {
    for (on_gap, is_closed) in [("push", false), ("disconnect", true)] {
        let mut pair = Pair::builder().configuration(&format!("{HUB}\non_gap = \"{on_gap}\"")).start();
        let (mut one, mut other) = (pair.client(), pair.client());
        subscribe(&mut one, "SUBSCRIBE", "a");
        subscribe(&mut other, "SUBSCRIBE", "b");
        pair.fail_over();
        if is_closed {
            one.expect_end();
            other.expect_end();
            continue;
        }
        for (client, name) in [(&mut one, "a"), (&mut other, "b")] {
            let confirmed = client.read_reply();
            assert_eq!(confirmed, Value::Array(vec![Value::bulk("subscribe"), Value::bulk(name), Value::Integer(1)]));
            client.expect_silence(SILENCE);
        }
    }
}

#[test]
fn a_planned_switch_loses_no_message_and_doubles_none() {
    let mut pair = Pair::builder().configuration(HUB).returning().start();
    pair.fail_over();
    let mut clients: Vec<RawClient> = (0..20).map(|_| pair.client()).collect();
    for client in &mut clients {
        subscribe(client, "SUBSCRIBE", "numbers");
    }
    let done = AtomicBool::new(false);
    let address = pair.handover.address();
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut client = RawClient::connect(address);
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(client.command(&["PUBLISH", "numbers", &number.to_string()]).integer() > 0, "{number}");
                number += 1;
            }
            number
        });
        pair.fail_back();
        done.store(true, Ordering::Relaxed);
        publisher.join().expect("every message was heard")
    });
    assert!(published > 0);
    for client in &mut clients {
        for number in 0..published {
            assert_eq!(words(&client.read_reply()), ["message", "numbers", &number.to_string()]);
        }
        client.expect_silence(SILENCE);
    }
}

#[test]
fn a_reader_that_stops_is_closed_at_its_limit_and_others_go_on() {
    const PAYLOAD_BYTES: usize = 256 * 1024;
    let pair = Pair::builder().configuration(&format!("{HUB}\n[runtime]\nworkers = 1")).start();
    let (mut stopped, mut reading) = (pair.client(), pair.client());
    for client in [&mut stopped, &mut reading] {
        subscribe(client, "SUBSCRIBE", "news");
    }
    let payload = "x".repeat(PAYLOAD_BYTES);
    let is_closed = || pair.handover.metric("handover_slow_subscribers_closed_total", &[]) > 0.0;
    // 32 MiB, and what the kernel takes.
    for number in 0..400 {
        assert_eq!(publish(&pair.east, "news", &format!("{number}:{payload}")), 1);
        assert!(reading.read_reply().elements()[2].text().starts_with(&format!("{number}:")));
        if number % 20 == 0 && is_closed() {
            break;
        }
    }
    wait_until(PATIENCE, is_closed);
    wait_for_confirmed(&pair, 1);
    assert_eq!(publish(&pair.east, "news", "after"), 1);
    assert_eq!(words(&reading.read_reply())[2], "after");
}

#[test]
fn clients_share_with_those_of_their_own_user_and_move_with_their_identity() {
    let users = |server: RedisServerBuilder| {
        server.user("alice on >a-secret ~* &* +@all").user("bob on >b-secret ~* resetchannels &open +@all")
    };
    let configuration = format!("{HUB}\n[identity]\nmode = \"passthrough\"");
    let pair = Pair::builder().servers(users).configuration(&configuration).start();
    let log_in = |user: &str, password: &str| {
        let mut client = pair.client();
        client.command(&["HELLO", "3", "AUTH", user, password]);
        subscribe(&mut client, "SUBSCRIBE", "open");
        client
    };
    let (mut alice, mut bob, mut other) =
        (log_in("alice", "a-secret"), log_in("bob", "b-secret"), log_in("bob", "b-secret"));
    assert!(bob.command(&["SUBSCRIBE", "secret"]).is_error("NOPERM"));
    assert_eq!(publish(&pair.east, "open", "one"), 2);
    for client in [&mut alice, &mut bob, &mut other] {
        assert_eq!(words(&client.read_reply()), ["message", "open", "one"]);
    }
    assert_eq!(bob.command(&["AUTH", "alice", "a-secret"]), Value::ok());
    let is_alice = |line: &&str| line.contains("user=alice") && line.contains(" sub=1 ");
    wait_until(PATIENCE, || {
        pair.east.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).text().lines().filter(is_alice).count() == 2
    });
    assert_eq!(publish(&pair.east, "open", "two"), 3);
    for client in [&mut alice, &mut bob, &mut other] {
        assert_eq!(words(&client.read_reply()), ["message", "open", "two"]);
        client.expect_silence(SILENCE);
    }
    subscribe(&mut bob, "SUBSCRIBE", "secret");
}

#[test]
fn who_listens_to_invalidations_has_a_connection_of_its_own() {
    let pair = start();
    let (mut one, mut other) = (pair.client(), pair.client());
    for client in [&mut one, &mut other] {
        subscribe(client, "SUBSCRIBE", "news");
    }
    assert_eq!(subscribers(&pair.east, "news"), 1);
    subscribe(&mut one, "SUBSCRIBE", "__redis__:invalidate");
    wait_until(PATIENCE, || subscribers(&pair.east, "news") == 2);
    publish(&pair.east, "news", "x");
    for client in [&mut one, &mut other] {
        assert_eq!(words(&client.read_reply()), ["message", "news", "x"]);
        client.expect_silence(SILENCE);
    }
}
