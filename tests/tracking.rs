//! CLIENT TRACKING, and what else a session has set up on its connection: truthful, and set up again after a switch.

mod support;

use support::{Handover, PATIENCE, Pair, Process, RawClient, RedisServer, Value, encode, python, wait_until};

/// What tells a RESP3 client to forget everything.
const FORGET_ALL: &str = ">2\r\n$10\r\ninvalidate\r\n_\r\n";
/// The same for the RESP2 target of a redirect.
const FORGET_ALL_MESSAGE: &str = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n";

fn frame(line: &str) -> Vec<u8> {
    encode(&line.split_whitespace().collect::<Vec<_>>())
}

fn frames(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| frame(line)).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// What tells a RESP3 client to forget one key.
fn forget(key: &str) -> String {
    format!(">2\r\n$10\r\ninvalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())
}

/// The same for the RESP2 target of a redirect.
fn forget_message(key: &str) -> String {
    format!("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n${}\r\n{key}\r\n", key.len())
}

fn client_in(pair: &Pair, protocol: &str) -> RawClient {
    let mut client = pair.client();
    client.command(&["HELLO", protocol]);
    client
}

fn id_of(client: &mut RawClient) -> String {
    match client.command(&["CLIENT", "ID"]) {
        Value::Integer(id) => id.to_string(),
        other => panic!("not a number: {other:?}"),
    }
}

/// Everything that was said is answered when this comes back.
const END: &str = "the-end";

#[track_caller]
fn replies_to(client: &mut RawClient, bytes: &[u8]) -> String {
    client.send(bytes);
    client.send(encode(&["ECHO", END]));
    let mut replies = Vec::new();
    loop {
        let (value, raw) = client.read_reply_raw();
        if value == Value::bulk(END) {
            return replies.escape_ascii().to_string();
        }
        replies.extend_from_slice(&raw);
    }
}

/// The same without what is said between the replies: who hears of every change hears of it at any time.
#[track_caller]
fn replies_alone_to(client: &mut RawClient, bytes: &[u8]) -> String {
    client.send(bytes);
    client.send(encode(&["ECHO", END]));
    let mut replies = Vec::new();
    loop {
        match client.read_reply_raw() {
            (Value::Push(_), _) => {}
            (value, _) if value == Value::bulk(END) => return replies.escape_ascii().to_string(),
            (_, raw) => replies.extend_from_slice(&raw),
        }
    }
}

/// Reads until this came, whole; returns what came before it.
#[track_caller]
fn hear(client: &mut RawClient, end: &str) -> String {
    let mut heard = String::new();
    loop {
        let frame = String::from_utf8(client.read_reply_raw().1).expect("text");
        if frame == end {
            return heard;
        }
        heard.push_str(&frame);
    }
}

#[test]
fn tracking_is_what_it_is_with_redis() {
    let streams: &[&[&str]] = &[
        &["CLIENT TRACKING", "CLIENT TRACKING foo", "CLIENT TRACKING on FOO", "CLIENT TRACKING on BCAST PREFIX"],
        &["CLIENT TRACKING on OPTIN OPTOUT", "CLIENT TRACKING on PREFIX a", "CLIENT TRACKING on BCAST OPTIN"],
        &["CLIENT TRACKING on REDIRECT 999999", "CLIENT TRACKING on REDIRECT x", "CLIENT TRACKING on REDIRECT"],
        &["CLIENT CACHING yes", "CLIENT CACHING", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "CLIENT TRACKING off"],
        &[
            "CLIENT TRACKING on",
            "CLIENT GETREDIR",
            "CLIENT TRACKINGINFO",
            "GET k",
            "SET k 2",
            "GET k",
            "CLIENT CACHING yes",
        ],
        &["CLIENT TRACKING on", "CLIENT TRACKING on BCAST", "CLIENT TRACKING on NOLOOP", "CLIENT TRACKINGINFO"],
        &["CLIENT TRACKING on NOLOOP", "GET k", "SET k 3", "GET k", "CLIENT TRACKING off", "CLIENT TRACKINGINFO"],
        &["CLIENT TRACKING on OPTIN NOLOOP", "CLIENT CACHING no", "CLIENT CACHING yes", "CLIENT TRACKINGINFO", "GET k"],
        &[
            "CLIENT TRACKING on OPTIN",
            "CLIENT CACHING yes",
            "CLIENT ID",
            "CLIENT TRACKINGINFO",
            "PING",
            "CLIENT TRACKINGINFO",
        ],
        &[
            "CLIENT TRACKING on OPTIN",
            "GET k",
            "SET k 4",
            "CLIENT CACHING yes",
            "GET k",
            "SET k 5",
            "CLIENT TRACKINGINFO",
        ],
        &[
            "CLIENT TRACKING on OPTOUT",
            "CLIENT CACHING yes",
            "CLIENT CACHING no",
            "CLIENT TRACKINGINFO",
            "GET k",
            "SET k 6",
        ],
        &[
            "CLIENT TRACKING on BCAST PREFIX foo PREFIX bar",
            "CLIENT TRACKING on BCAST PREFIX zip",
            "CLIENT TRACKINGINFO",
        ],
        &[
            "CLIENT TRACKING on BCAST PREFIX foo",
            "CLIENT TRACKING on BCAST PREFIX fo",
            "GET foo1",
            "CLIENT TRACKINGINFO",
        ],
        &["CLIENT TRACKING on BCAST", "GET any", "CLIENT TRACKINGINFO", "RESET", "CLIENT TRACKINGINFO"],
        &["CLIENT TRACKING on", "GET k", "MULTI;SET k 7;GET k;EXEC", "GET k", "SET k 8", "RESET", "SET k 9"],
    ];
    let pair = Pair::start();
    for protocol in ["2", "3"] {
        for lines in streams {
            let (mut direct, mut proxied) = (pair.west.client(), client_in(&pair, protocol));
            direct.command(&["HELLO", protocol]);
            let ids = [id_of(&mut direct), id_of(&mut proxied)];
            // One by one, since a push about one's own write comes with the next turn of the server.
            for line in *lines {
                let commands = frames(&line.split(';').collect::<Vec<_>>());
                let expected = replies_to(&mut direct, &commands);
                let reply = replies_to(&mut proxied, &commands);
                if *line != "CLIENT ID" {
                    assert_eq!(reply, expected, "{line} of {lines:?} in RESP{protocol}, clients {ids:?}");
                }
            }
        }
    }
}

#[test]
fn invalidations_come_between_replies_in_one_pipeline() {
    let pair = Pair::start();
    let mut client = client_in(&pair, "3");
    client.send(frames(&[
        "SET k 1",
        "CLIENT TRACKING ON",
        "GET k",
        "SET k 2",
        "GET k",
        "CLIENT TRACKING OFF",
        "GET k",
    ]));
    client.expect(["+OK\r\n+OK\r\n$1\r\n1\r\n+OK\r\n", &forget("k"), "$1\r\n2\r\n+OK\r\n$1\r\n2\r\n"].concat());
    // It goes back to the shared lane.
    pair.wait_for_sessions("pinned", 0);
    assert_eq!(client.command(&["GET", "k"]), Value::bulk("2"));
}

struct Way {
    tracking: &'static str,
    /// Before a key is read.
    before: &'static str,
    key: &'static str,
}

const WAYS: [Way; 6] = [
    Way { tracking: "ON", before: "PING", key: "k" },
    Way { tracking: "ON NOLOOP", before: "PING", key: "k" },
    Way { tracking: "ON OPTIN", before: "CLIENT CACHING YES", key: "k" },
    Way { tracking: "ON OPTOUT", before: "PING", key: "k" },
    Way { tracking: "ON BCAST PREFIX foo PREFIX bar", before: "PING", key: "bar:1" },
    Way { tracking: "ON BCAST", before: "PING", key: "any" },
];

#[test]
fn tracking_goes_on_after_a_fault_and_after_a_planned_switch() {
    for dedicated in [false, true] {
        let listener = "[[listener]]\nbind = \"127.0.0.1:0\"\nsessions = \"dedicated\"";
        let mut pair = Pair::builder().returning().configuration(if dedicated { listener } else { "" }).start();
        let mut clients: Vec<RawClient> = WAYS
            .iter()
            .map(|way| {
                let mut client = client_in(&pair, "3");
                assert_eq!(client.command(&words(&format!("CLIENT TRACKING {}", way.tracking))), Value::ok());
                client
            })
            .collect();
        let told: Vec<String> =
            clients.iter_mut().map(|client| replies_to(client, &frame("CLIENT TRACKINGINFO"))).collect();
        for (way, client) in WAYS.iter().zip(&mut clients) {
            client.send(frames(&[way.before, &format!("GET {}", way.key)]));
            hear(client, "_\r\n");
        }
        for switch in ["forced", "planned"] {
            if switch == "forced" {
                pair.fail_over()
            } else {
                pair.fail_back()
            }
            let active = if switch == "forced" { &pair.west } else { &pair.east };
            for ((way, client), told) in WAYS.iter().zip(&mut clients).zip(&told) {
                let context = format!("{} after a {switch} switch", way.tracking);
                // Who hears of every change hears of those that the others made, too.
                hear(client, FORGET_ALL);
                assert_eq!(replies_alone_to(client, &frame("CLIENT TRACKINGINFO")), *told, "{context}");
                client.send(frames(&[way.before, &format!("GET {}", way.key)]));
                hear(client, "_\r\n");
                active.command(&["SET", way.key, "1"]);
                hear(client, &forget(way.key));
                active.command(&["DEL", way.key]);
                client.send(frames(&[way.before, &format!("GET {}", way.key)]));
                hear(client, "_\r\n");
            }
        }
    }
}

#[test]
fn an_announced_read_is_still_tracked_after_a_switch() {
    let mut pair = Pair::start();
    let mut client = client_in(&pair, "3");
    client.send(frames(&["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES"]));
    client.expect("+OK\r\n+OK\r\n");
    pair.fail_over();
    client.expect(FORGET_ALL);
    client.send(frames(&["GET k", "GET other"]));
    // Told once more, where the connection was lost and the new one was set up apart from each other.
    let mut frames =
        std::iter::repeat_with(|| client.read_reply_raw().1).filter(|frame| frame != FORGET_ALL.as_bytes());
    assert_eq!((frames.next(), frames.next()), (Some(b"_\r\n".to_vec()), Some(b"_\r\n".to_vec())));
    drop(frames);
    pair.west.command(&["SET", "other", "1"]);
    pair.west.command(&["SET", "k", "1"]);
    client.expect(forget("k"));
}

#[test]
fn a_lost_connection_alone_forgets_everything_too() {
    let pair = Pair::start();
    let mut client = client_in(&pair, "3");
    client.send(frames(&["CLIENT TRACKING ON", "GET k"]));
    client.expect("+OK\r\n_\r\n");
    pair.east.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    client.expect(FORGET_ALL);
    client.send(frame("GET k"));
    client.expect("_\r\n");
    pair.east.command(&["SET", "k", "1"]);
    client.expect(forget("k"));
}

#[test]
fn a_redirect_follows_its_target_across_switches_until_that_is_gone() {
    let mut pair = Pair::builder().returning().start();
    let (mut target, mut reader, mut modern) = (pair.client(), pair.client(), client_in(&pair, "3"));
    let id = id_of(&mut target);
    target.send(frame("SUBSCRIBE __redis__:invalidate"));
    target.expect("*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n");
    for client in [&mut reader, &mut modern] {
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]), Value::ok());
        assert_eq!(client.command(&["CLIENT", "GETREDIR"]), Value::Integer(id.parse().unwrap()));
    }
    let track = |pair: &Pair, reader: &mut RawClient, target: &mut RawClient, key: &str, is_east: bool| {
        let active = if is_east { &pair.east } else { &pair.west };
        reader.command(&["GET", key]);
        active.command(&["SET", key, "1"]);
        hear(target, &forget_message(key))
    };
    assert_eq!(track(&pair, &mut reader, &mut target, "k", true), "");
    for (switch, is_east) in [("forced", false), ("planned", true)] {
        if is_east {
            pair.fail_back()
        } else {
            pair.fail_over()
        }
        for (client, key) in [(&mut reader, "a"), (&mut modern, "b")] {
            let before = track(&pair, client, &mut target, &format!("{key}:{switch}"), is_east);
            assert_eq!(before.replace(FORGET_ALL_MESSAGE, ""), "", "{switch}");
            assert!(key != "a" || before.contains(FORGET_ALL_MESSAGE), "{switch}");
        }
    }
    drop(target);
    wait_until(PATIENCE, || pair.sessions("subscribed") == 0);
    modern.command(&["GET", "k"]);
    let broken = format!(">2\r\n$21\r\ntracking-redir-broken\r\n:{id}\r\n");
    wait_until(PATIENCE, || {
        pair.east.command(&["SET", "k", "2"]);
        let replies = replies_to(&mut modern, &frame("GET k"));
        replies.contains(&broken.escape_debug().to_string())
    });
    let told = replies_to(&mut reader, &frame("CLIENT TRACKINGINFO"));
    assert!(told.contains("broken_redirect"), "{told}");
}

