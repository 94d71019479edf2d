//! Frames of pub/sub: which they are, and how commands are written.

use bytes::{Bytes, BytesMut};

use super::Kind;
use crate::resp::encode;

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
