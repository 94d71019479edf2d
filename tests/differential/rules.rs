//! Which replies may rightly differ, each with its reason. Whatever is not here is compared byte for byte.

use handover::command::table;

use super::frame::{Body, Frame};
use super::grammar::Words;

/// How two replies that rightly differ are made alike.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// Only the kind of reply is compared; errors to the letter.
    Kind,
    /// The kind, and how many elements there are.
    Count,
    /// The elements in any order.
    Unordered,
    /// Pairs of elements in any order.
    Pairs,
    /// As `Unordered`, at every depth.
    UnorderedDeep,
    /// Positive numbers are alike.
    Positive,
    /// Numbers of milliseconds of today, and times since something.
    Times,
    /// The cursor's batch, complete or not.
    Scan,
    /// Without the client's number.
    Hello,
    /// Nothing is compared.
    Own,
}

const RULES: &[(Rule, &str, &[&str])] = &[
    (Rule::Kind, "the clock", &["time", "lastsave"]),
    (
        Rule::Kind,
        "the server's own figures",
        &[
            "info",
            "memory|usage",
            "memory|stats",
            "memory|malloc-stats",
            "memory|doctor",
            "slowlog|get",
            "slowlog|len",
            "latency|latest",
            "latency|history",
            "latency|graph",
            "latency|doctor",
            "latency|histogram",
            "latency|reset",
            "acl|log",
            "object|idletime",
            "lolwut",
        ],
    ),
    (Rule::Kind, "a client's number and addresses are Handover's own", &["client|id", "client|info", "client|list"]),
    (Rule::Kind, "random", &["acl|genpass", "randomkey"]),
    (Rule::Count, "random members", &["srandmember", "hrandfield", "zrandmember"]),
    (Rule::Kind, "a dump holds hashes and sets in the order of a table whose seed is the server's own", &["dump"]),
    (
        Rule::Unordered,
        "the order of a table whose seed is the server's own",
        &[
            "smembers",
            "sinter",
            "sunion",
            "sdiff",
            "spop",
            "hkeys",
            "hvals",
            "keys",
            "sort",
            "sort_ro",
            "acl|cat",
            "pubsub|channels",
            "pubsub|shardchannels",
            "command|list",
        ],
    ),
    (Rule::Pairs, "the order of a table whose seed is the server's own", &["hgetall", "config|get"]),
    (
        Rule::UnorderedDeep,
        "the order of a table whose seed is the server's own",
        &["command", "command|info", "command|docs", "function|list"],
    ),
    (Rule::Positive, "the moment at which EX or EXPIRE came", &["ttl", "pttl", "expiretime", "pexpiretime"]),
    (
        Rule::Times,
        "ids made of the clock, and idle times",
        &[
            "xadd",
            "xrange",
            "xrevrange",
            "xread",
            "xreadgroup",
            "xpending",
            "xclaim",
            "xautoclaim",
            "xinfo|stream",
            "xinfo|groups",
            "xinfo|consumers",
            "xsetid",
        ],
    ),
    (
        Rule::Scan,
        "cursors and batches follow a table whose seed is the server's own",
        &["scan", "sscan", "hscan", "zscan"],
    ),
    (Rule::Hello, "a client's number is Handover's own", &["hello"]),
    (
        Rule::Own,
        "answered by Handover itself, also in the name of servers that do not know it",
        &["client|setinfo", "client|help", "client|maint_notifications"],
    ),
];

/// Refused by name (contract, section 3).
const REFUSED: &[&str] = &[
    "shutdown",
    "debug",
    "module",
    "sync",
    "psync",
    "replconf",
    "replicaof",
    "slaveof",
    "failover",
    "script|debug",
    "migrate",
    "swapdb",
];

/// Refused by name inside a transaction (contract, section 3).
const REFUSED_IN_TRANSACTION: &[&str] = &[
    "client|unpause",
    "client|tracking",
    "client|caching",
    "client|no-touch",
    "client|reply",
    "wait",
    "waitaof",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "monitor",
    "hello",
    "auth",
];

/// A command's name in the table's own way: with its subcommand, if it has some.
pub(crate) fn name_of(words: &Words) -> String {
    let name = String::from_utf8_lossy(&words[0]).to_lowercase();
    match (table::find(&words[0]), words.get(1)) {
        (Some(command), Some(word)) if command.is_container() => {
            format!("{name}|{}", String::from_utf8_lossy(word).to_lowercase())
        }
        _ => name,
    }
}

/// Whether Handover refuses this, so that nothing of it is sent to the server that it is compared with.
pub(crate) fn is_refused(words: &Words, in_transaction: bool) -> bool {
    let name = name_of(words);
    let container = name.split('|').next().unwrap_or_default();
    REFUSED.contains(&name.as_str())
        || container == "module"
        || (in_transaction && REFUSED_IN_TRANSACTION.contains(&name.as_str()))
}

