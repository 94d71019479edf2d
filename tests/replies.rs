//! What a broken or hostile backend may answer: never a byte to a client that it is not for, never a guess.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{
    FakeBackend, FakeConnection, Handover, PATIENCE, RawClient, RedisServer, Value, courtesy, encode, wait_until,
};

/// What a scripted backend makes of a command that is no courtesy.
enum Answer {
    Write(Vec<u8>),
    /// Write, then end the connection.
    WriteAndEnd(Vec<u8>),
}

use Answer::{Write, WriteAndEnd};

/// A healthy backend but for what `answer` says.
fn backend(answer: impl Fn(&[Vec<u8>]) -> Answer + Send + Sync + 'static) -> FakeBackend {
    FakeBackend::start(move |connection| serve(connection, &answer))
}

fn serve(connection: &mut FakeConnection, answer: &impl Fn(&[Vec<u8>]) -> Answer) {
    while let Some(command) = connection.read_command() {
        match courtesy(&command).map_or_else(|| answer(&command), Write) {
            Write(bytes) => connection.write(bytes),
            WriteAndEnd(bytes) => return connection.write(bytes),
        }
    }
}

/// A Handover before one scripted backend; what it warns of is for the tests that say so.
fn before(backend: &FakeBackend) -> Handover {
    before_with(backend, "")
}

fn before_with(backend: &FakeBackend, configuration: &str) -> Handover {
    let url = format!("redis://{}", backend.address());
    Handover::builder(&format!("backend = [{{ name = 'east', url = '{url}' }}]\n{configuration}"))
        .expect_warning("nothing to hand over to")
        .allow_warning("backend is unhealthy")
        .allow_warning("no backend is healthy")
        .allow_warning("a backend can serve again")
        .start()
}

fn name(command: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&command[0]).to_ascii_uppercase()
}

/// Answers `GET key` with the key itself, and everything else as `other` says.
fn mirror(command: &[Vec<u8>], other: impl FnOnce() -> Answer) -> Answer {
    if name(command) == "GET" {
        Write([format!("${}\r\n", command[1].len()).as_bytes(), &command[1], b"\r\n"].concat())
    } else {
        other()
    }
}

#[track_caller]
fn get(client: &mut RawClient, key: &str) {
    assert_eq!(client.command(&["GET", key]), Value::bulk(key));
}

/// Row 40: two replies for one request. The second belongs to nobody, and nobody gets it.
#[test]
fn a_second_reply_reaches_nobody() {
    let fake = backend(|command| mirror(command, || Write(b"+first\r\n+second\r\n".to_vec())));
    let handover = before(&fake);
    let (mut neighbour, mut asker) = (handover.client(), handover.client());
    for round in 0..20 {
        get(&mut neighbour, &format!("before{round}"));
        asker.send_command(&["INCR", "x"]);
        // The first is the reply; the connection is closed for the second, so that the first may be in doubt too.
        match asker.read_reply_or_end() {
            None => {}
            Some(Value::Simple(text)) => assert_eq!(text, "first"),
            Some(other) => assert!(other.is_error("UNCERTAIN"), "{other:?}"),
        }
        get(&mut neighbour, &format!("after{round}"));
        asker = handover.client();
        get(&mut asker, &format!("own{round}"));
    }
    wait_until(PATIENCE, || {
        handover.metric("handover_protocol_errors_total", &[("class", "backend_unsolicited")]) >= 1.0
    });
}

/// Row 40: a reply that nobody asked for, on an idle connection.
#[test]
fn a_reply_without_a_request_closes_the_connection() {
    let unasked = Arc::new(AtomicBool::new(false));
    let speaks = Arc::clone(&unasked);
    let fake = backend(move |command| {
        mirror(command, || {
            // A reply, and some time later another.
            speaks.store(true, Ordering::SeqCst);
            Write(b"+OK\r\n".to_vec())
        })
    });
    let handover = before(&fake);
    let mut client = handover.client();
    get(&mut client, "a");
    let before = fake.accepted();
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    assert!(unasked.load(Ordering::SeqCst));
    for round in 0..50 {
        get(&mut client, &format!("key{round}"));
    }
    assert_eq!(fake.accepted(), before, "an honest backend keeps its connection");
}

