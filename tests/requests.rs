//! What clients may send, sane or not: the hazards of requests, each as a row, in whole, in pieces and byte by byte.

mod support;

use std::time::{Duration, Instant};

use support::{Handover, PATIENCE, RawClient, RedisServer, Value, encode, wait_until};

/// Sent behind every row; its reply shows that the connection goes on, and in step.
const MARKER: &str = "the-marker-of-the-end";
/// Long enough that what is not held back would have come.
const SILENCE: Duration = Duration::from_millis(100);

/// A server may take long for very much, or on a busy machine, and is not to be called silent for it.
const PATIENT: &str = "detector.hang_timeout = '8s'\ndetector.slow_timeout = '9s'\nhealth.timeout = '5s'\n\
    failover.hold = '6s'\n";

enum Expected {
    /// Exactly these bytes, and the connection goes on.
    Bytes(&'static [u8]),
    /// The protocol error that Redis names so, then the end.
    Close(&'static str),
    /// What Redis answers to the same bytes: its bytes, and whether it goes on.
    AsRedis,
}

use Expected::{AsRedis, Bytes, Close};

/// Dropped in this order, so that Handover does not see its backend die.
struct Pair {
    handover: Handover,
    backend: RedisServer,
    reference: RedisServer,
}

fn serve(configuration: &str) -> Pair {
    let (backend, reference) = (RedisServer::start(), RedisServer::start());
    let configuration = format!("{}{PATIENT}{configuration}", backend_table(&backend));
    let handover = Handover::builder(&configuration).expect_warning("nothing to hand over to").start();
    Pair { handover, backend, reference }
}

fn backend_table(server: &RedisServer) -> String {
    format!("backend = [{{ name = 'east', url = 'redis://{}' }}]\n", server.address())
}

/// How a row's bytes are cut into segments.
#[derive(Clone, Copy, Debug)]
enum Cuts {
    Whole,
    Bytes,
    Random(u64),
}

impl Cuts {
    fn send(self, client: &mut RawClient, input: &[u8]) {
        match self {
            Self::Whole => client.send(input),
            Self::Bytes => send_pieces(client, input, || 1),
            Self::Random(seed) => {
                let mut random = fastrand::Rng::with_seed(seed);
                send_pieces(client, input, || random.usize(1..=16));
            }
        }
    }
}

/// Whoever closes in the middle of it needs not take the rest.
fn send_pieces(client: &mut RawClient, mut input: &[u8], mut length: impl FnMut() -> usize) {
    while !input.is_empty() {
        let (piece, rest) = input.split_at(length().min(input.len()));
        if client.send_while_taken(piece, PATIENCE) < piece.len() {
            return;
        }
        input = rest;
    }
}

/// Everything that comes for `input` and whether the connection goes on after it.
fn talk(mut client: RawClient, input: &[u8], cuts: Cuts) -> (Vec<u8>, bool) {
    let marker = encode(&["ECHO", MARKER]);
    cuts.send(&mut client, &[input, &marker].concat());
    let reply = [b"$21\r\n", MARKER.as_bytes(), b"\r\n"].concat();
    let mut got = Vec::new();
    loop {
        match client.read_available() {
            bytes if bytes.is_empty() => return (got, false),
            bytes => got.extend_from_slice(&bytes),
        }
        if got.ends_with(&reply) {
            got.truncate(got.len() - reply.len());
            return (got, true);
        }
    }
}

fn rows() -> Vec<(&'static str, &'static [u8], Expected)> {
    vec![
        ("1", b"*0\r\n", Bytes(b"")),
        ("1", b"*-1\r\n", Bytes(b"")),
        ("1", b"*-5\r\n", Bytes(b"")),
        ("1", b"\r\n\r\n\n\n", Bytes(b"")),
        ("1", b"*0\r\nPING\r\n*-1\r\n\r\nPING\r\n", Bytes(b"+PONG\r\n+PONG\r\n")),
        ("1", b"   \r\n", AsRedis),
        ("25", b"CLIENT REPLY OFF\r\nPING\r\nSET a 1\r\nCLIENT REPLY ON\r\nPING\r\n", AsRedis),
        ("25", b"CLIENT REPLY SKIP\r\nPING\r\nPING\r\nCLIENT REPLY ON\r\n", AsRedis),
        ("25", b"CLIENT REPLY SKIP\r\n*0\r\nPING\r\nPING\r\n", AsRedis),
        ("25", b"CLIENT REPLY SKIP\r\n\r\nPING\r\nPING\r\n", AsRedis),
        ("25", b"CLIENT REPLY SKIP\r\n  \r\nPING\r\nPING\r\n", AsRedis),
        ("2", b"*1\rX$4\rXPING\rX", Close("")),
        ("2", b"*1\r\n$4\r\nPINGxx", Close("")),
        ("3", b"*1\n$4\nPING\n", Close("")),
        ("3", b"*01\r\n$4\r\nPING\r\n", Close("invalid multibulk length")),
        ("3", b"*1\r\n$04\r\nPING\r\n", Close("invalid bulk length")),
        ("3", b"*+1\r\n$4\r\nPING\r\n", Close("invalid multibulk length")),
        ("3", b"* 1\r\n$4\r\nPING\r\n", Close("invalid multibulk length")),
        ("3", b"*1e3\r\n$4\r\nPING\r\n", Close("invalid multibulk length")),
        ("4", b"*1\r\n$-1\r\n", Close("invalid bulk length")),
        ("4", b"*1\r\n:1\r\n", Close("expected '$', got ':'")),
        ("4", b"*1\r\n*1\r\n", Close("expected '$', got '*'")),
        ("4", b"*1\r\n+PING\r\n", Close("expected '$', got '+'")),
        ("6", b"*2147483648\r\n", Close("invalid multibulk length")),
        ("6", b"*9223372036854775807\r\n", Close("invalid multibulk length")),
        ("6", b"*12345678901234567890123\r\n", Close("invalid multibulk length")),
        ("6", b"*1\r\n$18446744073709551615\r\n", Close("invalid bulk length")),
        ("8", b"*2\r\n$4\r\nECHO\r\n$536870913\r\n", Close("invalid bulk length")),
        ("10", b"PING \"unbalanced\r\n", AsRedis),
        ("10", b"ECHO 'unbalanced\r\n", AsRedis),
        ("10", b"ECHO \"a\"b\r\n", AsRedis),
        ("10", b"ECHO \"\\x4\"\r\n", AsRedis),
        ("10", b"ECHO ax\\xff\r\n", AsRedis),
        ("10", b"ECHO \"\\xff\\x00\\n\\a\\q\"\r\n", AsRedis),
        ("10", b"GET \"x\\x4\"\r\n", AsRedis),
        ("10", b"ECHO ''\r\nECHO \"\"\r\n", AsRedis),
        ("10", b"  ECHO \t 'a b\\'c'  \nECHO \x0bx\x0c\r\n", AsRedis),
        ("10", b"echo hello\nset k v\r\nget k\n", AsRedis),
        ("13", b"*1\r\n$0\r\n\r\n", AsRedis),
        ("13", b"*2\r\n$0\r\n\r\n$1\r\na\r\n", AsRedis),
        ("13", b"*1\r\n$7\r\nAB\r\nCD\n\r\n", AsRedis),
        ("13", b"*3\r\n$5\r\nA\x00B\xff'\r\n$3\r\n\r\n:\r\n$1\r\nx\r\n", AsRedis),
        ("13", b"FOO bar baz\r\nPING\r\n", AsRedis),
        ("16", b"%1\r\n$4\r\nPING\r\n$1\r\nx\r\n", Close("")),
        ("16", b"~1\r\n$4\r\nPING\r\n", Close("")),
        ("16", b">1\r\n$4\r\nPING\r\n", Close("")),
        ("24", b"SELECT 9999\r\nPING\r\n", AsRedis),
        ("24", b"SELECT abc\r\nPING\r\n", AsRedis),
        ("24", b"SELECT -1\r\nSELECT\r\nSELECT 1 2\r\nSELECT 99999999999999999999\r\nSELECT 01\r\n", AsRedis),
        ("24", b"SELECT 3\r\nSET db3 x\r\nSELECT 0\r\nGET db3\r\nSELECT 3\r\nGET db3\r\n", AsRedis),
        ("26", b"MULTI\r\nSELECT 1\r\nSET a 1\r\nEXEC\r\nGET a\r\nSELECT 0\r\nGET a\r\n", AsRedis),
        ("26", b"MULTI\r\nSELECT 9999\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("26", b"MULTI\r\nSELECT 1\r\nDISCARD\r\nSET a 1\r\nSELECT 1\r\nGET a\r\n", AsRedis),
        ("26", b"MULTI\r\nEVAL \"return 1\" 0\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("26", b"MULTI\r\nPING\r\nPING x\r\nECHO x\r\nCLIENT GETNAME\r\nEXEC\r\n", AsRedis),
        (
            "26a",
            b"MULTI\r\nSUBSCRIBE x y\r\nEXEC\r\n",
            Bytes(
                b"+OK\r\n-ERR handover: command 'subscribe' is not allowed inside a transaction\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n",
            ),
        ),
        (
            "26a",
            b"MULTI\r\nCLIENT REPLY OFF\r\nEXEC\r\n",
            Bytes(
                b"+OK\r\n-ERR handover: command 'client|reply' is not allowed inside a transaction\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n",
            ),
        ),
        (
            "26a",
            b"MULTI\r\nHELLO 3\r\nSET refused 1\r\nEXEC\r\nEXISTS refused\r\n",
            Bytes(
                b"+OK\r\n-ERR handover: command 'hello' is not allowed inside a transaction\r\n\
                -ERR handover: refused until EXEC or DISCARD, since MULTI or WATCH before it was not accepted\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n:0\r\n",
            ),
        ),
        (
            "26a",
            b"MULTI\r\nAUTH x\r\nEXEC\r\n",
            Bytes(
                b"+OK\r\n-ERR handover: command 'auth' is not allowed inside a transaction\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n",
            ),
        ),
        (
            "26a",
            b"MULTI\r\nMONITOR\r\nEXEC\r\n",
            Bytes(
                b"+OK\r\n-ERR handover: command 'monitor' is not allowed inside a transaction\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n",
            ),
        ),
        ("27", b"MULTI\r\nMULTI\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("27", b"EXEC\r\nDISCARD\r\nPING\r\n", AsRedis),
        ("27", b"MULTI\r\nWATCH a\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("27", b"MULTI\r\nSET a 1\r\nRESET\r\nGET a\r\nEXEC\r\n", AsRedis),
        ("27", b"MULTI\r\nSET a 1\r\nQUIT\r\n", AsRedis),
        ("27", b"MULTI\r\nSET a\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("27", b"MULTI\r\nNOSUCH a\r\nSET a 1\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("27", b"SET a x\r\nMULTI\r\nINCR a\r\nSET b 1\r\nEXEC\r\nGET b\r\n", AsRedis),
        ("27", b"MULTI\r\nEXEC\r\nMULTI\r\nDISCARD\r\nPING\r\n", AsRedis),
        ("27", b"MULTI x\r\nPING\r\nMULTI\r\nEXEC x\r\nEXEC\r\n", AsRedis),
        ("27", b"WATCH\r\nWATCH a\r\nSET a 1\r\nMULTI\r\nGET a\r\nEXEC\r\nGET a\r\n", AsRedis),
        ("27", b"WATCH a\r\nUNWATCH\r\nSET a 1\r\nMULTI\r\nGET a\r\nEXEC\r\n", AsRedis),
        ("30", b"SUBSCRIBE a b a\r\nUNSUBSCRIBE a zz\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\nPING\r\n", AsRedis),
        ("30", b"PSUBSCRIBE a* b*\r\nSUBSCRIBE c\r\nPUNSUBSCRIBE x\r\nPUNSUBSCRIBE\r\nUNSUBSCRIBE\r\n", AsRedis),
        ("30", b"SSUBSCRIBE s\r\nSUNSUBSCRIBE s\r\nSUNSUBSCRIBE\r\n", AsRedis),
        ("30", b"SUBSCRIBE\r\nPSUBSCRIBE\r\nUNSUBSCRIBE\r\nPUNSUBSCRIBE x\r\n", AsRedis),
        ("31", b"SUBSCRIBE a\r\nGET k\r\nPING\r\nPING x\r\nUNSUBSCRIBE\r\nGET k\r\n", AsRedis),
        ("31", b"SUBSCRIBE a\r\nRESET\r\nGET k\r\n", AsRedis),
        ("31", b"SUBSCRIBE a\r\nMULTI\r\nSET a 1\r\nUNSUBSCRIBE a\r\nPING\r\n", AsRedis),
        ("31", b"SUBSCRIBE a\r\nQUIT\r\n", AsRedis),
        ("31", b"HELLO 9\r\nSUBSCRIBE a\r\nGET x\r\nUNSUBSCRIBE\r\n", AsRedis),
    ]
}

/// Whether the answer is that of the row; what is wrong, if not.
fn judge(
    expected: &Expected,
    got: &(Vec<u8>, bool),
    reference: impl FnOnce() -> (Vec<u8>, bool),
) -> Result<(), String> {
    let shown = |(bytes, open): &(Vec<u8>, bool)| format!("{} open={open}", bytes.escape_ascii());
    match expected {
        Bytes(bytes) if *got == (bytes.to_vec(), true) => Ok(()),
        Bytes(bytes) => Err(format!("expected {}, got {}", bytes.escape_ascii(), shown(got))),
        Close(text) => {
            let start = format!("-ERR Protocol error: {text}");
            let lines = got.0.iter().filter(|&&byte| byte == b'\n').count();
            let is_right = got.0.starts_with(start.as_bytes()) && got.0.ends_with(b"\r\n") && lines == 1 && !got.1;
            if is_right { Ok(()) } else { Err(format!("expected {start}… and the end, got {}", shown(got))) }
        }
        AsRedis => {
            let reference = reference();
            if *got == reference {
                Ok(())
            } else {
                Err(format!("Redis says {}, got {}", shown(&reference), shown(got)))
            }
        }
    }
}

/// Rows 1 to 31 that are a matter of bytes alone, each in one segment, byte by byte (row 11) and cut at random.
#[test]
fn every_row_is_answered_in_whole_and_in_pieces() {
    let pair = serve("");
    let mut wrong = Vec::new();
    for (row, input, expected) in rows() {
        for cuts in [Cuts::Whole, Cuts::Bytes, Cuts::Random(input.len() as u64)] {
            pair.backend.command(&["FLUSHALL"]);
            pair.reference.command(&["FLUSHALL"]);
            let got = talk(pair.handover.client(), input, cuts);
            let reference = || talk(pair.reference.client(), input, Cuts::Whole);
            if let Err(why) = judge(&expected, &got, reference) {
                wrong.push(format!("row {row}, {cuts:?}: {}\n  {why}", input.escape_ascii()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Row 5: what is announced costs nothing until it comes.
#[test]
fn an_announcement_takes_no_memory() {
    let pair = serve("");
    let before = resident_bytes(&pair.handover);
    let mut clients: Vec<RawClient> = (0..100).map(|_| pair.handover.client()).collect();
    for client in &mut clients {
        client.send("*2147483647\r\n");
    }
    assert_eq!(pair.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
    let mut announced: Vec<RawClient> = (0..100).map(|_| pair.handover.client()).collect();
    for client in &mut announced {
        client.send("*2\r\n$4\r\nECHO\r\n$536870912\r\nx");
    }
    assert_eq!(pair.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
    let grown = resident_bytes(&pair.handover).saturating_sub(before);
    assert!(grown < 200 * 64 * 1024, "{grown} bytes for 200 announcements");
}

/// Row 7: a bulk that comes a byte at a time is neither copied nor scanned again for each byte, and harms nobody.
#[test]
fn a_value_that_trickles_is_taken() {
    const LENGTH: usize = 2_000;
    let pair = serve("");
    let mut slow = pair.handover.client();
    slow.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LENGTH}\r\n"));
    let mut other = pair.handover.client();
    for sent in 0..LENGTH {
        slow.send("x");
        if sent % 100 == 0 {
            assert_eq!(other.command(&["GET", "k"]), Value::Null);
        }
    }
    slow.send("\r\n");
    assert_eq!(slow.read_reply(), Value::ok());
    assert_eq!(other.command(&["STRLEN", "k"]).integer(), LENGTH as i64);
}

/// Row 8: the operator's limit is the limit, and it is judged by what is announced.
#[test]
fn the_configured_limit_of_values_holds() {
    let pair = serve("limits.value_bytes = '1MiB'\n");
    let mut client = pair.handover.client();
    assert_eq!(client.command(&["SET".into(), "k".into(), "x".repeat(1 << 20)]), Value::ok());
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", (1 << 20) + 1));
    assert_eq!(client.read_reply().text(), "ERR Protocol error: handover: a value above the limit of the proxy");
    client.expect_end();
}

/// Row 9: lines end at 64 KiB.
#[test]
fn long_lines_are_closed() {
    let pair = serve("");
    for (start, error) in
        [("*", "too big mbulk count string"), ("*1\r\n$", "too big"), ("PING ", "too big inline request")]
    {
        let mut client = pair.handover.client();
        let line = [start.as_bytes(), &vec![b'1'; 70_000]].concat();
        client.send_while_taken(&line, PATIENCE);
        let answer = String::from_utf8(client.read_to_end()).unwrap();
        // What was not read when the connection closed makes a reset, which may overtake the error.
        assert!(answer.is_empty() || answer.starts_with(&format!("-ERR Protocol error: {error}")), "{answer}");
    }
    assert_eq!(pair.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
}

/// Row 10: a NUL ends nothing but the line it is in.
#[test]
fn an_inline_request_may_hold_a_nul() {
    let pair = serve("");
    let mut client = pair.handover.client();
    client.send("PING\0rest\r\nPING after\r\n");
    client.expect("+PONG\r\n$5\r\nafter\r\n");
}

/// Row 12: five million headers are one mistake.
#[test]
fn headers_without_end_are_closed_at_the_second() {
    let pair = serve("");
    let mut client = pair.handover.client();
    client.send_while_taken(&b"*1\r\n".repeat(5_000_000), PATIENCE);
    let answer = client.read_to_end();
    assert!(
        answer.is_empty() || answer == b"-ERR Protocol error: expected '$', got '*'\r\n",
        "{}",
        answer.escape_ascii()
    );
    assert_eq!(pair.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
    expect_closed(&pair.handover, "protocol_error", 1.0);
}

/// Row 13: a name of 64 KiB is an unknown command, and its error is no longer than Redis's.
#[test]
fn a_long_name_is_an_unknown_command() {
    let pair = serve("");
    let frame = encode(&["n".repeat(65_536), "argument".into()]);
    let got = talk(pair.handover.client(), &frame, Cuts::Whole);
    assert_eq!(got, talk(pair.reference.client(), &frame, Cuts::Whole));
    assert!(got.1 && got.0.len() < 1024);
}

/// Row 14: who speaks HTTP here is a browser that somebody else drives; nothing of it reaches a backend.
#[test]
fn http_is_closed_before_anything_is_forwarded() {
    let pair = serve("");
    pair.handover.expect_warning("HTTP or TLS");
    let since = Instant::now();
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\n\r\nSET http 1\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nSET http 1\r\n",
        "hOsT: x\r\nSET http 1\r\n",
        "PUT / HTTP/1.1\r\nSET http 1\r\n",
        "OPTIONS / HTTP/1.1\r\nSET http 1\r\n",
    ] {
        let mut client = pair.handover.client();
        client.send(request);
        let answer = client.read_to_end();
        // `GET / HTTP/1.1` is a GET of three words to Redis, until `Host:` shows what it is.
        let is_get = request.starts_with("GET");
        assert!(answer.is_empty() || is_get && answer.starts_with(b"-ERR"), "{request:?}: {}", answer.escape_ascii());
    }
    assert_eq!(pair.backend.command(&["EXISTS", "http"]).integer(), 0);
    expect_closed(&pair.handover, "foreign_protocol", 5.0);
    pair.handover.expect_metric("handover_protocol_errors_total", &[("class", "client_foreign")], 5.0);
    pair.handover.wait_for_log(|line| line.text.contains("HTTP or TLS"), PATIENCE);
    let warnings = pair.handover.log().iter().filter(|line| line.text.contains("HTTP or TLS")).count();
    assert!(warnings as u64 <= 1 + since.elapsed().as_secs(), "one warning a second, not {warnings}");
}

/// Row 15: a TLS hello on the plain port.
#[test]
fn a_tls_hello_is_closed_at_once() {
    let pair = serve("");
    pair.handover.expect_warning("HTTP or TLS");
    let mut client = pair.handover.client();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    client.expect_end();
    pair.handover.wait_for_log(|line| line.text.contains("HTTP or TLS"), PATIENCE);
}

/// Row 17: who does not read is not read, and nobody else notices.
#[test]
fn a_client_that_does_not_read_its_replies_is_not_read() {
    let pair = serve("");
    let mut greedy = pair.handover.client();
    let pings = encode(&["PING"]).repeat(1_000_000);
    let sent = greedy.send_while_taken(&pings, SILENCE);
    let before = resident_bytes(&pair.handover);
    assert!(before < 256 << 20, "{before} bytes");
    let mut other = pair.handover.client();
    for _ in 0..100 {
        assert_eq!(
            other.command(&["INCR", "n"]),
            Value::Integer(pair.backend.command(&["GET", "n"]).text().parse().unwrap())
        );
    }
    let whole = sent / encode(&["PING"]).len();
    greedy.expect("+PONG\r\n".repeat(whole));
}

/// Row 18: whoever ends sending still gets every reply. (But for commands that go on blocking: whoever may be gone is
/// given no element that would then be lost.)
#[test]
fn a_half_closed_client_gets_all_its_replies() {
    let pair = serve("");
    let mut client = pair.handover.client();
    for number in 0..2_000 {
        client.send(encode(&["RPUSH", "list", &number.to_string()]));
    }
    client.send(encode(&["EVAL", "return redis.call('lpop', KEYS[1])", "1", "list"]));
    client.send(encode(&["MULTI"]));
    client.send(encode(&["LLEN", "list"]));
    client.send(encode(&["EXEC"]));
    client.shut_down_sending();
    for number in 1..=2_000 {
        assert_eq!(client.read_reply().integer(), number);
    }
    client.expect("$1\r\n0\r\n+OK\r\n+QUEUED\r\n*1\r\n:1999\r\n");
    client.expect_end();
}

/// Row 19: a reset in the middle of a large value leaves nothing behind.
#[test]
fn a_reset_within_a_large_value_is_forgotten() {
    let pair = serve("");
    let mut other = pair.handover.client();
    for _ in 0..3 {
        let mut client = pair.handover.client();
        client.send("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$60000000\r\n");
        client.send(vec![b'x'; 20_000_000]);
        client.reset();
        assert_eq!(other.command(&["PING"]), Value::Simple("PONG".into()));
        assert_eq!(other.command(&["SET", "k", "v"]), Value::ok());
        assert_eq!(other.command(&["GET", "k"]), Value::bulk("v"));
    }
    wait_until(PATIENCE, || pair.handover.metric("handover_clients", &[]) == 1.0);
    assert_eq!(pair.backend.command(&["EXISTS", "big"]).integer(), 0);
}

/// Row 20: the replies of one that vanished reach nobody.
#[test]
fn a_client_that_vanishes_takes_its_replies_along() {
    let pair = serve("");
    let mut other = pair.handover.client();
    for round in 0..5 {
        let mut client = pair.handover.client();
        let key = format!("round{round}");
        client.send(encode(&["RPUSH", &key, "of-the-vanished"]).repeat(1_000));
        // Its commands are under way once the first of them has been applied.
        wait_until(PATIENCE, || other.command(&["LLEN", &key]).integer() > 0);
        client.reset();
        for number in 0..100 {
            let value = format!("{round}-{number}");
            other.send(encode(&["SET", "mine", &value]));
            other.send(encode(&["GET", "mine"]));
            assert_eq!(other.read_reply(), Value::ok());
            assert_eq!(other.read_reply(), Value::bulk(value));
        }
    }
}

/// Row 21, in small: connections that never finish a request are cheap and in nobody's way.
#[test]
fn clients_that_never_finish_are_cheap() {
    const CLIENTS: usize = 500;
    let pair = serve("");
    let before = resident_bytes(&pair.handover);
    let mut idle: Vec<RawClient> = (0..CLIENTS).map(|_| pair.handover.client()).collect();
    for byte in [b"*", b"2", b"\r"] {
        idle.iter_mut().for_each(|client| client.send(byte));
    }
    assert_eq!(pair.handover.client().command(&["PING"]), Value::Simple("PONG".into()));
    let each = resident_bytes(&pair.handover).saturating_sub(before) / CLIENTS as u64;
    assert!(each < 32 * 1024, "{each} bytes a client");
}

/// Row 28: pins are taken up to the cap; beyond it a clear error, and those who have one keep it.
#[test]
fn blocked_clients_are_pinned_up_to_the_cap() {
    let pair = serve("limits.pins_per_backend = 3\nlimits.pin_wait = '100ms'\n");
    let mut blocked: Vec<RawClient> = (0..3).map(|_| pair.handover.client()).collect();
    for (number, client) in blocked.iter_mut().enumerate() {
        client.send(encode(&["BLPOP", &format!("list{number}"), "0"]));
    }
    wait_until(PATIENCE, || pair.backend.command(&["INFO", "clients"]).text().contains("blocked_clients:3"));
    let mut late = pair.handover.client();
    let refused = late.command(&["BLPOP", "late", "0"]);
    assert!(refused.text().contains("no connection of its own is free"), "{refused:?}");
    let mut shared = pair.handover.client();
    for (number, client) in blocked.iter_mut().enumerate() {
        let list = format!("list{number}");
        assert_eq!(shared.command(&["RPUSH", &list, "x"]).integer(), 1);
        assert_eq!(client.read_reply(), Value::Array(vec![Value::bulk(&list), Value::bulk("x")]));
    }
    assert_eq!(late.command(&["RPUSH", "late", "y"]).integer(), 1);
    wait_until(PATIENCE, || late.command(&["BLPOP", "late", "0.01"]) != refused);
}

/// Row 29: keys, values and channels of every byte, of none, and of 60 MB.
#[test]
fn every_byte_passes() {
    let pair = serve("");
    let mut client = pair.handover.client();
    let all: Vec<u8> = (0..=255).collect();
    for value in [all.clone(), Vec::new(), b"\r\n".to_vec(), b"$-1\r\n".to_vec(), vec![0; 100_000]] {
        assert_eq!(client.command(&[b"SET".as_slice(), &value, &value]), Value::ok());
        assert_eq!(client.command(&[b"GET".as_slice(), &value]), Value::Bulk(value.clone()));
        assert_eq!(client.command(&[b"ECHO".as_slice(), &value]), Value::Bulk(value.clone()));
        let mut subscriber = pair.handover.client();
        subscriber.send_command(&[b"SUBSCRIBE".as_slice(), &value]);
        assert_eq!(subscriber.read_reply().elements()[1], Value::Bulk(value.clone()));
        assert_eq!(client.command(&[b"PUBLISH".as_slice(), &value, &value]).integer(), 1);
        let message = subscriber.read_reply();
        assert_eq!(message.elements()[1..], [Value::Bulk(value.clone()), Value::Bulk(value)]);
    }
    for byte in &all {
        assert_eq!(client.command(&[b"SET".as_slice(), &[*byte], &[*byte; 3]]), Value::ok());
    }
    assert!(all.iter().all(|byte| client.command(&[b"GET".as_slice(), &[*byte]]) == Value::Bulk(vec![*byte; 3])));
}

#[test]
fn a_value_of_sixty_megabytes_passes() {
    let pair = serve("");
    let mut client = pair.handover.client();
    let value: Vec<u8> = (0..60_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(client.command(&[b"SET".as_slice(), b"big", &value]), Value::ok());
    client.send(encode(&["GET", "big"]));
    client.send(encode(&["GET", "none"]));
    assert!(client.read_reply() == Value::Bulk(value), "another value");
    assert_eq!(client.read_reply(), Value::Null);
}

/// A request of many small arguments may be larger than what is held of a client that waits.
#[test]
fn a_request_of_a_hundred_thousand_arguments_passes() {
    let pair = serve("");
    let mut words = vec!["MSET".to_owned()];
    words.extend((0..100_000).flat_map(|number| [format!("key{number}"), format!("value{number}")]));
    let mut client = pair.handover.client();
    assert_eq!(client.command(&words), Value::ok());
    assert_eq!(client.command(&["GET", "key99999"]), Value::bulk("value99999"));
    assert_eq!(pair.backend.command(&["DBSIZE"]).integer(), 100_000);
}

/// Row 30: a hundred thousand channels.
#[test]
fn subscriptions_without_number_are_confirmed_as_redis_confirms_them() {
    let pair = serve("");
    let channels: Vec<String> = (0..100_000).map(|number| format!("channel{number}")).collect();
    let words: Vec<&str> = std::iter::once("SUBSCRIBE").chain(channels.iter().map(String::as_str)).collect();
    let frame = encode(&words);
    let mut client = pair.handover.client().patient();
    client.send(&frame);
    for (index, channel) in channels.iter().enumerate() {
        let count = index + 1;
        client.expect(format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:{count}\r\n", channel.len()));
    }
    assert_eq!(pair.handover.client().command(&["PUBLISH", "channel99999", "x"]).integer(), 1);
    client.expect("*3\r\n$7\r\nmessage\r\n$12\r\nchannel99999\r\n$1\r\nx\r\n");
}

/// RESP3, switched on in the middle of a pipeline: replies before and after have their own form.
#[test]
fn the_protocol_version_changes_exactly_there() {
    let pair = serve("");
    let script = b"HSET h f v\r\nHGETALL h\r\nHELLO 3\r\nHGETALL h\r\nGET none\r\nHELLO 2\r\nHGETALL h\r\nGET none\r\n";
    for cuts in [Cuts::Whole, Cuts::Bytes] {
        let mut client = pair.handover.client();
        cuts.send(&mut client, script);
        client.read_reply();
        client.expect("*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
        assert!(matches!(client.read_reply(), Value::Map(_)));
        client.expect("%1\r\n$1\r\nf\r\n$1\r\nv\r\n_\r\n");
        assert!(matches!(client.read_reply(), Value::Array(_)));
        client.expect("*2\r\n$1\r\nf\r\n$1\r\nv\r\n$-1\r\n");
    }
}

#[track_caller]
fn expect_closed(handover: &Handover, reason: &str, count: f64) {
    handover.expect_metric("handover_clients_closed_total", &[("reason", reason)], count);
}

fn resident_bytes(handover: &Handover) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", handover.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a kernel that says it");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number of kB") * 1024
}
