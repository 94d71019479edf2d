//! Health of one backend from the verdicts of its probes, and when the next probe is due.

use std::time::{Duration, Instant};

use crate::logic::settings::{HealthSettings, ProbePolicy};

/// How long a backend may answer BUSY before it cannot serve.
pub const BUSY_MAX: Duration = Duration::from_secs(5);

/// What a probe round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// It can serve. `warning` names a part of the probe that it refuses to run.
    Good {
        /// What the server called itself: `redis` or `valkey`, and its version.
        server: Option<ServerIdentity>,
        /// `master` or `slave` as far as ROLE was allowed.
        role: Option<String>,
        /// A part of the probe that was refused, so that the verdict is weaker.
        warning: Option<String>,
    },
    /// It answered with a word that means "cannot serve" (READONLY, LOADING, MASTERDOWN …): counts as `fall` rounds.
    CannotServe {
        /// The reply's first line.
        reply: String,
    },
    /// It answered BUSY: a script runs. Neither good nor bad, until that has lasted [`BUSY_MAX`].
    Busy {
        /// The reply's first line.
        reply: String,
    },
    /// It did not answer, or not as it should.
    Failed {
        /// What was seen.
        cause: String,
        /// The connection was refused, so nobody listens there.
        refused: bool,
    },
    /// The round says nothing: Handover itself was late.
    Void,
}

impl ProbeVerdict {
    /// It can serve, and nothing else is known.
    #[must_use]
    pub const fn good() -> Self {
        Self::Good { server: None, role: None, warning: None }
    }

    /// It did not answer as it should.
    #[must_use]
    pub const fn failed(cause: String) -> Self {
        Self::Failed { cause, refused: false }
    }
}

/// The server's name and version, for HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// `redis` or `valkey`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A change that a verdict brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// It can serve from now on.
    Up,
    /// It cannot serve any more.
    Down(HealthFault),
}

/// Why probes call a backend unhealthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthFault {
    /// It said so itself, in these words.
    Answered(String),
    /// So many rounds in a row failed, the last one with this cause.
    Failed(String),
}

/// What the verdicts so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// No round has been good yet.
    Unknown { bad: u32 },
    /// Able to serve; `bad` rounds in a row have failed.
    Healthy { bad: u32 },
    /// Unable; `good` rounds in a row were clean.
    Unhealthy { good: u32 },
}

/// Counts verdicts: `fall` bad rounds in a row make a backend unhealthy, `rise` good ones healthy.
#[derive(Clone, Debug)]
pub struct Health {
    fall: u32,
    rise: u32,
    standing: Standing,
    is_latest_good: bool,
    bad_since: Option<Instant>,
    busy_since: Option<Instant>,
    rounds: u64,
}

impl Health {
    /// Other limits, for the rounds to come.
    pub const fn configure(&mut self, fall: u32, rise: u32) {
        (self.fall, self.rise) = (fall, rise);
    }

    /// Nothing is known yet: one good round makes it healthy.
    #[must_use]
    pub const fn new(fall: u32, rise: u32) -> Self {
        Self {
            fall,
            rise,
            standing: Standing::Unknown { bad: 0 },
            is_latest_good: false,
            bad_since: None,
            busy_since: None,
            rounds: 0,
        }
    }

