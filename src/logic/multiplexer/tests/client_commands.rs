//! CLIENT REPLY, KILL, UNBLOCK, PAUSE and LIST, with every worker's part played by the one there is.

use super::*;

/// What a server that is asked directly sends, for the same lines: taken from Redis 7.0.15.
#[test]
fn replies_that_a_client_does_not_want_are_dropped_and_nobody_is_shifted() {
    let cases: &[(&[&str], &str)] = &[
        (&["CLIENT REPLY OFF", "SET a 1", "CLIENT REPLY ON", "GET a"], "+OK\r\n$1\r\n1\r\n"),
        (&["CLIENT REPLY SKIP", "SET a 2", "GET a"], "$1\r\n1\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET a", "GET a"], "$1\r\n1\r\n"),
        (&["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "GET a", "CLIENT REPLY ON", "GET a"], "+OK\r\n$1\r\n1\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET a"], "+OK\r\n$1\r\n1\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON"], "+OK\r\n"),
        (&["CLIENT REPLY SKIP", "CLIENT REPLY FOO", "GET a"], "$1\r\n1\r\n"),
        (&["CLIENT REPLY SKIP", "PING", "PING"], "+PONG\r\n"),
        (&["GET a", "CLIENT REPLY OFF", "RESET", "GET a"], "$1\r\n1\r\n+RESET\r\n$1\r\n1\r\n"),
        (&["CLIENT REPLY OFF", "GET a", "RESET", "PING"], "+RESET\r\n+PONG\r\n"),
        (&["CLIENT REPLY SKIP", "RESET", "PING"], "+PONG\r\n"),
        (&["CLIENT REPLY OFF", "UNSUBSCRIBE", "PING"], "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        (&["CLIENT REPLY SKIP", "MULTI", "GET a", "EXEC", "GET a"], "+QUEUED\r\n*1\r\n$1\r\n1\r\n$1\r\n1\r\n"),
        (&["CLIENT REPLY OFF", "MULTI", "GET a", "EXEC", "CLIENT REPLY ON"], "+OK\r\n"),
        (&["CLIENT REPLY OFF", "QUIT"], ""),
        (&["CLIENT REPLY x"], "-ERR syntax error\r\n"),
        (&["CLIENT REPLY"], "-ERR wrong number of arguments for 'client|reply' command\r\n"),
    ];
    for (lines, expected) in cases {
        let mut bench = Bench::new();
        let (client, other) = (bench.client(), bench.client());
        bench.say(client, lines);
        bench.say(other, &["GET b"]);
        let mut heard = String::new();
        while bench.serve() {
            heard += &bench.heard(client);
        }
        heard += &bench.heard(client);
        assert_eq!(heard, *expected, "{lines:?}");
        assert_eq!(bench.heard(other), "$1\r\n1\r\n", "{lines:?}");
        assert_eq!(bench.multiplexer.in_flight(), 0, "{lines:?}");
    }
}

#[test]
fn a_client_that_wants_no_replies_gets_no_line_at_a_fault() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT REPLY OFF", "INCR a", "GET b"]);
    bench.written(bench.lane());
    bench.say(client, &["SET c 1"]);
    bench.lose(bench.lane());
    bench.pass(ms(50));
    assert_eq!(bench.heard(client), "");
    assert_eq!(bench.multiplexer.counters().fates.uncertain, 2);
    assert_eq!(bench.written(bench.lane()), ["SET c 1"]);
    bench.reply(bench.lane(), "+OK\r\n");
    // Half of a reply that went nowhere is no reason to close.
    bench.say(client, &["GET big"]);
    bench.written(bench.lane());
    bench.reply(bench.lane(), &format!("${}\r\n{}", STREAM_BYTES * 2, "x".repeat(STREAM_BYTES + 1)));
    bench.lose(bench.lane());
    bench.pass(ms(50));
    assert_eq!(bench.closed, []);
    bench.say(client, &["CLIENT REPLY ON"]);
    bench.serve();
    assert_eq!(bench.heard(client), "+OK\r\n");
}

#[test]
fn a_skipped_reply_that_is_repeated_stays_skipped() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT REPLY SKIP", "GET a", "GET b"]);
    assert_eq!(bench.written(bench.lane()), ["GET a"]);
    bench.lose(bench.lane());
    bench.pass(ms(50));
    assert_eq!(bench.written(bench.lane()), ["GET a"]);
    bench.reply(bench.lane(), "$4\r\nlost\r\n");
    assert_eq!(bench.written(bench.lane()), ["GET b"]);
    bench.reply(bench.lane(), "$1\r\nb\r\n");
    assert_eq!(bench.heard(client), "$1\r\nb\r\n");
}

