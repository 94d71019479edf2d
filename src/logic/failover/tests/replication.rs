//! A master and its replicas: fences, promotions, and planned switches that wait.

use super::*;
use crate::logic::drill::DrillFault;
use crate::logic::replication::{Facts, Replication, Role};

const A: BackendId = BackendId(0);
const B: BackendId = BackendId(1);
const C: BackendId = BackendId(2);

/// `a` (weight 3), `b` (2) and `c` (1) of one-way replication unless said otherwise; one worker.
struct Trio {
    machine: Failover,
    now: Instant,
    asked: Vec<BackendId>,
    events: Vec<Event>,
    orders: Vec<PromotionOrder>,
    saved: Option<Saved>,
}

fn one_way(promotes: bool) -> ReplicationSettings {
    ReplicationSettings { replication: Replication::OneWay, promotes, ..ReplicationSettings::default() }
}

fn master(run_id: &str, history: &str, offset: u64) -> Facts {
    Facts {
        run_id: run_id.into(),
        role: Role::Master,
        replication_id: history.into(),
        second_replication_id: None,
        offset,
        keys: Some(100),
        replicates: None,
        is_linked: false,
        is_syncing: false,
    }
}

fn replica(run_id: &str, history: &str, offset: u64) -> Facts {
    let replicates = Some("10.0.0.1:6379".into());
    Facts { role: Role::Replica, replicates, is_linked: true, ..master(run_id, history, offset) }
}

/// A master that was a replica before.
fn promoted(run_id: &str, history: &str, before: &str, offset: u64) -> Facts {
    Facts { second_replication_id: Some(before.into()), ..master(run_id, history, offset) }
}

impl Trio {
    fn new(replication: ReplicationSettings, saved: Option<&Saved>) -> Self {
        let now = Group::new(settings(), None).now + Duration::from_secs(36_000);
        let spec = |id, name: &str, weight| BackendSpec { id, name: name.into(), weight, health: None, breaker: None };
        let backends = vec![spec(A, "a", 3.0), spec(B, "b", 2.0), spec(C, "c", 1.0)];
        let machine = Failover::new(now, settings(), backends, 1, saved).with_replication(replication);
        Self { machine, now, asked: Vec::new(), events: Vec::new(), orders: Vec::new(), saved: None }
    }

    /// `a` is a master with two replicas, of which `c` has more.
    fn serving(replication: ReplicationSettings) -> Self {
        let mut trio = Self::new(replication, None);
        trio.tell(A, good(), master("a1", "h", 100), false);
        trio.tell(B, readonly(), replica("b1", "h", 90), false);
        trio.tell(C, readonly(), replica("c1", "h", 95), false);
        assert_eq!(trio.active(), Some(A));
        trio.events.clear();
        trio
    }

    fn tell(&mut self, backend: BackendId, verdict: ProbeVerdict, facts: Facts, immediate: bool) {
        let started_at = self.now;
        self.now += MS(1);
        self.machine.on_facts(self.now, backend, Ok(facts));
        self.report(started_at, backend, verdict, immediate);
    }

    fn answer(&mut self, backend: BackendId, verdict: ProbeVerdict) {
        let started_at = self.now;
        self.now += MS(1);
        self.report(started_at, backend, verdict, true);
    }

    fn report(&mut self, started_at: Instant, backend: BackendId, verdict: ProbeVerdict, immediate: bool) {
        let report = ProbeReport { backend, started_at, ended_at: self.now, verdict, immediate };
        self.machine.on_probe(self.now, &report);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Publish(_) | Output::Dismiss(_) => {}
                Output::ProbeNow(backend) => self.asked.push(backend),
                Output::Log(event) => self.events.push(event),
                Output::Persist(saved) => self.saved = Some(saved),
                Output::Promote(order) => self.orders.push(order),
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.on_tick(self.now, 0.5);
        self.drain();
    }

    fn active(&self) -> Option<BackendId> {
        self.machine.route().active
    }

    /// The active's connections end and nobody listens there any more.
    fn kill(&mut self, backend: BackendId) {
        let lost = WorkerReport::LinkLost { backend, epoch: 1, at: self.now, cause: "reset".into() };
        self.machine.on_worker(self.now, lost);
        self.drain();
        self.answer(backend, refused());
    }

