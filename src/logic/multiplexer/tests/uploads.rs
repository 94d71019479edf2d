//! Large requests: passed on as they come, never repeated, and never in anybody's way.

use super::*;
use crate::logic::multiplexer::backpressure::PASSING_BYTES_MAX;
use crate::logic::multiplexer::link::{Run, RunKind};

const MIB: usize = 1 << 20;
const READ_BYTES: usize = 64 * 1024;
/// What one upload may take.
const UPLOAD_MEMORY_MAX: usize = 4 * MIB;

fn bench() -> Bench {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.limits.value_bytes_max = 512 * MIB;
    Bench::with(settings)
}

/// A value in which every byte's place can be told.
fn value(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::request(&mut out, words);
    out.to_vec()
}

fn set(length: usize) -> Vec<u8> {
    request(&[b"SET", b"k", &value(length)])
}

/// Gives a client's bytes as long as it is read; returns how many were taken.
fn send(bench: &mut Bench, client: SessionKey, bytes: &[u8], read_bytes: usize) -> usize {
    let mut taken = 0;
    for piece in bytes.chunks(read_bytes) {
        if !bench.multiplexer.wants_client_bytes(client) {
            break;
        }
        bench.multiplexer.on_client_bytes(client, piece, bench.now);
        bench.settle();
        taken += piece.len();
        let memory = bench.multiplexer.memory();
        assert!(memory[0] + memory[2] <= UPLOAD_MEMORY_MAX, "{memory:?}");
    }
    taken
}

/// Writes what is to be written to a connection.
fn drain(bench: &mut Bench, link: LinkKey) -> Vec<u8> {
    let bytes = bench.drain(link);
    bench.settle();
    bytes
}

fn drain_pin(bench: &mut Bench) -> Vec<u8> {
    let pin = bench.pin();
    drain(bench, pin)
}

/// Sends and writes in turn until all is sent; returns what was written to the client's pin.
fn transfer(bench: &mut Bench, client: SessionKey, bytes: &[u8], read_bytes: usize) -> Vec<u8> {
    let (mut sent, mut written) = (0, Vec::new());
    for _ in 0..10_000 {
        sent += send(bench, client, &bytes[sent..], read_bytes);
        written.extend(drain_pin(bench));
        if sent == bytes.len() {
            return written;
        }
    }
    panic!("only {sent} bytes of {} were taken", bytes.len());
}

fn until(bench: &Bench) -> Instant {
    bench.now + ms(1000)
}

fn hold(bench: &mut Bench) {
    let until = until(bench);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
}

fn pins(bench: &Bench) -> usize {
    bench.links.iter().filter(|(_, dial)| matches!(dial.role, Role::Pin(_))).count()
}

/// How a connection is lost in the middle of an upload.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Forced,
    Planned,
    Connection,
}

const LOSSES: [Loss; 3] = [Loss::Forced, Loss::Planned, Loss::Connection];

fn lose_pin(bench: &mut Bench, loss: Loss) {
    match loss {
        Loss::Forced => bench.route(0, Phase::Cut { to: BackendId(1), attempt: 1 }),
        Loss::Planned => hold(bench),
        Loss::Connection => {
            let pin = bench.pin();
            return bench.lose(pin);
        }
    }
    bench.switch(1);
}

#[test]
fn it_arrives_byte_for_byte_in_bounded_memory() {
    let several = request(&[b"MSET", b"a", &value(3 * MIB), b"b", b"", b"c", &value(MIB), b"d", b"x"]);
    let many = request(&[&b"DEL"[..]].into_iter().chain((0..200_000).map(|_| &b"key\r\n"[..])).collect::<Vec<_>>());
    for (name, bytes) in [("one", set(6 * MIB)), ("several", several), ("many", many)] {
        for read_bytes in [READ_BYTES, READ_BYTES - 1, 10_007] {
            let mut bench = bench();
            let client = bench.client();
            let written = transfer(&mut bench, client, &bytes, read_bytes);
            assert!(written == bytes, "{name} in pieces of {read_bytes}");
            assert_eq!(bench.multiplexer.in_flight(), 1);
            let pin = bench.pin();
            bench.reply(pin, "+OK\r\n");
            assert_eq!(bench.heard(client), "+OK\r\n");
            assert_eq!(bench.multiplexer.in_flight(), 0);
            assert_eq!(bench.ask(client, "PING"), "+PONG\r\n");
        }
    }
}

