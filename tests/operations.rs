//! What whoever runs it sees: the command line, signals, HTTP, the log, and every kind of address.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{
    Handover, HandoverBuilder, Mode, PATIENCE, RawClient, RedisServer, Relay, Signal, Value, encode, wait_until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_handover");
const ALONE: &str = "nothing to hand over to";

fn pong() -> Value {
    Value::Simple("PONG".to_owned())
}

fn backend(server: &RedisServer) -> String {
    format!("backend = [{{ name = 'east', url = 'redis://{}' }}]\n", server.address())
}

fn alone(configuration: &str) -> HandoverBuilder {
    Handover::builder(configuration).expect_warning(ALONE)
}

fn two(east: &RedisServer, west: &RedisServer) -> String {
    format!(
        "backend = [{{ name = 'east', url = 'redis://{}', weight = 2.0 }}, {{ name = 'west', url = 'redis://{}' }}]\n\
         failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n",
        east.address(),
        west.address()
    )
}

/// Runs the program to its end: exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(PROGRAM).args(arguments).env_clear().output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal ended it"), text(output.stdout), text(output.stderr))
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join("handover.toml");
    std::fs::write(&path, text).expect("a file in a fresh folder");
    path.display().to_string()
}

#[test]
fn check_says_everything_that_is_wrong_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "heatlh = 1\n[failover]\nhold = '1ms'\n[[listener]]\nbind = 'nonsense'\n[[backend]]\nname = 'a'\n\
         url = 'http://x'\nweight = 0\n",
    );
    for action in ["check", "run"] {
        let (code, output, errors) = run(&[action, "-c", &path]);
        assert_eq!((code, output.as_str()), (78, ""), "{errors}");
        for part in ["heatlh", "listener[0].bind", "backend[0].url", "backend[0].weight"] {
            assert!(errors.contains(part), "{action}: {part} is missing in:\n{errors}");
        }
    }
    let path =
        file(folder.path(), "listener = [{ bind = '127.0.0.1:0' }]\nbackend = [{ name = 'a', url = 'redis://h' }]\n");
    let (code, output, _) = run(&["check", "-c", &path]);
    assert_eq!(code, 0);
    assert!(output.contains("good"), "{output}");
}

#[test]
fn usage_and_missing_files_have_their_codes() {
    assert_eq!(run(&["--nonsense"]).0, 2);
    assert_eq!(run(&["run", "-c", "/nonexistent/handover.toml"]).0, 78);
    let (code, output, _) = run(&["version"]);
    assert_eq!(code, 0);
    assert!(output.contains(env!("CARGO_PKG_VERSION")), "{output}");
}

#[test]
fn an_address_in_use_is_an_error_of_its_own() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (listener, admin) in [(address.to_string(), ""), ("127.0.0.1:0".to_owned(), &*address.to_string())] {
        let path = file(
            folder.path(),
            &format!(
                "admin.http = '{admin}'\nlistener = [{{ bind = '{listener}' }}]\nbackend = [{{ name = 'a', url = 'redis://127.0.0.1:1' }}]\n"
            ),
        );
        let (code, output, errors) = run(&["run", "-c", &path]);
        assert_eq!(code, 69, "{output}{errors}");
        assert!(format!("{output}{errors}").contains(&address.to_string()), "{output}{errors}");
    }
}

/// A backend behind a relay that can hold its replies, and nobody who is called silent for it.
fn behind_a_relay(server: &RedisServer) -> (Relay, HandoverBuilder) {
    let relay = Relay::start(server.address());
    let patient = "detector.hang_timeout = '8s'\ndetector.slow_timeout = '9s'\nhealth.timeout = '5s'\n\
        failover.hold = '6s'\n";
    let builder = alone(&format!("backend = [{{ name = 'east', url = 'redis://{}' }}]\n{patient}", relay.address()));
    (relay, builder)
}

