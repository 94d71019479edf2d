//! Clients that know exactly which replies they may get, and the ledger of what they were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handover::logic::multiplexer::SessionKey;

use super::backend::{Applied, Backend, Pipe};
use super::random::Random;
use super::reply::{Reply, operation, request};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Mixed,
    Blocker,
    Subscriber,
}

/// What a client was told of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Hash)]
pub(crate) enum Outcome {
    Unknown,
    Applied,
    NotApplied,
}

#[derive(Clone, Debug)]
#[expect(dead_code, reason = "names are printed when something fails")]
pub(crate) struct Operation {
    pub(crate) database: u32,
    pub(crate) transaction: Option<u64>,
    pub(crate) may_repeat: bool,
    pub(crate) outcome: Outcome,
    pub(crate) name: &'static str,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) operations: BTreeMap<u64, Operation>,
    pub(crate) transactions: BTreeMap<u64, Vec<u64>>,
    pub(crate) replies: BTreeMap<String, u64>,
    popped: BTreeSet<String>,
    messages: BTreeSet<(usize, String)>,
    next: u64,
    /// Switches so far.
    pub(crate) switches: u64,
    /// Transactions that were carried out though a switch came between MULTI and EXEC.
    pub(crate) replayed: u64,
}

impl Ledger {
    /// What clients were told is what happened, and nothing happened twice that must not.
    pub(crate) fn check(&self, backends: &[Backend]) {
        let mut applied: BTreeMap<u64, Vec<Applied>> = BTreeMap::new();
        for (number, what) in backends.iter().flat_map(|backend| &backend.applied) {
            applied.entry(*number).or_default().push(*what);
        }
        for (number, operation) in &self.operations {
            let where_applied = applied.get(number).map_or(&[][..], Vec::as_slice);
            let context = || format!("operation {number} {operation:?} was applied: {where_applied:?}");
            assert!(operation.may_repeat || where_applied.len() <= 1, "twice: {}", context());
            match operation.outcome {
                Outcome::Applied => assert!(!where_applied.is_empty(), "acknowledged, not applied: {}", context()),
                Outcome::NotApplied => {
                    assert!(where_applied.is_empty(), "applied, though said not to be: {}", context())
                }
                Outcome::Unknown => {}
            }
            let together = operation.transaction.map_or(0, |transaction| self.transactions[&transaction].len());
            for place in where_applied {
                assert_eq!(place.database, operation.database, "another database: {}", context());
                assert_eq!(place.together, together, "not with its transaction: {}", context());
            }
        }
    }
}

/// What the next reply may be.
#[derive(Clone, Debug)]
enum Expect {
    Pong,
    Echo(String),
    /// A write: its number, and what "applied" looks like.
    Write(u64, fn(&Reply) -> bool),
    Get,
    Multi(u64),
    Queued,
    Exec(u64),
    Discard,
    Ok,
    /// `CLIENT REPLY ON`, which needs no backend.
    ReplyOn,
    Pop(Instant, Option<Duration>),
    Select(u32),
    Hello(bool),
    Published,
    Confirm {
        subscribe: bool,
        channels: VecDeque<Option<String>>,
    },
}

pub(crate) struct Client {
    pub(crate) id: usize,
    pub(crate) worker: usize,
    pub(crate) kind: Kind,
    pub(crate) session: Option<SessionKey>,
    pub(crate) to_proxy: Pipe,
    pub(crate) paused: bool,
    pub(crate) slow_until: Option<Instant>,
    pub(crate) ended: bool,
    pub(crate) subscribed: BTreeSet<String>,
    inbox: Vec<u8>,
    outstanding: VecDeque<(u64, Expect)>,
    resp3: bool,
    database: u32,
    batch: u64,
    /// The batch in which something was applied or uncertain.
    batch_applied: u64,
    multi_refused: bool,
    /// The transaction that is sent command by command, and how many come before its end.
    open: Option<(u64, u64)>,
    /// Switches before MULTI was answered.
    switches_at_multi: u64,
    /// Batches that arrive in one piece, with nothing due before.
    whole: BTreeSet<u64>,
    is_traced: bool,
}

const MULTI_NOT_RUN: [&str; 6] = ["EXECABORT", "LOADING", "UNAVAILABLE", "ERR", "READONLY", "DISCARD"];

