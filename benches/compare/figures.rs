//! What was measured, kept in a file so that tables and plots can be made again, and the medians of it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::common::median;

/// A measurement during which others – processes of this machine or its host – used more than this many cores is left
/// out, if enough are left.
pub const OTHERS_MAX: f64 = 0.1;
const ROUNDS_KEPT_MIN: usize = 3;

/// A shape of load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// What of the issue it belongs to: `throughput`, `latency` …
    pub row: String,
    /// The kind of work, with what is special about it.
    pub work: String,
    pub clients: usize,
    pub pipeline: usize,
    pub bytes: usize,
}

/// One measurement of one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub shape: Shape,
    pub system: String,
    /// Seconds since 1970 at which the program started: absolute figures compare only within a round of a run.
    pub run: u64,
    pub round: usize,
    pub values: BTreeMap<String, f64>,
}

/// Samples, by what they are about.
#[derive(Default)]
pub struct Figures {
    samples: Vec<Sample>,
}

impl Figures {
    /// Those of a file, one JSON object a line.
    pub fn read(file: &Path) -> Self {
        let lines = File::open(file).map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok);
        Self { samples: lines.filter_map(|line| serde_json::from_str(&line).ok()).collect() }
    }

    /// One more, which goes to the end of `file` too.
    pub fn add(&mut self, sample: Sample, file: &Path) -> std::io::Result<()> {
        let line = serde_json::to_string(&sample)?;
        self.samples.push(sample);
        writeln!(OpenOptions::new().create(true).append(true).open(file)?, "{line}")
    }

    /// The shapes of a row, in the order in which they were first measured.
    pub fn shapes(&self, row: &str) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.shape.row == row) {
            if !shapes.contains(&sample.shape) {
                shapes.push(sample.shape.clone());
            }
        }
        shapes
    }

    /// The rows, in the order in which they were first measured.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = Vec::new();
        for sample in &self.samples {
            if !rows.contains(&sample.shape.row) {
                rows.push(sample.shape.row.clone());
            }
        }
        rows
    }

    /// The systems measured with a shape, by their names.
    pub fn systems(&self, shape: &Shape) -> Vec<String> {
        let mut systems: Vec<_> =
            self.samples.iter().filter(|sample| sample.shape == *shape).map(|sample| sample.system.clone()).collect();
        systems.sort();
        systems.dedup();
        systems
    }

    /// The names of what was measured with a shape.
    pub fn names(&self, shape: &Shape) -> Vec<String> {
        let samples = self.samples.iter().filter(|sample| sample.shape == *shape);
        let mut names: Vec<_> = samples.flat_map(|sample| sample.values.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The median over the rounds kept.
    pub fn value(&self, shape: &Shape, system: &str, name: &str) -> Option<f64> {
        let mut found: Vec<f64> =
            self.kept(shape, system).filter_map(|sample| sample.values.get(name).copied()).collect();
        (!found.is_empty()).then(|| median(&mut found))
    }

    /// The median of the ratios to another system within the same round.
    pub fn ratio(&self, shape: &Shape, system: &str, name: &str, other: &str) -> Option<f64> {
        let ratio = |sample: &Sample| {
            let beside = self.samples.iter().find(|beside| {
                beside.system == other
                    && beside.shape == *shape
                    && (beside.run, beside.round) == (sample.run, sample.round)
            })?;
            let ratio = sample.values.get(name)? / beside.values.get(name)?;
            Some((ratio, is_quiet(&sample.values) && is_quiet(&beside.values)))
        };
        let of_system = |sample: &&Sample| sample.shape == *shape && sample.system == system;
        let pairs: Vec<(f64, bool)> = self.samples.iter().filter(of_system).filter_map(ratio).collect();
        let quiet = pairs.iter().filter(|(_, is_quiet)| *is_quiet).count();
        let kept = pairs.iter().filter(|(_, is_quiet)| quiet < ROUNDS_KEPT_MIN || *is_quiet);
        let mut found: Vec<f64> = kept.map(|(ratio, _)| *ratio).collect();
        (!found.is_empty()).then(|| median(&mut found))
    }

    /// How many measurements count, and of how many.
    pub fn counts(&self, shape: &Shape, system: &str) -> (usize, usize) {
        let all = self.samples.iter().filter(|sample| sample.shape == *shape && sample.system == system).count();
        (self.kept(shape, system).count(), all)
    }

    /// The quiet ones, or all when there are too few of these.
    fn kept<'a>(&'a self, shape: &'a Shape, system: &'a str) -> impl Iterator<Item = &'a Sample> {
        let of_system = move |sample: &&Sample| sample.shape == *shape && sample.system == system;
        let quiet = self.samples.iter().filter(of_system).filter(|sample| is_quiet(&sample.values)).count();
        self.samples.iter().filter(of_system).filter(move |sample| quiet < ROUNDS_KEPT_MIN || is_quiet(&sample.values))
    }
}

/// Whether hardly anybody else used the cores meanwhile.
pub fn is_quiet(values: &BTreeMap<String, f64>) -> bool {
    values.get("others").is_none_or(|&others| others <= OTHERS_MAX)
}
