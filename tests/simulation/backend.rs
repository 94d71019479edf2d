//! A backend: a small but real subset of Redis in memory, which records every operation that it applies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handover::logic::multiplexer::LinkKey;
use handover::resp::arguments::Arguments;
use handover::resp::request::{RequestScanner, Scan};

use super::reply::{Reply, operation};

/// Bytes under way, with the time when they arrive.
pub(crate) type Pipe = VecDeque<(Instant, Vec<u8>)>;

/// How the proxy closed a connection.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Closed {
    No,
    Fin,
}

/// A connection from a worker.
pub(crate) struct Connection {
    pub(crate) worker: usize,
    pub(crate) link: LinkKey,
    pub(crate) to_backend: Pipe,
    pub(crate) to_proxy: Pipe,
    pub(crate) closed: Closed,
    pub(crate) resp3: bool,
    input: Vec<u8>,
    database: u32,
    multi: Option<Vec<Vec<String>>>,
    dirty: bool,
    watched: Vec<(String, u64)>,
    blocked: Option<(Vec<String>, Option<Instant>)>,
    channels: BTreeSet<String>,
}

impl Connection {
    pub(crate) fn new(worker: usize, link: LinkKey, resp3: bool, database: u32) -> Self {
        Self {
            worker,
            link,
            to_backend: Pipe::new(),
            to_proxy: Pipe::new(),
            closed: Closed::No,
            resp3,
            input: Vec::new(),
            database,
            multi: None,
            dirty: false,
            watched: Vec::new(),
            blocked: None,
            channels: BTreeSet::new(),
        }
    }
}

impl Connection {
    /// Everything was answered, and every answer was taken.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_waits = self.to_backend.is_empty() && self.to_proxy.is_empty() && self.input.is_empty();
        nothing_waits && self.blocked.is_none() && self.multi.is_none() && self.channels.is_empty()
    }
}

/// What was applied where: by operation, the database and, inside a transaction, how many went together.
#[derive(Clone, Copy, Debug, PartialEq, Hash)]
pub(crate) struct Applied {
    pub(crate) backend: usize,
    pub(crate) database: u32,
    pub(crate) together: usize,
}

#[derive(Default)]
pub(crate) struct Backend {
    pub(crate) index: usize,
    pub(crate) alive: bool,
    pub(crate) hung: bool,
    pub(crate) readonly: bool,
    pub(crate) refuses: bool,
    pub(crate) slow_dial: bool,
    pub(crate) connections: BTreeMap<u64, Connection>,
    strings: BTreeMap<(u32, String), String>,
    lists: BTreeMap<(u32, String), VecDeque<String>>,
    versions: BTreeMap<String, u64>,
    pub(crate) applied: Vec<(u64, Applied)>,
}

impl Backend {
    pub(crate) fn new(index: usize) -> Self {
        Self { index, alive: true, ..Self::default() }
    }

    pub(crate) fn serves(&self) -> bool {
        self.alive && !self.hung && !self.readonly
    }

    pub(crate) fn lose_memory(&mut self) {
        self.strings.clear();
        self.lists.clear();
    }

    /// Takes what has arrived and answers it; replies leave after `delay`.
    pub(crate) fn step(&mut self, now: Instant, mut delay: impl FnMut() -> Duration) {
        if !self.alive || self.hung {
            return;
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            while let Some(connection) = self.connections.get_mut(&id) {
                if connection.to_backend.front().is_none_or(|(at, _)| *at > now) {
                    break;
                }
                let (_, bytes) = connection.to_backend.pop_front().expect("looked at");
                connection.input.extend_from_slice(&bytes);
            }
            self.expire_blocked(id, now, &mut delay);
            self.carry_out(id, now, &mut delay);
            let gone = self.connections.get(&id).is_some_and(|c| c.closed == Closed::Fin && c.to_backend.is_empty());
            if gone {
                self.connections.remove(&id);
            }
        }
    }

    fn carry_out(&mut self, id: u64, now: Instant, delay: &mut impl FnMut() -> Duration) {
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            if connection.blocked.is_some() {
                return;
            }
            let Scan::Frame(frame) = RequestScanner::new(1 << 30).scan(&connection.input) else { return };
            let bytes: Vec<u8> = connection.input.drain(..frame.bytes).collect();
            let words: Vec<String> =
                Arguments::new(&bytes).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            for reply in self.command(id, words, now) {
                self.reply(id, &reply, now, delay);
            }
            self.serve_blocked(now, delay);
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply, now: Instant, delay: &mut impl FnMut() -> Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut bytes = Vec::new();
        reply.encode(connection.resp3, &mut bytes);
        let at = connection.to_proxy.back().map_or(now, |(at, _)| *at).max(now + delay());
        connection.to_proxy.push_back((at, bytes));
    }

