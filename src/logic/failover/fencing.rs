//! What is known of each server from its own words, and the fence around one that came back with less than was seen,
//! or as a second master of the same data.

use std::fmt;
use std::time::{Duration, Instant};

use super::Failover;
use super::event::Event;
use super::member::Member;
use super::news::News;
use crate::logic::replication::{Facts, Replication, Role};
use crate::logic::route::BackendId;

/// Names of histories that are remembered of one server.
const HISTORIES_MAX: usize = 4;
/// Offsets grow without end: the state file follows them this often.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Keys expire while a server is away: so many of a hundred must still be there.
const KEYS_LEFT_PERCENT: u64 = 90;

/// Why a backend is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceReason {
    /// It came back with less than was seen of it.
    StaleData,
    /// It is a master beside the active, where only one should be.
    MultipleMasters,
}

impl FenceReason {
    /// Its name in metrics, events and the state file.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::StaleData => "stale_data",
            Self::MultipleMasters => "multiple_masters",
        }
    }

    /// The reason of that name.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        [Self::StaleData, Self::MultipleMasters].into_iter().find(|reason| reason.label() == label)
    }
}

impl fmt::Display for FenceReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::StaleData => "it came back with less than was seen of it",
            Self::MultipleMasters => "it is a second master",
        })
    }
}

/// A backend that is not returned to for what it said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Why.
    pub reason: FenceReason,
    /// What was seen, in words.
    pub evidence: String,
    /// When it was first seen: `failback_hold` runs from then.
    pub since: Instant,
    /// Time does not lift it: an operator's switch does, or that it becomes a replica of the active.
    pub is_lasting: bool,
}

/// What was last seen of a server, to be held against what it says when it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Changes with every start of the process.
    pub run_id: String,
    /// The histories that it was in, the latest last; never empty.
    pub histories: Vec<String>,
    /// How far it was in the latest.
    pub offset: u64,
    /// How many keys it had.
    pub keys: Option<u64>,
    /// As a replica it had a whole copy and has kept it since.
    pub was_whole: bool,
}

/// What is kept of a server over a restart of Handover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedServer {
    /// Name of its backend.
    pub backend: String,
    /// What was last seen of it.
    pub seen: Seen,
    /// Why it is fenced, with what was seen, whether it lasts, and for how long it has been.
    pub fence: Option<(FenceReason, String, bool, Duration)>,
}

/// What one server has said of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    /// In its latest words; `None`: not since it was asked, started or demoted.
    pub(super) facts: Option<Facts>,
    pub(super) seen: Option<Seen>,
    pub(super) fence: Option<Fence>,
    /// A second master of the same data, where nobody asked for only one.
    twin: Option<BackendId>,
    saved_at: Option<Instant>,
    /// The master that the log knows it to be a replica of.
    pub(super) told_master: Option<String>,
    refused: Option<String>,
}

impl Server {
    /// Takes what it says now; returns what it has lost since it was last seen.
    fn learn(&mut self, facts: Facts) -> Option<String> {
        let returned = self.seen.as_ref().filter(|seen| seen.run_id != facts.run_id && !seen.run_id.is_empty());
        let loss = returned.filter(|_| facts.role == Role::Master).and_then(|seen| loss(seen, &facts));
        let is_same_run = self.seen.as_ref().is_some_and(|seen| seen.run_id == facts.run_id);
        let was_whole =
            is_same_run && self.seen.as_ref().is_some_and(|seen| seen.was_whole) && !self.lags_itself(&facts);
        let mut histories = self.seen.take().map_or_else(Vec::new, |seen| seen.histories);
        histories.retain(|known| *known != facts.replication_id);
        histories.push(facts.replication_id.clone());
        let excess = histories.len().saturating_sub(HISTORIES_MAX);
        histories.drain(..excess);
        self.seen = Some(Seen {
            run_id: facts.run_id.clone(),
            histories,
            offset: facts.offset,
            keys: facts.keys,
            was_whole: !facts.is_syncing && (was_whole || facts.is_whole_replica()),
        });
        self.facts = Some(facts);
        loss
    }

    /// A replica whose copy was broken off has a lower offset than it had.
    fn lags_itself(&self, facts: &Facts) -> bool {
        let seen = self.seen.as_ref();
        seen.is_some_and(|seen| seen.histories.last() == Some(&facts.replication_id) && facts.offset < seen.offset)
    }

    /// Whether a state file must know: everything but a growing offset, and that from time to time.
    fn must_save(&mut self, now: Instant, before: Option<&Seen>) -> bool {
        let is_changed = match (before, &self.seen) {
            (Some(before), Some(seen)) => {
                (&before.run_id, &before.histories, before.was_whole) != (&seen.run_id, &seen.histories, seen.was_whole)
            }
            _ => true,
        };
        let is_due = self.saved_at.is_none_or(|at| now >= at + SAVE_EVERY) && before != self.seen.as_ref();
        if is_changed || is_due {
            self.saved_at = Some(now);
        }
        is_changed || is_due
    }