/// Wherever a read ends: in a header, in a value, or between the two bytes that end it.
#[test]
fn every_place_to_cut_is_the_same() {
    let bytes = [request(&[b"MSET", b"a", &value(MIB), b"bc", b"yz"]), frame("PING")].concat();
    let ends = MIB + 20..bytes.len();
    for end in ends {
        let mut bench = bench();
        let client = bench.client();
        let mut written = transfer(&mut bench, client, &bytes[..end], MIB + 100);
        written.extend(transfer(&mut bench, client, &bytes[end..], READ_BYTES));
        assert!(written == bytes[..bytes.len() - frame("PING").len()], "cut at {end}");
        let pin = bench.pin();
        bench.reply(pin, ":2\r\n");
        assert_eq!(bench.heard(client), ":2\r\n+PONG\r\n", "cut at {end}");
    }
}

#[test]
fn a_client_is_not_read_while_its_upload_is_not_written() {
    let mut bench = bench();
    let (client, bytes) = (bench.client(), set(8 * MIB));
    let taken = send(&mut bench, client, &bytes, READ_BYTES);
    let expected = PASSING_BYTES_MAX..PASSING_BYTES_MAX + 2 * READ_BYTES;
    assert!(expected.contains(&taken), "{taken}");
    let memory = bench.multiplexer.memory();
    assert!(memory[0] + memory[2] <= MIB, "{memory:?}");
    let pin = bench.pin();
    bench.multiplexer.on_link_written(pin, PASSING_BYTES_MAX / 4, bench.now);
    bench.settle();
    assert!(!bench.multiplexer.wants_client_bytes(client), "three quarters are too much");
    drain(&mut bench, pin);
    let more = send(&mut bench, client, &bytes[taken..], READ_BYTES);
    assert!(expected.contains(&more), "{more}");
}

/// Its first bytes are no more than those of one that is under way.
#[test]
fn a_client_is_not_read_on_while_its_upload_waits_for_a_connection() {
    let mut bench = bench();
    let (client, bytes) = (bench.client(), set(8 * MIB));
    hold(&mut bench);
    let taken = send(&mut bench, client, &bytes, READ_BYTES);
    assert!((PASSING_BYTES_MAX..PASSING_BYTES_MAX + 2 * READ_BYTES).contains(&taken), "{taken}");
    bench.route(0, Phase::Serve);
    let written = transfer(&mut bench, client, &bytes[taken..], READ_BYTES);
    assert!(written == bytes, "{}", written.len());
}

/// There may be thousands of connections of single clients.
#[test]
fn a_connection_of_a_clients_own_keeps_no_large_buffer() {
    let mut bench = bench();
    let client = bench.client();
    transfer(&mut bench, client, &set(3 * MIB), READ_BYTES);
    let pin = bench.pin();
    bench.reply(pin, "+OK\r\n");
    let memory = bench.multiplexer.memory();
    assert!(memory[2] < 2 * READ_BYTES, "{memory:?}");
}

/// A client may have one request in flight only, and its upload is not stopped by itself.
#[test]
fn an_upload_is_not_in_its_own_way() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.limits.value_bytes_max = 512 * MIB;
    settings.limits.inflight_max = 1;
    let mut bench = Bench::with(settings);
    let client = bench.client();
    let bytes = [frame("SET a 1"), set(3 * MIB)].concat();
    let taken = send(&mut bench, client, &bytes, READ_BYTES);
    let lane = bench.lane();
    assert_eq!(bench.commands(lane), ["SET a 1"]);
    bench.reply(lane, "+OK\r\n");
    transfer(&mut bench, client, &bytes[taken..], READ_BYTES);
    let pin = bench.pin();
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n+OK\r\n");
    assert_eq!(bench.ask(client, "PING"), "+PONG\r\n");
}

