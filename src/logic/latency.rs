//! Gray failures of one backend on live traffic: it answers, but far later than it used to, or too late too often.
//!
//! Workers count how long each run of requests waited for the first byte of its replies, from the moment in which it
//! was handed to the kernel; time spent queued in Handover is not part of it.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::logic::settings::LatencySettings;

/// Buckets of a [`Histogram`]: four for each doubling, from 16 µs up to 16 s.
pub const BUCKETS: usize = 80;
/// The lowest bucket's doubling.
const OCTAVE_FIRST: u32 = 4;
/// Looks are put together for so long.
const SLOT: Duration = Duration::from_millis(250);
/// What the high percentile is taken of.
const SECOND: Duration = Duration::from_secs(1);
const HIGH: f64 = 0.99;
/// A baseline counts once so many seconds' worth of slots were learned …
const LEARNED_MIN: u32 = 20;
/// … and then moves with a memory of so many, about a minute.
const LEARNED_MAX: u32 = 240;
/// One slot moves the baseline as if it were at most so many times as slow.
const OUTLIER: f64 = 4.0;
/// A handful of late replies is no share of anything.
const LATE_MIN: u64 = 3;
/// Late replies in so many different seconds: one hiccup, however many it delayed, is not a gray failure.
const LATE_SECONDS_MIN: usize = 3;
/// A backend that is far away is not late for that: a late reply took so many times the baseline, too.
const LATE_BASELINES: u32 = 4;
/// After a look that comes so late it was we who did not listen.
const LATE_LOOK: Duration = Duration::from_millis(500);
/// Without slow replies for so long a suspicion is over, even if nothing else came.
const STREAK_GAP: Duration = Duration::from_secs(3);

/// Runs by the time that they waited for the first byte of their replies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Histogram({} runs, p99 {:?})", self.total(), self.quantile(HIGH))
    }
}

impl Histogram {
    /// Made of counts by bucket.
    #[must_use]
    pub const fn of(counts: [u64; BUCKETS]) -> Self {
        Self { counts }
    }

    /// Counts by bucket.
    #[must_use]
    pub const fn counts(&self) -> &[u64; BUCKETS] {
        &self.counts
    }

    /// Counts one run.
    pub fn count(&mut self, took: Duration) {
        self.counts[bucket(took)] += 1;
    }

    /// Adds another's runs.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        for (count, before) in since.counts.iter_mut().zip(&earlier.counts) {
            // A worker that was built anew counts from zero.
            *count = count.saturating_sub(*before);
        }
        since
    }

    /// How many runs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time within which this share of the runs was answered, rounded up to a bucket; `None` without any run.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of runs, rounded up")]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.total() as f64 * share).ceil() as u64).max(1);
        let mut passed = 0;
        let index = self.counts.iter().position(|count| {
            passed += count;
            passed >= rank
        })?;
        Some(upper(index))
    }

    /// Runs that surely took longer than this.
    #[must_use]
    pub fn above(&self, bound: Duration) -> u64 {
        self.counts[(bucket(bound) + 1).min(BUCKETS)..].iter().sum()
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1 << OCTAVE_FIRST);
    let octave = micros.ilog2();
    let quarter = (micros >> (octave - 2)) & 3;
    (((octave - OCTAVE_FIRST) * 4) as usize + quarter as usize).min(BUCKETS - 1)
}

/// The end of a bucket.
fn upper(index: usize) -> Duration {
    let (octave, quarter) = (index as u64 / 4 + u64::from(OCTAVE_FIRST), index as u64 % 4);
    Duration::from_micros((4 + quarter + 1) << (octave - 2))
}

/// What live traffic says against a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grayness {
    /// The slowest hundredth waits many times as long as it used to.
    Slow {
        /// What it waits.
        p99: Duration,
        /// What it used to.
        baseline: Duration,
        /// For how long by now.
        lasted: Duration,
    },
    /// Too large a share of replies came late.
    Late {
        /// How many.
        late: u64,
        /// Of so many.
        total: u64,
        /// Later than this.
        bound: Duration,
        /// Within this time.
        window: Duration,
    },
}

impl Grayness {
    /// What a reply takes at least that is part of the evidence.
    #[must_use]
    pub const fn reply_time(&self) -> Duration {
        match self {
            Self::Slow { p99, .. } => *p99,
            Self::Late { bound, .. } => *bound,
        }
    }
}

