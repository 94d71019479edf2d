//! The decision machine of a group against simulated backends, probers and workers, on a clock of its own.
//! Each run follows from its seed alone; a failure names the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use handover::channels::{BackendId, Judged, Phase, ProbeReport, ProbeVerdict, Route, WorkerReport};
use handover::logic::detector::{Reading, Sample};
use handover::logic::failover::{BackendSpec, Event, Failover, GroupSettings, Output, Reason};
use handover::logic::health::{Cadence, Circumstances};
use handover::logic::settings::{
    BreakerSettings, DetectorSettings, Failback, FailoverSettings, HealthSettings, InitialPolicy, LatencySettings,
    NoneHealthy, ProbeMode, ProbePolicy,
};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// The default settings of the configuration.
fn defaults() -> GroupSettings {
    GroupSettings {
        health: HealthSettings {
            modes: vec![ProbeMode::Write],
            interval: MS(500),
            timeout: MS(500),
            jitter: 0.2,
            standby_interval: SECONDS(2),
            accept_interval: SECONDS(10),
            fall: 3,
            rise: 3,
            probes: 1,
            probes_delay: MS(100),
            policy: ProbePolicy::All,
            probe_key: "handover:probe".into(),
        },
        detector: DetectorSettings {
            hang_timeout: SECONDS(1),
            suspect_after: MS(50),
            slow_timeout: SECONDS(6),
            window: SECONDS(2),
            failures_min: 5,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        },
        breaker: BreakerSettings { grace: SECONDS(60), grace_max: SECONDS(600) },
        failover: FailoverSettings {
            hold: MS(1500),
            drain: SECONDS(1),
            failback: Failback::Auto,
            failback_hold: SECONDS(60),
            failback_jitter: 0.1,
            switches_max: 3,
            switches_window: SECONDS(600),
            initial: InitialPolicy::One,
            attempts: 0,
            delay: SECONDS(1),
            none_healthy: NoneHealthy::LastActive,
            checks_cursors: true,
        },
    }
}

/// The same with shorter times, so that a minute shows all of it.
fn hasty() -> GroupSettings {
    let mut settings = defaults();
    settings.breaker = BreakerSettings { grace: SECONDS(4), grace_max: SECONDS(16) };
    settings.failover.failback_hold = SECONDS(4);
    settings.failover.switches_window = SECONDS(20);
    settings
}

fn id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("a handful of backends"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Up,
    Killed,
    Hung,
    ReadOnly,
}

struct Backend {
    weight: f64,
    truth: Truth,
    since: Instant,
    cadence: Cadence,
    jitter: f64,
    /// The end of the round that is out, and its number: a broken-off round's report is not delivered.
    round: Option<(u64, bool)>,
    asked: bool,
    /// Failed rounds in a row that were delivered and that no live reply contradicts.
    bad: u32,
}

#[derive(Clone, Default)]
struct Link {
    is_open: bool,
    retry_at: Option<Instant>,
    reading: Reading,
}

struct Worker {
    route: Route,
    links: Vec<Link>,
}

#[derive(Debug)]
enum Act {
    Say(WorkerReport),
    Probe(u64, ProbeReport),
    See(usize, Route),
}

/// Ordered by time, then by number.
struct Due(Instant, u64, Act);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct World {
    seed: u64,
    rng: Rng,
    settings: GroupSettings,
    start: Instant,
    now: Instant,
    machine: Failover,
    backends: Vec<Backend>,
    workers: Vec<Worker>,
    queue: BinaryHeap<Reverse<Due>>,
    number: u64,
    route: Route,
    has_traffic: bool,
    /// Share of probes that fail by chance.
    loss: f64,
    /// Share of acknowledgements that come late, or of drains that never end.
    late: f64,
    bad_since: Option<Instant>,
    switches: Vec<(Instant, Reason)>,
}

