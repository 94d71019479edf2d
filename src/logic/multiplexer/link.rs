//! A backend connection: what was written and not yet answered, and whose replies are due in which order.

mod retained;
mod timing;
mod upload;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use self::retained::Retained;
use self::timing::Timing;
pub(super) use self::timing::Waited;
pub(super) use self::upload::{Streamed, TakenUpload};
use super::SessionKey;
use super::connection_state::StateChange;
use super::scripts::{Digest, ScriptCall};
use crate::logic::identity::IdentityId;
use crate::logic::route::BackendId;
use crate::resp::encode::Protocol;
use crate::resp::reply::{ReplyKind, ReplyScan, ReplyScanner};
use crate::resp::request::{RequestScanner, Scan};

/// What commands on a connection have in common: connections with equal profiles can stand in for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Profile {
    /// Whose rights.
    pub identity: IdentityId,
    /// The database selected; `None`: the one of the backend's URL.
    pub database: Option<u32>,
    /// RESP version.
    pub protocol: Protocol,
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Shared by many clients.
    Lane,
    /// A lane kept open to the backend that would be next.
    Standby,
    /// One client's own; `None` while it goes through the fence or lies in the pool.
    Pin(Option<SessionKey>),
    /// Carries one client's subscriptions.
    Subscription(SessionKey),
    /// Asks whether the backend still accepts an identity; closed as soon as it has said so.
    Verification,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Being opened; nothing can be written.
    Dialling,
    /// Usable.
    Ready,
}

/// Requests of one client that were put on a connection together, and whose replies are due.
#[derive(Debug)]
pub struct Run {
    /// Whose they are; `None`: Handover's own.
    pub session: Option<SessionKey>,
    /// How many requests.
    pub commands: u32,
    /// How many of them were answered.
    pub answered: u32,
    /// How many of the first replies go nowhere, since the client has them already.
    pub dropped: u32,
    /// Bytes of the requests.
    pub bytes: usize,
    /// Connections on which they were tried before.
    pub attempts: u32,
    /// When they were put on the first of them.
    pub at: Instant,
    /// What happens with the replies.
    pub kind: RunKind,
}

/// What happens with the replies of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunKind {
    /// They go to the client as they came.
    Forward,
    /// They go to the client; the cursor that they begin with is marked with the epoch.
    Cursor,
    /// They go to the client, unless the script is missing and can be loaded.
    Script(ScriptCall),
    /// A repeated conditional write: "nothing changed" becomes "uncertain".
    Conditional,
    /// They go to the client and change its session's state.
    Inspect(Inspect),
    /// A command between MULTI and EXEC: its reply goes to the client, and both are kept for a replay.
    Queued {
        /// The database that it selects, if EXEC carries it out.
        database: Option<u32>,
    },
    /// A large request, written as it comes: its reply goes to the client.
    Streamed(Streamed),
    /// What a client has queued long since, queued once more: the replies are Handover's own affair.
    Replay,
    /// A blocking command; may take its time.
    Blocking {
        /// When its own time ends; `None`: never.
        deadline: Option<Instant>,
    },
    /// No request: a reply that Handover made, waiting its turn.
    Local(Bytes),
    /// Handover's own `ECHO`: the reply must be exactly this.
    Echo(Bytes),
    /// WAIT or WAITAOF, answered with the refusal instead where there is one.
    Wait {
        /// An error reply's bytes.
        refusal: Option<Bytes>,
    },
    /// Handover's own PUBLISH before a WAIT.
    Mark,
    /// Handover's own HELLO, for this session's.
    Protocol(SessionKey),
    /// Handover's own request that must be accepted, else the session cannot go on here.
    Setup,
    /// Handover's own `SCRIPT LOAD`, of the script with this digest.
    Load(Digest),
    /// Handover's own request, whose reply nobody needs.
    Ignored,
    /// Handover's own PING to a connection that was silent; it may be silent for longer.
    Heartbeat,
    /// Handover's own PING behind everything that a connection for subscriptions brings.
    DrainMark,
    /// Subscriptions: each confirmation is one reply.
    Confirm {
        /// They stand for subscriptions that the client has long had confirmed.
        restoring: bool,
    },
}

