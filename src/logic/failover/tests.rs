//! Cases of the decision machine, one after another.

mod acceptance;
mod gray;
mod membership;
mod orders;
mod replication;
mod silence;

use super::*;
use crate::logic::judged::Judged;
use crate::logic::route::Phase;
use crate::logic::settings::{Failback, InitialPolicy, LatencySettings, ProbeMode, ProbePolicy};

const MS: fn(u64) -> Duration = Duration::from_millis;
const HEAVY: BackendId = BackendId(0);
const LIGHT: BackendId = BackendId(1);
const WORKERS: usize = 2;

fn settings() -> GroupSettings {
    GroupSettings {
        health: HealthSettings {
            modes: vec![ProbeMode::Write],
            interval: MS(500),
            timeout: MS(500),
            jitter: 0.2,
            standby_interval: MS(2000),
            accept_interval: MS(10_000),
            fall: 3,
            rise: 3,
            probes: 1,
            probes_delay: MS(100),
            policy: ProbePolicy::All,
            probe_key: "handover:probe".into(),
        },
        detector: DetectorSettings {
            hang_timeout: MS(1000),
            suspect_after: MS(50),
            slow_timeout: MS(6000),
            window: MS(2000),
            failures_min: 5,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        },
        breaker: BreakerSettings { grace: MS(10_000), grace_max: MS(80_000) },
        failover: FailoverSettings {
            hold: MS(1500),
            drain: MS(1000),
            failback: Failback::Auto,
            failback_hold: MS(20_000),
            failback_jitter: 0.0,
            switches_max: 3,
            switches_window: MS(600_000),
            initial: InitialPolicy::One,
            attempts: 0,
            delay: MS(1000),
            none_healthy: NoneHealthy::LastActive,
            checks_cursors: true,
        },
    }
}

/// A group of two with a clock; collects what it puts out.
struct Group {
    machine: Failover,
    now: Instant,
    routes: Vec<Route>,
    asked: Vec<BackendId>,
    events: Vec<Event>,
    saved: Option<Saved>,
    dismissed: Vec<BackendId>,
}

fn good() -> ProbeVerdict {
    ProbeVerdict::Good { server: None, role: None, warning: None }
}

fn refused() -> ProbeVerdict {
    ProbeVerdict::Failed { cause: "connection refused".into(), refused: true }
}

fn silent() -> ProbeVerdict {
    ProbeVerdict::Failed { cause: "no reply".into(), refused: false }
}

fn readonly() -> ProbeVerdict {
    ProbeVerdict::CannotServe { reply: "READONLY You can't write".into() }
}

impl Group {
    fn new(settings: GroupSettings, saved: Option<&Saved>) -> Self {
        let now = Instant::now() + Duration::from_secs(3600);
        let spec = |id, name: &str, weight| BackendSpec { id, name: name.into(), weight, health: None, breaker: None };
        let backends = vec![spec(HEAVY, "heavy", 2.0), spec(LIGHT, "light", 1.0)];
        let machine = Failover::new(now, settings, backends, WORKERS, saved);
        Self {
            machine,
            now,
            routes: Vec::new(),
            asked: Vec::new(),
            events: Vec::new(),
            saved: None,
            dismissed: Vec::new(),
        }
    }

    /// Both healthy, the heavy one active in epoch 1.
    fn serving(settings: GroupSettings) -> Self {
        let mut group = Self::new(settings, None);
        group.probe(HEAVY, good());
        group.probe(LIGHT, good());
        assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
        group.forget();
        group
    }

    /// As [`Self::serving`], then the heavy one dies and the light one takes over in epoch 2.
    fn failed_over(settings: GroupSettings) -> Self {
        let mut group = Self::serving(settings);
        group.lose(HEAVY);
        group.acknowledge();
        assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
        group.forget();
        group
    }

