//! What a reply is said to have taken: from the write of its request to its first byte, and nothing else.

use super::*;

impl Bench {
    /// Runs that were timed, the longest, and how often others were kept waiting.
    fn timed(&self) -> (u64, Duration, u64) {
        let record = self.multiplexer.backend(BackendId(0)).expect("it was used");
        (record.replies.total(), record.replies.quantile(1.0).unwrap_or_default(), record.disturbances)
    }

    /// A client whose first command was answered at once, so that its lane is open.
    fn settled(&mut self) -> SessionKey {
        let client = self.client();
        self.say(client, &["SET a 1"]);
        self.serve();
        client
    }
}

/// A bucket's width.
fn about(time: Duration) -> std::ops::RangeInclusive<Duration> {
    time..=time * 5 / 4 + ms(1)
}

#[test]
fn time_begins_with_the_write_and_ends_with_the_first_byte() {
    let mut bench = Bench::new();
    let client = bench.settled();
    let lane = bench.lane();
    let before = bench.timed().0;
    bench.say(client, &["GET a"]);
    // It waits in Handover: the socket is full.
    bench.now += ms(700);
    bench.written(lane);
    bench.now += ms(30);
    bench.reply(lane, "$5\r\nva");
    // The rest of it is a matter of its length.
    bench.now += ms(900);
    bench.reply(lane, "lue\r\n");
    let (runs, longest, disturbances) = bench.timed();
    assert_eq!((runs - before, disturbances), (1, 0));
    assert!(about(ms(30)).contains(&longest), "{longest:?}");
}

#[test]
fn a_write_in_two_parts_begins_with_the_second() {
    let mut bench = Bench::new();
    let client = bench.settled();
    let lane = bench.lane();
    bench.say(client, &["GET a"]);
    bench.multiplexer.on_link_written(lane, 5, bench.now);
    bench.now += ms(600);
    bench.written(lane);
    bench.now += ms(20);
    bench.reply(lane, "$1\r\n1\r\n");
    assert!(about(ms(20)).contains(&bench.timed().1), "{:?}", bench.timed());
}

#[test]
fn requests_that_were_written_apart_are_timed_apart() {
    let mut bench = Bench::new();
    let (one, two) = (bench.settled(), bench.settled());
    let lane = bench.lane();
    let before = bench.timed().0;
    bench.say(one, &["GET a"]);
    bench.written(lane);
    bench.now += ms(40);
    bench.say(two, &["GET a"]);
    bench.written(lane);
    bench.now += ms(10);
    bench.reply(lane, "$1\r\n1\r\n$1\r\n2\r\n");
    let record = bench.multiplexer.backend(BackendId(0)).unwrap();
    assert_eq!(record.replies.total() - before, 2);
    assert_eq!((record.replies.above(ms(30)), record.replies.above(ms(80))), (1, 0));
}

/// KEYS on a lane, a script on a pin: not timed, but told, since others wait for them.
#[test]
fn what_may_run_long_is_not_timed() {
    for (line, is_told) in [("KEYS *", true), ("EVAL x 0", true), ("SORT a", true), ("BLPOP q 0", false)] {
        let mut bench = Bench::new();
        let client = bench.settled();
        let before = bench.timed();
        bench.say(client, &[line]);
        let links: Vec<LinkKey> = bench.links.iter().map(|(link, _)| *link).collect();
        let written: Vec<_> = links.into_iter().filter(|link| !bench.commands(*link).is_empty()).collect();
        bench.now += ms(800);
        bench.reply(written[0], "*0\r\n");
        let after = bench.timed();
        assert_eq!((after.0, after.2 > before.2), (before.0, is_told), "{line}");
        assert!(!bench.heard(client).is_empty(), "{line}");
    }
}

#[test]
fn a_client_that_does_not_read_says_nothing_of_the_backend() {
    let mut bench = Bench::new();
    let client = bench.settled();
    let lane = bench.lane();
    let before = bench.timed().0;
    bench.say(client, &["GET a"]);
    bench.written(lane);
    let reader = bench.settled();
    bench.multiplexer.pause_link(lane, reader, bench.now);
    bench.now += ms(900);
    bench.reply(lane, "$1\r\n1\r\n");
    assert!(bench.timed().1 < ms(100), "{:?}, {before} before", bench.timed());
}
