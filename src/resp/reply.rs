//! Where a reply ends: an incremental scanner that keeps a counter, not a stack, and no bytes.

use super::{ends_line, parse_number, plain_number};

/// The longest line of a reply: simple strings, errors, numbers and headers.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The most elements that may still be due within one reply.
const ELEMENTS_MAX: u64 = 1 << 27;

/// The longest bulk of a reply.
const BULK_BYTES_MAX: i64 = 1 << 40;

/// Lines up to so long are looked through by a plain loop: a search would first have to set itself up.
const SHORT_LINE_BYTES_MAX: usize = 32;

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyScan {
    /// A whole reply, or a whole push, ended after so many bytes of the input.
    Complete {
        /// Bytes of the input up to the reply's end.
        bytes: usize,
        /// A reply to a request, or a push.
        kind: ReplyKind,
    },
    /// So many bytes of the input belong to a reply that goes on; what follows them must be shown again.
    Incomplete {
        /// Bytes that need no second look.
        bytes: usize,
    },
    /// The backend does not speak RESP; its connection must end.
    Invalid(&'static str),
}

/// What a top-level frame from a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// Answers a request.
    Reply,
    /// `-…`: answers a request with an error.
    Error,
    /// RESP3 push data, answers nothing.
    Push,
}

/// Finds the end of replies, one after the other, resuming where it stopped.
#[derive(Clone, Copy, Debug)]
pub struct ReplyScanner {
    /// Elements still to come until the reply is whole.
    elements: u64,
    /// Bytes of a bulk still to come, its CRLF included.
    bulk: u64,
    kind: Option<ReplyKind>,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyScanner {
    /// A scanner at a reply's first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self { elements: 1, bulk: 0, kind: None }
    }

    /// Nothing of a reply was seen yet.
    #[must_use]
    pub const fn at_start(&self) -> bool {
        self.kind.is_none() && self.bulk == 0 && self.elements == 1
    }

    /// What the reply in progress is, once its first line was seen.
    #[must_use]
    pub const fn kind(&self) -> Option<ReplyKind> {
        self.kind
    }

    /// Bytes that the reply in progress needs at least.
    #[must_use]
    pub fn bytes_due(&self) -> usize {
        usize::try_from(self.bulk).unwrap_or(usize::MAX)
    }

    /// Looks at `input`, which continues where the last scan's bytes ended.
    pub fn scan(&mut self, input: &[u8]) -> ReplyScan {
        if self.at_start()
            && let Some(bytes) = plain_element(input)
        {
            return ReplyScan::Complete { bytes, kind: ReplyKind::Reply };
        }
        self.scan_carefully(input, plain_element)
    }

    /// The same for whatever is more than one element of which `plain` knows the end at a glance.
    #[inline(never)]
    fn scan_carefully(&mut self, input: &[u8], plain: impl Fn(&[u8]) -> Option<usize>) -> ReplyScan {
        match self.advance(input, plain) {
            Ok(Ok(bytes)) => {
                let kind = self.kind.unwrap_or(ReplyKind::Reply);
                *self = Self::new();
                ReplyScan::Complete { bytes, kind }
            }
            Ok(Err(bytes)) => ReplyScan::Incomplete { bytes },
            Err(reason) => ReplyScan::Invalid(reason),
        }
    }

    /// `Ok(Ok(end))` when whole, `Ok(Err(consumed))` when more is needed.
    fn advance(
        &mut self,
        input: &[u8],
        plain: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Result<usize, usize>, &'static str> {
        let mut position = 0;
        while self.elements > 0 {
            if self.bulk > 0 {
                position += self.skip_bulk(&input[position..])?;
                if self.bulk > 0 {
                    return Ok(Err(position));
                }
                self.elements -= 1;
                continue;
            }
            if let Some(bytes) = plain(&input[position..]) {
                self.elements -= 1;
                position += bytes;
                continue;
            }
            let Some(line_bytes) = line_length(&input[position..])? else {
                return Ok(Err(position));
            };
            self.take_line(&input[position..position + line_bytes])?;
            position += line_bytes + 2;
        }
        Ok(Ok(position))
    }