    fn forget(&mut self) {
        self.routes.clear();
        self.asked.clear();
        self.events.clear();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Publish(route) => self.routes.push(route),
                Output::ProbeNow(backend) => self.asked.push(backend),
                Output::Log(event) => self.events.push(event),
                Output::Persist(saved) => self.saved = Some(saved),
                Output::Dismiss(backend) => self.dismissed.push(backend),
                Output::Promote(order) => panic!("nothing replicates: {order:?}"),
            }
        }
    }

    fn state(&self) -> (u64, Option<BackendId>, Phase) {
        let route = self.machine.route();
        (route.epoch, route.active, route.phase)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.on_tick(self.now, 0.5);
        self.drain();
        let deadline = self.machine.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "time alone changes nothing: its owner would spin");
    }

    fn report(&mut self, backend: BackendId, verdict: ProbeVerdict, took: Duration, immediate: bool) {
        let started_at = self.now;
        self.now += took;
        let report = ProbeReport { backend, started_at, ended_at: self.now, verdict, immediate };
        self.machine.on_probe(self.now, &report);
        self.drain();
    }

    fn probe(&mut self, backend: BackendId, verdict: ProbeVerdict) {
        self.report(backend, verdict, MS(1), false);
    }

    fn re_probe(&mut self, backend: BackendId, verdict: ProbeVerdict) {
        self.report(backend, verdict, MS(1), true);
    }

    /// Probes for so many seconds, one a second.
    fn probe_for(&mut self, backend: BackendId, seconds: u64) {
        for _ in 0..seconds {
            self.pass(MS(999));
            self.probe(backend, good());
        }
    }

    fn say(&mut self, report: WorkerReport) {
        self.machine.on_worker(self.now, report);
        self.drain();
    }

    fn lose(&mut self, backend: BackendId) {
        self.say(WorkerReport::LinkLost { backend, epoch: 1, at: self.now, cause: "reset".into() });
        assert_eq!(self.asked, [backend]);
        self.re_probe(backend, refused());
    }

    fn order(&mut self, command: Command) {
        assert_eq!(self.machine.on_operator(self.now, command), Ok(()));
        self.drain();
    }

    fn attempt(&self) -> u64 {
        match self.machine.route().phase {
            Phase::Hold { attempt, .. } | Phase::Cut { attempt, .. } => attempt,
            Phase::Serve => panic!("no switch is under way"),
        }
    }

    fn acknowledge(&mut self) {
        let attempt = self.attempt();
        for worker in 0..WORKERS {
            self.say(WorkerReport::Stopped { worker, attempt });
        }
    }

    fn switched(&self) -> Vec<(Option<BackendId>, BackendId, String)> {
        let describe = |event: &Event| match event {
            Event::Switched(switched) => Some((switched.from, switched.to, switched.reason.to_string())),
            _ => None,
        };
        self.events.iter().filter_map(describe).collect()
    }

    fn look(&mut self, sample: Sample) {
        self.machine.on_vitals(self.now, &[sample, Sample::default()]);
        self.drain();
    }
}

#[test]
fn the_heaviest_starts_at_once_and_a_lighter_one_waits_for_it_a_moment() {
    let mut group = Group::new(settings(), None);
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (0, None, Phase::Serve));
    group.pass(MS(50));
    group.probe(HEAVY, good());
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));

    let mut group = Group::new(settings(), None);
    group.probe(LIGHT, good());
    assert_eq!(group.machine.next_deadline(), Some(group.now + MS(100)));
    group.pass(MS(100));
    assert_eq!(group.state(), (1, Some(LIGHT), Phase::Serve));

    let mut group = Group::new(settings(), None);
    group.probe(HEAVY, refused());
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (1, Some(LIGHT), Phase::Serve), "all have been heard");
}

#[test]
fn the_first_choice_can_wait_for_all() {
    let mut settings = settings();
    settings.failover.initial = InitialPolicy::All;
    let mut group = Group::new(settings, None);
    group.probe(HEAVY, good());
    group.pass(MS(5000));
    assert_eq!(group.state(), (0, None, Phase::Serve));
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
}

