//! `CLIENT REPLY`: replies that a client does not want are taken from the backend and dropped.
//!
//! The mode changes only while nothing is due, so that everything a session has in flight shares one mode: neither
//! the ring of a connection nor the judgement at a fault has to know of it.

use std::time::Instant;

use super::requests::{Request, Step};
use super::session::Wait;
use super::{Multiplexer, SessionKey};
use crate::command::refusal::Refusal;
use crate::resp::arguments::Arguments;
use crate::resp::encode;

/// Which replies a client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None, but what is pushed: messages and the confirmations of subscriptions.
    Off,
    /// None for its next command.
    SkipNext,
    /// None for the command that is under way, and nothing else is looked at before it was answered.
    Skipping,
}

impl ReplyMode {
    /// What is due now goes nowhere.
    #[must_use]
    pub fn is_muted(self) -> bool {
        self != Self::On
    }

    /// One command alone is skipped, so that it cannot travel in one run with those behind it.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(self, Self::SkipNext | Self::Skipping)
    }
}

impl Multiplexer {
    /// CLIENT REPLY ON, OFF or SKIP.
    pub(super) fn take_client_reply(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let mut arguments = Arguments::new(request.frame);
        if arguments.remaining() != 3 {
            self.refuse(key, &Refusal::WrongArity("client|reply".to_owned()), now);
            return Step::Done { bytes: request.bytes };
        }
        let word = arguments.nth(2).unwrap_or_default();
        let is = |known: &[u8]| word.eq_ignore_ascii_case(known);
        let mode = match () {
            () if is(b"on") => ReplyMode::On,
            () if is(b"off") => ReplyMode::Off,
            () if is(b"skip") => ReplyMode::SkipNext,
            () => {
                self.refuse(key, &Refusal::Redis("ERR syntax error"), now);
                return Step::Done { bytes: request.bytes };
            }
        };
        let Some(session) = self.sessions.get_mut(key) else { return Step::Wait };
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return Step::Wait;
        }
        if !(mode == ReplyMode::SkipNext && session.reply_mode == ReplyMode::Off) {
            session.reply_mode = mode;
        }
        self.answer(key, |out| encode::simple(out, "OK"), now);
        Step::Done { bytes: request.bytes }
    }

    /// One request of a session was looked at: if its reply is skipped, nothing else is looked at before that has come.
    pub(super) fn end_skipped(&mut self, key: SessionKey, step: Step, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match step {
            _ if session.reply_mode != ReplyMode::Skipping => {}
            Step::Wait => session.reply_mode = ReplyMode::SkipNext,
            Step::Done { .. } if session.wait.is_some() => {}
            Step::Done { .. } => {
                self.finish_skipped(key, now);
            }
        }
    }

    /// A request was refused without having been looked at, which is all that is skipped.
    pub(super) fn end_refused(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.reply_mode.is_single()) {
            session.reply_mode = ReplyMode::On;
        }
    }

    /// What was pending is refused: with it the command whose reply is skipped, and what stands behind it is another.
    pub(super) fn end_refused_skipped(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key)
            && session.reply_mode == ReplyMode::Skipping
            && session.due == 0
        {
            session.reply_mode = ReplyMode::On;
        }
    }

    /// False: the reply that is skipped is still due, and the session waits for it.
    pub(super) fn finish_skipped(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.reply_mode == ReplyMode::Skipping)
        else {
            return true;
        };
        if session.due > 0 {
            self.wait(key, Wait::Due, now);
            return false;
        }
        session.reply_mode = ReplyMode::On;
        true
    }
}

impl super::Session {
    /// An empty request came, which a server takes for the one whose reply is skipped.
    pub(super) fn skip_nothing(&mut self) {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
    }

    /// The request whose reply is skipped is looked at once more.
    pub(super) fn skip_again(&mut self) {
        if self.reply_mode == ReplyMode::Skipping {
            self.reply_mode = ReplyMode::SkipNext;
        }
    }

    /// A request is looked at: is it the one whose reply is skipped?
    pub(super) fn begin_skipped(&mut self) {
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::Skipping;
        }
    }
}
