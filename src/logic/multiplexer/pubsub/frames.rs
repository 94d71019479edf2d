//! Frames of pub/sub: what they are, and how Handover writes its own.

use bytes::{Bytes, BytesMut};

use super::registry::{Confirmation, Kind, Request};
use crate::resp::encode::{self, Protocol};

/// Whether a frame from a subscription connection confirms a command rather than carrying a message.
pub(super) fn is_confirmation(frame: &[u8]) -> bool {
    let Some(line_end) = memchr::memchr(b'\n', frame) else { return false };
    let Some(word_start) = memchr::memchr(b'\n', &frame[line_end + 1..]).map(|end| line_end + end + 2) else {
        return false;
    };
    let word = &frame[word_start..];
    ["subscribe\r", "unsubscribe\r", "psubscribe\r", "punsubscribe\r", "ssubscribe\r", "sunsubscribe\r"]
        .iter()
        .any(|known| word.starts_with(known.as_bytes()))
}

/// The reply to Handover's own PING: of a subscriber of RESP2 two words, of anybody else one. Messages have more.
pub(super) fn is_pong(frame: &[u8]) -> bool {
    frame.starts_with(b"+") || frame.starts_with(b"*2\r\n")
}

/// The name that a confirmation speaks of.
pub(super) fn confirmed_name(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame;
    for _ in 0..3 {
        rest = &rest[memchr::memchr(b'\n', rest)? + 1..];
    }
    let digits = rest.strip_prefix(b"$")?;
    let line_end = memchr::memchr(b'\r', digits)?;
    let length: usize = std::str::from_utf8(&digits[..line_end]).ok()?.parse().ok()?;
    digits.get(line_end + 2..line_end + 2 + length)
}

/// What a message came for: a channel, a pattern, or a shard channel.
pub(super) fn message_topic(frame: &[u8]) -> Option<(Kind, &[u8])> {
    let mut rest = frame;
    for _ in 0..2 {
        rest = &rest[memchr::memchr(b'\n', rest)? + 1..];
    }
    let kind = match &rest[..memchr::memchr(b'\r', rest)?] {
        b"message" => Kind::Channel,
        b"pmessage" => Kind::Pattern,
        b"smessage" => Kind::Shard,
        _ => return None,
    };
    Some((kind, confirmed_name(frame)?))
}

/// Writes a command of one of the forms.
pub(super) fn write_command<'a>(
    out: &mut BytesMut,
    kind: Kind,
    subscribe: bool,
    names: impl ExactSizeIterator<Item = &'a Bytes>,
) {
    encode::array(out, names.len() + 1);
    encode::bulk(out, kind.command(subscribe).as_bytes());
    names.for_each(|name| encode::bulk(out, name));
}

/// Writes what a server has to be asked.
pub(super) fn write_request(out: &mut BytesMut, request: &Request) {
    write_command(out, request.kind, request.subscribe, request.names.iter());
}

/// Writes what a client is told.
pub(super) fn write_confirmation(out: &mut BytesMut, confirmation: &Confirmation, protocol: Protocol) {
    encode::push(out, protocol, 3);
    encode::bulk(out, confirmation.kind.word(confirmation.subscribe).as_bytes());
    match &confirmation.name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, protocol),
    }
    encode::integer(out, i64::try_from(confirmation.count).unwrap_or(i64::MAX));
}

/// Writes a message of Handover's own.
pub(super) fn write_message(
    out: &mut BytesMut,
    protocol: Protocol,
    pattern: Option<&[u8]>,
    channel: &[u8],
    text: &str,
) {
    match pattern {
        None => {
            encode::push(out, protocol, 3);
            encode::bulk(out, b"message");
        }
        Some(pattern) => {
            encode::push(out, protocol, 4);
            encode::bulk(out, b"pmessage");
            encode::bulk(out, pattern);
        }
    }
    encode::bulk(out, channel);
    encode::bulk(out, text.as_bytes());
}

/// Whether a pattern of PSUBSCRIBE fits a name: `*`, `?`, `[a-z]`, `[^a-z]` and `\`, as Redis reads them.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last star stood, and how much of the name it has taken: all that going back needs.
    let (mut at, mut matched, mut star) = (0, 0, None);
    while matched < name.len() {
        match fit_one(&pattern[at..], name[matched]) {
            Fit::Star => {
                star = Some((at + 1, matched));
                at += 1;
                continue;
            }
            Fit::Taken(length) => {
                (at, matched) = (at + length, matched + 1);
                continue;
            }
            Fit::Not => {}
        }
        let Some((after, taken)) = star else { return false };
        star = Some((after, taken + 1));
        (at, matched) = (after, taken + 1);
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// What the start of a pattern makes of one byte.
enum Fit {
    Star,
    Taken(usize),
    Not,
}

fn fit_one(pattern: &[u8], byte: u8) -> Fit {
    match pattern {
        [] => Fit::Not,
        [b'*', ..] => Fit::Star,
        [b'?', ..] => Fit::Taken(1),
        [b'[', class @ ..] => fit_class(class, byte),
        [b'\\', escaped, ..] if *escaped == byte => Fit::Taken(2),
        [b'\\', _, ..] => Fit::Not,
        [first, ..] if *first == byte => Fit::Taken(1),
        _ => Fit::Not,
    }
}

fn fit_class(class: &[u8], byte: u8) -> Fit {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut is_in = false;
    while let Some(&first) = class.get(at) {
        match &class[at..] {
            [b']', ..] => break,
            [b'\\', escaped, ..] => {
                is_in |= *escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            _ => {
                is_in |= first == byte;
                at += 1;
            }
        }
    }
    // The opening bracket before it and the closing one, which may be missing.
    let length = 1 + (at + 1).min(class.len());
    if is_in == negated { Fit::Not } else { Fit::Taken(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_redis_has_it() {
        for (pattern, name, expected) in [
            ("__handover__:*", "__handover__:events", true),
            ("__handover__:events", "__handover__:events", true),
            ("__handover__:event", "__handover__:events", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hbllo", true),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("a[x", "ax", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_confirmation_names_what_it_confirms() {
        assert_eq!(confirmed_name(b"*3\r\n$9\r\nsubscribe\r\n$3\r\na\r\n\r\n:1\r\n"), Some(b"a\r\n".as_slice()));
        assert_eq!(confirmed_name(b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"), None);
        let topic = message_topic(b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$1\r\nx\r\n");
        assert_eq!(topic, Some((Kind::Pattern, b"a*".as_slice())));
        assert_eq!(message_topic(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), None);
        assert!(is_confirmation(b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n"));
        assert!(!is_confirmation(b"*3\r\n$7\r\nmessage\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n"));
    }
}
