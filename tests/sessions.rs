//! What a connection holds: protocol, database, name, identity, pins; and what becomes of it at a switch.

mod support;

use std::time::Duration;

use support::{Handover, PATIENCE, Pair, RawClient, RedisServer, Value, encode, wait_until};

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Each line is answered with the same bytes as by a server directly.
#[track_caller]
fn assert_as_redis(pair: &Pair, protocol: &str, lines: &[&str]) {
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    for client in [&mut direct, &mut proxied] {
        client.command(&["HELLO", protocol]);
    }
    for line in lines {
        direct.send(frame(line));
        proxied.send(frame(line));
        let (_, expected) = direct.read_reply_raw();
        let (_, reply) = proxied.read_reply_raw();
        let context = format!("{line} of {lines:?} in RESP{protocol}");
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{context}");
    }
}

/// The fields of HELLO's reply, in order.
#[track_caller]
fn fields(reply: &Value) -> Vec<(String, Value)> {
    match reply {
        Value::Map(pairs) => pairs.iter().map(|(name, value)| (name.text(), value.clone())).collect(),
        Value::Array(flat) => flat.chunks(2).map(|pair| (pair[0].text(), pair[1].clone())).collect(),
        other => panic!("not a greeting: {other:?}"),
    }
}

/// One field of a line of CLIENT INFO or LIST.
#[track_caller]
fn attribute(line: &str, name: &str) -> String {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
}

#[test]
fn hello_greets_with_the_fields_of_redis_and_what_is_handovers() {
    let pair = Pair::start();
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    let id = proxied.command(&["CLIENT", "ID"]);
    for command in [&["HELLO"][..], &["HELLO", "3"], &["HELLO"], &["HELLO", "2"], &["HELLO", "2"]] {
        let (expected, reply) = (direct.command(command), proxied.command(command));
        let (expected, reply) = (fields(&expected), fields(&reply));
        for ((name, value), (expected_name, expected_value)) in reply.iter().zip(&expected) {
            assert_eq!(name, expected_name);
            assert_eq!(value, if name == "id" { &id } else { expected_value }, "{name} of {command:?}");
        }
        assert_eq!(reply.len(), expected.len());
    }
}

#[test]
fn hello_refuses_what_redis_refuses_and_then_changes_nothing() {
    let pair = Pair::start();
    let lines = [
        "HELLO 4",
        "HELLO 1",
        "HELLO x",
        "HELLO 3 NOSUCHOPTION",
        "HELLO 3 SETNAME",
        "HELLO 3 AUTH default",
        "HELLO 3 AUTH nobody x",
        "CLIENT GETNAME",
        "HGETALL none",
    ];
    assert_as_redis(&pair, "2", &lines);
    let mut client = pair.client();
    for line in ["HELLO 3 AUTH nobody x SETNAME me", "HELLO 3 SETNAME me AUTH nobody x", "HELLO 9 SETNAME me"] {
        assert!(matches!(client.command(&words(line)), Value::Error(_)), "{line}");
        assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::Null, "{line}");
        client.send(frame("GET none"));
        client.expect("$-1\r\n");
    }
    assert!(client.command(&["HELLO", "3", "SETNAME", "two words"]).is_error("ERR"));
    assert!(matches!(client.command(&["HELLO", "3", "AUTH", "default", "any", "SETNAME", "me"]), Value::Map(_)));
    assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::bulk("me"));
}

