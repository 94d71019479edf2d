//! One client's session: its input, its output, where its replies are due, and the state that it holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::connection_state::State;
use super::link::{Profile, RunKind};
use super::muted::ReplyMode;
use super::protocol::ProtocolChange;
use super::pubsub::Subscriptions;
use super::scripts::Digest;
use super::transactions::Queue;
use super::upload::Upload;
use super::withheld::Withheld;
use super::{LinkKey, Peer};
use crate::command::policy::Policy;
use crate::resp::request::RequestScanner;

/// Why a client's connection ended. A session does not fail, it ends, with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed it.
    ClientClosed,
    /// The client reset it, or it broke.
    ClientLost,
    /// `QUIT`.
    Quit,
    /// Bytes that are no RESP.
    ProtocolError,
    /// An HTTP verb or a TLS hello: somebody else's protocol.
    ForeignProtocol,
    /// It did not read its replies while others waited behind them.
    SlowReader,
    /// A reply was cut off in the middle, so that the next could not be told apart.
    ReplyCut,
    /// It shared a connection whose replies went out of step.
    OutOfStep,
    /// The new active refused what the session keeps on its connection.
    StateLost,
    /// The process serves as many as it may.
    LimitReached,
    /// Handover stops.
    Stopping,
    /// A bug of ours, contained.
    Panic,
    /// `CLIENT KILL`.
    Killed,
    /// It did not authenticate in time.
    AuthenticationTimeout,
    /// Its user is gone, or is not accepted by the backend any more.
    AccessRevoked,
    /// It did not read its messages.
    SlowSubscriber,
    /// It may have missed messages, and is to subscribe anew.
    SubscriptionGap,
}

impl CloseReason {
    /// Every reason, in the order of [`CloseReason::index`].
    pub const ALL: [Self; 17] = [
        Self::ClientClosed,
        Self::ClientLost,
        Self::Quit,
        Self::ProtocolError,
        Self::ForeignProtocol,
        Self::SlowReader,
        Self::ReplyCut,
        Self::OutOfStep,
        Self::StateLost,
        Self::LimitReached,
        Self::Stopping,
        Self::Panic,
        Self::Killed,
        Self::AuthenticationTimeout,
        Self::AccessRevoked,
        Self::SlowSubscriber,
        Self::SubscriptionGap,
    ];

    /// Its place in [`CloseReason::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientLost => "client_lost",
            Self::Quit => "quit",
            Self::ProtocolError => "protocol_error",
            Self::ForeignProtocol => "foreign_protocol",
            Self::SlowReader => "slow_reader",
            Self::ReplyCut => "reply_cut",
            Self::OutOfStep => "out_of_step",
            Self::StateLost => "state_lost",
            Self::LimitReached => "limit_reached",
            Self::Stopping => "stopping",
            Self::Panic => "panic",
            Self::Killed => "killed",
            Self::AuthenticationTimeout => "authentication_timeout",
            Self::AccessRevoked => "access_revoked",
            Self::SlowSubscriber => "slow_subscriber",
            Self::SubscriptionGap => "subscription_gap",
        }
    }
}

/// What a session waits for before its next request can be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The replies that are due.
    Due,
    /// A lane: none is open, or a switch is under way.
    Lane,
    /// Room in the lane.
    Room,
    /// A connection of its own.
    Pin,
    /// Its transaction, which is queued once more on another connection.
    Replay,
    /// The verdict on a backend that said it cannot serve.
    Verdict,
    /// An answer that the shell collects from every worker (CLIENT LIST, KILL …).
    Answer,
    /// The end of a CLIENT PAUSE.
    Pause,
    /// The confirmations of its subscriptions.
    Confirmation,
    /// Its turn to authenticate, after failures of its source.
    Login,
}

/// Where a session stands in a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    /// In none.
    #[default]
    None,
    /// WATCH was answered on the pin.
    Watching,
    /// MULTI was answered on the pin.
    Queuing {
        /// WATCH came before.
        watching: bool,
        /// Commands queued so far.
        queued: u32,
    },
    /// Carried on without a backend, because it cannot succeed any more.
    Broken {
        /// After MULTI.
        queuing: bool,
        /// How it ends.
        end: BrokenEnd,
    },
}

