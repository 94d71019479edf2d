//! Logging and metrics: every name, label and help text.
