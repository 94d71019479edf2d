//! What an operator says, understood.

use std::time::Duration;

use super::help::usage;
use crate::channels::{DrillFault, ProcessCommand, Verdict};
use crate::config::{Addition, closest, parse_duration};

/// One line of the operator's.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::admin) enum Request {
    /// `PING [text]`.
    Ping(Option<Vec<u8>>),
    /// `HELLO [2|3 …]`: which protocol, if any.
    Hello(Option<u8>),
    /// `QUIT`.
    Quit,
    /// What clients ask on their own when they connect; answered with an empty list or OK.
    Courtesy(Courtesy),
    /// `HELP [verb]`.
    Help(Option<String>),
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
    /// `SIMULATE fault backend`.
    Simulate { fault: DrillFault, backend: String },
    /// What changes something in a group.
    Change(Change),
    /// What concerns the whole process.
    Process(ProcessCommand),
}

impl Request {
    /// It changes something, so that not everybody who may look may ask for it.
    pub(in crate::admin) const fn is_change(&self) -> bool {
        matches!(self, Self::Change(_) | Self::Process(_))
    }
}

/// What redis-cli and libraries send without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Courtesy {
    /// COMMAND …: nothing is told.
    Command,
    /// CLIENT SETINFO, SETNAME; SELECT 0: accepted.
    Accepted,
}

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Channel {
    Events,
    Outcomes,
}

impl Channel {
    pub(in crate::admin) const ALL: [Self; 2] = [Self::Events, Self::Outcomes];

    pub(in crate::admin) const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Outcomes => "outcomes",
        }
    }

    /// The channel of that name.
    fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|channel| channel.name() == name);
        found.ok_or_else(|| format!("no channel '{name}'; there are events and outcomes"))
    }
}

/// A change, by the backend's name.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::admin) enum Change {
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
    /// `DRAIN backend`.
    Drain { backend: String },
    /// `UNDRAIN backend`.
    EndDrain { backend: String },
    /// `REPORT backend verdict …`.
    Report(ReportRequest),
    /// `PAUSE [WRITES] [FOR time]`.
    Pause { length: Duration, writes_only: bool },
    /// `RESUME`.
    Resume,
    /// `DRILL fault backend FOR time [FORCE]`.
    Drill { backend: String, fault: DrillFault, length: Duration, is_forced: bool },
    /// `DRILL END`.
    EndDrill,
}

/// What a checker says; without a name it is known by where it speaks from.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::admin) struct ReportRequest {
    pub(super) backend: String,
    pub(super) verdict: Verdict,
    pub(super) length: Duration,
    pub(super) reporter: Option<String>,
    pub(super) reason: String,
}

/// What people are shown of one argument.
const CHARS_MAX: usize = 200;
/// Events that are told without a count.
pub(super) const EVENTS_DEFAULT: usize = 10;
/// How long clients wait where no time is given, and at most.
const PAUSE_DEFAULT: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A checker that stopped speaking must not be believed for longer.
const REPORT_MAX: Duration = Duration::from_secs(24 * 3600);
const DRILL_MAX: Duration = Duration::from_secs(600);
/// What `DRILL slow` delays by where nothing is said.
const SLOW_DEFAULT: Duration = Duration::from_millis(300);
const SLOW_MAX: Duration = Duration::from_secs(10);

/// Understands a request; the second part is the group's name, where one was given.
///
/// # Errors
/// Says in a sentence what is wrong, and what would be right.
pub(in crate::admin) fn parse(words: &[Vec<u8>]) -> Result<(Request, Option<String>), String> {
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
        ("HELP" | "COMMANDS" | "?", []) => Request::Help(None),
        ("HELP" | "COMMANDS" | "?", [verb, ..]) => Request::Help(Some((*verb).to_owned())),
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
        ("SIMULATE", [fault, backend]) => {
            Request::Simulate { fault: fault_of(fault, SIMULATED)?, backend: (*backend).to_owned() }
        }
        ("RELOAD", []) => Request::Process(ProcessCommand::Reload),
        ("SAVE", []) => Request::Process(ProcessCommand::Save),
        _ => Request::Change(parse_change(&name, &rest)?),
    };
    Ok((request, group))
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
        ("ADD", [name, url, options @ ..]) => Change::Add(parse_addition(name, url, options)?),
        ("REMOVE", [backend]) => Change::Remove { backend: named(backend), is_forced: false },
        ("REMOVE", [backend, force]) if is(force, "FORCE") => {
            Change::Remove { backend: named(backend), is_forced: true }
        }
        ("DRAIN", [backend]) => Change::Drain { backend: named(backend) },
        ("UNDRAIN", [backend]) => Change::EndDrain { backend: named(backend) },
        ("REPORT", [backend, rest @ ..]) => Change::Report(parse_report(backend, rest)?),
        ("PAUSE", rest) => parse_pause(rest)?,
        ("RESUME", []) => Change::Resume,
        ("DRILL", [end]) if is(end, "END") => Change::EndDrill,
        ("DRILL", [fault, backend, rest @ ..]) => parse_drill(fault, backend, rest)?,
        _ => return Err(usage(name)),
    })
}

