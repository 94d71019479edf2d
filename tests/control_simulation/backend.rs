//! What is true of a backend and of the ways to it, whatever anybody believes.

use std::time::{Duration, Instant};

/// A server busy with a script says so after so long; until then it is silent.
const BUSY_REPLY_AFTER: Duration = Duration::from_secs(5);

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    /// Nobody listens.
    Dead,
    /// The process is stopped: the kernel accepts, nobody answers.
    Hung,
    /// Somebody made it a replica.
    ReadOnly,
    /// It has been started, with the data that its disk had, and reads them.
    Loading,
    /// A script runs.
    Busy,
}

/// One of the two ways to it: for commands, for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    RequestsLost,
    RepliesLost,
}

/// What comes of asking it something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Served,
    Refused,
    Silence,
    Word(&'static str),
    Busy,
}

#[derive(Clone, Debug)]
pub struct Backend {
    /// As the file has it.
    pub weight: f64,
    pub state: State,
    pub data: Way,
    pub probes: Way,
    /// On top of what is usual, for each round trip.
    pub latency: Duration,
    /// Share of packets that are lost and sent again.
    pub loss: f64,
    /// Since when all of this has been so.
    pub since: Instant,
}

impl Backend {
    pub const fn new(weight: f64, now: Instant) -> Self {
        Self {
            weight,
            state: State::Up,
            data: Way::Open,
            probes: Way::Open,
            latency: Duration::ZERO,
            loss: 0.0,
            since: now,
        }
    }

    /// What a command gets.
    pub fn to_command(&self, now: Instant) -> Answer {
        self.answer(self.data, now)
    }

    /// What a probe gets.
    pub fn to_probe(&self, now: Instant) -> Answer {
        self.answer(self.probes, now)
    }

    fn answer(&self, way: Way, now: Instant) -> Answer {
        if way != Way::Open {
            return Answer::Silence;
        }
        match self.state {
            State::Up => Answer::Served,
            State::Dead => Answer::Refused,
            State::Hung => Answer::Silence,
            State::ReadOnly => Answer::Word("READONLY"),
            State::Loading => Answer::Word("LOADING"),
            State::Busy if now < self.since + BUSY_REPLY_AFTER => Answer::Silence,
            State::Busy => Answer::Busy,
        }
    }

    pub fn is_busy(&self) -> bool {
        self.state == State::Busy
    }

    /// It serves whoever asks, as quickly as usual.
    pub fn is_good(&self) -> bool {
        let is_open = self.data == Way::Open && self.probes == Way::Open;
        self.state == State::Up && is_open && self.latency.is_zero() && self.loss <= 0.02
    }

    /// Neither commands nor probes get anything from it.
    pub fn is_bad_for_all(&self) -> bool {
        let is_state_bad = matches!(self.state, State::Dead | State::Hung | State::ReadOnly | State::Loading);
        is_state_bad || (self.data != Way::Open && self.probes != Way::Open)
    }

    /// Commands get nothing, whatever probes get.
    pub fn is_bad_for_commands(&self) -> bool {
        self.is_bad_for_all() || self.data != Way::Open
    }

    /// Probes get nothing, whatever commands get.
    pub fn is_bad_for_probes(&self) -> bool {
        self.is_bad_for_all() || self.probes != Way::Open
    }
}
