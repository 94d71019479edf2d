//! Subscriptions: confirmed byte for byte as Redis confirms them, and live again after every switch by themselves.

mod support;

use std::time::Duration;

use support::{PATIENCE, Pair, RawClient, RedisServer, Value, encode, wait_until};

/// Long enough that a message which is not held back would have come.
const SILENCE: Duration = Duration::from_millis(50);

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

/// Sends each line to Handover and straight to a server, which answer with so many frames, the same ones.
#[track_caller]
fn assert_as_redis(pair: &Pair, protocol: &str, course: &[(&str, usize)]) {
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for client in [&mut direct, &mut proxied] {
        client.command(&["HELLO", protocol]);
    }
    for (line, frames) in course {
        bytes.extend(frame(line));
        direct.send(frame(line));
        proxied.send(frame(line));
        for _ in 0..*frames {
            let (_, reply) = direct.read_reply_raw();
            let (_, got) = proxied.read_reply_raw();
            let context = format!("{line:?} of {course:?} in RESP{protocol}");
            assert_eq!(got.escape_ascii().to_string(), reply.escape_ascii().to_string(), "{context}");
            expected.extend(reply);
        }
    }
    // Once more, pipelined.
    let mut proxied = pair.client();
    proxied.command(&["HELLO", protocol]);
    proxied.send(&bytes);
    proxied.expect(&expected);
}

/// A server may take long for very much, or on a busy machine, and is not to be called silent for it.
const PATIENT: &str = "[detector]\nhang_timeout = \"8s\"\nslow_timeout = \"9s\"";

/// With a connection for each subscriber, and with one for all.
fn both_modes() -> impl Iterator<Item = Pair> {
    ["per-client", "hub"].into_iter().map(|mode| {
        let mode = format!("[pubsub]\nmode = \"{mode}\"\nlinger = \"1ms\"");
        Pair::builder().configuration(PATIENT).configuration(&mode).start()
    })
}

fn push(words: &[&str]) -> Value {
    Value::Array(words.iter().map(Value::bulk).collect())
}

#[track_caller]
fn subscribe(client: &mut RawClient, command: &str, channel: &str) {
    let confirmed = client.command(&[command, channel]);
    assert_eq!(confirmed.elements()[1], Value::bulk(channel));
}

/// Waits until so many subscriptions deliver.
#[track_caller]
fn wait_for_confirmed(pair: &Pair, count: usize) {
    let of = |state| pair.handover.metric("handover_subscriptions", &[("state", state)]);
    wait_until(PATIENCE, || of("wanted") == count as f64 && of("confirmed") == count as f64);
}

/// Waits until a server has so many subscribers of a channel: metrics may be those of a moment before a switch.
#[track_caller]
fn wait_for_subscribers(server: &RedisServer, command: &str, channel: &str, count: usize) {
    let count = Value::Integer(i64::try_from(count).expect("a small number"));
    wait_until(PATIENCE, || server.command(&["PUBSUB", command, channel]).elements()[1] == count);
}

#[track_caller]
fn publish(server: &RedisServer, command: &str, channel: &str, payload: &str) -> i64 {
    server.command(&[command, channel, payload]).integer()
}

#[test]
fn every_form_is_confirmed_as_redis_does() {
    both_modes().for_each(|pair| assert_every_form_is_confirmed_as_redis_does(&pair));
}

