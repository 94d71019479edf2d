//! What a connection is set to in mid-stream: its RESP version while it is subscribed, tracking or monitoring; MONITOR;
//! and what else a client leaves on it.

mod support;

use std::sync::{Arc, Mutex};

use support::{Cut, FakeBackend, Handover, PATIENCE, Pair, RawClient, Relay, Value, courtesy, encode, wait_until};

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn frames(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| frame(line)).collect()
}

/// The replies and messages to one pipeline, in order, with the number in each greeting left out.
#[track_caller]
fn replies(client: &mut RawClient, lines: &[&str], count: usize) -> Vec<String> {
    client.send(frames(lines));
    let replies = (0..count).map(|_| {
        let text = client.read_reply_raw().1.escape_ascii().to_string();
        match text.split_once("$2\\r\\nid\\r\\n:") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|byte: char| byte.is_ascii_digit());
                format!("{before}{rest}")
            }
            None => text,
        }
    });
    replies.collect()
}

#[test]
fn the_protocol_changes_in_the_middle_of_pipelines_as_with_redis() {
    // Each has so many replies, confirmations and messages.
    let streams: &[(usize, &[&str])] = &[
        (7, &["HGETALL x", "HELLO 3", "HGETALL x", "GET x", "HELLO 2", "HGETALL x", "GET x"]),
        (
            9,
            &[
                "HELLO 3",
                "SUBSCRIBE c",
                "HGETALL x",
                "HELLO 2",
                "PING",
                "UNSUBSCRIBE c",
                "HGETALL x",
                "HELLO 3",
                "HGETALL x",
            ],
        ),
        (8, &["HELLO 3", "SUBSCRIBE c", "PUBLISH c 1", "HELLO 2", "GET x", "HELLO 3", "RESET", "HELLO 3"]),
        (10, &["HELLO 3", "PSUBSCRIBE a* b*", "HELLO 3", "HELLO 2", "PUNSUBSCRIBE", "PING", "HELLO 3", "PING"]),
        (7, &["SUBSCRIBE c", "HELLO 3", "UNSUBSCRIBE c", "HELLO 3", "HGETALL x", "HELLO 2", "HGETALL x"]),
        (8, &["HELLO 3", "CLIENT TRACKING ON", "GET x", "HELLO 2", "GET x", "HELLO 3", "HELLO", "CLIENT TRACKINGINFO"]),
        (
            7,
            &[
                "HELLO 3",
                "CLIENT TRACKING ON",
                "SUBSCRIBE c",
                "HELLO 2",
                "PING",
                "UNSUBSCRIBE c",
                "CLIENT TRACKINGINFO",
            ],
        ),
        (7, &["WATCH x", "HELLO 3", "GET x", "MULTI", "HGETALL x", "EXEC", "HELLO 2"]),
        (5, &["EVAL return(1) 0", "HELLO 3", "HGETALL x", "HELLO 2", "HGETALL x"]),
        (4, &["HELLO 3", "HELLO 3 SETNAME me", "CLIENT GETNAME", "HELLO 2 SETNAME you"]),
    ];
    let listeners =
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"dedicated\"";
    let pair = Pair::builder().configuration(listeners).start();
    for &(count, lines) in streams {
        let count = count + lines.iter().filter(|line| line.starts_with("PUBLISH")).count();
        let expected = replies(&mut pair.west.client(), lines, count);
        for &address in pair.handover.addresses() {
            let mut client = RawClient::connect(address);
            let mut found = replies(&mut client, lines, count);
            if lines.iter().any(|line| line.starts_with("PUBLISH")) {
                // A message may come before or behind the reply to its PUBLISH, which took another connection.
                let place = |frames: &[String]| frames.iter().position(|frame| frame.contains("message"));
                let message = found.remove(place(&found).expect("the message"));
                found.insert(place(&expected).expect("the message"), message);
            }
            assert_eq!(found, expected, "{lines:?}");
            client.send(frame("QUIT"));
            client.expect("+OK\r\n");
            client.expect_end();
        }
    }
}

#[test]
fn a_subscriber_that_left_resp3_is_one_of_resp2_after_a_switch_too() {
    let mut pair = Pair::builder().returning().start();
    let (mut client, mut publisher) = (pair.client(), pair.client());
    replies(&mut client, &["HELLO 3", "SUBSCRIBE c", "HELLO 2"], 3);
    for switch in [|_: &mut Pair| {}, Pair::fail_over, Pair::fail_back] {
        switch(&mut pair);
        wait_until(PATIENCE, || publisher.command(&["PUBLISH", "c", "m"]) == Value::Integer(1));
        client.expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
        client.send(frame("GET x"));
        assert!(client.read_reply().is_error("ERR"));
    }
}