#[test]
fn resp3_is_spoken_from_hello_on_and_left_again() {
    let pair = Pair::start();
    let mut client = pair.client();
    client.send(
        [frame("HSET h a 1"), frame("HGETALL h"), frame("HELLO 3"), frame("HGETALL h"), frame("HELLO 2")].concat(),
    );
    client.send([frame("HGETALL h"), frame("GET none")].concat());
    assert_eq!(client.read_reply(), Value::Integer(1));
    client.expect("*2\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert!(matches!(client.read_reply(), Value::Map(_)));
    client.expect("%1\r\n$1\r\na\r\n$1\r\n1\r\n");
    assert!(matches!(client.read_reply(), Value::Array(_)));
    client.expect("*2\r\n$1\r\na\r\n$1\r\n1\r\n$-1\r\n");
}

#[test]
fn databases_of_clients_are_apart() {
    let pair = Pair::start();
    let mut clients: Vec<RawClient> = (0..16).map(|_| pair.client()).collect();
    for (database, client) in clients.iter_mut().enumerate() {
        let database = database.to_string();
        client.send([encode(&["SELECT", &database]), encode(&["SET", "k", &database]), frame("GET k")].concat());
    }
    for (database, client) in clients.iter_mut().enumerate() {
        client.expect("+OK\r\n+OK\r\n");
        assert_eq!(client.read_reply(), Value::bulk(database.to_string()));
    }
    for (database, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.command(&["GET", "k"]), Value::bulk(database.to_string()));
        let mut direct = pair.east.client();
        direct.command(&["SELECT", &database.to_string()]);
        assert_eq!(direct.command(&["GET", "k"]), Value::bulk(database.to_string()));
    }
    let errors =
        ["SELECT", "SELECT 1 2", "SELECT x", "SELECT -1", "SELECT 16", "SELECT 99999999999999999999", "GET none"];
    assert_as_redis(&pair, "2", &errors);
    assert_as_redis(&pair, "3", &["SELECT 3", "SELECT 16", "SET a 1", "SELECT 0", "GET a", "SELECT 3", "GET a"]);
}

#[test]
fn a_database_of_a_pinned_session_follows_it_back_to_the_lane() {
    let pair = Pair::start();
    let mut client = pair.client();
    let lines = ["EVAL return(1) 0", "SELECT 5", "SET k 5", "EVAL return(redis.call('GET','k')) 0"];
    client.send(lines.map(frame).concat());
    client.expect(":1\r\n+OK\r\n+OK\r\n$1\r\n5\r\n");
    pair.wait_for_sessions("pinned", 0);
    assert_eq!(client.command(&["GET", "k"]), Value::bulk("5"));
    // The next who takes a pin does not find it in database 5.
    let mut other = pair.client();
    assert_eq!(other.command(&["EVAL", "return redis.call('GET','k')", "0"]), Value::Null);
    assert_eq!(pair.client().command(&["GET", "k"]), Value::Null);
}

#[test]
fn database_protocol_name_and_library_survive_a_fault_and_a_planned_switch() {
    let mut pair = Pair::builder().returning().start();
    for server in [&pair.east, &pair.west] {
        let mut client = server.client();
        client.command(&["SELECT", "7"]);
        client.command(&["HSET", "h", "a", "1"]);
    }
    let mut client = pair.client();
    for line in ["HELLO 3 SETNAME me", "SELECT 7", "CLIENT SETINFO LIB-NAME lib", "CLIENT SETINFO LIB-VER 1.2"] {
        assert!(!matches!(client.command(&words(line)), Value::Error(_)), "{line}");
    }
    let id = client.command(&["CLIENT", "ID"]);
    let check = |client: &mut RawClient| {
        client.send(frame("HGETALL h"));
        client.expect("%1\r\n$1\r\na\r\n$1\r\n1\r\n");
        client.send(frame("EVAL return(redis.call('HGET','h','a')) 0"));
        client.expect("$1\r\n1\r\n");
        assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::bulk("me"));
        assert_eq!(client.command(&["CLIENT", "ID"]), id);
        let line = client.command(&["CLIENT", "INFO"]).text();
        for (name, value) in [("db", "7"), ("lib-name", "lib"), ("lib-ver", "1.2"), ("resp", "3")] {
            assert_eq!(attribute(&line, name), value);
        }
    };
    check(&mut client);
    pair.fail_over();
    check(&mut client);
    pair.fail_back();
    check(&mut client);
}

