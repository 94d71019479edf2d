//! Nothing comes although requests wait: from any connection, or from one.

use super::*;

#[test]
fn silence_switches_at_the_hang_timeout() {
    let mut group = Group::serving(settings());
    let since = group.now;
    let sample = Sample { silent_since: Some(since), ..Sample::default() };
    while group.state().2 == Phase::Serve {
        group.now += MS(50);
        group.look(sample);
    }
    assert_eq!(group.now, since + MS(1000));
    assert_eq!(group.asked, [HEAVY]);
    group.acknowledge();
    group.pass(MS(2000));
    assert_eq!(group.switched()[1], (Some(HEAVY), LIGHT, "silent".into()));
}

/// The only backend that is left answers probes, and on one connection nothing.
#[test]
fn a_silent_connection_to_the_last_backend_is_given_up_and_not_the_backend() {
    let mut group = Group::serving(settings());
    group.probe(LIGHT, readonly());
    group.forget();
    let since = group.now;
    let sample = Sample { silent_since: Some(since), waiting_since: Some(since), ..Sample::default() };
    let is_given_up = |group: &Group| group.machine.route().abandoned_since.is_some();
    while !is_given_up(&group) && group.now < since + MS(20_000) {
        for _ in 0..10 {
            group.now += MS(49);
            group.look(sample);
        }
        group.probe(HEAVY, good());
    }
    assert!(group.now >= since + MS(7000) && group.now < since + MS(8000), "{:?}", group.now - since);
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
    assert!(group.machine.route().abandoned_since >= Some(since));
    assert!(group.machine.members().next().unwrap().is_healthy);

    // The same server, stopped: nobody knows more of the one connection than of the others.
    let mut group = Group::serving(settings());
    group.probe(LIGHT, readonly());
    let since = group.now;
    let sample = Sample { silent_since: Some(since), waiting_since: Some(since), ..Sample::default() };
    for _ in 0..40 {
        group.pass(MS(500));
        group.look(sample);
        group.report(HEAVY, silent(), MS(500), false);
    }
    (0..3).for_each(|_| group.probe(HEAVY, good()));
    assert_eq!((group.state(), is_given_up(&group)), ((1, Some(HEAVY), Phase::Serve), false));
}

/// Commands of others are answered, so that rounds are not needed: the probes that prove it are asked for.
#[test]
fn a_silent_connection_beside_others_is_given_up() {
    let mut group = Group::serving(settings());
    let since = group.now;
    while group.machine.route().abandoned_since.is_none() && group.now < since + MS(20_000) {
        group.now += MS(50);
        group.look(Sample { last_byte: Some(group.now), waiting_since: Some(since), ..Sample::default() });
        if !std::mem::take(&mut group.asked).is_empty() {
            group.re_probe(HEAVY, good());
        }
    }
    assert!(group.now < since + MS(12_000), "{:?}", group.now - since);
    assert_eq!(group.state(), (1, Some(HEAVY), Phase::Serve));
}