#[test]
fn monitor_goes_on_in_either_protocol_and_reset_leaves_it() {
    for protocol in ["2", "3"] {
        let mut pair = Pair::builder().returning().start();
        let (mut monitor, mut other) = (pair.client(), pair.client());
        replies(&mut monitor, &["MONITOR"], 1);
        monitor.send(frames(&[&format!("HELLO {protocol}")]));
        let head = if protocol == "3" { "%7\r\n" } else { "*14\r\n" };
        wait_until(PATIENCE, || monitor.read_reply_raw().1.starts_with(head.as_bytes()));
        for (number, switch) in [|_: &mut Pair| {}, Pair::fail_over, Pair::fail_back].into_iter().enumerate() {
            switch(&mut pair);
            let server = if number == 1 { &pair.west } else { &pair.east };
            wait_until(PATIENCE, || server.command(&["CLIENT", "LIST"]).text().contains("flags=O"));
            assert_eq!(other.command(&["SET", "seen", &number.to_string()]), Value::ok());
            let line = format!("\"SET\" \"seen\" \"{number}\"");
            wait_until(PATIENCE, || {
                let shown = monitor.read_reply().text();
                assert!(shown.contains('['), "a reply that was not asked for: {shown}");
                shown.contains(&line)
            });
        }
        monitor.send(frame("RESET"));
        wait_until(PATIENCE, || monitor.read_reply() == Value::Simple("RESET".to_owned()));
        for number in 0..20 {
            other.command(&["SET", "k", &number.to_string()]);
        }
        monitor.send(frame("GET k"));
        monitor.expect("$2\r\n19\r\n");
        wait_until(PATIENCE, || !pair.east.command(&["CLIENT", "LIST"]).text().contains("flags=O"));
        monitor.send(frame("HGETALL none"));
        monitor.expect("*0\r\n");
        assert_eq!(pair.handover.metric("handover_protocol_errors_total", &[]), 0.0);
    }
}

/// Knows what newer servers know: field sets of HIMPORT and CLIENT NO-TOUCH, each kept on its connection.
fn newer_server(said: &Arc<Mutex<Vec<String>>>) -> FakeBackend {
    let said = Arc::clone(said);
    FakeBackend::start(move |connection| {
        let mut field_sets: Vec<Vec<u8>> = Vec::new();
        while let Some(command) = connection.read_command() {
            let line = command.iter().map(|word| String::from_utf8_lossy(word).to_uppercase()).collect::<Vec<_>>();
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            let reply = match words[..] {
                ["HIMPORT", "PREPARE", ..] => {
                    field_sets.push(command[2].clone());
                    b"+OK\r\n".to_vec()
                }
                ["HIMPORT", "DISCARD", ..] => {
                    field_sets.retain(|name| *name != command[2]);
                    b":1\r\n".to_vec()
                }
                ["HIMPORT", "SET", ..] if field_sets.contains(&command[3]) => b":2\r\n".to_vec(),
                ["HIMPORT", ..] => b"-ERR no such fieldset\r\n".to_vec(),
                ["CLIENT", "TRACKING", ..] => b"-ERR tracking is not allowed here\r\n".to_vec(),
                _ => courtesy(&command).unwrap_or_else(|| b"+OK\r\n".to_vec()),
            };
            said.lock().expect("nobody panics with it").push(words.join(" "));
            connection.write(reply);
        }
    })
}

#[test]
fn field_sets_and_no_touch_are_set_again_on_the_new_active() {
    let said: [Arc<Mutex<Vec<String>>>; 2] = Default::default();
    let (east, west) = (newer_server(&said[0]), newer_server(&said[1]));
    let mut relay = Relay::start(east.address());
    let backend = |name: &str, port: u16, weight: &str| {
        format!("[[backend]]\nname = \"{name}\"\nurl = \"redis://127.0.0.1:{port}\"\nweight = {weight}\n")
    };
    let both = backend("east", relay.port(), "2.0") + &backend("west", west.port(), "1.0");
    // West must be known to be good before east is gone.
    let quick = "failover.initial = \"all\"\nhealth.standby_interval = \"100ms\"\n";
    let builder = Handover::builder(&format!("{quick}{both}"));
    let handover = builder.allow_warning("backend is unhealthy").allow_warning("switched").start();
    handover.expect_metric("handover_backend_up", &[], 2.0);
    let mut client = handover.client();
    client.send(frames(&["HIMPORT PREPARE s a b", "HIMPORT PREPARE t a", "HIMPORT SET k s 1 2", "HIMPORT DISCARD t"]));
    client.send(frames(&["HIMPORT SET k t 1", "CLIENT NO-TOUCH ON", "CLIENT MAINT_NOTIFICATIONS OFF"]));
    client.expect("+OK\r\n+OK\r\n:2\r\n:1\r\n-ERR no such fieldset\r\n+OK\r\n+OK\r\n");
    relay.refuse();
    relay.cut(Cut::Reset);
    client.send(frames(&["HIMPORT SET k s 1 2", "HIMPORT SET k t 1"]));
    client.expect(":2\r\n-ERR no such fieldset\r\n");
    let has_said = |line: &str| said[1].lock().expect("nobody panics with it").iter().any(|said| said == line);
    assert!(has_said("CLIENT NO-TOUCH ON") && has_said("HIMPORT PREPARE S A B") && !has_said("HIMPORT PREPARE T A"));
    // Maintenance is announced by Handover or nobody.
    assert!(!has_said("CLIENT MAINT_NOTIFICATIONS OFF"));
}