/// Errors of which only the words differ: a server that does not know a command says so before anything else, and
/// Handover, where it answers itself, cannot know what a server knows.
pub(crate) fn is_said_otherwise(words: &Words, is_subscriber: bool, got: &Frame, wanted: &Frame) -> bool {
    let name = name_of(words);
    let is_answered = is_subscriber || name.starts_with("cluster|");
    let is_unknown = wanted.line.starts_with(b"-ERR unknown");
    // Some commands take more words since, and others fewer (ZRANK, COMMAND GETKEYS).
    let is_newer = wanted.line.starts_with(b"-ERR wrong number")
        && table::find_full(&name).is_some_and(|command| command.takes(words.len()));
    // Before 7.2 a wrong password was told before a wrong option behind it.
    let is_order =
        name == "hello" && wanted.line.starts_with(b"-WRONGPASS") && got.line.starts_with(b"-ERR Syntax error");
    is_order || is_answered && (is_unknown || is_newer) && got.is_error() && !got.line.starts_with(b"-ERR handover")
}

/// Sent to nobody.
pub(crate) fn is_left_out(words: &Words, in_transaction: bool) -> bool {
    let name = name_of(words);
    // Redis 7.0 puts a message to the one who publishes it into the middle of EXEC's array.
    in_transaction && name.ends_with("publish")
}

/// A reply with what may rightly differ taken out.
pub(crate) fn normal(words: &Words, mut frame: Frame) -> Frame {
    let name = name_of(words);
    let rule = RULES.iter().find(|(_, _, names)| names.contains(&name.as_str())).map(|(rule, ..)| *rule);
    let Some(rule) = rule else { return frame };
    if rule == Rule::Own {
        return Frame::simple("+any");
    }
    if frame.is_error() || frame.line == b"+QUEUED" {
        return frame;
    }
    match rule {
        Rule::Kind => Frame { line: vec![frame.marker()], body: Body::None },
        Rule::Count if frame.items().is_empty() => Frame { line: vec![frame.marker()], body: Body::None },
        Rule::Count => Frame { line: frame.line, body: Body::None },
        Rule::Unordered => {
            frame.items_mut().sort();
            frame
        }
        Rule::Pairs => paired(frame),
        Rule::UnorderedDeep => {
            sort_deep(&mut frame);
            frame
        }
        Rule::Positive if frame.line.starts_with(b":-") => frame,
        Rule::Positive => Frame::simple(":positive"),
        Rule::Times => {
            hide_times(&mut frame);
            frame
        }
        Rule::Scan => scanned(words, frame),
        Rule::Hello => without_number(frame),
        Rule::Own => unreachable!("returned above"),
    }
}

fn paired(mut frame: Frame) -> Frame {
    let mut pairs: Vec<Vec<Frame>> = frame.items().chunks(2).map(<[Frame]>::to_vec).collect();
    pairs.sort();
    frame.body = Body::Items(pairs.into_iter().flatten().collect());
    frame
}

fn sort_deep(frame: &mut Frame) {
    frame.items_mut().iter_mut().for_each(sort_deep);
    frame.items_mut().sort();
}

/// Ids such as `1763740000000-0` become `now-0`; the number after `idle` and its like is hidden.
fn hide_times(frame: &mut Frame) {
    const ELAPSED: [&[u8]; 2] = [b"idle", b"inactive"];
    let hidden = |text: &[u8]| -> Option<Vec<u8>> {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits == 13 && (text.len() == 13 || text[13] == b'-')).then(|| [b"now", &text[13..]].concat())
    };
    match &mut frame.body {
        Body::None if frame.line[0] == b':' => {
            if let Some(now) = hidden(&frame.line[1..]) {
                frame.line = [b":", now.as_slice()].concat();
            }
        }
        Body::None => {}
        Body::Text(text) => {
            if let Some(now) = hidden(text) {
                // Two in one millisecond are told apart by the number behind it.
                *text = now[..3].to_vec();
            }
        }
        Body::Items(items) => {
            let is_pending_entry = items.len() == 4 && items[2].line[0] == b':' && items[3].line[0] == b':';
            for index in 1..items.len() {
                let follows = ELAPSED.contains(&items[index - 1].text());
                if items[index].line[0] == b':' && (follows || (is_pending_entry && index == 2)) {
                    items[index] = Frame::simple(":elapsed");
                }
            }
            items.iter_mut().for_each(hide_times);
        }
    }
}

fn scanned(words: &Words, mut frame: Frame) -> Frame {
    let is_whole = words.iter().any(|word| word == b"1000") && words.iter().any(|word| word == b"0");
    match frame.items_mut() {
        [cursor, batch] if is_whole && cursor.text() == b"0" => {
            batch.items_mut().sort();
            frame
        }
        _ => Frame { line: vec![frame.marker()], body: Body::None },
    }
}

fn without_number(frame: Frame) -> Frame {
    let pairs = frame.items().chunks(2).filter(|pair| pair[0].text() != b"id").flatten().cloned().collect();
    Frame { line: frame.line, body: Body::Items(pairs) }
}
