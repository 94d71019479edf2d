//! Members that come and go.

use super::*;
use crate::logic::drill::{Drill, DrillFault};

const NEW: BackendId = BackendId(2);

fn spec(id: BackendId, name: &str, weight: f64) -> BackendSpec {
    BackendSpec { id, name: name.into(), weight, health: None, breaker: None }
}

const fn remove(backend: BackendId, removal: Removal) -> Command {
    Command::Remove { backend, removal }
}

impl Group {
    fn ids(&self) -> Vec<BackendId> {
        self.machine.members().map(|member| member.id).collect()
    }

    fn seen(&self) -> Vec<BackendId> {
        self.machine.members().filter(|member| !member.is_hidden).map(|member| member.id).collect()
    }

    fn add(&mut self, id: BackendId, name: &str, weight: f64) -> Result<(), Refused> {
        let outcome = self.machine.add(self.now, spec(id, name, weight));
        self.drain();
        outcome
    }

    fn replace(&mut self, old: BackendId, by: BackendId, name: &str) {
        assert_eq!(self.machine.replace(self.now, old, spec(by, name, 2.0)), Ok(()));
        self.drain();
    }

    /// The target proves itself, and the workers drain.
    fn finish_planned(&mut self, to: BackendId) {
        assert_eq!(self.asked.last(), Some(&to), "the target is asked to prove itself");
        self.re_probe(to, good());
        let attempt = self.attempt();
        for worker in 0..WORKERS {
            self.say(WorkerReport::Drained { worker, attempt });
        }
    }
}

#[test]
fn who_is_added_serves_once_it_is_proven_and_nobody_else_can() {
    let mut group = Group::serving(settings());
    assert_eq!(group.add(NEW, "new", 0.5), Ok(()));
    assert_eq!(group.ids(), [HEAVY, LIGHT, NEW]);
    assert_eq!(group.events, [Event::BackendAdded { backend: NEW, weight: 0.5 }]);
    group.probe(NEW, good());
    group.lose(HEAVY);
    group.acknowledge();
    group.forget();
    group.lose(LIGHT);
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(NEW), Phase::Serve));
}

#[test]
fn who_is_added_while_all_are_down_serves_with_its_first_clean_probe() {
    let mut group = Group::failed_over(settings());
    group.lose(LIGHT);
    assert!(group.machine.members().all(|member| !member.is_healthy));
    assert_eq!(group.add(NEW, "new", 0.5), Ok(()));
    group.probe(NEW, good());
    group.acknowledge();
    assert_eq!(group.state(), (3, Some(NEW), Phase::Serve));
    assert_eq!(group.machine.route().availability, Availability::Healthy);
}

#[test]
fn names_and_numbers_are_taken_once_and_weights_are_weights() {
    let mut group = Group::serving(settings());
    assert_eq!(group.add(NEW, "heavy", 1.0), Err(Refused::NameTaken));
    assert_eq!(group.add(LIGHT, "new", 1.0), Err(Refused::NameTaken));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(group.add(NEW, "new", weight), Err(Refused::BadWeight));
    }
    assert_eq!(group.ids(), [HEAVY, LIGHT]);
    assert!(group.events.is_empty());
}

#[test]
fn who_is_not_active_goes_at_once() {
    let mut group = Group::serving(settings());
    group.order(remove(LIGHT, Removal::Planned));
    assert_eq!(group.ids(), [HEAVY]);
    assert_eq!(group.dismissed, [LIGHT]);
    assert_eq!(group.machine.route().standby, None);
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    // What still comes from there means nothing.
    group.probe(LIGHT, refused());
    group.say(WorkerReport::LinkLost { backend: LIGHT, epoch: 1, at: group.now, cause: "closed".into() });
    assert_eq!(group.events, [Event::BackendRemoved { backend: LIGHT }]);
    let refused = group.machine.on_operator(group.now, remove(HEAVY, Removal::Forced));
    assert_eq!(refused, Err(Refused::LastBackend));
    let unknown = group.machine.on_operator(group.now, remove(LIGHT, Removal::Planned));
    assert_eq!(unknown, Err(Refused::UnknownBackend));
}

