//! How long clients wait: over the last second, and around a switch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Waits are kept so long, since a planned switch is heard of only when it is over.
const KEPT: Duration = Duration::from_secs(4);

/// At most so many waits are kept.
const KEPT_MAX: usize = 16_384;

/// A message is on its way from the publisher to the subscriber for no longer than this.
const UNDER_WAY: Duration = Duration::from_millis(100);

const SECOND: Duration = Duration::from_secs(1);

/// A command's wait.
#[derive(Clone, Copy, Debug)]
struct Wait {
    sent_at: Instant,
    answered_at: Instant,
}

/// A time that is looked at on its own: a kill, a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upheaval {
    /// In words: "the kill of east".
    pub(super) name: String,
    /// A server was killed; else it is a planned switch.
    pub(super) killed: bool,
    /// When it began.
    pub(super) from: Instant,
    /// When all was settled; `None`: not yet.
    pub(super) to: Option<Instant>,
    /// The longest that a client waited.
    pub(super) longest: Duration,
}

/// All waits of late, and the longest of those that mattered.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    waits: VecDeque<Wait>,
    /// Upheavals so far.
    pub(super) upheavals: Vec<Upheaval>,
    /// The longest wait outside of them.
    pub(super) longest_otherwise: Duration,
}

/// The last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// Commands answered.
    pub(super) rate: u64,
    /// Half of them waited no longer; `None`: none was answered.
    pub(super) p50: Option<Duration>,
    /// 99 of 100 waited no longer.
    pub(super) p99: Option<Duration>,
}

impl Wait {
    fn length(self) -> Duration {
        self.answered_at.saturating_duration_since(self.sent_at)
    }
}

impl Upheaval {
    /// Whether a moment belongs to it.
    pub(super) fn contains(&self, at: Instant) -> bool {
        at >= self.from && self.to.is_none_or(|to| at <= to)
    }

    fn touches(&self, wait: Wait) -> bool {
        wait.answered_at >= self.from && self.to.is_none_or(|to| wait.sent_at <= to)
    }
}

impl Traffic {
    /// A command was answered.
    pub(super) fn answered(&mut self, sent_at: Instant, answered_at: Instant) {
        let wait = Wait { sent_at, answered_at };
        for upheaval in self.upheavals.iter_mut().filter(|upheaval| upheaval.touches(wait)) {
            upheaval.longest = upheaval.longest.max(wait.length());
        }
        if self.waits.len() == KEPT_MAX {
            self.forget_oldest();
        }
        self.waits.push_back(wait);
    }

    /// Looks at a time on its own; what was answered in it already counts.
    pub(super) fn begin(&mut self, mut upheaval: Upheaval) {
        let within = self.waits.iter().filter(|wait| upheaval.touches(**wait)).map(|wait| wait.length()).max();
        upheaval.longest = within.unwrap_or_default();
        self.upheavals.push(upheaval);
    }

    /// Forgets what is old.
    pub(super) fn age(&mut self, now: Instant) {
        while self.waits.front().is_some_and(|wait| now.saturating_duration_since(wait.answered_at) > KEPT) {
            self.forget_oldest();
        }
    }

    /// All that is left is judged: nothing more will come.
    pub(super) fn finish(&mut self) {
        while !self.waits.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(wait) = self.waits.pop_front() else { return };
        if !self.upheavals.iter().any(|upheaval| upheaval.touches(wait)) {
            self.longest_otherwise = self.longest_otherwise.max(wait.length());
        }
    }

    /// The last second.
    pub(super) fn pulse(&self, now: Instant) -> Pulse {
        let recent = self.waits.iter().rev().filter(|wait| now.saturating_duration_since(wait.answered_at) <= SECOND);
        let mut lengths: Vec<Duration> = recent.map(|wait| wait.length()).collect();
        lengths.sort_unstable();
        let share = |percent: usize| lengths.get((lengths.len() * percent / 100).min(lengths.len().saturating_sub(1)));
        Pulse { rate: lengths.len() as u64, p50: share(50).copied(), p99: share(99).copied() }
    }

    /// A server was dying at that time, or what was sent then was still under way when it did.
    pub(super) fn killed_at(&self, at: Instant) -> bool {
        self.upheavals
            .iter()
            .any(|upheaval| upheaval.killed && (upheaval.contains(at) || upheaval.contains(at + UNDER_WAY)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn upheaval(from: Instant, to: Option<Instant>) -> Upheaval {
        Upheaval { name: "the kill".to_owned(), killed: true, from, to, longest: Duration::ZERO }
    }

    #[test]
    fn the_last_second_is_summed_up() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        assert_eq!(traffic.pulse(start), Pulse::default());
        traffic.answered(start, start + 900 * MS);
        for number in 1..=100 {
            let sent_at = start + 2000 * MS;
            traffic.answered(sent_at, sent_at + number * MS);
        }
        let pulse = traffic.pulse(start + 2500 * MS);
        assert_eq!(pulse, Pulse { rate: 100, p50: Some(51 * MS), p99: Some(100 * MS) });
    }

    #[test]
    fn waits_that_touch_an_upheaval_are_its_own() {
        let start = Instant::now();
        let at = |ms: u32| start + ms * MS;
        let mut traffic = Traffic::default();
        traffic.answered(at(0), at(7));
        traffic.answered(at(90), at(130));
        traffic.begin(upheaval(at(100), Some(at(200))));
        assert_eq!(traffic.upheavals[0].longest, 40 * MS, "begun before, answered within");
        traffic.answered(at(150), at(250));
        assert_eq!(traffic.upheavals[0].longest, 100 * MS, "sent within");
        traffic.answered(at(201), at(900));
        traffic.finish();
        assert_eq!((traffic.upheavals[0].longest, traffic.longest_otherwise), (100 * MS, 699 * MS));
        assert!(traffic.killed_at(at(150)) && !traffic.killed_at(at(250)));
    }

    #[test]
    fn what_was_under_way_at_a_kill_belongs_to_it() {
        let start = Instant::now();
        let at = |ms: u32| start + ms * MS;
        let mut traffic = Traffic::default();
        traffic.begin(upheaval(at(500), Some(at(600))));
        for (ms, expected) in [(399, false), (400, true), (500, true), (600, true), (601, false)] {
            assert_eq!(traffic.killed_at(at(ms)), expected, "{ms}");
        }
        traffic.upheavals[0].killed = false;
        assert!(!traffic.killed_at(at(550)));
    }

    #[test]
    fn an_open_upheaval_takes_everything() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        traffic.begin(upheaval(start, None));
        traffic.answered(start + MS, start + 9000 * MS);
        traffic.finish();
        assert_eq!((traffic.upheavals[0].longest, traffic.longest_otherwise), (8999 * MS, Duration::ZERO));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        (0..KEPT_MAX + 10).for_each(|_| traffic.answered(start, start + MS));
        assert_eq!(traffic.waits.len(), KEPT_MAX);
        traffic.age(start + KEPT + 2 * MS);
        assert!(traffic.waits.is_empty());
        assert_eq!(traffic.longest_otherwise, MS);
    }
}
