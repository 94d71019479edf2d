//! The virtual clock, what happens on it, and the machine between its workers and its probers.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use fastrand::Rng;
use handover::channels::{BackendId, Command, Route, WorkerReport};
use handover::logic::detector::{Reading, Sample};
use handover::logic::failover::{BackendSpec, Failover, GroupSettings, Output, Saved};

use super::backend::{Backend, State, Way};
use super::prober::Prober;
use super::rules::Rules;
use super::worker::Worker;

pub fn id(index: usize) -> BackendId {
    BackendId(u16::try_from(index).expect("a handful of backends"))
}

pub fn index(id: BackendId) -> usize {
    usize::from(id.0)
}

/// What clients send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Commands each time.
    pub commands: u64,
    /// Share of a worker's ticks at which its clients ask something.
    pub share: f64,
    /// Share of planned switches at which a worker does not drain in time.
    pub slow: f64,
}

impl Load {
    pub const NONE: Self = Self { commands: 0, share: 0.0, slow: 0.0 };
    pub const HEAVY: Self = Self { commands: 100, share: 1.0, slow: 0.0 };

    pub fn asks_now(self, rng: &mut Rng) -> bool {
        self.share >= 1.0 || (self.share > 0.0 && rng.f64() < self.share)
    }
}

#[derive(Debug)]
pub enum Act {
    Report(WorkerReport),
    /// A worker looks at the route.
    See(usize),
    /// A worker's thread goes on.
    Wake(usize),
    Probe(usize, u64),
    Answered(usize, u64),
    TimedOut(usize, u64),
    Change(usize, State),
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
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub settings: GroupSettings,
    pub start: Instant,
    pub now: Instant,
    pub machine: Failover,
    pub backends: Vec<Backend>,
    pub workers: Vec<Worker>,
    pub probers: Vec<Prober>,
    queue: BinaryHeap<Reverse<Due>>,
    pub number: u64,
    pub route: Route,
    pub load: Load,
    /// Share of probes that fail by chance.
    pub chance_loss: f64,
    /// Share of the looks at a route before which a worker's thread is held up.
    pub held_up: f64,
    /// What was kept, and when.
    saved: Option<(Instant, Saved)>,
    pub rules: Rules,
    /// Everything that could be a reason for a switch.
    pub faults: usize,
    /// Tells what happens.
    pub is_told: bool,
}

fn specs(backends: &[Backend]) -> Vec<BackendSpec> {
    let spec = |(index, backend): (usize, &Backend)| BackendSpec {
        id: id(index),
        name: format!("b{index}"),
        weight: backend.weight,
        health: None,
        breaker: None,
    };
    backends.iter().enumerate().map(spec).collect()
}

impl World {
    pub fn new(seed: u64, settings: GroupSettings, weights: &[f64], workers: usize) -> Self {
        let start = Instant::now() + Duration::from_secs(1_000_000);
        let backends: Vec<Backend> = weights.iter().map(|weight| Backend::new(*weight, start)).collect();
        Self {
            seed,
            rng: Rng::with_seed(seed),
            machine: Failover::new(start, settings.clone(), specs(&backends), workers, None),
            rules: Rules::new(seed, weights, start),
            settings,
            start,
            now: start,
            workers: vec![Worker::new(backends.len()); workers],
            probers: vec![Prober::new(); backends.len()],
            backends,
            queue: BinaryHeap::new(),
            number: 0,
            route: Route::unknown(),
            load: Load::HEAVY,
            chance_loss: 0.0,
            held_up: 0.0,
            saved: None,
            faults: 0,
            is_told: std::env::var_os("CONTROL_SEED").is_some(),
        }
    }

    fn tell(&self, what: impl std::fmt::Debug) {
        if self.is_told {
            eprintln!("{:>9.3} s  {what:?}", (self.now - self.start).as_secs_f64());
        }
    }

    pub fn at(&mut self, at: Instant, act: Act) {
        self.number += 1;
        self.queue.push(Reverse(Due(at, self.number, act)));
    }

    pub fn after(&mut self, delay: Duration, act: Act) {
        self.at(self.now + delay, act);
    }

