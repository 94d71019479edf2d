//! Cursors of SCAN and its family: whole scans, and cursors that a switch makes worthless.

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use support::{Pair, RawClient, RedisServer, Value, encode};

const KEYS: usize = 3000;
const STALE: &str = "ERR handover: cursor is not valid on this backend";

fn fill(server: &RedisServer) {
    let mut client = server.client();
    for number in 0..KEYS {
        let (name, member) = (format!("key:{number}"), format!("member:{number}"));
        let requests: [&[&str]; 4] = [
            &["SET", &name, "v"],
            &["HSET", "hash", &member, "1"],
            &["SADD", "set", &member],
            &["ZADD", "sorted", "1", &member],
        ];
        client.send(requests.map(encode).concat());
        for _ in requests {
            assert!(!matches!(client.read_reply(), Value::Error(_)));
        }
    }
}

/// Whether it is an error that begins so.
fn says(reply: &Value, text: &str) -> bool {
    matches!(reply, Value::Error(error) if error.starts_with(text))
}

/// Each command of the family, with its cursor's place.
fn scans(cursor: &str) -> [Vec<String>; 4] {
    [&["SCAN", "?"][..], &["HSCAN", "hash", "?"], &["SSCAN", "set", "?"], &["ZSCAN", "sorted", "?"]]
        .map(|words| words.iter().map(|word| if *word == "?" { cursor } else { word }.to_owned()).collect())
}

/// The cursor of a reply, and its elements.
#[track_caller]
fn page(reply: &Value) -> (String, Vec<String>) {
    let Value::Array(parts) = reply else { panic!("no page: {reply:?}") };
    let Value::Array(elements) = &parts[1] else { panic!("no elements: {reply:?}") };
    (parts[0].text(), elements.iter().map(Value::text).collect())
}

/// Scans to the end and counts the distinct elements.
#[track_caller]
fn scan_whole(client: &mut RawClient, which: usize) -> usize {
    let (mut cursor, mut found, mut pages) = ("0".to_owned(), BTreeSet::new(), 0);
    loop {
        let (next, elements) = page(&client.command(&scans(&cursor)[which]));
        found.extend(elements);
        pages += 1;
        assert!(next.parse::<u64>().is_ok_and(|cursor| cursor < 1 << 53), "{next}");
        if next == "0" {
            assert!(pages > 10, "one page proves nothing");
            return found.len();
        }
        assert!(next.parse::<u64>().is_ok_and(|cursor| cursor >= 1 << 44), "{next} carries no epoch");
        cursor = next;
    }
}

#[test]
fn whole_scans_find_everything_on_lanes_and_pins_and_over_workers() {
    let pair = Pair::builder().configuration("[runtime]\nworkers = 2").start();
    fill(&pair.east);
    let expected = [KEYS + 3, KEYS + 1, KEYS, KEYS + 1];
    for (which, expected) in expected.into_iter().enumerate() {
        assert_eq!(scan_whole(&mut pair.client(), which), expected, "{which}");
        let mut pinned = pair.client();
        pinned.command(&["WATCH", "none"]);
        assert_eq!(scan_whole(&mut pinned, which), expected, "{which} on a pin");
    }
    // A pool goes on with a cursor over another connection, and there on another worker.
    let (mut first, mut second) = (pair.client(), pair.client());
    let (cursor, _) = page(&first.command(&["SCAN", "0"]));
    assert!(!page(&second.command(&["SCAN", &cursor])).1.is_empty());
}

#[test]
fn a_cursor_of_another_epoch_is_refused_and_one_of_this_epoch_is_not() {
    let mut pair = Pair::builder().returning().start();
    fill(&pair.east);
    fill(&pair.west);
    let mut client = pair.client();
    let cursors: Vec<String> = (0..4).map(|which| page(&client.command(&scans("0")[which])).0).collect();
    let refused = |client: &mut RawClient| {
        for (which, cursor) in cursors.iter().enumerate() {
            let reply = client.command(&scans(cursor)[which]);
            assert!(says(&reply, STALE), "{which}: {reply:?}");
        }
        assert_eq!(scan_whole(client, 0), KEYS + 3);
    };
    pair.fail_over();
    refused(&mut client);
    // Within a transaction too, which then fails as a whole.
    client.send(
        [encode(&["MULTI"]), encode(&["SET", "never", "1"]), encode(&["SCAN", &cursors[0]]), encode(&["EXEC"])]
            .concat(),
    );
    assert_eq!(client.read_reply(), Value::ok());
    assert_eq!(client.read_reply().text(), "QUEUED");
    assert!(says(&client.read_reply(), STALE));
    assert!(client.read_reply().is_error("EXECABORT"));
    assert_eq!(client.command(&["EXISTS", "never"]), Value::Integer(0));
    pair.fail_back();
    refused(&mut client);
}

