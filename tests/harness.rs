//! The harness of the other tests is worth only what it can show of itself.

mod support;

use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{
    Cut, FakeBackend, LogLine, Mode, PATIENCE, RawClient, RedisServer, Relay, ReservedPort, Value, courtesy, encode,
    python, read_value, root, wait_until,
};

/// Long enough that what is not held back would have come.
const SILENCE: Duration = Duration::from_millis(50);

fn pong() -> Value {
    Value::Simple("PONG".to_owned())
}

#[test]
fn every_type_of_resp_is_read_with_its_bytes() {
    let one = || Value::Integer(1);
    let cases: [(&str, Value); 18] = [
        ("+OK\r\n", Value::ok()),
        ("-ERR no\r\n", Value::Error("ERR no".into())),
        (":-7\r\n", Value::Integer(-7)),
        ("$4\r\na\r\nb\r\n", Value::bulk("a\r\nb")),
        ("$0\r\n\r\n", Value::bulk("")),
        ("$-1\r\n", Value::Null),
        ("*-1\r\n", Value::Null),
        ("_\r\n", Value::Null),
        ("*0\r\n", Value::Array(vec![])),
        ("*2\r\n:1\r\n*1\r\n:1\r\n", Value::Array(vec![one(), Value::Array(vec![one()])])),
        (",1.5\r\n", Value::Double("1.5".into())),
        ("#t\r\n", Value::Boolean(true)),
        ("(123456789012345678901234567890\r\n", Value::BigNumber("123456789012345678901234567890".into())),
        ("!5\r\nERR x\r\n", Value::Error("ERR x".into())),
        ("=5\r\ntxt:a\r\n", Value::Verbatim("txt".into(), b"a".to_vec())),
        ("%1\r\n:1\r\n:1\r\n", Value::Map(vec![(one(), one())])),
        (">1\r\n~1\r\n:1\r\n", Value::Push(vec![Value::Set(vec![one()])])),
        ("|1\r\n:1\r\n:1\r\n+OK\r\n", Value::Attribute(vec![(one(), one())], Box::new(Value::ok()))),
    ];
    for (bytes, expected) in cases {
        let mut raw = Vec::new();
        let followed = [bytes.as_bytes(), b"+next\r\n"].concat();
        assert_eq!(read_value(&mut followed.as_slice(), &mut raw).unwrap(), expected, "{bytes:?}");
        assert_eq!(raw, bytes.as_bytes());
    }
}

