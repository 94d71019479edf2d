//! Bounds what the admin port may cost: a connection lives for a limited time,
//! and one too many takes the place of the oldest, so that slow scrapers never keep a health check out.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::events::Lease;

/// A stream that takes nothing for so long is ended; comments come more often than that.
const STREAM_STALL_MAX: Duration = Duration::from_secs(60);

/// Bounds of the admin port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections at a time.
    pub(crate) connections_max: usize,
    /// From accepting a connection to its end, whatever it does.
    pub(crate) lifetime: Duration,
}

/// A listener whose connections are bounded.
pub(crate) struct Bounded<L> {
    listener: L,
    limits: Limits,
    /// The connections, oldest first. Dropping one's sender ends it.
    open: VecDeque<(oneshot::Sender<()>, Lease)>,
}

impl<L> Bounded<L> {
    pub(crate) fn new(listener: L, limits: Limits) -> Self {
        Self { listener, limits, open: VecDeque::new() }
    }

    fn admit(&mut self) -> (oneshot::Receiver<()>, Lease) {
        self.open.retain(|(connection, _)| !connection.is_closed());
        while self.open.len() >= self.limits.connections_max {
            // Streams have a bound of their own, far below this one.
            let oldest = self.open.iter().position(|(_, lease)| !lease.is_stream()).unwrap_or(0);
            self.open.remove(oldest);
        }
        let (sender, evicted) = oneshot::channel();
        let lease = Lease::default();
        self.open.push_back((sender, lease.clone()));
        (evicted, lease)
    }
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Limited<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.listener.accept().await;
        let (evicted, lease) = self.admit();
        (Limited { stream, evicted, lease, expired: Box::pin(sleep(self.limits.lifetime)) }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl<L: Listener> Connected<IncomingStream<'_, Bounded<L>>> for Lease
where
    L::Addr: std::fmt::Debug,
{
    fn connect_info(stream: IncomingStream<'_, Bounded<L>>) -> Self {
        stream.io().lease.clone().of(format!("{:?}", stream.remote_addr()))
    }
}

/// A connection that fails once its time is over or its place is taken. That of a stream begins anew with each write.
pub(crate) struct Limited<S> {
    stream: S,
    evicted: oneshot::Receiver<()>,
    lease: Lease,
    expired: Pin<Box<Sleep>>,
}

impl<S> Limited<S> {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let over =
            self.expired.as_mut().poll(context).is_ready() || Pin::new(&mut self.evicted).poll(context).is_ready();
        if over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(1..))) && self.lease.is_stream() {
            self.expired.as_mut().reset(Instant::now() + STREAM_STALL_MAX);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_takes_the_place_of_the_oldest_that_is_open() {
        let mut bounded = Bounded::new((), Limits { connections_max: 2, lifetime: Duration::MAX });
        let (mut first, _) = bounded.admit();
        let (second, _) = bounded.admit();
        drop(second);
        let (mut third, _) = bounded.admit();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        let (mut fourth, _) = bounded.admit();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(third.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(fourth.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }
}
