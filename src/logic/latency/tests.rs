//! What is too slow, at one command a second and at a hundred thousand.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;
const US: fn(u64) -> Duration = Duration::from_micros;
const LOOK: Duration = Duration::from_millis(50);

/// A watch with a clock and what workers have counted.
struct Bench {
    watch: LatencyWatch,
    now: Instant,
    start: Instant,
    counted: Histogram,
    disturbances: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(LatencySettings::default())
    }

    fn with(settings: LatencySettings) -> Self {
        let now = Instant::now();
        let watch = LatencyWatch::new(settings, MS(500));
        Self { watch, now, start: now, counted: Histogram::default(), disturbances: 0 }
    }

    /// A watch that knows 0.4 ms to be usual.
    fn settled(replies_a_second: u64) -> Self {
        let mut bench = Self::new();
        bench.run(MS(30_000), replies_a_second, |_| US(400));
        bench.start = bench.now;
        bench
    }

    /// So many replies a second, each taking what `time_of` says of its number; says when it was first called gray.
    fn run(&mut self, time: Duration, replies_a_second: u64, time_of: impl Fn(u64) -> Duration) -> Option<Duration> {
        let looks = time.as_millis() as u64 / 50;
        let (mut number, mut first) = (0, None);
        for look in 1..=looks {
            let due = replies_a_second * look * 50 / 1000;
            while number < due {
                self.counted.count(time_of(number));
                number += 1;
            }
            self.now += LOOK;
            self.watch.on_look(self.now, &self.counted, self.disturbances);
            if first.is_none() && self.watch.grayness(self.now).is_some() {
                first = Some(self.now - self.start);
            }
        }
        first
    }
}

#[test]
fn buckets_are_a_fifth_wide_and_cover_everything() {
    for micros in [0, 1, 16, 17, 100, 399, 400, 1_000, 20_000, 612_000, 1_000_000, 15_000_000] {
        let mut histogram = Histogram::default();
        histogram.count(US(micros));
        let upper = histogram.quantile(HIGH).unwrap();
        assert!(upper > US(micros) && upper <= US(micros.max(16) * 5 / 4 + 1), "{micros} µs: {upper:?}");
    }
    let mut histogram = Histogram::default();
    histogram.count(Duration::from_secs(3600));
    assert_eq!(histogram.above(Duration::from_secs(10)), 1);
    assert_eq!(Histogram::default().quantile(HIGH), None);
}

#[test]
fn the_slowest_hundredth_is_what_counts() {
    for (slow, is_high) in [(1, false), (2, true)] {
        let mut histogram = Histogram::default();
        (0..100 - slow).for_each(|_| histogram.count(MS(1)));
        (0..slow).for_each(|_| histogram.count(MS(900)));
        assert_eq!(histogram.quantile(HIGH).unwrap() > MS(100), is_high, "{slow} of 100");
    }
}

/// 600 ms more, at any rate: within five seconds, and not before three.
#[test]
fn slowness_is_seen_at_any_rate() {
    for rate in [1, 2, 10, 1_000, 100_000] {
        let seen = Bench::settled(rate).run(MS(10_000), rate, |_| MS(600)).unwrap_or_else(|| panic!("{rate}/s: never"));
        assert!((MS(2_000)..=MS(5_000)).contains(&seen), "{rate}/s: {seen:?}");
        // Below what is late, so that only the slowest hundredth tells.
        let seen = Bench::settled(rate).run(MS(10_000), rate, |_| MS(200)).unwrap_or_else(|| panic!("{rate}/s: never"));
        assert!((MS(3_000)..=MS(5_000)).contains(&seen), "{rate}/s: {seen:?}");
    }
}