/// Replies that change the state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspect {
    /// `SELECT` on a pin.
    Select(u32),
    /// `MULTI`.
    Multi,
    /// `WATCH`.
    Watch,
    /// `UNWATCH`.
    Unwatch,
    /// `DISCARD`.
    Discard,
    /// `EXEC`.
    Exec,
    /// `MONITOR`.
    Monitor,
    /// `CLIENT TRACKING`, as the client sent it.
    Tracking(Bytes),
    /// `CLIENT CACHING`.
    Caching,
    /// Another request that leaves something on its connection.
    State(StateChange),
}

impl RunKind {
    /// Its reply may rightly take any time.
    #[must_use]
    pub const fn may_block(&self) -> bool {
        matches!(self, Self::Blocking { .. } | Self::Wait { .. })
    }

    /// Its silence says something of its connection, and nothing of the backend.
    const fn is_heartbeat(&self) -> bool {
        matches!(self, Self::Heartbeat | Self::DrainMark)
    }
}

impl Run {
    /// Whether replies can be passed on without a look at each.
    const fn is_plain(&self) -> bool {
        matches!(self.kind, RunKind::Forward) && self.dropped == 0
    }

    /// Requests without a reply.
    #[must_use]
    pub const fn unanswered(&self) -> u32 {
        self.commands - self.answered
    }

    /// Replies that its client still gets.
    #[must_use]
    pub const fn due(&self) -> u32 {
        self.commands - if self.answered > self.dropped { self.answered } else { self.dropped }
    }
}

/// What was found at the start of bytes that a backend sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes are so many replies for the front run, to be passed on as they are.
    Batch {
        /// Bytes of the replies.
        bytes: usize,
        /// How many replies.
        replies: u32,
    },
    /// So many bytes are one reply or push that wants a look.
    Single {
        /// Bytes of the reply.
        bytes: usize,
        /// What it is.
        kind: ReplyKind,
    },
    /// More bytes are needed; so many were looked at.
    Partial {
        /// Bytes that need no second look.
        scanned: usize,
    },
    /// Not RESP.
    Invalid(&'static str),
}

/// A connection that many share keeps a buffer of at most so many bytes while nothing is due on it …
const IDLE_BYTES_MAX: usize = 512 * 1024;
/// … and one that a single client has, of which there may be thousands, so many.
const IDLE_OWN_BYTES_MAX: usize = 16 * 1024;

/// A beginning is joined with more than it needs for certain, so that it is not looked at again for each byte: at least
/// this …
const JOINED_BYTES_MIN: usize = 256;
/// … and this part of itself, since many small words may make a long one.
const JOINED_SHARE: usize = 4;

/// How many bytes are joined with a beginning of so many, which needs so many more for certain.
pub(super) fn bytes_to_join(begun: usize, missing: usize) -> usize {
    missing.max(begun / JOINED_SHARE).max(JOINED_BYTES_MIN)
}

/// Bytes that one connection keeps before clients are no longer read for it.
pub(super) const LANE_BYTES_MAX: usize = 1024 * 1024;
/// Requests that a connection takes however large the replies are that it brings.
const REQUESTS_MIN: usize = 16;

