//! Large requests: passed on as their bytes come, on a connection of the client's own, with no more than a bounded part
//! of them in memory. What is gone cannot be sent again: such a request is never repeated.

use std::time::Instant;

use bytes::BytesMut;

use super::backpressure::UPLOAD_BYTES;
use super::judgement::{answer, refusal};
use super::link::{Link, Streamed, TakenUpload};
use super::pause::may_write;
use super::requests::Request;
use super::session::{BrokenEnd, Session, Transaction, Wait};
use super::{LinkKey, Multiplexer, Output, SessionKey};
use crate::command::classify::Classified;
use crate::command::refusal::Refusal;
use crate::command::retry::Category;
use crate::command::table::{self, Class, Flags};
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::request::{ProtocolError, Scan};

/// A request that must be seen whole is kept up to so many bytes.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024 + super::LARGE_REQUEST_BYTES;

/// A large request of which more is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    /// It begins when the session need not wait any more; its first bytes stand in the input.
    Waiting,
    /// Its bytes go to this connection.
    Streaming(LinkKey),
    /// Its bytes are dropped, and then it is answered.
    Skipping(Skipped),
}

/// How a request whose rest is dropped is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// Nothing of it was applied.
    Refused(Refusal),
    /// It was to be queued in a transaction that cannot succeed any more.
    Queued,
}

/// What is done with a large request.
enum Course {
    /// It stays in the input until it is whole.
    Keep,
    /// The session waits.
    Wait,
    Skip(Skipped),
    Stream {
        link: LinkKey,
        classified: Classified,
        is_queued: bool,
    },
}

impl Session {
    /// Bytes of a request that is streamed to a connection go there.
    fn uploads_to(&self) -> Option<LinkKey> {
        match self.upload.as_deref() {
            Some(Upload::Streaming(link)) => Some(*link),
            _ => None,
        }
    }

    fn may_stream(&self, classified: Classified) -> bool {
        // What a command is may depend on arguments that have not come yet.
        classified.class == Class::Shared
            && classified.command.is_none_or(|command| !command.is_container())
            && self.access.is_authenticated
            && !self.reply_mode.is_single()
            && !(self.is_subscriber() && self.profile.protocol == Protocol::Resp2)
    }
}

impl Multiplexer {
    /// The start of a large request stands in `input`; returns how many bytes were taken.
    pub(super) fn begin_upload(&mut self, key: SessionKey, input: &[u8], now: Instant) -> usize {
        let upload = match self.upload_course(key, input, now) {
            Course::Keep => return self.keep_whole(key, input, now),
            Course::Wait => Upload::Waiting,
            Course::Skip(skipped) => {
                if let Skipped::Refused(refusal) = &skipped {
                    self.count_refusal(refusal);
                }
                Upload::Skipping(skipped)
            }
            Course::Stream { link, classified, is_queued } => {
                self.open_upload(key, link, classified, is_queued, now);
                Upload::Streaming(link)
            }
        };
        let is_waiting = upload == Upload::Waiting;
        if let Some(session) = self.sessions.get_mut(key) {
            session.upload = Some(Box::new(upload));
        }
        if is_waiting { 0 } else { self.continue_upload(key, input, now) }
    }

    /// A request that nobody can decide on before it is whole has a bound of its own.
    fn keep_whole(&mut self, key: SessionKey, input: &[u8], now: Instant) -> usize {
        let announced = self.sessions.get(key).map_or(0, |session| session.scanner.bytes_announced());
        if announced <= KEPT_BYTES_MAX {
            return 0;
        }
        self.end_for_protocol_error(key, ProtocolError::RequestTooLarge, now);
        input.len()
    }

    fn upload_course(&mut self, key: SessionKey, input: &[u8], now: Instant) -> Course {
        let Some(name) = Arguments::new(input).next() else { return Course::Keep };
        // Its BLOCK would be looked for in all that is there, with each piece that comes.
        if table::find(name).is_some_and(|command| command.flags.has(Flags::BLOCKING)) {
            return Course::Keep;
        }
        let classified = self.policy_of(key).apply(input, name);
        let Some(session) = self.sessions.get(key) else { return Course::Keep };
        if !session.may_stream(classified) || session.half_closed {
            return Course::Keep;
        }
        let is_queued = matches!(session.transaction, Transaction::Queuing { .. });
        let (is_due, is_settled) = (session.due > 0, session.is_settled());
        let request = Request { frame: input, name, classified, input, bytes: input.len() };
        let wait = match session.transaction {
            Transaction::Broken { end: BrokenEnd::Refused, .. } => {
                return Course::Skip(Skipped::Refused(Refusal::OutsideTransaction));
            }
            Transaction::Broken { queuing: true, .. } => return Course::Skip(Skipped::Queued),
            _ if self.pauses(key, &request) => Wait::Pause,
            _ if !is_queued && self.publish_barrier.is_some() && request.publishes() => Wait::Lane,
            // It goes alone, so that at a fault nothing else has to be judged with it.
            _ if is_due => Wait::Due,
            _ if !is_settled => Wait::Confirmation,
            _ => match self.own_link(key, now) {
                Some(link) => return Course::Stream { link, classified, is_queued },
                None => return Course::Wait,
            },
        };
        self.wait(key, wait, now);
        Course::Wait
    }

