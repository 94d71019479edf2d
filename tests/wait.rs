//! WAIT and WAITAOF: the number is true, or there is none.

mod support;

use support::{FakeBackend, Handover, PATIENCE, Pair, RawClient, RedisServer, Value, courtesy, encode, wait_until};

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn frames(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| frame(line)).collect()
}

#[track_caller]
fn start(configuration: &str) -> Handover {
    Handover::builder(configuration).allow_warning("has only one").start()
}

fn in_front_of(server: &RedisServer, extra: &str) -> Handover {
    start(&format!("{extra}\n[[backend]]\nname = \"a\"\nurl = \"redis://{}\"", server.address()))
}

#[track_caller]
fn wait_for_replica(master: &RedisServer) {
    wait_until(PATIENCE, || master.command(&["INFO", "replication"]).text().contains("state=online"));
}

#[track_caller]
fn wait_for_blocked(server: &RedisServer, count: usize) {
    let wanted = format!("blocked_clients:{count}\r");
    wait_until(PATIENCE, || server.command(&["INFO", "clients"]).text().contains(&wanted));
}

#[track_caller]
fn assert_refused(reply: &Value) {
    assert!(reply.is_error("ERR") && format!("{reply:?}").contains("WAIT is refused"), "{reply:?}");
}

#[test]
fn wait_counts_the_replicas_that_have_what_was_written() {
    let master = RedisServer::start();
    let mut replica = RedisServer::builder().replica_of(master.address()).start();
    wait_for_replica(&master);
    let listeners =
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"dedicated\"";
    let handover = in_front_of(&master, listeners);
    let mut clients: Vec<RawClient> = handover.addresses().iter().map(|&address| RawClient::connect(address)).collect();
    for client in &mut clients {
        client.send(frames(&["SET k 1", "WAIT 1 10000", "GET k"]));
        client.expect("+OK\r\n:1\r\n$1\r\n1\r\n");
        assert_eq!(replica.command(&["GET", "k"]), Value::bulk("1"));
    }
    replica.stop();
    for client in &mut clients {
        client.send(frames(&["SET k 2", "WAIT 1 300", "GET k"]));
        client.expect("+OK\r\n:0\r\n$1\r\n2\r\n");
    }
    replica.cont();
    for client in &mut clients {
        client.send(frames(&["WAIT 1 10000", "WAIT x 1", "WAIT 1 -1", "WAIT 1"]));
        client.expect(":1\r\n");
        for _ in 0..3 {
            assert!(client.read_reply().is_error("ERR"));
        }
    }
}

#[test]
fn wait_on_a_connection_that_wrote_nothing_counts_nobody_who_does_not_have_it() {
    let master = RedisServer::start();
    let mut replica = RedisServer::builder().replica_of(master.address()).start();
    wait_for_replica(&master);
    let handover = in_front_of(&master, "");
    let mut client = handover.client();
    // A connection of its own, opened before the write and given back.
    assert_eq!(client.command(&["EVAL", "return 1", "0"]), Value::Integer(1));
    wait_until(PATIENCE, || handover.metric("handover_sessions", &[("mode", "pinned")]) == 0.0);
    replica.stop();
    client.send(frames(&["SET k 1", "WAIT 1 300"]));
    client.expect("+OK\r\n:0\r\n");
    replica.cont();
    assert_eq!(client.command(&["WAIT", "1", "10000"]), Value::Integer(1));
}

#[test]
fn wait_is_no_silence_of_the_backend() {
    let pair = Pair::builder().configuration("[detector]\nhang_timeout = \"1500ms\"\nslow_timeout = \"2s\"").start();
    let mut client = pair.client();
    client.send(frames(&["SET k 1", "WAIT 1 4000"]));
    client.expect("+OK\r\n:0\r\n");
    assert_eq!(
        pair.handover.log().iter().filter(|line| line.message() == "switched" && line.field("to") == "west").count(),
        0
    );
}

#[test]
fn patterns_are_not_told_of_the_publish_before_a_wait() {
    let pair = Pair::start();
    let (mut subscriber, mut client) = (pair.client(), pair.client());
    subscriber.send(frame("PSUBSCRIBE *"));
    subscriber.read_reply();
    client.send(frames(&["WAIT 0 10", "PUBLISH c m"]));
    client.expect(":0\r\n:1\r\n");
    subscriber.expect("*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\nm\r\n");
}

