//! A slow active is left for a faster backend, and for no other.

use super::*;
use crate::logic::latency::Histogram;

/// How long things take.
#[derive(Clone, Copy)]
struct Speeds {
    /// Replies of the heavy one.
    replies: Duration,
    /// Probes of the heavy one and of the light one.
    probes: [Duration; 2],
}

const FAST: Speeds = Speeds { replies: Duration::from_micros(400), probes: [MS_1, MS_1] };
const MS_1: Duration = Duration::from_millis(1);

/// A group under traffic: probes are answered in the time that they take, at the moment in which they are due.
struct Busy {
    group: Group,
    counted: Histogram,
    due: Vec<(Instant, ProbeReport)>,
    next_round: [Instant; 2],
}

impl Busy {
    fn new(settings: GroupSettings) -> Self {
        let group = Group::serving(settings);
        let now = group.now;
        let mut busy = Self { group, counted: Histogram::default(), due: Vec::new(), next_round: [now; 2] };
        busy.run(30, FAST);
        assert_eq!(busy.group.state().1, Some(HEAVY));
        busy
    }

    /// Runs for so many seconds; 100 replies a second come from the heavy one while it is active.
    fn run(&mut self, seconds: u64, speeds: Speeds) {
        for _ in 0..seconds * 20 {
            self.group.now += MS(50);
            let now = self.group.now;
            let is_heavy = self.group.state().1 == Some(HEAVY);
            (0..if is_heavy { 5 } else { 0 }).for_each(|_| self.counted.count(speeds.replies));
            let sample = Sample { last_byte: Some(now), replies: self.counted, ..Sample::default() };
            let samples = if is_heavy {
                [sample, Sample::default()]
            } else {
                [Sample { last_byte: None, ..sample }, Sample::default()]
            };
            self.group.machine.on_vitals(now, &samples);
            self.group.machine.on_tick(now, 0.5);
            self.group.drain();
            for backend in std::mem::take(&mut self.group.asked) {
                self.probe(backend, speeds, true);
            }
            for backend in [HEAVY, LIGHT] {
                let next = &mut self.next_round[usize::from(backend.0)];
                if now >= *next {
                    *next = now + MS(500);
                    self.probe(backend, speeds, false);
                }
            }
            let due;
            (due, self.due) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
            for (_, report) in due {
                self.group.machine.on_probe(now, &report);
                self.group.drain();
            }
            if let Phase::Hold { attempt, .. } | Phase::Cut { attempt, .. } = self.group.machine.route().phase {
                for worker in 0..WORKERS {
                    self.group.say(WorkerReport::Drained { worker, attempt });
                }
            }
        }
    }

    fn probe(&mut self, backend: BackendId, speeds: Speeds, immediate: bool) {
        let takes = speeds.probes[usize::from(backend.0)];
        let (took, verdict) = if takes > MS(500) { (MS(500), silent()) } else { (takes, good()) };
        let started_at = self.group.now;
        let ended_at = started_at + took;
        self.due.push((ended_at, ProbeReport { backend, started_at, ended_at, verdict, immediate }));
    }

    fn switches(&self) -> Vec<(Option<BackendId>, BackendId, String)> {
        self.group.switched()
    }
}

fn slow() -> (Option<BackendId>, BackendId, String) {
    (Some(HEAVY), LIGHT, "slow".to_owned())
}

#[test]
fn a_slow_active_is_left_within_five_seconds_as_a_planned_switch() {
    for replies in [MS(200), MS(600)] {
        let mut busy = Busy::new(settings());
        busy.group.forget();
        busy.run(5, Speeds { replies, probes: [replies, MS_1] });
        busy.run(3, Speeds { replies, probes: [replies, MS_1] });
        assert_eq!(busy.switches(), [slow()], "{replies:?}");
        let phases: Vec<_> = busy.group.routes.iter().map(|route| route.phase).collect();
        assert!(phases.iter().any(|phase| matches!(phase, Phase::Hold { .. })), "{phases:?}");
        assert!(!phases.iter().any(|phase| matches!(phase, Phase::Cut { .. })), "{phases:?}");
        let view = busy.group.machine.members().next().unwrap();
        let fault = view.fault.expect("it is unhealthy now");
        assert_eq!((&fault.reason, view.breaker.label()), (&Reason::Slow, "open"));
        assert!(busy.group.machine.cause().contains("baseline") || busy.group.machine.cause().contains("longer than"));
    }
}