#[test]
fn within_a_transaction_cursors_are_passed_as_the_backend_has_them() {
    let pair = Pair::start();
    fill(&pair.east);
    let mut client = pair.client();
    for in_pieces in [false, true] {
        let lines = [encode(&["MULTI"]), encode(&["SCAN", "0"]), encode(&["EXEC"])];
        match in_pieces {
            false => client.send(lines.concat()),
            true => {
                client.send(&lines[0]);
                assert_eq!(client.read_reply(), Value::ok());
                client.send(lines[1..].concat());
            }
        }
        let replies: Vec<Value> = (usize::from(in_pieces)..3).map(|_| client.read_reply()).collect();
        let Some(Value::Array(results)) = replies.last() else { panic!("{replies:?}") };
        let (cursor, _) = page(&results[0]);
        assert!(cursor.parse::<u64>().is_ok_and(|cursor| cursor < 1 << 44), "{cursor}");
        // Nothing tells its epoch, so it is not refused; and a marked one goes in without its mark.
        let (marked, elements) = page(&client.command(&["SCAN", &cursor]));
        assert!(!elements.is_empty());
        client.send([encode(&["MULTI"]), encode(&["SCAN", &marked]), encode(&["EXEC"])].concat());
        assert_eq!((client.read_reply(), client.read_reply().text()), (Value::ok(), "QUEUED".to_owned()));
        let Value::Array(inside) = client.read_reply() else { panic!("no array") };
        let Value::Array(outside) = client.command(&["SCAN", &marked]) else { panic!("no array") };
        assert_eq!(page(&inside[0]).1, page(&Value::Array(outside)).1);
    }
}

#[test]
fn what_is_no_cursor_is_judged_by_redis() {
    let pair = Pair::start();
    let (mut direct, mut proxied) = (pair.west.client(), pair.client());
    for words in [
        &["SCAN", "x"][..],
        &["SCAN", ""],
        &["SCAN", "-1"],
        &["SCAN", "+0"],
        &["SCAN", " 0"],
        &["SCAN", "18446744073709551615"],
        &["SCAN", "18446744073709551616"],
        &["SCAN"],
        &["SCAN", "0", "COUNT"],
        &["SCAN", "0", "COUNT", "0"],
        &["HSCAN", "k", "x"],
        &["HSCAN", "k"],
        &["ZSCAN", "k", "0", "MATCH", "*"],
        &["SSCAN", "k", "5"],
    ] {
        direct.send(encode(words));
        proxied.send(encode(words));
        let (_, expected) = direct.read_reply_raw();
        assert_eq!(
            proxied.read_reply_raw().1.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{words:?}"
        );
    }
}

#[test]
fn a_long_page_passes_in_pieces_with_its_cursor_marked() {
    let mut pair = Pair::start();
    fill(&pair.east);
    let mut client = pair.client();
    client.command(&["HSET", "hash", "long", &"x".repeat(300_000)]);
    let mut cursor = "0".to_owned();
    let mut is_found = false;
    loop {
        let (next, elements) = page(&client.command(&["HSCAN", "hash", &cursor, "COUNT", "100"]));
        is_found |= elements.iter().any(|element| element.len() == 300_000);
        if next == "0" {
            break;
        }
        assert!(next.parse::<u64>().is_ok_and(|cursor| cursor >= 1 << 44), "{next} carries no epoch");
        cursor = next;
    }
    assert!(is_found);
    let (cursor, _) = page(&client.command(&["SCAN", "0", "COUNT", "2900"]));
    assert!(cursor.parse::<u64>().is_ok_and(|cursor| cursor >= 1 << 44), "{cursor}");
    pair.fail_over();
    assert!(says(&client.command(&["SCAN", &cursor]), STALE));
}

#[test]
fn cursors_pass_as_they_are_when_the_operator_says_so() {
    let mut pair = Pair::builder().configuration("[group.default.failover]\nscan_cursors = \"passed\"").start();
    fill(&pair.east);
    let mut client = pair.client();
    let (cursor, _) = page(&client.command(&["SCAN", "0"]));
    assert!(cursor.parse::<u64>().is_ok_and(|cursor| cursor < 1 << 44), "{cursor}");
    pair.fail_over();
    assert_eq!(page(&client.command(&["SCAN", &cursor])), ("0".to_owned(), vec![]));
}

#[test]
fn dedicated_listeners_mark_cursors_too() {
    let listeners =
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"dedicated\"";
    let mut pair = Pair::builder().configuration(listeners).start();
    fill(&pair.east);
    let mut client = RawClient::connect(pair.handover.addresses()[1]);
    assert_eq!(scan_whole(&mut client, 0), KEYS + 3);
    let (cursor, _) = page(&client.command(&["SCAN", "0"]));
    pair.fail_over();
    assert!(says(&client.command(&["SCAN", &cursor]), STALE));
}

#[test]
fn redis_cli_scans_and_finds_the_big_keys() {
    let pair = Pair::start();
    fill(&pair.east);
    pair.client().command(&["SET", "big", &"x".repeat(50_000)]);
    let port = pair.handover.port().to_string();
    let run = |argument: &str| {
        let output = Command::new("redis-cli").args(["-p", &port, argument]).output().expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(run("--scan").lines().collect::<BTreeSet<_>>().len(), KEYS + 4);
    let report = run("--bigkeys");
    assert!(report.contains("\"big\"' has 50000 bytes"), "{report}");
}

#[test]
fn redis_py_iterates_over_scans() {
    let pair = Pair::start();
    fill(&pair.east);
    let program = format!(
        "import redis\n\
         client = redis.Redis(port={})\n\
         counts = [len(set(scan)) for scan in (client.scan_iter(), client.hscan_iter('hash'), \
             client.sscan_iter('set'), client.zscan_iter('sorted'))]\n\
         print(counts)",
        pair.handover.port()
    );
    let output = Command::new(support::python()).args(["-c", &program]).output().expect("python is there");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed.trim(), format!("[{}, {KEYS}, {KEYS}, {KEYS}]", KEYS + 3), "{output:?}");
}