    /// Skips what is there of a bulk, whose last two bytes must be CRLF.
    fn skip_bulk(&mut self, input: &[u8]) -> Result<usize, &'static str> {
        let bytes = usize::try_from(self.bulk).map_or(input.len(), |due| due.min(input.len()));
        let left = self.bulk - bytes as u64;
        let terminator: &[u8] = match self.bulk {
            1 => b"\n",
            _ => b"\r\n",
        };
        // The terminator's bytes within what was taken: all of them, the CR alone, or none.
        let seen = terminator.len().saturating_sub(usize::try_from(left).unwrap_or(usize::MAX));
        if bytes > 0 && seen > 0 && input[bytes - seen..bytes] != terminator[..seen] {
            return Err("a bulk is not followed by CRLF");
        }
        self.bulk = left;
        Ok(bytes)
    }

    /// Takes one line without its CRLF: a whole element, or the header of one.
    fn take_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let (&marker, rest) = line.split_first().ok_or("an empty line")?;
        // What stands within an attribute says nothing of the reply behind it.
        if self.kind.is_none() && self.elements == 1 && marker != b'|' {
            self.kind = Some(match marker {
                b'-' | b'!' => ReplyKind::Error,
                b'>' => ReplyKind::Push,
                _ => ReplyKind::Reply,
            });
        }
        match marker {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.elements -= 1,
            b'$' | b'!' | b'=' => match parse_number(rest) {
                Some(-1) if marker == b'$' => self.elements -= 1,
                Some(length @ 0..=BULK_BYTES_MAX) => self.bulk = length as u64 + 2,
                _ => return Err("an invalid bulk length"),
            },
            b'*' | b'~' | b'>' => match parse_number(rest) {
                Some(-1) if marker == b'*' => self.elements -= 1,
                count => self.expect(count, 1, 1)?,
            },
            b'%' => self.expect(parse_number(rest), 2, 1)?,
            // An attribute stands before the element that it describes and is none itself.
            b'|' => self.expect(parse_number(rest), 2, 0)?,
            _ => return Err("an unknown type"),
        }
        Ok(())
    }

    /// An aggregate's header: `count` times `width` elements more, less the aggregate itself.
    fn expect(&mut self, count: Option<i64>, width: u64, itself: u64) -> Result<(), &'static str> {
        let count = count.and_then(|count| u64::try_from(count).ok()).ok_or("an invalid aggregate length")?;
        let more = count.checked_mul(width).ok_or("an aggregate too large")?;
        self.elements = self.elements.checked_add(more).ok_or("an aggregate too large")? - itself;
        if self.elements > ELEMENTS_MAX {
            return Err("an aggregate too large");
        }
        Ok(())
    }
}

/// Bytes of the element at the start of `input` when all of it is there and it is what nearly every reply is: a bulk, or a
/// short line of its own. `None` judges nothing: [`ReplyScanner::take_line`] does.
#[inline]
fn plain_element(input: &[u8]) -> Option<usize> {
    match input.first()? {
        b'$' => {
            let end = match plain_number(input, 1) {
                Some((length, start)) => start + length,
                None if input.starts_with(b"$-1") => 3,
                None => return None,
            };
            ends_line(input, end).then_some(end + 2)
        }
        b'+' | b':' | b'_' | b'#' | b',' => Some(short_line_length(input)? + 2),
        _ => None,
    }
}

/// Bytes of the line at the start of `input`, without its CRLF, when it is short, whole and free of control characters.
#[inline]
fn short_line_length(input: &[u8]) -> Option<usize> {
    let end = input.iter().take(SHORT_LINE_BYTES_MAX).position(|&byte| byte < b' ')?;
    ends_line(input, end).then_some(end)
}

/// Bytes of the line at the start of `input`, without its CRLF; `None`: not whole yet.
fn line_length(input: &[u8]) -> Result<Option<usize>, &'static str> {
    match short_line_length(input) {
        Some(bytes) => Ok(Some(bytes)),
        None => long_line_length(input),
    }
}