#[test]
fn client_reply_is_never_refused_for_want_of_a_backend() {
    let mut bench = Bench::new();
    bench.route(0, Phase::Cut { attempt: 1, to: BackendId(1) });
    let client = bench.client();
    bench
        .say(client, &["GET a", "CLIENT REPLY OFF", "GET b", "CLIENT REPLY SKIP", "GET c", "CLIENT REPLY ON", "GET d"]);
    for _ in 0..4 {
        bench.pass(ms(1600));
    }
    assert_eq!(first_words(&bench.heard(client)), ["-LOADING", "+OK", "-LOADING"]);
}

#[test]
fn client_reply_works_after_a_refused_watch() {
    let mut bench = Bench::new();
    bench.route(0, Phase::Cut { attempt: 1, to: BackendId(1) });
    let client = bench.client();
    bench.say(client, &["WATCH a"]);
    bench.pass(ms(1600));
    assert_eq!(first_words(&bench.heard(client)), ["-LOADING"]);
    bench.say(client, &["CLIENT REPLY OFF", "GET a", "CLIENT REPLY ON", "GET a"]);
    assert_eq!(first_words(&bench.heard(client)), ["+OK", "-ERR"]);
}

/// What was sent may have been applied: a client that repeats a whole burst after LOADING would do it twice.
#[test]
fn an_uncertain_reply_and_loading_never_stand_in_one_burst() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SET a 1", "SET b 1"]);
    bench.written(bench.lane());
    bench.say(client, &["GET c"]);
    bench.dials = false;
    bench.lose(bench.lane());
    for _ in 0..40 {
        bench.pass(ms(100));
    }
    assert_eq!(first_words(&bench.heard(client)), ["-UNCERTAIN", "-UNCERTAIN", "-UNAVAILABLE"]);
}