/// Row 41: a script's error text holds line breaks, so that one reply looks like two; its neighbours see nothing of it.
#[test]
fn an_injected_reply_stays_with_its_author() {
    // The server itself makes line breaks of the escapes.
    const INJECTION: &str = "#!lua flags=\"a\\r\\n+INJ\"\nreturn 1";
    let server = RedisServer::start();
    let mut direct = server.client();
    direct.send_command(&["EVAL", INJECTION, "0"]);
    direct.expect("-ERR Unexpected flag in script shebang: a\r\n+INJ\r\n");
    let url = format!("redis://{}", server.address());
    let handover = Handover::builder(&format!("backend = [{{ name = 'east', url = '{url}' }}]"))
        .expect_warning("nothing to hand over to")
        .allow_warning("backend is unhealthy")
        .allow_warning("no backend is healthy")
        .allow_warning("a backend can serve again")
        .start();
    let mut neighbours: Vec<RawClient> = (0..8).map(|_| handover.client()).collect();
    for round in 0..20 {
        let mut attacker = handover.client();
        attacker.send_command(&["EVAL", INJECTION, "0"]);
        attacker.send_command(&["EVAL", INJECTION, "0"]);
        for (index, neighbour) in neighbours.iter_mut().enumerate() {
            let value = format!("{round}-{index}");
            neighbour.send(encode(&["SET", &format!("k{index}"), &value]));
            neighbour.send(encode(&["EVAL", "return ARGV[1]", "0", &value]));
            neighbour.send(encode(&["GET", &format!("k{index}")]));
        }
        for (index, neighbour) in neighbours.iter_mut().enumerate() {
            let value = format!("{round}-{index}");
            assert_eq!(neighbour.read_reply(), Value::ok());
            assert_eq!(neighbour.read_reply(), Value::bulk(&value));
            assert_eq!(neighbour.read_reply(), Value::bulk(&value));
        }
        assert!(matches!(attacker.read_reply_or_end(), None | Some(Value::Error(_))));
    }
}

/// Row 41, inside a transaction.
#[test]
fn an_injected_reply_within_a_transaction_stays_with_its_author() {
    let server = RedisServer::start();
    let url = format!("redis://{}", server.address());
    let handover = Handover::builder(&format!("backend = [{{ name = 'east', url = '{url}' }}]"))
        .expect_warning("nothing to hand over to")
        .allow_warning("backend is unhealthy")
        .allow_warning("no backend is healthy")
        .allow_warning("a backend can serve again")
        .start();
    for round in 0..10 {
        let mut attacker = handover.client();
        for command in [&["MULTI"] as &[&str], &["EVAL", "#!lua flags=\"a\\r\\n+INJ\"\nreturn 1", "0"], &["EXEC"]] {
            attacker.send_command(command);
        }
        assert_eq!(attacker.read_reply(), Value::ok());
        for index in 0..20 {
            let mut neighbour = handover.client();
            let value = format!("{round}-{index}");
            let echoed = neighbour.command(&["EVAL", "return ARGV[1]", "0", &value]);
            assert_eq!(echoed, Value::bulk(&value));
        }
    }
}

/// Row 42: as deep as Lua can nest, passed on; deeper, refused; never a stack that overflows.
#[test]
fn deep_replies_are_passed_on_or_refused() {
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    let fake = backend(move |command| {
        mirror(command, || match name(command).as_str() {
            "LRANGE" => Write(nested(7_995)),
            _ => Write(nested(5_000_000)),
        })
    });
    let handover = before(&fake);
    let mut client = handover.client();
    client.send_command(&["LRANGE", "a", "0", "-1"]);
    client.expect(nested(7_995));
    get(&mut client, "in-step");
    client.send_command(&["HKEYS", "a"]);
    take_what_comes(&mut client, nested(5_000_000).len());
    get(&mut handover.client(), "lives");
}

