//! Backends that carry each other's messages: for a while both are listened to, and what came from one is dropped once
//! when it comes from the other. Equal messages are told apart by their number alone.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Messages remembered at most; those beyond may come twice.
const REMEMBERED_MAX: usize = 65_536;

/// From which of the two a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that delivered before the switch.
    Former,
    /// The one that delivers from now on.
    Latter,
}

impl Side {
    const fn sign(self) -> i32 {
        match self {
            Self::Former => 1,
            Self::Latter => -1,
        }
    }
}

/// What was delivered of late, and from where.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    /// Hashes of messages delivered, oldest first.
    recent: VecDeque<(Instant, u64, Side)>,
    /// By hash: how many more of them came from the former side than from the latter.
    surplus: HashMap<u64, i32>,
}

impl Overlap {
    /// Notes a message that is delivered whatever else came.
    pub(super) fn note(&mut self, side: Side, hash: u64, memory: Duration, now: Instant) {
        self.forget(memory, now);
        *self.surplus.entry(hash).or_default() += side.sign();
        self.recent.push_back((now, hash, side));
    }

    /// Whether a message is to be delivered: not if the other side brought it before.
    pub(super) fn admits(&mut self, side: Side, hash: u64, memory: Duration, now: Instant) -> bool {
        self.forget(memory, now);
        let surplus = self.surplus.entry(hash).or_default();
        if *surplus * side.sign() < 0 {
            *surplus += side.sign();
            if *surplus == 0 {
                self.surplus.remove(&hash);
            }
            return false;
        }
        self.note(side, hash, memory, now);
        true
    }

    /// The overlap is over: the latter side is the only one.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// What is older than this was brought by both sides, or never will be.
    fn forget(&mut self, memory: Duration, now: Instant) {
        while let Some(&(at, hash, side)) = self.recent.front()
            && (now.saturating_duration_since(at) > memory || self.recent.len() >= REMEMBERED_MAX)
        {
            self.recent.pop_front();
            if let Some(surplus) = self.surplus.get_mut(&hash)
                && *surplus * side.sign() > 0
            {
                *surplus -= side.sign();
                if *surplus == 0 {
                    self.surplus.remove(&hash);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMORY: Duration = Duration::from_secs(1);

    proptest! {
        /// Both sides carry the same messages, each in an order of its own: every one is delivered as often as it was
        /// published, equal ones among them.
        #[test]
        fn what_both_sides_carry_is_delivered_once(
            published in prop::collection::vec(0_u64..5, 1..60),
            order in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (now, mut overlap) = (Instant::now(), Overlap::default());
            let mut sides = [(Side::Former, published.clone()), (Side::Latter, published.iter().rev().copied().collect())];
            let mut delivered = Vec::new();
            let picks = order.into_iter().map(usize::from).chain([0, 1].into_iter().cycle());
            for pick in picks {
                if sides.iter().all(|(_, left)| left.is_empty()) {
                    break;
                }
                let (side, left) = &mut sides[pick];
                if let Some(hash) = left.pop()
                    && overlap.admits(*side, hash, MEMORY, now)
                {
                    delivered.push(hash);
                }
            }
            let mut published = published;
            published.sort_unstable();
            delivered.sort_unstable();
            prop_assert_eq!(delivered, published);
        }
    }

    #[test]
    fn what_the_former_side_brought_before_the_switch_is_dropped_from_the_latter_and_forgotten_in_time() {
        let (start, mut overlap) = (Instant::now(), Overlap::default());
        overlap.note(Side::Former, 1, MEMORY, start);
        overlap.note(Side::Former, 2, MEMORY, start);
        assert!(!overlap.admits(Side::Latter, 1, MEMORY, start + MEMORY));
        assert!(overlap.admits(Side::Latter, 1, MEMORY, start + MEMORY), "a second one is another");
        assert!(overlap.admits(Side::Latter, 2, MEMORY, start + MEMORY * 2), "too old to be the same");
        overlap.end();
        assert!(overlap.recent.is_empty() && overlap.surplus.is_empty());
    }
}
