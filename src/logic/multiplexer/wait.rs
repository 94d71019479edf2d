//! WAIT and WAITAOF: how many replicas, or files, have what this client wrote. True only on the connection that wrote
//! last, so a PUBLISH goes before it; and only while no write of the client was made somewhere else.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::link::RunKind;
use super::requests::{Request, Step};
use super::session::Wait;
use super::{LinkKey, Multiplexer, SessionKey};
use crate::command::refusal::Refusal;
use crate::resp::encode;

/// Nobody listens there; patterns that fit it are not told of it.
const CHANNEL: &[u8] = b"handover:wait";
/// What [`Session::continuity`](super::Session) is after its own connection was lost.
pub(super) const BROKEN_CONTINUITY: u64 = u64::MAX;

impl Multiplexer {
    /// WAIT or WAITAOF.
    pub(super) fn take_wait(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let Some(link) = self.own_link(key, now) else { return Step::Wait };
        if !self.vouches_for_writes(key) {
            self.refuse(key, &Refusal::WaitMoved, now);
            return Step::Done { bytes: request.bytes };
        }
        let Some(session) = self.sessions.get(key) else { return Step::Wait };
        if !session.peer.dedicated {
            // The server counts from what this connection did last, which may be nothing: a PUBLISH reaches the
            // replicas behind everything that was written before it, by whichever connection.
            let mut publish = BytesMut::new();
            encode::request(&mut publish, &[b"PUBLISH".as_slice(), CHANNEL, b""]);
            self.send_own(link, RunKind::Mark, &publish, now);
        }
        self.send(link, key, request.frame, 1, RunKind::Wait { refusal: None }, now);
        self.wait(key, Wait::Due, now);
        Step::Done { bytes: request.bytes }
    }

    /// Whether everything that the session wrote since its last WAIT went to the server that would be asked.
    fn vouches_for_writes(&mut self, key: SessionKey) -> bool {
        let continuity = self.continuity;
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let is_broken = match session.peer.dedicated {
            true => session.continuity == BROKEN_CONTINUITY,
            false => session.continuity != continuity,
        };
        session.refuses_wait |= is_broken;
        session.continuity = continuity;
        !session.refuses_wait
    }

    /// The PUBLISH before a WAIT was answered: where it was refused, the WAIT's answer would not be true.
    pub(super) fn on_marked(&mut self, key: LinkKey, refusal: Option<&[u8]>) {
        let Some(error) = refusal else { return };
        let line = String::from_utf8_lossy(error);
        let mut reply = BytesMut::new();
        encode::error(
            &mut reply,
            &Refusal::WaitUnmarked(line.trim_start_matches('-').trim_end().to_owned()).to_string(),
        );
        if let Some(run) = self.links.get_mut(key).and_then(super::Link::front_mut)
            && let RunKind::Wait { refusal } = &mut run.kind
        {
            *refusal = Some(reply.freeze());
        }
    }

    /// A WAIT was answered.
    pub(super) fn on_waited(&mut self, key: LinkKey, frame: &[u8], refusal: Option<Bytes>, now: Instant) {
        match refusal {
            Some(refusal) => {
                self.counters.refused += 1;
                self.deliver(key, &refusal, 1, now);
            }
            None => self.deliver(key, frame, 1, now),
        }
    }
}

/// Whether a message comes from the PUBLISH before a WAIT, by way of a pattern.
pub(super) fn is_mark(frame: &[u8]) -> bool {
    const TAIL: &[u8] = b"$13\r\nhandover:wait\r\n$0\r\n\r\n";
    frame.ends_with(TAIL)
}
