//! Writing RESP: requests to backends and the replies that Handover makes itself.

use bytes::{BufMut, BytesMut};

/// RESP version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// RESP2, the state of a fresh connection.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The number that HELLO speaks of.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// A request as a multibulk frame.
pub fn request<A: AsRef<[u8]>>(out: &mut BytesMut, arguments: &[A]) {
    header(out, b'*', arguments.len());
    for argument in arguments {
        bulk(out, argument.as_ref());
    }
}

/// `+text`.
pub fn simple(out: &mut BytesMut, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// `-text`; what would break the line is replaced by spaces.
pub fn error(out: &mut BytesMut, text: &str) {
    line(out, b'-', text.as_bytes());
}

/// `:number`.
pub fn integer(out: &mut BytesMut, number: i64) {
    line(out, b':', number.to_string().as_bytes());
}

/// `$length`, the value.
pub fn bulk(out: &mut BytesMut, value: &[u8]) {
    header(out, b'$', value.len());
    out.reserve(value.len() + 2);
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// A null that stands for a missing value.
pub fn null(out: &mut BytesMut, protocol: Protocol) {
    out.put_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// A null that stands for a missing array.
pub fn null_array(out: &mut BytesMut, protocol: Protocol) {
    out.put_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// The header of an array.
pub fn array(out: &mut BytesMut, elements: usize) {
    header(out, b'*', elements);
}

/// The header of a RESP3 set.
pub fn set(out: &mut BytesMut, elements: usize) {
    header(out, b'~', elements);
}

/// Text for people, as RESP3 has it.
pub fn verbatim(out: &mut BytesMut, text: &str) {
    header(out, b'=', text.len() + 4);
    out.put_slice(b"txt:");
    out.put_slice(text.as_bytes());
    out.put_slice(b"\r\n");
}

/// The header of a map: in RESP2 an array of twice as many elements.
pub fn map(out: &mut BytesMut, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', pairs * 2),
        Protocol::Resp3 => header(out, b'%', pairs),
    }
}

/// The header of a push: in RESP2 an array.
pub fn push(out: &mut BytesMut, protocol: Protocol, elements: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', elements),
        Protocol::Resp3 => header(out, b'>', elements),
    }
}

fn header(out: &mut BytesMut, kind: u8, number: usize) {
    line(out, kind, number.to_string().as_bytes());
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    for &byte in text {
        out.put_u8(if byte == b'\r' || byte == b'\n' { b' ' } else { byte });
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::arguments::Arguments;
    use proptest::prelude::*;

    #[test]
    fn a_line_cannot_be_broken() {
        let mut out = BytesMut::new();
        error(&mut out, "ERR a\r\n+INJECTED");
        assert_eq!(&out[..], b"-ERR a  +INJECTED\r\n");
    }

    proptest! {
        #[test]
        fn requests_come_back(arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6)) {
            let mut out = BytesMut::new();
            request(&mut out, &arguments);
            let back: Vec<Vec<u8>> = Arguments::new(&out).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(back, arguments);
        }
    }
}
