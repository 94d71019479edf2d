//! What operators and checkers ask of the machine: reports, drains, pauses, drills, simulations.

use super::*;
use crate::logic::drill::{Drill, DrillFault};

fn report(verdict: Verdict, reporter: &str, length: Duration) -> Report {
    Report { verdict, reporter: reporter.to_owned(), reason: "it said so".to_owned(), length }
}

fn say(backend: BackendId, verdict: Verdict) -> Command {
    Command::Report { backend, report: report(verdict, "checker", MS(30_000)) }
}

impl Group {
    /// Serving, and the first choice has been told.
    fn settled() -> Self {
        let mut group = Self::serving(settings());
        group.pass(MS(2000));
        group.forget();
        group
    }

    fn refuse(&mut self, command: Command) -> Refused {
        let refused = self.machine.on_operator(self.now, command).expect_err("it is refused");
        self.drain();
        refused
    }

    /// The target of a planned switch answers its probe, and the workers let go.
    fn move_over(&mut self, target: BackendId) {
        assert_eq!(self.asked.pop(), Some(target));
        self.re_probe(target, good());
        self.acknowledge();
    }
}

#[test]
fn a_backend_that_is_reported_down_is_left_by_force_until_the_report_ends() {
    let mut group = Group::settled();
    group.order(say(HEAVY, Verdict::Down));
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.pass(MS(2000));
    assert_eq!(group.switched(), [(Some(HEAVY), LIGHT, "reported down".to_owned())]);
    assert_eq!(group.refuse(Command::Switch { to: HEAVY, manner: Manner::Forced }), Refused::TargetReported);
    // However healthy it is, it is not returned to; once nobody reports it, it is.
    group.probe_for(HEAVY, 27);
    assert_eq!(group.machine.members().next().map(|member| member.reports.len()), Some(1));
    group.probe_for(HEAVY, 2);
    assert!(group.events.iter().any(|event| matches!(event, Event::ReportEnded { is_expired: true, .. })));
    group.move_over(HEAVY);
    assert_eq!(group.state().1, Some(HEAVY));
}

#[test]
fn only_the_checker_that_said_it_takes_it_back_and_a_renewal_is_no_news() {
    let mut group = Group::settled();
    group.order(say(LIGHT, Verdict::Down));
    group.pass(MS(20_000));
    group.order(say(LIGHT, Verdict::Down));
    group.pass(MS(20_000));
    assert!(group.machine.standby().is_none(), "it was renewed");
    let told = group.events.iter().filter(|event| matches!(event, Event::Reported { .. })).count();
    assert_eq!(told, 1);
    let other = Command::Report { backend: LIGHT, report: report(Verdict::Up, "another", Duration::ZERO) };
    assert_eq!(group.refuse(other), Refused::NotReported);
    group.order(say(LIGHT, Verdict::Up));
    assert_eq!(group.machine.standby(), Some(LIGHT));
    for checker in 0..16 {
        let report = report(Verdict::Weight(3.0), &checker.to_string(), MS(1000));
        group.order(Command::Report { backend: LIGHT, report });
    }
    assert_eq!(group.refuse(say(LIGHT, Verdict::Down)), Refused::TooManyReporters);
    assert_eq!(group.refuse(say(LIGHT, Verdict::Weight(0.0))), Refused::BadWeight);
}

#[test]
fn reports_that_are_wrong_together_leave_clients_where_they_are_served() {
    let mut group = Group::settled();
    group.order(say(LIGHT, Verdict::Down));
    group.order(say(HEAVY, Verdict::Down));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    assert_eq!(group.machine.stranded(), Some(HEAVY));
    assert_eq!(group.machine.route().availability, Availability::Healthy);
    let told = group.events.iter().filter(|event| matches!(event, Event::Stranded { .. })).count();
    assert_eq!(told, 1);
    // When the active is really gone, a backend that is merely said to be down is better than none.
    group.lose(HEAVY);
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.machine.route().availability, Availability::Healthy);
}

#[test]
fn a_drained_backend_is_left_in_a_planned_switch_and_never_chosen() {
    let mut group = Group::settled();
    group.order(Command::Drain { backend: HEAVY });
    assert_eq!(group.machine.target(), Some(LIGHT));
    group.move_over(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.refuse(Command::Drain { backend: HEAVY }), Refused::AlreadyDrained);
    assert_eq!(group.refuse(Command::Switch { to: HEAVY, manner: Manner::Forced }), Refused::TargetDrained);
    assert_eq!(group.refuse(Command::Stay { backend: HEAVY, length: MS(1000) }), Refused::TargetDrained);
    group.probe_for(HEAVY, 40);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.forget();
    group.lose(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve), "an operator's word counts, whatever happens");
    let saved = group.machine.saved(group.now);
    assert_eq!(saved.drained, ["heavy"]);
    group.order(Command::EndDrain { backend: HEAVY });
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
    assert_eq!(group.refuse(Command::EndDrain { backend: HEAVY }), Refused::NotDrained);
}

#[test]
fn a_drain_that_was_called_off_is_tried_again() {
    let mut group = Group::settled();
    group.order(Command::Drain { backend: HEAVY });
    group.re_probe(LIGHT, good());
    group.pass(MS(1000));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "something was still in flight");
    group.forget();
    let steps = (0..20).take_while(|_| {
        group.pass(MS(100));
        group.asked.is_empty()
    });
    assert!(steps.count() < 20, "it is tried again");
    group.move_over(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
}

