//! Random streams of commands to Handover and straight to a server: every reply the same, byte for byte.
//!
//! `HANDOVER_STREAMS=n` runs so many; `HANDOVER_SEED=n` runs the one stream that a failure named.

mod support;

use std::fmt::Write as _;

use support::{Pair, RawClient, Value, encode};

const STREAMS: u64 = 200;
const CLIENTS: usize = 3;
const ROUNDS: usize = 4;
const COMMANDS_MAX: usize = 12;

/// splitmix64: the same stream for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Commands as templates: `K` a key, `V` a value, `N` a number, `F` a field, `S` a score, `I` a stream's id.
const TEMPLATES: &[&str] = &[
    "SET K V",
    "SET K V NX",
    "SET K V XX GET",
    "SET K V EX 1000",
    "SET K V KEEPTTL",
    "GET K",
    "GETSET K V",
    "GETDEL K",
    "GETEX K PERSIST",
    "APPEND K V",
    "STRLEN K",
    "SETRANGE K N V",
    "GETRANGE K 0 N",
    "INCR K",
    "DECR K",
    "INCRBY K N",
    "INCRBYFLOAT K 0.5",
    "SETNX K V",
    "MSET K V K V",
    "MSETNX K V K V",
    "MGET K K K",
    "SETBIT K N 1",
    "GETBIT K N",
    "BITCOUNT K",
    "BITPOS K 1",
    "BITOP AND K K K",
    "BITFIELD K INCRBY u8 0 N",
    "LCS K K",
    "PFADD K V V",
    "PFCOUNT K K",
    "LPUSH K V V",
    "RPUSH K V",
    "LPUSHX K V",
    "LPOP K",
    "RPOP K 2",
    "LLEN K",
    "LRANGE K 0 -1",
    "LINDEX K N",
    "LSET K 0 V",
    "LINSERT K BEFORE V V",
    "LREM K 0 V",
    "LTRIM K 0 N",
    "LMOVE K K LEFT RIGHT",
    "LPOS K V",
    "RPOPLPUSH K K",
    "LMPOP 2 K K LEFT",
    "SADD K F F",
    "SREM K F",
    "SISMEMBER K F",
    "SMISMEMBER K F F",
    "SCARD K",
    "SINTERCARD 2 K K",
    "SDIFFSTORE K K K",
    "SUNIONSTORE K K K",
    "SMOVE K K F",
    "HSET K F V F V",
    "HSETNX K F V",
    "HGET K F",
    "HMGET K F F",
    "HDEL K F",
    "HLEN K",
    "HEXISTS K F",
    "HINCRBY K F N",
    "HINCRBYFLOAT K F 1.5",
    "HSTRLEN K F",
    "HGETALL K",
    "HKEYS K",
    "ZADD K S F S F",
    "ZADD K NX S F",
    "ZADD K GT CH S F",
    "ZADD K INCR S F",
    "ZINCRBY K S F",
    "ZSCORE K F",
    "ZMSCORE K F F",
    "ZRANK K F",
    "ZREVRANK K F WITHSCORE",
    "ZCARD K",
    "ZCOUNT K -inf +inf",
    "ZRANGE K 0 -1 WITHSCORES",
    "ZRANGEBYSCORE K -inf S",
    "ZREM K F",
    "ZPOPMIN K",
    "ZPOPMAX K 2",
    "ZRANGESTORE K K 0 -1",
    "ZUNIONSTORE K 2 K K",
    "ZINTER 2 K K WITHSCORES",
    "ZDIFF 2 K K",
    "ZREMRANGEBYRANK K 0 0",
    "ZMPOP 1 K MIN",
    "ZLEXCOUNT K - +",
    "GEOADD K 13.3 38.1 F",
    "GEOPOS K F",
    "GEODIST K F F",
    "XADD K I f V",
    "XLEN K",
    "XRANGE K - +",
    "XREVRANGE K + - COUNT 2",
    "XDEL K I",
    "XTRIM K MAXLEN N",
    "XREAD COUNT 2 STREAMS K 0",
    "XGROUP CREATE K g 0 MKSTREAM",
    "XGROUP CREATE K g 0",
    "XGROUP DESTROY K g",
    "XREADGROUP GROUP g c COUNT 1 STREAMS K >",
    "XACK K g I",
    "XPENDING K g",
    "XSETID K I",
    "DEL K K",
    "UNLINK K",
    "EXISTS K K K",
    "TYPE K",
    "RENAME K K",
    "RENAMENX K K",
    "COPY K K",
    "COPY K K REPLACE",
    "EXPIRE K 1000",
    "EXPIRE K 1000 NX",
    "EXPIRE K -1",
    "PERSIST K",
    "EXPIREAT K 4102444800",
    "EXPIRETIME K",
    "PEXPIRETIME K",
    "TTL none",
    "OBJECT ENCODING K",
    "OBJECT REFCOUNT none",
    "OBJECT",
    "OBJECT NOSUCH K",
    "SORT K ALPHA",
    "SORT K BY nosort LIMIT 0 2",
    "SORT K STORE K",
    "DUMP none",
    "TOUCH K",
    "ECHO V",
    "PING",
    "PING V",
    "EVAL return{KEYS[1],ARGV[1]} 1 K V",
    "EVAL return(redis.call('GET',KEYS[1])) 1 K",
    "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 K V",
    "EVAL_RO return(redis.call('SET',KEYS[1],'x')) 1 K",
    "EVAL x 0",
    "EVALSHA nosuch 0",
    "SCRIPT EXISTS nosuch",
    "BLPOP K K 0.001",
    "BZPOPMIN K 0.001",
    "XREAD BLOCK 1 STREAMS K $",
    "BLMOVE K K LEFT LEFT 0.001",
    "SELECT D",
    "SELECT D",
    "SELECT 16",
    "SELECT x",
    "SELECT",
    "PUBLISH V V",
    "COMMAND COUNT",
    "CLIENT GETNAME",
    "CLIENT SETNAME V",
    "CLIENT SETNAME",
    "SUBSTR K 0 1",
    "GEORADIUS K 0 0 1 km",
    "RESTORE K 0 V",
    "WATCH K",
    "UNWATCH",
    "EXEC",
    "DISCARD",
    "MULTI x",
    "NOSUCHCOMMAND",
    "NOSUCHCOMMAND V V",
    "NOSUCH|COMMAND",
    "GET",
    "GET K K",
    "SET K",
    "HSET K F",
    "ZADD K x F",
    "INCRBY K x",
    "LPUSH",
    "XADD K x f v",
    "XREAD STREAMS K",
    "BLPOP K x",
    "BLPOP K -1",
    "EXPIRE K x",
    "SET K V EX 0",
    "SET K V BOGUS",
    "CONFIG GET maxmemory",
    "CONFIG",
    "FLUSHALL x",
    "CLUSTER INFO",
    "ASKING",
    "READONLY",
    "AUTH x",
    "AUTH",
    "ACL WHOAMI",
    "RESET",
    "HELLO 9",
    "HELLO x",
];