#[test]
fn what_is_not_resp_is_not_read() {
    for bytes in
        ["\r\n", "OK\r\n", ":x\r\n", "$3\r\nabcde", "$-2\r\n", "*-2\r\n", "#x\r\n", "+a\rb\r\n", "+a", "=3\r\nabc\r\n"]
    {
        assert!(read_value(&mut bytes.as_bytes(), &mut Vec::new()).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_server_answers_and_starts_again_empty_on_its_port() {
    let mut server = RedisServer::start();
    let (port, pid) = (server.port(), server.pid());
    assert_eq!(server.command(&["SET", "key", "value"]), Value::ok());
    assert_eq!(server.command(&["GET", "key"]), Value::bulk("value"));
    server.restart();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(server.command(&["GET", "key"]), Value::Null);
}

#[test]
fn a_killed_server_ends_its_connections_and_refuses_new_ones() {
    let mut server = RedisServer::start();
    let mut client = server.client();
    assert_eq!(client.command(&["PING"]), pong());
    assert!(!client.is_closed());
    server.kill();
    wait_until(PATIENCE, || client.is_closed());
    client.expect_end();
    assert!(TcpStream::connect(server.address()).is_err());
}

#[test]
fn a_stopped_server_is_silent_until_it_goes_on() {
    let mut server = RedisServer::start();
    let mut client = server.client();
    server.stop();
    client.send_command(&["INCR", "counter"]);
    client.expect_silence(SILENCE);
    assert!(!client.is_closed());
    server.cont();
    assert_eq!(client.read_reply().integer(), 1);
}

#[test]
fn passwords_users_sockets_and_directives_reach_the_server() {
    let server = RedisServer::builder()
        .password("secret")
        .user("alice on >wonder ~* &* +@all")
        .unix_socket()
        .directive("maxclients 123")
        .start();
    assert!(RawClient::connect(server.address()).command(&["PING"]).is_error("NOAUTH"));
    assert_eq!(server.command(&["CONFIG", "GET", "maxclients"]).elements()[1], Value::bulk("123"));
    let mut client = RawClient::connect_unix(&server.socket());
    assert_eq!(client.command(&["AUTH", "alice", "wonder"]), Value::ok());
    assert_eq!(client.command(&["ACL", "WHOAMI"]), Value::bulk("alice"));
}

#[test]
fn a_replica_follows_its_master() {
    let master = RedisServer::start();
    let replica = RedisServer::builder().replica_of(master.address()).start();
    assert_eq!(replica.command(&["ROLE"]).elements()[0], Value::bulk("slave"));
    master.command(&["SET", "key", "value"]);
    wait_until(PATIENCE, || replica.command(&["GET", "key"]) == Value::bulk("value"));
    assert!(replica.command(&["SET", "key", "other"]).is_error("READONLY"));
}

#[test]
fn servers_die_with_the_test_process() {
    const CHILD: &str = "HANDOVER_HARNESS_CHILD";
    if let Some(file) = std::env::var_os(CHILD) {
        let server = RedisServer::start();
        std::fs::write(file, server.pid().to_string()).unwrap();
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "servers_die_with_the_test_process", "--nocapture"]).env(CHILD, &file);
    let output = child.output().unwrap();
    assert!(!output.status.success());
    let pid = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    wait_until(PATIENCE, || !Path::new("/proc").join(&pid).exists());
}

#[test]
fn servers_outlive_the_thread_that_started_them() {
    let server = std::thread::spawn(RedisServer::start).join().unwrap();
    assert_eq!(server.command(&["PING"]), pong());
}

#[test]
fn a_reserved_port_refuses_until_somebody_listens() {
    let port = ReservedPort::take();
    assert!(TcpStream::connect(port.address()).is_err());
    let listener = std::net::TcpListener::bind(port.address()).unwrap();
    assert!(TcpStream::connect(port.address()).is_ok());
    drop(listener);
    assert!(TcpStream::connect(port.address()).is_err());
}

#[test]
fn a_client_reads_frames_bytes_and_ends() {
    let server = RedisServer::start();
    let mut client = server.client();
    client.send("*1\r\n$4\r\nPI");
    client.expect_silence(SILENCE);
    client.send("NG\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n");
    client.expect("+PONG\r\n");
    assert_eq!(client.read_reply_raw(), (pong(), b"+PONG\r\n".to_vec()));
    assert_eq!(client.read_bytes(9), b"$3\r\na\r\n\r\n");
    client.send_command(&["QUIT"]);
    client.shut_down_sending();
    assert_eq!(client.read_reply_or_end(), Some(Value::ok()));
    assert_eq!(client.read_reply_or_end(), None);
    client.expect_end();
}

#[test]
fn a_client_notices_what_it_did_not_expect() {
    let server = RedisServer::start();
    let fails = |check: &dyn Fn(&mut RawClient)| {
        let mut client = server.client();
        client.send("PING\r\n");
        assert!(catch_unwind(AssertUnwindSafe(|| check(&mut client))).is_err());
    };
    fails(&|client| client.expect("+PANG\r\n"));
    fails(&|client| client.expect_silence(PATIENCE));
    fails(&|client| {
        client.send("QUIT\r\n");
        client.expect_end();
    });
}

#[test]
fn a_client_stops_sending_when_nothing_is_taken() {
    let mut server = RedisServer::start();
    server.stop();
    let mut client = server.client();
    let flood = vec![b'x'; 64 * 1024 * 1024];
    let sent = client.send_while_taken(&flood, SILENCE);
    assert!(sent > 0 && sent < flood.len(), "{sent}");
}

#[test]
#[should_panic(expected = "did not hold")]
fn waiting_ends() {
    wait_until(Duration::from_millis(5), || false);
}

#[test]
fn a_relay_passes_holds_and_releases_in_order() {
    let server = RedisServer::start();
    let relay = Relay::start(server.address());
    let mut client = RawClient::connect(relay.address());
    assert_eq!(client.command(&["RPUSH", "list", "a"]).integer(), 1);

    relay.set_mode(Mode::HoldReplies);
    client.send_command(&["RPUSH", "list", "b"]);
    wait_until(PATIENCE, || server.command(&["LLEN", "list"]).integer() == 2);
    client.expect_silence(SILENCE);

    relay.set_mode(Mode::HoldRequests);
    assert_eq!(client.read_reply().integer(), 2);
    client.send_command(&["RPUSH", "list", "c"]);
    client.expect_silence(SILENCE);
    assert_eq!(server.command(&["LLEN", "list"]).integer(), 2);

    relay.set_mode(Mode::BlackHole);
    client.send_command(&["RPUSH", "list", "d"]);
    client.expect_silence(SILENCE);
    relay.set_mode(Mode::Pass);
    assert_eq!(client.read_reply().integer(), 3);
    assert_eq!(client.read_reply().integer(), 4);
    assert_eq!(relay.accepted(), 1);
    assert_eq!(relay.reply_bytes(), 4 * ":1\r\n".len() as u64);
    assert_eq!(relay.request_bytes(), 4 * encode(&["RPUSH", "list", "a"]).len() as u64);
}

#[test]
fn a_relay_delays_both_ways_without_limiting_the_rate() {
    const DELAY: Duration = Duration::from_millis(30);
    let server = RedisServer::start();
    let relay = Relay::start(server.address());
    let mut client = RawClient::connect(relay.address());
    relay.set_mode(Mode::Delay(DELAY));
    let start = Instant::now();
    for _ in 0..100 {
        client.send("PING\r\n");
    }
    for _ in 0..100 {
        assert_eq!(client.read_reply(), pong());
    }
    let took = start.elapsed();
    assert!(took >= 2 * DELAY && took < 100 * DELAY, "{took:?}");
}

#[test]
fn a_relay_cuts_at_once_and_takes_new_connections() {
    let server = RedisServer::start();
    let relay = Relay::start(server.address());
    for (how, held) in [(Cut::End, false), (Cut::Reset, false), (Cut::Reset, true)] {
        relay.set_mode(Mode::Pass);
        let mut client = RawClient::connect(relay.address());
        // Only what it has accepted can be cut.
        client.send("PING\r\n");
        client.expect("+PONG\r\n");
        if held {
            relay.set_mode(Mode::BlackHole);
            client.send("PING\r\n");
            client.expect_silence(SILENCE);
        }
        relay.cut(how);
        let mut stream = client.into_tcp();
        let end = std::io::Read::read(&mut stream, &mut [0]);
        match how {
            Cut::End => assert_eq!(end.unwrap(), 0),
            Cut::Reset => assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(relay.accepted(), 3);
}

#[test]
fn a_relay_cuts_after_so_many_bytes_of_replies() {
    let server = RedisServer::start();
    let relay = Relay::start(server.address());
    let mut client = RawClient::connect(relay.address());
    relay.cut_after_reply_bytes(10, Cut::End);
    client.send("PING\r\nPING\r\n");
    assert_eq!(client.read_to_end(), b"+PONG\r\n+PO");
    RawClient::connect(relay.address()).command(&["PING"]);

    // Only where it was asked: others pass.
    let (mut client, mut other) = (RawClient::connect(relay.address()), RawClient::connect(relay.address()));
    relay.cut_replies_to("ECHO", 6, Cut::End);
    (0..10).for_each(|_| assert_eq!(other.command(&["PING"]), pong()));
    client.send("ECHO x\r\n");
    assert_eq!(client.read_to_end(), b"$1\r\nx\r");
    assert_eq!(other.command(&["PING"]), pong());
}

#[test]
fn a_relay_refuses_and_listens_again() {
    let server = RedisServer::start();
    let mut relay = Relay::start(server.address());
    let mut client = RawClient::connect(relay.address());
    assert_eq!(client.command(&["PING"]), pong());
    relay.refuse();
    assert!(TcpStream::connect(relay.address()).is_err());
    assert_eq!(client.command(&["PING"]), pong());
    relay.listen();
    assert_eq!(RawClient::connect(relay.address()).command(&["PING"]), pong());
}

#[test]
fn a_relay_passes_ends_and_large_values_on() {
    let server = RedisServer::start();
    let relay = Relay::start(server.address());
    let mut client = RawClient::connect(relay.address());
    let value = vec![7; 20 * 1024 * 1024];
    assert_eq!(client.command(&[b"SET".as_slice(), b"key", &value]), Value::ok());
    assert!(client.command(&["GET", "key"]) == Value::Bulk(value));
    client.shut_down_sending();
    client.expect_end();
    relay.cut(Cut::End);
}

#[test]
fn a_fake_backend_follows_its_script() {
    let fake = FakeBackend::start(|connection| {
        while let Some(command) = connection.read_command() {
            match courtesy(&command) {
                Some(reply) => connection.write(reply),
                None if command[0] == b"DIE" => return connection.reset(),
                None => connection.write(format!("+{}\r\n+TWO\r\n", connection.number)),
            }
        }
    });
    for number in 0..2 {
        let mut client = RawClient::connect(fake.address());
        assert_eq!(client.command(&["PING"]), pong());
        assert_eq!(client.command(&["ECHO", "x"]), Value::bulk("x"));
        assert_eq!(client.command(&["HELLO", "2"]).elements().len(), 14);
        assert!(matches!(client.command(&["HELLO", "3"]), Value::Map(pairs) if pairs.len() == 7));
        client.send_command(&["GET", "key"]);
        client.expect(format!("+{number}\r\n+TWO\r\n"));
        client.send_command(&["DIE"]);
        let end = std::io::Read::read(&mut client.into_tcp(), &mut [0]);
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(fake.accepted(), 2);
    RawClient::connect(fake.address()).reset();
}

#[test]
fn a_script_that_panics_fails_its_test() {
    let fake = FakeBackend::start(|connection| assert!(connection.read_command().is_none(), "a command came"));
    let mut client = RawClient::connect(fake.address());
    client.send_command(&["PING"]);
    client.expect_end();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(fake))).is_err());
}

#[test]
fn log_lines_are_read_nested_and_flat() {
    for text in [
        r#"{"level":"INFO","fields":{"message":"listening","address":"127.0.0.1:1","attempt":2}}"#,
        r#"{"level":"info","message":"listening","address":"127.0.0.1:1","attempt":2}"#,
    ] {
        let line = LogLine::parse(text);
        assert_eq!((line.message().as_str(), line.level().as_str()), ("listening", "INFO"));
        assert_eq!((line.field("address").as_str(), line.field("attempt").as_str()), ("127.0.0.1:1", "2"));
        assert_eq!(line.field("none"), "");
        assert!(!line.is_warning());
    }
    assert!(LogLine::parse(r#"{"level":"WARN","message":"x"}"#).is_warning());
    assert!(LogLine::parse("thread 'main' panicked").is_warning());
}

#[test]
fn the_redis_py_script_passes_against_redis_itself() {
    let server = RedisServer::start();
    let mut script = Command::new(python());
    script.arg(root().join("tests/python/redis_py.py")).args(["127.0.0.1", &server.port().to_string()]);
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("20 checks passed"));
}
