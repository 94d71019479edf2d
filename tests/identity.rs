//! Who clients are, against real servers with users: each mode, switches, deletions, reloads, and what is never shown.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::{
    Handover, PATIENCE, Pair, RawClient, RedisServer, RedisServerBuilder, Signal, Value, encode, wait_until,
};

const PASSTHROUGH: &str = "[identity]\nmode = \"passthrough\"\nverify_interval = \"400ms\"";

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn ask(client: &mut RawClient, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn error(value: &Value) -> String {
    match value {
        Value::Error(text) => text.clone(),
        other => panic!("not an error: {other:?}"),
    }
}

/// Every text in a reply.
fn texts(value: &Value) -> String {
    match value {
        Value::Bulk(_) | Value::Simple(_) => value.text() + " ",
        Value::Array(items) | Value::Push(items) => items.iter().map(texts).collect(),
        Value::Map(pairs) => pairs.iter().map(|(name, value)| texts(name) + &texts(value)).collect(),
        _ => String::new(),
    }
}

/// Alice may all but SET, Bob all but GET.
fn with_users(server: RedisServerBuilder) -> RedisServerBuilder {
    server.user("alice on >a-secret ~* &* +@all -set").user("bob on >b-secret ~* &* +@all -get")
}

#[track_caller]
fn log_in(handover: &Handover, login: &str) -> RawClient {
    let mut client = handover.client();
    assert_eq!(ask(&mut client, &format!("AUTH {login}")), Value::ok());
    client
}

/// A file that only we can read.
fn secret_file(folder: &std::path::Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file in a fresh folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a file in a fresh folder");
    path
}

/// Each line is answered with the same bytes as by the server directly.
#[track_caller]
fn assert_as_direct(server: std::net::SocketAddr, proxy: std::net::SocketAddr, lines: &[&str]) {
    for line in lines {
        let [direct, proxied] = [server, proxy].map(|address| {
            let mut client = RawClient::connect(address);
            client.send(frame(line));
            client.read_reply_raw().1.escape_ascii().to_string()
        });
        assert_eq!(proxied, direct, "{line}");
    }
}

/// Handover with one backend, of which it warns.
#[track_caller]
fn alone(configuration: &str) -> Handover {
    Handover::builder(configuration).expect_warning("nothing to hand over to").start()
}

fn backend(server: &RedisServer, user: &str) -> String {
    format!("[[backend]]\nname = \"east\"\nurl = \"redis://{user}{}\"\n", server.address())
}

#[test]
fn without_users_auth_is_answered_as_by_a_server_without_a_password() {
    let server = RedisServer::start();
    let handover = alone(&backend(&server, ""));
    let lines =
        ["AUTH x", "AUTH default x", "AUTH bob x", "AUTH", "AUTH a b c", "HELLO 2 AUTH bob x", "HELLO 3 AUTH x"];
    assert_as_direct(server.address(), handover.address(), &lines);
    let mut client = handover.client();
    assert!(matches!(ask(&mut client, "HELLO 3 AUTH default x SETNAME n"), Value::Map(_)));
    assert_eq!(ask(&mut client, "CLIENT GETNAME").text(), "n");
}

#[test]
fn before_authentication_everything_is_answered_as_by_redis() {
    let server = with_users(RedisServer::builder()).password("pw").start();
    let handover = alone(&format!("{PASSTHROUGH}\n{}", backend(&server, ":pw@")));
    handover.allow_warning("a client could not authenticate");
    let lines = [
        "GET k",
        "GET",
        "PING",
        "MULTI",
        "EXEC",
        "SUBSCRIBE x",
        "SUBSCRIBE",
        "CLIENT ID",
        "COMMAND",
        "HELLO",
        "HELLO 3",
        "HELLO 4",
        "HELLO 3 AUTH default",
        "HELLO 3 AUTH default x",
        "HELLO 3 SETNAME a",
        "AUTH",
        "AUTH a b c",
        "AUTH x",
        "AUTH pw",
        "AUTH alice a-secret",
        "RESET",
        "QUIT",
    ];
    assert_as_direct(server.address(), handover.address(), &lines);
    for bytes in ["*11\r\n", "*2\r\n$4\r\nAUTH\r\n$16385\r\n"] {
        let [direct, proxied] = [server.address(), handover.address()].map(|address| {
            let mut client = RawClient::connect(address);
            client.send(bytes);
            String::from_utf8(client.read_to_end()).unwrap()
        });
        assert_eq!(proxied, direct);
    }
}

#[test]
fn with_passthrough_each_command_has_the_rights_of_its_own_user() {
    let pair = Pair::builder().servers(with_users).configuration(PASSTHROUGH).start();
    let rounds = 200;
    let run = |login: &'static str, allowed: &'static str, denied: &'static str, whoami: &'static str| {
        let mut client = log_in(&pair.handover, login);
        let pipeline = [frame(allowed), frame(denied), frame("ACL WHOAMI")].concat();
        for _ in 0..rounds {
            client.send(&pipeline);
            assert!(!matches!(client.read_reply(), Value::Error(_)), "{allowed}");
            assert!(error(&client.read_reply()).starts_with("NOPERM"), "{denied}");
            assert_eq!(client.read_reply().text(), whoami);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| run("alice a-secret", "GET k", "SET k v", "alice"));
            scope.spawn(|| run("bob b-secret", "SET k v", "GET k", "bob"));
        }
    });
    // The server says the same: who was denied what, and as whom the connections came.
    let denied = pair.east.command(&["ACL", "LOG"]);
    let text = texts(&denied);
    assert!(text.contains("username alice") && text.contains("username bob"), "{text}");
    assert!(!text.contains("username default"), "{text}");
    // One client that is now this user, now that one, within one write.
    let mut client = pair.client();
    let lines = [
        "AUTH alice a-secret",
        "GET k",
        "SET k 1",
        "AUTH bob b-secret",
        "SET k 2",
        "GET k",
        "AUTH bob wrong",
        "SET k 3",
        "AUTH alice a-secret",
        "GET k",
        "RESET",
        "GET k",
        "HELLO 3 AUTH alice a-secret SETNAME n",
        "GET k",
    ];
    client.send(lines.iter().flat_map(|line| frame(line)).collect::<Vec<u8>>());
    let replies: Vec<Value> = lines.iter().map(|_| client.read_reply()).collect();
    let outline: Vec<String> = replies
        .iter()
        .map(|reply| match reply {
            Value::Error(text) => text.split(' ').next().unwrap_or_default().to_owned(),
            Value::Map(_) => "map".to_owned(),
            other => other.text(),
        })
        .collect();
    let expected =
        ["OK", "v", "NOPERM", "OK", "OK", "NOPERM", "WRONGPASS", "OK", "OK", "3", "RESET", "NOAUTH", "map", "3"];
    assert_eq!(outline, expected, "{replies:?}");
    pair.handover.expect_warning("a client could not authenticate");
    wait_until(PATIENCE, || pair.handover.metric("handover_authentications_total", &[("outcome", "refused")]) >= 1.0);
    wait_until(PATIENCE, || pair.handover.metric("handover_authentications_total", &[("outcome", "ok")]) >= 8.0);
}