/// What a client of RESP3 adds that subscribes; nothing is published where it listens.
const SUBSCRIBING: &[&str] =
    &["SUBSCRIBE C", "PSUBSCRIBE C", "SSUBSCRIBE C", "UNSUBSCRIBE C", "PUNSUBSCRIBE C", "SUNSUBSCRIBE C"];

/// What the others add.
const GREETING: &[&str] = &["HELLO", "HELLO 2", "HELLO 3", "HELLO 3 SETNAME me", "UNSUBSCRIBE", "PUNSUBSCRIBE V"];

/// Refused inside a transaction through a proxy, or answered with something that is made alike by its command's name.
const NOT_QUEUED: [&str; 8] = ["HELLO", "AUTH", "CLIENT", "EXPIRETIME", "PEXPIRETIME", "HGETALL", "HKEYS", "SORT"];

struct Stream {
    random: Random,
    /// Each client's first database: of two that nobody else uses.
    base: usize,
    queuing: bool,
    subscribes: bool,
}

impl Stream {
    /// One command, or a whole transaction, in words.
    fn commands(&mut self) -> Vec<Vec<Vec<u8>>> {
        if self.random.chance(8) {
            return self.transaction();
        }
        let command = self.command();
        let mut commands = vec![command];
        if commands[0][0].eq_ignore_ascii_case(b"RESET") {
            // It leads to database 0, where the clients would meet, and to RESP2, where a subscriber may do nothing else.
            commands.push(vec![b"SELECT".to_vec(), self.base.to_string().into_bytes()]);
            if self.subscribes {
                commands.push(vec![b"HELLO".to_vec(), b"3".to_vec()]);
            }
        }
        commands
    }