#[test]
fn a_redirect_to_a_client_that_only_speaks_resp3_needs_no_subscription() {
    let mut pair = Pair::start();
    let (mut target, mut reader) = (client_in(&pair, "3"), pair.client());
    let id = id_of(&mut target);
    reader.send(frames(&[&format!("CLIENT TRACKING ON REDIRECT {id}"), "GET k"]));
    reader.expect("+OK\r\n$-1\r\n");
    pair.east.command(&["SET", "k", "1"]);
    target.expect(forget("k"));
    pair.fail_over();
    target.expect(FORGET_ALL);
    reader.send(frame("GET k"));
    reader.expect("$-1\r\n");
    pair.west.command(&["SET", "k", "1"]);
    hear(&mut target, &forget("k"));
    // Itself, and then nobody.
    let own = id_of(&mut reader);
    reader.send(frames(&[&format!("CLIENT TRACKING ON REDIRECT {own}"), "CLIENT GETREDIR", "CLIENT TRACKING OFF"]));
    reader.expect(format!("+OK\r\n:{own}\r\n+OK\r\n"));
    assert_eq!(reader.command(&["CLIENT", "GETREDIR"]), Value::Integer(-1));
}

#[test]
fn a_redirect_to_another_workers_client_is_refused_by_name() {
    let server = RedisServer::start();
    let configuration =
        format!("[runtime]\nworkers = 2\n[[backend]]\nname = \"a\"\nurl = \"redis://{}\"", server.address());
    let handover = Handover::builder(&configuration).allow_warning("has only one").start();
    let (mut first, mut second) = (handover.client(), handover.client());
    let id = id_of(&mut first);
    let refused = second.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", &id]);
    assert!(refused.is_error("ERR") && format!("{refused:?}").contains("another worker"), "{refused:?}");
    assert_eq!(second.command(&["CLIENT", "GETREDIR"]), Value::Integer(-1));
}

