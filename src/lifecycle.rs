//! Tracked tasks, stop, grace.
