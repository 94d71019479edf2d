//! What a client holds when its connection is lost: an open transaction, and replies that are kept back from it.

use super::*;
use crate::logic::multiplexer::backpressure::CROWDED_READ_BYTES;

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
const QUEUED: &str = "+QUEUED\r\n";

/// How the pin of a transaction is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Forced,
    Planned,
    Connection,
}

const LOSSES: [Loss; 3] = [Loss::Forced, Loss::Planned, Loss::Connection];

fn lose_pin(bench: &mut Bench, loss: Loss) {
    match loss {
        Loss::Forced => {
            bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 });
            bench.switch(1);
        }
        Loss::Planned => {
            let until = bench.now + ms(1000);
            bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
            bench.switch(1);
        }
        Loss::Connection => {
            let pin = bench.pin();
            bench.lose(pin);
        }
    }
}

/// A client that has queued these commands, each answered by QUEUED.
fn queuing(bench: &mut Bench, commands: &[&str]) -> SessionKey {
    let client = bench.client();
    bench.say(client, &["MULTI"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    for command in commands {
        bench.say(client, &[command]);
        assert_eq!(bench.written(pin), [*command]);
        bench.reply(pin, QUEUED);
    }
    let heard = bench.heard(client);
    assert_eq!(heard, format!("+OK\r\n{}", QUEUED.repeat(commands.len())));
    client
}

#[test]
fn a_transaction_in_pieces_is_replayed() {
    for loss in LOSSES {
        let mut bench = Bench::new();
        let client = queuing(&mut bench, &["SET a 1", "INCR b"]);
        let old = bench.pin();
        lose_pin(&mut bench, loss);
        bench.say(client, &["APPEND c x", "EXEC"]);
        let pin = bench.pin();
        assert_ne!(old, pin, "{loss:?}");
        // Nothing before MULTI was accepted, and EXEC only behind replies that are the old ones.
        assert_eq!(bench.written(pin), ["MULTI"], "{loss:?}");
        bench.reply(pin, "+OK\r\n");
        assert_eq!(bench.written(pin), ["SET a 1", "INCR b"]);
        bench.reply(pin, QUEUED);
        assert_eq!(bench.written(pin), Vec::<String>::new());
        bench.reply(pin, QUEUED);
        assert_eq!(bench.heard(client), "");
        assert_eq!(bench.written(pin), ["APPEND c x", "EXEC"]);
        bench.reply(pin, "+QUEUED\r\n*3\r\n+OK\r\n:1\r\n:1\r\n");
        assert_eq!(bench.heard(client), "+QUEUED\r\n*3\r\n+OK\r\n:1\r\n:1\r\n", "{loss:?}");
        assert_eq!(bench.multiplexer.in_flight(), 0);
    }
}

#[test]
fn what_was_queued_without_a_reply_is_part_of_the_replay() {
    // With EXEC unsent, and without one.
    for (is_exec_read, heard) in [(true, "+QUEUED\r\n*2\r\n+OK\r\n:1\r\n"), (false, QUEUED)] {
        let mut bench = Bench::new();
        let client = queuing(&mut bench, &["SET a 1"]);
        let old = bench.pin();
        bench.say(client, &["INCR b"]);
        assert_eq!(bench.written(old), ["INCR b"]);
        if is_exec_read {
            // Put on the connection, and not a byte of it written.
            bench.say(client, &["EXEC"]);
        }
        bench.switch(1);
        let pin = bench.pin();
        assert_eq!(bench.written(pin), ["MULTI"]);
        bench.reply(pin, "+OK\r\n");
        assert_eq!(bench.written(pin), ["SET a 1"]);
        bench.reply(pin, QUEUED);
        let rest = if is_exec_read { &["INCR b", "EXEC"][..] } else { &["INCR b"] };
        assert_eq!(bench.written(pin), rest);
        bench.reply(pin, heard);
        assert_eq!(bench.heard(client), heard);
        let fates = bench.multiplexer.counters().fates;
        assert_eq!((fates.repeated, fates.moved), (1, u64::from(is_exec_read)));
    }
}

#[test]
fn a_transaction_that_cannot_be_replayed_is_aborted() {
    type Break = fn(&mut Bench, LinkKey);
    let cases: &[(&str, Break)] = &[
        ("MULTI is refused", |bench, pin| bench.reply(pin, "-NOPERM no\r\n")),
        ("a command is refused", |bench, pin| {
            bench.reply(pin, "+OK\r\n");
            assert_eq!(bench.written(pin), ["SET a 1", "INCR b"]);
            bench.reply(pin, "+QUEUED\r\n-OOM no\r\n");
        }),
        ("no reply in time", |bench, _| bench.pass(ms(1600))),
        ("connections are lost again and again", |bench, _| {
            bench.dials = false;
            let pin = bench.pin();
            bench.lose(pin);
            for _ in 0..20 {
                bench.pass(ms(100));
            }
        }),
    ];
    for (name, break_it) in cases {
        let mut bench = Bench::new();
        let client = queuing(&mut bench, &["SET a 1", "INCR b"]);
        bench.switch(1);
        bench.say(client, &["SET c 1"]);
        let pin = bench.pin();
        assert_eq!(bench.written(pin), ["MULTI"], "{name}");
        break_it(&mut bench, pin);
        assert_eq!(bench.heard(client), QUEUED, "{name}");
        assert!(!bench.links.iter().any(|(link, _)| *link == pin), "{name}: its connection holds a transaction");
        assert_eq!(first_words(&bench.ask(client, "EXEC")), ["-EXECABORT"], "{name}");
        assert_eq!(bench.multiplexer.in_flight(), 0);
    }
}

#[test]
fn a_transaction_behind_watch_is_broken_by_a_switch() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["WATCH k"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.say(client, &["MULTI"]);
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.heard(client);
    bench.say(client, &["SET a 1", "SET b 1"]);
    bench.written(pin);
    bench.switch(1);
    bench.say(client, &["SET c 1", "EXEC"]);
    assert_eq!(first_words(&bench.heard(client)), ["+QUEUED", "+QUEUED", "+QUEUED", "*-1"]);
    assert_eq!(bench.multiplexer.in_flight(), 0);
}

#[test]
fn an_error_in_the_queue_must_come_again() {
    let wrong = "-ERR wrong number of arguments for 'set' command\r\n";
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &["SET a 1"]);
    let pin = bench.pin();
    bench.say(client, &["SET b"]);
    bench.written(pin);
    bench.reply(pin, wrong);
    assert_eq!(bench.heard(client), wrong);
    bench.switch(1);
    bench.say(client, &["EXEC"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["SET a 1", "SET b"]);
    bench.reply(pin, &format!("{QUEUED}{wrong}"));
    assert_eq!(bench.written(pin), ["EXEC"]);
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    bench.reply(pin, aborted);
    assert_eq!(bench.heard(client), aborted);
}

#[test]
fn an_exec_that_was_sent_is_never_sent_again() {
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &["INCR a"]);
    let pin = bench.pin();
    bench.say(client, &["EXEC"]);
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.switch(1);
    assert_eq!(first_words(&bench.heard(client)), ["-UNCERTAIN"]);
    assert!(!bench.links.iter().any(|(_, dial)| matches!(dial.role, Role::Pin(_))));
}

#[test]
fn a_replay_that_is_lost_begins_anew() {
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &["INCR a"]);
    bench.switch(1);
    bench.say(client, &["EXEC"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["INCR a"]);
    bench.switch(0);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["INCR a"]);
    bench.reply(pin, QUEUED);
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.reply(pin, "*1\r\n:1\r\n");
    assert_eq!(bench.heard(client), "*1\r\n:1\r\n");
}