    fn open_upload(
        &mut self,
        key: SessionKey,
        link_key: LinkKey,
        classified: Classified,
        is_queued: bool,
        now: Instant,
    ) {
        let (Some(link), Some(session)) = (self.links.get_mut(link_key), self.sessions.get_mut(key)) else { return };
        if let Some(command) = classified.command {
            session.peer.last_command = command.name;
        }
        if session.state.is_some() {
            session.spend_caching(false);
        }
        session.queues_write |= is_queued && may_write(classified);
        let publishes = super::requests::publishes(classified);
        if let Some(queue) = session.queue.as_mut().filter(|_| publishes) {
            queue.publishes = true;
        }
        session.due += 1;
        link.begin_upload(key, is_queued, now);
        if let Some(former) = session.link.replace(link_key).filter(|former| *former != link_key) {
            self.depart(key, former);
        }
    }

    /// Passes on, or drops, what came of the request that is under way; returns how many bytes were taken.
    pub(super) fn continue_upload(&mut self, key: SessionKey, input: &[u8], now: Instant) -> usize {
        let is_serving = self.is_serving();
        let Some(session) = self.sessions.get_mut(key) else { return 0 };
        let link = session.uploads_to();
        match session.upload.as_deref() {
            None => return 0,
            Some(Upload::Waiting) => {
                session.upload = None;
                return 0;
            }
            // Its last byte must not reach a backend that is about to be left.
            Some(Upload::Streaming(_)) if !is_serving => {
                self.wait(key, Wait::Lane, now);
                return 0;
            }
            Some(Upload::Streaming(_) | Upload::Skipping(_)) => {}
        }
        let (bytes, is_whole) = match session.scanner.scan(input) {
            Scan::Incomplete => (session.scanner.release(input.len()), false),
            Scan::Frame(frame) => (frame.bytes, true),
            Scan::Nothing { bytes } | Scan::Inline { bytes, .. } => (bytes, false),
            Scan::Invalid(error) => {
                self.drop_upload(key);
                self.end_for_protocol_error(key, error, now);
                return input.len();
            }
        };
        if let Some(link) = link.and_then(|link| self.links.get_mut(link)) {
            link.pass_upload(&input[..bytes]);
        }
        if is_whole {
            self.finish_upload(key, now);
        }
        if let Some(link) = link {
            self.mark_link_to_write(link);
        }
        bytes
    }

    /// The last byte of it came.
    fn finish_upload(&mut self, key: SessionKey, now: Instant) {
        let Some(upload) = self.sessions.get_mut(key).and_then(|session| session.upload.take()) else { return };
        match *upload {
            Upload::Waiting => {}
            Upload::Streaming(link) => {
                if let Some(link) = self.links.get_mut(link) {
                    link.finish_upload(now);
                }
                self.in_flight += 1;
                self.wait(key, Wait::Due, now);
            }
            Upload::Skipping(Skipped::Refused(refusal)) => {
                self.answer(key, |out| encode::error(out, &refusal.to_string()), now);
            }
            Upload::Skipping(Skipped::Queued) => self.answer(key, |out| encode::simple(out, "QUEUED"), now),
        }
    }