    fn expire_blocked(&mut self, id: u64, now: Instant, delay: &mut impl FnMut() -> Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.blocked.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= now)) {
            connection.blocked = None;
            self.reply(id, &Reply::Nil, now, delay);
        }
    }

    /// `CLIENT UNBLOCK`.
    pub(crate) fn unblock(&mut self, id: u64, now: Instant) {
        if self.alive && !self.hung && self.connections.get_mut(&id).is_some_and(|c| c.blocked.take().is_some()) {
            self.reply(id, &Reply::Nil, now, &mut || Duration::from_micros(200));
        }
    }

    fn serve_blocked(&mut self, now: Instant, delay: &mut impl FnMut() -> Duration) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.connections.get(&id) else { continue };
            let Some((words, _)) = connection.blocked.clone() else { continue };
            if let Some(reply) = self.pop(connection.database, &words[1]) {
                self.connections.get_mut(&id).expect("it is there").blocked = None;
                self.reply(id, &reply, now, delay);
            }
        }
    }

    fn pop(&mut self, database: u32, key: &str) -> Option<Reply> {
        let value = self.lists.get_mut(&(database, key.to_owned()))?.pop_front()?;
        Some(Reply::Array(vec![Reply::Bulk(key.to_owned()), Reply::Bulk(value)]))
    }

    fn command(&mut self, id: u64, words: Vec<String>, now: Instant) -> Vec<Reply> {
        let name = words[0].to_uppercase();
        let connection = self.connections.get_mut(&id).expect("it is there");
        let ok = || vec![Reply::Simple("OK".to_owned())];
        let refuses = self.readonly && is_write(&name);
        if let Some(queue) = &mut connection.multi
            && !matches!(name.as_str(), "EXEC" | "DISCARD" | "MULTI" | "WATCH")
        {
            if refuses {
                connection.dirty = true;
                return vec![Reply::Error("READONLY You can't write against a read only replica.".to_owned())];
            }
            queue.push(words);
            return vec![Reply::Simple("QUEUED".to_owned())];
        }
        match name.as_str() {
            "MULTI" => {
                assert!(
                    connection.multi.is_none(),
                    "MULTI in somebody's transaction on a backend connection: {:?}",
                    connection.multi
                );
                (connection.multi, connection.dirty) = (Some(Vec::new()), false);
                ok()
            }
            "DISCARD" => {
                connection.watched.clear();
                match connection.multi.take() {
                    Some(_) => ok(),
                    None => vec![Reply::Error("ERR DISCARD without MULTI".to_owned())],
                }
            }
            "WATCH" => {
                let version = self.versions.get(&words[1]).copied().unwrap_or(0);
                connection.watched.push((words[1].clone(), version));
                ok()
            }
            "UNWATCH" => {
                connection.watched.clear();
                ok()
            }
            "EXEC" => vec![self.exec(id)],
            "SELECT" => {
                connection.database = words[1].parse().expect("a database");
                ok()
            }
            "HELLO" => {
                connection.resp3 = words[1] == "3";
                vec![Reply::Array(vec![Reply::Nil; 14])]
            }
            "BLPOP" => {
                let database = connection.database;
                let timeout: f64 = words[2].parse().expect("a timeout");
                match self.pop(database, &words[1]) {
                    Some(reply) => vec![reply],
                    None => {
                        let until = (timeout > 0.0).then(|| now + Duration::from_secs_f64(timeout));
                        self.connections.get_mut(&id).expect("it is there").blocked = Some((words, until));
                        vec![]
                    }
                }
            }
            "SUBSCRIBE" | "UNSUBSCRIBE" => subscribe(connection, &name, &words),
            "PUBLISH" => {
                let message = |word: &str| Reply::Bulk(word.to_owned());
                let push = Reply::Push(vec![message("message"), message(&words[1]), message(&words[2])]);
                let receivers: Vec<u64> = self
                    .connections
                    .iter()
                    .filter(|(_, c)| c.channels.contains(&words[1]))
                    .map(|(&id, _)| id)
                    .collect();
                for &receiver in &receivers {
                    self.reply(receiver, &push, now, &mut || Duration::from_micros(300));
                }
                vec![Reply::Integer(receivers.len() as i64)]
            }
            _ if refuses => vec![Reply::Error("READONLY You can't write against a read only replica.".to_owned())],
            _ => {
                let database = connection.database;
                vec![self.plain(database, &name, &words, 0)]
            }
        }
    }

    fn exec(&mut self, id: u64) -> Reply {
        let connection = self.connections.get_mut(&id).expect("it is there");
        let watched = std::mem::take(&mut connection.watched);
        let (database, dirty) = (connection.database, connection.dirty);
        let Some(queue) = connection.multi.take() else { return Reply::Error("ERR EXEC without MULTI".to_owned()) };
        if dirty {
            return Reply::Error("EXECABORT Transaction discarded because of previous errors.".to_owned());
        }
        let owner = |word: &str| word.split(':').next().expect("a part").to_owned();
        let owners: BTreeSet<String> = queue
            .iter()
            .filter_map(|words| words.iter().find(|word| word.contains(":op")))
            .map(|word| owner(word))
            .chain(watched.iter().map(|(key, _)| owner(key)))
            .collect();
        assert!(
            owners.len() <= 1,
            "a transaction of several clients on one connection: {queue:?}, watching {watched:?}"
        );
        if watched.iter().any(|(key, version)| self.versions.get(key).copied().unwrap_or(0) != *version) {
            return Reply::Nil;
        }
        let together = queue.len();
        Reply::Array(
            queue.into_iter().map(|words| self.plain(database, &words[0].to_uppercase(), &words, together)).collect(),
        )
    }

    /// A command without effects on its connection.
    fn plain(&mut self, database: u32, name: &str, words: &[String], together: usize) -> Reply {
        if is_write(name) {
            let number = words.iter().find_map(|word| operation(word)).expect("every write has a number");
            self.applied.push((number, Applied { backend: self.index, database, together }));
            *self.versions.entry(words[1].clone()).or_default() += 1;
        }
        let key = words.get(if name == "EVAL" { 3 } else { 1 }).map(|key| (database, key.clone())).unwrap_or_default();
        match name {
            "PING" => Reply::Simple("PONG".to_owned()),
            "ECHO" => Reply::Bulk(words[1].clone()),
            "GET" => self.strings.get(&key).cloned().map_or(Reply::Nil, Reply::Bulk),
            "MGET" => Reply::Array(
                words[1..]
                    .iter()
                    .map(|word| self.strings.get(&(database, word.clone())).cloned().map_or(Reply::Nil, Reply::Bulk))
                    .collect(),
            ),
            "SET" => {
                self.strings.insert(key, words[2].clone());
                Reply::Simple("OK".to_owned())
            }
            "SETNX" => {
                let is_new = !self.strings.contains_key(&key);
                self.strings.entry(key).or_insert_with(|| words[2].clone());
                Reply::Integer(i64::from(is_new))
            }
            "DEL" => Reply::Integer(i64::from(self.strings.remove(&key).is_some())),
            "INCR" | "EVAL" => {
                let value = self.strings.entry(key).or_insert_with(|| "0".to_owned());
                let number = value.parse::<i64>().expect("a counter") + 1;
                *value = number.to_string();
                Reply::Integer(number)
            }
            "APPEND" => {
                let value = self.strings.entry(key).or_default();
                value.push_str(&words[2]);
                Reply::Integer(value.len() as i64)
            }
            "LPUSH" => {
                let list = self.lists.entry(key).or_default();
                list.push_front(words[2].clone());
                Reply::Integer(list.len() as i64)
            }
            other => Reply::Error(format!("ERR unknown command '{other}'")),
        }
    }
}

fn subscribe(connection: &mut Connection, name: &str, words: &[String]) -> Vec<Reply> {
    let names: Vec<String> = match words.len() {
        1 => connection.channels.iter().cloned().collect(),
        _ => words[1..].to_vec(),
    };
    let confirm = |connection: &Connection, channel: Reply| {
        let count = Reply::Integer(connection.channels.len() as i64);
        Reply::Push(vec![Reply::Bulk(name.to_lowercase()), channel, count])
    };
    if names.is_empty() {
        return vec![confirm(connection, Reply::Nil)];
    }
    let mut replies = Vec::new();
    for channel in names {
        match name {
            "SUBSCRIBE" => connection.channels.insert(channel.clone()),
            _ => connection.channels.remove(&channel),
        };
        replies.push(confirm(connection, Reply::Bulk(channel)));
    }
    replies
}

pub(crate) fn is_write(name: &str) -> bool {
    matches!(name, "SET" | "SETNX" | "DEL" | "INCR" | "EVAL" | "APPEND" | "LPUSH")
}