impl Client {
    pub(crate) fn new(id: usize, worker: usize, kind: Kind) -> Self {
        Self {
            id,
            worker,
            kind,
            session: None,
            to_proxy: Pipe::new(),
            paused: false,
            slow_until: None,
            ended: false,
            subscribed: BTreeSet::new(),
            inbox: Vec::new(),
            outstanding: VecDeque::new(),
            resp3: false,
            database: 0,
            batch: 0,
            batch_applied: 0,
            multi_refused: false,
            open: None,
            switches_at_multi: 0,
            whole: BTreeSet::new(),
            is_traced: std::env::var("SIMULATION_TRACE").is_ok_and(|client| client == id.to_string()),
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.outstanding.is_empty() && self.to_proxy.is_empty()
    }

    pub(crate) fn outstanding(&self) -> String {
        format!("client {} {:?} waits for {:?}, {:?} not read", self.id, self.kind, self.outstanding, self.to_proxy)
    }

    /// New requests, and whether they should arrive in one piece.
    pub(crate) fn issue(
        &mut self,
        random: &mut Random,
        ledger: &mut Ledger,
        now: Instant,
        blockers: &[usize],
        subscribers: &[usize],
    ) -> Option<(Vec<u8>, bool)> {
        if self.outstanding.len() > 100 || self.outstanding.iter().any(|(_, expect)| expect.is_barrier()) {
            return None;
        }
        self.batch += 1;
        let is_alone = self.outstanding.is_empty();
        let mut bytes = Vec::new();
        match self.kind {
            _ if self.open.is_some() => self.go_on(random, ledger, &mut bytes),
            _ if is_alone && self.kind != Kind::Subscriber && random.one_in(12) => {
                self.change_connection(random, &mut bytes)
            }
            _ if is_alone && self.kind == Kind::Subscriber && random.one_in(20) => {
                self.change_connection(random, &mut bytes)
            }
            Kind::Mixed if random.one_in(5) => self.open(random, ledger, &mut bytes),
            Kind::Mixed => {
                let commands = if random.one_in(60) { 60 + random.below(80) } else { 1 + random.below(5) };
                for _ in 0..commands {
                    self.mixed(random, ledger, now, blockers, subscribers, &mut bytes);
                }
                // Some clients at times want no replies: what they did may have been applied, at most once.
                if self.id % 4 == 1 {
                    self.muted(ledger, &mut bytes);
                }
            }
            Kind::Blocker if !is_alone => return None,
            Kind::Blocker => {
                let timeout = [None, Some(50), Some(200)][random.below(3) as usize].map(Duration::from_millis);
                let word = timeout.map_or("0".to_owned(), |timeout| timeout.as_secs_f64().to_string());
                self.send(&["BLPOP", &format!("b{}:list", self.id), &word], Expect::Pop(now, timeout), &mut bytes);
                if random.one_in(3) {
                    self.echo(random, &mut bytes);
                }
            }
            Kind::Subscriber if is_alone => self.subscriber(random, &mut bytes),
            Kind::Subscriber => return None,
        }
        Some((bytes, is_alone))
    }

    /// The last batch arrives in one piece, and nothing was due.
    pub(crate) fn arrives_whole(&mut self) {
        self.whole.insert(self.batch);
    }

    fn send(&mut self, words: &[&str], expect: Expect, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&request(words));
        self.outstanding.push_back((self.batch, expect));
    }

    /// CLIENT REPLY, in a batch of its own kind each time.
    fn muted(&mut self, ledger: &mut Ledger, bytes: &mut Vec<u8>) {
        let increments = |client: &mut Self, ledger: &mut Ledger, count: u64| -> Vec<u8> {
            let numbers: Vec<u64> = (0..count).map(|_| client.operation(ledger, "INCR", None)).collect();
            numbers.iter().flat_map(|number| request(&["INCR", &format!("c{}:op{number}", client.id)])).collect()
        };
        match self.batch % 4 {
            0 => {
                bytes.extend(request(&["CLIENT", "REPLY", "OFF"]));
                let count = self.batch % 7;
                bytes.extend(increments(self, ledger, count));
                self.send(&["CLIENT", "REPLY", "ON"], Expect::ReplyOn, bytes);
            }
            1 => {
                bytes.extend(request(&["CLIENT", "REPLY", "SKIP"]));
                bytes.extend(increments(self, ledger, 1));
                self.send(&["GET", &format!("c{}:string", self.id)], Expect::Get, bytes);
            }
            _ => {}
        }
    }

