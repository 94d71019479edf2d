//! Each second's counts, from what the workers count anyway: commands that failed, and outcomes while somebody listens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::EventHub;
use crate::channels::{BackendStatus, GroupStatus};
use crate::logic::record::{BackendOutcomes, Failed, Happening, Outcomes, Percentiles};
use crate::logic::route::BackendId;
use crate::telemetry::counters::{BackendCounters, Class, Connect, DURATION_BOUNDS_US, Fate, Outcome, WorkerCounters};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks at the counters of all groups; to be run.
#[derive(Debug)]
pub struct Ledger {
    /// Each group's state.
    pub statuses: Vec<watch::Receiver<GroupStatus>>,
    /// Each group's counters, one for each worker.
    pub counters: Vec<Vec<Arc<WorkerCounters>>>,
    /// Takes commands that failed.
    pub events: EventHub,
    /// Takes outcomes, while somebody reads it.
    pub outcomes: EventHub,
}

impl Ledger {
    /// Looks every second until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut failed: Vec<Failed> = self.counters.iter().map(|workers| failed(workers)).collect();
        let mut totals: Vec<Option<Totals>> = self.counters.iter().map(|_| None).collect();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            for (index, workers) in self.counters.iter().enumerate() {
                self.tell_failed(index, workers, &mut failed[index]);
                self.tell_outcomes(index, workers, &mut totals[index]);
            }
        }
    }

    fn tell_failed(&self, index: usize, workers: &[Arc<WorkerCounters>], last: &mut Failed) {
        let now = failed(workers);
        let since = difference(&now, last);
        *last = now;
        if since.total() > 0 {
            let (name, epoch) = {
                let status = self.statuses[index].borrow();
                (status.name.clone(), status.route.epoch)
            };
            self.events.tell(Some(&name), Some(epoch), Happening::commands_failed(since));
        }
    }

    fn tell_outcomes(&self, index: usize, workers: &[Arc<WorkerCounters>], last: &mut Option<Totals>) {
        if !self.outcomes.is_read() {
            *last = None;
            return;
        }
        let status = self.statuses[index].borrow().clone();
        let now = Totals::of(workers, &status);
        if let Some(last) = last {
            let happening = Happening::outcomes(now.since(last));
            self.outcomes.tell(Some(&status.name), Some(status.route.epoch), happening);
        }
        *last = Some(now);
    }
}

/// Counts since the start.
#[derive(Debug)]
struct Totals {
    at: Instant,
    ok: u64,
    errors: u64,
    failed: Failed,
    in_flight: u64,
    durations: [u64; DURATION_BOUNDS_US.len() + 1],
    backends: Vec<(BackendId, BackendOutcomes)>,
}

impl Totals {
    fn of(workers: &[Arc<WorkerCounters>], status: &GroupStatus) -> Self {
        let sum = |of: &dyn Fn(&WorkerCounters) -> u64| workers.iter().map(|worker| of(worker)).sum::<u64>();
        let commands = |outcome: Outcome| {
            [Class::Shared, Class::Pinned]
                .map(|class| sum(&|worker| worker.commands(class, outcome).get()))
                .iter()
                .sum()
        };
        let mut durations = [0; DURATION_BOUNDS_US.len() + 1];
        for worker in workers {
            for class in [Class::Shared, Class::Pinned] {
                for (total, bucket) in durations.iter_mut().zip(worker.durations(class).buckets()) {
                    *total += bucket;
                }
            }
        }
        let backend = |backend: &BackendStatus| {
            let counters: Vec<_> = workers.iter().map(|worker| worker.backend(backend.id)).collect();
            let sum = |of: &dyn Fn(&BackendCounters) -> u64| counters.iter().map(|counters| of(counters)).sum::<u64>();
            let outcomes = BackendOutcomes {
                backend: backend.name.clone(),
                active: status.route.active == Some(backend.id),
                replies: sum(&|counters| counters.replies.get()),
                failures: sum(&|counters| counters.failures.get()),
                connections_lost: sum(&|counters| counters.lost.get()),
                connects: sum(&|counters| counters.connects(Connect::Ok).get()),
                connects_failed: sum(&|counters| counters.connects(Connect::Failed).get()),
                connections: sum(&|counters| counters.connections.get()),
            };
            (backend.id, outcomes)
        };
        Self {
            at: Instant::now(),
            ok: commands(Outcome::Ok),
            errors: commands(Outcome::Error),
            failed: failed(workers),
            in_flight: sum(&|worker| worker.inflight.get()),
            durations,
            backends: status.backends.iter().map(backend).collect(),
        }
    }

