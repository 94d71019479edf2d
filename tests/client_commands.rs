//! CLIENT over Handover's own clients, on every worker; COMMAND; and commands that no table has.

mod support;

use std::time::{Duration, Instant};

use support::{Mode, PATIENCE, Pair, RawClient, RedisServer, Value, encode, wait_until};

/// Long enough for a reply that must not come to have come on a busy machine, or nearly so.
const QUIET: Duration = Duration::from_millis(100);

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn two_workers() -> Pair {
    Pair::builder().configuration("[runtime]\nworkers = 2").start()
}

fn id(client: &mut RawClient) -> i64 {
    client.command(&["CLIENT", "ID"]).integer()
}

#[track_caller]
fn wait_for_blocked(server: &RedisServer, count: usize) {
    let wanted = format!("blocked_clients:{count}\r");
    wait_until(PATIENCE, || server.command(&["INFO", "clients"]).text().contains(&wanted));
}

/// Everything that a client hears of `lines` and a last PING, which always answers.
fn heard(client: &mut RawClient, lines: &[&str]) -> String {
    let end = "end-of-the-lines";
    let mut bytes: Vec<u8> = lines.iter().flat_map(|line| frame(line)).collect();
    bytes.extend(frame(&format!("PING {end}")));
    client.send(bytes);
    let mut all = Vec::new();
    loop {
        let (value, raw) = client.read_reply_raw();
        let is_end = value == Value::bulk(end)
            || matches!(&value, Value::Array(parts) | Value::Push(parts) if parts.last() == Some(&Value::bulk(end)));
        if is_end {
            return all.escape_ascii().to_string();
        }
        all.extend(raw);
    }
}