impl World {
    fn new(seed: u64, settings: GroupSettings, weights: &[f64], workers: usize) -> Self {
        let start = Instant::now() + SECONDS(1_000_000);
        let spec = |(index, weight): (usize, &f64)| BackendSpec {
            id: id(index),
            name: format!("b{index}"),
            weight: *weight,
            health: None,
            breaker: None,
        };
        let specs = weights.iter().enumerate().map(spec).collect();
        let backend = |weight: &f64| Backend {
            weight: *weight,
            truth: Truth::Up,
            since: start,
            cadence: Cadence::default(),
            jitter: 0.5,
            round: None,
            asked: false,
            bad: 0,
        };
        let worker = || Worker { route: Route::unknown(), links: vec![Link::default(); weights.len()] };
        Self {
            seed,
            rng: Rng::with_seed(seed),
            machine: Failover::new(start, settings.clone(), specs, workers, None),
            settings,
            start,
            now: start,
            backends: weights.iter().map(backend).collect(),
            workers: (0..workers).map(|_| worker()).collect(),
            queue: BinaryHeap::new(),
            number: 0,
            route: Route::unknown(),
            has_traffic: true,
            loss: 0.0,
            late: 0.0,
            bad_since: None,
            switches: Vec::new(),
        }
    }

    fn at(&mut self, delay: Duration, act: Act) {
        self.number += 1;
        self.queue.push(Reverse(Due(self.now + delay, self.number, act)));
    }

