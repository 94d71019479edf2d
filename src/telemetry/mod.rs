//! Logging and metrics: every name, label and help text.

pub mod counters;
mod exposition;
pub mod logging;
pub mod metrics;
