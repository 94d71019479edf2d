//! Who clients are: what they may do before they have said so, and on whose connections their commands go.

use super::*;
use crate::logic::identity::{Account, IdentityMode, Login, PasswordHash, Secret};

pub(super) fn identity_settings(mode: IdentityMode) -> Settings {
    let login =
        |user: &'static str| Login { user: Some(Bytes::from_static(user.as_bytes())), password: Secret::new(b"b") };
    let account = |name: &str, login: Option<Login>| Account {
        name: name.to_owned(),
        passwords: vec![PasswordHash::of(b"x")],
        login: login.map(Arc::new),
        policy: None,
    };
    let reader = Policy::default().restricted(Some(&["@read".to_owned()].into()), &["keys".to_owned()].into());
    let users = Users::new([
        account("app", None),
        account("alice", Some(login("back-a"))),
        account("bob", Some(login("back-b"))),
        Account { policy: Some(Arc::new(reader.unwrap())), ..account("reader", None) },
    ]);
    let identity = IdentitySettings { mode, ..IdentitySettings::default() };
    Settings { identity, users: Arc::new(users), ..settings(RetryCeiling::WriteLastWins) }
}

fn wrong_password() -> DialOutcome {
    DialOutcome::RefusedIdentity(Bytes::from_static(b"-WRONGPASS no\r\n"))
}

impl Bench {
    fn guarded(mode: IdentityMode) -> Self {
        Self::with(identity_settings(mode))
    }

    /// The open connections that authenticate as this user, in the order in which they were asked for.
    fn links_of(&self, user: &str) -> Vec<LinkKey> {
        let is_of = |dial: &Dial| {
            let login = self.multiplexer.login(dial.profile.identity);
            login.and_then(|login| login.user.clone()).is_some_and(|name| name == user)
        };
        self.links.iter().filter(|(_, dial)| is_of(dial)).map(|(link, _)| *link).collect()
    }

    fn authenticated(&mut self, user: &str) -> SessionKey {
        let client = self.client();
        assert_eq!(self.ask(client, &format!("AUTH {user} x")), "+OK\r\n");
        client
    }
}

#[test]
fn before_authentication_only_what_leads_to_it_is_answered() {
    const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
    for mode in [IdentityMode::Users, IdentityMode::Passthrough] {
        for (line, expected) in [
            ("PING", NOAUTH),
            ("GET k", NOAUTH),
            ("MULTI", NOAUTH),
            ("SUBSCRIBE c", NOAUTH),
            ("CLIENT ID", NOAUTH),
            ("SHUTDOWN", NOAUTH),
            ("NOSUCHCOMMAND", NOAUTH),
            ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("EXEC", "-EXECABORT Transaction discarded because of: NOAUTH Authentication required.\r\n"),
            ("AUTH", "-ERR wrong number of arguments for 'auth' command\r\n"),
            ("AUTH a b c", "-ERR syntax error\r\n"),
            ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
            ("RESET", "+RESET\r\n"),
            ("QUIT", "+OK\r\n"),
        ] {
            let mut bench = Bench::guarded(mode);
            let client = bench.client();
            assert_eq!(bench.ask(client, line), expected, "{line}");
        }
        let mut bench = Bench::guarded(mode);
        let client = bench.client();
        assert!(bench.ask(client, "HELLO 3").starts_with("-NOAUTH HELLO must be called with"));
        bench.multiplexer.on_client_bytes(client, b"*11\r\n", bench.now);
        bench.settle();
        assert_eq!(bench.heard(client), "-ERR Protocol error: unauthenticated multibulk length\r\n");
        assert_eq!(bench.closed, [(client, CloseReason::ProtocolError)]);
    }
}

#[test]
fn who_does_not_authenticate_in_time_is_closed_and_who_does_is_not() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let (silent, reset, good) = (bench.client(), bench.authenticated("app"), bench.authenticated("app"));
    bench.pass(ms(9_000));
    assert_eq!(bench.ask(reset, "RESET"), "+RESET\r\n");
    bench.pass(ms(900));
    assert_eq!(bench.closed, []);
    bench.pass(ms(1_000));
    assert_eq!(bench.closed, [(silent, CloseReason::AuthenticationTimeout)]);
    bench.pass(ms(9_000));
    assert_eq!(bench.closed[1..], [(reset, CloseReason::AuthenticationTimeout)]);
    assert_eq!(bench.ask(good, "PING"), "+PONG\r\n");
}

