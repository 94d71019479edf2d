//! Room in a lane: what is copied, who is read, and who waits.

use super::*;
use crate::logic::multiplexer::link::LANE_BYTES_MAX;
use proptest::prelude::*;

fn set(key: &str, bytes: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::request(&mut out, &[b"SET".as_slice(), key.as_bytes(), &vec![b'v'; bytes]]);
    out.to_vec()
}

/// A bench without small limits.
fn bench() -> Bench {
    let settings = settings(RetryCeiling::WriteLastWins);
    let limits = LimitSettings { inflight_max: 1 << 20, output_bytes_max: 1 << 30, ..settings.limits };
    Bench::with(Settings { limits, ..settings })
}

/// Everything that waits to be written to a connection, without saying that it was written.
fn bytes_on(bench: &Bench, lane: LinkKey) -> usize {
    bench.multiplexer.links.get(lane).expect("the lane is open").retained_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However requests and replies are cut into reads, each arrives once, whole and in order.
    #[test]
    fn cuts_change_nothing(
        sizes in prop::collection::vec(prop_oneof![0..700_usize, 0..6000_usize], 1..12),
        cuts in prop::collection::vec(prop_oneof![1..900_usize, 1..4000_usize], 1..12),
    ) {
        let mut bench = bench();
        let client = bench.client();
        let lane = { bench.say(client, &["GET first"]); bench.lane() };
        let requests: Vec<u8> = sizes.iter().enumerate().flat_map(|(n, size)| set(&n.to_string(), *size)).collect();
        let mut rest = &requests[..];
        for cut in cuts.iter().cycle() {
            let (read, later) = rest.split_at(rest.len().min(*cut));
            bench.multiplexer.on_client_bytes(client, read, bench.now);
            rest = later;
            if rest.is_empty() { break; }
        }
        bench.settle();
        let sent = bench.commands(lane);
        prop_assert_eq!(sent.len(), sizes.len() + 1);
        for (n, (request, size)) in sent[1..].iter().zip(&sizes).enumerate() {
            prop_assert_eq!(request, &format!("SET {n} {}", "v".repeat(*size)));
        }
        prop_assert!(bench.multiplexer.sessions.get(client).unwrap().input.is_empty());

        let reply = |n: usize| format!("${}\r\n{}\r\n", sizes[n], n.to_string().repeat(sizes[n]).split_at(sizes[n]).0);
        let expected: String = ["$1\r\nx\r\n".to_owned()].into_iter().chain((0..sizes.len()).map(reply)).collect();
        let mut rest = expected.as_bytes();
        for cut in cuts.iter().rev().cycle() {
            let (read, later) = rest.split_at(rest.len().min(*cut));
            bench.multiplexer.on_link_bytes(lane, read, bench.now);
            rest = later;
            if rest.is_empty() { break; }
        }
        bench.settle();
        prop_assert_eq!(bench.heard(client), expected);
        prop_assert_eq!(bench.multiplexer.links.get(lane).unwrap().client_requests(), 0);
    }
}

/// What completes a request that had begun is all that goes through the session's buffer.
#[test]
fn no_more_than_the_rest_of_a_request_is_joined() {
    let mut bench = bench();
    let client = bench.client();
    let requests = [set("a", 5000), set("b", 5000), set("c", 5000)].concat();
    let (begun, rest) = requests.split_at(3000);
    bench.multiplexer.on_client_bytes(client, begun, bench.now);
    assert_eq!(bench.multiplexer.sessions.get(client).unwrap().input.len(), 3000);
    bench.multiplexer.on_client_bytes(client, rest, bench.now);
    let session = bench.multiplexer.sessions.get(client).unwrap();
    assert!(session.input.is_empty() && session.input.capacity() < 8000, "{} bytes", session.input.capacity());
    assert_eq!(bench.multiplexer.links.get(bench.lane()).unwrap().client_requests(), 3);
}

#[test]
fn the_limit_of_requests_in_flight_holds_in_pieces_too() {
    let mut bench = Bench::new();
    let client = bench.client();
    let requests = frame("GET k").repeat(1000);
    let mut rest = &requests[..];
    while !rest.is_empty() && bench.multiplexer.wants_client_bytes(client) {
        let (read, later) = rest.split_at(rest.len().min(100));
        bench.multiplexer.on_client_bytes(client, read, bench.now);
        rest = later;
    }
    let in_flight = bench.multiplexer.links.get(bench.lane()).unwrap().client_requests();
    assert!((8..=9).contains(&in_flight), "{in_flight} of 8 are in flight");
}

