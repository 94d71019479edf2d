//! MULTI, EXEC, DISCARD and WATCH: byte for byte as Redis itself answers, and never applied in part or twice.

mod support;

use support::{Mode, PATIENCE, Pair, RawClient, RedisServer, Value, encode, wait_until};

/// Commands, one a line.
fn frames(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| encode(&line.split_whitespace().collect::<Vec<_>>())).collect()
}

/// Sends `lines` in each of three ways through Handover and straight to a server, which must answer the same bytes.
#[track_caller]
fn assert_as_redis(pair: &Pair, lines: &[&str]) {
    let frames = frames(lines);
    let whole = frames.concat();
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    let mut expected = Vec::new();
    for (line, frame) in lines.iter().zip(&frames) {
        direct.send(frame);
        proxied.send(frame);
        let (_, reply) = direct.read_reply_raw();
        let (_, got) = proxied.read_reply_raw();
        assert_eq!(got.escape_ascii().to_string(), reply.escape_ascii().to_string(), "{line} of {lines:?}");
        expected.extend(reply);
    }
    flush(pair);
    let mut proxied = pair.client();
    proxied.send(&whole);
    proxied.expect(&expected);
    flush(pair);
    let mut proxied = pair.client();
    whole.chunks(7).for_each(|piece| proxied.send(piece));
    proxied.expect(&expected);
    flush(pair);
}

fn flush(pair: &Pair) {
    pair.east.command(&["FLUSHALL"]);
    pair.west.command(&["FLUSHALL"]);
}

fn error(text: &str) -> Value {
    Value::Error(text.to_owned())
}

fn queued() -> Value {
    Value::Simple("QUEUED".to_owned())
}

#[track_caller]
fn number(server: &RedisServer, key: &str) -> i64 {
    match server.command(&["GET", key]) {
        Value::Null => 0,
        value => value.text().parse().expect("a number"),
    }
}

/// Nothing of a transaction that named these keys was applied on either server.
#[track_caller]
fn assert_absent(pair: &Pair, keys: &[&str]) {
    for server in [&pair.east, &pair.west] {
        let asked: Vec<&str> = ["EXISTS"].iter().chain(keys).copied().collect();
        assert_eq!(server.command(&asked), Value::Integer(0));
    }
}

/// The session serves plain commands and transactions on the active.
#[track_caller]
fn assert_works(client: &mut RawClient, active: &RedisServer) {
    assert_eq!(client.command(&["SET", "after", "1"]), Value::ok());
    assert_eq!(number(active, "after"), 1);
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["INCR", "after"]), queued());
    assert_eq!(client.command(&["EXEC"]), Value::Array(vec![Value::Integer(2)]));
    assert_eq!(number(active, "after"), 2);
    assert_eq!(client.command(&["WATCH", "after"]), Value::ok());
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["EXEC"]), Value::Array(vec![]));
}

