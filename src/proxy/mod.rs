//! The data plane: client socket → frame → class → lane or pin → backend → reply.
//!
//! One acceptor hands sockets out in turn; each worker is a thread with a runtime of its own and, for each group,
//! a [`hub::Hub`]: the pure multiplexer with the sockets that belong to it.

pub mod acceptor;
pub mod client;
mod drill;
pub mod entry;
pub mod hub;
pub mod inquiry;
mod link;
mod notice;
mod publish;
mod sockets;
mod unblock;
pub mod worker;
