//! What is known of a backend from its connections.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link::Waited;
use crate::logic::health::ServerIdentity;
use crate::logic::identity::IdentityId;
use crate::logic::latency::Histogram;

/// A request that may legally run long and took so much time has made others wait.
const DISTURBING: Duration = Duration::from_millis(10);

/// What is known of a backend from its connections.
#[derive(Clone, Debug, Default)]
pub struct BackendRecord {
    /// Connections to it that this worker may open, lanes included; `None`: any number.
    pub connections_max: Option<usize>,
    /// When a byte last came from it.
    pub heard_at: Option<Instant>,
    /// A slow-moving mean of the time that replies take.
    pub reply_time: Duration,
    /// Runs by the time that they waited for their replies.
    pub replies: Histogram,
    /// How often requests that may legally run long, or Handover itself, kept replies waiting.
    pub disturbances: u64,
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
    /// A run took so long.
    pub(super) fn note_reply_time(&mut self, took: Duration) {
        match took.checked_sub(self.reply_time) {
            Some(more) => self.reply_time += more / 16,
            None => self.reply_time -= (self.reply_time - took) / 16,
        }
    }

    /// A run was answered.
    pub(super) fn note_waited(&mut self, waited: Waited) {
        match waited.is_slow {
            true => self.disturbances += u64::from(waited.time >= DISTURBING),
            false => self.replies.count(waited.time),
        }
    }

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
