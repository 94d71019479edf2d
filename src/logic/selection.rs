//! Which backend is preferred: the heaviest that may be chosen; among equals the one that serves stays.

use crate::logic::route::BackendId;

/// One backend as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub id: BackendId,
    /// Preference, > 0.
    pub weight: f64,
    /// It may be chosen.
    pub is_eligible: bool,
}

/// The heaviest eligible candidate. Among equal weights `current` stays, else the first in the given order.
#[must_use]
pub fn best(candidates: impl IntoIterator<Item = Candidate>, current: Option<BackendId>) -> Option<BackendId> {
    let mut best: Option<Candidate> = None;
    for candidate in candidates.into_iter().filter(|candidate| candidate.is_eligible) {
        let is_better = best.is_none_or(|best| {
            candidate.weight > best.weight || (candidate.weight == best.weight && Some(candidate.id) == current)
        });
        if is_better {
            best = Some(candidate);
        }
    }
    best.map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u16, weight: f64, is_eligible: bool) -> Candidate {
        Candidate { id: BackendId(id), weight, is_eligible }
    }

    #[test]
    fn the_heaviest_eligible_wins() {
        let candidates = [candidate(0, 1.0, true), candidate(1, 3.0, false), candidate(2, 2.0, true)];
        assert_eq!(best(candidates, Some(BackendId(0))), Some(BackendId(2)));
        assert_eq!(best([candidate(0, 1.0, false)], Some(BackendId(0))), None);
    }

    #[test]
    fn among_equals_the_current_stays_else_the_first() {
        let candidates = [candidate(0, 1.0, true), candidate(1, 1.0, true), candidate(2, 1.0, true)];
        assert_eq!(best(candidates, Some(BackendId(1))), Some(BackendId(1)));
        assert_eq!(best(candidates, None), Some(BackendId(0)));
        assert_eq!(best(candidates, Some(BackendId(9))), Some(BackendId(0)));
    }
}
