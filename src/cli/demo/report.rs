//! The account at the end, in words.

use super::ledger::{Increments, KINDS, Ledger, Lost, Remains, Tally};
use super::picture::{grouped, wait};
use super::traffic::Traffic;

/// Everything that was counted.
pub(super) struct Account<'a> {
    /// Every command.
    pub(super) ledger: &'a Ledger,
    /// Every wait.
    pub(super) traffic: &'a Traffic,
    /// What each life of each server left.
    pub(super) remains: &'a [Remains],
    /// Messages that went out and did not arrive.
    pub(super) lost: &'a Lost,
    /// What must not be and is.
    pub(super) violations: &'a [String],
}

/// The account, line by line.
pub(super) fn report(account: &Account<'_>) -> Vec<String> {
    let mut lines = vec!["The ledger".to_owned(), String::new()];
    lines.extend(commands(account.ledger));
    lines.push(String::new());
    lines.extend(increments(account));
    lines.push(String::new());
    lines.push(list(account));
    lines.push(messages(account));
    lines.push(format!("  reconnects {}, wrong replies {}", account.ledger.reconnects, account.ledger.wrong_replies()));
    lines.push(String::new());
    lines.extend(waits(account.traffic));
    lines.push(String::new());
    lines.extend(verdict(account.violations));
    lines
}

fn commands(ledger: &Ledger) -> Vec<String> {
    let Tally { sent, answered, uncertain, not_applied, failed, unanswered } = ledger.total();
    let mut sum = format!(
        "  {} commands sent = {} answered + {uncertain} outcome unknown + {not_applied} not applied",
        grouped(sent),
        grouped(answered)
    );
    if failed > 0 {
        sum += &format!(" + {failed} other errors");
    }
    if unanswered > 0 {
        sum += &format!(" + {unanswered} NEVER ANSWERED");
    }
    let header = format!("    {:<14}{:>8}{:>10}{:>10}{:>13}", "", "sent", "answered", "unknown", "not applied");
    let mut lines = vec![sum, header];
    for kind in KINDS {
        let Tally { sent, answered, uncertain, not_applied, .. } = ledger.tally(kind);
        let (sent, answered) = (grouped(sent), grouped(answered));
        lines.push(format!("    {:<14}{sent:>8}{answered:>10}{uncertain:>10}{not_applied:>13}", kind.name()));
    }
    lines
}

fn increments(account: &Account<'_>) -> Vec<String> {
    let unknown = account.ledger.increments_unknown();
    let mut lines = vec![format!("  Increments, alone and in transactions, by server ({unknown} of unknown outcome)")];
    for remains in account.remains {
        let Increments { name, acknowledged, applied } = account.ledger.increments(remains);
        let acknowledged = grouped(acknowledged);
        lines.push(match applied {
            Some(applied) => {
                format!("    {name:<20}{acknowledged:>8} acknowledged, {} found there", grouped(applied))
            }
            None => format!("    {name:<20}{acknowledged:>8} acknowledged; killed, its memory is gone with it"),
        });
    }
    lines
}

fn list(account: &Account<'_>) -> String {
    let (pushed, popped) = account.ledger.elements();
    let left = account.ledger.elements_not_taken();
    let queued: u64 =
        account.remains.iter().filter_map(|remains| remains.memory.as_ref()).map(|memory| memory.queued).sum();
    let gone = left.saturating_sub(queued);
    let mut text = format!("  list: {} pushed, {} taken", grouped(pushed), grouped(popped));
    if queued > 0 {
        text += &format!(", {queued} still in a list");
    }
    if gone > 0 {
        text += &format!(", {gone} gone with a killed server");
    }
    text
}

fn messages(account: &Account<'_>) -> String {
    let (published, heard) = account.ledger.messages();
    let Lost { at_kills, otherwise } = account.lost;
    let otherwise = otherwise.len();
    let mut text =
        format!("  messages: {} published, {} heard, {at_kills} lost at a kill", grouped(published), grouped(heard));
    if otherwise > 0 {
        text += &format!(", {otherwise} LOST AT OTHER TIMES");
    }
    text
}

fn waits(traffic: &Traffic) -> Vec<String> {
    let mut lines = vec!["  The longest that a client waited for an answer".to_owned()];
    for upheaval in &traffic.upheavals {
        lines.push(format!("    at {:<30}{:>10}", upheaval.name, wait(Some(upheaval.longest))));
    }
    lines.push(format!("    {:<33}{:>10}", "at any other time", wait(Some(traffic.longest_otherwise))));
    lines
}

fn verdict(violations: &[String]) -> Vec<String> {
    if violations.is_empty() {
        return vec![
            "All adds up: every command has its answer, no reply is wrong, nothing was applied twice.".to_owned(),
        ];
    }
    let mut lines = vec!["This must not be:".to_owned()];
    lines.extend(violations.iter().map(|violation| format!("  - {violation}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Answer, Exchange, Fact, Kind, Life, Memory};
    use super::super::traffic::Upheaval;
    use super::*;
    use std::time::{Duration, Instant};

    fn ledger() -> Ledger {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let answers = [
            (Kind::Count, vec![0], Answer::Reply(Fact::Counted(vec![Life(0).zero() + 1]))),
            (Kind::Count, vec![0], Answer::Uncertain("UNCERTAIN x".to_owned())),
            (Kind::Count, vec![0], Answer::Reply(Fact::Counted(vec![Life(1).zero() + 1]))),
            (Kind::Push, vec![], Answer::Reply(Fact::Pushed(1))),
            (Kind::Push, vec![], Answer::Reply(Fact::Pushed(2))),
            (Kind::Pop, vec![], Answer::Reply(Fact::Popped(1))),
            (Kind::Publish, vec![], Answer::Reply(Fact::Published(1))),
        ];
        for (kind, counters, answer) in answers {
            ledger.record(&Exchange { kind, sent_at: now, answered_at: now, counters, answer });
        }
        ledger
    }

    fn text(violations: &[String]) -> String {
        let now = Instant::now();
        let upheaval = Upheaval {
            name: "the kill of east".to_owned(),
            killed: true,
            from: now,
            to: None,
            longest: Duration::from_millis(12),
        };
        let mut traffic = Traffic::default();
        traffic.upheavals.push(upheaval);
        let memory = Memory { counters: vec![2], queued: 0 };
        let remains = [
            Remains { life: Life(0), name: "east, until its kill".to_owned(), memory: None },
            Remains { life: Life(1), name: "west".to_owned(), memory: Some(memory) },
        ];
        let lost = Lost { at_kills: 1, otherwise: Vec::new() };
        report(&Account { ledger: &ledger(), traffic: &traffic, remains: &remains, lost: &lost, violations }).join("\n")
    }

    #[test]
    fn the_account_is_plain() {
        let text = text(&[]);
        for line in [
            "  7 commands sent = 6 answered + 1 outcome unknown + 0 not applied\n",
            "    INCR                 3         2         1            0\n",
            "    east, until its kill       1 acknowledged; killed, its memory is gone with it\n",
            "    west                       1 acknowledged, 2 found there\n",
            "  list: 2 pushed, 1 taken, 1 gone with a killed server\n",
            "  messages: 1 published, 0 heard, 1 lost at a kill\n",
            "    at the kill of east                   12 ms\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("nothing was applied twice."), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 100), "{text}");
    }

    #[test]
    fn what_must_not_be_is_said() {
        let text = text(&["a".to_owned(), "b".to_owned()]);
        assert!(text.ends_with("This must not be:\n  - a\n  - b"), "{text}");
    }
}