    fn transaction(&mut self) -> Vec<Vec<Vec<u8>>> {
        let mut commands = vec![vec![b"MULTI".to_vec()]];
        self.queuing = true;
        for _ in 0..self.random.below(5) {
            commands.push(self.command());
        }
        self.queuing = false;
        let end = self.random.one(&["EXEC", "EXEC", "EXEC", "EXEC", "DISCARD"]);
        commands.push(vec![end.as_bytes().to_vec()]);
        commands
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        loop {
            let own = if self.subscribes { SUBSCRIBING } else { GREETING };
            let templates = if self.random.chance(4) { own } else { TEMPLATES };
            let template = self.random.one(templates);
            let name = template.split(' ').next().expect("a word");
            // What would end the transaction early stays outside: its end is the generator's business.
            let ends = ["EXEC", "DISCARD", "RESET"].contains(&name);
            let is_excluded = ends || NOT_QUEUED.contains(&name) || name.ends_with("SUBSCRIBE");
            if !(self.queuing && is_excluded) {
                return template.split(' ').map(|word| self.word(word)).collect();
            }
        }
    }

    fn word(&mut self, word: &str) -> Vec<u8> {
        match word {
            "K" => format!("k{}", self.random.below(5)).into_bytes(),
            "F" => format!("f{}", self.random.below(4)).into_bytes(),
            "N" => self.random.below(20).to_string().into_bytes(),
            "S" => self.random.one(&["0", "1", "1.5", "-3", "inf", "2e3"]).as_bytes().to_vec(),
            "I" => format!("{}-{}", self.random.below(6), self.random.below(3) + 1).into_bytes(),
            "D" => (self.base + self.random.below(2)).to_string().into_bytes(),
            "C" => format!("channel:{}", self.random.below(3)).into_bytes(),
            "V" => self.value(),
            other => self.in_some_case(other),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        if self.random.chance(1) {
            // Above what may share a connection.
            return vec![b'y'; 60_000 + self.random.below(100_000)];
        }
        match self.random.below(12) {
            0 => Vec::new(),
            1 => b"\r\n+OK\r\n$-1\r\n".to_vec(),
            2 => vec![b'x'; self.random.below(3000)],
            3 => vec![0, 255, 13, 10, 32],
            4 => self.random.below(100).to_string().into_bytes(),
            other => format!("v{other}").into_bytes(),
        }
    }

    fn in_some_case(&mut self, word: &str) -> Vec<u8> {
        match self.random.below(8) {
            0 if !word.contains('(') && !word.contains('{') => word.to_lowercase().into_bytes(),
            _ => word.as_bytes().to_vec(),
        }
    }
}

/// A command as a frame, or inline where its words allow that.
fn written(command: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let is_plain = |word: &Vec<u8>| (1..1000).contains(&word.len()) && word.iter().all(u8::is_ascii_alphanumeric);
    if !(random.chance(10) && command.iter().all(is_plain)) {
        return encode(command);
    }
    let mut line = command.join(&b"  "[..]);
    line.extend(if random.chance(50) { &b"\r\n"[..] } else { b"\n" });
    line
}

fn send_in_pieces(client: &mut RawClient, bytes: &[u8], random: &mut Random) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = if random.chance(30) { rest.len() } else { (1 + random.below(200)).min(rest.len()) };
        client.send(&rest[..length]);
        rest = &rest[length..];
    }
}

