//! Holds the sources to the architecture: imports go downward only, the pure folders are pure, tasks start in one
//! place, files stay readable. All violations are reported at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const LINES_MAX: usize = 900;

/// Each room of `src/` and the rooms that it may import. A room is a folder with what belongs to it, or a file.
const ROOMS: &[(&str, &[&str])] = &[
    ("resp", &[]),
    ("lifecycle", &[]),
    ("files", &[]),
    ("tls", &["files"]),
    ("command", &["resp"]),
    ("logic", &["resp", "command"]),
    ("config", &["resp", "command", "logic", "files", "tls"]),
    ("net", &["resp", "logic", "config", "tls"]),
    ("channels", &["logic", "config", "net"]),
    ("telemetry", &["lifecycle", "logic", "config", "channels", "tls"]),
    ("events", &["lifecycle", "logic", "config", "channels", "telemetry", "net", "tls"]),
    ("proxy", BELOW_PLANES),
    ("control", BELOW_PLANES),
    ("admin", BELOW_PLANES),
    ("app", EVERYTHING),
    ("cli", EVERYTHING),
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
];

const BELOW_PLANES: &[&str] =
    &["resp", "lifecycle", "command", "logic", "config", "channels", "telemetry", "net", "tls", "events"];
const EVERYTHING: &[&str] = &[
    "resp",
    "lifecycle",
    "command",
    "logic",
    "config",
    "channels",
    "telemetry",
    "net",
    "proxy",
    "control",
    "admin",
    "events",
    "app",
    "cli",
    "tls",
    "files",
];

const PURE: &[&str] = &["resp", "command", "logic"];

/// What a pure room may not name, as a run of path segments, and what it would be.
const IMPURE: &[(&[&str], &str)] = &[
    (&["tokio"], "a runtime"),
    (&["async"], "waiting"),
    (&["await"], "waiting"),
    (&["std", "net"], "sockets"),
    (&["std", "os"], "sockets and files"),
    (&["std", "fs"], "files"),
    (&["std", "thread"], "threads"),
    (&["socket2"], "sockets"),
    (&["Instant", "now"], "the clock"),
    (&["elapsed"], "the clock"),
    (&["SystemTime"], "the clock"),
    (&["fastrand"], "randomness"),
    (&["rand"], "randomness"),
    (&["RandomState"], "randomness"),
];

/// What nobody names outside the given room.
const BANNED: &[(&[&str], &str, &str)] = &[
    (&["tokio", "spawn"], "lifecycle", "tasks start through lifecycle"),
    (&["task", "spawn"], "lifecycle", "tasks start through lifecycle"),
    (&["task", "spawn_local"], "lifecycle", "tasks start through lifecycle"),
    (&["process", "exit"], "", "main returns an exit code"),
];

#[test]
fn the_sources_keep_to_the_architecture() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    assert!(files.contains(&src.join("lib.rs")), "no sources found in {}", src.display());
    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&src).expect("a file below src");
            let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            violations_in(name, &text)
        })
        .collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

#[test]
fn every_rule_finds_what_breaks_it() {
    let cases = [
        ("resp/a.rs", "use crate::logic::route;", "imports logic"),
        ("resp/a.rs", "fn f() { super::super::logic::f() }", "imports logic"),
        ("resp/mod.rs", "use super::{command::x, resp};", "imports command"),
        ("logic/lane.rs", "use crate::{command, config::Config};", "imports config"),
        ("proxy/mod.rs", "use crate::control::x;", "imports control"),
        ("control/a/b.rs", "use super::super::super::admin;", "imports admin"),
        ("net/dial.rs", "fn f(x: Vec<crate::proxy::X>) {}", "imports proxy"),
        ("lifecycle/signals.rs", "use crate::config::Config;", "imports config"),
        ("main.rs", "use handover::nowhere;", "imports nowhere"),
        ("novel/mod.rs", "", "room of its own"),
        ("logic/a.rs", "async fn f() {}", "waiting"),
        ("logic/a.rs", "use std::{net::TcpStream, time::Duration};", "sockets"),
        ("logic/a.rs", "fn f() -> Instant { std::time::Instant::now() }", "the clock"),
        ("logic/a.rs", "fn f(at: Instant) -> bool { at.elapsed() > X }", "the clock"),
        ("command/a.rs", "fn f() -> u8 { fastrand::u8(..) }", "randomness"),
        ("proxy/a.rs", "fn f() { tokio::spawn(g()); }", "through lifecycle"),
        ("admin/a.rs", "use tokio::task::{spawn_local, yield_now};", "through lifecycle"),
        ("main.rs", "fn f() { std::process::exit(1) }", "exit code"),
    ];
    for (name, text, expected) in cases {
        let violations = violations_in(Path::new(name), text);
        assert!(violations.len() == 1 && violations[0].contains(expected), "{name}: {text}: {violations:?}");
    }
    let long = "\n".repeat(LINES_MAX + 1);
    assert_eq!(violations_in(Path::new("cli/a.rs"), &long).len(), 1);
}

