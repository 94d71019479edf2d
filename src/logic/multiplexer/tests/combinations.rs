//! Two things at a time: what a session holds, and what happens meanwhile to something else that it holds.

use super::identity::identity_settings;
use super::*;
use crate::logic::identity::{IdentityMode, Users};

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";
const FORGET_ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";

impl Bench {
    /// Says it, and has it answered on the client's own connection.
    fn ask_pin(&mut self, client: SessionKey, line: &str, reply: &str) {
        self.say(client, &[line]);
        let pin = self.pin();
        assert_eq!(self.written(pin).last().map(String::as_str), Some(line));
        self.reply(pin, reply);
        assert_eq!(self.heard(client), reply, "{line}");
    }

    /// A RESP3 client with CLIENT TRACKING.
    fn tracking(&mut self) -> SessionKey {
        let client = self.client();
        self.ask(client, "HELLO 3");
        self.ask_pin(client, "CLIENT TRACKING ON", "+OK\r\n");
        client
    }

    fn profile_of(&self, link: LinkKey) -> Profile {
        self.links.iter().find(|(open, _)| *open == link).expect("it is open").1.profile
    }
}

#[test]
fn what_is_due_at_reset_is_never_sent_again_as_somebody_else() {
    // Unsent when the connection is lost, and refused by a backend that cannot serve.
    for is_refused in [false, true] {
        let mut bench = Bench::with(identity_settings(IdentityMode::Users));
        let client = bench.client();
        assert_eq!(bench.ask(client, "AUTH alice x"), "+OK\r\n");
        assert_eq!(bench.ask(client, "SELECT 3"), "+OK\r\n");
        bench.say(client, &["SET a 1", "RESET"]);
        let lane = bench.lane();
        let profile = bench.profile_of(lane);
        assert_eq!(profile.database, Some(3));
        if is_refused {
            assert_eq!(bench.written(lane), ["SET a 1"]);
            bench.reply(lane, READONLY);
        }
        assert_eq!(bench.heard(client), "");
        bench.switch(1);
        bench.pass(ms(20));
        let sent: Vec<(LinkKey, Profile)> = bench.links.iter().map(|(link, dial)| (*link, dial.profile)).collect();
        let mut sent: Vec<_> =
            sent.into_iter().filter(|(link, _)| bench.commands(*link).contains(&"SET a 1".to_owned())).collect();
        let (lane, found) = sent.pop().expect("it moves");
        assert_eq!(found, profile, "refused: {is_refused}");
        bench.reply(lane, "+OK\r\n");
        assert_eq!(bench.heard(client), "+OK\r\n+RESET\r\n");
        assert!(bench.ask(client, "GET a").starts_with("-NOAUTH"));
    }
}

#[test]
fn a_client_that_is_closed_while_a_reply_is_kept_back_gets_it_first() {
    let mut bench = Bench::with(identity_settings(IdentityMode::Users));
    let client = bench.client();
    assert_eq!(bench.ask(client, "AUTH alice x"), "+OK\r\n");
    bench.say(client, &["SET a 1"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, READONLY);
    bench.say(client, &["GET b"]);
    assert_eq!(bench.heard(client), "");
    bench.multiplexer.on_users(Arc::new(Users::default()), bench.now);
    bench.settle();
    let heard = bench.heard(client);
    assert!(heard.starts_with(READONLY), "{heard}");
    assert_eq!(heard.lines().count(), 2, "{heard}");
    assert_eq!(bench.closed, [(client, CloseReason::AccessRevoked)]);
}

#[test]
fn a_client_that_leaves_is_not_kept_waiting_for_a_verdict() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SET a 1", "QUIT"]);
    let lane = bench.lane();
    bench.written(lane);
    bench.reply(lane, READONLY);
    assert_eq!(bench.heard(client), format!("{READONLY}+OK\r\n"));
    assert_eq!(bench.closed, [(client, CloseReason::Quit)]);
}

#[test]
fn a_pin_that_is_opened_again_takes_no_answer_from_its_client() {
    let mut bench = Bench::new();
    let client = bench.tracking();
    let pin = bench.pin();
    bench.multiplexer.on_client_bytes(client, &[frame("CLIENT LIST"), frame("PING")].concat(), bench.now);
    let Some(Output::Inquire { inquiry, .. }) = bench.multiplexer.poll() else { panic!("the workers are asked") };
    bench.multiplexer.on_link_lost(pin, "reset", bench.now);
    bench.links.retain(|(link, _)| *link != pin);
    bench.now += ms(10);
    bench.multiplexer.on_tick(bench.now);
    let finding = bench.multiplexer.on_inquiry(&inquiry, bench.now);
    bench.multiplexer.on_findings(client, &inquiry, finding, bench.now);
    bench.settle();
    let heard = bench.heard(client);
    assert!(heard.starts_with(&format!("{FORGET_ALL}=")), "{heard}");
    assert!(heard.ends_with("+PONG\r\n"), "{heard}");
}