#[test]
fn sigterm_lets_what_is_in_flight_finish() {
    let server = RedisServer::start();
    let (relay, builder) = behind_a_relay(&server);
    let mut handover = builder.start();
    let (mut busy, mut idle, mut blocked) = (handover.client(), handover.client(), handover.client());
    for client in [&mut busy, &mut idle] {
        assert_eq!(client.command(&["GET", "n"]), Value::Null);
    }
    blocked.send_command(&["BLPOP", "list", "0"]);
    wait_until(PATIENCE, || server.command(&["INFO", "clients"]).text().contains("blocked_clients:1"));
    relay.set_mode(Mode::HoldReplies);
    busy.send_command(&["INCR", "n"]);
    wait_until(PATIENCE, || server.command(&["GET", "n"]) == Value::bulk("1"));
    handover.signal(Signal::TERM);
    handover.wait_for_log(|line| line.message().starts_with("draining"), PATIENCE);
    idle.expect_end();
    // What may wait for ever is not waited for.
    blocked.expect_end();
    wait_until(PATIENCE, || TcpStream::connect(handover.address()).is_err());
    relay.set_mode(Mode::Pass);
    assert_eq!(busy.read_reply(), Value::Integer(1));
    busy.expect_end();
    assert_eq!(handover.wait().code(), Some(0));
}

#[test]
fn sigterm_answers_a_whole_pipeline() {
    let server = RedisServer::start();
    let mut handover = alone(&backend(&server)).start();
    let mut client = handover.client();
    client.send(encode(&["INCR", "n"]).repeat(1_000));
    assert_eq!(client.read_reply().integer(), 1);
    handover.signal(Signal::TERM);
    let mut answered = 1;
    while let Some(reply) = client.read_reply_or_end() {
        answered += 1;
        assert_eq!(reply, Value::Integer(answered));
    }
    assert_eq!(handover.wait().code(), Some(0));
    assert_eq!(server.command(&["GET", "n"]).text(), answered.to_string(), "applied and not told");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let server = RedisServer::start();
    let (relay, builder) = behind_a_relay(&server);
    let mut handover = builder.expect_warning("clients were cut").start();
    let mut client = handover.client();
    assert_eq!(client.command(&["GET", "n"]), Value::Null);
    relay.set_mode(Mode::HoldReplies);
    client.send_command(&["INCR", "n"]);
    wait_until(PATIENCE, || server.command(&["GET", "n"]) == Value::bulk("1"));
    handover.signal(Signal::TERM);
    handover.wait_for_log(|line| line.message().starts_with("draining"), PATIENCE);
    client.expect_silence(Duration::from_millis(50));
    handover.signal(Signal::TERM);
    assert_eq!(handover.wait().code(), Some(75));
    client.expect_end();
}

#[test]
fn sighup_takes_weights_and_the_log_level() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let quick = "failover.failback_hold = '100ms'\nhealth.rise = 1\n";
    let mut handover = Handover::builder(&format!("{}{quick}", two(&east, &west)))
        .expect_warning("switched")
        .allow_warning("needs a restart")
        // A probe may be late on a busy machine; the switch is tried again.
        .allow_warning("planned switch called off")
        .start();
    let weight = |name: &str| handover.metric("handover_backend_weight", &[("backend", name)]);
    assert_eq!((weight("east"), weight("west")), (2.0, 1.0));
    let mut client = handover.client();
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));
    let path = handover.configuration_file();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("weight = 2.0"), "{text}");
    std::fs::write(&path, text.replace("weight = 2.0", "weight = 0.5")).unwrap();
    handover.signal(Signal::HUP);
    handover.wait_for_log(|line| line.message() == "configuration reloaded", PATIENCE);
    wait_until(PATIENCE, || handover.metric("handover_backend_active", &[("backend", "west")]) == 1.0);
    handover.expect_metric("handover_backend_weight", &[("backend", "east")], 0.5);
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(1));

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[nonsense]\n")).unwrap();
    handover.expect_warning("was not reloaded");
    handover.signal(Signal::HUP);
    handover.wait_for_log(|line| line.message().contains("was not reloaded"), PATIENCE);
    wait_until(PATIENCE, || handover.metric("handover_config_reload_success", &[]) == 0.0);
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(2));

    std::fs::write(&path, text.replace("format = \"json\"", "format = \"json\"\nlevel = \"error\"")).unwrap();
    handover.signal(Signal::HUP);
    wait_until(PATIENCE, || handover.metric("handover_config_reload_success", &[]) == 1.0);
    let text = std::fs::read_to_string(&path).unwrap();
    for (text, success) in [(format!("{text}\n[nonsense]\n"), 0.0), (text, 1.0)] {
        std::fs::write(&path, text).unwrap();
        handover.signal(Signal::HUP);
        handover.expect_metric("handover_config_reload_success", &[], success);
    }
    assert_eq!(client.command(&["INCR", "n"]), Value::Integer(3));
    // Its whole log: of the last three reloads only the one that changed the level may have said so.
    handover.signal(Signal::TERM);
    assert_eq!(handover.wait().code(), Some(0));
    let told = handover.log().iter().filter(|line| line.message().contains("reloaded")).count();
    assert!(told <= 3, "{told} lines, some of them below the level");
}