#[test]
fn the_forms_of_client_commands_are_those_of_redis() {
    let cases: &[(&str, &str)] = &[
        ("CLIENT KILL", "-ERR wrong number of arguments for 'client|kill' command\r\n"),
        ("CLIENT KILL 1.2.3.4:5", "-ERR No such client\r\n"),
        ("CLIENT KILL ID", "-ERR No such client\r\n"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0\r\n"),
        ("CLIENT KILL ID 07", "-ERR client-id should be greater than 0\r\n"),
        ("CLIENT KILL ID 99", ":0\r\n"),
        ("CLIENT KILL ID 7", ":0\r\n"),
        ("CLIENT KILL ID 1 ID", "-ERR syntax error\r\n"),
        ("CLIENT KILL TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT KILL TYPE Replica SKIPME no", ":0\r\n"),
        ("CLIENT KILL TYPE pubsub SKIPME no", ":0\r\n"),
        ("CLIENT KILL TYPE normal SKIPME no", ":1\r\n"),
        ("CLIENT KILL USER nobody", "-ERR No such user 'nobody'\r\n"),
        ("CLIENT KILL USER default SKIPME no", ":1\r\n"),
        ("CLIENT KILL SKIPME maybe", "-ERR syntax error\r\n"),
        ("CLIENT KILL FOO bar", "-ERR syntax error\r\n"),
        ("CLIENT KILL MAXAGE 0", "-ERR maxage should be greater than 0\r\n"),
        ("CLIENT KILL MAXAGE x", "-ERR maxage is not an integer or out of range\r\n"),
        ("CLIENT KILL MAXAGE 1 SKIPME no", ":0\r\n"),
        ("CLIENT UNBLOCK", "-ERR wrong number of arguments for 'client|unblock' command\r\n"),
        ("CLIENT UNBLOCK 7", ":0\r\n"),
        ("CLIENT UNBLOCK -1", ":0\r\n"),
        ("CLIENT UNBLOCK x", "-ERR value is not an integer or out of range\r\n"),
        ("CLIENT UNBLOCK x foo", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n"),
        (
            "CLIENT Unblock 1 error x",
            "-ERR unknown subcommand or wrong number of arguments for 'Unblock'. Try CLIENT HELP.\r\n",
        ),
        ("CLIENT PAUSE", "-ERR wrong number of arguments for 'client|pause' command\r\n"),
        ("CLIENT PAUSE 1.5", "-ERR timeout is not an integer or out of range\r\n"),
        ("CLIENT PAUSE -1", "-ERR timeout is negative\r\n"),
        ("CLIENT PAUSE x foo", "-ERR CLIENT PAUSE mode must be WRITE or ALL\r\n"),
        (
            "CLIENT PAUSE 1 write x",
            "-ERR unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP.\r\n",
        ),
        ("CLIENT PAUSE 9223372036854775807", "+OK\r\n"),
        ("CLIENT UNPAUSE", "+OK\r\n"),
        ("CLIENT UNPAUSE x", "-ERR wrong number of arguments for 'client|unpause' command\r\n"),
        ("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT LIST TYPE", "-ERR syntax error\r\n"),
        ("CLIENT LIST TYPE master", "$0\r\n\r\n"),
        ("CLIENT LIST ID", "-ERR syntax error\r\n"),
        ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n"),
        ("CLIENT LIST ID 0 -7", "$0\r\n\r\n"),
        ("CLIENT LIST FOO", "-ERR syntax error\r\n"),
        ("CLIENT MAINT_NOTIFICATIONS OFF", "+OK\r\n"),
        ("CLIENT MAINT_NOTIFICATIONS", "-ERR wrong number of arguments for 'client|maint_notifications' command\r\n"),
        (
            "CLIENT MAINT_NOTIFICATIONS ON",
            "-ERR handover: maintenance notifications are not sent through the proxy\r\n",
        ),
    ];
    for (line, expected) in cases {
        let mut bench = Bench::new();
        let client = bench.client();
        assert_eq!(bench.ask(client, line), *expected, "{line}");
    }
}

#[test]
fn client_list_and_kill_take_filters() {
    let mut bench = Bench::new();
    let clients: Vec<SessionKey> = (0..4).map(|_| bench.client()).collect();
    let ids = |list: String| -> Vec<String> {
        list.lines().filter_map(|line| Some(line.split(' ').next()?.strip_prefix("id=")?.to_owned())).collect()
    };
    assert_eq!(ids(bench.ask(clients[0], "CLIENT LIST")), ["7", "8", "9", "10"]);
    assert_eq!(ids(bench.ask(clients[0], "CLIENT LIST ID 10 8 99 10")), ["10", "8", "10"]);
    assert_eq!(ids(bench.ask(clients[0], "CLIENT LIST TYPE normal")), ["7", "8", "9", "10"]);
    bench.pass(ms(5000));
    let young = bench.client();
    assert_eq!(bench.ask(clients[0], "CLIENT KILL ID 8"), ":1\r\n");
    assert_eq!(bench.closed, [(clients[1], CloseReason::Killed)]);
    assert_eq!(bench.ask(clients[0], "CLIENT KILL MAXAGE 5"), ":2\r\n");
    assert_eq!(bench.multiplexer.clients(), 2);
    assert_eq!(bench.ask(young, "PING"), "+PONG\r\n");
    // Who kills itself has the answer first, and nothing that it sent behind that is looked at.
    bench.say(clients[0], &["CLIENT KILL ID 7 SKIPME no", "PING"]);
    assert_eq!(bench.heard(clients[0]), ":1\r\n");
    assert_eq!(bench.closed.last(), Some(&(clients[0], CloseReason::Killed)));
}

#[test]
fn a_killed_client_leaves_nothing_in_flight() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client(), bench.client());
    bench.say(other, &["GET a", "GET b"]);
    bench.written(bench.lane());
    assert_eq!(bench.ask(client, "CLIENT KILL ID 8"), ":1\r\n");
    bench.say(client, &["GET c"]);
    bench.written(bench.lane());
    bench.reply(bench.lane(), "$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
    assert_eq!(bench.heard(client), "$1\r\nc\r\n");
    assert_eq!(bench.multiplexer.in_flight(), 0);
}

#[test]
fn a_blocked_client_is_let_go_by_its_backend_or_by_us() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client(), bench.client());
    bench.say(client, &["BLPOP list 0"]);
    bench.written(bench.pin());
    bench.say(other, &["CLIENT UNBLOCK 7"]);
    assert_eq!(bench.unblocked, [42], "the backend is asked for the pin's own number");
    // At a planned switch such an end is the client's, not the switch's.
    bench.route(0, Phase::Hold { attempt: 1, to: BackendId(1), until: bench.now + ms(1000) });
    bench.pass(ms(5));
    bench.reply(bench.pin(), "*-1\r\n");
    assert_eq!(bench.heard(client), "*-1\r\n");
    // Between two backends it is armed nowhere: the answer is ours.
    bench.switch(0);
    for (line, expected) in [
        ("CLIENT UNBLOCK 7", "*-1\r\n"),
        ("CLIENT UNBLOCK 7 ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        bench.heard(other);
        bench.say(client, &["BLPOP list 0"]);
        bench.pass(ms(5));
        bench.written(bench.pin());
        bench.route(0, Phase::Cut { attempt: 2, to: BackendId(1) });
        assert_eq!(bench.ask(other, line), ":1\r\n");
        assert_eq!(bench.heard(client), expected);
        assert_eq!(bench.ask(other, line), ":0\r\n");
        bench.switch(0);
    }
}