    fn acknowledge(&mut self) {
        let report = match self.machine.route().phase {
            Phase::Cut { attempt, .. } => WorkerReport::Stopped { worker: 0, attempt },
            Phase::Hold { attempt, .. } => WorkerReport::Drained { worker: 0, attempt },
            Phase::Serve => panic!("no switch is under way"),
        };
        self.machine.on_worker(self.now, report);
        self.drain();
    }

    fn promotion(&mut self, backend: BackendId, outcome: Result<(), String>) {
        self.machine.on_promotion(self.now, backend, outcome);
        self.drain();
    }

    fn kinds(&self) -> Vec<(BackendId, &'static str)> {
        let kind = |event: &Event| match event {
            Event::Replication { backend, news } => Some((*backend, news.kind())),
            _ => None,
        };
        self.events.iter().filter_map(kind).collect()
    }

    fn fence(&self, backend: BackendId) -> Option<FenceReason> {
        let member = self.machine.members().find(|member| member.id == backend).unwrap();
        member.fence.map(|fence| fence.reason)
    }

    /// Clean checks once a second.
    fn clean_for(&mut self, seconds: u64, facts: &[(BackendId, Facts)]) {
        for _ in 0..seconds {
            self.pass(MS(990));
            for (backend, facts) in facts {
                self.tell(*backend, good(), facts.clone(), false);
            }
        }
    }

    /// The master died, `c` was promoted and serves.
    fn promoted_to_c() -> Self {
        let mut trio = Self::serving(one_way(true));
        trio.kill(A);
        trio.tell(B, readonly(), replica("b1", "h", 90), true);
        trio.tell(C, readonly(), replica("c1", "h", 95), true);
        trio.promotion(C, Ok(()));
        trio.tell(C, good(), promoted("c1", "i", "h", 95), true);
        trio.acknowledge();
        assert_eq!(trio.active(), Some(C));
        trio
    }
}

#[test]
fn the_replica_that_has_most_is_promoted_once() {
    let mut trio = Trio::serving(one_way(true));
    trio.kill(A);
    assert_eq!((&trio.asked[1..], trio.orders.len()), (&[B, C][..], 0), "asked anew first");
    trio.tell(C, readonly(), replica("c1", "h", 95), true);
    assert_eq!(trio.orders, []);
    // It has got more since the last look.
    trio.tell(B, readonly(), replica("b1", "h", 99), true);
    let promote = Some(Duration::from_secs(5));
    assert_eq!(trio.orders, [PromotionOrder { backend: B, from: None, catch_up: None, promote }]);
    trio.promotion(B, Ok(()));
    trio.tell(B, good(), promoted("b1", "i", "h", 99), true);
    assert!(matches!(trio.machine.route().phase, Phase::Cut { to: B, .. }));
    trio.acknowledge();
    assert_eq!((trio.active(), trio.orders.len()), (Some(B), 1));
    assert_eq!(trio.kinds(), [(B, "promoting"), (B, "promoted")]);
}

#[test]
fn a_simulation_promotes_as_a_fault_would() {
    for (promotes, expected) in [(true, Some(C)), (false, Some(A))] {
        let trio = Trio::serving(one_way(promotes));
        let simulation = trio.machine.simulate(trio.now, A, DrillFault::Kill);
        assert_eq!(simulation.active, expected);
        assert_eq!((simulation.served_after.is_some(), simulation.without_traffic.is_some()), (promotes, promotes));
        assert_eq!(trio.machine.would_promote(), promotes.then_some(C));
    }
}

#[test]
fn who_cannot_be_promoted_says_so() {
    let mut trio = Trio::serving(one_way(true));
    assert!(trio.machine.standing(B).unwrap().contains("is promoted when it is to take over"));
    trio.tell(B, readonly(), Facts { is_syncing: true, ..replica("b1", "h", 90) }, false);
    assert!(trio.machine.standing(B).unwrap().contains("cannot be promoted"));
}

#[test]
fn who_does_not_answer_is_not_waited_for_long() {
    let mut trio = Trio::serving(one_way(true));
    trio.kill(A);
    trio.tell(B, readonly(), replica("b1", "h", 90), true);
    trio.pass(MS(500));
    assert_eq!(trio.orders.iter().map(|order| order.backend).collect::<Vec<_>>(), [B]);
}