#[test]
fn every_course_of_a_transaction_is_answered_as_redis_does() {
    let pair = Pair::start();
    let courses: &[&[&str]] = &[
        &["MULTI", "SET a 1", "INCR a", "GET a", "EXEC", "GET a"],
        &["MULTI", "EXEC", "PING"],
        &["MULTI", "SET a 1", "DISCARD", "GET a"],
        &["EXEC", "DISCARD", "GET a"],
        &["MULTI", "MULTI", "SET a 1", "EXEC", "GET a"],
        &["MULTI", "SET a", "SET b 1", "EXEC", "GET b", "EXEC"],
        &["MULTI", "NOSUCHCOMMAND x", "SET b 1", "EXEC", "GET b"],
        &["MULTI", "NOSUCHCOMMAND x", "DISCARD", "GET b"],
        &["SET s text", "MULTI", "INCR s", "SET b 1", "LPUSH s x", "EXEC", "GET b"],
        &["MULTI x", "GET a", "MULTI", "EXEC x", "SET a 1", "EXEC", "DISCARD x"],
        &["UNWATCH", "WATCH", "WATCH a b", "UNWATCH", "MULTI", "SET a 1", "EXEC"],
        &["WATCH a", "SET a 1", "MULTI", "SET b 2", "EXEC", "GET b"],
        &["WATCH a", "MULTI", "SET a 2", "EXEC", "GET a"],
        &["WATCH a", "SET a 1", "UNWATCH", "MULTI", "SET b 2", "EXEC"],
        &["WATCH a", "SET a 1", "MULTI", "DISCARD", "MULTI", "SET b 2", "EXEC"],
        &["MULTI", "WATCH a", "SET a 1", "EXEC", "GET a"],
        &["MULTI", "UNWATCH", "SET a 1", "EXEC"],
        &["MULTI", "PING", "PING x", "ECHO hello", "EXEC", "PING"],
        &["MULTI", "SELECT 1", "SET a 1", "EXEC", "GET a", "SELECT 0", "GET a"],
        &["MULTI", "SELECT 1", "DISCARD", "SET a 1", "SELECT 1", "GET a"],
        &["MULTI", "SELECT 1", "SELECT 99", "SET a 1", "EXEC", "GET a"],
        &["MULTI", "SELECT x", "SET a 1", "EXEC", "GET a"],
        &["MULTI", "CLIENT GETNAME", "CLIENT SETNAME tester", "CLIENT NO-EVICT on", "EXEC"],
        &["MULTI", "EVAL return{ARGV[1],KEYS[1]} 1 k v", "EXEC", "GET a"],
        &["EVAL return{1,{2,'three'}} 0", "MULTI", "SET a 1", "EXEC", "EVAL return(1) 0", "GET a"],
        &["MULTI", "BLPOP empty 0", "XREAD BLOCK 0 STREAMS s $", "LPUSH l x", "BLPOP l 0", "EXEC"],
        &["MULTI", "CONFIG GET maxmemory", "SCRIPT EXISTS abc", "EXEC", "CONFIG GET maxmemory"],
        &["MULTI", "PUBLISH c m", "EXEC", "MULTI", "LRANGE l 0 -1", "EXEC"],
        &["SELECT 3", "MULTI", "SET a 3", "EXEC", "SELECT 0", "GET a"],
        &["MULTI", "SET a 1", "RESET", "GET a", "EXEC"],
        &["WATCH a", "RESET", "SET a 1", "MULTI", "GET a", "EXEC"],
    ];
    for course in courses {
        assert_as_redis(&pair, course);
    }
}

#[test]
fn a_transaction_of_resp3_is_answered_as_redis_does() {
    let pair = Pair::start();
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    for client in [&mut direct, &mut proxied] {
        client.command(&["HELLO", "3"]);
    }
    for frame in frames(&[
        "MULTI",
        "HSET h a 1",
        "HGETALL h",
        "ZADD z 1.5 m",
        "ZSCORE z m",
        "GET none",
        "EXEC",
        "WATCH h",
        "HSET h b 2",
        "MULTI",
        "EXEC",
        "HGETALL h",
    ]) {
        direct.send(&frame);
        proxied.send(&frame);
        let (_, expected) = direct.read_reply_raw();
        proxied.expect(&expected);
    }
}

#[test]
fn quit_inside_a_transaction_ends_the_connection_and_applies_nothing() {
    let pair = Pair::start();
    let mut client = pair.client();
    client.send(frames(&["MULTI", "SET a 1", "QUIT", "EXEC"]).concat());
    client.expect("+OK\r\n+QUEUED\r\n+OK\r\n");
    client.expect_end();
    assert_absent(&pair, &["a"]);
}

