//! One client of the load: where it is in its work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::connection::{Connection, unexpected};
use crate::load::{Group, Rhythm};
use crate::work::{Step, Work};

/// What reading brought.
pub enum Progress {
    /// The reply isn't all here.
    Waiting,
    /// It is; so many commands are answered.
    Done { commands: u32 },
}

/// A client with at most one step on its way.
pub struct Client {
    pub connection: Connection,
    /// The place of its group.
    pub group: usize,
    /// What the latency of the step on its way counts from.
    pub due: Instant,
    /// Whether the socket takes no more.
    pub is_blocked: bool,
    work: Arc<Work>,
    rhythm: Rhythm,
    is_busy: bool,
    /// Moments that passed while a step was on its way.
    missed: VecDeque<Instant>,
    step: usize,
    written: usize,
    received: usize,
}

impl Client {
    /// Connected; client `number` of its group begins elsewhere in the work than its neighbours.
    pub fn open(group: &Group, place: usize, number: usize, work: Arc<Work>) -> Result<Self, String> {
        let connection = Connection::open(group.address, group.tls.as_ref(), work.opening.as_ref())?;
        let cycles = (work.steps.len() / work.cycle.max(1)).max(1);
        Ok(Self {
            connection,
            group: place,
            due: Instant::now(),
            is_blocked: false,
            rhythm: group.rhythm,
            is_busy: false,
            missed: VecDeque::new(),
            step: number * 31 % cycles * work.cycle,
            work,
            written: 0,
            received: 0,
        })
    }

    /// Whether it begins by itself.
    pub fn sends_at_once(&self) -> bool {
        !matches!(self.rhythm, Rhythm::Paced(_)) && !self.work.steps.is_empty()
    }

    /// A moment has come: whether the step may go out; else it is remembered.
    pub fn falls_due(&mut self, due: Instant) -> bool {
        if self.is_busy {
            self.missed.push_back(due);
        }
        !self.is_busy
    }

    /// After a reply: what the next step counts from, if one is to go out now.
    pub fn next_due(&mut self, now: Instant) -> Option<Instant> {
        match self.rhythm {
            Rhythm::Closed => Some(now),
            Rhythm::Paced(_) => self.missed.pop_front(),
            Rhythm::Once => None,
        }
    }

    /// A step is on its way from here on; [`Client::write`] sends it.
    pub fn begin(&mut self, due: Instant) {
        (self.due, self.is_busy, self.written, self.received) = (due, true, 0, 0);
    }

    /// Writes what is left of the request, as far as the socket takes it.
    pub fn write(&mut self) -> Result<(), String> {
        let request = &self.work.steps[self.step].request;
        loop {
            let was_flushing = self.connection.is_flushing();
            if self.written == request.len() && !was_flushing {
                self.is_blocked = false;
                return Ok(());
            }
            let taken = self.connection.write(&request[self.written..]).map_err(|error| format!("write: {error}"))?;
            self.written += taken;
            let went_on = taken > 0 || was_flushing && !self.connection.is_flushing();
            if !went_on {
                self.is_blocked = true;
                return Ok(());
            }
        }
    }

    /// Reads and compares what is there, but nothing past the end of the reply.
    pub fn read(&mut self, scratch: &mut [u8]) -> Result<Progress, String> {
        while let Some(length) = self.connection.read(scratch).map_err(|error| format!("read: {error}"))? {
            if self.work.steps.is_empty() {
                continue;
            }
            let Step { reply, commands, .. } = &self.work.steps[self.step];
            let expected = &reply[self.received..];
            if !self.is_busy || expected.get(..length) != Some(&scratch[..length]) {
                return Err(unexpected(&scratch[..length], expected));
            }
            self.received += length;
            if self.received == reply.len() {
                let commands = *commands;
                self.is_busy = false;
                self.step = (self.step + 1) % self.work.steps.len();
                return Ok(Progress::Done { commands });
            }
            if !self.connection.is_tls() && length < scratch.len() {
                break;
            }
        }
        Ok(Progress::Waiting)
    }
}