#[test]
fn discard_after_a_switch_ends_the_transaction() {
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &["INCR a"]);
    bench.switch(1);
    bench.say(client, &["DISCARD"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.written(pin);
    bench.reply(pin, QUEUED);
    assert_eq!(bench.written(pin), ["DISCARD"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n");
}

#[test]
fn a_select_in_a_replayed_transaction_counts_once_exec_has_run() {
    let mut bench = Bench::new();
    // A nested MULTI is refused and takes no place in EXEC's array.
    let client = queuing(&mut bench, &[]);
    let pin = bench.pin();
    let nested = "-ERR MULTI calls can not be nested\r\n";
    bench.say(client, &["MULTI", "SELECT 3"]);
    bench.written(pin);
    bench.reply(pin, &format!("{nested}{QUEUED}"));
    bench.heard(client);
    bench.switch(1);
    bench.say(client, &["EXEC"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["MULTI", "SELECT 3"]);
    bench.reply(pin, &format!("{nested}{QUEUED}"));
    bench.written(pin);
    bench.reply(pin, "*1\r\n+OK\r\n");
    assert_eq!(bench.heard(client), "*1\r\n+OK\r\n");
    bench.pass(ms(10));
    bench.pass(ms(60));
    bench.say(client, &["GET a"]);
    assert!(bench.links.iter().any(|(_, dial)| dial.role == Role::Lane && dial.profile.database == Some(3)));
}

#[test]
fn what_is_due_in_a_transaction_that_reset_has_ended_never_runs_outside_of_it() {
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &[]);
    let pin = bench.pin();
    bench.say(client, &["SET a 1", "RESET"]);
    bench.written(pin);
    bench.lose(pin);
    // RESET waits for its reply, so that the transaction is open still.
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["SET a 1"]);
    bench.reply(pin, QUEUED);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), Vec::<String>::new());
    assert_eq!(first_words(&bench.heard(client)), ["+QUEUED", "+RESET"]);
}