#[test]
fn cut_before_its_last_byte_it_was_not_applied() {
    let bytes = set(4 * MIB);
    for loss in LOSSES {
        for (before, word) in [(None, "-LOADING"), (Some("SET a 1"), "-UNAVAILABLE")] {
            let mut bench = bench();
            let client = bench.client();
            let mut expected = vec![word, "+PONG"];
            if let Some(line) = before {
                let both = [frame(line), bytes[..100].to_vec()].concat();
                send(&mut bench, client, &both, READ_BYTES);
                let lane = bench.lane();
                bench.commands(lane);
                bench.reply(lane, "+OK\r\n");
                expected.insert(0, "+OK");
            } else {
                send(&mut bench, client, &bytes[..100], READ_BYTES);
            }
            let half = transfer(&mut bench, client, &bytes[100..2 * MIB], READ_BYTES);
            assert!(bytes.starts_with(&half));
            lose_pin(&mut bench, loss);
            let sent = send(&mut bench, client, &bytes[2 * MIB..bytes.len() - 1], READ_BYTES);
            assert_eq!(sent, bytes.len() - 1 - 2 * MIB, "the rest is read, {loss:?}");
            let early = bench.heard(client);
            assert_eq!(first_words(&early), &expected[..expected.len() - 2], "nothing before its end, {loss:?}");
            send(&mut bench, client, &[&b"\n"[..], &frame("PING")].concat(), READ_BYTES);
            assert_eq!(first_words(&bench.heard(client)), &expected[expected.len() - 2..], "{loss:?}");
            bench.pass(ms(60));
            bench.pass(ms(60));
            bench.say(client, &["GET a"]);
            let lane = bench.lane();
            assert_eq!(bench.commands(lane), ["GET a"], "{loss:?}");
            assert_eq!(bench.multiplexer.in_flight(), 1);
        }
    }
}

#[test]
fn whole_it_is_uncertain_once_its_last_byte_was_written() {
    let bytes = set(3 * MIB);
    for (unwritten, word) in [(0, "-UNCERTAIN"), (1, "-LOADING"), (1000, "-LOADING")] {
        let mut bench = bench();
        let client = bench.client();
        transfer(&mut bench, client, &bytes[..bytes.len() - 1000], READ_BYTES);
        send(&mut bench, client, &bytes[bytes.len() - 1000..], READ_BYTES);
        let pin = bench.pin();
        bench.multiplexer.on_link_written(pin, 1000 - unwritten, bench.now);
        lose_pin(&mut bench, Loss::Forced);
        assert_eq!(first_words(&bench.heard(client)), [word]);
        assert_eq!(bench.multiplexer.in_flight(), 0);
        assert_eq!(bench.ask(client, "PING"), "+PONG\r\n");
    }
}

/// Nothing of it was written, so that all of it is still there.
#[test]
fn not_begun_it_moves() {
    let bytes = set(2 * MIB);
    for loss in LOSSES {
        let mut bench = bench();
        let client = bench.client();
        let taken = send(&mut bench, client, &bytes, READ_BYTES);
        assert!(taken < bytes.len());
        let old = bench.pin();
        lose_pin(&mut bench, loss);
        let mut written = drain_pin(&mut bench);
        written.extend(transfer(&mut bench, client, &bytes[taken..], READ_BYTES));
        assert!(written == bytes && bench.pin() != old, "{loss:?}");
        let pin = bench.pin();
        bench.reply(pin, "+OK\r\n");
        assert_eq!(bench.heard(client), "+OK\r\n", "{loss:?}");
    }
}

#[test]
fn an_upload_that_is_not_whole_does_not_hold_up_a_planned_switch() {
    let bytes = set(3 * MIB);
    let mut bench = bench();
    let client = bench.client();
    let begun = transfer(&mut bench, client, &bytes[..MIB], READ_BYTES);
    hold(&mut bench);
    assert!(bench.reports.contains(&Report::Drained(1)));
    // Nothing goes to a backend that is being left, whatever comes.
    send(&mut bench, client, &bytes[MIB..], READ_BYTES);
    assert!(drain_pin(&mut bench).is_empty());
    // Called off: it goes on where it was.
    bench.route(0, Phase::Serve);
    let taken = MIB + bench.multiplexer.sessions.get(client).map_or(0, |session| session.input.len());
    let mut written = [begun, drain_pin(&mut bench)].concat();
    let rest = written.len().max(taken);
    written.extend(transfer(&mut bench, client, &bytes[rest..], READ_BYTES));
    assert!(written == bytes);
    let pin = bench.pin();
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n");
}