    /// Whether it is, or was, in the same history as the server that says `facts`.
    pub(super) fn shares_history(&self, facts: &Facts) -> bool {
        let second = self.facts.as_ref().and_then(|own| own.second_replication_id.as_ref());
        let known = self.seen.iter().flat_map(|seen| &seen.histories);
        known.chain(second).any(|history| facts.continues(history))
    }

    pub(super) const fn is_trusted(&self) -> bool {
        self.fence.is_none()
    }

    /// What it said as long as it was something else.
    pub(super) fn forget_facts(&mut self) {
        self.facts = None;
        self.twin = None;
    }

    pub(super) fn saved(&self, backend: &str, now: Instant) -> Option<SavedServer> {
        let fence = self.fence.as_ref().map(|fence| {
            let age = now.saturating_duration_since(fence.since);
            (fence.reason, fence.evidence.clone(), fence.is_lasting, age)
        });
        Some(SavedServer { backend: backend.to_owned(), seen: self.seen.clone()?, fence })
    }

    pub(super) fn restored(saved: &SavedServer, now: Instant) -> Self {
        let fence = saved.fence.as_ref().map(|(reason, evidence, is_lasting, age)| Fence {
            reason: *reason,
            evidence: evidence.clone(),
            since: now.checked_sub(*age).unwrap_or(now),
            is_lasting: *is_lasting,
        });
        Self { seen: Some(saved.seen.clone()), fence, ..Self::default() }
    }
}

/// What a master that was started again has lost. A new history says nothing of its data, which an append-only file may
/// have kept: then the keys are counted.
fn loss(seen: &Seen, facts: &Facts) -> Option<String> {
    let history = seen.histories.last()?;
    if facts.continues(history) {
        let is_behind = facts.offset < seen.offset;
        return is_behind.then(|| format!("started again at offset {}, it was seen at {}", facts.offset, seen.offset));
    }
    let (before, keys) = (seen.keys?, facts.keys?);
    let is_less = keys < before.saturating_mul(KEYS_LEFT_PERCENT) / 100;
    is_less.then(|| format!("started again with {keys} keys, it was seen with {before}"))
}

impl Failover {
    /// A server said what it is, or would not.
    pub fn on_facts(&mut self, now: Instant, backend: BackendId, told: Result<Facts, String>) {
        let Some(index) = self.index(backend) else { return };
        match told {
            Ok(facts) => self.learn(now, index, facts),
            Err(why) => self.note_refusal(index, why),
        }
    }

    fn learn(&mut self, now: Instant, index: usize, facts: Facts) {
        let server = &mut self.members[index].server;
        server.refused = None;
        let before = server.seen.clone();
        let loss = server.learn(facts);
        self.must_persist |= server.must_save(now, before.as_ref());
        if let Some(evidence) = loss {
            self.fence(now, index, FenceReason::StaleData, evidence);
        }
        self.lift_from_replica(index);
        self.judge_masters(now, index);
        self.note_replica(index);
    }

    /// Without its words the rules of this file do not hold for it.
    fn note_refusal(&mut self, index: usize, why: String) {
        let server = &mut self.members[index].server;
        server.forget_facts();
        if server.refused.as_ref() != Some(&why) {
            server.refused = Some(why.clone());
            let is_needed = self.replication.replication == Replication::OneWay;
            self.tell(index, News::FactsUnknown { why, is_needed });
        }
    }

    fn fence(&mut self, now: Instant, index: usize, reason: FenceReason, evidence: String) {
        let is_lasting = self.replication.replication == Replication::OneWay;
        let is_active = self.active == Some(self.members[index].id);
        let is_alarm = self.replication.replication != Replication::None;
        self.tell(index, News::Fenced { reason, evidence: evidence.clone(), is_active, is_alarm });
        if !is_active {
            self.members[index].server.fence = Some(Fence { reason, evidence, since: now, is_lasting });
        }
        self.must_persist = true;
    }

    /// As a whole replica of the active it has all that the active has, and takes no writes.
    fn lift_from_replica(&mut self, index: usize) {
        let active = self.active.and_then(|id| self.index(id));
        let Some(facts) = active.and_then(|active| self.members[active].server.facts.clone()) else { return };
        let server = &self.members[index].server;
        let is_replica = server.facts.as_ref().is_some_and(Facts::is_whole_replica) && server.shares_history(&facts);
        if is_replica {
            self.lift_fence(index, "it replicates the active now");
        }
    }

    pub(super) fn lift_fence(&mut self, index: usize, why: &'static str) {
        self.members[index].server.twin = None;
        if self.members[index].server.fence.take().is_some() {
            self.must_persist = true;
            self.tell(index, News::FenceLifted { why });
        }
    }