#[test]
fn a_deleted_user_and_a_changed_password_end_its_clients_and_nobody_elses() {
    let pair = Pair::builder().servers(with_users).configuration(PASSTHROUGH).start();
    pair.handover.allow_warning("clients were closed");
    pair.handover.allow_warning("a client could not authenticate");
    let mut bob = log_in(&pair.handover, "bob b-secret");
    assert_eq!(ask(&mut bob, "SET k v"), Value::ok());

    let mut alice = log_in(&pair.handover, "alice a-secret");
    assert_eq!(ask(&mut alice, "GET k").text(), "v");
    // Redis keeps connections that have authenticated: only asking again shows it.
    assert_eq!(pair.east.command(&["ACL", "SETUSER", "alice", "resetpass", ">new-secret"]), Value::ok());
    wait_until(PATIENCE, || alice.is_closed());
    let mut again = pair.client();
    assert!(error(&ask(&mut again, "AUTH alice a-secret")).starts_with("WRONGPASS"));
    assert_eq!(ask(&mut again, "AUTH alice new-secret"), Value::ok());
    assert_eq!(ask(&mut again, "GET k").text(), "v");

    assert_eq!(pair.east.command(&["ACL", "DELUSER", "alice"]), Value::Integer(1));
    wait_until(PATIENCE, || again.is_closed());
    assert_eq!(ask(&mut bob, "SET k w"), Value::ok());
    pair.wait_for("east");
    assert_eq!(pair.handover.metric("handover_epoch", &[]), 1.0, "no switch");
    let reason = [("reason", "access_revoked")];
    wait_until(PATIENCE, || pair.handover.metric("handover_clients_closed_total", &reason) >= 2.0);
}

