//! Clients that others wrote: redis-rs, redis-py, redis-cli and redis-benchmark find a Redis.

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use redis::{AsyncCommands, Commands, Connection, RedisResult};
use support::{PATIENCE, Pair, Process, RedisServer, Value, python, wait_until};

fn url(pair: &Pair, protocol: u8) -> String {
    format!("redis://{}/?protocol=resp{protocol}", pair.handover.address())
}

fn connect(pair: &Pair, protocol: u8) -> Connection {
    let client = redis::Client::open(url(pair, protocol)).expect("a URL");
    let connection = client.get_connection_with_timeout(PATIENCE).expect("Handover listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a positive bound");
    connection
}

/// Runs a program to its end.
#[track_caller]
fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("a child can be waited for");
    writer.join().expect("the writer does not panic").expect("the program reads its input");
    assert!(output.status.success(), "{program:?} {arguments:?}: {output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn cli(pair: &Pair, arguments: &[&str], input: &str) -> String {
    let port = pair.handover.port().to_string();
    text(&run(Path::new("redis-cli"), &[&["-p", &port], arguments].concat(), input.as_bytes()))
}

#[test]
fn redis_rs_speaks_both_protocols() {
    let pair = Pair::start();
    for protocol in [2, 3] {
        let mut connection = connect(&pair, protocol);
        connection.set::<_, _, ()>("k", "v").unwrap();
        assert_eq!(connection.get::<_, String>("k").unwrap(), "v");
        let (first, second): (i64, String) =
            redis::pipe().incr("n", 1).set("a", "b").ignore().get("a").query(&mut connection).unwrap();
        assert_eq!((first, second.as_str()), (i64::from(protocol) - 1, "b"));
        let (count,): (i64,) = redis::pipe().atomic().incr("t", 1).query(&mut connection).unwrap();
        assert_eq!(count, i64::from(protocol) - 1);
        let changed: (String,) = redis::transaction(&mut connection, &["k"], |connection, pipeline| {
            let old: String = connection.get("k")?;
            pipeline.set("k", old + "!").ignore().get("k").query(connection)
        })
        .unwrap();
        assert_eq!(changed.0, "v!");
        let script = redis::Script::new("return redis.call('STRLEN', KEYS[1])");
        assert_eq!(script.key("k").invoke::<i64>(&mut connection).unwrap(), 2);
        connection.hset::<_, _, _, ()>("h", "f", 1).unwrap();
        let fields: std::collections::HashMap<String, i64> = connection.hgetall("h").unwrap();
        assert_eq!(fields["f"], 1);
        let wrong: RedisResult<i64> = connection.incr("k", 1);
        assert!(wrong.unwrap_err().to_string().contains("not an integer"));
        connection.rpush::<_, _, ()>("l", "x").unwrap();
        assert_eq!(connection.blpop::<_, (String, String)>("l", 0.0).unwrap().1, "x");
    }
}

#[test]
fn redis_rs_publishes_and_subscribes_across_a_fault() {
    let mut pair = Pair::start();
    let (mut publisher, mut subscriber) = (connect(&pair, 2), connect(&pair, 2));
    let mut pubsub = subscriber.as_pubsub();
    pubsub.subscribe("news").unwrap();
    pubsub.psubscribe("ne*").unwrap();
    assert_eq!(publisher.publish::<_, _, i64>("news", "one").unwrap(), 2);
    for _ in 0..2 {
        assert_eq!(pubsub.get_message().unwrap().get_payload::<String>().unwrap(), "one");
    }
    pair.fail_over();
    wait_until(PATIENCE, || pair.west.command(&["PUBSUB", "NUMSUB", "news"]).elements()[1] == Value::Integer(1));
    wait_until(PATIENCE, || pair.west.command(&["PUBSUB", "NUMPAT"]) == Value::Integer(1));
    wait_until(PATIENCE, || pair.handover.metric("handover_subscriptions", &[("state", "confirmed")]) == 2.0);
    assert_eq!(publisher.publish::<_, _, i64>("news", "two").unwrap(), 2);
    for _ in 0..2 {
        assert_eq!(pubsub.get_message().unwrap().get_payload::<String>().unwrap(), "two");
    }
}

