//! What must hold at every step. It remembers what happened by itself, in the plainest way, and never asks the machine
//! why.

use std::time::{Duration, Instant};

use handover::channels::{BackendId, Command, Manner, Phase, ProbeReport, ProbeVerdict, Route, WorkerReport};
use handover::logic::failover::{Event, MemberView, Reason};
use handover::logic::settings::{Failback, InitialPolicy};

use super::settings::{reaction_max, round_max};
use super::world::{World, id, index};

const MS: fn(u64) -> Duration = Duration::from_millis;
/// A forced switch goes on without those who do not acknowledge.
const CUT_MAX: Duration = Duration::from_millis(50);
/// Between a step's deadline and the tick at which it is seen.
const SLACK: Duration = Duration::from_millis(20);

/// What is remembered of a backend.
#[derive(Clone, Copy, Debug)]
struct Memory {
    weight: f64,
    /// Failed rounds in a row that no live reply contradicts.
    bad: u32,
    is_latest_good: bool,
    good_since: Option<Instant>,
    clean_since: Option<Instant>,
    down_at: Option<Instant>,
    /// The end of the grace that its breaker was last opened for.
    grace_ends: Option<Instant>,
    banned_until: Option<Instant>,
}

impl Memory {
    const fn new(weight: f64) -> Self {
        Self {
            weight,
            bad: 0,
            is_latest_good: false,
            good_since: None,
            clean_since: None,
            down_at: None,
            grace_ends: None,
            banned_until: None,
        }
    }

    fn is_banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }
}

/// A switch in the phase that workers see.
#[derive(Clone, Debug)]
struct Attempt {
    number: u64,
    since: Instant,
    acknowledged: Vec<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Rules {
    seed: u64,
    fall: u32,
    round: Duration,
    memories: Vec<Memory>,
    /// Since when the active has failed its probes while another could serve.
    bad_since: Option<Instant>,
    active_since: Option<Instant>,
    /// Since when Handover has run without a break.
    running_since: Option<Instant>,
    /// Switches that the flap guard counts, and their number since the very start.
    guarded: Vec<Instant>,
    pub switches: usize,
    stay: Option<(BackendId, Instant)>,
    forced: Option<(BackendId, Instant)>,
    unsettled_since: Option<Instant>,
    attempt: Option<Attempt>,
    /// The last active and its epoch, over restarts.
    last: Option<(BackendId, u64)>,
}

impl Rules {
    pub fn new(seed: u64, weights: &[f64], now: Instant) -> Self {
        let memories = weights.iter().map(|weight| Memory::new(*weight)).collect();
        Self { seed, memories, running_since: Some(now), ..Self::default() }
    }

    /// A backend's weight as it must be now.
    pub fn weight(&self, backend: usize) -> f64 {
        self.memories[backend].weight
    }

    pub fn on_probe(&mut self, report: &ProbeReport, last_byte: Option<Instant>, is_busy: bool) {
        let (fall, allowed) = (self.fall, self.round);
        let memory = &mut self.memories[index(report.backend)];
        let is_late = report.ended_at - report.started_at > allowed;
        let is_contradicted = last_byte.is_some_and(|byte| byte >= report.started_at) || is_busy;
        match &report.verdict {
            ProbeVerdict::Void => return,
            _ if is_late => return,
            ProbeVerdict::Failed { .. } if is_contradicted => {
                memory.good_since = None;
                return;
            }
            ProbeVerdict::Good { .. } => {
                memory.bad = 0;
                memory.is_latest_good = true;
                memory.good_since.get_or_insert(report.ended_at);
                memory.clean_since.get_or_insert(report.started_at);
                return;
            }
            ProbeVerdict::CannotServe { .. } => memory.bad = fall,
            ProbeVerdict::Failed { .. } => memory.bad += 1,
            ProbeVerdict::Busy { .. } => {}
        }
        memory.is_latest_good = false;
        memory.good_since = None;
        memory.clean_since = None;
    }

    pub fn on_report(&mut self, report: &WorkerReport) {
        if let WorkerReport::Drained { worker, attempt } | WorkerReport::Stopped { worker, attempt } = report
            && let Some(known) = self.attempt.as_mut().filter(|known| known.number == *attempt)
        {
            known.acknowledged.push(*worker);
        }
    }

    pub fn on_event(&mut self, now: Instant, event: &Event, active: Option<BackendId>) {
        match event {
            Event::BackendDown { backend, .. } => {
                let memory = &mut self.memories[index(*backend)];
                memory.down_at = Some(now);
                memory.clean_since = None;
                self.stay.take_if(|(on, _)| on == backend);
            }
            Event::BreakerOpened { backend, grace } => {
                self.memories[index(*backend)].grace_ends = Some(now + *grace);
            }
            Event::BackendUp { backend } if active == Some(*backend) => {
                let memory = &mut self.memories[index(*backend)];
                (memory.bad, memory.down_at, memory.grace_ends) = (0, None, None);
            }
            Event::SwitchCalledOff { to, .. } => {
                self.stay.take_if(|(on, _)| on == to);
                self.unsettled_since = None;
            }
            _ => {}
        }
    }