/// Reads as much, or up to the end, or an error.
fn take_what_comes(client: &mut RawClient, whole: usize) {
    let mut total = 0;
    while total < whole {
        let bytes = client.read_available();
        if bytes.is_empty() || (total == 0 && bytes.starts_with(b"-")) {
            return;
        }
        total += bytes.len();
    }
}

/// Rows 43 and 45: lengths that overflow, types that never end, and lines that never end close the connection; the
/// client gets an end or an honest error, and everybody else goes on.
#[test]
fn lengths_that_cannot_be_close_the_connection() {
    let replies: Vec<Vec<u8>> = [
        "$9223372036854775807\r\nx",
        "$9223372036854775808\r\n",
        "$-2\r\n",
        "*-2\r\n",
        "%4611686018427387904\r\n",
        "%9223372036854775807\r\n",
        "*9223372036854775807\r\n",
        "$?\r\n;1\r\na\r\n;0\r\n",
        "*?\r\n:1\r\n.\r\n",
        "%?\r\n",
        "$abc\r\n",
        "$1\r\nabc\r\n",
        "@nonsense\r\n",
        "\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([[b"+".to_vec(), vec![b'x'; 3_000_000]].concat()])
    .collect();
    let count = replies.len();
    let next = AtomicUsize::new(0);
    let fake =
        backend(move |command| mirror(command, || Write(replies[next.fetch_add(1, Ordering::SeqCst) % count].clone())));
    let handover = before(&fake);
    for round in 0..count {
        let mut neighbour = handover.client();
        get(&mut neighbour, "before");
        let mut client = handover.client();
        client.send_command(&["INCR", "x"]);
        let answer = client.read_reply_or_closed();
        let is_honest = match &answer {
            None => true,
            Some(value) => value.is_error("UNCERTAIN"),
        };
        assert!(is_honest, "round {round}: {answer:?}");
        // A connection that shared the fault may end with it, but is never told anything false.
        if neighbour.is_closed() {
            neighbour = handover.client();
        }
        get(&mut neighbour, "after");
    }
}

/// Row 43: a billion elements are announced, not allocated.
#[test]
fn announced_elements_take_no_memory() {
    let fake = backend(|command| mirror(command, || WriteAndEnd(b"*1000000000\r\n:1\r\n".to_vec())));
    let handover = before(&fake);
    let mut client = handover.client();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/statm", handover.pid())).expect("it runs");
        status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
    };
    let before = resident();
    client.send_command(&["INCR", "a"]);
    let answer = client.read_reply_or_closed();
    assert!(answer.as_ref().is_none_or(|value| value.is_error("UNCERTAIN")), "{answer:?}");
    assert!(resident().saturating_sub(before) < 64 << 20);
    get(&mut handover.client(), "lives");
}

