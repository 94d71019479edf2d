//! Scripts across a switch: EVALSHA finds what passed through Handover, wherever it has to go.

mod support;

use std::process::Command;

use support::{Pair, RawClient, RedisServer, Value, encode, wait_until};

const BODY: &str = "return redis.call('INCR', KEYS[1])";
const MISSING: &str = "NOSCRIPT No matching script";
/// Of a body that nobody has.
const UNHEARD: &str = "ffffffffffffffffffffffffffffffffffffffff";

#[track_caller]
fn load(client: &mut RawClient, body: &str) -> String {
    client.command(&["SCRIPT", "LOAD", body]).text()
}

fn call(digest: &str, key: &str) -> Vec<u8> {
    encode(&["EVALSHA", digest, "1", key])
}

fn flush(server: &RedisServer) {
    assert_eq!(server.command(&["SCRIPT", "FLUSH"]), Value::ok());
}

/// Whether it is an error that begins so.
fn says(reply: &Value, text: &str) -> bool {
    matches!(reply, Value::Error(error) if error.starts_with(text))
}

#[test]
fn a_script_is_found_after_a_fault_and_after_a_planned_switch() {
    let mut pair = Pair::builder().returning().configuration("[runtime]\nworkers = 2").start();
    let (mut loader, mut other) = (pair.client(), pair.client());
    let digest = load(&mut loader, BODY);
    assert_eq!(
        loader.command(&["EVAL", "return {KEYS[1], 7}", "1", "k"]),
        Value::Array(vec![Value::bulk("k"), Value::Integer(7)])
    );
    let of_eval = load(&mut pair.east.client(), "return {KEYS[1], 7}");
    let check = |client: &mut RawClient, server: &RedisServer| {
        let before = server.command(&["GET", "n"]);
        client.send([call(&digest, "n"), call(&digest.to_uppercase(), "n"), call(&of_eval, "k")].concat());
        let (first, second) = (client.read_reply().integer(), client.read_reply().integer());
        assert_eq!(second, first + 1);
        assert_eq!(client.read_reply(), Value::Array(vec![Value::bulk("k"), Value::Integer(7)]));
        assert_eq!(server.command(&["GET", "n"]), Value::bulk(second.to_string()), "{before:?}");
        assert!(says(&client.command(&["EVALSHA", UNHEARD, "0"]), MISSING));
        assert!(says(&client.command(&["EVALSHA", "short", "0"]), MISSING));
    };
    check(&mut loader, &pair.east);
    pair.fail_over();
    // The one that never loaded it is first.
    check(&mut other, &pair.west);
    check(&mut loader, &pair.west);
    flush(&pair.east);
    pair.fail_back();
    check(&mut other, &pair.east);
    check(&mut loader, &pair.east);
}

#[test]
fn a_script_that_was_dropped_behind_our_back_is_loaded_again_and_called_once() {
    let pair = Pair::start();
    let mut client = pair.client();
    let digest = load(&mut client, BODY);
    for expected in 1..4 {
        client.send(call(&digest, "n"));
        assert_eq!(client.read_reply(), Value::Integer(expected));
        flush(&pair.east);
    }
    let read_only = load(&mut client, "return 5");
    assert_eq!(client.command(&["EVALSHA_RO", &read_only, "0"]), Value::Integer(5));
    // What exists is the backend's truth.
    flush(&pair.east);
    assert_eq!(client.command(&["SCRIPT", "EXISTS", &digest]), Value::Array(vec![Value::Integer(0)]));
    client.send(call(&digest, "n"));
    assert_eq!(client.read_reply(), Value::Integer(4));
    assert_eq!(client.command(&["SCRIPT", "EXISTS", &digest]), Value::Array(vec![Value::Integer(1)]));
}

#[test]
fn flushed_through_handover_is_flushed() {
    let mut pair = Pair::start();
    let mut client = pair.client();
    let digest = load(&mut client, BODY);
    assert!(client.command(&["SCRIPT", "FLUSH", "SOMEHOW"]).is_error("ERR"));
    client.send([encode(&["SCRIPT", "FLUSH"]), call(&digest, "n")].concat());
    assert_eq!(client.read_reply(), Value::ok());
    assert!(says(&client.read_reply(), MISSING));
    pair.fail_over();
    client.send(call(&digest, "n"));
    assert!(says(&client.read_reply(), MISSING));
    let digest = load(&mut client, BODY);
    client.send(call(&digest, "n"));
    assert_eq!(client.read_reply(), Value::Integer(1));
}

#[test]
fn a_transaction_finds_its_scripts_after_a_switch() {
    let mut pair = Pair::start();
    let (mut client, mut fresh) = (pair.client(), pair.client());
    let (digest, seen) = (load(&mut client, BODY), load(&mut client, "return 7"));
    client.send(call(&digest, "a"));
    assert_eq!(client.read_reply(), Value::Integer(1));
    pair.fail_over();
    // In one piece: what it calls is seen before it begins.
    fresh.send([encode(&["MULTI"]), encode(&["EVALSHA", &seen, "0"]), encode(&["EXEC"])].concat());
    fresh.expect("+OK\r\n+QUEUED\r\n*1\r\n:7\r\n");
    // In pieces: what a session called last is loaded before it begins.
    let pieces = [encode(&["MULTI"]), call(&digest, "a"), encode(&["EXEC"])];
    for (piece, answer) in pieces.into_iter().zip(["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"]) {
        client.send(piece);
        client.expect(answer);
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let mut pair = Pair::builder().configuration("[limits]\nscripts = 2\nscript_bytes = \"1MiB\"").start();
    let mut client = pair.client();
    let long = format!("return {} -- {}", 4, "x".repeat(1 << 20));
    let digests: Vec<String> =
        ["return 1", "return 2", "return 3", &long].map(|body| load(&mut client, body)).into_iter().collect();
    pair.fail_over();
    let answers: Vec<bool> =
        digests.iter().map(|digest| says(&client.command(&["EVALSHA", digest, "0"]), MISSING)).collect();
    assert_eq!(answers, [true, false, false, true]);
    let mut none = Pair::builder().configuration("[limits]\nscripts = 0").start();
    let mut client = none.client();
    let digest = load(&mut client, "return 1");
    none.fail_over();
    assert!(says(&client.command(&["EVALSHA", &digest, "0"]), MISSING));
}

#[test]
fn redis_py_calls_registered_scripts_across_a_switch() {
    let mut pair = Pair::start();
    let script = format!(
        "import redis, sys\n\
         client = redis.Redis(port={})\n\
         script = client.register_script(\"{BODY}\")\n\
         print(script(keys=['n']), flush=True)\n\
         sys.stdin.readline()\n\
         pipe = client.pipeline(transaction=True)\n\
         script(keys=['n'], client=pipe)\n\
         print(script(keys=['n']), pipe.execute(), flush=True)\n",
        pair.handover.port()
    );
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let mut child = Command::new(support::python())
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python is there");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "1");
    pair.fail_over();
    child.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
    assert_eq!(lines.next().expect("a line").expect("text"), "1 [2]");
    assert!(child.wait().expect("it ends").success());
    wait_until(support::PATIENCE, || pair.sessions("pinned") == 0);
}