fn assert_every_form_is_confirmed_as_redis_does(pair: &Pair) {
    for protocol in ["2", "3"] {
        for (one, un) in [("SUBSCRIBE", "UNSUBSCRIBE"), ("PSUBSCRIBE", "PUNSUBSCRIBE"), ("SSUBSCRIBE", "SUNSUBSCRIBE")]
        {
            let form = |word: &str| word.replace("UN_", un).replace("ONE_", one);
            let courses: &[&[(&str, usize)]] = &[
                &[("ONE_ a", 1), ("ONE_ b c", 2), ("UN_ b", 1), ("UN_ a c", 2), ("GET k", 1)],
                &[("ONE_ a a a", 3), ("UN_ a a", 2), ("GET k", 1)],
                &[("ONE_ a", 1), ("ONE_ a", 1), ("ONE_ b a", 2), ("UN_ none", 1), ("UN_ a b", 2)],
                &[("UN_", 1), ("UN_ a b", 2), ("GET k", 1)],
                &[("ONE_ a", 1), ("UN_", 1), ("UN_", 1), ("GET k", 1)],
                &[("ONE_", 1), ("GET k", 1), ("ONE_ a", 1), ("ONE_", 1), ("UN_ a", 1)],
            ];
            for course in courses {
                let course: Vec<(String, usize)> = course.iter().map(|(line, frames)| (form(line), *frames)).collect();
                let course: Vec<(&str, usize)> = course.iter().map(|(line, frames)| (line.as_str(), *frames)).collect();
                assert_as_redis(pair, protocol, &course);
            }
        }
    }
}

#[test]
fn counts_of_mixed_forms_are_those_of_redis() {
    let course = [
        ("SUBSCRIBE a b", 2),
        ("PSUBSCRIBE a* b*", 2),
        ("SSUBSCRIBE s t", 2),
        ("UNSUBSCRIBE a", 1),
        ("SUNSUBSCRIBE t", 1),
        ("SUNSUBSCRIBE", 1),
        ("SUBSCRIBE c", 1),
        ("PUNSUBSCRIBE b*", 1),
        ("UNSUBSCRIBE b c", 2),
        ("PUNSUBSCRIBE", 1),
        ("PING", 1),
        ("GET k", 1),
    ];
    for pair in both_modes() {
        assert_as_redis(&pair, "2", &course);
        assert_as_redis(&pair, "3", &course);
    }
}

#[test]
fn leaving_all_of_several_names_each() {
    let pair = Pair::start();
    for protocol in ["2", "3"] {
        let (mut direct, mut proxied) = (pair.west.client(), pair.client());
        for client in [&mut direct, &mut proxied] {
            client.command(&["HELLO", protocol]);
            let mut left = Vec::new();
            client.send(frame("SUBSCRIBE a b c"));
            (0..3).for_each(|_| drop(client.read_reply()));
            client.send(frame("UNSUBSCRIBE"));
            for remaining in (0..3).rev() {
                let confirmed = client.read_reply();
                assert_eq!(confirmed.elements()[2], Value::Integer(remaining));
                left.push(confirmed.elements()[1].text());
            }
            left.sort();
            assert_eq!(left, ["a", "b", "c"]);
            assert_eq!(client.command(&["GET", "k"]), Value::Null);
        }
    }
}

#[test]
fn a_subscriber_of_resp2_may_send_what_redis_lets_it() {
    let pair = Pair::start();
    assert_as_redis(
        &pair,
        "2",
        &[
            ("SUBSCRIBE a", 1),
            ("GET k", 1),
            ("PING", 1),
            ("PING x", 1),
            ("PING x y", 1),
            ("MULTI", 1),
            ("HELLO 3", 1),
            ("CLIENT ID", 1),
            ("PUBLISH a b", 1),
            ("SELECT 1", 1),
            ("CONFIG GET x", 1),
            ("UNSUBSCRIBE", 1),
            ("GET k", 1),
            ("PING", 1),
        ],
    );
    assert_as_redis(&pair, "2", &[("PSUBSCRIBE a*", 1), ("RESET", 1), ("GET k", 1), ("PING", 1)]);
    assert_as_redis(&pair, "3", &[("SUBSCRIBE a", 1), ("RESET", 1), ("GET k", 1)]);
    for protocol in ["2", "3"] {
        let mut client = pair.client();
        client.command(&["HELLO", protocol]);
        subscribe(&mut client, "SUBSCRIBE", "a");
        client.send(frame("QUIT"));
        client.expect("+OK\r\n");
        client.expect_end();
    }
    wait_until(PATIENCE, || pair.east.command(&["PUBSUB", "CHANNELS"]) == Value::Array(vec![]));
}

