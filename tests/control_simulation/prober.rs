//! A prober as `src/control/prober.rs` has it, over the ways of the simulated backends: its cadence and its tally are
//! the real ones.

use std::time::{Duration, Instant};

use handover::channels::{ProbeReport, ProbeVerdict};
use handover::logic::health::{Cadence, Circumstances, Tally};

use super::backend::Answer;
use super::world::{Act, World, id, index};

const MS: fn(u64) -> Duration = Duration::from_millis;
/// TCP sends a lost packet again after so long, then after twice that.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Packets of a probe on a connection of its own, and on one that is open.
const PACKETS: (u32, u32) = (6, 2);

/// The round that is out.
#[derive(Clone, Debug)]
pub struct Round {
    /// A round that was broken off has no report.
    pub number: u64,
    pub immediate: bool,
    pub started_at: Instant,
    pub deadline: Instant,
    is_fresh: bool,
    tally: Tally,
}

#[derive(Clone, Debug)]
pub struct Prober {
    pub cadence: Cadence,
    pub jitter: f64,
    pub round: Option<Round>,
    /// A question came while the answer to another was awaited.
    pub is_asked: bool,
}

impl Prober {
    pub fn new() -> Self {
        Self { cadence: Cadence::default(), jitter: 0.5, round: None, is_asked: false }
    }
}

fn failed(cause: &str, refused: bool) -> ProbeVerdict {
    ProbeVerdict::Failed { cause: cause.to_owned(), refused }
}

impl World {
    pub fn probe_if_due(&mut self, backend: usize) {
        let is_active = self.route.active == Some(id(backend));
        let is_hurried = is_active || self.route.availability != handover::channels::Availability::Healthy;
        let about = Circumstances { is_hurried, live_reply: self.last_byte(backend) };
        let prober = &self.probers[backend];
        let due = prober.cadence.due(&self.settings.health, self.now, about, prober.jitter);
        if prober.round.is_none() && self.now >= due {
            self.begin_round(backend, false);
        }
    }

    /// A question of the supervisor breaks off a due round, and waits for an immediate one.
    pub fn ask(&mut self, backend: usize) {
        match &self.probers[backend].round {
            Some(round) if round.immediate => self.probers[backend].is_asked = true,
            _ => self.begin_round(backend, true),
        }
    }

    fn begin_round(&mut self, backend: usize, immediate: bool) {
        self.number += 1;
        let health = &self.settings.health;
        let is_fresh = immediate || self.probers[backend].cadence.wants_fresh(health, self.now);
        let tally = Tally::new(health.policy, if immediate { 1 } else { health.probes });
        let (number, now) = (self.number, self.now);
        self.probers[backend].round =
            Some(Round { number, immediate, started_at: now, deadline: now, is_fresh, tally });
        self.send_probe(backend, number);
    }

    /// One probe of the round goes out.
    pub fn send_probe(&mut self, backend: usize, number: u64) {
        let is_lost = self.rng.f64() < self.chance_loss;
        self.faults += usize::from(is_lost);
        let (timeout, now) = (self.settings.health.timeout, self.now);
        let is_fresh = self.probers[backend].round.as_ref().is_some_and(|round| round.is_fresh);
        let took = if is_lost { timeout } else { self.takes(backend, is_fresh) };
        let Some(round) = self.probers[backend].round.as_mut().filter(|round| round.number == number) else { return };
        round.deadline = now + timeout;
        let act = if took < timeout { Act::Answered(backend, number) } else { Act::TimedOut(backend, number) };
        self.after(took.min(timeout), act);
    }

    fn takes(&mut self, backend: usize, is_fresh: bool) -> Duration {
        let (latency, loss) = (self.backends[backend].latency, self.backends[backend].loss);
        let packets = if is_fresh { PACKETS.0 } else { PACKETS.1 };
        let mut took = self.up_to(MS(3)) + latency * (packets / 2);
        for _ in 0..packets {
            let mut wait = RETRANSMIT;
            while loss > 0.0 && self.rng.f64() < loss && took < self.settings.health.timeout {
                took += wait;
                wait *= 2;
                self.faults += 1;
            }
        }
        took
    }

    /// The moment at which an answer comes, if one does.
    pub fn on_answer(&mut self, backend: usize, number: u64) {
        let Some(round) = self.probers[backend].round.as_ref().filter(|round| round.number == number) else { return };
        let deadline = round.deadline;
        let verdict = match self.backends[backend].to_probe(self.now) {
            Answer::Silence => return self.at(deadline, Act::TimedOut(backend, number)),
            // The answer was there in time, and we were late to read it.
            _ if self.now > deadline => ProbeVerdict::Void,
            Answer::Served => ProbeVerdict::Good { server: None, role: None, warning: None },
            Answer::Refused => failed("refused", true),
            Answer::Word(word) => ProbeVerdict::CannotServe { reply: format!("{word} no") },
            Answer::Busy => ProbeVerdict::Busy { reply: "BUSY a script runs".into() },
        };
        self.end_probe(backend, number, verdict);
    }

    pub fn on_timeout(&mut self, backend: usize, number: u64) {
        let Some(round) = self.probers[backend].round.as_ref().filter(|round| round.number == number) else { return };
        let late = self.now - round.deadline;
        let is_void = late > self.settings.health.timeout / 2;
        self.end_probe(backend, number, if is_void { ProbeVerdict::Void } else { failed("no reply", false) });
    }

    fn end_probe(&mut self, backend: usize, number: u64, verdict: ProbeVerdict) {
        let Some(round) = &mut self.probers[backend].round else { return };
        let Some(verdict) = round.tally.add(verdict) else {
            return self.after(self.settings.health.probes_delay, Act::Probe(backend, number));
        };
        let (started_at, immediate, is_fresh) = (round.started_at, round.immediate, round.is_fresh);
        let jitter = self.rng.f64();
        let prober = &mut self.probers[backend];
        prober.round = None;
        prober.jitter = jitter;
        prober.cadence.on_round(started_at, is_fresh, &verdict);
        let is_asked = std::mem::take(&mut prober.is_asked);
        let report = ProbeReport { backend: id(backend), started_at, ended_at: self.now, verdict, immediate };
        self.look();
        self.rules.on_probe(&report, self.last_byte(backend), self.backends[backend].is_busy());
        self.machine.on_probe(self.now, &report);
        self.carry_out();
        if is_asked {
            self.begin_round(backend, true);
        }
    }

    /// When a byte last came from it to any worker.
    fn last_byte(&self, backend: usize) -> Option<Instant> {
        self.workers.iter().filter_map(|worker| worker.links[backend].reading.last_byte).max()
    }

    /// The numbers of those that the machine calls able.
    pub fn healthy(&self) -> Vec<usize> {
        self.machine.members().filter(|member| member.is_healthy).map(|member| index(member.id)).collect()
    }
}
