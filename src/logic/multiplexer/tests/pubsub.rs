//! Subscriptions on one machine: what is asked of servers, and what a client hears, at every moment of a switch.

use super::*;
use crate::logic::settings::{OnGap, Publish};

/// Where subscriptions travel.
fn subscription(bench: &Bench) -> LinkKey {
    bench.last(|role| matches!(role, Role::Subscription(_)))
}

fn confirmation(word: &str, name: &str, count: usize) -> String {
    format!("*3\r\n${}\r\n{word}\r\n${}\r\n{name}\r\n:{count}\r\n", word.len(), name.len())
}

fn message(channel: &str, payload: &str) -> String {
    format!("*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{payload}\r\n", channel.len(), payload.len())
}

const PONG: &str = "*2\r\n$4\r\npong\r\n$0\r\n\r\n";

/// Confirms everything that was asked for on connections for subscriptions, until nothing more is.
fn serve_subscriptions(bench: &mut Bench) {
    loop {
        let links: Vec<LinkKey> = bench
            .links
            .iter()
            .filter(|(_, dial)| matches!(dial.role, Role::Subscription(_)))
            .map(|(link, _)| *link)
            .collect();
        let mut is_busy = false;
        for link in links {
            for request in bench.written(link) {
                is_busy = true;
                let mut words = request.split(' ');
                let word = words.next().unwrap_or_default().to_lowercase();
                let replies = match word.as_str() {
                    "ping" => PONG.to_owned(),
                    _ => words.map(|name| confirmation(&word, name, 1)).collect(),
                };
                bench.reply(link, &replies);
            }
        }
        if !is_busy {
            return;
        }
    }
}

fn subscriber(bench: &mut Bench, line: &str) -> SessionKey {
    let client = bench.client();
    bench.say(client, &[line]);
    serve_subscriptions(bench);
    bench.heard(client);
    client
}

/// Everything is confirmed where it should be.
#[track_caller]
fn assert_live(bench: &Bench) {
    for kind in SubscriptionKind::ALL {
        let (wanted, confirmed) = bench.multiplexer.subscription_counts(kind);
        assert_eq!(wanted, confirmed, "{kind:?}");
    }
}

fn plan(bench: &mut Bench, from: u16, to: u16) {
    let until = bench.now + Duration::from_secs(1);
    bench.route(from, Phase::Hold { to: BackendId(to), attempt: bench.epoch, until });
    bench.switch(to);
}

fn force(bench: &mut Bench, from: u16, to: u16) {
    bench.route(from, Phase::Cut { to: BackendId(to), attempt: bench.epoch });
    bench.switch(to);
}

#[test]
fn commands_that_follow_each_other_go_out_at_once_and_the_rest_waits_for_their_confirmations() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["HELLO 3"]);
    bench.heard(client);
    bench.say(client, &["SUBSCRIBE a", "SUBSCRIBE b c", "UNSUBSCRIBE a", "GET k"]);
    let (link, lane) = (subscription(&bench), bench.lane());
    assert_eq!(bench.written(link), ["SUBSCRIBE a", "SUBSCRIBE b c", "UNSUBSCRIBE a"]);
    bench.reply(link, ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    assert!(bench.commands(lane).is_empty(), "GET went before what comes first was confirmed");
    for (word, name) in [("subscribe", "b"), ("subscribe", "c"), ("unsubscribe", "a")] {
        let count = 9;
        bench.reply(link, &format!(">3\r\n${}\r\n{word}\r\n$1\r\n{name}\r\n:{count}\r\n", word.len()));
    }
    assert_eq!(bench.commands(lane), ["GET k"]);
    let heard = bench.heard(client);
    assert!(heard.ends_with(">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:2\r\n"), "{heard}");
}

#[test]
fn a_thousand_switches_leave_every_subscription_live() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..30).map(|number| format!("c{number}")).collect();
    let client = subscriber(&mut bench, &format!("SUBSCRIBE {}", names.join(" ")));
    for (line, _) in [("PSUBSCRIBE c*", 1), ("SSUBSCRIBE s", 1)] {
        bench.say(client, &[line]);
        serve_subscriptions(&mut bench);
    }
    bench.heard(client);
    for number in 0..1000_u16 {
        let (from, to) = (number % 2, 1 - number % 2);
        if number % 3 == 0 {
            plan(&mut bench, from, to)
        } else {
            force(&mut bench, from, to)
        }
        bench.pass(Duration::from_millis(10));
        serve_subscriptions(&mut bench);
        assert_live(&bench);
        let open = bench.links.iter().filter(|(_, dial)| matches!(dial.role, Role::Subscription(_))).count();
        assert_eq!(open, 1, "connections after switch {number}");
        let link = subscription(&bench);
        bench.reply(link, &message("c7", &number.to_string()));
        assert_eq!(bench.heard(client), message("c7", &number.to_string()));
    }
    assert!(bench.closed.is_empty());
}