    pub fn on_order(&mut self, now: Instant, command: Command, is_taken: bool, active: Option<BackendId>) {
        if !is_taken {
            return;
        }
        match command {
            Command::Switch { to, manner } => {
                self.stay.take_if(|(on, _)| *on != to);
                if manner == Manner::Forced {
                    self.forced = Some((to, now));
                }
            }
            Command::SetWeight { backend, weight } => self.memories[index(backend)].weight = weight,
            Command::Stay { backend, length } => self.stay = Some((backend, now + length)),
            Command::EndStay => self.stay = None,
            Command::Ban { backend, length } => {
                assert_ne!(active, Some(backend), "seed {}: the active was banned", self.seed);
                self.memories[index(backend)].banned_until = Some(now + length);
            }
            Command::EndBan { backend } => self.memories[index(backend)].banned_until = None,
            #[allow(unreachable_patterns, reason = "orders to come are of no concern here")]
            _ => {}
        }
    }

    pub fn on_pause(&mut self, now: Instant, length: Duration) {
        let marks = [&mut self.bad_since, &mut self.unsettled_since];
        marks.into_iter().flatten().for_each(|at| *at += length);
        self.memories.iter_mut().filter_map(|memory| memory.good_since.as_mut()).for_each(|at| *at += length);
        self.forced.iter_mut().for_each(|(_, at)| *at += length);
        self.attempt.iter_mut().for_each(|attempt| attempt.since += length);
        self.running_since = Some(now);
    }

    pub fn on_restart(&mut self, now: Instant, weights: &[f64]) {
        for (memory, weight) in self.memories.iter_mut().zip(weights) {
            let Memory { down_at, grace_ends, banned_until, .. } = *memory;
            *memory = Memory { down_at, grace_ends, banned_until, ..Memory::new(*weight) };
        }
        let active = self.last.map(|(active, _)| active);
        let stay = self.stay.take_if(|(on, until)| Some(*on) == active && now < *until);
        *self = Self {
            seed: self.seed,
            memories: std::mem::take(&mut self.memories),
            switches: self.switches,
            last: self.last,
            stay,
            running_since: Some(now),
            ..Self::default()
        };
    }

    /// Routes are a chain: one switch at a time, epochs grow by one, the active changes with the epoch only.
    pub fn on_route(&mut self, old: &Route, world: &World) {
        let (new, seed) = (&world.route, self.seed);
        let is_new_epoch = new.epoch == old.epoch + 1;
        if old.active.is_some() {
            assert!(new.epoch == old.epoch || is_new_epoch, "seed {seed}: {old:?} then {new:?}");
            assert!(new.active == old.active || is_new_epoch, "seed {seed}: {old:?} then {new:?}");
            assert!(is_legal(old, new), "seed {seed}: {old:?} then {new:?}");
        } else if let Some(active) = new.active {
            let expected = match self.last {
                Some((last, epoch)) => epoch + u64::from(last != active),
                None => 1,
            };
            assert_eq!(new.epoch, expected, "seed {seed}: begins with {new:?} after {:?}", self.last);
        }
        assert!(new.standby.is_none() || new.standby != new.active, "seed {seed}: {new:?}");
        let is_standby_banned = new.standby.is_some_and(|id| self.memories[index(id)].is_banned(world.now));
        assert!(!is_standby_banned, "seed {seed}: a banned backend is the next: {new:?}");
        if let Some(active) = new.active
            && new.epoch != old.epoch
        {
            self.on_switch(old, active, world);
        }
        self.follow_attempt(world);
    }