#[test]
fn the_active_is_left_by_a_planned_switch_and_then_goes() {
    let mut group = Group::serving(settings());
    group.order(remove(HEAVY, Removal::Planned));
    assert_eq!(group.ids(), [HEAVY, LIGHT], "it serves still");
    group.finish_planned(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!((group.ids(), group.dismissed.clone()), (vec![LIGHT], vec![HEAVY]));
    group.pass(MS(2000));
    assert_eq!(group.switched().last(), Some(&(Some(HEAVY), LIGHT, "backend removed".to_owned())));
    assert_eq!(group.saved.as_ref().unwrap().active.as_deref(), Some("light"));
}

#[test]
fn a_healthy_active_is_left_for_nobody_only_by_force() {
    let mut group = Group::serving(settings());
    group.lose(LIGHT);
    let refused = group.machine.on_operator(group.now, remove(HEAVY, Removal::Planned));
    assert_eq!(refused, Err(Refused::NoneToTakeOver));
    group.order(remove(HEAVY, Removal::Forced));
    group.acknowledge();
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    assert_eq!(group.ids(), [LIGHT]);
    assert_eq!(group.machine.route().availability, Availability::Degraded);
}

#[test]
fn patience_waits_for_somebody_to_take_over() {
    let mut group = Group::serving(settings());
    group.lose(LIGHT);
    group.order(remove(HEAVY, Removal::Patient));
    group.pass(MS(60_000));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    for _ in 0..3 {
        group.probe(LIGHT, good());
    }
    group.finish_planned(LIGHT);
    assert_eq!((group.state(), group.ids()), ((2, Some(LIGHT), Phase::Serve), vec![LIGHT]));
}

#[test]
fn a_dead_active_is_left_at_once_and_goes() {
    let mut group = Group::failed_over(settings());
    group.lose(LIGHT);
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve), "none can serve: it stays");
    group.order(remove(LIGHT, Removal::Planned));
    group.acknowledge();
    assert_eq!((group.state(), group.ids()), ((3, Some(HEAVY), Phase::Serve), vec![HEAVY]));
}

#[test]
fn a_removal_that_was_called_off_is_tried_again() {
    let mut group = Group::serving(settings());
    group.order(remove(HEAVY, Removal::Planned));
    group.re_probe(LIGHT, good());
    group.pass(MS(1000));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "not drained");
    let due = group.machine.next_deadline().expect("another attempt");
    assert!(due <= group.now + MS(1000), "in {:?}", due - group.now);
    group.pass(MS(1000));
    group.finish_planned(LIGHT);
    assert_eq!((group.state(), group.ids()), ((2, Some(LIGHT), Phase::Serve), vec![LIGHT]));
}

#[test]
fn the_target_of_a_planned_switch_can_be_removed() {
    for is_held in [false, true] {
        let mut group = Group::serving(settings());
        group.order(Command::Switch { to: LIGHT, manner: Manner::Planned });
        if is_held {
            group.re_probe(LIGHT, good());
        }
        group.order(remove(LIGHT, Removal::Planned));
        assert_eq!((group.state(), group.ids()), ((1, Some(HEAVY), Phase::Serve), vec![HEAVY]));
        let called_off = Event::SwitchCalledOff { to: LIGHT, why: CallOff::TargetRemoved, retry_in: None };
        assert!(group.events.contains(&called_off), "{:?}", group.events);
    }
}