impl fmt::Display for Grayness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { p99, baseline, lasted } => write!(
                formatter,
                "p99 {}, baseline {}, for {:.1} s",
                millis(*p99),
                millis(*baseline),
                lasted.as_secs_f64()
            ),
            Self::Late { late, total, bound, window } => {
                let (bound, window) = (millis(*bound), window.as_secs_f64());
                write!(formatter, "{late} of {total} replies took longer than {bound} within {window:.1} s")
            }
        }
    }
}

/// `612 ms`, `0.4 ms`.
pub(crate) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// What a time usually is: a mean that moves slowly, and by one outlier hardly at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usual {
    micros: f64,
    learned: u32,
}

impl Usual {
    /// One more.
    pub fn learn(&mut self, took: Duration, memory: u32) {
        let micros = took.as_secs_f64() * 1e6;
        let micros = if self.learned == 0 { micros } else { micros.min(self.micros * OUTLIER) };
        self.learned = (self.learned + 1).min(memory);
        self.micros += (micros - self.micros) / f64::from(self.learned);
    }

    /// It, once it was learned from so many.
    #[must_use]
    pub fn known(&self, least: u32) -> Option<Duration> {
        (self.learned >= least).then(|| Duration::from_secs_f64(self.micros / 1e6))
    }
}

/// What came in one slot.
#[derive(Clone, Debug)]
struct Slot {
    ended_at: Instant,
    replies: Histogram,
}

/// Seconds in a row whose slowest replies were too slow.
#[derive(Clone, Copy, Debug)]
struct Streak {
    since: Instant,
    last: Instant,
    /// Slow replies so far.
    replies: u64,
    p99: Duration,
}

/// Watches one backend's reply times.
#[derive(Clone, Debug)]
pub struct LatencyWatch {
    settings: LatencySettings,
    /// A reply that takes longer is late.
    late_after: Duration,
    /// What workers had counted at the last look.
    seen: Histogram,
    disturbances: u64,
    /// The look before was disturbed: what was delayed by that may be counted only now.
    was_disturbed: bool,
    started_at: Option<Instant>,
    looked_at: Option<Instant>,
    slot: Histogram,
    slot_since: Option<Instant>,
    slots: VecDeque<Slot>,
    baseline: Usual,
    streak: Option<Streak>,
}

impl LatencyWatch {
    /// Other settings; what was seen stays.
    pub fn configure(&mut self, settings: LatencySettings, late_after: Duration) {
        (self.settings, self.late_after) = (settings, late_after);
    }

    /// Has seen nothing yet. A reply that takes longer than `late_after` is late.
    #[must_use]
    pub fn new(settings: LatencySettings, late_after: Duration) -> Self {
        Self {
            settings,
            late_after,
            seen: Histogram::default(),
            disturbances: 0,
            was_disturbed: false,
            started_at: None,
            looked_at: None,
            slot: Histogram::default(),
            slot_since: None,
            slots: VecDeque::new(),
            baseline: Usual::default(),
            streak: None,
        }
    }

    /// Forgets what led to the last judgement; what is usual stays.
    pub fn restart(&mut self) {
        self.slot = Histogram::default();
        self.slot_since = None;
        self.slots.clear();
        self.streak = None;
    }

    /// A look: what workers have counted since the start, and how often something of a client's or of our own kept
    /// replies waiting. Such a look, and the next one, count nothing: that time is not the backend's.
    pub fn on_look(&mut self, now: Instant, replies: &Histogram, disturbances: u64) {
        let new = replies.since(&self.seen);
        let is_late = self.looked_at.is_some_and(|at| now.saturating_duration_since(at) > LATE_LOOK);
        self.looked_at = Some(now);
        self.seen = *replies;
        let is_disturbed = std::mem::replace(&mut self.disturbances, disturbances) != disturbances || is_late;
        if !(is_disturbed || self.was_disturbed) {
            self.slot.add(&new);
        }
        self.was_disturbed = is_disturbed;
        self.started_at.get_or_insert(now);
        let since = *self.slot_since.get_or_insert(now);
        if now >= since + SLOT {
            self.close_slot(now);
        }
    }

