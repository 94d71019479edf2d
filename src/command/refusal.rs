//! Every line that Handover itself sends to a client as an error. Clients act on the first word, so words are interface.

use std::fmt;

use crate::resp::request::ProtocolError;

/// An error reply of Handover's own (contract, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No backend could serve and nothing of the burst was applied: clients may retry.
    Loading,
    /// No backend could serve; other requests of the burst were answered, so a retry of the burst is not safe.
    Unavailable,
    /// The command was sent and its reply lost.
    Uncertain,
    /// The backend changed between MULTI and EXEC.
    TransactionMoved,
    /// MULTI or WATCH was not accepted, or a command was refused in the queue.
    TransactionRefused,
    /// A command between a refused MULTI or WATCH and its EXEC.
    OutsideTransaction,
    /// The command is refused by the proxy's list.
    RefusedCommand(String),
    /// The command is denied by the operator's list.
    DeniedCommand(String),
    /// It concerns the clients of other users, and their rights are the servers' own.
    OthersClients,
    /// The command cannot be queued in a transaction through a proxy.
    RefusedInTransaction(String),
    /// A command that a later version will know.
    Unsupported(String),
    /// CLIENT TRACKING with REDIRECT to a client that another worker serves.
    RedirectElsewhere,
    /// WAIT or WAITAOF after writes of which nobody can say any more where they are.
    WaitMoved,
    /// WAIT or WAITAOF where PUBLISH, which must go before it, is refused in these words.
    WaitUnmarked(String),
    /// A cluster command: Handover answers as a server without cluster mode.
    ClusterDisabled,
    /// No connection of one's own could be had in time.
    PinLimit,
    /// A cursor of SCAN or its family that another backend gave, or the same one before a switch.
    StaleCursor,
    /// Too many lanes: users, databases and protocol versions in use at a time.
    LaneLimit,
    /// The process serves as many clients as it may.
    ClientLimit,
    /// A number of arguments that the command cannot have.
    WrongArity(String),
    /// EXEC or DISCARD without MULTI.
    WithoutMulti(&'static str),
    /// A word that Redis itself would answer with, in its own text.
    Redis(&'static str),
    /// A command that a RESP2 subscriber may not use.
    Subscribed(String),
    /// Bytes that are no RESP.
    Protocol(ProtocolError),
    /// A user that does not exist, or a password that is not its own.
    WrongPassword,
    /// A command of a client that has not authenticated, in Redis's words.
    Unauthenticated,
    /// The same, of EXEC.
    UnauthenticatedExec,
    /// The same, of HELLO without AUTH.
    UnauthenticatedHello,
    /// The backend, or the operator, does not accept the client's user any more.
    AccessRevoked,
    /// An option that HELLO does not know.
    HelloSyntax(String),
    /// An attribute that CLIENT SETINFO does not know.
    UnknownAttribute(String),
    /// A type of clients that there is not.
    UnknownClientType(String),
    /// A user that there is not.
    NoSuchUser(String),
    /// A number of arguments that a subcommand of CLIENT cannot have.
    SubcommandArity(String),
    /// The backend did not carry out CLIENT UNBLOCK, in its words.
    UnblockFailed(String),
    /// CLIENT MAINT_NOTIFICATIONS ON: a proxy in between has none to send.
    NoNotifications,
    /// A value that CLIENT SETINFO does not take.
    InvalidAttribute(String),
    /// A client's name, or what it says of its library, is too long.
    NameTooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
}

const DISCARDED: &str = "EXECABORT Transaction discarded because of:";

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => formatter.write_str("LOADING handover: no backend can serve; the command was not applied"),
            Self::Unavailable => {
                formatter.write_str("UNAVAILABLE handover: no backend can serve; the command was not applied")
            }
            Self::Uncertain => formatter.write_str(
                "UNCERTAIN handover: the connection to the backend was lost; the command may have been applied",
            ),
            Self::TransactionMoved => formatter
                .write_str("EXECABORT Transaction discarded because the active backend changed; nothing was applied"),
            Self::TransactionRefused => {
                formatter.write_str("EXECABORT Transaction discarded because of previous errors.")
            }
            Self::OutsideTransaction => formatter.write_str(
                "ERR handover: refused until EXEC or DISCARD, since MULTI or WATCH before it was not accepted",
            ),
            Self::RefusedCommand(name) => {
                write!(formatter, "ERR handover: command '{name}' is refused by the proxy")
            }
            Self::OthersClients => formatter.write_str(
                "NOPERM handover: with identity.mode = \"passthrough\" nobody rules over clients of other users here",
            ),
            Self::DeniedCommand(name) => {
                write!(formatter, "NOPERM handover: command '{name}' is denied by the proxy's configuration")
            }
            Self::RefusedInTransaction(name) => {
                write!(formatter, "ERR handover: command '{name}' is not allowed inside a transaction")
            }
            Self::Unsupported(what) => write!(formatter, "ERR handover: {what} is not supported yet"),
            Self::RedirectElsewhere => formatter.write_str(
                "ERR handover: CLIENT TRACKING cannot redirect to a client of another worker; use RESP3, or runtime.workers = 1",
            ),
            Self::WaitMoved => formatter.write_str(
                "ERR handover: WAIT is refused: the connection to the backend changed since this client's last writes; write again, then WAIT",
            ),
            Self::WaitUnmarked(error) => write!(
                formatter,
                "ERR handover: WAIT is refused: the backend refused the PUBLISH that must go before it: {error}"
            ),
            Self::ClusterDisabled => formatter.write_str("ERR This instance has cluster support disabled"),
            Self::PinLimit => formatter.write_str(
                "ERR handover: no connection of its own is free for this client; the command was not applied",
            ),
            Self::StaleCursor => formatter.write_str(
                "ERR handover: cursor is not valid on this backend; the active changed since it was given, begin at 0",
            ),
            Self::LaneLimit => formatter
                .write_str("ERR handover: too many users and databases in use at a time; the command was not applied"),
            Self::ClientLimit => formatter.write_str("ERR max number of clients reached"),
            // EXEC that is refused ends its transaction, and says so.
            Self::WrongArity(name) if name == "exec" => {
                write!(formatter, "{DISCARDED} wrong number of arguments for '{name}' command")
            }
            Self::WrongArity(name) => write!(formatter, "ERR wrong number of arguments for '{name}' command"),
            Self::WithoutMulti(name) => write!(formatter, "ERR {name} without MULTI"),
            Self::Redis(text) => formatter.write_str(text),
            Self::Subscribed(name) => {
                let word = if name == "exec" { DISCARDED } else { "ERR" };
                write!(
                    formatter,
                    "{word} Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
                )
            }
            Self::Protocol(error) => write_protocol_error(formatter, *error),
            Self::HelloSyntax(option) => write!(formatter, "ERR Syntax error in HELLO option '{option}'"),
            Self::UnknownAttribute(name) => write!(formatter, "ERR Unrecognized option '{name}'"),
            Self::UnknownClientType(name) => write!(formatter, "ERR Unknown client type '{name}'"),
            Self::NoSuchUser(name) => write!(formatter, "ERR No such user '{name}'"),
            Self::SubcommandArity(name) => {
                write!(formatter, "ERR unknown subcommand or wrong number of arguments for '{name}'. Try CLIENT HELP.")
            }
            Self::UnblockFailed(cause) => {
                write!(formatter, "ERR handover: the backend did not carry out CLIENT UNBLOCK: {cause}")
            }
            Self::NoNotifications => {
                formatter.write_str("ERR handover: maintenance notifications are not sent through the proxy")
            }
            Self::InvalidAttribute(name) => {
                write!(formatter, "ERR {name} cannot contain spaces, newlines or special characters.")
            }
            Self::NameTooLong { bytes, bytes_max } => write!(
                formatter,
                "ERR handover: a name or attribute of a client is at most {bytes_max} bytes long; this one has {bytes}"
            ),
            Self::Unauthenticated => formatter.write_str("NOAUTH Authentication required."),
            Self::UnauthenticatedExec => {
                formatter.write_str("EXECABORT Transaction discarded because of: NOAUTH Authentication required.")
            }
            Self::UnauthenticatedHello => formatter.write_str(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> \
                 <pass> option can be used to authenticate the client and select the RESP protocol version at the \
                 same time",
            ),
            Self::AccessRevoked => formatter
                .write_str("NOAUTH handover: this client's user is not accepted any more; the command was not applied"),
            Self::WrongPassword => formatter.write_str("WRONGPASS invalid username-password pair or user is disabled."),
        }
    }
}

