//! What a request is: its entry in the table and the class it travels in.

use super::table::{self, Class, Command, Flags, Pinned};
use crate::resp::arguments::Arguments;

/// A request, classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Its entry, a subcommand's own where there is one; `None`: the table does not have it.
    pub command: Option<&'static Command>,
    /// Where it travels.
    pub class: Class,
}

impl Classified {
    /// A command that the table does not have: on a pin that is closed afterwards, and never repeated.
    pub const UNKNOWN: Self = Self { command: None, class: Class::Pinned(Pinned::Admin) };

    /// Whether it may legally run long, so that silence after it is judged by `slow_timeout`.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        match self.command {
            Some(command) => command.slow,
            None => true,
        }
    }
}

/// Classifies `frame`, a whole multibulk request whose first argument is `name`.
///
/// Looks at nothing but the name, unless the command has subcommands or blocks only with an option.
#[inline]
#[must_use]
pub fn classify(frame: &[u8], name: &[u8]) -> Classified {
    let Some(command) = table::find(name) else { return Classified::UNKNOWN };
    if command.is_container() {
        return classify_container(command, frame);
    }
    let blocks = command.class == Class::Shared && command.flags.has(Flags::BLOCKING) && has_block_option(frame);
    let class = if blocks { Class::Pinned(Pinned::Blocking) } else { command.class };
    Classified { command: Some(command), class }
}

/// A container alone is what its own entry says; a subcommand that the table does not have is unknown,
/// unless the container as a whole travels in a stricter class than a lane.
#[inline(never)]
fn classify_container(container: &'static Command, frame: &[u8]) -> Classified {
    let Some(word) = Arguments::new(frame).nth(1) else {
        return Classified { command: Some(container), class: container.class };
    };
    match (container.subcommand(word), container.class) {
        (Some(command), _) => Classified { command: Some(command), class: command.class },
        (None, Class::Shared) => Classified::UNKNOWN,
        (None, class) => Classified { command: None, class },
    }
}

/// Whether XREAD, XREADGROUP or TS.READ has BLOCK among its options.
///
/// Operands are skipped: a consumer group may be called `streams`. What cannot be read is taken for blocking,
/// since a pin does no harm and a blocked lane does.
#[inline(never)]
fn has_block_option(frame: &[u8]) -> bool {
    let mut arguments = Arguments::new(frame).skip(1);
    while let Some(option) = arguments.next() {
        if option.eq_ignore_ascii_case(b"STREAMS") {
            return false;
        }
        if option.eq_ignore_ascii_case(b"BLOCK") {
            return true;
        }
        let operands = option_operands(option);
        if operands > 0 && arguments.nth(operands - 1).is_none() {
            return true;
        }
    }
    false
}

