//! Values up to 512 MiB, passed on as they come: byte for byte, in bounded memory, and in nobody's way.

mod support;

use std::fs;
use std::io::Write;
use std::time::Duration;

use sha2::{Digest, Sha256};
use support::{Handover, PATIENCE, Pair, RawClient, RedisServer, Value, wait_until};

const MIB: usize = 1 << 20;
/// What a worker's own buffers and an upload or a long reply may add to the memory of the process.
const GROWTH_MAX_BYTES: usize = 16 * MIB;

/// A part of a value, in which every byte's place can be told.
fn piece(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

fn header(key: &str, length: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${length}\r\n", key.len())
}

/// Sends a value in pieces; returns its checksum.
fn send_value(client: &mut RawClient, length: usize) -> Vec<u8> {
    let mut digest = Sha256::new();
    for start in (0..length).step_by(MIB) {
        let bytes = piece(start, MIB.min(length - start));
        digest.update(&bytes);
        client.send(&bytes);
    }
    client.send("\r\n");
    digest.finalize().to_vec()
}

/// Reads a bulk reply in pieces; returns its checksum.
fn read_value(client: &mut RawClient, length: usize) -> Vec<u8> {
    client.expect(format!("${length}\r\n"));
    let mut digest = Sha256::new();
    for start in (0..length).step_by(MIB) {
        digest.update(client.read_bytes(MIB.min(length - start)));
    }
    client.expect("\r\n");
    digest.finalize().to_vec()
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
fn one() -> (RedisServer, Handover) {
    let server = RedisServer::start();
    let url = format!("redis://{}", server.address());
    let handover = Handover::builder(&format!("runtime.workers = 1\nbackend = [{{ name = 'east', url = '{url}' }}]"))
        .expect_warning("nothing to hand over to")
        .start();
    (server, handover)
}

/// Rows 8 and 29.
#[test]
fn a_hundred_mebibytes_there_and_back_in_bounded_memory() {
    const LENGTH: usize = 100 * MIB;
    let (server, handover) = one();
    let mut client = handover.client();
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".into()));
    forget_peak(handover.pid());
    let before = peak_bytes(handover.pid());

    client.send(header("k", LENGTH));
    let sent = send_value(&mut client, LENGTH);
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(server.command(&["STRLEN", "k"]).integer(), LENGTH as i64);
    client.send_command(&["GET", "k"]);
    assert!(read_value(&mut client, LENGTH) == sent, "what came back is not what was sent");

    let growth = peak_bytes(handover.pid()) - before;
    assert!(growth <= GROWTH_MAX_BYTES, "{growth} bytes more than before");
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".into()));
}

/// Row 8: Redis's own limit is the limit.
#[test]
fn more_than_512_mebibytes_are_refused_at_once() {
    let (_server, handover) = one();
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
    const LENGTH: usize = 20 * MIB;
    let mut pair = Pair::builder().configuration("limits.value_bytes = '32MiB'").start();
    let (mut client, mut other) = (pair.client(), pair.client());
    client.send(header("k", LENGTH));
    client.send(piece(0, LENGTH / 2));
    wait_until(PATIENCE, || pair.relay.request_bytes() > LENGTH as u64 / 4);
    pair.fail_over();
    assert_eq!(other.command(&["SET", "a", "1"]), Value::ok());
    client.send(piece(LENGTH / 2, LENGTH / 2));
    client.send("\r\n");
    assert_eq!(
        client.read_reply(),
        Value::Error("LOADING handover: no backend can serve; the command was not applied".into())
    );
    assert_eq!(client.command(&["GET", "k"]), Value::Null);
    assert_eq!(pair.east.command(&["EXISTS", "k"]), Value::Integer(0));

    client.send(header("k", LENGTH));
    send_value(&mut client, LENGTH);
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(pair.west.command(&["STRLEN", "k"]).integer(), LENGTH as i64);
}

/// A planned switch in the middle of an upload is not called off by it.
#[test]
fn an_upload_does_not_call_a_planned_switch_off() {
    const LENGTH: usize = 4 * MIB;
    let mut pair = Pair::builder().returning().start();
    pair.fail_over();
    let mut client = pair.client();
    client.send(header("k", LENGTH));
    client.send(piece(0, LENGTH / 2));
    pair.wait_for_sessions("pinned", 1);
    pair.fail_back();
    assert!(pair.called_off().is_empty());
    client.send(piece(LENGTH / 2, LENGTH / 2));
    client.send("\r\n");
    assert!(client.read_reply().is_error("LOADING"));
    assert_eq!(pair.west.command(&["EXISTS", "k"]), Value::Integer(0));
    assert_eq!(client.command(&["SET", "k", "v"]), Value::ok());
    assert_eq!(pair.east.command(&["GET", "k"]), Value::bulk("v"));
}

/// Row 7: whoever sends one byte after the other is in nobody's way, and says nothing of the backend.
#[test]
fn a_crawling_upload_is_in_nobodys_way() {
    let (server, handover) = one();
    let (mut slow, mut other) = (handover.client(), handover.client());
    slow.send(header("k", 2 * MIB));
    slow.send(piece(0, 2 * MIB - 4));
    for (sent, byte) in piece(2 * MIB - 4, 4).into_iter().enumerate() {
        std::thread::sleep(Duration::from_secs(1));
        slow.send([byte]);
        assert_eq!(other.command(&["INCR", "n"]), Value::Integer(sent as i64 + 1));
    }
    assert_eq!(other.command(&["EXISTS", "k"]), Value::Integer(0));
    slow.send("\r\n");
    assert_eq!(slow.read_reply(), Value::ok());
    assert_eq!(server.command(&["GET", "k"]).bytes(), piece(0, 2 * MIB));
}

/// Row 19: nothing of it was applied, and others go on.
#[test]
fn a_client_that_resets_in_the_middle_leaves_nothing_behind() {
    let (server, handover) = one();
    let mut other = handover.client();
    for key in ["a", "b", "c"] {
        let mut client = handover.client();
        client.send(header(key, 100 * MIB));
        client.send(piece(0, 5 * MIB));
        client.reset();
        assert_eq!(other.command(&["EXISTS", key]), Value::Integer(0));
    }
    wait_until(PATIENCE, || handover.metric("handover_sessions", &[("mode", "pinned")]) == 0.0);
    assert_eq!(server.command(&["DBSIZE"]), Value::Integer(0));
}
