//! The operator's console: a RESP port of its own, for redis-cli. What is said there is answered by the desk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::desk::{Answer, Asker, Courtesy, Desk, Request, Trouble, parse};
use crate::command::classify::classify;
use crate::command::table::Class;
use crate::lifecycle::Lifecycle;
use crate::net::listen::Bound;
use crate::resp::arguments::Arguments;
use crate::resp::encode::{self, Protocol};
use crate::resp::inline;
use crate::resp::request::{RequestScanner, Scan};

/// Operators at a time.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of one argument.
const ARGUMENT_BYTES_MAX: usize = 64 * 1024;
/// An operator who says nothing for so long is disconnected.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// An operator who does not read an answer for so long is disconnected: there are others who want the place.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// An order that had no outcome for so long is not waited for: the log will tell.
const ORDER_MAX: Duration = Duration::from_secs(15);
const READ_BYTES: usize = 4096;
/// A failed accept is tried again after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves operators on `bound` until `stop`.
pub async fn serve(bound: Bound, desk: Arc<Desk>, lifecycle: Lifecycle, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&bound) => accepted,
        };
        let ((stream, asker), place) = match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok(stream), Ok(place)) => (stream, place),
            // One too many is closed, and may come again.
            (Ok(_), Err(_)) => continue,
            (Err(error), _) => {
                tracing::warn!(%error, "the console cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (desk, stop) = (Arc::clone(&desk), stop.clone());
        lifecycle.start("console", async move {
            let conversation = converse(stream, &desk, &asker);
            tokio::select! {
                () = stop.cancelled() => {}
                _ = conversation => {}
            }
            drop(place);
        });
    }
}

/// A connection of whatever kind.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<C: AsyncRead + AsyncWrite + Send + Unpin> Connection for C {}

async fn accept(bound: &Bound) -> io::Result<(Box<dyn Connection>, Asker)> {
    Ok(match bound {
        Bound::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            (Box::new(stream), asker(format!("console {address}"), format!("console {}", address.ip())))
        }
        Bound::Unix(listener) => {
            let stream = listener.accept().await?.0;
            // The kernel says who it is; no client can say otherwise.
            let peer = stream.peer_cred()?;
            let place = format!("console uid {}", peer.uid());
            let process = peer.pid().map_or_else(String::new, |pid| format!(" pid {pid}"));
            (Box::new(stream), asker(format!("{place}{process}"), place))
        }
    })
}

const fn asker(name: String, place: String) -> Asker {
    Asker { name, place, patience: ORDER_MAX, waits_for_drills: true }
}

/// One operator, until the connection ends.
async fn converse(mut stream: impl Connection, desk: &Desk, asker: &Asker) -> io::Result<()> {
    let mut scanner = RequestScanner::new(ARGUMENT_BYTES_MAX);
    let (mut input, mut protocol) = (BytesMut::with_capacity(READ_BYTES), Protocol::Resp2);
    loop {
        let (words, bytes) = match scanner.scan(&input) {
            Scan::Frame(frame) => (words(&input[..frame.bytes]), frame.bytes),
            Scan::Inline { line_bytes, bytes } => (inline::split(&input[..line_bytes]).unwrap_or_default(), bytes),
            Scan::Nothing { bytes } => (Vec::new(), bytes),
            Scan::Invalid(_) => return Ok(()),
            Scan::Incomplete => {
                let read = tokio::time::timeout(IDLE_MAX, stream.read_buf(&mut input)).await;
                match read {
                    Ok(Ok(1..)) => continue,
                    _ => return Ok(()),
                }
            }
        };
        input.advance(bytes);
        if words.is_empty() {
            continue;
        }
        if is_foreign(&words) {
            tracing::warn!("a client that speaks HTTP to the console was closed; nothing that it sent was carried out");
            return Ok(());
        }
        let mut output = BytesMut::new();
        let goes_on = answer(desk, asker, &words, &mut protocol, &mut output).await;
        tokio::time::timeout(WRITE_MAX, stream.write_all(&output)).await??;
        if !goes_on {
            return Ok(());
        }
    }
}

/// The console has no password: a page in an operator's browser must not be able to give orders.
fn is_foreign(words: &[Vec<u8>]) -> bool {
    let mut frame = BytesMut::new();
    encode::request(&mut frame, words);
    classify(&frame, &words[0]).class == Class::Closed
        || (words.len() > 2 && words.last().is_some_and(|word| word.starts_with(b"HTTP/")))
}

fn words(frame: &[u8]) -> Vec<Vec<u8>> {
    Arguments::new(frame).map(<[u8]>::to_vec).collect()
}

/// Answers one request; says whether the conversation goes on.
async fn answer(desk: &Desk, asker: &Asker, words: &[Vec<u8>], protocol: &mut Protocol, out: &mut BytesMut) -> bool {
    let outcome = match parse(words) {
        Ok((Request::Quit, _)) => {
            encode::simple(out, "OK");
            return false;
        }
        Ok((Request::Ping(text), _)) => {
            match text {
                Some(text) => encode::bulk(out, &text),
                None => encode::simple(out, "PONG"),
            }
            return true;
        }
        Ok((Request::Hello(version), _)) => {
            match version {
                Some(3) => *protocol = Protocol::Resp3,
                Some(_) => *protocol = Protocol::Resp2,
                None => {}
            }
            write_hello(out, *protocol);
            return true;
        }
        Ok((Request::Courtesy(Courtesy::Command), _)) => {
            encode::array(out, 0);
            return true;
        }
        Ok((Request::Courtesy(Courtesy::Accepted), _)) => {
            encode::simple(out, "OK");
            return true;
        }
        Ok((request, group)) => desk.carry_out(request, group.as_deref(), asker).await,
        Err(message) => Err(Trouble::Wrong(message)),
    };
    match outcome {
        Ok(Answer::Line(line)) => encode::simple(out, &line),
        Ok(Answer::Lines(lines)) => {
            encode::array(out, lines.len());
            lines.iter().for_each(|line| encode::simple(out, line));
        }
        Err(trouble) => encode::error(out, &format!("ERR {}", trouble.message())),
    }
    true
}

fn write_hello(out: &mut BytesMut, protocol: Protocol) {
    let version = match protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    encode::map(out, protocol, 3);
    for (key, value) in [("server", "handover-console"), ("version", env!("CARGO_PKG_VERSION"))] {
        encode::bulk(out, key.as_bytes());
        encode::bulk(out, value.as_bytes());
    }
    encode::bulk(out, b"proto");
    encode::integer(out, version);
}