    /// It can serve.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        matches!(self.standing, Standing::Healthy { .. })
    }

    /// It was found unable to serve (and not merely unknown yet).
    #[must_use]
    pub const fn is_unhealthy(&self) -> bool {
        matches!(self.standing, Standing::Unhealthy { .. })
    }

    /// The latest round that said anything was good.
    #[must_use]
    pub const fn is_latest_good(&self) -> bool {
        self.is_latest_good
    }

    /// When the first of the bad rounds in a row began.
    #[must_use]
    pub const fn bad_since(&self) -> Option<Instant> {
        self.bad_since
    }

    /// A round has ended, whatever it found.
    #[must_use]
    pub const fn is_probed(&self) -> bool {
        self.rounds > 0
    }

    /// A round that began at `started_at` ended at `now`.
    pub fn on_verdict(&mut self, started_at: Instant, now: Instant, verdict: &ProbeVerdict) -> Option<HealthChange> {
        self.rounds += 1;
        match verdict {
            ProbeVerdict::Void => None,
            ProbeVerdict::Good { .. } => self.on_good(),
            ProbeVerdict::CannotServe { reply } => self.on_bad(started_at, self.fall, || answered(reply)),
            ProbeVerdict::Busy { reply } => self.on_busy(started_at, now, reply),
            ProbeVerdict::Failed { cause, .. } => self.on_bad(started_at, 1, || HealthFault::Failed(cause.clone())),
        }
    }

    /// A good round, but one that took so long that it does not count for rising.
    pub const fn on_slow(&mut self) {
        self.rounds += 1;
        self.is_latest_good = true;
        self.bad_since = None;
        self.busy_since = None;
        if let Standing::Unhealthy { good } = &mut self.standing {
            *good = 0;
        }
    }

    /// Something else than a probe found that it can serve.
    pub const fn force_up(&mut self) {
        self.standing = Standing::Healthy { bad: 0 };
        self.bad_since = None;
        self.busy_since = None;
    }

    /// Something else than a probe found that it cannot serve.
    pub const fn force_down(&mut self) {
        self.standing = Standing::Unhealthy { good: 0 };
    }

    fn on_good(&mut self) -> Option<HealthChange> {
        self.is_latest_good = true;
        self.bad_since = None;
        self.busy_since = None;
        let good = match self.standing {
            Standing::Healthy { .. } => {
                self.standing = Standing::Healthy { bad: 0 };
                return None;
            }
            Standing::Unknown { .. } => self.rise,
            Standing::Unhealthy { good } => good + 1,
        };
        if good < self.rise {
            self.standing = Standing::Unhealthy { good };
            return None;
        }
        self.standing = Standing::Healthy { bad: 0 };
        Some(HealthChange::Up)
    }

    fn on_bad(&mut self, started_at: Instant, count: u32, fault: impl FnOnce() -> HealthFault) -> Option<HealthChange> {
        self.is_latest_good = false;
        self.bad_since.get_or_insert(started_at);
        let (bad, next): (u32, fn(u32) -> Standing) = match self.standing {
            Standing::Unhealthy { .. } => {
                self.standing = Standing::Unhealthy { good: 0 };
                return None;
            }
            Standing::Unknown { bad } => (bad + count, |bad| Standing::Unknown { bad }),
            Standing::Healthy { bad } => (bad + count, |bad| Standing::Healthy { bad }),
        };
        if bad < self.fall {
            self.standing = next(bad);
            return None;
        }
        self.standing = Standing::Unhealthy { good: 0 };
        Some(HealthChange::Down(fault()))
    }

    fn on_busy(&mut self, started_at: Instant, now: Instant, reply: &str) -> Option<HealthChange> {
        self.is_latest_good = false;
        let since = *self.busy_since.get_or_insert(started_at);
        if now.duration_since(since) < BUSY_MAX {
            return None;
        }
        self.on_bad(since, self.fall, || answered(reply))
    }
}

fn answered(reply: &str) -> HealthFault {
    HealthFault::Answered(reply.to_owned())
}

/// Makes one verdict of the probes of a round, as early as the policy allows.
#[derive(Clone, Debug)]
pub struct Tally {
    policy: ProbePolicy,
    probes: u32,
    good: Option<(u32, ProbeVerdict)>,
    bad: Option<(u32, ProbeVerdict)>,
}

impl Tally {
    /// A round of `probes` probes.
    #[must_use]
    pub const fn new(policy: ProbePolicy, probes: u32) -> Self {
        Self { policy, probes, good: None, bad: None }
    }

    /// One probe ended. Returns the round's verdict once no further probe could change it.
    pub fn add(&mut self, verdict: ProbeVerdict) -> Option<ProbeVerdict> {
        let side = match verdict {
            ProbeVerdict::Void => return Some(ProbeVerdict::Void),
            ProbeVerdict::Good { .. } => &mut self.good,
            ProbeVerdict::CannotServe { .. } | ProbeVerdict::Busy { .. } | ProbeVerdict::Failed { .. } => &mut self.bad,
        };
        let count = side.as_ref().map_or(0, |(count, _)| *count) + 1;
        *side = Some((count, verdict));
        let (good_needed, bad_needed) = self.needed();
        let decided = |side: &Option<(u32, ProbeVerdict)>, needed| {
            side.as_ref().filter(|(count, _)| *count >= needed).map(|(_, verdict)| verdict.clone())
        };
        decided(&self.good, good_needed).or_else(|| decided(&self.bad, bad_needed))
    }