/// The texts of Redis, so that a client's own diagnosis fits.
fn write_protocol_error(formatter: &mut fmt::Formatter<'_>, error: ProtocolError) -> fmt::Result {
    formatter.write_str("ERR Protocol error: ")?;
    match error {
        ProtocolError::ArgumentCount => formatter.write_str("invalid multibulk length"),
        ProtocolError::BulkLength => formatter.write_str("invalid bulk length"),
        ProtocolError::ValueTooLarge => formatter.write_str("handover: a value above the limit of the proxy"),
        ProtocolError::RequestTooLarge => {
            formatter.write_str("handover: a request of this kind above 64 MiB, since it cannot be passed on in pieces")
        }
        ProtocolError::ExpectedBulk(found) => write!(formatter, "expected '$', got '{}'", printable(found)),
        ProtocolError::Terminator => formatter.write_str("expected CRLF"),
        ProtocolError::HeaderTooLong => formatter.write_str("too big mbulk count string"),
        ProtocolError::InlineTooLong => formatter.write_str("too big inline request"),
        ProtocolError::UnbalancedQuotes => formatter.write_str("unbalanced quotes in request"),
        ProtocolError::UnexpectedType(found) => write!(formatter, "expected '*', got '{}'", printable(found)),
        ProtocolError::TlsHello => formatter.write_str("TLS on a plain port"),
        ProtocolError::UnauthenticatedCount => formatter.write_str("unauthenticated multibulk length"),
        ProtocolError::UnauthenticatedLength => formatter.write_str("unauthenticated bulk length"),
    }
}

const fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() { byte as char } else { '?' }
}

/// A command's name for an error text: escaped, and at most 128 bytes of it.
#[must_use]
pub fn quoted_name(name: &[u8]) -> String {
    name[..name.len().min(128)].escape_ascii().to_string()
}

/// A client's word for an error text of Redis, which has it as it came up to the first NUL, line ends as spaces;
/// at most 128 bytes of it.
#[must_use]
pub fn printed(word: &[u8]) -> String {
    let shown = word.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(&shown[..shown.len().min(128)]).replace(['\r', '\n'], " ")
}
