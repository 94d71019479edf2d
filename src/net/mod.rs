//! Sockets: listening, options, TLS, the PROXY header, dialling with the handshake; an HTTP request.

pub mod dial;
pub mod http;
pub mod listen;
pub mod proxy_header;
pub mod recruit;
pub mod socket;
pub mod stream;
pub mod tls;
