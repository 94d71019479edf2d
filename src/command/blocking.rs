//! Blocked commands: how long they wait, how they are armed again with the time left, and what they answer when it
//! is used up.

use std::time::Duration;

use super::classify::option_operands;
use super::table::Command;
use crate::resp::arguments::Arguments;

/// How long a command may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockTimeout {
    /// Until something comes.
    Forever,
    /// At most so long.
    For(Duration),
}

/// How long `command` with `arguments` (its name among them) waits for an element.
///
/// `None`: it does not wait, or its timeout is not one, which the server answers at once with an error.
#[must_use]
pub fn timeout(command: &Command, arguments: Arguments<'_>) -> Option<BlockTimeout> {
    let (position, unit) = place(command, arguments)?;
    let mut arguments = arguments;
    let word = std::str::from_utf8(arguments.nth(position)?).ok()?;
    let duration = match unit {
        Unit::Seconds => seconds(word.parse().ok()?)?,
        Unit::Milliseconds => Duration::from_millis(word.parse().ok()?),
    };
    Some(if duration.is_zero() { BlockTimeout::Forever } else { BlockTimeout::For(duration) })
}

/// `frame` with `remaining` in the place of its timeout; never less than a millisecond, since zero means for ever.
///
/// A command that waits for ever, or not at all, comes back as it is.
#[must_use]
pub fn with_timeout(command: &Command, frame: &[u8], remaining: Duration) -> Vec<u8> {
    let arguments = Arguments::new(frame);
    let (Some(BlockTimeout::For(_)), Some((place, unit))) = (timeout(command, arguments), place(command, arguments))
    else {
        return frame.to_vec();
    };
    let milliseconds = remaining.as_nanos().div_ceil(NANOSECONDS_PER_MILLISECOND).max(1);
    let word = match unit {
        Unit::Seconds => format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000),
        Unit::Milliseconds => milliseconds.to_string(),
    };
    let mut rewritten = Vec::with_capacity(frame.len() + word.len());
    push_header(&mut rewritten, b'*', arguments.remaining());
    for (position, argument) in arguments.enumerate() {
        let argument = if position == place { word.as_bytes() } else { argument };
        push_header(&mut rewritten, b'$', argument.len());
        rewritten.extend_from_slice(argument);
        rewritten.extend_from_slice(b"\r\n");
    }
    rewritten
}

/// What `command` answers when its time is used up, in RESP2 or RESP3.
#[must_use]
pub fn nil_reply(command: &Command, resp3: bool) -> &'static [u8] {
    match command.name {
        // What there is, which is less than was asked for; nothing is always allowed.
        "ts.read" => b"*0\r\n",
        _ if resp3 => b"_\r\n",
        _ => b"*-1\r\n",
    }
}

/// Servers round a fraction of a millisecond up, so that it does not become zero, which is for ever.
fn seconds(number: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(number).ok()?;
    Some(if number > 0.0 { duration.max(Duration::from_millis(1)) } else { duration })
}

#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
}

/// Which argument is the timeout, and in which unit.
fn place(command: &Command, arguments: Arguments<'_>) -> Option<(usize, Unit)> {
    let position = match command.name {
        "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "brpoplpush" | "blmove" => {
            arguments.remaining().checked_sub(1)?
        }
        "blmpop" | "bzmpop" => 1,
        "blmovem" => 5,
        "xread" | "xreadgroup" => return Some((block_operand(arguments, 1)?, Unit::Milliseconds)),
        "ts.read" => return Some((block_operand(arguments, 3)?, Unit::Milliseconds)),
        _ => return None,
    };
    Some((position, Unit::Seconds))
}

/// The position of BLOCK's operand, options beginning at `first`.
fn block_operand(arguments: Arguments<'_>, first: usize) -> Option<usize> {
    let mut words = arguments.enumerate().skip(first);
    while let Some((position, word)) = words.next() {
        if word.eq_ignore_ascii_case(b"STREAMS") {
            return None;
        }
        if word.eq_ignore_ascii_case(b"BLOCK") {
            return Some(position + 1);
        }
        let operands = option_operands(word);
        if operands > 0 {
            words.nth(operands - 1);
        }
    }
    None
}

fn push_header(frame: &mut Vec<u8>, kind: u8, number: usize) {
    frame.push(kind);
    frame.extend_from_slice(number.to_string().as_bytes());
    frame.extend_from_slice(b"\r\n");
}