#[test]
fn a_switch_takes_along_only_whom_the_new_active_accepts() {
    let only_bob = |server: RedisServerBuilder| server.user("bob on >b-secret ~* &* +@all -get");
    let mut pair = Pair::builder().west(only_bob).configuration(PASSTHROUGH).returning().start();
    for rules in ["alice on >a-secret ~* &* +@all -set", "bob on >b-secret ~* &* +@all -get"] {
        let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(rules.split(' ')).collect();
        assert_eq!(pair.east.command(&words), Value::ok());
    }
    pair.handover.allow_warning("clients were closed");
    pair.handover.allow_warning("a client could not authenticate");
    let (mut alice, mut bob) = (log_in(&pair.handover, "alice a-secret"), log_in(&pair.handover, "bob b-secret"));
    let mut listener = log_in(&pair.handover, "bob b-secret");
    ask(&mut listener, "SUBSCRIBE news");
    assert_eq!(ask(&mut alice, "GET k"), Value::Null);
    assert_eq!(ask(&mut bob, "SET k 1"), Value::ok());

    pair.fail_over();
    alice.send(frame("GET k"));
    let rest = String::from_utf8(alice.read_to_end()).unwrap();
    assert!(rest.is_empty() || rest.starts_with("-NOAUTH handover"), "{rest}");
    assert_eq!(ask(&mut bob, "SET k 2"), Value::ok());
    assert_eq!(pair.west.command(&["GET", "k"]).text(), "2");
    wait_until(PATIENCE, || pair.west.command(&["PUBSUB", "NUMSUB", "news"]).elements()[1] == Value::Integer(1));
    assert_eq!(ask(&mut bob, "PUBLISH news x"), Value::Integer(1));
    assert_eq!(texts(&listener.read_reply()), "message news x ");
    let mut again = pair.client();
    assert!(error(&ask(&mut again, "AUTH alice a-secret")).starts_with("WRONGPASS"));

    pair.fail_back();
    assert_eq!(ask(&mut bob, "SET k 3"), Value::ok());
    assert_eq!(pair.east.command(&["GET", "k"]).text(), "3");
    wait_until(PATIENCE, || ask(&mut again, "AUTH alice a-secret") == Value::ok());
    assert_eq!(ask(&mut again, "GET k").text(), "3");
    assert!(error(&ask(&mut bob, "GET k")).starts_with("NOPERM"), "still as bob");
}

#[test]
fn users_of_handovers_own_reach_the_backend_as_whom_they_are_mapped_to_and_follow_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let server = with_users(RedisServer::builder()).password("backend-secret").start();
    let app = secret_file(folder.path(), "app", "app-secret\n");
    let hash = "#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let reader = secret_file(folder.path(), "reader", &format!("{hash}\nreader-secret\n"));
    let bob = secret_file(folder.path(), "bob", "b-secret\n");
    let user = |name: &str, file: &PathBuf, more: &str| {
        format!("[[user]]\nname = \"{name}\"\npassword_file = \"{}\"\n{more}\n", file.display())
    };
    let mapped = format!("backend = {{ username = \"bob\", password_file = \"{}\" }}", bob.display());
    let configuration = format!(
        "{}{}{}[identity]\nmode = \"users\"\n[log]\nlevel = \"debug\"\n{}",
        user("app", &app, ""),
        user("reader", &reader, "allow = [\"@read\"]"),
        user("writer", &app, &mapped),
        backend(&server, ":backend-secret@")
    );
    let mut handover = alone(&configuration);
    handover.allow_warning("a client could not authenticate");
    let mut app_client = log_in(&handover, "app app-secret");
    assert_eq!(ask(&mut app_client, "SET k v"), Value::ok());
    let mut readers = ["password", "reader-secret"].map(|password| log_in(&handover, &format!("reader {password}")));
    for client in &mut readers {
        assert_eq!(ask(client, "GET k").text(), "v");
        assert!(error(&ask(client, "SET k w")).starts_with("NOPERM handover"));
        assert_eq!(ask(client, "CLIENT SETINFO LIB-NAME x"), Value::ok());
    }
    // The backend's own rules for bob.
    let mut writer = log_in(&handover, "writer app-secret");
    assert_eq!(ask(&mut writer, "SET k w"), Value::ok());
    assert!(error(&ask(&mut writer, "GET k")).starts_with("NOPERM this user"));
    let clients = server.command(&["CLIENT", "LIST"]).text();
    assert!(clients.contains(" user=bob ") && !clients.contains("user=writer"), "{clients}");
    let list = ask(&mut app_client, "CLIENT LIST").text();
    assert!(list.contains(" user=writer ") && list.contains(" user=reader ") && list.contains(" user=app "), "{list}");
    let mut wrong = handover.client();
    assert!(error(&ask(&mut wrong, "AUTH app super-wrong-secret")).starts_with("WRONGPASS"));

    // Another password, and one user less.
    std::fs::write(&app, "new-app-secret\n").unwrap();
    let text = std::fs::read_to_string(handover.configuration_file()).unwrap();
    let mut parsed: toml::Table = text.parse().unwrap();
    parsed["user"].as_array_mut().unwrap().remove(1);
    std::fs::write(handover.configuration_file(), parsed.to_string()).unwrap();
    handover.signal(Signal::HUP);
    for client in &mut readers {
        wait_until(PATIENCE, || client.is_closed());
    }
    assert_eq!(ask(&mut app_client, "GET k").text(), "w");
    assert_eq!(ask(&mut writer, "SET k x"), Value::ok());
    let mut newcomer = handover.client();
    assert!(error(&ask(&mut newcomer, "AUTH app app-secret")).starts_with("WRONGPASS"));
    assert_eq!(ask(&mut newcomer, "AUTH app new-app-secret"), Value::ok());

    handover.wait_for_log(|line| line.text.contains("could not authenticate"), PATIENCE);
    let shown: String = handover.log().iter().map(|line| line.text.clone() + "\n").collect();
    let shown = [shown, handover.http_get("/status").body, handover.http_get("/metrics").body].concat();
    for secret in ["app-secret", "reader-secret", "b-secret", "backend-secret", "wrong-secret", &hash[1..20]] {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}