#[test]
fn a_pin_that_is_opened_again_lets_nothing_overtake_a_subscription() {
    let mut bench = Bench::new();
    let client = bench.tracking();
    let pin = bench.pin();
    bench.say(client, &["SUBSCRIBE c"]);
    bench.pass(ms(10));
    bench.say(client, &["GET k"]);
    let subscription = bench.last(|role| matches!(role, Role::Subscription(_)));
    assert_eq!(bench.written(subscription), ["SUBSCRIBE c"]);
    bench.lose(pin);
    bench.pass(ms(10));
    bench.pass(ms(10));
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["CLIENT TRACKING ON"]);
    bench.reply(subscription, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert_eq!(bench.written(pin), ["GET k"]);
}

#[test]
fn tracking_goes_on_under_another_identity() {
    let mut bench = Bench::with(identity_settings(IdentityMode::Users));
    let client = bench.client();
    bench.ask(client, "HELLO 3 AUTH alice x");
    bench.ask_pin(client, "CLIENT TRACKING ON", "+OK\r\n");
    let before = bench.pin();
    let heard = bench.ask(client, "AUTH bob x");
    assert!(heard.contains("+OK\r\n"), "{heard}");
    bench.pass(ms(10));
    let pin = bench.pin();
    assert_ne!(pin, before);
    assert_eq!(bench.written(pin), ["CLIENT TRACKING ON"], "without a command of its client's");
    // What was read before is tracked nowhere any more.
    assert_eq!(heard + &bench.heard(client), format!("+OK\r\n{FORGET_ALL}"));
}

#[test]
fn a_redirect_follows_its_target_when_no_transaction_is_open() {
    let mut bench = Bench::new();
    let target = bench.client();
    let client = bench.client();
    bench.say(client, &["CLIENT TRACKING ON REDIRECT 7"]);
    bench.pass(ms(10));
    let pin = bench.pin();
    assert_eq!(bench.written(pin).len(), 1);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.heard(client), "+OK\r\n");
    bench.ask_pin(client, "MULTI", "+OK\r\n");
    bench.say(client, &["SET a 1"]);
    assert_eq!(bench.written(pin), ["SET a 1"]);
    let lost = bench.last(|role| role == Role::Subscription(target));
    bench.lose(lost);
    bench.pass(ms(10));
    bench.last(|role| role == Role::Subscription(target));
    assert_eq!(bench.written(pin), Vec::<String>::new(), "it would be queued, and stand in the reply to EXEC");
    bench.reply(pin, "+QUEUED\r\n");
    bench.pass(ms(10));
    assert_eq!(bench.written(pin), Vec::<String>::new());
    bench.say(client, &["EXEC"]);
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.reply(pin, "*1\r\n+OK\r\n");
    assert_eq!(bench.heard(client), "+QUEUED\r\n*1\r\n+OK\r\n");
    bench.pass(ms(10));
    let written = bench.written(pin);
    assert_eq!(written[0], "CLIENT TRACKING OFF", "{written:?}");
    assert!(written[1].starts_with("CLIENT TRACKING ON REDIRECT "), "{written:?}");
    bench.reply(pin, "+OK\r\n+OK\r\n");
    bench.pass(ms(10));
    assert_eq!(bench.written(pin), Vec::<String>::new(), "once");
}

#[test]
fn tracking_that_is_asked_for_again_stays_skipped() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT REPLY SKIP", "CLIENT TRACKING ON", "GET a"]);
    bench.switch(1);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["CLIENT TRACKING ON"]);
    bench.reply(pin, "+OK\r\n");
    assert_eq!(bench.written(pin), ["GET a"]);
    bench.reply(pin, "$-1\r\n");
    assert_eq!(bench.heard(client), "$-1\r\n");
}

#[test]
fn only_the_skipped_command_is_refused_in_silence() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["CLIENT REPLY SKIP", "SET a 1"]);
    bench.dials = false;
    bench.lose(bench.lane());
    bench.say(client, &["GET b", "GET c"]);
    bench.pass(ms(1600));
    assert_eq!(first_words(&bench.heard(client)), ["-LOADING", "-LOADING"]);
}