#[test]
fn a_subscriber_of_resp3_gets_messages_between_the_replies_to_anything() {
    let pair = Pair::start();
    let mut client = pair.client();
    client.command(&["HELLO", "3"]);
    for (command, channel) in [("SUBSCRIBE", "news"), ("PSUBSCRIBE", "ne*"), ("SSUBSCRIBE", "shard")] {
        subscribe(&mut client, command, channel);
    }
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
    // Its own message comes before the reply to PUBLISH or behind it, as two connections would have it.
    client.send([frame("PUBLISH news hello"), frame("GET k")].concat());
    let frames: Vec<Value> = (0..4).map(|_| client.read_reply()).collect();
    let (pushes, replies): (Vec<Value>, Vec<Value>) =
        frames.into_iter().partition(|frame| matches!(frame, Value::Push(_)));
    assert_eq!(replies, [Value::Integer(2), Value::bulk("v")]);
    let expected = [vec!["message", "news", "hello"], vec!["pmessage", "ne*", "news", "hello"]];
    assert_eq!(pushes, expected.map(|words| Value::Push(words.iter().map(Value::bulk).collect())));
    assert_eq!(publish(&pair.east, "SPUBLISH", "shard", "x"), 1);
    assert_eq!(client.read_reply().elements()[0], Value::bulk("smessage"));
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["EXEC"]), Value::Array(vec![]));
}

#[test]
fn ten_thousand_channels_of_one_client_all_deliver_before_and_after_a_fault() {
    const CHANNELS: usize = 10_000;
    let mut pair = Pair::start();
    let mut client = pair.client();
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("channel:{number}")).collect();
    let mut command = vec!["SUBSCRIBE"];
    command.extend(names.iter().map(String::as_str));
    client.send_command(&command);
    for (number, name) in names.iter().enumerate() {
        let expected =
            Value::Array(vec![Value::bulk("subscribe"), Value::bulk(name), Value::Integer(number as i64 + 1)]);
        assert_eq!(client.read_reply(), expected);
    }
    assert_eq!(publish(&pair.east, "PUBLISH", "channel:4711", "x"), 1);
    assert_eq!(client.read_reply(), push(&["message", "channel:4711", "x"]));
    pair.fail_over();
    wait_for_confirmed(&pair, CHANNELS);
    wait_for_subscribers(&pair.west, "NUMSUB", &names[CHANNELS - 1], 1);
    let mut outsider = pair.west.client();
    let publishes: Vec<u8> = names.iter().flat_map(|name| encode(&["PUBLISH", name, "y"])).collect();
    outsider.send(&publishes);
    for name in &names {
        assert_eq!(outsider.read_reply(), Value::Integer(1));
        assert_eq!(client.read_reply(), push(&["message", name, "y"]));
    }
    client.send_command(&["UNSUBSCRIBE"]);
    (0..CHANNELS).for_each(|_| drop(client.read_reply()));
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
}

#[test]
fn keyspace_notifications_come_through() {
    let pair = Pair::builder().servers(|server| server.directive("notify-keyspace-events KEA")).start();
    let mut client = pair.client();
    subscribe(&mut client, "PSUBSCRIBE", "__keyspace@0__:k*");
    let mut other = pair.client();
    other.command(&["SET", "key", "v"]);
    other.command(&["DEL", "key"]);
    for event in ["set", "del"] {
        assert_eq!(client.read_reply(), push(&["pmessage", "__keyspace@0__:k*", "__keyspace@0__:key", event]));
    }
}

/// Subscribes in every form with both protocols.
fn subscribers(pair: &Pair) -> Vec<RawClient> {
    ["2", "3"]
        .into_iter()
        .map(|protocol| {
            let mut client = pair.client();
            client.command(&["HELLO", protocol]);
            for (command, channel) in [("SUBSCRIBE", "plain"), ("PSUBSCRIBE", "pla*"), ("SSUBSCRIBE", "shard")] {
                subscribe(&mut client, command, channel);
            }
            client
        })
        .collect()
}