#[test]
fn a_whole_upload_is_in_flight() {
    let mut bench = bench();
    let client = bench.client();
    transfer(&mut bench, client, &set(2 * MIB), READ_BYTES);
    hold(&mut bench);
    assert!(!bench.reports.contains(&Report::Drained(1)));
    let pin = bench.pin();
    bench.reply(pin, "+OK\r\n");
    assert!(bench.reports.contains(&Report::Drained(1)));
    assert_eq!(bench.heard(client), "+OK\r\n");
}

#[test]
fn a_client_that_goes_in_the_middle_takes_its_connection_with_it() {
    for is_polite in [true, false] {
        let mut bench = bench();
        let client = bench.client();
        transfer(&mut bench, client, &set(4 * MIB)[..2 * MIB], READ_BYTES);
        assert_eq!(pins(&bench), 1);
        match is_polite {
            true => bench.multiplexer.on_client_end(client, bench.now),
            false => bench.multiplexer.on_client_lost(client, CloseReason::ClientLost),
        }
        bench.settle();
        let reason = if is_polite { CloseReason::ClientClosed } else { CloseReason::ClientLost };
        assert_eq!(bench.closed, [(client, reason)]);
        assert_eq!((pins(&bench), bench.multiplexer.in_flight()), (0, 0));
    }
}

#[test]
fn a_drain_does_not_wait_for_it() {
    let mut bench = bench();
    let client = bench.client();
    transfer(&mut bench, client, &set(4 * MIB)[..2 * MIB], READ_BYTES);
    bench.multiplexer.end_all(CloseReason::Stopping);
    bench.settle();
    assert_eq!(bench.closed, [(client, CloseReason::Stopping)]);
}

#[test]
fn damage_in_the_middle_ends_the_client_and_reaches_nobody() {
    let mut bench = bench();
    let client = bench.client();
    let start = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 2 * MIB);
    let bytes = [start.as_bytes(), &value(2 * MIB), b"xx"].concat();
    let mut sent = 0;
    while sent < bytes.len() {
        sent += send(&mut bench, client, &bytes[sent..], READ_BYTES);
        if pins(&bench) > 0 {
            drain_pin(&mut bench);
        }
    }
    assert_eq!(bench.heard(client), "-ERR Protocol error: expected CRLF\r\n");
    assert_eq!(bench.closed, [(client, CloseReason::ProtocolError)]);
    assert_eq!(pins(&bench), 0);
}

#[test]
fn two_at_once_and_a_third_client_are_not_in_each_others_way() {
    let mut bench = bench();
    let (first, second, other) = (bench.client(), bench.client(), bench.client());
    let bytes = set(3 * MIB);
    let mut written = Vec::new();
    send(&mut bench, first, &bytes[..100], READ_BYTES);
    let first_pin = bench.pin();
    send(&mut bench, second, &bytes[..100], READ_BYTES);
    let second_pin = bench.pin();
    assert_ne!(first_pin, second_pin);
    for start in (100..bytes.len()).step_by(READ_BYTES) {
        let piece = &bytes[start..bytes.len().min(start + READ_BYTES)];
        for client in [first, second] {
            assert_eq!(send(&mut bench, client, piece, READ_BYTES), piece.len());
        }
        written.extend(drain(&mut bench, first_pin));
        drain(&mut bench, second_pin);
        bench.say(other, &["GET a"]);
        let lane = bench.lane();
        assert_eq!(bench.commands(lane), ["GET a"]);
        bench.reply(lane, "$1\r\n1\r\n");
        assert_eq!(bench.heard(other), "$1\r\n1\r\n");
    }
    assert!(written == bytes);
    for (client, pin) in [(second, second_pin), (first, first_pin)] {
        bench.reply(pin, "+OK\r\n");
        assert_eq!(bench.heard(client), "+OK\r\n");
    }
}

#[test]
fn a_pipeline_around_it_keeps_its_order() {
    let mut bench = bench();
    let client = bench.client();
    let bytes = [frame("SET a 1"), frame("GET a"), set(2 * MIB), frame("INCR a"), frame("PING")].concat();
    let mut sent = send(&mut bench, client, &bytes, READ_BYTES);
    let lane = bench.lane();
    assert_eq!(bench.commands(lane), ["SET a 1", "GET a"]);
    assert_eq!(pins(&bench), 0, "it waits for the replies before it");
    bench.reply(lane, "+OK\r\n$1\r\n1\r\n");
    for _ in 0..20 {
        sent += send(&mut bench, client, &bytes[sent..], READ_BYTES);
        drain_pin(&mut bench);
    }
    assert_eq!(sent, bytes.len());
    let pin = bench.pin();
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.commands(pin), ["INCR a"]);
    bench.reply(pin, ":2\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n$1\r\n1\r\n+OK\r\n:2\r\n+PONG\r\n");
}