/// A lane that is full, of which somebody knows.
fn crowd(bench: &mut Bench) {
    let (first, second) = (bench.client(), bench.client());
    let all = set("k", 30_000).repeat(LANE_BYTES_MAX / 30_000 + 1);
    bench.multiplexer.on_client_bytes(first, &all, bench.now);
    bench.multiplexer.on_client_bytes(second, &set("k", 30_000), bench.now);
    assert!(bench.multiplexer.sessions.get(second).unwrap().input.len() > 30_000, "it waits with what was read of it");
}

/// Answers what the lane has until there is room.
fn make_room(bench: &mut Bench) {
    let lane = bench.lane();
    while bytes_on(bench, lane) > LANE_BYTES_MAX / 2 {
        assert_eq!(bench.multiplexer.next_postponed(), None, "there is no room yet");
        bench.commands(lane);
        bench.reply(lane, "+OK\r\n");
    }
}

/// Two clients send more than a lane takes: the third is not even read until there is room.
#[test]
fn who_would_have_to_wait_for_room_is_not_read() {
    let mut bench = bench();
    let third = bench.client();
    bench.say(third, &["GET k"]);
    bench.settle();
    assert!(!bench.multiplexer.postpones(third), "nobody has met a full lane yet");
    crowd(&mut bench);
    assert!(bench.multiplexer.postpones(third));
    assert!(!bench.multiplexer.wants_client_bytes(third));
    make_room(&mut bench);
    assert!(bench.multiplexer.sessions.iter().all(|(_, session)| session.input.is_empty()), "who was read goes first");
    assert!(!bench.multiplexer.wants_client_bytes(third));
    assert!(bench.multiplexer.calls_postponed());
    assert_eq!(bench.multiplexer.next_postponed(), Some(third));
    assert!(bench.multiplexer.wants_client_bytes(third));
    assert_eq!(bench.multiplexer.next_postponed(), None);
    assert!(!bench.multiplexer.postpones(third), "there is room, and nobody waits for it");
}

/// Room goes to those who waited, in their order and as far as it goes; whoever comes meanwhile stands behind them.
#[test]
fn nobody_overtakes_those_who_wait_for_room() {
    let mut bench = bench();
    crowd(&mut bench);
    let clients: Vec<_> = (0..4).map(|_| bench.client()).collect();
    assert!(clients[..3].iter().all(|&client| bench.multiplexer.postpones(client)));
    bench.multiplexer.on_client_lost(clients[1], CloseReason::ClientLost);
    make_room(&mut bench);
    assert!(bench.multiplexer.postpones(clients[3]), "others wait for the room that there is");
    assert_eq!(bench.multiplexer.next_postponed(), Some(clients[0]));
    let large = set("k", 30_000).repeat(LANE_BYTES_MAX / 60_000);
    bench.multiplexer.on_client_bytes(clients[0], &large, bench.now);
    assert!(!bench.multiplexer.calls_postponed(), "it took the room");
    assert!(bench.multiplexer.postpones(clients[0]), "whoever had a turn stands behind the others again");
    for expected in [&[][..], &[clients[2]], &[clients[3]], &[clients[0]]].concat() {
        make_room(&mut bench);
        while bench.multiplexer.calls_postponed() {
            let called = bench.multiplexer.next_postponed().unwrap();
            assert_eq!(called, expected);
            bench.multiplexer.on_client_bytes(called, &large, bench.now);
        }
    }
    make_room(&mut bench);
    assert!(!bench.multiplexer.calls_postponed());
}

/// Whoever shares another lane does not wait behind those.
#[test]
fn each_lane_has_a_queue_of_its_own() {
    let mut bench = bench();
    let (elsewhere, here) = (bench.client(), bench.client());
    bench.say(elsewhere, &["SELECT 1"]);
    bench.say(elsewhere, &["GET k"]);
    bench.settle();
    crowd(&mut bench);
    assert!(bench.multiplexer.postpones(here));
    assert!(!bench.multiplexer.postpones(elsewhere));
}

