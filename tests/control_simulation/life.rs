//! Faults, orders and restarts at random for a while, then quiet.

use std::time::Duration;

use fastrand::Rng;
use handover::channels::{Availability, BackendId, Command, Manner};
use handover::logic::settings::{Failback, InitialPolicy, NoneHealthy};

use super::backend::{State, Way};
use super::settings::{hasty, round_max};
use super::world::{Load, World, id};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;
/// Orders that hold for a time hold at most so long.
const ORDER_MAX: Duration = Duration::from_secs(15);

pub struct Life {
    world: World,
    /// Chooses what happens; the world's own chooses how long things take.
    rng: Rng,
    tick: Duration,
}

/// Whatever fails, the group ends on the heaviest that stays healthy; the rules hold all the time.
pub fn live(seed: u64) {
    let mut life = Life::new(seed);
    life.suffer();
    life.recover();
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let preset = ["default", "default", "default", "default", "fast", "conservative", "redis-clients"];
        let mut settings = hasty(preset[rng.usize(0..preset.len())]);
        settings.failover.failback = match rng.u8(0..10) {
            0 => Failback::Manual,
            1 => Failback::Never,
            _ => Failback::Auto,
        };
        settings.failover.initial = match rng.u8(0..6) {
            0 => InitialPolicy::Majority,
            1 => InitialPolicy::All,
            _ => InitialPolicy::One,
        };
        if rng.u8(0..6) == 0 {
            settings.failover.none_healthy = NoneHealthy::Refuse;
        }
        let weights: Vec<f64> = (0..rng.usize(2..=5)).map(|_| f64::from(rng.u8(1..=3))).collect();
        let tick = (settings.detector.hang_timeout / 10).clamp(MS(10), MS(250));
        let mut world = World::new(seed, settings, &weights, rng.usize(1..=4));
        world.load = match rng.u8(0..4) {
            0 => Load::NONE,
            1 => Load { commands: 1, share: 0.2, slow: 0.0 },
            _ => Load::HEAVY,
        };
        world.load.slow = if rng.bool() { 0.1 } else { 0.0 };
        world.chance_loss = if rng.bool() { 0.02 } else { 0.0 };
        world.held_up = if rng.bool() { 0.2 } else { 0.0 };
        Self { world, rng, tick }
    }

    fn suffer(&mut self) {
        let calm = self.rng.u64(1..=8);
        let end = self.world.now + round_max(&self.world.settings) * 2 + SECONDS(25);
        while self.world.now < end {
            self.befall();
            let pause = MS(self.rng.u64(50..=calm * 1000));
            self.world.run(pause, self.tick);
        }
    }

    /// One thing happens.
    fn befall(&mut self) {
        let backend = self.rng.usize(0..self.world.backends.len());
        match self.rng.u8(0..32) {
            0..=7 => self.world.set(backend, State::Up),
            8..=10 => self.world.set(backend, State::Dead),
            11..=12 => self.world.set(backend, State::Hung),
            13 => self.world.set(backend, State::ReadOnly),
            14 => self.world.set(backend, State::Busy),
            15 => self.start_again(backend),
            16..=17 => self.break_ways(backend),
            18 => self.world.set_ways(backend, Way::Open, Way::Open),
            19 => self.slow_down(backend),
            20 => self.flap(backend),
            21 => self.fail_all_probes(),
            22 => self.world.reset_connections(backend),
            23 => {
                let length = MS(self.rng.u64(10..=12_000));
                self.world.pause(length);
            }
            24 => {
                let worker = self.rng.usize(0..self.world.workers.len());
                let length = MS(self.rng.u64(1..=80));
                self.world.hold_up(worker, length);
            }
            25 => {
                let length = MS(self.rng.u64(0..=3000));
                self.world.restart(length);
            }
            _ => self.order(backend),
        }
    }

    /// Killed, and started with the data of its disk.
    fn start_again(&mut self, backend: usize) {
        self.world.set(backend, State::Dead);
        let (dead, loads) = (MS(self.rng.u64(0..=2000)), MS(self.rng.u64(0..=3000)));
        self.world.after(dead, super::world::Act::Change(backend, State::Loading));
        self.world.after(dead + loads, super::world::Act::Change(backend, State::Up));
    }

    fn break_ways(&mut self, backend: usize) {
        let way = if self.rng.bool() { Way::RequestsLost } else { Way::RepliesLost };
        let (data, probes) = match self.rng.u8(0..3) {
            0 => (way, Way::Open),
            1 => (Way::Open, way),
            _ => (way, way),
        };
        self.world.set_ways(backend, data, probes);
    }

    fn slow_down(&mut self, backend: usize) {
        let (latency, loss) = match self.rng.u8(0..4) {
            0 => (Duration::ZERO, 0.0),
            1 => (MS(self.rng.u64(1..=400)), 0.0),
            2 => (Duration::ZERO, 0.05),
            _ => (MS(50), 0.2),
        };
        self.world.change(backend, |backend| (backend.latency, backend.loss) = (latency, loss));
    }

    fn flap(&mut self, backend: usize) {
        let period = MS(self.rng.u64(100..=2000));
        let bad = [State::Dead, State::Hung, State::ReadOnly][self.rng.usize(0..3)];
        for round in 0..self.rng.u32(1..=6) {
            self.world.after(period * (2 * round), super::world::Act::Change(backend, bad));
            self.world.after(period * (2 * round + 1), super::world::Act::Change(backend, State::Up));
        }
    }

    fn fail_all_probes(&mut self) {
        for backend in 0..self.world.backends.len() {
            let data = self.world.backends[backend].data;
            self.world.set_ways(backend, data, Way::RequestsLost);
        }
    }

    fn order(&mut self, backend: usize) {
        let (backend, length) = (id(backend), ORDER_MAX.mul_f64(self.rng.f64()));
        let command = match self.rng.u8(0..8) {
            0 => Command::Switch { to: backend, manner: Manner::Forced },
            1 | 2 => Command::Switch { to: backend, manner: Manner::Planned },
            3 => Command::SetWeight { backend, weight: f64::from(self.rng.u8(1..=4)) },
            4 => Command::Stay { backend, length },
            5 => Command::EndStay,
            6 => Command::Ban { backend, length },
            _ => Command::EndBan { backend },
        };
        self.world.order(command);
    }

    /// The faults stop. One backend is well from now on, and others may be.
    fn recover(&mut self) {
        let all_must = self.world.settings.failover.initial != InitialPolicy::One;
        let safe = self.rng.usize(0..self.world.backends.len());
        self.world.forget_changes();
        for backend in 0..self.world.backends.len() {
            let is_well = backend == safe || all_must || self.rng.u8(0..3) > 0;
            let state = if is_well { State::Up } else { State::Dead };
            self.world.set(backend, state);
            self.world.set_ways(backend, Way::Open, Way::Open);
            self.world.change(backend, |backend| (backend.latency, backend.loss) = (Duration::ZERO, 0.0));
        }
        (self.world.chance_loss, self.world.held_up, self.world.load.slow) = (0.0, 0.0, 0.0);
        let most = self.world.now + self.quiet_max();
        let mut rests = 0;
        while self.world.now < most && rests < 3 {
            self.world.run(SECONDS(2), self.tick * 2);
            rests = if self.is_at_rest() { rests + 1 } else { 0 };
        }
        let (route, seed, best) = (&self.world.route, self.world.seed, self.best());
        assert!(self.is_at_rest(), "seed {seed}: ends on {route:?}, best are {best:?}");
        let (switches, most) = (self.world.rules.switches, 2 * self.world.faults + 1);
        assert!(switches <= most, "seed {seed}: {switches} switches for {} faults", self.world.faults);
    }

    /// Orders run out, graces end, backends rise, and a failback that was called off waits a minute at most.
    fn quiet_max(&self) -> Duration {
        let settings = &self.world.settings;
        let health = &settings.health;
        let rise =
            (health.standby_interval.max(health.interval).mul_f64(1.2) + round_max(settings)) * (health.rise + 3);
        let hold = settings.failover.failback_hold.mul_f64(1.0 + settings.failover.failback_jitter);
        ORDER_MAX + settings.breaker.grace_max + rise + hold.max(settings.failover.switches_window) + SECONDS(65)
    }

    fn is_at_rest(&self) -> bool {
        let route = &self.world.route;
        let is_best = route.active.is_some_and(|active| self.best().contains(&active));
        is_best && route.availability == Availability::Healthy && self.world.machine.is_settled()
    }

    /// Where it may end: with failback, on the heaviest that is up; else on any.
    fn best(&self) -> Vec<BackendId> {
        let world = &self.world;
        let up = (0..world.backends.len()).filter(|index| world.backends[*index].state == State::Up);
        let up: Vec<usize> = up.collect();
        let most = up.iter().map(|index| world.rules.weight(*index)).fold(0.0, f64::max);
        let is_auto = world.settings.failover.failback == Failback::Auto;
        up.into_iter().filter(|index| !is_auto || world.rules.weight(*index) == most).map(id).collect()
    }
}
