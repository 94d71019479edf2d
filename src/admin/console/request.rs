//! What an operator says on the console, understood.

use std::time::Duration;

use super::subscriber::Channel;
use crate::config::{Addition, parse_duration};

/// One line of the operator's.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// `PING [text]`.
    Ping(Option<Vec<u8>>),
    /// `HELLO [2|3 …]`: which protocol, if any.
    Hello(Option<u8>),
    /// `QUIT`.
    Quit,
    /// What clients ask on their own when they connect; answered with an empty list or OK.
    Courtesy(Courtesy),
    /// `HELP`.
    Help,
    /// `STATUS`.
    Status,
    /// `SHOW backend`.
    Show(String),
    /// `WHY`.
    Why,
    /// `EVENTS [count]`.
    Events(usize),
    /// `EXPLAIN command …`.
    Explain(Vec<Vec<u8>>),
    /// `SUBSCRIBE channel …`.
    Subscribe(Vec<Channel>),
    /// `UNSUBSCRIBE [channel …]`: none is all.
    Unsubscribe(Vec<Channel>),
    /// What changes something.
    Change(Change),
}

/// What redis-cli and libraries send without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Courtesy {
    /// COMMAND …: nothing is told.
    Command,
    /// CLIENT SETINFO, SETNAME; SELECT 0: accepted.
    Accepted,
}

/// A change, by the backend's name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// `SWITCH backend [FORCE]`.
    Switch { to: String, is_forced: bool },
    /// `WEIGHT backend number`.
    Weight { backend: String, weight: f64 },
    /// `STAY backend FOR time`.
    Stay { backend: String, length: Duration },
    /// `STAY END`.
    EndStay,
    /// `BAN backend FOR time`.
    Ban { backend: String, length: Duration },
    /// `UNBAN backend`.
    EndBan { backend: String },
    /// `ADD name url [WEIGHT number] [PASSWORD_FILE path]`.
    Add(Addition),
    /// `REMOVE backend [FORCE]`.
    Remove { backend: String, is_forced: bool },
}

/// What there is, for HELP: how to write it, what it does.
pub(super) const COMMANDS: [(&str, &str); 18] = [
    ("STATUS", "every group and backend: weight, health, circuit, role, last check"),
    ("WHY", "why the active is active, and why the heavier ones are not"),
    ("SHOW <backend>", "one backend with its last checks"),
    ("EVENTS [<count>]", "the latest changes, with what became of the commands in flight"),
    ("SUBSCRIBE events|outcomes …", "each change as it happens, or what each second brings, as JSON"),
    ("UNSUBSCRIBE [events|outcomes …]", "end that"),
    ("EXPLAIN <command> [<argument> …]", "where a command travels, and what a failover does with it"),
    (
        "SWITCH <backend> [FORCE]",
        "make it active: planned, nothing is lost; FORCE does not wait and takes an unhealthy one",
    ),
    ("STAY <backend> FOR <time>", "keep it active for a time, as long as it works; switches to it if need be"),
    ("STAY END", "end the stay"),
    ("BAN <backend> FOR <time>", "never make it active, for a time"),
    ("UNBAN <backend>", "end the ban"),
    ("WEIGHT <backend> <number>", "change its weight, until the file says another"),
    (
        "ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]",
        "another backend, until it is removed; one with a password in its URL only until the next start",
    ),
    (
        "REMOVE <backend> [FORCE]",
        "take it out of its group; the active is left by a planned switch first, or with FORCE at once",
    ),
    ("HELP, COMMANDS", "this list; redis-cli keeps HELP to itself"),
    ("PING, HELLO [2|3], QUIT", "as Redis"),
    ("… GROUP <name>", "behind a command: which group, where there are several"),
];

/// What people are shown of one argument.
const CHARS_MAX: usize = 200;
/// Events that are told without a count.
const EVENTS_DEFAULT: usize = 10;

