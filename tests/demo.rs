//! The demo, as somebody sees it who tries Handover for the first time: real servers, a kill, an account that adds up.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use support::{Process, Signal, holds_within, root, wait_until};

/// Ten times and more what the demo takes: a bound against hanging.
const BOUND: Duration = Duration::from_secs(80);

fn start(arguments: &[&str]) -> Process {
    Process::start(env!("CARGO_BIN_EXE_handover"), &[&["demo"], arguments].concat(), |command| {
        let link = root().join("tests/.tools/redis-server");
        if std::env::var_os("REDIS_SERVER").is_none() && link.exists() {
            command.env("REDIS_SERVER", link);
        }
        // Another Handover's settings are none of the demo's.
        command.env("HANDOVER__HEALTH__FALL", "0");
    })
}

/// The exit code, and all that was written.
#[track_caller]
fn end(mut demo: Process) -> (Option<i32>, String) {
    let ended = holds_within(BOUND, || demo.exit_status().is_some());
    assert!(ended, "the demo did not end within {BOUND:?}:\n{}", demo.output());
    (demo.wait().code(), demo.output())
}

/// The numbers of a line, thousands joined.
fn numbers(line: &str) -> Vec<u64> {
    let joined = line.replace(',', "");
    joined.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[track_caller]
fn line<'a>(output: &'a str, part: &str) -> &'a str {
    output.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no line has {part:?}:\n{output}"))
}

/// The children of a process, those that ended and were not waited for too.
fn children_of(demo: u32) -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent(*pid) == Some(demo)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn folders_of(demo: u32) -> usize {
    let prefix = format!("handover-demo-{demo}-");
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
}

#[test]
fn a_kill_and_a_return_and_every_command_has_its_answer() {
    let demo = start(&["--seconds", "8"]);
    let pid = demo.pid();
    let (code, output) = end(demo);
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(output.matches("kill -9").count(), 1, "{output}");
    assert_eq!(output.matches("east → west, ").count(), 1, "{output}");
    assert_eq!(output.matches("west → east, planned, failback").count(), 1, "{output}");
    assert!(!output.contains('\u{1b}'), "no terminal, no colours:\n{output}");
    account_adds_up(&output);
    assert_eq!(folders_of(pid), 0);
}

fn account_adds_up(output: &str) {
    let total = numbers(line(output, "commands sent ="));
    let [sent, answered, unknown, not_applied] = total[..] else { panic!("{total:?} in\n{output}") };
    assert_eq!(sent, answered + unknown + not_applied, "{output}");
    assert!(sent > 800, "a demo needs traffic: {output}");
    let mut sums = [0; 4];
    for kind in ["GET", "INCR", "MULTI … EXEC", "LPUSH", "BLPOP", "PUBLISH", "SUBSCRIBE"] {
        let row = numbers(line(output, &format!("    {kind} ")));
        assert_eq!(row.len(), 4, "{kind} in\n{output}");
        assert!(row[0] > 0 && row[0] == row[1..].iter().sum::<u64>(), "{kind} in\n{output}");
        sums.iter_mut().zip(&row).for_each(|(sum, value)| *sum += value);
    }
    assert_eq!(sums[..], total[..], "{output}");
    assert_eq!(numbers(line(output, "reconnects 0, wrong")), [0, 0], "{output}");
    for server in ["    west ", "    east, started again "] {
        let counts = numbers(line(output, server));
        let [acknowledged, found] = counts[..] else { panic!("{counts:?} in\n{output}") };
        assert!(acknowledged > 0 && acknowledged <= found && found <= acknowledged + unknown, "{output}");
    }
    assert!(numbers(line(output, "    east, until killed "))[0] > 0, "{output}");
}

#[test]
fn an_interrupt_ends_all_that_was_started() {
    let mut demo = start(&["--keep"]);
    demo.find_line(BOUND, |line| line.contains("clients connect")).unwrap_or_else(|| panic!("{}", demo.output()));
    let children = children_of(demo.pid());
    assert_eq!(children.len(), 3, "two servers and Handover");
    demo.signal(Signal::INT);
    let pid = demo.pid();
    let (code, output) = end(demo);
    assert_eq!(code, Some(1), "{output}");
    line(&output, "Interrupted before the end");
    line(&output, "All adds up");
    assert!(children.iter().all(|child| !lives(*child)), "{output}");
    assert_eq!(folders_of(pid), 0);
}

#[test]
fn children_do_not_outlive_a_demo_that_is_killed() {
    if !Path::new("/usr/bin/setpriv").exists() {
        return;
    }
    let mut demo = start(&[]);
    demo.find_line(BOUND, |line| line.contains("clients connect")).unwrap_or_else(|| panic!("{}", demo.output()));
    let (pid, children) = (demo.pid(), children_of(demo.pid()));
    assert_eq!(children.len(), 3, "two servers and Handover");
    demo.kill();
    wait_until(BOUND, || children.iter().all(|child| !lives(*child)));
    // Nobody was left to remove it.
    let prefix = format!("handover-demo-{pid}-");
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

#[test]
fn kept_it_goes_on_until_interrupted() {
    let mut demo = start(&["--keep", "--seconds", "1"]);
    demo.find_line(BOUND, |line| line.contains("everything goes on")).unwrap_or_else(|| panic!("{}", demo.output()));
    let hint = demo.find_line(BOUND, |line| line.contains("try: redis-cli -p")).unwrap();
    let west_or_east = numbers(hint.split_once("kill -9 ").unwrap().1)[0];
    assert!(children_of(demo.pid()).contains(&u32::try_from(west_or_east).unwrap()), "{hint}");
    demo.signal(Signal::TERM);
    let (code, output) = end(demo);
    assert_eq!(code, Some(0), "{output}");
    account_adds_up(&output);
}

#[test]
fn without_a_server_it_says_what_to_install() {
    let demo = Process::start(env!("CARGO_BIN_EXE_handover"), &["demo"], |command| {
        command.env("PATH", "/nonexistent").env_remove("REDIS_SERVER");
    });
    let (code, output) = end(demo);
    assert_eq!(code, Some(1), "{output}");
    line(&output, "needs a Redis server");
    line(&output, "apt install redis-tools");
}

#[test]
fn a_named_server_that_is_not_there_is_said() {
    let demo = Process::start(env!("CARGO_BIN_EXE_handover"), &["demo"], |command| {
        command.env("REDIS_SERVER", "/nonexistent/redis-server");
    });
    let (code, output) = end(demo);
    assert_eq!(code, Some(1), "{output}");
    line(&output, "/nonexistent/redis-server, which $REDIS_SERVER names");
}