#[test]
fn who_does_not_authenticate_is_closed_and_a_listener_beyond_loopback_needs_no_allowance() {
    let server = with_users(RedisServer::builder()).start();
    let configuration = format!(
        "[identity]\nmode = \"passthrough\"\nauthentication_timeout = \"5s\"\n[[listener]]\nbind = \"0.0.0.0:0\"\n{}",
        backend(&server, "")
    );
    let handover = alone(&configuration);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], handover.port()));
    let mut silent = RawClient::connect(address);
    let mut alice = RawClient::connect(address);
    assert_eq!(ask(&mut alice, "AUTH alice a-secret"), Value::ok());
    silent.expect_end();
    assert_eq!(ask(&mut alice, "PING"), Value::Simple("PONG".to_owned()));
    let reason = [("reason", "authentication_timeout")];
    wait_until(PATIENCE, || handover.metric("handover_clients_closed_total", &reason) == 1.0);
}

#[test]
fn a_user_that_may_not_echo_is_served_on_connections_of_its_clients_own() {
    let mute = |server: RedisServerBuilder| server.user("mute on >m-secret ~* &* +get +set +multi +exec +select");
    let mut pair = Pair::builder().servers(mute).configuration(PASSTHROUGH).start();
    let mut client = log_in(&pair.handover, "mute m-secret");
    for round in 0..3 {
        for line in ["SET k 1", "SELECT 0"] {
            assert_eq!(ask(&mut client, line), Value::ok(), "{line}");
        }
        client.send([frame("MULTI"), frame("GET k"), frame("EXEC"), frame("GET k"), frame("ECHO x")].concat());
        let replies: Vec<Value> = (0..5).map(|_| client.read_reply()).collect();
        assert_eq!(replies[3].text(), "1", "{replies:?}");
        assert!(error(&replies[4]).starts_with("NOPERM"), "{replies:?}");
        std::thread::sleep(Duration::from_millis(60 * u64::from(round == 0)));
    }
    pair.fail_over();
    assert_eq!(ask(&mut client, "SET k 2"), Value::ok());
    assert_eq!(pair.west.command(&["GET", "k"]).text(), "2");
    assert_eq!(pair.handover.metric("handover_sentinel_mismatch_total", &[]), 0.0);
}

#[test]
fn redis_py_and_redis_cli_log_in() {
    let server = with_users(RedisServer::builder()).start();
    let handover = alone(&format!("{PASSTHROUGH}\n{}", backend(&server, "")));
    handover.allow_warning("a client could not authenticate");
    let script = r#"
import redis, sys
port = int(sys.argv[1])
for protocol in (2, 3):
    client = redis.Redis(port=port, username="bob", password="b-secret", protocol=protocol, client_name="me")
    assert client.set("k", "v") and client.acl_whoami() in (b"bob", "bob"), protocol
    pipeline = client.pipeline()
    pipeline.set("a", 1).incr("a")
    assert pipeline.execute() == [True, 2]
    try:
        redis.Redis(port=port, username="bob", password="wrong", protocol=protocol).ping()
        raise SystemExit("let in")
    except redis.AuthenticationError:
        pass
try:
    redis.Redis(port=port).ping()
    raise SystemExit("let in without a password")
except redis.AuthenticationError:
    pass
"#;
    let port = handover.port().to_string();
    let output = Command::new(support::python()).args(["-c", script, &port]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cli = |login: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port, "--no-auth-warning"]).args(login).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(cli(&["--user", "alice", "--pass", "a-secret", "GET", "k"]).trim(), "v");
    assert!(cli(&["GET", "k"]).starts_with("NOAUTH"));
}