#[test]
fn a_planned_switch_reads_the_old_connection_to_its_end_before_the_new_one_delivers() {
    let mut bench = Bench::new();
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let old = subscription(&bench);
    plan(&mut bench, 0, 1);
    let new = subscription(&bench);
    assert_ne!(old, new);
    bench.reply(old, &message("a", "1"));
    assert_eq!(bench.written(new), ["SUBSCRIBE a"]);
    assert!(bench.written(old).is_empty(), "nothing is left before the new one is confirmed");
    bench.reply(new, &confirmation("subscribe", "a", 1));
    assert_eq!(bench.written(old), ["PING"]);
    bench.reply(new, &message("a", "4"));
    bench.reply(old, &[message("a", "2"), message("a", "3")].concat());
    bench.reply(old, PONG);
    assert!(!bench.links.iter().any(|(link, _)| *link == old), "the old one is closed");
    bench.reply(new, &message("a", "5"));
    let expected: String = (1..=5).map(|number: u32| message("a", &number.to_string())).collect();
    assert_eq!(bench.heard(client), expected);
}

#[test]
fn an_old_connection_that_does_not_answer_is_left_in_the_end() {
    let mut bench = Bench::new();
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let old = subscription(&bench);
    plan(&mut bench, 0, 1);
    let new = subscription(&bench);
    bench.written(new);
    bench.reply(new, &[confirmation("subscribe", "a", 1), message("a", "1")].concat());
    assert_eq!(bench.heard(client), "");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.heard(client), message("a", "1"));
    assert!(!bench.links.iter().any(|(link, _)| *link == old));
}

#[test]
fn a_silent_connection_is_asked_and_one_that_does_not_answer_is_replaced() {
    let mut bench = Bench::new();
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let link = subscription(&bench);
    bench.pass(Duration::from_millis(900));
    assert!(bench.written(link).is_empty(), "it was heard of late");
    bench.reply(link, &message("a", "1"));
    bench.pass(Duration::from_millis(900));
    assert!(bench.written(link).is_empty(), "a message is a proof of life");
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.written(link), ["PING"]);
    bench.reply(link, PONG);
    assert_eq!(bench.heard(client), message("a", "1"), "the answer is none of the client's affair");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.written(link), ["PING"]);
    bench.pass(Duration::from_millis(1900));
    assert_eq!(subscription(&bench), link);
    bench.pass(Duration::from_millis(100));
    assert_ne!(subscription(&bench), link, "a dead connection is kept");
    assert!(bench.reports.iter().any(|report| matches!(report, Report::LinkLost { .. })), "the supervisor knows");
    serve_subscriptions(&mut bench);
    assert_live(&bench);
    assert_eq!(bench.multiplexer.counters().gaps, 1);
    assert_eq!(bench.multiplexer.counters().resubscribe.buckets.iter().sum::<u64>(), 1);
}

#[test]
fn our_own_sleep_is_no_silence_of_a_connection() {
    let mut bench = Bench::new();
    subscriber(&mut bench, "SUBSCRIBE a");
    let link = subscription(&bench);
    bench.pass(Duration::from_secs(60));
    assert_eq!((subscription(&bench), bench.written(link)), (link, vec!["PING".to_owned()]));
    bench.reply(link, PONG);
    bench.pass(Duration::from_millis(10));
    assert_eq!(subscription(&bench), link);
}

