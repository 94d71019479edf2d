//! What a session keeps on its connection moves with it; and WAIT, which must not.

use super::*;

const FORGET_ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

#[test]
fn tracking_is_set_up_before_anything_else_on_the_next_connection() {
    // What was asked for, and what sets the same up.
    let cases: &[(&[&str], &[&str])] = &[
        (&["CLIENT TRACKING ON"], &["CLIENT TRACKING ON"]),
        (
            &["CLIENT TRACKING on noloop optin", "CLIENT CACHING yes"],
            &["CLIENT TRACKING ON OPTIN NOLOOP", "CLIENT CACHING YES"],
        ),
        (&["CLIENT TRACKING ON OPTOUT", "CLIENT CACHING NO"], &["CLIENT TRACKING ON OPTOUT"]),
        (&["CLIENT TRACKING ON BCAST PREFIX b PREFIX a"], &["CLIENT TRACKING ON BCAST PREFIX a PREFIX b"]),
        (
            &["CLIENT TRACKING ON BCAST PREFIX b", "CLIENT TRACKING ON BCAST"],
            &["CLIENT TRACKING ON BCAST PREFIX b", "CLIENT TRACKING ON BCAST"],
        ),
        (&["CLIENT TRACKING ON BCAST", "CLIENT TRACKING OFF", "CLIENT TRACKING ON"], &["CLIENT TRACKING ON"]),
        (&["CLIENT NO-TOUCH ON", "CLIENT TRACKING ON"], &["CLIENT TRACKING ON", "CLIENT NO-TOUCH ON"]),
    ];
    for (asked, set_up) in cases {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.ask(client, "HELLO 3");
        for line in *asked {
            bench.say(client, &[line]);
            let pin = bench.pin();
            assert_eq!(bench.written(pin), [*line]);
            bench.reply(pin, "+OK\r\n");
            assert_eq!(bench.heard(client), "+OK\r\n", "{asked:?}");
        }
        bench.say(client, &["GET k"]);
        let pin = bench.pin();
        bench.written(pin);
        bench.switch(1);
        assert_eq!(bench.heard(client), FORGET_ALL, "{asked:?}");
        let pin = bench.pin();
        assert_eq!(bench.written(pin), [*set_up, &["GET k"]].concat(), "{asked:?}");
        bench.reply(pin, &"+OK\r\n".repeat(set_up.len()));
        bench.reply(pin, "$1\r\nv\r\n");
        assert_eq!(bench.heard(client), "$1\r\nv\r\n", "{asked:?}");
    }
}

#[test]
fn a_client_that_cannot_track_on_the_new_active_is_let_go() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT TRACKING ON"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.switch(1);
    bench.say(client, &["GET k"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "-NOPERM no\r\n$1\r\nv\r\n");
    assert_eq!(bench.closed, [(client, CloseReason::StateLost)]);
}

#[test]
fn a_session_that_tracks_never_returns_to_a_lane_for_want_of_a_backend() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT TRACKING ON"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    bench.heard(client);
    bench.dials = false;
    bench.lose(pin);
    bench.say(client, &["GET k"]);
    bench.pass(ms(1600));
    assert!(bench.heard(client).starts_with('-'));
    bench.dials = true;
    bench.say(client, &["GET k"]);
    bench.pass(ms(10));
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["CLIENT TRACKING ON", "GET k"]);
}

#[test]
fn a_wait_is_preceded_by_a_publish_that_must_be_accepted() {
    let cases = [(":0\r\n:2\r\n", ":2"), ("-NOPERM no\r\n:2\r\n", "-ERR")];
    for (replies, heard) in cases {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["SET k v", "WAIT 2 0"]);
        let lane = bench.lane();
        assert_eq!(bench.written(lane), ["SET k v"]);
        bench.reply(lane, "+OK\r\n");
        assert_eq!(bench.heard(client), "+OK\r\n");
        let pin = bench.pin();
        assert_eq!(bench.written(pin), ["PUBLISH handover:wait ", "WAIT 2 0"]);
        bench.reply(pin, replies);
        assert_eq!(first_words(&bench.heard(client)), [heard]);
    }
}

#[test]
fn a_wait_speaks_of_no_writes_that_may_stand_elsewhere() {
    type Fault = fn(&mut Bench, LinkKey);
    let faults: [Fault; 2] = [|bench, _| bench.switch(1), Bench::lose];
    for fault in faults {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["SET k v"]);
        let lane = bench.lane();
        bench.written(lane);
        bench.reply(lane, "+OK\r\n");
        bench.heard(client);
        fault(&mut bench, lane);
        bench.pass(ms(30));
        bench.say(client, &["WAIT 1 0"]);
        assert_eq!(first_words(&bench.heard(client)), ["-ERR"]);
        // The next burst.
        bench.say(client, &["WAIT 1 0"]);
        let pin = bench.pin();
        assert_eq!(bench.written(pin).last().map(String::as_str), Some("WAIT 1 0"));
        bench.lose(pin);
        assert_eq!(first_words(&bench.heard(client)), ["-UNCERTAIN"]);
    }
}