/// Row 44: a push is an element inside an aggregate, and only at the top of its own; pairing is unchanged.
#[test]
fn pushes_and_attributes_do_not_shift_replies() {
    let fake = backend(|command| {
        mirror(command, || match name(command).as_str() {
            "LRANGE" => Write(b"*2\r\n>2\r\n+in\r\n:1\r\n:2\r\n".to_vec()),
            "HKEYS" => Write(b"|1\r\n+ttl\r\n:5\r\n*1\r\n:7\r\n".to_vec()),
            _ => Write(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n+OK\r\n>1\r\n+after\r\n".to_vec()),
        })
    });
    let handover = before(&fake);
    let mut client = handover.client();
    assert!(matches!(client.command(&["HELLO", "3"]), Value::Map(_)));
    let mut neighbour = handover.client();
    for round in 0..10 {
        client.send_command(&["LRANGE", "a", "0", "-1"]);
        client.expect("*2\r\n>2\r\n+in\r\n:1\r\n:2\r\n");
        client.send_command(&["HKEYS", "a"]);
        client.expect("|1\r\n+ttl\r\n:5\r\n*1\r\n:7\r\n");
        client.send_command(&["SET", "a", "b"]);
        client.expect("+OK\r\n");
        get(&mut client, &format!("key{round}"));
        get(&mut neighbour, &format!("other{round}"));
    }
}

/// Row 46: half a value is never made whole.
#[test]
fn half_a_reply_is_never_padded() {
    for length in [10, 100_000, 1_000_000] {
        let fake = backend(move |command| {
            mirror(command, || WriteAndEnd([format!("${length}\r\n").into_bytes(), vec![b'x'; length / 2]].concat()))
        });
        let handover = before(&fake);
        let mut client = handover.client();
        client.send_command(&["INCR", "a"]);
        let rest = until_error_or_end(&mut client);
        let is_error = rest.starts_with(b"-UNCERTAIN handover: ") && rest.ends_with(b"\r\n");
        let is_cut = rest.len() < length && (rest.is_empty() || rest.starts_with(format!("${length}\r\n").as_bytes()));
        assert!(is_error || is_cut, "{length}: {}", rest[..rest.len().min(200)].escape_ascii());
        get(&mut handover.client(), "lives");
    }
}

/// Everything up to an error's line, or to the end.
fn until_error_or_end(client: &mut RawClient) -> Vec<u8> {
    let mut got = Vec::new();
    loop {
        let bytes = client.read_available();
        let is_end = bytes.is_empty();
        got.extend_from_slice(&bytes);
        if is_end || (got.starts_with(b"-") && got.ends_with(b"\r\n")) {
            return got;
        }
    }
}

/// Row 47: what a server says at the door is not the reply to the first request.
#[test]
fn a_refusal_at_the_door_is_no_reply() {
    for line in ["-ERR max number of clients reached\r\n", "-DENIED Redis is running in protected mode\r\n"] {
        let full = Arc::new(AtomicBool::new(false));
        let is_full = Arc::clone(&full);
        let fake = FakeBackend::start(move |connection| {
            if is_full.load(Ordering::SeqCst) {
                return connection.write(line);
            }
            serve(connection, &|command: &[Vec<u8>]| mirror(command, || WriteAndEnd(Vec::new())));
        });
        let handover = before_with(&fake, "failover.hold = '800ms'\nhealth.interval = '100ms'\n");
        let mut client = handover.client();
        get(&mut client, "before");
        full.store(true, Ordering::SeqCst);
        // Its connection ends, and there is no other.
        client.send_command(&["INCR", "x"]);
        let answer = client.read_reply();
        assert!(answer.is_error("UNCERTAIN"), "{answer:?}");
        let answer = client.command(&["GET", "key"]);
        assert!(answer.is_error("LOADING"), "{answer:?}");
        assert!(answer.text().contains("not applied"), "{answer:?}");
        full.store(false, Ordering::SeqCst);
        let answer = || handover.client().command(&["GET", "again"]);
        wait_until(PATIENCE, || answer() == Value::bulk("again"));
    }
}

/// Replies of different types keep their order and their bytes.
#[test]
fn every_type_passes_byte_for_byte() {
    const REPLIES: [&str; 12] = [
        "+simple\r\n",
        "-ERR an error of the backend\r\n",
        ":-42\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*3\r\n$1\r\na\r\n$-1\r\n*1\r\n:1\r\n",
        "_\r\n",
        ",1.5e300\r\n",
        "#f\r\n",
        "%1\r\n+k\r\n~2\r\n:1\r\n(123456789012345678901234567890\r\n",
        "=7\r\ntxt:abc\r\n",
    ];
    let fake = backend(|command| {
        mirror(command, || Write(REPLIES[String::from_utf8_lossy(&command[1]).parse::<usize>().unwrap()].into()))
    });
    let handover = before(&fake);
    let mut client = handover.client();
    client.command(&["HELLO", "3"]);
    for (index, reply) in REPLIES.iter().enumerate() {
        client.send_command(&["HKEYS", &index.to_string()]);
        client.expect(reply);
    }
    let all: Vec<u8> = (0..REPLIES.len()).flat_map(|index| encode(&["HKEYS", &index.to_string()])).collect();
    client.send(&all);
    client.expect(REPLIES.concat());
}