#[test]
fn where_publish_is_refused_so_is_wait() {
    let user = "proxy on >secret ~* &* +@all -publish";
    let server = RedisServer::builder().user(user).start();
    let url = format!("redis://proxy:secret@{}", server.address());
    let handover = start(&format!("[[backend]]\nname = \"a\"\nurl = \"{url}\""));
    let mut client = handover.client();
    client.send(frames(&["SET k 1", "WAIT 0 10", "GET k", "WAIT 0 10"]));
    client.expect("+OK\r\n");
    let refused = client.read_reply();
    assert_refused(&refused);
    assert!(format!("{refused:?}").contains("NOPERM"), "{refused:?}");
    assert_eq!(client.read_reply(), Value::bulk("1"));
    assert_refused(&client.read_reply());
}

#[test]
fn after_a_switch_the_next_wait_is_refused_and_those_behind_it() {
    let mut pair = Pair::builder().returning().start();
    for is_planned in [false, true] {
        let (mut writer, mut idle) = (pair.client(), pair.client());
        writer.send(frames(&["SET k 1", "WAIT 0 10"]));
        writer.expect("+OK\r\n:0\r\n");
        assert_eq!(idle.command(&["SET", "k", "1"]), Value::ok());
        if is_planned {
            pair.fail_back()
        } else {
            pair.fail_over()
        }
        for client in [&mut writer, &mut idle] {
            client.send(frames(&["SET k 2", "WAIT 0 10", "SET k 3", "WAIT 0 10"]));
            for is_wait in [false, true, false, true] {
                match client.read_reply() {
                    reply if is_wait => assert_refused(&reply),
                    reply => assert_eq!(reply, Value::ok()),
                }
            }
            client.send(frames(&["SET k 4", "WAIT 0 10"]));
            client.expect("+OK\r\n:0\r\n");
        }
        let mut fresh = pair.client();
        fresh.send(frames(&["SET k 2", "WAIT 0 10"]));
        fresh.expect("+OK\r\n:0\r\n");
    }
}

#[test]
fn a_wait_in_flight_is_answered_at_a_planned_switch_and_uncertain_at_a_fault() {
    let mut pair = Pair::builder().returning().start();
    let mut client = pair.client();
    client.send(frames(&["SET k 1", "WAIT 1 0", "WAIT 1 0"]));
    client.expect("+OK\r\n");
    wait_for_blocked(&pair.east, 1);
    pair.fail_over();
    assert!(client.read_reply().is_error("UNCERTAIN"));
    assert_refused(&client.read_reply());
    client.send(frames(&["SET k 1", "WAIT 1 0"]));
    client.expect("+OK\r\n");
    wait_for_blocked(&pair.west, 1);
    pair.fail_back();
    // No replica has it: the number is true.
    client.expect(":0\r\n");
    assert_eq!(pair.called_off().len(), 0);
}

#[test]
fn wait_for_the_append_only_file_goes_the_same_way() {
    let backend = FakeBackend::start(|connection| {
        let mut has_published = false;
        while let Some(command) = connection.read_command() {
            let reply = match command[0].as_slice() {
                b"PUBLISH" => {
                    has_published = true;
                    b":0\r\n".to_vec()
                }
                b"WAITAOF" if has_published => b"*2\r\n:1\r\n:0\r\n".to_vec(),
                b"WAITAOF" => b"-ERR no PUBLISH before it\r\n".to_vec(),
                _ => courtesy(&command).unwrap_or_else(|| b"+OK\r\n".to_vec()),
            };
            connection.write(reply);
        }
    });
    let handover = start(&format!("[[backend]]\nname = \"a\"\nurl = \"redis://{}\"", backend.address()));
    let mut client = handover.client();
    client.send(frames(&["SET k 1", "WAITAOF 1 0 10", "WAITAOF 1 0 10"]));
    client.expect("+OK\r\n*2\r\n:1\r\n:0\r\n*2\r\n:1\r\n:0\r\n");
}
