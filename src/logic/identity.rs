//! Who clients are: how they prove it, whose rights their commands have, and when that is asked again.

mod attempts;
mod registry;
mod secret;
mod users;

use std::time::Duration;

pub use attempts::{Admission, Attempts, source_of};
pub use registry::{Registry, Standing};
pub use secret::{Login, PasswordHash, Secret};
pub use users::{Account, Users};

/// How clients prove who they are (`[identity]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityMode {
    /// They need not: every command has the rights of the backend's configured user.
    #[default]
    Open,
    /// To Handover, which has users of its own.
    Users,
    /// To the active backend, whose users they are.
    Passthrough,
}

/// What `[identity]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySettings {
    /// How clients prove who they are.
    pub mode: IdentityMode,
    /// A client that has not authenticated within this time is closed; > 0.
    pub authentication_timeout: Duration,
    /// Between two verifications of an identity of `passthrough` that is in use, at most; > 0.
    pub verify_interval: Duration,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            mode: IdentityMode::Open,
            authentication_timeout: Duration::from_secs(10),
            verify_interval: Duration::from_secs(60),
        }
    }
}

/// Whose rights a backend connection has. Numbers are never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityId(u32);

impl IdentityId {
    /// The user of the backend's URL.
    pub const CONFIGURED: Self = Self(0);
}
