//! What Handover takes in memory: for idle clients, after they did what leaves something behind, for large values.
//!
//! `cargo bench --bench memory -- --most 10000 --mib 100`
//!
//! Each client has sent a PING, a SET and a GET and then sits there, as those of a pool do.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{Options, resident_kib};
use support::{Handover, RawClient, RedisServer};

const STEPS: [usize; 5] = [0, 50, 1_000, 5_000, 10_000];
/// What is freed late is freed by then.
const SETTLE: Duration = Duration::from_secs(1);
const DESCRIPTORS_RESERVED: usize = 100;
/// Commands of a client in one write.
const PIPELINE: usize = 1_000;
/// Clients whose pipelines are under way at a time.
const PIPELINES: usize = 100;
/// A value above what a shared connection carries at once, and below what is passed on as it comes.
const MEDIUM_BYTES: usize = 50_000;
/// Large values in a row, and at once.
const AT_ONCE: [usize; 3] = [1, 1, 4];
const CHUNK_BYTES: usize = 64 * 1024;

/// What all clients do, and its name.
type Use = (&'static str, fn(&mut [RawClient]));
/// What is done with a large value of this number and length, and its name.
type Transfer = (&'static str, fn(SocketAddr, usize, usize));

fn main() {
    let options = Options::parse(&["most", "mib"]);
    let most = options.get("most", 10_000).min(common::raise_open_files() - DESCRIPTORS_RESERVED);
    let large_bytes = options.get("mib", 100_usize) << 20;
    common::print_machine();
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let handover = start(&east, &west);
    measure_clients(&handover, most);
    // Another process, in whose memory nobody has left anything.
    let handover = start(&east, &west);
    measure_large_values(&handover, large_bytes);
}

fn start(east: &RedisServer, west: &RedisServer) -> Handover {
    Handover::builder(&format!(
        "[limits]\nclients = 20000\n\
         [[backend]]\nname = \"east\"\nurl = \"redis://{}\"\nweight = 2.0\n\
         [[backend]]\nname = \"west\"\nurl = \"redis://{}\"\nweight = 1.0\n",
        east.address(),
        west.address()
    ))
    .allow_warning("")
    .start()
}

fn measure_clients(handover: &Handover, most: usize) {
    println!(
        "\n| idle clients | RSS KiB | KiB a client (all) | KiB a client (since the row above) |\n|---|---|---|---|"
    );
    let mut clients: Vec<RawClient> = Vec::new();
    let (mut without, mut before) = (0.0, (0, 0.0));
    for step in STEPS.into_iter().filter(|&step| step <= most) {
        clients.extend((clients.len()..step).map(|_| used_client(handover)));
        std::thread::sleep(SETTLE);
        let resident = resident_kib(handover.pid());
        if step == 0 {
            without = resident;
        }
        let all = (resident - without) / step as f64;
        let since = (resident - before.1) / (step - before.0) as f64;
        println!(
            "| {step} | {resident:.0} | {} | {} |",
            or_dash(all),
            if step == 0 { "–".into() } else { or_dash(since) }
        );
        before = (step, resident);
    }

    println!("\n| what each of {} did since | RSS KiB | KiB a client (all) |\n|---|---|---|", clients.len());
    let uses: [Use; 4] = [
        ("SUBSCRIBE, UNSUBSCRIBE", |clients| clients.iter_mut().for_each(subscribe)),
        ("MULTI, SET, EXEC", |clients| clients.iter_mut().for_each(transact)),
        ("1,000 SETs in one write, 100 clients at once", |clients| clients.chunks_mut(PIPELINES).for_each(pipeline)),
        ("SET and GET of 50 kB", |clients| clients.iter_mut().for_each(exchange_medium)),
    ];
    for (name, used) in uses {
        used(&mut clients);
        std::thread::sleep(SETTLE);
        let resident = resident_kib(handover.pid());
        println!("| {name} | {resident:.0} | {} |", or_dash((resident - without) / clients.len() as f64));
    }
}

fn used_client(handover: &Handover) -> RawClient {
    let mut client = handover.client();
    for command in [&["PING"][..], &["SET", "key", "value"], &["GET", "key"]] {
        carry_out(&mut client, command);
    }
    client
}

fn carry_out(client: &mut RawClient, command: &[&str]) {
    assert!(!matches!(client.command(command), support::Value::Error(_)), "{command:?} failed");
}

fn subscribe(client: &mut RawClient) {
    carry_out(client, &["SUBSCRIBE", "channel"]);
    carry_out(client, &["UNSUBSCRIBE", "channel"]);
}

fn transact(client: &mut RawClient) {
    for command in [&["MULTI"][..], &["SET", "key", "value"], &["EXEC"]] {
        carry_out(client, command);
    }
}

fn pipeline(clients: &mut [RawClient]) {
    let request = "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n".repeat(PIPELINE);
    clients.iter_mut().for_each(|client| client.send(&request));
    let replies = "+OK\r\n".repeat(PIPELINE);
    clients.iter_mut().for_each(|client| client.expect(&replies));
}

fn exchange_medium(client: &mut RawClient) {
    let value = "v".repeat(MEDIUM_BYTES);
    carry_out(client, &["SET", "medium", &value]);
    carry_out(client, &["GET", "medium"]);
}

fn measure_large_values(handover: &Handover, bytes: usize) {
    let mib = bytes >> 20;
    println!("\n| {mib} MiB | at once | peak above, KiB | kept afterwards, KiB |\n|---|---|---|---|");
    let kinds: [Transfer; 2] = [("SET", set_large), ("GET", get_large)];
    for at_once in AT_ONCE {
        for (name, carry_out) in kinds {
            forget_peak(handover.pid());
            let before = resident_kib(handover.pid());
            std::thread::scope(|scope| {
                for number in 0..at_once {
                    scope.spawn(move || carry_out(handover.address(), number, bytes));
                }
            });
            let peak = peak_resident_kib(handover.pid()) - before;
            std::thread::sleep(SETTLE);
            let kept = resident_kib(handover.pid()) - before;
            println!("| {name} | {at_once} | {peak:.0} | {kept:.0} |");
        }
    }
}

fn set_large(address: SocketAddr, number: usize, bytes: usize) {
    let mut client = TcpStream::connect(address).expect("Handover listens");
    let head = format!("*3\r\n$3\r\nSET\r\n$6\r\nlarge{number}\r\n${bytes}\r\n");
    client.write_all(head.as_bytes()).expect("Handover reads");
    let chunk = vec![b'v'; CHUNK_BYTES];
    for from in (0..bytes).step_by(CHUNK_BYTES) {
        client.write_all(&chunk[..CHUNK_BYTES.min(bytes - from)]).expect("Handover reads");
    }
    client.write_all(b"\r\n").expect("Handover reads");
    let mut reply = [0; 5];
    client.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply, *b"+OK\r\n");
}

fn get_large(address: SocketAddr, number: usize, bytes: usize) {
    let mut client = TcpStream::connect(address).expect("Handover listens");
    write!(client, "*2\r\n$3\r\nGET\r\n$6\r\nlarge{number}\r\n").expect("Handover reads");
    let mut missing = format!("${bytes}\r\n\r\n").len() + bytes;
    let mut chunk = vec![0; CHUNK_BYTES];
    while missing > 0 {
        let read = client.read(&mut chunk).expect("a reply");
        assert!(read > 0, "the connection ended {missing} bytes before the reply's end");
        missing = missing.checked_sub(read).expect("one reply, and nothing behind it");
    }
}

/// The most that a process had since [`forget_peak`].
fn peak_resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// Lets the peak begin anew with what a process has now.
fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of ours");
}

fn or_dash(kib: f64) -> String {
    if kib.is_finite() { format!("{kib:.2}") } else { "–".to_owned() }
}