#[test]
fn nobody_is_promoted_without_leave_or_with_a_broken_copy() {
    let mut trio = Trio::serving(one_way(false));
    trio.kill(A);
    trio.pass(MS(5000));
    assert_eq!((&trio.orders[..], trio.active()), (&[][..], Some(A)));
    assert!(trio.machine.standing(B).unwrap().contains("until somebody promotes it"));

    let broken: [(&str, Facts); 3] = [
        ("a whole copy was begun and not ended", Facts { is_syncing: true, ..replica("b1", "h", 90) }),
        ("it has less than it had", Facts { is_linked: false, ..replica("b1", "h", 1) }),
        (
            "it was started again and has not seen its master since",
            Facts { is_linked: false, ..replica("b2", "h", 90) },
        ),
    ];
    for (why, facts) in broken {
        let mut trio = Trio::new(one_way(true), None);
        trio.tell(A, good(), master("a1", "h", 100), false);
        trio.tell(B, readonly(), replica("b1", "h", 90), false);
        trio.tell(B, readonly(), facts, false);
        trio.kill(A);
        trio.pass(MS(5000));
        assert_eq!(trio.orders, [], "{why}");
    }
}

#[test]
fn a_promotion_that_fails_or_hangs_is_tried_again_later() {
    for hangs in [false, true] {
        let mut trio = Trio::serving(one_way(true));
        let ask = |trio: &mut Trio| {
            trio.tell(B, readonly(), replica("b1", "h", 90), true);
            trio.tell(C, readonly(), replica("c1", "h", 95), true);
        };
        trio.kill(A);
        ask(&mut trio);
        if hangs {
            trio.pass(MS(6000));
        } else {
            trio.promotion(C, Err("ended with exit status: 1".into()));
        }
        assert_eq!(trio.kinds().last(), Some(&(C, "promotion_failed")));
        trio.promotion(C, Ok(()));
        assert_eq!((trio.active(), trio.machine.is_settled()), (Some(A), true), "late, it says nothing");
        trio.pass(MS(999));
        assert_eq!(trio.orders.len(), 1);
        trio.pass(MS(2));
        ask(&mut trio);
        assert_eq!(trio.orders.len(), 2);
    }
}

/// Another Handover promotes a replica in the midst of our asking it: its answer fails, or is half of before and half of
/// after. To promote the next one then would leave two masters.
#[test]
fn who_is_just_being_promoted_by_somebody_else_is_asked_again() {
    let broken_off = (refused(), replica("b1", "h", 90));
    let contradictory = (readonly(), promoted("b1", "i", "h", 90));
    for (verdict, facts) in [broken_off, contradictory] {
        let mut trio = Trio::serving(one_way(true));
        trio.kill(A);
        trio.tell(B, verdict, facts, true);
        trio.tell(C, readonly(), replica("c1", "h", 90), true);
        assert_eq!(trio.orders, []);
        trio.tell(B, good(), promoted("b1", "i", "h", 90), true);
        assert!(matches!(trio.machine.route().phase, Phase::Cut { to: B, .. }), "{:?}", trio.machine.route());
        assert_eq!(trio.orders, []);
    }
    // Who is dead is not waited for.
    let mut trio = Trio::serving(one_way(true));
    trio.kill(A);
    trio.tell(C, readonly(), replica("c1", "h", 90), true);
    trio.answer(B, refused());
    trio.answer(B, refused());
    assert_eq!(trio.orders.len(), 1);
}

#[test]
fn somebody_else_may_promote_first() {
    let mut trio = Trio::serving(one_way(true));
    trio.kill(A);
    trio.tell(B, good(), promoted("b1", "i", "h", 90), true);
    assert!(matches!(trio.machine.route().phase, Phase::Cut { to: B, .. }), "{:?}", trio.machine.route());
    assert_eq!(trio.orders, []);
}

