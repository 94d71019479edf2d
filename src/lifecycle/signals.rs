//! What the operator's signals mean.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The first SIGTERM or SIGINT: take no new clients, let those here finish.
    Drain,
    /// Another SIGTERM or SIGINT: end at once.
    Now,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The process's signals, in the order in which they came.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    draining: bool,
}

impl Signals {
    /// From here on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            draining: false,
        })
    }

    /// The next one. Loses nothing when dropped while it waits.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => self.stop(),
            Some(()) = self.interrupt.recv() => self.stop(),
            Some(()) = self.hangup.recv() => Signal::Reload,
            else => std::future::pending().await,
        }
    }

    fn stop(&mut self) -> Signal {
        if std::mem::replace(&mut self.draining, true) { Signal::Now } else { Signal::Drain }
    }
}