    pub fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    /// Runs on for so long; the supervisor looks at the vitals every `tick`.
    pub fn run(&mut self, time: Duration, tick: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.tick();
            let next = self.now + tick;
            while let Some(at) = self.next_before(next) {
                self.now = at.max(self.now);
                self.advance();
            }
            self.now = next.max(self.now);
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
            self.act(act);
        }
        self.carry_out();
        self.obey(Rules::check_always);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Report(report) => {
                self.rules.on_report(&report);
                self.machine.on_worker(self.now, report);
            }
            Act::See(worker) => {
                if self.rng.f64() < self.held_up {
                    let length = self.up_to(Duration::from_millis(120));
                    self.hold_up(worker, length);
                }
                self.look_at_route(worker);
            }
            Act::Wake(worker) => {
                self.workers[worker].is_stuck = false;
                self.look_at_route(worker);
            }
            Act::Probe(backend, number) => self.send_probe(backend, number),
            Act::Answered(backend, number) => self.on_answer(backend, number),
            Act::TimedOut(backend, number) => self.on_timeout(backend, number),
            Act::Change(backend, state) => self.set(backend, state),
        }
    }

    fn tick(&mut self) {
        for worker in 0..self.workers.len() {
            self.serve_clients(worker);
        }
        for backend in 0..self.backends.len() {
            self.probe_if_due(backend);
        }
        self.look();
        let jitter = self.rng.f64();
        self.machine.on_tick(self.now, jitter);
        self.carry_out();
        self.obey(Rules::check_always);
        self.obey(Rules::check_route);
    }

    /// The supervisor reads the vitals of all workers.
    pub fn look(&mut self) {
        let sample = |backend: usize| {
            let readings: Vec<Reading> = self.workers.iter().map(|worker| worker.links[backend].reading).collect();
            Sample::merge(&readings)
        };
        let samples: Vec<Sample> = (0..self.backends.len()).map(sample).collect();
        self.machine.on_vitals(self.now, &samples);
    }

    pub fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Publish(route) => self.publish(route),
                Output::ProbeNow(backend) => self.ask(index(backend)),
                Output::Log(event) => {
                    self.tell(&event);
                    self.rules.on_event(self.now, &event, self.route.active);
                }
                Output::Persist(saved) => self.saved = Some((self.now, saved)),
                // None of these backends is a replica of another.
                Output::Promote(_) | Output::Dismiss(_) => {}
            }
        }
    }

    fn publish(&mut self, route: Route) {
        self.tell(&route);
        let old = std::mem::replace(&mut self.route, route);
        self.obey(|rules, world| rules.on_route(&old, world));
        for worker in 0..self.workers.len() {
            let delay = self.up_to(Duration::from_millis(1));
            self.after(delay, Act::See(worker));
        }
    }

    /// Lets the rules look at everything.
    fn obey(&mut self, rule: impl FnOnce(&mut Rules, &Self)) {
        let mut rules = std::mem::take(&mut self.rules);
        rule(&mut rules, self);
        self.rules = rules;
    }

    /// A change of what is true.
    pub fn change(&mut self, backend: usize, change: impl FnOnce(&mut Backend)) {
        change(&mut self.backends[backend]);
        self.backends[backend].since = self.now;
        self.faults += 1;
        self.tell((backend, &self.backends[backend]));
    }

    pub fn set(&mut self, backend: usize, state: State) {
        if self.backends[backend].state != state {
            self.change(backend, |backend| backend.state = state);
        }
    }

    pub fn set_ways(&mut self, backend: usize, data: Way, probes: Way) {
        self.change(backend, |backend| (backend.data, backend.probes) = (data, probes));
    }

    pub fn order(&mut self, command: Command) {
        self.faults += 1;
        let result = self.machine.on_operator(self.now, command.clone());
        self.tell((command.clone(), result));
        self.rules.on_order(self.now, command, result.is_ok(), self.route.active);
        self.carry_out();
    }

    /// What was to befall backends does not.
    pub fn forget_changes(&mut self) {
        self.queue.retain(|Reverse(due)| !matches!(due.2, Act::Change(..)));
    }

    /// The process is stopped for so long, and goes on.
    pub fn pause(&mut self, length: Duration) {
        self.now += length;
        self.faults += 1;
        self.tell(("stopped for", length));
        self.rules.on_pause(self.now, length);
        // A worker that looks first says nothing of the silence; else the supervisor sees what was there before.
        for reading in self.workers.iter_mut().flat_map(|worker| &mut worker.links).map(|link| &mut link.reading) {
            if self.rng.bool() {
                reading.waiting_since = None;
            }
        }
        if self.rng.bool() {
            self.look();
            self.carry_out();
        }
    }

    /// The process ends, and another begins after so long, with what was kept.
    pub fn restart(&mut self, length: Duration) {
        self.now += length;
        self.faults += 1;
        let saved = self.saved.take().map(|(at, saved)| older(saved, self.now - at));
        self.tell(("restarted", length, &saved));
        let workers = self.workers.len();
        self.machine = Failover::new(self.now, self.settings.clone(), specs(&self.backends), workers, saved.as_ref());
        self.workers = vec![Worker::new(self.backends.len()); workers];
        self.probers = vec![Prober::new(); self.backends.len()];
        self.queue.retain(|Reverse(due)| matches!(due.2, Act::Change(..)));
        self.route = Route::unknown();
        self.saved = saved.map(|saved| (self.now, saved));
        let weights: Vec<f64> = self.backends.iter().map(|backend| backend.weight).collect();
        self.rules.on_restart(self.now, &weights);
    }
}

/// What is left of what was kept.
fn older(mut saved: Saved, passed: Duration) -> Saved {
    saved.breakers.iter_mut().for_each(|breaker| breaker.left = breaker.left.saturating_sub(passed));
    saved.stay.iter_mut().chain(&mut saved.bans).for_each(|(_, left)| *left = left.saturating_sub(passed));
    saved
}