#[test]
fn clients_are_told_apart_over_all_workers() {
    let pair = Pair::builder().configuration("[runtime]\nworkers = 2").start();
    let mut clients: Vec<RawClient> = (0..6).map(|_| pair.client()).collect();
    let mut ids = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.command(&["CLIENT", "SETNAME", &format!("client-{number}")]), Value::ok());
        assert_eq!(client.command(&["CLIENT", "SETINFO", "lib-name", "tester"]), Value::ok());
        ids.push(client.command(&["CLIENT", "ID"]).integer());
    }
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 6);
    let list = clients[3].command(&["CLIENT", "LIST"]).text();
    assert_eq!(list.lines().count(), 6);
    for (number, client) in clients.iter_mut().enumerate() {
        let line = list.lines().find(|line| attribute(line, "id") == ids[number].to_string()).expect("a line each");
        assert_eq!(attribute(line, "name"), format!("client-{number}"));
        assert_eq!(attribute(line, "addr"), client.local_address().to_string());
        assert_eq!(attribute(line, "laddr"), pair.handover.address().to_string());
        assert_eq!(attribute(line, "lib-name"), "tester");
        let info = client.command(&["CLIENT", "INFO"]).text();
        assert_eq!(attribute(&info, "id"), ids[number].to_string());
        assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::bulk(format!("client-{number}")));
    }
    drop(clients);
    let mut last = pair.client();
    wait_until(PATIENCE, || last.command(&["CLIENT", "LIST"]).text().lines().count() == 1);
}

#[test]
fn client_commands_are_answered_as_redis_does() {
    let pair = Pair::start();
    let lines = [
        "CLIENT GETNAME",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "CLIENT SETNAME",
        "CLIENT ID x",
        "CLIENT GETREDIR",
        "CLIENT TRACKINGINFO",
        "CLIENT NO-EVICT on",
        "CLIENT NO-EVICT off",
        "CLIENT NO-EVICT x",
        "CLIENT",
        "CLIENT NOSUCH",
        "CLIENT INFO x",
    ];
    for protocol in ["2", "3"] {
        assert_as_redis(&pair, protocol, &lines);
    }
    let mut client = pair.client();
    assert!(client.command(&["CLIENT", "SETNAME", "two words"]).is_error("ERR"));
    assert_eq!(client.command(&["CLIENT", "SETNAME", "me"]), Value::ok());
    assert_eq!(client.command(&["CLIENT", "SETNAME", ""]), Value::ok());
    assert_eq!(client.command(&["CLIENT", "GETNAME"]), Value::Null);
    assert!(client.command(&["CLIENT", "SETINFO", "lib-name", "two words"]).is_error("ERR"));
    assert!(client.command(&["CLIENT", "SETINFO", "nosuch", "x"]).is_error("ERR"));
}

#[test]
fn ping_auth_and_cluster_commands_are_answered_as_redis_does() {
    let pair = Pair::start();
    let lines = [
        "PING",
        "PING hello",
        "PING a b",
        "ECHO x",
        "ECHO",
        "AUTH x",
        "AUTH default x",
        "AUTH nobody x",
        "AUTH",
        "AUTH a b c",
        "ACL WHOAMI",
        "CLUSTER INFO",
        "CLUSTER SLOTS",
        "ASKING",
        "READONLY",
        "READWRITE",
        "ping",
        "PiNg X",
    ];
    for protocol in ["2", "3"] {
        assert_as_redis(&pair, protocol, &lines);
    }
}

#[test]
fn reset_forgets_everything_and_quit_ends_the_connection() {
    let pair = Pair::start();
    let mut client = pair.client();
    for line in ["HELLO 3 SETNAME me", "SELECT 5", "SET k 5", "SUBSCRIBE c", "WATCH k", "MULTI", "SET k 6"] {
        assert!(!matches!(client.command(&words(line)), Value::Error(_)), "{line}");
    }
    client.send([frame("RESET"), frame("GET k"), frame("CLIENT GETNAME"), frame("EXEC")].concat());
    client.expect("+RESET\r\n$-1\r\n$-1\r\n-ERR EXEC without MULTI\r\n");
    wait_until(PATIENCE, || pair.east.command(&["PUBSUB", "CHANNELS"]) == Value::Array(vec![]));
    client.send([frame("SET a 1"), frame("QUIT"), frame("SET a 2")].concat());
    client.expect("+OK\r\n+OK\r\n");
    client.expect_end();
    assert_eq!(pair.east.command(&["GET", "a"]), Value::bulk("1"));
}

