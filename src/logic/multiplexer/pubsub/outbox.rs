//! Messages that wait for their reader, in blocks that end where a message ends: nothing that is put between two of
//! them breaks one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

/// A block takes no further message above this.
const BLOCK_BYTES: usize = 64 * 1024;

/// How much may wait for one reader: the defaults of `client-output-buffer-limit pubsub` in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logic::multiplexer) struct Bounds {
    /// Never more, in bytes.
    pub(in crate::logic::multiplexer) hard_bytes: usize,
    /// More than this, in bytes, for no longer than `soft_time`.
    pub(in crate::logic::multiplexer) soft_bytes: usize,
    /// How long.
    pub(in crate::logic::multiplexer) soft_time: Duration,
}

impl Bounds {
    /// Those of Redis.
    pub(in crate::logic::multiplexer) const DEFAULT: Self =
        Self { hard_bytes: 32 * 1024 * 1024, soft_bytes: 8 * 1024 * 1024, soft_time: Duration::from_secs(60) };
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    blocks: VecDeque<BytesMut>,
    bytes: usize,
    /// Since when the soft bound was exceeded.
    exceeded_since: Option<Instant>,
}

impl Outbox {
    /// Nothing waits.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a message behind the others.
    pub(super) fn push(&mut self, message: &[u8]) {
        self.bytes += message.len();
        match self.blocks.back_mut().filter(|block| block.len() < BLOCK_BYTES) {
            Some(block) => block.extend_from_slice(message),
            None => self.blocks.push_back(BytesMut::from(message)),
        }
    }

    /// The next block of whole messages.
    pub(super) fn pop(&mut self) -> Option<BytesMut> {
        let block = self.blocks.pop_front()?;
        self.bytes -= block.len();
        Some(block)
    }

    /// Whether its reader is too slow, when so many bytes are unread besides.
    pub(super) fn is_exceeded(&mut self, unread: usize, bounds: &Bounds, now: Instant) -> bool {
        let waiting = self.bytes + unread;
        if waiting <= bounds.soft_bytes {
            self.exceeded_since = None;
            return false;
        }
        let since = *self.exceeded_since.get_or_insert(now);
        waiting > bounds.hard_bytes || now.saturating_duration_since(since) > bounds.soft_time
    }
}

/// What a standby's connection carried of late, in case its backend takes over.
#[derive(Debug, Default)]
pub(super) struct Ring {
    messages: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

/// What one client's ring holds at most.
const RING_BYTES_MAX: usize = 1024 * 1024;
/// What a message takes besides its own bytes: its place, and what its allocation costs. Counted, so that many short ones
/// stay within the bound too.
const RING_MESSAGE_BYTES: usize = 96;
/// How old a message in it may be.
const RING_AGE_MAX: Duration = Duration::from_secs(10);

impl Ring {
    /// Keeps a message; the oldest make room.
    pub(super) fn push(&mut self, message: &[u8], now: Instant) {
        self.messages.push_back((now, Bytes::copy_from_slice(message)));
        self.bytes += message.len() + RING_MESSAGE_BYTES;
        self.trim(now);
    }

    /// Forgets what is too old, or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) > RING_AGE_MAX;
        while let Some((at, message)) = self.messages.front()
            && (self.bytes > RING_BYTES_MAX || is_old(*at))
        {
            self.bytes -= message.len() + RING_MESSAGE_BYTES;
            self.messages.pop_front();
        }
    }

    /// Bytes that it holds.
    #[must_use]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out what came after this moment.
    pub(super) fn take_since(&mut self, moment: Instant) -> impl Iterator<Item = Bytes> + use<> {
        self.bytes = 0;
        let messages = std::mem::take(&mut self.messages);
        messages.into_iter().filter(move |(at, _)| *at > moment).map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_messages_whole_and_in_order() {
        let mut outbox = Outbox::default();
        let messages: Vec<Vec<u8>> =
            (0..5000_u32).map(|number| format!("<{number}>").repeat(10).into_bytes()).collect();
        messages.iter().for_each(|message| outbox.push(message));
        assert_eq!(outbox.bytes(), messages.concat().len());
        let mut all = Vec::new();
        while let Some(block) = outbox.pop() {
            assert!(block.starts_with(b"<") && block.ends_with(b">"), "a block ends in the middle of a message");
            all.extend_from_slice(&block);
        }
        assert_eq!(all, messages.concat());
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }

    #[test]
    fn a_reader_is_too_slow_above_the_hard_bound_or_above_the_soft_one_for_long() {
        let bounds = Bounds { hard_bytes: 100, soft_bytes: 10, soft_time: Duration::from_secs(60) };
        let (start, mut outbox) = (Instant::now(), Outbox::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        outbox.push(&[0; 50]);
        assert!(!outbox.is_exceeded(50, &bounds, at(0)));
        assert!(outbox.is_exceeded(51, &bounds, at(0)));
        assert!(!outbox.is_exceeded(0, &bounds, at(60)));
        assert!(outbox.is_exceeded(0, &bounds, at(61)));
        outbox.pop();
        assert!(!outbox.is_exceeded(10, &bounds, at(62)), "it caught up");
        outbox.push(&[0; 50]);
        assert!(!outbox.is_exceeded(0, &bounds, at(100)), "the time begins anew");
    }

    #[test]
    fn a_ring_holds_what_is_young_and_fits() {
        let (start, mut ring) = (Instant::now(), Ring::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        ring.push(b"old", at(0));
        ring.push(b"known", at(5));
        ring.push(b"new", at(11));
        assert_eq!(ring.take_since(at(5)).collect::<Vec<_>>(), ["new"]);
        assert_eq!(ring.bytes(), 0);
        for second in 0..3 {
            ring.push(&vec![0; 500 * 1024], at(second));
        }
        assert!(ring.bytes() <= RING_BYTES_MAX);
        assert_eq!(ring.take_since(start).count(), 2);
        (0..100_000).for_each(|_| ring.push(b"x", at(2)));
        assert!(ring.take_since(start).count() < 11_000, "many short ones take room as well");
    }
}