    fn change_connection(&mut self, random: &mut Random, bytes: &mut Vec<u8>) {
        match random.below(3) {
            0 if self.subscribed.is_empty() => {
                let database = random.below(3) as u32;
                self.send(&["SELECT", &database.to_string()], Expect::Select(database), bytes);
            }
            1 if self.subscribed.is_empty() => {
                let resp3 = random.one_in(2);
                self.send(&["HELLO", if resp3 { "3" } else { "2" }], Expect::Hello(resp3), bytes);
            }
            _ => self.send(&["PING"], Expect::Pong, bytes),
        }
    }

    fn echo(&mut self, random: &mut Random, bytes: &mut Vec<u8>) {
        let text = format!("c{}:{}", self.id, random.next());
        self.send(&["ECHO", &text], Expect::Echo(text.clone()), bytes);
    }

    fn operation(&mut self, ledger: &mut Ledger, name: &'static str, transaction: Option<u64>) -> u64 {
        ledger.next += 1;
        let may_repeat = matches!(name, "SET" | "SETNX" | "DEL");
        let operation = Operation { database: self.database, transaction, may_repeat, outcome: Outcome::Unknown, name };
        ledger.operations.insert(ledger.next, operation);
        if let Some(transaction) = transaction {
            ledger.transactions.entry(transaction).or_default().push(ledger.next);
        }
        ledger.next
    }

    fn mixed(
        &mut self,
        random: &mut Random,
        ledger: &mut Ledger,
        now: Instant,
        blockers: &[usize],
        subscribers: &[usize],
        bytes: &mut Vec<u8>,
    ) {
        let id = self.id;
        match random.below(22) {
            0 => self.send(&["PING"], Expect::Pong, bytes),
            1 | 2 => self.echo(random, bytes),
            3 | 4 => self.send(&["GET", &format!("c{id}:string")], Expect::Get, bytes),
            5 => self.send(&["MGET", &format!("c{id}:string"), &format!("c{id}:none")], Expect::Get, bytes),
            6..=8 => self.write("INCR", None, random, ledger, bytes),
            9..=11 => self.write("SET", None, random, ledger, bytes),
            12 => self.write("SETNX", None, random, ledger, bytes),
            13 => self.write("APPEND", None, random, ledger, bytes),
            14 => self.write("EVAL", None, random, ledger, bytes),
            15 | 16 if !blockers.is_empty() => {
                let number = self.operation(ledger, "LPUSH", None);
                let key = format!("b{}:list", blockers[random.below(blockers.len() as u64) as usize]);
                self.send(&["LPUSH", &key, &format!("op{number}")], Expect::Write(number, is_positive), bytes);
            }
            17 if !subscribers.is_empty() => {
                let channel =
                    format!("ch{}:{}", subscribers[random.below(subscribers.len() as u64) as usize], random.below(3));
                self.send(&["PUBLISH", &channel, &format!("m{}", random.next())], Expect::Published, bytes);
            }
            18..=21 => self.transaction(random, ledger, bytes),
            _ => self.send(
                &["BLPOP", &format!("c{id}:empty"), "0.02"],
                Expect::Pop(now, Some(Duration::from_millis(20))),
                bytes,
            ),
        }
    }

    fn write(
        &mut self,
        name: &'static str,
        transaction: Option<u64>,
        random: &mut Random,
        ledger: &mut Ledger,
        bytes: &mut Vec<u8>,
    ) {
        let number = self.operation(ledger, name, transaction);
        let own = format!("c{}:op{number}", self.id);
        let value =
            format!("c{}:op{number}{}", self.id, if random.one_in(20) { "x".repeat(3000) } else { String::new() });
        let (words, is_applied): (Vec<&str>, fn(&Reply) -> bool) = match name {
            "INCR" => (vec![name, &own], is_one),
            "SETNX" => (vec![name, &own, "x"], is_one),
            "EVAL" => (vec![name, "return redis.call('incr', KEYS[1])", "1", &own], is_one),
            "APPEND" => (vec![name, &own, "x"], is_one),
            _ => (vec![name, "", &value], is_ok),
        };
        let string = format!("c{}:string", self.id);
        let words: Vec<&str> =
            words.into_iter().map(|word| if word.is_empty() { string.as_str() } else { word }).collect();
        let expect = if transaction.is_some() { Expect::Queued } else { Expect::Write(number, is_applied) };
        self.send(&words, expect, bytes);
    }

