//! RESP framing, pure: where a request or a reply ends, and how one is written.

pub mod arguments;
