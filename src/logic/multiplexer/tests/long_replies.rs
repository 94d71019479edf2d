//! Replies too long to be kept: passed on in pieces to whoever asked, and to nobody else.

use super::session::Transaction;
use super::*;

/// Sends bytes of a backend in reads of so many bytes.
fn reply_in_reads(bench: &mut Bench, link: LinkKey, bytes: &str, read_bytes: usize) {
    for read in bytes.as_bytes().chunks(read_bytes) {
        bench.multiplexer.on_link_bytes(link, read, bench.now);
    }
    bench.settle();
}

fn bulk(bytes: usize) -> String {
    format!("${bytes}\r\n{}\r\n", "x".repeat(bytes))
}

/// A client with MULTI and these commands queued on its pin.
fn queuing(bench: &mut Bench, commands: &[&str]) -> (SessionKey, LinkKey) {
    let client = bench.client();
    bench.say(client, &["MULTI"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, "+OK\r\n");
    for command in commands {
        bench.say(client, &[command]);
        bench.written(pin);
        bench.reply(pin, "+QUEUED\r\n");
    }
    bench.heard(client);
    bench.say(client, &["EXEC"]);
    bench.written(pin);
    (client, pin)
}

#[test]
fn what_must_be_whole_is_not_moved_with_each_read() {
    let elements = format!("*{}\r\n{}", 100_000, "$1\r\nx\r\n".repeat(100_000));
    let message = format!(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n{}", bulk(1 << 20));
    let invalidated = format!(">2\r\n$10\r\ninvalidate\r\n{elements}");
    for (line, frame, read_bytes) in [("HELLO 3", message, 4096), ("CLIENT TRACKING ON", invalidated, 1000)] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &["HELLO 3", line, "SUBSCRIBE c"]);
        while bench.serve() {}
        let link = match line {
            "HELLO 3" => bench.last(|role| matches!(role, Role::Subscription(_))),
            _ => bench.pin(),
        };
        bench.reply(link, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        bench.heard(client);
        let mut sizes = std::collections::BTreeSet::new();
        for read in frame.as_bytes().chunks(read_bytes) {
            bench.multiplexer.on_link_bytes(link, read, bench.now);
            sizes.extend(bench.multiplexer.links.get(link).map(Link::memory_bytes));
        }
        bench.settle();
        assert!(bench.heard(client) == frame, "{line}: another frame");
        assert!(sizes.len() < 30, "{line}: moved {} times in {} reads", sizes.len(), frame.len() / read_bytes);
    }
}

#[test]
fn exec_behind_select_is_passed_on_as_it_comes() {
    let refused = "-ERR DB index is out of range\r\n";
    // What the two SELECTs are answered, and the database after that.
    let cases: &[(&str, &str, Option<u32>)] = &[
        ("+OK\r\n", "+OK\r\n", Some(5)),
        ("+OK\r\n", refused, Some(3)),
        (refused, "+OK\r\n", Some(5)),
        (refused, refused, None),
    ];
    for (first, second, database) in cases {
        for read_bytes in [1, 7, 1000, 70_000, usize::MAX] {
            let mut bench = Bench::new();
            let (client, pin) = queuing(&mut bench, &["GET a", "SELECT 3", "LRANGE l 0 -1", "SELECT 5", "GET a"]);
            let list = format!("*3\r\n+OK\r\n{}+OK\r\n", bulk(10));
            let begun = format!("*5\r\n{}", &bulk(STREAM_BYTES * 2)[..STREAM_BYTES + 100]);
            let rest = &bulk(STREAM_BYTES * 2)[STREAM_BYTES + 100..];
            reply_in_reads(&mut bench, pin, &begun, read_bytes);
            assert_eq!(bench.multiplexer.client_output(client).len(), begun.len(), "kept");
            let rest = format!("{rest}{first}{list}{second}{}", bulk(3));
            reply_in_reads(&mut bench, pin, &rest, read_bytes);
            assert!(bench.heard(client) == format!("{begun}{rest}"), "another reply");
            let session = bench.multiplexer.sessions.get(client).unwrap();
            assert_eq!(session.profile.database, *database, "{first}{second} in reads of {read_bytes}");
            assert_eq!(session.transaction, Transaction::None);
        }
    }
}

#[test]
fn the_end_of_a_long_exec_is_no_error_of_its_own() {
    let mut bench = Bench::new();
    let (client, pin) = queuing(&mut bench, &["GET a", "INCR a"]);
    bench.reply(pin, &format!("*2\r\n{}", bulk(STREAM_BYTES * 2)));
    bench.reply(pin, "-ERR wrong number of something\r\n");
    assert_eq!(bench.multiplexer.sessions.get(client).unwrap().transaction, Transaction::None);
}

#[test]
fn the_end_of_a_long_reply_to_a_blocking_command_is_no_nil_of_its_own() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["XREAD BLOCK 0 STREAMS s $"]);
    let pin = bench.pin();
    bench.written(pin);
    let until = bench.now + ms(1000);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
    let begun = format!("*2\r\n{}", bulk(STREAM_BYTES * 2));
    bench.reply(pin, &begun);
    bench.reply(pin, "$-1\r\n");
    bench.switch(1);
    assert!(bench.heard(client) == format!("{begun}$-1\r\n"));
    assert!(!bench.links.iter().any(|(_, dial)| matches!(dial.role, Role::Pin(_))), "it waits again");
}