#[test]
fn the_channel_of_events_is_handovers_own_and_counts_like_any_other() {
    let mut bench = Bench::new();
    let client = bench.client();
    let dialled = bench.links.len();
    let events = "__handover__:events";
    assert_eq!(bench.ask(client, &format!("SUBSCRIBE {events}")), confirmation("subscribe", events, 1));
    let pattern = "__handover__:*";
    assert_eq!(bench.ask(client, &format!("PSUBSCRIBE {pattern}")), confirmation("psubscribe", pattern, 2));
    assert_eq!(bench.links.len(), dialled, "no server hears of it");
    bench.say(client, &[&format!("SUBSCRIBE a {events} b")]);
    let link = subscription(&bench);
    assert_eq!(bench.written(link), ["SUBSCRIBE a b"]);
    bench.reply(link, &[confirmation("subscribe", "a", 1), confirmation("subscribe", "b", 2)].concat());
    let expected = [("a", 3), (events, 3), ("b", 4)].map(|(name, count)| confirmation("subscribe", name, count));
    assert_eq!(bench.heard(client), expected.concat());
    force(&mut bench, 0, 1);
    assert_eq!(bench.heard(client), "", "nothing is live yet");
    serve_subscriptions(&mut bench);
    let heard = bench.heard(client);
    assert_eq!(heard.matches("{\"event\":\"switched\"").count(), 2, "{heard}");
    assert!(heard.contains("\"channels\":2,\"epoch\":2}"), "{heard}");
    bench.say(client, &["UNSUBSCRIBE"]);
    serve_subscriptions(&mut bench);
    bench.reply(
        subscription(&bench),
        &[confirmation("unsubscribe", "a", 1), confirmation("unsubscribe", "b", 0)].concat(),
    );
    let expected = [("a", 3), ("b", 2), (events, 1)].map(|(name, count)| confirmation("unsubscribe", name, count));
    assert_eq!(bench.heard(client), expected.concat());
    let is_open = bench.links.iter().any(|(_, dial)| matches!(dial.role, Role::Subscription(_)));
    assert!(!is_open, "no server is needed for what is left");
    plan(&mut bench, 1, 0);
    assert!(bench.heard(client).contains("\"lost_at\":null"), "it hears of switches without a subscription elsewhere");
    assert_eq!(bench.ask(client, "PUNSUBSCRIBE"), confirmation("punsubscribe", pattern, 0));
}

#[test]
fn a_gap_is_told_as_configured() {
    for (on_gap, expected) in [
        (OnGap::Event, ""),
        (OnGap::None, ""),
        (OnGap::Push, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:2\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
    ] {
        let mut settings = settings(RetryCeiling::WriteLastWins);
        settings.pubsub.on_gap = on_gap;
        let mut bench = Bench::with(settings);
        let client = subscriber(&mut bench, "SUBSCRIBE a b");
        plan(&mut bench, 0, 1);
        serve_subscriptions(&mut bench);
        assert_eq!(bench.heard(client), "", "a planned switch leaves no gap");
        force(&mut bench, 1, 0);
        serve_subscriptions(&mut bench);
        assert_eq!(bench.heard(client), expected, "{on_gap:?}");
    }
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.pubsub.on_gap = OnGap::Disconnect;
    let mut bench = Bench::with(settings);
    let client = subscriber(&mut bench, "SUBSCRIBE a b");
    force(&mut bench, 0, 1);
    serve_subscriptions(&mut bench);
    assert_eq!(bench.closed, [(client, CloseReason::SubscriptionGap)]);
}

#[test]
fn many_are_restored_in_commands_of_a_thousand() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..2500).map(|number| format!("c{number:04}")).collect();
    subscriber(&mut bench, &format!("SUBSCRIBE {}", names.join(" ")));
    force(&mut bench, 0, 1);
    let link = subscription(&bench);
    let asked = bench.written(link);
    assert_eq!(asked.iter().map(|line| line.split(' ').count() - 1).collect::<Vec<_>>(), [1000, 1000, 500]);
    let (confirmed, rest) = names.split_at(2499);
    let confirm = |names: &[String]| names.iter().map(|name| confirmation("subscribe", name, 1)).collect::<String>();
    bench.reply(link, &confirm(confirmed));
    assert_eq!(bench.multiplexer.subscription_counts(SubscriptionKind::Channel), (2500, 0), "one is missing");
    bench.reply(link, &confirm(rest));
    assert_eq!(bench.multiplexer.subscription_counts(SubscriptionKind::Channel), (2500, 2500));
}

#[test]
fn an_attempt_that_fails_is_made_again_later_and_later() {
    let mut bench = Bench::new();
    subscriber(&mut bench, "SUBSCRIBE a");
    let mut attempts = 0;
    bench.lose(subscription(&bench));
    for _ in 0..1000 {
        let next =
            bench.links.iter().find(|(_, dial)| matches!(dial.role, Role::Subscription(_))).map(|(link, _)| *link);
        if let Some(link) = next {
            attempts += 1;
            bench.written(link);
            bench.reply(link, "-LOADING Redis is loading the dataset in memory\r\n");
        }
        bench.pass(Duration::from_millis(5));
    }
    assert!((5..=20).contains(&attempts), "{attempts} attempts in 5 s");
}