#[test]
fn http_tells_the_truth_before_and_after_a_switch() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let handover = Handover::builder(&format!("{}failover.failback = 'never'\n", two(&east, &west)))
        .expect_warning("switched")
        .expect_warning("backend is unhealthy")
        .start();
    let is_up = |name| handover.metric("handover_backend_up", &[("backend", name)]) == 1.0;
    wait_until(PATIENCE, || is_up("east") && is_up("west"));
    let status = || -> serde_json::Value { serde_json::from_str(&handover.http_get("/status").body).expect("JSON") };
    assert_eq!(handover.http_get("/healthz").status, 200);
    handover.expect_ready();
    assert_eq!(handover.http_get("/nothing").status, 404);
    assert_eq!(status()["groups"][0]["active"], "east");
    let mut clients: Vec<RawClient> = (0..5).map(|_| handover.client()).collect();
    for client in &mut clients {
        for _ in 0..20 {
            client.command(&["INCR", "n"]);
        }
        client.command(&["HGET", "n", "f"]);
    }
    wait_until(PATIENCE, || handover.metric("handover_clients", &[]) == 5.0);
    let commands = |result| handover.metric("handover_commands_total", &[("class", "shared"), ("result", result)]);
    wait_until(PATIENCE, || commands("ok") + commands("error") >= 105.0);
    assert_eq!(commands("error"), 5.0);
    assert_eq!(commands("ok"), 100.0, "an error is not a success too");
    let connections = |backend| handover.metric("handover_backend_connections", &[("backend", backend)]);
    wait_until(PATIENCE, || connections("east") >= 1.0);
    east.kill();
    wait_until(PATIENCE, || status()["groups"][0]["active"] == "west");
    for client in &mut clients {
        assert!(matches!(client.command(&["INCR", "n"]), Value::Integer(_)));
    }
    let status = status();
    let group = &status["groups"][0];
    assert_eq!(group["epoch"], 2);
    assert_eq!(group["switches"].as_array().map(Vec::len), Some(2), "{group}");
    assert_eq!(group["backends"][0]["healthy"], false);
    assert_eq!(group["backends"][1]["active"], true);
    handover.expect_metric("handover_epoch", &[], 2.0);
    handover.expect_metric("handover_switches_total", &[("from", "east"), ("to", "west")], 1.0);
    wait_until(PATIENCE, || connections("east") == 0.0 && connections("west") >= 1.0);
    handover.expect_ready();
    clients.clear();
    wait_until(PATIENCE, || handover.metric("handover_clients", &[]) == 0.0);
    wait_until(PATIENCE, || handover.metric("handover_clients_closed_total", &[]) == 5.0);
    handover.expect_metric("handover_clients_accepted_total", &[], 5.0);
    wait_until(PATIENCE, || handover.metric("handover_inflight", &[]) == 0.0);
}