/// redis-py's client-side cache on a port, with files that say that a switch is complete.
fn cache_of_redis_py(port: u16, files: &[&str]) -> Process {
    let port = port.to_string();
    let arguments = [&["tests/python/client_side_cache.py", "127.0.0.1", &port], files].concat();
    Process::start(python().to_str().expect("a path in UTF-8"), &arguments, |command| {
        command.current_dir(support::root());
    })
}

#[test]
fn redis_py_caches_on_the_client_and_forgets_across_switches() {
    let server = RedisServer::start();
    let mut direct = cache_of_redis_py(server.port(), &[]);
    assert!(direct.wait().success(), "{}", direct.output());
    let mut pair = Pair::builder().returning().start();
    let files = ["forced", "planned"].map(|name| pair.handover.folder().join(name));
    let paths: Vec<&str> = files.iter().map(|file| file.to_str().expect("a path in UTF-8")).collect();
    let mut script = cache_of_redis_py(pair.handover.port(), &paths);
    for (switch, file) in [Pair::fail_over, Pair::fail_back].into_iter().zip(&files) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        let is_ready = script.find_line(PATIENCE, |line| line == format!("ready for {name}"));
        assert!(is_ready.is_some(), "it is not ready for {name}:\n{}", script.output());
        switch(&mut pair);
        std::fs::write(file, "").expect("a file in Handover's folder");
    }
    assert!(script.wait().success(), "{}", script.output());
}
