//! What was put on a connection and is kept until it is answered: in blocks, so that what stays is never moved.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

/// A block that would become larger is followed by another.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes in the order in which they were put there. What was put there together stays together.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// Blocks before the last one, which is nearly always the only one. None of them is empty.
    full: VecDeque<BytesMut>,
    last: BytesMut,
    /// Empty ones, for what comes.
    spare: Vec<BytesMut>,
    len: usize,
    /// The most that the last block has held: a block does not tell of the room before its first byte.
    last_len_max: usize,
}

impl Retained {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts bytes behind the others; whether they stand in one piece with those.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let is_joined = self.last.is_empty() || self.last.len() + bytes.len() <= BLOCK_BYTES;
        if !is_joined {
            self.begin_block();
        }
        self.last.extend_from_slice(bytes);
        self.len += bytes.len();
        self.last_len_max = self.last_len_max.max(self.last.len());
        is_joined
    }

    /// Who needs a second block is about to fill it.
    #[inline(never)]
    fn begin_block(&mut self) {
        let next = self.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(BLOCK_BYTES));
        self.full.push_back(std::mem::replace(&mut self.last, next));
        self.last_len_max = BLOCK_BYTES;
    }

    /// The first bytes, all of which were put there together.
    pub(super) fn first(&self, bytes: usize) -> &[u8] {
        &self.full.front().unwrap_or(&self.last)[..bytes]
    }

    /// Bytes behind the first `skipped`, as many as stand in one piece; empty when there are none.
    #[inline]
    pub(super) fn behind(&self, mut skipped: usize) -> &[u8] {
        for block in &self.full {
            if skipped < block.len() {
                return &block[skipped..];
            }
            skipped -= block.len();
        }
        &self.last[skipped..]
    }

    /// Forgets the first bytes.
    #[inline]
    pub(super) fn consume(&mut self, mut bytes: usize) {
        self.len -= bytes;
        while let Some(block) = self.full.front_mut() {
            if bytes < block.len() {
                return block.advance(bytes);
            }
            bytes -= block.len();
            block.clear();
            self.spare.extend(self.full.pop_front());
        }
        crate::logic::multiplexer::consume(&mut self.last, bytes);
    }

    /// Takes everything out, in one piece.
    pub(super) fn take(&mut self) -> BytesMut {
        let mut blocks = std::mem::take(&mut self.full);
        blocks.push_back(std::mem::take(&mut self.last));
        self.len = 0;
        let mut all = blocks.pop_front().unwrap_or_default();
        blocks.iter().for_each(|block| all.extend_from_slice(block));
        all
    }

    /// Keeps these bytes instead of none.
    pub(super) fn put(&mut self, bytes: BytesMut) {
        debug_assert_eq!(self.len, 0);
        self.len = bytes.len();
        self.last_len_max = bytes.capacity();
        self.last = bytes;
    }

    /// Gives back the room of what is empty now, if it is more than `bytes_max`.
    #[inline]
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        debug_assert_eq!(self.len, 0);
        if self.last_len_max > bytes_max || !self.spare.is_empty() {
            self.spare.truncate((bytes_max / BLOCK_BYTES).saturating_sub(1));
            if self.last_len_max > bytes_max {
                (self.last, self.last_len_max) = (BytesMut::new(), 0);
            }
        }
    }

    /// Memory held, in bytes, but for what was consumed of a block that is in use.
    pub(super) fn capacity(&self) -> usize {
        self.full.iter().chain(&self.spare).chain([&self.last]).map(BytesMut::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Consume(usize),
        Take,
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..3 * BLOCK_BYTES / 2).prop_map(Step::Push),
            4 => (1..40_usize).prop_map(Step::Push),
            4 => (0..2 * BLOCK_BYTES).prop_map(Step::Consume),
            1 => Just(Step::Take),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// Everything behind the first `skipped` bytes, piece by piece.
    fn read(retained: &Retained, mut skipped: usize) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match retained.behind(skipped) {
                [] => return all,
                piece => {
                    all.extend_from_slice(piece);
                    skipped += piece.len();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_plain_buffer_would(steps in steps()) {
            let (mut retained, mut plain, mut next) = (Retained::default(), Vec::<u8>::new(), 0_u8);
            for step in steps {
                match step {
                    Step::Push(bytes) => {
                        next = next.wrapping_add(1);
                        let piece = vec![next; bytes];
                        retained.push(&piece);
                        plain.extend_from_slice(&piece);
                        // In one piece with itself, whatever stood before.
                        let before = plain.len() - bytes;
                        prop_assert_eq!(retained.behind(before), &plain[before..]);
                    }
                    Step::Consume(bytes) => {
                        let bytes = bytes.min(plain.len());
                        retained.consume(bytes);
                        plain.drain(..bytes);
                    }
                    Step::Take => {
                        let all = retained.take();
                        prop_assert_eq!(&all[..], &plain[..]);
                        retained.put(all);
                    }
                    Step::Shrink if plain.is_empty() => retained.shrink(0),
                    Step::Shrink => {}
                }
                prop_assert_eq!(retained.len(), plain.len());
                prop_assert_eq!(read(&retained, plain.len() / 3), &plain[plain.len() / 3..]);
            }
            retained.consume(plain.len());
            retained.shrink(0);
            prop_assert_eq!((retained.capacity(), retained.spare.len()), (0, 0));
        }
    }

    /// What was consumed piece by piece holds its memory as well.
    #[test]
    fn a_large_block_is_given_back_once_it_is_empty() {
        let mut retained = Retained::default();
        for _ in 0..10 {
            retained.push(&[1; 10_000]);
        }
        for _ in 0..10 {
            retained.consume(10_000);
        }
        retained.shrink(50_000);
        assert_eq!(retained.capacity(), 0);
        retained.push(b"small");
        retained.consume(5);
        retained.shrink(50_000);
        assert!(retained.capacity() > 0);
    }

    #[test]
    fn what_is_full_is_not_moved() {
        let mut retained = Retained::default();
        assert!(retained.push(b"first"));
        assert!(retained.push(b"second"));
        assert!(!retained.push(&[1; BLOCK_BYTES]), "a block of its own");
        assert_eq!(retained.first(5), b"first");
        retained.consume(11);
        assert_eq!(retained.first(BLOCK_BYTES), [1; BLOCK_BYTES]);
    }
}