#[test]
fn a_restart_goes_on_with_the_last_active_in_its_epoch() {
    let mut group = Group::failed_over(settings());
    let saved = group.saved.take().unwrap();
    assert_eq!((saved.active.as_deref(), saved.epoch, saved.breakers.len()), (Some("light"), 2, 1));
    let mut group = Group::new(settings(), Some(&saved));
    group.probe(HEAVY, good());
    assert_eq!(group.state().1, None);
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.machine.members().next().unwrap().breaker.label(), "open");

    let mut group = Group::new(settings(), Some(&saved));
    group.probe(LIGHT, refused());
    group.probe(HEAVY, good());
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve), "another active is another epoch");
}

#[test]
fn a_lost_connection_and_a_refused_one_switch_without_any_timer() {
    let mut group = Group::serving(settings());
    let lost_at = group.now;
    group.lose(HEAVY);
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Cut { to: LIGHT, attempt: 1 }));
    group.say(WorkerReport::Stopped { worker: 0, attempt: 1 });
    assert_eq!(group.state().0, 1, "the other worker may still write");
    group.say(WorkerReport::Stopped { worker: 1, attempt: 1 });
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.switched(), [(None, HEAVY, "start".into())], "the judgements are still out");
    for worker in 0..WORKERS {
        let judged = Judged { moved: 2, ..Judged::default() };
        group.say(WorkerReport::Activated { worker, epoch: 2, judged });
    }
    let Some(Event::Switched(switched)) = group.events.last() else { panic!("{:?}", group.events) };
    assert_eq!((switched.from, switched.to, switched.epoch), (Some(HEAVY), LIGHT, 2));
    assert_eq!((&switched.reason, switched.judged.moved), (&Reason::ConnectionLost, 4));
    assert_eq!((switched.detect, switched.switch), (group.now - lost_at, Duration::ZERO));
}

#[test]
fn a_lost_connection_alone_switches_nothing() {
    let mut group = Group::serving(settings());
    group.say(WorkerReport::LinkLost { backend: HEAVY, epoch: 1, at: group.now, cause: "reset".into() });
    group.re_probe(HEAVY, good());
    group.pass(MS(5000));
    assert_eq!(group.routes, []);
}

#[test]
fn a_loss_during_the_re_probe_is_looked_into_again() {
    let mut group = Group::serving(settings());
    let lost = |group: &Group| WorkerReport::ConnectFailed { backend: HEAVY, at: group.now, cause: "refused".into() };
    group.say(lost(&group));
    let started_at = group.now;
    group.now += MS(1);
    group.say(lost(&group));
    assert_eq!(group.asked, [HEAVY]);
    let report = ProbeReport { backend: HEAVY, started_at, ended_at: group.now, verdict: good(), immediate: true };
    group.machine.on_probe(group.now, &report);
    group.drain();
    assert_eq!(group.asked, [HEAVY, HEAVY]);
}

#[test]
fn last_replies_of_a_dead_server_delay_the_switch_by_one_probe_only() {
    let mut group = Group::serving(settings());
    let lost =
        |group: &Group| WorkerReport::LinkLost { backend: HEAVY, epoch: 1, at: group.now, cause: "reset".into() };
    group.say(lost(&group));
    let started_at = group.now;
    group.now += MS(1);
    group.look(Sample { last_byte: Some(group.now), ..Sample::default() });
    group.say(lost(&group));
    group.now += MS(1);
    let ended_at = group.now;
    let report = ProbeReport { backend: HEAVY, started_at, ended_at, verdict: refused(), immediate: true };
    group.machine.on_probe(group.now, &report);
    group.drain();
    assert_eq!((group.state().2, &group.asked[..]), (Phase::Serve, &[HEAVY, HEAVY][..]));
    group.re_probe(HEAVY, refused());
    assert_eq!(group.state().2, Phase::Cut { to: LIGHT, attempt: 1 });
}

