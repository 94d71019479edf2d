//! The health checks of one backend, and what they say together.

pub(super) mod command;

use self::command::{CommandCheck, Told};
use crate::config::Backend;
use crate::logic::health::ProbeVerdict;
use crate::logic::settings::HealthSettings;
use crate::tls;

/// Checks one backend in every way that is configured.
pub struct Checker {
    commands: CommandCheck,
}

impl Checker {
    /// For one backend; nothing is opened yet. `tls` is there exactly if its connections use TLS.
    #[must_use]
    pub fn new(backend: &Backend, settings: &HealthSettings, tls: Option<tls::Client>) -> Self {
        Self { commands: CommandCheck::new(backend, settings, tls) }
    }

    /// Asks once, on a new connection if `is_fresh` or if there is none; says whether it was a new one.
    /// If the caller gives up, the connection is closed with its unanswered commands.
    pub async fn probe(&mut self, is_fresh: bool) -> (ProbeVerdict, bool) {
        self.commands.probe(is_fresh).await
    }

    /// What the server says of itself, asked on the connection that the last probe has left; `None`: nothing was asked,
    /// or the connection was lost.
    pub async fn facts(&mut self) -> Option<Told> {
        self.commands.facts().await
    }
}