/// Everything that must not move traffic, though replies are slow for a minute.
#[test]
fn nothing_is_left_for_what_is_not_surely_faster() {
    let cases = [
        ("all are slow together", MS(200), [MS(200), MS(200)]),
        ("the other is far away and no faster", MS(100), [MS(100), MS(60)]),
        ("heavy commands: probes are as quick as ever", MS(80), [MS(3), MS_1]),
        ("the other does not answer", MS(300), [MS(300), MS(900)]),
    ];
    for (what, replies, probes) in cases {
        let mut busy = Busy::new(settings());
        busy.group.forget();
        busy.run(60, Speeds { replies, probes });
        assert_eq!(busy.switches(), [], "{what}");
        assert!(busy.group.machine.members().next().unwrap().degraded.is_some(), "{what}: it is told");
    }
}

#[test]
fn an_operators_will_and_a_switch_that_is_off_leave_it_alone() {
    let gray = Speeds { replies: MS(300), probes: [MS(300), MS_1] };
    let mut busy = Busy::new(settings());
    busy.group.order(Command::Stay { backend: HEAVY, length: MS(60_000) });
    busy.group.forget();
    busy.run(30, gray);
    assert_eq!(busy.switches(), []);

    let mut off = settings();
    (off.detector.latency.factor, off.detector.latency.timeout_rate) = (0.0, 0.0);
    let mut busy = Busy::new(off);
    busy.group.forget();
    busy.run(60, gray);
    assert_eq!(busy.switches(), []);
    assert_eq!(busy.group.machine.members().next().unwrap().degraded, None);
}

/// Slow still, though every probe is good: nobody returns to it. Quick again: grace, hold time, and back.
#[test]
fn a_slow_backend_is_returned_to_when_its_probes_are_as_quick_as_they_were() {
    let mut busy = Busy::new(settings());
    let gray = Speeds { replies: MS(200), probes: [MS(200), MS_1] };
    busy.group.forget();
    busy.run(600, gray);
    assert_eq!(busy.switches(), [slow()], "no ping-pong");
    let view = busy.group.machine.members().next().unwrap();
    assert_eq!((view.is_healthy, view.clean_since), (false, None));
    busy.run(30, FAST);
    assert_eq!(busy.switches()[1..], [(Some(LIGHT), HEAVY, "failback".to_owned())]);
}

/// It comes and goes for ten minutes: the flap guard bounds the leaving of what is merely slow, too.
#[test]
fn slowness_that_comes_and_goes_is_bounded() {
    let mut busy = Busy::new(settings());
    let gray = Speeds { replies: MS(200), probes: [MS(200), MS_1] };
    busy.group.forget();
    for _ in 0..7 {
        busy.run(10, gray);
        busy.run(70, FAST);
    }
    assert!(busy.switches().len() <= 4, "{:?}", busy.switches());
}

/// A slow one is better than none.
#[test]
fn when_the_other_dies_the_slow_one_serves_at_once() {
    let mut busy = Busy::new(settings());
    let gray = Speeds { replies: MS(200), probes: [MS(200), MS_1] };
    busy.run(6, gray);
    assert_eq!(busy.group.state().1, Some(LIGHT));
    busy.run(4, gray);
    busy.group.forget();
    busy.group.lose(LIGHT);
    busy.group.acknowledge();
    assert_eq!(busy.group.state().1, Some(HEAVY));
}

/// What a slow active cannot answer within the drain is judged as if it were dead.
#[test]
fn a_slow_active_that_does_not_drain_is_cut() {
    let mut group = Group::serving(settings());
    let fault = Fault { reason: Reason::Slow, cause: "p99".into(), since: group.now };
    group.machine.leave_slow(group.now, LIGHT, fault);
    group.pass(MS(1));
    group.re_probe(LIGHT, good());
    assert!(matches!(group.state().2, Phase::Hold { .. }));
    group.pass(MS(1000));
    assert!(matches!(group.state().2, Phase::Cut { .. }), "{:?}", group.state());
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.machine.members().next().unwrap().breaker.label(), "open");
}