/// Understands a request; the second part is the group's name, where one was given.
///
/// # Errors
/// Says in a sentence what is wrong, and what would be right.
pub(super) fn parse(words: &[Vec<u8>]) -> Result<(Request, Option<String>), String> {
    let name = words.first().map(|word| text(word).to_ascii_uppercase()).unwrap_or_default();
    if name == "EXPLAIN" {
        return match &words[1..] {
            [] => Err(usage("EXPLAIN")),
            command => Ok((Request::Explain(command.to_vec()), None)),
        };
    }
    let (words, group) = split_group(words);
    // What is cut off for people to read must not become an address or a path.
    if name == "ADD" && words.iter().any(|word| text(word).as_bytes() != word) {
        return Err(format!("an argument of ADD is text of at most {CHARS_MAX} characters"));
    }
    let rest: Vec<String> = words.iter().skip(1).map(|word| text(word)).collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let request = match (name.as_str(), &rest[..]) {
        ("PING", []) => Request::Ping(None),
        ("PING", [_]) => Request::Ping(Some(words[1].clone())),
        ("HELLO", []) => Request::Hello(None),
        ("HELLO", ["2", ..]) => Request::Hello(Some(2)),
        ("HELLO", ["3", ..]) => Request::Hello(Some(3)),
        ("QUIT", []) => Request::Quit,
        ("COMMAND", _) => Request::Courtesy(Courtesy::Command),
        ("CLIENT", [verb, ..]) if is(verb, "SETINFO") || is(verb, "SETNAME") => Request::Courtesy(Courtesy::Accepted),
        ("SELECT", ["0"]) => Request::Courtesy(Courtesy::Accepted),
        // redis-cli keeps HELP to itself.
        ("HELP" | "COMMANDS" | "?", _) => Request::Help,
        ("STATUS", []) => Request::Status,
        ("WHY", []) => Request::Why,
        ("SHOW", [backend]) => Request::Show((*backend).to_owned()),
        ("EVENTS", []) => Request::Events(EVENTS_DEFAULT),
        ("EVENTS", [count]) => Request::Events(count.parse().map_err(|_| usage("EVENTS"))?),
        ("SUBSCRIBE", [_, ..]) => Request::Subscribe(channels(&rest)?),
        ("UNSUBSCRIBE", _) => Request::Unsubscribe(channels(&rest)?),
        ("PSUBSCRIBE" | "PUNSUBSCRIBE" | "SSUBSCRIBE" | "SUNSUBSCRIBE", _) => {
            return Err("there are no patterns and no shards here: SUBSCRIBE events, or outcomes, or both".to_owned());
        }
        _ => Request::Change(parse_change(&name, &rest)?),
    };
    Ok((request, group))
}

fn channels(names: &[&str]) -> Result<Vec<Channel>, String> {
    names.iter().map(|name| Channel::named(name)).collect()
}

fn parse_change(name: &str, rest: &[&str]) -> Result<Change, String> {
    let named = |backend: &&str| (*backend).to_owned();
    Ok(match (name, rest) {
        ("SWITCH", [backend]) => Change::Switch { to: named(backend), is_forced: false },
        ("SWITCH", [backend, force]) if is(force, "FORCE") => Change::Switch { to: named(backend), is_forced: true },
        ("WEIGHT", [backend, number]) => Change::Weight { backend: named(backend), weight: weight(number)? },
        ("STAY", [end]) if is(end, "END") => Change::EndStay,
        ("STAY", [backend, word, time]) if is(word, "FOR") => {
            Change::Stay { backend: named(backend), length: length(time)? }
        }
        ("BAN", [backend, word, time]) if is(word, "FOR") => {
            Change::Ban { backend: named(backend), length: length(time)? }
        }
        ("UNBAN", [backend]) => Change::EndBan { backend: named(backend) },
        ("ADD", [name, url, options @ ..]) => Change::Add(addition(name, url, options)?),
        ("REMOVE", [backend]) => Change::Remove { backend: named(backend), is_forced: false },
        ("REMOVE", [backend, force]) if is(force, "FORCE") => {
            Change::Remove { backend: named(backend), is_forced: true }
        }
        _ => return Err(usage(name)),
    })
}

/// The options of ADD, in any order, each once.
fn addition(name: &str, url: &str, options: &[&str]) -> Result<Addition, String> {
    let mut addition = Addition { name: name.to_owned(), url: url.to_owned(), weight: None, password_file: None };
    for option in options.chunks(2) {
        match option {
            [word, number] if is(word, "WEIGHT") && addition.weight.is_none() => {
                addition.weight = Some(weight(number)?)
            }
            [word, path] if is(word, "PASSWORD_FILE") && addition.password_file.is_none() => {
                addition.password_file = Some((*path).to_owned());
            }
            _ => return Err(usage("ADD")),
        }
    }
    Ok(addition)
}

fn weight(number: &str) -> Result<f64, String> {
    number.parse().map_err(|_| "a weight is a number above zero".to_owned())
}

/// Takes `GROUP name` off the end.
fn split_group(words: &[Vec<u8>]) -> (&[Vec<u8>], Option<String>) {
    match words {
        [before @ .., word, name] if !before.is_empty() && word.eq_ignore_ascii_case(b"GROUP") => {
            (before, Some(text(name)))
        }
        _ => (words, None),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|hint| format!("wrong time '{text}': {hint}"))
}

