//! RESP2 and RESP3 for tests: a blocking reader that keeps the raw bytes, and an encoder of commands.
//!
//! Deliberately apart from the proxy's own scanner, so that one cannot hide the other's mistakes.

use std::io::{Error, ErrorKind, Read, Result};

/// A reply, of either protocol version. The three nulls are one value; the raw bytes tell them apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+`
    Simple(String),
    /// `-` and `!`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` and `_`
    Null,
    /// `*`
    Array(Vec<Value>),
    /// `,`, as it was written
    Double(String),
    /// `#`
    Boolean(bool),
    /// `(`
    BigNumber(String),
    /// `=`: format and text
    Verbatim(String, Vec<u8>),
    /// `%`
    Map(Vec<(Value, Value)>),
    /// `~`
    Set(Vec<Value>),
    /// `>`
    Push(Vec<Value>),
    /// `|`: attributes, and the value that they belong to
    Attribute(Vec<(Value, Value)>, Box<Value>),
}

impl Value {
    /// A bulk string.
    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// `+OK`.
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    /// The text of a simple string, bulk or verbatim string, or of an error; fails the test on anything else.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) | Self::Verbatim(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// The bytes of a bulk string; fails the test on anything else.
    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bulk(bytes) => bytes,
            other => panic!("expected a bulk string, got {other:?}"),
        }
    }

    /// The number of an integer reply; fails the test on anything else.
    #[track_caller]
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("expected an integer, got {other:?}"),
        }
    }

    /// The elements of an array, set or push; fails the test on anything else.
    #[track_caller]
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::Array(elements) | Self::Set(elements) | Self::Push(elements) => elements,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// Whether it is an error whose first word is `word`.
    pub fn is_error(&self, word: &str) -> bool {
        matches!(self, Self::Error(text) if text.split(' ').next() == Some(word))
    }
}

/// A command as a frame of bulk strings.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut frame = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        frame.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        frame.extend_from_slice(argument);
        frame.extend_from_slice(b"\r\n");
    }
    frame
}

/// Reads one value and appends its bytes to `raw`; anything that is not RESP to the letter is an error.
pub fn read_value(stream: &mut impl Read, raw: &mut Vec<u8>) -> Result<Value> {
    let line = read_line(stream, raw)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| malformed("an empty line"))?;
    Ok(match kind {
        "+" => Value::Simple(rest.to_owned()),
        "-" => Value::Error(rest.to_owned()),
        ":" => Value::Integer(rest.parse().map_err(|_| malformed(&line))?),
        "," => Value::Double(rest.to_owned()),
        "(" => Value::BigNumber(rest.to_owned()),
        "#" if rest == "t" || rest == "f" => Value::Boolean(rest == "t"),
        "_" if rest.is_empty() => Value::Null,
        "$" | "*" if rest == "-1" => Value::Null,
        "$" => Value::Bulk(read_bulk(stream, raw, &line)?),
        "!" => Value::Error(String::from_utf8_lossy(&read_bulk(stream, raw, &line)?).into_owned()),
        "=" => read_verbatim(stream, raw, &line)?,
        "*" => Value::Array(read_values(stream, raw, &line)?),
        "~" => Value::Set(read_values(stream, raw, &line)?),
        ">" => Value::Push(read_values(stream, raw, &line)?),
        "%" => Value::Map(read_pairs(stream, raw, &line)?),
        "|" => Value::Attribute(read_pairs(stream, raw, &line)?, Box::new(read_value(stream, raw)?)),
        _ => return Err(malformed(&line)),
    })
}

fn read_line(stream: &mut impl Read, raw: &mut Vec<u8>) -> Result<String> {
    let start = raw.len();
    while !raw[start..].ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        raw.push(byte[0]);
    }
    let line = &raw[start..raw.len() - 2];
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(malformed(&String::from_utf8_lossy(line)));
    }
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn read_bulk(stream: &mut impl Read, raw: &mut Vec<u8>, line: &str) -> Result<Vec<u8>> {
    let start = raw.len();
    let length = length_of(line)?;
    raw.resize(start + length + 2, 0);
    if let Err(error) = stream.read_exact(&mut raw[start..]) {
        raw.truncate(start);
        return Err(error);
    }
    if !raw.ends_with(b"\r\n") {
        return Err(malformed(line));
    }
    Ok(raw[start..start + length].to_vec())
}

fn read_verbatim(stream: &mut impl Read, raw: &mut Vec<u8>, line: &str) -> Result<Value> {
    let text = read_bulk(stream, raw, line)?;
    match text.get(..4) {
        Some([format @ .., b':']) => {
            Ok(Value::Verbatim(String::from_utf8_lossy(format).into_owned(), text[4..].to_vec()))
        }
        _ => Err(malformed(line)),
    }
}

fn read_values(stream: &mut impl Read, raw: &mut Vec<u8>, line: &str) -> Result<Vec<Value>> {
    (0..length_of(line)?).map(|_| read_value(stream, raw)).collect()
}

fn read_pairs(stream: &mut impl Read, raw: &mut Vec<u8>, line: &str) -> Result<Vec<(Value, Value)>> {
    (0..length_of(line)?).map(|_| Ok((read_value(stream, raw)?, read_value(stream, raw)?))).collect()
}

fn length_of(line: &str) -> Result<usize> {
    line[1..].parse().map_err(|_| malformed(line))
}

fn malformed(line: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("not RESP: {line:?}"))
}
