//! What the machine tells its shell: connections to open and close, reports, questions, lines for the log.

use bytes::Bytes;

use super::client_command::Inquiry;
use super::link::{Profile, Role};
use super::session::CloseReason;
use super::{LinkKey, SessionKey};
use crate::logic::health::ServerIdentity;
use crate::logic::judged::Judged;
use crate::logic::route::BackendId;

/// What the shell must do. Bytes to write are not among it: see [`Multiplexer::next_link_to_write`] and
/// [`Multiplexer::next_session_to_write`].
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a connection and answer with [`Multiplexer::on_dialled`].
    Dial(Dial),
    /// Close a connection; `reset` so that nothing written there is carried out any more, as far as that can be had.
    CloseLink {
        /// Which.
        link: LinkKey,
        /// With RST rather than FIN.
        reset: bool,
    },
    /// Close a client's connection; what it had to read has been written, or never will be.
    CloseSession {
        /// Which.
        session: SessionKey,
        /// Why.
        reason: CloseReason,
    },
    /// Read from this client again.
    Resume(SessionKey),
    /// Read from this backend connection again.
    ResumeLink(LinkKey),
    /// Tell the supervisor.
    Report(Report),
    /// Ask every worker of the group with [`Multiplexer::on_inquiry`], and answer with [`Multiplexer::on_findings`].
    Inquire {
        /// Who asks.
        session: SessionKey,
        /// What.
        inquiry: Inquiry,
    },
    /// Send `CLIENT UNBLOCK` for a blocked command to a backend, on a control connection.
    Unblock {
        /// To whom.
        backend: BackendId,
        /// The server's number of the blocked connection.
        client_id: i64,
    },
    /// Say in the log that somebody could not authenticate.
    FailedLogin {
        /// From where: an address without its port.
        source: String,
    },
    /// Say in the log that a backend does not accept a user any more whose clients were served.
    RevokedLogin {
        /// Who says so.
        backend: BackendId,
        /// How many clients were closed.
        clients: usize,
    },
}

/// A connection to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// For this link.
    pub link: LinkKey,
    /// To whom.
    pub backend: BackendId,
    /// What to ask for in the handshake.
    pub profile: Profile,
    /// What it is for.
    pub role: Role,
}

/// What opening a connection came to.
#[derive(Clone, Debug, PartialEq)]
pub enum DialOutcome {
    /// It works.
    Ready {
        /// `CLIENT ID`, where the server tells it.
        client_id: Option<i64>,
        /// What the server calls itself, where it tells it.
        server: Option<ServerIdentity>,
        /// MULTI and EXEC are permitted there.
        takes_groups: bool,
    },
    /// It works, but its identity may not run ECHO: nothing proves that replies are in step.
    Unproven {
        /// `CLIENT ID`, where the server tells it.
        client_id: Option<i64>,
        /// What the server calls itself, where it tells it.
        server: Option<ServerIdentity>,
    },
    /// It works, but a script keeps the server busy, so that it answers no ECHO now.
    Busy {
        /// `CLIENT ID`, where the server tells it.
        client_id: Option<i64>,
        /// What the server calls itself, where it tells it.
        server: Option<ServerIdentity>,
    },
    /// The server does not accept the identity, in these words.
    RefusedIdentity(Bytes),
    /// The identity may not select a database, in these words.
    RefusedSelect(Bytes),
    /// The server does not have the database, in these words (an error reply's bytes).
    RefusedDatabase(Bytes),
    /// The server does not speak RESP3, in these words.
    RefusedProtocol(Bytes),
    /// It could not be opened.
    Failed(String),
}

/// What the supervisor is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A connection that had worked was lost.
    LinkLost {
        /// Whose.
        backend: BackendId,
        /// Of which epoch.
        epoch: u64,
        /// What was seen.
        cause: String,
    },
    /// A connection could not be opened.
    ConnectFailed {
        /// To whom.
        backend: BackendId,
        /// Why.
        cause: String,
    },
    /// A connection was opened.
    Connected(BackendId),
    /// A reply on live traffic began with a word that means "cannot serve".
    CannotServe {
        /// Who.
        backend: BackendId,
        /// Which word.
        word: &'static str,
    },
    /// Nothing is in flight any more, in this attempt at a planned switch.
    Drained(u64),
    /// Nothing is written to the old backend any more, in this attempt at a forced switch.
    Stopped(u64),
    /// Commands flow in a new epoch.
    Activated {
        /// Which.
        epoch: u64,
        /// What became of what was in flight.
        judged: Judged,
    },
}
