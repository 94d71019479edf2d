//! How long requests wait for the first byte of their replies, from the moment in which the kernel has them.
//!
//! There is one mark for each write and one sample for each run, so that a command costs nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Link, Run, RunKind};

/// Positions count the bytes of requests since the connection was opened.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// Where the retained bytes begin.
    start: u64,
    /// What was written until when, in order.
    written: VecDeque<(u64, Instant)>,
    /// Where requests begin that may legally run long.
    slow: VecDeque<u64>,
    /// When the first byte of a reply came whose run is not answered yet.
    begun_at: Option<Instant>,
}

/// What a run waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// From the write of its last byte to the first byte of its reply.
    pub time: Duration,
    /// Something in it may legally run long.
    pub is_slow: bool,
}

impl Timing {
    pub(super) fn on_written(&mut self, written: usize, now: Instant) {
        // Whoever answers without asking for the time leaves marks behind.
        while self.written.front().is_some_and(|(end, _)| *end <= self.start) {
            self.written.pop_front();
        }
        self.written.push_back((self.start + written as u64, now));
    }

    /// So many bytes at the front are no longer kept.
    pub(super) const fn on_released(&mut self, bytes: usize) {
        self.start += bytes as u64;
    }

    /// A reply has begun and is not whole.
    pub(super) const fn on_begun(&mut self, now: Instant) {
        if self.begun_at.is_none() {
            self.begun_at = Some(now);
        }
    }

    /// The run that ended where the retained bytes begin now was answered.
    fn settle(&mut self, now: Instant) -> Option<Waited> {
        let begun_at = self.begun_at.take().unwrap_or(now);
        let mut is_slow = false;
        while self.slow.front().is_some_and(|start| *start < self.start) {
            self.slow.pop_front();
            is_slow = true;
        }
        while self.written.front().is_some_and(|(end, _)| *end < self.start) {
            self.written.pop_front();
        }
        let (end, written_at) = *self.written.front()?;
        if end == self.start {
            self.written.pop_front();
        }
        Some(Waited { time: begun_at.saturating_duration_since(written_at), is_slow })
    }
}

impl Link {
    /// What is put on the connection next may legally run long.
    pub fn expect_long(&mut self) {
        let start = self.timing.start + self.retained.len() as u64;
        self.timing.slow.push_back(start);
    }

    /// What the run waited that was just answered; `None`: that says nothing of the backend.
    pub fn waited(&mut self, run: &Run, now: Instant) -> Option<Waited> {
        let waited = self.timing.settle(now)?;
        let is_request = !run.kind.may_block() && !run.is_streamed() && !matches!(run.kind, RunKind::Local(_));
        (is_request && self.paused.is_none()).then_some(waited)
    }

    /// What waits is not the backend's doing: its client does not read.
    pub fn forget_times(&mut self) {
        self.timing.written.clear();
        self.timing.begun_at = None;
    }
}