/// How a broken transaction ends at EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenEnd {
    /// With a nil, as if a watched key had changed: the client's own loop runs again.
    Nil,
    /// With EXECABORT: the backend changed.
    Moved,
    /// With EXECABORT: a command was refused, and everything up to EXEC is.
    Refused,
}

/// A connection of the session's own.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// The connection; `None` while it is being opened again.
    pub link: Option<LinkKey>,
    /// Kept for the session's life.
    pub dedicated: bool,
    /// It held something that the fence cannot wash off: closed at its release.
    pub tainted: bool,
    /// MONITOR streams on it.
    pub monitoring: bool,
    /// The connection on which what the session keeps was set up.
    pub set_up: Option<LinkKey>,
    /// RESET came: closed as soon as nothing is due, and opened again if it is needed.
    pub renew: bool,
    /// Another connection is the target of its redirect: tracking is set up anew once no transaction is open there.
    pub follows: bool,
    /// Since when nothing is due or held on it.
    pub idle_since: Option<Instant>,
}

/// A request that was judged at a fault, before everything that was read later.
#[derive(Clone, Debug)]
pub enum Pending {
    /// Its reply is known.
    Answer(Bytes),
    /// It goes to the next connection.
    Send {
        /// The request.
        frame: Bytes,
        /// How many replies it gets: more than one for a whole transaction.
        commands: u32,
        /// How many of the first the client has already.
        dropped: u32,
        /// What its reply does.
        kind: RunKind,
        /// It was sent before, so that it may have been applied.
        sent: bool,
        /// It changes nothing, so that "not applied" is true of it whatever happened.
        read_only: bool,
        /// Connections on which it was tried.
        attempts: u32,
        /// When it was put on the first of them.
        arrived: Instant,
        /// The epoch of the connection that was lost.
        epoch: u64,
    },
}

/// Who a client is, and what it may do.
#[derive(Debug)]
pub struct Access {
    /// It need not authenticate, or has.
    pub is_authenticated: bool,
    /// Its identity may not run ECHO on the active, so that its commands cannot share a connection.
    pub is_laneless: bool,
    /// Its attempt to authenticate was let pass, and has not come to anything yet.
    pub is_admitted: bool,
    /// Its attempt waits for its turn.
    pub is_delayed: bool,
    /// Since when it has been expected to authenticate.
    pub since: Instant,
    /// Its user's name, if it is not the default one.
    pub named_user: Option<Arc<[u8]>>,
    /// What it may do, when that is less than what everybody may.
    pub policy: Option<Arc<Policy>>,
}

impl Access {
    /// The user of clients that did not name one.
    pub const USER_DEFAULT: &[u8] = b"default";

    /// That of a client that has just connected.
    #[must_use]
    pub const fn new(is_authenticated: bool, since: Instant) -> Self {
        Self {
            is_authenticated,
            is_laneless: false,
            is_admitted: false,
            is_delayed: false,
            since,
            named_user: None,
            policy: None,
        }
    }

