//! Cursors of SCAN, HSCAN, SSCAN and ZSCAN. A cursor means something to the backend that gave it and to no other, so it
//! carries the epoch; one of another epoch is refused rather than continued, which would miss keys without a word.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::link::RunKind;
use super::requests::{Request, Step};
use super::{Multiplexer, SessionKey};
use crate::command::refusal::Refusal;
use crate::resp::arguments::Arguments;
use crate::resp::encode;

/// The mark stands above the backend's own bits and below 2^53, up to which every client keeps a number whole.
const MARK_SHIFT: u32 = 44;
const MARK_MASK: u64 = 0xff;
/// A backend's cursor from here on has no room for a mark, and is kept.
const BACKEND_CURSOR_END: u64 = 1 << MARK_SHIFT;
/// Says that the low bits are the place of a kept cursor.
const KEPT: u64 = 1 << 52;
/// From here on nothing is a cursor of ours.
const OUR_CURSOR_END: u64 = 1 << 53;
/// Large cursors kept for a group; the oldest is given up for a newer one.
const LARGE_CURSORS_MAX: usize = 4096;
/// A cursor has at most so many digits.
const DIGITS_MAX: usize = 20;

/// Cursors that have no room for a mark.
#[derive(Debug, Default)]
pub(super) struct LargeCursors {
    kept: VecDeque<u64>,
    /// The place of the first that is still kept.
    first: u64,
}

impl LargeCursors {
    /// Keeps a cursor and returns its place.
    fn keep(&mut self, cursor: u64) -> u64 {
        if self.kept.len() == LARGE_CURSORS_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(cursor);
        self.first + self.kept.len() as u64 - 1
    }

    fn get(&self, place: u64) -> Option<u64> {
        let index = place.checked_sub(self.first)?;
        self.kept.get(usize::try_from(index).ok()?).copied()
    }
}

/// What a client's cursor turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// No number, the start, or one without a mark: the backend's own business.
    Unmarked,
    /// Of this epoch; so it is at the backend.
    Valid(u64),
    /// Of another epoch.
    Stale,
}

/// The mark of an epoch, never zero: a cursor without one came from inside an EXEC, and is passed on.
const fn mark_of(epoch: u64) -> u64 {
    epoch % MARK_MASK + 1
}

/// What a cursor that a backend gave in `epoch` is to its client.
fn mark(cursor: u64, epoch: u64, keep: impl FnOnce(u64) -> u64) -> u64 {
    let mark = mark_of(epoch) << MARK_SHIFT;
    match cursor {
        0 => 0,
        1..BACKEND_CURSOR_END => mark | cursor,
        _ => KEPT | mark | (keep(cursor) % BACKEND_CURSOR_END),
    }
}

fn unmark(text: &[u8], epoch: u64, kept: impl FnOnce(u64) -> Option<u64>) -> Cursor {
    let Some(cursor) = parse(text).filter(|&cursor| cursor < OUR_CURSOR_END) else { return Cursor::Unmarked };
    let (found, own) = ((cursor >> MARK_SHIFT) & MARK_MASK, cursor % BACKEND_CURSOR_END);
    match found {
        0 => Cursor::Unmarked,
        found if found != mark_of(epoch) => Cursor::Stale,
        _ if cursor & KEPT == 0 => Cursor::Valid(own),
        _ => kept(own).map_or(Cursor::Stale, Cursor::Valid),
    }
}

