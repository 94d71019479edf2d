//! What an operator has subscribed to on the console, with the framing of Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::super::desk::Channel;
use crate::channels::EventRecord;
use crate::events::{EventHub, Reader};
use crate::resp::encode::{self, Protocol};
use crate::telemetry::counters::Way;

/// A subscriber who takes nothing for so long is closed.
pub(super) const TAKES_NOTHING_MAX: Duration = Duration::from_secs(60);

/// One operator's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    events: Option<Reader>,
    outcomes: Option<Reader>,
}

impl Subscriber {
    fn place(&mut self, channel: Channel) -> &mut Option<Reader> {
        match channel {
            Channel::Events => &mut self.events,
            Channel::Outcomes => &mut self.outcomes,
        }
    }

    /// To how many channels.
    pub(super) fn count(&self) -> usize {
        usize::from(self.events.is_some()) + usize::from(self.outcomes.is_some())
    }

    /// Subscribes, with a confirmation for each. Who has subscribed already stays where it is.
    pub(super) fn subscribe(
        &mut self,
        channels: &[Channel],
        hub: impl Fn(Channel) -> EventHub,
        protocol: Protocol,
        out: &mut BytesMut,
    ) {
        for &channel in channels {
            self.place(channel).get_or_insert_with(|| hub(channel).subscribe(Way::Console));
            self.confirm(b"subscribe", Some(channel), protocol, out);
        }
    }

    /// Ends some, or all where none is named, with a confirmation for each.
    pub(super) fn unsubscribe(&mut self, channels: &[Channel], protocol: Protocol, out: &mut BytesMut) {
        let mut ending = channels.to_vec();
        if ending.is_empty() {
            ending = Channel::ALL.into_iter().filter(|channel| self.place(*channel).is_some()).collect();
        }
        if ending.is_empty() {
            self.confirm(b"unsubscribe", None, protocol, out);
        }
        for channel in ending {
            *self.place(channel) = None;
            self.confirm(b"unsubscribe", Some(channel), protocol, out);
        }
    }

    fn confirm(&self, word: &[u8], channel: Option<Channel>, protocol: Protocol, out: &mut BytesMut) {
        encode::push(out, protocol, 3);
        encode::bulk(out, word);
        match channel {
            Some(channel) => encode::bulk(out, channel.name().as_bytes()),
            None => encode::null(out, protocol),
        }
        encode::integer(out, i64::try_from(self.count()).unwrap_or(i64::MAX));
    }

    /// The next record, of whichever; `None`: the process ends. Nothing is missed when this is cancelled.
    /// Waits for ever while there is no subscription.
    pub(super) async fn next(&mut self) -> Option<(Channel, Arc<EventRecord>)> {
        let (channel, record) = tokio::select! {
            record = next(&mut self.events) => (Channel::Events, record),
            record = next(&mut self.outcomes) => (Channel::Outcomes, record),
        };
        record.map(|record| (channel, record))
    }
}

async fn next(reader: &mut Option<Reader>) -> Option<Arc<EventRecord>> {
    match reader {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}

/// One message.
pub(super) fn write_message(out: &mut BytesMut, protocol: Protocol, channel: Channel, record: &EventRecord) {
    encode::push(out, protocol, 3);
    encode::bulk(out, b"message");
    encode::bulk(out, channel.name().as_bytes());
    encode::bulk(out, record.json().as_bytes());
}