#[test]
fn replies_to_what_handover_answers_itself_wait_their_turn() {
    let pair = Pair::start();
    let mut client = pair.client();
    for _ in 0..50 {
        let lines = ["SET k v", "PING", "GET k", "CLIENT GETNAME", "STRLEN k", "ECHO x", "PING y", "EXEC", "DEL k"];
        client.send(lines.map(frame).concat());
        client
            .expect("+OK\r\n+PONG\r\n$1\r\nv\r\n$-1\r\n:1\r\n$1\r\nx\r\n$1\r\ny\r\n-ERR EXEC without MULTI\r\n:1\r\n");
    }
}

#[test]
fn scripts_and_functions_work_on_pins() {
    let pair = Pair::start();
    let library =
        "#!lua name=lib\nredis.register_function('f',function(keys,args) return redis.call('SET',keys[1],args[1]) end)";
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    let sha = "a42059b356c875f0717db19a51f6aaca9ae659ea";
    let commands: &[&[&str]] = &[
        &["EVALSHA", sha, "0"],
        &["SCRIPT", "LOAD", "return {KEYS[1],ARGV[1]}"],
        &["SCRIPT", "EXISTS", sha],
        &["EVAL", "return {1,2,{3,'x'},false,redis.error_reply('ERR own'),redis.status_reply('fine')}", "0"],
        &["EVAL", "return redis.call('SET',KEYS[1],ARGV[1])", "1", "k", "v"],
        &["EVAL_RO", "return redis.call('GET','k')", "0"],
        &["EVAL", "this is no lua", "0"],
        &["EVAL", "return redis.call('NOSUCH')", "0"],
        &["EVAL", "x"],
        &["FUNCTION", "LOAD", library],
        &["FUNCTION", "LOAD", library],
        &["FCALL", "f", "1", "k", "w"],
        &["FCALL", "nosuch", "0"],
        &["GET", "k"],
        &["FUNCTION", "DELETE", "lib"],
        &["SCRIPT", "FLUSH"],
        &["SCRIPT", "NOSUCH"],
    ];
    for command in commands {
        direct.send_command(command);
        proxied.send_command(command);
        let (_, expected) = direct.read_reply_raw();
        let (_, reply) = proxied.read_reply_raw();
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{command:?}");
    }
}

#[test]
fn a_script_that_answers_twice_harms_nobody_else() {
    let pair = Pair::start();
    let mut others: Vec<RawClient> = (0..4).map(|_| pair.client()).collect();
    let mut rogue = pair.client();
    for round in 0..5 {
        rogue.send(encode(&["EVAL", "#!lua flags=\"a\\r\\n+INJECTED\"\nreturn 1", "0"]));
        for (number, other) in others.iter_mut().enumerate() {
            let value = format!("{round}:{number}");
            assert_eq!(other.command(&["SET", &value, &value]), Value::ok());
            assert_eq!(other.command(&["GET", &value]), Value::bulk(&value));
            assert_eq!(other.command(&["EVAL", "return ARGV[1]", "0", &value]), Value::bulk(&value));
        }
        // Whatever it reads, the connection ends or goes on in step.
        drop(std::mem::replace(&mut rogue, pair.client()));
    }
}