/// Everything published on this server reaches each of them, once.
#[track_caller]
fn assert_delivered(server: &RedisServer, clients: &mut [RawClient], payload: &str) {
    wait_for_subscribers(server, "NUMSUB", "plain", clients.len());
    wait_for_subscribers(server, "SHARDNUMSUB", "shard", clients.len());
    assert_eq!(publish(server, "PUBLISH", "plain", payload), 2 * clients.len() as i64);
    assert_eq!(publish(server, "SPUBLISH", "shard", payload), clients.len() as i64);
    for client in clients {
        let expected: [&[&str]; 3] =
            [&["message", "plain", payload], &["pmessage", "pla*", "plain", payload], &["smessage", "shard", payload]];
        for words in expected {
            let words: Vec<Value> = words.iter().map(Value::bulk).collect();
            assert_eq!(client.read_reply().elements(), words);
        }
        client.expect_silence(SILENCE);
    }
}

#[test]
fn subscriptions_are_live_again_after_a_fault_without_the_client_doing_anything() {
    let mut pair = Pair::start();
    let mut clients = subscribers(&pair);
    assert_delivered(&pair.east, &mut clients, "before");
    pair.fail_over();
    wait_for_confirmed(&pair, 6);
    assert_delivered(&pair.west, &mut clients, "after");
    // And they can be left, with the counts that are right.
    assert_eq!(clients[0].command(&["UNSUBSCRIBE", "plain"]).elements()[2], Value::Integer(1));
    assert_eq!(clients[0].command(&["SUNSUBSCRIBE", "shard"]).elements()[2], Value::Integer(0));
    assert_eq!(clients[0].command(&["PUNSUBSCRIBE", "pla*"]).elements()[2], Value::Integer(0));
    assert_eq!(clients[0].command(&["GET", "k"]), Value::Null);
}

#[test]
fn subscriptions_move_with_a_planned_switch() {
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut clients = subscribers(&pair);
    assert_delivered(&pair.west, &mut clients, "before");
    pair.fail_back();
    wait_for_confirmed(&pair, 6);
    assert_delivered(&pair.east, &mut clients, "after");
    // The old connections are gone: nothing comes twice, or from there.
    wait_until(PATIENCE, || publish(&pair.west, "PUBLISH", "plain", "stray") == 0);
}

#[test]
fn a_planned_switch_loses_no_message_and_doubles_none() {
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut subscriber = pair.client();
    subscribe(&mut subscriber, "SUBSCRIBE", "numbers");
    let done = std::sync::atomic::AtomicBool::new(false);
    let address = pair.handover.address();
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut client = RawClient::connect(address);
            let mut number = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let heard = client.command(&["PUBLISH", "numbers", &number.to_string()]);
                assert_eq!(heard, Value::Integer(1), "message {number}");
                number += 1;
            }
            number
        });
        pair.fail_back();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        publisher.join().expect("every message was heard")
    });
    assert!(published > 0);
    for number in 0..published {
        assert_eq!(subscriber.read_reply(), push(&["message", "numbers", &number.to_string()]));
    }
    subscriber.expect_silence(SILENCE);
}

#[test]
fn a_publisher_and_a_subscriber_go_on_across_a_kill() {
    let mut pair = Pair::start();
    let (mut publisher, mut subscriber) = (pair.client(), pair.client());
    subscribe(&mut subscriber, "SUBSCRIBE", "c");
    assert_eq!(publisher.command(&["PUBLISH", "c", "one"]), Value::Integer(1));
    assert_eq!(subscriber.read_reply(), push(&["message", "c", "one"]));
    pair.east.kill();
    pair.break_east();
    pair.wait_for("west");
    wait_for_confirmed(&pair, 1);
    assert_eq!(publisher.command(&["PUBLISH", "c", "two"]), Value::Integer(1));
    assert_eq!(subscriber.read_reply(), push(&["message", "c", "two"]));
}

