//! Events on their way out: numbered in one place, kept for a while, handed to whoever reads them.
//!
//! Nobody who publishes ever waits. Each reader has its own place in a ring of bounded length: who is too slow loses the
//! oldest records, and is told how many.

pub mod hub;

pub use hub::{EventHub, Reader};
