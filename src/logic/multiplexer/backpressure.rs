//! Who is read, and who must wait: every buffer has a bound, and whoever fills one is held back.

use std::collections::VecDeque;
use std::time::Instant;

use super::link::Link;
use super::session::{CloseReason, Wait};
use super::{HELD_INPUT_BYTES_MAX, INPUT_BYTES_MAX, LinkKey, Multiplexer, Output, Session, SessionKey};

/// A request announced longer than this is passed on as it comes. One that cannot be needs room among the uploads before
/// the rest of it is read.
pub(super) const UPLOAD_BYTES: usize = 1024 * 1024;
/// Of a request that is passed on, or waits for a connection to be passed on to, no more than this is held.
pub(super) const PASSING_BYTES_MAX: usize = 256 * 1024;
/// What is read of a client at a time, as a rule …
const READ_BYTES: usize = 64 * 1024;
/// … and more if the request that has begun takes so much.
const LARGE_READ_FROM: usize = 4 * 1024;
/// What is read of a client at a time while as much is held as may be.
pub(super) const CROWDED_READ_BYTES: usize = 4 * 1024;
/// What such requests may take together; one alone may always go on.
const UPLOADS_BYTES_MAX: usize = 192 * 1024 * 1024;

/// Clients that are not read before there is room in a lane, the first first. There is one such queue for each lane.
pub(super) struct Postponed {
    lane: LinkKey,
    sessions: VecDeque<SessionKey>,
}

impl Multiplexer {
    /// The connections that were not read because of this client's full output are read again.
    pub(super) fn resume_links(&mut self, key: SessionKey) {
        for link_key in self.links.keys() {
            if let Some(link) = self.links.get_mut(link_key)
                && link.paused.is_some_and(|(paused_for, _)| paused_for == key)
            {
                link.paused = None;
                self.outputs.push_back(Output::ResumeLink(link_key));
            }
        }
    }

    /// Stops reading a connection until its reader has caught up. Its silence says nothing until then.
    pub(super) fn pause_link(&mut self, link_key: LinkKey, reader: SessionKey, now: Instant) {
        let (Some(link), Some(session)) = (self.links.get_mut(link_key), self.sessions.get_mut(reader)) else { return };
        if link.paused.is_none() {
            link.paused = Some((reader, now));
            link.waiting_since = None;
            link.forget_times();
            session.holds_back = true;
        }
    }

    /// Reads from a client, and from the link that waited for it, again once enough was written.
    pub(super) fn relieve(&mut self, key: SessionKey, now: Instant) {
        let limits = &self.settings.limits;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let below_half = session.output.len() <= limits.output_bytes_max / 2;
        let has_messages = session.subscriptions.is_some();
        if below_half && std::mem::take(&mut session.holds_back) {
            self.resume_links(key);
        }
        if below_half && has_messages {
            self.deliver_deferred(key);
        }
        self.update_reading(key);
        if below_half {
            self.advance_session(key, now);
        }
    }

    /// How much is read of a client at a time: little while much is held, since nobody knows of bytes whether they must
    /// wait before they were read, and there may be thousands of clients; much in the midst of large requests, of which
    /// there are few in it; and never more small ones than others can wait for.
    #[must_use]
    pub fn client_read_bytes(&self, key: SessionKey, most: usize) -> usize {
        let is_in_large = |session: &Session| session.scanner.bytes_announced() >= LARGE_READ_FROM;
        let usual = if self.sessions.get(key).is_some_and(is_in_large) { most } else { READ_BYTES };
        usual.min(most).min(if self.is_crowded() { CROWDED_READ_BYTES } else { most })
    }

    /// Whether what a client sends is left in the kernel for now, since it would have to wait for room in its lane and be
    /// copied once more; or since others wait for that, who came first. It has its turn by [`Self::next_postponed`].
    pub fn postpones(&mut self, key: SessionKey) -> bool {
        if !self.crowded && self.postponed.is_empty() {
            return false;
        }
        let Some((lane, has_room)) = self.lane_to_share(key) else { return false };
        match self.postponed.iter_mut().find(|queue| queue.lane == lane) {
            Some(queue) => queue.sessions.push_back(key),
            None if has_room => return false,
            None => self.postponed.push(Postponed { lane, sessions: VecDeque::from([key]) }),
        }
        if let Some(session) = self.sessions.get_mut(key) {
            (session.paused, session.is_postponed) = (true, true);
        }
        true
    }

    /// The lane of a session that can do nothing but share it, and whether it has room.
    fn lane_to_share(&self, key: SessionKey) -> Option<(LinkKey, bool)> {
        let session = self.sessions.get(key)?;
        let is_free =
            session.takes_requests() && session.may_share() && session.pending.is_empty() && session.upload.is_none();
        let (lane, link) = self.ready_lane(session.profile).filter(|_| is_free)?;
        Some((lane, link.has_room()))
    }

    /// Whether a client that was postponed has its turn.
    #[must_use]
    pub fn calls_postponed(&self) -> bool {
        self.postponed.iter().any(|queue| self.calls(queue))
    }

    /// The next client that was postponed and has its turn: there is room in its lane, or the lane is gone. It is to be
    /// read before this is asked again, since only then is it known how much room it takes.
    pub fn next_postponed(&mut self) -> Option<SessionKey> {
        while let Some(place) = self.postponed.iter().position(|queue| self.calls(queue)) {
            let queue = &mut self.postponed[place];
            let key = queue.sessions.pop_front();
            if queue.sessions.is_empty() {
                self.postponed.swap_remove(place);
            }
            // It may have gone meanwhile.
            if let Some(key) = key
                && let Some(session) = self.sessions.get_mut(key)
            {
                session.is_postponed = false;
                self.update_reading(key);
                return Some(key);
            }
        }
        None
    }