#[test]
fn a_transaction_too_large_to_be_kept_is_aborted() {
    let mut bench = Bench::with(Settings {
        limits: LimitSettings { held_bytes_max: 100, ..settings(RetryCeiling::WriteLastWins).limits },
        ..settings(RetryCeiling::WriteLastWins)
    });
    let value = "x".repeat(60);
    let client = queuing(&mut bench, &[&format!("SET a {value}")]);
    bench.switch(1);
    bench.say(client, &["EXEC"]);
    assert_eq!(first_words(&bench.heard(client)), ["-EXECABORT"]);
}

#[test]
fn a_client_that_said_goodbye_gets_no_replay() {
    let mut bench = Bench::new();
    let client = queuing(&mut bench, &["SET a 1"]);
    let pin = bench.pin();
    bench.say(client, &["INCR b", "EXEC"]);
    assert_eq!(bench.multiplexer.link_output(pin, bench.now).len(), frame("INCR b").len() + frame("EXEC").len());
    bench.multiplexer.on_client_end(client, bench.now);
    bench.switch(1);
    assert_eq!(first_words(&bench.heard(client)), ["+QUEUED", "-EXECABORT"]);
}

#[test]
fn a_whole_transaction_waits_for_multi_where_it_may_be_refused() {
    let mut bench = Bench::new();
    bench.takes_groups = false;
    bench.switch(1);
    let client = bench.client();
    bench.say(client, &["MULTI", "SET a 1", "EXEC"]);
    let (lane, pin) = (bench.lane(), bench.pin());
    assert_eq!(bench.written(lane), Vec::<String>::new());
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "-NOPERM no\r\n");
    assert_eq!(first_words(&bench.heard(client)), ["-NOPERM", "-ERR", "-EXECABORT"]);

    // One that was judged never goes there either.
    for (written, end) in [(false, "-EXECABORT"), (true, "-UNCERTAIN")] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["MULTI", "SET a 1", "EXEC"]);
        let lane = bench.lane();
        if written {
            bench.written(lane);
        }
        bench.takes_groups = false;
        bench.switch(1);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), Vec::<String>::new());
        assert_eq!(first_words(&bench.heard(client)), ["+OK", "+QUEUED", end]);
    }
}

/// A pipeline on the lane, written and answered so by a backend that cannot serve.
fn refused(lines: &[&str], replies: &str) -> (Bench, SessionKey) {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, lines);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), lines);
    bench.reply(lane, replies);
    (bench, client)
}

#[test]
fn a_pipeline_that_was_refused_runs_on_the_new_active() {
    let lines = ["INCR a", "SET b 1", "GET b", "INCR a", "PING"];
    let (mut bench, client) = refused(&lines[..4], &format!("{READONLY}{READONLY}$3\r\nold\r\n{READONLY}"));
    assert_eq!(bench.heard(client), "");
    assert_eq!(bench.multiplexer.in_flight(), 0);
    bench.say(client, &["GET c"]);
    bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 });
    bench.switch(1);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["INCR a", "SET b 1", "GET b", "INCR a", "GET c"]);
    bench.reply(lane, ":1\r\n+OK\r\n$1\r\n1\r\n:2\r\n$-1\r\n");
    assert_eq!(bench.heard(client), ":1\r\n+OK\r\n$1\r\n1\r\n:2\r\n$-1\r\n");
    let counters = bench.multiplexer.counters();
    assert_eq!((counters.replies_shared, counters.errors_shared), (5, 0));
    assert_eq!(bench.multiplexer.counters().fates.moved, 3);
    assert_eq!(bench.multiplexer.counters().fates.repeated, 1);
}