    fn up_to_ms(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.u64(0..=most * 1000))
    }

    fn set(&mut self, backend: usize, truth: Truth) {
        if self.backends[backend].truth != truth {
            self.backends[backend].truth = truth;
            self.backends[backend].since = self.now;
        }
    }

    /// Runs on for so long; time is looked at every `tick`.
    fn run(&mut self, time: Duration, tick: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
            let next = self.now + tick;
            while let Some(at) = self.next_before(next) {
                self.now = at.max(self.now);
                self.advance();
            }
            self.now = next;
        }
    }

    fn next_before(&self, limit: Instant) -> Option<Instant> {
        let queued = self.queue.peek().map(|Reverse(due)| due.0);
        queued.into_iter().chain(self.machine.next_deadline()).min().filter(|at| *at < limit)
    }

    /// The earliest act, or the machine's own deadline.
    fn advance(&mut self) {
        let is_due = self.queue.peek().is_some_and(|Reverse(due)| due.0 <= self.now);
        if !is_due {
            let before = self.machine.next_deadline();
            let jitter = self.rng.f64();
            self.machine.on_tick(self.now, jitter);
            let after = self.machine.next_deadline();
            assert!(after.is_none_or(|at| at > self.now), "seed {}: stuck at {before:?}", self.seed);
        } else if let Some(Reverse(Due(_, _, act))) = self.queue.pop() {
            match act {
                Act::Say(report) => self.machine.on_worker(self.now, report),
                Act::Probe(number, report) => self.deliver(number, &report),
                Act::See(worker, route) => self.see(worker, route),
            }
        }
        self.carry_out();
    }

    fn tick(&mut self) {
        for worker in 0..self.workers.len() {
            self.traffic(worker);
        }
        for backend in 0..self.backends.len() {
            self.probe_if_due(backend);
        }
        self.look();
        let jitter = self.rng.f64();
        self.machine.on_tick(self.now, jitter);
        self.carry_out();
        self.check_route_is_good();
    }

    fn look(&mut self) {
        let sample = |backend: usize| {
            let readings: Vec<Reading> = self.workers.iter().map(|worker| worker.links[backend].reading).collect();
            Sample::merge(&readings)
        };
        let samples: Vec<Sample> = (0..self.backends.len()).map(sample).collect();
        self.machine.on_vitals(self.now, &samples);
    }

    /// A worker's clients ask something of the active that it knows.
    fn traffic(&mut self, worker: usize) {
        let (Some(active), Phase::Serve) = (self.workers[worker].route.active, self.workers[worker].route.phase) else {
            return;
        };
        if !self.has_traffic {
            return;
        }
        let (index, now) = (usize::from(active.0), self.now);
        let truth = self.backends[index].truth;
        let link = &mut self.workers[worker].links[index];
        let report = match truth {
            Truth::Up => {
                link.reading.last_byte = Some(now);
                link.reading.waiting_since = None;
                link.reading.successes += 100;
                self.backends[index].bad = 0;
                if std::mem::replace(&mut link.is_open, true) {
                    return;
                }
                WorkerReport::Connected { backend: active, at: now }
            }
            Truth::Killed if std::mem::replace(&mut link.is_open, false) => {
                link.reading.failures += 10;
                link.reading.waiting_since = None;
                let (epoch, cause) = (self.route.epoch, "closed by the server".to_owned());
                WorkerReport::LinkLost { backend: active, epoch, at: now, cause }
            }
            Truth::Killed if link.retry_at.is_none_or(|at| now >= at) => {
                link.retry_at = Some(now + MS(500));
                link.reading.failures += 1;
                WorkerReport::ConnectFailed { backend: active, at: now, cause: "refused".to_owned() }
            }
            Truth::Killed => return,
            Truth::Hung => {
                link.reading.waiting_since.get_or_insert(now);
                return;
            }
            Truth::ReadOnly => {
                link.is_open = true;
                link.reading.last_byte = Some(now);
                link.reading.waiting_since = None;
                link.reading.failures += 1;
                WorkerReport::CannotServe { backend: active, at: now, word: "READONLY" }
            }
        };
        let delay = self.up_to_ms(1);
        self.at(delay, Act::Say(report));
    }

    fn probe_if_due(&mut self, index: usize) {
        let is_active = self.route.active.is_some_and(|id| usize::from(id.0) == index);
        let is_hurried = is_active || !self.machine.members().any(|member| member.is_healthy);
        let live_reply = self.workers.iter().filter_map(|worker| worker.links[index].reading.last_byte).max();
        let backend = &self.backends[index];
        let about = Circumstances { is_hurried, live_reply };
        let due = backend.cadence.due(&self.settings.health, self.now, about, backend.jitter);
        if backend.round.is_none() && self.now >= due {
            self.probe(index, false);
        }
    }

    /// A question of the supervisor breaks off a due round, and waits for an immediate one.
    fn ask(&mut self, index: usize) {
        match self.backends[index].round {
            Some((_, true)) => self.backends[index].asked = true,
            Some((_, false)) | None => self.probe(index, true),
        }
    }

    fn probe(&mut self, index: usize, immediate: bool) {
        let is_lost = self.rng.f64() < self.loss;
        let soon = self.up_to_ms(if immediate { 1 } else { 50 });
        let silent = ProbeVerdict::Failed { cause: "no reply".into(), refused: false };
        let (took, verdict) = match self.backends[index].truth {
            Truth::Hung => (MS(500), silent),
            _ if is_lost => (MS(500), silent),
            Truth::Up => (soon, ProbeVerdict::Good { server: None, role: None, warning: None }),
            Truth::Killed => (soon, ProbeVerdict::Failed { cause: "refused".into(), refused: true }),
            Truth::ReadOnly => (soon, ProbeVerdict::CannotServe { reply: "READONLY no".into() }),
        };
        let backend = id(index);
        let report = ProbeReport { backend, started_at: self.now, ended_at: self.now + took, verdict, immediate };
        self.at(took, Act::Probe(self.number + 1, report));
        self.backends[index].round = Some((self.number, immediate));
        self.backends[index].jitter = self.rng.f64();
    }

    fn deliver(&mut self, number: u64, report: &ProbeReport) {
        let index = usize::from(report.backend.0);
        let backend = &mut self.backends[index];
        if backend.round.is_none_or(|(out, _)| out != number) {
            return;
        }
        backend.round = None;
        backend.cadence.on_round(report.started_at, report.immediate, &report.verdict);
        backend.bad = match report.verdict {
            ProbeVerdict::Good { .. } => 0,
            ProbeVerdict::CannotServe { .. } => self.settings.health.fall,
            _ => backend.bad + 1,
        };
        let asked = std::mem::take(&mut backend.asked);
        self.look();
        self.machine.on_probe(self.now, report);
        if asked {
            self.probe(index, true);
        }
    }

    fn see(&mut self, worker: usize, route: Route) {
        let before = std::mem::replace(&mut self.workers[worker].route, route.clone());
        let is_late = self.rng.f64() < self.late;
        match route.phase {
            Phase::Cut { attempt, .. } => {
                let delay = self.up_to_ms(if is_late { 120 } else { 1 });
                self.at(delay, Act::Say(WorkerReport::Stopped { worker, attempt }));
            }
            Phase::Hold { attempt, .. } if !is_late => {
                let delay = self.up_to_ms(200);
                self.at(delay, Act::Say(WorkerReport::Drained { worker, attempt }));
            }
            Phase::Hold { .. } => {}
            Phase::Serve if route.epoch > before.epoch => {
                for link in &mut self.workers[worker].links {
                    link.reading.waiting_since = None;
                }
                let judged = Judged { moved: 1, ..Judged::default() };
                self.at(Duration::ZERO, Act::Say(WorkerReport::Activated { worker, epoch: route.epoch, judged }));
            }
            Phase::Serve => {}
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Publish(route) => self.publish(route),
                Output::ProbeNow(backend) => self.ask(usize::from(backend.0)),
                Output::Log(Event::Switched(switched)) => {
                    assert!(switched.judged.moved <= self.workers.len() as u64, "seed {}: {switched:?}", self.seed);
                    self.switches.push((self.now, switched.reason));
                }
                Output::Log(_) | Output::Persist(_) | Output::Dismiss(_) | Output::Promote(_) => {}
            }
        }
    }

    /// Routes are a chain: one switch at a time, epochs grow by one, the active changes with the epoch only.
    fn publish(&mut self, route: Route) {
        let (old, new) = (&self.route, &route);
        let is_new_epoch = new.epoch == old.epoch + 1;
        assert!(new.epoch == old.epoch || is_new_epoch, "seed {}: {old:?} then {new:?}", self.seed);
        assert!(new.active == old.active || is_new_epoch, "seed {}: {old:?} then {new:?}", self.seed);
        let is_legal = match (old.phase, new.phase) {
            (Phase::Serve, Phase::Serve) => !is_new_epoch || old.epoch == 0,
            (Phase::Serve, Phase::Hold { .. } | Phase::Cut { .. }) => !is_new_epoch,
            (Phase::Hold { attempt: one, .. }, Phase::Cut { attempt: two, .. }) => two > one && !is_new_epoch,
            (Phase::Hold { attempt: one, .. }, Phase::Hold { attempt: two, .. }) => one == two,
            (Phase::Hold { .. }, Phase::Serve) => true,
            (Phase::Cut { attempt: one, .. }, Phase::Cut { attempt: two, .. }) => one == two,
            (Phase::Cut { .. }, Phase::Serve) => is_new_epoch,
            (Phase::Cut { .. }, Phase::Hold { .. }) => false,
        };
        assert!(is_legal, "seed {}: {old:?} then {new:?}", self.seed);
        self.route = route.clone();
        for worker in 0..self.workers.len() {
            let delay = self.up_to_ms(1);
            self.at(delay, Act::See(worker, route.clone()));
        }
    }

    /// Nobody stays on a backend that is bad while another is good: neither by the probes nor in truth.
    fn check_route_is_good(&mut self) {
        let Some(active) = self.route.active.map(|id| usize::from(id.0)) else { return };
        let is_other = |index: usize| index != active;
        let good: Vec<bool> =
            self.machine.members().map(|member| member.is_healthy && member.breaker.label() == "closed").collect();
        let by_probes = self.backends[active].bad >= self.settings.health.fall
            && (0..good.len()).any(|index| is_other(index) && good[index]);
        let since = if by_probes { *self.bad_since.get_or_insert(self.now) } else { self.now };
        if !by_probes {
            self.bad_since = None;
        }
        assert!(self.now <= since + MS(400), "seed {}: stays on b{active}, which fails its probes", self.seed);
        let long = |index: usize| self.now - self.backends[index].since;
        let is_long_bad = self.backends[active].truth != Truth::Up && long(active) > SECONDS(6);
        let mut others = (0..good.len()).filter(|index| is_other(*index));
        let is_better_there = others.any(|index| self.backends[index].truth == Truth::Up && long(index) > SECONDS(6));
        assert!(!(is_long_bad && is_better_there), "seed {}: stays on b{active}, which is bad", self.seed);
    }

    fn heaviest_up(&self) -> Vec<BackendId> {
        let up = |backend: &&Backend| backend.truth == Truth::Up;
        let most = self.backends.iter().filter(up).map(|backend| backend.weight).fold(0.0, f64::max);
        let is_best = |(_, backend): &(usize, &Backend)| up(&&**backend) && backend.weight == most;
        let best = self.backends.iter().enumerate().filter(is_best);
        best.map(|(index, _)| id(index)).collect()
    }

    fn random_fault(&mut self) {
        let index = self.rng.usize(0..self.backends.len());
        let truth = match self.rng.u8(0..6) {
            0 => Truth::Killed,
            1 => Truth::Hung,
            2 => Truth::ReadOnly,
            _ => Truth::Up,
        };
        self.set(index, truth);
    }
}

