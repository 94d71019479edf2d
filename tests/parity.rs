//! Backends of a group that are not alike: `check --probe`, the comparison while running, libraries that move along.

mod support;

use std::process::{Command, Output};

use support::{Handover, PATIENCE, RawClient, RedisServer, Value, wait_until};

const QUICK: &str = "failover.initial = 'all'\nhealth.interval = '100ms'\nhealth.standby_interval = '100ms'\n\
    failover.failback = 'never'\n";

fn backends(east: &str, west: &str) -> String {
    format!("backend = [{{ name = 'east', url = '{east}', weight = 2.0 }}, {{ name = 'west', url = '{west}' }}]\n")
}

fn plain(server: &RedisServer) -> String {
    format!("redis://{}", server.address())
}

/// `check --probe` over a configuration with one listener.
fn probe(configuration: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("handover.toml");
    let listener = "listener = [{ bind = '127.0.0.1:0' }]\nfailover.state_file = '/nowhere/state.json'\n";
    // A server that a busy machine lets wait is good all the same.
    let patient = "health.timeout = '5s'\nfailover.hold = '6s'\n";
    std::fs::write(&file, format!("{listener}{patient}{configuration}")).expect("written");
    Command::new(env!("CARGO_BIN_EXE_handover"))
        .args(["check", "--probe", "-c"])
        .arg(&file)
        .output()
        .expect("the program under test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn function(name: &str, value: u32) -> String {
    format!("#!lua name={name}\nredis.register_function('{name}', function() return {value} end)")
}

#[test]
fn backends_that_are_alike_are_good() {
    let durable = || RedisServer::builder().directive("appendonly yes").start();
    let (east, west) = (durable(), durable());
    let found = probe(&backends(&plain(&east), &plain(&west)));
    let (output, errors) = (text(&found.stdout), text(&found.stderr));
    assert_eq!((found.status.code(), errors.as_str()), (Some(0), ""), "{output}");
    assert!(output.contains("    health checks, at most: 14.7 commands/s while active"), "{output}");
    for part in [
        "\nasked, of group default:\n",
        "\n    health check: good\n    redis ",
        ", master; databases 16, maxmemory-policy noeviction, modules none, functions none; append-only file on, replicas 0; connected in ",
        "\n  they are alike\n",
    ] {
        assert!(output.contains(part), "{part:?} is not in\n{output}");
    }
}

#[test]
fn a_replica_is_good_where_one_is_expected() {
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let port = east.address().port().to_string();
    west.command(&["REPLICAOF", "127.0.0.1", &port]);
    let both = backends(&plain(&east), &plain(&west));
    for (replication, status) in [("one-way", 0), ("none", 1)] {
        let found = probe(&format!("{both}group.default.replication = '{replication}'\n"));
        let output = text(&found.stdout);
        assert_eq!(found.status.code(), Some(status), "{output}{}", text(&found.stderr));
        assert_eq!(output.contains("health check: a replica"), status == 0, "{output}");
    }
}

#[test]
fn what_differs_lacks_or_would_be_lost_is_said() {
    let east = RedisServer::builder().user("app on >pw ~* &* +@all -role -function").start();
    let west = RedisServer::builder().directive("databases 4").directive("maxmemory-policy allkeys-lru").start();
    assert!(matches!(west.command(&["FUNCTION", "LOAD", &function("lib", 1)]), Value::Bulk(_)));
    let found = probe(&backends(&format!("redis://app:pw@{}", east.address()), &plain(&west)));
    let (output, errors) = (text(&found.stdout), text(&found.stderr));
    assert_eq!(found.status.code(), Some(0), "{output}{errors}");
    for line in [
        "warning: backend east: its health check is weaker: ROLE refused: NOPERM",
        "warning: backend east: its user may not run ROLE\n",
        "warning: backend east: it has neither an append-only file nor a replica: what it acknowledged is lost with it\n",
        "warning: backend west: it has neither an append-only file nor a replica: what it acknowledged is lost with it\n",
        "warning: group default: backends differ in databases: east: 16; west: 4\n",
        "warning: group default: backends differ in maxmemory-policy: east: noeviction; west: allkeys-lru\n",
        "warning: group default: backends differ in rights: east: without ROLE; west: all that are needed\n",
    ] {
        assert!(errors.contains(line), "{line:?} is not in\n{errors}");
    }
    assert_eq!(errors.lines().count(), 7, "{errors}");
    assert!(output.contains("functions unknown") && output.contains("functions lib"), "{output}");
}

#[test]
fn a_backend_that_cannot_be_asked_is_a_failure() {
    let (mut east, west) = (RedisServer::start(), RedisServer::builder().password("secret").start());
    east.kill();
    let found = probe(&backends(&plain(&east), &plain(&west)));
    let errors = text(&found.stderr);
    assert_eq!(found.status.code(), Some(1), "{errors}");
    assert!(errors.contains("backend east: its health check: cannot connect: "), "{errors}");
    assert!(errors.contains("backend east: cannot be reached: "), "{errors}");
    assert!(errors.contains("backend west: its health check: wrong credentials: NOAUTH"), "{errors}");

    let found = probe("backend = [{ name = 'east', url = 'nonsense' }]\n");
    assert_eq!(found.status.code(), Some(78), "{}", text(&found.stderr));
}

#[test]
fn a_difference_is_told_once_while_running() {
    let (east, west) = (RedisServer::start(), RedisServer::builder().directive("databases 4").start());
    let configuration = format!("{QUICK}parity.interval = '100ms'\n{}", backends(&plain(&east), &plain(&west)));
    let handover = Handover::builder(&configuration)
        .expect_warning("backends differ")
        .expect_warning("maxmemory-policy: east: noeviction; west: allkeys-lru")
        .start();
    let of = |aspect: &str| handover.metric("handover_backend_parity", &[("aspect", aspect)]);
    wait_until(PATIENCE, || handover.http_get("/metrics").body.contains("aspect=\"databases\""));
    wait_until(PATIENCE, || of("databases") == 0.0);
    assert_eq!((of("version"), of("maxmemory-policy"), of("functions")), (1.0, 1.0, 1.0));
    west.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    wait_until(PATIENCE, || of("maxmemory-policy") == 0.0);
    let mut console = RawClient::connect_unix(&handover.console_socket());
    let Value::Array(lines) = console.command(&["SHOW", "west"]) else { panic!("lines") };
    let lines: Vec<String> = lines.iter().map(Value::text).collect();
    assert!(lines.contains(&"differs from others: databases: east: 16; west: 4".to_owned()), "{lines:?}");
    west.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    wait_until(PATIENCE, || of("maxmemory-policy") == 1.0);
    let told = || handover.log().iter().filter(|line| line.message() == "backends differ").count();
    wait_until(PATIENCE, || told() >= 2);
    assert_eq!(told(), 2, "once for each change");
}

#[test]
fn libraries_of_functions_move_along_if_that_is_wanted() {
    for is_wanted in [true, false] {
        let (mut east, west) = (RedisServer::start(), RedisServer::start());
        east.command(&["FUNCTION", "LOAD", &function("missing", 1)]);
        east.command(&["FUNCTION", "LOAD", &function("changed", 2)]);
        west.command(&["FUNCTION", "LOAD", &function("changed", 1)]);
        let configuration = format!(
            "{QUICK}parity = {{ interval = '100ms', load_functions = {is_wanted} }}\n{}",
            backends(&plain(&east), &plain(&west))
        );
        let told = ["backend is unhealthy", "switched", "no backend is healthy"];
        let builder = Handover::builder(&configuration).expect_warning("backends differ");
        let handover = told.into_iter().fold(builder, support::HandoverBuilder::allow_warning).start();
        let metrics = || handover.http_get("/metrics").body;
        wait_until(PATIENCE, || {
            metrics().contains("handover_backend_parity{group=\"default\",aspect=\"functions\"} 0")
        });
        east.kill();
        wait_until(PATIENCE, || handover.metric("handover_backend_active", &[("backend", "west")]) == 1.0);
        let call = |name| west.command(&["FCALL", name, "0"]);
        if is_wanted {
            wait_until(PATIENCE, || call("missing") == Value::Integer(1) && call("changed") == Value::Integer(2));
            let is_told = |line: &support::LogLine| line.message().contains("were loaded on the new active");
            let line = handover.wait_for_log(is_told, PATIENCE);
            assert!(line.field("libraries").contains("missing"), "{line:?}");
        } else {
            assert_eq!(call("changed"), Value::Integer(1));
            assert!(matches!(call("missing"), Value::Error(_)));
        }
    }
}
