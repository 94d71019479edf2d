//! Properties of the small machines that the decision is made of, against the plainest models of them.
//! `PROPTEST_CASES=20000` tries more.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use handover::channels::{BackendId, ProbeVerdict};
use handover::logic::backoff::Backoff;
use handover::logic::breaker::{Breaker, BreakerState, GOOD_TO_CLOSE};
use handover::logic::budget::Budget;
use handover::logic::detector::{Detector, Finding, Sample};
use handover::logic::health::{Health, HealthChange, Tally};
use handover::logic::selection::{Candidate, best};
use handover::logic::settings::{BreakerSettings, DetectorSettings, LatencySettings, ProbePolicy};
use proptest::prelude::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn good() -> ProbeVerdict {
    ProbeVerdict::Good { server: None, role: None, warning: None }
}

fn failed() -> ProbeVerdict {
    ProbeVerdict::Failed { cause: "silent".into(), refused: false }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (1u8..=3, any::<bool>());
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let candidate =
            |(id, (weight, is_eligible))| Candidate { id: BackendId(id), weight: f64::from(weight), is_eligible };
        (0..).zip(all).map(candidate).collect()
    })
}

#[derive(Clone, Copy, Debug)]
enum Blow {
    Trip,
    Good,
    Bad,
    Wait(u64),
}

fn blows() -> impl Strategy<Value = Vec<Blow>> {
    let one = prop_oneof![
        1 => Just(Blow::Trip),
        4 => Just(Blow::Good),
        2 => Just(Blow::Bad),
        4 => (1u64..90_000).prop_map(Blow::Wait),
    ];
    prop::collection::vec(one, 1..80)
}