#[test]
fn a_standby_replays_what_it_carried_since_the_last_proof_of_life() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.pubsub.standby = true;
    let mut bench = Bench::with(settings);
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let active = subscription(&bench);
    let route = Route { standby: Some(BackendId(1)), ..bench.multiplexer.route().clone() };
    bench.multiplexer.on_route(route, bench.now);
    bench.pass(Duration::from_millis(10));
    let standby = subscription(&bench);
    assert_eq!(bench.written(standby), ["SUBSCRIBE a"]);
    bench.reply(standby, &confirmation("subscribe", "a", 1));
    bench.say(client, &["SUBSCRIBE b"]);
    assert_eq!(
        (bench.written(active), bench.written(standby)),
        (vec!["SUBSCRIBE b".to_owned()], vec!["SUBSCRIBE b".to_owned()])
    );
    for link in [active, standby] {
        bench.reply(link, &confirmation("subscribe", "b", 2));
    }
    assert_eq!(bench.heard(client), confirmation("subscribe", "b", 2), "what stands by says nothing");
    bench.reply(standby, &message("a", "too early"));
    bench.pass(Duration::from_millis(10));
    bench.reply(active, &message("a", "life"));
    bench.pass(Duration::from_millis(10));
    bench.reply(standby, &message("a", "gap"));
    assert_eq!(bench.heard(client), message("a", "life"));
    force(&mut bench, 0, 1);
    assert_eq!(bench.heard(client), message("a", "gap"));
    assert_eq!(subscription(&bench), standby, "it was there already");
    assert_live(&bench);
    bench.reply(standby, &message("b", "live"));
    assert_eq!(bench.heard(client), message("b", "live"));
    assert_eq!(bench.multiplexer.counters().messages_replayed, 1);
}

#[test]
fn what_a_standby_was_asked_for_in_silence_is_confirmed_when_it_takes_over() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.pubsub.standby = true;
    let mut bench = Bench::with(settings);
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let active = subscription(&bench);
    let route = Route { standby: Some(BackendId(1)), ..bench.multiplexer.route().clone() };
    bench.multiplexer.on_route(route, bench.now);
    bench.pass(Duration::from_millis(10));
    let standby = subscription(&bench);
    serve_subscriptions(&mut bench);
    bench.say(client, &["SUBSCRIBE b"]);
    assert_eq!((bench.written(active).len(), bench.written(standby).len()), (1, 1));
    bench.reply(standby, &confirmation("subscribe", "b", 2));
    force(&mut bench, 0, 1);
    assert_eq!(bench.heard(client), "");
    assert_eq!(bench.written(standby), ["SUBSCRIBE b"]);
    bench.reply(standby, &confirmation("subscribe", "b", 2));
    assert_eq!(bench.heard(client), confirmation("subscribe", "b", 2));
    assert_live(&bench);
}

#[test]
fn what_backends_carry_to_each_other_is_delivered_once() {
    let mut settings = settings(RetryCeiling::WriteLastWins);
    settings.pubsub.propagates = true;
    let mut bench = Bench::with(settings);
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let old = subscription(&bench);
    bench.reply(old, &message("a", "late copy"));
    plan(&mut bench, 0, 1);
    let new = subscription(&bench);
    bench.written(new);
    bench.reply(new, &confirmation("subscribe", "a", 1));
    bench.reply(new, &[message("a", "late copy"), message("a", "x"), message("a", "x")].concat());
    bench.reply(old, &[message("a", "x"), message("a", "x"), message("a", "y")].concat());
    let expected = ["late copy", "x", "x", "y"].map(|payload| message("a", payload)).concat();
    assert_eq!(bench.heard(client), expected);
    bench.pass(Duration::from_millis(1100));
    assert!(!bench.links.iter().any(|(link, _)| *link == old), "both are listened to for lag_max");
    bench.reply(new, &[message("a", "y"), message("a", "z"), message("a", "z")].concat());
    assert_eq!(bench.heard(client), ["y", "z", "z"].map(|payload| message("a", payload)).concat());
}