#[test]
fn replies_that_are_kept_back_are_passed_on_when_not_all_can_be_repeated() {
    // What stands behind the refused one, its reply, and whether all are repeated.
    let cases: &[(&str, &str, bool)] = &[
        ("GET b", "$1\r\nx\r\n", true),
        ("SET b 1", "+OK\r\n", true),
        ("INCR b", ":1\r\n", false),
        ("PING", "", true),
    ];
    for (line, reply, is_repeated) in cases {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["INCR a", line]);
        let lane = bench.lane();
        bench.written(lane);
        bench.reply(lane, &format!("{READONLY}{reply}"));
        assert_eq!(bench.heard(client), "", "{line}");
        bench.switch(1);
        let lane = bench.lane();
        let written = bench.written(lane);
        let heard = bench.heard(client);
        if *is_repeated {
            assert_eq!(written[0], "INCR a", "{line}");
            assert_eq!(heard, "", "{line}");
            assert!(written.len() == 2 || reply.is_empty(), "{line}");
        } else {
            assert_eq!(written, Vec::<String>::new(), "{line}");
            assert_eq!(heard, format!("{READONLY}{reply}"), "{line}");
        }
    }
}

#[test]
fn what_is_lost_behind_a_reply_kept_back_is_judged_with_it() {
    // Sent behind it without a reply, and whether all are repeated.
    for (line, is_repeated) in [("GET b", true), ("SET b 1", true), ("INCR b", false)] {
        let (mut bench, client) = refused(&["INCR a", line], READONLY);
        assert_eq!(bench.heard(client), "");
        bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 });
        bench.switch(1);
        let lane = bench.lane();
        if is_repeated {
            assert_eq!(bench.written(lane), ["INCR a", line]);
            bench.reply(lane, ":1\r\n+OK\r\n");
            assert_eq!(bench.heard(client), ":1\r\n+OK\r\n");
        } else {
            assert_eq!(bench.written(lane), Vec::<String>::new());
            assert_eq!(first_words(&bench.heard(client)), ["-READONLY", "-UNCERTAIN"]);
        }
        assert_eq!(bench.multiplexer.in_flight(), 0);
        let judged = bench.reports.iter().find_map(|report| match report {
            Report::Activated { epoch: 2, judged } => Some(judged.total()),
            _ => None,
        });
        assert_eq!(judged, Some(if is_repeated { 2 } else { 1 }), "{line}");
    }
}

#[test]
fn replies_kept_back_are_passed_on_in_order_when_no_verdict_helps() {
    type Settle = fn(&mut Bench);
    let cases: &[(&str, Settle)] = &[
        ("acquitted", |bench| {
            let route = Route { acquittals: 1, ..bench.multiplexer.route().clone() };
            bench.multiplexer.on_route(route, bench.now);
            bench.settle();
        }),
        ("no verdict in time", |bench| bench.pass(ms(1600))),
    ];
    for (name, settle) in cases {
        let (mut bench, client) = refused(&["INCR a", "GET b", "INCR c"], &format!("{READONLY}$1\r\nb\r\n"));
        bench.say(client, &["GET d"]);
        assert_eq!(bench.heard(client), "", "{name}");
        settle(&mut bench);
        assert_eq!(bench.heard(client), format!("{READONLY}$1\r\nb\r\n"), "{name}");
        let counters = bench.multiplexer.counters();
        assert_eq!((counters.replies_shared, counters.errors_shared), (2, 1), "{name}");
        // What is still due follows as ever.
        let lane = bench.lane();
        bench.reply(lane, ":1\r\n");
        assert_eq!(bench.heard(client), ":1\r\n", "{name}");
        assert!(bench.written(lane).contains(&"GET d".to_owned()), "{name}");
    }
}

#[test]
fn replies_of_our_own_keep_their_place_behind_one_kept_back() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["INCR a", "PING", "INCR a"]);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["INCR a", "INCR a"]);
    bench.reply(lane, &format!("{READONLY}{READONLY}"));
    assert_eq!(bench.heard(client), "");
    bench.switch(1);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, ":1\r\n");
    bench.written(lane);
    bench.reply(lane, ":2\r\n");
    assert_eq!(bench.heard(client), ":1\r\n+PONG\r\n:2\r\n");
}

#[test]
fn too_much_is_not_kept_back() {
    let value = "x".repeat(40_000);
    let mut lines = vec!["INCR a".to_owned()];
    lines.extend((0..7).map(|_| format!("SET b {value}")));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (mut bench, client) = refused(&lines, &READONLY.repeat(8));
    assert_eq!(bench.heard(client), READONLY.repeat(8));
    bench.switch(1);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), Vec::<String>::new());
}