/// Whatever becomes of the lane, those who were postponed for it have their turn.
#[test]
fn who_was_postponed_is_read_again_whatever_happens() {
    let endings: [fn(&mut Bench); 3] = [
        |bench| bench.lose(bench.lane()),
        |bench| {
            let lane = bench.lane();
            bench.switch(1);
            if bench.multiplexer.links.get(lane).is_some() {
                bench.lose(lane);
            }
        },
        |bench| {
            let lane = bench.lane();
            while !bench.multiplexer.links.get(lane).unwrap().is_idle() {
                bench.written(lane);
                bench.reply(lane, "+OK\r\n");
            }
        },
    ];
    for (number, ending) in endings.into_iter().enumerate() {
        let mut bench = bench();
        let third = bench.client();
        crowd(&mut bench);
        assert!(bench.multiplexer.postpones(third));
        bench.pass(ms(1));
        assert_eq!(bench.multiplexer.next_postponed(), None);
        ending(&mut bench);
        assert_eq!(bench.multiplexer.next_postponed(), Some(third), "ending {number}");
        assert!(bench.multiplexer.wants_client_bytes(third), "ending {number}");
    }
}

/// Whoever does not read fills the lane with what it asked for: the others wait for room alone, not behind its requests.
#[test]
fn a_slow_reader_who_takes_all_the_room_is_closed() {
    let settings = settings(RetryCeiling::WriteLastWins);
    let limits = LimitSettings { inflight_max: 1 << 20, output_bytes_max: 100_000, ..settings.limits };
    for is_postponed in [false, true] {
        let mut bench = Bench::with(Settings { limits: limits.clone(), ..settings.clone() });
        let (reader, second, third) = (bench.client(), bench.client(), bench.client());
        bench.multiplexer.on_client_bytes(reader, &frame("GET k").repeat(40), bench.now);
        let lane = bench.lane();
        bench.commands(lane);
        let value = format!("${}\r\n{}\r\n", 300_000, "x".repeat(300_000));
        bench.multiplexer.on_link_bytes(lane, value.as_bytes(), bench.now);
        assert!(!bench.multiplexer.wants_link_bytes(lane), "nobody reads it");
        bench.pass(ms(1100));
        assert_eq!(bench.closed, [], "nobody waits for it");
        bench.multiplexer.on_client_bytes(second, &frame("GET k"), bench.now);
        assert!(bench.multiplexer.postpones(third));
        if is_postponed {
            bench.multiplexer.on_client_lost(second, CloseReason::ClientLost);
            bench.settle();
            bench.closed.clear();
        }
        bench.pass(ms(1));
        assert_eq!(bench.closed, [(reader, CloseReason::SlowReader)]);
        assert!(bench.multiplexer.wants_link_bytes(lane));
        bench.reply(lane, &"$1\r\nx\r\n".repeat(39));
        assert_eq!(bench.multiplexer.next_postponed(), Some(third));
        assert!(is_postponed || bench.commands(lane) == ["GET k"]);
    }
}

/// A server that has to keep many large replies for one connection is slow: no more are asked for than a lane's worth,
/// whether they come whole or in pieces.
#[test]
fn large_replies_count_as_large_requests_do() {
    for (value_bytes, read_bytes) in [(100_000, 200_000), (300_000, 70_000)] {
        let mut bench = bench();
        let client = bench.client();
        let value = format!("${value_bytes}\r\n{}\r\n", "x".repeat(value_bytes));
        bench.say(client, &["GET k"]);
        let lane = bench.lane();
        for _ in 0..10 {
            bench.commands(lane);
            for piece in value.as_bytes().chunks(read_bytes) {
                bench.multiplexer.on_link_bytes(lane, piece, bench.now);
            }
            bench.settle();
            bench.say(client, &["GET k"]);
        }
        let others: Vec<_> = (0..100).map(|_| bench.client()).collect();
        for &other in &others {
            bench.say(other, &["GET k"]);
        }
        let due = bench.multiplexer.links.get(lane).unwrap().client_requests();
        assert!((16..=18).contains(&due), "{due} large replies are due");
        // Small ones let everybody in.
        while bench.multiplexer.links.get(lane).unwrap().client_requests() > 0 {
            for _ in 0..bench.commands(lane).len() {
                bench.reply(lane, "$1\r\nx\r\n");
            }
        }
        assert!(others.iter().all(|&other| bench.heard(other) == "$1\r\nx\r\n"));
    }
}