#[test]
fn a_script_that_keeps_the_server_busy_is_no_fault_for_five_seconds() {
    let mut group = Group::serving(settings());
    let start = group.now;
    let busy = || ProbeVerdict::Busy { reply: "BUSY Redis is busy".into() };
    let mut failures = 0;
    while group.state().2 == Phase::Serve {
        failures += 10;
        group.say(WorkerReport::CannotServe { backend: HEAVY, at: group.now, word: "BUSY" });
        group.look(Sample { last_byte: Some(group.now), failures, ..Sample::default() });
        if !std::mem::take(&mut group.asked).is_empty() {
            group.re_probe(HEAVY, busy());
        }
        group.pass(MS(20));
    }
    let took = group.now - start;
    assert!(took >= MS(5000) && took < MS(5300), "{took:?}");
}

#[test]
fn faults_before_the_first_choice_do_not_forget_the_last_active() {
    let saved = Saved { active: Some("light".into()), epoch: 9, ..Saved::default() };
    let mut group = Group::new(settings(), Some(&saved));
    for _ in 0..3 {
        group.probe(HEAVY, refused());
    }
    let kept = group.saved.unwrap();
    assert_eq!((kept.active.as_deref(), kept.epoch, kept.breakers.len()), (Some("light"), 9, 1));
}

#[test]
fn a_failback_whose_target_fails_its_proof_is_called_off() {
    let mut group = Group::failed_over(settings());
    group.probe_for(HEAVY, 21);
    group.re_probe(HEAVY, silent());
    let called_off = Event::SwitchCalledOff { to: HEAVY, why: CallOff::TargetUnhealthy, retry_in: Some(MS(1000)) };
    assert!(group.events.contains(&called_off));
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
}

#[test]
fn late_workers_do_not_hold_up_a_forced_switch() {
    let mut group = Group::serving(settings());
    group.lose(HEAVY);
    assert_eq!(group.machine.next_deadline(), Some(group.now + MS(50)));
    group.say(WorkerReport::Stopped { worker: 0, attempt: 1 });
    group.pass(MS(50));
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert!(group.events.contains(&Event::WorkersLate { missing: 1 }));
}

#[test]
fn a_slow_script_is_not_a_fault_though_probes_are_silent() {
    let mut group = Group::serving(settings());
    let sample = Sample { silent_since: Some(group.now), is_slow: true, ..Sample::default() };
    for _ in 0..10 {
        group.look(sample);
        group.report(HEAVY, silent(), MS(500), false);
    }
    assert_eq!(group.routes, []);
}

#[test]
fn live_replies_overrule_a_silent_probe_but_not_an_answer() {
    let mut group = Group::serving(settings());
    for _ in 0..5 {
        let started_at = group.now;
        group.now += MS(500);
        group.look(Sample { last_byte: Some(group.now), ..Sample::default() });
        let verdict = silent();
        let report = ProbeReport { backend: HEAVY, started_at, ended_at: group.now, verdict, immediate: false };
        group.machine.on_probe(group.now, &report);
        group.drain();
    }
    assert_eq!(group.routes, []);
    let warnings = group.events.iter().filter(|event| matches!(event, Event::ProbeWarning { .. }));
    assert_eq!(warnings.count(), 1, "told once");
    group.look(Sample { last_byte: Some(group.now + MS(1)), ..Sample::default() });
    group.probe(HEAVY, readonly());
    assert_eq!(group.state().2, Phase::Cut { to: LIGHT, attempt: 1 });
}

#[test]
fn a_word_asks_for_a_probe_that_decides() {
    let mut group = Group::serving(settings());
    let word = |group: &Group| WorkerReport::CannotServe { backend: HEAVY, at: group.now, word: "READONLY" };
    group.say(word(&group));
    group.re_probe(HEAVY, good());
    assert_eq!(group.machine.route().acquittals, 1);
    for _ in 0..50 {
        group.say(word(&group));
    }
    assert_eq!(group.asked.len(), 1, "at most ten a second");
    group.pass(MS(100));
    assert_eq!(group.asked.len(), 2);
    group.re_probe(HEAVY, readonly());
    group.acknowledge();
    group.pass(MS(2000));
    assert_eq!(group.switched()[1].2, "cannot serve: READONLY");
}

