//! The decision machine of a group against simulated backends, probers and workers, on a clock of its own.
//!
//! Each run follows from its seed alone; a failure names the seed. `CONTROL_SEEDS=20000` runs more of them,
//! `CONTROL_SEED=<seed>` one alone, and tells what happens.
#![allow(unreachable_pub, reason = "a test is a crate of its own")]

#[path = "control_simulation/backend.rs"]
mod backend;
#[path = "control_simulation/life.rs"]
mod life;
#[path = "control_simulation/prober.rs"]
mod prober;
#[path = "control_simulation/rules.rs"]
mod rules;
#[path = "control_simulation/settings.rs"]
mod settings;
#[path = "control_simulation/worker.rs"]
mod worker;
#[path = "control_simulation/world.rs"]
mod world;

use std::time::Duration;

use backend::State;
use handover::channels::BackendId;
use world::{Load, World};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECONDS: fn(u64) -> Duration = Duration::from_secs;
/// Runs that all four quarters make together, unless the environment says otherwise.
const SEEDS: u64 = 2000;

fn of_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// One of four tests, so that they run beside each other.
fn live_a_quarter(quarter: u64) {
    match of_environment("CONTROL_SEED") {
        Some(seed) if quarter == 0 => life::live(seed),
        Some(_) => {}
        None => {
            (0..of_environment("CONTROL_SEEDS").unwrap_or(SEEDS)).skip(quarter as usize).step_by(4).for_each(life::live)
        }
    }
}

#[test]
fn whatever_fails_the_group_ends_on_the_heaviest_that_stays_healthy() {
    live_a_quarter(0);
}

#[test]
fn whatever_fails_second_quarter() {
    live_a_quarter(1);
}

#[test]
fn whatever_fails_third_quarter() {
    live_a_quarter(2);
}

#[test]
fn whatever_fails_last_quarter() {
    live_a_quarter(3);
}

/// Seeds that failed once. What each of them showed has a test of its own in `src/logic/failover/tests.rs`, since a seed
/// means something else when what befalls changes.
#[test]
fn seeds_that_failed_once() {
    for seed in [2, 5, 7, 52, 225, 254, 439, 1410, 1767, 2824] {
        life::live(seed);
    }
}

#[test]
fn a_backend_that_comes_and_goes_costs_two_switches_after_the_first() {
    for state in [State::Dead, State::Hung, State::ReadOnly] {
        for seed in 0..6 {
            let mut world = World::new(seed, settings::of("default"), &[2.0, 1.0], 2);
            world.load = if seed % 2 == 0 { Load::NONE } else { Load::HEAVY };
            world.run(MS(5000 + 137 * seed), MS(50));
            assert_eq!(world.route.active, Some(BackendId(0)));
            for _ in 0..300 {
                world.set(0, state);
                world.run(SECONDS(1), MS(100));
                world.set(0, State::Up);
                world.run(SECONDS(1), MS(100));
            }
            let count = world.rules.switches;
            assert!(count <= 3, "{state:?}, seed {seed}: {count} switches");
            let is_seen = state != State::Hung && seed % 2 == 1;
            assert!(count >= 1 || !is_seen, "{state:?}, seed {seed}: none");
        }
    }
}

/// Up for five seconds and down for five, for ten minutes.
#[test]
fn five_seconds_up_and_five_down_cost_four_switches_at_most() {
    for state in [State::Dead, State::Hung, State::ReadOnly] {
        for seed in 0..4 {
            let mut world = World::new(seed, settings::of("default"), &[2.0, 1.0], 2);
            world.load = if seed % 2 == 0 { Load::HEAVY } else { Load::NONE };
            world.run(MS(5000 + 337 * seed), MS(100));
            for _ in 0..60 {
                world.set(0, state);
                world.run(SECONDS(5), MS(100));
                world.set(0, State::Up);
                world.run(SECONDS(5), MS(100));
            }
            let count = world.rules.switches;
            assert!((1..=4).contains(&count), "{state:?}, seed {seed}: {count} switches");
        }
    }
}

#[test]
fn a_day_of_lost_probes_switches_nothing() {
    let mut world = World::new(1, settings::of("default"), &[2.0, 1.0], 1);
    world.chance_loss = 0.01;
    world.run(SECONDS(86_400), MS(400));
    assert_eq!((world.rules.switches, world.route.active), (0, Some(BackendId(0))));
}

/// Without traffic only probes speak. One lost packet in a hundred costs a probe its timeout only if the packet
/// and its repetition are both lost, for the repetition comes after 200 ms.
#[test]
fn an_idle_day_of_lost_packets_switches_nothing() {
    let mut world = World::new(2, settings::of("default"), &[2.0, 1.0], 1);
    world.load = Load::NONE;
    for backend in 0..2 {
        world.change(backend, |backend| (backend.loss, backend.latency) = (0.01, MS(50)));
    }
    world.run(SECONDS(86_400), MS(400));
    assert_eq!((world.rules.switches, world.route.active), (0, Some(BackendId(0))));
}

/// Whoever was stopped himself judges nobody.
#[test]
fn pauses_of_handover_itself_switch_nothing() {
    for seed in 0..200 {
        let preset = ["default", "fast", "conservative", "redis-clients"][seed as usize % 4];
        let mut world = World::new(seed, settings::of(preset), &[2.0, 1.0], 2);
        world.load = if seed % 3 == 0 { Load::NONE } else { Load::HEAVY };
        for backend in 0..2 {
            world.change(backend, |backend| backend.latency = MS(seed % 20));
        }
        world.run(SECONDS(2), MS(20));
        for _ in 0..10 {
            let length = MS(world.rng.u64(10..=10_000));
            world.pause(length);
            world.run(SECONDS(1), MS(20));
        }
        assert_eq!((world.rules.switches, world.route.active), (0, Some(BackendId(0))), "seed {seed}, {preset}");
    }
}