#[test]
fn commands_that_break_the_framing_of_exec_are_refused_and_abort_the_transaction() {
    let pair = Pair::start();
    for line in [
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "UNSUBSCRIBE",
        "MONITOR",
        "HELLO 3",
        "AUTH x",
        "CLIENT REPLY OFF",
        "CLIENT KILL TYPE normal",
        "CLIENT PAUSE 1000",
        "CLIENT UNPAUSE",
        "CLIENT UNBLOCK 1",
        "SHUTDOWN NOSAVE",
        "DEBUG SLEEP 0",
        "WAIT 0 0",
        "CLIENT TRACKING ON",
        "SWAPDB 0 1",
    ] {
        let mut client = pair.client();
        assert_eq!(client.command(&["MULTI"]), Value::ok());
        assert_eq!(client.command(&["SET", "a", "1"]), queued());
        let refused = client.command(&line.split(' ').collect::<Vec<_>>());
        assert!(refused.text().starts_with("ERR handover: command '"), "{line}: {refused:?}");
        assert!(client.command(&["SET", "b", "1"]).is_error("ERR"), "{line}");
        let aborted = error("EXECABORT Transaction discarded because of previous errors.");
        assert_eq!(client.command(&["EXEC"]), aborted, "{line}");
        assert_absent(&pair, &["a", "b"]);
        assert_eq!(client.command(&["MULTI"]), Value::ok());
        assert_eq!(client.command(&["INCR", "works"]), queued());
        assert_eq!(client.command(&["EXEC"]).elements().len(), 1);
    }
    assert_eq!(number(&pair.east, "works"), 17);
}

#[test]
fn a_refused_command_in_a_transaction_that_arrives_whole_aborts_it() {
    let pair = Pair::start();
    let mut client = pair.client();
    client.send(frames(&["MULTI", "SET a 1", "SHUTDOWN", "SET b 1", "EXEC", "GET a"]).concat());
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(client.read_reply(), queued());
    assert!(client.read_reply().is_error("ERR"));
    assert!(client.read_reply().is_error("ERR"));
    assert!(client.read_reply().is_error("EXECABORT"));
    assert_eq!(client.read_reply(), Value::Null);
    assert_absent(&pair, &["a", "b"]);
}

#[test]
fn transactions_of_many_clients_never_mix() {
    const ROUNDS: usize = 60;
    let pair = Pair::start();
    std::thread::scope(|scope| {
        for client_number in 0..8 {
            let pair = &pair;
            scope.spawn(move || {
                let mut client = pair.client();
                let key = format!("k{client_number}");
                for round in 0..ROUNDS {
                    let value = format!("{client_number}:{round}");
                    let commands = [
                        encode(&["MULTI"]),
                        encode(&["SET", &key, &value]),
                        encode(&["GET", &key]),
                        encode(&["INCR", "all"]),
                        encode(&["EXEC"]),
                    ];
                    // Whole, in pieces, and one at a time: on a lane and on pins.
                    match round % 3 {
                        0 => client.send(commands.concat()),
                        1 => commands.concat().chunks(11).for_each(|piece| client.send(piece)),
                        _ => commands.iter().for_each(|command| client.send(command)),
                    }
                    assert_eq!(client.read_reply(), Value::ok());
                    (0..3).for_each(|_| assert_eq!(client.read_reply(), queued()));
                    let result = client.read_reply();
                    assert_eq!(result.elements()[..2], [Value::ok(), Value::bulk(&value)]);
                    assert_eq!(client.command(&["GET", &key]), Value::bulk(&value));
                }
            });
        }
    });
    assert_eq!(number(&pair.east, "all"), 8 * ROUNDS as i64);
}

#[test]
fn a_conflict_between_two_clients_is_seen() {
    let pair = Pair::start();
    let (mut one, mut other) = (pair.client(), pair.client());
    assert_eq!(one.command(&["WATCH", "k"]), Value::ok());
    assert_eq!(other.command(&["SET", "k", "theirs"]), Value::ok());
    assert_eq!(one.command(&["MULTI"]), Value::ok());
    assert_eq!(one.command(&["SET", "k", "mine"]), queued());
    one.send_command(&["EXEC"]);
    one.expect("*-1\r\n");
    assert_eq!(one.command(&["GET", "k"]), Value::bulk("theirs"));
}

