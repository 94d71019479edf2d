//! A worker as its supervisor sees it: connections, vitals, reports, acknowledgements.

use std::time::{Duration, Instant};

use handover::channels::{BackendId, Judged, Phase, Route, WorkerReport};
use handover::logic::detector::Reading;

use super::backend::Answer;
use super::world::{Act, World, index};

const MS: fn(u64) -> Duration = Duration::from_millis;
/// Between two attempts to connect, roughly.
const REDIAL: Duration = Duration::from_millis(500);
/// A connection is given up after so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub struct Link {
    pub is_open: bool,
    pub retry_at: Option<Instant>,
    pub reading: Reading,
}

#[derive(Clone, Debug)]
pub struct Worker {
    pub route: Route,
    pub links: Vec<Link>,
    /// Its thread is held up and does nothing.
    pub is_stuck: bool,
}

impl Worker {
    pub fn new(backends: usize) -> Self {
        Self { route: Route::unknown(), links: vec![Link::default(); backends], is_stuck: false }
    }

    /// The backend that it writes commands to.
    pub fn writes_to(&self) -> Option<BackendId> {
        self.route.active.filter(|_| self.route.phase == Phase::Serve && !self.is_stuck)
    }
}

impl World {
    /// A worker's clients ask something of the active that it knows.
    pub fn serve_clients(&mut self, worker: usize) {
        let Some(active) = self.workers[worker].writes_to() else { return };
        if !self.load.asks_now(&mut self.rng) {
            return;
        }
        let (at, now, commands) = (index(active), self.now, self.load.commands);
        let answer = self.backends[at].to_command(now);
        let is_slow = self.backends[at].is_busy();
        let latency = self.backends[at].latency;
        let epoch = self.workers[worker].route.epoch;
        let link = &mut self.workers[worker].links[at];
        let report = match answer {
            Answer::Served if !link.is_open && link.retry_at.is_some_and(|retry| now < retry) => return,
            Answer::Served => {
                link.reading.last_byte = Some(now);
                link.reading.waiting_since = (!latency.is_zero()).then_some(now);
                link.reading.is_slow = false;
                link.reading.successes += commands;
                if std::mem::replace(&mut link.is_open, true) {
                    return;
                }
                link.retry_at = None;
                WorkerReport::Connected { backend: active, at: now }
            }
            Answer::Refused if std::mem::replace(&mut link.is_open, false) => {
                link.reading.failures += commands.min(10);
                link.reading.waiting_since = None;
                WorkerReport::LinkLost { backend: active, epoch, at: now, cause: "closed by the server".into() }
            }
            Answer::Refused if link.retry_at.is_none_or(|at| now >= at) => {
                link.retry_at = Some(now + REDIAL);
                link.reading.failures += 1;
                WorkerReport::ConnectFailed { backend: active, at: now, cause: "refused".into() }
            }
            Answer::Refused => return,
            Answer::Silence if link.is_open => {
                link.reading.is_slow = is_slow;
                link.reading.waiting_since.get_or_insert(now);
                return;
            }
            // It cannot even connect.
            Answer::Silence => match link.retry_at {
                Some(retry) if now < retry => return,
                None => {
                    link.retry_at = Some(now + CONNECT_TIMEOUT);
                    return;
                }
                Some(_) => {
                    link.retry_at = Some(now + CONNECT_TIMEOUT);
                    link.reading.failures += 1;
                    WorkerReport::ConnectFailed { backend: active, at: now, cause: "timed out".into() }
                }
            },
            Answer::Word(_) | Answer::Busy => {
                link.is_open = true;
                link.reading.last_byte = Some(now);
                link.reading.waiting_since = None;
                link.reading.is_slow = false;
                link.reading.failures += commands.min(10);
                let word = if let Answer::Word(word) = answer { word } else { "BUSY" };
                WorkerReport::CannotServe { backend: active, at: now, word }
            }
        };
        let delay = self.up_to(MS(1));
        self.after(delay, Act::Report(report));
    }

    /// Somebody on the way closes every connection to it, while it lives.
    pub fn reset_connections(&mut self, backend: usize) {
        for worker in 0..self.workers.len() {
            let epoch = self.workers[worker].route.epoch;
            let link = &mut self.workers[worker].links[backend];
            if !std::mem::replace(&mut link.is_open, false) {
                continue;
            }
            link.reading.failures += 1;
            link.reading.waiting_since = None;
            let cause = "connection reset by peer".to_owned();
            let report = WorkerReport::LinkLost { backend: super::world::id(backend), epoch, at: self.now, cause };
            let delay = self.up_to(MS(1));
            self.after(delay, Act::Report(report));
        }
    }

    /// Its thread is held up for so long. The first thing it does then is to look at the route.
    pub fn hold_up(&mut self, worker: usize, length: Duration) {
        if !std::mem::replace(&mut self.workers[worker].is_stuck, true) {
            self.after(length, Act::Wake(worker));
        }
    }

    /// A worker looks at the route in force: a watcher may have missed those before.
    pub fn look_at_route(&mut self, worker: usize) {
        if self.workers[worker].is_stuck || self.workers[worker].route == self.route {
            return;
        }
        let route = self.route.clone();
        let before = std::mem::replace(&mut self.workers[worker].route, route.clone());
        if route.epoch > before.epoch {
            self.forget_links(worker);
            let judged = Judged { moved: 1, ..Judged::default() };
            self.report(MS(1), WorkerReport::Activated { worker, epoch: route.epoch, judged });
        }
        if route.phase == before.phase {
            return;
        }
        match route.phase {
            Phase::Cut { attempt, .. } => {
                self.forget_links(worker);
                self.report(MS(1), WorkerReport::Stopped { worker, attempt });
            }
            // What a dead backend executes never drains, nor does a very slow command.
            Phase::Hold { attempt, .. } if self.is_draining(route.active) => {
                self.report(MS(200), WorkerReport::Drained { worker, attempt });
            }
            Phase::Hold { .. } | Phase::Serve => {}
        }
    }

    fn is_draining(&mut self, active: Option<BackendId>) -> bool {
        let is_slow = self.rng.f64() < self.load.slow;
        !is_slow && active.is_some_and(|active| self.backends[index(active)].to_command(self.now) == Answer::Served)
    }

    /// Late by up to `most`.
    fn report(&mut self, most: Duration, report: WorkerReport) {
        let delay = self.up_to(most);
        self.after(delay, Act::Report(report));
    }

    fn forget_links(&mut self, worker: usize) {
        for link in &mut self.workers[worker].links {
            link.is_open = false;
            link.retry_at = None;
            link.reading.waiting_since = None;
        }
    }
}