#[test]
fn nothing_published_through_handover_after_a_fault_overtakes_the_resubscription() {
    let mut pair = Pair::start();
    let (mut publisher, mut subscriber) = (pair.client(), pair.client());
    subscribe(&mut subscriber, "SUBSCRIBE", "c");
    pair.break_east();
    publisher.send(frame("PUBLISH c x"));
    assert_eq!(publisher.read_reply(), Value::Integer(1));
    assert_eq!(subscriber.read_reply(), push(&["message", "c", "x"]));
}

#[test]
fn subscribing_and_leaving_during_an_outage_takes_effect_on_the_new_active() {
    let mut pair = Pair::start();
    let (mut leaver, mut comer) = (pair.client(), pair.client());
    subscribe(&mut leaver, "SUBSCRIBE", "a");
    subscribe(&mut leaver, "SUBSCRIBE", "b");
    assert_eq!(comer.command(&["GET", "k"]), Value::Null);
    pair.relay.set_mode(support::Mode::BlackHole);
    leaver.send(frame("UNSUBSCRIBE a"));
    comer.send(frame("SUBSCRIBE a"));
    pair.fail_over();
    let confirmed = |word: &str, count| Value::Array(vec![Value::bulk(word), Value::bulk("a"), Value::Integer(count)]);
    assert_eq!(leaver.read_reply(), confirmed("unsubscribe", 1));
    assert_eq!(comer.read_reply(), confirmed("subscribe", 1));
    wait_for_confirmed(&pair, 2);
    ["a", "b"].iter().for_each(|channel| wait_for_subscribers(&pair.west, "NUMSUB", channel, 1));
    assert_eq!(publish(&pair.west, "PUBLISH", "a", "x"), 1);
    assert_eq!(publish(&pair.west, "PUBLISH", "b", "y"), 1);
    assert_eq!(comer.read_reply(), push(&["message", "a", "x"]));
    assert_eq!(leaver.read_reply(), push(&["message", "b", "y"]));
}

#[test]
fn the_backend_tells_of_the_subscriptions_of_everybody() {
    let pair = Pair::start();
    let (mut one, mut two, mut asker) = (pair.client(), pair.client(), pair.client());
    subscribe(&mut one, "SUBSCRIBE", "a");
    subscribe(&mut two, "SUBSCRIBE", "a");
    subscribe(&mut two, "PSUBSCRIBE", "p*");
    subscribe(&mut one, "SSUBSCRIBE", "s");
    assert_eq!(asker.command(&["PUBSUB", "CHANNELS"]), push(&["a"]));
    assert_eq!(asker.command(&["PUBSUB", "NUMPAT"]), Value::Integer(1));
    let counts = |channel: &str, count| Value::Array(vec![Value::bulk(channel), Value::Integer(count)]);
    assert_eq!(asker.command(&["PUBSUB", "NUMSUB", "a"]), counts("a", 2));
    assert_eq!(asker.command(&["PUBSUB", "SHARDCHANNELS"]), push(&["s"]));
    assert_eq!(asker.command(&["PUBSUB", "SHARDNUMSUB", "s"]), counts("s", 1));
    assert_eq!(asker.command(&["PUBLISH", "a", "x"]), Value::Integer(2));
    assert_eq!(asker.command(&["SPUBLISH", "s", "x"]), Value::Integer(1));
}

#[test]
fn a_refused_subscription_is_told_to_the_client_and_changes_nothing_else() {
    let rules = "default on nopass ~* resetchannels &open* +@all";
    let pair = Pair::builder().servers(|server| server.user(rules)).start();
    assert_as_redis(
        &pair,
        "2",
        &[("SUBSCRIBE open:1", 1), ("SUBSCRIBE secret", 1), ("SUBSCRIBE open:2 secret", 1), ("UNSUBSCRIBE open:1", 1)],
    );
    let mut refused = pair.client();
    assert!(refused.command(&["SUBSCRIBE", "secret"]).is_error("NOPERM"));
    assert_eq!(refused.command(&["SET", "k", "v"]), Value::ok());
}