/// A second master beside a healthy one is fenced; with that one dead, to promote a third would leave two.
#[test]
fn who_was_promoted_by_somebody_else_is_taken_before_another_is_promoted() {
    let mut trio = Trio::serving(one_way(true));
    trio.tell(B, good(), promoted("b1", "i", "h", 100), false);
    assert_eq!((trio.active(), trio.fence(B)), (Some(A), Some(FenceReason::MultipleMasters)));
    trio.kill(A);
    assert!(matches!(trio.machine.route().phase, Phase::Cut { to: B, .. }), "{:?}", trio.machine.route());
    assert_eq!(trio.orders, []);
    // Once it is known to be healthy, nobody is said to be promoted either.
    let mut trio = Trio::serving(one_way(true));
    trio.clean_for(700, &[(A, master("a1", "h", 100)), (B, promoted("b1", "i", "h", 100))]);
    assert_eq!((trio.active(), trio.machine.would_promote()), (Some(A), None));
    // Whoever comes back from before the switch is no such one: the replica has more.
    let mut trio = Trio::promoted_to_c();
    trio.clean_for(60, &[(A, master("a2", "h", 100)), (C, promoted("c1", "i", "h", 99))]);
    trio.tell(B, readonly(), replica("b1", "i", 98), false);
    trio.kill(C);
    assert!(!matches!(trio.machine.route().phase, Phase::Cut { to: A, .. }), "{:?}", trio.machine.route());
}

#[test]
fn the_old_master_is_fenced_until_an_operator_or_replication_says_otherwise() {
    let serving = |seconds| {
        let mut trio = Trio::promoted_to_c();
        let both = [(A, master("a2", "j", 0)), (C, promoted("c1", "i", "h", 99))];
        trio.clean_for(seconds, &both);
        trio
    };
    let mut trio = serving(100);
    assert_eq!((trio.active(), trio.fence(A)), (Some(C), Some(FenceReason::MultipleMasters)));
    assert_eq!(trio.machine.blocked(), Some(Blocked::Fenced(FenceReason::MultipleMasters)));
    assert_eq!(trio.kinds().iter().filter(|(_, kind)| *kind == "multiple_masters").count(), 1, "told once");

    // It copies from the active now.
    trio.tell(A, readonly(), replica("a2", "i", 99), false);
    assert_eq!(trio.fence(A), None);

    let mut trio = serving(3);
    trio.machine.on_operator(trio.now, Command::Switch { to: A, manner: Manner::Forced }).unwrap();
    trio.drain();
    trio.acknowledge();
    assert_eq!((trio.active(), trio.fence(A)), (Some(A), None));
    trio.clean_for(3, &[(A, master("a2", "j", 5)), (C, promoted("c1", "i", "h", 99))]);
    assert_eq!(trio.fence(C), Some(FenceReason::MultipleMasters), "now it is the one too many");
}

#[test]
fn what_was_seen_is_held_against_what_comes_back() {
    let cases = [
        ("a lower offset of the same history", promoted("a2", "x", "h", 40), true),
        ("no history, no keys", Facts { keys: Some(0), ..master("a2", "x", 0) }, true),
        ("many keys fewer", Facts { keys: Some(80), ..master("a2", "x", 0) }, true),
        ("an append-only file has kept them, some expired", Facts { keys: Some(95), ..master("a2", "x", 0) }, false),
        ("the same history, further on", promoted("a2", "x", "h", 100), false),
        ("the same process after FLUSHALL", Facts { keys: Some(0), ..master("a1", "x", 0) }, false),
        ("a server that does not count its keys", Facts { keys: None, ..master("a2", "x", 0) }, false),
        ("a replica takes no writes", Facts { keys: Some(0), ..replica("a2", "x", 0) }, false),
    ];
    for (why, facts, is_stale) in cases {
        let none = ReplicationSettings::default();
        let mut trio = Trio::new(none, None);
        trio.tell(A, good(), master("a1", "h", 100), false);
        trio.tell(B, good(), master("b1", "g", 100), false);
        trio.kill(A);
        trio.acknowledge();
        trio.tell(A, good(), facts, false);
        assert_eq!(trio.fence(A), is_stale.then_some(FenceReason::StaleData), "{why}");
    }
}