#[test]
fn the_target_of_a_forced_switch_is_removed_once_it_can_be_left() {
    let mut group = Group::serving(settings());
    assert_eq!(group.add(NEW, "new", 0.5), Ok(()));
    group.probe(NEW, good());
    group.order(Command::Switch { to: LIGHT, manner: Manner::Forced });
    group.order(remove(LIGHT, Removal::Planned));
    group.acknowledge();
    // The heaviest of those that stay was chosen instead.
    assert_eq!((group.state(), group.ids()), ((2, Some(NEW), Phase::Serve), vec![HEAVY, NEW]));
}

#[test]
fn who_leaves_is_never_chosen() {
    let mut group = Group::serving(settings());
    assert_eq!(group.add(NEW, "new", 0.5), Ok(()));
    group.probe(NEW, good());
    group.order(remove(HEAVY, Removal::Planned));
    let refused = group.machine.on_operator(group.now, Command::Switch { to: HEAVY, manner: Manner::Forced });
    assert_eq!(refused, Err(Refused::AlreadyActive));
    group.finish_planned(LIGHT);
    assert_eq!(group.ids(), [LIGHT, NEW]);
    let refused = group.machine.on_operator(group.now, Command::Switch { to: HEAVY, manner: Manner::Forced });
    assert_eq!(refused, Err(Refused::UnknownBackend));
}

#[test]
fn a_stay_ends_with_its_backend_and_a_name_can_come_back() {
    let mut group = Group::serving(settings());
    group.order(Command::Stay { backend: HEAVY, length: MS(60_000) });
    group.order(remove(HEAVY, Removal::Planned));
    assert_eq!(group.machine.stay(), None);
    group.finish_planned(LIGHT);
    assert_eq!(group.add(NEW, "heavy", 2.0), Ok(()));
    group.probe(NEW, good());
    assert_eq!(group.ids(), [LIGHT, NEW]);
    assert_eq!(group.machine.blocked(), Some(Blocked::HoldTime), "it comes back by the rules");
}

#[test]
fn an_idle_backend_is_replaced_at_once_and_keeps_its_ban() {
    let mut group = Group::serving(settings());
    group.order(Command::Ban { backend: LIGHT, length: MS(60_000) });
    group.replace(LIGHT, NEW, "light");
    assert_eq!((group.ids(), group.seen()), (vec![HEAVY, NEW], vec![HEAVY, NEW]));
    assert_eq!(group.dismissed, [LIGHT]);
    assert!(group.machine.members().any(|member| member.id == NEW && member.banned_until.is_some()));
}

#[test]
fn the_active_is_replaced_once_the_other_is_healthy_and_keeps_its_stay() {
    let mut group = Group::serving(settings());
    group.order(Command::Stay { backend: HEAVY, length: MS(600_000) });
    group.replace(HEAVY, NEW, "heavy");
    group.probe(NEW, refused());
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "a wrong address moves nobody");
    assert_eq!(group.seen(), [HEAVY, LIGHT]);
    for _ in 0..3 {
        group.probe(NEW, good());
    }
    group.finish_planned(NEW);
    assert_eq!(group.state(), (2, Some(NEW), Phase::Serve));
    assert_eq!((group.ids(), group.seen()), (vec![LIGHT, NEW], vec![LIGHT, NEW]));
    assert_eq!(group.machine.stay().map(|stay| stay.backend), Some(NEW));
    assert!(group.events.contains(&Event::BackendReplaced { backend: HEAVY, by: NEW }));
}

#[test]
fn the_only_backend_is_replaced() {
    let mut group = Group::serving(settings());
    group.order(remove(LIGHT, Removal::Planned));
    group.replace(HEAVY, NEW, "heavy");
    group.probe(NEW, good());
    group.finish_planned(NEW);
    assert_eq!((group.state(), group.seen()), ((2, Some(NEW), Phase::Serve), vec![NEW]));
}

