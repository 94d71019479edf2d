//! Sockets: dialling with the handshake, socket options, scratch buffers.