#[test]
fn what_is_allowed_is_not_found() {
    let cases = [
        ("logic/a.rs", "/// As tokio::spawn in crate::proxy.\nfn f() -> &'static str { \"crate::proxy tokio async\" }"),
        ("logic/a.rs", "use crate::resp; use super::route; fn f(at: Instant, now: Instant) -> bool { at < now }"),
        ("logic/a.rs", "#[cfg(test)]\nmod tests { use super::*; fn f() { Instant::now(); crate::proxy::x() } }"),
        ("logic/a.rs", "#[cfg(test)]\nuse std::net::TcpStream;\nfn f() {}"),
        ("logic/lane/tests.rs", "fn f() { Instant::now(); }"),
        ("lifecycle.rs", "fn f() { tokio::spawn(g()); }"),
        ("lifecycle/signals.rs", "fn f() { super::super::lifecycle::g() }"),
        ("proxy/a.rs", "fn f(lifecycle: &Lifecycle) { lifecycle.spawn_local(g()); Instant::now(); }"),
        ("main.rs", "fn main() -> ExitCode { handover::cli::run() }"),
    ];
    for (name, text) in cases {
        assert_eq!(violations_in(Path::new(name), text), Vec::<String>::new(), "{name}: {text}");
    }
}

/// A path as it is written, `use` groups unfolded: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
struct Mention {
    segments: Vec<String>,
    line: usize,
}

fn violations_in(name: &Path, text: &str) -> Vec<String> {
    let room =
        name.components().next().map(|first| Path::new(first.as_os_str()).with_extension("")).unwrap_or_default();
    let room = room.to_str().expect("file names are ASCII");
    let Some((_, allowed)) = ROOMS.iter().find(|(known, _)| *known == room) else {
        return vec![format!(
            "{}: {room} has no place among the rooms of this test: give it a room of its own",
            name.display()
        )];
    };
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{}: {lines} lines, more than {LINES_MAX}", name.display()));
    }
    let is_test = name.file_stem().is_some_and(|stem| stem == "tests");
    for mention in if is_test { Vec::new() } else { mentions_in(name, text) } {
        let reasons = reasons_against(name, room, allowed, &mention);
        let place = || format!("{}:{}: {}", name.display(), mention.line, mention.segments.join("::"));
        found.extend(reasons.into_iter().map(|reason| format!("{}: {reason}", place())));
    }
    found
}

fn reasons_against(name: &Path, room: &str, allowed: &[&str], mention: &Mention) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(target) = room_imported(name, &mention.segments)
        && target != room
        && !allowed.contains(&target)
    {
        reasons.push(format!("{room} imports {target}"));
    }
    for (path, what) in IMPURE {
        if PURE.contains(&room) && names(&mention.segments, path) {
            reasons.push(format!("a pure room has nothing to do with {what}"));
        }
    }
    for (path, exempt, why) in BANNED {
        if room != *exempt && names(&mention.segments, path) {
            reasons.push((*why).to_owned());
        }
    }
    reasons
}

/// The room that a path leads to, if it starts at, or climbs to, the root of the crate.
fn room_imported<'a>(name: &Path, segments: &'a [String]) -> Option<&'a str> {
    let climbed = segments.iter().take_while(|segment| *segment == "super").count();
    let from_root = match segments.first()?.as_str() {
        "crate" | "handover" => &segments[1..],
        "super" if climbed >= depth_of(name) => &segments[climbed..],
        _ => return None,
    };
    from_root.first().map(String::as_str).filter(|room| !room.starts_with(char::is_uppercase))
}

/// How many `super` lead from a file's module to the root: 1 for `a.rs` and `a/mod.rs`, 2 for `a/b.rs`.
fn depth_of(name: &Path) -> usize {
    let components = name.components().count();
    if name.ends_with("mod.rs") { components - 1 } else { components }
}

fn names(segments: &[String], path: &[&str]) -> bool {
    segments.windows(path.len()).any(|window| window == path)
}

fn mentions_in(name: &Path, text: &str) -> Vec<Mention> {
    let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
    let mut mentions = Vec::new();
    collect(&without_tests(tokens), &[], &mut mentions);
    mentions
}

/// Drops each item that stands behind `#[cfg(test)]`, up to its block or semicolon. Comments and the contents of
/// strings are no tokens to begin with.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        if token.to_string().replace(' ', "") == "[cfg(test)]" {
            kept.pop();
            tokens.by_ref().find(ends_item);
        } else {
            kept.push(token);
        }
    }
    kept
}

fn ends_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    }
}

fn collect(tokens: &[TokenTree], prefix: &[String], mentions: &mut Vec<Mention>) {
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut segments = prefix.to_vec();
                index = read_path(tokens, index, &mut segments);
                match tokens.get(index) {
                    Some(TokenTree::Group(group)) if ends_in_separator(tokens, index) => {
                        collect(&Vec::from_iter(group.stream()), &segments, mentions);
                        index += 1;
                    }
                    _ => mentions.push(Mention { segments, line }),
                }
            }
            TokenTree::Group(group) => {
                collect(&without_tests(group.stream()), &[], mentions);
                index += 1;
            }
            _ => index += 1,
        }
    }
}

/// Appends the segments of the path that starts at `index`; returns the index behind it and its last `::`.
fn read_path(tokens: &[TokenTree], mut index: usize, segments: &mut Vec<String>) -> usize {
    while let Some(TokenTree::Ident(ident)) = tokens.get(index) {
        segments.push(ident.to_string());
        index += 1;
        if !ends_in_separator(tokens, index + 2) {
            break;
        }
        index += 2;
    }
    index
}

fn ends_in_separator(tokens: &[TokenTree], index: usize) -> bool {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    index >= 2 && tokens.get(index - 2..index).is_some_and(|pair| pair.iter().all(is_colon))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(sources(&path).into_iter().map(|file| (file, ())));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path, ());
        }
    }
    files.into_keys().collect()
}