    /// A large request is under way.
    pub(super) fn is_uploading(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.upload.is_some())
    }

    /// Bytes of the session's upload that are not written yet.
    pub(super) fn upload_unwritten(&self, key: SessionKey) -> Option<usize> {
        let link = self.sessions.get(key)?.uploads_to()?;
        Some(self.links.get(link).map_or(0, |link| link.retained_bytes()))
    }

    /// A connection got rid of some of the upload that it carries: its client may be read again.
    pub(super) fn resume_uploader(&mut self, link: LinkKey) {
        if let Some(key) = self.links.get(link).and_then(Link::uploader) {
            self.update_reading(key);
        }
    }

    /// The session ends, or its client will send nothing more: an upload that is not whole comes to nothing.
    pub(super) fn drop_upload(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(upload) = session.upload.take() else { return };
        if *upload == Upload::Waiting {
            // Its bytes are all there, and may have become a whole request.
            return;
        }
        session.wait = None;
        session.input = BytesMut::new();
        session.scanner.reset();
        if let Upload::Streaming(link) = *upload {
            session.due -= 1;
            session.link = None;
            if let Some(pin) = session.pin.as_mut() {
                pin.link = None;
            }
            self.orphan(link);
        }
    }

    /// What was held for too long is refused: true when that was an upload whose first bytes had gone.
    pub(super) fn refuse_begun_upload(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(session) = self.sessions.get(key) else { return false };
        let link = match session.upload.as_deref() {
            None | Some(Upload::Waiting) => return false,
            Some(Upload::Skipping(_)) => None,
            Some(Upload::Streaming(link)) => Some(*link),
        };
        if let Some(link) = link {
            self.outputs.push_back(Output::CloseLink { link, reset: true });
            self.judge_link(link, now);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.wait = None;
        }
        self.settled.push(key);
        true
    }

    /// An upload that has waited in vain is refused once its rest was dropped; returns how much of `input` it was.
    pub(super) fn refuse_waiting_upload(&mut self, key: SessionKey, input: &[u8], refusal: &Refusal) -> usize {
        let Some(session) = self.sessions.get_mut(key) else { return 0 };
        if session.upload.as_deref() != Some(&Upload::Waiting) {
            return 0;
        }
        if session.scanner.bytes_announced() <= UPLOAD_BYTES {
            // It came whole while it waited, and this is the start of another.
            session.upload = None;
            return 0;
        }
        session.upload = Some(Box::new(Upload::Skipping(Skipped::Refused(refusal.clone()))));
        let bytes = session.scanner.release(input.len());
        self.count_refusal(refusal);
        bytes
    }

    /// The connection of a streamed request is gone: taken again from its first byte if that is still there, else
    /// answered, at once or when its rest was dropped. Returns how many requests were lost in flight.
    pub(super) fn judge_upload(&mut self, link: &mut Link, is_cut: bool) -> u64 {
        let Some(TakenUpload { session: Some(key), streamed, bytes, is_sent }) = link.take_upload() else { return 0 };
        let in_flight = u64::from(streamed.is_whole);
        self.in_flight = self.in_flight.saturating_sub(usize::from(streamed.is_whole));
        let Some(session) = self.sessions.get_mut(key) else {
            self.note(|judged| &mut judged.gone, in_flight);
            return 0;
        };
        session.due -= 1;
        let is_leaving = session.half_closed || session.ending.is_some();
        if is_cut {
            self.note(|judged| &mut judged.uncertain, 1);
        } else if !(streamed.is_begun || is_sent || is_leaving) {
            session.upload = None;
            self.note(|judged| &mut judged.moved, in_flight);
            self.take_again(key, &bytes);
        } else {
            self.judge_begun_upload(key, streamed, is_sent);
        }
        self.update_reading(key);
        in_flight
    }

    fn judge_begun_upload(&mut self, key: SessionKey, Streamed { is_queued, is_whole, .. }: Streamed, is_sent: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(queue) = session.queue.as_mut() {
            queue.forfeit();
        }
        let not_applied = if session.burst_answered { Refusal::Unavailable } else { Refusal::Loading };
        let skipped = match (is_queued, is_sent) {
            (true, _) => Skipped::Queued,
            (false, true) => Skipped::Refused(Refusal::Uncertain),
            (false, false) => Skipped::Refused(not_applied),
        };
        if is_whole {
            session.burst_answered = true;
            session.pending.push_back(match &skipped {
                Skipped::Queued => answer(|out| encode::simple(out, "QUEUED")),
                Skipped::Refused(known) => refusal(known),
            });
        } else {
            session.upload = Some(Box::new(Upload::Skipping(skipped)));
        }
        if is_sent {
            self.counters.lost[Category::Never as usize] += 1;
        }
        match (is_queued, is_sent) {
            (true, _) => self.note(|judged| &mut judged.aborted, 1),
            (false, true) => self.note(|judged| &mut judged.uncertain, 1),
            (false, false) => self.note(|judged| &mut judged.not_applied, 1),
        }
    }
}