#[test]
fn redis_rs_multiplexes_over_tokio_across_a_fault() {
    let mut pair = Pair::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for protocol in [2, 3] {
        let client = redis::Client::open(url(&pair, protocol)).expect("a URL");
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE));
        let connection =
            runtime.block_on(client.get_multiplexed_async_connection_with_config(&config)).expect("Handover listens");
        let both = |connection: redis::aio::MultiplexedConnection, start: usize| async move {
            let mut tasks = tokio::task::JoinSet::new();
            for number in start..start + 100 {
                let mut connection = connection.clone();
                tasks.spawn(async move {
                    let key = format!("k{number}");
                    connection.set::<_, _, ()>(&key, number).await?;
                    let (found, count): (usize, i64) =
                        redis::pipe().atomic().get(&key).incr("n", 1).query_async(&mut connection).await?;
                    assert!(found == number && count > 0);
                    RedisResult::Ok(())
                });
            }
            while let Some(outcome) = tasks.join_next().await {
                outcome.expect("no task panics").expect("no command fails");
            }
        };
        runtime.block_on(both(connection.clone(), 0));
        if protocol == 2 {
            pair.fail_over();
        }
        runtime.block_on(both(connection, 1000));
    }
}

#[test]
fn redis_rs_gets_pushes_of_resp3() {
    let pair = Pair::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (sender, pushes) = channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(move |push| sender.send(push));
    let client = redis::Client::open(url(&pair, 3)).expect("a URL");
    let mut connection =
        runtime.block_on(client.get_multiplexed_async_connection_with_config(&config)).expect("Handover listens");
    runtime.block_on(connection.subscribe("news")).expect("a subscription");
    assert_eq!(pushes.recv_timeout(PATIENCE).expect("a confirmation").kind, redis::PushKind::Subscribe);
    let heard: i64 = runtime.block_on(connection.publish("news", "hello")).expect("a count");
    assert_eq!(heard, 1);
    let message = pushes.recv_timeout(PATIENCE).expect("a message");
    assert_eq!(message.kind, redis::PushKind::Message);
    let data = ["news", "hello"].map(|word| redis::Value::BulkString(word.into()));
    assert_eq!(message.data, data);
    runtime.block_on(connection.set::<_, _, ()>("k", "v")).expect("an OK");
}

#[test]
fn redis_cli_works_interactively() {
    let pair = Pair::start();
    let input = "SET k v\nGET k\nSELECT 3\nGET k\nSELECT 0\nMULTI\nINCR n\nEXEC\nHSET h f v\nHGETALL h\nEVAL 'return 7' 0\nNOSUCH\n";
    let output = cli(&pair, &[], input);
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    let unknown = "ERR unknown command 'NOSUCH', with args beginning with: ";
    assert_eq!(lines, ["OK", "v", "OK", "OK", "OK", "QUEUED", "1", "1", "f", "v", "7", unknown]);
    let output = cli(&pair, &["-3", "--no-raw"], "HGETALL h\nPING\nGET none\nZADD z 1.5 m\nZSCORE z m\n");
    let lines: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["1# \"f\" => \"v\"", "PONG", "(nil)", "(integer) 1", "(double) 1.5"]);
    assert_eq!(cli(&pair, &["-n", "3", "SET", "three", "3"], ""), "OK\n");
    assert_eq!(cli(&pair, &["--eval", "/dev/stdin", "k", ",", "x"], "return {KEYS[1],ARGV[1]}"), "k\nx\n");
    assert!(cli(&pair, &["INFO", "server"], "").contains("redis_version:"));
}

