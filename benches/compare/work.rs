//! What a client sends and what must come back, prepared before anything is measured.

use std::fmt::Write;
use std::sync::Arc;

/// Bytes of different requests that a kind of work keeps: enough keys to be no exception, few enough to stay cached.
const PREPARED_BYTES: usize = 512 * 1024;
const PREPARED_STEPS_MAX: usize = 4_096;
const PREPARED_STEPS_MIN: usize = 2;

/// Sent in one write; the next goes out when all of the reply is here.
#[derive(Clone)]
pub struct Step {
    pub request: Arc<[u8]>,
    /// Byte for byte.
    pub reply: Arc<[u8]>,
    pub commands: u32,
}

/// What one client does, over and over.
#[derive(Clone, Default)]
pub struct Work {
    /// Once, when it connects.
    pub opening: Option<Step>,
    /// Empty: the client only listens.
    pub steps: Vec<Step>,
    /// Clients begin at different steps, but only at multiples of this: a transaction isn't begun in its middle.
    pub cycle: usize,
}

/// The kinds of work, by the name that the command line and the table have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Set,
    Get,
    /// SET and GET in turn.
    Mixed,
    /// MULTI, SET, GET and EXEC, each sent after the reply to the one before.
    Transaction,
    /// RPUSH and a BLPOP of what was pushed, on a key of the client's own.
    BlockingPop,
    /// A script of one GET.
    Script,
    /// A BLPOP of a key of the client's own to which nobody has pushed anything.
    Waiting,
    /// SUBSCRIBE to a channel of the client's own, then silence.
    Subscriber,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Get => "GET",
            Self::Mixed => "SET+GET",
            Self::Transaction => "MULTI",
            Self::BlockingPop => "BLPOP",
            Self::Script => "EVAL",
            Self::Waiting => "BLPOP in wait",
            Self::Subscriber => "SUBSCRIBE",
        }
    }

    /// The work of client number `client`; those of one kind, pipeline and value size are alike for all but the kinds
    /// that need a key of their own.
    pub fn works(self, clients: usize, pipeline: usize, bytes: usize) -> Vec<Arc<Work>> {
        match self {
            Self::Set | Self::Get | Self::Mixed => vec![Arc::new(self.plain(pipeline, bytes))],
            Self::Transaction => vec![Arc::new(transactions(bytes))],
            Self::Script => vec![Arc::new(scripts(bytes))],
            Self::BlockingPop => (0..clients).map(|client| Arc::new(blocking_pop(client, bytes))).collect(),
            Self::Waiting => (0..clients).map(|client| Arc::new(waiting(client))).collect(),
            Self::Subscriber => (0..clients).map(|client| Arc::new(subscriber(client))).collect(),
        }
    }

    fn plain(self, pipeline: usize, bytes: usize) -> Work {
        let value = value(bytes);
        let one = |position: usize| match self {
            Self::Set => set(position, &value),
            Self::Mixed if position.is_multiple_of(2) => set(position, &value),
            _ => get(position, &value),
        };
        let step_bytes = pipeline * one(0).request.len().max(64);
        // Beyond the keys that there are, steps only repeat themselves; their replies may be large.
        let distinct = keys(bytes).div_ceil(pipeline).min(PREPARED_STEPS_MAX);
        let count = (PREPARED_BYTES / step_bytes).min(distinct).max(PREPARED_STEPS_MIN);
        let batch = |step: usize| joined((0..pipeline).map(|place| one(step * pipeline + place)));
        let mut steps: Vec<Step> = (0..count).map(batch).collect();
        share_equal_replies(&mut steps);
        Work { opening: None, steps, cycle: 1 }
    }
}

/// The SET of every key that any GET of the same value size asks for.
pub fn filling(bytes: usize) -> Vec<Step> {
    let value = value(bytes);
    (0..keys(bytes)).map(|position| set(position, &value)).collect()
}

/// Distinct keys of a value size.
fn keys(bytes: usize) -> usize {
    (4 * 1024 * 1024 / bytes.max(64)).clamp(64, 10_000)
}

fn key(position: usize, bytes: usize) -> String {
    // Spread, so that neighbours in a pipeline aren't neighbours in a table.
    format!("bench:{bytes}:{:06}", position * 7_919 % keys(bytes))
}

fn value(bytes: usize) -> String {
    "abcdefgh".chars().cycle().take(bytes).collect()
}

fn set(position: usize, value: &str) -> Step {
    step(&["SET", &key(position, value.len()), value], "+OK\r\n")
}

fn get(position: usize, value: &str) -> Step {
    step(&["GET", &key(position, value.len())], &bulk(value))
}

