//! What is counted. Each case is set up, then takes many turns of the same input, each of which is checked.

use std::hint::black_box;

use crate::command::policy::Policy;
use crate::logic::multiplexer::SessionKey;
use crate::logic::settings::PubSubMode;
use crate::machine::{Machine, bulks, measured_by_callgrind};
use crate::resp::reply::{ReplyScan, ReplyScanner};
use crate::resp::request::{RequestScanner, Scan};

/// Commands that each case is counted over: enough for what happens once in many commands to be in the mean.
const COMMANDS: u32 = 4096;
/// Enough for what is counted of setting a case up not to matter.
const TURNS_MIN: u32 = 128;
const KEY: &[u8] = b"key:000000000001";

/// One turn; returns how many bytes came out, or anything else that is the same each time.
type Turn = Box<dyn FnMut() -> usize>;

pub struct Case {
    pub name: String,
    /// Commands, or deliveries, of one turn.
    commands: u32,
    prepare: Box<dyn Fn() -> Turn>,
    /// What one turn must return.
    expected: usize,
}

impl Case {
    fn new<T: FnMut() -> usize + 'static>(
        name: impl Into<String>,
        commands: u32,
        expected: usize,
        prepare: impl Fn() -> T + 'static,
    ) -> Self {
        Self { name: name.into(), commands, prepare: Box::new(move || Box::new(prepare())), expected }
    }

    /// Carries the case out; what is counted is counted by whoever runs this program. Returns how many commands it was.
    pub fn run(&self) -> u32 {
        let mut turn = (self.prepare)();
        let turns = (COMMANDS / self.commands).max(TURNS_MIN);
        for _ in 0..turns {
            let came_out = turn();
            assert_eq!(came_out, self.expected, "{} does not do what it is to be measured for", self.name);
        }
        turns * self.commands
    }
}

/// All of them, from the inside outward.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, request) in requests() {
        cases.push(framing_of_a_request(format!("frame-request-{name}"), request));
    }
    for (name, reply) in [
        ("ok", b"+OK\r\n".to_vec()),
        ("64B", bulks(&[&[b'v'; 64]])[4..].to_vec()),
        ("1KiB", bulks(&[&[b'v'; 1024]])[4..].to_vec()),
        ("array-100", bulks(&[&[b'v'; 64][..]; 100])),
    ] {
        cases.push(framing_of_a_reply(format!("frame-reply-{name}"), reply));
    }
    cases.push(classification("classify-get", bulks(&[b"GET", KEY])));
    cases.push(classification("classify-set", bulks(&[b"SET", KEY, b"value"])));
    cases.push(classification("classify-client-setname", bulks(&[b"CLIENT", b"SETNAME", b"name"])));
    cases.push(classification("classify-xread", bulks(&[b"XREAD", b"COUNT", b"10", b"STREAMS", KEY, b"0"])));
    for pipeline in [1, 16, 64] {
        for (name, request) in requests() {
            cases.push(session(format!("session-{name}-p{pipeline}"), 1, 1, pipeline, request));
        }
    }
    for (name, backends) in [("50-clients", 1), ("50-clients-16-backends", 16)] {
        cases.push(session(format!("session-get-64B-p1-{name}"), backends, 50, 1, Request::get(64)));
    }
    cases.push(transaction());
    cases.push(blocking());
    for subscribers in [1, 100] {
        cases.push(delivery(subscribers));
    }
    cases
}

#[derive(Clone)]
struct Request {
    frame: Vec<u8>,
    value_bytes: usize,
    reply_bytes: usize,
}

impl Request {
    fn get(value_bytes: usize) -> Self {
        let frame = bulks(&[b"GET", KEY]);
        Self { frame, value_bytes, reply_bytes: bulks(&[&vec![b'v'; value_bytes]]).len() - 4 }
    }

    fn set(value_bytes: usize) -> Self {
        Self { frame: bulks(&[b"SET", KEY, &vec![b'v'; value_bytes]]), value_bytes, reply_bytes: 5 }
    }
}