    fn transaction(&mut self, random: &mut Random, ledger: &mut Ledger, bytes: &mut Vec<u8>) {
        ledger.next += 1;
        let transaction = ledger.next;
        if random.one_in(3) {
            self.send(&["WATCH", &format!("c{}:watched", self.id)], Expect::Ok, bytes);
            if random.one_in(3) {
                self.send(&["GET", &format!("c{}:string", self.id)], Expect::Get, bytes);
            }
            if random.one_in(8) {
                return self.send(&["UNWATCH"], Expect::Ok, bytes);
            }
        }
        self.send(&["MULTI"], Expect::Multi(transaction), bytes);
        for _ in 0..=random.below(3) {
            let kinds = if random.one_in(3) { 4 } else { 3 };
            let name = ["SET", "INCR", "APPEND", "EVAL"][random.below(kinds) as usize];
            self.write(name, Some(transaction), random, ledger, bytes);
        }
        match random.one_in(10) {
            true => self.send(&["DISCARD"], Expect::Discard, bytes),
            false => self.send(&["EXEC"], Expect::Exec(transaction), bytes),
        }
    }

    /// Begins a transaction that is sent command by command.
    fn open(&mut self, random: &mut Random, ledger: &mut Ledger, bytes: &mut Vec<u8>) {
        ledger.next += 1;
        self.open = Some((ledger.next, 1 + random.below(4)));
        if random.one_in(6) {
            self.send(&["WATCH", &format!("c{}:watched", self.id)], Expect::Ok, bytes);
        }
        self.send(&["MULTI"], Expect::Multi(ledger.next), bytes);
    }

    /// Sends the next command of the transaction that is open, or a few, or its end.
    fn go_on(&mut self, random: &mut Random, ledger: &mut Ledger, bytes: &mut Vec<u8>) {
        let Some((transaction, left)) = self.open else { return };
        let now = if random.one_in(4) { left } else { left.min(1) };
        for _ in 0..now {
            let name = ["SET", "INCR", "APPEND", "EVAL"][random.below(4) as usize];
            self.write(name, Some(transaction), random, ledger, bytes);
        }
        self.open = Some((transaction, left - now));
        if left == now && (left == 0 || random.one_in(2)) {
            self.open = None;
            match random.one_in(8) {
                true => self.send(&["DISCARD"], Expect::Discard, bytes),
                false => self.send(&["EXEC"], Expect::Exec(transaction), bytes),
            }
        }
    }

    fn subscriber(&mut self, random: &mut Random, bytes: &mut Vec<u8>) {
        let channel = |random: &mut Random| format!("ch{}:{}", self.id, random.below(3));
        let (subscribe, names) = match random.below(6) {
            0..=2 => (true, (0..=random.below(2)).map(|_| channel(random)).collect()),
            3 => (false, vec![channel(random)]),
            4 => (false, vec![]),
            _ => return self.send(&["PING"], Expect::Pong, bytes),
        };
        let mut words = vec![if subscribe { "SUBSCRIBE" } else { "UNSUBSCRIBE" }];
        words.extend(names.iter().map(String::as_str));
        let channels = match names.is_empty() {
            true if self.subscribed.is_empty() => [None].into(),
            true => self.subscribed.iter().cloned().map(Some).collect(),
            false => names.iter().cloned().map(Some).collect(),
        };
        self.send(&words, Expect::Confirm { subscribe, channels }, bytes);
    }

    /// Bytes came from the proxy.
    pub(crate) fn receive(&mut self, bytes: &[u8], ledger: &mut Ledger, now: Instant) {
        self.inbox.extend_from_slice(bytes);
        while let Some((reply, length)) = (!self.inbox.is_empty()).then(|| Reply::parse(&self.inbox)).flatten() {
            if reply == Reply::Nil {
                assert_eq!(self.inbox[0] == b'_', self.resp3, "client {} got the nil of the other protocol", self.id);
            }
            self.inbox.drain(..length);
            self.take(reply, ledger, now);
        }
    }

