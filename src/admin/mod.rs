//! The admin plane: metrics, health and status over HTTP. It owns nothing: it asks and shows.

mod connections;
pub mod http;
pub mod status;
