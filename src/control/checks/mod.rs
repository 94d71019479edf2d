//! The health checks of one backend, and what they say together.

pub(super) mod command;
mod exec;
mod lag;
pub(super) mod program;

use self::command::{CommandCheck, Told};
use self::exec::ProgramCheck;
pub use self::lag::LagWatch;
use crate::config::Backend;
use crate::logic::health::ProbeVerdict;
use crate::logic::settings::{HealthSettings, ProbeMode};
use crate::tls;

/// Checks one backend in every way that is configured; all must agree.
pub struct Checker {
    /// `None`: no mode is one of commands.
    commands: Option<CommandCheck>,
    program: Option<ProgramCheck>,
    /// The commands of the probe that is under way have been answered.
    has_reply: bool,
}

impl Checker {
    /// For one backend of `group`; nothing is opened or started yet. `tls` is there exactly if its connections use TLS.
    #[must_use]
    pub fn new(group: &str, backend: &Backend, settings: &HealthSettings, tls: Option<tls::Client>) -> Self {
        let has_commands = settings.modes.iter().any(|mode| !matches!(mode, ProbeMode::Lag | ProbeMode::Exec));
        Self {
            commands: has_commands.then(|| CommandCheck::new(backend, settings, tls)),
            program: backend.checks.exec.as_ref().map(|check| ProgramCheck::new(group, backend, check)),
            has_reply: false,
        }
    }

    /// Asks once, commands on a new connection if `is_fresh` or if there is none; says whether it was a new one.
    /// If the caller gives up, the connection is closed with its unanswered commands, and a program started for this
    /// probe is ended.
    pub async fn probe(&mut self, is_fresh: bool) -> (ProbeVerdict, bool) {
        self.has_reply = self.commands.is_none();
        match (&mut self.commands, &mut self.program) {
            (Some(commands), None) => commands.probe(is_fresh).await,
            (None, Some(program)) => (program.probe().await.unwrap_or_else(ProbeVerdict::failed), is_fresh),
            (Some(commands), Some(program)) => both(commands, program, is_fresh, &mut self.has_reply).await,
            (None, None) => (ProbeVerdict::good(), is_fresh),
        }
    }

    /// What the server says of itself, asked on the connection that the last probe has left; `None`: nothing was asked,
    /// or the connection was lost.
    pub async fn facts(&mut self) -> Option<Told> {
        match &mut self.commands {
            Some(commands) => commands.facts().await,
            None => None,
        }
    }

    /// What is missing while a probe goes on.
    #[must_use]
    pub const fn silence(&self) -> &'static str {
        if self.has_reply { "no answer from the program of health.exec" } else { "no reply" }
    }
}

/// Both at the same time; the first that is bad ends it.
async fn both(
    commands: &mut CommandCheck,
    program: &mut ProgramCheck,
    is_fresh: bool,
    has_reply: &mut bool,
) -> (ProbeVerdict, bool) {
    let (asking, answering) = (commands.probe(is_fresh), program.probe());
    tokio::pin!(asking, answering);
    tokio::select! {
        biased;
        (replied, was_fresh) = &mut asking => {
            *has_reply = true;
            match replied {
                ProbeVerdict::Good { .. } => (agreed(replied, answering.await), was_fresh),
                bad => (bad, was_fresh),
            }
        }
        answer = &mut answering => match answer {
            Ok(bad @ ProbeVerdict::Failed { .. }) => (bad, is_fresh),
            answer => {
                let (replied, was_fresh) = asking.await;
                (agreed(replied, answer), was_fresh)
            }
        },
    }
}

/// A program that cannot be asked weakens the check; only what it says counts against the backend.
fn agreed(replied: ProbeVerdict, answer: Result<ProbeVerdict, String>) -> ProbeVerdict {
    match (replied, answer) {
        (ProbeVerdict::Good { server, role, warning }, Err(cause)) => {
            ProbeVerdict::Good { server, role, warning: warning.or(Some(cause)) }
        }
        (good @ ProbeVerdict::Good { .. }, Ok(ProbeVerdict::Good { .. })) => good,
        (ProbeVerdict::Good { .. }, Ok(bad)) => bad,
        (bad, _) => bad,
    }
}