#[test]
fn a_whole_transaction_that_was_refused_runs_on_the_new_active() {
    let lines = ["MULTI", "SET a 1", "INCR b", "EXEC"];
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    for is_lost in [false, true] {
        let rest = if is_lost { String::new() } else { format!("{READONLY}{aborted}") };
        let (mut bench, client) = refused(&lines, &format!("+OK\r\n{READONLY}{rest}"));
        // The client has MULTI's reply already.
        assert_eq!(bench.heard(client), "+OK\r\n");
        bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 });
        bench.switch(1);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), lines, "{is_lost}");
        bench.reply(lane, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n");
        assert_eq!(bench.heard(client), "+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n", "{is_lost}");
        assert_eq!(bench.multiplexer.in_flight(), 0);
    }

    // Two in one write: the second is kept back whole.
    let (mut bench, client) = refused(&lines.repeat(2), &format!("+OK\r\n{READONLY}{READONLY}{aborted}").repeat(2));
    assert_eq!(bench.heard(client), "+OK\r\n");
    bench.switch(1);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), lines.repeat(2));
    let good = "+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n:1\r\n";
    bench.reply(lane, &format!("+OK\r\n{good}+OK\r\n{good}"));
    assert_eq!(bench.heard(client), format!("{good}+OK\r\n{good}"));

    // Lost once more on the way: it cannot be told any more.
    let (mut bench, client) = refused(&lines, &format!("+OK\r\n{READONLY}{READONLY}{aborted}"));
    bench.heard(client);
    bench.switch(1);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, "+OK\r\n");
    bench.switch(0);
    assert_eq!(first_words(&bench.heard(client)), ["+QUEUED", "+QUEUED", "-UNCERTAIN"]);
    assert_eq!(bench.multiplexer.in_flight(), 0);
}

/// Other clients on the same lane are served as ever.
#[test]
fn a_neighbour_of_one_that_waits_for_a_verdict_is_served() {
    let mut bench = Bench::new();
    let (waits, other) = (bench.client(), bench.client());
    bench.say(waits, &["INCR a", "GET a"]);
    bench.say(other, &["GET b"]);
    bench.say(waits, &[]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, &format!("{READONLY}$1\r\na\r\n$1\r\nb\r\n"));
    assert_eq!(bench.heard(other), "$1\r\nb\r\n");
    assert_eq!(bench.heard(waits), "");
    bench.multiplexer.on_client_lost(waits, CloseReason::ClientLost);
    bench.switch(1);
    assert_eq!(bench.multiplexer.in_flight(), 0);
}

/// What comes behind MULTI waits for its reply, whatever else was waited for meanwhile.
#[test]
fn a_verdict_does_not_end_the_wait_for_multi() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["EVAL x 0"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, ":1\r\n");
    bench.say(client, &["SET a 1", "MULTI", "SET b 1"]);
    assert_eq!(bench.written(pin), ["SET a 1", "MULTI"]);
    bench.reply(pin, READONLY);
    let route = Route { acquittals: 1, ..bench.multiplexer.route().clone() };
    bench.multiplexer.on_route(route, bench.now);
    assert_eq!(bench.heard(client), format!(":1\r\n{READONLY}"));
    assert_eq!(bench.written(pin), Vec::<String>::new());
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["SET b 1"]);
    bench.reply(pin, QUEUED);
    assert_eq!(bench.heard(client), format!("+OK\r\n{QUEUED}"));
}

/// Each of them may be read once before anybody knows that its bytes must wait.
#[test]
fn many_clients_that_come_at_once_do_not_hold_much_together() {
    const READ_BYTES: usize = 64 * 1024;
    let mut bench = Bench::new();
    let until = bench.now + ms(1000);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
    let burst = frame("SET a 1").repeat(2 * READ_BYTES / frame("SET a 1").len());
    let clients: Vec<_> = (0..100).map(|_| bench.client()).collect();
    for &client in &clients {
        let mut rest = &burst[..];
        while !rest.is_empty() && bench.multiplexer.wants_client_bytes(client) {
            let (read, later) = rest.split_at(bench.multiplexer.client_read_bytes(client, READ_BYTES).min(rest.len()));
            bench.multiplexer.on_client_bytes(client, read, bench.now);
            rest = later;
        }
    }
    let held: usize = bench.multiplexer.sessions.iter().map(|(_, session)| session.input.len()).sum();
    let expected = (1 << 20) + 2 * READ_BYTES + clients.len() * CROWDED_READ_BYTES;
    assert!(held > 1 << 20 && held <= expected, "{held} bytes are held");
    assert!(!bench.multiplexer.wants_client_bytes(clients[99]));
}
