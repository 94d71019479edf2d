//! Health of one backend from the verdicts of its probes.

/// What a probe round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// It can serve. `warning` names a part of the probe that it refuses to run.
    Good {
        /// What the server called itself: `redis` or `valkey`, and its version.
        server: Option<ServerIdentity>,
        /// `master` or `slave` as far as ROLE was allowed.
        role: Option<String>,
        /// A part of the probe that was refused, so that the verdict is weaker.
        warning: Option<String>,
    },
    /// It answered with a word that means "cannot serve" (READONLY, LOADING, MASTERDOWN …): counts as `fall` rounds.
    CannotServe {
        /// The reply's first line.
        reply: String,
    },
    /// It did not answer, or not as it should.
    Failed {
        /// What was seen.
        cause: String,
        /// The connection was refused, so nobody listens there.
        refused: bool,
    },
    /// The round says nothing: Handover itself was late.
    Void,
}

/// The server's name and version, for HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// `redis` or `valkey`.
    pub name: String,
    /// Its version.
    pub version: String,
}
