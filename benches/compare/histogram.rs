//! Latencies in buckets whose width grows with their value: within 2 % of it, whatever it is, in 15 KiB.

use std::time::Duration;

/// Each power of two has so many buckets of the same width.
const STEPS: u64 = 1 << STEPS_LOG;
const STEPS_LOG: u32 = 5;
const BUCKETS: usize = ((64 - STEPS_LOG as usize) + 1) * STEPS as usize;

/// How often each latency was seen, in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Histogram {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS] }
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        self.buckets[bucket_of(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX))] += 1;
    }

    /// Those of another too.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| *ours += theirs);
    }

    /// Microseconds below which `share` of all lie; not a number when nothing was seen.
    pub fn percentile_us(&self, share: f64) -> f64 {
        let total: u64 = self.buckets.iter().sum();
        let wanted = share * total as f64;
        let mut seen = 0.0;
        for (bucket, &count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += count as f64;
            if seen >= wanted {
                return middle_of(bucket) / 1e3;
            }
        }
        f64::NAN
    }
}

fn bucket_of(value: u64) -> usize {
    let magnitude = (u64::BITS - value.leading_zeros()).saturating_sub(STEPS_LOG + 1);
    (u64::from(magnitude) * STEPS + (value >> magnitude)) as usize
}

fn middle_of(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    let magnitude = (bucket / STEPS).saturating_sub(1);
    let width = 2_f64.powi(magnitude as i32);
    (bucket - magnitude * STEPS) as f64 * width + width / 2.0
}