proptest! {
    /// The heaviest that may be chosen; among equals the current, else the first.
    #[test]
    fn selection_is_the_heaviest_and_stays_on_ties(all in candidates(), current in prop::option::of(0u16..6)) {
        let current = current.map(BackendId);
        let chosen = best(all.iter().copied(), current);
        let eligible: Vec<&Candidate> = all.iter().filter(|candidate| candidate.is_eligible).collect();
        let most = eligible.iter().map(|candidate| candidate.weight).fold(0.0, f64::max);
        let ties: Vec<BackendId> =
            eligible.iter().filter(|candidate| candidate.weight == most).map(|candidate| candidate.id).collect();
        let expected = ties.iter().copied().find(|id| Some(*id) == current).or(ties.first().copied());
        prop_assert_eq!(chosen, expected);
        prop_assert_eq!(best(all.iter().copied(), chosen), chosen, "a choice stands");
    }

    /// It opens only by a fault, never closes before its grace is over, and its grace stays within its bounds.
    #[test]
    fn a_breaker_never_closes_before_its_grace_is_over(all in blows()) {
        let settings = BreakerSettings { grace: MS(10_000), grace_max: MS(80_000) };
        let mut now = Instant::now();
        let mut breaker = Breaker::new(settings);
        let (mut open_until, mut run, mut last_grace) = (None::<Instant>, 0u32, None::<Duration>);
        for blow in all {
            let before = breaker.state();
            match blow {
                Blow::Trip => breaker.trip(now),
                Blow::Good => breaker.on_probe(now, true),
                Blow::Bad => breaker.on_probe(now, false),
                Blow::Wait(time) => {
                    now += MS(time);
                    breaker.on_time(now);
                }
            }
            let is_half_open = matches!(before, BreakerState::HalfOpen { .. });
            run = match blow {
                Blow::Good if is_half_open => run + 1,
                Blow::Wait(_) if is_half_open => run,
                _ => 0,
            };
            match (before, breaker.state()) {
                (BreakerState::Closed | BreakerState::HalfOpen { .. }, BreakerState::Open { until }) => {
                    let is_fault = matches!(blow, Blow::Trip | Blow::Bad);
                    prop_assert!(is_fault);
                    let grace = until - now;
                    prop_assert!(grace >= settings.grace && grace <= settings.grace_max);
                    let is_doubled = last_grace.is_some_and(|last| grace == (last * 2).min(settings.grace_max));
                    prop_assert!(is_doubled || grace == settings.grace);
                    prop_assert!(is_doubled || !is_half_open, "a relapse doubles");
                    (open_until, last_grace) = (Some(until), Some(grace));
                }
                (BreakerState::Open { until }, BreakerState::Open { until: still }) => prop_assert_eq!(until, still),
                (BreakerState::Open { until }, after) => {
                    let is_half_open = matches!(after, BreakerState::HalfOpen { good: 0 });
                    prop_assert!(now >= until && is_half_open);
                }
                (BreakerState::HalfOpen { .. }, BreakerState::Closed) => {
                    prop_assert!(run >= GOOD_TO_CLOSE);
                    prop_assert!(open_until.is_some_and(|until| now >= until));
                }
                (BreakerState::Closed, after) => prop_assert_eq!(after, BreakerState::Closed),
                (BreakerState::HalfOpen { .. }, BreakerState::HalfOpen { .. }) => {}
            }
        }
    }

    /// `fall` bad rounds in a row bring it down, `rise` good ones up; "cannot serve" counts as all of `fall`.
    #[test]
    fn health_counts_as_one_would_by_hand(
        fall in 1u32..5,
        rise in 1u32..5,
        all in prop::collection::vec(0u8..8, 1..60),
    ) {
        let start = Instant::now();
        let mut health = Health::new(fall, rise);
        let (mut is_up, mut is_down, mut streak) = (false, false, 0u32);
        for (step, kind) in (0u64..).zip(all) {
            let at = start + MS(100 * step);
            let (verdict, is_good, weight) = match kind {
                0..=3 => (good(), true, 1),
                4..=5 => (failed(), false, 1),
                6 => (ProbeVerdict::CannotServe { reply: "READONLY no".into() }, false, fall),
                _ => (ProbeVerdict::Void, false, 0),
            };
            let change = health.on_verdict(at, at, &verdict);
            if weight == 0 {
                prop_assert_eq!(change, None);
                continue;
            }
            // The streak is of what would change the state: good rounds while it is down, bad ones otherwise.
            let counts = is_good == is_down;
            streak = if counts { streak + weight } else { 0 };
            let has_risen = is_good && ((is_down && streak >= rise) || (!is_down && !is_up));
            let has_fallen = !is_good && !is_down && streak >= fall;
            prop_assert_eq!(matches!(change, Some(HealthChange::Up)), has_risen);
            prop_assert_eq!(matches!(change, Some(HealthChange::Down(_))), has_fallen);
            if has_risen || has_fallen {
                (is_up, is_down, streak) = (has_risen, has_fallen, 0);
            }
            prop_assert_eq!((health.is_healthy(), health.is_unhealthy()), (is_up, is_down));
            prop_assert_eq!(health.is_latest_good(), is_good);
        }
    }

    /// A round's verdict comes as soon as no further probe could change it, and is that of all of its probes.
    #[test]
    fn a_tally_says_early_what_all_of_its_probes_would_say(probes in 1u32..6, bits in 0u32..64, policy in 0u8..3) {
        let policy = [ProbePolicy::All, ProbePolicy::Majority, ProbePolicy::Any][usize::from(policy)];
        let is_good = |number: u32| bits >> number & 1 == 1;
        let count = (0..probes).filter(|number| is_good(*number)).count() as u32;
        let expected = match policy {
            ProbePolicy::All => count == probes,
            ProbePolicy::Majority => count > probes / 2,
            ProbePolicy::Any => count > 0,
        };
        let mut tally = Tally::new(policy, probes);
        let verdict = (0..probes).find_map(|number| tally.add(if is_good(number) { good() } else { failed() }));
        prop_assert_eq!(verdict.map(|verdict| verdict == good()), Some(expected));
    }

    /// The window against a list of every outcome: what lies wholly within it is found, what has wholly left is not.
    #[test]
    fn the_window_of_outcomes_is_that_of_a_list(
        all in prop::collection::vec((0u64..12, 0u64..4), 1..120),
        failures_min in 1u32..8,
    ) {
        let window = MS(2000);
        let settings = DetectorSettings {
            hang_timeout: MS(1000),
            suspect_after: MS(50),
            slow_timeout: MS(6000),
            window,
            failures_min,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        };
        let start = Instant::now();
        let mut detector = Detector::new(settings);
        detector.on_sample(start, Sample::default());
        let (mut list, mut sample) = (Vec::new(), Sample::default());
        for (step, (successes, failures)) in (1u64..).zip(all) {
            let at = start + MS(50 * step);
            sample.successes += successes;
            sample.failures += failures;
            list.push((at, successes, failures));
            let found = detector.on_sample(at, sample);
            let is_found = matches!(found, Some(Finding::FailureRate { .. }));
            // Its marks are a tenth of the window apart, and looks 50 ms.
            let mut by_list = (0..=6).map(|step| is_too_many(&list, at, window + MS(50) * step, failures_min));
            let is_any = by_list.clone().any(|is_too_many| is_too_many);
            prop_assert!(!is_found || is_any, "found too many, and the list does not have them");
            prop_assert!(is_found || !by_list.all(|is_too_many| is_too_many), "not found");
        }
    }

    /// Silence is found at its limit, neither before nor more than one look later.
    #[test]
    fn silence_is_found_at_its_limit(
        hang in 100u64..2000, look in 1u64..40, began in 0u64..3000, is_slow: bool,
    ) {
        let look = look.min(hang / 4);
        let slow_timeout = MS(6000);
        let settings = DetectorSettings {
            hang_timeout: MS(hang),
            suspect_after: MS(50),
            slow_timeout,
            window: MS(2000),
            failures_min: 5,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        };
        let limit = if is_slow { slow_timeout.max(MS(hang)) } else { MS(hang) };
        let start = Instant::now();
        let mut detector = Detector::new(settings);
        let silent = Sample { silent_since: Some(start + MS(began)), is_slow, ..Sample::default() };
        let mut at = 0;
        let found = loop {
            let sample = if at >= began { silent } else { Sample::default() };
            if let Some(Finding::Silent { since }) = detector.on_sample(start + MS(at), sample) {
                prop_assert_eq!(since, start + MS(began));
                break MS(at) - MS(began);
            }
            at += look;
            prop_assert!(at < 20_000, "never found");
        };
        prop_assert!(found >= limit && found < limit + MS(look));
    }

    /// Waits grow up to the most, and jitter takes at most half of one.
    #[test]
    fn backoff_stays_within_its_bounds(first in 1u64..1000, factor in 1u64..200, jitters in prop::collection::vec(0.0f64..=1.0, 1..20)) {
        let max = first * factor;
        let (mut plain, mut jittered) = (Backoff::new(MS(first), MS(max)), Backoff::new(MS(first), MS(max)));
        let mut last = Duration::ZERO;
        for jitter in jitters {
            let (wait, spread) = (plain.grow(), jittered.grow_jittered(jitter));
            prop_assert!(wait >= MS(first) && wait <= MS(max) && wait >= last);
            prop_assert!(wait == MS(max) || last.is_zero() || wait == last * 2);
            prop_assert!(spread <= wait && spread >= wait.mul_f64(0.4999));
            last = wait;
        }
        plain.reset();
        prop_assert_eq!(plain.grow(), MS(first));
    }

    /// Never more than the burst at once, nor than the burst and the rate over any time.
    #[test]
    fn a_budget_is_never_overspent(rate in 1u32..500, burst in 1u32..50, gaps in prop::collection::vec(0u64..50, 1..200)) {
        let start = Instant::now();
        let mut budget = Budget::new(f64::from(rate), f64::from(burst), start);
        let (mut at, mut spent) = (0, 0u32);
        for gap in gaps {
            at += gap;
            spent += u32::from(budget.spend(start + MS(at)));
            let most = f64::from(burst) + f64::from(rate) * at as f64 / 1000.0 + 1e-6;
            prop_assert!(f64::from(spent) <= most, "{} of {}", spent, most);
        }
    }
}

/// Both thresholds, over every outcome of that span.
fn is_too_many(list: &[(Instant, u64, u64)], at: Instant, span: Duration, failures_min: u32) -> bool {
    let within = list.iter().filter(|(then, _, _)| *then + span > at);
    let (good, bad) = within.fold((0, 0), |(good, bad), (_, one, other)| (good + one, bad + other));
    bad >= u64::from(failures_min) && bad as f64 >= 0.1 * (good + bad) as f64
}