#[test]
fn a_pause_holds_commands_back_and_lets_them_go_in_order() {
    let mut bench = Bench::new();
    let (client, other, writer) = (bench.client(), bench.client(), bench.client());
    assert_eq!(bench.ask(other, "CLIENT PAUSE 60000"), "+OK\r\n");
    bench.say(client, &["SET a 1", "GET a"]);
    assert_eq!(bench.ask(client, "PING"), "");
    bench.pass(ms(59_000));
    assert_eq!(bench.commands(bench.lane()), [] as [&str; 0]);
    assert_eq!(bench.heard(client), "", "the hold time stands still");
    bench.pass(ms(1000));
    assert_eq!(bench.commands(bench.lane()), ["SET a 1", "GET a"]);
    bench.reply(bench.lane(), "+OK\r\n$1\r\n1\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n$1\r\n1\r\n+PONG\r\n");
    // Of two pauses the stricter holds, for the longer time; UNPAUSE ends both.
    bench.ask(other, "CLIENT PAUSE 60000 WRITE");
    bench.say(client, &["GET a"]);
    bench.say(writer, &["GET b", "INCR a", "GET c"]);
    assert_eq!(bench.commands(bench.lane()), ["GET a", "GET b"]);
    bench.reply(bench.lane(), "$1\r\n1\r\n$1\r\nb\r\n");
    assert_eq!((bench.heard(client), bench.heard(writer)), ("$1\r\n1\r\n".to_owned(), "$1\r\nb\r\n".to_owned()));
    assert_eq!(bench.ask(other, "CLIENT PAUSE 10 ALL"), "+OK\r\n");
    bench.pass(ms(50_000));
    bench.say(client, &["GET a"]);
    assert_eq!(bench.commands(bench.lane()), [] as [&str; 0]);
    assert_eq!(bench.ask(other, "CLIENT UNPAUSE"), "+OK\r\n");
    assert_eq!(bench.commands(bench.lane()), ["INCR a", "GET c", "GET a"]);
}

#[test]
fn a_pause_for_writes_lets_a_transaction_of_reads_through() {
    for (line, goes) in [("GET a", true), ("SET a 1", false), ("PUBLISH a b", false), ("PFCOUNT a", false)] {
        let mut bench = Bench::new();
        let (client, other) = (bench.client(), bench.client());
        bench.ask(other, "CLIENT PAUSE 60000 WRITE");
        bench.say(client, &["MULTI", line, "EXEC"]);
        while bench.serve() {}
        let heard = bench.heard(client);
        assert_eq!(heard.contains("*1\r\n"), goes, "{line}: {heard}");
        bench.ask(other, "CLIENT UNPAUSE");
        while bench.serve() {}
        assert!(goes || bench.heard(client).contains("*1\r\n"), "{line}");
    }
}

/// Queued before the pause, so that EXEC alone has to wait.
#[test]
fn a_pause_for_writes_holds_the_exec_of_what_was_queued_before() {
    for (line, waits) in [("GET a", false), ("SET a 1", true)] {
        let mut bench = Bench::new();
        let (client, other) = (bench.client(), bench.client());
        bench.say(client, &["MULTI"]);
        bench.say(client, &[line]);
        while bench.serve() {}
        bench.ask(other, "CLIENT PAUSE 60000 WRITE");
        bench.say(client, &["EXEC"]);
        while bench.serve() {}
        assert_eq!(!bench.heard(client).contains("*1\r\n"), waits, "{line}");
    }
}

#[test]
fn what_a_fault_left_waits_for_the_end_of_a_pause() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client(), bench.client());
    bench.say(client, &["SET a 1"]);
    bench.written(bench.lane());
    bench.ask(other, "CLIENT PAUSE 60000 WRITE");
    bench.switch(1);
    bench.pass(ms(1800));
    assert_eq!(bench.commands(bench.lane()), [] as [&str; 0]);
    assert_eq!(bench.heard(client), "");
    bench.ask(other, "CLIENT UNPAUSE");
    assert_eq!(bench.commands(bench.lane()), ["SET a 1"]);
}
