//! The demo's bookkeeping: every command, what became of it, and whether all of that can be true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Each start of a server counts from another million on, so that a counter's reply tells which server gave it.
const STEP: u64 = 1_000_000;

/// At most so many wrong replies are kept in words; all are counted.
const WRONG_KEPT_MAX: usize = 5;

/// One life of a server, from its start to its end: a restarted server is another life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life(pub(super) u64);

impl Life {
    /// What every counter is set to when this life begins.
    pub(super) const fn zero(self) -> u64 {
        (self.0 + 1) * STEP
    }

    /// The life in which a counter had this value, and how often it had been incremented in it.
    pub(super) fn of(value: u64) -> Option<(Self, u64)> {
        Some((Self((value / STEP).checked_sub(1)?), value % STEP))
    }
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// GET of a text that both servers have.
    Read,
    /// INCR of a counter of the client's own.
    Count,
    /// MULTI, INCR, INCR, EXEC.
    Transaction,
    /// LPUSH for somebody who waits.
    Push,
    /// BLPOP, which waits.
    Pop,
    /// PUBLISH.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
}

/// Every kind, in the order in which they are shown.
pub(super) const KINDS: [Kind; 7] =
    [Kind::Read, Kind::Count, Kind::Transaction, Kind::Push, Kind::Pop, Kind::Publish, Kind::Subscribe];

impl Kind {
    /// Its name in the ledger.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Read => "GET",
            Self::Count => "INCR",
            Self::Transaction => "MULTI … EXEC",
            Self::Push => "LPUSH",
            Self::Pop => "BLPOP",
            Self::Publish => "PUBLISH",
            Self::Subscribe => "SUBSCRIBE",
        }
    }
}

/// One command, from sending it to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    /// What for.
    pub(super) kind: Kind,
    /// When it was sent.
    pub(super) sent_at: Instant,
    /// When its answer was there, or was given up.
    pub(super) answered_at: Instant,
    /// The counters that it increments.
    pub(super) counters: Vec<usize>,
    /// What came back.
    pub(super) answer: Answer,
}

/// What came back for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A reply, and what it says.
    Reply(Fact),
    /// An error that says: it may have been applied.
    Uncertain(String),
    /// An error that says: it was not applied.
    NotApplied(String),
    /// Any other error.
    Failed(String),
    /// Nothing: the connection ended, or the wait did.
    Nothing(String),
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// What was expected, and nothing more.
    Expected,
    /// Something that cannot be the answer to this command.
    Wrong(String),
    /// The new values of the counters.
    Counted(Vec<u64>),
    /// This element is in the list now.
    Pushed(u64),
    /// This element was taken from the list.
    Popped(u64),
    /// This message went out.
    Published(u64),
}

/// Commands of one kind, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Sent.
    pub(super) sent: u64,
    /// Answered by a server.
    pub(super) answered: u64,
    /// Answered: may have been applied.
    pub(super) uncertain: u64,
    /// Answered: was not applied.
    pub(super) not_applied: u64,
    /// Answered with another error.
    pub(super) failed: u64,
    /// Never answered.
    pub(super) unanswered: u64,
}

/// A counter that only one client increments.
#[derive(Clone, Debug, Default)]
struct Counter {
    lives: BTreeMap<Life, Counted>,
    /// Increments whose outcome is unknown, and no later reply has shown.
    unknown: u64,
}

/// A counter in one life of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    acknowledged: u64,
    /// The highest value that a reply showed: what was acknowledged, and what turned out to have been applied too.
    shown: u64,
}

/// What a server's life left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Whose.
    pub(super) life: Life,
    /// In words: "west".
    pub(super) name: String,
    /// `None`: it was killed, and its memory is gone.
    pub(super) memory: Option<Memory>,
}

/// What stands in a server's memory at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// How often each counter was incremented.
    pub(super) counters: Vec<u64>,
    /// Elements that nobody has taken from the list.
    pub(super) queued: u64,
}