const NANOSECONDS_PER_MILLISECOND: u128 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::table;

    fn frame(words: &[&str]) -> Vec<u8> {
        let mut frame = Vec::new();
        push_header(&mut frame, b'*', words.len());
        for word in words {
            push_header(&mut frame, b'$', word.len());
            frame.extend_from_slice(word.as_bytes());
            frame.extend_from_slice(b"\r\n");
        }
        frame
    }

    fn split(line: &str) -> (&'static Command, Vec<u8>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        (table::find(words[0].as_bytes()).unwrap(), frame(&words))
    }

    fn timeout_of(line: &str) -> Option<BlockTimeout> {
        let (command, frame) = split(line);
        timeout(command, Arguments::new(&frame))
    }

    fn rewritten(line: &str, remaining: Duration) -> String {
        let (command, frame) = split(line);
        let rewritten = with_timeout(command, &frame, remaining);
        let words: Vec<&[u8]> = Arguments::new(&rewritten).collect();
        let text: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        assert_eq!(rewritten, self::frame(&text.iter().map(String::as_str).collect::<Vec<_>>()));
        text.join(" ")
    }

    #[test]
    fn each_command_has_its_timeout_in_its_place() {
        let waits = |milliseconds| Some(BlockTimeout::For(Duration::from_millis(milliseconds)));
        let expected = [
            ("BLPOP 7 8 1.5", waits(1500)),
            ("brpop k 2", waits(2000)),
            ("BZPOPMIN k 1e1", waits(10_000)),
            ("BZPOPMAX k .25", waits(250)),
            ("BRPOPLPUSH 8 9 3", waits(3000)),
            ("BLMOVE 8 9 LEFT RIGHT 3", waits(3000)),
            ("BLMPOP 4 1 9 LEFT COUNT 8", waits(4000)),
            ("BZMPOP 4 1 9 MIN", waits(4000)),
            ("XREAD COUNT 9 BLOCK 15 STREAMS k $", waits(15)),
            ("XREADGROUP GROUP block streams BLOCK 15 STREAMS k >", waits(15)),
            ("BLPOP k 0", Some(BlockTimeout::Forever)),
            ("BLPOP k 0.0", Some(BlockTimeout::Forever)),
            ("BLPOP k 1e-9", waits(1)),
            ("XREAD BLOCK 0 STREAMS k $", Some(BlockTimeout::Forever)),
            ("XREAD STREAMS block 5", None),
            ("XREADGROUP GROUP block 5 STREAMS k >", None),
            ("BLPOP k -1", None),
            ("BLPOP k inf", None),
            ("BLPOP k nan", None),
            ("BLPOP k soon", None),
            ("XREAD BLOCK 1.5 STREAMS k $", None),
            ("XREAD BLOCK", None),
            ("BLMPOP", None),
            ("LPOP k 3", None),
        ];
        for (line, timeout) in expected {
            assert_eq!(timeout_of(line), timeout, "{line}");
        }
    }

    #[test]
    fn the_time_left_replaces_the_timeout() {
        let left = Duration::from_micros(1_499_001);
        assert_eq!(rewritten("BLPOP 5 5 5", left), "BLPOP 5 5 1.500");
        assert_eq!(rewritten("BLMPOP 5 1 5 LEFT", left), "BLMPOP 1.500 1 5 LEFT");
        assert_eq!(rewritten("XREAD BLOCK 5000 STREAMS k $", left), "XREAD BLOCK 1500 STREAMS k $");
    }

    #[test]
    fn no_time_left_does_not_become_for_ever() {
        assert_eq!(rewritten("BLPOP k 5", Duration::ZERO), "BLPOP k 0.001");
        assert_eq!(rewritten("XREAD BLOCK 5 STREAMS k $", Duration::from_nanos(1)), "XREAD BLOCK 1 STREAMS k $");
    }

    #[test]
    fn for_ever_stays_for_ever() {
        for line in ["BLPOP k 0", "XREAD BLOCK 0 STREAMS k $", "LPOP k 5"] {
            assert_eq!(rewritten(line, Duration::from_secs(1)), line);
        }
    }

    #[test]
    fn nothing_came() {
        let (command, _) = split("BLMOVE a b LEFT LEFT 1");
        assert_eq!(nil_reply(command, false), b"*-1\r\n");
        assert_eq!(nil_reply(command, true), b"_\r\n");
    }

    proptest! {
        #[test]
        fn a_rewritten_frame_waits_for_the_time_left(left in 0_u64..10_000_000_000, milliseconds in any::<bool>()) {
            let line = if milliseconds { "XREAD BLOCK 5 STREAMS k $" } else { "BZPOPMIN k 5" };
            let (command, frame) = split(line);
            let rewritten = with_timeout(command, &frame, Duration::from_micros(left));
            let expected = Duration::from_millis(left.div_ceil(1000).max(1));
            let Some(BlockTimeout::For(read)) = timeout(command, Arguments::new(&rewritten)) else { panic!("{line}") };
            prop_assert!(read.abs_diff(expected) < Duration::from_micros(1));
        }

        #[test]
        fn damage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..64), which in 0..table::all().len()) {
            let command = &table::all()[which];
            let _ = timeout(command, Arguments::new(&frame));
            let _ = with_timeout(command, &frame, Duration::from_secs(1));
        }
    }
}
