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

#[cfg(test)]
mod tests {
    use super::parse_number;

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
