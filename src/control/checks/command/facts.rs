//! What the server says of itself, asked on the connection of the check once the check is answered.

use std::time::{Duration, Instant};

use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::AsyncWriteExt;

use super::{AskError, CommandCheck, append_command, printable, read_replies};
use crate::control::now;
use crate::logic::replication::Facts;
use crate::net::stream::Stream;

/// A server that has just answered a check answers this at once.
const REPLY_MAX: Duration = Duration::from_millis(250);
/// One that refuses is not asked again for so long: its log may keep what it refuses.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// One that was slow once may answer the next time, and what it said before still holds.
const SILENT_PAUSE: Duration = Duration::from_secs(5);
/// Each by itself: several in one command need Redis 7.
const SECTIONS: [&str; 3] = ["server", "replication", "keyspace"];

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This.
    Facts(Facts),
    /// It does not tell: its reply, or what is wrong with it.
    Refused(String),
}

impl Told {
    pub(in crate::control) fn result(self) -> Result<Facts, String> {
        match self {
            Self::Facts(facts) => Ok(facts),
            Self::Refused(why) => Err(why),
        }
    }
}

/// When a server is asked again that would not tell.
#[derive(Debug, Default)]
pub(super) struct Pause {
    until: Option<Instant>,
}

impl CommandCheck {
    /// Asks on the connection that the last round has left, if it has left one.
    pub(in crate::control) async fn facts(&mut self) -> Option<Told> {
        if self.facts_pause.until.is_some_and(|until| now() < until) {
            return None;
        }
        let socket = self.connection.take()?;
        let told = match tokio::time::timeout(REPLY_MAX, self.ask_for_facts(socket)).await {
            Ok(Ok(told)) => told,
            // The check itself will find what is wrong with the server.
            Ok(Err(_)) => return None,
            Err(_) => {
                self.facts_pause.until = Some(now() + SILENT_PAUSE);
                return None;
            }
        };
        self.facts_pause.until = matches!(told, Told::Refused(_)).then(|| now() + REFUSED_PAUSE);
        Some(told)
    }

    async fn ask_for_facts(&mut self, mut socket: Stream) -> Result<Told, AskError> {
        let mut bytes = Vec::with_capacity(128);
        for section in SECTIONS {
            append_command(&mut bytes, &["INFO", section]);
        }
        socket.write_all(&bytes).await?;
        socket.flush().await?;
        let (replies, is_clean) = read_replies(&mut socket, SECTIONS.len()).await?;
        if is_clean {
            self.connection = Some(socket);
        }
        Ok(told(&replies))
    }
}

fn told(replies: &[OwnedFrame]) -> Told {
    let mut text = String::new();
    for reply in replies {
        match reply {
            OwnedFrame::Error(line) => return Told::Refused(format!("INFO refused: {}", printable(line))),
            OwnedFrame::BulkString(bytes) => text.push_str(&String::from_utf8_lossy(bytes)),
            _ => {}
        }
    }
    Facts::parse(&text).map_or_else(|| Told::Refused("INFO says nothing of replication".to_owned()), Told::Facts)
}
