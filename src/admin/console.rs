//! The operator's console: a RESP port of its own, for redis-cli. What is said there is answered by the desk.

mod subscriber;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::subscriber::{Subscriber, TAKES_NOTHING_MAX, write_message};
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

/// One operator's conversation.
#[derive(Default)]
struct Talk {
    protocol: Protocol,
    subscriber: Subscriber,
}

/// One operator, until the connection ends.
async fn converse(mut stream: impl Connection, desk: &Desk, asker: &Asker) -> io::Result<()> {
    let mut scanner = RequestScanner::new(ARGUMENT_BYTES_MAX);
    let (mut input, mut talk) = (BytesMut::with_capacity(READ_BYTES), Talk::default());
    loop {
        let (words, bytes) = match scanner.scan(&input) {
            Scan::Frame(frame) => (words(&input[..frame.bytes]), frame.bytes),
            Scan::Inline { line_bytes, bytes } => (inline::split(&input[..line_bytes]).unwrap_or_default(), bytes),
            Scan::Nothing { bytes } => (Vec::new(), bytes),
            Scan::Invalid(_) => return Ok(()),
            Scan::Incomplete => {
                if listen(&mut stream, &mut input, &mut talk).await? {
                    continue;
                }
                return Ok(());
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
        let goes_on = answer(desk, asker, &words, &mut talk, &mut output).await;
        tokio::time::timeout(WRITE_MAX, stream.write_all(&output)).await??;
        if !goes_on {
            return Ok(());
        }
    }
}

/// Waits for the operator's next bytes, and passes on meanwhile what was subscribed to. False: it is over.
async fn listen(stream: &mut impl Connection, input: &mut BytesMut, talk: &mut Talk) -> io::Result<bool> {
    // Who has subscribed may be silent for ever.
    let idle_max = if talk.subscriber.count() > 0 { Duration::MAX } else { IDLE_MAX };
    let next = tokio::select! {
        biased;
        read = tokio::time::timeout(idle_max, stream.read_buf(input)) => return Ok(matches!(read, Ok(Ok(1..)))),
        next = talk.subscriber.next() => next,
    };
    let Some((channel, record)) = next else { return Ok(false) };
    let mut output = BytesMut::new();
    write_message(&mut output, talk.protocol, channel, &record);
    // What waits meanwhile has a bound: the reader's place in the ring.
    match tokio::time::timeout(TAKES_NOTHING_MAX, stream.write_all(&output)).await {
        Ok(written) => written.map(|()| true),
        Err(_) => Ok(false),
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

/// What a client of RESP2 may say while messages can come between replies, as with Redis.
fn is_silent(talk: &Talk, request: &Request) -> bool {
    let is_allowed = matches!(
        request,
        Request::Ping(_) | Request::Quit | Request::Subscribe(_) | Request::Unsubscribe(_) | Request::Hello(_)
    );
    talk.protocol == Protocol::Resp2 && talk.subscriber.count() > 0 && !is_allowed
}

/// Answers one request; says whether the conversation goes on.
async fn answer(desk: &Desk, asker: &Asker, words: &[Vec<u8>], talk: &mut Talk, out: &mut BytesMut) -> bool {
    let outcome = match parse(words) {
        Ok((request, _)) if is_silent(talk, &request) => {
            let message =
                "only SUBSCRIBE, UNSUBSCRIBE, PING and QUIT are allowed while you are subscribed; HELLO 3 lifts that";
            Err(Trouble::Wrong(message.to_owned()))
        }
        Ok((Request::Quit, _)) => {
            encode::simple(out, "OK");
            return false;
        }
        Ok((Request::Ping(text), _)) if talk.protocol == Protocol::Resp2 && talk.subscriber.count() > 0 => {
            encode::array(out, 2);
            encode::bulk(out, b"pong");
            encode::bulk(out, &text.unwrap_or_default());
            return true;
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
                Some(3) => talk.protocol = Protocol::Resp3,
                Some(_) => talk.protocol = Protocol::Resp2,
                None => {}
            }
            write_hello(out, talk.protocol);
            return true;
        }
        Ok((Request::Subscribe(channels), _)) => {
            talk.subscriber.subscribe(&channels, |channel| desk.hub(channel), talk.protocol, out);
            return true;
        }
        Ok((Request::Unsubscribe(channels), _)) => {
            talk.subscriber.unsubscribe(&channels, talk.protocol, out);
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