fn long_line_length(input: &[u8]) -> Result<Option<usize>, &'static str> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', window) else {
        return if input.len() >= LINE_BYTES_MAX { Err("a line too long") } else { Ok(None) };
    };
    match (window[end], input.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(Some(end)),
        (b'\r', None) => Ok(None),
        _ => Err("a line that does not end in CRLF"),
    }
}

/// The first word of an error reply (`-WORD …`), for the tables that judge it; empty when it is none.
#[must_use]
pub fn first_word(reply: &[u8]) -> &[u8] {
    let Some(rest) = reply.strip_prefix(b"-") else {
        return b"";
    };
    let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')).unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads everything as a link does, in pieces: the ends of the replies, or the error.
    fn read_in_pieces(input: &[u8], cuts: &[usize]) -> Result<Vec<(usize, ReplyKind)>, &'static str> {
        read_in_pieces_by(ReplyScanner::scan, input, cuts)
    }

    /// The same with `scan`.
    fn read_in_pieces_by(
        scan: fn(&mut ReplyScanner, &[u8]) -> ReplyScan,
        input: &[u8],
        cuts: &[usize],
    ) -> Result<Vec<(usize, ReplyKind)>, &'static str> {
        let mut scanner = ReplyScanner::new();
        let (mut ends, mut consumed, mut start) = (Vec::new(), 0, 0);
        for &cut in cuts.iter().chain([&input.len()]) {
            let cut = cut.clamp(start, input.len());
            start = cut;
            while consumed < cut {
                match scan(&mut scanner, &input[consumed..cut]) {
                    ReplyScan::Complete { bytes, kind } => {
                        consumed += bytes;
                        ends.push((consumed, kind));
                    }
                    ReplyScan::Incomplete { bytes } => {
                        consumed += bytes;
                        break;
                    }
                    ReplyScan::Invalid(reason) => return Err(reason),
                }
            }
        }
        Ok(ends)
    }

    #[test]
    fn finds_the_end_of_every_type() {
        let replies: &[&[u8]] = &[
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-5\r\n",
            b"$0\r\n\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!3\r\nERR\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            b"~1\r\n:1\r\n",
            b"|1\r\n+ttl\r\n:1\r\n$1\r\nx\r\n",
            b"*1\r\n>1\r\n+x\r\n",
        ];
        for reply in replies {
            let kind = if reply[0] == b'-' || reply[0] == b'!' { ReplyKind::Error } else { ReplyKind::Reply };
            let expected = Ok(vec![(reply.len(), kind)]);
            assert_eq!(read_in_pieces(reply, &[]), expected, "{:?}", String::from_utf8_lossy(reply));
            let bytewise: Vec<usize> = (0..reply.len()).collect();
            assert_eq!(read_in_pieces(reply, &bytewise), expected, "{:?}", String::from_utf8_lossy(reply));
        }
        assert_eq!(
            read_in_pieces(b">2\r\n+a\r\n+b\r\n:1\r\n", &[]),
            Ok(vec![(12, ReplyKind::Push), (16, ReplyKind::Reply)])
        );
        let attribute = b"|2\r\n+a\r\n$1\r\nx\r\n*1\r\n:1\r\n-b\r\n";
        let described: [(&[u8], ReplyKind); 4] = [
            (b">1\r\n+a\r\n", ReplyKind::Push),
            (b"-ERR no\r\n", ReplyKind::Error),
            (b"$1\r\nx\r\n", ReplyKind::Reply),
            (b"*1\r\n-ERR no\r\n", ReplyKind::Reply),
        ];
        for (reply, kind) in described {
            let reply = [attribute, reply].concat();
            let bytewise: Vec<usize> = (0..reply.len()).collect();
            for cuts in [&[][..], &bytewise] {
                let shown = String::from_utf8_lossy(&reply);
                assert_eq!(read_in_pieces(&reply, cuts), Ok(vec![(reply.len(), kind)]), "{shown:?}");
            }
        }
    }

    #[test]
    fn refuses_what_is_no_resp() {
        let long_line = [b"+".as_slice(), &[b'a'; 70_000]].concat();
        let cases: &[&[u8]] = &[
            b"$?\r\n",
            b"*?\r\n",
            b"*1000000000\r\n",
            b"$9223372036854775807\r\n",
            b"%9223372036854775807\r\n",
            b"*-2\r\n",
            b"$-2\r\n",
            b"$1\r\nabc",
            b"$1\r\na\rx",
            b"$1\r\nax",
            b"+OK\n",
            b"\r\n",
            b"HTTP/1.1 400\r\n",
            &long_line,
        ];
        for input in cases {
            assert!(
                read_in_pieces(input, &[]).is_err(),
                "{:?}",
                String::from_utf8_lossy(&input[..input.len().min(30)])
            );
        }
    }

    #[test]
    fn deep_nesting_costs_a_counter() {
        let mut input = b"*1\r\n".repeat(1_000_000);
        input.extend_from_slice(b":1\r\n");
        assert_eq!(read_in_pieces(&input, &[]), Ok(vec![(input.len(), ReplyKind::Reply)]));
    }

    #[test]
    fn first_words() {
        assert_eq!(first_word(b"-READONLY You can't write\r\n"), b"READONLY");
        assert_eq!(first_word(b"-ERR\r\n"), b"ERR");
        assert_eq!(first_word(b"+OK\r\n"), b"");
    }

    fn any_byte() -> impl Strategy<Value = u8> {
        prop_oneof![proptest::sample::select(b"*$\r\n0123456789-+:>".to_vec()), any::<u8>()]
    }

    fn any_input() -> impl Strategy<Value = Vec<u8>> {
        let piece = proptest::sample::select(vec![
            b"+OK\r\n".to_vec(),
            b"$3\r\nabc\r\n".to_vec(),
            b"*2\r\n".to_vec(),
            b":1\r\n".to_vec(),
            b"%1\r\n".to_vec(),
            b">1\r\n".to_vec(),
            b"|1\r\n".to_vec(),
            b"$2\r\n\r\n\r\n".to_vec(),
            b"-ERR x\r\n".to_vec(),
            b"$1\r\n".to_vec(),
            b"x".to_vec(),
            b"_\r\n".to_vec(),
            b"$-1\r\n".to_vec(),
            b"$0\r\n\r\n".to_vec(),
            b"$12\r\n123456789012\r\n".to_vec(),
            b"#t\r\n".to_vec(),
            b",1.5\r\n".to_vec(),
            [b"+".as_slice(), &[b'a'; 40], b"\r\n"].concat(),
        ]);
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_plain_pass_finds_what_the_careful_one_finds(
            input in any_input(),
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any_byte()), 0..3),
            mut cuts in proptest::collection::vec(0_usize..80, 0..4),
        ) {
            let mut input = input;
            for (place, byte) in damage {
                if !input.is_empty() {
                    let place = place.index(input.len());
                    input[place] = byte;
                }
            }
            cuts.sort_unstable();
            let carefully = read_in_pieces_by(|scanner, input| scanner.scan_carefully(input, |_| None), &input, &cuts);
            prop_assert_eq!(read_in_pieces(&input, &cuts), carefully);
            if let Some(bytes) = short_line_length(&input) {
                prop_assert_eq!(long_line_length(&input), Ok(Some(bytes)));
            }
        }

        #[test]
        fn cuts_do_not_change_the_result(
            input in any_input(),
            mut cuts in proptest::collection::vec(0_usize..80, 0..20),
        ) {
            cuts.sort_unstable();
            let whole = read_in_pieces(&input, &[]);
            prop_assert_eq!(read_in_pieces(&input, &cuts), whole.clone());
            let bytewise: Vec<usize> = (0..input.len()).collect();
            prop_assert_eq!(read_in_pieces(&input, &bytewise), whole);
        }
    }
}