#[test]
fn without_replication_stale_data_costs_the_hold_time_from_when_it_was_seen() {
    let mut trio = Trio::new(ReplicationSettings::default(), None);
    trio.tell(A, good(), master("a1", "h", 100), false);
    trio.tell(B, good(), master("b1", "g", 100), false);
    trio.kill(A);
    trio.acknowledge();
    let healthy = [(A, master("a1", "h", 100)), (B, master("b1", "g", 100))];
    trio.clean_for(28, &healthy);
    assert_eq!(trio.active(), Some(B));
    // It is started again in between two checks.
    let stale = [(A, Facts { keys: Some(1), ..master("a2", "k", 0) }), (B, master("b1", "g", 100))];
    trio.clean_for(18, &stale);
    assert_eq!(trio.machine.blocked(), Some(Blocked::Fenced(FenceReason::StaleData)));
    trio.clean_for(4, &stale);
    assert_eq!(trio.fence(A), None);
    assert!(trio.kinds().contains(&(A, "fence_lifted")));
}

#[test]
fn a_fenced_master_is_better_than_nobody() {
    let mut trio = Trio::promoted_to_c();
    trio.clean_for(60, &[(A, master("a2", "j", 0)), (C, promoted("c1", "i", "h", 99))]);
    assert_eq!(trio.machine.route().standby, None);
    trio.kill(C);
    trio.acknowledge();
    assert_eq!((trio.active(), trio.fence(A)), (Some(A), None));
}

#[test]
fn a_restart_of_handover_forgets_no_fence() {
    let mut trio = Trio::promoted_to_c();
    trio.clean_for(3, &[(A, master("a2", "j", 0)), (C, promoted("c1", "i", "h", 99))]);
    let saved = trio.machine.saved(trio.now);
    let mut trio = Trio::new(one_way(true), Some(&saved));
    trio.clean_for(100, &[(A, master("a2", "j", 0)), (C, promoted("c1", "i", "h", 99))]);
    assert_eq!((trio.active(), trio.fence(A)), (Some(C), Some(FenceReason::MultipleMasters)));

    // What was seen is known, too: it came back with less while Handover was away.
    let trio = Trio::serving(one_way(false));
    let saved = trio.machine.saved(trio.now);
    let mut trio = Trio::new(one_way(false), Some(&saved));
    trio.tell(A, good(), Facts { keys: Some(0), ..master("a2", "x", 0) }, false);
    assert_eq!(trio.kinds()[0], (A, "stale_data"));
}

#[test]
fn the_one_that_is_being_promoted_is_no_second_master() {
    let mut trio = Trio::serving(one_way(true));
    trio.machine.on_operator(trio.now, Command::Switch { to: C, manner: Manner::Planned }).unwrap();
    trio.drain();
    trio.tell(C, readonly(), replica("c1", "h", 95), true);
    trio.acknowledge();
    trio.promotion(C, Ok(()));
    // Its own words come before those of the old master, which was a master when it was last asked.
    trio.tell(C, good(), promoted("c1", "i", "h", 100), true);
    assert_eq!((trio.active(), trio.fence(C)), (Some(C), None));
    assert_eq!(trio.kinds(), [(C, "promoting"), (C, "promoted")]);
}

#[test]
fn a_planned_switch_promotes_once_the_replica_has_everything() {
    let order = Command::Switch { to: C, manner: Manner::Planned };
    let mut trio = Trio::serving(one_way(false));
    assert_eq!(trio.machine.on_operator(trio.now, order.clone()), Err(Refused::TargetUnhealthy));

    let begin = || {
        let mut trio = Trio::serving(one_way(true));
        trio.machine.on_operator(trio.now, order.clone()).unwrap();
        trio.drain();
        trio.tell(C, readonly(), replica("c1", "h", 95), true);
        trio.acknowledge();
        let [order] = trio.orders[..] else { panic!("{:?}", trio.orders) };
        assert_eq!((order.backend, order.from, order.promote), (C, Some(A), Some(Duration::from_secs(5))));
        assert!(order.catch_up.is_some_and(|limit| limit <= MS(1000)));
        assert!(matches!(trio.machine.route().phase, Phase::Hold { to: C, .. }), "commands wait");
        trio
    };
    let mut trio = begin();
    trio.promotion(C, Ok(()));
    // The old master is a replica by now: that is no fault.
    trio.tell(A, readonly(), replica("a1", "h", 100), false);
    trio.tell(C, good(), promoted("c1", "i", "h", 100), true);
    assert_eq!((trio.active(), trio.machine.route().phase), (Some(C), Phase::Serve));
    trio.tell(A, readonly(), replica("a1", "i", 100), false);
    trio.tell(C, good(), promoted("c1", "i", "h", 100), false);
    assert_eq!(trio.fence(A), None);

    let mut trio = begin();
    trio.promotion(C, Err("FAILOVER refused".into()));
    assert_eq!((trio.active(), trio.machine.route().phase), (Some(A), Phase::Serve));
    let called_off = |event: &Event| matches!(event, Event::SwitchCalledOff { why: CallOff::NotPromoted, .. });
    assert!(trio.events.iter().any(called_off));
}

