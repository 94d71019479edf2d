//! The header of the PROXY protocol, version 1 and 2: pure, and told how many bytes are surely part of it, so that
//! nothing behind it is taken from whoever reads next.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// Signature, version and command, family, length.
const HEAD_BYTES: usize = 16;
/// The most that addresses and what follows them may take; senders use a few hundred.
const BODY_BYTES_MAX: usize = 4096;

/// How far a header is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// At least so many more bytes belong to it, ≥ 1.
    Incomplete(usize),
    /// The header ended with the last byte.
    Complete(Origin),
    /// This is no header.
    Invalid(&'static str),
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the sender itself, such as a health check, or from where it cannot say.
    Sender,
    /// Of a client.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address that it connected to.
        destination: SocketAddr,
    },
}

/// Looks at all that has come so far, which must be no more than what the last look asked for.
#[must_use]
pub fn scan(bytes: &[u8]) -> Scan {
    let begins_as = |start: &[u8]| bytes.iter().zip(start).all(|(one, other)| one == other);
    if begins_as(SIGNATURE) && !bytes.is_empty() {
        return binary(bytes);
    }
    if begins_as(WORD) {
        return line(bytes);
    }
    Scan::Invalid("neither version 1 nor version 2")
}

fn binary(bytes: &[u8]) -> Scan {
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Scan::Incomplete(HEAD_BYTES - bytes.len()) };
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > BODY_BYTES_MAX {
        return Scan::Invalid("longer than 4096 bytes");
    }
    let body = &bytes[HEAD_BYTES..];
    if body.len() < length {
        return Scan::Incomplete(length - body.len());
    }
    match (head[12], head[13]) {
        // LOCAL: the sender speaks for itself.
        (0x20, _) => Scan::Complete(Origin::Sender),
        (0x21, 0x11) => match body.first_chunk::<12>() {
            Some(body) => {
                let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
                client(ip(0), ip(4), [body[8], body[9], body[10], body[11]])
            }
            None => Scan::Invalid("too short for its addresses"),
        },
        (0x21, 0x21) => match (body.first_chunk::<16>(), body.get(16..).and_then(<[u8]>::first_chunk::<20>)) {
            (Some(source), Some(rest)) => {
                let mut destination = [0; 16];
                destination.copy_from_slice(&rest[..16]);
                let ports = [rest[16], rest[17], rest[18], rest[19]];
                client(IpAddr::V6(Ipv6Addr::from(*source)), IpAddr::V6(Ipv6Addr::from(destination)), ports)
            }
            _ => Scan::Invalid("too short for its addresses"),
        },
        // Other families have no address that could be shown.
        (0x21, _) => Scan::Complete(Origin::Sender),
        _ => Scan::Invalid("of an unknown version or command"),
    }
}

fn client(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> Scan {
    Scan::Complete(Origin::Client {
        source: SocketAddr::new(source, u16::from_be_bytes([ports[0], ports[1]])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([ports[2], ports[3]])),
    })
}

fn line(bytes: &[u8]) -> Scan {
    let Some(text) = bytes.strip_suffix(b"\r\n") else {
        if bytes.len() >= LINE_BYTES_MAX {
            return Scan::Invalid("a line of more than 107 bytes");
        }
        // Only the line's end is sure to come.
        return Scan::Incomplete(if bytes.last() == Some(&b'\r') { 1 } else { 2 });
    };
    let Ok(text) = std::str::from_utf8(text) else { return Scan::Invalid("a line that is no text") };
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Scan::Complete(Origin::Sender),
        ["PROXY", "TCP4", source, destination, source_port, destination_port] => addresses(
            source.parse().ok().map(IpAddr::V4).zip(port(source_port)),
            destination.parse().ok().map(IpAddr::V4).zip(port(destination_port)),
        ),
        ["PROXY", "TCP6", source, destination, source_port, destination_port] => addresses(
            source.parse().ok().map(IpAddr::V6).zip(port(source_port)),
            destination.parse().ok().map(IpAddr::V6).zip(port(destination_port)),
        ),
        _ => Scan::Invalid("a line without two addresses and two ports"),
    }
}