/// The increments of one life: a line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Increments {
    /// Where.
    pub(super) name: String,
    /// Those with a reply.
    pub(super) acknowledged: u64,
    /// Those found on the server; `None`: it was killed.
    pub(super) applied: Option<u64>,
}

/// Messages that were published, acknowledged and not heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Published while a server was dead and Handover had not finished leaving it.
    pub(super) at_kills: u64,
    /// At any other time: when they were sent, since the start.
    pub(super) otherwise: Vec<Duration>,
}

/// The whole account.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    tallies: BTreeMap<Kind, Tally>,
    errors: BTreeMap<String, u64>,
    counters: Vec<Counter>,
    pushed: BTreeSet<u64>,
    popped: BTreeSet<u64>,
    published: BTreeMap<u64, Instant>,
    heard: BTreeSet<u64>,
    wrong: Vec<String>,
    wrong_total: u64,
    /// Times that a client had to connect anew.
    pub(super) reconnects: u64,
}

impl Ledger {
    /// Enters a command and its answer.
    pub(super) fn record(&mut self, exchange: &Exchange) {
        let tally = self.tallies.entry(exchange.kind).or_default();
        tally.sent += 1;
        match &exchange.answer {
            Answer::Reply(_) => tally.answered += 1,
            Answer::Uncertain(_) => tally.uncertain += 1,
            Answer::NotApplied(_) => tally.not_applied += 1,
            Answer::Failed(_) => tally.failed += 1,
            Answer::Nothing(_) => tally.unanswered += 1,
        }
        match &exchange.answer {
            Answer::Reply(fact) => self.learn(exchange, fact),
            Answer::Uncertain(text) => {
                self.error(text);
                exchange.counters.iter().for_each(|&index| self.counter(index).unknown += 1);
            }
            Answer::NotApplied(text) | Answer::Failed(text) => self.error(text),
            // It may have been applied all the same.
            Answer::Nothing(_) => exchange.counters.iter().for_each(|&index| self.counter(index).unknown += 1),
        }
    }

    /// The subscriber heard a message.
    pub(super) fn heard(&mut self, message: u64) {
        if !self.heard.insert(message) {
            self.wrong(format!("message {message} was delivered twice"));
        }
    }