#[test]
fn administration_goes_to_the_active() {
    let pair = Pair::start();
    let mut client = pair.client();
    assert_eq!(client.command(&["CONFIG", "GET", "port"]).elements()[1], Value::bulk(pair.east.port().to_string()));
    assert_eq!(client.command(&["CONFIG", "SET", "maxmemory-samples", "7"]), Value::ok());
    assert_eq!(pair.east.command(&["CONFIG", "GET", "maxmemory-samples"]).elements()[1], Value::bulk("7"));
    assert_eq!(client.command(&["ACL", "WHOAMI"]), Value::bulk("default"));
    assert!(client.command(&["ACL", "LIST"]).elements()[0].text().starts_with("user default"));
    assert_eq!(client.command(&["SLOWLOG", "LEN"]), pair.east.command(&["SLOWLOG", "LEN"]));
    assert!(client.command(&["MEMORY", "USAGE", "none"]) == Value::Null);
    assert!(client.command(&["INFO", "server"]).text().contains(&format!("tcp_port:{}", pair.east.port())));
    assert_eq!(client.command(&["DBSIZE"]), pair.east.command(&["DBSIZE"]));
}

#[test]
fn monitor_shows_what_the_active_does_until_quit() {
    let pair = Pair::start();
    let (mut monitor, mut other) = (pair.client(), pair.client());
    assert_eq!(monitor.command(&["MONITOR"]), Value::ok());
    assert_eq!(other.command(&["SET", "seen", "1"]), Value::ok());
    wait_until(PATIENCE, || monitor.read_reply().text().contains("\"SET\" \"seen\" \"1\""));
    monitor.send(frame("QUIT"));
    assert!(monitor.read_to_end().ends_with(b"+OK\r\n"));
}

#[test]
fn monitor_goes_on_after_a_fault_and_after_a_planned_switch() {
    let mut pair = Pair::builder().returning().start();
    let (mut monitor, mut other) = (pair.client(), pair.client());
    assert_eq!(monitor.command(&["MONITOR"]), Value::ok());
    for (number, switch) in [|_: &mut Pair| {}, Pair::fail_over, Pair::fail_back].into_iter().enumerate() {
        switch(&mut pair);
        let server = if number == 1 { &pair.west } else { &pair.east };
        wait_until(PATIENCE, || server.command(&["CLIENT", "LIST"]).text().contains("flags=O"));
        let key = format!("seen:{number}");
        assert_eq!(other.command(&["SET", &key, "1"]), Value::ok());
        let line = format!("\"SET\" \"{key}\" \"1\"");
        wait_until(PATIENCE, || {
            let shown = monitor.read_reply().text();
            assert_ne!(shown, "OK", "a reply that was not asked for");
            shown.contains(&line)
        });
    }
}

#[test]
fn what_a_proxy_cannot_let_through_is_refused_by_name() {
    let pair = Pair::start();
    let mut client = pair.client();
    for line in [
        "SHUTDOWN",
        "DEBUG SLEEP 0",
        "MODULE LIST",
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF x y",
        "REPLICAOF NO ONE",
        "SLAVEOF NO ONE",
        "FAILOVER",
        "SCRIPT DEBUG YES",
        "MIGRATE h 1 k 0 1",
        "SWAPDB 0 1",
    ] {
        let answer = client.command(&words(line)).text();
        let first = line.split(' ').next().expect("a word").to_lowercase();
        assert!(answer.starts_with(&format!("ERR handover: command '{first}")), "{line}: {answer}");
        assert!(answer.ends_with("is refused by the proxy"), "{line}: {answer}");
    }
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
}

#[test]
fn the_operators_lists_are_obeyed() {
    let pair = Pair::builder().configuration("[commands]\ndeny = [\"@dangerous\", \"getdel\"]").start();
    let mut client = pair.client();
    for line in ["KEYS *", "GETDEL k", "FLUSHALL", "CONFIG GET x"] {
        assert!(client.command(&words(line)).is_error("NOPERM"), "{line}");
    }
    client.send([frame("MULTI"), frame("SET a 1"), frame("KEYS *"), frame("EXEC")].concat());
    client.expect("+OK\r\n+QUEUED\r\n");
    assert!(matches!(client.read_reply(), Value::Error(_)));
    assert!(client.read_reply().is_error("EXECABORT"));
    assert_eq!(client.command(&["GET", "a"]), Value::Null);
}