#[test]
fn three_failed_rounds_switch() {
    let mut group = Group::serving(settings());
    group.probe(HEAVY, silent());
    group.probe(HEAVY, silent());
    assert_eq!(group.routes, []);
    group.probe(HEAVY, silent());
    assert_eq!(group.state().2, Phase::Cut { to: LIGHT, attempt: 1 });
}

#[test]
fn failback_waits_for_the_hold_time_from_the_first_clean_probe_and_a_proof() {
    let mut group = Group::failed_over(settings());
    group.probe_for(HEAVY, 20);
    assert_eq!(group.routes.iter().filter(|route| route.phase != Phase::Serve).count(), 0);
    assert_eq!(group.machine.blocked(), Some(Blocked::HoldTime));
    assert_eq!(group.asked, []);
    group.pass(MS(1000));
    assert_eq!(group.asked, [HEAVY], "the target must answer now");
    group.re_probe(HEAVY, good());
    let until = group.now + MS(1000);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Hold { to: HEAVY, attempt: 2, until }));
    group.say(WorkerReport::Drained { worker: 0, attempt: 1 });
    group.say(WorkerReport::Drained { worker: 1, attempt: 1 });
    assert_eq!(group.state().0, 2, "acknowledgements of an older attempt mean nothing");
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
}

#[test]
fn one_bad_probe_starts_the_hold_time_anew() {
    let mut group = Group::failed_over(settings());
    group.probe_for(HEAVY, 19);
    group.probe(HEAVY, silent());
    group.probe_for(HEAVY, 20);
    assert_eq!(group.asked, []);
}

/// A failback whose workers are asked to hold.
fn holding(settings: GroupSettings) -> Group {
    let mut group = Group::failed_over(settings);
    group.probe_for(HEAVY, 21);
    group.re_probe(HEAVY, good());
    assert!(matches!(group.state().2, Phase::Hold { to: HEAVY, .. }));
    group
}

#[test]
fn a_failback_that_cannot_drain_is_called_off_and_tried_again_later_and_later() {
    let mut group = holding(settings());
    for wait in [1000, 2000, 4000] {
        group.forget();
        group.pass(MS(1000));
        assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
        assert_eq!(group.machine.blocked(), Some(Blocked::CalledOff));
        assert_eq!(group.machine.next_deadline(), Some(group.now + MS(wait)));
        group.pass(MS(wait - 1));
        assert_eq!(group.asked, []);
        group.pass(MS(1));
        group.re_probe(HEAVY, good());
        assert!(matches!(group.state().2, Phase::Hold { to: HEAVY, .. }));
    }
}

#[test]
fn a_fault_of_the_active_turns_hold_into_cut() {
    let mut group = holding(settings());
    group.forget();
    group.lose(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Cut { to: HEAVY, attempt: 3 }));
}

#[test]
fn a_fault_of_the_target_calls_the_failback_off() {
    let mut group = holding(settings());
    group.forget();
    group.lose(HEAVY);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
}

#[test]
fn the_flap_guard_stops_failbacks_and_never_the_leaving() {
    let mut group = holding(settings());
    group.acknowledge();
    group.forget();
    group.lose(HEAVY);
    group.acknowledge();
    assert_eq!(group.state(), (4, Some(LIGHT), Phase::Serve));
    group.forget();
    group.probe_for(HEAVY, 100);
    assert_eq!((group.state().0, group.machine.blocked()), (4, Some(Blocked::FlapGuard)));
    group.lose(LIGHT);
    group.acknowledge();
    assert_eq!(group.state(), (5, Some(HEAVY), Phase::Serve));
}

#[test]
fn manual_failback_waits_for_an_operator() {
    let mut settings = settings();
    settings.failover.failback = Failback::Manual;
    let mut group = Group::failed_over(settings);
    group.probe_for(HEAVY, 100);
    assert_eq!((group.state().0, group.machine.blocked()), (2, Some(Blocked::Manual)));
    group.order(Command::Switch { to: HEAVY, manner: Manner::Planned });
    group.drain();
    group.re_probe(HEAVY, good());
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
}

