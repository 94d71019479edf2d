//! The text that Prometheus reads, version 0.0.4.
//!
//! By hand, since the sums that are shown here are ready-made: durations come in buckets, seconds are no whole numbers,
//! and the `metrics` recorders take neither.

use std::fmt::{Display, Write};

/// What a metric's number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// A metric's name and what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

impl Metric {
    pub(crate) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    pub(crate) const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, help }
    }
}

/// Label names with their values.
pub(crate) type Labels<'a> = [(&'a str, &'a str)];

/// The text so far.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Begins a metric; its samples follow.
    pub(crate) fn begin(&mut self, metric: &Metric) -> Samples<'_> {
        let Metric { name, kind, help } = metric;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Samples { text: self, name }
    }

    /// A metric with one sample.
    pub(crate) fn single(&mut self, metric: &Metric, labels: &Labels<'_>, value: impl Display) {
        self.begin(metric).sample(labels, value);
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes everything");
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &Labels<'_>, value: impl Display) {
        self.line(format_args!("{name}{suffix}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            self.line(format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{end} {value}\n"));
    }
}

/// Where the samples of one metric go.
pub(crate) struct Samples<'t> {
    text: &'t mut Exposition,
    name: &'static str,
}

impl Samples<'_> {
    /// One number.
    pub(crate) fn sample(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.text.sample(self.name, "", labels, value);
    }

    /// Buckets with their upper bounds and one more without; `counts` are not yet added up.
    pub(crate) fn histogram(&mut self, labels: &Labels<'_>, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (index, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(index).map_or("+Inf".to_owned(), ToString::to_string);
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.text.sample(self.name, "_bucket", &labels, total);
        }
        self.text.sample(self.name, "_sum", labels, sum);
        self.text.sample(self.name, "_count", labels, total);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_below_their_help_and_type() {
        let mut text = Exposition::default();
        text.single(&Metric::gauge("a", "An A."), &[], 1);
        let mut samples = text.begin(&Metric::counter("b_seconds_total", "Bs."));
        samples.sample(&[("name", "a\"b\\c\nd"), ("x", "")], 0.5);
        let expected = "# HELP a An A.\n# TYPE a gauge\na 1\n# HELP b_seconds_total Bs.\n# TYPE b_seconds_total counter\n\
                        b_seconds_total{name=\"a\\\"b\\\\c\\nd\",x=\"\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn buckets_are_added_up() {
        let mut text = Exposition::default();
        let metric = Metric::histogram("d", "D.");
        text.begin(&metric).histogram(&[("class", "x")], &[0.00005, 1.0], &[1, 2, 4], 9.25);
        let expected = "# HELP d D.\n# TYPE d histogram\nd_bucket{class=\"x\",le=\"0.00005\"} 1\n\
                        d_bucket{class=\"x\",le=\"1\"} 3\nd_bucket{class=\"x\",le=\"+Inf\"} 7\n\
                        d_sum{class=\"x\"} 9.25\nd_count{class=\"x\"} 7\n";
        assert_eq!(text.finish(), expected);
    }
}