fn usage(name: &str) -> String {
    let known: Vec<&str> =
        COMMANDS.iter().map(|(form, _)| *form).filter(|form| form.split(' ').next() == Some(name)).collect();
    match known.as_slice() {
        [] => format!("unknown command '{name}'; HELP lists what there is"),
        forms => format!("usage: {}", forms.join(", or ")),
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

/// For people: what is not text is shown escaped, and nothing grows beyond a line.
fn text(word: &[u8]) -> String {
    let word = String::from_utf8_lossy(word);
    word.chars().map(|letter| if letter.is_control() { '?' } else { letter }).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Request, Option<String>), String> {
        parse(&line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn added(weight: Option<f64>, password_file: Option<&str>) -> Addition {
        let password_file = password_file.map(str::to_owned);
        Addition { name: "east".to_owned(), url: "redis://h".to_owned(), weight, password_file }
    }

    #[test]
    fn an_operator_is_understood() {
        let east = || "east".to_owned();
        for (line, request) in [
            ("ping", Request::Ping(None)),
            ("HELLO 3 AUTH a b", Request::Hello(Some(3))),
            ("COMMAND DOCS", Request::Courtesy(Courtesy::Command)),
            ("client setinfo LIB-NAME x", Request::Courtesy(Courtesy::Accepted)),
            ("Status", Request::Status),
            ("EVENTS 3", Request::Events(3)),
            ("SHOW east", Request::Show(east())),
            ("EXPLAIN GET GROUP x", Request::Explain(vec![b"GET".to_vec(), b"GROUP".to_vec(), b"x".to_vec()])),
            ("SUBSCRIBE events outcomes", Request::Subscribe(vec![Channel::Events, Channel::Outcomes])),
            ("unsubscribe", Request::Unsubscribe(Vec::new())),
            ("switch east", Request::Change(Change::Switch { to: east(), is_forced: false })),
            ("SWITCH east force", Request::Change(Change::Switch { to: east(), is_forced: true })),
            ("STAY east FOR 10m", Request::Change(Change::Stay { backend: east(), length: Duration::from_secs(600) })),
            ("STAY END", Request::Change(Change::EndStay)),
            ("BAN east FOR 90s", Request::Change(Change::Ban { backend: east(), length: Duration::from_secs(90) })),
            ("UNBAN east", Request::Change(Change::EndBan { backend: east() })),
            ("WEIGHT east 2.5", Request::Change(Change::Weight { backend: east(), weight: 2.5 })),
            ("REMOVE east", Request::Change(Change::Remove { backend: east(), is_forced: false })),
            ("remove east Force", Request::Change(Change::Remove { backend: east(), is_forced: true })),
            ("ADD east redis://h", Request::Change(Change::Add(added(None, None)))),
            ("ADD east redis://h weight 2", Request::Change(Change::Add(added(Some(2.0), None)))),
            (
                "add east redis://h PASSWORD_FILE /p WEIGHT 2",
                Request::Change(Change::Add(added(Some(2.0), Some("/p")))),
            ),
        ] {
            assert_eq!(parsed(line), Ok((request, None)), "{line}");
        }
        assert_eq!(parsed("WHY GROUP eu"), Ok((Request::Why, Some("eu".to_owned()))));
        let named_group = Request::Show("GROUP".to_owned());
        assert_eq!(parsed("SHOW GROUP group one"), Ok((named_group, Some("one".to_owned()))));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (line, told) in [
            ("SWITCH", "usage: SWITCH <backend> [FORCE]"),
            ("STAY east", "usage: STAY <backend> FOR <time>, or STAY END"),
            ("STAY east FOR 10", "wrong time '10': a unit is missing: ms, s, m or h"),
            ("WEIGHT east heavy", "a weight is a number above zero"),
            ("ADD east", "usage: ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]"),
            ("ADD east redis://h WEIGHT", "usage: ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]"),
            (
                "ADD east redis://h WEIGHT 1 WEIGHT 2",
                "usage: ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]",
            ),
            ("ADD east redis://\u{1b}h", "an argument of ADD is text of at most 200 characters"),
            ("REMOVE", "usage: REMOVE <backend> [FORCE]"),
            ("EXPLAIN", "usage: EXPLAIN <command> [<argument> …]"),
            ("SUBSCRIBE", "usage: SUBSCRIBE events|outcomes …"),
            ("SUBSCRIBE news", "no channel 'news'; there are events and outcomes"),
            ("PSUBSCRIBE *", "there are no patterns and no shards here: SUBSCRIBE events, or outcomes, or both"),
            ("NOSUCH", "unknown command 'NOSUCH'; HELP lists what there is"),
        ] {
            assert_eq!(parsed(line), Err(told.to_owned()), "{line}");
        }
    }
}
