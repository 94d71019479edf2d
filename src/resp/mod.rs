//! RESP framing, pure: where a request or a reply ends, and how one is written.
//!
//! What is accepted is a subset of what Redis accepts, with the same boundaries
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

pub mod arguments;
pub mod encode;
pub mod inline;
pub mod reply;
pub mod request;

/// A number in a RESP header, strict: no plus, no leading zeros, nothing but digits after one minus.
pub(crate) fn parse_number(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 18 => {}
        _ => return None,
    }
    let mut number = 0_i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -number } else { number })
}

/// The most digits of a plain number: it fits into 32 bits.
const PLAIN_DIGITS_MAX: usize = 9;

/// A header's number whose digits start at `start`, and where what follows its CRLF starts.
///
/// Only for the plain case, in one pass: `None` judges nothing, [`parse_number`] and its callers do.
#[inline]
pub(crate) fn plain_number(input: &[u8], start: usize) -> Option<(usize, usize)> {
    match *input.get(start..)? {
        [ones @ b'0'..=b'9', b'\r', b'\n', ..] => Some((usize::from(ones - b'0'), start + 3)),
        [tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((usize::from(tens - b'0') * 10 + usize::from(ones - b'0'), start + 4))
        }
        _ => plain_number_of_many_digits(input, start),
    }
}

#[inline(never)]
fn plain_number_of_many_digits(input: &[u8], start: usize) -> Option<(usize, usize)> {
    let mut number = plain_digit(*input.get(start)?).filter(|&digit| digit > 0)?;
    let mut position = start + 1;
    while let Some(digit) = plain_digit(*input.get(position)?) {
        if position == start + PLAIN_DIGITS_MAX {
            return None;
        }
        number = number * 10 + digit;
        position += 1;
    }
    ends_line(input, position).then_some((number as usize, position + 2))
}

#[inline]
const fn plain_digit(byte: u8) -> Option<u32> {
    let digit = byte.wrapping_sub(b'0');
    if digit < 10 { Some(digit as u32) } else { None }
}

/// Whether CRLF stands at `position`.
#[inline]
pub(crate) fn ends_line(input: &[u8], position: usize) -> bool {
    input.get(position..).and_then(<[u8]>::first_chunk) == Some(b"\r\n")
}

#[cfg(test)]
mod tests {
    use super::{parse_number, plain_number};

    #[test]
    fn plain_numbers_are_those_that_need_no_second_look() {
        for (line, expected) in [
            ("0\r\n", Some((0, 3))),
            ("7\r\n$", Some((7, 3))),
            ("10\r\n", Some((10, 4))),
            ("99\r\n", Some((99, 4))),
            ("100\r\n", Some((100, 5))),
            ("999999999\r\n", Some((999_999_999, 11))),
            ("1000000000\r\n", None),
            ("18446744073709551617\r\n", None),
            ("00\r\n", None),
            ("01\r\n", None),
            ("-1\r\n", None),
            ("+1\r\n", None),
            ("1x\r\n", None),
            ("\r\n", None),
            ("", None),
            ("1", None),
            ("1\r", None),
            ("1\n", None),
            ("1\rx", None),
            ("12\rx", None),
            ("1:\r\n", None),
            ("1/\r\n", None),
        ] {
            assert_eq!(plain_number(line.as_bytes(), 0), expected, "{line:?}");
            let behind = expected.map(|(number, end)| (number, end + 1));
            assert_eq!(plain_number(format!("${line}").as_bytes(), 1), behind, "{line:?}");
        }
    }

    #[test]
    fn numbers_are_strict() {
        for (digits, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1e3", None),
            ("1000000000000000000", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(parse_number(digits.as_bytes()), expected, "{digits:?}");
        }
    }
}