#[test]
fn a_checker_drains_and_weighs_for_a_time_and_a_stay_counts_more() {
    let mut group = Group::settled();
    group.order(Command::Stay { backend: HEAVY, length: MS(10_000) });
    group.order(say(HEAVY, Verdict::Drain));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    group.pass(MS(10_000));
    group.move_over(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    // The report ends, and the heavier one comes back, unless the lighter one is said to be heavier.
    let long = report(Verdict::Weight(9.0), "checker", MS(3_000_000));
    group.order(Command::Report { backend: LIGHT, report: long });
    group.probe_for(HEAVY, 60);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.forget();
    group.order(say(LIGHT, Verdict::Up));
    group.move_over(HEAVY);
    assert_eq!(group.state(), (3, Some(HEAVY), Phase::Serve));
}

#[test]
fn reports_and_drains_survive_a_restart_with_the_time_that_is_left() {
    let mut group = Group::settled();
    group.order(say(LIGHT, Verdict::Down));
    group.pass(MS(10_000));
    let mut saved = group.machine.saved(group.now);
    assert_eq!(saved.reports[0].report.length, MS(20_000));
    saved.drained = vec!["heavy".to_owned()];
    let mut group = Group::new(settings(), Some(&saved));
    let members: Vec<_> = group.machine.members().map(|member| (member.is_drained, member.reports.len())).collect();
    assert_eq!(members, [(true, 0), (false, 1)]);
    group.pass(MS(20_000));
    let members: Vec<_> = group.machine.members().map(|member| (member.is_drained, member.reports.len())).collect();
    assert_eq!(members, [(true, 0), (false, 0)]);
}

#[test]
fn a_pause_is_in_the_route_until_it_is_over() {
    let mut group = Group::settled();
    group.order(Command::Pause { length: MS(5000), writes_only: true });
    let pause = group.machine.route().pause.expect("a pause");
    assert_eq!((pause.until, pause.writes_only), (group.now + MS(5000), true));
    assert_eq!(group.machine.next_deadline(), Some(pause.until));
    group.pass(MS(5000));
    assert_eq!(group.machine.route().pause, None);
    assert_eq!(group.refuse(Command::Resume), Refused::NotPaused);
    group.order(Command::Pause { length: MS(5000), writes_only: false });
    group.order(Command::Resume);
    assert_eq!(group.machine.route().pause, None);
}

const KILL: Drill = Drill { backend: HEAVY, fault: DrillFault::Kill };

fn drill(is_forced: bool) -> Command {
    Command::Drill { drill: KILL, length: MS(30_000), is_forced }
}

#[test]
fn a_drill_is_in_the_route_and_ends_with_its_ledger() {
    let mut group = Group::settled();
    group.order(drill(false));
    assert_eq!(group.machine.route().drill, Some(KILL));
    assert_eq!(group.refuse(drill(true)), Refused::DrillUnderWay);
    group.now += MS(3);
    group.lose(HEAVY);
    group.now += MS(2);
    group.acknowledge();
    let judged = Judged { moved: 1, uncertain: 2, ..Judged::default() };
    for worker in 0..WORKERS {
        group.say(WorkerReport::Activated { worker, epoch: 2, judged });
    }
    group.pass(MS(29_993));
    assert!(group.machine.route().drill.is_some());
    group.pass(MS(1));
    assert_eq!(group.machine.route().drill, None);
    let ledger = group.events.iter().find_map(|event| match event {
        Event::DrillEnded { ledger } => Some(ledger.clone()),
        _ => None,
    });
    let ledger = ledger.expect("a ledger");
    assert_eq!((ledger.switches, ledger.to, ledger.judged.total()), (1, Some(LIGHT), 6));
    assert_eq!((ledger.detected_after, ledger.served_after), (Some(MS(4)), Some(MS(6))));
    assert_eq!(group.refuse(Command::EndDrill), Refused::NoDrill);
}

#[test]
fn a_drill_needs_somebody_who_takes_over_or_force() {
    let mut group = Group::settled();
    group.order(Command::Ban { backend: LIGHT, length: MS(300_000) });
    assert_eq!(group.refuse(drill(false)), Refused::NoRefuge);
    group.order(drill(true));
    group.order(Command::EndDrill);
    assert_eq!(group.machine.route().drill, None);
    let told =
        |event: &&Event| matches!(event, Event::DrillEnded { ledger } if ledger.is_cut_short && ledger.to.is_none());
    assert_eq!(group.events.iter().filter(told).count(), 1);
}

#[test]
fn a_simulation_tells_what_would_be_and_touches_nothing() {
    for (fault, at_least, at_most) in
        [(DrillFault::Kill, 0, 20), (DrillFault::Readonly, 0, 20), (DrillFault::Hang, 900, 1200)]
    {
        let mut group = Group::settled();
        let simulation = group.machine.simulate(group.now, HEAVY, fault);
        assert_eq!(simulation.active, Some(LIGHT), "{fault}");
        let detected = simulation.detected_after.expect("a switch").as_millis();
        assert!((at_least..=at_most).contains(&detected), "{fault}: {detected}");
        assert!(simulation.fault(HEAVY).is_some(), "{fault}");
        // Health checks alone need some rounds, and an answer that says it counts at once.
        let quiet = simulation.without_traffic.expect("a switch").as_millis();
        assert!((400..4000).contains(&quiet), "{fault}: {quiet}");
        group.drain();
        assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "{fault}");
        assert!(group.events.is_empty() && group.asked.is_empty(), "{fault}");
    }
    let mut alone = Group::settled();
    alone.order(Command::Ban { backend: LIGHT, length: MS(300_000) });
    let simulation = alone.machine.simulate(alone.now, HEAVY, DrillFault::Kill);
    assert_eq!((simulation.active, simulation.served_after), (Some(HEAVY), None));
}
