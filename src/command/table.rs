//! The one command table: what every known command and subcommand is, found by name in a few nanoseconds.

use super::retry::Category;
use super::table_data::COMMANDS;

/// Where a command travels. Every command is in exactly one class (contract, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// On a lane, with the commands of other clients.
    Shared,
    /// On a lane too; its reply begins with a cursor, and the cursor carries the epoch.
    Cursor,
    /// On a connection of the client's own.
    Pinned(Pinned),
    /// Nowhere: Handover replies itself.
    Answered(Answered),
    /// Nowhere: the client gets an error.
    Refused,
    /// Nowhere: the client is disconnected without a reply, for it speaks another protocol.
    Closed,
}

/// Why a command needs a connection of the client's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pinned {
    /// Scripts and functions: their error text can inject a reply.
    Script,
    /// Waits for an element.
    Blocking,
    /// Begins a transaction.
    Multi,
    /// Runs it.
    Exec,
    /// Drops it.
    Discard,
    /// Guards keys for the next transaction.
    Watch,
    /// Stops guarding them.
    Unwatch,
    /// Waits for replicas: speaks of the writes of its own connection.
    Wait,
    /// Client-side caching and what belongs to it.
    Tracking,
    /// Streams every command of the server.
    Monitor,
    /// HIMPORT: its field sets live on the connection.
    FieldSets,
    /// Administration, and every command that the table does not have. The connection is closed afterwards.
    Admin,
}

/// Which command it is that Handover answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answered {
    /// HELLO.
    Hello,
    /// AUTH.
    Auth,
    /// SELECT.
    Select,
    /// RESET.
    Reset,
    /// QUIT.
    Quit,
    /// PING.
    Ping,
    /// ACL WHOAMI.
    AclWhoami,
    /// READONLY, READWRITE, ASKING and CLUSTER with any subcommand, as a server without cluster mode.
    Cluster,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// PSUBSCRIBE.
    PSubscribe,
    /// PUNSUBSCRIBE.
    PUnsubscribe,
    /// SSUBSCRIBE.
    SSubscribe,
    /// SUNSUBSCRIBE.
    SUnsubscribe,
    /// CLIENT ID.
    ClientId,
    /// CLIENT INFO.
    ClientInfo,
    /// CLIENT LIST.
    ClientList,
    /// CLIENT SETNAME.
    ClientSetName,
    /// CLIENT GETNAME.
    ClientGetName,
    /// CLIENT SETINFO.
    ClientSetInfo,
    /// CLIENT REPLY.
    ClientReply,
    /// CLIENT KILL.
    ClientKill,
    /// CLIENT UNBLOCK.
    ClientUnblock,
    /// CLIENT PAUSE.
    ClientPause,
    /// CLIENT UNPAUSE.
    ClientUnpause,
    /// CLIENT NO-EVICT.
    ClientNoEvict,
    /// CLIENT GETREDIR.
    ClientGetRedir,
    /// CLIENT TRACKINGINFO.
    ClientTrackingInfo,
    /// CLIENT MAINT_NOTIFICATIONS.
    ClientMaintNotifications,
    /// CLIENT HELP.
    ClientHelp,
}

/// Declares a set of named bits.
macro_rules! bit_set {
    ($(#[$about:meta])* $name:ident { $($bit:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(u32);

        #[expect(missing_docs, reason = "each constant is Redis's word in capitals")]
        impl $name {
            bit_set!(@constants 0; $($bit)+);
        }

        impl $name {
            /// The empty set.
            pub const NONE: Self = Self(0);

            const NAMED: &'static [(&'static str, Self)] = &[$(($text, Self::$bit)),+];

            /// Both sets together.
            #[must_use]
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether the two sets have a member in common.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The member that Redis calls `name`, in lower case.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::NAMED.iter().find(|(text, _)| *text == name).map(|&(_, member)| member)
            }

            /// Redis's words for the members, in the order of their declaration.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMED.iter().filter(move |(_, member)| self.has(*member)).map(|&(text, _)| text)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.debug_set().entries(self.names()).finish()
            }
        }
    };
    (@constants $position:expr; $bit:ident $($rest:ident)*) => {
        pub const $bit: Self = Self(1 << ($position));
        bit_set!(@constants $position + 1; $($rest)*);
    };
    (@constants $position:expr;) => {};
}