#[test]
fn a_replacement_can_be_replaced_and_removed() {
    let newest = BackendId(3);
    let mut group = Group::serving(settings());
    group.replace(HEAVY, NEW, "heavy");
    group.replace(HEAVY, newest, "heavy");
    assert_eq!((group.ids(), group.dismissed.clone()), (vec![HEAVY, LIGHT, newest], vec![NEW]));
    group.order(remove(HEAVY, Removal::Planned));
    assert_eq!((group.ids(), group.dismissed.clone()), (vec![HEAVY, LIGHT], vec![NEW, newest]));
    group.finish_planned(LIGHT);
    assert_eq!(group.ids(), [LIGHT]);
}

#[test]
fn the_predecessor_that_dies_leaves_its_name_to_its_replacement() {
    let mut group = Group::serving(settings());
    group.replace(HEAVY, NEW, "heavy");
    group.probe(NEW, silent());
    group.lose(HEAVY);
    group.acknowledge();
    assert_eq!((group.state(), group.seen()), ((2, Some(LIGHT), Phase::Serve), vec![LIGHT, NEW]));
}

#[test]
fn other_settings_are_in_force_from_now_on() {
    let mut group = Group::serving(settings());
    let mut other = settings();
    other.health.fall = 1;
    other.failover.drain = MS(50);
    group.machine.configure(group.now, other, &[spec(HEAVY, "heavy", 9.0)]);
    group.drain();
    assert_eq!(group.machine.members().next().unwrap().weight, 2.0, "weights are changed by name");
    group.order(Command::Switch { to: LIGHT, manner: Manner::Planned });
    group.re_probe(LIGHT, good());
    group.pass(MS(50));
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve), "the drain is over");
    group.probe(LIGHT, silent());
    assert!(!group.machine.members().nth(1).unwrap().is_healthy);
}

#[test]
fn what_was_wanted_of_a_backend_goes_with_it() {
    let drill = Drill { backend: LIGHT, fault: DrillFault::Kill };
    let report = Report { verdict: Verdict::Down, reporter: "me".into(), reason: "disk".into(), length: MS(60_000) };
    let mut group = Group::serving(settings());
    group.order(Command::Drain { backend: LIGHT });
    group.order(Command::Report { backend: LIGHT, report });
    group.order(Command::Drill { drill, length: MS(60_000), is_forced: true });
    assert_eq!(group.machine.route().drill, Some(drill));
    group.order(remove(LIGHT, Removal::Planned));
    assert_eq!(group.machine.route().drill, None);
    // The start is still being added up.
    group.pass(MS(3000));
    let is_cut = |event: &Event| matches!(event, Event::DrillEnded { ledger } if ledger.is_cut_short);
    assert_eq!(group.events.iter().filter(|event| is_cut(event)).count(), 1);
    assert_eq!(group.add(NEW, "light", 1.0), Ok(()));
    let member = group.machine.members().find(|member| member.id == NEW).expect("a member");
    assert!(!member.is_drained && member.reports.is_empty());
    let saved = group.machine.saved(group.now);
    assert!(saved.drained.is_empty() && saved.reports.is_empty());
}

#[test]
fn who_leaves_is_no_target_of_a_drain_or_a_report() {
    let mut group = Group::serving(settings());
    assert_eq!(group.add(NEW, "new", 0.5), Ok(()));
    group.order(remove(HEAVY, Removal::Planned));
    group.finish_planned(LIGHT);
    group.replace(LIGHT, BackendId(3), "light");
    // It leaves, and who is to replace it is not healthy: a drain of the active has nowhere to go.
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.order(Command::Drain { backend: LIGHT });
    assert_eq!(group.state(), (2, Some(LIGHT), Phase::Serve));
    group.probe(BackendId(3), good());
    group.finish_planned(BackendId(3));
    assert_eq!(group.machine.route().active, Some(BackendId(3)));
    let heir = group.machine.members().find(|member| member.id == BackendId(3)).expect("a member");
    assert!(heir.is_drained, "a drain goes on under the name");
    assert!(!group.ids().contains(&LIGHT));
}