#[test]
fn a_replica_that_takes_writes_is_waited_for_and_nothing_else() {
    let begin = |waits| {
        let mut trio = Trio::new(ReplicationSettings { waits, ..one_way(false) }, None);
        trio.tell(A, good(), master("a1", "h", 100), false);
        trio.tell(B, good(), replica("b1", "h", 90), false);
        trio.machine.on_operator(trio.now, Command::Switch { to: B, manner: Manner::Planned }).unwrap();
        trio.drain();
        trio.tell(B, good(), replica("b1", "h", 90), true);
        trio.acknowledge();
        trio
    };
    let mut trio = begin(true);
    assert_eq!((trio.active(), trio.orders[0].promote, trio.orders[0].from), (Some(A), None, Some(A)));
    trio.promotion(B, Ok(()));
    assert_eq!(trio.active(), Some(B));
    let mut trio = begin(true);
    trio.pass(MS(2000));
    assert_eq!((trio.active(), trio.machine.is_settled()), (Some(A), true));
    let called_off = |event: &Event| matches!(event, Event::SwitchCalledOff { why: CallOff::NotCaughtUp, .. });
    assert!(trio.events.iter().any(called_off));
    let trio = begin(false);
    assert_eq!((trio.active(), trio.orders.len()), (Some(B), 0));
}

#[test]
fn twins_are_told_of_where_nobody_says_what_replicates_what() {
    let mut trio = Trio::new(ReplicationSettings::default(), None);
    for _ in 0..3 {
        trio.tell(A, good(), master("a1", "h", 100), false);
        trio.tell(B, good(), promoted("b1", "i", "h", 100), false);
        trio.tell(C, good(), master("c1", "x", 100), false);
    }
    assert_eq!((trio.kinds(), trio.fence(B)), (vec![(B, "multiple_masters")], None));
    let both_ways = ReplicationSettings { replication: Replication::BothWays, ..ReplicationSettings::default() };
    let mut trio = Trio::new(both_ways, None);
    trio.tell(A, good(), master("a1", "h", 100), false);
    trio.tell(B, good(), master("b1", "h", 100), false);
    assert_eq!(trio.kinds(), []);
}

#[test]
fn a_server_that_does_not_tell_is_warned_of_once() {
    let mut trio = Trio::serving(one_way(true));
    for _ in 0..3 {
        trio.machine.on_facts(trio.now, B, Err("INFO refused: NOPERM".into()));
        trio.drain();
    }
    assert_eq!(trio.kinds(), [(B, "facts_unknown")]);
    trio.kill(A);
    assert_eq!(trio.asked.last(), Some(&C), "of the other nothing is known");
}

/// What the old master took while another is made the master would be lost.
#[test]
fn a_master_that_comes_back_during_a_promotion_takes_no_writes() {
    for outcome in [Ok(()), Err("ended with exit status: 1".to_owned())] {
        let mut trio = Trio::serving(one_way(true));
        trio.kill(A);
        assert_eq!(trio.machine.route().phase, Phase::Serve, "nothing is ordered yet");
        trio.tell(B, readonly(), replica("b1", "h", 90), true);
        trio.tell(C, readonly(), replica("c1", "h", 95), true);
        assert!(matches!(trio.machine.route().phase, Phase::Cut { to: C, .. }), "{:?}", trio.machine.route().phase);
        trio.acknowledge();
        assert_eq!(trio.active(), Some(A), "it is not done");
        for _ in 0..5 {
            trio.tell(A, good(), master("a2", "j", 100), false);
        }
        assert!(matches!(trio.machine.route().phase, Phase::Cut { to: C, .. }), "{:?}", trio.machine.route().phase);
        trio.promotion(C, outcome.clone());
        if outcome.is_ok() {
            trio.tell(C, good(), promoted("c1", "i", "h", 99), true);
            trio.acknowledge();
            assert_eq!(trio.active(), Some(C));
        } else {
            assert_eq!(trio.active(), Some(A), "it lives: there is no other try");
        }
        assert_eq!(trio.machine.route().phase, Phase::Serve);
    }
}

