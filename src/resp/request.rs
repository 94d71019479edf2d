//! Where a request ends: an incremental scanner that resumes where it stopped and allocates nothing.

use super::{ends_line, parse_number, plain_number};

/// The longest header line or inline request, as Redis has it (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The most arguments of one request, as Redis has it (`INT_MAX`).
const ARGUMENTS_MAX: i64 = i32::MAX as i64;

/// The most arguments, and the longest, of a client that has not authenticated, as Redis has it.
const UNAUTHENTICATED_ARGUMENTS_MAX: i64 = 10;
const UNAUTHENTICATED_VALUE_BYTES_MAX: usize = 16 * 1024;

/// What a scan of the input from a request's first byte on found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole multibulk request.
    Frame(Frame),
    /// A whole inline request: the line's bytes and, with its line end, how many the request takes.
    Inline {
        /// Bytes of the line without its end.
        line_bytes: usize,
        /// Bytes to consume.
        bytes: usize,
    },
    /// Bytes that are no request and get no reply: `*0`, `*-1`.
    Nothing {
        /// Bytes to consume.
        bytes: usize,
    },
    /// More bytes are needed.
    Incomplete,
    /// The connection must end.
    Invalid(ProtocolError),
}

/// A whole multibulk request at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the request.
    pub bytes: usize,
    /// Where its first argument, the command's name, starts.
    pub name_start: usize,
    /// Bytes of the name.
    pub name_bytes: usize,
}

impl Frame {
    /// The command's name within the input that was scanned.
    #[must_use]
    pub fn name<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.name_start..self.name_start + self.name_bytes]
    }
}

/// Why a client's bytes are no RESP. The texts are those of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number after `*` is none, or out of range.
    ArgumentCount,
    /// The number after `$` is none, or above Redis's own limit.
    BulkLength,
    /// A value above the configured limit.
    ValueTooLarge,
    /// A request above what is kept of one that must be seen whole.
    RequestTooLarge,
    /// Something else stood where a bulk must start.
    ExpectedBulk(u8),
    /// A bulk is not followed by CRLF, or a header line ends in LF alone.
    Terminator,
    /// A header line above [`LINE_BYTES_MAX`].
    HeaderTooLong,
    /// An inline request above [`LINE_BYTES_MAX`].
    InlineTooLong,
    /// Quotes of an inline request do not match.
    UnbalancedQuotes,
    /// A RESP3 type as a request.
    UnexpectedType(u8),
    /// A TLS handshake on a plain port.
    TlsHello,
    /// More arguments than a client may send before it has authenticated.
    UnauthenticatedCount,
    /// A longer value than a client may send before it has authenticated.
    UnauthenticatedLength,
}

/// Finds the end of requests, one after the other. Keeps its place within a request that is incomplete.
#[derive(Clone, Copy, Debug)]
pub struct RequestScanner {
    value_bytes_max: usize,
    arguments_max: i64,
    /// Bytes of the current request that need no second look.
    position: usize,
    /// Arguments still to come; `None` before the `*` line was read.
    remaining: Option<u32>,
    /// Bytes of the bulk at `position`, once its header was read.
    bulk: Option<usize>,
    name: Option<(usize, usize)>,
}

impl RequestScanner {
    /// A scanner that refuses values above `value_bytes_max`.
    #[must_use]
    pub const fn new(value_bytes_max: usize) -> Self {
        Self { value_bytes_max, arguments_max: ARGUMENTS_MAX, position: 0, remaining: None, bulk: None, name: None }
    }

    /// A scanner for a client that has not authenticated.
    #[must_use]
    pub const fn unauthenticated() -> Self {
        Self { arguments_max: UNAUTHENTICATED_ARGUMENTS_MAX, ..Self::new(UNAUTHENTICATED_VALUE_BYTES_MAX) }
    }

    /// Forgets a request that was begun; the next scan starts at a request's first byte.
    pub const fn reset(&mut self) {
        *self = Self { arguments_max: self.arguments_max, ..Self::new(self.value_bytes_max) };
    }

    /// Bytes that the request begun needs at least, as far as its headers have said so.
    #[must_use]
    pub fn bytes_announced(&self) -> usize {
        self.position + self.bulk.map_or(0, |bytes| bytes + 2)
    }

