//! What a hub tells the admin plane: counts since the last time, and gauges of what there is now.

use crate::logic::judged::Judged;
use crate::logic::multiplexer::{Counters, Multiplexer, SubscriptionKind};
use crate::telemetry::counters::{self, WorkerCounters};

/// Counts what there is now, which takes a look at every session.
pub(super) fn gauges(machine: &Multiplexer, shared: &WorkerCounters) {
    use counters::{Memory, Mode, SubscriptionState};
    shared.inflight.set(machine.in_flight() as u64);
    let modes = machine.session_modes();
    for (mode, count) in [Mode::Shared, Mode::Pinned, Mode::Subscribed, Mode::Blocked].into_iter().zip(modes) {
        shared.sessions(mode).set(count as u64);
    }
    for (kind, label) in [
        (SubscriptionKind::Channel, counters::SubscriptionKind::Channel),
        (SubscriptionKind::Pattern, counters::SubscriptionKind::Pattern),
        (SubscriptionKind::Shard, counters::SubscriptionKind::Shard),
    ] {
        let (wanted, confirmed) = machine.subscription_counts(kind);
        shared.hub_topics(label).set(machine.shared_topics(kind) as u64);
        shared.subscriptions(label, SubscriptionState::Wanted).set(wanted as u64);
        shared.subscriptions(label, SubscriptionState::Confirmed).set(confirmed as u64);
    }
    let memory = machine.memory();
    for (kind, bytes) in [Memory::ClientInput, Memory::ClientOutput, Memory::Lane, Memory::Held].into_iter().zip(memory)
    {
        shared.memory_bytes(kind).set(bytes as u64);
    }
}

/// Adds what the machine has counted since the last time to what the admin plane reads.
pub(super) fn counts(machine: &Multiplexer, shared: &WorkerCounters, last: &mut Counters) {
    use counters::{Class, Fate, Outcome};
    let counted = machine.counters();
    shared.clients_accepted.add(counted.clients_accepted - last.clients_accepted);
    for (index, (now, before)) in counted.clients_closed.iter().zip(&last.clients_closed).enumerate() {
        shared.clients_closed(index).add(now - before);
    }
    let ok_shared = |counters: &Counters| counters.replies_shared - counters.errors_shared;
    let ok_pinned = |counters: &Counters| counters.replies_pinned - counters.errors_pinned;
    shared.commands(Class::Shared, Outcome::Ok).add(ok_shared(counted) - ok_shared(last));
    shared.commands(Class::Pinned, Outcome::Ok).add(ok_pinned(counted) - ok_pinned(last));
    shared.commands(Class::Pinned, Outcome::Error).add(counted.errors_pinned - last.errors_pinned);
    shared.commands(Class::Answered, Outcome::Ok).add(counted.answered - last.answered);
    shared.commands(Class::Refused, Outcome::Error).add(counted.refused - last.refused);
    shared.commands(Class::Shared, Outcome::Error).add(counted.errors_shared - last.errors_shared);
    let fates = |judged: &Judged| {
        let Judged { moved, repeated, rearmed, uncertain, not_applied, aborted, gone } = *judged;
        [
            (Fate::Moved, moved),
            (Fate::Repeated, repeated),
            (Fate::Rearmed, rearmed),
            (Fate::Uncertain, uncertain),
            (Fate::NotApplied, not_applied),
            (Fate::Aborted, aborted),
            (Fate::Gone, gone),
        ]
    };
    for ((fate, now), (_, before)) in fates(&counted.fates).into_iter().zip(fates(&last.fates)) {
        shared.fates(fate).add(now - before);
    }
    shared.commands(Class::Refused, Outcome::Uncertain).add(counted.fates.uncertain - last.fates.uncertain);
    shared.commands(Class::Refused, Outcome::NotApplied).add(counted.fates.not_applied - last.fates.not_applied);
    shared.messages.add(counted.messages - last.messages);
    shared.messages_replayed.add(counted.messages_replayed - last.messages_replayed);
    shared.subscription_gaps.add(counted.gaps - last.gaps);
    shared.subscription_gap_us.add(counted.gap_us - last.gap_us);
    shared.slow_subscribers.add(counted.slow_subscribers - last.slow_subscribers);
    for (index, (now, before)) in counted.resubscribe.buckets.iter().zip(&last.resubscribe.buckets).enumerate() {
        shared.resubscribe.add_to_bucket(index, now - before);
    }
    shared.resubscribe.add_sum_us(counted.resubscribe.sum_us - last.resubscribe.sum_us);
    shared.sentinel_mismatches.add(counted.mismatches - last.mismatches);
    for (fault, (now, before)) in
        counters::ProtocolFault::ALL.into_iter().zip(counted.protocol_faults.iter().zip(&last.protocol_faults))
    {
        shared.protocol_faults(fault).add(now - before);
    }
    for (outcome, (now, before)) in
        counters::Authentication::ALL.into_iter().zip(counted.authentications.iter().zip(&last.authentications))
    {
        shared.authentications(outcome).add(now - before);
    }
    for (category, (now, before)) in counters::Category::ALL.into_iter().zip(counted.lost.iter().zip(&last.lost)) {
        shared.inflight_lost(category).add(now - before);
    }
    for (class, now, before) in [
        (Class::Shared, &counted.latency_shared, &last.latency_shared),
        (Class::Pinned, &counted.latency_pinned, &last.latency_pinned),
    ] {
        for (index, (now, before)) in now.buckets.iter().zip(&before.buckets).enumerate() {
            shared.durations(class).add_to_bucket(index, now - before);
        }
        shared.durations(class).add_sum_us(now.sum_us - before.sum_us);
    }
    last.clone_from(counted);
}