    /// Whether anybody but this client waits for room in a lane. Who does has nothing on it.
    pub(super) fn others_want_room(&self, lane: LinkKey, client: SessionKey) -> bool {
        let is_lane = |session: &Session| self.ready_lane(session.profile).is_some_and(|(key, _)| key == lane);
        let waits = |session: &Session| matches!(session.wait, Some((Wait::Room, _))) && is_lane(session);
        let postponed = self.postponed.iter().filter(|queue| queue.lane == lane).flat_map(|queue| &queue.sessions);
        let mut waiting =
            self.waiting.iter().filter(|&&key| self.sessions.get(key).is_some_and(waits)).chain(postponed);
        waiting.any(|&key| key != client && self.sessions.get(key).is_some())
    }

    fn calls(&self, queue: &Postponed) -> bool {
        self.links.get(queue.lane).is_none_or(Link::has_room)
    }

    /// As much is held as may be.
    const fn is_crowded(&self) -> bool {
        self.held_bytes > self.settings.limits.held_bytes_max
    }

    /// Stops or resumes reading a client, by what it has waiting.
    pub(super) fn update_reading(&mut self, key: SessionKey) {
        let limits = &self.settings.limits;
        let is_at_ease = |session: &Session| {
            !session.paused
                && session.wait.is_none()
                && session.upload.is_none()
                && session.upload_bytes == 0
                && session.scanner.bytes_announced() <= UPLOAD_BYTES
                && (session.due as usize) < limits.inflight_max
                && session.output.len() < limits.output_bytes_max
                && session.input.len() < INPUT_BYTES_MAX
        };
        if !self.sessions.get(key).is_some_and(is_at_ease) {
            self.weigh_reading(key);
        }
    }

    fn weigh_reading(&mut self, key: SessionKey) {
        let has_room = self.take_upload_room(key, false);
        let is_crowded = self.is_crowded();
        let is_uploading = self.is_uploading(key);
        let unwritten = if is_uploading { self.upload_unwritten(key) } else { None };
        let limits = &self.settings.limits;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_held = session.wait.is_some();
        let input_bytes_max = match (is_uploading, is_held) {
            (true, _) => PASSING_BYTES_MAX,
            (false, true) => HELD_INPUT_BYTES_MAX,
            (false, false) => INPUT_BYTES_MAX,
        };
        let due = if unwritten.is_some() { 0 } else { session.due as usize };
        let unwritten = unwritten.unwrap_or(0);
        // A request that is still arriving may be larger than the limit of what is held: only its rest ends the wait.
        let is_arriving = session.scanner.bytes_announced() > 0 && session.takes_requests();
        let full = due >= limits.inflight_max
            || unwritten >= PASSING_BYTES_MAX
            || session.output.len() >= limits.output_bytes_max
            || (session.input.len() >= input_bytes_max && !is_arriving)
            || (is_held && is_crowded)
            || session.is_postponed
            || !has_room;
        // Input that waits for nothing is the start of a request, whose rest must come.
        let relieved = due <= limits.inflight_max / 2
            && unwritten <= PASSING_BYTES_MAX / 2
            && session.output.len() <= limits.output_bytes_max / 2
            && (session.input.len() <= input_bytes_max / 2 || !is_held || is_arriving);
        if full {
            session.paused = true;
        } else if session.paused && relieved {
            session.paused = false;
            self.outputs.push_back(Output::Resume(key));
        }
    }

    /// Whether the request that is arriving may be read on: large ones share a bounded room.
    fn take_upload_room(&mut self, key: SessionKey, is_forced: bool) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let announced = session.scanner.bytes_announced();
        let wanted = if announced > UPLOAD_BYTES && session.upload.is_none() { announced } else { 0 };
        if wanted == session.upload_bytes {
            return true;
        }
        self.upload_bytes -= std::mem::take(&mut session.upload_bytes);
        if wanted > 0 && !is_forced && self.upload_bytes > 0 && self.upload_bytes + wanted > UPLOADS_BYTES_MAX {
            // What was read of it stays where it is.
            session.upload_bytes = session.input.len();
            self.upload_bytes += session.upload_bytes;
            if !self.starved.contains(&key) {
                self.starved.push(key);
            }
            return false;
        }
        session.upload_bytes = wanted;
        self.upload_bytes += wanted;
        true
    }

    /// Looks again at those who were not read for want of room.
    pub(super) fn feed_starved(&mut self) {
        let starved = std::mem::take(&mut self.starved);
        let taken = |key: &SessionKey| self.sessions.get(*key).map_or(0, |session| session.upload_bytes);
        if self.upload_bytes == starved.iter().map(taken).sum::<usize>()
            && let Some(first) = starved.first()
        {
            // Nobody else is under way whose end would make room: one of those that wait goes on.
            self.take_upload_room(*first, true);
        }
        for key in starved {
            self.update_reading(key);
        }
        let was_crowded = self.is_crowded();
        self.held_bytes =
            self.waiting.iter().filter_map(|&key| self.sessions.get(key)).map(Session::held_bytes).sum::<usize>()
                + self.pinned.iter().filter_map(|&key| self.sessions.get(key)).map(Session::queue_bytes).sum::<usize>();
        if was_crowded && !self.is_crowded() {
            for key in self.sessions.keys() {
                self.update_reading(key);
            }
        }
    }

    /// Ends every session once what is due to it was delivered; for a drain. Those that wait for something that may
    /// never come, a blocked command or a message, end at once.
    pub fn end_all(&mut self, reason: CloseReason) {
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get(key).filter(|session| !session.is_reader()) else { continue };
            if session.is_subscriber() || !session.is_settled() || self.is_blocked(session) {
                self.remove_session(key, reason);
            } else {
                self.end(key, reason);
            }
        }
    }
}