#[test]
fn a_fault_inside_a_transaction_aborts_it_and_nothing_is_applied() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    assert_eq!(client.command(&["MULTI"]), Value::ok());
    assert_eq!(client.command(&["SET", "a", "1"]), queued());
    pair.fail_over();
    assert_eq!(client.command(&["SET", "b", "1"]), queued());
    assert!(client.command(&["EXEC"]).is_error("EXECABORT"));
    assert_absent(&pair, &["a", "b"]);
    assert_works(&mut client, &pair.west);
}

#[test]
fn a_fault_inside_a_transaction_leaves_discard_in_force() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    client.send(frames(&["MULTI", "SET a 1"]).concat());
    client.expect("+OK\r\n+QUEUED\r\n");
    pair.fail_over();
    assert_eq!(client.command(&["DISCARD"]), Value::ok());
    assert_absent(&pair, &["a"]);
    assert_works(&mut client, &pair.west);
}

#[test]
fn a_fault_after_watch_makes_exec_answer_nil_and_nothing_is_applied() {
    let mut pair = Pair::start();
    let (mut before, mut inside, mut plain) = (pair.client(), pair.client(), pair.client());
    assert_eq!(before.command(&["WATCH", "k"]), Value::ok());
    assert_eq!(inside.command(&["WATCH", "k"]), Value::ok());
    assert_eq!(inside.command(&["MULTI"]), Value::ok());
    assert_eq!(inside.command(&["SET", "a", "1"]), queued());
    assert_eq!(plain.command(&["WATCH", "k"]), Value::ok());
    pair.fail_over();
    assert_eq!(before.command(&["GET", "k"]), Value::Null);
    assert_eq!(before.command(&["MULTI"]), Value::ok());
    assert_eq!(before.command(&["SET", "b", "1"]), queued());
    for client in [&mut before, &mut inside] {
        client.send_command(&["EXEC"]);
        client.expect("*-1\r\n");
        assert_works(client, &pair.west);
    }
    assert_eq!(plain.command(&["UNWATCH"]), Value::ok());
    assert_works(&mut plain, &pair.west);
    assert_absent(&pair, &["a", "b"]);
}

#[test]
fn an_exec_without_an_answer_is_uncertain_and_ran_at_most_once() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    client.send(frames(&["MULTI", "INCR n"]).concat());
    client.expect("+OK\r\n+QUEUED\r\n");
    pair.relay.set_mode(Mode::HoldReplies);
    client.send_command(&["EXEC"]);
    wait_until(PATIENCE, || number(&pair.east, "n") == 1);
    pair.break_east();
    assert!(client.read_reply().is_error("UNCERTAIN"));
    assert_eq!(number(&pair.east, "n") + number(&pair.west, "n"), 1);
    assert_works(&mut client, &pair.west);
}

#[test]
fn a_whole_transaction_without_an_answer_is_uncertain_and_ran_at_most_once() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    assert_eq!(client.command(&["GET", "n"]), Value::Null);
    pair.relay.set_mode(Mode::HoldReplies);
    client.send(frames(&["MULTI", "INCR n", "INCR n", "EXEC"]).concat());
    wait_until(PATIENCE, || number(&pair.east, "n") == 2);
    pair.break_east();
    client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n");
    assert!(client.read_reply().is_error("UNCERTAIN"));
    assert_eq!(number(&pair.east, "n") + number(&pair.west, "n"), 2);
    assert_works(&mut client, &pair.west);
}