/// A plain number; what else Redis takes for one, it never gave.
fn parse(text: &[u8]) -> Option<u64> {
    let is_plain = (1..=DIGITS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

/// Where the cursor stands among the arguments: after the name, or after the key.
fn position(name: &[u8]) -> usize {
    if name.eq_ignore_ascii_case(b"SCAN") { 1 } else { 2 }
}

fn cursor_of(frame: &[u8]) -> Option<&[u8]> {
    let mut arguments = Arguments::new(frame);
    let name = arguments.next()?;
    arguments.nth(position(name) - 1)
}

/// Whether a request continues a scan that a backend began, as far as it can be told.
pub(super) fn continues(frame: &[u8]) -> bool {
    cursor_of(frame).and_then(parse) != Some(0)
}

/// Whether the cursor carries a mark.
pub(super) fn is_marked(frame: &[u8]) -> bool {
    cursor_of(frame).is_some_and(|cursor| unmark(cursor, 0, |_| None) != Cursor::Unmarked)
}

fn with_cursor(frame: &[u8], cursor: u64) -> BytesMut {
    let cursor = cursor.to_string();
    let mut arguments: Vec<&[u8]> = Arguments::new(frame).collect();
    if let Some(position) = arguments.first().map(|name| position(name))
        && let Some(argument) = arguments.get_mut(position)
    {
        *argument = cursor.as_bytes();
    }
    let mut out = BytesMut::with_capacity(frame.len());
    encode::request(&mut out, &arguments);
    out
}

/// The cursor at the start of a reply, and what follows it.
fn split_reply(reply: &[u8]) -> Option<(u64, &[u8])> {
    let rest = reply.strip_prefix(b"*2\r\n$")?;
    let line_end = memchr::memchr(b'\r', rest)?;
    let length = parse(&rest[..line_end]).and_then(|length| usize::try_from(length).ok())?;
    let rest = rest.get(line_end + 2..)?;
    Some((parse(rest.get(..length)?)?, &rest[length..]))
}

impl Multiplexer {
    /// SCAN, HSCAN, SSCAN or ZSCAN: the client's cursor loses its mark, and the reply's gets one.
    pub(super) fn take_cursor(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        if !self.settings.failover.checks_cursors {
            return self.take_shared(key, request, RunKind::Forward, now);
        }
        match self.unmarked(request.frame) {
            Ok(None) => self.take_shared(key, request, RunKind::Cursor, now),
            Ok(Some(frame)) => self.take_shared(key, Request { frame: &frame, ..request }, RunKind::Cursor, now),
            Err(refusal) => {
                self.refuse(key, &refusal, now);
                Step::Done { bytes: request.bytes }
            }
        }
    }

    /// The same between MULTI and EXEC, whose array is passed on as it is: cursors in it stay without a mark.
    pub(super) fn queue_cursor(&mut self, key: SessionKey, request: Request<'_>, now: Instant) -> Step {
        let unmarked = match self.settings.failover.checks_cursors {
            true => self.unmarked(request.frame),
            false => Ok(None),
        };
        match unmarked {
            Ok(None) => self.queue(key, request, false, None, now),
            Ok(Some(frame)) => self.queue(key, Request { frame: &frame, ..request }, false, None, now),
            Err(refusal) => self.refuse_in_queue(key, request, &refusal, now),
        }
    }

    /// The request as the backend is to see it, when that is not as the client sent it.
    fn unmarked(&self, frame: &[u8]) -> Result<Option<BytesMut>, Refusal> {
        let kept = |place| self.settings.commons.cursors().get(place);
        match cursor_of(frame).map_or(Cursor::Unmarked, |cursor| unmark(cursor, self.route.epoch, kept)) {
            Cursor::Unmarked => Ok(None),
            Cursor::Valid(cursor) => Ok(Some(with_cursor(frame, cursor))),
            Cursor::Stale => Err(Refusal::StaleCursor),
        }
    }

    /// A reply, or the start of one, with its cursor marked; `None`: there is nothing to mark.
    pub(super) fn mark_reply(&self, reply: &[u8], epoch: u64) -> Option<Bytes> {
        let (cursor, rest) = split_reply(reply).filter(|&(cursor, _)| cursor != 0)?;
        let marked = mark(cursor, epoch, |cursor| self.settings.commons.cursors().keep(cursor)).to_string();
        let head = format!("*2\r\n${}\r\n{marked}", marked.len());
        let mut out = BytesMut::with_capacity(head.len() + rest.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(rest);
        Some(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_in_its_own_epoch_and_in_no_other() {
        let mut large = LargeCursors::default();
        for epoch in [1, 2, 254, 255, 256, 510, u64::MAX - 1] {
            for cursor in [1, 17, BACKEND_CURSOR_END - 1, BACKEND_CURSOR_END, 1 << 53, u64::MAX] {
                let marked = mark(cursor, epoch, |cursor| large.keep(cursor));
                assert!(marked < OUR_CURSOR_END, "{cursor} of {epoch}");
                let text = marked.to_string();
                let back = |epoch| unmark(text.as_bytes(), epoch, |place| large.get(place));
                assert_eq!(back(epoch), Cursor::Valid(cursor), "{cursor} of {epoch}");
                assert_eq!(back(epoch.wrapping_add(1)), Cursor::Stale, "{cursor} of {epoch}");
            }
            assert_eq!(mark(0, epoch, |_| 1), 0);
        }
    }

    #[test]
    fn what_has_no_mark_is_the_backends_business() {
        for text in ["0", "7", "17592186044415", "", "-1", "+5", "x", " 1", "007", "9007199254740992"] {
            assert_eq!(unmark(text.as_bytes(), 3, |_| None), Cursor::Unmarked, "{text:?}");
        }
        assert_eq!(unmark(b"18446744073709551616", 3, |_| None), Cursor::Unmarked);
    }

    #[test]
    fn large_cursors_are_bounded_and_the_oldest_goes_first() {
        let mut large = LargeCursors::default();
        let places: Vec<u64> = (0..=LARGE_CURSORS_MAX as u64).map(|cursor| large.keep(cursor)).collect();
        assert_eq!(large.get(places[0]), None);
        assert_eq!(large.get(places[1]), Some(1));
        assert_eq!(large.kept.len(), LARGE_CURSORS_MAX);
        let marked = mark(u64::MAX, 5, |cursor| large.keep(cursor)).to_string();
        assert_eq!(unmark(marked.as_bytes(), 5, |_| None), Cursor::Stale);
    }

    #[test]
    fn only_the_cursor_of_a_request_changes() {
        let frame = |words: &[&str]| {
            let mut out = BytesMut::new();
            encode::request(&mut out, words);
            out
        };
        for (words, expected) in [
            (&["SCAN", "99", "COUNT", "99"][..], &["SCAN", "7", "COUNT", "99"][..]),
            (&["hscan", "99", "99"], &["hscan", "99", "7"]),
            (&["ZSCAN", "k"], &["ZSCAN", "k"]),
        ] {
            assert_eq!(with_cursor(&frame(words), 7), frame(expected), "{words:?}");
        }
        assert!(!continues(&frame(&["SCAN", "0"])) && continues(&frame(&["SSCAN", "0", "1"])));
        assert!(!is_marked(&frame(&["SCAN", "9"])) && is_marked(&frame(&["SCAN", "35184372088833"])));
    }

    #[test]
    fn a_reply_is_split_behind_its_cursor() {
        assert_eq!(split_reply(b"*2\r\n$2\r\n17\r\n*0\r\n"), Some((17, b"\r\n*0\r\n".as_slice())));
        for reply in
            ["-ERR invalid cursor\r\n", "*2\r\n$2\r\nxx\r\n*0\r\n", "*2\r\n$99\r\n17", "*2\r\n:1\r\n:2\r\n", ""]
        {
            assert_eq!(split_reply(reply.as_bytes()), None, "{reply:?}");
        }
    }
}
