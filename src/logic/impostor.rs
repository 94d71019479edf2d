//! Stands between one connection and its backend for a drill, and lets the backend seem read-only: each write goes out
//! as a PING, and what comes back for it is READONLY. Replies keep their number and their order.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use crate::command::classify::classify;
use crate::command::table::Flags;
use crate::resp::encode;
use crate::resp::reply::{ReplyKind, ReplyScan, ReplyScanner};
use crate::resp::request::{RequestScanner, Scan};

const READONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";
const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";

/// What comes back for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Genuine,
    Readonly,
    Aborted,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Impostor {
    requests: RequestScanner,
    outgoing: BytesMut,
    incoming: BytesMut,
    due: VecDeque<Due>,
    is_queuing: bool,
    has_refused: bool,
    /// What came is no RESP: everything is passed on, and whoever reads it will say so.
    has_given_up: bool,
}

impl Impostor {
    /// For a connection that stands between two frames; replies to `due` requests are still to come.
    #[must_use]
    pub fn new(due: usize) -> Self {
        Self {
            requests: RequestScanner::new(usize::MAX >> 1),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            due: std::iter::repeat_n(Due::Genuine, due).collect(),
            is_queuing: false,
            has_refused: false,
            has_given_up: false,
        }
    }

    /// Requests on their way: what goes to the backend instead is appended to `out`.
    pub fn on_requests(&mut self, bytes: &[u8], out: &mut BytesMut) {
        if self.has_given_up {
            out.extend_from_slice(bytes);
            return;
        }
        self.outgoing.extend_from_slice(bytes);
        loop {
            match self.requests.scan(&self.outgoing) {
                Scan::Frame(frame) => {
                    let request = self.outgoing.split_to(frame.bytes);
                    let name = frame.name(&request).to_ascii_lowercase();
                    self.pass_request(&request, &name, out);
                }
                Scan::Nothing { bytes } => out.extend_from_slice(&self.outgoing.split_to(bytes)),
                Scan::Incomplete => return,
                Scan::Inline { .. } | Scan::Invalid(_) => return self.give_up(out),
            }
        }
    }

    fn give_up(&mut self, out: &mut BytesMut) {
        self.has_given_up = true;
        out.extend_from_slice(&self.outgoing.split());
    }

    fn pass_request(&mut self, request: &[u8], name: &[u8], out: &mut BytesMut) {
        let is_write = classify(request, name).command.is_some_and(|command| command.flags.has(Flags::WRITE));
        let due = match name {
            b"multi" => {
                (self.is_queuing, self.has_refused) = (true, false);
                Due::Genuine
            }
            b"discard" => {
                self.is_queuing = false;
                Due::Genuine
            }
            b"exec" if std::mem::take(&mut self.is_queuing) && self.has_refused => {
                encode::request(out, &["DISCARD"]);
                return self.due.push_back(Due::Aborted);
            }
            _ if is_write => {
                self.has_refused = true;
                encode::request(out, &["PING"]);
                return self.due.push_back(Due::Readonly);
            }
            _ => Due::Genuine,
        };
        out.extend_from_slice(request);
        self.due.push_back(due);
    }

    /// Replies of the backend: what the connection's reader is to see of them is appended to `out`.
    pub fn on_replies(&mut self, bytes: &[u8], out: &mut BytesMut) {
        self.incoming.extend_from_slice(bytes);
        while !self.incoming.is_empty() {
            if self.has_given_up {
                return out.extend_from_slice(&self.incoming.split());
            }
            match ReplyScanner::new().scan(&self.incoming) {
                ReplyScan::Complete { bytes, kind } => {
                    let due = if kind == ReplyKind::Push { None } else { self.due.pop_front() };
                    match due {
                        Some(Due::Readonly) => out.extend_from_slice(READONLY),
                        Some(Due::Aborted) => out.extend_from_slice(ABORTED),
                        Some(Due::Genuine) | None => out.extend_from_slice(&self.incoming[..bytes]),
                    }
                    self.incoming.advance(bytes);
                }
                ReplyScan::Incomplete { .. } => return,
                ReplyScan::Invalid(_) => self.has_given_up = true,
            }
        }
    }