#[test]
fn in_a_pipeline_the_identity_changes_exactly_at_auth() {
    for mode in [IdentityMode::Users, IdentityMode::Passthrough] {
        let [a, b] = if mode == IdentityMode::Users { ["back-a", "back-b"] } else { ["alice", "bob"] };
        let mut bench = Bench::guarded(mode);
        let client = bench.client();
        bench.say(
            client,
            &["AUTH alice x", "SET k 1", "AUTH alice wrong", "SET k 2", "AUTH bob x", "SET k 3", "ACL WHOAMI"],
        );
        let alice = bench.links_of(a)[0];
        assert_eq!(bench.written(alice), ["SET k 1"], "{mode:?}");
        // A wrong password, by the word of the backend, changes nothing.
        bench.outcome = |_, login| (login.password.expose() == b"wrong").then(wrong_password);
        bench.reply(alice, "+OK\r\n");
        assert_eq!(bench.written(alice), ["SET k 2"], "{mode:?}");
        bench.reply(alice, "+OK\r\n");
        let bob = bench.links_of(b)[0];
        assert_eq!(bench.written(bob), ["SET k 3"], "{mode:?}");
        assert_eq!(bench.written(alice), [] as [&str; 0]);
        bench.reply(bob, "+OK\r\n");
        let expected = ["+OK", "+OK", "-WRONGPASS", "+OK", "+OK", "+OK", "$3", "bob"];
        assert_eq!(first_words(&bench.heard(client)), expected, "{mode:?}");
    }
}

#[test]
fn a_user_may_what_its_lists_say() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let client = bench.authenticated("reader");
    for line in ["SET k v", "KEYS *", "EVAL x 0", "MULTI", "NOSUCHCOMMAND"] {
        assert!(bench.ask(client, line).starts_with("-NOPERM handover: command"), "{line}");
    }
    bench.say(client, &["GET k"]);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["GET k"]);
    bench.reply(lane, "$-1\r\n");
    let app = bench.authenticated("app");
    bench.say(app, &["SET k v"]);
    assert_eq!(bench.written(lane), ["SET k v"]);
}

#[test]
fn a_pin_of_one_identity_never_serves_another() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let client = bench.authenticated("alice");
    bench.say(client, &["WATCH k"]);
    let pin = bench.pin();
    assert!(bench.links_of("back-a").contains(&pin));
    assert_eq!(bench.written(pin), ["WATCH k"]);
    bench.reply(pin, "+OK\r\n");
    bench.say(client, &["AUTH bob x", "MULTI", "SET k v", "EXEC", "EVAL x 0"]);
    assert_eq!(bench.heard(client), "+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n*-1\r\n", "WATCH was broken");
    let pin = bench.pin();
    assert!(bench.links_of("back-b").contains(&pin), "{:?}", bench.links);
    assert_eq!(bench.written(pin), ["EVAL x 0"]);
}

#[test]
fn an_identity_in_use_is_verified_again_and_refused_its_clients_are_closed() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    let (alice, bob) = (bench.authenticated("alice"), bench.authenticated("bob"));
    let lane = bench.links_of("alice")[0];
    bench.outcome = |_, login| (login.user.as_deref() == Some(b"alice".as_slice())).then(wrong_password);
    (0..300).for_each(|_| bench.pass(ms(100)));
    assert_eq!(bench.closed, []);
    (0..300).for_each(|_| bench.pass(ms(100)));
    assert_eq!(bench.closed, [(alice, CloseReason::AccessRevoked)]);
    assert!(bench.links.iter().all(|(link, _)| *link != lane), "its connections are closed");
    let again = bench.client();
    assert_eq!(bench.ask(again, "AUTH alice x"), "-WRONGPASS no\r\n");
    assert_eq!(bench.ask(bob, "PING"), "+PONG\r\n");
    let is_failure = |report: &&Report| matches!(report, Report::ConnectFailed { .. } | Report::LinkLost { .. });
    assert_eq!(bench.reports.iter().find(is_failure), None, "it is no fault of the backend");
}