    /// Lets go of as much as can be done without of the first `bytes` of a request that was begun, all of which were looked
    /// at. Returns how much that is: the next scan starts behind it.
    pub fn release(&mut self, bytes: usize) -> usize {
        let released = bytes.min(self.position + self.bulk.unwrap_or(0));
        if let Some(length) = &mut self.bulk {
            *length -= released.saturating_sub(self.position);
        }
        self.position = self.position.saturating_sub(released);
        released
    }

    /// Looks at `input`, whose first byte is the first of a request and stays so until it is whole.
    pub fn scan(&mut self, input: &[u8]) -> Scan {
        if self.at_start()
            && let Some(frame) = self.plain_frame(input)
        {
            return Scan::Frame(frame);
        }
        self.scan_carefully(input)
    }

    const fn at_start(&self) -> bool {
        self.remaining.is_none() && self.position == 0
    }

    /// The request at the start of `input` when all of it is there and nothing about it is odd, as nearly always: in one
    /// pass that keeps no state. `None` judges nothing: [`Self::scan_carefully`] does.
    #[inline]
    fn plain_frame(&self, input: &[u8]) -> Option<Frame> {
        // Nothing within so little can be above what a whole request may have.
        if input.first() != Some(&b'*') || input.len() > REQUEST_BYTES_MIN {
            return None;
        }
        let (count, position) = plain_number(input, 1)?;
        if count == 0 || count as i64 > self.arguments_max {
            return None;
        }
        let (name_start, name_end) = self.plain_bulk(input, position)?;
        let mut end = name_end;
        for _ in 1..count {
            (_, end) = self.plain_bulk(input, end + 2)?;
        }
        Some(Frame { bytes: end + 2, name_start, name_bytes: name_end - name_start })
    }

    /// Where the value of the bulk at `position` starts and ends.
    #[inline]
    fn plain_bulk(&self, input: &[u8], position: usize) -> Option<(usize, usize)> {
        if input.get(position) != Some(&b'$') {
            return None;
        }
        let (length, start) = plain_number(input, position + 1)?;
        let end = start + length;
        (length <= self.value_bytes_max && ends_line(input, end)).then_some((start, end))
    }

    /// Judges everything, and keeps its place when there is not enough yet.
    #[inline(never)]
    fn scan_carefully(&mut self, input: &[u8]) -> Scan {
        let outcome = self.advance(input).unwrap_or_else(Scan::Invalid);
        if outcome != Scan::Incomplete {
            self.reset();
        }
        outcome
    }

    fn advance(&mut self, input: &[u8]) -> Result<Scan, ProtocolError> {
        let mut remaining = match self.remaining {
            Some(remaining) => remaining,
            None => match input.first() {
                None => return Ok(Scan::Incomplete),
                Some(b'*') => match self.argument_count(input)? {
                    None => return Ok(Scan::Incomplete),
                    Some(count) if count <= 0 => return Ok(Scan::Nothing { bytes: self.position }),
                    Some(count) => count as u32,
                },
                Some(0x16) => return Err(ProtocolError::TlsHello),
                Some(&kind @ (b'%' | b'~' | b'>')) => return Err(ProtocolError::UnexpectedType(kind)),
                Some(_) => return self.inline(input),
            },
        };
        while remaining > 0 {
            self.remaining = Some(remaining);
            let length = match self.bulk {
                Some(length) => length,
                None => match self.bulk_length(input)? {
                    Some(length) => length,
                    None => return Ok(Scan::Incomplete),
                },
            };
            let end = self.position + length;
            let Some(terminator) = input.get(end..end + 2) else {
                if input.get(end).is_some_and(|&byte| byte != b'\r') {
                    return Err(ProtocolError::Terminator);
                }
                self.bulk = Some(length);
                return Ok(Scan::Incomplete);
            };
            if terminator != b"\r\n" {
                return Err(ProtocolError::Terminator);
            }
            self.name.get_or_insert((self.position, length));
            self.bulk = None;
            self.position = end + 2;
            remaining -= 1;
        }
        let (name_start, name_bytes) = self.name.unwrap_or((0, 0));
        Ok(Scan::Frame(Frame { bytes: self.position, name_start, name_bytes }))
    }

