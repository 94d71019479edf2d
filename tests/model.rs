//! The data path's machine against a model: whatever clients, backends, the network and the supervisor do, in any
//! order and cut at any byte, each client gets one reply for each request, in its order and from its own commands.
//!
//! The clients, their expectations (a queue of what each may be answered next) and the backends are those of the
//! simulation; here proptest chooses each step, so that a failure shrinks to the few steps that make it.
//! `PROPTEST_CASES=<count>` runs more of them.

#[allow(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/backend.rs"]
mod backend;
#[allow(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/client.rs"]
mod client;
#[path = "model/fuzz.rs"]
mod fuzz;
#[allow(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/random.rs"]
mod random;
#[allow(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/reply.rs"]
mod reply;
#[allow(dead_code, reason = "the simulation uses more of it")]
#[path = "simulation/settings.rs"]
mod settings;
#[path = "simulation/supervisor.rs"]
mod supervisor;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;
use world::{Action, CLIENTS, Fault, World};

const CASES: u32 = 500;

/// How many bytes go at once: mostly all, often one.
fn portion() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(usize::MAX), 2 => Just(1), 2 => 2..40_usize, 1 => 40..2000_usize]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::Kill),
        1 => Just(Fault::Hang),
        1 => Just(Fault::ReadOnly),
        1 => Just(Fault::Refuse),
        3 => Just(Fault::Heal),
        2 => any::<u8>().prop_map(Fault::Reset),
        2 => any::<u8>().prop_map(Fault::Unasked),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => (client.clone(), any::<u16>()).prop_map(|(client, seed)| Action::Say(client, seed)),
        12 => (client.clone(), portion()).prop_map(|(client, bytes)| Action::Deliver(client, bytes)),
        6 => (client.clone(), portion()).prop_map(|(client, bytes)| Action::Hear(client, bytes)),
        8 => (any::<u8>(), portion()).prop_map(|(link, bytes)| Action::Flush(link, bytes)),
        6 => (0..2_usize).prop_map(Action::Execute),
        10 => (0..2_usize, any::<u8>(), portion())
            .prop_map(|(backend, connection, bytes)| Action::Answer(backend, connection, bytes)),
        4 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(dial, works)| Action::Dial(dial, works)),
        3 => Just(Action::Notice),
        4 => Just(Action::Supervise),
        1 => (0..2_usize).prop_map(Action::Wish),
        5 => (1..60_u64).prop_map(Action::Pass),
        8 => Just(Action::Everything),
        3 => (0..2_usize, fault()).prop_map(|(backend, fault)| Action::Fault(backend, fault)),
        1 => (client, any::<bool>()).prop_map(|(client, half)| Action::Leave(client, half)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_client_gets_its_own_replies_in_order(actions in prop::collection::vec(action(), 1..250)) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.finish();
    }
}