fn requests() -> [(&'static str, Request); 4] {
    [
        ("get-64B", Request::get(64)),
        ("set-64B", Request::set(64)),
        ("get-1KiB", Request::get(1024)),
        ("set-1KiB", Request::set(1024)),
    ]
}

/// A pipeline of 16 in one buffer, request by request.
fn framing_of_a_request(name: String, request: Request) -> Case {
    let expected = request.frame.len() * 16;
    Case::new(name, 16, expected, move || {
        let input = request.frame.repeat(16);
        let mut scanner = RequestScanner::new(512 << 20);
        move || {
            let mut position = 0;
            measured_by_callgrind(|| {
                while let Scan::Frame(frame) = scanner.scan(black_box(&input[position..])) {
                    position += frame.bytes;
                }
            });
            position
        }
    })
}

fn framing_of_a_reply(name: String, reply: Vec<u8>) -> Case {
    let expected = reply.len() * 16;
    Case::new(name, 16, expected, move || {
        let input = reply.repeat(16);
        let mut scanner = ReplyScanner::new();
        move || {
            let mut position = 0;
            measured_by_callgrind(|| {
                while let ReplyScan::Complete { bytes, .. } = scanner.scan(black_box(&input[position..])) {
                    position += bytes;
                }
            });
            position
        }
    })
}

fn classification(name: &str, frame: Vec<u8>) -> Case {
    Case::new(name, 16, 16, move || {
        let (frame, policy) = (frame.clone(), Policy::default());
        let Scan::Frame(found) = RequestScanner::new(512 << 20).scan(&frame) else { panic!("{frame:?} is no request") };
        move || {
            measured_by_callgrind(|| {
                (0..16)
                    .filter(|_| policy.apply(black_box(&frame), black_box(found.name(&frame))).command.is_some())
                    .count()
            })
        }
    })
}

/// The whole machine: each client sends a pipeline, the backend answers all in one, the clients get their replies.
fn session(name: String, backends: u16, clients: u32, pipeline: u32, request: Request) -> Case {
    let commands = clients * pipeline;
    Case::new(name, commands, request.reply_bytes * commands as usize, move || {
        let mut machine = Machine::among(backends, PubSubMode::PerClient, request.value_bytes);
        let input = request.frame.repeat(pipeline as usize);
        let keys: Vec<SessionKey> = (0..clients).map(|_| machine.client()).collect();
        move || {
            for key in &keys {
                machine.say(*key, &input);
            }
            machine.serve()
        }
    })
}

/// MULTI, SET, GET and EXEC, each sent after the reply to the one before.
fn transaction() -> Case {
    let expected = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n$64\r\n\r\n".len() + 64;
    Case::new("transaction-in-pieces", 4, expected, || {
        let mut machine = Machine::new(PubSubMode::PerClient, 64);
        let client = machine.client();
        let pieces: [&[&[u8]]; 4] = [&[b"MULTI"], &[b"SET", KEY, &[b'v'; 64]], &[b"GET", KEY], &[b"EXEC"]];
        let pieces = pieces.map(bulks);
        move || {
            let mut heard = 0;
            for piece in &pieces {
                machine.say(client, piece);
                heard += machine.serve();
            }
            heard
        }
    })
}

/// BLPOP on a pin, and what ends it.
fn blocking() -> Case {
    let reply = bulks(&[KEY, &[b'v'; 64]]);
    Case::new("blocking-blpop", 1, reply.len(), || {
        let mut machine = Machine::new(PubSubMode::PerClient, 64);
        let client = machine.client();
        let request = bulks(&[b"BLPOP", KEY, b"0"]);
        move || {
            machine.say(client, &request);
            machine.serve()
        }
    })
}

/// A message of 64 bytes to subscribers who share a connection; counted per delivery.
fn delivery(subscribers: u32) -> Case {
    let message = bulks(&[b"message", b"channel", &[b'v'; 64]]);
    let name = format!("hub-delivery-to-{subscribers}");
    Case::new(name, subscribers, message.len() * subscribers as usize, move || {
        let mut machine = Machine::new(PubSubMode::Hub, 64);
        for _ in 0..subscribers {
            let client = machine.client();
            machine.say(client, &bulks(&[b"SUBSCRIBE", b"channel"]));
            machine.serve();
        }
        let (link, message) = (machine.newest_link(), message.clone());
        move || machine.reply(link, &message)
    })
}