#[test]
fn a_whole_transaction_of_reads_is_repeated() {
    let mut pair = Pair::start();
    pair.west.command(&["SET", "k", "west"]);
    let mut client = pair.client();
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    pair.relay.set_mode(Mode::HoldReplies);
    let sent = pair.relay.request_bytes();
    client.send(frames(&["MULTI", "GET k", "STRLEN k", "EXEC"]).concat());
    wait_until(PATIENCE, || pair.relay.request_bytes() > sent);
    pair.break_east();
    client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$4\r\nwest\r\n:4\r\n");
}

#[test]
fn exec_is_cut_at_every_byte_of_its_replies_and_never_runs_twice() {
    // "+OK +QUEUED *1 :1" is 22 bytes: at each a transaction in pieces and one that is whole.
    for (whole, cut_at) in [(true, 3), (true, 9), (true, 14), (true, 19), (false, 20)] {
        let mut pair = Pair::start();
        let mut client = pair.client();
        assert_eq!(client.command(&["GET", "n"]), Value::Null);
        pair.relay.cut_after_reply_bytes(cut_at, support::Cut::Reset);
        let lines = frames(&["MULTI", "INCR n", "EXEC"]);
        let mut replies = Vec::new();
        if whole {
            client.send(lines.concat());
            (0..3).for_each(|_| replies.push(client.read_reply()));
        } else {
            lines.iter().for_each(|line| {
                client.send(line);
                replies.push(client.read_reply());
            });
        }
        assert_eq!(replies[..2], [Value::ok(), queued()], "cut at {cut_at}");
        let applied = number(&pair.east, "n") + number(&pair.west, "n");
        match &replies[2] {
            Value::Array(results) => assert_eq!((results.len(), applied), (1, 1), "cut at {cut_at}"),
            refused if refused.is_error("UNCERTAIN") => assert!(applied <= 1, "cut at {cut_at}"),
            refused if refused.is_error("EXECABORT") => assert_eq!(applied, 0, "cut at {cut_at}"),
            other => panic!("cut at {cut_at}: {other:?}"),
        }
        assert_eq!(client.command(&["SET", "after", "1"]), Value::ok());
        pair.relay.refuse();
    }
}

#[test]
fn a_planned_switch_aborts_open_transactions_and_watches_and_nothing_is_applied() {
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let (mut queuing, mut watching, mut both) = (pair.client(), pair.client(), pair.client());
    assert_eq!(queuing.command(&["MULTI"]), Value::ok());
    assert_eq!(queuing.command(&["SET", "a", "1"]), queued());
    assert_eq!(watching.command(&["WATCH", "k"]), Value::ok());
    for command in [&["WATCH", "k"][..], &["MULTI"]] {
        assert_eq!(both.command(command), Value::ok());
    }
    assert_eq!(both.command(&["SET", "b", "1"]), queued());
    pair.fail_back();
    assert!(queuing.command(&["EXEC"]).is_error("EXECABORT"));
    assert_eq!(watching.command(&["MULTI"]), Value::ok());
    assert_eq!(watching.command(&["SET", "c", "1"]), queued());
    for client in [&mut watching, &mut both] {
        client.send_command(&["EXEC"]);
        client.expect("*-1\r\n");
    }
    assert_absent(&pair, &["a", "b", "c"]);
    for client in [&mut queuing, &mut watching, &mut both] {
        assert_works(client, &pair.east);
        client.command(&["DEL", "after"]);
    }
    assert!(pair.called_off().is_empty());
}

#[test]
fn whole_transactions_pass_a_planned_switch_without_an_error() {
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let done = std::sync::atomic::AtomicBool::new(false);
    let address = pair.handover.address();
    let acknowledged: i64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = RawClient::connect(address);
                    let frame = frames(&["MULTI", "INCR n", "INCR m", "EXEC"]).concat();
                    let mut count = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        client.send(&frame);
                        client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n");
                        assert_eq!(client.read_reply().elements().len(), 2);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        pair.fail_back();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no failed transaction")).sum()
    });
    for key in ["n", "m"] {
        assert_eq!(number(&pair.east, key) + number(&pair.west, key), acknowledged);
    }
}
