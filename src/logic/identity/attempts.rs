//! How often a source may try to authenticate: after a few failures in a row, once a second.

use core::net::Ipv6Addr;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// So many failures in a row are let pass without delay.
const FAILURES_FREE: u32 = 3;
/// Between two attempts of a source beyond that: a delay for each, and a bound for all of them together.
const DELAY: Duration = Duration::from_secs(1);
/// A source without a failure for so long begins anew.
const MEMORY: Duration = Duration::from_secs(60);
/// Sources that are remembered; beyond it the one that failed longest ago is forgotten.
const SOURCES_MAX: usize = 1024;

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Now.
    Now,
    /// Ask again then.
    After(Instant),
}

/// The sources that failed lately.
#[derive(Debug, Default)]
pub struct Attempts {
    sources: HashMap<String, Source>,
}

#[derive(Debug)]
struct Source {
    in_a_row: u32,
    failed_at: Instant,
    next_at: Instant,
}

/// Where a client with this address comes from: its host, or its network of 64 bits with IPv6, of which a single host
/// has every address (RFC 4291).
#[must_use]
pub fn source_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        Ok(ip) if ip.to_ipv4_mapped().is_none() => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        _ => host.to_owned(),
    }
}

impl Attempts {
    /// Asks for an attempt; one that is admitted is taken.
    pub fn admit(&mut self, source: &str, now: Instant) -> Admission {
        let Some(known) = self.sources.get_mut(source) else { return Admission::Now };
        if now.saturating_duration_since(known.failed_at) >= MEMORY {
            self.sources.remove(source);
            return Admission::Now;
        }
        if known.in_a_row < FAILURES_FREE {
            return Admission::Now;
        }
        if known.next_at > now {
            return Admission::After(known.next_at);
        }
        known.next_at = now + DELAY;
        Admission::Now
    }

    /// An attempt failed.
    pub fn failed(&mut self, source: &str, now: Instant) {
        if !self.sources.contains_key(source) && self.sources.len() >= SOURCES_MAX {
            let oldest = self.sources.iter().min_by_key(|(_, known)| known.failed_at).map(|(name, _)| name.clone());
            oldest.map(|name| self.sources.remove(&name));
        }
        let fresh = Source { in_a_row: 0, failed_at: now, next_at: now };
        let known = self.sources.entry(source.to_owned()).or_insert(fresh);
        known.in_a_row += 1;
        known.failed_at = now;
        known.next_at = known.next_at.max(now + DELAY);
    }

    /// An attempt succeeded: the row of failures has ended.
    pub fn succeeded(&mut self, source: &str) {
        self.sources.remove(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_three_failures_in_a_row_there_is_one_attempt_a_second_for_all_connections_of_a_source() {
        let start = Instant::now();
        let mut attempts = Attempts::default();
        for _ in 0..3 {
            assert_eq!(attempts.admit("a", start), Admission::Now);
            attempts.failed("a", start);
        }
        assert_eq!(attempts.admit("a", start), Admission::After(start + DELAY));
        assert_eq!(attempts.admit("b", start), Admission::Now);
        let (mut admitted, mut now) = (0, start);
        while now < start + Duration::from_secs(60) {
            for _ in 0..5 {
                if attempts.admit("a", now) == Admission::Now {
                    admitted += 1;
                    attempts.failed("a", now);
                }
            }
            now += Duration::from_millis(10);
        }
        assert!((50..=60).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_source_is_a_host_or_a_network_of_one_owner() {
        let cases = [
            ("10.0.0.1:4711", "10.0.0.1"),
            ("[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2:ffff::1]:80", "2001:db8:1:2::/64"),
            ("[2001:db8:1:3::1]:80", "2001:db8:1:3::/64"),
            ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]"),
            ("/run/handover.sock:0", "/run/handover.sock"),
        ];
        for (address, source) in cases {
            assert_eq!(source_of(address), source);
        }
    }

    #[test]
    fn a_success_or_a_minute_of_peace_ends_the_delay() {
        let start = Instant::now();
        for is_success in [true, false] {
            let mut attempts = Attempts::default();
            (0..9).for_each(|_| attempts.failed("a", start));
            let later = if is_success { start } else { start + MEMORY };
            if is_success {
                attempts.succeeded("a");
            }
            assert_eq!(attempts.admit("a", later), Admission::Now);
            assert_eq!(attempts.admit("a", later), Admission::Now);
        }
    }

    #[test]
    fn no_more_sources_are_remembered_than_the_bound() {
        let start = Instant::now();
        let mut attempts = Attempts::default();
        for index in 0..3 * SOURCES_MAX {
            attempts.failed(&index.to_string(), start + Duration::from_millis(index as u64));
        }
        assert_eq!(attempts.sources.len(), SOURCES_MAX);
        assert!(attempts.sources.contains_key(&(3 * SOURCES_MAX - 1).to_string()));
    }
}
