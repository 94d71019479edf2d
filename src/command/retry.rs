//! Whether a request may be repeated when its reply was lost: its category, refined by its arguments.
//!
//! This is the table of the contract, section 5. What a command's name decides stands in the command table; what its
//! arguments decide stands here.

use super::table::Command;
use crate::resp::arguments::Arguments;

/// How safe a repeat is, safest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Changes nothing but its own connection.
    Connection,
    /// Changes nothing.
    ReadOnly,
    /// Changes something only while a condition holds that the first time may have ended.
    WriteChecked,
    /// Leaves the same state when applied twice.
    WriteLastWins,
    /// Adds up when applied twice.
    WriteAccumulating,
    /// Administration of a server.
    ServerAdmin,
    /// Nobody knows.
    Never,
}

/// What is known of a repeat of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How safe it is.
    pub category: Category,
    /// The reply is the same whatever the state.
    pub blind: bool,
}

impl Retry {
    /// For a command that the table does not have.
    pub const UNKNOWN: Self = Self { category: Category::Never, blind: false };
}

/// Judges a request from its entry and `arguments`, the name still among them.
#[must_use]
pub fn judge(command: &Command, arguments: Arguments<'_>) -> Retry {
    let refine: fn(Arguments<'_>) -> Category = match command.name {
        "set" => return judge_set(arguments),
        "expire" | "expireat" | "pexpire" | "pexpireat" => |arguments| checked_if_any(arguments.skip(3), EXPIRE_CHECKS),
        "hexpire" | "hexpireat" | "hpexpire" | "hpexpireat" => hash_expire,
        "zadd" | "geoadd" => sorted_set_add,
        "msetex" => many_set_with_expiry,
        "hsetex" => hash_set_with_expiry,
        "xadd" => stream_add,
        "copy" | "restore" | "restore-asking" => replaces_or_checks,
        "getex" => |arguments| reads_unless(arguments.remaining() > 2),
        "hgetex" => hash_get_with_expiry,
        "bitfield" => bitfield,
        "sort" => sort,
        "georadius" => |arguments| geo_store(arguments, 6),
        "georadiusbymember" => |arguments| geo_store(arguments, 5),
        "sinterstore" | "sunionstore" | "sdiffstore" => |arguments| stores(arguments, usize::MAX),
        "zrangestore" | "geosearchstore" => |arguments| stores(arguments, 1),
        "zinterstore" | "zunionstore" | "zdiffstore" => store_of_counted_keys,
        _ => return Retry { category: command.retry, blind: command.blind },
    };
    Retry { category: refine(arguments), blind: command.blind }
}

/// Whether `reply` says that nothing was changed: `:0`, nil, an array of nothing but those, or one of the errors that
/// a write which checks gives when somebody, perhaps the same request a moment ago, was there first.
#[must_use]
pub fn condition_failed(reply: &[u8]) -> bool {
    const ERRORS: [&[u8]; 4] =
        [b"-BUSYKEY", b"-BUSYGROUP", b"-ERR no such key", b"-ERR The ID specified in XADD is equal or smaller"];
    const NILS: [&[u8]; 4] = [b":0\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n"];
    if reply.first() == Some(&b'*') && reply != b"*-1\r\n" {
        return changed_no_field(reply);
    }
    NILS.contains(&reply) || ERRORS.iter().any(|start| reply.starts_with(start))
}

/// HEXPIRE answers one number a field: 0 for a condition that failed, -2 for a field that is not there.
fn changed_no_field(reply: &[u8]) -> bool {
    let mut lines = reply.split(|&byte| byte == b'\n').skip(1).filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some() && lines.all(|line| line == b":0\r" || line == b":-2\r")
}

fn is(argument: &[u8], word: &[u8]) -> bool {
    argument.eq_ignore_ascii_case(word)
}

fn is_one_of(argument: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|word| is(argument, word))
}

const EXPIRE_CHECKS: &[&[u8]] = &[b"NX", b"XX", b"GT", b"LT"];

fn checked_if_any<'a>(mut options: impl Iterator<Item = &'a [u8]>, checks: &[&[u8]]) -> Category {
    if options.any(|option| is_one_of(option, checks)) { Category::WriteChecked } else { Category::WriteLastWins }
}

