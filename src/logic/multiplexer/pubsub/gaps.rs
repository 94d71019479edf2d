//! What a subscriber is told of a switch, and of a time in which messages may have been lost: an event on a channel of
//! Handover's own, the confirmations once more, or the end of its connection.

use std::fmt::Write as _;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::frames::{fits, write_confirmation, write_message};
use super::registry::{Confirmation, Kind};
use crate::logic::multiplexer::session::CloseReason;
use crate::logic::multiplexer::{Multiplexer, SessionKey};
use crate::logic::settings::OnGap;

/// The channel of events.
const CHANNEL: &[u8] = b"__handover__:events";

/// A time in which messages may have been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The last proof of life of the connection that delivered.
    pub lost_at: Instant,
    /// When another did.
    pub back_at: Instant,
    /// Messages of it that a standby connection had kept.
    pub replayed: usize,
}

impl Multiplexer {
    /// A client's subscriptions are live again: it is told as it was configured.
    pub(super) fn tell_gap(&mut self, key: SessionKey, is_switch: bool, gap: Option<Gap>, now: Instant) {
        if self.sessions.get(key).is_some_and(crate::logic::multiplexer::Session::is_reader) {
            return self.tell_shared_gap(key, is_switch, gap, now);
        }
        if let Some(gap) = gap {
            self.counters.gaps += 1;
            let micros = gap.back_at.saturating_duration_since(gap.lost_at).as_micros();
            self.counters.gap_us += u64::try_from(micros).unwrap_or(u64::MAX);
        }
        let on_gap = self.settings.pubsub.on_gap;
        if on_gap != OnGap::None {
            self.tell_event(key, is_switch, gap, now);
        }
        match on_gap {
            OnGap::Push if gap.is_some() => self.confirm_again(key, now),
            OnGap::Disconnect if gap.is_some() => self.end(key, CloseReason::SubscriptionGap),
            _ => {}
        }
    }

    /// Clients that have nothing but Handover's own channels hear of a switch at once.
    pub(in crate::logic::multiplexer) fn tell_listeners(&mut self, now: Instant) {
        let epoch = self.route.epoch;
        for key in self.sessions.keys() {
            let Some(subscriptions) = self.sessions.get_mut(key).and_then(|session| session.subscriptions.as_mut())
            else {
                continue;
            };
            if !subscriptions.needs_server() && subscriptions.epoch.replace(epoch).is_some_and(|before| before != epoch)
            {
                self.tell_gap(key, true, None, now);
            }
        }
    }

    fn tell_event(&mut self, key: SessionKey, is_switch: bool, gap: Option<Gap>, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_ref() else { return };
        let protocol = session.profile.protocol;
        let registry = &subscriptions.registry;
        let patterns: Vec<Option<Bytes>> = registry
            .own_names()
            .filter_map(|(kind, name)| match kind {
                Kind::Channel => (name == CHANNEL).then_some(None),
                _ => fits(name, CHANNEL).then(|| Some(name.clone())),
            })
            .collect();
        if patterns.is_empty() {
            return;
        }
        let channels = Kind::ALL.iter().map(|&kind| registry.names(kind).count()).sum();
        let text = self.event(is_switch, gap, channels);
        let mut message = BytesMut::new();
        for pattern in patterns {
            write_message(&mut message, protocol, pattern.as_deref(), CHANNEL, &text);
            self.deliver_message(key, &message.split(), now);
        }
    }

    /// One JSON object.
    fn event(&self, is_switch: bool, gap: Option<Gap>, channels: usize) -> String {
        let mut text = String::from("{\"event\":");
        let change = self.route.change.as_deref();
        let change = change.filter(|_| is_switch);
        write_text(&mut text, if is_switch { "switched" } else { "reconnected" });
        for (name, value) in
            [("from", change.and_then(|change| change.from.as_ref())), ("to", change.map(|change| &change.to))]
        {
            let _ = write!(text, ",\"{name}\":");
            match value {
                Some(value) => write_text(&mut text, value),
                None => text.push_str("null"),
            }
        }
        text.push_str(",\"reason\":");
        write_text(&mut text, change.map_or("connection lost", |change| &change.reason));
        match gap {
            Some(gap) => {
                let unix_ms = |at| self.settings.clock.unix_ms(at);
                let gap_ms = gap.back_at.saturating_duration_since(gap.lost_at).as_millis();
                let (lost_at, back_at) = (unix_ms(gap.lost_at), unix_ms(gap.back_at));
                let _ = write!(text, ",\"lost_at\":{lost_at},\"back_at\":{back_at},\"gap_ms\":{gap_ms}");
                let _ = write!(text, ",\"replayed\":{}", gap.replayed);
            }
            None => text.push_str(",\"lost_at\":null,\"back_at\":null,\"gap_ms\":0,\"replayed\":0"),
        }
        let _ = write!(text, ",\"channels\":{channels},\"epoch\":{}}}", self.route.epoch);
        text
    }

    /// Each subscription is confirmed once more, with the count that is true now.
    fn confirm_again(&mut self, key: SessionKey, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(subscriptions) = session.subscriptions.as_ref() else { return };
        let mut frames = BytesMut::new();
        for kind in Kind::ALL {
            let count = subscriptions.registry.told(kind);
            for name in subscriptions.registry.names(kind) {
                let confirmation = Confirmation { kind, subscribe: true, name: Some(name.clone()), count };
                write_confirmation(&mut frames, &confirmation, session.profile.protocol);
            }
        }
        self.deliver_message(key, &frames, now);
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out.push('"');
}
