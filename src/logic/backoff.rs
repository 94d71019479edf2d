//! Waiting times that double.

use std::time::Duration;

/// Doubles from `first` up to `max`, and starts again after success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`, which must not be zero, and never exceeds `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        assert!(!first.is_zero(), "a backoff of zero never grows");
        Self { first, max, next: first.min(max) }
    }

    /// The time to wait now; the next one is twice as long.
    pub fn grow(&mut self) -> Duration {
        let now = self.next;
        self.next = now.saturating_mul(2).min(self.max);
        now
    }

    /// As [`Self::grow`], spread evenly over the upper half by `jitter` (0 to 1).
    pub fn grow_jittered(&mut self, jitter: f64) -> Duration {
        self.grow().mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked: the next failure waits the first time again.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn doubles_to_the_most_and_starts_again() {
        let mut backoff = Backoff::new(MS(10), MS(35));
        assert_eq!([backoff.grow(), backoff.grow(), backoff.grow(), backoff.grow()], [MS(10), MS(20), MS(35), MS(35)]);
        backoff.reset();
        assert_eq!(backoff.grow(), MS(10));
    }

    #[test]
    fn jitter_takes_off_half_at_most() {
        assert_eq!(Backoff::new(MS(10), MS(35)).grow_jittered(0.0), MS(5));
        assert_eq!(Backoff::new(MS(10), MS(35)).grow_jittered(1.0), MS(10));
    }
}