/// The options of ADD, in any order, each once.
fn parse_addition(name: &str, url: &str, options: &[&str]) -> Result<Addition, String> {
    let mut addition = Addition { name: name.to_owned(), url: url.to_owned(), weight: None, password_file: None };
    for option in options.chunks(2) {
        match option {
            [word, number] if is(word, "WEIGHT") && addition.weight.is_none() => {
                addition.weight = Some(weight(number)?);
            }
            [word, path] if is(word, "PASSWORD_FILE") && addition.password_file.is_none() => {
                addition.password_file = Some((*path).to_owned());
            }
            _ => return Err(usage("ADD")),
        }
    }
    Ok(addition)
}

fn parse_report(backend: &str, rest: &[&str]) -> Result<ReportRequest, String> {
    let (verdict, mut rest) = match rest {
        [word, rest @ ..] if is(word, "DOWN") => (Verdict::Down, rest),
        [word, rest @ ..] if is(word, "UP") => (Verdict::Up, rest),
        [word, rest @ ..] if is(word, "DRAIN") => (Verdict::Drain, rest),
        [word, number, rest @ ..] if is(word, "WEIGHT") => (Verdict::Weight(weight(number)?), rest),
        [word, ..] if !is(word, "WEIGHT") => {
            return Err(format!("'{word}' is no verdict: DOWN, UP, DRAIN or WEIGHT <number>; {}", usage("REPORT")));
        }
        _ => return Err(usage("REPORT")),
    };
    let (mut time, mut reporter, mut reason) = (None, None, String::new());
    while let [word, value, more @ ..] = rest {
        if is(word, "FOR") && time.is_none() {
            time = Some(bounded(value, REPORT_MAX)?);
        } else if is(word, "AS") && reporter.is_none() {
            reporter = Some((*value).to_owned());
        } else if is(word, "REASON") {
            reason = rest[1..].join(" ").chars().take(CHARS_MAX).collect();
            rest = &[];
            break;
        } else {
            return Err(format!("'{word}' was not understood; {}", usage("REPORT")));
        }
        rest = more;
    }
    if let [word] = rest {
        return Err(format!("something is missing behind '{word}'; {}", usage("REPORT")));
    }
    let is_up = verdict == Verdict::Up;
    if !is_up && (time.is_none() || reason.is_empty()) {
        return Err(format!("a report needs FOR <time> and REASON <words>; {}", usage("REPORT")));
    }
    Ok(ReportRequest { backend: backend.to_owned(), verdict, length: time.unwrap_or_default(), reporter, reason })
}

fn parse_pause(rest: &[&str]) -> Result<Change, String> {
    let (writes_only, rest) = match rest {
        [word, rest @ ..] if is(word, "WRITES") => (true, rest),
        rest => (false, rest),
    };
    match rest {
        [] => Ok(Change::Pause { length: PAUSE_DEFAULT, writes_only }),
        [word, time] if is(word, "FOR") => Ok(Change::Pause { length: bounded(time, PAUSE_MAX)?, writes_only }),
        _ => Err(usage("PAUSE")),
    }
}

fn parse_drill(fault: &str, backend: &str, rest: &[&str]) -> Result<Change, String> {
    let mut fault = fault_of(fault, DRILLED)?;
    let (rest, is_forced) = match rest {
        [before @ .., word] if is(word, "FORCE") => (before, true),
        rest => (rest, false),
    };
    let rest = match (&mut fault, rest) {
        (DrillFault::Slow { by }, [word, delay, rest @ ..]) if is(word, "BY") => {
            *by = bounded(delay, SLOW_MAX)?;
            rest
        }
        (_, rest) => rest,
    };
    match rest {
        [word, time] if is(word, "FOR") => {
            Ok(Change::Drill { backend: backend.to_owned(), fault, length: bounded(time, DRILL_MAX)?, is_forced })
        }
        _ => Err(usage("DRILL")),
    }
}