#[test]
fn who_is_not_accepted_by_the_new_active_is_told_and_closed() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    let (alice, bob) = (bench.authenticated("alice"), bench.authenticated("bob"));
    bench.outcome = |backend, login| {
        (backend == BackendId(1) && login.user.as_deref() == Some(b"alice".as_slice())).then(wrong_password)
    };
    bench.say(alice, &["SET k 1"]);
    bench.say(bob, &["SET k 2"]);
    // Nothing was written: both move, but only one may.
    bench.switch(1);
    assert_eq!(
        bench.heard(alice),
        "-NOAUTH handover: this client's user is not accepted any more; the command was not applied\r\n"
    );
    assert_eq!(bench.closed, [(alice, CloseReason::AccessRevoked)]);
    let lane = *bench.links_of("bob").last().unwrap();
    assert_eq!(bench.written(lane), ["SET k 2"]);
    assert_eq!(bench.heard(bob), "");
}

#[test]
fn noauth_in_mid_stream_replaces_the_connections_of_that_identity_alone() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    let (alice, bob) = (bench.authenticated("alice"), bench.authenticated("bob"));
    let (old, other) = (bench.links_of("alice")[0], bench.links_of("bob")[0]);
    bench.say(alice, &["INCR k"]);
    assert_eq!(bench.written(old), ["INCR k"]);
    bench.reply(old, "-NOAUTH Authentication required.\r\n");
    assert_eq!(bench.heard(alice), "");
    bench.pass(ms(10));
    let new = bench.links_of("alice")[0];
    assert!(new != old, "the old one is closed");
    assert_eq!(bench.written(new), ["INCR k"]);
    // Said again at once, it is the client's to know.
    bench.reply(new, "-NOAUTH Authentication required.\r\n");
    assert_eq!(bench.heard(alice), "-NOAUTH Authentication required.\r\n");
    assert_eq!(bench.links_of("bob"), [other]);
    assert_eq!(bench.ask(bob, "PING"), "+PONG\r\n");
}

#[test]
fn an_identity_without_echo_has_no_lane_and_shares_no_connection() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    bench.outcome = |_, login| {
        (login.user.as_deref() == Some(b"mute".as_slice()))
            .then_some(DialOutcome::Unproven { client_id: None, server: None })
    };
    let client = bench.authenticated("mute");
    assert_eq!(bench.links_of("mute"), []);
    assert!(bench.ask(client, "HELLO 2").starts_with("*14\r\n"));
    bench.say(client, &["GET k", "GET l"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["GET k", "GET l"]);
    bench.reply(pin, "$-1\r\n$-1\r\n");
    assert_eq!(bench.heard(client), "$-1\r\n$-1\r\n");
    (0..3).for_each(|_| bench.pass(ms(60)));
    assert_eq!(bench.links_of("mute"), [], "without a fence it is closed");
    bench.say(client, &["GET m"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["GET m"]);
    let other = bench.authenticated("bob");
    bench.say(other, &["GET n"]);
    let lane = bench.links_of("bob")[0];
    assert_eq!(bench.written(lane), ["GET n"]);
}

#[test]
fn a_reload_closes_the_clients_of_users_that_are_gone_and_no_others() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let (alice, app) = (bench.authenticated("alice"), bench.authenticated("app"));
    let kept = Account {
        name: "app".to_owned(),
        passwords: vec![PasswordHash::of(b"new")],
        login: None,
        policy: Some(Arc::new(Policy::default().restricted(None, &["@write".to_owned()].into()).unwrap())),
    };
    bench.multiplexer.on_users(Arc::new(Users::new([kept])), bench.now);
    bench.settle();
    assert_eq!(bench.closed, [(alice, CloseReason::AccessRevoked)]);
    assert_eq!(bench.ask(app, "PING"), "+PONG\r\n");
    assert!(bench.ask(app, "SET k v").starts_with("-NOPERM"), "the new rules count at once");
    let again = bench.client();
    assert!(bench.ask(again, "AUTH app x").starts_with("-WRONGPASS"));
    assert_eq!(bench.ask(again, "AUTH app new"), "+OK\r\n");
}