#[test]
fn http_and_tls_on_the_port_are_closed_without_a_reply() {
    let pair = Pair::start();
    pair.handover.expect_warning("a client that speaks HTTP or TLS was closed");
    for bytes in [&b"POST / HTTP/1.1\r\n"[..], b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"\x16\x03\x01\x02\x00\x01"] {
        let mut client = pair.client();
        client.send(bytes);
        client.expect_end();
    }
}

/// A Handover with one multiplexed listener and one that gives each client a connection of its own.
fn dedicated() -> Pair {
    let listeners =
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"dedicated\"";
    Pair::builder().configuration(listeners).returning().start()
}

fn dedicated_client(handover: &Handover) -> RawClient {
    RawClient::connect(handover.addresses()[1])
}

#[test]
fn a_dedicated_client_has_a_connection_of_its_own() {
    let pair = dedicated();
    let mut client = dedicated_client(&pair.handover);
    let (mut direct, mut multiplexed) = (pair.west.client(), pair.client());
    for line in [
        "SET k v",
        "GET k",
        "SELECT 2",
        "GET k",
        "SELECT 99",
        "SET k 2",
        "WAIT 0 10",
        "MULTI",
        "INCR k",
        "EXEC",
        "WATCH k",
        "MULTI",
        "DISCARD",
        "EVAL return(1) 0",
        "LPUSH l x",
        "BLPOP l 0",
        "HELLO 3",
        "HGETALL none",
        "SET h x",
        "HELLO 2",
        "CLIENT TRACKING ON",
        "CLIENT TRACKING OFF",
        "GET k",
        "PING",
        "NOSUCH",
        "SELECT 0",
        "GET k",
    ] {
        if line.starts_with("HELLO") {
            assert_eq!(fields(&client.command(&words(line))).len(), 7);
            direct.command(&words(line));
            continue;
        }
        direct.send(frame(line));
        client.send(frame(line));
        let (_, expected) = direct.read_reply_raw();
        let (_, reply) = client.read_reply_raw();
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{line}");
    }
    // Two clients, two connections: what one leaves on its own does not concern the other.
    let mut other = dedicated_client(&pair.handover);
    assert_eq!(other.command(&["SELECT", "4"]), Value::ok());
    assert_eq!(other.command(&["SET", "k", "four"]), Value::ok());
    assert_eq!(client.command(&["GET", "k"]), Value::bulk("v"));
    assert_eq!(multiplexed.command(&["GET", "k"]), Value::bulk("v"));
}

#[test]
fn a_dedicated_client_is_carried_across_switches() {
    let mut pair = dedicated();
    let mut client = dedicated_client(&pair.handover);
    let mut blocked = dedicated_client(&pair.handover);
    let mut subscriber = dedicated_client(&pair.handover);
    let mut queuing = dedicated_client(&pair.handover);
    assert_eq!(client.command(&["SELECT", "3"]), Value::ok());
    assert!(matches!(client.command(&["HELLO", "3"]), Value::Map(_)));
    assert_eq!(client.command(&["SET", "where", "east"]), Value::ok());
    blocked.send(frame("BLPOP list 0"));
    subscriber.send(frame("SUBSCRIBE c"));
    subscriber.read_reply();
    assert_eq!(queuing.command(&["MULTI"]), Value::ok());
    assert_eq!(queuing.command(&["SET", "a", "1"]), Value::Simple("QUEUED".to_owned()));
    pair.wait_for_sessions("blocked", 1);
    pair.fail_over();
    client.send(frame("GET where"));
    client.expect("_\r\n");
    assert_eq!(client.command(&["SET", "where", "west"]), Value::ok());
    let mut direct = pair.west.client();
    direct.command(&["SELECT", "3"]);
    assert_eq!(direct.command(&["GET", "where"]), Value::bulk("west"));
    wait_until(PATIENCE, || direct.command(&["PUBLISH", "c", "x"]) == Value::Integer(1));
    assert_eq!(subscriber.read_reply().elements()[2], Value::bulk("x"));
    pair.west.command(&["RPUSH", "list", "e"]);
    assert_eq!(blocked.read_reply().elements()[1], Value::bulk("e"));
    assert_eq!(queuing.command(&["EXEC"]), Value::Array(vec![Value::ok()]));
    assert_eq!(pair.west.command(&["GET", "a"]), Value::bulk("1"));
    pair.fail_back();
    assert_eq!(client.command(&["GET", "where"]), Value::bulk("east"));
}