/// The line of a switch has every field, and its counts add up to what was in flight and to what clients were told.
#[test]
fn the_line_of_a_switch_adds_up() {
    const CLIENTS: usize = 20;
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let handover = Handover::builder(&format!("{}failover.failback = 'never'\n", two(&east, &west)))
        .expect_warning("switched")
        .expect_warning("backend is unhealthy")
        .start();
    let is_up = |name| handover.metric("handover_backend_up", &[("backend", name)]) == 1.0;
    wait_until(PATIENCE, || is_up("east") && is_up("west"));
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| handover.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["PING"]), pong()));
    // Sent and unanswered, half of them not to be repeated; then the death.
    east.stop();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_command(&[if index % 2 == 0 { "INCR" } else { "GET" }, "n"]);
    }
    wait_until(PATIENCE, || handover.metric("handover_inflight", &[]) > 0.0);
    east.kill();
    let replies: Vec<Value> = clients.iter_mut().map(RawClient::read_reply).collect();
    let uncertain = replies.iter().filter(|reply| reply.is_error("UNCERTAIN")).count() as u64;
    let line = handover.wait_for_log(|line| line.message() == "switched" && line.field("from") == "east", PATIENCE);
    let count =
        |name: &str| -> u64 { line.field(name).parse().unwrap_or_else(|_| panic!("no field {name} in {}", line.text)) };
    let fates = ["moved", "repeated", "rearmed", "uncertain", "not_applied", "aborted", "gone"];
    assert_eq!(count("in_flight"), fates.into_iter().map(count).sum::<u64>(), "{}", line.text);
    assert_eq!(count("uncertain"), uncertain, "{}", line.text);
    handover.expect_metric("handover_uncertain_total", &[], uncertain as f64);
    assert!(uncertain > 0, "{replies:?}");
    for name in ["group", "to", "reason", "cause"] {
        assert!(!line.field(name).is_empty(), "{name} in {}", line.text);
    }
    assert_eq!(count("epoch"), 2);
    assert!(count("detect_us") + count("switch_us") > 0);
}

#[test]
fn unix_sockets_serve_and_are_served() {
    let server = RedisServer::builder().unix_socket().start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover.sock");
    // What a process that died left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let configuration = format!(
        "listener = [{{ bind = 'unix://{}', mode = 0o600 }}]\nbackend = [{{ name = 'east', url = 'unix://{}' }}]\n",
        path.display(),
        server.socket().display()
    );
    let handover = alone(&configuration).start();
    let mut client = RawClient::connect_unix(&path);
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    assert_eq!(server.command(&["GET", "k"]), Value::bulk("v"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    client.send_command(&["SUBSCRIBE", "c"]);
    client.read_reply();
    assert_eq!(server.command(&["PUBLISH", "c", "x"]).integer(), 1);
    assert_eq!(client.read_reply().elements()[2], Value::bulk("x"));
    assert_eq!(handover.finish(), 0);
}

#[test]
fn ipv6_and_names_with_several_addresses_work() {
    let server = RedisServer::builder().directive("bind 127.0.0.1").start();
    let url = format!("redis://localhost:{}", server.port());
    let configuration =
        format!("listener = [{{ bind = '[::1]:0' }}]\nbackend = [{{ name = 'east', url = '{url}' }}]\n");
    let handover = alone(&configuration).start();
    assert!(matches!(handover.address(), SocketAddr::V6(address) if *address.ip() == Ipv6Addr::LOCALHOST));
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
    let server = RedisServer::builder().directive("bind ::1 127.0.0.1").start();
    let url = format!("redis://[::1]:{}", server.port());
    let handover = alone(&format!("backend = [{{ name = 'east', url = '{url}' }}]\n")).start();
    assert_eq!(handover.client().command(&["INCR", "n"]), Value::Integer(1));
}

#[test]
fn several_workers_serve_as_one() {
    let (mut east, west) = (RedisServer::start(), RedisServer::start());
    let handover =
        Handover::builder(&format!("{}runtime.workers = 2\nfailover.failback = 'never'\n", two(&east, &west)))
            .expect_warning("switched")
            .expect_warning("backend is unhealthy")
            .start();
    wait_until(PATIENCE, || handover.metric("handover_backend_up", &[("backend", "west")]) == 1.0);
    let mut clients: Vec<RawClient> = (0..10).map(|_| handover.client()).collect();
    let ids: std::collections::BTreeSet<i64> =
        clients.iter_mut().map(|client| client.command(&["CLIENT", "ID"]).integer()).collect();
    assert_eq!(ids.len(), 10, "{ids:?}");
    let list = clients[0].command(&["CLIENT", "LIST"]).text();
    assert_eq!(list.lines().count(), 10, "{list}");
    for round in 1..=20 {
        clients.iter_mut().for_each(|client| client.send_command(&["INCR", "n"]));
        let mut replies: Vec<i64> = clients.iter_mut().map(|client| client.read_reply().integer()).collect();
        replies.sort_unstable();
        assert_eq!(replies, ((round - 1) * 10 + 1..=round * 10).collect::<Vec<i64>>());
    }
    let mut subscriber = handover.client();
    subscriber.send_command(&["SUBSCRIBE", "c"]);
    subscriber.read_reply();
    east.kill();
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.command(&["INCR", "m"]), Value::Integer(index as i64 + 1));
    }
    wait_until(PATIENCE, || clients[0].command(&["PUBLISH", "c", "x"]) == Value::Integer(1));
    assert_eq!(subscriber.read_reply().elements()[2], Value::bulk("x"));
    assert_eq!(handover.finish(), 0);
}