/// How many operands follow an option of XREAD, XREADGROUP and TS.READ.
pub(super) fn option_operands(option: &[u8]) -> usize {
    const ONE: [&[u8]; 6] = [b"COUNT", b"BLOCK", b"CLAIM", b"MAXCOUNT", b"MAXSIZE", b"MAX_COUNT"];
    if option.eq_ignore_ascii_case(b"GROUP") {
        return 2;
    }
    usize::from(ONE.iter().any(|known| option.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::table::Answered;

    fn frame(words: &[&str]) -> Vec<u8> {
        let mut frame = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            frame.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        frame
    }

    fn classified(line: &str) -> Classified {
        let words: Vec<&str> = line.split_whitespace().collect();
        classify(&frame(&words), words[0].as_bytes())
    }

    #[test]
    fn each_class_has_its_commands() {
        use Class::{Answered as A, Closed, Pinned as P, Refused, Shared};
        let expected = [
            ("GET k", Shared),
            ("sEt k v", Shared),
            ("ECHO x", Shared),
            ("ACL CAT", Shared),
            ("ACL GENPASS", Shared),
            ("PUBSUB CHANNELS", Shared),
            ("PUBLISH c m", Shared),
            ("SPUBLISH c m", Shared),
            ("SORT k STORE d", Shared),
            ("SCAN 0", Class::Cursor),
            ("hscan k 0", Class::Cursor),
            ("XREAD COUNT 1 STREAMS k 0", Shared),
            ("XREAD BLOCK 0 STREAMS k $", P(Pinned::Blocking)),
            ("xread count 1 block 5 streams k $", P(Pinned::Blocking)),
            ("XREADGROUP GROUP g c STREAMS block >", Shared),
            ("XREADGROUP GROUP streams c BLOCK 0 STREAMS k >", P(Pinned::Blocking)),
            ("XREADGROUP GROUP g block COUNT 1 STREAMS k >", Shared),
            ("XREADGROUP GROUP g c NOACK BLOCK 9 STREAMS k >", P(Pinned::Blocking)),
            ("BLPOP k 0", P(Pinned::Blocking)),
            ("MULTI", P(Pinned::Multi)),
            ("EXEC", P(Pinned::Exec)),
            ("DISCARD", P(Pinned::Discard)),
            ("WATCH k", P(Pinned::Watch)),
            ("UNWATCH", P(Pinned::Unwatch)),
            ("EVAL x 0", P(Pinned::Script)),
            ("FCALL_RO f 0", P(Pinned::Script)),
            ("SCRIPT LOAD x", P(Pinned::Script)),
            ("FUNCTION LIST", P(Pinned::Script)),
            ("WAIT 1 0", P(Pinned::Wait)),
            ("WAITAOF 1 0 0", P(Pinned::Wait)),
            ("CLIENT TRACKING on", P(Pinned::Tracking)),
            ("CLIENT CACHING yes", P(Pinned::Tracking)),
            ("CLIENT NO-TOUCH on", P(Pinned::Tracking)),
            ("MONITOR", P(Pinned::Monitor)),
            ("CONFIG GET *", P(Pinned::Admin)),
            ("ACL SETUSER x", P(Pinned::Admin)),
            ("SLOWLOG GET", P(Pinned::Admin)),
            ("LATENCY RESET", P(Pinned::Admin)),
            ("SAVE", P(Pinned::Admin)),
            ("MEMORY USAGE k", P(Pinned::Admin)),
            ("HELLO 3", A(Answered::Hello)),
            ("PING", A(Answered::Ping)),
            ("CLIENT SETNAME x", A(Answered::ClientSetName)),
            ("client no-evict on", A(Answered::ClientNoEvict)),
            ("ACL WHOAMI", A(Answered::AclWhoami)),
            ("CLUSTER SLOTS", A(Answered::Cluster)),
            ("ASKING", A(Answered::Cluster)),
            ("SSUBSCRIBE c", A(Answered::SSubscribe)),
            ("SHUTDOWN", Refused),
            ("DEBUG SLEEP 1", Refused),
            ("MODULE LIST", Refused),
            ("SLAVEOF no one", Refused),
            ("SCRIPT DEBUG yes", Refused),
            ("SWAPDB 0 1", Refused),
            ("POST / HTTP/1.1", Closed),
            ("hOsT: x", Closed),
        ];
        for (line, class) in expected {
            assert_eq!(classified(line).class, class, "{line}");
        }
    }

    #[test]
    fn what_the_table_lacks_goes_to_a_pin_that_is_closed() {
        for line in ["FOO", "get|x", "CLIENT FOO", "CONFIG FOO", "OBJECT FOO k", "XGROUP FOO k"] {
            assert_eq!(classified(line), Classified::UNKNOWN, "{line}");
        }
        assert!(Classified::UNKNOWN.is_slow());
        assert_eq!(classify(&frame(&[""]), b""), Classified::UNKNOWN);
    }

    #[test]
    fn unknown_subcommands_stay_in_a_strict_container() {
        assert_eq!(classified("CLUSTER FOO").class, Class::Answered(Answered::Cluster));
        assert_eq!(classified("MODULE FOO").class, Class::Refused);
        assert_eq!(classified("SCRIPT FOO").class, Class::Pinned(Pinned::Script));
    }

    #[test]
    fn containers_alone_never_reach_a_lane_with_state() {
        assert_eq!(classified("CLIENT").class, Class::Pinned(Pinned::Admin));
        assert_eq!(classified("CONFIG").class, Class::Pinned(Pinned::Admin));
        assert_eq!(classified("OBJECT").class, Class::Shared);
        assert_eq!(classified("COMMAND").class, Class::Shared);
    }

    #[test]
    fn the_subcommand_is_the_entry() {
        assert_eq!(classified("config set a b").command.unwrap().name, "config|set");
        assert_eq!(classified("OBJECT").command.unwrap().name, "object");
    }

    #[test]
    fn slow_is_what_may_legally_run_long() {
        for line in ["KEYS *", "EVAL x 0", "FLUSHALL", "SORT k", "SUNIONSTORE d k", "CONFIG GET *", "VADD k", "FOO"] {
            assert!(classified(line).is_slow(), "{line}");
        }
        for line in ["GET k", "SET k v", "MGET k", "PING", "RESTORE k 0 x", "BLPOP k 0", "XADD k * f v"] {
            assert!(!classified(line).is_slow(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..64), which in 0..table::all().len()) {
            let _ = classify(&frame, table::all()[which].name.as_bytes());
        }
    }
}