    /// Reads the `*` line; `position` is then behind it.
    fn argument_count(&mut self, input: &[u8]) -> Result<Option<i64>, ProtocolError> {
        let Some(line_end) = find_line_end(input, 1)? else {
            return Ok(None);
        };
        let count = parse_number(&input[1..line_end]).ok_or(ProtocolError::ArgumentCount)?;
        if count > self.arguments_max {
            return Err(match count > ARGUMENTS_MAX {
                true => ProtocolError::ArgumentCount,
                false => ProtocolError::UnauthenticatedCount,
            });
        }
        self.position = line_end + 2;
        Ok(Some(count))
    }

    /// Reads a `$` line; `position` is then at the value's first byte.
    fn bulk_length(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let digits_start = self.position + 1;
        let Some(line_end) = find_line_end(input, digits_start)? else {
            return Ok(None);
        };
        let length = parse_number(&input[digits_start..line_end])
            .and_then(|length| usize::try_from(length).ok())
            .filter(|&length| length <= REDIS_VALUE_BYTES_MAX)
            .ok_or(ProtocolError::BulkLength)?;
        let request_bytes_max = self.value_bytes_max.saturating_mul(2).max(REQUEST_BYTES_MIN);
        if length > self.value_bytes_max || line_end.saturating_add(length) > request_bytes_max {
            return Err(match self.arguments_max == UNAUTHENTICATED_ARGUMENTS_MAX {
                true => ProtocolError::UnauthenticatedLength,
                false => ProtocolError::ValueTooLarge,
            });
        }
        self.position = line_end + 2;
        Ok(Some(length))
    }

    fn inline(&mut self, input: &[u8]) -> Result<Scan, ProtocolError> {
        let Some(offset) = memchr::memchr(b'\n', &input[self.position..]) else {
            self.position = input.len();
            return if input.len() > LINE_BYTES_MAX { Err(ProtocolError::InlineTooLong) } else { Ok(Scan::Incomplete) };
        };
        let newline = self.position + offset;
        let line_bytes = if newline > 0 && input[newline - 1] == b'\r' { newline - 1 } else { newline };
        if line_bytes > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooLong);
        }
        Ok(Scan::Inline { line_bytes, bytes: newline + 1 })
    }
}

/// A request of many arguments may always have so many bytes; beyond it, twice the limit of one value.
const REQUEST_BYTES_MIN: usize = 64 * 1024 * 1024;