#[test]
fn only_the_client_whose_subscription_the_new_backend_refuses_hears_of_it() {
    let rules = "default on nopass ~* resetchannels &open* +@all";
    let mut pair = Pair::builder().west(|west| west.user(rules)).start();
    let (mut allowed, mut refused) = (pair.client(), pair.client());
    subscribe(&mut allowed, "SUBSCRIBE", "open");
    subscribe(&mut refused, "SUBSCRIBE", "secret");
    pair.fail_over();
    assert!(refused.read_reply().is_error("NOPERM"));
    refused.expect_end();
    wait_for_confirmed(&pair, 1);
    wait_for_subscribers(&pair.west, "NUMSUB", "open", 1);
    assert_eq!(publish(&pair.west, "PUBLISH", "open", "x"), 1);
    assert_eq!(allowed.read_reply(), push(&["message", "open", "x"]));
    allowed.expect_silence(SILENCE);
}

#[test]
fn a_lost_connection_without_a_switch_restores_the_subscriptions() {
    let pair = Pair::start();
    let mut clients = subscribers(&pair);
    let killed = pair.east.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, Value::Integer(2));
    wait_until(PATIENCE, || pair.east.command(&["PUBSUB", "NUMSUB", "plain"]).elements()[1] == Value::Integer(2));
    wait_until(PATIENCE, || pair.east.command(&["PUBSUB", "SHARDNUMSUB", "shard"]).elements()[1] == Value::Integer(2));
    wait_for_confirmed(&pair, 6);
    assert_delivered(&pair.east, &mut clients, "again");
}

#[test]
fn a_hundred_thousand_channels_of_one_client_are_counted_exactly() {
    assert_channels_are_counted_exactly(&Pair::builder().configuration(PATIENT).start(), 100_000);
}

#[test]
fn ten_thousand_channels_of_one_client_that_shares_are_counted_exactly() {
    both_modes().skip(1).for_each(|pair| assert_channels_are_counted_exactly(&pair, 10_000));
}

fn assert_channels_are_counted_exactly(pair: &Pair, channels: usize) {
    let mut client = pair.client().patient();
    let names: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
    let (together, apart) = names.split_at(channels * 4 / 5);
    let mut command = vec!["SUBSCRIBE"];
    command.extend(together.iter().map(String::as_str));
    // Twice the first, and the rest one by one, in one burst.
    command.push("c0");
    let mut bytes = encode(&command);
    apart.iter().for_each(|name| bytes.extend(encode(&["SUBSCRIBE", name])));
    client.send(&bytes);
    let mut expected = 0;
    for (place, name) in together.iter().chain([&names[0]]).chain(apart).enumerate() {
        // The one that came before counts once.
        expected += i64::from(place != together.len());
        let confirmed = client.read_reply();
        assert_eq!(confirmed.elements()[1..], [Value::bulk(name), Value::Integer(expected)]);
    }
    let last = &names[channels - 1];
    assert_eq!(publish(&pair.east, "PUBLISH", last, "x"), 1);
    assert_eq!(client.read_reply(), push(&["message", last, "x"]));
    client.send(frame("UNSUBSCRIBE none"));
    assert_eq!(client.read_reply().elements()[2], Value::Integer(channels as i64));
    client.send_command(&["UNSUBSCRIBE"]);
    for left in (0..channels).rev() {
        assert_eq!(client.read_reply().elements()[2], Value::Integer(left as i64));
    }
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
}

/// xorshift64*: the same course for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn name(&mut self, kind: usize) -> &'static str {
        let names: &[&str] = if kind == 1 { &["*", "a*", "?b", "[ab]c"] } else { &["a", "ab", "bb", "ac", "bc"] };
        names[self.below(names.len())]
    }
}

