//! Sockets: listening, options, dialling with the handshake.

pub mod dial;
pub mod listen;
pub mod stream;