#[test]
fn a_replica_that_was_taken_out_of_service_is_not_promoted() {
    let mut trio = Trio::serving(one_way(true));
    trio.machine.on_operator(trio.now, Command::Drain { backend: C }).unwrap();
    trio.drain();
    trio.kill(A);
    trio.tell(C, readonly(), replica("c1", "h", 95), true);
    trio.tell(B, readonly(), replica("b1", "h", 90), true);
    assert_eq!(trio.orders.iter().map(|order| order.backend).collect::<Vec<_>>(), [B]);
}

#[test]
fn a_simulation_promotes_as_the_fault_itself_would() {
    let trio = Trio::serving(one_way(true));
    for fault in [DrillFault::Kill, DrillFault::Hang, DrillFault::Readonly] {
        let simulation = trio.machine.simulate(trio.now, A, fault);
        assert_eq!((simulation.active, simulation.served_after.is_some()), (Some(C), true), "{fault}");
    }
    let never = Trio::serving(one_way(false));
    assert_eq!(never.machine.simulate(never.now, A, DrillFault::Kill).active, Some(A));
}

/// Whatever comes in whatever order: a failback never leads into a lasting fence, nothing is promoted without leave,
/// one order at a time, and only of a replica; and it never stands still in a stage without a deadline.
#[test]
fn random_events_break_no_rule() {
    for seed in 1..400_u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut draw = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let promotes = seed % 4 != 0;
        let mut trio = Trio::new(one_way(promotes), None);
        let mut orders = 0;
        let mut lasting: Vec<BackendId> = Vec::new();
        for step in 0..300 {
            let backend = [A, B, C][usize::try_from(draw(3)).unwrap()];
            let history = ["h", "i", "j"][usize::try_from(draw(3)).unwrap()];
            let run = ["r1", "r2"][usize::try_from(draw(2)).unwrap()];
            let before = trio.active();
            match draw(10) {
                0 | 1 => trio.tell(backend, good(), master(run, history, draw(200)), draw(2) == 0),
                2 | 3 => trio.tell(backend, readonly(), replica(run, history, draw(200)), draw(2) == 0),
                4 => trio.tell(backend, good(), promoted(run, "k", history, draw(200)), draw(2) == 0),
                5 => trio.answer(backend, refused()),
                6 => {
                    let outcome = if draw(2) == 0 { Ok(()) } else { Err("no".to_owned()) };
                    trio.promotion(backend, outcome);
                }
                7 if trio.machine.route().phase != Phase::Serve => trio.acknowledge(),
                8 => {
                    let manner = if draw(2) == 0 { Manner::Planned } else { Manner::Forced };
                    let _ = trio.machine.on_operator(trio.now, Command::Switch { to: backend, manner });
                    trio.drain();
                }
                _ => trio.pass(MS(draw(8000))),
            }
            for order in &trio.orders[orders..] {
                assert!(promotes || order.promote.is_none(), "seed {seed}, step {step}");
            }
            assert!(trio.orders.len() <= orders + 1, "seed {seed}, step {step}: two at once");
            orders = trio.orders.len();
            if let Stage::Promoting { until, .. } = &trio.machine.stage {
                assert!(trio.machine.next_deadline().is_some_and(|at| at <= *until), "seed {seed}, step {step}");
            }
            let has_failed_back = before != trio.active() && *trio.machine.reason() == Reason::Failback;
            let into_fence = trio.active().is_some_and(|active| lasting.contains(&active));
            assert!(!(has_failed_back && into_fence), "seed {seed}, step {step}: a failback into a fence");
            let is_lasting = |member: &MemberView<'_>| member.fence.is_some_and(|fence| fence.is_lasting);
            lasting = trio.machine.members().filter(is_lasting).map(|member| member.id).collect();
            assert!(trio.active().is_none_or(|active| !lasting.contains(&active)), "the active is not fenced");
        }
    }
}