#[test]
fn none_healthy_stays_and_one_clean_probe_of_any_is_enough() {
    for (first, epoch) in [(LIGHT, 2), (HEAVY, 3)] {
        let mut group = Group::failed_over(settings());
        group.lose(LIGHT);
        assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
        assert_eq!(group.machine.route().availability, Availability::Degraded);
        group.pass(MS(3000));
        group.probe(first, good());
        if epoch == 3 {
            group.acknowledge();
        }
        assert_eq!(group.state(), (epoch, Some(first), Phase::Serve));
        assert_eq!(group.machine.route().availability, Availability::Healthy);
        let told = group.events.iter().filter(|event| matches!(event, Event::NoneHealthy | Event::Recovered { .. }));
        assert_eq!(told.count(), 2);
    }
}

#[test]
fn attempts_used_up_refuse_until_one_clean_probe() {
    let mut settings = settings();
    settings.failover.attempts = 10;
    let mut group = Group::failed_over(settings);
    group.lose(LIGHT);
    group.pass(MS(9990));
    assert_eq!(group.machine.route().availability, Availability::Degraded);
    group.pass(MS(10));
    assert_eq!(group.machine.route().availability, Availability::Refusing);
    assert_ne!(group.machine.next_deadline(), Some(group.now), "nothing is overdue");
    group.probe(LIGHT, good());
    assert_eq!(group.machine.route().availability, Availability::Healthy);
}

#[test]
fn none_healthy_can_refuse_at_once() {
    let mut settings = settings();
    settings.failover.none_healthy = NoneHealthy::Refuse;
    let mut group = Group::new(settings.clone(), None);
    group.probe(HEAVY, refused());
    assert_eq!(group.machine.route().availability, Availability::Degraded, "the other may be good");
    group.probe(LIGHT, refused());
    assert_eq!(group.machine.route().availability, Availability::Refusing);
    let mut group = Group::failed_over(settings);
    group.lose(LIGHT);
    assert_eq!(group.machine.route().availability, Availability::Refusing);
}

#[test]
fn an_operator_switches_by_force_and_is_left_alone_for_the_hold_time() {
    let mut group = Group::serving(settings());
    group.probe_for(HEAVY, 60);
    group.order(Command::Switch { to: LIGHT, manner: Manner::Forced });
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.pass(MS(19_000));
    assert_eq!(group.asked, []);
    group.pass(MS(1000));
    assert_eq!(group.asked, [HEAVY]);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let mut group = Group::serving(settings());
    let planned = |to| Command::Switch { to, manner: Manner::Planned };
    let weigh = |weight| Command::SetWeight { backend: LIGHT, weight };
    for (command, why) in [
        (planned(HEAVY), Refused::AlreadyActive),
        (planned(BackendId(9)), Refused::UnknownBackend),
        (weigh(0.0), Refused::BadWeight),
        (weigh(f64::NAN), Refused::BadWeight),
        (Command::EndStay, Refused::NoStay),
        (Command::Ban { backend: HEAVY, length: MS(1000) }, Refused::IsActive),
        (Command::EndBan { backend: LIGHT }, Refused::NotBanned),
    ] {
        group.forget();
        assert_eq!(group.machine.on_operator(group.now, command), Err(why));
        group.drain();
        assert_eq!(group.events, [], "nothing has changed");
    }
}

#[test]
fn a_new_weight_moves_the_traffic() {
    let mut group = Group::serving(settings());
    group.probe_for(LIGHT, 30);
    group.order(Command::SetWeight { backend: LIGHT, weight: 3.0 });
    assert_eq!(group.asked, [LIGHT]);
}

#[test]
fn equal_weights_stay() {
    let mut group = Group::failed_over(settings());
    group.order(Command::SetWeight { backend: LIGHT, weight: 2.0 });
    group.probe_for(HEAVY, 100);
    assert_eq!((group.state().0, group.machine.blocked(), group.machine.standby()), (2, None, Some(HEAVY)));
}