#[test]
fn redis_cli_loads_scans_and_measures() {
    const KEYS: usize = 5000;
    let pair = Pair::start();
    let load: String = (0..KEYS).map(|number| format!("SET key:{number} {number}\r\n")).collect();
    let output = cli(&pair, &["--pipe"], &load);
    assert!(output.contains(&format!("errors: 0, replies: {KEYS}")), "{output}");
    assert_eq!(pair.east.command(&["DBSIZE"]), Value::Integer(KEYS as i64));
    let output = cli(&pair, &["--scan", "--pattern", "key:*"], "");
    let mut keys: Vec<&str> = output.lines().collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), KEYS);
    let output = cli(&pair, &["--bigkeys"], "");
    assert!(output.contains(&format!("Sampled {KEYS} keys in the keyspace!")), "{output}");
    let output = cli(&pair, &["--memkeys"], "");
    assert!(output.contains(&format!("Sampled {KEYS} keys in the keyspace!")), "{output}");
    let output = cli(&pair, &["--latency", "-i", "0.1", "--raw"], "");
    let samples: f64 = output.split_whitespace().last().expect("a count").parse().expect("a number");
    assert!(samples > 0.0, "{output}");
}

#[test]
fn redis_benchmark_runs_every_test() {
    let pair = Pair::start();
    let port = pair.handover.port().to_string();
    for more in [&["-c", "20"][..], &["-c", "5", "-P", "16"]] {
        let arguments = [&["-p", &port, "-n", "500", "-r", "100", "--csv"], more].concat();
        let output = run(Path::new("redis-benchmark"), &arguments, b"");
        let output = text(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.contains("ERR") && !output.contains("rror"), "{output}");
        let tests = [
            "PING_INLINE",
            "PING_MBULK",
            "SET",
            "GET",
            "INCR",
            "LPUSH",
            "RPUSH",
            "LPOP",
            "RPOP",
            "SADD",
            "HSET",
            "SPOP",
            "ZADD",
            "ZPOPMIN",
            "LRANGE_100 (first 100 elements)",
            "LRANGE_600 (first 600 elements)",
            "MSET (10 keys)",
        ];
        for test in tests {
            assert!(output.contains(&format!("\"{test}\"")), "no {test}: {output}");
        }
    }
}

/// redis-py's checks against a port.
#[track_caller]
fn check_with_redis_py(port: u16) {
    let output = run(&python(), &["tests/python/redis_py.py", "127.0.0.1", &port.to_string()], b"");
    assert!(text(&output).ends_with("20 checks passed\n"), "{output:?}");
}

#[test]
fn redis_py_finds_a_redis() {
    check_with_redis_py(RedisServer::start().port());
    check_with_redis_py(Pair::start().handover.port());
}

#[test]
fn redis_py_without_retries_lives_through_a_kill() {
    let mut pair = Pair::start();
    let stop_file = pair.handover.folder().join("stop");
    let arguments = [
        "tests/python/across_a_kill.py",
        "127.0.0.1",
        &pair.handover.port().to_string(),
        stop_file.to_str().expect("a path in UTF-8"),
    ];
    let mut script = Process::start(python().to_str().expect("a path in UTF-8"), &arguments, |command| {
        command.current_dir(support::root());
    });
    // An interpreter loads a lot of files before it does anything.
    let running = script.find_line(PATIENCE * 3, |line| line == "running");
    assert!(running.is_some(), "it does not run:\n{}", script.output());
    pair.east.kill();
    pair.break_east();
    pair.wait_for("west");
    // So many rounds that everybody had several.
    let rounds = || match pair.west.command(&["GET", "rounds"]) {
        Value::Bulk(count) => String::from_utf8_lossy(&count).parse::<u64>().expect("a number"),
        _ => 0,
    };
    wait_until(PATIENCE, || rounds() > 300 || script.exit_status().is_some());
    std::fs::write(&stop_file, "").expect("a file in Handover's folder");
    let status = script.wait();
    assert!(status.success(), "{}", script.output());
    assert!(rounds() > 300, "{}", script.output());
}