    /// A fence that time lifts: the backend has been clean for `failback_hold` since.
    pub(super) fn lift_fences_in_time(&mut self, now: Instant) {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let is_passing = member.server.fence.as_ref().is_some_and(|fence| !fence.is_lasting);
            if is_passing && self.is_clean_at(member).is_some_and(|at| now >= at) {
                self.lift_fence(index, "clean for failback_hold");
            }
        }
    }

    /// Who fences whom: the active stays, any other master beside it is one too many.
    fn judge_masters(&mut self, now: Instant, told: usize) {
        let Some(active) = self.active.and_then(|id| self.index(id)) else { return };
        let is_known = active == told || self.members[active].health.is_healthy();
        let master = self.members[active].server.facts.clone().filter(|facts| facts.role == Role::Master && is_known);
        let Some(master) = master else { return };
        for index in (0..self.members.len()).filter(|index| *index != active) {
            let is_known = index == told || self.members[index].health.is_latest_good();
            if is_known && self.is_master(index) {
                self.judge_second_master(now, index, active, &master);
            }
        }
    }

    fn is_master(&self, index: usize) -> bool {
        self.members[index].server.facts.as_ref().is_some_and(|facts| facts.role == Role::Master)
    }

    fn judge_second_master(&mut self, now: Instant, index: usize, active: usize, master: &Facts) {
        let is_twin = self.members[index].server.shares_history(master)
            || self.members[index]
                .server
                .facts
                .as_ref()
                .is_some_and(|own| self.members[active].server.shares_history(own));
        let name = &self.members[active].name;
        let evidence = if is_twin {
            format!("a master of the same data as {name}, which is active")
        } else {
            format!("a master beside {name}, which is active, in a group that should have one")
        };
        let active = self.members[active].id;
        let server = &mut self.members[index].server;
        let is_told = server.fence.as_ref().is_some_and(|fence| fence.reason == FenceReason::MultipleMasters);
        match self.replication.replication {
            Replication::OneWay if !is_told => {
                let before = server.fence.take().map_or_else(String::new, |fence| format!("; {}", fence.evidence));
                self.fence(now, index, FenceReason::MultipleMasters, format!("{evidence}{before}"));
            }
            Replication::None if is_twin && server.twin != Some(active) => {
                server.twin = Some(active);
                self.tell(index, News::Twin { evidence });
            }
            _ => {}
        }
    }

    /// One line when a replica is found: it cannot take over by itself.
    fn note_replica(&mut self, index: usize) {
        let master = self.master_of(index).map(|master| self.members[master].name.clone());
        let server = &self.members[index].server;
        if server.facts.as_ref().is_none_or(|facts| facts.role == Role::Master) {
            self.members[index].server.told_master = None;
            return;
        }
        let Some(master) = master.filter(|master| server.told_master.as_ref() != Some(master)) else { return };
        self.members[index].server.told_master = Some(master.clone());
        let promotes = self.replication.promotes;
        self.tell(index, News::Replica { of: master, promotes });
    }

    /// The other backend that this one copies from: the one whose history it is in.
    pub(super) fn master_of(&self, index: usize) -> Option<usize> {
        let facts = self.members[index].server.facts.as_ref().filter(|facts| facts.role == Role::Replica)?;
        (0..self.members.len()).find(|other| {
            let other_server = &self.members[*other].server;
            let was_replica = other_server.facts.as_ref().is_some_and(|other| other.role == Role::Replica);
            *other != index && !was_replica && other_server.shares_history(facts)
        })
    }

    pub(super) fn tell(&mut self, index: usize, news: News) {
        self.log([Event::Replication { backend: self.members[index].id, news }]);
    }

    /// What a backend is in its replication, in words; `None`: a master, or unknown.
    #[must_use]
    pub fn standing(&self, backend: BackendId) -> Option<String> {
        let index = self.index(backend)?;
        let facts = self.members[index].server.facts.as_ref().filter(|facts| facts.role == Role::Replica)?;
        let master = self.master_of(index);
        let of = master.map(|master| self.members[master].name.as_str()).or(facts.replicates.as_deref());
        let link = match (facts.is_syncing, facts.is_linked) {
            (true, _) => "still copying",
            (false, true) => "link up",
            (false, false) => "link down",
        };
        let master_offset =
            master.and_then(|master| self.members[master].server.facts.as_ref()).map(|facts| facts.offset);
        let behind =
            master_offset.map_or_else(String::new, |at| format!(", {} bytes behind", at.saturating_sub(facts.offset)));
        let can = if self.replication.promotes {
            "it is promoted when it is to take over (failover.promote)"
        } else {
            "it cannot take over until somebody promotes it (failover.promote is \"never\")"
        };
        Some(format!("a replica of {} ({link}{behind}): {can}", of.unwrap_or("another server")))
    }
}

pub(super) fn restore_servers(members: &mut [Member], saved: &[SavedServer], now: Instant) {
    for server in saved {
        if let Some(member) = members.iter_mut().find(|member| member.name == server.backend) {
            member.server = Server::restored(server, now);
        }
    }
}
