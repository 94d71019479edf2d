//! Room in a lane: what is copied, who is read, and who waits.

use super::*;
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

/// Two clients send more than a lane takes: the third is not even read until there is room.
#[test]
fn who_would_have_to_wait_for_room_is_not_read() {
    let mut bench = bench();
    let (first, second, third) = (bench.client(), bench.client(), bench.client());
    let half = set("k", 30_000).repeat(LANE_BYTES_MAX / 30_000 + 1);
    bench.multiplexer.on_client_bytes(first, &half, bench.now);
    assert!(!bench.multiplexer.postpones(third), "nobody has met a full lane yet");
    bench.multiplexer.on_client_bytes(second, &set("k", 30_000), bench.now);
    let held = bench.multiplexer.sessions.get(second).unwrap().input.len();
    assert!(held > 30_000, "it waits with what was read of it");
    assert!(bench.multiplexer.postpones(third));
    assert!(!bench.multiplexer.wants_client_bytes(third));

    // Replies that leave the lane fuller than half change nothing; those that empty it let both go on.
    let lane = bench.lane();
    let full = bytes_on(&bench, lane);
    while bytes_on(&bench, lane) > LANE_BYTES_MAX / 2 {
        assert!(!bench.multiplexer.wants_client_bytes(third) || bytes_on(&bench, lane) == full);
        bench.commands(lane);
        bench.reply(lane, "+OK\r\n");
    }
    assert!(bench.multiplexer.wants_client_bytes(third));
    assert!(bench.multiplexer.sessions.get(second).unwrap().input.is_empty());
    assert!(!bench.multiplexer.postpones(third), "there is room");
}

/// Whatever becomes of the lane, those who were postponed for it are read again.
#[test]
fn who_was_postponed_is_read_again_whatever_happens() {
    let crowd = |bench: &mut Bench| {
        let (first, second, third) = (bench.client(), bench.client(), bench.client());
        let all = set("k", 30_000).repeat(LANE_BYTES_MAX / 30_000 + 1);
        bench.multiplexer.on_client_bytes(first, &all, bench.now);
        bench.multiplexer.on_client_bytes(second, &set("k", 30_000), bench.now);
        assert!(bench.multiplexer.postpones(third));
        third
    };
    let endings: [fn(&mut Bench); 4] = [
        |bench| bench.pass(ms(1)),
        |bench| {
            bench.lose(bench.lane());
            bench.pass(ms(1));
        },
        |bench| bench.switch(1),
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
        let third = crowd(&mut bench);
        ending(&mut bench);
        assert!(bench.multiplexer.wants_client_bytes(third), "ending {number}");
    }
}

/// A server that has to keep many large replies for one connection is slow: no more are asked for than a lane's worth.
#[test]
fn large_replies_count_as_large_requests_do() {
    let mut bench = bench();
    let client = bench.client();
    let value = format!("${}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    bench.say(client, &["GET k"]);
    let lane = bench.lane();
    for _ in 0..10 {
        bench.commands(lane);
        bench.reply(lane, &value);
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

/// A reply elsewhere gives no room in the lane: nobody is looked at for it, of whom there may be thousands.
#[test]
fn replies_on_other_connections_wake_nobody_who_waits_for_room() {
    let mut bench = bench();
    let (first, second, own) = (bench.client(), bench.client(), bench.client());
    bench.say(own, &["WATCH k"]);
    let (lane, pin) = (bench.lane(), bench.pin());
    bench.commands(pin);
    let all = set("k", 30_000).repeat(LANE_BYTES_MAX / 30_000 + 1);
    bench.multiplexer.on_client_bytes(first, &all, bench.now);
    bench.multiplexer.on_client_bytes(second, &set("k", 30_000), bench.now);
    let others: Vec<SessionKey> = (0..100).map(|_| bench.client()).collect();
    assert!(others.iter().all(|&other| bench.multiplexer.postpones(other)));
    assert!(bench.multiplexer.links.get(lane).unwrap().load_bytes() >= LANE_BYTES_MAX);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.heard(own), "+OK\r\n");
    assert!(!others.iter().any(|&other| bench.multiplexer.wants_client_bytes(other)));
}