/// A stay outlives what would end it without one, and ends with its time or with the backend.
#[test]
fn an_operator_holds_the_active_for_a_time() {
    let mut group = Group::failed_over(settings());
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    group.probe_for(HEAVY, 300);
    assert_eq!((group.state().0, group.machine.blocked()), (2, Some(Blocked::Stay)));
    let saved = group.machine.saved(group.now);
    assert_eq!(saved.stay, Some(("light".into(), MS(300_000))));
    group.probe_for(HEAVY, 301);
    assert_eq!(group.asked.last(), Some(&HEAVY), "its time is over");

    let mut group = Group::failed_over(settings());
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    group.probe_for(HEAVY, 100);
    group.forget();
    group.lose(LIGHT);
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
    assert_eq!(group.machine.stay(), None);
}

/// What only an order or a report can end has no time: asking for one would ask again and again.
#[test]
fn a_failback_that_time_alone_does_not_let_through_has_no_deadline() {
    let mut group = Group::failed_over(settings());
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    group.probe_for(HEAVY, 100);
    assert_eq!(group.machine.blocked(), Some(Blocked::Stay));
    assert!(group.machine.next_deadline().is_some_and(|at| at > group.now));

    let mut group = Group::failed_over(lag_settings());
    group.probe_for(HEAVY, 100);
    assert_eq!(group.machine.blocked(), Some(Blocked::Lag));
    assert!(group.machine.next_deadline().is_none_or(|at| at > group.now));
}

fn lag_settings() -> GroupSettings {
    let mut settings = settings();
    settings.health.modes.push(ProbeMode::Lag);
    settings
}

impl Group {
    fn lag(&mut self, backend: BackendId, is_level: bool) {
        self.machine.on_lag(self.now, backend, is_level);
        self.drain();
    }
}

#[test]
fn lag_gates_the_failback_and_nothing_else() {
    let mut group = Group::serving(lag_settings());
    group.lag(HEAVY, false);
    group.probe_for(HEAVY, 100);
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "the active is not left for its lag");
    group.lag(LIGHT, false);
    group.lose(HEAVY);
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve), "one that lags is better than a dead one");

    group.probe_for(HEAVY, 100);
    assert_eq!(group.machine.blocked(), Some(Blocked::Lag), "what was said while it was active does not count");
    group.lag(HEAVY, false);
    group.probe_for(HEAVY, 100);
    assert_eq!((group.state().0, group.machine.blocked()), (2, Some(Blocked::Lag)));
    group.forget();
    group.lag(HEAVY, true);
    assert_eq!(group.asked, [HEAVY], "at once");
    group.re_probe(HEAVY, good());
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
}

#[test]
fn a_stay_elsewhere_is_a_planned_switch_and_ends_with_it() {
    let mut group = Group::serving(settings());
    group.probe_for(LIGHT, 5);
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    assert_eq!(group.asked.last(), Some(&LIGHT));
    group.re_probe(LIGHT, good());
    group.acknowledge();
    assert_eq!((group.state().1, group.machine.stay().map(|stay| stay.backend)), (Some(LIGHT), Some(LIGHT)));
    group.order(Command::EndStay);
    assert_eq!(group.machine.stay(), None);

    let mut group = Group::serving(settings());
    group.probe_for(LIGHT, 5);
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    group.re_probe(LIGHT, refused());
    assert_eq!((group.state().1, group.machine.stay()), (Some(HEAVY), None));
}

#[test]
fn a_forced_order_begins_where_the_start_waits_for_more_backends() {
    let mut settings = settings();
    settings.failover.initial = InitialPolicy::All;
    let mut group = Group::new(settings, None);
    group.probe(HEAVY, refused());
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (0, None, Phase::Serve));
    for manner in [Manner::Planned, Manner::Forced] {
        let outcome = group.machine.on_operator(group.now, Command::Switch { to: LIGHT, manner });
        assert_eq!(outcome, if manner == Manner::Forced { Ok(()) } else { Err(Refused::NoActive) });
    }
    assert_eq!(group.state(), (1, Some(LIGHT), Phase::Serve));
}