/// A client that begins an upload inside of a transaction.
fn queue_upload(bench: &mut Bench, bytes: &[u8]) -> SessionKey {
    let client = bench.client();
    bench.say(client, &["MULTI"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["MULTI"]);
    bench.reply(pin, "+OK\r\n");
    let written = transfer(bench, client, bytes, READ_BYTES);
    assert!(written == bytes);
    assert_eq!(bench.heard(client), "+OK\r\n");
    client
}

#[test]
fn inside_of_a_transaction_it_is_queued() {
    let mut bench = bench();
    let client = queue_upload(&mut bench, &set(2 * MIB));
    let pin = bench.pin();
    bench.reply(pin, "+QUEUED\r\n");
    bench.say(client, &["EXEC"]);
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.reply(pin, "*1\r\n+OK\r\n");
    assert_eq!(bench.heard(client), "+QUEUED\r\n*1\r\n+OK\r\n");
}

#[test]
fn a_transaction_with_an_upload_is_not_replayed() {
    let bytes = set(3 * MIB);
    for loss in LOSSES {
        for (sent, is_answered) in [(2 * MIB, false), (bytes.len(), false), (bytes.len(), true)] {
            let mut bench = bench();
            let client = queue_upload(&mut bench, &bytes[..sent]);
            if is_answered {
                let pin = bench.pin();
                bench.reply(pin, "+QUEUED\r\n");
            }
            lose_pin(&mut bench, loss);
            send(&mut bench, client, &bytes[sent..], READ_BYTES);
            bench.say(client, &["EXEC", "PING"]);
            let heard = bench.heard(client);
            assert_eq!(first_words(&heard), ["+QUEUED", "-EXECABORT", "+PONG"], "{loss:?} after {sent}");
        }
    }
}

#[test]
fn a_slow_client_is_no_silence_of_the_backend() {
    let bytes = set(2 * MIB);
    let mut bench = bench();
    let client = bench.client();
    transfer(&mut bench, client, &bytes[..MIB], READ_BYTES);
    for _ in 0..50 {
        bench.pass(ms(200));
        assert_eq!(bench.multiplexer.vital_signs(BackendId(0)).waiting_since.filter(|_| bench.serve()), None);
    }
    transfer(&mut bench, client, &bytes[MIB..], READ_BYTES);
    assert_eq!(bench.multiplexer.vital_signs(BackendId(0)).waiting_since, Some(bench.now));
}

/// What decides over a command may be anywhere in it.
#[test]
fn what_must_be_seen_whole_is_kept_and_has_a_bound() {
    let too_large = "-ERR Protocol error: handover: a request of this kind above 64 MiB, since it cannot be passed on \
                     in pieces\r\n";
    for words in ["EVAL", "XREAD", "BLPOP", "SUBSCRIBE", "WATCH", "CONFIG"] {
        let mut bench = bench();
        let client = bench.client();
        let start = |length: usize| format!("*3\r\n${}\r\n{words}\r\n${length}\r\n", words.len());
        bench.multiplexer.on_client_bytes(client, start(64 * MIB).as_bytes(), bench.now);
        bench.settle();
        assert_eq!((bench.heard(client), pins(&bench)), (String::new(), 0), "{words}");
        let client = bench.client();
        bench.multiplexer.on_client_bytes(client, start(65 * MIB).as_bytes(), bench.now);
        bench.settle();
        assert_eq!(bench.heard(client), too_large, "{words}");
        assert_eq!(bench.closed, [(client, CloseReason::ProtocolError)], "{words}");
    }
}

/// Each piece of it is looked at, and not all that stands before: else its client would hold up everybody, and this test
/// would not end in time.
#[test]
fn where_an_option_may_stand_anywhere_it_is_looked_for_once() {
    let mut bench = bench();
    let client = bench.client();
    let words = 6 * MIB / b"$5\r\nCOUNT\r\n$1\r\n1\r\n".len();
    let bytes = request(&[&[&b"XREAD"[..]], &[&b"COUNT"[..], b"1"].repeat(words)[..]].concat());
    for piece in bytes.chunks(256) {
        bench.multiplexer.on_client_bytes(client, piece, bench.now);
    }
    bench.settle();
    assert_eq!(drain_pin(&mut bench).len(), bytes.len());
}

#[test]
fn held_in_vain_it_is_refused_when_its_rest_was_dropped() {
    let bytes = set(3 * MIB);
    let mut bench = bench();
    bench.dials = false;
    let client = bench.client();
    let taken = send(&mut bench, client, &bytes, READ_BYTES);
    assert!(taken <= MIB + 2 * READ_BYTES, "{taken}");
    bench.pass(ms(2000));
    let sent = send(&mut bench, client, &bytes[taken..bytes.len() - 1], READ_BYTES);
    assert_eq!((sent, bench.heard(client)), (bytes.len() - 1 - taken, String::new()));
    send(&mut bench, client, &[&b"\n"[..], &frame("PING")].concat(), READ_BYTES);
    let heard = bench.heard(client);
    assert!(heard.starts_with("-") && heard.ends_with("not applied\r\n+PONG\r\n"), "{heard}");
}

/// What came before it is refused first, and the start of the upload alone fills what is held.
#[test]
fn held_in_vain_behind_others_it_is_refused_like_them() {
    let bytes = [frame("GET a"), set(3 * MIB), frame("PING")].concat();
    let mut bench = bench();
    bench.dials = false;
    let lane = bench.lane();
    bench.lose(lane);
    let client = bench.client();
    let mut sent = 0;
    for _ in 0..20 {
        sent += send(&mut bench, client, &bytes[sent..], READ_BYTES);
        bench.pass(ms(400));
    }
    assert_eq!(sent, bytes.len());
    let heard = bench.heard(client);
    assert_eq!(heard.matches("not applied\r\n").count(), 2, "{heard}");
    assert!(heard.ends_with("+PONG\r\n"), "{heard}");
}

/// Its bytes came before its connection, and its client has nothing more to ask.
#[test]
fn whole_while_it_waited_it_is_answered_after_the_end_of_its_client() {
    for missing in [0, 1] {
        let mut bench = bench();
        let (client, bytes) = (bench.client(), set(MIB));
        hold(&mut bench);
        let (start, rest) = bytes[..bytes.len() - missing].split_at(100);
        for read in [start, rest] {
            assert_eq!(send(&mut bench, client, read, rest.len()), read.len());
        }
        bench.multiplexer.on_client_end(client, bench.now);
        bench.settle();
        bench.route(0, Phase::Serve);
        if missing == 0 {
            assert!(drain_pin(&mut bench) == bytes);
            let pin = bench.pin();
            bench.reply(pin, "+OK\r\n");
            assert_eq!(bench.heard(client), "+OK\r\n");
        }
        assert_eq!(bench.closed, [(client, CloseReason::ClientClosed)], "{missing} bytes are missing");
    }
}

/// What Handover itself puts on the connection meanwhile does not end up in the middle of somebody's value.
#[test]
fn handovers_own_requests_go_behind_it() {
    let mut bench = bench();
    let (now, session) = (bench.now, bench.client());
    let mut link = Link::new(BackendId(0), 1, Role::Pin(Some(session)), Profile::default(), now);
    let own = || Run {
        session: None,
        commands: 1,
        answered: 0,
        dropped: 0,
        bytes: 3,
        attempts: 0,
        at: now,
        kind: RunKind::Ignored,
    };
    link.push(own(), b"own");
    link.begin_upload(session, false, now);
    link.pass_upload(b"up");
    link.push(own(), b"own");
    link.pass_upload(b"load");
    assert_eq!(link.unwritten(), b"ownupload");
    link.advance_written(9, now);
    assert_eq!((link.retained_bytes(), link.due_written()), (9, 1));
    link.answer(1);
    link.heard(now);
    assert_eq!((link.retained_bytes(), link.due_written(), link.silence(now)), (0, 0, None));
    link.pass_upload(b"!");
    link.finish_upload(now);
    assert_eq!(link.unwritten(), b"!own");
    link.advance_written(1, now);
    assert_eq!(link.due_written(), 1);
    assert!(link.answer(1).is_some());
    assert_eq!(link.unwritten(), b"own");
}