/// Redis's own limit of one value (`proto-max-bulk-len`).
pub const REDIS_VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Where the CR of the header line stands whose digits start at `start`; `None`: not yet there.
#[inline]
fn find_line_end(input: &[u8], start: usize) -> Result<Option<usize>, ProtocolError> {
    let rest = &input[start.min(input.len())..];
    let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
    // Header lines are short: a plain loop is faster than a search that sets itself up.
    let Some(offset) = window.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        return if rest.len() >= LINE_BYTES_MAX { Err(ProtocolError::HeaderTooLong) } else { Ok(None) };
    };
    if window[offset] == b'\n' {
        return Err(ProtocolError::Terminator);
    }
    match rest.get(offset + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(start + offset)),
        Some(_) => Err(ProtocolError::Terminator),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan_all(input: &[u8]) -> Scan {
        RequestScanner::new(1024).scan(input)
    }

    #[test]
    fn before_authentication_the_limits_are_those_of_redis() {
        use ProtocolError::{ArgumentCount, UnauthenticatedCount, UnauthenticatedLength};
        for (input, expected) in [
            ("*10\r\n", Scan::Incomplete),
            ("*11\r\n", Scan::Invalid(UnauthenticatedCount)),
            ("*2147483648\r\n", Scan::Invalid(ArgumentCount)),
            ("*1\r\n$16384\r\n", Scan::Incomplete),
            ("*1\r\n$16385\r\n", Scan::Invalid(UnauthenticatedLength)),
        ] {
            let mut scanner = RequestScanner::unauthenticated();
            assert_eq!(scanner.scan(input.as_bytes()), expected, "{input:?}");
        }
        let mut scanner = RequestScanner::unauthenticated();
        assert!(matches!(scanner.scan(b"*1\r\n$4\r\nPING\r\n"), Scan::Frame(_)));
        assert_eq!(scanner.scan(b"*11\r\n"), Scan::Invalid(UnauthenticatedCount), "the next request too");
    }

    #[test]
    fn finds_a_whole_request_and_its_name() {
        let input = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n*1\r\n";
        let Scan::Frame(frame) = scan_all(input) else { panic!("no frame") };
        assert_eq!((frame.bytes, frame.name(input)), (22, b"GET".as_slice()));
    }

    #[test]
    fn judges_damage_as_the_table_of_hazards_says() {
        use ProtocolError::{
            ArgumentCount, BulkLength, ExpectedBulk, HeaderTooLong, InlineTooLong, Terminator, TlsHello,
            UnexpectedType, ValueTooLarge,
        };
        let long_count = [b"*".as_slice(), &[b'1'; 70_000]].concat();
        let long_bulk = [b"*1\r\n$".as_slice(), &[b'1'; 70_000]].concat();
        let cases: &[(&[u8], Scan)] = &[
            (b"*0\r\n", Scan::Nothing { bytes: 4 }),
            (b"*-1\r\n", Scan::Nothing { bytes: 5 }),
            (b"*-5\r\n", Scan::Nothing { bytes: 5 }),
            (b"\r\n", Scan::Inline { line_bytes: 0, bytes: 2 }),
            (b"\n", Scan::Inline { line_bytes: 0, bytes: 1 }),
            (b"PING\r\n", Scan::Inline { line_bytes: 4, bytes: 6 }),
            (b"PING", Scan::Incomplete),
            (b"*2147483647\r\n", Scan::Incomplete),
            (b"*1\r\n$536870912\r\n", Scan::Invalid(ValueTooLarge)),
            (b"*1\r\n$1025\r\n", Scan::Invalid(ValueTooLarge)),
            (b"*1\r\n$1024\r\n", Scan::Incomplete),
            (b"*1\rX$4\rX", Scan::Invalid(Terminator)),
            (b"*1\n$4\nPING\n", Scan::Invalid(Terminator)),
            (b"*1\r\n$4\r\nPINGxx", Scan::Invalid(Terminator)),
            (b"*1\r\n$4\r\nPINGx", Scan::Invalid(Terminator)),
            (b"*01\r\n", Scan::Invalid(ArgumentCount)),
            (b"*+1\r\n", Scan::Invalid(ArgumentCount)),
            (b"* 1\r\n", Scan::Invalid(ArgumentCount)),
            (b"*1e3\r\n", Scan::Invalid(ArgumentCount)),
            (b"*2147483648\r\n", Scan::Invalid(ArgumentCount)),
            (b"*9223372036854775807\r\n", Scan::Invalid(ArgumentCount)),
            (b"*99999999999999999999999\r\n", Scan::Invalid(ArgumentCount)),
            (b"*1\r\n$04\r\n", Scan::Invalid(BulkLength)),
            (b"*1\r\n$-1\r\n", Scan::Invalid(BulkLength)),
            (b"*1\r\n$18446744073709551615\r\n", Scan::Invalid(BulkLength)),
            (b"*1\r\n$536870913\r\n", Scan::Invalid(BulkLength)),
            (b"*1\r\n:1\r\n", Scan::Invalid(ExpectedBulk(b':'))),
            (b"*1\r\n*1\r\n", Scan::Invalid(ExpectedBulk(b'*'))),
            (b"*1\r\n+PING\r\n", Scan::Invalid(ExpectedBulk(b'+'))),
            (b"%1\r\n", Scan::Invalid(UnexpectedType(b'%'))),
            (b">1\r\n", Scan::Invalid(UnexpectedType(b'>'))),
            (b"\x16\x03\x01", Scan::Invalid(TlsHello)),
            (&long_count, Scan::Invalid(HeaderTooLong)),
            (&long_bulk, Scan::Invalid(HeaderTooLong)),
            (&[b'a'; 70_000], Scan::Invalid(InlineTooLong)),
        ];
        for (input, expected) in cases {
            assert_eq!(scan_all(input), *expected, "{:?}", String::from_utf8_lossy(&input[..input.len().min(40)]));
        }
    }

    /// Scans as a session does, with the input arriving in pieces that end at `cuts`.
    fn scan_in_pieces(input: &[u8], cuts: &[usize]) -> Vec<Scan> {
        scan_in_pieces_by(RequestScanner::scan, RequestScanner::new(1024), input, cuts)
    }

    /// The same with `scan`.
    fn scan_in_pieces_by(
        scan: fn(&mut RequestScanner, &[u8]) -> Scan,
        mut scanner: RequestScanner,
        input: &[u8],
        cuts: &[usize],
    ) -> Vec<Scan> {
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        let mut start = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            let cut = cut.clamp(start, input.len());
            buffer.extend_from_slice(&input[start..cut]);
            start = cut;
            loop {
                let scan = scan(&mut scanner, &buffer);
                let bytes = match scan {
                    Scan::Frame(frame) => frame.bytes,
                    Scan::Inline { bytes, .. } | Scan::Nothing { bytes } => bytes,
                    Scan::Incomplete => break,
                    Scan::Invalid(_) => {
                        found.push(scan);
                        return found;
                    }
                };
                found.push(scan);
                buffer.drain(..bytes);
            }
        }
        found
    }

    fn any_byte() -> impl Strategy<Value = u8> {
        prop_oneof![proptest::sample::select(b"*$\r\n0123456789-+:".to_vec()), any::<u8>()]
    }

    fn any_input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".to_vec()),
            Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
            Just(b"PING\r\n".to_vec()),
            Just(b"*0\r\n".to_vec()),
            Just(b"*1\r\n$0\r\n\r\n".to_vec()),
            Just(b"*11\r\n".iter().chain(b"$1\r\n*\r\n".repeat(11).iter()).copied().collect()),
            Just(b"*2\r\n$4\r\nECHO\r\n$12\r\n*1\r\n$4\r\nPING\r\n".to_vec()),
            proptest::collection::vec(proptest::sample::select(b"*$\r\n0123456789-+:aG".to_vec()), 0..12),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn letting_go_of_what_was_looked_at_changes_nothing(
            words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
            piece_bytes in 1_usize..50,
        ) {
            let mut input = format!("*{}\r\n", words.len()).into_bytes();
            for word in &words {
                input.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                input.extend_from_slice(word);
                input.extend_from_slice(b"\r\n");
            }
            let (mut scanner, mut buffer, mut released) = (RequestScanner::new(1024), Vec::new(), 0);
            let mut ends = Vec::new();
            for piece in input.chunks(piece_bytes) {
                buffer.extend_from_slice(piece);
                match scanner.scan(&buffer) {
                    Scan::Incomplete => {
                        let bytes = scanner.release(buffer.len());
                        buffer.drain(..bytes);
                        released += bytes;
                        prop_assert!(buffer.len() < 8, "only a part of a header or of a line end stays");
                    }
                    Scan::Frame(frame) => ends.push(released + frame.bytes),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(ends, [input.len()]);
        }

        #[test]
        fn the_plain_pass_finds_what_the_careful_one_finds(
            input in any_input(),
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any_byte()), 0..3),
            mut cuts in proptest::collection::vec(0_usize..120, 0..4),
            limited in proptest::sample::select(vec![
                RequestScanner::new(1024), RequestScanner::new(3), RequestScanner::new(0),
                RequestScanner::unauthenticated(),
            ]),
        ) {
            let mut input = input;
            for (place, byte) in damage {
                if !input.is_empty() {
                    let place = place.index(input.len());
                    input[place] = byte;
                }
            }
            cuts.sort_unstable();
            let carefully = scan_in_pieces_by(RequestScanner::scan_carefully, limited, &input, &cuts);
            prop_assert_eq!(scan_in_pieces_by(RequestScanner::scan, limited, &input, &cuts), carefully);
        }

        #[test]
        fn cuts_do_not_change_the_result(
            input in any_input(),
            mut cuts in proptest::collection::vec(0_usize..120, 0..20),
        ) {
            cuts.sort_unstable();
            let whole = scan_in_pieces(&input, &[]);
            prop_assert_eq!(&scan_in_pieces(&input, &cuts), &whole);
            let bytewise: Vec<usize> = (0..input.len()).collect();
            prop_assert_eq!(&scan_in_pieces(&input, &bytewise), &whole);
        }
    }
}