/// Replies that rightly differ, made alike by name.
fn normal(command: &[Vec<u8>], reply: &Value, raw: &[u8]) -> String {
    let name = command[0].to_ascii_uppercase();
    let sorted = |mut elements: Vec<String>| {
        elements.sort();
        format!("{}{}", raw[0].escape_ascii(), elements.join(" "))
    };
    match (name.as_slice(), reply) {
        // Hashes and sets come in the order of a table whose seed is the server's own.
        (b"HGETALL" | b"HKEYS" | b"SORT", Value::Array(elements)) => {
            sorted(elements.iter().map(|element| format!("{element:?}")).collect())
        }
        (b"HGETALL", Value::Map(pairs)) => sorted(pairs.iter().map(|pair| format!("{pair:?}")).collect()),
        // A client's number is Handover's own.
        (b"HELLO", Value::Map(pairs)) => {
            format!("map {:?}", pairs.iter().filter(|(name, _)| *name != Value::bulk("id")).collect::<Vec<_>>())
        }
        (b"HELLO", Value::Array(flat)) => {
            format!("array {:?}", flat.chunks(2).filter(|pair| pair[0] != Value::bulk("id")).collect::<Vec<_>>())
        }
        // The moment at which EX or EXPIRE came.
        (b"EXPIRETIME" | b"PEXPIRETIME", Value::Integer(1..)) => "a moment".to_owned(),
        _ => raw.escape_ascii().to_string(),
    }
}

fn shown(commands: &[Vec<Vec<u8>>]) -> String {
    let mut text = String::new();
    for command in commands {
        let words: Vec<String> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
        writeln!(text, "  {}", words.join(" ")).expect("a string takes everything");
    }
    text
}

/// One stream: several clients in databases of their own, in turn, each with a burst.
fn run(pair: &Pair, seed: u64) {
    let mut random = Random(seed);
    pair.east.command(&["FLUSHALL"]);
    pair.west.command(&["FLUSHALL"]);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (mut proxied, mut direct) = (pair.client(), pair.west.client());
        let base = 1 + number * 2;
        let subscribes = random.chance(30);
        for client in [&mut proxied, &mut direct] {
            if subscribes {
                client.command(&["HELLO", "3"]);
            }
            assert_eq!(client.command(&["SELECT", &base.to_string()]), Value::ok());
        }
        clients.push((
            proxied,
            direct,
            Stream { random: Random(random.next()), base, queuing: false, subscribes },
            Vec::new(),
        ));
    }
    for _ in 0..ROUNDS {
        let mut bursts = Vec::new();
        for (proxied, direct, stream, history) in &mut clients {
            let mut commands = Vec::new();
            for _ in 0..=random.below(COMMANDS_MAX) {
                commands.extend(stream.commands());
            }
            let bytes: Vec<u8> = commands.iter().flat_map(|command| written(command, &mut random)).collect();
            send_in_pieces(proxied, &bytes, &mut random);
            direct.send(&bytes);
            history.extend(commands.iter().cloned());
            bursts.push(commands);
        }
        for (number, commands) in bursts.iter().enumerate() {
            let (proxied, direct, _, history) = &mut clients[number];
            for command in commands {
                let (expected, expected_raw) = direct.read_reply_raw();
                let (reply, raw) = proxied.read_reply_raw();
                let (expected, reply) = (normal(command, &expected, &expected_raw), normal(command, &reply, &raw));
                assert!(
                    reply == expected,
                    "HANDOVER_SEED={seed}, client {number}:\n{}{}\n got {reply}\nwant {expected}",
                    shown(history),
                    shown(std::slice::from_ref(command)),
                );
            }
        }
    }
}

#[test]
fn random_streams_are_answered_as_by_redis() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let pair = Pair::start();
    if let Some(seed) = number("HANDOVER_SEED") {
        return run(&pair, seed);
    }
    let streams = number("HANDOVER_STREAMS").unwrap_or(STREAMS);
    (0..streams).for_each(|seed| run(&pair, seed));
}