const DRILLED: &[&str] = &["kill", "hang", "readonly", "slow"];
const SIMULATED: &[&str] = &["kill", "hang", "readonly"];

fn fault_of(word: &str, known: &[&str]) -> Result<DrillFault, String> {
    let name = word.to_ascii_lowercase();
    let fault = match name.as_str() {
        "kill" => Some(DrillFault::Kill),
        "hang" => Some(DrillFault::Hang),
        "readonly" => Some(DrillFault::Readonly),
        "slow" => Some(DrillFault::Slow { by: SLOW_DEFAULT }),
        _ => None,
    };
    fault.filter(|_| known.contains(&name.as_str())).ok_or_else(|| {
        let hint = closest(&name, known).map_or_else(String::new, |known| format!("; did you mean {known}?"));
        format!("no fault '{word}': one of {}{hint}", known.join(", "))
    })
}

fn channels(names: &[&str]) -> Result<Vec<Channel>, String> {
    names.iter().map(|name| Channel::named(name)).collect()
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

fn weight(text: &str) -> Result<f64, String> {
    let weight = text.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
    weight.ok_or_else(|| format!("wrong weight '{text}': a weight is a number above zero, as in 2.5"))
}

fn length(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text).map_err(|hint| format!("wrong time '{text}': {hint}"))?;
    if length.is_zero() { Err(format!("wrong time '{text}': must be longer than nothing")) } else { Ok(length) }
}