#[test]
fn two_workers_serve_and_switch_alike() {
    let mut pair = Pair::builder().configuration("[runtime]\nworkers = 2").returning().start();
    let mut clients: Vec<RawClient> = (0..8).map(|_| pair.client()).collect();
    let check = |clients: &mut [RawClient], server: &RedisServer, expected: i64| {
        for client in clients.iter_mut() {
            client.send([frame("INCR n"), frame("EVAL return(redis.call('INCR','m')) 0")].concat());
            assert!(matches!((client.read_reply(), client.read_reply()), (Value::Integer(_), Value::Integer(_))));
        }
        assert_eq!(server.command(&["GET", "n"]), Value::bulk(expected.to_string()));
        assert_eq!(server.command(&["GET", "m"]), Value::bulk(expected.to_string()));
    };
    check(&mut clients, &pair.east, 8);
    pair.fail_over();
    check(&mut clients, &pair.west, 8);
    pair.fail_back();
    check(&mut clients, &pair.east, 16);
}

#[test]
fn an_idle_client_of_an_idle_time_keeps_its_session() {
    let pair = Pair::start();
    let mut client = pair.client();
    client.command(&["SELECT", "9"]);
    assert_eq!(client.command(&["EVAL", "return 1", "0"]), Value::Integer(1));
    // Longer than a pin is kept without state.
    pair.wait_for_sessions("pinned", 0);
    client.expect_silence(Duration::from_millis(20));
    assert_eq!(client.command(&["SET", "k", "nine"]), Value::ok());
    let mut direct = pair.east.client();
    direct.command(&["SELECT", "9"]);
    assert_eq!(direct.command(&["GET", "k"]), Value::bulk("nine"));
}

/// While a script runs without an end, the server answers only what ends it: that gets through, also for a client that
/// has no connection of its own yet.
#[test]
fn a_script_without_an_end_is_killed_through_handover() {
    let server = RedisServer::start();
    let configuration = format!("backend = [{{ name = 'east', url = 'redis://{}' }}]\n", server.address());
    let handover = Handover::builder(&configuration)
        .allow_warning("nothing to hand over to")
        .allow_warning("the health check tells less")
        .start();
    let (mut looping, mut operator) = (handover.client(), handover.client());
    assert_eq!(operator.command(&["CONFIG", "SET", "lua-time-limit", "50"]), Value::ok());
    for name in ["SCRIPT", "FUNCTION"] {
        match name {
            "SCRIPT" => looping.send_command(&["EVAL", "while true do end", "0"]),
            _ => {
                let body = "#!lua name=x\nredis.register_function('f', function() while true do end end)";
                assert_eq!(operator.command(&["FUNCTION", "LOAD", body]), Value::bulk("x"));
                looping.send_command(&["FCALL", "f", "0"]);
            }
        }
        wait_until(PATIENCE, || handover.client().command(&["GET", "k"]).is_error("BUSY"));
        let mut operator = handover.client();
        assert_eq!(operator.command(&[name, "KILL"]), Value::ok());
        assert!(looping.read_reply().text().contains("killed"), "the script was ended");
        assert_eq!(operator.command(&["SET", "k", name]), Value::ok());
    }
    handover.expect_metric("handover_sentinel_mismatch_total", &[], 0.0);
}