    /// Its user's name.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.named_user.as_deref().unwrap_or(Self::USER_DEFAULT)
    }
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// CLIENT ID.
    pub id: u64,
    /// The client's address and since when it is here.
    pub peer: Box<Peer>,
    /// Database, protocol and identity of its commands.
    pub profile: Profile,
    /// Who it is.
    pub access: Access,
    /// Finds the requests in its input.
    pub scanner: RequestScanner,
    /// Bytes that were read and not yet carried out.
    pub input: BytesMut,
    /// Bytes to be written to the client.
    pub output: BytesMut,
    /// Requests whose replies are due on `link`.
    pub due: u32,
    /// Where they are due.
    pub link: Option<LinkKey>,
    /// `Link::proofs` of `link` when its last reply came from there; `None` before the first.
    pub served: Option<u32>,
    /// Requests that were judged at a fault.
    pub pending: VecDeque<Pending>,
    /// What it waits for, and since when.
    pub wait: Option<(Wait, Instant)>,
    /// A reply of the burst since nothing was due said "applied" or "uncertain".
    pub burst_answered: bool,
    /// MULTI and WATCH.
    pub transaction: Transaction,
    /// Replies that are kept back from it until the backend has been judged.
    pub withheld: Option<Box<Withheld>>,
    /// What was queued since MULTI.
    pub queue: Option<Box<Queue>>,
    /// One of the commands queued since MULTI may write.
    pub queues_write: bool,
    /// Scripts that it called last, the latest at the end.
    pub scripts: Vec<Digest>,
    /// A connection of its own.
    pub pin: Option<Box<Pin>>,
    /// HELLO waits for the session's connections.
    pub protocol_change: Option<Box<ProtocolChange>>,
    /// What it has set up on that connection.
    pub state: Option<Box<State>>,
    /// [`super::Multiplexer`]'s own when everything written so far was known to be on the active.
    pub continuity: u64,
    /// WAIT was refused in this burst, and is in the rest of it.
    pub refuses_wait: bool,
    /// Its subscriptions, once it had any.
    pub subscriptions: Option<Box<Subscriptions>>,
    /// The client will send nothing more.
    pub half_closed: bool,
    /// Ends as soon as what is due was delivered.
    pub ending: Option<CloseReason>,
    /// Which replies it gets.
    pub reply_mode: ReplyMode,
    /// Reading is stopped until it is resumed by [`super::Output::Resume`].
    pub paused: bool,
    /// It is not read until there is room in its lane.
    pub is_postponed: bool,
    /// A connection is not read because of what waits in its output.
    pub holds_back: bool,
    /// A large request of which more is to come, unless it is kept whole.
    pub upload: Option<Box<Upload>>,
    /// Room taken among large requests that are arriving.
    pub upload_bytes: usize,
    /// Already on the list of sessions with something to write.
    pub flushing: bool,
    /// Already on the list of sessions that wait.
    pub listed: bool,
    /// Among those that have subscriptions, or had some.
    pub subscribes: bool,
}

impl Session {
    /// A fresh session.
    #[must_use]
    pub fn new(id: u64, peer: Peer, value_bytes_max: usize, access: Access) -> Self {
        let scanner = match access.is_authenticated {
            true => RequestScanner::new(value_bytes_max),
            false => RequestScanner::unauthenticated(),
        };
        Self {
            id,
            peer: Box::new(peer),
            profile: Profile::default(),
            access,
            scanner,
            input: BytesMut::new(),
            output: BytesMut::new(),
            due: 0,
            link: None,
            served: None,
            pending: VecDeque::new(),
            wait: None,
            burst_answered: false,
            transaction: Transaction::None,
            withheld: None,
            queue: None,
            queues_write: false,
            scripts: Vec::new(),
            pin: None,
            protocol_change: None,
            state: None,
            continuity: 0,
            refuses_wait: false,
            subscriptions: None,
            half_closed: false,
            ending: None,
            reply_mode: ReplyMode::On,
            paused: false,
            is_postponed: false,
            holds_back: false,
            upload: None,
            upload_bytes: 0,
            flushing: false,
            listed: false,
            subscribes: false,
        }
    }

    /// Whether its replies take the form that RESP2 subscribers get.
    #[must_use]
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|subscriptions| subscriptions.count() > 0)
    }

    /// Bytes of its requests that wait, and of replies that are kept back from it.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.input.len() + self.withheld.as_ref().map_or(0, |withheld| withheld.bytes())
    }

    /// Bytes that are kept of its transaction.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes())
    }

    /// Bytes that it has to read, but for messages, which have a bound of their own.
    #[must_use]
    pub fn unread_replies(&self) -> usize {
        let messages = self.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.unread());
        self.output.len().saturating_sub(messages)
    }

    /// What its pin holds cannot be washed off.
    pub const fn taint_pin(&mut self) {
        if let Some(pin) = &mut self.pin {
            pin.tainted = true;
        }
    }

    /// Nothing is due, held or to be written.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.due == 0
            && self.pending.is_empty()
            && self.withheld.is_none()
            && self.output.is_empty()
            && self.subscriptions.as_ref().is_none_or(|subscriptions| subscriptions.is_quiet())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle client costs this side of its socket, in bytes: docs/performance.md says how much there is in all.
    #[test]
    fn a_session_stays_small() {
        assert!(size_of::<Session>() <= 416, "a session takes {} bytes", size_of::<Session>());
        assert!(size_of::<Peer>() <= 136, "a peer takes {} bytes", size_of::<Peer>());
    }
}
