//! What was put on a connection and is kept until it is answered: in blocks, so that what stays is never moved.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

/// A block that would become larger is followed by another.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes in the order in which they were put there. What was put there together stays together.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// None of them is empty, but for a single one.
    blocks: VecDeque<BytesMut>,
    /// Empty ones, for what comes.
    spare: Vec<BytesMut>,
    len: usize,
}

impl Retained {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts bytes behind the others; whether they stand in one piece with those.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        self.len += bytes.len();
        match self.blocks.back_mut() {
            Some(block) if block.is_empty() || block.len() + bytes.len() <= BLOCK_BYTES => {
                block.extend_from_slice(bytes);
                true
            }
            // Who needs a second block is about to fill it.
            Some(_) => {
                let mut block = self.spare.pop().unwrap_or_else(|| BytesMut::with_capacity(BLOCK_BYTES));
                block.extend_from_slice(bytes);
                self.blocks.push_back(block);
                false
            }
            None => {
                self.blocks.push_back(BytesMut::from(bytes));
                true
            }
        }
    }

    /// The first bytes, all of which were put there together.
    pub(super) fn first(&self, bytes: usize) -> &[u8] {
        self.blocks.front().map_or(&[], |block| &block[..bytes])
    }

    /// Bytes behind the first `skipped`, as many as stand in one piece; empty when there are none.
    pub(super) fn behind(&self, mut skipped: usize) -> &[u8] {
        for block in &self.blocks {
            if skipped < block.len() {
                return &block[skipped..];
            }
            skipped -= block.len();
        }
        &[]
    }

    /// Forgets the first bytes.
    pub(super) fn consume(&mut self, mut bytes: usize) {
        self.len -= bytes;
        while bytes > 0
            && let Some(block) = self.blocks.front_mut()
        {
            let here = bytes.min(block.len());
            bytes -= here;
            if here < block.len() {
                block.advance(here);
                continue;
            }
            block.clear();
            if self.blocks.len() > 1 {
                self.spare.extend(self.blocks.pop_front());
            }
        }
    }

    /// Takes everything out, in one piece.
    pub(super) fn take(&mut self) -> BytesMut {
        self.len = 0;
        let mut blocks = std::mem::take(&mut self.blocks).into_iter();
        let mut all = blocks.next().unwrap_or_default();
        blocks.for_each(|block| all.extend_from_slice(&block));
        all
    }

    /// Keeps these bytes instead of none.
    pub(super) fn put(&mut self, bytes: BytesMut) {
        debug_assert_eq!(self.len, 0);
        self.len = bytes.len();
        self.blocks.clear();
        self.blocks.push_back(bytes);
    }

    /// Gives back room that is not used, but for some `bytes_max`.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        self.spare.truncate((bytes_max / BLOCK_BYTES).saturating_sub(1));
        if self.len == 0
            && let Some(block) = self.blocks.front_mut()
            && block.try_reclaim(bytes_max + 1)
        {
            self.blocks.clear();
        }
    }

    /// Memory held, in bytes, but for what was consumed of a block that is in use.
    pub(super) fn capacity(&self) -> usize {
        self.blocks.iter().chain(&self.spare).map(BytesMut::capacity).sum()
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
                    Step::Shrink => retained.shrink(0),
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
        assert!(retained.blocks.is_empty());
        retained.push(b"small");
        retained.consume(5);
        retained.shrink(50_000);
        assert!(!retained.blocks.is_empty());
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
