//! Connections of a client's own: kept for the next, opened at a rate, capped.

use super::*;

#[test]
fn pins_are_kept_for_the_next_clients_and_given_up_when_nobody_needs_them() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.limits.pins_per_backend_max = 100;
    let mut bench = Bench::with(settings);
    let clients: Vec<SessionKey> = (0..40).map(|_| bench.client()).collect();
    let pins = |bench: &Bench| -> Vec<LinkKey> {
        bench.links.iter().filter(|(_, dial)| matches!(dial.role, Role::Pin(_))).map(|(link, _)| *link).collect()
    };
    let mut known = Vec::new();
    for round in 0..3 {
        for line in ["WATCH key", "UNWATCH"] {
            clients.iter().for_each(|&client| bench.say(client, &[line]));
            while bench.serve() {}
        }
        for _ in 0..2 {
            bench.pass(ms(60));
            while bench.serve() {}
        }
        if round == 0 {
            known = pins(&bench);
        }
        assert_eq!((pins(&bench), known.len()), (known.clone(), 40));
    }
    bench.pass(ms(4000));
    assert_eq!(pins(&bench).len(), 40);
    bench.pass(ms(1000));
    assert_eq!(pins(&bench).len(), 16);
}

#[test]
fn who_waits_for_the_connect_rate_is_served_at_that_rate_and_not_refused() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.limits.pins_per_backend_max = 1000;
    let mut bench = Bench::with(settings);
    let clients: Vec<SessionKey> = (0..1000).map(|_| bench.client()).collect();
    let pins = |bench: &Bench| bench.links.iter().filter(|(_, dial)| matches!(dial.role, Role::Pin(_))).count();
    for &client in &clients {
        bench.say(client, &["WATCH key"]);
    }
    assert_eq!(pins(&bench), 200);
    for _ in 0..16 {
        bench.pass(ms(100));
    }
    assert_eq!(pins(&bench), 1000);
    while bench.serve() {}
    for &client in &clients {
        assert_eq!(bench.heard(client), "+OK\r\n");
    }
    // All are taken, and nobody leaves: that is another matter.
    let last = bench.client();
    bench.say(last, &["WATCH key"]);
    bench.pass(ms(100));
    assert_eq!(bench.heard(last), "");
    bench.pass(ms(100));
    assert!(bench.heard(last).starts_with("-ERR handover: no connection of its own is free"));
}

#[test]
fn pins_are_capped_with_a_clear_error() {
    let mut bench = Bench::new();
    let clients: Vec<SessionKey> = (0..3).map(|_| bench.client()).collect();
    for &client in &clients {
        bench.say(client, &["BLPOP k 0"]);
    }
    bench.pass(ms(250));
    assert_eq!(bench.heard(clients[0]), "");
    assert!(bench.heard(clients[2]).starts_with("-ERR handover: no connection of its own is free"));
}

#[test]
fn a_tainted_pin_is_never_pooled() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["EVAL x 0"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, ":1\r\n");
    bench.say(client, &["SELECT 3"]);
    bench.written(pin);
    // Sent again on another connection: that one is tainted too.
    bench.lose(pin);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SELECT 3"]);
    bench.reply(pin, "+OK\r\n");
    bench.pass(ms(10));
    bench.pass(ms(60));
    assert!(!bench.links.iter().any(|(link, _)| *link == pin));
}
