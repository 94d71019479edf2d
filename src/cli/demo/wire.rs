//! A small blocking RESP client: requests out, replies in, one socket that is never given up silently.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;
pub(super) use redis_protocol::resp2::types::BytesFrame as Reply;

use crate::resp::encode;

/// How long a client waits for an answer. Handover promises one within a few seconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to a Redis server, or to Handover: it does not know which.
pub(super) struct Connection {
    stream: TcpStream,
    unread: BytesMut,
}

impl Connection {
    /// Connects.
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, unread: BytesMut::new() })
    }

    /// Sends some requests in one write.
    pub(super) fn send(&mut self, requests: &[Vec<String>]) -> io::Result<()> {
        let mut out = BytesMut::new();
        for request in requests {
            encode::request(&mut out, request);
        }
        self.stream.write_all(&out)
    }

    /// The next reply.
    pub(super) fn receive(&mut self) -> io::Result<Reply> {
        let mut scratch = [0; 4096];
        loop {
            let decoded = decode_bytes_mut(&mut self.unread);
            let decoded = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if let Some((reply, _, _)) = decoded {
                return Ok(reply);
            }
            match self.stream.read(&mut scratch) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
                Ok(length) => self.unread.extend_from_slice(&scratch[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Requests in one write, and their replies.
    pub(super) fn ask(&mut self, requests: &[Vec<String>]) -> io::Result<Vec<Reply>> {
        self.send(requests)?;
        requests.iter().map(|_| self.receive()).collect()
    }
}

/// A request's words.
pub(super) fn request(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// This machine, by its loopback address.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A reply that is text, as text.
pub(super) fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::SimpleString(bytes) | Reply::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// A number, as an integer or as text.
pub(super) fn number(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Integer(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}
