//! `handover version`.

/// The line that it prints.
#[must_use]
pub fn version() -> &'static str {
    concat!("handover ", env!("CARGO_PKG_VERSION"))
}