bit_set! {
    /// What Redis says of a command in the flags of `COMMAND`.
    Flags {
        ADMIN = "admin", ALLOW_BUSY = "allow_busy", ASKING = "asking", BLOCKING = "blocking", DENYOOM = "denyoom",
        FAST = "fast", LOADING = "loading", MODULE = "module", MOVABLEKEYS = "movablekeys",
        NO_ASYNC_LOADING = "no_async_loading", NO_AUTH = "no_auth", NO_MANDATORY_KEYS = "no_mandatory_keys",
        NO_MULTI = "no_multi", NOSCRIPT = "noscript", PUBSUB = "pubsub", READONLY = "readonly",
        SKIP_MONITOR = "skip_monitor", SKIP_SLOWLOG = "skip_slowlog", STALE = "stale", WRITE = "write",
    }
}

bit_set! {
    /// The ACL categories a command is in; names without the `@`.
    AclCategories {
        ADMIN = "admin", ARRAY = "array", BITMAP = "bitmap", BLOCKING = "blocking", BLOOM = "bloom", CMS = "cms",
        CONNECTION = "connection", CUCKOO = "cuckoo", DANGEROUS = "dangerous", FAST = "fast", GEO = "geo",
        HASH = "hash", HYPERLOGLOG = "hyperloglog", JSON = "json", KEYSPACE = "keyspace", LIST = "list",
        PUBSUB = "pubsub", READ = "read", SCRIPTING = "scripting", SEARCH = "search", SET = "set", SLOW = "slow",
        SORTEDSET = "sortedset", STREAM = "stream", STRING = "string", TDIGEST = "tdigest",
        TIMESERIES = "timeseries", TOPK = "topk", TRANSACTION = "transaction", WRITE = "write",
    }
}

/// One command or subcommand.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Its position in the table, for arrays of counters and the like.
    pub id: u16,
    /// Lower case; `container|subcommand` for a subcommand.
    pub name: &'static str,
    /// Arguments with the name; negative: at least so many.
    pub arity: i16,
    /// Redis's flags.
    pub flags: Flags,
    /// First key, last key (negative: from the end) and step; the first is zero when there is none.
    pub keys: (i8, i8, i8),
    /// Redis's ACL categories.
    pub categories: AclCategories,
    /// Where it travels, as far as its name tells.
    pub class: Class,
    /// Whether it may be repeated, as far as its name tells.
    pub retry: Category,
    /// The reply is the same whatever the state, as far as its name tells.
    pub blind: bool,
    /// It may legally run long.
    pub slow: bool,
    /// Its subcommands' positions in the table: from, to (exclusive).
    pub(super) subcommands: (u16, u16),
}

impl Command {
    /// Whether a request of so many words, its name included, can be one of it.
    #[must_use]
    pub const fn takes(&self, words: usize) -> bool {
        match self.arity {
            least @ ..0 => words >= least.unsigned_abs() as usize,
            exactly => words == exactly as usize,
        }
    }

    /// Whether it has subcommands.
    #[must_use]
    pub const fn is_container(&self) -> bool {
        self.subcommands.0 != self.subcommands.1
    }

    /// Its subcommands; none unless it is a container.
    #[must_use]
    pub fn subcommands(&self) -> &'static [Self] {
        &COMMANDS[usize::from(self.subcommands.0)..usize::from(self.subcommands.1)]
    }

    /// The subcommand called `name` (its last word alone), in whatever case.
    #[must_use]
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Self> {
        let prefix = self.name.len() + 1;
        self.subcommands().iter().find(|command| command.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
    }
}

/// Every command, each container followed by its subcommands; a command's `id` is its position.
#[must_use]
pub fn all() -> &'static [Command] {
    &COMMANDS
}

/// The command called `name`, in whatever case. Subcommands are not found here.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Command> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let word = fold(name);
    let mut slot = slot_of(word);
    loop {
        let entry = &INDEX[slot];
        if entry.name_bytes == 0 {
            return None;
        }
        if entry.word == word && usize::from(entry.name_bytes) == name.len() {
            let command = &COMMANDS[usize::from(entry.position)];
            // A longer name is only hashed by its word.
            if name.len() <= WORD_BYTES || command.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(command);
            }
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// The command or subcommand written as in the table: `get`, `config|set`; in whatever case.
#[must_use]
pub fn find_full(name: &str) -> Option<&'static Command> {
    match name.split_once('|') {
        Some((container, subcommand)) => find(container.as_bytes())?.subcommand(subcommand.as_bytes()),
        None => find(name.as_bytes()),
    }
}

/// Where a name leads: an entry of the index.
#[derive(Clone, Copy)]
struct Entry {
    word: u64,
    /// Zero in an empty slot.
    name_bytes: u8,
    position: u16,
}

