//! The arguments of one whole request frame.

/// Iterates over the arguments of a complete multibulk frame that the scanner has accepted.
///
/// On anything else it ends early; it never panics.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    rest: &'a [u8],
    remaining: usize,
}

impl<'a> Arguments<'a> {
    /// The arguments of `frame`, which starts with `*` and ends with its last CRLF.
    #[must_use]
    pub fn new(frame: &'a [u8]) -> Self {
        match read_count(frame, b'*') {
            Some((remaining, rest)) => Self { rest, remaining },
            None => Self { rest: &[], remaining: 0 },
        }
    }

    /// How many arguments are still to come, the command's name included.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.remaining
    }
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.remaining == 0 {
            return None;
        }
        let (length, rest) = read_count(self.rest, b'$')?;
        let argument = rest.get(..length)?;
        self.rest = rest.get(length + 2..)?;
        self.remaining -= 1;
        Some(argument)
    }
}

/// Reads `<prefix><digits>\r\n` and returns the number and what follows it.
fn read_count(bytes: &[u8], prefix: u8) -> Option<(usize, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    if first != prefix {
        return None;
    }
    let mut number = 0_usize;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'0'..=b'9' => number = number.checked_mul(10)?.checked_add(usize::from(byte - b'0'))?,
            b'\r' => return Some((number, rest.get(1..)?)),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yields_each_argument() {
        let arguments: Vec<&[u8]> = Arguments::new(b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n").collect();
        assert_eq!(arguments, [b"SET".as_slice(), b"", b"\r\n"]);
    }

    #[test]
    fn ends_early_on_damage() {
        assert_eq!(Arguments::new(b"*2\r\n$3\r\nGET\r\n$9\r\nab").count(), 1);
        assert_eq!(Arguments::new(b"PING\r\n").count(), 0);
        assert_eq!(Arguments::new(b"*99999999999999999999999\r\n").count(), 0);
    }
}