    /// What the time between brought.
    fn since(&self, last: &Self) -> Outcomes {
        let backend = |(id, now): &(BackendId, BackendOutcomes)| {
            let before = last.backends.iter().find(|(known, _)| known == id).map(|(_, before)| before.clone());
            let before = before.unwrap_or_default();
            BackendOutcomes {
                backend: now.backend.clone(),
                active: now.active,
                replies: now.replies.saturating_sub(before.replies),
                failures: now.failures.saturating_sub(before.failures),
                connections_lost: now.connections_lost.saturating_sub(before.connections_lost),
                connects: now.connects.saturating_sub(before.connects),
                connects_failed: now.connects_failed.saturating_sub(before.connects_failed),
                connections: now.connections,
            }
        };
        let buckets: Vec<u64> =
            self.durations.iter().zip(&last.durations).map(|(now, before)| now.saturating_sub(*before)).collect();
        Outcomes {
            period_ms: u64::try_from(self.at.saturating_duration_since(last.at).as_millis()).unwrap_or(u64::MAX),
            ok: self.ok.saturating_sub(last.ok),
            errors: self.errors.saturating_sub(last.errors),
            failed: difference(&self.failed, &last.failed),
            in_flight: self.in_flight,
            latency_us: percentiles(&buckets),
            backends: self.backends.iter().map(backend).collect(),
        }
    }
}

/// The bounds of the buckets that the percentiles fall into; the last bucket has twice the last bound.
fn percentiles(buckets: &[u64]) -> Option<Percentiles> {
    let total: u64 = buckets.iter().sum();
    let at = |share: f64| {
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        let index = buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let last = DURATION_BOUNDS_US[DURATION_BOUNDS_US.len() - 1];
        index.and_then(|index| DURATION_BOUNDS_US.get(index).copied()).unwrap_or(2 * last)
    };
    (total > 0).then(|| Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) })
}

fn failed(workers: &[Arc<WorkerCounters>]) -> Failed {
    let sum = |fate: Fate| workers.iter().map(|worker| worker.fates(fate).get()).sum();
    Failed {
        uncertain: sum(Fate::Uncertain),
        not_applied: sum(Fate::NotApplied),
        aborted: sum(Fate::Aborted),
        gone: sum(Fate::Gone),
        refused: workers.iter().map(|worker| worker.commands(Class::Refused, Outcome::Error).get()).sum(),
    }
}

fn difference(now: &Failed, last: &Failed) -> Failed {
    Failed {
        uncertain: now.uncertain.saturating_sub(last.uncertain),
        not_applied: now.not_applied.saturating_sub(last.not_applied),
        aborted: now.aborted.saturating_sub(last.aborted),
        gone: now.gone.saturating_sub(last.gone),
        refused: now.refused.saturating_sub(last.refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bounds_of_buckets() {
        let mut buckets = [0; DURATION_BOUNDS_US.len() + 1];
        assert_eq!(percentiles(&buckets), None);
        (buckets[2], buckets[4], buckets[17]) = (94, 5, 1);
        assert_eq!(percentiles(&buckets), Some(Percentiles { p50: 250, p95: 1_000, p99: 1_000 }));
        buckets[17] = 2;
        assert_eq!(percentiles(&buckets).map(|found| found.p99), Some(20_000_000));
    }
}
