//! A reply that keeps every byte: two frames are equal exactly when their bytes are.

use std::fmt;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame {
    /// The marker and what follows it, without CRLF.
    pub(crate) line: Vec<u8>,
    pub(crate) body: Body,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Body {
    None,
    Text(Vec<u8>),
    Items(Vec<Frame>),
}

impl Frame {
    pub(crate) fn simple(line: &str) -> Self {
        Self { line: line.as_bytes().to_vec(), body: Body::None }
    }

    pub(crate) fn marker(&self) -> u8 {
        self.line[0]
    }

    pub(crate) fn is_error(&self) -> bool {
        self.marker() == b'-'
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.body {
            Body::Items(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Self] {
        match &mut self.body {
            Body::Items(items) => items,
            _ => &mut [],
        }
    }

    /// The text of a bulk or simple string.
    pub(crate) fn text(&self) -> &[u8] {
        match &self.body {
            Body::Text(text) => text,
            _ => &self.line[1..],
        }
    }

    /// The frame at the start of `input` and how many bytes it takes; `None` while it is not whole.
    pub(crate) fn parse(input: &[u8]) -> Option<(Self, usize)> {
        let end = input.windows(2).position(|pair| pair == b"\r\n")?;
        assert!(end > 0, "an empty line as a reply");
        let (line, start) = (input[..end].to_vec(), end + 2);
        let length = || -> i64 {
            let number = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse().ok());
            number.unwrap_or_else(|| panic!("no length: {}", line.escape_ascii()))
        };
        let none = |line| Some((Self { line, body: Body::None }, start));
        let count = match line[0] {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => return none(line),
            b'$' | b'*' if length() < 0 => return none(line),
            b'$' | b'=' | b'!' => {
                let length = usize::try_from(length()).expect("a length");
                let text = input.get(start..start + length + 2)?;
                assert!(text.ends_with(b"\r\n"), "a bulk out of frame: {}", text.escape_ascii());
                let body = Body::Text(text[..length].to_vec());
                return Some((Self { line, body }, start + length + 2));
            }
            b'*' | b'~' | b'>' => length(),
            b'%' => length() * 2,
            _ => panic!("no reply: {}", line.escape_ascii()),
        };
        let (mut items, mut position) = (Vec::new(), start);
        for _ in 0..count {
            let (item, bytes) = Self::parse(&input[position..])?;
            items.push(item);
            position += bytes;
        }
        Some((Self { line, body: Body::Items(items) }, position))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.line.escape_ascii())?;
        match &self.body {
            Body::None => Ok(()),
            Body::Text(text) if text.len() > 200 => {
                write!(formatter, " {}… {}", text[..200].escape_ascii(), text.len())
            }
            Body::Text(text) => write!(formatter, " {}", text.escape_ascii()),
            Body::Items(items) => items.fmt(formatter),
        }
    }
}
