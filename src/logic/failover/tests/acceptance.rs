//! What is promised of decision and failback, on a virtual clock.

use super::*;

/// Ten rounds of a good active and a standby that comes and goes: equal weights stay where they are.
#[test]
fn equal_weights_switch_nothing_in_ten_rounds() {
    let mut group = Group::serving(settings());
    group.pass(MS(3000));
    group.order(Command::SetWeight { backend: LIGHT, weight: 2.0 });
    group.forget();
    for round in 0..10 {
        group.pass(MS(500));
        group.probe(HEAVY, good());
        group.probe(LIGHT, if round % 3 == 1 { refused() } else { good() });
    }
    group.probe_for(LIGHT, 1000);
    assert_eq!((group.state().0, group.switched()), (1, vec![]));
}

/// Clean again after a second: not before the grace is over and two probes of the half-open breaker were good.
#[test]
fn a_backend_that_recovers_at_once_waits_out_its_grace() {
    let mut settings = settings();
    settings.breaker = BreakerSettings { grace: MS(60_000), grace_max: MS(600_000) };
    settings.failover.failback_hold = Duration::ZERO;
    let mut group = Group::failed_over(settings);
    let fault_at = group.now;
    group.pass(MS(1000));
    while group.now < fault_at + MS(59_500) {
        group.pass(MS(499));
        group.probe(HEAVY, good());
        assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve), "{:?} after the fault", group.now - fault_at);
    }
    group.pass(MS(500));
    group.probe(HEAVY, good());
    assert_eq!(group.state().0, 2, "one good probe is not two");
    group.pass(MS(500));
    group.probe(HEAVY, good());
    group.re_probe(HEAVY, good());
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
}

/// A stay of 600 s holds for 100 s; then its backend dies, and the next serves within a second.
#[test]
fn a_stay_ends_with_its_backend() {
    let mut group = Group::failed_over(settings());
    group.order(Command::Stay { backend: LIGHT, length: MS(600_000) });
    group.probe_for(HEAVY, 100);
    assert_eq!((group.state().1, group.machine.blocked()), (Some(LIGHT), Some(Blocked::Stay)));
    group.forget();
    let died_at = group.now;
    group.lose(LIGHT);
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
    assert!(group.now <= died_at + MS(1000));
    let ended = group.events.iter().any(|event| matches!(event, Event::StayEnded { why: StayEnd::BackendDown, .. }));
    assert!(ended, "{:?}", group.events);
}

/// A verdict that comes after its timeout says nothing, whether good or bad, however often.
#[test]
fn a_probe_that_answers_after_its_timeout_changes_nothing() {
    let mut group = Group::serving(settings());
    for _ in 0..20 {
        group.pass(MS(500));
        group.report(HEAVY, silent(), MS(800), false);
    }
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    let mut group = Group::failed_over(settings());
    for _ in 0..20 {
        group.pass(MS(500));
        group.report(HEAVY, good(), MS(501), false);
    }
    let view = group.machine.members().next().unwrap();
    assert_eq!((view.is_healthy, view.clean_since), (false, None));
}

/// Ourselves late: a round that was void counts neither way, and neither does silence that we did not listen to.
#[test]
fn our_own_pause_is_no_fault() {
    let mut group = Group::serving(settings());
    let asked_at = group.now;
    let waiting = Sample { silent_since: Some(asked_at), ..Sample::default() };
    group.look(waiting);
    group.now += MS(10_000);
    group.look(waiting);
    group.report(HEAVY, ProbeVerdict::Void, MS(1), false);
    group.report(HEAVY, silent(), MS(10_000), true);
    group.look(Sample { last_byte: Some(group.now), ..Sample::default() });
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    assert!(group.machine.members().all(|member| member.is_healthy));
}

/// `initial`, of three backends.
#[test]
fn the_first_choice_waits_for_as_many_as_it_was_told() {
    for (initial, needed) in [(InitialPolicy::One, 1), (InitialPolicy::Majority, 2), (InitialPolicy::All, 3)] {
        let mut settings = settings();
        settings.failover.initial = initial;
        let spec =
            |id| BackendSpec { id: BackendId(id), name: format!("b{id}"), weight: 1.0, health: None, breaker: None };
        let start = Group::new(settings.clone(), None).now;
        let mut machine = Failover::new(start, settings, (0..3).map(spec).collect(), WORKERS, None);
        for good_ones in 1..=3 {
            let now = start + MS(1000 * good_ones);
            let backend = BackendId(u16::try_from(good_ones).unwrap() - 1);
            let report = ProbeReport { backend, started_at: now, ended_at: now, verdict: good(), immediate: false };
            machine.on_probe(now, &report);
            machine.on_tick(now + MS(500), 0.5);
            assert_eq!(machine.route().active.is_some(), good_ones >= needed, "{initial:?}, {good_ones} good");
        }
    }
}
