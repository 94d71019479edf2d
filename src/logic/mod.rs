//! The pure core: every decision, as machines that take events and the time and return what to do.
//! No sockets, no clock, no `async`, no randomness; `tests/layering.rs` reads these sources and holds it.

pub mod arena;
pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod detector;
pub mod drill;
pub mod explain;
pub mod failover;
pub mod health;
pub mod identity;
pub mod impostor;
pub mod judged;
pub mod latency;
pub mod multiplexer;
pub mod parity;
pub mod record;
pub mod replication;
pub mod report;
pub mod route;
pub mod selection;
pub mod settings;
pub mod utc;