#[test]
fn the_backends_own_password_user_and_database_are_used() {
    let server = RedisServer::builder().password("secret").user("proxy on >wonder ~* &* +@all").start();
    for credential in [":secret", "proxy:wonder"] {
        let url = format!("redis://{credential}@{}/3", server.address());
        let handover =
            alone(&format!("backend = [{{ name = 'east', url = '{url}' }}]\n")).allow_warning("password").start();
        let mut client = handover.client();
        let key = credential.replace(':', "");
        assert_eq!(client.command(&["SET", &key, "3"]), Value::ok());
        let mut straight = server.client();
        assert_eq!(straight.command(&["GET", &key]), Value::Null);
        assert_eq!(straight.command(&["SELECT", "3"]), Value::ok());
        assert_eq!(straight.command(&["GET", &key]), Value::bulk("3"));
        // SELECT is absolute, on a lane and on a connection of one's own.
        assert_eq!(client.command(&["SELECT", "0"]), Value::ok());
        assert_eq!(client.command(&["GET", &key]), Value::Null);
        assert_eq!(client.command(&["EVAL", "return redis.call('get', KEYS[1])", "1", &key]), Value::Null);
        assert_eq!(client.command(&["SELECT", "3"]), Value::ok());
        assert_eq!(client.command(&["EVAL", "return redis.call('get', KEYS[1])", "1", &key]), Value::bulk("3"));
        let log: String = handover.log().iter().map(|line| line.text.clone()).collect();
        assert!(!log.contains("secret") && !log.contains("wonder"), "{log}");
    }
}

#[test]
fn a_wrong_password_is_said_and_nobody_is_served() {
    let server = RedisServer::builder().password("secret").start();
    let url = format!("redis://:wrong@{}", server.address());
    let handover = alone(&format!("backend = [{{ name = 'east', url = '{url}' }}]\nfailover.hold = '800ms'\n"))
        .allow_warning("password")
        .allow_warning("unhealthy")
        .allow_warning("no backend is healthy")
        .without_waiting_for_serving()
        .start();
    assert_eq!(handover.http_get("/readyz").status, 503);
    let answer = handover.client().command(&["GET", "k"]);
    assert!(answer.is_error("LOADING"), "{answer:?}");
    wait_until(PATIENCE, || handover.http_get("/status").body.contains("WRONGPASS"));
}

#[test]
fn a_person_with_netcat_is_answered() {
    let server = RedisServer::start();
    let handover = alone(&backend(&server)).start();
    let mut client = handover.client();
    client.send("set greeting \"hello world\"\nget greeting\r\n\r\nMULTI\nget greeting\nexec\nquit\n");
    client.expect("+OK\r\n$11\r\nhello world\r\n+OK\r\n+QUEUED\r\n*1\r\n$11\r\nhello world\r\n+OK\r\n");
    client.expect_end();
}

#[test]
fn clients_beyond_the_limit_are_told_so() {
    let server = RedisServer::start();
    let handover = alone(&format!("{}limits.clients = 3\n", backend(&server))).expect_warning("limits.clients").start();
    let mut clients: Vec<RawClient> = (0..3).map(|_| handover.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["PING"]), pong()));
    let mut late = handover.client();
    late.expect("-ERR max number of clients reached\r\n");
    late.expect_end();
    clients.pop();
    // A place is free once the process has seen the end.
    wait_until(PATIENCE, || {
        let mut client = handover.client();
        client.send("PING\r\n");
        client.read_reply_or_closed() == Some(pong())
    });
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["PING"]), pong()));
    handover.wait_for_log(|line| line.text.contains("limits.clients"), PATIENCE);
}

