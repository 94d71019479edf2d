//! Replies as values, and requests as bytes.

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(String),
    Nil,
    Array(Vec<Reply>),
    Push(Vec<Reply>),
}

impl Reply {
    pub(crate) fn encode(&self, resp3: bool, out: &mut Vec<u8>) {
        let mut many = |marker: char, items: &[Self]| {
            out.extend_from_slice(format!("{marker}{}\r\n", items.len()).as_bytes());
            items.iter().for_each(|item| item.encode(resp3, out));
        };
        match self {
            Self::Array(items) => many('*', items),
            Self::Push(items) => many(if resp3 { '>' } else { '*' }, items),
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Self::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::Bulk(text) => out.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes()),
            Self::Nil => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"*-1\r\n" }),
        }
    }

    /// The reply at the start of `input` and how many bytes it takes.
    pub(crate) fn parse(input: &[u8]) -> Option<(Self, usize)> {
        let line_end = input.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&input[1..line_end]).expect("text");
        let start = line_end + 2;
        let number = || line.parse::<i64>().unwrap_or_else(|_| panic!("no number: {line}"));
        Some(match input[0] {
            b'+' => (Self::Simple(line.to_owned()), start),
            b'-' => (Self::Error(line.to_owned()), start),
            b':' => (Self::Integer(number()), start),
            b'_' => (Self::Nil, start),
            b'$' | b'*' if number() < 0 => (Self::Nil, start),
            b'$' | b'=' => {
                let length = number() as usize;
                let value = input.get(start..start + length + 2)?;
                assert_eq!(&value[length..], b"\r\n", "a bulk out of frame");
                (Self::Bulk(String::from_utf8_lossy(&value[..length]).into_owned()), start + length + 2)
            }
            marker @ (b'*' | b'>' | b'%') => {
                let count = number() as usize * if marker == b'%' { 2 } else { 1 };
                let (mut items, mut position) = (Vec::new(), start);
                for _ in 0..count {
                    let (item, bytes) = Self::parse(&input[position..])?;
                    items.push(item);
                    position += bytes;
                }
                (if marker == b'>' { Self::Push(items) } else { Self::Array(items) }, position)
            }
            other => panic!("no reply: {:?}", other as char),
        })
    }
}

pub(crate) fn request(words: &[&str]) -> Vec<u8> {
    let mut frame = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        frame.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    frame
}

/// The operation's number in a word such as `c3:op17`.
pub(crate) fn operation(word: &str) -> Option<u64> {
    word.split_once("op")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