#[test]
fn a_banned_backend_is_never_chosen() {
    let mut group = Group::failed_over(settings());
    group.order(Command::Ban { backend: HEAVY, length: MS(300_000) });
    assert_eq!(group.machine.standby(), None);
    group.probe_for(HEAVY, 200);
    assert_eq!((group.state().0, group.machine.blocked()), (2, None));
    let switch = Command::Switch { to: HEAVY, manner: Manner::Forced };
    assert_eq!(group.machine.on_operator(group.now, switch), Err(Refused::TargetBanned));
    group.forget();
    group.lose(LIGHT);
    assert_eq!(group.state().1, Some(LIGHT), "nobody else may serve");
    group.probe(LIGHT, good());
    let saved = group.machine.saved(group.now);
    assert_eq!(saved.bans.len(), 1);
    group.probe_for(HEAVY, 300);
    assert_eq!(group.asked.last(), Some(&HEAVY), "the ban is over");

    let mut group = Group::new(settings(), Some(&saved));
    group.probe(HEAVY, good());
    assert_eq!(group.state().1, None, "a ban survives a restart");
    group.probe(LIGHT, good());
    assert_eq!(group.state().1, Some(LIGHT));
}

/// Before the first choice, the last active may be banned as any other.
#[test]
fn a_last_active_that_was_banned_meanwhile_is_not_begun_with() {
    let saved = Saved { active: Some("heavy".into()), epoch: 7, ..Saved::default() };
    let mut group = Group::new(settings(), Some(&saved));
    group.order(Command::Ban { backend: HEAVY, length: MS(300_000) });
    group.probe(HEAVY, good());
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (8, Some(LIGHT), Phase::Serve));
}

/// Only the way of the commands is broken: each probe acquits, and still nobody gets through.
#[test]
fn a_backend_that_no_worker_can_connect_to_is_left_though_its_probes_are_good() {
    let mut group = Group::serving(settings());
    let fail = |group: &mut Group| {
        let cause = "timed out".to_owned();
        group.say(WorkerReport::ConnectFailed { backend: HEAVY, at: group.now, cause });
        if group.machine.route().phase == Phase::Serve {
            group.re_probe(HEAVY, good());
        }
    };
    for _ in 0..6 {
        fail(&mut group);
        assert_eq!(group.state().1, Some(HEAVY));
        group.pass(MS(990));
    }
    group.say(WorkerReport::Connected { backend: HEAVY, at: group.now });
    for _ in 0..8 {
        assert_eq!(group.state().2, Phase::Serve, "a connection that works starts it anew");
        group.pass(MS(800));
        fail(&mut group);
    }
    group.pass(MS(800));
    fail(&mut group);
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(*group.machine.reason(), Reason::ConnectionLost);
}

/// A stay on an active that cannot serve would else forbid each failback, wherever the traffic goes.
#[test]
fn a_stay_on_a_dead_active_ends_when_it_is_left() {
    let mut group = Group::serving(settings());
    for _ in 0..3 {
        group.probe(LIGHT, refused());
    }
    group.forget();
    group.lose(HEAVY);
    group.order(Command::Stay { backend: HEAVY, length: MS(600_000) });
    group.probe(LIGHT, good());
    group.acknowledge();
    assert_eq!((group.state(), group.machine.stay()), ((2, Some(LIGHT), Phase::Serve), None));
}

/// What was good and is not any more leaves nothing to wait for; `pass` looks at the deadline.
#[test]
fn a_start_that_loses_its_only_good_backend_waits_anew() {
    let mut settings = settings();
    settings.failover.initial = InitialPolicy::All;
    let mut group = Group::new(settings, None);
    group.probe(HEAVY, good());
    group.probe(HEAVY, refused());
    group.pass(MS(200));
    group.probe(HEAVY, good());
    group.probe(LIGHT, good());
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
}