    /// Something came that nobody may send.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong_total += 1;
        if self.wrong.len() < WRONG_KEPT_MAX {
            self.wrong.push(what);
        }
    }

    fn learn(&mut self, exchange: &Exchange, fact: &Fact) {
        match fact {
            Fact::Expected => {}
            Fact::Wrong(what) => self.wrong(what.clone()),
            Fact::Counted(values) => self.counted(&exchange.counters, values),
            Fact::Pushed(element) => {
                self.pushed.insert(*element);
            }
            Fact::Popped(element) => {
                if !self.popped.insert(*element) {
                    self.wrong(format!("element {element} was taken from the list twice"));
                }
            }
            Fact::Published(message) => {
                self.published.insert(*message, exchange.sent_at);
            }
        }
    }

    fn counted(&mut self, counters: &[usize], values: &[u64]) {
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            self.wrong(format!("a transaction was applied by half: its counters say {values:?}"));
        }
        for (&index, &value) in counters.iter().zip(values) {
            if let Err(what) = self.counter(index).show(value) {
                self.wrong(format!("counter {index}: {what}"));
            }
        }
    }

    fn counter(&mut self, index: usize) -> &mut Counter {
        if self.counters.len() <= index {
            self.counters.resize_with(index + 1, Counter::default);
        }
        &mut self.counters[index]
    }

    /// Counts an error under its first word.
    fn error(&mut self, text: &str) {
        let word = text.split(' ').next().unwrap_or_default();
        *self.errors.entry(word.to_owned()).or_default() += 1;
    }

    /// Commands of one kind.
    pub(super) fn tally(&self, kind: Kind) -> Tally {
        self.tallies.get(&kind).copied().unwrap_or_default()
    }

    /// Commands of all kinds.
    pub(super) fn total(&self) -> Tally {
        self.tallies.values().fold(Tally::default(), |sum, tally| sum.plus(tally))
    }

    /// Errors so far by their first word.
    pub(super) fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// Replies that cannot be right, so far.
    pub(super) fn wrong_replies(&self) -> u64 {
        self.wrong_total
    }

    /// Increments whose outcome nobody knows.
    pub(super) fn increments_unknown(&self) -> u64 {
        self.counters.iter().map(|counter| counter.unknown).sum()
    }

    /// The increments of a life.
    pub(super) fn increments(&self, remains: &Remains) -> Increments {
        let acknowledged =
            self.counters.iter().filter_map(|counter| counter.lives.get(&remains.life)).map(|count| count.acknowledged);
        Increments {
            name: remains.name.clone(),
            acknowledged: acknowledged.sum(),
            applied: remains.memory.as_ref().map(|memory| memory.counters.iter().sum()),
        }
    }

    /// Elements that were pushed, with a reply, and those taken.
    pub(super) fn elements(&self) -> (u64, u64) {
        (self.pushed.len() as u64, self.popped.len() as u64)
    }

    /// Elements pushed, with a reply, that nobody took.
    pub(super) fn elements_not_taken(&self) -> u64 {
        self.pushed.difference(&self.popped).count() as u64
    }

    /// Messages published, with a reply, and those heard.
    pub(super) fn messages(&self) -> (u64, u64) {
        (self.published.len() as u64, self.heard.len() as u64)
    }

    /// Messages that went out and did not arrive; `killed` says whether a server was being left for dead at a time.
    pub(super) fn lost(&self, started: Instant, killed: impl Fn(Instant) -> bool) -> Lost {
        let missing = self.published.iter().filter(|(message, _)| !self.heard.contains(message)).map(|(_, at)| *at);
        let (at_kills, otherwise): (Vec<_>, Vec<_>) = missing.partition(|at| killed(*at));
        let since_start = |at: Instant| at.saturating_duration_since(started);
        Lost { at_kills: at_kills.len() as u64, otherwise: otherwise.into_iter().map(since_start).collect() }
    }

    /// What must never happen and did.
    pub(super) fn violations(&self, remains: &[Remains], lost: &Lost) -> Vec<String> {
        let mut all: Vec<String> = self.wrong.iter().map(|what| format!("a wrong reply: {what}")).collect();
        let further = self.wrong_total - self.wrong.len() as u64;
        let total = self.total();
        let counts = [
            (further, "further wrong replies"),
            (total.unanswered, "commands never answered"),
            (total.failed, "commands answered with an error that is neither \"unknown\" nor \"not applied\""),
            (self.reconnects, "times a client had to connect anew"),
        ];
        all.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let unheard =
            |at: &Duration| format!("a message of {:.2} s lost, although no server was dying", at.as_secs_f64());
        all.extend(lost.otherwise.iter().map(unheard));
        all.extend(remains.iter().flat_map(|remains| self.compare(remains)));
        all
    }

    /// What a server has, against what it acknowledged.
    fn compare(&self, remains: &Remains) -> Vec<String> {
        let Some(memory) = &remains.memory else { return Vec::new() };
        let bounds = |counter: &Counter| {
            let shown = counter.lives.get(&remains.life).map_or(0, |count| count.shown);
            (shown, shown + counter.unknown)
        };
        let judge = |(index, applied): (usize, &u64)| {
            let (least, most) = self.counters.get(index).map_or((0, 0), bounds);
            let place = &remains.name;
            if *applied < least {
                return Some(format!("counter {index} on {place}: {least} acknowledged, only {applied} there"));
            }
            let text = format!("counter {index} on {place}: applied {applied} times, at most {most} were asked for");
            (*applied > most).then_some(text)
        };
        memory.counters.iter().enumerate().filter_map(judge).collect()
    }
}