fn transactions(bytes: usize) -> Work {
    let value = value(bytes);
    let one = |position: usize| {
        let queued = |step: Step| Step { reply: Arc::from(&b"+QUEUED\r\n"[..]), ..step };
        let results = format!("*2\r\n+OK\r\n{}", bulk(&value));
        [
            step(&["MULTI"], "+OK\r\n"),
            queued(set(position, &value)),
            queued(get(position, &value)),
            step(&["EXEC"], &results),
        ]
    };
    Work { opening: None, steps: (0..512).flat_map(one).collect(), cycle: 4 }
}

fn scripts(bytes: usize) -> Work {
    let value = value(bytes);
    let one = |position| {
        let key = key(position, bytes);
        step(&["EVAL", "return redis.call('get', KEYS[1])", "1", &key], &bulk(&value))
    };
    Work { opening: None, steps: (0..512).map(one).collect(), cycle: 1 }
}

fn blocking_pop(client: usize, bytes: usize) -> Work {
    let (list, value) = (format!("bench:list:{client}"), value(bytes));
    let popped = format!("*2\r\n{}{}", bulk(&list), bulk(&value));
    let steps = vec![step(&["RPUSH", &list, &value], ":1\r\n"), step(&["BLPOP", &list, "0"], &popped)];
    // Empties it of what a client before left there, and has the same reply when there is nothing.
    Work { opening: Some(step(&["LTRIM", &list, "1", "0"], "+OK\r\n")), steps, cycle: 2 }
}

fn waiting(client: usize) -> Work {
    let list = waiting_list(client);
    let steps = vec![step(&["BLPOP", &list, "0"], &format!("*2\r\n{}{}", bulk(&list), bulk("x")))];
    Work { opening: None, steps, cycle: 1 }
}

/// Where that client waits for an `x`.
pub fn waiting_list(client: usize) -> String {
    format!("bench:waiting:{client}")
}

fn subscriber(client: usize) -> Work {
    let channel = channel(client);
    let confirmed = format!("*3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(&channel));
    Work { opening: Some(step(&["SUBSCRIBE", &channel], &confirmed)), steps: Vec::new(), cycle: 1 }
}

/// What a client of a pool has sent before it sits there.
pub fn used() -> Step {
    let key = key(0, 64);
    let value = value(64);
    joined([step(&["PING"], "+PONG\r\n"), set(0, &value), step(&["GET", &key], &bulk(&value))].into_iter())
}

/// One command for `count` channels, the first of which is the client's `first`.
pub fn subscribe(first: usize, count: usize) -> Step {
    let channels: Vec<String> = (first..first + count).map(channel).collect();
    let mut words = vec!["SUBSCRIBE"];
    words.extend(channels.iter().map(String::as_str));
    let confirmed = |(place, name): (usize, &String)| format!("*3\r\n{}{}:{place}\r\n", bulk("subscribe"), bulk(name));
    let confirmations: String = (first + 1..).zip(&channels).map(confirmed).collect();
    step(&words, &confirmations)
}

/// PUBLISH to channels spread over so many, sixteen in a write, each heard by one subscriber.
pub fn publishing(channels: usize) -> Work {
    let one = |position: usize| step(&["PUBLISH", &channel(position * 7_919 % channels), "message"], ":1\r\n");
    let batch = |step: usize| joined((0..16).map(|place| one(step * 16 + place)));
    Work { opening: None, steps: (0..512).map(batch).collect(), cycle: 1 }
}

fn channel(place: usize) -> String {
    format!("bench:channel:{place}")
}

/// One command and its reply.
pub fn step(arguments: &[&str], reply: &str) -> Step {
    let mut request = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        request.push_str(&bulk(argument));
    }
    Step { request: Arc::from(request.as_bytes()), reply: Arc::from(reply.as_bytes()), commands: 1 }
}

fn bulk(text: &str) -> String {
    let mut bulk = String::with_capacity(text.len() + 16);
    write!(bulk, "${}\r\n{text}\r\n", text.len()).expect("a string takes everything");
    bulk
}

fn joined(steps: impl Iterator<Item = Step>) -> Step {
    let (mut request, mut reply, mut commands) = (Vec::new(), Vec::new(), 0);
    for step in steps {
        request.extend_from_slice(&step.request);
        reply.extend_from_slice(&step.reply);
        commands += step.commands;
    }
    Step { request: request.into(), reply: reply.into(), commands }
}

/// Comparing with one copy keeps it in the cache.
fn share_equal_replies(steps: &mut [Step]) {
    let Some((first, others)) = steps.split_first_mut() else { return };
    for step in others.iter_mut().filter(|step| step.reply == first.reply) {
        step.reply = Arc::clone(&first.reply);
    }
}