    fn close_slot(&mut self, now: Instant) {
        self.slot_since = Some(now);
        let replies = std::mem::take(&mut self.slot);
        self.slots.retain(|slot| slot.ended_at + self.settings.window > now);
        self.slots.push_back(Slot { ended_at: now, replies });
        self.judge_second(now, &replies);
    }

    fn judge_second(&mut self, now: Instant, latest: &Histogram) {
        let Some(p99) = self.within(SECOND, now).quantile(HIGH) else {
            self.streak = self.streak.filter(|streak| now < streak.last + STREAK_GAP);
            return;
        };
        match self.limit().filter(|limit| p99 > *limit) {
            Some(limit) => {
                let slow = latest.above(limit);
                let streak = self.streak.get_or_insert(Streak { since: now, last: now, replies: 0, p99 });
                streak.replies += slow;
                streak.p99 = p99;
                if slow > 0 {
                    streak.last = now;
                }
            }
            None => {
                self.streak = None;
                if self.late(now).0 == 0 {
                    self.baseline.learn(p99, LEARNED_MAX);
                }
            }
        }
    }

    /// The runs of the latest slots.
    fn within(&self, time: Duration, now: Instant) -> Histogram {
        let mut sum = Histogram::default();
        for slot in self.slots.iter().rev().take_while(|slot| slot.ended_at + time > now) {
            sum.add(&slot.replies);
        }
        sum
    }

    /// What the slowest replies used to take.
    #[must_use]
    pub fn baseline(&self) -> Option<Duration> {
        self.baseline.known(LEARNED_MIN)
    }

    /// The most that the slowest replies may take; `None` while the baseline is not known, or if it is not watched.
    fn limit(&self) -> Option<Duration> {
        let factor = self.settings.factor;
        let baseline = self.baseline().filter(|_| factor > 0.0)?;
        Some(baseline.mul_f64(factor).max(self.settings.floor))
    }

    /// Late replies in the window, all replies, and in how many different seconds late ones came.
    fn late(&self, now: Instant) -> (u64, u64, usize) {
        let bound = self.late_bound();
        let (mut late, mut total, mut seconds) = (0, 0, Vec::new());
        for slot in self.slots.iter().filter(|slot| slot.ended_at + self.settings.window > now) {
            let of_slot = slot.replies.above(bound);
            late += of_slot;
            total += slot.replies.total();
            if of_slot > 0
                && let Some(started_at) = self.started_at
            {
                let second = slot.ended_at.saturating_duration_since(started_at).as_secs();
                if seconds.last() != Some(&second) {
                    seconds.push(second);
                }
            }
        }
        (late, total, seconds.len())
    }

    fn late_bound(&self) -> Duration {
        self.late_after.max(self.baseline().unwrap_or_default() * LATE_BASELINES)
    }

    /// Something is wrong, though perhaps not for long enough: since when.
    #[must_use]
    pub fn suspected_since(&self) -> Option<Instant> {
        let bound = self.late_bound();
        let late = self.slots.iter().find(|slot| slot.replies.above(bound) > 0).map(|slot| slot.ended_at);
        let late = late.filter(|_| self.baseline().is_some() && self.settings.timeout_rate > 0.0);
        [self.streak.map(|streak| streak.since), late].into_iter().flatten().min()
    }

    /// What live traffic says against the backend.
    #[must_use]
    pub fn grayness(&self, now: Instant) -> Option<Grayness> {
        let baseline = self.baseline()?;
        if let Some(streak) = self.streak {
            let lasted = now.saturating_duration_since(streak.since);
            if lasted >= self.settings.lasting && streak.replies >= LATE_MIN {
                return Some(Grayness::Slow { p99: streak.p99, baseline, lasted });
            }
        }
        let (late, total, seconds) = self.late(now);
        let rate = self.settings.timeout_rate;
        let is_too_many = rate > 0.0 && late >= LATE_MIN && late as f64 > rate * total as f64;
        let (bound, window) = (self.late_bound(), self.settings.window);
        (is_too_many && seconds >= LATE_SECONDS_MIN).then_some(Grayness::Late { late, total, bound, window })
    }

    /// Nothing was asked of it for as long as a judgement looks back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slot.total() == 0 && self.slots.iter().all(|slot| slot.replies.total() == 0)
    }
}

#[cfg(test)]
mod tests;