const fn reads_unless(changes: bool) -> Category {
    if changes { Category::WriteLastWins } else { Category::ReadOnly }
}

/// `SET key value [NX|XX|IFEQ v|IFNE v|IFDEQ d|IFDNE d] [GET] [EX n|PX n|EXAT n|PXAT n|KEEPTTL]`
fn judge_set(arguments: Arguments<'_>) -> Retry {
    const CHECKS_OF_VALUE: &[&[u8]] = &[b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"];
    const WITH_OPERAND: &[&[u8]] = &[b"EX", b"PX", b"EXAT", b"PXAT"];
    let mut category = Category::WriteLastWins;
    let mut options = arguments.skip(3);
    while let Some(option) = options.next() {
        let operand = if is(option, b"GET") {
            category = category.max(Category::WriteAccumulating);
            false
        } else if is_one_of(option, CHECKS_OF_VALUE) {
            category = checked(category);
            true
        } else if is_one_of(option, &[b"NX", b"XX"]) {
            category = checked(category);
            false
        } else {
            is_one_of(option, WITH_OPERAND)
        };
        if operand {
            options.next();
        }
    }
    Retry { category, blind: category == Category::WriteLastWins }
}

/// A check makes a write that only sets a checked one; one that also reads stays what it is.
const fn checked(category: Category) -> Category {
    match category {
        Category::WriteLastWins => Category::WriteChecked,
        other => other,
    }
}

/// `ZADD key [NX|XX] [GT|LT] [CH] [INCR] score member …`, `GEOADD key [NX|XX] [CH] longitude latitude member …`
fn sorted_set_add(arguments: Arguments<'_>) -> Category {
    let mut category = Category::WriteLastWins;
    for option in arguments.skip(2) {
        if is(option, b"INCR") {
            return Category::WriteAccumulating;
        }
        if is_one_of(option, EXPIRE_CHECKS) {
            category = Category::WriteChecked;
        } else if !is(option, b"CH") {
            break;
        }
    }
    category
}

/// `HEXPIRE key time [NX|XX|GT|LT] FIELDS n field …`
fn hash_expire(arguments: Arguments<'_>) -> Category {
    checked_if_any(arguments.skip(3).take_while(|option| !is(option, b"FIELDS")), EXPIRE_CHECKS)
}

/// `HSETEX key [FNX|FXX] [EX n|…|KEEPTTL] FIELDS n field value …`; Valkey also has NX and XX for the key.
fn hash_set_with_expiry(arguments: Arguments<'_>) -> Category {
    const CHECKS: &[&[u8]] = &[b"FNX", b"FXX", b"NX", b"XX"];
    checked_if_any(arguments.skip(2).take_while(|option| !is(option, b"FIELDS")), CHECKS)
}

/// `HGETEX key [EX n|…|PERSIST] FIELDS n field …`
fn hash_get_with_expiry(arguments: Arguments<'_>) -> Category {
    let mut rest = arguments.skip(2);
    let fields_first = rest.next().is_some_and(|word| is(word, b"FIELDS"));
    let fields = rest.next().and_then(number);
    reads_unless(!fields_first || fields != Some(rest.count()))
}

/// `MSETEX numkeys key value … [NX|XX] [EX n|…|KEEPTTL]`
fn many_set_with_expiry(mut arguments: Arguments<'_>) -> Category {
    match arguments.nth(1).and_then(number).and_then(|keys| keys.checked_mul(2)) {
        Some(words) => checked_if_any(arguments.skip(words), &[b"NX", b"XX"]),
        None => Category::WriteAccumulating,
    }
}

/// `COPY source destination … [REPLACE]`, `RESTORE key ttl value [REPLACE] …`
fn replaces_or_checks(arguments: Arguments<'_>) -> Category {
    if arguments.skip(3).any(|option| is(option, b"REPLACE")) {
        Category::WriteAccumulating
    } else {
        Category::WriteChecked
    }
}

/// `XADD key [NOMKSTREAM] [KEEPREF|DELREF|ACKED] [IDMPAUTO p|IDMP p i] [MAXLEN|MINID [=|~] n [LIMIT n]] id field value …`
fn stream_add(arguments: Arguments<'_>) -> Category {
    let mut words = arguments.skip(2);
    while let Some(word) = words.next() {
        if is_one_of(word, &[b"NOMKSTREAM", b"KEEPREF", b"DELREF", b"ACKED"]) {
            continue;
        }
        let operands = if is_one_of(word, &[b"MAXLEN", b"MINID"]) {
            let sign_or_number = words.next().unwrap_or_default();
            usize::from(matches!(sign_or_number, b"=" | b"~"))
        } else if is_one_of(word, &[b"LIMIT", b"IDMPAUTO"]) {
            1
        } else if is(word, b"IDMP") {
            2
        } else {
            return if is_full_id(word) { Category::WriteChecked } else { Category::WriteAccumulating };
        };
        if operands > 0 {
            words.nth(operands - 1);
        }
    }
    Category::WriteAccumulating
}

/// `123` (which means `123-0`) and `123-4`, but neither `*` nor `123-*`.
fn is_full_id(id: &[u8]) -> bool {
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let mut parts = id.splitn(2, |&byte| byte == b'-');
    parts.next().is_some_and(digits) && parts.next().is_none_or(digits)
}

/// `BITFIELD key [GET type offset | OVERFLOW how | SET … | INCRBY …] …`
fn bitfield(arguments: Arguments<'_>) -> Category {
    let mut words = arguments.skip(2);
    while let Some(word) = words.next() {
        let operands = match word {
            get if is(get, b"GET") => 2,
            overflow if is(overflow, b"OVERFLOW") => 1,
            _ => return Category::WriteAccumulating,
        };
        words.nth(operands - 1);
    }
    Category::ReadOnly
}

/// A command that stores: accumulating when the destination is among its sources.
const fn store(into_source: bool) -> Category {
    if into_source { Category::WriteAccumulating } else { Category::WriteLastWins }
}

/// `SUNIONSTORE destination key …`, `ZRANGESTORE destination source …`: so many `sources` follow the destination.
fn stores(arguments: Arguments<'_>, sources: usize) -> Category {
    let mut keys = arguments.skip(1);
    let destination = keys.next();
    store(keys.take(sources).any(|source| Some(source) == destination))
}

/// `ZUNIONSTORE destination numkeys key …`
fn store_of_counted_keys(arguments: Arguments<'_>) -> Category {
    let mut words = arguments.skip(1);
    let destination = words.next();
    match words.next().and_then(number) {
        Some(sources) => store(words.take(sources).any(|source| Some(source) == destination)),
        None => Category::WriteAccumulating,
    }
}

/// `GEORADIUS key … [STORE destination] [STOREDIST destination]`, options from argument `first` on.
fn geo_store(mut arguments: Arguments<'_>, first: usize) -> Category {
    let source = arguments.nth(1);
    let mut words = arguments.skip(first - 2);
    let mut category = Category::ReadOnly;
    while let Some(word) = words.next() {
        if is_one_of(word, &[b"STORE", b"STOREDIST"]) {
            category = category.max(store(words.next() == source));
        }
    }
    category
}

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [ASC|DESC] [ALPHA] [STORE destination]`
///
/// The keys that BY and GET read are sources too.
fn sort(arguments: Arguments<'_>) -> Category {
    let Some(destination) = sort_operands(arguments, &[b"STORE"]).last() else { return Category::ReadOnly };
    let from_source = arguments.skip(1).take(1).any(|source| source == destination);
    let by_pattern = sort_operands(arguments, &[b"BY", b"GET"]).any(|pattern| may_name(pattern, destination));
    store(from_source || by_pattern)
}

/// The operands of the `wanted` options of a SORT.
fn sort_operands<'a>(arguments: Arguments<'a>, wanted: &'static [&'static [u8]]) -> impl Iterator<Item = &'a [u8]> {
    let mut words = arguments.skip(2);
    std::iter::from_fn(move || {
        loop {
            let word = words.next()?;
            if is(word, b"LIMIT") {
                words.nth(1);
            } else if is_one_of(word, &[b"BY", b"GET", b"STORE"]) {
                let operand = words.next()?;
                if is_one_of(word, wanted) {
                    return Some(operand);
                }
            }
        }
    })
}

/// Whether `pattern` (`weight_*`, `hash_*->field`) may stand for `key`.
fn may_name(pattern: &[u8], key: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else { return false };
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let end = after.windows(2).position(|arrow| arrow == b"->").unwrap_or(after.len());
    key.len() >= before.len() + end && key.starts_with(before) && key.ends_with(&after[..end])
}

fn number(word: &[u8]) -> Option<usize> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{classify, table};

    fn judged(line: &str) -> Retry {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut frame = format!("*{}\r\n", words.len()).into_bytes();
        for word in &words {
            frame.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        match classify::classify(&frame, words[0].as_bytes()).command {
            Some(command) => judge(command, Arguments::new(&frame)),
            None => Retry::UNKNOWN,
        }
    }

    fn assert_all(category: Category, lines: &[&str]) {
        for line in lines {
            assert_eq!(judged(line).category, category, "{line}");
        }
    }

    #[test]
    fn safest_first() {
        use Category::{Connection, Never, ReadOnly, ServerAdmin, WriteAccumulating, WriteChecked, WriteLastWins};
        let order = [Connection, ReadOnly, WriteChecked, WriteLastWins, WriteAccumulating, ServerAdmin, Never];
        assert!(order.is_sorted());
    }

    #[test]
    fn connection() {
        assert_all(
            Category::Connection,
            &["PING", "ECHO x", "SELECT 1", "CLIENT ID", "SUBSCRIBE c", "WATCH k", "MULTI"],
        );
    }

    #[test]
    fn read_only() {
        assert_all(
            Category::ReadOnly,
            &[
                "GET k",
                "MGET k",
                "LRANGE k 0 -1",
                "SCAN 0",
                "XREAD STREAMS k 0",
                "OBJECT FREQ k",
                "INFO",
                "TIME",
                "EVAL_RO x 0",
                "EVALSHA_RO x 0",
                "FCALL_RO f 0",
                "SORT k",
                "SORT k BY store GET store",
                "SORT_RO k",
                "GETEX k",
                "BITFIELD k GET u8 0 get u4 set",
                "BITFIELD_RO k GET u8 0",
                "GEORADIUS k 1 1 5 m WITHDIST",
                "GEORADIUSBYMEMBER store store 5 m",
                "HGETEX k FIELDS 2 ex persist",
                "CONFIG GET *",
                "ROLE",
                "PUBSUB CHANNELS",
                "COMMAND COUNT",
                "TOUCH k",
                "SLOWLOG GET",
            ],
        );
    }

    #[test]
    fn write_checked() {
        assert_all(
            Category::WriteChecked,
            &[
                "SETNX k v",
                "HSETNX k f v",
                "MSETNX k v",
                "SET k v NX",
                "SET k v EX 5 xx",
                "SET k v IFEQ get",
                "SET k v IFDNE d PX 5",
                "XADD k 1-1 f v",
                "XADD k 5 f v",
                "XADD k NOMKSTREAM MAXLEN ~ 5 LIMIT 9 1-1 f v",
                "XADD k MINID 7 1-1 f *",
                "COPY a b",
                "COPY a b DB 3",
                "RESTORE k 0 x",
                "RESTORE replace 0 x ABSTTL",
                "RENAME a b",
                "RENAMENX a b",
                "MOVE k 1",
                "SMOVE a b m",
                "XGROUP CREATE k g $",
                "EXPIRE k 5 NX",
                "PEXPIREAT k 5 gt",
                "ZADD k NX 1 m",
                "ZADD k GT CH 1 m",
                "DEL k",
                "UNLINK k",
                "SREM k m",
                "ZREM k m",
                "HDEL k f",
                "HEXPIRE k 5 LT FIELDS 1 f",
                "HSETEX k FNX EX 5 FIELDS 1 f v",
                "GEOADD k XX 1 1 m",
            ],
        );
    }

    #[test]
    fn write_last_wins() {
        assert_all(
            Category::WriteLastWins,
            &[
                "SET k v",
                "SET nx nx",
                "SET k v EX 5",
                "SET k v PXAT nx",
                "SET k v KEEPTTL",
                "MSET a nx b xx",
                "SETEX k 5 v",
                "PSETEX k 5 v",
                "HSET k f v",
                "HMSET k f v",
                "SADD k m",
                "ZADD k 1 nx",
                "ZADD k CH 1 incr",
                "EXPIRE nx 5",
                "EXPIREAT k 5",
                "PEXPIRE k 5",
                "PERSIST k",
                "SETRANGE k 0 v",
                "LSET k 0 v",
                "XTRIM k MAXLEN 5",
                "GETEX k PERSIST",
                "GETEX k EX 5",
                "SORT k STORE d",
                "SORT k BY w_* GET h_*->d STORE d",
                "SUNIONSTORE d a b",
                "SDIFFSTORE d a",
                "ZUNIONSTORE d 2 a b WEIGHTS d 1",
                "ZRANGESTORE d a 0 -1",
                "GEOSEARCHSTORE d a FROMMEMBER d BYRADIUS 5 m",
                "GEORADIUS k 1 1 5 m STORE d",
                "HEXPIRE k 5 FIELDS 1 nx",
                "HSETEX k EX 5 FIELDS 1 fnx v",
                "HGETEX k EX 5 FIELDS 1 f",
                "GEOADD k 1 1 nx",
                "HPERSIST k FIELDS 1 f",
            ],
        );
    }

    #[test]
    fn write_accumulating() {
        assert_all(
            Category::WriteAccumulating,
            &[
                "INCR k",
                "DECR k",
                "INCRBY k 1",
                "DECRBY k 1",
                "INCRBYFLOAT k 1",
                "HINCRBY k f 1",
                "HINCRBYFLOAT k f 1",
                "ZINCRBY k 1 m",
                "APPEND k v",
                "LPUSH k v",
                "RPUSHX k v",
                "LPOP k",
                "RPOP k",
                "LMPOP 1 k LEFT",
                "ZPOPMIN k",
                "ZMPOP 1 k MIN",
                "BLPOP k 0",
                "SPOP k",
                "GETSET k v",
                "SET k v GET",
                "SET k v NX GET",
                "SET k v GET XX",
                "GETDEL k",
                "HGETDEL k FIELDS 1 f",
                "SETBIT k 0 1",
                "LTRIM k 0 1",
                "LREM k 0 v",
                "LINSERT k BEFORE a b",
                "LMOVE a b LEFT LEFT",
                "RPOPLPUSH a b",
                "BRPOPLPUSH a b 0",
                "XADD k * f v",
                "XADD k 1-* f v",
                "XADD k MAXLEN = 5 * 1-1 v",
                "XADD k NOMKSTREAM",
                "XCLAIM k g c 0 1-1",
                "XREADGROUP GROUP g c STREAMS k >",
                "ZADD k INCR 1 m",
                "ZADD k NX incr 1 m",
                "BITFIELD k SET u8 0 1",
                "BITFIELD k GET u8 0 INCRBY u8 0 1",
                "BITFIELD k OVERFLOW GET set u8 0 1",
                "PUBLISH c m",
                "SPUBLISH c m",
                "SUNIONSTORE d a d",
                "ZINTERSTORE d 2 a d",
                "ZUNIONSTORE d x",
                "ZRANGESTORE d d 0 -1",
                "GEOSEARCHSTORE d d FROMMEMBER m",
                "SORT d STORE d",
                "SORT k BY w_* STORE w_1",
                "SORT k GET h_*->f STORE h_1",
                "GEORADIUS d 1 1 5 m STORE d",
                "COPY a b REPLACE",
                "RESTORE k 0 x replace",
                "FLUSHALL",
                "XACK k g 1",
                "ZREMRANGEBYSCORE k 0 1",
                "XGROUP DESTROY k g",
            ],
        );
    }

    #[test]
    fn server_admin() {
        assert_all(
            Category::ServerAdmin,
            &["CONFIG SET a b", "ACL SETUSER a", "SAVE", "SLOWLOG RESET", "SCRIPT FLUSH", "LATENCY RESET", "SHUTDOWN"],
        );
    }

    #[test]
    fn never() {
        let lines = ["EVAL x 0", "EVALSHA x 0", "FCALL f 0", "EXEC", "WAIT 1 0", "FOO", "CONFIG FOO", "POST /"];
        assert_all(Category::Never, &lines);
    }

    #[test]
    fn blind_writes_answer_the_same_whatever_the_state() {
        for line in [
            "SET k v",
            "SET k v EX 5",
            "SET k nx",
            "MSET k v",
            "SETEX k 5 v",
            "PSETEX k 5 v",
            "HMSET k f v",
            "LSET k 0 v",
        ] {
            assert!(judged(line).blind, "{line}");
        }
        for line in ["SET k v NX", "SET k v GET", "SET k v IFEQ x", "HSET k f v", "DEL k", "GET k", "INCR k", "FOO"] {
            assert!(!judged(line).blind, "{line}");
        }
    }

    #[test]
    fn a_condition_that_failed_leaves_open_whether_the_first_time_worked() {
        let open: [(&str, &[u8]); 13] = [
            ("SETNX k v", b":0\r\n"),
            ("DEL k", b":0\r\n"),
            ("SET k v NX", b"$-1\r\n"),
            ("SET k v NX", b"_\r\n"),
            ("SET k v NX", b"*-1\r\n"),
            ("RESTORE k 0 x", b"-BUSYKEY Target key name already exists.\r\n"),
            ("XGROUP CREATE k g $", b"-BUSYGROUP Consumer Group name already exists\r\n"),
            ("RENAME a b", b"-ERR no such key\r\n"),
            ("RENAMENX a b", b":0\r\n"),
            (
                "XADD k 1-1 f v",
                b"-ERR The ID specified in XADD is equal or smaller than the target stream top item\r\n",
            ),
            ("HEXPIRE k 5 NX FIELDS 1 f", b"*1\r\n:0\r\n"),
            ("HEXPIRE k 5 NX FIELDS 2 f g", b"*2\r\n:-2\r\n:0\r\n"),
            ("ZADD k NX 1 m", b":0\r\n"),
        ];
        for (line, reply) in open {
            assert_eq!(judged(line).category, Category::WriteChecked, "{line}");
            assert!(condition_failed(reply), "{line} {}", reply.escape_ascii());
        }
    }

    #[test]
    fn any_other_reply_is_an_answer() {
        let settled: [(&str, &[u8]); 7] = [
            ("SETNX k v", b":1\r\n"),
            ("SET k v NX", b"+OK\r\n"),
            ("SET k v NX", b"-WRONGTYPE x\r\n"),
            ("XADD k 1-1 f v", b"$3\r\n1-1\r\n"),
            ("XADD k 1-1 f v", b"-ERR syntax error\r\n"),
            ("HEXPIRE k 5 NX FIELDS 2 f g", b"*2\r\n:1\r\n:0\r\n"),
            ("HEXPIRE k 5 NX FIELDS 2 f g", b"*2\r\n:2\r\n:-2\r\n"),
        ];
        for (line, reply) in settled {
            assert_eq!(judged(line).category, Category::WriteChecked, "{line}");
            assert!(!condition_failed(reply), "{line} {}", reply.escape_ascii());
        }
        assert!(!condition_failed(b"*0\r\n"));
        assert!(!condition_failed(b""));
    }

    proptest! {
        #[test]
        fn damage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..64), which in 0..table::all().len()) {
            let _ = judge(&table::all()[which], Arguments::new(&frame));
            let _ = condition_failed(&frame);
        }

        #[test]
        fn arguments_never_make_a_write_a_read_unless_the_contract_says_so(
            words in proptest::collection::vec("[A-Za-z0-9*]{1,5}", 0..6), which in 0..table::all().len()
        ) {
            const MAY_READ: [&str; 6] = ["getex", "hgetex", "bitfield", "sort", "georadius", "georadiusbymember"];
            let command = &table::all()[which];
            let mut frame = format!("*{}\r\n$1\r\nx\r\n", words.len() + 1);
            for word in &words {
                frame.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
            let retry = judge(command, Arguments::new(frame.as_bytes()));
            if retry.category <= Category::ReadOnly {
                prop_assert!(command.retry <= Category::ReadOnly || MAY_READ.contains(&command.name));
            }
            prop_assert!(!retry.blind || retry.category == Category::WriteLastWins);
        }
    }
}
