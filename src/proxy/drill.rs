//! A drill on one worker: what sockets of a backend play. Without one, each costs a branch for a read and for a write.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use super::hub::Hub;
use super::sockets::LinkSocket;
use crate::channels::{BackendId, Drill, DrillFault};
use crate::logic::impostor::Impostor;
use crate::logic::multiplexer::{Dial, DialOutcome, LinkKey};
use crate::net::dial::{Dialled, Endpoint};
use crate::net::socket::Socket;

/// What a connection plays.
#[derive(Debug, Default)]
pub(super) struct Play {
    fault: Cell<Option<DrillFault>>,
    /// It took bytes that its backend will never see, so that it cannot be used once the drill is over.
    is_spoilt: Cell<bool>,
    /// Bytes that were read wait to be seen: what comes behind them must not be seen before.
    keeps_back: Cell<bool>,
    impostor: RefCell<Option<Box<Impostor>>>,
    /// What the impostor has for the backend.
    unsent: RefCell<BytesMut>,
}

impl Play {
    /// For a connection that was opened while this was played.
    pub(super) fn begun(fault: Option<DrillFault>) -> Self {
        let play = Self::default();
        play.begin(fault, Some(0));
        play
    }

    /// Says whether the connection can play it: an impostor must know how many replies are due.
    fn begin(&self, fault: Option<DrillFault>, due: Option<usize>) -> bool {
        self.fault.set(fault);
        if fault == Some(DrillFault::Readonly) {
            *self.impostor.borrow_mut() = due.map(|due| Box::new(Impostor::new(due)));
        }
        fault != Some(DrillFault::Readonly) || due.is_some()
    }

    /// Says whether the connection can go on as if nothing had been.
    fn end(&self) -> bool {
        self.fault.set(None);
        let impostor = self.impostor.take();
        let is_done = impostor.is_none_or(|impostor| impostor.is_done());
        is_done && self.unsent.borrow().is_empty() && !self.is_spoilt.get()
    }

    /// Nothing is read from it.
    pub(super) fn is_deaf(&self) -> bool {
        self.fault.get() == Some(DrillFault::Hang)
    }

    /// Bytes that were read are kept back for so long.
    pub(super) fn delay(&self) -> Option<Duration> {
        match self.fault.get() {
            Some(DrillFault::Slow { by }) => Some(by),
            _ => None,
        }
    }

    /// Bytes that were read are not seen yet.
    pub(super) fn keeps_back(&self) -> bool {
        self.keeps_back.get()
    }

    /// What it holds must not be seen at once.
    pub(super) fn is_private(&self) -> bool {
        self.is_deaf() || self.delay().is_some() || self.keeps_back.get()
    }

    /// What is to be seen of bytes that were read; `None`: they are what they are.
    pub(super) fn seen(&self, bytes: &[u8]) -> Option<BytesMut> {
        self.fault.get()?;
        let mut impostor = self.impostor.borrow_mut();
        let impostor = impostor.as_mut()?;
        let mut seen = BytesMut::new();
        impostor.on_replies(bytes, &mut seen);
        Some(seen)
    }

    /// As [`Socket::try_write`].
    pub(super) fn try_write(&self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        if self.fault.get().is_none() {
            return socket.try_write(bytes);
        }
        if self.is_deaf() {
            self.is_spoilt.set(true);
            return Ok(bytes.len());
        }
        let mut impostor = self.impostor.borrow_mut();
        let Some(impostor) = impostor.as_mut() else { return socket.try_write(bytes) };
        self.flush(socket)?;
        impostor.on_requests(bytes, &mut self.unsent.borrow_mut());
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    /// As [`Socket::try_flush`].
    pub(super) fn try_flush(&self, socket: &Socket) -> io::Result<()> {
        if self.fault.get().is_some() {
            self.flush(socket)?;
        }
        socket.try_flush()
    }

    fn flush(&self, socket: &Socket) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            let bytes = socket.try_write(&unsent)?;
            if bytes == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            unsent.advance(bytes);
        }
        Ok(())
    }
}

impl Hub {
    /// What connections to a backend play.
    pub(super) fn played(&self, backend: BackendId) -> Option<DrillFault> {
        Drill::on(self.drill.get(), backend)
    }

    /// A drill began, or ended.
    pub(super) fn follow_drill(self: &Rc<Self>, drill: Option<Drill>) {
        if drill == self.drill.get() {
            return;
        }
        if let Some(old) = self.drill.replace(drill) {
            for (key, socket) in self.sockets_of(old.backend) {
                if socket.play.end() {
                    self.look_at_link(key);
                } else {
                    self.break_link(key, &socket, "its part in a drill is over");
                }
            }
        }
        let Some(Drill { backend, fault }) = drill else { return };
        for (key, socket) in self.sockets_of(backend) {
            let footing = (fault == DrillFault::Readonly).then(|| self.footing(key)).flatten();
            let can_play = fault != DrillFault::Kill && socket.play.begin(Some(fault), footing);
            if !can_play && (fault == DrillFault::Kill || self.is_lane(key)) {
                self.break_link(key, &socket, "connection reset (a drill)");
            }
        }
    }

    fn break_link(self: &Rc<Self>, key: LinkKey, socket: &LinkSocket, cause: &str) {
        socket.part(true);
        self.lose_link(key, cause);
    }
}

/// What a drill makes of an attempt to connect; `None`: the attempt is made.
pub(super) async fn dial(hub: &Hub, wanted: &Dial, endpoint: &Endpoint) -> Option<Dialled> {
    let failed = |cause: String| Some((None, DialOutcome::Failed(cause)));
    match hub.played(wanted.backend)? {
        DrillFault::Kill => failed("connection refused (a drill)".to_owned()),
        DrillFault::Hang => {
            let patience = endpoint.backend.connect_timeout;
            tokio::time::sleep(patience).await;
            failed(format!("no answer within {patience:?} (a drill)"))
        }
        DrillFault::Slow { by } => {
            tokio::time::sleep(by).await;
            None
        }
        DrillFault::Readonly => None,
    }
}

/// What is left of a connection that was being opened when the drill began.
pub(super) fn dialled(hub: &Hub, wanted: &Dial, dialled: Dialled) -> Dialled {
    match hub.played(wanted.backend) {
        Some(DrillFault::Kill) => (None, DialOutcome::Failed("connection reset (a drill)".to_owned())),
        _ => dialled,
    }
}

/// Lets bytes that came now be seen later, and only then anything that came behind them.
pub(super) fn keep_back(hub: &Rc<Hub>, key: LinkKey, socket: &Rc<LinkSocket>, bytes: Vec<u8>) {
    socket.play.keeps_back.set(true);
    let due = Instant::now() + socket.play.delay().unwrap_or_default();
    let (hub, socket) = (hub.clone(), socket.clone());
    hub.clone().lifecycle.start_local("drill", async move {
        tokio::time::sleep_until(due.into()).await;
        hub.turn(|machine, now| machine.on_link_bytes(key, &bytes, now));
        socket.play.keeps_back.set(false);
        hub.look_at_link(key);
    });
}