fn bounded(text: &str, most: Duration) -> Result<Duration, String> {
    let length = length(text)?;
    if length <= most {
        return Ok(length);
    }
    Err(format!("wrong time '{text}': at most {}", crate::config::format_duration(most)))
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

    fn added(weight: Option<f64>, password_file: Option<&str>) -> Request {
        let password_file = password_file.map(str::to_owned);
        let addition = Addition { name: "east".to_owned(), url: "redis://h".to_owned(), weight, password_file };
        Request::Change(Change::Add(addition))
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_operator_is_understood() {
        let east = || "east".to_owned();
        let report = |verdict, length, reporter: Option<&str>, reason: &str| {
            let (backend, reporter, reason) = (east(), reporter.map(str::to_owned), reason.to_owned());
            Request::Change(Change::Report(ReportRequest {
                backend,
                verdict,
                length: seconds(length),
                reporter,
                reason,
            }))
        };
        let drill = |fault, is_forced| {
            Request::Change(Change::Drill { backend: east(), fault, length: seconds(30), is_forced })
        };
        let slow = |millis| DrillFault::Slow { by: Duration::from_millis(millis) };
        for (line, request) in [
            ("ping", Request::Ping(None)),
            ("HELLO 3 AUTH a b", Request::Hello(Some(3))),
            ("COMMAND DOCS", Request::Courtesy(Courtesy::Command)),
            ("client setinfo LIB-NAME x", Request::Courtesy(Courtesy::Accepted)),
            ("help switch", Request::Help(Some("switch".to_owned()))),
            ("Status", Request::Status),
            ("EVENTS 3", Request::Events(3)),
            ("SHOW east", Request::Show(east())),
            ("EXPLAIN GET GROUP x", Request::Explain(vec![b"GET".to_vec(), b"GROUP".to_vec(), b"x".to_vec()])),
            ("switch east", Request::Change(Change::Switch { to: east(), is_forced: false })),
            ("SWITCH east force", Request::Change(Change::Switch { to: east(), is_forced: true })),
            ("STAY east FOR 10m", Request::Change(Change::Stay { backend: east(), length: seconds(600) })),
            ("STAY END", Request::Change(Change::EndStay)),
            ("BAN east FOR 90s", Request::Change(Change::Ban { backend: east(), length: seconds(90) })),
            ("UNBAN east", Request::Change(Change::EndBan { backend: east() })),
            ("WEIGHT east 2.5", Request::Change(Change::Weight { backend: east(), weight: 2.5 })),
            ("REMOVE east", Request::Change(Change::Remove { backend: east(), is_forced: false })),
            ("remove east Force", Request::Change(Change::Remove { backend: east(), is_forced: true })),
            ("ADD east redis://h", added(None, None)),
            ("ADD east redis://h weight 2", added(Some(2.0), None)),
            ("add east redis://h PASSWORD_FILE /p WEIGHT 2", added(Some(2.0), Some("/p"))),
            ("drain east", Request::Change(Change::Drain { backend: east() })),
            ("UNDRAIN east", Request::Change(Change::EndDrain { backend: east() })),
            ("PAUSE", Request::Change(Change::Pause { length: seconds(60), writes_only: false })),
            ("PAUSE writes FOR 5s", Request::Change(Change::Pause { length: seconds(5), writes_only: true })),
            ("RESUME", Request::Change(Change::Resume)),
            ("REPORT east DOWN FOR 30s REASON disk is full", report(Verdict::Down, 30, None, "disk is full")),
            ("report east drain as a for 5s reason FOR 9s", report(Verdict::Drain, 5, Some("a"), "FOR 9s")),
            ("REPORT east WEIGHT 0.5 FOR 5s REASON x", report(Verdict::Weight(0.5), 5, None, "x")),
            ("REPORT east UP AS a", report(Verdict::Up, 0, Some("a"), "")),
            ("DRILL kill east FOR 30s", drill(DrillFault::Kill, false)),
            ("drill HANG east FOR 30s FORCE", drill(DrillFault::Hang, true)),
            ("DRILL slow east FOR 30s", drill(slow(300), false)),
            ("DRILL slow east BY 20ms FOR 30s", drill(slow(20), false)),
            ("DRILL END", Request::Change(Change::EndDrill)),
            ("SIMULATE hang east", Request::Simulate { fault: DrillFault::Hang, backend: east() }),
            ("reload", Request::Process(ProcessCommand::Reload)),
            ("SAVE", Request::Process(ProcessCommand::Save)),
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
            ("SWITCH", "usage: SWITCH <backend> [FORCE]; for example: SWITCH west"),
            ("STAY east", "usage: STAY <backend> FOR <time>, or STAY END; for example: STAY west FOR 2h"),
            ("STAY east FOR 10", "wrong time '10': a unit is missing: ms, s, m or h"),
            ("STAY east FOR 0s", "wrong time '0s': must be longer than nothing"),
            ("PAUSE FOR 1h", "wrong time '1h': at most 10m"),
            ("PAUSE FOR", "usage: PAUSE [WRITES] [FOR <time>]"),
            ("WEIGHT east heavy", "wrong weight 'heavy': a weight is a number above zero"),
            ("WEIGHT east -1", "wrong weight '-1'"),
            ("ADD east", "usage: ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]"),
            ("ADD east redis://h WEIGHT", "usage: ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]"),
            ("ADD east redis://h WEIGHT 1 WEIGHT 2", "usage: ADD <name> <url> [WEIGHT <number>]"),
            ("ADD east redis://\u{1b}h", "an argument of ADD is text of at most 200 characters"),
            ("REMOVE", "usage: REMOVE <backend> [FORCE]"),
            ("EXPLAIN", "usage: EXPLAIN <command> [<argument> …]"),
            ("NOSUCH", "unknown command 'NOSUCH'; HELP lists what there is"),
            ("SWICH east", "unknown command 'SWICH'; did you mean SWITCH?"),
            ("REPORT east", "usage: REPORT <backend> DOWN"),
            ("REPORT east DEAD", "'DEAD' is no verdict: DOWN, UP, DRAIN or WEIGHT <number>"),
            ("REPORT east DOWN FOR 30s", "a report needs FOR <time> and REASON <words>"),
            ("REPORT east DOWN REASON x", "a report needs FOR <time> and REASON <words>"),
            ("REPORT east DOWN FOR 30s BECAUSE x", "'BECAUSE' was not understood"),
            ("REPORT east DOWN FOR", "something is missing behind 'FOR'"),
            ("REPORT east DOWN FOR 48h REASON x", "wrong time '48h': at most 24h"),
            ("DRILL kil east FOR 30s", "no fault 'kil': one of kill, hang, readonly, slow; did you mean kill?"),
            ("DRILL kill east", "usage: DRILL kill|hang|readonly|slow <backend>"),
            ("DRILL kill east FOR 2h", "wrong time '2h': at most 10m"),
            ("SIMULATE slow east", "no fault 'slow': one of kill, hang, readonly"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn every_example_is_understood_and_every_verb_is_helped() {
        for form in super::super::help::FORMS {
            assert!(parsed(form.example).is_ok(), "{}", form.example);
            let verb = form.example.split(' ').next().unwrap_or_default();
            assert!(super::super::help::help(Some(verb)).is_ok_and(|lines| !lines.is_empty()), "{verb}");
        }
    }
}