/// One backend connection.
#[derive(Debug)]
pub struct Link {
    /// To whom.
    pub backend: BackendId,
    /// Opened, or put to use, in this epoch.
    pub epoch: u64,
    /// What for.
    pub role: Role,
    /// For which sessions.
    pub profile: Profile,
    /// Being opened, or usable.
    pub state: LinkState,
    /// The server's number of this connection, when it told it.
    pub client_id: Option<i64>,
    /// Since when a wholly written request has waited with nothing read since.
    pub waiting_since: Option<Instant>,
    /// The client whose full output keeps us from reading, and since when.
    pub paused: Option<(SessionKey, Instant)>,
    /// When Handover's own ECHO was last sent, and how many commands went since.
    pub sentinel: (Instant, u32),
    /// When a byte last came; when it was to be opened, before the first.
    pub heard_at: Instant,
    /// Since when a heartbeat has been unanswered, with nothing heard since.
    pub pinged_at: Option<Instant>,
    /// Of an older epoch, and read to the reply to a PING that is still written.
    pub is_draining: bool,
    /// `CLIENT UNBLOCK` was sent for it, and may be carried out at any later time.
    pub unblocked: bool,
    /// A client asked for its blocked command to be let go.
    pub is_let_go: bool,
    /// Something came on it.
    pub proven: bool,
    /// MULTI and EXEC are permitted, so that a whole transaction may travel on it unawaited.
    pub takes_groups: bool,
    /// The last sentinel was refused for a reason that says nothing of the order of replies.
    pub undecided: bool,
    /// How many sentinels came back exactly.
    pub proofs: u32,
    /// Clients that were answered here since the last of them, and went on elsewhere.
    pub departed: Vec<SessionKey>,
    /// Already on the list of connections with something to write.
    pub flushing: bool,
    /// The reply in progress is passed on piece by piece: so many bytes of it were.
    pub streamed_bytes: Option<usize>,
    /// Scripts that were loaded over it.
    pub loaded: Vec<Digest>,
    ring: VecDeque<Run>,
    /// Bytes from the front run's first on: written or not, they are kept until answered.
    retained: Retained,
    written: usize,
    commands_unanswered: usize,
    /// A request of the front run by its number, and where in the run's bytes it begins.
    cursor: (u32, usize),
    scanner: ReplyScanner,
    stash: BytesMut,
    scanned: usize,
    /// What a reply takes, of late: a mean in which each look counts for a quarter.
    reply_bytes: usize,
    /// While a request is arriving on it: what goes behind that.
    behind: Option<Vec<(Run, Bytes)>>,
    timing: Timing,
}

impl Link {
    /// A connection that is about to be opened.
    #[must_use]
    pub fn new(backend: BackendId, epoch: u64, role: Role, profile: Profile, now: Instant) -> Self {
        Self {
            backend,
            epoch,
            role,
            profile,
            state: LinkState::Dialling,
            client_id: None,
            waiting_since: None,
            paused: None,
            sentinel: (now, 0),
            heard_at: now,
            pinged_at: None,
            is_draining: false,
            unblocked: false,
            is_let_go: false,
            proven: false,
            takes_groups: false,
            undecided: false,
            proofs: 0,
            departed: Vec::new(),
            flushing: false,
            streamed_bytes: None,
            loaded: Vec::new(),
            ring: VecDeque::new(),
            retained: Retained::default(),
            written: 0,
            commands_unanswered: 0,
            cursor: (0, 0),
            scanner: ReplyScanner::new(),
            stash: BytesMut::new(),
            scanned: 0,
            reply_bytes: 0,
            behind: None,
            timing: Timing::default(),
        }
    }

    /// Requests without a reply, Handover's own included.
    #[must_use]
    pub const fn unanswered(&self) -> usize {
        self.commands_unanswered
    }

    /// How many replies are due, if the connection stands between two frames both ways.
    #[must_use]
    pub fn footing(&self) -> Option<usize> {
        let is_between = self.unwritten().is_empty() && self.stash.is_empty() && self.scanner.at_start();
        (is_between && self.behind.is_none()).then_some(self.commands_unanswered)
    }

    /// Requests of clients without a reply.
    #[must_use]
    pub fn client_requests(&self) -> usize {
        let of_clients = |run: &&Run| run.session.is_some() && !matches!(run.kind, RunKind::Local(_)) && !run.is_open();
        self.ring.iter().filter(of_clients).map(|run| run.due() as usize).sum()
    }

    /// Opened in this epoch, with the rights of this identity.
    #[must_use]
    pub fn is_current(&self, epoch: u64, identity: IdentityId) -> bool {
        self.epoch == epoch && self.profile.identity == identity
    }

