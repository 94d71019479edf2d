//! Random streams of commands to Handover and straight to a server: every reply the same, byte for byte.
//!
//! Every command of the table is sent, with arguments that fit and that do not, as frames and inline, cut anywhere,
//! pipelined, by several clients side by side, each in databases of its own. What may rightly differ stands in
//! `rules.rs`, each with its reason. A failure names its seed and the fewest commands that still differ.
//!
//! `DIFFERENTIAL_STREAMS=<count>` runs so many in each test; `DIFFERENTIAL_SEED=<seed>` runs the batch that a failure
//! named.

mod support;

#[path = "differential/frame.rs"]
mod frame;
#[path = "differential/grammar.rs"]
mod grammar;
#[path = "differential/random.rs"]
mod random;
#[path = "differential/rules.rs"]
mod rules;
#[path = "differential/run.rs"]
mod run;

use std::collections::BTreeSet;
use std::time::Instant;

use grammar::Author;
use random::Random;
use run::{Ending, Servers, Stream, shown, smallest};
use support::{Handover, PATIENCE, RedisServer, Value};

/// In each test: 20,000 in all.
const STREAMS: u64 = 4000;
const CLIENTS: usize = 8;

/// After each, the connection ends.
const NONSENSE: &[&[u8]] = &[
    b"*2\r\n:1\r\n",
    b"*1\r\n*1\r\n",
    b"*99999999999999999999999\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n+PING\r\n",
    b"get \"x\r\n",
    b"*x\r\n",
    b"*1\r\n$99999999999\r\n",
];

/// Handover before a server, and another server beside it.
struct Bench {
    // First, so that it ends first.
    handover: Handover,
    backend: RedisServer,
    direct: RedisServer,
    dumps: Vec<Vec<u8>>,
}

impl Bench {
    fn start(workers: usize) -> Self {
        let server = || RedisServer::builder().directive("databases 32").directive("hz 500").start();
        let (backend, direct) = (server(), server());
        // Patient: two noisy cores are no fault of the backend.
        let configuration = format!(
            "[runtime]\nworkers = {workers}\n[health]\ntimeout = \"5s\"\n[failover]\nhold = \"9s\"\n\
             [detector]\nsuspect_after = \"8s\"\nhang_timeout = \"9s\"\nslow_timeout = \"9s\"\n\
             [[backend]]\nname = \"only\"\nurl = \"redis://{}\"\n",
            backend.address()
        );
        let handover = Handover::builder(&configuration).allow_warning("has only one").start();
        let dumps = dumps(&direct);
        Self { handover, backend, direct, dumps }
    }

    fn servers(&self) -> Servers {
        Servers { handover: self.handover.address(), direct: self.direct.address(), backend: self.backend.address() }
    }

    /// Streams of one batch, each of a client of its own.
    fn batch(&self, seed: u64, clients: usize) -> Vec<Stream> {
        let mut random = Random::new(seed);
        (0..clients)
            .map(|number| {
                let mut author = Author {
                    random: Random::new(random.next()),
                    base: 1 + number * 2,
                    is_alone: clients == 1,
                    turn: (clients == 1).then_some(seed as usize),
                    dumps: &self.dumps,
                };
                let commands = author.stream();
                let is_patient = random.chance(50);
                let waits = (0..commands.len()).filter(|_| is_patient && random.chance(30)).collect();
                let ending = match random.below(40) {
                    0..3 => Ending::Quit,
                    3 => Ending::Nonsense(NONSENSE[random.below(NONSENSE.len())]),
                    _ => Ending::Ping,
                };
                Stream { commands, waits, cut: Some(random.next()), ending }
            })
            .collect()
    }

    fn run(&self, seed: u64, clients: usize) -> Vec<Stream> {
        let streams = self.batch(seed, clients);
        if let Some((client, difference)) = self.servers().compare(&streams, seed, PATIENCE) {
            let stream = &streams[client];
            // At once: should the shrinking take too long, this is still there.
            eprintln!(
                "DIFFERENTIAL_SEED={seed}, client {client}:\n{}at {}: {}",
                shown(stream),
                difference.command,
                difference.text
            );
            match smallest(&self.servers(), stream) {
                Some((least, difference)) => panic!(
                    "alone, and with the fewest commands:\n{}at {}: {}",
                    shown(&least),
                    difference.command,
                    difference.text
                ),
                None => panic!("not alone: only beside the other clients"),
            }
        }
        streams
    }
}

/// Values that RESTORE takes.
fn dumps(server: &RedisServer) -> Vec<Vec<u8>> {
    let mut client = server.client();
    let commands: [&[&str]; 4] =
        [&["SET", "k", "text"], &["RPUSH", "k", "a", "b"], &["ZADD", "k", "1", "a"], &["XADD", "k", "1-1", "f", "v"]];
    commands
        .iter()
        .map(|command| {
            client.command(&["DEL", "k"]);
            assert!(!matches!(client.command(command), Value::Error(_)));
            client.command(&["DUMP", "k"]).bytes().to_vec()
        })
        .collect()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// As many streams as wanted, a batch of clients at a time.
fn run(first_seed: u64, workers: usize, clients: usize) {
    let bench = Bench::start(workers);
    if let Some(seed) = from_environment("DIFFERENTIAL_SEED") {
        bench.run(seed, clients);
        return;
    }
    let streams = from_environment("DIFFERENTIAL_STREAMS").unwrap_or(STREAMS);
    let (mut names, mut commands) = (BTreeSet::new(), 0);
    let start = Instant::now();
    for batch in 0..streams.div_ceil(clients as u64) {
        for stream in bench.run(first_seed + batch, clients) {
            commands += stream.commands.len();
            names.extend(stream.commands.iter().map(rules::name_of));
        }
    }
    println!("{streams} streams, {commands} commands, {:?}", start.elapsed());
    if clients == 1 && streams >= STREAMS {
        let unsent = grammar::unsent(&names);
        assert!(unsent.is_empty(), "commands of the table that were not sent: {unsent:?}");
    }
}

#[test]
fn clients_side_by_side_cannot_tell_handover_from_redis() {
    run(0, 1, CLIENTS);
}

#[test]
fn more_clients_side_by_side_cannot_tell_handover_from_redis() {
    run(1 << 32, 1, CLIENTS);
}

#[test]
fn still_more_clients_side_by_side_cannot_tell_handover_from_redis() {
    run(2 << 32, 1, CLIENTS);
}

#[test]
fn clients_of_two_workers_cannot_tell_handover_from_redis() {
    run(3 << 32, 2, CLIENTS);
}

#[test]
fn a_client_alone_cannot_tell_handover_from_redis() {
    run(4 << 32, 1, 1);
}