/// Faults at random for a while, then quiet: the group ends on the heaviest that stayed healthy.
fn random_life(seed: u64) {
    let mut rng = Rng::with_seed(seed ^ 0x5eed);
    let weights: Vec<f64> = (0..rng.usize(2..=4)).map(|_| f64::from(rng.u8(1..=3))).collect();
    let mut world = World::new(seed, hasty(), &weights, rng.usize(1..=3));
    world.has_traffic = rng.u8(0..4) > 0;
    world.loss = if rng.bool() { 0.02 } else { 0.0 };
    world.late = if rng.bool() { 0.2 } else { 0.0 };
    let calm = rng.u64(1..=8);
    while world.now < world.start + SECONDS(30) {
        world.random_fault();
        let pause = MS(rng.u64(50..=calm * 1000));
        world.run(pause, MS(100));
    }
    world.loss = 0.0;
    world.late = 0.0;
    let safe = rng.usize(0..weights.len());
    world.set(safe, Truth::Up);
    world.run(SECONDS(80), MS(250));
    let best = world.heaviest_up();
    let route = &world.route;
    assert!(route.active.is_some_and(|active| best.contains(&active)), "seed {seed}: {route:?}, best {best:?}");
    assert_eq!(route.phase, Phase::Serve, "seed {seed}");
}

