//! The admin plane: metrics, health and status over HTTP, and the operator's console. It owns nothing: it
//! asks and shows.

mod connections;
pub mod console;
pub mod desk;
pub mod events;
pub mod guard;
pub mod http;
mod remote;
pub mod status;