/// Slots of the index; a power of two, at most a quarter of them taken.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;
/// So many bytes of a name make up its word.
const WORD_BYTES: usize = size_of::<u64>();
/// Longer names are not looked up.
const NAME_BYTES_MAX: usize = longest_name();
/// Open addressing from a hash of the name to its position in the table.
static INDEX: [Entry; SLOTS] = build_index();

const _: () = assert!(COMMANDS.len() * 4 <= SLOTS, "make the index larger");
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize, "a name too long for the index");

/// The name in lower case as a number: among names of one length up to [`WORD_BYTES`] each has its own.
const fn fold(name: &[u8]) -> u64 {
    let mut word = 0_u64;
    let mut position = 0;
    while position < name.len() {
        word = word.rotate_left(8) ^ name[position].to_ascii_lowercase() as u64;
        position += 1;
    }
    word
}

/// The upper bits of a multiplication depend on all of the word (Fibonacci hashing).
const fn slot_of(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SLOT_BITS)) as usize
}

const fn longest_name() -> usize {
    let mut longest = 0;
    let mut position = 0;
    while position < COMMANDS.len() {
        if COMMANDS[position].name.len() > longest {
            longest = COMMANDS[position].name.len();
        }
        position += 1;
    }
    longest
}

const fn build_index() -> [Entry; SLOTS] {
    let mut index = [Entry { word: 0, name_bytes: 0, position: 0 }; SLOTS];
    let mut position = 0;
    while position < COMMANDS.len() {
        let name = COMMANDS[position].name.as_bytes();
        if !is_subcommand(name) {
            let word = fold(name);
            let mut slot = slot_of(word);
            while index[slot].name_bytes != 0 {
                slot = (slot + 1) % SLOTS;
            }
            index[slot] = Entry { word, name_bytes: name.len() as u8, position: position as u16 };
        }
        position += 1;
    }
    index
}

const fn is_subcommand(name: &[u8]) -> bool {
    let mut position = 0;
    while position < name.len() {
        if name[position] == b'|' {
            return true;
        }
        position += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_every_command_in_any_case_and_no_other() {
        for command in all() {
            let found = find(command.name.to_ascii_uppercase().as_bytes());
            if command.name.contains('|') {
                assert_eq!(found, None, "{} is found only through its container", command.name);
                assert_eq!(find_full(command.name), Some(command));
            } else {
                assert_eq!(found, Some(command));
            }
        }
        assert_eq!(find(b""), None);
        assert_eq!(find(b"getx"), None);
        assert_eq!(find(&[b'a'; 70_000]), None);
        for almost in
            [b"\0get".as_slice(), b"get\0", b"ge\x14", b"\0\0\0\0\0\0\0\0get", b"incrbyfloax", b"xincrbyfloat"]
        {
            assert_eq!(find(almost), None, "{almost:?}");
        }
    }

    #[test]
    fn finds_subcommands_by_their_last_word() {
        let client = find(b"CLIENT").unwrap();
        assert_eq!(client.subcommand(b"No-Touch").unwrap().name, "client|no-touch");
        assert_eq!(client.subcommand(b"client|no-touch"), None);
        assert_eq!(client.subcommand(b""), None);
        assert_eq!(find(b"get").unwrap().subcommand(b"get"), None);
    }

    #[test]
    fn the_position_is_the_id() {
        for (position, command) in all().iter().enumerate() {
            assert_eq!(usize::from(command.id), position);
        }
    }

    #[test]
    fn names_of_bits_lead_back_to_them() {
        let set = AclCategories::READ.and(AclCategories::FAST);
        assert_eq!(set.names().collect::<Vec<_>>(), ["fast", "read"]);
        assert_eq!(AclCategories::named("fast"), Some(AclCategories::FAST));
        assert_eq!(AclCategories::named("@fast"), None);
        assert!(!Flags::WRITE.has(Flags::READONLY));
    }

    proptest! {
        #[test]
        fn what_is_found_bears_the_name(name in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Some(command) = find(&name) {
                prop_assert!(command.name.as_bytes().eq_ignore_ascii_case(&name));
            }
        }

        #[test]
        fn a_damaged_name_is_found_only_when_it_is_another(
            which in 0..COMMANDS.len(),
            place in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut name = COMMANDS[which].name.as_bytes().to_vec();
            let place = place.index(name.len());
            name[place] = byte;
            let bears_it = |command: &&Command| command.name.as_bytes().eq_ignore_ascii_case(&name);
            let searched = all().iter().filter(|command| !command.name.contains('|')).find(bears_it);
            prop_assert_eq!(find(&name), searched);
        }
    }
}