#[test]
fn whatever_fails_the_group_ends_on_the_heaviest_that_stays_healthy() {
    for seed in 0..260 {
        random_life(seed);
    }
}

#[test]
fn whatever_fails_with_other_seeds() {
    for seed in 260..520 {
        random_life(seed);
    }
}

/// Switches after the first choice.
fn switches(world: &World) -> usize {
    world.switches.iter().filter(|(_, reason)| *reason != Reason::Start).count()
}

#[test]
fn a_backend_that_comes_and_goes_costs_two_switches_after_the_first() {
    for truth in [Truth::Killed, Truth::Hung, Truth::ReadOnly] {
        for seed in 0..6 {
            let mut world = World::new(seed, defaults(), &[2.0, 1.0], 2);
            world.has_traffic = seed % 2 == 0;
            world.run(MS(5000 + 137 * seed), MS(50));
            assert_eq!(world.route.active, Some(BackendId(0)));
            for _ in 0..300 {
                world.set(0, truth);
                world.run(SECONDS(1), MS(50));
                world.set(0, Truth::Up);
                world.run(SECONDS(1), MS(50));
            }
            let count = switches(&world);
            assert!(count <= 3, "{truth:?}, seed {seed}: {count} switches");
            assert!(count >= 1 || truth == Truth::Hung || !world.has_traffic, "{truth:?}, seed {seed}: none");
        }
    }
}

/// Up for five seconds and down for five, for ten minutes, with what comes of it in the ten minutes after.
#[test]
fn five_seconds_up_and_five_down_cost_four_switches_at_most() {
    for truth in [Truth::Killed, Truth::Hung, Truth::ReadOnly] {
        for seed in 0..4 {
            let mut world = World::new(seed, defaults(), &[2.0, 1.0], 2);
            world.has_traffic = seed % 2 == 0;
            world.run(MS(5000 + 337 * seed), MS(50));
            for _ in 0..60 {
                world.set(0, truth);
                world.run(SECONDS(5), MS(50));
                world.set(0, Truth::Up);
                world.run(SECONDS(5), MS(50));
            }
            assert!((1..=4).contains(&switches(&world)), "{truth:?}, seed {seed}: {} switches", switches(&world));
        }
    }
}

#[test]
fn a_day_of_lost_probes_switches_nothing() {
    let mut world = World::new(1, defaults(), &[2.0, 1.0], 1);
    world.loss = 0.01;
    world.run(SECONDS(86_400), MS(400));
    assert_eq!((switches(&world), world.route.active), (0, Some(BackendId(0))));
}

/// Without traffic only probes speak. One lost packet in a hundred costs a probe its timeout only if the packet
/// and its repetition are both lost, for the repetition comes after 200 ms; a probe has about four packets.
#[test]
fn an_idle_day_of_lost_packets_switches_nothing() {
    let mut world = World::new(2, defaults(), &[2.0, 1.0], 1);
    world.has_traffic = false;
    world.loss = 4.0 * 0.01 * 0.01;
    world.run(SECONDS(86_400), MS(400));
    assert_eq!((switches(&world), world.route.active), (0, Some(BackendId(0))));
}