#[test]
fn a_long_push_on_a_lane_is_nobodys() {
    for protocol in ["HELLO 2", "HELLO 3"] {
        let mut bench = Bench::new();
        let client = bench.client();
        bench.say(client, &[protocol, "GET a"]);
        while bench.serve() {}
        bench.heard(client);
        bench.say(client, &["GET a", "GET b"]);
        let lane = bench.lane();
        bench.written(lane);
        let attribute = format!("|1\r\n+a\r\n{}", bulk(STREAM_BYTES * 2));
        let push = format!(">2\r\n+inv\r\n{}", bulk(STREAM_BYTES * 3));
        for frame in [push.clone(), format!("{attribute}{push}"), format!("$1\r\na\r\n{push}")] {
            reply_in_reads(&mut bench, lane, &frame, 10_000);
        }
        bench.reply(lane, "$1\r\nb\r\n");
        assert_eq!(bench.heard(client), "$1\r\na\r\n$1\r\nb\r\n", "{protocol}");
    }
}

#[test]
fn a_long_reply_to_what_was_not_written_is_passed_to_nobody() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["GET a"]);
    let lane = bench.lane();
    bench.multiplexer.on_link_written(lane, frame("GET a").len() - 1, bench.now);
    let reply = bulk(STREAM_BYTES * 2);
    reply_in_reads(&mut bench, lane, &reply[..STREAM_BYTES + 10], 10_000);
    assert_eq!(bench.multiplexer.client_output(client), b"");
    bench.reply(lane, &reply[STREAM_BYTES + 10..]);
    assert!(!bench.links.iter().any(|(link, _)| *link == lane));
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["GET a"]);
    bench.reply(lane, "$1\r\na\r\n");
    assert_eq!(bench.heard(client), "$1\r\na\r\n");
}

/// Lets a backend say more than anybody asked for, and tells how much of it was kept at most.
fn flood(bench: &mut Bench, link: LinkKey, start: &str) -> usize {
    bench.reply(link, start);
    let (read, mut kept) = ("x".repeat(64 * 1024), 0);
    for _ in 0..1024 {
        bench.reply(link, &read);
        match bench.multiplexer.links.get(link) {
            Some(link) => kept = kept.max(link.memory_bytes()),
            None => return kept,
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn an_endless_reply_to_ones_own_request_ends_its_connection() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client(), bench.client());
    bench.say(client, &["GET a"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, "$1\r\na\r\n");
    bench.heard(client);
    bench.pass(ms(5000));
    assert!(bench.written(lane).iter().any(|request| request.starts_with("ECHO")), "no sentinel");
    let kept = flood(&mut bench, lane, "$2000000000\r\n");
    assert!(kept < 4 << 20, "{kept} bytes");
    // What stands in the sentinel's place was somebody's: who was served since the last one may have another's.
    assert_eq!(bench.closed, [(client, CloseReason::OutOfStep)]);
    assert_eq!(bench.multiplexer.counters().protocol_faults[ProtocolFault::BackendFrame as usize], 1);
    assert_eq!(bench.ask(other, "PING"), "+PONG\r\n");
}

#[test]
fn an_endless_push_ends_its_connection() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["GET a"]);
    let lane = bench.lane();
    bench.written(lane);
    let kept = flood(&mut bench, lane, ">2\r\n+inv\r\n$2000000000\r\n");
    assert!(kept < 4 << 20, "{kept} bytes");
    assert_eq!(bench.multiplexer.counters().protocol_faults[ProtocolFault::BackendFrame as usize], 1);
    assert_eq!(bench.closed, []);
    assert_eq!(bench.heard(client), "");
    assert_eq!(bench.written(bench.lane()), ["GET a"]);
}