/// What two subscribers hear is, step for step, what they would hear of the server itself.
#[test]
fn random_courses_of_two_subscribers_go_as_with_the_server_itself() {
    both_modes().for_each(|pair| assert_random_courses_go_as_with_the_server_itself(&pair));
}

fn assert_random_courses_go_as_with_the_server_itself(pair: &Pair) {
    // Whoever joins others may hear what was published just before: what was published is passed on before they do.
    let mut witness = pair.client();
    subscribe(&mut witness, "SUBSCRIBE", "witness");
    for seed in 1..=20 {
        let mut random = Random(seed);
        let protocol = if seed % 2 == 0 { "3" } else { "2" };
        let mut twins: Vec<[RawClient; 2]> = (0..2).map(|_| [pair.east.client(), pair.client()]).collect();
        for client in twins.iter_mut().flatten() {
            client.command(&["HELLO", protocol]);
        }
        for step in 0..60 {
            let (kind, subscribes) = (random.below(3), random.below(5) < 3);
            let forms = [["UNSUBSCRIBE", "SUBSCRIBE"], ["PUNSUBSCRIBE", "PSUBSCRIBE"], ["SUNSUBSCRIBE", "SSUBSCRIBE"]];
            let mut words = vec![forms[kind][usize::from(subscribes)]];
            let least = usize::from(subscribes);
            (0..least + random.below(4)).for_each(|_| words.push(random.name(kind)));
            let leaves_all = words.len() == 1;
            let actor = random.below(2);
            twins[actor].iter_mut().for_each(|client| client.send_command(&words));
            let publishes = [["PUBLISH", random.name(0)], ["SPUBLISH", random.name(2)]];
            let context = format!("step {step} of seed {seed}: {words:?}, then {publishes:?}");
            // The server's own subscriber tells how much there is to come: its PING is answered behind everything.
            let [direct, _] = &mut twins[actor];
            let confirmed = read_up_to_ping(direct);
            let proxied: Vec<Value> = confirmed.iter().map(|_| twins[actor][1].read_reply()).collect();
            assert_same(confirmed, proxied, leaves_all, &context);
            for [command, channel] in publishes {
                publish(&pair.east, command, channel, &step.to_string());
            }
            publish(&pair.east, "PUBLISH", "witness", &step.to_string());
            assert_eq!(witness.read_reply(), push(&["message", "witness", &step.to_string()]));
            for [direct, proxied] in &mut twins {
                let messages = read_up_to_ping(direct);
                let got: Vec<Value> = messages.iter().map(|_| proxied.read_reply()).collect();
                assert_same(messages, got, true, &context);
            }
        }
    }
}

fn read_up_to_ping(client: &mut RawClient) -> Vec<Value> {
    client.send_command(&["PING"]);
    let is_pong = |value: &Value| match value {
        Value::Simple(_) => true,
        value => value.elements()[0] == Value::bulk("pong"),
    };
    std::iter::from_fn(|| Some(client.read_reply()).filter(|value| !is_pong(value))).collect()
}

/// Equal frames; in any order where Redis promises none: the counts, and each with everything else.
#[track_caller]
fn assert_same(mut expected: Vec<Value>, mut got: Vec<Value>, in_any_order: bool, context: &str) {
    if in_any_order {
        let last = |frames: &[Value]| frames.iter().map(|frame| frame.elements().last().cloned()).collect::<Vec<_>>();
        assert_eq!(last(&got), last(&expected), "{context}");
        for frames in [&mut expected, &mut got] {
            let mut shown: Vec<String> =
                frames.iter().map(|frame| format!("{:?}", &frame.elements()[..frame.elements().len() - 1])).collect();
            shown.sort();
            *frames = shown.into_iter().map(Value::Simple).collect();
        }
    }
    assert_eq!(got, expected, "{context}");
}