    /// Nothing is due.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.ring.is_empty()
    }

    /// What is due, in order.
    #[must_use]
    pub const fn runs(&self) -> &VecDeque<Run> {
        &self.ring
    }

    /// The run whose reply comes next.
    #[must_use]
    pub fn front(&self) -> Option<&Run> {
        self.ring.front()
    }

    /// The same, to be changed.
    pub fn front_mut(&mut self) -> Option<&mut Run> {
        self.ring.front_mut()
    }

    /// The first request without a reply.
    #[must_use]
    pub fn front_frame(&self) -> Bytes {
        let Some(run) = self.ring.front().filter(|run| !run.is_streamed()) else { return Bytes::new() };
        let mut scanner = RequestScanner::new(usize::MAX >> 1);
        let mut rest = self.retained.first(run.bytes);
        for _ in 0..run.answered {
            let Scan::Frame(frame) = scanner.scan(rest) else { return Bytes::new() };
            rest = &rest[frame.bytes..];
        }
        match scanner.scan(rest) {
            Scan::Frame(frame) => Bytes::copy_from_slice(&rest[..frame.bytes]),
            _ => Bytes::new(),
        }
    }

    /// The same, remembering where it stands, so that a long run is gone through once.
    pub fn next_frame(&mut self) -> Bytes {
        let Some(run) = self.ring.front().filter(|run| !run.is_streamed()) else { return Bytes::new() };
        let mut scanner = RequestScanner::new(usize::MAX >> 1);
        loop {
            let (index, offset) = self.cursor;
            let rest = &self.retained.first(run.bytes)[offset.min(run.bytes)..];
            let Scan::Frame(frame) = scanner.scan(rest) else { return Bytes::new() };
            if index >= run.answered {
                return Bytes::copy_from_slice(&rest[..frame.bytes]);
            }
            self.cursor = (index + 1, offset + frame.bytes);
        }
    }

    /// The requests of the front run up to the one that [`Self::next_frame`] found.
    #[must_use]
    pub fn answered_frames(&self) -> &[u8] {
        self.retained.first(self.cursor.1)
    }

    /// Bytes not yet handed to the kernel, as many as stand in one piece; empty when there are none.
    #[must_use]
    pub fn unwritten(&self) -> &[u8] {
        self.retained.behind(self.written)
    }

    /// How many bytes are kept until they are answered.
    #[must_use]
    pub const fn retained_bytes(&self) -> usize {
        self.retained.len()
    }

    /// How many of the retained bytes the kernel has.
    #[must_use]
    pub const fn written(&self) -> usize {
        self.written
    }

    /// How much is under way, in bytes: of requests, or of the replies to be expected, whichever is more. A server that has
    /// to keep a reply until it is read is slow where it has to keep many.
    #[must_use]
    pub fn load_bytes(&self) -> usize {
        let due = self.commands_unanswered;
        let replies = if due > REQUESTS_MIN { due.saturating_mul(self.reply_bytes) } else { 0 };
        replies.max(self.retained.len())
    }

    /// It takes no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.load_bytes() >= LANE_BYTES_MAX
    }

    /// It was full and takes more again.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.load_bytes() <= LANE_BYTES_MAX / 2
    }

    /// So many replies took so many bytes, and those of the first that were passed on before.
    pub fn note_reply_bytes(&mut self, bytes: usize, replies: u32) {
        // A division takes as long as all the rest.
        let bytes = bytes + self.streamed_bytes.unwrap_or(0);
        let mean = if replies <= 1 { bytes } else { bytes / replies as usize };
        self.reply_bytes = (self.reply_bytes * 3 + mean).div_ceil(4);
    }

    /// Puts requests behind those that are due.
    pub fn push(&mut self, run: Run, request_bytes: &[u8]) {
        if let Some(behind) = &mut self.behind {
            behind.push((run, Bytes::copy_from_slice(request_bytes)));
            return;
        }
        let is_joined = self.retained.push(request_bytes);
        self.commands_unanswered += run.commands as usize;
        if is_joined && run.is_plain() && self.merge(&run) {
            return;
        }
        self.ring.push_back(run);
    }

    /// Puts a reply of Handover's own behind the replies that are due.
    pub fn push_local(&mut self, session: SessionKey, reply: Bytes, at: Instant) {
        let kind = RunKind::Local(reply);
        self.ring.push_back(Run {
            session: Some(session),
            commands: 1,
            answered: 0,
            dropped: 0,
            bytes: 0,
            attempts: 0,
            at,
            kind,
        });
    }

    /// Adds to the last run when it is the same client's and still wholly unwritten.
    fn merge(&mut self, run: &Run) -> bool {
        let bytes_before = self.retained.len() - run.bytes;
        let Some(last) = self.ring.back_mut() else { return false };
        let unwritten = bytes_before - last.bytes >= self.written;
        let is_alike = last.session == run.session && last.attempts == run.attempts;
        if !(last.is_plain() && is_alike && last.answered == 0 && unwritten) {
            return false;
        }
        last.commands += run.commands;
        last.bytes += run.bytes;
        true
    }

    /// The kernel took so many bytes more.
    pub fn advance_written(&mut self, bytes: usize, now: Instant) {
        self.written += bytes;
        debug_assert!(self.written <= self.retained.len());
        self.timing.on_written(self.written, now);
        self.release_written();
        if self.waiting_since.is_none() && self.front_is_written() {
            self.waiting_since = Some(now);
        }
    }

    /// The next request to be answered is wholly written, and is not one that may block.
    fn front_is_written(&self) -> bool {
        // While it is not read, its silence is our own doing.
        self.paused.is_none()
            && self.ring.front().is_some_and(|run| {
                !run.kind.may_block()
                    && !run.kind.is_heartbeat()
                    && !run.is_open()
                    && !matches!(run.kind, RunKind::Local(_))
                    && self.written >= run.bytes
            })
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Instant) {
        self.release_written();
        (self.heard_at, self.pinged_at) = (now, None);
        if self.streamed_bytes.is_some()
            || !self.stash.is_empty()
            || self.ring.front().is_some_and(|run| run.answered > 0)
        {
            self.timing.on_begun(now);
        }
        self.waiting_since = self.front_is_written().then_some(now);
    }

    /// How many of the next bytes are to be joined with what was left of the last ones.
    #[must_use]
    pub fn bytes_to_join(&self) -> usize {
        if self.stash.is_empty() { 0 } else { bytes_to_join(self.stash.len(), self.scanner.bytes_due()) }
    }

    /// Joins what was left of the last bytes with the new ones; `None` when nothing was left.
    pub fn unstash(&mut self, bytes: &[u8]) -> Option<BytesMut> {
        if self.stash.is_empty() {
            return None;
        }
        self.stash.extend_from_slice(bytes);
        Some(std::mem::take(&mut self.stash))
    }

    /// Bytes at the start of the input that were looked at last time.
    #[must_use]
    pub const fn scanned(&self) -> usize {
        self.scanned
    }

    /// Keeps the last `left` bytes of what was joined, where they stand.
    pub fn put_back(&mut self, mut joined: BytesMut, left: usize, scanned: usize) {
        joined.advance(joined.len() - left);
        if left > 0 {
            self.stash = joined;
        }
        self.scanned = scanned;
    }

    /// What the reply in progress is, once that can be told.
    #[must_use]
    pub const fn begun_kind(&self) -> Option<ReplyKind> {
        self.scanner.kind()
    }

    /// Keeps the start of a reply for the next bytes.
    pub fn keep(&mut self, rest: &[u8], scanned: usize) {
        debug_assert!(self.stash.is_empty());
        self.stash.extend_from_slice(rest);
        self.scanned = scanned;
    }

    /// Looks at `input`, of which the first `scanned` bytes were looked at before.
    pub fn take(&mut self, input: &[u8], scanned: usize) -> Taken {
        let is_plain = self.ring.front().is_some_and(Run::is_plain);
        let due = if is_plain { self.due_written() } else { 0 };
        if due == 0 {
            return self.take_single(input, scanned);
        }
        let (mut end, mut looked_at, mut replies) = (0, scanned, 0);
        while replies < due && looked_at < input.len() {
            if self.scanner.at_start() && matches!(input[looked_at], b'-' | b'>' | b'|') {
                return if replies > 0 {
                    Taken::Batch { bytes: end, replies }
                } else {
                    self.take_single(input, scanned)
                };
            }
            match self.scanner.scan(&input[looked_at..]) {
                // An error or a push behind an attribute: looked at from its first byte on.
                ReplyScan::Complete { kind: ReplyKind::Error | ReplyKind::Push, .. } if replies > 0 => break,
                ReplyScan::Complete { bytes, kind: kind @ (ReplyKind::Error | ReplyKind::Push) } => {
                    return Taken::Single { bytes: looked_at + bytes, kind };
                }
                ReplyScan::Complete { bytes, .. } => {
                    looked_at += bytes;
                    end = looked_at;
                    replies += 1;
                }
                ReplyScan::Incomplete { bytes } => {
                    if replies == 0 {
                        return Taken::Partial { scanned: looked_at + bytes };
                    }
                    // The next look starts at this reply's first byte.
                    self.scanner = ReplyScanner::new();
                    break;
                }
                ReplyScan::Invalid(reason) => return Taken::Invalid(reason),
            }
        }
        if replies == 0 { Taken::Partial { scanned: looked_at } } else { Taken::Batch { bytes: end, replies } }
    }

    /// Replies that the front run can get: those of its requests that were wholly written.
    #[must_use]
    pub fn due_written(&self) -> u32 {
        let Some(run) = self.ring.front() else { return 0 };
        if run.is_streamed() {
            return u32::from(!run.is_open() && self.written >= run.bytes);
        }
        if self.written >= run.bytes {
            return run.unanswered();
        }
        let mut scanner = RequestScanner::new(usize::MAX >> 1);
        let (mut rest, mut whole) = (self.retained.first(self.written), 0_u32);
        while let Scan::Frame(frame) = scanner.scan(rest) {
            rest = &rest[frame.bytes..];
            whole += 1;
        }
        whole.saturating_sub(run.answered)
    }

    fn take_single(&mut self, input: &[u8], scanned: usize) -> Taken {
        match self.scanner.scan(&input[scanned..]) {
            ReplyScan::Complete { bytes, kind } => Taken::Single { bytes: scanned + bytes, kind },
            ReplyScan::Incomplete { bytes } => Taken::Partial { scanned: scanned + bytes },
            ReplyScan::Invalid(reason) => Taken::Invalid(reason),
        }
    }

    /// The front run got so many replies; returns it when that was all.
    pub fn answer(&mut self, replies: u32) -> Option<Run> {
        self.scanned = 0;
        self.streamed_bytes = None;
        let run = self.ring.front_mut()?;
        self.commands_unanswered -= replies as usize;
        run.answered += replies;
        if run.unanswered() > 0 {
            return None;
        }
        let run = self.ring.pop_front()?;
        self.cursor = (0, 0);
        self.retained.consume(run.bytes);
        self.timing.on_released(run.bytes);
        self.written = self.written.saturating_sub(run.bytes);
        if self.ring.is_empty() {
            self.retained.shrink(self.idle_bytes_max());
        }
        Some(run)
    }

    const fn idle_bytes_max(&self) -> usize {
        match self.role {
            Role::Lane | Role::Standby => IDLE_BYTES_MAX,
            Role::Pin(_) | Role::Subscription(_) | Role::Verification => IDLE_OWN_BYTES_MAX,
        }
    }

    /// The next local reply whose turn has come.
    pub fn pop_local(&mut self) -> Option<Run> {
        let is_local = matches!(self.ring.front()?.kind, RunKind::Local(_));
        if is_local { self.ring.pop_front() } else { None }
    }

    /// The sentinel came back exactly: every reply until now was its client's own.
    pub fn prove(&mut self) {
        self.proofs = self.proofs.wrapping_add(1);
        self.departed.clear();
    }

    /// A pushed frame or a reply that was dealt with without a run.
    pub const fn forget_scanned(&mut self) {
        self.scanned = 0;
        self.streamed_bytes = None;
    }

    /// Takes everything that is due out, with the bytes that were kept and how many of them were written.
    pub fn take_all(&mut self) -> (VecDeque<Run>, Bytes, usize) {
        let runs = std::mem::take(&mut self.ring);
        (runs, self.retained.take().freeze(), self.written)
    }

    /// Memory held for this connection, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.retained.capacity() + self.stash.capacity() + self.ring.capacity() * size_of::<Run>()
    }

    /// How long nothing was heard although a request waits.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        self.waiting_since.map(|since| now.saturating_duration_since(since))
    }
}
