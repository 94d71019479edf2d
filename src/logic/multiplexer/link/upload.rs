//! A request whose bytes go to a connection as they come: what was written of it is gone.

use std::time::Instant;

use bytes::Bytes;

use super::{Link, Role, Run, RunKind};
use crate::logic::multiplexer::SessionKey;

/// How far a request is that is passed on as it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    /// It is queued in a transaction.
    pub is_queued: bool,
    /// Its last byte has come from the client.
    pub is_whole: bool,
    /// Its first bytes were written and are gone, so that it cannot be sent again.
    pub is_begun: bool,
}

/// A streamed request taken out of a connection that is gone.
#[derive(Debug)]
pub struct TakenUpload {
    /// Whose it is.
    pub session: Option<SessionKey>,
    /// How far it is.
    pub streamed: Streamed,
    /// What is still held of it.
    pub bytes: Bytes,
    /// Its last byte was handed to the kernel.
    pub is_sent: bool,
}

impl Run {
    /// More of it will come.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.kind, RunKind::Streamed(Streamed { is_whole: false, .. }))
    }

    pub(super) const fn is_streamed(&self) -> bool {
        matches!(self.kind, RunKind::Streamed(_))
    }
}

impl Link {
    /// A request is arriving on it.
    #[must_use]
    pub const fn is_uploading(&self) -> bool {
        self.behind.is_some()
    }

    /// The client whose request is arriving on it.
    #[must_use]
    pub const fn uploader(&self) -> Option<SessionKey> {
        match self.role {
            Role::Pin(owner) if self.is_uploading() => owner,
            _ => None,
        }
    }

    /// Begins a request whose bytes are to come. Whatever else is put on the connection meanwhile goes behind it.
    pub fn begin_upload(&mut self, session: SessionKey, is_queued: bool, now: Instant) {
        self.commands_unanswered += 1;
        self.behind = Some(Vec::new());
        self.ring.push_back(Run {
            session: Some(session),
            commands: 1,
            answered: 0,
            dropped: 0,
            bytes: 0,
            attempts: 0,
            at: now,
            kind: RunKind::Streamed(Streamed { is_queued, ..Streamed::default() }),
        });
    }

    /// More of it came.
    pub fn pass_upload(&mut self, bytes: &[u8]) {
        if let Some(run) = self.ring.iter_mut().rfind(|run| run.is_open()) {
            run.bytes += bytes.len();
            self.retained.push(bytes);
        }
    }

    /// All of it has come.
    pub fn finish_upload(&mut self, now: Instant) {
        if let Some(run) = self.ring.iter_mut().rfind(|run| run.is_open())
            && let RunKind::Streamed(streamed) = &mut run.kind
        {
            streamed.is_whole = true;
            run.at = now;
        }
        self.push_behind();
    }

    fn push_behind(&mut self) {
        for (run, bytes) in self.behind.take().into_iter().flatten() {
            self.push(run, &bytes);
        }
    }

    /// Drops what was written of a streamed request at the front.
    pub(super) fn release_written(&mut self) {
        let Some(Run { kind: RunKind::Streamed(streamed), bytes, .. }) = self.ring.front_mut() else { return };
        let released = self.written.min(*bytes);
        streamed.is_begun |= released > 0;
        *bytes -= released;
        self.written -= released;
        self.retained.consume(released);
        self.timing.on_released(released);
    }

    /// Takes the streamed request out, of which there is at most one.
    pub fn take_upload(&mut self) -> Option<TakenUpload> {
        let index = self.ring.iter().position(Run::is_streamed)?;
        let offset = self.ring.iter().take(index).map(|run| run.bytes).sum();
        let run = self.ring.remove(index)?;
        let RunKind::Streamed(streamed) = run.kind else { return None };
        let mut all = self.retained.take();
        let mut rest = all.split_off(offset);
        let bytes = rest.split_to(run.bytes).freeze();
        all.unsplit(rest);
        self.retained.put(all);
        let written = self.written.saturating_sub(offset).min(run.bytes);
        self.written -= written;
        self.commands_unanswered -= 1;
        self.push_behind();
        Some(TakenUpload {
            session: run.session,
            streamed,
            is_sent: streamed.is_whole && written == bytes.len(),
            bytes,
        })
    }
}