#[test]
fn what_is_not_slow_enough_or_not_for_long_is_nothing() {
    type TimeOf = fn(u64) -> Duration;
    let cases: [(&str, u64, u64, TimeOf); 6] = [
        ("below the floor", 1_000, 60_000, |_| MS(12)),
        ("not the tenfold", 1_000, 60_000, |_| US(3_000)),
        ("one in two hundred", 1_000, 60_000, |number| if number % 200 == 0 { MS(300) } else { US(400) }),
        ("one hiccup that delays many", 1_000, 60_000, |number| if number < 800 { MS(800) } else { US(400) }),
        ("one slow one in ten seconds, at one a second", 1, 600_000, |n| if n % 10 == 5 { MS(700) } else { US(400) }),
        ("two seconds of it", 1_000, 60_000, |number| if number < 1_500 { MS(200) } else { US(400) }),
    ];
    for (what, rate, time_ms, time_of) in cases {
        assert_eq!(Bench::settled(rate).run(MS(time_ms), rate, time_of), None, "{what}");
    }
}

/// More than one in a hundred comes late: seen within its window, though far more are fine.
#[test]
fn late_replies_are_a_share() {
    for (one_in, is_gray) in [(50, true), (200, false)] {
        let settings = LatencySettings { factor: 0.0, ..LatencySettings::default() };
        let mut bench = Bench::with(settings);
        bench.run(MS(30_000), 200, |_| US(400));
        bench.start = bench.now;
        let seen = bench.run(MS(30_000), 200, |number| if number % one_in == 7 { MS(700) } else { US(400) });
        assert_eq!(seen.is_some(), is_gray, "one in {one_in}");
        assert!(seen.is_none_or(|seen| seen <= MS(10_000)), "{seen:?}");
    }
}

#[test]
fn far_away_is_not_slow() {
    for distance in [60, 250] {
        let mut bench = Bench::new();
        assert_eq!(bench.run(MS(600_000), 20, |number| MS(distance + number % 20)), None);
        let baseline = bench.watch.baseline().unwrap();
        assert!((MS(distance)..MS(distance * 2)).contains(&baseline), "{baseline:?}");
    }
}

/// A script or Handover's own pause kept replies waiting: those looks count nothing.
#[test]
fn what_others_kept_waiting_does_not_count() {
    let mut bench = Bench::settled(100);
    for _ in 0..200 {
        bench.disturbances += 1;
        assert_eq!(bench.run(MS(50), 100, |_| MS(900)), None);
    }
    // A pause of ten seconds: everything that waited comes at once.
    let mut bench = Bench::settled(100);
    bench.now += MS(10_000);
    (0..500).for_each(|_| bench.counted.count(MS(10_000)));
    assert_eq!(bench.run(MS(10_000), 100, |_| US(400)), None);
    assert_eq!(bench.watch.suspected_since(), None);
}

#[test]
fn nothing_is_judged_before_the_baseline_is_known_or_when_it_is_off() {
    assert_eq!(Bench::new().run(MS(60_000), 100, |_| MS(700)), None);
    let settings = LatencySettings { factor: 0.0, timeout_rate: 0.0, ..LatencySettings::default() };
    let mut bench = Bench::with(settings);
    bench.run(MS(30_000), 100, |_| US(400));
    assert_eq!(bench.run(MS(60_000), 100, |_| MS(900)), None);
    assert_eq!(bench.watch.suspected_since(), None);
}

/// Slow times are not learned as usual, whatever they last.
#[test]
fn the_baseline_does_not_follow_a_fault() {
    let mut bench = Bench::settled(100);
    let before = bench.watch.baseline().unwrap();
    bench.run(MS(600_000), 100, |_| MS(300));
    assert_eq!(bench.watch.baseline(), Some(before));
    assert!(bench.watch.grayness(bench.now).is_some());
    bench.watch.restart();
    assert_eq!((bench.watch.grayness(bench.now), bench.watch.suspected_since()), (None, None));
}

#[test]
fn the_evidence_reads_well() {
    let slow = Grayness::Slow { p99: MS(612), baseline: US(400), lasted: MS(3_000) };
    assert_eq!(slow.to_string(), "p99 612 ms, baseline 0.4 ms, for 3.0 s");
    let late = Grayness::Late { late: 12, total: 300, bound: MS(500), window: MS(10_000) };
    assert_eq!(late.to_string(), "12 of 300 replies took longer than 500 ms within 10.0 s");
}