    /// A new epoch begins.
    fn on_switch(&mut self, old: &Route, active: BackendId, world: &World) {
        let (seed, now, reason) = (self.seed, world.now, world.machine.reason().clone());
        let memory = self.memories[index(active)];
        assert!(!memory.is_banned(now), "seed {seed}: a banned backend became active: {:?}", world.route);
        if let Some((to, _)) = self.forced.take() {
            assert_eq!((active, &reason), (to, &Reason::Operator), "seed {seed}: the order was to switch to {to}");
        }
        if let (Some(attempt), Phase::Hold { .. } | Phase::Cut { .. }) = (self.attempt.take(), old.phase) {
            let is_complete = (0..world.workers.len()).all(|worker| attempt.acknowledged.contains(&worker));
            let is_overdue = matches!(old.phase, Phase::Cut { .. }) && now >= attempt.since + CUT_MAX;
            assert!(is_complete || is_overdue, "seed {seed}: switched without all workers: {attempt:?}");
        }
        if reason == Reason::Failback {
            self.check_failback(old, memory, world);
        }
        // A healthy active is never left against a stay, as `follow_attempt` holds.
        self.stay.take_if(|(on, _)| *on != active);
        self.switches += usize::from(reason != Reason::Start);
        if !matches!(reason, Reason::Start | Reason::Operator) {
            self.guarded.push(now);
        }
        let memory = &mut self.memories[index(active)];
        (memory.bad, memory.down_at, memory.grace_ends) = (0, None, None);
        self.last = Some((active, world.route.epoch));
        (self.bad_since, self.unsettled_since) = (None, None);
        self.active_since = Some(now);
    }

    /// To a heavier one that has been clean for long enough, in calm times, against nobody's will.
    fn check_failback(&self, old: &Route, to: Memory, world: &World) {
        let (seed, now, failover) = (self.seed, world.now, &world.settings.failover);
        assert_eq!(failover.failback, Failback::Auto, "seed {seed}: failback against the settings");
        let from = old.active.map_or(0.0, |from| self.memories[index(from)].weight);
        assert!(to.weight > from, "seed {seed}: failback from {from} to {}", to.weight);
        let hold = failover.failback_hold.mul_f64(1.0 - failover.failback_jitter);
        let is_clean = to.clean_since.is_some_and(|since| now >= since + hold);
        assert!(is_clean, "seed {seed}: failback to {:?}, clean since {:?}", world.route.active, to.clean_since);
        let is_past_grace = to.down_at.is_none_or(|down| now >= down + world.settings.breaker.grace)
            && to.grace_ends.is_none_or(|ends| now >= ends);
        assert!(is_past_grace, "seed {seed}: failback to {:?} within its grace", world.route.active);
        let in_window = |at: &&Instant| **at + failover.switches_window > now;
        let recent = self.guarded.iter().filter(in_window).count();
        assert!(recent < failover.switches_max as usize, "seed {seed}: a failback after {recent} switches");
        let stay = self.stay.filter(|(_, until)| now < *until);
        assert!(stay.is_none(), "seed {seed}: a failback during {stay:?}");
    }

    /// Nobody is switched to who is not fit for it, and no fault switch leaves who is fit.
    fn follow_attempt(&mut self, world: &World) {
        let (seed, now) = (self.seed, world.now);
        let (Phase::Hold { to, attempt: number, .. } | Phase::Cut { to, attempt: number, .. }) = world.route.phase
        else {
            self.attempt = None;
            return;
        };
        if self.attempt.as_ref().is_some_and(|known| known.number == number) {
            return;
        }
        self.attempt = Some(Attempt { number, since: now, acknowledged: Vec::new() });
        let memory = self.memories[index(to)];
        assert!(!memory.is_banned(now), "seed {seed}: a switch to a banned backend begins: {:?}", world.route);
        let is_healthy = |id| world.healthy().contains(&index(id));
        if matches!(world.route.phase, Phase::Hold { .. }) {
            let is_fit = memory.is_latest_good && is_healthy(to);
            assert!(is_fit, "seed {seed}: a planned switch to a sick backend begins: {:?}", world.route);
        } else if self.forced.is_none() {
            let is_fit = memory.is_latest_good || is_healthy(to);
            assert!(is_fit, "seed {seed}: a forced switch to a sick backend begins: {:?}", world.route);
            let is_active_fit = world.route.active.is_some_and(is_healthy);
            assert!(!is_active_fit, "seed {seed}: a healthy active is cut off: {:?}", world.route);
        }
    }

    /// After every event.
    pub fn check_always(&mut self, world: &World) {
        (self.fall, self.round) = (world.settings.health.fall, round_max(&world.settings));
        let (seed, now) = (self.seed, world.now);
        let mut written = world.workers.iter().filter_map(super::worker::Worker::writes_to);
        if let Some(first) = written.next() {
            assert!(written.all(|other| other == first), "seed {seed}: workers write to two backends at once");
        }
        let ids = world.machine.members().map(|member| member.id);
        assert!(ids.eq((0..world.backends.len()).map(id)), "seed {seed}: numbers of backends changed");
        if let Some((to, at)) = self.forced {
            assert!(now <= at + CUT_MAX + SLACK, "seed {seed}: the ordered switch to {to} does not come");
        }
        self.check_progress(world);
    }