    fn take(&mut self, reply: Reply, ledger: &mut Ledger, now: Instant) {
        let id = self.id;
        if let Reply::Array(items) | Reply::Push(items) = &reply
            && items.len() == 3
            && items[0] == Reply::Bulk("message".to_owned())
        {
            let (Reply::Bulk(channel), Reply::Bulk(message)) = (&items[1], &items[2]) else {
                panic!("no message: {reply:?}")
            };
            assert!(channel.starts_with(&format!("ch{id}:")), "client {id} got a message of another's: {reply:?}");
            assert!(
                ledger.messages.insert((id, format!("{channel} {message}"))),
                "client {id} got a message twice: {reply:?}"
            );
            return;
        }
        self.trace("<-", format_args!("{reply:?} for {:?}", self.outstanding.front()), now);
        let (batch, mut expect) =
            self.outstanding.pop_front().unwrap_or_else(|| panic!("client {id} did not ask: {reply:?}"));
        if let Reply::Error(text) = &reply {
            let word = text.split(' ').next().expect("a word").to_owned();
            *ledger.replies.entry(word.clone()).or_default() += 1;
            assert!(
                ["LOADING", "UNAVAILABLE", "UNCERTAIN", "EXECABORT", "READONLY"].contains(&word.as_str())
                    || text.starts_with("ERR handover: no connection of its own")
                    || text.starts_with("ERR handover: refused until EXEC")
                    || text.starts_with("ERR EXEC without MULTI")
                    || text.starts_with("ERR DISCARD without MULTI"),
                "client {id} got {text} for {expect:?}"
            );
            assert!(
                word != "LOADING" || self.batch_applied != batch || !self.whole.contains(&batch),
                "LOADING in a burst of which something was applied: {expect:?}"
            );
        } else {
            *ledger.replies.entry("(good)".to_owned()).or_default() += 1;
        }
        let is_error = matches!(reply, Reply::Error(_));
        let is_good = match &mut expect {
            Expect::Write(number, is_applied) => {
                let outcome = outcome(&reply, *is_applied);
                assert!(
                    outcome.is_some(),
                    "client {id}: {reply:?} for operation {number}, {:?}",
                    ledger.operations[number]
                );
                self.settle(ledger, batch, *number, outcome.unwrap_or(Outcome::Unknown));
                true
            }
            Expect::Exec(transaction) => {
                let numbers = ledger.transactions.get(transaction).cloned().unwrap_or_default();
                let count = numbers.len();
                let outcome = exec_outcome(&reply, count);
                assert!(outcome.is_some(), "client {id}: {reply:?} for EXEC of {count}");
                let outcome = outcome.unwrap_or(Outcome::Unknown);
                assert!(
                    !self.multi_refused || outcome == Outcome::NotApplied,
                    "client {id}: MULTI was refused, but EXEC said {reply:?}"
                );
                ledger.replayed += u64::from(outcome == Outcome::Applied && self.switches_at_multi != ledger.switches);
                for number in numbers {
                    self.settle(ledger, batch, number, outcome);
                }
                true
            }
            Expect::Multi(transaction) => {
                (self.multi_refused, self.switches_at_multi) = (is_error, ledger.switches);
                for number in ledger.transactions.get(transaction).cloned().unwrap_or_default() {
                    // A DISCARD leaves it at that.
                    self.settle(ledger, 0, number, Outcome::Unknown);
                }
                is_error || is_ok(&reply)
            }
            Expect::ReplyOn => is_ok(&reply),
            _ if is_error => true,
            Expect::Pong => match &reply {
                Reply::Array(items) => items[0] == Reply::Bulk("pong".to_owned()),
                reply => *reply == Reply::Simple("PONG".to_owned()),
            },
            Expect::Echo(text) => reply == Reply::Bulk(text.clone()),
            Expect::Get => is_own(&reply, id),
            Expect::Queued => reply == Reply::Simple("QUEUED".to_owned()),
            Expect::Ok | Expect::Discard => is_ok(&reply),
            Expect::Pop(at, timeout) => self.is_pop(&reply, *at, *timeout, ledger, now),
            Expect::Select(database) => {
                self.database = *database;
                is_ok(&reply)
            }
            Expect::Hello(resp3) => {
                self.resp3 = *resp3;
                matches!(&reply, Reply::Array(items) if items.len() == 14)
            }
            Expect::Published => matches!(reply, Reply::Integer(_)),
            Expect::Confirm { subscribe, channels } => {
                let channel = channels.pop_front().expect("one is due");
                if let Some(channel) = &channel {
                    if *subscribe {
                        self.subscribed.insert(channel.clone())
                    } else {
                        self.subscribed.remove(channel)
                    };
                }
                let word = if *subscribe { "subscribe" } else { "unsubscribe" };
                let count = Reply::Integer(self.subscribed.len() as i64);
                // All are left in the server's own order.
                let channel = channel.map_or(Reply::Nil, Reply::Bulk);
                let expected = vec![Reply::Bulk(word.to_owned()), channel, count];
                if !channels.is_empty() {
                    self.outstanding.push_front((batch, expect.clone()));
                }
                matches!(&reply, Reply::Array(items) | Reply::Push(items) if *items == expected || items[1] == Reply::Nil)
            }
        };
        assert!(is_good, "client {id} got {reply:?} for {expect:?}");
    }