/// CLIENT REPLY in every order that matters; each stream ends with replies on.
const REPLY_STREAMS: &[&[&str]] = &[
    &["SET a 1", "CLIENT REPLY OFF", "SET a 2", "GET a", "PING", "GET", "NOSUCH", "CLIENT REPLY ON", "GET a"],
    &["GET a", "CLIENT REPLY SKIP", "SET a 3", "GET a", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET a", "GET a"],
    &["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "GET a", "CLIENT REPLY ON", "GET a", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON"],
    &["GET a", "CLIENT REPLY OFF", "GET a", "RESET", "GET a"],
    &["CLIENT REPLY SKIP", "RESET", "GET a"],
    &["CLIENT REPLY SKIP", "MULTI", "SET a 1", "EXEC", "GET a"],
    &["MULTI", "SET a 4", "EXEC", "CLIENT REPLY SKIP", "GET a", "MULTI", "GET a", "EXEC"],
    &["CLIENT REPLY OFF", "MULTI", "INCR n", "EXEC", "CLIENT REPLY ON", "GET n"],
    &["CLIENT REPLY OFF", "WATCH a", "MULTI", "INCR n", "EXEC", "CLIENT REPLY ON", "GET n"],
    &["CLIENT REPLY SKIP", "BLPOP none 0.05", "GET a"],
    &["CLIENT REPLY OFF", "EVAL return(1) 0", "GET a", "CLIENT REPLY ON", "EVAL return(1) 0"],
    &["CLIENT REPLY SKIP", "EVAL return(1) 0", "GET a"],
    &["CLIENT REPLY FOO", "CLIENT REPLY", "CLIENT REPLY on off", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY FOO", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT NOSUCH", "GET a"],
    &["CLIENT REPLY OFF", "SUBSCRIBE x", "PING", "UNSUBSCRIBE x", "UNSUBSCRIBE", "CLIENT REPLY ON"],
    &["CLIENT REPLY SKIP", "SUBSCRIBE x", "PING", "UNSUBSCRIBE"],
    &["CLIENT REPLY SKIP", "HELLO 3", "HGETALL none", "HELLO 2 NOSUCH"],
    &["CLIENT REPLY OFF", "SELECT 1", "SET b 1", "SELECT 0", "CLIENT REPLY ON", "GET b"],
    &["CLIENT REPLY OFF", "CLIENT LIST", "CLIENT ID", "CLIENT KILL ID 999999", "CLIENT REPLY ON", "GET a"],
    &["CLIENT REPLY SKIP", "CLIENT LIST", "GET a"],
];

#[test]
fn exactly_the_replies_that_redis_gives_come_and_nobody_is_shifted() {
    for sessions in ["multiplexed", "dedicated"] {
        let listener = format!("[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"{sessions}\"");
        let pair = Pair::builder().configuration(&listener).start();
        let mut neighbour = pair.client();
        for lines in REPLY_STREAMS {
            for server in [&pair.east, &pair.west] {
                server.command(&["FLUSHALL"]);
            }
            let (mut direct, mut proxied) = (pair.west.client(), pair.client());
            neighbour.send(frame("ECHO mine"));
            assert_eq!(heard(&mut proxied, lines), heard(&mut direct, lines), "{lines:?} on a {sessions} listener");
            assert_eq!(neighbour.read_reply(), Value::bulk("mine"));
        }
    }
}

/// Random orders of the same, in one burst or in pieces, with neighbours on the same lane.
#[test]
fn random_streams_with_client_reply_are_answered_as_by_redis() {
    const STEPS: &[&[&str]] = &[
        &["CLIENT REPLY ON"],
        &["CLIENT REPLY OFF"],
        &["CLIENT REPLY SKIP"],
        &["CLIENT REPLY NOSUCH"],
        &["GET k"],
        &["INCR n"],
        &["PING"],
        &["NOSUCH"],
        &["CLIENT GETNAME"],
        &["CLIENT LIST ID 0"],
        &["MULTI", "INCR n", "GET k", "EXEC"],
        &["WATCH k", "UNWATCH"],
        &["EVAL return(1) 0"],
        &["BLPOP none 0.001"],
        &["SELECT 1"],
        &["SELECT 0"],
        &["RESET"],
        &["UNSUBSCRIBE"],
    ];
    let pair = Pair::start();
    let mut neighbour = pair.client();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    for stream in 0..150 {
        for server in [&pair.east, &pair.west] {
            server.command(&["FLUSHALL"]);
        }
        let mut lines: Vec<&str> = (0..below(12)).flat_map(|_| STEPS[below(STEPS.len())]).copied().collect();
        lines.push("CLIENT REPLY ON");
        let (mut direct, mut proxied) = (pair.west.client(), pair.client());
        let cut = below(lines.len());
        neighbour.send([frame("ECHO mine"), frame("ECHO too")].concat());
        proxied.send(lines[..cut].iter().flat_map(|line| frame(line)).collect::<Vec<u8>>());
        let reply = heard(&mut proxied, &lines[cut..]);
        assert_eq!(reply, heard(&mut direct, &lines), "stream {stream}: {lines:?}, cut at {cut}");
        assert_eq!(neighbour.read_reply(), Value::bulk("mine"), "stream {stream}: {lines:?}");
        assert_eq!(neighbour.read_reply(), Value::bulk("too"), "stream {stream}: {lines:?}");
    }
}

#[test]
fn messages_reach_a_client_that_wants_no_replies() {
    let pair = Pair::start();
    let (mut direct, mut proxied) = (pair.east.client(), pair.client());
    for client in [&mut direct, &mut proxied] {
        client.send([frame("CLIENT REPLY OFF"), frame("SUBSCRIBE news"), frame("PING")].concat());
        client.expect("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    }
    assert_eq!(pair.client().command(&["PUBLISH", "news", "hot"]), Value::Integer(2));
    for client in [&mut direct, &mut proxied] {
        client.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\nhot\r\n");
        client.expect_silence(QUIET);
    }
}

#[test]
fn a_client_that_wants_no_replies_gets_no_line_at_a_fault() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    client.send(frame("CLIENT REPLY OFF"));
    client.send(frame("SET k before"));
    wait_until(PATIENCE, || pair.east.command(&["GET", "k"]) == Value::bulk("before"));
    pair.relay.set_mode(Mode::HoldReplies);
    // The first may not be repeated, and the rest neither because of it.
    client.send([frame("INCR n"), frame("SET k after")].concat());
    wait_until(PATIENCE, || pair.east.command(&["GET", "n"]) == Value::bulk("1"));
    pair.fail_over();
    client.send([frame("SET k new"), frame("CLIENT REPLY ON"), frame("GET k"), frame("GET n")].concat());
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(client.read_reply(), Value::bulk("new"));
    assert_eq!(client.read_reply(), Value::Null);
}

#[test]
fn errors_of_client_commands_are_those_of_redis() {
    let pair = two_workers();
    let lines = [
        "CLIENT KILL",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ID",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID x",
        "CLIENT KILL ID 999999",
        "CLIENT KILL ID 9223372036854775807",
        "CLIENT KILL id 1 id",
        "CLIENT KILL TYPE foo",
        "CLIENT KILL TYPE pubsub",
        "CLIENT KILL TYPE master",
        "CLIENT KILL TYPE replica",
        "CLIENT KILL USER nobody",
        "CLIENT KILL USER default ID 999999",
        "CLIENT KILL SKIPME maybe",
        "CLIENT KILL FOO bar",
        "CLIENT KILL LADDR 1.2.3.4:1",
        "CLIENT UNBLOCK",
        "CLIENT UNBLOCK 999999",
        "CLIENT UNBLOCK x",
        "CLIENT UNBLOCK 1 foo",
        "CLIENT UNBLOCK 1 error x",
        "CLIENT UNBLOCK x foo",
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 1 foo",
        "CLIENT PAUSE 1 write x",
        "CLIENT PAUSE 0",
        "CLIENT PAUSE 99999999999999999999",
        "CLIENT UNPAUSE x",
        "CLIENT UNPAUSE",
        "CLIENT LIST TYPE foo",
        "CLIENT LIST TYPE",
        "CLIENT LIST TYPE replica",
        "CLIENT LIST ID x",
        "CLIENT LIST ID 0",
        "CLIENT LIST ID",
        "CLIENT LIST FOO",
        "CLIENT LIST TYPE normal x",
        "CLIENT NO-EVICT",
        "CLIENT NO-EVICT x",
        "CLIENT NO-EVICT on",
        "CLIENT HELP x",
        "CLIENT GETNAME x",
        "CLIENT SETNAME",
        "CLIENT REPLY",
        "CLIENT REPLY x",
        "CLIENT INFO x",
        "CLIENT ID x",
        "CLIENT FOO",
        "CLIENT",
    ];
    for protocol in ["2", "3"] {
        let (mut direct, mut proxied) = (pair.west.client(), pair.client());
        for client in [&mut direct, &mut proxied] {
            client.command(&["HELLO", protocol]);
        }
        for line in lines {
            direct.send(frame(line));
            proxied.send(frame(line));
            let (expected, reply) = (direct.read_reply_raw().1, proxied.read_reply_raw().1);
            assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{line}");
        }
    }
    let help = pair.client().command(&["CLIENT", "HELP"]);
    let lines: Vec<String> = help.elements().iter().map(Value::text).collect();
    for line in pair.west.command(&["CLIENT", "HELP"]).elements() {
        assert!(lines.contains(&line.text()), "{line:?} is missing from CLIENT HELP");
    }
}

#[test]
fn clients_of_every_worker_are_killed_and_listed_by_filter() {
    let pair = two_workers();
    let mut clients: Vec<RawClient> = (0..8).map(|_| pair.client()).collect();
    let ids: Vec<i64> = clients.iter_mut().map(id).collect();
    let (asker, others) = clients.split_first_mut().unwrap();
    let listed = |list: Value| -> Vec<i64> {
        let id = |line: &str| line.split(' ').next()?.strip_prefix("id=")?.parse().ok();
        list.text().lines().filter_map(id).collect()
    };
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(listed(asker.command(&["CLIENT", "LIST"])), sorted);
    let some = [ids[5], ids[2], ids[3]];
    let [first, second, third] = some.map(|id| id.to_string());
    assert_eq!(listed(asker.command(&["CLIENT", "LIST", "ID", &first, &second, "999999", &third])), some);
    // By address, in the old form; twice is once too often.
    let address = others[0].local_address().to_string();
    assert_eq!(asker.command(&["CLIENT", "KILL", &address]), Value::ok());
    others[0].expect_end();
    assert!(asker.command(&["CLIENT", "KILL", &address]).is_error("ERR"));
    // By number and address together.
    let address = others[1].local_address().to_string();
    assert_eq!(asker.command(&["CLIENT", "KILL", "ID", &first, "ADDR", &address]), Value::Integer(0));
    assert_eq!(asker.command(&["CLIENT", "KILL", "ID", &second, "ADDR", &address]), Value::Integer(1));
    others[1].expect_end();
    // By type.
    others[2].send(frame("SUBSCRIBE news"));
    assert_eq!(others[2].read_reply().elements().len(), 3);
    assert_eq!(listed(asker.command(&["CLIENT", "LIST", "TYPE", "pubsub"])), [ids[3]]);
    assert_eq!(asker.command(&["CLIENT", "KILL", "TYPE", "pubsub"]), Value::Integer(1));
    others[2].expect_end();
    // What it blocks for is not taken by a client that is gone.
    others[3].send(frame("BLPOP list 0"));
    wait_for_blocked(&pair.east, 1);
    assert_eq!(asker.command(&["CLIENT", "KILL", "ID", &ids[4].to_string()]), Value::Integer(1));
    others[3].expect_end();
    wait_for_blocked(&pair.east, 0);
    // Everybody else; then oneself, which hears of it first.
    assert_eq!(asker.command(&["CLIENT", "KILL", "USER", "default"]), Value::Integer(3));
    others[4..].iter_mut().for_each(RawClient::expect_end);
    asker.send([frame(&format!("CLIENT KILL ID {} SKIPME no", ids[0])), frame("PING")].concat());
    assert_eq!(asker.read_reply(), Value::Integer(1));
    asker.expect_end();
    wait_until(PATIENCE, || pair.handover.metric("handover_clients", &[]) == 0.0);
}

#[test]
fn blocked_clients_of_every_worker_are_let_go() {
    let pair = two_workers();
    let mut askers = [pair.client(), pair.client()];
    for sessions in 0..4 {
        let mut blocked = pair.client();
        let id = id(&mut blocked).to_string();
        let asker = &mut askers[sessions % 2];
        assert_eq!(asker.command(&["CLIENT", "UNBLOCK", &id]), Value::Integer(0), "it does not block yet");
        for (reason, expected) in [
            (&[][..], "*-1\r\n"),
            (&["TIMEOUT"], "*-1\r\n"),
            (&["ERROR"], "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
        ] {
            blocked.send([frame("BLPOP list 0"), frame("PING")].concat());
            wait_for_blocked(&pair.east, 1);
            let line = asker.command(&["CLIENT", "LIST", "ID", &id]).text();
            assert!(line.contains(" flags=b "), "{line}");
            let command = [&["CLIENT", "UNBLOCK", &id][..], reason].concat();
            assert_eq!(asker.command(&command), Value::Integer(1), "{command:?}");
            blocked.expect(expected);
            blocked.expect("+PONG\r\n");
            assert_eq!(asker.command(&command), Value::Integer(0), "{command:?} twice");
        }
    }
}

#[test]
fn a_refused_unblocking_is_told_in_the_backends_words() {
    let pair = Pair::builder().configuration("[runtime]\nworkers = 2").start();
    let mut blocked = pair.client();
    let id = id(&mut blocked).to_string();
    blocked.send(frame("BLPOP list 0"));
    wait_for_blocked(&pair.east, 1);
    assert_eq!(pair.east.command(&words("ACL SETUSER default -client|unblock")), Value::ok());
    let reply = pair.client().command(&["CLIENT", "UNBLOCK", &id]);
    let expected = "ERR handover: the backend did not carry out CLIENT UNBLOCK: NOPERM";
    assert!(matches!(&reply, Value::Error(text) if text.starts_with(expected)), "{reply:?}");
    blocked.expect_silence(QUIET);
    assert_eq!(pair.east.command(&words("ACL SETUSER default +@all")), Value::ok());
    assert_eq!(pair.client().command(&["CLIENT", "UNBLOCK", &id]), Value::Integer(1));
    assert_eq!(blocked.read_reply(), Value::Null);
}

#[test]
fn a_pause_holds_the_clients_of_every_worker_and_no_fault_is_seen_in_it() {
    let pair = two_workers();
    let mut clients: Vec<RawClient> = (0..4).map(|_| pair.client()).collect();
    let (mut asker, mut subscriber) = (pair.client(), pair.client());
    subscriber.send(frame("SUBSCRIBE news"));
    subscriber.read_reply();
    let begun = Instant::now();
    // Longer than a backend may be silent, and than commands are held for want of one.
    assert_eq!(asker.command(&["CLIENT", "PAUSE", "6000"]), Value::ok());
    clients.push(pair.client());
    for (number, client) in clients.iter_mut().enumerate() {
        client.send([frame(&format!("SET k{number} v")), frame("PING"), frame(&format!("GET k{number}"))].concat());
    }
    clients[0].expect_silence(QUIET);
    assert_eq!(pair.east.command(&["DBSIZE"]), Value::Integer(0));
    pair.east.command(&["PUBLISH", "news", "hot"]);
    subscriber.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$3\r\nhot\r\n");
    for client in &mut clients {
        client.expect("+OK\r\n+PONG\r\n$1\r\nv\r\n");
    }
    assert!(begun.elapsed() >= Duration::from_secs(6), "let go after {:?}", begun.elapsed());
    assert_eq!(pair.handover.metric("handover_epoch", &[]), 1.0, "no switch since the start");
    // Called off before its time, by a client of any worker.
    assert_eq!(asker.command(&["CLIENT", "PAUSE", "600000", "ALL"]), Value::ok());
    clients[0].send(frame("GET k0"));
    clients[0].expect_silence(QUIET);
    assert_eq!(clients[1].command(&["CLIENT", "UNPAUSE"]), Value::ok());
    clients[0].expect("$1\r\nv\r\n");
}

#[test]
fn a_pause_for_writes_holds_what_a_server_would_hold() {
    let pair = two_workers();
    let writes = [
        "SET k 1",
        "PUBLISH news hot",
        "PFCOUNT none",
        "EVAL return(1) 0",
        "BLPOP none 0.05",
        "FLUSHALL",
        "NOSUCH.COMMAND",
        "XREADGROUP GROUP g c STREAMS s >",
    ];
    let reads = ["GET k", "PING", "EVAL_RO return(1) 0", "CLIENT ID", "SCRIPT EXISTS x", "KEYS *", "CLIENT LIST"];
    let mut asker = pair.client();
    assert_eq!(asker.command(&["CLIENT", "PAUSE", "600000", "WRITE"]), Value::ok());
    for line in reads {
        assert!(!matches!(pair.client().command(&words(line)), Value::Error(_)), "{line}");
    }
    let mut reader = pair.client();
    reader.send([frame("MULTI"), frame("GET k"), frame("EXEC")].concat());
    reader.expect("+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n");
    let mut clients: Vec<(RawClient, &str)> = writes.iter().map(|line| (pair.client(), *line)).collect();
    let mut transaction = pair.client();
    transaction.send([frame("MULTI"), frame("GET k"), frame("SET k 2"), frame("EXEC")].concat());
    transaction.expect("+OK\r\n+QUEUED\r\n");
    for (client, line) in &mut clients {
        client.send(frame(line));
    }
    for (client, _) in &mut clients {
        client.expect_silence(QUIET / 4);
    }
    transaction.expect_silence(QUIET);
    assert_eq!(asker.command(&["CLIENT", "UNPAUSE"]), Value::ok());
    for (client, line) in &mut clients {
        let is_error = matches!(client.read_reply(), Value::Error(_));
        assert_eq!(is_error, line.starts_with("NOSUCH") || line.starts_with("XREADGROUP"), "{line}");
    }
    assert!(transaction.read_reply_raw().1.starts_with(b"+QUEUED"));
    assert_eq!(transaction.read_reply().elements().len(), 2);
}

#[test]
fn a_pause_outlasts_a_switch() {
    let mut pair = two_workers();
    let (mut asker, mut client) = (pair.client(), pair.client());
    assert_eq!(asker.command(&["CLIENT", "PAUSE", "600000", "WRITE"]), Value::ok());
    client.send(frame("SET k v"));
    client.expect_silence(QUIET);
    pair.fail_over();
    assert_eq!(asker.command(&["GET", "k"]), Value::Null);
    client.expect_silence(QUIET);
    assert_eq!(asker.command(&["CLIENT", "UNPAUSE"]), Value::ok());
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(pair.west.command(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(pair.east.command(&["GET", "k"]), Value::Null);
}

#[test]
fn command_is_the_backends_own_answer() {
    let pair = Pair::start();
    let mut client = pair.client();
    for line in [
        "COMMAND COUNT",
        "COMMAND INFO get shutdown nosuch client|reply",
        "COMMAND DOCS set",
        "COMMAND LIST FILTERBY PATTERN x*",
        "COMMAND GETKEYS MSET a b c d",
        "COMMAND GETKEYS GET",
        "COMMAND GETKEYSANDFLAGS LMOVE a b left right",
        "COMMAND NOSUCH",
        "COMMAND",
        "COMMAND HELP",
    ] {
        assert_eq!(client.command(&words(line)), pair.east.command(&words(line)), "{line}");
    }
}

/// Hazards: an empty name, line ends in the name, and a name of 64 KiB.
#[test]
fn unknown_commands_are_answered_in_the_backends_words_and_framing_stays() {
    let pair = Pair::start();
    let long = "x".repeat(64 * 1024);
    let commands: [&[&str]; 12] = [
        &["NOSUCH"],
        &["nosuch", "a", "b"],
        &["NoSuch", &long],
        &[""],
        &["", "", ""],
        &["GET\r\n+OK", "a"],
        &["\r\n"],
        &["a\0b"],
        &[&long],
        &[&long, &long],
        &["OBJECT", "NOSUCH", "x"],
        &["CONFIG", "NO\r\nSUCH"],
    ];
    let (mut direct, mut proxied, mut neighbour) = (pair.east.client(), pair.client(), pair.client());
    for command in commands {
        let shown = format!("{:.40?}", command[0]);
        neighbour.send(frame("ECHO mine"));
        for client in [&mut direct, &mut proxied] {
            client.send([encode(command), frame("ECHO next")].concat());
        }
        let (expected, reply) = (direct.read_reply_raw().1, proxied.read_reply_raw().1);
        assert!(expected.starts_with(b"-ERR "), "{shown}");
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{shown}");
        for client in [&mut direct, &mut proxied] {
            assert_eq!(client.read_reply(), Value::bulk("next"), "{shown}");
        }
        assert_eq!(neighbour.read_reply(), Value::bulk("mine"), "{shown}");
    }
    // In a transaction they spoil it, as with a server.
    for client in [&mut direct, &mut proxied] {
        client.send([frame("MULTI"), encode(&["\r\n", "x"]), frame("SET k v"), frame("EXEC")].concat());
        client.expect("+OK\r\n");
    }
    assert_eq!(proxied.read_reply_raw(), direct.read_reply_raw());
    for client in [&mut direct, &mut proxied] {
        assert_eq!(client.read_reply_raw().1, b"+QUEUED\r\n");
        assert!(client.read_reply().is_error("EXECABORT"));
    }
}

/// A command that the table lacks: on a connection of its own, unless the operator lets it share one.
#[test]
fn a_command_that_only_the_backend_knows_goes_to_a_pin_or_where_the_operator_says() {
    let rename = |server: support::RedisServerBuilder| {
        server.directive("rename-command GETRANGE my.range").directive("rename-command APPEND my.append")
    };
    let listed = "[commands]\nshared = [\"my.range\"]\ndeny = [\"my.append|denied\"]";
    let pair = Pair::builder().servers(rename).configuration(listed).start();
    let counted = |class: &str| pair.handover.metric("handover_commands_total", &[("class", class)]);
    let mut client = pair.client();
    assert_eq!(client.command(&["SET", "k", "hello"]), Value::ok());
    assert_eq!(client.command(&["MY.RANGE", "k", "0", "1"]), Value::bulk("he"));
    wait_until(PATIENCE, || counted("shared") == 2.0);
    assert_eq!(counted("pinned"), 0.0);
    assert_eq!(client.command(&["My.Append", "k", "!"]), Value::Integer(6));
    wait_until(PATIENCE, || counted("pinned") == 1.0);
    wait_until(PATIENCE, || pair.sessions("shared") == 1);
    assert_eq!(client.command(&["GET", "k"]), Value::bulk("hello!"));
    assert!(client.command(&["my.append", "denied", "!"]).is_error("NOPERM"));
}