#[test]
fn failures_in_a_row_delay_the_next_attempt_of_the_same_source() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let [first, second] = [(); 2].map(|()| bench.client());
    for _ in 0..3 {
        assert!(bench.ask(first, "AUTH app wrong").starts_with("-WRONGPASS"));
    }
    assert_eq!(bench.ask(second, "AUTH app x"), "", "right or wrong, it waits");
    bench.pass(ms(500));
    assert_eq!(bench.heard(second), "");
    bench.pass(ms(600));
    assert_eq!(bench.heard(second), "+OK\r\n");
    assert!(bench.ask(first, "AUTH app wrong").starts_with("-WRONGPASS"));
}

#[test]
fn reset_ends_the_identity() {
    let mut bench = Bench::guarded(IdentityMode::Users);
    let client = bench.authenticated("alice");
    assert_eq!(bench.ask(client, "RESET"), "+RESET\r\n");
    assert_eq!(bench.ask(client, "ACL WHOAMI"), "-NOAUTH Authentication required.\r\n");
    assert!(bench.ask(client, "HELLO 3 AUTH bob x SETNAME n").starts_with("%7\r\n"));
    assert_eq!(bench.ask(client, "ACL WHOAMI"), "$3\r\nbob\r\n");
    assert_eq!(bench.ask(client, "CLIENT GETNAME"), "$1\r\nn\r\n");
    assert!(bench.ask(client, "CLIENT INFO").contains(" user=bob "));
}

#[test]
fn a_flood_of_logins_is_asked_for_in_turn_and_keeps_nobody_out() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    bench.outcome = |_, login| (login.password.expose() == b"wrong").then(wrong_password);
    let alice = bench.authenticated("alice");
    let strangers: Vec<SessionKey> = (0..600).map(|_| bench.client()).collect();
    for (index, &stranger) in strangers.iter().enumerate() {
        let line = frame(&format!("AUTH u{index} wrong"));
        bench.multiplexer.on_client_bytes(stranger, &line, bench.now);
    }
    let mut asked = Vec::new();
    while let Some(output) = bench.multiplexer.poll() {
        match output {
            Output::Dial(dial) => asked.push(dial.link),
            Output::CloseLink { .. } => panic!("who waits for an answer keeps its connection"),
            _ => {}
        }
    }
    assert_eq!(asked.len(), 64);
    for link in asked {
        bench.multiplexer.on_dialled(link, wrong_password(), bench.now);
    }
    bench.settle();
    let peer = Peer { address: "192.0.2.7:1".into(), ..Peer::default() };
    let bob = bench.multiplexer.on_client(peer, bench.now);
    bench.say(bob, &["AUTH bob x"]);
    (0..4).for_each(|_| bench.pass(ms(300)));
    assert_eq!(bench.heard(bob), "+OK\r\n");
    assert_eq!(bench.ask(alice, "PING"), "+PONG\r\n");
    let refused = strangers.iter().filter(|&&stranger| bench.heard(stranger) == "-WRONGPASS no\r\n").count();
    assert!((64..100).contains(&refused), "the others wait, since so many have failed: {refused}");
}

/// The rights of the servers' users are not known here: nobody sees, ends or holds up another user's clients.
#[test]
fn with_passthrough_nobody_rules_over_clients_of_others() {
    let mut bench = Bench::guarded(IdentityMode::Passthrough);
    let (alice, bob, again) = (bench.authenticated("alice"), bench.authenticated("bob"), bench.authenticated("alice"));
    let list = bench.ask(alice, "CLIENT LIST");
    assert!(list.matches("user=alice").count() == 2 && !list.contains("user=bob"), "{list}");
    for line in ["CLIENT PAUSE 1000", "CLIENT UNPAUSE", "CLIENT UNBLOCK 8", "CLIENT KILL USER bob"] {
        assert!(bench.ask(alice, line).starts_with("-NOPERM handover: "), "{line}");
    }
    assert_eq!(bench.ask(alice, "CLIENT KILL TYPE normal"), ":1\r\n");
    assert_eq!(bench.closed, [(again, CloseReason::Killed)]);
    assert!(!bench.ask(bob, "CLIENT ID").starts_with('-'));
}