    /// How many good probes make the round good, and how many bad ones make that impossible.
    const fn needed(&self) -> (u32, u32) {
        let good = match self.policy {
            ProbePolicy::All => self.probes,
            ProbePolicy::Majority => self.probes / 2 + 1,
            ProbePolicy::Any => 1,
        };
        (good, self.probes - good + 1)
    }
}

/// What the time of the next round depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// It is the active, or no healthy one is: rounds come every `interval`.
    pub is_hurried: bool,
    /// When a reply to live traffic last came from it.
    pub live_reply: Option<Instant>,
}

/// When rounds are due, and which of them use a fresh connection.
#[derive(Clone, Debug, Default)]
pub struct Cadence {
    last: Option<Instant>,
    last_fresh: Option<Instant>,
    bad: u32,
}

impl Cadence {
    /// When the next round begins. The first is due at once; one that began to fail is repeated each `interval`;
    /// a backend that answers live traffic needs none but those that test the accept path.
    #[must_use]
    pub fn due(&self, settings: &HealthSettings, now: Instant, about: Circumstances, jitter: f64) -> Instant {
        let Some(last) = self.last else { return now };
        if self.bad > 0 && self.bad < settings.fall {
            return last + settings.interval;
        }
        let interval = if about.is_hurried { settings.interval } else { settings.standby_interval };
        let due = last + interval.mul_f64(1.0 + settings.jitter * (2.0 * jitter.clamp(0.0, 1.0) - 1.0));
        match about.live_reply {
            Some(replied) if about.is_hurried && self.bad == 0 => {
                let accept_due = self.last_fresh.map_or(now, |fresh| fresh + settings.accept_interval);
                due.max((replied + settings.interval).min(accept_due))
            }
            _ => due,
        }
    }

    /// A round that begins now uses a fresh connection, which tests the accept path.
    #[must_use]
    pub fn wants_fresh(&self, settings: &HealthSettings, now: Instant) -> bool {
        self.last_fresh.is_none_or(|fresh| now >= fresh + settings.accept_interval)
    }

