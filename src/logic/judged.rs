//! What became of the commands that were in flight at a fault or a switch.

use std::ops::AddAssign;

/// Counts that add up to what was in flight (contract, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Never sent; goes to the new active.
    pub moved: u64,
    /// Sent without a reply, and safe to send again.
    pub repeated: u64,
    /// Blocked commands that wait again on the new active.
    pub rearmed: u64,
    /// Sent without a reply, and not safe to repeat: answered `-UNCERTAIN`.
    pub uncertain: u64,
    /// Never sent, and refused as not applied.
    pub not_applied: u64,
    /// Transactions ended by the switch.
    pub aborted: u64,
    /// Commands whose client had gone.
    pub gone: u64,
}

impl Judged {
    /// What was in flight.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.moved + self.repeated + self.rearmed + self.uncertain + self.not_applied + self.aborted + self.gone
    }
}

impl AddAssign for Judged {
    fn add_assign(&mut self, other: Self) {
        self.moved += other.moved;
        self.repeated += other.repeated;
        self.rearmed += other.rearmed;
        self.uncertain += other.uncertain;
        self.not_applied += other.not_applied;
        self.aborted += other.aborted;
        self.gone += other.gone;
    }
}