    /// Whether the connection stands between two frames, with nothing played still to come: it can do without.
    #[must_use]
    pub fn is_done(&self) -> bool {
        // The server knows nothing of what was refused: it would run the rest alone.
        let is_maimed = self.is_queuing && self.has_refused;
        !is_maimed
            && self.outgoing.is_empty()
            && self.incoming.is_empty()
            && self.due.iter().all(|due| *due == Due::Genuine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(lines: &[&[&str]]) -> BytesMut {
        let mut bytes = BytesMut::new();
        lines.iter().for_each(|words| encode::request(&mut bytes, words));
        bytes
    }

    #[test]
    fn writes_are_answered_and_never_sent() {
        let mut impostor = Impostor::new(1);
        let sent = requests(&[&["GET", "a"], &["SET", "a", "1"], &["ECHO", "x"], &["DEL", "a"]]);
        let mut out = BytesMut::new();
        // However the bytes come.
        sent.iter().for_each(|byte| impostor.on_requests(&[*byte], &mut out));
        assert_eq!(out, requests(&[&["GET", "a"], &["PING"], &["ECHO", "x"], &["PING"]]));
        let mut seen = BytesMut::new();
        let replies = b"+before\r\n$1\r\n0\r\n+PONG\r\n>2\r\n+invalidate\r\n_\r\n$1\r\nx\r\n+PONG\r\n";
        replies.iter().for_each(|byte| impostor.on_replies(&[*byte], &mut seen));
        let readonly = String::from_utf8_lossy(READONLY).into_owned();
        let expected = format!("+before\r\n$1\r\n0\r\n{readonly}>2\r\n+invalidate\r\n_\r\n$1\r\nx\r\n{readonly}");
        assert_eq!(String::from_utf8_lossy(&seen), expected);
        assert!(impostor.is_done());
    }

    #[test]
    fn what_is_left_of_a_refused_transaction_is_nothing_to_go_on_with() {
        let mut impostor = Impostor::new(0);
        let mut out = BytesMut::new();
        impostor.on_requests(&requests(&[&["MULTI"], &["GET", "a"]]), &mut out);
        impostor.on_replies(b"+OK\r\n+QUEUED\r\n", &mut out);
        assert!(impostor.is_done(), "all that was queued is genuine");
        impostor.on_requests(&requests(&[&["INCR", "a"]]), &mut out);
        impostor.on_replies(b"+QUEUED\r\n", &mut out);
        assert!(!impostor.is_done(), "an EXEC would run it without the INCR");
        impostor.on_requests(&requests(&[&["EXEC"]]), &mut out);
        impostor.on_replies(b"+OK\r\n", &mut out);
        assert!(impostor.is_done());
    }

    #[test]
    fn a_transaction_with_a_write_is_aborted_as_a_whole() {
        let mut impostor = Impostor::new(0);
        let mut out = BytesMut::new();
        let transaction: &[&[&str]] = &[&["MULTI"], &["GET", "a"], &["INCR", "a"], &["EXEC"], &["MULTI"], &["EXEC"]];
        impostor.on_requests(&requests(transaction), &mut out);
        assert_eq!(out, requests(&[&["MULTI"], &["GET", "a"], &["PING"], &["DISCARD"], &["MULTI"], &["EXEC"]]));
        assert!(!impostor.is_done());
        let mut seen = BytesMut::new();
        impostor.on_replies(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+OK\r\n+OK\r\n*0\r\n", &mut seen);
        let (readonly, aborted) = (String::from_utf8_lossy(READONLY), String::from_utf8_lossy(ABORTED));
        let expected = format!("+OK\r\n+QUEUED\r\n{readonly}{aborted}+OK\r\n*0\r\n");
        assert_eq!(String::from_utf8_lossy(&seen), expected);
    }
}
