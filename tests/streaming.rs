//! Values up to 512 MiB, passed on as they come: byte for byte, in bounded memory, and in nobody's way.

mod support;

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use support::{Handover, PATIENCE, Pair, RawClient, RedisServer, Value, wait_until};

const MIB: usize = 1 << 20;
/// What a worker's own buffers and an upload or a long reply may add to the memory of the process.
const GROWTH_MAX_BYTES: usize = 4 * MIB;

/// One MiB of a value: no two are the same, nor the bytes in it.
fn piece(number: usize) -> Vec<u8> {
    let mut bytes = (0..=u8::MAX).cycle().take(251).collect::<Vec<u8>>().repeat(MIB / 251 + 1);
    bytes.truncate(MIB);
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn header(key: &str, length: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${length}\r\n", key.len())
}

/// Sends these pieces of a value.
fn send_pieces(client: &mut RawClient, numbers: Range<usize>) {
    numbers.for_each(|number| client.send(piece(number)));
}

/// Reads a value of so many pieces.
#[track_caller]
fn expect_value(client: &mut RawClient, pieces: usize) {
    client.expect(format!("${}\r\n", pieces * MIB));
    for number in 0..pieces {
        assert!(client.read_bytes(MIB) == piece(number), "piece {number} is not what was sent");
    }
    client.expect("\r\n");
}

/// The most memory that the process had at a time, since [`forget_peak`].
fn peak_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells the peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number of KiB") * 1024
}

fn forget_peak(pid: u32) {
    let file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/clear_refs"));
    file.and_then(|mut file| file.write_all(b"5")).expect("one's own process may be reset");
}

/// One server, and Handover before it.
fn one(settings: &str) -> (RedisServer, Handover) {
    let server = RedisServer::start();
    let url = format!("redis://{}", server.address());
    let backend = format!("runtime.workers = 1\nbackend = [{{ name = 'east', url = '{url}' }}]\n");
    let handover = Handover::builder(&format!("{backend}{settings}")).expect_warning("nothing to hand over to").start();
    (server, handover)
}

/// A server may take long for very much, and is not to be called silent for it.
const PATIENT: &str = "detector.hang_timeout = '8s'\ndetector.slow_timeout = '9s'\nhealth.timeout = '5s'\n\
    failover.hold = '6s'\n";

/// Rows 8 and 29.
#[test]
fn a_hundred_mebibytes_there_and_back_in_bounded_memory() {
    const PIECES: usize = 100;
    let (server, handover) = one(PATIENT);
    let mut client = handover.client();
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".into()));
    forget_peak(handover.pid());
    let before = peak_bytes(handover.pid());

    client.send(header("k", PIECES * MIB));
    send_pieces(&mut client, 0..PIECES);
    client.send("\r\n");
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(server.command(&["STRLEN", "k"]).integer(), (PIECES * MIB) as i64);
    client.send_command(&["GET", "k"]);
    expect_value(&mut client, PIECES);

    let growth = peak_bytes(handover.pid()) - before;
    assert!(growth <= GROWTH_MAX_BYTES, "{growth} bytes more than before");
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".into()));
}

/// Row 8: Redis's own limit is the limit.
#[test]
fn more_than_512_mebibytes_are_refused_at_once() {
    let (_server, handover) = one(PATIENT);
    let mut client = handover.client();
    client.send(header("k", 536_870_912));
    client.expect_silence(Duration::from_millis(100));
    let mut client = handover.client();
    client.send(header("k", 536_870_913));
    assert_eq!(client.read_reply().text(), "ERR Protocol error: invalid bulk length");
    client.expect_end();
}

/// The backend dies when half of it was written: nothing was applied, and the same client goes on.
#[test]
fn a_backend_that_dies_in_the_middle_has_applied_nothing() {
    const PIECES: usize = 20;
    let mut pair = Pair::builder().configuration("limits.value_bytes = '32MiB'").start();
    let (mut client, mut other) = (pair.client(), pair.client());
    client.send(header("k", PIECES * MIB));
    send_pieces(&mut client, 0..PIECES / 2);
    wait_until(PATIENCE, || pair.relay.request_bytes() > (PIECES * MIB / 4) as u64);
    pair.fail_over();
    assert_eq!(other.command(&["SET", "a", "1"]), Value::ok());
    send_pieces(&mut client, PIECES / 2..PIECES);
    client.send("\r\n");
    let not_applied = "LOADING handover: no backend can serve; the command was not applied";
    assert_eq!(client.read_reply(), Value::Error(not_applied.into()));
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    assert_eq!(pair.east.command(&["EXISTS", "k"]), Value::Integer(0));

    client.send(header("k", PIECES * MIB));
    send_pieces(&mut client, 0..PIECES);
    client.send("\r\n");
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(pair.west.command(&["STRLEN", "k"]).integer(), (PIECES * MIB) as i64);
}

/// A planned switch in the middle of an upload is not called off by it.
#[test]
fn an_upload_does_not_call_a_planned_switch_off() {
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut client = pair.client();
    client.send(header("k", 4 * MIB));
    send_pieces(&mut client, 0..2);
    pair.wait_for_sessions("pinned", 1);
    pair.fail_back();
    assert!(pair.called_off().is_empty());
    send_pieces(&mut client, 2..4);
    client.send("\r\n");
    assert!(client.read_reply().is_error("LOADING"));
    assert_eq!(pair.west.command(&["EXISTS", "k"]), Value::Integer(0));
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    assert_eq!(pair.east.command(&["GET", "k"]), Value::bulk("v"));
}

/// Row 7: whoever sends one byte after the other is in nobody's way, and says nothing of the backend.
#[test]
fn a_crawling_upload_is_in_nobodys_way() {
    let (server, handover) = one("");
    let (mut slow, mut other) = (handover.client(), handover.client());
    slow.send(header("k", 2 * MIB));
    slow.send(piece(0));
    let second = piece(1);
    slow.send(&second[..MIB - 4]);
    for (sent, byte) in second[MIB - 4..].iter().enumerate() {
        std::thread::sleep(Duration::from_secs(1));
        slow.send([*byte]);
        assert_eq!(other.command(&["INCR", "n"]), Value::Integer(sent as i64 + 1));
    }
    assert_eq!(other.command(&["EXISTS", "k"]), Value::Integer(0));
    slow.send("\r\n");
    assert_eq!(slow.read_reply(), Value::ok());
    assert_eq!(server.command(&["GET", "k"]).bytes(), [piece(0), piece(1)].concat());
}

/// Row 19: nothing of it was applied, and others go on.
#[test]
fn a_client_that_resets_in_the_middle_leaves_nothing_behind() {
    let (server, handover) = one(PATIENT);
    let mut other = handover.client();
    for key in ["a", "b", "c"] {
        let mut client = handover.client();
        client.send(header(key, 100 * MIB));
        send_pieces(&mut client, 0..5);
        client.reset();
        assert_eq!(other.command(&["EXISTS", key]), Value::Integer(0));
    }
    wait_until(PATIENCE, || handover.metric("handover_sessions", &[("mode", "pinned")]) == 0.0);
    assert_eq!(server.command(&["DBSIZE"]), Value::Integer(0));
}