    /// `SIMULATION_TRACE=<client>` prints what that client sends and gets.
    pub(crate) fn trace(&self, direction: &str, what: std::fmt::Arguments<'_>, now: Instant) {
        if self.is_traced {
            eprintln!("{now:?} client {} {direction} {what}", self.id);
        }
    }

    fn settle(&mut self, ledger: &mut Ledger, batch: u64, number: u64, outcome: Outcome) {
        if outcome != Outcome::NotApplied && batch != 0 {
            self.batch_applied = batch;
        }
        ledger.operations.get_mut(&number).expect("it was made").outcome = outcome;
    }

    fn is_pop(&self, reply: &Reply, at: Instant, timeout: Option<Duration>, ledger: &mut Ledger, now: Instant) -> bool {
        match reply {
            Reply::Nil => timeout.is_some_and(|timeout| now >= at + timeout),
            Reply::Array(items) => {
                let Reply::Bulk(value) = &items[1] else { return false };
                items[0] == Reply::Bulk(format!("b{}:list", self.id))
                    && operation(value).is_some()
                    && ledger.popped.insert(value.clone())
            }
            _ => false,
        }
    }
}

impl Expect {
    /// Nothing is sent behind it.
    const fn is_barrier(&self) -> bool {
        matches!(self, Self::Select(_) | Self::Hello(_) | Self::Confirm { .. })
    }
}

fn is_ok(reply: &Reply) -> bool {
    *reply == Reply::Simple("OK".to_owned())
}

fn is_one(reply: &Reply) -> bool {
    *reply == Reply::Integer(1)
}

fn is_positive(reply: &Reply) -> bool {
    matches!(reply, Reply::Integer(number) if *number > 0)
}

fn is_own(reply: &Reply, id: usize) -> bool {
    match reply {
        Reply::Nil => true,
        Reply::Bulk(value) => value.starts_with(&format!("c{id}:")),
        Reply::Array(items) => items.iter().all(|item| is_own(item, id)),
        _ => false,
    }
}

fn outcome(reply: &Reply, is_applied: fn(&Reply) -> bool) -> Option<Outcome> {
    match reply {
        Reply::Error(text) if text.starts_with("UNCERTAIN") => Some(Outcome::Unknown),
        Reply::Error(_) => Some(Outcome::NotApplied),
        reply => is_applied(reply).then_some(Outcome::Applied),
    }
}

fn exec_outcome(reply: &Reply, count: usize) -> Option<Outcome> {
    match reply {
        Reply::Nil => Some(Outcome::NotApplied),
        Reply::Array(items) if items.len() == count => Some(Outcome::Applied),
        Reply::Error(text) if text.starts_with("UNCERTAIN") => Some(Outcome::Unknown),
        Reply::Error(text) => MULTI_NOT_RUN.iter().any(|word| text.starts_with(word)).then_some(Outcome::NotApplied),
        _ => None,
    }
}