fn addresses(source: Option<(IpAddr, u16)>, destination: Option<(IpAddr, u16)>) -> Scan {
    match (source, destination) {
        (Some(source), Some(destination)) => {
            Scan::Complete(Origin::Client { source: source.into(), destination: destination.into() })
        }
        _ => Scan::Invalid("a line with a malformed address or port"),
    }
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(source: &str, destination: &str) -> Scan {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Scan::Complete(Origin::Client { source, destination })
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    /// Feeds what is asked for, no more; how far it got, and how many bytes that took.
    fn read(bytes: &[u8]) -> (Scan, usize) {
        let mut taken = 0;
        loop {
            match scan(&bytes[..taken]) {
                Scan::Incomplete(more) if taken + more <= bytes.len() => taken += more,
                outcome => return (outcome, taken),
            }
        }
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x18, 0xeb];

    #[test]
    fn headers_are_read_to_their_last_byte() {
        let v6 =
            [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].as_slice(), &[0; 16], &[0, 1, 0, 2]].concat();
        let with_extensions = [V4.as_slice(), &[0x03, 0, 4, 1, 2, 3, 4], &[0xee, 0, 1, 0]].concat();
        let sender = || Scan::Complete(Origin::Sender);
        for (bytes, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 6379\r\n".to_vec(),
                from("192.0.2.1:56324", "198.51.100.7:6379"),
            ),
            (b"PROXY TCP6 2001:db8::1 :: 1 0\r\n".to_vec(), from("[2001:db8::1]:1", "[::]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), sender()),
            (b"PROXY UNKNOWN ff:: 1.2.3.4 anything\r\n".to_vec(), sender()),
            (version_2(0x21, 0x11, &V4), from("192.0.2.1:56324", "198.51.100.7:6379")),
            (version_2(0x21, 0x11, &with_extensions), from("192.0.2.1:56324", "198.51.100.7:6379")),
            (version_2(0x21, 0x21, &v6), from("[2001:db8::1]:1", "[::]:2")),
            (version_2(0x20, 0x00, &[]), sender()),
            (version_2(0x20, 0x11, &V4), sender()),
            (version_2(0x21, 0x31, &[0; 216]), sender()),
            (version_2(0x21, 0x00, &[9; 4096]), sender()),
        ] {
            let with_a_command = [bytes.as_slice(), b"*1\r\n$4\r\nPING\r\n"].concat();
            assert_eq!(read(&with_a_command), (expected, bytes.len()), "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_shows() {
        for (bytes, taken_max) in [
            (b"*1\r\n$4\r\nPING\r\n".to_vec(), 2),
            (b"PING\r\n".to_vec(), 2),
            (b"\x16\x03\x01\x02\x00\x01".to_vec(), 2),
            (b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(), 16),
            ([b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(), LINE_BYTES_MAX + 1),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n".to_vec(), 41),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n".to_vec(), 47),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n".to_vec(), 40),
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n".to_vec(), 40),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), 24),
            (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n".to_vec(), 28),
            (b"PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n".to_vec(), 40),
            (version_2(0x22, 0x11, &V4), 28),
            (version_2(0x11, 0x11, &V4), 28),
            (version_2(0x21, 0x11, &V4[..11]), 27),
            (version_2(0x21, 0x21, &[0; 35]), 51),
            (version_2(0x21, 0x11, &[0; 4097]), 16),
        ] {
            let (outcome, taken) = read(&bytes);
            let shown = String::from_utf8_lossy(&bytes);
            assert!(matches!(outcome, Scan::Invalid(_)) && taken <= taken_max, "{shown}: {outcome:?} after {taken}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            start in prop::sample::select(vec![b"".as_slice(), WORD, b"PROXY TCP4 ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &bytes].concat();
            let (outcome, taken) = read(&bytes);
            if let Scan::Incomplete(more) = outcome {
                prop_assert!(more >= 1 && taken + more > bytes.len());
            }
        }

        #[test]
        fn every_cut_of_a_header_asks_for_no_more_than_there_is(
            source in any::<SocketAddr>(), destination in any::<SocketAddr>(), cut in any::<prop::sample::Index>()
        ) {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let destination = if destination.is_ipv4() == source.is_ipv4() { destination } else { source };
            let line = format!(
                "PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port()
            );
            let at = cut.index(line.len());
            match scan(&line.as_bytes()[..at]) {
                Scan::Incomplete(more) => prop_assert!(at + more <= line.len()),
                other => prop_assert!(false, "{other:?} at {at} of {line:?}"),
            }
            prop_assert!(matches!(read(line.as_bytes()).0, Scan::Complete(Origin::Client { .. })), "{line:?}");
        }
    }
}
