//! Inline requests: a line of words, split as Redis splits it (`sdssplitargs`).

/// Splits a line into its words; `None` when quotes do not match.
///
/// Double quotes know `\n \r \t \b \a \xHH \\ \"`, single quotes know `\'` alone, and a closing quote
/// must be followed by white space or the end.
#[must_use]
pub fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    // Redis reads the line as a C string: it ends at the first NUL.
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, after @ ..] = rest {
            if !is_space(*first) {
                break;
            }
            rest = after;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let (word, after) = take_word(rest)?;
        words.push(word);
        rest = after;
    }
}

/// White space as C's `isspace` has it.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn take_word(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] => return Some((word, rest)),
            // Fewer than between words: Redis keeps a vertical tab or a form feed inside a word.
            [b' ' | b'\t' | b'\n' | b'\r', after @ ..] => return Some((word, after)),
            [b'"', after @ ..] => return take_double_quoted(word, after),
            [b'\'', after @ ..] => return take_single_quoted(word, after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn take_double_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex_digit(*high) * 16 + hex_digit(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return after.first().is_none_or(|&byte| is_space(byte)).then_some((word, after)),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn take_single_quoted(mut word: Vec<u8>, mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [] => return None,
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return after.first().is_none_or(|&byte| is_space(byte)).then_some((word, after)),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

const fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_as_redis_does() {
        type Case<'a> = (&'a [u8], Option<&'a [&'a [u8]]>);
        let cases: &[Case<'_>] = &[
            (b"", Some(&[])),
            (b"  \t ", Some(&[])),
            (b"PING", Some(&[b"PING"])),
            (b" SET  k   v ", Some(&[b"SET", b"k", b"v"])),
            (b"SET k \"a b\"", Some(&[b"SET", b"k", b"a b"])),
            (b"SET k \"\\x41\\n\\\"\\z\"", Some(&[b"SET", b"k", b"A\n\"z"])),
            (b"SET k 'a\\'b\\n'", Some(&[b"SET", b"k", b"a'b\\n"])),
            (b"GET ax\xff", Some(&[b"GET", b"ax\xff"])),
            (b"GET \\x4", Some(&[b"GET", b"\\x4"])),
            (b"GET \"x\\x4\"", Some(&[b"GET", b"xx4"])),
            (b"GET\x0ba \x0cb\x0c", Some(&[b"GET\x0ba", b"b\x0c"])),
            (b"GET a\0b c", Some(&[b"GET", b"a"])),
            (b"GET \"\"", Some(&[b"GET", b""])),
            (b"GET \"a", None),
            (b"GET 'a", None),
            (b"GET \"a\"b", None),
            (b"GET 'a'b", None),
            (b"GET \"a\\", None),
        ];
        for (line, expected) in cases {
            let words = split(line);
            let words: Option<Vec<&[u8]>> = words.as_ref().map(|words| words.iter().map(Vec::as_slice).collect());
            assert_eq!(words.as_deref(), *expected, "{:?}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn never_panics(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = split(&line);
        }
    }
}