#[test]
fn a_reader_that_stops_is_closed_at_its_limit_and_nobody_waits_behind_it() {
    let mut bench = Bench::new();
    let stopped = bench.client();
    bench.say(stopped, &["HELLO 3"]);
    bench.heard(stopped);
    bench.say(stopped, &["SUBSCRIBE a"]);
    let link = subscription(&bench);
    bench.written(link);
    bench.reply(link, ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    bench.heard(stopped);
    let large = ">".to_owned() + &message("a", &"x".repeat(1 << 20))[1..];
    for _ in 0..31 {
        bench.reply(link, &large);
        assert!(bench.multiplexer.wants_link_bytes(link), "its connection must be read on");
    }
    bench.say(stopped, &["GET k"]);
    assert_eq!(bench.commands(bench.lane()), ["GET k"]);
    bench.reply(bench.lane(), "$1\r\nv\r\n");
    assert!(bench.multiplexer.wants_link_bytes(bench.lane()), "a lane is not held up by messages");
    assert!(bench.closed.is_empty());
    bench.reply(link, &large);
    bench.reply(link, &large);
    assert_eq!(bench.closed, [(stopped, CloseReason::SlowSubscriber)]);
    assert_eq!(bench.multiplexer.counters().slow_subscribers, 1);
}

#[test]
fn who_reads_again_gets_everything_in_order() {
    let mut bench = Bench::new();
    let client = subscriber(&mut bench, "SUBSCRIBE a");
    let link = subscription(&bench);
    let messages: Vec<String> = (0..3000).map(|number: u32| message("a", &number.to_string())).collect();
    bench.reply(link, &messages.concat());
    bench.say(client, &["UNSUBSCRIBE a"]);
    serve_subscriptions(&mut bench);
    let mut heard = String::new();
    loop {
        let more = bench.heard(client);
        if more.is_empty() {
            break;
        }
        heard += &more;
    }
    assert_eq!(heard, messages.concat() + &confirmation("unsubscribe", "a", 0));
}

#[test]
fn nobody_publishes_after_a_switch_before_the_subscribers_of_every_worker_are_back() {
    let commons = std::sync::Arc::new(Commons::new(10, 1000));
    let worker = |number| {
        let (commons, settings) = (commons.clone(), settings(RetryCeiling::WriteLastWins));
        Bench::with(Settings { commons, client_id_first: number, client_id_step: 2, ..settings })
    };
    let (mut one, mut other) = (worker(1), worker(2));
    subscriber(&mut other, "SUBSCRIBE a");
    let publisher = one.client();
    force(&mut one, 0, 1);
    one.say(publisher, &["PUBLISH a x"]);
    assert!(one.commands(one.lane()).is_empty(), "the other worker has not heard of the switch");
    force(&mut other, 0, 1);
    one.pass(Duration::from_millis(5));
    assert!(one.commands(one.lane()).is_empty(), "its subscriber is not back");
    serve_subscriptions(&mut other);
    other.pass(Duration::from_millis(5));
    one.pass(Duration::from_millis(5));
    assert_eq!(one.commands(one.lane()), ["PUBLISH a x"]);
    one.reply(one.lane(), ":1\r\n");
    assert_eq!(one.heard(publisher), ":1\r\n");
    // A worker that never follows holds nobody up for ever.
    force(&mut one, 1, 0);
    one.say(publisher, &["PUBLISH a y"]);
    one.pass(Duration::from_millis(10));
    assert!(one.commands(one.lane()).is_empty());
    one.pass(Duration::from_secs(1));
    assert_eq!(one.commands(one.lane()), ["PUBLISH a y"]);
}

#[test]
fn a_publish_whose_reply_was_lost_is_repeated_where_that_is_wanted() {
    for (publish, expected) in [(Publish::AtMostOnce, false), (Publish::AtLeastOnce, true)] {
        let mut settings = settings(RetryCeiling::ReadOnly);
        settings.pubsub.publish = publish;
        let mut bench = Bench::with(settings);
        let client = bench.client();
        bench.say(client, &["PUBLISH a x", "PUBLISH a y"]);
        assert_eq!(bench.commands(bench.lane()), ["PUBLISH a x", "PUBLISH a y"]);
        force(&mut bench, 0, 1);
        bench.pass(Duration::from_millis(5));
        let repeated = bench.commands(bench.lane());
        match expected {
            true => assert_eq!(repeated, ["PUBLISH a x", "PUBLISH a y"]),
            false => {
                assert!(repeated.is_empty());
                assert_eq!(bench.heard(client).matches("-UNCERTAIN").count(), 2);
            }
        }
    }
}