impl Tally {
    fn plus(self, other: &Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            answered: self.answered + other.answered,
            uncertain: self.uncertain + other.uncertain,
            not_applied: self.not_applied + other.not_applied,
            failed: self.failed + other.failed,
            unanswered: self.unanswered + other.unanswered,
        }
    }
}

impl Counter {
    /// A reply showed this value. It must be the next one; increments of unknown outcome may lie between.
    fn show(&mut self, value: u64) -> Result<(), String> {
        let (life, count) = Life::of(value).ok_or(format!("{value} is no value that it ever had"))?;
        let counted = self.lives.entry(life).or_default();
        let expected = counted.shown + 1;
        let between =
            count.checked_sub(expected).ok_or(format!("{value} again, after {}", life.zero() + expected - 1))?;
        if between > self.unknown {
            return Err(format!("{value}, {between} more than were asked for"));
        }
        counted.acknowledged += 1;
        counted.shown = count;
        self.unknown -= between;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EAST: Life = Life(0);
    const WEST: Life = Life(1);

    fn exchange(kind: Kind, counters: &[usize], answer: Answer) -> Exchange {
        let now = Instant::now();
        Exchange { kind, sent_at: now, answered_at: now, counters: counters.to_vec(), answer }
    }

    fn counted(counter: usize, value: u64) -> Exchange {
        exchange(Kind::Count, &[counter], Answer::Reply(Fact::Counted(vec![value])))
    }

    fn uncertain(counter: usize) -> Exchange {
        exchange(Kind::Count, &[counter], Answer::Uncertain("UNCERTAIN it may".to_owned()))
    }

    fn remains(life: Life, counters: &[u64]) -> Remains {
        Remains {
            life,
            name: "west".to_owned(),
            memory: Some(Memory { counters: counters.to_vec(), ..Memory::default() }),
        }
    }

    fn ledger(exchanges: &[Exchange]) -> Ledger {
        let mut ledger = Ledger::default();
        exchanges.iter().for_each(|exchange| ledger.record(exchange));
        ledger
    }

    #[test]
    fn every_sent_command_is_in_one_column() {
        let answer = |answer| exchange(Kind::Read, &[], answer);
        let ledger = ledger(&[
            answer(Answer::Reply(Fact::Expected)),
            answer(Answer::Reply(Fact::Expected)),
            answer(Answer::Uncertain("UNCERTAIN x".to_owned())),
            answer(Answer::NotApplied("LOADING x".to_owned())),
            answer(Answer::Failed("ERR x".to_owned())),
            answer(Answer::Nothing("closed".to_owned())),
            counted(0, EAST.zero() + 1),
        ]);
        let expected = Tally { sent: 6, answered: 2, uncertain: 1, not_applied: 1, failed: 1, unanswered: 1 };
        assert_eq!(ledger.tally(Kind::Read), expected);
        assert_eq!(ledger.total(), Tally { sent: 7, answered: 3, ..expected });
        let words: Vec<_> = ledger.errors().iter().map(|(word, count)| (word.as_str(), *count)).collect();
        assert_eq!(words, [("ERR", 1), ("LOADING", 1), ("UNCERTAIN", 1)]);
        assert_eq!(ledger.violations(&[], &Lost::default()).len(), 2, "one unanswered, one failed");
    }

    #[test]
    fn counters_go_on_in_each_life() {
        let (east, west) = (EAST.zero(), WEST.zero());
        let ledger = ledger(&[counted(0, east + 1), counted(0, east + 2), counted(0, west + 1), counted(0, east + 3)]);
        assert_eq!(ledger.violations(&[remains(EAST, &[3]), remains(WEST, &[1])], &Lost::default()), [""; 0]);
        let line = ledger.increments(&remains(EAST, &[3]));
        assert_eq!((line.acknowledged, line.applied), (3, Some(3)));
    }

    #[test]
    fn a_counter_that_repeats_or_skips_is_wrong() {
        for (values, expected) in [(vec![1, 1], 1), (vec![1, 3], 1), (vec![2], 1), (vec![1, 2, 3], 0)] {
            let exchanges: Vec<_> = values.iter().map(|value| counted(0, EAST.zero() + value)).collect();
            assert_eq!(ledger(&exchanges).wrong_replies(), expected, "{values:?}");
        }
        assert_eq!(ledger(&[counted(0, 7)]).wrong_replies(), 1, "a value of no life");
    }

    #[test]
    fn an_unknown_outcome_widens_what_may_be_there_by_one() {
        let west = WEST.zero();
        let one_unknown = [counted(0, west + 1), uncertain(0)];
        for (applied, violations) in [(0, 1), (1, 0), (2, 0), (3, 1)] {
            let found = ledger(&one_unknown).violations(&[remains(WEST, &[applied])], &Lost::default());
            assert_eq!(found.len(), violations, "{applied}: {found:?}");
        }
    }

    #[test]
    fn a_later_reply_shows_that_an_unknown_one_was_applied() {
        let west = WEST.zero();
        let ledger = ledger(&[counted(0, west + 1), uncertain(0), counted(0, west + 3)]);
        assert_eq!((ledger.wrong_replies(), ledger.increments_unknown()), (0, 0));
        assert_eq!(ledger.violations(&[remains(WEST, &[3])], &Lost::default()), [""; 0]);
        assert_eq!(ledger.violations(&[remains(WEST, &[4])], &Lost::default()).len(), 1);
    }

    #[test]
    fn half_a_transaction_is_wrong() {
        let pair =
            |first, second| exchange(Kind::Transaction, &[0, 1], Answer::Reply(Fact::Counted(vec![first, second])));
        assert_eq!(ledger(&[pair(EAST.zero() + 1, EAST.zero() + 1)]).wrong_replies(), 0);
        assert!(ledger(&[pair(EAST.zero() + 1, EAST.zero() + 2)]).wrong_replies() > 0);
    }

    #[test]
    fn elements_and_messages_come_once() {
        let popped = |element| exchange(Kind::Pop, &[], Answer::Reply(Fact::Popped(element)));
        let pushed = |element| exchange(Kind::Push, &[], Answer::Reply(Fact::Pushed(element)));
        let mut ledger = ledger(&[pushed(1), pushed(2), pushed(3), popped(1), popped(3)]);
        assert_eq!((ledger.elements(), ledger.elements_not_taken()), ((3, 2), 1));
        ledger.record(&popped(3));
        ledger.heard(1);
        ledger.heard(1);
        assert_eq!(ledger.wrong_replies(), 2);
    }

    #[test]
    fn lost_messages_are_told_apart_by_when_they_went_out() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        for message in 0..4 {
            let published = exchange(Kind::Publish, &[], Answer::Reply(Fact::Published(message)));
            ledger.record(&Exchange { sent_at: start + Duration::from_secs(message), ..published });
        }
        ledger.heard(0);
        let lost = ledger.lost(start, |at| at == start + Duration::from_secs(2));
        let otherwise = vec![Duration::from_secs(1), Duration::from_secs(3)];
        assert_eq!(lost, Lost { at_kills: 1, otherwise });
        let told = ledger.violations(&[], &lost);
        assert_eq!(told[0], "a message of 1.00 s lost, although no server was dying");
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn of_many_wrong_replies_some_are_told_and_all_counted() {
        let mut ledger = Ledger::default();
        (0..8).for_each(|number| ledger.wrong(number.to_string()));
        let told = ledger.violations(&[], &Lost::default());
        assert_eq!(told.len(), 6);
        assert_eq!(told[5], "3 further wrong replies");
    }
}