#[test]
fn what_a_replayed_transaction_calls_is_loaded_before_it() {
    const DIGEST: &str = "11f6ad8ec52a2984abaafd7c3b516503785c2072";
    let loaded = format!("$40\r\n{DIGEST}\r\n");
    let call = format!("EVALSHA {DIGEST} 0");
    let mut bench = Bench::new();
    let client = bench.client();
    bench.ask_pin(client, "SCRIPT LOAD x", &loaded);
    bench.say(client, &[&call]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", &call]);
    bench.reply(pin, &format!("{loaded}:1\r\n"));
    assert_eq!(bench.heard(client), ":1\r\n");
    bench.ask_pin(client, "MULTI", "+OK\r\n");
    bench.ask_pin(client, &call, "+QUEUED\r\n");
    bench.switch(1);
    bench.say(client, &["EXEC"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", "MULTI"]);
    bench.reply(pin, &format!("{loaded}+OK\r\n"));
    assert_eq!(bench.written(pin), [call.as_str()]);
    bench.reply(pin, "+QUEUED\r\n");
    assert_eq!(bench.written(pin), ["EXEC"]);
    bench.reply(pin, "*1\r\n:1\r\n");
    assert_eq!(bench.heard(client), "*1\r\n:1\r\n");
}

#[test]
fn an_identity_without_echo_may_speak_resp3() {
    let mut bench = Bench::with(identity_settings(IdentityMode::Passthrough));
    bench.outcome = |_, _| Some(DialOutcome::Unproven { client_id: None, server: None });
    let client = bench.client();
    bench.say(client, &["HELLO 3 AUTH mute x", "GET k"]);
    bench.pass(ms(10));
    assert!(bench.heard(client).starts_with("%7\r\n"));
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["GET k"]);
    assert_eq!(bench.profile_of(pin).protocol, crate::resp::encode::Protocol::Resp3);
}

#[test]
fn a_client_that_does_not_read_calls_no_planned_switch_off_for_ever() {
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["EVAL x 0"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.reply(pin, &format!("${}\r\n{}", STREAM_BYTES * 4, "x".repeat(STREAM_BYTES * 2)));
    bench.pass(ms(1100));
    assert_eq!(bench.closed, [], "nobody waits behind it");
    let until = bench.now + ms(1000);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
    bench.pass(ms(10));
    assert_eq!(bench.closed, [(client, CloseReason::SlowReader)]);
    assert!(bench.reports.contains(&Report::Drained(1)));
}

#[test]
fn who_was_let_go_while_nothing_blocked_is_armed_again_later() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client(), bench.client());
    bench.say(client, &["EVAL x 0"]);
    let pin = bench.pin();
    bench.written(pin);
    bench.say(other, &["CLIENT UNBLOCK 7"]);
    bench.reply(pin, ":1\r\n");
    bench.say(client, &["BLPOP k 0"]);
    assert_eq!(bench.written(pin), ["BLPOP k 0"]);
    assert_eq!(bench.heard(client), ":1\r\n");
    let until = bench.now + ms(1000);
    bench.route(0, Phase::Hold { to: BackendId(1), attempt: 1, until });
    bench.pass(ms(10));
    bench.reply(pin, "*-1\r\n");
    assert_eq!(bench.heard(client), "");
    bench.switch(1);
    assert_eq!(bench.written(bench.pin()), ["BLPOP k 0"]);
}

#[test]
fn a_client_that_is_closed_while_workers_are_asked_hears_nothing_in_the_place_of_their_answer() {
    let mut bench = Bench::with(identity_settings(IdentityMode::Users));
    let client = bench.client();
    assert_eq!(bench.ask(client, "AUTH alice x"), "+OK\r\n");
    bench.multiplexer.on_client_bytes(client, &[frame("CLIENT LIST"), frame("GET a")].concat(), bench.now);
    assert!(matches!(bench.multiplexer.poll(), Some(Output::Inquire { .. })));
    bench.multiplexer.on_users(Arc::new(Users::default()), bench.now);
    assert_eq!(bench.multiplexer.client_output(client), b"");
    bench.settle();
    assert_eq!(bench.closed, [(client, CloseReason::AccessRevoked)]);
}

#[test]
fn a_target_that_nobody_redirects_to_any_more_is_still_greeted() {
    let mut bench = Bench::new();
    let target = bench.client();
    let client = bench.client();
    bench.say(client, &["CLIENT TRACKING ON REDIRECT 7"]);
    bench.pass(ms(10));
    let pin = bench.pin();
    assert_eq!(bench.written(pin).len(), 1);
    bench.reply(pin, "+OK\r\n");
    bench.say(target, &["HELLO 3", "PING"]);
    let link = bench.last(|role| role == Role::Subscription(target));
    assert_eq!(bench.written(link), ["HELLO 3"]);
    bench.say(client, &["RESET"]);
    bench.reply(link, "%0\r\n");
    let heard = bench.heard(target);
    assert!(heard.starts_with("%7\r\n") && heard.ends_with("+PONG\r\n"), "{heard}");
    assert!(!bench.links.iter().any(|(_, dial)| dial.role == Role::Subscription(target)));
}

#[test]
fn a_switch_while_subscriptions_are_restored_restores_them_elsewhere() {
    const CONFIRMED: &str = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SUBSCRIBE c"]);
    bench.pass(ms(10));
    let link = bench.last(|role| role == Role::Subscription(client));
    bench.written(link);
    bench.reply(link, CONFIRMED);
    assert_eq!(bench.heard(client), CONFIRMED);
    bench.switch(1);
    let restoring = bench.last(|role| role == Role::Subscription(client));
    assert_ne!(restoring, link);
    bench.switch(0);
    bench.pass(ms(10));
    let restoring = bench.last(|role| role == Role::Subscription(client));
    assert_eq!(bench.written(restoring), ["SUBSCRIBE c"]);
    bench.reply(restoring, CONFIRMED);
    bench.reply(restoring, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n");
    assert!(bench.heard(client).ends_with("x\r\n"));
}