/// Row 22: without descriptors nothing spins and nobody who is there is hurt; it goes on when there are some again.
#[test]
fn without_descriptors_nothing_spins() {
    let server = RedisServer::start();
    let handover = alone(&backend(&server)).expect_warning("could not be accepted").start();
    let mut served = handover.client();
    assert_eq!(served.command(&["PING"]), pong());
    // Before, so that it is not the state file that finds no descriptor.
    wait_until(PATIENCE, || handover.folder().join("state/state.json").exists());
    let open = std::fs::read_dir(format!("/proc/{}/fd", handover.pid())).unwrap().count();
    let limit = |descriptors: usize| {
        let pid = handover.pid().to_string();
        let limit = format!("--nofile={descriptors}:20000");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    limit(open + 2);
    let waiting: Vec<RawClient> = (0..20).map(|_| handover.client()).collect();
    handover.wait_for_log(|line| line.text.contains("could not be accepted"), PATIENCE);
    let (before, since) = (cpu_ticks(handover.pid()), Instant::now());
    for _ in 0..100 {
        assert_eq!(served.command(&["PING"]), pong());
    }
    std::thread::sleep(Duration::from_millis(500));
    let used = cpu_ticks(handover.pid()) - before;
    let passed = since.elapsed();
    assert!(used < passed.as_millis() as u64 * 6 / 100, "{used} hundredths of a second of work within {passed:?}");
    drop(waiting);
    limit(1_000);
    wait_until(PATIENCE, || {
        let mut client = handover.client();
        client.send("PING\r\n");
        client.read_reply_or_closed() == Some(pong())
    });
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name in brackets").split(' ').collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

/// Row 75: nobody reads the log, or nobody can: the data path does not notice.
#[test]
fn a_log_that_nobody_takes_stops_nothing() {
    for output in ["closed", "blocked"] {
        let server = RedisServer::start();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("handover.sock");
        let path = file(
            folder.path(),
            &format!(
                "admin.http = ''\nlog.level = 'trace'\nlistener = [{{ bind = 'unix://{}' }}]\n{}health.interval = '20ms'\n",
                socket.display(),
                backend(&server)
            ),
        );
        let mut child = Running(
            Command::new("setpriv")
                .args(["--pdeathsig", "KILL", "--", PROGRAM, "run", "-c", &path])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("setpriv is part of util-linux"),
        );
        // Otherwise the pipes stay open, and nobody reads them.
        if output == "closed" {
            drop((child.0.stdout.take(), child.0.stderr.take()));
        }
        wait_until(PATIENCE, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let mut client = RawClient::connect_unix(&socket);
        for number in 1..=500 {
            assert_eq!(client.command(&["INCR", "n"]), Value::Integer(number), "{output}");
            // Lines for the log: protocol errors, closed clients.
            if number % 10 == 0 {
                RawClient::connect_unix(&socket).send("POST / HTTP/1.1\r\n");
            }
        }
        assert!(child.0.try_wait().unwrap().is_none(), "{output}: it ended");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whoever scrapes slowly, or not at all, holds nobody up.
#[test]
fn slow_scrapes_hold_nobody_up() {
    let server = RedisServer::start();
    let http = support::ReservedPort::take();
    let handover = alone(&format!("{}admin.http = '{}'\n", backend(&server), http.address())).start();
    let mut scrapers: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(http.address()).expect("the admin port listens")).collect();
    for scraper in &mut scrapers {
        scraper.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").expect("a few bytes");
    }
    let mut client = handover.client();
    for number in 1..=200 {
        assert_eq!(client.command(&["INCR", "n"]), Value::Integer(number));
    }
    let scraper = &mut scrapers[0];
    scraper.set_read_timeout(Some(PATIENCE)).unwrap();
    scraper.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    scraper.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
}