    /// A round that began at `started_at` has ended.
    pub fn on_round(&mut self, started_at: Instant, is_fresh: bool, verdict: &ProbeVerdict) {
        self.last = Some(started_at);
        if is_fresh {
            self.last_fresh = Some(started_at);
        }
        match verdict {
            ProbeVerdict::Good { .. } => self.bad = 0,
            ProbeVerdict::Failed { .. } | ProbeVerdict::CannotServe { .. } => self.bad = self.bad.saturating_add(1),
            ProbeVerdict::Busy { .. } | ProbeVerdict::Void => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::settings::ProbeMode;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn good() -> ProbeVerdict {
        ProbeVerdict::Good { server: None, role: None, warning: None }
    }

    fn failed() -> ProbeVerdict {
        ProbeVerdict::Failed { cause: "silent".into(), refused: false }
    }

    fn settings() -> HealthSettings {
        HealthSettings {
            modes: vec![ProbeMode::Write],
            interval: MS(500),
            timeout: MS(500),
            jitter: 0.2,
            standby_interval: MS(2000),
            accept_interval: MS(10_000),
            fall: 3,
            rise: 3,
            probes: 1,
            probes_delay: MS(100),
            policy: ProbePolicy::All,
            probe_key: "handover:probe".into(),
        }
    }

    fn run(health: &mut Health, verdicts: &[ProbeVerdict]) -> Vec<Option<HealthChange>> {
        let now = Instant::now();
        verdicts.iter().map(|verdict| health.on_verdict(now, now, verdict)).collect()
    }

    #[test]
    fn falls_after_fall_and_rises_after_rise_in_a_row() {
        let mut health = Health::new(3, 2);
        assert_eq!(run(&mut health, &[good()]), [Some(HealthChange::Up)], "the first good one is enough");
        let down = Some(HealthChange::Down(HealthFault::Failed("silent".into())));
        let verdicts = [failed(), failed(), good(), failed(), failed(), ProbeVerdict::Void, failed()];
        assert_eq!(run(&mut health, &verdicts), [None, None, None, None, None, None, down]);
        let verdicts = [good(), failed(), good(), good()];
        assert_eq!(run(&mut health, &verdicts), [None, None, None, Some(HealthChange::Up)]);
    }

    #[test]
    fn an_answer_counts_as_fall_at_once() {
        let mut health = Health::new(3, 3);
        run(&mut health, &[good()]);
        let readonly = ProbeVerdict::CannotServe { reply: "READONLY x".into() };
        let down = Some(HealthChange::Down(HealthFault::Answered("READONLY x".into())));
        assert_eq!(run(&mut health, &[readonly]), [down]);
    }

    #[test]
    fn busy_is_unable_only_after_five_seconds() {
        let start = Instant::now();
        let busy = ProbeVerdict::Busy { reply: "BUSY x".into() };
        let mut health = Health::new(3, 3);
        health.on_verdict(start, start, &good());
        assert_eq!(health.on_verdict(start, start, &busy), None);
        assert!(!health.is_latest_good());
        assert_eq!(health.on_verdict(start + MS(4000), start + MS(4999), &busy), None);
        assert!(matches!(health.on_verdict(start + MS(5000), start + MS(5000), &busy), Some(HealthChange::Down(_))));
        assert_eq!(health.bad_since(), Some(start));
    }

    #[test]
    fn policies_stop_early() {
        let cases = [
            (ProbePolicy::All, vec![failed()], Some(false)),
            (ProbePolicy::All, vec![good(), good()], None),
            (ProbePolicy::All, vec![good(), good(), good()], Some(true)),
            (ProbePolicy::Majority, vec![good(), failed()], None),
            (ProbePolicy::Majority, vec![good(), good()], Some(true)),
            (ProbePolicy::Majority, vec![failed(), failed()], Some(false)),
            (ProbePolicy::Any, vec![good()], Some(true)),
            (ProbePolicy::Any, vec![failed(), failed()], None),
            (ProbePolicy::Any, vec![failed(), failed(), failed()], Some(false)),
        ];
        for (policy, verdicts, expected) in cases {
            let mut tally = Tally::new(policy, 3);
            let last = verdicts.iter().map(|verdict| tally.add(verdict.clone())).last().unwrap();
            let is_good = last.map(|verdict| matches!(verdict, ProbeVerdict::Good { .. }));
            assert_eq!(is_good, expected, "{policy:?} {verdicts:?}");
        }
        assert_eq!(Tally::new(ProbePolicy::Any, 3).add(ProbeVerdict::Void), Some(ProbeVerdict::Void));
    }

    #[test]
    fn rounds_come_by_role_and_with_jitter() {
        let (start, settings) = (Instant::now(), settings());
        let mut cadence = Cadence::default();
        let active = Circumstances { is_hurried: true, live_reply: None };
        assert_eq!(cadence.due(&settings, start, active, 0.5), start);
        cadence.on_round(start, true, &good());
        assert_eq!(cadence.due(&settings, start, active, 0.5), start + MS(500));
        assert_eq!(cadence.due(&settings, start, active, 0.0), start + MS(400));
        assert_eq!(cadence.due(&settings, start, active, 1.0), start + MS(600));
        assert_eq!(cadence.due(&settings, start, Circumstances::default(), 0.5), start + MS(2000));
    }

    #[test]
    fn a_failed_round_is_repeated_soon_until_it_is_sure() {
        let (start, settings) = (Instant::now(), settings());
        let mut cadence = Cadence::default();
        for expected in [500, 500, 2000] {
            cadence.on_round(start, false, &failed());
            assert_eq!(cadence.due(&settings, start, Circumstances::default(), 0.5), start + MS(expected));
        }
    }

    #[test]
    fn live_replies_replace_rounds_but_not_the_accept_test() {
        let (start, settings) = (Instant::now(), settings());
        let mut cadence = Cadence::default();
        cadence.on_round(start, true, &good());
        let alive = |at| Circumstances { is_hurried: true, live_reply: Some(start + MS(at)) };
        assert_eq!(cadence.due(&settings, start, alive(4000), 0.5), start + MS(4500));
        assert_eq!(cadence.due(&settings, start, alive(9900), 0.5), start + MS(10_000));
        assert!(!cadence.wants_fresh(&settings, start + MS(9999)));
        assert!(cadence.wants_fresh(&settings, start + MS(10_000)));
    }
}
