//! What is known of a backend from its connections.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::logic::health::ServerIdentity;
use crate::logic::identity::IdentityId;

/// What is known of a backend from its connections.
#[derive(Clone, Debug, Default)]
pub struct BackendRecord {
    /// Connections to it that this worker may open, lanes included; `None`: any number.
    pub connections_max: Option<usize>,
    /// When a byte last came from it.
    pub heard_at: Option<Instant>,
    /// A slow-moving mean of the time that replies take.
    pub reply_time: Duration,
    /// Replies that came.
    pub successes: u64,
    /// Requests lost with their connection, connects that failed, "cannot serve" replies.
    pub failures: u64,
    /// What it called itself last.
    pub server: Option<ServerIdentity>,
    /// Databases from this number on do not exist, in the server's words.
    pub database_refused: Option<(u32, Bytes)>,
    /// RESP3 is not spoken there, in the server's words.
    pub resp3_refused: Option<Bytes>,
    /// These may not run ECHO there.
    pub echo_refused: Vec<IdentityId>,
    /// These may not select a database there, in the server's words.
    pub select_refused: Vec<(IdentityId, Bytes)>,
}

impl BackendRecord {
    /// What was said to an identity that wanted to select a database and may not.
    pub(super) fn select_refusal(&self, identity: IdentityId) -> Option<&Bytes> {
        self.select_refused.iter().find(|(refused, _)| *refused == identity).map(|(_, reply)| reply)
    }

    /// Whoever comes back may be another server, with other databases and other rules.
    pub(super) fn forget_refusals(&mut self) {
        (self.database_refused, self.resp3_refused) = (None, None);
        self.echo_refused.clear();
        self.select_refused.clear();
    }
}
