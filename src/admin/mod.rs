//! The admin plane: metrics, health and status over HTTP. It owns nothing: it asks and shows.
