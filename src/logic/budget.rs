//! A token bucket, for things that may be done only so often.

use std::time::Instant;

/// Refills with time and by what it is paid; never holds more than its burst.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Budget {
    /// A full bucket that gets `per_second` tokens a second and holds at most `burst`, at least one.
    #[must_use]
    pub const fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        let burst = if burst < 1.0 { 1.0 } else { burst };
        Self { per_second, burst, tokens: burst, filled_at: now }
    }

    /// Adds to the bucket, beyond what time adds.
    pub const fn pay(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.burst);
    }

    /// Whether there is a token.
    pub fn has_some(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = self.filled_at.max(now);
        self.pay(passed * self.per_second);
        self.tokens >= 1.0
    }

    /// Takes one token, if there is one.
    pub fn spend(&mut self, now: Instant) -> bool {
        let allowed = self.has_some(now);
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn allows_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(10.0, 3.0, start);
        let allowed = |budget: &mut Budget, at| (0..10).filter(|_| budget.spend(at)).count();
        assert_eq!(allowed(&mut budget, start), 3);
        let mut later = budget;
        assert!(!budget.has_some(start) && later.has_some(start + Duration::from_millis(200)));
        assert_eq!(allowed(&mut budget, start + Duration::from_millis(250)), 2);
        budget.pay(1.0);
        assert_eq!(allowed(&mut budget, start + Duration::from_millis(250)), 1);
        assert_eq!(allowed(&mut budget, start + Duration::from_secs(3600)), 3);
    }
}