    /// Each stage ends, and says when at the latest.
    fn check_progress(&mut self, world: &World) {
        let (seed, now, machine) = (self.seed, world.now, &world.machine);
        if machine.is_settled() || world.route.active.is_none() {
            self.unsettled_since = None;
            return;
        }
        assert!(machine.next_deadline().is_some(), "seed {seed}: a stage without a deadline: {:?}", world.route);
        let proof = world.settings.health.timeout * 2 + Duration::from_secs(1);
        let drain = world.settings.failover.drain;
        let since = *self.unsettled_since.get_or_insert(now);
        let most = proof + drain + CUT_MAX + SLACK;
        assert!(now <= since + most, "seed {seed}: a switch does not end: {:?}", world.route);
        let Some(attempt) = &self.attempt else { return };
        let most = if matches!(world.route.phase, Phase::Hold { .. }) { drain } else { CUT_MAX };
        assert!(now <= attempt.since + most + SLACK, "seed {seed}: an attempt does not end: {:?}", world.route);
    }

    /// At every tick: nobody stays on a backend that is bad while another is good, neither by the probes nor in truth.
    pub fn check_route(&mut self, world: &World) {
        self.check_start(world);
        self.check_stay(world);
        let Some(active) = world.route.active.map(index) else { return };
        let is_free = |index: usize| index != active && !self.memories[index].is_banned(world.now);
        let could_serve = |member: MemberView<'_>| member.is_healthy && member.breaker.label() == "closed";
        let is_other_good = world.machine.members().any(|member| is_free(index(member.id)) && could_serve(member));
        let by_probes = self.memories[active].bad >= world.settings.health.fall && is_other_good;
        if by_probes {
            let since = *self.bad_since.get_or_insert(world.now);
            assert!(world.now <= since + MS(400), "seed {}: stays on b{active}, which fails its probes", self.seed);
        } else {
            self.bad_since = None;
        }
        self.check_truth(active, world);
    }

    fn check_truth(&self, active: usize, world: &World) {
        let backend = &world.backends[active];
        let has_traffic = world.load.share >= 1.0;
        let patience = if backend.is_bad_for_all() {
            Duration::ZERO
        } else if has_traffic && backend.is_bad_for_commands() {
            world.settings.detector.slow_timeout
        } else if world.load.share == 0.0 && backend.is_bad_for_probes() {
            Duration::ZERO
        } else {
            return;
        };
        let most = reaction_max(&world.settings) + patience;
        let long = |since: Instant| world.now > since + most;
        let is_long_bad = [Some(backend.since), self.active_since, self.running_since].into_iter().flatten().all(long);
        let is_long_good = |index: usize| world.backends[index].is_good() && long(world.backends[index].since);
        let is_better_there = (0..world.backends.len())
            .any(|index| index != active && is_long_good(index) && !self.memories[index].is_banned(world.now));
        assert!(!(is_long_bad && is_better_there), "seed {}: stays on b{active}, which is bad: {backend:?}", self.seed);
    }

    /// With one backend found good, it begins, unless it was told to wait for more of them.
    fn check_start(&self, world: &World) {
        let is_good = |memory: &&Memory| {
            memory.good_since.is_some_and(|since| world.now > since + MS(200)) && !memory.is_banned(world.now)
        };
        let good = self.memories.iter().filter(is_good).count();
        let needed = match world.settings.failover.initial {
            InitialPolicy::One => 1,
            InitialPolicy::Majority => self.memories.len() / 2 + 1,
            InitialPolicy::All => self.memories.len(),
        };
        assert!(world.route.active.is_some() || good < needed, "seed {}: does not begin with one of {good}", self.seed);
    }

    /// An operator's stay holds while its backend can serve.
    fn check_stay(&mut self, world: &World) {
        self.stay.take_if(|(_, until)| world.now >= *until);
        let Some((on, _)) = self.stay else { return };
        let is_there = world.route.active == Some(on);
        let is_under_way = !world.machine.is_settled() || world.route.active.is_none();
        assert!(is_there || is_under_way, "seed {}: {:?} although {on} was to stay", self.seed, world.route);
    }
}

/// A switch may end and the next begin in one step: watchers see the latest route only.
fn is_legal(old: &Route, new: &Route) -> bool {
    let is_new_epoch = new.epoch == old.epoch + 1;
    match (old.phase, new.phase) {
        (Phase::Serve, _) => !is_new_epoch,
        (Phase::Hold { .. }, Phase::Serve) => true,
        (Phase::Cut { .. }, Phase::Serve) => is_new_epoch,
        (Phase::Hold { attempt: one, .. }, Phase::Cut { attempt: two, .. }) => two > one,
        (Phase::Hold { attempt: one, .. }, Phase::Hold { attempt: two, .. })
        | (Phase::Cut { attempt: one, .. }, Phase::Cut { attempt: two, .. } | Phase::Hold { attempt: two, .. }) => {
            (two > one) == is_new_epoch && two >= one
        }
    }
}
